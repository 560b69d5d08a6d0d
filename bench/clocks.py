"""Which reference work do the functions of a benchmark follow? Told from recordings of one code.

    python bench/clocks.py RUN… [--least 3]

Give run folders of the same code, recorded one after the other, in groups by the name before the
last `-` (`quiet-1`, `quiet-2`, `hog-1`). For each function of `--least` percent and more, with
callees, and for the benchmark, the table has the spread of ln cost in percent, with no reference
and against each kind: `within` between processes of one recording (pooled), `between` between the
recordings' means. `sampling` is what the number of samples alone would do at binomial noise.
"""

import argparse
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import numpy.typing as npt

from ci_flame.baseline import folder
from ci_flame.diff.evidence import Side, collect
from ci_flame.profile import Measurement, Mode, Run

Floats = npt.NDArray[np.float64]


def log_costs(side: Side, samples: Floats, kind: str) -> Floats:
    """Return ln(CPU time per iteration) of a row in each process, less ln of the reference."""
    found = []
    for clocks, part in zip(side.clocks, samples / side.total, strict=True):
        cost = np.log(part * clocks.cpu_ns.sum() / clocks.iterations.sum())
        if kind:
            times = clocks.references[kind]
            there = np.isfinite(times)
            cost -= np.log(np.average(times[there], weights=clocks.iterations[there]))
        found.append(float(cost))
    return np.array(found)


def spreads(sides: Sequence[Side], rows: Sequence[Floats], kind: str) -> tuple[float, float]:
    """Return the standard deviations of ln cost within and between recordings."""
    each = [log_costs(side, row, kind) for side, row in zip(sides, rows, strict=True)]
    degrees = sum(len(one) - 1 for one in each)
    within = np.sqrt(sum(((one - one.mean()) ** 2).sum() for one in each) / max(degrees, 1))
    means = [one.mean() for one in each]
    return float(within), float(np.std(means, ddof=1)) if len(means) > 1 else float("nan")


def table(measurements: Sequence[Measurement], least: float) -> Iterator[str]:
    """Yield the lines of one benchmark's table."""
    evidence = collect(measurements, Mode.ON_CPU)
    sides = evidence.sides
    kinds = sorted(set.intersection(*({*c.references} for side in sides for c in side.clocks)))
    processes = sum(len(side.clocks) for side in sides)
    yield "function | share | sampling | " + " | ".join(["none", *kinds])
    yield "---|---" + "|---" * (2 + len(kinds))
    total = sum(side.total.sum() for side in sides)
    counts = sum(side.frame_total.sum(axis=1) for side in sides)
    largest = [int(row) for row in np.argsort(-counts) if counts[row] >= least * total]
    for row in [-1, *largest]:
        rows = [side.total if row < 0 else side.frame_total[row] for side in sides]
        if any((each == 0).any() for each in rows):
            continue
        share = sum(each.sum() for each in rows) / total
        sampling = np.sqrt((1 - share) * processes / sum(each.sum() for each in rows))
        cells = [
            f"{within:.1%} / {between:.1%}"
            for within, between in (spreads(sides, rows, kind) for kind in ["", *kinds])
        ]
        name = "[total]" if row < 0 else str(evidence.frames[row])
        yield f"{name} | {share:.0%} | {sampling:.1%} | " + " | ".join(cells)


def main() -> None:
    """Print one table per group and benchmark."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("runs", type=Path, nargs="+")
    parser.add_argument("--least", type=float, default=3.0)
    wanted = parser.parse_args()
    groups: dict[str, list[Run]] = {}
    for path in wanted.runs:
        groups.setdefault(path.name.rpartition("-")[0], []).append(folder.load(path))
    for group, runs in groups.items():
        # The folder before a test file's name depends on where the recording was started.
        named = [(m.benchmark.rpartition("/")[2], m) for run in runs for m in run.measurements]
        for benchmark in sorted({name for name, _ in named}):
            of_it = [each for name, each in named if name == benchmark]
            print(f"\n{group}, {benchmark}: {len(of_it)} recordings; within / between them\n")
            for line in table(of_it, wanted.least / 100):
                print(line)


if __name__ == "__main__":
    main()
