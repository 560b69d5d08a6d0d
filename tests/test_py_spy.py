"""py-spy: windows of this process, commands, builds by an ordinary user, and every refusal."""

import contextlib
import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import textwrap
import threading
import time
from collections import Counter
from dataclasses import replace
from pathlib import Path

import pytest
from full_disk import little_room
from unprivileged import NOBODY, as_root, environment, interpreter

from ci_flame.baseline import folder
from ci_flame.collect import COLLECTORS, Target, choose, machine
from ci_flame.collect.py_spy import collector as py_spy
from ci_flame.collect.py_spy import process as py_spy_process
from ci_flame.collect.py_spy import raw as py_spy_raw
from ci_flame.collect.py_spy.raw import STEP, Code, Counted
from ci_flame.diff import diff
from ci_flame.errors import CollectError
from ci_flame.judge import judge
from ci_flame.policy import Policy
from ci_flame.profile import BIASES, Mode, fold
from ci_flame.symbols.modules import Layout

PY_SPY = COLLECTORS["py-spy"]
HERE = Path(__file__).parent


def dear(seconds):
    """Burn CPU time."""
    end = time.process_time() + seconds
    count = 0
    while time.process_time() < end:
        count += sum(range(500))
    return count


def cheap(seconds):
    return dear(seconds)


def own(**changes):
    return Target(os.getpid(), python=True, frequency_hz=999, roots=(str(HERE),), **changes)


def functions(recording, phase):
    """Samples of each function, callees included."""
    seen = Counter()
    for stack, samples in recording.samples.get(phase, {}).items():
        for frame in set(stack):
            seen[str(frame)] += samples
    return seen


@contextlib.contextmanager
def session_of(target):
    session = PY_SPY.start(target)
    try:
        yield session
    finally:
        session.close()


# -- this process: windows ---------------------------------------------------------------


def test_each_window_has_its_own_samples_and_none_are_kept_outside():
    with session_of(own()) as session:
        session.set_phase(3)
        dear(0.4)
        session.set_phase(0)
        dear(0.3)
        session.set_phase(4)
        cheap(0.2)
        session.set_phase(0)
        recording = session.read()

    assert set(recording.samples) == {3, 4}
    third, fourth = functions(recording, 3), functions(recording, 4)
    assert third["test_py_spy:cheap"] == 0
    assert fourth["test_py_spy:cheap"] > 30
    assert third["test_py_spy:dear"] > fourth["test_py_spy:dear"]
    # Outermost first, down to the function at work, with the line of its definition.
    stack = max(recording.samples[4], key=recording.samples[4].get)
    assert fold(stack).endswith("test_py_spy:cheap;test_py_spy:dear")
    places = {str(frame): place for frame, place in recording.places.items()}
    assert places["test_py_spy:dear"].file == "test_py_spy.py"
    assert places["test_py_spy:dear"].line == dear.__code__.co_firstlineno


def test_threads_are_in_the_window_that_they_ran_in():
    with session_of(own()) as session:
        session.set_phase(1)
        worker = threading.Thread(target=cheap, args=(0.4,))
        worker.start()
        worker.join()
        session.set_phase(0)
        recording = session.read()

    assert functions(recording, 1)["test_py_spy:cheap"] > 50


def test_forked_children_are_in_their_window(tmp_path):
    with session_of(own()) as session:
        session.set_phase(2)
        child = os.fork()
        if child == 0:
            cheap(0.6)
            os._exit(0)
        os.waitpid(child, 0)
        session.set_phase(0)
        recording = session.read()

    assert functions(recording, 2)["test_py_spy:cheap"] > 50


def test_reading_again_goes_on_with_new_phases():
    with session_of(own()) as session:
        session.set_phase(1)
        dear(0.2)
        session.set_phase(0)
        first = session.read()
        for phase in (2, 3):
            session.set_phase(phase)
            cheap(0.2)
            session.set_phase(0)
        second = session.read()

    assert set(first.samples) == {1}
    assert set(second.samples) == {2, 3}
    assert functions(first, 1)["test_py_spy:cheap"] == 0


def test_the_lines_are_put_back_and_nothing_is_left():
    code = py_spy._outermost(sys._getframe())
    before = code.co_firstlineno, threading.Thread._bootstrap.__code__.co_firstlineno
    session = PY_SPY.start(own())
    place, process = session._folder, session._roots[0].runs[0]._process
    session.set_phase(7)
    inside = code.co_firstlineno
    session.close()
    session.close()

    assert inside == before[0] + 7 * STEP
    assert (code.co_firstlineno, threading.Thread._bootstrap.__code__.co_firstlineno) == before
    assert not place.exists()
    assert process.poll() is not None
    with pytest.raises(CollectError, match="the collector is closed"):
        session.read()


def test_as_many_windows_as_a_line_number_holds():
    with session_of(own()) as session:
        session.set_phase(32_766)
        with pytest.raises(CollectError, match="32767 windows since the last read; 32766 are"):
            session.set_phase(32_767)


def test_more_calls_of_one_function_are_more_samples():
    """The shares are true: 3 parts of one function to 1 of another."""
    with session_of(replace(own(), frequency_hz=1999)) as session:
        session.set_phase(1)
        for _ in range(10):
            dear(0.075)
            cheap(0.025)
        session.set_phase(0)
        recording = session.read()
    seen = functions(recording, 1)

    assert seen["test_py_spy:cheap"] / seen["test_py_spy:dear"] == pytest.approx(0.25, abs=0.06)


# -- another process: one window ------------------------------------------------------------

LAUNCHER = "import os, sys; sys.stdin.read(1); os.execv(sys.argv[1], sys.argv[1:])"
PROGRAM = textwrap.dedent("""
    import sys, time
    def work(seconds):
        end = time.process_time() + seconds
        while time.process_time() < end:
            sum(range(500))
    work(float(sys.argv[1]))
""")


TWO_PARTS = textwrap.dedent("""
    import select, sys, time
    def spin():
        while not select.select([sys.stdin], [], [], 0)[0]:
            sum(range(500))
    def second():
        end = time.monotonic() + 60
        while time.monotonic() < end:
            sum(range(500))
    spin()
    second()
""")


@contextlib.contextmanager
def waiting(*command):
    """A Python that becomes the command when a byte comes."""
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


def recorded(tmp_path, *command):
    with waiting(*command) as child:
        target = Target(child.pid, python=True, frequency_hz=499, roots=(str(tmp_path),))
        with session_of(target) as session:
            session.set_phase(1)
            child.stdin.write(b"x")
            child.stdin.flush()
            child.wait(30)
            session.set_phase(0)
            return session.read()


@pytest.mark.parametrize("how", ["itself", "by a shell", "a child"])
def test_command_is_followed_through_exec_and_to_its_children(tmp_path, how):
    program = tmp_path / "shop;1.py"
    program.write_text(PROGRAM)
    python = sys.executable
    command = {
        "itself": (python, program, "1.0"),
        "by a shell": ("/bin/sh", "-c", f"'{python}' '{program}' 1.0; true"),
        "a child": (
            python,
            "-c",
            'import subprocess, sys\nsubprocess.run(sys.argv[1:]) # ;process 1:"x";\nf = 1',
            python,
            program,
            "1.0",
        ),
    }[how]
    recording = recorded(tmp_path, *command)
    seen = functions(recording, 1)

    assert set(recording.samples) == {1}
    assert seen["shop_1:work"] > 200
    assert recording.period_ns == round(1e9 / 499)


def test_windows_of_another_process_have_their_own_samples(tmp_path):
    """As `record --pid` asks for them: slice after slice, read once."""
    program = tmp_path / "shop.py"
    program.write_text(TWO_PARTS)
    child = subprocess.Popen([sys.executable, program], stdin=subprocess.PIPE)
    try:
        time.sleep(0.5)
        target = Target(child.pid, python=True, frequency_hz=499, roots=(str(tmp_path),))
        with session_of(target) as session:
            session.set_phase(1)
            time.sleep(0.7)
            session.set_phase(0)
            child.stdin.write(b"x")
            child.stdin.flush()
            time.sleep(0.3)
            for phase in (2, 3):
                session.set_phase(phase)
                time.sleep(0.7)
                session.set_phase(0)
            recording = session.read()
            session.set_phase(4)
            time.sleep(0.5)
            session.set_phase(0)
            again = session.read()
    finally:
        child.kill()
        child.wait()
        child.stdin.close()
    seen = {phase: functions(recording, phase) for phase in recording.samples}

    assert set(seen) == {1, 2, 3}
    assert seen[1]["shop:spin"] > 50
    assert seen[1]["shop:second"] == 0
    assert seen[2]["shop:second"] > 50
    assert seen[2]["shop:spin"] == 0
    assert seen[3]["shop:second"] > 50
    assert set(again.samples) == {4}


def test_process_that_is_gone_is_refused():
    child = subprocess.Popen(["true"])
    child.wait()

    with pytest.raises(CollectError, match=f"py-spy does not attach to process {child.pid}: "):
        PY_SPY.start(Target(child.pid, python=True))


def test_process_that_is_not_python_is_refused():
    child = subprocess.Popen(["sleep", "30"])
    try:
        with pytest.raises(CollectError, match="Failed to find python version") as error:
            PY_SPY.start(Target(child.pid, python=True))
    finally:
        child.kill()
        child.wait()
    assert "\n" not in error.value.message


def test_a_target_that_is_killed_keeps_its_samples():
    code = "def spin():\n    while True: sum(range(500))\nspin()"
    child = subprocess.Popen([sys.executable, "-c", code])
    try:
        time.sleep(0.3)  # until then it is not Python
        with session_of(Target(child.pid, python=True, frequency_hz=999)) as session:
            session.set_phase(1)
            time.sleep(1)
            child.kill()
            child.wait()
            session.set_phase(0)
            recording = session.read()
    finally:
        child.kill()
        child.wait()

    assert sum(recording.samples[1].values()) > 100


def test_py_spy_that_is_killed_is_said():
    with session_of(own()) as session:
        session.set_phase(1)
        dear(0.1)
        session._roots[0].runs[0]._process.send_signal(signal.SIGKILL)
        session.set_phase(0)
        with pytest.raises(CollectError, match="py-spy ended with -9 and wrote nothing"):
            session.read()


@as_root
def test_stacks_that_the_disk_has_no_room_for_are_an_error(tmp_path, monkeypatch):
    """What fitted before the disk was full would be another profile."""
    names = [f"a_function_with_a_name_of_some_length_{number}" for number in range(100)]
    made = {"dear": dear}
    exec("\n".join(f"def {name}(): dear(0.003)" for name in names), made)  # noqa: S102 - ours
    with (
        little_room(tmp_path / "small", monkeypatch, "8k") as small,
        session_of(own()) as session,
    ):
        session.set_phase(1)
        for name in names:
            made[name]()
        session.set_phase(0)
        with pytest.raises(CollectError, match="No space left on device") as error:
            session.read()
        assert error.value.message.startswith("py-spy ended with 1 and wrote ")
        assert error.value.hint.startswith(f"is there room in {small}/")
        session.close()
        assert list(small.iterdir()) == []


def test_py_spy_that_does_not_end_is_given_up(monkeypatch):
    monkeypatch.setattr(py_spy, "STOP_SECONDS", 0.5)
    with session_of(own()) as session:
        process = session._roots[0].runs[0]._process
        process.send_signal(signal.SIGSTOP)
        with pytest.raises(CollectError, match="py-spy did not end within"):
            session.read()

        assert process.poll() is not None


def test_py_spy_that_says_nothing_is_given_up(tmp_path, monkeypatch):
    program = tmp_path / "py-spy"
    program.write_text("#!/bin/sh\nexec sleep 30\n")
    program.chmod(0o755)
    monkeypatch.setattr(py_spy, "START_SECONDS", 0.3)
    with pytest.raises(CollectError, match="py-spy did not start within"):
        py_spy.PySpySession(str(program), own())


# -- refusals --------------------------------------------------------------------------------

MACHINE = machine.probe()
USUAL = replace(MACHINE, system="Linux", py_spy="/usr/bin/py-spy", py_spy_error="")


@pytest.mark.parametrize(
    ("change", "python", "reason", "cure"),
    [
        ({"system": "Darwin"}, True, "py-spy is used on Linux, this is Darwin", "record on Linux"),
        ({}, False, "py-spy sees Python programs only", "perf"),
        ({"py_spy": ""}, True, "py-spy is not installed", "pip install 'ci-flame[py-spy]'"),
        ({"py_spy_error": "permission denied"}, True, "py-spy: permission denied", "SYS_PTRACE"),
    ],
)
def test_obstacles_have_a_cure(change, python, reason, cure):
    obstacle = PY_SPY.obstacle(replace(USUAL, **change), python=python)

    assert obstacle.reason == reason
    assert cure in obstacle.cure


def test_automatic_choice_takes_it_last_and_for_python_only():
    helpless = replace(USUAL, root=False, sudo=False, capabilities=(), bpf_error="EPERM")

    assert choose(helpless, python=True).name == "py-spy"
    assert (
        choose(replace(helpless, perf=("perf",), perf_event_error=""), python=False).name == "perf"
    )
    with pytest.raises(CollectError, match="py-spy: py-spy is not installed"):
        choose(replace(helpless, py_spy=""), python=True)


@pytest.mark.parametrize(
    ("scope", "cure"),
    [
        ("0\n", "--cap-add SYS_PTRACE"),
        ("2\n", "sudo sysctl kernel.yama.ptrace_scope=0"),
        (None, "--cap-add"),
    ],
)
def test_cure_is_that_of_the_machine(tmp_path, monkeypatch, scope, cure):
    file = tmp_path / "ptrace_scope"
    if scope:
        file.write_text(scope)
    monkeypatch.setattr(py_spy_process, "PTRACE_SCOPE", file)

    assert cure in py_spy_process.ptrace_cure()


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"frequency_hz": 9}, "9 Hz; py-spy samples at 10 to 5000 Hz here"),
        ({"frequency_hz": 5001}, "5001 Hz; py-spy samples at 10 to 5000 Hz here"),
        ({"python": False}, "py-spy sees Python programs only"),
        (
            {"modes": frozenset({Mode.ON_CPU, Mode.OFF_CPU})},
            "records on-cpu only, off-cpu was asked",
        ),
    ],
)
def test_target_that_it_cannot_serve_is_refused(changes, reason):
    with pytest.raises(CollectError, match=reason):
        PY_SPY.start(replace(own(), **changes))


@as_root
def test_another_users_process_is_refused_with_the_cure(tmp_path):
    """For real: nobody asks for a process of root."""
    theirs = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(60)"])
    time.sleep(0.5)  # until it is a Python that could be read
    code = f"""
        from ci_flame.collect import COLLECTORS, Target
        from ci_flame.errors import CollectError
        try:
            COLLECTORS["py-spy"].start(Target({theirs.pid}, python=True))
        except CollectError as error:
            print(error)
    """
    env = environment()
    env["PATH"] = f"{nobodys_py_spy(tmp_path).parent}:{env['PATH']}"
    try:
        done = subprocess.run(
            [*NOBODY, interpreter(), "-c", textwrap.dedent(code)],
            capture_output=True, text=True, cwd="/", env=env, check=False,
        )  # fmt: skip
    finally:
        theirs.kill()
        theirs.wait()

    assert done.stderr == ""
    assert f"py-spy does not attach to process {theirs.pid}: permission denied" in done.stdout
    assert "hint: " in done.stdout
    assert py_spy_process.ptrace_cure() in done.stdout


# -- its text ---------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (
            'process 7:"p a.py";<module> (/a.py:1);f (/a.py:3) 12\n',
            [("<module> /a.py:1", "f /a.py:3", 12)],
        ),
        # A child's command line holds everything that a reader could stumble on.
        (
            'process 7:"p";process 8:"python -c x;y (1) 5\n;z 7\n";g (/b;c (d)/e.py:9) 4\n',
            [("g /b;c (d)/e.py:9", 4)],
        ),
        ('process 7:"p";run (<frozen runpy>:5) 1', [("run <frozen runpy>:5", 1)]),
        ('process 7:"p" 9\n', [(9,)]),
        ('process 7:"p";f (/a.py) 2\n', [("f /a.py:0", 2)]),
        # Cut off: the count is missing.
        ('process 7:"p";f (/a.py:1) 2\nprocess 7:"p";f (/a.p', [("f /a.py:1", 2)]),
        ("", []),
        ("garbage 5", [(5,)]),
    ],
)  # fmt: skip
def test_text(text, expected):
    found = [
        (*(f"{code.name} {code.file}:{code.line}" for code in each.stack), each.count)
        for each in py_spy_raw.stacks(text, 7)
    ]

    assert found == expected


def gathered(text, outermost=(("<module>", "/a.py"),)):
    every = py_spy_raw.Gathered(Layout(roots=("/",)), outermost)
    every.add(text, 7, 10)
    every.account(5, 0.25, 1000)
    return every.recording(1_000_000)


def test_phase_is_taken_out_of_the_line():
    head = 'process 7:"p";'
    recording = gathered(
        f"{head}<module> (/a.py:{1 + 2 * STEP});f (/a.py:3) 30\n"
        f"{head}<module> (/a.py:1);f (/a.py:3) 60\n"  # outside of the windows
        f"{head}f (/a.py:3) 10\n"  # torn: its outermost function is another
    )

    assert {
        p: {fold(s): n for s, n in stacks.items()} for p, stacks in recording.samples.items()
    } == {12: {"a:<module>;a:f": 30}}
    assert recording.places[next(iter(recording.samples[12]))[0]].line == 1
    # 5 reads failed and 10 stacks tore, a third of them in windows: 30 of 100 samples.
    assert recording.lost == round(15 * 30 / 100)
    assert recording.metrics == {
        "collector.cpu_ns": 1000.0,
        "collector.errors": 5.0,
        "collector.torn": 10.0,
        "collector.behind_s": 0.25,
    }


def test_another_process_has_one_window():
    recording = gathered('process 7:"p";g (/b.py:2) 3\nprocess 7:"p" 1\n', outermost=None)

    assert {fold(s): n for s, n in recording.samples[10].items()} == {"b:g": 3}
    assert recording.metrics["collector.torn"] == 1


def test_counted_is_a_value():
    assert Counted((Code("f", "a", 1),), 2) == Counted((Code("f", "a", 1),), 2)


# -- whole builds by an ordinary user ------------------------------------------------------------

SHOP = """
class Shop:
    def tokenize(self, n):
        total = 0
        for i in range(n):
            total += i & 7
        return total
    def price(self, n):
        return sum([i * i for i in range(n)])
def checkout():
    shop = Shop()
    shop.tokenize({size})
    shop.price(4000)
def test_checkout(flame):
    flame(checkout)
"""
BENCHMARK = "test_shop.py::test_checkout"


def nobodys_py_spy(place):
    """A copy that nobody may run: the one beside the interpreter may lie in root's home."""
    program = place / "bin" / "py-spy"
    if not program.exists():
        program.parent.mkdir()
        shutil.copy(py_spy_process.find_program(), program)
        for each in (program, program.parent, place):
            each.chmod(0o755)
    return program


@pytest.fixture(scope="module")
def shop(tmp_path_factory):
    """A folder of nobody's, and what runs a command there as nobody."""
    place = Path("/tmp") / f"ci-flame-nobody-{os.getpid()}"  # noqa: S108 - pytest's own are root's
    place.mkdir()
    place.chmod(0o777)
    program = nobodys_py_spy(place)
    place.chmod(0o777)
    # What is tested is the collector and the verdict, whoever else uses this machine.
    (place / "ci-flame.yml").write_text("version: 1\nrecord: {busy: 100%, confirm: false}\n")
    env = environment(HOME=str(place))
    env["PATH"] = f"{program.parent}:{env['PATH']}"

    def run(*words):
        return subprocess.run(
            [*NOBODY, interpreter(), *words], cwd=place, env=env, capture_output=True, text=True,
            timeout=300, check=False,
        )  # fmt: skip

    run.place = place
    yield run
    shutil.rmtree(place)


@pytest.fixture(scope="module")
def baseline(shop):
    (shop.place / "test_shop.py").write_text(SHOP.format(size=4000))
    done = shop(
        "-m", "pytest", "-q", "-p", "no:cacheprovider", "-W", "ignore", "--flame",
        "--flame-processes", "3", "--flame-seconds", "0.6", "-v", "--flame-out", "base",
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
    return done


@as_root
def test_pytest_records_a_useful_profile_and_says_by_what(shop, baseline):
    assert "ci-flame: py-spy at 1999 Hz, 3 processes of 0.6 s per benchmark" in baseline.stdout
    assert f"ci-flame: {BIASES['py-spy']}" in baseline.stdout
    run = folder.load(shop.place / "base")
    measurement = run.measurement(BENCHMARK)
    profile = measurement.profile()
    seen = Counter()
    for stack, weight in profile.stacks.items():
        for frame in set(stack):
            seen[str(frame)] += weight.samples

    assert (run.environment.collector, run.environment.event) == ("py-spy", "running-time")
    assert str(measurement.root) == "test_shop:test_checkout"
    assert profile.samples > 1500
    for name in ("checkout", "Shop.tokenize", "Shop.price"):
        assert seen[f"test_shop:{name}"] / profile.samples > 0.2
    assert seen["test_shop:checkout"] / profile.samples > 0.95
    # Time spent waiting for a CPU is told without privileges, too.
    assert all(each.run_delay_ns >= 0 for p in measurement.processes for each in p.rounds)


@as_root
@pytest.mark.parametrize(
    ("size", "code", "outcome"), [(4000, 0, "pass"), (9000, 1, "fail")], ids=["same", "grown"]
)
def test_check_judges_what_an_ordinary_user_recorded(shop, baseline, size, code, outcome):
    (shop.place / "test_shop.py").write_text(SHOP.format(size=size))
    done = shop(
        "-m", "ci_flame", "check", "--baseline", "folder:base", "--repeat", "3", "--seconds", "0.6",
        "--", interpreter(), "-m", "pytest", "-q", "-p", "no:cacheprovider", "-W", "ignore",
        "test_shop.py",
    )  # fmt: skip
    verdict = json.loads((shop.place / ".ci-flame" / "report" / "verdict.json").read_text())

    assert done.returncode == code, done.stdout + done.stderr
    assert verdict["outcome"] == outcome
    notes = {note["slug"]: note["text"] for note in verdict["notes"]}
    assert notes["bias"] == BIASES["py-spy"]
    if code:
        assert "test_shop:Shop.tokenize grew by" in done.stdout
    page = (shop.place / ".ci-flame" / "report" / "report.html").read_text()
    assert "py-spy 1,999 Hz" in page


@as_root
def test_command_is_recorded_by_an_ordinary_user(shop):
    (shop.place / "work.py").write_text(PROGRAM)
    done = shop(
        "-m", "ci_flame", "record", "--repeat", "2", "-o", "command", "--name", "work", "--",
        interpreter(), "work.py", "0.8",
    )  # fmt: skip

    assert done.returncode == 0, done.stderr
    assert BIASES["py-spy"] in done.stderr
    (measurement,) = folder.load(shop.place / "command").measurements
    seen = Counter()
    for stack, weight in measurement.profile().stacks.items():
        seen.update({str(frame): weight.samples for frame in set(stack)})
    assert seen["work:work"] > 800
    assert seen["work:work"] / measurement.profile().samples > 0.9


@as_root
def test_another_collectors_run_is_never_compared_with_it(shop, baseline):
    run = folder.load(shop.place / "base")
    other = replace(run, environment=replace(run.environment, collector="ebpf", event="cpu-clock"))
    verdict = judge(diff(other, run), Policy(), after=run)

    assert verdict.outcome == "inconclusive"
    (why,) = (note for note in verdict.notes if note.slug == "other-machine")
    assert "collector: ebpf, py-spy" in why.text


def test_nobody_may_read_us_where_py_spy_does_not_start(tmp_path, monkeypatch):
    allowed = []
    monkeypatch.setattr(py_spy_process, "let_read_us", allowed.append)

    with pytest.raises(CollectError, match="cannot be run"):
        py_spy_process.PySpy(str(tmp_path / "none"), os.getpid(), 99, tmp_path / "x")
    assert allowed == [-1, 0]


def test_a_session_that_cannot_be_leaves_no_folder(tmp_path, monkeypatch):
    def refused():
        raise CollectError("no first line")

    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    monkeypatch.setattr(py_spy, "_PhaseWords", refused)

    with pytest.raises(CollectError, match="no first line"):
        py_spy.PySpySession("py-spy", Target(os.getpid(), python=True))
    assert list(tmp_path.iterdir()) == []
