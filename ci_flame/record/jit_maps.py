"""Stage 1, edge: the maps that JIT compilers write for perf, `/tmp/perf-PID.map`.

Watch(mark): inotify on /tmp tells of each new map; whose it is, the environment of process
PID tells, which holds the mark. After the recording the maps of our processes are removed,
each by its own name, and nobody else's.
"""

import ctypes
import os
import re
import select
import stat
import struct
import subprocess
import threading
import time
from collections.abc import Iterable, Sequence
from contextlib import suppress
from pathlib import Path
from types import TracebackType
from typing import Any, Final, Self

from ci_flame.record.jit import (
    JAVA_VARIABLE,
    MARK_VARIABLE,
    NODE_FLAGS,
    NODE_VARIABLE,
    OLD_JAVA_FLAGS,
    Jit,
)

FOLDER: Final = Path("/tmp")  # noqa: S108 - where perf and the runtimes have agreed to meet
_NAME: Final = re.compile(rb"perf-(\d{1,10})\.map")
_IN_CREATE, _IN_MOVED_TO, _IN_CLOEXEC, _IN_NONBLOCK = 0x100, 0x80, 0o2000000, 0o4000
_EVENT: Final = struct.Struct("iIII")
_BUFFER: Final = 65_536
_JCMD_S: Final = 20.0
_MAX_ASKED: Final = 64
_ALL_JCMD_S: Final = 60.0
"""After this long no further JVM is asked: each of 64 that hang would take its 20 s."""
_ENDING_S: Final = 3.0


class Watch:
    """Which processes of a command write maps, from construction to the end of the block."""

    def __init__(self, mark: str, *, folder: Path = FOLDER) -> None:
        self._mark = f"{MARK_VARIABLE}={mark}".encode()
        self._folder = folder
        self._pids: dict[int, Jit | None] = {}
        self._unsure: set[int] = set()
        """Writers that were gone before they could be asked."""
        self._wake_read = self._wake_write = self._inotify = -1
        self._thread: threading.Thread | None = None

    def __enter__(self) -> Self:
        self._inotify = _inotify(self._folder)
        if self._inotify >= 0:
            self._wake_read, self._wake_write = os.pipe()
            self._thread = threading.Thread(target=self._follow, daemon=True)
            self._thread.start()
        return self

    @property
    def runtimes(self) -> frozenset[Jit]:
        """The runtimes that wrote a map so far."""
        return frozenset(jit for jit in list(self._pids.values()) if jit)

    @property
    def pids(self) -> tuple[int, ...]:
        """The processes that wrote one."""
        return tuple(sorted(self._pids))

    def settle(self, group: int) -> None:
        """Take in what has happened until now, when a command's first process has ended; bounded.

        `group` is its process group, and its own number. A JVM of it that still runs is about to
        be ended: it writes its map first.
        """
        ask_java(pid for pid in members(group) if runtime(pid) is Jit.JAVA)
        if self._thread is not None and self._wake_write >= 0:
            os.close(self._wake_write)
            self._wake_write = -1
            self._thread.join(5.0)
        if group in self._unsure:
            self._pids.setdefault(group, None)

    def __exit__(
        self,
        _kind: type[BaseException] | None,
        _error: BaseException | None,
        _trace: TracebackType | None,
    ) -> None:
        if self._wake_write >= 0:
            os.close(self._wake_write)
            self._wake_write = -1
        if self._thread is not None:
            self._thread.join(5.0)
        for descriptor in (self._inotify, self._wake_read):
            if descriptor >= 0 and (self._thread is None or not self._thread.is_alive()):
                os.close(descriptor)
        self._inotify = self._wake_read = -1
        deadline = time.monotonic() + _ENDING_S
        for pid in self._pids:
            # A JVM that is being ended writes its map once more.
            while Path(f"/proc/{pid}/exe").exists() and time.monotonic() < deadline:
                time.sleep(0.02)
            remove(pid, folder=self._folder)

    def _follow(self) -> None:
        inotify, wake = self._inotify, self._wake_read
        while True:
            ready, _, _ = select.select([inotify, wake], [], [])
            if inotify in ready:
                with suppress(OSError):
                    for pid in _created(os.read(inotify, _BUFFER)):
                        self._seen(pid)
            elif wake in ready:
                return

    def _seen(self, pid: int) -> None:
        try:
            words = Path(f"/proc/{pid}/environ").read_bytes().split(b"\0")
        except OSError:
            words = []
        if self._mark in words:
            self._pids[pid] = runtime(pid)
        elif not any(words):
            self._unsure.add(pid)


def remove(pid: int, *, folder: Path = FOLDER, owner: int = -1) -> None:
    """Remove the map of one process that we caused: a plain file, nothing else.

    It must be this user's, or `owner`'s, whose process was asked for it.
    """
    place = folder / f"perf-{pid}.map"
    with suppress(OSError):
        found = place.lstat()
        if stat.S_ISREG(found.st_mode) and found.st_uid in {os.geteuid(), owner}:
            place.unlink()


def runtime(pid: int) -> Jit | None:
    """Return which runtime a living process is, by its program's name."""
    with suppress(OSError):
        name = Path(f"/proc/{pid}/exe").readlink().name
        if name.startswith("java"):
            return Jit.JAVA
        if name.startswith("node"):
            return Jit.NODE
    return None


def members(group: int) -> tuple[int, ...]:
    """Return the living processes of a process group."""
    found = []
    for place in Path("/proc").glob("[0-9]*/stat"):
        with suppress(OSError, ValueError, IndexError):
            state, _, number = place.read_text().rpartition(") ")[2].split()[:3]
            if int(number) == group and state not in "ZX":
                found.append(int(place.parent.name))
    return tuple(found)


def ask_java(pids: Iterable[int]) -> tuple[int, ...]:
    """Let running JVMs write their maps now, by their own jcmd; return those that had none.

    Each is asked at most 20 s, the last one 60 s after the first. A JVM that does not answer is
    left alone.
    """
    done = []
    deadline = time.monotonic() + _ALL_JCMD_S
    for pid in list(pids)[:_MAX_ASKED]:
        if time.monotonic() > deadline:
            break
        if runtime(pid) is not Jit.JAVA:
            continue
        place = FOLDER / f"perf-{pid}.map"
        there = os.path.lexists(place)
        ask(pid, "Compiler.perfmap")
        if not there and os.path.lexists(place):
            done.append(pid)
    return tuple(done)


def ask(pid: int, question: str) -> str:
    """Return what a JVM answers to one diagnostic command; empty where it does not.

    The jcmd lies beside the process's program, which its owner may have put there. Root runs it
    as that owner, with nothing of its own environment.
    """
    with suppress(OSError, subprocess.SubprocessError, LookupError, ValueError):
        user, group = _real_owner(pid)
        words = [_jcmd(pid), str(pid), question]
        if user != os.geteuid():
            if os.geteuid() != 0:
                return ""
            return _answer(
                words,
                user=user,
                group=group,
                extra_groups=(),
                # Nothing of root's for a program that another user has chosen.
                env={"PATH": os.defpath, "LC_ALL": "C"},
                cwd="/",
            )
        return _answer(words)
    return ""


def _answer(words: Sequence[str], **how: Any) -> str:  # noqa: ANN401 - of subprocess.run
    done: subprocess.CompletedProcess[bytes] = subprocess.run(
        words,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        timeout=_JCMD_S,
        check=True,
        **how,
    )
    return done.stdout.decode(errors="replace")


def _real_owner(pid: int) -> tuple[int, int]:
    """Return the user and group that started a process.

    The owner of /proc/PID does not tell: that is root for a process that may not be dumped.
    """
    text = Path(f"/proc/{pid}/status").read_text(encoding="utf-8", errors="replace")
    fields = dict(line.split(":", 1) for line in text.splitlines() if ":" in line)
    return int(fields["Uid"].split()[0]), int(fields["Gid"].split()[0])


def advice(pids: Iterable[int], wanted: Jit) -> tuple[str, ...]:
    """Return what running Javas and Nodes lack for their functions to be seen, and the cure."""
    told = []
    deadline = time.monotonic() + _ALL_JCMD_S
    for pid in list(pids)[:_MAX_ASKED]:
        if time.monotonic() > deadline:
            break
        which = runtime(pid)
        if which is Jit.NODE and not os.path.lexists(FOLDER / f"perf-{pid}.map"):
            told.append(
                f"process {pid} (node) writes no map: its functions have no names; start it with"
                f" {NODE_VARIABLE}='{' '.join(NODE_FLAGS)}'"
            )
        elif which is Jit.JAVA and wanted not in {Jit.JAVA, Jit.AUTO}:
            told.append(f"process {pid} (java): --jit java names its functions, by jcmd")
        elif which is Jit.JAVA and "+PreserveFramePointer" not in ask(pid, "VM.flags"):
            told.append(
                f"process {pid} (java) runs without {OLD_JAVA_FLAGS[0]}: callers are missing;"
                f" start it with {JAVA_VARIABLE}={OLD_JAVA_FLAGS[0]}"
            )
    return tuple(told)


def _jcmd(pid: int) -> str:
    """Return the jcmd of the JDK that a process runs, or the one on PATH."""
    with suppress(OSError):
        program = Path(f"/proc/{pid}/exe")
        beside = program.readlink().parent / "jcmd"
        # In a container the same path is another file.
        if program.samefile(program.readlink()) and beside.is_file():
            return str(beside)
    return "jcmd"


def _inotify(folder: Path) -> int:
    """Return a descriptor that tells of new files in a folder, or -1 where there is none."""
    try:
        library = ctypes.CDLL(None, use_errno=True)
        descriptor = int(library.inotify_init1(_IN_CLOEXEC | _IN_NONBLOCK))
        if descriptor < 0:
            return -1
        events = ctypes.c_uint32(_IN_CREATE | _IN_MOVED_TO)
        if library.inotify_add_watch(descriptor, os.fsencode(folder), events) < 0:
            os.close(descriptor)
            return -1
    except (OSError, AttributeError):
        return -1
    return descriptor


def _created(data: bytes) -> list[int]:
    """Return the processes of the maps that a read of inotify names."""
    pids = []
    offset = 0
    while offset + _EVENT.size <= len(data):
        _, _, _, length = _EVENT.unpack_from(data, offset)
        name = data[offset + _EVENT.size : offset + _EVENT.size + length].rstrip(b"\0")
        offset += _EVENT.size + length
        if found := _NAME.fullmatch(name):
            pids.append(int(found[1]))
    return pids
