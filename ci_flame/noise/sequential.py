"""Stage 4, pure: several looks at a growing recording, at the price of one.

Looking after every process and stopping at the first failure multiplies false failures (ten
looks by five). The level is spent over the looks instead, hardly any of it early: the
O'Brien-Fleming type function of Lan and DeMets 1983, in at most four looks.
"""

from collections.abc import Sequence
from typing import Final

import numpy as np
from scipy.special import ndtr, ndtri

LOOKS: Final = 4
"""At most; more of them gain little and cost level."""


def spent(fraction: float, level: float) -> float:
    """Return how much of a one-sided level may be spent until this share of all information.

    `2 - 2 Phi(z / sqrt(t))` with z the quantile at `1 - level / 2` (Lan and DeMets 1983, Biometrika
    70, eq. 6): everything at t = 1, next to nothing before a quarter.
    """
    if fraction >= 1.0:
        return level
    if fraction <= 0.0:
        return 0.0
    return float(2.0 * ndtr(ndtri(level / 2.0) / np.sqrt(fraction)))


def level_of_look(fractions: Sequence[float], level: float) -> float:
    """Return the level of the last of these looks: what it may spend more than those before.

    Each look is a family of tests of its own at that level, so that all of them together keep
    `level` whatever their dependence (Boole). That costs little against exact boundaries: the
    last of four looks has 0.38 of 0.5 %.
    """
    now = spent(fractions[-1], level)
    before = spent(fractions[-2], level) if len(fractions) > 1 else 0.0
    return max(now - before, 0.0)


def looks(first: int, most: int) -> tuple[int, ...]:
    """Return the processes a side after which to look: `first`, `most`, and even steps between."""
    if most <= first:
        return (first,)
    steps = min(LOOKS - 1, most - first)
    return tuple(first + round((most - first) * step / steps) for step in range(steps + 1))
