"""What a user may run into, end to end: the sentence and the exit code, at both doors.

The command line ends with ci-flame's codes, `pytest --flame` with pytest's own.
"""

import gzip
import json
import os
import platform
import re
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest
from synthetic import SHOP, grown, synthetic_measurement, synthetic_run
from test_cli import call
from unprivileged import CONTAINER, NOBODY, hidden

import ci_flame.judge
import ci_flame.report
from ci_flame.baseline import folder
from ci_flame.collect import COLLECTORS, machine
from ci_flame.collect.py_spy import process as py_spy_process
from ci_flame.collect.py_spy.process import find_program

assert ci_flame.judge  # scipy must be loaded outside of pytester's snapshots of sys.modules
assert ci_flame.report

CI_FLAME = (sys.executable, "-m", "ci_flame")
PYTEST = (sys.executable, "-m", "pytest")
QUIET = ("-p", "no:randomly", "-p", "no:cacheprovider", "-p", "no:asyncio")
NAME = "test_shop.py::test_it"
GUILTY = "laden.größe:zählen_名"
COSTS = {stack.replace("shop.parser:tokenize", GUILTY): cost for stack, cost in SHOP.items()}
EBPF = COLLECTORS["ebpf"].obstacle(machine.probe(), python=True)
records = [
    pytest.mark.root,
    pytest.mark.skipif(EBPF is not None, reason=f"eBPF: {EBPF and EBPF.reason}"),
]
as_root = [
    pytest.mark.root,
    pytest.mark.skipif(os.geteuid() != 0, reason="only root can mount, and drop what it may do"),
]


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    """Runs before and after a function with a name outside ASCII took twice as long."""
    made = tmp_path_factory.mktemp("runs")
    for name, factor in (("before", 1.0), ("after", 2.0)):
        costs = grown(COSTS, GUILTY, factor)
        measurement = synthetic_measurement(costs, benchmark=NAME, rounds=5, seed=len(name))
        folder.save(synthetic_run(measurement), made / name)
    return made


@pytest.fixture
def shop(pytester, runs, monkeypatch):
    """A project with one benchmark, and its runs."""
    for variable in ("PYTEST_ADDOPTS", "GITHUB_OUTPUT", "GITHUB_STEP_SUMMARY"):
        monkeypatch.delenv(variable, raising=False)
    for each in runs.iterdir():
        shutil.copytree(each, pytester.path / each.name)
    pytester.makepyfile(test_shop="def test_it(flame): flame(int)")
    return pytester


def spawn(*words, **how):
    """Run a command to its end; nothing of it is ever a traceback."""
    done = subprocess.run(
        list(map(str, words)), capture_output=True, text=True, timeout=120, check=False,
        stdin=subprocess.DEVNULL, **how,
    )  # fmt: skip
    assert "Traceback" not in done.stdout + done.stderr, done.stderr
    return done


# -- another system or processor ------------------------------------------------------


@pytest.mark.parametrize(
    ("system", "processor", "sentence"),
    [
        ("Darwin", "arm64", "ebpf: eBPF needs Linux, this is Darwin"),
        ("Windows", "AMD64", "ebpf: eBPF needs Linux, this is Windows"),
        ("Linux", "aarch64", "ebpf: no BPF program is built for aarch64"),
    ],
)
def test_another_system_or_processor(shop, monkeypatch, system, processor, sentence):
    monkeypatch.setattr(platform, "system", lambda: system)
    monkeypatch.setattr(platform, "machine", lambda: processor)
    monkeypatch.setattr(py_spy_process, "find_program", str)  # it records Python on any processor
    words = ("record", "--", sys.executable, "-c", "pass")

    assert sentence in call(*words, check=3).stderr
    assert call("doctor").returncode == 3
    made = shop.runpytest_inprocess("--flame", *QUIET)
    assert made.ret == 4
    made.stderr.fnmatch_lines([f"ERROR: ci-flame: no collector can record*{sentence}*"])
    shop.runpytest_inprocess(*QUIET).assert_outcomes(passed=1)


# -- no privileges, no BPF, no perf ---------------------------------------------------

DROPPED = {"an ordinary user": NOBODY, "root in a container": CONTAINER}
CURES = {
    "an ordinary user": "sudo setcap cap_bpf,cap_perfmon,cap_sys_ptrace",
    "root in a container": "--cap-add BPF --cap-add PERFMON --cap-add SYS_PTRACE",
}


@pytest.mark.parametrize("who", DROPPED)
class TestWithoutPrivileges:
    pytestmark = as_root

    @pytest.fixture
    def dropped(self, who):
        """Return the words in front of a command that may load no BPF, and a folder for it."""
        # py-spy would still record Python.
        words = (*hidden(find_program()), *DROPPED[who])
        if spawn(*words, sys.executable, "-c", "", cwd="/").returncode != 0:
            pytest.skip("nobody may read this interpreter")
        if spawn(*words, "sudo", "-n", "true", cwd="/").returncode == 0:
            pytest.skip("nobody may use sudo here")
        with tempfile.TemporaryDirectory() as name:
            place = Path(name)
            place.chmod(0o755)
            (place / "test_it.py").write_text("def test_it(flame): flame(int)\n")
            yield words, place

    def test_the_command_line_says_the_cure(self, dropped, who):
        words, place = dropped
        done = spawn(*words, *CI_FLAME, "record", "--", sys.executable, "-c", "pass", cwd=place)

        assert done.returncode == 3
        first, *hint = done.stderr.splitlines()
        assert first.startswith("ci-flame: no collector can record a Python benchmark here: ")
        assert "ebpf: BPF does not load: Operation not permitted" in first
        assert CURES[who] in "".join(hint)

    def test_pytest_says_the_cure_and_only_with_the_flag(self, dropped, who):
        words, place = dropped
        options = {"cwd": place, "env": {**os.environ, "PYTHONDONTWRITEBYTECODE": "1"}}
        refused = spawn(*words, *PYTEST, *QUIET, "--flame", **options)

        assert refused.returncode == 4
        assert "ERROR: ci-flame: no collector can record a Python benchmark" in refused.stderr
        assert CURES[who] in refused.stderr
        assert spawn(*words, *PYTEST, *QUIET, **options).returncode == 0


@pytest.mark.usefixtures("shop")
def test_no_perf(monkeypatch):
    monkeypatch.setattr(machine, "perf_paths", tuple)
    done = call("record", "--collector", "perf", "--", "true", check=3)

    assert "perf: no perf program that works is installed" in done.stderr
    assert "\n  hint: " in done.stderr


def test_a_python_benchmark_with_perf(shop):
    told = "no collector can record a Python benchmark here: perf: perf sees no Python frames"
    words = ("record", "--collector", "perf", "--", sys.executable, "-c", "pass")

    assert told in call(*words, check=3).stderr
    made = shop.runpytest_inprocess("--flame", "--flame-collector=perf", *QUIET)
    assert made.ret == 4
    made.stderr.fnmatch_lines([f"ERROR: ci-flame: {told}*"])


# -- what happens while it is recorded ------------------------------------------------


class TestRecording:
    pytestmark = records

    def test_a_command_that_dies_midway(self, shop):
        script = "test -e ran && kill -KILL $$; touch ran"  # the first run is not recorded
        done = spawn(*CI_FLAME, "record", "--", "/bin/sh", "-c", script)

        assert done.returncode == 3
        assert "ci-flame: the command ended with signal SIGKILL in " in done.stderr
        assert not (shop.path / ".ci-flame").exists()

    def test_a_benchmark_that_dies_midway(self, shop):
        shop.makepyfile(
            test_shop="""
            import os, signal
            done = []
            def work():
                done.append(sum(range(100_000)))
                if len(done) == 100:
                    print("the shop burns", flush=True)
                    os.kill(os.getpid(), signal.SIGKILL)
            def test_it(flame):
                flame(work)
            """
        )
        made = spawn(*PYTEST, "--flame", "--flame-processes=1", "--junitxml=j.xml", *QUIET, "-s")

        assert made.returncode == 1
        assert f"ci-flame: {NAME}: run again, it ended with signal SIGKILL" in made.stdout
        assert "  | " in made.stdout
        assert "the shop burns" in made.stdout
        assert (shop.path / "j.xml").read_text().count("<failure ") == 1

    def test_a_benchmark_that_raises_after_a_while(self, shop):
        shop.makepyfile(
            test_shop="""
            done = []
            def work():
                done.append(sum(range(100_000)))
                if len(done) == 100:
                    raise LookupError("sold out")
            def test_it(flame):
                flame(work)
            """
        )
        made = subprocess.run(
            [*PYTEST, "--flame", "--flame-processes=1", *QUIET],
            capture_output=True, text=True, timeout=120, check=False,
        )  # fmt: skip

        assert made.returncode == 1
        assert f"ci-flame: {NAME}: run again, it ended with exit code 1" in made.stdout
        assert "LookupError: sold out" in made.stdout
        assert f"hint: a benchmark must pass when it runs alone: pytest {NAME}" in made.stdout

    def test_no_samples(self, shop):
        shop.makepyfile(test_shop="import time\ndef test_it(flame): flame(time.sleep, 0.01)")
        words = ("--flame-processes=1", "--flame-seconds=0.1", "--flame-frequency=10")
        made = spawn(*PYTEST, "--flame", *words, *QUIET)

        assert made.returncode == 0
        told = r"too short to sample: [01] samples in \S+ s of CPU time, 100 are the least; it "
        assert re.search(told, made.stdout)


# -- baselines ------------------------------------------------------------------------


def emptied(run):
    shutil.rmtree(run)
    run.mkdir()


def edited(change):
    def edit(run):
        document = json.loads((run / "run.json").read_text())
        change(document)
        (run / "run.json").write_text(json.dumps(document))

    return edit


def cut(name):
    def halve(run):
        (file,) = run.glob(name)
        file.write_bytes(file.read_bytes()[: file.stat().st_size // 2])

    return halve


def linked(run):
    (run / "run.json").rename(run / "other.json")
    (run / "run.json").symlink_to("/etc/passwd")


def bomb(run):
    (file,) = run.glob("profiles/*")
    file.write_bytes(gzip.compress(bytes(64 << 20)))


BROKEN = {
    "missing": (shutil.rmtree, "broken: there is no such folder"),
    "empty": (emptied, "broken: the folder is empty"),
    "not a run": (
        lambda run: (run / "run.json").rename(run / "x"),
        "broken: not a run, it holds no run.json",
    ),
    "incomplete": (
        edited(lambda told: told.update(complete=False)),
        "broken: the run was interrupted and is not complete",
    ),
    "without a profile": (
        lambda run: shutil.rmtree(run / "profiles"),
        ".on-cpu.pb.gz: no such file",
    ),
    "another version": (
        edited(lambda told: told.update(schema_version=7)),
        "broken/run.json: has format 7, this ci-flame reads 1",
    ),
    "truncated text": (cut("run.json"), "broken/run.json: broken or truncated JSON at line "),
    "truncated profile": (cut("profiles/*"), ".on-cpu.pb.gz: truncated"),
    "leads out": (
        edited(lambda told: told["benchmarks"][0]["profiles"].update({"on-cpu": "../x.pb.gz"})),
        "is not a file of this folder's profiles",
    ),
    "a link": (linked, "broken/run.json: a symbolic link"),
    "a bomb": (bomb, "unpacks to more than 200 times its "),
    "one id twice": (
        edited(lambda told: told["benchmarks"].append(told["benchmarks"][0])),
        f"two benchmarks with the id {NAME}",
    ),
}


@pytest.mark.parametrize("how", BROKEN)
def test_a_baseline_that_cannot_be_used(shop, how):
    spoil, sentence = BROKEN[how]
    shutil.copytree(shop.path / "before", shop.path / "broken")
    spoil(shop.path / "broken")
    replay = ("--replay", "after", "--name", NAME, "--", "true")
    for words in (
        ("compare", "broken", "after"),
        ("check", "--baseline", "folder:broken", *replay),
    ):
        done = call(*words, check=2)
        first, *hint = done.stderr.splitlines()

        assert first.startswith("ci-flame: ")
        assert sentence in first
        assert all(line.startswith("  hint: ") for line in hint)
        assert done.stdout == ""

    made = shop.runpytest_inprocess(
        "--flame", "--flame-replay=after", "--flame-baseline=broken", *QUIET
    )
    assert made.ret == 4
    (line,) = [each for each in made.errlines if sentence in each]
    assert line.startswith("ERROR: ci-flame: ")
    assert not (shop.path / ".ci-flame" / "report").exists()


@pytest.mark.parametrize("how", ["empty", "incomplete", "truncated text"])
def test_a_stored_baseline_that_is_broken_is_not_taken_for_none(shop, how):
    spoil, sentence = BROKEN[how]
    shutil.copytree(shop.path / "before", shop.path / ".ci-flame" / "baseline")
    spoil(shop.path / ".ci-flame" / "baseline")
    done = call("check", "--replay", "after", "--name", NAME, "--", "true", check=2)

    assert f".ci-flame/baseline{sentence.removeprefix('broken')}" in done.stderr


# -- names and depths -----------------------------------------------------------------


@pytest.mark.parametrize(
    "variables",
    [
        {"PYTHONIOENCODING": "ascii"},
        {"PYTHONIOENCODING": "utf-8"},
    ],
)
def test_names_outside_ascii_on_any_terminal(shop, variables):
    environment = {**os.environ, **variables}
    done = spawn(*CI_FLAME, "compare", "before", "after", "-o", "out", env=environment)
    made = spawn(
        *PYTEST, "--flame", "--flame-replay=after", "--flame-baseline=before", *QUIET,
        env=environment,
    )  # fmt: skip

    assert (done.returncode, made.returncode) == (1, 1)
    verdict = json.loads((shop.path / "out" / "verdict.json").read_text("utf-8"))
    (finding,) = verdict["benchmarks"][0]["findings"]
    assert finding["sentence"].startswith(f"{NAME}: {GUILTY} grew by ")
    assert GUILTY in (shop.path / "out" / "report.html").read_text("utf-8")
    if variables == {"PYTHONIOENCODING": "utf-8"}:
        assert f"{GUILTY} grew by" in done.stdout
        assert f"{GUILTY} grew by" in made.stdout


def deep(leaf, frames):
    """Return the cost of a recursion of so many frames, beside a function that stays."""
    root = "test_shop:test_it"
    return {
        f"{root};{';'.join(f'shop:f{n}' for n in range(frames))}": leaf,
        f"{root};shop:other": 100_000.0,
    }


@pytest.mark.parametrize("frames", [127, 128, 129, 500])
def test_stacks_deeper_than_128_frames_are_judged(shop, frames):
    for name, leaf in (("shallow", 100_000.0), ("deep", 200_000.0)):
        measurement = synthetic_measurement(
            deep(leaf, frames), benchmark=NAME, processes=3, rounds=3, seed=len(name)
        )
        folder.save(synthetic_run(measurement), shop.path / name)
    done = call("compare", "shallow", "deep", check=1)

    assert f"shop:f{frames - 1} grew by " in done.stdout


# -- a full disk ----------------------------------------------------------------------


@pytest.fixture
def full(shop):
    """A folder on a disk with 4 kB left."""
    place = shop.path / "full"
    place.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=12k", "ci-flame-test", place]
    subprocess.run(mount, check=True)
    try:
        (place / "filler").write_bytes(b"x" * 8192)
        yield place
        assert [each.name for each in place.iterdir()] == ["filler"]
    finally:
        subprocess.run(["umount", place], check=True)


class TestFullDisk:
    pytestmark = as_root

    @pytest.mark.usefixtures("full", "shop")
    def test_of_the_run(self):
        replay = ("--baseline", "before", "--replay", "after", "--name", NAME, "--", "true")
        for words in (("record", "-o", "full/run", *replay[2:]),
                      ("check", "--run", "full/run", *replay)):  # fmt: skip
            done = call(*words, check=3)

            assert done.stderr.startswith("ci-flame: full/run: the run could not be written")
            assert "no space left on device" in done.stderr

    @pytest.mark.usefixtures("full", "shop")
    def test_of_the_report(self):
        done = call("compare", "before", "after", "-o", "full/report", check=3)

        first, hint = done.stderr.splitlines()
        assert first.startswith("ci-flame: full/report/")
        assert first.endswith("no space left on device")
        assert hint == "  hint: make room, or name another folder by -o"

    @pytest.mark.usefixtures("full")
    @pytest.mark.parametrize("option", ["--flame-out=full/run", "--flame-report=full/report"])
    def test_under_pytest(self, shop, option):
        words = ("--flame", "--flame-replay=before", "--flame-baseline=before", option)
        made = shop.runpytest_inprocess(*words, *QUIET)

        made.assert_outcomes(passed=1)
        assert made.ret == 3
        assert "o space left on device" in made.stdout.str()
