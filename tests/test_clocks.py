"""The times of a round, and which rounds were not the benchmark's own."""

import os
import subprocess
import sys
import threading
import time

import pytest

from ci_flame.profile import Round
from ci_flame.record import clocks

MS = 1_000_000


def made(cpu_ms=100, wall_ms=100, delay_ms=0.0, steal_ms=0.0):
    return Round(1, cpu_ms * MS, wall_ms * MS, round(delay_ms * MS), steal_ns=round(steal_ms * MS))


@pytest.mark.parametrize(
    ("each", "said"),
    [
        (made(cpu_ms=80, delay_ms=20), ""),
        (made(cpu_ms=79, delay_ms=20.04), "the machine was busy for 20.04 % of it"),
        (made(cpu_ms=60, delay_ms=40), "the machine was busy for 40 % of it"),
        # Two CPUs, of which its own threads had all: they waited for one another.
        (made(cpu_ms=200, delay_ms=600), ""),
        (made(cpu_ms=180, delay_ms=600), ""),
        (made(cpu_ms=170, delay_ms=600), "the machine was busy for 30 % of it"),
        (made(cpu_ms=0, delay_ms=900), "the machine was busy for 100 % of it"),
        (made(steal_ms=40), ""),
        (made(steal_ms=41), "the hypervisor gave 20.5 % of its CPUs to others"),
        # Under two ticks: one may be an old one's.
        (made(cpu_ms=5, wall_ms=10, steal_ms=19), ""),
        (
            made(cpu_ms=5, wall_ms=10, steal_ms=20),
            "the hypervisor gave 100 % of its CPUs to others",
        ),
        (Round(1, 0, 0, 5), ""),
    ],
)
def test_a_round_is_left_out_for_its_cause(each, said):
    assert clocks.leave_out_busy(each, 0.20, cores=2).dropped == said


def test_the_limit_is_the_plan_s():
    each = made(cpu_ms=60, delay_ms=40)

    assert clocks.leave_out_busy(each, 1.0, cores=2).dropped == ""
    assert clocks.leave_out_busy(each, 0.39, cores=2).dropped
    assert clocks.leave_out_busy(each, 0.40, cores=2).dropped == ""


def test_a_thread_that_ends_takes_no_other_s_delay_along(monkeypatch):
    tasks = [str(os.getpid())]
    monkeypatch.setattr(clocks.os, "listdir", lambda _: tasks)
    alone = clocks.run_delay_ns()
    tasks.append("0")  # no thread of this number, as of one that was listed and is gone

    assert clocks.run_delay_ns() >= alone > 0


def test_other_threads_wait_for_a_cpu_too():
    """More busy threads than CPUs (they release the GIL): their delay is not the main thread's."""
    import hashlib

    stop = threading.Event()
    data = b"x" * (1 << 20)

    def work():
        while not stop.is_set():
            hashlib.sha256(data).digest()

    threads = [threading.Thread(target=work) for _ in range(4 * clocks.cpus())]
    for each in threads:
        each.start()
    before = clocks.run_delay_ns()
    time.sleep(0.5)
    delay = clocks.run_delay_ns() - before
    stop.set()
    for each in threads:
        each.join(10)

    assert delay > 500 * MS  # the main thread slept: what it cannot have waited itself


def test_stolen_time_only_grows():
    before = clocks.steal_ns()

    assert 0 <= before <= clocks.steal_ns()
    assert before % clocks.TICK_NS == 0


def test_what_the_kernel_does_not_tell_is_nothing(monkeypatch):
    def refuse(*_args):
        raise PermissionError

    monkeypatch.setattr("builtins.open", refuse)
    monkeypatch.setattr(clocks.os, "listdir", refuse)

    assert clocks.steal_ns() == 0
    assert clocks.run_delay_ns() == 0


def test_a_quiet_round_beside_hogs_is_seen_to_be_busy():
    """For real: two hogs for each CPU, and a window of half a second of work."""
    script = "import time\nend = time.monotonic() + 8\nwhile time.monotonic() < end: pass"
    hogs = [subprocess.Popen([sys.executable, "-c", script]) for _ in range(2 * clocks.cpus())]
    try:
        time.sleep(0.3)
        delay, cpu = clocks.run_delay_ns(), time.process_time_ns()
        wall = time.perf_counter_ns()
        while time.process_time_ns() - cpu < 300 * MS:
            pass
        each = Round(
            1,
            time.process_time_ns() - cpu,
            time.perf_counter_ns() - wall,
            clocks.run_delay_ns() - delay,
        )
    finally:
        for hog in hogs:
            hog.kill()
            hog.wait()

    assert "busy" in clocks.leave_out_busy(each, 0.20, clocks.cpus()).dropped
