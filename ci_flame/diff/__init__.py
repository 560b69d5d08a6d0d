"""Stage 4, pure: two runs -> what changed, per benchmark, function and call path.

Costs are per iteration and in nanoseconds *at the baseline's machine speed*: the machine
is taken out by the reference work (`speed`, `noise/`), then both sides are told in the same unit.
Waiting (off-CPU) is compared as it was timed.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Final

import numpy as np

from ci_flame import noise
from ci_flame.diff import renames, speed
from ci_flame.diff.columns import (
    NOTHING,
    Change,
    Columns,
    FrameChange,
    Lazy,
    PathChange,
    change,
)
from ci_flame.diff.counts import Counts, counts
from ci_flame.diff.evidence import Evidence, collect
from ci_flame.diff.figures import Figures, collector_notes, figures
from ci_flame.diff.imports import not_alike, work_is_told
from ci_flame.diff.lost import lost_share
from ci_flame.diff.timing import Timings
from ci_flame.noise import Floats, Machine
from ci_flame.noise.between import Between
from ci_flame.profile import Environment, Frame, Measurement, Mode, Run
from ci_flame.verdict import duration

__all__ = [
    "NOTHING",
    "TENFOLD",
    "VISIBLE_SHARE",
    "BenchmarkDiff",
    "Change",
    "Columns",
    "FrameChange",
    "PathChange",
    "RunDiff",
    "change",
    "diff",
    "diff_benchmark",
    "differences",
    "left_out",
    "smallest_visible",
    "visible_at",
    "visible_growth",
]

NOMINAL_FALSE_FAILURES: Final = 0.005
"""Per build; what `smallest_visible` of a diff assumes where no policy is known yet."""
NOTED: Final = 0.01
"""Of the wall time: waiting that was left out is said from here on."""
Spreads = Callable[[str, Mode], Between | None]
TENFOLD: Final = 9.0
"""Growth from which on nothing is said to be visible."""
VISIBLE_SHARE: Final = 0.05
"""Own share from which on a function belongs to `smallest_visible`."""


@dataclass(frozen=True, slots=True)
class BenchmarkDiff:
    """One benchmark and mode on both sides."""

    benchmark: str
    mode: str
    total: Change
    frames: Sequence[FrameChange]
    """Sorted by absolute change of total cost, then name."""
    paths: Sequence[PathChange]
    """The whole call tree, parents before children, siblings by name."""
    anchor: str
    """How the machine was taken out: `references`, `references+functions`, `functions` (the
    robust centre of many), `given`, `given+functions` (CPU time per iteration as the import was
    told it; the machine stays in), `shares` (not at all; only shares are compared), `clock`
    (waiting)."""
    anchor_error: float
    """Standard error of ln(machine speed ratio) between the sides that is left."""
    processes_before: int
    processes_after: int
    smallest_visible: float | None
    """Smallest growth that would have been seen in a function of 5 % or more."""
    notes: tuple[str, ...] = ()
    busy: str = ""
    """What a side lost to a machine that was busy for most of its rounds; empty: it was not."""
    figures: Figures | None = None
    """Metrics and latencies of both sides; with the first mode of a benchmark only."""
    waits_instead: bool = False
    """It is on the CPU for under a tenth of the time, and both sides' waiting was recorded."""
    own_cost_percent: float | None = None
    """What the collector took of one CPU (`Figures.own_cost_percent`), told with every mode."""
    renamed: Mapping[Frame, Frame] = field(default_factory=dict)
    """Functions that have another name now, after -> before; they are compared by the new one."""
    columns: "Columns | None" = field(default=None, repr=False, compare=False)
    """What the judge reads; None where a side has no samples."""
    counts: Counts | None = None
    """Bytecodes and calls of both sides; with the first mode of a benchmark only."""
    timings: Timings | None = field(default=None, repr=False, compare=False)
    """Suspects timed call by call on both sides; of time on the CPU only."""
    lost: tuple[float, float] = (0.0, 0.0)
    """Share of each side's samples, or waits, that the collector lost."""


@dataclass(frozen=True, slots=True)
class RunDiff:
    """Two runs: what both have, and what only one has."""

    before: Environment
    after: Environment
    before_commit: str
    after_commit: str
    differences: tuple[str, ...]
    """Why the two may not be compared by time (`collector: ebpf, perf`); empty: they may."""
    benchmarks: tuple[BenchmarkDiff, ...]
    added: tuple[str, ...]
    removed: tuple[str, ...]
    dirty: tuple[bool, bool] = (False, False)
    """Before, after: that tree differed from its commit."""

    @property
    def labels(self) -> tuple[str, str]:
        """Return what the sides are called beside their commits: `before`, `after (changed)`."""
        one, other = (" (changed)" * each for each in self.dirty)
        return f"before{one}", f"after{other}"


def diff_benchmark(
    before: Measurement,
    after: Measurement,
    mode: Mode,
    *,
    between: Between | None = None,
    imported: bool = False,
) -> BenchmarkDiff:
    """Compare one benchmark of two runs, every function and call path of it.

    `between`: how far builds of the same code spread, where more than these two are known.
    `imported`: other tools recorded it; where both sides tell their work, that is the clock.

    Swapping the sides negates every `log_ratio`; a side without samples gives an empty diff
    that says so in its notes.
    """
    evidence = collect((before, after), mode)
    renamed = renames.find(evidence)
    if renamed:
        evidence = collect((before, after), mode, renamed)
    sides = evidence.sides
    sizes = tuple(len(side.clocks) for side in sides)
    notes = []
    for name, side, measurement in zip(("before", "after"), sides, (before, after), strict=True):
        if side.left_out:
            notes.append(
                f"{side.left_out} of {len(measurement.processes)} processes {name} have no samples"
                " that count and were left out"
            )
        if unsettled := sum(not process.settled for process in measurement.processes):
            notes.append(
                f"the warm-up of {unsettled} of {len(measurement.processes)} processes {name} had"
                " not settled when it was cut off"
            )
        if without := left_out(measurement, name, mode):
            notes.append(without)
        if mode in after.modes[:1]:
            notes += collector_notes(measurement, name)
    gone = lost_share(before, mode), lost_share(after, mode)
    busy = "; ".join(filter(None, map(_mostly_busy, ("before", "after"), (before, after))))
    machine_told = figures(before, after)
    told = machine_told if mode in after.modes[:1] else None
    cost = machine_told.own_cost_percent
    work = counts(before, after) if mode in after.modes[:1] else None
    waits = mode is Mode.ON_CPU and mostly_waits(before) and mostly_waits(after)
    if not all(sizes):
        return BenchmarkDiff(
            after.benchmark, str(mode), NOTHING, (), (), "shares", float("inf"), sizes[0],
            sizes[1], None, tuple(notes), busy, told, waits, cost, counts=work,
            lost=gone,
        )  # fmt: skip
    first, second = sides
    places = {**before.places, **after.places}
    if mode is Mode.ON_CPU:
        prior = noise.fit_prior(first.frame_own, second.frame_own)
        centre = speed.centre_of_functions(first.frame_own, second.frame_own, prior)
        given = imported and work_is_told(before, after)
        clock = speed.machine(first.clocks, second.clocks, centre, given=given)
        made = Columns(evidence, places, clock, prior, between)
        notes += _drifting(evidence, clock.kinds)
    else:
        made = Columns(evidence, places, None, noise.Prior(1.0, noise.WAIT_SPREAD), between)
        notes += _waiting_notes(evidence)
    clock = made.clock
    total = made.change(0)
    if clock.anchor == "shares":
        # Nothing tells the machine from the code, so the whole is not compared.
        reach = float(noise.quantile(4.0, 0.95)) * clock.raw_error
        total = Change(
            total.before_ns, total.after_ns, 1.0, 1.0, 0.0, clock.raw_error, 4.0, 1.0,
            float(np.expm1(-reach)), float(np.expm1(reach)), total.samples_before,
            total.samples_after,
        )  # fmt: skip
    return BenchmarkDiff(
        after.benchmark,
        str(mode),
        total,
        Lazy(made.count_frames, made.frame_at),
        Lazy(made.count_paths, made.path_at),
        clock.anchor,
        clock.error,
        sizes[0],
        sizes[1],
        smallest_visible(made, NOMINAL_FALSE_FAILURES / max(made.functions, 1)),
        tuple(notes),
        busy,
        told,
        waits,
        cost,
        {after: before for before, after in renamed.items()},
        made,
        work,
        Timings(before, after, evidence, clock, between) if mode is Mode.ON_CPU else None,
        gone,
    )


def left_out(measurement: Measurement, side: str, mode: Mode) -> str:
    """Return what was left out of a side for its rounds' own reasons, the first one in words."""
    dropped = [
        each.dropped.replace("of it", f"of round {number} of process {process}")
        for process, of_process in enumerate(measurement.processes, 1)
        for number, each in enumerate(of_process.rounds, 1)
        if each.dropped and mode in each.profiles
    ]
    if not dropped:
        return ""
    rounds = sum(mode in e.profiles for p in measurement.processes for e in p.rounds)
    more = f" (the first: {dropped[0]})" if len(dropped) > 1 else f": {dropped[0]}"
    return f"{len(dropped)} of {rounds} rounds {f'{side} ' if side else ''}left out{more}"


def _drifting(evidence: Evidence, kinds: Sequence[str]) -> list[str]:
    """Return the words for sides whose iterations cost more, or less, with every call."""
    notes = []
    for name, side in zip(("before", "after"), evidence.sides, strict=True):
        if moved := speed.drift(side.clocks, kinds):
            notes.append(
                f"an iteration {name} costs {abs(np.expm1(moved)) * 100:.0f} %"
                f" {'more' if moved > 0 else 'less'} at the end of a process than at its"
                " beginning: its cost depends on how many were recorded before it"
            )
    return notes


def _mostly_busy(side: str, measurement: Measurement) -> str:
    """Return the words for a side that lost more than half of its rounds."""
    rounds = [each for process in measurement.processes for each in process.rounds]
    dropped = sum(bool(each.dropped) for each in rounds)
    if 2 * dropped <= len(rounds):
        return ""
    return f"the machine was busy in {dropped} of {len(rounds)} rounds {side}, which are left out"


def mostly_waits(measurement: Measurement) -> bool:
    """Tell whether a benchmark is on the CPU for under a tenth of its time, and says how it waits.

    Time spent waiting for a CPU is the machine's.
    """
    rounds = [each for process in measurement.processes for each in process.rounds]
    wall_ns = sum(max(0, each.wall_ns - each.run_delay_ns) for each in rounds)
    cpu_ns = sum(each.cpu_ns for each in rounds)
    return Mode.OFF_CPU in measurement.modes and 10 * cpu_ns < wall_ns


def _waiting_notes(evidence: Evidence) -> list[str]:
    """Return what was left out of the waiting, where it is a hundredth of the time or more."""
    notes = []
    kinds = [side.waiting for side in evidence.sides]
    sides = [each for each in kinds if each is not None]
    if any(each.run_queue_ns >= NOTED * each.wall_ns for each in sides):
        one, other = (_time(each.run_queue_ns) for each in sides)
        notes.append(
            f"waited for a CPU for {one} per iteration before and {other} after:"
            " that is the machine's doing and not judged"
        )
    if any(each.elsewhere_ns >= NOTED * each.wall_ns for each in sides):
        one, other = (_time(each.elsewhere_ns) for each in sides)
        notes.append(
            f"other threads waited for {one} per iteration before and {other} after,"
            " outside the benchmark's function: not judged"
        )
    return notes


def _time(ns: float) -> str:
    return duration(ns) if ns >= 1 else "0"


def smallest_visible(made: Columns, alpha: Floats | float) -> float | None:
    """Return the smallest growth seen in any function of `VISIBLE_SHARE` own cost or more.

    `alpha` is the level of one test, or of each function's. The worst such function counts;
    where there is none, one of exactly that share with the benchmark's usual noise. None: not
    even a tenfold growth.
    """
    rows = np.arange(1, 1 + made.functions)
    estimates = made.estimates
    share = estimates.samples_before[rows] / max(estimates.samples_before[0], 1.0)
    chosen = (share >= VISIBLE_SHARE) & (estimates.samples_after[rows] > 0)
    large = rows[chosen]
    levels = np.broadcast_to(alpha, rows.shape)[chosen]
    if len(large):
        errors, degrees = estimates.standard_error[large], estimates.degrees[large]
        worst = float(visible_growth(made, errors, degrees, share[chosen], levels).max())
    else:
        worst = visible_at(made, VISIBLE_SHARE, float(np.min(alpha, initial=1.0)))
    return worst if worst < TENFOLD else None


def visible_growth(
    made: Columns, standard_error: Floats, degrees: Floats, share: Floats, alpha: Floats
) -> Floats:
    """Return the smallest growth that shows four times of five in costs of these shares."""
    seen = noise.visible_growth(standard_error, degrees, alpha)
    return _through_shares(seen, share, made.clock) if made.clock.anchor == "shares" else seen


def _through_shares(seen: Floats, share: Floats, clock: Machine) -> Floats:
    """Return the growth of a function whose share must grow by `seen` to be noticed.

    A function with share s that grows by g has a share (1 + g) / (1 + s g) times as large, so
    one that is the whole benchmark is never seen; and the raw clock must agree (`judge.py`).
    """
    room = 1 - share * (1 + seen)
    growth = np.where(room > 0, seen / np.maximum(room, 1e-12), np.inf)
    return np.asarray(np.maximum(growth, np.expm1(4.0 * clock.raw_error)))


def visible_at(made: Columns, share: float, alpha: float) -> float:
    """Return the smallest growth that would be seen in a function of this own share."""
    before, after = made.evidence.sides
    if made.waiting:
        counts = [len(side.clocks) for side in (before, after)]
        spreads = [noise.WAIT_SPREAD if n > 1 else noise.UNSEEN_WAIT_SPREAD for n in counts]
        error = np.sqrt(sum(spread**2 / n for spread, n in zip(spreads, counts, strict=True)))
        known = noise.UNSEEN_WAIT_DEGREES if min(counts) == 1 else noise.WAIT_DEGREES
        degrees = known + sum(counts) - 2
        error = np.sqrt(error**2 + _typical(made))
        return float(noise.visible_growth(np.array([error]), degrees, alpha)[0])
    prior, clock = made.prior, made.clock
    variance = clock.systematic**2 + _typical(made)
    for side in (before, after):
        processes = len(side.clocks)
        samples = share * float(side.total.sum())
        variance += (
            prior.poisson * (1 - share) / samples
            + prior.spread**2 * (1 - share) ** 2 / processes
            + clock.variance / processes
        )
    processes = len(before.clocks) + len(after.clocks)
    degrees = prior.degrees + processes - 2
    seen = noise.visible_growth(np.array([np.sqrt(variance)]), degrees, alpha)
    if clock.anchor == "shares":
        seen = _through_shares(seen, np.array([share]), clock)
    return float(seen[0])


def _typical(made: Columns) -> float:
    """Return the variance of ln cost that two builds of the same code add."""
    return 2 * made.spread.typical if made.spread else 0.0


def differences(before: Environment, after: Environment) -> tuple[str, ...]:
    """Return why the two may not be compared by time, `what: before, after`; empty: they may.

    Same collector, event, frequency class (within a factor of 1.5), Python minor, machine
    class (architecture and CPU model) and place of the interpreter's code.
    """
    found = [
        f"{name}: {one or 'none'}, {other or 'none'}"
        for name, one, other in (
            ("collector", before.collector, after.collector),
            ("event", before.event, after.event),
        )
        if one != other
    ]
    slow, fast = sorted((before.frequency_hz, after.frequency_hz))
    if fast > max(slow, 0) * 1.5:
        told = (each.frequency_hz for each in (before, after))
        sides = (f"{hz} Hz" if hz else "not told" for hz in told)
        found.append(f"frequency: {', '.join(sides)}")
    found += [
        f"{name}: {one or 'none'}, {other or 'none'}"
        for name, one, other in (
            ("Python", before.python_minor, after.python_minor),
            ("architecture", before.architecture, after.architecture),
            ("CPU model", before.cpu_model, after.cpu_model),
            ("memory layout of the interpreter", before.layout, after.layout),
        )
        if one != other
    ]
    return tuple(found)


def diff(before: Run, after: Run, between: Spreads | None = None) -> RunDiff:
    """Compare two runs benchmark by benchmark; those that only one has are named.

    `between` tells of a benchmark and mode how far builds of the same code spread.
    """
    one = {measurement.benchmark: measurement for measurement in before.measurements}
    other = {measurement.benchmark: measurement for measurement in after.measurements}
    return RunDiff(
        before.environment,
        after.environment,
        before.commit,
        after.commit,
        differences(before.environment, after.environment) + not_alike(before, after),
        tuple(
            diff_benchmark(
                one[name],
                measurement,
                mode,
                between=between(name, mode) if between else None,
                imported=before.environment.imported and after.environment.imported,
            )
            for name, measurement in other.items()
            if name in one
            for mode in (measurement.modes or (Mode.ON_CPU,))
            if mode in one[name].modes or not one[name].modes
        ),
        tuple(name for name in other if name not in one),
        tuple(name for name in one if name not in other),
        (before.dirty, after.dirty),
    )
