"""Edge: what one process of a session leaves in a folder for another to read.

A further process leaves its run for the one that started it, a worker of xdist each of its
benchmarks for the controller, who judges them again.
"""

import hashlib
import json
import shutil
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from ci_flame.baseline import folder
from ci_flame.profile import Measurement, Run
from ci_flame.record.recorder import Recorded, Recorder
from ci_flame.verdict import Note

_META: Final = "benchmark.json"


def save_child(recorded: Recorded, benchmark: str, recorder: Recorder, exchange: Path) -> None:
    """Write a further process's run to where its parent reads it."""
    measurement = Measurement(benchmark, (recorded.process,), recorded.root, recorded.places)
    folder.save(Run(recorder.environment, (measurement,)), exchange / "run")


@dataclass(frozen=True, slots=True)
class Part:
    """One benchmark that a worker recorded, and what it was judged by."""

    benchmark: str
    file: Path
    keywords: Mapping[str, object]
    """Of its markers."""
    family: int
    level: float
    """False failures per build."""
    notes: tuple[Note, ...]
    """That judging again would not find."""
    after: Run
    before: Run | None
    """None: there is none, or it is the stored one."""


def leave(part: Part, parts: Path) -> None:
    """Leave one benchmark for the controller, whole or not at all."""
    name = hashlib.sha256(part.benchmark.encode()).hexdigest()[:16]
    place = parts / name
    scratch = parts / f".{name}.tmp"
    scratch.mkdir()
    folder.save(part.after, scratch / "after")
    if part.before is not None:
        folder.save(part.before, scratch / "before")
    told = {
        "benchmark": part.benchmark,
        "file": str(part.file),
        "keywords": dict(part.keywords),
        "family": part.family,
        "level": part.level,
        "notes": [[note.slug, note.text, note.commit] for note in part.notes],
    }
    (scratch / _META).write_text(json.dumps(told, default=str), encoding="utf-8")
    shutil.rmtree(place, ignore_errors=True)  # a plugin that repeats failed tests was here
    scratch.rename(place)


def take(parts: Path) -> Iterator[Part]:
    """Yield what the workers left, by folder, and remove it after the last."""
    for meta in sorted(parts.glob(f"*/{_META}")):
        told = json.loads(meta.read_text(encoding="utf-8"))
        before = meta.parent / "before"
        yield Part(
            told["benchmark"],
            Path(told["file"]),
            told["keywords"],
            told["family"],
            told["level"],
            tuple(Note(slug, text, told["benchmark"], sha) for slug, text, sha in told["notes"]),
            folder.load(meta.parent / "after"),
            folder.load(before) if before.exists() else None,
        )
    shutil.rmtree(parts, ignore_errors=True)
