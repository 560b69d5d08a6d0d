"""The command line of the bench."""

import argparse
import os
import sys
from collections.abc import Iterator
from pathlib import Path

from bench.power import compare, draw, record, report, results, schedule
from bench.power.schedule import Unit
from bench.power.store import RECORDINGS, ROOT, Store
from ci_flame.errors import CiFlameError

PAGE = ROOT / "docs" / "power.md"
PICTURE = ROOT / "docs" / "power.png"
QUICK_HOURS = 4 / 60
"""And half a minute to judge."""


def parser() -> argparse.ArgumentParser:
    """Return the parser of `python -m bench.power`."""
    made = argparse.ArgumentParser(prog="python -m bench.power", description=__doc__)
    made.add_argument(
        "what", nargs="?", default="all", choices=("all", "record", "compare", "report"),
        help="all of them in this order, if none is named",
    )  # fmt: skip
    made.add_argument("--hours", type=float, default=24.0, help="stop recording after these (24)")
    made.add_argument("--units", type=int, help="record so many units (a whole campaign)")
    made.add_argument("--recordings", type=Path, default=RECORDINGS, help="folder of the campaign")
    made.add_argument(
        "--quick", action="store_true", help="two short units, printed, not published"
    )
    made.add_argument("--workers", type=int, default=max(1, (os.cpu_count() or 2) - 1))
    return made


def main(arguments: list[str] | None = None) -> int:
    """Run what is asked for; returns the exit code."""
    told = parser().parse_args(arguments)
    try:
        _run(told)
    except CiFlameError as error:
        print(f"power: {error}", file=sys.stderr)
        return error.exit_code
    except KeyboardInterrupt:
        print("power: stopped; the same command goes on from here", file=sys.stderr)
        return 130
    return 0


def _run(told: argparse.Namespace) -> None:
    place = told.recordings
    if told.quick and place == RECORDINGS:
        place = RECORDINGS.with_name(".recordings-quick")
    store = Store(place)
    if told.what in {"all", "record"}:
        made = schedule.quick() if told.quick else None
        hours = min(told.hours, QUICK_HOURS) if told.quick else told.hours
        record.record(store, hours, units=told.units, made=made)
    published = None if told.quick else results.RESULTS
    rows = []
    if told.what in {"all", "compare"}:
        made = schedule.quick() if told.quick else _recorded(store)
        rows = compare.compare(store, made, told.workers)
        if published is not None and rows:
            results.save(rows, compare.machine(store), published)
    elif told.what == "report" and published is not None:
        rows = results.load(published)
    if told.what == "record":
        return
    if not rows:
        raise CiFlameError(
            "there is nothing to report: no unit is recorded whole",
            "record longer: python -m bench.power record --hours 1",
        )
    machine = results.machine(published) if published is not None else {}
    print(report.text(rows, machine))
    if published is not None and told.what in {"all", "report"}:
        draw.curves(rows, PICTURE)
        PAGE.write_text(report.page(rows, machine), encoding="utf-8")
        print(f"\n{PAGE.relative_to(ROOT)} and {PICTURE.relative_to(ROOT)} are written")


def _recorded(store: Store) -> Iterator[Unit]:
    """Yield the units of the schedule up to the last of which anything is recorded."""
    numbers = [int(each.name) for each in store.place.glob("units/[0-9]*")]
    last = max(numbers, default=-1)
    for unit in schedule.units():
        if unit.number > last:
            return
        yield unit
