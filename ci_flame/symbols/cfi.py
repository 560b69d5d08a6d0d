"""Pure: call frame information (`.eh_frame`, `.debug_frame`) -> the rules of one address.

    address ─ search table ─▶ FDE ─ its CIE ─▶ rows: CFA = rsp+16, return at CFA-8, rbp at CFA-16

Entries are read where they are asked for: libpython has ten thousand, a profile needs a few
hundred. Nothing read here is trusted: every length is bounded, and what makes no sense gives
no row (`CfiError` stays inside).

Own decoding, because pyelftools (0.33) stops at DW_CFA_GNU_args_size, scales
DW_CFA_def_cfa_sf by the wrong factor and reads whole sections.
Reference: DWARF 5, 6.4; Linux Standard Base 5, 10.6 (the augmentation and the table).
"""

import struct
from bisect import bisect_right
from collections.abc import Callable
from dataclasses import dataclass, field
from enum import Enum
from typing import Final

import numpy as np
import numpy.typing as npt

REGISTERS: Final = 17
"""rax, rdx, rcx, rbx, rsi, rdi, rbp, rsp, r8 to r15 and the return address, by DWARF's numbers."""
RETURN_ADDRESS: Final = 16
MAX_ENTRY: Final = 1 << 20
MAX_ENTRIES: Final = 1 << 20
MAX_ROWS: Final = 1 << 16
_MAX_STATES: Final = 64
_MAX_AUGMENTATION: Final = 32
_EXTENDED: Final = 0xFFFFFFFF
_WORD: Final = (1 << 64) - 1

Read = Callable[[int, int], bytes]
"""(address, size) -> bytes; fewer where there are no more."""


class CfiError(ValueError):
    """Bytes that are no call frame information."""


class How(Enum):
    """Where a register of the caller is found, where it is not simply saved at CFA + n."""

    UNDEFINED = "undefined"
    SAME = "same"
    VALUE = "value"
    """It is CFA + n itself."""
    REGISTER = "register"
    AT = "at"
    """Saved at the address that an expression gives."""
    EXPRESSION = "expression"
    """What an expression gives."""


@dataclass(frozen=True, slots=True)
class Row:
    """The rules that hold at an address."""

    cfa_register: int
    """-1: the CFA is what `cfa_expression` gives."""
    cfa_offset: int
    cfa_expression: bytes
    saved: tuple[tuple[int, int], ...]
    """(register, offset): saved at CFA + offset."""
    other: tuple[tuple[int, How, int | bytes], ...]
    """(register, how, its offset, register or expression)."""
    signal: bool
    """A frame that the kernel made for a signal handler: its caller was interrupted."""


@dataclass(frozen=True, slots=True)
class _Cie:
    code_factor: int
    data_factor: int
    pointers: int
    """Encoding of addresses in the FDEs."""
    lengths: bool
    """FDEs carry augmentation data with its length in front."""
    signal: bool
    return_register: int
    instructions: bytes


@dataclass(frozen=True, slots=True)
class _Entry:
    """One FDE, decoded: rows by the address that they begin at."""

    start: int
    end: int
    starts: list[int]
    rows: list[Row]


class _Cursor:
    """Bytes being read from the front; CfiError past the end."""

    __slots__ = ("at", "base", "data")

    def __init__(self, data: bytes, base: int = 0) -> None:
        self.data = data
        self.at = 0
        self.base = base
        """Address of the first byte, for addresses relative to their own place."""

    def take(self, size: int) -> bytes:
        piece = self.data[self.at : self.at + size]
        if len(piece) < size:
            raise CfiError("it ends early")
        self.at += size
        return piece

    def number(self, size: int, *, signed: bool = False) -> int:
        return int.from_bytes(self.take(size), "little", signed=signed)

    def uleb(self) -> int:
        value = shift = 0
        while True:
            byte = self.number(1)
            value |= (byte & 0x7F) << shift
            shift += 7
            if not byte & 0x80:
                return value
            if shift > 63:  # noqa: PLR2004 - no number of 64 bits is longer
                raise CfiError("a number of more than 64 bits")

    def sleb(self) -> int:
        start = self.at
        value = self.uleb()
        bits = 7 * (self.at - start)
        return value - (1 << bits) if value >> (bits - 1) & 1 else value

    def address(self, encoding: int, *, relative: bool = True) -> int:
        """Return an encoded pointer; of its modifiers absolute and pc-relative are known."""
        place = self.base + self.at
        match encoding & 0x0F:
            case 0x00 | 0x04 | 0x0C:
                value = self.number(8, signed=encoding & 0x0F == 0x0C)  # noqa: PLR2004 - sdata8
            case 0x01:
                value = self.uleb()
            case 0x02:
                value = self.number(2)
            case 0x03:
                value = self.number(4)
            case 0x09:
                value = self.sleb()
            case 0x0A:
                value = self.number(2, signed=True)
            case 0x0B:
                value = self.number(4, signed=True)
            case _:
                raise CfiError(f"pointer encoding {encoding:#x}")
        modifier = encoding & 0xF0
        if not relative or modifier == 0:
            return value
        if modifier & 0x70 == 0x10:  # noqa: PLR2004 - DW_EH_PE_pcrel
            return (value + place) & _WORD
        raise CfiError(f"pointer encoding {encoding:#x}")


class CallFrames:
    """The call frame information of one image, by address before the load bias."""

    def __init__(
        self, read: Read, *, table: "SearchTable | None", entries: "Entries | None" = None
    ) -> None:
        """Take the binary search table of `.eh_frame_hdr`, or a list of all entries."""
        self._read = read
        self._table = table
        self._entries = entries
        self._cies: dict[int, _Cie] = {}
        self._decoded: dict[int, _Entry | None] = {}
        self._rows: dict[int, Row | None] = {}

    def row(self, address: int) -> Row | None:
        """Return the rules at an address; None where nothing (sensible) is known of it."""
        try:
            return self._rows[address]
        except KeyError:
            pass
        if len(self._rows) >= MAX_ROWS:
            self._rows.clear()
        found = self._rows[address] = self._find(address)
        return found

    def _find(self, address: int) -> Row | None:
        place = self._place(address)
        if place is None:
            return None
        if place not in self._decoded:
            try:
                self._decoded[place] = self._entry(place)
            except (CfiError, struct.error, OverflowError, IndexError):
                self._decoded[place] = None
        entry = self._decoded[place]
        if entry is None or not entry.start <= address < entry.end:
            return None
        index = bisect_right(entry.starts, address) - 1
        return entry.rows[index] if index >= 0 else None

    def _place(self, address: int) -> int | None:
        if self._table is not None:
            return self._table.find(address)
        return self._entries.find(address) if self._entries is not None else None

    def _entry(self, place: int) -> _Entry:
        debug = self._entries is not None and self._entries.debug
        body, cie_place = _body(self._read, place, debug=debug)
        if cie_place is None:
            raise CfiError("a CIE where an FDE belongs")
        cie = self._cies.get(cie_place)
        if cie is None:
            cie = self._cies[cie_place] = _cie(self._read, cie_place, debug=debug)
        start = body.address(cie.pointers)
        size = body.address(cie.pointers & 0x0F, relative=False)
        if cie.lengths:
            body.take(body.uleb())
        machine = _Machine(cie, start)
        machine.run(_Cursor(cie.instructions))
        machine.begin()
        machine.run(body)
        machine.end()
        return _Entry(start, start + size, machine.starts, machine.rows)


@dataclass(frozen=True, slots=True)
class SearchTable:
    """The table of `.eh_frame_hdr`: addresses of functions and of their FDEs, sorted."""

    base: int
    starts: npt.NDArray[np.int32]
    places: npt.NDArray[np.int32]

    @classmethod
    def parse(cls, data: bytes, address: int) -> "SearchTable | None":
        """Read the segment at `address`; None if it has no table of the usual encoding."""
        # Version 1, count as udata4, table as sdata4 relative to the segment: what linkers write.
        if len(data) < 12 or data[0] != 1 or data[2] != 0x03 or data[3] != 0x3B:  # noqa: PLR2004
            return None
        skip = {0x02: 2, 0x03: 4, 0x04: 8}.get(data[1] & 0x07, 8)
        count = int.from_bytes(data[4 + skip : 8 + skip], "little")
        body = data[8 + skip :]
        count = min(count, len(body) // 8, MAX_ENTRIES)
        if count == 0:
            return None
        pairs = np.frombuffer(body[: 8 * count], dtype="<i4").reshape(count, 2)
        return cls(address, np.ascontiguousarray(pairs[:, 0]), np.ascontiguousarray(pairs[:, 1]))

    def find(self, address: int) -> int | None:
        """Return the address of the FDE that may hold an address."""
        wanted = address - self.base
        index = int(np.searchsorted(self.starts, wanted, side="right")) - 1
        return self.base + int(self.places[index]) if index >= 0 else None


@dataclass(frozen=True, slots=True)
class Entries:
    """All FDEs of a section without a table, sorted by the address that they begin at."""

    debug: bool
    """`.debug_frame`: entries are named by their offset in the section, addresses are absolute."""
    starts: list[int]
    places: list[int]

    @classmethod
    def scan(cls, read: Read, start: int, size: int, *, debug: bool) -> "Entries":
        """Read the head of each entry from `start` on; what follows a broken one is left out."""
        found: list[tuple[int, int]] = []
        cies: dict[int, _Cie] = {}
        place = start
        for _ in range(MAX_ENTRIES):
            if place >= start + size:
                break
            length = int.from_bytes(read(place, 4), "little")
            if length in (0, _EXTENDED):
                if length == _EXTENDED or not debug:
                    break
                place += 4
                continue
            try:
                body, cie_place = _body(read, place, debug=debug)
                if cie_place is not None:
                    if cie_place not in cies:
                        cies[cie_place] = _cie(read, cie_place, debug=debug)
                    found.append((body.address(cies[cie_place].pointers), place))
            except CfiError:
                if length > MAX_ENTRY:
                    break
            place += 4 + length
        found.sort()
        return cls(debug, [each for each, _ in found], [place for _, place in found])

    def find(self, address: int) -> int | None:
        """Return the place of the FDE that may hold an address."""
        index = bisect_right(self.starts, address) - 1
        return self.places[index] if index >= 0 else None


@dataclass(slots=True)
class _Machine:
    """The rules while the instructions of a CIE and an FDE are carried out."""

    cie: _Cie
    address: int
    starts: list[int] = field(default_factory=list)
    rows: list[Row] = field(default_factory=list)
    _cfa: tuple[int, int, bytes] = (-1, 0, b"")
    _rules: dict[int, int | tuple[How, int | bytes]] = field(default_factory=dict)
    """Register -> the offset that it is saved at, or another rule."""
    _initial: dict[int, int | tuple[How, int | bytes]] = field(default_factory=dict)
    _states: list[tuple[tuple[int, int, bytes], dict[int, int | tuple[How, int | bytes]]]] = field(
        default_factory=list
    )

    def begin(self) -> None:
        """Keep the CIE's rules: what `restore` restores."""
        self._initial = dict(self._rules)

    def end(self) -> None:
        """Close the last row."""
        self._close()

    def run(self, code: _Cursor) -> None:
        """Carry instructions out."""
        while code.at < len(code.data):
            byte = code.number(1)
            high, low = byte & 0xC0, byte & 0x3F
            if high == 0x40:  # noqa: PLR2004 - DW_CFA_advance_loc
                self._advance(low)
            elif high == 0x80:  # noqa: PLR2004 - DW_CFA_offset
                self._rules[low] = code.uleb() * self.cie.data_factor
            elif high == 0xC0:  # noqa: PLR2004 - DW_CFA_restore
                self._restore(low)
            else:
                self._extended(low, code)

    def _extended(self, opcode: int, code: _Cursor) -> None:  # noqa: C901, PLR0912, PLR0915 - one case per instruction
        register, offset, _ = self._cfa
        factor = self.cie.data_factor
        match opcode:
            case 0x00:  # nop
                pass
            case 0x01:  # set_loc
                self._close()
                self.address = code.address(self.cie.pointers)
            case 0x02 | 0x03 | 0x04:  # advance_loc1, 2, 4
                self._advance(code.number(1 << (opcode - 2)))
            case 0x05:  # offset_extended
                self._rule(code.uleb(), code.uleb() * factor)
            case 0x06:  # restore_extended
                self._restore(code.uleb())
            case 0x07:  # undefined
                self._rule(code.uleb(), (How.UNDEFINED, 0))
            case 0x08:  # same_value
                self._rule(code.uleb(), (How.SAME, 0))
            case 0x09:  # register
                self._rule(code.uleb(), (How.REGISTER, code.uleb()))
            case 0x0A:  # remember_state
                if len(self._states) >= _MAX_STATES:
                    raise CfiError("too many remembered states")
                self._states.append((self._cfa, dict(self._rules)))
            case 0x0B:  # restore_state
                self._cfa, self._rules = self._states.pop()
            case 0x0C:  # def_cfa
                self._cfa = (code.uleb(), code.uleb(), b"")
            case 0x0D:  # def_cfa_register
                self._cfa = (code.uleb(), offset, b"")
            case 0x0E:  # def_cfa_offset
                self._cfa = (register, code.uleb(), b"")
            case 0x0F:  # def_cfa_expression
                self._cfa = (-1, 0, code.take(code.uleb()))
            case 0x10:  # expression
                self._rule(code.uleb(), (How.AT, code.take(code.uleb())))
            case 0x11:  # offset_extended_sf
                self._rule(code.uleb(), code.sleb() * factor)
            case 0x12:  # def_cfa_sf
                self._cfa = (code.uleb(), code.sleb() * factor, b"")
            case 0x13:  # def_cfa_offset_sf
                self._cfa = (register, code.sleb() * factor, b"")
            case 0x14:  # val_offset
                self._rule(code.uleb(), (How.VALUE, code.uleb() * factor))
            case 0x15:  # val_offset_sf
                self._rule(code.uleb(), (How.VALUE, code.sleb() * factor))
            case 0x16:  # val_expression
                self._rule(code.uleb(), (How.EXPRESSION, code.take(code.uleb())))
            case 0x2E:  # GNU_args_size
                code.uleb()
            case 0x2F:  # GNU_negative_offset_extended
                self._rule(code.uleb(), -code.uleb() * factor)
            case _:
                raise CfiError(f"instruction {opcode:#x}")

    def _rule(self, register: int, rule: int | tuple[How, int | bytes]) -> None:
        self._rules[register] = rule

    def _advance(self, delta: int) -> None:
        self._close()
        self.address += delta * self.cie.code_factor

    def _restore(self, register: int) -> None:
        if register in self._initial:
            self._rules[register] = self._initial[register]
        else:
            self._rules.pop(register, None)

    def _close(self) -> None:
        """Keep the row that began at the present address."""
        if len(self.rows) >= MAX_ROWS:
            raise CfiError("too many rows")
        register, offset, expression = self._cfa
        if register >= REGISTERS:
            raise CfiError(f"register {register}")
        saved, other = [], []
        for each, rule in sorted(self._rules.items(), key=lambda item: item[0]):
            # Vector registers and the like never lead to a caller.
            number = RETURN_ADDRESS if each == self.cie.return_register else each
            if number >= REGISTERS:
                continue
            if isinstance(rule, int):
                saved.append((number, rule))
            elif rule[0] is not How.SAME:
                other.append((number, *rule))
        row = Row(register, offset, expression, tuple(saved), tuple(other), self.cie.signal)
        self.starts.append(self.address)
        self.rows.append(row)


def _body(read: Read, place: int, *, debug: bool) -> tuple[_Cursor, int | None]:
    """Return what follows an entry's head, and where its CIE is (None: it is one itself)."""
    head = read(place, 8)
    if len(head) < 8:  # noqa: PLR2004 - length and CIE pointer
        raise CfiError("it ends early")
    length, pointer = struct.unpack("<II", head)
    if not 4 <= length <= MAX_ENTRY:  # noqa: PLR2004 - the CIE pointer at least
        raise CfiError(f"an entry of {length} bytes")
    data = read(place + 8, length - 4)
    if len(data) < length - 4:
        raise CfiError("it ends early")
    body = _Cursor(data, place + 8)
    if debug:
        return body, None if pointer == _EXTENDED else pointer
    return body, None if pointer == 0 else place + 4 - pointer


def _cie(read: Read, place: int, *, debug: bool) -> _Cie:
    body, of = _body(read, place, debug=debug)
    if of is not None:
        raise CfiError("an FDE where a CIE belongs")
    version = body.number(1)
    if version not in (1, 3, 4):
        raise CfiError(f"version {version}")
    end = body.data.find(b"\0", body.at)
    if not 0 <= end - body.at <= _MAX_AUGMENTATION:
        raise CfiError("no augmentation")
    augmentation = body.take(end - body.at + 1)[:-1]
    if version == 4:  # noqa: PLR2004 - DWARF 4 adds the sizes of addresses and segments
        body.take(2)
    code_factor, data_factor = body.uleb(), body.sleb()
    return_register = body.number(1) if version == 1 else body.uleb()
    pointers, signal = 0, False
    lengths = augmentation.startswith(b"z")
    if lengths:
        data = body.take(body.uleb())
        extra = _Cursor(data, body.base + body.at - len(data))
        pointers, signal = _augmentation(augmentation[1:], extra)
    elif augmentation:
        raise CfiError("an unknown augmentation")
    return _Cie(
        code_factor, data_factor, pointers, lengths, signal, return_register, body.data[body.at :]
    )


def _augmentation(letters: bytes, extra: _Cursor) -> tuple[int, bool]:
    """Return the encoding of addresses, and whether this is of a signal frame."""
    pointers, signal = 0, False
    for letter in letters:
        match chr(letter):
            case "R":
                pointers = extra.number(1)
            case "P":
                extra.address(extra.number(1) & 0x0F, relative=False)
            case "L":
                extra.number(1)
            case "S":
                signal = True
            case _:
                break
    return pointers, signal
