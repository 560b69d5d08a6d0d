"""Stage 6, pure: what was measured beside the stacks, as cells, bars and lines.

The collector's own cost, metrics, and latency histograms: the same values for the page, the
terminal and `verdict.json`.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from statistics import median
from typing import Final

from ci_flame.diff.figures import PROGRAM, Figures, Metric
from ci_flame.profile import HISTOGRAM_OCTAVE, Histogram
from ci_flame.report.words import duration, visible
from ci_flame.verdict import metric_text

METRICS: Final = 100
"""Rows of a page's table of metrics; the number left out is told."""
HISTOGRAMS: Final = 20
WIDTH: Final = 320
HEIGHT: Final = 64
_AXIS: Final = 16
"""Pixels below the bars."""
_LABELS: Final = 4
"""Octaves between two labels of the axis: a factor of 16."""
_TOLD_NS: Final = 1e6
"""CPU time of the collector at a program's start that is told from here on."""
NOTHING: Final = "\N{EN DASH}"

Values = dict[str, object]


@dataclass(frozen=True, slots=True)
class Bar:
    """One octave of a histogram: the share of each side's observations in it, as pixels."""

    x: float
    width: float
    before_top: float
    before_height: float
    after_top: float
    after_height: float
    title: str


def line(figures: Figures | None) -> str:
    """Return one line on the machine and the collector; empty: nothing is known."""
    if figures is None:
        return ""
    parts = []
    cost = figures.median("collector.lasting_percent")
    cost = figures.median("collector.percent") if cost is None else cost
    if cost is not None:
        dearest = ""
        if figures.programs:
            first = figures.programs[0]
            dearest = (
                f" ({visible(first.name)} {duration(first.average_ns)}"
                f" x {first.events_per_second:,.0f}/s)"
            )
        start_ns = figures.median("collector.start_cpu_ns") or 0.0
        once = f" and {duration(start_ns)} once, at the start" if start_ns >= _TOLD_NS else ""
        parts.append(f"collector {metric_text('percent', cost)} of a CPU{dearest}{once}")
    delay = figures.median("run_queue.percent")
    if delay is not None:
        worst = figures.median("run_queue.p99_ms")
        late = "" if worst is None else f" (99 % of the waits under {metric_text('_ms', worst)})"
        told = metric_text("run_queue.percent", delay)
        parts.append(f"the benchmark waited for a CPU {told} of the time{late}")
    latency = figures.median("block_io.p99_ms")
    requests = figures.median("block_io.requests")
    if latency is not None and requests != 0:  # of none, 0 ms would be told as the latency
        parts.append(f"99 % of the disk requests under {metric_text('_ms', latency)}")
    return "; ".join(parts)


def values(figures: Figures | None) -> Values | None:
    """Return what the page's template needs; None where there is nothing to show."""
    if figures is None or not (figures.metrics or figures.histograms):
        return None
    metrics = [each for name, each in figures.metrics.items() if not name.startswith(PROGRAM)]
    compared = any(each.before for each in metrics) or any(
        before.count for before, _ in figures.histograms.values()
    )
    return {
        "summary": line(figures),
        "compared": compared,
        "programs": [
            {
                "name": visible(each.name),
                "events": f"{each.events_per_second:,.0f}",
                "average": duration(each.average_ns),
                "percent": metric_text("percent", each.percent),
            }
            for each in figures.programs
        ],
        "metrics": [_metric(each) for each in metrics[:METRICS]],
        "metrics_left_out": max(0, len(metrics) - METRICS),
        "histograms": [
            _histogram(name, before, after, compared=compared)
            for name, (before, after) in list(figures.histograms.items())[:HISTOGRAMS]
            if before.count or after.count
        ],
        "width": WIDTH,
        "height": HEIGHT + _AXIS,
    }


def document(figures: Figures | None) -> Values | None:
    """Return the same for `verdict.json`: every process's value, every bucket."""
    if figures is None:
        return None
    return {
        "metrics": {
            name: {"before": list(each.before), "after": list(each.after)}
            for name, each in figures.metrics.items()
        },
        "histograms": {
            name: {"before": _buckets(before), "after": _buckets(after)}
            for name, (before, after) in figures.histograms.items()
        },
        "programs": [
            {
                "name": each.name,
                "events_per_second": each.events_per_second,
                "average_ns": each.average_ns,
                "percent": each.percent,
            }
            for each in figures.programs
        ],
    }


def _buckets(histogram: Histogram) -> list[list[int]]:
    return [[Histogram.upper(bucket), n] for bucket, n in sorted(histogram.counts.items()) if n]


def _metric(each: Metric) -> Values:
    def shown(side: tuple[float, ...]) -> str:
        return metric_text(each.name, median(side)) if side else NOTHING

    return {
        "name": visible(each.name),
        "before": shown(each.before),
        "after": shown(each.after),
        "range": _range(each),
    }


def _range(each: Metric) -> str:
    if len(each.after) < 2:  # noqa: PLR2004 - a range needs two
        return ""
    low, high = min(each.after), max(each.after)
    return f"{metric_text('', low)} to {metric_text(each.name, high)}"


def _histogram(name: str, before: Histogram, after: Histogram, *, compared: bool) -> Values:
    one, other = _octaves(before), _octaves(after)
    first = min([*one, *other])
    last = max([*one, *other])
    octaves = range(first, max(last, first + 3) + 1)
    step = WIDTH / len(octaves)
    highest = max(
        [n / max(before.count, 1) for n in one.values()]
        + [n / max(after.count, 1) for n in other.values()]
    )
    bars = []
    for number, octave in enumerate(octaves):
        shares = (
            one.get(octave, 0) / max(before.count, 1),
            other.get(octave, 0) / max(after.count, 1),
        )
        heights = [round(HEIGHT * share / highest, 1) for share in shares]
        low, high = _edges(octave)
        sides = (
            f"{one.get(octave, 0):,} before, {other.get(octave, 0):,} after"
            if compared
            else f"{other.get(octave, 0):,}"
        )
        bars.append(
            Bar(
                round(number * step + 1, 1),
                round(step - 2, 1),
                HEIGHT - heights[0],
                heights[0],
                HEIGHT - heights[1],
                heights[1],
                f"{low} to {high}: {sides}",
            )
        )
    labels = [
        {"x": round(number * step, 1), "text": _edges(octave)[0]}
        for number, octave in enumerate(octaves)
        if (octave - first) % _LABELS == 0
    ]
    rows = [
        {
            "range": f"{_edges(octave)[0]} to {_edges(octave)[1]}",
            "before": f"{one.get(octave, 0):,}",
            "after": f"{other.get(octave, 0):,}",
        }
        for octave in octaves
    ]
    return {
        "name": visible(name),
        "told": _told(before, after, compared=compared),
        "bars": bars,
        "labels": labels,
        "rows": rows,
        "base": HEIGHT,
        "text": HEIGHT + _AXIS - 4,
    }


def _octaves(histogram: Histogram) -> Mapping[int, int]:
    """Return octave -> observations; octave 0 holds 0 and 1 us."""
    found: dict[int, int] = {}
    for bucket, count in histogram.counts.items():
        octave = bucket // HISTOGRAM_OCTAVE
        found[octave] = found.get(octave, 0) + count
    return found


def _edges(octave: int) -> tuple[str, str]:
    """Return the ends of an octave in their own unit: `16 µs`, `32 µs`."""
    low = 0 if octave == 0 else 1 << octave
    return _time(low), _time(2 << octave)


def _time(microseconds: int) -> str:
    return duration(microseconds * 1000.0)


def _told(before: Histogram, after: Histogram, *, compared: bool) -> str:
    sides = (("before", before), ("after", after)) if compared else (("", after),)
    return "; ".join(
        f"{f'{name}: ' if name else ''}{each.count:,}, half under"
        f" {_time(each.percentile(0.5))}, 99 % under {_time(each.percentile(0.99))}"
        for name, each in sides
        if each.count
    )
