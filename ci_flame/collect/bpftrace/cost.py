"""Stage 1, edge: what a bpftrace and its BPF programs use, by the kernel's own accounts."""

import os
from collections.abc import Iterable
from contextlib import ExitStack, suppress
from pathlib import Path
from typing import Final

from ci_flame.collect import bpf_programs
from ci_flame.errors import CollectError

_TICK_NS: Final = 1_000_000_000 // os.sysconf("SC_CLK_TCK")


class Meter:
    """Counts from its making on; what this user may not ask is left out."""

    def __init__(self, pids: Iterable[int]) -> None:
        self._pids = tuple(pids)
        self._open = ExitStack()
        # Programs that are counted for nobody cost less: only while they are wanted.
        with suppress(CollectError):
            self._open.enter_context(bpf_programs.Counting())
        self._cpu_before = self._cpu_ns()

    def read(self) -> dict[str, float]:
        """Return the metrics of `Recording`; ask while the processes still run."""
        used_ns = float(self._cpu_ns() - self._cpu_before)
        made = {"collector.cpu_ns": used_ns, "collector.window_cpu_ns": used_ns}
        held: set[int] = set()
        for pid in self._pids:
            with suppress(OSError):
                held |= bpf_programs.held_by(Path(f"/proc/{pid}"))
        programs = []
        with suppress(CollectError):
            programs = [each for each in bpf_programs.snapshot().values() if each.id in held]
        for each in programs:
            for what, value in (("ns", each.run_time_ns), ("runs", each.runs)):
                # bpftrace names the program of a timer by its period.
                name = each.type if not each.name or each.name.isdigit() else each.name
                key = f"collector.bpf.{name}.{what}"
                made[key] = made.get(key, 0.0) + value
        if programs:
            made["collector.bpf_ns"] = float(sum(each.run_time_ns for each in programs))
        return made

    def close(self) -> None:
        """Let the kernel stop counting, unless others want it; may be called again."""
        self._open.close()

    def _cpu_ns(self) -> int:
        ticks = 0
        for pid in self._pids:
            with suppress(OSError, ValueError, IndexError):
                told = Path(f"/proc/{pid}/stat").read_text(encoding="utf-8", errors="replace")
                ticks += sum(map(int, told.rpartition(")")[2].split()[11:13]))
        return ticks * _TICK_NS
