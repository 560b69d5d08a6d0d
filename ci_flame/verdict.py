"""What the judge decided, and the only input of every reporter, exit code and pytest item.

`str(finding)` is the sentence. Nothing downstream decides, rounds or words it again.
"""

from dataclasses import dataclass
from enum import StrEnum
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from ci_flame.diff import BenchmarkDiff, Change, RunDiff
    from ci_flame.policy import Policy, Rule
    from ci_flame.profile import Frame, Place, Stack


class Outcome(StrEnum):
    """Ordered from best to worst by `severity_of`."""

    PASS = "pass"
    NO_BASELINE = "no-baseline"
    WARN = "warn"
    INCONCLUSIVE = "inconclusive"
    FAIL = "fail"


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


@dataclass(frozen=True, slots=True)
class Note:
    """Something the reader must know that is not a finding: absence, blindness, noise."""

    slug: str
    """Stable short name (`new-benchmark`, `other-machine`, `not-certain`, `moved`)."""
    text: str
    benchmark: str = ""


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


@dataclass(frozen=True, slots=True)
class Verdict:
    """The whole build: the worst benchmark's outcome counts."""

    outcome: Outcome
    benchmarks: tuple[BenchmarkVerdict, ...]
    notes: tuple[Note, ...]
    diff: "RunDiff | None"
    policy: "Policy"
