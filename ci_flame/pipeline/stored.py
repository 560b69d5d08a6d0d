"""Edge: which builds of a store a run is compared with: base commit, siblings, anchor.

The base is the nearest ancestor of the checked-out commit that the store has; its siblings
are the builds of its own past (and of commits that git does not know); the anchor is the
build that the policy names or that is pinned as one. What a shallow clone does not know of
the base branch, the store may tell.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from math import inf
from pathlib import Path
from typing import Final

from ci_flame.baseline import git, store
from ci_flame.baseline.store import Build, Listing
from ci_flame.errors import BaselineError, FormatError
from ci_flame.profile import Environment, Run

MAX_COMMITS: Final = 20_000
"""Ancestors that are looked at; a store holds far fewer builds."""


@dataclass(frozen=True, slots=True)
class Chosen:
    """The builds that one run is compared with."""

    base: Run | None
    """None: the store is empty."""
    siblings: tuple[Run, ...]
    """Oldest first, comparable with the base."""
    anchor: Run | None
    told: str
    """For headers."""
    notes: tuple[str, ...] = ()
    """What could not be used, each in one line."""


def choose(
    listing: Listing, environment: Environment, start: Path, keep: int, anchor: str
) -> Chosen:
    """Return the builds that a run of this environment is compared with.

    Where none was recorded in the same environment, the nearest one of another is the base, so
    that the verdict names the difference. Raises BaselineError where the anchor is not there.
    """
    from ci_flame.diff import differences  # noqa: PLC0415 - numpy, not for every import

    notes = list(listing.broken)
    if not listing.builds:
        return Chosen(None, (), None, f"no baseline: {listing.store} holds no build", tuple(notes))
    comparable = [b for b in listing.builds if not differences(b.header.environment, environment)]
    past = _past(start)
    for number, commit in enumerate(store.line(listing.store), len(past) + 1):
        past.setdefault(commit, number)
    ordered = _nearest_first(comparable or listing.builds, past)
    base, run = _first_readable(ordered, notes)
    if run is None or base is None:
        told = f"no baseline: no build of {listing.store} can be read"
        return Chosen(None, (), None, told, tuple(notes))
    siblings: list[Run] = []
    if comparable:
        near = _near(base, comparable, past)[-keep:]
        siblings = [each for build in near if (each := _readable(build, notes)) is not None]
    fixed = _anchor(listing, anchor, environment, start, notes)
    how = "" if base.header.commit in past else ", which is no ancestor of what is checked out"
    builds = f"{len(siblings)} more build{'s' * (len(siblings) != 1)}"
    beside = f", {builds} beside it" if siblings else ""
    since = f"; anchor {fixed.commit[:10]}" if fixed is not None else ""
    told = f"baseline store:{listing.store} (commit {base.name}{how}{beside}{since})"
    return Chosen(run, tuple(siblings), fixed, told, tuple(dict.fromkeys(notes)))


def _past(start: Path) -> dict[str, int]:
    """Return ancestors of the checked-out commit -> their distance; empty outside git.

    The commit itself is among them only where the tree differs from it: a job that is run
    again must not be compared with what it stored itself.
    """
    try:
        answer = git.call(("rev-list", "--topo-order", f"--max-count={MAX_COMMITS}", "HEAD"), start)
    except BaselineError:
        return {}
    if answer.returncode != 0:
        return {}
    commits = answer.stdout.decode("ascii", "replace").split()
    first = 0 if git.state(start).dirty else 1
    return {commit: distance for distance, commit in enumerate(commits) if distance >= first}


def _nearest_first(builds: Sequence[Build], past: dict[str, int]) -> list[Build]:
    """Return the nearest ancestors' builds, the newest of a commit first; others behind them."""
    newest_first = list(reversed(builds))
    return sorted(newest_first, key=lambda build: past.get(build.header.commit, inf))


def _near(base: Build, builds: Sequence[Build], past: dict[str, int]) -> list[Build]:
    """Return the builds of the base's own past and those that are newer, oldest first.

    Of a repository's history only ancestors of the base are the base branch; what git does
    not know is taken by the branch that it was stored for.
    """
    place = past.get(base.header.commit)
    found = []
    for build in builds:
        if build.place == base.place:
            continue
        distance = past.get(build.header.commit)
        if place is not None and distance is not None:
            found += [build] if distance >= place else []
        elif build.branch == base.branch:
            found.append(build)
    return found


def _first_readable(builds: Sequence[Build], notes: list[str]) -> tuple[Build | None, Run | None]:
    for build in builds:
        run = _readable(build, notes)
        if run is not None:
            return build, run
    return None, None


def _readable(build: Build, notes: list[str]) -> Run | None:
    """Load a build; one that is broken is told, not fatal: others may do."""
    try:
        return store.load(build)
    except (BaselineError, FormatError) as error:
        notes.append(error.message)
        return None


def _anchor(
    listing: Listing, wanted: str, environment: Environment, start: Path, notes: list[str]
) -> Run | None:
    """Return the anchor's build of this environment; BaselineError where the store has none."""
    from ci_flame.diff import differences  # noqa: PLC0415 - as above

    commit = commit_of(wanted, listing, start) if wanted else listing.anchor
    if not commit:
        return None
    builds = [build for build in listing.builds if build.header.commit == commit]
    same = [b for b in builds if not differences(b.header.environment, environment)]
    if not builds:
        notes.append(f"the anchor {commit[:10]} is not in {listing.store}: it was pruned or lost")
    elif not same:
        unlike = differences(builds[-1].header.environment, environment)
        notes.append(f"growth since the anchor {commit[:10]} is not judged: {'; '.join(unlike)}")
    return _readable(same[-1], notes) if same else None


def commit_of(revision: str, listing: Listing, start: Path) -> str:
    """Return the commit that a revision names, of those that the store has builds of.

    The beginning of a hash need not be in this clone. Raises BaselineError where no build is
    meant, or several are.
    """
    found = {build.header.commit for build in store.matching(listing.builds, revision)}
    if not found:
        try:
            commit = git.resolve(revision, start)
        except BaselineError:
            commit = ""
        found = {b.header.commit for b in listing.builds if commit and b.header.commit == commit}
    if len(found) == 1:
        return found.pop()
    if found:
        raise BaselineError(
            f"{revision} is the beginning of {len(found)} commits in {listing.store}",
            f"write more of it, for example {min(found)[:12]}",
        )
    known = list(
        dict.fromkeys(b.header.commit[:10] for b in reversed(listing.builds) if b.header.commit)
    )
    more = f" and {len(known) - 5} more" if len(known) > 5 else ""  # noqa: PLR2004 - enough to choose
    raise BaselineError(
        f"{listing.store} holds no build of {revision}",
        f"it has builds of {', '.join(known[:5])}{more}" if known else "ci-flame baseline add RUN",
    )
