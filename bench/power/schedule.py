"""What is recorded, in which order: pure, endless, and the same whenever it is asked.

    unit ─ 5 processes before, 5 after, all workloads in each ─ one comparison per workload
    (`goal30`: 15 and 15, because a side of 30 s is told best by many processes)

Kinds of units are mixed so that every prefix of the schedule holds them in the wanted proportion:
an interrupted campaign is a smaller campaign, not half of one.
"""

from collections.abc import Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from itertools import islice
from typing import Final

from ci_flame.record.alternating import order

WORKLOADS: Final = (
    "core", "memory", "mixed", "paced", "dominant", "kernel", "sqlparse", "mistune",
)  # fmt: skip
PROCESSES: Final = 5
QUICK_S: Final = 0.4
LAG: Final = 3
"""Units that are recorded between the sides of a comparison with a stored baseline."""

SPREAD: Final[Mapping[str, int]] = {
    "f30": 120, "f15": 60, "f10": 40, "f05": 20, "rest_a": 80, "rest_b": 80,
}  # fmt: skip
DOMINANT: Final[Mapping[str, int]] = {"f60": 240, "f15": 60, "f10": 40, "f05": 20, "rest_a": 40}
SHARES: Final = {"f60": 0.60, "f30": 0.30, "f15": 0.15, "f10": 0.10, "f05": 0.05}


@dataclass(frozen=True, slots=True)
class Variant:
    """What the after side of one workload does differently."""

    kind: str = "same"
    """`same`, `growth`, `masked` (an equal saving elsewhere), `renamed`, `uniform`."""
    function: str = ""
    percent: int = 0
    shape: str = ""
    """`spread` or `dominant`; empty: the workload's own."""

    def counts(self, workload: str) -> tuple[dict[str, int], dict[str, int]]:
        """Return the units of each function, before and after."""
        shape = self.shape or ("dominant" if workload == "dominant" else "spread")
        before = dict(DOMINANT if shape == "dominant" else SPREAD)
        after = dict(before)
        if self.kind == "uniform":
            after = {name: exactly(units, self.percent) for name, units in before.items()}
        elif self.kind == "renamed":
            after = {
                name + ("_renamed" if name == self.function else ""): units
                for name, units in before.items()
            }
        elif self.kind in {"growth", "masked"}:
            after[self.function] = exactly(before[self.function], self.percent)
            if self.kind == "masked":
                # By the largest other function, which pays with the smallest part of itself.
                pays = max((n for n in before if n != self.function), key=before.__getitem__)
                after[pays] -= after[self.function] - before[self.function]
        return before, after


def exactly(units: int, percent: int) -> int:
    """Return the units grown by so many percent; ValueError where that is not a whole number."""
    more, rest = divmod(units * percent, 100)
    if rest:
        raise ValueError(f"{units} units cannot grow by {percent} % exactly")
    return units + more


@dataclass(frozen=True, slots=True)
class Unit:
    """Processes of both sides that are compared with each other."""

    number: int
    kind: str
    """Key of `KINDS`."""
    nth: int
    """Of its kind, from 0; 2 n and 2 n + 1 are alike but for `same`: one may confirm the other."""
    seconds: float
    """Of each process and workload; times the processes it is a side."""
    condition: str
    """Of `CONDITIONS`: `quiet`, `hog` (a CPU hog beside both sides), `hog-after` (after only)."""
    mode: str
    """`rerun`: sides in random order; `stored`: all before processes, other units, all after."""
    processes: int
    """Of a side."""
    variants: Mapping[str, Variant]


@dataclass(frozen=True, slots=True)
class Kind:
    """How units of one kind are made."""

    wanted: int
    """In a whole campaign."""
    seconds: float
    processes: int = 0
    """Of a side; 0: `PROCESSES`."""


KINDS: Final[Mapping[str, Kind]] = {
    "same": Kind(80, 0.6),
    "goal15": Kind(8, 3.0),
    "goal30": Kind(6, 2.0, 15),
    "uniform": Kind(8, 2.0),
    "large": Kind(8, 1.0),
    "curve": Kind(8, 2.0),
    "renamed": Kind(2, 2.0),
}
"""`goal15`: f10 +20 %, plain and masked, 15 s a side; `goal30`: f10 +10 %, 30 s; `large`: f60
+30 %, 5 s; `curve`: other shares and growths."""
LONGER: Final = 5
DEFAULT_S: Final = 2.0
"""One of so many same-code units is recorded for as long as the plugin records by default."""
CONDITIONS: Final = ("quiet", "hog", "hog-after")
_SAME: Final = (("quiet", "rerun"), ("hog", "rerun"), ("quiet", "stored"), ("hog-after", "stored"))
_GOAL: Final = ("growth", "masked")
_CURVE: Final = (
    ("f05", 20), ("f15", 10), ("f30", 10), ("f05", 30), ("f15", 20), ("f30", 20), ("f60", 10),
    ("f30", 5),
)  # fmt: skip


def make(number: int, kind: str, nth: int) -> Unit:
    """Return one unit."""
    pair = nth // 2
    condition, mode, seconds = "quiet", "rerun", KINDS[kind].seconds
    if kind == "same":
        condition, mode = _SAME[nth % 4]
        seconds = DEFAULT_S if nth % LONGER == LONGER - 1 else seconds
    elif kind == "uniform":
        condition, mode = ("quiet", "stored" if pair % 2 else "rerun")
    elif pair % 4 == 3:  # noqa: PLR2004 - one pair of four is recorded beside the hog
        condition = "hog"
    variants = {name: _variant(kind, pair, at) for at, name in enumerate(WORKLOADS)}
    processes = KINDS[kind].processes or PROCESSES
    return Unit(number, kind, nth, seconds, condition, mode, processes, variants)


def _variant(kind: str, pair: int, at: int) -> Variant:
    match kind:
        case "goal15" | "goal30":
            return Variant(_GOAL[(pair + at) % 2], "f10", 20 if kind == "goal15" else 10)
        case "uniform":
            return Variant("uniform", "", 10)
        case "large":
            return Variant("growth", "f60", 30, "dominant")
        case "curve":
            function, percent = _CURVE[(pair + at) % len(_CURVE)]
            shape = "dominant" if function == "f60" or WORKLOADS[at] == "dominant" else "spread"
            if shape == "dominant" and function not in DOMINANT:
                function = "f15"
            return Variant("growth", function, percent, shape)
        case "renamed":
            return Variant("renamed", ("f10", "rest_a")[pair % 2])
        case _:
            return Variant()


def units() -> Iterator[Unit]:
    """Yield the units, endlessly; pairs of a kind follow each other within it."""
    done = dict.fromkeys(KINDS, 0)
    number = 0
    while True:
        kind = min(KINDS, key=lambda name: (done[name] + 0.5) / KINDS[name].wanted)
        yield make(number, kind, done[kind])
        done[kind] += 1
        number += 1


@dataclass(frozen=True, slots=True)
class Part:
    """Which units of a campaign are recorded first: those of these kinds and conditions."""

    kinds: Collection[str] = ()
    conditions: Collection[str] = ()

    def of_units(self, made: Iterable[Unit]) -> Iterator[Unit]:
        """Yield the units that are in it; what names nothing leaves nothing out."""
        for unit in made:
            kind = not self.kinds or unit.kind in self.kinds
            if kind and (not self.conditions or unit.condition in self.conditions):
                yield unit


def quick() -> Iterator[Unit]:
    """Yield the two units of the smoke version: the same code, and f60 +30 %."""
    for number, kind in enumerate(("same", "large")):
        yield replace(make(number, kind, 0), seconds=QUICK_S)


def campaign() -> int:
    """Return the number of units of a whole campaign."""
    return sum(kind.wanted for kind in KINDS.values())


@dataclass(frozen=True, slots=True)
class Share:
    """Every `of`-th of the wanted units: what one of several recorders records of them."""

    which: int
    """From 1."""
    of: int

    def of_units(self, made: Iterable[Unit]) -> Iterator[Unit]:
        """Yield the units that are in it."""
        return islice(made, self.which - 1, None, self.of)

    @property
    def lock(self) -> str:
        """Name of the file that is locked while it is recorded; empty: the whole campaign's."""
        return "" if self.of == 1 else f"lock-{self.which}-of-{self.of}"

    @classmethod
    def parse(cls, text: str) -> "Share":
        """Read `1/2`; ValueError for anything else."""
        which, slash, of = text.partition("/")
        numbers = [int(each) if each.isascii() and each.isdecimal() else 0 for each in (which, of)]
        if not slash or not 1 <= numbers[0] <= numbers[1]:
            raise ValueError(f"{text!r} is no share: 1/2 and 2/2 are the two halves")
        return cls(*numbers)


WHOLE: Final = Share(1, 1)
ALL: Final = Part()


@dataclass(frozen=True, slots=True)
class Task:
    """One process to record."""

    unit: Unit
    side: str
    index: int

    @property
    def name(self) -> str:
        """`before-0`, as its file is called."""
        return f"{self.side}-{self.index}"

    @property
    def hog(self) -> bool:
        """Whether a CPU hog runs beside it."""
        condition = self.unit.condition
        return condition == "hog" or (condition == "hog-after" and self.side.endswith("after"))


def tasks(made: Iterator[Unit]) -> Iterator[Task]:
    """Yield the processes in the order in which they are recorded."""
    waiting: dict[int, Unit] = {}
    for at, unit in enumerate(made):
        if unit.mode == "stored":
            yield from (Task(unit, "before", index) for index in range(unit.processes))
            waiting[at] = unit
        else:
            yield from interleaved(unit)
        for each in [before for before in waiting if before + LAG <= at]:
            stored = waiting.pop(each)
            yield from (Task(stored, "after", index) for index in range(stored.processes))
    for each in waiting.values():
        yield from (Task(each, "after", index) for index in range(each.processes))


def sides(unit: Unit) -> dict[str, list[Task]]:
    """Return the processes of both sides, `before` and `after`."""
    return {
        side: [Task(unit, side, index) for index in range(unit.processes)]
        for side in ("before", "after")
    }


def confirming(unit: Unit, workload: str) -> list[Task]:
    """Return the processes of a second recording: both sides, or after a stored baseline one."""
    both = list(interleaved(unit, f"confirm-{workload}-"))
    return both if unit.mode == "rerun" else [task for task in both if "after" in task.side]


def interleaved(unit: Unit, prefix: str = "") -> Iterator[Task]:
    """Yield both sides' processes in the random order of a rerun."""
    counted = {"before": 0, "after": 0}
    for side in order(unit.processes, unit.processes, f"power {unit.number}{prefix}"):
        yield Task(unit, prefix + side, counted[side])
        counted[side] += 1


def expected_s(unit: Unit, workloads: int = len(WORKLOADS)) -> float:
    """Return about how long one process of the unit takes on a quiet machine."""
    return START_S + workloads * (unit.seconds * REFERENCES + WARM_UP_S)


START_S: Final = 2.4
REFERENCES: Final = 1.45
"""Wall time of the rounds with their reference work, over the seconds asked for."""
WARM_UP_S: Final = 0.15
