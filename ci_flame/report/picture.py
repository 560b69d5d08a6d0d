"""Stage 6, pure: a BenchmarkDiff laid out as a differential flame graph, for SVG and HTML.

A box is as wide as the **mean of before and after**. Means add up (the children of a box
never need more room than it has), treat both sides alike, and leave a box that vanished
half of its former width instead of none. Colour tells the direction of what can be told
from noise; everything else is grey.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from enum import StrEnum
from typing import Final

from ci_flame.diff import BenchmarkDiff, Change
from ci_flame.profile import TOTAL, Frame, Stack
from ci_flame.verdict import Finding

SURE: Final = 0.01
"""A box is coloured below this p-value: with hundreds of boxes in a picture, the 90 % interval
alone would colour one innocent box in ten."""

STEPS: Final = (0.10, 0.25, 0.50)
"""Growth or shrinkage where the colour takes its next step: 4 steps in all."""


class Direction(StrEnum):
    """Which way a box changed, as far as one can tell."""

    GREW = "grew"
    SHRANK = "shrank"
    NOISE = "noise"


def direction(change: Change) -> Direction:
    """Return the direction of a change that can be told from noise, else NOISE."""
    if not change.p_value < SURE or change.before_ns == change.after_ns:
        return Direction.NOISE
    return Direction.GREW if change.after_ns > change.before_ns else Direction.SHRANK


def tone(change: Change) -> int:
    """Return the colour step: 1 to 4 for growth, -1 to -4 for shrinkage, 0 for grey.

    Both ways are measured on the larger side, so that a swap of the sides only changes the sign.
    """
    which = direction(change)
    if which is Direction.NOISE:
        return 0
    smaller, larger = sorted((change.before_ns, change.after_ns))
    size = larger / smaller - 1 if smaller > 0 else float("inf")
    step = 1 + sum(size >= each for each in STEPS)
    return step if which is Direction.GREW else -step


@dataclass(frozen=True, slots=True)
class Box:
    """One box: a node of the call tree and the room that it takes."""

    frame: Frame
    parent: int
    """Index of the box that holds this one; -1 for the benchmark itself."""
    depth: int
    change: Change
    """Of the stack down to here, callees included."""
    left: float
    """Nanoseconds from the left edge."""
    width: float
    """Mean of before and after in nanoseconds; never less than its children together."""


@dataclass(frozen=True, slots=True)
class Picture:
    """Boxes, parents before children; the first is the benchmark itself."""

    boxes: tuple[Box, ...]
    left_out: int
    """Boxes that were too narrow to be kept."""

    @property
    def depth(self) -> int:
        """Number of rows."""
        return 1 + max(box.depth for box in self.boxes)

    def find(self, path: Stack) -> int | None:
        """Return the index of the box at the end of a path; the benchmark itself for `[total]`."""
        if not path or path == (TOTAL,):
            return 0
        children: dict[tuple[int, Frame], int] = {
            (box.parent, box.frame): index for index, box in enumerate(self.boxes)
        }
        here = 0
        for frame in path:
            there = children.get((here, frame))
            if there is None:
                return None
            here = there
        return here


def guilty(picture: Picture, findings: Iterable[Finding]) -> dict[int, tuple[Finding, ...]]:
    """Return the findings by the index of their box; a finding whose box was left out is not in."""
    found: dict[int, tuple[Finding, ...]] = {}
    for finding in findings:
        index = 0 if finding.frame == TOTAL else picture.find(finding.path)
        if index is not None:
            found[index] = (*found.get(index, ()), finding)
    return found


def lay_out(diff: BenchmarkDiff, limit: int = 20_000) -> Picture:
    """Return the picture of a benchmark with its `limit` widest boxes.

    Widths come from total costs only, so that it does not matter to whom the cost of a native
    leaf inside the interpreter was charged. A node whose parent is missing hangs on the root.
    """
    frames: list[Frame] = [TOTAL]
    parents: list[int] = [-1]
    depths: list[int] = [0]
    changes: list[Change] = [diff.total]
    index: dict[Stack, int] = {}
    for node in diff.paths:
        if not node.path or node.path == (TOTAL,):
            continue
        parent = index.get(node.path[:-1], 0)
        index[node.path] = len(frames)
        frames.append(node.path[-1])
        parents.append(parent)
        depths.append(depths[parent] + 1)
        changes.append(node.total)

    needed = [0.0] * len(frames)
    widths = [0.0] * len(frames)
    for i in range(len(frames) - 1, -1, -1):
        widths[i] = max((changes[i].before_ns + changes[i].after_ns) / 2, needed[i])
        if i:
            needed[parents[i]] += widths[i]

    # A parent is at least as wide as its child and comes before it: the widest boxes are a tree.
    kept = sorted(sorted(range(len(frames)), key=lambda i: (-widths[i], i))[:limit])
    renumbered = {old: new for new, old in enumerate(kept)}
    boxes: list[Box] = []
    edges: list[float] = []
    for i in kept:
        parent = renumbered.get(parents[i], -1)
        left = 0.0 if parent < 0 else edges[parent]
        if parent >= 0:
            edges[parent] += widths[i]
        edges.append(left)
        boxes.append(Box(frames[i], parent, depths[i], changes[i], left, widths[i]))
    return Picture(tuple(boxes), len(frames) - len(kept))
