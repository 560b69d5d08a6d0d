"""Exact intervals, and the formula that power is compared with: pure."""

from math import log, sqrt

from scipy.stats import beta, norm

ONE_SIDED = 0.95
"""Confidence of the ends of intervals that are told."""


def upper(found: int, of: int, confidence: float = ONE_SIDED) -> float:
    """Return the exact upper end of a rate (Clopper and Pearson 1934), one-sided.

    0 of 600 is at most 0.5 % with 95 % confidence. Nothing seen says nothing: 1.
    """
    _check(found, of)
    return 1.0 if found == of else float(beta.ppf(confidence, found + 1, of - found))


def lower(found: int, of: int, confidence: float = ONE_SIDED) -> float:
    """Return the exact lower end of a rate, one-sided."""
    _check(found, of)
    return 0.0 if found == 0 else float(beta.ppf(1 - confidence, found, of - found + 1))


def _check(found: int, of: int) -> None:
    if not 0 <= found <= of:
        raise ValueError(f"{found} of {of}")


Z_ALPHA = 2.86
"""So that z = 4.5 stands for a power of 95 %, as in the formula below."""


def power(samples: float, growth: float, limit: float, dispersion: float = 1.0) -> float:
    """Return the power that `k = 2 phi (z / ln((1+g)/(1+L)))^2` promises for k samples a side.

    z = z_alpha + z_beta: `z_alpha` is what the test takes, `z_beta` is left for power.
    """
    distance = log((1 + growth) / (1 + limit))
    return float(norm.cdf(distance * sqrt(samples / (2 * dispersion)) - Z_ALPHA))
