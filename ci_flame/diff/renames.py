"""Stage 4, pure: functions that are gone and functions that are new, and which are the same.

A function that was renamed, or whose file was, keeps its callers, its callees and about its
cost. It is compared with itself then, so that growth on top of the new name is growth. One
that was split or merged has no single other name: `judge/moved.py`.
"""

from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from math import log
from typing import Final

import numpy as np

from ci_flame.diff.evidence import Evidence, Indices
from ci_flame.profile import Frame, Kind

LEAST_SAMPLES: Final = 8
"""Of a function with its callees that the other side never saw: chance does not do that."""
LEAST_SHARE: Final = 0.001
AT_MOST: Final = 200
"""Functions, the largest, that are looked at one by one where no name tells them apart."""
ALIKE: Final = 0.5
"""Part of two functions' callers, and of what they spend their time in, that must agree."""
CLOSE: Final = log(1.3)
"""ln of the costs' ratio up to which two functions are the same although others are like them."""
FAR: Final = log(2.0)
"""The same where there is nobody else at that place, or the function only changed its module."""
RIVAL: Final = 0.1
"""Of a function's cost: what is smaller is no other candidate for its name."""
COMMON: Final = 0.2
"""Of the cost: where functions of both sides are less of it, they are no measure."""
OWN: Final = -2
UNKNOWN_CALLEE: Final = -3
NAMED: Final = frozenset({Kind.PYTHON, Kind.NATIVE, Kind.JIT})

Parts = Mapping[int, float]


@dataclass(frozen=True, slots=True, eq=False)
class _Function:
    """One function of one side only."""

    index: int
    frame: Frame
    size: float
    callers: Parts
    callees: Parts
    """Where it spends its time, its own cost included; they add up to 1."""


def find(evidence: Evidence) -> dict[Frame, Frame]:
    """Return the functions that have another name now: before -> after; mostly none."""
    if len(evidence.sides) != 2:  # noqa: PLR2004 - before and after
        return {}
    totals = [side.frame_total.sum(axis=1) for side in evidence.sides]
    wholes = [max(float(side.total.sum()), 1e-300) for side in evidence.sides]
    least = [
        max(0 if side.waiting else LEAST_SAMPLES, LEAST_SHARE * whole)
        for side, whole in zip(evidence.sides, wholes, strict=True)
    ]
    gone = np.flatnonzero((totals[0] >= least[0]) & (totals[1] == 0))
    new = np.flatnonzero((totals[1] >= least[1]) & (totals[0] == 0))
    if not len(gone) or not len(new):
        return {}
    sizes = _sizes(evidence)
    before = _functions(evidence, 0, gone, sizes[0])
    after = _functions(evidence, 1, new, sizes[1])
    made: dict[int, int] = {}
    _by_name(before, after, made)
    while _by_place(before, after, made):
        pass
    frames = evidence.frames
    return {frames[one]: frames[other] for one, other in sorted(made.items())}


def _sizes(evidence: Evidence) -> list[float]:
    """Return what functions are measured by on each side: the cost of those that both have.

    The whole grows with a function that does. Where nearly everything has another name it is
    all there is.
    """
    own = [side.frame_own.sum(axis=1) for side in evidence.sides]
    common = (own[0] > 0) & (own[1] > 0)
    both = [float(each[common].sum()) for each in own]
    whole = [max(float(side.total.sum()), 1e-300) for side in evidence.sides]
    if min(part / all_of_it for part, all_of_it in zip(both, whole, strict=True)) < COMMON:
        return whole
    return both


def _functions(evidence: Evidence, side: int, indices: Indices, size: float) -> list[_Function]:
    """Return these functions of one side, largest first."""
    counts = evidence.sides[side].node_total.sum(axis=1)
    own = evidence.sides[side].node_own.sum(axis=1)
    wanted = set(indices.tolist())
    callers: dict[int, Counter[int]] = {index: Counter() for index in wanted}
    inside: dict[int, Counter[int]] = {index: Counter() for index in wanted}
    frame, parent = evidence.node_frame.tolist(), evidence.parent.tolist()
    for node in np.flatnonzero(evidence.judged & (counts > 0)).tolist():
        index, above = frame[node], parent[node]
        if index in wanted:
            inside[index][OWN] += own[node]
            if evidence.first[node]:
                callers[index][frame[above] if above >= 0 else -1] += counts[node]
        if above >= 0 and frame[above] in wanted and frame[above] != index:
            inside[frame[above]][index] += counts[node]
    made = [
        _Function(
            index,
            evidence.frames[index],
            sum(callers[index].values()) / size,
            _parts(callers[index]),
            _parts(inside[index]),
        )
        for index in indices.tolist()
        if evidence.frames[index].kind in NAMED
    ]
    return sorted(made, key=lambda each: (-each.size, str(each.frame)))


def _parts(counts: Counter[int]) -> Parts:
    whole = sum(counts.values())
    return {key: count / whole for key, count in counts.items()} if whole else {}


def _agree(one: Parts, other: Parts) -> float:
    """Return the part of two distributions that is the same, 0 to 1."""
    return sum(min(part, other.get(key, 0.0)) for key, part in one.items())


def _by_name(before: Iterable[_Function], after: Iterable[_Function], made: dict[int, int]) -> None:
    """Match functions of the same name in another module, where only one is meant.

    A name that several modules have is the one of the module that others moved to.
    """
    names: dict[tuple[Kind, str], tuple[list[_Function], list[_Function]]] = {}
    for side, functions in enumerate((before, after)):
        for each in functions:
            names.setdefault((each.frame.kind, each.frame.function), ([], []))[side].append(each)
    modules: Counter[tuple[str, str]] = Counter()
    for ones, others in names.values():
        if len(ones) == len(others) == 1 and _may_be(ones[0], others[0]):
            made[ones[0].index] = others[0].index
            modules[ones[0].frame.module, others[0].frame.module] += 1
    for ones, others in names.values():
        for one in ones:
            fitting = [o for o in others if modules[one.frame.module, o.frame.module]]
            taken = made.values()
            if one.index not in made and len(fitting) == 1 and fitting[0].index not in taken:
                made[one.index] = fitting[0].index


def _may_be(one: _Function, other: _Function) -> bool:
    """Tell whether two functions of the same name are one: about its cost, or its callers."""
    near = abs(log(other.size / one.size)) <= FAR
    return near or _agree(one.callers, other.callers) >= ALIKE


def _by_place(before: list[_Function], after: list[_Function], made: dict[int, int]) -> bool:
    """Match functions by callers, callees and cost, best first; tell whether any was found."""
    taken = set(made.values())
    ones = [each for each in before if each.index not in made][:AT_MOST]
    others = [each for each in after if each.index not in taken][:AT_MOST]
    unmatched = {each.index for each in ones} | {each.index for each in others}
    at: dict[int, list[tuple[_Function, _Function]]] = {}
    fitting: list[tuple[_Function, _Function]] = []
    theirs = {each.index: _renamed(each.callees, {}, unmatched) for each in others}
    for one in ones:
        callers = _renamed(one.callers, made, set())
        callees = _renamed(one.callees, made, unmatched)
        for other in others:
            if one.frame.kind is not other.frame.kind:
                continue
            if _agree(callers, other.callers) < ALIKE:
                continue
            pair = one, other
            larger = max(one.size, other.size)
            if min(one.size, other.size) >= RIVAL * larger:
                at.setdefault(one.index, []).append(pair)
                at.setdefault(other.index, []).append(pair)
            if _agree(callees, theirs[other.index]) >= ALIKE:
                fitting.append(pair)
    found = False
    for one, other in sorted(fitting, key=_order):
        if one.index in made or other.index in taken:
            continue
        alone = len(at.get(one.index, ())) == 1 == len(at.get(other.index, ()))
        if abs(log(other.size / one.size)) <= (FAR if alone else CLOSE):
            made[one.index] = other.index
            taken.add(other.index)
            found = True
    return found


def _order(pair: tuple[_Function, _Function]) -> tuple[float, str, str]:
    one, other = pair
    return abs(log(other.size / one.size)), str(one.frame), str(other.frame)


def _renamed(parts: Parts, made: Mapping[int, int], unmatched: set[int]) -> Parts:
    """Return the parts by today's names; what has none yet is one unknown."""
    told: dict[int, float] = {}
    for key, part in parts.items():
        name = UNKNOWN_CALLEE if key in unmatched else made.get(key, key)
        told[name] = told.get(name, 0.0) + part
    return told
