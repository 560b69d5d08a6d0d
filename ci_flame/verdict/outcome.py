"""Model, pure: what a benchmark or a build came to, and the one word for several of them."""

from collections.abc import Iterable, Mapping
from enum import StrEnum
from typing import Final


class Outcome(StrEnum):
    """Ordered from best to worst by `severity_of`."""

    PASS = "pass"  # noqa: S105 - an outcome, not a password
    NO_BASELINE = "no-baseline"
    WARN = "warn"
    INCONCLUSIVE = "inconclusive"
    FAIL = "fail"


_ORDER: Final = tuple(Outcome)


def severity_of(outcome: Outcome) -> int:
    """Return the rank of an outcome; the higher, the worse."""
    return _ORDER.index(outcome)


def worst(outcomes: Iterable[Outcome]) -> Outcome:
    """Return the worst outcome; PASS where there is none."""
    return max(outcomes, key=severity_of, default=Outcome.PASS)


def overall(outcomes: Iterable[Outcome]) -> Outcome:
    """Return the outcome of several together: NO_BASELINE only where nothing was compared.

    What is new beside what was compared makes no verdict of its own.
    """
    found = list(outcomes)
    return worst([each for each in found if each is not Outcome.NO_BASELINE] or found)


def counted(outcomes: Iterable[tuple[str, Outcome]]) -> "Mapping[Outcome, int]":
    """Return how many benchmarks have each outcome, worst first; `overall` of the modes of each."""
    of: dict[str, list[Outcome]] = {}
    for benchmark, outcome in outcomes:
        of.setdefault(benchmark, []).append(outcome)
    found = [overall(modes) for modes in of.values()]
    return {each: found.count(each) for each in reversed(Outcome) if each in found}
