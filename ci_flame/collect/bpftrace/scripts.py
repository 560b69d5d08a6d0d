"""Stage 1, edge: the project's own programs for bpftrace, beside each benchmark's process.

    begin(scripts, pid) -> Beside      all attached, before the first window opens
    .read() -> metrics                 `bpftrace.switches.@[bash]`, after the last one closed

They see the whole machine, as any program of bpftrace does, unless they filter by `{pid}`.
"""

import shutil
import tempfile
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Final

from ci_flame.collect.bpftrace import process as bpftrace_process
from ci_flame.collect.bpftrace.process import Program
from ci_flame.config.scripts import PID, Script
from ci_flame.errors import CollectError
from ci_flame.formats import bpftrace

PREFIX: Final = "bpftrace"
_CURE: Final = "mend the program, or take it out of `bpftrace: scripts:`"


class Beside:
    """Programs at work beside one process."""

    def __init__(self, scripts: Sequence[Script], pid: int) -> None:
        self._scripts = tuple(scripts)
        self._folder = Path(tempfile.mkdtemp(prefix="ci-flame-scripts-"))
        self._programs: list[Program] = []
        self._pid = pid

    def start(self) -> None:
        """Start all of them; CollectError names the one that could not, and why."""
        for script in self._scripts:
            file = self._folder / f"{script.name}.bt"
            file.write_text(script.program, encoding="utf-8")
            words = [word.replace(PID, str(self._pid)) for word in script.arguments]
            program = Program(f"bpftrace script {script.name}", file, words)
            program.shown = script.place
            self._programs.append(program)
        try:
            # They compile side by side: each takes a good part of a second.
            for program in self._programs:
                program.launch()
            deadline = time.monotonic() + bpftrace_process.START_SECONDS
            waiting = self._programs
            while waiting := [each for each in waiting if not each.is_attached(deadline)]:
                time.sleep(bpftrace_process.POLL_SECONDS)
            time.sleep(bpftrace_process.SETTLE_SECONDS)
        except CollectError as error:
            error.hint = error.hint or _CURE
            raise

    def read(self) -> dict[str, float]:
        """End them and return their maps as metrics; CollectError names one that was lost."""
        found: dict[str, float] = {}
        now = time.monotonic()
        for program in self._programs:
            program.ask()
        for script, program in zip(self._scripts, self._programs, strict=True):
            seconds = now - program.attached if program.attached else 0.0
            output = program.finish()
            name = f"{PREFIX}.{script.name}"
            metrics, left_out = bpftrace.metrics(output, name, script.keys)
            found |= _rates(metrics, seconds) if script.per_second and seconds else metrics
            found[f"{name}.seconds"] = round(seconds, 3)
            if left_out:
                found[f"{name}.keys_left_out"] = float(left_out)
            if full := sum(len(each.entries) >= bpftrace_process.MAX_KEYS for each in output.maps):
                found[f"{name}.full_maps"] = float(full)
            if output.lost:
                found[f"{name}.lost_events"] = float(output.lost)
        return found

    def close(self) -> None:
        """End them, by force if need be, and remove their files; never raises."""
        for program in self._programs:
            program.close()
        shutil.rmtree(self._folder, ignore_errors=True)


def _rates(metrics: Mapping[str, float], seconds: float) -> dict[str, float]:
    """Return what counts divided by the seconds; percentiles and means as they are."""
    kept = (".p50", ".p99", ".avg")
    return {
        name: value if name.endswith(kept) else value / seconds for name, value in metrics.items()
    }


def begin(scripts: Sequence[Script], pid: int) -> Beside | None:
    """Start the programs beside a process; None where there are none."""
    if not scripts:
        return None
    beside = Beside(scripts, pid)
    try:
        beside.start()
    except BaseException:
        beside.close()
        raise
    return beside


def check(scripts: Sequence[Script], pid: int) -> None:
    """Attach the programs once, so that one that cannot is told before anything is recorded."""
    beside = begin(scripts, pid)
    if beside is not None:
        beside.close()
