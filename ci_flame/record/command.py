"""Stage 1, edge: any command, recorded as one benchmark: N processes of one round each.

    references · launch, attach, release · the command · references    (once per repetition)

The command is started suspended, so that the collector sees it from its first instruction.
With two sides (this tree and the base commit) repetitions alternate in random order, so
that a machine that drifts does so for both.
"""

import os
import secrets
import sys
from collections.abc import Iterable, Mapping, Sequence
from contextlib import AbstractContextManager, ExitStack, nullcontext
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Final, Self

from ci_flame.baseline import base_side, git, rerun
from ci_flame.collect import (
    Collector,
    Recording,
    Target,
    choose_whole_stacks,
    machine,
)
from ci_flame.collect.bpftrace import scripts as bpftrace_scripts
from ci_flame.config import BUSY_COMMAND, RecordConfig
from ci_flame.errors import BaselineError, CollectError, InterruptedRunError, UsageError
from ci_flame.profile import (
    RUN_QUEUE,
    Environment,
    Frame,
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
from ci_flame.record import figures, interpreter, jit, jit_maps, jit_report, reference
from ci_flame.record.alternating import order
from ci_flame.record.clocks import cpus, leave_out_busy
from ci_flame.record.jit import Jit
from ci_flame.record.suspended import Clocks, Suspended
from ci_flame.simplify import clean_stack

if TYPE_CHECKING:
    from ci_flame.record.interpreter import Interpreter

PHASE: Final = 1
REFERENCES: Final = 4
"""Measurements of the reference work before and after each repetition; a command takes
seconds, so that two moments of 2 ms would say little about them."""
_LAUNCHER_MODULE: Final = "ci_flame.record.launcher"
"""Of the launcher's own frames, in the moment before it becomes the command."""


@dataclass(frozen=True, slots=True)
class Side:
    """Where and how the command runs."""

    command: tuple[str, ...]
    folder: Path
    environment: Mapping[str, str]
    state: git.State
    interpreter: "Interpreter"
    jit: Jit = Jit.NONE
    """The runtimes whose compiled functions are wanted; the environment has their flags."""
    tree: Path | None = None
    """The base commit's checkout, of its side."""

    @classmethod
    def here(cls, command: Sequence[str]) -> Self:
        """Return the side of the present folder."""
        folder = Path.cwd()
        return cls(
            tuple(command),
            folder,
            dict(os.environ),
            git.state(folder),
            interpreter.find(command, folder, os.environ),
        )

    @classmethod
    def there(
        cls,
        command: Sequence[str],
        start: Path,
        tree: Path,
        base: base_side.Checkout | None = None,
    ) -> Self:
        """Return the side of the base commit in `tree`, as `start` is in its repository.

        `base` tells of an environment of its own, whose programs then come first.

        What Python would import from the repository is imported from the tree instead:
        editable installs would otherwise run the same code on both sides.
        """
        if not tree.is_dir():
            raise BaselineError(f"{tree} is not a folder")
        try:
            top = git.top_level(start).resolve()
            folder = rerun.counterpart(start, start, tree)
        except BaselineError:
            if (tree / ".git").exists():
                raise
            top, folder = start.resolve(), tree
        base = base or base_side.Checkout(tree)
        environment = {**base.environment(os.environ), "PWD": str(folder)}
        if base.python and interpreter.is_python(command[0]):
            command = (base.python, *command[1:])
        found = interpreter.find(command, start, environment)
        mapped = [there for each in found.path if (there := _mapped(Path(each), top, tree))]
        given = os.environ.get("PYTHONPATH", "")
        inherited = [
            _mapped(Path(each).resolve(), top, tree) or each
            for each in given.split(os.pathsep)
            if each
        ]
        if mapped or inherited:
            environment["PYTHONPATH"] = os.pathsep.join(dict.fromkeys([*inherited, *mapped]))
        return cls(
            (
                _program(command[0], start, folder),
                *(_argument(word, top, tree) for word in command[1:]),
            ),
            folder,
            environment,
            git.state(tree),
            found,
            tree=tree,
        )


class SideError(CollectError):
    """The command failed on one of two sides before anything was recorded."""

    def __init__(self, error: CollectError, side: int) -> None:
        super().__init__(error.message, error.hint)
        self.side = side


def bring_scripts(command: Sequence[str], start: Path, tree: Path) -> tuple[str, ...]:
    """Copy files that the command names and the base commit lacks beside it; return their names."""
    brought: list[str] = []
    for word in command[1:]:
        file = start / word
        if word.startswith("-") or not file.is_file():
            continue
        brought += base_side.bring(file, git.top_level(start), tree)
    return tuple(dict.fromkeys(brought))


def expected(plan: RecordConfig, command: Sequence[str], wanted: Jit = Jit.NONE) -> Environment:
    """Return what decides whether a recording that is made here may be compared with another."""
    side = replace(Side.here(command), jit=wanted)
    return _environment(_choose(plan, (side,)), side, plan)


def _mapped(path: Path, top: Path, tree: Path) -> str:
    """Return where `path` of the repository stands in the tree; empty if it does not."""
    if not path.is_relative_to(top):
        return ""
    there = tree / path.relative_to(top)
    return str(there) if there.is_dir() else ""


def _argument(word: str, top: Path, tree: Path) -> str:
    """Return the word; an absolute path into the repository leads into the tree instead."""
    if not word.startswith("/") or not Path(word).is_relative_to(top):
        return word
    there = tree / Path(word).relative_to(top)
    return str(there) if there.exists() else word


def _program(word: str, start: Path, folder: Path) -> str:
    """Return the program; one that only the present tree has (`.venv/bin/python`) from there."""
    if "/" not in word or (folder / word).exists() or not (start / word).exists():
        return word
    return str(start / word)


# -- recording ------------------------------------------------------------------------


def record(
    plan: RecordConfig, name: str, sides: Sequence[Side], repeat: int, wanted: Jit = Jit.NONE
) -> tuple[Run, ...]:
    """Record the command on each side, `repeat` times; return one run per side.

    Each side first runs once unrecorded: caches and compiled files are then alike. After
    Ctrl-C the runs hold the repetitions that ended, marked incomplete. Raises CollectError
    where the command fails or no sample was taken.
    """
    if plan.collector == "replay":
        return _replay(plan, name, sides)
    collector = _choose(plan, sides)  # before anything runs, as it may not be possible
    bpftrace_scripts.check(plan.scripts, os.getpid())
    with ExitStack() as stack:
        reference.prepare()
        processes: list[list[Process]] = [[] for _ in sides]
        places: list[dict[Frame, Place]] = [{} for _ in sides]
        told: dict[str, None] = {}
        complete = True
        seed = secrets.token_hex(8) if len(sides) > 1 else ""
        try:
            sides = [
                _rehearsed(side, wanted, stack, index if len(sides) > 1 else None)
                for index, side in enumerate(sides)
            ]
            collector = _choose(plan, sides)
            for index in _order(len(sides), repeat, seed):
                process, seen, notes = _run(sides[index], collector, plan)
                told |= dict.fromkeys(notes)
                processes[index].append(process)
                places[index] |= seen
        except (KeyboardInterrupt, InterruptedRunError):
            complete = False
    if not all(processes):
        raise InterruptedRunError("interrupted before one repetition had ended; nothing is kept")
    _tell(told)
    for side, done in zip(sides, processes, strict=True):
        _must_have_samples(name, done, plan)
        compiled = jit_report.notes(side.jit, collector.name, done)
        _tell(compiled)
        done[0] = replace(done[0], notes=(*done[0].notes, *compiled))
    return tuple(
        replace(
            _to_run(name, side, done, seen, _environment(collector, side, plan), complete=complete),
            seed="" if side.tree else seed,
        )
        for side, done, seen in zip(sides, processes, places, strict=True)
    )


def _order(sides: int, repeat: int, seed: str) -> Iterable[int]:
    """Return whose turn each repetition is; two sides alternate at random."""
    if sides == 1:
        return [0] * repeat
    return [("before", "after").index(each) for each in order(repeat, repeat, seed)]


def _rehearsed(given: Side, wanted: Jit, stack: ExitStack, number: int | None = None) -> Side:
    """Run the command once, unrecorded; return the side with what `wanted` adds to it.

    Of `auto` nothing is kept where the command ran neither runtime. A failure of side `number`
    of two is told as SideError.
    """
    try:
        return _rehearse(given, wanted, stack)
    except CollectError as error:
        if number is None:
            raise
        if given.tree is not None:
            error.message = f"beside the base commit, {error.message}"
            lacking = base_side.lacking(error.hint, Path.cwd(), given.tree)
            cure = "baseline: {setup: COMMAND} prepares its checkout"
            if lacking:
                cure = f"git does not hold {base_side.listed(lacking)}; {cure}"
            error.hint = f"{cure}; {error.hint}"
        raise SideError(error, number) from None


def _rehearse(given: Side, wanted: Jit, stack: ExitStack) -> Side:
    if wanted is Jit.NONE:
        _tell(jit_report.advice(jit.mentioned(given.command)))
        with Suspended(given) as child:
            child.run()
        return given
    runtimes = jit.prepare(wanted, given.command, given.environment, given.folder, stack)
    _tell(runtimes.notes)
    mark = secrets.token_hex(8)
    side = replace(
        given,
        command=runtimes.command(given.command),
        environment=runtimes.environment(given.environment, mark),
        jit=wanted,
    )
    with jit_maps.Watch(mark) as watch, Suspended(side) as child:
        child.run()
        watch.settle(child.pid)
    if wanted is Jit.AUTO and not (watch.runtimes or jit.mentioned(given.command)):
        _tell(["--jit auto: the command ran neither Java nor Node; recorded like any other"])
        return given
    return side


def _tell(notes: Iterable[str]) -> None:
    for note in notes:
        sys.stderr.write(f"ci-flame: {note}\n")


def _replay(plan: RecordConfig, name: str, sides: Sequence[Side]) -> tuple[Run, ...]:
    """Return the stored run instead of running anything: for tests and laptops."""
    from ci_flame.baseline import folder  # noqa: PLC0415 - heavy readers, only needed here

    if len(sides) > 1:
        raise UsageError("collector replay has one side only", "give --baseline folder:DIR")
    if plan.replay is None:
        raise UsageError("collector replay needs a run folder", "add --replay DIR")
    run = folder.load(plan.replay)
    measurement = run.measurement(name)
    if measurement is None:
        known = ", ".join(each.benchmark for each in run.measurements)
        raise UsageError(f"{plan.replay} holds no benchmark {name}", f"it holds: {known}")
    return (Run(run.environment, (measurement,), run.commit, run.dirty, run.time),)


def _choose(plan: RecordConfig, sides: Sequence[Side]) -> Collector:
    """Return the collector; perf first for what is not Python, as it sees whole native stacks."""
    found = machine.probe()
    python = any(side.interpreter.python and side.jit is Jit.NONE for side in sides)
    return choose_whole_stacks(
        found,
        python=python,
        wanted=plan.collector,
        waits=Mode.OFF_CPU in plan.modes,
        event=plan.event,
        call_graph=plan.call_graph,
    )


def _environment(collector: Collector, side: Side, plan: RecordConfig) -> Environment:
    lies = side.interpreter.layout
    return machine.environment(collector, side.interpreter.version, plan.frequency_hz, lies)


def _to_run(
    name: str,
    side: Side,
    processes: Sequence[Process],
    places: Mapping[Frame, Place],
    environment: Environment,
    *,
    complete: bool,
) -> Run:
    return Run(
        environment=environment,
        measurements=(Measurement(name, tuple(processes), None, places),),
        commit=side.state.commit,
        dirty=side.state.dirty,
        time=datetime.now(UTC).isoformat(timespec="seconds"),
        complete=complete,
    ).check()


def _must_have_samples(name: str, processes: Sequence[Process], plan: RecordConfig) -> None:
    if any(process.kept for process in processes) or Mode.ON_CPU not in plan.modes:
        return
    cpu_ns = sum(each.cpu_ns for process in processes for each in process.rounds)
    raise CollectError(
        f"{name}: no sample in {len(processes)} repetitions, which used {cpu_ns / 1e6:.1f} ms"
        f" of CPU time at {plan.frequency_hz} Hz",
        "let the command do more work (seconds, not milliseconds), or raise --frequency",
    )


# -- one repetition -------------------------------------------------------------------


def _run(
    side: Side, collector: Collector, plan: RecordConfig
) -> tuple[Process, dict[Frame, Place], tuple[str, ...]]:
    """Run the command once under the collector; return its notes too."""
    before = _references()
    with ExitStack() as stack:
        # Entered first, left last: the maps must be there until the recording has been read.
        watch = stack.enter_context(_watch(side))
        child = stack.enter_context(Suspended(side))
        beside = bpftrace_scripts.begin(plan.scripts, child.pid)
        if beside is not None:
            stack.callback(beside.close)
        session = collector.start(_target(side, child.pid, plan))
        stack.callback(session.close)
        session.set_phase(PHASE)
        clocks = child.run()
        session.set_phase(0)
        if watch is not None:
            watch.settle(child.pid)
        recording = session.read()
        if beside is not None:
            recording = replace(recording, metrics={**recording.metrics, **beside.read()})
    references = {kind: before[kind] + after for kind, after in _references().items()}
    process = _process(clocks, references, recording, plan, side)
    return process, dict(recording.places), recording.notes


def _watch(side: Side) -> AbstractContextManager[jit_maps.Watch | None]:
    if side.jit is Jit.NONE:
        return nullcontext()
    return jit_maps.Watch(side.environment[jit.MARK_VARIABLE])


def _target(side: Side, pid: int, plan: RecordConfig) -> Target:
    roots = [str(side.folder), *side.environment.get("PYTHONPATH", "").split(os.pathsep)]
    return Target(
        pid=pid,
        python=side.interpreter.python and side.jit is Jit.NONE,
        frequency_hz=plan.frequency_hz,
        roots=tuple(dict.fromkeys(filter(None, [*roots, *side.interpreter.path]))),
        modes=frozenset(plan.modes),
        machine=plan.machine,
    )


def _references() -> dict[str, tuple[int, ...]]:
    measured = [reference.measure() for _ in range(REFERENCES)]
    return {kind: sum((each[kind] for each in measured), ()) for kind in measured[0]}


def _process(
    clocks: Clocks,
    references: Mapping[str, tuple[int, ...]],
    recording: Recording,
    plan: RecordConfig,
    side: Side,
) -> Process:
    """Return the account of one repetition: every phase that was sampled is its one round."""
    roots = jit.roots(side.folder)
    sampled = [
        (stack, Weight(samples, samples * recording.period_ns))
        for stacks in recording.samples.values()
        for stack, samples in stacks.items()
    ]
    waited = [each for stacks in recording.off_cpu.values() for each in stacks.items()]
    profiles: dict[Mode, Profile] = {}
    if recording.mode in plan.modes:
        profiles[recording.mode] = _profile(sampled, roots)
    if Mode.OFF_CPU in plan.modes and recording.mode is not Mode.OFF_CPU:
        profiles[Mode.OFF_CPU] = _profile(waited, roots)
    cores = cpus()
    # The kernel keeps no account of threads and children that have ended; the collector does.
    queued = sum(weight.value for stack, weight in waited if stack[-1] == RUN_QUEUE)
    only = leave_out_busy(
        Round(
            1,
            clocks.cpu_ns,
            clocks.wall_ns,
            max(clocks.run_delay_ns, queued),
            references,
            profiles,
            steal_ns=clocks.steal_ns,
        ),
        BUSY_COMMAND if plan.busy is None else plan.busy,
        cores,
    )
    sampled_here = Mode.ON_CPU in plan.modes
    return Process(
        rounds=(only,),
        kept=profiles[recording.mode].samples if recording.mode in profiles else 0,
        lost=recording.lost,
        expected=round(clocks.cpu_ns * plan.frequency_hz / 1e9) if sampled_here else 0,
        truncated=sum(recording.truncated.values()),
        metrics=figures.of_process(recording.metrics, recording.histograms, (only,), cores),
        histograms=dict(recording.histograms),
        notes=recording.notes,
    )


def _profile(seen: Iterable[tuple[Stack, Weight]], roots: tuple[str, ...]) -> Profile:
    """Return all windows as one profile, the launcher's moment left out."""
    weights: dict[Stack, Weight] = {}
    for whole, weight in seen:
        stack = jit.relative(clean_stack(_without_launcher(whole)), roots)
        if stack:
            weights[stack] = weights[stack] + weight if stack in weights else weight
    return Profile(weights, Unit.NANOSECONDS, 1)


def _without_launcher(stack: Stack) -> Stack:
    """Return the stack without our own frames in front; empty where it has no others."""
    first = next(
        (n for n, frame in enumerate(stack) if frame.module != _LAUNCHER_MODULE), len(stack)
    )
    return stack[first:]
