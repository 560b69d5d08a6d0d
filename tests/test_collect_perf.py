"""The perf collector: a real program with known shares, and every way in which it cannot."""

import contextlib
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections import Counter
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

from ci_flame.collect import COLLECTORS, Target, choose, machine
from ci_flame.collect.perf import collector as perf
from ci_flame.collect.perf import read as perf_read
from ci_flame.collect.perf import session as perf_session
from ci_flame.collect.perf.collector import PerfCollector
from ci_flame.collect.perf.events import Event
from ci_flame.collect.perf.session import PerfProcess, Settings, Windows
from ci_flame.errors import CollectError
from ci_flame.formats import perf_data
from ci_flame.profile import Mode, fold

DATA = Path(__file__).parent / "data"
MACHINE = machine.probe()
NOBODY = 65534

LAUNCHER = "import os, sys; sys.stdin.read(1); os.execv(sys.argv[1], sys.argv[1:])"


def compiled(folder, source, *flags):
    """A C program of tests/data."""
    if shutil.which("gcc") is None:
        pytest.skip("gcc is not installed")
    program = folder / source.stem
    subprocess.run(["gcc", *flags, source, "-o", program], check=True)
    return program


@pytest.fixture(scope="session")
def tree(tmp_path_factory):
    """The C program of tests/data, whose functions do 1, 1 and 2 parts of the work."""
    folder = tmp_path_factory.mktemp("tree")
    return compiled(folder, DATA / "perf_script" / "tree.c", "-O0", "-fno-omit-frame-pointer")


@pytest.fixture(scope="session")
def bare(tmp_path_factory):
    """The same program as most are built: without frame pointers."""
    folder = tmp_path_factory.mktemp("bare")
    flags = ("-O2", "-fomit-frame-pointer", "-fno-ipa-icf")
    return compiled(folder, DATA / "perf_script" / "tree.c", *flags)


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


@contextlib.contextmanager
def attached(child, *, collector=None, **how):
    """A session on a process, closed in any case."""
    session = (collector or COLLECTORS["perf"]).start(Target(child.pid, python=False, **how))
    try:
        yield session
    finally:
        session.close()


def go(child):
    child.stdin.write(b"x")
    child.stdin.flush()


def recorded(child, **how):
    """Let a waiting process run to its end as phase 1."""
    with attached(child, **how) as session:
        session.set_phase(1)
        go(child)
        child.wait(60)
        session.set_phase(0)
        return session.read()


def costs_of(recording, phase=1):
    """Samples by function, callers included."""
    costs = Counter()
    for stack, samples in recording.samples.get(phase, {}).items():
        for frame in set(stack):
            costs[str(frame)] += samples
    return costs


def on_cpu_ns(pid):
    """CPU time of a process with one thread."""
    return int(Path(f"/proc/{pid}/schedstat").read_text().split()[0])


def children_of_perf():
    """Processes that a session may leave behind."""
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
    assert {str(stack[0]) for stack in recording.samples[1]} == {"[tree]"}, "no launcher"
    costs = costs_of(recording)
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
    assert not session._process.folder.exists()
    assert children_of_perf() == []


@pytest.mark.root
@needs_perf
def test_windows_are_cut_by_time_and_read_in_pieces():
    """One perf serves all windows; what runs outside of them is nobody's."""
    script = "import sys\nwhile True: sum(range(1000))"
    child = subprocess.Popen([sys.executable, "-I", "-S", "-c", script])
    shares = []
    try:
        with attached(child, frequency_hz=4999) as session:
            perf_pid = session._process.pid
            for _ in range(2):
                used = {}
                for phase, seconds in ((1, 0.3), (0, 0.3), (2, 0.6), (0, 0.2)):
                    session.set_phase(phase)
                    before = on_cpu_ns(child.pid)
                    time.sleep(seconds)
                    used[phase] = on_cpu_ns(child.pid) - before
                recording = session.read()
                assert set(recording.samples) == {1, 2}, (used, recording)
                assert recording.metrics["collector.window_cpu_ns"] > 0
                for phase, stacks in recording.samples.items():
                    shares.append(sum(stacks.values()) * recording.period_ns / used[phase])
            assert session._process.pid == perf_pid
            assert session.read().samples == {}, "no window since"
    finally:
        child.kill()
        child.wait()

    assert len(shares) == 4
    # The CPU clock also counts what the hypervisor took meanwhile.
    assert all(0.85 < share < 1.3 for share in shares), shares


@pytest.mark.root
@needs_perf
def test_child_that_outlives_the_command_does_not_hold_the_session(tree, tmp_path):
    """perf itself would wait for the last process of the tree; `read` does not."""
    told = tmp_path / "pid"
    with waiting("/bin/sh", "-c", f"{tree} 2000000; sleep 30 & echo $! > {told}") as child:
        recording = recorded(child)
        os.kill(int(told.read_text()), signal.SIGKILL)

    assert any("native:tree:spin" in fold(stack) for stack in recording.samples[1])


@pytest.mark.root
@needs_perf
def test_processes_that_run_already_are_sampled(tree):
    """`pids`: those of a tree that was there before; one that has ended is left out."""
    gone = subprocess.Popen(["true"])
    gone.wait()
    with (
        waiting(tree, 30_000_000) as first,
        waiting(tree, 30_000_000) as second,
        attached(first, pids=(second.pid, gone.pid)) as session,
    ):
        session.set_phase(1)
        go(first)
        go(second)
        first.wait(60)
        second.wait(60)
        session.set_phase(0)
        recording = session.read()

    total = sum(recording.samples[1].values())
    assert costs_of(recording)["native:tree:heavy"] / total == pytest.approx(0.5, abs=0.1)
    assert total * recording.period_ns > 0.1e9


@pytest.mark.root
@needs_perf
def test_program_without_frame_pointers_is_unwound(bare):
    """By frame pointers `heavy` and `light` are lost above `spin`; by call frames they are not."""
    collector = PerfCollector(call_graph="dwarf,4096")
    assert collector.event == "cpu-clock/dwarf"
    with waiting(bare, 100_000_000) as child:
        recording = recorded(child, collector=collector)
    with waiting(bare, 100_000_000) as child:
        pointers = recorded(child)

    costs, total = costs_of(recording), sum(recording.samples[1].values())
    assert total > 100
    for function, share in (("heavy", 0.5), ("light", 0.25), ("child", 0.25)):
        assert costs[f"native:tree:{function}"] / total == pytest.approx(share, abs=0.1)
    whole = sum(n for s, n in recording.samples[1].items() if str(s[1]).endswith(":_start"))
    assert whole / total > 0.95
    assert costs_of(pointers)["native:tree:heavy"] < 0.1 * sum(pointers.samples[1].values())


@pytest.mark.root
@needs_perf
def test_copy_of_the_stack_that_is_too_small_is_marked(tmp_path):
    source = tmp_path / "deep.c"
    source.write_text(
        "#include <string.h>\n"
        "volatile unsigned long sink;\n"
        "__attribute__((noinline)) int down(int n) { char room[512]; memset(room, n, 512);\n"
        "  if (!n) for (long i = 0; i < 30000; i++) sink += i; else down(n - 1);\n"
        "  sink += room[n & 255]; return room[5]; }\n"
        "int main(void) { for (int i = 0; i < 8000; i++) down(20); }\n"
    )
    program = compiled(tmp_path, source, "-O1", "-fomit-frame-pointer")
    shares = []
    for size in (1024, 32768):
        with waiting(program) as child:
            recording = recorded(child, collector=PerfCollector(call_graph=f"dwarf,{size}"))
        total = sum(recording.samples[1].values())
        cut = sum(n for stack, n in recording.samples[1].items() if str(stack[0]) == "[truncated]")
        assert cut == recording.truncated.get(1, 0)
        shares.append(cut / total)

    assert shares[0] > 0.8
    assert shares[1] < 0.05


@pytest.mark.root
@needs_perf
def test_page_faults_are_events_too(tmp_path):
    source = tmp_path / "touch.c"
    source.write_text(
        "#include <sys/mman.h>\n"
        "volatile unsigned long sink;\n"
        "__attribute__((noinline)) void touch(int n) { while (n--) {\n"
        "  char *p = mmap(0, 1 << 20, 3, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);\n"
        "  for (int i = 0; i < 1 << 20; i += 4096) p[i] = 1; munmap(p, 1 << 20); } }\n"
        "__attribute__((noinline)) void spin(long n) { while (n--) sink += n; }\n"
        "int main(void) { touch(60); spin(300000000); }\n"
    )
    program = compiled(tmp_path, source, "-O0", "-fno-omit-frame-pointer")
    with waiting(program) as child:
        recording = recorded(child, collector=PerfCollector("page-faults"))

    costs, total = costs_of(recording), sum(recording.samples[1].values())
    assert costs["native:touch:touch"] / total > 0.9
    assert costs["native:touch:spin"] / total < 0.05
    # 60 times 256 pages; one sample stands for five of them at 1999 Hz.
    assert total == pytest.approx(60 * 256 / 5, rel=0.1)


@pytest.mark.root
@needs_perf
def test_session_that_is_closed_unread_leaves_nothing(tree):
    with waiting(tree, 1) as child:
        session = COLLECTORS["perf"].start(Target(child.pid, python=False))
        folder = session._process.folder
        assert not folder.exists(), "perf has its files open, they need no names"
        session.close()
        session.close()

    assert not folder.exists()
    assert children_of_perf() == []


@pytest.mark.root
@needs_perf
def test_map_of_a_runtime_is_used_after_it_is_gone(tmp_path):
    """Code without a file, named by a map that its process removes before it ends."""
    source = tmp_path / "jit.c"
    source.write_text(
        "#include <stdio.h>\n#include <string.h>\n#include <sys/mman.h>\n#include <unistd.h>\n"
        "/* push rbp; mov rbp,rsp; mov rax,rdi; 1: dec rax; jnz 1b; pop rbp; ret */\n"
        'static const char code[] = "\\x55\\x48\\x89\\xe5\\x48\\x89\\xf8\\x48\\xff\\xc8"\n'
        '  "\\x75\\xfb\\x5d\\xc3";\n'
        "int main(void) {\n"
        "  void *at = mmap(0, 4096, 7, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);\n"
        "  memcpy(at, code, sizeof code); char name[64];\n"
        '  sprintf(name, "/tmp/perf-%d.map", getpid()); FILE *map = fopen(name, "w");\n'
        '  fprintf(map, "%lx 20 hot_loop\\n", (unsigned long)at); fclose(map);\n'
        "  ((void (*)(unsigned long))at)(3000000000ul); unlink(name); }\n"
    )
    program = compiled(tmp_path, source, "-O0", "-fno-omit-frame-pointer")
    with waiting(program) as child:
        recording = recorded(child)

    assert not Path(f"/tmp/perf-{child.pid}.map").exists()  # noqa: S108 - where it was
    (stack, samples), *_ = Counter(recording.samples[1]).most_common()
    assert fold(stack).endswith("native:jit:main;jit:hot_loop")
    assert samples / sum(recording.samples[1].values()) > 0.9


# --- faults --------------------------------------------------------------------------------------


@pytest.mark.root
@needs_perf
def test_process_that_is_gone_is_refused_in_one_sentence():
    child = subprocess.Popen(["true"])
    child.wait()

    with pytest.raises(CollectError, match=r"perf record could not start: .*it ended: ") as error:
        COLLECTORS["perf"].start(Target(child.pid, python=False))
    assert "\n" not in error.value.message
    assert error.value.exit_code == 3
    assert children_of_perf() == []


@pytest.mark.root
@needs_perf
def test_target_that_is_killed_keeps_its_samples(tree):
    with waiting(tree, 2_000_000_000) as child, attached(child) as session:
        session.set_phase(1)
        go(child)
        time.sleep(0.8)
        child.kill()
        child.wait()
        session.set_phase(0)
        recording = session.read()

    assert costs_of(recording)["native:tree:spin"] > 50


@pytest.mark.root
@needs_perf
def test_perf_that_is_killed_is_named(tree):
    with waiting(tree, 20_000_000) as child, attached(child) as session:
        session.set_phase(1)
        go(child)
        os.kill(session._process.pid, signal.SIGKILL)
        child.wait(60)
        session.set_phase(0)
        with pytest.raises(CollectError, match="perf record was ended by SIGKILL: "):
            session.read()

    assert not session._process.folder.exists()


@pytest.mark.root
@needs_perf
def test_perf_that_hangs_is_ended_in_time(tree, monkeypatch):
    monkeypatch.setattr(perf_session, "ANSWER_SECONDS", 0.5)
    with waiting(tree, 2_000_000_000) as child, attached(child) as session:
        session.set_phase(1)
        go(child)
        hanging = session._process.pid
        os.kill(hanging, signal.SIGSTOP)
        session.set_phase(0)
        with pytest.raises(
            CollectError, match=f"perf \\(process {hanging}\\) did not answer `disable` within 0 s"
        ):
            session.read()
        assert not Path(f"/proc/{hanging}").exists()


@pytest.mark.root
@needs_perf
def test_perf_that_hangs_when_closed_is_ended(tree, monkeypatch):
    monkeypatch.setattr(perf_session, "CLOSE_SECONDS", 0.4)
    with waiting(tree, 1) as child:
        session = COLLECTORS["perf"].start(Target(child.pid, python=False))
        os.kill(session._process.pid, signal.SIGSTOP)
        session.close()

    assert children_of_perf() == []
    assert not session._process.folder.exists()


OWNER = """
import os, sys, tempfile
from ci_flame.collect import COLLECTORS, Target
tempfile.tempdir = sys.argv[2]
session = COLLECTORS["perf"].start(Target(int(sys.argv[1]), python=False, frequency_hz=4999))
session.set_phase(1)
print(session._process.pid, flush=True)
sys.stdin.read()
"""


def ended(pid, seconds=15):
    """Tell whether a process that is not our child is gone, or only waits to be taken note of."""
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        try:
            state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
        except OSError:
            return True
        if state in "ZX":
            return True
        time.sleep(0.05)
    return False


@pytest.mark.root
@needs_perf
@pytest.mark.parametrize("hangs", [False, True])
def test_owner_that_is_killed_leaves_no_perf_and_no_file(tree, tmp_path, hangs):
    """Its target goes on, so that perf would, too."""
    own = tmp_path / "tmp"
    own.mkdir()
    with waiting(tree, 4_000_000_000) as child:
        go(child)
        with subprocess.Popen(
            [sys.executable, "-c", OWNER, str(child.pid), own],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            process_group=0,
        ) as owner:
            perf_pid = int(owner.stdout.readline())
            watchers = [pid for pid in processes_with(b"perf/watch.py") if parent(pid) == owner.pid]
            beside = list(own.iterdir())
            if hangs:
                os.kill(perf_pid, signal.SIGSTOP)
            os.killpg(owner.pid, signal.SIGKILL)
            owner.wait(20)
        assert ended(perf_pid)
        assert all(map(ended, watchers))
        assert child.poll() is None

    assert len(watchers) == 1
    assert beside == list(own.iterdir()) == []


@pytest.mark.root
@needs_perf
def test_owner_that_is_killed_while_perf_starts_leaves_no_file(tree, tmp_path):
    slow = tmp_path / "perf"
    slow.write_text("#!/bin/sh\nexec sleep 60\n")
    slow.chmod(0o755)
    own = tmp_path / "tmp"
    own.mkdir()
    code = OWNER.replace(
        "session = ", f"from ci_flame.collect import machine\n"
        f"machine.perf_paths = lambda: ({str(slow)!r},)\nsession = "
    )  # fmt: skip
    with subprocess.Popen(
        [sys.executable, "-c", code, str(os.getpid()), own], stdin=subprocess.PIPE
    ) as owner:
        deadline = time.monotonic() + 20
        while time.monotonic() < deadline:
            watchers = [pid for pid in processes_with(b"perf/watch.py") if parent(pid) == owner.pid]
            started = [pid for pid in processes_with(b"sleep\x0060") if parent(pid) == owner.pid]
            if watchers and started:
                break
            time.sleep(0.02)
        assert [each.name.startswith("ci-flame-perf-") for each in own.iterdir()] == [True]
        owner.kill()
        owner.wait(20)

    assert len(started) == len(watchers) == 1
    assert all(map(ended, [*started, *watchers]))
    assert list(own.iterdir()) == []


def processes_with(words):
    """The processes with these bytes on their command line."""
    found = []
    for place in Path("/proc").iterdir():
        if place.name.isdecimal():
            with contextlib.suppress(OSError):
                if words in (place / "cmdline").read_bytes():
                    found.append(int(place.name))
    return found


def parent(pid):
    try:
        return int(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[1])
    except OSError:
        return 0


@pytest.mark.root
@needs_perf
def test_recording_past_its_limit_is_refused(tree, monkeypatch):
    monkeypatch.setattr(perf_session, "MAX_DATA", 1 << 20)
    with (
        waiting(tree, 400_000_000) as child,
        pytest.raises(CollectError, match="the recording reached its limit of 1 MB") as error,
    ):
        recorded(child, frequency_hz=20_000)
    assert "lower frequency" in error.value.hint


@pytest.mark.root
@needs_perf
def test_full_disk_is_named(tree, tmp_path, monkeypatch):
    small = tmp_path / "small"
    small.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=1m", "none", small], check=True)
    try:
        monkeypatch.setattr(perf_session.tempfile, "tempdir", str(small))
        with (
            waiting(tree, 400_000_000) as child,
            pytest.raises(CollectError, match="No space left on device") as error,
        ):
            recorded(child, frequency_hz=20_000)
        assert "\n" not in error.value.message
        assert list(small.iterdir()) == []
    finally:
        subprocess.run(["umount", small], check=True)


@pytest.mark.root
@needs_perf
def test_first_perf_that_works_is_used(tree, tmp_path, monkeypatch):
    """Ubuntu's wrapper fails where linux-tools of this very kernel is missing."""
    wrapper = tmp_path / "perf"
    wrapper.write_text("#!/bin/sh\necho 'WARNING: perf not found for kernel 6.8' >&2\nexit 2\n")
    wrapper.chmod(0o755)
    monkeypatch.setattr(machine, "perf_paths", lambda: (str(wrapper), *MACHINE.perf))
    with waiting(tree, 3_000_000) as child:
        assert recorded(child).samples[1]

    monkeypatch.setattr(machine, "perf_paths", lambda: (str(wrapper),))
    with pytest.raises(
        CollectError, match=r"perf: it ended: WARNING: perf not found for kernel 6\.8"
    ):
        COLLECTORS["perf"].start(Target(os.getpid(), python=False))

    monkeypatch.setattr(machine, "perf_paths", lambda: (str(tmp_path / "none"),))
    with pytest.raises(CollectError, match="No such file or directory"):
        COLLECTORS["perf"].start(Target(os.getpid(), python=False))


def test_perf_that_never_answers_is_given_up(tmp_path, monkeypatch):
    program = tmp_path / "perf"
    program.write_text("#!/bin/sh\necho 'still thinking' >&2\nexec sleep 60\n")
    program.chmod(0o755)
    monkeypatch.setattr(perf_session, "START_SECONDS", 1.0)
    monkeypatch.setattr(machine, "perf_paths", lambda: (str(program),))
    with pytest.raises(
        CollectError, match=r"did not answer `disable` within 1 s and was ended: still thinking"
    ):
        COLLECTORS["perf"].start(Target(os.getpid(), python=False))


def test_hidden_perf_is_an_obstacle(monkeypatch):
    monkeypatch.setenv("PATH", "/nonexistent")
    monkeypatch.setattr(machine.Path, "glob", lambda _self, _pattern: iter(()))
    obstacle = COLLECTORS["perf"].obstacle(machine.probe(), python=False)

    assert obstacle.reason == "no perf program that works is installed"
    with pytest.raises(CollectError, match="could not start: no perf program") as error:
        COLLECTORS["perf"].start(Target(os.getpid(), python=False))
    assert "linux-perf" in error.value.hint


@pytest.fixture
def stopped(tmp_path):
    """A perf process that has ended, whose file can be damaged."""
    process = PerfProcess("/bin/true", (1,), Settings(Event(), 1999))
    process._process = subprocess.Popen(["true"])
    process._process.wait()
    yield process
    process.close()


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "perf record wrote nothing"),
        (b"PERFILE2", "perf record wrote nothing"),
        (b"\0" * 200, "what perf record wrote cannot be read"),
        (b"PERFILE2" + b"\xff" * 200, "what perf record wrote cannot be read"),
    ],
)
def test_file_that_is_none_is_refused(stopped, content, message):
    stopped.data.write_bytes(content)
    session = perf.PerfSession(stopped, Target(os.getpid(), python=False), Settings(Event(), 1999))
    session.set_phase(1)
    with pytest.raises(CollectError, match=message):
        session.read()
    session.close()


@pytest.mark.root
@needs_perf
def test_recording_that_is_cut_off_is_refused(tree, monkeypatch):
    with waiting(tree, 20_000_000) as child, attached(child) as session:
        session.set_phase(1)
        go(child)
        child.wait(60)
        session.set_phase(0)
        flush = session._process.flush

        def truncated():
            flush()
            os.truncate(session._process.data, session._process.data.stat().st_size - 100)

        monkeypatch.setattr(session._process, "flush", truncated)
        with pytest.raises(CollectError, match=r"cannot be read: perf\.data: .*cut off"):
            session.read()


# --- without privileges --------------------------------------------------------------------------

UNPRIVILEGED = """
import json, os, subprocess, sys
from ci_flame.collect import COLLECTORS, Target, choose, machine
from ci_flame.profile import fold
child = subprocess.Popen([sys.executable, "-I", "-S", "-c", sys.argv[1], *sys.argv[2:]],
                         stdin=subprocess.PIPE)
collector = choose(machine.probe(), python=False)
session = collector.start(Target(child.pid, python=False))
session.set_phase(1)
child.stdin.write(b"x"); child.stdin.close(); child.wait(60)
session.set_phase(0)
recording = session.read()
session.close()
samples = {fold(stack): n for stack, n in recording.samples[1].items()}
print(json.dumps([os.getuid(), collector.name, collector.event, samples]))
"""


def unprivileged_python():
    """An interpreter that anybody may run, and what it must be told to find ci_flame."""
    here = str(Path(__file__).parent.parent)
    libraries = [each for each in sys.path if each.endswith("site-packages")]
    environment = {
        "PYTHONPATH": os.pathsep.join([here, *libraries]),
        "PYTHONDONTWRITEBYTECODE": "1",
    }
    minor = f"python3.{sys.version_info.minor}"
    for program in (sys.executable, *filter(None, map(shutil.which, (f"/usr/bin/{minor}", minor)))):
        done = subprocess.run(
            [*AS_NOBODY, program, "-c", "import ci_flame.collect"],
            env={**os.environ, **environment},
            capture_output=True,
            check=False,
        )
        if done.returncode == 0:
            return program, {**os.environ, **environment}
    pytest.skip("no interpreter that an ordinary user may run")


# The program behind `env` is found without what root may: setpriv itself has it until it runs one.
AS_NOBODY = ["setpriv", f"--reuid={NOBODY}", f"--regid={NOBODY}", "--clear-groups", "env"]


@pytest.mark.root
@needs_perf
def test_user_without_privileges_gets_a_profile_of_user_code(tree, tmp_path):
    program, environment = unprivileged_python()
    for folder in (tree.parent, tree.parent.parent, tree.parent.parent.parent):
        folder.chmod(folder.stat().st_mode | 0o055)
    done = subprocess.run(
        [*AS_NOBODY, program, "-c", UNPRIVILEGED, LAUNCHER, str(tree), "100000000"],
        env=environment,
        capture_output=True,
        text=True,
        cwd="/",
        timeout=120,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    uid, name, event, samples = json.loads(done.stdout)
    total = sum(samples.values())
    heavy = sum(n for stack, n in samples.items() if "native:tree:heavy" in stack)

    assert (uid, name) == (NOBODY, "perf")
    assert event == ("cpu-clock:u" if MACHINE.perf_event_paranoid > 1 else "cpu-clock")
    assert total > 100
    assert heavy / total == pytest.approx(0.5, abs=0.1)
    if event.endswith(":u"):
        assert not any("kernel:" in stack for stack in samples)


@pytest.mark.root
@needs_perf
def test_user_without_privileges_records_a_command_and_is_told_the_bias(tree, tmp_path):
    program, environment = unprivileged_python()
    for folder in (tree.parent, tree.parent.parent, tree.parent.parent.parent, tmp_path):
        folder.chmod(folder.stat().st_mode | 0o055)
    place = tmp_path / "theirs"
    place.mkdir()
    os.chown(place, NOBODY, NOBODY)
    done = subprocess.run(
        [
            *(*AS_NOBODY, program, "-m", "ci_flame", "record", "-o", "run", "--repeat", "2"),
            *("--name", "tree", "--", str(tree), "100000000"),
        ],
        env={**environment, "HOME": str(place)},
        capture_output=True,
        text=True,
        cwd=place,
        timeout=120,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    stored = json.loads((place / "run" / "run.json").read_text())

    assert stored["environment"]["collector"] == "perf"
    if MACHINE.perf_event_paranoid > 1:
        assert stored["environment"]["event"] == "cpu-clock:u"
        assert "perf sampled user code only (cpu-clock:u): time in the kernel" in done.stderr
    assert "Traceback" not in done.stderr


SEVERAL = """
import subprocess, sys
from ci_flame.collect import COLLECTORS, Target
shell = ["sh", "-c", 'read go; exec "$@"', "sh"]  # begins when all three are recorded
children = [subprocess.Popen([*shell, *sys.argv[1:]], stdin=subprocess.PIPE) for _ in range(3)]
sessions = [COLLECTORS["perf"].start(Target(child.pid, python=False)) for child in children]
for session in sessions:
    session.set_phase(1)
for child in children:
    child.stdin.write(b"go\\n")
    child.stdin.close()
for child in children:
    child.wait(60)
for session in sessions:
    session.set_phase(0)
    print(sum(session.read().samples.get(1, {}).values()))
    session.close()
"""


@pytest.mark.root
@needs_perf
def test_several_recordings_at_once_share_what_memory_may_be_locked(tree):
    """One takes all that this user may lock; the others are content with smaller buffers."""
    program, environment = unprivileged_python()
    for folder in (tree.parent, tree.parent.parent, tree.parent.parent.parent):
        folder.chmod(folder.stat().st_mode | 0o055)
    done = subprocess.run(
        [
            *("prlimit", "--memlock=65536:65536", *AS_NOBODY, program, "-c", SEVERAL),
            *(str(tree), "300000000"),
        ],
        env=environment,
        capture_output=True,
        text=True,
        cwd="/",
        timeout=120,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    counts = [int(word) for word in done.stdout.split()]

    assert len(counts) == 3
    assert min(counts) > 50


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


def test_stacks_of_another_processor_are_not_unwound():
    usual = {"system": "Linux", "perf": ("/usr/bin/perf",), "perf_event_error": ""}
    other = replace(MACHINE, **{**usual, "architecture": "aarch64"})
    obstacle = PerfCollector(call_graph="dwarf").obstacle(other, python=False)

    assert obstacle.reason == "stacks are unwound by DWARF on x86-64 only, this is aarch64"
    assert PerfCollector().obstacle(other, python=False) is None


@pytest.mark.root
def test_event_that_gives_nothing_is_refused_before_recording():
    with pytest.raises(
        CollectError, match="context-switches:u opens on this machine, but counted nothing"
    ) as error:
        choose(MACHINE, python=False, wanted="perf", event="context-switches:u")
    assert "--event cpu-clock" in error.value.hint


def test_other_collectors_have_no_events():
    with pytest.raises(CollectError, match="it samples the CPU clock, not cycles"):
        choose(MACHINE, python=True, wanted="ebpf", event="cycles")


def test_python_target_is_refused_with_the_cure():
    with pytest.raises(CollectError, match="perf sees no Python frames") as error:
        COLLECTORS["perf"].start(Target(1, python=True))
    assert "ebpf" in error.value.hint


@pytest.mark.parametrize(
    ("event", "told"),
    [
        ("cpu-clock", ""),
        ("task-clock/dwarf", ""),
        ("cpu-clock:u/dwarf", "perf sampled user code only (cpu-clock:u): time in the kernel"),
        ("page-faults", "samples count page-faults: what is shown as time is the CPU time"),
        ("cycles:u", "user code only (cycles:u)"),
        ("cycles:u", "samples count cycles:"),
    ],
)
def test_bias_is_told(event, told):
    bias = machine.environment(COLLECTORS["perf"], "", 1999)
    found = replace(bias, event=event).bias

    assert told in found
    assert bool(found) == bool(told)


def test_waiting_is_refused():
    modes = frozenset({Mode.ON_CPU, Mode.OFF_CPU})
    with pytest.raises(CollectError, match="perf records on-cpu profiles, not off-cpu"):
        COLLECTORS["perf"].start(Target(1, python=False, modes=modes))


@pytest.mark.parametrize("frequency_hz", [0, 20_001])
def test_frequency_is_limited(frequency_hz):
    with pytest.raises(CollectError, match=f"{frequency_hz} Hz; perf samples at 1 to 20000 Hz"):
        COLLECTORS["perf"].start(Target(1, python=False, frequency_hz=frequency_hz))


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        (Settings(Event(), 1999), "-e cpu-clock -c 500250 --call-graph fp"),
        (Settings(Event("cycles", user_only=True), 2000), "-e cycles:u -c 1500000 --call-graph fp"),
        (
            Settings(Event("page-faults"), 20_000, 8192, 32),
            "-e page-faults -c 1 -m 32 --call-graph dwarf,8192",
        ),
        (Settings(Event("cache-misses"), 10), "-e cache-misses -c 1000000 --call-graph fp"),
    ],
)
def test_words_for_perf(settings, words):
    assert " ".join(settings.words()) == words


# --- from perf's records to samples ---------------------------------------------------------------


def phases(times, pids=None, tasks=(), launched=7):
    windows = Windows()
    for phase, moment in ((3, 100), (0, 200), (4, 300), (0, 400)):
        windows.switch(phase, moment)
    samples = SimpleNamespace(
        time=np.array(times, dtype=np.uint64),
        pid=np.array(pids or [7] * len(times), dtype=np.int64),
    )
    data = SimpleNamespace(samples=samples, tasks=tasks)
    return perf_read.phases(data, windows, launched=launched).tolist()


def named(time_ns, pid, *, executed):
    return perf_data.Named(time_ns, pid, pid, "tree", executed)


def test_moments_have_phases():
    assert phases([99, 100, 199, 200, 300, 399, 400]) == [-1, 3, 3, -1, 4, 4, -1]
    assert phases([]) == []


def test_samples_of_the_launcher_are_left_out():
    became = [named(150, 7, executed=True), named(350, 7, executed=True)]

    assert phases([140, 140, 150, 350], [7, 8, 7, 7], became) == [-1, 3, 3, 4]


def test_process_that_never_becomes_another_is_kept_whole():
    others = [named(150, 8, executed=True), named(150, 7, executed=False)]

    assert phases([140, 160], [7, 7], others) == [3, 3]
