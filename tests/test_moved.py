"""Cost that moved is not cost that grew, up to its limits."""

import pytest
from synthetic import SHOP, Noise, synthetic_measurement

from ci_flame.diff import diff_benchmark
from ci_flame.judge.family import Family
from ci_flame.judge.moved import moves
from ci_flame.policy import Limit, Rule
from ci_flame.profile import Mode

API = "bench_shop:test_checkout;shop.api:checkout"
STEADY = Noise(function=0.002, misfit=0.002, dispersion=0.2)
TEN = Rule(max_growth=Limit(share=0.10))


def found(before, after):
    columns = diff_benchmark(
        synthetic_measurement(before, seed=1, noise=STEADY),
        synthetic_measurement(after, seed=2, noise=STEADY),
        Mode.ON_CPU,
    ).columns
    found = moves(Family(columns, (TEN,), 0.005))
    return {str(move.frame): move for move in found.values()}


def renamed(factor):
    return {
        path.replace("shop.render:page", "shop.render:draw"): cost * factor
        if path.endswith("page")
        else cost
        for path, cost in SHOP.items()
    }


@pytest.mark.parametrize(
    ("factor", "rule", "breaks"),
    [
        (1.0, TEN, False),
        (1.05, TEN, False),
        (1.3, TEN, True),
        (1.3, Rule(max_growth=Limit(share=0.5)), False),
        (1.3, Rule(max_growth=Limit(ns=20_000.0)), True),  # 130 -> 169 µs
        (1.3, Rule(max_growth=Limit(ns=60_000.0)), False),
        (1.3, Rule(max_growth=Limit(share=0.1), min_impact=0.2), False),
        (0.5, Rule(max_growth=Limit(share=0.0)), False),
    ],
)
def test_a_rename_is_judged_by_its_net_growth(factor, rule, breaks):
    move = found(SHOP, renamed(factor))["shop.render:draw"]

    assert move.after_ns / move.left_ns == pytest.approx(factor, rel=0.05)
    assert move.breaks(rule) is breaks


def test_the_words():
    assert str(found(SHOP, renamed(1.0))["shop.render:draw"]).startswith(
        "shop.render:draw is new and takes 26 % of the benchmark, which left shop.render:page"
        " at the same place: it moved, net "
    )


def test_callees_of_what_was_renamed_are_not_new():
    after = {path.replace("shop.cart:total", "shop.basket:total"): c for path, c in SHOP.items()}

    assert set(found(SHOP, after)) == {"shop.basket:total"}


def test_a_whole_renamed_branch_moved():
    after = {
        path.replace("shop.cart:total", "shop.basket:total").replace(
            "json:dumps", "orjson:dumps"
        ): c
        for path, c in SHOP.items()
    }

    assert set(found(SHOP, after)) == {"shop.basket:total", "orjson:dumps"}


@pytest.mark.parametrize(
    "after",
    [
        SHOP | {f"{API};shop.log:write": 38_000.0},
        # a neighbour that shrank excuses nothing
        SHOP | {f"{API};shop.log:write": 38_000.0, f"{API};shop.render:page": 92_000.0},
    ],
    ids=["added", "masked"],
)
def test_new_cost_is_not_moved_cost(after):
    assert found(SHOP, after) == {}
