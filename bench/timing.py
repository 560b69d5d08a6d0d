"""Timing a function call by call against sampling it, on real recordings at the same seconds.

    PYTHON bench/timing.py --processes 8 --seconds 1 --out timing.json    (PYTHON: 3.12 or newer)

Each process records a benchmark of six functions, then times one of 15 % of it, as the second
recording of a failure does. In half of the processes that function does 20 % more. Told are the
spread of ln cost between processes of the same code, by both methods, what each makes of the
growth, and what becomes of failures that are none (each half of a side against the other).
"""

import argparse
import json
import math
import os
import random
import statistics
import sys
import tempfile
from dataclasses import replace
from itertools import combinations
from pathlib import Path
from typing import Final

from ci_flame.config import RecordConfig
from ci_flame.diff import diff_benchmark
from ci_flame.judge.timed import EXCUSED
from ci_flame.profile import Frame, Measurement, Mode
from ci_flame.record import processes

PLANT: Final = "CI_FLAME_BENCH_PLANT"
WORK: Final = {
    "python": """
def guilty(times):
    total = 0
    for i in range(times):
        total = (total * 31 + i) & 0xFFFF
    return total
def text():
    return len("-".join(str(i) for i in range(6000)).split("-"))
def table():
    found = {}
    for i in range(15000):
        found[i * 7 % 509] = i
    return len(found)
def order():
    return sorted((i * 7919) % 1009 for i in range(8000))[0]
def words():
    return [str(i).strip("1") for i in range(9000)]
def everything():
    for _ in range(12):
        guilty(round(1000 * GROWTH))
    return text(), table(), order(), words()
""",
    "json and zlib": """
import json, zlib
ROWS = [{"id": i, "name": f"row {i}", "tags": ["a", "b", str(i)], "x": i / 7} for i in range(120)]
TEXT = json.dumps(ROWS)
BYTES = bytes(i * 7 % 251 for i in range(40000))
def guilty(times):
    first = json.loads(TEXT[: TEXT.find("}") + 1] + "]")
    return len(first) + sum(map(len, map(repr, range(times))))
def dump():
    return len(json.dumps(ROWS))
def load():
    return len(json.loads(TEXT))
def pack():
    return len(zlib.compress(BYTES, 6))
def sets():
    return len({row["name"] for row in ROWS} | {str(i) for i in range(1500)})
def everything():
    for _ in range(4):
        guilty(round(480 * GROWTH))
    return dump(), load(), pack(), sets(), dump(), load()
""",
}
TEST: Final = """
import os
GROWTH = float(os.environ["CI_FLAME_BENCH_PLANT"])
{work}
def test_it(flame):
    flame(everything)
"""


def main() -> int:
    """Record, compare, print a table; the figures go to `--out` as JSON."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n", 1)[0])
    parser.add_argument("--processes", type=int, default=8, help="of each variant")
    parser.add_argument("--seconds", type=float, default=1.0)
    parser.add_argument("--growth", type=float, default=0.2)
    parser.add_argument("--busy", type=float, default=0.2)
    parser.add_argument("--out", type=Path)
    options = parser.parse_args()
    told = {}
    for name, work in WORK.items():
        sides = _record(work, options)
        told[name] = _compare(name, sides, options.growth)
        if options.out:
            scratch = options.out.with_suffix(".tmp")
            scratch.write_text(json.dumps(told, indent=1) + "\n", encoding="utf-8")
            scratch.replace(options.out)
    return 0


def _record(work: str, options: argparse.Namespace) -> tuple[Measurement, Measurement]:
    """Return the benchmark as it is and with growth, the processes of both in random order."""
    plan = RecordConfig(seconds=options.seconds, busy=options.busy)
    made: dict[float, Measurement | None] = {1.0: None, 1 + options.growth: None}
    with tempfile.TemporaryDirectory() as name:
        file = Path(name).resolve() / "test_work.py"
        file.write_text(TEST.format(work=work), encoding="utf-8")
        (file.parent / "pytest.ini").write_text("[pytest]\n", encoding="utf-8")
        invocation = processes.Invocation(
            ("-p", "no:cacheprovider"), (), name, name, ini=str(file.parent / "pytest.ini")
        )
        turns = [growth for growth in made for _ in range(options.processes)]
        random.Random(1).shuffle(turns)  # noqa: S311 - an order
        for number, growth in enumerate(turns):
            os.environ[PLANT] = str(growth)
            print(f"process {number + 1} of {len(turns)}", file=sys.stderr)
            run = processes.run(
                invocation,
                "test_work.py::test_it",
                file,
                replace(plan, counts=False),
                suspects=[Frame("guilty", "test_work")],
            )
            made[growth] = processes.joined(made[growth], run.measurements[0])
    one, other = made.values()
    if one is None or other is None:
        raise ValueError("at least one process of each variant is needed")
    return one, other


def _part(measurement: Measurement, chosen: tuple[int, ...]) -> Measurement:
    return replace(measurement, processes=tuple(measurement.processes[n] for n in chosen))


def _compare(name: str, sides: tuple[Measurement, Measurement], growth: float) -> dict[str, object]:
    """Print the row of one workload and return its figures."""
    guilty = Frame("guilty", "test_work")
    changes = diff_benchmark(*sides, Mode.ON_CPU)
    sampled = next(each.total for each in changes.frames if each.frame == guilty)
    timings = changes.timings
    timed = timings.change(guilty) if timings else None
    if timed is None or timings is None:
        why = timings.left_out(guilty) if timings else ""
        print(f"| {name} | not timed: {why or sides[0].processes[0].timing} |")
        return {}
    same = []
    count = len(sides[0].processes)
    for side in sides:
        everybody = range(len(side.processes))
        for chosen in combinations(everybody, count // 2):
            if 0 not in chosen:
                continue  # each split once
            rest = tuple(n for n in everybody if n not in chosen)
            both = diff_benchmark(_part(side, chosen), _part(side, rest), Mode.ON_CPU)
            of_frame = next(each.total for each in both.frames if each.frame == guilty)
            of_timing = both.timings.change(guilty) if both.timings else None
            if of_timing is not None:
                same.append((of_frame.log_ratio, of_timing.log_ratio, of_timing.above(0.10)))
    grown = []
    for chosen in combinations(range(count), count // 2):
        some = _part(sides[0], chosen), _part(sides[1], chosen)
        made = diff_benchmark(*some, Mode.ON_CPU).timings
        of_timing = made.change(guilty) if made else None
        if of_timing is not None:
            grown.append(of_timing.above(0.10) < EXCUSED)
    # The difference of two means of n / 2 processes each has 4 / n of a process's variance.
    spread = [
        math.sqrt(statistics.fmean(each[column] ** 2 for each in same) * count / 4)
        for column in (0, 1)
    ]
    apart = math.sqrt(statistics.fmean((a - b) ** 2 for a, b, _ in same))
    figures = {
        "processes": count,
        "share": sampled.before_share,
        "spread_sampled": spread[0],
        "spread_timed": spread[1],
        "same_code_apart": apart,
        "sampled": [sampled.growth, sampled.low, sampled.high],
        "timed": [timed.growth, timed.low, timed.high],
        "seen": [timed.before_ns / sampled.before_ns, timed.after_ns / sampled.after_ns],
        "calls_per_iteration": timed.calls_before,
        "excused_same": statistics.fmean(each[2] < EXCUSED for each in same),
        "excused_grown": statistics.fmean(grown),
        "truth": growth,
    }
    print(
        f"| {name} | {sampled.before_share:.0%} | {spread[0]:.1%} | {spread[1]:.1%} |"
        f" {sampled.growth:+.1%} ({sampled.low:.1%} to {sampled.high:.1%}) |"
        f" {timed.growth:+.1%} ({timed.low:.1%} to {timed.high:.1%}) | {apart:.1%} |"
        f" {figures['seen'][0]:.0%}, {figures['seen'][1]:.0%} | {figures['excused_same']:.0%} |"
        f" {figures['excused_grown']:.0%} |"
    )
    return figures


if __name__ == "__main__":
    sys.exit(main())
