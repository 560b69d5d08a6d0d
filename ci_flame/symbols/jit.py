"""Stage 1, pure: what runtimes write about the code they made -> names by address.

    /tmp/perf-PID.map    START SIZE NAME, a line for each function, numbers in hex
    jit-PID.dump         the binary jitdump format, with the code itself

References: https://github.com/torvalds/linux/blob/v6.1/tools/perf/Documentation/jit-interface.txt
and jitdump-specification.txt.
"""

import re
import struct
from collections.abc import Iterable
from typing import Final

import numpy as np
import numpy.typing as npt

from ci_flame.errors import FormatError, UnrecognisedError

Words = npt.NDArray[np.uint64]

MAX_ENTRIES: Final = 5_000_000
MAX_NAME: Final = 4096
_LINE: Final = re.compile(
    rb"^(?:0x)?([0-9a-fA-F]{1,16}) (?:0x)?([0-9a-fA-F]{1,16}) (.+)$", re.MULTILINE
)
_OVERLAPS: Final = 8
"""How many functions before the nearest one may still reach over an address."""
_MAGIC: Final = 0x4A695444
_HEADER: Final = struct.Struct("<IIIIIIQQ")
_RECORD: Final = struct.Struct("<IIQ")
_LOAD: Final = struct.Struct("<IIQQQQ")
_MOVE: Final = struct.Struct("<IIQQQQQ")
_LOADED, _MOVED = 0, 1


class JitNames:
    """Functions by address; where two lie over each other, the one written later counts."""

    def __init__(self, entries: Iterable[tuple[int, int, str]]) -> None:
        rows = [(start, size, name) for start, size, name in entries if start + size <= 1 << 64]
        order = sorted(range(len(rows)), key=lambda number: rows[number][0])
        self._written = np.array(order, dtype=np.int64)
        self._start = np.array([rows[number][0] for number in order], dtype=np.uint64)
        self._end = np.array(
            [min(rows[number][0] + rows[number][1], 2**64 - 1) for number in order],
            dtype=np.uint64,
        )
        self._names = [name for _, _, name in rows]

    def __len__(self) -> int:
        return len(self._names)

    def find(self, addresses: Words) -> list[str]:
        """Return the name at each address; empty where there is none."""
        if not self._names:
            return [""] * len(addresses)
        nearest = np.searchsorted(self._start, addresses, side="right") - 1
        found = np.full(len(addresses), -1, dtype=np.int64)
        for before in range(_OVERLAPS):
            index = nearest - before
            covers = (index >= 0) & (addresses < self._end[index.clip(min=0)])
            later = covers & (self._written[index.clip(min=0)] > found)
            found[later] = self._written[index[later]]
        return [self._names[number] if number >= 0 else "" for number in found.tolist()]


def read_perf_map(data: bytes, source: str) -> JitNames:
    """Return the names of a /tmp/perf-PID.map; lines that are cut off are left out."""
    entries: list[tuple[int, int, str]] = []
    for found in _LINE.finditer(data):
        if len(entries) >= MAX_ENTRIES:
            raise FormatError(source, f"more than {MAX_ENTRIES} functions, the limit")
        start, size, name = found.groups()
        text = name[:MAX_NAME].decode(errors="replace").rstrip("\r")
        entries.append((int(start, 16), int(size, 16), text))
    return JitNames(entries)


def read_jitdump(data: bytes, source: str) -> JitNames:
    """Return the names of a jitdump; a last record that is cut off is left out.

    Raises UnrecognisedError where it is none, FormatError where it is broken.
    """
    if len(data) < _HEADER.size or _HEADER.unpack_from(data)[0] != _MAGIC:
        raise UnrecognisedError(f"{source}: not a jitdump of a little-endian machine")
    entries: list[tuple[int, int, str]] = []
    names: dict[int, str] = {}
    at = int(_HEADER.unpack_from(data)[2])
    while at + _RECORD.size <= len(data):
        kind, size, _ = _RECORD.unpack_from(data, at)
        if size < _RECORD.size:
            raise FormatError(source, f"a record of {size} bytes at offset {at}")
        body = data[at + _RECORD.size : at + size]
        if at + size > len(data):
            break
        if len(entries) >= MAX_ENTRIES:
            raise FormatError(source, f"more than {MAX_ENTRIES} functions, the limit")
        if kind == _LOADED and len(body) >= _LOAD.size:
            _, _, _, start, length, number = _LOAD.unpack_from(body)
            name = body[_LOAD.size : _LOAD.size + MAX_NAME].split(b"\0", 1)[0]
            names[number] = name.decode(errors="replace")
            entries.append((start, length, names[number]))
        elif kind == _MOVED and len(body) >= _MOVE.size:
            _, _, _, _, start, length, number = _MOVE.unpack_from(body)
            if number in names:
                entries.append((start, length, names[number]))
        at += size
    return JitNames(entries)
