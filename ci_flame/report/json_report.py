"""Stage 6, pure: a Verdict as `verdict.json` (schema: docs/verdict.schema.json).

Schema history:
1  first version
"""

import json
import math
import re
from collections.abc import Mapping
from collections.abc import Set as AbstractSet
from dataclasses import fields
from typing import Final

from ci_flame.diff import BenchmarkDiff, Change, FrameChange
from ci_flame.diff.counts import Work
from ci_flame.diff.timing import TimedChange
from ci_flame.profile import TOTAL, Environment, Frame, Mode, Place, Stack
from ci_flame.profile.counts import Count
from ci_flame.report import alone, machine, terminal
from ci_flame.verdict import BenchmarkVerdict, Figure, Finding, Note, Outcome, Verdict, located

SCHEMA_VERSION: Final = 1
FUNCTIONS: Final = 200
"""Functions kept per benchmark, those that changed most first; the number left out is told."""
FUNCTIONS_IN_ALL: Final = 10_000
"""With many benchmarks fewer are kept of each, but never under FEWEST."""
FEWEST: Final = 20

Json = dict[str, object]
Costs = Mapping[Stack, Change]
"""Box of the flame graph -> what it costs with callees."""

_SURROGATE: Final = re.compile("[\ud800-\udfff]")


def render(verdict: Verdict) -> str:
    """Return the text of `verdict.json`, ending in a newline; always legal JSON and UTF-8."""
    text = json.dumps(document(verdict), ensure_ascii=False, allow_nan=False, indent=1)
    # Names of files that are not UTF-8 carry lone surrogates, which UTF-8 cannot.
    return _SURROGATE.sub(lambda found: f"\\u{ord(found[0]):04x}", text) + "\n"


def document(verdict: Verdict) -> Json:
    """Return the document as plain values."""
    diff = verdict.diff
    kept = min(FUNCTIONS, max(FEWEST, FUNCTIONS_IN_ALL // max(len(verdict.benchmarks), 1)))
    return {
        "schema_version": SCHEMA_VERSION,
        "outcome": verdict.outcome.value,
        "counts": {outcome.value: verdict.counts.get(outcome, 0) for outcome in Outcome},
        "before": None if diff is None else _side(diff.before_commit, diff.before),
        "after": None if diff is None else _side(diff.after_commit, diff.after),
        "differences": [] if diff is None else list(diff.differences),
        "added": [] if diff is None else list(diff.added),
        "removed": [] if diff is None else list(diff.removed),
        "notes": [_note(each) for each in verdict.notes],
        "benchmarks": [_benchmark(each, verdict, kept) for each in verdict.benchmarks],
    }


def _side(commit: str, environment: Environment) -> Json:
    return {
        "commit": commit or None,
        "environment": {
            "architecture": environment.architecture,
            "cpu_model": environment.cpu_model,
            "cores": environment.cores,
            "kernel": environment.kernel,
            "python": environment.python,
            "collector": environment.collector,
            "event": environment.event,
            "frequency_hz": environment.frequency_hz,
            "ci_flame": environment.ci_flame,
        },
    }


def _benchmark(each: BenchmarkVerdict, verdict: Verdict, kept: int) -> Json:
    frames = () if each.diff is None else each.diff.frames
    costs = {} if each.diff is None else {node.path: node.total for node in each.diff.paths}
    listed = {frame.frame for frame in terminal.changed(each)}
    return {
        "benchmark": each.benchmark,
        "mode": str(each.mode),
        "outcome": each.outcome.value,
        "smallest_visible": _number(each.smallest_visible),
        "where": _where(located.benchmark_spot(each, verdict)),
        "findings": [_finding(finding, each, verdict, costs) for finding in each.findings],
        "waived": [_waived(finding, each, verdict, costs) for finding in each.waived],
        "notes": [_note(note) for note in each.notes],
        "diff": None if each.diff is None else _evidence(each.diff),
        "alone": None if each.diff is not None else alone.document(each.alone, Mode(each.mode)),
        "functions": [_function(frame, each.visible, listed) for frame in frames[:kept]],
        "functions_left_out": max(0, len(frames) - kept),
        "figures": machine.document(each.figures),
    }


def _evidence(diff: BenchmarkDiff) -> Json:
    return {
        "total": change(diff.total),
        "anchor": diff.anchor,
        "anchor_error": _number(diff.anchor_error),
        "references": _references(diff),
        "processes_before": diff.processes_before,
        "processes_after": diff.processes_after,
        "notes": list(diff.notes),
        "renamed": {str(after): str(before) for after, before in diff.renamed.items()},
    }


def _references(diff: BenchmarkDiff) -> Json:
    """Return the weights of the reference work in the clock that the costs were told by."""
    kinds = () if diff.columns is None else diff.columns.clock.kinds
    return {kind: 1.0 / len(kinds) for kind in kinds}


def _waived(finding: Finding, each: BenchmarkVerdict, verdict: Verdict, costs: Costs) -> Json:
    waiver = finding.waiver
    until = None if waiver is None else waiver.until.isoformat()
    reason = "" if waiver is None else waiver.reason
    told = _finding(finding, each, verdict, costs)
    return {**told, "waiver": {"until": until, "reason": reason}}


def _where(spot: located.Spot | None) -> Json | None:
    """Return where something is shown in the repository."""
    return None if spot is None else {"file": spot.file, "line": spot.line, "of": spot.of.value}


def _finding(finding: Finding, each: BenchmarkVerdict, verdict: Verdict, costs: Costs) -> Json:
    here, diff = None, each.diff
    if diff is not None and finding.figure is None:
        here = diff.total if finding.frame == TOTAL else costs.get(finding.path)
    return {
        "sentence": str(finding),
        "outcome": finding.outcome.value,
        "sort": finding.sort.value,
        "function": str(finding.frame),
        "kind": finding.frame.kind.value,
        "path": [str(frame) for frame in finding.path],
        **_place(finding.place),
        "where": _where(located.spot(finding, each, verdict)),
        "self_only": finding.self_only,
        "change": change(finding.change),
        "impact": _impact(finding, diff),
        "path_change": None if here is None else change(here),
        "path_costs": _path_costs(finding, costs),
        "under": finding.under,
        "limit": finding.limit,
        "budget_interval": None
        if finding.budget_interval is None
        else [_number(end) for end in finding.budget_interval],
        "certainty": _number(finding.certainty),
        "rule": {
            "frames": list(finding.rule.frames),
            "benchmarks": list(finding.rule.benchmarks),
            "severity": finding.rule.severity.value,
            "place": finding.rule.place,
        },
        "metric": _figure(finding.figure),
        "counts": _counts(finding.counted),
        "timed": _timed(finding.timing),
        "cause": finding.cause,
        "work": finding.work,
        "changed": finding.changed,
        "was": finding.was,
        "touched": str(finding.touched) or None,
    }


def _path_costs(finding: Finding, costs: Costs) -> list[list[float | None]] | None:
    """Return both costs of each box on the way to the function; None where one is not drawn."""
    if finding.figure is not None or finding.frame == TOTAL:
        return None
    boxes = [costs.get(finding.path[: depth + 1]) for depth in range(len(finding.path))]
    if not all(boxes):
        return None
    return [[_number(box.before_ns), _number(box.after_ns)] for box in boxes if box is not None]


def _counts(work: Work | None) -> Json | None:
    """Return both sides of each exact count, `[before, after]`."""
    if work is None:
        return None
    return {
        each.name: [getattr(work.before, each.name), getattr(work.after, each.name)]
        for each in fields(Count)
    }


def _timed(timing: TimedChange | None) -> Json | None:
    """Return what timing a function call by call says of it."""
    if timing is None:
        return None
    return {
        "before_ns": _number(timing.before_ns),
        "after_ns": _number(timing.after_ns),
        "growth": _number(timing.growth),
        "low": _number(timing.low),
        "high": _number(timing.high),
        "calls": [_number(timing.calls_before), _number(timing.calls_after)],
        "growth_per_call": _number(timing.per_call),
        "processes_before": timing.processes_before,
        "processes_after": timing.processes_after,
    }


def _figure(figure: Figure | None) -> Json | None:
    if figure is None:
        return None
    return {
        "name": figure.name,
        "before": _number(figure.before),
        "after": _number(figure.value),
        "threshold": _number(figure.threshold),
    }


def _impact(finding: Finding, diff: BenchmarkDiff | None) -> float | None:
    if diff is None or diff.total.before_ns <= 0 or finding.figure is not None:
        return None
    return _number((finding.change.after_ns - finding.change.before_ns) / diff.total.before_ns)


def _function(frame: FrameChange, seen: Mapping[Frame, float], listed: AbstractSet[Frame]) -> Json:
    return {
        "function": str(frame.frame),
        "kind": frame.frame.kind.value,
        **_place(frame.place),
        "path": [str(each) for each in frame.path],
        "smallest_visible": _number(seen.get(frame.frame)),
        "changed": frame.frame in listed,
        "own": change(frame.own),
        "total": change(frame.total),
    }


def _place(place: Place | None) -> Json:
    return {
        "file": None if place is None else place.file,
        "line": None if place is None else place.line,
    }


def _note(note: Note) -> Json:
    told: Json = {"slug": note.slug, "text": note.text, "benchmark": note.benchmark or None}
    return told | {"commit": note.commit} if note.commit else told


def change(change: Change) -> Json:
    """Return one change; infinity, which JSON lacks, is null, and `new` or `gone` says why."""
    return {
        "before_ns": _number(change.before_ns),
        "after_ns": _number(change.after_ns),
        "before_share": _number(change.before_share),
        "after_share": _number(change.after_share),
        "growth": _number(change.growth),
        "low": _number(change.low),
        "high": _number(change.high),
        "log_ratio": _number(change.log_ratio),
        "standard_error": _number(change.standard_error),
        "degrees": _number(change.degrees),
        "p_value": _number(change.p_value),
        "samples_before": int(change.samples_before),
        "samples_after": int(change.samples_after),
        "new": bool(change.before_ns <= 0 < change.after_ns),
        "gone": bool(change.after_ns <= 0 < change.before_ns),
    }


def _number(value: float | None) -> float | None:
    """Return a finite number or None; float() because json cannot write numpy's scalars."""
    return float(value) if value is not None and math.isfinite(value) else None
