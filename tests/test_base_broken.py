"""A base commit that cannot run a benchmark: told in one line, and no dead end."""

import json
import os
import subprocess
import sys

import pytest

from ci_flame.baseline import folder
from ci_flame.collect import COLLECTORS, machine
from ci_flame.errors import ChildError, CollectError
from ci_flame.pipeline import base_broken
from ci_flame.verdict import Note

WHY = COLLECTORS["ebpf"].obstacle(machine.probe(), python=True)
PLAIN = ("-p", "no:randomly", "-p", "no:cacheprovider", "-p", "no:asyncio", "-p", "no:xdist")
NAME = "test_it.py::test_it"
TREE = "/tmp/ci-flame-base-x/ci-flame-base-x"  # noqa: S108 - a name, nothing is written
SETUP = "baseline: {setup: COMMAND} prepares its checkout"
GENERIC = (
    "it must run at the base commit: baseline: {setup: COMMAND} prepares its checkout,"
    " in an environment of its own"
)


# -- the reason, in one line --------------------------------------------------------------


@pytest.mark.parametrize(
    ("tail", "hint", "why", "cure"),
    [
        (  # as pytest says it, with its summary
            [
                f"{TREE}/test_it.py:1: in <module>",
                "E   ModuleNotFoundError: No module named 'nope'",
                "=== short test summary info ===",
                "ERROR test_it.py",
                "!!! Interrupted: 1 error during collection !!!",
            ],
            GENERIC,
            "ModuleNotFoundError: No module named 'nope'",
            SETUP,
        ),
        (
            ["E   ImportError: cannot import name 'f' from 'shop'"],
            "git does not hold shop.so, so the base commit is without: add it",
            "ImportError: cannot import name 'f' from 'shop'",
            "git does not hold shop.so, so the base commit is without: add it",
        ),
        (
            [
                "E       AssertionError: assert 1 == 2",
                "E        +  where 1 = f()",
                f"{TREE}/test_it.py:3: AssertionError",
                "FAILED test_it.py::test_it - AssertionError: assert 1 == 2",
                "1 failed in 0.1s",
            ],
            GENERIC,
            "AssertionError: assert 1 == 2",
            "",
        ),
        (["E       assert 1 == 2", "FAILED test_it.py::test_it - assert 1 == 2"], GENERIC,
         "assert 1 == 2", ""),
        ([f"ERROR: usage: no such option in {TREE}/pytest.ini"], GENERIC,
         "ERROR: usage: no such option in pytest.ini", ""),
        (["ERROR test_it.py", "=== 1 error in 0.05s ==="], GENERIC,
         "run in the base commit, it ended with exit code 1", ""),
        (["Segmentation fault"], GENERIC, "Segmentation fault", ""),
        ([f"OSError in {TREE}/shop.py"], GENERIC, "OSError in shop.py", ""),
    ],
)  # fmt: skip
def test_the_last_lines_of_a_benchmark_become_one(tail, hint, why, cure):
    rows = "\n".join(f"  | {row}" for row in tail)
    error = ChildError(f"{NAME}: run in the base commit, it ended with exit code 1\n{rows}", hint)

    assert base_broken.reason(NAME, error, TREE) == (why, cure)
    told = base_broken.note(NAME, error, TREE)
    assert told.text == f"no baseline: the base commit cannot run it: {why}" + (
        f"; {cure}" if cure else ""
    )


@pytest.mark.parametrize(
    ("message", "hint", "why", "cure"),
    [
        (
            "beside the base commit, the command ended with exit code 1 in /x: python b.py",
            f"{SETUP}; its last words were:\nTraceback\nModuleNotFoundError: No module named 'n'",
            "ModuleNotFoundError: No module named 'n'",
            SETUP,
        ),
        (
            "beside the base commit, the command ended with exit code 7 in /x: b",
            f"{SETUP}; it must end with 0 to be recorded",
            "the command ended with exit code 7 in /x: b",
            "",
        ),
        (f"{NAME}: a further process did not end within 70 s", "a benchmark is called many times",
         "a further process did not end within 70 s", ""),
        (
            f"{NAME}: the base commit's process loaded shop from the changed tree",
            "install the project editable with a plain path",
            "the base commit's process loaded shop from the changed tree",
            "install the project editable with a plain path",
        ),
    ],
)  # fmt: skip
def test_what_has_no_last_lines_tells_itself(message, hint, why, cure):
    assert base_broken.reason(NAME, CollectError(message, hint), TREE) == (why, cure)


def test_a_reason_is_one_line_of_bounded_length():
    error = ChildError(f"{NAME}: x\n  | E   ValueError: {'x' * 5000}\x1b[31m", "")
    why, _ = base_broken.reason(NAME, error, TREE)

    assert len(why) <= 300
    assert why.isprintable()


def test_what_ran_there_before_is_told_so():
    broken = base_broken.note(NAME, ChildError("x: y"), TREE)
    other = Note("new-file", "x", NAME)

    differs = Note("benchmark-changed", "x differs: each side ran its own", NAME)

    assert base_broken.settled((other, broken), ran=False) == (other, broken)
    assert base_broken.settled((differs, broken), ran=False) == (broken,), "the base's did not run"
    assert base_broken.settled((differs, broken), ran=True)[0] == differs
    (kept, told) = base_broken.settled((other, broken, broken), ran=True)
    assert kept == other
    assert told.slug == base_broken.STOPPED
    assert told.text.startswith("the base commit did not run it each time: ")


# -- for real -----------------------------------------------------------------------------


def run_git(place, *words):
    who = ("-c", "user.name=t", "-c", "user.email=t@example.org")
    subprocess.run(["git", *who, *words], cwd=place, check=True, capture_output=True)


@pytest.fixture
def project(tmp_path):
    """Two commits: the second mends what the first cannot import."""
    root = tmp_path / "project"
    root.mkdir()
    (root / ".gitignore").write_text(".ci-flame/\n__pycache__/\n")
    (root / "ci-flame.yml").write_text("version: 1\nrecord: {busy: 100%}\n")
    (root / "shop.py").write_text("def work():\n    return sum(i * 3 % 7 for i in range(2000))\n")
    test = "import shop\ndef test_it(flame):\n    flame(shop.work)\n"
    (root / "test_good.py").write_text(test)
    (root / "test_it.py").write_text(f"import nope\n{test}")
    loop = "for _ in range(600):\n    shop.work()\n"
    (root / "busy.py").write_text(f"import nope, shop\n{loop}")
    run_git(root, "init", "-q", "-b", "main")
    run_git(root, "add", "-A")
    run_git(root, "commit", "-q", "-m", "broken")
    (root / "test_it.py").write_text(test)
    (root / "busy.py").write_text(f"import shop\n{loop}")
    run_git(root, "commit", "-q", "-a", "-m", "mended")
    return root


def spawn(project, *words, code, **variables):
    kept = {name: value for name, value in os.environ.items() if name != "PYTEST_ADDOPTS"}
    done = subprocess.run(
        [sys.executable, "-m", *map(str, words)],
        cwd=project,
        env={**kept, "CI": "true", **variables},
        capture_output=True,
        text=True,
        timeout=240,
        check=False,
        stdin=subprocess.DEVNULL,
    )
    assert done.returncode == code, done.stdout + done.stderr
    return done


def check(project, *words, code, size=("--repeat", "1", "--seconds", "0.2"), **variables):
    return spawn(project, "ci_flame", "check", *size, *words, code=code, **variables)


def verdict_of(project):
    return json.loads((project / ".ci-flame" / "report" / "verdict.json").read_text("utf-8"))


def require(project):
    text = "version: 1\nrecord: {busy: 100%}\nbaseline: {required: true}\n"
    (project / "ci-flame.yml").write_text(text)


CANNOT = "no baseline: the base commit cannot run it: ModuleNotFoundError: No module named 'nope'"
PYTEST = (sys.executable, "-m", "pytest", *PLAIN)


@pytest.mark.root
@pytest.mark.skipif(WHY is not None, reason=f"eBPF: {WHY and WHY.reason}")
def test_only_what_the_base_cannot_run_is_without_a_baseline(project):
    require(project)
    done = check(project, "--", *PYTEST, code=0)
    verdict = verdict_of(project)
    by_name = {each["benchmark"]: each for each in verdict["benchmarks"]}
    broken, good = by_name[NAME], by_name["test_good.py::test_it"]

    assert broken["outcome"] == "no-baseline"
    assert broken["notes"][0]["slug"] == "base-broken"
    assert broken["notes"][0]["text"] == f"{CANNOT}; {SETUP}"
    assert good["diff"] is not None
    assert "base-broken" not in {note["slug"] for note in good["notes"]}
    assert "benchmark-changed" not in {note["slug"] for note in broken["notes"]}
    (told,) = (note["text"] for note in verdict["notes"] if note["slug"] == "not-compared")
    assert told == f"{NAME}: {CANNOT}; {SETUP}"
    assert CANNOT in done.stdout
    assert len(folder.load(project / ".ci-flame" / "run").measurements) == 2
    # What is judged again from the report says the same.
    explained = spawn(project, "ci_flame", "explain", ".ci-flame/report", code=0).stdout
    assert told in explained
    assert "is new" not in explained


@pytest.mark.root
@pytest.mark.skipif(WHY is not None, reason=f"eBPF: {WHY and WHY.reason}")
@pytest.mark.parametrize(("required", "code"), [(False, 0), (True, 4)])
def test_a_change_that_mends_the_base_passes_unless_a_baseline_is_required(project, required, code):
    if required:
        require(project)
    done = check(project, "--", *PYTEST, "test_it.py", code=code)
    notes = {note["slug"]: note["text"] for note in verdict_of(project)["notes"]}

    assert CANNOT in done.stdout
    assert notes["base-broken"].endswith(f"No module named 'nope'; {SETUP}")
    assert folder.load(project / ".ci-flame" / "run").complete, "later builds are compared with it"


@pytest.mark.root
@pytest.mark.skipif(WHY is not None, reason=f"eBPF: {WHY and WHY.reason}")
def test_a_base_that_was_named_must_run(project):
    words = ("--baseline", "rerun:HEAD~1", "--", *PYTEST, "test_it.py")
    done = check(project, *words, code=3)

    assert done.stderr.splitlines()[-1] == (
        "ci-flame: pytest ended with exit code 1 and left no report: the base commit cannot run"
        f" {NAME}: ModuleNotFoundError: No module named 'nope'; {SETUP}"
    )


@pytest.mark.root
@pytest.mark.skipif(WHY is not None, reason=f"eBPF: {WHY and WHY.reason}")
@pytest.mark.parametrize(("required", "code"), [(False, 0), (True, 4)])
def test_a_command_that_the_base_cannot_run_has_no_baseline(project, required, code):
    if required:
        require(project)
    secret = "S3CR3T-TOKEN"  # noqa: S105 - stands for one
    words = (sys.executable, "busy.py", "load", "--api-key", secret)
    done = check(project, "--", *words, code=code, size=("--repeat", "1"))
    (broken,) = verdict_of(project)["benchmarks"]

    assert broken["benchmark"] == f"{sys.executable} busy.py load"
    assert broken["notes"][0]["text"] == f"{CANNOT}; {SETUP}"
    assert CANNOT in done.stdout
    kept = [file for file in (project / ".ci-flame").rglob("*") if file.is_file()]
    assert len(kept) > 10
    assert [file for file in kept if secret.encode() in file.read_bytes()] == []


@pytest.mark.root
@pytest.mark.skipif(WHY is not None, reason=f"eBPF: {WHY and WHY.reason}")
@pytest.mark.parametrize("command", [(*PYTEST, "test_good.py"), (sys.executable, "busy.py")])
def test_a_base_that_cannot_be_set_up_is_no_baseline(project, command):
    setup = "echo no compiler; exit 7"
    done = check(project, "--setup", setup, "--", *command, code=0)
    (only,) = verdict_of(project)["benchmarks"]

    assert only["notes"][0]["text"] == (
        f"no baseline: setup of the base commit ended with exit code 7: {setup}: no compiler"
    )
    assert only["notes"][0]["slug"] == "base-broken"
    assert "  | no compiler" in done.stderr
