"""Stage 5, pure: what changed + what the policy allows -> the verdict.

A cost fails where its growth is real (told from no growth at all, family-wise over the whole
build), is past the rule's limit with the certainty that the rule asks for, and matters to the
benchmark (`min_impact`). Everything else that a reader must know is a note.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Final

import numpy as np

from ci_flame import noise
from ci_flame.diff import (
    NOMINAL_FALSE_FAILURES,
    BenchmarkDiff,
    Columns,
    RunDiff,
    change,
    smallest_visible,
    visible_at,
)
from ci_flame.judge import budgets
from ci_flame.judge.causes import Broken, deepest, explained_by
from ci_flame.judge.family import Unit, close, units_of
from ci_flame.judge.moved import Move, moves
from ci_flame.policy import Policy, Rule, Severity, gates_total
from ci_flame.profile import TOTAL, Measurement, Mode, Run
from ci_flame.verdict import (
    BenchmarkVerdict,
    Finding,
    Note,
    Outcome,
    Verdict,
    duration,
    limit_text,
    percent,
    worst,
)

LEAST_SAMPLES: Final = 200
"""A side; with fewer, a function of 5 % has not ten samples."""
NOT_CERTAIN_Q: Final = 0.05
"""False discovery rate of the notes about growth that is likely but not sure."""
SHOWN_NOTES: Final = 3
ABSENT: Final = frozenset({"new-benchmark", "no-baseline"})
"""Notes of `judge_alone` that mean there was nothing to compare with."""


@dataclass(frozen=True, slots=True)
class _Answer:
    """What one rule says of one cost."""

    over: bool
    """The estimate is past the limit and matters."""
    certainty: float
    limit: str
    margin: float
    """ln distance of the estimate from the limit."""
    agreed: bool = True
    """False: only shares were compared, and the raw clock does not surely say the same."""


def _ask(rule: Rule, unit: Unit, diff: BenchmarkDiff, columns: Columns) -> _Answer:
    """Compare one cost's growth with the rule's limit; several limits: the nearest counts."""
    limit = rule.max_growth
    estimates = unit.estimates
    before, after = unit.entry(estimates.before), unit.entry(estimates.after)
    nearest, text = np.inf, "none"
    if limit is not None and limit.share is not None:
        nearest, text = float(np.log1p(limit.share)), limit_text(share=limit.share)
    if limit is not None and limit.ns is not None:
        # What is new has no cost to add the limit to: its whole cost is compared.
        absolute = float(np.log1p(limit.ns / before)) if before else float(np.log(limit.ns / after))
        if absolute < nearest:
            nearest, text = absolute, limit_text(ns=limit.ns)
    log_ratio = unit.entry(estimates.log_ratio)
    error, degrees = unit.entry(estimates.standard_error), unit.entry(estimates.degrees)
    if not before and limit is not None and limit.share is None:
        log_ratio = 0.0
        error = float(
            np.sqrt(unit.entry(estimates.dispersion) / unit.entry(estimates.samples_after))
        )
    certainty = float(noise.probability_above(log_ratio, error, degrees, nearest))
    agreed = True
    if diff.anchor == "shares" and np.isfinite(log_ratio):
        # A share also grows where another shrinks; the raw clock must agree that it did.
        clock = columns.clock
        raw, raw_error = log_ratio + clock.raw_shift, np.hypot(error, clock.raw_error)
        sure = float(noise.probability_above(raw, raw_error, degrees, nearest))
        agreed = sure >= 1 - NOMINAL_FALSE_FAILURES
    impact = (after - before) / float(estimates.before[0])
    return _Answer(
        bool(log_ratio > nearest and impact >= rule.min_impact and after > before),
        certainty,
        text,
        log_ratio - nearest,
        agreed,
    )


def _rules_for(unit: Unit, rules: Sequence[Rule]) -> list[Rule]:
    """Return the rules that judge this cost."""
    if unit.rule is not None:
        return [unit.rule]
    if unit.frame == TOTAL:
        return [rule for rule in rules if gates_total(rule)]
    return [rule for rule in rules if rule.matches_frame(unit.frame)]


def _judged_by(unit: Unit, rule: Rule, leaves: frozenset[int]) -> bool:
    """Tell whether the rule reads this cost: own or total, as it says; paths always."""
    if unit.mask is not None or unit.frame == TOTAL:
        return True
    if rule.self_only:
        return unit.own
    return not unit.own or unit.function in leaves


def judge_benchmark(diff: BenchmarkDiff, policy: Policy, *, family: int) -> BenchmarkVerdict:
    """Judge one benchmark; `family` is the number of benchmarks selected in this build.

    The same benchmark gets the same verdict wherever it is judged, because its part of the
    build's false failures depends on nothing but the policy and `family`.
    """
    columns = diff.columns
    rules = [rule for rule in policy.rules if rule.applies_to(diff.benchmark, diff.mode)]
    notes = [Note("recording", text, diff.benchmark) for text in diff.notes]
    found: list[Finding] = []
    if columns is not None:
        found += budgets.judge(columns, rules, diff.benchmark, diff.mode)
    short = _too_short(diff)
    if columns is None or short is not None:
        notes[:0] = [short] if short else []
        return _finish(diff, policy, found, notes, outcome=Outcome.INCONCLUSIVE)

    level = policy.false_failures_per_build / max(family, 1)
    growth = [rule for rule in rules if rule.max_growth is not None]
    units = units_of(columns, growth)
    close(units, level)
    broken, unsure, moved = _apply(units, growth, diff, columns, level)
    kept = deepest(broken, columns)
    found += [_finding(each, diff, columns) for each in kept]
    unsure = [each for each in unsure if not explained_by(each[0], kept, columns)]
    notes += [Note("moved", str(move), diff.benchmark) for move in moved]
    notes += _not_certain(unsure, diff, columns)
    notes += _hidden(units, growth, kept, diff, columns)
    notes += _circumstances(diff, columns)
    tests = next((unit.level / unit.tests for unit in units if unit.group == "own"), level)
    seen = smallest_visible(columns, tests)
    verdict = _finish(diff, policy, found, notes, seen=seen)
    if verdict.outcome is Outcome.PASS:
        blind = _blind(columns, tests, seen, diff.benchmark, growth)
        return replace(verdict, notes=(*verdict.notes, blind))
    return verdict


def _apply(
    units: Sequence[Unit],
    rules: Sequence[Rule],
    diff: BenchmarkDiff,
    columns: Columns,
    level: float,
) -> tuple[list[Broken], list[tuple[Unit, Rule, _Answer]], list[Move]]:
    """Return what broke a rule, what may have, and what only moved."""
    totals = {unit.function for unit in units if unit.group == "total"}
    leaves = frozenset(u.function for u in units if u.group == "own" and u.function not in totals)
    shifted = moves(units, columns, level)
    q_values = noise.benjamini_hochberg(np.array([unit.growth_p for unit in units]))
    broken: list[Broken] = []
    unsure: list[tuple[Unit, Rule, _Answer]] = []
    told: dict[str, Move] = {}
    for unit, q_value in zip(units, q_values.tolist(), strict=True):
        for rule in _rules_for(unit, rules):
            if not _judged_by(unit, rule, leaves):
                continue
            answer = _ask(rule, unit, diff, columns)
            if not answer.over:
                continue
            move = shifted.get(unit.function) if unit.mask is None else None
            if move is not None and not move.breaks(rule):
                told[str(move.frame)] = move
            elif unit.real and answer.agreed and answer.certainty >= rule.certainty:
                fails = rule.severity is Severity.FAIL
                broken.append(Broken(unit, rule, answer.certainty, answer.limit, fails))
            elif q_value <= NOT_CERTAIN_Q:
                unsure.append((unit, rule, answer))
    return broken, unsure, list(told.values())


def _hidden(
    units: Sequence[Unit],
    rules: Sequence[Rule],
    kept: Sequence[Broken],
    diff: BenchmarkDiff,
    columns: Columns,
) -> list[Note]:
    """Return notes on own cost that surely grew past a limit that reads cost with callees."""
    notes = []
    totals = {unit.function: unit for unit in units if unit.group == "total"}
    for unit in units:
        whole = totals.get(unit.function)
        if unit.group != "own" or whole is None or not unit.real:
            continue
        for rule in _rules_for(unit, rules):
            answer = _ask(rule, unit, diff, columns)
            if rule.self_only or not answer.over or answer.certainty < rule.certainty:
                continue
            if explained_by(unit, kept, columns):
                continue
            own, total = change(unit.estimates, unit.row), change(whole.estimates, whole.row)
            notes.append(
                Note(
                    "own-cost",
                    f"own cost of {unit.frame} grew by {percent(own.growth)} %, with its callees"
                    f" by {percent(total.growth)} %; limit {answer.limit} with callees"
                    " (`self: true` judges own cost)",
                    diff.benchmark,
                )
            )
            break
    return notes


def _finding(each: Broken, diff: BenchmarkDiff, columns: Columns) -> Finding:
    unit = each.unit
    return Finding(
        benchmark=diff.benchmark,
        mode=diff.mode,
        frame=unit.frame,
        path=unit.path,
        change=change(unit.estimates, unit.row),
        outcome=Outcome.FAIL if each.fails else Outcome.WARN,
        rule=each.rule,
        limit=each.limit,
        self_only=each.rule.self_only or (unit.own and unit.mask is not None),
        certainty=each.certainty,
        place=columns.places.get(unit.frame),
        under=unit.under if unit.mask is not None else "",
        cause=each.cause,
    )


def _finish(
    diff: BenchmarkDiff,
    policy: Policy,
    found: Sequence[Finding],
    notes: Sequence[Note],
    *,
    outcome: Outcome = Outcome.PASS,
    seen: float | None = None,
) -> BenchmarkVerdict:
    """Apply the waivers and give the worst outcome."""
    kept, more = _waive(found, policy)
    outcome = worst([outcome, *(finding.outcome for finding in kept)])
    return BenchmarkVerdict(
        diff.benchmark, diff.mode, outcome, tuple(kept), (*more, *notes), diff, seen
    )


def _waive(found: Sequence[Finding], policy: Policy) -> tuple[list[Finding], list[Note]]:
    """Return the findings that count, and a note for each that a waiver touches."""
    kept: list[Finding] = []
    notes: list[Note] = []
    for finding in found:
        covering = [w for w in policy.waivers if w.covers(finding.benchmark, finding.path)]
        valid = [waiver for waiver in covering if not waiver.expired(policy.today)]
        if valid:
            waiver = max(valid, key=lambda each: each.until)
            text = f"waived until {waiver.until.isoformat()} ({waiver.reason}): {finding}"
            notes.append(Note("waived", text, finding.benchmark))
            continue
        kept.append(finding)
        for waiver in covering:
            where = f" ({waiver.place})" if waiver.place else ""
            notes.append(
                Note(
                    "waiver-expired",
                    f"the waiver of {finding.frame}{where} ended on {waiver.until.isoformat()};"
                    " it fails again",
                    finding.benchmark,
                )
            )
    return kept, notes


def _too_short(diff: BenchmarkDiff) -> Note | None:
    """Return the note about a benchmark that was not sampled often enough, or None."""
    columns = diff.columns
    if columns is None:
        which = " and ".join(
            name
            for name, count in (("before", diff.processes_before), ("after", diff.processes_after))
            if not count
        )
        return Note("too-short", f"no samples {which}: nothing to judge", diff.benchmark)
    sides = columns.evidence.sides
    counts = [float(side.total.sum()) for side in sides]
    if min(counts) >= LEAST_SAMPLES:
        return None
    side = sides[int(np.argmin(counts))]
    needed = side.seconds * LEAST_SAMPLES / max(min(counts), 1.0)
    return Note(
        "too-short",
        f"too short to judge: {counts[0]:.0f} samples before and {counts[1]:.0f} after, at least"
        f" {LEAST_SAMPLES} on each side are needed; that is {duration(needed * 1e9)} of the"
        f" benchmark on each side, {duration(side.seconds * 1e9)} were recorded",
        diff.benchmark,
    )


def _not_certain(
    unsure: Sequence[tuple[Unit, Rule, _Answer]], diff: BenchmarkDiff, columns: Columns
) -> list[Note]:
    """Return notes on growth that is probably past its limit, largest first, deepest only."""
    by_frame: dict[str, tuple[Unit, Rule, _Answer]] = {}
    for each in sorted(unsure, key=lambda one: (-one[0].depth, str(one[0].frame))):
        by_frame.setdefault(str(each[0].frame), each)
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


def _more(unit: Unit, rule: Rule, answer: _Answer) -> float:
    """Return how many times as long a recording would be sure, if the estimate is right."""
    degrees = unit.entry(unit.estimates.degrees)
    error = unit.entry(unit.estimates.standard_error)
    needed = float(noise.critical(degrees, unit.level / unit.tests)) + 0.84  # 80 % power
    factor = (needed / max(abs(unit.entry(unit.estimates.t)), 1e-3)) ** 2
    if np.isfinite(answer.margin):
        asked = float(noise.quantile(degrees, rule.certainty)) + 0.84
        factor = max(factor, (asked * error / max(answer.margin, 1e-9)) ** 2)
    return max(factor, 1.1)


def _circumstances(diff: BenchmarkDiff, columns: Columns) -> list[Note]:
    """Return notes on what weakens this comparison."""
    notes = []
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
    if min(diff.processes_before, diff.processes_after) == 1:
        both = diff.processes_before == diff.processes_after
        assumed = f"; {noise.UNSEEN_SPREAD * 100:.0f} % was assumed instead" if both else ""
        notes.append(
            Note(
                "one-process",
                "one process on a side: how much processes differ (memory layout, hash seed,"
                f" the machine's mood) was not measured there{assumed}",
                diff.benchmark,
            )
        )
    return notes


def _blind(
    columns: Columns, level: float, seen: float | None, benchmark: str, rules: Sequence[Rule]
) -> Note:
    """Return what a PASS could not have seen."""
    if not rules:
        return Note("blind", "no rule limits growth here", benchmark)
    small = visible_at(columns, 0.01, level)
    large = "any growth" if seen is None else f"growth under {percent(seen)} %"
    tiny = f"under {percent(small)} %" if small < 9.0 else "of any size"  # noqa: PLR2004
    return Note(
        "blind",
        f"blind to {large} of own cost in functions of 5 % of the benchmark or more, and to"
        f" growth {tiny} in one of 1 %",
        benchmark,
    )


def judge_alone(
    measurement: Measurement, mode: Mode, policy: Policy, note: Note
) -> BenchmarkVerdict:
    """Judge a benchmark that has nothing to be compared with; its budgets still hold.

    `note` says why: `new-benchmark` and `no-baseline` give NO_BASELINE, others INCONCLUSIVE.
    """
    rules = [rule for rule in policy.rules if rule.applies_to(measurement.benchmark, str(mode))]
    found, kept_notes = _waive(budgets.judge_alone(measurement, mode, rules), policy)
    outcome = Outcome.NO_BASELINE if note.slug in ABSENT else Outcome.INCONCLUSIVE
    outcome = worst([outcome, *(finding.outcome for finding in found)])
    note = note if note.benchmark else replace(note, benchmark=measurement.benchmark)
    return BenchmarkVerdict(
        measurement.benchmark, str(mode), outcome, tuple(found), (note, *kept_notes), None
    )


def assemble(
    benchmarks: Iterable[BenchmarkVerdict],
    notes: Iterable[Note],
    diff: RunDiff | None,
    policy: Policy,
    *,
    bias: str = "",
) -> Verdict:
    """Put the build together: the worst benchmark's outcome counts.

    `bias` is what the collector is known to get wrong (`Environment.bias`); it becomes a note.
    """
    verdicts = tuple(benchmarks)
    said = dict.fromkeys((*([Note("bias", bias)] if bias else []), *notes))
    return Verdict(worst(each.outcome for each in verdicts), verdicts, tuple(said), diff, policy)


def judge(diff: RunDiff, policy: Policy, *, after: Run, family: int | None = None) -> Verdict:
    """Judge two runs: benchmarks that both have, and those that only one has.

    Runs that differ in what decides about time (`RunDiff.differences`) are INCONCLUSIVE with
    the differences; only budgets are judged then.
    """
    size = family or len({each.benchmark for each in diff.benchmarks}) or 1
    verdicts = []
    notes = []
    why = None
    if diff.differences:
        why = Note("other-machine", f"not comparable: {'; '.join(diff.differences)}")
        notes.append(why)
    for each in diff.benchmarks:
        measurement = after.measurement(each.benchmark)
        if why is not None and measurement is not None:
            alone = judge_alone(measurement, Mode(each.mode), policy, why)
            verdicts.append(replace(alone, diff=each))
        else:
            verdicts.append(judge_benchmark(each, policy, family=size))
    for name in diff.added:
        measurement = after.measurement(name)
        if measurement is None:
            continue
        new = Note("new-benchmark", "is new: the baseline has nothing to compare with", name)
        verdicts += [
            judge_alone(measurement, mode, policy, new)
            for mode in measurement.modes or (Mode.ON_CPU,)
        ]
        notes.append(new)
    notes += [
        Note("gone-benchmark", "is in the baseline and was not recorded now", name)
        for name in diff.removed
    ]
    return assemble(verdicts, notes, diff, policy, bias=after.environment.bias)
