"""Stage 4, pure: two runs -> what changed, per benchmark, function and call path.

Costs are per iteration and in nanoseconds *at the baseline's machine speed*: the machine
is taken out by the reference work (`noise.py`), then both sides are told in the same unit.
"""

from dataclasses import dataclass

from ci_flame.profile import Environment, Frame, Place, Stack


@dataclass(frozen=True, slots=True)
class Change:
    """One cost before and after, and how sure one can be of the change."""

    before_ns: float
    after_ns: float
    before_share: float
    """Of the benchmark, 0 to 1."""
    after_share: float
    log_ratio: float
    """Estimate of ln(after / before); inf for new, -inf for gone."""
    standard_error: float
    """Of `log_ratio`, between processes."""
    degrees: float
    """Degrees of freedom of the t distribution of log_ratio / standard_error."""
    p_value: float
    """Two-sided, against no change."""
    low: float
    """Lower end of the 90 % interval of growth (0.18 = 18 %)."""
    high: float
    samples_before: int
    samples_after: int

    @property
    def growth(self) -> float:
        """Change / own cost before; inf for what is new."""
        return self.after_ns / self.before_ns - 1 if self.before_ns else float("inf")


@dataclass(frozen=True, slots=True)
class FrameChange:
    """One function: own cost, and cost with callees (recursion counted once)."""

    frame: Frame
    own: Change
    total: Change
    place: Place | None
    path: Stack
    """The heaviest call path (before + after) that ends in this frame."""


@dataclass(frozen=True, slots=True)
class PathChange:
    """One node of the call tree: the stack down to it."""

    path: Stack
    own: Change
    total: Change
    judged: bool
    """False: only for pictures (native leaves inside the interpreter)."""


@dataclass(frozen=True, slots=True)
class BenchmarkDiff:
    """One benchmark and mode on both sides."""

    benchmark: str
    mode: str
    total: Change
    frames: tuple[FrameChange, ...]
    """Sorted by absolute change of total cost, then name."""
    paths: tuple[PathChange, ...]
    """The whole call tree, parents before children, siblings by name."""
    anchor: str
    """How the machine was taken out: `references`, `references+functions`, `shares`."""
    anchor_error: float
    """Standard error of ln(machine speed ratio) between the sides that is left."""
    processes_before: int
    processes_after: int
    smallest_visible: float | None
    """Smallest growth that would have been seen in a function of 5 % or more."""
    notes: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class RunDiff:
    """Two runs: what both have, and what only one has."""

    before: Environment
    after: Environment
    before_commit: str
    after_commit: str
    differences: tuple[str, ...]
    """Why the two may not be compared by time (`collector: ebpf, perf`); empty: they may."""
    benchmarks: tuple[BenchmarkDiff, ...]
    added: tuple[str, ...]
    removed: tuple[str, ...]
