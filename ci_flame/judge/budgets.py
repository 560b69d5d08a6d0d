"""Stage 5, pure: budgets look at one side only, so they hold with a baseline or without."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from ci_flame import noise
from ci_flame.diff import Change, Columns, change, speed
from ci_flame.diff.evidence import Evidence, Flags, Side, collect
from ci_flame.judge.family import matched_nodes
from ci_flame.noise import Floats, Shares
from ci_flame.policy import Rule, Severity
from ci_flame.profile import TOTAL, Frame, Measurement, Mode, Place, Stack
from ci_flame.verdict import Finding, Outcome, Sort, limit_text


@dataclass(frozen=True, slots=True, eq=False)
class _Cost:
    """One cost that a budget may limit."""

    frame: Frame
    path: Stack
    counts: Floats
    """Samples by process."""
    nodes: Flags
    under: str = ""


@dataclass(frozen=True, slots=True)
class _Whole:
    """What the benchmark costs, ns per iteration, and how sure that is."""

    ns: float
    error: float
    """Standard error of its logarithm."""


def judge(columns: Columns, rules: Sequence[Rule], benchmark: str, mode: str) -> list[Finding]:
    """Return the broken budgets of the after side; costs at the baseline's machine speed."""
    side = columns.evidence.sides[1]
    clock = columns.clock
    if columns.waiting:
        whole = _waited(side)
    elif clock.anchor == "shares":
        whole = _raw(side)
    else:
        error = np.sqrt(clock.variance / len(side.clocks) + clock.systematic**2)
        whole = _Whole(float(columns.estimates.after[0]), float(error))
    return _judge(
        columns.evidence,
        side,
        rules,
        whole,
        benchmark=benchmark,
        mode=mode,
        places=columns.places,
        changes=_Lookup(columns),
    )


def judge_alone(measurement: Measurement, mode: Mode, rules: Sequence[Rule]) -> list[Finding]:
    """Return the broken budgets of a benchmark that has nothing to be compared with."""
    evidence = collect((measurement,), mode)
    side = evidence.sides[0]
    if not side.clocks:
        return []
    return _judge(
        evidence,
        side,
        rules,
        _raw(side) if side.waiting is None else _waited(side),
        benchmark=measurement.benchmark,
        mode=str(mode),
        places=measurement.places,
        changes=None,
    )


def _raw(side: Side) -> _Whole:
    """Return the cost by the clock of this machine, whose mood is part of the error."""
    costs = np.array([speed.process_clock(clocks, ())[0] for clocks in side.clocks])
    squares = float(((costs - costs.mean()) ** 2).sum())
    prior = speed.RAW_DEGREES
    variance = (prior * speed.RAW_SPREAD**2 + squares) / (prior + len(costs) - 1)
    return _Whole(float(np.exp(costs.mean())), float(np.sqrt(variance / len(costs))))


def _waited(side: Side) -> _Whole:
    """Return the waiting as it was timed: it does not depend on the machine's speed."""
    alone = noise.wait_shares(side.total[None, :])
    return _Whole(float(side.total.mean()), float(alone.standard_error[0]))


class _Lookup:
    """(frame, own) -> its change, made when a finding needs it."""

    def __init__(self, columns: Columns) -> None:
        self._columns = columns

    def __call__(self, frame: Frame, *, own: bool) -> Change:
        """Return one function's change, or the benchmark's."""
        columns = self._columns
        if frame == TOTAL:
            return change(columns.estimates, 0)
        function = columns.evidence.frames.index(frame)
        row = columns.own_row(function) if own else columns.total_row(function)
        return change(columns.estimates, row)


def _costs(evidence: Evidence, side: Side, rule: Rule) -> list[_Cost]:
    """Return the costs that this budget names, largest first."""
    made = []
    if TOTAL.function in rule.frames:
        made.append(_Cost(TOTAL, (TOTAL,), side.total, evidence.judged))
    counts = side.frame_own if rule.self_only else side.frame_total
    for function in np.flatnonzero(counts.sum(axis=1) > 0).tolist():
        frame = evidence.frames[function]
        if rule.matches_frame(frame):
            here = evidence.judged & (evidence.node_frame == function)
            nodes = np.flatnonzero(here)
            heaviest = int(nodes[int(np.argmax(side.node_total[nodes].sum(axis=1)))])
            under = here if rule.self_only else evidence.below(here) & evidence.judged
            made.append(_Cost(frame, evidence.path(heaviest), counts[function], under))
    if rule.paths:
        for frame, mask in matched_nodes(evidence, rule).items():
            nodes = np.flatnonzero(mask)
            heaviest = int(nodes[int(np.argmax(side.node_total[nodes].sum(axis=1)))])
            path = evidence.path(heaviest)
            under = mask if rule.self_only else evidence.below(mask) & evidence.judged
            sums = side.node_own[under].sum(axis=0)
            caller = str(path[-2]) if len(path) > 1 else ""
            made.append(_Cost(frame, path, sums, under, caller))
    return sorted(made, key=lambda cost: (-float(cost.counts.sum()), str(cost.frame)))


def _judge(
    evidence: Evidence,
    side: Side,
    rules: Sequence[Rule],
    whole: _Whole,
    *,
    benchmark: str,
    mode: str,
    places: Mapping[Frame, Place],
    changes: _Lookup | None,
) -> list[Finding]:
    found: list[Finding] = []
    for rule in rules:
        if rule.budget is None:
            continue
        costs = _costs(evidence, side, rule)
        if not costs:
            continue
        rows = np.vstack([side.total, *(cost.counts for cost in costs)])
        if side.waiting is None:
            shares = noise.shares(rows, noise.fit_prior(side.frame_own))
        else:
            shares = noise.wait_shares(rows)
        covered = np.zeros(len(evidence.parent), dtype=bool)
        for row, cost in enumerate(costs, start=1):
            answer = _over(rule, shares, row, whole)
            if answer is None or (covered | ~cost.nodes).all():
                continue  # what is inside a cost that was reported is no second cause
            certainty, text, interval = answer
            covered |= cost.nodes
            share = float(shares.share[row])
            alone = Change(
                0.0, share * whole.ns, 0.0, share, float("inf"),
                float(shares.standard_error[row]), float(shares.degrees[row]), 1.0,
                -1.0, float("inf"), 0, round(float(cost.counts.sum())),
            )  # fmt: skip
            known = None if cost.under else changes
            found.append(
                Finding(
                    benchmark=benchmark,
                    mode=mode,
                    frame=cost.frame,
                    path=cost.path,
                    change=known(cost.frame, own=rule.self_only) if known else alone,
                    outcome=Outcome.FAIL if rule.severity is Severity.FAIL else Outcome.WARN,
                    rule=rule,
                    limit=text,
                    self_only=rule.self_only,
                    certainty=certainty,
                    place=places.get(cost.frame),
                    sort=Sort.BUDGET,
                    under=cost.under,
                    budget_interval=interval,
                )
            )
    return found


def _over(
    rule: Rule, shares: Shares, row: int, whole: _Whole
) -> tuple[float, str, tuple[float, float]] | None:
    """Return certainty, limit and interval of a broken budget; None: it holds, or may."""
    budget = rule.budget
    share, degrees = float(shares.share[row]), float(shares.degrees[row])
    if budget is None or share <= 0:
        return None
    reach = float(noise.quantile(degrees, 0.95))
    for limit, value, error, text in (
        (budget.share, share, float(shares.standard_error[row]), limit_text(share=budget.share)),
        (
            budget.ns,
            share * whole.ns,
            float(np.hypot(shares.standard_error[row], whole.error)),
            limit_text(ns=budget.ns),
        ),
    ):
        if limit is None or value <= limit:
            continue
        distance = float(np.log(value / limit)) if limit > 0 else np.inf
        certainty = float(noise.probability_above(distance, max(error, 1e-12), degrees, 0.0))
        if certainty >= rule.certainty:
            ends = value * np.exp(-reach * error), value * np.exp(reach * error)
            return certainty, text, (float(ends[0]), float(ends[1]))
    return None
