"""Edge: `git diff` since a revision -> which functions of a run it touched.

Python functions are compared as code (`functions.py`), at both revisions, so that comments,
layout and moves within a file are no changes. What cannot be parsed is compared by lines.
"""

import os
import re
import stat
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from ci_flame.baseline import functions, git, repository
from ci_flame.baseline.functions import Code, Function
from ci_flame.errors import BaselineError
from ci_flame.profile import Frame, Kind, Place
from ci_flame.verdict.touch import Spot, Touch, Touched

MAX_FILES: Final = 20_000
"""Changed files that are looked at; a diff of more is another project."""
_PYTHON: Final = (".py", ".pyw", ".pyx", ".pyi")
_DEPENDENCIES: Final = re.compile(
    r"(?:.*/)?(?:requirements[^/]*\.(?:txt|in)|constraints[^/]*\.txt|pyproject\.toml|setup\.(?:py|cfg)"
    r"|(?:uv|poetry|pdm|pixi|Pipfile|conda)[^/]*\.lock|Pipfile|environment\.ya?ml)"
)
_HUNK: Final = re.compile(rb"@@ -\d+(?:,\d+)? \+(\d+)(?:,(\d+))? @@")
_SUBMODULE: Final = "160000"


@dataclass(frozen=True, slots=True)
class Hunk:
    """Lines of the after side; `count` 0: what was taken out stood behind `start`."""

    start: int
    count: int

    def touches(self, lines: frozenset[int]) -> int:
        """Return the first of these lines that the hunk touches; 0 where it touches none."""
        if self.count:
            until = self.start + self.count
            return min((line for line in lines if self.start <= line < until), default=0)
        # Taken out between two lines of the function, or just behind its last one's start.
        if self.start in lines:
            return self.start + 1 if self.start + 1 in lines else self.start
        return 0


WHOLE: Final = Hunk(1, 1 << 30)
"""Every line of a file."""


@dataclass(frozen=True, slots=True)
class FileChange:
    """One file that differs."""

    before: str
    """Its path before; empty: it is new."""
    after: str
    before_blob: str
    after_blob: str
    """Empty: as it lies in the work tree."""
    hunks: tuple[Hunk, ...] = ()


@dataclass(frozen=True, slots=True)
class Changes:
    """Everything that differs between a revision and what was measured."""

    top: Path
    """Root of the work tree."""
    inside: str
    """Where ci_flame was started, from the root; empty or ending in a slash."""
    since: str
    files: Mapping[str, FileChange]
    """By the path after the change."""
    tracked: frozenset[str]
    """All files of the after side."""
    codes: dict[str, Code | None] = field(default_factory=dict, repr=False, compare=False)
    """What was read and parsed already, by blob or path."""


def find(since: str, told: str, start: Path, *, after: str = "", dirty: bool = True) -> Changes:
    """Return what changed since a revision; `told` names it in words.

    The after side is the commit `after`; with `dirty` or without one it is the work tree that
    `start` lies in. Raises BaselineError outside git and where the revision is not there.
    """
    top = git.top_level(start)
    commit = git.resolve(since, top)
    head = git.state(top).commit
    until = after if after and not (after == head and dirty) else ""
    if until and until != head:
        until = git.resolve(until, top)
    sides = (commit, until) if until else (commit,)
    files = _diff(sides, top)
    if until:
        listed = repository.names(("ls-tree", "-r", "-z", "--name-only", "--full-tree", until), top)
    else:
        listed = repository.names(("ls-files", "-z", "--cached"), top)
        for name in repository.names(("ls-files", "-z", "--others", "--exclude-standard"), top):
            listed.append(name)
            files[name] = FileChange("", name, "", "", (WHOLE,))
    inside = repository.inside(start, top)
    return Changes(top, inside, f"{commit[:10]} ({told})", files, frozenset(listed))


def touched(changes: Changes, places: Mapping[Frame, Place]) -> Touched:
    """Return what the diff did to the functions whose places are known."""
    where = repository.Files(changes.tracked, changes.inside)
    spots: dict[str, Spot] = {}
    files: set[str] = set()
    for frame, place in sorted(places.items()):
        path = where.of(place.file)
        if path is None:
            continue
        files.add(place.file)
        change = changes.files.get(path)
        if change is None or frame.kind is not Kind.PYTHON:
            continue
        spot = _spot(changes, change, frame.function, place.line)
        if spot is not None:
            spots[str(frame)] = spot
    chosen = sorted(name for name in changes.files if _DEPENDENCIES.fullmatch(name))
    return Touched(changes.since, spots, frozenset(files), tuple(chosen))


# -- one function -------------------------------------------------------------------------


def _spot(  # noqa: PLR0911 - a ladder, one rung an answer
    changes: Changes, change: FileChange, name: str, line: int
) -> Spot | None:
    """Return what happened to one function of a changed file; None: nothing."""
    if not change.before:
        return _new_file(changes, change, name, line)
    after = _code(changes, change.after_blob, change.after)
    if after is None:
        return _by_lines(changes, change, line)
    known = name if name in after.functions else after.at(line)
    here = after.functions.get(known, ())
    before = _code(changes, change.before_blob, change.before)
    if before is None or not here:
        lines = frozenset().union(*(each.lines for each in here)) if here else frozenset()
        return _first(change, lines)
    there = before.functions.get(known, ())
    if [each.does for each in here] != [each.does for each in there]:
        if not there and (moved := _moved(changes, change, here[0], line)):
            return moved
        return _changed(change, here, there)
    for read in sorted(frozenset().union(*(each.reads for each in here))):
        now, then = after.globals.get(read), before.globals.get(read)
        if now is not None and (then is None or now[0] != then[0]):
            first = _first(change, frozenset(range(now[1], now[1] + 1)))
            return Spot(Touch.READS, change.after, first.line if first else now[1], read)
    return None


def _changed(change: FileChange, here: tuple[Function, ...], there: tuple[Function, ...]) -> Spot:
    """Return the first line that changed, of the definition that did."""
    did = [each.does for each in there]
    differ = [each for each in here if each.does not in did] or list(here)
    lines = frozenset().union(*(each.lines for each in differ))
    spot = _first(change, lines)
    return spot or Spot(Touch.CHANGED, change.after, differ[0].line)


def _first(change: FileChange, lines: frozenset[int]) -> Spot | None:
    found = [line for hunk in change.hunks if (line := hunk.touches(lines))]
    return Spot(Touch.CHANGED, change.after, min(found)) if found else None


def _by_lines(changes: Changes, change: FileChange, line: int) -> Spot | None:
    data = _content(changes, change.after_blob, change.after)
    if data is None:
        return None
    return _first(change, functions.lines_by_indentation(data, line))


def _new_file(changes: Changes, change: FileChange, name: str, line: int) -> Spot:
    after = _code(changes, change.after_blob, change.after)
    here = after.functions.get(name, ()) if after else ()
    if here and (moved := _moved(changes, change, here[0], line)):
        return moved
    return Spot(Touch.CHANGED, change.after, here[0].line if here else line)


def _moved(changes: Changes, change: FileChange, function: Function, line: int) -> Spot | None:
    """Return where the very same function stood before, in another file of the diff."""
    for other in changes.files.values():
        if not other.before or other is change or not other.before.endswith(_PYTHON):
            continue
        before = _code(changes, other.before_blob, other.before)
        for each in before.functions.get(function.name, ()) if before else ():
            if each.does == function.does:
                return Spot(Touch.MOVED, change.after, function.line or line, other.before)
    return None


def _code(changes: Changes, blob: str, path: str) -> Code | None:
    key = blob or f"/{path}"
    if key not in changes.codes:
        data = _content(changes, blob, path)
        changes.codes[key] = None if data is None else functions.read(data)
    return changes.codes[key]


def _content(changes: Changes, blob: str, path: str) -> bytes | None:
    """Return the bytes of a blob or of a file in the work tree; None where there are none."""
    if blob:
        answer = git.call(("cat-file", "blob", blob), changes.top)
        return answer.stdout if answer.returncode == 0 else None
    try:
        # A link could lead anywhere, a pipe would wait for its writer.
        flags = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
        descriptor = os.open(changes.top / path, flags)
    except (OSError, ValueError):
        return None
    with os.fdopen(descriptor, "rb") as stream:
        if not stat.S_ISREG(os.fstat(descriptor).st_mode):
            return None
        return stream.read(functions.MAX_BYTES + 1)


# -- git ----------------------------------------------------------------------------------


def _diff(sides: tuple[str, ...], top: Path) -> dict[str, FileChange]:
    """Return the changed files by their path after the change; what is gone is left out."""
    plain = (
        "--no-ext-diff", "--no-textconv", "--no-color", "--no-relative", "--submodule=short",
        "-M", "--full-index", "--src-prefix=a/", "--dst-prefix=b/",
    )  # fmt: skip
    listing = git.call(("diff", "--raw", "-z", "--no-abbrev", *plain, *sides, "--"), top)
    if listing.returncode != 0:
        raise BaselineError(f"git diff {sides[0][:10]}: {git.complaint(listing)}")
    entries = _raw(listing.stdout)
    if len(entries) > MAX_FILES:
        raise BaselineError(
            f"{len(entries)} files differ from {sides[0][:10]}; at most {MAX_FILES} are looked at",
            "--changed-since REV takes a nearer revision, or none",
        )
    patch = git.call(("diff", "--patch", "--unified=0", *plain, *sides, "--"), top)
    if patch.returncode != 0:
        raise BaselineError(f"git diff {sides[0][:10]}: {git.complaint(patch)}")
    sections = _hunks(patch.stdout)
    # Both lists are in git's one order, but a file that became a link has two patches. Should they
    # ever differ, lines are unknown, not wrong.
    same = len(sections) == len(entries) + sum(entry[0] == "T" for entry in entries)
    files: dict[str, FileChange] = {}
    number = 0
    for status, modes, blobs, before, after in entries:
        hunks = sections[number] if same and status != "T" else (WHOLE,)
        number += 2 if status == "T" else 1
        if status == "D" or _SUBMODULE in modes:
            continue
        first = "" if status == "A" else blobs[0]
        # Of a file in the work tree git tells the hash that it would have: no such blob exists.
        second = blobs[1] if len(sides) > 1 else ""
        files[after] = FileChange("" if status == "A" else before, after, first, second, hunks)
    return files


_Entry = tuple[str, tuple[str, str], tuple[str, str], str, str]


def _raw(data: bytes) -> list[_Entry]:
    """Return status, modes, blobs and paths of `git diff --raw -z`."""
    fields = iter([os.fsdecode(each) for each in data.split(b"\0")[:-1]])
    found: list[_Entry] = []
    for meta in fields:
        old_mode, mode, old_blob, blob, status = meta.lstrip(":").split(" ")
        before = next(fields)
        after = next(fields) if status[0] in "RC" else before
        found.append((status[0], (old_mode, mode), (old_blob, blob), before, after))
    return found


def _hunks(patch: bytes) -> list[tuple[Hunk, ...]]:
    """Return the hunks of each file of a patch; no line of a file's text begins like a header."""
    sections: list[list[Hunk]] = []
    for line in patch.split(b"\n"):
        if line.startswith(b"diff --git "):
            sections.append([])
        elif sections and (hunk := _HUNK.match(line)):
            count = 1 if hunk[2] is None else int(hunk[2])
            sections[-1].append(Hunk(int(hunk[1]), count))
    return [tuple(each) for each in sections]


def relevant(places: Iterable[Mapping[Frame, Place]]) -> dict[Frame, Place]:
    """Merge the places of several benchmarks."""
    merged: dict[Frame, Place] = {}
    for each in places:
        merged.update(each)
    return merged
