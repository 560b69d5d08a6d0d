"""Stage 4, pure: two runs -> what changed, per benchmark, function and call path.

Costs are per iteration and in nanoseconds *at the baseline's machine speed*: the machine
is taken out by the reference work (`noise.py`), then both sides are told in the same unit.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Final, Generic, TypeVar, overload

import numpy as np

from ci_flame import noise
from ci_flame.diff import evidence as columns
from ci_flame.diff import speed
from ci_flame.diff.imports import single_files
from ci_flame.noise import Estimates, Floats, Machine, Prior
from ci_flame.profile import Environment, Frame, Measurement, Mode, Place, Run, Stack

T_co = TypeVar("T_co", covariant=True)

NOMINAL_FALSE_FAILURES: Final = 0.005
"""Per build; what `smallest_visible` of a diff assumes where no policy is known yet."""
VISIBLE_SHARE: Final = 0.05
"""Own share from which on a function belongs to `smallest_visible`."""


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


@dataclass(frozen=True, slots=True)
class BenchmarkDiff:
    """One benchmark and mode on both sides."""

    benchmark: str
    mode: str
    total: Change
    frames: Sequence[FrameChange]
    """Sorted by absolute change of total cost, then name."""
    paths: Sequence[PathChange]
    """The whole call tree, parents before children, siblings by name."""
    anchor: str
    """How the machine was taken out: `references`, `references+functions`, `functions` (the
    robust centre of many), `shares` (not at all; only shares are compared), `clock` (waiting)."""
    anchor_error: float
    """Standard error of ln(machine speed ratio) between the sides that is left."""
    processes_before: int
    processes_after: int
    smallest_visible: float | None
    """Smallest growth that would have been seen in a function of 5 % or more."""
    notes: tuple[str, ...] = ()
    columns: "Columns | None" = field(default=None, repr=False, compare=False)
    """What the judge reads; None where a side has no samples."""


@dataclass(frozen=True, slots=True)
class RunDiff:
    """Two runs: what both have, and what only one has."""

    before: Environment
    after: Environment
    before_commit: str
    after_commit: str
    differences: tuple[str, ...]
    """Why the two may not be compared by time (`collector: ebpf, perf`); empty: they may."""
    benchmarks: tuple[BenchmarkDiff, ...]
    added: tuple[str, ...]
    removed: tuple[str, ...]


class Columns:
    """The estimates of one benchmark as arrays; rows of `evidence`, benchmark first."""

    def __init__(
        self,
        evidence: columns.Evidence,
        clock: Machine,
        prior: Prior,
        places: Mapping[Frame, Place],
    ) -> None:
        before, after = evidence.sides
        self.evidence = evidence
        self.clock = clock
        self.prior = prior
        self.places = places
        self.functions = len(evidence.frames)
        self.nodes = len(evidence.parent)
        self.estimates = noise.compare(
            np.vstack(
                [before.total, before.frame_own, before.frame_total, before.node_own,
                 before.node_total]
            ),
            np.vstack(
                [after.total, after.frame_own, after.frame_total, after.node_own,
                 after.node_total]
            ),
            clock,
            prior,
        )  # fmt: skip

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

    @cached_property
    def heaviest(self) -> dict[int, int]:
        """Function -> its node with the largest total cost, both sides added."""
        tree = self.evidence
        start = 1 + 2 * self.functions + self.nodes
        cost = self.estimates.before[start:] + self.estimates.after[start:]
        found: dict[int, int] = {}
        # In order of names: which of two equal paths is told must not depend on the order in
        # which stacks were recorded or read.
        for node in self.in_order:
            if not tree.judged[node]:
                continue
            frame = int(tree.node_frame[node])
            if frame not in found or cost[node] > cost[found[frame]] * (1 + 1e-12):
                found[frame] = node
        return found

    @cached_property
    def in_order(self) -> list[int]:
        """Nodes of the call tree, parents before children, siblings by name."""
        tree = self.evidence
        children: dict[int, list[int]] = {}
        for node, parent in enumerate(tree.parent.tolist()):
            children.setdefault(parent, []).append(node)
        names = [str(frame) for frame in tree.node_all]
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
            self.stacks[self.heaviest[function]],
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
        float(estimates.before[row] / whole_before),
        float(estimates.after[row] / whole_after),
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


def diff_benchmark(before: Measurement, after: Measurement, mode: Mode) -> BenchmarkDiff:
    """Compare one benchmark of two runs, every function and call path of it.

    Swapping the sides negates every `log_ratio`; a side without samples gives an empty diff
    that says so in its notes.
    """
    evidence = columns.collect((before, after), mode)
    sides = evidence.sides
    counts = tuple(len(side.clocks) for side in sides)
    notes = []
    for name, side, measurement in zip(("before", "after"), sides, (before, after), strict=True):
        if side.left_out:
            notes.append(
                f"{side.left_out} of {len(measurement.processes)} processes {name} have no samples"
                " that count and were left out"
            )
        if unsettled := sum(not process.settled for process in measurement.processes):
            notes.append(
                f"the warm-up of {unsettled} of {len(measurement.processes)} processes {name} had"
                " not settled when it was cut off"
            )
    if not all(counts):
        return BenchmarkDiff(
            after.benchmark, str(mode), NOTHING, (), (), "shares", float("inf"), counts[0],
            counts[1], None, tuple(notes),
        )  # fmt: skip
    first, second = sides
    prior = noise.fit_prior(first.frame_own, second.frame_own)
    if mode is Mode.ON_CPU:
        centre = speed.centre_of_functions(first.frame_own, second.frame_own, prior)
        clock = speed.machine(first.clocks, second.clocks, centre)
    else:
        clock = speed.uncorrected(first.clocks, second.clocks)
    made = Columns(evidence, clock, prior, {**before.places, **after.places})
    total = made.change(0)
    if clock.anchor == "shares":
        # Nothing tells the machine from the code, so the whole is not compared.
        reach = float(noise.quantile(4.0, 0.95)) * clock.raw_error
        total = Change(
            total.before_ns, total.after_ns, 1.0, 1.0, 0.0, clock.raw_error, 4.0, 1.0,
            float(np.expm1(-reach)), float(np.expm1(reach)), total.samples_before,
            total.samples_after,
        )  # fmt: skip
    return BenchmarkDiff(
        after.benchmark,
        str(mode),
        total,
        Lazy(made.count_frames, made.frame_at),
        Lazy(made.count_paths, made.path_at),
        clock.anchor,
        clock.error,
        counts[0],
        counts[1],
        smallest_visible(made, NOMINAL_FALSE_FAILURES / max(made.functions, 1)),
        tuple(notes),
        made,
    )


def smallest_visible(made: Columns, alpha: float) -> float | None:
    """Return the smallest growth seen in any function of `VISIBLE_SHARE` own cost or more.

    `alpha` is the level of one test. The worst such function counts; where there is none, one
    of exactly that share with the benchmark's usual noise. None: not even a tenfold growth.
    """
    rows = np.arange(1, 1 + made.functions)
    estimates = made.estimates
    share = estimates.samples_before[rows] / max(estimates.samples_before[0], 1.0)
    chosen = (share >= VISIBLE_SHARE) & (estimates.samples_after[rows] > 0)
    large = rows[chosen]
    if len(large):
        seen = noise.visible_growth(
            estimates.standard_error[large], estimates.degrees[large], alpha
        )
        if made.clock.anchor == "shares":
            seen = _through_shares(seen, share[chosen], made.clock)
        worst = float(seen.max())
    else:
        worst = visible_at(made, VISIBLE_SHARE, alpha)
    return worst if worst < 9.0 else None  # noqa: PLR2004 - tenfold


def _through_shares(seen: Floats, share: Floats, clock: Machine) -> Floats:
    """Return the growth of a function whose share must grow by `seen` to be noticed.

    A function with share s that grows by g has a share (1 + g) / (1 + s g) times as large, so
    one that is the whole benchmark is never seen; and the raw clock must agree (`judge.py`).
    """
    room = 1 - share * (1 + seen)
    growth = np.where(room > 0, seen / np.maximum(room, 1e-12), np.inf)
    return np.asarray(np.maximum(growth, np.expm1(4.0 * clock.raw_error)))


def visible_at(made: Columns, share: float, alpha: float) -> float:
    """Return the smallest growth that would be seen in a function of this own share."""
    before, after = made.evidence.sides
    prior, clock = made.prior, made.clock
    variance = clock.systematic**2
    for side in (before, after):
        processes = len(side.clocks)
        samples = share * float(side.total.sum())
        variance += (
            prior.poisson * (1 - share) / samples
            + prior.spread**2 * (1 - share) ** 2 / processes
            + clock.variance / processes
        )
    processes = len(before.clocks) + len(after.clocks)
    degrees = prior.degrees + processes - 2
    seen = noise.visible_growth(np.array([np.sqrt(variance)]), degrees, alpha)
    if clock.anchor == "shares":
        seen = _through_shares(seen, np.array([share]), clock)
    return float(seen[0])


def differences(before: Environment, after: Environment) -> tuple[str, ...]:
    """Return why the two may not be compared by time, `what: before, after`; empty: they may.

    Same collector, event, frequency class (within a factor of 1.5), Python minor, machine
    class (architecture and CPU model) and place of the interpreter's code.
    """
    found = [
        f"{name}: {one or 'none'}, {other or 'none'}"
        for name, one, other in (
            ("collector", before.collector, after.collector),
            ("event", before.event, after.event),
        )
        if one != other
    ]
    slow, fast = sorted((before.frequency_hz, after.frequency_hz))
    if fast > max(slow, 0) * 1.5:
        found.append(f"frequency: {before.frequency_hz} Hz, {after.frequency_hz} Hz")
    found += [
        f"{name}: {one or 'none'}, {other or 'none'}"
        for name, one, other in (
            ("Python", before.python_minor, after.python_minor),
            ("architecture", before.architecture, after.architecture),
            ("CPU model", before.cpu_model, after.cpu_model),
            ("memory layout of the interpreter", before.layout, after.layout),
        )
        if one != other
    ]
    return tuple(found)


def diff(before: Run, after: Run) -> RunDiff:
    """Compare two runs benchmark by benchmark; those that only one has are named."""
    one = {measurement.benchmark: measurement for measurement in before.measurements}
    other = {measurement.benchmark: measurement for measurement in after.measurements}
    return RunDiff(
        before.environment,
        after.environment,
        before.commit,
        after.commit,
        differences(before.environment, after.environment) + single_files(before, after),
        tuple(
            diff_benchmark(one[name], measurement, mode)
            for name, measurement in other.items()
            if name in one
            for mode in (measurement.modes or (Mode.ON_CPU,))
            if mode in one[name].modes or mode is Mode.ON_CPU
        ),
        tuple(name for name in other if name not in one),
        tuple(name for name in one if name not in other),
    )
