"""Edge: `check` of a command that is not pytest: record, judge, confirm a failure, keep.

record ─▶ judge ─▶ PASS …
             └──▶ FAIL ─▶ recorded once more (both sides with `rerun:`) ─▶ the second counts
"""

import os
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Final

from ci_flame import pipeline, report_folder
from ci_flame.config import BaselineKind, Config
from ci_flame.config.terms import Terms
from ci_flame.errors import BaselineError, CollectError, InterruptedRunError
from ci_flame.pipeline import base_broken, until_decided
from ci_flame.pipeline.chosen import Chosen, choose, tell, to_confirm
from ci_flame.pipeline.command_name import by_name
from ci_flame.pipeline.labels import Labels
from ci_flame.policy import Policy
from ci_flame.profile import Run
from ci_flame.record import command as recorder
from ci_flame.record.jit import Jit
from ci_flame.report_folder import Report
from ci_flame.verdict import BenchmarkVerdict, Note, Outcome, Verdict
from ci_flame.verdict.absent import BROKEN
from ci_flame.verdict.confirmed import confirmation

if TYPE_CHECKING:
    from ci_flame.baseline.base_side import Checkout

_RECORDED: Final = (BaselineKind.RERUN, BaselineKind.TREE)


@dataclass(frozen=True, slots=True)
class Recorded:
    """Both sides of a command, as far as they were recorded."""

    after: Run
    before: Run | None
    """None: there is nothing to compare with."""


class Check:
    """One command, recorded beside its baseline as often as it takes."""

    def __init__(self, config: Config, chosen: Chosen, name: str, jit: Jit) -> None:
        self.config = config
        self.chosen = chosen
        self.notes: tuple[Note, ...] = chosen.notes
        self._name = name
        self._jit = jit
        self._sides: tuple[recorder.Side, ...] = ()
        """The base commit's, if it is recorded, and this tree's."""
        self._brought = False
        """The command's script is new in this change: the base commit may not run it."""
        self._ran = False
        """Both sides have been recorded once."""

    def prepare(self, command: Sequence[str], stack: ExitStack) -> None:
        """Make the base commit ready, where it is recorded."""
        self._sides = (recorder.Side.here(command),)
        if self.chosen.spec.kind in _RECORDED:
            self._check_out(pipeline.base_checkout, self.chosen, command, stack)

    def _check_out(
        self,
        how: "Callable[[Config, Chosen, Path, ExitStack, str], Checkout]",
        chosen: Chosen,
        command: Sequence[str],
        stack: ExitStack,
    ) -> None:
        """Make the base commit the first of the sides."""
        from ci_flame.baseline import base_side  # noqa: PLC0415
        from ci_flame.record import interpreter  # noqa: PLC0415

        start = Path.cwd()
        python = interpreter.program(command, start, os.environ) or ""
        base = how(self.config, chosen, start, stack, python)
        if base.trouble:
            words = base_broken.without_set_up(base.trouble)
            self.notes += (Note(BROKEN, words, self._name),)
            return
        told = pipeline.notes_on(base, chosen.spec.value)
        self.notes = tuple(dict.fromkeys((*self.notes, *told)))
        brought = recorder.bring_scripts(command, start, base.folder)
        if brought:
            words = f"{base_side.listed(brought)} is new: it was run against the base commit's code"
            self.notes += (Note("new-file", words, self._name),)
        self._brought = bool(brought)
        side = recorder.Side.there(command, start, base.folder, base)
        self._sides = (side, self._sides[-1])

    def confirm(
        self, first: Verdict, count: int, command: Sequence[str], stack: ExitStack
    ) -> tuple[Recorded, Note]:
        """Record what failed once more; only this recording counts.

        Against a stored baseline its commit is recorded beside, where it can be had and runs.
        """
        trouble = ""
        beside = to_confirm(self.config, self.chosen)
        stored = self.chosen.run
        if beside is None or stored is None:
            recorded = self.more(None, count)
        else:
            recorded, trouble = self._beside(beside, stored, count, command, stack)
        second = self.judge(recorded, self.terms(recorded, self.config.policy)).outcome
        found = [finding for each in first.benchmarks for finding in each.findings]
        return recorded, confirmation(
            self._name,
            found,
            second,
            beside=beside.spec.value if beside else "",
            trouble=trouble,
            ancestor=stored.commit if stored and self.chosen.ancestor_of else "",
        )

    def _beside(
        self, beside: Chosen, stored: Run, count: int, command: Sequence[str], stack: ExitStack
    ) -> tuple[Recorded, str]:
        """Record a stored baseline's commit and this tree; or this tree alone, and why."""
        from ci_flame.diff.same_code import not_the_build  # noqa: PLC0415

        notes = self.notes
        recorded: Recorded | None = None
        try:
            self._check_out(pipeline.checkout_to_confirm, beside, command, stack)
            recorded = self.more(None, count)
        except (BaselineError, recorder.SideError) as error:
            if isinstance(error, recorder.SideError) and error.side != 0:
                raise
            trouble = error.message
        else:
            again = recorded.before.measurement(self._name) if recorded.before else None
            # A script that is new does not run there, and `more` has gone on without.
            both = again if len(self._sides) > 1 else None
            later = recorded.after.measurement(self._name) if self.chosen.ancestor_of else None
            trouble = not_the_build(stored.measurement(self._name), both, later)
        if trouble:
            self._sides, self.notes = self._sides[-1:], notes  # what was said of that checkout
            after = recorded.after if recorded else self.more(None, count).after
            recorded = Recorded(after, stored)
        assert recorded is not None  # noqa: S101 - for mypy: there was no trouble
        return recorded, trouble

    def more(self, so_far: Recorded | None, count: int) -> Recorded:
        """Record the command `count` times on each side; repetitions of both sides alternate."""
        try:
            runs = self._runs(count)
        except recorder.SideError as error:
            ours = self.chosen.ours and not self._ran
            if not (self._brought or ours) or error.side != 0 or so_far is not None:
                raise
            if self._brought:
                words = f"is new, and does not run at the base commit: {error.message}"
                self.notes = (*self.notes[:-1], Note("new-benchmark", words, self._name))
            else:
                tree = str(self._sides[0].tree or "")
                self.notes += (base_broken.note(self._name, error, tree),)
            self._sides = self._sides[1:]
            return self.more(None, count)
        self._ran = True
        after = runs[-1]
        before = runs[0] if len(runs) > 1 else self.chosen.run
        if so_far is not None:
            after = _joined(so_far.after, after)
            if len(runs) > 1 and so_far.before is not None and before is not None:
                before = _joined(so_far.before, before)
        if not after.complete:
            pipeline.save_run(after, self.config.out)
            raise InterruptedRunError(
                f"interrupted; {self.config.out} holds the repetitions that had ended, marked"
                " incomplete"
            )
        return Recorded(after, before)

    def _runs(self, count: int) -> tuple[Run, ...]:
        try:
            return recorder.record(self.config.record, self._name, self._sides, count, self._jit)
        except CollectError as error:
            folders = [each.folder for each in self._sides]
            error.message = by_name(error.message, folders, self._name)
            raise

    def terms(self, recorded: Recorded, policy: Policy, *notes: Note) -> Terms:
        """Return what a verdict on it depends on."""
        broken = next((each for each in self.notes if each.slug == BROKEN), None)
        none = broken or Note("no-baseline", self.chosen.told)
        note = None if recorded.before else none
        benchmarks = {} if policy == self.config.policy else {self._name: policy}
        told = (*self.notes, *notes)
        return Terms(self.config.policy, benchmarks, note=note, notes=told)

    def judge(self, recorded: Recorded, terms: Terms) -> Verdict:
        """Return the verdict on what was recorded."""
        return pipeline.judge_runs(recorded.before, recorded.after, terms, self.chosen.history)


def check(
    config: Config, name: str, command: Sequence[str], repeat: int, jit: str = "none"
) -> Verdict:
    """Record a command, compare it with its baseline, and write run and report."""
    pipeline.discard_report(config)
    start = Path.cwd()
    # Wrong words are said now, not after minutes of recording.
    Labels(config.base.changed_since, "", start)
    wanted = Jit(jit)
    chosen = choose(config, start, lambda: recorder.expected(config.record, command, wanted))
    if chosen.spec.kind is BaselineKind.STORE:
        tell(chosen.told)  # which of many builds it is
    this = Check(config, chosen, name, wanted)
    with ExitStack() as stack:
        this.prepare(command, stack)
        recorded, policy, told = _recorded(this, repeat)
        verdict = this.judge(recorded, this.terms(recorded, policy, *told))
        replayed = config.record.collector == "replay"
        doubtful = verdict.outcome is Outcome.FAIL or _let_pass(verdict, config, chosen)
        if doubtful and config.record.confirm and not replayed:
            count = len(recorded.after.measurements[0].processes)
            recorded, note = this.confirm(verdict, count, command, stack)
            policy, told = config.policy, (*told, note)
    before, after = recorded.before, recorded.after
    commit = chosen.commit or (before.commit if before else "")
    pipeline.save_run(after, config.out)
    terms = this.terms(recorded, policy, *told)
    labels = Labels(config.base.changed_since, commit, start, told=chosen.called)
    verdict, terms = pipeline.labelled(this.judge(recorded, terms), after, labels, terms)
    verdict, terms = pipeline.located(verdict, after, terms, start)
    report_folder.save(verdict, Report(before, after, terms, chosen.history), config.report)
    return verdict


def _let_pass(verdict: Verdict, config: Config, chosen: Chosen) -> bool:
    """Tell whether a failure passed by a doubt of the baseline, whose commit can be recorded."""
    if chosen.history is None or to_confirm(config, chosen) is None:
        return False
    from ci_flame.judge.history import softened  # noqa: PLC0415 - numpy

    return softened(verdict.benchmarks)


def _recorded(this: Check, repeat: int) -> tuple[Recorded, Policy, tuple[Note, ...]]:
    """Record as often as asked, or until it is decided; return what to judge it by."""
    policy = this.config.policy
    record = this.config.record
    if not record.until_decided or record.collector == "replay":
        return this.more(None, repeat), policy, ()

    def judge(recorded: Recorded, by: Policy) -> tuple[BenchmarkVerdict, ...]:
        return this.judge(recorded, this.terms(recorded, by)).benchmarks

    looked = until_decided.record(
        this.more, judge, policy, first=repeat, max_seconds=record.max_seconds
    )
    return looked.recorded, looked.policy, (looked.note,)


def _joined(earlier: Run, later: Run) -> Run:
    """Return two recordings of a command as one."""
    from ci_flame.record.processes import joined  # noqa: PLC0415

    (one,), (other,) = earlier.measurements, later.measurements
    return replace(
        later, measurements=(joined(one, other),), complete=earlier.complete and later.complete
    )
