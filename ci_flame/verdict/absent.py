"""Model, pure: which benchmarks have nothing to be compared with, by the notes that say why."""

from collections.abc import Iterable
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from ci_flame.verdict import BenchmarkVerdict

NEW: Final = "new-benchmark"
BROKEN: Final = "base-broken"
"""The base commit, which nobody named, cannot run it."""
ABSENT: Final = frozenset({NEW, BROKEN, "new-mode", "no-baseline"})
"""Slugs of notes that say why a benchmark has no before side."""


def is_compared(benchmarks: "Iterable[BenchmarkVerdict]") -> bool:
    """Tell whether any has a before side, comparable or not: what `required: true` requires."""
    return any(slugs_compared(note.slug for note in each.notes) for each in benchmarks)


def slugs_compared(slugs: Iterable[str]) -> bool:
    """Tell the same of one benchmark, by the slugs of its notes."""
    return ABSENT.isdisjoint(slugs)
