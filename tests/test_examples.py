"""The examples are what they say: valid policies, passing tests, patches that apply."""

import importlib
import os
import re
import shutil
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
from unprivileged import CONTAINER, hidden

from ci_flame import config
from ci_flame.collect.py_spy.process import find_program

ROOT = Path(__file__).parent.parent
LIBRARY = ROOT / "examples" / "library"


@pytest.fixture
def demo(monkeypatch):
    monkeypatch.syspath_prepend(str(ROOT / "tools"))
    return importlib.import_module("demo")


def run(*words, cwd):
    return subprocess.run(
        [str(word) for word in words],
        cwd=cwd,
        capture_output=True,
        text=True,
        check=False,
        env={**os.environ, "GIT_CONFIG_GLOBAL": os.devnull, "GIT_CEILING_DIRECTORIES": "/"},
    )


@pytest.fixture
def shop(tmp_path):
    folder = tmp_path / "shop"
    shutil.copytree(LIBRARY, folder, ignore=shutil.ignore_patterns("__pycache__", ".ci-flame"))
    return folder


def test_policy_of_the_library_is_valid():
    found = config.load(LIBRARY / "ci-flame.yml", start=LIBRARY)

    assert [rule.frames for rule in found.policy.rules] == [("*",), ("shop.search:*",)]
    assert (found.record.processes, found.record.seconds) == (4, 1.0)


@pytest.mark.parametrize("patched", [False, True])
def test_library_passes_its_test_with_and_without_the_patch(shop, patched):
    """The patch changes cost, not behaviour; without --flame the benchmark is one plain call."""
    if patched:
        applied = run("git", "apply", "--verbose", LIBRARY / "slower.patch", cwd=shop)
        assert applied.returncode == 0, applied.stderr
        assert "STOP_WORDS = [" in (shop / "shop" / "text.py").read_text(encoding="utf-8")
    words = ("-m", "pytest", "-q", "-p", "no:cacheprovider", "-p", "no:benchmark", "benchmarks")
    done = run(sys.executable, *words, cwd=shop)

    assert done.returncode == 0, done.stdout + done.stderr
    assert "1 passed" in done.stdout


def test_demo_library_is_pinned_by_version_and_hash(demo):
    text = (demo.CASE / "requirements.txt").read_text(encoding="utf-8").strip()

    assert re.fullmatch(r"sqlparse==[\d.]+ --hash=sha256:[0-9a-f]{64}", text)


@pytest.mark.parametrize(
    ("wanted", "outcome", "exit_code", "blamed", "right"),
    [
        ("pass", "pass", 0, (), True),
        ("pass", "fail", 1, ("a:b",), False),
        ("pass", "inconclusive", 0, (), False),
        ("pass", "no-baseline", 0, (), False),
        ("pass", "pass", 3, (), False),
        ("fail", "fail", 1, ("sqlparse.sql:Token.match",), True),
        ("fail", "fail", 1, ("sqlparse.sql:Token.match", "a:b"), True),
        ("fail", "fail", 1, ("a:b", "sqlparse.sql:Token.match"), False),
        ("fail", "fail", 1, (), False),
        ("fail", "pass", 0, (), False),
        ("fail", "error", 3, (), False),
    ],
)
def test_demo_expects_both_verdicts_and_the_guilty_name(  # noqa: PLR0917 - one row of the table
    demo, wanted, outcome, exit_code, blamed, right
):
    checked = demo.Checked(
        wanted=wanted,
        exit_code=exit_code,
        outcome=outcome,
        blamed=blamed,
        sentences=(),
        report=Path("r"),
        seconds=1.0,
        output="",
    )

    assert checked.right is right
    assert replace(checked, outcome="warn").right is False


@pytest.mark.parametrize("number", ["0", "-1", "x"])
def test_demo_refuses_a_repeat_that_is_no_count(number):
    done = run(sys.executable, ROOT / "tools" / "demo.py", "--repeat", number, cwd=ROOT)

    assert done.returncode == 2
    assert "--repeat" in done.stderr
    assert "Traceback" not in done.stderr


@pytest.mark.root
@pytest.mark.skipif(os.geteuid() != 0, reason="needs root to give its capabilities up")
def test_demo_without_privileges_says_the_cure_and_nothing_else(tmp_path):
    """Without capabilities even root may not load BPF; the doctor says so, and the demo ends."""
    dropped = (*hidden(find_program()), *CONTAINER)  # py-spy would still record Python
    words = (sys.executable, ROOT / "tools" / "demo.py", "--work", tmp_path / "work")
    done = run(*dropped, *words, cwd="/")

    assert done.returncode == 3, done.stdout + done.stderr
    assert done.stdout.startswith("demo: Python benchmarks cannot be recorded here\n")
    assert "cure: start the container with --cap-add BPF" in done.stdout
    assert "Traceback" not in done.stdout + done.stderr
    assert not (tmp_path / "work").exists()


def test_demo_measures_the_true_size_of_its_change(tmp_path):
    """On the real library; the count of bytecodes is exact, so its growth is too."""
    words = ("--sizes", "--work", tmp_path / "work")
    done = run(sys.executable, ROOT / "tools" / "demo.py", *words, cwd=tmp_path)
    told = re.search(r"([+-]\d+)% bytecodes \(([\d,]+) -> ([\d,]+) per parse\)", done.stdout)

    assert done.returncode == 0, done.stdout + done.stderr
    assert told is not None, done.stdout
    assert 50 <= int(told[1]) <= 120
    branches = run("git", "branch", "--format=%(refname:short)", cwd=tmp_path / "work/repository")
    assert branches.stdout.split() == ["main", "tidy", "words"]
    changed = run("git", "diff", "--stat", "main", "words", cwd=tmp_path / "work/repository")
    assert "CONTRIBUTORS" in changed.stdout
    assert ".py" not in changed.stdout
