r"""Stage 2, pure: what `bpftrace -f json` prints -> its maps.

    {"type": "map", "data": {"@": {"\n    spin+8\n,,bash": 12}}}

One document a line, or spread over several. An object may name one key twice (two stacks
with the same names), so that objects are read as pairs.
"""

import json
import re
from typing import Any, Final

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

MAX_ENTRIES: Final = 2_000_000
MAX_RECORDS: Final = 5_000_000
_SHOWN: Final = 60
_CURE: Final = "let bpftrace end by itself (Ctrl-C or exit()), and keep all it prints"
_MAP_TYPES: Final = frozenset({"map", "hist", "stats"})
_KNOWN: Final = _MAP_TYPES | {
    "attached_probes", "lost_events", "printf", "time", "cat", "join", "syscall", "value",
    "tseries", "helper_error", "runtime_error", "print_error", "benchmark_results",
}  # fmt: skip
_STATS_KEYS: Final = ["average", "count", "total"]
_MOST: Final = (1 << 64) - 1
_INTEGER: Final = re.compile(r"-?\d{16,20}", re.ASCII)
"""From 0.23 on, what a double cannot hold is printed as text."""

Pairs = list[tuple[str, Any]]


class _Object:
    """A JSON object with all its pairs."""

    __slots__ = ("pairs",)

    def __init__(self, pairs: Pairs) -> None:
        self.pairs = pairs

    def get(self, key: str) -> object:
        return next((value for name, value in self.pairs if name == key), None)


_DECODER: Final = json.JSONDecoder(object_pairs_hook=_Object, strict=False)


def read(text: str, source: str) -> Output:
    """Return what the documents hold; UnrecognisedError where the first is not bpftrace's."""
    reading = _Reading(source)
    position = _blank(text, 0)
    number, counted = 1, 0
    while position < len(text):
        number, counted = number + text.count("\n", counted, position), position
        document, position = _document(text, position, source, first=not reading.records)
        reading.add(document, f"{source}:{number}")
        position = _blank(text, position)
    if not reading.records:
        raise UnrecognisedError(f"{source}: no JSON document of bpftrace")
    return reading.output()


class _Reading:
    """The documents that were read so far."""

    def __init__(self, source: str) -> None:
        self.records = 0
        self._source = source
        self._maps: dict[str, list[Entry]] = {}
        self._printed: dict[str, int] = {}
        self._entries = self._lost = self._probes = 0

    def add(self, document: _Object, place: str) -> None:
        """Take one more document."""
        kind = document.get("type")
        self.records += 1
        if self.records > MAX_RECORDS:
            raise FormatError(place, f"more than {MAX_RECORDS} documents, the limit")
        if not isinstance(kind, str) or (self.records == 1 and kind not in _KNOWN):
            message = f'a document with no "type" of bpftrace: {str(kind)[:_SHOWN]!r}'
            if self.records == 1:
                raise UnrecognisedError(f"{place}: {message}")
            raise FormatError(place, message)
        if kind == "lost_events":
            self._lost += _figure(document, ("events", "count"))
        elif kind == "attached_probes":
            self._probes = _figure(document, ("probes", "count"))
        elif kind in _MAP_TYPES:
            data = document.get("data")
            if not isinstance(data, _Object) or not data.pairs:
                raise FormatError(place, f'"{kind}" without a map in "data"')
            for name, value in data.pairs:
                self._map(kind, name, value, place)

    def _map(self, kind: str, name: str, value: object, place: str) -> None:
        found = _entries(value, kind, name, place)
        self._entries += len(found)
        if self._entries > MAX_ENTRIES:
            raise FormatError(place, f"more than {MAX_ENTRIES} entries, the limit")
        self._maps.setdefault(name, []).extend(found)
        self._printed[name] = self._printed.get(name, 0) + 1

    def output(self) -> Output:
        """Return everything."""
        maps = tuple(Map(name, tuple(found)) for name, found in self._maps.items())
        return Output(maps, self._lost, printed_again(self._printed), self._probes)


def is_output(text: str) -> bool:
    """Say whether the first document, which may be cut off, is bpftrace's."""
    found = re.match(r'\s*\{\s*"type"\s*:\s*"(?P<kind>\w+)"', text)
    return found is not None and found["kind"] in _KNOWN


def _blank(text: str, position: int) -> int:
    while position < len(text) and text[position] in " \t\r\n":
        position += 1
    return position


def _line(text: str, position: int) -> int:
    return text.count("\n", 0, position) + 1


def _document(text: str, position: int, source: str, *, first: bool) -> tuple[_Object, int]:
    try:
        document, end = _DECODER.raw_decode(text, position)
    except json.JSONDecodeError as error:
        place = f"{source}:{error.lineno}"
        if first and not is_output(text[position : position + 200]):
            raise UnrecognisedError(f"{place}: not JSON of bpftrace: {error.msg}") from None
        # A string or an object that never ends is told at the place where it began.
        cut = error.pos >= len(text.rstrip()) or error.msg.startswith("Unterminated")
        what = "truncated" if cut else "not JSON"
        raise FormatError(place, f"{what}: {error.msg} (column {error.colno})", _CURE) from None
    except (RecursionError, ValueError) as error:
        place = f"{source}:{_line(text, position)}"
        why = "nested too deeply" if isinstance(error, RecursionError) else str(error)
        raise FormatError(place, f"not JSON of bpftrace: {why}") from None
    if not isinstance(document, _Object):
        place = f"{source}:{_line(text, position)}"
        message = f"not a document of bpftrace: {text[position : position + _SHOWN]!r}"
        if first:
            raise UnrecognisedError(f"{place}: {message}")
        # What the program of `bpftrace -c` printed lies between the documents.
        raise FormatError(place, message, "bpftrace -o FILE keeps other programs' output apart")
    return document, end


def _figure(document: _Object, names: tuple[str, str]) -> int:
    data = document.get("data")
    for holder in (data, document):
        if isinstance(holder, _Object):
            for name in names:
                value = holder.get(name)
                if isinstance(value, int) and not isinstance(value, bool) and value >= 0:
                    return value
    return 0


def _entries(value: object, kind: str, name: str, place: str) -> list[Entry]:
    if not isinstance(value, _Object):
        return [Entry((), _value(value, name, place))]
    if kind == "stats" and sorted(key for key, _ in value.pairs) == _STATS_KEYS:
        return [Entry((), _value(value, name, place))]
    return [Entry(_parts(key), _value(each, name, place)) for key, each in value.pairs]


def _value(value: object, name: str, place: str) -> Value:
    if isinstance(value, str):
        if _INTEGER.fullmatch(value):
            return int(value)
        return _trace(value) if value.startswith("\n") else value
    if isinstance(value, list):
        return _listed(value, name, place)
    if isinstance(value, _Object):
        figures = dict(value.pairs)
        if sorted(figures) != _STATS_KEYS:
            return ", ".join(figures)[:_SHOWN]  # a structure
        count, average, total = (
            _whole(figures[key], name, place) for key in ("count", "average", "total")
        )
        return Stats(count, average, total)
    return _whole(int(value), name, place) if isinstance(value, int) else str(value)


def _listed(value: list[object], name: str, place: str) -> Value:
    """Return the rows of a histogram; any other list (a tuple, an array) as text."""
    if not value or not all(isinstance(row, _Object) and _is_row(row) for row in value):
        words = ("{…}" if isinstance(each, _Object) else str(each) for each in value)
        return f"({', '.join(words)})"
    rows = []
    for row in value:
        if isinstance(row, _Object):
            low, high = row.get("min"), row.get("max")
            count = _whole(row.get("count"), name, place)
            if count < 0:
                raise FormatError(place, f"{name}: a bucket of {count} values")
            rows.append(
                (
                    None if low is None else _whole(low, name, place),
                    None if high is None else _whole(high, name, place),
                    count,
                )
            )
    return Buckets(tuple(rows))


def _is_row(row: _Object) -> bool:
    keys = {key for key, _ in row.pairs}
    return "count" in keys and keys <= {"min", "max", "count"}


def _whole(value: object, name: str, place: str) -> int:
    if isinstance(value, str) and _INTEGER.fullmatch(value):
        return int(value)
    if isinstance(value, int) and not isinstance(value, bool):
        if abs(value) > _MOST:
            raise FormatError(place, f"{name}: a number of more than 64 bits")
        return value
    raise FormatError(place, f"{name}: {str(value)[:_SHOWN]!r} is not a whole number")


def _trace(text: str) -> Trace:
    return Trace(tuple(line.strip() for line in text.split("\n") if line.strip()))


def _parts(text: str) -> tuple[str | Trace, ...]:
    r"""Return the parts of a key: `\nleaf\nroot\n,,bash` is a stack, none, and `bash`.

    Older versions indent the frames, newer ones take all blanks out of a key.
    """
    parts: list[str | Trace] = []
    position = 0
    while position <= len(text):
        if text.startswith("\n", position):
            end = text.find("\n,", position + 1)
            end = len(text) if end < 0 else end + 1
            parts.append(_trace(text[position:end]))
        else:
            end = text.find(",", position)
            end = len(text) if end < 0 else end
            part = text[position:end].strip(" ")
            parts.append(part or Trace(()))
        position = end + 1
    return tuple(parts)
