"""Pure: which artifacts may be a baseline: where each comes from, checked rule by rule.

Forks share a repository's artifacts, and a fork may call its branch `main`; so nothing that
an artifact says of itself counts. What GitHub says of it and of its run must fit in every
point, and the run inside must be of the commit that GitHub names.
"""

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Final

from ci_flame.github.plain import line, number, sha, workflow

EVENTS: Final = ("push", "schedule", "workflow_dispatch")
"""What starts a run of code that is on a branch of the repository itself."""
MAX_ZIP: Final = 256 << 20
"""Bytes of an artifact that is downloaded."""
_DIGEST: Final = re.compile(r"sha256:[0-9a-f]{64}", re.ASCII)


@dataclass(frozen=True, slots=True)
class Artifact:
    """What GitHub's list says of an artifact; empty and 0 is what it does not say."""

    id: int
    name: str
    size: int
    """Bytes of the zip."""
    digest: str
    """`sha256:` and 64 hex digits, of the zip."""
    expired: bool
    run_id: int
    head_sha: str
    head_branch: str
    repository_id: int
    head_repository_id: int


@dataclass(frozen=True, slots=True)
class Origin:
    """What GitHub says of the run that uploaded an artifact."""

    run_id: int
    event: str
    workflow_path: str
    head_sha: str
    head_branch: str
    repository_id: int
    head_repository_id: int


@dataclass(frozen=True, slots=True)
class Wanted:
    """What a baseline must be."""

    name: str
    """Of the artifact."""
    branch: str
    workflow_path: str
    repository_id: int
    """0: not known; GitHub's own answers must then still agree with one another."""


def read_artifact(value: object) -> Artifact | None:
    """Return what an entry of GitHub's list says; None where it is none."""
    if not isinstance(value, Mapping):
        return None
    run = value.get("workflow_run")
    run = run if isinstance(run, Mapping) else {}
    id_, name = number(value.get("id")), line(value.get("name"))
    if not id_ or not name:
        return None
    digest = line(value.get("digest"))
    return Artifact(
        id=id_,
        name=name,
        size=number(value.get("size_in_bytes")),
        digest=digest if _DIGEST.fullmatch(digest) else "",
        # Anything but a clear no is a yes.
        expired=value.get("expired") is not False,
        run_id=number(run.get("id")),
        head_sha=sha(run.get("head_sha")),
        head_branch=line(run.get("head_branch")),
        repository_id=number(run.get("repository_id")),
        head_repository_id=number(run.get("head_repository_id")),
    )


def read_origin(value: object) -> Origin | None:
    """Return what GitHub says of a run; None where it is none."""
    if not isinstance(value, Mapping) or not number(value.get("id")):
        return None

    def repository(key: str) -> int:
        inner = value.get(key)
        return number(inner.get("id")) if isinstance(inner, Mapping) else 0

    return Origin(
        run_id=number(value.get("id")),
        event=line(value.get("event")),
        workflow_path=workflow(value.get("path")),
        head_sha=sha(value.get("head_sha")),
        head_branch=line(value.get("head_branch")),
        repository_id=repository("repository"),
        head_repository_id=repository("head_repository"),
    )


def in_order(
    artifacts: Iterable[Artifact], distances: Mapping[str, int]
) -> tuple[tuple[int, Artifact], ...]:
    """Return those of the commits asked for: the nearest first, of one commit the newest first.

    `distances` maps a commit to its steps from the base along first parents.
    """
    found = {each.id: (distances[each.head_sha], each) for each in artifacts
             if each.head_sha in distances}  # fmt: skip
    return tuple(sorted(found.values(), key=lambda each: (each[0], -each[1].id)))


def refused_as_listed(artifact: Artifact, wanted: Wanted) -> str:
    """Return why an artifact is no baseline by what the list says of it; empty: it may be."""
    checks = (
        (artifact.name == wanted.name, f"its name is {_shown(artifact.name)}"),
        (not artifact.expired, "it has expired"),
        (bool(artifact.digest), "GitHub tells no sha256 of it"),
        (0 < artifact.size <= MAX_ZIP, f"it is {artifact.size} bytes; the limit is {MAX_ZIP}"),
        (bool(artifact.run_id), "GitHub does not tell its run"),
        (bool(artifact.head_sha), "GitHub does not tell its commit"),
    )
    return _first(checks) or _of_a_stranger(artifact, wanted)


def refused_by_origin(artifact: Artifact, origin: Origin, wanted: Wanted) -> str:
    """Return why an artifact is no baseline by what its run is; empty: it may be one.

    The run has the last word; where the list and the run contradict each other, neither has.
    """
    started = f"its run was started by {_shown(origin.event) or 'nothing told'}, not by "
    other = f"its workflow is {_shown(origin.workflow_path) or 'not told'}, not "
    checks = (
        (origin.run_id == artifact.run_id, "GitHub answered with another run"),
        (origin.event in EVENTS, f"{started}{', '.join(EVENTS[:-1])} or {EVENTS[-1]}"),
        (bool(wanted.workflow_path), "GITHUB_WORKFLOW_REF does not tell this job's workflow"),
        (origin.workflow_path == wanted.workflow_path, f"{other}{wanted.workflow_path}"),
        (origin.head_sha == artifact.head_sha, "its run is of another commit than it"),
    )
    return _first(checks) or _of_a_stranger(origin, wanted)


def _of_a_stranger(told: Artifact | Origin, wanted: Wanted) -> str:
    home = wanted.repository_id or told.repository_id
    branch = _shown(told.head_branch) or "not told"
    return _first(
        (
            (bool(told.head_repository_id), "GitHub does not tell the repository of its code"),
            (told.repository_id == home, "it is of another repository"),
            (told.head_repository_id == home, "its code is of a fork"),
            (bool(wanted.branch), "the branch that a baseline must be of is not known"),
            (told.head_branch == wanted.branch, f"its branch is {branch}, not {wanted.branch}"),
        )
    )


def _first(checks: Iterable[tuple[bool, str]]) -> str:
    return next((reason for good, reason in checks if not good), "")


def _shown(text: str) -> str:
    return text if len(text) <= 100 else f"{text[:100]}…"  # noqa: PLR2004 - of a message
