"""The bpftrace collector: a real program with known shares, and every way in which it cannot."""

import os
import signal
import subprocess
import sys
import time
from collections import Counter
from dataclasses import replace
from pathlib import Path

import pytest
from full_disk import little_room
from test_cli import call
from test_collect_perf import go, tree, waiting

from ci_flame.baseline import folder
from ci_flame.collect import COLLECTORS, Target, choose, machine, process_tree
from ci_flame.collect.bpftrace import collector as bpftrace
from ci_flame.collect.bpftrace import process as bpftrace_process
from ci_flame.collect.bpftrace.collector import Seen, gather
from ci_flame.collect.bpftrace.process import Program
from ci_flame.errors import CollectError
from ci_flame.formats.bpftrace import Entry, Map, Output, Trace
from ci_flame.profile import Mode, fold

assert tree  # a fixture

MACHINE = machine.probe()
OBSTACLE = COLLECTORS["bpftrace"].obstacle(MACHINE, python=False)
for_real = [
    pytest.mark.root,
    pytest.mark.skipif(OBSTACLE is not None, reason=f"bpftrace: {OBSTACLE and OBSTACLE.reason}"),
]
TICKS = "interval:ms:10 { @n = count(); }\n"


def marked(function):
    for mark in for_real:
        function = mark(function)
    return function


@pytest.fixture
def program(tmp_path):
    """A function that makes a program of a text; all are ended afterwards."""
    made = []

    def make(text, *arguments):
        file = tmp_path / f"p{len(made)}.bt"
        file.write_text(text)
        made.append(Program("ticks", file, arguments))
        return made[-1]

    yield make
    for each in made:
        each.close()


def running(part):
    """Return the processes whose command line holds these words."""
    found = []
    for file in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            words = file.read_bytes().replace(b"\0", b" ").decode(errors="replace")
        except OSError:
            continue
        if part in words and "-m pytest" not in words:
            found.append(int(file.parent.name))
    return found


def gone(part, seconds=15.0):
    deadline = time.monotonic() + seconds
    while running(part) and time.monotonic() < deadline:
        time.sleep(0.05)
    return not running(part)


# -- for real -------------------------------------------------------------------------


@marked
def test_functions_of_a_program_and_its_child_have_their_shares(tree):
    with waiting(tree, 300_000_000) as child:
        session = choose(MACHINE, python=False, wanted="bpftrace").start(
            Target(child.pid, python=False, frequency_hz=1999)
        )
        try:
            session.set_phase(1)
            go(child)
            _, status, usage = os.wait4(child.pid, 0)
            child.returncode = os.waitstatus_to_exitcode(status)
            session.set_phase(0)
            recording = session.read()
            again = session.read()
        finally:
            session.close()
    costs = Counter()
    for stack, samples in recording.samples[1].items():
        assert str(stack[0]) == "[tree]", "the launcher is left out"
        for frame in set(stack):
            costs[str(frame)] += samples
    total = sum(recording.samples[1].values())
    expected = (usage.ru_utime + usage.ru_stime) * 1e9 / recording.period_ns

    assert (recording.period_ns, recording.lost, dict(again.samples)) == (500_250, 0, {})
    # The launcher's start is in the CPU time and not in the samples.
    assert 0.80 <= total / expected <= 1.05
    assert costs["native:tree:spin"] / total == pytest.approx(1.0, abs=0.06)
    # One process after the other: heavy, then light. The child runs beside them, at the speed of
    # another CPU, which a busy virtual machine may be slowed down on.
    heavy, light, child_s = (costs[f"native:tree:{name}"] for name in ("heavy", "light", "child"))
    assert heavy / light == pytest.approx(2.0, rel=0.3)
    assert child_s / total == pytest.approx(0.25, abs=0.12)
    assert heavy + light + child_s == pytest.approx(total, rel=0.06)
    assert recording.metrics["collector.unnamed_processes"] == 0
    # Each sample is a run of a program; its time is charged to the sampled process.
    runs = {name: n for name, n in recording.metrics.items() if name.endswith(".runs")}
    assert max(runs.values()) >= total
    assert recording.metrics["collector.bpf_ns"] > 100 * max(runs.values())
    assert recording.metrics["collector.window_cpu_ns"] >= 0
    assert Path("/proc/sys/kernel/bpf_stats_enabled").read_text() == "0\n"


PRINTS_FOR_LONG = """
import signal, sys, time
heard = []
signal.signal(signal.SIGINT, lambda *_: heard.append(1))
print("ready", flush=True)
while not heard:
    time.sleep(0.01)
signal.signal(signal.SIGINT, signal.SIG_DFL)  # as bpftrace: a second one ends it
time.sleep(3)
print("maps", flush=True)
"""


@marked
def test_bpftrace_that_prints_for_long_is_not_interrupted():
    guard = Path(bpftrace_process.__file__).with_name("guard.py")
    with subprocess.Popen(
        [*(sys.executable, "-I", "-S", guard, "30", sys.executable, "-c", PRINTS_FOR_LONG)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    ) as started:
        assert started.stdout.readline() == "ready\n"
        started.stdin.close()

        assert started.stdout.readline() == "maps\n"
        assert started.wait(20) == 0


CROWD = """
import subprocess, sys, time
sys.stdin.read(1)
crowd = [subprocess.Popen(["sleep", "2"]) for _ in range(int(sys.argv[1]))]
for each in crowd:
    each.wait()
"""


@marked
@pytest.mark.parametrize(("number", "unfollowed"), [(8, 0), (12, 4)])
def test_processes_that_the_map_has_no_room_for_are_counted(monkeypatch, number, unfollowed):
    monkeypatch.setattr(bpftrace_process, "MAX_KEYS", 8)
    with subprocess.Popen(
        [sys.executable, "-I", "-S", "-c", CROWD, str(number)], stdin=subprocess.PIPE
    ) as child:
        session = COLLECTORS["bpftrace"].start(Target(child.pid, python=False))
        try:
            go(child)
            child.wait(60)
            recording = session.read()
        finally:
            session.close()
            child.kill()

    assert recording.metrics["collector.untracked"] == unfollowed
    told = "4 threads or processes, and what they started, were not sampled: bpftrace's map of"
    assert [note.startswith(told) for note in recording.notes] == [True] * (unfollowed > 0)


@marked
def test_stacks_that_the_map_has_no_room_for_are_counted(tree, monkeypatch):
    monkeypatch.setattr(bpftrace_process, "MAX_KEYS", 8)
    with waiting(tree, 300_000_000) as child:
        session = COLLECTORS["bpftrace"].start(Target(child.pid, python=False))
        try:
            go(child)
            _, _, usage = os.wait4(child.pid, 0)
            child.returncode = 0
            recording = session.read()
        finally:
            session.close()
    kept = sum(recording.samples[1].values())
    expected = (usage.ru_utime + usage.ru_stime) * 1e9 / recording.period_ns

    assert len(recording.samples[1]) <= 8
    assert recording.lost > 0.1 * expected
    assert 0.80 <= (kept + recording.lost) / expected <= 1.05


@marked
def test_a_target_that_is_killed_keeps_its_samples(tree):
    with waiting(tree, 2 * 10**9) as child:
        session = COLLECTORS["bpftrace"].start(Target(child.pid, python=False))
        try:
            go(child)
            time.sleep(0.8)
            child.kill()
            child.wait()
            recording = session.read()
        finally:
            session.close()

    total = sum(recording.samples[1].values())
    spun = sum(n for s, n in recording.samples[1].items() if "native:tree:spin" in map(str, s))
    assert total > 200
    assert spun > 0.8 * total


@marked
def test_a_process_that_runs_already_and_another_one(tree):
    """A live target keeps its name from before; further roots are sampled as well."""
    with waiting(tree, 2 * 10**9) as one, waiting(tree, 2 * 10**9) as other:
        go(one)
        go(other)
        time.sleep(0.3)
        _, *more = process_tree.tree((one.pid, other.pid))
        session = COLLECTORS["bpftrace"].start(Target(one.pid, python=False, pids=tuple(more)))
        try:
            time.sleep(1.0)
            recording = session.read()
        finally:
            session.close()

    total = sum(recording.samples[1].values())
    assert len(more) == 3  # each has a child, which does the work first
    assert total > 500
    assert all(str(stack[0]) == "[tree]" for stack in recording.samples[1])


@marked
def test_a_command_from_end_to_end(tree, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    words = ("--collector", "bpftrace", "--repeat", "1", "-o", "run", "--name", "x")
    call("record", *words, "--", tree, "20000000", check=0)
    run = folder.load(tmp_path / "run")
    (process,) = run.measurements[0].processes

    assert (run.environment.collector, run.environment.event) == ("bpftrace", "cpu-clock")
    assert process.kept == pytest.approx(process.expected, rel=0.2)

    told = call("record", *words, "--", sys.executable, "-c", "pass", check=3)
    assert "bpftrace sees no Python frames" in told.stderr


@marked
def test_maps_are_read_at_the_end(program):
    ticks = program(TICKS)
    ticks.start()
    time.sleep(0.3)
    output = ticks.finish()

    assert output.probes == 1
    assert output.maps[0].entries[0].value > 5


@marked
def test_maps_that_the_disk_has_no_room_for_are_an_error(program, tmp_path, monkeypatch):
    """bpftrace does not look whether it could write."""
    with little_room(tmp_path / "small", monkeypatch, "12k") as small:
        ticks = program("interval:ms:1 { @times[nsecs, nsecs, nsecs] = count(); }")
        ticks.start()
        time.sleep(1)
        with pytest.raises(
            CollectError, match=r"what bpftrace printed is cut off after \d+ "
        ) as error:
            ticks.finish()
        assert error.value.hint == f"is there room in {small}?"
        ticks.close()
        assert list(small.iterdir()) == []


@marked
def test_a_program_that_ends_by_itself_is_no_error(program):
    ticks = program("interval:ms:1 { @n = count(); exit(); }")
    ticks.start()
    time.sleep(0.3)

    assert ticks.finish().maps[0].entries[0].value >= 1


@marked
def test_arguments_and_the_last_probe(program):
    """END is attached when all is over; nobody may wait for it."""
    ticks = program("interval:ms:10 { @n[$1] = count(); } END { @over = count(); }", "7")
    started = time.monotonic()
    ticks.start()
    assert time.monotonic() - started < bpftrace_process.START_SECONDS / 2
    time.sleep(0.1)

    assert [each.name for each in ticks.finish().maps] == ["@n", "@over"]


@marked
@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("interval:ms:10 {\n @[comm = count(); }", "line 2): syntax error, unexpected ="),
        ("tracepoint:nope:x { @ = count(); }", "line 1): tracepoint not found: nope:x"),
        ('interval:ms:10 { system("id"); }', "is an unsafe function"),
    ],
)  # fmt: skip
def test_a_program_that_does_not_compile_says_so_in_bpftraces_words(program, text, message):
    broken = program(text)
    broken.shown = "ci-flame.yml:7"
    with pytest.raises(CollectError) as caught:
        broken.start()

    assert caught.value.message.startswith("ticks (ci-flame.yml:7")
    assert message in caught.value.message
    assert "\n" not in caught.value.message


@marked
def test_tracepoints_are_found_where_nobody_mounted_them(tmp_path):
    """In a mount namespace without tracefs; the machine's own mounts stay as they are."""
    file = tmp_path / "switches.bt"
    file.write_text("tracepoint:sched:sched_switch { @[comm] = count(); }")
    before = Path("/proc/mounts").read_text()
    code = (
        "import sys, time; from pathlib import Path\n"
        "from ci_flame.collect.bpftrace.process import Program\n"
        "assert not Path('/sys/kernel/tracing/events').exists()\n"
        f"p = Program('switches', Path({str(file)!r})); p.start(); time.sleep(0.3)\n"
        "o = p.finish(); p.close(); print(len(o.maps[0].entries))\n"
    )
    hide = (
        "mount -t tmpfs none /sys/kernel/tracing && mount -t tmpfs none /sys/kernel/debug;"
        ' exec "$@"'
    )
    done = subprocess.run(
        ["unshare", "--mount", "sh", "-c", hide, "sh", sys.executable, "-c", code],
        capture_output=True, text=True, timeout=60, check=False,
    )  # fmt: skip

    assert done.returncode == 0, done.stderr
    assert int(done.stdout) > 2
    assert Path("/proc/mounts").read_text() == before


# -- faults ---------------------------------------------------------------------------


@marked
def test_bpftrace_does_not_outlive_a_killed_owner(tmp_path):
    file = tmp_path / "orphan.bt"
    file.write_text(TICKS)
    code = (
        "import sys, time; from pathlib import Path\n"
        "from ci_flame.collect.bpftrace.process import Program\n"
        f"p = Program('orphan', Path({str(file)!r})); p.start(); print('ready', flush=True)\n"
        "time.sleep(60)\n"
    )
    with subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE) as owner:
        assert owner.stdout.readline() == b"ready\n"
        assert running(str(file))
        owner.kill()

    assert gone(str(file))


@marked
@pytest.mark.parametrize(
    ("number", "message"),
    [
        (signal.SIGKILL, r"bpftrace was killed \(or hung\); its maps are lost"),
        (signal.SIGSTOP, r"bpftrace was killed \(or hung\); its maps are lost"),
    ],
)
def test_a_bpftrace_that_is_killed_or_hangs_is_named(program, monkeypatch, number, message):
    monkeypatch.setattr(bpftrace_process, "STOP_SECONDS", 1.0)
    ticks = program(TICKS)
    ticks.start()
    (pid,) = [each for each in running("p0.bt") if _comm(each) == "bpftrace"]
    os.kill(pid, number)
    with pytest.raises(CollectError, match=message):
        ticks.finish()
    ticks.close()

    assert gone("p0.bt")


def _comm(pid):
    return Path(f"/proc/{pid}/comm").read_text().strip()


@marked
def test_a_bpftrace_that_never_gets_ready_is_named(program, monkeypatch, tmp_path):
    fake = tmp_path / "bpftrace"
    fake.write_text("#!/bin/sh\necho 'thinking about it' >&2\nsleep 60\n")
    fake.chmod(0o755)
    monkeypatch.setattr(bpftrace_process, "find", lambda: str(fake))
    monkeypatch.setattr(bpftrace_process, "START_SECONDS", 0.5)
    monkeypatch.setattr(bpftrace_process, "STOP_SECONDS", 0.5)
    slow = program(TICKS)

    with pytest.raises(CollectError, match="was not ready within 0 s: thinking about it"):
        slow.start()
    slow.close()
    assert gone("p0.bt")


def test_what_is_missing_is_named(program, monkeypatch):
    monkeypatch.setattr(bpftrace_process, "find", lambda: "/usr/bin/bpftrace")
    monkeypatch.setattr(bpftrace_process, "privileged", lambda: None)
    with pytest.raises(CollectError, match="bpftrace runs as root only"):
        program(TICKS).start()

    monkeypatch.setattr(bpftrace_process, "find", lambda: "")
    with pytest.raises(CollectError, match="not installed\n  hint: sudo apt-get install"):
        program(TICKS).start()


# -- what it cannot -------------------------------------------------------------------


@pytest.mark.parametrize(
    ("changes", "python", "found", "reason"),
    [
        ({"system": "Darwin"}, False, "/x", "bpftrace is Linux's, this is Darwin"),
        ({}, True, "/x", "bpftrace sees no Python frames"),
        ({}, False, "", "bpftrace is not installed"),
        ({"root": False, "sudo": False}, False, "/x", "bpftrace runs as root only"),
        ({"root": False, "sudo": True}, False, "/x", None),
        ({"root": True, "bpf_error": "No"}, False, "/x", "BPF does not load: No"),
        ({"root": True, "bpf_error": ""}, False, "/x", None),
    ],
)
def test_obstacles(monkeypatch, changes, python, found, reason):
    monkeypatch.setattr(bpftrace_process, "find", lambda: found)
    monkeypatch.setattr(bpftrace, "_FIRST_NAMESPACE", Path("/proc/self/ns/pid").stat().st_ino)
    given = replace(MACHINE, **{"system": "Linux", **changes})
    obstacle = COLLECTORS["bpftrace"].obstacle(given, python=python)

    assert (obstacle and obstacle.reason) == reason


def test_another_pid_namespace_is_an_obstacle(monkeypatch):
    monkeypatch.setattr(bpftrace_process, "find", lambda: "/x")
    monkeypatch.setattr(bpftrace, "_FIRST_NAMESPACE", 1)
    given = replace(MACHINE, system="Linux", root=True, bpf_error="")

    assert "PID namespace" in COLLECTORS["bpftrace"].obstacle(given, python=False).reason


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"python": True}, "bpftrace sees no Python frames"),
        ({"modes": frozenset({Mode.OFF_CPU})}, "off-cpu was asked for"),
        ({"modes": frozenset(Mode)}, "off-cpu was asked for"),
        ({"frequency_hz": 0}, "0 Hz; bpftrace samples at 1 to 20000 Hz"),
        ({"frequency_hz": 20_001}, "20001 Hz; bpftrace samples at 1 to 20000 Hz"),
    ],
)
def test_targets_that_are_refused(changes, message):
    with pytest.raises(CollectError, match=message):
        COLLECTORS["bpftrace"].start(replace(Target(os.getpid(), python=False), **changes))


def test_it_is_never_chosen_by_itself(monkeypatch):
    monkeypatch.setattr(bpftrace_process, "find", lambda: "/x")
    hopeless = replace(MACHINE, perf=(), bpf_error="no", btf=False, libbpf="")
    with pytest.raises(CollectError) as caught:
        choose(hopeless, python=False)

    assert "bpftrace" not in caught.value.message


# -- naming ---------------------------------------------------------------------------


def printed(*entries):
    return Output((Map("@samples", tuple(Entry(key, count) for key, count in entries)),))


def folded(output, seen):
    gathered = gather(output, seen)
    return {fold(stack): count for stack, count in gathered.samples.items()}, gathered


def test_our_own_addresses_are_named():
    """By the mappings of this process: the interpreter's own functions."""
    seen = Seen((os.getpid(),))
    seen.look()
    pid = str(os.getpid())
    elsewhere = Trace(("10 sym ([unknown])",))
    found, gathered = folded(
        printed(
            ((pid, Trace(()), elsewhere, "a"), 3),
            (("99999999", Trace(("ffffffff816a4d8c vfs_read+60",)), elsewhere, "b", "c"), 4),
            ((pid, Trace(()), Trace(()), "a"), 5),
        ),
        seen,
    )

    assert found == {"[a];[unknown]": 3, "[b,c];[unknown];kernel:vfs_read": 4, "[a]": 5}
    assert gathered.unnamed == {99999999}


def test_the_launcher_is_left_out():
    seen = Seen((7,))
    seen.launchers.add((7, "python3"))
    output = printed(
        (("7", Trace(()), Trace(()), "python3"), 3),
        (("7", Trace(()), Trace(()), "tree"), 4),
        (("8", Trace(()), Trace(()), "python3"), 5),
    )

    assert folded(output, seen)[0] == {"[tree]": 4, "[python3]": 5}


@pytest.mark.parametrize(("depth", "truncated"), [(126, 0), (127, 2)])
def test_stacks_at_the_limit_are_truncated(depth, truncated):
    lines = Trace(
        tuple(f"{address:x} f ([unknown])" for address in range(0x10000, 0x10000 + depth))
    )
    found, gathered = folded(printed((("7", Trace(()), lines, "x"), 2)), Seen((7,)))

    assert gathered.truncated == truncated
    assert next(iter(found)).startswith("[truncated]") == bool(truncated)


@pytest.mark.parametrize(
    "key", [("7", "x"), ("seven", Trace(()), Trace(()), "x"), ("7", "a", Trace(()), "x")]
)
def test_keys_that_are_not_ours_are_refused(key):
    with pytest.raises(CollectError, match="bpftrace printed a key that is not ours"):
        gather(printed((key, 1)), Seen((7,)))
