"""Cost that moved is not cost that grew, up to its limits."""

from dataclasses import replace

import pytest
from synthetic import SHOP, Noise, grown, synthetic_measurement

from ci_flame.diff import diff_benchmark
from ci_flame.judge import judge_benchmark
from ci_flame.judge.family import Family
from ci_flame.judge.moved import moves
from ci_flame.policy import Limit, Policy, Rule
from ci_flame.profile import Frame, Mode
from ci_flame.profile.counts import Count, Counting
from ci_flame.verdict import Outcome

API = "bench_shop:test_checkout;shop.api:checkout"
PAGE = f"{API};shop.render:page"
STEADY = Noise(function=0.002, misfit=0.002, dispersion=0.2)
TEN = Rule(max_growth=Limit(share=0.10))


def compared(before, after):
    return diff_benchmark(
        synthetic_measurement(before, seed=1, noise=STEADY),
        synthetic_measurement(after, seed=2, noise=STEADY),
        Mode.ON_CPU,
    )


def found(before, after, rule=TEN):
    family = Family(compared(before, after).columns, (rule,), 0.005)
    return {str(move.frame): move for move in moves(family, range(family.count)).values()}


def judged(before, after, *rules):
    return judge_benchmark(compared(before, after), Policy(rules=rules or (TEN,)), family=1)


def named(got):
    return [str(finding.frame) for finding in got.findings]


def moved(got):
    return [note.text for note in got.notes if note.slug == "moved"]


def split(first, second):
    """`page` became `head` and `body`, beside one another."""
    left = {path: cost for path, cost in SHOP.items() if path != PAGE}
    return left | {f"{API};shop.render:head": first, f"{API};shop.render:body": second}


@pytest.mark.parametrize(
    ("first", "second", "rule", "breaks"),
    [
        (70_000.0, 60_000.0, TEN, False),  # 130 as before
        (73_000.0, 63_000.0, TEN, False),  # +5 %
        (91_000.0, 78_000.0, TEN, True),  # +30 %
        (91_000.0, 78_000.0, Rule(max_growth=Limit(share=0.5)), False),
        (91_000.0, 78_000.0, Rule(max_growth=Limit(ns=10_000.0)), True),  # each by its part
        (91_000.0, 78_000.0, Rule(max_growth=Limit(ns=30_000.0)), False),
        (91_000.0, 78_000.0, Rule(max_growth=Limit(share=0.1), min_impact=0.2), False),
        (40_000.0, 30_000.0, Rule(max_growth=Limit(share=0.0)), False),
    ],
)
def test_a_split_is_judged_by_its_net_growth(first, second, rule, breaks):
    got = {name: move for name, move in found(SHOP, split(first, second)).items() if move.new}

    assert set(got) == {"shop.render:head", "shop.render:body"}
    for move in got.values():
        assert move.after_ns / move.left_ns == pytest.approx((first + second) / 130e3, rel=0.05)
        assert move.breaks(rule) is breaks


def test_the_words():
    assert str(found(SHOP, split(70_000.0, 60_000.0))["shop.render:head"]).startswith(
        "shop.render:head is new and takes 14 % of the benchmark, which left shop.render:page"
        " at the same place: it moved, net "
    )


@pytest.mark.parametrize(
    ("after", "expected"),
    [
        # extracted: a part of the caller's own cost is a function now
        (SHOP | {PAGE: 60_000.0, f"{PAGE};shop.render:escape": 70_000.0}, ["shop.render:escape"]),
        # merged into a new one
        (
            {
                path: cost
                for path, cost in SHOP.items()
                if not path.endswith(("page", "tokenize", "parse"))
            }
            | {f"{API};shop.all:work": 310_000.0},
            ["shop.all:work"],
        ),
    ],
    ids=["extracted", "merged"],
)
def test_what_moved_passes_and_is_told(after, expected):
    got = judged(SHOP, after)

    assert got.outcome is Outcome.PASS
    assert [text.split(" is new")[0] for text in moved(got)] == expected


SPREAD = SHOP | {f"{API};shop.render:foot": 60_000.0}
MERGED = {path: cost for path, cost in SPREAD.items() if not path.endswith("foot")}
"""`foot` is gone; what it did may be in `page` now."""


@pytest.mark.parametrize(
    ("page", "outcome"),
    [
        (190_000.0, Outcome.PASS),  # 130 + 60
        (200_000.0, Outcome.PASS),  # +5 % of both
        (250_000.0, Outcome.FAIL),  # +32 %
    ],
)
def test_a_function_that_took_in_another_is_judged_by_its_net_growth(page, outcome):
    got = judged(SPREAD, MERGED | {PAGE: page})

    assert got.outcome is outcome
    assert named(got) == (["shop.render:page"] if outcome is Outcome.FAIL else [])
    if outcome is Outcome.PASS:
        (text,) = moved(got)
        assert text.startswith(
            "shop.render:page took in shop.render:foot, gone at the same place: that cost moved,"
            " net "
        )


def test_two_that_grew_do_not_share_what_is_gone_twice():
    # 60 µs are gone; page and total grew by 60 each.
    after = MERGED | {PAGE: 190_000.0, f"{API};shop.cart:total": 150_000.0}
    got = judged(SPREAD, after)

    assert got.outcome is Outcome.FAIL


def test_growth_beside_a_split_is_not_excused_by_it():
    after = grown(split(70_000.0, 60_000.0), "shop.cart:total", 1.6)
    got = judged(SHOP, after)

    assert named(got) == ["shop.cart:total"]
    assert len(moved(got)) == 2


OWN = Rule(max_growth=Limit(share=0.10), self_only=True)


@pytest.mark.parametrize(
    ("own", "outcome"),
    [
        (180_000.0, Outcome.PASS),  # 60 + tokenize's 120
        (240_000.0, Outcome.FAIL),
    ],
)
def test_an_inlined_callee_is_no_growth_of_own_cost(own, outcome):
    parse = f"{API};shop.parser:parse"
    after = {path: cost for path, cost in SHOP.items() if not path.endswith("tokenize")}
    got = judged(SHOP, after | {parse: own}, OWN)

    assert got.outcome is outcome
    if outcome is Outcome.PASS:
        assert "took in shop.parser:tokenize" in moved(got)[0]


@pytest.mark.parametrize(
    "after",
    [
        SHOP | {f"{API};shop.log:write": 38_000.0},
        # a neighbour that shrank excuses nothing
        SHOP | {f"{API};shop.log:write": 38_000.0, PAGE: 92_000.0},
        # nor does a function that grew
        grown(SHOP, "json:dumps", 1.6) | {PAGE: 100_000.0},
    ],
    ids=["added", "masked", "masked growth"],
)
def test_new_cost_is_not_moved_cost(after):
    assert found(SHOP, after) == {}
    assert judged(SHOP, after).outcome is Outcome.FAIL


# -- handed over to a new function beside it, witnessed by exact counts ----------------

BODY = f"{API};shop.render:body"
HALVED = SHOP | {PAGE: 68_000.0, BODY: 66_000.0}
"""`page` keeps its name and half of its work; `body` beside it has the other half."""


def counted(costs, seed, bytecodes, **about):
    """A measurement whose processes counted these functions' bytecodes."""
    made = synthetic_measurement(costs, seed=seed, noise=STEADY)
    counts = {Frame.parse(name): Count(10, own, 10, own) for name, own in bytecodes.items()}
    counting = Counting(**{"python": "3.12", "hash_seed": "0", "iterations": 2, **about})
    told = tuple(replace(each, counts=counts, counting=counting) for each in made.processes)
    return replace(made, processes=told)


def judged_with(before, after, one, other, **about):
    compared = diff_benchmark(
        counted(before, 1, one), counted(after, 2, other, **about), Mode.ON_CPU
    )
    return judge_benchmark(compared, Policy(rules=(TEN,)), family=1)


@pytest.mark.parametrize(
    ("page", "body", "passes"),
    [
        (500, 500, True),
        (500, 549, True),  # a split has calls and a loop of its own
        (500, 551, False),
        (500, 451, True),
        (500, 449, False),
        (1000, 500, False),  # nothing left `page`: it got faster, and `body` is new work
        (500, 3000, False),
    ],
)
def test_bytecodes_witness_what_a_function_handed_to_a_new_one(page, body, passes):
    got = judged_with(
        SHOP, HALVED, {"shop.render:page": 1000},
        {"shop.render:page": page, "shop.render:body": body},
    )  # fmt: skip

    assert named(got) == ([] if passes else ["shop.render:body"])
    if passes:
        (text,) = moved(got)
        assert text.startswith(
            "shop.render:body is new and takes 13 % of the benchmark, which left shop.render:page"
            " (which executes as many bytecodes fewer) at the same place: it moved, net "
        )


def test_what_was_handed_over_is_judged_by_its_net_growth():
    dearer = HALVED | {BODY: 130_000.0}
    one, other = {"shop.render:page": 1000}, {"shop.render:page": 500, "shop.render:body": 500}

    got = judged_with(SHOP, dearer, one, other)

    assert named(got) == ["shop.render:body"]


def test_two_functions_may_hand_over_together():
    both = HALVED | {f"{API};shop.cart:total": 40_000.0, BODY: 116_000.0}
    one = {"shop.render:page": 1000, "shop.cart:total": 800}
    other = {"shop.render:page": 500, "shop.cart:total": 400, "shop.render:body": 910}

    got = judged_with(SHOP, both, one, other)

    assert got.outcome is Outcome.PASS
    assert "shop.render:page (which" in moved(got)[0]
    assert "shop.cart:total (which" in moved(got)[0]


@pytest.mark.parametrize(
    "about",
    [
        {"hash_seed": "1"},
        {"python": "3.13"},
        {"unsteady": frozenset({Frame("body", "shop.render")})},
    ],
    ids=["seed", "python", "unsteady"],
)
def test_counts_that_cannot_be_compared_witness_nothing(about):
    got = judged_with(
        SHOP, HALVED, {"shop.render:page": 1000},
        {"shop.render:page": 500, "shop.render:body": 500}, **about,
    )  # fmt: skip

    assert named(got) == ["shop.render:body"]
