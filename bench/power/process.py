"""One process of all workloads, recorded as a user's further process is; beside a hog if asked."""

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final

from bench.power import schedule
from bench.power.schedule import Task
from bench.power.store import write
from ci_flame.config import RecordConfig
from ci_flame.profile import Run
from ci_flame.record import processes

SUITE: Final = Path(__file__).parent / "suite"
_PLAN: Final = "CI_FLAME_POWER_PLAN"
_HOG: Final = "import os\nwhile os.getppid() == {parent}:\n    for _ in range(1_000_000): pass\n"
"""It ends with its parent, whatever ended that."""


def process(
    task: Task, place: Path, *, busy: float | None = None, only: tuple[str, ...] = ()
) -> Run:
    """Record one process of all workloads (or `only` some), as a user's further process is.

    Raises ChildError with its last lines.
    """
    after = task.side.endswith("after")
    plan = {
        name: variant.counts(name)[after]
        for name, variant in task.unit.variants.items()
        if not only or name in only
    }
    # Each recorder has its own. All are as long: that is part of where the stack lies.
    file = place / f"plan-{os.getpid():010}.json"
    write(file, json.dumps(plan).encode())
    os.environ[_PLAN] = str(file)
    # Whatever plugins the project's own tests use take start-up time, and no part in this.
    os.environ["PYTEST_DISABLE_PLUGIN_AUTOLOAD"] = "1"
    invocation = processes.Invocation(
        arguments=(),
        positionals=(),
        folder=str(SUITE),
        root=str(SUITE),
        ini=str(SUITE / "pytest.ini"),
        extra=("-p", "ci_flame.pytest_plugin", "-p", "no:cacheprovider"),
    )
    config = RecordConfig(seconds=task.unit.seconds, busy=busy)
    seconds = schedule.expected_s(task.unit, len(plan))
    try:
        with hog(wanted=task.hog):
            return processes.run(
                invocation,
                "bench_power.py",
                SUITE / "bench_power.py",
                config,
                timeout_s=60 + 15 * seconds,
            )
    finally:
        file.unlink(missing_ok=True)


@contextmanager
def hog(*, wanted: bool) -> Iterator[None]:
    """Run a CPU hog meanwhile."""
    if not wanted:
        yield
        return
    code = _HOG.format(parent=os.getpid())
    spinning = subprocess.Popen([sys.executable, "-S", "-c", code], stdin=subprocess.DEVNULL)
    try:
        yield
    finally:
        spinning.kill()
        spinning.wait(10)
