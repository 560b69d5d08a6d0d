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
from ci_flame.profile import Frame, Kind, Measurement, Mode, Process, Round, Stack

Indices = npt.NDArray[np.intp]
Flags = npt.NDArray[np.bool_]


@dataclass(frozen=True, slots=True, eq=False)
class Side:
    """One side of a benchmark: samples of each row, by process."""

    clocks: tuple[Clocks, ...]
    total: Floats
    """All samples, by process."""
    frame_own: Floats
    frame_total: Floats
    node_own: Floats
    node_total: Floats
    seconds: float
    """Cost of all windows that count, all processes."""
    left_out: int
    """Processes without a round or a sample that counts."""


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
    """Return what the window cost: its CPU clock, or what was sampled where there is none."""
    if mode is Mode.ON_CPU and each.cpu_ns > 0:
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


def _weights(
    measurement: Measurement, mode: Mode, stacks: _Stacks
) -> tuple[list[Clocks], list[dict[int, float]], int]:
    """Return clocks and samples by stack of each process that counts, and how many do not."""
    clocks, weights, left_out = [], [], 0
    for process in measurement.processes:
        rounds, seen = _process(process, mode, stacks)
        if seen and sum(seen.values()) > 0 and all(_cost_ns(each, mode) > 0 for each in rounds):
            clocks.append(_clocks(rounds, mode))
            weights.append(seen)
        else:
            left_out += 1
    return clocks, weights, left_out


def _process(process: Process, mode: Mode, stacks: _Stacks) -> tuple[list[Round], dict[int, float]]:
    rounds = [each for each in process.rounds if counted(each, mode)]
    seen: dict[int, float] = {}
    samples = values = 0
    for each in rounds:
        for stack, weight in each.profiles[mode].stacks.items():
            number = stacks.number(stack)
            # Waiting is counted by its length; one sample of it may be a second long.
            amount = weight.samples if mode is Mode.ON_CPU else weight.value
            samples += weight.samples
            values += amount
            seen[number] = seen.get(number, 0.0) + amount
    if mode is not Mode.ON_CPU and values:
        scale = samples / values
        seen = {number: amount * scale for number, amount in seen.items()}
    return [each for each in rounds if _cost_ns(each, mode) > 0], seen


def collect(measurements: Sequence[Measurement], mode: Mode) -> Evidence:
    """Read the rounds of one side or two into arrays over the same functions and paths.

    Interpreter-internal leaves are charged to the Python frame above them and kept as nodes
    of the tree that are not judged.
    """
    stacks = _Stacks()
    sides = [_weights(measurement, mode, stacks) for measurement in measurements]

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

    made = []
    for clocks, weights, left_out in sides:
        made.append(
            _side(
                clocks, weights, left_out,
                parent=parent, frame=frame, depth=depth, first=first, judged=judged,
                charged=charged, pictured=pictured, frames=len(used),
            )
        )  # fmt: skip
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
    clocks: list[Clocks],
    weights: list[dict[int, float]],
    left_out: int,
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
    columns = len(weights)
    own = np.zeros((len(parent), columns))
    for column, seen in enumerate(weights):
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
        tuple(clocks),
        np.array([sum(seen.values()) for seen in weights]),
        frame_own,
        frame_total,
        own,
        total,
        sum(float(each.cpu_ns.sum()) for each in clocks) / 1e9,
        left_out,
    )
