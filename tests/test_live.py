"""Processes that run already: all of their tree is sampled, in slices, and nothing else."""

import subprocess
import sys
import time
from pathlib import Path

import pytest

from ci_flame.collect import COLLECTORS, Target, machine
from ci_flame.profile import Frame

FAMILY = """
import os, sys, threading, time

def spin_parent():
    while True:
        sum(i * i for i in range(1000))

def spin_child():
    while True:
        sum(i * i for i in range(1000))

def spin_thread():
    while True:
        sum(i * i for i in range(1000))

def idle():
    while True:
        time.sleep(0.05)

for work in (spin_child, idle):
    if os.fork() == 0:
        work()
threading.Thread(target=spin_thread, daemon=True).start()
print("ready", flush=True)
spin_parent()
"""


def usable(name, *, python):
    return name in COLLECTORS and COLLECTORS[name].obstacle(machine.probe(), python=python) is None


needs_ebpf = [
    pytest.mark.root,
    pytest.mark.skipif(not usable("ebpf", python=True), reason="no eBPF here"),
]


def children(pid):
    return [int(word) for word in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]


@pytest.fixture
def family(tmp_path):
    """A Python process with a busy thread, a busy child and an idle one, all running."""
    script = tmp_path / "family.py"
    script.write_text(FAMILY)
    process = subprocess.Popen([sys.executable, str(script)], stdout=subprocess.PIPE)
    assert process.stdout.readline() == b"ready\n"
    kin = children(process.pid)
    yield process, kin
    for pid in kin:
        subprocess.run(["kill", "-KILL", str(pid)], check=False)
    process.kill()
    process.wait()
    process.stdout.close()


class TestEbpf:
    pytestmark = needs_ebpf

    def test_processes_that_run_already_are_sampled_together(self, family):
        process, kin = family
        session = COLLECTORS["ebpf"].start(
            Target(pid=process.pid, pids=tuple(kin), python=True, frequency_hz=999)
        )
        try:
            session.set_phase(1)
            time.sleep(1.0)
            session.set_phase(0)
            recording = session.read()
        finally:
            session.close()

        seen = {frame.function for stack in recording.samples[1] for frame in stack}
        assert {"spin_parent", "spin_child", "spin_thread"} <= seen
        roots = {stack[0] for stack in recording.samples[1]}
        assert Frame("<module>", "family") in roots
