"""Stage 4, pure: how far counts spread between processes, and how sure a change is.

Arrays in, arrays out; columns are processes, rows are functions, paths or the benchmark.
What is assumed and where each formula is from: `docs/statistics.md`.
"""

from dataclasses import dataclass
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
CLOCK_DEGREES: Final = 3.0
UNSEEN_SPREAD: Final = 0.04
"""A function's share between processes where one process a side leaves it unmeasured."""
WAIT_SPREAD: Final = 0.05
"""Of a process's waiting per iteration, between processes, where nothing better is known: timers
keep to 0.1 %, disks and locks spread by 10 % and far more, which is then measured."""
WAIT_DEGREES: Final = 1.0
"""What that assumption weighs; it loses weight where far more is measured. With 4, benchmarks of
few long waits in three processes failed in 2.3 % of simulated builds instead of 0.5 %."""
UNSEEN_WAIT_SPREAD: Final = 0.15
"""The same where one process a side leaves it unmeasured."""
UNSEEN_WAIT_DEGREES: Final = 4.0
FAR_WIDER: Final = 2.5
"""Measured / assumed variance from which on an assumption loses weight: chance alone reaches
it in one of a hundred at 8 degrees of freedom."""
SETTLED: Final = 1e-12
"""An iteration has ended when nothing moves by more."""


@dataclass(frozen=True, slots=True)
class Machine:
    """How one benchmark's two sides were brought to the same machine speed."""

    anchor: str
    """`references`, `references+functions`, `functions`, `given`, `given+functions`, `shares`, or
    `clock` for waiting."""
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
    degrees: float = CLOCK_DEGREES
    """What the assumed spread of the clock still weighs against the measured one."""


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


# --- the spread of functions between processes --------------------------------------------


def _dispersion(counts: Floats, exposure: Floats) -> tuple[Floats, Floats]:
    """Return the Pearson sum of squares of one side, and its degrees of freedom, by row."""
    rate = counts.sum(axis=1) / max(float(exposure.sum()), 1e-300)
    expected = rate[:, None] * exposure[None, :]
    with np.errstate(divide="ignore", invalid="ignore"):
        squares = np.where(expected > 0, (counts - expected) ** 2 / expected, 0.0).sum(axis=1)
    degrees = np.where(rate > 0, counts.shape[1] - 1.0, 0.0)
    return squares, degrees


def fit_prior(*sides: Floats) -> Prior:
    """Return the trend of the variances of shares over the functions of this benchmark.

    `sides`: own samples, functions x processes. Gamma regression of Pearson dispersions on
    the mean count (identity link, iterated least squares: McCullagh and Nelder 1989, chapter
    8; the trend is that of Anders and Huber 2010), shares' binomial factor taken out;
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


def satterthwaite(
    before: Floats | float,
    degrees_before: Floats | float,
    after: Floats | float,
    degrees_after: Floats | float,
) -> Floats:
    """Return the degrees of freedom of two sides' sums of squares that may differ in variance.

    One side that happens to be quiet must not vouch for one that is not (Satterthwaite 1946).
    """
    one = np.asarray(before / np.maximum(degrees_before, 1.0))
    other = np.asarray(after / np.maximum(degrees_after, 1.0))
    spread = one**2 / np.maximum(degrees_before, 1.0) + other**2 / np.maximum(degrees_after, 1.0)
    both = degrees_before + degrees_after
    return np.where(spread > 0, (one + other) ** 2 / np.where(spread > 0, spread, 1.0), both)


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
    own = np.minimum(
        own, satterthwaite(squares_before, degrees_before, squares_after, degrees_after)
    )
    # The clock's variance was estimated on these very processes and must not count twice.
    of_clock = clock.variance * mean / np.maximum(expected, 1e-12)
    degrees = own + prior.degrees * (1 - of_clock) + clock.degrees * of_clock
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
    """Return twice the log likelihood ratio of two Poisson rates against one.

    McCullagh and Nelder 1989, section 6.2.
    """
    both = before + after
    expected_before = both * exposure_before / (exposure_before + exposure_after)
    expected_after = both - expected_before
    with np.errstate(divide="ignore", invalid="ignore"):
        first = np.where(before > 0, before * np.log(before / expected_before), 0.0)
        second = np.where(after > 0, after * np.log(after / expected_after), 0.0)
    return np.asarray(np.maximum(2 * (first + second), 0.0), dtype=np.float64)


# --- waiting ------------------------------------------------------------------------------


def _wait_variance(costs: Floats) -> tuple[Floats, float, Floats, Floats]:
    """Return mean, number of processes, variance of a process / mean squared, and its degrees.

    `costs`: ns per iteration, rows x processes. Waits are timed, not sampled: how far their
    sum spreads between processes is all the noise that there is. It is moderated towards
    `WAIT_SPREAD` as long as that does not contradict what was measured.
    """
    processes = costs.shape[1]
    mean = costs.mean(axis=1)
    if processes == 1:
        assumed = np.full(len(mean), UNSEEN_WAIT_SPREAD**2)
        return mean, 1.0, assumed, np.full(len(mean), UNSEEN_WAIT_DEGREES)
    with np.errstate(divide="ignore", invalid="ignore"):
        relative = np.where(mean[:, None] > 0, costs / mean[:, None] - 1, 0.0)
    squares = (relative**2).sum(axis=1)
    degrees = processes - 1.0
    with np.errstate(divide="ignore"):
        believed = np.minimum(1.0, FAR_WIDER * WAIT_SPREAD**2 * degrees / squares)
    prior = WAIT_DEGREES * believed
    variance = (prior * WAIT_SPREAD**2 + squares) / (prior + degrees)
    return mean, float(processes), variance, prior + degrees


def compare_waits(
    before: Floats, after: Floats, waits_before: float, waits_after: float
) -> Estimates:
    """Return what each row waits on both sides, and how sure the difference is.

    `before` and `after`: ns per iteration, rows x processes, the benchmark itself first;
    the number of waits of a side is dealt to the rows by their time. Welch's test (1947) on the
    means with moderated variances, whose sides may differ; it holds at zero, so that what is
    new or gone is exact. Intervals by the delta method.
    """
    mean_before, count_before, variance_before, degrees_before = _wait_variance(before)
    mean_after, count_after, variance_after, degrees_after = _wait_variance(after)
    one, other = variance_before / count_before, variance_after / count_after
    first, second = one * mean_before**2, other * mean_after**2
    spread = first**2 / degrees_before + second**2 / degrees_after
    with np.errstate(divide="ignore", invalid="ignore"):
        degrees = np.where(spread > 0, (first + second) ** 2 / spread, WAIT_DEGREES)
        t = np.where(spread > 0, (mean_after - mean_before) / np.sqrt(first + second), 0.0)
        log_ratio = np.log(mean_after) - np.log(mean_before)
    # The assumed spread is one piece of knowledge, however many sides lean on it.
    known = UNSEEN_WAIT_DEGREES if min(count_before, count_after) == 1 else WAIT_DEGREES
    degrees = np.minimum(degrees, count_before + count_after - 2 + known)
    nothing = (mean_before == 0) & (mean_after == 0)
    log_ratio = np.where(nothing, 0.0, log_ratio)
    standard_error = np.sqrt(
        np.where(mean_before > 0, one, 0.0) + np.where(mean_after > 0, other, 0.0)
    )
    standard_error = np.where(nothing, np.sqrt(one + other), standard_error)
    reach = stdtrit(degrees, 0.95) * standard_error
    finite = np.where(np.isfinite(log_ratio), log_ratio, 0.0)
    low = np.where(mean_after > 0, np.expm1(finite - reach), -1.0)
    low = np.where((mean_before > 0) | nothing, low, np.inf)
    high = np.where((mean_before > 0) | nothing, np.expm1(finite + reach), np.inf)
    high = np.where((mean_after > 0) | nothing, high, -1.0)
    samples_before = waits_before * mean_before / max(float(mean_before[0]), 1e-300)
    samples_after = waits_after * mean_after / max(float(mean_after[0]), 1e-300)
    return Estimates(
        mean_before,
        mean_after,
        log_ratio,
        standard_error,
        degrees,
        t,
        low,
        high,
        samples_before,
        samples_after,
        other * samples_after,
    )


def wait_shares(costs: Floats) -> Shares:
    """Return the shares of one side's waiting; `costs` as in `compare_waits`."""
    mean, count, variance, degrees = _wait_variance(costs)
    share = mean / max(float(mean[0]), 1e-300)
    return Shares(share, np.sqrt(variance / count), degrees)


# --- what can be seen ---------------------------------------------------------------------


def lower_tail(degrees: Floats | float, t: Floats | float) -> Floats:
    """Return the probability of a t below this one."""
    return np.asarray(stdtr(degrees, t), dtype=np.float64)


def quantile(degrees: Floats | float, probability: Floats | float) -> Floats:
    """Return the t below which it lies with this probability."""
    return np.asarray(stdtrit(degrees, probability), dtype=np.float64)


def critical(degrees: Floats | float, alpha: Floats | float) -> Floats:
    """Return the t that growth must pass to be real at `alpha`, one-sided."""
    return np.negative(quantile(degrees, np.maximum(alpha, 1e-300)))


def visible_growth(
    standard_error: Floats | float,
    degrees: Floats | float,
    alpha: Floats | float,
    power: float = 0.8,
) -> Floats:
    """Return the smallest true growth that is told from nothing with this power.

    The usual sum of the two quantiles, for t (Dupont and Plummer 1990, eq. 1).
    """
    with np.errstate(over="ignore"):
        return np.asarray(
            np.expm1((critical(degrees, alpha) + stdtrit(degrees, power)) * standard_error)
        )


def probability_above(
    log_ratio: Floats | float, standard_error: Floats | float, degrees: Floats | float, limit: float
) -> Floats:
    """Return the probability that the true ln ratio is above `limit`.

    The confidence distribution of a t interval (Schweder and Hjort 2002): above the lower end
    of the 90 % interval it is 95 %.
    """
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
