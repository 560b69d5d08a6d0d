"""Stage 1, edge: the functions of one ELF file as perf names them, debug file included.

Names are looked up by the offset in the file, as that is what a mapping gives. Where several
symbols begin at one address, perf's preferences decide, so that both tools tell one name.

Reference: https://github.com/torvalds/linux/blob/v6.1/tools/perf/util/symbol-elf.c (which
symbols count), symbol.c (`choose_best_symbol`, `symbols__fixup_end`).
"""

import os
import zlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO, Final

import numpy as np
import numpy.typing as npt

from ci_flame.symbols.demangle import demangle
from ci_flame.symbols.elf import SYMBOL, Segment, open_regular
from ci_flame.symbols.sections import BrokenElfError, Sections

Words = npt.NDArray[np.uint64]

MAX_BYTES: Final = 4 << 30
MAX_SYMBOLS: Final = 8_000_000
DEBUG_FOLDER: Final = Path("/usr/lib/debug")
_FUNCTION, _NO_TYPE, _INDIRECT = 2, 0, 10
_WEAK, _GLOBAL = 2, 1
_HIDDEN: Final = (1, 2)
"""STV_INTERNAL and STV_HIDDEN: labels of such visibility are no names."""
_FIRST_RESERVED: Final = 0xFF00
_FAULTS: Final = (OSError, BrokenElfError, ValueError, IndexError, OverflowError, MemoryError)
"""What reading a file that is gone, broken or hostile may raise."""
_NO_SIZE: Final = 4
_NESTED: Final = 8
"""How many functions before the nearest one may still reach over an address."""
_PAGE: Final = 4096
_STUB: Final = 16
_RELOCATION: Final = np.dtype([("where", "<u8"), ("what", "<u8"), ("plus", "<i8")])


@dataclass(frozen=True, slots=True)
class _Symbols:
    """Symbols of one section: places in the file, and where their names are."""

    start: Words
    size: Words
    binding: npt.NDArray[np.uint8]
    name: npt.NDArray[np.int64]
    strings: bytes
    suffix: str = ""


class CodeFile:
    """Functions by file offset; names are read when they are asked for."""

    def __init__(self, tables: Sequence[_Symbols]) -> None:
        self._tables = tables
        all_start = _joined([table.start for table in tables], np.uint64)
        all_size = _joined([table.size for table in tables], np.uint64)
        all_binding = _joined([table.binding for table in tables], np.uint8)
        origin = [np.full(len(table.start), number) for number, table in enumerate(tables)]
        # Perf prefers symbols with a size, then strong ones, then global ones.
        sized = all_size > 0
        rank = (all_binding == _WEAK) * np.uint8(2) + (all_binding != _GLOBAL)
        rank = np.where(sized, rank, _NO_SIZE)
        order = np.lexsort((rank, all_start))
        # A label inside of a function is no function.
        reach = np.maximum.accumulate(np.where(sized, all_start + all_size, 0)[order])
        order = order[sized[order] | (reach <= all_start[order])]
        self._start = all_start[order]
        self._rank = rank[order]
        self._name = _joined([table.name for table in tables], np.int64)[order]
        self._origin = _joined(origin, np.int64)[order]
        self._size = all_size[order]
        first = np.ones(len(order), dtype=bool)
        first[1:] = self._start[1:] != self._start[:-1]
        self._first = np.nonzero(first)[0]
        self._firsts = self._start[self._first]
        # One without a size ends where the next begins; the last one with its page.
        after = np.append(self._firsts[1:], (self._firsts[-1:] // _PAGE + 2) * _PAGE)
        best_size = self._size[self._first]
        self._end = np.where(best_size == 0, after, self._firsts + best_size)
        self._known: dict[int, str] = {}

    def __len__(self) -> int:
        return len(self._start)

    def find(self, offsets: Words) -> list[str]:
        """Return the name of the function at each file offset; empty where there is none."""
        if not len(self._firsts):
            return [""] * len(offsets)
        nearest = np.searchsorted(self._firsts, offsets, side="right") - 1
        inside = (nearest >= 0) & (offsets < self._end[nearest.clip(min=0)])
        return [
            self._group(index) if is_inside else self._around(index, offset)
            for index, is_inside, offset in zip(
                nearest.tolist(), inside.tolist(), offsets.tolist(), strict=True
            )
        ]

    def _around(self, index: int, offset: int) -> str:
        """Return the name of an earlier function that reaches over the offset."""
        for before in range(index - 1, max(index - _NESTED, -1), -1):
            if offset < int(self._end[before]):
                return self._group(before)
        return ""

    def _group(self, index: int) -> str:
        """Return the best name of the symbols that begin at one place."""
        known = self._known.get(index)
        if known is None:
            known = self._known[index] = self._best(index)
        return known

    def _best(self, index: int) -> str:
        first = int(self._first[index])
        last = int(self._first[index + 1]) if index + 1 < len(self._first) else len(self._start)
        rank = self._rank[first]
        best = ""
        for place in range(first, last):
            if self._rank[place] != rank:
                break
            name = self._text(place)
            # Of those without a size the last one has all up to the next function.
            if not best or rank == _NO_SIZE or _preference(name) > _preference(best):
                best = name
        return best

    def _text(self, place: int) -> str:
        table, number = self._tables[int(self._origin[place])], int(self._name[place])
        end = table.strings.find(b"\0", number)
        name = table.strings[number : end if end >= 0 else None].decode(errors="replace")
        return demangle(name) + table.suffix


def _joined(parts: Sequence[npt.NDArray[Any]], kind: type[np.generic]) -> npt.NDArray[Any]:
    return np.concatenate([np.empty(0, dtype=kind), *parts])


def _preference(name: str) -> tuple[int, int]:
    """Order names as perf does: few underscores before it, then length."""
    return len(name.lstrip("_")) - len(name), len(name)


def read_code_file(
    path: Path, build_id: bytes = b"", *, debug_folder: Path = DEBUG_FOLDER
) -> CodeFile | None:
    """Return a file's functions; None if it is gone, broken, or of another build.

    A separate debug file is taken by build id from `debug_folder`, then by .gnu_debuglink.
    """
    try:
        with open_regular(path) as file:
            if os.fstat(file.fileno()).st_size > MAX_BYTES:
                return None
            return parse_code_file(file, path, build_id, debug_folder=debug_folder)
    except OSError:
        return None


def parse_code_file(
    file: BinaryIO, path: Path | None, build_id: bytes, *, debug_folder: Path = DEBUG_FOLDER
) -> CodeFile | None:
    """Return the functions of an open file; without a path no debug file is looked for."""
    try:
        elf = Sections(file)
        own_id = elf.build_id()
        if build_id and own_id and own_id != build_id.ljust(len(own_id), b"\0"):
            return None
        tables = list(_tables(elf, elf.segments))
        if path is not None and elf.find(".symtab") is None:
            for debug in _debug_files(elf, path, own_id, debug_folder):
                if found := _debug_tables(debug, elf.segments, own_id):
                    tables += found
                    break
        linkage = _linkage(elf)
        return CodeFile(tables if linkage is None else [*tables, linkage])
    except _FAULTS:
        return None


def _debug_files(elf: Sections, path: Path, own_id: bytes, folder: Path) -> Iterator[Path]:
    """Yield where a file's separate symbols may be."""
    if own_id:
        number = own_id.hex()
        yield folder / ".build-id" / number[:2] / f"{number[2:]}.debug"
    section = elf.find(".gnu_debuglink")
    if section is None:
        return
    data = elf.content(section)
    name = data.split(b"\0", 1)[0].decode(errors="surrogateescape")
    if not name or "/" in name:
        return
    checksum = int.from_bytes(data[-4:], "little")
    real = path.resolve()
    for candidate in (
        real.parent / name,
        real.parent / ".debug" / name,
        folder / real.parent.relative_to("/") / name,
    ):
        # Without a build id only the checksum tells whether the file belongs to this one.
        if candidate != real and candidate.is_file() and (own_id or _crc(candidate) == checksum):
            yield candidate


def _crc(path: Path) -> int:
    value = 0
    with open_regular(path) as file:
        while piece := file.read(1 << 20):
            value = zlib.crc32(piece, value)
    return value


def _debug_tables(path: Path, segments: Sequence[Segment], own_id: bytes) -> list[_Symbols]:
    """Return the symbols of a debug file; its own offsets mean nothing, the program's do."""
    try:
        with open_regular(path) as file:
            if os.fstat(file.fileno()).st_size > MAX_BYTES:
                return []
            elf = Sections(file)
            if own_id and elf.build_id() != own_id:
                return []
            return list(_tables(elf, segments))
    except _FAULTS:
        return []


def _tables(elf: Sections, segments: Sequence[Segment]) -> Iterator[_Symbols]:
    is_text = np.array(["text" in section.name for section in elf.all], dtype=bool)
    for name in (".symtab", ".dynsym"):
        section = elf.find(name)
        if section is not None:
            yield _functions(elf.content(section), elf.linked(section), is_text, segments)


def _functions(
    data: bytes, strings: bytes, is_text: npt.NDArray[np.bool_], segments: Sequence[Segment]
) -> _Symbols:
    """Return the symbols of a table that perf would take as functions."""
    usable = len(data) // SYMBOL.itemsize * SYMBOL.itemsize
    symbols = np.frombuffer(data[:usable], dtype=SYMBOL)[:MAX_SYMBOLS]
    kind, visibility = symbols["kind"] & 15, symbols["other"] & 3
    section = symbols["section"]
    in_text = is_text[section.clip(max=len(is_text) - 1)] if len(is_text) else section > 0
    label = (kind == _NO_TYPE) & in_text & ~np.isin(visibility, _HIDDEN)
    function = np.isin(kind, (_FUNCTION, _INDIRECT))
    named = (symbols["name"] > 0) & (section > 0) & (section < _FIRST_RESERVED)
    symbols = symbols[(label | function) & named]
    place = np.zeros(len(symbols), dtype=np.uint64)
    there = np.zeros(len(symbols), dtype=bool)
    value = symbols["value"]
    for segment in segments:
        here = ~there & (value >= segment.address) & (value < segment.address + segment.size)
        place[here] = value[here] - np.uint64(segment.address) + np.uint64(segment.offset)
        there |= here
    return _Symbols(
        start=place[there],
        size=np.minimum(symbols["size"][there], np.uint64(1 << 40)),
        binding=(symbols["kind"][there] >> 4).astype(np.uint8),
        name=symbols["name"][there].astype(np.int64),
        strings=strings,
    )


def _linkage(elf: Sections) -> _Symbols | None:
    """Return the stubs by which other libraries are called.

    The order of the relocations is the order of the stubs, of which `.plt` has one more at
    its beginning, and `.plt.sec` (of code for CET) none.
    """
    relocations = elf.find(".rela.plt")
    stubs = elf.find(".plt.sec") or elf.find(".plt")
    if relocations is None or stubs is None or relocations.link >= len(elf.all):
        return None
    size = stubs.entry or _STUB
    first = stubs.offset + (0 if stubs.name == ".plt.sec" else size)
    rows = elf.content(relocations)
    rows = rows[: len(rows) // _RELOCATION.itemsize * _RELOCATION.itemsize]
    which = np.frombuffer(rows, _RELOCATION)["what"] >> np.uint64(32)
    which = which[: stubs.size // size]
    table = elf.all[relocations.link]
    content = elf.content(table)
    symbols = np.frombuffer(content[: len(content) // SYMBOL.itemsize * SYMBOL.itemsize], SYMBOL)
    if len(which) and int(which.max()) >= len(symbols):
        return None
    return _Symbols(
        start=np.arange(len(which), dtype=np.uint64) * np.uint64(size) + np.uint64(first),
        size=np.full(len(which), size, dtype=np.uint64),
        binding=np.zeros(len(which), dtype=np.uint8),
        name=symbols["name"][which].astype(np.int64),
        strings=elf.linked(table),
        suffix="@plt",
    )
