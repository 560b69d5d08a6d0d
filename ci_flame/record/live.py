"""Stage 1, edge: processes that run already, recorded as one benchmark in slices of a second.

    references · slice 1 · references · slice 2 · …     until the duration or the target ends

A slice is a round of one iteration: its cost is CPU time per second of wall time, so that two
recordings compare where both served the same load. Nothing is started, stopped or changed.
"""

import os
import select
import sys
import time
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Final

from ci_flame.collect import Collector, Recording, Session, Target, choose_whole_stacks, machine
from ci_flame.config import BUSY_COMMAND, RecordConfig
from ci_flame.errors import CollectError, InterruptedRunError, UsageError
from ci_flame.profile import (
    Frame,
    Histogram,
    Measurement,
    Mode,
    Place,
    Process,
    Profile,
    Round,
    Run,
    Stack,
    Unit,
    Weight,
)
from ci_flame.record import (
    clocks,
    figures,
    jit,
    jit_maps,
    jit_report,
    layout,
    live_target,
    reference,
)
from ci_flame.record.jit import Jit
from ci_flame.record.live_target import LiveTarget, Meter
from ci_flame.simplify import clean_stack

SLICE_S: Final = 1.0
"""The same for all recordings, as their cost is per slice."""
DURATION_S: Final = range(3, 3601)
LEAST_SLICES: Final = 3
"""A target that ends sooner leaves nothing to compare with."""
_READ_EVERY: Final = 30
"""Slices between two reads of collectors that can be read on the way: bounds their memory."""
_READ_ONCE: Final = frozenset({"perf", "py-spy"})
_GLIMPSE_S: Final = 0.05


def record(
    plan: RecordConfig, target: LiveTarget, name: str, duration_s: int, wanted: Jit = Jit.NONE
) -> Run:
    """Sample the target for this long; return a run of one process with a round per second.

    It ends early where the target ends: the whole slices before are the run. After Ctrl-C the
    run is marked incomplete. Raises CollectError where there are fewer than 3 slices, or no
    sample, UsageError where the duration is out of range.
    """
    if duration_s not in DURATION_S:
        raise UsageError(
            f"--duration of {duration_s} s; {DURATION_S[0]} s to {DURATION_S[-1]} s are possible"
        )
    members = target.members()
    if not members:
        raise CollectError(f"{target.label} has ended")
    versions = {pid: live_target.python_version(pid) for pid in members}
    python = any(version is not None for version in versions.values()) and wanted is Jit.NONE
    collector = _choose(plan, python=python)
    _tell(jit_maps.advice(members, wanted))
    if plan.scripts:
        _tell([f"{len(plan.scripts)} bpftrace scripts of the policy run beside commands only"])
    reference.prepare()
    root = next((pid for pid in members if versions[pid] is not None), members[0])
    session = collector.start(
        Target(
            pid=root,
            pids=tuple(pid for pid in members if pid != root),
            python=python and versions[root] is not None,
            frequency_hz=plan.frequency_hz,
            roots=tuple(filter(None, [live_target.working_folder(root)])),
            modes=frozenset(plan.modes),
            machine=plan.machine,
        )
    )
    slices = _Slices(session, keep=collector.name in _READ_ONCE)
    try:
        ended, interrupted = _sample(slices, target, duration_s), False
    except (KeyboardInterrupt, InterruptedRunError):
        ended, interrupted = False, True
    finally:
        slices.finish(target, wanted)
    whole = len(slices.rounds)
    if interrupted and not whole:
        raise InterruptedRunError("interrupted before one second had passed; nothing is kept")
    if whole < LEAST_SLICES and not interrupted:
        raise CollectError(
            f"{target.label} ended after {whole} whole s; at least {LEAST_SLICES} are needed",
            "start ci-flame sooner, or record the command itself: ci-flame record -- COMMAND",
        )
    if ended:
        _tell([f"{target.label} ended after {whole} of {duration_s} s"])
    process = slices.process(plan, Path(live_target.working_folder(root) or "/"))
    _must_have_samples(target, process, plan)
    notes = (*slices.notes(), *jit_report.notes(wanted, collector.name, [process]))
    _tell(notes)
    process = replace(process, notes=notes)
    version = (versions[root] or "") if python else ""
    return Run(
        environment=machine.environment(collector, version, plan.frequency_hz, layout.RANDOM),
        measurements=(Measurement(name, (process,), None, slices.places),),
        time=datetime.now(UTC).isoformat(timespec="seconds"),
        complete=not interrupted,
    ).check()


def _choose(plan: RecordConfig, *, python: bool) -> Collector:
    """Return the collector; UsageError for those that cannot tell slices apart."""
    found = machine.probe()
    if plan.collector == "replay":
        raise UsageError("collector replay runs nothing that could be live")
    if plan.collector == "bpftrace":
        raise UsageError(
            "collector bpftrace knows one window, which slices of a second are not",
            "record processes that run already with --collector perf or ebpf",
        )
    return choose_whole_stacks(
        found,
        python=python,
        wanted=plan.collector,
        waits=Mode.OFF_CPU in plan.modes,
        event=plan.event,
        call_graph=plan.call_graph,
    )


def _sample(slices: "_Slices", target: LiveTarget, duration_s: int) -> bool:
    """Sample slice after slice; return whether the target ended before the duration did."""
    return any(not slices.one(phase, target) for phase in range(1, duration_s + 1))


@dataclass(slots=True)
class _Slices:
    """The rounds as they come, and what was sampled in them."""

    session: Session
    keep: bool
    """True: the collector is read once, at the end."""
    rounds: dict[int, Round] = field(default_factory=dict)
    """Phase -> clocks of a whole slice, still without its profiles."""
    read: list[Recording] = field(default_factory=list)
    known: set[int] = field(default_factory=set)
    strangers: set[int] = field(default_factory=set)
    """Processes that came into the cgroup from elsewhere while it was sampled."""
    _meter: Meter = field(default_factory=Meter)

    @property
    def places(self) -> dict[Frame, Place]:
        """Where the functions are."""
        return {frame: place for each in self.read for frame, place in each.places.items()}

    def one(self, phase: int, target: LiveTarget) -> bool:
        """Sample one slice; False where the target ended before it did: that one is left out."""
        self._follow(target)
        self._meter.since(self.known)
        stolen_ns, start = clocks.steal_ns(), time.monotonic_ns()
        self.session.set_phase(phase)
        alive = _wait(target, SLICE_S)
        self.session.set_phase(0)
        wall_ns = time.monotonic_ns() - start
        if not alive:
            return False
        self._follow(target)
        cpu_ns, delay_ns = self._meter.since(self.known)
        stolen_ns = clocks.steal_ns() - stolen_ns
        self.rounds[phase] = Round(
            1, cpu_ns, wall_ns, delay_ns, reference.measure(), steal_ns=max(stolen_ns, 0)
        )
        if not self.keep and phase % _READ_EVERY == 0:
            self.read.append(self.session.read())
        return True

    def _follow(self, target: LiveTarget) -> None:
        members = target.members()
        if self.known and not target.alone:
            for pid in set(members) - self.known - self.strangers:
                if live_target.parent(pid) not in self.known:
                    self.strangers.add(pid)
        self.known = set(members) - self.strangers

    def finish(self, target: LiveTarget, wanted: Jit) -> None:
        """Read what was sampled, and let go of the target."""
        asked: tuple[int, ...] = ()
        try:
            self.session.set_phase(0)
            if self.rounds:
                if wanted in {Jit.JAVA, Jit.AUTO}:
                    asked = jit_maps.ask_java(self.known)
                self.read.append(self.session.read())
        finally:
            self.session.close()
            for pid in asked:
                jit_maps.remove(pid, owner=live_target.owner(pid))
        if self.strangers:
            number = len(self.strangers)
            _tell([f"{number} processes came into {target.label} from elsewhere: left out"])

    def notes(self) -> tuple[str, ...]:
        """Return what the collector said of what it read, each once."""
        return tuple(dict.fromkeys(note for each in self.read for note in each.notes))

    def process(self, plan: RecordConfig, folder: Path) -> Process:
        """Return the rounds with their profiles; slices that are not whole are left out."""
        roots = jit.roots(folder)
        cores = os.cpu_count() or 1  # the target's, who may use others than this process
        busy = BUSY_COMMAND if plan.busy is None else plan.busy
        rounds = []
        for phase, each in self.rounds.items():
            profiles = {}
            for mode in plan.modes:
                profiles[mode] = Profile(self._weights(phase, mode, roots), Unit.NANOSECONDS, 1)
            sampled = profiles[Mode.ON_CPU].value if Mode.ON_CPU in profiles else 0
            whole = replace(each, cpu_ns=each.cpu_ns or sampled, profiles=profiles)
            rounds.append(clocks.leave_out_busy(whole, busy, cores))
        on_cpu = [each.profiles[Mode.ON_CPU] for each in rounds if Mode.ON_CPU in each.profiles]
        used_ns = sum(each.cpu_ns for each in rounds)
        histograms: dict[str, Histogram] = {}
        for read in self.read:
            for name, histogram in read.histograms.items():
                histograms[name] = histograms.get(name, Histogram({})) + histogram
        return Process(
            tuple(rounds),
            kept=sum(profile.samples for profile in on_cpu),
            lost=sum(each.lost for each in self.read),
            expected=round(used_ns * plan.frequency_hz / 1e9) if on_cpu else 0,
            truncated=sum(
                each.truncated.get(phase, 0) for each in self.read for phase in self.rounds
            ),
            metrics=figures.of_process(
                _added(each.metrics for each in self.read), histograms, rounds, cores
            ),
            histograms=histograms,
        )

    def _weights(self, phase: int, mode: Mode, roots: tuple[str, ...]) -> dict[Stack, Weight]:
        weights: dict[Stack, Weight] = {}
        for recording in self.read:
            seen: Mapping[Stack, Weight] = recording.off_cpu.get(phase, {})
            if mode is Mode.ON_CPU:
                period = recording.period_ns
                seen = {
                    stack: Weight(count, count * period)
                    for stack, count in recording.samples.get(phase, {}).items()
                }
            for whole, weight in seen.items():
                stack = jit.relative(clean_stack(whole), roots)
                weights[stack] = weights[stack] + weight if stack in weights else weight
        return weights


def _wait(target: LiveTarget, seconds: float) -> bool:
    """Wait; return False as soon as the target has ended."""
    deadline = time.monotonic() + seconds
    roots = target.roots()
    descriptor = -1
    try:
        if target.alone and roots:
            descriptor = os.pidfd_open(roots[0])
            ended, _, _ = select.select([descriptor], [], [], seconds)
            return not ended
        while (left := deadline - time.monotonic()) > 0:
            if not target.roots():
                return False
            time.sleep(min(left, _GLIMPSE_S))
    except ProcessLookupError:
        return False
    finally:
        if descriptor >= 0:
            os.close(descriptor)
    return True


def _added(metrics: Iterable[Mapping[str, float]]) -> dict[str, float]:
    """Add up what several reads tell.

    Of limits and of memory the largest counts; percentiles follow from the histograms.
    """
    told = list(metrics)
    added: dict[str, float] = {}
    for each in told:
        for name, value in each.items():
            if len(told) > 1 and name.endswith("_ms"):
                continue
            most = name.endswith(("rss_bytes", "_hz", "_full"))
            added[name] = max(added.get(name, value), value) if most else added.get(name, 0) + value
    return added


def _must_have_samples(target: LiveTarget, process: Process, plan: RecordConfig) -> None:
    if process.kept or Mode.OFF_CPU in plan.modes:
        return
    used_ns = sum(each.cpu_ns for each in process.rounds)
    raise CollectError(
        f"{target.label}: no sample in {len(process.rounds)} s, in which it used"
        f" {used_ns / 1e6:.1f} ms of CPU time",
        "sample it while it has work to do, or longer, or at a higher --frequency",
    )


def _tell(notes: Iterable[str]) -> None:
    for note in notes:
        sys.stderr.write(f"ci-flame: {note}\n")
