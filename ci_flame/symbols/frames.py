"""Stage 1, edge: an ELF file -> where its call frame information is, read piece by piece.

By program headers (the segment PT_GNU_EH_FRAME with its search table), which stripped files
have too; by section headers where there is no table, and for `.debug_frame`.
"""

import os
import zlib
from collections.abc import Callable, Sequence
from io import BytesIO
from pathlib import Path
from typing import IO, Final

from elftools.common.exceptions import ELFError
from elftools.elf.elffile import ELFFile
from elftools.elf.sections import Section

from ci_flame.symbols.cfi import CallFrames, Entries, Row, SearchTable
from ci_flame.symbols.elf import content, open_regular

MAX_TABLE: Final = 64 << 20
"""Bytes of an image's search table, or of its frame section where there is no table."""
_VDSO_BYTES: Final = 1 << 16
_BROKEN: Final = (
    OSError,
    ELFError,
    ValueError,
    LookupError,
    AttributeError,
    TypeError,
    OverflowError,
    MemoryError,
    AssertionError,
)
"""What pyelftools raises on files that are not what they say."""

Pieces = Callable[[int, int], bytes]
"""(offset in the file, size) -> bytes; fewer at its end."""


class Image:
    """The loaded segments of a file and its call frame information."""

    def __init__(
        self, segments: Sequence[tuple[int, int, int]], frames: Sequence[CallFrames]
    ) -> None:
        """Take (offset, address, size) of what is loaded, and the places to look rules up in."""
        self._segments = tuple(segments)
        self._frames = tuple(frames)

    def row(self, offset: int) -> Row | None:
        """Return the rules at an offset of the file; None where nothing is known of it."""
        for start, address, size in self._segments:
            if start <= offset < start + size:
                place = offset - start + address
                break
        else:
            return None
        for each in self._frames:
            row = each.row(place)
            if row is not None:
                return row
        return None


def open_image(path: str) -> Image | None:
    """Open a file; None where it is no ELF of x86-64, or is gone, or tells nothing.

    `[vdso]` is this process's own: the kernel maps the same for all. The file is not kept
    open; where it is replaced meanwhile, rules are missing, and chains end there.
    """
    if path == "[vdso]":
        return image_of(_own_vdso())
    if not path.startswith("/"):
        return None

    def pieces(offset: int, size: int) -> bytes:
        try:
            with open_regular(Path(path)) as file:
                return os.pread(file.fileno(), size, offset)
        except (OSError, ValueError, OverflowError):
            return b""

    try:
        with open_regular(Path(path)) as file:
            return _image(file, pieces)
    except _BROKEN:
        return None


def image_of(data: bytes) -> Image | None:
    """Return the image that the bytes of an ELF file are."""
    try:
        return _image(BytesIO(data), lambda offset, size: data[offset : offset + size])
    except _BROKEN:
        return None


def _own_vdso() -> bytes:
    for line in Path("/proc/self/maps").read_text(errors="replace").splitlines():
        if line.endswith("[vdso]"):
            low, high = (int(each, 16) for each in line.split()[0].split("-"))
            with Path("/proc/self/mem").open("rb", buffering=0) as memory:
                memory.seek(low)
                return memory.read(min(high - low, _VDSO_BYTES))
    return b""


def _image(file: IO[bytes], pieces: Pieces) -> Image | None:
    elf = ELFFile(file)
    if elf.elfclass != 64 or not elf.little_endian or elf["e_machine"] != "EM_X86_64":  # noqa: PLR2004 - ELFCLASS64
        return None
    segments = [
        (int(part["p_offset"]), int(part["p_vaddr"]), int(part["p_filesz"]))
        for part in elf.iter_segments("PT_LOAD")
    ]

    def read(address: int, size: int) -> bytes:
        for offset, start, length in segments:
            if start <= address < start + length:
                return pieces(address - start + offset, max(0, min(size, start + length - address)))
        return b""

    found = [each for each in (_by_table(elf, read), _debug_frames(elf)) if each is not None]
    if not found and (section := _section(elf, ".eh_frame")) is not None:
        start, size = int(section["sh_addr"]), int(section["sh_size"])
        if size <= MAX_TABLE:
            entries = Entries.scan(read, start, size, debug=False)
            found.append(CallFrames(read, table=None, entries=entries))
    return Image(segments, found) if found else None


def _by_table(elf: ELFFile, read: Callable[[int, int], bytes]) -> CallFrames | None:
    for part in elf.iter_segments("PT_GNU_EH_FRAME"):
        address, size = int(part["p_vaddr"]), int(part["p_filesz"])
        if size <= MAX_TABLE:
            table = SearchTable.parse(read(address, size), address)
            if table is not None:
                return CallFrames(read, table=table)
    return None


def _debug_frames(elf: ELFFile) -> CallFrames | None:
    section = _section(elf, ".debug_frame")
    if section is None or int(section.data_size) > MAX_TABLE:
        return None
    try:
        data = content(section, MAX_TABLE)
    except (ELFError, zlib.error):
        return None  # .eh_frame may still tell the rules

    def read(offset: int, size: int) -> bytes:
        return data[offset : offset + size] if offset >= 0 else b""

    entries = Entries.scan(read, 0, len(data), debug=True)
    return CallFrames(read, table=None, entries=entries)


def _section(elf: ELFFile, name: str) -> Section | None:
    section = elf.get_section_by_name(name)
    return None if section is None or section["sh_type"] == "SHT_NOBITS" else section
