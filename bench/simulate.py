"""Judge recordings whose truth is known, and print how often the judge is right.

    python bench/simulate.py [--builds 1000] [--seed 1]

Columns: `real` is how often any growth at all was called real (family-wise, before limits);
`fail` how often the build failed; `right` how often it failed and named the guilty function
and nothing that did not grow; `cover` how often the 90 % interval of own growth held the
truth. Under `same code`, real must stay under the level (0.5 % and, for more digits, 5 %
per build).
"""

import argparse
import sys
import zlib
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "tests"))

from synthetic import SHOP, Noise, grown, synthetic_measurement

from ci_flame.diff import diff_benchmark
from ci_flame.judge import judge_benchmark
from ci_flame.judge.family import TOLD, Family
from ci_flame.policy import Policy
from ci_flame.profile import Mode
from ci_flame.verdict import Outcome

TOKENIZE = "shop.parser:tokenize"
WIDE = {"m:test": 1000.0} | {f"m:test;m:f{rank:02}": 200_000.0 / (rank + 3) for rank in range(40)}
DOMINANT = {"m:test": 20_000.0, "m:test;m:big": 600_000.0, "m:test;m:a": 250_000.0,
            "m:test;m:b": 130_000.0}  # fmt: skip
ONE = {"m:only": 1_000_000.0}
MANY = {"m:test": 10_000.0, "m:test;m:page": 290_000.0, "m:test;m:store": 240_000.0,
        "m:test;m:api": 100_000.0} | {
    f"m:test;m:api;m:small{rank:02}": 15_000.0 for rank in range(24)
}  # fmt: skip
"""A caller of 24 functions of 1.5 % each."""
QUIET = Noise(dispersion=0.2, function=0.005, misfit=0.01)
USUAL = Noise()
MIXED = Noise(dispersion=2.9, function=0.03, misfit=0.03)
POOR = Noise(dispersion=1.0, function=0.02, misfit=0.10)
"""The core reference follows the benchmark to 10 % only."""

SPLIT = Noise(split=True)
"""Half of the functions follow one reference, half the other, which differ by 12 %."""


def _renamed(costs: dict[str, float], old: str, new: str) -> dict[str, float]:
    return {text.replace(old, new): value for text, value in costs.items()}


def _under_one_caller() -> tuple[dict[str, float], dict[str, float]]:
    costs = dict(SHOP)
    api = "bench_shop:test_checkout;shop.api:checkout"
    costs[f"{api};shop.cart:total;shop.money:add"] = 60_000.0
    costs[f"{api};shop.render:page;shop.money:add"] = 60_000.0
    after = dict(costs)
    after[f"{api};shop.cart:total;shop.money:add"] = 85_000.0
    after[f"{api};shop.render:page;shop.money:add"] = 35_000.0
    return costs, after


def _deep(levels: int = 15) -> dict[str, float]:
    """Return a tree in which every level has own cost and calls a side function and the next."""
    costs: dict[str, float] = {}
    path = "m:test"
    for level in range(levels):
        costs[path] = 15_000.0
        costs[f"{path};m:side{level:02}"] = 45_000.0
        path += f";m:level{level:02}"
    costs[path] = 15_000.0
    costs[f"{path};m:leaf"] = 100_000.0
    return costs


DEEP = _deep()
CALLER = _under_one_caller()
SAME = [
    ("same, shop, usual", SHOP, SHOP, USUAL, {}),
    ("same, shop, quiet (0.2 x binomial)", SHOP, SHOP, QUIET, {}),
    ("same, shop, mixed (2.9 x binomial)", SHOP, SHOP, MIXED, {}),
    ("same, shop, poor reference", SHOP, SHOP, POOR, {}),
    ("same, shop, no reference", SHOP, SHOP, USUAL, {"references": ()}),
    ("same, 41 functions, usual", WIDE, WIDE, USUAL, {}),
    ("same, 41 functions, mixed", WIDE, WIDE, MIXED, {}),
    ("same, dominant function, usual", DOMINANT, DOMINANT, USUAL, {}),
    ("same, dominant, no reference", DOMINANT, DOMINANT, USUAL, {"references": ()}),
    ("same, functions on two references", SHOP, SHOP, SPLIT, {}),
    ("same, 41 functions on two references", WIDE, WIDE, SPLIT, {}),
    ("same, one function, poor reference", ONE, ONE, POOR, {}),
    ("same, two callers, usual", CALLER[0], CALLER[0], USUAL, {}),
    ("same, 24 small functions under one caller", MANY, MANY, USUAL, {}),
    ("same, 16 levels deep, usual", DEEP, DEEP, USUAL, {}),
    ("same, 16 levels deep, mixed", DEEP, DEEP, MIXED, {}),
    ("same, 3 processes, mixed", SHOP, SHOP, MIXED, {"processes": 3}),
    ("same, 1 process, usual", SHOP, SHOP, USUAL, {"processes": 1}),
]
CHANGED = [
    ("+20 % at 24 %", SHOP, grown(SHOP, TOKENIZE, 1.2), USUAL, {}, TOKENIZE, 0.2),
    ("+30 % at 24 %", SHOP, grown(SHOP, TOKENIZE, 1.3), USUAL, {}, TOKENIZE, 0.3),
    ("+30 % at 24 %, mixed noise", SHOP, grown(SHOP, TOKENIZE, 1.3), MIXED, {}, TOKENIZE, 0.3),
    ("+50 % at 24 %, mixed noise", SHOP, grown(SHOP, TOKENIZE, 1.5), MIXED, {}, TOKENIZE, 0.5),
    ("+30 % at 12 % (of 41 functions)", WIDE, grown(WIDE, "m:f00", 1.3), USUAL, {}, "m:f00", 0.3),
    ("+50 % at 5 % (of 41 functions)", WIDE, grown(WIDE, "m:f04", 1.5), USUAL, {}, "m:f04", 0.5),
    ("+30 % at 10 %", SHOP, grown(SHOP, "json:dumps", 1.3), USUAL, {}, "json:dumps", 0.3),
    ("+50 % at 10 %", SHOP, grown(SHOP, "json:dumps", 1.5), USUAL, {}, "json:dumps", 0.5),
    ("+30 % at 24 %, masked by another", SHOP,
     grown(grown(SHOP, TOKENIZE, 1.3), "shop.render:page", 1 - 36 / 130), USUAL, {}, TOKENIZE, 0.3),
    ("+30 % at 24 %, poor reference", SHOP, grown(SHOP, TOKENIZE, 1.3), POOR, {}, TOKENIZE, 0.3),
    ("+20 % at 24 %, functions on two references", SHOP, grown(SHOP, TOKENIZE, 1.2), SPLIT, {},
     TOKENIZE, 0.2),
    ("+30 % at 24 %, functions on two references", SHOP, grown(SHOP, TOKENIZE, 1.3), SPLIT, {},
     TOKENIZE, 0.3),
    ("+30 % at 26 %, on the other reference", SHOP, grown(SHOP, "shop.render:page", 1.3), SPLIT, {},
     "shop.render:page", 0.3),
    ("+30 % at 24 %, no reference", SHOP, grown(SHOP, TOKENIZE, 1.3), USUAL, {"references": ()},
     TOKENIZE, 0.3),
    ("+30 % at 60 % (dominant)", DOMINANT, grown(DOMINANT, "m:big", 1.3), USUAL, {}, "m:big", 0.3),
    ("+100 % of the only function", ONE, grown(ONE, "m:only", 2.0), USUAL, {}, "m:only", 1.0),
    ("+30 % of everything", SHOP, {k: v * 1.3 for k, v in SHOP.items()}, USUAL, {}, "[total]",
     None),
    ("+25 % of 24 small functions (36 %) under one caller", MANY,
     {k: v * (1.25 if "small" in k else 1.0) for k, v in MANY.items()}, USUAL, {}, "m:api", None,
     "m:small"),
    ("+40 % of one leaf at 9 %, 16 levels deep", DEEP, grown(DEEP, "m:leaf", 1.4), USUAL, {},
     "m:leaf", 0.4),
    ("+20 % of everything, 16 levels deep", DEEP, {k: v * 1.2 for k, v in DEEP.items()}, USUAL, {},
     "[total]", None),
    ("new function, 7 %", SHOP,
     SHOP | {"bench_shop:test_checkout;shop.api:checkout;shop.log:write": 38_000.0}, USUAL, {},
     "shop.log:write", None),
    ("function renamed", SHOP, _renamed(SHOP, "shop.render:page", "shop.render:draw"), USUAL, {},
     None, None),
    ("+42 % under one caller, saved under another", *CALLER, USUAL, {}, "shop.money:add", None),
]  # fmt: skip


@dataclass(frozen=True, slots=True)
class Scenario:
    """Two states of a benchmark, the noise, and what the judge should say."""

    name: str
    before: dict[str, float]
    after: dict[str, float]
    noise: Noise
    options: dict[str, Any]
    guilty: str | None = None
    growth: float | None = None
    """Of the guilty function's own cost."""
    also: str = ""
    """Part of the names of functions that grew too, each too little to be sure of by itself."""


def run(scenario: Scenario, builds: int, seed: int) -> dict[str, float]:
    """Return how often the judge said what."""
    before, after, noise = scenario.before, scenario.after, scenario.noise
    guilty, options = scenario.guilty, scenario.options
    count: dict[str, float] = dict.fromkeys(
        ("real", "real5", "fail", "right", "cover", "intervals"), 0.0
    )
    seen = []
    rng = np.random.default_rng([seed, zlib.crc32(scenario.name.encode())])
    strict = Policy()
    for _ in range(builds):
        one, other = rng.integers(1, 2**31, 2).tolist()
        # A machine between half and double the speed of the baseline's.
        speed = float(np.exp(rng.uniform(-0.7, 0.7)))
        diff = diff_benchmark(
            synthetic_measurement(before, seed=one, noise=noise, **options),
            synthetic_measurement(after, seed=other, noise=noise, speed=speed, **options),
            Mode.ON_CPU,
        )
        verdict = judge_benchmark(diff, strict, family=1)
        for column, level in (("real", 0.005), ("real5", 0.05)):
            family = Family(diff.columns, strict.rules[:1], level)
            judged = family.group != TOLD
            count[column] += bool((family.adjusted[judged] <= level).any())
        failed = verdict.outcome is Outcome.FAIL
        count["fail"] += failed
        named = [str(finding.frame) for finding in verdict.findings]
        beside = [name for name in named if not (scenario.also and scenario.also in name)]
        count["right"] += beside == ([guilty] if guilty else [])
        if verdict.smallest_visible:
            seen.append(verdict.smallest_visible)
        for frame in diff.frames:
            if frame.own.samples_before < 1 or frame.own.samples_after < 1:
                continue
            if guilty is None or (str(frame.frame) == guilty and scenario.growth is not None):
                growth = scenario.growth or 0.0
                count["intervals"] += 1
                count["cover"] += frame.own.low <= growth <= frame.own.high
    count["visible"] = float(np.median(seen)) if seen else float("nan")
    return count


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--builds", type=int, default=1000)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--only", default="", help="part of a scenario's name")
    wanted = parser.parse_args()
    print("scenario | real at 0.5 % | real at 5 % | fail | right | cover of 90 % | visible")
    print("---|---|---|---|---|---|---")
    for scenario in [Scenario(*row) for row in (*SAME, *CHANGED)]:
        if wanted.only not in scenario.name:
            continue
        same = scenario.before == scenario.after
        builds = wanted.builds if same else max(wanted.builds // 5, 20)
        got = run(scenario, builds, wanted.seed)
        cover = f"{got['cover'] / got['intervals']:.1%}" if got["intervals"] else "-"
        print(
            f"{scenario.name} | {got['real'] / builds:.2%} | {got['real5'] / builds:.2%}"
            f" | {got['fail'] / builds:.2%} | {got['right'] / builds:.1%} | {cover}"
            f" | {got['visible']:.0%}",
            flush=True,
        )


if __name__ == "__main__":
    main()
