"""Stage 5, pure: what exact counts say of a finding, and rules that limit them.

    - {metric: bytecodes, max_growth: 0%}
    - {metric: calls, frames: ["shop.db:*"], max: 20}

Counts have no noise, so that no statistics are needed: growth past the limit fails, whatever it
cost. Where they are not the same in all processes, nothing is claimed and nothing judged.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from math import inf, isfinite
from typing import Final

from ci_flame.diff.columns import NOTHING, FrameChange
from ci_flame.diff.counts import LEAST_PROCESSES, Counts, Side, Work
from ci_flame.judge.metrics import Judged
from ci_flame.policy import Policy, Rule, Severity, matches_name
from ci_flame.profile import TOTAL, Frame
from ci_flame.profile.counts import Count
from ci_flame.verdict import Figure, Finding, Note, Outcome, Sort, limit_text, percent

Below = Callable[[Frame, Frame], bool]
"""Of a caller and a function: whether it may run below it."""
ALIKE: Final = 0.5
"""Share of the growth in time that bytecodes must have grown by to be called the reason."""


def told(work: Work | None, *, own: bool, growth: float) -> str:
    """Return what a finding's counts say beside its growth in time; empty: nothing.

    `own`: the finding is about own cost. Bytecodes are not cost: these words explain.
    """
    if work is None:
        return ""
    one, other = (_bytecodes(count, own=own) for count in (work.before, work.after))
    if one is None or other is None:
        return _calls_only(work, own=own)
    calls = _calls(work.before.calls, work.after.calls)
    if one == other:
        same = "Same bytecodes and calls"
        said = same if work.before.calls == work.after.calls else f"Same bytecodes, {calls}"
        return f"{said}: dearer work, or time in C below it."
    if not one:
        return f"New work: {other:,} bytecodes in {_plural(work.after.calls, 'call')}."
    return _other_work(one, other, calls, growth)


def _other_work(one: int, other: int, calls: str, growth: float) -> str:
    """Return the words for bytecodes that changed."""
    share = other / one - 1
    figure = f"{percent(share)} % more" if share > 0 else f"{percent(-share)} % fewer"
    if float(percent(abs(share))) == 0:
        figure = f"{one:,} -> {other:,}"
    said = f"{figure} bytecodes, {calls}"
    if share < 0:
        return f"Dearer work, though less of it: {said}."
    if isfinite(growth) and share < ALIKE * growth * (1 - 1e-9):
        return f"More work, and dearer: {said}."
    return f"More work: {said}."


def _bytecodes(count: Count, *, own: bool) -> int | None:
    return count.bytecodes if own else count.total_bytecodes


def _calls(before: int, after: int) -> str:
    """Return `calls 1,200 -> 1,560`, or `same calls (12)`."""
    return f"same calls ({after:,})" if before == after else f"calls {before:,} -> {after:,}"


def _calls_only(work: Work, *, own: bool) -> str:
    """Return what calls say where bytecodes are unknown (Python 3.11)."""
    if work.before.bytecodes is not None or work.after.bytecodes is not None:
        return ""  # there are bytecodes, and those of its callees are unsteady
    before, after = work.before, work.after
    sums = (before.calls, after.calls) if own else (before.total_calls, after.total_calls)
    if sums[0] is None or sums[1] is None:
        return ""
    if not sums[0]:
        return f"New: {_plural(after.calls, 'call')}."
    if sums[0] == sums[1] and before.calls == after.calls:
        below = "" if own else ", of its callees too"
        return f"Same calls{below} (bytecodes need Python 3.12)."
    more = "More" if sums[1] > sums[0] else "Fewer" if sums[1] < sums[0] else "Other"
    said = f"{more} calls: {before.calls:,} -> {after.calls:,}"
    if not own and sums != (before.calls, after.calls):
        said += f", {sums[0]:,} -> {sums[1]:,} with those of its callees"
    return f"{said}."


def _plural(number: int, noun: str) -> str:
    return f"{number:,} {noun}" + ("" if number == 1 else "s")


def notes(counts: Counts | None, benchmark: str) -> list[Note]:
    """Return why a benchmark that should have been counted was not; nobody asked: nothing."""
    reason = "" if counts is None else counts.after.left_out
    if not reason:
        return []
    return [Note("no-counts", f"bytecodes and calls were not counted: {reason}", benchmark)]


# -- rules ----------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class _Row:
    """One function, or the whole benchmark, as a rule reads it."""

    frame: Frame
    before: int | None
    """None: there is no before side."""
    after: int
    grew_itself: bool
    """Own counts grew; False: only those of its callees, where the rule reads both."""


def judge(
    counts: Counts | None,
    policy: Policy,
    benchmark: str,
    mode: str,
    *,
    frames: Sequence[FrameChange] = (),
    below: Below = lambda _caller, _callee: True,
) -> Judged:
    """Judge every rule on bytecodes and calls that is about this benchmark.

    `frames` tell where functions are, `below` whether one may run below another. A rule that
    cannot be judged makes the benchmark INCONCLUSIVE (WARN, if it only warns), with the reason.
    """
    if counts is None:
        return Judged()
    findings: list[Finding] = []
    notes: list[Note] = []
    doubtful: list[Severity] = []
    rules = [r for r in policy.rules if r.is_exact and matches_name(r.benchmarks, benchmark)]
    # Thousands of functions are made into values here, for rules alone.
    known = {each.frame: each for each in (frames if rules else ())}
    for rule in rules:
        doubt = _doubt(rule, counts)
        if not doubt:
            broken = [made for row in _rows(rule, counts) for made in _over(rule, row, counts)]
            findings += [
                _finding(rule, figure, row.frame, known.get(row.frame), (benchmark, mode))
                for row, figure in _causes(rule, broken, below)
            ]
            doubt = _unsteady(rule, counts)
        if doubt:
            doubtful.append(rule.severity)
            words = f"the rule {rule.place} on {rule.metric} cannot be judged: {doubt}"
            notes.append(Note("counts-missing", words, benchmark))
    outcome = Outcome.PASS
    if doubtful:
        outcome = Outcome.INCONCLUSIVE if Severity.FAIL in doubtful else Outcome.WARN
    said = dict.fromkeys(notes)
    return Judged(tuple(findings), tuple(said), outcome)


def _doubt(rule: Rule, counts: Counts) -> str:
    """Return why nothing of the rule can be judged; empty: it can."""
    after = counts.after
    if not after.processes:
        return after.left_out or "nothing was counted in this run"
    if rule.max_growth is not None and counts.trouble:
        return counts.trouble
    sides = [after] if rule.max_growth is None or counts.before is None else [counts.before, after]
    fewest = min(side.processes for side in sides)
    if fewest < LEAST_PROCESSES:
        return (
            f"{_plural(fewest, 'process')} counted on a side;"
            f" {LEAST_PROCESSES} are needed to know that counts are always the same"
        )
    if rule.metric == "bytecodes" and not any(c.bytecodes for c in after.counts.values()):
        return f"Python {after.python} counts calls only, bytecodes need 3.12"
    return ""


def _unsteady(rule: Rule, counts: Counts) -> str:
    """Return which functions of the rule differ from process to process."""
    found: set[Frame] = set()
    whole = False
    sides = [side for side in (_before(rule, counts), counts.after) if side is not None]
    for side in sides:
        found |= {frame for frame in side.unsteady if rule.matches_frame(frame)}
        whole |= rule.matches_frame(TOTAL) and side.total is None
        if not rule.self_only and rule.metric == "bytecodes":
            found |= {
                frame
                for frame, count in side.counts.items()
                if count.total_bytecodes is None and count.calls and rule.matches_frame(frame)
            }
    if whole and not found:
        found = {frame for side in sides for frame in side.unsteady}
    if not found and not whole:
        return ""
    names = sorted(map(str, found))
    shown = ", ".join(names[:3]) + (f" and {len(names) - 3} more" if len(names) > 3 else "")  # noqa: PLR2004
    return f"counts of {shown} differ between processes or iterations of the same code"


def _before(rule: Rule, counts: Counts) -> Side | None:
    """Return the side that growth is growth of; a `max` is about the after side alone."""
    return None if rule.max_growth is None else counts.before


def _rows(rule: Rule, counts: Counts) -> Iterator[_Row]:
    """Give what the rule names: functions by name, then the benchmark itself."""
    before, after = _before(rule, counts), counts.after
    frames = set(after.counts) | (set(before.counts) if before is not None else set())
    for frame in sorted(frames):
        if not rule.matches_frame(frame):
            continue
        now, earlier = after.of(frame), None if before is None else before.of(frame)
        if now is None or (before is not None and earlier is None):
            continue
        yield from _row(rule, frame, earlier, now)
    if rule.matches_frame(TOTAL) and after.total is not None:
        yield from _row(rule, TOTAL, None if before is None else before.total, after.total)


def _row(rule: Rule, frame: Frame, before: Count | None, after: Count) -> Iterator[_Row]:
    value, earlier = _value(rule, after), None if before is None else _value(rule, before)
    if value is None or (before is not None and earlier is None):
        return
    own, own_before = _own(rule, after), 0 if before is None else _own(rule, before)
    yield _Row(frame, earlier, value, own > own_before)


def _value(rule: Rule, count: Count) -> int | None:
    """Return the figure that a rule limits: bytecodes with callees, or the function's calls."""
    if rule.metric == "calls":
        return count.calls
    return count.bytecodes if rule.self_only else count.total_bytecodes


def _own(rule: Rule, count: Count) -> int:
    return count.calls if rule.metric == "calls" else count.bytecodes or 0


def _over(rule: Rule, row: _Row, counts: Counts) -> Iterator[tuple[_Row, Figure]]:
    """Give the figure of a row that is past the rule's limit."""
    processes = (
        counts.after.processes,
        0 if counts.before is None else counts.before.processes,
    )
    if rule.maximum is not None and row.after > rule.maximum:
        limit = f"{rule.maximum:,.15g}"
        yield row, Figure(rule.metric, row.after, None, *processes, limit, rule.maximum)
        return
    limit_share = None if rule.max_growth is None else rule.max_growth.share
    if limit_share is None or row.before is None or row.after <= row.before:
        return
    if not row.before:
        whole = _whole(rule, counts.after)
        if whole and row.after > rule.min_impact * whole:
            limit = f"what is new may make {limit_text(share=rule.min_impact)}"
            yield row, Figure(rule.metric, row.after, 0, *processes, limit, row.after / whole)
    elif _breaks(rule, row.after - row.before, row.before):
        limit = limit_text(share=limit_share)
        yield row, Figure(rule.metric, row.after, row.before, *processes, limit, limit_share)


def _whole(rule: Rule, side: Side) -> int:
    """Return the benchmark's sum, as far as it is known."""
    return sum(_own(rule, count) for count in side.counts.values())


def _causes(
    rule: Rule, broken: list[tuple[_Row, Figure]], below: Below
) -> list[tuple[_Row, Figure]]:
    """Keep those that grew themselves, and others whose growth these do not explain."""
    growing = [each for each in broken if each[1].before is not None]
    kept = [each for each in growing if each[0].grew_itself and each[0].frame != TOTAL]
    others = [each for each in growing if each not in kept]
    # The least growth first: what called it grew by as much, or more, and is larger.
    for each in sorted(others, key=lambda e: (-_by(e[0]), e[0].after, e[0].frame)):
        told = -sum(_by(one[0]) for one in kept if below(each[0].frame, one[0].frame))
        if _breaks(rule, -_by(each[0]) - told, each[0].before or 0):
            kept.append(each)
    kept += [each for each in broken if each[1].before is None]
    return sorted(kept, key=lambda each: (_by(each[0]), each[0].frame))


def _breaks(rule: Rule, growth: float, before: int) -> bool:
    """Tell whether growth of so much alone would be past the rule's limit."""
    share = 0.0 if rule.max_growth is None else rule.max_growth.share or 0.0
    # Whole numbers: a limit of 2 % is not passed by 1,020 after 1,000.
    return growth > share * before * (1 + 1e-12)


def _by(row: _Row) -> float:
    return -(row.after - row.before) if row.before is not None else -inf


def _finding(
    rule: Rule,
    figure: Figure,
    frame: Frame,
    here: FrameChange | None,
    of: tuple[str, str],
) -> Finding:
    """Return the finding on one function; `of` is the benchmark and its mode."""
    return Finding(
        benchmark=of[0],
        mode=of[1],
        frame=frame,
        path=here.path if here is not None else (frame,),
        change=here.total if here is not None else NOTHING,
        outcome=Outcome.FAIL if rule.severity is Severity.FAIL else Outcome.WARN,
        rule=rule,
        limit=figure.limit,
        self_only=rule.self_only or rule.metric == "calls",
        certainty=1.0,
        place=here.place if here is not None else None,
        sort=Sort.COUNT,
        figure=figure,
    )
