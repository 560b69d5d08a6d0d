"""Rows -> tables and the page docs/power.md: pure, so that the page can be checked against them."""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from collections.abc import Set as AbstractSet
from dataclasses import dataclass
from functools import partial
from math import inf
from typing import Any, Final

from bench.power.compare import LIMITS, Judged, Row, failed
from bench.power.peers import NAMES
from bench.power.schedule import WORKLOADS
from bench.power.statistics import lower, power, upper
from ci_flame.verdict import Outcome

EDGES: Final = (250, 500, 1000, 2000, 4000, 8000, 16000, 64000)
"""Of the bins of k, samples in the function a side."""

LOADS: Final = (
    ("load under 1.5", 0.0, 1.5), ("load 1.5 to 3", 1.5, 3.0), ("load of 3 and more", 3.0, inf),
)  # fmt: skip
"""Load of one minute: the benchmark itself is 1 of it, the hog another."""


@dataclass(frozen=True, slots=True)
class Table:
    """Cells as text."""

    head: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]

    def __str__(self) -> str:
        """Return it as Markdown, columns aligned."""
        widths = [max(map(len, column)) for column in zip(self.head, *self.rows, strict=True)]
        lines = [self.head, tuple("-" * width for width in widths), *self.rows]
        return "\n".join(
            "| " + " | ".join(c.ljust(w) for c, w in zip(line, widths, strict=True)) + " |"
            for line in lines
        )


def percent(share: float) -> str:
    """Return a share as text: `0.50 %`, `12 %`."""
    digits = 2 if 0 < share < 0.1 else 0  # noqa: PLR2004
    return f"{100 * share:.{digits}f} %"


def rate(found: int, of: int) -> str:
    """Return `3 of 80 (3.75 %)`."""
    return f"{found} of {of} ({percent(found / of)})" if of else "-"


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


def innocents(rows: Sequence[Row]) -> Table:
    """Return how often a build with a guilty function also accused an innocent one."""
    chosen = [row for row in rows if row.variant.get("kind") in {"growth", "masked"}]
    lines = []
    for limit in LIMITS[::-1]:
        # One cut of each recording: the longest.
        longest = _longest(chosen)
        accused = [row for row in longest if row.verdicts[str(limit)].innocent]
        both = sum(
            bool(one.verdicts[str(limit)].innocent) and bool(other.verdicts[str(limit)].innocent)
            for one, other in pairs(longest)
        )
        lines.append(
            (f"{limit} %", rate(len(accused), len(longest)),
             percent(upper(len(accused), len(longest))) if longest else "-",
             rate(both, len(pairs(longest))))
        )  # fmt: skip
    return Table(("limit", "accused at first look", "upper end", "accused twice"), tuple(lines))


def _longest(rows: Iterable[Row]) -> list[Row]:
    best: dict[tuple[int, str], Row] = {}
    for row in rows:
        have = best.get((row.unit, row.workload))
        if have is None or row.seconds > have.seconds:
            best[row.unit, row.workload] = row
    return list(best.values())


def renamed(rows: Sequence[Row]) -> Table:
    """Return how often a function that was renamed, and costs the same, failed."""
    chosen = _longest(row for row in rows if row.variant.get("kind") == "renamed")
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
        inside = _longest(row for row in chosen if low <= row.samples < high)
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
        "renamed": _longest(r for r in rows if r.variant.get("kind") == "renamed"),
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


# -- all of it ------------------------------------------------------------------------------------


def sections(
    rows: Sequence[Row], counted: Sequence[Mapping[str, Any]] = ()
) -> list[tuple[str, Table]]:
    """Return headings and tables; none where nothing is recorded."""
    made = (
        []
        if not rows
        else [
            ("False failures", false_failures(rows)),
            ("Power", goals(rows)),
            ("Other gates on the same runs", peers(rows)),
            ("Innocent functions", innocents(rows)),
            ("Renamed functions", renamed(rows)),
            ("Power against k", curves(rows)),
        ]
    )
    made.append(("Exact counts", exact(counted)))
    return [(heading, table) for heading, table in made if table.rows]


def recorded(rows: Sequence[Row], machine: Mapping[str, Any]) -> str:
    """Return one paragraph: how much, on what, at which load."""
    if not rows:
        return "No campaign has been recorded yet."
    loads = [row.load for row in rows]
    delays = [row.delay for row in rows]
    on = (
        f" on {machine['cores']} cores of {machine['cpu']} (Linux {machine['kernel']}), CPython"
        f" {machine['python']}, {machine['collector']} at {machine['frequency_hz']} Hz"
        if machine
        else ""
    )
    commits = ", ".join(sorted({row.commit for row in rows if row.commit}))
    return (
        f"{len({row.unit for row in rows})} units of ten processes and more{on}; recorded with"
        f" commit {commits or 'unknown'}. Load of the machine when processes began:"
        f" {min(loads):.1f} to {max(loads):.1f}; rounds waited for a CPU for"
        f" {percent(sum(delays) / len(delays))} of their time on average,"
        f" {percent(max(delays))} at most."
    )


def text(
    rows: Sequence[Row], machine: Mapping[str, Any], counted: Sequence[Mapping[str, Any]] = ()
) -> str:
    """Return everything for a terminal."""
    parts = [recorded(rows, machine)]
    parts += [f"{heading}\n\n{table}" for heading, table in sections(rows, counted)]
    return "\n\n".join(parts)


def unclear(rows: Sequence[Row]) -> str:
    """Return the sentence on comparisons without a verdict."""
    chosen = _longest(rows)
    count = sum(inconclusive(row) for row in chosen)
    return f"{rate(count, len(chosen))} comparisons were INCONCLUSIVE."


def page(
    rows: Sequence[Row], machine: Mapping[str, Any], counted: Sequence[Mapping[str, Any]] = ()
) -> str:
    """Return docs/power.md."""
    tables = "\n\n".join(
        f"## {heading}\n\n{WORDS.get(heading, '').format(unclear=unclear(rows))}{table}"
        for heading, table in sections(rows, counted)
    )
    return PAGE.format(recorded=recorded(rows, machine), tables=tables)


WORDS: Final[Mapping[str, str]] = {
    "False failures": (
        "Failures at the first look → after the second recording that every failure gets (≤ the"
        " exact one-sided 95 % upper end of the rate, Clopper and Pearson). {unclear}\n\n"
    ),
    "Power": (
        "*Found* is a failed build whose finding names the function that grew or the path to it;"
        " *twice* is what a user gets: a failure is recorded once more and both must find it.\n\n"
    ),
    "Other gates on the same runs": (
        "Failed builds at a limit of 10 %. A gate that fails as often on the same code as on"
        " growth has found nothing.\n\n"
    ),
    "Innocent functions": (
        "Builds that accused a function that had grown by less than the limit, or not at all.\n\n"
    ),
    "Exact counts": (
        "`metric: bytecodes` with `max_growth: 0%`, 51 units of f10 instead of 50, two processes a"
        " side (`python -m bench.power.bytecodes`).\n\n"
    ),
    "Power against k": (
        "k: samples in the function, a side (mean of both). The formula is"
        " k = 2 φ (z / ln((1+g)/(1+L)))² with φ = 1 and z for 95 % power = 4.5.\n\n"
        "![Power against k](power.png)\n\n"
    ),
}
PAGE: Final = """# How often it cries wolf, and what it finds

<!-- Written by `python -m bench.power report` from bench/power/results/. -->

Every figure here comes from real recordings: eight workloads, recorded as a user's `pytest --flame`
records them (own processes, references, eBPF), five processes a side (for 30 s: fifteen of
the default 2 s each, since processes differ and only more of them tell by how much). No recording
is in two comparisons of one table. Growth is planted in exact units of work (48 units instead of 40
are +20 % of that function), masked by an equal saving in another function, or spread over all of
them. Each comparison is judged as a build of its own, with one benchmark.

    make power             record what is missing (hours; stop and resume at will), compare, draw
    make power QUICK=1     a smoke version in five minutes
    python -m bench.power report     these tables again, from the results in the repository

| workload | what it is |
|---|---|
| core | an integer loop |
| memory | a walk over 300,000 scattered dictionaries |
| mixed | integers, zlib, sorting, sets, dictionaries, a regular expression |
| paced | a loop paced at 1 kHz |
| dominant | one function of 60 %: text and dictionaries |
| kernel | system calls |
| sqlparse | lexing with sqlparse 0.6.1 |
| mistune | Markdown to HTML with mistune 3.4.0 |

In each, functions of 5, 10, 15, 30 or 60 % of the work can be made to do more of it. *quiet*:
the bench starts nothing beside it; *hog*: a process that spins beside both sides; *hog-after*:
beside the after side only. Other work on the machine is not kept away, a second recorder of the
campaign (`--share`) among it: the load tells of it, and a round that waits for a CPU for more than
20 % of its time is left out, as for a user.
*rerun*: the sides alternate in random order; *stored*: the before side is recorded whole, then
three other units, then the after side.

{recorded}

{tables}
"""


__all__ = ["Judged", "page", "text"]
