"""Stage 4, pure: whether two recordings can be of the same build of the same code."""

import math
from typing import Final

from ci_flame.diff import diff_benchmark
from ci_flame.profile import Measurement, Mode

LARGE: Final = 0.05
"""Own share on either side from which a function has a say."""
FURTHEST: Final = 2.0
"""Ratio of own costs up to which a machine alone may be the reason: recordings of one commit
differed by up to 1.14 in a function that no reference work follows, and one of a few short
processes is uncertain by as much again. A C extension that was not built, and is replaced by
Python, is far beyond."""


def not_the_build(stored: Measurement | None, again: Measurement | None) -> str:
    """Return in words why `again` cannot be the build that `stored` was; empty: it can.

    Own costs on the CPU at one machine speed, of functions that are large on either side.
    None: not stored; does not run.
    """
    if again is None:
        return "the benchmark does not run there"
    if stored is None or not {Mode.ON_CPU} <= {*stored.modes} & {*again.modes}:
        return ""
    for each in diff_benchmark(stored, again, Mode.ON_CPU).frames:
        own = each.own
        if max(own.before_share, own.after_share) < LARGE:
            continue
        if min(own.before_ns, own.after_ns) <= 0:
            lacking = "there" if own.before_ns > 0 else "in what is stored"
            return f"it is not the build that is stored: {each.frame} is not {lacking}"
        if abs(own.log_ratio) > math.log(FURTHEST):
            ratio = math.exp(own.log_ratio)
            return (
                f"it is not the build that is stored: {each.frame} costs {ratio:.2g} times as much"
            )
    return ""
