"""Stage 1, edge: one benchmark's rounds and samples in this process -> `Process`.

    collector.start ─ begin ─ drive ─ finish ─ begin ─ drive ─ finish ─ … ─ close
                              phases 1-200      phases 201-400

The collector is started at the first benchmark and stays for all of them; phases count on,
so that no two windows of a process share one.
"""

import os
import platform
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from types import CodeType
from typing import Final

from ci_flame import collect, simplify
from ci_flame.collect import machine
from ci_flame.collect.bpftrace import scripts as bpftrace_scripts
from ci_flame.collect.ebpf.collector import is_package
from ci_flame.config import RecordConfig
from ci_flame.errors import CollectError
from ci_flame.profile import (
    Environment,
    Frame,
    Kind,
    Mode,
    Place,
    Process,
    Profile,
    Round,
    Stack,
    Unit,
    Weight,
)
from ci_flame.profile.counts import Count, Counting
from ci_flame.profile.timing import Timing
from ci_flame.record import figures, layout, reference
from ci_flame.record.clocks import Clocks, cpus
from ci_flame.record.rounds import Driven, Window
from ci_flame.symbols.modules import Layout

MACHINERY: Final = frozenset(
    {
        "ci_flame.pytest_plugin.item",
        "ci_flame.record.rounds",
        "ci_flame.record.exact",
        "ci_flame.record.targeted",
        "ci_flame.record.reference",
        "ci_flame.collect.ebpf.collector",
        "ci_flame.collect.py_spy.collector",
    }
)
"""Modules whose frames stand between the test function and what it measures."""


MIN_EXPECTED: Final = 100
"""Samples that a process should have had, from which on it is an error to have none."""


@dataclass(frozen=True, slots=True)
class Recorded:
    """What one process says of one benchmark."""

    process: Process
    root: Frame
    places: Mapping[Frame, Place]

    def with_counts(self, counts: Mapping[Frame, Count], counting: Counting) -> "Recorded":
        """Return it with the exact counts of an iteration that was not timed."""
        return replace(self, process=replace(self.process, counts=counts, counting=counting))

    def with_timing(self, timing: Timing | None) -> "Recorded":
        """Return it with suspects that were timed in rounds of their own."""
        return replace(self, process=replace(self.process, timing=timing))


class Recorder:
    """The collector of this pytest process, and the phases that it has used."""

    def __init__(
        self, plan: RecordConfig, project: Path, *, prepare: Callable[[], None] = reference.prepare
    ) -> None:
        self.plan = plan
        self.next_phase = 1
        self.clocks = Clocks()
        self._project = project
        self._prepare = prepare
        self._collector: collect.Collector | None = None
        self._session: collect.Session | None = None
        self._beside: bpftrace_scripts.Beside | None = None

    @property
    def collector(self) -> collect.Collector:
        """The chosen collector; CollectError that says for each what stops it, and the cure."""
        if self._collector is None:
            found = machine.probe()
            self._collector = collect.choose(
                found,
                python=True,
                wanted=self.plan.collector,
                waits=Mode.OFF_CPU in self.plan.modes,
                event=self.plan.event,
                call_graph=self.plan.call_graph,
            )
        return self._collector

    @property
    def environment(self) -> Environment:
        """What decides whether this recording may be compared with another."""
        python = platform.python_version()
        return machine.environment(
            self.collector, python, self.plan.frequency_hz, layout.describe()
        )

    @property
    def layout(self) -> Layout:
        """Where code lies, as the collector is told it: what gives functions their names."""
        return Layout(module_files(), self._roots, is_package)

    @property
    def _roots(self) -> tuple[str, ...]:
        return tuple(dict.fromkeys([str(self._project), *filter(None, sys.path)]))

    def begin(self) -> Window:
        """Start the collector if it does not run yet; return the benchmark's window."""
        if self._beside is None:
            # Before the collector, which would take them for children of the benchmark.
            self._beside = bpftrace_scripts.begin(self.plan.scripts, os.getpid())
        if self._session is None:
            self._prepare()
            target = collect.Target(
                pid=os.getpid(),
                python=True,
                frequency_hz=self.plan.frequency_hz,
                module_files=module_files(),
                roots=self._roots,
                modes=frozenset(self.plan.modes),
                machine=self.plan.machine,
            )
            self._session = self.collector.start(target)
        return Window(self._session, self.clocks)

    def finish(self, driven: Driven, code: CodeType, module: str) -> Recorded:
        """Return the driven rounds with their samples, trimmed at the function of `code`.

        `module` is the function's own idea of its module, where no file tells.
        """
        if self._session is None:
            raise ValueError("Recorder.begin() must come before finish()")
        files = module_files()
        root = Frame(code.co_qualname, files.get(code.co_filename, module))
        recording = self._session.read(files)
        self.next_phase = driven.next_phase
        recorded = join(driven, recording, root, self.plan)
        if self._beside is None:
            return recorded
        metrics = {**recorded.process.metrics, **self._beside.read()}
        self._end_scripts()
        return replace(recorded, process=replace(recorded.process, metrics=metrics))

    def _end_scripts(self) -> None:
        if self._beside is not None:
            self._beside.close()
            self._beside = None

    def close(self) -> None:
        """End the collector; without one, do nothing."""
        self._end_scripts()
        if self._session is not None:
            self._session.close()
            self._session = None


def module_files() -> dict[str, str]:
    """Return file -> dotted module of every module that is loaded.

    `__main__` is left out: it names the way a module was started, not the module.
    """
    files: dict[str, str] = {}
    for key, module in list(sys.modules.items()):
        # Some entries are not modules, and lazy ones must not be woken by a look at them.
        told = getattr(module, "__dict__", None)
        if key == "__main__" or not isinstance(told, dict):
            continue
        file, name = told.get("__file__"), told.get("__name__")
        if isinstance(file, str) and isinstance(name, str) and name != "__main__":
            files.setdefault(file, name)
    return files


def join(driven: Driven, recording: collect.Recording, root: Frame, plan: RecordConfig) -> Recorded:
    """Give each round the samples and waits of its phase, trimmed at the benchmark's function.

    `pytest;…;test_sum;ci_flame.record.rounds:drive;shop:add` becomes `test_sum;shop:add`.
    """
    rounds = []
    unrooted = kept = 0
    for phase, each in enumerate(driven.rounds, driven.first_phase):
        profiles: dict[Mode, Profile] = {}
        if recording.mode in plan.modes:
            seen = {
                stack: Weight(samples, samples * recording.period_ns)
                for stack, samples in recording.samples.get(phase, {}).items()
            }
            profiles[recording.mode], strays = _trimmed(seen, each, root)
            unrooted += strays
            kept += profiles[recording.mode].samples
        if Mode.OFF_CPU in plan.modes and recording.mode is not Mode.OFF_CPU:
            waits = recording.off_cpu.get(phase, {})
            profiles[Mode.OFF_CPU], _ = _trimmed(waits, each, root)
        rounds.append(replace(each, profiles=profiles))
    phases = range(driven.first_phase, driven.next_phase)
    sampled = Mode.ON_CPU in plan.modes
    process = Process(
        rounds=tuple(rounds),
        kept=kept,
        lost=recording.lost,
        expected=round(driven.cpu_ns * plan.frequency_hz / 1e9) if sampled else 0,
        truncated=sum(recording.truncated.get(phase, 0) for phase in phases),
        unrooted=unrooted,
        metrics=figures.of_process(recording.metrics, recording.histograms, rounds, cpus()),
        histograms=dict(recording.histograms),
        warm_up_ns=driven.warm_up_ns,
        settled=driven.settled,
        notes=recording.notes,
    )
    return Recorded(process, root, recording.places)


def _trimmed(seen: Mapping[Stack, Weight], each: Round, root: Frame) -> tuple[Profile, int]:
    """Return a round's profile as the benchmark's, and the number of samples that are not its."""
    whole = Profile(seen, Unit.NANOSECONDS, each.iterations)
    trimmed, strays = simplify.trim(whole, root)
    return without_machinery(trimmed), strays


def without_machinery(profile: Profile) -> Profile:
    """Drop ci_flame's own frames; what they cost stays with the frame above them.

    `test_sum;ci_flame.record.rounds:drive;shop:add` becomes `test_sum;shop:add`.
    """
    stacks: dict[Stack, Weight] = {}
    for stack, weight in profile.stacks.items():
        kept = tuple(each for each in stack if not is_machinery(each)) or stack
        have = stacks.get(kept)
        stacks[kept] = weight if have is None else have + weight
    return replace(profile, stacks=stacks)


def is_machinery(frame: Frame) -> bool:
    """Tell frames of ci_flame's own from those of the benchmark."""
    return frame.kind is Kind.PYTHON and frame.module in MACHINERY


def must_have_samples(benchmark: str, processes: Sequence[Process]) -> None:
    """Raise CollectError where a process used the CPU and the collector saw nothing of it."""
    for process in processes:
        if process.kept == 0 and process.expected >= MIN_EXPECTED:
            cpu_s = sum(each.cpu_ns for each in process.rounds) / 1e9
            raise CollectError(
                f"{benchmark}: no sample in {cpu_s:.2f} s of CPU time,"
                f" {process.expected} were expected",
                "run `ci-flame doctor`; the collector started but saw nothing of this process",
            )
