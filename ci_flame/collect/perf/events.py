"""Stage 1, edge: the events that perf may sample by, tried on this very machine.

A name says little: virtual machines have no hardware counters, some have counters that count
and never give a sample. `obstacle` opens the event on this process, works, and looks for both.
"""

import errno
import mmap
import os
import struct
import time
from contextlib import suppress
from dataclasses import dataclass
from functools import cache
from typing import Final

from ci_flame.collect.machine import perf_event_open
from ci_flame.config import sampling
from ci_flame.config.sampling import DEFAULT_EVENT, USER_ONLY

CLOCKS: Final = ("cpu-clock", "task-clock")
"""Events whose period is in nanoseconds."""

_HARDWARE, _SOFTWARE, _CACHE = 0, 1, 3
_EVENTS: Final[dict[str, tuple[int, int]]] = {
    "cpu-clock": (_SOFTWARE, 0),
    "task-clock": (_SOFTWARE, 1),
    "page-faults": (_SOFTWARE, 2),
    "context-switches": (_SOFTWARE, 3),
    "minor-faults": (_SOFTWARE, 5),
    "major-faults": (_SOFTWARE, 6),
    "cycles": (_HARDWARE, 0),
    "instructions": (_HARDWARE, 1),
    "cache-references": (_HARDWARE, 2),
    "cache-misses": (_HARDWARE, 3),
    "branches": (_HARDWARE, 4),
    "branch-misses": (_HARDWARE, 5),
    "bus-cycles": (_HARDWARE, 6),
    "ref-cycles": (_HARDWARE, 9),
    "L1-dcache-loads": (_CACHE, 0x00000),
    "L1-dcache-load-misses": (_CACHE, 0x10000),
    "L1-icache-load-misses": (_CACHE, 0x10001),
    "LLC-loads": (_CACHE, 0x00002),
    "LLC-load-misses": (_CACHE, 0x10002),
    "dTLB-load-misses": (_CACHE, 0x10003),
    "iTLB-load-misses": (_CACHE, 0x10004),
    "branch-load-misses": (_CACHE, 0x10005),
}
"""perf's name -> type and config of `struct perf_event_attr` (linux/perf_event.h)."""
EVENTS: Final = tuple(_EVENTS)
"""The same names as `config.sampling.EVENT_NAMES`."""
_RARE: Final = ("major-faults",)
"""Software events that a probe cannot cause; the kernel itself counts them everywhere."""

_PER_SECOND: Final = {
    **dict.fromkeys(("cycles", "ref-cycles", "instructions"), 3_000_000_000),
    **dict.fromkeys(("branches", "L1-dcache-loads"), 600_000_000),
    **dict.fromkeys(("bus-cycles", "cache-references"), 100_000_000),
    **dict.fromkeys(("page-faults", "minor-faults", "context-switches"), 10_000),
    "major-faults": 1_000,
}
_PER_SECOND_OTHERS: Final = 10_000_000
"""How often an event is taken to occur in a second of CPU time: misses, mostly."""

_TRY_SECONDS: Final = 0.2
_SLICE_SECONDS: Final = 0.002
_PERIODS: Final = {"cpu-clock": 100_000, "task-clock": 100_000}
_HARDWARE_PERIOD: Final = 100
_FAULT_PERIOD: Final = 1
_ENABLE: Final = 0x2400
_HEAD_OFFSET: Final = 1024
"""Of `data_head` in `struct perf_event_mmap_page`."""


@dataclass(frozen=True, slots=True)
class Event:
    """What is sampled by."""

    name: str = DEFAULT_EVENT
    user_only: bool = False

    def __str__(self) -> str:
        """Return it as perf is told: `cycles:u`."""
        return self.name + (USER_ONLY if self.user_only else "")

    @property
    def is_clock(self) -> bool:
        """Whether a period is a time."""
        return self.name in CLOCKS

    def period(self, frequency_hz: int) -> int:
        """Return how many occurrences one sample stands for (of clocks: nanoseconds).

        Of what is counted it is fixed by the name, so that samples come about `frequency_hz`
        times a second in a usual program, and runs of another day count alike.
        """
        often = 1_000_000_000 if self.is_clock else _PER_SECOND.get(self.name, _PER_SECOND_OTHERS)
        return max(1, round(often / frequency_hz))


@dataclass(frozen=True, slots=True)
class Trouble:
    """Why an event gives nothing here, and the cure."""

    reason: str
    cure: str


def parse(text: str) -> Event:
    """Return the event that `--event` or `record: {event: …}` names; UsageError if none."""
    return Event(sampling.event(text).removesuffix(USER_ONLY), text.endswith(USER_ONLY))


def allowed(event: Event) -> Event:
    """Return the event as this user may sample it: `:u` where the kernel is out of sight.

    Found by opening it: what kernel.perf_event_paranoid means differs between distributions.
    """
    return Event(event.name, user_only=event.user_only or not sees_kernel())


@cache
def sees_kernel() -> bool:
    """Whether this user may sample what the kernel does on its behalf."""
    opened = perf_event_open(_attributes(Event(DEFAULT_EVENT), 1_000_000), 0, -1)
    if opened < 0:
        return False
    os.close(opened)
    return True


@cache
def trouble(event: Event) -> Trouble | None:
    """Return why an event gives no samples on this machine, or None; takes 0.2 s at most."""
    kind, _ = _EVENTS[event.name]
    period = _PERIODS.get(event.name, _HARDWARE_PERIOD if kind != _SOFTWARE else _FAULT_PERIOD)
    opened = perf_event_open(_attributes(event, period), 0, -1)
    other = "record by --event cpu-clock, which every Linux has"
    if opened in (-errno.EACCES, -errno.EPERM):
        return Trouble(
            f"the event {event} is refused: {os.strerror(-opened)}",
            "sudo sysctl kernel.perf_event_paranoid=1",
        )
    if opened in (-errno.ENOENT, -errno.EOPNOTSUPP, -errno.EINVAL) and kind != _SOFTWARE:
        return Trouble(
            f"this machine has no hardware counter for {event.name} ({os.strerror(-opened)});"
            " virtual machines mostly have none",
            f"{other}, or use a machine whose counters are passed through",
        )
    if opened < 0:
        return Trouble(f"the event {event} cannot be opened: {os.strerror(-opened)}", other)
    try:
        count, sampled = _work(opened, event)
    except OSError as error:
        return Trouble(f"the event {event} cannot be read: {error.strerror}", other)
    finally:
        os.close(opened)
    if sampled or event.name in _RARE:
        return None
    did = f"counted {count} and gave no sample" if count else "counted nothing"
    return Trouble(f"the event {event} opens on this machine, but {did} within 0.2 s", other)


def _work(descriptor: int, event: Event) -> tuple[int, bool]:
    """Work until a sample lies in the event's buffer; return the count and whether one does."""
    from fcntl import ioctl  # noqa: PLC0415 - not on every system where this is imported

    page = mmap.PAGESIZE
    with mmap.mmap(descriptor, 2 * page, mmap.MAP_SHARED, mmap.PROT_READ) as buffer:
        ioctl(descriptor, _ENABLE, 0)
        deadline = time.monotonic() + (0.0 if event.name in _RARE else _TRY_SECONDS)
        sampled = False
        while not sampled and time.monotonic() < deadline:
            _spin()
            sampled = struct.unpack_from("<Q", buffer, _HEAD_OFFSET)[0] > 0
    count = 0
    with suppress(OSError, struct.error):
        count = struct.unpack("<Q", os.read(descriptor, 8))[0]
    return count, sampled


def _spin() -> None:
    """Use the CPU, touch new pages, miss caches and branches for two milliseconds; then wait."""
    until = time.monotonic() + _SLICE_SECONDS
    with mmap.mmap(-1, 64 * mmap.PAGESIZE) as memory:
        place = 1
        while time.monotonic() < until:
            for _ in range(64):
                place = (place * 1_103_515_245 + 12_345) % len(memory)
                memory[place] = place & 0xFF
    time.sleep(_SLICE_SECONDS / 8)


def _attributes(event: Event, period: int) -> bytes:
    """Return `struct perf_event_attr`, disabled, with the instruction in each sample."""
    kind, config = _EVENTS[event.name]
    flags = 1 | (1 << 5 | 1 << 6 if event.user_only else 0)  # disabled, exclude_kernel, exclude_hv
    head = struct.pack("<IIQQQQQ", kind, 112, config, period, 1, 0, flags)
    return head.ljust(112, b"\0")
