"""Stage 1, edge: the file of perf record -> samples by phase and stack.

    perf.data ─ formats.perf_data ─▶ samples, each with its time ─ windows ─▶ its phase
              ─ symbols.unwind, symbols.resolve ─▶ stacks of frames ─▶ Recording.samples

No `perf script`: our reader keeps what the text loses (which events, exact times), is several
times faster, and names nothing by a file that is not the one that was recorded.
"""

import mmap
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Final

import numpy as np
import numpy.typing as npt

from ci_flame.collect.perf.session import Windows
from ci_flame.formats import perf_data, perf_script
from ci_flame.formats.perf_data import Named, PerfData
from ci_flame.profile import TRUNCATED, Stack
from ci_flame.symbols.kernel import KernelNames
from ci_flame.symbols.resolve import Resolver
from ci_flame.symbols.unwind import SampleUnwinder

_DEPTH_FILE: Final = Path("/proc/sys/kernel/perf_event_max_stack")
_USUAL_DEPTH: Final = 127

Longs = npt.NDArray[np.int64]


@dataclass(slots=True)
class Gathered:
    """What was sampled, by phase."""

    samples: dict[int, dict[Stack, int]] = field(default_factory=dict)
    truncated: dict[int, int] = field(default_factory=dict)
    lost: int = 0
    """Of the whole file: losses carry no phase."""
    pids: tuple[int, ...] = ()

    def add(self, phase: int, stack: Stack, samples: int) -> None:
        """Count samples of a stack."""
        stacks = self.samples.setdefault(phase, {})
        stacks[stack] = stacks.get(stack, 0) + samples


def processes(data: PerfData) -> tuple[int, ...]:
    """Return every process that was sampled."""
    return tuple(sorted({int(pid) for pid in np.unique(data.samples.pid) if pid > 0}))


def gather(
    data: PerfData,
    windows: Windows,
    names: perf_data.Names,
    *,
    launched: int = 0,
) -> Gathered:
    """Count samples by phase and stack, the program's name outermost.

    What process `launched` did before it became the command is left out; a process that never
    becomes another program is kept whole. Stacks whose outermost frames are missing begin with
    `[truncated]`.
    """
    gathered = Gathered(lost=data.lost, pids=processes(data))
    part = phases(data, windows, launched=launched)
    if not (part >= 0).any():
        return gathered
    folded = perf_data.fold(
        data, names, part=part, unwind=SampleUnwinder(), max_stack=depth_limit(data)
    )
    for (phase, _, comm), stacks in folded.groups.items():
        root = perf_script.program(comm)
        for stack, weight in stacks.items():
            # The mark stays outermost: what is missing is between the program and the stack.
            cut = stack[:1] == (TRUNCATED,)
            whole = (TRUNCATED, root, *stack[1:]) if cut else (root, *stack)
            gathered.add(phase, whole, weight.samples)
    gathered.truncated = dict(folded.truncated)
    return gathered


def phases(data: PerfData, windows: Windows, *, launched: int = 0) -> Longs:
    """Return the phase of each sample; -1 for those in no window and those of the launcher."""
    times = data.samples.time.astype(np.int64)
    starts = np.array([0, *windows.starts], dtype=np.int64)
    values = np.array([0, *windows.phases], dtype=np.int64)
    part = values[np.searchsorted(starts, times, side="right") - 1]
    part = np.where(part > 0, part, -1)
    became = [
        task.time
        for task in data.tasks
        if isinstance(task, Named) and task.executed and task.pid == launched
    ]
    if became:
        part[(data.samples.pid == launched) & (times < min(became))] = -1
    return part


def depth_limit(data: PerfData) -> int:
    """Return how many frames the kernel records at most; 0 where the stacks are unwound here."""
    if any(event.user_registers for event in data.events):
        return 0
    limits = [event.max_stack for event in data.events if event.max_stack]
    if limits:
        return min(limits)
    try:
        return int(_DEPTH_FILE.read_text(encoding="ascii"))
    except (OSError, ValueError):
        return _USUAL_DEPTH


def read(data: mmap.mmap, source: str) -> PerfData:
    """Return what the bytes of perf's file hold; FormatError where they are broken."""
    return perf_data.read(memoryview(data), source)


def resolver(data: PerfData, maps: Path) -> Resolver:
    """Return what names the addresses of a recording made just now on this machine."""
    return Resolver(data, maps=maps, kernel=_kernel())


@cache
def _kernel() -> KernelNames:
    """Return this kernel's symbols, which take longer to read than most recordings."""
    return KernelNames.of_this_machine()
