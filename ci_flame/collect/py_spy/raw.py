"""Stage 1, edge: what `py-spy record --format raw` writes, read into stacks.

    process 7:"python a.py";process 9:"python b.py";<module> (/a/b.py:1);work (/a/b.py:20) 31
    └─ command lines may hold anything, line breaks and semicolons too ─┘  └ name, file, first line

Reference: https://github.com/benfred/py-spy/blob/v0.4.1/src/flamegraph.rs
"""

import re
from collections import Counter
from collections.abc import Collection, Iterator
from dataclasses import dataclass
from typing import Final

from ci_flame.collect import Recording
from ci_flame.profile import Frame, Place, Stack
from ci_flame.symbols.modules import Layout, name_module

STEP: Final = 1 << 16
"""Lines between two phases; more than any function's own first line."""

_RECORD: Final = re.compile(r"(?P<stack>.*) (?P<count>\d+)\s*", re.DOTALL)
_FRAME: Final = re.compile(r"(?P<name>.*?) \((?P<file>.*?)(?::(?P<line>\d+))?\)", re.DOTALL)


@dataclass(frozen=True, slots=True)
class Code:
    """One function as py-spy names it."""

    name: str
    """`co_qualname` from Python 3.11 on."""
    file: str
    line: int
    """First line (`--function`); 0 where py-spy gave none."""


@dataclass(frozen=True, slots=True)
class Counted:
    """One stack, outermost first, and how often it was seen."""

    stack: tuple[Code, ...]
    """Empty where py-spy read no frame."""
    count: int


def stacks(text: str, root: int) -> Iterator[Counted]:
    """Return the stacks of a recording of the tree of process `root` (`--subprocesses`).

    What cannot be understood (a record cut off at the end of a full disk) is a stack without
    frames where its count can be read, else it is left out.
    """
    # Every record begins with the root process; a line alone is no record, since a command line
    # may hold line breaks.
    border = re.compile(rf'^(?=process {root}:")', re.MULTILINE)
    for piece in border.split(text):
        match = _RECORD.fullmatch(piece)
        if match is not None:
            yield Counted(_frames(match["stack"]), int(match["count"]))


def _frames(stack: str) -> tuple[Code, ...]:
    """Return the frames behind the processes' command lines.

    Read from the inside: a frame ends with a bracket and a command line with a quote. Where what
    stands before a semicolon ends with neither, the semicolon is a file name's own.
    """
    found: list[Code] = []
    rest = ""
    pieces = stack.split(";")
    for number, piece in reversed(list(enumerate(pieces))):
        if not rest and not piece.endswith(")"):
            break
        rest = f"{piece};{rest}" if rest else piece
        match = _FRAME.fullmatch(rest)
        if match is not None and (number == 0 or pieces[number - 1].endswith((")", '"'))):
            found.append(Code(match["name"], match["file"], int(match["line"] or 0)))
            rest = ""
    return tuple(reversed(found))


class Gathered:
    """Samples of one or several py-spys being put together."""

    def __init__(self, layout: Layout, outermost: Collection[tuple[str, str]] | None) -> None:
        self._layout = layout
        self._outermost = outermost
        self._samples: dict[int, Counter[Stack]] = {}
        self._places: dict[Frame, Place] = {}
        self._frames: dict[Code, Frame] = {}
        self._named: dict[str, tuple[str, str]] = {}
        self._torn = self._outside = self._errors = self._cpu_ns = 0
        self._behind = 0.0

    def add(self, text: str, root: int, base: int) -> None:
        """Count the samples of one recording; `base` is what its phases are counted from."""
        for counted in stacks(text, root):
            stack, phase = counted.stack, base
            if self._outermost is not None:
                stack, window = _without_phase(stack)
                if not stack or (stack[0].name, stack[0].file) not in self._outermost:
                    self._torn += counted.count
                    continue
                phase = base + window if window else 0
            elif not stack:
                self._torn += counted.count
                continue
            if not phase:
                self._outside += counted.count
                continue
            named = tuple(map(self._frame, stack))
            self._samples.setdefault(phase, Counter())[named] += counted.count

    def account(self, errors: int, behind: float, cpu_ns: int) -> None:
        """Add what one py-spy said of itself."""
        self._errors += errors
        self._behind = max(self._behind, behind)
        self._cpu_ns += cpu_ns

    def recording(self, period_ns: int) -> Recording:
        """Return all of it."""
        kept = sum(stacks.total() for stacks in self._samples.values())
        metrics = {
            "collector.cpu_ns": float(self._cpu_ns),
            "collector.errors": float(self._errors),
            "collector.torn": float(self._torn),
        }
        if self._behind:
            metrics["collector.behind_s"] = self._behind
        everything = kept + self._outside + self._torn
        return Recording(
            samples=self._samples,
            period_ns=period_ns,
            places=self._places,
            # Reads failed and stacks tore in windows as often as outside of them.
            lost=round((self._errors + self._torn) * kept / (everything or 1)),
            metrics=metrics,
        )

    def _frame(self, code: Code) -> Frame:
        known = self._frames.get(code)
        if known is not None:
            return known
        if code.file not in self._named:
            self._named[code.file] = name_module(code.file, self._layout)
        dotted, place = self._named[code.file]
        frame = self._frames[code] = Frame(code.name or "[unknown]", dotted)
        here = Place(place, max(code.line, 1))
        self._places[frame] = min(self._places.get(frame, here), here)
        return frame


def _without_phase(
    stack: tuple[Code, ...],
) -> tuple[tuple[Code, ...], int]:
    """Return the stack with its outermost function's own line, and the phase that was in it."""
    if not stack:
        return stack, 0
    window, line = divmod(stack[0].line, STEP)
    return (Code(stack[0].name, stack[0].file, line), *stack[1:]), window
