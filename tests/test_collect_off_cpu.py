"""Off-CPU recordings of real processes, against what the programs measured themselves."""

import asyncio
import fcntl
import os
import queue
import socket
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest
from tracing import (
    BOTH,
    OFF_CPU,
    needs_bpf,
    off_cpu_ns,
    reasons,
    record,
    record_script,
    run_delay_ns,
    sampling,
)

from ci_flame.collect import COLLECTORS, Target
from ci_flame.errors import CollectError
from ci_flame.profile import Kind, Weight

pytestmark = needs_bpf

SELF = "test_collect_off_cpu"
ALL = ("[sleep]", "[lock]", "[disk]", "[run queue]", "[wait]")


class Clocks:
    """What the program itself measures of its waits: wall time that was not CPU time."""

    def __init__(self):
        self.off_ns = 0

    def measure(self, call, *arguments):
        cpu, wall = time.thread_time_ns(), time.perf_counter_ns()
        call(*arguments)
        self.off_ns += time.perf_counter_ns() - wall - (time.thread_time_ns() - cpu)


@pytest.mark.parametrize("modes", [OFF_CPU, BOTH])
def test_twenty_sleeps_of_10_ms(modes):
    clocks = Clocks()
    delays = []

    def sleeper():
        delays.append(run_delay_ns())
        for _ in range(20):
            clocks.measure(time.sleep, 0.01)
        delays.append(run_delay_ns())

    recording = record(sleeper, modes=modes)

    path = (f"{SELF}:test_twenty_sleeps_of_10_ms.<locals>.sleeper", f"{SELF}:Clocks.measure")
    measured = clocks.off_ns
    asleep = off_cpu_ns(recording, *path, "kernel:do_nanosleep", reasons=["[sleep]"])
    assert off_cpu_ns(recording, *path) == pytest.approx(measured, rel=0.05)
    asleep_only = measured - (delays[1] - delays[0])
    assert asleep == pytest.approx(asleep_only, abs=0.05 * measured)
    assert reasons(recording)["[sleep]"] == (20, asleep)
    assert set(reasons(recording)) <= {"[sleep]", "[run queue]"}
    assert recording.lost == 0
    assert ("collector.bpf.on_sample.runs" in recording.metrics) == (modes == BOTH)


def test_a_contended_lock_is_charged_to_who_waits_for_it():
    lock, held, clocks = threading.Lock(), threading.Event(), Clocks()

    def hold():
        with lock:
            held.set()
            end = time.perf_counter() + 0.3
            while time.perf_counter() < end:
                pass

    def waiter():
        clocks.measure(lock.acquire)
        lock.release()

    def work():
        holder = threading.Thread(target=hold)
        holder.start()
        held.wait()
        waiter()
        holder.join()

    recording = record(work)

    path = f"{SELF}:test_a_contended_lock_is_charged_to_who_waits_for_it.<locals>.waiter"
    assert clocks.off_ns > 200e6
    assert off_cpu_ns(recording, path) == pytest.approx(clocks.off_ns, rel=0.05)
    assert off_cpu_ns(recording, path, reasons=["[lock]"]) > 0.8 * clocks.off_ns
    assert off_cpu_ns(recording, path, reasons=["[sleep]", "[disk]", "[wait]"]) == 0


@pytest.fixture
def disk():
    """A folder on a real disk; a file in memory would wait for nothing."""
    for candidate in (Path("/var/tmp"), Path.home(), Path(__file__).parent):  # noqa: S108 - read below
        kind = subprocess.run(
            ["stat", "-f", "-c", "%T", candidate], capture_output=True, text=True, check=True
        ).stdout.strip()
        if kind not in ("tmpfs", "ramfs", "overlayfs"):
            file = candidate / f"ci_flame_fsync_{os.getpid()}"
            yield file
            file.unlink(missing_ok=True)
            return
    pytest.fail("no folder on a disk to test with")


def test_thirty_fsyncs_of_64_kb(disk):
    clocks = Clocks()
    delays = []

    def writer():
        delays.append(run_delay_ns())
        with disk.open("wb", buffering=0) as file:
            for _ in range(30):
                file.write(b"x" * 65536)
                clocks.measure(os.fsync, file.fileno())
        delays.append(run_delay_ns())

    recording = record(writer)

    path = (f"{SELF}:test_thirty_fsyncs_of_64_kb.<locals>.writer", f"{SELF}:Clocks.measure")
    waited = off_cpu_ns(recording, *path)
    waits = sum(count for count, _ in reasons(recording).values())
    # A wait begins where the kernel takes the thread off the CPU; the thread's own CPU clock runs
    # on while its stack is walked. On a fast disk a wait is so short that this is seen.
    walks = 20e3 * waits
    assert 0.95 * clocks.off_ns <= waited <= 1.05 * clocks.off_ns + walks
    assert off_cpu_ns(recording, *path, reasons=["[disk]", "[run queue]"]) > 0.95 * waited
    # The rest is the run queue's; it holds the writes between the fsyncs too.
    on_disk = off_cpu_ns(recording, *path, reasons=["[disk]"])
    assert on_disk >= clocks.off_ns - (delays[1] - delays[0]) - 0.05 * clocks.off_ns
    assert reasons(recording)["[disk]"][0] >= 30


def test_other_threads_a_queue_and_a_pipe():
    def feeder(items, pipe):
        for _ in range(5):
            time.sleep(0.03)
            items.put(1)
        time.sleep(0.1)
        os.write(pipe, b"x")

    def work():
        items, (readable, writable) = queue.Queue(), os.pipe()
        thread = threading.Thread(target=feeder, args=(items, writable))
        thread.start()
        for _ in range(5):
            items.get()
        os.read(readable, 1)
        thread.join()
        os.close(readable)
        os.close(writable)

    recording = record(work)

    name = f"{SELF}:test_other_threads_a_queue_and_a_pipe.<locals>"
    # The five items and the byte are each awaited by the one while the other sleeps.
    slept = off_cpu_ns(recording, f"{name}.feeder", reasons=["[sleep]"])
    got = off_cpu_ns(recording, f"{name}.work", "queue:Queue.get", reasons=["[lock]"])
    read = off_cpu_ns(recording, f"{name}.work", "kernel:ksys_read", reasons=["[wait]"])
    # A thread that loses the CPU between arming its timer and leaving sleeps for less.
    assert slept >= 0.9 * 250e6
    assert got == pytest.approx(150e6, rel=0.35)
    assert read == pytest.approx(100e6, rel=0.35)
    assert got + read == pytest.approx(slept, rel=0.15)


def test_a_poll_that_times_out_slept_and_one_with_data_waited():
    async def doze():
        for _ in range(5):
            await asyncio.sleep(0.02)

    def wait_for_data(here, there):
        threading.Timer(0.1, there.send, (b"x",)).start()
        here.settimeout(5)  # a poll() before each recv()
        here.recv(1)

    def work():
        asyncio.run(doze())
        here, there = socket.socketpair()
        with here, there:
            wait_for_data(here, there)

    recording = record(work)

    name = f"{SELF}:test_a_poll_that_times_out_slept_and_one_with_data_waited.<locals>"
    polled = ("asyncio.runners:run", "selectors:EpollSelector.select")
    assert off_cpu_ns(recording, *polled, reasons=["[sleep]"]) >= 95e6
    assert off_cpu_ns(recording, *polled, reasons=["[wait]"]) < 20e6
    assert off_cpu_ns(recording, f"{name}.wait_for_data", reasons=["[wait]"]) > 60e6


def test_a_file_lock_is_a_lock(tmp_path):
    def work():
        with (tmp_path / "lock").open("w") as one, (tmp_path / "lock").open("w") as other:
            fcntl.flock(one, fcntl.LOCK_EX)
            release = threading.Timer(0.1, fcntl.flock, (one, fcntl.LOCK_UN))
            release.start()
            fcntl.flock(other, fcntl.LOCK_EX)
            release.join()

    recording = record(work)

    assert off_cpu_ns(recording, "native:libc:flock", reasons=["[lock]"]) > 60e6


def test_children_and_the_wait_for_them(tmp_path):
    body = """
    import subprocess
    def nap(): time.sleep(0.2)
    def work():
        pid = os.fork()
        if pid == 0:
            nap()
            os._exit(0)
        os.waitpid(pid, 0)
        subprocess.run([sys.executable, "-S", "-c", "import time; time.sleep(0.15)"], check=True)
        subprocess.run(["sleep", "0.1"], check=True)
    """
    recording = record_script(tmp_path, body)

    assert off_cpu_ns(recording, "target:work", "target:nap", reasons=["[sleep]"]) >= 200e6
    waited = off_cpu_ns(recording, "target:work", "kernel:do_wait", reasons=["[wait]"])
    assert waited > 440e6
    in_child = sum(
        weight.value
        for stack, weight in recording.off_cpu[1].items()
        if str(stack[-1]) == "[sleep]" and not any(f.kind is Kind.PYTHON for f in stack)
    )
    assert in_child >= 95e6  # of `sleep`, which is no Python
    assert off_cpu_ns(recording, "[frozen]", reasons=["[sleep]"]) == 0


def test_the_run_queue_behind_cpu_hogs_is_as_the_scheduler_counts_it():
    """Two hogs per CPU, for a second: what this thread stood in the queue is what was recorded."""
    hog = "while True: pass"
    cpus = len(os.sched_getaffinity(0))
    hogs = [subprocess.Popen([sys.executable, "-S", "-c", hog]) for _ in range(2 * cpus)]
    found = []

    def busy():
        before = run_delay_ns()
        end = time.perf_counter() + 1.0
        while time.perf_counter() < end:
            sum(range(1000))
        found.append(run_delay_ns() - before)

    try:
        recording = record(busy)
    finally:
        for each in hogs:
            each.kill()
            each.wait()

    path = f"{SELF}:test_the_run_queue_behind_cpu_hogs_is_as_the_scheduler_counts_it.<locals>.busy"
    assert found[0] > 100e6
    assert off_cpu_ns(recording, path, reasons=["[run queue]"]) == pytest.approx(found[0], rel=0.05)
    assert off_cpu_ns(recording, path) == pytest.approx(found[0], rel=0.05)


def test_only_what_begins_in_a_window_counts_and_only_as_long_as_it_is_open():
    begin, finish = threading.Event(), threading.Event()
    go = threading.Event()

    def early():
        finish.wait(10)  # begins before the window, ends after it

    def late():
        begin.set()
        go.wait(10)
        time.sleep(0.5)  # begins in the window, ends 0.3 s after it

    def still():
        go.wait(10)
        finish.wait(10)  # begins in the window and goes on when the recording is read

    threads = [threading.Thread(target=each) for each in (early, late, still)]
    try:
        with sampling() as session:
            for each in threads:
                each.start()
            begin.wait()
            time.sleep(0.1)
            opened = time.perf_counter_ns()
            session.set_phase(7)
            go.set()
            time.sleep(0.2)
            session.set_phase(0)
            window = time.perf_counter_ns() - opened
            session.set_phase(8)
            time.sleep(0.05)
            session.set_phase(0)
            time.sleep(0.5)
            first = session.read()
            finish.set()
            for each in threads:
                each.join()
            second = session.read()
    finally:
        go.set()
        finish.set()

    name = f"{SELF}:test_only_what_begins_in_a_window_counts_and_only_as_long_as_it_is_open"
    assert set(first.off_cpu) == {7, 8}
    assert off_cpu_ns(first, f"{name}.<locals>.early", phase=7) == 0
    for function in ("late", "still"):
        # The last switch-out is a moment after the window's opening, never before it.
        waited = off_cpu_ns(first, f"{name}.<locals>.{function}", phase=7)
        assert 0.8 * window < waited <= window
        assert off_cpu_ns(first, f"{name}.<locals>.{function}", phase=8) == 0
    assert off_cpu_ns(first, name, reasons=["[sleep]"], phase=8) >= 50e6
    assert second.off_cpu == {}
    assert (first.lost, second.lost) == (0, 0)


def test_a_window_that_opens_for_each_of_many_set_ups():
    """A benchmark with set-ups opens its window once per iteration."""
    with sampling() as session:
        for _ in range(200_000):
            session.set_phase(3)
            session.set_phase(0)
        session.set_phase(3)
        time.sleep(0.1)
        session.set_phase(0)
        recording = session.read()

    assert off_cpu_ns(recording, reasons=["[sleep]"], phase=3) >= 100e6


class Openings:
    """A window that opens again and again, and for how long it was open: at least and at most."""

    def __init__(self, session, phase=3):
        self._session, self._phase = session, phase
        self.least_ns = self.most_ns = 0

    def __enter__(self):
        self._before = time.monotonic_ns()
        self._session.set_phase(self._phase)
        self._opened = time.monotonic_ns()

    def __exit__(self, *_error):
        closing = time.monotonic_ns()
        self._session.set_phase(0)
        self.least_ns += closing - self._opened
        self.most_ns += time.monotonic_ns() - self._before


def spin(seconds):
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        pass


@pytest.mark.parametrize("ends", ["in an opening", "in a set-up", "in a later phase", "never"])
def test_a_wait_through_many_openings_is_as_long_as_they_were(ends):
    """A worker waits while the benchmark sets up for each iteration: that is not its time."""
    begin, finish, done = threading.Event(), threading.Event(), threading.Event()

    def worker():
        begin.wait(20)
        finish.wait(20)
        done.set()

    thread = threading.Thread(target=worker)
    with sampling() as session:
        first, openings, other = (Openings(session, phase) for phase in (3, 3, 4))
        try:
            with first:
                thread.start()
                time.sleep(0.02)
                begin.set()
                time.sleep(0.02)
            for _ in range(20):
                time.sleep(0.03)
                with openings:
                    spin(0.01)
            if ends == "in an opening":
                with first:
                    finish.set()
                    done.wait(10)
            elif ends == "in a set-up":
                time.sleep(0.03)
                finish.set()
                done.wait(10)
                with first:
                    time.sleep(0.01)
            elif ends == "in a later phase":
                with other:
                    finish.set()
                    done.wait(10)
            recording = session.read()
        finally:
            finish.set()
            thread.join()
        later = session.read()

    path = (f"{SELF}:test_a_wait_through_many_openings_is_as_long_as_they_were.<locals>.worker",)
    waited = off_cpu_ns(recording, *path, phase=3)
    # Begun in the first opening, as the thread had to start: what it waited there is not known.
    assert openings.least_ns < waited <= openings.most_ns + first.most_ns
    assert waited == pytest.approx(openings.least_ns + first.least_ns, rel=0.05, abs=30e6)
    # It may wait for the interpreter's lock there; the wait of before is not the later phase's.
    assert off_cpu_ns(recording, *path, phase=4) <= other.most_ns
    assert off_cpu_ns(later, *path, phase=3) == 0
    assert recording.lost == later.lost == 0


def test_a_wait_that_begins_in_a_set_up_begins_with_the_next_opening():
    entered, finish = threading.Event(), threading.Event()

    def worker():
        entered.set()
        finish.wait(20)

    def before_the_window():
        finish.wait(20)

    def between_two_phases():
        finish.wait(20)

    threads = [threading.Thread(target=before_the_window), threading.Thread(target=worker)]
    threads.append(threading.Thread(target=between_two_phases))
    with sampling() as session:
        first, openings, other = (Openings(session, phase) for phase in (3, 3, 4))
        try:
            threads[0].start()
            time.sleep(0.05)
            with first:
                time.sleep(0.01)
            threads[1].start()
            entered.wait(10)
            time.sleep(0.2)
            for _ in range(3):
                with openings:
                    time.sleep(0.03)
                time.sleep(0.1)
            threads[2].start()
            time.sleep(0.05)
            with other:
                time.sleep(0.03)
            recording = session.read()
        finally:
            finish.set()
            for each in threads:
                each.join() if each.ident else None

    name = f"{SELF}:test_a_wait_that_begins_in_a_set_up_begins_with_the_next_opening.<locals>"
    waited = off_cpu_ns(recording, f"{name}.worker", phase=3)
    assert openings.least_ns <= waited <= openings.most_ns
    for phase in (3, 4):
        assert off_cpu_ns(recording, f"{name}.before_the_window", phase=phase) == 0
        assert off_cpu_ns(recording, f"{name}.between_two_phases", phase=phase) == 0
    assert off_cpu_ns(recording, f"{name}.worker", phase=4) == 0


def test_waits_in_set_ups_alone_count_nothing():
    def set_up():
        time.sleep(0.02)

    def work():
        time.sleep(0.01)

    with sampling() as session:
        for _ in range(10):
            thread = threading.Thread(target=set_up)
            thread.start()
            set_up()
            thread.join()
            with Openings(session):
                work()
        recording = session.read()

    name = f"{SELF}:test_waits_in_set_ups_alone_count_nothing.<locals>"
    assert off_cpu_ns(recording, f"{name}.set_up", phase=3) == 0
    assert reasons(recording, phase=3)["[sleep]"][0] == 10
    assert off_cpu_ns(recording, f"{name}.work", phase=3) >= 100e6


def test_the_clock_of_a_phase_stands_still_while_its_window_is_closed():
    """What the BPF programs read: phase, ns closed so far, where the clock stopped, last phase."""
    with sampling() as session:
        words = []

        def switch(phase):
            before = time.monotonic_ns()
            session.set_phase(phase)
            words.append((*session._window[:4].tolist(), before, time.monotonic_ns()))

        for phase in (5, 0, 0, 5, 0, 6, 5, 0):
            switch(phase)
            time.sleep(0.001)
        session.read()
        switch(0)
        switch(5)

    opened, closed, shut, again, second, other, fresh, last, read, anew = words
    assert opened[:4] == (5, 0, 0, 5)
    assert (closed[:2], closed[3]) == ((0, 0), 5)
    assert closed[4] <= closed[2] <= closed[5]
    assert shut[:4] == closed[:4]
    assert (again[0], again[2], again[3]) == (5, 0, 5)
    assert again[4] - closed[2] <= again[1] <= again[5] - closed[2]
    assert second[4] - again[1] <= second[2] <= second[5] - again[1]
    assert second[2] - closed[2] >= 1e6
    assert other[:4] == (6, 0, 0, 6)
    assert fresh[:4] == (5, 0, 0, 5)  # an own window: another one was open meanwhile
    assert (last[0], last[3]) == (0, 5)
    assert (read[0], read[3]) == (0, 0)  # what is read does not open again
    assert anew[:4] == (5, 0, 0, 5)


def test_without_the_mode_nothing_of_it_is_loaded():
    from ci_flame.profile import Mode

    recording = record(lambda: time.sleep(0.05), modes=frozenset({Mode.ON_CPU}))

    assert recording.off_cpu == {}
    assert not [name for name in recording.metrics if "off_cpu" in name or "waits" in name]


def test_many_short_waits_are_added_up_in_the_kernel():
    """Two threads that hand over to each other 5,000 times: few records, every wait kept."""

    def work():
        ping, pong = threading.Semaphore(0), threading.Semaphore(0)

        def player():
            for _ in range(5000):
                ping.acquire()
                pong.release()

        thread = threading.Thread(target=player)
        thread.start()
        for _ in range(5000):
            ping.release()
            pong.acquire()
        thread.join()

    recording = record(work)

    waits = sum(w.samples for w in recording.off_cpu[1].values())
    assert waits + recording.metrics["collector.short_waits"] > 5000
    assert recording.metrics["collector.events"] < 2000
    assert recording.lost == recording.metrics["collector.lost_waits"] == 0
    assert all(isinstance(w, Weight) and w.value > 0 for w in recording.off_cpu[1].values())
    assert all(str(stack[-1]) in ALL for stack in recording.off_cpu[1])


def test_a_recording_of_nothing_is_refused():
    with pytest.raises(CollectError, match="no mode is asked for"):
        COLLECTORS["ebpf"].start(Target(os.getpid(), python=True, modes=frozenset()))
