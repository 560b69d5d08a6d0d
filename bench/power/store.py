"""Recordings on disk: one zip per process, written whole or not at all.

units/0007/before-0.zip ─ task.json   which task of the schedule, when, beside what load
                        └ run.json, profiles/…   the run, as docs/run-folder.md tells
"""

import fcntl
import hashlib
import json
import os
import tempfile
import zipfile
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Final

from bench.power.schedule import PROCESSES, Task, Unit, sides
from ci_flame.baseline import folder
from ci_flame.errors import CiFlameError, FormatError
from ci_flame.profile import Run

ROOT: Final = Path(__file__).resolve().parents[2]
RECORDINGS: Final = Path(__file__).parent / ".recordings"
CAMPAIGN: Final = "campaign.json"
_TOLD: Final = "task.json"
_MEASURING: Final = (
    "ci_flame/record", "ci_flame/collect", "ci_flame/simplify.py", "ci_flame/pytest_plugin/item.py",
    "bench/power/process.py",
)  # fmt: skip
_SUITE: Final = "bench/power/suite"


def digest(*names: str) -> str:
    """Return a digest of these files and folders' Python files of the project."""
    made = hashlib.sha256()
    for name in names:
        place = ROOT / name
        for file in sorted(place.rglob("*.py")) if place.is_dir() else [place]:
            made.update(file.read_bytes())
    return made.hexdigest()[:12]


def measuring() -> str:
    """Return the digest of what measures and what is measured: recordings of two do not mix."""
    return digest(*_MEASURING, _SUITE)


@dataclass(frozen=True, slots=True)
class Recorded:
    """One process of one task: its run, and what the machine did meanwhile."""

    run: Run
    told: Mapping[str, Any]
    """`load` (of one minute, at the start), `began` (UTC), `took_s`, `commit`."""


class Store:
    """The folder of one campaign."""

    def __init__(self, place: Path, busy: float | None = None) -> None:
        self.place = place
        self.busy = busy
        """Rounds in which others had the CPU for more than this are left out; None: the default."""

    @contextmanager
    def locked(self, share: str = "", *, agree: bool = True) -> Iterator[None]:
        """Hold the campaign; CiFlameError where another process records it, or it is another's.

        Recorders of shares hold it together, each a lock of its own name. The first recorder
        writes what it measures with; a later one must measure with the same.
        """
        self.place.mkdir(parents=True, exist_ok=True)
        with ExitStack() as held:
            for name, kind in (("lock", fcntl.LOCK_SH if share else fcntl.LOCK_EX),
                               (share, fcntl.LOCK_EX)):  # fmt: skip
                if not name:
                    continue
                try:
                    fcntl.flock(
                        held.enter_context((self.place / name).open("w")), kind | fcntl.LOCK_NB
                    )
                except OSError:
                    raise CiFlameError(
                        f"{self.place}: another process records this campaign ({name})",
                        "wait for it, name another folder with --recordings, or other shares"
                        " with --share",
                    ) from None
            if agree:
                self.agree()
            yield

    def agree(self) -> None:
        """Raise CiFlameError where the code that measures is not the one that began."""
        file = self.place / CAMPAIGN
        now = {"measuring": measuring(), "busy": self.busy}
        if not file.exists():
            write(file, json.dumps(now).encode())
            return
        then = json.loads(file.read_text(encoding="utf-8"))
        cure = "name another folder with --recordings"
        if then.get("measuring") != now["measuring"]:
            raise CiFlameError(
                f"{self.place} was recorded by other code (digest {then.get('measuring')},"
                f" now {now['measuring']}): its recordings and new ones do not mix",
                f"{cure}, or record in a checkout of the old commit",
            )
        if then.get("busy") != self.busy:
            raise CiFlameError(
                f"{self.place} was recorded with --busy {then.get('busy')}, not {self.busy}", cure
            )

    def file(self, unit: Unit, name: str) -> Path:
        """Return where a file of the unit is."""
        return self.place / "units" / f"{unit.number:04}" / name

    def has(self, task: Task) -> bool:
        """Tell whether the task's process is recorded."""
        return self.file(task.unit, f"{task.name}.zip").is_file()

    def put(self, task: Task, run: Run, told: Mapping[str, Any]) -> None:
        """Keep a process; a kill at any moment leaves it whole or absent."""
        told = {**told, "unit": json.loads(json.dumps(asdict(task.unit))), "task": task.name}
        place = self.file(task.unit, f"{task.name}.zip")
        place.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(prefix=".run-", dir=self.place) as scratch:
            made = Path(scratch) / "run"
            folder.save(run, made)
            packed = Path(scratch) / "packed.zip"
            with zipfile.ZipFile(packed, "w", zipfile.ZIP_DEFLATED) as archive:
                archive.writestr(_TOLD, json.dumps(told))
                for each in sorted(made.rglob("*")):
                    if each.is_file():
                        archive.write(each, each.relative_to(made).as_posix())
            packed.rename(place)

    def get(self, task: Task) -> Recorded:
        """Return a process; FormatError where the file is broken or of another schedule."""
        place = self.file(task.unit, f"{task.name}.zip")
        try:
            with zipfile.ZipFile(place) as archive:
                told = json.loads(archive.read(_TOLD))

                def read(name: str, limit: int) -> bytes:
                    size = archive.getinfo(name).file_size
                    if size > limit:
                        raise FormatError(f"{place}/{name}", f"{size} bytes; the limit is {limit}")
                    return archive.read(name)

                run = folder.assemble(read, str(place))
        except (OSError, KeyError, ValueError, zipfile.BadZipFile) as error:
            raise FormatError(str(place), f"not a whole recording: {error}") from error
        # The first recordings do not tell the processes of a side: there were five.
        if {"processes": PROCESSES, **told["unit"]} != json.loads(json.dumps(asdict(task.unit))):
            raise FormatError(str(place), "recorded by another schedule")
        return Recorded(run, told)

    def complete(self, unit: Unit) -> bool:
        """Tell whether both sides of a unit are recorded."""
        return all(self.has(task) for tasks in sides(unit).values() for task in tasks)


def write(place: Path, data: bytes) -> None:
    """Write a file whole or not at all."""
    place.parent.mkdir(parents=True, exist_ok=True)
    fresh = place.with_name(f".{place.name}.{os.getpid()}")
    fresh.write_bytes(data)
    fresh.rename(place)
