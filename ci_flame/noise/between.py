"""Stage 4, pure: how far builds of the same code spread, beyond what each recording's noise says.

A recording cannot see what all its processes share: the machine of that hour, the place of the
code in that build. Builds of a base branch show it. Arrays in, arrays out: rows are costs,
columns are builds, oldest first; NaN where a build has no such cost.
"""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Final

import numpy as np
from scipy.special import stdtrit

from ci_flame.noise import Estimates, Floats
from ci_flame.profile import Frame

ASSUMED_SPREAD: Final = 0.01
"""Between builds, where little is measured. Ten recordings of each of four workloads had an
excess of 0 to 0.4 % over their own noise, and one that no reference follows 12 %."""
ASSUMED_DEGREES: Final = 2.0
"""What that assumption weighs."""
TYPICAL_DEGREES: Final = 4.0
"""What the benchmark's typical spread weighs against a row's own."""
CLIP: Final = 2.5
"""Standard deviations at which one difference between builds stops counting for more: it is a
change of the code, or a bad recording, and not the spread."""
MEDIAN_OF_SQUARES: Final = 0.4549364
"""Of a squared standard normal."""
LEAST_OTHERS: Final = 3
"""Recordings that one must disagree with before it is set aside."""
NEAR: Final = 3
"""Neighbours on either side whose median a recording is held against."""
SET_ASIDE: Final = 0.01
"""How often a good recording of a benchmark may be set aside."""
_TINY: Final = 1e-12


@dataclass(frozen=True, slots=True)
class Between:
    """Variance of ln cost that one build has by itself, beyond its own noise; and how sure."""

    whole: float
    own: Mapping[Frame, float]
    total: Mapping[Frame, float]
    typical: float
    """For costs that are in neither: call paths, what is new."""
    degrees: float
    builds: int
    """Recordings that it was measured on."""


def degrees_of(builds: int) -> float:
    """Return the degrees of freedom of a mean square successive difference of that many values.

    von Neumann 1941: its efficiency falls to 2/3, so that `2 (n-1)^2 / (3n-4)`.
    """
    return 2.0 * (builds - 1) ** 2 / (3 * builds - 4) if builds > 1 else 0.0


def _differences(levels: Floats, noise: Floats) -> tuple[Floats, Floats]:
    """Return squared differences between neighbours, and what their noise alone would give.

    Where a build lacks a cost its neighbours are compared. NaN where there is nothing.
    """
    squares = np.full((levels.shape[0], max(levels.shape[1] - 1, 0)), np.nan)
    expected = squares.copy()
    for row, (values, variances) in enumerate(zip(levels, noise, strict=True)):
        having = np.flatnonzero(np.isfinite(values))
        if len(having) > 1:
            squares[row, : len(having) - 1] = np.diff(values[having]) ** 2
            pairs = variances[having]
            expected[row, : len(having) - 1] = pairs[1:] + pairs[:-1]
    return squares, expected


def typical_variance(levels: Floats, noise: Floats) -> float:
    """Return the builds' own variance that makes the median squared difference what it should be.

    A median over rows and neighbours: neither a function that one commit changed nor one bad
    recording moves it. Successive differences, because code drifts over builds.
    """
    squares, expected = _differences(levels, noise)
    known = np.isfinite(squares)
    if not known.any():
        return 0.0
    squares, expected = squares[known], expected[known]

    def excess(variance: float) -> float:
        scale = expected + 2 * variance + _TINY
        return float(np.median(squares / scale)) - MEDIAN_OF_SQUARES

    low, high = 0.0, float(squares.max()) / MEDIAN_OF_SQUARES + _TINY
    if excess(low) <= 0:
        return 0.0
    for _ in range(60):
        middle = (low + high) / 2
        low, high = (middle, high) if excess(middle) > 0 else (low, middle)
    return high


def variances(levels: Floats, noise: Floats, large: np.ndarray) -> tuple[Floats, float, float]:
    """Return each row's variance between builds, the typical one, and their degrees of freedom.

    `large`: rows that tell what is typical. A row's own mean square (each difference clipped)
    is moderated towards the typical variance, and that towards `ASSUMED_SPREAD` (Smyth 2004).
    """
    builds = levels.shape[1]
    measured = degrees_of(builds)
    found = typical_variance(levels[large], noise[large])
    typical = ASSUMED_DEGREES * ASSUMED_SPREAD**2 + measured * found
    typical /= ASSUMED_DEGREES + measured
    squares, expected = _differences(levels, noise)
    clipped = np.minimum(squares, CLIP**2 * (expected + 2 * typical))
    known = np.isfinite(squares)
    count = known.sum(axis=1)
    excess = np.where(known, clipped - expected, 0.0).sum(axis=1)
    own = np.maximum(excess / np.maximum(count, 1) / 2, 0.0)
    weight = np.array([degrees_of(int(n) + 1) if n else 0.0 for n in count])
    rows = (TYPICAL_DEGREES * typical + weight * own) / (TYPICAL_DEGREES + weight)
    return rows, typical, ASSUMED_DEGREES + measured


def widen(estimates: Estimates, rows: Floats, degrees: float) -> Estimates:
    """Return estimates of one build against another whose builds spread by `rows` (variances).

    Both sides are one build each. Never narrower: the spread between builds comes on top of
    that between processes. Degrees of freedom by Satterthwaite 1946.
    """
    within = estimates.standard_error**2
    more = 2.0 * rows
    both = within + more
    with np.errstate(divide="ignore", invalid="ignore"):
        joined = both**2 / (within**2 / estimates.degrees + more**2 / degrees)
    joined = np.where(np.isfinite(joined), joined, estimates.degrees)
    joined = np.minimum(joined, estimates.degrees + degrees)
    error = np.sqrt(both)
    reach = stdtrit(joined, 0.95) * error - stdtrit(estimates.degrees, 0.95) * np.sqrt(within)
    reach = np.maximum(reach, 0.0)
    with np.errstate(divide="ignore", over="ignore", invalid="ignore"):
        low = np.expm1(np.log1p(estimates.low) - reach)
        high = np.expm1(np.log1p(estimates.high) + reach)
        t = np.where(both > 0, estimates.t * np.sqrt(within / both), estimates.t)
    return replace(estimates, standard_error=error, degrees=joined, t=t, low=low, high=high)


@dataclass(frozen=True, slots=True)
class Disagreement:
    """A recording that its neighbours contradict."""

    build: int
    """Its column."""
    row: int
    """The cost that it is furthest off in."""
    shift: float
    """ln(its cost / the median of its neighbours)."""


def disagreements(levels: Floats, noise: Floats, large: np.ndarray) -> tuple[Disagreement, ...]:
    """Return the recordings that disagree with those before and those after them.

    One that agrees with either side follows or precedes a change of the code. The newest and
    the oldest have one side only, so that there a change cannot be told from a bad recording.
    The spread between builds is that of the others.
    """
    found = []
    count = levels.shape[1]
    rows = np.flatnonzero(large)
    if count <= LEAST_OTHERS or not len(rows):
        return ()
    for build in range(count):
        others = np.delete(np.arange(count), build)
        spread, _, degrees = variances(levels[:, others], noise[:, others], large)
        furthest = -float(stdtrit(degrees, SET_ASIDE / len(rows) / 2))
        worst: Disagreement | None = None
        for row in rows.tolist():
            shift = _off(levels[row], noise[row] + spread[row], build, furthest)
            if shift and (worst is None or abs(shift) > abs(worst.shift)):
                worst = Disagreement(build, row, shift)
        if worst is not None:
            found.append(worst)
    return tuple(found)


def _off(levels: Floats, noise: Floats, build: int, furthest: float) -> float:
    """Return how far one recording is off all its neighbours, ln; 0.0: it is not.

    `noise`: variances of each build's level, the spread between builds among them; `furthest`:
    standard errors that chance may reach.
    """
    if not np.isfinite(levels[build]):
        return 0.0
    having = np.flatnonzero(np.isfinite(levels))
    sides = [having[having < build][::-1][:NEAR], having[having > build][:NEAR]]
    sides = [side for side in sides if len(side)]
    if sum(map(len, sides)) < LEAST_OTHERS:
        return 0.0
    own = float(noise[build])
    shifts = []
    for side in sides:
        nearest = side[0]
        median = float(noise[side].mean()) / len(side)
        for level, variance in (
            (float(levels[nearest]), float(noise[nearest])),
            # A median of n is up to pi / 2 times as variable as their mean.
            (float(np.median(levels[side])), median * (np.pi / 2 if len(side) > 2 else 1.0)),  # noqa: PLR2004
        ):
            distance = float(levels[build]) - level
            if abs(distance) <= furthest * np.sqrt(own + variance):
                return 0.0
            shifts.append(distance)
    if min(shifts) < 0 < max(shifts):
        return 0.0
    return min(shifts, key=abs)
