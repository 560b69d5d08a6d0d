"""Stage 6, pure: a Verdict as one self-contained `report.html`.

The page loads nothing: its style, script and data are in it, and its content policy
forbids the network. Data is embedded as JSON that no name can break out of.
"""

import base64
import hashlib
import json
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cache
from typing import Final

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup

import ci_flame
from ci_flame.diff import BenchmarkDiff, Change, FrameChange
from ci_flame.profile import Environment as Machine
from ci_flame.profile import Frame, Kind, Mode
from ci_flame.report import machine as machine_report
from ci_flame.report import picture, terminal
from ci_flame.report.picture import Picture
from ci_flame.report.words import duration, growth, interval, share, split_id, visible, whole_of
from ci_flame.verdict import BenchmarkVerdict, Finding, Outcome, Verdict

BOXES: Final = 20_000
"""Boxes of one benchmark; the narrowest are left out, and the page says how many."""
BOXES_OF_PAGE: Final = 100_000
FUNCTIONS: Final = 2_000
"""Rows of one benchmark's table, those that changed most first."""
FUNCTIONS_OF_PAGE: Final = 20_000
FINDINGS: Final = 8
"""Findings shown above the benchmarks; all are shown at their benchmark."""
SCRIPTS: Final = ("words.js", "table.js", "report.js")
"""Parts of the one script of the page, in this order."""
HUES: Final = 6
"""Colours of modules on a page without a verdict; two more are for native and kernel code."""

Values = dict[str, object]


@dataclass(frozen=True, slots=True)
class Column:
    """One column of the table of functions."""

    key: str
    label: str
    title: str = ""
    sort: bool = True


_COLUMNS: Final = (
    Column("name", "Function"),
    Column("before", "Before", "Per iteration"),
    Column("after", "After", "Per iteration, at the baseline's machine speed"),
    Column("change", "Change", "After - before, per iteration"),
    Column("growth", "Growth", "Change / before"),
    Column("plot", "90 % interval", sort=False),
    Column("seen", "Seen from", "Could have seen growth from here on, 4 times of 5"),
    Column("share", "Share", "Of the benchmark, after"),
)


def render(verdict: Verdict) -> str:
    """Return the page; the same verdict gives the same bytes."""
    limits = limits_of(len(verdict.benchmarks))
    pictures = [
        None if each.diff is None else picture.lay_out(each.diff, limits[0])
        for each in verdict.benchmarks
    ]
    first = next(
        (i for i, each in enumerate(verdict.benchmarks) if each.outcome is verdict.outcome), 0
    )
    findings = [
        _headline(n, finding, graph)
        for n, (each, graph) in enumerate(zip(verdict.benchmarks, pictures, strict=True))
        for finding in each.findings
    ]
    findings.sort(key=lambda finding: finding["outcome"] != Outcome.FAIL.value)
    above = {id(finding["finding"]) for finding in findings[:FINDINGS]}
    return page(
        title=f"{verdict.outcome.value.upper()} - ci_flame",
        outcome=verdict.outcome.value,
        headline=terminal.tally(verdict.counts),
        sides=_sides(verdict),
        findings=findings[:FINDINGS],
        findings_left_out=max(0, len(findings) - FINDINGS),
        notes=[visible(note.text) for note in verdict.notes],
        benchmarks=[
            {
                **_benchmark(terminal.once(each, verdict), graph, limits),
                "first": n == first,
                "sentences": [
                    {
                        "outcome": finding.outcome.value,
                        "text": visible(str(finding)),
                        "above": id(finding) in above,
                    }
                    for finding in each.findings
                ],
            }
            for n, (each, graph) in enumerate(zip(verdict.benchmarks, pictures, strict=True))
        ],
    )


def limits_of(benchmarks: int) -> tuple[int, int]:
    """Return how many boxes and functions each benchmark of a page may have."""
    share = max(benchmarks, 1)
    return (
        min(BOXES, max(200, BOXES_OF_PAGE // share)),
        min(FUNCTIONS, max(50, FUNCTIONS_OF_PAGE // share)),
    )


def left_out(boxes: int) -> str:
    """Return what the legend says of boxes that the page does not have."""
    return f"{boxes:,} narrow box{'' if boxes == 1 else 'es'} left out" if boxes else ""


def page(**values: object) -> str:
    """Fill the template that pages with and without a verdict share."""
    css, js = source("report.css"), "".join(map(source, SCRIPTS))
    policy = (
        "default-src 'none'; img-src data:; base-uri 'none'; form-action 'none'; "
        f"style-src '{_digest(css)}'; script-src '{_digest(js)}'"
    )
    return fill(
        "report.html.j2",
        css=Markup(css),  # noqa: S704 - our own file, read from the package
        js=Markup(js),  # noqa: S704 - our own file, read from the package
        policy=policy,
        footer=f"ci_flame {ci_flame.__version__}",
        **values,
    )


def fill(template: str, **values: object) -> str:
    """Fill a template of the package; every value is escaped that is not Markup."""
    return _templates().get_template(template).render(**values)


@cache
def _templates() -> Environment:
    return Environment(
        loader=PackageLoader("ci_flame.report"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )


@cache
def source(name: str) -> str:
    """Return a file of the package's templates as it is."""
    loader = _templates().loader
    assert loader is not None  # noqa: S101 - set above; for the type checker
    return loader.get_source(_templates(), name)[0]


def _digest(text: str) -> str:
    return f"sha256-{base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()}"


def embed(values: object) -> Markup:
    """Return JSON that may stand in a `<script>`: no `<`, `>` or `&`, no lone surrogate.

    Raises ValueError on infinity and NaN, which JSON does not have.
    """
    text = json.dumps(values, allow_nan=False, separators=(",", ":"))
    # ensure_ascii has already turned all but ASCII into escapes.
    for letter in "<>&":
        text = text.replace(letter, f"\\u{ord(letter):04x}")
    return Markup(text)  # noqa: S704 - escaped just above


def number(value: float) -> float | None:
    """Return nine significant digits, enough that the page rounds as `words.py` does."""
    return float(f"{value:.9g}") if math.isfinite(value) else None


def machine(environment: Machine) -> str:
    """Return one line on the machine: what decides whether runs may be compared."""
    # Imported files tell no machine, and few of them a frequency.
    often = f" {environment.frequency_hz:,} Hz" if environment.frequency_hz else ""
    parts = (
        environment.cpu_model,
        f"Python {environment.python}" if environment.python else "",
        f"{environment.collector}{often}",
    )
    return visible(", ".join(filter(None, parts)))


def frame_table(frames: Iterable[Frame]) -> tuple[dict[Frame, int], Values]:
    """Return the index of each frame and its columns: names, functions, modules, kinds, hues."""
    index = {frame: n for n, frame in enumerate(dict.fromkeys(frames))}
    return index, {
        "names": [visible(str(frame)) for frame in index],
        "functions": [visible(frame.function) for frame in index],
        "modules": [_module(frame) for frame in index],
        "kinds": [frame.kind.value for frame in index],
        "hues": [_hue(frame) for frame in index],
    }


def _module(frame: Frame) -> str:
    match frame.kind:
        case Kind.PYTHON:
            return visible(frame.module)
        case Kind.NATIVE:
            return visible(f"native {frame.module}".rstrip())
        case Kind.KERNEL | Kind.JIT:
            return frame.kind.value
        case Kind.MARK:
            return ""


def _hue(frame: Frame) -> int:
    """Return the colour of a module's package, the same in every process and run."""
    match frame.kind:
        case Kind.PYTHON | Kind.JIT:
            package = frame.module.partition(".")[0]
            digest = hashlib.sha256(package.encode("utf-8", "surrogatepass")).digest()
            return digest[0] % HUES
        case Kind.NATIVE | Kind.MARK:
            return HUES
        case Kind.KERNEL:
            return HUES + 1


def short_name(benchmark: str) -> str:
    """Return what tells a benchmark from its neighbours: `test_x[case]` of a node id."""
    return visible(split_id(benchmark)[1] or benchmark)[:200]


def tone_class(change: Change) -> str:
    """Return the class that colours a change: `up3`, `down1` or `same`."""
    tone = picture.tone(change)
    return f"up{tone}" if tone > 0 else f"down{-tone}" if tone < 0 else "same"


def _sides(verdict: Verdict) -> list[Values]:
    diff = verdict.diff
    if diff is None:
        return []
    before, after = machine(diff.before), machine(diff.after)
    one, other = diff.labels
    if before == after:
        sides = [
            (one, diff.before_commit, ""),
            (other, diff.after_commit, ""),
            ("", "", after),
        ]
    else:
        sides = [(one, diff.before_commit, before), (other, diff.after_commit, after)]
    return [
        {"label": label, "commit": visible(commit), "machine": told}
        for label, commit, told in sides
        if commit or told
    ]


def _headline(benchmark: int, finding: Finding, graph: Picture | None) -> Values:
    found = {} if graph is None else picture.guilty(graph, [finding])
    place = finding.place
    return {
        "finding": finding,
        "benchmark": benchmark,
        "outcome": finding.outcome.value,
        "sentence": visible(str(finding)),
        "place": "" if place is None else visible(f"{place.file}:{place.line}"),
        "box": next(iter(found), None),
    }


def _benchmark(each: BenchmarkVerdict, graph: Picture | None, limits: tuple[int, int]) -> Values:
    diff, functions = each.diff, limits[1]
    values: Values = {
        "name": visible(each.benchmark),
        "short": short_name(each.benchmark),
        "mode": str(each.mode),
        "outcome": "unjudged" if each.left_out else each.outcome.value,
        "word": each.word,
        "growth": "" if diff is None else growth(diff.total),
        "tone": "" if diff is None else tone_class(diff.total),
        "facts": _facts(each),
        "notes": [visible(note.text) for note in each.notes],
        "data": "",
        "left_out": "",
        "functions_left_out": 0,
        "machine": machine_report.values(each.figures),
        "plain": False,
        "columns": _columns(each.mode),
    }
    if diff is None and each.alone is not None:
        # The page of a run without a verdict is drawn with what is in this module.
        from ci_flame.report import plain  # noqa: PLC0415

        values |= plain.pictured(each.alone, Mode(each.mode), limits)
    if diff is not None and graph is not None:
        values["data"] = embed(_data(each, graph, diff.frames[:functions]))
        values["left_out"] = left_out(graph.left_out)
        values["functions_left_out"] = max(0, len(diff.frames) - functions)
    return values


def _columns(mode: str) -> tuple[Column, ...]:
    *others, part = _COLUMNS
    return (*others, replace(part, title=f"Of the {whole_of(mode)}, after"))


def _facts(each: BenchmarkVerdict) -> list[Values]:
    if each.diff is None:
        return []
    total = each.diff.total
    waiting = each.diff.columns is not None and each.diff.columns.waiting
    facts: list[Values] = [
        _fact(
            "Waits per iteration" if waiting else "Per iteration",
            f"{duration(total.before_ns)} → {duration(total.after_ns)}",
        ),
        {**_fact("Growth", growth(total), interval(total)), "tone": tone_class(total)},
    ]
    if each.smallest_visible is not None:
        facts.append(_fact("Smallest visible growth", share(each.smallest_visible)))
    sides = f"{each.diff.processes_before} + {each.diff.processes_after}"
    speed = (
        _fact("Machine speed", "as timed")
        if waiting
        else _fact("Machine speed from", _anchor(each.diff))
    )
    return [*facts, _fact("Processes", sides), speed]


def _anchor(diff: BenchmarkDiff) -> str:
    error = f" ± {share(diff.anchor_error)}" if 0 < diff.anchor_error < 1 else ""
    return diff.anchor.replace("+", " + ") + error


def _fact(label: str, value: str, more: str = "") -> Values:
    return {"label": label, "value": value, "more": more, "tone": ""}


def _data(each: BenchmarkVerdict, graph: Picture, rows: Sequence[FrameChange]) -> Values:
    index, columns = frame_table(
        [*(box.frame for box in graph.boxes), *(row.frame for row in rows)]
    )
    blamed = {finding.frame for finding in each.findings}
    told = [terminal.told_of(each, row) for row in rows]
    return {
        **columns,
        "boxes": {
            "frame": [index[box.frame] for box in graph.boxes],
            "parent": [box.parent for box in graph.boxes],
            **change_columns([box.change for box in graph.boxes]),
        },
        "guilty": {
            box: [visible(str(finding)) for finding in findings]
            for box, findings in picture.guilty(graph, each.findings).items()
        },
        "blamed": sorted(index[frame] for frame in blamed if frame in index),
        "table": {
            "frame": [index[row.frame] for row in rows],
            "place": [
                visible(f"{row.place.file}:{row.place.line}") if row.place else "" for row in rows
            ],
            "seen": [number(each.visible.get(row.frame, float("inf"))) for row in rows],
            "about": [visible(words).strip() for _, words in told],
            "total": change_columns([change for change, _ in told]),
            "own": change_columns([row.own for row in rows]),
        },
    }


def change_columns(changes: Sequence[Change]) -> Mapping[str, list[float | int | None]]:
    """Return changes column by column, which is a third of the size of one object each."""
    return {
        "before": [number(change.before_ns) for change in changes],
        "after": [number(change.after_ns) for change in changes],
        "low": [number(change.low) for change in changes],
        "high": [number(change.high) for change in changes],
        "tone": [picture.tone(change) for change in changes],
        "samples_before": [int(change.samples_before) for change in changes],
        "samples_after": [int(change.samples_after) for change in changes],
    }
