"""Edge: one benchmark of a pytest session as plain values: selected, compared with, judged."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Final

from ci_flame.config import RecordConfig, marker_record
from ci_flame.policy import Policy
from ci_flame.profile import Measurement, Run
from ci_flame.record import processes
from ci_flame.verdict import BenchmarkVerdict, Note, Outcome, worst

if TYPE_CHECKING:
    from ci_flame.judge.history import History

_OVERHEAD: Final = 1.35
"""Wall time of a process's rounds with the reference work, over their CPU time."""
_START_S: Final = 2.0
"""A further process's start, warm-up and end."""


def expected_s(plan: RecordConfig) -> float:
    """Return how long one further process takes where the machine has nothing else to do."""
    return plan.seconds * _OVERHEAD + _START_S


@dataclass(frozen=True, slots=True)
class Selected:
    """One benchmark of this session: what pytest knows of it, in plain values."""

    benchmark: str
    file: Path
    keywords: Mapping[str, object] = field(default_factory=dict)
    """Of its markers."""

    def plan(self, record: RecordConfig) -> RecordConfig:
        """Return how it is recorded."""
        return marker_record(record, self.keywords, self.benchmark)

    @property
    def gc_on(self) -> bool:
        """Whether the garbage collector stays on inside rounds."""
        return bool(self.keywords.get("gc", False))


@dataclass(frozen=True, slots=True)
class Judged:
    """One benchmark that was recorded and judged."""

    verdicts: tuple[BenchmarkVerdict, ...]
    """One for each mode that was recorded."""
    after: Measurement
    before: Measurement | None
    policy: Policy

    @property
    def outcome(self) -> Outcome:
        """The worst of its modes."""
        return worst(each.outcome for each in self.verdicts)


@dataclass(frozen=True, slots=True)
class Before:
    """Where the before side comes from in this session."""

    run: Run | None = None
    """A stored one."""
    tree: processes.Tree | None = None
    """A checkout that is recorded in this session."""
    told: str = "no baseline: none was asked for"
    history: "History | None" = None
    """The builds beside a stored one, where it comes from a store."""
    notes: tuple[Note, ...] = ()
    """What else must be known of it: how it was chosen, what it lacks."""
    commit: str = ""
    """Of the base; empty where it is not known."""


def fails(verdicts: Iterable[BenchmarkVerdict], policy: Policy) -> bool:
    """Tell whether the test item of this benchmark fails."""
    failing = {Outcome.FAIL} | ({Outcome.INCONCLUSIVE} if policy.inconclusive_fails else set())
    return any(each.outcome in failing for each in verdicts)


def sentences(verdicts: Iterable[BenchmarkVerdict]) -> str:
    """Return what a failed item says: one line per finding that failed, or the reason."""
    told = tuple(verdicts)
    failed = [str(f) for each in told for f in each.findings if f.outcome is Outcome.FAIL]
    if not failed:
        reasons = [
            f"{each.benchmark}: {note.text}"
            for each in told
            if each.outcome is Outcome.INCONCLUSIVE
            for note in each.notes
        ]
        failed = [*reasons[:1], "inconclusive results fail by the policy (inconclusive: fail)"]
    return "\n".join(failed)
