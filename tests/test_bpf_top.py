"""bpf-top: our programs and others', against bpftool's figures, and what it leaves behind."""

import contextlib
import json
import os
import shutil
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest
from unprivileged import CONTAINER, NOBODY, as_root, environment, interpreter

from ci_flame.cli import top as command
from ci_flame.collect import COLLECTORS, Target, bpf_programs
from ci_flame.collect.bpf_programs import (
    TYPES,
    Cost,
    Counting,
    Program,
    Top,
    Usage,
    Watch,
    snapshot,
)
from ci_flame.errors import CollectError

CI_FLAME = (sys.executable, "-m", "ci_flame")
SETTING = Path("/proc/sys/kernel/bpf_stats_enabled")


def call(*words, before=(), cmd=CI_FLAME, env=None):
    return subprocess.run(
        [*before, *cmd, "bpf-top", *words],
        capture_output=True, text=True, cwd="/", env=env, timeout=60, check=False,
    )  # fmt: skip


@contextlib.contextmanager
def sampling():
    """Our own eBPF collector on this process, at work."""
    stop = threading.Event()

    def work():
        while not stop.is_set():
            sum(range(2000))

    session = COLLECTORS["ebpf"].start(Target(os.getpid(), python=True, frequency_hz=999))
    session.set_phase(1)
    thread = threading.Thread(target=work)
    thread.start()
    try:
        yield session
    finally:
        stop.set()
        thread.join()
        session.close()


@contextlib.contextmanager
def bpftrace():
    """Another's program: the classic count of context switches."""
    if shutil.which("bpftrace") is None:
        pytest.skip("bpftrace is not installed")
    process = subprocess.Popen(
        ["bpftrace", "-e", "tracepoint:sched:sched_switch { @[comm] = count(); }"],
        stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
    )  # fmt: skip
    try:
        # Where memory is counted by cgroup it complains of a limit first; that harms nothing.
        assert any(b"Attaching" in process.stdout.readline() for _ in range(3))
        deadline = time.monotonic() + 20
        while not owned_by(process.pid) and time.monotonic() < deadline:
            time.sleep(0.05)
        yield process
    finally:
        process.send_signal(signal.SIGINT)
        process.communicate(timeout=20)


def owned_by(pid):
    return [n for n, (names, _) in bpf_programs.held().items() if f" {pid}" in " ".join(names)]


# -- for real -------------------------------------------------------------------------------


@pytest.mark.root
@as_root
def test_our_programs_and_others_are_told_apart():
    with sampling() as session, bpftrace() as other:
        document = json.loads(call("--json").stdout)
        table = call("--period", "300ms").stdout
    own = {f"{each['name']}": each for each in document["programs"] if str(session._process.pid) in
           " ".join(each["processes"])}  # fmt: skip
    theirs = [each for each in document["programs"] if f"bpftrace {other.pid}" in each["processes"]]

    assert document["period_s"] == pytest.approx(1.0, abs=0.5)
    sample = own["on_sample"]
    assert sample["own"]
    assert sample["type"] == "perf_event"
    assert sample["period_events_per_second"] > 100
    assert sample["period_average_ns"] > 50
    assert 0 < sample["period_cpu_percent"] < 50
    # Averages and shares are of the same two counts.
    assert sample["period_cpu_percent"] == pytest.approx(
        sample["period_average_ns"] * sample["period_events_per_second"] / 1e7, rel=0.01
    )
    switch = next(each for each in theirs if each["type"] == "tracepoint")
    assert not switch["own"]
    assert switch["run_count"] > 0
    assert "(ci-flame)" in next(line for line in table.splitlines() if "on_sample" in line)
    assert f"bpftrace {other.pid}" in table
    assert table.splitlines()[0].split() == (
        [
            "id",
            "type",
            "name",
            "period",
            "avg",
            "ns",
            "total",
            "avg",
            "ns",
            "events/s",
            "CPU",
            "%",
            "process",
        ]
    )


@pytest.mark.root
@as_root
@pytest.mark.skipif(not shutil.which("bpftool"), reason="bpftool is not installed")
def test_figures_are_those_of_bpftool():
    """Between two of our snapshots lies bpftool's: each of its counts is between ours."""
    with Counting(), bpftrace() as other:
        time.sleep(0.3)
        before = snapshot()
        listed = json.loads(subprocess.check_output(["bpftool", "prog", "show", "-j"]))
        after = snapshot()
        mine = owned_by(other.pid)
    theirs = {each["id"]: each for each in listed}

    assert mine
    assert set(mine) <= set(theirs)
    for number in mine:
        was, told, now = before[number], theirs[number], after[number]
        assert (was.type, was.tag) == (told["type"], told["tag"])
        assert was.name == told.get("name", "")
        assert was.runs <= told.get("run_cnt", 0) <= now.runs
        assert was.run_time_ns <= told.get("run_time_ns", 0) <= now.run_time_ns
    assert sum(after[number].runs for number in mine) > 0


@pytest.mark.root
@as_root
def test_watching_takes_averages_and_ends_by_count_and_by_ctrl_c():
    with sampling():
        done = call("--watch", "--count", "3", "--period", "200ms", "--json")
        documents = [json.loads(line) for line in done.stdout.splitlines()]
        shown = subprocess.Popen(
            [*CI_FLAME, "bpf-top", "--watch", "--period", "100ms"],
            stdout=subprocess.PIPE, text=True, cwd="/",
        )  # fmt: skip
        first = shown.stdout.readline()
        shown.send_signal(signal.SIGINT)
        shown.communicate(timeout=20)

    assert done.returncode == 0
    assert len(documents) == 3
    last = next(each for each in documents[-1]["programs"] if each["own"] and each["run_count"])
    same = [
        next((p for p in each["programs"] if p["id"] == last["id"]), None) for each in documents
    ]
    rates = [each["period_events_per_second"] for each in same]
    assert min(rates) <= last["recent_events_per_second"] <= max(rates)
    assert first.split()[-3:] == ["CPU", "%", "(20)", "process"][-3:]
    assert shown.returncode == 0


@pytest.mark.root
@as_root
def test_kernel_setting_is_left_as_it_is_even_after_sigkill():
    before = SETTING.read_text()
    shown = subprocess.Popen(
        [*CI_FLAME, "bpf-top", "--watch", "--period", "100ms"], stdout=subprocess.PIPE, cwd="/"
    )
    shown.stdout.readline()
    links = [str(each.readlink()) for each in Path(f"/proc/{shown.pid}/fd").iterdir()]
    during = SETTING.read_text()
    shown.send_signal(signal.SIGKILL)
    shown.communicate()

    # The kernel counts for as long as this descriptor is open, and it is gone with its process.
    assert "anon_inode:bpf-stats" in links
    assert (during, SETTING.read_text()) == (before, before)
    if before.strip() == "0" and not anybody_counts():
        with bpftrace() as other:
            (number, *_) = [n for n in owned_by(other.pid) if snapshot()[n].type == "tracepoint"]
            first = snapshot()[number].runs
            time.sleep(0.2)
            still = snapshot()[number].runs
            if anybody_counts():
                return  # somebody else began to meanwhile
        assert first == still


def anybody_counts():
    for each in Path("/proc").glob("[0-9]*/fd/*"):
        with contextlib.suppress(OSError):
            if "bpf-stats" in str(each.readlink()):
                return True
    return False


@pytest.mark.root
@as_root
def test_program_that_is_loaded_between_two_periods_is_new_and_one_that_leaves_has_vanished():
    with Counting():
        watch = Watch(snapshot(), time.monotonic_ns())
        with bpftrace() as other:
            mine = owned_by(other.pid)
            time.sleep(0.2)
            during = watch.period(snapshot(), time.monotonic_ns(), bpf_programs.held())
        time.sleep(0.2)
        after = watch.period(snapshot(), time.monotonic_ns())
    found = {each.program.id: each for each in during.usages}

    assert mine
    assert all(found[number].new for number in mine)
    assert set(mine) <= {each.id for each in after.vanished}


@as_root
@pytest.mark.parametrize(
    ("before", "own_python"), [(NOBODY, False), (CONTAINER, True)], ids=["user", "container"]
)
def test_without_privileges_the_cure_is_named(before, own_python):
    program = sys.executable if own_python else interpreter()
    done = call(before=before, cmd=(program, "-m", "ci_flame"), env=environment())

    assert done.returncode == 3
    assert "Operation not permitted\n  hint: run it as root: sudo" in done.stderr
    assert "--cap-add SYS_ADMIN" in done.stderr


# -- the words -------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("--period", "49ms"), "--period 49ms is not a time between 50ms and 60s"),
        (("--period", "61s"), "--period 61s is not a time between 50ms and 60s"),
        (("--period", "soon"), "--period soon is not a time"),
        (("--period", "-1"), "--period -1 is not a time"),
        (("--count", "2"), "--count is of --watch"),
        (("--watch", "--count", "0"), "0 is not in the range 1<=x<=100000"),
    ],
)
def test_words_that_do_not_fit(words, said):
    done = call(*words)

    assert done.returncode == 2
    assert said in done.stderr


@pytest.mark.parametrize(("text", "seconds"), [("50ms", 0.05), ("60s", 60.0), ("1.5", 1.5)])
def test_period_has_limits(text, seconds):
    assert command._seconds(text) == seconds


def test_another_system(monkeypatch):
    monkeypatch.setattr(command.platform, "system", lambda: "Darwin")
    with pytest.raises(CollectError, match="BPF is Linux's, this is Darwin"):
        command.bpf_top.callback(as_json=False, period="1s", watch=False, count=None)


# -- arithmetic -------------------------------------------------------------------------------


def program(number=1, *, runs=0, run_time_ns=0, seen_ns=0, loaded_ns=5, name="p"):
    return Program(number, "xdp", name, "00", loaded_ns, run_time_ns, runs, seen_ns)


def test_columns_of_a_known_case():
    watch = Watch({1: program(runs=100, run_time_ns=1_000, seen_ns=0)}, 0)
    (usage,) = watch.period(
        {1: program(runs=300, run_time_ns=501_000, seen_ns=10**9)}, 10**9
    ).usages

    assert usage.period.average_ns == 2500.0
    assert usage.period.events_per_second == 200.0
    assert usage.period.cpu_percent == 0.05
    assert usage.total_average_ns == 501_000 / 300
    assert not usage.new


def test_average_of_the_last_20_periods():
    watch = Watch({1: program()}, 0)
    for period in range(1, 31):
        runs = 10 * min(period, 9) if period < 10 else 90 + 1000 * (period - 9)
        top = watch.period({1: program(runs=runs, seen_ns=period * 10**9)}, period * 10**9)
    (usage,) = top.usages

    assert usage.recent.elapsed_ns == 20 * 10**9
    assert usage.recent.events_per_second == 1000.0


def test_number_that_is_used_again_is_another_program():
    watch = Watch({1: program(runs=900, run_time_ns=9)}, 0)
    top = watch.period({1: program(runs=7, loaded_ns=6, seen_ns=10**9)}, 10**9)

    assert (top.usages[0].new, top.usages[0].period.runs) == (True, 7)
    assert [each.loaded_ns for each in top.vanished] == [5]


def test_dearest_comes_first_and_nothing_divides_by_zero():
    after = {n: program(n, runs=n, run_time_ns=10 * n, seen_ns=0) for n in (1, 2, 3)}
    top = Watch({n: program(n) for n in (1, 2, 3)}, 0).period(after, 0)

    assert [each.program.id for each in top.usages] == [3, 2, 1]
    assert [each.period.cpu_percent for each in top.usages] == [0.0, 0.0, 0.0]
    assert Cost(0, 0, 0).average_ns == 0.0


@pytest.mark.parametrize(
    ("top", "text"),
    [
        (Top((), 10**9), "no BPF program is loaded"),
        (
            Top((), 10**9, (program(9, name="gone"),)),
            "no BPF program is loaded\nunloaded in this period: 9 gone",
        ),
        (
            Top((Usage(program(7, runs=2, run_time_ns=3000, name="a\x1b"), Cost(3000, 2, 10**9),
                       Cost(0, 0, 0), new=True, processes=("sh 1",), own=True),), 10**9),
            (
                "id  type  name  period avg ns  total avg ns  events/s  CPU %  process\n"
                " 7  xdp   a?            1,500         1,500       2.0  0.000  sh 1 (ci-flame)"
                " (new)"
            ),
        ),
    ],
    ids=["none", "vanished", "one"],
)  # fmt: skip
def test_table(top, text):
    assert command._table(top, averages=False) == text


def test_structure_of_the_kernel():
    """Offsets against the header of this machine, where it has one."""
    header = Path("/usr/include/linux/bpf.h")
    if not header.exists() or shutil.which("cc") is None:
        pytest.skip("linux-libc-dev or a C compiler is not installed")
    fields = ["type", "id", "tag", "load_time", "name", "run_time_ns", "run_cnt"]
    code = "#include <stddef.h>\n#include <stdio.h>\n#include <linux/bpf.h>\nint main(){" + "".join(
        f'printf("%zu ", offsetof(struct bpf_prog_info, {field}));' for field in fields
    )
    code += 'printf("%zu", sizeof(struct bpf_prog_info)); return 0; }'
    binary = Path(f"/tmp/ci-flame-offsets-{os.getpid()}")  # noqa: S108
    try:
        subprocess.run(["cc", "-x", "c", "-", "-o", binary], input=code.encode(), check=True)
        told = list(map(int, subprocess.check_output([binary]).split()))
    finally:
        binary.unlink(missing_ok=True)

    assert told[:-1] == [0, 4, 8, 40, 64, 192, 200]
    assert told[-1] <= bpf_programs._INFO_BYTES


def test_types_are_the_kernels():
    assert (TYPES[5], TYPES[7], TYPES[17], TYPES[26], TYPES[31]) == (
        "tracepoint", "perf_event", "raw_tracepoint", "tracing", "syscall",
    )  # fmt: skip
