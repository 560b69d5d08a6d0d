"""Edge: the last step but one: annotations, job summary, comment and outputs of a check.

Nothing of it ends the build: what could not be published is one warning with its cure, and what
GitHub does not allow a fork's build is one notice.
"""

import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Final, TypeVar

from ci_flame import report_folder
from ci_flame.errors import CiFlameError, FormatError, UsageError
from ci_flame.github import commands, comment, plain, runner, sticky, verdict_json
from ci_flame.github.annotations import annotations, left_out
from ci_flame.github.api import Api, ApiError
from ci_flame.github.comment import Build
from ci_flame.github.compared import Compared, really
from ci_flame.github.job import Job
from ci_flame.github.verdict_json import Told
from ci_flame.report import markdown
from ci_flame.report.words import plural

T = TypeVar("T")
SUMMARY_NAME: Final = "summary.md"
SUMMARY_BYTES: Final = 1_000_000
"""Of GitHub's MAX_SUMMARY; the rest is room for what another part of the step may write."""
ERROR: Final = "error"
_CUT: Final = "_Cut here: the summary is longer than GitHub shows. The report has all of it._"
_FORBIDDEN: Final = 403
_ABSENT: Final = (404, 410, 422)


@dataclass(frozen=True, slots=True)
class Inputs:
    """What the earlier steps hand over."""

    report: Path | None
    """None: the check wrote none."""
    outcome: str
    exit_code: int
    mode: str
    """When to comment."""
    page_url: str
    report_url: str
    base: str
    source: str
    distance: int
    told: str
    """What it was compared with, or why with nothing, in the words of the step that found it."""
    why: tuple[str, ...] = ()
    """What failed beside the verdict, or instead of it."""
    docs: str = ""
    """Address of the action's documentation; empty: not known."""


def inputs() -> Inputs:
    """Return the inputs in the environment; `must_be_mode` says whether `comment` is a word."""
    mode = runner.given_input("comment", "auto")
    report = runner.given_input("report")
    return Inputs(
        report=Path(report) if report else None,
        outcome=runner.given_input("outcome"),
        exit_code=number(runner.given_input("exit-code"), 3),
        mode=mode,
        page_url=runner.given_input("page-url"),
        report_url=runner.given_input("report-url"),
        base=runner.given_input("baseline-sha"),
        source=runner.given_input("baseline-source"),
        distance=number(runner.given_input("baseline-distance"), 0),
        told=runner.given_input("baseline-told"),
        why=runner.given_lines("why"),
        docs=docs(os.environ),
    )


def docs(given: Mapping[str, str]) -> str:
    """Return the address of the documentation of the action that runs; empty where it is unknown.

    Of a local action GitHub does not say whose it is.
    """
    name = plain.repository(given.get("GITHUB_ACTION_REPOSITORY", ""))
    ref = plain.line(given.get("GITHUB_ACTION_REF", ""))
    server = given.get("GITHUB_SERVER_URL", "").rstrip("/")
    url = f"{server}/{name}/blob/{ref}/docs"
    return url if name and ref and comment.is_address(url) else ""


def must_be_mode(word: str) -> None:
    """Raise UsageError where the input `comment` is none of its words."""
    if word not in comment.MODES:
        raise UsageError(
            f"input comment is {word[:100]!r}", f"it may be {', '.join(comment.MODES)}"
        )


def number(text: str, otherwise: int) -> int:
    """Return a whole number of at most nine digits; `otherwise` for anything else."""
    fits = text.isascii() and text.isdecimal() and len(text) < 10  # noqa: PLR2004 - of an int32
    return int(text) if fits else otherwise


def publish(job: Job, asked: Inputs) -> None:
    """Publish whatever can be published.

    Raises UsageError where the input `comment` is none of its words, after all else.
    """
    for note in job.notes:
        runner.say(note)
    told = _guarded("the verdict was not read", lambda: read(asked))
    judged = None if asked.outcome == ERROR else told
    build = _build(job, asked, told)
    if told is not None:
        _annotate(told)
    if judged is not None and asked.why:
        runner.annotate("warning", f"besides the verdict: {'; '.join(asked.why)}")
    _guarded("the job summary was not written", lambda: _summarise(asked, told, judged, build))
    url = _guarded("no comment was written", lambda: _comment(job, asked, judged, build)) or ""
    outcome = ERROR if judged is None else judged.outcome.value
    _guarded("no outputs were set", lambda: runner.output(outcome=outcome, comment_url=url))
    must_be_mode(asked.mode)


def read(asked: Inputs) -> Told | None:
    """Return what the report tells; None where there is none. FormatError by name."""
    if asked.report is None:
        return None
    place = asked.report / report_folder.VERDICT_NAME
    return verdict_json.decode(_bytes(place, verdict_json.MAX_BYTES), str(place))


def summary(
    text: str, told: Told | None, judged: Told | None, build: Build, limit_bytes: int
) -> str:
    """Return the summary with links below its headline; at most `limit_bytes` of UTF-8.

    `text` is `summary.md`; empty where there is none. `told` is what there is of a verdict,
    `judged` the same where it is the verdict on the build.
    """
    # Its own headline tells neither the leg of the matrix nor what failed beside it.
    rest = text.partition("\n\n")[2]
    if judged is None:
        blocks = [f"## {comment.stopped(told, build)}", *comment.reasons(told, build)]
    else:
        blocks = [f"## {comment.headline(judged, build)}", *comment.reasons(judged, build)]
        blocks += comment.cures(judged, build)
    blocks += comment.foot(judged, build)
    return markdown.fit("\n\n".join((*blocks, rest)).rstrip("\n") + "\n", limit_bytes, _CUT)


def _build(job: Job, asked: Inputs, told: Told | None) -> Build:
    found = Compared(source=asked.source, sha=asked.base, distance=asked.distance, told=asked.told)
    was = really(told, found)
    return Build(
        key=job.key,
        run_id=job.run_id,
        run_attempt=job.run_attempt,
        exit_code=asked.exit_code,
        commit=(job.pull.head_sha if job.pull else "") or job.sha,
        base=was.sha,
        source=was.source,
        distance=was.distance or 0,
        told=plain.line(was.told[: plain.MAX_LINE]),
        again=was.again,
        page_url=asked.page_url,
        report_url=asked.report_url,
        run_url=job.run_url,
        why=asked.why,
        docs=asked.docs,
    )


def _annotate(told: Told) -> None:
    for each in annotations(told):
        runner.annotate(each.level, each.message, title=each.title, file=each.file, line=each.line)
    if more := left_out(told):
        runner.say(f"{plural(more, 'function')} more with a finding: see the job summary")


def _summarise(asked: Inputs, told: Told | None, judged: Told | None, build: Build) -> None:
    text = ""
    if asked.report is not None and asked.report.exists():
        place = asked.report / SUMMARY_NAME
        data = _guarded("the summary was not read", lambda: _bytes(place, commands.MAX_SUMMARY))
        text = (data or b"").decode("utf-8", "replace")
    there = 0
    if page := os.environ.get("GITHUB_STEP_SUMMARY"):
        there = Path(page).stat().st_size if Path(page).exists() else 0
    runner.summary(
        summary(text, told, judged, build, SUMMARY_BYTES - min(there, SUMMARY_BYTES // 2))
    )


def _comment(job: Job, asked: Inputs, judged: Told | None, build: Build) -> str:
    """Comment on the pull request of the job, if it has one; return the comment's address."""
    if job.pull is None or asked.mode == "never" or asked.mode not in comment.MODES:
        return ""
    if not job.has_token:
        runner.say("no comment: the step has no token (input github-token)")
        return ""
    try:
        return write(job, job.pull.number, judged, build, asked.mode)
    except ApiError as error:
        if job.may_only_read and error.status == _FORBIDDEN:
            runner.annotate(
                "notice",
                "no comment: GitHub lets this build only read (a pull request from a fork or of"
                " Dependabot). The job summary has it all; a workflow_run workflow with"
                " actions/comment can comment",
            )
        elif not excused(error, job.pull.number):
            raise
        return ""


def write(job: Job, pull: int, judged: Told | None, build: Build, mode: str) -> str:
    """Write, update or leave the comment, say which, and return its address; ApiError."""
    token = runner.token()
    api = Api(job.api_url, token)
    # Of a GitHub server of one's own, REST is below /api/v3 and GraphQL is /api/graphql.
    author = sticky.author_of(Api(job.api_url.removesuffix("/v3"), token))
    result = sticky.Comments(api, job.repository, pull, author).tell(judged, build, mode)
    words = {
        sticky.Done.OLDER: "left as it is: a later build has written it",
        sticky.Done.SILENT: "none: nothing to tell (input comment)",
    }
    runner.say(f"comment on #{pull} for {build.key}: {words.get(result.done, result.done)}")
    return result.url


def excused(error: CiFlameError, pull: int) -> bool:
    """Say in a notice why nobody could comment there; False where the cure is the reader's."""
    if not isinstance(error, ApiError):
        return False
    is_locked = error.status == _FORBIDDEN and "locked" in error.message
    if is_locked or error.status in _ABSENT:
        why = "the conversation is locked" if is_locked else error.message
        runner.annotate("notice", f"no comment on #{pull}: {why}")
        return True
    return False


def warn(what: str, error: CiFlameError) -> None:
    """Print one warning, with the cure."""
    hint = error.hint
    if isinstance(error, ApiError) and error.status == _FORBIDDEN:
        hint = "give the job `permissions: {pull-requests: write}`, or set the input comment: never"
    runner.annotate("warning", "; ".join(filter(None, (f"{what}: {error.message}", hint))))


def _guarded(what: str, do: Callable[[], T]) -> T | None:
    """Return what `do` returns; None, and one warning with the cure, where it could not."""
    try:
        return do()
    except CiFlameError as error:
        warn(what, error)
    except OSError as error:
        warn(what, CiFlameError((error.strerror or type(error).__name__).lower()))
    return None


def _bytes(place: Path, limit: int) -> bytes:
    try:
        with place.open("rb") as file:
            data = file.read(limit + 1)
    except OSError as error:
        reason = (error.strerror or type(error).__name__).lower()
        raise FormatError(str(place), f"cannot be read: {reason}") from None
    if len(data) > limit:
        raise FormatError(str(place), f"more than {limit:,} bytes")
    return data
