"""Stage 2, pure: the records of a perf.data file -> where each is, and what processes did.

    header of each record: type u32, misc u16, size u16      (include/uapi/linux/perf_event.h)

Records of several CPUs are out of order; whoever needs an order sorts by time.
"""

import struct
from dataclasses import dataclass
from typing import Final, NamedTuple

import numpy as np
import numpy.typing as npt

from ci_flame.errors import FormatError
from ci_flame.formats.perf_data import header
from ci_flame.formats.perf_data.compressed import Decompressor
from ci_flame.formats.perf_data.header import Buffer, Event

Words = npt.NDArray[np.uint64]

MMAP, LOST, COMM, EXIT, FORK, SAMPLE, MMAP2 = 1, 2, 3, 4, 7, 9, 10
LOST_SAMPLES, KSYMBOL = 13, 17
_OWN: Final = 64
"""From here on types are perf's own, not the kernel's."""
_ATTR, _TRACING, _BUILD_ID, _AUXTRACE = 64, 66, 67, 71
_EVENT_UPDATE, _FEATURE, _COMPRESSED, _COMPRESSED2 = 78, 80, 81, 83
_UPDATE_NAME: Final = 2
_FEATURE_EVENTS, _FEATURE_BUILD_IDS = 12, 2

MODE_MASK: Final = 7
MODE_KERNEL, MODE_USER = 1, 2
_COMM_EXEC: Final = 1 << 13
_FORK_LISTED: Final = 1 << 13
_MMAP_DATA: Final = 1 << 13
_MMAP_HAS_BUILD_ID: Final = 1 << 14
_UNREGISTER: Final = 1
_EXECUTABLE: Final = 4
_LOST_SAMPLES_BPF: Final = 1 << 15

_MMAP_BODY: Final = struct.Struct("<iiQQQ")
_MMAP2_BODY: Final = struct.Struct("<iiQQQ24sII")
_COMM_BODY: Final = struct.Struct("<ii")
_FORK_BODY: Final = struct.Struct("<iiiiQ")
_LOST_BODY: Final = struct.Struct("<QQ")
_KSYMBOL_BODY: Final = struct.Struct("<QIHH")

TID, TIME, ID, STREAM, CPU, IDENTIFIER = 1 << 1, 1 << 2, 1 << 6, 1 << 9, 1 << 7, 1 << 16


class Mapped(NamedTuple):
    """A process mapped a file (or anonymous memory) where code may run."""

    time: int
    pid: int
    """-1: the kernel's own map."""
    start: int
    size: int
    offset: int
    """Of `start` in the file; for the kernel's map the address of its `_text`."""
    path: str
    build_id: bytes = b""
    kernel: bool = False

    @property
    def end(self) -> int:
        """First address behind it."""
        return self.start + self.size


class Named(NamedTuple):
    """A thread has a new name; `executed`: its process became another program."""

    time: int
    pid: int
    tid: int
    name: str
    executed: bool


class Forked(NamedTuple):
    """A new thread (same pid as its parent) or process."""

    time: int
    pid: int
    parent: int
    tid: int
    parent_tid: int
    cloned: bool = True
    """False: perf made this record for a process that was there before; its maps follow."""


class Ended(NamedTuple):
    """A thread ended."""

    time: int
    pid: int
    tid: int


class KernelCode(NamedTuple):
    """The kernel has new code (a BPF program, a trampoline) at an address."""

    time: int
    start: int
    size: int
    name: str


Task = Mapped | Named | Forked | Ended | KernelCode


@dataclass(frozen=True, slots=True)
class Scan:
    """Every record's place in one piece of memory."""

    data: Buffer
    """Where the records are: the file's bytes, or what was decompressed from them."""
    base: int
    """Offset of word 0 in `data`."""
    words: Words
    at: npt.NDArray[np.int64]
    """Word of each record's header, in file order."""
    events: tuple[Event, ...]
    build_ids: dict[str, bytes]

    def offset(self, word: int) -> int:
        """Return the offset in `data` of a word."""
        return self.base + 8 * word


def scan(data: Buffer, head: header.Head, source: str) -> Scan:
    """Find all records; those of a piped recording's header are read at once."""
    base, size = head.data_offset, head.data_size
    walker = _Walker(source, list(head.events), dict(head.build_ids))
    if head.piped or head.packed:
        # Packed records are in no order with the others; whoever needs one sorts by time.
        data = walker.unpipe(data, base, base + size) + walker.decompressor.finish()
        base, size = 0, len(data)
    if base % 8:
        data, base = bytes(data[base : base + size]), 0
    at = walker.walk(data, base, size)
    words = np.frombuffer(data, dtype="<u8", count=size // 8, offset=base)
    events = tuple(
        header.with_name(event, _name_of(event, walker.names)) for event in walker.events
    )
    return Scan(data, base, words, np.array(at, dtype=np.int64), events, walker.build_ids)


def _name_of(event: Event, names: dict[int, str]) -> str:
    return next((names[each] for each in event.ids if each in names), event.name)


def _size(data: Buffer, offset: int) -> int:
    (size,) = struct.unpack_from("<H", data, offset + 6)
    return int(size)


class _Walker:
    """Goes from record to record, each telling where the next is."""

    def __init__(self, source: str, events: list[Event], build_ids: dict[str, bytes]) -> None:
        self._source = source
        self.events = events
        self.build_ids = build_ids
        self.names: dict[int, str] = {}
        self.decompressor = Decompressor(source)

    def walk(self, data: Buffer, base: int, size: int) -> list[int]:
        """Return the word of each of the kernel's records; FormatError where the row breaks."""
        view = memoryview(data)[base : base + size // 8 * 8].cast("B").cast("Q")
        places: list[int] = []
        keep = places.append
        at, end = 0, len(view)
        while at < end:
            head = view[at]
            words = head >> 51
            if head & 0xFFFFFFFF >= _OWN:
                words = self._own(data, base + 8 * at, base + size, head & 0xFFFFFFFF) // 8
            elif words:
                keep(at)
            if not words or head >> 48 & 7:
                raise self._broken(base + 8 * at, head >> 48)
            at += words
        if at != end or size % 8:
            last = base + 8 * (places[-1] if places else 0)
            raise FormatError(
                self._source,
                f"cut off: the record at offset {last} or the one after it goes beyond the end"
                f" of the records at offset {base + size}",
                "copy the file again, or record again and let perf record end by itself",
            )
        return places

    def unpipe(self, data: Buffer, base: int, end: int) -> bytes:
        """Return the kernel's records of a piped or packed recording, in a row.

        Between them lie perf's own ones, which are read; their sizes are odd there.
        """
        pieces: list[memoryview] = []
        view = memoryview(data)
        at = since = base
        while at < end:
            if at + 8 > end:
                raise self._cut_off(at, end)
            kind, _, size = struct.unpack_from("<IHH", data, at)
            if size < 8:  # noqa: PLR2004 - a header's bytes
                raise self._broken(at, size)
            if kind >= _OWN:
                pieces.append(view[since:at])
                at = since = at + self._own(data, at, end, kind)
            else:
                at += size
        if at != end:
            raise self._cut_off(at, end)
        pieces.append(view[since:end])
        return b"".join(pieces)

    def _cut_off(self, offset: int, end: int) -> FormatError:
        return FormatError(
            self._source,
            f"cut off: its last record, before offset {offset}, goes beyond the end at {end}",
            "copy the file again, or record again and let perf record end by itself",
        )

    def _broken(self, offset: int, size: int) -> FormatError:
        return FormatError(
            self._source, f"a record of {size} bytes at offset {offset}; sizes are multiples of 8"
        )

    def _own(self, data: Buffer, offset: int, end: int, kind: int) -> int:
        """Read one of perf's own records; return how many bytes to go on by."""
        size = _size(data, offset)
        body = memoryview(data)[offset + 8 : min(offset + size, end)]
        if offset + size > end:
            raise FormatError(
                self._source, f"cut off: the record at offset {offset} has {size} bytes"
            )
        self._take(kind, body, offset)
        # What follows these two is not in their size.
        width = {_TRACING: 4, _AUXTRACE: 8}.get(kind, 0)
        extra = int.from_bytes(body[:width], "little") if len(body) >= width else 0
        return size + (extra + 7) // 8 * 8

    def _take(self, kind: int, body: memoryview, offset: int) -> None:
        if kind == _ATTR:
            self._attr(body, offset)
        elif kind == _FEATURE and len(body) >= 8:  # noqa: PLR2004 - one number
            self._feature(int.from_bytes(body[:8], "little"), body[8:])
        elif kind == _EVENT_UPDATE and len(body) >= 16:  # noqa: PLR2004 - two numbers
            what, event_id = struct.unpack_from("<QQ", body)
            if what == _UPDATE_NAME:
                name = bytes(body[16:]).split(b"\0", 1)[0]
                self.names[event_id] = name.decode(errors="replace")
        elif kind == _BUILD_ID:
            size = struct.pack("<IHH", kind, 0, len(body) + 8)
            record = memoryview(size + bytes(body))
            self.build_ids.update(header.read_build_ids(record, self._source))
        elif kind == _COMPRESSED:
            self.decompressor.add(body, offset)
        elif kind == _COMPRESSED2 and len(body) >= 8:  # noqa: PLR2004 - one number
            length = int.from_bytes(body[:8], "little")
            self.decompressor.add(body[8 : 8 + length], offset)

    def _attr(self, body: memoryview, offset: int) -> None:
        if len(self.events) >= header.MAX_EVENTS:
            raise FormatError(
                self._source, f"more than {header.MAX_EVENTS} events, the limit, at {offset}"
            )
        event, size = header.read_attr(body, self._source, offset + 8, ())
        ids = body[size:]
        numbers = struct.unpack_from(f"<{len(ids) // 8}Q", ids)
        values = {each: getattr(event, each) for each in Event.__slots__}
        self.events.append(Event(**{**values, "ids": numbers}))

    def _feature(self, number: int, body: memoryview) -> None:
        if number == _FEATURE_EVENTS:
            for event in header.read_event_descriptions(body, self._source):
                self.names.update(dict.fromkeys(event.ids, event.name))
        elif number == _FEATURE_BUILD_IDS:
            self.build_ids.update(header.read_build_ids(body, self._source))


@dataclass(frozen=True, slots=True)
class Side:
    """What the records tell that are no samples."""

    tasks: tuple[Task, ...]
    """By time; those of one time in file order."""
    lost: int
    """Samples that the kernel or perf lost."""


def read_side(scanned: Scan, source: str) -> Side:
    """Return what processes did, by time."""
    kinds = scanned.words[scanned.at] & np.uint64(0xFFFFFFFF)
    interesting = np.isin(kinds, (MMAP, MMAP2, COMM, FORK, EXIT, LOST, LOST_SAMPLES, KSYMBOL))
    trailer = Trailer.of(scanned.events, source)
    tasks: list[tuple[int, int, Task]] = []
    lost = {LOST: 0, LOST_SAMPLES: 0}
    for number in np.nonzero(interesting)[0].tolist():
        word = int(scanned.at[number])
        offset = scanned.offset(word)
        kind, misc, size = struct.unpack_from("<IHH", scanned.data, offset)
        body = bytes(scanned.data[offset + 8 : offset + size])
        # Without times the file's order is all there is.
        time = trailer.time(body) if trailer.timed else number
        try:
            if kind in {LOST, LOST_SAMPLES}:
                lost[kind] += _lost(kind, misc, body)
            elif (task := _task(kind, misc, body, time)) is not None:
                tasks.append((time, number, task))
        except struct.error:
            raise FormatError(
                source, f"a record of type {kind} with only {size} bytes at offset {offset}"
            ) from None
    tasks.sort(key=lambda each: each[:2])
    # A sample that found no room is in both, where kernel (6.0) and perf (6.1) count it twice.
    return Side(tuple(task for _, _, task in tasks), max(lost.values()))


def _lost(kind: int, misc: int, body: bytes) -> int:
    if kind == LOST:
        return int(_LOST_BODY.unpack_from(body)[1])
    # Those that a BPF filter dropped were not wanted.
    return 0 if misc & _LOST_SAMPLES_BPF else int.from_bytes(body[:8], "little")


def _task(kind: int, misc: int, body: bytes, time: int) -> Task | None:
    if kind in {MMAP, MMAP2}:
        return _mapped(kind, misc, body, time)
    if kind == COMM:
        pid, tid = _COMM_BODY.unpack_from(body)
        name = body[_COMM_BODY.size :].split(b"\0", 1)[0].decode(errors="replace")
        return Named(time, pid, tid, name, bool(misc & _COMM_EXEC))
    if kind == FORK:
        pid, parent, tid, parent_tid, _ = _FORK_BODY.unpack_from(body)
        return Forked(time, pid, parent, tid, parent_tid, not misc & _FORK_LISTED)
    if kind == EXIT:
        pid, _, tid, _, _ = _FORK_BODY.unpack_from(body)
        return Ended(time, pid, tid)
    start, size, _, flags = _KSYMBOL_BODY.unpack_from(body)
    name = body[_KSYMBOL_BODY.size :].split(b"\0", 1)[0].decode(errors="replace")
    return None if flags & _UNREGISTER else KernelCode(time, start, size, name)


def _mapped(kind: int, misc: int, body: bytes, time: int) -> Mapped | None:
    """Return a mapping of code; None for one of data."""
    kernel = misc & MODE_MASK == MODE_KERNEL
    if kind == MMAP:
        pid, _, start, size, offset = _MMAP_BODY.unpack_from(body)
        executable, length, build_id = True, _MMAP_BODY.size, b""
    else:
        pid, _, start, size, offset, origin, protection, _ = _MMAP2_BODY.unpack_from(body)
        executable, length = bool(protection & _EXECUTABLE) or kernel, _MMAP2_BODY.size
        has_id = misc & _MMAP_HAS_BUILD_ID
        build_id = origin[4 : 4 + min(origin[0], header.BUILD_ID_BYTES)] if has_id else b""
    if misc & _MMAP_DATA or not executable:
        return None
    name = header.os_name(body[length:].split(b"\0", 1)[0])
    return Mapped(time, pid, start, size, offset, name, build_id, kernel)


@dataclass(frozen=True, slots=True)
class Trailer:
    """What stands at the end of each record that is no sample."""

    size: int
    time_at: int
    """Bytes before the record's end where the time is; 0: nowhere."""

    @property
    def timed(self) -> bool:
        """Say whether records have their time."""
        return self.time_at > 0

    @classmethod
    def of(cls, events: tuple[Event, ...], source: str) -> "Trailer":
        """Return the trailer that all events share; FormatError where they do not."""
        shapes = {
            event.sample_type & (TID | TIME | ID | STREAM | CPU | IDENTIFIER)
            if event.has_ids_everywhere
            else 0
            for event in events
        }
        if len(shapes) > 1:
            raise FormatError(source, "events with different ends of records (sample_id_all)")
        shape = shapes.pop() if shapes else 0
        size = 8 * shape.bit_count()
        before = 8 if shape & TID else 0
        return cls(size, size - before if shape & TIME else 0)

    def time(self, body: bytes) -> int:
        """Return a record's time; 0 where it is too short to have one."""
        if len(body) < self.size:
            return 0
        at = len(body) - self.time_at
        return int.from_bytes(body[at : at + 8], "little")
