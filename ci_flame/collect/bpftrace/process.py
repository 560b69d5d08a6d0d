"""Stage 1, edge: one running program of bpftrace, from its first probe to its printed maps.

    Program(…).start()     compiled, all probes attached
    .finish() -> Output    its maps, as it printed them at its end

Everything that bpftrace says is kept apart from what the program prints (`-o`).
"""

import os
import re
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import IO, Final

from ci_flame.errors import CollectError, FormatError, UnrecognisedError
from ci_flame.formats import bpftrace
from ci_flame.formats.bpftrace import Output

START_SECONDS: Final = 20.0
STOP_SECONDS: Final = 30.0
"""The kernel takes a good part of a second for every ten tracepoints that are let go."""
KILL_SECONDS: Final = 9.0
MAX_OUTPUT: Final = 256 << 20
MAX_KEYS: Final = 65_536
"""Keys of one map; bpftrace's own default of 4,096 is soon full of stacks."""
MAX_WORDS: Final = 1 << 20
POLL_SECONDS: Final = 0.02
SETTLE_SECONDS: Final = 0.05
"""The last probe is named just before it is attached."""
_FOLDERS: Final = ("/usr/bin", "/usr/sbin", "/usr/local/bin", "/usr/local/sbin", "/snap/bin")
_GUARD: Final = Path(__file__).with_name("guard.py")
_COUNT: Final = re.compile(
    r'(?:"attached_probes", *(?:"data": *\{"probes"|"count"): *|Attaching )(?P<number>\d+)'
)
_ATTACHED: Final = re.compile(r'Attached \d+ probes?|"attached_probes", *"count"')
"""Newer versions speak when they are done, not before."""
_ONE: Final = re.compile(r"^Attaching (?!\d+ probes?\b)\S", re.MULTILINE)
_LAST: Final = re.compile(r"(?:^|[\s};,/])(?:END|end)\s*(?:[{/]|$)", re.MULTILINE)
_ERROR: Final = re.compile(
    r"(?:(?P<file>\S+?):(?P<line>\d+)(?::\d+(?:-\d+)?)?: )?ERROR: (?P<message>[^\n]+)"
)
_HARMLESS: Final = "RLIMIT_MEMLOCK"
"""bpftrace complains of it on kernels that have no such limit any more."""
INSTALL: Final = "sudo apt-get install --no-install-recommends bpftrace"


def find() -> str:
    """Return the path of bpftrace; empty if there is none."""
    path = os.pathsep.join([os.environ.get("PATH", os.defpath), *_FOLDERS])
    return shutil.which("bpftrace", path=path) or ""


def privileged() -> tuple[str, ...] | None:
    """Return what to put in front of a command that root must run; None: it cannot be had."""
    if getattr(os, "geteuid", lambda: 1)() == 0:
        return ()
    sudo = shutil.which("sudo")
    if not sudo:
        return None
    with suppress(OSError, subprocess.SubprocessError):
        done = subprocess.run(
            [sudo, "-n", "true"],
            stdin=subprocess.DEVNULL,
            capture_output=True,
            timeout=5.0,
            check=False,
        )
        if done.returncode == 0:
            return (sudo, "-n", "--")
    return None


class Program:
    """One program; `name` is what messages call it."""

    def __init__(self, name: str, script: Path, arguments: Sequence[str] = ()) -> None:
        self.name = name
        self.shown = str(script)
        """What a message calls the file; its own name unless the caller knows a better place."""
        self.attached = 0.0
        """Monotonic clock when all probes were first seen attached."""
        self._script = script
        # bpftrace counts these with the others, and attaches them when all is over.
        self._last_probes = len(_LAST.findall(script.read_text("utf-8", "replace")))
        self._arguments = arguments
        self._folder = Path(tempfile.mkdtemp(prefix="ci-flame-bpftrace-"))
        self._printed = self._folder / "printed"
        self._words = self._folder / "words"
        self._guard: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        """Compile and attach; CollectError with bpftrace's own words where that fails."""
        self.launch()
        self.wait_until_attached(time.monotonic() + START_SECONDS)

    @property
    def pid(self) -> int:
        """Of the process that bpftrace is below of."""
        return self._running().pid

    def launch(self) -> None:
        """Start bpftrace and return at once, so that several can compile at the same time."""
        path, before = find(), privileged()
        if not path:
            raise CollectError("bpftrace is not installed", INSTALL)
        if before is None:
            raise CollectError("bpftrace runs as root only", "run as root, or allow sudo -n")
        # sudo drops the environment, so that bpftrace's settings are words of `env`.
        settings = (f"BPFTRACE_MAP_KEYS_MAX={MAX_KEYS}", f"BPFTRACE_MAX_MAP_KEYS={MAX_KEYS}")
        command = [
            *(*before, sys.executable, "-I", "-S", str(_GUARD), str(STOP_SECONDS)),
            *("env", "LC_ALL=C", *settings, path, "-v", "-f", "json", "-o", str(self._printed)),
            *(str(self._script), *self._arguments),
        ]
        try:
            with self._words.open("wb") as words:
                self._guard = subprocess.Popen(
                    command,
                    stdin=subprocess.PIPE,
                    stdout=words,
                    stderr=words,
                    # Ctrl-C is for us; bpftrace ends when we say so.
                    process_group=0,
                )
        except OSError as error:
            raise CollectError(f"{self.name}: bpftrace: {error.strerror}") from error

    def wait_until_attached(self, deadline: float) -> None:
        """Return when all probes are attached; CollectError if bpftrace ends or takes too long."""
        while not self.is_attached(deadline):
            time.sleep(POLL_SECONDS)
        time.sleep(SETTLE_SECONDS)

    def is_attached(self, deadline: float) -> bool:
        """Tell whether all probes are attached; CollectError if that can no longer be."""
        guard = self._running()
        if self._says_so():
            self.attached = self.attached or time.monotonic()
            return True
        if guard.poll() is not None:
            if guard.returncode == 0 and _COUNT.search(self._said(self._printed)):
                return True  # the program has an exit() and is done already
            raise self._failure(f"ended with exit code {guard.returncode}")
        if time.monotonic() > deadline:
            raise self._failure(f"was not ready within {START_SECONDS:.0f} s")
        return False

    def _says_so(self) -> bool:
        printed, words = self._said(self._printed), self._said(self._words)
        count = _COUNT.search(printed) or _COUNT.search(words)
        if count is None:
            return False
        if _ATTACHED.search(printed) or _ATTACHED.search(words):
            return True
        return len(_ONE.findall(words)) >= int(count["number"]) - self._last_probes

    def finish(self) -> Output:
        """End the program and return what it printed; CollectError where that is lost."""
        code = self._stop()
        if code != 0:
            why = "was killed (or hung)" if code >= 128 else f"ended with exit code {code}"  # noqa: PLR2004 - of a signal
            raise self._failure(f"{why}; its maps are lost")
        try:
            if self._printed.stat().st_size > MAX_OUTPUT:
                raise CollectError(
                    f"{self.name}: bpftrace printed more than {MAX_OUTPUT >> 20} MB, the limit",
                    "let the program keep fewer keys",
                )
            text = self._printed.read_text(encoding="utf-8", errors="replace")
        except OSError as error:
            raise self._failure(f"printed nothing ({error.strerror})") from None
        try:
            return bpftrace.read(text, self.name)
        except UnrecognisedError:
            return Output(())  # a program without a map prints nothing
        except FormatError as error:
            if not text.endswith("\n"):  # bpftrace does not look whether it could write
                raise CollectError(
                    f"{self.name}: what bpftrace printed is cut off after {len(text)} letters",
                    f"is there room in {self._folder.parent}?",
                ) from None
            raise CollectError(f"{self.name}: bpftrace's output: {error.message}") from error

    def ask(self) -> None:
        """Ask the program to end and do not wait: several can end at the same time."""
        if self._guard is not None:
            _close(self._guard.stdin)

    def _stop(self) -> int:
        guard = self._running()
        _close(guard.stdin)
        try:
            return guard.wait(STOP_SECONDS + KILL_SECONDS)
        except subprocess.TimeoutExpired:
            seconds = STOP_SECONDS + KILL_SECONDS
            raise self._failure(f"did not end within {seconds:.0f} s") from None

    def close(self) -> None:
        """End the program, whatever it does, and remove its files; never raises."""
        guard = self._guard
        if guard is not None:
            if guard.stdin is not None and not guard.stdin.closed:
                with suppress(OSError):
                    os.write(guard.stdin.fileno(), b"k")
            _close(guard.stdin)
            with suppress(subprocess.TimeoutExpired):
                guard.wait(KILL_SECONDS)
            if guard.poll() is None:
                with suppress(OSError):
                    guard.kill()
                with suppress(subprocess.TimeoutExpired):
                    guard.wait(1.0)
        shutil.rmtree(self._folder, ignore_errors=True)

    def _running(self) -> "subprocess.Popen[bytes]":
        if self._guard is None:
            raise ValueError("Program.launch() must come first")
        return self._guard

    def _said(self, file: Path) -> str:
        try:
            with file.open("rb") as stream:
                return stream.read(MAX_WORDS).decode("utf-8", "replace")
        except OSError:
            return ""

    def _failure(self, what: str) -> CollectError:
        """Return the error: bpftrace's own complaint with its place, else what was seen."""
        words = self._said(self._words)
        for error in _ERROR.finditer(words):
            if _HARMLESS in error["message"]:
                continue
            line = f", line {error['line']}" if error["line"] else ""
            return CollectError(f"{self.name} ({self.shown}{line}): {error['message'].strip()}")
        lines = [line.strip() for line in words.split("\n") if line.strip()]
        last = [line for line in lines if _HARMLESS not in line and line != "ERROR:"][-1:]
        said = f": {last[0]}" if last else ""
        return CollectError(f"{self.name} ({self.shown}): bpftrace {what}{said}")


def _close(stream: "IO[bytes] | None") -> None:
    if stream is not None:
        with suppress(OSError):
            stream.close()
