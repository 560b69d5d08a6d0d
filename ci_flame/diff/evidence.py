"""Stage 4, pure: the rounds of both sides -> arrays of samples by function and call path.

One pass over the stacks, then columns: rows are functions or nodes of the call tree, columns
are processes. Python objects are made later, for what is reported.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from itertools import chain
from operator import attrgetter
from types import MappingProxyType

import numpy as np
import numpy.typing as npt

from ci_flame import simplify
from ci_flame.diff.speed import Clocks
from ci_flame.noise import Floats
from ci_flame.profile import (
    RUN_QUEUE,
    UNKNOWN,
    Frame,
    Kind,
    Listed,
    Measurement,
    Mode,
    Round,
    Stack,
    Weight,
)

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
    names: tuple[str, ...] = ()
    """Of `node_all`, in words."""

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


def _median(times: Sequence[int]) -> float:
    """Return the median; of two or three repetitions, thousands of times."""
    ordered, half = sorted(times), len(times) // 2
    if len(ordered) % 2:
        return float(ordered[half])
    return (ordered[half - 1] + ordered[half]) / 2


def _clocks(rounds: Sequence[Round], mode: Mode) -> Clocks:
    kinds = sorted({kind for each in rounds for kind in each.references})
    references = {
        kind: np.array(
            [
                _median(times) if min(times, default=0) > 0 else np.nan
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

    def __init__(self, renamed: Mapping[Frame, Frame]) -> None:
        self._renamed = renamed
        self.frames: list[Frame] = []
        self.stacks: list[tuple[int, ...]] = []
        self._kept: list[Stack] = []
        self._by_frame: dict[Frame, int] = {}
        self._by_frame_id: dict[int, int] = {}
        self._by_path: dict[tuple[int, ...], int] = {}
        self._by_stack_id: dict[int, int] = {}
        self._by_shared: dict[int, Indices] = {}
        """Numbers of the stacks of a list that profiles share; -1: not seen yet."""

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

    def sums(
        self, seen: Sequence[Mapping[Stack, Weight]], amount: Callable[[Weight], int]
    ) -> Floats:
        """Return what each stack weighs in all of these, by its number.

        Tens of thousands of entries a benchmark: only the distinct stacks are looked at in
        Python, everything else is a loop inside the interpreter.
        """
        if seen and all(isinstance(each, Listed) for each in seen):
            return self._listed([each for each in seen if isinstance(each, Listed)], amount)
        stacks = list(chain.from_iterable(seen))
        ids = list(map(id, stacks))
        for one, stack in dict(zip(ids, stacks, strict=True)).items():
            if one not in self._by_stack_id:
                self.number(stack)
        numbers = np.fromiter(map(self._by_stack_id.__getitem__, ids), np.intp, len(ids))
        weights = chain.from_iterable(each.values() for each in seen)
        amounts = np.fromiter(map(amount, weights), np.float64, len(ids))
        return np.asarray(np.bincount(numbers, amounts, len(self.stacks)), dtype=np.float64)

    def _listed(self, seen: Sequence[Listed], amount: Callable[[Weight], int]) -> Floats:
        """Return the same of profiles that share lists of stacks, mostly one."""
        made = np.zeros(0)
        for shared in {id(each.shared): each.shared for each in seen}.values():
            some = [each for each in seen if each.shared is shared]
            numbers = np.fromiter(chain.from_iterable(each.numbers for each in some), np.intp)
            weights = chain.from_iterable(each.weights for each in some)
            sums = np.bincount(
                numbers, np.fromiter(map(amount, weights), np.float64, len(numbers)), len(shared)
            )
            # Only those that are in it: what is in dropped rounds alone is not compared.
            used = np.flatnonzero(np.bincount(numbers, minlength=len(shared)))
            known = self._by_shared.setdefault(id(shared), np.full(len(shared), -1, np.intp))
            new = used[known[used] < 0]
            known[new] = [self.number(shared[number]) for number in new.tolist()]
            whole = np.zeros(len(self.stacks))
            whole[: len(made)] = made
            np.add.at(whole, known[used], sums[used])
            made = whole
        return made

    def path(self, stack: Stack) -> tuple[int, ...]:
        """Return the numbers of a stack's frames."""
        known = list(map(self._by_frame_id.get, map(id, stack)))
        while None in known:  # mostly one: the function that this stack ends in
            at = known.index(None)
            known[at] = self._frame(stack[at])
        return tuple(known)  # type: ignore[arg-type]  # no None is left

    def stack(self, number: int) -> Stack:
        """Return the stack of a number."""
        return self._kept[number]

    def _frame(self, frame: Frame) -> int:
        found = self._by_frame_id.get(id(frame))
        if found is None:
            named = self._renamed.get(frame, frame)
            found = self._by_frame.setdefault(named, len(self.frames))
            if found == len(self.frames):
                self.frames.append(named)
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
        self._judged: dict[int, int] = {}
        """By caller and frame in one number: paths would take a deep stack's depth squared."""
        self._child: dict[tuple[int, int], int] = {}

    def node(self, path: tuple[int, ...]) -> int:
        """Return the judged node at the end of `path`."""
        at, known = -1, 0
        judged = self._judged
        for frame in path:
            found = judged.get(at << 32 | frame)
            if found is None:
                break
            at, known = found, known + 1
        above = set(path[:known])
        for end in range(known + 1, len(path) + 1):
            frame = path[end - 1]
            made = self._add(at, frame, end, judged=True, first=frame not in above)
            judged[at << 32 | frame] = made
            at = made
            above.add(frame)
        return at

    def picture(self, path: tuple[int, ...], *, start: int, skip: int) -> int:
        """Return the node at the end of `path`, whose first `skip` frames end at `start`.

        Nodes for pictures are apart, so that a judged node's name never stands for both.
        """
        at = start
        for end in range(skip + 1, len(path) + 1):
            key = at, path[end - 1]
            found = self._child.get(key)
            if found is None:
                found = self._child[key] = self._add(
                    at, path[end - 1], end, judged=False, first=path[end - 1] not in path[: end - 1]
                )
            at = found
        return at

    def _add(self, parent: int, frame: int, depth: int, *, judged: bool, first: bool) -> int:
        self.parent.append(parent)
        self.frame.append(frame)
        self.depth.append(depth)
        self.first.append(first)
        self.judged.append(judged)
        return len(self.parent) - 1


@dataclass(slots=True, eq=False)
class _Seen:
    """One side while it is read: by process that counts, its clocks and its stacks."""

    clocks: list[Clocks]
    weights: list[Floats]
    """By number of the stack; what is beyond the end is 0."""
    left_out: int = 0
    waits: int = 0
    waiting: Waiting | None = None


_SAMPLES = attrgetter("samples")


def _samples(measurement: Measurement, mode: Mode, stacks: _Stacks) -> _Seen:
    """Return the samples by stack of each process that counts."""
    found = _Seen([], [])
    for process in measurement.processes:
        rounds = [each for each in process.rounds if counted(each, mode)]
        seen = stacks.sums([each.profiles[mode].stacks for each in rounds], _SAMPLES)
        rounds = [each for each in rounds if _cost_ns(each, mode) > 0]
        if rounds and seen.sum() > 0:
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
        weights = np.zeros(max(seen, default=-1) + 1)
        weights[list(seen)] = list(seen.values())
        found.weights.append(weights)
    per = max(iterations_in_all, 1)
    found.waiting = Waiting(wall / per, run_queue / per, elsewhere / per)
    return found


def collect(
    measurements: Sequence[Measurement],
    mode: Mode,
    renamed: Mapping[Frame, Frame] = MappingProxyType({}),
) -> Evidence:
    """Read the rounds of one side or two into arrays over the same functions and paths.

    Interpreter-internal leaves are charged to the Python frame above them and kept as nodes
    of the tree that are not judged. `renamed` functions go by their other name (`renames.py`).
    """
    stacks = _Stacks(renamed)
    read = _samples if mode is Mode.ON_CPU else _waits
    sides = [read(measurement, mode, stacks) for measurement in measurements]

    tree = _Tree()
    charged, pictured = [], []
    native = {n for n, frame in enumerate(stacks.frames) if frame.kind is Kind.NATIVE}
    for number, raw in enumerate(stacks.stacks[:]):
        path = raw
        if not native.isdisjoint(raw):
            path = stacks.path(simplify.judged(stacks.stack(number))) or raw
        node = tree.node(path)
        charged.append(node)
        extra = len(path) < len(raw) and raw[: len(path)] == path
        pictured.append(tree.picture(raw, start=node, skip=len(path)) if extra else -1)

    parent = np.array(tree.parent, dtype=np.intp)
    frame = np.array(tree.frame, dtype=np.intp)
    depth = np.array(tree.depth, dtype=np.intp)
    first = np.array(tree.first, dtype=bool)
    judged = np.array(tree.judged, dtype=bool)
    # Frames that are judged get the first numbers, in order of name, so that rows are stable.
    names = list(map(str, stacks.frames))
    used = sorted(set(frame[judged].tolist()), key=names.__getitem__)
    rest = sorted(set(range(len(stacks.frames))) - set(used))
    order = used + rest
    renumber = np.empty(len(stacks.frames), dtype=np.intp)
    renumber[order] = np.arange(len(order))
    frame = renumber[frame] if len(frame) else frame

    # From the deepest level up: what is added to its callers. A picture's leaf below a judged
    # node is in that node's own cost already.
    adds = np.flatnonzero((parent >= 0) & (judged | ~judged[parent])) if len(parent) else parent
    by_level = adds[np.argsort(-depth[adds], kind="stable")]
    levels = np.split(by_level, np.flatnonzero(np.diff(depth[by_level])) + 1)

    made = [
        _side(
            seen, parent=parent, frame=frame, levels=levels, first=first, judged=judged,
            charged=np.array(charged, dtype=np.intp), pictured=np.array(pictured, dtype=np.intp),
            frames=len(used),
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
        tuple(names[index] for index in order),
    )


def _side(
    read: _Seen,
    *,
    parent: Indices,
    frame: Indices,
    levels: Sequence[Indices],
    first: Flags,
    judged: Flags,
    charged: Indices,
    pictured: Indices,
    frames: int,
) -> Side:
    columns = len(read.weights)
    own = np.zeros((len(parent), columns))
    for column, amounts in enumerate(read.weights):
        known = len(amounts)
        own[:, column] += np.bincount(charged[:known], amounts, len(parent))
        shown = pictured[:known] >= 0
        own[:, column] += np.bincount(pictured[:known][shown], amounts[shown], len(parent))
    total = own.copy()
    for here in levels:
        np.add.at(total, parent[here], total[here])
    frame_own = np.zeros((frames, columns))
    frame_total = np.zeros((frames, columns))
    np.add.at(frame_own, frame[judged], own[judged])
    outer = judged & first
    np.add.at(frame_total, frame[outer], total[outer])
    return Side(
        tuple(read.clocks),
        np.array([float(seen.sum()) for seen in read.weights]),
        frame_own,
        frame_total,
        own,
        total,
        sum(float(each.cpu_ns.sum()) for each in read.clocks) / 1e9,
        read.left_out,
        read.waits,
        read.waiting,
    )
