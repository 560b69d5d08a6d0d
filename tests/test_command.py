"""Recording any command: what it gets, what is told of it, and what is left behind."""

import os
import signal
import subprocess
import sys
import time
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path

import pytest

from ci_flame.collect import COLLECTORS, machine
from ci_flame.config import RecordConfig
from ci_flame.errors import CollectError, UsageError
from ci_flame.profile import Frame, Kind, Place
from ci_flame.record import command, interpreter, layout, suspended
from ci_flame.record.jit import Jit

PLAN = RecordConfig(frequency_hz=1999, busy=1.0)  # however busy the tests' machine is
BUSY = """
def spin(n):
    total = 0
    for i in range(n):
        total += i * i
    return total

def main():
    for _ in range(20):
        spin(200_000)

main()
"""


def usable(name, *, python):
    return name in COLLECTORS and COLLECTORS[name].obstacle(machine.probe(), python=python) is None


needs_ebpf = [
    pytest.mark.root,
    pytest.mark.skipif(not usable("ebpf", python=True), reason="no eBPF here"),
]


def side(*words):
    return command.Side.here(words)


def run_once(*words):
    """Run a command once, unsampled; errors are what is looked at."""
    rehearse(side(*words))


def rehearse(given):
    with ExitStack() as stack:
        command._rehearsed(given, Jit.NONE, stack)


# -- what the command gets ------------------------------------------------------------


def test_the_command_gets_the_environment_it_would_have(tmp_path, monkeypatch):
    monkeypatch.delenv("LC_ALL", raising=False)
    monkeypatch.delenv("LC_CTYPE", raising=False)
    monkeypatch.setenv("LANG", "C")  # where Python would add LC_CTYPE
    monkeypatch.setenv("MULTI", "a\nb=c")
    out = tmp_path / "out"
    run_once("/bin/sh", "-c", f"env -0 > {out}; trap > {out}.traps; pwd > {out}.pwd")

    seen = dict(item.split("=", 1) for item in out.read_text().split("\0") if item)
    seen.pop(layout.PADDING_VARIABLE, None)  # the words above mention a Python
    assert {**seen, "PWD": "", "OLDPWD": "", "SHLVL": "", "_": ""} == {
        **os.environ, "PWD": "", "OLDPWD": "", "SHLVL": "", "_": "",
    }  # fmt: skip
    assert Path(Path(f"{out}.pwd").read_text().strip()) == Path.cwd()


def test_signals_are_as_without_us(tmp_path):
    """Python ignores SIGPIPE; a command that inherited that would never end in a pipe."""
    out = tmp_path / "out"
    run_once("/bin/sh", "-c", f"grep SigIgn /proc/self/status > {out}")

    assert int(out.read_text().split()[1], 16) & (1 << signal.SIGPIPE - 1) == 0


def test_stdin_is_empty_and_arguments_arrive_whole(tmp_path):
    out = tmp_path / "out"
    run_once("/bin/sh", "-c", f'cat > {out}; printf "%s|" "$@" >> {out}', "sh", "a b", "", "ü*")

    assert out.read_text() == "a b||ü*|"


def test_stdout_and_stderr_are_passed_on(capfd):
    run_once("/bin/sh", "-c", "echo out; echo err >&2")

    seen = capfd.readouterr()
    assert seen.out == "out\n"
    assert "err\n" in seen.err


# -- what is told of it ---------------------------------------------------------------


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("false",), "the command ended with exit code 1 in "),
        (("/bin/sh", "-c", "exit 7"), "the command ended with exit code 7 in "),
        (("/bin/sh", "-c", "kill -SEGV $$"), "the command ended with signal SIGSEGV in "),
        (("no-such-program",), "no-such-program cannot be run: No such file or directory"),
        (("/etc/passwd",), "/etc/passwd cannot be run: Permission denied"),
    ],
)
def test_a_command_that_fails(words, message):
    with pytest.raises(CollectError) as raised:
        run_once(*words)

    assert message in raised.value.message
    assert raised.value.exit_code == 3


def test_its_last_words_are_told():
    words = "i=0; while [ $i -lt 50 ]; do echo line $i >&2; i=$((i+1)); done; exit 1"
    with pytest.raises(CollectError) as raised:
        run_once("/bin/sh", "-c", words)

    assert "line 49" in raised.value.hint
    assert "line 41" not in raised.value.hint


def test_last_words_without_an_end_are_cut():
    words = "head -c 1000000 /dev/zero | tr '\\0' x >&2; echo the end >&2; exit 1"
    with pytest.raises(CollectError) as raised:
        run_once("/bin/sh", "-c", words)

    assert raised.value.hint.endswith("xxxthe end")
    assert len(raised.value.hint) < suspended.TAIL_BYTES + 100


def test_the_launcher_is_left_out_of_the_clocks():
    with command.Suspended(side("true")) as child:
        time.sleep(0.3)  # it waits: neither its start nor the waiting is the command's
        clocks = child.run()

    assert clocks.wall_ns < 300_000_000
    assert 0 < clocks.cpu_ns < 100_000_000


def test_children_count(tmp_path):
    script = tmp_path / "busy.py"
    script.write_text(BUSY)
    with command.Suspended(side("/bin/sh", "-c", f"{sys.executable} {script}; true")) as child:
        clocks = child.run()

    assert clocks.cpu_ns > 100_000_000


def test_what_a_command_leaves_running_is_ended(tmp_path):
    mark = tmp_path / "pid"
    run_once("/bin/sh", "-c", f"sleep 60 & echo $! > {mark}")

    pid = int(mark.read_text())
    for _ in range(100):
        if not alive(pid):
            break
        time.sleep(0.02)
    assert not alive(pid)


def alive(pid):
    try:
        return Path(f"/proc/{pid}/stat").read_text().rsplit(") ", 1)[1][0] not in "ZX"
    except OSError:
        return False


def test_a_folder_that_is_gone_leaves_no_pipe_open(tmp_path):
    given = replace(side("true"), folder=tmp_path / "gone")
    before = len(list(Path("/proc/self/fd").iterdir()))
    for _ in range(5):
        with pytest.raises(CollectError, match="gone: No such file or directory"):
            rehearse(given)

    assert len(list(Path("/proc/self/fd").iterdir())) == before


def test_a_signal_without_a_name_is_told_by_its_number():
    with pytest.raises(CollectError, match="the command ended with signal 40 in "):
        run_once("/bin/sh", "-c", "kill -40 $$")


def test_an_error_before_the_start_never_runs_the_command(tmp_path):
    mark = tmp_path / "ran"

    def fail():
        with command.Suspended(side("touch", str(mark))):
            raise KeyError("inside")

    with pytest.raises(KeyError):
        fail()
    assert not mark.exists()


# -- what Python it is ----------------------------------------------------------------


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        ((sys.executable, "x.py"), True),
        (("python3",), True),
        (("bash", "-c", "python3 x.py"), True),
        (("sh", "-c", "cd x && ./run.py --fast"), True),
        (("env", "A=1", "python3.11", "x"), True),
        (("timeout", "5", "/usr/bin/python3", "x"), True),
        (("bash", "-c", "gcc x.c"), False),
        (("bash", "-c", "./pythonic-name"), False),
        (("ls", "python3"), False),
        (("gcc", "x.py"), False),
    ],
)
def test_python_is_recognised(words, expected):
    assert interpreter.find(words, Path.cwd(), os.environ).python is expected


@pytest.mark.parametrize(
    "line",
    ["#!{python}", "#! {python} -B", "#!/usr/bin/env python3", "#!/usr/bin/env -S python3 -B"],
)
def test_scripts_are_recognised_by_their_first_line(tmp_path, line):
    script = tmp_path / "tool"
    script.write_text(line.format(python=sys.executable) + "\nprint()\n")
    script.chmod(0o755)

    found = interpreter.find(["./tool"], tmp_path, os.environ)

    assert found.python
    assert found.version.startswith("3.")


def test_the_interpreter_tells_version_and_path():
    import platform

    found = interpreter.find([sys.executable], Path.cwd(), os.environ)

    assert found.version == platform.python_version()
    assert any(each.endswith("site-packages") for each in found.path)


def test_a_binary_is_not_python():
    assert not interpreter.find(["/bin/ls"], Path.cwd(), os.environ).python
    assert not interpreter.find(["nosuch"], Path.cwd(), os.environ).python


# -- the side of the base commit ------------------------------------------------------


def run_git(folder, *words):
    subprocess.run(
        ["git", "-c", "user.name=t", "-c", "user.email=t@example.org", *words],
        cwd=folder,
        check=True,
        capture_output=True,
    )


@pytest.fixture
def project(tmp_path, monkeypatch):
    """A repository and a checkout of it; the command runs in its folder `bench`."""
    root = tmp_path / "project"
    (root / "bench").mkdir(parents=True)
    (root / "src").mkdir()
    (root / "bench" / "run.py").write_text("import shop; shop.work()\n")
    (root / "src" / "shop.py").write_text("def work(): pass\n")
    run_git(root, "init", "-q")
    run_git(root, "add", "-A")
    run_git(root, "commit", "-q", "-m", "one")
    tree = tmp_path / "tree"
    run_git(root, "worktree", "add", "-q", "--detach", str(tree))
    monkeypatch.chdir(root / "bench")
    return root, tree


def test_the_other_side_imports_its_own_code(project, monkeypatch, capfd):
    root, tree = project
    monkeypatch.setenv("PYTHONPATH", f"{root / 'src'}:/elsewhere")
    words = (sys.executable, "-c", "import shop; print(shop.__file__)")

    there = command.Side.there(words, Path.cwd(), tree)
    rehearse(there)
    rehearse(command.Side.here(words))

    assert there.folder == tree / "bench"
    assert there.environment["PYTHONPATH"].split(":")[:2] == [str(tree / "src"), "/elsewhere"]
    assert capfd.readouterr().out.splitlines() == [
        str(tree / "src" / "shop.py"),
        str(root / "src" / "shop.py"),
    ]


EDITABLE = """
import sys
MAPPING = {{"shop": {source!r}}}
class _EditableFinder:
    @classmethod
    def find_spec(cls, name, path=None, target=None):
        if name in MAPPING:
            from importlib.util import spec_from_file_location
            return spec_from_file_location(name, MAPPING[name])
def install():
    sys.meta_path.append(_EditableFinder)
"""


def test_an_editable_install_does_not_leak_into_the_other_side(
    project, tmp_path, monkeypatch, capfd
):
    """As setuptools makes it: a finder with a MAPPING, no entry in sys.path."""
    root, tree = project
    site = tmp_path / "site"
    site.mkdir()
    source = str(root / "src" / "shop.py")
    (site / "__editable___shop_finder.py").write_text(EDITABLE.format(source=source))
    (site / "sitecustomize.py").write_text(
        "import __editable___shop_finder\n__editable___shop_finder.install()\n"
    )
    monkeypatch.setenv("PYTHONPATH", str(site))
    words = (sys.executable, "-c", "import shop; print(shop.__file__)")

    rehearse(command.Side.here(words))
    rehearse(command.Side.there(words, Path.cwd(), tree))

    assert capfd.readouterr().out.splitlines() == [source, str(tree / "src" / "shop.py")]


def test_paths_into_the_project_lead_into_the_tree(project):
    root, tree = project
    (root / ".venv").mkdir()
    (root / ".venv" / "tool").write_text("#!/bin/sh\n")
    words = (
        "../.venv/tool", str(root / "src" / "shop.py"), str(root / ".venv"), "/etc/passwd", "x",
    )  # fmt: skip

    there = command.Side.there(words, Path.cwd(), tree)

    # What only the present tree has (a virtual environment) is taken from there.
    assert there.command == (
        str(root / "bench" / "../.venv/tool"),
        str(tree / "src" / "shop.py"),
        str(root / ".venv"),
        "/etc/passwd",
        "x",
    )
    assert there.state.commit == command.Side.here(("true",)).state.commit


def test_replay_has_one_side(project):
    root, tree = project
    plan = RecordConfig(collector="replay", replay=root)
    sides = (command.Side.here(("true",)), command.Side.there(("true",), Path.cwd(), tree))

    with pytest.raises(UsageError, match="replay has one side only"):
        command.record(plan, "x", sides, 1)


# -- real recordings ------------------------------------------------------------------


class TestEbpf:
    pytestmark = needs_ebpf

    def test_a_python_command(self, tmp_path, monkeypatch):
        (tmp_path / "busy.py").write_text(BUSY)
        monkeypatch.chdir(tmp_path)
        (run,) = command.record(PLAN, "busy", (side(sys.executable, "busy.py"),), 2)

        (measurement,) = run.measurements
        assert (measurement.benchmark, run.complete, len(measurement.processes)) == (
            "busy",
            True,
            2,
        )
        assert run.environment.collector == "ebpf"
        assert run.environment.python.startswith("3.")
        spin = Frame("spin", "busy")
        profile = measurement.profile()
        in_spin = sum(w.samples for stack, w in profile.stacks.items() if spin in stack)
        assert in_spin > 0.7 * profile.samples
        assert measurement.places[spin] == Place("busy.py", 2)
        for process in measurement.processes:
            (each,) = process.rounds
            assert each.iterations == 1
            assert set(each.references) == {"core", "memory", "kernel"}
            assert process.kept == each.profiles[measurement.modes[0]].samples > 50
            assert process.kept > 0.7 * process.expected
        assert not any(
            frame.module == "ci_flame.record.launcher"
            for stack in profile.stacks
            for frame in stack
        )

    def test_children_of_a_shell(self, tmp_path, monkeypatch):
        (tmp_path / "busy.py").write_text(BUSY)
        monkeypatch.chdir(tmp_path)
        words = f"{sys.executable} busy.py & {sys.executable} busy.py; wait"
        (run,) = command.record(PLAN, "two", (side("bash", "-c", words),), 1)

        profile = run.measurements[0].profile()
        spin = sum(w.samples for s, w in profile.stacks.items() if Frame("spin", "busy") in s)
        assert spin > 0.6 * profile.samples

    def test_sides_alternate_and_stay_apart(self, tmp_path, monkeypatch):
        sides = []
        for name in ("one", "two"):
            (tmp_path / name).mkdir()
            (tmp_path / name / "busy.py").write_text(BUSY.replace("spin", f"spin_{name}"))
            monkeypatch.chdir(tmp_path / name)
            sides.append(side(sys.executable, "busy.py"))
        before, after = command.record(PLAN, "x", sides, 2)

        for run, own, other in ((before, "one", "two"), (after, "two", "one")):
            names = {f.function for stack in run.measurements[0].profile().stacks for f in stack}
            assert f"spin_{own}" in names
            assert f"spin_{other}" not in names

    def test_no_work_is_refused(self):
        # At 10 Hz a millisecond of work is never seen.
        plan = RecordConfig(frequency_hz=10, collector="ebpf")
        for _ in range(5):
            try:
                command.record(plan, "nothing", (side("true"),), 1)
            except CollectError as error:
                assert "nothing: no sample in 1 repetitions" in error.message  # noqa: PT017
                assert error.exit_code == 3  # noqa: PT017
                return
        pytest.fail("five times a sample in a command that does nothing")


@pytest.mark.root
@pytest.mark.skipif(not usable("perf", python=False), reason="no perf here")
def test_native_commands_are_recorded_by_perf(tmp_path):
    words = ("sh", "-c", "i=0; while [ $i -lt 200000 ]; do i=$((i+1)); done")
    (run,) = command.record(PLAN, "loop", (side(*words),), 1)

    assert run.environment.collector == "perf"
    assert run.environment.python == ""
    profile = run.measurements[0].profile()
    assert profile.samples > 50
    assert {f.kind for stack in profile.stacks for f in stack} <= {
        Kind.NATIVE, Kind.KERNEL, Kind.MARK, Kind.JIT,
    }  # fmt: skip
