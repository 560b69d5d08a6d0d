"""Pure: what GitHub Actions says of a job (its environment, the event's payload) -> `Job`.

All of it may be missing, for a local runner sets less than GitHub does, and what the payload of
a fork's pull request says was chosen by a stranger: texts are one line of bounded length, names
that become part of an address fit their pattern, and anything else is as good as absent.
"""

import hashlib
import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

from ci_flame.errors import UsageError
from ci_flame.github import plain

MAX_PAYLOAD: Final = 32 << 20
"""Bytes of an event's payload; GitHub's own webhooks end at 25 MB."""
MAX_KEY: Final = 80
_MAX_MATRIX: Final = 100_000
_URL: Final = re.compile(r"https?://[\w.:\[\]-]{1,250}(/[\w./-]{0,200})?", re.ASCII)
_NOT_IN_KEY: Final = re.compile(r"[^A-Za-z0-9._-]+")

Payload = Mapping[str, object]


@dataclass(frozen=True, slots=True)
class Pull:
    """The pull request that a job runs for."""

    number: int
    base_branch: str
    """Empty: not told."""
    head_sha: str
    """Tip of the pull request, not the merge that is checked out; empty: not told."""
    head_repository: str
    """`owner/name`; empty where it is not told, or the fork is gone."""
    fork: bool
    """True: the head is in another repository, and the token may write nothing."""


@dataclass(frozen=True, slots=True)
class Trigger:
    """The run that a `workflow_run` job was started by."""

    run_id: int
    run_attempt: int
    event: str
    workflow_path: str
    head_sha: str
    head_branch: str
    head_repository: str
    head_repository_id: int


@dataclass(frozen=True, slots=True)
class Job:
    """One job of a workflow; empty texts and zeros are what was not told."""

    event: str
    repository: str
    """`owner/name`."""
    repository_id: int
    run_id: int
    run_attempt: int
    job: str
    key: str
    """One name per job and matrix leg, fit for the name of a file or an artifact."""
    workflow_path: str
    """`.github/workflows/perf.yml`."""
    sha: str
    ref: str
    base_branch: str
    """What a pull request or a merge queue merges into."""
    default_branch: str
    pull: Pull | None
    trigger: Trigger | None
    api_url: str
    server_url: str
    workspace: str
    temp: str
    """Folder that the runner empties after the job; empty: use the system's."""
    actor: str
    has_token: bool
    notes: tuple[str, ...] = ()
    """What could not be understood, each in one line."""

    @property
    def pull_number(self) -> int | None:
        """Return the number of the pull request; None in other jobs."""
        return self.pull.number if self.pull else None

    @property
    def may_only_read(self) -> bool:
        """Tell whether GitHub gave the token no right to write, whatever the workflow asks for."""
        fork = self.pull is not None and self.pull.fork
        return (fork and self.event != "pull_request_target") or (
            self.actor == "dependabot[bot]" and self.event.startswith("pull_request")
        )

    @property
    def run_url(self) -> str:
        """Return the address of this run's page; empty where there is none."""
        if not (self.server_url and self.repository and self.run_id):
            return ""
        return f"{self.server_url}/{self.repository}/actions/runs/{self.run_id}"


def parse(given: Mapping[str, str], payload: str = "", *, has_token: bool = False) -> Job:
    """Return the job that the environment and the text of the event's payload describe.

    Raises UsageError where GITHUB_REPOSITORY or GITHUB_API_URL is not what it must be.
    """
    notes: list[str] = []
    event = _payload(payload, notes)
    repository = given.get("GITHUB_REPOSITORY", "").strip()
    if repository and not plain.repository(repository):
        raise UsageError(f"GITHUB_REPOSITORY is {repository[:100]!r}, not owner/name")
    return Job(
        event=plain.line(given.get("GITHUB_EVENT_NAME")),
        repository=repository or plain.repository(_at(event, "repository", "full_name")),
        repository_id=plain.decimal(given.get("GITHUB_REPOSITORY_ID", ""))
        or plain.number(_at(event, "repository", "id")),
        run_id=plain.decimal(given.get("GITHUB_RUN_ID", "")),
        run_attempt=plain.decimal(given.get("GITHUB_RUN_ATTEMPT", "")) or 1,
        job=plain.line(given.get("GITHUB_JOB")),
        key=_key(given, notes),
        workflow_path=_workflow(given.get("GITHUB_WORKFLOW_REF", ""), repository),
        sha=plain.sha(given.get("GITHUB_SHA")),
        ref=plain.line(given.get("GITHUB_REF")),
        base_branch=_base_branch(given, event),
        default_branch=plain.line(_at(event, "repository", "default_branch")),
        pull=_pull(event),
        trigger=_trigger(event),
        api_url=_url(given, "GITHUB_API_URL", "https://api.github.com"),
        server_url=_url(given, "GITHUB_SERVER_URL", "https://github.com"),
        workspace=given.get("GITHUB_WORKSPACE", ""),
        temp=given.get("RUNNER_TEMP", ""),
        actor=plain.line(given.get("GITHUB_ACTOR")),
        has_token=has_token,
        notes=tuple(notes),
    )


def artifact_of_run(key: str) -> str:
    """Return the artifact's name of the run folder that later builds compare with."""
    return f"ci-flame-run-{key}"


def artifact_of_report(key: str) -> str:
    """Return the artifact's name of the report folder."""
    return f"ci-flame-report-{key}"


def key_of(words: tuple[str, ...]) -> str:
    """Return the key of a name, or of a job and the values of its matrix leg.

    `("bench", "ubuntu-24.04", "3.12")` becomes `bench_ubuntu-24.04_3.12`. Where that does not
    tell all that the words tell, 8 hex digits of them follow: legs must never share a key.
    """
    slugs = [_NOT_IN_KEY.sub("-", word).strip("-.") for word in words]
    text = "_".join(slugs)
    # Of several words none may hold what stands between them.
    same = tuple(slugs) == words and (len(words) == 1 or "_" not in "".join(words))
    if same and 0 < len(text) <= MAX_KEY:
        return text
    digest = hashlib.sha256("\0".join(words).encode("utf-8", "surrogatepass")).hexdigest()[:8]
    kept = text[: MAX_KEY - 9].strip("-._")
    return f"{kept}-{digest}" if kept else f"job-{digest}"


def _key(given: Mapping[str, str], notes: list[str]) -> str:
    name = given.get("CI_FLAME_NAME", "").strip()
    if name:
        return key_of((name,))
    values = _matrix(given.get("CI_FLAME_MATRIX", ""), notes)
    return key_of((given.get("GITHUB_JOB", "").strip() or "job", *values))


def _matrix(text: str, notes: list[str]) -> tuple[str, ...]:
    """Return the values of a matrix leg by the names of its dimensions; `()` without a matrix."""
    if not text.strip():
        return ()
    try:
        leg = json.loads(text) if len(text) <= _MAX_MATRIX else text[: plain.MAX_LINE]
    except (ValueError, RecursionError):
        leg = text
    if leg is None or leg == {}:
        return ()
    if not isinstance(leg, dict):
        notes.append("CI_FLAME_MATRIX is no JSON object; give `${{ toJSON(matrix) }}`")
        return (str(leg),)
    return tuple(
        value if isinstance(value, str) else json.dumps(value, sort_keys=True)
        for _name, value in sorted(leg.items())
    )


def _payload(text: str, notes: list[str]) -> Payload:
    if not text.strip():
        return {}
    if len(text) > MAX_PAYLOAD:
        notes.append(f"the event's payload is longer than {MAX_PAYLOAD} bytes and was not read")
        return {}
    try:
        event = json.loads(text)
    except (ValueError, RecursionError):
        notes.append("the event's payload is broken JSON and was not read")
        return {}
    if isinstance(event, dict):
        return event
    notes.append("the event's payload is no JSON object and was not read")
    return {}


def _pull(event: Payload) -> Pull | None:
    number = plain.number(_at(event, "pull_request", "number"))
    if not number:
        return None
    head = plain.number(_at(event, "pull_request", "head", "repo", "id"))
    base = plain.number(_at(event, "pull_request", "base", "repo", "id"))
    name = plain.repository(_at(event, "pull_request", "head", "repo", "full_name"))
    base_name = plain.repository(_at(event, "pull_request", "base", "repo", "full_name"))
    # A payload that a local runner was given may say nothing of repositories; a head without
    # one, beside a base that has one, is a fork that was deleted.
    told = bool(base or base_name)
    return Pull(
        number=number,
        base_branch=plain.line(_at(event, "pull_request", "base", "ref")),
        head_sha=plain.sha(_at(event, "pull_request", "head", "sha")),
        head_repository=name,
        fork=told and (head != base or name.lower() != base_name.lower()),
    )


def _trigger(event: Payload) -> Trigger | None:
    run_id = plain.number(_at(event, "workflow_run", "id"))
    if not run_id:
        return None
    run = ("workflow_run",)
    return Trigger(
        run_id=run_id,
        run_attempt=plain.number(_at(event, *run, "run_attempt")) or 1,
        event=plain.line(_at(event, *run, "event")),
        workflow_path=plain.workflow(_at(event, *run, "path")),
        head_sha=plain.sha(_at(event, *run, "head_sha")),
        head_branch=plain.line(_at(event, *run, "head_branch")),
        head_repository=plain.repository(_at(event, *run, "head_repository", "full_name")),
        head_repository_id=plain.number(_at(event, *run, "head_repository", "id")),
    )


def _base_branch(given: Mapping[str, str], event: Payload) -> str:
    told = (
        given.get("GITHUB_BASE_REF"),
        _at(event, "pull_request", "base", "ref"),
        _at(event, "merge_group", "base_ref"),
    )
    found = next((line for each in told if (line := plain.line(each))), "")
    return found.removeprefix("refs/heads/")


def _workflow(ref: str, repository: str) -> str:
    """Return the path in `owner/name/.github/workflows/perf.yml@refs/heads/main`."""
    text = plain.line(ref)
    start = f"{repository}/".lower()
    return plain.workflow(text[len(start) :]) if text.lower().startswith(start) else ""


def _url(given: Mapping[str, str], name: str, default: str) -> str:
    text = given.get(name, "").strip().rstrip("/") or default
    if not _URL.fullmatch(text):
        # Not shown: an address may carry a password.
        raise UsageError(f"{name} is not the address of a server", f"for example {default}")
    return text


def _at(value: object, *keys: str) -> object:
    for key in keys:
        if not isinstance(value, Mapping):
            return None
        value = value.get(key)
    return value
