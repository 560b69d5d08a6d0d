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
    Stack,
    Unit,
    Weight,
)
from ci_flame.record import layout, reference
from ci_flame.record.rounds import Clocks, Driven, Window
from ci_flame.verdict import Note

MACHINERY: Final = frozenset(
    {
        "ci_flame.pytest_plugin.item",
        "ci_flame.record.rounds",
        "ci_flame.record.reference",
        "ci_flame.collect.ebpf",
        "ci_flame.collect.py_spy",
    }
)
"""Modules whose frames stand between the test function and what it measures."""
MIN_SAMPLES: Final = 100
"""Fewer say nothing: a function of 10 % of the benchmark would have ten."""


@dataclass(frozen=True, slots=True)
class Recorded:
    """What one process says of one benchmark."""

    process: Process
    root: Frame
    places: Mapping[Frame, Place]


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

    @property
    def collector(self) -> collect.Collector:
        """The chosen collector; CollectError that says for each what stops it, and the cure."""
        if self._collector is None:
            found = machine.probe()
            self._collector = collect.choose(found, python=True, wanted=self.plan.collector)
        return self._collector

    @property
    def environment(self) -> Environment:
        """What decides whether this recording may be compared with another."""
        python = platform.python_version()
        return machine.environment(
            self.collector, python, self.plan.frequency_hz, layout.describe()
        )

    def begin(self) -> Window:
        """Start the collector if it does not run yet; return the benchmark's window."""
        if self._session is None:
            self._prepare()
            roots = dict.fromkeys([str(self._project), *filter(None, sys.path)])
            target = collect.Target(
                pid=os.getpid(),
                python=True,
                frequency_hz=self.plan.frequency_hz,
                module_files=module_files(),
                roots=tuple(roots),
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
        return join(driven, recording, root, self.plan.frequency_hz)

    def close(self) -> None:
        """End the collector; without one, do nothing."""
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


def join(driven: Driven, recording: collect.Recording, root: Frame, frequency_hz: int) -> Recorded:
    """Give each round the samples of its phase, trimmed at the benchmark's function.

    `pytest;…;test_sum;ci_flame.record.rounds:drive;shop:add` becomes `test_sum;shop:add`.
    """
    rounds = []
    unrooted = 0
    for phase, each in enumerate(driven.rounds, driven.first_phase):
        seen = recording.samples.get(phase, {})
        stacks = {
            stack: Weight(samples, samples * recording.period_ns) for stack, samples in seen.items()
        }
        profile = Profile(stacks, Unit.NANOSECONDS, each.iterations)
        trimmed, strays = simplify.trim(profile, root)
        unrooted += strays
        profiles = {Mode(recording.mode): without_machinery(trimmed)}
        rounds.append(replace(each, profiles=profiles))
    phases = range(driven.first_phase, driven.next_phase)
    process = Process(
        rounds=tuple(rounds),
        kept=sum(profile.samples for each in rounds for profile in each.profiles.values()),
        lost=recording.lost,
        expected=round(driven.cpu_ns * frequency_hz / 1e9),
        truncated=sum(recording.truncated.get(phase, 0) for phase in phases),
        unrooted=unrooted,
        metrics=dict(recording.metrics),
        warm_up_ns=driven.warm_up_ns,
        settled=driven.settled,
    )
    return Recorded(process, root, recording.places)


def without_machinery(profile: Profile) -> Profile:
    """Drop ci_flame's own frames; what they cost stays with the frame above them.

    `test_sum;ci_flame.record.rounds:drive;shop:add` becomes `test_sum;shop:add`.
    """
    stacks: dict[Stack, Weight] = {}
    for stack, weight in profile.stacks.items():
        kept = tuple(each for each in stack if not _is_machinery(each)) or stack
        have = stacks.get(kept)
        stacks[kept] = weight if have is None else have + weight
    return replace(profile, stacks=stacks)


def _is_machinery(frame: Frame) -> bool:
    return frame.kind is Kind.PYTHON and frame.module in MACHINERY


def accounts(benchmark: str, processes: Sequence[Process], plan: RecordConfig) -> tuple[Note, ...]:
    """Return what must be said of most processes of a recording, as the first one said it."""
    notes = [note for process in processes for note in account(benchmark, process, plan)]
    slugs = [note.slug for note in notes]
    return tuple(
        note
        for index, note in enumerate(notes)
        if slugs.index(note.slug) == index and 2 * slugs.count(note.slug) > len(processes)
    )


def account(benchmark: str, process: Process, plan: RecordConfig) -> tuple[Note, ...]:
    """Return what must be said of one process's recording; CollectError where it holds nothing.

    Too few samples: the note `too-short` says how many seconds would give enough.
    """
    cpu_ns = sum(each.cpu_ns for each in process.rounds)
    wall_ns = sum(each.wall_ns for each in process.rounds)
    cpu_s, wall_s = cpu_ns / 1e9, wall_ns / 1e9
    if process.kept == 0 and process.expected >= MIN_SAMPLES:
        raise CollectError(
            f"{benchmark}: no sample in {cpu_s:.2f} s of CPU time,"
            f" {process.expected} were expected",
            "run `ci-flame doctor`; the collector started but saw nothing of this process",
        )
    notes = []
    share = cpu_s / wall_s if wall_s else 0.0
    delay_ns = min(wall_ns, sum(each.run_delay_ns for each in process.rounds))
    if 2 * delay_ns > wall_ns:
        notes.append(
            Note(
                "starved",
                f"waited for a CPU in {100 * delay_ns / wall_ns:.0f} % of {wall_s:.1f} s:"
                " other programs are using this machine",
                benchmark,
            )
        )
    elif 10 * cpu_ns < wall_ns - delay_ns:  # under a tenth
        notes.append(
            Note(
                "waits",
                f"on the CPU for only {100 * share:.2g} % of {wall_s:.1f} s:"
                " its waiting is not judged",
                benchmark,
            )
        )
    if process.kept < MIN_SAMPLES:
        per_second = plan.frequency_hz * min(1.0, share)
        needed = MIN_SAMPLES / per_second if per_second else 0.0
        cure = (
            f"it needs about --flame-seconds {_seconds(needed)}"
            if needed and needed <= 600  # noqa: PLR2004 - what the flag allows
            else "it uses too little CPU time to be profiled"
        )
        notes.append(
            Note(
                "too-short",
                f"too short to sample: {process.kept} samples in {cpu_s:.3g} s of CPU time,"
                f" {MIN_SAMPLES} are the least; {cure}",
                benchmark,
            )
        )
    if not process.settled:
        notes.append(
            Note(
                "warming",
                f"still getting faster after {process.warm_up_ns / 1e9:.2g} s of warm-up",
                benchmark,
            )
        )
    return tuple(notes)


def _seconds(value: float) -> str:
    """Round up to a figure that a person would type."""
    if value <= 1:
        return f"{max(0.1, -(-value * 10 // 1) / 10):g}"
    return f"{-(-value // 1):.0f}"
