"""Stage 1, edge: recordings from a stored run folder instead of this machine.

For tests, and for judging on a laptop what CI recorded: `measurement(folder, id)` hands back
what was measured, and the stages after it cannot tell the difference. It needs no privilege
and runs on every system. Nothing is sampled, so that a session cannot be started.
"""

import difflib
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING

from ci_flame.collect import Obstacle, Session, Target
from ci_flame.errors import CollectError
from ci_flame.profile import Measurement, Run

if TYPE_CHECKING:
    from ci_flame.collect.machine import Machine

_SHOWN = 5
"""Ids that a message lists."""


class ReplayCollector:
    """The entry in the registry; recordings come from `measurement`, not from a session."""

    name = "replay"
    event = "replay"

    def obstacle(self, machine: "Machine", *, python: bool) -> Obstacle | None:
        """Return None: replaying works everywhere."""
        del machine, python
        return None

    def start(self, target: Target) -> Session:
        """Refuse: there is no process to sample."""
        raise CollectError(
            f"replay samples no process (asked for {target.pid}); it reads a run folder",
            "replay.measurement(folder, benchmark), or choose ebpf or perf",
        )


def load(folder: Path) -> Run:
    """Return the stored run; the folder is read again only after it was written again.

    Raises BaselineError or FormatError as `baseline.folder.load`.
    """
    from ci_flame.baseline.folder import RUN_JSON  # noqa: PLC0415 - see _loaded

    try:
        status = (folder / RUN_JSON).stat()
    except OSError:
        return _loaded(folder, 0, 0)
    return _loaded(folder.absolute(), status.st_mtime_ns, status.st_ino)


def measurement(folder: Path, benchmark: str) -> Measurement:
    """Return one benchmark of a stored run; CollectError names the nearest if it is not there."""
    run = load(folder)
    found = run.measurement(benchmark)
    if found is not None:
        return found
    known = [each.benchmark for each in run.measurements]
    near = difflib.get_close_matches(benchmark, known, n=1, cutoff=0.6)
    listed = ", ".join(known[:_SHOWN]) + (", …" if len(known) > _SHOWN else "")
    raise CollectError(
        f"{folder} holds no recording of {benchmark}",
        f"did you mean {near[0]}?" if near else f"it holds: {listed or 'nothing'}",
    )


@lru_cache(maxsize=4)
def _loaded(folder: Path, _modified_ns: int, _inode: int) -> Run:
    # protobuf is only imported where a folder is read.
    from ci_flame.baseline import folder as run_folder  # noqa: PLC0415

    return run_folder.load(folder)
