"""Stage 5, pure: what one rule says of one cost."""

from dataclasses import dataclass

import numpy as np

from ci_flame import noise
from ci_flame.diff import NOMINAL_FALSE_FAILURES, BenchmarkDiff, Columns
from ci_flame.diff.evidence import Flags
from ci_flame.judge.family import Unit
from ci_flame.noise import Estimates
from ci_flame.policy import Rule
from ci_flame.verdict import limit_text


@dataclass(frozen=True, slots=True)
class Answer:
    """What one rule says of one cost."""

    over: bool
    """The estimate is past the limit and matters."""
    certainty: float
    limit: str
    margin: float
    """ln distance of the estimate from the limit."""
    agreed: bool = True
    """False: only shares were compared, and the raw clock does not surely say the same."""


def over(rule: Rule, estimates: Estimates, columns: Columns) -> Flags:
    """Return which rows of the estimates are past the rule's limit and matter, as `ask` says it."""
    limit = rule.max_growth
    before, after = estimates.before, estimates.after
    grown = after - before
    past: Flags = np.zeros(len(before), dtype=bool)
    if limit is not None and limit.share is not None:
        past |= estimates.log_ratio > np.log1p(limit.share)
    if limit is not None and limit.ns is not None:
        past |= grown > limit.ns
    return np.asarray(past & (grown > 0) & (grown / columns.whole_ns >= rule.min_impact))


def ask(rule: Rule, unit: Unit, diff: BenchmarkDiff, columns: Columns) -> Answer:
    """Compare one cost's growth with the rule's limit; several limits: the nearest counts."""
    limit = rule.max_growth
    estimates = unit.estimates
    before, after = unit.entry(estimates.before), unit.entry(estimates.after)
    nearest, text = np.inf, "none"
    if limit is not None and limit.share is not None:
        nearest, text = float(np.log1p(limit.share)), limit_text(share=limit.share)
    if limit is not None and limit.ns is not None:
        # What is new has no cost to add the limit to: its whole cost is compared.
        absolute = float(np.log1p(limit.ns / before)) if before else float(np.log(limit.ns / after))
        if absolute < nearest:
            nearest, text = absolute, limit_text(ns=limit.ns)
    log_ratio = unit.entry(estimates.log_ratio)
    error, degrees = unit.entry(estimates.standard_error), unit.entry(estimates.degrees)
    if not before and limit is not None and limit.share is None:
        log_ratio = 0.0
        error = float(
            np.sqrt(unit.entry(estimates.dispersion) / unit.entry(estimates.samples_after))
        )
    certainty = float(noise.probability_above(log_ratio, error, degrees, nearest))
    agreed = True
    if diff.anchor == "shares" and np.isfinite(log_ratio):
        # A share also grows where another shrinks; the raw clock must agree that it did.
        clock = columns.clock
        raw, raw_error = log_ratio + clock.raw_shift, np.hypot(error, clock.raw_error)
        sure = float(noise.probability_above(raw, raw_error, degrees, nearest))
        agreed = sure >= 1 - NOMINAL_FALSE_FAILURES
    impact = (after - before) / columns.whole_ns
    return Answer(
        bool(log_ratio > nearest and impact >= rule.min_impact and after > before),
        certainty,
        text,
        log_ratio - nearest,
        agreed,
    )
