"""Edge: the words for where the before side comes from -> `BaselineSpec`."""

from dataclasses import dataclass
from enum import StrEnum
from typing import Final

from ci_flame.config.yaml_tree import nearest, quote
from ci_flame.errors import UsageError


class BaselineKind(StrEnum):
    """Where the before side comes from."""

    AUTO = "auto"
    """The stored folder if there is one, else none."""
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


def revision(text: str, shown: str) -> str:
    """Return the words of a git revision; UsageError for what git would not take for one."""
    word = text.strip()
    if not word or word.startswith("-") or not word.isprintable() or " " in word:
        raise UsageError(f"{shown}: {quote(text)} is not a revision", "for example v1.4 or 1a2b3c4")
    return word
