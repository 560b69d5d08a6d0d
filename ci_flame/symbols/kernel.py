"""Stage 1, edge: kernel addresses -> symbols, by /proc/kallsyms."""

import bisect
import re
from collections.abc import Iterable
from pathlib import Path
from typing import Final

_CLONE: Final = re.compile(r"\.(?:isra|constprop|part|cold|llvm)\b.*$")


class KernelNames:
    """Function symbols of the running kernel and its modules, sorted by address."""

    def __init__(self, lines: Iterable[str]) -> None:
        symbols: list[tuple[int, tuple[bool, bool, int, int], str]] = []
        for line in lines:
            fields = line.split(None, 3)
            if len(fields) >= 3 and fields[1] in "tTwW":  # noqa: PLR2004 - address, kind, name
                symbols.append((int(fields[0], 16), _preference(fields[1], fields[2]), fields[2]))
        symbols.sort()
        # Where several begin at one address, the last one is what perf would show.
        self._addresses = [address for address, _, _ in symbols]
        self._names = [name for _, _, name in symbols]
        self._by_name: dict[str, int] | None = None

    @classmethod
    def of_this_machine(cls) -> "KernelNames":
        """Read /proc/kallsyms; without cap_syslog it holds zeros and every name is unknown."""
        try:
            with Path("/proc/kallsyms").open() as lines:
                return cls(lines)
        except OSError:
            return cls(())

    def name(self, address: int) -> str:
        """Return the symbol that an address lies in, or `[unknown]`."""
        index = bisect.bisect_right(self._addresses, address) - 1
        if index < 0 or not self._addresses[index]:
            return "[unknown]"
        return _CLONE.sub("", self._names[index])

    def address(self, name: str) -> int | None:
        """Return where a function begins; None where it is not known or hidden."""
        if self._by_name is None:
            self._by_name = dict(zip(self._names, self._addresses, strict=True))
        return self._by_name.get(name) or None


def _preference(kind: str, name: str) -> tuple[bool, bool, int, int]:
    """Order aliases as perf does: strong, global, few underscores before the name, long."""
    return kind not in "wW", kind == "T", len(name.lstrip("_")) - len(name), len(name)
