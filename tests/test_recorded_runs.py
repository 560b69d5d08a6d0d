"""Real recordings of the same code, each against itself and the others, and of changed code.

`tests/data/same`: three recordings of one suite on a busy machine (both modes, 4 processes of
0.5 s), and one where three things had changed; `README.md` there has the command.
"""

import os
from dataclasses import replace
from functools import cache
from pathlib import Path

import pytest
from synthetic import SHOP, grown, synthetic_measurement
from test_cli import call
from test_limits import ALONE, COMPARED, compared, policy

from ci_flame import config
from ci_flame.baseline import folder
from ci_flame.diff import diff, diff_benchmark
from ci_flame.judge import judge, judge_benchmark
from ci_flame.policy import Limit, Policy, Rule
from ci_flame.profile import Mode, Run
from ci_flame.verdict import Outcome, Verdict

DATA = Path(__file__).parent / "data" / "same"
SAME = ("1", "2", "3")
LIMITS = """\
version: 1
rules:
  - {frames: "*", max_growth: 10%}
  - {frames: "*", mode: off-cpu, max_growth: 10%}
  - {frames: "bench_shop:render", budget: 3%}
  - {frames: "bench_shop:total", budget: 1us}
  - {frames: "**;bench_shop:total", budget: 5%}
  - {frames: "bench_shop:send", mode: off-cpu, budget: 5ms}
  - {metric: run_queue.p99_ms, max: 1us}
  - {metric: calls, frames: "bench_shop:*", max_growth: 0%}
"""


@cache
def recorded(name: str) -> Run:
    return folder.load(DATA / name)


def judged(before: str, after: str, given: Policy) -> Verdict:
    both = diff(recorded(before), recorded(after))
    return judge(both, given, after=recorded(after))


def strictest() -> Policy:
    """Return a policy that fails by whatever surely grew, however little."""
    nothing = {"max_growth": Limit(share=0.0), "min_impact": 0.0, "certainty": 0.01}
    return Policy(tuple(Rule(mode=mode, **nothing) for mode in ("on-cpu", "off-cpu")))  # type: ignore[arg-type]


@pytest.mark.parametrize("name", [*SAME, "changed"])
def test_a_recording_against_itself_never_fails(name: str) -> None:
    got = judged(name, name, strictest())

    assert got.outcome is Outcome.PASS
    assert [each.outcome for each in got.benchmarks] == [Outcome.PASS] * 4
    assert not any(each.findings for each in got.benchmarks)


@pytest.mark.parametrize("before", SAME)
@pytest.mark.parametrize("after", SAME)
def test_recordings_of_the_same_code_pass(before: str, after: str) -> None:
    got = judged(before, after, Policy())

    assert got.outcome is Outcome.PASS
    assert not any(each.findings for each in got.benchmarks)


@pytest.mark.parametrize("before", SAME)
def test_changed_code_fails_by_what_changed_and_by_nothing_else(before: str) -> None:
    got = judged(before, "changed", Policy())
    named = {(each.mode, str(f.frame)) for each in got.benchmarks for f in each.findings}

    assert got.outcome is Outcome.FAIL
    assert ("on-cpu", "bench_shop:brand_new") in named
    assert ("off-cpu", "bench_shop:send") in named
    # Of the function that took 1.6 times as long, what it spends its time in.
    assert {name for mode, name in named if mode == "on-cpu"} <= {
        "bench_shop:brand_new",
        "bench_shop:tokenize",
        "bench_shop:tokenize.<locals>.<listcomp>",
    }
    assert {name for mode, name in named if mode == "off-cpu"} == {"bench_shop:send"}


@pytest.mark.parametrize("after", SAME)
def test_less_than_before_never_fails(after: str) -> None:
    assert judged("changed", after, Policy()).outcome is Outcome.PASS


# -- the sentences ---------------------------------------------------------------------


def check_golden(name: str, lines: list[str]) -> None:
    """Compare with the stored file; CI_FLAME_BLESS=1 accepts what is written now."""
    golden = DATA / name
    text = "\n".join(lines) + "\n"
    if os.environ.get("CI_FLAME_BLESS"):
        golden.write_text(text, "utf-8")

    assert text == golden.read_text("utf-8")


def test_golden_sentences_of_real_recordings() -> None:
    got = judged("1", "changed", config.parse_policy(LIMITS.encode(), "ci-flame.yml").policy)

    check_golden("sentences.txt", [str(f) for each in got.benchmarks for f in each.findings])


def test_golden_sentences_of_every_kind() -> None:
    lines = []
    for name, given in (*COMPARED.items(), *ALONE.items()):
        lines += [f"{name}: {f}" for f in compared(given, given.past(), policy(given)).findings]
    render = "shop.render:page"
    renamed = {text.replace(render, "shop.render:draw"): cost for text, cost in SHOP.items()}
    others = {
        "renamed": grown(renamed, "shop.render:draw", 1.5),
        "everything": {text: cost * 1.4 for text, cost in SHOP.items()},
        "new": SHOP | {"bench_shop:test_checkout;shop.log:write": 60_000.0},
        "just over": grown(SHOP, render, 1.18),
    }
    before = synthetic_measurement(SHOP, seed=1)
    for name, costs in others.items():
        after = synthetic_measurement(costs, seed=2)
        got = judge_benchmark(diff_benchmark(before, after, Mode.ON_CPU), Policy(), family=1)
        lines += [f"{name}: {finding}" for finding in got.findings]
        if name == "new":
            lines += [
                f"since an anchor: {replace(f, since='1a2b3c4d5e of 2026-01-01')}"
                for f in got.findings
            ]

    check_golden("kinds.txt", lines)


def test_compare_and_explain_say_the_same_sentences(tmp_path: Path) -> None:
    expected = (DATA / "sentences.txt").read_text("utf-8").splitlines()
    policy_file, report = tmp_path / "ci-flame.yml", tmp_path / "report"
    policy_file.write_text(LIMITS, "utf-8")
    compare = ["compare", str(DATA / "1"), str(DATA / "changed"), "--policy", str(policy_file)]

    for words, code in (([*compare, "-o", str(report)], 1), (["explain", str(report)], 0)):
        lines = [line.strip() for line in call(*words, check=code).stdout.splitlines()]

        assert [line for line in lines if line in expected] == expected
