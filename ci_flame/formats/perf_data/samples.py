"""Stage 2, pure: the sample records of a perf.data file -> columns of numbers.

All samples of one event have the same fields in the same order; only some fields differ in
length. One cursor per sample goes over the fields, all samples at once.

Reference: PERF_RECORD_SAMPLE in include/uapi/linux/perf_event.h.
"""

from dataclasses import dataclass, field
from typing import Final

import numpy as np
import numpy.typing as npt

from ci_flame.errors import FormatError
from ci_flame.formats.perf_data.header import Event
from ci_flame.formats.perf_data.records import MODE_MASK, SAMPLE, Scan, Words

Longs = npt.NDArray[np.int64]

IP, TID, TIME, ADDR, READ, CALLCHAIN, ID, CPU = (1 << bit for bit in range(8))
PERIOD, STREAM, RAW, BRANCH, USER_REGISTERS, USER_STACK = (1 << bit for bit in range(8, 14))
WEIGHT, DATA_SOURCE, IDENTIFIER, TRANSACTION, INTERRUPT_REGISTERS, PHYSICAL, AUX, CGROUP = (
    1 << bit for bit in range(14, 22)
)
DATA_PAGE, CODE_PAGE, WEIGHT_STRUCT = (1 << bit for bit in range(22, 25))
_KNOWN: Final = (1 << 25) - 1
_ENABLED, _RUNNING, _READ_ID, _GROUP, _READ_LOST = (1 << bit for bit in range(5))
_HARDWARE_INDEX, _COUNTERS = 1 << 17, 1 << 19
_BRANCH_WORDS: Final = 3
_LOW: Final = np.uint64(0xFFFFFFFF)
_HALF: Final = np.uint64(32)
_NO_TIME: Final = np.uint64(0)


@dataclass(frozen=True, slots=True)
class Samples:
    """Columns, one entry per sample, by time (samples of one time in file order)."""

    event: npt.NDArray[np.int16]
    """Index into the recording's events."""
    mode: npt.NDArray[np.uint8]
    """Where `ip` is: 1 kernel, 2 user, others unknown, hypervisor or guest."""
    time: Words
    """In ns of the recording's clock; the record's number where the recording has no times."""
    pid: Longs
    tid: Longs
    cpu: Longs
    """-1 where not recorded."""
    ip: Words
    period: Words
    """0 where not recorded."""
    chain_at: Longs
    """First word of the call chain in `words`; context marks are part of it."""
    chain_length: Longs
    """Words; -1 where the event has no call chains."""
    registers_at: Longs
    """First word of the user registers (lowest bit of the event's mask first)."""
    registers_abi: Longs
    """0: this sample has none (a kernel thread); 1: of 32 bits; 2: of 64 bits."""
    stack_at: Longs
    """First word of the copy of the user stack, which begins at the stack pointer."""
    stack_size: Longs
    """Bytes that were copied; 0: none."""
    words: Words = field(repr=False)

    def __len__(self) -> int:
        return len(self.time)

    def chain(self, index: int) -> Words:
        """Return one sample's call chain, leaf first, with its context marks."""
        at = int(self.chain_at[index])
        return self.words[at : at + max(int(self.chain_length[index]), 0)]

    def registers(self, index: int, mask: int) -> dict[int, int]:
        """Return number (asm/perf_regs.h) -> value of the event's `user_registers`; or nothing."""
        if not self.registers_abi[index]:
            return {}
        at = int(self.registers_at[index])
        numbers = [bit for bit in range(64) if mask >> bit & 1]
        values = self.words[at : at + len(numbers)].tolist()
        return dict(zip(numbers, values, strict=True))

    def stack(self, index: int) -> memoryview:
        """Return the copy of one sample's user stack, lowest address first."""
        at, size = int(self.stack_at[index]), int(self.stack_size[index])
        return self.words[at : at + (size + 7) // 8].data.cast("B")[:size]


class _Cursor:
    """Where the next field of each sample is; all samples of one event."""

    def __init__(self, scanned: Scan, at: Longs, source: str) -> None:
        self._scan = scanned
        self._words = scanned.words
        self._source = source
        self._start = at
        self._end = at + (self._words[at] >> np.uint64(51)).astype(np.int64)
        self.at = at + 1

    def skip(self, words: int | Longs, what: str) -> Longs:
        """Go on; return where the field began. FormatError where a sample is too short."""
        before = self.at
        # Compared before it is added, so that no hostile length overflows.
        if (over := np.nonzero(words > self._end - before)[0]).size:
            word = int(self._start[over[0]])
            raise FormatError(
                self._source,
                f"the sample at offset {self._scan.offset(word)} is too short for its {what}",
            )
        self.at = before + words
        return before

    def word(self, what: str) -> Words:
        """Return one field of 64 bits."""
        return self._words[self.skip(1, what)]

    def length(self, what: str) -> Longs:
        """Return a field that says how much follows; what no record can hold is refused."""
        values = self.word(what)
        return np.minimum(values, np.uint64(1 << 40)).astype(np.int64)


class _Columns:
    """The columns while they are filled, event by event."""

    def __init__(self, size: int) -> None:
        self.event = np.zeros(size, dtype=np.int16)
        self.words = {each: np.zeros(size, dtype=np.uint64) for each in ("time", "ip", "period")}
        self.longs = {
            each: np.zeros(size, dtype=np.int64)
            for each in (
                *("pid", "tid", "cpu", "chain_at", "chain_length", "registers_at"),
                *("registers_abi", "stack_at", "stack_size"),
            )
        }
        self.longs["cpu"] -= 1
        self.longs["chain_length"] -= 1


def read_samples(scanned: Scan, source: str) -> Samples:
    """Return all samples by time; FormatError where one is not as its event says."""
    heads = scanned.words[scanned.at]
    is_sample = (heads & _LOW) == SAMPLE
    at = scanned.at[is_sample]
    numbers = np.nonzero(is_sample)[0]
    if len(at) and not scanned.events:
        raise FormatError(source, f"{len(at)} samples, and no event that they are of")
    columns = _Columns(len(at))
    columns.event[:] = _events_of(scanned, at, source)
    for index, event in enumerate(scanned.events):
        chosen = np.nonzero(columns.event == index)[0]
        if len(chosen):
            if event.sample_type & ~_KNOWN:
                raise FormatError(
                    source,
                    f"event {event.name} has fields of a newer kernel"
                    f" (sample_type 0x{event.sample_type:x})",
                )
            cursor = _Cursor(scanned, at[chosen], source)
            _Reader(scanned, cursor, event, chosen, columns).read()
            if not event.sample_type & TIME:
                columns.words["time"][chosen] = numbers[chosen]
    mode = ((heads[is_sample] >> _HALF) & np.uint64(MODE_MASK)).astype(np.uint8)
    order = np.argsort(columns.words["time"], kind="stable")
    words = {name: values[order] for name, values in columns.words.items()}
    longs = {name: values[order] for name, values in columns.longs.items()}
    return Samples(
        event=columns.event[order],
        mode=mode[order],
        time=words["time"],
        pid=longs["pid"],
        tid=longs["tid"],
        cpu=longs["cpu"],
        ip=words["ip"],
        period=words["period"],
        chain_at=longs["chain_at"],
        chain_length=longs["chain_length"],
        registers_at=longs["registers_at"],
        registers_abi=longs["registers_abi"],
        stack_at=longs["stack_at"],
        stack_size=longs["stack_size"],
        words=scanned.words,
    )


def _events_of(scanned: Scan, at: Longs, source: str) -> npt.NDArray[np.int16]:
    """Return the index of each sample's event, by the id that the sample has."""
    events = scanned.events
    found = np.zeros(len(at), dtype=np.int16)
    if len(events) <= 1 or not len(at):
        return found
    places = {_id_place(event.sample_type) for event in events}
    if len(places) > 1 or None in places:
        if len({(e.sample_type, e.read_format, e.user_registers) for e in events}) == 1:
            return found
        raise FormatError(source, f"{len(events)} events whose samples do not say which they are")
    place = next(iter(places)) or 0
    cursor = _Cursor(scanned, at, source)
    cursor.skip(place, "id")
    ids = cursor.word("id")
    known = sorted((each, index) for index, event in enumerate(events) for each in event.ids)
    if not known:
        raise FormatError(source, f"{len(events)} events without ids")
    values = np.array([each for each, _ in known], dtype=np.uint64)
    nearest = np.minimum(np.searchsorted(values, ids), len(values) - 1)
    if (strange := np.nonzero(values[nearest] != ids)[0]).size:
        word = int(at[strange[0]])
        raise FormatError(
            source,
            f"the sample at offset {scanned.offset(word)} is of event id {int(ids[strange[0]])},"
            " which is no event's",
        )
    return np.array([index for _, index in known], dtype=np.int16)[nearest]


def _id_place(sample_type: int) -> int | None:
    """Return the number of words before the id in a sample."""
    if sample_type & IDENTIFIER:
        return 0
    if sample_type & ID:
        return (sample_type & (IP | TID | TIME | ADDR)).bit_count()
    return None


@dataclass(frozen=True, slots=True)
class _Reader:
    """Reads the samples of one event into the columns."""

    scanned: Scan
    cursor: _Cursor
    event: Event
    chosen: Longs
    columns: _Columns

    def read(self) -> None:
        """Go over the fields in the kernel's order."""
        self._skip(IDENTIFIER, "identifier")
        self._keep(IP, "ip")
        self._thread()
        self._keep(TIME, "time")
        self._skip(ADDR, "address")
        self._skip(ID, "id")
        self._skip(STREAM, "stream id")
        if self.event.sample_type & CPU:
            self.columns.longs["cpu"][self.chosen] = self._low(self.cursor.word("cpu"))
        self._keep(PERIOD, "period")
        if self.event.sample_type & READ:
            _skip_counts(self.cursor, self.event.read_format)
        if self.event.sample_type & CALLCHAIN:
            length = self.cursor.length("call chain")
            self.columns.longs["chain_at"][self.chosen] = self.cursor.skip(length, "call chain")
            self.columns.longs["chain_length"][self.chosen] = length
        self._raw()
        if self.event.sample_type & BRANCH:
            _skip_branches(self.cursor, self.event.branch_sample_type)
        self._registers()
        if self.event.sample_type & USER_STACK:
            _keep_stack(self.scanned, self.cursor, self.chosen, self.columns)
        _skip_rest(self.cursor, self.event)

    def _keep(self, bit: int, name: str) -> None:
        if self.event.sample_type & bit:
            self.columns.words[name][self.chosen] = self.cursor.word(name)

    def _skip(self, bit: int, name: str) -> None:
        if self.event.sample_type & bit:
            self.cursor.skip(1, name)

    @staticmethod
    def _low(words: Words) -> Longs:
        """Return the lower halves as signed numbers: -1 is a thread that is already gone."""
        return words.astype(np.uint32).view(np.int32).astype(np.int64)

    def _thread(self) -> None:
        if self.event.sample_type & TID:
            both = self.cursor.word("thread")
            self.columns.longs["pid"][self.chosen] = self._low(both)
            self.columns.longs["tid"][self.chosen] = self._low(both >> _HALF)

    def _raw(self) -> None:
        if self.event.sample_type & RAW:
            # Bytes after a size of 32 bits, both together filled up to whole words.
            at = self.cursor.at.clip(max=len(self.scanned.words) - 1)
            size = (self.scanned.words[at] & _LOW).astype(np.int64)
            self.cursor.skip((size + 4 + 7) // 8, "raw data")

    def _registers(self) -> None:
        if self.event.sample_type & USER_REGISTERS:
            abi = self.cursor.length("register abi")
            self.columns.longs["registers_abi"][self.chosen] = abi
            many = np.where(abi > 0, self.event.user_registers.bit_count(), 0)
            at = self.cursor.skip(many, "user registers")
            self.columns.longs["registers_at"][self.chosen] = at


def _keep_stack(scanned: Scan, cursor: _Cursor, chosen: Longs, columns: _Columns) -> None:
    size = cursor.length("user stack")
    columns.longs["stack_at"][chosen] = cursor.skip((size + 7) // 8, "user stack")
    there = np.nonzero(size)[0]
    # How much of it was copied follows only where there is a stack.
    followed = np.where(size > 0, 1, 0)
    at = cursor.skip(followed, "size of the user stack")
    used = np.zeros(len(size), dtype=np.int64)
    used[there] = np.minimum(scanned.words[at[there]], size[there].astype(np.uint64)).astype(
        np.int64
    )
    columns.longs["stack_size"][chosen] = used


def _skip_counts(cursor: _Cursor, layout: int) -> None:
    times = (layout & (_ENABLED | _RUNNING)).bit_count()
    each = 1 + (layout & (_READ_ID | _READ_LOST)).bit_count()
    if layout & _GROUP:
        many = cursor.length("counts")
        cursor.skip(times, "counts")
        cursor.skip(many * each, "counts")
    else:
        cursor.skip(times + each, "counts")


def _skip_branches(cursor: _Cursor, branch_type: int) -> None:
    many = cursor.length("branches")
    if branch_type & _HARDWARE_INDEX:
        cursor.skip(1, "branches")
    cursor.skip(many * _BRANCH_WORDS, "branches")
    if branch_type & _COUNTERS:
        cursor.skip(many, "branches")


def _skip_rest(cursor: _Cursor, event: Event) -> None:
    """Go over the fields behind the stack, so that a record too short for them is found."""
    kind, what = event.sample_type, "last fields"
    cursor.skip(1 if kind & (WEIGHT | WEIGHT_STRUCT) else 0, what)
    cursor.skip((kind & (DATA_SOURCE | TRANSACTION)).bit_count(), what)
    if kind & INTERRUPT_REGISTERS:
        abi = cursor.length("interrupt registers")
        many = np.where(abi > 0, event.interrupt_registers.bit_count(), 0)
        cursor.skip(many, "interrupt registers")
    cursor.skip((kind & (PHYSICAL | CGROUP | DATA_PAGE | CODE_PAGE)).bit_count(), what)
    if kind & AUX:
        size = cursor.length("aux data")
        cursor.skip((size + 7) // 8, "aux data")
