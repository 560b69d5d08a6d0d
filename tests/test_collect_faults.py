"""The eBPF collector when something breaks: killed, stopped, full, twice, a thousand times."""

import contextlib
import json
import mmap
import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest
from tracing import BOTH, OFF_CPU, needs_bpf, off_cpu_ns, sampling, script, tell

from ci_flame.collect.ebpf import collector as ebpf
from ci_flame.collect.ebpf import names, off_cpu, sampler
from ci_flame.collect.ebpf.libbpf import BpfObject
from ci_flame.errors import CollectError
from ci_flame.profile import Mode

pytestmark = needs_bpf

ROOT = Path(__file__).parent.parent


def busy(seconds):
    end = time.process_time() + seconds
    while time.process_time() < end:
        sum(range(1000))


class InProcess:
    """The real sampler without a process around it, with maps as small as a test wants."""

    def __init__(self, modes, machine, sizes):
        self.sampler = sampler.Sampler(
            os.getpid(),
            frequency_hz=4999,
            python=True,
            modes=modes,
            machine=machine,
            load=lambda programs, without: BpfObject(sampler.OBJECT, programs, without, sizes),
        )
        memory = mmap.mmap(self.sampler.phase_descriptor, mmap.PAGESIZE)
        self.word = memoryview(memory).cast("Q")

    def window(self, work, phase=1):
        self.word[0] = phase
        work()
        self.word[0] = 0
        return self.sampler.read({phase: time.monotonic_ns()})


@contextlib.contextmanager
def in_process(modes=BOTH, *, machine=False, **sizes):
    made = InProcess(modes, machine, sizes)
    try:
        yield made
    finally:
        made.sampler.close()


def waits(reply):
    return sum(number for _, _, number, _ in reply["off_cpu"])


def samples(reply):
    return sum(count for _, _, count in reply["samples"])


def test_a_collector_that_is_killed_stops_the_recording_and_not_the_benchmark():
    with sampling(modes=BOTH, machine=True) as session:
        session.set_phase(1)
        busy(0.1)
        session._process.kill()
        session._process.wait()
        busy(0.1)
        time.sleep(0.01)
        session.set_phase(0)
        session.set_phase(2)
        with pytest.raises(CollectError, match="the collector process ended"):
            session.read()


@pytest.mark.parametrize("modes", [OFF_CPU, BOTH])
def test_a_target_that_is_killed_leaves_what_it_did_until_then(tmp_path, modes):
    body = "def work(): time.sleep(0.2); time.sleep(60)"
    with (
        script(tmp_path, body) as process,
        sampling(process.pid, modes=modes, roots=(str(tmp_path),)) as session,
    ):
        session.set_phase(1)
        tell(process)
        time.sleep(0.5)
        process.send_signal(signal.SIGKILL)
        process.wait()
        session.set_phase(0)
        recording = session.read()

    slept = off_cpu_ns(recording, "target:main", "target:work", reasons=["[sleep]"])
    assert 0.35e9 < slept < 5e9
    assert recording.lost == 0


def test_a_full_ring_buffer_is_counted():
    with in_process({Mode.ON_CPU}, ring=4096) as made:
        reply = made.window(lambda: busy(0.5))  # nothing is taken meanwhile
        again = made.window(lambda: busy(0.01), phase=2)

    assert reply["lost"] > 0
    assert samples(reply) + reply["lost"] == reply["metrics"]["collector.ticks"]
    assert again["lost"] < again["metrics"]["collector.ticks"]


def naps():
    for _ in range(50):
        time.sleep(0.0005)
    threads = [threading.Thread(target=time.sleep, args=(0.02,)) for _ in range(4)]
    for each in threads:
        each.start()
    for each in threads:
        each.join()


def test_waits_that_the_map_has_no_room_for_come_one_by_one():
    with in_process(OFF_CPU, waits=1) as made:
        full = made.window(naps)
    with in_process(OFF_CPU) as made:
        roomy = made.window(naps)

    assert full["lost"] == full["metrics"]["collector.lost_waits"] == 0
    assert len(full["off_cpu"]) > 2
    assert full["metrics"]["collector.events"] > roomy["metrics"]["collector.events"]
    slept = [
        sum(
            number
            for _, stack, number, _ in reply["off_cpu"]
            if reply["frames"][reply["stacks"][stack][-1]][2] == "[sleep]"
        )
        for reply in (full, roomy)
    ]
    assert slept == [54, 54]


def test_waits_that_nothing_has_room_for_are_counted():
    with in_process(OFF_CPU, waits=1, ring=4096) as made:
        reply = made.window(lambda: [naps() for _ in range(3)])

    assert reply["metrics"]["collector.lost_waits"] > 0
    assert reply["lost"] == reply["metrics"]["collector.lost_waits"]
    assert waits(reply) > 0


def test_threads_that_wait_beside_more_than_the_map_holds_are_counted():
    with in_process(OFF_CPU, machine=True, open_waits=1, queued_threads=1) as made:
        reply = made.window(naps)

    assert reply["metrics"]["collector.lost_waits"] > 0
    assert reply["metrics"]["collector.lost_latencies"] >= 0
    assert reply["lost"] == reply["metrics"]["collector.lost_waits"]


def test_children_that_do_not_fit_are_counted():
    def fork_two():
        for _ in range(2):
            pid = os.fork()
            if not pid:
                os._exit(0)
            os.waitpid(pid, 0)

    with in_process({Mode.ON_CPU}, processes=1) as made:
        reply = made.window(lambda: (busy(0.05), fork_two()))

    assert reply["metrics"]["collector.untracked"] == 2


def test_stacks_beyond_the_limit_are_unknown_and_flagged(monkeypatch):
    monkeypatch.setattr(names, "MOST_RECORDS", 3)
    with in_process({Mode.ON_CPU}) as made:
        reply = made.window(lambda: busy(0.2))

    assert reply["metrics"]["collector.stacks_full"] > 0
    assert samples(reply) == reply["metrics"]["collector.ticks"]
    assert any(frame[2] == "[unknown]" for frame in reply["frames"])


def test_places_beyond_the_limit_are_unknown_and_flagged(monkeypatch):
    monkeypatch.setattr(sampler, "MOST_PLACES", 2)
    monkeypatch.setattr(off_cpu, "MOST_PLACES", 1)
    with in_process(BOTH) as made:
        reply = made.window(lambda: (busy(0.2), naps()))

    assert reply["metrics"]["collector.stacks_full"] > 0
    assert samples(reply) == reply["metrics"]["collector.ticks"]
    unknown = [
        count
        for _, stack, count in reply["samples"]
        if [reply["frames"][each][2] for each in reply["stacks"][stack]] == ["[unknown]"]
    ]
    assert sum(unknown) == reply["metrics"]["collector.stacks_full"]
    assert reply["metrics"]["collector.lost_waits"] > 0


def test_nothing_is_flagged_where_there_is_room():
    with in_process(BOTH, machine=True) as made:
        reply = made.window(lambda: (busy(0.1), naps()))

    assert "collector.stacks_full" not in reply["metrics"]
    assert reply["lost"] == 0
    assert reply["metrics"]["collector.lost_latencies"] == 0


def test_two_recordings_at_once_do_not_disturb_each_other(tmp_path):
    body = "def work(): time.sleep(0.3)"
    with (
        script(tmp_path, body) as process,
        sampling(process.pid, modes=BOTH, machine=True, roots=(str(tmp_path),)) as other,
        sampling(modes=BOTH, machine=True) as own,
    ):
        other.set_phase(4)
        own.set_phase(1)
        tell(process)
        busy(0.1)
        assert process.stdout.readline() == "done\n"
        own.set_phase(0)
        own_recording = own.read()
        own.close()
        other.set_phase(0)
        recording = other.read()

    assert off_cpu_ns(recording, "target:work", phase=4) >= 0.29e9
    assert set(recording.off_cpu) == {4}
    assert off_cpu_ns(own_recording, "target:work") == 0
    assert set(own_recording.off_cpu) == {1}
    assert own_recording.metrics["collector.bpf_ns"] > 0
    assert recording.metrics["collector.bpf_ns"] > 0  # the other's end did not switch it off


def programs_of(pid):
    """Return id -> name of the BPF programs that a process holds and the kernel knows."""
    held = set()
    for each in Path(f"/proc/{pid}/fdinfo").iterdir():
        with contextlib.suppress(OSError):
            lines = dict(line.split(":", 1) for line in each.read_text().splitlines())
            if "prog_id" in lines:
                held.add(int(lines["prog_id"]))
    return {number: name for number, name in all_programs().items() if number in held}


def all_programs():
    done = subprocess.run(
        ["bpftool", "prog", "show", "-j"], capture_output=True, text=True, check=True
    )
    return {program["id"]: program.get("name", "") for program in json.loads(done.stdout)}


def test_when_the_parent_is_killed_everything_is_as_it_was(tmp_path):
    settings = [
        Path("/proc/sys/kernel") / name
        for name in ("bpf_stats_enabled", "perf_event_max_sample_rate", "perf_event_paranoid")
    ]
    before = [each.read_text() for each in settings]
    file = tmp_path / "parent.py"
    file.write_text(
        "import os, sys, time\n"
        "from ci_flame.collect import COLLECTORS, Target\n"
        "from ci_flame.profile import Mode\n"
        "session = COLLECTORS['ebpf'].start(\n"
        "    Target(os.getpid(), python=True, modes=frozenset(Mode), machine=True))\n"
        "session.set_phase(1)\n"
        "print(session._process.pid, flush=True)\n"
        "time.sleep(60)\n"
    )
    with subprocess.Popen(
        [sys.executable, str(file)], stdout=subprocess.PIPE, text=True, cwd=ROOT
    ) as parent:
        collector = int(parent.stdout.readline())
        held = programs_of(collector)
        during = [each.read_text() for each in settings]
        parent.kill()
    deadline = time.monotonic() + 10
    while Path(f"/proc/{collector}").exists() and time.monotonic() < deadline:
        time.sleep(0.02)

    assert {"on_sample", "off_cpu_switch", "block_io_issue"} <= set(held.values())
    assert not Path(f"/proc/{collector}").exists()
    assert not set(held) & set(all_programs())
    assert before == during == [each.read_text() for each in settings]


def state_of(pid):
    status = Path(f"/proc/{pid}/status").read_text()
    resident = next(line for line in status.splitlines() if line.startswith("VmRSS:"))
    return len(list(Path(f"/proc/{pid}/fd").iterdir())), int(resident.split()[1])


def test_a_thousand_short_benchmarks_in_one_session():
    with sampling(modes=BOTH, machine=True) as session:
        pid = session._process.pid
        kept = lost = 0
        for phase in range(1, 1001):
            session.set_phase(phase)
            time.sleep(0.0005)
            sum(range(2000))
            session.set_phase(0)
            recording = session.read()
            kept += off_cpu_ns(recording, "test_collect_faults:" + HERE, phase=phase) > 0
            lost += recording.lost
            assert set(recording.off_cpu) <= {phase}
            if phase == 200:
                early = state_of(pid)
                own_early = len(list(Path("/proc/self/fd").iterdir()))
        late = state_of(pid)
        own_late = len(list(Path("/proc/self/fd").iterdir()))

    assert kept >= 990  # a switch that the kernel does not report may hide one
    assert lost == 0
    assert late[0] == early[0]
    assert own_late == own_early
    assert late[1] - early[1] < 6 << 10  # KiB


HERE = "test_a_thousand_short_benchmarks_in_one_session"


def test_a_collector_that_hangs_for_a_while_is_waited_for():
    with sampling(modes=BOTH) as session:
        session.set_phase(1)
        busy(0.1)
        session.set_phase(0)
        os.kill(session._process.pid, signal.SIGSTOP)
        timer = threading.Timer(1.0, os.kill, (session._process.pid, signal.SIGCONT))
        timer.start()
        try:
            recording = session.read()
        finally:
            timer.join()

    assert sum(recording.samples[1].values()) > 0
    assert recording.lost == 0


HANG_SECONDS = 30


def test_a_collector_that_hangs_for_30_s_loses_nothing_uncounted():
    """The benchmark goes on at its pace; what the full ring had no room for is counted."""
    with sampling(modes=BOTH, hz=4999) as session:
        pid = session._process.pid
        session.set_phase(1)
        busy(0.2)
        os.kill(pid, signal.SIGSTOP)
        try:
            end = time.monotonic() + HANG_SECONDS
            while time.monotonic() < end:
                busy(0.5)
                time.sleep(0.01)
            session.set_phase(0)
            timer = threading.Timer(0.5, os.kill, (pid, signal.SIGCONT))
            timer.start()
            hung = session.read()  # asked while it still hangs
            timer.join()
        finally:
            os.kill(pid, signal.SIGCONT)
        session.set_phase(2)
        busy(0.5)
        time.sleep(0.01)
        session.set_phase(0)
        after = session.read()

    kept = sum(hung.samples[1].values())
    assert kept > 1000
    assert hung.lost > 0
    assert (
        kept + hung.lost - hung.metrics["collector.lost_waits"] == hung.metrics["collector.ticks"]
    )
    assert off_cpu_ns(hung) > 0
    assert sum(after.samples[2].values()) == after.metrics["collector.ticks"]
    assert set(after.samples) == {2}
    assert after.lost == 0


def test_a_collector_that_hangs_for_good_is_named_and_ended(monkeypatch):
    monkeypatch.setattr(ebpf, "READ_SECONDS", 0.5)
    monkeypatch.setattr(ebpf, "CLOSE_SECONDS", 2.5)
    with sampling() as session:
        pid = session._process.pid
        os.kill(pid, signal.SIGSTOP)
        with pytest.raises(CollectError, match="the collector process did not answer in time"):
            session.read()
        session.close()

    assert not Path(f"/proc/{pid}").exists()
