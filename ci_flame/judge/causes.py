"""Stage 5, pure: one cause, one finding.

Growth in a function is growth of every caller above it. Of all costs that broke a rule, the
deepest that explain the growth are reported; callers are their path.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from math import nan
from typing import Final

import numpy as np
from scipy.special import chdtrc

from ci_flame.diff import VISIBLE_SHARE, Columns
from ci_flame.diff.evidence import Flags, Indices
from ci_flame.judge.family import Unit, nodes_of
from ci_flame.noise import Floats
from ci_flame.policy import Limit, Rule
from ci_flame.profile import TOTAL, Kind
from ci_flame.verdict import percent

EXPLAINED: Final = 0.8
"""Share of a caller's growth from which on its callees are the whole story."""
MOSTLY: Final = 0.5
SEVERAL: Final = 3
"""New functions, or native ones, below one caller up to which each is a finding of its own."""
LARGE: Final = 0.01
"""Own share below which the noise of a function says nothing of it alone."""
NEAR: Final = 0.3
"""Part of the benchmark's growth by which a function's may differ from it and be alike."""
SURELY: Final = 3.0
"""Standard errors by which a caller differs from the benchmark for sure, of dozens of callers."""
LIKELY: Final = 0.01
"""Probability of differences as large as these, below which functions did not grow alike."""
EVEN_FUNCTIONS: Final = 3
"""Functions that must have grown alike before the benchmark itself is called the cause."""


@dataclass(slots=True, eq=False)
class Broken:
    """One cost that broke one rule."""

    unit: Unit
    rule: Rule
    certainty: float
    limit: str
    fails: bool
    """False: the rule only warns."""
    cause: str = ""

    @property
    def growth_ns(self) -> float:
        """Change per iteration."""
        unit = self.unit
        return unit.entry(unit.estimates.after) - unit.entry(unit.estimates.before)


def _node_growth(columns: Columns) -> Floats:
    """Return the change of own cost of each node, ns per iteration."""
    start = columns.node_own_row(0)
    rows = slice(start, start + columns.nodes)
    return np.asarray(columns.estimates.after[rows] - columns.estimates.before[rows])


def deepest(broken: Sequence[Broken], columns: Columns) -> list[Broken]:
    """Return what to report of all that broke a rule, largest growth first."""
    if not broken:
        return []
    whole = [each for each in broken if each.unit.frame == TOTAL]
    # A warning about the whole does not excuse a failure of its parts.
    if (
        whole
        and (_worst(whole).fails or not any(each.fails for each in broken))
        and grew_evenly(columns)
    ):
        return [_worst(whole)]
    growth = _node_growth(columns)
    tree = columns.evidence
    candidates = _one_per_function(broken)
    candidates.sort(key=lambda each: (-each.unit.depth, -each.growth_ns, str(each.unit.frame)))
    kept: list[Broken] = []
    covered: list[Flags] = []
    for each in candidates:
        inside = nodes_of(each.unit, tree)
        explained = np.zeros(columns.nodes, dtype=bool)
        for one, nodes in zip(kept, covered, strict=True):
            # A warning below does not excuse a failure above it.
            if one.fails or not each.fails:
                explained |= nodes & inside
        if _told(each, float(growth[inside].sum()), float(growth[explained].sum())):
            continue
        if each.fails:  # a lambda or comprehension of it is its own code
            kept, covered = _without_inner(each, kept, covered)
        each.cause = "" if each.unit.own else _cause(each, inside, growth, columns)
        kept.append(each)
        covered.append(inside)
    kept = _gathered(kept, covered, candidates, columns)
    return sorted(kept, key=lambda each: (not each.fails, -each.growth_ns, str(each.unit.frame)))


def _without_inner(
    outer: Broken, kept: list[Broken], covered: list[Flags]
) -> tuple[list[Broken], list[Flags]]:
    """Drop what is written inside the outer function (`parse.<locals>.<genexpr>` of `parse`)."""
    frame = outer.unit.frame
    inside = f"{frame.function}.<locals>."
    left = [
        (one, nodes)
        for one, nodes in zip(kept, covered, strict=True)
        if one.unit.frame.module != frame.module or not one.unit.frame.function.startswith(inside)
    ]
    return [one for one, _ in left], [nodes for _, nodes in left]


def _gathered(
    kept: Sequence[Broken],
    covered: Sequence[Flags],
    candidates: Sequence[Broken],
    columns: Columns,
) -> list[Broken]:
    """Put more than three parts of one cause together: in the deepest caller that broke a rule.

    Parts are new functions, and native ones below a caller that is none (a library that it calls
    now, or calls more); between them and that caller stands nothing but their like.
    """
    tree, growth = columns.evidence, _node_growth(columns)
    inside = dict(zip(map(id, kept), covered, strict=True))
    left = list(kept)
    for caller in candidates:  # the deepest first
        if len(left) <= SEVERAL or caller.unit.frame == TOTAL or caller.unit.own:
            continue
        below = nodes_of(caller.unit, tree)
        reach = _reach(caller.unit, below, columns)
        parts = [
            each
            for each in left
            if each is not caller
            and (_new(each) or (_native(each) and not _native(caller)))
            and (caller.fails or not each.fails)
            and _mostly_in(reach, inside[id(each)], growth)
        ]
        if len(parts) <= SEVERAL:
            continue
        caller.cause = _names(parts, float(growth[below].sum()))
        left = [each for each in left if each not in parts and each is not caller] + [caller]
        inside[id(caller)] = below
    return left


def _native(each: Broken) -> bool:
    return each.unit.frame.kind is Kind.NATIVE


def _new(each: Broken) -> bool:
    return not each.unit.entry(each.unit.estimates.before)


def _reach(unit: Unit, below: Flags, columns: Columns) -> Flags:
    """Return the nodes below a function with none between that is known and not native."""
    tree = columns.evidence
    known = np.ones(len(tree.node_all), dtype=bool)
    known[: columns.functions] = (
        columns.estimates.before[columns.total_row(0) : columns.total_row(0) + columns.functions]
        > 0
    )
    known &= np.array([frame.kind is not Kind.NATIVE for frame in tree.node_all], dtype=bool)
    if unit.function >= 0:
        known[unit.function] = False
    return below & ~tree.below(below & known[tree.node_frame])


def _mostly_in(reach: Flags, nodes: Flags, growth: Floats) -> bool:
    """Tell whether what these nodes grew by is, for the most part, within reach."""
    return float(growth[nodes & reach].sum()) >= EXPLAINED * float(growth[nodes].sum())


def _names(parts: Sequence[Broken], grown: float) -> str:
    """Return what the parts of a cause are, in words."""
    largest = sorted(parts, key=lambda each: -each.growth_ns)
    whole = sum(each.growth_ns for each in parts)
    part = f" ({percent(min(whole / grown, 1.0))} % of the growth)" if grown > 0 else ""
    named = ", ".join(str(each.unit.frame) for each in largest[:SEVERAL])
    kind = "native functions" if all(map(_native, parts)) else "new functions"
    return f"It is in {len(parts)} {kind} below it{part}: {named} and {len(parts) - SEVERAL} more."


def _told(each: Broken, grown: float, explained: float) -> bool:
    """Tell whether what its callees explain leaves nothing of a caller's growth to report.

    Nothing is less than a fifth; or, where they explain most of it, less than the caller's own
    noise (two standard errors) or than the limit: what is left would not break the rule.
    """
    if grown <= 0 or explained >= EXPLAINED * grown:
        return grown > 0
    if explained < MOSTLY * grown:
        return False
    unit, left = each.unit, grown - explained
    before = unit.entry(unit.estimates.before)
    noise_ns = 2 * unit.entry(unit.estimates.standard_error) * before
    return left <= noise_ns or _within(each.rule.max_growth, left, before)


def _within(limit: Limit | None, left_ns: float, before_ns: float) -> bool:
    """Tell whether growth by `left_ns` alone would keep the limit."""
    if limit is None:
        return False
    by_share = limit.share is None or left_ns <= limit.share * before_ns
    by_time = limit.ns is None or left_ns <= limit.ns
    return by_share and by_time


def explained_by(unit: Unit, kept: Sequence[Broken], columns: Columns) -> bool:
    """Tell whether what was reported is most of this cost's growth, or is above all of it."""
    growth, tree = _node_growth(columns), columns.evidence
    inside = nodes_of(unit, tree)
    reported = np.zeros(columns.nodes, dtype=bool)
    for each in kept:
        reported |= nodes_of(each.unit, tree)
    grown = float(growth[inside].sum())
    return grown > 0 and float(growth[inside & reported].sum()) >= MOSTLY * grown


def _one_per_function(broken: Sequence[Broken]) -> list[Broken]:
    """Keep one finding per function, whichever of its rules, costs and paths broke.

    All of its calls say more than those from one caller.
    """
    by_frame: dict[str, list[Broken]] = {}
    for each in broken:
        by_frame.setdefault(str(each.unit.frame), []).append(each)
    candidates: list[Broken] = []
    for same in by_frame.values():
        everywhere = [each for each in same if each.unit.mask is None]
        paths = [each for each in same if each.unit.mask is not None]
        if everywhere and (
            not any(each.fails for each in paths) or any(each.fails for each in everywhere)
        ):
            candidates.append(_worst(everywhere))
        else:
            distinct: dict[str, list[Broken]] = {}
            for each in paths:
                distinct.setdefault(str(each.unit.under), []).append(each)
            candidates += [_worst(some) for some in distinct.values()]
    return candidates


def _worst(same: Sequence[Broken]) -> Broken:
    """Return the one to report: failing first, then total cost, then the stricter rule."""
    return max(same, key=lambda each: (each.fails, not each.unit.own, each.certainty))


def grew_evenly(columns: Columns) -> bool:
    """Tell whether the benchmark grew as a whole: its functions alike, not one of them for all.

    At least `EVEN_FUNCTIONS` functions of 1 % own cost or more, and all smaller ones as if they
    were one, together 80 % of the cost, grew as the benchmark did, within their own noise or
    30 % of it; and all of them together differ by no more than that lets expect (Cochran 1954,
    Q). Where one function is most of the growth, each of the others must surely have grown. No
    caller of 5 % or more surely grew otherwise: it may do more of what all of them call.
    """
    estimates = columns.estimates
    whole = float(estimates.log_ratio[0])
    if not np.isfinite(whole) or whole <= 0:
        return False
    rows = np.arange(1, 1 + columns.functions)
    share = estimates.before[rows] / estimates.before[0]
    large = rows[share >= LARGE]
    if len(large) < EVEN_FUNCTIONS:
        return False
    rest, rest_error, rest_share = _together(columns, rows[share < LARGE])
    grew = np.append(estimates.log_ratio[large], rest)
    error = np.append(estimates.standard_error[large], rest_error)
    part = np.append(share[large - 1], rest_share)
    # One that seems cheaper within its noise may have grown like the rest.
    apart = np.abs(grew - whole)
    alike = apart <= np.maximum(2 * error, NEAR * whole)
    with np.errstate(invalid="ignore"):  # what is gone has no error to divide by
        q = np.nansum(apart**2 / (error**2 + (NEAR * whole / 2) ** 2))
    if chdtrc(len(large), q) < LIKELY or _caller_apart(columns, whole):
        return False
    change = estimates.after[large] - estimates.before[large]
    most = int(np.argmax(change))
    wanted = EXPLAINED
    if change[most] >= MOSTLY * (estimates.after[0] - estimates.before[0]):
        alike &= grew >= 2 * error
        alike[most] = False
        wanted *= 1 - part[most]
    return bool(alike[:-1].sum() >= EVEN_FUNCTIONS and part[alike].sum() >= wanted)


def _caller_apart(columns: Columns, whole: float) -> bool:
    """Tell whether a function with its callees surely grew otherwise than the benchmark did."""
    estimates = columns.estimates
    rows = np.arange(columns.total_row(0), columns.total_row(0) + columns.functions)
    rows = rows[estimates.before[rows] >= VISIBLE_SHARE * estimates.before[0]]
    apart = np.abs(estimates.log_ratio[rows] - whole)
    surely = np.maximum(SURELY * estimates.standard_error[rows], NEAR * whole)
    return bool((apart > surely).any())


def _together(columns: Columns, rows: Indices) -> tuple[float, float, float]:
    """Return the log ratio of these own costs as one, its standard error, and their share.

    Errors are added in quadrature: own costs of different functions are different samples.
    """
    estimates = columns.estimates
    before, after = estimates.before[rows], estimates.after[rows]
    if not before.sum() or not after.sum():
        return nan, 0.0, 0.0
    known = np.isfinite(estimates.standard_error[rows])
    errors = estimates.standard_error[rows][known] * before[known]
    return (
        float(np.log(after.sum() / before.sum())),
        float(np.sqrt((errors**2).sum()) / before.sum()),
        float(before.sum() / estimates.before[0]),
    )


def _cause(each: Broken, inside: Flags, growth: Floats, columns: Columns) -> str:
    """Return where most of a caller's growth is, if in one function that is surely dearer."""
    tree = columns.evidence
    by_frame = np.zeros(len(tree.node_all))
    np.add.at(by_frame, tree.node_frame[inside], growth[inside])
    most = int(np.argmax(by_frame))
    whole = float(growth[inside].sum())
    frame = tree.node_all[most]
    if frame == each.unit.frame or whole <= 0 or by_frame[most] < MOSTLY * whole:
        return ""
    if columns.estimates.t[columns.own_row(most)] < 3:  # noqa: PLR2004 - surely, not likely
        return ""
    part = min(float(by_frame[most]) / whole, 1.0)
    of = "the growth" if each.unit.entry(each.unit.estimates.before) else "it"
    return f"Most of {of} ({part * 100:.0f} %) is in {frame}."
