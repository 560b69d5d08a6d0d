"""A renamed function that grew, end to end: real processes, the real collector, both names."""

import json
import subprocess
import sys

import pytest
from interpreters import ROOT

from ci_flame.collect import COLLECTORS, machine

WHY = COLLECTORS["ebpf"].obstacle(machine.probe(), python=True)
pytestmark = [
    pytest.mark.root,
    pytest.mark.skipif(WHY is not None, reason=f"eBPF: {WHY and WHY.reason}"),
]
PLAIN = ("-p", "no:randomly", "-p", "no:cacheprovider", "-p", "no:asyncio")
# Tests must not depend on how busy the machine is that they run on.
POLICY = "version: 1\nrecord: {busy: 100%, confirm: false}\n"
WORK = """
def add(n):
    total = 0
    for value in range(n):
        total += value & 7
    return total

def scan(n):
    total = 0
    for value in range(n):
        total ^= value * 3
    return total

def checkout():
    return add(6000) + NAME(SIZE)
"""
TEST = """
import MODULE

def test_shop(flame):
    flame(MODULE.checkout)
"""


@pytest.fixture
def project(tmp_path, monkeypatch):
    (tmp_path / "ci-flame.yml").write_text(POLICY, encoding="utf-8")
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("PYTEST_ADDOPTS", raising=False)
    return tmp_path


def version(folder, module, name, size):
    """Write one version of the project: the scanning function is called `name`."""
    text = WORK.replace("def scan", f"def {name}").replace("NAME", name)
    (folder / f"{module}.py").write_text(text.replace("SIZE", str(size)), encoding="utf-8")
    (folder / "test_shop.py").write_text(TEST.replace("MODULE", module), encoding="utf-8")


def recorded(*words, python=sys.executable):
    done = subprocess.run(
        [python, "-m", "pytest", *PLAIN, "--flame",
         "--flame-processes", "3", "--flame-seconds", "0.4", *words],
        capture_output=True, text=True, timeout=120, check=False, stdin=subprocess.DEVNULL,
    )  # fmt: skip
    return done.returncode, done.stdout + done.stderr


def test_a_rename_with_growth_on_top_fails_with_both_names(project):
    version(project, "shop", "scan", 6000)
    got, said = recorded("--flame-out", "base", "--flame-baseline", "none")
    assert got == 0, said
    (project / "shop.py").unlink()
    version(project, "store", "look", 9600)  # another file, another name, 60 % dearer

    got, said = recorded("--flame-baseline", "base", "--flame-report", "report")

    assert got == 1, said
    assert "store:look (was shop:scan) grew by " in said
    written = json.loads((project / "report/verdict.json").read_text("utf-8"))
    (benchmark,) = written["benchmarks"]
    assert benchmark["diff"]["renamed"] == {
        "store:add": "shop:add",
        "store:checkout": "shop:checkout",
        "store:look": "shop:scan",
    }
    (finding,) = (each for each in benchmark["findings"] if each["was"] == "shop:scan")
    assert 0.3 < finding["change"]["growth"] < 1.1


LOOP = """
def {name}(n):
    n += {more}
    total = 0
    for value in range(n):
        total ^= value * 3 & 1023
    return total
"""


def handed(calls, *functions):
    """Write a module of such loops, and a checkout that calls them."""
    loops = "".join(LOOP.format(name=name, more=more) for name, more in functions)
    return f"{loops}\n\ndef checkout():\n    return {calls}\n"


@pytest.mark.parametrize(
    ("more", "fails"),
    [("0", False), ("n", True)],  # `look` does what `scan` no longer does; as much again
    ids=["handed over", "and more"],
)
def test_bytecodes_witness_what_was_handed_to_a_new_function(project, more, fails):
    python = ROOT / "build" / "pythons" / "environment-3.14" / "bin" / "python"
    if not python.exists():
        pytest.skip("no environment of CPython 3.14: run tools/pythons.py --environment 3.14")
    (project / "test_shop.py").write_text(TEST.replace("MODULE", "shop"), encoding="utf-8")
    shop = project / "shop.py"
    shop.write_text(handed("scan(12000)", ("scan", "0")), encoding="utf-8")
    got, said = recorded("--flame-out", "base", "--flame-baseline", "none", python=python)
    assert got == 0, said
    after = handed("scan(6000) + look(6000)", ("scan", "0"), ("look", more))
    shop.write_text(after, encoding="utf-8")

    got, said = recorded("--flame-baseline", "base", "--flame-report", "report", python=python)

    assert got == (1 if fails else 0), said
    written = json.loads((project / "report/verdict.json").read_text("utf-8"))
    (benchmark,) = written["benchmarks"]
    notes = [each["text"] for each in benchmark["notes"] if each["slug"] == "moved"]
    if fails:
        assert "shop:look" in [each["function"] for each in benchmark["findings"]]
    else:
        assert "(which executes as many bytecodes fewer)" in notes[0], said
