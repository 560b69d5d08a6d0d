"""A monorepo recorded for real, in a folder of it: every report points at files from its root."""

import json
import subprocess
import sys
import xml.etree.ElementTree as ET

import pytest
from test_cli_real import CI_FLAME, needs_ebpf, run_git

from ci_flame.baseline import folder, repository

CORE = """
def spin(n):
    total = 0
    for i in range(n):
        total += i * i % 7
    return total


def work(n):
    return spin(n) + spin(n)
"""
BENCH = """
from pay.core import work


def test_work(flame):
    flame(work, 20_000)
"""
SCRIPT = """
from pay.core import spin

for _ in range(100):
    spin(50_000)
"""
SETTINGS = '[tool.pytest.ini_options]\npythonpath = ["src"]\npython_files = ["bench_*.py"]\n'
POLICY = (
    "version: 1\nrules:\n  - {metric: calls, frames: ['pay.core:spin'], max: 1, severity: warn}\n"
)
"""Calls are counted: however busy the machine is, this is found."""
PLACE = "services/pay"
GUILTY = {"file": f"{PLACE}/src/pay/core.py", "line": 2, "of": "function"}


@pytest.fixture
def pay(tmp_path, monkeypatch):
    """Return a service of a monorepo, in its folder."""
    root = tmp_path / PLACE
    files = {
        "src/pay/core.py": CORE, "tests/bench_pay.py": BENCH, "src/run.py": SCRIPT,
        "pyproject.toml": SETTINGS, "ci-flame.yml": POLICY,
    }  # fmt: skip
    for name, text in files.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text(text)
    run_git(tmp_path, "init", "-q")
    run_git(tmp_path, "add", "-A")
    run_git(tmp_path, "commit", "-qm", "pay")
    monkeypatch.chdir(root)
    monkeypatch.delenv("PYTEST_ADDOPTS", raising=False)
    return root


def checked(*words):
    done = subprocess.run(
        [*CI_FLAME, "check", "--baseline", "none", "-o", "report", *words],
        capture_output=True, text=True, timeout=200, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr


def report(root):
    """Return what each format points at."""
    (each,) = json.loads((root / "report/verdict.json").read_text())["benchmarks"]
    (found,) = each["findings"]
    (entry,) = json.loads((root / "report/codequality.json").read_text())
    (run,) = json.loads((root / "report/results.sarif").read_text())["runs"]
    (result,) = run["results"]
    where = result["locations"][0]["physicalLocation"]
    spots = [
        (found["where"]["file"], found["where"]["line"]),
        (entry["location"]["path"], entry["location"]["lines"]["begin"]),
        (where["artifactLocation"]["uri"], where["region"]["startLine"]),
    ]
    (case,) = ET.parse(root / "report/junit.xml").getroot().iter("testcase")  # noqa: S314
    return each, found, spots, case


class TestForReal:
    pytestmark = needs_ebpf

    def test_a_suite_in_a_folder_of_a_monorepo(self, pay):
        record = ("--repeat", "2", "--seconds", "1")
        checked(*record, "--", sys.executable, "-m", "pytest", "-q", "tests")
        each, found, spots, case = report(pay)

        assert found["where"] == GUILTY
        assert set(spots) == {(GUILTY["file"], GUILTY["line"])}
        assert each["benchmark"] == "tests/bench_pay.py::test_work"
        assert each["where"] == {
            "file": f"{PLACE}/tests/bench_pay.py",
            "line": 5,
            "of": "benchmark",
        }
        assert (case.get("file"), case.get("line")) == (f"{PLACE}/tests/bench_pay.py", "5")

    def test_a_command_in_a_folder_of_a_monorepo(self, pay):
        checked("--repeat", "2", "--name", "run", "--", sys.executable, "src/run.py")
        (each,) = json.loads((pay / "report/verdict.json").read_text())["benchmarks"]
        (recorded,) = folder.load(pay / ".ci-flame/run").measurements
        (spin,) = (place for frame, place in recorded.places.items() if frame.function == "spin")
        command = recorded.root is None
        found = repository.locate([spin.file], pay, inside_first=command)

        assert command
        assert each["where"] is None, "a command's name is no file"
        assert (spin.file, spin.line) == ("src/pay/core.py", GUILTY["line"])
        assert found.files == {spin.file: GUILTY["file"]}
