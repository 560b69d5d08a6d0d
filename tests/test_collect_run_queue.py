"""Run-queue latency of real threads, against what the scheduler counts itself."""

import os
import shutil
import subprocess
import sys
import time
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tracing import needs_bpf, record, sampling

from ci_flame.collect.ebpf.latency import BUCKETS, Counted, percentiles
from ci_flame.profile import Histogram

BPF = Path(__file__).parent.parent / "ci_flame" / "collect" / "bpf"
MACHINE = {"modes": frozenset(), "machine": True}


def schedstat():
    """Return this thread's run delay in ns and how often it came to a CPU."""
    _, delay, arrivals = Path("/proc/thread-self/schedstat").read_text().split()
    return int(delay), int(arrivals)


@pytest.mark.skipif(not shutil.which("clang-14") and "CI" not in os.environ, reason="no clang-14")
def test_the_bpf_program_and_the_model_have_the_same_buckets(tmp_path):
    source = tmp_path / "buckets.c"
    source.write_text(
        '#include <stdio.h>\n#include "histogram.h"\n'
        "int main(void)\n{\n\tunsigned long long us;\n"
        '\twhile (scanf("%llu", &us) == 1)\n\t\tprintf("%u\\n", histogram_bucket(us));\n'
        "\treturn 0;\n}\n"
    )
    program = tmp_path / "buckets"
    subprocess.run(["clang-14", f"-I{BPF}", source, "-o", program], check=True)
    borders = [(1 << n) + quarter * (1 << n >> 2) for n in range(63) for quarter in range(4)]
    values = sorted({*range(5000), *(b + d for b in borders for d in (-1, 0, 1)), (1 << 64) - 1})
    done = subprocess.run(
        [program], input="\n".join(map(str, values)), capture_output=True, text=True, check=True
    )

    assert [int(line) for line in done.stdout.split()] == [Histogram.bucket(v) for v in values]
    assert max(map(Histogram.bucket, values)) < BUCKETS


def counted(*latencies_us):
    counts = [0] * BUCKETS
    for each in latencies_us:
        counts[Histogram.bucket(each)] += 1
    return Counted(tuple(counts), max(latencies_us, default=0))


@given(st.lists(st.integers(0, 1 << 40)), st.lists(st.integers(0, 1 << 40)))
def test_a_read_returns_what_was_added_since_the_last_one(before, after):
    histogram, longest = counted(*before, *after).since(counted(*before))

    expected = counted(*after)
    assert histogram.count == len(after)
    assert all(histogram.counts.get(b, 0) == n for b, n in enumerate(expected.counts))
    # Exact when it is the longest of all, else the end of its bucket.
    assert longest >= expected.max_us
    assert Histogram.bucket(longest) == Histogram.bucket(expected.max_us)


def test_percentiles_are_in_ms_and_never_above_the_longest():
    histogram = Histogram({Histogram.bucket(1000): 98, Histogram.bucket(50_000): 2})

    assert percentiles("x", histogram, 50_000) == {"x.p50_ms": 1.023, "x.p99_ms": 50.0}
    assert percentiles("x", Histogram({}), 0) == {"x.p50_ms": 0.0, "x.p99_ms": 0.0}


def midpoints_us(histogram):
    lower = 0
    total = 0
    for bucket in range(max(histogram.counts) + 1):
        upper = histogram.upper(bucket)
        total += histogram.counts.get(bucket, 0) * (lower + upper) / 2
        lower = upper
    return total


class TestForReal:
    pytestmark = needs_bpf

    def test_behind_cpu_hogs_it_is_as_the_scheduler_counts(self):
        hogs = [
            subprocess.Popen([sys.executable, "-S", "-c", "while True: pass"])
            for _ in range(2 * len(os.sched_getaffinity(0)))
        ]
        found = []

        def busy():
            before = schedstat()
            end = time.perf_counter() + 1.0
            while time.perf_counter() < end:
                sum(range(1000))
            time.sleep(0.001)
            found.extend(now - then for now, then in zip(schedstat(), before, strict=True))

        try:
            recording = record(busy, **MACHINE)
        finally:
            for each in hogs:
                each.kill()
                each.wait()
        delay_ns, arrivals = found

        histogram = recording.histograms["run_queue"]
        assert delay_ns > 100e6
        assert histogram.count == pytest.approx(arrivals, rel=0.05, abs=2)
        assert midpoints_us(histogram) * 1000 == pytest.approx(delay_ns, rel=0.15)
        metrics = recording.metrics
        assert metrics["run_queue.max_ms"] >= delay_ns / arrivals / 1e6
        assert (
            metrics["run_queue.p50_ms"]
            <= metrics["run_queue.p99_ms"]
            <= metrics["run_queue.max_ms"]
        )
        assert metrics["collector.lost_latencies"] == 0

    def test_sleeps_are_one_wake_up_each(self):
        def doze():
            for _ in range(50):
                time.sleep(0.001)

        recording = record(doze, **MACHINE)

        # Not every kernel reports every switch; the last one may not be seen before the end.
        assert 48 <= recording.histograms["run_queue"].count < 200
        assert recording.samples == {}
        assert recording.off_cpu == {}

    def test_children_and_threads_belong_and_other_processes_do_not(self):
        """A child that sleeps 300 times counts; a process beside the tree that does, does not."""
        nap = "import time\nfor _ in range(300): time.sleep(0.001)"
        beside = subprocess.Popen([sys.executable, "-S", "-c", "input()\n" + nap], stdin=-1)
        try:
            with sampling(**MACHINE) as session:
                session.set_phase(1)
                beside.communicate(b"\n")
                session.set_phase(0)
                alone = session.read()
                session.set_phase(2)
                subprocess.run([sys.executable, "-S", "-c", nap], check=True)
                session.set_phase(0)
                child = session.read()
        finally:
            beside.kill()

        assert alone.histograms["run_queue"].count < 150
        assert child.histograms["run_queue"].count >= 300

    def test_outside_a_window_nothing_is_counted(self):
        with sampling(**MACHINE) as session:
            for _ in range(20):
                time.sleep(0.001)
            recording = session.read()

        assert recording.histograms["run_queue"].counts == {}
        assert recording.metrics["run_queue.max_ms"] == 0.0
        assert recording.metrics["block_io.requests"] == 0.0
        assert recording.metrics["block_io.p99_ms"] == 0.0

    def test_without_it_nothing_of_it_is_loaded(self):
        recording = record(lambda: time.sleep(0.01))

        assert recording.histograms == {}
        assert not [name for name in recording.metrics if name.startswith(("run_q", "block_io"))]
