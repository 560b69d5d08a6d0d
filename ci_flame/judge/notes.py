"""Stage 5, pure: what a reader must know beside the findings: doubt, blindness, circumstances."""

from collections.abc import Sequence
from typing import Final

import numpy as np

from ci_flame import noise
from ci_flame.diff import (
    TENFOLD,
    VISIBLE_SHARE,
    BenchmarkDiff,
    Columns,
    change,
    visible_at,
    visible_growth,
)
from ci_flame.diff.speed import RAW_DEGREES
from ci_flame.judge.asked import Answer
from ci_flame.judge.family import Family, Unit
from ci_flame.policy import Rule
from ci_flame.profile import TOTAL, Mode
from ci_flame.verdict import BenchmarkVerdict, Note, Outcome, duration, percent

LEAST_SAMPLES: Final = 200
"""A side; with fewer, a function of 5 % has not ten samples."""
LEAST_WAITS: Final = 10
"""On the side that waits more; waits are timed, not sampled, so that few say more."""
LEAST_WAITING: Final = 0.01
"""Of the wall time; less waiting is nobody's problem."""
FAR_BEYOND: Final = 5
"""Times the limit: a PASS that begins to see there is told of at the head of the build."""
HALF: Final = 0.5
NOTED_LOST: Final = 0.01
"""Share of a side's samples, or waits, whose loss is told."""
MOST_LOST: Final = 0.05
"""... and beyond which nothing is judged: a function of that size could be all of it."""
SHOWN_NOTES: Final = 3
BUSY_CURE: Final = (
    "a quieter machine helps, `until_decided: true` (records on), or `record: {busy: 100%}` (keeps"
    " such rounds); `inconclusive: fail` ends the build with 5 instead of 0"
)
SMALL_SHARE: Final = 0.01
"""Own share below which a function is not spoken of."""


def unjudged(diff: BenchmarkDiff) -> tuple[Note, Outcome] | None:
    """Return why growth is not judged, and what that makes of the benchmark; None: it is judged."""
    columns = diff.columns
    if columns is None:
        return _not_sampled(diff)
    if max(diff.lost) > MOST_LOST:
        return Note("lost", _lost_too_much(diff), diff.benchmark), Outcome.INCONCLUSIVE
    if columns.waiting:
        return _hardly_waits(diff, columns)
    sides = columns.evidence.sides
    counts = [float(side.total.sum()) for side in sides]
    if min(counts) >= LEAST_SAMPLES:
        return None
    if diff.waits_instead:
        told = (
            f"hardly uses the CPU ({counts[0]:.0f} samples before and {counts[1]:.0f} after, at"
            f" least {LEAST_SAMPLES} are needed): only its waiting is judged"
        )
        return Note("waits-instead", told, diff.benchmark), Outcome.PASS
    side = sides[int(np.argmin(counts))]
    needed = side.seconds * LEAST_SAMPLES / max(min(counts), 1.0)
    why = f"{diff.busy}; what is left is " if diff.busy else ""
    return Note(
        "busy" if diff.busy else "too-short",
        f"{why}too short to judge: {counts[0]:.0f} samples before and {counts[1]:.0f} after, at"
        f" least {LEAST_SAMPLES} on each side are needed; that is {duration(needed * 1e9)} of the"
        f" benchmark on each side, {duration(side.seconds * 1e9)} were recorded"
        + (f"; {BUSY_CURE}" if diff.busy else ""),
        diff.benchmark,
    ), Outcome.INCONCLUSIVE


def _not_sampled(diff: BenchmarkDiff) -> tuple[Note, Outcome]:
    """Return what a side without one sample makes of it."""
    which = " and ".join(
        name
        for name, count in (("before", diff.processes_before), ("after", diff.processes_after))
        if not count
    )
    if diff.waits_instead and not diff.busy:
        told = f"hardly uses the CPU (not one sample {which}): only its waiting is judged"
        return Note("waits-instead", told, diff.benchmark), Outcome.PASS
    slug = "busy" if diff.busy else "too-short"
    told = f"nothing to judge {which}: {_with_cure(diff.busy) or 'no samples'}"
    return Note(slug, told, diff.benchmark), Outcome.INCONCLUSIVE


def _lost_too_much(diff: BenchmarkDiff) -> str:
    cure = (
        "let an iteration wait less often, or judge on-cpu alone"
        if diff.mode == Mode.OFF_CPU
        else "a lower frequency loses less"
    )
    return f"{_lost(diff)}; {percent(MOST_LOST)} % is the most that may be missing: {cure}"


def _lost(diff: BenchmarkDiff) -> str:
    """Return which part of the recording is missing."""
    one, other = (percent(share, above=MOST_LOST) for share in diff.lost)
    what = "waits" if diff.mode == Mode.OFF_CPU else "samples"
    return f"the collector lost {one} % of the {what} before and {other} % after"


def _with_cure(busy: str) -> str:
    return f"{busy}; {BUSY_CURE}" if busy else ""


def _hardly_waits(diff: BenchmarkDiff, columns: Columns) -> tuple[Note, Outcome] | None:
    """Return the same of waiting: too little of it to matter, or too few waits to judge."""
    sides = columns.evidence.sides
    walls = [side.waiting.wall_ns if side.waiting else 0.0 for side in sides]
    waited = [float(columns.estimates.before[0]), float(columns.estimates.after[0])]
    parts = [ns / wall if wall else 0.0 for ns, wall in zip(waited, walls, strict=True)]
    if max(parts) < LEAST_WAITING:
        told = (
            f"waited for {percent(parts[0])} % of its time before and {percent(parts[1])} % after:"
            f" waiting is judged from {LEAST_WAITING * 100:.0f} % on"
        )
        return Note("no-waits", told, diff.benchmark), Outcome.PASS
    side = sides[0 if parts[0] >= parts[1] else 1]
    if side.waits >= LEAST_WAITS:
        return None
    told = (
        f"too few waits to judge: {sides[0].waits} before and {sides[1].waits} after, at least"
        f" {LEAST_WAITS} are needed; record longer than {duration(side.seconds * 1e9)}"
    )
    return Note("too-short", told, diff.benchmark), Outcome.INCONCLUSIVE


def not_certain(
    unsure: Sequence[tuple[Unit, Rule, Answer]], diff: BenchmarkDiff, columns: Columns
) -> list[Note]:
    """Return notes on growth that is probably past its limit, largest first, deepest only."""
    by_frame: dict[str, tuple[Unit, Rule, Answer]] = {}
    costs: set[tuple[float, float]] = set()
    for each in sorted(unsure, key=lambda one: (-one[0].depth, str(one[0].frame))):
        unit = each[0]
        # A caller that only calls has the cost of what it calls: it is said once, of the deepest.
        cost = unit.entry(unit.estimates.before), unit.entry(unit.estimates.after)
        if cost not in costs or str(unit.frame) in by_frame:
            by_frame.setdefault(str(unit.frame), each)
        costs.add(cost)
    chosen = sorted(
        by_frame.values(),
        key=lambda each: (
            -(each[0].entry(each[0].estimates.after) - each[0].entry(each[0].estimates.before))
        ),
    )
    notes = []
    seconds = min(side.seconds for side in columns.evidence.sides)
    for unit, rule, answer in chosen[:SHOWN_NOTES]:
        found = change(unit.estimates, unit.row)
        factor = _more(unit, rule, answer)
        cure = (
            f"about {duration(seconds * factor * 1e9)} a side, in more processes, would settle it"
            if factor <= 100  # noqa: PLR2004 - nobody records that long
            else "it is too close to the limit to be settled by recording longer"
        )
        name = "the benchmark itself" if unit.frame == TOTAL else str(unit.frame)
        grew = f"grew by {percent(found.growth)} %" if found.before_ns else "is new"
        if answer.certainty < rule.certainty:
            doubt = f"that is only {np.floor(answer.certainty * 100):.0f} % certain"
        else:
            doubt = (
                "noise can still do that in one build of many"
                if answer.agreed
                else "only as a share of the benchmark: something else may have shrunk"
            )
        notes.append(
            Note(
                "not-certain",
                f"{name} probably {grew}, limit {answer.limit}, but {doubt}; {cure}",
                diff.benchmark,
            )
        )
    if len(chosen) > SHOWN_NOTES:
        rest = len(chosen) - SHOWN_NOTES
        notes.append(
            Note("not-certain", f"{rest} more may have grown past their limit", diff.benchmark)
        )
    return notes


def _more(unit: Unit, rule: Rule, answer: Answer) -> float:
    """Return how many times as long a recording would be sure, if the estimate is right."""
    degrees = unit.entry(unit.estimates.degrees)
    error = unit.entry(unit.estimates.standard_error)
    needed = float(noise.critical(degrees, unit.alpha)) + 0.84  # 80 % power
    factor = (needed / max(abs(unit.entry(unit.estimates.t)), 1e-3)) ** 2
    if np.isfinite(answer.margin):
        asked = float(noise.quantile(degrees, rule.certainty)) + 0.84
        factor = max(factor, (asked * error / max(answer.margin, 1e-9)) ** 2)
    return max(factor, 1.1)


def renames(diff: BenchmarkDiff) -> list[str]:
    """Return what to say of functions that have another name now, the largest first."""
    names = {str(after): str(before) for after, before in diff.renamed.items()}
    costs = {
        name: each.total.after_ns
        for each in (diff.frames if names else ())
        if (name := str(each.frame)) in names
    }
    ordered = sorted(names, key=lambda name: (-costs.get(name, 0.0), name))
    told = [
        f"{name} was {names[name]} (same callers, callees or name, about its cost): compared as one"
        for name in ordered[:SHOWN_NOTES]
    ]
    if len(ordered) > SHOWN_NOTES:
        told.append(f"{len(ordered) - SHOWN_NOTES} more functions have another name or module now")
    return told


def circumstances(diff: BenchmarkDiff, family: Family) -> list[Note]:
    """Return notes on what weakens this comparison."""
    columns = family.columns
    notes = []
    if max(diff.lost) >= NOTED_LOST:
        notes.append(Note("lost", _lost(diff), diff.benchmark))
    if diff.anchor == "shares":
        # Imported files may hold nothing but shares; then no clock has moved.
        moved = columns.clock.raw_shift
        told = f" (CPU time per iteration moved by {np.expm1(moved) * 100:+.0f} %)" if moved else ""
        notes.append(
            Note(
                "shares-only",
                "no reference work and no broad mix of functions: only shares of the benchmark"
                " were compared, uniform growth cannot be seen, and the machine's speed is"
                f" unknown{told}",
                diff.benchmark,
            )
        )
    elif diff.anchor == "functions":
        notes.append(
            Note(
                "no-references",
                "no reference work: the machine's speed was taken from the functions themselves,"
                " so growth of most of them together cannot be seen",
                diff.benchmark,
            )
        )
    elif diff.anchor.startswith("given"):
        notes.append(Note("given-clock", _given(diff, family), diff.benchmark))
    if min(diff.processes_before, diff.processes_after) == 1:
        both = diff.processes_before == diff.processes_after
        spread = noise.UNSEEN_WAIT_SPREAD if columns.waiting else noise.UNSEEN_SPREAD
        assumed = f"; {spread * 100:.0f} % was assumed instead" if both else ""
        notes.append(
            Note(
                "one-process",
                "one process on a side: how much processes differ (memory layout, hash seed,"
                f" the machine's mood) was not measured there{assumed}",
                diff.benchmark,
            )
        )
    return notes


def unseen(verdicts: Sequence[BenchmarkVerdict]) -> list[Note]:
    """Return one note where benchmarks passed that could not have seen growth near their limit.

    Several times the limit (`FAR_BEYOND`), and half or more: a PASS of that kind must not look
    like any other.
    """
    passed = [
        each
        for each in verdicts
        if each.outcome is Outcome.PASS and not each.left_out and each.diff is not None
    ]
    blind: list[tuple[float, BenchmarkVerdict, float]] = []
    for each in passed:
        shares = [r.max_growth.share for r in each.rules if r.max_growth]
        limits = [share for share in shares if share is not None]
        seen = each.smallest_visible
        if limits and seen is not None and seen >= max(FAR_BEYOND * min(limits), HALF):
            blind.append((seen, each, min(limits)))
    if not blind:
        return []
    seen, worst_of, limit = max(blind, key=lambda one: one[0])
    others = f" and {len(blind) - 1} more" if len(blind) > 1 else ""
    return [
        Note(
            "unseen",
            f"{worst_of.benchmark}{others} passed and could not see much: growth below"
            f" {percent(seen)} % may have gone unnoticed, the limit is {percent(limit)} %; record"
            " longer (record: {processes, seconds}) or on a quieter machine",
        )
    ]


def _given(diff: BenchmarkDiff, family: Family) -> str:
    """Return what CPU time per iteration was good for, where only the import tells it."""
    clock, whole = family.columns.clock, family.columns.estimates
    error, degrees = float(whole.standard_error[0]), float(whole.degrees[0])
    if diff.anchor != "given":  # only what the clock alone can tell from a machine is seen so
        error = clock.raw_error
        degrees = RAW_DEGREES + diff.processes_before + diff.processes_after - 2
    seen = float(noise.visible_growth(error, degrees, family.least))
    moved = f"CPU time per iteration moved by {np.expm1(clock.raw_shift) * 100:+.0f} %"
    if diff.anchor == "given":
        how = "all costs are compared as they were recorded, the machine's part included"
    else:
        how = (
            "no more than machines make of the same code, and taken for that: functions are"
            " compared with each other"
        )
    large = f"from {percent(seen)} % on" if seen < TENFOLD else "at no size"
    return (
        f"no reference work: {moved}, {how}; growth of all of them together is noticed {large},"
        " and more files a side lower that"
    )


def blind_to(family: Family, seen: float | None, benchmark: str) -> Note:
    """Return what this comparison could have seen, and to what it was blind."""
    columns = family.columns
    if not family.rules:
        return Note("blind", "no rule limits growth here", benchmark)
    if not family.judges():
        words = "no rule on growth names a function here that is large enough to be judged"
        return Note("blind", words, benchmark)
    where = (
        "waits over 5 % of the waiting"
        if columns.waiting
        else ("functions over 5 % of the benchmark")
    )
    if seen is None:
        large = f"blind to any growth in {where}"
    else:
        large = (
            f"growth of {percent(seen)} % or more in {where} would be noticed, 4 times of 5 at that"
            " size"
        )
    if columns.waiting:
        return Note("blind", large, benchmark)
    return Note("blind", f"{large}; {_blind_to_small(family)}", benchmark)


def _blind_to_small(family: Family) -> str:
    """Return what can hide in functions of one to five percent."""
    columns = family.columns
    estimates, rows = columns.estimates, np.arange(1, 1 + columns.functions)
    share = estimates.samples_before[rows] / max(estimates.samples_before[0], 1.0)
    chosen = (share >= SMALL_SHARE) & (share < VISIBLE_SHARE) & (estimates.samples_after[rows] > 0)
    if chosen.any():
        growth = float(
            visible_growth(
                columns,
                estimates.standard_error[rows[chosen]],
                estimates.degrees[rows[chosen]],
                share[chosen],
                family.own_alpha()[chosen],
            ).max()
        )
        count = int(chosen.sum())
        where = f"in {count} smaller {'one' if count == 1 else 'ones'} of 1 % or more"
    else:
        growth = visible_at(columns, SMALL_SHARE, family.least)
        where = "in one of 1 %"
    return f"blind below {percent(growth)} % {where}" if growth < TENFOLD else f"blind {where}"
