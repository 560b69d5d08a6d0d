"""Stage 2, pure: what processes did -> what was mapped where, and how threads were called, when.

A process has a new address space when it is forked and when something else is mapped where it
had code already. What only adds code changes the space it has: nothing ran there before. One
that becomes another program keeps, as in perf, what the new one does not cover: while the kernel
loads it, the old program's call of execve is still its caller.
"""

import bisect
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from typing import Final

import numpy as np
import numpy.typing as npt

from ci_flame.errors import FormatError
from ci_flame.formats.perf_data.recording import PerfData
from ci_flame.formats.perf_data.records import Forked, Mapped, Named, Task
from ci_flame.formats.perf_data.samples import Longs

MAX_COPIED: Final = 20_000_000
"""Mappings in all address spaces together; a busy build has some thousands."""
_ANONYMOUS: Final = ("//anon", "/dev/zero", "/anon_hugepage", "[stack", "[heap]", "/SYSV")
_IDLE: Final = "swapper"


def is_anonymous(path: str) -> bool:
    """Say whether code at such a mapping has no file: a runtime wrote it."""
    return path.startswith(_ANONYMOUS)


class Space:
    """The mappings of one process at one time, by address, none over another."""

    __slots__ = ("mappings", "number", "shared", "starts")

    def __init__(self, number: int, mappings: Iterable[Mapped] = ()) -> None:
        self.number = number
        self.mappings = list(mappings)
        self.starts = [each.start for each in self.mappings]
        self.shared = False
        """Another process or an earlier time has the same one: it must not change."""

    def find(self, address: int) -> Mapped | None:
        """Return the mapping that holds an address."""
        index = bisect.bisect_right(self.starts, address) - 1
        if index >= 0 and address < self.mappings[index].end:
            return self.mappings[index]
        return None

    def under(self, new: Mapped) -> slice:
        """Return which mappings a new one would lie on."""
        first = bisect.bisect_right(self.starts, new.start) - 1
        if first < 0 or self.mappings[first].end <= new.start:
            first += 1
        return slice(first, bisect.bisect_left(self.starts, new.end))

    def put(self, new: Mapped) -> None:
        """Map over whatever is there; of what is only partly covered the rest stays."""
        where = self.under(new)
        kept = [new]
        for old in self.mappings[where]:
            if old.start < new.start:
                kept.insert(0, old._replace(size=new.start - old.start))
            if old.end > new.end:
                cut = new.end - old.start
                kept.append(
                    old._replace(start=new.end, size=old.size - cut, offset=old.offset + cut)
                )
        self.mappings[where] = kept
        self.starts[where] = [each.start for each in kept]


def _same_code(old: Mapped, new: Mapped) -> bool:
    """Say whether an address in both has the same name by either."""
    if is_anonymous(old.path):
        return is_anonymous(new.path) and old.pid == new.pid
    return (
        old.path == new.path
        and old.start - old.offset == new.start - new.offset
        and old.build_id == new.build_id
    )


@dataclass(slots=True)
class _History:
    """What one process or thread had since when."""

    times: list[int] = field(default_factory=list)
    values: list[int] = field(default_factory=list)

    def add(self, time: int, value: int) -> None:
        self.times.append(time)
        self.values.append(value)

    def at(self, times: npt.NDArray[np.uint64]) -> Longs:
        """Return what it had at each time; before the first, that."""
        row = np.searchsorted(np.array(self.times, dtype=np.uint64), times, side="right") - 1
        found: Longs = np.array(self.values, dtype=np.int64)[row.clip(min=0)]
        return found


@dataclass(frozen=True, slots=True)
class Placed:
    """Where and under what name each sample was taken."""

    spaces: tuple[Space, ...]
    space: Longs
    """Per sample: index into `spaces`."""
    names: tuple[str, ...]
    name: Longs
    """Per sample: index into `names`, the thread's name at that time."""


def place(data: PerfData) -> Placed:
    """Return the address space and the thread name of each sample."""
    times = data.samples.time
    by_pid = list(grouped(data.samples.pid))
    by_tid = list(grouped(data.samples.tid))
    told = _Told(data.source, {pid: times[chosen] for pid, chosen in by_pid})
    told.follow(data.tasks)
    space = np.zeros(len(times), dtype=np.int64)
    for pid, chosen in by_pid:
        history = told.spaces_of.get(pid)
        space[chosen] = told.empty if history is None else history.at(times[chosen])
    name = np.zeros(len(times), dtype=np.int64)
    for tid, chosen in by_tid:
        known = told.names_of.get(tid)
        if known is None:
            name[chosen] = told.name(_IDLE if tid == 0 else f":{tid}")
        else:
            name[chosen] = known.at(times[chosen])
    return Placed(tuple(told.spaces), space, tuple(told.names), name)


def grouped(values: Longs) -> Iterator[tuple[int, Longs]]:
    """Yield each different value and the places where it is, in order."""
    if not len(values):
        return
    order = np.argsort(values, kind="stable")
    ordered = values[order]
    borders = np.nonzero(np.diff(ordered))[0] + 1
    for chosen in np.split(order, borders):
        yield int(values[chosen[0]]), chosen


class _Told:
    """Goes through the tasks by time."""

    def __init__(self, source: str, sampled: dict[int, npt.NDArray[np.uint64]]) -> None:
        self._source = source
        self._sampled = sampled
        self._copied = 0
        self.spaces: list[Space] = []
        self.spaces_of: dict[int, _History] = {}
        self.names: dict[str, int] = {}
        self.names_of: dict[int, _History] = {}
        self.empty = self._new().number

    def follow(self, tasks: Iterable[Task]) -> None:
        for task in tasks:
            if isinstance(task, Mapped):
                if not task.kernel and task.pid >= 0 and task.size:
                    self._map(task)
            elif isinstance(task, Named):
                self.names_of.setdefault(task.tid, _History()).add(task.time, self.name(task.name))
            elif isinstance(task, Forked):
                self._fork(task)

    def name(self, name: str) -> int:
        return self.names.setdefault(name, len(self.names))

    def _new(self, mappings: Iterable[Mapped] = ()) -> Space:
        space = Space(len(self.spaces), mappings)
        self._copied += len(space.mappings)
        if self._copied > MAX_COPIED:
            raise FormatError(
                self._source,
                f"its processes' maps have more than {MAX_COPIED} parts together, the limit",
            )
        self.spaces.append(space)
        return space

    def _since(self, pid: int, time: int, space: Space) -> None:
        self.spaces_of.setdefault(pid, _History()).add(time, space.number)

    def _now(self, pid: int) -> Space | None:
        history = self.spaces_of.get(pid)
        return None if history is None else self.spaces[history.values[-1]]

    def _map(self, new: Mapped) -> None:
        space = self._now(new.pid)
        if space is None:
            space = self._new()
            self._since(new.pid, new.time, space)
        conflict = any(not _same_code(old, new) for old in space.mappings[space.under(new)])
        if space.shared or (conflict and self._seen(new.pid, new.time)):
            space = self._new(space.mappings)
            self._since(new.pid, new.time, space)
        space.put(new)

    def _seen(self, pid: int, time: int) -> bool:
        """Say whether the process was sampled in the space that it has now."""
        times = self._sampled.get(pid)
        if times is None:
            return False
        since = self.spaces_of[pid].times[-1]
        first, last = np.searchsorted(times, np.array([since, time], dtype=np.uint64)).tolist()
        return bool(last > first)

    def _fork(self, task: Forked) -> None:
        parent_name = self.names_of.get(task.parent_tid)
        if parent_name is not None and task.tid != task.parent_tid:
            history = self.names_of.setdefault(task.tid, _History())
            history.add(task.time, parent_name.values[-1])
        if task.pid == task.parent:
            return
        parent = self._now(task.parent) if task.cloned else None
        if parent is not None:
            parent.shared = True
            self._since(task.pid, task.time, parent)
        elif task.cloned:
            self._since(task.pid, task.time, self._new())
