"""Rows -> tables, one for each question: pure."""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from collections.abc import Set as AbstractSet
from dataclasses import dataclass
from functools import partial
from math import inf
from typing import Any, Final

from bench.power.compare import LIMITS, Row, failed
from bench.power.peers import NAMES
from bench.power.schedule import WORKLOADS
from bench.power.statistics import lower, power, upper
from bench.power.table import Table, percent, rate
from ci_flame.verdict import Outcome

EDGES: Final = (250, 500, 1000, 2000, 4000, 8000, 16000, 64000)
"""Of the bins of k, samples in the function a side."""

LOADS: Final = (
    ("load under 1.5", 0.0, 1.5), ("load 1.5 to 3", 1.5, 3.0), ("load of 3 and more", 3.0, inf),
)  # fmt: skip
"""Load of one minute: the benchmark itself is 1 of it, the hog another."""


# -- false failures -----------------------------------------------------------------------------


def same(rows: Iterable[Row]) -> list[Row]:
    """Return the comparisons of the same code, each recording once."""
    return [row for row in rows if row.kind == "same"]


def after_confirming(row: Row, limit: int) -> bool:
    """Tell whether it failed in the end; what was not recorded again counts as failed."""
    if not failed(row.verdicts[str(limit)]):
        return False
    again = row.confirmed.get(str(limit))
    return again is None or failed(again)


def false_failures(rows: Sequence[Row]) -> Table:
    """Return how often the same code failed."""
    kept = same(rows)
    groups: list[tuple[str, list[Row]]] = [
        (f"{condition}, {mode}", [r for r in kept if (r.condition, r.mode) == (condition, mode)])
        for condition, mode in dict.fromkeys((r.condition, r.mode) for r in kept)
    ]
    groups += [(name, [r for r in kept if low <= r.load < high]) for name, low, high in LOADS]
    groups += [(name, [r for r in kept if r.workload == name]) for name in WORKLOADS]
    groups += [
        (f"{seconds:g} s a side", [r for r in kept if r.seconds == seconds])
        for seconds in sorted({r.seconds for r in kept})
    ]
    groups.append(("**all**", kept))
    lines = []
    for name, chosen in groups:
        if not chosen:
            continue
        cells = []
        for limit in LIMITS:
            first = sum(failed(row.verdicts[str(limit)]) for row in chosen)
            end = sum(after_confirming(row, limit) for row in chosen)
            cells.append(f"{first} → {end} (≤ {percent(upper(end, len(chosen)))})")
        unclear = sum(inconclusive(row) for row in chosen)
        delay = sum(row.delay for row in chosen) / len(chosen)
        lines.append((name, str(len(chosen)), *cells[::-1], str(unclear), percent(delay)))
    head = (
        "same code", "comparisons", *(f"limit {limit} %" for limit in LIMITS[::-1]),
        "inconclusive", "waited for a CPU",
    )  # fmt: skip
    return Table(head, tuple(lines))


def inconclusive(row: Row) -> bool:
    """Tell whether the gate gave no verdict."""
    return row.verdicts["10"].outcome == Outcome.INCONCLUSIVE


# -- power ----------------------------------------------------------------------------------------


def pairs(rows: Sequence[Row]) -> list[tuple[Row, Row]]:
    """Return the comparisons that were recorded alike in two units: a first look and a second."""
    found: dict[tuple[Any, ...], Row] = {
        (row.kind, row.nth, row.workload, row.seconds): row for row in rows
    }
    made = []
    for (kind, nth, workload, seconds), row in found.items():
        other = found.get((kind, nth ^ 1, workload, seconds))
        if nth % 2 == 0 and other is not None:
            made.append((row, other))
    return made


def found(row: Row, limit: int) -> bool:
    """Tell whether the build failed and named the function that grew."""
    judged = row.verdicts[str(limit)]
    return failed(judged) and judged.right


@dataclass(frozen=True, slots=True)
class Goal:
    """One promise, as the project states it."""

    words: str
    limit: int
    least: float
    chosen: Callable[[Row], bool]


GROWTH: Final = frozenset({"growth"})
MASKED: Final = frozenset({"masked"})


def _is(row: Row, kinds: AbstractSet[str], percent_: int, function: str, seconds: float) -> bool:
    variant = row.variant
    return (
        variant.get("kind") in kinds
        and variant.get("percent") == percent_
        and variant.get("function", "") == function
        and row.seconds == seconds
    )


def _planted(function: str, percent_: int, seconds: float) -> tuple[Callable[[Row], bool], ...]:
    return tuple(
        partial(_is, kinds=kinds, percent_=percent_, function=function, seconds=seconds)
        for kinds in (GROWTH | MASKED, GROWTH, MASKED)
    )


def _all() -> Iterator[Goal]:
    for words, limit, planted in (
        ("10 %, +20 %, 10 %, 15 s", 10, _planted("f10", 20, 15)),
        ("5 %, +10 %, 10 %, 30 s", 5, _planted("f10", 10, 30)),
    ):
        for more, chosen in zip(("", ", not masked", ", masked"), planted, strict=True):
            yield Goal(words + more, limit, 0.95, chosen)
    yield Goal(
        "10 %, +30 %, 60 %, 5 s", 10, 0.99,
        lambda row: _is(row, GROWTH, 30, "f60", 5) and row.kind == "large",
    )  # fmt: skip
    uniform = partial(_is, kinds=frozenset({"uniform"}), percent_=10, function="", seconds=10)
    yield Goal(
        "5 %, uniform +10 %, 10 s, rerun", 5, 0.95,
        lambda row: uniform(row) and row.mode == "rerun",
    )  # fmt: skip
    yield Goal(
        "5 %, uniform +10 %, 10 s, stored baseline", 5, 0.90,
        lambda row: uniform(row) and row.mode == "stored",
    )  # fmt: skip


GOALS: Final = tuple(_all())


def goals(rows: Sequence[Row]) -> Table:
    """Return power by goal: in the first look, and failing twice as a build must."""
    lines = []
    for goal in GOALS:
        chosen = [row for row in rows if goal.chosen(row)]
        twice = [(one, other) for one, other in pairs(chosen)]
        if not chosen:
            lines.append((goal.words, percent(goal.least), "not recorded", "", "", ""))
            continue
        first = sum(found(row, goal.limit) for row in chosen)
        both = sum(found(one, goal.limit) and found(other, goal.limit) for one, other in twice)
        named = f"{percent(lower(first, len(chosen)))} to {percent(upper(first, len(chosen)))}"
        samples = sorted(row.samples for row in chosen)
        middle = f"{samples[len(samples) // 2]:,.0f}" if samples[-1] else "-"
        lines.append(
            (goal.words, percent(goal.least), rate(first, len(chosen)), named,
             rate(both, len(twice)), middle)
        )  # fmt: skip
    head = (
        "limit, growth, share, seconds a side", "goal", "found at first look",
        "one-sided 95 % ends", "found twice", "samples k (median)",
    )  # fmt: skip
    return Table(head, tuple(lines))


def names_the_benchmark(row: Row, limit: int) -> bool:
    """Tell whether what failed is the benchmark as a whole."""
    return found(row, limit) and "the benchmark itself grew" in row.verdicts[str(limit)].sentence


def innocents(rows: Sequence[Row]) -> Table:
    """Return how often a build with a guilty function also accused an innocent one."""
    chosen = [row for row in rows if row.variant.get("kind") in {"growth", "masked"}]
    lines = []
    for limit in LIMITS[::-1]:
        whole = longest(chosen)
        accused = [row for row in whole if row.verdicts[str(limit)].innocent]
        both = sum(
            bool(one.verdicts[str(limit)].innocent) and bool(other.verdicts[str(limit)].innocent)
            for one, other in pairs(whole)
        )
        lines.append(
            (f"{limit} %", rate(len(accused), len(whole)),
             percent(upper(len(accused), len(whole))) if whole else "-",
             rate(both, len(pairs(whole))))
        )  # fmt: skip
    return Table(("limit", "accused at first look", "upper end", "accused twice"), tuple(lines))


def longest(rows: Iterable[Row]) -> list[Row]:
    """Return one cut of each recording, the longest."""
    best: dict[tuple[int, str], Row] = {}
    for row in rows:
        have = best.get((row.unit, row.workload))
        if have is None or row.seconds > have.seconds:
            best[row.unit, row.workload] = row
    return list(best.values())


def renamed(rows: Sequence[Row]) -> Table:
    """Return how often a function that was renamed, and costs the same, failed."""
    chosen = longest(row for row in rows if row.variant.get("kind") == "renamed")
    lines = [
        (f"{limit} %", rate(sum(failed(row.verdicts[str(limit)]) for row in chosen), len(chosen)))
        for limit in LIMITS[::-1]
    ]
    return Table(("limit", "failed at first look"), tuple(lines))


def curves(rows: Sequence[Row]) -> Table:
    """Return power against k, samples in the function a side, as measured and as promised."""
    lines = []
    for limit in LIMITS[::-1]:
        for growth in (5, 10, 20, 30):
            if growth > limit:
                lines += [
                    (f"{limit} %", f"+{growth} %", *line) for line in points(rows, limit, growth)
                ]
    cells = tuple(
        (limit, growth, f"{low:,} to {high:,}", rate(hit, of), percent(promised))
        for limit, growth, low, high, hit, of, promised in lines
    )
    return Table(("limit", "growth", "k", "found at first look", "formula"), cells)


def points(rows: Sequence[Row], limit: int, growth: int) -> list[tuple[int, int, int, int, float]]:
    """Return bins of k: ends, found, of, and the mean of what the formula promises."""
    chosen = [
        row
        for row in rows
        if row.variant.get("kind") in {"growth", "masked"}
        and row.variant.get("percent") == growth
        and row.samples
    ]
    made = []
    for low, high in zip((0, *EDGES), EDGES, strict=False):
        # A recording is in a bin once, with its longest cut.
        inside = longest(row for row in chosen if low <= row.samples < high)
        if inside:
            hit = sum(found(row, limit) for row in inside)
            promised = sum(power(row.samples, growth / 100, limit / 100) for row in inside)
            made.append((low, high, hit, len(inside), promised / len(inside)))
    return made


# -- peers ----------------------------------------------------------------------------------------


def peers(rows: Sequence[Row]) -> Table:
    """Return how often each gate failed, all at a limit of 10 % unless its name says another."""
    columns: Mapping[str, list[Row]] = {
        "same code": same(rows),
        "f10 +20 %": [r for r in rows if _is(r, GROWTH, 20, "f10", 15)],
        "f10 +20 %, masked": [r for r in rows if _is(r, MASKED, 20, "f10", 15)],
        "f60 +30 %": [r for r in rows if _is(r, GROWTH, 30, "f60", 5) and r.kind == "large"],
        "renamed": longest(r for r in rows if r.variant.get("kind") == "renamed"),
    }

    def line(name: str, fails: Callable[[Row], bool]) -> tuple[str, ...]:
        return (name, *(rate(sum(map(fails, chosen)), len(chosen)) for chosen in columns.values()))

    lines = [
        line("**ci_flame**, first look", lambda row: failed(row.verdicts["10"])),
        line("**ci_flame**, names the function", lambda row: found(row, 10)),
    ]
    words = {
        "mean, 1 process": "pytest-benchmark mean:10%, 1 process",
        "min, 1 process": "pytest-benchmark min:10%, 1 process",
        "mean": "pytest-benchmark mean:10%, 5 processes",
        "min": "pytest-benchmark min:10%, 5 processes",
        "total": "CPU time per iteration > 110 %",
        "stackgate": "StackGate --threshold 10",
        "stackgate 2%": "StackGate, its own 2 %",
    }
    lines += [line(words[name], lambda row, name=name: row.peers[name]) for name in NAMES]  # type: ignore[misc]
    return Table(("gate", *columns), tuple(lines))


def exact(told: Sequence[Mapping[str, Any]]) -> Table:
    """Return how often exact counts failed a build, by interpreter."""
    lines = []
    for python in sorted({each["python"] for each in told}):
        cells = []
        for kind in ("same", "growth"):
            chosen = [r for r in told if (r["python"], r["kind"]) == (python, kind)]
            right = [r for r in chosen if any("workloads:f10" in text for text in r["found"])]
            counted = right if kind == "growth" else [r for r in chosen if r["found"]]
            cells.append(rate(len(counted), len(chosen)))
        lines.append((python, *cells))
    head = ("CPython", "same code failed", "+2 % of f10 failed and named")
    return Table(head, tuple(lines))
