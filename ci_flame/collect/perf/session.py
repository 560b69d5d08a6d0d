"""Stage 1, edge: one `perf record` at work, from its start to its end.

    ci-flame ── control FIFO: enable, disable ──▶ perf record -D -1 ──▶ perf.data
             ◀───────────── ack ─────────────────

perf runs from `start` to `close`, disabled outside of benchmarks. Inside of one it stays
enabled, and windows are cut by time: samples carry CLOCK_MONOTONIC stamps, and so does each
`set_phase`. An enable or disable for every window would cost a round trip through perf's main
loop: 0.1 ms in the middle, 4 to 8 ms beside busy processes, of windows of 10 ms.

Its files lose their names as soon as both sides have opened them, so that nobody has to remove
them, and a process of its own (`watch`) ends perf should we be killed.
"""

import mmap
import os
import select
import shutil
import signal
import stat
import struct
import subprocess
import sys
import tempfile
import time
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from ci_flame.collect.perf.events import Event
from ci_flame.errors import CollectError

START_SECONDS: Final = 20.0
ANSWER_SECONDS: Final = 30.0
CLOSE_SECONDS: Final = 8.0
MAX_DATA: Final = 1 << 30
"""Bytes of one recording: at 1999 Hz hours of frame pointers, half a minute of DWARF stacks."""
_ENDED_SECONDS: Final = 5.0
_WATCH: Final = Path(__file__).with_name("watch.py")
_SLICE_SECONDS: Final = 0.2
_TAIL_LINES: Final = 4
_TAIL_BYTES: Final = 64 << 10
_HEADER: Final = struct.Struct("<8s12Q")
_MAGIC: Final = b"PERFILE2"
_DATA_OFFSET, _DATA_SIZE, _FIRST_FEATURE = 5, 6, 9


@dataclass(frozen=True, slots=True)
class Settings:
    """What perf is told to sample, and how."""

    event: Event
    frequency_hz: int
    stack_bytes: int = 0
    """Of the stack that is copied at each sample, for unwinding by call frame information; 0:
    call chains by frame pointers instead."""
    mapped_pages: int = 0
    """Pages of each CPU's buffer; 0: as perf chooses."""

    @property
    def period_ns(self) -> int:
        """What one sample stands for."""
        return round(1e9 / self.frequency_hz)

    def words(self) -> list[str]:
        """Return perf record's options."""
        # A period, not a frequency: samples are then in proportion to what they count, and both
        # sides of a comparison count alike.
        period = self.event.period(self.frequency_hz)
        graph = f"dwarf,{self.stack_bytes}" if self.stack_bytes else "fp"
        pages = ["-m", str(self.mapped_pages)] if self.mapped_pages else []
        return ["-e", str(self.event), "-c", str(period), *pages, "--call-graph", graph]


@dataclass(slots=True)
class Windows:
    """Which phase it was when, in ns of CLOCK_MONOTONIC."""

    starts: list[int] = field(default_factory=list)
    phases: list[int] = field(default_factory=list)

    def switch(self, phase: int, now_ns: int) -> None:
        """Begin a phase (0: none)."""
        self.starts.append(now_ns)
        self.phases.append(phase)


class PerfProcess:
    """A perf record, its control FIFO and, until it has started, its folder of temporary files."""

    def __init__(self, program: str, pids: tuple[int, ...], settings: Settings) -> None:
        self.program = program
        self.folder = Path(tempfile.mkdtemp(prefix="ci-flame-perf-"))
        self.data = self.folder / "perf.data"
        self._words = self.folder / "stderr"
        self._pids = pids
        self._settings = settings
        self._process: subprocess.Popen[bytes] | None = None
        self._commands = self._answers = -1
        self._opened: list[int] = []
        self._watch: subprocess.Popen[bytes] | None = None
        self._enabled = False
        self._cpu_before = 0
        self.cpu_ns = 0
        """CPU time of perf itself, until the last `flush`."""
        self.window_cpu_ns = 0
        """Of that, between the last `enable` and the last `flush`."""

    @property
    def pid(self) -> int:
        """The process of perf itself; 0 before it is started."""
        return self._process.pid if self._process else 0

    def start(self) -> None:
        """Start perf, disabled, and wait until it answers; CollectError within 20 s if not."""
        try:
            self._commands = self._fifo("control")
            self._answers = self._fifo("ack")
            with self._words.open("wb") as words:
                self._process = subprocess.Popen(
                    self._command(),
                    stdin=subprocess.DEVNULL,
                    stdout=words,
                    stderr=words,
                    env=environment(),
                    # Ctrl-C is for us; we end perf when its recording is complete.
                    process_group=0,
                )
            self._watch = self._watched(self._process.pid)
        except OSError as error:
            raise CollectError(f"perf record: {error.strerror}") from error
        if not self._say("disable", START_SECONDS):
            raise CollectError(f"it ended: {self.tail()}")
        self._forget_names()

    def _watched(self, pid: int) -> "subprocess.Popen[bytes]":
        """Return the process that ends perf should we not be able to."""
        watched: list[int] = []
        try:
            watched += [os.pidfd_open(os.getpid()), os.pidfd_open(pid)]
            return subprocess.Popen(
                [sys.executable, "-I", "-S", _WATCH, *map(str, watched), self.folder],
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                stderr=subprocess.DEVNULL,
                pass_fds=watched,
                cwd="/",
                start_new_session=True,  # whoever ends our process group does not end this one
            )
        finally:
            for each in watched:
                os.close(each)

    def _forget_names(self) -> None:
        """Remove the files, which perf has opened and we do now; they are reached as ours."""
        try:
            for path in (self.data, self._words):
                self._opened.append(os.open(path, os.O_RDONLY | os.O_CLOEXEC))
        except OSError as error:
            raise CollectError(f"it wrote no {path.name}: {error.strerror}") from error
        self.data, self._words = (Path(f"/proc/self/fd/{each}") for each in self._opened)
        shutil.rmtree(self.folder, ignore_errors=True)

    def _fifo(self, name: str) -> int:
        path = self.folder / name
        os.mkfifo(path, 0o600)
        # Both directions, so that neither opening nor writing waits for the other side.
        return os.open(path, os.O_RDWR | os.O_NONBLOCK | os.O_CLOEXEC)

    def _command(self) -> list[str]:
        return [
            *(self.program, "record", "-p", ",".join(map(str, self._pids))),
            *self._settings.words(),
            # Time stamps that `set_phase` can be compared with.
            *("-k", "CLOCK_MONOTONIC", "-T"),
            # Nothing outside of the recording: no ~/.debug, no build ids.
            *("-N", "-B", "-o", str(self.data), "--max-size", f"{MAX_DATA >> 20}M"),
            *("-D", "-1", "--control", f"fifo:{self.folder / 'control'},{self.folder / 'ack'}"),
        ]

    def enable(self) -> None:
        """Let the events count; nothing where the last process of the tree has ended."""
        if not self._enabled:
            self._cpu_before = _cpu_ns(self.pid)
            self._enabled = self._say("enable", ANSWER_SECONDS)

    def flush(self) -> None:
        """Stop the counting, and wait until every sample so far is in the file."""
        # Asked first: once it has ended and we know it, the kernel has forgotten.
        self.cpu_ns = max(self.cpu_ns, _cpu_ns(self.pid))
        self.window_cpu_ns = self.cpu_ns - self._cpu_before
        if self._enabled:
            self._enabled = False
            # perf answers a command and then empties its buffers: they are empty when it
            # answers the next.
            _ = self._say("disable", ANSWER_SECONDS) and self._say("disable", ANSWER_SECONDS)
        self._check_end()
        if not self.data.is_file() or self.data.stat().st_size < _HEADER.size:
            raise CollectError(f"perf record wrote nothing: {self.tail()}")

    def _check_end(self) -> None:
        if self._process is None:
            raise CollectError("perf record was not started")
        code = self._process.poll()
        if code is not None and code < 0:
            raise CollectError(
                f"perf record was ended by {_signal_name(-code)}: {self.tail() or 'no word of why'}"
            )
        if code:
            raise CollectError(f"perf record ended with exit code {code}: {self.tail()}")
        if code is not None and "size limit reached" in self.tail():
            raise CollectError(
                f"the recording reached its limit of {MAX_DATA >> 20} MB",
                "record a shorter command or at a lower frequency"
                + (", or with a smaller stack" if self._settings.stack_bytes else ""),
            )

    def _say(self, command: str, seconds: float) -> bool:
        """Give perf a command and wait for its answer; False where perf has ended.

        perf that does not answer is ended, and CollectError says so.
        """
        if self._process is None or self._process.poll() is not None:
            return False
        with suppress(BlockingIOError):
            os.write(self._commands, f"{command}\n".encode())
        deadline = time.monotonic() + seconds
        answer = b""
        while b"ack" not in answer:
            left = deadline - time.monotonic()
            if left <= 0:
                self._kill()
                raise CollectError(
                    f"perf (process {self.pid}) did not answer `{command}` within {seconds:.0f} s"
                    f" and was ended: {self.tail() or 'it said nothing'}"
                )
            ready, _, _ = select.select([self._answers], [], [], min(left, _SLICE_SECONDS))
            if ready:
                with suppress(BlockingIOError):
                    answer += os.read(self._answers, 256)
            elif self._process.poll() is not None:
                return False
        return True

    def open_data(self) -> mmap.mmap:
        """Return the bytes of the recording so far; call `flush` before.

        perf writes the size of the data into the file's head when it ends; until then the
        head is completed in this copy.
        """
        with self.data.open("rb") as file:
            found = os.fstat(file.fileno())
            if not stat.S_ISREG(found.st_mode) or found.st_size < _HEADER.size:
                raise CollectError(f"perf record wrote nothing: {self.tail()}")
            data = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_COPY)
        words = list(_HEADER.unpack_from(data))
        if words[0] == _MAGIC and words[_DATA_SIZE] == 0:
            words[_DATA_SIZE] = len(data) - words[_DATA_OFFSET]
            # What the recording was made with comes behind the data, at the end.
            words[_FIRST_FEATURE:] = [0] * (len(words) - _FIRST_FEATURE)
            _HEADER.pack_into(data, 0, *words)
        return data

    def tail(self) -> str:
        """Return perf's last words on one line."""
        try:
            with self._words.open("rb") as file:
                file.seek(max(0, os.fstat(file.fileno()).st_size - _TAIL_BYTES))
                text = file.read().decode(errors="replace")
        except OSError:
            return ""
        lines = [line.strip() for line in text.split("\n")]
        told = [
            line for line in lines if line and line not in ("Events enabled", "Events disabled")
        ]
        return " / ".join(told[-_TAIL_LINES:])

    def _kill(self) -> None:
        if self._process is not None and self._process.poll() is None:
            with suppress(OSError):
                self._process.kill()
            with suppress(subprocess.TimeoutExpired):
                self._process.wait(_ENDED_SECONDS)

    def close(self) -> None:
        """End perf, by force if need be, and remove the files; never raises."""
        process = self._process
        if process is not None and process.poll() is None:
            with suppress(OSError):
                process.terminate()
            with suppress(subprocess.TimeoutExpired):
                process.wait(CLOSE_SECONDS / 2)
            self._kill()
        if self._watch is not None:
            with suppress(OSError):
                self._watch.kill()
            with suppress(subprocess.TimeoutExpired):
                self._watch.wait(_ENDED_SECONDS)
        for each in (self._commands, self._answers, *self._opened):
            if each >= 0:
                os.close(each)
        self._commands = self._answers = -1
        self._opened.clear()
        shutil.rmtree(self.folder, ignore_errors=True)


def _cpu_ns(pid: int) -> int:
    """Return the CPU time of a process's threads; 0 if it is gone."""
    used = 0
    with suppress(OSError, ValueError, IndexError):
        for thread in Path(f"/proc/{pid}/task").iterdir():
            used += int((thread / "schedstat").read_text().split()[0])
    return used


def environment() -> dict[str, str]:
    """Return our environment with perf's own texts in English and no perfconfig of the user."""
    return {**os.environ, "LC_ALL": "C.UTF-8", "PERF_CONFIG": "/dev/null"}


def _signal_name(number: int) -> str:
    try:
        return signal.Signals(number).name
    except ValueError:
        return f"signal {number}"
