"""Stage 4, pure: what a benchmark's processes say beside their stacks, both sides.

Metrics by process, latencies added up, and what the collector itself cost.
"""

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from statistics import median
from typing import Final

from ci_flame.profile import Histogram, Measurement, Process

_NUMBER: Final = re.compile(r"\d+(?:[.,]\d+)*")
PROGRAM: Final = "collector.bpf."
OWN_COST: Final = ("collector.lasting_percent", "collector.percent")
"""The first that was recorded is held against the limit."""


@dataclass(frozen=True, slots=True)
class Metric:
    """One figure, by process; empty on a side that did not record it."""

    name: str
    before: tuple[float, ...]
    after: tuple[float, ...]

    @property
    def value(self) -> float:
        """The benchmark's: the median over the processes of the after side."""
        return median(self.after)


@dataclass(frozen=True, slots=True)
class Program:
    """What one of the collector's BPF programs cost while windows were open (as in bpftop)."""

    name: str
    events_per_second: float
    average_ns: float
    percent: float
    """Of one CPU."""


@dataclass(frozen=True, slots=True)
class Figures:
    """Of one benchmark; histograms and programs are of all its processes together."""

    metrics: Mapping[str, Metric]
    """By name, sorted."""
    histograms: Mapping[str, tuple[Histogram, Histogram]]
    """Name -> latencies before and after; empty ones where a side has none."""
    programs: tuple[Program, ...]
    """Of the after side, dearest first."""

    def median(self, name: str) -> float | None:
        """Return the benchmark's value of one metric; None: not recorded."""
        metric = self.metrics.get(name)
        return None if metric is None or not metric.after else metric.value

    @property
    def own_cost_percent(self) -> float | None:
        """What the collector took of one CPU, on the side where it was more; None: unknown.

        What it takes once, when a program starts, is left out.
        """
        metric = next((self.metrics[name] for name in OWN_COST if name in self.metrics), None)
        sides = () if metric is None else (metric.before, metric.after)
        return max((median(each) for each in sides if each), default=None)


def figures(before: Measurement | None, after: Measurement) -> Figures:
    """Return the figures of a benchmark; without a before side that side is empty."""
    earlier = () if before is None else before.processes
    names = _names(earlier) | _names(after.processes)
    return Figures(
        {
            name: Metric(name, _values(earlier, name), _values(after.processes, name))
            for name in sorted(names)
        },
        {
            name: (_added(earlier, name), _added(after.processes, name))
            for name in sorted(
                {n for process in (*earlier, *after.processes) for n in process.histograms}
            )
        },
        _programs(after.processes),
    )


def collector_notes(measurement: Measurement, side: str) -> list[str]:
    """Return what the collector said of a side's processes; what differs in numbers only once.

    `before: 3 of 5 processes: 120 samples had no room in the map of stacks`.
    """
    said: dict[str, list[str]] = {}
    for process in measurement.processes:
        of_process = {_NUMBER.sub("0", note): note for note in process.notes}
        for alike, note in of_process.items():
            said.setdefault(alike, []).append(note)
    processes = len(measurement.processes)
    return [
        ": ".join(
            filter(
                None,
                (
                    side,
                    f"{len(notes)} of {processes} processes" if processes > 1 else "",
                    notes[0],
                ),
            )
        )
        for notes in said.values()
    ]


def _names(processes: Iterable[Process]) -> set[str]:
    return {name for process in processes for name in process.metrics}


def _values(processes: Iterable[Process], name: str) -> tuple[float, ...]:
    return tuple(process.metrics[name] for process in processes if name in process.metrics)


def _added(processes: Iterable[Process], name: str) -> Histogram:
    return sum(
        (each.histograms[name] for each in processes if name in each.histograms), Histogram({})
    )


def _programs(processes: Iterable[Process]) -> tuple[Program, ...]:
    ns: dict[str, float] = {}
    runs: dict[str, float] = {}
    wall_ns = 0
    for process in processes:
        wall_ns += sum(each.wall_ns for each in process.rounds)
        for key, value in process.metrics.items():
            name, dot, what = key.removeprefix(PROGRAM).rpartition(".")
            if not key.startswith(PROGRAM) or not dot or not name:
                continue
            if what == "ns":
                ns[name] = ns.get(name, 0.0) + value
            elif what == "runs":
                runs[name] = runs.get(name, 0.0) + value
    if not wall_ns:
        return ()
    made = [
        Program(
            name,
            runs.get(name, 0.0) * 1e9 / wall_ns,
            spent / runs[name] if runs.get(name) else 0.0,
            100 * spent / wall_ns,
        )
        for name, spent in ns.items()
    ]
    return tuple(sorted(made, key=lambda each: (-each.percent, each.name)))
