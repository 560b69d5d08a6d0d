"""Waiting, end to end: real sleeps and locks, the real collector, the verdict by name."""

import json
import re
import subprocess
import sys
from pathlib import Path

import pytest

from ci_flame.baseline import folder
from ci_flame.collect import COLLECTORS, machine
from ci_flame.profile import Mode

WHY = COLLECTORS["ebpf"].obstacle(machine.probe(), python=True)
pytestmark = [
    pytest.mark.root,
    pytest.mark.skipif(WHY is not None, reason=f"eBPF: {WHY and WHY.reason}"),
]
PLAIN = ("-p", "no:randomly", "-p", "no:cacheprovider", "-p", "no:asyncio")
# Tests must not depend on how busy the machine is that they run on.
POLICY = "version: 1\nrecord: {busy: 100%, confirm: false}\n"
SHOP = """
import os, threading, time

def nap():
    time.sleep(float(os.environ.get("NAP", "0.010")))

def twenty():
    for _ in range(20):
        nap()

def hold(lock, taken):
    with lock:
        taken.set()
        time.sleep(float(os.environ.get("HOLD", "0.020")))

def guarded(lock):
    with lock:
        pass

def contended():
    lock, taken = threading.Lock(), threading.Event()
    holder = threading.Thread(target=hold, args=(lock, taken))
    holder.start()
    taken.wait()
    guarded(lock)
    holder.join()
"""
TEST = """
import shop

def test_waits(flame):
    flame(shop.twenty)
"""
MAIN = """
import shop
shop.twenty()
for _ in range(15):
    shop.contended()
"""


@pytest.fixture
def project(tmp_path, monkeypatch):
    for name, text in (
        ("ci-flame.yml", POLICY), ("shop.py", SHOP), ("test_shop.py", TEST), ("main.py", MAIN),
    ):  # fmt: skip
        (tmp_path / name).write_text(text, encoding="utf-8")
    monkeypatch.chdir(tmp_path)
    for name in ("PYTEST_ADDOPTS", "NAP", "HOLD"):
        monkeypatch.delenv(name, raising=False)
    return tmp_path


def run(*words, code):
    done = subprocess.run(
        [sys.executable, "-m", *map(str, words)],
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
        stdin=subprocess.DEVNULL,
    )
    assert done.returncode == code, done.stdout + done.stderr
    assert "Traceback" not in done.stderr
    return done.stdout


def flame(*words, code=0):
    """Record the sleeping benchmark in three processes of three rounds each."""
    modes = ("--flame-mode", "off-cpu", "--flame-mode", "on-cpu")
    size = ("--flame-processes=3", "--flame-seconds=0.4")
    return run("pytest", "--flame", *modes, *size, *PLAIN, *words, code=code)


def verdict(report):
    return json.loads((Path(report) / "verdict.json").read_text("utf-8"))


def test_sleeps_of_12_ms_for_10_fail_by_name_and_the_same_code_passes(project, monkeypatch):
    flame("--flame-out", "base", "--flame-baseline", "none")
    (measurement,) = folder.load(project / "base").measurements

    assert measurement.modes == (Mode.ON_CPU, Mode.OFF_CPU)
    waited = measurement.profile(Mode.OFF_CPU)
    sleeps = {s: w for s, w in waited.stacks.items() if str(s[-1]) == "[sleep]"}
    per_iteration = sum(weight.value for weight in sleeps.values()) / waited.iterations
    assert per_iteration == pytest.approx(200e6, rel=0.05)
    assert all("shop:nap" in map(str, stack) for stack in sleeps)

    same = flame("--flame-baseline", "base", "--flame-report", "same")
    assert "test_shop.py::test_waits [off-cpu] PASS" in same
    assert "only its waiting is judged" in same  # of the on-CPU profile, which is nearly empty

    monkeypatch.setenv("NAP", "0.012")
    text = flame("--flame-baseline", "base", "--flame-report", "slow", code=1)
    assert "shop:nap waits " in text
    assert re.search(r"Most of (it|the growth) \(\d+ %\) is in \[sleep\]", text)
    on_cpu, off_cpu = verdict("slow")["benchmarks"]
    (finding,) = off_cpu["findings"]
    assert (on_cpu["mode"], on_cpu["outcome"]) == ("on-cpu", "pass")
    assert (off_cpu["mode"], off_cpu["outcome"]) == ("off-cpu", "fail")
    assert finding["function"] == "shop:nap"
    assert finding["change"]["growth"] == pytest.approx(0.2, abs=0.05)
    assert finding["file"] == "shop.py"

    again = run("ci_flame", "explain", "slow", code=0)
    assert "judged again: fail (the same)" in again
    assert "shop:nap waits " in again
    pictures = sorted(path.name for path in Path("slow").glob("*.svg"))
    assert [name.endswith(".off-cpu.svg") for name in pictures] == [True, False]


def test_a_lock_held_longer_fails_a_command_by_the_path_that_waits(project, monkeypatch):
    command = ("--name", "shop", "--repeat", "4", "--mode", "off-cpu", "--", sys.executable)
    run("ci_flame", "record", "-o", "base", *command, "main.py", code=0)
    text = run("ci_flame", "export", "base", "--format", "folded", "--mode", "off-cpu", code=0)
    of_lock = [line for line in text.splitlines() if "shop:guarded" in line and "[lock]" in line]
    microseconds = sum(int(line.rpartition(" ")[2]) for line in of_lock)

    # Four processes of 15 locks that are held for 20 ms.
    assert microseconds == pytest.approx(4 * 15 * 20_000, rel=0.15)

    same = run("ci_flame", "check", "--baseline", "base", "-o", "same", *command, "main.py", code=0)
    assert "shop [off-cpu] PASS" in same

    monkeypatch.setenv("HOLD", "0.030")
    text = run("ci_flame", "check", "--baseline", "base", "-o", "slow", *command, "main.py", code=1)
    (benchmark,) = verdict("slow")["benchmarks"]
    guilty = {finding["function"] for finding in benchmark["findings"]}
    assert "shop:guarded" in guilty
    assert guilty <= {"shop:guarded", "shop:hold", "threading:Thread._wait_for_tstate_lock"}
    waiting = next(f for f in benchmark["findings"] if f["function"] == "shop:guarded")
    assert waiting["path"][-2:] == ["shop:contended", "shop:guarded"]
    assert "shop:guarded waits 5" in text or "shop:guarded waits 4" in text


def test_a_mode_that_was_not_recorded_is_refused_by_name(project):
    command = ("--name", "shop", "--repeat", "1", "--mode", "off-cpu", "--", sys.executable)
    run("ci_flame", "record", "-o", "base", *command, "main.py", code=0)
    done = subprocess.run(
        [sys.executable, "-m", "ci_flame", "export", "base", "--format", "folded",
         "--mode", "on-cpu"],
        capture_output=True, text=True, check=False,
    )  # fmt: skip

    assert done.returncode == 2
    assert "shop was not recorded on-cpu" in done.stderr
    assert "--mode takes one of: off-cpu" in done.stderr


@pytest.mark.parametrize("name", ["perf", "py-spy"])
def test_collectors_that_do_not_see_waiting_are_refused_by_name(project, name):
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "--flame", "--flame-mode", "off-cpu",
         "--flame-collector", name, *PLAIN],
        capture_output=True, text=True, check=False, timeout=60,
    )  # fmt: skip

    assert done.returncode == 4
    assert f"{name}: does not see waiting (off-cpu)" in done.stdout + done.stderr
