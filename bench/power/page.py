"""docs/power.md, and the same for a terminal: pure."""

from collections.abc import Mapping, Sequence
from typing import Any, Final

from bench.power.compare import Row
from bench.power.promises import promises
from bench.power.report import (
    curves,
    exact,
    false_failures,
    goals,
    inconclusive,
    innocents,
    longest,
    names_the_benchmark,
    peers,
    renamed,
)
from bench.power.table import Table, percent, rate


def sections(
    rows: Sequence[Row], counted: Sequence[Mapping[str, Any]] = ()
) -> list[tuple[str, Table]]:
    """Return headings and tables; none where nothing is recorded."""
    made = (
        []
        if not rows
        else [
            ("Goals", promises(rows, counted)),
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
    chosen = longest(rows)
    count = sum(inconclusive(row) for row in chosen)
    return f"{rate(count, len(chosen))} comparisons were INCONCLUSIVE."


def uniform(rows: Sequence[Row]) -> str:
    """Return the sentence on growth of everything; empty where none is recorded."""
    chosen = [row for row in longest(rows) if row.kind == "uniform"]
    failed = [row for row in chosen if row.verdicts["5"].right]
    if not failed:
        return ""
    named = [row for row in failed if names_the_benchmark(row, 5)]
    others = sorted({row.workload for row in failed if row not in named})
    rest = f"; otherwise ({', '.join(others)}) of its dearest functions" if others else ""
    return (
        f" Where all of a benchmark grew, the finding was of the benchmark itself in"
        f" {rate(len(named), len(failed))} of the failures{rest}."
    )


def page(
    rows: Sequence[Row],
    machine: Mapping[str, Any],
    counted: Sequence[Mapping[str, Any]] = (),
    remarks: str = "",
) -> str:
    """Return docs/power.md; `remarks`: by hand, on goals that are missed."""
    told = {"unclear": unclear(rows), "uniform": uniform(rows)}
    tables = "\n\n".join(
        f"## {heading}\n\n{WORDS.get(heading, '').format(**told)}{table}"
        + (f"\n\n{remarks.strip()}" if heading == "Goals" and remarks.strip() else "")
        for heading, table in sections(rows, counted)
    )
    return PAGE.format(recorded=recorded(rows, machine), tables=tables)


WORDS: Final[Mapping[str, str]] = {
    "Goals": (
        "At the default limit of 10 % where none is named; power in the first look. What each line"
        " is made of stands below.\n\n"
    ),
    "False failures": (
        "Failures at the first look → after the second recording that every failure gets (≤ the"
        " exact one-sided 95 % upper end of the rate, Clopper and Pearson). {unclear}\n\n"
    ),
    "Power": (
        "*Found* is a failed build whose finding names the function that grew or the path to it;"
        " *twice* is what a user gets: a failure is recorded once more and both must find it."
        "{uniform}\n\n"
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
