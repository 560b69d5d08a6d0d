"""Edge: what a job of GitHub Actions is compared with: the first of these that can be had.

    what the input names        folder, git, store or rerun, as it is
    artifact of the base        of exactly the commit that the pull request was merged into
    artifact of an ancestor     the nearest one along first parents; the distance is said
    rerun                       the base commit, recorded in this job beside the head
    none                        the first commit of all: passes, and says so

Whatever is in the way of one of them is said in one line, and the next one is tried: neither a
service that is down nor an artifact that was tampered with ends the build.
"""

import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Final

from ci_flame.baseline import ci_base, git
from ci_flame.baseline.ci_base import Base
from ci_flame.config import load as load_config
from ci_flame.config import parse_baseline
from ci_flame.config.baselines import BaselineKind, Rerun
from ci_flame.errors import BaselineError, CiFlameError, FormatError, UsageError
from ci_flame.github import artifacts, origin, runner
from ci_flame.github.api import Api, ApiError
from ci_flame.github.job import Job, artifact_of_run
from ci_flame.github.origin import Artifact, Wanted

WORDS: Final = ("auto", "artifact", "rerun", "none")
"""What the input `baseline` may be, besides FORMS."""
FORMS: Final = (BaselineKind.RERUN, BaselineKind.FOLDER, BaselineKind.GIT, BaselineKind.STORE,
                BaselineKind.TREE)  # fmt: skip
MAX_ANCESTORS: Final = 250
WARN_DISTANCE: Final = 50
"""An ancestor farther than this is likely to differ by more than the change."""
MAX_TRIED: Final = 8
"""Artifacts that are looked into, the nearest first."""
MAX_TOLD: Final = 20
SEARCH_S: Final = 300.0
"""After this long no further artifact is looked into: the base can be recorded meanwhile."""
_COMMITS_ASKED: Final = 300


@dataclass(frozen=True, slots=True)
class Wishes:
    """The inputs that choose a baseline."""

    baseline: str = "auto"
    branch: str = ""
    """Of which a baseline must be; empty: the pull request's base, or the default branch."""
    policy: Path | None = None


@dataclass(frozen=True, slots=True)
class Resolved:
    """What the job is compared with."""

    word: str
    """For `--baseline`."""
    source: str
    """`given`, `artifact`, `ancestor`, `rerun` or `none`."""
    sha: str = ""
    distance: int | None = None
    """First parents from the base commit to the baseline's; None: not known."""
    told: str = ""
    """What it is, in one line."""
    notes: tuple[str, ...] = ()
    """What was refused or not to be had, each in one line."""
    trouble: str = ""
    """Why GitHub's artifacts could not be asked for, or kept: more than a line of the log."""
    warning: str = ""


@dataclass(slots=True)
class _Said:
    """What is to be told in the end, in the order in which it was found."""

    notes: list[str] = field(default_factory=list)
    trouble: str = ""

    def refused(self, artifact: Artifact, reason: str) -> None:
        self.notes.append(f"{artifacts.named(artifact)} is refused: {reason}")


def resolve(
    job: Job, wishes: Wishes, start: Path, place: Path, connect: Callable[[], Api]
) -> Resolved:
    """Return the baseline of the job that runs in `start`; artifacts are put into `place`.

    `connect` returns the API; it is called where an artifact is looked for. Raises UsageError
    where the input is wrong, BaselineError where the base commit must be recorded and cannot
    be had.
    """
    config = load_config(wishes.policy, start=start)
    if wishes.baseline == "auto" and config.baseline.kind is not BaselineKind.AUTO:
        told = f"baseline {config.baseline}, as {config.policy_file} says"
        return Resolved(str(config.baseline), "given", told=told)
    if wishes.baseline not in WORDS:
        return given(wishes.baseline, start)
    if wishes.baseline == "none":
        return Resolved("none", "none", told="no baseline: the input says none")
    base = base_commit(job, start)
    if not base.commit:
        return Resolved("none", "none", told=f"no baseline: {base.told}")
    said = _Said()
    found = None
    if wishes.baseline != "rerun":
        found = _stored(job, wishes, start, place, base.commit, connect, said)
    never = config.base.rerun is Rerun.NEVER
    chosen = found or _recorded(base, wishes.baseline, start, never=never)
    return replace(chosen, notes=tuple(said.notes[:MAX_TOLD]), trouble=said.trouble)


def _recorded(base: Base, word: str, start: Path, *, never: bool) -> Resolved:
    """Return the base commit to be recorded here, or nothing where that is not wanted."""
    if word == "artifact":
        told = f"no baseline: no artifact of {base.commit[:10]} or a commit before it can be used"
        return Resolved("none", "none", told=told)
    if word == "auto" and never:
        told = "no baseline: no artifact can be used, and the policy says rerun: never"
        return Resolved("none", "none", told=told)
    commit = _fetched(base, start)
    told = f"baseline {commit[:10]}, {base.told}, is recorded in this job"
    return Resolved(f"rerun:{commit}", "rerun", commit, 0, told)


def place_of(job: Job) -> Path:
    """Return the folder that an artifact is put into; the runner empties what is around it."""
    return runner.scratch(job) / f"baseline-{job.key}"


def given(word: str, start: Path) -> Resolved:
    """Return a baseline that the input names; UsageError where it is not one."""
    kind, colon, _value = word.partition(":")
    if not colon or kind not in FORMS:
        raise UsageError(
            f"input baseline is {word[:100]!r}",
            "it may be auto, artifact, rerun, none, rerun:REV, folder:DIR, git:REV or store:DIR",
        )
    spec = parse_baseline(word)
    sha = ""
    if spec.kind in (BaselineKind.RERUN, BaselineKind.GIT):
        # Whether it can be had is the check's to say: it needs it, this line does not.
        try:
            top = git.top_level(start)
            revision = git.split(spec.value)[0] if spec.kind is BaselineKind.GIT else spec.value
            sha = git.resolve(revision, top)
        except BaselineError:
            sha = ""
    return Resolved(str(spec), "given", sha, told=f"baseline {spec}, as the input says")


def _fetched(base: Base, start: Path) -> str:
    try:
        return git.have(base.commit, git.top_level(start))
    except BaselineError as error:
        raise BaselineError(
            f"the base commit {base.commit[:10]} is not in this checkout: {error.message}",
            "give actions/checkout `fetch-depth: 2`, or the input baseline another word",
        ) from None


# -- the base commit ------------------------------------------------------------------


def base_commit(job: Job, start: Path) -> Base:
    """Return the commit that the change is told from; an empty one where there is none.

    A pull request is checked out merged into its base, and the first parent of that merge is
    exactly the base that was merged: unlike the payload's `base.sha`, which is not kept up to
    date, and unlike the merge base, it is what the tree differs from by the pull request.
    """
    try:
        top = git.top_level(start)
    except BaselineError as error:
        cure = "run actions/checkout before this action"
        raise BaselineError(
            error.message, f"{cure}; {error.hint}" if error.hint else cure
        ) from None
    parents = git.parents(top)
    head = git.state(top).commit
    merged = len(parents) > 1 and (
        head == job.sha or (job.pull is not None and parents[1] == job.pull.head_sha)
    )
    if job.pull is not None and not merged and job.base_branch:
        return ci_base.find({"GITHUB_BASE_REF": job.base_branch}, start)
    if not parents:
        return Base("", "HEAD is the first commit, there is nothing before it")
    of = f"the merge into {job.base_branch}" if job.pull is not None and merged else "HEAD"
    return Base(parents[0], f"the first parent of {of}")


# -- artifacts ------------------------------------------------------------------------


def _stored(  # noqa: PLR0917 - what `resolve` was given, and what it found
    job: Job,
    wishes: Wishes,
    start: Path,
    place: Path,
    base: str,
    connect: Callable[[], Api],
    said: _Said,
) -> Resolved | None:
    """Return the nearest stored run that may be a baseline; None, and why in `said`."""
    if not job.repository:
        said.notes.append("no artifact is looked for: GITHUB_REPOSITORY is not set")
        return None
    if not job.has_token:
        said.notes.append("no artifact is looked for: the job has no token (input github-token)")
        return None
    try:
        search = _Search(connect(), job, wishes, place, said)
        return search.exact(base) or search.nearest(base, start)
    except ApiError as error:
        said.trouble = f"no artifact could be had: {error.message} ({error.hint})"
    except CiFlameError as error:
        # The disk is full: the base commit can still be recorded.
        said.trouble = f"no artifact could be kept: {error.message}"
    return None


class _Search:
    """Artifacts of this job's key, tried one after the other."""

    def __init__(self, api: Api, job: Job, wishes: Wishes, place: Path, said: _Said) -> None:
        self._api = api
        self._job = job
        self._place = place
        self._said = said
        self._tried: set[int] = set()
        self._looked = 0
        self._until = time.monotonic() + SEARCH_S
        self._seen: list[Artifact] = []
        name = artifact_of_run(job.key)
        branch = wishes.branch or job.base_branch or job.default_branch or self._default_branch()
        path = job.workflow_path or self._own_workflow()
        self._wanted = Wanted(name, branch, path, job.repository_id)
        self._more = artifacts.listed(api, job.repository, name)

    def exact(self, base: str) -> Resolved | None:
        """Return the base commit's own; the list is read no further than to it."""
        for each in self._more:
            self._seen.append(each)
            if self._looked >= MAX_TRIED:
                break
            if each.head_sha == base and self._good(each):
                told = f"baseline: the artifact of {base[:10]}, the base commit itself"
                return Resolved(f"folder:{self._place}", "artifact", base, 0, told)
        return None

    def nearest(self, base: str, start: Path) -> Resolved | None:
        """Return the nearest ancestor's along first parents; the whole list was read."""
        left = [each for each in self._seen if each.id not in self._tried]
        if not left:
            if not self._seen:
                self._said.notes.append(f"there is no artifact {self._wanted.name} yet")
            return None
        line = self._ancestors(base, start)
        distances = {sha: number for number, sha in enumerate(line)}
        candidates = origin.in_order(left, distances)
        if not candidates:
            self._said.notes.append(
                f"no artifact {self._wanted.name} is of {base[:10]} or one of the"
                f" {len(line) - 1} commits before it"
            )
        for distance, each in candidates:
            if self._looked >= MAX_TRIED:
                self._said.notes.append(f"after {MAX_TRIED} artifacts no further one is looked at")
                break
            if self._good(each):
                return self._of_ancestor(each.head_sha, distance, base)
        return None

    def _of_ancestor(self, sha: str, distance: int, base: str) -> Resolved:
        commits = f"{distance} commit{'s' * (distance != 1)}"
        told = f"baseline: the artifact of {sha[:10]}, {commits} before the base {base[:10]}"
        warning = (
            f"the baseline is {commits} before the base commit; over {WARN_DISTANCE}, much of what"
            " grew may not be of this change (the input baseline: rerun compares with the base)"
        )
        warning = warning if distance > WARN_DISTANCE else ""
        word = f"folder:{self._place}"
        return Resolved(word, "ancestor", sha, distance, told, warning=warning)

    def _good(self, artifact: Artifact) -> bool:
        """Tell whether an artifact may be the baseline, which it then is: in its place."""
        if time.monotonic() > self._until:
            raise ApiError(f"no artifact was found within {SEARCH_S:g} s", "GitHub is slow today")
        self._tried.add(artifact.id)
        try:
            trouble = self._trouble(artifact)
        except FormatError as error:
            trouble = error.message
        except ApiError as error:
            # Of this one alone: it is gone, or too large. Anything else ends the search.
            if error.status not in (200, 404, 410):
                raise
            trouble = error.message
        if trouble:
            self._said.refused(artifact, trouble)
        return not trouble

    def _trouble(self, artifact: Artifact) -> str:
        """Return why an artifact is no baseline; empty: its run is in its place."""
        if reason := origin.refused_as_listed(artifact, self._wanted):
            return reason
        self._looked += 1
        told = self._api.get(f"/repos/{self._job.repository}/actions/runs/{artifact.run_id}")
        found = origin.read_origin(told)
        if found is None:
            return "GitHub says nothing of its run"
        if reason := origin.refused_by_origin(artifact, found, self._wanted):
            return reason
        data = artifacts.fetch(self._api, self._job.repository, artifact)
        try:
            run = artifacts.read_run(data, f"artifact {artifact.id}")
        except (BaselineError, FormatError) as error:
            return error.message
        if run.commit != artifact.head_sha:
            return f"the run in it is of commit {run.commit[:10] or 'none'}"
        artifacts.keep(run, self._place)
        return ""

    def _ancestors(self, base: str, start: Path) -> list[str]:
        """Return the base commit and its first parents, as far as anybody knows them."""
        top = git.top_level(start)
        parents = dict(_local(base, top))
        if base not in parents or git.is_shallow(top):
            # GitHub lists every ancestor, of merged branches too, each with its parents: what
            # counts is not the order of the list, but the line through the first ones.
            path = f"/repos/{self._job.repository}/commits"
            asked = self._api.pages(path, limit=_COMMITS_ASKED, sha=base)
            parents |= {sha: parent for each in asked for sha, parent in _first_parent(each)}
        return list(_line(base, parents))

    def _default_branch(self) -> str:
        told = self._api.get(f"/repos/{self._job.repository}")
        name = told.get("default_branch") if isinstance(told, Mapping) else ""
        return name if isinstance(name, str) and name.isprintable() else ""

    def _own_workflow(self) -> str:
        """Return the workflow of this very run, where no variable tells it."""
        if not self._job.run_id:
            return ""
        try:
            told = self._api.get(f"/repos/{self._job.repository}/actions/runs/{self._job.run_id}")
        except ApiError as error:
            if error.status != 404:  # noqa: PLR2004 - of HTTP: a local runner has no such run
                raise
            return ""
        found = origin.read_origin(told)
        return found.workflow_path if found else ""


def _local(base: str, top: Path) -> Iterator[tuple[str, str]]:
    """Yield commit and first parent of what this clone has, from the base on."""
    words = ("rev-list", "--first-parent", "--parents", f"--max-count={MAX_ANCESTORS}", base, "--")
    answer = git.call(words, top)
    for line in answer.stdout.decode(errors="replace").splitlines():
        sha, *parents = line.split()
        yield sha, parents[0] if parents else ""


def _first_parent(commit: Any) -> Iterator[tuple[str, str]]:  # noqa: ANN401 - JSON
    """Yield commit and first parent of an entry of GitHub's list; nothing where it is none."""
    try:
        sha, parents = commit["sha"], commit["parents"]
        parent = parents[0]["sha"] if parents else ""
    except (KeyError, TypeError, IndexError):
        return
    if isinstance(sha, str) and isinstance(parent, str):
        yield sha, parent


def _line(base: str, parents: Mapping[str, str]) -> Iterator[str]:
    """Yield a commit, its first parent, and so on; it ends, whatever the map says."""
    sha = base
    for _number in range(MAX_ANCESTORS):
        yield sha
        sha = parents.get(sha, "")
        if not sha:
            return
