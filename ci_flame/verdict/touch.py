"""Model, pure: what a diff did to the functions of a run: whose change a finding is."""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from enum import StrEnum
from types import MappingProxyType


class Touch(StrEnum):
    """What a diff did to a function."""

    CHANGED = "changed"
    """Its own lines do something else now, or it is new."""
    READS = "reads"
    """A name of its module that it looks up is bound to something else now."""
    CALLS = "calls"
    """A function that ran below it changed."""
    MOVED = "moved"
    """The same function stood in another file."""
    UNTOUCHED = "untouched"
    ELSEWHERE = "elsewhere"
    """Its file is not of this repository."""


@dataclass(frozen=True, slots=True)
class Spot:
    """Where a diff touched one function."""

    how: Touch
    """CHANGED, READS or MOVED."""
    file: str
    """In the repository, after the change."""
    line: int
    told: str = ""
    """READS: the name; MOVED: the file that it came from."""


def _no_spots() -> Mapping[str, Spot]:
    return MappingProxyType({})


@dataclass(frozen=True, slots=True)
class Touched:
    """What a diff touched of the functions of a run."""

    since: str
    """In words: `1a2b3c4d5e (the baseline's commit)`."""
    spots: Mapping[str, Spot] = field(default_factory=_no_spots)
    """By the function's name as `str(frame)` gives it."""
    files: frozenset[str] = frozenset()
    """Files of places (`Place.file`) that are of this repository."""
    dependencies: tuple[str, ...] = ()
    """Changed files that choose what is installed (`requirements.txt`, `uv.lock`)."""
    native: frozenset[str] = frozenset()
    """Native functions whose lines are known from line tables, touched or not."""
    unlined: frozenset[str] = frozenset()
    """Native functions that were built in the work tree, without line tables."""

    def __or__(self, other: "Touched") -> "Touched":
        """Return both: the same diff, the functions of two benchmarks."""
        return replace(
            self,
            spots={**self.spots, **other.spots},
            files=self.files | other.files,
            native=self.native | other.native,
            unlined=self.unlined | other.unlined,
        )
