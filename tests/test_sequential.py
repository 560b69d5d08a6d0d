"""Several looks: the level is kept over all of them, and recording ends when it is clear."""

import subprocess
import sys
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import norm
from synthetic import SHOP, grown, synthetic_measurement
from test_baseline_git import run_git
from test_cli import call

from ci_flame.config import build
from ci_flame.diff import diff_benchmark
from ci_flame.errors import PolicyError, UsageError
from ci_flame.judge import judge_benchmark
from ci_flame.judge.decided import decided
from ci_flame.noise import sequential
from ci_flame.pipeline import until_decided
from ci_flame.policy import Limit, Policy, Rule
from ci_flame.profile import Mode
from ci_flame.record.processes import joined
from ci_flame.verdict import Outcome

GUILTY = "shop.parser:tokenize"
POLICY = Policy()


# -- the level ------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("fraction", "share"), [(0.0, 0.0), (0.25, 0.0), (0.5, 0.0144), (0.75, 0.2389), (1.0, 1.0)]
)
def test_level_is_spent_late(fraction, share):
    """Of 0.5 %: `2 - 2 Phi(2.807 / sqrt(t))`."""
    assert sequential.spent(fraction, 0.005) / 0.005 == pytest.approx(share, abs=1e-3)


@given(
    first=st.integers(1, 60), most=st.integers(1, 100), level=st.floats(1e-9, 0.5),
)  # fmt: skip
def test_looks_never_spend_more_than_the_level(first, most, level):
    counts = sequential.looks(first, most)
    fractions = [count / counts[-1] for count in counts]
    each = [sequential.level_of_look(fractions[: n + 1], level) for n in range(len(counts))]

    assert len(counts) <= sequential.LOOKS
    assert list(counts) == sorted(set(counts))
    assert (counts[0], counts[-1]) == (first, max(first, most))
    assert sum(each) == pytest.approx(level, rel=1e-9)
    assert min(each) >= 0


@pytest.mark.parametrize(
    ("first", "most", "counts"),
    [(5, 20, (5, 10, 15, 20)), (5, 5, (5,)), (5, 3, (5,)), (5, 6, (5, 6)), (5, 7, (5, 6, 7))],
)
def test_looks(first, most, counts):
    assert sequential.looks(first, most) == counts


def test_four_looks_fail_as_rarely_as_one():
    """400,000 benchmarks of the same code; four naive looks would fail twice as often and more."""
    rng = np.random.default_rng(7)
    level, builds = 0.005, 400_000
    seen = rng.normal(size=(builds, 4)).cumsum(axis=1) / np.sqrt(np.arange(1, 5))
    fractions = [0.25, 0.5, 0.75, 1.0]
    limits = [-norm.ppf(sequential.level_of_look(fractions[: n + 1], level)) for n in range(4)]
    rate = (seen > limits).any(axis=1).mean()
    naive = (seen > -norm.ppf(level)).any(axis=1).mean()

    assert 0.75 * level < rate <= level
    assert naive > 2 * level


# -- the loop -------------------------------------------------------------------------


class Clock:
    """Each process of both sides takes `seconds`."""

    def __init__(self, seconds):
        self.now = 0.0
        self.seconds = seconds

    def __call__(self):
        return self.now


def look(costs, *, policy=POLICY, max_seconds=100.0, seconds=5.0, first=5, before=SHOP, **options):
    clock = Clock(seconds)
    asked = []

    def more(so_far, count):
        clock.now += count * clock.seconds
        asked.append(count)
        sides = [
            synthetic_measurement(each, processes=count, seed=1000 * side + len(asked), **options)
            for side, each in enumerate((before, costs))
        ]
        return sides if so_far is None else list(map(joined, so_far, sides))

    def judge(sides, by):
        return (judge_benchmark(diff_benchmark(*sides, Mode.ON_CPU), by, family=1),)

    found = until_decided.record(
        more, judge, policy, first=first, max_seconds=max_seconds, clock=clock
    )
    return found, asked, clock.now


def test_a_large_growth_ends_it_early():
    found, asked, _ = look(grown(SHOP, GUILTY, 2.0))

    assert found.verdicts[0].outcome is Outcome.FAIL
    assert len(asked) < 4
    assert "; decided" in found.note.text
    assert found.policy.false_failures_per_build < POLICY.false_failures_per_build


def test_a_pass_that_can_hide_nothing_ends_it_early():
    lenient = replace(POLICY, rules=(Rule(max_growth=Limit(share=0.5)),))
    found, asked, _ = look(SHOP, policy=lenient)

    assert found.verdicts[0].outcome is Outcome.PASS
    assert asked == [5]
    assert found.note.text == "1 look, 5 processes a side, 25 s; decided"


def test_what_is_not_clear_goes_to_the_cap():
    """Noise of 100 % of a limit of 1 %: no recording of this length can tell."""
    strict = replace(POLICY, rules=(Rule(max_growth=Limit(share=0.005)),))
    found, asked, seconds = look(SHOP, policy=strict)

    assert asked == [5, 5, 5, 5]
    assert seconds == 100.0
    assert found.processes == 20
    assert "4 looks, 20 processes a side, 100 s; not decided: the limit of 100 s" in found.note.text
    fractions = [0.25, 0.5, 0.75, 1.0]
    assert found.policy.false_failures_per_build == sequential.level_of_look(fractions, 0.005)


@pytest.mark.parametrize(("cap", "processes"), [(25.0, 5), (29.9, 5), (30.0, 6), (1.0, 5)])
def test_the_cap_holds(cap, processes):
    strict = replace(POLICY, rules=(Rule(max_growth=Limit(share=0.005)),))
    found, asked, seconds = look(SHOP, policy=strict, max_seconds=cap)

    assert sum(asked) == found.processes == processes
    assert seconds <= max(cap, 25.0)


def test_time_that_runs_out_early_makes_that_look_the_last():
    """Later processes take twice as long: what is left of the level is spent where it ends."""
    strict = replace(POLICY, rules=(Rule(max_growth=Limit(share=0.005)),))
    clock = Clock(5.0)
    asked = []

    def more(so_far, count):
        clock.now += count * clock.seconds
        clock.seconds = 10.0
        asked.append(count)
        sides = [
            synthetic_measurement(SHOP, processes=count, seed=side * 10 + len(asked))
            for side in range(2)
        ]
        return sides if so_far is None else list(map(joined, so_far, sides))

    def judge(sides, by):
        return (judge_benchmark(diff_benchmark(*sides, Mode.ON_CPU), by, family=1),)

    found = until_decided.record(more, judge, strict, first=5, max_seconds=110.0, clock=clock)

    assert clock.now <= 110.0 + 25.0
    assert sum(asked) < 22
    spent = sequential.level_of_look([5 / 22, 1.0], 0.005)
    assert found.policy.false_failures_per_build == pytest.approx(spent, rel=0.5)


@pytest.mark.parametrize(
    ("limit", "clear"),
    [
        (Limit(share=0.005), False),
        (Limit(share=0.50), True),
        # of half a millisecond per iteration
        (Limit(ns=2_000), False),
        (Limit(ns=200_000), True),
        (Limit(share=0.50, ns=2_000), False),
        (Limit(share=0.005, ns=200_000), False),
        (Limit(share=0.50, ns=200_000), True),
    ],
)
def test_a_pass_is_clear_where_growth_past_the_limit_cannot_hide(limit, clear):
    policy = Policy(rules=(Rule(max_growth=limit),))
    sides = [synthetic_measurement(SHOP, seed=seed) for seed in (1, 2)]
    verdict = judge_benchmark(diff_benchmark(*sides, Mode.ON_CPU), policy, family=1)

    assert decided((verdict,), policy) is clear


# -- words ----------------------------------------------------------------------------


def test_the_policy_and_the_flags(tmp_path):
    file = tmp_path / "ci-flame.yml"
    file.write_text("version: 1\nrecord: {until_decided: true, max_seconds: 90}\n")
    config = build(policy_file=file, start=tmp_path, flags={"max_seconds": "30"})

    assert config.record.until_decided
    assert config.record.max_seconds == 30
    assert not build(policy_file=None, start=tmp_path / "x", flags={}).record.until_decided


@pytest.mark.parametrize("word", ["0.9", "36001", "soon", "-1"])
def test_a_cap_that_is_none_is_refused(tmp_path, word):
    file = tmp_path / "ci-flame.yml"
    file.write_text(f"version: 1\nrecord: {{max_seconds: {word}}}\n")
    with pytest.raises(PolicyError, match="max_seconds"):
        build(policy_file=file, start=tmp_path, flags={})
    with pytest.raises(UsageError, match="--max"):
        build(policy_file=None, start=tmp_path / "none", flags={"max_seconds": word})


# -- for real -------------------------------------------------------------------------

WORK = """
import sys
def grown(n):
    total = 0
    for i in range(n):
        total += i * 7 % 13
    return total
def same(n):
    return sum(i * i % 11 for i in range(n))
for _ in range(40):
    grown({times}); same(20_000)
"""


@pytest.fixture
def repository(tmp_path, monkeypatch):
    root = tmp_path / "repository"
    root.mkdir()
    monkeypatch.chdir(root)
    run_git(root, "init", "-q", "-b", "main")
    (root / "ci-flame.yml").write_text("version: 1\nrecord: {busy: 100%}\noverhead: {max: 90%}\n")
    (root / "work.py").write_text(WORK.format(times=20_000))
    run_git(root, "add", "-A")
    run_git(root, "commit", "-q", "-m", "work")
    return root


CHECK = ("check", "--baseline", "rerun:HEAD", "--name", "work", "--repeat")
FEW, ENOUGH = (*CHECK, "3"), (*CHECK, "6")
"""Three repetitions may be too uncertain to fail anything; the loop adds to them."""


@pytest.mark.root
def test_a_command_that_grew_is_recorded_twice(repository):
    (repository / "work.py").write_text(WORK.format(times=80_000))
    made = call(*ENOUGH, "--", sys.executable, "work.py")

    assert made.returncode == 1, made.stdout + made.stderr
    assert "failed in two recordings; the figures are the second's" in made.stdout
    assert "(the same)" in call("explain", ".ci-flame/report").stdout


@pytest.mark.root
def test_a_command_that_grew_until_decided(repository):
    (repository / "work.py").write_text(WORK.format(times=80_000))
    made = call(*FEW, "--until-decided", "--max-seconds", "15", "--", sys.executable, "work.py")

    assert made.returncode == 1, made.stdout + made.stderr
    assert "processes a side" in made.stdout
    assert "(the same)" in call("explain", ".ci-flame/report").stdout


@pytest.mark.root
def test_a_failure_that_is_not_confirmed_is_none(repository, tmp_path):
    """The first repetitions of this tree are slow, as on a machine that had a bad minute."""
    slow = f"""
from pathlib import Path
count = Path({str(tmp_path / "count")!r})
times = int(count.read_text()) + 1 if count.exists() else 1
count.write_text(str(times))
"""
    (repository / "work.py").write_text(
        slow + WORK.format(times="80_000 if times <= 7 else 20_000")
    )
    made = call(*ENOUGH, "--", sys.executable, "work.py")

    assert made.returncode == 0, made.stdout + made.stderr
    assert "a first recording failed, the second did not confirm it" in made.stdout


@pytest.mark.root
def test_pytest_until_decided(tmp_path):
    (tmp_path / "shop.py").write_text(
        "def tokenize(times):\n    total = 0\n    for i in range(3000 * times):\n"
        "        total += i * 3 % 7\n    return total\n"
    )
    (tmp_path / "test_shop.py").write_text(
        "import os, shop\ndef test_it(flame):\n    flame(shop.tokenize, 1)\n"
    )
    (tmp_path / "ci-flame.yml").write_text("version: 1\nrecord: {busy: 100%}\n")

    def run(*words):
        return subprocess.run(
            [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "--flame",
             "--flame-processes=2", "--flame-seconds=0.2", *words],
            cwd=tmp_path, capture_output=True, text=True, check=False, timeout=240,
        )  # fmt: skip

    made = run("--flame-out=base")
    assert made.returncode == 0, made.stdout
    (tmp_path / "shop.py").write_text(
        (tmp_path / "shop.py").read_text().replace("range(3000", "range(9000")
    )
    made = run("--flame-baseline=folder:base", "--flame-until-decided", "--flame-max-seconds=8")

    assert made.returncode == 1, made.stdout
    assert "processes a side" in made.stdout
    assert "failed in two recordings" in made.stdout
    again = call("explain", tmp_path / ".ci-flame" / "report")
    assert "(the same)" in again.stdout, again.stdout
