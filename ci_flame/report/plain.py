"""Stage 6, pure: a Run without a verdict as a page of plain flame graphs.

The page is `report.html`'s own, with one side: a box is as wide as its cost, its colour
is its module.
"""

from typing import Final

from ci_flame.diff.figures import collector_notes, figures
from ci_flame.profile import (
    Frame,
    Measurement,
    Mode,
    Place,
    Profile,
    Run,
    Unit,
    Weight,
)
from ci_flame.report import machine as machine_report
from ci_flame.report.alone import Node, functions, tree, without_run_queue
from ci_flame.report.html import (
    Column,
    Values,
    embed,
    frame_table,
    left_out,
    limits_of,
    machine,
    number,
    page,
    short_name,
)
from ci_flame.report.words import duration, plural, visible

_COLUMNS: Final = (
    Column("name", "Function"),
    Column("after", "Cost", "Per iteration"),
    Column("share", "Share", "Of the benchmark"),
)


def render(run: Run) -> str:
    """Return the page: one flame graph and table per benchmark and mode."""
    selected = [(each, mode) for each in run.measurements for mode in each.modes]
    limits = limits_of(len(selected))
    incomplete = "This run was interrupted: it is incomplete and cannot be a baseline."
    return page(
        title="Profile - ci_flame",
        outcome="",
        headline=f"Profile of {plural(len(run.measurements), 'benchmark')}",
        sides=[
            {
                "label": "commit" if run.commit else "machine" if run.environment.cpu_model else "",
                "commit": visible(run.commit),
                "machine": ("(changed) " if run.dirty else "") + machine(run.environment),
            }
        ],
        findings=[],
        findings_left_out=0,
        notes=[] if run.complete else [incomplete],
        benchmarks=[
            _benchmark(each, mode, limits, first=n == 0) for n, (each, mode) in enumerate(selected)
        ],
    )


def _benchmark(each: Measurement, mode: Mode, limits: tuple[int, int], *, first: bool) -> Values:
    return {
        "name": visible(each.benchmark),
        "short": short_name(each.benchmark),
        "mode": mode.value,
        "outcome": "",
        "word": "",
        "growth": "",
        "tone": "",
        "first": first,
        "sentences": [],
        "notes": [
            *([] if each.profile(mode).samples else ["No samples were taken in this benchmark."]),
            *(map(visible, collector_notes(each, "")) if mode in each.modes[:1] else ()),
        ],
        "machine": machine_report.values(figures(None, each)) if mode in each.modes[:1] else None,
        **pictured(each, mode, limits),
    }


def pictured(each: Measurement, mode: Mode, limits: tuple[int, int]) -> Values:
    """Return what the page needs to draw one side of a benchmark, its figures included."""
    profile, queued = without_run_queue(each.profile(mode))
    nodes = tree(profile)
    kept = sorted(sorted(range(len(nodes)), key=lambda i: (-nodes[i][2].value, i))[: limits[0]])
    rows = functions(profile)
    return {
        "plain": True,
        "columns": _COLUMNS,
        "facts": _facts(each, profile, mode, queued),
        "data": embed(_data(profile, nodes, kept, rows[: limits[1]], each)),
        "unit": profile.unit.value,
        "left_out": left_out(len(nodes) - len(kept)),
        "functions_left_out": max(0, len(rows) - limits[1]),
    }


def _facts(each: Measurement, profile: Profile, mode: Mode, queued: int) -> list[Values]:
    facts = [
        ("Samples", f"{profile.samples:,}"),
        ("Iterations", f"{profile.iterations:,}"),
        ("Processes", f"{len(each.processes):,}"),
    ]
    if profile.unit is Unit.NANOSECONDS:
        waits = mode is Mode.OFF_CPU
        facts[0] = ("Waits", facts[0][1]) if waits else facts[0]
        facts.insert(
            0,
            (
                "Waits per iteration" if waits else "Per iteration",
                duration(profile.value / profile.iterations),
            ),
        )
    if queued:
        told = duration(queued / profile.iterations)
        facts.append(("Waited for a CPU", f"{told} per iteration, left out"))
    return [{"label": label, "value": value, "more": "", "tone": ""} for label, value in facts]


def _data(
    profile: Profile,
    nodes: list[Node],
    kept: list[int],
    rows: list[tuple[Frame, Weight, Weight]],
    each: Measurement,
) -> Values:
    per = profile.iterations if profile.unit is Unit.NANOSECONDS else 1
    renumbered = {old: new for new, old in enumerate(kept)}
    boxes = [nodes[i] for i in kept]
    index, columns = frame_table([*(box[0] for box in boxes), *(row[0] for row in rows)])
    return {
        **columns,
        "unit": profile.unit.value,
        "boxes": {
            "frame": [index[frame] for frame, _, _ in boxes],
            "parent": [renumbered.get(parent, -1) for _, parent, _ in boxes],
            **_one_side([weight for _, _, weight in boxes], per),
        },
        "guilty": {},
        "blamed": [],
        "table": {
            "frame": [index[frame] for frame, _, _ in rows],
            "place": [_place(each.places.get(frame)) for frame, _, _ in rows],
            "own": _one_side([own for _, own, _ in rows], per),
            "total": _one_side([total for _, _, total in rows], per),
        },
    }


def _one_side(weights: list[Weight], per: int) -> Values:
    nothing = [0] * len(weights)
    return {
        "before": nothing,
        "after": [number(weight.value / per) for weight in weights],
        "low": nothing,
        "high": nothing,
        "tone": nothing,
        "samples_before": nothing,
        "samples_after": [weight.samples for weight in weights],
    }


def _place(place: Place | None) -> str:
    return "" if place is None else visible(f"{place.file}:{place.line}")
