"""Judge builds of the same code that differ from one another, with and without siblings.

    python bench/builds.py [--builds 300] [--seed 7]

Each row: how far builds are apart as a whole and by function (standard deviations of ln cost),
how many builds the store has, how often the next build of the same code failed, how often a
baseline or a sibling was set aside, and the median of what a PASS is blind under. Before a
failure is recorded again, at the default limit of 10 %.
"""

import argparse
import sys
from pathlib import Path

import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "tests"))

from synthetic import SHOP, synthetic_measurement, synthetic_run

from ci_flame.diff import diff_benchmark
from ci_flame.judge import judge_benchmark
from ci_flame.judge.history import History, review
from ci_flame.policy import Policy
from ci_flame.profile import Measurement, Mode
from ci_flame.verdict import BenchmarkVerdict, Outcome

COSTS = {"seven functions": SHOP, "one function": {"m:only": 1_000_000.0}}
SPREADS = ((0.0, 0.0), (0.05, 0.0), (0.0, 0.05), (0.10, 0.03))
STORES = (1, 2, 3, 5, 10)


def build(
    rng: np.random.Generator, costs: dict[str, float], whole: float, function: float
) -> Measurement:
    """Return a recording of a build; the reference work sees nothing of what it is off."""
    off = rng.normal(0, whole)
    seen = {stack: cost * np.exp(off + rng.normal(0, function)) for stack, cost in costs.items()}
    return synthetic_measurement(seen, seed=int(rng.integers(1, 2**31)))


def judge(
    rng: np.random.Generator, costs: dict[str, float], spread: tuple[float, float], count: int
) -> BenchmarkVerdict:
    """Return the verdict on a build of the same code against a store of `count` builds."""
    stored = [build(rng, costs, *spread) for _ in range(count)]
    after = build(rng, costs, *spread)
    runs = [
        synthetic_run(each, commit=f"{n:040x}", time=f"2026-11-{n + 1:02}T10:00:00Z")
        for n, each in enumerate(stored)
    ]
    history = History(runs[-1], tuple(runs[:-1]))
    between = history.between(after.benchmark, Mode.ON_CPU)
    diff = diff_benchmark(stored[-1], after, Mode.ON_CPU, between=between)
    verdict = judge_benchmark(diff, Policy(), family=1)
    return review(verdict, after, Policy(), 1, history)


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--builds", type=int, default=300)
    parser.add_argument("--seed", type=int, default=7)
    wanted = parser.parse_args()
    rng = np.random.default_rng(wanted.seed)
    print("benchmark | spread: whole, functions | builds stored | fail | set aside | visible")
    print("---|---|---|---|---|---")
    for name, costs in COSTS.items():
        for spread in SPREADS:
            for count in STORES:
                made = [judge(rng, costs, spread, count) for _ in range(wanted.builds)]
                failed = sum(each.outcome is Outcome.FAIL for each in made)
                aside = sum(any(n.slug == "set-aside" for n in each.notes) for each in made)
                visible = np.median([each.smallest_visible or 9.0 for each in made])
                print(
                    f"{name} | {spread[0]:.0%}, {spread[1]:.0%} | {count}"
                    f" | {failed / len(made):.2%} | {aside / len(made):.2%} | {visible:.0%}",
                    flush=True,
                )


if __name__ == "__main__":
    main()
