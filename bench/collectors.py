"""What each collector costs the program it samples, what it keeps, and what it needs itself.

    sudo .venv/bin/python bench/collectors.py [--pairs 12] [--seconds 0.25] [--only ebpf …]
    sudo .venv/bin/python bench/collectors.py --long [60]     eight busy threads at 4,999 Hz

The same fixed work runs in pairs of windows of this process, one with the collector attached and
one without, in turns (on off, off on, …), all rows in each turn, so that drift of the machine's
speed falls on all alike. Overheads are medians over the pairs of with / without - 1, with their
quartiles and an interval of the median that holds it in 95 of 100 such tables. The row `none`
compares two windows without any collector: what this machine can tell. `timer` are the bare
perf events of every CPU, which interrupt and do nothing.

Kept: samples of the window / (its CPU time x frequency). Full: samples whose stack reaches the
benchmark's function; perf sees no Python. Ready: seconds until `start` returns. Memory: the peak
resident set of the collector's processes (VmHWM), without what they share with ours.
"""

import argparse
import fcntl
import hashlib
import json
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol

from ci_flame.collect import COLLECTORS, Collector, Recording, Session, Target
from ci_flame.collect.machine import perf_attributes, perf_event_open, probe
from ci_flame.collect.perf.collector import PerfCollector
from ci_flame.errors import CiFlameError

ENABLE = 0x2400
"""PERF_EVENT_IOC_ENABLE."""
LEAD_IN = 10
GOALS = {"ebpf 99": "the floor", "ebpf 999": "<= 1.5 %", "ebpf 4999": "<= 6 %"}
READY_GOAL_S = 0.25
MEMORY_GOAL_MB = 50
BUSY_THREADS = 8
BUSY = """
import hashlib, sys, threading
block = bytes(1 << 20)
def busy():
    while True:
        hashlib.sha256(block).digest()
for _ in range(int(sys.argv[1])):
    threading.Thread(target=busy, daemon=True).start()
print(flush=True)
sys.stdin.read()
"""
"""Threads that hold no lock while they hash: as many run as there are CPUs."""


def fibonacci(n: int) -> int:
    """Call for calling's sake."""
    return n if n < 2 else fibonacci(n - 1) + fibonacci(n - 2)  # noqa: PLR2004


def benchmark(repeats: int) -> None:
    """Do what benchmarks do: calls, loops, dictionaries, sorting, C code."""
    for _ in range(repeats):
        fibonacci(13)
        sum(value * value for value in range(2000))
        json.loads(json.dumps({str(k): [k] * 3 for k in range(100)}))
        sorted(range(1000), key=lambda value: -value)
        hashlib.sha256(b"x" * 100_000).digest()


def calibrate(seconds: float) -> int:
    """Return the repeats that take about this long."""
    before = time.process_time()
    benchmark(100)
    return max(int(100 * seconds / (time.process_time() - before)), 1)


class Measured(Protocol):
    """What a window is run under."""

    def __call__(self, row: "Row", repeats: int) -> tuple[float, float]:
        """Run the work once; return its CPU and wall seconds."""


@dataclass
class Row:
    """One line of the table."""

    name: str
    frequency_hz: int
    measured: Measured
    cpu: list[float] = field(default_factory=list)
    wall: list[float] = field(default_factory=list)
    ready_s: list[float] = field(default_factory=list)
    memory_kb: list[int] = field(default_factory=list)
    samples: int = 0
    full: int = 0
    lost: int = 0
    window_s: float = 0.0
    trouble: str = ""

    @property
    def label(self) -> str:
        """`ebpf 999`; the frequency left out where there is none."""
        return f"{self.name} {self.frequency_hz}" if self.frequency_hz else self.name

    def pair(self, repeats: int, *, on_first: bool) -> None:
        """Run both windows of a pair."""
        if self.trouble:
            return
        try:
            if on_first:
                on = self.measured(self, repeats)
                off = timed(repeats)
            else:
                off = timed(repeats)
                on = self.measured(self, repeats)
        except CiFlameError as error:
            self.trouble = error.message
            return
        self.cpu.append(on[0] / off[0] - 1)
        self.wall.append(on[1] / off[1] - 1)

    def __str__(self) -> str:
        if self.trouble:
            return f"{self.label:<15} {self.trouble}"
        cells = [f"{self.label:<15}", spread(self.cpu), f"{statistics.median(self.wall):+8.2%}"]
        if self.samples:
            kept = self.samples / (self.window_s * self.frequency_hz)
            full = f"{self.full / self.samples:7.2%}" if self.full else f"{'-':>7}"
            cells += [f"{kept:8.2%}", full, f"{self.lost:5}"]
        else:
            cells += [f"{'-':>8}", f"{'-':>7}", f"{'-':>5}"]
        ready = f"{statistics.median(self.ready_s):6.2f} s" if self.ready_s else f"{'-':>8}"
        memory = f"{max(self.memory_kb) / 1024:5.0f} MB" if self.memory_kb else f"{'-':>8}"
        return "  ".join([*cells, ready, memory, GOALS.get(self.label, "")]).rstrip()


def spread(ratios: list[float]) -> str:
    """Return the median, the quartiles and the interval of the median, by ranks."""
    ordered = sorted(ratios)
    count = len(ordered)
    low, high = (statistics.quantiles(ordered, n=4)[i] for i in (0, 2)) if count > 1 else (0, 0)
    # Ranks that a binomial of one half leaves out in 5 of 100 cases.
    rank = max(0, int((count - 1.96 * count**0.5) / 2))
    middle = statistics.median(ordered)
    interval = f"[{ordered[rank]:+.2%}, {ordered[count - 1 - rank]:+.2%}]"
    return f"{middle:+7.2%} ({low:+.2%} to {high:+.2%}) {interval:<18}"


def timed(repeats: int) -> tuple[float, float]:
    """Return the CPU and wall seconds of the work."""
    wall, cpu = time.perf_counter(), time.process_time()
    benchmark(repeats)
    return time.process_time() - cpu, time.perf_counter() - wall


def alone(_row: Row, repeats: int) -> tuple[float, float]:
    """Run the window without a collector."""
    return timed(repeats)


def under_timer(row: Row, repeats: int) -> tuple[float, float]:
    """Run the window with one perf event per CPU that has no program."""
    events = [
        perf_event_open(perf_attributes(round(1e9 / row.frequency_hz)), -1, cpu)
        for cpu in sorted(os.sched_getaffinity(0))
    ]
    try:
        if min(events) < 0:
            row.trouble = f"no cpu-clock event: {os.strerror(-min(events))}"
            return 1.0, 1.0
        for event in events:
            fcntl.ioctl(event, ENABLE, 0)
        benchmark(max(repeats // LEAD_IN, 1))
        return timed(repeats)
    finally:
        for event in events:
            if event >= 0:
                os.close(event)


def under(collector: Collector, *, python: bool = True) -> Measured:
    """Return what runs a window under a collector that is attached to this process."""

    def measured(row: Row, repeats: int) -> tuple[float, float]:
        target = Target(
            os.getpid(),
            python=python,
            frequency_hz=row.frequency_hz,
            roots=(str(Path(__file__).parent),),
        )
        before = set(children())
        with attached(collector, target, row) as session:
            if python:
                session.set_phase(2)
                # The cost of starting and of reading symbols is left out.
                benchmark(max(repeats // LEAD_IN, 1))
                session.set_phase(0)
            session.set_phase(1)
            seconds = timed(repeats)
            session.set_phase(0)
            row.memory_kb.append(sum(peak_kb(pid) for pid in set(children()) - before))
            recording = session.read()
        row.window_s += seconds[0]
        count(row, recording)
        return seconds

    return measured


@contextmanager
def attached(collector: Collector, target: Target, row: Row) -> Iterator[Session]:
    """Start the collector and put it away."""
    start = time.perf_counter()
    session = collector.start(target)
    row.ready_s.append(time.perf_counter() - start)
    try:
        yield session
    finally:
        session.close()


def count(row: Row, recording: Recording) -> None:
    """Add the samples of the window."""
    stacks = recording.samples.get(1, {})
    row.samples += sum(stacks.values())
    row.full += sum(
        n for stack, n in stacks.items() if any(f.function == "benchmark" for f in stack)
    )
    row.lost += recording.lost


def children() -> Iterator[int]:
    """Return all processes that descend from this one."""
    parents = {}
    for file in Path("/proc").glob("[0-9]*/stat"):
        with suppress(OSError, ValueError, IndexError):
            parents[int(file.parent.name)] = int(file.read_text().rpartition(")")[2].split()[1])
    wanted = {os.getpid()}
    while more := {pid for pid, parent in parents.items() if parent in wanted} - wanted:
        wanted |= more
    yield from wanted - {os.getpid()}


def peak_kb(pid: int) -> int:
    """Return the highest resident set that a process has had, in kB; 0 where it has ended."""
    with suppress(OSError):
        for line in Path(f"/proc/{pid}/status").read_text().splitlines():
            if line.startswith("VmHWM:"):
                return int(line.split()[1])
    return 0


def table(only: list[str]) -> list[Row]:
    """Return the rows: none and the timers always, of the others those that are wanted."""
    rows = [Row("none", 0, alone), *(Row("timer", hz, under_timer) for hz in (99, 999, 4999))]
    named: list[tuple[str, int, Callable[[], Measured]]] = [
        *(("ebpf", hz, lambda: under(COLLECTORS["ebpf"])) for hz in (99, 999, 1999, 4999)),
        ("bcc", 999, lambda: under(COLLECTORS["bcc"])),
        ("perf-fp", 999, lambda: under(PerfCollector(), python=False)),
        ("perf-dwarf", 999, lambda: under(PerfCollector(call_graph="dwarf"), python=False)),
        ("py-spy", 99, lambda: under(COLLECTORS["py-spy"])),
        ("py-spy", 999, lambda: under(COLLECTORS["py-spy"])),
    ]
    return rows + [Row(n, hz, make()) for n, hz, make in named if not only or n in only]


def compare(options: argparse.Namespace) -> None:
    """Print the table of overheads."""
    repeats = calibrate(options.seconds)
    rows = table(options.only)
    for turn in range(options.pairs):
        for row in rows:
            row.pair(repeats, on_first=turn % 2 == 0)
    print(f"{options.pairs} pairs of windows of about {options.seconds} s of CPU time")
    print(
        f"{'':<15}   CPU time: median (quartiles) [95 %]                     wall      kept"
        "     full   lost     ready    memory  goal"
    )
    print(*rows, sep="\n")
    print(f"goals of ebpf besides: ready in {READY_GOAL_S} s, memory under {MEMORY_GOAL_MB} MB")


def endure(seconds: float) -> None:
    """Record eight busy threads at 4,999 Hz: what was lost, and the memory as time goes on."""
    with subprocess.Popen(
        [sys.executable, "-I", "-c", BUSY, str(BUSY_THREADS)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
    ) as program:
        if program.stdout is None or not program.stdout.readline():
            sys.exit("the busy program does not start")
        before = set(children())
        session = COLLECTORS["ebpf"].start(Target(program.pid, python=True, frequency_hz=4999))
        try:
            started, cpu = time.monotonic(), cpu_seconds(program.pid)
            session.set_phase(1)
            resident = []
            while (left := started + seconds - time.monotonic()) > 0:
                time.sleep(min(left, max(seconds / 12, 1.0)))
                resident.append(sum(peak_kb(pid) for pid in set(children()) - before) / 1024)
            session.set_phase(0)
            cpu = cpu_seconds(program.pid) - cpu
            elapsed = time.monotonic() - started
            recording = session.read()
        finally:
            session.close()
            program.kill()
    samples = sum(recording.samples.get(1, {}).values())
    print(
        f"{BUSY_THREADS} busy threads for {elapsed:.0f} s, {cpu:.1f} s of CPU time, 4,999 Hz:"
        f" {samples} samples kept, {samples / (cpu * 4999):.2%} of those expected,"
        f" {recording.lost} lost, {recording.metrics.get('collector.unsent', 0):.0f} unsent"
    )
    print("peak memory of the collector, MB:", *(f"{each:.1f}" for each in resident))


def cpu_seconds(pid: int) -> float:
    """Return the CPU time that a process has used."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def main() -> None:
    """Print a table, or endure."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--pairs", type=int, default=12)
    parser.add_argument("--seconds", type=float, default=0.25, help="CPU time of a window")
    parser.add_argument(
        "--only", nargs="+", default=[], metavar="NAME",
        choices=["ebpf", "bcc", "perf-fp", "perf-dwarf", "py-spy"],
    )  # fmt: skip
    parser.add_argument(
        "--long", nargs="?", type=float, const=60.0, metavar="SECONDS",
        help="eight busy threads at 4,999 Hz instead, 60 s; 600 shows that memory is bounded",
    )  # fmt: skip
    options = parser.parse_args()
    found = probe()
    load = os.getloadavg()[0]
    print(f"{found.cpu_model}, {found.cores} cores, Linux {found.kernel}, Python {found.python},"
          f" load {load:.1f}")  # fmt: skip
    if options.long:
        endure(options.long)
    else:
        compare(options)


if __name__ == "__main__":
    main()
