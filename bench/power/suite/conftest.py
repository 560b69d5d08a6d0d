"""Record all workloads in one process: its start is paid once, not per benchmark.

ci_flame starts a process per benchmark, which writes its run where its parent reads it. Here the
run of each is put aside as soon as it is written, and in the end all of them are one run.
"""

import os
from collections.abc import Generator
from dataclasses import replace
from pathlib import Path

import pytest

from ci_flame.baseline import folder
from ci_flame.record.processes import CHILD_VARIABLE


def _place() -> Path | None:
    name = os.environ.get(CHILD_VARIABLE)
    return Path(name) if name else None


@pytest.hookimpl(wrapper=True)
def pytest_runtest_protocol(item: pytest.Item) -> Generator[None, object, object]:
    """Put the run of this benchmark aside."""
    done = yield
    place = _place()
    if place is not None and (place / "run").is_dir():
        aside = place / "parts" / f"{len(list(place.glob('parts/*'))):03}"
        aside.parent.mkdir(exist_ok=True)
        (place / "run").rename(aside)
    del item
    return done


def pytest_sessionfinish() -> None:
    """Write one run that holds all of them."""
    place = _place()
    parts = sorted(place.glob("parts/*")) if place is not None else []
    if place is not None and parts:
        runs = [folder.load(each) for each in parts]
        whole = tuple(measurement for run in runs for measurement in run.measurements)
        folder.save(replace(runs[0], measurements=whole), place / "run")
