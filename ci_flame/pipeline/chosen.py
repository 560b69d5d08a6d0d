"""Edge: the before side of a build, chosen: what was asked for, or what can be had instead.

    stored, same machine class          it is used
    stored, another machine class       the base commit is recorded here (CI, or `rerun: always`)
    nothing stored and nothing named    the same

Where it cannot be had, the reason is said and the build goes on as it would have without.
"""

import os
import sys
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Final

from ci_flame.baseline import ci_base, git
from ci_flame.baseline.ci_base import Base
from ci_flame.config import DEFAULT_BASELINE, BaselineKind, BaselineSpec, Config, Rerun
from ci_flame.errors import BaselineError, MissingBaselineError, UsageError
from ci_flame.pipeline import policy_change
from ci_flame.profile import Environment, Run
from ci_flame.verdict import Note

if TYPE_CHECKING:
    from ci_flame.judge.history import History

_MAX_WHY: Final = 2000
"""Characters of why there is no baseline."""
_MANY: Final = 1_000_000
_SETTINGS: Final = frozenset({"collector", "event", "frequency"})
"""Differences that a policy may make; others are of the machine and its interpreter."""


@dataclass(frozen=True, slots=True)
class Found:
    """The stored before side, or why there is none."""

    run: Run | None
    told: str
    """For headers: `baseline .ci-flame/baseline (commit 1a2b3c4)`, `no baseline: …`."""
    history: "History | None" = None
    """The builds beside it, where it comes from a store."""
    notes: tuple[str, ...] = ()
    """What of a store could not be used, each in one line."""


@dataclass(frozen=True, slots=True)
class Chosen:
    """The before side."""

    spec: BaselineSpec
    """`rerun` and `tree` are still to be recorded; of all others `run` is what was found."""
    told: str
    """For headers, one line."""
    run: Run | None = None
    notes: tuple[Note, ...] = ()
    """Why it is not what was asked for, or why that could not be replaced."""
    history: "History | None" = None
    """The builds beside it, where it comes from a store."""
    ours: bool = False
    """Nobody named the commit that is to be recorded: it may be one that cannot run."""
    ancestor_of: Base | None = None
    """The base commit itself, where what is stored is of a commit before it."""

    @property
    def commit(self) -> str:
        """Return the commit that the change is told from; empty: not known."""
        if self.ancestor_of is not None:
            return self.ancestor_of.commit
        return self.run.commit if self.run else ""

    @property
    def called(self) -> str:
        """Return what that commit is called."""
        return "the base commit" if self.ancestor_of else "the baseline's commit"


def choose(
    config: Config,
    start: Path,
    present: Callable[[], Environment] | None,
    given: Mapping[str, str] = os.environ,
) -> Chosen:
    """Return the before side of a build that runs in `start` as `present` says.

    Without `present` stored runs are taken as they are: whoever records looks at them. Raises
    BaselineError and FormatError where what is named cannot be used.
    """
    chosen = _choose(config, start, present, given)
    changed = policy_change.note(config, start, chosen.spec, chosen.run, given)
    return chosen if changed is None else replace(chosen, notes=(changed, *chosen.notes))


def _choose(
    config: Config,
    start: Path,
    present: Callable[[], Environment] | None,
    given: Mapping[str, str],
) -> Chosen:
    """Return the same, without what the change says of its own policy."""
    spec = config.baseline
    if spec.kind in (BaselineKind.RERUN, BaselineKind.TREE):
        ours = spec.kind is BaselineKind.RERUN and bool(given.get(ci_base.OURS))
        return Chosen(spec, f"baseline {spec}, recorded beside", ours=ours)
    if spec.kind is BaselineKind.STORE:
        check_store(config, start, given)
        if present is None:
            return Chosen(spec, "")  # which build it is depends on how the run is recorded
        found = find_baseline(config, present(), start)
    else:
        found = load_baseline(spec, start)
    why = " ".join(given.get(ci_base.WHY, "").split())[:_MAX_WHY]
    if spec.kind is BaselineKind.NONE and why:
        found = replace(found, told="".join(each if each.isprintable() else "?" for each in why))
    notes = tuple(Note("store", each) for each in found.notes)
    chosen = Chosen(spec, found.told, found.run, notes, found.history)
    if spec.kind is BaselineKind.NONE:
        return chosen
    if given.get(ci_base.NAMED):
        # Where a step of our own has put it is nobody's business.
        chosen = _unplaced(chosen, spec)
        found = replace(found, told=chosen.told)
    replayed = config.record.collector == "replay"
    if found.run is None and not replayed:
        return _instead(chosen, config, start, given, found.told, Base("", ""))
    run = None if replayed or present is None else found.run
    unlike = differences(run.environment, present()) if run and present else ()
    if run is None or not unlike:
        return _seen_from_the_base(chosen, start, given)
    name = found.told.removeprefix("baseline ")
    reason = f"baseline {name} {_otherwise(unlike, run.commit, config, start)}"
    stored = Base(run.commit, "its commit") if run.commit else Base("", "")
    return _instead(chosen, config, start, given, reason, stored)


def to_confirm(config: Config, chosen: Chosen) -> Chosen | None:
    """Return the commit of a stored baseline, to be recorded beside what failed against it.

    Of an ancestor's it is the base commit: what grew between the two is not of this change. None
    where there is no telling what was recorded (a dirty tree, no commit), or the policy says
    `rerun: never`, or `confirm: false`.
    """
    run = chosen.run
    if run is None or not chosen.commit or (run.dirty and chosen.ancestor_of is None):
        return None
    if config.base.rerun is Rerun.NEVER or not config.record.confirm:
        return None
    return Chosen(BaselineSpec(BaselineKind.RERUN, chosen.commit), chosen.told)


def _seen_from_the_base(chosen: Chosen, start: Path, given: Mapping[str, str]) -> Chosen:
    """Return it with the base commit of this job, where what is stored is of one before it.

    Only what stands in for that commit is: an artifact, and the nearest build of a store. A
    baseline that somebody names is what he wants to be compared with.
    """
    run = chosen.run
    named = given.get(ci_base.NAMED, "").strip()
    nearest = chosen.spec.kind is BaselineKind.STORE and ci_base.in_ci(given)
    if run is None or not run.commit or not (named or nearest):
        return chosen
    try:
        base = ci_base.find(given, start)
    except BaselineError:
        if not named:
            return chosen
        base = Base(named, "")  # not to be had: then it is not recorded, and labels say why
    if base.commit == run.commit:
        return chosen
    between = git.distance(run.commit, base.commit, start)
    if not named and not between:
        return chosen  # a build of this very branch, behind the base, or of nobody knows where
    told = given.get(ci_base.DISTANCE, "").strip()
    number = between or (int(told) if told.isascii() and told.isdecimal() else 0)
    count = f"{number} commit{'s' * (number != 1)}" if 0 < number < _MANY else "commits"
    words = (
        f"what is stored is of {run.commit[:10]}, {count} before the base commit"
        f" {base.commit[:10]}: growth since {run.commit[:10]} is judged, what came with the commits"
        " between too, unless a failure was recorded once more beside the base"
    )
    return replace(chosen, notes=(*chosen.notes, Note("ancestor", words)), ancestor_of=base)


def _unplaced(chosen: Chosen, spec: BaselineSpec) -> Chosen:
    """Return it without the temporary folder that it was put into."""
    run = chosen.run

    def without(text: str) -> str:
        several = text.replace(str(spec), spec.value).replace(spec.value, "of the stored builds")
        return several if spec.kind is BaselineKind.STORE else text.replace(spec.value, "stored")

    notes = tuple(replace(each, text=without(each.text)) for each in chosen.notes)
    told = without(chosen.told)
    if run is not None and spec.kind is BaselineKind.FOLDER:
        told = f"baseline {run.commit[:10]} (its stored run)"
    return replace(chosen, told=told, notes=notes)


def _otherwise(unlike: Sequence[str], commit: str, config: Config, start: Path) -> str:
    """Return in words how a run was recorded that may not be compared with: where, or by what."""
    settings = tuple(each for each in unlike if each.partition(":")[0] in _SETTINGS)
    machine = tuple(each for each in unlike if each not in settings)
    told = []
    if machine:
        told.append(f"is not of this machine class ({'; '.join(machine)})")
    if settings:
        file = config.policy_file
        by = ""
        if file is not None and commit and git.differs(file, commit, start):
            by = f": {file.name} has changed since"
        told.append(f"was recorded with other settings ({'; '.join(settings)}{by})")
    return " and ".join(told)


def differences(before: Environment, present: Environment) -> tuple[str, ...]:
    """Return why a stored run may not be compared with one that is made here."""
    from ci_flame import diff  # noqa: PLC0415 - numpy, only where something is stored

    return diff.differences(before, present)


def _instead(  # noqa: PLR0917 - what `choose` was given, and why that is not it
    chosen: Chosen,
    config: Config,
    start: Path,
    given: Mapping[str, str],
    reason: str,
    stored: Base,
) -> Chosen:
    """Return the base commit to record instead, if that is allowed and possible."""
    if not _may_record(config, given):
        return chosen
    rule = config.base.rerun
    try:
        base = _base(stored, start, given)
    except BaselineError as error:
        cure = f" (hint: {error.hint})" if error.hint else ""
        words = f"{reason}; the base commit could not be recorded instead: {error.message}{cure}"
        told = chosen.told if chosen.run else words
        return replace(chosen, told=told, notes=(*chosen.notes, Note("rerun", words)))
    why = "the default in CI" if rule is Rerun.CI else "baseline: {rerun: always}"
    words = f"{reason}; {base.commit[:10]}, {base.told}, is recorded beside: {why}"
    spec = BaselineSpec(BaselineKind.RERUN, base.commit)
    note = Note("rerun", words, commit=base.commit)
    return Chosen(spec, words, None, (*chosen.notes, note), ours=True)


def _may_record(config: Config, given: Mapping[str, str]) -> bool:
    """Tell whether the base commit may be recorded where nothing stored will do."""
    rule = config.base.rerun
    return rule is Rerun.ALWAYS or (rule is Rerun.CI and ci_base.in_ci(given))


def _base(stored: Base, start: Path, given: Mapping[str, str]) -> Base:
    if given.get(ci_base.NAMED):
        # The stored run is of a commit before it, the nearest that there was.
        with suppress(BaselineError):
            return ci_base.find(given, start)
    if stored.commit:
        try:
            return replace(stored, commit=git.resolve(stored.commit, git.top_level(start)))
        except BaselineError:
            pass  # not in this clone and not to be fetched: the job's own base will do
    return ci_base.find(given, start)


# -- what is stored -------------------------------------------------------------------


def load_baseline(spec: BaselineSpec, start: Path) -> Found:
    """Return the stored run that `spec` names; `rerun` and `tree` are recorded, not loaded.

    Raises BaselineError or FormatError where a baseline is named and cannot be used; only
    `auto` and `none` may find nothing.
    """
    from ci_flame.baseline import folder, git  # noqa: PLC0415

    match spec.kind:
        case BaselineKind.NONE:
            return Found(None, "no baseline: none was given")
        case BaselineKind.AUTO:
            place = start / DEFAULT_BASELINE
            if not place.exists():
                return Found(None, f"no baseline: {DEFAULT_BASELINE} does not exist")
            return _found(folder.load(place), str(DEFAULT_BASELINE))
        case BaselineKind.FOLDER:
            return _found(folder.load(start / spec.value), spec.value)
        case BaselineKind.GIT:
            return _found(git.load(spec.value, start), str(spec))
        case BaselineKind.STORE:
            raise UsageError(f"baseline {spec} is chosen by what is compared with it")
        case BaselineKind.RERUN | BaselineKind.TREE:
            raise UsageError(f"baseline {spec} is recorded, not loaded", "ci-flame check does that")


def find_baseline(config: Config, environment: Environment, start: Path) -> Found:
    """Return the stored run that a run recorded in this environment is compared with.

    Of a store it is the build of the nearest ancestor, with the builds beside it; of anything
    else it is what `load_baseline` returns.
    """
    spec = config.baseline
    if spec.kind is not BaselineKind.STORE:
        return load_baseline(spec, start)
    from ci_flame.baseline import store  # noqa: PLC0415
    from ci_flame.judge.history import History  # noqa: PLC0415
    from ci_flame.pipeline import stored  # noqa: PLC0415

    place = start / spec.value
    if not store.begun(place):
        return Found(None, _not_begun(place))
    listing = store.read(place)
    chosen = stored.choose(listing, environment, start, config.keep, config.anchor)
    if chosen.base is None:
        return Found(None, chosen.told, notes=chosen.notes)
    history = History(chosen.base, chosen.siblings, chosen.anchor)
    return Found(chosen.base, chosen.told, history, chosen.notes)


def checkout(spec: BaselineSpec) -> Path:
    """Return the folder that a `tree` baseline names; BaselineError where there is none."""
    folder = Path(spec.value).resolve()
    if not folder.is_dir():
        missing = "is not a folder" if folder.exists() else "there is no such folder"
        raise BaselineError(f"baseline {spec}: {missing}", "git worktree add DIR REV")
    return folder


def _found(run: Run, name: str) -> Found:
    usable(run, name)
    commit = f" (commit {run.commit[:10]})" if run.commit else ""
    return Found(run, f"baseline {name}{commit}")


def usable(run: Run, name: str) -> None:
    """Raise BaselineError where a run is incomplete or empty: it must not be a before side."""
    if not run.complete:
        raise BaselineError(
            f"baseline {name} is incomplete: its recording was interrupted", "record it again"
        )
    if not run.measurements:
        raise BaselineError(f"baseline {name} holds no benchmark", "record it again")


def check_store(config: Config, start: Path, given: Mapping[str, str]) -> None:
    """Raise before anything is recorded where the store or the anchor is not there.

    A store that holds nothing yet is none the worse where the base commit is recorded instead.
    """
    from ci_flame.baseline import store  # noqa: PLC0415
    from ci_flame.pipeline import stored  # noqa: PLC0415

    place = start / config.baseline.value
    missing = _not_begun(place)
    if store.begun(place):
        listing = store.read(place)
        if config.anchor:
            stored.commit_of(config.anchor, listing, start)
        missing = "" if listing.builds else f"no baseline: {place} holds no build"
    if missing and config.policy.baseline_required and not _may_record(config, given):
        raise MissingBaselineError(
            f"{missing}, and the policy requires one", f"ci-flame baseline add RUN --store {place}"
        )


def _not_begun(place: Path) -> str:
    return f"no baseline: there is nothing in the store {place} yet"


def tell(told: str, notes: Sequence[str] = ()) -> None:
    """Say on stderr what a run is compared with, where no header says it."""
    for line in (told, *notes):
        sys.stderr.write(f"ci-flame: {line}\n")
