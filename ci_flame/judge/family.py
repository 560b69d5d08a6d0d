"""Stage 5, pure: which costs are tested for growth, and in what order.

A benchmark's level (0.5 % per build / benchmarks of the build) is split over own costs of
functions, costs with callees, and call paths (`levels.py`). Costs that are nearly the same
samples (a caller that only calls) stand in one line, the deepest first: a caller is tested once
what it calls was found to have grown. What belongs to a group is chosen by size over both sides
together, never by growth, so that the choice does not bias the test (Bourgon et al. 2010).
"""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, fields
from functools import cached_property
from typing import Final

import numpy as np

from ci_flame import noise
from ci_flame.diff import TENFOLD, Columns, visible_growth
from ci_flame.diff.evidence import Evidence, Flags, Indices
from ci_flame.judge import levels
from ci_flame.noise import Estimates, Floats
from ci_flame.policy import Rule, gates_total, matches_frames
from ci_flame.profile import TOTAL, Frame, Stack

TOLD: Final = "told"
LEAST_SAMPLES: Final = 5.0
"""On both sides together; nothing can be said of less."""
LEAF: Final = 1.05
"""Cost with callees / own cost up to which the two are one hypothesis."""
SAME: Final = 0.9
"""Part of a caller's samples from which on what it calls is nearly the same hypothesis: what is
left is a tenth, and would have to double before the caller grew by ten percent."""
LARGE_ENOUGH: Final = 0.4
"""Of `min_impact`: a mean share of both sides that growth of that impact cannot stay below."""


@dataclass(slots=True, eq=False)
class Unit:
    """One cost that rules may judge."""

    frame: Frame
    path: Stack
    """The heaviest call path of it."""
    estimates: Estimates
    row: int
    own: bool
    depth: int
    group: str
    """`own`, `total`, `path`; `TOLD`: own cost that no rule reads, for notes only."""
    under: str = ""
    """The caller, for a path."""
    function: int = -1
    """Its row of `Evidence.frames`, where the unit is a function."""
    mask: Flags | None = None
    """Nodes that a path is made of; None: those of the function, or all."""
    rule: Rule | None = None
    """The rule whose path glob made it; None: any rule that matches the frame."""
    adjusted: float = 1.0
    """One-sided p value against no growth, adjusted for all that is tested."""
    level: float = 0.0
    """What `adjusted` must not pass: the benchmark's level."""
    alpha: float = 0.0
    """Its own part of that level: what its p value must not pass before anything was found."""

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


@dataclass(frozen=True, slots=True, eq=False)
class _Path:
    """A cost that is a set of nodes."""

    frame: Frame
    function: int
    members: Indices
    last: Indices
    """The nodes that the path ends in; `members` may hold what they call."""
    own: bool
    rule: Rule | None


class Family:
    """All costs of one benchmark that rules may judge, as columns; units are made when asked for.

    Rows are functions' own costs, then costs with callees, the benchmark, then paths.
    """

    def __init__(self, columns: Columns, rules: Sequence[Rule], level: float) -> None:
        """Choose what these growth rules may judge and test it at `level`, the benchmark's."""
        self.columns = columns
        self.rules = tuple(rules)
        self.level = level
        self._units: dict[int, Unit] = {}
        functions = columns.functions
        floor = floor_of(rules)
        large = _large(columns, floor)
        self._matches = _matches(columns, rules, large)
        alone = np.array([rule.self_only for rule in rules], dtype=bool)
        matched = self._matches.any(axis=0)
        with_callees = self._matches[~alone].any(axis=0)
        by_itself = self._matches[alone].any(axis=0)
        samples = columns.estimates.samples_before + columns.estimates.samples_after
        self._samples = samples
        own, total = samples[1 : 1 + functions], samples[1 + functions : 1 + 2 * functions]
        calls = total > own * LEAF
        own_rows = np.flatnonzero(matched & large[1 : 1 + functions])
        total_rows = np.flatnonzero(with_callees & calls)
        whole = any(map(gates_total, rules)) and columns.clock.anchor != "shares"
        self._leaf = matched & large[1 : 1 + functions] & ~(with_callees & calls)
        paths = _contexts(columns, np.flatnonzero(matched), floor) if len(rules) else []
        for rule in rules:
            if rule.paths:
                paths += _named_paths(columns, rule)
        estimates, paths = _estimates_of(columns, paths, floor)
        self._paths = paths
        self.function = np.concatenate(
            [own_rows, total_rows, np.full(int(whole) + len(paths), -1, dtype=np.intp)]
        )
        self._own_count, self._total_count = len(own_rows), len(total_rows)
        self._whole = len(own_rows) + len(total_rows) if whole else -1
        self.count = len(self.function)
        told = ~(self._leaf | by_itself)[own_rows]
        self.group = np.array(
            [TOLD if each else "own" for each in told.tolist()]
            + ["total"] * (len(total_rows) + int(whole))
            + ["path"] * len(paths),
            dtype="<U5",
        )
        rows = np.concatenate([own_rows + 1, total_rows + 1 + functions, np.zeros(int(whole), int)])
        self.estimates = _gather(columns.estimates, rows.astype(np.intp), estimates)
        """Row 0 is the benchmark; then one row each."""
        self.growth_p = noise.lower_tail(self.estimates.degrees[1:], -self.estimates.t[1:])
        self.alpha = np.zeros(self.count)
        self.adjusted = np.ones(self.count)
        self._close()

    # --- the procedure -----------------------------------------------------------------

    def _close(self) -> None:
        """Fill in each cost's part of the level, and its adjusted p value."""
        judged = np.flatnonzero(self.group != TOLD)
        told = np.flatnonzero(self.group == TOLD)
        # No rule reads what is only told: nothing can fail by it, and notes have their own level.
        self.lines = self._lines(judged)
        for lines in (self.lines, [[index] for index in told.tolist()]):
            heads = np.array([line[0] for line in lines], dtype=np.intp)
            groups = np.where(self.group[heads] == TOLD, "own", self.group[heads])
            weights = levels.parts(groups, self._pooled(heads))
            adjusted = levels.adjust(self.growth_p, lines, weights)
            for line, weight in zip(lines, weights.tolist(), strict=True):
                self.alpha[line] = weight * self.level
                self.adjusted[line] = adjusted[line]

    def _pooled(self, indices: Indices) -> Floats:
        """Return the share of each cost in the samples of both sides together."""
        both = self.estimates.samples_before + self.estimates.samples_after
        return np.asarray(both[indices + 1] / max(float(both[0]), 1.0))

    def _lines(self, judged: Indices) -> list[list[int]]:
        """Return the costs in lines: those that are nearly the same samples share one."""
        above = self._callers()
        called = set(above.values())
        size = self._pooled(np.arange(self.count)).tolist()
        lines: list[list[int]] = []
        taken: set[int] = set()
        # From the deepest up; `called` after all others, for what a loop of callers left out.
        for start in sorted(judged.tolist(), key=lambda index: index in called):
            index: int | None = start
            line: list[int] = []
            while index is not None and index not in taken:
                if not line or size[line[0]] < SAME * size[index]:
                    line = []
                    lines.append(line)
                line.append(index)
                taken.add(index)
                index = above.get(index)
        return self._distinct(lines)

    def _distinct(self, lines: Sequence[list[int]]) -> list[list[int]]:
        """Put lines of one cost together where they are the very same samples."""
        estimates = self.estimates
        columns = (estimates.samples_before, estimates.samples_after, estimates.t)
        keys = list(zip(*(values[1:].tolist() for values in columns), strict=True))
        made: dict[object, list[int]] = {}
        for number, line in enumerate(lines):
            key = keys[line[0]] if len(line) == 1 else number
            made.setdefault(key, []).extend(line)
        return list(made.values())

    def _callers(self) -> dict[int, int]:
        """Return, for each cost that is nearly all of a caller's, that caller's cost."""
        columns, tree = self.columns, self.columns.evidence
        first = self._own_count
        totals = {
            int(function): first + number
            for number, function in enumerate(self.function[first : first + self._total_count])
        }
        leaves = {
            int(function): number
            for number, function in enumerate(self.function[:first])
            if self.group[number] == "own" and self._leaf[function]
        }
        of_function = leaves | totals
        samples, start = self._samples, columns.node_total_row(0)
        inside = samples[start : start + columns.nodes]
        of_all = np.full(len(tree.node_all), np.inf)
        of_all[: columns.functions] = samples[columns.total_row(0) :][: columns.functions]
        # Nodes that hold nearly all of their function.
        most = tree.judged & tree.first & (inside >= SAME * of_all[tree.node_frame])
        parent, frame = tree.parent.tolist(), tree.node_frame.tolist()
        found: dict[int, int] = {}
        for node in np.flatnonzero(most).tolist():
            index = of_function.get(frame[node])
            if index is None or index in found:
                continue
            above = parent[node]
            while above >= 0 and frame[above] not in totals:
                above = parent[above]
            whole = samples[0] if above < 0 else of_all[frame[above]]
            if inside[node] < SAME * whole:
                continue
            if above >= 0:
                found[index] = totals[frame[above]]
            elif self._whole >= 0:
                found[index] = self._whole
        return found

    # --- what it is asked for ------------------------------------------------------------

    def asked(self, rule: int) -> Flags:
        """Return which costs a rule reads: own or with callees, as it says; paths always."""
        of = self.rules[rule]
        told = np.zeros(self.count, dtype=bool)
        first, last = self._own_count, self._own_count + self._total_count
        matches = self._matches[rule]
        own, total = self.function[:first], self.function[first:last]
        told[:first] = matches[own] & (of.self_only | self._leaf[own])
        told[first:last] = matches[total] & (not of.self_only)
        if self._whole >= 0:
            told[self._whole] = gates_total(of)
        start = self.count - len(self._paths)
        for number, path in enumerate(self._paths):
            told[start + number] = (
                bool(matches[path.function]) if path.rule is None else path.rule is of
            )
        return told

    def judges(self) -> bool:
        """Tell whether any rule reads any cost that is large enough to be tested."""
        return any(self.asked(number).any() for number in range(len(self.rules)))

    @cached_property
    def q_values(self) -> Floats:
        """False discovery rates (Benjamini and Hochberg) of growth, for notes."""
        return noise.benjamini_hochberg(self.growth_p)

    def __iter__(self) -> Iterator[Unit]:
        """Return every cost as a unit."""
        return (self.unit(index) for index in range(self.count))

    def unit(self, index: int) -> Unit:
        """Return one cost as a value."""
        made = self._units.get(index)
        if made is None:
            made = self._units[index] = self._make(index)
        return made

    def _make(self, index: int) -> Unit:
        columns, tree = self.columns, self.columns.evidence
        closed = (float(self.adjusted[index]), self.level, float(self.alpha[index]))
        group = str(self.group[index])
        start = self.count - len(self._paths)
        if index >= start:
            path = self._paths[index - start]
            stack = _heaviest(columns, path.last)
            under = str(stack[-2]) if len(stack) > 1 else ""
            mask = np.zeros(columns.nodes, dtype=bool)
            mask[path.members] = True
            return Unit(
                path.frame, stack, self.estimates, index + 1, path.own, len(stack), group, under,
                -1, mask, path.rule, *closed,
            )  # fmt: skip
        if index == self._whole:
            return Unit(
                TOTAL, (TOTAL,), self.estimates, index + 1, own=False, depth=0, group=group,
                adjusted=closed[0], level=closed[1], alpha=closed[2],
            )  # fmt: skip
        function = int(self.function[index])
        node = columns.heaviest(function)
        return Unit(
            tree.frames[function], tree.path(node), self.estimates, index + 1,
            index < self._own_count, int(tree.depth[node]), group, "", function, None, None,
            *closed,
        )  # fmt: skip

    def visible(self) -> dict[Frame, float]:
        """Return the smallest growth that would have been seen, by function that is judged.

        Of the cost that its rules read: with callees where it has any, else its own. Functions
        that are new, gone, or of which not even a tenfold growth would have shown are left out.
        """
        estimates, columns = self.estimates, self.columns
        both = (estimates.samples_before[1:] > 0) & (estimates.samples_after[1:] > 0)
        known = np.flatnonzero((self.function >= 0) & (self.group != TOLD) & both)
        rows = known + 1
        seen = visible_growth(
            columns,
            estimates.standard_error[rows],
            estimates.degrees[rows],
            self._pooled(known),
            self.alpha[known],
        )
        frames = columns.evidence.frames
        return {
            frames[function]: growth
            for function, growth in zip(self.function[known].tolist(), seen.tolist(), strict=True)
            if growth < TENFOLD
        }

    def own_alpha(self) -> Floats:
        """Return the level that own growth of each function is told at; the least where none is."""
        made = np.full(self.columns.functions, self.least)
        first = self._own_count
        made[self.function[:first]] = self.alpha[:first]
        return made

    @cached_property
    def least(self) -> float:
        """The least part of the level that any cost has."""
        return float(self.alpha.min(initial=self.level, where=self.alpha > 0))


def floor_of(rules: Iterable[Rule]) -> float:
    """Return the smallest mean share of both sides that any of the rules can be broken at."""
    return LARGE_ENOUGH * min((rule.min_impact for rule in rules), default=0.0)


def _large(columns: Columns, floor: float) -> Flags:
    """Return which rows of the estimates are large enough to be tested."""
    return _is_large(columns.estimates, floor)


def _is_large(estimates: Estimates, floor: float) -> Flags:
    mean = (
        estimates.samples_before / max(estimates.samples_before[0], 1.0)
        + estimates.samples_after / max(estimates.samples_after[0], 1.0)
    ) / 2
    samples = estimates.samples_before + estimates.samples_after
    return np.asarray((mean >= floor) & (samples >= LEAST_SAMPLES))


def _matches(columns: Columns, rules: Sequence[Rule], large: Flags) -> Flags:
    """Return rules x functions: which functions each rule names, of those large enough."""
    made = np.zeros((len(rules), columns.functions), dtype=bool)
    start = columns.total_row(0)
    frames = columns.evidence.frames
    candidates = np.flatnonzero(large[start : start + columns.functions]).tolist()
    for number, rule in enumerate(rules):
        made[number, candidates] = matches_frames(rule.frames, [frames[at] for at in candidates])
    return made


def _gather(one: Estimates, rows: Indices, other: Estimates | None) -> Estimates:
    """Return the benchmark's row, then these rows, then all but the first of `other`."""
    chosen = np.concatenate([np.zeros(1, dtype=np.intp), rows])
    columns = []
    for field in fields(one):
        values = getattr(one, field.name)[chosen]
        if other is not None:
            values = np.concatenate([values, getattr(other, field.name)[1:]])
        columns.append(values)
    return Estimates(*columns)


def nodes_of(unit: Unit, tree: Evidence) -> Flags:
    """Return the nodes of the call tree whose own costs add up to the unit."""
    if unit.mask is not None:
        return unit.mask
    if unit.function < 0:
        return tree.judged
    here = tree.judged & (tree.node_frame == unit.function)
    return here if unit.own else tree.below(here) & tree.judged


def _estimates_of(
    columns: Columns, paths: Sequence[_Path], floor: float
) -> tuple[Estimates | None, list[_Path]]:
    """Return estimates of the paths that are large enough, after the benchmark's, and those."""
    if not paths:
        return None, []
    members = np.concatenate([path.members for path in paths])
    rows = np.repeat(np.arange(1, 1 + len(paths)), [len(path.members) for path in paths])
    sides = []
    for side in columns.evidence.sides:
        counts = np.zeros((1 + len(paths), len(side.total)))
        counts[0] = side.total
        np.add.at(counts, rows, side.node_own[members])
        sides.append(counts)
    estimates = columns.compare(sides[0], sides[1])
    floors = np.array([floor if path.rule is None else floor_of((path.rule,)) for path in paths])
    mean = (
        estimates.samples_before[1:] / max(estimates.samples_before[0], 1.0)
        + estimates.samples_after[1:] / max(estimates.samples_after[0], 1.0)
    ) / 2
    samples = estimates.samples_before[1:] + estimates.samples_after[1:]
    kept = np.flatnonzero((mean >= floors) & (samples >= LEAST_SAMPLES))
    return _gather(estimates, kept + 1, None), [paths[index] for index in kept.tolist()]


def _contexts(columns: Columns, matched: Indices, floor: float) -> list[_Path]:
    """Return the own cost of functions by the callers they were called from.

    Callers are taken in order of first appearance, so that a recursion that goes deeper is
    the same path. Only functions with two such paths or more that are large enough, and only
    paths that both sides have: what was never called from there before is told by its
    function, or by a rule that names the path.
    """
    tree = columns.evidence
    start = columns.node_own_row(0)
    rows = slice(start, start + columns.nodes)
    before, after = columns.estimates.samples_before[rows], columns.estimates.samples_after[rows]
    wanted = np.zeros(len(tree.node_all), dtype=bool)
    # A path is never larger than its function.
    wanted[matched] = _is_large(columns.estimates, floor)[1 : 1 + columns.functions][matched]
    nodes = np.flatnonzero(tree.judged & wanted[tree.node_frame] & (before + after > 0))
    several = np.bincount(tree.node_frame[nodes], minlength=len(tree.node_all)) > 1
    found: dict[tuple[int, ...], list[int]] = {}
    for node in nodes[several[tree.node_frame[nodes]]].tolist():
        found.setdefault(_callers(tree, node), []).append(node)
    paths: dict[int, int] = {}
    for key in found:
        paths[key[0]] = paths.get(key[0], 0) + 1
    made = []
    for key, members in found.items():
        if paths[key[0]] > 1 and before[members].sum() > 0:
            nodes_of_path = np.array(members, dtype=np.intp)
            made.append(
                _Path(tree.frames[key[0]], key[0], nodes_of_path, nodes_of_path, True, None)  # noqa: FBT003
            )
    return made


def _callers(tree: Evidence, node: int) -> tuple[int, ...]:
    """Return the node's frame, then its distinct callers from the outermost, as numbers."""
    own = int(tree.node_frame[node])
    chain: list[int] = []
    node = int(tree.parent[node])
    while node >= 0:
        chain.append(int(tree.node_frame[node]))
        node = int(tree.parent[node])
    return (own, *dict.fromkeys(frame for frame in reversed(chain) if frame != own))


def _heaviest(columns: Columns, nodes: Indices) -> Stack:
    """Return the stack of the node with the largest cost, both sides added."""
    start = columns.node_total_row(0)
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


def _named_paths(columns: Columns, rule: Rule) -> list[_Path]:
    """Return the costs that the path globs of a rule are about, one per last frame."""
    tree = columns.evidence
    return [
        _Path(
            frame,
            -1,
            np.flatnonzero(mask if rule.self_only else tree.below(mask) & tree.judged),
            np.flatnonzero(mask),
            own=rule.self_only,
            rule=rule,
        )
        for frame, mask in matched_nodes(tree, rule).items()
    ]
