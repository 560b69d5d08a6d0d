"""Verdicts on the recordings: each comparison has its own, that no other comparison uses.

    10 zips of a unit ─ 8 workloads ─ cut to 1, 2, 3 s a process ─ verdict at 0, 5 and 10 %

Cuts of one recording go to different tables (different seconds a side), never to one.
"""

import json
import sys
from collections.abc import Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import asdict, dataclass, field, replace
from typing import Any, Final

from bench.power import peers, schedule
from bench.power.schedule import SHARES, Task, Unit, Variant
from bench.power.store import Store, digest, write
from ci_flame.diff import RunDiff, diff
from ci_flame.errors import CiFlameError
from ci_flame.judge import judge
from ci_flame.policy import Limit, Policy, Rule
from ci_flame.profile import Environment, Frame, Measurement, Process, Run
from ci_flame.verdict import Outcome

LIMITS: Final = (0, 5, 10)
"""In percent."""
CUTS: Final[Mapping[str, tuple[float, ...]]] = {
    "goal15": (3.0, 2.0, 1.0), "goal30": (2.0, 1.0), "curve": (2.0, 1.0),
}  # fmt: skip
"""Kind -> seconds of a process that its recordings are cut to; others stay whole."""
JUDGE: Final = digest("ci_flame", "bench/power")
"""Of the judge that this process has loaded."""
MODULE: Final = "workloads"
COUNTED: Final = frozenset({"sqlparse", "mistune"})
"""Workloads whose units are calls of a library, so that counted calls tell what was run."""
ABOVE: Final = frozenset({"[total]", "test", "Plain.__call__", "Paced.__call__"})
"""What calls the functions of a workload."""


@dataclass(frozen=True, slots=True)
class Judged:
    """The gate's verdict at one limit."""

    outcome: str
    right: bool = False
    """A finding that failed names the function that grew, or the path to it."""
    innocent: tuple[str, ...] = ()
    """Functions that failed and neither grew past the limit nor call what did."""
    sentence: str = ""
    """Of the first finding."""


@dataclass(frozen=True, slots=True)
class Row:
    """One comparison: the unit of every table."""

    unit: int
    kind: str
    nth: int
    """Of its kind; 2 n and 2 n + 1 are recorded alike, and the second confirms the first."""
    workload: str
    seconds: float
    """A side, all processes together, as asked for."""
    condition: str
    mode: str
    variant: Mapping[str, Any]
    verdicts: Mapping[str, Judged]
    """By limit in percent."""
    confirmed: Mapping[str, Judged] = field(default_factory=dict)
    """By limit: of the second recording, where the first failed."""
    peers: Mapping[str, bool] = field(default_factory=dict)
    """Name -> it failed the build."""
    samples: float = 0.0
    """In the function that grew (own and callees), mean of the sides; 0: no such function."""
    share: float = 0.0
    """Of that function before, as measured."""
    growth: float | None = None
    """Of it, as measured; of the benchmark where all grew."""
    low: float | None = None
    high: float | None = None
    """Ends of the 90 % interval."""
    visible: float | None = None
    """Smallest growth that could have been seen, by the gate's own account."""
    delay: float = 0.0
    """Time that the rounds waited for a CPU / their wall time, both sides."""
    dropped: float = 0.0
    """Rounds left out for a busy machine / all rounds."""
    load: float = 0.0
    """Of one minute when a process began, mean; the benchmark itself is 1 of it."""
    commit: str = ""


def policy(limit: int) -> Policy:
    """Return the gate as it is by default, with this limit in percent."""
    return Policy(rules=(Rule(max_growth=Limit(share=limit / 100), place="default"),))


# -- recordings ---------------------------------------------------------------------------------


def cut(process: Process, seconds: float) -> Process:
    """Return the process as if it had been told to record for so many seconds of CPU time.

    Rounds that were left out do not count, as while recording.
    """
    kept = []
    cpu_ns = wall_ns = 0
    for each in process.rounds:
        if cpu_ns >= seconds * 1e9 or wall_ns >= 3 * seconds * 1e9:
            break
        kept.append(each)
        if not each.dropped:
            cpu_ns += each.cpu_ns
            wall_ns += max(0, each.wall_ns - each.run_delay_ns)
    if len(kept) == len(process.rounds):
        return process
    part = len(kept) / len(process.rounds)
    samples = sum(profile.samples for each in kept for profile in each.profiles.values())
    return replace(
        process,
        rounds=tuple(kept),
        kept=samples,
        expected=round(process.expected * part),
        truncated=round(process.truncated * part),
        unrooted=round(process.unrooted * part),
        lost=round(process.lost * part),
    )


def benchmark_of(workload: str) -> str:
    """Return pytest's id of a workload."""
    return f"bench_power.py::test[{workload}]"


def side(recorded: Sequence[Run], workload: str, seconds: float) -> Run:
    """Return one side of a comparison: the workload's processes, merged and cut."""
    found = [run.measurement(benchmark_of(workload)) for run in recorded]
    parts = [each for each in found if each is not None]
    if len(parts) < len(found) or not parts:
        raise CiFlameError(
            f"{workload} is missing in {len(found) - len(parts)} of {len(found)} runs"
        )
    processes = tuple(cut(process, seconds) for each in parts for process in each.processes)
    places = {frame: place for each in parts for frame, place in each.places.items()}
    measurement = Measurement(parts[0].benchmark, processes, parts[0].root, places)
    return replace(recorded[0], measurements=(measurement,))


def ran_its_plan(recorded: Iterable[tuple[Unit, str, Run]]) -> None:
    """Raise CiFlameError where a process did other work than the schedule says.

    By its exact counts: a function's calls, with those of its callees, are one and so many for
    each unit of work, the same number in all processes of both sides.
    """
    per_unit: dict[tuple[str, str], set[float]] = {}
    for unit, of_side, run in recorded:
        for workload in COUNTED & unit.variants.keys():
            measured = run.measurement(benchmark_of(workload))
            plan = unit.variants[workload].counts(workload)[of_side == "after"]
            for process in measured.processes if measured else ():
                calls = {
                    frame.function: count.total_calls
                    for frame, count in process.counts.items()
                    if frame.module == MODULE and count.total_calls is not None
                }
                some = {name: calls[name] - 1 for name in plan if calls.get(name, 1) > 1}
                if _extra(calls, plan):
                    raise CiFlameError(f"{workload}: {of_side}: other functions ran than planned")
                for name, made in some.items():
                    per_unit.setdefault((workload, name), set()).add(made / plan[name])
    for (workload, name), found in per_unit.items():
        if len(found) > 1:
            raise CiFlameError(f"{workload}: a process ran another plan: {name} made other calls")


def _extra(calls: Mapping[str, int], plan: Mapping[str, int]) -> bool:
    """Tell whether a function with units ran that the plan does not have."""
    known = {name for shape in (schedule.SPREAD, schedule.DOMINANT) for name in shape}
    return any(name in known - set(plan) and made > 1 for name, made in calls.items())


# -- verdicts -----------------------------------------------------------------------------------


def guilty_of(variant: Variant) -> Frame | None:
    """Return the function that grew."""
    grew = variant.kind in {"growth", "masked"}
    return Frame(variant.function, MODULE) if grew else None


def judged(changes: RunDiff, after: Run, variant: Variant, limit: int) -> Judged:
    """Return the gate's verdict and whether it is right."""
    (verdict,) = judge(changes, policy(limit), after=after, family=1).benchmarks
    failed = [each for each in verdict.findings if each.outcome is Outcome.FAIL]
    guilty = guilty_of(variant)
    right = any(guilty in each.path for each in failed) if guilty else variant.kind == "uniform"
    return Judged(
        str(verdict.outcome),
        bool(failed) and right,
        tuple(str(f.frame) for f in failed if not excused(f.frame, f.path, variant, limit)),
        str(failed[0]) if failed else "",
    )


def excused(frame: Frame, path: Sequence[Frame], variant: Variant, limit: int) -> bool:
    """Tell whether a function that was accused did grow up to the limit, or calls what did.

    One that grew by the limit exactly is neither innocent nor guilty.
    """
    if variant.kind == "uniform":
        return variant.percent >= limit
    guilty = guilty_of(variant)
    if guilty is None:
        return False
    if guilty in path:
        return variant.percent >= limit
    # Those above it: the test, the workload's loop, the benchmark itself.
    grew = SHARES[variant.function] * variant.percent
    return variant.kind == "growth" and frame.function in ABOVE and grew >= limit


def failed(found: Judged) -> bool:
    """Tell whether the build failed."""
    return found.outcome == Outcome.FAIL


def rows_of(store: Store, unit: Unit) -> list[Row]:
    """Judge all workloads of a unit that is recorded."""
    found = {
        name: [store.get(task) for task in tasks] for name, tasks in schedule.sides(unit).items()
    }
    runs = {name: [each.run for each in of_side] for name, of_side in found.items()}
    ran_its_plan((unit, name, run) for name, of_side in runs.items() for run in of_side)
    told = [each.told for of_side in found.values() for each in of_side]
    load = sum(each["load"] for each in told) / len(told)
    made = []
    for workload in unit.variants:
        for seconds in CUTS.get(unit.kind, (unit.seconds,)):
            before = side(runs["before"], workload, seconds)
            after = side(runs["after"], workload, seconds)
            row = _row(unit, workload, before, after, seconds=seconds)
            row = replace(row, load=round(load, 2), commit=told[0]["commit"][:12])
            if unit.kind == "same" and seconds == unit.seconds:
                row = replace(row, confirmed=_confirmed(store, row, unit, before))
            made.append(row)
    return made


def _row(unit: Unit, workload: str, before: Run, after: Run, *, seconds: float) -> Row:
    variant = unit.variants[workload]
    changes = diff(before, after)
    (benchmark,) = changes.benchmarks
    guilty = guilty_of(variant)
    change = next((each.total for each in benchmark.frames if each.frame == guilty), None)
    if variant.kind == "uniform":
        change = benchmark.total
    rounds = [r for run in (before, after) for p in run.measurements[0].processes for r in p.rounds]
    wall = sum(each.wall_ns for each in rounds)
    seen = benchmark.smallest_visible
    return Row(
        unit=unit.number,
        kind=unit.kind,
        nth=unit.nth,
        workload=workload,
        seconds=unit.processes * seconds,
        condition=unit.condition,
        mode=unit.mode,
        variant={key: value for key, value in asdict(variant).items() if value},
        verdicts={str(limit): judged(changes, after, variant, limit) for limit in LIMITS},
        peers=peers.verdicts(before.measurements[0], after.measurements[0]),
        samples=0.0 if change is None else (change.samples_before + change.samples_after) / 2,
        share=0.0 if change is None else round(change.before_share, 4),
        growth=None if change is None else round(change.growth, 4),
        low=None if change is None else round(change.low, 4),
        high=None if change is None else round(change.high, 4),
        visible=None if seen is None else round(seen, 4),
        delay=round(sum(each.run_delay_ns for each in rounds) / max(wall, 1), 4),
        dropped=round(sum(bool(each.dropped) for each in rounds) / max(len(rounds), 1), 4),
    )


# -- second recordings ----------------------------------------------------------------------------


def unconfirmed(store: Store, unit: Unit) -> list[str]:
    """Return the workloads of a same-code unit that failed at any limit; [] until it is whole."""
    rows = kept_rows(store, unit) if store.complete(unit) else []
    return [row.workload for row in rows if any(failed(each) for each in row.verdicts.values())]


def kept_rows(store: Store, unit: Unit) -> list[Row]:
    """Return the rows of a unit, from beside its recordings where nothing has changed since."""
    file = store.file(unit, "rows.json")
    made_of = [JUDGE, *sorted(each.name for each in file.parent.glob("*.zip"))]
    if file.exists():
        kept = json.loads(file.read_text(encoding="utf-8"))
        if kept["made_of"] == made_of:
            return [row_of(told) for told in kept["rows"]]
    rows = rows_of(store, unit)
    write(file, json.dumps({"made_of": made_of, "rows": [plain(row) for row in rows]}).encode())
    return rows


def plain(row: Row) -> dict[str, Any]:
    """Return a row as JSON holds it; `row_of` takes it back."""
    told = asdict(row)
    defaults = asdict(Judged(""))
    for name in ("verdicts", "confirmed"):
        told[name] = {
            limit: {k: v for k, v in each.items() if k == "outcome" or v != defaults[k]}
            for limit, each in told[name].items()
        }
    told["peers"] = sorted(name for name, fails in row.peers.items() if fails)
    return {key: round(v, 4) if isinstance(v, float) else v for key, v in told.items()}


def row_of(told: Mapping[str, Any]) -> Row:
    """Return the row that `plain` wrote; KeyError or TypeError where it is none."""
    made = dict(told)
    made["peers"] = {name: name in told["peers"] for name in peers.NAMES}
    for name in ("verdicts", "confirmed"):
        made[name] = {
            limit: Judged(**{**each, "innocent": tuple(each.get("innocent", ()))})
            for limit, each in told[name].items()
        }
    return Row(**made)


def _confirmed(store: Store, row: Row, unit: Unit, first: Run) -> dict[str, Judged]:
    """Return the second verdicts of what failed; {} where it is not recorded (yet)."""
    if not any(failed(each) for each in row.verdicts.values()):
        return {}
    tasks = schedule.confirming(unit, row.workload)
    if not all(store.has(task) for task in tasks):
        return {}
    runs = {
        name: [store.get(task).run for task in tasks if name in task.side]
        for name in ("before", "after")
    }
    before = side(runs["before"], row.workload, unit.seconds) if runs["before"] else first
    after = side(runs["after"], row.workload, unit.seconds)
    changes = diff(before, after)
    return {
        limit: judged(changes, after, unit.variants[row.workload], int(limit))
        for limit, each in row.verdicts.items()
        if failed(each)
    }


# -- all of them ----------------------------------------------------------------------------------


def compare(store: Store, made: Iterator[Unit], workers: int = 1) -> list[Row]:
    """Return the rows of all units that are recorded whole; broken ones are told and left out."""
    whole = [unit for unit in made if store.complete(unit)]
    rows: list[Row] = []
    with ProcessPoolExecutor(workers) as pool:
        for unit, future in [(unit, pool.submit(kept_rows, store, unit)) for unit in whole]:
            try:
                rows += future.result()
            except CiFlameError as error:
                print(f"unit {unit.number} is left out: {error}", file=sys.stderr, flush=True)
    return rows


def machine(store: Store, made: Iterable[Unit]) -> Environment | None:
    """Return what the first of these units that is there was recorded on; None without any."""
    tasks = (Task(unit, "before", 0) for unit in made)
    return next((store.get(task).run.environment for task in tasks if store.has(task)), None)
