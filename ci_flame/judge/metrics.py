"""Stage 5, pure: rules about figures that are not stacks, and the collector's own cost.

    - {metric: run_queue.p99_ms, max: 5, severity: warn}

A benchmark's value is the median over its processes. `max` needs one side only; growth is
judged against the spread between processes, and never with fewer than three of them.
"""

import difflib
from collections.abc import Sequence
from dataclasses import dataclass
from statistics import median
from typing import Final

import numpy as np

from ci_flame import noise
from ci_flame.diff import NOTHING
from ci_flame.diff.figures import Figures, Metric
from ci_flame.policy import Policy, Rule, Severity, matches_name
from ci_flame.profile import Frame, Kind
from ci_flame.verdict import Figure, Finding, Note, Outcome, Sort, limit_text, metric_text

_SHOWN: Final = 8
"""Names of metrics that a note lists."""
LEAST_PROCESSES: Final = 3
"""A side; two say nothing of how far processes spread."""


@dataclass(frozen=True, slots=True)
class Judged:
    """What the metric rules make of a benchmark."""

    findings: tuple[Finding, ...] = ()
    notes: tuple[Note, ...] = ()
    outcome: Outcome = Outcome.PASS


def overhead(cost: float | None, policy: Policy, benchmark: str) -> Note | None:
    """Return why the recording is not believed: the collector itself cost too much.

    `cost`: percent of one CPU (`Figures.own_cost_percent`); it is the same for all modes of a
    benchmark, which one collector recorded in the same rounds.
    """
    if cost is None or cost <= policy.max_overhead * 100:
        return None
    limit = limit_text(share=policy.max_overhead)
    text = metric_text("collector.percent", cost, above=policy.max_overhead * 100)
    return Note(
        "overhead",
        f"the collector took {text} of a CPU while the benchmark ran, limit {limit}: costs are"
        " not the benchmark's own any more; record something that runs longer, or with a lower"
        " frequency (--flame-frequency, --frequency), or raise overhead: {max: …} in the policy",
        benchmark,
    )


def judge(
    figures: Figures | None, policy: Policy, benchmark: str, mode: str, *, family: int
) -> Judged:
    """Judge every metric rule that is about this benchmark; `family` as for functions."""
    rules = [
        rule
        for rule in policy.rules
        if rule.metric
        and not rule.is_exact
        and figures is not None
        and matches_name(rule.benchmarks, benchmark)
    ]
    findings: list[Finding] = []
    notes: list[Note] = []
    doubtful: list[Severity] = []
    asked = [(rule, _matching(figures, rule)) for rule in rules]
    level = policy.false_failures_per_build / max(family, 1)
    tests = sum(len(some) for rule, some in asked if rule.max_growth is not None)
    told: set[str] = set()
    for rule, metrics in asked:
        if not metrics and _did_not_occur(figures, rule):
            words = f"{rule.metric} did not occur: its script ran and has no such key, so it is 0"
            notes.append(Note("metric-zero", words, benchmark))
        elif not metrics:
            doubtful.append(rule.severity)
            notes.append(
                Note(
                    "metric-missing",
                    f"{rule.metric} was not recorded, so that the rule {rule.place} cannot be"
                    f" judged{_recorded(figures, rule)}",
                    benchmark,
                )
            )
        for metric in metrics:
            over = _above(rule, metric, benchmark, mode) or None
            doubt = None
            if over is None and rule.max_growth is not None and figures is not None:
                over, doubt = _grown(rule, metric, benchmark, mode, level / max(tests, 1))
            if over is not None and str(over) not in told:
                told.add(str(over))
                findings.append(over)
            if doubt is not None:
                notes.append(doubt)
                if doubt.slug == "metric-missing":
                    doubtful.append(rule.severity)
    outcome = Outcome.PASS
    if doubtful:
        outcome = Outcome.INCONCLUSIVE if Severity.FAIL in doubtful else Outcome.WARN
    return Judged(tuple(findings), tuple(notes), outcome)


def _did_not_occur(figures: Figures | None, rule: Rule) -> bool:
    """Tell whether a map of bpftrace has no such key because nothing like it happened.

    Such a key is not printed with 0. Where keys were left out, or a map was full, it may be one
    of those that are missing.
    """
    family, _, rest = rule.metric.partition(".")
    script = f"{family}.{rest.partition('.')[0]}"
    if family != "bpftrace" or figures is None or rule.max_growth is not None:
        return False
    ran, *less = (
        figures.metrics.get(f"{script}.{name}")
        for name in ("seconds", "keys_left_out", "full_maps")
    )
    return ran is not None and bool(ran.after) and not any(each and each.after for each in less)


def _recorded(figures: Figures | None, rule: Rule) -> str:
    """Return what was recorded instead: the name that is nearest, or what others there are."""
    names = (
        [] if figures is None else [name for name, each in figures.metrics.items() if each.after]
    )
    if near := difflib.get_close_matches(rule.metric, names, n=1, cutoff=0.7):
        return f"; {near[0]} was, is it meant?"
    family = rule.metric.partition(".")[0]
    alike = [name for name in names if name.startswith(f"{family}.") and name.count(".") == 1]
    if alike:
        return f"; of {family} there are {', '.join(alike[:_SHOWN])}"
    return "; `ci-flame doctor` says what the collectors can tell here"


def _matching(figures: Figures | None, rule: Rule) -> list[Metric]:
    if figures is None:
        return []
    return [
        metric
        for metric in figures.metrics.values()
        if metric.after and matches_name((rule.metric,), metric.name)
    ]


def _finding(rule: Rule, figure: Figure, benchmark: str, mode: str, certainty: float) -> Finding:
    frame = Frame(f"[{figure.name}]", "", Kind.MARK)
    return Finding(
        benchmark=benchmark,
        mode=mode,
        frame=frame,
        path=(frame,),
        change=NOTHING,
        outcome=Outcome.FAIL if rule.severity is Severity.FAIL else Outcome.WARN,
        rule=rule,
        limit=figure.limit,
        self_only=False,
        certainty=certainty,
        sort=Sort.METRIC,
        figure=figure,
    )


def _above(rule: Rule, metric: Metric, benchmark: str, mode: str) -> Finding | None:
    """Return the finding of a value above `max`."""
    if rule.maximum is None or metric.value <= rule.maximum:
        return None
    limit = metric_text(metric.name, rule.maximum)
    figure = Figure(metric.name, metric.value, None, len(metric.after), 0, limit, rule.maximum)
    return _finding(rule, figure, benchmark, mode, 1.0)


def _grown(
    rule: Rule, metric: Metric, benchmark: str, mode: str, level: float
) -> tuple[Finding | None, Note | None]:
    """Return the finding of growth past the limit, or the note on what cannot be judged."""
    limit = rule.max_growth
    assert limit is not None  # noqa: S101 - the caller has looked
    assert limit.share is not None  # noqa: S101 - what the policy's reader requires
    if not metric.before:
        words = f"{metric.name} has nothing to be compared with: the baseline did not record it"
        return None, Note("metric-missing", words, benchmark)
    counts = len(metric.before), len(metric.after)
    before, after = median(metric.before), metric.value
    growth = after / before - 1 if before > 0 else np.inf if after > 0 else 0.0
    if growth <= limit.share:
        return None, None
    sizes = f"{counts[0]} + {counts[1]} processes"
    told = metric_text(metric.name, before), metric_text(metric.name, after)
    if min(counts) < LEAST_PROCESSES:
        words = (
            f"{metric.name} went from {told[0]} to {told[1]}, and {sizes} cannot tell that from"
            f" noise; at least {LEAST_PROCESSES} on each side are needed"
        )
        return None, Note("metric-missing", words, benchmark)
    found = noise.compare_waits(
        _row(metric.before), _row(metric.after), float(counts[0]), float(counts[1])
    )
    sure = float(
        noise.probability_above(
            found.log_ratio, found.standard_error, found.degrees, float(np.log1p(limit.share))
        )[0]
    )
    real = float(noise.lower_tail(found.degrees, -found.t)[0]) <= level
    if not real or sure < rule.certainty:
        words = (
            f"{metric.name} went from {told[0]} to {told[1]} (medians of {sizes}), limit"
            f" {limit_text(share=limit.share)}, but its processes differ too much to be sure"
        )
        return None, Note("not-certain", words, benchmark)
    figure = Figure(
        metric.name,
        after,
        before,
        counts[1],
        counts[0],
        limit_text(share=limit.share),
        limit.share,
    )
    return _finding(rule, figure, benchmark, mode, sure), None


def _row(values: Sequence[float]) -> noise.Floats:
    return np.array([values], dtype=np.float64)
