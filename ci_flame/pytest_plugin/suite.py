"""Edge: the benchmarks of one pytest session: recorded, compared, judged, kept.

    recorded here ─ further processes ─ Measurement ─ diff ─ judge ─ BenchmarkVerdict
                                            └────────── Run ─────────── Verdict ─┘

Knows nothing of pytest: `session.py` calls it.
"""

import fcntl
import secrets
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path

from ci_flame import pipeline
from ci_flame.baseline import folder, git
from ci_flame.config import Config, RecordConfig, marker_rules
from ci_flame.errors import BaselineError, ChildError, UsageError
from ci_flame.pipeline import base_broken, until_decided
from ci_flame.pipeline.labels import Labels
from ci_flame.policy import Policy
from ci_flame.profile import Environment, Frame, Measurement, Mode, Place, Process, Run
from ci_flame.pytest_plugin import values
from ci_flame.pytest_plugin.parts import Part, leave, take
from ci_flame.pytest_plugin.values import Before, Judged, Selected, bring, expected_s, merged
from ci_flame.record import exact, processes
from ci_flame.record.alternating import order
from ci_flame.record.recorder import Recorder, must_have_samples
from ci_flame.verdict import BenchmarkVerdict, Note, Outcome, Sort, Verdict
from ci_flame.verdict.confirmed import confirmation

Pair = tuple[Measurement, Measurement | None]
"""After and before."""


class Suite:
    """All benchmarks of one pytest process, in the order in which they ran."""

    def __init__(
        self,
        config: Config,
        before: Before,
        invocation: processes.Invocation,
        recorder: Recorder | None,
        *,
        start: Path,
        parts: Path | None = None,
    ) -> None:
        self.config = config
        self.before = before
        self.recorder = recorder
        """None: recordings are replayed."""
        self.family = 1
        """Benchmarks selected in this build, on all workers."""
        self.judged: dict[str, Judged] = {}
        self._invocation = invocation
        self._parts = parts
        """Folder in which a worker of xdist leaves its benchmarks for the controller."""
        self.seed = secrets.token_hex(8)
        """Of the order in which the sides' processes run; kept in the run."""
        self.labels = Labels(config.base.changed_since, before.commit, start, told=before.called)
        self._start = start
        self._told: dict[str, tuple[Note, ...]] = {}
        """Benchmark -> notes of this session that judging again would not find."""
        self._beside: processes.Tree | None = None
        """The commit of a stored baseline, checked out to confirm a failure."""
        self._environment: Environment | None = None
        self._environment_before: Environment | None = None

    @property
    def environment(self) -> Environment:
        """Of the after side."""
        if self._environment is None:
            if self.recorder is None:
                self._environment = self._replayed().environment
            else:
                self._environment = self.recorder.environment
        return self._environment

    def _replayed(self) -> Run:
        source = self.config.record.replay
        if source is None:
            raise UsageError("collector replay needs a run folder", "add --flame-replay DIR")
        return folder.load(source)

    def expected_s(self, plans: Sequence[RecordConfig]) -> float:
        """Return how long it will take to record benchmarks by these plans."""
        sides = 2 if self.before.tree else 1
        return sum(sides * each.processes * expected_s(each) for each in plans)

    @contextmanager
    def alone(self) -> Iterator[None]:
        """Hold the other workers' benchmarks off while one is measured."""
        if self._parts is None:
            yield
            return
        with (self._parts / "lock").open("w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            yield

    # -- one benchmark ------------------------------------------------------------------

    def conclude(self, selected: Selected) -> tuple[BenchmarkVerdict, ...]:
        """Record a benchmark's processes, judge each mode, and keep what was recorded.

        Raises ChildError where one of them failed, CollectError where nothing was seen.
        """
        self._told.pop(selected.benchmark, None)  # a plugin that repeats failed tests was here
        before = self._stored(selected.benchmark)
        if before is not None:
            self._told[selected.benchmark] = self.before.file_changed(selected, self._start)
        if self.recorder is None:
            from ci_flame.collect import replay  # noqa: PLC0415 - only where it is asked for

            source = self.config.record.replay or Path()
            after = replay.measurement(source, selected.benchmark)
        else:
            if selected.plan(self.config.record).until_decided:
                return self._conclude_until_decided(selected, before)
            after, base = self._record(selected, selected.benchmark)
            before = base or before
        judged = self.judge(selected, after, before)
        return self._kept(selected, judged)

    def _conclude_until_decided(
        self, selected: Selected, stored: Measurement | None
    ) -> tuple[BenchmarkVerdict, ...]:
        """Add processes until the benchmark is clear; judge at what the last look may spend."""
        plan = selected.plan(self.config.record)
        made: list[Judged] = []

        def more(so_far: Pair | None, count: int) -> Pair:
            seed = f"{selected.benchmark} {len(made)}"
            after, base = self._record(selected, seed, count)
            if so_far is None:
                return after, base or stored
            earlier_after, earlier = so_far
            joined = earlier if base is None else processes.joined(earlier, base)
            return processes.joined(earlier_after, after), joined

        def judge(recorded: Pair, policy: Policy) -> tuple[BenchmarkVerdict, ...]:
            judged = self.judge(selected, *recorded, level=policy.false_failures_per_build)
            made.append(judged)
            return judged.verdicts

        policy = marker_rules(self.config.policy, selected.keywords, selected.benchmark)
        looked = until_decided.record(
            more, judge, policy, first=plan.processes, max_seconds=plan.max_seconds
        )
        level = looked.policy.false_failures_per_build
        judged = self.judge(selected, *looked.recorded, level=level)
        return self._kept(selected, judged, looked.note, count=looked.processes)

    def _kept(
        self,
        selected: Selected,
        judged: Judged,
        *notes: Note,
        count: int | None = None,
    ) -> tuple[BenchmarkVerdict, ...]:
        """Confirm a failure, with as many processes; keep what was recorded."""
        if self.recorder is not None and self._doubtful(judged):
            judged = self._confirm(selected, judged, count)
        if notes:
            judged = self._noted(judged, *notes)
        self.judged[selected.benchmark] = judged
        if self._parts is not None:
            self._leave(selected, judged)
        return judged.verdicts

    def _doubtful(self, judged: Judged) -> bool:
        """Tell whether a second recording must decide.

        Of a failure; and of what a baseline that disagrees with its siblings let pass, where the
        base commit can be recorded beside: it may be right, and they older code.
        """
        if judged.outcome is Outcome.FAIL or self.before.beside is None:
            return judged.outcome is Outcome.FAIL
        from ci_flame.judge.history import softened  # noqa: PLC0415 - numpy

        return softened(judged.verdicts)

    def _confirm(self, selected: Selected, first: Judged, count: int | None) -> Judged:
        """Record a benchmark that failed once more; only the second recording counts.

        The first was reported because it was large, so its growth is too large on average; the
        second was not chosen. A noise that failed once in 200 builds fails twice in 40,000.
        """
        failed = [f for v in first.verdicts for f in v.findings if f.outcome is Outcome.FAIL]
        only_counts = failed and all(f.sort is Sort.COUNT for f in failed)
        plan = selected.plan(self.config.record)
        # Counts are the same again, unless they are now compared with another commit's.
        if (only_counts and not self.before.ancestor) or not plan.confirm:
            return first
        from ci_flame.judge.timed import suspects  # noqa: PLC0415 - as below

        tree, trouble = self._checked_out()
        timed = suspects(first.verdicts) if tree and plan.timing else {}
        after, base = self._record(selected, f"{selected.benchmark} again", count, tree, timed)
        if tree is not self.before.tree:
            from ci_flame.diff.same_code import not_the_build  # noqa: PLC0415 - as below

            trouble = not_the_build(first.before, base, after if self.before.ancestor else None)
            base = None if trouble else base
        judged = self.judge(selected, after, base or first.before)
        found = [finding for each in first.verdicts for finding in each.findings]
        note = confirmation(
            selected.benchmark,
            found,
            judged.outcome,
            beside=self.before.commit if self.before.beside else "",
            trouble=trouble,
            ancestor=self.before.ancestor,
        )
        return self._noted(judged, note)

    def _checked_out(self) -> tuple[processes.Tree | None, str]:
        """Return the base commit to record beside, or why a stored one cannot be."""
        if self.before.tree is not None or self.before.beside is None:
            return self.before.tree, ""
        if self._beside is None:
            try:
                self._beside = self.before.beside()
            except BaselineError as error:
                return None, error.message
        return self._beside, ""

    def _stored(self, benchmark: str) -> Measurement | None:
        return self.before.run.measurement(benchmark) if self.before.run else None

    def _noted(self, judged: Judged, *notes: Note) -> Judged:
        """Return it with notes, which are kept for whoever judges it again."""
        from ci_flame.judge import noted  # noqa: PLC0415 - as below

        name = judged.after.benchmark
        self._told[name] = (*self._told.get(name, ()), *notes)
        return replace(judged, verdicts=noted(judged.verdicts, notes))

    def _record(
        self,
        selected: Selected,
        seed: str,
        processes_a_side: int | None = None,
        tree: processes.Tree | None = None,
        suspects: Mapping[str, Sequence[Frame]] | None = None,
    ) -> Pair:
        """Run the benchmark in its processes, sides alternating; merge each side.

        `tree`: the base commit that was checked out to confirm a failure against a stored one;
        it may lack what the benchmark needs. `suspects`: side -> functions to time there.
        """
        plan = selected.plan(self.config.record)
        tree = tree or self.before.tree
        after: list[tuple[Process, Mapping[Frame, Place]]] = []
        before: list[tuple[Process, Mapping[Frame, Place]]] = []
        root_before: Frame | None = None
        root_after: Frame | None = None
        missing = False
        brought, notes = bring(selected, tree)
        told = dict.fromkeys((*self._told.get(selected.benchmark, ()), *notes))
        self._told[selected.benchmark] = tuple(told)
        wanted = processes_a_side or plan.processes
        for side in order(wanted if tree else 0, wanted, f"{self.seed} {seed}"):
            if side == "before" and missing:
                continue
            counted = len(before if side == "before" else after) < exact.COUNTED
            try:
                run = processes.run(
                    self._invocation,
                    selected.benchmark,
                    selected.file,
                    replace(plan, counts=plan.counts and counted),
                    tree=tree if side == "before" else None,
                    gc_on=selected.gc_on,
                    suspects=(suspects or {}).get(side, ()),
                    timeout_s=60 + 20 * plan.seconds * (2 if suspects else 1),
                )
            except ChildError as error:
                if side == "after":
                    raise
                # A benchmark that is new need not run against the code before.
                if not brought and tree is self.before.tree:
                    said = values.missed(self.before, selected.benchmark, error)
                    self._told[selected.benchmark] += said
                missing = True
                continue
            (measurement,) = run.measurements
            parts = [(process, measurement.places) for process in measurement.processes]
            if side == "before":
                before += parts
                root_before = measurement.root
                self._environment_before = run.environment
            else:
                after += parts
                root_after = measurement.root
                self._environment = run.environment
        must_have_samples(selected.benchmark, [process for process, _ in after])
        return (
            merged(selected.benchmark, root_after, after),
            merged(selected.benchmark, root_before, before) if before else None,
        )

    def judge(
        self,
        selected: Selected,
        after: Measurement,
        before: Measurement | None,
        *,
        level: float | None = None,
    ) -> Judged:
        """Return the verdicts on one benchmark, by its own policy; `level`: of one look of many."""
        from ci_flame.judge import noted  # noqa: PLC0415 - as below
        from ci_flame.judge.accounts import accounts  # noqa: PLC0415
        from ci_flame.judge.touched import label  # noqa: PLC0415

        policy = marker_rules(self.config.policy, selected.keywords, selected.benchmark)
        if level is not None:
            policy = replace(policy, false_failures_per_build=level)
        notes = accounts(after, self.environment.frequency_hz)
        told = base_broken.settled(self._told.get(after.benchmark, ()), ran=before is not None)
        self._told[after.benchmark] = told
        verdicts = tuple(
            self._verdict(after, before, mode, policy, notes)
            for mode in after.modes or (Mode.ON_CPU,)
        )
        verdicts = noted(noted(verdicts, notes), told)
        touched = self.labels.of(verdicts, after)
        return Judged(tuple(label(v, touched) for v in verdicts), after, before, policy)

    def _verdict(
        self,
        after: Measurement,
        before: Measurement | None,
        mode: Mode,
        policy: Policy,
        notes: tuple[Note, ...],
    ) -> BenchmarkVerdict:
        # numpy and scipy: not for the further processes, which judge nothing.
        from ci_flame.diff import diff_benchmark, differences  # noqa: PLC0415
        from ci_flame.diff.counts import counts  # noqa: PLC0415
        from ci_flame.judge import judge_alone, judge_benchmark, new_mode  # noqa: PLC0415

        if before is None:
            why = self.before.lacks(after.benchmark, self._told.get(after.benchmark, ()))
            return judge_alone(after, mode, policy, why)
        if mode not in before.modes and before.modes:
            return judge_alone(after, mode, policy, new_mode(after.benchmark, mode))
        if self.before.run is not None:
            base: Environment | None = self.before.run.environment
        else:
            base = self._environment_before
        both = counts(before, after) if mode in after.modes[:1] else None
        if base is not None:
            unlike = differences(base, self.environment)
            if unlike:
                words = f"may not be compared with the baseline: {'; '.join(unlike)}"
                note = Note("other-machine", words, after.benchmark)
                return judge_alone(after, mode, policy, note, both=both)
        short = next((each for each in notes if each.slug == "too-short"), None)
        if short is not None and mode is Mode.ON_CPU:
            return judge_alone(after, mode, policy, short, both=both)
        history = self.before.history
        if history is None:
            return judge_benchmark(diff_benchmark(before, after, mode), policy, family=self.family)
        from ci_flame.judge.history import review  # noqa: PLC0415 - as above

        spread = history.between(after.benchmark, mode)
        changes = diff_benchmark(before, after, mode, between=spread)
        verdict = judge_benchmark(changes, policy, family=self.family)
        return review(verdict, after, policy, self.family, history, before=before)

    # -- workers of xdist -----------------------------------------------------------------

    def _leave(self, selected: Selected, judged: Judged) -> None:
        """Leave one benchmark for the controller."""
        assert self._parts is not None  # noqa: S101 - the caller has looked
        before = None
        if judged.before is not None and judged.before is not self._stored(selected.benchmark):
            before = Run(self._environment_before or self.environment, (judged.before,))
        part = Part(
            selected.benchmark,
            selected.file,
            selected.keywords,
            self.family,
            judged.policy.false_failures_per_build,
            self._told.get(selected.benchmark, ()),
            Run(self.environment, (judged.after,)),
            before,
        )
        leave(part, self._parts)

    def gather(self, parts: Path) -> None:
        """Take in what the workers left, and judge it again as they did."""
        for part in take(parts):
            selected = Selected(part.benchmark, part.file, part.keywords)
            self.family = part.family
            self._environment = part.after.environment
            before = self._stored(part.benchmark)
            if part.before is not None:
                self._environment_before = part.before.environment
                before = part.before.measurements[0]
            self._told[part.benchmark] = part.notes
            self.judged[part.benchmark] = self.judge(
                selected, part.after.measurements[0], before, level=part.level
            )

    # -- all of them ----------------------------------------------------------------------

    def run(self, *, complete: bool, start: Path) -> Run:
        """Return what was recorded."""
        state = git.state(start)
        return Run(
            environment=self.environment,
            measurements=tuple(each.after for _, each in sorted(self.judged.items())),
            commit=state.commit,
            dirty=state.dirty,
            time=datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ"),
            complete=complete,
            seed=self.seed if self.before.tree or self._beside else "",
        )

    def run_before(self) -> Run | None:
        """Return the before side of what was recorded, None where there is none."""
        kept = tuple(each.before for _, each in sorted(self.judged.items()) if each.before)
        if self.before.run is not None:
            return self.before.side(kept, (n for told in self._told.values() for n in told))
        if self.before.tree is None or not kept:
            return None
        state = git.state(self.before.tree.folder)
        environment = self._environment_before or self.environment
        return Run(environment, kept, state.commit, state.dirty)

    def verdict(self, after: Run, before: Run | None, removed: Iterable[str]) -> Verdict:
        """Return the verdict on the whole session."""
        from ci_flame.diff import RunDiff, differences  # noqa: PLC0415
        from ci_flame.judge import assemble  # noqa: PLC0415
        from ci_flame.judge.touched import label_all  # noqa: PLC0415

        benchmarks = tuple(v for _, each in sorted(self.judged.items()) for v in each.verdicts)
        gone = tuple(sorted(removed))
        notes = [
            Note("gone-benchmark", f"{name} is in the baseline and no longer here", name)
            for name in gone
        ]
        changes = None
        if before is not None:
            changes = RunDiff(
                before=before.environment,
                after=after.environment,
                before_commit=before.commit,
                after_commit=after.commit,
                differences=differences(before.environment, after.environment),
                benchmarks=tuple(each.diff for each in benchmarks if each.diff),
                added=tuple(n for n, each in sorted(self.judged.items()) if each.before is None),
                removed=gone,
                dirty=(before.dirty, after.dirty),
            )
        else:
            notes.append(self._why_none())
        notes += self._notes()
        bias = after.environment.bias
        whole = assemble(benchmarks, tuple(notes), changes, self.config.policy, bias=bias)
        return label_all(whole, self.labels.touched)

    def _why_none(self) -> Note:
        """Return why no benchmark has a before side."""
        return self.before.why_none(self._all_told())

    def _all_told(self) -> list[Note]:
        return [each for _, told in sorted(self._told.items()) for each in told]

    def _notes(self) -> tuple[Note, ...]:
        """Return what must be said of the before side, once for the build."""
        label = [self.labels.note] if self.labels.note else []
        return (*self.before.said(self.judged.values(), self._all_told()), *label)

    def write(self, after: Run, before: Run | None, verdict: Verdict) -> None:
        """Save the run and write the report."""
        pipeline.save_run(after, self.config.out)
        pipeline.write_report(
            verdict,
            before,
            after,
            self.config,
            self.config.report,
            policies={
                name: each.policy
                for name, each in self.judged.items()
                if each.policy != self.config.policy
            },
            family=self.family,
            note=None if before else self._why_none(),
            history=self.before.history if before else None,
            notes=(*self._notes(), *self._all_told()),
            touched=self.labels.touched,
            start=self._start,
        )
