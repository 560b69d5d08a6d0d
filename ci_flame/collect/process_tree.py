"""Stage 1, edge: processes and what they have started, as /proc tells it now.

    tree([100]) -> (100, 101, 105, …)      parents first, ended ones left out

Two ways lead to a process's children: the kernel's own list of each thread (cheap, and asked
again and again by collectors), and, on kernels built without it, everybody's parent.
"""

from collections import deque
from collections.abc import Callable, Iterable
from contextlib import suppress
from pathlib import Path
from typing import Final

MAX_PROCESSES: Final = 4096
"""Of one tree: each may be opened, read again and again, and held."""
_PROC: Final = Path("/proc")
_STATE, _PARENT, _THREADS = 0, 1, 17
"""Words behind the name in /proc/PID/stat (fields 3, 4 and 20 of proc(5))."""
_ENDED: Final = "ZX"


def tree(
    roots: Iterable[int], *, limit: int = MAX_PROCESSES, proc: Path = _PROC
) -> tuple[int, ...]:
    """Return the roots and what they have started, themselves or through others.

    Parents come before their children, each process once, at most `limit` of them; those that
    have ended are left out. What begins or ends meanwhile may or may not be in it.
    """
    children = _listed(proc) if _lists_children(proc) else _by_parent(proc)
    found: dict[int, None] = {}
    looked_at: set[int] = set()
    waiting = deque(roots)
    while waiting and len(found) < limit:
        pid = waiting.popleft()
        if pid in looked_at:
            continue
        looked_at.add(pid)
        if is_alive(pid, proc=proc):
            found[pid] = None
            waiting += children(pid)
    return tuple(found)


def is_alive(pid: int, *, proc: Path = _PROC) -> bool:
    """Tell whether a process runs: there, and not only waiting for its parent to take note.

    One whose first thread has ended looks like that, and runs as long as it has others.
    """
    try:
        words = stat_words(pid, proc=proc)
        return words[_STATE] not in _ENDED or int(words[_THREADS]) > 1
    except (OSError, IndexError, ValueError):
        return False


def stat_words(pid: int, *, proc: Path = _PROC) -> list[str]:
    """Return the words of /proc/PID/stat behind the name: state, parent, group, …; OSError.

    Empty where the file is cut off before them.
    """
    text = (proc / str(pid) / "stat").read_text(errors="surrogateescape")
    _, found, words = text.rpartition(") ")
    return words.split() if found else []


def _lists_children(proc: Path) -> bool:
    """Tell whether the kernel was built with CONFIG_PROC_CHILDREN."""
    return (proc / "thread-self" / "children").exists()


def _listed(proc: Path) -> Callable[[int], list[int]]:
    """Return the way by the kernel's lists: one file for each thread."""

    def children(pid: int) -> list[int]:
        numbers: list[int] = []
        with suppress(OSError):
            for thread in (proc / str(pid) / "task").iterdir():
                with suppress(OSError, ValueError):
                    text = (thread / "children").read_text(encoding="ascii")
                    numbers += map(int, text.split())
        return numbers

    return children


def _by_parent(proc: Path) -> Callable[[int], list[int]]:
    """Return the way by the parents of all processes, looked at once."""
    known: dict[int, list[int]] = {}
    with suppress(OSError):
        for place in proc.iterdir():
            if place.name.isdecimal():
                with suppress(OSError, IndexError, ValueError):
                    above = int(stat_words(int(place.name), proc=proc)[_PARENT])
                    known.setdefault(above, []).append(int(place.name))
    return lambda pid: sorted(known.get(pid, []))
