"""Stage 5, pure: what changed + what the policy allows -> the verdict.

A cost fails where its growth is real (told from no growth at all, family-wise over the whole
build), is past the rule's limit with the certainty that the rule asks for, and matters to the
benchmark (`min_impact`). Everything else that a reader must know is a note.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from functools import cache
from typing import Final

import numpy as np

from ci_flame.diff import (
    BenchmarkDiff,
    Columns,
    RunDiff,
    change,
    left_out,
    smallest_visible,
)
from ci_flame.diff.counts import Counts, Work, counts
from ci_flame.diff.figures import collector_notes, figures
from ci_flame.judge import budgets, exact, metrics, timed
from ci_flame.judge.accounts import accounts
from ci_flame.judge.asked import Answer, ask, over
from ci_flame.judge.causes import Broken, deepest, explained_by
from ci_flame.judge.family import TOLD, Family, Unit
from ci_flame.judge.moved import Move, moves
from ci_flame.judge.notes import (
    blind_to,
    circumstances,
    not_certain,
    renames,
    unjudged,
    unseen,
)
from ci_flame.judge.unused import unused
from ci_flame.policy import Policy, Rule, Severity
from ci_flame.profile import TOTAL, Frame, Measurement, Mode, Run
from ci_flame.verdict import (
    BenchmarkVerdict,
    Finding,
    Note,
    Outcome,
    Verdict,
    overall,
    percent,
    worst,
)
from ci_flame.verdict.absent import ABSENT

NOT_CERTAIN_Q: Final = 0.05
"""False discovery rate of the notes about growth that is likely but not sure."""


def judge_benchmark(diff: BenchmarkDiff, policy: Policy, *, family: int) -> BenchmarkVerdict:
    """Judge one benchmark; `family` is the number of benchmarks selected in this build.

    The same benchmark gets the same verdict wherever it is judged, because its part of the
    build's false failures depends on nothing but the policy and `family`.
    """
    columns = diff.columns
    rules = [rule for rule in policy.rules if rule.applies_to(diff.benchmark, diff.mode)]
    notes = [Note("recording", text, diff.benchmark) for text in diff.notes]
    machine = metrics.judge(diff.figures, policy, diff.benchmark, diff.mode, family=family)
    counted = exact.judge(
        diff.counts, policy, diff.benchmark, diff.mode, frames=diff.frames, below=_below(columns)
    )
    found: list[Finding] = [*counted.findings, *machine.findings]
    notes += (*machine.notes, *counted.notes, *exact.notes(diff.counts, diff.benchmark))
    doubt = worst([machine.outcome, counted.outcome])
    if columns is not None:
        found += budgets.judge(columns, rules, diff.benchmark, diff.mode)
    dear = metrics.overhead(diff.own_cost_percent, policy, diff.benchmark)
    why = (dear, Outcome.INCONCLUSIVE) if dear else unjudged(diff)
    if columns is None or why is not None:
        note, outcome = why or (Note("too-short", "nothing to judge"), Outcome.INCONCLUSIVE)
        return _finish(diff, policy, found, [note, *notes], outcome=worst([outcome, doubt]))

    level = policy.false_failures_per_build / max(family, 1)
    growth = [rule for rule in rules if rule.max_growth is not None]
    family_of = Family(columns, growth, level)
    broken, unsure, moved = _apply(family_of, diff)
    kept = deepest(broken, columns)
    excused = [each for each in kept if timed.excused(each, diff, _work(each, diff))]
    if excused:  # what they explained must stand for itself
        notes += [timed.note(each, diff) for each in excused]
        broken = [e for e in broken if not timed.excused(e, diff, _work(e, diff))]
        kept = deepest(broken, columns)
    found += [_finding(each, diff, columns) for each in kept]
    unsure = [each for each in unsure if not explained_by(each[0], kept, columns)]
    notes += [Note("moved", text, diff.benchmark) for text in (*renames(diff), *map(str, moved))]
    notes += not_certain(unsure, diff, columns)
    notes += _hidden(family_of, kept, diff)
    notes += circumstances(diff, family_of)
    seen = smallest_visible(columns, family_of.own_alpha()) if family_of.judges() else None
    notes.append(blind_to(family_of, seen, diff.benchmark))
    verdict = _finish(diff, policy, found, notes, outcome=doubt, seen=seen)
    return replace(verdict, visible=family_of.visible())


def _apply(
    family: Family, diff: BenchmarkDiff
) -> tuple[list[Broken], list[tuple[Unit, Rule, Answer]], list[Move]]:
    """Return what broke a rule, what may have, and what only moved."""
    columns = family.columns
    real = family.adjusted <= family.level
    new = family.estimates.samples_before[1:] == 0
    worth = real | (family.q_values <= NOT_CERTAIN_Q) | new
    passed = [
        np.flatnonzero(family.asked(number) & over(rule, family.estimates, columns)[1:] & worth)
        for number, rule in enumerate(family.rules)
    ]
    witness = diff.counts if diff.mode == Mode.ON_CPU else None
    grown = sorted({index for some in passed for index in some.tolist()})
    shifted = moves(family, grown, witness)
    broken: list[Broken] = []
    unsure: list[tuple[Unit, Rule, Answer]] = []
    told: dict[str, Move] = {}
    for rule, indices in zip(family.rules, passed, strict=True):
        for index in indices.tolist():
            unit = family.unit(index)
            answer = ask(rule, unit, diff, columns)
            move = shifted.get(index)
            if move is not None and not move.breaks(rule):
                told[str(move.frame)] = move
            elif unit.real and answer.agreed and answer.certainty >= rule.certainty:
                fails = rule.severity is Severity.FAIL
                broken.append(Broken(unit, rule, answer.certainty, answer.limit, fails))
            elif family.q_values[index] <= NOT_CERTAIN_Q:
                unsure.append((unit, rule, answer))
    return broken, unsure, list(told.values())


def _hidden(family: Family, kept: Sequence[Broken], diff: BenchmarkDiff) -> list[Note]:
    """Return notes on own cost that surely grew past a limit that reads cost with callees."""
    notes = []
    columns, estimates = family.columns, family.columns.estimates
    surely = np.flatnonzero((family.group == TOLD) & (family.adjusted <= family.level))
    for index in surely.tolist():
        unit = family.unit(index)
        for rule in family.rules:
            if rule.self_only or not rule.matches_frame(unit.frame):
                continue
            answer = ask(rule, unit, diff, columns)
            if not answer.over or answer.certainty < rule.certainty:
                continue
            if explained_by(unit, kept, columns):
                continue
            own = change(unit.estimates, unit.row)
            total = change(estimates, columns.total_row(unit.function))
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
    self_only = each.rule.self_only or (unit.own and unit.mask is not None)
    grown = change(unit.estimates, unit.row)
    work = _work(each, diff)
    return Finding(
        benchmark=diff.benchmark,
        mode=diff.mode,
        frame=unit.frame,
        path=unit.path,
        change=grown,
        outcome=Outcome.FAIL if each.fails else Outcome.WARN,
        rule=each.rule,
        limit=each.limit,
        self_only=self_only,
        certainty=each.certainty,
        place=columns.places.get(unit.frame),
        work=exact.told(work, own=unit.own, growth=grown.growth),
        counted=work,
        timed=timed.told(each, diff),
        timing=timed.change_of(each, diff),
        under=unit.under if unit.mask is not None else "",
        cause=each.cause,
        was=str(diff.renamed.get(unit.frame, "")),
    )


def _below(columns: Columns | None) -> exact.Below:
    """Return what tells whether a function may run below another: by samples, if both have some."""
    if columns is None:
        return lambda _caller, _callee: True
    tree = columns.evidence

    @cache  # of thousands of functions, and hardly ever asked for
    def numbers() -> dict[Frame, int]:
        return {frame: at for at, frame in enumerate(tree.node_all)}

    @cache
    def callees(caller: int) -> frozenset[int]:
        return frozenset(tree.node_frame[tree.below(tree.node_frame == caller)].tolist())

    def below(caller: Frame, callee: Frame) -> bool:
        one, other = numbers().get(caller), numbers().get(callee)
        return one is None or other is None or other in callees(one)

    return below


def _work(each: Broken, diff: BenchmarkDiff) -> Work | None:
    """Return the exact counts of what broke a rule; of some callers only there are none."""
    unit = each.unit
    if diff.counts is None or diff.mode != Mode.ON_CPU or unit.mask is not None:
        return None
    if unit.frame == TOTAL:
        return diff.counts.total
    return diff.counts.work(unit.frame, diff.renamed.get(unit.frame))


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
    kept, waived, more = _waive(found, policy)
    outcome = worst([outcome, *(finding.outcome for finding in kept)])
    told = (*more, *notes)
    return BenchmarkVerdict(
        diff.benchmark,
        diff.mode,
        outcome,
        kept,
        told,
        diff,
        seen,
        diff.figures,
        waived=waived,
        rules=tuple(rule for rule in policy.rules if rule.applies_to(diff.benchmark, diff.mode)),
    )


def _waive(
    found: Sequence[Finding], policy: Policy
) -> tuple[tuple[Finding, ...], tuple[Finding, ...], list[Note]]:
    """Return the findings that count, those waived, and a note for each that a waiver touches."""
    kept: list[Finding] = []
    waived: list[Finding] = []
    notes: list[Note] = []
    for finding in found:
        covering = [w for w in policy.waivers if w.covers(finding.benchmark, finding.path)]
        valid = [waiver for waiver in covering if not waiver.expired(policy.today)]
        if valid:
            waiver = max(valid, key=lambda each: each.until)
            text = f"waived until {waiver.until.isoformat()} ({waiver.reason}): {finding}"
            notes.append(Note("waived", text, finding.benchmark))
            waived.append(replace(finding, waiver=waiver))
            continue
        kept.append(finding)
        again = "fails" if finding.outcome is Outcome.FAIL else "warns"
        for waiver in covering:
            where = f" ({waiver.place})" if waiver.place else ""
            notes.append(
                Note(
                    "waiver-expired",
                    f"the waiver of {finding.frame}{where} ended on {waiver.until.isoformat()};"
                    f" it {again} again",
                    finding.benchmark,
                )
            )
    return tuple(kept), tuple(waived), notes


def judge_alone(
    measurement: Measurement,
    mode: Mode,
    policy: Policy,
    note: Note,
    *,
    both: Counts | None = None,
) -> BenchmarkVerdict:
    """Judge a benchmark that has nothing to be compared with; its budgets still hold.

    `note` says why: `new-benchmark` and `no-baseline` give NO_BASELINE, others INCONCLUSIVE.
    `both` are the exact counts of both sides: no machine is in them, so they are compared.
    """
    rules = [rule for rule in policy.rules if rule.applies_to(measurement.benchmark, str(mode))]
    name = measurement.benchmark
    of_all_modes = figures(None, measurement)
    first = mode in measurement.modes[:1]
    told = of_all_modes if first else None
    alone = replace(policy, rules=tuple(each for each in policy.rules if each.maximum is not None))
    machine = metrics.judge(told, alone, name, str(mode), family=1)
    work = both or (counts(None, measurement) if first else None)
    counted = exact.judge(work, policy if both else alone, name, str(mode))
    over = (*counted.findings, *machine.findings, *budgets.judge_alone(measurement, mode, rules))
    found, waived, kept_notes = _waive(over, policy)
    outcome = Outcome.NO_BASELINE if note.slug in ABSENT else Outcome.INCONCLUSIVE
    dear = metrics.overhead(of_all_modes.own_cost_percent, policy, name)
    if dear is not None:
        outcome = Outcome.INCONCLUSIVE
        kept_notes.append(dear)
    doubts = (machine.outcome, counted.outcome)
    outcome = worst([outcome, *doubts, *(finding.outcome for finding in found)])
    note = note if note.benchmark else replace(note, benchmark=name)
    without = left_out(measurement, "", mode)
    texts = [*([without] if without else []), *(collector_notes(measurement, "") if first else [])]
    told_of = tuple(Note("recording", text, name) for text in texts)
    said = (*machine.notes, *counted.notes, *exact.notes(work, name))
    notes = (note, *kept_notes, *told_of, *said)
    return BenchmarkVerdict(
        name, str(mode), outcome, found, notes, None, figures=told, alone=measurement, waived=waived
    )


def new_mode(benchmark: str, mode: Mode) -> Note:
    """Return why a mode of a benchmark has nothing to be compared with."""
    return Note("new-mode", f"{mode} is new: the baseline did not record it", benchmark)


def _accounts(measurement: Measurement | None, run: Run) -> tuple[Note, ...]:
    """Return the notes on a benchmark's recording; of a command they would say nothing."""
    if measurement is None or measurement.root is None:
        return ()
    return accounts(measurement, run.environment.frequency_hz)


def with_accounts(verdicts: Sequence[BenchmarkVerdict], after: Run) -> tuple[BenchmarkVerdict, ...]:
    """Return the verdicts with the notes on each benchmark's recording, by benchmark."""
    by_name: dict[str, list[BenchmarkVerdict]] = {}
    for each in verdicts:
        by_name.setdefault(each.benchmark, []).append(each)
    return tuple(
        each
        for name, same in by_name.items()
        for each in noted(sorted(same, key=_mode_order), _accounts(after.measurement(name), after))
    )


def _mode_order(verdict: BenchmarkVerdict) -> int:
    return list(Mode).index(Mode(verdict.mode))


def noted(
    verdicts: Sequence[BenchmarkVerdict], notes: Iterable[Note]
) -> tuple[BenchmarkVerdict, ...]:
    """Return the verdicts of one benchmark with notes on its recording, told once.

    The first verdict says them, or the first that failed.
    """
    said = {note.text for each in verdicts for note in each.notes}
    more = tuple(note for note in notes if note.text not in said)
    failed = (n for n, each in enumerate(verdicts) if each.outcome is Outcome.FAIL)
    tells = next(failed, 0)
    return tuple(
        replace(each, notes=(*each.notes, *more)) if number == tells else each
        for number, each in enumerate(verdicts)
    )


def assemble(
    benchmarks: Iterable[BenchmarkVerdict],
    notes: Iterable[Note],
    diff: RunDiff | None,
    policy: Policy,
    *,
    bias: str = "",
) -> Verdict:
    """Put the build together: its outcome is `overall` of its benchmarks.

    `bias` is what the collector is known to get wrong (`Environment.bias`); it becomes a note.
    """
    verdicts = tuple(benchmarks)
    modes = {each.mode for each in verdicts}
    unread = [
        Note(
            "mode-missing",
            f"the rule {rule.place} is about {rule.mode}, which was not recorded: record it with"
            f" --flame-mode {rule.mode} (--mode of record and check)",
        )
        for rule in policy.rules
        if modes and not rule.metric and rule.place != "default" and rule.mode not in modes
    ]
    idle, doubt = unused(verdicts, policy)
    said = dict.fromkeys(
        (*([Note("bias", bias)] if bias else []), *notes, *unread, *idle, *unseen(verdicts))
    )
    outcome = worst([doubt, overall(each.outcome for each in verdicts)])
    return Verdict(outcome, verdicts, tuple(said), diff, policy)


def family_of(after: Run) -> int:
    """Return among how many the false failures of a build are shared: its benchmarks and modes.

    Those that are new, too, as while recording, where nobody knows yet what the baseline has.
    """
    return sum(len(each.modes) for each in after.measurements) or 1


def judge(
    diff: RunDiff,
    policy: Policy,
    *,
    after: Run,
    family: int | None = None,
    absent: Mapping[str, Note] | None = None,
) -> Verdict:
    """Judge two runs: benchmarks that both have, and those that only one has.

    `absent`: why the before side lacks a benchmark, where that is not that it is new.

    Runs that differ in what decides about time (`RunDiff.differences`) are INCONCLUSIVE with
    the differences; only budgets are judged then, and exact counts.
    """
    size = family or family_of(after)
    verdicts = []
    notes = []
    why = None
    if diff.differences:
        why = Note("other-machine", f"not comparable: {'; '.join(diff.differences)}")
        notes.append(why)
    for each in diff.benchmarks:
        measurement = after.measurement(each.benchmark)
        notes_of = _accounts(measurement, after)
        short = next((note for note in notes_of if note.slug == "too-short"), None)
        alone = why or (short if each.mode == Mode.ON_CPU else None)
        if alone is not None and measurement is not None:
            verdict = judge_alone(measurement, Mode(each.mode), policy, alone, both=each.counts)
            verdicts.append(replace(verdict, diff=each if why else None))
        else:
            verdicts.append(judge_benchmark(each, policy, family=size))
    compared = {(each.benchmark, each.mode) for each in diff.benchmarks}
    verdicts += [
        judge_alone(each, mode, policy, new_mode(each.benchmark, mode))
        for each in after.measurements
        if each.benchmark not in diff.added
        for mode in each.modes
        if (each.benchmark, str(mode)) not in compared
    ]
    for name in diff.added:
        measurement = after.measurement(name)
        if measurement is None:
            continue
        new = Note("new-benchmark", f"{name} is new: not in the baseline", name)
        why = (absent or {}).get(name)
        notes += [] if why else [new]
        verdicts += [
            judge_alone(measurement, mode, policy, why or new)
            for mode in measurement.modes or (Mode.ON_CPU,)
        ]
    notes += [
        Note("gone-benchmark", f"{name} is in the baseline and was not recorded now", name)
        for name in diff.removed
    ]
    return assemble(
        with_accounts(verdicts, after), notes, diff, policy, bias=after.environment.bias
    )
