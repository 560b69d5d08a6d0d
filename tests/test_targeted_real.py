"""Targeted timing from end to end: a failure is recorded again, and its function timed."""

import json
import subprocess
import sys

import pytest
from interpreters import ROOT

pytestmark = pytest.mark.root

SUITE = """
TIMES = 3

def tokenize(count):
    total = 0
    for number in range(count):
        total = (total * 31 + number) & 0xFFFF
    return total

def render(count):
    return "-".join(str(number) for number in range(count))

def checkout():
    for _ in range(TIMES):
        tokenize(4000)
    render(8000)
    return sorted(number * 7919 % 1009 for number in range(4000))

def test_checkout(flame):
    flame(checkout)
"""
POLICY = "version: 1\nrecord: {busy: 100%, processes: 2, seconds: 0.3}\n"


def run(*words, cwd):
    return subprocess.run(
        words,
        capture_output=True,
        text=True,
        check=False,
        cwd=cwd,
        stdin=subprocess.DEVNULL,
        timeout=240,
    )


@pytest.mark.parametrize("newer", [True, False], ids=["3.14", "this"])
def test_a_failure_says_what_timing_it_directly_says(tmp_path, newer):
    python = sys.executable
    if newer:
        python = ROOT / "build" / "pythons" / "environment-3.14" / "bin" / "python"
        if not python.exists():
            pytest.skip("no environment of CPython 3.14: run tools/pythons.py --environment 3.14")
    (tmp_path / "ci-flame.yml").write_text(POLICY)
    suite = tmp_path / "test_shop.py"
    suite.write_text(SUITE)
    (tmp_path / ".gitignore").write_text(".ci-flame/\n__pycache__/\n")
    git = ("git", "-c", "user.name=a", "-c", "user.email=a@example.org")
    for words in (("init", "-q"), ("add", "-A"), ("commit", "-qm", "base")):
        assert run(*git, *words, cwd=tmp_path).returncode == 0
    suite.write_text(SUITE.replace("TIMES = 3", "TIMES = 12"))
    pytest_of = (python, "-m", "pytest", "-q", "-p", "no:cacheprovider", "--flame")

    done = run(*pytest_of, "--flame-baseline", "rerun:HEAD", cwd=tmp_path)

    assert done.returncode == 1, done.stdout
    report = tmp_path / ".ci-flame" / "report"
    (benchmark,) = json.loads((report / "verdict.json").read_text())["benchmarks"]
    finding = next(f for f in benchmark["findings"] if f["function"] == "test_shop:tokenize")
    again = run(python, "-m", "ci_flame", "explain", report, cwd=tmp_path)
    assert again.stdout.rstrip().endswith("judged again: fail (the same)")
    assert finding["sentence"] in done.stdout
    assert finding["sentence"] in again.stdout
    if not newer and sys.version_info < (3, 12):
        why = "Not timed directly: Python 3.11 cannot time single functions, 3.12 can."
        assert why in finding["sentence"]
        assert finding["timed"] is None
        return
    timed = finding["timed"]
    assert timed["calls"] == [3, 12]
    assert (timed["processes_before"], timed["processes_after"]) == (2, 2)
    assert timed["growth"] > 1
    assert "Timed directly: +" in finding["sentence"]
    assert "calls 3 -> 12, each " in finding["sentence"]
    stored = json.loads((report / "before" / "run.json").read_text())["benchmarks"][0]
    names = [each[2] for each in stored["processes"][0]["timing"]["functions"]]
    assert names == ["checkout", "tokenize"]
