"""Stage 1, edge: the same BPF programs as the eBPF collector's, compiled on the spot by bcc.

For kernels that lack what the committed object needs (Linux 5.8 to 5.16), and to check one loader
against the other. Client, protocol, process and names are those of `ebpf.py`.
"""

import subprocess
import sys
from dataclasses import replace
from functools import lru_cache
from typing import Final

from ci_flame.collect import Obstacle, Session, Target
from ci_flame.collect.ebpf.bcc_object import INSTALL_BCC, INSTALL_HEADERS, package
from ci_flame.collect.ebpf.bcc_source import header_trees, this_release
from ci_flame.collect.ebpf.collector import EbpfCollector, EbpfSession
from ci_flame.collect.machine import Machine
from ci_flame.errors import CollectError
from ci_flame.profile import Mode

START_SECONDS: Final = 60.0
"""It compiles: 3 s of CPU time on a machine that has nothing else to do."""
_IMPORT_SECONDS: Final = 20.0
_LINES: Final = 1


class BccCollector(EbpfCollector):
    """CPU-clock samples as the eBPF collector's, through bcc."""

    name = "bcc"
    event = "cpu-clock"

    def obstacle(self, machine: Machine, *, python: bool) -> Obstacle | None:
        """Return the first of what stops it here, or None."""
        # The same privileges and the same library; but loops are compiled in another way.
        if obstacle := super().obstacle(replace(machine, bpf_loop=True), python=python):
            return obstacle
        found = package()
        if found is None:
            return Obstacle("bcc's Python package is not installed", INSTALL_BCC)
        if not header_trees(this_release()):
            return Obstacle("no kernel headers are installed for bcc", INSTALL_HEADERS)
        if failed := _import_error(str(found.parent)):
            return Obstacle(f"bcc does not load: {failed}", INSTALL_BCC)
        return None

    def start(self, target: Target) -> Session:
        """Attach to a running process; raises CollectError within 60 s if it cannot."""
        if target.modes - {Mode.ON_CPU}:
            others = ", ".join(sorted(target.modes - {Mode.ON_CPU}))
            raise CollectError(
                f"bcc records {Mode.ON_CPU} alone, {others} is wanted", "use `--collector ebpf`"
            )
        return super().start(target)

    def _session(self, target: Target) -> Session:
        # Run queue and block I/O are told "where the collector can": this one cannot.
        return EbpfSession(
            replace(target, machine=False), loader="bcc", start_seconds=START_SECONDS
        )


@lru_cache(maxsize=4)
def _import_error(folder: str) -> str:
    """Return what importing bcc says in a process of its own; empty: it works."""
    code = f"import sys; sys.path.append({folder!r}); import bcc; bcc.BPF"
    try:
        done = subprocess.run(
            [sys.executable, "-I", "-c", code],
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            errors="replace",
            timeout=_IMPORT_SECONDS,
            check=False,
        )
    except (OSError, subprocess.SubprocessError) as error:
        return str(error)
    lines = done.stderr.strip().splitlines() or [f"exit code {done.returncode}"]
    return " / ".join(lines[-_LINES:]) if done.returncode else ""
