"""The power bench: disjoint recordings, exact growth, exact intervals, safe to stop."""

import importlib.util
import json
import os
import signal
import subprocess
import sys
import time
import zlib
from collections import Counter
from dataclasses import replace
from itertools import chain, islice
from pathlib import Path

import pytest
from scipy.stats import binomtest
from synthetic import SHOP, synthetic_measurement, synthetic_run

ROOT = Path(__file__).parent.parent
sys.path.insert(0, str(ROOT))

from bench.power import (  # noqa: E402 - the bench is not installed
    command,
    compare,
    draw,
    page,
    peers,
    process,
    promises,
    record,
    report,
    results,
    schedule,
    statistics,
    store,
)
from bench.power.schedule import Task, Variant  # noqa: E402
from ci_flame.errors import CiFlameError, FormatError  # noqa: E402
from ci_flame.profile import TOTAL, Frame, Measurement  # noqa: E402
from ci_flame.profile import Process as RanProcess  # noqa: E402
from ci_flame.profile.counts import Count  # noqa: E402


def load_workloads():
    place = ROOT / "bench/power/suite/workloads.py"
    spec = importlib.util.spec_from_file_location("power_workloads", place)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


workloads = load_workloads()


# -- the schedule ----------------------------------------------------------------------


def campaign():
    return list(islice(schedule.units(), schedule.campaign()))


def test_a_campaign_has_600_comparisons_of_the_same_code_and_all_goals():
    units = campaign()
    kinds = Counter(unit.kind for unit in units)
    rows = [(v.kind, v.function, v.percent, u.seconds) for u in units for v in u.variants.values()]

    assert kinds == {name: kind.wanted for name, kind in schedule.KINDS.items()}
    assert rows.count(("same", "", 0, 0.6)) + rows.count(("same", "", 0, 2.0)) >= 600
    assert rows.count(("growth", "f10", 20, 3.0)) >= 32
    assert rows.count(("masked", "f10", 10, 2.0)) >= 24
    assert rows.count(("growth", "f60", 30, 1.0)) >= 60


def test_every_prefix_is_a_smaller_campaign():
    units = campaign()
    for length in (20, 40, 80, 100):
        for name, kind in schedule.KINDS.items():
            made = sum(unit.kind == name for unit in units[:length])

            assert abs(made - kind.wanted * length / len(units)) < 2


def test_no_recording_is_made_for_two_comparisons():
    tasks = list(schedule.tasks(iter(campaign())))
    files = Counter((task.unit.number, task.name) for task in tasks)

    assert set(files.values()) == {1}
    for unit in campaign():
        mine = {task.name for task in tasks if task.unit.number == unit.number}
        assert mine == {task.name for both in schedule.sides(unit).values() for task in both}
    for unit in campaign()[:8]:
        again = {task.name for task in schedule.confirming(unit, "core")}
        assert not again & {task.name for task in schedule.confirming(unit, "memory")}
        assert not again & {name for number, name in files if number == unit.number}


def test_units_of_a_pair_are_recorded_alike():
    by_kind = {}
    for unit in campaign():
        by_kind.setdefault(unit.kind, []).append(unit)
    for kind, units in by_kind.items():
        for one, other in zip(units[::2], units[1::2], strict=True):
            alike = (one.seconds, one.condition, one.mode, one.variants)

            if kind != "same":
                assert alike == (other.seconds, other.condition, other.mode, other.variants)


def test_other_units_lie_between_the_sides_of_a_stored_baseline():
    order = [(task.unit.number, task.side) for task in schedule.tasks(iter(campaign()[:40]))]
    stored = [unit.number for unit in campaign()[:30] if unit.mode == "stored"]

    assert stored
    for number in stored:
        first = order.index((number, "after"))
        last = len(order) - 1 - order[::-1].index((number, "before"))
        between = {other for other, _side in order[last:first]} - {number}
        assert len(between) >= schedule.LAG


def test_sides_of_a_rerun_alternate_in_an_order_that_differs():
    units = [unit for unit in campaign() if unit.mode == "rerun"]
    orders = {"".join(t.side[0] for t in schedule.interleaved(unit)) for unit in units}

    assert len(orders) > 10
    assert {len(each) for each in orders} == {10, 30}
    for each in orders:
        assert each.count("a") == each.count("b") == len(each) // 2
        assert all(set(each[at : at + 2]) == {"a", "b"} for at in range(0, len(each), 2))


# -- planted work ----------------------------------------------------------------------


@pytest.mark.parametrize("number", range(0, schedule.campaign(), 3))
def test_growth_is_exact(number):
    unit = next(islice(schedule.units(), number, None))
    for name, variant in unit.variants.items():
        before, after = variant.counts(name)

        assert sum(before.values()) == 400
        match variant.kind:
            case "same":
                assert after == before
            case "growth":
                assert after[variant.function] * 100 == before[variant.function] * (
                    100 + variant.percent
                )
                assert sum(after.values()) - sum(before.values()) == (
                    after[variant.function] - before[variant.function]
                )
            case "masked":
                assert sum(after.values()) == sum(before.values())
                assert after[variant.function] * 100 == before[variant.function] * (
                    100 + variant.percent
                )
                assert sum(after[n] != before[n] for n in before) == 2
            case "uniform":
                assert all(after[n] * 100 == before[n] * (100 + variant.percent) for n in before)
            case "renamed":
                assert sorted(after.values()) == sorted(before.values())
                assert set(after) - set(before) == {f"{variant.function}_renamed"}


def test_shares_are_what_their_names_say():
    for shape in (schedule.SPREAD, schedule.DOMINANT):
        for name, share in schedule.SHARES.items():
            assert shape.get(name, 400 * share) == pytest.approx(400 * share)


@pytest.mark.parametrize(("units", "percent", "grown"), [(40, 20, 48), (20, 5, 21), (240, 30, 312)])
def test_units_grow_exactly(units, percent, grown):
    assert schedule.exactly(units, percent) == grown


def test_growth_that_is_no_whole_number_of_units_is_refused():
    with pytest.raises(ValueError, match="10 units cannot grow by 5 % exactly"):
        schedule.exactly(10, 5)


def opcodes(call, units):
    """Bytecodes that Python functions below `call(units)` execute."""
    count = 0

    def trace(frame, event, _argument):
        nonlocal count
        frame.f_trace_opcodes = True
        frame.f_trace_lines = False
        count += event == "opcode"
        return trace

    sys.settrace(trace)
    try:
        call(units)
    finally:
        sys.settrace(None)
    return count


@pytest.mark.parametrize("workload", workloads.WORKLOADS)
def test_a_unit_is_the_same_work_every_time(workload):
    """20 % more units are 20 % more bytecodes, in whichever function."""
    functions = workloads.WORKLOADS[workload][2]()
    for name in workloads.NAMES:
        call = functions[name]
        call(5)  # what is made once, caches of regular expressions for example
        start, five, six = (opcodes(call, units) for units in (0, 5, 6))

        assert five > start
        assert (six - start) * 5 == (five - start) * 6


@pytest.mark.parametrize("workload", workloads.WORKLOADS)
def test_functions_carry_their_names(workload):
    functions = workloads.WORKLOADS[workload][2]()

    assert set(functions) == {n + end for n in workloads.NAMES for end in ("", "_renamed")}
    assert all(call.__code__.co_qualname == name for name, call in functions.items())


@pytest.mark.parametrize("kind", [workloads.Plain, workloads.Paced])
def test_an_iteration_does_all_units(kind):
    done = Counter()
    counts = {"f10": 48, "f05": 21, "rest_a": 0}
    work = {name: lambda units, name=name: done.update({name: units}) for name in counts}
    kind(work, counts)()

    assert {name: done[name] for name in counts} == counts


def test_the_paced_loop_keeps_its_pace():
    start = time.perf_counter()
    workloads.Paced({}, {})()

    assert time.perf_counter() - start >= workloads.TICKS * workloads.TICK_S * 0.999


def test_workloads_and_shapes_are_those_of_the_schedule():
    assert tuple(workloads.WORKLOADS) == schedule.WORKLOADS
    assert set(schedule.SPREAD) | set(schedule.DOMINANT) == set(workloads.NAMES)


# -- statistics ----------------------------------------------------------------------


@pytest.mark.parametrize(("found", "of"), [(0, 600), (1, 600), (3, 80), (79, 80), (80, 80)])
def test_ends_are_clopper_and_pearsons(found, of):
    less = binomtest(found, of, alternative="less").proportion_ci(0.95, "exact")
    greater = binomtest(found, of, alternative="greater").proportion_ci(0.95, "exact")

    assert statistics.upper(found, of) == pytest.approx(less.high)
    assert statistics.lower(found, of) == pytest.approx(greater.low)


def test_600_comparisons_are_enough_for_half_a_percent():
    assert statistics.upper(0, 598) <= 0.005 < statistics.upper(0, 597)
    assert statistics.upper(1, 600) > 0.005
    assert statistics.upper(0, 0) == 1.0


def test_impossible_counts_are_refused():
    with pytest.raises(ValueError, match="5 of 4"):
        statistics.upper(5, 4)


@pytest.mark.parametrize(
    ("growth", "limit", "samples"), [(0.10, 0.0, 4460), (0.05, 0.0, 17_000), (0.20, 0.10, 5350)]
)
def test_the_formula_is_the_one_that_was_measured(growth, limit, samples):
    """z = 4.5 is a power of 95 %."""
    assert statistics.power(samples, growth, limit) == pytest.approx(0.95, abs=0.01)
    assert statistics.power(samples / 4, growth, limit) < 0.5
    assert statistics.power(10**6, 0.10, 0.10) < 0.01  # never


# -- recordings on disk ----------------------------------------------------------------------


def unit_of(kind="same", nth=0, **changed):
    return replace(schedule.make(0, kind, nth), **changed)


@pytest.fixture
def campaign_folder(tmp_path):
    return store.Store(tmp_path / "recordings")


def a_run():
    return synthetic_run(synthetic_measurement(SHOP, seed=1, processes=1))


def test_what_is_put_comes_back(campaign_folder):
    task = Task(unit_of(), "before", 0)
    campaign_folder.place.mkdir()
    campaign_folder.put(task, a_run(), {"load": 1.5})

    assert campaign_folder.has(task)
    assert campaign_folder.get(task).run == a_run()
    assert campaign_folder.get(task).told["load"] == 1.5
    assert sorted(p.name for p in campaign_folder.place.iterdir()) == ["units"]


def test_a_broken_recording_is_refused_by_name(campaign_folder):
    task = Task(unit_of(), "before", 0)
    campaign_folder.place.mkdir()
    campaign_folder.put(task, a_run(), {})
    file = campaign_folder.file(task.unit, "before-0.zip")
    file.write_bytes(file.read_bytes()[:200])

    with pytest.raises(FormatError, match=r"before-0\.zip: not a whole recording"):
        campaign_folder.get(task)


def test_a_recording_of_another_schedule_is_refused(campaign_folder):
    campaign_folder.place.mkdir()
    campaign_folder.put(Task(unit_of(), "before", 0), a_run(), {})

    with pytest.raises(FormatError, match="recorded by another schedule"):
        campaign_folder.get(Task(unit_of(seconds=3.0), "before", 0))


def test_one_campaign_is_recorded_by_one_process(campaign_folder):
    with (
        campaign_folder.locked(),
        pytest.raises(CiFlameError, match="another process records"),
        store.Store(campaign_folder.place).locked(),
    ):
        pass


def test_shares_are_recorded_at_the_same_time_each_by_one_process(campaign_folder):
    other = store.Store(campaign_folder.place)
    halves = [schedule.Share.parse(f"{number}/2") for number in (1, 2)]
    with campaign_folder.locked(halves[0].lock):
        with other.locked(halves[1].lock):
            pass
        for taken in (halves[0], schedule.WHOLE):
            with (
                pytest.raises(CiFlameError, match="another process records"),
                other.locked(taken.lock),
            ):
                pass
    with campaign_folder.locked(), pytest.raises(CiFlameError), other.locked(halves[1].lock):
        pass


def test_shares_are_the_whole_campaign():
    shares = [schedule.Share.parse(f"{number}/3") for number in (1, 2, 3)]

    found = [[each.number for each in share.of_units(campaign())] for share in shares]

    assert sorted(chain.from_iterable(found)) == [each.number for each in campaign()]
    assert max(map(len, found)) - min(map(len, found)) <= 1


def test_part_is_what_is_named_and_its_sides_stay_apart():
    part = schedule.Part(("same",), ("quiet",))
    found = list(part.of_units(campaign()))

    assert {(each.kind, each.condition) for each in found} == {("same", "quiet")}
    assert len(found) == schedule.KINDS["same"].wanted / 2
    assert list(schedule.ALL.of_units(campaign())) == campaign()

    tasks = list(schedule.tasks(iter(found)))
    stored = [each for each in found if each.mode == "stored"][:-2]
    for unit in stored:
        places = [at for at, task in enumerate(tasks) if task.unit == unit]
        between = {task.unit.number for task in tasks[places[0] : places[-1]]} - {unit.number}
        assert len(between) >= schedule.LAG


@pytest.mark.parametrize("text", ["", "1", "0/2", "3/2", "1/0", "-1/2", "1/2/3", "a/b", "²/2"])
def test_what_is_no_share_is_refused(text):
    with pytest.raises(ValueError, match="is no share"):
        schedule.Share.parse(text)


def test_other_code_does_not_go_on_with_a_campaign(campaign_folder):
    with campaign_folder.locked():
        pass
    (campaign_folder.place / "campaign.json").write_text('{"measuring": "0123"}')

    with pytest.raises(CiFlameError, match="recorded by other code"), campaign_folder.locked():
        pass


def test_the_smoke_version_goes_on_or_begins_anew(campaign_folder, monkeypatch):
    with campaign_folder.locked():
        campaign_folder.put(Task(unit_of(), "before", 0), a_run(), {})
        with pytest.raises(CiFlameError, match="another process"):
            command._begin_anew(store.Store(campaign_folder.place))
    command._begin_anew(campaign_folder)
    assert campaign_folder.has(Task(unit_of(), "before", 0))

    monkeypatch.setattr(store, "measuring", lambda: "other code")
    command._begin_anew(campaign_folder)
    assert not campaign_folder.has(Task(unit_of(), "before", 0))
    with campaign_folder.locked():
        pass


@pytest.mark.parametrize(("seconds", "words"), [(164, "3 min"), (5399, "90 min"), (5400, "1.5 h")])
def test_durations(seconds, words):
    assert record.duration(seconds) == words


# -- verdicts ----------------------------------------------------------------------


def test_a_cut_recording_is_a_shorter_one():
    (process,) = synthetic_measurement(SHOP, seed=2, processes=1, seconds=2.0).processes
    short = compare.cut(process, 1.0)
    cpu_s = sum(each.cpu_ns for each in short.rounds) / 1e9

    assert 1.0 <= cpu_s < 1.0 + process.rounds[0].cpu_ns * 3 / 1e9
    assert short.rounds == process.rounds[: len(short.rounds)]
    assert short.kept == sum(p.samples for r in short.rounds for p in r.profiles.values())
    assert compare.cut(process, 100.0) is process


def test_rounds_that_were_left_out_do_not_fill_a_cut():
    (process,) = synthetic_measurement(SHOP, seed=2, processes=1, seconds=2.0).processes
    busy = tuple(
        replace(each, dropped="busy" if at % 2 else "") for at, each in enumerate(process.rounds)
    )
    all_counted = len(compare.cut(process, 0.5).rounds)

    assert len(compare.cut(replace(process, rounds=busy), 0.5).rounds) >= 2 * all_counted - 2


def put_synthetic(kept, unit, tasks, *, factor=1.0):
    """Store made-up processes of the workload `core`; `f10` costs `factor` times as much after."""
    loop = "bench_power:test;workloads:Plain.__call__"
    for task in tasks:
        share = {name: units * 10_000.0 for name, units in schedule.SPREAD.items()}
        share["f10"] *= factor if task.side.endswith("after") else 1.0
        costs = {"bench_power:test": 1e3, loop: 2e3} | {
            f"{loop};workloads:{name}": cost for name, cost in share.items()
        }
        measurement = synthetic_measurement(
            costs, processes=1, benchmark=compare.benchmark_of("core"), rounds=40,
            seconds=unit.seconds, seed=zlib.crc32(task.name.encode()),
        )  # fmt: skip
        kept.put(task, synthetic_run(measurement), {"load": 1.0, "commit": "c0ffee"})


def both_sides(unit):
    return [task for tasks in schedule.sides(unit).values() for task in tasks]


def test_a_unit_is_judged_from_its_recordings(campaign_folder):
    campaign_folder.place.mkdir()
    unit = unit_of("goal15", variants={"core": Variant("growth", "f10", 60)}, seconds=3.0)
    put_synthetic(campaign_folder, unit, both_sides(unit), factor=1.6)
    rows = compare.compare(campaign_folder, iter([unit]))

    assert [each.seconds for each in rows] == [15.0, 10.0, 5.0]
    assert all(each.verdicts["10"].outcome == "fail" for each in rows)
    assert all(each.verdicts["10"].right for each in rows)
    assert not any(each.verdicts["10"].innocent for each in rows)
    assert rows[0].share == pytest.approx(0.10, abs=0.02)
    assert rows[0].growth == pytest.approx(0.60, abs=0.2)
    assert rows[0].samples > 2 * rows[2].samples
    assert rows[0].commit == "c0ffee"
    assert compare.machine(campaign_folder, [unit]) == a_run().environment
    assert compare.machine(campaign_folder, [replace(unit, number=7)]) is None


def test_the_peers_judge_the_same_runs(campaign_folder):
    """Their own code says so: a benchmark that is twice as dear fails all of them."""
    slow, quick = (
        synthetic_measurement({text: cost * factor for text, cost in SHOP.items()}, seed=seed)
        for seed, factor in ((1, 3.0), (2, 1.0))
    )
    fails = peers.verdicts(quick, slow)

    assert fails == dict.fromkeys(peers.NAMES, True)
    assert peers.verdicts(slow, quick) == dict.fromkeys(peers.NAMES, False)


def test_what_failed_by_mistake_is_recorded_again_and_judged_on_that(campaign_folder):
    campaign_folder.place.mkdir()
    unit = unit_of(variants={"core": Variant()})
    put_synthetic(campaign_folder, unit, both_sides(unit), factor=2.0)  # a machine gone mad

    assert compare.unconfirmed(campaign_folder, unit) == ["core"]
    (first,) = compare.kept_rows(campaign_folder, unit)
    assert first.confirmed == {}
    assert report.after_confirming(first, 10)
    put_synthetic(campaign_folder, unit, schedule.confirming(unit, "core"))
    (second,) = compare.kept_rows(campaign_folder, unit)
    assert second.confirmed["10"].outcome == "pass"
    assert not report.after_confirming(second, 10)


def test_rows_are_kept_until_something_changes(campaign_folder, monkeypatch):
    campaign_folder.place.mkdir()
    unit = unit_of(variants={"core": Variant()})
    put_synthetic(campaign_folder, unit, both_sides(unit))
    (first,) = compare.kept_rows(campaign_folder, unit)
    monkeypatch.setattr(compare, "rows_of", lambda *_arguments: [])

    assert compare.kept_rows(campaign_folder, unit) == [compare.row_of(compare.plain(first))]
    monkeypatch.setattr(compare, "JUDGE", "another judge")
    assert compare.kept_rows(campaign_folder, unit) == []


GUILTY = Frame("f10", "workloads")
TEST = Frame("test", "bench_power")
LEX = Frame("lex", "sqlparse.lexer")
LOOP = Frame("Plain.__call__", "workloads")


@pytest.mark.parametrize(
    ("frame", "path", "variant", "limit", "excused"),
    [
        (GUILTY, (TEST, LOOP, GUILTY), Variant("growth", "f10", 20), 10, True),
        (GUILTY, (TEST, LOOP, GUILTY), Variant("growth", "f10", 10), 10, True),  # at the limit
        (GUILTY, (TEST, LOOP, GUILTY), Variant("growth", "f10", 9), 10, False),  # not past it
        (
            Frame("lex", "m"),
            (TEST, GUILTY, Frame("lex", "m")),
            Variant("growth", "f10", 20),
            10,
            True,
        ),
        (Frame("lex", "m"), (TEST, Frame("lex", "m")), Variant("growth", "f10", 20), 10, False),
        (TOTAL, (TOTAL,), Variant("growth", "f60", 30), 10, True),  # grew by 18 %
        (TOTAL, (TOTAL,), Variant("growth", "f10", 20), 10, False),  # grew by 2 %
        (LOOP, (TEST, LOOP), Variant("masked", "f10", 20), 0, False),  # did not grow
        (LOOP, (TEST, LOOP), Variant("growth", "f10", 20), 0, True),
        (GUILTY, (GUILTY,), Variant("renamed", "f10"), 0, False),
        (GUILTY, (GUILTY,), Variant(), 0, False),
        (LOOP, (TEST, LOOP), Variant("uniform", "", 10), 5, True),
        (LOOP, (TEST, LOOP), Variant("uniform", "", 10), 10, True),  # at the limit
        (LOOP, (TEST, LOOP), Variant("uniform", "", 9), 10, False),
    ],
)
def test_who_is_guilty(frame, path, variant, limit, excused):
    assert compare.excused(frame, path, variant, limit) is excused


@pytest.mark.parametrize(("nth", "hogs"), [(0, False), (1, True), (3, True)])
def test_a_second_recording_has_beside_it_what_the_first_had(nth, hogs):
    unit = schedule.make(0, "same", nth)

    again = [task for task in schedule.confirming(unit, "memory") if "after" in task.side]

    assert len(again) == unit.processes
    assert {task.hog for task in again} == {hogs}


# -- what was run ----------------------------------------------------------------


def counted(counts, workload="mistune", per_unit=219):
    """A run of one process whose functions made so many calls for each unit of work."""
    made = {
        Frame(name, "workloads"): Count(1, None, per_unit * units + 1)
        for name, units in counts.items()
    }
    measurement = Measurement(compare.benchmark_of(workload), (RanProcess((), counts=made),))
    return synthetic_run(measurement)


@pytest.mark.parametrize(
    ("kind", "ran", "message"),
    [
        ("goal15", {}, None),
        ("goal15", {"f10": 44}, "mistune: a process ran another plan: f10 made other calls"),
        ("goal15", {"f60": 240}, "mistune: before: other functions ran than planned"),
    ],
)
def test_a_process_that_ran_another_plan_is_found_by_its_counted_calls(kind, ran, message):
    unit = schedule.make(0, kind, 0)
    before, after = unit.variants["mistune"].counts("mistune")
    told = [
        (unit, "before", counted(before)),
        (unit, "before", counted(before | ran)),
        (unit, "after", counted(after)),
    ]

    if message is None:
        compare.ran_its_plan(told)
    else:
        with pytest.raises(CiFlameError, match=message):
            compare.ran_its_plan(told)


# -- tables ----------------------------------------------------------------------


LIMITS = ("0", "5", "10")


def row(unit=0, outcome="pass", **changed):
    right = changed.pop("right", False)
    made = compare.Judged(outcome, right)
    verdicts = dict.fromkeys(LIMITS, made)
    told = {
        "kind": "same", "nth": unit, "workload": "core", "seconds": 5.0, "condition": "quiet",
        "mode": "rerun", "variant": {"kind": "same"}, "peers": dict.fromkeys(report.NAMES, False),
    }  # fmt: skip
    return compare.Row(**{**told, "unit": unit, "verdicts": verdicts, **changed})


def test_a_false_failure_is_one_that_the_second_recording_did_not_take_back():
    again = dict.fromkeys(LIMITS, compare.Judged("pass"))
    still = dict.fromkeys(LIMITS, compare.Judged("fail"))
    rows = [
        row(0), row(1, "fail", confirmed=again), row(2, "fail", confirmed=still), row(3, "fail"),
    ]  # fmt: skip
    line = report.false_failures(rows).rows[-1]

    assert line[:3] == ("**all**", "4", "3 → 2 (≤ 90 %)")
    assert line[-2] == "0"


def goal_row(unit, outcome, **changed):
    variant = {"kind": "growth", "function": "f10", "percent": 20}
    return row(unit, outcome, kind="goal15", variant=variant, seconds=15.0, right=outcome == "fail",
               samples=3000.0, **changed)  # fmt: skip


def test_a_growth_is_found_twice_where_both_of_a_pair_found_it():
    rows = [goal_row(unit, out) for unit, out in enumerate(["fail", "fail", "fail", "pass"])]
    line = report.goals(rows).rows[0]

    assert line[2] == "3 of 4 (75 %)"
    assert line[4] == "1 of 2 (50 %)"
    assert line[5] == "3,000"


def test_a_failure_that_names_another_function_has_not_found_it():
    wrong = replace(
        goal_row(0, "fail"), verdicts={k: compare.Judged("fail") for k in ("0", "5", "10")}
    )

    assert report.goals([wrong]).rows[0][2] == "0 of 1 (0 %)"


def test_a_recording_is_in_a_bin_of_the_curve_once():
    rows = [goal_row(0, "fail"), replace(goal_row(0, "fail"), seconds=10.0, samples=2100.0)]

    assert [(low, hit, of) for low, _, hit, of, _ in report.points(rows, 10, 20)] == [(2000, 1, 1)]


def test_rows_come_back_from_the_repository(tmp_path):
    innocent = compare.Judged("fail", right=True, innocent=("a:b",), sentence="grew")
    rows = [
        row(0),
        replace(goal_row(1, "fail"), verdicts={"0": innocent, "5": innocent, "10": innocent}),
    ]
    rows[0] = replace(rows[0], peers={**rows[0].peers, "mean": True})
    results.save(rows, {"cpu": "X"}, tmp_path)

    assert results.load(tmp_path) == rows
    assert results.machine(tmp_path) == {"cpu": "X"}
    assert sorted(file.name for file in tmp_path.glob("[!m]*")) == ["goal15.json", "same.json"]


def test_broken_results_are_refused_by_name(tmp_path):
    (tmp_path / "same.json").write_text('[{"unit": 1}]')

    with pytest.raises(FormatError, match=r"same\.json: not results of this bench"):
        results.load(tmp_path)


def test_the_page_is_what_the_results_say():
    kept = (ROOT / "docs/power.md").read_text(encoding="utf-8")
    told = results.load(), results.machine(), results.bytecodes(), results.remarks()

    assert page.page(*told) == kept


@pytest.mark.parametrize(
    ("failed", "of", "holds"),
    [
        (0, 596, "so far"),  # the upper end is 0.501 %
        (0, 600, "yes"),
        (1, 900, "so far"),
        (1, 100, "no, by 0.5 points"),
    ],
)
def test_the_same_code_must_surely_not_fail(failed, of, holds):
    rows = [row(unit, "fail" if unit < failed else "pass") for unit in range(of)]

    words, promised, _, _, told = promises.promises(rows, []).rows[0]

    assert (words, promised) == ("the same code fails", "<= 0.50 %, 95 % sure")
    assert told == holds


@pytest.mark.parametrize(
    ("found", "of", "holds"),
    [(19, 20, "yes"), (18, 20, "no, by 5.0 points"), (0, 0, "")],
)
def test_a_promise_of_power_is_held_against_what_was_found(found, of, holds):
    rows = [goal_row(unit, "fail" if unit < found else "pass") for unit in range(of)] or [row()]

    line = promises.promises(rows, []).rows[1]

    assert line[0] == "found: 10 %, +20 %, 10 %, 15 s"
    assert line[1] == ">= 95 %"
    assert line[2] == (f"{found} of {of} ({found / of * 100:.0f} %)" if of else "not recorded")
    assert line[4] == holds


@pytest.mark.parametrize(("unclear", "of", "holds"), [(1, 20, "yes"), (2, 20, "no, by 5.0 points")])
def test_few_comparisons_may_be_without_a_verdict(unclear, of, holds):
    rows = [row(unit, "inconclusive" if unit < unclear else "pass") for unit in range(of)]

    line = promises.promises(rows, []).rows[-1]

    assert line[0] == "INCONCLUSIVE"
    assert line[4] == holds


def test_remarks_on_goals_stand_below_them():
    made = page.page([row()], {}, [], "It was missed, because.\n")

    goals, _, rest = made.partition("It was missed, because.")
    assert goals.rstrip().splitlines()[-1].startswith("| INCONCLUSIVE")
    assert rest.lstrip().startswith("## False failures")


def test_growth_of_everything_is_told_by_how_it_was_named():
    whole = "b: the benchmark itself grew by 10 %"
    rows = [
        row(
            unit, kind="uniform", variant={"kind": "uniform", "percent": 10}, workload=name,
            verdicts=dict.fromkeys(LIMITS, compare.Judged("fail", right=True, sentence=sentence)),
        )
        for unit, (name, sentence) in enumerate(
            [("core", whole), ("core", whole), ("sqlparse", "b: f grew by 10 %")]
        )
    ]  # fmt: skip

    assert page.uniform(rows) == (
        " Where all of a benchmark grew, the finding was of the benchmark itself in 2 of 3 (67 %)"
        " of the failures; otherwise (sqlparse) of its dearest functions."
    )


def test_exact_counts_must_name_the_function():
    told = [
        {"python": "3.14.0", "kind": kind, "found": found}
        for kind, found in (
            ("same", []), ("same", ["x"]), ("growth", ["workloads:f10 grew"]), ("growth", ["x"]),
            ("growth", []),
        )
    ]  # fmt: skip

    assert report.exact(told).rows == (("3.14.0", "1 of 2 (50 %)", "1 of 3 (33 %)"),)
    assert "+2 % of f10" in page.page([], {}, told)


def test_curves_are_drawn(tmp_path):
    draw.curves([goal_row(unit, "fail") for unit in range(4)], tmp_path / "power.png")

    assert (tmp_path / "power.png").read_bytes().startswith(b"\x89PNG")


def run_command(*words):
    return subprocess.run(
        [sys.executable, "-m", "bench.power", *map(str, words)],
        capture_output=True, text=True, check=False, cwd=ROOT, timeout=120,
    )  # fmt: skip


def test_the_command_reports_stored_results(tmp_path):
    results.save([row(0), goal_row(1, "fail")], {}, tmp_path)
    done = run_command("report", "--results", tmp_path)

    assert done.returncode == 0, done.stderr
    assert "1 of 1 (100 %)" in done.stdout
    assert "No campaign" not in done.stdout


def test_the_command_says_what_is_missing(tmp_path):
    done = run_command("compare", "--recordings", tmp_path / "nothing", "--results", tmp_path)

    assert done.returncode == 2
    assert "power: there is nothing to report" in done.stderr
    assert "hint: record longer" in done.stderr
    assert list(tmp_path.iterdir()) == []


# -- for real ----------------------------------------------------------------------

_RECORD = """
import sys
from dataclasses import replace
from pathlib import Path
sys.path.insert(0, {root!r})
from bench.power import record, schedule, store
unit = schedule.make(0, "same", 0)
unit = replace(unit, seconds=0.3, processes=1, variants={{"core": schedule.Variant()}})
record.record(store.Store(Path({place!r})), 1.0, made=iter([unit]))
"""


@pytest.mark.root
def test_a_campaign_goes_on_after_a_kill(tmp_path):
    place = tmp_path / "recordings"
    code = _RECORD.format(root=str(ROOT), place=str(place))

    def zips():
        return {file.name: file.stat().st_mtime_ns for file in place.glob("units/0000/*.zip")}

    recorder = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.DEVNULL)
    try:
        until = time.monotonic() + 120
        while not zips() and time.monotonic() < until and recorder.poll() is None:
            time.sleep(0.05)
    finally:
        recorder.kill()
        recorder.wait(10)
    first = zips()

    assert first
    assert recorder.returncode == -signal.SIGKILL
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, timeout=300, check=False
    )
    assert done.returncode == 0, done.stderr
    assert f"{2 - len(first)} processes missing" in done.stdout
    assert set(zips()) >= {"before-0.zip", "after-0.zip"}
    assert {name: zips()[name] for name in first} == first

    unit = replace(
        schedule.make(0, "same", 0),
        seconds=0.3,
        processes=1,
        variants={"core": schedule.Variant()},
    )
    (made,) = compare.compare(store.Store(place), iter([unit]))
    assert made.workload == "core"
    assert made.seconds == pytest.approx(0.3)
    assert set(made.peers) == set(report.NAMES)
    assert "same code" in page.text([made], {})


@pytest.mark.root
def test_a_process_that_fails_is_told_and_left_out(tmp_path, monkeypatch, capsys):
    unit = replace(unit_of(), seconds=0.1, processes=1, variants={"core": Variant()})

    def fails(*_arguments, **_keywords):
        raise CiFlameError("the disk is on fire")

    monkeypatch.setattr(record, "process", fails)
    kept = store.Store(tmp_path)
    progress = record.record(kept, 1.0, made=iter([unit]))
    told = json.loads(kept.file(unit, "before-0.failed.json").read_text())

    assert progress.failed == 6
    assert told == ["the disk is on fire"] * 3
    assert "unit 0 before-0 failed: the disk is on fire" in capsys.readouterr().err
    assert list(compare.compare(kept, iter([unit]))) == []


def test_a_hog_ends_with_the_process_that_it_runs_beside():
    with process.hog(wanted=True):
        children = _children()
        assert len(children) == 1
    with process.hog(wanted=False):
        assert _children() == []


@pytest.mark.root
def test_a_hog_does_not_outlive_a_recorder_that_was_killed():
    code = (
        f"import sys, time; sys.path.insert(0, {str(ROOT)!r})\n"
        "from bench.power import process\n"
        "with process.hog(wanted=True): print(flush=True); time.sleep(60)"
    )
    recorder = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE)
    recorder.stdout.readline()
    (hog,) = _children(recorder.pid)
    recorder.kill()
    recorder.communicate(timeout=10)
    until = time.monotonic() + 30
    while _parent(hog) >= 0 and time.monotonic() < until:
        time.sleep(0.05)

    assert _parent(hog) == -1


def _children(of=None):
    pids = [each.name for each in Path("/proc").iterdir() if each.name.isdigit()]
    return [pid for pid in pids if _parent(pid) == (of or os.getpid())]


def _parent(pid):
    try:
        return int(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[1])
    except OSError:
        return -1
