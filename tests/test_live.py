"""Processes that run already: all of their tree is sampled, in slices, and nothing else."""

import os
import shutil
import signal
import subprocess
import sys
import time
from contextlib import contextmanager, suppress
from dataclasses import replace
from pathlib import Path

import pytest
from click.testing import CliRunner
from test_cli import call

from ci_flame import pipeline
from ci_flame.baseline import folder
from ci_flame.cli import cli
from ci_flame.cli.pieces import duration_s
from ci_flame.collect import COLLECTORS, Target, machine
from ci_flame.config import RecordConfig
from ci_flame.config.scripts import Script
from ci_flame.errors import CollectError, UsageError
from ci_flame.policy import Policy
from ci_flame.profile import Frame, Kind, Mode
from ci_flame.record import jit_maps, live, live_target
from ci_flame.record.jit import Jit
from ci_flame.verdict import Outcome

PLAN = RecordConfig(frequency_hz=999, busy=1.0)  # however busy the tests' machine is
NOBODY = 65534

FAMILY = """
import os, sys, threading, time

def spin_parent():
    while True:
        sum(i * i for i in range(1000))

def spin_child():
    while True:
        sum(i * i for i in range(1000))

def spin_thread():
    while True:
        sum(i * i for i in range(1000))

def idle():
    while True:
        time.sleep(0.05)

for work in (spin_child, idle):
    if os.fork() == 0:
        work()
threading.Thread(target=spin_thread, daemon=True).start()
print("ready", flush=True)
spin_parent()
"""


def samples(recorder):
    """Tell whether this recorder's collector process has started."""
    for pid in live_target.by_pid(recorder).members():
        with suppress(OSError):
            if b"collect.ebpf" in Path(f"/proc/{pid}/cmdline").read_bytes():
                return True
    return False


def usable(name, *, python):
    return name in COLLECTORS and COLLECTORS[name].obstacle(machine.probe(), python=python) is None


needs_perf = [
    pytest.mark.root,
    pytest.mark.skipif(not usable("perf", python=False), reason="no perf here"),
]
needs_ebpf = [
    pytest.mark.root,
    pytest.mark.skipif(not usable("ebpf", python=True), reason="no eBPF here"),
]


def children(pid):
    return [int(word) for word in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]


@pytest.fixture
def start(tmp_path):
    """Start a Python program that says `ready`; it and what it has forked end with the test."""
    started = []

    def begin(text, *words):
        script = tmp_path / f"target{len(started)}.py"
        script.write_text(text)
        process = subprocess.Popen(
            [sys.executable, str(script), *words], stdout=subprocess.PIPE, process_group=0
        )
        started.append(process)
        assert process.stdout.readline() == b"ready\n"
        return process

    yield begin
    for process in started:
        with suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()
        process.stdout.close()


SERVE = """
import sys, time

def handle(size):
    return sum(i * i for i in range(size))

def rest():
    return sum(range(60_000))

def serve(size):
    while True:
        handle(size)
        rest()
        time.sleep(0.01)

print("ready", flush=True)
serve(int(sys.argv[1]))
"""
ENDS = """
import sys, time
print("ready", flush=True)
end = time.monotonic() + float(sys.argv[1])
while time.monotonic() < end:
    sum(range(10_000))
"""


# -- who is refused -------------------------------------------------------------------


@pytest.mark.parametrize(
    ("pid", "message"),
    [
        (4_194_304, "process 4194304 does not exist"),
        (2, r"process 2 \(kthreadd\) is a thread of the kernel"),
        (os.getpid(), "is ci-flame itself: ci-flame would record its own work"),
        (os.getppid(), "is the process that started ci-flame: ci-flame would record its own work"),
    ],
)
def test_a_process_that_is_refused(pid, message):
    if pid == 2 and "kthreadd" not in Path("/proc/2/comm").read_text():
        pytest.skip("no kernel threads in this PID namespace")
    with pytest.raises((UsageError, CollectError), match=message):
        live_target.by_pid(pid)


@pytest.mark.parametrize(
    "word", ["0", "", "-1", "12x", "4194305", "1" * 5000, "0" * 10 + "9" * 5000]
)
def test_what_is_no_number_of_a_process(word):
    shown = CliRunner().invoke(cli, ["record", "--pid", word])

    assert isinstance(shown.exception, UsageError)
    assert "is not the number of a process" in shown.exception.message


def test_a_thread_is_refused_with_its_process(start):
    process = start(
        "import threading, time\n"
        "threading.Thread(target=time.sleep, args=(60,), daemon=True).start()\n"
        "print('ready', flush=True); time.sleep(60)"
    )
    threads = [int(each.name) for each in Path(f"/proc/{process.pid}/task").iterdir()]
    (other,) = set(threads) - {process.pid}

    with pytest.raises(UsageError, match=f"{other} is a thread of process {process.pid}") as raised:
        live_target.by_pid(other)
    assert raised.value.hint == f"give --pid {process.pid}"


def test_a_zombie_is_refused():
    process = subprocess.Popen(["true"])
    os.waitid(os.P_PID, process.pid, os.WEXITED | os.WNOWAIT)
    try:
        with pytest.raises(CollectError, match=r"process \d+ \(true\) has ended"):
            live_target.by_pid(process.pid)
    finally:
        process.wait()


@pytest.mark.root
@pytest.mark.skipif(os.geteuid() != 0, reason="needs root to become somebody else")
def test_another_users_process_is_refused_by_name():
    """As nobody: init's maps are root's."""
    code = (
        "import os\n"
        "from ci_flame.record import live_target\n"
        f"os.setgroups([]); os.setuid({NOBODY})\n"
        "try: live_target._must_be_allowed(1, 'process 1 (init)')\n"
        "except Exception as error: print(error)"
    )
    told = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True
    ).stdout

    assert "process 1 (init) belongs to root, not to nobody" in told
    assert "sudo ci-flame record" in told


@pytest.mark.parametrize("place", ["no/such", "", "..", "/etc", "../../etc", "a\0b"])
def test_what_is_no_cgroup_is_refused(place):
    with pytest.raises(UsageError, match=r"is not a cgroup: no .* in it or below"):
        live_target.by_cgroup(place)


def test_a_cgroup_without_processes_is_refused(tmp_path):
    (tmp_path / "cgroup.procs").write_text("")

    with pytest.raises(CollectError, match="holds no process"):
        live_target.by_cgroup(str(tmp_path))


def test_a_cgroup_with_ci_flame_in_it_is_refused(tmp_path):
    (tmp_path / "below").mkdir()
    (tmp_path / "cgroup.procs").write_text("0\n")
    (tmp_path / "below" / "cgroup.procs").write_text(f"{os.getpid()}\n")

    with pytest.raises(UsageError, match="holds ci-flame itself"):
        live_target.by_cgroup(str(tmp_path))


@pytest.mark.parametrize(
    ("seconds", "message"),
    [
        (2, "--duration of 2 s; 3 s to 3600 s are possible"),
        (3, "has ended"),
        (3600, "has ended"),
        (3601, "--duration of 3601 s; 3 s to 3600 s are possible"),
    ],
)
def test_the_duration_has_bounds(seconds, message):
    gone = live_target.LiveTarget("process 1 (x)", "x", tuple)

    with pytest.raises((UsageError, CollectError), match=message):
        live.record(PLAN, gone, "x", seconds)


@pytest.mark.parametrize(
    ("text", "expected"), [("30", 30), ("30s", 30), ("2m", 120), ("1h", 3600), ("0", 0)]
)
def test_durations(text, expected):
    assert duration_s(text) == expected


def test_the_duration_of_a_command_is_refused_with_both_ways_that_have_one():
    done = call("record", "--duration", "5s", "--", "true", check=2)

    assert "ci-flame: --duration is for what runs already; a command runs to its end" in done.stderr
    assert "  hint: say what runs already by --pid PID or --cgroup PATH, or leave" in done.stderr


@pytest.mark.parametrize("text", ["", "s", "-1", "1.5s", "1d", "1 s", "1000000", "٣", "1s\n"])
def test_what_is_no_duration(text):
    with pytest.raises(UsageError, match="is not a time"):
        duration_s(text)


# -- who is meant ---------------------------------------------------------------------


def test_all_descendants_are_members(family):
    process, kin = family
    target = live_target.by_pid(process.pid)

    assert set(target.members()) == {process.pid, *kin}
    assert target.name.startswith("pid:")
    assert target.label.startswith(f"process {process.pid} (")
    assert live_target.python_version(process.pid) is not None
    assert live_target.python_version(1) is None or os.geteuid() != 0


def test_a_target_of_too_many_processes_is_refused(family, monkeypatch):
    process, kin = family
    target = live_target.by_pid(process.pid)

    monkeypatch.setattr(live_target, "MAX_PROCESSES", 1 + len(kin))
    assert len(target.members()) == 1 + len(kin)
    monkeypatch.setattr(live_target, "MAX_PROCESSES", len(kin))
    with pytest.raises(UsageError, match=f"has {1 + len(kin)} processes; the limit is {len(kin)}"):
        target.members()


BURNS = """
import os, resource, sys

def burn(number):
    for _ in range(number):
        sum(range(20_000))

print("ready", flush=True)
sys.stdin.readline()
for _ in range(4):
    if os.fork() == 0:
        burn(300)
        os._exit(0)
    os.wait()
burn(300)
used = [resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
print(sum(each.ru_utime + each.ru_stime for each in used), flush=True)
sys.stdin.readline()
"""


def test_children_that_end_are_in_the_sum(tmp_path):
    """Metered all along, some children seen alive and others not: nothing is counted twice."""
    process = subprocess.Popen(
        [sys.executable, "-c", BURNS], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    with process:
        assert process.stdout.readline() == "ready\n"
        target = live_target.by_pid(process.pid)
        meter = live_target.Meter()
        metered = meter.since(target.members())[0]
        process.stdin.write("go\n")
        process.stdin.flush()
        os.set_blocking(process.stdout.fileno(), False)
        while not (told := process.stdout.readline()):
            metered += meter.since(target.members())[0]
            time.sleep(0.005)
        metered += meter.since(target.members())[0]
        process.stdin.close()

    # The kernel tells children's times in hundredths of a second.
    assert metered / 1e9 == pytest.approx(float(told), rel=0.1, abs=0.05)


# -- for real -------------------------------------------------------------------------


@pytest.fixture
def family(start):
    """A Python process with a busy thread, a busy child and an idle one, all running."""
    process = start(FAMILY)
    return process, children(process.pid)


class TestEbpf:
    pytestmark = needs_ebpf

    def test_processes_that_run_already_are_sampled_together(self, family):
        process, kin = family
        session = COLLECTORS["ebpf"].start(
            Target(pid=process.pid, pids=tuple(kin), python=True, frequency_hz=999)
        )
        try:
            session.set_phase(1)
            time.sleep(1.0)
            session.set_phase(0)
            recording = session.read()
        finally:
            session.close()

        seen = {frame.function for stack in recording.samples[1] for frame in stack}
        assert {"spin_parent", "spin_child", "spin_thread"} <= seen
        roots = {stack[0] for stack in recording.samples[1]}
        assert Frame("<module>", "target0") in roots

    def test_slices_are_rounds(self, family):
        process, _ = family
        target = live_target.by_pid(process.pid)
        run = live.record(PLAN, target, "family", 3)

        (measurement,) = run.measurements
        (only,) = measurement.processes
        assert run.complete
        assert run.environment.collector == "ebpf"
        assert run.environment.python_minor == live_target.python_version(process.pid)
        assert len(only.rounds) == 3
        assert all(each.references.keys() == {"core", "memory", "kernel"} for each in only.rounds)
        assert all(each.profiles for each in only.rounds)
        assert only.kept > 0.8 * only.expected > 0
        names = {frame.function for stack in measurement.profile().stacks for frame in stack}
        assert {"spin_parent", "spin_child", "spin_thread"} <= names
        assert not any(
            frame.function.startswith("/") for s in measurement.profile().stacks for frame in s
        )

    def test_it_ends_with_the_target(self, start, capsys):
        target = live_target.by_pid(start(ENDS, "6").pid)
        run = live.record(PLAN, target, "ends", 30)

        assert run.complete
        number = len(run.measurements[0].processes[0].rounds)
        assert 3 <= number <= 6
        assert f"ended after {number} of 30 s" in capsys.readouterr().err

    def test_a_target_that_ends_too_soon_leaves_nothing(self, start):
        target = live_target.by_pid(start(ENDS, "2").pid)

        with pytest.raises(CollectError, match=r"ended after \d whole s; at least 3 are needed"):
            live.record(PLAN, target, "ends", 30)

    def test_a_target_that_sleeps_has_no_sample(self, start):
        target = live_target.by_pid(
            start("import time; print('ready', flush=True); time.sleep(60)").pid
        )

        with pytest.raises(CollectError, match=r"no sample in 3 s, in which it used \d+\.\d ms"):
            live.record(PLAN, target, "sleeps", 3)

    def test_a_canary_is_compared_with_its_sibling(self, start):
        runs = []
        for size in ("20000", "20000", "400000"):
            process = start(SERVE, size)
            runs.append(live.record(PLAN, live_target.by_pid(process.pid), "serve", 5))
            process.kill()

        same, grown = (pipeline.compare(runs[0], each, Policy()) for each in runs[1:])
        assert same.outcome is not Outcome.FAIL
        assert grown.outcome is Outcome.FAIL
        assert "handle" in str(grown.benchmarks[0].findings[0])

    def test_ctrl_c_keeps_what_was_recorded(self, start, tmp_path):
        target = start(SERVE, "20000")
        command = [sys.executable, "-m", "ci_flame", "record", "--pid", str(target.pid)]
        recorder = subprocess.Popen(
            [*command, "-o", "run"], cwd=tmp_path, stderr=subprocess.PIPE, text=True
        )
        deadline = time.monotonic() + 60
        while not samples(recorder.pid) and time.monotonic() < deadline:
            time.sleep(0.1)
        time.sleep(5)
        recorder.send_signal(signal.SIGINT)
        told = recorder.communicate(timeout=60)[1]

        assert "interrupted; the run is marked incomplete" in told
        assert recorder.returncode == 130
        run = folder.load(tmp_path / "run", incomplete_ok=True)
        assert not run.complete
        assert run.measurements[0].processes[0].rounds
        assert target.poll() is None

    def test_a_cgroup(self, start):
        process = start(SERVE, "50000")
        with cgroup(process.pid) as place:
            target = live_target.by_cgroup(str(place))
            assert target.members() == (process.pid,)
            assert target.name == f"cgroup:{place.name}"
            run = live.record(PLAN, target, "group", 3)
            names = {f.function for s in run.measurements[0].profile().stacks for f in s}
            assert "handle" in names
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()
            assert target.members() == ()


@contextmanager
def cgroup(pid):
    """Yield a new cgroup with one process, below the first hierarchy that takes one."""
    for top in (live_target.CGROUPS, *sorted(live_target.CGROUPS.iterdir())):
        place = top / f"ci-flame-test-{os.getpid()}"
        try:
            if not (top / "cgroup.procs").exists():
                continue
            place.mkdir()
            (place / "cgroup.procs").write_text(str(pid))
        except OSError:
            with suppress(OSError):
                place.rmdir()
            continue
        try:
            yield place
        finally:
            for each in live_target.cgroup_members(place):
                (top / "cgroup.procs").write_text(str(each))
            place.rmdir()
        return
    pytest.skip("no cgroup can be made here")


@contextmanager
def spinning_shell(program="while :; do :; done"):
    process = subprocess.Popen(["sh", "-c", program], process_group=0)
    try:
        yield live_target.by_pid(process.pid)
    finally:
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()


class TestPerf:
    pytestmark = needs_perf

    def test_a_native_process_and_its_child(self):
        process = subprocess.Popen(
            ["sh", "-c", "(while :; do :; done) & while :; do :; done"], process_group=0
        )
        try:
            time.sleep(0.2)
            target = live_target.by_pid(process.pid)
            assert len(target.members()) == 2
            run = live.record(PLAN, target, target.name, 3)
        finally:
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()

        assert run.environment.collector == "perf"
        only = run.measurements[0].processes[0]
        assert only.kept > 0.8 * only.expected
        assert all(each.profiles for each in only.rounds)

    def test_it_counts_the_event_that_is_asked_for(self, capsys):
        scripts = (Script("switches", "BEGIN { }"),)
        with spinning_shell() as target:
            plan = replace(PLAN, event="task-clock", scripts=scripts)
            run = live.record(plan, target, target.name, 3)

        assert (
            "1 bpftrace scripts of the policy run beside commands only" in capsys.readouterr().err
        )
        assert (run.environment.collector, run.environment.event) == ("perf", "task-clock")

    def test_bpftrace_knows_no_slices_and_is_refused(self):
        with spinning_shell() as target, pytest.raises(UsageError, match="knows one window"):
            live.record(replace(PLAN, collector="bpftrace"), target, target.name, 3)

    @pytest.mark.skipif(not usable("ebpf", python=False), reason="no eBPF here")
    def test_waiting_is_recorded_by_ebpf(self):
        with spinning_shell("while :; do sleep 0.05; done") as target:
            plan = replace(PLAN, modes=(Mode.OFF_CPU,))
            run = live.record(plan, target, target.name, 3)

        assert run.environment.collector == "ebpf"
        assert run.measurements[0].profile(Mode.OFF_CPU).value > 0

    @pytest.mark.java
    @pytest.mark.skipif(not shutil.which("javac"), reason="no JDK here")
    def test_a_jvm_is_asked_for_its_map(self, tmp_path, capsys):
        source = Path(__file__).parent / "data" / "jit" / "Shop.java"
        subprocess.run(["javac", "-d", tmp_path, source], check=True)
        for flags, told in (
            (["-XX:+PreserveFramePointer"], ""),
            ([], "runs without -XX:+PreserveFramePointer: callers are missing; start it with"),
        ):
            process = subprocess.Popen(["java", *flags, "-cp", tmp_path, "Shop", "1000000000", "4"])
            try:
                time.sleep(1)
                target = live_target.by_pid(process.pid)
                run = live.record(PLAN, target, "shop", 3, Jit.JAVA)
            finally:
                process.kill()
                process.wait()

            assert told in capsys.readouterr().err
            names = {f.function for s in run.measurements[0].profile().stacks for f in s}
            assert "Shop$Weigh.run" in names
            assert not (jit_maps.FOLDER / f"perf-{process.pid}.map").exists()
            if flags:
                assert Frame("Shop.main", "", Kind.JIT) in {
                    f for s in run.measurements[0].profile().stacks for f in s
                }
