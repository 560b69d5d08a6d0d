"""Stage 4, pure: the exact counts of a benchmark's processes, both sides -> `Counts`.

A function's count stands for a side where all of its counted processes agree on it.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

from ci_flame.profile import Frame, Kind, Measurement
from ci_flame.profile.counts import Count

LEAST_PROCESSES: Final = 2
"""A side; one cannot show whether counts are the same in every process."""


@dataclass(frozen=True, slots=True)
class Work:
    """The exact counts of one function, or of the whole benchmark, on both sides."""

    before: Count
    after: Count


@dataclass(frozen=True, slots=True)
class Side:
    """What the processes of one side counted."""

    counts: Mapping[Frame, Count]
    unsteady: frozenset[Frame]
    """Functions whose own counts differ between processes, or between iterations of one."""
    total: Count | None
    """Of all functions; None where one of them is unsteady."""
    processes: int
    """That counted."""
    python: str
    hash_seed: str
    left_out: str
    """Why none counted; empty: some did, or nobody asked them to."""

    def of(self, frame: Frame) -> Count | None:
        """Return a function's count, zero where it was not called; None where it is unsteady."""
        if frame in self.unsteady or not self.processes:
            return None
        nothing = 0 if self.total is None or self.total.bytecodes is not None else None
        return self.counts.get(frame) or Count(0, nothing, 0, nothing)


@dataclass(frozen=True, slots=True)
class Counts:
    """Both sides; without a baseline the first one is None."""

    before: Side | None
    after: Side

    @property
    def trouble(self) -> str:
        """Return why the sides may not be compared, in words; empty: they may."""
        before, after = self.before, self.after
        for name, side in (("before", before), ("after", after)):
            if side is None or not side.processes:
                told = side.left_out if side is not None else ""
                return told or f"there are no counts of the side {name}"
        assert before is not None  # noqa: S101 - the loop has looked
        if before.python != after.python:
            return f"Python differs: {before.python}, {after.python}"
        seeds = before.hash_seed, after.hash_seed
        if "random" in seeds or seeds[0] != seeds[1]:
            return f"PYTHONHASHSEED is {seeds[0]} before and {seeds[1]} after; it must be the same"
        return ""

    def work(self, frame: Frame, was: Frame | None = None) -> Work | None:
        """Return the counts of a function; None where they cannot be compared.

        Only Python functions are counted. `was` is its name before, where that was another one.
        """
        if self.trouble or self.before is None or frame.kind is not Kind.PYTHON:
            return None
        one, other = self.before.of(was or frame), self.after.of(frame)
        return None if one is None or other is None else Work(one, other)

    @property
    def total(self) -> Work | None:
        """The counts of the whole benchmark; None where they cannot be compared."""
        if self.trouble or self.before is None:
            return None
        one, other = self.before.total, self.after.total
        return None if one is None or other is None else Work(one, other)


def counts(before: Measurement | None, after: Measurement) -> Counts:
    """Return the exact counts of a benchmark; without a before side that side is None."""
    return Counts(None if before is None else side(before), side(after))


def side(measurement: Measurement) -> Side:
    """Return what the processes of one side agree on."""
    asked = [each for each in measurement.processes if each.counting is not None]
    having = [(each, each.counting) for each in asked if each.counts and each.counting]
    reasons = [each.counting.left_out for each in asked if each.counting]
    if not having:
        left_out = next(filter(None, reasons), "")
        return Side({}, frozenset(), None, 0, "", "", left_out)
    unsteady = {frame for _, counting in having for frame in counting.unsteady}
    seeds = {counting.hash_seed for _, counting in having}
    first = having[0][1]
    bytecodes = any(c.bytecodes is not None for c in having[0][0].counts.values())
    nothing = Count(0, 0 if bytecodes else None, 0, 0 if bytecodes else None)
    agreed: dict[Frame, Count] = {}
    for frame in sorted({frame for each, _ in having for frame in each.counts} - unsteady):
        one, *others = (each.counts.get(frame, nothing) for each, _ in having)
        if any((c.calls, c.bytecodes) != (one.calls, one.bytecodes) for c in others):
            unsteady.add(frame)
        else:
            same = all(count == one for count in others)
            agreed[frame] = one if same else Count(one.calls, one.bytecodes)
    total = None
    if not unsteady:
        own = sum(count.bytecodes or 0 for count in agreed.values()) if bytecodes else None
        calls = sum(count.calls for count in agreed.values())
        total = Count(calls, own, calls, own)
    return Side(
        agreed, frozenset(unsteady), total, len(having), first.python,
        seeds.pop() if len(seeds) == 1 else "random", "",
    )  # fmt: skip
