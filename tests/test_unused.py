"""Rules that name nothing are told, with what they may have meant; all of them: no PASS."""

import pytest
from synthetic import SHOP, Noise, synthetic_measurement, synthetic_run

from ci_flame.diff import diff
from ci_flame.judge import judge
from ci_flame.policy import Limit, Policy, Rule
from ci_flame.verdict import Outcome, percent

TEN = Limit(share=0.10)
GROWN = {path: cost * (1.6 if path.endswith("page") else 1.0) for path, cost in SHOP.items()}


def rule(frames=("*",), **fields):
    return Rule(**{"frames": frames, "max_growth": TEN, "place": "ci-flame.yml:3", **fields})


def judged(*rules, after=GROWN):
    runs = (
        synthetic_run(synthetic_measurement(each, seed=n)) for n, each in enumerate([SHOP, after])
    )
    before, now = runs
    return judge(diff(before, now), Policy(rules=rules), after=now)


def unused(got):
    return [note.text for note in got.notes if note.slug == "rule-unused"]


@pytest.mark.parametrize(
    ("fields", "words"),
    [
        ({"frames": ("shopp.render:*",)},
         ("ci-flame.yml:3: no function that was recorded is `shopp.render:*`: it judges nothing"
         " (did you mean `shop.render:*`?)")),
        ({"frames": ("shop.render:pag",)}, "(did you mean `shop.render:page`?)"),
        ({"frames": ("zzz:*",)}, "no function that was recorded is `zzz:*`: it judges nothing"),
        ({"frames": ("shop.api:*;**;shop.nowhere:*",)}, "no call path that was recorded is"),
        ({"benchmarks": ("tests/bench_shop.py::test_chekout",)},
         ("no benchmark of this build is `tests/bench_shop.py::test_chekout` (did you mean"
         " `tests/bench_shop.py::test_checkout`?)")),
        ({"max_growth": None, "budget": TEN, "frames": ("shop.rendr:*",)}, "shop.render:*"),
    ],
    ids=["module", "function", "nothing near", "path", "benchmark", "budget"],
)  # fmt: skip
def test_a_rule_that_names_nothing_is_told_with_its_line_and_what_is_near(fields, words):
    got = judged(rule(**fields))

    assert words in unused(got)[0]
    assert unused(got)[-1] == "no rule names anything that was recorded: nothing was judged"
    assert got.outcome is Outcome.INCONCLUSIVE


def test_beside_a_rule_that_judges_it_is_a_note():
    got = judged(rule(), rule(("zzz:*",)))

    assert len(unused(got)) == 1
    assert got.outcome is Outcome.FAIL
    assert judged(rule(), rule(("zzz:*",)), after=SHOP).outcome is Outcome.PASS


@pytest.mark.parametrize(
    "frames",
    [
        ("*",), ("[total]",), ("shop.render:page",), ("shop.r*:*",), ("!shop.legacy:*",),
        ("shop.api:*;shop.render:*",), ("**;shop.render:page",),
    ],
)  # fmt: skip
def test_a_rule_that_names_something_is_not_told(frames):
    assert not unused(judged(rule(frames)))


def test_metrics_modes_that_were_not_recorded_and_the_default_are_none_of_it():
    assert not unused(judged(rule(), rule(metric="run_queue.p99_ms", max_growth=None, maximum=5.0)))
    assert not unused(judged(rule(), rule(("zzz:*",), mode="off-cpu")))
    assert not unused(judged(Rule(frames=("zzz:*",), max_growth=TEN, place="default")))


def test_what_no_rule_judges_is_not_called_seen():
    got = judged(rule(("zzz:*",)))

    (benchmark,) = got.benchmarks
    (blind,) = [note.text for note in benchmark.notes if note.slug == "blind"]
    assert blind == "no rule on growth names a function here that is large enough to be judged"
    assert benchmark.smallest_visible is None


@pytest.mark.parametrize(
    ("noise", "limit", "told"),
    [
        (Noise(dispersion=30.0), 0.10, True),
        (Noise(dispersion=30.0), 0.0, True),
        (Noise(dispersion=30.0), 9.0, False),  # nothing near that limit can hide
        (Noise(dispersion=0.2, function=0.002, misfit=0.002), 0.10, False),
        (Noise(dispersion=0.2, function=0.002, misfit=0.002), 0.001, False),  # under a half
    ],
)
def test_a_pass_that_could_not_see_its_limit_is_told_at_the_head(noise, limit, told):
    sides = [
        synthetic_run(synthetic_measurement(SHOP, seed=seed, noise=noise, seconds=0.3))
        for seed in (1, 2)
    ]
    policy = Policy(rules=(rule(max_growth=Limit(share=limit)),))

    got = judge(diff(*sides), policy, after=sides[1])

    assert got.outcome is Outcome.PASS
    texts = [note.text for note in got.notes if note.slug == "unseen"]
    assert bool(texts) is told
    if told:
        assert "test_checkout passed and could not see much: growth below " in texts[0]
        assert f"the limit is {percent(limit)} %" in texts[0]
