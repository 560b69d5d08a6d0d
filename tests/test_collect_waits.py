"""What a wait off the CPU was for, and the part of it that its window saw."""

import struct

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ci_flame.collect.ebpf.waits import (
    FLAG_TIMED_OUT,
    KEY,
    OpenWait,
    WaitKey,
    WaitSum,
    by_reason,
    reason,
    unpack_wait,
    without_scheduler,
)

RUNNABLE, SLEEPING, DISK = 0, 1, 2
ENTRY = "entry_SYSCALL_64_after_hwframe;do_syscall_64;"


@pytest.mark.parametrize(
    ("stack", "state", "flags", "expected"),
    [
        # Kernel stacks as recorded, outermost first.
        ("common_nsleep;hrtimer_nanosleep;do_nanosleep;schedule", SLEEPING, 0, "[sleep]"),
        ("__x64_sys_futex;do_futex;futex_wait;futex_do_wait;schedule", SLEEPING, 0, "[lock]"),
        ("__do_sys_flock;locks_lock_inode_wait;schedule", SLEEPING, 0, "[lock]"),
        ("do_fcntl;fcntl_setlk;posix_lock_inode_wait;schedule", SLEEPING, 0, "[lock]"),
        ("do_fsync;ext4_sync_file;folio_wait_writeback;io_schedule;schedule", DISK, 0, "[disk]"),
        ("do_fsync;submit_bio_wait;io_schedule_timeout;schedule_timeout", DISK, 0, "[disk]"),
        ("ext4_sync_file;jbd2_log_wait_commit;schedule", DISK, 0, "[disk]"),
        ("exc_page_fault;rwsem_down_read_slowpath;schedule", DISK, 0, "[lock]"),
        ("ext4_file_write_iter;down_write;rwsem_down_write_slowpath", DISK, 0, "[lock]"),
        ("__do_sys_vfork;kernel_clone;wait_for_vfork_done;schedule", DISK, 0, "[wait]"),
        ("ksys_read;pipe_read;schedule", SLEEPING, 0, "[wait]"),
        ("__do_sys_wait4;kernel_wait4;do_wait;schedule", SLEEPING, 0, "[wait]"),
        ("do_epoll_wait;schedule_hrtimeout_range", SLEEPING, 0, "[wait]"),
        ("do_epoll_wait;schedule_hrtimeout_range", SLEEPING, FLAG_TIMED_OUT, "[sleep]"),
        ("do_sys_poll;schedule_hrtimeout_range", SLEEPING, 0, "[wait]"),
        ("do_sys_poll;schedule_hrtimeout_range", SLEEPING, FLAG_TIMED_OUT, "[sleep]"),
        ("do_futex;futex_wait;schedule", SLEEPING, FLAG_TIMED_OUT, "[lock]"),
        ("ksys_read;pipe_read;schedule", SLEEPING, FLAG_TIMED_OUT, "[wait]"),
        # Who can run waits for a CPU, whatever stands on its stack.
        ("asm_sysvec_apic_timer_interrupt;irqentry_exit;schedule", RUNNABLE, 0, "[run queue]"),
        ("do_fsync;folio_wait_writeback;io_schedule", RUNNABLE, 0, "[run queue]"),
        # Without symbols (no cap_syslog) the state decides.
        ("[unknown];[unknown]", SLEEPING, 0, "[wait]"),
        ("[unknown];[unknown]", DISK, 0, "[disk]"),
        ("", SLEEPING, 0, "[wait]"),
        ("", 4, 0, "[wait]"),  # stopped
    ],
)
def test_the_reason(stack, state, flags, expected):
    assert reason((ENTRY + stack).split(";"), state, flags) == expected


@pytest.mark.parametrize(
    ("stack", "expected"),
    [
        ("do_nanosleep;schedule;__schedule;bpf_trampoline", "do_nanosleep"),
        ("futex_wait;schedule_timeout;schedule;__schedule", "futex_wait;schedule_timeout"),
        ("irqentry_exit;preempt_schedule_irq;__schedule", "irqentry_exit"),
        ("do_nanosleep;hrtimer_nanosleep", "do_nanosleep;hrtimer_nanosleep"),
        ("__schedule", ""),
        ("", ""),
    ],
)
def test_the_scheduler_is_no_part_of_the_stack(stack, expected):
    assert ";".join(without_scheduler(stack.split(";"))) == expected


def key(state=SLEEPING):
    return WaitKey(flags=0, state=state, phase=3, image=1, stack=5, address=6, kernel=7)


@pytest.mark.parametrize(
    ("state", "woken", "end", "expected"),
    [
        (SLEEPING, 9_000, 10_000, WaitSum(1, 8_000, 1, 1_000)),
        (SLEEPING, 0, 10_000, WaitSum(1, 9_000, 0, 0)),  # still waiting when its window ended
        (SLEEPING, 9_000, 5_000, WaitSum(1, 4_000, 0, 0)),  # woken after that
        (SLEEPING, 500, 10_000, WaitSum(1, 0, 1, 9_000)),  # a wake-up from before it left
        (RUNNABLE, 0, 10_000, WaitSum(1, 0, 1, 9_000)),
        (RUNNABLE, 9_000, 10_000, WaitSum(1, 0, 1, 9_000)),  # what can run is not woken
        (SLEEPING, 0, 2_000, WaitSum(1, 1_000, 0, 0)),
        (SLEEPING, 0, 1_999, None),  # below 1 us
        (SLEEPING, 0, 500, None),  # the window ended before
    ],
)
def test_the_part_inside_the_window(state, woken, end, expected):
    assert OpenWait(1_000, woken, key(state)).until(end) == expected


@given(
    state=st.sampled_from([RUNNABLE, SLEEPING, DISK]),
    woken=st.integers(0, 1 << 62),
    since=st.integers(1, 1 << 62),
    end=st.integers(0, 1 << 62),
)
def test_both_parts_of_a_wait_are_the_wait(state, woken, since, end):
    part = OpenWait(since, woken, key(state)).until(end)

    if part is None:
        assert end - since < 1000
        return
    assert part.blocked_ns >= 0
    assert part.queued_ns >= 0
    assert part.blocked_ns + part.queued_ns == end - since
    assert sum(ns for _, ns in by_reason(part, "[lock]").values()) == end - since


@pytest.mark.parametrize(
    ("total", "expected"),
    [
        (WaitSum(3, 500, 2, 40), {"[lock]": (3, 500), "[run queue]": (2, 40)}),
        (WaitSum(3, 500, 0, 0), {"[lock]": (3, 500)}),
        (WaitSum(3, 0, 3, 40), {"[run queue]": (3, 40)}),
    ],
)
def test_the_time_after_the_wake_up_is_the_run_queue_s(total, expected):
    assert by_reason(total, "[lock]") == expected


def test_a_wait_record_is_read_as_the_program_writes_it():
    packed = KEY.pack(*key())
    record = struct.pack("<IIQQQQ", 9, 1, 30, 10, 20, 5) + packed

    assert unpack_wait(record) == (OpenWait(10, 20, key()), 30, True)
    assert len(packed) == 48
