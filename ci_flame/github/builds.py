"""Edge: stored runs of GitHub that a job is compared with: the baseline, and builds beside it.

    exact       the artifact of the base commit
    nearest     of the nearest ancestor along first parents
    beside      of the commits before that one: they tell how far builds of the same code spread

Each is verified by itself, whatever the others are. One that is refused, or is of another
machine class, is named in one line and passed over.
"""

import shutil
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

from ci_flame.baseline import git, store
from ci_flame.errors import BaselineError, CiFlameError, FormatError, WriteError
from ci_flame.github import artifacts, origin
from ci_flame.github.api import Api, ApiError
from ci_flame.github.job import Job, artifact_of_run
from ci_flame.github.origin import Artifact, Wanted
from ci_flame.profile import Environment, Run

MAX_BUILDS: Final = 10
"""The baseline among them; a policy's `keep` is 10 beside it, unless told."""
REACH: Final = 20
"""First parents before the baseline within which a build may stand beside it. Spread is measured
between neighbours: each commit between two builds may be a real change, which is then taken for
spread and costs certainty in that function. Ten builds of every second commit fit."""
MAX_ANCESTORS: Final = 250
MAX_TRIED: Final = 8
"""Artifacts that are looked into for the baseline, the nearest first; for each build beside it
one more."""
SEARCH_S: Final = 300.0
"""After this long no further artifact is looked into: the base can be recorded meanwhile."""
BESIDE_S: Final = 60.0
"""The same for the builds beside the baseline, which the check can do without."""
MAX_BESIDE: Final = 256 << 20
"""Bytes of all artifacts that are downloaded for them."""
_COMMITS_ASKED: Final = 300
_PAGE: Final = 100

MachineClass = tuple[str, str]
"""Architecture and processor, as a run's environment tells them."""


@dataclass(frozen=True, slots=True)
class Asked:
    """What is looked for."""

    base: str
    """The base commit."""
    start: Path
    """A folder of the checkout."""
    branch: str = ""
    """Empty: the pull request's base, or the default branch."""
    builds: int = 1
    """At most so many, the baseline among them."""
    here: MachineClass | None = None
    """Of which they must be, if there is a choice; None: of any."""


@dataclass(frozen=True, slots=True)
class Found:
    """The baseline, and the builds beside it."""

    word: str
    """For `--baseline`: `folder:DIR` of one, `store:DIR` of several."""
    sha: str
    distance: int
    """First parents from the base commit."""
    beside: tuple[tuple[str, int], ...] = ()
    """Commit and distance of each, the nearest first."""


@dataclass(slots=True)
class Said:
    """What is to be told in the end, in the order in which it was found."""

    notes: list[str] = field(default_factory=list)
    trouble: str = ""

    def refused(self, artifact: Artifact, reason: str) -> None:
        """Tell why an artifact may not be compared with."""
        name = artifacts.named(artifact)
        self.notes.append(f"{name} is refused: {reason.removeprefix(f'{name}: ')}")


def store_beside(place: Path) -> Path:
    """Return where several builds are put, if one is put into `place`."""
    return place.with_name(f"{place.name}-builds")


def class_of(environment: Environment) -> MachineClass:
    """Return the machine class that a run was recorded on."""
    return environment.architecture, environment.cpu_model


def _unlike(there: MachineClass, here: MachineClass) -> str:
    """Return what tells two classes of machines apart, in words; empty: they are one."""
    pairs = zip(("architecture", "CPU model"), there, here, strict=True)
    return "; ".join(f"{what}: {one or 'none'}, here {two or 'none'}"
                     for what, one, two in pairs if one != two)  # fmt: skip


class Search:
    """Artifacts of this job's key, tried one after the other."""

    def __init__(self, api: Api, job: Job, asked: Asked, place: Path, said: Said) -> None:
        self._api = api
        self._job = job
        self._asked = asked
        self._place = place
        self._said = said
        self._tried: set[int] = set()
        self._looked = 0
        self._until = time.monotonic() + SEARCH_S
        self._seen: list[Artifact] = []
        self._line: list[str] = []
        self._elsewhere: Found | None = None
        """The nearest of another machine class, where none of this one is found."""
        name = artifact_of_run(job.key)
        branch = asked.branch or job.base_branch or job.default_branch or self._default_branch()
        path = job.workflow_path or self._own_workflow()
        self._wanted = Wanted(name, branch, path, job.repository_id)
        self._more = artifacts.listed(api, job.repository, name)

    def find(self) -> Found | None:
        """Return the nearest stored run that may be a baseline, and those beside it.

        Raises ApiError where GitHub does not answer, CiFlameError where the disk is full.
        """
        found = self._exact() or self._nearest()
        if found is None:
            return self._elsewhere
        one, run = found
        return self._with_builds_beside(one, run) if self._asked.builds > 1 else one

    # -- the baseline -------------------------------------------------------------------

    def _exact(self) -> tuple[Found, Run] | None:
        """Return the base commit's own; the list is read no further than to it."""
        for each in self._more:
            self._seen.append(each)
            if self._looked >= MAX_TRIED:
                break
            if each.head_sha == self._asked.base and (found := self._baseline(each, 0)):
                return found
        return None

    def _nearest(self) -> tuple[Found, Run] | None:
        """Return the nearest ancestor's along first parents; the whole list was read."""
        left = [each for each in self._seen if each.id not in self._tried]
        if not left:
            if not self._seen:
                self._said.notes.append(f"there is no artifact {self._wanted.name} yet")
            return None
        line = self._ancestors(_COMMITS_ASKED)
        candidates = origin.in_order(left, {sha: number for number, sha in enumerate(line)})
        if not candidates:
            self._said.notes.append(
                f"no artifact {self._wanted.name} is of {self._asked.base[:10]} or one of the"
                f" {len(line) - 1} commits before it"
            )
        for distance, each in candidates:
            if self._elsewhere is not None and distance > self._elsewhere.distance + REACH:
                break  # the base commit, recorded here, is better than one from long ago
            if self._looked >= MAX_TRIED:
                self._said.notes.append(f"after {MAX_TRIED} artifacts no further one is looked at")
                break
            if found := self._baseline(each, distance):
                return found
        return None

    def _baseline(self, artifact: Artifact, distance: int) -> tuple[Found, Run] | None:
        """Return what an artifact is as the baseline, kept in its place; None: it may not be."""
        run = self._run(artifact)
        if run is None:
            return None
        found = Found(f"folder:{self._place}", artifact.head_sha, distance)
        fits = self._fits(run, artifact)
        if fits or self._elsewhere is None:
            artifacts.keep(run, self._place)
        if fits:
            return found, run
        self._elsewhere = self._elsewhere or found
        return None

    def _fits(self, run: Run, artifact: Artifact) -> bool:
        """Tell whether a run is of this machine class; one that is not is named."""
        here = self._asked.here
        unlike = "" if here is None else _unlike(class_of(run.environment), here)
        if unlike:
            self._said.notes.append(
                f"{artifacts.named(artifact)} is left out: another machine class ({unlike})"
            )
        return not unlike

    # -- builds beside it ---------------------------------------------------------------

    def _with_builds_beside(self, found: Found, run: Run) -> Found:
        """Return the baseline with builds before it, in a store; as it is where there are none.

        Whatever goes wrong is a note: the baseline is there.
        """
        place = store_beside(self._place)
        beside: list[tuple[str, int]] = []
        try:
            shutil.rmtree(place, ignore_errors=True)  # of an earlier step
            store.add(run, place, branch=self._wanted.branch)
            for distance, other in self._builds(found):
                if store.add(other, place, branch=self._wanted.branch)[1]:
                    beside.append((other.commit, distance))
                if len(beside) + 1 >= self._asked.builds:
                    break
        except ApiError as error:
            self._said.notes.append(f"no further build is looked for: {error.message}")
        except WriteError as error:
            self._said.notes.append(f"no build is kept beside the baseline: {error.message}")
            return found
        except CiFlameError as error:
            self._said.notes.append(f"no further build is kept: {error.message}")
        if not beside:
            shutil.rmtree(place, ignore_errors=True)
            return found
        try:
            # Whatever ended the search: who is whose ancestor is known by now.
            if self._line:
                store.tell_line(place, self._line)
        except CiFlameError as error:
            self._said.notes.append(f"whose ancestor a build is cannot be kept: {error.message}")
        return Found(f"store:{place}", found.sha, found.distance, tuple(beside))

    def _builds(self, found: Found) -> Iterator[tuple[int, Run]]:
        """Yield distance and run of verified builds before the baseline, the nearest first."""
        self._until = min(self._until, time.monotonic() + BESIDE_S)
        size = 0
        for distance, each in self._candidates(found):
            if self._looked >= MAX_TRIED + self._asked.builds - 1:
                words = f"after {self._looked} artifacts no further one is looked at"
                self._said.notes.append(words)
                return
            size += each.size
            if size > MAX_BESIDE:
                self._said.notes.append(
                    f"no further build is downloaded: they would be {size} bytes,"
                    f" the limit is {MAX_BESIDE}"
                )
                return
            run = self._run(each)
            if run is not None and self._fits(run, each):
                yield distance, run

    def _candidates(self, found: Found) -> tuple[tuple[int, Artifact], ...]:
        """Return artifacts of the baseline's commit and of those before it.

        Of the list no more is read than until there are enough.
        """
        farthest = found.distance + REACH
        line = self._ancestors(_PAGE)
        near = {sha: number for number, sha in enumerate(line)
                if found.distance <= number <= farthest}  # fmt: skip
        wanted = self._asked.builds - 1

        def may_be(each: Artifact) -> bool:
            return each.head_sha in near and each.id not in self._tried

        def enough(several: Sequence[Artifact]) -> bool:
            good = (each for each in several if not origin.refused_as_listed(each, self._wanted))
            return sum(1 for _ in good) >= wanted

        left = [each for each in self._seen if may_be(each)]
        while not enough(left) and (each := next(self._more, None)) is not None:
            self._seen.append(each)
            left += [each] if may_be(each) else []
        return origin.in_order(left, near)

    # -- one artifact -------------------------------------------------------------------

    def _run(self, artifact: Artifact) -> Run | None:
        """Return the run in an artifact that may be a baseline; None, and why is said."""
        if time.monotonic() > self._until:
            raise ApiError(f"no artifact was found within {SEARCH_S:g} s", "GitHub is slow today")
        self._tried.add(artifact.id)
        try:
            found = self._verified(artifact)
        except (BaselineError, FormatError) as error:
            found = error.message
        except ApiError as error:
            # Of this one alone: it is gone, or too large. Anything else ends the search.
            if error.status not in (200, 404, 410):
                raise
            found = error.message
        if isinstance(found, Run):
            return found
        self._said.refused(artifact, found)
        return None

    def _verified(self, artifact: Artifact) -> Run | str:
        """Return the run in an artifact, or why it is no baseline."""
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
        run = artifacts.read_run(data, f"artifact {artifact.id}")
        if run.commit != artifact.head_sha:
            return f"the run in it is of commit {run.commit[:10] or 'none'}"
        return run

    # -- what GitHub knows --------------------------------------------------------------

    def _ancestors(self, asked: int) -> list[str]:
        """Return the base commit and its first parents, as far as anybody knows them.

        Of GitHub's list at most `asked` commits are read.
        """
        if self._line:
            return self._line
        top = git.top_level(self._asked.start)
        parents = dict(_local(self._asked.base, top))
        if self._asked.base not in parents or git.is_shallow(top):
            # GitHub lists every ancestor, of merged branches too, each with its parents: what
            # counts is not the order of the list, but the line through the first ones.
            path = f"/repos/{self._job.repository}/commits"
            commits = self._api.pages(path, limit=asked, sha=self._asked.base)
            parents |= {sha: parent for each in commits for sha, parent in _first_parent(each)}
        self._line = list(_line(self._asked.base, parents))
        return self._line

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
