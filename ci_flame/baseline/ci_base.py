"""Edge: which commit a CI job is compared with, where nobody named one.

    pull request          the merge base of HEAD and the target branch
    told by hand          the same, unless HEAD is on that branch
    any other build       the first parent of HEAD

A shallow clone that lacks the commit fetches it, no deeper than it must.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from ci_flame.baseline import git
from ci_flame.errors import BaselineError

TARGETS: Final[Mapping[str, str]] = {
    "CI_FLAME_TARGET_BRANCH": "any, told by its user",
    "GITHUB_BASE_REF": "GitHub",  # Gitea and Forgejo too; empty outside pull requests
    "CI_MERGE_REQUEST_TARGET_BRANCH_NAME": "GitLab",
    "BUILDKITE_PULL_REQUEST_BASE_BRANCH": "Buildkite",
    "CHANGE_TARGET": "Jenkins",
    "BITBUCKET_PR_DESTINATION_BRANCH": "Bitbucket",
    "SYSTEM_PULLREQUEST_TARGETBRANCH": "Azure Pipelines",
    "CIRRUS_BASE_BRANCH": "Cirrus CI",
    "CODEBUILD_WEBHOOK_BASE_REF": "CodeBuild",
    "CI_COMMIT_TARGET_BRANCH": "Woodpecker",
}
"""Variable -> CI system. Each holds the branch that a pull request is merged into."""
SIGNS: Final = ("CI", "GITHUB_ACTIONS", "GITLAB_CI", "BUILDKITE", "JENKINS_URL", "TF_BUILD",
                "CIRCLECI", "TEAMCITY_VERSION", "CODEBUILD_BUILD_ID")  # fmt: skip
"""Variables of which any says that this is a CI job."""
TOLD: Final = "CI_FLAME_TARGET_BRANCH"
"""Variable in which a user tells the target branch where his CI does not, for all builds."""
NAMED: Final = "CI_FLAME_BASE_COMMIT"
"""Variable in which a step of our own tells the base commit, full hash; it comes first."""
OURS: Final = "CI_FLAME_BASE_CHOSEN"
"""Variable in which it tells that the commit of `--baseline rerun:REV` is one that it chose."""
DISTANCE: Final = "CI_FLAME_BASE_DISTANCE"
"""Variable in which it tells how many commits before that one the stored run is of."""
WHY: Final = "CI_FLAME_WHY_NO_BASELINE"
"""Variable in which a step of our own tells why `--baseline none` is all that there is."""
_HASH: Final = re.compile(r"[0-9a-f]{40}|[0-9a-f]{64}", re.ASCII)
_NO: Final = frozenset({"", "0", "false", "no", "off"})
_DEPTHS: Final = (1, 50, 1000)
"""How far a shallow clone is deepened, in this order, until it holds the merge base."""


@dataclass(frozen=True, slots=True)
class Base:
    """The commit that a job is compared with."""

    commit: str
    told: str
    """In words: `the merge base with origin/main (GITHUB_BASE_REF)`."""


def in_ci(given: Mapping[str, str]) -> bool:
    """Tell whether this is a CI job; `given` is the environment. `CI=false` says no."""
    if "CI" in given:
        return given["CI"].strip().lower() not in _NO
    return any(given.get(name, "").strip().lower() not in _NO for name in SIGNS)


def find(given: Mapping[str, str], start: Path) -> Base:
    """Return the base commit of this CI job; BaselineError with the cure where there is none."""
    top = git.top_level(start)
    if commit := given.get(NAMED, "").strip():
        if not _HASH.fullmatch(commit):
            raise BaselineError(f"{NAMED}={commit[:100]!r} is not the full hash of a commit")
        return Base(git.have(commit, top), "the base commit of this job")
    for name in TARGETS:
        branch = given.get(name, "").removeprefix("refs/heads/").strip()
        if branch:
            base = _merge_base(name, branch, top)
            if name != TOLD or base.commit != git.resolve("HEAD", top):
                return base
            break  # a build of that branch itself: a commit is not compared with itself
    return _first_parent(top)


def _merge_base(name: str, branch: str, top: Path) -> Base:
    if branch.startswith("-") or ".." in branch or not branch.isprintable():
        raise BaselineError(
            f"{name}={branch!r} is not the name of a branch", "--baseline rerun:REV"
        )
    target = git.remote_branch(branch, top)
    told = f"the merge base with {branch} ({name})"
    found = git.merge_base(target, top) if target else ""
    if found:
        return Base(found, told)
    trouble = ""
    whole = not git.is_shallow(top)
    if whole and not target:
        # With a depth git would cut off the history that is here.
        trouble = git.fetch((git.remote(top), branch), top)
        target = "" if trouble else git.resolve("FETCH_HEAD", top)
        if target and (found := git.merge_base(target, top)):
            return Base(found, told)
    if whole and target:
        raise BaselineError(
            f"HEAD and {branch} ({name}) have no commit in common", "--baseline rerun:REV"
        )
    if not whole:
        found, trouble = _deepened(branch, top)
        if found:
            return Base(found, told)
    parents = git.parents(top)
    if len(parents) > 1:
        # CI checked out the merge of the pull request; its first parent is the base.
        return Base(git.have(parents[0], top), f"the first parent of the merge into {branch}")
    cure = f"{git.remote(top)} {branch} (actions/checkout: fetch-depth: 0)"
    raise BaselineError(
        f"the merge base of HEAD and {branch} ({name}) is not in this clone"
        + (f": {trouble}" if trouble else f", {_DEPTHS[-1]} commits deep"),
        f"git fetch {cure}" if whole else f"git fetch --unshallow {cure}",
    )


def _deepened(branch: str, top: Path) -> tuple[str, str]:
    """Fetch until a shallow clone holds the merge base; return it, or what went wrong."""
    trouble = ""
    # Where the branch is part of HEAD's own history, less would cut that off.
    here = git.count("HEAD", top)
    for depth in _DEPTHS:
        # The branch first, then HEAD's own history: both must reach the commit where they part.
        trouble = git.fetch((f"--depth={max(depth, here)}", git.remote(top), branch), top)
        if trouble:
            break
        tip = git.resolve("FETCH_HEAD", top)
        if found := git.merge_base(tip, top):
            return found, ""
        if git.is_shallow(top):
            trouble = git.fetch((f"--deepen={depth}", git.remote(top)), top)
            if found := git.merge_base(tip, top):
                return found, ""
    return "", trouble


def _first_parent(top: Path) -> Base:
    parents = git.parents(top)
    if not parents:
        raise BaselineError("HEAD has no parent to compare with", "--baseline none says so")
    return Base(git.have(parents[0], top), "the first parent of HEAD (no pull request)")
