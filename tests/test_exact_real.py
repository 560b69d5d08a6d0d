"""Exact counts from end to end: recorded by pytest, compared with a stored baseline, judged."""

import json
import subprocess
import sys
import xml.etree.ElementTree as ET

import pytest
from interpreters import ROOT

pytestmark = pytest.mark.root

SUITE = """
import pytest

LENGTH = {length}

def tokenize(count):
    total = 0
    for number in range(count):
        total += small(number)
    return total

def small(number):
    return number & 7

def test_call(flame):
    flame(tokenize, LENGTH)

def test_block(flame):
    rows = [tokenize(5) for _ in range(20)]
    with flame:
        tokenize(LENGTH)
    assert rows

@pytest.mark.flame
def test_marker():
    tokenize(LENGTH)
"""
POLICY = """\
version: 1
rules:
  - {{metric: {metric}, max_growth: 0%}}
  - {{metric: {metric}, max_growth: 0%, frames: "test_words:*"}}
"""
FLAGS = ("--flame-processes", "2", "--flame-seconds", "0.2")


def run(python, folder, *flags):
    return subprocess.run(
        [python, "-m", "pytest", "-q", "-p", "no:cacheprovider", "--flame", *FLAGS, *flags],
        capture_output=True,
        text=True,
        check=False,
        cwd=folder,
        stdin=subprocess.DEVNULL,
        timeout=240,
    )


@pytest.mark.parametrize("newer", [True, False], ids=["3.14", "this"])
def test_two_percent_more_work_fails_and_the_same_work_does_not(tmp_path, newer):
    python = sys.executable
    if newer:
        python = ROOT / "build" / "pythons" / "environment-3.14" / "bin" / "python"
        if not python.exists():
            pytest.skip("no environment of CPython 3.14: run tools/pythons.py --environment 3.14")
    metric = "bytecodes" if newer or sys.version_info >= (3, 12) else "calls"
    (tmp_path / "ci-flame.yml").write_text(POLICY.format(metric=metric))
    suite = tmp_path / "test_words.py"
    suite.write_text(SUITE.format(length=1000))
    baseline = run(python, tmp_path, "--flame-out", "base", "--flame-baseline", "none")
    assert baseline.returncode == 0, baseline.stdout

    same = run(python, tmp_path, "--flame-baseline", "folder:base")
    suite.write_text(SUITE.format(length=1020))
    more = run(python, tmp_path, "--flame-baseline", "folder:base")

    assert same.returncode == 0, same.stdout
    assert more.returncode == 1, more.stdout
    report = json.loads((tmp_path / ".ci-flame" / "report" / "verdict.json").read_text())
    found = {each["benchmark"]: each["findings"] for each in report["benchmarks"]}
    assert {name.partition("::")[2] for name in found} == {"test_call", "test_block", "test_marker"}
    for findings in found.values():
        names = {each["function"] for each in findings}
        guilty = "test_words:tokenize" if metric == "bytecodes" else "test_words:small"
        assert guilty in names, findings
        assert {each["sort"] for each in findings} == {"count"}
    junit = ET.parse(tmp_path / ".ci-flame" / "report" / "junit.xml").getroot()  # noqa: S314 - ours
    assert len(junit.findall(".//testcase/failure")) >= 3
