"""Edge: comments on the pull request of another run, from a `workflow_run` job that may write.

A fork's build may comment nothing, so a second workflow does it for it. What the first uploaded
is a stranger's: nothing of it is executed, and its verdict is read strictly and worded again.
Which pull request it is for is what GitHub says of the run, never what the artifact says.
"""

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from typing import Final

from ci_flame import report_folder
from ci_flame.errors import CiFlameError, FormatError, UsageError
from ci_flame.github import artifacts, plain, publish, runner, verdict_json
from ci_flame.github.api import Api, ApiError
from ci_flame.github.comment import Build
from ci_flame.github.compared import Compared, really
from ci_flame.github.job import Job, Trigger, artifact_of_report
from ci_flame.github.origin import Artifact
from ci_flame.github.verdict_json import Told
from ci_flame.report.words import plural
from ci_flame.verdict import Outcome

MAX_KEYS: Final = 20
"""Comments for one run; a fork may upload as many reports as it likes."""
_KEY: Final = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,79}")
_EVENT: Final = "pull_request"


@dataclass(frozen=True, slots=True)
class Report:
    """The report of one key, and the address of its page; empty: there is none."""

    key: str
    artifact: Artifact
    page_url: str


def publish_comments(job: Job, mode: str) -> tuple[str, ...]:
    """Comment on the pull request of the run that started this job, once for each key.

    Returns the addresses of the comments that there are now.

    Raises UsageError where this is no `workflow_run` job, ApiError where GitHub refuses to tell
    what there is; what cannot be written is a notice or a warning.
    """
    publish.must_be_mode(mode)
    if job.trigger is None or not job.repository:
        raise UsageError(
            f"event {job.event or 'unknown'!r} tells of no other run",
            "start this workflow by `on: workflow_run`",
        )
    if job.trigger.event != _EVENT:
        runner.say(f"no comment: run {job.trigger.run_id} was started by {job.trigger.event!r}")
        return ()
    api = Api(job.api_url, runner.token())
    pull = _pull(api, job.repository, job.trigger)
    if not pull:
        return ()
    conclusion = _conclusion(api, job.repository, job.trigger)
    found = artifacts.of_run(api, job.repository, job.trigger.run_id)
    reports = list_reports(found, _run_url(job, job.trigger))
    if not reports:
        prefix = artifact_of_report("")
        gone = any(each.expired and each.name.startswith(prefix) for each in found)
        why = "has a report that expired (retention-days)" if gone else "has uploaded no report"
        runner.say(f"no comment on #{pull}: run {job.trigger.run_id} {why}")
    if len(reports) > MAX_KEYS:
        runner.annotate(
            "notice", f"{plural(len(reports), 'report')}; the first {MAX_KEYS} are told"
        )
    urls = []
    for report in reports[:MAX_KEYS]:
        try:
            told = read(
                artifacts.fetch(api, job.repository, report.artifact),
                artifacts.named(report.artifact),
            )
            build = replace(_build(job, job.trigger, report, told), conclusion=conclusion)
            urls.append(publish.write(job, pull, told, build, mode))
        except CiFlameError as error:
            if not publish.excused(error, pull):
                publish.warn(f"no comment for {report.key}", error)
    return tuple(url for url in urls if url)


def list_reports(found: Iterable[Artifact], run_url: str) -> list[Report]:
    """Return the reports among a run's artifacts by key, the newest of each name."""
    newest: dict[str, Artifact] = {}
    for each in sorted(found, key=lambda artifact: artifact.id):
        if not each.expired:
            newest[each.name] = each
    prefix = artifact_of_report("")
    reports = []
    for name in sorted(newest):
        key = name.removeprefix(prefix)
        if not name.startswith(prefix) or not _KEY.fullmatch(key):
            continue
        page = newest.get(f"ci-flame-{key}.html")
        url = f"{run_url}/artifacts/{page.id}" if page and run_url else ""
        reports.append(Report(key, newest[name], url))
    return reports


def read(data: bytes, source: str) -> Told:
    """Return what the zip of a report folder tells; FormatError by name."""

    def limit_of(name: str) -> int:
        return verdict_json.MAX_BYTES if name == report_folder.VERDICT_NAME else 0

    files = artifacts.unpack(data, source, limit_of)
    if report_folder.VERDICT_NAME not in files:
        raise FormatError(source, f"it holds no {report_folder.VERDICT_NAME}: it is not a report")
    return verdict_json.decode(files[report_folder.VERDICT_NAME], source)


def _build(job: Job, trigger: Trigger, report: Report, told: Told) -> Build:
    run_url = _run_url(job, trigger)
    was = really(told, Compared())
    return Build(
        key=report.key,
        run_id=trigger.run_id,
        run_attempt=trigger.run_attempt,
        exit_code=int(told.outcome is Outcome.FAIL),
        commit=trigger.head_sha,
        base=was.sha,
        source=was.source,
        again=was.again,
        page_url=report.page_url,
        report_url=f"{run_url}/artifacts/{report.artifact.id}" if run_url else "",
        run_url=run_url,
        foreign=trigger.head_repository_id != job.repository_id,
    )


def _conclusion(api: Api, repository: str, trigger: Trigger) -> str:
    """Return how GitHub says that the run ended; empty where it has not, or cannot be asked.

    A report is its build's own word. Where that word is that nothing failed, and the run failed,
    the comment says so.
    """
    try:
        told = api.get(f"/repos/{repository}/actions/runs/{trigger.run_id}")
    except ApiError as error:
        runner.annotate("warning", f"how the run ended is not known: {error.message}")
        return ""
    return plain.line(told.get("conclusion")) if isinstance(told, dict) else ""


def _pull(api: Api, repository: str, trigger: Trigger) -> int:
    """Return the number of the run's pull request; 0, and a line why, where it is not clear.

    GitHub's list of the pull requests of a commit is empty for commits of forks, and so is that
    in the event of a fork's run; the list by head branch is not.
    """
    if not (trigger.head_repository and trigger.head_branch and trigger.head_sha):
        runner.annotate("notice", "no comment: the fork or the branch of the run is gone")
        return 0
    owner = trigger.head_repository.partition("/")[0]
    values = api.pages(
        f"/repos/{repository}/pulls", state="open", head=f"{owner}:{trigger.head_branch}"
    )
    numbers = sorted({number for value in values if (number := number_of(value, trigger))})
    if len(numbers) == 1:
        return numbers[0]
    if numbers:
        told = ", ".join(f"#{each}" for each in numbers)
        runner.annotate(
            "notice", f"no comment: {told} have the same head commit, and the run is of one of them"
        )
    else:
        runner.annotate(
            "notice",
            f"no comment: no open pull request has {trigger.head_sha[:10]} as its head commit; it"
            " has another one since, or is closed",
        )
    return 0


def number_of(value: object, trigger: Trigger) -> int:
    """Return the number of a listed pull request if it is of the run's very commit; else 0."""

    def at(*keys: str) -> object:
        inner = value
        for key in keys:
            inner = inner.get(key) if isinstance(inner, Mapping) else None
        return inner

    number = at("number")
    is_number = isinstance(number, int) and not isinstance(number, bool) and number > 0
    same = at("head", "sha") == trigger.head_sha and (
        at("head", "repo", "id") == trigger.head_repository_id
    )
    return number if isinstance(number, int) and is_number and same else 0


def _run_url(job: Job, trigger: Trigger) -> str:
    if not job.server_url:
        return ""
    return f"{job.server_url}/{job.repository}/actions/runs/{trigger.run_id}"
