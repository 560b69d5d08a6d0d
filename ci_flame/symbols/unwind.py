"""Stage 1, edge: registers and a copy of the stack -> return addresses, by call frame information.

    perf record --call-graph dwarf: 16 registers + the top of the stack, at each sample
    rip, rsp, rbp ─ rules of rip (cfi) ─▶ the caller's rip, rsp, rbp ─ … ─▶ _start

x86-64 only. Where nothing is known of an address (JIT code), the frame pointer leads on. Only
the copy of the stack is read, never the process; every loop is bounded, so that a hostile stack
ends in a short chain.
"""

import struct
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from enum import Enum
from typing import Final, Protocol

from ci_flame.symbols.cfi import REGISTERS, RETURN_ADDRESS, How, Row
from ci_flame.symbols.frames import Image, open_image

MAX_FRAMES: Final = 1024
PERF_REGISTERS: Final = (0, 3, 2, 1, 4, 5, 6, 7, 16, 17, 18, 19, 20, 21, 22, 23, 8)
"""By DWARF's number: perf's (`asm/perf_regs.h`, PERF_REG_X86_*)."""
USER_MASK: Final = sum(1 << number for number in PERF_REGISTERS)
_RBP: Final = 6
_RSP: Final = 7
_WORD: Final = (1 << 64) - 1
_SIGN: Final = 1 << 63
_USER_END: Final = 1 << 47
_MAX_FRAME_BYTES: Final = 1 << 24
"""Of a frame found by the frame pointer alone; anything larger is no frame."""
_MAX_STEPS: Final = 256
_MAX_OPERANDS: Final = 64
_word_at = struct.Struct("<Q").unpack_from


class Region(Protocol):
    """A mapping of the process."""

    @property
    def start(self) -> int:
        """First address."""

    @property
    def offset(self) -> int:
        """Where it begins in the file."""

    @property
    def path(self) -> str:
        """File, or a name in brackets (`[vdso]`); empty for anonymous memory."""


Find = Callable[[int], Region | None]
"""The executable mapping that holds an address, at the time of the sample."""


class End(Enum):
    """Why a walk ended."""

    WHOLE = "whole"
    """At the frame that has no caller."""
    LOST = "lost"
    """Nothing is known of the outermost address, or its rules make no sense."""
    SHORT = "short"
    """The copy of the stack was too short: outer frames are missing."""
    DEEP = "deep"
    """At the limit of frames."""


@dataclass(frozen=True, slots=True)
class Chain:
    """A stack in addresses."""

    addresses: tuple[int, ...]
    """Leaf first. Callers' are those of the call, one less than what they return to, so that
    each lies in its function; a function that a signal interrupted has its own."""
    end: End


@dataclass(frozen=True, slots=True)
class Copied:
    """The memory of a stack, from the stack pointer at the time of the sample upwards."""

    data: bytes | memoryview
    base: int
    """Address of its first byte."""

    def word(self, address: int) -> int | None:
        """Return the word at an address; None where it was not copied."""
        at = address - self.base
        if not 0 <= at <= len(self.data) - 8:
            return None
        value: int = _word_at(self.data, at)[0]
        return value

    def is_behind(self, address: int) -> bool:
        """Whether an address is one that a larger copy would have held."""
        return len(self.data) - 8 < address - self.base < _MAX_FRAME_BYTES


class Unwinder:
    """Walks stacks; reads each image once."""

    def __init__(
        self,
        load: Callable[[str], Image | None] = open_image,
        *,
        max_frames: int = MAX_FRAMES,
    ) -> None:
        """Take how the image of a mapping's path is opened; by default as a file."""
        self._load = load
        self._max_frames = max_frames
        self._images: dict[str, Image | None] = {}

    def walk(self, registers: Sequence[int], stack: bytes | memoryview, find: Find) -> Chain:
        """Return the chain of one sample.

        `registers` are 17 words by DWARF's numbers (`PERF_REGISTERS`; the last is rip), `stack`
        the memory from rsp upwards.
        """
        words = list(registers)
        copied = Copied(stack, words[_RSP])
        address = words[RETURN_ADDRESS]
        addresses = [address]
        exact = True
        while len(addresses) < self._max_frames:
            place = address if exact else address - 1
            row = self._row(place, find)
            if row is None:
                called, end = _by_frame_pointer(place, words, copied, find)
                signal = False
            else:
                called, end = _by_rules(row, words, copied)
                signal = row.signal
            if called is None:
                return Chain(tuple(addresses), end)
            inward = called[_RSP] <= words[_RSP] and not signal
            address = called[RETURN_ADDRESS]
            if address == 0:
                return Chain(tuple(addresses), End.WHOLE)
            if inward or address >= _USER_END:
                return Chain(tuple(addresses), End.LOST)
            words = called
            exact = signal
            addresses.append(address if exact else address - 1)
        return Chain(tuple(addresses), End.DEEP)

    def _row(self, place: int, find: Find) -> Row | None:
        region = find(place)
        if region is None or not region.path:
            return None
        if region.path not in self._images:
            self._images[region.path] = self._load(region.path)
        image = self._images[region.path]
        if image is None:
            return None
        return image.row(place - region.start + region.offset)


class Finder(Protocol):
    """The mappings of a process at the time of a sample."""

    def find(self, address: int) -> Region | None:
        """Return the executable mapping that holds an address."""


class SampleUnwinder:
    """Unwinds the samples of `perf record --call-graph dwarf` (`perf_data.Unwind`)."""

    def __init__(self) -> None:
        self._unwinder = Unwinder()

    def __call__(
        self, space: Finder, registers: Mapping[int, int], stack: memoryview
    ) -> tuple[Sequence[int], bool]:
        """Return addresses, leaf first, and whether the outermost frame is among them.

        `registers` are by perf's numbers.
        """
        try:
            words = [registers[number] for number in PERF_REGISTERS]
        except KeyError:
            # 32-bit code, or a recording of fewer registers: the leaf is all that is known.
            leaf = registers.get(PERF_REGISTERS[RETURN_ADDRESS])
            return ([] if leaf is None else [leaf]), False
        chain = self._unwinder.walk(words, stack, space.find)
        return chain.addresses, chain.end is End.WHOLE


def _by_rules(row: Row, words: Sequence[int], stack: Copied) -> tuple[list[int] | None, End]:
    """Return the caller's registers; None and the reason where the walk ends."""
    cfa = _frame_address(row, words, stack)
    if cfa is None:
        return None, End.LOST
    called = list(words)
    called[_RSP] = cfa
    known = False
    for register, offset in row.saved:
        value = stack.word(cfa + offset)
        if register == RETURN_ADDRESS:
            if value is None:
                return None, End.SHORT if stack.is_behind(cfa + offset) else End.LOST
            known = True
        called[register] = value or 0
    for register, how, detail in row.other:
        if how is How.UNDEFINED:
            if register == RETURN_ADDRESS:
                return None, End.WHOLE
            continue
        value = _other(how, detail, cfa, words, stack)
        if register == RETURN_ADDRESS:
            if value is None:
                return None, End.LOST
            known = True
        called[register] = value or 0
    return (called, End.WHOLE) if known else (None, End.WHOLE)


def _frame_address(row: Row, words: Sequence[int], stack: Copied) -> int | None:
    if row.cfa_register < 0:
        return evaluate(row.cfa_expression, words, stack)
    return (words[row.cfa_register] + row.cfa_offset) & _WORD


def _other(
    how: How, detail: int | bytes, cfa: int, words: Sequence[int], stack: Copied
) -> int | None:
    if isinstance(detail, bytes):
        value = evaluate(detail, words, stack, first=cfa)
        return value if value is None or how is How.EXPRESSION else stack.word(value)
    if how is How.VALUE:
        return (cfa + detail) & _WORD
    return words[detail] if 0 <= detail < REGISTERS else None


def _by_frame_pointer(
    place: int, words: Sequence[int], stack: Copied, find: Find
) -> tuple[list[int] | None, End]:
    """Return the caller's registers as code with frame pointers leaves them."""
    frame = words[_RBP]
    if frame == 0:
        # What begins a process or a thread leaves zero there (System V ABI of x86-64, 3.4.1).
        return None, End.WHOLE if find(place) is not None else End.LOST
    if frame % 8 or not words[_RSP] <= frame < words[_RSP] + _MAX_FRAME_BYTES:
        return None, End.LOST
    outer, back = stack.word(frame), stack.word(frame + 8)
    if outer is None or back is None:
        return None, End.SHORT
    # Any number lies on a stack; only one that leads into code is a return address.
    if back == 0 or find(back - 1) is None:
        return None, End.LOST
    called = list(words)
    called[_RBP], called[_RSP], called[RETURN_ADDRESS] = outer, frame + 16, back
    return called, End.WHOLE


# -- expressions -------------------------------------------------------------------------


def evaluate(
    code: bytes, words: Sequence[int], stack: Copied, *, first: int | None = None
) -> int | None:
    """Return what a DWARF expression leaves on top; None for one that makes no sense.

    The operations are those of procedure linkage tables, of glibc's signal frame and of
    realigned stacks: constants, registers, memory of the stack, arithmetic, branches.
    """
    operands = [] if first is None else [first]
    at = 0
    try:
        for _ in range(_MAX_STEPS):
            if at >= len(code):
                return operands[-1] & _WORD
            at = _step(code, at, operands, words, stack)
            if len(operands) > _MAX_OPERANDS or at < 0:
                return None
    except (IndexError, ValueError, struct.error):
        return None
    return None


_CONSTANTS: Final = {0x08: "<B", 0x09: "<b", 0x0A: "<H", 0x0B: "<h", 0x0C: "<I", 0x0D: "<i",
                     0x0E: "<Q", 0x0F: "<q", 0x03: "<Q"}  # fmt: skip
_BINARY: Final[dict[int, Callable[[int, int], int]]] = {
    0x1A: lambda a, b: a & b,
    0x1C: lambda a, b: a - b,
    0x1E: lambda a, b: a * b,
    0x21: lambda a, b: a | b,
    0x22: lambda a, b: a + b,
    0x24: lambda a, b: a << b if b < 64 else 0,  # noqa: PLR2004 - bits of a word
    0x25: lambda a, b: a >> b if b < 64 else 0,  # noqa: PLR2004
    0x27: lambda a, b: a ^ b,
    0x29: lambda a, b: int(a == b),
    0x2A: lambda a, b: int(_signed(a) >= _signed(b)),
    0x2B: lambda a, b: int(_signed(a) > _signed(b)),
    0x2C: lambda a, b: int(_signed(a) <= _signed(b)),
    0x2D: lambda a, b: int(_signed(a) < _signed(b)),
    0x2E: lambda a, b: int(a != b),
}


def _signed(value: int) -> int:
    return value - (1 << 64) if value & _SIGN else value


def _step(code: bytes, at: int, operands: list[int], words: Sequence[int], stack: Copied) -> int:
    """Carry one operation out; return where the next one is, or ValueError."""
    operation = code[at]
    at += 1
    if 0x30 <= operation <= 0x4F:  # noqa: PLR2004 - DW_OP_lit0 to lit31
        operands.append(operation - 0x30)
    elif 0x70 <= operation <= 0x70 + RETURN_ADDRESS:  # noqa: PLR2004 - DW_OP_breg0 on
        offset, at = _leb(code, at, signed=True)
        operands.append((words[operation - 0x70] + offset) & _WORD)
    elif layout := _CONSTANTS.get(operation):
        operands.append(struct.unpack_from(layout, code, at)[0] & _WORD)
        at += struct.calcsize(layout)
    elif operation in _BINARY:
        second, one = operands.pop(), operands.pop()
        operands.append(_BINARY[operation](one, second) & _WORD)
    else:
        at = _special(operation, code, at, operands, stack)
    return at


def _special(  # noqa: C901, PLR0912 - one case per operation
    operation: int, code: bytes, at: int, operands: list[int], stack: Copied
) -> int:
    match operation:
        case 0x06:  # deref
            value = stack.word(operands.pop())
            if value is None:
                raise ValueError("memory that was not copied")
            operands.append(value)
        case 0x10 | 0x11:  # constu, consts
            value, at = _leb(code, at, signed=operation == 0x11)  # noqa: PLR2004
            operands.append(value & _WORD)
        case 0x12:  # dup
            operands.append(operands[-1])
        case 0x13:  # drop
            operands.pop()
        case 0x14:  # over
            operands.append(operands[-2])
        case 0x16:  # swap
            operands[-1], operands[-2] = operands[-2], operands[-1]
        case 0x1F:  # neg
            operands.append(-operands.pop() & _WORD)
        case 0x20:  # not
            operands.append(~operands.pop() & _WORD)
        case 0x23:  # plus_uconst
            value, at = _leb(code, at, signed=False)
            operands.append((operands.pop() + value) & _WORD)
        case 0x28 | 0x2F:  # bra, skip
            jump: int = struct.unpack_from("<h", code, at)[0]
            taken = operation == 0x2F or operands.pop() != 0  # noqa: PLR2004
            at += 2 + (jump if taken else 0)
        case 0x96:  # nop
            pass
        case _:
            raise ValueError(f"operation {operation:#x}")
    return at


def _leb(code: bytes, at: int, *, signed: bool) -> tuple[int, int]:
    value = shift = 0
    while True:
        byte = code[at]
        at += 1
        value |= (byte & 0x7F) << shift
        shift += 7
        if not byte & 0x80:
            break
        if shift > 63:  # noqa: PLR2004 - no number of 64 bits is longer
            raise ValueError("a number of more than 64 bits")
    return (value - (1 << shift) if signed and byte & 0x40 else value), at
