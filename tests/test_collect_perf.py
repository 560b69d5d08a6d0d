"""The perf collector: a real program with known shares, and every way in which it cannot."""

import contextlib
import os
import shutil
import signal
import subprocess
import sys
from collections import Counter
from dataclasses import replace
from pathlib import Path

import pytest

from ci_flame.collect import COLLECTORS, Target, choose, machine, perf
from ci_flame.errors import CollectError
from ci_flame.profile import fold

DATA = Path(__file__).parent / "data" / "perf_script"
MACHINE = machine.probe()

LAUNCHER = "import os, sys; sys.stdin.read(1); os.execv(sys.argv[1], sys.argv[1:])"


@pytest.fixture(scope="session")
def tree(tmp_path_factory):
    """The C program of tests/data, whose functions do 1, 1 and 2 parts of the work."""
    if shutil.which("gcc") is None:
        pytest.skip("gcc is not installed")
    program = tmp_path_factory.mktemp("tree") / "tree"
    subprocess.run(
        ["gcc", "-O0", "-fno-omit-frame-pointer", DATA / "tree.c", "-o", program], check=True
    )
    return program


needs_perf = pytest.mark.skipif(
    COLLECTORS["perf"].obstacle(MACHINE, python=False) is not None,
    reason="perf cannot record here",
)


@contextlib.contextmanager
def waiting(*command):
    """A process that becomes the command when a byte comes."""
    child = subprocess.Popen(
        [sys.executable, "-I", "-S", "-c", LAUNCHER, *map(str, command)], stdin=subprocess.PIPE
    )
    try:
        yield child
    finally:
        if child.poll() is None:
            child.kill()
        child.wait()
        child.stdin.close()


def go(child):
    child.stdin.write(b"x")
    child.stdin.flush()


def children_of_perf():
    """Folders and processes that a session may leave behind."""
    here = str(os.getpid())
    left = []
    for status in Path("/proc").glob("[0-9]*/stat"):
        with contextlib.suppress(OSError):
            name, _, rest = status.read_text().rpartition(")")
            if rest.split()[1] == here and name.endswith("(perf") and rest.split()[0] != "Z":
                left.append(name)
    return left


# --- for real ---------------------------------------------------------------------------------


@pytest.mark.root
@needs_perf
def test_functions_of_a_program_and_its_child_have_their_shares(tree):
    with waiting(tree, 100_000_000) as child:
        session = choose(MACHINE, python=False, wanted="perf").start(
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
    assert child.returncode == 0
    costs = Counter()
    for stack, samples in recording.samples[1].items():
        assert str(stack[0]) == "[tree]", "the launcher is left out"
        for frame in set(stack):
            costs[str(frame)] += samples
    total = sum(recording.samples[1].values())
    expected = (usage.ru_utime + usage.ru_stime) * 1e9 / recording.period_ns

    assert recording.period_ns == 500_250
    assert recording.lost == 0
    # The launcher's start is in the CPU time and not in the samples.
    assert 0.80 <= total / expected <= 1.05
    assert costs["native:tree:spin"] / total == pytest.approx(1.0, abs=0.06)
    for function, share in (("heavy", 0.5), ("light", 0.25), ("child", 0.25)):
        assert costs[f"native:tree:{function}"] / total == pytest.approx(share, abs=0.08)
    assert again.samples == {}
    assert not list(Path(session._folder.parent).glob(session._folder.name))
    assert children_of_perf() == []


@pytest.mark.root
@needs_perf
def test_child_that_outlives_the_command_does_not_hold_the_session(tree, tmp_path):
    """perf itself would wait for the last process of the tree; `read` ends it."""
    told = tmp_path / "pid"
    with waiting("/bin/sh", "-c", f"{tree} 2000000; sleep 30 & echo $! > {told}") as child:
        session = COLLECTORS["perf"].start(Target(child.pid, python=False))
        try:
            go(child)
            child.wait(20)
            recording = session.read()
        finally:
            session.close()
            os.kill(int(told.read_text()), signal.SIGKILL)

    assert any("native:tree:spin" in fold(stack) for stack in recording.samples[1])


@pytest.mark.root
@needs_perf
def test_session_that_is_closed_unread_leaves_nothing(tree):
    with waiting(tree, 1) as child:
        session = COLLECTORS["perf"].start(Target(child.pid, python=False))
        folder = session._folder
        assert folder.is_dir()
        session.close()
        session.close()

    assert not folder.exists()
    assert children_of_perf() == []


@pytest.mark.root
@needs_perf
def test_process_that_is_gone_is_refused_in_one_sentence():
    child = subprocess.Popen(["true"])
    child.wait()

    with pytest.raises(CollectError, match=r"perf record could not start: .*it ended: ") as error:
        COLLECTORS["perf"].start(Target(child.pid, python=False))
    assert "\n" not in error.value.message
    assert error.value.exit_code == 3


@pytest.mark.root
@needs_perf
def test_recording_past_its_limit_is_refused(tree, monkeypatch):
    monkeypatch.setattr(perf, "MAX_DATA", 1 << 20)
    with waiting(tree, 400_000_000) as child:
        session = COLLECTORS["perf"].start(Target(child.pid, python=False, frequency_hz=20_000))
        try:
            go(child)
            child.wait(60)
            with pytest.raises(CollectError, match="the recording reached its limit of 1 MB"):
                session.read()
        finally:
            session.close()


def test_perf_script_that_says_nothing_is_given_up(tmp_path, monkeypatch):
    program = tmp_path / "perf"
    program.write_text("#!/bin/sh\nexec sleep 60\n")
    program.chmod(0o755)
    monkeypatch.setattr(perf, "SCRIPT_SECONDS", 0.3)
    session = perf.PerfSession(str(program), Target(os.getpid(), python=False), "cpu-clock")
    try:
        with pytest.raises(CollectError, match="perf script did not end within 0 s"):
            session._script()
    finally:
        session.close()


@pytest.mark.root
@needs_perf
def test_first_perf_that_works_is_used(tree, tmp_path, monkeypatch):
    """Ubuntu's wrapper fails where linux-tools of this very kernel is missing."""
    wrapper = tmp_path / "perf"
    wrapper.write_text("#!/bin/sh\necho 'WARNING: perf not found for kernel 6.8' >&2\nexit 2\n")
    wrapper.chmod(0o755)
    monkeypatch.setattr(machine, "perf_paths", lambda: (str(wrapper), *MACHINE.perf))
    with waiting(tree, 3_000_000) as child:
        session = COLLECTORS["perf"].start(Target(child.pid, python=False))
        try:
            go(child)
            child.wait(20)
            assert session.read().samples[1]
        finally:
            session.close()

    monkeypatch.setattr(machine, "perf_paths", lambda: (str(wrapper),))
    with pytest.raises(CollectError, match=r"WARNING: perf not found for kernel 6\.8"):
        COLLECTORS["perf"].start(Target(os.getpid(), python=False))


# --- refusals ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("changes", "python", "reason"),
    [
        ({}, True, "perf sees no Python frames"),
        ({"system": "Darwin"}, False, "perf is Linux's, this is Darwin"),
        ({"perf": ()}, False, "no perf program that works is installed"),
        (
            {"perf_event_error": "EACCES", "perf_event_paranoid": 4},
            False,
            "perf events cannot be opened (EACCES, kernel.perf_event_paranoid is 4)",
        ),
    ],
)
def test_obstacles_have_a_cure(changes, python, reason):
    usual = {"system": "Linux", "perf": ("/usr/bin/perf",), "perf_event_error": ""}
    found = replace(MACHINE, **{**usual, **changes})
    obstacle = COLLECTORS["perf"].obstacle(found, python=python)

    assert obstacle.reason == reason
    assert obstacle.cure
    with pytest.raises(CollectError, match="no collector can record"):
        choose(found, python=python, wanted="perf")


def test_no_obstacle_on_a_usual_machine():
    usual = replace(MACHINE, system="Linux", perf=("/usr/bin/perf",), perf_event_error="")

    assert COLLECTORS["perf"].obstacle(usual, python=False) is None


def test_python_target_is_refused_with_the_cure():
    with pytest.raises(CollectError, match="perf sees no Python frames") as error:
        COLLECTORS["perf"].start(Target(1, python=True))
    assert "ebpf" in error.value.hint


@pytest.mark.parametrize("frequency_hz", [0, 20_001])
def test_frequency_is_limited(frequency_hz):
    with pytest.raises(CollectError, match=f"{frequency_hz} Hz; perf samples at 1 to 20000 Hz"):
        COLLECTORS["perf"].start(Target(1, python=False, frequency_hz=frequency_hz))


@pytest.mark.parametrize(
    ("uid", "paranoid", "event"),
    [(0, "4", "cpu-clock"), (1000, "1", "cpu-clock"), (1000, "2", "cpu-clock:u")],
)
def test_user_without_privileges_samples_user_code(monkeypatch, uid, paranoid, event):
    monkeypatch.setattr(perf.os, "geteuid", lambda: uid)
    monkeypatch.setattr(perf.Path, "read_text", lambda *_args, **_named: paranoid)

    assert COLLECTORS["perf"].event == event


# --- from perf's text to samples ------------------------------------------------------------------

HEAD = "tree 7/7 3.1: cpu-clock: \n\t1 main (/bin/tree)\n\n"
LAUNCH = "python3 7/7 3.0: cpu-clock: \n\t1 launch (/bin/python3)\n\n"
CHILD = "tree 8/8 3.2: cpu-clock: \n\t1 child.cold (/bin/tree)\n\n"
EXEC = "tree 7/7 3.05: PERF_RECORD_COMM exec: tree:7/7\n"
OTHER_EXEC = "tree 8/8 3.15: PERF_RECORD_COMM exec: tree:8/8\n"


def gathered(text, depth=127):
    found = perf.gather(text.splitlines(), 7, depth)
    return {fold(stack): samples for stack, samples in found.samples.items()}


def test_samples_of_the_launcher_are_left_out():
    assert gathered(LAUNCH * 2 + EXEC + HEAD * 3 + CHILD) == {
        "[tree];native:tree:main": 3,
        "[tree];native:tree:child": 1,
    }


def test_process_that_never_becomes_another_is_kept_whole():
    assert gathered(LAUNCH + OTHER_EXEC + CHILD) == {
        "[python3];native:python3:launch": 1,
        "[tree];native:tree:child": 1,
    }


def test_command_that_becomes_another_program_again_is_kept():
    again = "sh 7/7 3.3: PERF_RECORD_COMM exec: sh:7/7\n"

    assert gathered(EXEC + HEAD + again + HEAD.replace("tree 7", "sh 7")) == {
        "[tree];native:tree:main": 1,
        "[sh];native:tree:main": 1,
    }


@pytest.mark.parametrize(("depth", "root", "truncated"), [(2, "[tree]", 0), (1, "[truncated]", 1)])
def test_stack_as_deep_as_the_limit_has_lost_its_root(depth, root, truncated):
    found = perf.gather((EXEC + HEAD).splitlines(), 7, depth)
    (stack,) = found.samples

    assert found.truncated == truncated
    assert root in {str(stack[0]), str(stack[1])}
    assert fold(stack).endswith("native:tree:main")


def test_losses_are_counted():
    lost = "tree 7/7 [000] 3.3: PERF_RECORD_LOST lost 23\n"
    found = perf.gather((EXEC + HEAD + lost * 2).splitlines(), 7, 127)

    assert found.lost == 46


def test_stored_recording():
    found = perf.gather((DATA / "tree.txt").read_text().splitlines(), -1, 127)
    costs = Counter()
    for stack, samples in found.samples.items():
        costs[next(str(f) for f in stack[3:])] += samples

    assert costs == {"native:tree:child": 15, "native:tree:heavy": 32, "native:tree:light": 16}
