"""Results <-> JSON in the repository: one file per kind of comparison, one line per comparison."""

import json
from collections.abc import Iterable
from dataclasses import asdict
from pathlib import Path
from typing import Any, Final

from bench.power.compare import Judged, Row
from bench.power.peers import NAMES
from bench.power.schedule import KINDS
from bench.power.store import write
from ci_flame.errors import FormatError
from ci_flame.profile import Environment

RESULTS: Final = Path(__file__).parent / "results"
MACHINE: Final = "machine.json"


def save(rows: Iterable[Row], machine: Environment | None, place: Path = RESULTS) -> None:
    """Write the rows of each kind; files of kinds that have none are removed."""
    kept = list(rows)
    for kind in KINDS:
        lines = [json.dumps(_plain(row), separators=(",", ":")) for row in kept if row.kind == kind]
        file = place / f"{kind}.json"
        if lines:
            write(file, ("[\n" + ",\n".join(lines) + "\n]\n").encode())
        else:
            file.unlink(missing_ok=True)
    if machine is not None:
        told = {
            "cpu": machine.cpu_model, "cores": machine.cores, "kernel": machine.kernel,
            "python": machine.python, "collector": machine.collector,
            "frequency_hz": machine.frequency_hz,
        }  # fmt: skip
        write(place / MACHINE, (json.dumps(told, indent=1) + "\n").encode())


def _plain(row: Row) -> dict[str, Any]:
    told = asdict(row)
    defaults = {"right": False, "innocent": (), "sentence": ""}
    for name in ("verdicts", "confirmed"):
        told[name] = {
            limit: {k: v for k, v in each.items() if k not in defaults or v != defaults[k]}
            for limit, each in told[name].items()
        }
    told["peers"] = sorted(name for name, fails in row.peers.items() if fails)
    return {key: round(v, 4) if isinstance(v, float) else v for key, v in told.items()}


def load(place: Path = RESULTS) -> list[Row]:
    """Return all rows, kind by kind; FormatError by name where a file is not what `save` writes."""
    rows = []
    for kind in KINDS:
        file = place / f"{kind}.json"
        if not file.exists():
            continue
        try:
            for told in json.loads(file.read_text(encoding="utf-8")):
                told["peers"] = {name: name in told["peers"] for name in NAMES}
                for name in ("verdicts", "confirmed"):
                    told[name] = {
                        limit: Judged(**{**each, "innocent": tuple(each.get("innocent", ()))})
                        for limit, each in told[name].items()
                    }
                rows.append(Row(**told))
        except (ValueError, TypeError, KeyError) as error:
            raise FormatError(str(file), f"not results of this bench: {error}") from error
    return rows


def machine(place: Path = RESULTS) -> dict[str, Any]:
    """Return what the results were recorded on; {} where there are none."""
    file = place / MACHINE
    told: dict[str, Any] = json.loads(file.read_text(encoding="utf-8")) if file.exists() else {}
    return told
