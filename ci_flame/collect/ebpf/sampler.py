"""Stage 1, edge: the eBPF sampler itself; runs in the collector process only.

perf event (per CPU, jittered) -> BPF program -> ring buffer -> counts by place -> names
scheduler's tracepoints -> BPF programs -> map of waits by place -> names
scheduler's and block devices' tracepoints -> BPF programs -> histograms
"""

import mmap
import os
import select
import struct
import time
from collections import Counter
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

from ci_flame.collect.ebpf import cpython
from ci_flame.collect.ebpf.latency import Latency
from ci_flame.collect.ebpf.libbpf import BpfObject
from ci_flame.collect.ebpf.names import Names
from ci_flame.collect.ebpf.off_cpu import OffCpu
from ci_flame.collect.ebpf.records import (
    EXEC,
    EXIT,
    FORK,
    KERNEL_STACK,
    SAMPLE,
    STACK,
    STRING,
    WAIT,
    Place,
    place_elsewhere,
    unpack_image,
)
from ci_flame.collect.ebpf.timers import JITTER, REDRAW_SECONDS, Timers, check_rate, max_sample_rate
from ci_flame.collect.ebpf.waits import WaitKey, WaitSum
from ci_flame.errors import CollectError
from ci_flame.profile import Mode
from ci_flame.symbols.native import AddressSpace, NativeNames, read_maps

OBJECT: Final = Path(__file__).parent.parent / "bpf" / "collector.bpf.o"
TREE_PROGRAMS: Final = ("on_fork", "on_exec", "on_exit")
SAMPLE_PROGRAM: Final = "on_sample"
SAMPLE_MAP: Final = "samples"

_DISCOVERY_SECONDS: Final = 0.003
_DISCOVERY_LIMIT_SECONDS: Final = 5.0
_ROOT_SECONDS: Final = 1.0
_FIRST_IMAGE: Final = 1
_PROCESS: Final = struct.Struct("<QII")
"""`struct process` before its Python: image, number here, unused."""

MOST_PLACES: Final = 200_000
"""Distinct places between two reads; the samples of further ones are `[unknown]`, and counted."""
_COUNTERS: Final = 9
_COUNT_TICKS, _COUNT_LOST, _COUNT_UNSENT, _COUNT_FAULTS, _COUNT_UNTRACKED = range(5)
_COUNT_LOST_WAITS, _COUNT_SHORT_WAITS, _COUNT_MISSED_SWITCHES = 5, 6, 7
_COUNT_LOST_LATENCIES: Final = 8


@dataclass(slots=True)
class Image:
    """One program in one process: what names its addresses."""

    pid: int
    space: AddressSpace = field(default_factory=AddressSpace)
    python: str = ""
    """Version, when it is known to run CPython."""
    searched_until: float = 0.0
    """Monotonic time to look for a CPython until."""
    tgid: int = 0
    """Key of the process in the BPF map, while the search goes on."""
    stale: bool = False
    """An address lay in no known mapping."""


Load = Callable[[Collection[str], Collection[str]], BpfObject]
"""Brings the named programs into the kernel, and no map that is named second."""


def load_object(programs: Collection[str], without: Collection[str]) -> BpfObject:
    """Load the committed object by libbpf."""
    return BpfObject(OBJECT, programs, without, {"ring": _ring_bytes()})


class Sampler:
    """Recording of one process tree, from construction to `close`."""

    def __init__(
        self,
        pid: int,
        *,
        frequency_hz: int,
        python: bool,
        pids: Sequence[int] = (),
        modes: Collection[str] = (Mode.ON_CPU,),
        machine: bool = False,
        load: "Load | None" = None,
    ) -> None:
        self._frequency_hz = frequency_hz
        self.period_ns = round(1e9 / frequency_hz)
        self._timers: Timers | None = None
        self._off_cpu: OffCpu | None = None
        self._latency: Latency | None = None
        self._native = NativeNames()
        self._names = Names(self._native)
        self._counts: Counter[bytes] = Counter()
        self._images: dict[int, Image] = {}
        self._sought: dict[int, Image] = {}
        """Of the images, those that may turn out to be Python."""
        self._stale: list[Image] = []
        self._ended: set[int] = set()
        self._records = 0
        self._before = [0] * _COUNTERS
        self._stats_before: dict[str, tuple[int, int]] = {}
        self._cpu_before = 0
        self._full = self._full_before = 0
        self._window_cpu_ns = self._start_cpu_ns = self._polled_cpu = 0
        """CPU time of the polls that found a window open; of it, what finding the interpreter and
        the libraries of a program that had just been started took."""
        self._unsupported: dict[str, int] = {}
        on_cpu, off_cpu = Mode.ON_CPU in modes, Mode.OFF_CPU in modes
        if on_cpu:
            check_rate(frequency_hz)
        root = self._root(pid, python=python)
        others = [(each, self._other(each)) for each in dict.fromkeys(pids) if each != pid]
        attached = (
            *TREE_PROGRAMS,
            *(OffCpu.PROGRAMS if off_cpu else ()),
            *(Latency.PROGRAMS if machine else ()),
        )
        self._programs = (*((SAMPLE_PROGRAM,) if on_cpu else ()), *attached)
        without = (
            *(() if on_cpu else (SAMPLE_MAP,)),
            *(() if off_cpu else OffCpu.MAPS),
            *(() if machine else Latency.MAPS),
        )
        self._object = (load or load_object)(self._programs, without)
        try:
            self._object.update("configs", bytes(4), _config(pid, 1 + len(others)))
            for image, (each, layout) in enumerate([(pid, root.layout), *others], _FIRST_IMAGE):
                waiting = _PROCESS.pack(image, each, 0) + layout
                self._object.update("waiting", struct.pack("<I", each), waiting)
            self.phase_descriptor = self._object.map_fd("phase")
            self._phase = memoryview(mmap.mmap(self.phase_descriptor, mmap.PAGESIZE)).cast("Q")
            self.ring_descriptor = self._object.ring("ring", self._record)
            self._timed = self._object.enable_stats()
            for name in attached:
                self._object.attach(name)
            if off_cpu:
                self._off_cpu = OffCpu(self._object)
            if machine:
                self._latency = Latency(self._object)
            if on_cpu:
                self._timers = Timers(self._object.program_fd(SAMPLE_PROGRAM), frequency_hz)
        except BaseException:
            self.close()
            raise
        self.python_version = root.image.python
        # From here on: loading the programs was before the first window.
        self._polled_cpu = time.process_time_ns()

    def next_poll_seconds(self) -> float:
        """Return how long the caller may wait before the next `poll`."""
        return _DISCOVERY_SECONDS if self._sought else REDRAW_SECONDS

    def poll(self) -> None:
        """Take the records, look for interpreters that have just started, redraw the periods."""
        in_window = self._phase[0] != 0
        self._take()
        cpu = time.process_time_ns()
        if in_window:
            self._window_cpu_ns += cpu - self._polled_cpu
        self._polled_cpu = cpu

    def _take(self) -> None:
        self._object.consume()
        if self._sought or self._stale:
            before = time.process_time_ns()
            for number, image in list(self._sought.items()):
                if self._search(image):
                    del self._sought[number]
            self._snapshot()
            if self._phase[0] != 0:
                self._start_cpu_ns += time.process_time_ns() - before
        if self._timers:
            self._timers.redraw()

    def read(self, windows: Mapping[int, int]) -> dict[str, Any]:
        """Return what was recorded since the last read, as `ebpf.py` wants it.

        `windows` tells where each phase since then ended, in ns by its clock (off_cpu.h).
        """
        self.poll()
        counts, self._counts = self._counts, Counter()
        waits: dict[bytes, WaitSum] = {}
        lost_waits = 0
        if self._off_cpu:
            waits = self._off_cpu.read(windows)
            lost_waits, self._off_cpu.lost = self._off_cpu.lost, 0
            for packed in waits:
                key = WaitKey.unpack(packed)
                self._locate(key.image, key.address, 0)
            self._snapshot()
        reply = self._names.reply(counts, waits, self._images)
        reply["period_ns"] = self.period_ns
        counted = [self._object.per_cpu("counters", index) for index in range(_COUNTERS)]
        since = [now - before for now, before in zip(counted, self._before, strict=True)]
        self._before = counted
        since[_COUNT_LOST_WAITS] += lost_waits
        reply["lost"] = since[_COUNT_LOST] + since[_COUNT_LOST_WAITS]
        reply["metrics"] = self._metrics(since)
        reply["histograms"] = {}
        if self._latency:
            histograms, metrics = self._latency.read()
            reply["histograms"] = {name: list(h.items()) for name, h in histograms.items()}
            reply["metrics"] |= metrics
            reply["metrics"]["collector.lost_latencies"] = float(since[_COUNT_LOST_LATENCIES])
        for image in self._ended:
            self._images.pop(image, None)
        self._ended.clear()
        # Naming is done while no window is open: it costs the benchmark nothing.
        self._polled_cpu = time.process_time_ns()
        return reply

    def close(self) -> None:
        """Stop the events and free the BPF object; may be called twice."""
        if self._timers:
            self._timers.close()
        if hasattr(self, "_object"):
            self._object.close()

    def _metrics(self, since: list[int]) -> dict[str, float]:
        """Return the collector's own cost and troubles since the last read."""
        metrics = {
            "collector.events": float(self._records),
            "collector.ticks": float(since[_COUNT_TICKS]),
            "collector.unsent": float(since[_COUNT_UNSENT]),
            "collector.faults": float(since[_COUNT_FAULTS]),
            "collector.untracked": float(since[_COUNT_UNTRACKED]),
        }
        if self._off_cpu:
            metrics["collector.lost_waits"] = float(since[_COUNT_LOST_WAITS])
            metrics["collector.short_waits"] = float(since[_COUNT_SHORT_WAITS])
            metrics["collector.missed_switches"] = float(since[_COUNT_MISSED_SWITCHES])
        self._records = 0
        cpu = time.process_time_ns()
        metrics["collector.cpu_ns"] = float(cpu - self._cpu_before)
        self._cpu_before = cpu
        metrics["collector.window_cpu_ns"] = float(self._window_cpu_ns)
        metrics["collector.start_cpu_ns"] = float(min(self._start_cpu_ns, self._window_cpu_ns))
        self._window_cpu_ns = self._start_cpu_ns = 0
        metrics["collector.rss_bytes"] = float(_peak_rss_bytes())
        if self._timed:
            metrics |= self._program_costs()
        limit = max_sample_rate()
        if self._timers and limit < self._frequency_hz * (1 + JITTER):
            # The kernel lowered it itself (kernel.perf_cpu_time_max_percent).
            metrics["collector.throttled_to_hz"] = float(limit)
        full = self._full + self._names.refused
        if full > self._full_before:
            metrics["collector.stacks_full"] = float(full - self._full_before)
            self._full_before = full
        if self._unsupported:
            metrics["collector.unsupported_python"] = float(sum(self._unsupported.values()))
        return metrics

    def _program_costs(self) -> dict[str, float]:
        """Return run time and runs since the last read, of each program and of all."""
        metrics: dict[str, float] = {"collector.bpf_ns": 0.0, "collector.bpf_runs": 0.0}
        for name in self._programs:
            now = self._object.run_time_ns(name)
            before = self._stats_before.get(name, (0, 0))
            self._stats_before[name] = now
            nanoseconds, runs = float(now[0] - before[0]), float(now[1] - before[1])
            metrics[f"collector.bpf.{name}.ns"] = nanoseconds
            metrics[f"collector.bpf.{name}.runs"] = runs
            metrics["collector.bpf_ns"] += nanoseconds
            metrics["collector.bpf_runs"] += runs
        return metrics

    def _root(self, pid: int, *, python: bool) -> "_Root":
        """Look for the target's CPython; it may have been started a moment ago."""
        image = Image(pid)
        deadline = time.monotonic() + _ROOT_SECONDS
        while True:
            try:
                layout = cpython.find_python(pid, self._native)
            except cpython.UnsupportedPythonError:
                if python:
                    raise
                layout = None  # the launcher of a command that is not Python
            if layout or not python or not _alive(pid) or time.monotonic() > deadline:
                break
            time.sleep(_DISCOVERY_SECONDS)
        if not _alive(pid):
            raise CollectError(f"process {pid} is gone", "start the collector before it ends")
        if layout is None and python:
            raise CollectError(
                f"process {pid} runs no CPython that exports _PyRuntime",
                "use CPython 3.11 or newer, from a build that was not stripped of .dynsym",
            )
        image.space.update(read_maps(pid))
        image.python = layout.version if layout else ""
        self._images[_FIRST_IMAGE] = image
        return _Root(image, layout.pack() if layout else cpython.EMPTY)

    def _other(self, pid: int) -> bytes:
        """Return the layout of one more process that runs already; it may have ended."""
        image = Image(pid)
        layout = None
        try:
            layout = cpython.find_python(pid, self._native)
        except cpython.UnsupportedPythonError as error:
            self._unsupported[error.message] = self._unsupported.get(error.message, 0) + 1
        image.space.update(read_maps(pid))
        image.python = layout.version if layout else ""
        self._images[_FIRST_IMAGE + len(self._images)] = image
        return layout.pack() if layout else cpython.EMPTY

    def _record(self, data: bytes) -> None:
        """Take one record from the ring buffer."""
        self._records += 1
        kind = data[0]
        if kind == SAMPLE:
            key = data[20:]
            if key not in self._counts:
                if len(self._counts) >= MOST_PLACES:
                    self._full += 1
                    key = place_elsewhere(Place.unpack(key).phase)
                else:
                    self._first_seen(data)
            self._counts[key] += 1
        elif kind == STRING:
            self._names.add_string(data)
        elif kind == STACK:
            self._names.add_stack(data)
        elif kind == WAIT and self._off_cpu:
            self._off_cpu.record(data)
        elif kind == KERNEL_STACK:
            self._names.add_kernel_stack(data)
        elif kind in (FORK, EXEC, EXIT):
            self._image_changed(kind, data)
        else:
            self._names.add_code(data)

    def _first_seen(self, data: bytes) -> None:
        """Make sure that the mapping of a place not seen before will be known."""
        place = Place.unpack(data[20:])
        self._locate(place.image, place.address, int.from_bytes(data[4:8], "little"))

    def _locate(self, number: int, address: int, pid: int) -> None:
        image = self._images.setdefault(number, Image(pid))
        image.pid = image.pid or pid
        if address and image.pid and not image.stale and image.space.find(address) is None:
            image.stale = True
            self._stale.append(image)

    def _image_changed(self, kind: int, data: bytes) -> None:
        change = unpack_image(data)
        if kind != FORK:
            self._ended.add(change.before)
            self._sought.pop(change.before, None)
        if kind == EXIT:
            return
        before = self._images.get(change.before)
        if kind == FORK:
            image = Image(change.pid, python=before.python if before else "")
            if before:
                image.space.update(before.space.mappings)
        else:
            image = Image(change.pid, tgid=change.tgid)
            image.searched_until = time.monotonic() + _DISCOVERY_LIMIT_SECONDS
            self._sought[change.image] = image
        self._images[change.image] = image

    def _search(self, image: Image) -> bool:
        """Look for a CPython in a program that has just been started by exec; True: looked enough.

        What cannot be walked is recorded as a program that is not Python, and counted.
        """
        if time.monotonic() > image.searched_until:
            return True
        image.space.update(read_maps(image.pid))
        try:
            layout = cpython.find_python(image.pid, self._native)
            packed = layout.pack() if layout else b""
        except cpython.UnsupportedPythonError as error:
            self._unsupported[error.message] = self._unsupported.get(error.message, 0) + 1
            return True
        if layout is None:
            return False
        image.python = layout.version
        key = struct.pack("<I", image.tgid)
        value = self._object.lookup("processes", key, _PROCESS.size + len(cpython.EMPTY))
        if value and self._images.get(_PROCESS.unpack_from(value)[0]) is image:
            # Should it end meanwhile, its number must not come back: it may become another's.
            self._object.replace("processes", key, value[: _PROCESS.size] + packed)
        return True

    def _snapshot(self) -> None:
        """Read the mappings again where an address fell outside them (dlopen, new children)."""
        for image in self._stale:
            image.space.update(read_maps(image.pid))
            image.stale = False
        self._stale.clear()


@dataclass(frozen=True, slots=True)
class _Root:
    image: Image
    layout: bytes


def _config(pid: int, roots: int) -> bytes:
    """Return `struct config`: this PID namespace and the number of roots."""
    if not Path(f"/proc/{pid}").exists():
        raise CollectError(f"process {pid} is gone", "start the collector before it ends")
    namespace = Path("/proc/self/ns/pid").stat()
    return struct.pack("<QQ", namespace.st_ino, roots)


def _ring_bytes() -> int:
    """Return the ring buffer's size: a power of two, 256 KiB for each CPU within limits.

    At 4,999 Hz a CPU fills that in about a fifth of a second, and it is emptied every 40 ms. The
    kernel maps the buffer twice, so that it counts double in the resident memory.
    """
    wanted = (os.cpu_count() or 1) << 18
    return min(max(1 << (wanted - 1).bit_length(), 4 << 20), 64 << 20)


def _peak_rss_bytes() -> int:
    """Return this process's highest resident memory.

    Not getrusage's: that one remembers what it was before the exec.
    """
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith("VmHWM:"):
            return int(line.split()[1]) << 10
    return 0


def _alive(pid: int) -> bool:
    try:
        descriptor = os.pidfd_open(pid)
    except OSError:
        return False
    poll = select.poll()
    poll.register(descriptor, select.POLLIN)
    ended = bool(poll.poll(0))
    os.close(descriptor)
    return not ended
