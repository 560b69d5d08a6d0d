"""End to end: real pytest, the real eBPF collector, a loop in a function of a real suite."""

import json
import subprocess
import sys

import pytest

from ci_flame.collect import COLLECTORS, machine

WHY = COLLECTORS["ebpf"].obstacle(machine.probe(), python=True)
CALM = "version: 1\nrecord: {busy: 100%, processes: 2, seconds: 0.4}\nbaseline: {required: true}\n"
"""However busy the machine is that the tests run on; and a self-test needs no baseline."""
SHOP = '''
"""Shop."""


def tokenize(times):
    """Doc."""
    total = 0
    for i in range(300 * times):
        total += i * 3 % 7
    return total


class Cart:
    def sort(self):
        return sorted([i * 7919 % 1009 for i in range(300)])


def checkout():
    return tokenize(4), Cart().sort()
'''
SUITE = """
import shop

def test_checkout(flame):
    flame(shop.checkout)
"""


def spawn(root, *words):
    return subprocess.run(
        [sys.executable, "-m", "ci_flame", "self-test", *words],
        cwd=root,
        capture_output=True,
        text=True,
        check=False,
        timeout=400,
    )


@pytest.fixture
def project(tmp_path):
    (tmp_path / "shop.py").write_text(SHOP, encoding="utf-8")
    (tmp_path / "test_shop.py").write_text(SUITE, encoding="utf-8")
    (tmp_path / "ci-flame.yml").write_text(CALM, encoding="utf-8")
    # What pytest itself is told by the project holds for the further processes, too.
    (tmp_path / "pytest.ini").write_text(
        "[pytest]\naddopts = -p no:randomly -p no:asyncio -p no:cacheprovider\n", encoding="utf-8"
    )
    return tmp_path


@pytest.mark.root
@pytest.mark.skipif(WHY is not None, reason=f"eBPF: {WHY and WHY.reason}")
def test_a_gate_is_shown_to_fail(project):
    before = {file.name: file.read_bytes() for file in project.iterdir()}
    # Ten times the cost is seen by two short processes of the busiest machine.
    words = ("--functions", "1", "--growth", "900%", "--no-confirm", "--json", "--", "-q")
    done = spawn(project, *words)

    assert done.stdout.startswith("{"), done.stderr
    told = json.loads(done.stdout)
    assert [each["benchmark"] for each in told["benchmarks"]] == ["test_shop.py::test_checkout"]
    for each in told["benchmarks"]:
        (planted,) = each["planted"]
        assert planted["function"] == "shop:tokenize"
        assert planted["calls"] == 1.0
        assert planted["growth"] == pytest.approx(9.0, rel=0.02)
        assert planted["turns"] > 1000
        assert planted["found"] is True
        # Generous: 0.8 s a side beside other work.
        assert 4.0 < planted["estimate"] < 20.0
        assert [same["why"] for same in each["same"]] == [""]
    assert told["good"] is (told["false_failures"] == 0)
    assert done.returncode == (0 if told["good"] else 1)
    assert "this gate can fail (1 of 1 planted slow-downs was found)" in told["headline"]
    assert "<table>" in (project / ".ci-flame/self-test/self-test.html").read_text("utf-8")
    assert json.loads((project / ".ci-flame/self-test/self-test.json").read_bytes()) == told
    after = {name: (project / name).read_bytes() for name in before}
    assert after == before, "the user's files were touched"


@pytest.mark.parametrize(
    ("suite", "words", "code", "told"),
    [
        ("def test_a(): pass\n", (), 3, "no test is a benchmark: there is no gate to test"),
        ("", (), 3, "pytest found no test"),
        ("def test_a(flame): assert False\n", (), 3, "pytest ended with exit code 1 before any"),
        ("import absent\n", (), 3, "pytest ended with exit code 2 before any benchmark was"),
        (SUITE, ("--max-seconds", "1"), 1, "not tested       no time left: about "),
        (SUITE, ("--collector", "nothing"), 2, "nothing"),
    ],
    ids=["no benchmark", "no test", "failing", "broken", "no time", "no collector"],
)
@pytest.mark.root
@pytest.mark.skipif(WHY is not None, reason=f"eBPF: {WHY and WHY.reason}")
def test_what_cannot_be_tested_is_said_in_a_line(project, suite, words, code, told):
    (project / "test_shop.py").write_text(suite, encoding="utf-8")
    done = spawn(project, *words)

    assert done.returncode == code, done.stdout + done.stderr
    assert told in done.stdout + done.stderr
    assert "Traceback" not in done.stderr
