"""The figures of one process that a rule can limit."""

import pytest

from ci_flame.profile import Histogram, Round
from ci_flame.record import figures

MS = 1_000_000
ROUNDS = (
    Round(1, 50 * MS, 100 * MS, 20 * MS, steal_ns=0),
    Round(1, 50 * MS, 100 * MS, 0, steal_ns=10 * MS),
)


def of(collected=None, histograms=None, rounds=ROUNDS, cores=2):
    return figures.of_process(collected or {}, histograms or {}, rounds, cores)


def test_shares_of_the_wall_time_need_no_collector():
    made = of()

    assert made == {"run_queue.percent": 10.0, "steal.percent": 2.5}


def test_the_collector_s_own_cost_is_of_one_cpu():
    made = of({"collector.bpf_ns": 8.0 * MS, "collector.window_cpu_ns": 2.0 * MS})

    assert made["collector.bpf_percent"] == pytest.approx(4.0)
    assert made["collector.process_percent"] == pytest.approx(1.0)
    assert made["collector.percent"] == pytest.approx(5.0)
    assert made["collector.bpf_ns"] == 8.0 * MS
    assert made["collector.lasting_percent"] == pytest.approx(5.0)  # nothing was for the start


@pytest.mark.parametrize(("start_ms", "lasting"), [(0, 11.0), (60, 5.0), (100, 1.0), (101, 1.0)])
def test_what_is_spent_once_at_the_start_does_not_last(start_ms, lasting):
    long = (Round(1, 0, 1000 * MS),)
    made = of(
        {
            "collector.bpf_ns": 10.0 * MS,
            "collector.window_cpu_ns": 100.0 * MS,
            "collector.start_cpu_ns": start_ms * 1.0 * MS,
        },
        rounds=long,
    )

    assert made["collector.percent"] == pytest.approx(11.0)
    assert made["collector.lasting_percent"] == pytest.approx(lasting)


def test_one_part_of_the_cost_is_told_alone():
    assert of({"collector.bpf_ns": 8.0 * MS})["collector.percent"] == pytest.approx(4.0)


def test_sums_are_told_by_iteration_too():
    rounds = (Round(3, MS, MS), Round(5, MS, MS))
    made = of({"block_io.write_bytes": 4096.0, "block_io.requests": 2.0}, rounds=rounds)

    assert made["block_io.write_bytes_per_iteration"] == 512.0
    assert made["block_io.requests_per_iteration"] == 0.25
    assert "block_io.read_bytes_per_iteration" not in made


def test_no_collector_no_cost():
    assert not any(name.startswith("collector.") for name in of())


def test_percentiles_of_each_device_and_of_all():
    slow, fast = Histogram.bucket(20_000), Histogram.bucket(100)
    made = of(
        histograms={
            "block_io.vda.read": Histogram({fast: 99, slow: 1}),
            "block_io.vdb.write": Histogram({slow: 100}),
            "run_queue": Histogram({fast: 10}),
        }
    )

    assert made["block_io.vda.read.p99_ms"] == pytest.approx(0.1, rel=0.2)
    assert made["block_io.vda.read.max_ms"] == pytest.approx(20, rel=0.2)
    assert made["block_io.vdb.write.p50_ms"] == pytest.approx(20, rel=0.2)
    assert made["block_io.p50_ms"] == pytest.approx(20, rel=0.2)  # 101 of 200 were slow
    assert made["run_queue.p99_ms"] == pytest.approx(0.1, rel=0.2)


def test_what_the_collector_says_itself_stays():
    made = of({"run_queue.p99_ms": 7.5}, {"run_queue": Histogram({40: 10})})

    assert made["run_queue.p99_ms"] == 7.5
    assert made["run_queue.p50_ms"] > 0


def test_an_empty_histogram_says_nothing():
    assert "run_queue.p99_ms" not in of(histograms={"run_queue": Histogram({})})


def test_no_time_gives_no_shares():
    assert of({"collector.bpf_ns": 5.0}, rounds=()) == {"collector.bpf_ns": 5.0}
