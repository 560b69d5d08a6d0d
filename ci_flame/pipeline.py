"""Edge: the flow from a command to a verdict; each step is one call of the stage that does it.

Stages are imported where they are called, so that `ci-flame --help` costs nothing.
"""

import os
import sys
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Final

from ci_flame import report_folder
from ci_flame.config import DEFAULT_BASELINE, BaselineKind, BaselineSpec, Config
from ci_flame.config.terms import Terms
from ci_flame.errors import BaselineError, InterruptedRunError, MissingBaselineError, UsageError
from ci_flame.policy import Policy
from ci_flame.profile import Environment, Mode, Run
from ci_flame.report_folder import Report
from ci_flame.verdict import BenchmarkVerdict, Note, Outcome, Verdict, worst

if TYPE_CHECKING:
    from ci_flame.judge.history import History
    from ci_flame.record.live_target import LiveTarget

PASS, USAGE, FAIL, NOT_RECORDED, NO_BASELINE, INCONCLUSIVE, INTERRUPTED = 0, 2, 1, 3, 4, 5, 130
_CURE_NO_BASELINE: Final = "pytest --flame --flame-out .ci-flame/baseline, or --baseline rerun:REV"


@dataclass(frozen=True, slots=True)
class Found:
    """The stored before side, or why there is none."""

    run: Run | None
    told: str
    """For headers: `baseline .ci-flame/baseline (commit 1a2b3c4)`, `no baseline: …`."""
    history: "History | None" = None
    """The builds beside it, where it comes from a store."""
    notes: tuple[str, ...] = ()
    """What of a store could not be used, each in one line."""


def exit_code(outcome: Outcome, policy: Policy, *, compared: bool = True) -> int:
    """Return what the command line ends with.

    `compared`: there was a before side. Without one a budget may still have warned, and the
    outcome then says no more that a required baseline is missing.
    """
    if outcome is Outcome.FAIL:
        return FAIL
    if policy.baseline_required and (outcome is Outcome.NO_BASELINE or not compared):
        return NO_BASELINE
    if outcome is Outcome.INCONCLUSIVE and policy.inconclusive_fails:
        return INCONCLUSIVE
    return PASS


def stored_exit_code(folder: Path) -> int:
    """Return the same of the report in a folder."""
    outcome, policy = report_folder.outcome(folder), report_folder.terms(folder).policy
    return exit_code(outcome, policy, compared=report_folder.compared(folder))


# -- the before side ------------------------------------------------------------------


def load_baseline(spec: BaselineSpec, start: Path) -> Found:
    """Return the stored run that `spec` names; `rerun` and `tree` are recorded, not loaded.

    Raises BaselineError or FormatError where a baseline is named and cannot be used; only
    `auto` and `none` may find nothing.
    """
    from ci_flame.baseline import folder, git  # noqa: PLC0415

    match spec.kind:
        case BaselineKind.NONE:
            return Found(None, "no baseline: none was asked for")
        case BaselineKind.AUTO:
            place = start / DEFAULT_BASELINE
            if not place.exists():
                return Found(None, f"no baseline: {DEFAULT_BASELINE} does not exist")
            return _found(folder.load(place), str(DEFAULT_BASELINE))
        case BaselineKind.FOLDER:
            return _found(folder.load(start / spec.value), spec.value)
        case BaselineKind.GIT:
            return _found(git.load(spec.value, start), str(spec))
        case BaselineKind.STORE:
            raise UsageError(f"baseline {spec} is chosen by what is compared with it")
        case BaselineKind.RERUN | BaselineKind.TREE:
            raise UsageError(f"baseline {spec} is recorded, not loaded", "ci-flame check does that")


def find_baseline(config: Config, environment: Environment, start: Path) -> Found:
    """Return the stored run that a run recorded in this environment is compared with.

    Of a store it is the build of the nearest ancestor, with the builds beside it; of anything
    else it is what `load_baseline` returns.
    """
    spec = config.baseline
    if spec.kind is not BaselineKind.STORE:
        return load_baseline(spec, start)
    from ci_flame import stored  # noqa: PLC0415
    from ci_flame.baseline import store  # noqa: PLC0415
    from ci_flame.judge.history import History  # noqa: PLC0415

    listing = store.read(start / spec.value)
    chosen = stored.choose(listing, environment, start, config.keep, config.anchor)
    if chosen.base is None:
        return Found(None, chosen.told, notes=chosen.notes)
    history = History(chosen.base, chosen.siblings, chosen.anchor)
    return Found(chosen.base, chosen.told, history, chosen.notes)


def checkout(spec: BaselineSpec) -> Path:
    """Return the folder that a `tree` baseline names; BaselineError where there is none."""
    folder = Path(spec.value).resolve()
    if not folder.is_dir():
        missing = "is not a folder" if folder.exists() else "there is no such folder"
        raise BaselineError(f"baseline {spec}: {missing}", "git worktree add DIR REV")
    return folder


def _found(run: Run, name: str) -> Found:
    usable(run, name)
    commit = f" (commit {run.commit[:10]})" if run.commit else ""
    return Found(run, f"baseline {name}{commit}")


def usable(run: Run, name: str) -> None:
    """Raise BaselineError where a run is incomplete or empty: it must not be a before side."""
    if not run.complete:
        raise BaselineError(
            f"baseline {name} is incomplete: its recording was interrupted", "record it again"
        )
    if not run.measurements:
        raise BaselineError(f"baseline {name} holds no benchmark", "record it again")


# -- judging --------------------------------------------------------------------------


def compare(before: Run, after: Run, policy: Policy, history: "History | None" = None) -> Verdict:
    """Return the verdict on two runs; BaselineError where the first cannot be a before side."""
    usable(before, "before")
    return judge_runs(before, after, Terms(policy), history)


def judge_runs(
    before: Run | None, after: Run, terms: Terms, history: "History | None" = None
) -> Verdict:
    """Return the verdict on a run, benchmark by benchmark, each by its own policy.

    `history`: the builds beside the baseline, where it comes from a store.
    """
    from ci_flame.diff import diff  # noqa: PLC0415
    from ci_flame.judge import assemble, judge  # noqa: PLC0415

    if before is None:
        return _judge_alone(after, terms)
    changes = diff(before, after, history.between if history else None)
    if not terms.benchmarks:
        verdict = judge(changes, terms.policy, after=after, family=terms.family)
        return _reviewed(verdict, after, terms, history)
    family = terms.family or max(1, len(changes.benchmarks))
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
        )
        judged += part.benchmarks
        notes |= dict.fromkeys(part.notes)
    judged.sort(key=lambda each: (each.benchmark, list(Mode).index(Mode(each.mode))))
    verdict = assemble(
        tuple(judged), tuple(notes), changes, terms.policy, bias=after.environment.bias
    )
    return _reviewed(verdict, after, terms, history)


def _reviewed(verdict: Verdict, after: Run, terms: Terms, history: "History | None") -> Verdict:
    """Let the builds beside the baseline have their say."""
    if history is None or verdict.diff is None or verdict.diff.differences:
        return verdict
    from ci_flame.judge.history import review  # noqa: PLC0415

    family = terms.family or max(1, len(verdict.diff.benchmarks))
    benchmarks = []
    for each in verdict.benchmarks:
        measurement = after.measurement(each.benchmark)
        policy = terms.policy_of(each.benchmark)
        benchmarks.append(
            each if measurement is None else review(each, measurement, policy, family, history)
        )
    return replace(
        verdict,
        benchmarks=tuple(benchmarks),
        outcome=worst(each.outcome for each in benchmarks),
    )


def _judge_alone(after: Run, terms: Terms) -> Verdict:
    """Judge what needs no baseline: budgets."""
    from ci_flame.judge import assemble, judge_alone, with_accounts  # noqa: PLC0415

    note = terms.note or Note("no-baseline", "nothing to compare with")
    judged = tuple(
        judge_alone(
            each, mode, terms.policy_of(each.benchmark), replace(note, benchmark=each.benchmark)
        )
        for each in after.measurements
        for mode in each.modes or (Mode.ON_CPU,)
    )
    return assemble(
        with_accounts(judged, after), (note,), None, terms.policy, bias=after.environment.bias
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
) -> None:
    """Write the report folder; `explain` needs nothing else.

    `policies` are those of benchmarks whose marker replaces rules, `family` is the number of
    benchmarks selected, `note` says why there is no before side.
    """
    terms = Terms(config.policy, policies or {}, family, note)
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
    from ci_flame.record import command as recorder  # noqa: PLC0415
    from ci_flame.record.jit import Jit  # noqa: PLC0415

    side = recorder.Side.here(command)
    (run,) = recorder.record(config.record, name, (side,), repeat, Jit(jit))
    return run


def record_live(
    config: Config, target: "LiveTarget", name: str, duration_s: int, jit: str = "none"
) -> Run:
    """Record processes that run already, a round per second of `duration_s`."""
    from ci_flame.record import live  # noqa: PLC0415
    from ci_flame.record.jit import Jit  # noqa: PLC0415

    return live.record(config.record, target, name, duration_s, Jit(jit))


def check_command(
    config: Config, name: str, command: Sequence[str], repeat: int, jit: str = "none"
) -> Verdict:
    """Record a command, compare it with its baseline, and write run and report."""
    _discard_report(config)
    start = Path.cwd()
    note: Note | None = None
    history: History | None = None
    before: Run | None
    if config.baseline.kind is BaselineKind.STORE:
        check_store(config, start)
        after = record_command(config, name, command, repeat, jit)
        found = find_baseline(config, after.environment, start)
        before, history = found.run, found.history
        note = None if before else Note("no-baseline", found.told)
        tell(found)
    elif config.baseline.kind in (BaselineKind.RERUN, BaselineKind.TREE):
        before, after = _record_both(config, name, command, repeat, jit)
    else:
        found = load_baseline(config.baseline, start)
        before, after = found.run, record_command(config, name, command, repeat, jit)
        note = None if before else Note("no-baseline", found.told)
    save_run(after, config.out)
    if not after.complete:
        raise InterruptedRunError(
            f"interrupted; {config.out} holds the repetitions that had ended, marked incomplete"
        )
    verdict = judge_runs(before, after, Terms(config.policy, note=note), history)
    write_report(verdict, before, after, config, config.report, note=note, history=history)
    return verdict


def check_store(config: Config, start: Path) -> None:
    """Raise before anything is recorded where the store or the anchor is not there."""
    from ci_flame import stored  # noqa: PLC0415
    from ci_flame.baseline import store  # noqa: PLC0415

    listing = store.read(start / config.baseline.value)
    if config.anchor:
        stored.commit_of(config.anchor, listing, start)
    if not listing.builds and config.policy.baseline_required:
        raise MissingBaselineError(
            f"no baseline: {listing.store} holds no build, and the policy requires one",
            f"ci-flame baseline add RUN --store {listing.store}",
        )


def tell(found: Found) -> None:
    """Say on stderr what the run is compared with, and what of a store could not be used."""
    for line in (found.told, *found.notes):
        sys.stderr.write(f"ci-flame: {line}\n")


def _discard_report(config: Config) -> None:
    """Remove the report of an earlier build; UsageError where what is still needed lies in it."""
    needed = [config.record.replay] if config.record.replay else []
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


def _record_both(
    config: Config, name: str, command: Sequence[str], repeat: int, jit: str
) -> tuple[Run, Run]:
    """Record the base commit and this tree, their repetitions alternating at random."""
    from ci_flame.baseline import rerun  # noqa: PLC0415
    from ci_flame.record import command as recorder  # noqa: PLC0415
    from ci_flame.record.jit import Jit  # noqa: PLC0415

    start = Path.cwd()
    with ExitStack() as stack:
        if config.baseline.kind is BaselineKind.RERUN:
            tree = stack.enter_context(rerun.worktree(config.baseline.value, start))
        else:
            tree = checkout(config.baseline)
        here = recorder.Side.here(command)
        there = recorder.Side.there(command, start, tree)
        before, after = recorder.record(config.record, name, (there, here), repeat, Jit(jit))
    return before, after


def save_run(run: Run, folder: Path) -> None:
    """Write a run folder."""
    from ci_flame.baseline import folder as run_folder  # noqa: PLC0415

    run_folder.save(run, folder)


# -- pytest ---------------------------------------------------------------------------


def check_pytest(config: Config, command: Sequence[str]) -> tuple[int, Outcome]:
    """Run pytest with `--flame`; return the exit code of the build and the stored outcome.

    The plugin records, judges and writes the report; pytest's own output is passed through.
    """
    from ci_flame import pytest_command  # noqa: PLC0415
    from ci_flame.baseline import rerun  # noqa: PLC0415

    _discard_report(config)
    spec = config.baseline
    with ExitStack() as stack:
        # Before anything runs: under pytest, what is wrong here is an error like any other.
        if spec.kind is BaselineKind.RERUN:
            tree = stack.enter_context(rerun.worktree(spec.value, Path.cwd()))
            spec = BaselineSpec(BaselineKind.TREE, str(tree))
        elif spec.kind is BaselineKind.TREE:
            checkout(spec)
        elif spec.kind is BaselineKind.STORE:
            check_store(config, Path.cwd())  # which build it is depends on the recorder: pytest
        else:
            found = load_baseline(spec, Path.cwd())
            if found.run is None and config.policy.baseline_required:
                raise MissingBaselineError(
                    f"{found.told}, and the policy requires one", _CURE_NO_BASELINE
                )
        ended = pytest_command.run(command, replace(config, baseline=spec))
    outcome = pytest_command.outcome(ended, config.report)
    code = stored_exit_code(config.report)
    return pytest_command.combine(ended, code), outcome
