"""Stage 1, edge: a command as a process that waits in front of its first instruction.

    with Suspended(side) as child:   started, waiting · child.run() · ended with the block

The launcher holds it until the collector is attached. Its clocks leave the launcher out.
"""

import os
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections import deque
from contextlib import nullcontext, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import IO, TYPE_CHECKING, Final, Self

from ci_flame.errors import CollectError
from ci_flame.record import layout
from ci_flame.record.clocks import steal_ns

if TYPE_CHECKING:
    from ci_flame.record.command import Side

TAIL_LINES: Final = 8
TAIL_BYTES: Final = 4096
GRACE_S: Final = 5.0
_LONGEST_LINE: Final = 65_536
"""What comes without a line's end is handed on in pieces."""
_LAUNCHER: Final = Path(__file__).with_name("launcher.py")


@dataclass(frozen=True, slots=True)
class Clocks:
    """What one repetition took, the launcher left out."""

    cpu_ns: int
    wall_ns: int
    run_delay_ns: int
    steal_ns: int = 0


class Suspended:
    """The command, waiting in front of its first instruction; ended with the block."""

    def __init__(self, side: "Side") -> None:
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
        except BaseException as error:
            os.close(self._go)
            os.close(self._told)
            if isinstance(error, OSError):
                raise CollectError(f"{self._side.folder}: {error.strerror}") from None
            raise
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

    def run(self) -> Clocks:
        """Let the command go and wait for its end; CollectError if it fails."""
        _, launcher_delay = _scheduled(self.pid)
        given = dict(self._side.environment)
        if self._side.interpreter.python:
            given[layout.PADDING_VARIABLE] = layout.padding()
        pairs = (f"{key}={value}" for key, value in given.items())
        stolen = steal_ns()
        start = time.monotonic_ns()
        go, self._go = self._go, -1
        with suppress(BrokenPipeError), os.fdopen(go, "wb") as stream:
            stream.write(b"\0".join([b"go", *map(os.fsencode, pairs)]))
        os.waitid(os.P_PID, self.pid, os.WEXITED | os.WNOWAIT)
        wall_ns = time.monotonic_ns() - start
        stolen = max(0, steal_ns() - stolen)
        _, delay = _scheduled(self.pid)
        _, status, usage = os.wait4(self.pid, 0)
        self._child.returncode = os.waitstatus_to_exitcode(status)
        self._reader.join(1.0)
        launcher_ns = self._must_have_succeeded()
        cpu_ns = round((usage.ru_utime + usage.ru_stime) * 1e9) - launcher_ns
        return Clocks(max(cpu_ns, 0), wall_ns, max(delay - launcher_delay, 0), stolen)

    def _must_have_succeeded(self) -> int:
        """Return the CPU time that the launcher used until it became the command."""
        code = self._child.returncode
        word = self._side.command[0]
        launcher_ns, _, failure = os.read(self._told, 64).partition(b" ")
        if failure:
            raise CollectError(f"{word} cannot be run: {os.strerror(int(failure))}")
        if code == 0:
            return int(launcher_ns or 0)
        ended = f"exit code {code}" if code > 0 else f"signal {_signal_name(-code)}"
        tail = b"".join(self._tail)[-TAIL_BYTES:].decode(errors="replace").rstrip()
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
        for line in iter(lambda: stream.readline(_LONGEST_LINE), b""):
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


def _signal_name(number: int) -> str:
    with suppress(ValueError):
        return signal.Signals(number).name
    return str(number)  # one of the real-time signals


def _scheduled(pid: int) -> tuple[int, int]:
    """Return ns on a CPU and ns waiting for one of a process's first thread; zeros if unknown."""
    try:
        words = Path(f"/proc/{pid}/schedstat").read_text().split()
        return int(words[0]), int(words[1])
    except (OSError, ValueError, IndexError):
        return 0, 0
