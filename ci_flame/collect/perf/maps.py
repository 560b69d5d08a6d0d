"""Stage 1, edge: the maps of JIT compilers (`/tmp/perf-PID.map`), kept before they vanish.

A runtime writes them while it runs, into the /tmp that it sees (a container's own goes with
it), and whoever started it may remove them. So the tree's maps are opened while it lives and
copied from the open files when the recording is read. /tmp belongs to everybody: only a plain
file of the process's own user, with one name, that is no older than the process, is taken.
"""

import os
import stat
import threading
import time
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from ci_flame.collect.process_tree import stat_words, tree

TMP: Final = "/tmp"  # noqa: S108 - where perf and the runtimes have agreed to meet
MAX_MAP: Final = 64 << 20
MAX_ALL: Final = 256 << 20
MAX_MAPS: Final = 256
LOOK_SECONDS: Final = 0.25
_CHUNK: Final = 1 << 20
_SLACK_NS: Final = 2_000_000_000
"""Start times have hundredths of a second, file times those of another clock."""
_START_FIELD: Final = 19
"""`starttime` behind the name in /proc/PID/stat (field 22 of proc(5))."""


@dataclass(slots=True)
class _Held:
    """One open map."""

    descriptor: int
    inode: int


class MapKeeper:
    """Holds the maps of a process tree open, from `start` to `close`."""

    def __init__(self, pids: Iterable[int], *, tmp: str = TMP) -> None:
        self._roots = tuple(pids)
        self._tmp = tmp
        self._held: dict[int, _Held] = {}
        self._uids: dict[int, int] = {}
        self._began_ns = time.time_ns()
        self._refused: dict[int, str] = {}
        self._end = threading.Event()
        self._lock = threading.Lock()
        self._thread: threading.Thread | None = None

    @property
    def refused(self) -> tuple[str, ...]:
        """What was not taken, and why, one sentence each."""
        return tuple(text for _, text in sorted(self._refused.items()))

    def start(self) -> None:
        """Begin to look, four times a second."""
        self._thread = threading.Thread(target=self._follow, name="perf maps", daemon=True)
        self._thread.start()

    def _follow(self) -> None:
        while not self._end.wait(LOOK_SECONDS):
            self.look()

    def look(self) -> None:
        """Open the maps of the processes that the tree has now."""
        with self._lock:
            for pid in tree(self._roots):
                self._look_at(pid)

    def keep(self, pids: Iterable[int], folder: Path) -> Path:
        """Copy the maps of these processes into a folder, as `perf-PID.map` of each; return it.

        Those that ended before they were seen are looked for by their number, and must belong
        to the user of the tree and be younger than the recording. A process without a map
        that was taken has an empty one, so that nobody looks for another.
        """
        self.look()
        folder.mkdir(mode=0o700, exist_ok=True)
        with self._lock:
            for pid in sorted(set(pids) - set(self._held)):
                if pid > 0 and self._uids:
                    self._open(pid, Path(self._tmp), pid, set(self._uids.values()), self._began_ns)
                if pid not in self._held:
                    (folder / f"perf-{pid}.map").write_bytes(b"")
            room = MAX_ALL
            for pid, held in sorted(self._held.items()):
                room -= self._copy(pid, held, folder, room)
        return folder

    def close(self) -> None:
        """Let go of everything; the copies stay where they are."""
        self._end.set()
        if self._thread is not None:
            self._thread.join(5.0)
        with self._lock:
            for held in self._held.values():
                os.close(held.descriptor)
            self._held.clear()

    def _look_at(self, pid: int) -> None:
        process = Path(f"/proc/{pid}")
        try:
            uid = process.stat().st_uid
            inside = _own_number(process)
        except (OSError, ValueError, IndexError):
            return
        self._uids[pid] = uid
        self._open(pid, process / "root" / self._tmp.lstrip("/"), inside, {uid}, _started_ns(pid))

    def _open(self, pid: int, folder: Path, number: int, uids: set[int], since_ns: int) -> None:
        """Hold the map open unless it is held already; refuse what is not the process's own."""
        name = f"perf-{number}.map"
        directory = descriptor = -1
        try:
            flags = os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW
            directory = os.open(folder, flags | os.O_DIRECTORY)
            found = os.stat(name, dir_fd=directory, follow_symlinks=False)
            held = self._held.get(pid)
            if held is not None and held.inode == found.st_ino:
                return
            if held is None and len(self._held) >= MAX_MAPS:
                self._refused[-1] = f"maps of more than {MAX_MAPS} processes, the limit"
                return
            if why := _unfit(found, uids, since_ns):
                self._refused[pid] = f"{self._tmp}/{name} {why}: not read"
                return
            descriptor = os.open(name, flags | os.O_NONBLOCK, dir_fd=directory)
            found = os.fstat(descriptor)
            if _unfit(found, uids, since_ns):
                return  # it was exchanged between the two looks
            if held is not None:
                os.close(held.descriptor)
            self._held[pid] = _Held(descriptor, found.st_ino)
            self._refused.pop(pid, None)
            descriptor = -1
        except OSError:
            return
        finally:
            for each in (directory, descriptor):
                if each >= 0:
                    os.close(each)

    def _copy(self, pid: int, held: _Held, folder: Path, room: int) -> int:
        """Copy one map's bytes; return how many."""
        limit = min(room, MAX_MAP)
        size = os.fstat(held.descriptor).st_size
        if size > limit:
            self._refused[pid] = (
                f"{self._tmp}/perf-{pid}.map has {size >> 20} MB, the limit is {limit >> 20} MB:"
                " its last names are missing"
            )
        at = 0
        with (folder / f"perf-{pid}.map").open("wb") as copy:
            while at < limit:
                piece = os.pread(held.descriptor, min(_CHUNK, limit - at), at)
                if not piece:
                    break
                copy.write(piece)
                at += len(piece)
        return at


def _unfit(found: os.stat_result, uids: set[int], since_ns: int) -> str:
    """Return why a file cannot be the map of a process of these users; empty: it can."""
    if not stat.S_ISREG(found.st_mode):
        return "is not a plain file"
    if found.st_uid not in uids:
        owners = ", ".join(map(str, sorted(uids)))
        return f"belongs to user {found.st_uid} and the process to user {owners}"
    if found.st_nlink > 1:
        return "has a second name"
    if found.st_mtime_ns < since_ns - _SLACK_NS:
        return "is older than the process"
    return ""


def _own_number(process: Path) -> int:
    """Return the pid that a process has in its own namespace: the one it writes into names."""
    for line in (process / "status").read_text(errors="replace").splitlines():
        if line.startswith("NSpid:"):
            return int(line.split()[-1])
    return int(process.name)


def _started_ns(pid: int) -> int:
    """Return when a process began, as the files' clock tells it; 0 if that is not known."""
    try:
        ticks = int(stat_words(pid)[_START_FIELD])
    except (OSError, ValueError, IndexError):
        return 0
    since_boot_ns = ticks * 1_000_000_000 // os.sysconf("SC_CLK_TCK")
    boot_ns = time.time_ns() - time.clock_gettime_ns(time.CLOCK_BOOTTIME)
    return boot_ns + since_boot_ns
