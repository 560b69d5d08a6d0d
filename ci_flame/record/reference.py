"""Stage 1, edge: fixed work, run right after each round, that tells how fast the machine is.

The speed of a shared machine changes by tens of percent within tens of milliseconds. A
benchmark's cost divided by that of fixed work done a moment later spreads 3 to 28 times
less between processes than the cost itself. Which kind of work follows which function
differs (an interpreter loop follows the core-bound kind, a walk over scattered objects
the memory-bound one), so several kinds run, and the judge weighs them.

The work is *fixed*, not calibrated: a reference time means the same in every process and
every run. Whoever changes what a kind does gives it a new name (`core-2`): only kinds that both
sides have are ever compared.
"""

import os
import random
import time
from collections.abc import Callable, Mapping
from typing import Final

KINDS: Final = ("core", "memory", "kernel")

REPETITIONS: Final = {"core": 3, "memory": 3, "kernel": 9}
"""Counted ones. One more runs first and is thrown away: it is 2-3 % off and more, because it
finds the caches and branch predictors as the benchmark left them; later ones are within 1 %.
The kernel's are a third as long as the others', and with three of them its median was so noisy
(6 to 9 % from round to round, with nine 4 to 6 %) that it never was chosen for its noise alone."""

_OBJECTS: Final = 400_000
"""About 16 MB of int objects and slots: more than a core's own caches hold."""
_VISITS: Final = 6_250
"""Objects visited by one repetition; each is next seen 64 repetitions later."""


class _Memory:
    """Objects in an order that has nothing to do with where they lie, and the place in it."""

    def __init__(self) -> None:
        objects = list(range(1_000, 1_000 + _OBJECTS))
        # The order must be the same in every process, and the benchmark's own use of
        # `random` must not be disturbed.
        random.Random(20_231).shuffle(objects)  # noqa: S311 - an order, not a secret
        # A tuple of ints is dropped from the garbage collector's lists at its first look,
        # so it does not make the benchmark's own collections slower.
        self.objects = tuple(objects)
        self.position = 0

    def work(self) -> int:
        start = self.position
        self.position = (start + _VISITS) % _OBJECTS
        total = 0
        for each in self.objects[start : start + _VISITS]:
            total += each
        return total


def _core() -> int:
    """Interpreter-bound: integers, a dict, strings, a sort; all of it stays in the caches."""
    total = 0
    for i in range(3_000):
        total = (total * 31 + i) & 0xFFFFFFF
    table: dict[int, int] = {}
    for i in range(1_000):
        table[i * 7 % 509] = i
    parts = "".join(map(str, range(600))).replace("9", "--").split("-")
    ordered = sorted([(i * 7_919) % 1_009 for i in range(1_000)])
    return total + len(table) + len(parts) + ordered[0]


def _kernel() -> int:
    """System calls that do no input or output: the way in and out, and a path lookup."""
    total = 0
    for _ in range(60):
        total += os.getppid() & 1
        total += os.stat("/").st_mode & 1  # noqa: PTH116 - a Path would measure pathlib
    return total


_memory: _Memory | None = None


def prepare() -> None:
    """Allocate what the work needs (about 0.1 s); once per process, before the first round.

    Calling it again does nothing.
    """
    global _memory  # noqa: PLW0603 - one per process, as its caches are
    if _memory is None:
        _memory = _Memory()


def measure() -> Mapping[str, tuple[int, ...]]:
    """Run every kind; return the thread CPU ns of each counted repetition, 2 to 4 ms in all.

    Raises ValueError where `prepare` was not called, because allocating in the middle of a
    round's reference would be measured with it.
    """
    if _memory is None:
        raise ValueError("reference.prepare() must run before reference.measure()")
    work: dict[str, Callable[[], int]] = {
        "core": _core,
        "memory": _memory.work,
        "kernel": _kernel,
    }
    return {kind: _repeat(work[kind], REPETITIONS[kind]) for kind in KINDS}


def _repeat(work: Callable[[], int], repetitions: int) -> tuple[int, ...]:
    """Return the thread CPU ns of the counted repetitions; the first one is thrown away."""
    clock = time.thread_time_ns
    work()
    times = []
    for _ in range(repetitions):
        start = clock()
        work()
        times.append(clock() - start)
    return tuple(times)
