"""Stage 1, edge: user addresses -> (library, symbol), by a snapshot of the process's mappings.

The snapshot outlives the process, so that names are found for targets that have ended.
"""

import bisect
import re
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from ci_flame.formats.foreign import library_name
from ci_flame.symbols.elf import Elf, read_elf

__all__ = [
    "UNKNOWN",
    "AddressSpace",
    "Mapping",
    "NativeNames",
    "library_name",
    "parse_maps",
    "read_maps",
]

UNKNOWN: Final = "[unknown]"
_MAPPING: Final = re.compile(
    r"^([0-9a-f]+)-([0-9a-f]+) (\S{4}) ([0-9a-f]+) \S+ (\d+) *(.*)$", re.MULTILINE
)


@dataclass(frozen=True, slots=True, order=True)
class Mapping:
    """One line of /proc/PID/maps."""

    start: int
    end: int
    protection: str
    offset: int
    inode: int
    path: str


def parse_maps(text: str) -> tuple[Mapping, ...]:
    """Return the mappings of a /proc/PID/maps text, by address."""
    return tuple(
        Mapping(int(lo, 16), int(hi, 16), how, int(offset, 16), int(inode), path)
        for lo, hi, how, offset, inode, path in _MAPPING.findall(text)
    )


def read_maps(pid: int) -> tuple[Mapping, ...]:
    """Return a process's mappings; empty if it is gone."""
    try:
        # Bytes of a file name that are no UTF-8 survive as surrogates.
        text = Path(f"/proc/{pid}/maps").read_text(errors="surrogateescape")
    except OSError:
        return ()
    return parse_maps(text)


@dataclass(slots=True)
class AddressSpace:
    """The executable mappings of one program image."""

    mappings: tuple[Mapping, ...] = ()
    _starts: list[int] = field(default_factory=list)

    def update(self, mappings: tuple[Mapping, ...]) -> None:
        """Take a newer snapshot; an empty one (the process is gone) changes nothing."""
        if mappings:
            self.mappings = tuple(m for m in mappings if "x" in m.protection)
            self._starts = [m.start for m in self.mappings]

    def find(self, address: int) -> Mapping | None:
        """Return the executable mapping that holds an address."""
        index = bisect.bisect_right(self._starts, address) - 1
        if index >= 0 and address < self.mappings[index].end:
            return self.mappings[index]
        return None


class NativeNames:
    """Names addresses, reading each file once."""

    def __init__(self) -> None:
        self._files: dict[tuple[str, int], Elf | None] = {}

    def elf(self, mapping: Mapping, pid: int) -> Elf | None:
        """Return the symbols of a mapped file, as the process sees it or as we do."""
        key = (mapping.path, mapping.inode)
        if key not in self._files:
            seen_by_process = Path(f"/proc/{pid}/root") / mapping.path.lstrip("/")
            found = read_elf(seen_by_process) if pid else None
            self._files[key] = found or read_elf(Path(mapping.path))
        return self._files[key]

    def name(self, space: AddressSpace, address: int, pid: int) -> tuple[str, str]:
        """Return (library, symbol) of a user address."""
        mapping = space.find(address)
        if mapping is None:
            return UNKNOWN, UNKNOWN
        if not mapping.path.startswith("/"):
            return mapping.path or "[anon]", UNKNOWN
        elf = self.elf(mapping, pid)
        symbol = elf.function(address - mapping.start + mapping.offset) if elf else ""
        return library_name(mapping.path), symbol.replace(";", ",") or UNKNOWN
