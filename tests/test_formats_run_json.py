"""run.json: one line per thing that can be wrong in it, and what the file looks like."""

import copy
import json

import pytest

from ci_flame.errors import FormatError
from ci_flame.formats import run_json
from ci_flame.profile import (
    Count,
    Environment,
    Frame,
    Histogram,
    Kind,
    Measurement,
    Mode,
    Place,
    Process,
    Profile,
    Round,
    Run,
    Unit,
    Weight,
)

BENCH = Frame("test_x", "tests.bench")
EMPTY = Profile({}, Unit.NANOSECONDS, 7)
RUN = Run(
    Environment("x86_64", "Xeon", 2, "6.1", "3.11.7", "ebpf", "cpu-clock", 1999, "0.1.0"),
    (
        Measurement(
            "tests/bench.py::test_x",
            (
                Process(
                    (
                        Round(7, 70, 80, 1, {"core": (3, 4)}, {Mode.ON_CPU: EMPTY}),
                        Round(7, 71, 81, 2, {}, {}, dropped="lost samples", steal_ns=5),
                    ),
                    counts={BENCH: Count(1, None), Frame("f", "c", Kind.NATIVE): Count(2, 9)},
                    metrics={"run_queue.p99_ms": 0.25},
                    histograms={"run_queue": Histogram({9: 3, 4: 120})},
                ),
            ),
            BENCH,
            {Frame("f", "c", Kind.NATIVE): Place("src/c.c", 3)},
        ),
    ),
    commit="0123abc",
    time="2026-11-22T10:00:00+00:00",
)
TEXT = """{
 "format": "ci-flame run",
 "schema_version": 1,
 "complete": true,
 "time": "2026-11-22T10:00:00+00:00",
 "commit": "0123abc",
 "dirty": false,
 "environment": {
  "architecture": "x86_64",
  "cpu_model": "Xeon",
  "cores": 2,
  "kernel": "6.1",
  "python": "3.11.7",
  "collector": "ebpf",
  "event": "cpu-clock",
  "frequency_hz": 1999,
  "ci_flame": "0.1.0",
  "layout": "random"
 },
 "benchmarks": [
  {
   "id": "tests/bench.py::test_x",
   "root": ["python","tests.bench","test_x"],
   "profiles": {
    "on-cpu": "profiles/tests-bench-py-test-x-4eb1efc5.on-cpu.pb.gz"
   },
   "processes": [
    {
     "kept": 0,
     "lost": 0,
     "expected": 0,
     "truncated": 0,
     "unrooted": 0,
     "warm_up_ns": 0,
     "settled": true,
     "metrics": {
      "run_queue.p99_ms": 0.25
     },
     "histograms": {
      "run_queue": [[4,120],[9,3]]
     },
     "counts": [
      ["native","c","f",2,9],
      ["python","tests.bench","test_x",1,null]
     ],
     "rounds": {
      "iterations": [7,7],
      "cpu_ns": [70,71],
      "wall_ns": [80,81],
      "run_delay_ns": [1,2],
      "steal_ns": [0,5],
      "references": {
       "core": [[3,4],null]
      },
      "dropped": {
       "1": "lost samples"
      },
      "modes": {
       "on-cpu": {
        "unit": "nanoseconds",
        "rounds": [0],
        "iterations": null
       }
      }
     }
    }
   ],
   "places": [
    ["native","c","f","src/c.c",3]
   ]
  }
 ]
}
"""


def test_the_file_is_what_the_page_shows():
    text = run_json.encode(RUN)
    name = run_json.file_name("tests/bench.py::test_x", Mode.ON_CPU)

    assert text == TEXT.replace("profiles/tests-bench-py-test-x-4eb1efc5.on-cpu.pb.gz", name)


def test_decode_returns_the_run_and_its_files():
    stored = run_json.decode(run_json.encode(RUN), "run.json")

    assert stored.run == RUN
    assert stored.files == {
        "tests/bench.py::test_x": {
            Mode.ON_CPU: run_json.file_name("tests/bench.py::test_x", Mode.ON_CPU)
        }
    }


@pytest.mark.parametrize(
    ("name_of", "slug"),
    [
        ("tests/bench_shop.py::test_checkout[a-ü/..]", "tests-bench-shop-py-test-checkout-a"),
        ("../../etc/passwd", "etc-passwd"),
        ("漢字", "benchmark"),
        ("x" * 200, "x" * 80),
        ("x" * 79 + "//y", "x" * 79),
    ],
)
def test_file_names_are_readable_and_stay_inside(name_of, slug):
    name = run_json.file_name(name_of, Mode.OFF_CPU)
    folder, _, file = name.partition("/")

    assert folder == "profiles"
    assert file[: -len("-01234567.off-cpu.pb.gz")] == slug
    assert "/" not in file
    assert len(file) <= 80 + 9 + len(".off-cpu.pb.gz")
    assert run_json.file_name(name_of + " ", Mode.OFF_CPU) != name


def test_names_that_differ_in_case_only_get_different_files():
    """Some file systems take `A` for `a`; the digits differ."""
    one, two = (run_json.file_name(name, Mode.ON_CPU).lower() for name in ("t[A]", "t[a]"))

    assert one != two


def document():
    return json.loads(run_json.encode(RUN))


def benchmark(made):
    return made["benchmarks"][0]


def process(made):
    return benchmark(made)["processes"][0]


def histograms(made):
    return process(made)["histograms"]


def rounds(made):
    return process(made)["rounds"]


def mode(made):
    return rounds(made)["modes"]["on-cpu"]


def add(made, **entries):
    made.update(entries)


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        (lambda d: add(d, format="pprof"), "the document: format is not 'ci-flame run'"),
        (lambda d: add(d, schema_version="1"), "schema_version: a string; an integer is needed"),
        (lambda d: add(d, schema_version=True), "schema_version: true or false; an integer is"),
        (lambda d: add(d, extra=1), "the document: unknown key 'extra'"),
        (lambda d: d.pop("dirty"), "the document: dirty is missing"),
        (lambda d: add(d, dirty=0), "dirty: a number; true or false is needed"),
        (lambda d: add(d, commit=None), "commit: null; a string is needed"),
        (lambda d: add(d, commit="x" * 65_537), "commit: a string of 65537 characters; the limit"),
        (lambda d: add(d, time="\ud800"), "time: a string with half a character"),
        (lambda d: add(d, benchmarks={}), "benchmarks: an object; a list is needed"),
        (lambda d: add(d, environment=[]), "environment: a list; an object is needed"),
        (lambda d: d["environment"].pop("cores"), "environment: cores is missing"),
        (lambda d: add(d["environment"], cores=-1), "environment.cores: -1 is not within 0 to"),
        (lambda d: add(d["environment"], cores=2.0), "environment.cores: a number; an integer"),
        (lambda d: add(d["environment"], cores=2**63), "is not within 0 to 2^63-1"),
        (lambda d: add(d["environment"], host="x"), "environment: unknown key 'host'"),
        (lambda d: add(benchmark(d), id=""), "benchmarks[0]: the id is empty"),
        (lambda d: add(benchmark(d), root=["python", "m"]), "benchmarks[0].root: 2 entries; 3"),
        (lambda d: add(benchmark(d), root=["rust", "m", "f"]), "'rust' is not one of python, nat"),
        (lambda d: add(benchmark(d), root=["python", "m", ""]), "a frame without a function name"),
        (lambda d: benchmark(d)["profiles"].clear(), "the modes of its rounds are not those of"),
        (lambda d: add(benchmark(d)["profiles"], wall="x"), "'wall' is not one of on-cpu, off-cpu"),
        (
            lambda d: add(benchmark(d)["profiles"], a="", b=""),
            "profiles: 3 entries; the limit is 2",
        ),
        (lambda d: d["benchmarks"].append(benchmark(d)), "two benchmarks with the id tests/bench"),
        (
            lambda d: d["benchmarks"].append({**benchmark(d), "id": "other"}),
            "the document: two benchmarks share a file",
        ),
        (lambda d: benchmark(d)["places"].append([1]), "benchmarks[0].places[1]: 1 entries; 5 are"),
        (lambda d: add(process(d), kept=None), "benchmarks[0].processes[0].kept: null; an integer"),
        (lambda d: add(process(d), settled="yes"), "settled: a string; true or false is needed"),
        (lambda d: add(process(d), notes="x"), "processes[0].notes: a string; a list is needed"),
        (lambda d: add(process(d), notes=[1]), "notes[0]: a number; a string is needed"),
        (lambda d: add(process(d), notes=["x"] * 1001), "notes: 1001 entries; the limit is 1000"),
        (lambda d: add(process(d)["metrics"], x="1"), "metrics['x']: a string; a number is needed"),
        (lambda d: add(process(d)["metrics"], x=10**400), "metrics['x']: the number is too large"),
        (lambda d: add(histograms(d), x=[[256, 1]]), "x'][0]: bucket 256; 255 is the last one"),
        (lambda d: add(histograms(d), x=[[10**12, 1]]), "bucket 1000000000000; 255 is the last"),
        (lambda d: add(histograms(d), x=[[3, 1], [3, 2]]), "x'][1]: bucket 3 is there twice"),
        (lambda d: add(histograms(d), x=[[3, 1, 2]]), "histograms['x'][0]: 3 entries; 2 are"),
        (lambda d: process(d)["counts"][0].pop(), "counts[0]: 4 entries; 5 are needed"),
        (lambda d: rounds(d)["cpu_ns"].pop(), "rounds.cpu_ns: 1 entries; 2 are needed"),
        (lambda d: add(rounds(d), cpu_ns=[1, "2"]), "rounds.cpu_ns[1]: a string; an integer is"),
        (lambda d: add(rounds(d), iterations=[7, 0]), "0 iterations in a round"),
        (lambda d: add(rounds(d)["dropped"], x="why"), "'x' is not a position in a list of 2"),
        (lambda d: add(rounds(d)["dropped"], **{"2": "y"}), "'2' is not a position in a list of 2"),
        (lambda d: add(rounds(d)["dropped"], **{"²": "y"}), "'²' is not a position in a list"),
        (lambda d: add(rounds(d)["references"], core=[[1]]), "references['core']: 1 entries; 2"),
        (lambda d: add(rounds(d)["references"], core=[[1], [-1]]), "['core'][1][0]: -1 is not"),
        (lambda d: add(mode(d), unit="bytes"), "'bytes' is not one of samples, nanoseconds"),
        (lambda d: add(mode(d), rounds=[2]), "a round is there twice, or above 1, the last one"),
        (lambda d: add(mode(d), rounds=[0, 0]), "a round is there twice, or above 1, the last"),
        (lambda d: add(mode(d), iterations=[1, 2]), "iterations: 2 entries; 1 are needed"),
        (lambda d: add(mode(d), iterations=[0]), "0 iterations; at least 1 is needed"),
    ],
)
def test_what_is_wrong_is_named_with_its_place(change, sentence):
    made = copy.deepcopy(document())
    change(made)

    with pytest.raises(FormatError) as error:
        run_json.decode(json.dumps(made), "baseline/run.json")
    assert error.value.message.startswith("baseline/run.json: ")
    assert sentence in error.value.message


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("", "broken or truncated JSON at line 1, column 1"),
        ("[]", "the document: a list; an object is needed"),
        ('{"a": 1, "a": 2}', "the key 'a' is there twice in one object"),
        ('{"a": NaN}', "NaN is not a number here"),
        ('{"a": -Infinity}', "-Infinity is not a number here"),
        ('{"a": ' + "9" * 5000 + "}", "a number is too long"),
        ("[" * 100_000, "JSON nested too deeply"),
        ("{}", "the document: format is missing"),
    ],
)
def test_what_is_not_the_json_we_write_is_refused(text, sentence):
    with pytest.raises(FormatError) as error:
        run_json.decode(text, "run.json")
    assert sentence in error.value.message


@pytest.mark.parametrize(
    ("limit", "place"),
    [
        ("MAX_BENCHMARKS", "benchmarks"),
        ("MAX_PROCESSES", "processes"),
        ("MAX_ROUNDS", "iterations"),
    ],
)
def test_numbers_of_things_are_limited(monkeypatch, limit, place):
    text = run_json.encode(RUN)
    number = 2 if limit == "MAX_ROUNDS" else 1
    monkeypatch.setattr(run_json, limit, number)
    assert run_json.decode(text, "x").run == RUN
    monkeypatch.setattr(run_json, limit, number - 1)

    with pytest.raises(FormatError, match=f"{place}: {number} entries; the limit is {number - 1}"):
        run_json.decode(text, "x")


def test_profile_iterations_that_differ_from_the_rounds_are_kept():
    odd = Profile({(BENCH,): Weight(1, 1)}, Unit.SAMPLES, 3)
    run = Run(
        RUN.environment,
        (Measurement("t", (Process((Round(7, 1, 1, profiles={Mode.OFF_CPU: odd}),)),)),),
    )
    (measurement,) = run_json.decode(run_json.encode(run), "x").run.measurements
    profile = measurement.processes[0].rounds[0].profiles[Mode.OFF_CPU]

    assert (profile.iterations, profile.unit) == (3, Unit.SAMPLES)


def test_text_is_limited(monkeypatch):
    text = run_json.encode(RUN)
    monkeypatch.setattr(run_json, "MAX_TEXT", len(text))
    assert run_json.decode(text, "x").run == RUN
    monkeypatch.setattr(run_json, "MAX_TEXT", len(text) - 1)

    with pytest.raises(FormatError, match=f"x: {len(text)} characters; the limit is"):
        run_json.decode(text, "x")


def test_benchmarks_that_would_share_a_file_are_refused(monkeypatch):
    """Eight digits of a hash can agree by chance; nothing is then overwritten silently."""
    (one,) = RUN.measurements
    two = Run(RUN.environment, (one, Measurement("other", one.processes)))
    assert run_json.encode(two)
    monkeypatch.setattr(run_json, "file_name", lambda _benchmark, mode: f"profiles/x.{mode}.pb.gz")

    with pytest.raises(FormatError, match=r"two benchmarks would share profiles/x\.on-cpu\.pb\.gz"):
        run_json.encode(two)
