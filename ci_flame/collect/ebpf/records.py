"""Pure: the records of `collector.bpf.c`, unpacked."""

import struct
from dataclasses import dataclass
from typing import Final, NamedTuple

SAMPLE, STACK, CODE, STRING, FORK, EXEC, EXIT, KERNEL_STACK, WAIT = range(1, 10)

FLAG_TRUNCATED: Final = 1
FLAG_FAULT: Final = 2
FLAG_NO_THREAD: Final = 4
FLAG_NO_FRAME: Final = 8
FLAG_GC: Final = 16
FLAG_PYTHON: Final = 32

_PLACE: Final = struct.Struct("<I5Q")
_STACK: Final = struct.Struct("<IIQ")
_CODE: Final = struct.Struct("<IIQQQ")
_STRING: Final = struct.Struct("<IIQQ")
_IMAGE: Final = struct.Struct("<IIIIQQ")
_ENCODINGS: Final = {1: "latin-1", 2: "utf-16-le", 4: "utf-32-le"}


class Place(NamedTuple):
    """Where a sample was: the part of the record that equal samples share, from byte 20 on."""

    flags: int
    phase: int
    image: int
    stack: int
    address: int
    kernel: tuple[int, ...]
    """Innermost first, as the kernel walks."""

    @classmethod
    def unpack(cls, data: bytes) -> "Place":
        """Read the record's bytes from 20 on."""
        flags, phase, image, stack, address, kernel = _PLACE.unpack_from(data)
        fits = min(kernel, (len(data) - _PLACE.size) // 8)
        frames = struct.unpack_from(f"<{fits}Q", data, _PLACE.size)
        return cls(flags, phase, image, stack, address, frames)


@dataclass(frozen=True, slots=True)
class Code:
    """One code object; strings by their ids."""

    line: int
    qualname: int
    file: int


@dataclass(frozen=True, slots=True)
class ImageChange:
    """A fork, an exec or an exit."""

    pid: int
    tgid: int
    before: int
    image: int


def place_elsewhere(phase: int) -> bytes:
    """Return the bytes of a place of which nothing but the phase is known."""
    return _PLACE.pack(0, phase, 0, 0, 0, 0)


def stack_key(data: bytes) -> int:
    """Return the hash of a STACK or KERNEL_STACK record."""
    key: int = _STACK.unpack_from(data)[2]
    return key


def unpack_stack(data: bytes) -> tuple[int, tuple[int, ...]]:
    """Return the stack's hash and the ids of its code objects, outermost first."""
    _, depth, key = _STACK.unpack_from(data)
    fits = min(depth, (len(data) - _STACK.size) // 8)
    ids = struct.unpack_from(f"<{fits}Q", data, _STACK.size)
    return key, tuple(each for each in reversed(ids) if each)


def unpack_kernel_stack(data: bytes) -> tuple[int, tuple[int, ...]]:
    """Return the hash of a kernel stack and its addresses, outermost first."""
    _, depth, key = _STACK.unpack_from(data)
    fits = min(depth, (len(data) - _STACK.size) // 8)
    return key, struct.unpack_from(f"<{fits}Q", data, _STACK.size)[::-1]


def unpack_code(data: bytes) -> tuple[int, Code]:
    """Return the id and the code object."""
    _, line, key, qualname, file = _CODE.unpack_from(data)
    return key, Code(line, qualname, file)


def unpack_string(data: bytes) -> tuple[int, str]:
    """Return the id and the text of a CPython string, by the kind its header tells."""
    _, state, key, length = _STRING.unpack_from(data)
    kind = state >> 2 & 7
    raw = data[_STRING.size :]
    if kind not in _ENCODINGS:
        return key, ""
    whole = raw[: min(length * kind, len(raw) // kind * kind)]
    # Lone surrogates (undecodable file names) must survive in one form on every machine.
    try:
        text = whole.decode(_ENCODINGS[kind], "surrogatepass")
    except UnicodeDecodeError:  # caught while the process wrote it
        text = whole.decode(_ENCODINGS[kind], "replace")
    return key, text.encode("utf-8", "backslashreplace").decode()


def unpack_image(data: bytes) -> ImageChange:
    """Return a fork, exec or exit."""
    _, pid, tgid, _, before, image = _IMAGE.unpack_from(data)
    return ImageChange(pid, tgid, before, image)
