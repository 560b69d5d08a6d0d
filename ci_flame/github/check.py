"""Edge: the steps that record and compare: inputs -> `ci-flame check` -> outcome, code, folders.

The benchmarks' interpreter may be another than ours, so that the check is a process of its own.
It gets neither the token nor the files through which a step sets outputs: what the benchmarks
print or write is theirs, and never this action's word.
"""

import os
import shlex
import shutil
import signal
import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Final

from ci_flame import pipeline, report_folder
from ci_flame.baseline import ci_base, folder
from ci_flame.config import BaselineKind, build
from ci_flame.config.terms import Terms
from ci_flame.errors import CiFlameError, InterruptedRunError, UsageError
from ci_flame.github import runner, verdict_json
from ci_flame.github.compared import Compared, really
from ci_flame.pipeline import reasons
from ci_flame.pipeline.chosen import choose, tell
from ci_flame.report import terminal
from ci_flame.report_folder import Report
from ci_flame.verdict import Note
from ci_flame.verdict.absent import is_compared

ERROR: Final = "error"
RECORDED: Final = "recorded"
GRACE_S: Final = 60.0
"""How long a check may take to put its processes and worktrees away when the job is cancelled."""
PAGE_NAME: Final = "report.html"
DEFAULT_REPORT: Final = ".ci-flame/report"
DEFAULT_RUN: Final = ".ci-flame/run"
_JUDGED: Final = frozenset({pipeline.PASS, pipeline.FAIL, pipeline.NO_BASELINE,
                            pipeline.INCONCLUSIVE})  # fmt: skip
"""Exit codes that a verdict has; others say that there is none to rely on."""
_NOT_THEIRS: Final = frozenset({"CI_FLAME_GITHUB_TOKEN", "GITHUB_OUTPUT", "GITHUB_ENV",
                                "GITHUB_PATH", "GITHUB_STATE", reasons.VARIABLE})  # fmt: skip


@dataclass(frozen=True, slots=True)
class Inputs:
    """What the action was asked to do."""

    command: tuple[str, ...]
    python: str
    report: Path
    run: Path
    policy: str = ""
    base: str = ""
    """The commit to record where a stored baseline cannot be compared with; empty: its own."""
    distance: str = ""
    """How many commits before that the stored run is of."""
    why: str = ""
    """Why there is no baseline, where there is none."""
    ours: bool = False
    """The commit to record was chosen by the step before: it need not be one that runs."""

    def environment(self) -> dict[str, str]:
        """Return the variables that tell the check what only the job knows."""
        told = {
            ci_base.NAMED: self.base,
            ci_base.DISTANCE: self.distance,
            ci_base.OURS: "1" if self.ours else "",
            ci_base.WHY: self.why,
        }
        return {name: text for name, text in told.items() if text}


@dataclass(frozen=True, slots=True)
class Ended:
    """What came of it."""

    outcome: str
    """The verdict's, `recorded`, or `error`."""
    code: int
    """What the gate ends with."""
    report: Path | None = None
    """None: none was written now."""
    run: Path | None = None
    why: tuple[str, ...] = ()
    """What failed beside the verdict, or instead of it; each in one line."""

    def outputs(self) -> dict[str, str]:
        """Return the outputs of the step."""
        return {
            "outcome": self.outcome,
            "exit_code": str(self.code),
            "report": str(self.report or ""),
            "run": str(self.run or ""),
            "why": "\n".join(self.why),
        }


def inputs(given: Mapping[str, str] = os.environ) -> Inputs:
    """Return the inputs in the environment; UsageError where the command is none."""

    def place(name: str, default: str) -> Path:
        return Path(os.path.abspath(runner.given_input(name, default, given)))  # noqa: PTH100 - links stay

    return Inputs(
        command=split(runner.given_input("command", "pytest", given)),
        python=runner.given_input("python", "", given) or sys.executable,
        report=place("output", DEFAULT_REPORT),
        run=place("run", DEFAULT_RUN),
        policy=runner.given_input("policy", "", given),
    )


def split(command: str) -> tuple[str, ...]:
    """Return the words of a command as a shell would split them; none of them is a shell's."""
    try:
        words = shlex.split(command)
    except ValueError as error:
        raise UsageError(
            f"input command {command[:200]!r} cannot be split: {str(error).lower()}",
            "close the quote",
        ) from None
    if not words:
        raise UsageError("input command is empty", "name what runs the benchmarks: pytest")
    return tuple(words)


def check(asked: Inputs, baseline: str) -> Ended:
    """Record the command, compare it with the baseline, and write run and report."""
    words = ["--baseline", baseline, "-o", str(asked.report), "--run", str(asked.run)]
    earlier, earlier_run = _stamp(asked.report), _stamp(asked.run)
    code, why = _ci_flame(asked, words)
    # What was here before (in the checkout, or of an earlier job) is not this build's.
    report = asked.report if _stamp(asked.report) not in (earlier, ()) else None
    run = asked.run if _stamp(asked.run) not in (earlier_run, ()) else None
    outcome = _outcome(report) if report is not None and code in _JUDGED else ERROR
    return Ended(outcome, code if code or outcome != ERROR else 3, report, run, why)


def record(asked: Inputs, scratch: Path) -> Ended:
    """Record the command into a run folder; it is judged later, by `compare`."""
    ended = check(replace(asked, report=scratch / "recorded"), "none")
    # Budgets are judged without a baseline, too; their verdict is for `compare` to give.
    if ended.run is None or ended.code not in _JUDGED:
        return Ended(ERROR, ended.code or 3, None, ended.run, ended.why)
    return Ended(RECORDED, 0, None, ended.run)


def compare(asked: Inputs, baseline: str) -> Ended:
    """Compare a run folder with the baseline, and write the report.

    Where the baseline is to be recorded in this job, the command is recorded again, too: the
    two sides of a comparison alternate, and what was recorded before stands on no side.
    """
    try:
        config = build(
            policy_file=asked.policy or None,
            start=Path.cwd(),
            flags={"report": asked.report, "baseline": baseline},
        )
        after = folder.load(asked.run, incomplete_ok=True)
        given = {**os.environ, **asked.environment()}
        chosen = choose(config, Path.cwd(), lambda: after.environment, given)
        tell(chosen.told)
        if chosen.spec.kind in (BaselineKind.RERUN, BaselineKind.TREE):
            return check(replace(asked, ours=chosen.ours), str(chosen.spec))
        if chosen.run is not None:
            verdict = pipeline.compare_stored(
                chosen.run,
                after,
                config,
                Path.cwd(),
                chosen.history,
                notes=chosen.notes,
                base=chosen.commit if chosen.ancestor_of else "",
            )
        else:
            note = Note("no-baseline", chosen.told)
            terms = Terms(config.policy, note=note, notes=chosen.notes)
            verdict = pipeline.judge_runs(None, after, terms)
            verdict, terms = pipeline.located(verdict, after, terms, Path.cwd())
            report_folder.save(verdict, Report(None, after, terms), config.report)
    except CiFlameError as error:
        sys.stderr.write(f"ci-flame: {error}\n")
        run = asked.run if asked.run.is_dir() else None
        return Ended(ERROR, error.exit_code, None, run, (reasons.words(error),))
    sys.stdout.write(f"{terminal.render(verdict)}\n")
    code = pipeline.exit_code(
        verdict.outcome, config.policy, compared=is_compared(verdict.benchmarks)
    )
    return Ended(verdict.outcome.value, code, asked.report, asked.run)


def compared(ended: Ended, found: Compared) -> Compared:
    """Return what was really compared with; what was found, where there is no verdict."""
    if ended.report is None:
        return found
    place = ended.report / report_folder.VERDICT_NAME
    try:
        with place.open("rb") as file:
            data = file.read(verdict_json.MAX_BYTES + 1)
        return really(verdict_json.decode(data, str(place)), found)
    except (CiFlameError, OSError):
        return found  # the step that publishes it says why


def page(report: Path | None, place: Path, key: str) -> Path | None:
    """Copy the report's page to a file of its own; None where there is none.

    An artifact that is not zipped is called as its file, and names are taken once per run.
    """
    if report is None:
        return None
    source, copy = report / PAGE_NAME, place / f"ci-flame-{key}.html"
    try:
        place.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(source, copy)
    except OSError as error:
        reason = (error.strerror or type(error).__name__).lower()
        runner.annotate("warning", f"{source} was not made ready for upload: {reason}")
        return None
    return copy


def _outcome(report: Path) -> str:
    try:
        return report_folder.outcome(report).value
    except CiFlameError:
        return ERROR


def _stamp(place: Path) -> tuple[int, ...]:
    """Return what tells one written folder from another; `()` where there is none."""
    for name in (report_folder.VERDICT_NAME, folder.RUN_JSON):
        with suppress(OSError):
            status = (place / name).stat()
            return status.st_mtime_ns, status.st_ino, status.st_size
    return ()


# -- the process ----------------------------------------------------------------------


def _ci_flame(asked: Inputs, words: Sequence[str]) -> tuple[int, tuple[str, ...]]:
    """Run `ci-flame check` to its end in the benchmarks' interpreter.

    Returns its exit code, and what it and pytest say of what failed.
    """
    with tempfile.TemporaryDirectory(prefix="ci-flame-") as folder_name:
        place = Path(folder_name) / "reasons"
        return _run(asked, words, {reasons.VARIABLE: str(place)}), reasons.read(place)


def _run(asked: Inputs, words: Sequence[str], more: Mapping[str, str]) -> int:
    # -P: a folder of the checkout that is called ci_flame is not what checks it.
    whole = [asked.python, "-P", "-m", "ci_flame", "check", *words]
    whole += ["--policy", asked.policy] if asked.policy else []
    given = {
        name: text
        for name, text in os.environ.items()
        # Of a local runner all inputs of the action are in the environment, the token too.
        if name not in _NOT_THEIRS and not name.startswith("INPUT_")
    }
    given |= {**asked.environment(), **more}
    try:
        # In a group of its own it is told to end once, by us: a second signal would cut short
        # how it puts worktrees and collectors away.
        process = subprocess.Popen(
            [*whole, "--", *asked.command],
            env=given,
            stdin=subprocess.DEVNULL,
            process_group=0,
        )
    except OSError as error:
        why = f"{asked.python}: {error.strerror} (input python)"
        runner.say(why)
        reasons.tell(Path(more[reasons.VARIABLE]), why)
        return pipeline.NOT_RECORDED
    try:
        code = process.wait()
    except (KeyboardInterrupt, InterruptedRunError):
        _end(process)
        raise InterruptedRunError("cancelled; what was recorded is kept") from None
    return code if code >= 0 else 128 - code


def _end(process: "subprocess.Popen[bytes]") -> None:
    """Let a check put away what it has started, then insist."""
    with suppress(ProcessLookupError):
        process.send_signal(signal.SIGTERM)
    try:
        process.wait(GRACE_S)
    except (subprocess.TimeoutExpired, KeyboardInterrupt, InterruptedRunError):
        process.kill()
        process.wait()
