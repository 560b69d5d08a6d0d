"""Model, pure: exact counts of the work of an iteration, and how they were made.

What a function executes does not depend on the machine: the same bytecodes and calls mean the
same work, whatever it cost. Counts explain a cost; they do not replace it.
"""

from dataclasses import dataclass

from ci_flame.profile.frame import Frame


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
