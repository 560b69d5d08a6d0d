"""Stage 6, pure: a Verdict as OpenMetrics text: GitLab's metrics report, Prometheus, Grafana.

Reference: https://github.com/prometheus/OpenMetrics/blob/main/specification/OpenMetrics.md.
GitLab splits each line as a shell would and takes a `#` anywhere for a comment, so that no label
holds one.
"""

import math
from collections.abc import Iterator
from typing import Final

from ci_flame.diff import Change
from ci_flame.profile import TOTAL, Frame, Mode
from ci_flame.report import alone, terminal
from ci_flame.report.findings import NAME, line, worst_first
from ci_flame.verdict import BenchmarkVerdict, Finding, Outcome, Sort, Verdict

BENCHMARKS: Final = 100
"""Benchmarks with series of their own, the worst first."""
FUNCTIONS: Final = 10
"""Functions of each: those of findings, then those that changed most."""
SAMPLES: Final = 2_000
"""In all; what is left out is counted, and stands in `verdict.json`."""

Labels = tuple[tuple[str, str], ...]

FAMILIES: Final = {
    "ci_flame_benchmarks": ("", "Benchmarks by outcome."),
    "ci_flame_cost_seconds": (
        "seconds",
        "Cost per iteration at the baseline's machine speed, callees included but for cost=own.",
    ),
    "ci_flame_share_ratio": ("ratio", "Part of the benchmark."),
    "ci_flame_growth_ratio": ("ratio", "Change / cost before; what is new has none."),
    "ci_flame_growth_low_ratio": ("ratio", "Lower end of the 90 % interval of the growth."),
    "ci_flame_growth_high_ratio": ("ratio", "Upper end of the 90 % interval of the growth."),
    "ci_flame_limit_ratio": ("ratio", "Limit that a finding passed: growth, or a budget's share."),
    "ci_flame_limit_seconds": ("seconds", "Limit that a finding passed, as time per iteration."),
    "ci_flame_smallest_visible_ratio": (
        "ratio",
        "Smallest growth that would have been seen in a function of 5 % or more.",
    ),
    "ci_flame_left_out": ("", "What has no series of its own here."),
}
"""Name -> unit, help; all are gauges."""


class _Series:
    """Samples by family, at most SAMPLES of them."""

    def __init__(self, name: str) -> None:
        self._always: Labels = (("key", line(name, NAME)),) if name else ()
        self._samples: dict[str, dict[Labels, float]] = {family: {} for family in FAMILIES}
        self.number = 0

    def add(self, family: str, value: float | None, *labels: tuple[str, str]) -> None:
        """Keep one sample; the first of equal labels counts, what is no number is not told."""
        if value is None or not math.isfinite(value):
            return
        where = self._samples[family]
        key = (*self._always, *labels)
        self.number += key not in where
        where.setdefault(key, float(f"{value:.9g}"))

    def lines(self) -> Iterator[str]:
        """Yield the lines of the exposition."""
        for family, (unit, told) in FAMILIES.items():
            samples = self._samples[family]
            if not samples:
                continue
            yield f"# TYPE {family} gauge"
            if unit:
                yield f"# UNIT {family} {unit}"
            yield f"# HELP {family} {told}"
            for labels, value in samples.items():
                inside = ",".join(f'{name}="{_escaped(text)}"' for name, text in labels)
                yield f"{family}{{{inside}}} {value!r}" if inside else f"{family} {value!r}"
        yield "# EOF"


def render(verdict: Verdict, *, name: str = "") -> str:
    """Return the exposition, ending in `# EOF`; the same verdict gives the same bytes.

    `name` tells the legs of a matrix apart: it becomes the label `key`.
    """
    series = _Series(name)
    for outcome in Outcome:
        count = verdict.counts.get(outcome, 0)
        series.add("ci_flame_benchmarks", count, ("outcome", outcome.value))
    ordered = list(worst_first(verdict))
    kept = ordered[:BENCHMARKS]
    for each in kept:
        _benchmark(series, each)
    functions = 0
    for each in kept:
        functions += _functions(series, each)
    told = (("benchmarks", len(ordered) - len(kept)), ("functions", functions))
    for what, number in told:
        series.add("ci_flame_left_out", number, ("what", what))
    return "\n".join(series.lines()) + "\n"


def _labels(each: BenchmarkVerdict, function: Frame) -> Labels:
    return (
        ("benchmark", line(each.benchmark, NAME)),
        ("mode", str(each.mode)),
        ("function", line(str(function), NAME)),
    )


def _cost(finding: Finding) -> Labels:
    """Return what tells the cost that a rule limits from that of all calls, with callees."""
    own = (("cost", "own"),) if finding.self_only else ()
    return (*own, ("under", line(finding.under, NAME))) if finding.under else own


def _benchmark(series: _Series, each: BenchmarkVerdict) -> None:
    labels = _labels(each, TOTAL)
    if each.diff is not None:
        _change(series, labels, each.diff.total, share=False)
    else:
        told = alone.document(each.alone, Mode(each.mode)) or {}
        per = told.get("per_iteration_ns")
        if isinstance(per, float):
            series.add("ci_flame_cost_seconds", per / 1e9, *labels, ("side", "after"))
    series.add("ci_flame_smallest_visible_ratio", each.smallest_visible, *labels[:2])
    _limits(series, [one for one in each.findings if one.frame == TOTAL], labels)


def _functions(series: _Series, each: BenchmarkVerdict) -> int:
    """Add the functions that findings and changes are about; return how many are left out."""
    if each.diff is None:
        return _alone(series, each)
    blamed = {finding.frame for finding in each.findings}
    changed = terminal.changed(each)
    ordered = [f for f in changed if f.frame in blamed] + [
        f for f in changed if f.frame not in blamed
    ]
    for number, function in enumerate(ordered):
        if number >= FUNCTIONS or series.number >= SAMPLES:
            return len(ordered) - number
        labels = _labels(each, function.frame)
        _change(series, labels, function.total, share=True)
        for finding in each.findings:
            if finding.frame == function.frame and finding.figure is None:
                here = (*labels, *_cost(finding))
                if not finding.since:
                    _change(series, here, finding.change, share=True)
                _limits(series, [finding], here)
    return 0


def _alone(series: _Series, each: BenchmarkVerdict) -> int:
    """Add the functions that are past a budget, where there is nothing to compare with."""
    found = [finding for finding in each.findings if finding.frame != TOTAL and not finding.figure]
    for finding in found[:FUNCTIONS]:
        labels = _labels(each, finding.frame)
        change = finding.change
        series.add("ci_flame_cost_seconds", change.after_ns / 1e9, *labels, ("side", "after"))
        series.add("ci_flame_share_ratio", change.after_share, *labels, ("side", "after"))
        _limits(series, [finding], labels)
    return max(0, len(found) - FUNCTIONS)


def _change(series: _Series, labels: Labels, change: Change, *, share: bool) -> None:
    for side in ("before", "after"):
        cost, part = getattr(change, f"{side}_ns"), getattr(change, f"{side}_share")
        series.add("ci_flame_cost_seconds", cost / 1e9, *labels, ("side", side))
        if share:
            series.add("ci_flame_share_ratio", part, *labels, ("side", side))
    series.add("ci_flame_growth_ratio", change.growth, *labels)
    series.add("ci_flame_growth_low_ratio", change.low, *labels)
    series.add("ci_flame_growth_high_ratio", change.high, *labels)


def _limits(series: _Series, findings: list[Finding], labels: Labels) -> None:
    for finding in findings:
        if finding.figure is not None:
            continue
        rule = finding.rule
        limit = rule.budget if finding.sort is Sort.BUDGET else rule.max_growth
        if limit is not None:
            kind = ("sort", finding.sort.value)
            seconds = None if limit.ns is None else limit.ns / 1e9
            series.add("ci_flame_limit_ratio", limit.share, *labels, kind)
            series.add("ci_flame_limit_seconds", seconds, *labels, kind)


def _escaped(text: str) -> str:
    text = text.replace("\\", "\\\\").replace('"', '\\"').replace("\n", "\\n")
    return text.replace("#", "\\\\x23")
