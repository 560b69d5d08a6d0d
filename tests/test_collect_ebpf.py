"""The eBPF collector on real processes, as root."""

import collections
import contextlib
import ctypes
import gc
import hashlib
import itertools
import json
import os
import random
import shutil
import signal
import socket
import subprocess
import sys
import textwrap
import threading
import time
from pathlib import Path

import pytest

from ci_flame.collect import COLLECTORS, Target, choose
from ci_flame.collect.ebpf import collector as ebpf
from ci_flame.collect.ebpf import cpython, libbpf, sampler, timers
from ci_flame.collect.machine import probe
from ci_flame.errors import CollectError
from ci_flame.profile import GC, TRUNCATED, Frame, Kind
from ci_flame.symbols.native import NativeNames

MACHINE = probe()
OBSTACLE = COLLECTORS["ebpf"].obstacle(MACHINE, python=True)
pytestmark = [
    pytest.mark.root,
    pytest.mark.skipif(OBSTACLE is not None, reason=f"eBPF: {OBSTACLE.reason if OBSTACLE else ''}"),
]
HERE = Path(__file__).parent
OTHERS = [
    path
    for minor in (12, 13, 14, 15)
    for path in sorted(Path.home().glob(f".pyenv/versions/3.{minor}.*/bin/python3.{minor}"))[:1]
]


@contextlib.contextmanager
def sampling(pid=None, *, python=True, frequency_hz=1999, roots=(str(HERE),), files=None):
    target = Target(
        pid or os.getpid(),
        python=python,
        frequency_hz=frequency_hz,
        module_files=files or {},
        roots=roots,
    )
    session = COLLECTORS["ebpf"].start(target)
    try:
        yield session
    finally:
        session.close()


def window(session, work, phase=1):
    """Run `work` inside a window; return the recording and the CPU seconds of the window."""
    before = time.process_time()
    session.set_phase(phase)
    work()
    session.set_phase(0)
    cpu = time.process_time() - before
    return session.read(), cpu


def for_cpu_seconds(seconds, work):
    def repeat():
        end = time.process_time() + seconds
        while time.process_time() < end:
            work()

    return repeat


def names(recording, phase=1):
    """Return [(names of the Python frames and marks, samples)]."""
    return [
        ([str(f) for f in stack if f.kind in (Kind.PYTHON, Kind.MARK)], count)
        for stack, count in recording.samples.get(phase, {}).items()
    ]


def share(recording, *wanted, phase=1):
    """Return the share of samples whose stack holds all of `wanted`, in this order."""
    total = hits = 0
    for stack, count in names(recording, phase):
        rest = iter(stack)
        total += count
        hits += count * all(any(f == w for f in rest) for w in wanted)
    return hits / total if total else 0.0


def fibonacci(n):
    return n if n < 2 else fibonacci(n - 1) + fibonacci(n - 2)


def mixed_work():
    fibonacci(12)
    sum(value * value for value in range(2000))
    json.loads(json.dumps({str(k): [k] * 3 for k in range(60)}))
    sorted(range(500), key=lambda value: -value)
    hashlib.sha256(b"x" * 50_000).digest()


SELF = "test_collect_ebpf"


@pytest.mark.parametrize("frequency_hz", [999, 1999])
def test_a_benchmark_has_full_stacks_and_loses_nothing(frequency_hz):
    with sampling(frequency_hz=frequency_hz) as session:
        recording, _ = window(session, for_cpu_seconds(1.0, mixed_work))

    kept = sum(recording.samples[1].values())
    test = f"{SELF}:test_a_benchmark_has_full_stacks_and_loses_nothing"
    assert share(recording, test, f"{SELF}:for_cpu_seconds.<locals>.repeat") >= 0.99
    assert recording.period_ns == round(1e9 / frequency_hz)
    assert recording.lost == 0
    assert recording.metrics["collector.unsent"] == 0
    assert kept == recording.metrics["collector.ticks"]  # every tick reached the recording
    # A frame caught between its stores reads as a fault: about one sample in 2,000.
    assert sum(recording.truncated.values()) <= 0.005 * kept
    assert sum(recording.no_python.values()) <= 0.01 * kept
    assert recording.metrics["collector.bpf_ns"] > 0
    assert list(recording.samples) == [1]


@pytest.mark.parametrize("frequency_hz", [999, 1999])
def test_as_many_samples_are_kept_as_the_cpu_time_has_periods(frequency_hz):
    """At least 98 % of them; a window in which the hypervisor took the CPU away may be repeated."""
    shares = []
    with sampling(frequency_hz=frequency_hz) as session:
        for phase in (1, 2, 3):
            recording, cpu = window(session, for_cpu_seconds(2.0, mixed_work), phase=phase)
            shares.append(sum(recording.samples[phase].values()) / (cpu * frequency_hz))
            if 0.98 <= shares[-1] <= 1.03:
                return

    pytest.fail(f"kept / expected: {shares}")


def test_the_c_leaf_is_named():
    with sampling() as session:
        work = for_cpu_seconds(0.3, lambda: hashlib.sha256(b"x" * 1_000_000).digest())
        recording, _ = window(session, work)

    leaves = {}
    for stack, count in recording.samples[1].items():
        frame = next((f for f in stack if f.kind is Kind.NATIVE), None)
        leaves[frame] = leaves.get(frame, 0) + count
    (top, count), *_ = sorted(leaves.items(), key=lambda pair: -pair[1])
    assert top.module in ("libcrypto", "_hashlib", "_sha256", "_sha2")
    assert count > 0.8 * sum(leaves.values())


@pytest.mark.skipif(shutil.which("c++") is None, reason="no C++ compiler")
def test_a_leaf_of_a_c_plus_plus_library_has_its_sources_name(tmp_path):
    source = tmp_path / "shop.cpp"
    source.write_text(
        "namespace shop { template <typename T> struct Cart {\n"
        "  __attribute__((noinline)) static T total(T rows) {\n"
        "    volatile T sum = 0; while (rows) sum = sum + rows--; return sum; }\n"
        "}; template struct Cart<long>; }\n"
        'extern "C" long checkout(long rows) { return shop::Cart<long>::total(rows); }\n'
    )
    library = tmp_path / "libshop.so"
    subprocess.run(["c++", "-O1", "-shared", "-fPIC", source, "-o", library], check=True)
    checkout = ctypes.CDLL(str(library)).checkout
    with sampling() as session:
        recording, _ = window(
            session, for_cpu_seconds(0.5, lambda: checkout(ctypes.c_long(100_000)))
        )

    leaves = collections.Counter()
    for stack, count in recording.samples[1].items():
        leaves[str(stack[-1])] += count
    assert leaves["native:libshop:shop::Cart<long>::total"] > 0.8 * leaves.total()
    assert not [name for name in leaves if ":_Z" in name]


def test_the_kernel_stack_is_below_the_call_that_entered_it():
    with Path("/dev/zero").open("rb", buffering=0) as zero, sampling() as session:
        recording, _ = window(session, for_cpu_seconds(0.3, lambda: zero.read(4_000_000)))

    deep = {s: n for s, n in recording.samples[1].items() if any(f.kind is Kind.KERNEL for f in s)}
    assert sum(deep.values()) > 0.5 * sum(recording.samples[1].values())
    for stack in deep:
        kinds = [f.kind for f in stack]
        first = kinds.index(Kind.KERNEL)
        assert set(kinds[first:]) == {Kind.KERNEL}
        assert Kind.PYTHON in kinds[:first]
    assert any("read" in f.function for s in deep for f in s if f.kind is Kind.KERNEL)


def test_phases_are_told_apart_and_outside_is_not_kept():
    with sampling() as session:
        window_of = for_cpu_seconds(0.15, lambda: fibonacci(14))
        session.set_phase(7)
        window_of()
        session.set_phase(0)
        for_cpu_seconds(0.3, mixed_work)()
        session.set_phase(8)
        for_cpu_seconds(0.15, lambda: sum(range(1000)))()
        session.set_phase(0)
        recording = session.read()
        again = session.read()

    assert set(recording.samples) == {7, 8}
    assert share(recording, f"{SELF}:fibonacci", phase=7) > 0.9
    assert share(recording, f"{SELF}:fibonacci", phase=8) == 0.0
    assert share(recording, f"{SELF}:mixed_work", phase=7) == 0.0
    assert again.samples == {}


def generated_functions():
    """Run functions that are compiled, called and freed, one after the other."""
    for number in range(40):
        scope = {}
        exec(  # noqa: S102 - what is tested
            compile(f"def made_{number}():\n    return sum(range(3000))", "<string>", "exec"), scope
        )
        for _ in range(5):
            scope[f"made_{number}"]()


def numbers():
    total = 0
    for value in range(9000):
        total += value * value
        yield total


def großer_λ_name():  # noqa: PLC2401 - what is tested
    return sum(range(30_000))


class Snake:
    def метод(self):  # noqa: PLC2401 - what is tested
        return sum(range(30_000))


def test_generators_exec_and_names_outside_ascii():
    def work():
        sum(numbers())
        generated_functions()
        großer_λ_name()
        Snake().метод()

    with sampling() as session:
        recording, _ = window(session, for_cpu_seconds(0.8, work))

    seen = {f for stack, _ in names(recording) for f in stack}
    assert share(recording, f"{SELF}:numbers") > 0.01
    assert f"{SELF}:großer_λ_name" in seen
    assert f"{SELF}:Snake.метод" in seen
    made = {f for f in seen if ":made_" in f}
    assert len(made) == 40, "each generated function has its own name, although addresses repeat"
    assert all(f.startswith("<string>:") for f in made)
    # Nothing is charged to a function that did not run below this caller.
    for stack, _ in names(recording):
        for above, below in itertools.pairwise(stack):
            assert ":made_" not in below or above == f"{SELF}:generated_functions", stack


def left(path, work):
    wander(path, work)


def right(path, work):
    wander(path, work)


def wander(path, work):
    """Go a way of calls that no other sample has gone, so that each sends its whole stack."""
    if path > 1:
        (left if path & 1 else right)(path >> 1, work)
    else:
        work()


def test_samples_that_do_not_fit_are_counted_as_lost():
    """The collector process stands still until the ring buffer (8 MiB) is full."""
    limit = sys.getrecursionlimit()
    sys.setrecursionlimit(4000)
    steps = random.Random(1)  # noqa: S311 - no secret
    try:
        with sampling(frequency_hz=4999) as session:
            os.kill(session._process.pid, signal.SIGSTOP)
            try:
                leaf = lambda: sum(range(8_000))  # noqa: E731
                work = for_cpu_seconds(1.0, lambda: wander(1 << 600 | steps.getrandbits(600), leaf))
                session.set_phase(1)
                work()
                session.set_phase(0)
            finally:
                os.kill(session._process.pid, signal.SIGCONT)
            recording = session.read()
            again, _ = window(session, for_cpu_seconds(0.1, mixed_work), phase=2)
    finally:
        sys.setrecursionlimit(limit)

    assert recording.lost > 0
    assert recording.metrics["collector.unsent"] > 0
    kept = sum(recording.samples[1].values())
    assert kept + recording.lost == recording.metrics["collector.ticks"]
    assert again.lost == 0
    assert share(again, f"{SELF}:mixed_work", phase=2) > 0.8


def test_every_thread_is_sampled():
    def in_thread():
        for_cpu_seconds(0.4, lambda: fibonacci(10))()

    def work():
        threads = [threading.Thread(target=in_thread) for _ in range(3)]
        for each in threads:
            each.start()
        for each in threads:
            each.join()

    with sampling() as session:
        recording, _ = window(session, work)

    inner = f"{SELF}:test_every_thread_is_sampled.<locals>.in_thread"
    assert share(recording, "threading:Thread._bootstrap", inner) > 0.95


def descend(depth, work):
    if depth:
        descend(depth - 1, work)
    else:
        work()


@pytest.mark.parametrize(("depth", "cut"), [(200, False), (500, False), (900, False), (1500, True)])
def test_deep_recursion_keeps_its_root_or_says_that_it_is_cut(depth, cut):
    limit = sys.getrecursionlimit()
    sys.setrecursionlimit(4000)
    try:
        with sampling() as session:
            leaf = for_cpu_seconds(0.2, lambda: sum(range(5000)))
            recording, _ = window(session, lambda: descend(depth, leaf))
    finally:
        sys.setrecursionlimit(limit)

    total = sum(recording.samples[1].values())
    test = f"{SELF}:test_deep_recursion_keeps_its_root_or_says_that_it_is_cut"
    stack = max(recording.samples[1].items(), key=lambda pair: pair[1])[0]
    if cut:
        assert share(recording, test) < 0.05
        assert recording.truncated[1] > 0.95 * total
        assert stack[0] == TRUNCATED
        assert sum(f.function == "descend" for f in stack) > 1000
    else:
        assert share(recording, test) >= 0.98
        assert recording.truncated.get(1, 0) <= 0.02 * total
        assert sum(f.function == "descend" for f in stack) == depth + 1


def test_garbage_collection_is_a_frame_between_caller_and_leaf():
    graph = []
    for _ in range(60_000):
        node = {"next": graph}
        graph = [node, graph]

    with sampling() as session:
        recording, _ = window(session, for_cpu_seconds(0.4, gc.collect))
        quiet, _ = window(session, for_cpu_seconds(0.2, mixed_work), phase=2)

    assert share(recording, f"{SELF}:for_cpu_seconds.<locals>.repeat", "[gc]") > 0.9
    for stack in recording.samples[1]:
        if GC in stack:
            at = stack.index(GC)
            assert stack[at - 1].kind is Kind.PYTHON
            assert all(f.kind in (Kind.NATIVE, Kind.KERNEL) for f in stack[at + 1 :])
    assert share(quiet, "[gc]", phase=2) < 0.2


def test_two_modules_in_a_folder_with_a_path_of_300_bytes(tmp_path):
    folder = tmp_path
    while len(os.fsencode(folder)) < 300:
        folder = folder / ("very_long_folder_name_" + "x" * 20)
    folder.mkdir(parents=True)
    for name in ("first", "second"):
        source = f"def work_{name}():\n    return sum(range(20000))\n"
        (folder / f"{name}_module.py").write_text(source)
    scope = {}
    for name in ("first", "second"):
        file = folder / f"{name}_module.py"
        exec(compile(file.read_text(), str(file), "exec"), scope)  # noqa: S102 - what is tested

    with sampling(roots=(str(folder), str(HERE))) as session:
        work = for_cpu_seconds(0.3, lambda: (scope["work_first"](), scope["work_second"]()))
        recording, _ = window(session, work)

    assert share(recording, "first_module:work_first") > 0.2
    assert share(recording, "second_module:work_second") > 0.2
    place = recording.places[Frame("work_second", "second_module")]
    assert (place.file, place.line) == ("second_module.py", 1)


SCRIPT = """
import os, sys, time
def busy(seconds):
    end = time.process_time() + seconds
    while time.process_time() < end:
        sum(range(1000))
{body}
def main():
    sys.stdin.readline()
    work()
    print("done", flush=True)
    sys.stdin.readline()
main()
"""


@contextlib.contextmanager
def script(tmp_path, body, python=sys.executable):
    """Start a script that works between two lines on its standard input."""
    file = tmp_path / "target.py"
    file.write_text(SCRIPT.format(body=textwrap.dedent(body)))
    with subprocess.Popen(
        [str(python), str(file)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as process:
        try:
            yield process
        finally:
            process.kill()


def tell(process):
    process.stdin.write("go\n")
    process.stdin.flush()


def record_script(tmp_path, body, python=sys.executable):
    with (
        script(tmp_path, body, python) as process,
        sampling(process.pid, roots=(str(tmp_path),)) as session,
    ):
        session.set_phase(1)
        tell(process)
        assert process.stdout.readline() == "done\n"
        session.set_phase(0)
        return session.read(), session


def test_children_by_fork_keep_their_python_stacks(tmp_path):
    body = """
    import multiprocessing
    def child(): busy(0.3)
    def work():
        pid = os.fork()
        if pid == 0:
            child()
            os._exit(0)
        os.waitpid(pid, 0)
        context = multiprocessing.get_context("fork")
        process = context.Process(target=child)
        process.start()
        process.join()
    """
    recording, _ = record_script(tmp_path, body)

    assert share(recording, "target:main", "target:work", "target:child", "target:busy") > 0.9
    assert share(recording, "multiprocessing.process:BaseProcess.run", "target:child") > 0.3


def test_children_by_exec_are_found_again(tmp_path):
    (tmp_path / "inner.py").write_text(
        "import time\n"
        "def inner():\n"
        "    end = time.process_time() + 0.4\n"
        "    while time.process_time() < end:\n"
        "        sum(range(1000))\n"
        "inner()\n"
    )
    body = """
    import subprocess
    def work():
        inner = os.path.join(os.path.dirname(__file__), "inner.py")
        subprocess.run([sys.executable, "-S", inner], check=True)
        subprocess.run(["sh", "-c", f"exec {sys.executable} -S {inner}"], check=True)
    """
    recording, _ = record_script(tmp_path, body)

    assert share(recording, "inner:<module>", "inner:inner") > 0.75


def bare_sampler():
    """A sampler that samples nothing: what it knows of programs, without the BPF object."""
    made = object.__new__(sampler.Sampler)
    made._native = NativeNames()
    made._unsupported = {}
    made._images = {}
    return made


def refuse(*_):
    raise cpython.UnsupportedPythonError("CPython 3.99 is not supported")


@pytest.mark.parametrize("refused", ["find_python", "pack"])
def test_a_child_that_cannot_be_walked_is_counted_and_ends_nothing(monkeypatch, refused):
    layout = cpython.find_python(os.getpid(), NativeNames())
    if refused == "pack":
        monkeypatch.setattr(cpython.Layout, "pack", refuse)
        monkeypatch.setattr(cpython, "find_python", lambda *_: layout)
    else:
        monkeypatch.setattr(cpython, "find_python", refuse)
    made = bare_sampler()
    image = sampler.Image(os.getpid(), searched_until=time.monotonic() + 5)

    assert made._search(image)
    assert made._unsupported == {"CPython 3.99 is not supported": 1}


def test_the_launcher_of_a_native_command_may_be_any_python(monkeypatch):
    monkeypatch.setattr(cpython, "find_python", refuse)

    assert bare_sampler()._root(os.getpid(), python=False).layout == cpython.EMPTY
    with pytest.raises(cpython.UnsupportedPythonError):
        bare_sampler()._root(os.getpid(), python=True)


def test_a_process_that_has_ended_is_not_put_back_among_those_that_are_sampled():
    with contextlib.closing(libbpf.BpfObject(sampler.OBJECT, sampler.TREE_PROGRAMS)) as loaded:
        key, value = bytes([1, 0, 0, 0]), bytes(16 + len(cpython.EMPTY))

        assert not loaded.replace("processes", key, value)
        assert loaded.lookup("processes", key, len(value)) is None
        loaded.update("processes", key, value)
        assert loaded.replace("processes", key, b"\1" + value[1:])
        assert loaded.lookup("processes", key, len(value)) == b"\1" + value[1:]


@pytest.mark.parametrize("python", OTHERS, ids=lambda path: path.name)
def test_another_cpython(tmp_path, python):
    body = """
    import gc
    class Ä:
        def work(self):
            busy(0.3)
            graph = []
            for _ in range(30000):
                graph = [{"next": graph}, graph]
            end = time.process_time() + 0.3
            while time.process_time() < end:
                gc.collect()
    def generate():
        yield sum(map(lambda n: n, range(100)))
    def work():
        Ä().work()
        for _ in range(3000):
            list(generate())
    """
    recording, session = record_script(tmp_path, body, python)

    assert session.started["python"].startswith(python.name.removeprefix("python"))
    assert share(recording, "target:<module>", "target:main", "target:work") > 0.97
    assert share(recording, "target:Ä.work", "target:busy") > 0.2
    assert share(recording, "target:Ä.work", "[gc]") > 0.2
    assert share(recording, "target:generate") > 0.0
    assert share(recording, "target:busy", "[gc]") == 0.0


def test_a_command_that_is_not_python_shows_native_leaves():
    command = [
        "sh",
        "-c",
        "read line; i=0; while [ $i -lt 300000 ]; do i=$((i+1)); done; echo done",
    ]
    with (
        subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        ) as process,
        sampling(process.pid, python=False) as session,
    ):
        session.set_phase(1)
        tell(process)
        assert process.stdout.readline() == "done\n"
        session.set_phase(0)
        process.wait()
        recording = session.read()

    assert all(f.kind in (Kind.NATIVE, Kind.KERNEL) for s in recording.samples[1] for f in s)
    assert any(
        f.module in ("dash", "bash", "sh", "busybox") for s in recording.samples[1] for f in s
    )
    assert recording.no_python == {}


def test_names_are_known_after_the_target_was_killed(tmp_path):
    body = "def work(): busy(60)"
    with (
        script(tmp_path, body) as process,
        sampling(process.pid, roots=(str(tmp_path),)) as session,
    ):
        session.set_phase(1)
        tell(process)
        time.sleep(0.4)
        process.send_signal(signal.SIGKILL)
        process.wait()
        time.sleep(0.1)
        recording = session.read()
        leaves = {s[-1] for s in recording.samples[1] if s[-1].kind is Kind.NATIVE}

    assert share(recording, "target:<module>", "target:work", "target:busy") > 0.95
    assert any(f.module.startswith(("libpython3", "python3")) for f in leaves)


def test_a_target_that_is_gone_is_refused_by_number():
    process = subprocess.Popen([sys.executable, "-c", ""])
    process.wait()

    with pytest.raises(CollectError, match=f"process {process.pid} ") as error:
        COLLECTORS["ebpf"].start(Target(process.pid, python=True))
    assert error.value.exit_code == 3


def test_a_target_without_python_is_refused_when_python_is_wanted():
    with subprocess.Popen(["sleep", "30"]) as process:
        try:
            with pytest.raises(CollectError, match="runs no CPython") as error:
                COLLECTORS["ebpf"].start(Target(process.pid, python=True))
        finally:
            process.kill()
    assert "3.11" in error.value.hint


@pytest.mark.parametrize("frequency_hz", [0, 9, 20_001])
def test_frequencies_outside_the_limits_are_refused(frequency_hz):
    with pytest.raises(CollectError, match=f"{frequency_hz} Hz is not between 10 and 20000"):
        COLLECTORS["ebpf"].start(Target(os.getpid(), python=True, frequency_hz=frequency_hz))


def test_a_frequency_that_the_kernel_would_throttle_is_refused_with_the_cure():
    # As set here; the sysctl is left alone, so the collector's own check is called.
    limit = timers.max_sample_rate()
    with pytest.raises(CollectError, match=f"max_sample_rate is {limit}") as error:
        timers.check_rate(limit)
    assert error.value.hint.startswith("sudo sysctl kernel.perf_event_max_sample_rate=")


def alive(pid):
    try:
        state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except OSError:
        return False
    return state != "Z"


def test_close_ends_the_process_and_may_be_repeated():
    session = COLLECTORS["ebpf"].start(Target(os.getpid(), python=True))
    pid = session._process.pid
    assert alive(pid)
    session.close()
    session.close()
    assert not alive(pid)
    with pytest.raises(CollectError, match="is closed"):
        session.read()


def test_the_collector_ends_with_its_owner_even_if_a_child_holds_the_socket(tmp_path):
    file = tmp_path / "owner.py"
    file.write_text(
        "import os, sys, time\n"
        "from ci_flame.collect import COLLECTORS, Target\n"
        "session = COLLECTORS['ebpf'].start(Target(os.getpid(), python=True))\n"
        "child = os.fork()\n"
        "if child == 0:\n"
        "    os.dup2(os.open(os.devnull, os.O_WRONLY), 1)\n"
        "    time.sleep(30)\n"
        "    os._exit(0)\n"
        "print(session._process.pid, child, flush=True)\n"
        "os.kill(os.getpid(), 9)\n"
    )
    done = subprocess.run(
        [sys.executable, str(file)], stdout=subprocess.PIPE, text=True, cwd=HERE.parent, check=False
    )
    collector, child = map(int, done.stdout.split())
    try:
        deadline = time.monotonic() + 10
        while alive(collector) and time.monotonic() < deadline:
            time.sleep(0.02)
        assert alive(child)
        assert not alive(collector)
    finally:
        os.kill(child, signal.SIGKILL)


def test_a_collector_process_that_dies_is_an_error_with_its_last_lines():
    with sampling() as session:
        session._process.kill()
        with pytest.raises(CollectError, match="the collector process ended"):
            session.read()


def test_what_the_process_wrote_is_in_the_error(monkeypatch):
    real = subprocess.Popen

    def broken(command, **options):
        return real([sys.executable, "-c", "raise SystemExit('no space on device')"], **options)

    monkeypatch.setattr(ebpf.subprocess, "Popen", broken)
    with pytest.raises(CollectError, match="the collector process ended: no space on device"):
        COLLECTORS["ebpf"].start(Target(os.getpid(), python=True))


def test_a_collector_process_that_hangs_is_given_up(monkeypatch):
    real = subprocess.Popen

    def hanging(command, **options):
        return real([sys.executable, "-c", "import time; time.sleep(60)"], **options)

    monkeypatch.setattr(ebpf.subprocess, "Popen", hanging)
    monkeypatch.setattr(ebpf, "START_SECONDS", 0.3)
    monkeypatch.setattr(ebpf, "CLOSE_SECONDS", 2.2)
    with pytest.raises(CollectError, match="did not answer in time"):
        COLLECTORS["ebpf"].start(Target(os.getpid(), python=True))


def run_dropped(tmp_path, code):
    """Run code that has imported the collector as root and then become `nobody`."""
    file = tmp_path / "dropped.py"
    file.write_text(
        textwrap.dedent("""
        import os, sys
        from ci_flame.collect import COLLECTORS, Target, choose, machine
        from ci_flame.collect.ebpf import collector as ebpf
        from ci_flame.errors import CollectError
        def drop():
            os.setgroups([]); os.setresgid(65534, 65534, 65534); os.setresuid(65534, 65534, 65534)
        """)
        + textwrap.dedent(code)
    )
    return subprocess.run(
        [sys.executable, str(file)], capture_output=True, text=True, cwd=HERE.parent, check=False
    )


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can become nobody")
def test_an_ordinary_user_is_refused_with_the_cure(tmp_path):
    done = run_dropped(
        tmp_path,
        """
        drop()
        found = machine.probe()
        assert not found.root and not found.capabilities, found
        if found.sudo:
            print("sudo"); sys.exit()
        try:
            choose(found, python=True, wanted="ebpf")
        except CollectError as error:
            print(error)
        """,
    )
    assert done.stderr == ""
    if done.stdout == "sudo\n":
        pytest.skip("nobody may use sudo here")
    assert "ebpf: BPF does not load: Operation not permitted" in done.stdout
    assert "sudo setcap cap_bpf,cap_perfmon,cap_sys_ptrace" in done.stdout


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can become nobody")
def test_an_unprivileged_target_maps_the_phase_word(tmp_path):
    done = run_dropped(
        tmp_path,
        """
        spawn = ebpf._spawn
        def spawn_then_drop(*arguments):
            process = spawn(*arguments)  # stays root, as behind sudo
            drop()
            return process
        ebpf._spawn = spawn_then_drop
        session = COLLECTORS["ebpf"].start(Target(os.getpid(), python=True))
        assert os.geteuid() == 65534
        def work():
            import time
            end = time.process_time() + 0.3
            while time.process_time() < end:
                sum(range(1000))
        session.set_phase(3)
        work()
        session.set_phase(0)
        recording = session.read()
        hits = sum(n for s, n in recording.samples[3].items() if "work" in str(s))
        print(hits > 0.9 * sum(recording.samples[3].values()) > 100)
        session.close()
        """,
    )
    assert (done.stderr, done.stdout) == ("", "True\n")


def test_requests_that_are_not_understood_get_one_line():
    ours, theirs = socket.socketpair()
    with ours, Path(os.devnull).open("w+b") as nowhere:
        process = ebpf._spawn(theirs, nowhere)
        theirs.close()
        ours.settimeout(20)
        replies = []
        for request in (b"{", b"[]", b'{"do": "read"}', b'{"do": "start"}'):
            ours.sendall(request + b"\n")
            replies.append(json.loads(ours.recv(65536)))
        ours.close()
        assert process.wait(10) == 0
    assert all("error" in reply for reply in replies)
    assert replies[2]["error"] == "not possible now: read"


def test_choose_takes_it_first_here():
    assert choose(MACHINE, python=True).name == "ebpf"
    assert choose(MACHINE, python=False, wanted="ebpf").name == "ebpf"


def test_two_sessions_at_once_see_their_own_tree_only(tmp_path):
    body = "def work(): busy(0.4)"
    with (
        script(tmp_path, body) as process,
        sampling(process.pid, roots=(str(tmp_path),)) as other,
        sampling() as own,
    ):
        own.set_phase(1)
        other.set_phase(5)
        tell(process)
        for_cpu_seconds(0.2, mixed_work)()
        assert process.stdout.readline() == "done\n"
        own.set_phase(0)
        other.set_phase(0)
        here, there = own.read(), other.read()

    assert share(there, "target:main", "target:work", phase=5) > 0.95
    assert set(there.samples) == {5}
    assert not any(f.startswith("target:main") for stack, _ in names(there, 1) for f in stack)
    # The script is a child of this process, but was started before the session: not its tree.
    assert share(here, f"{SELF}:mixed_work") > 0.9
    assert share(here, "target:main") == 0.0


def test_a_target_that_ends_at_once_neither_hangs_nor_invents():
    for _ in range(3):
        process = subprocess.Popen([sys.executable, "-S", "-c", "pass"])
        try:
            session = COLLECTORS["ebpf"].start(Target(process.pid, python=True))
        except CollectError as error:
            assert str(process.pid) in error.message  # noqa: PT017 - either end is right
        else:
            session.set_phase(1)
            process.wait()
            recording = session.read()
            session.close()
            assert sum(recording.samples.get(1, {}).values()) < 500
        finally:
            process.wait()


INSIDE = """
import os, sys, time
sys.path[:0] = {path!r}
from ci_flame.collect import COLLECTORS, Target, choose
from ci_flame.collect.machine import probe
found = probe()
session = choose(found, python=True, wanted="ebpf").start(Target(os.getpid(), python=True))
def work():
    end = time.process_time() + 0.3
    while time.process_time() < end:
        sum(range(1000))
session.set_phase(1)
work()
session.set_phase(0)
recording = session.read()
session.close()
total = sum(recording.samples[1].values())
hits = sum(n for s, n in recording.samples[1].items() if any(f.function == "work" for f in s))
print(os.getpid() < 100, found.root, hits > 0.9 * total > 100)
"""


def inside(tmp_path, python, *prefix):
    file = tmp_path / "inside.py"
    path = [str(HERE.parent), *(p for p in sys.path if p.endswith("site-packages"))]
    file.write_text(INSIDE.format(path=path))
    return subprocess.run(
        [*prefix, python, "-"], input=file.read_text(), capture_output=True, text=True, check=False
    )


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can make a PID namespace")
def test_in_a_pid_namespace_as_containers_are(tmp_path):
    done = inside(tmp_path, sys.executable, "unshare", "--pid", "--fork", "--mount-proc")

    assert (done.stderr, done.stdout) == ("", "True True True\n")


GRANTED = "+bpf,+perfmon,+sys_ptrace,+syslog"
AS_NOBODY = (
    *("setpriv", "--reuid", "65534", "--regid", "65534", "--clear-groups"),
    *("--inh-caps", GRANTED, "--ambient-caps", GRANTED),
)


def for_everyone():
    """Return an interpreter of our version that `nobody` may run, or None."""
    # Twice: what setpriv itself starts is opened with the rights that it is about to drop.
    again = "import sys; print(sys.version_info[:2], flush=True)"
    code = f"import subprocess, sys; subprocess.run([sys.executable, '-c', {again!r}])"
    for python in (sys.executable, f"/usr/bin/python3.{sys.version_info[1]}"):
        done = subprocess.run([*AS_NOBODY, python, "-c", code], capture_output=True, check=False)
        if done.stdout.decode().strip() == str(tuple(sys.version_info[:2])):
            return python
    return None


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can hand out capabilities")
def test_capabilities_are_enough(tmp_path):
    python = for_everyone()
    if python is None:
        pytest.skip("nobody may run an interpreter of this version")
    done = inside(tmp_path, python, *AS_NOBODY)

    assert (done.stderr, done.stdout) == ("", "False False True\n")


def with_sudo(tmp_path, monkeypatch, script):
    """Put a program called `sudo` first on PATH and take our own privileges for missing."""
    sudo = tmp_path / "sudo"
    sudo.write_text(f"#!/bin/sh\n{script}\n")
    sudo.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
    monkeypatch.setattr(ebpf, "machine_can_bpf", lambda: False)
    monkeypatch.setattr(ebpf.os, "geteuid", lambda: 1000)


def test_without_privileges_the_collector_process_goes_through_sudo(tmp_path, monkeypatch):
    # As sudo does: descriptors above 2 closed, a clean environment, arguments passed on.
    with_sudo(
        tmp_path,
        monkeypatch,
        f'printf %s "$1" > {tmp_path}/first; shift;'
        ' for fd in 3 4 5 6 7 8 9; do eval "exec $fd>&-"; done; exec env -i "$@"',
    )
    with sampling() as session:
        recording, _ = window(session, for_cpu_seconds(0.2, mixed_work))

    assert (tmp_path / "first").read_text() == "-n"
    assert share(recording, f"{SELF}:mixed_work") > 0.9


def test_a_sudo_that_wants_a_password_is_an_error_with_the_cure(tmp_path, monkeypatch):
    with_sudo(tmp_path, monkeypatch, 'echo "sudo: a password is required" >&2; exit 1')
    with pytest.raises(CollectError, match="sudo: a password is required") as error:
        COLLECTORS["ebpf"].start(Target(os.getpid(), python=True))

    assert "allow `sudo -n`, or run as root; see `ci-flame doctor`" in error.value.hint


def test_the_collector_tells_what_it_cost():
    with sampling(frequency_hz=1999) as session:
        first, _ = window(session, for_cpu_seconds(0.5, mixed_work))
        idle = session.read()

    metrics = first.metrics
    programs = {n for n in metrics if n.startswith("collector.bpf.") and n.endswith(".ns")}
    assert programs == {
        f"collector.bpf.{name}.ns" for name in ("on_sample", "on_fork", "on_exec", "on_exit")
    }
    assert metrics["collector.bpf_ns"] == sum(metrics[name] for name in programs)
    assert metrics["collector.bpf.on_sample.runs"] >= metrics["collector.ticks"] > 500
    assert metrics["collector.bpf.on_sample.ns"] > 100 * metrics["collector.bpf.on_sample.runs"]
    assert 0 < metrics["collector.window_cpu_ns"] < metrics["collector.cpu_ns"]
    assert metrics["collector.rss_bytes"] > 5 << 20
    assert idle.metrics["collector.window_cpu_ns"] == 0
    assert idle.metrics["collector.bpf.on_sample.runs"] < metrics["collector.bpf.on_sample.runs"]


def test_what_a_starting_program_costs_the_collector_is_told_apart():
    words = [sys.executable, "-S", "-c", "sum(i * i for i in range(3_000_000))"]
    with sampling(frequency_hz=1999) as session:
        quiet, _ = window(session, for_cpu_seconds(0.3, mixed_work))
        started, _ = window(session, lambda: subprocess.run(words, check=True))

    before, after = quiet.metrics, started.metrics
    assert before["collector.start_cpu_ns"] < after["collector.start_cpu_ns"]
    assert after["collector.start_cpu_ns"] > 1_000_000
    assert after["collector.start_cpu_ns"] <= after["collector.window_cpu_ns"]


def test_eight_busy_threads_at_4999_hz_lose_nothing(tmp_path):
    body = """
    import hashlib, threading
    data = b"x" * 100_000
    def churn(end):
        while time.perf_counter() < end:
            hashlib.sha256(data).digest()  # without the GIL
            sum(range(500))
    def work():
        end = time.perf_counter() + 5
        threads = [threading.Thread(target=churn, args=(end,)) for _ in range(8)]
        for each in threads: each.start()
        for each in threads: each.join()
    """
    with (
        script(tmp_path, body) as process,
        sampling(process.pid, frequency_hz=4999, roots=(str(tmp_path),)) as session,
    ):
        session.set_phase(1)
        tell(process)
        assert process.stdout.readline() == "done\n"
        session.set_phase(0)
        recording = session.read()

    kept = sum(recording.samples[1].values())
    assert kept > 5000
    assert (recording.lost, recording.metrics["collector.unsent"]) == (0, 0)
    assert kept == recording.metrics["collector.ticks"]
    assert share(recording, "threading:Thread._bootstrap", "target:churn") > 0.95
