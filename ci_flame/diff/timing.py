"""Stage 4, pure: suspects timed call by call on both sides -> what changed, and how sure it is.

Each process says ln(CPU time per iteration / reference work after the same rounds), by the kinds
of reference that the function's own rounds follow best: unlike samples, single rounds can tell.
The sides are compared by t between processes.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from math import inf
from typing import Final

import numpy as np

from ci_flame import noise
from ci_flame.diff import speed
from ci_flame.diff.evidence import Evidence
from ci_flame.noise import Machine
from ci_flame.noise.between import Between
from ci_flame.profile import Frame, Measurement
from ci_flame.profile.timing import Timing

LEAST_PROCESSES: Final = 3
"""A side, to tell how far processes spread; below that the figures are told and decide nothing."""
SYSTEMATIC: Final = 0.01
"""Standard error that more processes do not shrink: timing is not what runs without it."""
OF_EVENTS: Final = 0.2
"""How far off what is taken off for the events may be."""


@dataclass(frozen=True, slots=True)
class TimedChange:
    """One function timed on both sides."""

    before_ns: float
    """Per iteration at the baseline's machine speed, callees included."""
    after_ns: float
    calls_before: float
    """Per iteration."""
    calls_after: float
    log_ratio: float
    standard_error: float
    degrees: float
    low: float
    """Lower end of the 90 % interval of growth (0.18 = 18 %)."""
    high: float
    processes_before: int
    processes_after: int

    @property
    def growth(self) -> float:
        """Change of the cost per iteration / cost before."""
        return self.after_ns / self.before_ns - 1

    @property
    def per_call(self) -> float:
        """Growth of the cost of one call."""
        return (1 + self.growth) * self.calls_before / self.calls_after - 1

    @property
    def decides(self) -> bool:
        """Tell whether enough processes were timed to know how far they spread."""
        return min(self.processes_before, self.processes_after) >= LEAST_PROCESSES

    def above(self, limit: float) -> float:
        """Return the probability that the true growth is above this one (0.1 = 10 %)."""
        log_limit = float(np.log1p(limit))
        return float(
            noise.probability_above(self.log_ratio, self.standard_error, self.degrees, log_limit)
        )


@dataclass(frozen=True, slots=True)
class _Part:
    """One function in one process."""

    clocks: speed.Clocks
    calls: float
    """Per iteration."""
    events: float
    """Cost of the events / cost of the function."""


class Timings:
    """What was timed on both sides of a benchmark."""

    def __init__(
        self,
        before: Measurement,
        after: Measurement,
        evidence: Evidence,
        machine: Machine,
        between: Between | None = None,
    ) -> None:
        """`between`: how far builds of the same code differ, which comes on top."""
        self._before = [each.timing for each in before.processes if each.timing is not None]
        self._after = [each.timing for each in after.processes if each.timing is not None]
        self._comparable = bool(machine.kinds)
        self._evidence = evidence
        self._between = between

    @property
    def asked(self) -> bool:
        """Tell whether any process of either side was asked to time something."""
        return bool(self._before or self._after)

    def change(self, frame: Frame, was: Frame | None = None) -> TimedChange | None:
        """Return what changed in a function; None where it was not timed on both sides.

        `was` is its name before, where that was another one.
        """
        if not self._comparable:
            return None  # nothing tells the machine from the code
        one, other = _parts(self._before, was or frame), _parts(self._after, frame)
        kinds = speed.choose_kinds([[each.clocks for each in side] for side in (one, other)])
        if not one or not other or not kinds:
            return None
        clocks = self._evidence.sides[0].clocks
        if not all(kind in each.references for each in clocks for kind in kinds):
            return None
        level = float(np.mean([speed.process_clock(each, kinds)[1] for each in clocks]))
        builds, known = 0.0, inf
        if self._between is not None:
            builds = self._between.total.get(frame, self._between.typical)
            known = self._between.degrees
        return _compared(one, other, kinds, level, (builds, known))

    def left_out(self, frame: Frame, was: Frame | None = None) -> str:
        """Return why a suspect was not timed; empty: it was, or nobody asked."""
        for name, timings, wanted in (
            ("before", self._before, was or frame),
            ("after", self._after, frame),
        ):
            for each in timings:
                if why := each.left_out.get(wanted):
                    return why
            if self.asked and not any(wanted in each.functions for each in timings):
                other = self._after if name == "before" else self._before
                if any(frame in each.functions or wanted in each.functions for each in other):
                    return f"the side {name} was not timed"
        each_side = (_parts(self._before, was or frame), _parts(self._after, frame))
        if not any(frame in each.functions for each in self._after):
            return ""
        if not all(each_side):
            return "it was not called in every timed round"
        return "no reference work tells the machine from the code"


def _parts(timings: Sequence[Timing], frame: Frame) -> list[_Part]:
    """Return what each process says of a function, as far as it timed it."""
    parts = []
    for each in timings:
        timed = each.functions.get(frame)
        if timed is None or not each.iterations or min(timed.ns) <= 0:
            continue  # a round without it has no logarithm: it is not called in every one
        references = {
            kind: np.array([ns or np.nan for ns in times], dtype=float)
            for kind, times in each.references.items()
        }
        ns = np.array(timed.ns, dtype=float)
        clocks = speed.Clocks(np.array(each.iterations, dtype=float), ns, references)
        events = sum(timed.calls) * each.event_ns / float(ns.sum())
        parts.append(_Part(clocks, sum(timed.calls) / sum(each.iterations), events))
    return parts


def _compared(
    one: Sequence[_Part],
    other: Sequence[_Part],
    kinds: Sequence[str],
    level: float,
    builds: tuple[float, float],
) -> TimedChange | None:
    """Compare two sides by t, the spread between processes pooled and moderated (Smyth 2004).

    `level`: ln of the reference that costs are told by; `builds`: variance of ln cost between
    builds of the same code, and by how many degrees of freedom it is known.
    """
    calls_before, calls_after = (float(np.mean([p.calls for p in side])) for side in (one, other))
    if not calls_before or not calls_after:
        return None
    before, after = (
        np.array([cost - at for cost, at in (speed.process_clock(p.clocks, kinds) for p in side)])
        for side in (one, other)
    )
    events = max(float(np.mean([p.events for p in side])) for side in (one, other))
    variance, degrees = speed.spread(before, after)
    degrees = min(degrees, builds[1])
    systematic = np.hypot(SYSTEMATIC, OF_EVENTS * events)
    per_side = 1 / len(before) + 1 / len(after)
    error = float(np.sqrt(variance * per_side + systematic**2 + 2 * builds[0]))
    log_ratio = float(after.mean() - before.mean())
    reach = float(noise.quantile(degrees, 0.95)) * error
    return TimedChange(
        float(np.exp(before.mean() + level)),
        float(np.exp(after.mean() + level)),
        calls_before,
        calls_after,
        log_ratio,
        error,
        degrees,
        float(np.expm1(log_ratio - reach)),
        float(np.expm1(log_ratio + reach)),
        len(before),
        len(after),
    )
