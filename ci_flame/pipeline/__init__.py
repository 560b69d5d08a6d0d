"""Edge: the flow from a command to a verdict; each step is one call of the stage that does it.

Stages are imported where they are called, so that `ci-flame --help` costs nothing.
"""

import os
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Final

from ci_flame import report_folder
from ci_flame.config import BaselineKind, BaselineSpec, Config
from ci_flame.config.terms import Terms
from ci_flame.errors import BaselineError, CollectError, MissingBaselineError, UsageError
from ci_flame.pipeline.chosen import Chosen, checkout, choose, tell, usable
from ci_flame.policy import Policy
from ci_flame.profile import Mode, Run
from ci_flame.report_folder import Report
from ci_flame.verdict import BenchmarkVerdict, Note, Outcome, Verdict, overall
from ci_flame.verdict.absent import BROKEN

if TYPE_CHECKING:
    from ci_flame.baseline.base_side import Checkout
    from ci_flame.judge.history import History
    from ci_flame.pipeline.labels import Labels
    from ci_flame.record.live_target import LiveTarget
    from ci_flame.verdict.touch import Touched

PASS, USAGE, FAIL, NOT_RECORDED, NO_BASELINE, INCONCLUSIVE, INTERRUPTED = 0, 2, 1, 3, 4, 5, 130
_CURE_NO_BASELINE: Final = (
    "pytest --flame --flame-baseline none --flame-out .ci-flame/baseline, or --baseline rerun:REV"
)


def exit_code(outcome: Outcome, policy: Policy, *, compared: bool) -> int:
    """Return what the command line ends with.

    `compared`: any benchmark had a before side; beside it others may be new. Without one a budget
    may still have warned, and the outcome then says no more that a required baseline is missing.
    """
    if outcome is Outcome.FAIL:
        return FAIL
    if policy.baseline_required and not compared:
        return NO_BASELINE
    if outcome is Outcome.INCONCLUSIVE and policy.inconclusive_fails:
        return INCONCLUSIVE
    return PASS


def stored_exit_code(folder: Path) -> int:
    """Return the same of the report in a folder."""
    outcome, policy = report_folder.outcome(folder), report_folder.terms(folder).policy
    return exit_code(outcome, policy, compared=report_folder.compared(folder))


# -- judging --------------------------------------------------------------------------


def compare(before: Run, after: Run, policy: Policy, history: "History | None" = None) -> Verdict:
    """Return the verdict on two runs; BaselineError where the first cannot be a before side."""
    usable(before, "before")
    return judge_runs(before, after, Terms(policy), history)


def compare_stored(
    before: Run,
    after: Run,
    config: Config,
    start: Path,
    history: "History | None" = None,
    *,
    notes: Sequence[Note] = (),
    base: str = "",
) -> Verdict:
    """Compare two stored runs, label what is found by the repository of `start`, and report.

    `base`: the base commit, where what is stored is of a commit before it.
    """
    from ci_flame.pipeline import benchmark_files  # noqa: PLC0415

    usable(before, "before")
    labels = labels_of(config.base.changed_since, before, after, start, base=base)
    differ = benchmark_files.changed_since(before, after, base, start)
    terms = Terms(config.policy, notes=(*notes, *differ))
    verdict, terms = labelled(judge_runs(before, after, terms, history), after, labels, terms)
    verdict, terms = located(verdict, after, terms, start)
    report_folder.save(verdict, Report(before, after, terms, history), config.report)
    return verdict


def labels_of(
    asked: str, before: Run | None, after: Run, start: Path, *, base: str = ""
) -> "Labels":
    """Return the diff from the revision asked for, `base` or the before side's, to a stored run."""
    from ci_flame.pipeline.labels import Labels  # noqa: PLC0415

    commit = base or (before.commit if before else "")
    told = "the base commit" if base else "the baseline's commit"
    return Labels(asked, commit, start, after=after.commit, dirty=after.dirty, told=told)


def judge_runs(
    before: Run | None, after: Run, terms: Terms, history: "History | None" = None
) -> Verdict:
    """Return the verdict on a run, benchmark by benchmark, each by its own policy.

    `history`: the builds beside the baseline, where it comes from a store.
    """
    from ci_flame.diff import diff  # noqa: PLC0415
    from ci_flame.judge import assemble, family_of, judge  # noqa: PLC0415

    if before is None:
        return _judge_alone(after, terms)
    changes = diff(before, after, history.between if history else None)
    if not terms.benchmarks:
        verdict = judge(
            changes, terms.policy, after=after, family=terms.family, absent=_broken(terms)
        )
        return _concluded(_reviewed(verdict, before, after, terms, history), terms)
    family = terms.family or family_of(after)
    judged: list[BenchmarkVerdict] = []
    notes: dict[Note, None] = {}
    for policy in dict.fromkeys(terms.policy_of(m.benchmark) for m in after.measurements):
        names = {m.benchmark for m in after.measurements if terms.policy_of(m.benchmark) == policy}
        part = judge(
            replace(
                changes,
                benchmarks=tuple(each for each in changes.benchmarks if each.benchmark in names),
                added=tuple(name for name in changes.added if name in names),
            ),
            policy,
            after=replace(
                after, measurements=tuple(m for m in after.measurements if m.benchmark in names)
            ),
            family=family,
            absent=_broken(terms),
        )
        judged += part.benchmarks
        notes |= dict.fromkeys(part.notes)
    judged.sort(key=lambda each: (each.benchmark, list(Mode).index(Mode(each.mode))))
    verdict = assemble(
        tuple(judged), tuple(notes), changes, terms.policy, bias=after.environment.bias
    )
    return _concluded(_reviewed(verdict, before, after, terms, history), terms)


def _broken(terms: Terms) -> dict[str, Note]:
    """Return why benchmarks have no before side that the base commit could not run."""
    return {each.benchmark: each for each in terms.notes if each.slug == BROKEN}


def _reviewed(
    verdict: Verdict, before: Run, after: Run, terms: Terms, history: "History | None"
) -> Verdict:
    """Let the builds beside the baseline have their say."""
    if history is None or verdict.diff is None or verdict.diff.differences:
        return verdict
    from ci_flame.judge.history import review  # noqa: PLC0415

    family = terms.family or max(1, len(verdict.diff.benchmarks))
    benchmarks = []
    for each in verdict.benchmarks:
        one, other = before.measurement(each.benchmark), after.measurement(each.benchmark)
        policy = terms.policy_of(each.benchmark)
        benchmarks.append(
            each if other is None else review(each, other, policy, family, history, before=one)
        )
    return replace(
        verdict,
        benchmarks=tuple(benchmarks),
        outcome=overall(each.outcome for each in benchmarks),
    )


def _concluded(verdict: Verdict, terms: Terms) -> Verdict:
    """Return the verdict with the notes on how it was recorded, findings labelled by the diff."""
    from ci_flame.judge import noted  # noqa: PLC0415
    from ci_flame.judge.touched import label_all  # noqa: PLC0415

    by_name: dict[str, list[Note]] = {}
    for note in terms.notes:
        by_name.setdefault(note.benchmark, []).append(note)
    notes = tuple(dict.fromkeys((*verdict.notes, *by_name.pop("", ()))))
    benchmarks = verdict.benchmarks
    for name, told in by_name.items():
        same = tuple(each for each in benchmarks if each.benchmark == name)
        with_notes = iter(noted(same, told) if same else ())
        benchmarks = tuple(
            next(with_notes) if each.benchmark == name else each for each in benchmarks
        )
    verdict = replace(verdict, notes=notes, benchmarks=benchmarks, located=terms.located)
    return label_all(verdict, terms.touched)


def _judge_alone(after: Run, terms: Terms) -> Verdict:
    """Judge what needs no baseline: budgets."""
    from ci_flame.judge import assemble, judge_alone, with_accounts  # noqa: PLC0415

    note = terms.note or Note("no-baseline", "nothing to compare with")
    judged = tuple(
        judge_alone(
            each,
            mode,
            terms.policy_of(each.benchmark),
            _broken(terms).get(each.benchmark, replace(note, benchmark=each.benchmark)),
        )
        for each in after.measurements
        for mode in each.modes or (Mode.ON_CPU,)
    )
    whole = assemble(
        with_accounts(judged, after), (note,), None, terms.policy, bias=after.environment.bias
    )
    return _concluded(whole, terms)


def labelled(verdict: Verdict, after: Run, labels: "Labels", terms: Terms) -> tuple[Verdict, Terms]:
    """Return a verdict whose findings say whose change they are, and the terms with that diff."""
    for each in verdict.benchmarks:
        labels.of((each,), after.measurement(each.benchmark))
    notes = (*terms.notes, *([labels.note] if labels.note else ()))
    terms = replace(terms, touched=labels.touched, notes=notes)
    return _concluded(verdict, terms), terms


def located(verdict: Verdict, after: Run, terms: Terms, start: Path) -> tuple[Verdict, Terms]:
    """Return a verdict that knows where its files lie in the repository around `start`.

    The terms keep it, so that `explain` points at the same lines without the repository.
    """
    from ci_flame.baseline import repository  # noqa: PLC0415
    from ci_flame.verdict.located import policies_of, wanted  # noqa: PLC0415

    # Under pytest places are relative to the work tree, those of a command to its folder.
    command = all(each.root is None for each in after.measurements)
    found = repository.locate(
        wanted(verdict), start, inside_first=command, policies=policies_of(verdict)
    )
    return replace(verdict, located=found), replace(terms, located=found)


def unlabelled(terms: Terms) -> Terms:
    """Return the terms without the diff that the findings were labelled by."""
    from ci_flame.pipeline.labels import SLUG  # noqa: PLC0415

    return replace(
        terms, touched=None, notes=tuple(each for each in terms.notes if each.slug != SLUG)
    )


# -- reports --------------------------------------------------------------------------


def write_report(
    verdict: Verdict,
    before: Run | None,
    after: Run,
    config: Config,
    folder: Path,
    *,
    policies: Mapping[str, Policy] | None = None,
    family: int | None = None,
    note: Note | None = None,
    history: "History | None" = None,
    notes: Sequence[Note] = (),
    touched: "Touched | None" = None,
    start: Path | None = None,
) -> None:
    """Write the report folder; `explain` needs nothing else.

    `start` is where benchmarks' ids are relative to, by default here. `policies` are those of
    benchmarks whose marker replaces rules, `family` is the number of benchmarks selected, `note`
    says why there is no before side, `notes` what else was said of how it was recorded, `touched`
    what the diff did to the functions.
    """
    terms = Terms(config.policy, policies or {}, family, note, tuple(notes), touched)
    verdict, terms = located(verdict, after, terms, start or Path.cwd())
    report_folder.save(verdict, Report(before, after, terms, history), folder)


def explain(folder: Path) -> Verdict:
    """Judge again what is in a report folder, from the runs and the policy in it."""
    report = report_folder.load(folder)
    return judge_runs(report.before, report.after, report.terms, report.history)


# -- recording ------------------------------------------------------------------------


def record_command(
    config: Config, name: str, command: Sequence[str], repeat: int, jit: str = "none"
) -> Run:
    """Record a command as one benchmark, `repeat` processes of one round each."""
    from ci_flame.pipeline.command_name import by_name  # noqa: PLC0415
    from ci_flame.record import command as recorder  # noqa: PLC0415
    from ci_flame.record.jit import Jit  # noqa: PLC0415

    side = recorder.Side.here(command)
    try:
        (run,) = recorder.record(config.record, name, (side,), repeat, Jit(jit))
    except CollectError as error:
        error.message = by_name(error.message, (side.folder,), name)
        raise
    return run


def record_live(
    config: Config, target: "LiveTarget", name: str, duration_s: int, jit: str = "none"
) -> Run:
    """Record processes that run already, a round per second of `duration_s`."""
    from ci_flame.record import live  # noqa: PLC0415
    from ci_flame.record.jit import Jit  # noqa: PLC0415

    return live.record(config.record, target, name, duration_s, Jit(jit))


def discard_report(config: Config) -> None:
    """Remove the report of an earlier build; UsageError where what is still needed lies in it."""
    needed = [config.out, *([config.record.replay] if config.record.replay else [])]
    if config.baseline.kind in (BaselineKind.FOLDER, BaselineKind.STORE):
        needed.append(Path(config.baseline.value))
    place = os.path.realpath(config.report)
    for each in needed:
        if Path(os.path.realpath(each)).is_relative_to(place):
            raise UsageError(
                f"{each} lies in the report folder {config.report}, which is written anew",
                "give -o another folder, or copy the run out of it",
            )
    report_folder.discard(config.report)


def base_checkout(
    config: Config, chosen: Chosen, start: Path, stack: ExitStack, python: str = ""
) -> "Checkout":
    """Return the base commit of a `rerun` or `tree` baseline, ready to be recorded.

    `python` is the interpreter that runs the benchmarks; empty: this one.
    """
    from ci_flame.baseline import base_side  # noqa: PLC0415

    if chosen.spec.kind is BaselineKind.TREE:
        return base_side.of(checkout(chosen.spec))
    setup = config.base.setup
    prepared = base_side.prepared(
        chosen.spec.value,
        start,
        setup=setup.before,
        setup_after=setup.after,
        python=python,
        notes=[(each.slug, each.text) for each in chosen.notes],
        ours=chosen.ours,
    )
    made = stack.enter_context(prepared)
    if made.trouble:
        tell(made.trouble)
    return made


def notes_on(base: "Checkout", commit: str) -> tuple[Note, ...]:
    """Return what must be known of a checkout; `commit`: its own."""
    return tuple(
        Note(slug, text, commit=commit if slug == "rerun" else "") for slug, text in base.notes
    )


def checkout_to_confirm(
    config: Config, chosen: Chosen, start: Path, stack: ExitStack, python: str = ""
) -> "Checkout":
    """Return the commit of a stored baseline, ready to be recorded beside what failed.

    Only that side is set up: this tree stays as it was recorded the first time. Raises
    BaselineError, in one line, whatever was in the way: the failure can be judged without.
    """
    setup = replace(config.base.setup, after="")
    alone = replace(config, base=replace(config.base, setup=setup))
    try:
        return base_checkout(alone, chosen, start, stack, python)
    except CollectError as error:
        raise BaselineError(error.message.partition("\n")[0]) from None


def save_run(run: Run, folder: Path) -> None:
    """Write a run folder."""
    from ci_flame.baseline import folder as run_folder  # noqa: PLC0415

    run_folder.save(run, folder)


# -- pytest ---------------------------------------------------------------------------


def check_pytest(config: Config, command: Sequence[str]) -> tuple[int, Outcome]:
    """Run pytest with `--flame`; return the exit code of the build and the stored outcome.

    The plugin records, judges and writes the report; pytest's own output is passed through.
    """
    from ci_flame.baseline import base_side  # noqa: PLC0415
    from ci_flame.pipeline import pytest_command  # noqa: PLC0415
    from ci_flame.pipeline.labels import Labels  # noqa: PLC0415
    from ci_flame.record import interpreter  # noqa: PLC0415

    discard_report(config)
    Labels(config.base.changed_since, "", Path.cwd())
    chosen = choose(config, Path.cwd(), None)
    why = ""
    # What was chosen here is told by the plugin; what it may still replace is left to it.
    with ExitStack() as stack:
        # Before anything runs: under pytest, what is wrong here is an error like any other.
        if chosen.spec.kind in (BaselineKind.RERUN, BaselineKind.TREE):
            python = interpreter.program(command, Path.cwd(), os.environ) or ""
            base = base_checkout(config, chosen, Path.cwd(), stack, python)
            spec = BaselineSpec(BaselineKind.TREE, str(base.folder))
            config = replace(config, baseline=spec)
        elif (
            chosen.run is None
            and config.policy.baseline_required
            and chosen.spec.kind is not BaselineKind.STORE  # the plugin looks for its build
        ):
            raise MissingBaselineError(
                f"{chosen.told}, and the policy requires one", _CURE_NO_BASELINE
            )
        ended = pytest_command.run(command, config)
        if config.baseline.kind is BaselineKind.TREE:
            why = base_side.reason_left(Path(config.baseline.value))
    try:
        outcome = pytest_command.outcome(ended, config.report)
        return pytest_command.combine(ended, stored_exit_code(config.report)), outcome
    except CollectError as error:
        if why:
            raise CollectError(f"{error.message}: {why}") from None
        raise
