"""Further processes: their arguments, environment, order, and what goes wrong in them."""

import os
import sys
import time
from pathlib import Path

import pytest
from full_disk import little_room
from unprivileged import as_root

from ci_flame.config import RecordConfig
from ci_flame.errors import ChildError
from ci_flame.profile import Frame, Kind
from ci_flame.record import layout, processes
from ci_flame.record.alternating import order
from ci_flame.record.processes import Invocation, Tree


@pytest.mark.parametrize(
    ("given", "positionals", "kept"),
    [
        ("", "", ""),
        ("bench tests/x.py::test_a", "bench tests/x.py::test_a", ""),
        ("-p no:randomly --db=x -c setup.cfg", "", "-p no:randomly --db=x -c setup.cfg"),
        ("-k fast -m slow -x --lf -q", "", "-q"),
        ("-kfast -n4 -n auto --dist load", "", ""),
        ("--numprocesses=4 --maxfail=1 --maxfail 2 -s", "", "-s"),
        ("--junitxml out.xml --junit-xml=out.xml", "", ""),
        ("--cov --cov=pkg --cov-report xml --cov-report=html --no-cov", "", ""),
        ("--cov pkg bench", "bench", ""),
        ("--cov bench", "bench", ""),  # its value is optional: bench is what was selected
        ("--benchmark-json out.json --benchmark-only --benchmark-min-rounds=3", "", ""),
        ("--flame --flame-out DIR --flame-seconds=1 --flame-quick -v", "", "-v"),
        ("-o cache_dir=x -W error --import-mode=importlib", "",
         "-o cache_dir=x -W error --import-mode=importlib"),
        ("--rootdir=/a --basetemp /b --strict-markers", "", "--strict-markers"),
        ("-- bench", "bench", ""),
    ],
)  # fmt: skip
def test_arguments_that_shape_how_a_test_runs_are_kept(given, positionals, kept):
    assert processes.child_arguments(given.split(), positionals.split()) == kept.split()


def test_the_command_names_the_same_test_here_and_in_the_tree():
    invocation = Invocation(
        ("-q", "bench"), ("bench",), "/p/sub", "/p/sub", "/p/sub/pytest.ini", ("-n", "0")
    )
    tree = Tree(Path("/p"), Path("/base"))
    benchmark = "bench/test_a.py::TestX::test_y[a::b-1]"
    here = processes.command(invocation, benchmark, Path("/p/sub/bench/test_a.py"), None)
    there = processes.command(invocation, benchmark, Path("/p/sub/bench/test_a.py"), tree)

    assert here[:3] == [sys.executable, "-m", "pytest"]
    assert here[-1] == "/p/sub/bench/test_a.py::TestX::test_y[a::b-1]"
    assert there == [word.replace("/p/", "/base/") for word in here]
    assert here[3:-1] == [
        "--rootdir=/p/sub", "-c", "/p/sub/pytest.ini", "-o", "addopts=", "-q",
        "-n", "0", "--color=no", "--flame",
    ]  # fmt: skip


def test_the_environment_is_that_of_this_process_without_what_belongs_to_it(tmp_path):
    given = {
        "PYTEST_ADDOPTS": "-x",
        "PYTEST_CURRENT_TEST": "a",
        "COV_CORE_SOURCE": "b",
        "HOME": "/h",
    }
    made = processes.environment(None, tmp_path, given)
    padding = made.pop(layout.PADDING_VARIABLE)

    assert set(padding) <= {"x"}
    assert made == {
        "HOME": "/h",
        "PYTHONHASHSEED": "0",
        "CI_FLAME_CHILD": str(tmp_path),
    }


def test_a_hash_seed_that_the_user_set_is_kept(tmp_path):
    made = processes.environment(None, tmp_path, {"PYTHONHASHSEED": "12"})

    assert made["PYTHONHASHSEED"] == "12"


def test_the_tree_s_folders_come_first_on_the_path(tmp_path, monkeypatch):
    project, base = tmp_path / "project", tmp_path / "base"
    monkeypatch.setattr(
        sys,
        "path",
        [str(project / "src"), str(project / ".venv/lib/site-packages"), "/usr/lib/x", *sys.path],
    )
    made = processes.environment(Tree(project, base), tmp_path, {"PYTHONPATH": f"/one{os.pathsep}"})

    assert made["PYTHONPATH"].split(os.pathsep) == [str(base / "src"), "/one"]


def test_modules_that_came_from_the_wrong_tree_are_named(tmp_path, monkeypatch):
    project, base = tmp_path / "project", tmp_path / "project" / ".base"

    def module(name, file):
        monkeypatch.setitem(sys.modules, name, type(sys)(name))
        sys.modules[name].__file__ = str(file)

    module("leaking_one", project / "src/leaking_one.py")
    module("right_one", base / "src/right_one.py")
    module("installed_one", project / ".venv/lib/python3/site-packages/installed_one.py")

    assert processes.leaked_modules(Tree(project, base)) == ["leaking_one"]


@pytest.mark.parametrize(("before", "after"), [(5, 4), (0, 4), (5, 0), (0, 0), (1, 3)])
def test_sides_alternate_in_random_order(before, after):
    made = order(before, after, "a")

    assert (made.count("before"), made.count("after")) == (before, after)
    for start in range(0, 2 * min(before, after), 2):
        assert set(made[start : start + 2]) == {"before", "after"}
    assert made == order(before, after, "a")


def test_the_order_differs_between_benchmarks():
    assert len({order(5, 5, str(seed)) for seed in range(20)}) > 5


def test_the_plan_reaches_the_other_process(tmp_path):
    plan = RecordConfig("ebpf", 4999, 5, 1.5, 7.0)
    tree = Tree(Path("/p"), Path("/b"))
    suspects = (Frame("Shop.sell.<locals>.<lambda>", "shop"), Frame("memcpy", "libc", Kind.NATIVE))
    processes.write_plan(tmp_path, plan, tree, gc_on=True, suspects=suspects)

    told = processes.read_plan({"CI_FLAME_CHILD": str(tmp_path)})

    assert told is not None
    assert told.record == RecordConfig("ebpf", 4999, 1, 1.5, 7.0)
    assert (told.gc_on, told.tree, told.exchange) == (True, tree, tmp_path)
    assert told.suspects == suspects
    assert processes.read_plan({}) is None


def _run(tmp_path, body, plugins=(), **options):
    file = tmp_path / "test_it.py"
    file.write_text(body)
    invocation = Invocation(
        ("-p", "no:ci_flame", "-p", "no:randomly", *plugins), (), str(tmp_path), str(tmp_path)
    )
    return processes.run(invocation, "test_it.py::test_it", file, RecordConfig(), **options)


def test_a_failing_process_is_quoted(tmp_path, monkeypatch):
    body = "def test_it(pytestconfig):\n    raise LookupError('no shop here')\n"

    with pytest.raises(ChildError) as caught:
        _run_without_flame(tmp_path, body, monkeypatch)

    assert "test_it.py::test_it: run again, it ended with exit code 1\n" in caught.value.message
    assert "LookupError: no shop here" in caught.value.message
    assert caught.value.hint.endswith("pytest test_it.py::test_it")


def test_a_process_that_does_not_end_is_ended(tmp_path, monkeypatch):
    body = (
        "import os, pathlib, time\n"
        "def test_it():\n"
        f"    pathlib.Path({str(tmp_path / 'pid')!r}).write_text(str(os.getpid()))\n"
        "    time.sleep(60)\n"
    )
    with pytest.raises(ChildError, match="did not end within 3 s"):
        _run_without_flame(tmp_path, body, monkeypatch, timeout_s=3)

    pid = int((tmp_path / "pid").read_text())
    with pytest.raises(ProcessLookupError):
        os.kill(pid, 0)


def test_what_a_benchmark_leaves_running_is_ended(tmp_path, monkeypatch):
    body = (
        "import pathlib, subprocess\n"
        "def test_it():\n"
        "    left = subprocess.Popen(['sleep', '60'])\n"
        f"    pathlib.Path({str(tmp_path / 'pid')!r}).write_text(str(left.pid))\n"
        "    raise LookupError\n"
    )
    with pytest.raises(ChildError):
        _run_without_flame(tmp_path, body, monkeypatch)

    cmdline = Path(f"/proc/{(tmp_path / 'pid').read_text()}/cmdline")  # empty once it has ended
    deadline = time.monotonic() + 10
    while cmdline.exists() and cmdline.read_bytes() and time.monotonic() < deadline:
        time.sleep(0.01)

    assert not (cmdline.exists() and cmdline.read_bytes())


@pytest.mark.parametrize(
    ("plugin", "kept"),
    [
        (("-p", "no:cacheprovider"), False),
        (("-pno:cacheprovider",), False),
        ((), True),
    ],
)
def test_a_cache_of_its_own_where_pytest_keeps_one(tmp_path, monkeypatch, plugin, kept):
    """Without the plugin `cache_dir` is an unknown option, an error with `-W error`."""
    told = tmp_path / "told"
    monkeypatch.chdir(tmp_path)
    body = (
        "import pathlib\n"
        "def test_it(pytestconfig):\n"
        "    cache = getattr(pytestconfig, 'cache', None)\n"
        f"    pathlib.Path({str(told)!r}).write_text(str(cache and cache.makedir('here')))\n"
    )
    with pytest.raises(ChildError, match="exit code 0"):  # as nothing was recorded
        _run_without_flame(
            tmp_path, body, monkeypatch, plugins=("-p", "no:asyncio", "-W", "error", *plugin)
        )

    assert ("/ci-flame-" in told.read_text()) == kept
    assert not (tmp_path / ".pytest_cache").exists()


@pytest.mark.parametrize(
    ("words", "has"),
    [
        ("-q", True),
        ("-p no:randomly -pno:xdist", True),
        ("-q -p no:cacheprovider -s", False),
        ("-p no:cacheprovider -pcacheprovider", True),
        ("-p cacheprovider -p no:cacheprovider", False),
        ("tests/no:cacheprovider", True),
    ],
)
def test_the_last_word_on_the_cache_counts(words, has):
    assert processes._has_cache(words.split()) == has


@as_root
@pytest.mark.parametrize(
    ("size", "what"), [("4k", "no space left on device"), ("16k", "exit code 1")]
)
def test_a_full_disk_is_named(tmp_path, monkeypatch, size, what):
    """Before the other process starts, and when it writes its run."""
    body = (
        "import os, pathlib\n"
        "def test_it():\n"
        "    pathlib.Path(os.environ['CI_FLAME_CHILD'], 'run').write_bytes(bytes(65_536))\n"
    )
    with little_room(tmp_path / "small", monkeypatch, size) as small:
        if size == "4k":
            (small / "filler").write_bytes(b"x" * 4096)
        with pytest.raises(ChildError, match=what) as caught:
            _run_without_flame(tmp_path, body, monkeypatch)
        assert caught.value.hint == f"is there room in {small}?"


def test_a_test_that_is_not_there_is_missing_not_broken(tmp_path, monkeypatch):
    with pytest.raises(processes.MissingBenchmark, match="was not found again"):
        _run_without_flame(tmp_path, "def test_other(): pass\n", monkeypatch)


def _run_without_flame(tmp_path, body, monkeypatch, **options):
    """Run with the option known but nothing recorded: these tests are about the process."""
    (tmp_path / "conftest.py").write_text(
        "def pytest_addoption(parser): parser.addoption('--flame', action='store_true')\n"
    )
    return _run(tmp_path, body, **options)
