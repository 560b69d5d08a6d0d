"""Stage 1, edge: kernel addresses -> symbols, by /proc/kallsyms.

    ffffffff81000000 T _text
    ffffffffc0312000 t ext4_writepages      [ext4]

A kernel has 200,000 of them and a profile meets a thousand: addresses are read as columns,
names where they are asked for.
"""

import re
from collections.abc import Iterable
from pathlib import Path
from typing import Final

import numpy as np
import numpy.typing as npt

_CLONE: Final = re.compile(r"\.(?:isra|constprop|part|cold|llvm)\b.*$")
_DIGITS: Final = 16
_KIND_AT: Final = _DIGITS + 1
_NAME_AT: Final = _KIND_AT + 2
_AT_ONCE: Final = 8192
_BYTES_AT_ONCE: Final = 1 << 18
"""Lines and bytes that are looked at together: more would cost memory and save no time."""
_FUNCTIONS: Final = np.frombuffer(b"tTwW", dtype=np.uint8)
_PLACES: Final = np.uint64(1) << np.arange(60, -4, -4, dtype=np.uint64)


def _addresses(
    text: npt.NDArray[np.uint8], starts: npt.NDArray[np.int64]
) -> npt.NDArray[np.uint64]:
    """Return the numbers that lines beginning there begin with."""
    digits = text[starts[:, None] + np.arange(_DIGITS)]
    # `0` to `9` are 0x30 on, `a` to `f` 0x61 on.
    values = (digits & 15) + (digits > ord("9")) * np.uint8(9)
    numbers: npt.NDArray[np.uint64] = values.astype(np.uint64) @ _PLACES
    return numbers


class KernelNames:
    """Function symbols of the running kernel and its modules, sorted by address."""

    def __init__(self, lines: bytes | Iterable[str]) -> None:
        """Take the content of /proc/kallsyms; lines that are not as its lines are left out."""
        self._text = lines if isinstance(lines, bytes) else "".join(lines).encode()
        text = np.frombuffer(self._text, dtype=np.uint8)
        ends = np.concatenate(
            [
                np.nonzero(text[at : at + _BYTES_AT_ONCE] == ord("\n"))[0] + at
                for at in range(0, max(len(text), 1), _BYTES_AT_ONCE)
            ]
        )
        starts = np.append(0, ends + 1)
        ends = np.append(ends, len(text))
        long_enough = ends - starts > _NAME_AT
        starts = starts[long_enough]
        starts = starts[np.isin(text[starts + _KIND_AT], _FUNCTIONS)]
        addresses = np.concatenate(
            [_addresses(text, starts[at : at + _AT_ONCE]) for at in range(0, len(starts), _AT_ONCE)]
            or [np.empty(0, dtype=np.uint64)]
        )
        # Where several begin at one address, perf shows the one that is listed last.
        order = np.argsort(addresses, kind="stable")
        self._addresses: npt.NDArray[np.uint64] = addresses[order]
        self._starts = starts[order]
        self._names: dict[int, str] = {}

    @classmethod
    def of_this_machine(cls) -> "KernelNames":
        """Read /proc/kallsyms; without cap_syslog it holds zeros and every name is unknown."""
        try:
            return cls(Path("/proc/kallsyms").read_bytes())
        except OSError:
            return cls(b"")

    def name(self, address: int) -> str:
        """Return the symbol that an address lies in, or `[unknown]`."""
        return self.find(np.array([address], dtype=np.uint64))[0]

    def find(self, addresses: npt.NDArray[np.uint64]) -> list[str]:
        """Return the symbol that each address lies in, or `[unknown]`."""
        found = np.searchsorted(self._addresses, addresses, side="right") - 1
        return [self._name(index) for index in found.tolist()]

    def _name(self, index: int) -> str:
        if index < 0 or not self._addresses[index]:
            return "[unknown]"
        known = self._names.get(index)
        if known is None:
            start = int(self._starts[index]) + _NAME_AT
            name = self._text[start : self._text.find(b"\n", start) % (len(self._text) + 1)]
            known = _CLONE.sub("", name.split(None, 1)[0].decode(errors="replace"))
            self._names[index] = known
        return known

    def address(self, name: str) -> int | None:
        """Return where a function begins; None where it is not known or hidden."""
        letter = re.escape(name.encode())
        found = re.search(
            rb"^([0-9a-f]{16}) [tTwW] " + letter + rb"(?=\s|$)", self._text, re.MULTILINE
        )
        return (int(found[1], 16) or None) if found else None
