"""Stage 5, pure: whether a benchmark needs to be recorded any longer."""

from collections.abc import Iterable
from math import inf
from typing import Final

from ci_flame.diff import Change
from ci_flame.policy import Limit, Policy
from ci_flame.profile import Mode
from ci_flame.verdict import BenchmarkVerdict, Outcome

LARGE: Final = 0.05
"""Own share of the functions that a PASS must be sure of, as in `smallest_visible`."""


def decided(verdicts: Iterable[BenchmarkVerdict], policy: Policy) -> bool:
    """Tell whether longer recording would change nothing: all fail, or nothing can hide.

    `verdicts`: of one benchmark by mode, each judged at the level of the build.
    """
    return all(_decided(each, policy) for each in verdicts)


def _decided(verdict: BenchmarkVerdict, policy: Policy) -> bool:
    limits = [
        rule.max_growth
        for rule in policy.rules
        if rule.applies_to(verdict.benchmark, verdict.mode) and rule.max_growth is not None
    ]
    if verdict.diff is None or not limits:
        return True  # nothing to compare with: budgets want no more than certainty
    if verdict.outcome is Outcome.INCONCLUSIVE:
        return False
    if any(note.slug == "not-certain" for note in verdict.notes):
        return False
    seen = verdict.smallest_visible
    # A limit in seconds is the smallest share of the largest cost.
    if seen is not None and seen <= _share(limits, verdict.diff.total):
        return True
    # What was measured may exclude growth past the limit before any growth could be seen.
    costs = [verdict.diff.total] if verdict.diff.anchor != "shares" else []
    costs += [each.own for each in verdict.diff.frames if each.own.after_share >= LARGE]
    costs += [each.total for each in verdict.diff.frames if each.own.after_share >= LARGE]
    if verdict.mode == Mode.OFF_CPU:
        costs = [verdict.diff.total]
    return all(each.high <= _share(limits, each) for each in costs)


def _share(limits: Iterable[Limit], cost: Change) -> float:
    """Return the lowest limit on the growth of a cost, as a share of it."""
    shares = [each.share for each in limits if each.share is not None]
    if cost.before_ns > 0:
        shares += [each.ns / cost.before_ns for each in limits if each.ns is not None]
    return min(shares, default=inf)
