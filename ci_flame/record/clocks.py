"""Stage 1, edge: where the times of a round come from, and when it was not the benchmark's own.

A round is left out for a cause only, never for its cost: a neighbour had the CPUs that it
could have used, or the hypervisor gave them to another machine.
"""

import os
import resource
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Final, Protocol

from ci_flame.profile import Round
from ci_flame.record import reference

STEAL_TICKS: Final = 2
"""/proc/stat counts in ticks: one more of them may have been due for long."""
TICK_NS: Final = 10_000_000
"""USER_HZ is 100 on every architecture that Linux has a collector for."""


def children_cpu_ns() -> int:
    """Return the CPU time of all waited-for child processes."""
    usage = resource.getrusage(resource.RUSAGE_CHILDREN)
    return round((usage.ru_utime + usage.ru_stime) * 1e9)


def run_delay_ns() -> int:
    """Return how long all threads of this process were runnable but waited for a CPU.

    0 where the kernel does not tell (`CONFIG_SCHED_INFO` off).
    """
    try:
        # One file per thread: /proc/self/schedstat tells of the main thread only.
        tasks = os.listdir("/proc/self/task")  # noqa: PTH208 - twice per round
    except OSError:
        return 0
    return sum(map(_delay_of_thread, tasks))


def _delay_of_thread(task: str) -> int:
    """Return the same of one thread; 0 where it has just ended: the others' must still count."""
    try:
        with open(f"/proc/self/task/{task}/schedstat", "rb") as file:  # noqa: PTH123
            return int(file.read().split()[1])
    except (OSError, IndexError, ValueError):
        return 0


def steal_ns() -> int:
    """Return how long the hypervisor gave this machine's CPUs to others since it started.

    All CPUs together, in ticks (10 ms); 0 where the kernel does not tell.
    """
    try:
        with open("/proc/stat", "rb") as file:  # noqa: PTH123 - twice per round
            return int(file.readline().split()[8]) * TICK_NS
    except (OSError, IndexError, ValueError):
        return 0


def cpus() -> int:
    """Return how many CPUs this process may use."""
    return len(os.sched_getaffinity(0))


class Opening(Protocol):
    """What a benchmark opens and closes around the work of an iteration."""

    openings: int
    """So many times since it was made or reset."""

    def open(self) -> None:
        """Begin, as late as possible."""

    def close(self) -> None:
        """End, as early as possible."""

    def shut(self) -> None:
        """End, whatever happened inside."""


@dataclass(frozen=True, slots=True)
class Clocks:
    """Where the time comes from; tests bring their own."""

    cpu_ns: Callable[[], int] = time.process_time_ns
    """Of this process, all its threads."""
    children_ns: Callable[[], int] = children_cpu_ns
    wall_ns: Callable[[], int] = time.perf_counter_ns
    run_delay_ns: Callable[[], int] = run_delay_ns
    steal_ns: Callable[[], int] = steal_ns
    references: Callable[[], Mapping[str, tuple[int, ...]]] = reference.measure


def lost_ns(each: Round, cores: int) -> int:
    """Return the CPU time of a round that its threads waited for while others had it.

    Threads of the benchmark that wait for one another's CPUs have no neighbour: what they
    could have had and did not get is at most the machine's time less their own.
    """
    return max(0, min(each.run_delay_ns, cores * each.wall_ns - each.cpu_ns))


def leave_out_busy(each: Round, limit: float, cores: int) -> Round:
    """Return the round, marked where the machine was busy for more than `limit` of its time.

    `limit` is a share of the wall time (0.2); stolen time is held against all CPUs' time.
    """
    if not each.wall_ns:
        return each
    busy = min(1.0, lost_ns(each, cores) / each.wall_ns)
    if busy > limit:
        return replace(each, dropped=f"the machine was busy for {_percent(busy, limit)} % of it")
    stolen = each.steal_ns / (each.wall_ns * cores)
    if stolen > limit and each.steal_ns >= STEAL_TICKS * TICK_NS:
        told = f"the hypervisor gave {_percent(min(stolen, 1), limit)} % of its CPUs to others"
        return replace(each, dropped=told)
    return each


def _percent(share: float, limit: float) -> str:
    """Return a share in percent that stays above the limit that it passed."""
    decimals = 0
    while decimals < 6 and float(f"{100 * share:.{decimals}f}") <= 100 * limit:  # noqa: PLR2004
        decimals += 1
    return f"{100 * share:.{decimals}f}"
