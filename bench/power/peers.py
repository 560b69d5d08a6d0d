"""What other gates say of the very same runs, by their own code, all at 10 %.

- pytest-benchmark's `--benchmark-compare-fail=mean:10%` and `min:10%` on the wall time of the
  rounds: of one process, as its users run it, and of all five together.
- A ratio of totals: CPU time per iteration, all rounds of all processes, 110 %.
- StackGate 0.1.1 (PyPI) on the folded stacks of five runs a side, with `--threshold 10` and with
  its own 2 %. Its runs must be of equal work, so samples are scaled to equal iterations.
"""

import logging
from collections.abc import Sequence
from typing import Final

from pytest_benchmark.stats import Stats
from pytest_benchmark.utils import parse_compare_fail
from stackgate.comparator import compare as stackgate
from stackgate.parser import parse_collapsed

from ci_flame.formats import folded
from ci_flame.profile import Measurement, Mode, Process, Profile, Weight, merge

NAMES: Final = (
    "mean, 1 process", "min, 1 process", "mean", "min", "total", "stackgate", "stackgate 2%",
)  # fmt: skip
_RATE_HZ: Final = 1999.0


def verdicts(before: Measurement, after: Measurement) -> dict[str, bool]:
    """Return who fails the build."""
    found = {}
    for field in ("mean", "min"):
        check = parse_compare_fail(f"{field}:10%")
        for name, count in ((f"{field}, 1 process", 1), (field, len(after.processes))):
            old, new = (_times(each.processes[:count]) for each in (before, after))
            found[name] = bool(check.fails(new.as_dict(), old.as_dict()))
    found["total"] = _per_iteration(after) > 1.10 * _per_iteration(before)
    return found | _stackgate(before, after)


def _times(processes: Sequence[Process]) -> Stats:
    stats = Stats()
    for process in processes:
        for each in process.rounds:
            stats.update(each.wall_ns / each.iterations / 1e9)
    return stats


def _per_iteration(measurement: Measurement) -> float:
    rounds = [each for process in measurement.processes for each in process.rounds]
    return sum(each.cpu_ns for each in rounds) / sum(each.iterations for each in rounds)


def _stackgate(before: Measurement, after: Measurement) -> dict[str, bool]:
    logging.getLogger("stackgate").setLevel(logging.ERROR)
    work = _iterations(before.processes[0])
    old, new = (
        [
            parse_collapsed(_folded(process, work), name=str(number), sampling_rate_hz=_RATE_HZ)
            for number, process in enumerate(each.processes)
        ]
        for each in (before, after)
    )
    found = {}
    for name, threshold in (("stackgate", 10.0), ("stackgate 2%", 2.0)):
        told = stackgate(old, new, threshold=threshold, sampling_rate_hz=_RATE_HZ)
        found[name] = told.verdict.value == "FAIL"
    return found


def _iterations(process: Process) -> int:
    return sum(each.iterations for each in process.rounds)


def _folded(process: Process, iterations: int) -> str:
    """Return one run's folded stacks, as many samples as so many iterations would have had."""
    whole = merge(each.profiles[Mode.ON_CPU] for each in process.rounds if each.profiles)
    factor = iterations / _iterations(process)
    stacks = {
        stack: Weight(round(weight.samples * factor), 0) for stack, weight in whole.stacks.items()
    }
    return folded.write(Profile(stacks, whole.unit, iterations))
