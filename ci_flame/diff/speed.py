"""Stage 4, pure: the machine's speed, from the reference work and from the functions.

ln cost(function) = machine(process) + what the code costs; this module finds the machine.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations
from typing import Final

import numpy as np

from ci_flame import noise
from ci_flame.noise import (
    CLOCK_DEGREES,
    FAR_WIDER,
    SETTLED,
    Estimates,
    Floats,
    Machine,
    Prior,
)

CLOCK_SPREAD: Final = 0.04
"""Prior standard deviation, between processes, of ln(cost / reference); measured 0.007 to 0.06
where the reference fits the work."""
UNSEEN_CLOCK_SPREAD: Final = 0.05
"""The same where one process a side leaves it unmeasured: assumed, and said."""
RAW_SPREAD: Final = 0.20
"""CPU time per iteration between processes, no reference; measured 0.16 to 0.26."""
RAW_DEGREES: Final = 8.0
"""A quiet quarter of an hour does not make a machine quiet."""
SPARSE_ERROR: Final = 0.02
"""Floor for the centre of functions: that few of them changed is an assumption."""
CENTRE_FUNCTIONS: Final = 5
"""Functions of at least `CENTRE_SHARE` that a centre needs."""
CENTRE_SHARE: Final = 0.01
CENTRE_DOMINANT: Final = 0.35
"""Own share above which one function would drag the centre along."""
BLEND_GAIN: Final = 0.90
"""The mean of two references replaces the best one only below this ratio of their spreads."""
DRIFT: Final = 0.05
"""From here on a trend of ln(cost / reference) within processes is said: between what five quiet
processes show by chance (under 2 %) and what grows or shrinks with every call."""
_DRIFT_ROUNDS: Final = 12
"""Rounds that a process needs to show a trend: four in each third."""


@dataclass(frozen=True, slots=True)
class Clocks:
    """One process's rounds that count: their clocks and references, one entry a round."""

    iterations: Floats
    cpu_ns: Floats
    references: Mapping[str, Floats]
    """Kind -> CPU ns of one repetition (median of the round's repetitions); NaN: none."""


# --- references ---------------------------------------------------------------------------


def _reference(clocks: Clocks, kinds: Sequence[str]) -> Floats:
    """Return ln of the geometric mean of the kinds, by round; NaN where one is missing."""
    return np.asarray(np.mean([np.log(clocks.references[kind]) for kind in kinds], axis=0))


def choose_kinds(sides: Sequence[Sequence[Clocks]]) -> tuple[str, ...]:
    """Return the reference work whose rounds follow the benchmark's best; empty: none usable.

    The measure is the spread of ln(cost / reference) over the rounds *within* processes,
    pooled over both sides so that the choice is the same for both. A pair's geometric mean is
    taken only where it is clearly better; weights are never fitted, because a free fit
    shrinks towards zero (the references are noisy too).
    """
    processes = [clocks for side in sides for clocks in side]
    if not processes:
        return ()
    common = sorted(
        set.intersection(
            *(
                {kind for kind, values in c.references.items() if np.isfinite(values).any()}
                for c in processes
            )
        )
    )
    spreads: dict[tuple[str, ...], float] = {}
    for kinds in [(k,) for k in common] + list(combinations(common, 2)):
        squares, degrees = 0.0, 0
        ratios = [
            np.log(clocks.cpu_ns / clocks.iterations) - _reference(clocks, kinds)
            for clocks in processes
        ]
        ratios = [ratio[np.isfinite(ratio)] for ratio in ratios]
        if not all(map(len, ratios)):
            continue  # a process has both kinds, but never in one round
        for ratio in ratios:
            if len(ratio) > 1:
                # Median absolute deviation: one interrupted round must not choose the kind.
                centre = float(np.median(ratio))
                spread = float(np.median(np.abs(ratio - centre))) * 1.4826
                squares += spread**2 * (len(ratio) - 1)
                degrees += len(ratio) - 1
        spreads[kinds] = float(np.sqrt(squares / degrees)) if degrees else 0.0
    singles = [kinds for kinds in spreads if len(kinds) == 1]
    if not singles:
        return ()
    best = min(singles, key=lambda kinds: (spreads[kinds], kinds))
    pairs = [kinds for kinds in spreads if len(kinds) > 1]
    if pairs:
        pair = min(pairs, key=lambda kinds: (spreads[kinds], kinds))
        if spreads[pair] < BLEND_GAIN * spreads[best]:
            return pair
    return best


def process_clock(clocks: Clocks, kinds: Sequence[str]) -> tuple[float, float]:
    """Return ln(CPU ns per iteration) of the process, and ln of its mean reference.

    Both are means over iterations, not medians over rounds: a median would leave out rounds
    for their cost, and growth in fewer than half of them with it.
    """
    used = np.ones(len(clocks.iterations), dtype=bool)
    reference = 0.0
    if kinds:
        each = _reference(clocks, kinds)
        used = np.isfinite(each)
        weights = clocks.iterations[used]
        reference = float(np.log(np.average(np.exp(each[used]), weights=weights)))
    cost = float(np.log(clocks.cpu_ns[used].sum() / clocks.iterations[used].sum()))
    return cost, reference


def drift(side: Sequence[Clocks], kinds: Sequence[str]) -> float:
    """Return by how much ln(cost / reference) moves from the first to the last third of rounds.

    The mean over processes of one side; 0 where it is under `DRIFT`, under three times its
    own standard error, not the same way in both halves, or not to be told from the machine
    (no reference, or too few rounds).
    """
    if not kinds:
        return 0.0
    halves = []
    for clocks in side:
        ratio = np.log(clocks.cpu_ns / clocks.iterations) - _reference(clocks, kinds)
        ratio = ratio[np.isfinite(ratio)]
        if len(ratio) >= _DRIFT_ROUNDS:
            first, middle, last = (np.median(part) for part in np.array_split(ratio, 3))
            halves.append((middle - first, last - middle))
    if not halves:
        return 0.0
    each = np.array(halves)
    moved = each.sum(axis=1)
    mean = float(moved.mean())
    error = float(moved.std(ddof=1)) / np.sqrt(len(moved)) if len(moved) > 1 else 0.0
    one_way = bool((each.mean(axis=0) * mean > 0).all())
    return mean if one_way and abs(mean) >= max(DRIFT, 3 * error) else 0.0


def _pooled(before: Floats, after: Floats) -> tuple[float, int]:
    """Return the sum of squares within the sides and its degrees of freedom."""
    squares = float(((before - before.mean()) ** 2).sum() + ((after - after.mean()) ** 2).sum())
    return squares, len(before) + len(after) - 2


def _moderated(squares: float, degrees: int, spread: float, prior: float) -> float:
    """Return the variance shrunk towards `spread ** 2` (Smyth 2004, eq. 8)."""
    return (prior * spread**2 + squares) / (prior + degrees)


# --- the centre of functions --------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Centre:
    """Where most functions' shares moved: what one that did not change looks like."""

    shift: float
    """ln(share after / before) of an unchanged function."""
    error: float
    before: Floats
    """Deviation of each process's centre from its side's mean."""
    after: Floats


def centre_of_functions(before: Floats, after: Floats, prior: Prior) -> Centre | None:
    """Return the robust centre of ln(share after / before), or None where there is none.

    `before` and `after`: own samples, functions x processes. Tukey's biweight, so that a
    function that changed by more than its noise has no say at all.
    """
    totals_before, totals_after = before.sum(axis=0), after.sum(axis=0)
    share = (before.sum(axis=1) / totals_before.sum() + after.sum(axis=1) / totals_after.sum()) / 2
    usable = (share >= CENTRE_SHARE) & (before.sum(axis=1) >= 1) & (after.sum(axis=1) >= 1)
    if usable.sum() < CENTRE_FUNCTIONS or share.max() > CENTRE_DOMINANT:
        return None
    log_before = np.log((before[usable] + 0.5) / totals_before)
    log_after = np.log((after[usable] + 0.5) / totals_after)
    change = log_after.mean(axis=1) - log_before.mean(axis=1)
    variance = (
        prior.poisson / before[usable].sum(axis=1)
        + prior.poisson / after[usable].sum(axis=1)
        + prior.spread**2 * (1 / before.shape[1] + 1 / after.shape[1])
        + 0.005**2
    )
    weights = 1 / variance
    order = np.argsort(change)
    cumulated = np.cumsum(weights[order])
    low = change[order][np.searchsorted(cumulated, cumulated[-1] / 2)]
    high = change[order[::-1]][np.searchsorted(np.cumsum(weights[order[::-1]]), cumulated[-1] / 2)]
    shift = float(low + high) / 2  # both medians: the same centre when the sides are swapped
    kept = weights
    for _ in range(30):
        distance = (change - shift) / (4.0 * np.sqrt(variance))
        kept = weights * np.clip(1 - distance**2, 0.0, None) ** 2
        if kept.sum() <= 0:
            kept = weights
            break
        moved = float(np.average(change, weights=kept))
        if abs(moved - shift) < SETTLED:
            break
        shift = moved
    if (kept > 0.05 * weights).sum() < CENTRE_FUNCTIONS - 1:
        return None  # no centre: most functions moved, each its own way
    deviation_before = log_before - log_before.mean(axis=1, keepdims=True)
    deviation_after = log_after - log_after.mean(axis=1, keepdims=True)
    return Centre(
        shift,
        float(np.sqrt(1 / kept.sum())),
        np.average(deviation_before, axis=0, weights=kept),
        np.average(deviation_after, axis=0, weights=kept),
    )


# --- the machine --------------------------------------------------------------------------


def machine(
    before: Sequence[Clocks],
    after: Sequence[Clocks],
    centre: Centre | None,
    *,
    given: bool = False,
) -> Machine:
    """Bring both sides' processes to the baseline's machine speed.

    The references anchor it. A centre of functions helps where it agrees with them, weighted
    by the inverse of the variances; where the two disagree, everything grew (or shrank)
    together, and the references are right. Without references the centre stands alone, and
    without both only shares can be compared.

    `given`: somebody told how much work each recording covers. CPU time per iteration is the
    anchor then, as a reference that never changes would be; what such clocks differ by without a
    change (`RAW_SPREAD`, and what these do) is its error.
    """
    kinds = choose_kinds((before, after))
    clocks_before = np.array([process_clock(c, kinds) for c in before])
    clocks_after = np.array([process_clock(c, kinds) for c in after])
    raw_before, reference_before = clocks_before[:, 0], clocks_before[:, 1]
    raw_after, reference_after = clocks_after[:, 0], clocks_after[:, 1]
    per_side = 1 / len(before) + 1 / len(after)
    raw_variance = _moderated(*_pooled(raw_before, raw_after), RAW_SPREAD, RAW_DEGREES)
    raw_shift = float(raw_after.mean() - raw_before.mean())
    raw_error = float(np.sqrt(raw_variance * per_side))
    level = float(raw_before.mean())

    by_reference = None
    if kinds:
        fixed = float(reference_before.mean())
        log_before = raw_before - reference_before + fixed
        log_after = raw_after - reference_after + fixed
        by_reference = log_before, log_after
    elif given:
        by_reference = raw_before, raw_after
    by_centre = None
    if centre is not None:
        by_centre = level - centre.before, level - centre.shift - centre.after

    weight = 0.0
    if by_reference is not None and by_centre is not None and centre is not None:
        weight = _weight_of_centre(
            by_reference, centre, per_side, raw_variance if given and not kinds else None
        )
    elif by_centre is not None:
        weight = 1.0
    if by_reference is None and by_centre is None:
        flat_before, flat_after = np.full(len(before), level), np.full(len(after), level)
        return Machine(
            "shares", (), flat_before, flat_after, 0.0, 0.0, raw_error, raw_shift, raw_error
        )
    one, other = by_reference or by_centre, by_centre or by_reference
    assert one is not None  # noqa: S101 - for mypy; both None returned above
    assert other is not None  # noqa: S101 - as above
    log_before = (1 - weight) * one[0] + weight * other[0]
    log_after = (1 - weight) * one[1] + weight * other[1]
    squares, degrees = _pooled(log_before, log_after)
    prior = _believed(squares, degrees)
    variance = (
        _moderated(squares, degrees, CLOCK_SPREAD, prior) if degrees else UNSEEN_CLOCK_SPREAD**2
    )
    systematic = weight * SPARSE_ERROR if centre is not None else 0.0
    if weight == 1.0 and centre is not None:
        systematic = float(np.hypot(SPARSE_ERROR, centre.error))
        variance = squares / degrees if degrees else centre.error**2
    anchor = {0.0: "references", 1.0: "functions"}.get(weight, "references+functions")
    if given and not kinds:
        anchor = "given+functions" if weight else "given"
        variance = (1 - weight) ** 2 * raw_variance
        prior = prior if weight else RAW_DEGREES
        if centre is not None and weight:
            variance += weight**2 * _spread_of(centre)
            systematic = weight * float(np.hypot(SPARSE_ERROR, centre.error))
    return Machine(
        anchor,
        kinds,
        log_before,
        log_after,
        variance,
        systematic,
        float(np.sqrt(variance * per_side + systematic**2)),
        raw_shift,
        raw_error,
        prior,
    )


def _spread_of(centre: Centre) -> float:
    """Return the variance of a centre between processes; 0 where it is not measured."""
    squares, degrees = _pooled(centre.before, centre.after)
    return squares / degrees if degrees else 0.0


def spread(before: Floats, after: Floats) -> tuple[float, float]:
    """Return the variance of ln(cost / reference) between processes, and its degrees of freedom.

    Both sides pooled and moderated, as the machine's clock is; a side that happens to be quiet
    does not vouch for one that is not. One process a side: assumed.
    """
    squares, degrees = _pooled(before, after)
    if not degrees:
        return UNSEEN_CLOCK_SPREAD**2, CLOCK_DEGREES
    prior = _believed(squares, degrees)
    one, other = (float(((side - side.mean()) ** 2).sum()) for side in (before, after))
    own = noise.satterthwaite(one, len(before) - 1, other, len(after) - 1)
    known = min(float(degrees), float(own)) + prior
    return _moderated(squares, degrees, CLOCK_SPREAD, prior), known


def _believed(squares: float, degrees: int) -> float:
    """Return what the assumed spread of the clock weighs, in degrees of freedom.

    A benchmark whose processes spread far wider than any reference allows is not one that the
    assumption was made for, and it must not make the benchmark look quieter (cf. Phipson and
    others 2016, robust hyperparameters).
    """
    if not degrees or squares <= 0:
        return CLOCK_DEGREES
    return CLOCK_DEGREES * min(1.0, FAR_WIDER * CLOCK_SPREAD**2 * degrees / squares)


def uncorrected(total: Estimates) -> Machine:
    """Compare times as they are: waiting does not get shorter on a faster machine.

    `total`: the estimates whose first row is all waiting.
    """
    shift, error = float(total.log_ratio[0]), float(total.standard_error[0])
    none = np.zeros(0)
    return Machine(
        "clock", (), none, none, 0.0, 0.0, error, shift if np.isfinite(shift) else 0.0, error
    )


def _weight_of_centre(
    by_reference: tuple[Floats, Floats],
    centre: Centre,
    per_side: float,
    known: float | None = None,
) -> float:
    """Return the weight of the centre against the references, 0 where they disagree.

    `known`: the variance of the references between processes, where they are none of ours.
    """
    if known is None:
        squares, degrees = _pooled(*by_reference)
        known = (
            _moderated(squares, degrees, CLOCK_SPREAD, CLOCK_DEGREES)
            if degrees
            else UNSEEN_CLOCK_SPREAD**2
        )
    variance = known * per_side
    other = centre.error**2 + SPARSE_ERROR**2
    growth = float(by_reference[1].mean() - by_reference[0].mean())
    if abs(growth + centre.shift) > 2 * np.sqrt(variance + other):
        return 0.0
    return float(variance / (variance + other))
