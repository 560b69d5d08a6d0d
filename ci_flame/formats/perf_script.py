"""Stage 2, pure: the text of `perf script` -> samples, and a Profile of them.

Reference: https://github.com/torvalds/linux/blob/v6.1/tools/perf/builtin-script.c

    noploop 21796/21797 [001] 1410597.984841:   1000000 cpu-clock:u:
            7f2b401a spin+0x1a (/usr/bin/noploop)

perf prints the leaf first and no two versions alike: names of programs may have spaces,
the thread, CPU, time and period may be absent, the pid may be -1, the last sample may
lack its blank line, and without call chains everything is on one line.
"""

import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Final, TypeAlias

from ci_flame.errors import FormatError, UnrecognisedError
from ci_flame.formats.foreign import dso_frame
from ci_flame.profile import Frame, Kind, Profile, Stack, Unit, Weight

MAX_LINE: Final = 64 << 10
MAX_DEPTH: Final = 4096

_WHO: Final = r"\s*(?P<comm>\S.*?)\s+(?P<pid>-?\d{1,18})(?:/(?P<tid>-?\d{1,18}))?\s+(?:\[\d+\]\s+)?"
_TIME: Final = r"(?P<time>\d{1,18}\.\d{1,18}):\s+"
_WHAT: Final = r"(?:(?P<period>\d{1,18})\s+)?(?P<event>[^\s:]\S*):(?=\s|$)"
_HEADERS: Final = (re.compile(_WHO + _TIME + _WHAT), re.compile(_WHO + _WHAT))
"""With the time first: where there is one, it tells a number in the name from the pid."""
_HEADER_LENGTH: Final = 400
_LOST: Final = re.compile(r"PERF_RECORD_LOST(?:_SAMPLES)?\s+(?:lost\s+)?(?P<number>\d{1,18})")
_EXEC: Final = re.compile(r"PERF_RECORD_COMM exec: (?P<comm>.*):(?P<pid>\d{1,18})/\d{1,18}\s*$")
_RECORD: Final = "PERF_RECORD_"
_FRAME: Final = re.compile(r"\s*(?P<address>[0-9a-f]+)\s+(?P<rest>\S.*\))\s*$")
_SOURCE_LINE: Final = re.compile(r"\s*(?:\S+:\d+|\S+\[[0-9a-f]+\])(?:\s+\(inlined\))?\s*$")
_OFFSET: Final = re.compile(r"\+0x[0-9a-f]+$")
_MODIFIER: Final = re.compile(r":[ukhIGHpPSDWeb]+$")
_CLOCKS: Final = frozenset({"cpu-clock", "task-clock"})
"""Events whose period is in nanoseconds."""
_SHOWN: Final = 60


_Leaf: TypeAlias = tuple[str, str, int]
"""Symbol, library and address of one line."""


@dataclass(frozen=True, slots=True)
class Sample:
    """One record."""

    comm: str
    pid: int
    event: str
    """Without its modifier: `cycles` of `cycles:u`."""
    period: int | None
    time: float | None
    stack: Stack
    """Outermost first, without the program's name; empty where perf had no stack."""


@dataclass(frozen=True, slots=True)
class Lost:
    """Samples that perf says it lost at this point (`--show-lost-events`)."""

    number: int


@dataclass(frozen=True, slots=True)
class Exec:
    """A process became another program at this point (`--show-task-events`)."""

    pid: int
    comm: str


def read(lines: Iterable[str], source: str, event: str = "") -> Profile:
    """Return the profile of one event; the program's name is the root (`[gcc];native:...`).

    Weights are nanoseconds for cpu-clock and task-clock with periods, else samples. Raises
    UnrecognisedError where no line is perf's, FormatError where a line inside is not, or
    where several events are there and `event` does not choose.
    """
    stacks: dict[Stack, Weight] = {}
    events: set[str] = set()
    others: set[str] = set()
    timed = True
    seen = False
    for record in records(lines, source):
        seen = True
        if not isinstance(record, Sample):
            continue
        if event and record.event != event:
            others.add(record.event)
            continue
        events.add(record.event)
        if len(events) > 1:
            raise FormatError(
                source,
                f"samples of several events: {', '.join(sorted(events))}",
                "choose one of them",
            )
        timed = timed and record.event in _CLOCKS and record.period is not None
        weight = Weight(1, record.period or 0)
        stack = (program(record.comm), *record.stack)
        have = stacks.get(stack)
        stacks[stack] = weight if have is None else have + weight
    if not seen:
        raise UnrecognisedError(f"{source}: no sample as `perf script` prints it")
    if event and not events:
        told = ", ".join(sorted(others)) or "none at all"
        raise FormatError(source, f"no sample of {event}", f"samples are of: {told}")
    if timed:
        return Profile(stacks, Unit.NANOSECONDS).check(source)
    counts = {stack: Weight(weight.samples, weight.samples) for stack, weight in stacks.items()}
    return Profile(counts, Unit.SAMPLES).check(source)


def program(comm: str) -> Frame:
    """Return the frame for a program's name, `[gcc]`: a mark, as it is not a function."""
    return Frame(f"[{comm}]", "", Kind.MARK)


def records(lines: Iterable[str], source: str) -> Iterator[Sample | Lost | Exec]:
    """Yield what the lines hold, one record at a time; nothing else is kept in memory."""
    header: re.Match[str] | None = None
    stack: list[_Leaf] = []
    seen = False
    for number, line in enumerate(lines, 1):
        place = f"{source}:{number}"
        if len(line) > MAX_LINE:
            raise FormatError(place, f"{len(line)} characters; the limit is {MAX_LINE}")
        if header is not None and _continues(line, stack, place):
            continue
        if header is not None:
            yield _sample(header, stack)
        header, stack = None, []
        if not line.strip() or line.startswith("#"):
            continue
        if _RECORD in line:
            yield from _event(line)
            continue
        header = _header(line, place, seen=seen)
        seen = True
        only = _FRAME.match(line, header.end())
        if only is not None:
            # Without call chains the leaf stands behind the event, and no blank line follows.
            yield _sample(header, [_parts(only, place)])
            header = None
    if header is not None:
        yield _sample(header, stack)


def _continues(line: str, stack: list[_Leaf], place: str) -> bool:
    """Add a line to the stack of the sample before it; say no where it begins something else."""
    frame = _FRAME.match(line)
    if frame is not None:
        stack.append(_parts(frame, place))
        if len(stack) > MAX_DEPTH:
            raise FormatError(place, f"a stack of more than {MAX_DEPTH} frames, the limit")
        return True
    return _SOURCE_LINE.match(line) is not None


def _header(line: str, place: str, *, seen: bool) -> re.Match[str]:
    for pattern in _HEADERS:
        found = pattern.match(line, 0, _HEADER_LENGTH)
        if found is not None:
            return found
    message = f"not a line of `perf script`: {line.strip()[:_SHOWN]!r}"
    raise FormatError(place, message) if seen else UnrecognisedError(f"{place}: {message}")


def _event(line: str) -> Iterator[Lost | Exec]:
    if lost := _LOST.search(line):
        yield Lost(int(lost["number"]))
    if became := _EXEC.search(line):
        yield Exec(int(became["pid"]), became["comm"])


def _parts(frame: re.Match[str], place: str) -> _Leaf:
    """Split `symbol+0x1f (library)`; both sides may have parentheses of their own."""
    rest = frame["rest"]
    depth = 0
    for position in range(len(rest) - 1, -1, -1):
        depth += (rest[position] == ")") - (rest[position] == "(")
        if depth == 0:
            symbol = _OFFSET.sub("", rest[:position].rstrip())
            return symbol, rest[position + 1 : -1], int(frame["address"], 16)
    raise FormatError(place, f"not a frame: {rest[:_SHOWN]!r}")


def _sample(header: re.Match[str], leaf_first: list[_Leaf]) -> Sample:
    groups = header.groupdict()
    library = ""
    stack: list[Frame] = []
    for symbol, dso, address in reversed(leaf_first):
        if dso != "inlined":
            library = dso
        # An inlined function is in the library of the one that it was inlined into.
        stack.append(dso_frame(symbol, library, address))
    return Sample(
        comm=groups["comm"],
        pid=int(groups["pid"]),
        event=_MODIFIER.sub("", groups["event"]),
        period=None if groups["period"] is None else int(groups["period"]),
        time=None if groups.get("time") is None else float(groups["time"]),
        stack=tuple(stack),
    )
