"""Edge: what a job of GitHub Actions is compared with: the first of these that can be had.

    what the input names        folder, git, store or rerun, as it is
    artifact of the base        of exactly the commit that the pull request was merged into
    artifact of an ancestor     the nearest one along first parents; the distance is said
                                beside either: artifacts of the commits before it
    rerun                       the base commit, recorded in this job beside the head
    none                        the first commit of all: passes, and says so

Whatever is in the way of one of them is said in one line, and the next one is tried: neither a
service that is down nor an artifact that was tampered with ends the build.
"""

import platform
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Final

from ci_flame.baseline import ci_base, folder, git
from ci_flame.baseline.ci_base import Base
from ci_flame.collect import machine
from ci_flame.config import Config, parse_baseline
from ci_flame.config import load as load_config
from ci_flame.config.baselines import BaselineKind, Rerun
from ci_flame.errors import BaselineError, CiFlameError, UsageError
from ci_flame.github import builds, runner
from ci_flame.github.api import Api, ApiError
from ci_flame.github.builds import Asked, Found, MachineClass, Said, Search
from ci_flame.github.comment import SEVERAL
from ci_flame.github.job import Job

WORDS: Final = ("auto", "artifact", "rerun", "none")
"""What the input `baseline` may be, besides FORMS."""
FORMS: Final = (BaselineKind.RERUN, BaselineKind.FOLDER, BaselineKind.GIT, BaselineKind.STORE,
                BaselineKind.TREE)  # fmt: skip
WARN_DISTANCE: Final = 50
"""An ancestor farther than this is likely to differ by more than the change."""
MAX_TOLD: Final = 20
DEFAULT_BUILDS: Final = 5
_REASONS: Final = 3
"""Notes that say, beside the reason itself, why there is no baseline."""


@dataclass(frozen=True, slots=True)
class Wishes:
    """The inputs that choose a baseline."""

    baseline: str = "auto"
    branch: str = ""
    """Of which a baseline must be; empty: the pull request's base, or the default branch."""
    policy: Path | None = None
    builds: int = 1
    """Stored builds to compare with, at most; of an ancestor or the base, and before it."""


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
    builds: int = 0
    """Stored builds that were found."""

    @property
    def sentence(self) -> str:
        """Return what the job is compared with; where with nothing, also what was in the way."""
        if self.source != "none":
            return self.told
        return "; ".join(filter(None, (self.told, self.trouble, *self.notes[:_REASONS])))


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
    said = Said()
    found = None
    if wishes.baseline != "rerun":
        # A build beside the baseline that the policy would not read is not asked for.
        number = min(wishes.builds, config.keep + 1)
        here = _machine(config) if number > 1 else None
        asked = Asked(base.commit, start, wishes.branch, number, here)
        found = _stored(job, asked, place, connect, said)
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


def words_of(job: Job) -> tuple[str, str]:
    """Return the words for what is put there: one build, and several."""
    place = place_of(job)
    return f"{BaselineKind.FOLDER}:{place}", f"{BaselineKind.STORE}:{builds.store_beside(place)}"


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
    if not head:
        return Base("", "the repository has no commit yet")
    if not parents:
        return Base("", "HEAD is the first commit, there is nothing before it")
    of = f"the merge into {job.base_branch}" if job.pull is not None and merged else "HEAD"
    return Base(parents[0], f"the first parent of {of}")


# -- artifacts ------------------------------------------------------------------------


def number_of_builds(text: str) -> int:
    """Return the input `baseline-builds`; UsageError where it is no number, or too large."""
    number = int(text) if text.isascii() and text.isdecimal() and len(text) <= 9 else 0  # noqa: PLR2004 - of an int32
    if not 1 <= number <= builds.MAX_BUILDS:
        raise UsageError(
            f"input baseline-builds is {text[:100]!r}",
            f"it may be 1 to {builds.MAX_BUILDS}; 1 compares with the baseline alone",
        )
    return number


def _machine(config: Config) -> MachineClass | None:
    """Return what machine class the job records on; None where it is not known."""
    if config.record.collector == "replay":
        try:
            return builds.class_of(folder.load(config.record.replay or Path()).environment)
        except CiFlameError:
            return None  # for the check to say
    return platform.machine(), machine.cpu_model()


def _stored(
    job: Job, asked: Asked, place: Path, connect: Callable[[], Api], said: Said
) -> Resolved | None:
    """Return the nearest stored run that may be a baseline; None, and why in `said`."""
    if not job.repository:
        said.notes.append("no artifact is looked for: GITHUB_REPOSITORY is not set")
        return None
    if not job.has_token:
        said.notes.append("no artifact is looked for: the job has no token (input github-token)")
        return None
    try:
        found = Search(connect(), job, asked, place, said).find()
    except ApiError as error:
        said.trouble = f"no artifact could be had: {error.message} ({error.hint})"
        return None
    except CiFlameError as error:
        # The disk is full: the base commit can still be recorded.
        said.trouble = f"no artifact could be kept: {error.message}"
        return None
    return None if found is None else _told(found, asked.base)


def _told(found: Found, base: str) -> Resolved:
    """Return the words for what was found."""
    commits = f"{found.distance} commit{'s' * (found.distance != 1)} before the base"
    near = found.distance == 0
    where = "the base commit itself" if near else f"{commits} {base[:10]}"
    told = f"baseline: the artifact of {found.sha[:10]}, {where}"
    if found.beside:
        first = "the base commit" if near else f"{found.distance} before the base"
        others = ("the same commit" if number == found.distance else f"{number} before"
                  for _sha, number in found.beside)  # fmt: skip
        shas = (found.sha, *(sha for sha, _number in found.beside))
        pairs = zip(shas, (first, *others), strict=True)
        listed = ", ".join(f"{sha[:10]} ({place})" for sha, place in pairs)
        told = f"{SEVERAL}{len(shas)} builds: {listed}"
    warning = (
        f"the baseline is {commits.removesuffix(' the base')} the base commit; over"
        f" {WARN_DISTANCE}, much of what grew may not be of this change"
        " (the input baseline: rerun compares with the base)"
    )
    return Resolved(
        found.word,
        "artifact" if near else "ancestor",
        found.sha,
        found.distance,
        told,
        warning=warning if found.distance > WARN_DISTANCE else "",
        builds=1 + len(found.beside),
    )
