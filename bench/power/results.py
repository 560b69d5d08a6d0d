"""Results <-> JSON in the repository: one file per kind of comparison, one line per comparison."""

import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, Final

from bench.power.compare import Row, plain, row_of
from bench.power.schedule import KINDS
from bench.power.store import write
from ci_flame.errors import FormatError
from ci_flame.profile import Environment

RESULTS: Final = Path(__file__).parent / "results"
MACHINE: Final = "machine.json"


def save(rows: Iterable[Row], machine: Mapping[str, Any], place: Path = RESULTS) -> None:
    """Write the rows of each kind; files of kinds that have none are removed."""
    kept = list(rows)
    for kind in KINDS:
        lines = [json.dumps(plain(row), separators=(",", ":")) for row in kept if row.kind == kind]
        file = place / f"{kind}.json"
        if lines:
            write(file, ("[\n" + ",\n".join(lines) + "\n]\n").encode())
        else:
            file.unlink(missing_ok=True)
    write(place / MACHINE, (json.dumps(dict(machine), indent=1) + "\n").encode())


def machine_of(environment: Environment | None) -> dict[str, Any]:
    """Return what is told of the machine that recorded; {} where nothing was."""
    if environment is None:
        return {}
    return {
        "cpu": environment.cpu_model, "cores": environment.cores, "kernel": environment.kernel,
        "python": environment.python, "collector": environment.collector,
        "frequency_hz": environment.frequency_hz,
    }  # fmt: skip


def load(place: Path = RESULTS) -> list[Row]:
    """Return all rows, kind by kind; FormatError by name where a file is not what `save` writes."""
    rows = []
    for kind in KINDS:
        file = place / f"{kind}.json"
        if not file.exists():
            continue
        try:
            rows += [row_of(told) for told in json.loads(file.read_text(encoding="utf-8"))]
        except (ValueError, TypeError, KeyError) as error:
            raise FormatError(str(file), f"not results of this bench: {error}") from error
    return rows


def bytecodes(place: Path = RESULTS) -> list[dict[str, Any]]:
    """Return the rows of `bench.power.bytecodes`; [] where there are none."""
    file = place / "bytecodes.json"
    told: list[dict[str, Any]] = json.loads(file.read_text("utf-8")) if file.exists() else []
    return told


def machine(place: Path = RESULTS) -> dict[str, Any]:
    """Return what the results were recorded on; {} where there are none."""
    file = place / MACHINE
    told: dict[str, Any] = json.loads(file.read_text(encoding="utf-8")) if file.exists() else {}
    return told


def remarks(place: Path = RESULTS) -> str:
    """Return what stands beside the goals: by how much one is missed, why, what was tried."""
    file = place / "remarks.md"
    return file.read_text(encoding="utf-8") if file.exists() else ""
