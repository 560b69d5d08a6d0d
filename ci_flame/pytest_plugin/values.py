"""Edge: one benchmark of a pytest session as plain values: selected, compared with, judged."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Final

from ci_flame import pipeline
from ci_flame.baseline import base_side, git
from ci_flame.config import RecordConfig, marker_record
from ci_flame.errors import ChildError
from ci_flame.pipeline import base_broken
from ci_flame.policy import Policy
from ci_flame.profile import Frame, Measurement, Place, Process, Run
from ci_flame.record import processes
from ci_flame.verdict import BenchmarkVerdict, Note, Outcome, worst
from ci_flame.verdict.absent import BROKEN, NEW

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
    told: str = "no baseline: none was given"
    history: "History | None" = None
    """The builds beside a stored one, where it comes from a store."""
    notes: tuple[Note, ...] = ()
    """What else must be known of it: how it was chosen, what it lacks."""
    commit: str = ""
    """Of the base; empty where it is not known."""
    called: str = "the baseline's commit"
    beside: "Callable[[], processes.Tree] | None" = None
    """Checks the commit of a stored run out, to record both sides of what failed; BaselineError
    where that fails. None: it must not or cannot be."""
    ours: bool = False
    """Nobody named the commit: what it cannot run has no baseline."""

    def why_none(self, notes: Iterable[Note]) -> Note:
        """Return why no benchmark has a before side; `notes`: of all of them."""
        if self.ours and self.tree is None:
            return Note(BROKEN, self.told)
        return base_broken.of_build(self.told, self.commit if self.tree else "", tuple(notes))

    def said(self, judged: Iterable[Judged], notes: Sequence[Note]) -> tuple[Note, ...]:
        """Return what is said once for the build; `notes`: of all benchmarks."""
        some = any(each.before is not None for each in judged)
        return (*self.notes, *(base_broken.named(notes) if some else ()))

    def lacks(self, benchmark: str, notes: Iterable[Note]) -> Note:
        """Return why a benchmark has no before side; `notes`: of its recording."""
        broken = next((each for each in notes if each.slug == BROKEN), None)
        if broken is not None:
            return broken
        if self.run is None and self.tree is None:
            return replace(self.why_none(()), benchmark=benchmark)
        where = "the base commit" if self.tree else "the baseline"
        words = f"is new: {where} does not have it, so there is nothing to compare with"
        return Note(NEW, words, benchmark)

    @property
    def ancestor(self) -> str:
        """Return the commit whose run is stored, where that is one before the base commit."""
        stored = self.run.commit if self.run else ""
        return stored if stored != self.commit else ""

    def file_changed(self, selected: Selected, start: Path) -> tuple[Note, ...]:
        """Say where a benchmark is not the one that was stored."""
        from ci_flame.pipeline import benchmark_files  # noqa: PLC0415 - only where one is stored

        commits = (self.run.commit if self.run else "", self.commit)
        return benchmark_files.changed(selected.benchmark, selected.file, commits, start)

    def side(self, kept: tuple[Measurement, ...], notes: Iterable[Note]) -> Run:
        """Return the before side of what was compared with a stored run.

        It is of the commit that was recorded in this build, where all of it was.
        """
        assert self.run is not None  # noqa: S101 - the caller has looked
        again = {note.commit for note in notes if note.commit}
        stored = any(each is self.run.measurement(each.benchmark) for each in kept)
        if stored or not kept or len(again) != 1:
            return replace(self.run, measurements=kept)
        return replace(self.run, measurements=kept, commit=again.pop(), dirty=False)


def recorded_beside(told: str, base: base_side.Checkout, project: Path) -> Before:
    """Return a checkout that is recorded in this session, or why it cannot be."""
    commit = "" if base.trouble else git.state(base.folder).commit
    notes = pipeline.notes_on(base, commit)
    if base.trouble:
        return Before(told=base_broken.without_set_up(base.trouble), notes=notes, ours=True)
    return Before(
        tree=processes.Tree(project, base.folder.resolve(), base.python),
        told=told,
        notes=notes,
        commit=commit,
        ours=base.ours,
    )


def missed(before: Before, benchmark: str, error: ChildError) -> tuple[Note, ...]:
    """Return what is said of a benchmark that the base commit could not run; ChildError if named.

    Raises it where somebody named that commit, with the reason left for whoever made its checkout.
    """
    if isinstance(error, processes.MissingBenchmark):
        return ()
    tree = before.tree
    assert tree is not None  # noqa: S101 - for mypy: it has just been recorded
    if not before.ours:
        why = "; ".join(filter(None, base_broken.reason(benchmark, error, str(tree.folder))))
        base_side.leave_reason(tree.folder, f"the base commit cannot run {benchmark}: {why}")
        raise error
    return (base_broken.note(benchmark, error, str(tree.folder)),)


def bring(selected: Selected, tree: processes.Tree | None) -> tuple[bool, tuple[Note, ...]]:
    """Copy a benchmark's file that is new beside the base commit; tell whether it is, and what."""
    if tree is None:
        return False, ()
    name, file = selected.benchmark, selected.file
    brought = base_side.bring(file, tree.project, tree.folder)
    if brought:
        words = f"{base_side.listed(brought)} is new: it was run against the base commit's code"
        return True, (Note("new-file", words, name),)
    if base_side.differ(file, tree.map(file)):
        inside = tree.map(file).relative_to(tree.folder)
        words = f"{inside} differs from the base commit's: each side ran its own"
        return False, (Note("benchmark-changed", words, name),)
    return False, ()


def merged(
    benchmark: str, root: Frame | None, parts: Sequence[tuple[Process, Mapping[Frame, Place]]]
) -> Measurement:
    """Return the processes of one side as one measurement; the first one's places count."""
    places: dict[Frame, Place] = {}
    for _, each in reversed(parts):
        places.update(each)
    return Measurement(benchmark, tuple(process for process, _ in parts), root, places)


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
