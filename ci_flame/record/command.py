"""Stage 1, edge: any command, recorded as one benchmark: N processes of one round each.

    references · launch, attach, release · the command · references    (once per repetition)

The command is started suspended, so that the collector sees it from its first instruction.
With two sides (this tree and the base commit) repetitions alternate in random order, so
that a machine that drifts does so for both.
"""

import os
import random
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections import deque
from collections.abc import Mapping, Sequence
from contextlib import nullcontext, suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import IO, TYPE_CHECKING, Final, Self

from ci_flame.baseline import git, rerun
from ci_flame.collect import Collector, Recording, Target, choose, machine
from ci_flame.config import RecordConfig
from ci_flame.errors import BaselineError, CollectError, InterruptedRunError, UsageError
from ci_flame.profile import (
    Environment,
    Frame,
    Measurement,
    Place,
    Process,
    Profile,
    Round,
    Run,
    Stack,
    Unit,
    Weight,
)
from ci_flame.record import interpreter, layout, reference

if TYPE_CHECKING:
    from ci_flame.record.interpreter import Interpreter

PHASE: Final = 1
REFERENCES: Final = 4
"""Measurements of the reference work before and after each repetition; a command takes
seconds, so that two moments of 2 ms would say little about them."""
TAIL_LINES: Final = 8
GRACE_S: Final = 5.0

_LAUNCHER: Final = Path(__file__).with_name("launcher.py")
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
    def there(cls, command: Sequence[str], start: Path, tree: Path) -> Self:
        """Return the side of the base commit in `tree`, as `start` is in its repository.

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
        found = interpreter.find(command, start, os.environ)
        environment = {**os.environ, "PWD": str(folder)}
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
        )


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


def record(plan: RecordConfig, name: str, sides: Sequence[Side], repeat: int) -> tuple[Run, ...]:
    """Record the command on each side, `repeat` times; return one run per side.

    Each side first runs once unrecorded: caches and compiled files are then alike. After
    Ctrl-C the runs hold the repetitions that ended, marked incomplete. Raises CollectError
    where the command fails or no sample was taken.
    """
    if plan.collector == "replay":
        return _replay(plan, name, sides)
    collector = _choose(plan, python=any(side.interpreter.python for side in sides))
    reference.prepare()
    processes: list[list[Process]] = [[] for _ in sides]
    places: list[dict[Frame, Place]] = [{} for _ in sides]
    complete = True
    try:
        for side in sides:
            _run(side, None, plan)
        for _ in range(repeat):
            for index in random.sample(range(len(sides)), len(sides)):
                process, seen = _run(sides[index], collector, plan)
                processes[index].append(process)
                places[index] |= seen
    except (KeyboardInterrupt, InterruptedRunError):
        complete = False
    if not all(processes):
        raise InterruptedRunError("interrupted before one repetition had ended; nothing is kept")
    for done in processes:
        _must_have_samples(name, done, plan)
    return tuple(
        _to_run(name, side, done, seen, _environment(collector, side, plan), complete=complete)
        for side, done, seen in zip(sides, processes, places, strict=True)
    )


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


def _choose(plan: RecordConfig, *, python: bool) -> Collector:
    """Return the collector; for native commands perf first, which sees whole native stacks."""
    found = machine.probe()
    if plan.collector == "auto" and not python:
        with suppress(CollectError, UsageError):
            return choose(found, python=False, wanted="perf")
    return choose(found, python=python, wanted=plan.collector)


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
    if any(process.kept for process in processes):
        return
    cpu_ns = sum(each.cpu_ns for process in processes for each in process.rounds)
    raise CollectError(
        f"{name}: no sample in {len(processes)} repetitions, which used {cpu_ns / 1e6:.1f} ms"
        f" of CPU time at {plan.frequency_hz} Hz",
        "let the command do more work (seconds, not milliseconds), or raise --frequency",
    )


# -- one repetition -------------------------------------------------------------------


def _run(
    side: Side, collector: Collector | None, plan: RecordConfig
) -> tuple[Process, dict[Frame, Place]]:
    """Run the command once; without a collector nothing is sampled and an empty account kept."""
    before = _references() if collector else {}
    with _Suspended(side) as child:
        session = collector.start(_target(side, child.pid, plan)) if collector else None
        try:
            if session is not None:
                session.set_phase(PHASE)
            clocks = child.run()
            if session is None:
                return Process(()), {}
            session.set_phase(0)
            recording = session.read()
        finally:
            if session is not None:
                session.close()
    references = {kind: before[kind] + after for kind, after in _references().items()}
    return _process(clocks, references, recording, plan), dict(recording.places)


def _target(side: Side, pid: int, plan: RecordConfig) -> Target:
    roots = [str(side.folder), *side.environment.get("PYTHONPATH", "").split(os.pathsep)]
    return Target(
        pid=pid,
        python=side.interpreter.python,
        frequency_hz=plan.frequency_hz,
        roots=tuple(dict.fromkeys(filter(None, [*roots, *side.interpreter.path]))),
    )


def _references() -> dict[str, tuple[int, ...]]:
    measured = [reference.measure() for _ in range(REFERENCES)]
    return {kind: sum((each[kind] for each in measured), ()) for kind in measured[0]}


@dataclass(frozen=True, slots=True)
class _Clocks:
    """What one repetition took, the launcher left out."""

    cpu_ns: int
    wall_ns: int
    run_delay_ns: int


def _process(
    clocks: _Clocks,
    references: Mapping[str, tuple[int, ...]],
    recording: Recording,
    plan: RecordConfig,
) -> Process:
    """Return the account of one repetition: every phase that was sampled is its one round."""
    weights: dict[Stack, Weight] = {}
    for stacks in recording.samples.values():
        for whole, samples in stacks.items():
            stack = _without_launcher(whole)
            if not stack:
                continue
            seen = Weight(samples, samples * recording.period_ns)
            weights[stack] = weights[stack] + seen if stack in weights else seen
    profile = Profile(weights, Unit.NANOSECONDS, 1)
    return Process(
        rounds=(
            Round(
                1,
                clocks.cpu_ns,
                clocks.wall_ns,
                clocks.run_delay_ns,
                references,
                {recording.mode: profile},
            ),
        ),
        kept=profile.samples,
        lost=recording.lost,
        expected=round(clocks.cpu_ns * plan.frequency_hz / 1e9),
        truncated=sum(recording.truncated.values()),
        metrics=recording.metrics,
    )


def _without_launcher(stack: Stack) -> Stack:
    """Return the stack without our own frames in front; empty where it has no others."""
    first = next(
        (n for n, frame in enumerate(stack) if frame.module != _LAUNCHER_MODULE), len(stack)
    )
    return stack[first:]


class _Suspended:
    """The command, waiting in front of its first instruction; ended with the block."""

    def __init__(self, side: Side) -> None:
        self._side = side
        self._tail: deque[bytes] = deque(maxlen=TAIL_LINES)

    def __enter__(self) -> Self:
        read_go, self._go = os.pipe()
        self._told, write_told = os.pipe()
        try:
            # A change to Python code cannot move its interpreter; one to native code can.
            with layout.held() if self._side.interpreter.python else nullcontext():
                self._child = subprocess.Popen(
                    [
                        *(sys.executable, "-I", "-S", str(_LAUNCHER)),
                        *(str(read_go), str(write_told)),
                        *(self._located(), *self._side.command),
                    ],
                    cwd=self._side.folder,
                    stdin=subprocess.DEVNULL,
                    stderr=subprocess.PIPE,
                    pass_fds=(read_go, write_told),
                    process_group=0,
                )
        except OSError as error:
            raise CollectError(f"{self._side.folder}: {error.strerror}") from None
        finally:
            os.close(read_go)
            os.close(write_told)
        self.pid = self._child.pid
        self._reader = threading.Thread(target=self._pass_on, daemon=True)
        self._reader.start()
        return self

    def _located(self) -> str:
        """Return the path of the program, so that the launcher has nothing left to look for."""
        word = self._side.command[0]
        if "/" in word:
            return word
        return shutil.which(word, path=self._side.environment.get("PATH", os.defpath)) or word

    def run(self) -> _Clocks:
        """Let the command go and wait for its end; CollectError if it fails."""
        launcher_ns, launcher_delay = _scheduled(self.pid)
        given = dict(self._side.environment)
        if self._side.interpreter.python:
            given[layout.PADDING_VARIABLE] = layout.padding()
        pairs = (f"{key}={value}" for key, value in given.items())
        start = time.monotonic_ns()
        go, self._go = self._go, -1
        with suppress(BrokenPipeError), os.fdopen(go, "wb") as stream:
            stream.write(b"\0".join([b"go", *map(os.fsencode, pairs)]))
        os.waitid(os.P_PID, self.pid, os.WEXITED | os.WNOWAIT)
        wall_ns = time.monotonic_ns() - start
        _, delay = _scheduled(self.pid)
        _, status, usage = os.wait4(self.pid, 0)
        self._child.returncode = os.waitstatus_to_exitcode(status)
        self._reader.join(1.0)
        self._must_have_succeeded()
        cpu_ns = round((usage.ru_utime + usage.ru_stime) * 1e9) - launcher_ns
        return _Clocks(max(cpu_ns, 0), wall_ns, max(delay - launcher_delay, 0))

    def _must_have_succeeded(self) -> None:
        code = self._child.returncode
        word = self._side.command[0]
        failure = os.read(self._told, 16)
        if failure:
            raise CollectError(f"{word} cannot be run: {os.strerror(int(failure))}")
        if code == 0:
            return
        ended = f"exit code {code}" if code > 0 else f"signal {signal.Signals(-code).name}"
        tail = b"".join(self._tail).decode(errors="replace").rstrip()
        where = f" in {self._side.folder}"
        raise CollectError(
            f"the command ended with {ended}{where}: {' '.join(self._side.command)}",
            f"its last words were:\n{tail}" if tail else "it must end with 0 to be recorded",
        )

    def _pass_on(self) -> None:
        """Hand the command's stderr on as it comes, and keep its end for the error message."""
        stream: IO[bytes] | None = self._child.stderr
        if stream is None:
            return
        for line in iter(stream.readline, b""):
            self._tail.append(line)
            with suppress(OSError, ValueError):
                sys.stderr.buffer.write(line)
                sys.stderr.flush()

    def __exit__(self, *_error: object) -> None:
        if self._go >= 0:
            os.close(self._go)
        os.close(self._told)
        if self._child.returncode is None:
            self._end()
        with suppress(OSError):
            os.killpg(self.pid, signal.SIGTERM)  # what the command left running
        self._reader.join(1.0)
        if self._child.stderr is not None and not self._reader.is_alive():
            self._child.stderr.close()

    def _end(self) -> None:
        """End the command as Ctrl-C would, then insist."""
        for number in (signal.SIGINT, signal.SIGKILL):
            with suppress(OSError):
                os.killpg(self.pid, number)
            with suppress(subprocess.TimeoutExpired, KeyboardInterrupt):
                self._child.wait(GRACE_S)
                return


def _scheduled(pid: int) -> tuple[int, int]:
    """Return ns on a CPU and ns waiting for one of a process's first thread; zeros if unknown."""
    try:
        words = Path(f"/proc/{pid}/schedstat").read_text().split()
        return int(words[0]), int(words[1])
    except (OSError, ValueError, IndexError):
        return 0, 0
