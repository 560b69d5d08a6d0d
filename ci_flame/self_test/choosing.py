"""Stage 4, pure: which functions to plant into, how many turns, and which limit to recommend."""

import math
import statistics
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from ci_flame.policy import Policy, Rule, gates_total, matches_frame
from ci_flame.profile import TOTAL, Frame, Kind, Measurement, Mode
from ci_flame.self_test.loops import MAX_TURNS
from ci_flame.simplify import judged

LEAST_GROWTH: Final = 0.20
"""What is planted where the limit is lower than half of it."""
OVER_LIMIT: Final = 2.0
"""... and where it is not: this many times the limit."""
LEAST_SHARE: Final = 0.02
"""Own share from which on a function is chosen by itself."""
MIDDLE_SHARE: Final = 0.10
"""What the smallest of the chosen functions is near to."""
OWN_PART: Final = 0.5
"""Of its total cost: a function that mostly calls others is chosen where nothing else is."""
LIMITS: Final = (0.03, 0.05, 0.10, 0.15, 0.20, 0.25, 0.30, 0.40, 0.50, 0.75, 1.0)
"""What is recommended: a person would have typed it."""
WANTED: Final = 0.05
"""The growth whose price in seconds is told."""
MOST_TIMES: Final = 100.0
"""Nobody records that many times as long."""


@dataclass(frozen=True, slots=True)
class Candidate:
    """A Python function of a benchmark: what it costs per iteration."""

    frame: Frame
    own_share: float
    share: float
    """With what it calls."""
    cost: float
    """With what it calls, per iteration, in repetitions of the core reference."""


def candidates(measurements: Sequence[Measurement]) -> tuple[Candidate, ...]:
    """Return the Python functions below the benchmark's own, the dearest by own cost first."""
    own: Counter[Frame] = Counter()
    total: Counter[Frame] = Counter()
    everything = 0
    for measurement in measurements:
        for stack, weight in measurement.profile(Mode.ON_CPU).stacks.items():
            everything += weight.samples
            leaf = judged(stack)[-1]
            if leaf.kind is Kind.PYTHON:
                own[leaf] += weight.samples
            for frame in set(stack):
                total[frame] += weight.samples
    cost = _cost(measurements)
    if not everything or not cost:
        return ()
    found = [
        Candidate(frame, own[frame] / everything, count / everything, cost * count / everything)
        for frame, count in total.items()
        if frame.kind is Kind.PYTHON
    ]
    return tuple(sorted(found, key=lambda each: (-each.own_share, str(each.frame))))


def _cost(measurements: Sequence[Measurement]) -> float:
    """Return the benchmark's cost per iteration, in repetitions of the core reference."""
    costs = [
        each.cpu_ns / each.iterations / statistics.fmean(each.references["core"])
        for measurement in measurements
        for process in measurement.processes
        for each in process.rounds
        if each.references.get("core") and not each.dropped
    ]
    return statistics.median(costs) if costs else 0.0


def choose(found: Sequence[Candidate], count: int, globs: Sequence[str]) -> tuple[Candidate, ...]:
    """Return one large, one near 10 % and one between them (by own share), and so on.

    `globs`: what the user has named; then those, the dearest first, whatever their share.
    """
    if globs:
        named = [each for each in found if matches_frame(globs, each.frame) and each.own_share]
        return tuple(named[:count])
    large = [each for each in found if each.own_share >= LEAST_SHARE and _plain(each.frame)]
    leafy = [each for each in large if each.own_share >= OWN_PART * each.share]
    left = leafy if len(leafy) >= count else large
    chosen: list[Candidate] = []
    for wanted in (1.0, MIDDLE_SHARE):
        if left and len(chosen) < count:
            chosen.append(_nearest(left, wanted))
            left = [each for each in left if each not in chosen]
    while left and len(chosen) < count:
        shares = sorted(each.own_share for each in chosen)
        between = math.sqrt(shares[0] * shares[-1])
        chosen.append(_nearest(left, between))
        left = [each for each in left if each not in chosen]
    return tuple(sorted(chosen, key=lambda each: (-each.own_share, str(each.frame))))


def _plain(frame: Frame) -> bool:
    """Tell what `def` made; lambdas and comprehensions are expressions without statements."""
    return not frame.function.endswith(">")


def _nearest(found: Sequence[Candidate], share: float) -> Candidate:
    return min(found, key=lambda each: (abs(math.log(each.own_share / share)), str(each.frame)))


def limit_of(policy: Policy, benchmark: str, frame: Frame) -> tuple[float | None, Rule | None]:
    """Return the lowest relative limit on growth of a frame, and its rule; None: no rule."""
    limits = [
        (rule.max_growth.share, rule)
        for rule in policy.rules
        if rule.applies_to(benchmark, Mode.ON_CPU)
        and rule.max_growth is not None
        and rule.max_growth.share is not None
        and (gates_total(rule) if frame == TOTAL else rule.matches_frame(frame))
    ]
    return min(limits, key=lambda each: each[0], default=(None, None))


def growth_to_plant(limit: float | None) -> float:
    """Return the growth that a gate with this limit should find."""
    return max(LEAST_GROWTH, OVER_LIMIT * (limit or 0.0))


def turns_for(cost: float, calls: float, growth: float, turn: float, entry: float) -> int:
    """Return the turns of the loop that make a function so much dearer; at least one.

    All costs in repetitions of the core reference; `cost` and `calls` per iteration.
    """
    if calls <= 0 or turn <= 0:
        return 0
    return min(max(1, round((growth * cost / calls - entry) / turn)), MAX_TURNS)


def planted_growth(turns: int, cost: float, calls: float, turn: float, entry: float) -> float:
    """Return the growth that so many turns make; the inverse of `turns_for`, with rounding."""
    return calls * (entry + turns * turn) / cost if cost else 0.0


def recommended(visible: float | None) -> float | None:
    """Return the smallest usual limit that is not below what can be seen; None: there is none."""
    if visible is None:
        return None
    return next((limit for limit in LIMITS if limit >= visible - 1e-9), None)


def seconds_for(wanted: float, visible: float | None, seconds: float) -> float | None:
    """Return the seconds a side that would see `wanted`, in more processes; None: too many.

    Standard errors of ln cost shrink with the root of the processes.
    """
    if visible is None:
        return None
    times = (math.log1p(visible) / math.log1p(wanted)) ** 2
    return seconds * times if times <= MOST_TIMES else None


def upper_end(failures: int, comparisons: int, level: float = 0.95) -> float:
    """Return the one-sided upper end of a rate of failures.

    Clopper and Pearson 1934, by the quantile of the beta distribution.
    """
    from scipy.special import betaincinv  # noqa: PLC0415 - slow to import, needed at the end

    if comparisons <= failures:
        return 1.0
    return float(betaincinv(failures + 1, comparisons - failures, level))
