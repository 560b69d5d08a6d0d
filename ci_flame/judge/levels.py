"""Stage 5, pure: at what level each of many costs is tested, and which growth is real.

A benchmark's level is dealt out before anything is looked at, by group and size; costs in one
line share one part, the first is tested first; what was found passes its part on, to the next
of its line, then to all other lines, as in Holm's procedure. That is a sequentially rejective
procedure with Bonferroni's inequality at each step (Bretz and others 2009, "A graphical approach
to sequentially rejective multiple test procedures"; Goeman and Solari 2010, "The sequential
rejection principle"): parts only ever grow, and those of what is not found yet add up to the
level at most. So it holds whatever the costs have to do with one another.
"""

import heapq
from collections.abc import Sequence
from typing import Final

import numpy as np
import numpy.typing as npt

from ci_flame.noise import Floats

Names = npt.NDArray[np.str_]

GROUPS: Final = {"own": 0.5, "total": 0.3, "path": 0.2}
"""Share of the benchmark's level; what an empty group does not need goes to the others."""
BY_SIZE: Final = 0.5
"""Part of a group's level that is dealt out by size, the rest evenly: what takes a tenth of the
benchmark is tested at nearly ten times the level of what takes a hundredth."""
NOTHING_LEFT: Final = 1e-12
"""Rounding must not leave less to divide by when the last line is reached."""


def parts(groups: Names, sizes: Floats) -> Floats:
    """Return each line's part of the level; they add up to 1.

    `groups` and `sizes`, one entry a line; sizes are shares of the samples of both sides
    together, which say nothing of growth (weights: Genovese, Roeder and Wasserman 2006).
    """
    made = np.zeros(len(groups))
    present = [group for group in GROUPS if (groups == group).any()]
    whole = sum(GROUPS[group] for group in present)
    for group in present:
        here = groups == group
        size = sizes[here]
        even = np.full(len(size), 1 / len(size))
        by_size = size / size.sum() if size.sum() > 0 else even
        made[here] = (BY_SIZE * by_size + (1 - BY_SIZE) * even) * GROUPS[group] / whole
    return made


def adjust(p_values: Floats, lines: Sequence[Sequence[int]], weights: Floats) -> Floats:
    """Return p values adjusted for all that is tested; those of no line are 1.

    `lines` hold indices of `p_values`; `weights` is each line's part, together 1 at most. With
    lines of one cost each and equal weights this is Holm's procedure (1979).
    """
    adjusted = np.ones(len(p_values))
    part = weights.tolist()
    waiting = [
        (float(p_values[line[0]]) / part[number], number, 0) for number, line in enumerate(lines)
    ]
    heapq.heapify(waiting)
    left, reached = float(weights.sum()), 0.0
    while waiting:
        value, number, at = heapq.heappop(waiting)
        line = lines[number]
        reached = max(reached, value * left)
        if reached >= 1:
            break
        adjusted[line[at]] = reached
        if at + 1 < len(line):
            following = float(p_values[line[at + 1]]) / part[number]
            heapq.heappush(waiting, (following, number, at + 1))
        else:
            left = max(left - part[number], NOTHING_LEFT)
    return adjusted
