"""Edge: the function symbols and load segments of one ELF file.

pyelftools reads the structure; the symbol tables, with up to 100,000 entries, are read with
numpy, and a name is only decoded when it is asked for.
"""

import errno
import os
import re
import stat
import zlib
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO, Final

import numpy as np
import numpy.typing as npt
from elftools.common.exceptions import ELFError
from elftools.elf.elffile import ELFFile
from elftools.elf.sections import Section

SYMBOL: Final = np.dtype(
    [
        ("name", "<u4"),
        ("kind", "u1"),
        ("other", "u1"),
        ("section", "<u2"),
        ("value", "<u8"),
        ("size", "<u8"),
    ]
)
"""`Elf64_Sym`."""
_FUNCTION_KINDS: Final = (2, 10)  # STT_FUNC, STT_GNU_IFUNC
_CLONE: Final = re.compile(r"\.(?:isra|constprop|part|cold|lto_priv|llvm|localalias)\b.*$|@.*$")
_MAX_BYTES: Final = 1 << 30
MAX_UNPACKED: Final = 1 << 28
"""Bytes of a section that is compressed in the file: a thousandth of that may stand there."""


@dataclass(frozen=True, slots=True)
class Segment:
    """One PT_LOAD: where a part of the file lies in memory, before the load bias."""

    offset: int
    address: int
    size: int


@dataclass(frozen=True, slots=True)
class Table:
    """Function symbols of one section, sorted by address."""

    addresses: npt.NDArray[np.uint64]
    sizes: npt.NDArray[np.uint64]
    names: npt.NDArray[np.uint32]
    strings: bytes

    def find(self, address: int) -> str:
        """Return the name of the function that holds the address; empty if none does."""
        index = int(np.searchsorted(self.addresses, np.uint64(address), side="right")) - 1
        # Aliases and nested symbols share addresses; the nearest that reaches far enough wins.
        for nearest in range(index, max(index - 8, -1), -1):
            start, size = int(self.addresses[nearest]), int(self.sizes[nearest])
            if address < start + max(size, 1):
                return _string(self.strings, int(self.names[nearest]))
        return ""


@dataclass(frozen=True, slots=True)
class Elf:
    """What is needed to name an address in a file, and to find a variable."""

    segments: tuple[Segment, ...]
    functions: tuple[Table, ...]
    """`.symtab` first: it also knows static functions."""
    raw: tuple[tuple[npt.NDArray[np.void], bytes], ...]

    def address(self, offset: int) -> int | None:
        """Return the address (before the load bias) of a file offset."""
        for segment in self.segments:
            if segment.offset <= offset < segment.offset + segment.size:
                return offset - segment.offset + segment.address
        return None

    def page_address(self, offset: int) -> int | None:
        """Return the same for the offset of a mapping, which is rounded down to a page."""
        for segment in self.segments:
            if segment.offset & ~0xFFF <= offset < segment.offset + segment.size:
                return offset - segment.offset + segment.address
        return None

    def function(self, offset: int) -> str:
        """Return the function at a file offset, without the marks of the compiler's clones."""
        address = self.address(offset)
        if address is None:
            return ""
        for table in self.functions:
            if name := table.find(address):
                return _CLONE.sub("", name) or name
        return ""

    def variable(self, name: str) -> int | None:
        """Return the address (before the load bias) of a defined symbol."""
        needle = name.encode()
        for symbols, strings in self.raw:
            start = strings.find(b"\0" + needle + b"\0")
            if start < 0:
                continue
            hits = symbols[(symbols["name"] == start + 1) & (symbols["section"] != 0)]
            if len(hits):
                return int(hits["value"][0])
        return None


def open_regular(path: Path) -> BinaryIO:
    """Open a plain file; OSError for a pipe or a device, which must not hold a reader up.

    Paths come from other people's processes and recordings, and what was mapped from there may
    have been exchanged since.
    """
    file = os.fdopen(os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK), "rb")
    if not stat.S_ISREG(os.fstat(file.fileno()).st_mode):
        file.close()
        raise OSError(errno.EINVAL, "not a plain file")
    return file


_BROKEN: Final = (
    *(OSError, ELFError, zlib.error, ValueError, KeyError, AttributeError),
    *(OverflowError, MemoryError),
)


class OversizedSectionError(ELFError):
    """A section that unpacks to more than is read."""


def content(section: Section, limit: int = MAX_UNPACKED) -> bytes:
    """Return the bytes of a section, unpacked if they are compressed (SHF_COMPRESSED).

    OversizedSectionError where its header tells more than `limit` bytes, or none at all, which
    pyelftools would take for no limit; other ELFErrors and zlib's where it is broken.
    """
    if section.compressed and not 0 < section.data_size <= limit:
        raise OversizedSectionError(
            f"section {section.name} unpacks to {section.data_size} bytes; 1 to {limit} are read"
        )
    data: bytes = section.data()
    return data


def read_elf(path: Path) -> Elf | None:
    """Return a file's symbols; None if it is gone, not 64-bit little-endian ELF, or broken."""
    try:
        with open_regular(path) as file:
            if os.fstat(file.fileno()).st_size > _MAX_BYTES:
                return None
            return _parse(ELFFile(file))
    except _BROKEN:
        return None


def _parse(file: ELFFile) -> Elf | None:
    if file.elfclass != 64 or not file.little_endian:  # noqa: PLR2004 - ELFCLASS64
        return None
    segments = tuple(
        Segment(int(part["p_offset"]), int(part["p_vaddr"]), int(part["p_filesz"]))
        for part in file.iter_segments("PT_LOAD")
    )
    raw = []
    for name in (".symtab", ".dynsym"):
        section = file.get_section_by_name(name)
        if section is None or section["sh_type"] == "SHT_NOBITS":
            continue
        data = content(section)
        strings = b"\0" + content(file.get_section(section["sh_link"])) + b"\0"
        usable = len(data) // SYMBOL.itemsize * SYMBOL.itemsize
        symbols = np.frombuffer(data[:usable], dtype=SYMBOL).copy()
        symbols["name"] += 1  # of the byte put before the strings
        raw.append((symbols, strings))
    return Elf(segments, tuple(_table(*each) for each in raw), tuple(raw))


def _table(symbols: npt.NDArray[np.void], strings: bytes) -> Table:
    kinds = symbols["kind"] & 15
    functions = symbols[np.isin(kinds, _FUNCTION_KINDS) & (symbols["section"] != 0)]
    # Stable order of aliases: by address, then size, then the place of the name.
    order = np.lexsort((functions["name"], functions["size"], functions["value"]))
    functions = functions[order]
    return Table(
        addresses=np.ascontiguousarray(functions["value"]),
        sizes=np.ascontiguousarray(functions["size"]),
        names=np.ascontiguousarray(functions["name"]),
        strings=strings,
    )


def _string(strings: bytes, start: int) -> str:
    end = strings.find(b"\0", start)
    return strings[start : end if end >= 0 else None].decode(errors="replace")
