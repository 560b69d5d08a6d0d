"""Record what is missing of a campaign, until the hours are over; safe to stop at any moment."""

import json
import os
import signal
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from itertools import islice
from typing import Final

from bench.power import schedule
from bench.power.compare import unconfirmed
from bench.power.process import SUITE, process
from bench.power.schedule import ALL, WHOLE, Part, Share, Task, Unit
from bench.power.store import Store, write
from ci_flame.baseline import git
from ci_flame.errors import CiFlameError

_ATTEMPTS: Final = 3


@dataclass(slots=True)
class Progress:
    """What `record` says while it works."""

    deadline: float
    """Of time.monotonic."""
    left_s: float = 0.0
    """What is missing would take so long on a quiet machine."""
    took_s: float = 0.0
    expected_s: float = 0.0
    """Of what was recorded: how long it took, and would have taken on a quiet machine."""
    recorded: int = 0
    failed: int = 0

    def add(self, task: Task, took_s: float, workloads: int) -> None:
        """Count a process that was recorded."""
        expected_s = schedule.expected_s(task.unit, workloads)
        self.recorded += 1
        self.took_s += took_s
        self.expected_s += expected_s
        self.left_s = max(0.0, self.left_s - expected_s)

    def line(self, task: Task, took_s: float) -> str:
        """Return one line on a task that was recorded."""
        unit = task.unit
        missing = duration(self.left_s * self.took_s / self.expected_s)
        return (
            f"{datetime.now(UTC):%H:%M:%S} unit {unit.number} ({unit.kind} {unit.nth},"
            f" {unit.seconds:g} s, {unit.condition}, {unit.mode}) {task.name}: {took_s:.0f} s;"
            f" {self.recorded} recorded, {self.failed} failed, about {missing} missing"
        )


def duration(seconds: float) -> str:
    """Return `3 min` or `7.5 h`."""
    return f"{seconds / 60:.0f} min" if seconds < 5400 else f"{seconds / 3600:.1f} h"  # noqa: PLR2004


def record(
    store: Store,
    hours: float,
    *,
    units: int | None = None,
    made: Iterator[Unit] | None = None,
    part: Part = ALL,
    share: Share = WHOLE,
    say: bool = True,
) -> Progress:
    """Record the campaign's missing processes, in the order of the schedule.

    `units` ends it after so many (None: a whole campaign), `made` replaces the schedule. Of these
    only the `part` is recorded, and of that only the `share`: recorders of other shares of the
    same part may work at the same time, each the others' load. A process that fails is tried
    again up to three times, then left out with its unit.
    """
    count = schedule.campaign() if units is None else units
    wanted = list(share.of_units(part.of_units(islice(made or schedule.units(), count))))
    progress = Progress(time.monotonic() + hours * 3600)
    with store.locked(share.lock), _ended_by_sigterm():
        missing = [task for task in schedule.tasks(iter(wanted)) if not store.has(task)]
        progress.left_s = sum(schedule.expected_s(task.unit) for task in missing)
        if say:
            told = f"about {duration(progress.left_s)} on a quiet machine"
            print(f"{len(wanted)} units, {len(missing)} processes missing: {told}", flush=True)
            print(f"recordings: {store.place}", flush=True)
        for task in schedule.tasks(iter(wanted)):
            if not _one(store, task, progress, say=say):
                return progress
            if not _confirm(store, task, progress, say=say):
                return progress
    return progress


def _one(
    store: Store, task: Task, progress: Progress, *, say: bool, only: tuple[str, ...] = ()
) -> bool:
    """Record a task unless it is; False: the time is over."""
    log = store.file(task.unit, f"{task.name}.failed.json")
    while not store.has(task):
        if time.monotonic() >= progress.deadline:
            return False
        failures = json.loads(log.read_text(encoding="utf-8")) if log.exists() else []
        if len(failures) >= _ATTEMPTS:
            return True
        store.agree()
        start = time.monotonic()
        told = {
            "began": f"{datetime.now(UTC):%Y-%m-%dT%H:%M:%SZ}",
            "load": os.getloadavg()[0],
            "commit": git.state(SUITE).commit,
        }
        try:
            run = process(task, store.place, busy=store.busy, only=only)
            took_s = time.monotonic() - start
            store.put(task, run, {**told, "took_s": round(took_s, 2)})
        except (CiFlameError, OSError) as error:
            progress.failed += 1
            write(log, json.dumps([*failures, str(error)]).encode())
            print(
                f"unit {task.unit.number} {task.name} failed: {error}", file=sys.stderr, flush=True
            )
            continue
        progress.add(task, took_s, len(only or task.unit.variants))
        if say:
            print(progress.line(task, took_s), flush=True)
    return True


def _confirm(store: Store, last: Task, progress: Progress, *, say: bool) -> bool:
    """Record once more what failed on the same code, as the plugin does; False: time is over."""
    if last.unit.kind != "same":
        return True
    try:
        again = unconfirmed(store, last.unit)
    except CiFlameError as error:
        print(f"unit {last.unit.number} cannot be judged: {error}", file=sys.stderr, flush=True)
        return True
    for workload in again:
        for task in schedule.confirming(last.unit, workload):
            if not _one(store, task, progress, say=say, only=(workload,)):
                return False
    return True


@contextmanager
def _ended_by_sigterm() -> Iterator[None]:
    """Let SIGTERM end the campaign as Ctrl-C does: the process that records is ended, too."""
    before = signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)
