"""A function with another name is compared with itself; one that is new is not."""

import pytest
from synthetic import SHOP, Noise, grown, synthetic_measurement

from ci_flame.diff import diff_benchmark
from ci_flame.judge import judge_benchmark
from ci_flame.policy import Limit, Policy, Rule
from ci_flame.profile import Mode
from ci_flame.verdict import Outcome

API = "bench_shop:test_checkout;shop.api:checkout"
STEADY = Noise(function=0.002, misfit=0.002, dispersion=0.2)
TEN = Policy(rules=(Rule(max_growth=Limit(share=0.10)),))


def compared(before, after):
    return diff_benchmark(
        synthetic_measurement(before, seed=1, noise=STEADY),
        synthetic_measurement(after, seed=2, noise=STEADY),
        Mode.ON_CPU,
    )


def names(before, after):
    renamed = compared(before, after).renamed
    return {str(old): str(new) for new, old in renamed.items()}


def replaced(costs, *pairs):
    made = {}
    for path, cost in costs.items():
        for old, new in pairs:
            path = path.replace(old, new)  # noqa: PLW2901 - one after the other
        made[path] = cost
    return made


@pytest.mark.parametrize(
    ("after", "expected"),
    [
        (SHOP, {}),
        (
            replaced(SHOP, ("shop.render:page", "shop.render:draw")),
            {"shop.render:page": "shop.render:draw"},
        ),
        # of a caller: what it calls stays what it is
        (
            replaced(SHOP, ("shop.cart:total", "shop.basket:sum_up")),
            {"shop.cart:total": "shop.basket:sum_up"},
        ),
        # a whole branch, nothing has its name left
        (
            replaced(SHOP, ("shop.cart:total", "shop.basket:sum_up"), ("json:dumps", "fast:write")),
            {"shop.cart:total": "shop.basket:sum_up", "json:dumps": "fast:write"},
        ),
        # a file that moved
        (
            replaced(SHOP, ("shop.parser:", "shop.reading.parser:")),
            {
                "shop.parser:parse": "shop.reading.parser:parse",
                "shop.parser:tokenize": "shop.reading.parser:tokenize",
            },
        ),
        # a package that moved, entry function and all
        (
            replaced(SHOP, ("shop.", "store.")),
            {
                f"shop.{name}": f"store.{name}"
                for name in (
                    "api:checkout", "cart:total", "parser:parse", "parser:tokenize", "render:page"
                )
            },
        ),
        # two at once, told apart by what they cost
        (
            replaced(SHOP, ("shop.render:page", "shop.x:a"), ("shop.cart:total", "shop.x:b")),
            {"shop.render:page": "shop.x:a", "shop.cart:total": "shop.x:b"},
        ),
        # moved to another module and three times as dear: its name and caller say that it is it
        (
            grown(replaced(SHOP, ("shop.render:", "shop.html:")), "shop.html:page", 3.0),
            {"shop.render:page": "shop.html:page"},
        ),
        # new beside all that was
        (SHOP | {f"{API};shop.log:write": 38_000.0}, {}),
        # gone
        ({path: cost for path, cost in SHOP.items() if not path.endswith("page")}, {}),
        # another function at the place of one: three times as dear is not the same
        (grown(replaced(SHOP, ("shop.render:page", "shop.render:x")), "shop.render:x", 3.0), {}),
        # split in two: neither is it
        (
            {path: cost for path, cost in SHOP.items() if not path.endswith("page")}
            | {f"{API};shop.render:head": 70_000.0, f"{API};shop.render:body": 60_000.0},
            {},
        ),
        # elsewhere, and of another name
        (
            {path: cost for path, cost in SHOP.items() if not path.endswith("page")}
            | {f"{API};shop.parser:parse;shop.render:draw": 130_000.0},
            {},
        ),
    ],
    ids=[
        "same", "leaf", "caller", "branch", "file", "package", "two", "dearer", "new", "gone",
        "replaced", "split", "elsewhere",
    ],
)  # fmt: skip
def test_who_is_who(after, expected):
    assert names(SHOP, after) == expected


def test_it_is_the_same_the_other_way_round():
    after = replaced(SHOP, ("shop.", "store."))

    assert names(after, SHOP) == {new: old for old, new in names(SHOP, after).items()}


def test_classes_and_what_is_written_inside_a_function_go_along():
    inner = f"{API};m:Old.walk;m:Old.walk.<locals>.<genexpr>"
    before = SHOP | {f"{API};m:Old.walk": 80_000.0, inner: 40_000.0}

    assert names(before, replaced(before, ("m:Old.", "m:New."))) == {
        "m:Old.walk": "m:New.walk",
        "m:Old.walk.<locals>.<genexpr>": "m:New.walk.<locals>.<genexpr>",
    }


@pytest.mark.parametrize(
    ("factor", "outcome"), [(1.0, Outcome.PASS), (1.06, Outcome.PASS), (1.3, Outcome.FAIL)]
)
@pytest.mark.parametrize(
    ("old", "new", "leaf"),
    [
        ("shop.render:page", "shop.render:draw", "shop.render:draw"),
        ("shop.parser:", "shop.reader:", "shop.reader:tokenize"),
        ("shop.", "store.", "store.parser:tokenize"),
    ],
    ids=["function", "file", "package"],
)
def test_growth_on_top_of_a_rename_fails_with_both_names(old, new, leaf, factor, outcome):
    after = grown(replaced(SHOP, (old, new)), leaf, factor)
    diff = compared(SHOP, after)
    got = judge_benchmark(diff, TEN, family=1)

    assert got.outcome is outcome
    if outcome is Outcome.FAIL:
        (finding,) = got.findings
        assert f"{leaf} (was {leaf.replace(new, old)}) grew by " in str(finding)
        assert 0.2 < finding.change.growth < 0.4
    else:
        assert "moved" in {note.slug for note in got.notes}
        assert (leaf, leaf.replace(new, old)) in {
            (str(now), str(then)) for now, then in diff.renamed.items()
        }


def test_many_renames_are_summed_up():
    got = judge_benchmark(compared(SHOP, replaced(SHOP, ("shop.", "store."))), TEN, family=1)
    told = [note.text for note in got.notes if note.slug == "moved"]

    assert len(told) == 4
    assert told[0].startswith("store.api:checkout was shop.api:checkout (")
    assert told[-1] == "2 more functions have another name or module now"
