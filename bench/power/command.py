"""The command line of the bench."""

import argparse
import os
import shutil
import sys
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

from bench.power import compare, draw, page, record, results, schedule
from bench.power.schedule import Unit
from bench.power.store import CAMPAIGN, RECORDINGS, ROOT, Store, write
from ci_flame.errors import CiFlameError

PAGE = ROOT / "docs" / "power.md"
PICTURE = ROOT / "docs" / "power.png"
QUICK = RECORDINGS.with_name(".recordings-quick")
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
    made.add_argument(
        "--kind", action="append", default=[], choices=tuple(schedule.KINDS),
        help="record only units of this kind; may be given several times",
    )  # fmt: skip
    made.add_argument(
        "--condition", action="append", default=[], choices=schedule.CONDITIONS,
        help="record only units of this condition: what runs beside the hog wants both CPUs",
    )  # fmt: skip
    made.add_argument(
        "--share", type=_share, default=schedule.WHOLE, metavar="K/N",
        help="record only every N-th of these units, from the K-th on: several may record at once",
    )  # fmt: skip
    made.add_argument("--recordings", type=Path, help=f"folder of the campaign ({RECORDINGS})")
    made.add_argument(
        "--results", type=Path, default=results.RESULTS,
        help="folder of the results; docs/power.md is written from the project's own",
    )  # fmt: skip
    made.add_argument(
        "--quick", action="store_true", help="two short units, printed, not published"
    )
    made.add_argument(
        "--busy", type=float, help="part of a round that others may have, 0 to 1 (0.2); 1: all"
    )
    made.add_argument("--workers", type=int, default=max(1, (os.cpu_count() or 2) - 1))
    return made


def _share(text: str) -> schedule.Share:
    try:
        return schedule.Share.parse(text)
    except ValueError as error:
        raise argparse.ArgumentTypeError(str(error)) from None


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
    store = Store(told.recordings or (QUICK if told.quick else RECORDINGS), told.busy)
    if told.what in {"all", "record"}:
        if told.quick:
            _begin_anew(store)
        made = schedule.quick() if told.quick else None
        hours = min(told.hours, QUICK_HOURS) if told.quick else told.hours
        part = schedule.Part(told.kind, told.condition)
        record.record(store, hours, units=told.units, made=made, part=part, share=told.share)
    if told.what == "record":
        return
    if told.what == "report":
        rows, machine = results.load(told.results), results.machine(told.results)
    else:
        units = list(schedule.quick() if told.quick else _recorded(store))
        rows = compare.compare(store, iter(units), told.workers)
        machine = results.machine_of(compare.machine(store, units))
    if not rows:
        raise CiFlameError(
            "there is nothing to report: no unit is recorded whole",
            "record longer: python -m bench.power record --hours 1",
        )
    counted = [] if told.quick else results.bytecodes(told.results)
    print(page.text(rows, machine, counted))
    if told.quick:
        return
    if told.what != "report":
        results.save(rows, machine, told.results)
        print(f"\nresults: {told.results}")
    if told.what != "compare" and told.results == results.RESULTS:
        draw.curves(rows, PICTURE)
        write(PAGE, page.page(rows, machine, counted, results.remarks()).encode())
        print(f"\n{PAGE.relative_to(ROOT)} and {PICTURE.relative_to(ROOT)} are written")


def _begin_anew(store: Store) -> None:
    """Empty the folder of the smoke version, unless an interrupted one can go on."""
    with store.locked(agree=False):
        with suppress(CiFlameError):
            store.agree()
            if not all(store.complete(unit) for unit in schedule.quick()):
                return
        (store.place / CAMPAIGN).unlink(missing_ok=True)
        shutil.rmtree(store.place / "units", ignore_errors=True)


def _recorded(store: Store) -> Iterator[Unit]:
    """Yield the units of the schedule up to the last of which anything is recorded."""
    numbers = [int(each.name) for each in store.place.glob("units/[0-9]*")]
    last = max(numbers, default=-1)
    for unit in schedule.units():
        if unit.number > last:
            return
        yield unit
