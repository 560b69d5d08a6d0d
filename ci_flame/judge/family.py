"""Stage 5, pure: which costs are tested for growth, and at what level each.

A benchmark's level (0.5 % per build / benchmarks of the build) is split over three groups
that are each closed by Holm: own costs of functions (disjoint), costs with callees, and call
paths. What belongs to a group is chosen by size over both sides together, never by growth,
so that the choice does not bias the test (Bourgon et al. 2010).
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np

from ci_flame import noise
from ci_flame.diff import Columns
from ci_flame.diff.evidence import Evidence, Flags
from ci_flame.noise import Estimates, Floats
from ci_flame.policy import Rule, gates_total
from ci_flame.profile import TOTAL, Frame, Stack

GROUPS: Final = {"own": 0.5, "total": 0.3, "path": 0.2}
"""Share of the benchmark's level; what an empty group does not need goes to the others."""
LEAST_SAMPLES: Final = 5.0
"""On both sides together; nothing can be said of less."""
LEAF: Final = 1.05
"""Cost with callees / own cost up to which the two are one hypothesis."""
LARGE_ENOUGH: Final = 0.4
"""Of `min_impact`: a mean share of both sides that growth of that impact cannot stay below."""


@dataclass(slots=True, eq=False)
class Unit:
    """One cost that rules may judge; `adjusted` is filled in when its group is closed."""

    frame: Frame
    path: Stack
    """The heaviest call path of it."""
    estimates: Estimates
    row: int
    own: bool
    depth: int
    group: str
    under: str = ""
    """The caller, for a path."""
    function: int = -1
    """Its row of `Evidence.frames`, where the unit is a function."""
    mask: Flags | None = None
    """Nodes that a path is made of; None: those of the function, or all."""
    rule: Rule | None = None
    """The rule whose path glob made it; None: any rule that matches the frame."""
    adjusted: float = 1.0
    """One-sided p value against no growth, adjusted within the group."""
    level: float = 0.0
    """What `adjusted` must not pass: the group's part of the benchmark's level."""
    tests: int = 1
    """Hypotheses in the group."""

    @property
    def real(self) -> bool:
        """Tell whether growth is real, family-wise."""
        return self.adjusted <= self.level

    @property
    def growth_p(self) -> float:
        """One-sided p value against no growth, before adjustment."""
        return float(
            noise.lower_tail(self.estimates.degrees[self.row], -self.estimates.t[self.row])
        )

    def entry(self, values: Floats) -> float:
        """Return this unit's entry of one of its estimates' columns."""
        return float(values[self.row])


def floor_of(rules: Iterable[Rule]) -> float:
    """Return the smallest mean share of both sides that any of the rules can be broken at."""
    return LARGE_ENOUGH * min((rule.min_impact for rule in rules), default=0.0)


def _large(columns: Columns, floor: float) -> Flags:
    """Return which rows of the estimates are large enough to be tested."""
    estimates = columns.estimates
    mean = (
        estimates.samples_before / max(estimates.samples_before[0], 1.0)
        + estimates.samples_after / max(estimates.samples_after[0], 1.0)
    ) / 2
    samples = estimates.samples_before + estimates.samples_after
    return np.asarray((mean >= floor) & (samples >= LEAST_SAMPLES))


def units_of(columns: Columns, rules: Sequence[Rule]) -> list[Unit]:
    """Return every cost that one of these growth rules may judge and that is large enough."""
    frames = columns.evidence.frames
    large = _large(columns, floor_of(rules))
    units: list[Unit] = []
    if any(gates_total(rule) for rule in rules) and columns.clock.anchor != "shares":
        units.append(
            Unit(TOTAL, (TOTAL,), columns.estimates, row=0, own=False, depth=0, group="total")
        )
    gated = []
    for function, frame in enumerate(frames):
        if not large[columns.total_row(function)]:
            continue
        matching = [rule for rule in rules if rule.matches_frame(frame)]
        if not matching:
            continue
        gated.append(function)
        samples = columns.estimates.samples_before + columns.estimates.samples_after
        own, total = samples[columns.own_row(function)], samples[columns.total_row(function)]
        if large[columns.own_row(function)]:
            units.append(_function(columns, function, own=True))
        if total > own * LEAF and not all(rule.self_only for rule in matching):
            units.append(_function(columns, function, own=False))
    units += _contexts(columns, gated, floor_of(rules))
    for rule in rules:
        if rule.paths:
            units += path_units(columns, rule, floor_of((rule,)))
    return units


def _function(columns: Columns, function: int, *, own: bool) -> Unit:
    tree = columns.evidence
    node = columns.heaviest[function]
    return Unit(
        tree.frames[function],
        tree.path(node),
        columns.estimates,
        row=columns.own_row(function) if own else columns.total_row(function),
        own=own,
        depth=int(tree.depth[node]),
        group="own" if own else "total",
        function=function,
    )


def nodes_of(unit: Unit, tree: Evidence) -> Flags:
    """Return the nodes of the call tree whose own costs add up to the unit."""
    if unit.mask is not None:
        return unit.mask
    if unit.function < 0:
        return tree.judged
    here = tree.judged & (tree.node_frame == unit.function)
    return here if unit.own else tree.below(here) & tree.judged


def _extra(columns: Columns, groups: Sequence[Flags]) -> Estimates:
    """Return estimates of sums of nodes' own costs, one row each after the benchmark's."""
    sides = []
    for side in columns.evidence.sides:
        rows = [side.total] + [side.node_own[nodes].sum(axis=0) for nodes in groups]
        sides.append(np.vstack(rows))
    return columns.compare(sides[0], sides[1])


def _contexts(columns: Columns, gated: Sequence[int], floor: float) -> list[Unit]:
    """Return the own cost of functions by the callers they were called from.

    Callers are taken in order of first appearance, so that a recursion that goes deeper is
    the same path. Only functions with two such paths or more that are large enough, and only
    paths that both sides have: what was never called from there before is told by its
    function, or by a rule that names the path.
    """
    tree = columns.evidence
    start = columns.node_own_row(0)
    rows = slice(start, start + columns.nodes)
    samples = columns.estimates.samples_before[rows] + columns.estimates.samples_after[rows]
    wanted = np.zeros(len(tree.node_all), dtype=bool)
    wanted[list(gated)] = True
    nodes_with_cost = np.flatnonzero(tree.judged & wanted[tree.node_frame] & (samples > 0))
    several = np.bincount(tree.node_frame[nodes_with_cost], minlength=len(tree.node_all)) > 1
    found: dict[tuple[int, ...], list[int]] = {}
    for node in nodes_with_cost[several[tree.node_frame[nodes_with_cost]]].tolist():
        found.setdefault(_callers(tree, node), []).append(node)
    paths = np.bincount([key[0] for key in found], minlength=1) if found else np.zeros(1)
    all_before = max(float(columns.estimates.samples_before[0]), 1.0)
    all_after = max(float(columns.estimates.samples_after[0]), 1.0)
    chosen: list[tuple[int, Flags]] = []
    for key, nodes in found.items():
        at = np.array(nodes) + start
        before = float(columns.estimates.samples_before[at].sum())
        after = float(columns.estimates.samples_after[at].sum())
        share = (before / all_before + after / all_after) / 2
        if paths[key[0]] > 1 and before > 0 and before + after >= LEAST_SAMPLES and share >= floor:
            mask = np.zeros(columns.nodes, dtype=bool)
            mask[nodes] = True
            chosen.append((key[0], mask))
    if not chosen:
        return []
    estimates = _extra(columns, [mask for _, mask in chosen])
    units = []
    for row, (function, mask) in enumerate(chosen, start=1):
        path = _heaviest(columns, mask)
        units.append(
            Unit(
                tree.frames[function],
                path,
                estimates,
                row=row,
                own=True,
                depth=len(path),
                group="path",
                under=str(path[-2]) if len(path) > 1 else "",
                mask=mask,
            )
        )
    return units


def _callers(tree: Evidence, node: int) -> tuple[int, ...]:
    """Return the node's frame, then its distinct callers from the outermost, as numbers."""
    own = int(tree.node_frame[node])
    chain: list[int] = []
    node = int(tree.parent[node])
    while node >= 0:
        chain.append(int(tree.node_frame[node]))
        node = int(tree.parent[node])
    return (own, *dict.fromkeys(frame for frame in reversed(chain) if frame != own))


def _heaviest(columns: Columns, mask: Flags) -> Stack:
    """Return the stack of the node with the largest cost, both sides added."""
    start = columns.node_total_row(0)
    nodes = np.flatnonzero(mask)
    cost = columns.estimates.before[nodes + start] + columns.estimates.after[nodes + start]
    return columns.evidence.path(int(nodes[int(np.argmax(cost))]))


def matched_nodes(tree: Evidence, rule: Rule) -> dict[Frame, Flags]:
    """Return the judged nodes whose path a path glob of the rule names, by their last frame."""
    found: dict[Frame, Flags] = {}
    for node in np.flatnonzero(tree.judged).tolist():
        stack = tree.path(node)
        if rule.matches_path(stack):
            mask = found.setdefault(stack[-1], np.zeros(len(tree.parent), dtype=bool))
            mask[node] = True
    return found


def path_units(columns: Columns, rule: Rule, floor: float) -> list[Unit]:
    """Return the costs that the path globs of a rule are about, one per last frame."""
    tree = columns.evidence
    found = matched_nodes(tree, rule)
    if not found:
        return []
    masks = {
        frame: mask if rule.self_only else tree.below(mask) & tree.judged
        for frame, mask in found.items()
    }
    estimates = _extra(columns, list(masks.values()))
    whole_before = max(float(estimates.samples_before[0]), 1.0)
    whole_after = max(float(estimates.samples_after[0]), 1.0)
    units = []
    for row, (frame, mask) in enumerate(masks.items(), start=1):
        before, after = estimates.samples_before[row], estimates.samples_after[row]
        if before + after < LEAST_SAMPLES:
            continue
        if (before / whole_before + after / whole_after) / 2 < floor:
            continue
        path = _heaviest(columns, found[frame])
        units.append(
            Unit(
                frame,
                path,
                estimates,
                row=row,
                own=rule.self_only,
                depth=len(path),
                group="path",
                under=str(path[-2]) if len(path) > 1 else "",
                mask=mask,
                rule=rule,
            )
        )
    return units


def close(units: Sequence[Unit], level: float) -> None:
    """Fill in each unit's adjusted p value and level; `level` is the benchmark's."""
    present = {unit.group for unit in units}
    whole = sum(GROUPS[group] for group in present)
    for group in present:
        members = [unit for unit in units if unit.group == group]
        # Two costs of the same samples are one hypothesis (a caller that only calls).
        distinct: dict[tuple[float, float, float], list[Unit]] = {}
        for unit in members:
            key = (
                unit.entry(unit.estimates.samples_before),
                unit.entry(unit.estimates.samples_after),
                unit.entry(unit.estimates.t),
            )
            distinct.setdefault(key, []).append(unit)
        adjusted = noise.holm(np.array([same[0].growth_p for same in distinct.values()]))
        for value, same in zip(adjusted.tolist(), distinct.values(), strict=True):
            for unit in same:
                unit.adjusted = value
                unit.level = level * GROUPS[group] / whole
                unit.tests = len(distinct)
