"""What must hold of every verdict, whatever was recorded."""

from dataclasses import replace
from random import Random

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from recordings import NOISES, costs, measurements
from synthetic import SHOP, Noise, grown, synthetic_measurement, synthetic_run

from ci_flame.diff import diff, diff_benchmark
from ci_flame.judge import judge, judge_benchmark
from ci_flame.policy import Limit, Policy, Rule
from ci_flame.profile import Mode
from ci_flame.verdict import Outcome

TOKENIZE = "shop.parser:tokenize"
STRICT = Policy(
    rules=(
        Rule(max_growth=Limit(share=0.0), min_impact=0.0, certainty=0.01, place="strict"),
        Rule(frames=("m:*;**;*",), max_growth=Limit(share=0.0), min_impact=0.0, certainty=0.01),
        Rule(max_growth=Limit(share=0.0), min_impact=0.0, certainty=0.01, self_only=True),
    )
)
TEN = Policy(rules=(Rule(max_growth=Limit(share=0.10), place="ten"),))
SOME = settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.too_slow])


def judged(before, after, policy=TEN, family=1):
    return judge_benchmark(diff_benchmark(before, after, Mode.ON_CPU), policy, family=family)


def said(verdict):
    return verdict.outcome, [str(each) for each in verdict.findings], list(verdict.notes)


@st.composite
def pairs(draw):
    """Return two recordings of the same benchmark, one function of it grown or not."""
    truth = draw(costs())
    leaf = draw(st.sampled_from(sorted(truth)))
    factor = draw(st.sampled_from([1.0, 1.2, 2.0]))
    changed = {path: cost * factor if path == leaf else cost for path, cost in truth.items()}
    noise = draw(NOISES)
    one, other = (
        synthetic_measurement(
            each, seed=draw(st.integers(0, 2**31)), noise=noise, processes=3, rounds=4
        )
        for each in (truth, changed)
    )
    return one, other


@SOME
@given(measurements(), st.integers(1, 300))
def test_a_recording_against_itself_never_fails_by_any_rule(measurement, family):
    got = judged(measurement, measurement, STRICT, family)

    assert not got.findings
    assert got.outcome in {Outcome.PASS, Outcome.INCONCLUSIVE}


@SOME
@given(pairs())
def test_what_fails_does_not_fail_the_other_way_round(both):
    one, other = (diff_benchmark(*sides, Mode.ON_CPU) for sides in (both, both[::-1]))
    there = {str(each.frame): each for each in one.frames}
    back = {str(each.frame): each for each in other.frames}

    for name, each in there.items():
        assert back[name].total.log_ratio == pytest.approx(-each.total.log_ratio, abs=1e-9)
        assert back[name].total.standard_error == pytest.approx(each.total.standard_error)
    failed = {str(each.frame) for each in judge_benchmark(one, STRICT, family=1).findings}
    turned = {str(each.frame) for each in judge_benchmark(other, STRICT, family=1).findings}
    if one.anchor != "shares":  # a share also grows where another shrinks
        for name in failed & turned:  # own cost may grow while that with callees shrinks
            assert name in {"[total]", *there}
            assert name != "[total]"


def times(measurement, factor):
    """Return the same costs per iteration, recorded in rounds of `factor` times the iterations."""
    return replace(
        measurement,
        processes=tuple(
            replace(
                process,
                rounds=tuple(
                    replace(
                        each,
                        iterations=each.iterations * factor,
                        cpu_ns=each.cpu_ns * factor,
                        wall_ns=each.wall_ns * factor,
                    )
                    for each in process.rounds
                ),
            )
            for process in measurement.processes
        ),
    )


@SOME
@given(pairs(), st.integers(2, 1000))
def test_more_iterations_of_the_same_cost_change_nothing(both, factor):
    before, after = both
    one, other = judged(before, after), judged(before, times(after, factor))

    assert said(other)[:2] == said(one)[:2]
    assert other.diff.total.after_ns == pytest.approx(one.diff.total.after_ns)


@SOME
@given(pairs(), st.randoms(use_true_random=False))
def test_the_order_of_processes_and_rounds_changes_nothing(both, order: Random):
    before, after = both
    shuffled = replace(
        after,
        processes=tuple(
            replace(process, rounds=tuple(order.sample(process.rounds, len(process.rounds))))
            for process in order.sample(after.processes, len(after.processes))
        ),
    )
    one, other = judged(before, after), judged(before, shuffled)

    assert said(other)[:2] == said(one)[:2]
    assert {str(k): v for k, v in other.visible.items()} == pytest.approx(
        {str(k): v for k, v in one.visible.items()}
    )


@pytest.mark.parametrize(
    ("quiet", "noisy"),
    [
        ({"dispersion": 0.2}, {"dispersion": 3.0}),
        ({"function": 0.001}, {"function": 0.08}),
        ({"misfit": 0.002}, {"misfit": 0.15}),
    ],
    ids=["samples", "functions", "machine"],
)
def test_a_noisier_run_widens_intervals_and_sees_less(quiet, noisy):
    def width(noise, seed):
        got = judged(
            synthetic_measurement(SHOP, seed=seed, noise=noise),
            synthetic_measurement(SHOP, seed=seed + 500, noise=noise),
        )
        sizes = [each.total.high - each.total.low for each in got.diff.frames]
        return sum(sizes) / len(sizes), got.smallest_visible

    calm = [width(Noise(**quiet), seed) for seed in range(8)]
    wild = [width(Noise(**noisy), seed) for seed in range(8)]

    assert sum(w for w, _ in wild) > 1.2 * sum(w for w, _ in calm)
    # The centre of functions stands in for a poor reference, for the most part.
    assert sum(s for _, s in wild) > 1.05 * sum(s for _, s in calm)


@settings(max_examples=15, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(
    st.lists(st.tuples(pairs(), st.booleans()), min_size=1, max_size=3),
    st.randoms(use_true_random=False),
)
def test_another_benchmark_never_turns_a_pass_into_a_failure(several, order):
    named = [
        tuple(replace(side, benchmark=f"b.py::test_{number}") for side in both)
        for number, (both, _) in enumerate(several)
    ]
    extra = tuple(
        synthetic_measurement(grown(SHOP, TOKENIZE, 3.0) if side else SHOP, benchmark="b.py::more")
        for side in (0, 1)
    )

    def outcomes(some):
        before, after = (synthetic_run(*(each[side] for each in some)) for side in (0, 1))
        got = judge(diff(before, after), TEN, after=after)
        return {each.benchmark: said(each)[:2] for each in got.benchmarks}

    alone = outcomes(named)
    together = outcomes([*named, extra])
    shuffled = outcomes(order.sample([*named, extra], len(named) + 1))

    assert shuffled == together
    for name, (outcome, _) in alone.items():
        if outcome is Outcome.PASS:
            assert together[name][0] is Outcome.PASS
