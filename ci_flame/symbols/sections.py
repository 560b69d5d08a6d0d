"""Stage 1, edge: the sections and segments of one ELF file, read where they are asked for.

A profile touches dozens of files; of each only symbol tables matter, so that reading the whole
structure into objects would take longer than naming the addresses.
"""

import os
from dataclasses import dataclass
from typing import BinaryIO, Final

import numpy as np
import numpy.typing as npt

from ci_flame.symbols.elf import Segment

_IDENTITY: Final = b"\x7fELF\x02\x01"
"""64 bits, little-endian."""
_HEADER: Final = np.dtype(
    [
        *(("identity", "V16"), ("kind", "<u2"), ("machine", "<u2"), ("version", "<u4")),
        *(("entry", "<u8"), ("program_at", "<u8"), ("section_at", "<u8"), ("flags", "<u4")),
        *(("header_size", "<u2"), ("program_size", "<u2"), ("programs", "<u2")),
        *(("section_size", "<u2"), ("sections", "<u2"), ("names", "<u2")),
    ]
)
_SECTION: Final = np.dtype(
    [
        *(("name", "<u4"), ("kind", "<u4"), ("flags", "<u8"), ("address", "<u8")),
        *(("offset", "<u8"), ("size", "<u8"), ("link", "<u4"), ("more", "<u4")),
        *(("align", "<u8"), ("entry", "<u8")),
    ]
)
_PROGRAM: Final = np.dtype(
    [
        *(("kind", "<u4"), ("flags", "<u4"), ("offset", "<u8"), ("address", "<u8")),
        *(("physical", "<u8"), ("size", "<u8"), ("memory", "<u8"), ("align", "<u8")),
    ]
)
_LOAD: Final = 1
_NO_BITS: Final = 8
_COMPRESSED: Final = 0x800
_BUILD_ID: Final = 3
MAX_SECTION: Final = 1 << 30


class BrokenElfError(ValueError):
    """The file is no 64-bit little-endian ELF, or its parts lie outside of it."""


@dataclass(frozen=True, slots=True)
class Section:
    """One row of the table of sections."""

    name: str
    kind: int
    offset: int
    size: int
    link: int
    entry: int
    """Bytes of one entry; 0: the section is no table."""
    flags: int = 0


class Sections:
    """The parts of an open file; BrokenElfError where they make no sense."""

    def __init__(self, file: BinaryIO) -> None:
        self._file = file
        self._size = file.seek(0, os.SEEK_END)
        head = self._read(0, _HEADER.itemsize)
        if not head.startswith(_IDENTITY):
            raise BrokenElfError("not a 64-bit little-endian ELF file")
        header = np.frombuffer(head, _HEADER)[0]
        programs = self._table(header["program_at"], header["programs"], _PROGRAM)
        self.segments = tuple(
            Segment(int(row["offset"]), int(row["address"]), int(row["size"]))
            for row in programs[programs["kind"] == _LOAD]
        )
        rows = self._table(header["section_at"], header["sections"], _SECTION)
        names = b""
        if int(header["names"]) < len(rows):
            row = rows[int(header["names"])]
            names = self._read(int(row["offset"]), int(row["size"]))
        self.all = tuple(
            Section(_text(names, name), kind, offset, size, link, entry, flags)
            for name, kind, flags, _, offset, size, link, _, _, entry in rows.tolist()
        )
        self._by_name = {section.name: section for section in reversed(self.all)}

    def find(self, name: str) -> Section | None:
        """Return the first section of a name that has content in this file."""
        section = self._by_name.get(name)
        return None if section is None or section.kind == _NO_BITS else section

    def content(self, section: Section) -> bytes:
        """Return the bytes of a section; one that is compressed is not a symbol table of ours."""
        if section.flags & _COMPRESSED:
            raise BrokenElfError(f"section {section.name} is compressed")
        return self._read(section.offset, section.size)

    def linked(self, section: Section) -> bytes:
        """Return the bytes of the section that a table refers to: its names or symbols."""
        if section.link >= len(self.all):
            raise BrokenElfError(f"section {section.name} refers to section {section.link}")
        return self.content(self.all[section.link])

    def build_id(self) -> bytes:
        """Return the build id; empty if there is none."""
        section = self.find(".note.gnu.build-id")
        return b"" if section is None else build_id_of_notes(self.content(section))

    def _read(self, offset: int, size: int) -> bytes:
        if offset + size > self._size or size > MAX_SECTION:
            raise BrokenElfError(f"{size} bytes at offset {offset} of {self._size}")
        self._file.seek(offset)
        return self._file.read(size)

    def _table(self, offset: int, number: int, row: np.dtype[np.void]) -> npt.NDArray[np.void]:
        return np.frombuffer(self._read(int(offset), int(number) * row.itemsize), row)


def _text(names: bytes, start: int) -> str:
    return names[start : names.find(b"\0", start)].decode(errors="replace")


def build_id_of_notes(notes: bytes) -> bytes:
    """Return the build id among the notes of a file or of the kernel; empty if there is none."""
    at = 0
    while at + 12 <= len(notes):
        name_size, size, kind = np.frombuffer(notes, "<u4", 3, at).tolist()
        start = at + 12 + (name_size + 3) // 4 * 4
        if kind == _BUILD_ID and notes[at + 12 : at + 16] == b"GNU\0":
            return notes[start : start + size]
        at = start + (size + 3) // 4 * 4
    return b""
