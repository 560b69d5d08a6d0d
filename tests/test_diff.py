"""Two measurements in, what changed out; truth is known because the data are made."""

import math
import pickle
import re
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from recordings import costs, measurements
from synthetic import (
    ENVIRONMENT,
    QUIET,
    SHOP,
    grown,
    stack_of,
    synthetic_measurement,
    synthetic_run,
)

from ci_flame.diff import diff, diff_benchmark, differences
from ci_flame.profile import Frame, Mode, Place, Profile, Round, Unit, Weight

TOKENIZE = Frame("tokenize", "shop.parser")
SLOW = settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.too_slow])


def frames(got):
    return {str(each.frame): each for each in got.frames}


def compare(before, after, *, options=None, **more):
    options = options or {}
    return diff_benchmark(
        synthetic_measurement(before, seed=11, **options),
        synthetic_measurement(after, seed=12, **(options | more)),
        Mode.ON_CPU,
    )


def test_growth_is_found_on_a_slower_machine():
    got = compare(SHOP, grown(SHOP, "shop.parser:tokenize", 1.5), speed=1.8)

    change = frames(got)["shop.parser:tokenize"].total
    assert change.growth == pytest.approx(0.5, abs=0.12)
    assert change.low < 0.5 < change.high
    assert change.p_value < 1e-6
    # Everything else stands still, callers grow by their part.
    assert frames(got)["shop.render:page"].total.growth == pytest.approx(0, abs=0.08)
    assert frames(got)["shop.parser:parse"].total.growth == pytest.approx(60 / 180, abs=0.1)
    assert got.total.growth == pytest.approx(0.12, abs=0.05)


def test_costs_are_told_in_nanoseconds_of_the_baselines_machine():
    got = compare(SHOP, SHOP, speed=3.0, options={"noise": QUIET})

    assert got.total.before_ns == pytest.approx(500_000, rel=0.01)
    assert got.total.after_ns == pytest.approx(500_000, rel=0.01)
    assert frames(got)["shop.parser:tokenize"].own.before_ns == pytest.approx(120_000, rel=0.02)


def test_own_costs_add_up_to_the_benchmark():
    got = compare(SHOP, grown(SHOP, "json:dumps", 2.0))

    for side in ("before_ns", "after_ns"):
        own = sum(getattr(each.own, side) for each in got.frames)
        assert own == pytest.approx(getattr(got.total, side))
    root = next(node for node in got.paths if len(node.path) == 1)
    assert root.total == got.total


@SLOW
@given(measurements())
def test_a_recording_does_not_differ_from_itself(measurement):
    got = diff_benchmark(measurement, measurement, Mode.ON_CPU)

    for each in got.frames:
        assert each.own.log_ratio == pytest.approx(0, abs=1e-9)
        assert each.total.p_value == pytest.approx(1)
        assert each.own.low <= 1e-9
        assert each.own.high >= -1e-9


@SLOW
@given(st.data())
def test_swapping_sides_negates_the_log_ratio(data):
    truth = data.draw(costs())
    before, after = data.draw(measurements(truth)), data.draw(measurements(truth))

    there = frames(diff_benchmark(before, after, Mode.ON_CPU))
    back = frames(diff_benchmark(after, before, Mode.ON_CPU))

    assert there.keys() == back.keys()
    for name, each in there.items():
        for kind in ("own", "total"):
            one, other = getattr(each, kind), getattr(back[name], kind)
            assert one.log_ratio == pytest.approx(-other.log_ratio, abs=1e-6)
            assert one.standard_error == pytest.approx(other.standard_error, rel=1e-6)


def times(measurement, factor):
    """The same work recorded as `factor` times the iterations and the CPU time."""
    return replace(
        measurement,
        processes=tuple(
            replace(
                process,
                rounds=tuple(
                    replace(each, iterations=each.iterations * factor, cpu_ns=each.cpu_ns * factor)
                    for each in process.rounds
                ),
            )
            for process in measurement.processes
        ),
    )


@SLOW
@given(measurements(), st.integers(2, 1000))
def test_more_iterations_of_the_same_work_are_no_growth(measurement, factor):
    got = diff_benchmark(measurement, times(measurement, factor), Mode.ON_CPU)

    assert got.total.growth == pytest.approx(0, abs=1e-9)
    assert all(each.own.growth == pytest.approx(0, abs=1e-9) for each in got.frames
               if each.own.before_ns)  # fmt: skip


@SLOW
@given(measurements())
def test_no_function_costs_more_than_the_benchmark(measurement):
    got = diff_benchmark(measurement, measurement, Mode.ON_CPU)

    for each in got.frames:
        assert each.own.before_share <= each.total.before_share + 1e-12
        assert each.total.before_share <= 1 + 1e-9
    assert sum(each.own.before_share for each in got.frames) == pytest.approx(1)


def test_recursion_is_counted_once():
    truth = {"m:a": 100.0, "m:a;m:f": 100.0, "m:a;m:f;m:f": 200.0, "m:a;m:f;m:g;m:f": 100.0}
    got = frames(compare(truth, truth, options={"noise": QUIET}))

    assert got["m:f"].total.before_share == pytest.approx(0.8, abs=0.01)
    assert got["m:f"].own.before_share == pytest.approx(0.8, abs=0.01)
    assert got["m:g"].total.before_share == pytest.approx(0.2, abs=0.01)


def test_interpreter_leaves_are_charged_to_python_and_kept_for_pictures():
    leaf = "native:libpython3.11.so.1.0:dict_lookup"
    truth = {"m:a": 300.0, f"m:a;{leaf}": 200.0, "m:a;native:libz.so.1:deflate": 500.0}
    got = compare(truth, truth, options={"noise": QUIET})

    assert set(frames(got)) == {"m:a", "native:libz.so.1:deflate"}
    assert frames(got)["m:a"].own.before_share == pytest.approx(0.5, abs=0.01)
    nodes = {";".join(map(str, node.path)): node for node in got.paths}
    assert nodes[f"m:a;{leaf}"].judged is False
    assert nodes[f"m:a;{leaf}"].total.before_share == pytest.approx(0.2, abs=0.01)
    assert nodes["m:a"].judged
    assert nodes["m:a"].total.before_share == pytest.approx(1.0)


def test_paths_are_in_order_parents_first_siblings_by_name():
    got = [";".join(map(str, node.path)) for node in compare(SHOP, SHOP).paths]

    assert got == sorted(got, key=lambda text: [*text.split(";")])
    assert len(got) == len(SHOP)


def test_functions_are_sorted_by_change_then_name():
    sizes = [abs(e.total.after_ns - e.total.before_ns) for e in compare(SHOP, SHOP).frames]

    assert sizes == sorted(sizes, reverse=True)


def test_same_input_same_bytes():
    assert repr(tuple(compare(SHOP, SHOP).frames)) == repr(tuple(compare(SHOP, SHOP).frames))


def test_a_diff_can_be_pickled_and_compared():
    got = compare(SHOP, SHOP)

    assert pickle.loads(pickle.dumps(got)) == got  # noqa: S301 - our own bytes
    assert got.frames[-1] == list(got.frames)[-1]
    assert got.frames[:2] == tuple(got.frames)[:2]
    assert hash(got.paths) == hash(tuple(got.paths))
    with pytest.raises(IndexError):
        got.frames[len(got.frames)]


def test_places_and_heaviest_paths_travel_along():
    options = {"places": {"shop.parser:tokenize": ("src/shop/parser.py", 88)}}
    got = frames(compare(SHOP, SHOP, options=options))["shop.parser:tokenize"]

    assert got.place == Place("src/shop/parser.py", 88)
    assert got.path == stack_of(
        "bench_shop:test_checkout;shop.api:checkout;shop.parser:parse;shop.parser:tokenize"
    )


def test_new_and_gone_functions():
    path = "bench_shop:test_checkout;shop.api:checkout;shop.log:write"
    new = frames(compare(SHOP, SHOP | {path: 50_000.0}))["shop.log:write"].total
    gone = frames(compare(SHOP | {path: 50_000.0}, SHOP))["shop.log:write"].total

    assert new.log_ratio == math.inf == new.growth
    assert new.before_ns == 0
    assert new.p_value < 1e-6
    assert gone.log_ratio == -math.inf
    assert gone.growth == -1
    assert gone.low == -1


def test_dropped_rounds_do_not_count():
    before = synthetic_measurement(SHOP, seed=1)
    spoiled = replace(
        before,
        processes=tuple(
            replace(
                process,
                rounds=(
                    *process.rounds,
                    replace(process.rounds[0], cpu_ns=10**12, dropped="run-queue delay 80 ms"),
                ),
            )
            for process in before.processes
        ),
    )
    got = diff_benchmark(before, spoiled, Mode.ON_CPU)

    assert got.total.growth == pytest.approx(0, abs=1e-9)


def test_processes_without_samples_are_left_out_by_name():
    before = synthetic_measurement(SHOP, seed=1)
    empty = replace(before.processes[0], rounds=())
    got = diff_benchmark(before, replace(before, processes=(*before.processes, empty)), Mode.ON_CPU)

    assert got.processes_after == 5
    assert got.notes == ("1 of 6 processes after have no samples that count and were left out",)


def test_a_side_without_samples_gives_an_empty_diff():
    before = synthetic_measurement(SHOP, seed=1)
    got = diff_benchmark(before, replace(before, processes=()), Mode.ON_CPU)

    assert tuple(got.frames) == ()
    assert got.processes_after == 0
    assert got.columns is None
    assert got.smallest_visible is None


def test_an_unsettled_warm_up_is_said():
    before = synthetic_measurement(SHOP, seed=1)
    after = replace(
        before, processes=(replace(before.processes[0], settled=False), *before.processes[1:])
    )

    assert diff_benchmark(before, after, Mode.ON_CPU).notes == (
        "the warm-up of 1 of 5 processes after had not settled when it was cut off",
    )


def test_a_drift_within_processes_is_said():
    before = synthetic_measurement(SHOP, seed=1, rounds=60)
    after = replace(
        before,
        processes=tuple(
            replace(
                process,
                rounds=tuple(
                    replace(each, cpu_ns=round(each.cpu_ns * (1 + 0.01 * number)))
                    for number, each in enumerate(process.rounds)
                ),
            )
            for process in before.processes
        ),
    )

    (note,) = diff_benchmark(before, after, Mode.ON_CPU).notes

    told = re.fullmatch(
        r"an iteration after costs (\d+) % more at the end of a process than at its beginning:"
        " its cost depends on how many were recorded before it",
        note,
    )
    assert told is not None
    assert 27 <= int(told[1]) <= 45  # 1.495 / 1.095 is 37 % more


@pytest.mark.parametrize(
    ("truth", "references", "anchor"),
    [
        (SHOP, ("core", "memory"), "references+functions"),
        (SHOP, (), "functions"),
        ({"m:a": 700.0, "m:b": 300.0}, ("core",), "references"),
        ({"m:a": 700.0, "m:b": 300.0}, (), "shares"),
    ],
)
def test_anchors(truth, references, anchor):
    got = compare(truth, truth, options={"references": references})

    assert got.anchor == anchor
    if anchor == "shares":
        assert got.total.p_value == 1
        assert got.total.after_ns == pytest.approx(got.total.before_ns)


def test_off_cpu_is_weighed_by_time_and_not_corrected():
    def waiting(lengths, seed):
        rng = np.random.default_rng(seed)
        process = synthetic_measurement(SHOP, processes=1).processes[0]
        rounds = []
        for _ in range(10):
            stacks = {
                stack_of(text): Weight(10, int(length * rng.uniform(0.9, 1.1)))
                for text, length in lengths.items()
            }
            rounds.append(
                Round(10, 1000, 10**8, profiles={
                    Mode.OFF_CPU: Profile(stacks, Unit.NANOSECONDS, 10)})
            )  # fmt: skip
        return replace(process, rounds=tuple(rounds))

    base = synthetic_measurement(SHOP)
    before = {"m:a;kernel:read": 1e6, "m:a;kernel:poll": 9e6}
    after = {"m:a;kernel:read": 2e6, "m:a;kernel:poll": 9e6}
    got = diff_benchmark(
        replace(base, processes=tuple(waiting(before, s) for s in range(5))),
        replace(base, processes=tuple(waiting(after, s + 9) for s in range(5))),
        Mode.OFF_CPU,
    )

    assert got.anchor == "clock"
    assert got.total.before_ns == pytest.approx(1e6, rel=0.05)
    assert frames(got)["kernel:read"].total.growth == pytest.approx(1.0, abs=0.1)


@pytest.mark.parametrize(
    ("changed", "expected"),
    [
        ({}, ()),
        ({"kernel": "6.9", "ci_flame": "9", "cores": 64}, ()),
        ({"python": "3.11.9"}, ()),
        ({"python": "3.12.0"}, ("Python: 3.11, 3.12",)),
        ({"collector": "perf"}, ("collector: ebpf, perf",)),
        ({"event": "cycles"}, ("event: cpu-clock, cycles",)),
        ({"frequency_hz": 2998}, ()),  # the same class up to a factor of 1.5
        ({"frequency_hz": 2999}, ("frequency: 1999 Hz, 2999 Hz",)),
        ({"frequency_hz": 999}, ("frequency: 1999 Hz, 999 Hz",)),
        ({"frequency_hz": 0}, ("frequency: 1999 Hz, not told",)),  # an imported file
        ({"architecture": "aarch64"}, ("architecture: x86_64, aarch64",)),
        ({"cpu_model": "Other"}, ("CPU model: Example CPU 1, Other",)),
        ({"python": ""}, ("Python: 3.11, none",)),
    ],
)
def test_what_may_not_be_compared(changed, expected):
    assert differences(ENVIRONMENT, replace(ENVIRONMENT, **changed)) == expected


@pytest.mark.parametrize("anchored", [("core", "memory"), ()], ids=["references", "functions"])
def test_the_clock_of_a_benchmark_depends_on_no_other(anchored):
    """Speed is not shared: adjacent windows of one process differ by 13 %."""

    def side(seed, speed, name="b", truth=SHOP):
        return synthetic_measurement(
            truth, benchmark=name, seed=seed, speed=speed, references=anchored
        )

    alone = diff(synthetic_run(side(1, 1.0)), synthetic_run(side(2, 1.4))).benchmarks
    dearer = {text: cost * 3 for text, cost in SHOP.items()}
    beside = diff(
        synthetic_run(side(3, 1.0, "a"), side(1, 1.0), side(4, 0.4, "c")),
        synthetic_run(side(5, 6.0, "a", dearer), side(2, 1.4), side(6, 9.0, "c")),
    ).benchmarks

    assert (beside[1],) == alone
    for one, other in ((beside[1].columns, alone[0].columns),):
        for name in ("log_cost_before", "log_cost_after"):
            assert np.array_equal(getattr(one.clock, name), getattr(other.clock, name))
        assert np.array_equal(one.estimates.log_ratio, other.estimates.log_ratio)


def test_runs_are_compared_by_benchmark_and_the_rest_is_named():
    one, other, third = (
        synthetic_measurement(SHOP, benchmark=name) for name in ("b::one", "b::two", "b::three")
    )
    got = diff(synthetic_run(one, other), synthetic_run(third, other))

    assert [each.benchmark for each in got.benchmarks] == ["b::two"]
    assert got.added == ("b::three",)
    assert got.removed == ("b::one",)
    assert got.differences == ()
