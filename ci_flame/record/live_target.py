"""Stage 1, edge: processes that run already: who they are, whose they are, what they used.

by_pid(1234) · by_cgroup("system.slice/shop.service")  -> LiveTarget
LiveTarget.members()    the processes of its trees, now
Meter(members).since()  CPU time and waiting of them since the last call
"""

import os
import pwd
import re
import time
from collections.abc import Callable, Iterable, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from ci_flame.collect.process_tree import is_alive, stat_words, tree
from ci_flame.errors import CollectError, UsageError

MAX_PROCESSES: Final = 4096
"""Members of one target; each is opened by the collector."""
CGROUPS: Final = Path("/sys/fs/cgroup")
_PROC: Final = Path("/proc")
_EVERYBODY: Final = 1 << 22
"""The kernel's own limit of processes: what is too many is told by its number."""
_KERNEL_THREAD: Final = 0x00200000
"""PF_KTHREAD of the flags in /proc/PID/stat."""
_PYTHON: Final = re.compile(r"(?:lib)?python(?P<version>3\.\d+)?[dtmu]*(?:\.so[.\d]*)?")
_TICK_NS: Final = 1_000_000_000 // os.sysconf("SC_CLK_TCK")


@dataclass(frozen=True, slots=True)
class LiveTarget:
    """What is sampled, and how to say so."""

    label: str
    """`process 1234 (node)`, `cgroup shop.service`: for messages."""
    name: str
    """The benchmark's id where none is given: the same for every process of a program."""
    roots: Callable[[], tuple[int, ...]]
    """The processes whose trees are meant, now."""
    alone: bool = True
    """True: it ends with its root; a cgroup ends with its last member."""

    def members(self) -> tuple[int, ...]:
        """Return the processes of the trees that are alive; empty when the target has ended."""
        roots = tuple(pid for pid in self.roots() if is_alive(pid))
        if not roots:
            return ()
        found = tree(roots, limit=_EVERYBODY)
        if len(found) > MAX_PROCESSES:
            raise UsageError(
                f"{self.label} has {len(found)} processes; the limit is {MAX_PROCESSES}",
                "choose a part of it: --pid of one of them, or a cgroup below",
            )
        return found


def by_pid(pid: int) -> LiveTarget:
    """Return the target of one process and what it has started; UsageError or CollectError.

    Refused by name: what is not there, a thread, a kernel thread, what has ended, ci-flame
    itself and whatever started it, and other users' processes where we may not look at them.
    """
    status = _status(pid)
    if status is None:
        raise CollectError(f"process {pid} does not exist", "`pgrep -a NAME` tells numbers")
    if status.get("Tgid", str(pid)) != str(pid):
        leader = status["Tgid"]
        raise UsageError(f"{pid} is a thread of process {leader}", f"give --pid {leader}")
    name = status.get("Name", "?")
    label = f"process {pid} ({name})"
    if _flags(pid) & _KERNEL_THREAD:
        raise UsageError(f"{label} is a thread of the kernel", "sample what it works for")
    if not is_alive(pid):
        raise CollectError(f"{label} has ended; its parent has not asked for its exit code yet")
    _must_not_be_ours((pid,), label)
    _must_be_allowed(pid, label)
    return LiveTarget(label, f"pid:{name}", lambda: (pid,))


def by_cgroup(place: str) -> LiveTarget:
    """Return the target of a cgroup (v1 or v2) and those below it; UsageError or CollectError.

    `place` is a folder, or its path below a hierarchy of /sys/fs/cgroup, or a cgroup's own
    path as /proc/PID/cgroup tells it.
    """
    folder = _cgroup_folder(place)
    label = f"cgroup {folder.name}"

    def roots() -> tuple[int, ...]:
        return cgroup_members(folder)

    found = roots()
    if not found:
        raise CollectError(f"{label} holds no process: {folder}/cgroup.procs is empty")
    _must_not_be_ours(found, label)
    for pid in found:
        _must_be_allowed(pid, label)
    return LiveTarget(label, f"cgroup:{folder.name}", roots, alone=False)


def _cgroup_folder(place: str) -> Path:
    inside = place.strip("/")
    candidates = [Path(place)] if place.startswith("/") else []
    if inside and ".." not in Path(inside).parts:
        candidates += [CGROUPS / inside, CGROUPS / "unified" / inside]
        with suppress(OSError):
            candidates += [each / inside for each in sorted(CGROUPS.iterdir()) if each.is_dir()]
    for each in candidates:
        with suppress(OSError):
            if (each / "cgroup.procs").is_file():
                return each.resolve()
    raise UsageError(
        f"{place!r} is not a cgroup: no cgroup.procs in it or below {CGROUPS}",
        "cat /proc/PID/cgroup tells a process's cgroup",
    )


def cgroup_members(folder: Path) -> tuple[int, ...]:
    """Return the processes of a cgroup and of those below it that live."""
    found: dict[int, None] = {}
    for place, _, files in os.walk(folder):
        if "cgroup.procs" not in files:
            continue
        with suppress(OSError):
            words = (Path(place) / "cgroup.procs").read_text(encoding="ascii").split()
            # 0 stands for a process of another PID namespace: it has no number here.
            found |= dict.fromkeys(int(word) for word in words if word != "0")
    return tuple(pid for pid in found if is_alive(pid))


def _must_not_be_ours(pids: Iterable[int], label: str) -> None:
    ours: list[int] = []
    pid = os.getpid()
    while pid > 0 and len(ours) < MAX_PROCESSES:
        ours.append(pid)
        parent = (_status(pid) or {}).get("PPid", "0")
        pid = int(parent) if parent.isdecimal() else 0
    for each in pids:
        if each in ours:
            what = "ci-flame itself" if each == ours[0] else "the process that started ci-flame"
            if label.startswith("process "):
                raise UsageError(
                    f"{label} is {what}: ci-flame would record its own work",
                    "give the number of another process",
                )
            raise UsageError(
                f"{label} holds {what} (process {each}): ci-flame would record its own work",
                "start ci-flame from outside of that cgroup",
            )


def _must_be_allowed(pid: int, label: str) -> None:
    """Refuse another user's process where the kernel does not let us look into it."""
    with suppress(OSError):
        owner = (_PROC / str(pid)).stat().st_uid
        if os.geteuid() in {0, owner}:
            return
        try:
            (_PROC / str(pid) / "maps").open("rb").close()
        except PermissionError:
            raise CollectError(
                f"{label} belongs to {_user(owner)}, not to {_user(os.geteuid())}",
                f"sudo ci-flame record …, or as {_user(owner)}",
            ) from None


def _user(number: int) -> str:
    try:
        return pwd.getpwuid(number).pw_name
    except KeyError:
        return f"user {number}"


# -- what processes are ---------------------------------------------------------------


def python_version(pid: int) -> str | None:
    """Return the minor version of the CPython that a process runs (`3.11`).

    Empty where its names do not tell; None where it runs none.
    """
    version = None
    with suppress(OSError):
        text = (_PROC / str(pid) / "maps").read_text(errors="surrogateescape")
        names = {line.rpartition("/")[2] for line in text.splitlines() if " r-xp " in line}
        for name in sorted(names):
            if found := _PYTHON.fullmatch(name):
                version = version or found["version"] or ""
    return version


def parent(pid: int) -> int:
    """Return a process's parent; 0 where it is gone."""
    try:
        return int(stat_words(pid)[1])
    except (OSError, IndexError, ValueError):
        return 0


def owner(pid: int) -> int:
    """Return the number of the user that a process belongs to; -1 where it is gone."""
    try:
        return (_PROC / str(pid)).stat().st_uid
    except OSError:
        return -1


def working_folder(pid: int) -> str:
    """Return a process's working folder; empty where it cannot be told."""
    with suppress(OSError):
        return str((_PROC / str(pid) / "cwd").readlink())
    return ""


def _flags(pid: int) -> int:
    try:
        return int(stat_words(pid)[6])
    except (OSError, IndexError, ValueError):
        return 0


def _status(pid: int) -> Mapping[str, str] | None:
    try:
        text = (_PROC / str(pid) / "status").read_text(errors="replace")
    except OSError:
        return None
    return {
        key: value.strip()
        for key, colon, value in (each.partition(":") for each in text.split("\n"))
    }


# -- what they used -------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class _Used:
    """What one process has used since its start."""

    parent: int
    own_ns: int
    reaped_ns: int
    """Of children that have ended and were waited for."""
    delay_ns: int
    """Runnable, waiting for a CPU: its threads that live."""


@dataclass(slots=True)
class Meter:
    """CPU time of a set of processes, also of those that begin or end between two calls."""

    before: dict[int, _Used] = field(default_factory=dict)
    _debt_ns: int = 0
    """Counted of children that have ended, until their parent's sum has them."""

    def since(self, pids: Iterable[int]) -> tuple[int, int]:
        """Return ns of CPU time and of waiting for one, since the last call (or ever).

        A child that has ended since is in the sum of its parent, all of it: what was counted
        of it before is taken off.
        """
        now = {pid: used for pid in pids if (used := _used(pid))}
        cpu_ns = delay_ns = 0
        for pid, used in now.items():
            had = self.before.get(pid)
            cpu_ns += used.own_ns + used.reaped_ns
            delay_ns += used.delay_ns
            if had:
                cpu_ns -= had.own_ns + had.reaped_ns
                delay_ns -= min(had.delay_ns, used.delay_ns)
        for pid, had in self.before.items():
            if pid not in now and had.parent in now and had.parent in self.before:
                cpu_ns -= had.own_ns + had.reaped_ns
        self.before = now
        cpu_ns += self._debt_ns
        self._debt_ns = min(cpu_ns, 0)
        return max(cpu_ns, 0), max(delay_ns, 0)


def _used(pid: int) -> _Used | None:
    try:
        words = stat_words(pid)
        # A process's CPU clock, all of its threads, ended ones too: see clock_getcpuclockid(3).
        own_ns = time.clock_gettime_ns((~pid << 3) | 2)
        reaped_ns = (int(words[13]) + int(words[14])) * _TICK_NS
        return _Used(int(words[1]), own_ns, reaped_ns, _delay_ns(pid))
    except (OSError, IndexError, ValueError):
        return None


def _delay_ns(pid: int) -> int:
    waited = 0
    with suppress(OSError):
        for task in (_PROC / str(pid) / "task").iterdir():
            with suppress(OSError, IndexError, ValueError):
                waited += int((task / "schedstat").read_text(encoding="ascii").split()[1])
    return waited
