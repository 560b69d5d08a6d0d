"""Stage 5, pure: suspects of a first recording, and what timing them call by call says.

Sampling finds; the clock of every call tells how much, and whether it was calls or their cost. A
failure that timing surely contradicts becomes a note. It never makes one.
"""

from collections.abc import Iterable
from typing import Final

import numpy as np

from ci_flame.diff import BenchmarkDiff
from ci_flame.diff.counts import Work
from ci_flame.diff.timing import TimedChange
from ci_flame.judge.causes import Broken
from ci_flame.policy import Limit
from ci_flame.profile import TOTAL, Frame, Kind, Mode
from ci_flame.profile.timing import MOST_SUSPECTS
from ci_flame.verdict import BenchmarkVerdict, Note, Outcome, Sort, ends_of, percent

EXCUSED: Final = 0.01
"""A failure is excused where growth past its limit is less probable than this."""
SEEN: Final = (0.75, 1.33)
"""What timing may see of what was sampled, on both sides: with less it timed something else."""
ALIKE: Final = 0.02
"""Change of a call's cost that is not spoken of as one."""


def suspects(verdicts: Iterable[BenchmarkVerdict]) -> dict[str, tuple[Frame, ...]]:
    """Return the functions to time on each side: those of failures, then their nearest callers.

    Callers, because a finding that is excused no longer explains theirs. A function that has
    another name now is called by its own on either side.
    """
    chosen: dict[Frame, Frame] = {}
    failed = [
        finding
        for verdict in verdicts
        if verdict.mode == Mode.ON_CPU
        for finding in sorted(verdict.findings, key=lambda each: each.outcome is not Outcome.FAIL)
        if finding.sort is Sort.GROWTH and finding.change.before_ns
        if not finding.self_only and not finding.under
    ]
    names = {
        after: before
        for verdict in verdicts
        if verdict.diff is not None
        for after, before in verdict.diff.renamed.items()
    }
    of_paths = [reversed(each.path[1:-1]) for each in failed]
    callers = (frame for path in of_paths for frame in path)
    for frame in (*(each.frame for each in failed), *callers):
        if frame.kind is Kind.PYTHON and frame != TOTAL and len(chosen) < MOST_SUSPECTS:
            chosen.setdefault(frame, names.get(frame, frame))
    return {"before": tuple(chosen.values()), "after": tuple(chosen)} if chosen else {}


def change_of(each: Broken, diff: BenchmarkDiff) -> TimedChange | None:
    """Return how what broke a rule was timed; None: it was not, or only a part of it broke it.

    Own cost and calls from one caller are parts: timing reads all calls, with what they call.
    """
    if diff.timings is None or _is_part(each):
        return None
    return diff.timings.change(each.unit.frame, diff.renamed.get(each.unit.frame))


def _is_part(each: Broken) -> bool:
    return each.unit.mask is not None or each.rule.self_only or each.unit.frame == TOTAL


def told(each: Broken, diff: BenchmarkDiff) -> str:
    """Return what timing says beside a finding; empty where nobody asked."""
    timings = diff.timings
    if timings is None or _is_part(each):
        return ""
    change = change_of(each, diff)
    if change is None:
        why = timings.left_out(each.unit.frame, diff.renamed.get(each.unit.frame))
        return f"Not timed directly: {why}." if why else ""
    return f"Timed directly: {_grown(change)}, {_calls(change)}."


def _grown(change: TimedChange) -> str:
    """Return `+29 % (27-31 %)`."""
    sign = "+" if change.growth >= 0 else "-"
    growth = percent(abs(change.growth))
    return f"{sign}{growth} % ({ends_of(change.low, change.high)} %)"


def _calls(change: TimedChange) -> str:
    """Return how the growth splits into calls and the cost of each."""
    one, other = _count(change.calls_before), _count(change.calls_after)
    per_call = change.per_call
    if abs(per_call) < ALIKE:
        each = "each as dear as before"
    else:
        each = f"each {percent(abs(per_call))} % {'dearer' if per_call > 0 else 'cheaper'}"
    if one == other:
        noun = "call" if one == "1" else "calls"
        return f"{one} {noun} as before, {each}"
    return f"calls {one} -> {other}, {each}"


def _count(calls: float) -> str:
    """Return calls per iteration, which need not be whole over many iterations."""
    whole = round(calls)
    return f"{whole:,}" if abs(calls - whole) <= 0.005 * calls else f"{calls:.3g}"


def excused(each: Broken, diff: BenchmarkDiff, work: Work | None) -> bool:
    """Tell whether timing says for sure that this did not grow past its limit.

    It must have timed what was sampled, and exact counts must not have grown past the limit.
    """
    change = change_of(each, diff)
    limit = each.rule.max_growth
    if change is None or limit is None or not change.decides:
        return False
    estimates, row = each.unit.estimates, each.unit.row
    before, after = float(estimates.before[row]), float(estimates.after[row])
    if before <= 0 or after <= 0:
        return False
    seen = (change.before_ns / before, change.after_ns / after)
    if not all(SEEN[0] <= part <= SEEN[1] for part in seen):
        return False
    share = _nearest(limit, before)
    if work is not None and _more_work(work, share):
        return False
    return change.above(share) < EXCUSED


def _nearest(limit: Limit, before_ns: float) -> float:
    """Return the limit as a share of the cost before; of two the nearer counts."""
    shares = [] if limit.share is None else [limit.share]
    if limit.ns is not None:
        shares.append(limit.ns / before_ns)
    return min(shares, default=np.inf)


def _more_work(work: Work, limit: float) -> bool:
    """Tell whether exact counts grew past the limit: then it is dearer, whatever the clock says."""
    for name in ("calls", "bytecodes", "total_calls", "total_bytecodes"):
        one, other = getattr(work.before, name), getattr(work.after, name)
        if one is not None and other is not None and other > one * (1 + limit):
            return True
    return False


def note(each: Broken, diff: BenchmarkDiff) -> Note:
    """Return what is said of a failure that timing excuses."""
    change = change_of(each, diff)
    assert change is not None  # noqa: S101 - it was excused by it
    unit = each.unit
    log_ratio = unit.entry(unit.estimates.log_ratio)
    ends = ends_of(unit.entry(unit.estimates.low), unit.entry(unit.estimates.high))
    return Note(
        "timed",
        f"sampling said {unit.frame} grew by {percent(float(np.expm1(log_ratio)))} % ({ends} %),"
        f" timing it directly says {_grown(change)}, {_calls(change)}; limit {each.limit}:"
        " not a failure",
        diff.benchmark,
    )
