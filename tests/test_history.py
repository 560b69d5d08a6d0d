"""Verdicts against a baseline that has siblings: spread, bad recordings, slow creep."""

import numpy as np
import pytest
from synthetic import SHOP, WAITS, grown, synthetic_measurement, synthetic_run, synthetic_waits

from ci_flame import pipeline
from ci_flame.config.terms import Terms
from ci_flame.judge.history import History, softened
from ci_flame.policy import Limit, Policy, Rule
from ci_flame.profile import Mode
from ci_flame.verdict import Outcome, Sort
from ci_flame.verdict.absent import is_compared

GUILTY = "shop.parser:tokenize"
PAGE = "shop.render:page"
NAME = "tests/bench_shop.py::test_checkout"
POLICY = Policy()


def scaled(costs, factor):
    return {stack: cost * factor for stack, cost in costs.items()}


def build(number, costs=SHOP, *, seed=None, **options):
    """The build of day `number`."""
    made = synthetic_measurement(costs, seed=100 + number if seed is None else seed, **options)
    return synthetic_run(made, commit=f"{number:040x}", time=f"2026-09-{number:02}T10:00:00Z")


def judge(base, after, *siblings, anchor=None, policy=POLICY):
    history = History(base, tuple(siblings), anchor)
    return pipeline.judge_runs(base, after, Terms(policy), history)


def slugs(verdict):
    return {note.slug: note.text for each in verdict.benchmarks for note in each.notes}


# -- spread between builds ------------------------------------------------------------


def shifting(count, spread, seed):
    """Builds of the same code, each as a whole and each function of it a little off."""
    rng = np.random.default_rng(seed)
    return [
        build(
            n, {k: v * np.exp(rng.normal(0, spread)) for k, v in SHOP.items()}, seed=seed * 99 + n
        )
        for n in range(1, count + 1)
    ]


def test_builds_that_differ_do_not_fail_each_other():
    """Same code, functions 8 % apart between builds: the pair alone cries wolf, siblings know."""
    alone = known = 0
    for seed in range(1, 13):
        *siblings, base, after = shifting(7, 0.08, seed)
        alone += judge(base, after).outcome is Outcome.FAIL
        known += judge(base, after, *siblings).outcome is Outcome.FAIL

    assert alone >= 3
    assert known <= 1


@pytest.mark.parametrize("growth", [1.5, 2.0])
def test_growth_is_still_found_where_builds_agree(growth):
    siblings = [build(n) for n in range(1, 6)]
    verdict = judge(build(6), build(7, grown(SHOP, GUILTY, growth)), *siblings)

    assert verdict.outcome is Outcome.FAIL
    assert str(verdict.benchmarks[0].findings[0].frame) == GUILTY


def test_siblings_never_narrow_an_interval():
    base, after = build(8), build(9, grown(SHOP, GUILTY, 1.1))
    alone = judge(base, after).benchmarks[0].diff
    beside = judge(base, after, *(build(n) for n in range(1, 8))).benchmarks[0].diff
    pairs = list(
        zip(
            sorted(alone.frames, key=lambda each: str(each.frame)),
            sorted(beside.frames, key=lambda each: str(each.frame)),
            strict=True,
        )
    )

    assert len(pairs) == 7
    for one, other in pairs:
        assert other.own.standard_error >= one.own.standard_error
        assert other.total.low <= one.total.low
    assert beside.smallest_visible >= alone.smallest_visible


def test_wide_spread_is_told():
    siblings = shifting(8, 0.10, 4)
    verdict = judge(siblings[-1], build(20, seed=5), *siblings[:-1])

    assert "spread by" in slugs(verdict)["between-builds"]
    assert "between-builds" not in slugs(
        judge(build(8), build(9), *(build(n) for n in range(1, 8)))
    )


def test_waiting_has_siblings_too():
    def waiting(number, factor=1.0):
        made = synthetic_waits(
            {text: (count, ns * factor) for text, (count, ns) in WAITS.items()}, seed=number
        )
        return synthetic_run(made, commit=f"{number:040x}", time=f"2026-09-{number:02}T10:00:00Z")

    rng = np.random.default_rng(2)
    siblings = [waiting(n, float(np.exp(rng.normal(0, 0.15)))) for n in range(1, 9)]
    base, after = waiting(9), waiting(10, 1.25)

    assert judge(base, after).outcome is Outcome.FAIL
    assert judge(base, after, *siblings).outcome is not Outcome.FAIL
    spread = History(base, tuple(siblings)).between(
        siblings[0].measurements[0].benchmark, Mode.OFF_CPU
    )
    assert 0.05 < np.sqrt(spread.whole) < 0.4


# -- bad recordings -------------------------------------------------------------------


def test_a_bad_baseline_fails_nobody():
    """Its page was cheap by a third for once: every pull request of the day seems dearer."""
    siblings = [build(n) for n in range(1, 8)]
    bad = build(8, grown(SHOP, PAGE, 0.6))
    after = build(9)

    assert judge(bad, after).outcome is Outcome.FAIL
    verdict = judge(bad, after, *siblings)
    assert verdict.outcome is not Outcome.FAIL
    told = slugs(verdict)
    assert f"{8:040x}"[:10] in told["set-aside"]
    assert f"{7:040x}"[:10] in told["set-aside"]
    assert PAGE in told["set-aside"]
    assert PAGE in told["not-confirmed"]


def test_growth_against_all_of_them_fails_beside_a_bad_baseline():
    siblings = [build(n) for n in range(1, 8)]
    bad = build(8, grown(SHOP, PAGE, 0.6))
    verdict = judge(bad, build(9, grown(SHOP, GUILTY, 2.0)), *siblings)

    assert verdict.outcome is Outcome.FAIL
    assert GUILTY in {str(f.frame) for f in verdict.benchmarks[0].findings}


def test_a_change_that_landed_fails_nobody_after_it():
    """The base commit made the page dearer: whoever builds on it has not."""
    siblings = [build(n) for n in range(1, 8)]
    dearer = grown(SHOP, PAGE, 1.6)
    verdict = judge(build(8, dearer), build(9, dearer), *siblings)

    assert verdict.outcome is not Outcome.FAIL
    assert "set-aside" in slugs(verdict)
    # With one build more it is what it is: a change.
    verdict = judge(build(9, dearer), build(10, dearer), *siblings, build(8, dearer))
    assert verdict.outcome is Outcome.PASS
    assert "set-aside" not in slugs(verdict)


def test_a_bad_sibling_is_named_and_spreads_nothing():
    siblings = [build(n) for n in range(1, 8)]
    siblings[3] = build(4, scaled(SHOP, 1.6))
    verdict = judge(build(8), build(9, grown(SHOP, GUILTY, 1.5)), *siblings)

    assert f"{4:040x}"[:10] in slugs(verdict)["set-aside"]
    assert verdict.outcome is Outcome.FAIL


def test_two_siblings_set_nothing_aside():
    verdict = judge(build(8, grown(SHOP, PAGE, 0.6)), build(9), build(6), build(7))

    assert "set-aside" not in slugs(verdict)


# -- slow creep -----------------------------------------------------------------------


def creeping(steps, factor):
    """Builds of which each costs `factor` of the one before, in one function."""
    return [build(n + 1, grown(SHOP, GUILTY, factor**n), seconds=8.0) for n in range(steps)]


def test_slow_creep_warns():
    """Seven times 5 %: no build grew past 10 %, all of them together by 40 %."""
    anchor, *siblings, base, after = creeping(8, 1.05)
    policy = Policy(rules=(Rule(frames=(GUILTY,), max_growth=Limit(share=0.10)),))
    verdict = judge(base, after, anchor, *siblings, anchor=anchor, policy=policy)
    (finding,) = verdict.benchmarks[0].findings

    assert verdict.outcome is Outcome.WARN
    assert finding.sort is Sort.CREEP
    told = str(finding)
    assert f"slow creep: {GUILTY} grew by" in told
    assert f"since the anchor {anchor.commit[:10]} of 2026-09-01; limit 10 %." in told
    assert "None of the last 7 builds surely grew past its limit." in told
    assert (
        pipeline.exit_code(verdict.outcome, policy, compared=is_compared(verdict.benchmarks)) == 0
    )


def test_growth_under_the_limit_since_the_anchor_is_quiet():
    anchor, *siblings, base, after = creeping(8, 1.005)
    verdict = judge(base, after, anchor, *siblings, anchor=anchor)

    assert verdict.outcome is Outcome.PASS
    assert verdict.benchmarks[0].findings == ()


def test_the_step_that_did_it_is_named():
    anchor = build(1, seconds=8.0)
    dearer = grown(SHOP, GUILTY, 1.6)
    siblings = [build(2, seconds=8.0), build(3, dearer, seconds=8.0), build(4, dearer, seconds=8.0)]
    verdict = judge(
        build(5, dearer, seconds=8.0), build(6, dearer, seconds=8.0), anchor, *siblings,
        anchor=anchor,
    )  # fmt: skip
    findings = [each for each in verdict.benchmarks[0].findings if each.sort is Sort.CREEP]

    assert [str(each.frame) for each in findings] == [GUILTY]
    assert f"with {siblings[1].commit[:10]} of 2026-09-03." in str(findings[0])


def test_what_the_gate_fails_is_not_said_twice():
    anchor = build(1)
    verdict = judge(build(2), build(3, grown(SHOP, GUILTY, 2.0)), anchor=anchor)

    assert verdict.outcome is Outcome.FAIL
    assert [each.sort for each in verdict.benchmarks[0].findings] == [Sort.GROWTH]


def test_the_anchor_that_is_the_baseline_says_nothing():
    base = build(2)
    verdict = judge(base, build(3), anchor=base)

    assert verdict.benchmarks[0].findings == ()


# -- the base commit, recorded once more ------------------------------------------------


def recorded_again(history, after, again):
    return pipeline.judge_runs(again, after, Terms(POLICY), history)


def test_a_base_commit_that_became_faster_is_what_counts():
    """Yesterday's merge made the page cheaper: what takes that back is growth, not the past."""
    siblings = [build(n) for n in range(1, 6)]
    faster = grown(SHOP, PAGE, 0.6)
    stored, after = build(6, faster), build(7, grown(SHOP, PAGE, 0.9))
    history = History(stored, tuple(siblings))
    first = pipeline.judge_runs(stored, after, Terms(POLICY), history)

    assert first.outcome is not Outcome.FAIL
    assert softened(first.benchmarks), "so that it is recorded once more"

    second = recorded_again(history, after, build(6, faster, seed=61))
    assert second.outcome is Outcome.FAIL
    assert str(second.benchmarks[0].findings[0].frame) == PAGE
    assert "beside this build is what counts" in slugs(second)["set-aside"]
    assert not softened(second.benchmarks)


def test_a_bad_recording_of_the_base_fails_nobody_once_it_is_recorded_again():
    siblings = [build(n) for n in range(1, 6)]
    history = History(build(6, grown(SHOP, PAGE, 0.6)), tuple(siblings))
    after = build(7)

    assert recorded_again(history, after, build(6, seed=61)).outcome is Outcome.PASS


@pytest.mark.parametrize("factor", [1.0, 1.2, 1.6])
def test_a_base_commit_that_became_slower_is_what_counts(factor):
    """20 % slower than its five ancestors since yesterday: whoever builds on it has not grown."""
    siblings = [build(n, seconds=4.0) for n in range(1, 6)]
    slower = grown(SHOP, PAGE, factor)
    base = build(6, slower, seconds=4.0)
    same = judge(base, build(7, slower, seconds=4.0), *siblings)
    more = judge(base, build(7, grown(slower, PAGE, 1.5), seconds=4.0), *siblings)

    assert same.outcome is not Outcome.FAIL
    assert more.outcome is Outcome.FAIL
    found = {str(each.frame): each.change for each in more.benchmarks[0].findings}
    assert 1.3 < found[PAGE].after_ns / found[PAGE].before_ns < 1.7
