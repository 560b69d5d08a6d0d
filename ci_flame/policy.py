"""Values of the judge: rules, limits and waivers, as `config.py` reads them from `ci-flame.yml`.

Pure: what a rule matches is decided here, on names; no file is read.
"""

from dataclasses import dataclass
from datetime import date
from enum import StrEnum


class Severity(StrEnum):
    """What a broken rule does to the build."""

    FAIL = "fail"
    WARN = "warn"


@dataclass(frozen=True, slots=True)
class Limit:
    """A relative and/or an absolute limit; with both, passing either is enough to break it."""

    share: float | None = None
    """0.10 for `10%`: of the path itself (growth) or of the benchmark (impact, budget)."""
    ns: float | None = None
    """Nanoseconds per iteration for `2ms`."""

    def __str__(self) -> str:
        """Return the limit as the policy writes it: `10%`, `2ms`, `5% | 2ms`."""
        raise NotImplementedError


@dataclass(frozen=True, slots=True)
class Rule:
    """One rule of the policy; every rule that matches is applied, the worst result counts."""

    frames: tuple[str, ...] = ("*",)
    """Globs on frame names, or on paths joined by `;`; `!glob` excludes."""
    benchmarks: tuple[str, ...] = ("*",)
    mode: str = "on-cpu"
    metric: str = ""
    max_growth: Limit | None = None
    min_impact: float = 0.005
    budget: Limit | None = None
    certainty: float = 0.80
    severity: Severity = Severity.FAIL
    self_only: bool = False
    """Judge own cost instead of total cost (`self: true`)."""
    place: str = ""
    """`ci-flame.yml:7`, `marker of tests/bench.py::test_x` or `default`; for messages."""


@dataclass(frozen=True, slots=True)
class Waiver:
    """Findings on these frames do not fail until the date has passed."""

    frames: tuple[str, ...]
    until: date
    reason: str
    benchmarks: tuple[str, ...] = ("*",)
    place: str = ""


@dataclass(frozen=True, slots=True)
class Policy:
    """All that the judge is told; without a file: every frame, 10 %, fail."""

    rules: tuple[Rule, ...] = (Rule(max_growth=Limit(share=0.10), place="default"),)
    waivers: tuple[Waiver, ...] = ()
    baseline_required: bool = False
    inconclusive_fails: bool = False
    false_failures_per_build: float = 0.005
    today: date | None = None
    """The date waivers are judged at; the edge sets it, so that the judge reads no clock."""
