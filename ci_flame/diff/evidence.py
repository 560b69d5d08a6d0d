"""Stage 4, pure: the rounds of both sides -> arrays of samples by function and call path.

One pass over the stacks, then columns: rows are functions or nodes of the call tree, columns
are processes. Python objects are made later, for what is reported.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from ci_flame import simplify
from ci_flame.diff.speed import Clocks
from ci_flame.noise import Floats
from ci_flame.profile import RUN_QUEUE, UNKNOWN, Frame, Kind, Measurement, Mode, Round, Stack

Indices = npt.NDArray[np.intp]
Flags = npt.NDArray[np.bool_]


@dataclass(frozen=True, slots=True, eq=False)
class Side:
    """One side of a benchmark: samples of each row, by process; of waiting, ns per iteration."""

    clocks: tuple[Clocks, ...]
    total: Floats
    """All samples, by process; of waiting, ns per iteration."""
    frame_own: Floats
    frame_total: Floats
    node_own: Floats
    node_total: Floats
    seconds: float
    """Cost of all windows that count, all processes."""
    left_out: int
    """Processes without a round or a sample that counts."""
    waits: int = 0
    """Waits that are counted here, of waiting only."""
    waiting: "Waiting | None" = None
    """What only a profile of waiting has."""


@dataclass(frozen=True, slots=True)
class Waiting:
    """One side's waiting as a whole."""

    wall_ns: float
    """Wall time per iteration."""
    run_queue_ns: float
    """Per iteration, waited for a CPU: left out of every cost."""
    elsewhere_ns: float
    """Per iteration, waited by threads that the benchmark's function is not in the stack of."""


@dataclass(frozen=True, slots=True, eq=False)
class Evidence:
    """Both sides over the same rows; `after` alone where there is one side only."""

    frames: tuple[Frame, ...]
    parent: Indices
    """Of each node of the call tree; -1 for the outermost. Parents come before children."""
    node_frame: Indices
    depth: Indices
    """1 for the outermost."""
    first: Flags
    """The node's frame is not among its callers: recursion is counted once, here."""
    judged: Flags
    """False: only for pictures."""
    node_all: tuple[Frame, ...]
    """Frames of `node_frame`; more than `frames` by those that are only in pictures."""
    sides: tuple[Side, ...]

    def path(self, node: int) -> Stack:
        """Return the stack down to a node, outermost first."""
        frames = []
        while node >= 0:
            frames.append(self.node_all[self.node_frame[node]])
            node = int(self.parent[node])
        return tuple(reversed(frames))

    def below(self, marked: Flags) -> Flags:
        """Return the nodes that are marked or have a marked caller."""
        under = marked.copy()
        for level in range(2, int(self.depth.max(initial=1)) + 1):
            here = np.flatnonzero(self.depth == level)
            under[here] |= under[self.parent[here]]
        return under


def counted(each: Round, mode: Mode) -> bool:
    """Tell whether a round is evidence: not dropped, recorded in this mode."""
    return not each.dropped and mode in each.profiles


def _cost_ns(each: Round, mode: Mode) -> float:
    """Return what the window cost: its CPU clock, or what was sampled where there is none.

    Of waiting it is the wall time: what a recording of it takes.
    """
    if mode is not Mode.ON_CPU:
        return float(each.wall_ns)
    if each.cpu_ns > 0:
        return float(each.cpu_ns)
    return float(each.profiles[mode].value)


def _clocks(rounds: Sequence[Round], mode: Mode) -> Clocks:
    kinds = sorted({kind for each in rounds for kind in each.references})
    references = {
        kind: np.array(
            [
                float(np.median(times)) if min(times, default=0) > 0 else np.nan
                for times in (each.references.get(kind, ()) for each in rounds)
            ]
        )
        for kind in kinds
    }
    return Clocks(
        np.array([each.iterations for each in rounds], dtype=float),
        np.array([_cost_ns(each, mode) for each in rounds]),
        references if mode is Mode.ON_CPU else {},
    )


class _Stacks:
    """Numbers for stacks and frames, by identity where possible: hashing frames is slow.

    The measurements outlive it, so that an id stays with its frame.
    """

    def __init__(self) -> None:
        self.frames: list[Frame] = []
        self.stacks: list[tuple[int, ...]] = []
        self._kept: list[Stack] = []
        self._by_frame: dict[Frame, int] = {}
        self._by_frame_id: dict[int, int] = {}
        self._by_path: dict[tuple[int, ...], int] = {}
        self._by_stack_id: dict[int, int] = {}

    def number(self, stack: Stack) -> int:
        """Return the number of a stack."""
        found = self._by_stack_id.get(id(stack))
        if found is None:
            path = self.path(stack)
            found = self._by_path.setdefault(path, len(self.stacks))
            if found == len(self.stacks):
                self.stacks.append(path)
                self._kept.append(stack)
            self._by_stack_id[id(stack)] = found
        return found

    def path(self, stack: Stack) -> tuple[int, ...]:
        """Return the numbers of a stack's frames."""
        return tuple([self._frame(frame) for frame in stack])

    def stack(self, number: int) -> Stack:
        """Return the stack of a number."""
        return self._kept[number]

    def _frame(self, frame: Frame) -> int:
        found = self._by_frame_id.get(id(frame))
        if found is None:
            found = self._by_frame.setdefault(frame, len(self.frames))
            if found == len(self.frames):
                self.frames.append(frame)
            self._by_frame_id[id(frame)] = found
        return found


class _Tree:
    """The call tree while it grows."""

    def __init__(self) -> None:
        self.parent: list[int] = []
        self.frame: list[int] = []
        self.depth: list[int] = []
        self.first: list[bool] = []
        self.judged: list[bool] = []
        self._child: dict[tuple[int, int], int] = {}

    def node(self, path: tuple[int, ...], *, start: int = -1, skip: int = 0, judged: bool) -> int:
        """Return the node at the end of `path`, whose first `skip` frames end at `start`."""
        at = start
        for depth in range(skip, len(path)):
            # Nodes for pictures are apart, so that a judged node's name never stands for both.
            key = (at, path[depth] if judged else ~path[depth])
            found = self._child.get(key)
            if found is None:
                found = self._child[key] = len(self.parent)
                self.parent.append(at)
                self.frame.append(path[depth])
                self.depth.append(depth + 1)
                self.first.append(path[depth] not in path[:depth])
                self.judged.append(judged)
            at = found
        return at


@dataclass(slots=True, eq=False)
class _Seen:
    """One side while it is read: by process that counts, its clocks and its stacks."""

    clocks: list[Clocks]
    weights: list[dict[int, float]]
    left_out: int = 0
    waits: int = 0
    waiting: Waiting | None = None


def _samples(measurement: Measurement, mode: Mode, stacks: _Stacks) -> _Seen:
    """Return the samples by stack of each process that counts."""
    found = _Seen([], [])
    for process in measurement.processes:
        rounds = [each for each in process.rounds if counted(each, mode)]
        seen: dict[int, float] = {}
        for each in rounds:
            for stack, weight in each.profiles[mode].stacks.items():
                number = stacks.number(stack)
                seen[number] = seen.get(number, 0.0) + weight.samples
        rounds = [each for each in rounds if _cost_ns(each, mode) > 0]
        if rounds and sum(seen.values()) > 0:
            found.clocks.append(_clocks(rounds, mode))
            found.weights.append(seen)
        else:
            found.left_out += 1
    return found


def _waits(measurement: Measurement, mode: Mode, stacks: _Stacks) -> _Seen:
    """Return the ns per iteration by stack of each process; one that never waited counts, too."""
    found = _Seen([], [])
    wall = run_queue = elsewhere = 0
    iterations_in_all = 0
    for process in measurement.processes:
        rounds = [each for each in process.rounds if counted(each, mode) and each.wall_ns > 0]
        if not rounds:
            found.left_out += 1
            continue
        iterations = sum(each.iterations for each in rounds)
        seen: dict[int, float] = {}
        for each in rounds:
            for stack, weight in each.profiles[mode].stacks.items():
                if stack[-1] == RUN_QUEUE:
                    run_queue += weight.value
                elif stack == (UNKNOWN,):
                    elsewhere += weight.value
                else:
                    number = stacks.number(stack)
                    seen[number] = seen.get(number, 0.0) + weight.value / iterations
                    found.waits += weight.samples
        wall += sum(each.wall_ns for each in rounds)
        iterations_in_all += iterations
        found.clocks.append(_clocks(rounds, mode))
        found.weights.append(seen)
    per = max(iterations_in_all, 1)
    found.waiting = Waiting(wall / per, run_queue / per, elsewhere / per)
    return found


def collect(measurements: Sequence[Measurement], mode: Mode) -> Evidence:
    """Read the rounds of one side or two into arrays over the same functions and paths.

    Interpreter-internal leaves are charged to the Python frame above them and kept as nodes
    of the tree that are not judged.
    """
    stacks = _Stacks()
    read = _samples if mode is Mode.ON_CPU else _waits
    sides = [read(measurement, mode, stacks) for measurement in measurements]

    tree = _Tree()
    charged, pictured = [], []
    native = [frame.kind is Kind.NATIVE for frame in stacks.frames]
    for number, raw in enumerate(stacks.stacks[:]):
        stack = stacks.stack(number)
        path = raw
        if any(native[index] for index in raw):
            path = stacks.path(simplify.judged(stack)) or raw
        node = tree.node(path, judged=True)
        charged.append(node)
        extra = len(path) < len(raw) and raw[: len(path)] == path
        pictured.append(tree.node(raw, start=node, skip=len(path), judged=False) if extra else -1)

    parent = np.array(tree.parent, dtype=np.intp)
    frame = np.array(tree.frame, dtype=np.intp)
    depth = np.array(tree.depth, dtype=np.intp)
    first = np.array(tree.first, dtype=bool)
    judged = np.array(tree.judged, dtype=bool)
    # Frames that are judged get the first numbers, in order of name, so that rows are stable.
    used = sorted(set(frame[judged].tolist()), key=lambda index: str(stacks.frames[index]))
    rest = sorted(set(range(len(stacks.frames))) - set(used))
    order = used + rest
    renumber = np.empty(len(stacks.frames), dtype=np.intp)
    renumber[order] = np.arange(len(order))
    frame = renumber[frame] if len(frame) else frame

    made = [
        _side(
            seen, parent=parent, frame=frame, depth=depth, first=first, judged=judged,
            charged=charged, pictured=pictured, frames=len(used),
        )
        for seen in sides
    ]  # fmt: skip
    return Evidence(
        tuple(stacks.frames[index] for index in used),
        parent,
        frame,
        depth,
        first,
        judged,
        tuple(stacks.frames[index] for index in order),
        tuple(made),
    )


def _side(
    read: _Seen,
    *,
    parent: Indices,
    frame: Indices,
    depth: Indices,
    first: Flags,
    judged: Flags,
    charged: list[int],
    pictured: list[int],
    frames: int,
) -> Side:
    columns = len(read.weights)
    own = np.zeros((len(parent), columns))
    for column, seen in enumerate(read.weights):
        numbers = np.fromiter(seen.keys(), dtype=np.intp, count=len(seen))
        amounts = np.fromiter(seen.values(), dtype=float, count=len(seen))
        np.add.at(own[:, column], np.array(charged, dtype=np.intp)[numbers], amounts)
        shown = np.array(pictured, dtype=np.intp)[numbers]
        np.add.at(own[:, column], shown[shown >= 0], amounts[shown >= 0])
    total = own.copy()
    for level in range(int(depth.max(initial=0)), 1, -1):
        here = np.flatnonzero(depth == level)
        # A picture's leaf below a judged node is in that node's own cost already.
        here = here[judged[here] | ~judged[parent[here]]]
        np.add.at(total, parent[here], total[here])
    frame_own = np.zeros((frames, columns))
    frame_total = np.zeros((frames, columns))
    np.add.at(frame_own, frame[judged], own[judged])
    outer = judged & first
    np.add.at(frame_total, frame[outer], total[outer])
    return Side(
        tuple(read.clocks),
        np.array([sum(seen.values()) for seen in read.weights]),
        frame_own,
        frame_total,
        own,
        total,
        sum(float(each.cpu_ns.sum()) for each in read.clocks) / 1e9,
        read.left_out,
        read.waits,
        read.waiting,
    )
