"""Stage 5, pure: cost that moved is not cost that grew.

A function that is new took its cost from somewhere when it was extracted from its caller or
renamed: the caller's own cost fell, or a function beside it is gone. What moved is reported
as moved, and only the net growth is judged. A function that merely shrank beside it excuses
nothing: that is a saving that masks growth.
"""

from dataclasses import dataclass
from typing import Final

import numpy as np

from ci_flame import noise
from ci_flame.judge.family import Family
from ci_flame.policy import Rule
from ci_flame.profile import Frame
from ci_flame.verdict import percent

MOVED: Final = 0.5
"""Part of a new function's cost that must have come from its caller or a gone neighbour."""
SURE: Final = -2.0
"""t from which on a caller's own cost is believed to have fallen."""


@dataclass(frozen=True, slots=True)
class Move:
    """A new function, and the cost that left where it is called."""

    frame: Frame
    after_ns: float
    left_ns: float
    """What is gone or fell, as much of it as this function's part."""
    whole_ns: float
    """The benchmark before."""
    standard_error: float
    """Of ln(after / left)."""
    degrees: float
    level: float
    sources: tuple[str, ...]

    def breaks(self, rule: Rule) -> bool:
        """Tell whether the net growth breaks the rule after all, for sure."""
        net = self.after_ns - self.left_ns
        if net <= 0 or net / self.whole_ns < rule.min_impact or rule.max_growth is None:
            return False
        limits = []
        if rule.max_growth.share is not None:
            limits.append(float(np.log1p(rule.max_growth.share)))
        if rule.max_growth.ns is not None:
            limits.append(float(np.log1p(rule.max_growth.ns / self.left_ns)))
        growth = float(np.log(self.after_ns / self.left_ns))
        sure = noise.probability_above(growth, self.standard_error, self.degrees, min(limits))
        real = growth / self.standard_error >= noise.critical(self.degrees, self.level)
        return bool(real and sure >= rule.certainty)

    def __str__(self) -> str:
        net = self.after_ns - self.left_ns
        return (
            f"{self.frame} is new and takes {percent(self.after_ns / self.whole_ns)} % of the"
            f" benchmark, which left {' and '.join(self.sources)} at the same place: it moved,"
            f" net {'+' if net >= 0 else ''}{percent(net / self.whole_ns)} %"
        )


def moves(family: Family) -> dict[int, Move]:
    """Return the functions that are new and whose cost came from where they are called."""
    columns = family.columns
    tree, estimates = columns.evidence, columns.estimates
    absent = (family.estimates.samples_before[1:] == 0) & (family.function >= 0)
    new = {unit.function: unit for unit in map(family.unit, np.flatnonzero(absent).tolist())}
    if not new:
        return {}
    start = columns.node_total_row(0)
    before = estimates.before[start : start + columns.nodes]
    after = estimates.after[start : start + columns.nodes]
    samples = estimates.samples_before[start : start + columns.nodes]
    children: dict[int, list[int]] = {}
    for node in np.flatnonzero(tree.judged).tolist():
        children.setdefault(int(tree.parent[node]), []).append(node)

    made: dict[int, Move] = {}
    for function, unit in new.items():
        cost = left = left_samples = 0.0
        sources: dict[str, None] = {}
        outer = tree.judged & tree.first & (tree.node_frame == function)
        for node in np.flatnonzero(outer).tolist():
            top = node
            while tree.parent[top] >= 0 and not before[tree.parent[top]]:
                top = int(tree.parent[top])
            parent = int(tree.parent[top])
            beside = children[parent]
            gone = [each for each in beside if before[each] and not after[each]]
            offset = float(before[gone].sum())
            offset_samples = float(samples[gone].sum())
            names = [str(tree.node_all[tree.node_frame[each]]) for each in gone]
            row = columns.node_own_row(parent)
            if parent >= 0 and estimates.t[row] < SURE:
                offset += float(estimates.before[row] - estimates.after[row])
                fell = 1 - estimates.after[row] / estimates.before[row]
                offset_samples += float(estimates.samples_before[row] * fell)
                names.append(f"own cost of {tree.node_all[tree.node_frame[parent]]}")
            arrived = float(sum(after[each] for each in beside if not before[each]))
            part = float(after[node]) / arrived if arrived else 0.0
            cost += float(after[node])
            left += offset * min(part, 1.0)
            left_samples += offset_samples * min(part, 1.0)
            sources.update(dict.fromkeys(names[:2]))
        if cost <= 0 or left < MOVED * cost:
            continue
        dispersion = unit.entry(estimates.dispersion)
        error = np.sqrt(
            dispersion / max(unit.entry(estimates.samples_after), 1.0)
            + dispersion / max(left_samples, 1.0)
            + columns.clock.systematic**2
        )
        made[function] = Move(
            unit.frame,
            cost,
            left,
            float(estimates.before[0]),
            float(error),
            unit.entry(estimates.degrees),
            unit.alpha,
            tuple(sources),
        )
    return made
