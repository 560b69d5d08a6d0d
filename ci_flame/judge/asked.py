"""Stage 5, pure: what one rule says of one cost."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from ci_flame import noise
from ci_flame.diff import NOMINAL_FALSE_FAILURES, BenchmarkDiff, Columns
from ci_flame.judge.family import Unit
from ci_flame.policy import Rule, gates_total
from ci_flame.profile import TOTAL
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


def rules_for(unit: Unit, rules: Sequence[Rule]) -> list[Rule]:
    """Return the rules that judge this cost."""
    if unit.rule is not None:
        return [unit.rule]
    if unit.frame == TOTAL:
        return [rule for rule in rules if gates_total(rule)]
    return [rule for rule in rules if rule.matches_frame(unit.frame)]
