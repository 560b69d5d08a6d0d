"""Edge: the words for where the before side comes from -> `BaselineSpec`."""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from enum import StrEnum
from typing import Final

from ci_flame.config.policy_file import section_of, text_of
from ci_flame.config.yaml_tree import Node, Scalar, Section, nearest, quote
from ci_flame.errors import UsageError


class BaselineKind(StrEnum):
    """Where the before side comes from."""

    AUTO = "auto"
    """The stored folder; where there is none, or one of another machine: in CI the base commit,
    recorded in this job, else none."""
    FOLDER = "folder"
    GIT = "git"
    """A run folder committed in a git revision (`git:REV[:PATH]`)."""
    RERUN = "rerun"
    """The base commit, checked out in a worktree and recorded in this job (`rerun:REV`)."""
    STORE = "store"
    """A folder of builds of the base branch (`store:DIR`); the base commit's is the gate."""
    TREE = "tree"
    """A folder with the base commit checked out; what `rerun:REV` becomes for pytest."""
    NONE = "none"


class Rerun(StrEnum):
    """When the base commit may be recorded although nobody asked for it."""

    CI = "ci"
    """In CI jobs."""
    ALWAYS = "always"
    NEVER = "never"


NO_REVISION: Final = "none"
"""`changed_since: none`: findings are not labelled."""


@dataclass(frozen=True, slots=True)
class Setup:
    """Commands that make a side ready, run by `sh -c`; empty: nothing to do."""

    before: str = ""
    """In the base commit's checkout, in an environment of its own."""
    after: str = ""
    """In the work tree, in the environment that ci_flame was started in."""


@dataclass(frozen=True, slots=True)
class BaseSide:
    """How the base commit is recorded, and what the changes are told from."""

    setup: Setup = Setup()
    rerun: Rerun = Rerun.CI
    changed_since: str = ""
    """A revision, or `none`; empty: the baseline's commit."""


@dataclass(frozen=True, slots=True)
class BaselineSpec:
    """`folder:DIR`, `store:DIR`, `git:REV[:PATH]`, `rerun:REV`, `tree:DIR`, `none`, `auto`."""

    kind: BaselineKind = BaselineKind.AUTO
    value: str = ""

    def __str__(self) -> str:
        """Return the words that `parse_baseline` reads back."""
        return f"{self.kind.value}:{self.value}" if self.value else self.kind.value


def parse_baseline(text: str) -> BaselineSpec:
    """Return the spec of `folder:DIR`, `store:DIR`, `git:REV[:PATH]`, `rerun:REV`, `none`, `auto`.

    A word without a colon is a folder; so is one whose part before the colon holds a `/`.
    Raises UsageError that names the nearest kind.
    """
    word = text.strip()
    kinds = [kind.value for kind in BaselineKind]
    prefix, colon, value = word.partition(":")
    if not word or "\0" in word or "\n" in word:
        raise UsageError("an empty baseline", f"one of: {_BASELINE_FORMS}")
    if not colon or "/" in prefix or prefix.startswith("."):
        if word in (BaselineKind.AUTO, BaselineKind.NONE):
            return BaselineSpec(BaselineKind(word))
        if word in kinds:
            raise UsageError(f"baseline {word} names nothing", f"write {_FORMS[word]}")
        return BaselineSpec(BaselineKind.FOLDER, word)
    if prefix not in kinds:
        raise UsageError(
            f"unknown baseline {quote(word)}{nearest(prefix, kinds)}", f"one of: {_BASELINE_FORMS}"
        )
    kind = BaselineKind(prefix)
    if kind in (BaselineKind.AUTO, BaselineKind.NONE):
        raise UsageError(f"baseline {quote(word)}: {prefix} takes nothing after it")
    if not value:
        raise UsageError(f"baseline {word} names nothing", f"write {_FORMS[prefix]}")
    if kind in (BaselineKind.GIT, BaselineKind.RERUN) and value.startswith("-"):
        raise UsageError(f"baseline {quote(word)}: {quote(value)} is not a revision")
    return BaselineSpec(kind, value)


_FORMS: Final = {
    "folder": "folder:DIR",
    "store": "store:DIR, for example store:.ci-flame/store",
    "git": "git:REV, for example git:origin/main",
    "rerun": "rerun:REV, for example rerun:origin/main",
    "tree": "tree:DIR",
}
_BASELINE_FORMS: Final = "auto, folder:DIR, store:DIR, git:REV[:PATH], rerun:REV, tree:DIR, none"


BASE_SIDE_KEYS: Final = ("setup", "rerun", "changed_since")
"""Of the section `baseline` in `ci-flame.yml`."""


def read_base_side(section: Section) -> BaseSide:
    """Return what the section `baseline` says of the base commit; PolicyError with the line."""
    side = BaseSide()
    entries = section.entries
    if (node := entries.get("setup")) is not None:
        side = replace(side, setup=_setup(node))
    if (node := entries.get("rerun")) is not None:
        word = text_of(node, "rerun")
        known = [each.value for each in Rerun]
        if word not in known:
            node.fail(f"rerun is {', '.join(known)}, not {quote(word)}{nearest(word, known)}")
        side = replace(side, rerun=Rerun(word))
    if (node := entries.get("changed_since")) is not None:
        try:
            since = revision(text_of(node, "changed_since"), "changed_since")
        except UsageError as error:
            node.fail(error.message, error.hint)
        side = replace(side, changed_since=since)
    return side


def _setup(node: Node) -> Setup:
    if isinstance(node, Scalar):
        return Setup(before=text_of(node, "setup"))
    entries = section_of(node, "setup", ("before", "after")).entries
    return Setup(**{side: text_of(each, side) for side, each in entries.items()})


def revision(text: str, shown: str) -> str:
    """Return the words of a git revision; UsageError for what git would not take for one."""
    word = text.strip()
    if not word or word.startswith("-") or not word.isprintable() or " " in word:
        raise UsageError(f"{shown}: {quote(text)} is not a revision", "for example v1.4 or 1a2b3c4")
    return word


def base_flags(base: BaseSide, given: Mapping[str, object], prefix: str) -> BaseSide:
    """Return what the policy says, with `setup` and `changed_since` of the command line."""
    if "setup" in given:
        base = replace(base, setup=replace(base.setup, before=str(given["setup"])))
    if "changed_since" in given:
        since = revision(str(given["changed_since"]), f"{prefix}changed-since")
        base = replace(base, changed_since=since)
    return base
