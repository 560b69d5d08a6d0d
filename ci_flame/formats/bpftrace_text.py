"""Stage 2, pure: the text that bpftrace prints -> its maps.

    Attaching 2 probes...
    @[
        finish_task_switch+193
    , bash]: 12

Keys are printed without quotes, so that a line break or `]: ` in a string can look like the
end of an entry. Where that leaves two readings the text is refused; JSON has but one.
"""

import re
from collections.abc import Iterator
from typing import Final

from ci_flame.errors import FormatError, UnrecognisedError
from ci_flame.formats.bpftrace_values import (
    Buckets,
    Entry,
    Map,
    Output,
    Stats,
    Trace,
    Value,
    printed_again,
)

MAX_LINE: Final = 1 << 20
MAX_ENTRIES: Final = 2_000_000
MAX_ENTRY_LINES: Final = 20_000
_MAX_DIGITS: Final = 20
_SHOWN: Final = 60
_UNITS: Final = {"": 0, "K": 10, "M": 20, "G": 30, "T": 40, "P": 50, "E": 60}

_START: Final = re.compile(r"(?P<name>@[A-Za-z_0-9]*)(?P<sort>\[|:(?=\s|$))", re.ASCII)
_END: Final = re.compile(
    r"(?P<key>.*)\]:(?: (?P<number>-?\d+)| (?P<stats>count \d+, average -?\d+, total -?\d+)|\s*)",
    re.ASCII | re.DOTALL,
)
_STATS: Final = re.compile(
    r"count (?P<count>\d+), average (?P<average>-?\d+), total (?P<total>-?\d+)", re.ASCII
)
_NUMBER: Final = re.compile(r"-?\d+", re.ASCII)
_ROW: Final = re.compile(
    r"(?:\[(?P<one>-?\d+[KMGTPE]?)\]|[\[(](?P<low>-?\d+[KMGTPE]?|\.\.\.),"
    r" ?(?P<high>-?\d+[KMGTPE]?|\.\.\.)\))\s+(?P<count>\d+) \|[@ ]*\|\s*",
    re.ASCII,
)
_LOST: Final = re.compile(r"Lost (?P<number>\d+) events?\b", re.ASCII)
_ATTACHED: Final = re.compile(r"Attach(?:ing|ed) (?P<number>\d+) probes?\b", re.ASCII)
_CURE_TRUNCATED: Final = "let bpftrace end by itself (Ctrl-C or exit()), and keep all it prints"
_CURE_AMBIGUOUS: Final = "record it with bpftrace -f json, which quotes its strings"


def read(text: str, source: str) -> Output:
    """Return what the text holds; UnrecognisedError where no line is bpftrace's."""
    lines = text.split("\n")
    if len(lines) > 1 and not lines[-1]:
        lines.pop()
    elif _mentions(lines):
        raise FormatError(
            f"{source}:{len(lines)}", "truncated: the last line has no end", _CURE_TRUNCATED
        )
    maps: dict[str, list[Entry]] = {}
    printed: dict[str, int] = {}
    latest = ""
    lost = probes = 0
    seen = False
    for first, chunk in _chunks(lines, source):
        start = _START.match(chunk[0])
        if start is None:
            for line in chunk:
                lost += int(found["number"]) if (found := _LOST.match(line)) else 0
                if attached := _ATTACHED.match(line):
                    probes, seen = int(attached["number"]), True
            continue
        seen = True
        name = start["name"]
        entry, rest = _entry(start, chunk, f"{source}:{first}")
        lost += sum(int(found["number"]) for line in rest if (found := _LOST.match(line)))
        if name != latest:
            printed[name] = printed.get(name, 0) + 1
            latest = name
        maps.setdefault(name, []).append(entry)
    if not seen:
        raise UnrecognisedError(f"{source}: no map and no `Attaching N probes...` of bpftrace")
    if sum(map(len, maps.values())) > MAX_ENTRIES:
        raise FormatError(source, f"more than {MAX_ENTRIES} entries, the limit")
    return Output(
        tuple(Map(name, tuple(entries)) for name, entries in maps.items()),
        lost,
        printed_again(printed),
        probes,
    )


def is_output(text: str) -> bool:
    """Say whether the beginning of a text is bpftrace's."""
    for line in text.split("\n", 400)[:400]:
        if _ATTACHED.match(line):
            return True
        if _START.match(line):
            return True
    return False


def _mentions(lines: list[str]) -> bool:
    return any(_ATTACHED.match(line) or _START.match(line) for line in lines)


def _chunks(lines: list[str], source: str) -> Iterator[tuple[int, list[str]]]:
    """Yield the lines of one entry, with what follows until the next, and its line's number."""
    begin = 0
    for number, line in enumerate(lines, 1):
        if len(line) > MAX_LINE:
            place = f"{source}:{number}"
            raise FormatError(place, f"{len(line)} characters; the limit is {MAX_LINE}")
        if _START.match(line) and number - 1 > begin:
            yield begin + 1, lines[begin : number - 1]
            begin = number - 1
    if lines:
        yield begin + 1, lines[begin:]


def _entry(start: re.Match[str], chunk: list[str], place: str) -> tuple[Entry, list[str]]:
    """Return the entry at the beginning of the lines, and the lines behind it."""
    if start["sort"] == "[":
        return _keyed(start, chunk, place)
    text = chunk[0][start.end() :].strip()
    if text:
        return Entry((), _value(text, place)), chunk[1:]
    value, rest = _below(chunk[1:], place)
    return Entry((), value), rest


def _keyed(start: re.Match[str], chunk: list[str], place: str) -> tuple[Entry, list[str]]:
    head = chunk[0][start.end() :]
    key_text, bracket, text = head.partition("]: ")
    for index, line in enumerate(chunk[:MAX_ENTRY_LINES]):
        if bracket and not line.strip():
            break  # the value on the first line is text, and what follows is something else
        end = _END.fullmatch(head if index == 0 else line)
        if end is None:
            continue
        _must_be_clear(chunk, index, place)
        whole = [head, *chunk[1:index], end["key"]] if index else [end["key"]]
        key = _parts("\n".join(whole))
        if end["number"]:
            return Entry(key, _value(end["number"], place)), chunk[index + 1 :]
        if end["stats"]:
            return Entry(key, _value(end["stats"], place)), chunk[index + 1 :]
        value, rest = _below(chunk[index + 1 :], place)
        return Entry(key, value), rest
    if bracket:
        # A value that is text: `@names[12]: bash`.
        return Entry(_parts(key_text), text), chunk[1:]
    if len(chunk) > MAX_ENTRY_LINES:
        raise FormatError(place, f"a key of more than {MAX_ENTRY_LINES} lines, the limit")
    raise FormatError(
        place, f"truncated: {chunk[0][:_SHOWN]!r} begins a key that no `]: ` ends", _CURE_TRUNCATED
    )


def _must_be_clear(chunk: list[str], index: int, place: str) -> None:
    """Refuse a key that may go on in the lines below."""
    for offset, line in enumerate(chunk[index + 1 :], index + 1):
        if not line.strip() or _ROW.fullmatch(line):
            return
        end = _END.fullmatch(line)
        if end is not None and (end["number"] or end["stats"]):
            at, _, first = place.rpartition(":")
            raise FormatError(
                f"{at}:{int(first) + offset}",
                f"{line[:_SHOWN]!r} may end the key that begins on line {first}, or be printed"
                " text: strings with line breaks have two readings",
                _CURE_AMBIGUOUS,
            )


def _parts(text: str) -> tuple[str | Trace, ...]:
    """Return the parts of a key: stacks by their indented lines, the rest at commas."""
    parts: list[str | Trace] = []
    position = 0
    while True:
        if text.startswith("\n", position) and (lines := _indented(text, position + 1)):
            position += 1 + sum(len(line) + 1 for line in lines)
            parts.append(Trace(tuple(line.strip() for line in lines)))
            position = min(position, len(text))
        else:
            end = text.find(", ", position)
            end = len(text) if end < 0 else end
            parts.append(text[position:end])
            position = end
        if not text.startswith(", ", position):
            break
        position += 2
    rest = text[position:]
    if rest.strip():
        parts.append(rest)
    return _with_empty_stacks(tuple(parts))


def _indented(text: str, position: int) -> list[str]:
    lines = []
    while position < len(text):
        end = text.find("\n", position)
        line = text[position:] if end < 0 else text[position:end]
        if not line.startswith((" ", "\t")):
            break
        lines.append(line)
        if end < 0:
            break
        position = end + 1
    return lines


def _with_empty_stacks(parts: tuple[str | Trace, ...]) -> tuple[str | Trace, ...]:
    """Return the parts; an empty one is a stack that bpftrace did not have."""
    return tuple(part if isinstance(part, Trace) or part else Trace(()) for part in parts)


def _below(lines: list[str], place: str) -> tuple[Value, list[str]]:
    """Return the histogram or stack in the lines below a name, and what follows it."""
    rows: list[tuple[int | None, int | None, int]] = []
    for line in lines:
        row = _ROW.fullmatch(line)
        if row is None:
            break
        rows.append(_row(row))
    if rows:
        return Buckets(tuple(rows)), lines[len(rows) :]
    stack = []
    for line in lines:
        if not line.startswith(("    ", "\t")) or not line.strip():
            break
        stack.append(line.strip())
    if not stack and any(line.strip() for line in lines[:1]):
        raise FormatError(place, f"neither a number nor rows below: {lines[0][:_SHOWN]!r}")
    return Trace(tuple(stack)), lines[len(stack) :]


def _row(row: re.Match[str]) -> tuple[int | None, int | None, int]:
    count = int(row["count"][:_MAX_DIGITS])
    if row["one"]:
        value = _scaled(row["one"])
        return value, value, count
    high = _scaled(row["high"])
    return _scaled(row["low"]), None if high is None else high - 1, count


def _scaled(text: str) -> int | None:
    if text == "...":
        return None
    unit = text[-1] if text[-1] in _UNITS else ""
    return int(text.removesuffix(unit)[:_MAX_DIGITS]) << _UNITS[unit]


def _value(text: str, place: str) -> Value:
    if _NUMBER.fullmatch(text):
        if len(text) > _MAX_DIGITS:
            raise FormatError(place, f"a number of {len(text)} digits; the limit is {_MAX_DIGITS}")
        return int(text)
    if stats := _STATS.fullmatch(text):
        if max(map(len, stats.groups())) > _MAX_DIGITS:
            raise FormatError(place, f"a number of more than {_MAX_DIGITS} digits, the limit")
        return Stats(int(stats["count"]), int(stats["average"]), int(stats["total"]))
    return text
