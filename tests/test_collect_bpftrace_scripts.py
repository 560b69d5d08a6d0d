"""A project's own programs beside its benchmarks: their maps become metrics that rules limit."""

import subprocess
import sys
import time
from pathlib import Path

import pytest
from test_cli import call
from test_collect_bpftrace import for_real, gone, marked

from ci_flame.baseline import folder
from ci_flame.collect.bpftrace import process as bpftrace_process
from ci_flame.collect.bpftrace import scripts as bpftrace_scripts
from ci_flame.config.scripts import Script
from ci_flame.errors import CollectError

assert for_real
CLASSIC = "tracepoint:sched:sched_switch { @[comm] = count(); }"
TICKS = (
    "interval:ms:10 { @ticks = count(); @waits = hist(100); @each = stats(4); @pid[$1] = sum(2); }"
)
SLEEPS = "import time\nfor _ in range({n}): time.sleep(0.0002)\nsum(range(3_000_000))\n"


@marked
def test_maps_become_metrics():
    scripts = (
        Script("ticks", TICKS, ("{pid}",)),
        Script("switches", CLASSIC, keys=3),
        Script("rate", "interval:ms:10 { @n = count(); @h = hist(7); }", per_second=True),
    )
    beside = bpftrace_scripts.begin(scripts, 4711)
    try:
        time.sleep(1.5)
        found = beside.read()
    finally:
        beside.close()

    ticks = found["bpftrace.ticks.@ticks"]
    assert ticks > 30
    assert found["bpftrace.ticks.@waits.count"] == ticks
    assert found["bpftrace.ticks.@waits.p99"] == 127
    assert found["bpftrace.ticks.@each.total"] == 4 * ticks
    assert found["bpftrace.ticks.@pid[4711]"] == 2 * ticks
    assert sum(name.startswith("bpftrace.switches.@[") for name in found) == 3
    assert found["bpftrace.switches.keys_left_out"] > 0
    # A hundred a second, less what a busy machine misses.
    assert 20 < found["bpftrace.rate.@n"] < 130
    assert found["bpftrace.rate.@h.p50"] == 7


@marked
@pytest.mark.parametrize(("key", "full"), [("nsecs", 1), ("1", None)])
def test_a_map_that_is_full_is_told(monkeypatch, key, full):
    """bpftrace says nothing of keys that it had no room for."""
    monkeypatch.setattr(bpftrace_process, "MAX_KEYS", 20)
    script = Script("times", f"interval:ms:10 {{ @at[{key}] = count(); @n = count(); }}")
    beside = bpftrace_scripts.begin((script,), 1)
    try:
        time.sleep(1.5)
        found = beside.read()
    finally:
        beside.close()

    assert found["bpftrace.times.@n"] > 20
    assert found.get("bpftrace.times.full_maps") == full


def test_nothing_to_run_is_nothing():
    assert bpftrace_scripts.begin((), 1) is None
    bpftrace_scripts.check((), 1)


@marked
def test_one_that_cannot_start_ends_the_others():
    good, bad = (
        Script("good", TICKS, ("1",)),
        Script("bad", "interval:s:1 { @ = ; }", source="p.yml", line=7),
    )
    with pytest.raises(CollectError) as caught:
        bpftrace_scripts.check((good, bad), 1)

    assert caught.value.message.startswith("bpftrace script bad (p.yml:7, line 1): syntax error")
    assert "mend the program" in caught.value.hint
    assert gone("ci-flame-scripts-")


# -- end to end -----------------------------------------------------------------------


@pytest.fixture
def project(tmp_path, monkeypatch):
    def make(rules, script=f'"{CLASSIC}"'):
        (tmp_path / "ci-flame.yml").write_text(
            f"version: 1\nbpftrace: {{scripts: {{switches: {script}}}}}\n"
            f"record: {{processes: 1, seconds: 0.2, busy: 100%, confirm: false}}\n"
            f"rules:\n  - {{frames: '*', max_growth: 1000%}}\n{rules}"
        )
        monkeypatch.chdir(tmp_path)
        return tmp_path

    return make


@marked
def test_a_command_fails_by_the_figure_of_a_program(project):
    """The classic one-liner, and a command that sleeps four thousand times."""
    here = project("  - {metric: 'bpftrace.switches.@[sleeper]', max: 2000}\n")
    (here / "sleeper").symlink_to(sys.executable)
    (here / "x.py").write_text(SLEEPS.format(n=4000))
    words = ("--repeat", "1", "--baseline", "none", "--name", "x", "--collector", "ebpf")
    told = call("check", *words, "--", "./sleeper", "x.py", check=1)

    assert "bpftrace.switches.@[sleeper] is 4," in told.stdout
    assert "limit 2,000" in told.stdout

    (here / "x.py").write_text(SLEEPS.format(n=50))
    call("check", *words, "--", "./sleeper", "x.py", check=0)
    metrics = folder.load(here / ".ci-flame" / "run").measurements[0].processes[0].metrics
    assert 50 <= metrics["bpftrace.switches.@[sleeper]"] <= 2000


@marked
def test_a_broken_program_stops_a_command_before_it_runs(project):
    here = project("", '"tracepoint:sched:sched_switch { @[comm = count(); }"')
    done = call("record", "--", sys.executable, "-c", "open('ran', 'w')", check=3)

    assert "bpftrace script switches (ci-flame.yml:2, line 1): syntax error" in done.stderr
    assert not (here / "ran").exists()


@marked
def test_pytest_keeps_and_judges_the_figures(project):
    script = '{file: waits.bt, args: ["{pid}"]}'
    here = project("  - {metric: 'bpftrace.switches.@waits', max: 5}\n", script)
    (here / "waits.bt").write_text(
        "tracepoint:sched:sched_switch /pid == $1/ { @waits = count(); }"
    )
    (here / "test_x.py").write_text(
        "import time\ndef work():\n    time.sleep(0.001)\n    sum(range(20_000))\n"
        "def test_x(flame):\n    flame(work)\n"
    )
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "--flame", "-p", "no:cacheprovider", "test_x.py"],
        capture_output=True, text=True, timeout=120, check=False,
    )  # fmt: skip

    assert done.returncode == 1, done.stdout
    assert "bpftrace.switches.@waits is" in done.stdout
    (process,) = folder.load(here / ".ci-flame" / "run").measurements[0].processes
    assert process.metrics["bpftrace.switches.@waits"] > 5


@marked
def test_a_broken_program_stops_pytest_before_it_starts(project):
    here = project("", '"interval:s:1 { @ = ; }"')
    (here / "test_x.py").write_text("def test_x(flame):\n    flame(lambda: open('ran', 'w'))\n")
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "--flame", "-p", "no:cacheprovider", "test_x.py"],
        capture_output=True, text=True, timeout=120, check=False,
    )  # fmt: skip

    assert done.returncode != 0
    assert "bpftrace script switches (ci-flame.yml:2, line 1): syntax error" in (
        done.stdout + done.stderr
    )
    assert "Traceback" not in done.stdout + done.stderr
    assert not Path(here, "ran").exists()
