"""Stage 4, pure: the machine's speed from the reference work, and how sure one can be.

Arrays in, arrays out; columns are processes, rows are functions, paths or the benchmark.
What is assumed and where each formula is from: `docs/how-it-decides.md`.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations
from typing import Final

import numpy as np
import numpy.typing as npt
from scipy.special import stdtr, stdtrit

Floats = npt.NDArray[np.float64]

PRIOR_DEGREES: Final = 8.0
"""What the benchmark's trend of variances weighs against a row's own, in degrees of freedom.
Measured on same-code processes: with 8 the false alarms come out at the nominal rate."""
LEAST_DISPERSION: Final = 0.10
"""Of counts / Poisson. Regular sampling of long visits measured 0.09 to 0.53; with fewer
processes than that takes to see, nothing smaller is believed."""
CLOCK_SPREAD: Final = 0.03
"""Prior standard deviation, between processes, of ln(cost / reference); measured 0.007 to 0.06
where the reference fits the work."""
CLOCK_DEGREES: Final = 4.0
UNSEEN_CLOCK_SPREAD: Final = 0.05
"""The same where one process a side leaves it unmeasured: assumed, and said."""
UNSEEN_SPREAD: Final = 0.04
"""A function's share between processes where one process a side leaves it unmeasured."""
RAW_SPREAD: Final = 0.20
"""CPU time per iteration between processes, no reference; measured 0.16 to 0.26."""
SPARSE_ERROR: Final = 0.02
"""Floor for the centre of functions: that few of them changed is an assumption."""
CENTRE_FUNCTIONS: Final = 5
"""Functions of at least `CENTRE_SHARE` that a centre needs."""
CENTRE_SHARE: Final = 0.01
CENTRE_DOMINANT: Final = 0.35
"""Own share above which one function would drag the centre along."""
BLEND_GAIN: Final = 0.90
"""The mean of two references replaces the best one only below this ratio of their spreads."""


SETTLED: Final = 1e-12
"""An iteration has ended when nothing moves by more."""


@dataclass(frozen=True, slots=True)
class Clocks:
    """One process's rounds that count: their clocks and references, one entry a round."""

    iterations: Floats
    cpu_ns: Floats
    references: Mapping[str, Floats]
    """Kind -> CPU ns of one repetition (median of the round's repetitions); NaN: none."""


@dataclass(frozen=True, slots=True)
class Machine:
    """How one benchmark's two sides were brought to the same machine speed."""

    anchor: str
    """`references`, `references+functions`, `functions`, `shares`, or `clock` for waiting."""
    kinds: tuple[str, ...]
    """Reference work that was used; two: their geometric mean."""
    log_cost_before: Floats
    """ln(ns per iteration at the baseline's machine speed), by process."""
    log_cost_after: Floats
    variance: float
    """Of log_cost between processes of one side, as assumed for the trend."""
    systematic: float
    """Standard error that all functions share and that more processes do not shrink."""
    error: float
    """Standard error of ln(machine speed ratio) between the sides that is left."""
    raw_shift: float
    """ln(CPU time per iteration after / before), machine and all."""
    raw_error: float


@dataclass(frozen=True, slots=True)
class Prior:
    """How counts of a function of this benchmark spread between processes.

    Relative variance of one process's count of mean k: `poisson / k + spread ** 2`.
    """

    poisson: float
    spread: float
    degrees: float = PRIOR_DEGREES


@dataclass(frozen=True, slots=True)
class Estimates:
    """One entry per row; costs in ns per iteration at the baseline's machine speed."""

    before: Floats
    after: Floats
    log_ratio: Floats
    standard_error: Floats
    degrees: Floats
    t: Floats
    """Signed; t distributed with `degrees` where nothing changed."""
    low: Floats
    """Ends of the 90 % interval of growth."""
    high: Floats
    samples_before: Floats
    samples_after: Floats
    dispersion: Floats
    """Of a process's count / Poisson."""

    @property
    def p_value(self) -> Floats:
        """Two-sided, against no change."""
        return np.asarray(2.0 * stdtr(self.degrees, -np.abs(self.t)))


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
        for clocks in processes:
            ratio = np.log(clocks.cpu_ns / clocks.iterations) - _reference(clocks, kinds)
            ratio = ratio[np.isfinite(ratio)]
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


def machine(before: Sequence[Clocks], after: Sequence[Clocks], centre: Centre | None) -> Machine:
    """Bring both sides' processes to the baseline's machine speed.

    The references anchor it. A centre of functions helps where it agrees with them, weighted
    by the inverse of the variances; where the two disagree, everything grew (or shrank)
    together, and the references are right. Without references the centre stands alone, and
    without both only shares can be compared.
    """
    kinds = choose_kinds((before, after))
    clocks_before = np.array([process_clock(c, kinds) for c in before])
    clocks_after = np.array([process_clock(c, kinds) for c in after])
    raw_before, reference_before = clocks_before[:, 0], clocks_before[:, 1]
    raw_after, reference_after = clocks_after[:, 0], clocks_after[:, 1]
    per_side = 1 / len(before) + 1 / len(after)
    squares, degrees = _pooled(raw_before, raw_after)
    raw_variance = _moderated(squares, degrees, RAW_SPREAD, CLOCK_DEGREES)
    raw_shift = float(raw_after.mean() - raw_before.mean())
    raw_error = float(np.sqrt(raw_variance * per_side))
    level = float(raw_before.mean())

    by_reference = None
    if kinds:
        fixed = float(reference_before.mean())
        log_before = raw_before - reference_before + fixed
        log_after = raw_after - reference_after + fixed
        by_reference = log_before, log_after
    by_centre = None
    if centre is not None:
        by_centre = level - centre.before, level - centre.shift - centre.after

    weight = 0.0
    if by_reference is not None and by_centre is not None and centre is not None:
        weight = _weight_of_centre(by_reference, centre, per_side)
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
    variance = (
        _moderated(squares, degrees, CLOCK_SPREAD, CLOCK_DEGREES)
        if degrees
        else UNSEEN_CLOCK_SPREAD**2
    )
    systematic = weight * SPARSE_ERROR if centre is not None else 0.0
    if weight == 1.0 and centre is not None:
        systematic = float(np.hypot(SPARSE_ERROR, centre.error))
        variance = squares / degrees if degrees else centre.error**2
    names = {0.0: "references", 1.0: "functions"}
    return Machine(
        names.get(weight, "references+functions"),
        kinds,
        log_before,
        log_after,
        variance,
        systematic,
        float(np.sqrt(variance * per_side + systematic**2)),
        raw_shift,
        raw_error,
    )


def uncorrected(before: Sequence[Clocks], after: Sequence[Clocks]) -> Machine:
    """Compare times as they are: waiting does not get shorter on a faster machine."""
    raw_before = np.array([process_clock(clocks, ())[0] for clocks in before])
    raw_after = np.array([process_clock(clocks, ())[0] for clocks in after])
    squares, degrees = _pooled(raw_before, raw_after)
    variance = _moderated(squares, degrees, RAW_SPREAD, CLOCK_DEGREES)
    shift = float(raw_after.mean() - raw_before.mean())
    error = float(np.sqrt(variance * (1 / len(before) + 1 / len(after))))
    return Machine("clock", (), raw_before, raw_after, variance, 0.0, error, shift, error)


def _weight_of_centre(
    by_reference: tuple[Floats, Floats], centre: Centre, per_side: float
) -> float:
    """Return the weight of the centre against the references, 0 where they disagree."""
    squares, degrees = _pooled(*by_reference)
    variance = (
        _moderated(squares, degrees, CLOCK_SPREAD, CLOCK_DEGREES)
        if degrees
        else UNSEEN_CLOCK_SPREAD**2
    ) * per_side
    other = centre.error**2 + SPARSE_ERROR**2
    growth = float(by_reference[1].mean() - by_reference[0].mean())
    if abs(growth + centre.shift) > 2 * np.sqrt(variance + other):
        return 0.0
    return float(variance / (variance + other))


# --- the spread of functions between processes --------------------------------------------


def _dispersion(counts: Floats, exposure: Floats) -> tuple[Floats, Floats]:
    """Return the Pearson sum of squares of one side, and its degrees of freedom, by row."""
    rate = counts.sum(axis=1) / exposure.sum()
    expected = rate[:, None] * exposure[None, :]
    with np.errstate(divide="ignore", invalid="ignore"):
        squares = np.where(expected > 0, (counts - expected) ** 2 / expected, 0.0).sum(axis=1)
    degrees = np.where(rate > 0, counts.shape[1] - 1.0, 0.0)
    return squares, degrees


def fit_prior(*sides: Floats) -> Prior:
    """Return the trend of the variances of shares over the functions of this benchmark.

    `sides`: own samples, functions x processes. Gamma regression of Pearson dispersions on
    the mean count (identity link, iterated least squares), shares' binomial factor taken out;
    two weak pseudo-functions keep it sane where there are few. With one process a side
    nothing is measured and the assumption stands.
    """
    processes = sum(side.shape[1] for side in sides)
    if processes <= len(sides):
        return Prior(1.0, UNSEEN_SPREAD)
    counts = np.sum([side.sum(axis=1) for side in sides], axis=0)
    share = counts / max(counts.sum(), 1.0)
    each = [_dispersion(side, side.sum(axis=0)) for side in sides]
    squares = np.sum([one for one, _ in each], axis=0)
    degrees = np.sum([one for _, one in each], axis=0)
    mean = counts / processes
    usable = (mean >= 5) & (degrees > 0) & (share < 0.95)  # noqa: PLR2004
    rest = 1 - share[usable]
    measured = squares[usable] / degrees[usable] / rest
    size = mean[usable] * rest
    # Pseudo-functions: Poisson at 20 samples, 2 % of extra spread at 1,000; 4 degrees each.
    measured = np.append(measured, [1.0, 1.4])
    size = np.append(size, [20.0, 1000.0])
    weights = np.append(degrees[usable], [4.0, 4.0])
    poisson, squared = 1.0, 0.0004
    for _ in range(20):
        fitted = poisson + squared * size
        by = weights / fitted**2
        s0, s1, s2 = by.sum(), (by * size).sum(), (by * size**2).sum()
        y0, y1 = (by * measured).sum(), (by * size * measured).sum()
        determinant = s0 * s2 - s1**2
        slope = (s0 * y1 - s1 * y0) / determinant if determinant > 0 else 0.0
        slope = min(max(slope, 0.0), y1 / s2)
        level = max((y0 - slope * s1) / s0, LEAST_DISPERSION)
        if max(abs(level - poisson), abs(slope - squared)) < SETTLED:
            break
        poisson, squared = float(level), float(slope)
    return Prior(poisson, float(np.sqrt(squared)))


@dataclass(frozen=True, slots=True)
class Shares:
    """One side alone: the share of each row of all samples, and how sure it is."""

    share: Floats
    standard_error: Floats
    """Of ln share."""
    degrees: Floats


def shares(counts: Floats, prior: Prior) -> Shares:
    """Return the shares of one side; `counts` as in `compare`, the benchmark first."""
    total = counts[0]
    squares, own = _dispersion(counts, total)
    processes = counts.shape[1]
    share = counts.sum(axis=1) / max(float(total.sum()), 1.0)
    rest = np.clip(1 - share, 0.0, 1.0)
    mean = counts.sum(axis=1) / processes
    expected = (prior.poisson + prior.spread**2 * mean * rest) * rest
    degrees = own + prior.degrees
    dispersion = (prior.degrees * expected + squares) / degrees
    dispersion = np.maximum(dispersion, LEAST_DISPERSION * rest)
    return Shares(share, np.sqrt(dispersion / np.maximum(counts.sum(axis=1), 0.5)), degrees)


def compare(before: Floats, after: Floats, clock: Machine, prior: Prior) -> Estimates:
    """Return what each row costs on both sides, and how sure the difference is.

    `before` and `after`: samples, rows x processes; the first row is the benchmark itself
    (all samples). Quasi-Poisson with exposure (samples / cost of the process): the signed
    root of the deviance over the moderated dispersion (Lund et al. 2012), which needs no
    correction at zero counts; intervals by the delta method, zero counts counted as a half.
    """
    all_before, all_after = before[0], after[0]
    exposure_before = all_before * np.exp(-clock.log_cost_before)
    exposure_after = all_after * np.exp(-clock.log_cost_after)
    count_before, count_after = before.sum(axis=1), after.sum(axis=1)
    rate_before = count_before / exposure_before.sum()
    rate_after = count_after / exposure_after.sum()

    processes = before.shape[1] + after.shape[1]
    mean = (count_before + count_after) / processes
    share = (count_before + count_after) / max(float(all_before.sum() + all_after.sum()), 1.0)
    rest = np.clip(1 - share, 0.0, 1.0)
    expected = (prior.poisson + prior.spread**2 * mean * rest) * rest + clock.variance * mean
    squares_before, degrees_before = _dispersion(before, exposure_before)
    squares_after, degrees_after = _dispersion(after, exposure_after)
    own = degrees_before + degrees_after
    dispersion = prior.degrees * expected + squares_before + squares_after
    dispersion /= own + prior.degrees
    # The clock's variance was estimated on these very processes and must not count twice.
    of_clock = clock.variance * mean / np.maximum(expected, 1e-12)
    degrees = own + prior.degrees * (1 - of_clock) + CLOCK_DEGREES * of_clock
    # The benchmark itself (rest 0) has no sampling noise, only the clock's.
    dispersion = np.maximum(dispersion, LEAST_DISPERSION * np.minimum(rest * 2, 1.0) + 1e-12)

    with np.errstate(divide="ignore", invalid="ignore"):
        log_ratio = np.log(rate_after) - np.log(rate_before)
    log_ratio = np.where((count_before == 0) & (count_after == 0), 0.0, log_ratio)
    variance = dispersion * (1 / np.maximum(count_before, 0.5) + 1 / np.maximum(count_after, 0.5))
    standard_error = np.sqrt(variance + clock.systematic**2)
    root = np.sqrt(
        _deviance(count_before, count_after, exposure_before.sum(), exposure_after.sum())
        / dispersion
    )
    t = np.sign(log_ratio) * root * np.sqrt(variance) / standard_error

    half_before = np.where(count_before > 0, rate_before, 0.5 / exposure_before.sum())
    half_after = np.where(count_after > 0, rate_after, 0.5 / exposure_after.sum())
    corrected = np.log(half_after) - np.log(half_before)
    reach = stdtrit(degrees, 0.95) * standard_error
    low = np.where(count_after > 0, np.expm1(corrected - reach), -1.0)
    with np.errstate(over="ignore"):
        high = np.where(count_before > 0, np.expm1(corrected + reach), np.inf)
    return Estimates(
        rate_before,
        rate_after,
        log_ratio,
        standard_error,
        degrees,
        t,
        low,
        high,
        count_before,
        count_after,
        dispersion,
    )


def _deviance(
    before: Floats, after: Floats, exposure_before: float, exposure_after: float
) -> Floats:
    """Return twice the log likelihood ratio of two Poisson rates against one."""
    both = before + after
    expected_before = both * exposure_before / (exposure_before + exposure_after)
    expected_after = both - expected_before
    with np.errstate(divide="ignore", invalid="ignore"):
        first = np.where(before > 0, before * np.log(before / expected_before), 0.0)
        second = np.where(after > 0, after * np.log(after / expected_after), 0.0)
    return np.maximum(2 * (first + second), 0.0)


# --- what can be seen ---------------------------------------------------------------------


def lower_tail(degrees: Floats | float, t: Floats | float) -> Floats:
    """Return the probability of a t below this one."""
    return np.asarray(stdtr(degrees, t), dtype=np.float64)


def quantile(degrees: Floats | float, probability: float) -> Floats:
    """Return the t below which it lies with this probability."""
    return np.asarray(stdtrit(degrees, probability), dtype=np.float64)


def critical(degrees: Floats | float, alpha: float) -> Floats:
    """Return the t that growth must pass to be real at `alpha`, one-sided."""
    return np.asarray(-stdtrit(degrees, max(alpha, 1e-300)), dtype=np.float64)


def visible_growth(
    standard_error: Floats | float, degrees: Floats | float, alpha: float, power: float = 0.8
) -> Floats:
    """Return the smallest true growth that is told from nothing with this power."""
    with np.errstate(over="ignore"):
        return np.asarray(
            np.expm1((critical(degrees, alpha) + stdtrit(degrees, power)) * standard_error)
        )


def probability_above(
    log_ratio: Floats | float, standard_error: Floats | float, degrees: Floats | float, limit: float
) -> Floats:
    """Return the probability that the true ln ratio is above `limit`."""
    with np.errstate(divide="ignore", invalid="ignore"):
        distance = (np.asarray(log_ratio) - limit) / np.asarray(standard_error)
    return np.asarray(stdtr(degrees, np.nan_to_num(distance, nan=0.0, posinf=1e9, neginf=-1e9)))


def holm(p_values: Floats) -> Floats:
    """Return p values adjusted for the family they stand in (Holm 1979); any dependence."""
    count = len(p_values)
    if not count:
        return p_values
    order = np.argsort(p_values, kind="stable")
    stepped = np.maximum.accumulate(p_values[order] * (count - np.arange(count)))
    adjusted = np.empty(count)
    adjusted[order] = np.minimum(stepped, 1.0)
    return adjusted


def benjamini_hochberg(p_values: Floats) -> Floats:
    """Return q values (Benjamini and Hochberg 1995); for notes only, never for a failure."""
    count = len(p_values)
    if not count:
        return p_values
    order = np.argsort(p_values, kind="stable")[::-1]
    stepped = np.minimum.accumulate(p_values[order] * count / np.arange(count, 0, -1))
    adjusted = np.empty(count)
    adjusted[order] = np.minimum(stepped, 1.0)
    return adjusted
