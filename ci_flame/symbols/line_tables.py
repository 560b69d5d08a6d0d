"""Edge: native functions of the repository's own builds -> their lines, by DWARF line tables.

    native:_fast:scan -> {"src/fast.c": {12, 13, 15}}

The lines are those that the function's code was made from, so that what was inlined into it counts.
"""

import os
import struct
import zlib
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from elftools.common.exceptions import DWARFError, ELFError
from elftools.construct import ConstructError
from elftools.elf.elffile import ELFFile
from elftools.elf.sections import SymbolTableSection

from ci_flame.baseline import git
from ci_flame.baseline.changes import Changes
from ci_flame.errors import BaselineError
from ci_flame.formats.foreign import library_name
from ci_flame.profile import Frame, Kind
from ci_flame.simplify import clean_name
from ci_flame.symbols.demangle import demangle
from ci_flame.symbols.elf import open_regular
from ci_flame.verdict.touch import Spot, Touch

MAX_SECTION: Final = 64 << 20
"""Bytes of debug information, unpacked; a larger file is taken for one without."""
_MAX_FILES: Final = 4
"""Files of one name that are looked at, the newest first: builds of several interpreters."""
_FIVE: Final = 5
_BROKEN: Final = (
    ELFError, DWARFError, ConstructError, OSError, ValueError, LookupError, AttributeError,
    TypeError, AssertionError, OverflowError, struct.error, zlib.error, RecursionError,
)  # fmt: skip
"""What pyelftools raises for broken files."""

Lines = Mapping[str, frozenset[int]]
"""Absolute path of a source file, or the compiler's own words for it -> lines."""


@dataclass(frozen=True, slots=True)
class Native:
    """What a diff did to native functions."""

    spots: Mapping[str, Spot]
    known: frozenset[str]
    """Functions whose lines are known, touched or not."""
    unlined: frozenset[str]
    """Functions of files that lie in the repository, without a line table."""


def touched(changes: Changes, frames: Iterable[Frame]) -> Native:
    """Return what the diff did to native functions whose file was built in the work tree."""
    spots: dict[str, Spot] = {}
    known: set[str] = set()
    unlined: set[str] = set()
    by_module: dict[str, list[Frame]] = {}
    for frame in frames:
        if frame.kind is Kind.NATIVE and frame.module:
            by_module.setdefault(frame.module, []).append(frame)
    for module, mine in sorted(by_module.items()):
        files = _built(changes.top, module)
        if not files:
            continue
        wanted = {frame.function for frame in mine}
        # The newest build that has any.
        lines = next(filter(None, (functions(each, wanted) for each in files)), {})
        for frame in mine:
            found = lines.get(frame.function)
            if found is None:
                # Nobody builds anew what was installed: wheels have no line tables.
                if not all("-packages/" in str(file) for file in files):
                    unlined.add(str(frame))
                continue
            known.add(str(frame))
            spot = _spot(changes, found)
            if spot is not None:
                spots[str(frame)] = spot
    return Native(spots, frozenset(known), frozenset(unlined))


def functions(file: Path, wanted: set[str]) -> dict[str, Lines]:
    """Return the lines of these functions; those that the file has no lines of are left out."""
    try:
        with open_regular(file) as stream:
            elf = ELFFile(stream)
            if not _small(elf) or not elf.has_dwarf_info():
                return {}
            ranges = sorted(_ranges(elf, wanted))
            return _lines(elf, ranges) if ranges else {}
    except _BROKEN:
        return {}


def _built(top: Path, name: str) -> list[Path]:
    """Return programs and libraries of a name in the work tree, in git or not, newest first."""
    if "/" in name or not name.isprintable() or set(name) & set("*?[\\"):
        return []
    try:
        patterns = (f":(glob)**/{name}", f":(glob)**/{name}*.so*")
        answer = git.call(("ls-files", "-z", "--cached", "--others", "--", *patterns), top)
    except BaselineError:
        return []
    names = map(os.fsdecode, answer.stdout.split(b"\0"))
    paths = [top / each for each in names if each and library_name(each) == name]
    dated = sorted(((_date(each), each) for each in paths), reverse=True)
    return [each for date, each in dated[:_MAX_FILES] if date]


def _date(path: Path) -> int:
    try:
        return path.stat().st_mtime_ns
    except OSError:
        return 0


def _small(elf: ELFFile) -> bool:
    sections = [each for each in elf.iter_sections() if each.name.startswith((".debug", ".zdebug"))]
    return all(each.data_size <= MAX_SECTION for each in sections)


def _ranges(elf: ELFFile, wanted: set[str]) -> Iterator[tuple[int, int, str]]:
    """Yield begin, end and name of the wanted functions; a name may have several parts."""
    seen = set()
    for name in (".symtab", ".dynsym"):
        table = elf.get_section_by_name(name)
        if not isinstance(table, SymbolTableSection):
            continue
        for symbol in table.iter_symbols():
            if symbol["st_info"]["type"] != "STT_FUNC" or not symbol["st_size"]:
                continue
            known = clean_name(demangle(symbol.name))
            place = (symbol["st_value"], symbol["st_value"] + symbol["st_size"], known)
            if known in wanted and place not in seen:
                seen.add(place)
                yield place


def _lines(elf: ELFFile, ranges: list[tuple[int, int, str]]) -> dict[str, Lines]:
    dwarf: Any = elf.get_dwarf_info()
    found: dict[str, dict[str, set[int]]] = {}
    for unit in dwarf.iter_CUs():
        program = dwarf.line_program_for_CU(unit)
        if program is None:
            continue
        folder = unit.get_top_DIE().attributes.get("DW_AT_comp_dir")
        base = os.fsdecode(folder.value) if folder else ""
        names: dict[int, str] = {}
        last: Any = None
        for entry in program.get_entries():
            state = entry.state
            if state is None:
                continue
            if last is not None and last.line:
                for begin, end, name in ranges:
                    if begin <= last.address < end or last.address < begin < state.address:
                        if last.file not in names:
                            names[last.file] = _file(program, last.file, base)
                        lines = found.setdefault(name, {}).setdefault(names[last.file], set())
                        lines.add(last.line)
            last = None if state.end_sequence else state
    return {
        name: {file: frozenset(lines) for file, lines in files.items()}
        for name, files in found.items()
    }


def _file(program: Any, number: int, base: str) -> str:  # noqa: ANN401 - pyelftools is untyped
    """Return the path of a line program's file; files and folders count from 0 since DWARF 5."""
    five = program["version"] >= _FIVE
    entry = program["file_entry"][number if five else number - 1]
    index = entry.dir_index if five else entry.dir_index - 1
    folder = "" if index < 0 else os.fsdecode(program["include_directory"][index])
    return os.path.normpath(Path(base, folder, os.fsdecode(entry.name)))


def _spot(changes: Changes, lines: Lines) -> Spot | None:
    """Return the first line of a function that the diff touched."""
    found: list[tuple[str, int]] = []
    for path, numbers in sorted(lines.items()):
        inside = os.path.relpath(path, changes.top) if path.startswith("/") else path
        change = changes.files.get(inside)
        hunks = change.hunks if change else ()
        found += [(inside, line) for hunk in hunks if (line := hunk.touches(numbers))]
    return Spot(Touch.CHANGED, *min(found)) if found else None
