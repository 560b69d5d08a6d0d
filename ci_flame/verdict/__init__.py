"""Model, pure: what the judge decided, the only input of every reporter, exit code and pytest item.

`str(finding)` is the sentence. Nothing downstream decides, rounds or words it again.
"""

from dataclasses import dataclass, field
from enum import StrEnum
from math import isfinite
from typing import TYPE_CHECKING, Final

from ci_flame.profile import TOTAL, Mode
from ci_flame.verdict.outcome import Outcome as Outcome
from ci_flame.verdict.outcome import counted as counted
from ci_flame.verdict.outcome import overall as overall
from ci_flame.verdict.outcome import severity_of as severity_of
from ci_flame.verdict.outcome import worst as worst

if TYPE_CHECKING:
    from collections.abc import Mapping

    from ci_flame.diff import BenchmarkDiff, Change, RunDiff
    from ci_flame.diff.counts import Work
    from ci_flame.diff.figures import Figures
    from ci_flame.diff.timing import TimedChange
    from ci_flame.policy import Policy, Rule, Waiver
    from ci_flame.profile import Frame, Measurement, Place, Stack
    from ci_flame.verdict import touch
    from ci_flame.verdict.located import Located


class Sort(StrEnum):
    """What a finding is about."""

    GROWTH = "growth"
    """Cost grew past `max_growth`; what is new grew without bound."""
    BUDGET = "budget"
    """Cost is past `budget`, whatever it was before."""
    METRIC = "metric"
    """A figure that is not of stacks is past `max`, or grew past `max_growth`."""
    CREEP = "creep"
    """Cost grew past `max_growth` since the fixed anchor, and not since the baseline."""
    COUNT = "count"
    """Exact counts (bytecodes, calls) of a function are past `max`, or grew past `max_growth`."""


@dataclass(frozen=True, slots=True)
class Figure:
    """A metric that broke a rule; medians over processes."""

    name: str
    """`run_queue.p99_ms`; the last part says the unit."""
    value: float
    before: float | None
    """None: its value is past `max`, whatever it was before."""
    processes: int
    processes_before: int
    limit: str
    """In words."""
    threshold: float
    """What was passed: the value, or the growth as a share."""


@dataclass(frozen=True, slots=True)
class Finding:
    """One hot path that broke one rule; `str()` is the sentence that everyone prints."""

    benchmark: str
    mode: str
    frame: "Frame"
    """The function that explains the growth; `profile.TOTAL` for the benchmark itself."""
    path: "Stack"
    """The heaviest call path to it, outermost first, ending in `frame`."""
    change: "Change"
    outcome: Outcome
    """FAIL or WARN."""
    rule: "Rule"
    limit: str
    """The limit that was passed, as the policy writes it."""
    self_only: bool
    """True: the change is of own cost; False: of own cost and callees."""
    certainty: float
    """Probability that the true growth is past the limit."""
    place: "Place | None" = None
    work: str = ""
    """`Same calls, dearer: 0 % more bytecodes.` where exact counts exist."""
    changed: str = ""
    """`Changed in this diff: src/shop/parser.py:88.` where the diff is known."""
    touched: str = ""
    """Which of `judge.touched.Touch` that says (`changed`, `calls`, …); empty: not known."""
    changed_at: "touch.Spot | None" = None
    """The line that the diff changed in the function itself, from the repository's root."""
    sort: Sort = Sort.GROWTH
    under: str = ""
    """The caller, where only the calls from there grew; empty: all calls of the function."""
    cause: str = ""
    """`Most of the growth (90 %) is in shop.parser:tokenize.` where a callee explains it that no
    rule names."""
    budget_interval: "tuple[float, float] | None" = None
    """90 % interval of what a budget limits: share of the benchmark, or ns per iteration."""
    since: str = ""
    """The anchor that it grew since (`1a2b3c4d5e of 2026-09-01`); empty: the baseline."""
    figure: Figure | None = None
    """What a metric's rule found; `frame` is then its name in brackets, and no code. Of exact
    counts it is the function that was counted."""
    timed: str = ""
    """`Timed directly: +29 % (27-31 %), 1,200 calls as before, each 29 % dearer.`"""
    timing: "TimedChange | None" = None
    """How it was timed call by call, from which `timed` was worded."""
    was: str = ""
    """The function's name before, where it has another one now."""
    counted: "Work | None" = None
    """Bytecodes and calls of both sides, from which `work` was worded."""
    waiver: "Waiver | None" = None
    """What lets it pass for now."""

    @property
    def waiting(self) -> bool:
        """Tell whether it is about time spent waiting."""
        return self.mode == Mode.OFF_CPU

    @property
    def of_code(self) -> bool:
        """Tell whether it is about functions, not about a metric of the machine."""
        return self.figure is None or self.sort is Sort.COUNT

    def __str__(self) -> str:
        """Return the sentence; rounded so that no figure contradicts the decision."""
        if self.figure is not None and self.sort is Sort.COUNT:
            counted = f"{self.benchmark}: {_counted(self, self.figure)}."
            return " ".join(filter(None, (counted, self.changed)))
        if self.figure is not None:
            return f"{self.benchmark}: {_metric(self.figure)}; limit {self.limit}."
        budget = self.sort is Sort.BUDGET
        said = _budget(self) if budget else _new(self) if not self.change.before_ns else _grew(self)
        if self.since:
            said = f"slow creep: {said}, since the anchor {self.since}"
        extras = (self.cause, self.timed, self.work, self.changed)
        limit = f"{'budget' if budget else 'limit'} {self.limit}"
        growth = self.rule.max_growth
        shared = growth is not None and growth.share is not None
        if not budget and not self.change.before_ns and self.rule.min_impact > 0 and shared:
            # A limit on growth would seem to contradict the figure: new cost has no growth.
            limit = f"what is new may take {_plain(self.rule.min_impact * 100)} %"
        return " ".join(
            [f"{self.benchmark}: {said}; {limit}.", *(extra for extra in extras if extra)]
        )


@dataclass(frozen=True, slots=True)
class Note:
    """Something the reader must know that is not a finding: absence, blindness, noise."""

    slug: str
    """Stable short name (`new-benchmark`, `other-machine`, `not-certain`, `moved`)."""
    text: str
    benchmark: str = ""
    commit: str = ""
    """Recorded in this build, and compared with instead of what is stored; empty: none is."""


LEFT_OUT: Final = frozenset({"waits-instead", "no-waits"})
"""Notes that say why growth in this mode says nothing: hardly on the CPU, hardly waiting."""
NOT_JUDGED: Final = "not judged"


@dataclass(frozen=True, slots=True)
class BenchmarkVerdict:
    """One benchmark's outcome with all that it was decided from."""

    benchmark: str
    mode: str
    outcome: Outcome
    findings: tuple[Finding, ...]
    notes: tuple[Note, ...]
    diff: "BenchmarkDiff | None"
    """None where there was nothing to compare with."""
    smallest_visible: float | None = None
    """Smallest growth that would have been seen in a function of 5 % or more (0.06 = 6 %)."""
    figures: "Figures | None" = None
    """Metrics, latencies and the collector's cost; with the first mode of a benchmark only."""
    visible: "Mapping[Frame, float]" = field(default_factory=dict)
    """Smallest growth that would have been seen, by function that was judged (0.06 = 6 %)."""
    alone: "Measurement | None" = field(default=None, repr=False, compare=False)
    """What was recorded, where there was nothing to compare it with: shown as it is."""
    waived: tuple[Finding, ...] = ()
    """What a waiver lets pass; told in a note, no finding."""
    rules: "tuple[Rule, ...]" = field(default=(), repr=False)
    """The rules on stacks that it was judged by; empty: not known, or none."""

    @property
    def unjudged(self) -> bool:
        """Tell whether there is a comparison, and what was recorded did not let it be judged."""
        return (
            self.outcome is Outcome.INCONCLUSIVE
            and self.smallest_visible is None
            and not self.visible
        )

    @property
    def left_out(self) -> bool:
        """Tell whether this mode is not what the benchmark spends its time in: not judged at all.

        It passes, and is shown as what it is.
        """
        slugs = {note.slug for note in self.notes}
        return self.outcome is Outcome.PASS and not slugs.isdisjoint(LEFT_OUT)

    @property
    def word(self) -> str:
        """Return the outcome as reports show it: `pass`, `fail`, or `not judged`."""
        return NOT_JUDGED if self.left_out else self.outcome.value

    def is_read(self, frame: "Frame", path: "Stack") -> bool:
        """Tell whether a rule reads a function, whose heaviest call path is `path`."""
        if not self.rules:
            return frame.kind != "kernel"  # which only globs for the kernel read
        return any(rule.matches_frame(frame) or rule.matches_path(path) for rule in self.rules)


@dataclass(frozen=True, slots=True)
class Verdict:
    """The whole build: `overall` of its benchmarks."""

    outcome: Outcome
    benchmarks: tuple[BenchmarkVerdict, ...]
    notes: tuple[Note, ...]
    diff: "RunDiff | None"
    policy: "Policy"
    located: "Located | None" = None
    """Where files are in the repository; None: there is none, or it was not asked."""

    @property
    def counts(self) -> "Mapping[Outcome, int]":
        """Return how many benchmarks have each outcome, worst first; all modes are one."""
        return counted((each.benchmark, each.outcome) for each in self.benchmarks)


_UNITS: Final = (("ns", 1.0), ("µs", 1e3), ("ms", 1e6), ("s", 1e9))
_MOST_DECIMALS: Final = 9
"""A figure that still cannot be told from the limit is said to be "just over" it."""


def limit_text(*, share: float | None = None, ns: float | None = None) -> str:
    """Return a limit as sentences show it: `10 %`, `2 ms`."""
    if share is not None:
        return f"{_plain(share * 100)} %"
    if ns is None:
        return "none"
    unit, size = _unit(ns)
    return f"{_plain(ns / size)} {unit}"


def _plain(value: float) -> str:
    return f"{value:.6f}".rstrip("0").rstrip(".")


def _unit(ns: float) -> tuple[str, float]:
    """Return the unit in which a duration has one to three digits before the point."""
    for unit, size in _UNITS:
        if abs(ns) / size < 999.5:  # noqa: PLR2004 - 999.5 would print as 1000
            return unit, size
    return _UNITS[-1]


def _digits(value: float) -> int:
    """Return the decimals that leave three digits: 75.2, 7.52, 752."""
    return 0 if abs(value) >= 99.95 else 1 if abs(value) >= 9.995 else 2  # noqa: PLR2004


def duration(ns: float) -> str:
    """Return a duration in its own unit, three digits: `75.2 µs`."""
    unit, size = _unit(ns)
    return f"{ns / size:.{_digits(ns / size)}f} {unit}"


def _between(low: float, high: float) -> str:
    """Return a range of durations: `134-177 µs`, or `986 µs to 1.33 ms`."""
    one, other = duration(low), duration(high)
    value, _, unit = one.partition(" ")
    return f"{value}-{other}" if other.endswith(f" {unit}") else f"{one} to {other}"


def percent(share: float, *, above: float | None = None, decimals: int | None = None) -> str:
    """Return a share in percent without the sign; the printed figure stays above `above`.

    Ten percent and more have no decimals unless the limit needs them: 10.04 % against a limit
    of 10 % is `10.04`, never `10`.
    """
    value = share * 100
    if decimals is None:
        decimals = 0 if abs(value) >= 9.95 else 1  # noqa: PLR2004 - 9.95 would print as 10.0
    if above is not None and share > above:
        while decimals < _MOST_DECIMALS and float(f"{value:.{decimals}f}") <= above * 100 + 1e-9:
            decimals += 1
    text = f"{value:.{decimals}f}"
    return text.removeprefix("-") if float(text) == 0 else text


def _costs(before: float, after: float, *, more_than: float | None = None) -> str:
    """Return `60.1 -> 75.2 µs`; told apart, and by more than `more_than` where that is given."""
    unit, size = _unit(max(before, after))
    decimals = _digits(max(before, after) / size)
    least = 0.0 if more_than is None or after - before <= more_than else more_than / size
    while decimals < _MOST_DECIMALS:
        one, other = f"{before / size:.{decimals}f}", f"{after / size:.{decimals}f}"
        if before == after or (float(other) - float(one)) * (1 if after > before else -1) > least:
            break
        decimals += 1
    return f"{before / size:.{decimals}f} -> {after / size:.{decimals}f} {unit}"


def _range(low: float, high: float) -> str:
    """Return the 90 % interval of growth as ` (18-33 %)`; empty where an end is open."""
    if not isfinite(low) or not isfinite(high):
        return ""
    return f" ({ends_of(low, high)} %)"


def ends_of(low: float, high: float) -> str:
    """Return both ends with the same decimals; `to` where a minus would read as a dash."""
    decimals = 0 if round(low * 100) != round(high * 100) else 1
    one, other = percent(low, decimals=decimals), percent(high, decimals=decimals)
    return f"{one} to {other}" if one.startswith("-") else f"{one}-{other}"


def _shares(before: float, after: float) -> str:
    """Return `12 -> 15 %`, with a decimal where whole percents do not tell them apart."""
    for decimals in (0, 1, 2):
        one, other = percent(before, decimals=decimals), percent(after, decimals=decimals)
        if one != other:
            return f"{one} -> {other} %"
    return f"{percent(after)} %"


def _subject(finding: Finding) -> str:
    if finding.frame == TOTAL:
        return "the benchmark itself"
    name = str(finding.frame)
    if finding.was:
        name = f"{name} (was {finding.was})"
    if finding.self_only:
        name = f"own cost of {name}"
    return f"{name} under {finding.under}" if finding.under else name


def _whole(finding: Finding) -> str:
    """Return what shares are shares of."""
    return "the waiting" if finding.waiting else "the benchmark"


def _grew(finding: Finding) -> str:
    change, limit = finding.change, finding.rule.max_growth
    growth = change.growth
    above = None if limit is None or limit.share is None else limit.share
    more_than = None if limit is None else limit.ns
    by = f"{percent(growth, above=above)} %"
    said = (
        f"{_subject(finding)} {f'waits {by} longer' if finding.waiting else f'grew by {by}'}"
        f"{_range(change.low, change.high)}, "
        f"{_costs(change.before_ns, change.after_ns, more_than=more_than)} per iteration"
    )
    if finding.frame == TOTAL:
        return said
    return f"{said}, {_shares(change.before_share, change.after_share)} of {_whole(finding)}"


def _new(finding: Finding) -> str:
    change = finding.change
    # A function that waits now may be an old one: what is new is its waiting.
    new = "did not wait before, and now waits" if finding.waiting else "is new:"
    return (
        f"{_subject(finding)} {new} {duration(change.after_ns)} per iteration, "
        f"{percent(change.after_share, above=finding.rule.min_impact)} % of {_whole(finding)}"
    )


def _budget(finding: Finding) -> str:
    change, budget = finding.change, finding.rule.budget
    ends = finding.budget_interval
    verb = "waits" if finding.waiting else "takes"
    if budget is not None and budget.share is not None and change.after_share > budget.share:
        between = f" ({ends_of(*ends)} %)" if ends else ""
        return (
            f"{_subject(finding)} takes {percent(change.after_share, above=budget.share)} %"
            f"{between} of {_whole(finding)}, {duration(change.after_ns)} per iteration"
        )
    unit, size = _unit(change.after_ns)
    decimals = _digits(change.after_ns / size)
    over = budget.ns if budget is not None and budget.ns is not None else 0.0
    while decimals < _MOST_DECIMALS and change.after_ns > over:
        if float(f"{change.after_ns / size:.{decimals}f}") * size > over * (1 + 1e-12):
            break
        decimals += 1
    between = f" ({_between(*ends)})" if ends else ""
    said = (
        f"{_subject(finding)} {verb} {change.after_ns / size:.{decimals}f} {unit}{between}"
        " per iteration"
    )
    if finding.frame == TOTAL:
        return said
    return f"{said}, {percent(change.after_share)} % of {_whole(finding)}"


_METRIC_UNITS: Final = (("_ms", "ms"), ("percent", "%"), ("_bytes", "bytes"))
"""End of a metric's name -> the unit that its figure is told in."""


def metric_unit(name: str) -> str:
    """Return the unit of a metric, from the end of its name; empty: a plain number."""
    return next((unit for end, unit in _METRIC_UNITS if name.endswith(end)), "")


def metric_text(name: str, value: float, *, above: float | None = None) -> str:
    """Return a figure with its unit: `7.2 ms`; the printed one stays above `above`."""
    number = f"{value:,.0f}" if abs(value) >= 999.5 else f"{value:.3g}"  # noqa: PLR2004 - 1e+03
    if above is not None and value > above and float(number.replace(",", "")) <= above:
        number = f"{value:.9g}"
    unit = metric_unit(name)
    return f"{number} {unit}" if unit else number


def _counted(finding: Finding, figure: Figure) -> str:
    """Return what an exact rule found: figures and limit, without noise and interval."""
    own = finding.self_only and figure.name == "bytecodes" and finding.frame != TOTAL
    name = "the benchmark itself" if finding.frame == TOTAL else str(finding.frame)
    what = f"{figure.name}{' of its own' if own else ''} per iteration"
    verb = "executes" if figure.name == "bytecodes" else "is called"
    if finding.frame == TOTAL and figure.name == "calls":
        verb = "makes"
    value = f"{figure.value:,.0f}"
    if figure.before is None:
        times = "once" if figure.value == 1 else f"{value} times"
        said = f"{times} per iteration" if verb == "is called" else f"{value} {what}"
        return f"{name} {verb} {said}; limit {figure.limit}"
    if not figure.before:
        share = percent(figure.threshold, above=finding.rule.min_impact)
        if figure.value == 1:
            what = what.replace(figure.name, figure.name[:-1], 1)  # 1 call, 1 bytecode
        return f"{name} is new: {value} {what}, {share} % of the benchmark's; {figure.limit}"
    growth = percent(figure.value / figure.before - 1, above=figure.threshold)
    counts = f"{figure.before:,.0f} -> {value} per iteration"
    if verb == "is called":
        return f"{name} is called {growth} % more often, {counts}; limit {figure.limit}"
    more = f"{growth} % more {figure.name}{' of its own' if own else ''}"
    return f"{name} {verb} {more}, {counts}; limit {figure.limit}"


def _metric(figure: Figure) -> str:
    if figure.before is None:
        value = metric_text(figure.name, figure.value, above=figure.threshold)
        many = f"median of {figure.processes} processes" if figure.processes > 1 else "one process"
        return f"{figure.name} is {value} ({many})"
    one, other = (metric_text(figure.name, each) for each in (figure.before, figure.value))
    sides = f"medians of {figure.processes_before} + {figure.processes} processes"
    if figure.before <= 0:
        return f"{figure.name} went from {one} to {other} ({sides})"
    growth = percent(figure.value / figure.before - 1, above=figure.threshold)
    return f"{figure.name} grew by {growth} %, {one} -> {other} ({sides})"
