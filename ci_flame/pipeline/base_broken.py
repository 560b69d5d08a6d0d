"""Edge, pure: a base commit that cannot run a benchmark -> the note that says so, in one line.

Where nobody named that commit the change goes on without it: what mends a broken base would
otherwise never pass.
"""

import re
from collections.abc import Iterable, Sequence
from dataclasses import replace
from typing import Final

from ci_flame.errors import CiFlameError
from ci_flame.report.words import cut, visible
from ci_flame.verdict import Note
from ci_flame.verdict.absent import BROKEN

STOPPED: Final = "base-stopped"
_BROKEN: Final = "no baseline: the base commit cannot run it: "
_STOPPED: Final = "the base commit did not run it each time: "
_COLUMNS: Final = 300
_SETUP: Final = "baseline: {setup: COMMAND} prepares its checkout"
_WORDS: Final = "its last words were:\n"
_ERROR: Final = re.compile(r"E\s+([\w.]*(?:Error|Exception|Exit|Interrupt|Failed)\b.*)")
_LACKS: Final = re.compile(
    r"No module named|ModuleNotFoundError|ImportError|cannot import name|undefined symbol"
    r"|cannot open shared object|No such file or directory|not found"
)
"""What a set-up of the checkout can mend."""
_OTHERS: Final = ("git does not hold", "install the project editable")
"""Beginnings of hints that know better."""


def note(benchmark: str, error: CiFlameError, tree: str) -> Note:
    """Return why a benchmark has no baseline, with the cure; `tree`: the base's checkout."""
    why, cure = reason(benchmark, error, tree)
    return Note(BROKEN, _BROKEN + why + (f"; {cure}" if cure else ""), benchmark)


def reason(benchmark: str, error: CiFlameError, tree: str) -> tuple[str, str]:
    """Return why the base commit cannot run a benchmark, and what helps (or nothing)."""
    head, _, tail = error.message.partition("\n")
    hint, _, last_words = error.hint.partition(_WORDS)
    rows = [row.removeprefix("  | ") for row in (tail or last_words).splitlines() if row.strip()]
    plain = head.removeprefix(f"{benchmark}: ").removeprefix("beside the base commit, ")
    said = _said(rows) or plain
    hint = hint.strip().removesuffix(";")
    cure = hint if hint.startswith(_OTHERS) else _SETUP if _LACKS.search(said) else ""
    # Where the checkout lies is nobody's business, and gone when this is read.
    said = said.replace(f"{tree}/", "").replace(tree, "its checkout")
    return cut(visible(said), _COLUMNS), cut(visible(cure), _COLUMNS)


def _said(rows: Sequence[str]) -> str:
    """Return the line of a process's last ones that says why it failed; empty: there is none."""
    for row in reversed(rows):
        if found := _ERROR.match(row):
            return found[1].strip()
    for row in reversed(rows):
        told = row.partition(" - ")[2] if row.startswith(("FAILED ", "ERROR ")) else ""
        if told:
            return told.strip()
    marked = [row for row in rows if row.startswith("E  ")]
    plain = [row for row in rows if not row.startswith(("=", "!", "FAILED ", "ERROR "))]
    return next(iter((*marked, *reversed(plain))), "").removeprefix("E ").strip()


def settled(notes: Iterable[Note], *, ran: bool) -> tuple[Note, ...]:
    """Return the notes of a benchmark, where it `ran` there after all: not each time.

    Where it did not, nothing is said of how its file differs from the one there.
    """
    told = (
        replace(each, slug=STOPPED, text=each.text.replace(_BROKEN, _STOPPED, 1))
        if ran and each.slug == BROKEN
        else each
        for each in notes
    )
    kept = tuple(dict.fromkeys(told))
    if any(each.slug == BROKEN for each in kept):
        kept = tuple(each for each in kept if each.slug != "benchmark-changed")
    return kept


def without_set_up(trouble: str) -> str:
    """Return why there is no baseline where the base commit could not be set up, in one line."""
    rows = trouble.splitlines()
    last = rows[-1].removeprefix("  | ") if len(rows) > 1 else ""
    said = ": ".join(filter(None, (rows[0], last))) if rows else ""
    return "no baseline: " + cut(visible(said), _COLUMNS)


def of_build(told: str, commit: str, notes: Sequence[Note]) -> Note:
    """Return why no benchmark of a build has a baseline; `told`: what it was to be.

    `commit`: of the base that was recorded; empty: none was. `notes`: of all benchmarks.
    """
    broken = [each for each in notes if each.slug == BROKEN]
    if broken:
        first = broken[0]
        words = f"no baseline: the base commit {commit[:10]} cannot run {first.benchmark}: "
        return Note(BROKEN, first.text.replace(_BROKEN, words, 1))
    if commit:
        words = f"no baseline: the base commit {commit[:10]} has none of these benchmarks"
        return Note("no-baseline", words)
    return Note("no-baseline", told)


def named(notes: Iterable[Note]) -> tuple[Note, ...]:
    """Return for a build of which others were compared what it was without, by name."""
    return tuple(
        Note("not-compared", f"{each.benchmark}: {each.text}")
        for each in notes
        if each.slug == BROKEN
    )
