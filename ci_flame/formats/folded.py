"""Stage 2, pure: folded stacks <-> Profile.

Reference: https://github.com/brendangregg/FlameGraph (stackcollapse-*.pl, flamegraph.pl)

One line per stack, frames outermost first: `main;shop.parser:tokenize;native:libc.so.6:read 12`.
"""

import re
from typing import Final

from ci_flame.errors import FormatError, UnrecognisedError
from ci_flame.formats.foreign import folded_frame
from ci_flame.profile import Frame, Kind, Profile, Stack, Unit, Weight

MAX_LINES: Final = 5_000_000
MAX_LINE: Final = 1 << 20
MAX_DEPTH: Final = 4096
_MAX_DIGITS: Final = 18
_SHOWN: Final = 60
_CONTROL: Final = re.compile(r"[\x00-\x1f\x7f-\x9f]")
"""Characters of a wrong line that a message repeats."""


def write(profile: Profile, *, weights: bool = False) -> str:
    """Return the folded text, sorted; numbers are samples, or with `weights` in the profile's unit.

    Where a name has a `;` it becomes `:`, and a line break or another control character a
    space, as the format has no quotes. Stacks of number 0 are left out.
    """
    lines: dict[str, int] = {}
    for stack, weight in profile.stacks.items():
        text = ";".join(_clean(_name(frame)) for frame in stack)
        lines[text] = lines.get(text, 0) + (weight.value if weights else weight.samples)
    return "".join(f"{text} {lines[text]}\n" for text in sorted(lines) if lines[text])


def write_microseconds(profile: Profile) -> str:
    """Return waiting as the field writes it: whole microseconds, what rounds to none left out.

    Reference: https://www.brendangregg.com/offcpuanalysis.html
    """
    stacks = {
        stack: Weight(weight.samples, round(weight.value / 1000))
        for stack, weight in profile.stacks.items()
    }
    return write(Profile(stacks, profile.unit, profile.iterations), weights=True)


def read(text: str, source: str) -> Profile:
    """Return the profile of folded text; its unit is samples.

    Names that ci-flame wrote come back as they were; others are taken as `foreign.py` says.
    Raises UnrecognisedError where the first line is not folded at all, FormatError (with
    the line) where a later one is not, or a limit is passed.
    """
    stacks: dict[Stack, Weight] = {}
    first = True
    # Before they are made: an empty line is a byte in a file, and fifty in memory.
    if text.count("\n") > MAX_LINES:
        raise FormatError(source, f"more than {MAX_LINES} lines, the limit")
    for number, line in enumerate(text.split("\n"), 1):
        line = line.removesuffix("\r")  # noqa: PLW2901 - the line without its end
        if not line.strip():
            continue
        stack, count = _line(line, f"{source}:{number}", first=first)
        first = False
        weight = Weight(count, count)
        have = stacks.get(stack)
        stacks[stack] = weight if have is None else have + weight
    return Profile(stacks, Unit.SAMPLES).check(source)


def _line(line: str, place: str, *, first: bool) -> tuple[Stack, int]:
    if len(line) > MAX_LINE:
        raise FormatError(place, f"{len(line)} characters; the limit is {MAX_LINE}")
    names, _, count = line.rpartition(" ")
    if not names.strip() or not (count.isascii() and count.isdigit()):
        message = f"not `frame;frame NUMBER`: {line[:_SHOWN]!r}"
        if first:
            raise UnrecognisedError(f"{place}: {message}")
        raise FormatError(place, message)
    if len(count) > _MAX_DIGITS:
        raise FormatError(place, f"a number of {len(count)} digits; the limit is {_MAX_DIGITS}")
    frames = names.strip().split(";")
    if len(frames) > MAX_DEPTH:
        raise FormatError(place, f"{len(frames)} frames; the limit is {MAX_DEPTH}")
    if not all(frames):
        raise FormatError(place, f"a frame without a name: {line[:_SHOWN]!r}")
    return tuple(map(folded_frame, frames)), int(count)


def _name(frame: Frame) -> str:
    """Return a frame's name, as `read` takes it for the same frame."""
    name = str(frame)
    if frame.kind is Kind.NATIVE and not frame.module and folded_frame(name) != frame:
        # What other tools write means something there: `parse (shop.py)` is py-spy's Python.
        return f"native::{frame.function}"
    return name


def _clean(name: str) -> str:
    return _CONTROL.sub(" ", name.replace(";", ":"))
