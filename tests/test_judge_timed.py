"""judge/timed.py and diff/timing.py: what timing suspects says, and when it excuses a failure."""

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from synthetic import QUIET, synthetic_measurement

from ci_flame.diff import diff_benchmark
from ci_flame.judge import judge_benchmark
from ci_flame.judge.timed import suspects
from ci_flame.policy import Limit, Policy, Rule
from ci_flame.profile import Frame, Mode
from ci_flame.profile.counts import Count, Counting
from ci_flame.profile.timing import Timed, Timing
from ci_flame.verdict import Outcome

COSTS = {
    "m:main;m:parse": 30_000.0,
    "m:main;m:text": 25_000.0,
    "m:main;m:table": 20_000.0,
    "m:main;m:order": 15_000.0,
    "m:main;m:rest": 10_000.0,
}
PARSE, MAIN = Frame("parse", "m"), Frame("main", "m")
RULE = Rule(max_growth=Limit(share=0.10), place="ci-flame.yml:3")
ROUNDS = 20


def timing(ns, calls=12, *, seed=0, spread=0.0, frame=PARSE, **fields):
    """Return what one process timed: `ns` per iteration of a function, on a machine of its own."""
    rng = np.random.default_rng(seed)
    machine = rng.normal(0, 0.2) + rng.normal(0, 0.05, ROUNDS)
    cost = ns * np.exp(machine + rng.normal(0, spread))
    made = {
        "iterations": (100,) * ROUNDS,
        "references": {
            "core": tuple(np.round(700_000 * np.exp(machine)).astype(int).tolist()),
            "memory": tuple(np.round(900_000 * np.exp(machine)).astype(int).tolist()),
        },
        "functions": {
            frame: Timed((100 * calls,) * ROUNDS, tuple(np.round(100 * cost).astype(int).tolist()))
        },
        "event_ns": 10,
        **fields,
    }
    return Timing(**made)


def side(factor=1.0, *, timed=None, processes=5, seed=0, spread=0.01, costs=COSTS, calls=12, **how):
    """Return a side whose samples say `factor` of parse, and whose clock says `timed` of it."""
    grown = {**costs, "m:main;m:parse": costs["m:main;m:parse"] * factor}
    made = synthetic_measurement(grown, processes=processes, seed=seed, noise=QUIET)
    if timed is None:
        return made
    each = [
        timing(30_000.0 * timed, calls, seed=1000 * seed + n, spread=spread, **how)
        for n in range(processes)
    ]
    return replace(
        made,
        processes=tuple(replace(p, timing=t) for p, t in zip(made.processes, each, strict=True)),
    )


def judged(before, after, rule=RULE):
    changes = diff_benchmark(before, after, Mode.ON_CPU)
    return judge_benchmark(changes, Policy((rule,)), family=1)


def notes(verdict, slug):
    return [note.text for note in verdict.notes if note.slug == slug]


# -- what is told ------------------------------------------------------------------------


def test_a_finding_says_what_timing_says():
    verdict = judged(side(timed=1.0, seed=1), side(1.3, timed=1.3, seed=2))

    (finding,) = verdict.findings
    assert finding.frame == PARSE
    assert finding.timing.growth == pytest.approx(0.3, abs=0.04)
    assert finding.timing.low < 0.3 < finding.timing.high
    assert finding.timed.startswith("Timed directly: +")
    assert "12 calls as before, each" in finding.timed
    assert finding.timed in str(finding)
    assert not notes(verdict, "timed")


@pytest.mark.parametrize(
    ("calls", "words"),
    [
        (12, "12 calls as before, each 30 % dearer."),
        (15, "calls 12 -> 15, each 4.0 % dearer."),
        (24, "calls 12 -> 24, each 35 % cheaper."),
    ],
)
def test_growth_is_split_into_calls_and_the_cost_of_each(calls, words):
    before = side(timed=1.0, seed=1, spread=0.0)
    after = side(1.3, timed=1.3, seed=1, spread=0.0, calls=calls)

    (finding,) = judged(before, after).findings

    assert finding.timed.endswith(words)


def test_calls_alone():
    before = side(timed=1.0, seed=1, spread=0.0)
    after = side(1.5, timed=1.5, seed=1, spread=0.0, calls=18)

    (finding,) = judged(before, after).findings

    assert finding.timed.endswith("calls 12 -> 18, each as dear as before.")


def test_what_was_not_timed_is_said():
    why = "it is called 85,000 times a second; above 20,000 the clock would disturb it"
    left = {"functions": {}, "left_out": {PARSE: why}}
    verdict = judged(side(timed=1.0, seed=1, **left), side(1.3, timed=1.3, seed=2, **left))
    one_side = judged(side(seed=1), side(1.3, timed=1.3, seed=2))

    assert verdict.findings[0].timed == f"Not timed directly: {why}."
    assert one_side.findings[0].timed == "Not timed directly: the side before was not timed."
    assert judged(side(seed=1), side(1.3, seed=2)).findings[0].timed == ""


# -- what it excuses ---------------------------------------------------------------------


def test_a_failure_that_the_clock_contradicts_becomes_a_note():
    verdict = judged(side(timed=1.0, seed=1), side(1.2, timed=1.0, seed=2))

    assert verdict.outcome is Outcome.PASS
    (text,) = notes(verdict, "timed")
    assert text.startswith("sampling said m:parse grew by ")
    assert text.endswith("limit 10 %: not a failure")
    assert "12 calls as before" in text


@pytest.mark.parametrize(
    ("timed", "fails"), [(1.0, False), (1.03, False), (1.09, True), (1.12, True), (1.3, True)]
)
def test_only_growth_that_is_surely_within_the_limit_is_excused(timed, fails):
    verdict = judged(side(timed=1.0, seed=1), side(1.25, timed=timed, seed=2))

    assert (verdict.outcome is Outcome.FAIL) is fails
    assert bool(notes(verdict, "timed")) is not fails


def test_timing_never_accuses():
    verdict = judged(side(timed=1.0, seed=1), side(1.0, timed=1.5, seed=2))

    assert verdict.outcome is Outcome.PASS
    assert not verdict.findings


@pytest.mark.parametrize(("processes", "fails"), [(2, True), (3, False), (5, False)])
def test_so_many_processes_are_needed_to_excuse(processes, fails):
    some = {"processes": processes, "spread": 0.0}
    before, after = side(timed=1.0, seed=1, **some), side(1.3, timed=1.0, seed=2, **some)
    rule = replace(RULE, max_growth=Limit(share=0.15))

    verdict = judged(before, after, rule)

    assert (verdict.outcome is Outcome.FAIL) is fails


@pytest.mark.parametrize(
    ("part", "fails"), [(0.70, True), (0.8, False), (1.2, False), (1.40, True)]
)
def test_a_clock_that_saw_something_else_excuses_nothing(part, fails):
    before, after = side(timed=part, seed=1), side(1.15, timed=part * 1.0, seed=2)
    if part < 1:  # of the after side the clock sees 1 / 1.15 of what was sampled
        before = side(timed=part * 1.08, seed=1)
        after = side(1.15, timed=part * 1.08, seed=2)

    verdict = judged(before, after)

    assert (verdict.outcome is Outcome.FAIL) is fails


def with_counts(measurement, bytecodes):
    counting = Counting("3.12", "0", 2)
    counts = {PARSE: Count(12, bytecodes, 12, bytecodes)}
    processes = [replace(p, counts=counts, counting=counting) for p in measurement.processes]
    return replace(measurement, processes=tuple(processes))


@pytest.mark.parametrize(("bytecodes", "fails"), [(1000, False), (1100, False), (1101, True)])
def test_more_work_past_the_limit_is_never_excused(bytecodes, fails):
    before = with_counts(side(timed=1.0, seed=1), 1000)
    after = with_counts(side(1.2, timed=1.0, seed=2), bytecodes)

    assert (judged(before, after).outcome is Outcome.FAIL) is fails


def test_own_cost_is_not_what_was_timed():
    rule = replace(RULE, self_only=True)

    verdict = judged(side(timed=1.0, seed=1), side(1.2, timed=1.0, seed=2), rule)

    assert verdict.outcome is Outcome.FAIL
    assert verdict.findings[0].timed == ""


def test_a_caller_must_then_stand_for_itself():
    """Its growth was explained by a function that the clock excuses."""
    costs = {**COSTS, "m:main;m:parse": 300_000.0}
    before = side(timed=10.0, seed=1, costs=costs)
    after = side(1.3, timed=10.0, seed=2, costs=costs)

    verdict = judged(before, after)

    assert notes(verdict, "timed")
    assert verdict.outcome is Outcome.FAIL
    assert PARSE not in {finding.frame for finding in verdict.findings}


def test_without_references_nothing_is_claimed():
    def bare(measurement):
        rounds = [tuple(replace(r, references={}) for r in p.rounds) for p in measurement.processes]
        made = zip(measurement.processes, rounds, strict=True)
        return replace(measurement, processes=tuple(replace(p, rounds=r) for p, r in made))

    verdict = judged(bare(side(timed=1.0, seed=1)), bare(side(1.4, timed=1.0, seed=2)))

    assert not notes(verdict, "timed")
    assert all(finding.timing is None for finding in verdict.findings)


# -- the suspects -------------------------------------------------------------------------


def test_suspects_are_what_failed_and_their_callers():
    costs = {"m:main;m:a;m:b;m:c;m:d;m:parse": 30_000.0, "m:main;m:text": 70_000.0}
    before = synthetic_measurement(costs, noise=QUIET, seed=1)
    costs["m:main;m:a;m:b;m:c;m:d;m:parse"] *= 1.5
    verdict = judged(before, synthetic_measurement(costs, noise=QUIET, seed=2))

    chosen = [str(each) for each in suspects((verdict,))["after"]]

    assert chosen == ["m:parse", "m:d", "m:c", "m:b"]
    assert suspects(()) == {}
    assert suspects((judged(before, before),)) == {}


# -- the estimate --------------------------------------------------------------------------


@settings(max_examples=60, deadline=None)
@given(seed=st.integers(0, 10_000), growth=st.floats(0.8, 1.5))
def test_swapping_the_sides_negates_growth(seed, growth):
    one, other = side(timed=1.0, seed=seed), side(timed=growth, seed=seed + 1)
    there = diff_benchmark(one, other, Mode.ON_CPU).timings.change(PARSE)
    back = diff_benchmark(other, one, Mode.ON_CPU).timings.change(PARSE)

    assert there.log_ratio == pytest.approx(-back.log_ratio, abs=1e-9)
    assert there.low <= there.growth <= there.high


def test_the_interval_holds_the_truth_as_often_as_it_says():
    held = excused = 0
    times = 300
    main_before, main_after = side(seed=1), side(seed=2)
    for seed in range(times):
        sides = []
        for main, factor, at in ((main_before, 1.0, 1), (main_after, 1.1, 2)):
            each = [timing(30_000.0 * factor, seed=[seed, at, n], spread=0.04) for n in range(5)]
            pairs = zip(main.processes, each, strict=True)
            sides.append(replace(main, processes=tuple(replace(p, timing=t) for p, t in pairs)))
        change = diff_benchmark(*sides, Mode.ON_CPU).timings.change(PARSE)
        held += change.low <= 0.1 <= change.high
        # Growth that is just at the limit is excused in one of a hundred.
        excused += change.above(0.1) < 0.01

    assert 0.86 * times <= held <= 0.97 * times
    assert excused <= 0.025 * times
