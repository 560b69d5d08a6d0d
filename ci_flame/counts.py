"""Model, pure: exact counts of work, and suspects that were timed call by call.

What a function executes does not depend on the machine: the same bytecodes and calls mean the
same work, whatever it cost. Counts explain a cost; they do not replace it.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from types import MappingProxyType

from ci_flame.frame import Frame


@dataclass(frozen=True, slots=True)
class Count:
    """Exact counts of one function in one untimed iteration; all its calls together."""

    calls: int
    bytecodes: int | None = None
    """Executed by the function itself; None: this Python cannot tell (3.11)."""
    total_calls: int | None = None
    """Its own and those of everything that it called; recursion counts once. None: unsteady."""
    total_bytecodes: int | None = None
    """Of the function and everything that it called."""


@dataclass(frozen=True, slots=True)
class Counting:
    """How one process counted; without it no counts were asked for."""

    python: str
    """Minor version (`3.12`): bytecodes of two minors have nothing to do with each other."""
    hash_seed: str
    """PYTHONHASHSEED that it ran with; `random` where the order of sets was left to chance."""
    iterations: int = 0
    """Counted ones; with two of them, functions that differ between them are known."""
    left_out: str = ""
    """Why there are no counts, in words; empty: there are."""
    unsteady: frozenset[Frame] = frozenset()
    """Functions whose own counts differ from one iteration to the next."""


def _no_references() -> Mapping[str, tuple[int, ...]]:
    return MappingProxyType({})


@dataclass(frozen=True, slots=True)
class Timed:
    """One suspect, timed call by call in rounds of its own; entry n of every tuple is round n."""

    iterations: tuple[int, ...] = ()
    calls: tuple[int, ...] = ()
    """Of the function; calls that it makes of itself are inside of one."""
    cpu_ns: tuple[int, ...] = ()
    """CPU time of the benchmark's thread inside those calls, callees included."""
    references: Mapping[str, tuple[int, ...]] = field(default_factory=_no_references)
    """Kind -> CPU ns of the reference work right after each round, its middle repetition."""
    left_out: str = ""
    """Why it was not timed; empty: it was."""
