"""What the tests of the eBPF collector share: sessions on real processes."""

import contextlib
import os
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest

from ci_flame.collect import COLLECTORS, Target
from ci_flame.collect.machine import probe
from ci_flame.profile import Mode

HERE = Path(__file__).parent
OBSTACLE = COLLECTORS["ebpf"].obstacle(probe(), python=True)
needs_bpf = [
    pytest.mark.root,
    pytest.mark.skipif(OBSTACLE is not None, reason=f"eBPF: {OBSTACLE.reason if OBSTACLE else ''}"),
]
OFF_CPU = frozenset({Mode.OFF_CPU})
BOTH = frozenset(Mode)


@contextlib.contextmanager
def sampling(pid=None, *, modes=OFF_CPU, machine=False, roots=(str(HERE),), python=True, hz=1999):
    target = Target(
        pid or os.getpid(),
        python=python,
        frequency_hz=hz,
        roots=roots,
        modes=modes,
        machine=machine,
    )
    session = COLLECTORS["ebpf"].start(target)
    try:
        yield session
    finally:
        session.close()


def record(work, *, modes=OFF_CPU, machine=False):
    """Run `work` in one window of this process; return the recording."""
    with sampling(modes=modes, machine=machine) as session:
        session.set_phase(1)
        work()
        session.set_phase(0)
        return session.read()


def off_cpu_ns(recording, *wanted, reasons=(), phase=1):
    """Return the ns of the waits whose stack holds all of `wanted`, in this order.

    `reasons`: only those with one of these leaves.
    """
    total = 0
    for stack, weight in recording.off_cpu.get(phase, {}).items():
        rest = iter(map(str, stack))
        if all(any(frame == each for frame in rest) for each in wanted):
            total += weight.value * (not reasons or str(stack[-1]) in reasons)
    return total


def reasons(recording, phase=1):
    """Return reason -> (waits, ns)."""
    totals = {}
    for stack, weight in recording.off_cpu.get(phase, {}).items():
        before = totals.get(str(stack[-1]), (0, 0))
        totals[str(stack[-1])] = (before[0] + weight.samples, before[1] + weight.value)
    return totals


def run_delay_ns(tid="self"):
    """Return how long this thread has stood in the run queue, as the kernel counts it."""
    task = f"/proc/self/task/{tid}" if tid != "self" else "/proc/thread-self"
    return int(Path(f"{task}/schedstat").read_text().split()[1])


SCRIPT = """
import os, sys, time
{body}
def main():
    sys.stdin.readline()
    work()
    print("done", flush=True)
    sys.stdin.readline()
main()
"""


@contextlib.contextmanager
def script(tmp_path, body, python=sys.executable):
    """Start a script that works between two lines on its standard input."""
    file = tmp_path / "target.py"
    file.write_text(SCRIPT.format(body=textwrap.dedent(body)))
    with subprocess.Popen(
        [str(python), str(file)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as process:
        try:
            yield process
        finally:
            process.kill()


def tell(process):
    process.stdin.write("go\n")
    process.stdin.flush()


def record_script(tmp_path, body, *, modes=OFF_CPU, machine=False):
    with (
        script(tmp_path, body) as process,
        sampling(process.pid, modes=modes, machine=machine, roots=(str(tmp_path),)) as session,
    ):
        session.set_phase(1)
        tell(process)
        assert process.stdout.readline() == "done\n"
        session.set_phase(0)
        return session.read()
