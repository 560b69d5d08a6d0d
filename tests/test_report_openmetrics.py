"""OpenMetrics, read back by Prometheus' own parser and as GitLab splits it."""

import math
import re
import shlex
from dataclasses import replace

import pytest
from hypothesis import given, settings
from prometheus_client.openmetrics.parser import text_string_to_metric_families
from test_report_text import OUTCOMES, check_golden
from verdicts import ALL, NAMES, failing, hostile, passing, verdict

from ci_flame.policy import Limit
from ci_flame.report import openmetrics
from ci_flame.verdict import Sort


def samples(given, **options):
    """Return value by family and labels, as both readers see them."""
    text = openmetrics.render(given, **options)
    text.encode("utf-8")
    families = list(text_string_to_metric_families(text))
    found = {
        (sample.name, frozenset(sample.labels.items())): sample.value
        for family in families
        for sample in family.samples
    }
    assert {family.type for family in families} <= {"gauge"}
    assert all(math.isfinite(value) for value in found.values())
    # GitLab: `line.gsub(/#.*$/, '').shellsplit`, name and value are the first two words.
    words = [shlex.split(re.sub(r"#.*$", "", line)) for line in text.split("\n")]
    told = [each for each in words if each]
    assert all(len(each) == 2 for each in told)
    assert [float(each[1]) for each in told] == list(found.values())
    assert len({each[0] for each in told}) == len(found)
    return found


def of(found, name, **labels):
    """Return the values of the family whose labels have these."""
    return [
        v for (n, have), v in found.items() if n == name and labels.items() <= dict(have).items()
    ]


@pytest.mark.parametrize("case", ALL)
def test_every_verdict_is_valid(case):
    found = samples(ALL[case])

    assert sum(of(found, "ci_flame_benchmarks")) == len({b.benchmark for b in ALL[case].benchmarks})


@pytest.mark.parametrize("outcome", OUTCOMES)
def test_golden(outcome):
    check_golden(f"{outcome}.metrics.txt", openmetrics.render(ALL[outcome]))


@given(NAMES)
@settings(max_examples=30, deadline=None)
def test_whatever_names_are_the_file_is_valid(name):
    assert of(samples(hostile(name), name=name), "ci_flame_benchmarks", outcome="fail") == [1]


def test_the_figures_are_those_of_the_verdict():
    found = samples(ALL["fail"])
    here = {"benchmark": "tests/bench_shop.py::test_checkout", "mode": "on-cpu"}
    guilty = here | {"function": "shop.parser:tokenize"}
    change = ALL["fail"].benchmarks[0].findings[0].change

    def one(name, **labels):
        (value,) = of(found, name, **labels)
        return value

    assert one("ci_flame_cost_seconds", **guilty, side="before") == pytest.approx(60.1e-6)
    assert one("ci_flame_cost_seconds", **guilty, side="after") == pytest.approx(75.2e-6)
    assert one("ci_flame_growth_ratio", **guilty) == pytest.approx(change.growth)
    assert one("ci_flame_growth_low_ratio", **guilty) == pytest.approx(change.low)
    assert one("ci_flame_growth_high_ratio", **guilty) == pytest.approx(change.high)
    assert one("ci_flame_share_ratio", **guilty, side="after") == pytest.approx(change.after_share)
    assert one("ci_flame_limit_ratio", **guilty, sort="growth") == 0.10
    assert one("ci_flame_smallest_visible_ratio", **here) == 0.062
    assert one("ci_flame_cost_seconds", **here, function="[total]", side="after") == pytest.approx(
        ALL["fail"].benchmarks[0].diff.total.after_ns / 1e9
    )


def test_what_is_new_has_no_growth():
    found = samples(ALL["fail"])
    new = {"function": "shop.tax:cached_lookup"}

    assert of(found, "ci_flame_cost_seconds", **new, side="before") == [0]
    assert of(found, "ci_flame_growth_ratio", **new) == []


def test_a_budget_without_a_baseline_has_cost_and_limit():
    each = failing()
    rule = replace(each.findings[0].rule, max_growth=None, budget=Limit(ns=12e6))
    budget = replace(each.findings[0], sort=Sort.BUDGET, rule=rule)
    found = samples(verdict(replace(each, findings=(budget,), diff=None)))
    guilty = {"function": "shop.parser:tokenize"}

    assert of(found, "ci_flame_cost_seconds", **guilty) == [pytest.approx(75.2e-6)]
    assert of(found, "ci_flame_limit_seconds", **guilty, sort="budget") == [0.012]
    assert of(found, "ci_flame_limit_ratio") == []


def test_series_are_bounded_and_what_is_left_out_is_counted():
    each = passing()
    many = [replace(each, benchmark=f"test_{n}") for n in range(openmetrics.BENCHMARKS)]
    found = samples(verdict(*many, failing()))

    assert of(found, "ci_flame_left_out", what="benchmarks") == [1]
    assert of(found, "ci_flame_cost_seconds", function="shop.parser:tokenize"), "the worst is in"
    assert len(found) < 1_500


def test_no_more_samples_than_said(monkeypatch):
    whole = samples(ALL["fail"])
    monkeypatch.setattr(openmetrics, "SAMPLES", 40)
    found = samples(ALL["fail"])

    assert len(found) < 40 + 10 < len(whole)
    assert of(found, "ci_flame_left_out", what="functions")[0] > 0


def test_legs_of_a_matrix_have_a_label():
    found = samples(ALL["fail"], name='py"3.12#')

    assert all(dict(labels)["key"] == 'py"3.12\\x23' for _, labels in found)


def test_what_a_rule_on_own_cost_found_is_the_figure_of_its_sentence():
    """Cost with callees grew by less than the limit of own cost: both stand there, told apart."""
    made = verdict(failing())
    (each, *rest) = made.benchmarks
    finding = each.findings[0]
    change = replace(finding.change, before_ns=1000.0, after_ns=3040.0, after_share=0.09)
    own = replace(finding, change=change, self_only=True, under="shop.api:get")
    found = samples(replace(made, benchmarks=(replace(each, findings=(own,)), *rest)))

    labels = {"function": str(own.frame), "cost": "own", "under": "shop.api:get"}
    assert of(found, "ci_flame_growth_ratio", **labels) == [pytest.approx(2.04)]
    assert of(found, "ci_flame_share_ratio", **labels, side="after") == [0.09]
    assert len(of(found, "ci_flame_limit_ratio", **labels)) == 1
    # ... and that of all calls, callees included
    assert len(of(found, "ci_flame_growth_ratio", function=str(own.frame))) == 2
