"""Stage 4, pure: the estimates of one benchmark as columns, and single changes as values.

Thousands of functions are compared as arrays; few of them are ever printed.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Final, Generic, TypeVar, overload

import numpy as np

from ci_flame import noise
from ci_flame.diff import speed
from ci_flame.diff.evidence import Evidence, Indices
from ci_flame.noise import Estimates, Floats, Machine, Prior, between
from ci_flame.noise.between import Between
from ci_flame.profile import Frame, Place, Stack

T_co = TypeVar("T_co", covariant=True)


@dataclass(frozen=True, slots=True)
class Change:
    """One cost before and after, and how sure one can be of the change."""

    before_ns: float
    after_ns: float
    before_share: float
    """Of the benchmark, 0 to 1."""
    after_share: float
    log_ratio: float
    """Estimate of ln(after / before); inf for new, -inf for gone."""
    standard_error: float
    """Of `log_ratio`, between processes."""
    degrees: float
    """Degrees of freedom of the t distribution of log_ratio / standard_error."""
    p_value: float
    """Two-sided, against no change."""
    low: float
    """Lower end of the 90 % interval of growth (0.18 = 18 %)."""
    high: float
    samples_before: int
    samples_after: int

    @property
    def growth(self) -> float:
        """Change / own cost before; inf for what is new."""
        return self.after_ns / self.before_ns - 1 if self.before_ns else float("inf")


class Lazy(Sequence[T_co], Generic[T_co]):
    """A tuple whose items are made when they are first looked at.

    Thousands of functions are compared as columns; few are ever printed.
    """

    def __init__(self, length: Callable[[], int], make: Callable[[int], T_co]) -> None:
        self._length = length
        self._make = make
        self._made: dict[int, T_co] = {}

    def __len__(self) -> int:
        return self._length()

    @overload
    def __getitem__(self, index: int) -> T_co: ...
    @overload
    def __getitem__(self, index: slice) -> tuple[T_co, ...]: ...
    def __getitem__(self, index: int | slice) -> T_co | tuple[T_co, ...]:
        if isinstance(index, slice):
            return tuple(self[at] for at in range(*index.indices(len(self))))
        at = index + len(self) if index < 0 else index
        if not 0 <= at < len(self):
            raise IndexError(index)
        if at not in self._made:
            self._made[at] = self._make(at)
        return self._made[at]

    def __iter__(self) -> Iterator[T_co]:
        return (self[at] for at in range(len(self)))

    def __eq__(self, other: object) -> bool:
        if isinstance(other, Lazy | tuple):
            return tuple(self) == tuple(other)
        return NotImplemented

    def __hash__(self) -> int:
        return hash(tuple(self))

    def __repr__(self) -> str:
        return f"<{len(self)} items>"


@dataclass(frozen=True, slots=True)
class FrameChange:
    """One function: own cost, and cost with callees (recursion counted once)."""

    frame: Frame
    own: Change
    total: Change
    place: Place | None
    path: Stack
    """The heaviest call path (before + after) that ends in this frame."""


@dataclass(frozen=True, slots=True)
class PathChange:
    """One node of the call tree: the stack down to it."""

    path: Stack
    own: Change
    total: Change
    judged: bool
    """False: only for pictures (native leaves inside the interpreter)."""


class Columns:
    """The estimates of one benchmark as arrays; rows of `evidence`, benchmark first."""

    def __init__(
        self,
        evidence: Evidence,
        places: Mapping[Frame, Place],
        clock: Machine | None,
        prior: Prior,
        spread: Between | None = None,
    ) -> None:
        """Compare both sides; without a clock the rows are waiting, in ns per iteration.

        `spread`: how far builds of the same code differ, which comes on top.
        """
        before, after = evidence.sides
        self.evidence = evidence
        self.prior = prior
        self.places = places
        self.waiting = clock is None
        self.functions = len(evidence.frames)
        self.nodes = len(evidence.parent)
        self._clock = clock
        self.spread = spread
        self.estimates = self._compare(
            np.vstack(
                [before.total, before.frame_own, before.frame_total, before.node_own,
                 before.node_total]
            ),
            np.vstack(
                [after.total, after.frame_own, after.frame_total, after.node_own,
                 after.node_total]
            ),
            self._between(),
        )  # fmt: skip
        self.clock = speed.uncorrected(self.estimates) if clock is None else clock

    def compare(self, before: Floats, after: Floats) -> Estimates:
        """Return what rows cost on both sides; rows as in `evidence`, the benchmark first."""
        spread = self.spread
        if spread is None:
            return self._compare(before, after, None)
        rows = np.full(len(before), spread.typical)
        rows[0] = spread.whole
        return self._compare(before, after, rows)

    def _compare(self, before: Floats, after: Floats, rows: Floats | None) -> Estimates:
        """Return the same; `rows` is each row's variance between builds."""
        if self._clock is None:
            waits = [side.waits for side in self.evidence.sides]
            found = noise.compare_waits(before, after, *waits)
        else:
            found = noise.compare(before, after, self._clock, self.prior)
        if rows is None or self.spread is None:
            return found
        return between.widen(found, rows, self.spread.degrees)

    def _between(self) -> Floats | None:
        """Return the variance between builds of each row of `estimates`."""
        spread, frames = self.spread, self.evidence.frames
        if spread is None:
            return None
        own = [spread.own.get(frame, spread.typical) for frame in frames]
        total = [spread.total.get(frame, spread.typical) for frame in frames]
        return np.array([spread.whole, *own, *total, *[spread.typical] * (2 * self.nodes)])

    @cached_property
    def whole_ns(self) -> float:
        """What impact is a share of: the benchmark before; of waiting, its wall time."""
        waiting = self.evidence.sides[0].waiting
        wall = 0.0 if waiting is None else waiting.wall_ns
        return max(float(self.estimates.before[0]), wall)

    # Rows of `estimates`: [total], own by function, total by function, own by node, total by node.
    def own_row(self, function: int) -> int:
        """Return the row of a function's own cost."""
        return 1 + function

    def total_row(self, function: int) -> int:
        """Return the row of a function's cost with callees."""
        return 1 + self.functions + function

    def node_own_row(self, node: int) -> int:
        """Return the row of a node's own cost."""
        return 1 + 2 * self.functions + node

    def node_total_row(self, node: int) -> int:
        """Return the row of a node's cost with callees."""
        return 1 + 2 * self.functions + self.nodes + node

    def change(self, row: int) -> Change:
        """Return one row as a value."""
        return change(self.estimates, row)

    @cached_property
    def p_values(self) -> Floats:
        """Two-sided, by row."""
        return self.estimates.p_value

    @cached_property
    def by_size(self) -> list[int]:
        """Functions by absolute change of total cost, largest first, then by name."""
        rows = slice(1 + self.functions, 1 + 2 * self.functions)
        size = np.abs(self.estimates.after[rows] - self.estimates.before[rows])
        # Functions stand in order of name, and the sort is stable.
        return [int(index) for index in np.argsort(-size, kind="stable")]

    def heaviest(self, function: int) -> int:
        """Return a function's node with the largest total cost, both sides added.

        Of equal ones the first by the names of its callers: which of them is told must not
        depend on the order in which stacks were recorded or read.
        """
        tree = self.evidence
        order, starts = self._nodes_by_function
        nodes = order[starts[function] : starts[function + 1]]
        if len(nodes) == 1:
            return int(nodes[0])
        rows = nodes + self.node_total_row(0)
        cost = self.estimates.before[rows] + self.estimates.after[rows]
        best = nodes[cost >= cost.max() * (1 - 1e-12)].tolist()
        return int(min(best, key=lambda node: tuple(map(str, tree.path(node)))))

    @cached_property
    def _nodes_by_function(self) -> tuple[Indices, list[int]]:
        """The judged nodes, function by function, and where each function's begin."""
        tree = self.evidence
        judged = np.flatnonzero(tree.judged)
        order = judged[np.argsort(tree.node_frame[judged], kind="stable")]
        counts = np.bincount(tree.node_frame[order], minlength=self.functions)
        return order, [0, *np.cumsum(counts).tolist()]

    @cached_property
    def in_order(self) -> list[int]:
        """Nodes of the call tree, parents before children, siblings by name."""
        tree = self.evidence
        children: dict[int, list[int]] = {}
        for node, parent in enumerate(tree.parent.tolist()):
            children.setdefault(parent, []).append(node)
        names = tree.names
        for siblings in children.values():
            siblings.sort(key=lambda node: (names[tree.node_frame[node]], not tree.judged[node]))
        order: list[int] = []
        waiting = children.get(-1, [])[::-1]
        while waiting:
            node = waiting.pop()
            order.append(node)
            waiting.extend(reversed(children.get(node, [])))
        return order

    @cached_property
    def stacks(self) -> list[Stack]:
        """The stack down to each node."""
        tree = self.evidence
        made: list[Stack] = []
        for parent, frame in zip(tree.parent.tolist(), tree.node_frame.tolist(), strict=True):
            made.append((*(made[parent] if parent >= 0 else ()), tree.node_all[frame]))
        return made

    def frame_at(self, index: int) -> FrameChange:
        """Return one function, by its place in `BenchmarkDiff.frames`."""
        function = self.by_size[index]
        frame = self.evidence.frames[function]
        return FrameChange(
            frame,
            self.change(self.own_row(function)),
            self.change(self.total_row(function)),
            self.places.get(frame),
            self.stacks[self.heaviest(function)],
        )

    def path_at(self, index: int) -> PathChange:
        """Return one node of the call tree, by its place in `BenchmarkDiff.paths`."""
        node = self.in_order[index]
        return PathChange(
            self.stacks[node],
            self.change(self.node_own_row(node)),
            self.change(self.node_total_row(node)),
            bool(self.evidence.judged[node]),
        )

    def count_frames(self) -> int:
        """Return the number of functions."""
        return self.functions

    def count_paths(self) -> int:
        """Return the number of nodes of the call tree."""
        return self.nodes


def change(estimates: Estimates, row: int) -> Change:
    """Return one row of the estimates as a value; shares are of the benchmark, row 0."""
    whole_before, whole_after = estimates.before[0], estimates.after[0]
    t = -abs(float(estimates.t[row]))
    return Change(
        float(estimates.before[row]),
        float(estimates.after[row]),
        float(estimates.before[row] / whole_before) if whole_before else 0.0,
        float(estimates.after[row] / whole_after) if whole_after else 0.0,
        float(estimates.log_ratio[row]),
        float(estimates.standard_error[row]),
        float(estimates.degrees[row]),
        float(2.0 * noise.lower_tail(estimates.degrees[row], t)),
        float(estimates.low[row]),
        float(estimates.high[row]),
        round(float(estimates.samples_before[row])),
        round(float(estimates.samples_after[row])),
    )


NOTHING: Final = Change(0.0, 0.0, 0.0, 0.0, 0.0, float("inf"), 1.0, 1.0, -1.0, float("inf"), 0, 0)
"""A change of which nothing is known."""
