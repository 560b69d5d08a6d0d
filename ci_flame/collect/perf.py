"""Stage 1, edge: the perf collector, for commands that are not Python.

    perf record -p PID -e cpu-clock -g      attached before the command's first instruction
    perf script | formats.perf_script       when the window has ended

It needs no BPF and, for user code alone, no privileges. It sees whole native stacks (by
frame pointers) but no Python frames, so that a Python target is refused. One session is one
window: everything from `start` to the first `read` is phase 1, children included.
"""

import os
import re
import select
import shutil
import signal
import subprocess
import tempfile
import threading
import time
from collections.abc import Iterable, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING, Final

from ci_flame.collect import Obstacle, Recording, Session, Target
from ci_flame.errors import CiFlameError, CollectError
from ci_flame.formats import perf_script
from ci_flame.profile import TRUNCATED, Stack
from ci_flame.simplify import clean_frame

if TYPE_CHECKING:
    from ci_flame.collect.machine import Machine

PHASE: Final = 1
START_SECONDS: Final = 20.0
STOP_SECONDS: Final = 60.0
SCRIPT_SECONDS: Final = 300.0
CLOSE_SECONDS: Final = 10.0
MAX_DATA: Final = 512 << 20
"""Bytes of one recording; at 1999 Hz that is seven minutes of CPU time or more."""
FREQUENCY_HZ: Final = range(1, 20_001)
_OPEN_TO_ALL: Final = 1
"""Largest kernel.perf_event_paranoid at which a user without privileges may see the kernel."""
_DEPTH_FILE: Final = Path("/proc/sys/kernel/perf_event_max_stack")
_USUAL_DEPTH: Final = 127
_FIELDS: Final = "comm,pid,tid,time,event,ip,sym,dso"
_FULL: Final = re.compile(r"size limit reached", re.IGNORECASE)
_TAIL_LINES: Final = 4
_INSTALL: Final = "sudo apt-get install linux-perf (Debian) or linux-tools-generic (Ubuntu)"
_PARANOID: Final = "sudo sysctl kernel.perf_event_paranoid=1"


class PerfCollector:
    """`perf record` attached to a process tree."""

    name = "perf"

    @property
    def event(self) -> str:
        """`cpu-clock`, or `cpu-clock:u` where this user may not look into the kernel."""
        return "cpu-clock" if _sees_kernel() else "cpu-clock:u"

    def obstacle(self, machine: "Machine", *, python: bool) -> Obstacle | None:
        """Return what stops perf here for such a target, or None."""
        if machine.system != "Linux":
            return Obstacle(f"perf is Linux's, this is {machine.system}", "record on Linux")
        if python:
            return _no_python()
        if not machine.perf:
            return Obstacle("no perf program that works is installed", _INSTALL)
        if machine.perf_event_error:
            return Obstacle(
                f"perf events cannot be opened ({machine.perf_event_error},"
                f" kernel.perf_event_paranoid is {machine.perf_event_paranoid})",
                _PARANOID,
            )
        return None

    def start(self, target: Target) -> Session:
        """Attach to a process and all that it will start; CollectError within 20 s if not."""
        if target.python:
            obstacle = _no_python()
            raise CollectError(obstacle.reason, obstacle.cure)
        if target.frequency_hz not in FREQUENCY_HZ:
            raise CollectError(
                f"{target.frequency_hz} Hz; perf samples at {FREQUENCY_HZ[0]} to"
                f" {FREQUENCY_HZ[-1]} Hz here"
            )
        failures: list[str] = []
        for program in _programs():
            session = PerfSession(program, target, self.event)
            try:
                session.attach()
            except CollectError as error:
                session.close()
                failures.append(f"{program}: {error.message}")
            except BaseException:
                session.close()
                raise
            else:
                return session
        raise CollectError(
            "perf record could not start: " + ("; ".join(failures) or "no perf program"),
            _PARANOID if failures else _INSTALL,
        )


def _no_python() -> Obstacle:
    return Obstacle(
        "perf sees no Python frames",
        "let the ebpf collector record it: `ci-flame doctor` says what it needs here",
    )


def _programs() -> tuple[str, ...]:
    # Imported here, as `collect.machine` imports the registry that this file is in.
    from ci_flame.collect.machine import perf_paths  # noqa: PLC0415

    return perf_paths()


def _sees_kernel() -> bool:
    try:
        paranoid = int(Path("/proc/sys/kernel/perf_event_paranoid").read_text(encoding="ascii"))
    except (OSError, ValueError):
        return False
    # os.geteuid is not everywhere where this is imported.
    return paranoid <= _OPEN_TO_ALL or getattr(os, "geteuid", lambda: 1)() == 0


class PerfSession:
    """One `perf record` at work, and its folder of temporary files."""

    def __init__(self, program: str, target: Target, event: str) -> None:
        self._program = program
        self._target = target
        self._event = event
        self._period_ns = round(1e9 / target.frequency_hz)
        self._folder = Path(tempfile.mkdtemp(prefix="ci-flame-perf-"))
        self._data = self._folder / "perf.data"
        self._words = self._folder / "stderr"
        self._process: subprocess.Popen[bytes] | None = None
        self._commands = self._answers = -1
        self._read = False

    def attach(self) -> None:
        """Start perf and wait until it says that its events count."""
        commands_in, commands_out = os.pipe()
        answers_in, answers_out = os.pipe()
        try:
            with self._words.open("wb") as words:
                self._process = subprocess.Popen(
                    self._command(commands_in, answers_out),
                    stdin=subprocess.DEVNULL,
                    stdout=words,
                    stderr=words,
                    env=_environment(),
                    pass_fds=(commands_in, answers_out),
                    # Ctrl-C is for us; we end perf when its recording is complete.
                    process_group=0,
                )
            os.close(answers_out)
            answers_out = -1
            # Both stay open: perf answers every command, and dies of an answer nobody can read.
            self._commands, commands_out = commands_out, -1
            self._answers, answers_in = answers_in, -1
            self._say(b"enable\n")
            self._await_answer(self._answers)
        except OSError as error:
            raise CollectError(f"perf record: {error.strerror}") from error
        finally:
            for each in (commands_in, commands_out, answers_in, answers_out):
                if each >= 0:
                    os.close(each)

    def _command(self, commands: int, answers: int) -> list[str]:
        return [
            *(
                self._program,
                "record",
                "-p",
                ",".join(map(str, (self._target.pid, *self._target.pids))),
            ),
            # A period, not a frequency: perf would check that against a limit for hardware events.
            *("-e", self._event, "-c", str(self._period_ns), "--call-graph", "fp"),
            # Nothing outside of the recording: no ~/.debug, no build ids.
            *("-N", "-B", "-o", str(self._data), "--max-size", f"{MAX_DATA >> 20}M"),
            *("-D", "-1", "--control", f"fd:{commands},{answers}"),
        ]

    def _say(self, command: bytes) -> None:
        # perf has ended by itself when the last process of the tree did.
        with suppress(BrokenPipeError):
            os.write(self._commands, command)

    def _await_answer(self, answers: int) -> None:
        deadline = time.monotonic() + START_SECONDS
        answer = b""
        while b"ack" not in answer:
            ready, _, _ = select.select([answers], [], [], max(0.0, deadline - time.monotonic()))
            piece = os.read(answers, 64) if ready else b""
            if not piece:
                why = "it ended" if ready else f"no answer within {START_SECONDS:.0f} s"
                raise CollectError(f"{why}: {self._tail()}")
            answer += piece

    def set_phase(self, phase: int) -> None:
        """Do nothing: the whole session is one window."""

    def read(self, module_files: Mapping[str, str] | None = None) -> Recording:
        """End the recording and return it as phase 1; a second read returns nothing more."""
        del module_files  # of Python code only
        if self._read or self._process is None:
            return Recording({}, self._period_ns, {})
        self._read = True
        self._stop(self._process)
        if _FULL.search(self._tail()):
            raise CollectError(
                f"the recording reached its limit of {MAX_DATA >> 20} MB",
                "record a shorter command, or at a lower frequency",
            )
        start = time.process_time(), _children_cpu()
        gathered = self._script()
        own_s = time.process_time() - start[0] + _children_cpu() - start[1]
        return Recording(
            samples={PHASE: gathered.samples} if gathered.samples else {},
            period_ns=self._period_ns,
            places={},
            lost=gathered.lost,
            truncated={PHASE: gathered.truncated} if gathered.truncated else {},
            metrics=MappingProxyType({"collector.read_s": round(own_s, 3)}),
        )

    def _stop(self, process: subprocess.Popen[bytes]) -> None:
        # Not SIGINT: while perf writes its last bytes, that would kill it.
        self._say(b"stop\n")
        try:
            process.wait(STOP_SECONDS)
        except subprocess.TimeoutExpired:
            raise CollectError(
                f"perf record did not end within {STOP_SECONDS:.0f} s: {self._tail()}"
            ) from None
        if process.returncode != 0:
            raise CollectError(
                f"perf record ended with exit code {process.returncode}: {self._tail()}"
            )
        if not self._data.is_file() or self._data.stat().st_size == 0:
            raise CollectError(f"perf record wrote nothing: {self._tail()}")

    def _script(self) -> "_Gathered":
        """Run perf script and read it line by line; inlined frames are not asked for.

        perf asks addr2line for them, address by address, which can take minutes.
        """
        words = self._folder / "script-stderr"
        with (
            words.open("wb") as stderr,
            subprocess.Popen(
                [
                    *(self._program, "script", "-i", str(self._data), "--no-inline", "-F", _FIELDS),
                    *("--show-task-events", "--show-lost-events"),
                ],
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=stderr,
                env=_environment(),
                process_group=0,
                text=True,
                encoding="utf-8",
                errors="replace",
            ) as script,
        ):
            # It may also say nothing for ever: a file system with its symbols that is gone.
            timer = threading.Timer(SCRIPT_SECONDS, script.kill)
            timer.start()
            try:
                gathered = gather(script.stdout or (), self._target.pid, _depth_limit())
            except CiFlameError as error:
                raise CollectError(f"perf script: {error.message}") from error
            finally:
                timer.cancel()
                if script.poll() is None and script.stdout is not None:
                    # Reading ended early; perf must not wait for us.
                    script.stdout.close()
                    with suppress(OSError, subprocess.TimeoutExpired):
                        script.wait(CLOSE_SECONDS)
                    if script.poll() is None:
                        script.kill()
        if script.returncode == -signal.SIGKILL:
            raise CollectError(f"perf script did not end within {SCRIPT_SECONDS:.0f} s")
        if script.returncode != 0:
            raise CollectError(
                f"perf script ended with exit code {script.returncode}: {_last_lines(words)}"
            )
        return gathered

    def _tail(self) -> str:
        return _last_lines(self._words)

    def close(self) -> None:
        """End perf, by force if need be, and remove the files; never raises."""
        for each in (self._commands, self._answers):
            if each >= 0:
                os.close(each)
        self._commands = self._answers = -1
        process = self._process
        if process is not None and process.poll() is None:
            for number, seconds in ((signal.SIGTERM, CLOSE_SECONDS / 2), (signal.SIGKILL, 2.0)):
                with suppress(OSError):
                    process.send_signal(number)
                with suppress(subprocess.TimeoutExpired):
                    process.wait(seconds)
                    break
        shutil.rmtree(self._folder, ignore_errors=True)


@dataclass(slots=True)
class _Gathered:
    """Samples being counted."""

    samples: dict[Stack, int] = field(default_factory=dict)
    lost: int = 0
    truncated: int = 0

    def add(self, stack: Stack) -> None:
        """Count one more sample of a stack."""
        self.samples[stack] = self.samples.get(stack, 0) + 1


def gather(lines: Iterable[str], pid: int, depth_limit: int) -> _Gathered:
    """Count the samples of `perf script` lines by stack, the program's name outermost.

    What process `pid` did before it became the command (the launcher) is left out; a process
    that never becomes another program is kept whole. Stacks as deep as the kernel's limit have
    lost their outermost frames: they begin with `[truncated]`.
    """
    gathered = _Gathered()
    before = _Gathered()
    waiting = True
    for record in perf_script.records(lines, "perf script"):
        match record:
            case perf_script.Lost(number):
                gathered.lost += number
            case perf_script.Exec(changed) if changed == pid and waiting:
                waiting, before = False, _Gathered()
            case perf_script.Sample():
                into = before if waiting and record.pid == pid else gathered
                stack = tuple(map(clean_frame, record.stack))
                if len(stack) >= depth_limit:
                    into.truncated += 1
                    stack = (TRUNCATED, *stack)
                into.add((perf_script.program(record.comm), *stack))
    for stack, samples in before.samples.items():
        gathered.samples[stack] = gathered.samples.get(stack, 0) + samples
    gathered.truncated += before.truncated
    return gathered


def _depth_limit() -> int:
    try:
        return int(_DEPTH_FILE.read_text(encoding="ascii"))
    except (OSError, ValueError):
        return _USUAL_DEPTH


def _environment() -> dict[str, str]:
    """Return our environment with perf's own texts in English and no perfconfig of the user."""
    return {**os.environ, "LC_ALL": "C.UTF-8", "PERF_CONFIG": "/dev/null"}


def _children_cpu() -> float:
    times = os.times()
    return times.children_user + times.children_system


def _last_lines(file: Path) -> str:
    try:
        lines = file.read_text(encoding="utf-8", errors="replace").split("\n")
    except OSError:
        return ""
    return " / ".join([line.strip() for line in lines if line.strip()][-_TAIL_LINES:])
