"""Edge: where files lie in the repository: what git knows of a work tree, by their paths."""

import os
from collections.abc import Iterable
from dataclasses import dataclass, field, replace
from pathlib import Path
from re import compile as pattern
from typing import Final

from ci_flame.baseline import git
from ci_flame.errors import BaselineError
from ci_flame.verdict.located import Located

_INSTALLED: Final = pattern(r"site-packages/|lib/python\d|<")


@dataclass(frozen=True, slots=True)
class Files:
    """The files of one side of a repository."""

    names: frozenset[str]
    """From its root."""
    inside: str
    """Where ci_flame was started, from the root; empty or ending in a slash."""
    inside_first: bool = False
    """True: places are relative to `inside`, unless there is no such file."""
    _known: dict[str, str | None] = field(default_factory=dict, repr=False, compare=False)
    _by_name: dict[str, list[str]] = field(default_factory=dict, repr=False, compare=False)

    def of(self, file: str) -> str | None:
        """Return the path from the root of a place's file; None: it is not of the repository."""
        if file not in self._known:
            self._known[file] = self._find(file)
        return self._known[file]

    def _find(self, file: str) -> str | None:
        if _INSTALLED.match(file):
            return None
        candidates = (self.inside + file, file) if self.inside_first else (file, self.inside + file)
        for candidate in candidates:
            if candidate in self.names:
                return candidate
        # Relative to a folder that code is imported from: `shop/parser.py` of `src/`.
        if not self._by_name:
            for each in self.names:
                self._by_name.setdefault(each.rpartition("/")[2], []).append(each)
        ends = [each for each in self._by_name.get(file.rpartition("/")[2], ())
                if each.endswith(f"/{file}")]  # fmt: skip
        return ends[0] if len(ends) == 1 else None


def inside(start: Path, top: Path) -> str:
    """Return where `start` lies in the work tree; empty for its root, else ending in a slash."""
    path = os.path.relpath(start.resolve(), top.resolve())
    return "" if path == "." else f"{path}/"


def names(arguments: tuple[str, ...], top: Path) -> list[str]:
    """Return the file names that a git command lists with `-z`; BaselineError where it fails."""
    answer = git.call(arguments, top)
    if answer.returncode != 0:
        raise BaselineError(f"git {arguments[0]}: {git.complaint(answer)}")
    return [os.fsdecode(each) for each in answer.stdout.split(b"\0")[:-1]]


def locate(
    wanted: Iterable[str], start: Path, *, inside_first: bool, policies: Iterable[str] = ()
) -> Located | None:
    """Return where the files of places lie in the repository around `start`; None without git.

    `inside_first`: places are relative to `start`, as those of a command are; `policies` are
    files as the user names them from here.
    """
    try:
        top = git.top_level(start)
        here = Located(benchmarks=inside(start, top), policies=_policies(policies, top))
        asked = sorted(set(wanted))
        if not asked:
            return here
        listed = names(("ls-files", "-z", "--cached"), top)
        listed += names(("ls-files", "-z", "--others", "--exclude-standard"), top)
    except BaselineError:
        return None
    files = Files(frozenset(listed), here.benchmarks, inside_first)
    found = {each: path for each in asked if (path := files.of(each)) is not None}
    return replace(here, files=found)


def _policies(policies: Iterable[str], top: Path) -> dict[str, str]:
    found: dict[str, str] = {}
    root = top.resolve()
    for each in sorted(policies):
        path = Path(os.path.realpath(each))
        if path.is_relative_to(root):
            found[each] = path.relative_to(root).as_posix()
    return found
