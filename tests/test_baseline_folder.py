"""Run folders: what was saved comes back; what was not written by us is refused by name."""

import json
import os
import resource
import subprocess
import sys
import tempfile
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from strategies import runs

from ci_flame.baseline import folder
from ci_flame.errors import BaselineError, CiFlameError, FormatError
from ci_flame.formats import pprof, run_json
from ci_flame.profile import (
    Environment,
    Frame,
    Kind,
    Measurement,
    Mode,
    Place,
    Process,
    Profile,
    Round,
    Run,
    Weight,
)

ROOT = Frame("test_checkout", "tests.bench_shop")
PARSE = Frame("tokenize", "shop.parser")
ENVIRONMENT = Environment("x86_64", "Xeon", 2, "6.1", "3.11.7", "ebpf", "cpu-clock", 1999, "0.1.0")


def run(benchmark="tests/bench_shop.py::test_checkout", samples=7, **changes):
    profile = Profile({(ROOT, PARSE): Weight(samples, samples * 500_250)}, iterations=10)
    one = Round(10, 5_000_000, 6_000_000, 10, {"core": (1, 2)}, {Mode.ON_CPU: profile})
    measurement = Measurement(
        benchmark,
        (Process((one, replace(one, dropped="waited for a CPU")), kept=14, expected=20),),
        ROOT,
        {PARSE: Place("src/shop/parser.py", 88)},
    )
    return replace(Run(ENVIRONMENT, (measurement,), commit="a" * 40), **changes)


@pytest.fixture
def stored(tmp_path):
    place = tmp_path / "run"
    folder.save(run(), place)
    return place


def the_profile(place):
    (file,) = (place / "profiles").iterdir()
    return file


def edit(place, change):
    """Change the decoded run.json of a stored run."""
    file = place / "run.json"
    document = json.loads(file.read_text(encoding="utf-8"))
    change(document)
    file.write_text(json.dumps(document), encoding="utf-8")


# --- what is saved comes back -------------------------------------------------------------


@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(runs())
def test_load_returns_what_save_was_given(some):
    with tempfile.TemporaryDirectory() as scratch:
        place = Path(scratch) / "run"
        folder.save(some, place)

        assert folder.load(place, incomplete_ok=True) == some


def test_same_run_gives_the_same_bytes(tmp_path):
    for name in ("one", "two"):
        folder.save(run(), tmp_path / name)

    one, two = (
        {file.name: file.read_bytes() for file in (tmp_path / name).rglob("*") if file.is_file()}
        for name in ("one", "two")
    )
    assert one == two
    assert len(one) == 2


def test_names_that_utf8_cannot_carry_are_escaped_and_not_lost(tmp_path):
    odd = Frame("f\udce9", "m")
    profile = Profile({(odd,): Weight(1, 1)})
    folder.save(
        Run(
            ENVIRONMENT,
            (
                Measurement(
                    "t\udcff", (Process((Round(1, 1, 1, profiles={Mode.ON_CPU: profile}),)),), odd
                ),
            ),
        ),
        tmp_path / "run",
    )

    (measurement,) = folder.load(tmp_path / "run").measurements
    assert measurement.benchmark == "t\\udcff"
    assert list(measurement.profile().stacks) == [(Frame("f\\udce9", "m"),)]
    assert measurement.root == Frame("f\\udce9", "m")


def test_python_module_named_kernel_stays_python(tmp_path):
    frames = (Frame("run", "kernel"), Frame("run", "", Kind.KERNEL), Frame("c", "a:b%41"))
    profile = Profile({frames: Weight(1, 1)})
    measurement = Measurement("t", (Process((Round(1, 1, 1, profiles={Mode.ON_CPU: profile}),)),))
    folder.save(Run(ENVIRONMENT, (measurement,)), tmp_path / "run")

    assert list(folder.load(tmp_path / "run").measurements[0].profile().stacks) == [frames]


# --- saving -------------------------------------------------------------------------------


def test_save_replaces_a_run_and_keeps_what_a_user_put_beside_it(tmp_path):
    place = tmp_path / "run"
    folder.save(run("one"), place)
    (place / "README").write_text("why this is our baseline")
    folder.save(run("two"), place)

    assert [each.benchmark for each in folder.load(place).measurements] == ["two"]
    assert len(list((place / "profiles").iterdir())) == 1
    assert (place / "README").read_text() == "why this is our baseline"
    assert [each.name for each in tmp_path.iterdir()] == ["run"]


def test_save_without_exchange_replaces_a_run_too(tmp_path, monkeypatch):
    monkeypatch.setattr(folder, "_exchange", lambda *_paths: False)
    test_save_replaces_a_run_and_keeps_what_a_user_put_beside_it(tmp_path)


def test_save_through_a_link_leaves_the_link(tmp_path):
    (tmp_path / "real").mkdir()
    (tmp_path / "link").symlink_to("real")
    folder.save(run("one"), tmp_path / "link")
    folder.save(run("two"), tmp_path / "link")

    assert (tmp_path / "link").is_symlink()
    assert folder.load(tmp_path / "real") == run("two")


def test_dot_ci_flame_ignores_itself_in_git(tmp_path):
    folder.save(run(), tmp_path / ".ci-flame" / "run")
    ignore = tmp_path / ".ci-flame" / ".gitignore"
    subprocess.run(["git", "init", "-q", tmp_path], check=True)
    status = subprocess.run(
        ["git", "-C", tmp_path, "status", "--porcelain"],
        check=True,
        capture_output=True,
        text=True,
    )

    assert status.stdout == ""

    ignore.write_text("run/\n")
    folder.save(run(), tmp_path / ".ci-flame" / "run")

    assert ignore.read_text() == "run/\n", "a user's own is left alone"


def test_save_is_readable_by_others_as_the_umask_says(tmp_path):
    before = os.umask(0o022)
    try:
        folder.save(run(), tmp_path / "run")
    finally:
        os.umask(before)

    assert (tmp_path / "run").stat().st_mode & 0o777 == 0o755


@pytest.mark.parametrize("make", ["file", "dangling link", "other files", "under a file"])
def test_save_refuses_a_place_that_is_not_a_run(tmp_path, make):
    place = tmp_path / "x"
    if make == "file":
        place.write_text("mine")
    elif make == "dangling link":
        place.symlink_to("nowhere")
    elif make == "under a file":
        (tmp_path / "f").write_text("mine")
        place = tmp_path / "f" / "x"
    else:
        place.mkdir()
        (place / "thesis.tex").write_text("mine")
    before = sorted(tmp_path.rglob("*"))

    with pytest.raises(CiFlameError, match=r"not a folder|holds thesis.tex and no run.json") as e:
        folder.save(run(), place)
    assert "\n" not in e.value.message
    assert sorted(tmp_path.rglob("*")) == before


def test_disk_full_is_one_sentence_and_the_earlier_run_is_whole(tmp_path):
    """In a child, as a limit on file sizes is the process's."""
    folder.save(run("before"), tmp_path / "run")
    code = """
import resource, sys
from pathlib import Path
from ci_flame.baseline import folder
from ci_flame.errors import CiFlameError
sys.path.insert(0, "tests")
from test_baseline_folder import run
resource.setrlimit(resource.RLIMIT_FSIZE, (int(sys.argv[2]), resource.RLIM_INFINITY))
try:
    folder.save(run("after"), Path(sys.argv[1]))
except CiFlameError as error:
    print(error.message)
"""
    done = subprocess.run(
        [sys.executable, "-c", code, tmp_path / "run", "400"],
        capture_output=True,
        text=True,
        check=True,
        cwd=Path(__file__).parent.parent,
    )

    assert "the run could not be written" in done.stdout
    assert "file too large" in done.stdout
    assert folder.load(tmp_path / "run") == run("before")
    assert [each.name for each in tmp_path.iterdir()] == ["run"]

    roomy = [sys.executable, "-c", code, tmp_path / "run", str(1 << 20)]
    done = subprocess.run(
        roomy, capture_output=True, text=True, check=True, cwd=Path(__file__).parent.parent
    )

    assert done.stdout == ""
    assert folder.load(tmp_path / "run") == run("after")
    assert resource.getrlimit(resource.RLIMIT_FSIZE)[0] == resource.RLIM_INFINITY


@pytest.mark.root
def test_full_file_system_says_so(tmp_path):
    if os.geteuid() != 0:
        pytest.skip("mounting a tmpfs needs root")
    small = tmp_path / "small"
    small.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=12k", "ci-flame-test", small], check=True)
    try:
        (small / "filler").write_bytes(b"x" * 8192)
        with pytest.raises(CiFlameError, match="no space left on device"):
            folder.save(run(), small / "run")
        assert [each.name for each in small.iterdir()] == ["filler"]
    finally:
        subprocess.run(["umount", small], check=True)


def test_save_refuses_a_metric_that_is_not_a_number(tmp_path):
    measurement = Measurement("t", (Process((), metrics={"run_queue.p99_ms": float("nan")}),))

    with pytest.raises(FormatError, match=r"the metric run_queue\.p99_ms is nan"):
        folder.save(Run(ENVIRONMENT, (measurement,)), tmp_path / "run")
    assert list(tmp_path.iterdir()) == []


def test_save_refuses_a_figure_that_could_not_be_read_again(tmp_path):
    measurement = Measurement("t", (Process((), lost=-1),))

    with pytest.raises(FormatError, match=r"benchmarks\[0\].processes\[0\].lost: -1 is not within"):
        folder.save(Run(ENVIRONMENT, (measurement,)), tmp_path / "run")
    assert list(tmp_path.iterdir()) == []


def test_save_refuses_two_benchmarks_with_one_id(tmp_path):
    twice = replace(run(), measurements=run().measurements * 2)

    with pytest.raises(FormatError, match=r"two benchmarks with the id tests/bench_shop"):
        folder.save(twice, tmp_path / "run")


# --- loading ------------------------------------------------------------------------------


def test_missing_empty_and_foreign_folders_are_told_apart(tmp_path):
    (tmp_path / "empty").mkdir()
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "x").write_text("x")
    (tmp_path / "file").write_text("x")
    sentences = {}
    for name in ("missing", "empty", "other", "file"):
        with pytest.raises(BaselineError) as error:
            folder.load(tmp_path / name)
        sentences[name] = error.value.message.removeprefix(f"{tmp_path}/{name}: ")
        assert "pytest --flame" in error.value.hint

    assert sentences == {
        "missing": "there is no such folder",
        "empty": "the folder is empty",
        "other": "not a run, it holds no run.json",
        "file": "is not a folder",
    }


def test_interrupted_run_is_no_baseline_but_can_be_looked_at(tmp_path):
    folder.save(run(complete=False), tmp_path / "run")

    with pytest.raises(BaselineError, match="the run was interrupted and is not complete"):
        folder.load(tmp_path / "run")
    assert folder.load(tmp_path / "run", incomplete_ok=True) == run(complete=False)


@pytest.mark.parametrize("version", [0, 2, 7])
def test_another_version_is_refused_by_name(stored, version):
    edit(stored, lambda document: document.update(schema_version=version))

    with pytest.raises(FormatError) as error:
        folder.load(stored)
    assert error.value.message == (
        f"{stored}/run.json: has format {version}, this ci-flame reads 1"
    )


@pytest.mark.parametrize(
    "name",
    [
        "../../etc/passwd",
        "/etc/passwd",
        "profiles/../run.json",
        "profiles/.hidden.on-cpu.pb.gz",
        "profiles/a/b.on-cpu.pb.gz",
        "profiles/x.off-cpu.pb.gz",
        "profiles/x.on-cpu.pb.gz\n",
        "profiles\\x.on-cpu.pb.gz",
        "profiles/" + "x" * 97 + ".on-cpu.pb.gz",
    ],
)
def test_file_name_that_leads_elsewhere_is_refused(stored, name):
    def change(document):
        document["benchmarks"][0]["profiles"]["on-cpu"] = name

    edit(stored, change)

    with pytest.raises(FormatError, match="is not a file of this folder's profiles"):
        folder.load(stored)


@pytest.mark.parametrize("what", ["run.json", "profiles", "profile"])
def test_symbolic_links_inside_are_not_followed(stored, tmp_path, what):
    target = the_profile(stored) if what == "profile" else stored / what
    target.rename(tmp_path / "elsewhere")
    target.symlink_to(tmp_path / "elsewhere")

    with pytest.raises(FormatError, match="a symbolic link"):
        folder.load(stored)


def test_pipe_in_place_of_a_file_does_not_block(stored):
    file = the_profile(stored)
    file.unlink()
    os.mkfifo(file)

    with pytest.raises(FormatError, match="not a regular file"):
        folder.load(stored)


def test_absent_profile_is_named(stored):
    file = the_profile(stored)
    file.unlink()

    with pytest.raises(FormatError, match="no such file") as error:
        folder.load(stored)
    assert error.value.source == f"{stored}/profiles/{file.name}"


@pytest.mark.parametrize("part", [0.1, 0.5, 0.99])
@pytest.mark.parametrize("file", ["run.json", "profile"])
def test_truncated_files_are_refused(stored, file, part):
    path = stored / "run.json" if file == "run.json" else the_profile(stored)
    data = path.read_bytes()
    path.write_bytes(data[: int(len(data) * part)])

    with pytest.raises(FormatError, match="truncated"):
        folder.load(stored)


def test_any_flipped_byte_gives_a_run_or_a_sentence(stored):
    """Whatever a disk or a stranger changes, there is no traceback."""
    told = []
    for path in (stored / "run.json", the_profile(stored)):
        data = path.read_bytes()
        for position in range(0, len(data), max(1, len(data) // 150)):
            for bit in (1, 0x80):
                changed = bytearray(data)
                changed[position] ^= bit
                path.write_bytes(changed)
                try:
                    folder.load(stored)
                except CiFlameError as error:
                    told.append(error.message)
        path.write_bytes(data)

    assert len(told) > 50
    assert not any("\n" in message for message in told)


def test_size_on_disk_is_bounded(stored, monkeypatch):
    size = (stored / "run.json").stat().st_size
    monkeypatch.setattr(run_json, "MAX_TEXT", size)
    folder.load(stored)
    monkeypatch.setattr(run_json, "MAX_TEXT", size - 1)

    with pytest.raises(FormatError, match=f"run.json: {size} bytes; the limit is {size - 1}"):
        folder.load(stored)


def test_all_profiles_together_are_bounded(stored, monkeypatch):
    size = the_profile(stored).stat().st_size
    monkeypatch.setattr(folder, "MAX_TOTAL", size)
    folder.load(stored)
    monkeypatch.setattr(folder, "MAX_TOTAL", size - 1)

    with pytest.raises(FormatError, match=f"{size} bytes; the limit is {size - 1}"):
        folder.load(stored)


def test_profile_of_rounds_that_run_json_does_not_know_is_refused(stored):
    one = run().measurements[0]
    more = replace(one, processes=one.processes * 2)
    the_profile(stored).write_bytes(pprof.write(more, Mode.ON_CPU))

    with pytest.raises(FormatError, match=r"samples of process 1, round 0, which run.json does"):
        folder.load(stored)


def test_profile_of_another_mode_is_refused(stored):
    one = run().measurements[0]
    (process,) = one.processes
    off = tuple(
        replace(each, profiles={Mode.OFF_CPU: each.profiles[Mode.ON_CPU]})
        for each in process.rounds
    )
    other = replace(one, processes=(replace(process, rounds=off),))
    the_profile(stored).write_bytes(pprof.write(other, Mode.OFF_CPU))

    with pytest.raises(FormatError, match=r"it is an off-cpu profile; run\.json says on-cpu"):
        folder.load(stored)


def test_profile_of_another_unit_is_refused(stored):
    def change(document):
        document["benchmarks"][0]["processes"][0]["rounds"]["modes"]["on-cpu"]["unit"] = "samples"

    edit(stored, change)

    with pytest.raises(FormatError, match=r"it counts nanoseconds; run\.json says samples"):
        folder.load(stored)


def test_run_json_that_is_not_text_is_refused(stored):
    (stored / "run.json").write_bytes(b'{"format": "\xff"}')

    with pytest.raises(FormatError, match="byte 12 is not UTF-8"):
        folder.load(stored)
