"""The row (0 %, +2 % bytecodes): exact counts need no campaign, and no machine that is quiet.

    build/pythons/environment-3.14/bin/python -m bench.power.bytecodes --builds 5

Each build records the same code twice and once with 51 units of `f10` instead of 50, two processes
a side, and is judged by `metric: bytecodes` with `max_growth: 0%`. Libraries that this interpreter
lacks are left out. The rows go to results/bytecodes.json.
"""

import argparse
import importlib.util
import json
import platform
import sys
import tempfile
from dataclasses import replace
from pathlib import Path
from typing import Any, Final

from bench.power.process import process
from bench.power.schedule import WORKLOADS, Task, Unit, Variant
from bench.power.store import ROOT, write
from ci_flame.diff import diff
from ci_flame.errors import CiFlameError
from ci_flame.judge import judge
from ci_flame.policy import Limit, Policy, Rule
from ci_flame.profile import Run
from ci_flame.verdict import Outcome

RESULTS: Final = ROOT / "bench/power/results/bytecodes.json"
SINCE: Final = (3, 12)
"""`sys.monitoring`."""
PROCESSES: Final = 2
SECONDS: Final = 0.2
RULE: Final = Rule(
    frames=("workloads:*",), metric="bytecodes", max_growth=Limit(share=0.0), min_impact=0.0,
    place="bench",
)  # fmt: skip


class Planted(Variant):
    """+2 % of `f10`, exactly: 51 units instead of 50."""

    def counts(self, workload: str) -> tuple[dict[str, int], dict[str, int]]:
        """Return the units of each function, before and after."""
        before, _ = Variant().counts(workload)
        before["f10"] = 50
        return before, {**before, "f10": 51 if self.kind == "growth" else 50}


def present() -> list[str]:
    """Return the workloads that can run here."""
    needs = {"sqlparse", "mistune"}
    return [
        name
        for name in WORKLOADS
        if name not in needs or importlib.util.find_spec(name) is not None
    ]


def build(names: list[str], kind: str, place: Path) -> tuple[Run, Run]:
    """Record both sides of one build."""
    variant = Planted(kind, "f10" if kind == "growth" else "", 2 if kind == "growth" else 0)
    unit = Unit(
        0, "bytecodes", 0, SECONDS, "quiet", "rerun", PROCESSES, dict.fromkeys(names, variant)
    )
    runs = {
        side: [process(Task(unit, side, index), place, busy=1.0) for index in range(PROCESSES)]
        for side in ("before", "after")
    }
    return joined(runs["before"]), joined(runs["after"])


def joined(runs: list[Run]) -> Run:
    """Return the processes of one side as one run."""
    whole = tuple(
        replace(each, processes=tuple(p for run in runs for p in run.measurements[at].processes))
        for at, each in enumerate(runs[0].measurements)
    )
    return replace(runs[0], measurements=whole)


def rows(before: Run, after: Run, kind: str, build_number: int) -> list[dict[str, Any]]:
    """Return one row per workload: did it fail, by which functions."""
    verdict = judge(diff(before, after), Policy(rules=(RULE,)), after=after)
    made = []
    for each in verdict.benchmarks:
        found = [str(f) for f in each.findings if f.outcome is Outcome.FAIL]
        workload = each.benchmark.partition("[")[2].removesuffix("]")
        made.append(
            {
                "build": build_number, "kind": kind, "workload": workload,
                "python": platform.python_version(), "outcome": str(each.outcome), "found": found,
                "notes": [f"{n.slug}: {n.text}" for n in each.notes if "bytecodes" in n.text],
            }
        )  # fmt: skip
    return made


def main() -> int:
    """Record, judge, print and keep."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--builds", type=int, default=5)
    parser.add_argument("--results", type=Path, default=RESULTS)
    told = parser.parse_args()
    if sys.version_info < SINCE:
        print(f"bytecodes are counted from CPython 3.12 on, this is {platform.python_version()}",
              "  hint: tools/pythons.py --environment 3.14, and then its python with this command",
              sep="\n", file=sys.stderr)  # fmt: skip
        return 2
    made: list[dict[str, Any]] = []
    try:
        with tempfile.TemporaryDirectory() as scratch:
            for number in range(told.builds):
                for kind in ("same", "growth"):
                    made += rows(*build(present(), kind, Path(scratch)), kind, number)
                    print(f"build {number}, {kind}: {sum(bool(r['found']) for r in made)} failed")
    except CiFlameError as error:
        print(f"bytecodes: {error}", file=sys.stderr)
        return error.exit_code
    lines = ",\n".join(json.dumps(row) for row in made)
    write(told.results, f"[\n{lines}\n]\n".encode())
    return 0


if __name__ == "__main__":
    sys.exit(main())
