"""Files of other tools become runs that are compared and judged, as far as they can be."""

import gzip
import io
import json
import random
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from perf_recordings import record
from synthetic import SHOP, synthetic_measurement
from test_cli import call

from ci_flame import imported
from ci_flame.baseline import folder
from ci_flame.errors import CiFlameError, FormatError, UsageError
from ci_flame.formats import pprof
from ci_flame.imported import Wanted
from ci_flame.profile import Mode, Unit, fold

DATA = Path(__file__).parent / "data"
COSTS = {
    "main;shop:api;shop:parse;shop:tokenize": 30,
    "main;shop:api;shop:parse;shop:compile": 15,
    "main;shop:api;shop:store": 20,
    "main;shop:api;shop:render;shop:html": 20,
    "main;shop:api;shop:render;shop:escape": 10,
    "main;shop:api": 5,
}


def written(path, seed, grown=1.0, samples=5000):
    """Write folded stacks as a sampler would: some spread, and counts that are drawn."""
    generator = random.Random(seed)  # noqa: S311 - samples, not secrets
    cost = {
        stack: value * (grown if "tokenize" in stack else 1) * generator.lognormvariate(0, 0.01)
        for stack, value in COSTS.items()
    }
    counts: dict[str, int] = {}
    for stack in generator.choices(list(cost), list(cost.values()), k=samples):
        counts[stack] = counts.get(stack, 0) + 1
    path.write_text("".join(f"{stack} {count}\n" for stack, count in sorted(counts.items())))
    return path.name


@pytest.fixture
def here(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    return tmp_path


def load(*paths, **options):
    return imported.load([Path(path) for path in paths], Wanted(**options))


# -- a team's own files, end to end ---------------------------------------------------


@pytest.mark.parametrize(
    ("grown", "samples", "code", "sentence"),
    [
        (1.5, 5000, 1, r"imported: shop:tokenize grew by \d+ %"),
        (1.0, 5000, 0, "imported PASS"),
        (1.0, 12_000, 0, "imported PASS"),
    ],
)
def test_three_files_a_side_are_judged(here, grown, samples, code, sentence):
    """How long a file was recorded says nothing of the code: 12,000 samples are no growth."""
    before = [written(here / f"a{n}.folded", n) for n in range(3)]
    after = [written(here / f"b{n}.folded", 10 + n, grown, samples) for n in range(3)]
    told = call("import", *before, "-o", "before", check=0)
    call("import", *after, "-o", "after", check=0)

    assert "3 files of folded, 15000 samples; before" in told.stderr
    assert "growth of everything together cannot be seen" in told.stderr
    assert re.search(sentence, call("compare", "before", "after", check=code).stdout)


def test_single_files_are_inconclusive_whatever_they_hold(here):
    before, after = written(here / "a.folded", 1), written(here / "b.folded", 2, 3.0)
    told = call("import", before, "-o", "before", check=0)
    call("import", after, "-o", "after", check=0)

    assert "a comparison is inconclusive; import several of each side" in told.stderr
    found = call("compare", "before", "after", check=0).stdout
    assert "not comparable: files of imported: 1, 1" in found
    assert "shop:tokenize" in found


def imported_sides(here, scale, options, *, grown=1.0, files=4, costs=None):
    """Import both sides; the other one's files hold `scale` times as many samples."""
    for side, seed, factor, more in (("a", 0, 1, 1.0), ("b", 50, scale, grown)):
        names = []
        for number in range(files):
            path = here / f"{side}{number}.folded"
            if costs is None:
                written(path, seed + number, more, round(5000 * factor))
            else:
                path.write_text(
                    "".join(f"{s} {round((c + number) * factor)}\n" for s, c in costs.items())
                )
            names.append(path.name)
        call("import", *names, *options, "-o", side, check=0)


FEW = {"main;a": 600, "main;b": 300, "main;c": 50}
"""No function mix that has a centre."""


@pytest.mark.parametrize("options", [("--iterations", "100"), ("--seconds", "10")])
@pytest.mark.parametrize(
    ("costs", "scale"), [(None, 2), (FEW, 3)], ids=["a mix of functions", "few functions"]
)
def test_work_that_is_told_shows_growth_of_everything(here, options, costs, scale):
    imported_sides(here, scale, (*options, "--frequency", "1000"), costs=costs)
    found = call("compare", "a", "b", check=1).stdout
    if costs is None and options[0] == "--iterations":
        (each,) = folder.load(here / "a").measurements[0].processes[0].rounds
        assert (each.iterations, each.cpu_ns) == (100, 5_000_000_000)
        assert "50 -> 100 ms per iteration" in found

    assert re.search(rf"\+{(scale - 1) * 100}(\.\d)? %", found)
    assert "grew by" in found
    assert f"CPU time per iteration moved by +{(scale - 1) * 100} %" in found


def test_work_that_is_told_still_shows_one_function_against_the_others(here):
    """Within what machines make of the same code, functions are compared with each other."""
    imported_sides(here, 1.1, ("--iterations", "100", "--frequency", "1000"), grown=1.5)
    found = call("compare", "a", "b", check=1).stdout

    assert re.search(r"shop:tokenize grew by [45]\d %", found)
    assert "functions are compared with each other; growth of all of them together" in found


def test_the_same_work_on_a_slower_day_is_no_growth(here):
    imported_sides(here, 1.15, ("--iterations", "100", "--frequency", "1000"))
    found = call("compare", "a", "b", check=0).stdout

    assert "imported PASS" in found
    assert re.search(r"CPU time per iteration moved by \+1\d %", found)
    assert re.search(r"growth of all of them together is noticed from \d+ % on", found)


def test_work_that_one_side_alone_tells_is_not_compared(here):
    imported_sides(here, 1, ("--frequency", "1000"))
    names = [f"b{number}.folded" for number in range(4)]
    call("import", *names, "--iterations", "100", "--frequency", "1000", "-o", "told", check=0)
    there = call("compare", "a", "told", check=0).stdout
    back = call("compare", "told", "a", check=0).stdout

    nothing, known = "neither --iterations nor --seconds", "--iterations or --seconds"
    assert f"not comparable: imported with: {nothing}, {known}; import both sides" in there
    assert f"not comparable: imported with: {known}, {nothing}; import both sides" in back


def test_a_file_of_just_one_second_goes_with_either(here):
    """1,000 samples at 1,000 Hz are what untold work is taken for: nothing contradicts it."""
    one = {"main;a": 600, "main;b": 400}
    for side, scale in (("a", 1), ("b", 3)):
        for number in range(2):
            text = "".join(f"{stack} {count * scale}\n" for stack, count in one.items())
            (here / f"{side}{number}.folded").write_text(text)
        names = [f"{side}{number}.folded" for number in range(2)]
        call("import", *names, "--iterations", "1", "--frequency", "1000", "-o", side, check=0)

    assert "1.00 s -> 3.00 s per iteration" in call("compare", "a", "b", check=1).stdout


def test_other_formats_are_not_compared(here):
    files = [written(here / f"a{n}.folded", n) for n in range(2)]
    call("import", *files, "-o", "before", check=0)
    text = (DATA / "bpftrace" / "stacks.txt").read_text()
    for name in ("x.txt", "y.txt"):
        (here / name).write_text(text)
    call("import", "x.txt", "y.txt", "--map", "@plain", "-o", "after", check=0)

    found = call("compare", "before", "after", check=0).stdout
    assert "collector: import:folded, import:bpftrace" in found


def test_off_cpu_times_are_judged_as_waiting(here):
    """offcputime counts microseconds; twice the wait is twice the cost."""
    text = (DATA / "bcc" / "offcputime.txt").read_text()
    for side, factor in (("a", 1), ("b", 2)):
        for number in range(3):
            waited = 200_312 * factor + number * 1000
            (here / f"{side}{number}.txt").write_text(text.replace("200312", str(waited)))
        files = [f"{side}{number}.txt" for number in range(3)]
        told = call("import", *files, "-o", side, check=0)
    run = folder.load(here / "a")
    profile = run.measurements[0].processes[0].rounds[0].profiles[Mode.OFF_CPU]

    assert "every file is taken to cover the same work" in told.stderr
    assert (profile.unit, profile.value) == (Unit.NANOSECONDS, 200_312_000)
    assert run.environment.event == "off-cpu"
    assert (here / "a" / "run.json").exists()


@pytest.mark.root
@pytest.mark.skipif(shutil.which("perf") is None, reason="perf is not installed")
def test_a_recording_with_copied_stacks_is_unwound(here):
    """Without frame pointers the callers are known by call frame information alone."""
    (here / "shop.c").write_text(
        "volatile unsigned long sink;\n"
        "__attribute__((noinline)) void spin(long n) { while (n--) sink += n; }\n"
        "__attribute__((noinline)) void heavy(long n) { char room[256]; room[n & 7] = 1;\n"
        "  spin(n); sink += room[0]; }\n"
        "int main(void) { for (int i = 0; i < 500; i++) heavy(5000000); return 0; }\n"
    )
    subprocess.run(["cc", "-O1", "-fomit-frame-pointer", "shop.c", "-o", "shop"], check=True)
    for kind in ("dwarf,4096", "fp"):
        record(here / f"{kind}.data", "./shop", options=("--call-graph", kind), hertz=999)
    (unwound, pointers) = (
        load(f"{kind}.data").run.measurements[0].processes[0].rounds[0].profiles[Mode.ON_CPU]
        for kind in ("dwarf,4096", "fp")
    )
    whole = sum(
        weight.samples
        for stack, weight in unwound.stacks.items()
        if [str(frame).rpartition(":")[2] for frame in stack][-3:] == ["main", "heavy", "spin"]
    )
    seen = sum(
        weight.samples
        for stack, weight in pointers.stacks.items()
        if "native:shop:heavy" in map(str, stack)
    )

    assert unwound.samples > 200
    assert whole > 0.9 * unwound.samples
    assert seen < 0.1 * pointers.samples


# -- formats --------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("file", "form", "event", "samples", "options"),
    [
        ("perf_script/tree.txt", "perf-script", "cpu-clock", None, {}),
        ("bpftrace/kstack-ustack-comm.txt.gz", "bpftrace", "samples", 1452, {}),
        ("bpftrace/kstack-ustack-comm.json", "bpftrace", "samples", 602, {}),
        ("bcc/profile.txt", "bcc", "cpu-clock", 46, {}),
        ("bcc/profile.folded", "folded", "samples", 50, {}),
        ("bcc/profile.folded", "bcc", "cpu-clock", 50, {"form": "bcc"}),
        ("pprof/node-wall.pb.gz", "pprof", "cpu", None, {}),
    ],
)
def test_every_format_is_told_by_its_content(file, form, event, samples, options):
    found = load(DATA / file, **options)
    (process,) = found.run.measurements[0].processes

    assert found.run.environment.collector == f"import:{form}"
    assert found.run.environment.event == event
    assert samples is None or process.kept == samples
    assert process.kept > 0


def test_what_we_exported_comes_back(here):
    measured = synthetic_measurement(SHOP)
    (here / "x.pb.gz").write_bytes(pprof.write(measured, Mode.ON_CPU))
    found = load(here / "x.pb.gz").run.measurements[0]

    assert dict(found.profile().stacks) == dict(measured.profile().stacks)


def test_names_are_cleaned_as_in_a_recording(here):
    (here / "x.folded").write_text("main;shop::parse(int, char const*).constprop.0 5\n")
    profile = load(here / "x.folded").run.measurements[0].profile()

    assert list(map(fold, profile.stacks)) == ["main;shop::parse"]


def test_times_count_as_a_sample_per_millisecond(here):
    """So that microseconds do not look like a million independent looks."""
    (here / "x.folded").write_text("main;f 3500\nmain;g 10\nmain;h 0\n")
    profile = load(here / "x.folded", mode=Mode.OFF_CPU).run.measurements[0].profile(Mode.OFF_CPU)

    assert sorted((w.samples, w.value) for w in profile.stacks.values()) == [
        (0, 0), (1, 10_000), (3, 3_500_000),
    ]  # fmt: skip


def test_seconds_make_a_second_the_iteration(here):
    (here / "x.folded").write_text("main;f 300\n")
    (each,) = load(here / "x.folded", seconds=2.5, frequency_hz=100).run.measurements[0].processes
    (window,) = each.rounds

    assert (window.iterations, window.wall_ns) == (2, 2_500_000_000)
    assert window.cpu_ns / window.iterations == pytest.approx(1.2e9)  # 3 s in 2.5 s
    # What is shown without a baseline is what is compared with one.
    profile = window.profiles[Mode.ON_CPU]
    assert profile.value / profile.iterations == pytest.approx(1.2e9)
    assert profile.samples == 300


@pytest.mark.parametrize("members", [1, 3, 40_000])
def test_gzip_of_many_members_is_read_whole(here, members):
    """Each is 20 bytes and more; 40,000 of them would be copied 40,000 times."""
    empty = gzip.compress(b"")
    parts = [gzip.compress(b"main;f 3\n"), *[empty] * (members - 2), gzip.compress(b"main;g 4\n")]
    (here / "x.gz").write_bytes(b"".join(parts[-members:]))
    profile = load(here / "x.gz").run.measurements[0].profile(Mode.ON_CPU)

    assert profile.samples == (4 if members == 1 else 7)


def test_each_file_is_a_benchmark(here):
    (here / "api.folded.gz").write_bytes(gzip.compress(b"main;f 3\n"))
    (here / "store.txt").write_text("main;g 3\n")
    run = load(here / "api.folded.gz", here / "store.txt", each=True).run

    assert [each.benchmark for each in run.measurements] == ["api", "store"]


def test_other_maps_of_bpftrace_are_metrics(here):
    (here / "x.txt").write_text("@[\n    f+1\n, x]: 3\n@reads[bash]: 7\n")
    (process,) = load(here / "x.txt").run.measurements[0].processes

    assert process.metrics == {"bpftrace.import.@reads[bash]": 7.0}


def test_standard_input(here, monkeypatch):
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(b"main;f 3\n")))
    told = call("import", "-", "-o", "run", check=0)

    assert "1 file of folded, 3 samples; run" in told.stderr


# -- what is refused ------------------------------------------------------------------


@pytest.mark.parametrize(
    ("content", "words", "code", "message"),
    [
        (b"", [], 2, "x: empty: 0 samples"),
        (b"\n\n", [], 2, "x: empty: 0 samples"),
        (b"hello\n", [], 2, "x: no format that is known here; it begins with b'hello"),
        (b"main;f 0\n", [], 2, "x: folded: 0 samples"),
        (b"main;f 3\nx\n", ["--from", "folded"], 2, "x:2: not `frame;frame NUMBER`"),
        (b"main;f 3\n", ["--from", "bpftrace"], 2, "it looks like folded: --from folded"),
        (b"main;f 3\n", ["--from", "foldet"], 2, '"foldet" is not known; did you mean "folded"?'),
        (b"main;f 3\n", ["--mode", "off"], 2, '--mode: "off" is not known'),
        (b"main;f 3\n", ["--unit", "m"], 2, '--unit: "m" is not known'),
        (b"main;f 3\n", ["--iterations", "5"], 2, "x counts samples, and nothing says how long"),
        (b"main;f 3\n", ["--iterations", "0"], 2, "--iterations 0 is outside 1 to 1e+12"),
        (b"main;f 3\n", ["--seconds", "0"], 2, "--seconds 0 is outside 0.001 to 1e+07"),
        (b"main;f 3\n", ["--seconds", "nan"], 2, "--seconds nan is outside"),
        (b"main;f 3\n", ["--frequency", "0"], 2, "--frequency 0 is outside 1 to 100000"),
        (b"main;f 3\n", ["--mode", "off-cpu", "--unit", "samples"], 2, "tell no waiting time"),
        (b"main;f 3\n", ["--each", "--name", "y"], 2, "--each names benchmarks by their files"),
        (b"main;f 3\n", ["--name", " "], 2, "' ' is not a name"),
        (gzip.compress(b"main;f 3\n")[:-9], [], 2, "x: truncated: gzip data ends after"),
        (b"\x1f\x8bjunk", [], 2, "x: broken gzip data after 0 bytes"),
        (gzip.compress(bytes(50 << 20)), [], 2, "x: unpacks to more than 200 times its"),
    ],
)
def test_refusals(here, content, words, code, message):
    (here / "x").write_bytes(content)
    told = call("import", "x", "-o", "run", *words, check=code)

    assert message in told.stderr
    assert "Traceback" not in told.stderr
    assert not (here / "run").exists()


def test_files_that_are_missing_or_no_files(here):
    (here / "d").mkdir()

    assert "nowhere cannot be read: No such file" in call("import", "nowhere", check=2).stderr
    assert "d is not a file" in call("import", "d", check=2).stderr


def test_files_that_do_not_belong_together(here):
    (here / "a.folded").write_text("main;f 3\n")
    (here / "b.txt").write_text("@[\n    f+1\n]: 3\n")
    (here / "d").mkdir()
    (here / "d" / "a.folded").write_text("main;f 3\n")

    with pytest.raises(UsageError, match=r"is folded, .* is bpftrace: one run holds one format"):
        load(here / "a.folded", here / "b.txt")
    with pytest.raises(UsageError, match="is given twice"):
        load(here / "a.folded", here / "a.folded")
    with pytest.raises(UsageError, match="two files are called a"):
        load(here / "a.folded", here / "d" / "a.folded", each=True)


def test_a_folder_that_is_no_run_is_not_replaced(here):
    (here / "x").write_text("main;f 3\n")
    (here / "kept").mkdir()
    (here / "kept" / "thesis.txt").write_text("mine")
    call("import", "x", "-o", "kept", check=2)

    assert [each.name for each in (here / "kept").iterdir()] == ["thesis.txt"]


@pytest.mark.parametrize("name", ["MAX_FILE", "MAX_PLAIN", "MAX_FILES"])
def test_limits(here, monkeypatch, name):
    text = b"main;f 3\n"
    (here / "x").write_bytes(gzip.compress(text) if name == "MAX_PLAIN" else text)
    (here / "y").write_bytes(text)
    files = [here / "x", here / "y"] if name == "MAX_FILES" else [here / "x"]
    limit = 2 if name == "MAX_FILES" else len(text)
    monkeypatch.setattr(imported, name, limit)

    assert load(*files).run.measurements
    monkeypatch.setattr(imported, name, limit - 1)
    with pytest.raises(CiFlameError, match=f"limit|{limit - 1}"):
        load(*files)


def test_events_are_not_mixed(here):
    lines = (DATA / "perf_script" / "tree.txt").read_text()
    (here / "x").write_text(lines + lines.replace("cpu-clock", "cycles"))

    with pytest.raises(FormatError, match="samples of several events: cpu-clock, cycles"):
        load(here / "x")
    assert load(here / "x", event="cycles").run.environment.event == "cycles"


def test_an_imported_run_has_its_page(here):
    (here / "x").write_text("main;f 300\n")
    call("import", "x", "-o", "run", check=0)
    call("report", "run", "-o", "x.html", check=0)

    assert "main" in (here / "x.html").read_text()
    assert json.loads((here / "run" / "run.json").read_text())["environment"]["cpu_model"] == ""
