"""The sentence never contradicts the decision."""

import math
import re
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ci_flame.diff import Change
from ci_flame.policy import Limit, Rule
from ci_flame.profile import TOTAL, Frame
from ci_flame.verdict import (
    Finding,
    Outcome,
    Sort,
    counted,
    duration,
    limit_text,
    overall,
    percent,
    severity_of,
    worst,
)


def finding(before, after, *, whole=500_000.0, limit=None, low=None, high=None, **more):
    limit = Limit(share=0.10) if limit is None else limit
    log_ratio = math.log(after / before) if before else math.inf
    change = Change(
        before, after, before / whole, after / (whole + after - before), log_ratio, 0.03, 16.0,
        1e-9, after / before * 0.95 - 1 if low is None and before else low or -0.5,
        after / before * 1.05 - 1 if high is None and before else high or math.inf, 1000, 1200,
    )  # fmt: skip
    frame = more.pop("frame", Frame("tokenize", "shop.parser"))
    text = limit_text(share=limit.share, ns=None if limit.share is not None else limit.ns)
    return Finding(
        benchmark="tests/bench_shop.py::test_checkout",
        mode="on-cpu",
        frame=frame,
        path=(frame,),
        change=change,
        outcome=Outcome.FAIL,
        rule=more.pop("rule", Rule(max_growth=limit)),
        limit=more.pop("limit_text", text),
        self_only=more.pop("self_only", False),
        certainty=0.99,
        **more,
    )


def test_the_sentence():
    said = str(
        finding(
            60_100.0,
            75_200.0,
            low=0.18,
            high=0.33,
            work="Same calls, dearer: 0 % more bytecodes.",
            changed="Changed in this diff: src/shop/parser.py:88.",
        )
    )

    assert said == (
        "tests/bench_shop.py::test_checkout: shop.parser:tokenize grew by 25 % (18-33 %),"
        " 60.1 -> 75.2 µs per iteration, 12 -> 15 % of the benchmark; limit 10 %."
        " Same calls, dearer: 0 % more bytecodes. Changed in this diff: src/shop/parser.py:88."
    )


@pytest.mark.parametrize(
    ("before", "after", "words"),
    [
        (100_000.0, 110_040.0, "grew by 10.04 % "),  # never "10 %; limit 10 %"
        (100_000.0, 110_400.0, "grew by 10.4 % "),
        (100_000.0, 111_000.0, "grew by 11 % "),
        (100_000.0, 110_000.4, "grew by 10.0004 % "),
        (1_000.0, 3_000.0, "grew by 200 % "),
    ],
)
def test_growth_is_printed_past_its_limit(before, after, words):
    assert words in str(finding(before, after))


@given(
    st.floats(10.0, 1e9),
    st.floats(0.0, 5.0),
    st.floats(1e-6, 2.0),
)
def test_printed_growth_is_past_the_printed_limit_and_costs_rise(before, limit, excess):
    limit = round(limit, 3)
    said = str(finding(before, before * (1 + limit + excess), limit=Limit(share=limit)))

    grown = float(re.search(r"grew by ([\d.]+) %", said).group(1))
    printed = float(re.search(r"limit ([\d.]+) %", said).group(1))
    one, other = re.search(r"([\d.]+) -> ([\d.]+) \S+ per iteration", said).groups()
    assert grown > printed
    assert float(other) > float(one)


def test_absolute_limits_are_passed_by_the_printed_figures():
    said = str(finding(100_000.0, 110_040.0, limit=Limit(ns=10_000.0)))

    one, other = re.search(r"([\d.]+) -> ([\d.]+) µs", said).groups()
    assert float(other) - float(one) > 10
    assert said.endswith("limit 10 µs.")


@pytest.mark.parametrize(
    ("ns", "text"),
    [
        (7.0, "7.00 ns"),
        (999.4, "999 ns"),
        (999.6, "1.00 µs"),
        (75_200.0, "75.2 µs"),
        (3.2e6, "3.20 ms"),
        (2.5e9, "2.50 s"),
        (4e12, "4000 s"),
    ],
)
def test_durations_have_three_digits(ns, text):
    assert duration(ns) == text


@pytest.mark.parametrize(
    ("share", "above", "text"),
    [
        (0.1004, 0.10, "10.04"),
        (0.0994, None, "9.9"),
        (0.0996, None, "10"),
        (0.301, 0.30, "30.1"),
        (-0.0001, None, "0.0"),
        (0.09, 0.10, "9.0"),  # under the limit: nothing to keep apart
    ],
)
def test_percent(share, above, text):
    assert percent(share, above=above) == text


def test_what_is_new_has_no_growth():
    said = str(finding(0.0, 3.2e6, whole=23.5e6))

    assert said == (
        "tests/bench_shop.py::test_checkout: shop.parser:tokenize is new: 3.20 ms per iteration,"
        " 12 % of the benchmark; what is new may take 0.5 %."
    )


def test_what_is_new_and_limited_in_seconds_alone_has_that_limit():
    new = replace(finding(0.0, 38_000.0), limit="20 µs", rule=Rule(max_growth=Limit(ns=20_000)))

    assert str(new).endswith("; limit 20 µs.")


def test_the_benchmark_itself():
    said = str(finding(500_000.0, 650_000.0, frame=TOTAL))

    assert "the benchmark itself grew by 30 %" in said
    assert "of the benchmark" not in said


def test_own_cost_callers_and_causes_are_named():
    own = str(finding(1000.0, 2000.0, self_only=True, under="shop.api:get"))
    caused = str(finding(1000.0, 2000.0, cause="Most of the growth (90 %) is in a:b."))

    assert "own cost of shop.parser:tokenize under shop.api:get grew by 100 %" in own
    assert caused.endswith("limit 10 %. Most of the growth (90 %) is in a:b.")


def test_budgets():
    share = finding(
        150_000.0, 150_200.0, rule=Rule(budget=Limit(share=0.30)), sort=Sort.BUDGET,
        limit_text="30 %", budget_interval=(0.2990, 0.3020),
    )  # fmt: skip
    time = finding(
        12.0e6, 12.04e6, whole=40e6, rule=Rule(budget=Limit(ns=12e6)), sort=Sort.BUDGET,
        limit_text="12 ms",
    )  # fmt: skip

    of_share = "takes 30.03 % (29.9-30.2 %) of the benchmark, 150 µs per iteration; budget 30 %."
    assert of_share in str(share)
    assert "takes 12.04 ms per iteration" in str(time)
    assert str(time).endswith("budget 12 ms.")


def test_negative_ends_are_not_dashes():
    assert "(-5 to 30 %)" in str(finding(100.0, 120.0, low=-0.05, high=0.30))


def test_outcomes_are_ordered():
    order = [
        Outcome.PASS, Outcome.NO_BASELINE, Outcome.WARN, Outcome.INCONCLUSIVE, Outcome.FAIL,
    ]  # fmt: skip

    assert [severity_of(outcome) for outcome in order] == [0, 1, 2, 3, 4]
    assert worst(order) is Outcome.FAIL
    assert worst(order[:2]) is Outcome.NO_BASELINE
    assert worst([]) is Outcome.PASS


@pytest.mark.parametrize(
    ("outcomes", "together"),
    [
        ("", "pass"),
        ("no-baseline", "no-baseline"),
        ("no-baseline no-baseline", "no-baseline"),
        ("no-baseline pass", "pass"),
        ("no-baseline warn pass", "warn"),
        ("no-baseline inconclusive", "inconclusive"),
        ("fail no-baseline", "fail"),
    ],
)
def test_no_baseline_is_the_outcome_only_where_nothing_was_compared(outcomes, together):
    assert overall(map(Outcome, outcomes.split())) == together


def test_the_modes_of_a_benchmark_are_counted_together():
    modes = [("a", Outcome.PASS), ("a", Outcome.NO_BASELINE), ("b", Outcome.NO_BASELINE)]

    assert counted(modes) == {Outcome.NO_BASELINE: 1, Outcome.PASS: 1}
