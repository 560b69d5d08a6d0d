"""Stage 2, pure: the maps of a bpftrace program, as values."""

from collections.abc import Mapping
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Trace:
    """One stack in a key or a value; empty where bpftrace had none."""

    lines: tuple[str, ...]
    """Leaf first, as printed, without the indentation."""


@dataclass(frozen=True, slots=True)
class Stats:
    """What `stats()` prints."""

    count: int
    average: int
    total: int


@dataclass(frozen=True, slots=True)
class Buckets:
    """What `hist()` or `lhist()` prints."""

    rows: tuple[tuple[int | None, int | None, int], ...]
    """Lowest and highest value of a bucket, both inclusive (None: open), and its count."""

    @property
    def count(self) -> int:
        """Number of values."""
        return sum(count for _, _, count in self.rows)

    def percentile(self, share: float) -> int:
        """Return the highest value of the bucket that holds this share (0 to 1); 0: empty.

        Of a bucket that is open above, its lowest value.
        """
        wanted = share * self.count
        seen = 0
        for low, high, count in self.rows:
            seen += count
            if count and seen >= wanted:
                return high if high is not None else low if low is not None else 0
        return 0


Value = int | str | Stats | Buckets | Trace


@dataclass(frozen=True, slots=True)
class Entry:
    """One key of a map and its value."""

    key: tuple[str | Trace, ...]
    """Empty for a map without keys."""
    value: Value


@dataclass(frozen=True, slots=True)
class Map:
    """One map, in the order in which it was printed."""

    name: str
    """With its mark: `@`, `@oncpu`."""
    entries: tuple[Entry, ...]


@dataclass(frozen=True, slots=True)
class Output:
    """Everything that was read."""

    maps: tuple[Map, ...]
    lost: int = 0
    """Events that bpftrace says it lost."""
    notes: tuple[str, ...] = ()
    """What whoever uses the figures must know: maps that were printed more than once."""
    probes: int = 0
    """What bpftrace says it attached."""


def printed_again(times: Mapping[str, int]) -> tuple[str, ...]:
    """Return the notes on maps that were printed more than once (`print(@)` at an interval).

    bpftrace prints a map whole each time, unless the program clears it in between; the output
    does not tell which.
    """
    return tuple(
        f"{name} was printed {number} times and is added up: right only if the program clears it"
        for name, number in times.items()
        if number > 1
    )
