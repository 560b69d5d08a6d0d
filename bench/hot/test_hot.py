"""The hot paths of ci_flame itself: folding, comparing, judging, reading what is stored.

    python -m pytest bench/hot --flame --flame-policy bench/hot/ci-flame.yml

`python -m pytest` from the top of the repository imports this tree's ci_flame, and for the base
commit that commit's. CI runs it for every push and pull request (.github/workflows/hot-paths.yml).
"""

import sys
from pathlib import Path

import pytest

sys.path.append(str(Path(__file__).resolve().parents[2] / "tests"))

from synthetic import synthetic_measurement

from ci_flame.diff import diff_benchmark
from ci_flame.formats import folded, perf_script, pprof
from ci_flame.judge import judge_benchmark
from ci_flame.policy import Policy
from ci_flame.profile import Mode
from ci_flame.simplify import clean

FUNCTIONS = 120
SAMPLES = 150


def tree(grown=1.0):
    """Stacks of a program of FUNCTIONS functions, some dozen deep -> what each costs itself, ns."""
    costs = {}
    path = "bench:test_all"
    for number in range(FUNCTIONS):
        # A call goes deeper, and every twelfth begins again at the top.
        path = path if number % 12 else "bench:test_all"
        path += f";package.module_{number % 9}:Class.function_{number}"
        costs[path] = 40_000.0 / (1 + number % 17) * (grown if number == FUNCTIONS // 2 else 1.0)
    return costs


@pytest.fixture(scope="module")
def sides():
    """Both sides of a benchmark, of which one function grew by half."""
    sizes = {"processes": 3, "rounds": 20}
    before = synthetic_measurement(tree(), seed=1, **sizes)
    return before, synthetic_measurement(tree(1.5), seed=2, **sizes)


def printed():
    """What `perf script` prints of SAMPLES samples."""
    stacks = list(tree())
    for number in range(SAMPLES):
        frames = stacks[number * 7 % len(stacks)].split(";")
        yield f"python {1000 + number % 3} {100 + number / 2000:.6f}:     500250 cpu-clock:"
        for depth, frame in enumerate(reversed(frames)):
            yield f"\t    {0x7F0000 + 64 * depth:x} py::{frame}:/srv/{frame}.py (/tmp/perf-1.map)"
        yield ""


def test_folding(flame):
    lines = list(printed())

    def fold():
        profile = clean(perf_script.read(iter(lines), "perf.script"))
        return folded.read(folded.write(profile), "folded")

    assert len(flame(fold).stacks) > FUNCTIONS // 2


def test_comparing(flame, sides):
    before, after = sides

    assert len(flame(diff_benchmark, before, after, Mode.ON_CPU).frames) > FUNCTIONS


def test_judging(flame, sides):
    policy = Policy()
    changes = diff_benchmark(*sides, Mode.ON_CPU)
    verdict = flame(judge_benchmark, changes, policy, family=4)

    assert verdict.benchmark == sides[0].benchmark


def test_reading_what_is_stored(flame, sides):
    data = pprof.write(sides[0], Mode.ON_CPU)

    assert flame(pprof.read, data, "profiles/x.pb.gz").profiles
