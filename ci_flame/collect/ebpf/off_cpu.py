"""Stage 1, edge: the off-CPU half of the eBPF sampler; runs in the collector process only.

Waits inside one window come added up from a BPF map; those that outlast their window come one by
one, or are still open, and only their part inside the window is kept.
"""

from collections.abc import Iterator, Mapping
from typing import Final

from ci_flame.collect.ebpf.libbpf import BpfObject
from ci_flame.collect.ebpf.waits import (
    KEY,
    OPEN_BYTES,
    SUM,
    OpenWait,
    WaitSum,
    unpack_open,
    unpack_wait,
)

MOST_PLACES: Final = 100_000
"""Distinct places between two reads; the waits of further ones count as lost."""
_KEPT_WINDOWS: Final = 100_000


class OffCpu:
    """Waits since the last read."""

    PROGRAMS: Final = (
        *("off_cpu_switch", "off_cpu_wakeup", "off_cpu_waking"),
        *("off_cpu_timer_entry", "off_cpu_timer_exit"),
    )
    MAPS: Final = ("open_waits", "waits", "kernel_stacks", "in_timer")

    def __init__(self, loaded: BpfObject) -> None:
        self._loaded = loaded
        self._sums: dict[bytes, WaitSum] = {}
        self._outlasting: list[tuple[OpenWait, int]] = []
        """Waits that ended after their window, and when they did."""
        self._windows: dict[int, int] = {}
        self.lost = 0
        """Waits that could not be kept, since the last read."""

    def record(self, data: bytes) -> None:
        """Take a WAIT record from the ring buffer."""
        wait, end_ns, whole = unpack_wait(data)
        if whole:
            self._add(KEY.pack(*wait.key), wait.until(end_ns))
        elif len(self._outlasting) < MOST_PLACES:
            self._outlasting.append((wait, end_ns))
        else:
            self.lost += 1

    def read(self, windows: Mapping[int, int]) -> dict[bytes, WaitSum]:
        """Return the waits by place (`WaitKey`, packed).

        `windows` tells where each phase since the last read ended, in ns by its clock (off_cpu.h).
        """
        self._windows.update(windows)
        while len(self._windows) > _KEPT_WINDOWS:
            del self._windows[next(iter(self._windows))]
        for raw_key, raw_sum in self._loaded.drain("waits", KEY.size, SUM.size):
            self._add(raw_key, WaitSum(*SUM.unpack(raw_sum)))
        self._outlasting += ((wait, self._windows[wait.key.phase]) for wait in self._open())
        self._loaded.consume()
        outlasting, self._outlasting = self._outlasting, []
        for wait, end_ns in outlasting:
            end_of_window = self._windows.get(wait.key.phase)
            if end_of_window is None:
                self.lost += 1
            else:
                self._add(KEY.pack(*wait.key), wait.until(min(end_ns, end_of_window)))
        sums, self._sums = self._sums, {}
        return sums

    def _open(self) -> Iterator[OpenWait]:
        """Take the waits that go on although their window has ended out of the kernel's map."""
        for key, value in self._loaded.entries("open_waits", 4, OPEN_BYTES):
            if unpack_open(value).key.phase in self._windows:
                taken = self._loaded.take("open_waits", key, OPEN_BYTES)
                if taken is not None:
                    yield unpack_open(taken)

    def _add(self, key: bytes, part: WaitSum | None) -> None:
        if part is None:
            return
        before = self._sums.get(key)
        if before is None and len(self._sums) >= MOST_PLACES:
            self.lost += part.waits
            return
        self._sums[key] = before.plus(part) if before else part
