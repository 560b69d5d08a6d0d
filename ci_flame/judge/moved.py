"""Stage 5, pure: cost that moved is not cost that grew.

A function that is new took its cost from somewhere when it was extracted from its caller, or
when one was split in two: the caller's own cost fell, or a function beside it is gone. A function
that grew may have taken in one that is gone: beside it (merged), or below it (inlined). What
moved is reported as moved, and only the net growth is judged. A function that merely shrank
beside it excuses nothing: that is a saving that masks growth; unless exact counts witness that
the new one executes just the bytecodes that it no longer does. Plain renames are told before
(`diff/renames.py`).
"""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Final

import numpy as np

from ci_flame import noise
from ci_flame.diff.counts import Counts
from ci_flame.judge.family import Family, Unit, nodes_of
from ci_flame.policy import Rule
from ci_flame.profile import TOTAL, Frame
from ci_flame.verdict import percent

MOVED: Final = 0.5
"""Part of what a function grew by that must have come from its caller or a gone neighbour."""
SURE: Final = -2.0
"""t from which on a cost is believed to have fallen, or to be gone."""
CONSERVED: Final = 0.10
"""What bytecodes may differ by and be the same work: a split adds calls, and loops of its own."""
SHOWN_SOURCES: Final = 2


@dataclass(frozen=True, slots=True)
class Move:
    """A cost that grew or is new, and the cost that left where it is called."""

    frame: Frame
    after_ns: float
    left_ns: float
    """What it cost before, and what is gone or fell, as much of it as this function's part."""
    whole_ns: float
    """The benchmark before."""
    standard_error: float
    """Of ln(after / left)."""
    degrees: float
    level: float
    sources: tuple[str, ...]
    new: bool

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
        told = f"net {'+' if net >= 0 else ''}{percent(net / self.whole_ns)} %"
        sources = " and ".join(self.sources)
        if not self.new:
            return (
                f"{self.frame} took in {sources}, gone at the same place: that cost moved, {told}"
            )
        return (
            f"{self.frame} is new and takes {percent(self.after_ns / self.whole_ns)} % of the"
            f" benchmark, which left {sources} at the same place: it moved, {told}"
        )


def moves(family: Family, grown: Iterable[int], counts: Counts | None = None) -> dict[int, Move]:
    """Return, of these costs of the family, those that took theirs from where they are called.

    `counts` are the benchmark's bytecodes, where time on the CPU is judged: witnesses of work
    that a function handed to a new one beside it.
    """
    tree = None
    made: dict[int, Move] = {}
    for index in grown:
        unit = family.unit(index)
        if unit.frame == TOTAL:
            continue
        tree = tree or _Tree(family, counts)
        found = _move(unit, tree)
        if found is not None:
            made[index] = found
    return made


@dataclass(slots=True)
class _Left:
    """What left, so far."""

    ns: float = 0.0
    samples: float = 0.0
    sources: dict[str, None] | None = None

    def add(self, ns: float, samples: float, sources: Iterable[str]) -> None:
        """Add one place's part."""
        self.ns += ns
        self.samples += samples
        if ns > 0:
            self.sources = (self.sources or {}) | dict.fromkeys(list(sources)[:SHOWN_SOURCES])


class _Tree:
    """The call tree with its costs before and after."""

    def __init__(self, family: Family, counts: Counts | None) -> None:
        columns = family.columns
        self.counts = counts
        self.columns, self.estimates, self.tree = columns, columns.estimates, columns.evidence
        start = columns.node_total_row(0)
        rows = slice(start, start + columns.nodes)
        self.before = self.estimates.before[rows]
        self.after = self.estimates.after[rows]
        self.samples = self.estimates.samples_before[rows]
        totals = slice(columns.total_row(0), columns.total_row(0) + columns.functions)
        gone = (self.estimates.after[totals] == 0) & (self.estimates.t[totals] < SURE)
        self.gone = np.zeros(columns.nodes, dtype=bool)
        judged = np.flatnonzero(self.tree.judged)
        self.gone[judged] = gone[self.tree.node_frame[judged]]
        self.children: dict[int, list[int]] = {}
        for node, parent in zip(judged.tolist(), self.tree.parent[judged].tolist(), strict=True):
            self.children.setdefault(parent, []).append(node)

    def name(self, node: int) -> str:
        """Return the name of a node's function."""
        return str(self.tree.node_all[self.tree.node_frame[node]])

    def handed_over(self, beside: Iterable[int]) -> list[int]:
        """Return those of the nodes that surely shrank by just the bytecodes that new ones execute.

        All that shrank together, or one of them.
        """
        totals = self.columns.node_total_row(0)
        new = [each for each in beside if not self.before[each]]
        fell = [
            each
            for each in beside
            if self.before[each] and self.after[each] and self.estimates.t[totals + each] < SURE
        ]
        for some in ([fell] if len(fell) > 1 else []) + [[each] for each in fell]:
            left, arrived = -self._more_bytecodes(some), self._more_bytecodes(new)
            if left > 0 and abs(arrived - left) <= CONSERVED * left:
                return some
        return []

    def _more_bytecodes(self, nodes: Iterable[int]) -> float:
        """Return how many bytecodes more the nodes' functions execute; nan: nobody knows."""
        more = 0.0
        for frame in {self.tree.node_all[self.tree.node_frame[each]] for each in nodes}:
            work = self.counts.work(frame) if self.counts is not None else None
            if work is None:
                return float("nan")
            before, after = work.before.total_bytecodes, work.after.total_bytecodes
            if before is None or after is None:
                return float("nan")
            more += after - before
        return more

    def grown(self, nodes: Iterable[int]) -> float:
        """Return by how much those of the nodes that grew did."""
        return float(sum(max(self.after[each] - self.before[each], 0.0) for each in nodes))

    def grown_itself(self, node: int) -> float:
        """Return by how much a node's own cost surely grew."""
        row = self.columns.node_own_row(node)
        if node < 0 or self.estimates.t[row] < -SURE:
            return 0.0
        return float(self.estimates.after[row] - self.estimates.before[row])


def _move(unit: Unit, tree: _Tree) -> Move | None:
    """Return where a cost came from; None: not from where it is called, for the most part."""
    inside = nodes_of(unit, tree.tree)
    parents = tree.tree.parent
    nodes = np.flatnonzero(inside).tolist()
    tops = [node for node in nodes if parents[node] < 0 or not inside[parents[node]]]
    before, cost = unit.entry(unit.estimates.before), unit.entry(unit.estimates.after)
    left = _Left()
    for top in tops:
        if before:
            _merged(top, tree, left)
        else:
            _arrived(top, tree, left)
    if before and unit.own:
        for node in nodes:
            _inlined(node, tree, left)
    if cost <= before or left.ns < MOVED * (cost - before):
        return None
    estimates = unit.estimates
    dispersion = unit.entry(estimates.dispersion)
    error = np.sqrt(
        dispersion / max(unit.entry(estimates.samples_after), 1.0)
        + dispersion / max(unit.entry(estimates.samples_before) + left.samples, 1.0)
        + tree.columns.clock.systematic**2
    )
    return Move(
        unit.frame,
        cost,
        before + left.ns,
        float(tree.estimates.before[0]),
        float(error),
        unit.entry(estimates.degrees),
        unit.alpha,
        tuple(left.sources or ()),
        not before,
    )


def _arrived(node: int, tree: _Tree, left: _Left) -> None:
    """Add what left where a new node, or what is new above it, is called."""
    parents, estimates, columns = tree.tree.parent, tree.estimates, tree.columns
    top = node
    while parents[top] >= 0 and not tree.before[parents[top]]:
        top = int(parents[top])
    parent = int(parents[top])
    beside = tree.children[parent]
    gone = [each for each in beside if tree.before[each] and not tree.after[each]]
    offset, samples = float(tree.before[gone].sum()), float(tree.samples[gone].sum())
    names = [tree.name(each) for each in sorted(gone, key=lambda each: -tree.before[each])]
    for each in tree.handed_over(beside):
        fell = 1 - tree.after[each] / tree.before[each]
        offset += float(tree.before[each] * fell)
        samples += float(tree.samples[each] * fell)
        names.append(f"{tree.name(each)} (which executes as many bytecodes fewer)")
    row = columns.node_own_row(parent)
    if parent >= 0 and estimates.t[row] < SURE:
        offset += float(estimates.before[row] - estimates.after[row])
        fell = 1 - estimates.after[row] / estimates.before[row]
        samples += float(estimates.samples_before[row] * fell)
        names.append(f"own cost of {tree.name(parent)}")
    arrived = float(sum(tree.after[each] for each in beside if not tree.before[each]))
    part = min(float(tree.after[node]) / arrived, 1.0) if arrived else 0.0
    left.add(offset * part, samples * part, names)


def _merged(node: int, tree: _Tree, left: _Left) -> None:
    """Add what is gone beside a node that grew, by its part of what grew there."""
    parent = int(tree.tree.parent[node])
    _share_out(parent, tree.grown([node]), tree, left)


def _inlined(node: int, tree: _Tree, left: _Left) -> None:
    """Add what is gone below a node whose own cost grew."""
    _share_out(node, tree.grown_itself(node), tree, left)


def _share_out(parent: int, grown: float, tree: _Tree, left: _Left) -> None:
    """Add the part of what is gone under `parent` that falls to growth of `grown` there.

    What is new there has the first claim on it.
    """
    below = tree.children.get(parent, ())
    gone = [each for each in below if tree.gone[each]]
    new = [each for each in below if not tree.before[each]]
    whole = float(tree.before[gone].sum())
    free = whole - float(tree.after[new].sum())
    if free <= 0 or grown <= 0:
        return
    known = [each for each in below if tree.before[each]]
    part = grown / (tree.grown(known) + tree.grown_itself(parent)) * free / whole
    names = [tree.name(each) for each in sorted(gone, key=lambda each: -tree.before[each])]
    left.add(
        whole * min(part, 1.0),
        float(tree.samples[gone].sum()) * min(part, 1.0),
        names,
    )
