"""Stage 2, pure: the head of a perf.data file -> where its parts are, and its events.

Reference: https://github.com/torvalds/linux/blob/v6.1/tools/perf/Documentation/perf.data-file-format.txt
and include/uapi/linux/perf_event.h (`struct perf_event_attr`).

    file:  magic, sizes, sections | ids of events | attrs | data | table of features | features
    pipe:  magic, size            | records; attrs and features are records too
"""

import struct
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Final

from ci_flame.errors import FormatError, UnrecognisedError

Buffer = bytes | bytearray | memoryview
"""Bytes, or a read-only view of a mapped file."""

MAGIC: Final = b"PERFILE2"
_BIG_ENDIAN: Final = b"2ELIFREP"
_FIRST_VERSION: Final = b"PERFFILE"
_FILE_HEADER: Final = struct.Struct("<8s12Q")
_PIPE_SIZE: Final = 16
_SECTION: Final = struct.Struct("<QQ")
_FEATURE_BITS: Final = 256
_BUILD_IDS, _ARCHITECTURE, _COMMAND, _EVENTS = 2, 6, 11, 12
_DIRECTORY: Final = 24
_PACKED: Final = 27
_ATTR: Final = struct.Struct("<IIQQQQQIIQQQQIiQIH")
_ATTR_LEAST: Final = 64
"""Bytes of the first version of `struct perf_event_attr`."""
_ATTR_MOST: Final = 4096
MAX_EVENTS: Final = 4096
MAX_IDS: Final = 1 << 20
_BUILD_ID_RECORD: Final = struct.Struct("<IHHi24s")
_HAS_BUILD_ID_SIZE: Final = 1 << 15
BUILD_ID_BYTES: Final = 20

_SOFTWARE: Final = (
    *("cpu-clock", "task-clock", "page-faults", "context-switches", "cpu-migrations"),
    *("minor-faults", "major-faults", "alignment-faults", "emulation-faults", "dummy"),
    *("bpf-output", "cgroup-switches"),
)
_HARDWARE: Final = (
    *("cycles", "instructions", "cache-references", "cache-misses", "branches"),
    *("branch-misses", "bus-cycles", "stalled-cycles-frontend", "stalled-cycles-backend"),
    "ref-cycles",
)
DUMMY: Final = "dummy"
"""The event that only carries side records; it never has samples of its own."""


@dataclass(frozen=True, slots=True)
class Event:
    """One event of the recording, as it was opened."""

    name: str
    """As perf was told, without modifiers: `cpu-clock` of `cpu-clock:u`."""
    ids: tuple[int, ...]
    sample_type: int
    read_format: int
    flags: int
    period: int
    """Fixed period, or frequency in Hz where `is_frequency`."""
    branch_sample_type: int = 0
    user_registers: int = 0
    """Mask of the user registers in each sample, as in asm/perf_regs.h."""
    interrupt_registers: int = 0
    max_stack: int = 0
    """Most frames of one call chain; 0: the kernel's setting at that time (usually 127)."""
    clock_id: int | None = None
    """CLOCK_… of the time stamps; None: the kernel's scheduler clock."""

    @property
    def is_frequency(self) -> bool:
        """Say whether `period` is a frequency."""
        return bool(self.flags & 1 << 10)

    @property
    def has_ids_everywhere(self) -> bool:
        """Say whether records that are no samples end with their thread and time."""
        return bool(self.flags & 1 << 18)

    @property
    def user_only(self) -> bool:
        """Say whether the kernel was left out (`:u`)."""
        return bool(self.flags & 1 << 5)


def _no_build_ids() -> Mapping[str, bytes]:
    return MappingProxyType({})


@dataclass(frozen=True, slots=True)
class Head:
    """What stands around the records."""

    events: tuple[Event, ...]
    data_offset: int
    data_size: int
    piped: bool
    packed: bool = False
    """True: by `perf record -z`."""
    build_ids: Mapping[str, bytes] = field(default_factory=_no_build_ids)
    """File -> build id, as perf collected them at the end of the recording."""
    command: tuple[str, ...] = ()
    architecture: str = ""


def is_perf_data(data: Buffer) -> bool:
    """Say whether the bytes begin as a perf.data file of any kind does."""
    return bytes(data[:8]) in {MAGIC, _BIG_ENDIAN, _FIRST_VERSION}


def read_head(data: Buffer, source: str) -> Head:
    """Return what stands around the records; a piped recording has its events in records.

    Raises UnrecognisedError where it is no perf.data file, FormatError where it is broken,
    half-written or of a kind that is not read.
    """
    magic = bytes(data[:8])
    if magic in {_BIG_ENDIAN, _FIRST_VERSION}:
        kind = "a big-endian machine" if magic == _BIG_ENDIAN else "a perf older than Linux 3.2"
        hint = "read it there: perf script > FILE.txt, and import the text"
        raise FormatError(source, f"perf.data of {kind} is not read", hint)
    if magic != MAGIC:
        raise UnrecognisedError(f"{source}: not a perf.data file")
    if len(data) < _PIPE_SIZE:
        raise _cut(source, 0, _PIPE_SIZE, len(data), "header")
    (size,) = struct.unpack_from("<Q", data, 8)
    if size == _PIPE_SIZE:
        return Head((), _PIPE_SIZE, len(data) - _PIPE_SIZE, piped=True)
    if len(data) < _FILE_HEADER.size:
        raise _cut(source, 0, _FILE_HEADER.size, len(data), "header")
    _, size, attr_size, *rest = _FILE_HEADER.unpack_from(data)
    attrs, records, features = rest[0:2], rest[2:4], rest[6:10]
    if size != _FILE_HEADER.size:
        raise FormatError(source, f"a header of {size} bytes at offset 8; known are 16 and 104")
    if records[1] == 0:
        raise FormatError(
            source,
            "half-written: its size of data (offset 48) is still 0",
            "perf record was killed before it ended; stop it with SIGINT and wait for it",
        )
    offset, length = _within(source, data, (records[0], records[1]), "records")
    sections = dict(_feature_sections(data, source, offset + length, features))
    if _DIRECTORY in sections:
        raise FormatError(
            source, "one file of a recording by threads", "record without perf record --threads"
        )
    events = _attrs(data, source, attr_size, _within(source, data, (attrs[0], attrs[1]), "attrs"))
    described: tuple[Event, ...] = ()
    if _EVENTS in sections:
        described = read_event_descriptions(sections[_EVENTS], source)
    return Head(
        events=tuple(_named(events, described)),
        data_offset=offset,
        data_size=length,
        piped=False,
        packed=_PACKED in sections,
        build_ids=read_build_ids(sections[_BUILD_IDS], source) if _BUILD_IDS in sections else {},
        command=read_strings(sections[_COMMAND], source) if _COMMAND in sections else (),
        architecture=_text(sections[_ARCHITECTURE], source) if _ARCHITECTURE in sections else "",
    )


def _named(events: tuple[Event, ...], described: tuple[Event, ...]) -> Iterator[Event]:
    """Give the events the names that the feature section knows for their ids."""
    names = {each: event.name for event in described for each in event.ids}
    for event in events:
        known = next((names[each] for each in event.ids if each in names), event.name)
        yield with_name(event, known)


def with_name(event: Event, name: str) -> Event:
    """Return an event under another name; modifiers are cut off."""
    values = {each: getattr(event, each) for each in Event.__slots__}
    return Event(**{**values, "name": plain_name(name) or event.name})


def plain_name(name: str) -> str:
    """Return an event's name without its modifiers: `cycles` of `cycles:Pu`.

    `sched:sched_switch` and `cpu/event=0x3c/u` keep what belongs to them.
    """
    stem, colon, tail = name.rpartition(":")
    return stem if colon and stem and not set(tail) - set("ukhIGHpPSDWeb") else name


def read_attr(data: Buffer, source: str, place: int, ids: tuple[int, ...]) -> tuple[Event, int]:
    """Return the event of a `struct perf_event_attr`, and the struct's own size."""
    if len(data) < _ATTR_LEAST:
        raise _cut(source, place, _ATTR_LEAST, len(data), "attr")
    (size,) = struct.unpack_from("<I", data, 4)
    size = size or _ATTR_LEAST
    if not _ATTR_LEAST <= size <= min(_ATTR_MOST, len(data)):
        raise FormatError(source, f"an attr of {size} bytes at offset {place}")
    known = bytes(data[: min(size, _ATTR.size)]).ljust(_ATTR.size, b"\0")
    (kind, _, config, period, sample_type, read_format, flags, _, _, _, _, branch, user, _) = (
        _ATTR.unpack(known)[:14]
    )
    clock, interrupt, _, max_stack = _ATTR.unpack(known)[14:]
    return (
        Event(
            name=_own_name(kind, config),
            ids=ids,
            sample_type=sample_type,
            read_format=read_format,
            flags=flags,
            period=period,
            branch_sample_type=branch,
            user_registers=user,
            interrupt_registers=interrupt,
            max_stack=max_stack,
            clock_id=clock if flags & 1 << 25 else None,
        ),
        size,
    )


def _own_name(kind: int, config: int) -> str:
    """Name an event by its numbers, as perf does where nothing else tells."""
    names = {0: _HARDWARE, 1: _SOFTWARE}.get(kind, ())
    if config < len(names):
        return names[config]
    return f"raw 0x{config:x}" if kind == 4 else f"type {kind} config 0x{config:x}"  # noqa: PLR2004 - PERF_TYPE_RAW


def _attrs(data: Buffer, source: str, entry: int, section: tuple[int, int]) -> tuple[Event, ...]:
    offset, length = section
    if not _ATTR_LEAST + _SECTION.size <= entry <= _ATTR_MOST or length % entry or not length:
        raise FormatError(source, f"attrs of {length} bytes, {entry} each, at offset {offset}")
    if length // entry > MAX_EVENTS:
        raise FormatError(source, f"{length // entry} events; the limit is {MAX_EVENTS}")
    events: list[Event] = []
    for place in range(offset, offset + length, entry):
        where = _SECTION.unpack_from(data, place + entry - _SECTION.size)
        at, size = _within(source, data, where, "ids")
        if size // 8 > MAX_IDS:
            raise FormatError(source, f"{size // 8} ids of one event; the limit is {MAX_IDS}")
        ids = struct.unpack_from(f"<{size // 8}Q", data, at)
        event, _ = read_attr(data[place : place + entry - _SECTION.size], source, place, ids)
        events.append(event)
    return tuple(events)


def _feature_sections(
    data: Buffer, source: str, table: int, bits: list[int]
) -> Iterator[tuple[int, memoryview]]:
    """Yield each feature that the header names, and its bytes; the table follows the records."""
    place = table
    for number in range(_FEATURE_BITS):
        if not bits[number // 64] >> number % 64 & 1:
            continue
        if place + _SECTION.size > len(data):
            raise _cut(source, place, _SECTION.size, len(data) - place, "table of features")
        at, size = _within(source, data, _SECTION.unpack_from(data, place), f"feature {number}")
        yield number, memoryview(data)[at : at + size]
        place += _SECTION.size


def read_event_descriptions(data: memoryview, source: str) -> tuple[Event, ...]:
    """Return the events of feature EVENT_DESC, with their names and ids."""
    place = "feature 12 (events)"
    if len(data) < 8:  # noqa: PLR2004 - two numbers
        raise FormatError(source, f"{place} is cut off")
    number, attr_size = struct.unpack_from("<II", data)
    if number > MAX_EVENTS or not _ATTR_LEAST <= attr_size <= _ATTR_MOST:
        raise FormatError(source, f"{place}: {number} events of {attr_size} bytes")
    at = 8
    events: list[Event] = []
    for _ in range(number):
        event, _ = read_attr(data[at : at + attr_size], source, at, ())
        at += attr_size
        if at + 8 > len(data):
            raise FormatError(source, f"{place} is cut off")
        many, length = struct.unpack_from("<II", data, at)
        at += 8
        end = at + length + 8 * many
        if many > MAX_IDS or end > len(data):
            raise FormatError(source, f"{place}: {many} ids and a name of {length} bytes")
        name = bytes(data[at : at + length]).split(b"\0", 1)[0].decode(errors="replace")
        ids = struct.unpack_from(f"<{many}Q", data, at + length)
        values = {each: getattr(event, each) for each in Event.__slots__}
        events.append(Event(**{**values, "name": name or event.name, "ids": ids}))
        at = end
    return tuple(events)


def read_build_ids(data: memoryview, source: str) -> dict[str, bytes]:
    """Return file -> build id of feature BUILD_ID."""
    found: dict[str, bytes] = {}
    at = 0
    while at + _BUILD_ID_RECORD.size <= len(data):
        _, misc, size, _, build_id = _BUILD_ID_RECORD.unpack_from(data, at)
        if size < _BUILD_ID_RECORD.size or at + size > len(data):
            raise FormatError(source, f"feature 2 (build ids): a record of {size} bytes")
        length = build_id[BUILD_ID_BYTES] if misc & _HAS_BUILD_ID_SIZE else BUILD_ID_BYTES
        name = bytes(data[at + _BUILD_ID_RECORD.size : at + size]).split(b"\0", 1)[0]
        found[os_name(name)] = build_id[: min(length, BUILD_ID_BYTES)]
        at += size
    return found


def read_strings(data: memoryview, source: str) -> tuple[str, ...]:
    """Return the strings of a feature: a number, then as many lengths and texts."""
    if len(data) < 4:  # noqa: PLR2004 - one number
        raise FormatError(source, "feature 11 (command line) is cut off")
    (number,) = struct.unpack_from("<I", data)
    texts: list[str] = []
    at = 4
    for _ in range(min(number, len(data))):
        if at + 4 > len(data):
            raise FormatError(source, "feature 11 (command line) is cut off")
        texts.append(_text(data[at:], source))
        at += 4 + struct.unpack_from("<I", data, at)[0]
    return tuple(texts)


def _text(data: memoryview, source: str) -> str:
    if len(data) < 4:  # noqa: PLR2004 - one number
        raise FormatError(source, "a feature's text is cut off")
    (length,) = struct.unpack_from("<I", data)
    if 4 + length > len(data):
        raise FormatError(source, f"a feature's text of {length} bytes in {len(data)}")
    return bytes(data[4 : 4 + length]).split(b"\0", 1)[0].decode(errors="replace")


def os_name(name: bytes) -> str:
    """Return a file's name; bytes that are no UTF-8 survive as surrogates."""
    return name.decode(errors="surrogateescape")


def _within(source: str, data: Buffer, section: tuple[int, int], what: str) -> tuple[int, int]:
    offset, size = section
    if offset + size > len(data):
        raise _cut(source, offset, size, max(len(data) - offset, 0), what)
    return offset, size


def _cut(source: str, offset: int, wanted: int, there: int, what: str) -> FormatError:
    return FormatError(
        source,
        f"cut off: {what} at offset {offset} should have {wanted} bytes, {there} are there",
        "copy the file again, or record again and let perf record end by itself",
    )
