"""What is tested, at what level: never more than the benchmark's part of the build."""

import pytest
from synthetic import SHOP, Noise, grown, synthetic_measurement

from ci_flame.diff import diff_benchmark
from ci_flame.judge.family import Family, nodes_of
from ci_flame.policy import Limit, Rule
from ci_flame.profile import TOTAL, Mode

API = "bench_shop:test_checkout;shop.api:checkout"
TWO_CALLERS = SHOP | {f"{API};shop.cart:total;shop.money:add": 60_000.0,
                      f"{API};shop.render:page;shop.money:add": 60_000.0}  # fmt: skip


def columns(before=SHOP, after=SHOP, **options):
    return diff_benchmark(
        synthetic_measurement(before, seed=1, **options),
        synthetic_measurement(after, seed=2, **options),
        Mode.ON_CPU,
    ).columns


def units(made, *rules):
    return Family(made, rules or (Rule(max_growth=Limit(share=0.1)),), 0.005)


def told(found, group):
    return sorted(str(unit.frame) for unit in found if unit.group == group)


def test_groups():
    found = units(columns(TWO_CALLERS, TWO_CALLERS))

    assert told(found, "path") == ["shop.money:add", "shop.money:add"]
    assert {unit.under for unit in found if unit.group == "path"} == {
        "shop.cart:total",
        "shop.render:page",
    }
    assert "[total]" in told(found, "total")
    assert "json:dumps" not in told(found, "total")  # a leaf is one hypothesis
    assert "json:dumps" in told(found, "own")


@pytest.mark.parametrize("truth", [SHOP, TWO_CALLERS, {"m:only": 1000.0}])
def test_the_parts_of_all_lines_add_up_to_the_benchmarks_level(truth):
    found = units(columns(truth, truth))
    lines = {id(line): line for line in found.lines}

    assert sum(found.alpha[line[0]] for line in lines.values()) == pytest.approx(0.005)


def test_what_is_tested_does_not_depend_on_the_direction():
    one = units(columns(SHOP, grown(SHOP, "json:dumps", 3.0)))
    other = units(columns(grown(SHOP, "json:dumps", 3.0), SHOP))

    assert told(one, "own") == told(other, "own")


@pytest.mark.parametrize(("min_impact", "tested"), [(0.05, True), (0.30, False)])
def test_what_cannot_have_the_impact_is_not_tested(min_impact, tested):
    rule = Rule(max_growth=Limit(share=0.1), min_impact=min_impact)

    assert ("json:dumps" in told(units(columns(), rule), "own")) is tested  # 10 % of it


def test_self_rules_test_own_costs_only():
    found = units(columns(), Rule(max_growth=Limit(share=0.1), self_only=True, frames=("shop.*",)))

    assert {unit.group for unit in found} == {"own"}


def test_shares_alone_do_not_test_the_benchmark_itself():
    truth = {"m:a": 700.0, "m:a;m:b": 300.0}
    found = units(columns(truth, truth, references=()))

    assert TOTAL not in {unit.frame for unit in found}


def test_path_globs_are_one_cost_per_last_frame():
    rule = Rule(max_growth=Limit(share=0.1), frames=("shop.api:*;**;shop.money:*",))
    made = columns(TWO_CALLERS, TWO_CALLERS, noise=Noise(dispersion=0.2))
    (unit,) = units(made, rule)

    assert unit.group == "path"
    assert unit.level == 0.005
    assert nodes_of(unit, made.evidence).sum() == 2
    share = unit.entry(unit.estimates.before) / unit.entry(unit.estimates.before[:1].repeat(9))
    assert share == pytest.approx(120 / 620, abs=0.03)


def test_identical_costs_are_one_hypothesis():
    # wrapper and wrapped only call: all their samples are the leaf's
    truth = {"m:a": 500.0, "m:a;m:wrapper;m:wrapped;m:leaf": 300.0,
             "m:a;m:wrapper;m:wrapped;m:other": 200.0}  # fmt: skip
    found = [unit for unit in units(columns(truth, truth)) if unit.group == "total"]

    same = {unit.adjusted for unit in found if str(unit.frame) in {"m:wrapper", "m:wrapped"}}
    assert len(same) == 1
    assert {unit.alpha for unit in found if str(unit.frame) == "m:a"} != same
