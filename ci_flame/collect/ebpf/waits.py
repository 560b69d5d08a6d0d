"""Pure: waits off the CPU: what part of one its window saw, and what it was for."""

import struct
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Final, NamedTuple

SLEEP: Final = "[sleep]"
LOCK: Final = "[lock]"
DISK: Final = "[disk]"
RUN_QUEUE: Final = "[run queue]"
WAIT: Final = "[wait]"
REASONS: Final = (SLEEP, LOCK, DISK, RUN_QUEUE, WAIT)

SHORTEST_NS: Final = 1000
"""Shorter waits are counted, not kept: they cost less than looking at them (off_cpu.h)."""

FLAG_TIMED_OUT: Final = 0x100
_RUNNABLE: Final = 0
_UNINTERRUPTIBLE: Final = 2

KEY: Final = struct.Struct("<II5Q")
SUM: Final = struct.Struct("<4Q")
_OPEN: Final = struct.Struct("<QQQ")
_RECORD: Final = struct.Struct("<IIQ")

# The innermost scheduler frames, and what stands below them (this program's own hook), say
# nothing about the wait.
_SCHEDULER: Final = (
    *("schedule", "__schedule", "schedule_preempt_disabled", "preempt_schedule"),
    *("preempt_schedule_irq", "preempt_schedule_notrace", "preempt_schedule_common"),
    *("__cond_resched", "schedule_hrtimeout_range_clock"),
)

# The first row with a symbol of the stack decides; rows that hold in any state come first.
_BY_SYMBOL: Final[tuple[tuple[str, tuple[str, ...]], ...]] = (
    (
        LOCK,
        ("futex_", "__futex_", "do_futex", "rt_mutex_", "flock_lock_inode_wait", "do_semtimedop"),
    ),
    (LOCK, ("posix_lock_inode_wait", "fcntl_setlk", "locks_lock_inode_wait")),
    (LOCK, ("rwsem_down_", "__mutex_lock", "mutex_lock", "down_read", "down_write", "__down")),
    (SLEEP, ("do_nanosleep", "hrtimer_nanosleep", "common_nsleep", "msleep", "__x64_sys_pause")),
    (WAIT, ("wait_for_vfork_done", "synchronize_rcu", "pipe_", "do_wait", "do_epoll_wait")),
)
_ON_TIME_OUT: Final = (
    *("do_sys_poll", "do_poll", "do_select", "core_sys_select", "ep_poll", "do_epoll_wait"),
    *("do_sigtimedwait", "schedule_timeout", "schedule_hrtimeout"),
)
_DISK_SYMBOLS: Final = ("io_schedule", "folio_wait", "submit_bio_wait", "jbd2_", "blkdev_issue_")


class WaitKey(NamedTuple):
    """`struct wait_key`: where a thread was when it left its CPU, and in which state."""

    flags: int
    state: int
    phase: int
    image: int
    stack: int
    address: int
    kernel: int

    @classmethod
    def unpack(cls, data: bytes, offset: int = 0) -> "WaitKey":
        """Read the C structure."""
        return cls(*KEY.unpack_from(data, offset))


class WaitSum(NamedTuple):
    """`struct wait_sum`: waits of one place, until the wake-up and from it until the thread ran."""

    waits: int
    blocked_ns: int
    queued: int
    """Of the waits, those that stood in the run queue."""
    queued_ns: int

    def plus(self, other: "WaitSum") -> "WaitSum":
        """Return both together."""
        return WaitSum(*(a + b for a, b in zip(self, other, strict=True)))


@dataclass(frozen=True, slots=True)
class OpenWait:
    """One wait as the kernel saw it, in ns of its phase's clock (off_cpu.h)."""

    since_ns: int
    woken_ns: int
    """0: nobody has woken it."""
    key: WaitKey

    def until(self, end_ns: int) -> WaitSum | None:
        """Return the wait up to `end_ns`; None if that is shorter than what is kept."""
        if end_ns - self.since_ns < SHORTEST_NS:
            return None
        woken = self.since_ns if self.key.state == _RUNNABLE else self.woken_ns or end_ns
        woken = min(max(woken, self.since_ns), end_ns)
        queued_ns = end_ns - woken
        return WaitSum(1, woken - self.since_ns, int(queued_ns > 0), queued_ns)


def unpack_open(data: bytes, offset: int = 0) -> OpenWait:
    """Read `struct open_wait`."""
    since_ns, woken_ns, _ = _OPEN.unpack_from(data, offset)
    return OpenWait(since_ns, woken_ns, WaitKey.unpack(data, offset + _OPEN.size))


def unpack_wait(data: bytes) -> tuple[OpenWait, int, bool]:
    """Return a WAIT record: the wait, when it ended, and whether all of it is in its window."""
    _, whole, end_ns = _RECORD.unpack_from(data)
    return unpack_open(data, _RECORD.size), end_ns, bool(whole)


OPEN_BYTES: Final = _OPEN.size + KEY.size


def without_scheduler(symbols: Sequence[str]) -> tuple[str, ...]:
    """Return a kernel stack, outermost first, without the scheduler at its inner end.

    `do_nanosleep;schedule;__schedule;bpf_trampoline` becomes `do_nanosleep`.
    """
    for index, symbol in enumerate(symbols):
        if symbol in _SCHEDULER:
            return tuple(symbols[:index])
    return tuple(symbols)


def reason(symbols: Iterable[str], state: int, flags: int = 0) -> str:
    """Return what a thread that left its CPU waited for, by its kernel stack and its state.

    A runnable one waited for a CPU. Where no symbol tells more, an uninterruptible wait is one for
    a disk, and a poll that ended by its time-out was a sleep.
    """
    if state == _RUNNABLE:
        return RUN_QUEUE
    stack = tuple(symbols)
    if state & _UNINTERRUPTIBLE and _any(stack, _DISK_SYMBOLS):
        return DISK
    if flags & FLAG_TIMED_OUT and _any(stack, _ON_TIME_OUT) and not _any(stack, _BY_SYMBOL[0][1]):
        return SLEEP
    for name, beginnings in _BY_SYMBOL:
        if _any(stack, beginnings):
            return name
    return DISK if state & _UNINTERRUPTIBLE else WAIT


def _any(stack: tuple[str, ...], beginnings: tuple[str, ...]) -> bool:
    return any(symbol.startswith(beginnings) for symbol in stack)


def by_reason(total: WaitSum, why: str) -> Mapping[str, tuple[int, int]]:
    """Return reason -> (waits, ns): the time after the wake-up is the run queue's."""
    parts: dict[str, tuple[int, int]] = {}
    if total.blocked_ns:
        parts[why] = (total.waits, total.blocked_ns)
    if total.queued_ns:
        parts[RUN_QUEUE] = (total.queued, total.queued_ns)
    return parts
