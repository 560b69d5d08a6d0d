"""What the eBPF collector costs the process it samples, and how many samples it keeps.

    sudo .venv/bin/python bench/overhead.py [--pairs 12] [--seconds 0.25] [999 1999 4999]

The same fixed work runs in pairs of windows, one with the collector attached and one without,
in turns (on off, off on, ...), so that drift of the machine's speed falls on both alike. The
overhead is the median over the pairs of CPU time with / CPU time without, minus one; the line
`none` compares two windows without a collector and shows how well this machine can tell.
Kept is samples / (CPU time of the windows x frequency); full is the share of samples whose
Python stack reaches the benchmark's function.
"""

import argparse
import hashlib
import json
import os
import statistics
import time
from contextlib import closing, nullcontext
from pathlib import Path

from ci_flame.collect import COLLECTORS, Target
from ci_flame.collect.machine import probe


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


class Line:
    """One row of the table: pairs of windows at one frequency (0: no collector at all)."""

    def __init__(self, frequency_hz: int) -> None:
        self.frequency_hz = frequency_hz
        self.ratios: list[float] = []
        self.kept: list[float] = []
        self.samples = self.full = self.lost = 0
        self.bpf_ns = self.bpf_runs = self.collector_ns = 0.0
        self.cpu = 0.0

    def window(self, repeats: int, *, attached: bool) -> float:
        """Run the work once; return its CPU seconds."""
        if not attached or not self.frequency_hz:
            with nullcontext():
                return self.timed(repeats)
        target = Target(
            os.getpid(),
            python=True,
            frequency_hz=self.frequency_hz,
            roots=(str(Path(__file__).parent),),
        )
        with closing(COLLECTORS["ebpf"].start(target)) as session:
            session.set_phase(2)
            benchmark(max(repeats // 10, 1))
            session.set_phase(0)
            session.read()  # leaves the cost of starting and of reading symbols out
            session.set_phase(1)
            seconds = self.timed(repeats)
            session.set_phase(0)
            recording = session.read()
        stacks = recording.samples.get(1, {})
        count = sum(stacks.values())
        self.samples += count
        self.full += sum(
            n for stack, n in stacks.items() if any(f.function == "benchmark" for f in stack)
        )
        self.lost += recording.lost
        self.cpu += seconds
        self.kept.append(count / (seconds * self.frequency_hz))
        self.bpf_ns += recording.metrics.get("collector.bpf_ns", 0.0)
        self.bpf_runs += recording.metrics.get("collector.bpf_runs", 0.0)
        self.collector_ns += recording.metrics["collector.cpu_ns"]
        return seconds

    @staticmethod
    def timed(repeats: int) -> float:
        """Return the CPU seconds of the work."""
        before = time.process_time()
        benchmark(repeats)
        return time.process_time() - before

    def pair(self, repeats: int, *, on_first: bool) -> None:
        """Run both windows of a pair."""
        if on_first:
            on = self.window(repeats, attached=True)
            off = self.window(repeats, attached=False)
        else:
            off = self.window(repeats, attached=False)
            on = self.window(repeats, attached=True)
        self.ratios.append(on / off - 1)

    def __str__(self) -> str:
        middle = statistics.median(self.ratios)
        low, high = (statistics.quantiles(self.ratios, n=4)[i] for i in (0, 2))
        name = f"{self.frequency_hz} Hz" if self.frequency_hz else "none"
        row = f"{name:>8} {middle:+8.2%} ({low:+.2%} to {high:+.2%})"
        if self.samples:
            kept = self.samples / (self.cpu * self.frequency_hz)
            row += (
                f"  kept {kept:7.2%}  full {self.full / self.samples:7.2%}  lost {self.lost}"
                f"  BPF {self.bpf_ns / max(self.bpf_runs, 1):5.0f} ns/run"
                f"  {self.bpf_ns / 1e9 / self.cpu:6.2%} of CPU time"
                f"  collector {self.collector_ns / 1e9 / self.cpu:6.2%} (on another core)"
            )
        return row


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("frequencies", nargs="*", type=int, default=[999, 1999, 4999])
    parser.add_argument("--pairs", type=int, default=12)
    parser.add_argument("--seconds", type=float, default=0.25)
    options = parser.parse_args()
    found = probe()
    print(f"{found.cpu_model}, {found.cores} cores, Linux {found.kernel}, Python {found.python}")
    repeats = calibrate(options.seconds)
    lines = [Line(frequency) for frequency in (0, *options.frequencies)]
    # All frequencies in each turn: a slow minute then falls on every row.
    for turn in range(options.pairs):
        for line in lines:
            line.pair(repeats, on_first=turn % 2 == 0)
    print(*lines, sep="\n")


if __name__ == "__main__":
    main()
