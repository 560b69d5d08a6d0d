"""Stage 2, pure: what bcc's `profile` and `offcputime` print -> Profile.

Reference: https://github.com/iovisor/bcc (tools/profile.py, tools/offcputime.py)

    Sampling at 99 Hertz of all threads by user + kernel stack... Hit Ctrl-C to end.

        finish_task_switch          kernel, leaf first
        --                          with -d
        read                        user, leaf first
        -                bash (1234)
            17

Folded output (`-f`) is read too: the program's name first, and `-` in front of the kernel.
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from ci_flame.errors import FormatError, UnrecognisedError
from ci_flame.formats.foreign import folded_frame, is_kernel_entry, library_name
from ci_flame.profile import UNKNOWN, Frame, Kind, Mode, Profile, Stack, Unit, Weight

MAX_LINE: Final = 64 << 10
MAX_DEPTH: Final = 4096
MAX_LINES: Final = 20_000_000
_MAX_DIGITS: Final = 18
_SHOWN: Final = 60

_SAMPLING: Final = re.compile(r"Sampling at (?:(?P<hertz>\d+) Hertz|every \d+ events)\b", re.ASCII)
_OFF_CPU: Final = re.compile(r"Tracing off-CPU time \(us\)")
_WHO: Final = re.compile(r" {4}-\s+(?P<comm>\S.*?)(?: \((?P<pid>-?\d+)\))?\s*")
_COUNT: Final = re.compile(r"\s{4,}(?P<count>\d+)\s*", re.ASCII)
_FRAME: Final = re.compile(r" {4}(?:[0-9a-f]{8,16}\s+)?(?P<name>\S.*)")
_MODULE: Final = re.compile(r"(?P<name>.*\S) \[(?P<module>[^\[\] ]+)\]")
_OFFSET: Final = re.compile(r"\+0x[0-9a-f]+$")
_MISSED: Final = re.compile(r"WARNING: (?P<number>\d+) stack traces (?:lost and )?could not be")
_FOLDED: Final = re.compile(r"(?P<names>\S.*) (?P<count>\d+)", re.ASCII)
_CURE: Final = "let the tool end by itself (Ctrl-C, or a duration), and keep all it prints"


@dataclass(frozen=True, slots=True)
class Printed:
    """One output of a bcc tool."""

    profile: Profile
    """Numbers as printed: samples, or off-CPU microseconds."""
    mode: Mode
    frequency_hz: int
    """0: the tool did not print it."""
    missed: int
    """Stacks that the tool says it could not show."""


def is_output(text: str) -> bool:
    """Say whether the beginning of a file is the multi-line output of a bcc tool."""
    lines = text.split("\n", 400)[:400]
    return any(
        _SAMPLING.match(line) or _OFF_CPU.match(line) or _is_who(line) for line in lines
    )  # fmt: skip


def _is_who(line: str) -> bool:
    # bcc pads the dash to 16 columns; so wide a gap is nobody else's.
    return line.startswith("    -" + " " * 15) and _WHO.fullmatch(line) is not None


def read(text: str, source: str) -> Printed:
    """Return the profile; the program's name is the root (`[bash];native::read;kernel:…`).

    Raises UnrecognisedError where no line is bcc's, FormatError (with the line) where an
    entry is cut off, or a limit is passed.
    """
    # Counted before they are made, as each takes fifty bytes and more.
    if (count := text.count("\n") + 1) > MAX_LINES:
        raise FormatError(source, f"{count} lines; the limit is {MAX_LINES}")
    lines = text.split("\n")
    if lines[-1]:
        raise FormatError(
            f"{source}:{len(lines)}", "truncated: the last line has no end", _CURE
        )  # fmt: skip
    reading = _Reading(source)
    for number, line in enumerate(lines[:-1], 1):
        if len(line) > MAX_LINE:
            place = f"{source}:{number}"
            raise FormatError(place, f"{len(line)} characters; the limit is {MAX_LINE}")
        reading.line(line.removesuffix("\r"), number)
    return reading.printed()


class _Reading:
    """The entries that were read so far."""

    def __init__(self, source: str) -> None:
        self._source = source
        self._stacks: dict[Stack, Weight] = {}
        self._open: list[str] = []
        self._began = 0
        self._who = ""
        self._mode = Mode.ON_CPU
        self._hertz = self._missed = 0
        self._seen = False

    def line(self, line: str, number: int) -> None:
        """Take one more line."""
        place = f"{self._source}:{number}"
        if self._who:
            self._ends(line, place)
        elif who := _WHO.fullmatch(line):
            self._who, self._began = who["comm"], self._began or number
        elif line.startswith("    ") and (frame := _FRAME.fullmatch(line)):
            self._began = self._began or number
            self._open.append(frame["name"].rstrip())
            if len(self._open) > MAX_DEPTH:
                raise FormatError(place, f"a stack of more than {MAX_DEPTH} frames, the limit")
        elif self._open:
            raise FormatError(place, f"{line[:_SHOWN]!r} stands where a stack goes on", _CURE)
        else:
            self._beside(line, place)

    def _ends(self, line: str, place: str) -> None:
        count = _COUNT.fullmatch(line)
        if count is None:
            message = f"{line[:_SHOWN]!r} stands where the count of {self._who!r} was expected"
            raise FormatError(place, message, _CURE)
        self._add(stack_of(self._open, self._who), count["count"], place)
        self._open, self._who, self._began = [], "", 0

    def _beside(self, line: str, place: str) -> None:
        """Take a line outside of an entry: a header, a warning, a folded stack."""
        if sampling := _SAMPLING.match(line):
            self._seen = True
            self._hertz = int((sampling["hertz"] or "0")[:9])
        elif _OFF_CPU.match(line):
            self._seen, self._mode = True, Mode.OFF_CPU
        elif missed := _MISSED.match(line):
            self._missed += int(missed["number"][:9])
        elif folded := _FOLDED.fullmatch(line):
            self._add(_folded_stack(folded["names"]), folded["count"], place)

    def _add(self, stack: Stack, digits: str, place: str) -> None:
        if len(digits) > _MAX_DIGITS:
            message = f"a number of {len(digits)} digits; the limit is {_MAX_DIGITS}"
            raise FormatError(place, message)
        if len(stack) > MAX_DEPTH:
            raise FormatError(place, f"{len(stack)} frames; the limit is {MAX_DEPTH}")
        self._seen = True
        count = int(digits)
        weight = Weight(count, count)
        have = self._stacks.get(stack)
        self._stacks[stack] = weight if have is None else have + weight

    def printed(self) -> Printed:
        """Return everything; FormatError where an entry is still open."""
        if self._open or self._who:
            raise FormatError(
                f"{self._source}:{self._began}", "truncated: a stack that no count ends", _CURE
            )
        if not self._seen:
            raise UnrecognisedError(f"{self._source}: no stack of bcc's profile or offcputime")
        profile = Profile(self._stacks, Unit.SAMPLES).check(self._source)
        return Printed(profile, self._mode, self._hertz, self._missed)


def stack_of(leaf_first: Sequence[str], comm: str) -> Stack:
    """Return the stack of one entry; without `--` the kernel's part is found by its entry."""
    names = list(leaf_first)
    if "--" in names:
        cut = names.index("--")
        kernel, user = names[:cut], names[cut + 1 :]
    else:
        cut = 1 + max(
            (at for at, name in enumerate(names) if _kernel_name(name)), default=-1
        )  # fmt: skip
        kernel, user = names[:cut], names[cut:]
    return (
        Frame(f"[{comm}]", "", Kind.MARK),
        *(_frame(name, kernel=False) for name in reversed(user)),
        *(_frame(name, kernel=True) for name in reversed(kernel)),
    )


def _kernel_name(name: str) -> bool:
    return (
        name.endswith("_[k]")
        or name in {"[Missed Kernel Stack]", "[kernel]"}
        or is_kernel_entry(_OFFSET.sub("", name))
    )


def _frame(text: str, *, kernel: bool) -> Frame:
    if text in {"[Missed Kernel Stack]", "[Missed User Stack]"}:
        return Frame(text, "", Kind.MARK)
    name, module = text, ""
    if found := _MODULE.fullmatch(text):
        name, module = found["name"], found["module"]
        module = module if module == "kernel" else library_name(module)
    name = _OFFSET.sub("", name).removesuffix("_[k]") or "[unknown]"
    if kernel or module == "kernel":
        return Frame(name, "", Kind.KERNEL)
    if name == "[unknown]":
        return Frame(name, module, Kind.NATIVE) if module else UNKNOWN
    return Frame(name, module, Kind.NATIVE)


def _folded_stack(names: str) -> Stack:
    comm, *rest = names.split(";")
    rest = [name or "[unknown]" for name in rest]
    if "-" in rest:
        cut = rest.index("-")
        user, kernel = rest[:cut], rest[cut + 1 :]
    else:
        first = next((at for at, name in enumerate(rest) if _kernel_name(name)), len(rest))
        user, kernel = rest[:first], rest[first:]
    root = folded_frame(comm) if comm.startswith("[") else Frame(f"[{comm}]", "", Kind.MARK)
    return (
        root,
        *(_frame(name, kernel=False) for name in user),
        *(_frame(name, kernel=True) for name in kernel),
    )
