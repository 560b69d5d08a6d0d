"""Stage 4, pure: what a comparison of imported runs can know, and what it cannot."""

from enum import StrEnum

from ci_flame.profile import UNTOLD_NS, Measurement, Mode, Round, Run, Unit


class Told(StrEnum):
    """What an imported measurement tells of the work that its samples stand for."""

    WORK = "--iterations or --seconds"
    NOTHING = "neither --iterations nor --seconds"
    EITHER = "a second of CPU time"
    """As much CPU time, to the nanosecond, as stands for work that is not told."""


def told(measurement: Measurement) -> Told:
    """Return what an imported measurement tells of its work; only profiles of work are asked."""
    rounds = [
        each
        for process in measurement.processes
        for each in process.rounds
        if Mode.ON_CPU in each.profiles
    ]
    if any((each.iterations, each.cpu_ns, each.wall_ns) != (1, UNTOLD_NS, 0) for each in rounds):
        return Told.WORK
    return Told.EITHER if all(map(_a_second, rounds)) else Told.NOTHING


def _a_second(each: Round) -> bool:
    profile = each.profiles[Mode.ON_CPU]
    return profile.unit is Unit.NANOSECONDS and profile.value == UNTOLD_NS


def work_is_told(before: Measurement, after: Measurement) -> bool:
    """Tell whether CPU time per iteration of two imported measurements can be compared."""
    return Told.NOTHING not in {told(before), told(after)}


def not_alike(before: Run, after: Run) -> tuple[str, ...]:
    """Return why two imported runs cannot be judged by time; empty: they can."""
    if not (before.environment.imported or after.environment.imported):
        return ()
    return _single_files(before, after) or _one_told(before, after)


def _single_files(before: Run, after: Run) -> tuple[str, ...]:
    """Return that a side is one file.

    What one process of ours may differ by is known from many recordings; what somebody else's
    file may differ by, recorded anyhow, only other such files can tell.
    """
    for measurement in after.measurements:
        other = before.measurement(measurement.benchmark)
        if other is None:
            continue
        counts = len(other.processes), len(measurement.processes)
        if min(counts) == 1:
            few = f"files of {measurement.benchmark}: {counts[0]}, {counts[1]}"
            return (f"{few}; how much two of one side differ is only known from several a side",)
    return ()


def _one_told(before: Run, after: Run) -> tuple[str, ...]:
    """Return that one side was imported with a denominator and the other without."""
    if not (before.environment.imported and after.environment.imported):
        return ()
    for measurement in after.measurements:
        other = before.measurement(measurement.benchmark)
        if other is None:
            continue
        sides = told(other), told(measurement)
        if set(sides) == {Told.WORK, Told.NOTHING}:
            return (
                f"imported with: {sides[0]}, {sides[1]}; import both sides with the same options",
            )
    return ()
