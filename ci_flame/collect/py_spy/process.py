"""Stage 1, edge: one py-spy process at work, and what it takes to let it read another.

py-spy writes its stacks when it is interrupted or its target ends; all else that it says goes to a
file, from which errors are quoted.
"""

import ctypes
import os
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path
from typing import Final

from ci_flame.errors import CollectError

START_SECONDS: Final = 20.0
STOP_SECONDS: Final = 30.0
CLOSE_SECONDS: Final = 8.0
LONGEST_SECONDS: Final = 4 * 3600
"""py-spy ends by itself then, should we be killed while the target runs on."""
MAX_OUTPUT: Final = 256 << 20
INSTALL: Final = "pip install 'ci-flame[py-spy]'"
PTRACE_SCOPE: Final = Path("/proc/sys/kernel/yama/ptrace_scope")
POLL_SECONDS: Final = 0.005
_PR_SET_PTRACER: Final = 0x59616D61
_READY: Final = b"Sampling process"
_ERRORS: Final = re.compile(r"Errors: (\d+)")
_BEHIND: Final = re.compile(r"([\d.]+)s behind in sampling")


def find_program() -> str:
    """Return py-spy's path: beside this interpreter, else on PATH; empty if it is nowhere."""
    beside = Path(sys.executable).with_name("py-spy")
    if os.access(beside, os.X_OK):
        return str(beside)
    return shutil.which("py-spy") or ""


def attempt(program: str, pid: int) -> str:
    """Return why py-spy cannot read a process; empty: it can."""
    let_read_us(-1)
    try:
        done = subprocess.run(
            [program, "dump", "--nonblocking", "--pid", str(pid)],
            stdin=subprocess.DEVNULL,
            capture_output=True,
            env=_environment(),
            timeout=START_SECONDS / 2,
            check=False,
        )
    except (OSError, subprocess.SubprocessError) as error:
        return str(error)
    finally:
        let_read_us(0)
    said = (done.stdout + done.stderr).decode("utf-8", "replace")
    return _reason(said) if done.returncode else ""


def ptrace_cure() -> str:
    """Return the one command that lets a process be read, by what forbids it here."""
    try:
        scope = int(PTRACE_SCOPE.read_text(encoding="ascii"))
    except (OSError, ValueError):
        scope = 0
    if scope:
        return "sudo sysctl kernel.yama.ptrace_scope=0"
    return "start the container with --cap-add SYS_PTRACE, or record as the user who runs it"


class PySpy:
    """One py-spy process and its two files."""

    def __init__(self, program: str, pid: int, frequency_hz: int, place: Path) -> None:
        self.pid = pid
        self.phase = 0
        """Of the window that its samples belong to, where all of them belong to one."""
        own = pid == os.getpid()
        self._program = program
        self._output = place.with_suffix(".raw")
        self._words = place.with_suffix(".words")
        self.cpu_ns = 0
        with self._words.open("wb") as words:
            if own:
                let_read_us(-1)  # its number is not known before it runs
            try:
                self._process = subprocess.Popen(
                    [
                        *(program, "record", "--pid", str(pid), "--subprocesses", "--nonblocking"),
                        *("--function", "--full-filenames", "--format", "raw"),
                        *("--rate", str(frequency_hz), "--duration", str(LONGEST_SECONDS)),
                        *("--output", str(self._output)),
                    ],
                    stdin=subprocess.DEVNULL,
                    stdout=words,
                    stderr=words,
                    env=_environment(),
                    start_new_session=True,  # Ctrl-C is the benchmark's
                )
            except OSError as error:
                if own:
                    let_read_us(0)
                raise CollectError(f"{program} cannot be run: {error.strerror}", INSTALL) from None
            if own:
                let_read_us(self._process.pid)

    @property
    def ended(self) -> bool:
        """Tell whether the process has ended."""
        self._note_cpu()
        return self._process.poll() is not None

    @property
    def useful(self) -> bool:
        """Tell whether it got to sampling."""
        return _READY in self._said()

    def wait_until_ready(self, deadline: float) -> None:
        """Wait until it samples; CollectError with its words if it does not."""
        while not self.useful:
            if self.ended:
                if self.useful:
                    return
                # Of a tree it says only that no process of it is Python.
                reason = attempt(self._program, self.pid) or self.reason()
                denied = "permi" in reason.lower()
                raise CollectError(
                    f"py-spy does not attach to process {self.pid}: {reason}",
                    ptrace_cure() if denied else "see `ci-flame doctor`",
                )
            if time.monotonic() > deadline:
                raise CollectError(f"py-spy did not start within {START_SECONDS:.0f} s")
            time.sleep(POLL_SECONDS)

    def interrupt(self) -> None:
        """Ask it to write what it has; does not wait."""
        self._note_cpu()
        with suppress(OSError):
            self._process.send_signal(signal.SIGINT)

    def wait(self, deadline: float) -> None:
        """Wait for its end; CollectError where it does not come."""
        self._note_cpu()
        try:
            self._process.wait(max(deadline - time.monotonic(), 0.001))
        except subprocess.TimeoutExpired:
            self.kill()
            raise CollectError(
                f"py-spy did not end within {STOP_SECONDS:.0f} s: {self.reason()}"
            ) from None

    def _note_cpu(self) -> None:
        """Remember the CPU time that it has used, while it can still be asked."""
        with suppress(OSError, ValueError, IndexError):
            fields = Path(f"/proc/{self._process.pid}/stat").read_text(encoding="utf-8")
            ticks = sum(map(int, fields.rpartition(")")[2].split()[11:13]))
            if self._process.returncode is None:
                self.cpu_ns = round(ticks * 1e9 / os.sysconf("SC_CLK_TCK"))

    def kill(self) -> None:
        """End it; never raises."""
        if not self.ended:
            with suppress(OSError, subprocess.SubprocessError):
                self._process.kill()
                self._process.wait(CLOSE_SECONDS / 4)

    def text(self) -> str:
        """Return what it recorded; CollectError where that is not there, cut off or too large."""
        try:
            size = self._output.stat().st_size
            if size > MAX_OUTPUT:
                raise CollectError(
                    f"py-spy wrote {size >> 20} MB of stacks, {MAX_OUTPUT >> 20} are the most",
                    "record for a shorter time, or at a lower frequency",
                )
            if self._process.returncode:
                raise CollectError(
                    f"py-spy ended with {self._process.returncode} and wrote"
                    f" {size} bytes of its stacks: {self.reason()}",
                    f"is there room in {self._output.parent}?",
                )
            return self._output.read_text(encoding="utf-8", errors="replace")
        except OSError as error:
            if not self.useful:
                return ""  # it never got to sampling
            raise CollectError(
                f"py-spy ended with {self._process.returncode} and wrote nothing: {self.reason()}",
                f"is there room in {tempfile.gettempdir()}? ({error.strerror})",
            ) from None

    def reason(self) -> str:
        """Return its own words on what went wrong."""
        return _reason(self._said().decode("utf-8", "replace"))

    def trouble(self) -> tuple[int, float]:
        """Return how many reads failed, and the seconds that it was at most behind."""
        said = self._said().decode("utf-8", "replace")
        errors = sum(map(int, _ERRORS.findall(said)))
        return errors, max(map(float, _BEHIND.findall(said)), default=0.0)

    def _said(self) -> bytes:
        try:
            return self._words.read_bytes()[-65_536:]
        except OSError:
            return b""


def let_read_us(pid: int) -> None:
    """Let a process read this one where Yama forbids it to all but ancestors.

    -1 is any process of this user, 0 is nobody again. Without Yama nothing happens.
    """
    ctypes.CDLL(None).prctl(_PR_SET_PTRACER, ctypes.c_long(pid), 0, 0, 0)


def image(pid: int) -> tuple[str, ...]:
    """Return what changes when a process becomes another program; empty where it is gone."""
    try:
        program = str(Path(f"/proc/{pid}/exe").readlink())
        fields = Path(f"/proc/{pid}/stat").read_text(encoding="utf-8", errors="replace")
        state, *numbers = fields.rpartition(")")[2].split()
        vector = Path(f"/proc/{pid}/auxv").read_bytes().hex()
    except OSError:
        return ()
    if state in "ZX":
        return ()
    # Fields 48 to 51: where its arguments and environment lie.
    return (program, vector, *numbers[44:48])


def is_below(pid: int, roots: Iterable[int]) -> bool:
    """Tell whether a process descends from one of these."""
    while pid > 1:
        try:
            fields = Path(f"/proc/{pid}/stat").read_text(encoding="utf-8", errors="replace")
            pid = int(fields.rpartition(")")[2].split()[1])
        except (OSError, ValueError, IndexError):
            return False
        if pid in roots:
            return True
    return False


def _environment() -> dict[str, str]:
    return {**os.environ, "LC_ALL": "C.UTF-8", "RUST_BACKTRACE": "0", "RUST_LIB_BACKTRACE": "0"}


def _reason(said: str) -> str:
    """Return py-spy's error on one line, without its backtrace."""
    told = []
    for line in said.partition("Stack backtrace")[0].splitlines():
        words = line.strip()
        if words.startswith("Permission Denied"):
            return "permission denied"
        if words and not words.startswith("py-spy>"):
            told.append(words.removeprefix("Error: "))
    return " / ".join(told[:4]) or "it ended without a word"
