"""Stage 6, pure: a Verdict as a page for places that allow neither script nor inline style.

Jenkins serves what a build archived under `sandbox; default-src 'none'; img-src 'self'; style-src
'self'`: the page has a style sheet beside it (`static.css`) and shows the SVG pictures of the
report folder as images.
"""

from typing import Final
from urllib.parse import quote

import ci_flame
from ci_flame.diff import FrameChange
from ci_flame.profile import Mode
from ci_flame.report import alone, html, markdown, picture, svg, terminal
from ci_flame.report.findings import line, worst_first
from ci_flame.report.words import (
    duration,
    growth,
    interval,
    plural,
    share,
    visible,
    whole_of,
)
from ci_flame.verdict import BenchmarkVerdict, Verdict
from ci_flame.verdict.located import spot

STYLESHEET: Final = "static.css"
BENCHMARKS: Final = 500
"""Benchmarks on the page, the worst first; more pictures than this no browser shows at ease."""
ROWS: Final = 25
"""Functions of each."""
FINDINGS: Final = 25
NOTES: Final = 50


def render(verdict: Verdict) -> str:
    """Return the page; the same verdict gives the same bytes."""
    ordered = list(worst_first(verdict))
    left_out = len(ordered) - BENCHMARKS
    return html.fill(
        "static.html.j2",
        stylesheet=STYLESHEET,
        headline=terminal.headline(verdict),
        tally=terminal.tally(verdict.counts),
        outcome=verdict.outcome.value,
        sides=_sides(verdict),
        notes=[line(note.text) for note in verdict.notes[:NOTES]],
        left_out=f"{plural(left_out, 'benchmark')} left out here; all are in report.html"
        if left_out > 0
        else "",
        benchmarks=[
            _benchmark(terminal.once(each, verdict), verdict) for each in ordered[:BENCHMARKS]
        ],
        footer=f"ci_flame {ci_flame.__version__}",
    )


def stylesheet() -> str:
    """Return what stands beside the page as `static.css`."""
    return html.source(STYLESHEET)


def _sides(verdict: Verdict) -> list[str]:
    diff = verdict.diff
    if diff is None:
        return []
    one, other = diff.labels
    sides = ((one, diff.before_commit, diff.before), (other, diff.after_commit, diff.after))
    return [
        f"{name}: {visible(commit)[:12]} on {html.machine(environment)}"
        for name, commit, environment in sides
    ]


def _benchmark(each: BenchmarkVerdict, verdict: Verdict) -> html.Values:
    mode = "" if each.mode == Mode.ON_CPU else f" [{each.mode}]"
    values: html.Values = {
        "name": line(each.benchmark + mode),
        "outcome": "unjudged" if each.left_out else each.outcome.value,
        "word": each.word,
        "whole": whole_of(each.mode),
        "before": "",
        "after": "",
        "growth": "",
        "findings": [
            (line(str(finding)), _place(each, verdict, number), finding.outcome.value)
            for number, finding in enumerate(each.findings[:FINDINGS])
        ],
        "picture": "",
        "functions": [],
        "more": "",
        "notes": [line(note.text) for note in each.notes[:NOTES]],
    }
    if each.diff is None:
        if each.alone is not None:
            values["after"] = alone.line(each.alone, Mode(each.mode))
        return values
    total, frames = each.diff.total, terminal.changed(each)
    more = len(frames) - ROWS
    none = markdown.unchanged(each)
    values |= {
        "before": duration(total.before_ns),
        "after": duration(total.after_ns),
        "growth": growth(total),
        "picture": quote(svg.file_name(each)),
        "functions": [_row(each, frame) for frame in frames[:ROWS]],
        "more": f"and {plural(more, 'function')} more" if more > 0 else "" if frames else none,
    }
    return values


def _place(each: BenchmarkVerdict, verdict: Verdict, number: int) -> str:
    where = spot(each.findings[number], each, verdict)
    return line(f"{where.file}:{where.line}")


def _row(each: BenchmarkVerdict, frame: FrameChange) -> html.Values:
    total, own = terminal.told_of(each, frame)
    return {
        "name": line(f"{frame.frame}{own}", 400),
        "before": duration(total.before_ns),
        "after": duration(total.after_ns),
        "growth": growth(total),
        "tone": picture.direction(total).value,
        "interval": interval(total),
        "share": f"{share(total.before_share)} → {share(total.after_share)}",
    }
