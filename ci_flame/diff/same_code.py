"""Stage 4, pure: whether two recordings can be of the same build of the same code."""

import math
from typing import Final

from ci_flame.diff import diff_benchmark
from ci_flame.profile import Frame, Measurement, Mode

LARGE: Final = 0.05
"""Own share on either side from which a function has a say."""
FURTHEST: Final = 2.0
"""Ratio of own costs up to which a machine alone may be the reason: recordings of one commit
differed by up to 1.14 in a function that no reference work follows, and one of a few short
processes is uncertain by as much again. A C extension that was not built, and is replaced by
Python, is far beyond."""


def not_the_build(
    stored: Measurement | None, again: Measurement | None, after: Measurement | None = None
) -> str:
    """Return in words why `again` cannot be the build that `stored` was; empty: it can.

    Own costs on the CPU at one machine speed, of functions that are large on either side.
    None: not stored; does not run. With `after` the code of `again` lies between those two, and
    may differ from either: only where it is unlike both, in the same way, is it another build.
    """
    if again is None:
        return "the benchmark does not run there"
    if stored is None or not {Mode.ON_CPU} <= {*stored.modes} & {*again.modes}:
        return ""
    unlike = _unlike(stored, again)
    if after is None:
        found = next(iter(unlike.items()), None)
        what = "stored"
    else:
        later = _unlike(after, again)
        both = (item for item in unlike.items() if item[1] * later.get(item[0], 0.0) > 0)
        found = next(both, None)
        what = "stored and measured"
    if found is None:
        return ""
    frame, log_ratio = found
    told = f"it is not the build that is {what}: {frame}"
    if math.isinf(log_ratio):
        return f"{told} is not {'there' if log_ratio < 0 else f'in what is {what}'}"
    return f"{told} costs {math.exp(log_ratio):.2g} times as much"


def _unlike(one: Measurement, again: Measurement) -> dict[Frame, float]:
    """Return large functions whose own cost no machine explains -> log ratio, infinite: missing."""
    found = {}
    for each in diff_benchmark(one, again, Mode.ON_CPU).frames:
        own = each.own
        if max(own.before_share, own.after_share) < LARGE:
            continue
        if min(own.before_ns, own.after_ns) <= 0:
            found[each.frame] = -math.inf if own.before_ns > 0 else math.inf
        elif abs(own.log_ratio) > math.log(FURTHEST):
            found[each.frame] = own.log_ratio
    return found
