"""judge/causes.py: many parts of one cause are one finding, with their caller's name."""

import pytest
from synthetic import SHOP, Noise, synthetic_measurement

from ci_flame.diff import diff_benchmark
from ci_flame.judge import judge_benchmark
from ci_flame.policy import Limit, Policy, Rule, Severity
from ci_flame.profile import Mode

API = "bench_shop:test_checkout;shop.api:checkout"
PRICE = f"{API};shop.money:price"
BEFORE = SHOP | {PRICE: 40_000.0}
STEADY = Noise(function=0.002, misfit=0.002, dispersion=0.2)
TEN = Rule(max_growth=Limit(share=0.10))


def judged(before, after, *rules):
    compared = diff_benchmark(
        synthetic_measurement(before, seed=1, noise=STEADY),
        synthetic_measurement(after, seed=2, noise=STEADY),
        Mode.ON_CPU,
    )
    return judge_benchmark(compared, Policy(rules=rules or (TEN,)), family=1)


def named(got):
    return [str(finding.frame) for finding in got.findings]


def natives(number, each=200_000.0, under=PRICE):
    """So many functions of a library that `price` calls, largest first."""
    part = each / number
    return {
        f"{under};native:libmpdec:mpd_{n}": part * (1 + 0.3 * (number - n) / number)
        for n in range(number)
    }


@pytest.mark.parametrize("number", [3, 4, 22])
def test_more_than_three_new_native_functions_are_one_finding_of_their_caller(number):
    got = judged(BEFORE, BEFORE | natives(number))

    if number == 3:
        assert sorted(named(got)) == [f"native:libmpdec:mpd_{n}" for n in range(3)]
        return
    assert named(got) == ["shop.money:price"]
    assert got.findings[0].cause.startswith(f"It is in {number} native functions below it (")
    assert got.findings[0].cause.endswith(f" and {number - 3} more.")
    assert "native:libmpdec:mpd_0" in got.findings[0].cause


def test_native_functions_that_grew_are_their_caller_s_growth():
    before = BEFORE | natives(6, 120_000.0)

    got = judged(before, BEFORE | natives(6, 240_000.0))

    assert named(got) == ["shop.money:price"]


def test_native_functions_of_two_callers_are_two_findings():
    other = f"{API};shop.render:page"
    got = judged(BEFORE, BEFORE | natives(5) | {
        f"{other};native:libz:z_{n}": 30_000.0 for n in range(5)
    })  # fmt: skip

    assert sorted(named(got)) == ["shop.money:price", "shop.render:page"]


def test_what_is_new_below_a_new_function_is_that_function():
    entry = f"{API};m:entry"
    new = {entry: 10_000.0} | {f"{entry};m:part{n};m:leaf{n}": 30_000.0 for n in range(6)}

    got = judged(SHOP, SHOP | new)

    assert named(got) == ["m:entry"]
    assert "6 new functions below it" in got.findings[0].cause


@pytest.mark.parametrize(("number", "expected"), [(3, "themselves"), (4, "caller")])
def test_new_functions_that_one_function_calls_are_that_function_s_growth(number, expected):
    got = judged(SHOP, SHOP | {f"{API};m:leaf{n}": 40_000.0 for n in range(number)})

    leaves = [f"m:leaf{n}" for n in range(number)]
    assert sorted(named(got)) == (leaves if expected == "themselves" else ["shop.api:checkout"])


def test_new_functions_below_different_known_ones_are_findings_of_their_own():
    places = ["shop.parser:parse", "shop.cart:total", "shop.render:page"]
    new = {f"{API};{place};m:of{n}": 60_000.0 for n, place in enumerate(places)}
    new |= {f"{API};m:here": 60_000.0}

    got = judged(SHOP, SHOP | new)

    assert sorted(named(got)) == ["m:here", "m:of0", "m:of1", "m:of2"]


def test_a_caller_that_only_warns_does_not_take_in_what_fails():
    rules = (
        Rule(max_growth=Limit(share=0.10), frames=("native:*",)),
        Rule(max_growth=Limit(share=0.10), frames=("shop.money:*",), severity=Severity.WARN),
    )

    got = judged(BEFORE, BEFORE | natives(5), *rules)

    assert sorted(named(got)) == [f"native:libmpdec:mpd_{n}" for n in range(5)]


def test_a_known_function_that_grew_stays_beside_new_ones():
    grown = BEFORE | natives(5) | {f"{API};shop.render:page": 260_000.0}

    got = judged(BEFORE, grown)

    assert sorted(named(got)) == ["shop.money:price", "shop.render:page"]


# -- the benchmark as a whole -------------------------------------------------------------------

TEST = "b:test"
MANY = {f"{TEST};m:f{n}": 100_000.0 for n in range(10)}
DOMINANT = {f"{TEST};m:big": 600_000.0} | {f"{TEST};m:f{n}": 100_000.0 for n in range(4)}
SMALL = {f"{TEST};m:f{n}": 100_000.0 for n in range(3)} | {
    f"{TEST};m:small{n}": 7_000.0 for n in range(100)
}


def times(costs, factor, only=""):
    return {p: cost * (factor if only in p else 1.0) for p, cost in costs.items()}


@pytest.mark.parametrize(
    ("before", "after", "guilty"),
    [
        (MANY, times(MANY, 1.2), ["[total]"]),
        (DOMINANT, times(DOMINANT, 1.2), ["[total]"]),
        (DOMINANT, times(DOMINANT, 1.4, "big"), ["m:big"]),
        (DOMINANT, times(times(DOMINANT, 1.4, "big"), 1.4, "f0"), ["m:big", "m:f0"]),
        (SMALL, times(SMALL, 1.2), ["[total]"]),
        (SMALL, times(SMALL, 1.6, "m:f"), ["m:f0", "m:f1", "m:f2"]),
    ],
    ids=["all", "all, one largest", "the largest", "two", "all, most small", "the large ones"],
)
def test_what_grew_alike_is_the_benchmark_itself(before, after, guilty):
    assert sorted(named(judged(before, after))) == guilty


def test_a_little_noise_of_one_function_does_not_hide_that_all_grew_alike():
    """One of 1.1 % that seems to have become cheaper, within its own noise."""
    one = {f"{TEST};m:little": 11_000.0}

    got = judged(MANY | one, times(MANY, 1.2) | times(one, 0.97))

    assert named(got) == ["[total]"]


@pytest.mark.parametrize("alone", [True, False])
def test_a_caller_that_does_more_of_what_all_call_is_not_the_benchmark_itself(alone):
    """Each callee grew alike, wherever it is called from; one caller did all of it."""
    callers = {"often": 60_000.0, "seldom": 20_000.0, "rarely": 20_000.0}
    before = {
        f"{TEST};m:{caller};m:f{n}": cost for caller, cost in callers.items() for n in range(5)
    }
    found = judged(before, times(before, 1.5, "often") if alone else times(before, 1.3)).findings

    assert ([str(each.frame) for each in found] == ["[total]"]) is not alone
    assert all(("m:often" in map(str, each.path)) is alone for each in found)


def test_two_of_many_noisy_functions_are_not_the_benchmark_itself():
    noisy = Noise(function=0.05, misfit=0.01, dispersion=0.5)
    after = times(times(MANY, 1.8, "m:f0"), 1.8, "m:f1")
    compared = diff_benchmark(
        synthetic_measurement(MANY, seed=1, noise=noisy),
        synthetic_measurement(after, seed=2, noise=noisy),
        Mode.ON_CPU,
    )

    got = judge_benchmark(compared, Policy(rules=(TEN,)), family=1)

    assert sorted(named(got)) == ["m:f0", "m:f1"]
