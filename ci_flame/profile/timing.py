"""Model, pure: functions that were timed directly, in rounds of their own that nobody sampled.

Sampling finds a function; the clock of every single call says how much it costs, with several
times less noise at the same seconds, and how many calls made that cost.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Final

from ci_flame.errors import FormatError
from ci_flame.profile.frame import Frame

MOST_SUSPECTS: Final = 4
"""Functions that are timed in one recording."""


@dataclass(frozen=True, slots=True)
class Timed:
    """One function in the rounds of one process: the outermost calls of all its threads."""

    calls: tuple[int, ...]
    """By round; a generator that is entered again is no further call."""
    ns: tuple[int, ...]
    """Thread CPU time by round, callees included; the cost of timing is taken off."""


def _nothing() -> Mapping[Frame, Timed]:
    return MappingProxyType({})


@dataclass(frozen=True, slots=True)
class Timing:
    """The timed rounds of one process; without it nobody asked for them."""

    iterations: tuple[int, ...] = ()
    """By round; rounds of a busy machine are not kept."""
    references: Mapping[str, tuple[int, ...]] = field(default_factory=dict)
    """Kind -> CPU ns of one repetition of the reference work after each round."""
    functions: Mapping[Frame, Timed] = field(default_factory=_nothing)
    left_out: Mapping[Frame, str] = field(default_factory=dict)
    """Function -> why it was not timed, in words."""
    event_ns: int = 0
    """What timing one call costs: measured in this process, and taken off."""
    busy: int = 0
    """Rounds that are not kept because the machine was busy."""

    def check(self, source: str) -> "Timing":
        """Return self; raise FormatError where columns differ in length."""
        rounds = len(self.iterations)
        for kind, times in self.references.items():
            if len(times) != rounds:
                raise FormatError(source, f"{len(times)} times of {kind} in {rounds} timed rounds")
        for frame, each in self.functions.items():
            if len(each.calls) != rounds or len(each.ns) != rounds:
                raise FormatError(source, f"{frame}: {len(each.ns)} times in {rounds} timed rounds")
        if not all(self.iterations):
            raise FormatError(source, "a timed round without iterations")
        return self
