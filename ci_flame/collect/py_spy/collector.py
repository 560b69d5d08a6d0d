"""Stage 1, edge: py-spy, for Python where nothing may load BPF programs.

It reads the interpreter's memory from outside, by the wall clock, at moments when a thread runs.
The process is not stopped for it (`--nonblocking`): stopping it 999 times a second made the
benchmark's wall time 20 % longer. The price: about one stack in 25 is torn, because the
interpreter moved on while it was read. Such a stack does not reach the thread's first frame, so
that it is recognised and counted (`collector.torn`) instead of believed.

py-spy knows no windows and writes no times. The phase is therefore put where it looks anyway: into
the first line of the function that is outermost on each thread. Phase 3 adds 3 x 65,536 lines to
it, phase 0 is the untouched line. Switching is a store or two, as for the eBPF collector, and what
comes back is exact: each sample tells the phase that it was taken in. Where the target is another
process (a command, or one that runs already), each window has py-spys of its own, which take about
0.1 s to begin; that of the first window begins with `start`.
"""

import ctypes
import os
import shutil
import sys
import tempfile
import threading
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from types import CodeType
from typing import TYPE_CHECKING, Final

from ci_flame.collect import Obstacle, Recording, Session, Target
from ci_flame.collect.ebpf.collector import is_package
from ci_flame.collect.py_spy.process import (
    CLOSE_SECONDS,
    INSTALL,
    POLL_SECONDS,
    START_SECONDS,
    STOP_SECONDS,
    PySpy,
    find_program,
    image,
    is_below,
    ptrace_cure,
)
from ci_flame.collect.py_spy.raw import STEP, Gathered
from ci_flame.errors import CollectError
from ci_flame.profile import Mode
from ci_flame.symbols.modules import Layout

if TYPE_CHECKING:
    from ci_flame.collect.machine import Machine

FREQUENCY_HZ: Final = range(10, 5_001)
"""Above, py-spy falls behind."""
_LAST_PHASE: Final = (1 << 31) // STEP - 2
_AGAIN_SECONDS: Final = 0.05
_MAX_ROOTS: Final = 16


class PySpyCollector:
    """Python stacks of a process tree, without any privilege."""

    name = "py-spy"
    event = "running-time"

    def obstacle(self, machine: "Machine", *, python: bool) -> Obstacle | None:
        """Return what stops it here for such a target, or None."""
        if machine.system != "Linux":
            return Obstacle(f"py-spy is used on Linux, this is {machine.system}", "record on Linux")
        if not python:
            return Obstacle(
                "py-spy sees Python programs only", "let perf record it: `ci-flame doctor`"
            )
        if not machine.py_spy:
            return Obstacle("py-spy is not installed", INSTALL)
        if machine.py_spy_error:
            return Obstacle(f"py-spy: {machine.py_spy_error}", ptrace_cure())
        return None

    def start(self, target: Target) -> Session:
        """Attach to a running process; CollectError within 20 s if it cannot."""
        if not target.python:
            raise CollectError("py-spy sees Python programs only", "let perf record it")
        if Mode.OFF_CPU in target.modes:
            raise CollectError(
                "py-spy records on-cpu only, off-cpu was asked for",
                "record with the ebpf collector: `ci-flame doctor` says what it needs here",
            )
        if target.frequency_hz not in FREQUENCY_HZ:
            raise CollectError(
                f"{target.frequency_hz} Hz; py-spy samples at {FREQUENCY_HZ[0]} to"
                f" {FREQUENCY_HZ[-1]} Hz here",
                "use 999 to 1999",
            )
        program = find_program()
        if not program:
            raise CollectError("py-spy is not installed", INSTALL)
        return PySpySession(program, target)


class PySpySession:
    """py-spy at work on one tree, started again where the target becomes another program."""

    def __init__(self, program: str, target: Target) -> None:
        self._program = program
        self._target = target
        self._owner = os.getpid()
        self._words = _PhaseWords() if target.pid == self._owner else None
        self._folder = Path(tempfile.mkdtemp(prefix="ci-flame-py-spy-"))
        self._base = 0
        self._stored = 0
        self._phase = 0
        self._begun = 0
        self._closed = False
        self._roots: list[_Root] = []
        self._lock = threading.Lock()
        self._stopping = threading.Event()
        self._watcher: threading.Thread | None = None
        try:
            self._launch()
        except BaseException:
            self.close()
            raise

    def set_phase(self, phase: int) -> None:
        """Switch the window: a store per outermost function; for another process, remember it."""
        if self._words is None:
            self._switch(phase)
            return
        if not self._roots and not self._closed and os.getpid() == self._owner:
            self._launch()  # after a read; the next window has not begun yet
        self._stored = max(self._stored, phase)
        self._words.store(phase - self._base if phase else 0)

    def _switch(self, phase: int) -> None:
        """End or begin a window of another process."""
        if phase and not self._roots and not self._closed:
            self._launch()
        with self._lock:
            before, self._phase = self._phase, phase
            if before and phase != before:
                for root in self._roots:
                    root.end_window(before)
            if phase and phase != before:
                for root in self._roots:
                    if root.ended_window and image(root.pid):
                        root.ended_window = False
                        self._begin(root)

    def read(self, module_files: Mapping[str, str] | None = None) -> Recording:
        """End the recording and return it; the next `set_phase` of an own process begins anew."""
        if self._closed:
            raise CollectError("the collector is closed")
        roots = self._stop()
        if self._words is None and roots and not any(root.useful for root in roots):
            raise CollectError(
                f"py-spy could not read process {self._target.pid}: {roots[0].trouble}",
                "it must be CPython 3.11 or newer and run for longer than 0.1 s; `ci-flame doctor`",
            )
        files = {**self._target.module_files, **(module_files or {})}
        outermost = self._words.known if self._words else None
        gathered = Gathered(Layout(files, self._target.roots, is_package), outermost)
        for root in roots:
            for run in root.runs:
                text, (errors, behind) = run.text(), run.trouble()
                gathered.add(text, run.pid, self._base if self._words else run.phase)
                gathered.account(errors, behind, run.cpu_ns)
        self._base = self._stored
        return gathered.recording(round(1e9 / self._target.frequency_hz))

    def close(self) -> None:
        """End py-spy, put the lines back, remove the files; never raises, within 10 s."""
        if self._closed:
            return
        self._closed = True
        if os.getpid() != self._owner:
            return  # a forked child: py-spy and the files are its parent's
        if self._words is not None:
            self._words.store(0)
        self._stopping.set()
        if self._watcher is not None:
            self._watcher.join(CLOSE_SECONDS / 4)
        for root in self._roots:
            for run in root.runs:
                run.kill()
        shutil.rmtree(self._folder, ignore_errors=True)

    def _launch(self) -> None:
        self._stopping.clear()
        self._roots = [_Root(pid, image(pid)) for pid in self._pids()]
        for root in self._roots:
            self._begin(root)
        deadline = time.monotonic() + START_SECONDS
        for number, root in enumerate(self._roots):
            try:
                root.runs[-1].wait_until_ready(deadline)
            except CollectError:
                if number == 0:
                    raise
                # Another member of the group, which has ended or is not Python.
        if self._words is None:
            self._watcher = threading.Thread(target=self._watch, daemon=True)
            self._watcher.start()

    def _pids(self) -> list[int]:
        """Return the processes whose trees make up the target: none is below another."""
        pids = [self._target.pid]
        for pid in self._target.pids:
            if pid not in pids and not is_below(pid, pids) and image(pid):
                pids.append(pid)
        return pids[:_MAX_ROOTS]

    def _begin(self, root: "_Root") -> None:
        self._begun += 1
        place = self._folder / str(self._begun)
        root.runs.append(PySpy(self._program, root.pid, self._target.frequency_hz, place))

    def _watch(self) -> None:
        """Start py-spy again where a process has become another program, and where it gave up.

        A command is seen first as our launcher; py-spy would go on to read addresses that the
        program it becomes does not have.
        """
        while not self._stopping.wait(POLL_SECONDS):
            with self._lock:
                for root in self._roots:
                    self._look_at(root)

    def _look_at(self, root: "_Root") -> None:
        seen = image(root.pid)
        now = time.monotonic()
        if not seen or now < root.not_before or root.ended_window:
            return
        last = root.runs[-1]
        if seen != root.image:
            root.image = seen
            self._begin(root)
            last.interrupt()
        elif last.ended and not last.useful:
            # Not Python yet: a shell that has not started its interpreter, or one just starting.
            if len(root.runs) > 1:
                root.runs.pop().kill()
            root.not_before = now + _AGAIN_SECONDS
            self._begin(root)

    def _stop(self) -> "list[_Root]":
        self._stopping.set()
        if self._watcher is not None:
            self._watcher.join(STOP_SECONDS)
            self._watcher = None
        with self._lock:
            roots, self._roots = self._roots, []
            phase, self._phase = self._phase, 0
            for root in roots:
                root.end_window(phase)
        for root in roots:
            for run in root.runs:
                run.interrupt()
        deadline = time.monotonic() + STOP_SECONDS
        for root in roots:
            for run in root.runs:
                run.wait(deadline)
        return roots


@dataclass(slots=True)
class _Root:
    """One process whose tree is sampled, and the py-spys that were started on it in turn."""

    pid: int
    image: tuple[str, ...]
    runs: "list[PySpy]" = field(default_factory=list)
    not_before: float = 0.0

    ended_window: bool = False
    """The last of them belong to a window that has ended."""
    _ended: int = 0

    def end_window(self, phase: int) -> None:
        """Give the window's samples their phase; what is sampled from now on is of none."""
        for run in self.runs[self._ended :]:
            run.phase = phase
            run.interrupt()
        self._ended, self.ended_window = len(self.runs), True

    @property
    def useful(self) -> bool:
        """Tell whether any of them got to sampling."""
        return any(run.useful for run in self.runs)

    @property
    def trouble(self) -> str:
        """Return what the last one said."""
        return self.runs[-1].reason()


class _PhaseWords:
    """The first lines of the functions that are outermost on this process's threads."""

    def __init__(self) -> None:
        offset = _first_line_offset()
        outermost = {threading.Thread._bootstrap.__code__}  # type: ignore[attr-defined] # noqa: SLF001 - of every thread that is still to come
        outermost |= {_outermost(frame) for frame in sys._current_frames().values()}  # noqa: SLF001 - the documented way to see other threads
        self._codes = tuple(outermost)  # kept alive: their memory is written to
        self._words = [
            (ctypes.c_int.from_address(id(code) + offset), code.co_firstlineno)
            for code in outermost
        ]
        self.known = {(code.co_qualname, code.co_filename) for code in outermost}
        if any(line >= STEP for _, line in self._words):
            raise CollectError(f"the program's first line is not below {STEP}")

    def store(self, phase: int) -> None:
        """Let every sample from now on say this phase."""
        if phase > _LAST_PHASE:
            raise CollectError(f"{phase} windows since the last read; {_LAST_PHASE} are the most")
        for word, line in self._words:
            word.value = line + phase * STEP


def _outermost(frame: object) -> CodeType:
    back = getattr(frame, "f_back", None)
    while back is not None:
        frame, back = back, back.f_back
    code: CodeType = frame.f_code  # type: ignore[attr-defined]
    return code


def _first_line_offset() -> int:
    """Return where a code object keeps its first line, found by looking for it.

    The layout differs between versions of CPython; what is written must never be anything else.
    """
    found: set[int] | None = None
    for line in (0x1357_2468 >> 3, 0x0ACE_1357 >> 2):
        code = _first_line_offset.__code__.replace(co_firstlineno=line)
        raw = ctypes.string_at(id(code), type(code).__basicsize__)
        here = {
            at
            for at in range(0, len(raw) - 3, 4)
            if raw[at : at + 4] == line.to_bytes(4, sys.byteorder)
        }
        found = here if found is None else found & here
    if found is None or len(found) != 1:
        raise CollectError(
            f"{sys.implementation.name} {sys.version.split()[0]} keeps no first line in its code",
            "py-spy records pytest benchmarks of CPython only",
        )
    return found.pop()
