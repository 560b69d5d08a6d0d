"""Edge: `github`: the steps of the GitHub Action; all they are told is in the environment."""
# ruff: noqa: PLC0415 - stages are imported by the command that needs them: --help stays quick

import os
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import click

from ci_flame.errors import BaselineError, CiFlameError, InterruptedRunError

if TYPE_CHECKING:
    from ci_flame.github.baseline import Resolved
    from ci_flame.github.check import Ended, Inputs
    from ci_flame.github.compared import Compared


class _Steps(click.Group):
    """Steps of a job: what is wrong with an input is shown where the job's result is."""

    def invoke(self, ctx: click.Context) -> object:
        """Run a step; an error is an annotation besides its line in the log."""
        from ci_flame.github import runner

        try:
            return super().invoke(ctx)
        except InterruptedRunError:
            raise
        except CiFlameError as error:
            words = f"{error.message}; {error.hint}" if error.hint else error.message
            runner.annotate("error", words)
            raise


@click.group(cls=_Steps)
def github() -> None:
    """Run the steps of the GitHub Action: docs/github-action.md.

    Inputs come from CI_FLAME_* variables, as action.yml sets them, and from GitHub's own.
    """


@github.command()
def setup() -> int:
    """Make the collectors work in this job; say which one records, and why.

    Runs the cures of `ci-flame doctor --fix` where eBPF does not work. Sets the output
    `collector`.
    """
    from ci_flame.github import setup as step

    step.run()
    return 0


@github.command()
def baseline() -> int:
    """Find what to compare with: artifacts of the base or its ancestors, rerun, or none.

    Reads the inputs baseline, baseline-branch, baseline-builds, name, policy and github-token,
    and refuses an unknown word of comment, upload, setup, retention-days and command. Sets the
    outputs baseline, baseline-sha, baseline-distance, baseline-source, baseline-builds,
    baseline-told and key.
    """
    from ci_flame.github import check as steps
    from ci_flame.github import inputs, runner

    inputs.must_be_known(os.environ)
    steps.split(runner.given_input("command", "pytest"))
    found = _resolved(runner.given_input("baseline", "auto"))
    runner.output(
        baseline=found.word,
        baseline_sha=found.sha,
        baseline_distance="" if found.distance is None else str(found.distance),
        baseline_source=found.source,
        baseline_builds=str(found.builds),
        baseline_told=found.sentence,
        key=runner.job().key,
    )
    return 0


@github.command()
def check() -> int:
    """Record the command, compare it with the baseline, and leave the verdict to the gate.

    Reads the inputs command, baseline, policy, output, run and python, and the outputs of
    baseline; sets the outputs outcome, exit-code, report and run, and those of baseline to what
    was really compared with. Ends with 0 unless an input is wrong.
    """
    from ci_flame.github import check as steps
    from ci_flame.github import runner

    asked, found = _sides()
    with runner.fenced():
        ended = steps.check(asked, found.word)
    return _publish(ended, found)


@github.command()
def record() -> int:
    """Record the command into a run folder, to be compared by a later step or job.

    Reads the inputs command, policy, run and python; sets the outputs outcome, exit-code and
    run. Ends with 0 unless an input is wrong.
    """
    from ci_flame.github import check as steps
    from ci_flame.github import inputs, runner

    inputs.must_be_known(os.environ)
    asked = steps.inputs()
    with runner.fenced():
        ended = steps.record(asked, runner.scratch(runner.job()))
    return _publish(ended)


@github.command()
def compare() -> int:
    """Compare a run folder with the baseline, and leave the verdict to the gate.

    Reads the inputs run, baseline, policy, output, the outputs of baseline, and for a baseline
    that is recorded in this job command and python; sets the outputs of check.
    """
    from ci_flame.github import check as steps
    from ci_flame.github import runner

    asked, found = _sides()
    with runner.fenced():
        ended = steps.compare(asked, found.word)
    return _publish(ended, found)


def _sides() -> "tuple[Inputs, Compared]":
    """Return what to record, and the baseline: resolved already, or now."""
    from ci_flame.github import baseline as stage
    from ci_flame.github import check as steps
    from ci_flame.github import inputs, runner
    from ci_flame.github.compared import Compared
    from ci_flame.github.plain import decimal

    inputs.must_be_known(os.environ)
    asked = steps.inputs()
    word = runner.given_input("baseline", "auto")
    # What the step before found is resolved already: `none` is no wish any more.
    distance = runner.given_input("baseline-distance")
    found = Compared(
        word,
        runner.given_input("baseline-source"),
        runner.given_input("baseline-sha"),
        decimal(distance) if distance else None,
        runner.given_input("baseline-told"),
    )
    if word in stage.WORDS and word != "none":
        now = _resolved(word)
        found = Compared(now.word, now.source, now.sha, now.distance, now.sentence)
    elif word != "none":
        found = replace(found, word=stage.given(word, Path.cwd()).word)
    asked = replace(asked, ours=found.source == "rerun")
    if found.word == "none":
        asked = replace(asked, why=found.told)
    job = runner.job()
    if found.word in stage.words_of(job):
        # The artifact may be an ancestor's; what is recorded instead is the base itself.
        with suppress(BaselineError):
            base = stage.base_commit(job, Path.cwd()).commit
            asked = replace(asked, base=base, distance=str(found.distance or ""))
    return asked, found


def _resolved(word: str) -> "Resolved":
    """Resolve the input `baseline`, and say what was found and what was not."""
    from ci_flame.github import baseline as stage
    from ci_flame.github import runner
    from ci_flame.github.api import Api

    job = runner.job()
    for each in job.notes:
        runner.say(f"ci-flame: {each}")
    policy = runner.given_input("policy")
    wishes = stage.Wishes(
        baseline=word,
        branch=runner.given_input("baseline-branch").removeprefix("refs/heads/"),
        policy=Path(policy) if policy else None,
        builds=stage.number_of_builds(
            runner.given_input("baseline-builds", str(stage.DEFAULT_BUILDS))
        ),
    )
    found = stage.resolve(
        job, wishes, Path.cwd(), stage.place_of(job), lambda: Api(job.api_url, runner.token())
    )
    for each in found.notes:
        runner.say(f"ci-flame: {each}")
    if found.trouble:
        runner.annotate("notice", f"{found.trouble}; {found.told}")
    if found.warning:
        runner.annotate("warning", found.warning)
    runner.say(f"ci-flame: {found.told}")
    return found


def _publish(ended: "Ended", found: "Compared | None" = None) -> int:
    from ci_flame.github import check as steps
    from ci_flame.github import runner

    job = runner.job()
    page = steps.page(ended.report, runner.scratch(job), job.key)
    runner.output(**ended.outputs(), key=job.key, page=str(page or ""))
    if found is not None:
        runner.output(**steps.compared(ended, found).outputs())
    where = f"; {ended.report}" if ended.report else f"; {ended.run}" if ended.run else ""
    runner.say(f"ci-flame: {ended.outcome} (exit code {ended.code}){where}")
    return 0


@github.command()
def publish() -> None:
    """Annotate findings, write the job summary and the pull request's comment.

    Reads the inputs comment (auto, always, on-change, never), name and github-token, and of the
    steps before report, outcome, exit-code, page-url, report-url, baseline-sha, baseline-source,
    baseline-distance and baseline-told; sets the outputs outcome and comment-url. What could not
    be published is a warning, and it ends with 0.
    """
    from ci_flame.github import publish as step
    from ci_flame.github import runner

    step.publish(runner.job(), step.inputs())


@github.command()
def comment() -> None:
    """Comment on the pull request of the run that started a `workflow_run` workflow.

    Reads the inputs comment (auto, always, on-change, never) and github-token, which needs
    `actions: read` and `pull-requests: write`; sets the output comment-url, one line for each
    key. Checks nothing out and executes nothing.
    """
    from ci_flame.github import other_run, runner

    urls = other_run.publish_comments(runner.job(), runner.given_input("comment", "auto"))
    runner.output(comment_url="\n".join(urls))


@github.command()
def gate() -> int:
    """End with the exit code of the check; the last step.

    Reads exit-code, outcome and why of the check, which word the error that it ends with.
    """
    from ci_flame.github import gate as step
    from ci_flame.github import runner

    code, why = step.gate(
        runner.given_input("exit-code"), runner.given_input("outcome"), runner.given_lines("why")
    )
    if code:
        runner.annotate("error", why)
    return code
