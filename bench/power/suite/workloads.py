"""The workloads: named functions that each do a told number of units of work.

    iteration ─ f05(20) f10(40) f15(60) f30(120) rest_a(80) rest_b(80)      400 units, "spread"
              └ f60(240) f15(60) f10(40) f05(20) rest_a(40)                 "dominant"

Growth is planted by exact units: 48 instead of 40 in `f10` is +20 % of that function and of
nothing else. The functions of a workload are copies of one loop under different names, so a unit
costs the same in each of them, and a function's share of the benchmark is its share of the units;
only in `mixed` do they differ in kind, and are calibrated to about the same cost.
"""

import os
import random
import re
import time
import zlib
from collections.abc import Callable, Mapping
from pathlib import Path
from types import FunctionType
from typing import Any, Final

Work = Callable[[int], object]
"""Do so many units."""

SHAPES: Final[Mapping[str, Mapping[str, int]]] = {
    "spread": {"f30": 120, "f15": 60, "f10": 40, "f05": 20, "rest_a": 80, "rest_b": 80},
    "dominant": {"f60": 240, "f15": 60, "f10": 40, "f05": 20, "rest_a": 40},
}
"""Units of each function in one iteration, in percent x 4."""
NAMES: Final = ("f60", "f30", "f15", "f10", "f05", "rest_a", "rest_b")
RENAMED: Final = "_renamed"
TICK_S: Final = 0.001
TICKS: Final = 20


def named(work: Callable[..., object], name: str) -> Callable[..., object]:
    """Return a copy of the function under another name: profilers see `workloads:NAME`."""
    code = work.__code__.replace(co_name=name, co_qualname=name)
    return FunctionType(code, work.__globals__, name, work.__defaults__, work.__closure__)


def named_alike(work: Work) -> dict[str, Work]:
    """Return copies of one function under all names."""
    every = (*NAMES, *(name + RENAMED for name in NAMES))
    return {name: named(work, name) for name in every}


# -- one unit each: 10 to 20 us, or one small document of a library ----------------------------


def _core(units: int) -> int:
    total = 1
    for _ in range(units):
        for i in range(280):
            total = (total * 31 + i) & 0xFFFFFFF
    return total


def _texts(units: int) -> int:
    table: dict[str, int] = {}
    for _ in range(units):
        for i in range(72):
            word = "k%d" % (i * 7 % 23)  # noqa: UP031 - as much of it is written
            table[word] = table.get(word, 0) + len(word)
    return len(table)


def _kernel(units: int) -> int:
    total = 0
    for _ in range(units):
        for _ in range(8):
            total += os.stat("/usr").st_mode & 1  # noqa: PTH116 - a Path would measure pathlib
    return total


class _Scattered:
    """300,000 objects in an order that has nothing to do with where they lie."""

    def __init__(self) -> None:
        rows = [{"at": i} for i in range(300_000)]
        random.Random(7).shuffle(rows)  # noqa: S311 - an order, not a secret
        self.rows = rows
        self.position = 0


def _walk(units: int, scattered: _Scattered) -> int:
    total = 0
    rows = scattered.rows
    for _ in range(units):
        start = scattered.position
        scattered.position = (start + 48) % 299_952
        for row in rows[start : start + 48]:
            total += row["at"]
    return total


def _documents(convert: Callable[[str], object], document: str) -> dict[str, Work]:
    def render(units: int) -> None:
        for _ in range(units):
            convert(document)

    return named_alike(render)


# -- mixed: functions of different kinds --------------------------------------------------------

_PROSE: Final = "the quick brown fox jumps over the lazy dog; pack my box with five jugs. " * 4
_LETTERS: Final = bytes(random.Random(5).choices(b"abcdefgh", k=1200))  # noqa: S311 - as fixed as text
_WORD: Final = re.compile(r"[a-z]+(?=[ ;.])")


def _zip(units: int) -> int:
    size = 0
    for _ in range(units):
        size += len(zlib.compress(_LETTERS, 1))
    return size


def _find(units: int) -> int:
    found = 0
    text = _PROSE * 3
    for _ in range(units):
        found += len(_WORD.findall(text))
    return found


def _sort(units: int) -> int:
    last = 0
    for _ in range(units):
        last += sum(sorted(i * 7_919 % 461 for i in range(270))[:2])
    return last


def _sets(units: int) -> int:
    size = 0
    for _ in range(units):
        size += len({str(i * 37 % 61) for i in range(155)})
    return size


def _mixed() -> dict[str, Work]:
    kinds = {
        "f60": _core, "f30": _zip, "f15": _sort, "f10": _sets, "f05": _texts,
        "rest_a": _find, "rest_b": _core,
    }  # fmt: skip
    return {
        name: named(kinds[name.removesuffix(RENAMED)], name)
        for each in NAMES
        for name in (each, each + RENAMED)
    }


# -- what is benchmarked ------------------------------------------------------------------------


class Paced:
    """The iteration of a loop that wakes a thousand times a second, as a game or a poller does."""

    def __init__(self, work: Mapping[str, Work], counts: Mapping[str, int]) -> None:
        self.work = work
        self.counts = counts

    def __call__(self) -> None:
        """Run 20 ticks of 1 ms; a tick that comes late starts at once."""
        due = time.perf_counter()
        for tick in range(TICKS):
            for name, units in self.counts.items():
                self.work[name](units // TICKS + (tick < units % TICKS))
            due += TICK_S
            left = due - time.perf_counter()
            if left > 0:
                time.sleep(left)


class Plain:
    """The iteration of an ordinary benchmark: every function once."""

    def __init__(self, work: Mapping[str, Work], counts: Mapping[str, int]) -> None:
        self.work = work
        self.counts = counts

    def __call__(self) -> None:
        """Run each function with its units."""
        for name, units in self.counts.items():
            self.work[name](units)


def _memory() -> dict[str, Work]:
    scattered = (_Scattered(),)
    # The objects are a default argument, so that the loop itself carries the names.
    return named_alike(FunctionType(_walk.__code__, globals(), "walk", scattered))


def _sqlparse() -> dict[str, Work]:
    from sqlparse import lexer  # noqa: PLC0415 - where the lists of workloads are read, it may lack

    def convert(text: str) -> object:
        return list(lexer.tokenize(text))

    return _documents(convert, "select a, b from t where c = 1")


def _mistune() -> dict[str, Work]:
    import mistune  # noqa: PLC0415 - as above

    return _documents(mistune.create_markdown(), "a *b* `c` [d](e)")


WORKLOADS: Final[Mapping[str, tuple[str, str, Callable[[], dict[str, Work]]]]] = {
    "core": ("spread", "core-bound: an integer loop", lambda: named_alike(_core)),
    "memory": ("spread", "memory-bound: 300,000 scattered dictionaries", _memory),
    "mixed": ("spread", "integers, zlib, sorting, sets, dictionaries, regex", _mixed),
    "paced": ("spread", "a loop paced at 1 kHz", lambda: named_alike(_core)),
    "dominant": (
        "dominant",
        "one function of 60 %: text and tables",
        lambda: named_alike(_texts),
    ),
    "kernel": ("spread", "system calls", lambda: named_alike(_kernel)),
    "sqlparse": ("spread", "sqlparse 0.6.1: lexing", _sqlparse),
    "mistune": ("spread", "mistune 3.4.0: Markdown to HTML", _mistune),
}
"""Name -> its own shape, what it is, and its functions."""


def build(name: str, counts: Mapping[str, int]) -> Callable[[], None]:
    """Return the iteration of a workload with these units per function."""
    _shape, _words, make = WORKLOADS[name]
    work: Mapping[str, Any] = make()
    return (Paced if name == "paced" else Plain)(work, dict(counts))


def plan_of(file: Path) -> dict[str, dict[str, int]]:
    """Read workload -> function -> units."""
    import json  # noqa: PLC0415 - not one more module in the measured process than needed

    told: dict[str, dict[str, int]] = json.loads(file.read_text(encoding="utf-8"))
    return told
