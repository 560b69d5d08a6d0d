"""Stage 1, edge: the bpftrace collector, for commands that are not Python.

    bpftrace bt/on_cpu.bt PID PERIOD      attached before the command's first instruction
    its one map of stacks                 when the window has ended

Stacks are counted in the kernel, with the addresses of their frames. bpftrace itself cannot
name those of a process that has ended, so that ours are named by the mappings that were seen
while it lived; processes of a few milliseconds may have been seen by nobody. One session is
one window: everything from `start` to the first `read` is phase 1, children included.
"""

import os
import shutil
import tempfile
import threading
import time
from collections.abc import Iterable, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING, Final

from ci_flame.collect import Obstacle, Recording, Session, Target
from ci_flame.collect.bpftrace import process
from ci_flame.collect.bpftrace.cost import Meter
from ci_flame.collect.process_tree import MAX_PROCESSES, tree
from ci_flame.errors import CollectError
from ci_flame.formats import bpftrace
from ci_flame.formats.bpftrace import Entry, Output, Trace
from ci_flame.profile import TRUNCATED, UNKNOWN, Frame, Kind, Mode, Stack
from ci_flame.simplify import clean_frame
from ci_flame.symbols.native import AddressSpace, NativeNames, parse_maps

if TYPE_CHECKING:
    from ci_flame.collect.machine import Machine

PHASE: Final = 1
FREQUENCY_HZ: Final = range(1, 20_001)
MAX_DEPTH: Final = 127
"""Frames that bpftrace keeps of a stack; deeper ones lose their outermost."""
_EAGER_SECONDS: Final = 1.0
_PERIODS: Final = (0.005, 0.05)
"""Between two looks at the mappings, in the first second and later."""
_SCRIPT: Final = Path(__file__).with_name("on_cpu.bt")
_ROOT: Final = "@roots[$1] = 1;"
_FIRST_NAMESPACE: Final = 0xEFFFFFFC
"""Inode of the PID namespace that the machine was booted with (include/linux/proc_ns.h)."""
_KEY_LENGTH: Final = 4


class BpftraceCollector:
    """Our program for bpftrace, attached to a process tree."""

    name = "bpftrace"
    event = "cpu-clock"

    def obstacle(self, machine: "Machine", *, python: bool) -> Obstacle | None:
        """Return what stops bpftrace here for such a target, or None."""
        if machine.system != "Linux":
            return Obstacle(f"bpftrace is Linux's, this is {machine.system}", "record on Linux")
        if python:
            return _no_python()
        return _obstacle_here(machine)

    def start(self, target: Target) -> Session:
        """Attach to a process and all that it will start; CollectError within 20 s if not."""
        if target.python:
            obstacle = _no_python()
            raise CollectError(obstacle.reason, obstacle.cure)
        if target.modes != {Mode.ON_CPU}:
            names = ", ".join(sorted(target.modes - {Mode.ON_CPU}))
            raise CollectError(
                f"bpftrace records on-cpu here, {names or 'nothing'} was asked for",
                "--collector ebpf records off-CPU time",
            )
        if target.frequency_hz not in FREQUENCY_HZ:
            raise CollectError(
                f"{target.frequency_hz} Hz; bpftrace samples at {FREQUENCY_HZ[0]} to"
                f" {FREQUENCY_HZ[-1]} Hz here"
            )
        session = BpftraceSession(target)
        try:
            session.attach()
        except BaseException:
            session.close()
            raise
        return session


def _obstacle_here(machine: "Machine") -> Obstacle | None:
    if not process.find():
        return Obstacle("bpftrace is not installed", process.INSTALL)
    if not (machine.root or machine.sudo):
        return Obstacle("bpftrace runs as root only", "run as root, or allow `sudo -n`")
    if machine.root and machine.bpf_error:
        return Obstacle(
            f"BPF does not load: {machine.bpf_error}", "give the container --privileged"
        )
    if _in_namespace():
        return Obstacle(
            "this is a PID namespace, bpftrace tells processes by the machine's own numbers",
            "run the container with --pid=host, or --collector ebpf",
        )
    return None


def _no_python() -> Obstacle:
    return Obstacle(
        "bpftrace sees no Python frames",
        "let the ebpf collector record it: `ci-flame doctor` says what it needs here",
    )


def _in_namespace() -> bool:
    with suppress(OSError):
        return os.stat("/proc/self/ns/pid").st_ino != _FIRST_NAMESPACE  # noqa: PTH116 - not a file
    return False


class BpftraceSession:
    """One bpftrace at work, and what was seen of the processes' mappings."""

    def __init__(self, target: Target) -> None:
        self._target = target
        self._period_ns = round(1e9 / target.frequency_hz)
        self._folder = Path(tempfile.mkdtemp(prefix="ci-flame-bt-"))
        self._program: process.Program | None = None
        self._seen = Seen((target.pid, *target.pids))
        self._meter: Meter | None = None
        self._read = False

    def attach(self) -> None:
        """Start bpftrace and wait until its probes are attached."""
        text = _SCRIPT.read_text(encoding="utf-8")
        roots = " ".join(f"@roots[{int(each)}] = 1;" for each in self._target.pids)
        script = self._folder / _SCRIPT.name
        script.write_text(text.replace(_ROOT, f"{_ROOT} {roots}".rstrip()), encoding="utf-8")
        words = (str(self._target.pid), str(self._period_ns))
        self._program = process.Program("the bpftrace collector", script, words)
        self._seen.start()
        self._program.start()
        self._meter = Meter(tree((self._program.pid,)))

    def set_phase(self, phase: int) -> None:
        """Do nothing: the whole session is one window."""

    def read(self, module_files: Mapping[str, str] | None = None) -> Recording:
        """End the recording and return it as phase 1; a second read returns nothing more."""
        del module_files  # of Python code only
        if self._read or self._program is None:
            return Recording({}, self._period_ns, {})
        self._read = True
        self._seen.stop()
        cost = self._meter.read() if self._meter is not None else {}
        output = self._program.finish()
        start = time.process_time()
        gathered = gather(output, self._seen)
        return Recording(
            samples={PHASE: gathered.samples} if gathered.samples else {},
            period_ns=self._period_ns,
            places={},
            lost=output.lost + gathered.lost,
            truncated={PHASE: gathered.truncated} if gathered.truncated else {},
            metrics=MappingProxyType(
                {
                    **cost,
                    "collector.read_s": round(time.process_time() - start, 3),
                    "collector.unnamed_processes": float(len(gathered.unnamed)),
                    "collector.untracked": float(gathered.unfollowed),
                }
            ),
            notes=_notes(gathered),
        )

    def close(self) -> None:
        """End bpftrace, by force if need be, and remove the files; never raises."""
        self._seen.stop()
        if self._meter is not None:
            self._meter.close()
        if self._program is not None:
            self._program.close()
        shutil.rmtree(self._folder, ignore_errors=True)


class Seen:
    """The mappings of a process tree, looked at again and again while it lives."""

    def __init__(self, roots: Iterable[int]) -> None:
        self.launchers: set[tuple[int, str]] = set()
        """Pid and name of what a root was before it became another program."""
        self._roots = tuple(roots)
        self._texts: dict[int, str] = {}
        self._spaces: dict[int, list[AddressSpace]] = {}
        self._programs: dict[int, tuple[str, str]] = {}
        self._names = NativeNames()
        self._named: dict[tuple[int, int], Frame] = {}
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._watch, daemon=True)

    def start(self) -> None:
        """Look once, then from time to time until `stop`."""
        self.look()
        self._thread.start()

    def stop(self) -> None:
        """End the looking; may be called again."""
        self._ended.set()
        if self._thread.is_alive():
            self._thread.join(5.0)

    def _watch(self) -> None:
        eager = time.monotonic() + _EAGER_SECONDS
        while not self._ended.wait(_PERIODS[time.monotonic() > eager]):
            self.look()

    def look(self) -> None:
        """Keep the mappings of every process of the tree that has new ones."""
        for pid in tree(self._roots):
            try:
                text = Path(f"/proc/{pid}/maps").read_text(errors="surrogateescape")
            except OSError:
                continue
            if not text or self._texts.get(pid) == text:
                continue
            if pid not in self._spaces and len(self._spaces) >= MAX_PROCESSES:
                continue
            self._texts[pid] = text
            if pid in self._roots:
                self._note_program(pid)
            space = AddressSpace()
            space.update(parse_maps(text))
            self._spaces.setdefault(pid, []).append(space)
            self._open_files(pid, space)

    def _note_program(self, pid: int) -> None:
        with suppress(OSError):
            path = os.readlink(f"/proc/{pid}/exe")  # noqa: PTH115 - a name, not a path to follow
            comm = Path(f"/proc/{pid}/comm").read_text(errors="replace").rstrip("\n")
            before, name = self._programs.setdefault(pid, (path, comm))
            if before != path:
                self.launchers.add((pid, name))

    def _open_files(self, pid: int, space: AddressSpace) -> None:
        """Read symbols while `/proc/PID/root` still leads to the process's own files."""
        for mapping in space.mappings:
            if mapping.path.startswith("/"):
                with suppress(OSError):
                    self._names.elf(mapping, pid)

    def knows(self, pid: int) -> bool:
        """Tell whether any mapping of the process was seen."""
        return pid in self._spaces

    def frame(self, pid: int, address: int) -> Frame:
        """Return the frame of a user address; the latest mappings that hold it decide."""
        key = (pid, address)
        if key not in self._named:
            self._named[key] = self._frame(pid, address)
        return self._named[key]

    def _frame(self, pid: int, address: int) -> Frame:
        for space in reversed(self._spaces.get(pid, [])):
            if space.find(address) is not None:
                library, symbol = self._names.name(space, address, 0)
                return clean_frame(Frame(symbol, library, Kind.NATIVE))
        return UNKNOWN


@dataclass(slots=True)
class Gathered:
    """Samples by stack."""

    samples: dict[Stack, int] = field(default_factory=dict)
    truncated: int = 0
    lost: int = 0
    """Samples whose stacks the map had no room for."""
    unfollowed: int = 0
    """Threads that were not sampled, as the map of the tree had no room for them."""
    unnamed: set[int] = field(default_factory=set)
    """Processes whose addresses nobody could name any more."""


def gather(output: Output, seen: Seen) -> Gathered:
    """Return the samples of our program's map, the program's name outermost.

    What a root did before it became the command (the launcher) is left out.
    """
    gathered = Gathered()
    maps = {each.name: each.entries for each in output.maps}
    gathered.unfollowed = _total(maps.get("@unfollowed", ()))
    gathered.lost = max(_total(maps.get("@ticks", ())) - _total(maps.get("@samples", ())), 0)
    for entry in maps.get("@samples", ()):
        pid, kernel, user, comm, count = _parted(entry)
        if (pid, comm) in seen.launchers:
            continue
        if user and not seen.knows(pid):
            gathered.unnamed.add(pid)
        stack = (
            Frame(f"[{comm}]", "", Kind.MARK),
            *_user(pid, user, seen),
            *(clean_frame(bpftrace.frame(line, kernel=True)) for line in reversed(kernel)),
        )
        if len(user) >= MAX_DEPTH:
            gathered.truncated += count
            stack = (TRUNCATED, *stack)
        gathered.samples[stack] = gathered.samples.get(stack, 0) + count
    return gathered


def _notes(gathered: Gathered) -> tuple[str, ...]:
    if not gathered.unfollowed:
        return ()
    told = (
        f"{gathered.unfollowed} threads or processes, and what they started, were not sampled:"
        f" bpftrace's map of the tree holds {process.MAX_KEYS}"
    )
    return (told,)


def _total(entries: Iterable[Entry]) -> int:
    return sum(entry.value for entry in entries if isinstance(entry.value, int))


def _user(pid: int, leaf_first: tuple[str, ...], seen: Seen) -> list[Frame]:
    frames = []
    for depth, line in enumerate(leaf_first):
        address = bpftrace.address_of(line)
        # A caller's address is where it goes on, which may be another function already.
        frames.append(UNKNOWN if address is None else seen.frame(pid, address - (depth > 0)))
    return frames[::-1]


def _parted(entry: Entry) -> tuple[int, tuple[str, ...], tuple[str, ...], str, int]:
    """Return pid, kernel stack, user stack, program's name and count of one entry."""
    key = entry.key
    if len(key) < _KEY_LENGTH or not isinstance(entry.value, int):
        raise CollectError(f"bpftrace printed a key that is not ours: {str(key)[:60]}")
    pid, kernel, user = key[:3]
    if (
        not isinstance(pid, str)
        or not pid.isdigit()
        or not isinstance(kernel, Trace)
        or not isinstance(user, Trace)
    ):
        raise CollectError(f"bpftrace printed a key that is not ours: {str(key)[:60]}")
    # A name may have commas of its own.
    comm = ",".join(part for part in key[3:] if isinstance(part, str))
    return int(pid), kernel.lines, user.lines, comm or "?", entry.value
