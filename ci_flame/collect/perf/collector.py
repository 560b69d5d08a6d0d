"""Stage 1, edge: the perf collector, for commands that are not Python.

    perf record -p PID -e cpu-clock -g      attached before the command's first instruction
    session                                 switched by its control FIFO, windows cut by time
    read                                    perf.data -> samples by phase, named

It needs no BPF and, for user code alone, no privileges. It sees whole native stacks (by
frame pointers, or by call frame information) but no Python frames, so that a Python target
is refused. One perf serves all windows and benchmarks of a session, children included.
"""

import time
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from tempfile import TemporaryDirectory
from types import MappingProxyType
from typing import TYPE_CHECKING, Final

from ci_flame.collect import Obstacle, Recording, Session, Target
from ci_flame.collect.perf import events
from ci_flame.collect.perf.maps import MapKeeper
from ci_flame.collect.perf.session import PerfProcess, Settings, Windows
from ci_flame.config.sampling import DEFAULT_EVENT, stack_bytes
from ci_flame.errors import CollectError, FormatError, UnrecognisedError
from ci_flame.profile import Mode

if TYPE_CHECKING:
    from ci_flame.collect.machine import Machine
    from ci_flame.collect.perf.read import Gathered

FREQUENCY_HZ: Final = range(1, 20_001)
_PAGES: Final = (0, 32, 4)
"""Buffer sizes that are tried: as perf chooses, then less, where a user may lock little memory."""
_NO_ROOM: Final = "mlock_kb"
"""What perf names where its buffers may not be locked."""
_INSTALL: Final = "sudo apt-get install linux-perf (Debian) or linux-tools-generic (Ubuntu)"
_PARANOID: Final = "sudo sysctl kernel.perf_event_paranoid=1"


@dataclass(frozen=True, slots=True)
class PerfCollector:
    """`perf record` attached to a process tree."""

    wanted: str = DEFAULT_EVENT
    """As `--event` names it."""
    call_graph: str = "fp"
    """`fp`, `dwarf` or `dwarf,BYTES`."""

    @property
    def name(self) -> str:
        """As the registry has it."""
        return "perf"

    @property
    def event(self) -> str:
        """`cpu-clock`; `cpu-clock:u` where this user may not look into the kernel.

        Stacks by call frame information are not those by frame pointers: `cpu-clock/dwarf`.
        """
        asked = str(events.allowed(events.parse(self.wanted)))
        return f"{asked}/dwarf" if stack_bytes(self.call_graph) else asked

    def obstacle(self, machine: "Machine", *, python: bool) -> Obstacle | None:
        """Return what stops perf here for such a target, or None."""
        if machine.system != "Linux":
            return Obstacle(f"perf is Linux's, this is {machine.system}", "record on Linux")
        if python:
            return _no_python()
        if not machine.perf:
            return Obstacle("no perf program that works is installed", _INSTALL)
        if machine.perf_event_error:
            return Obstacle(
                f"perf events cannot be opened ({machine.perf_event_error},"
                f" kernel.perf_event_paranoid is {machine.perf_event_paranoid})",
                _PARANOID,
            )
        if stack_bytes(self.call_graph) and machine.architecture != "x86_64":
            return Obstacle(
                f"stacks are unwound by DWARF on x86-64 only, this is {machine.architecture}",
                "record with --call-graph fp",
            )
        found = events.trouble(events.allowed(events.parse(self.wanted)))
        return Obstacle(found.reason, found.cure) if found else None

    def start(self, target: Target) -> Session:
        """Attach to a process and all that it will start; CollectError within 20 s if not."""
        self._check(target)
        wanted = Settings(
            events.allowed(events.parse(self.wanted)),
            target.frequency_hz,
            stack_bytes(self.call_graph),
        )
        failures: list[str] = []
        for program in _programs():
            for pages in _PAGES:
                settings = replace(wanted, mapped_pages=pages)
                process = PerfProcess(program, _living(target), settings)
                try:
                    process.start()
                except CollectError as error:
                    process.close()
                    if _NO_ROOM in error.message and pages != _PAGES[-1]:
                        continue
                    failures.append(f"{program}: {error.message}")
                    break
                except BaseException:
                    process.close()
                    raise
                return PerfSession(process, target, settings)
        raise CollectError(
            "perf record could not start: " + ("; ".join(failures) or "no perf program"),
            _PARANOID if failures else _INSTALL,
        )

    def _check(self, target: Target) -> None:
        if target.python:
            obstacle = _no_python()
            raise CollectError(obstacle.reason, obstacle.cure)
        if other := sorted(mode.value for mode in target.modes if mode is not Mode.ON_CPU):
            raise CollectError(
                f"perf records on-cpu profiles, not {', '.join(other)}",
                "record with the ebpf collector",
            )
        if target.frequency_hz not in FREQUENCY_HZ:
            raise CollectError(
                f"{target.frequency_hz} Hz; perf samples at {FREQUENCY_HZ[0]} to"
                f" {FREQUENCY_HZ[-1]} Hz here"
            )


def _no_python() -> Obstacle:
    return Obstacle(
        "perf sees no Python frames",
        "let the ebpf collector record it: `ci-flame doctor` says what it needs here",
    )


def _programs() -> tuple[str, ...]:
    # Imported here, as `collect.machine` imports the registry that this file is in.
    from ci_flame.collect.machine import perf_paths  # noqa: PLC0415

    return perf_paths()


def _living(target: Target) -> tuple[int, ...]:
    """Return the processes to attach to: perf refuses all where one has ended."""
    others = (pid for pid in target.pids if Path(f"/proc/{pid}").is_dir())
    return tuple(dict.fromkeys((target.pid, *others)))


class PerfSession:
    """One perf record that serves any number of windows."""

    def __init__(self, process: PerfProcess, target: Target, settings: Settings) -> None:
        self._process = process
        self._target = target
        self._settings = settings
        self._windows = Windows()
        self._lost = self._cpu_ns = 0
        self._maps = MapKeeper((target.pid, *target.pids))
        self._maps.start()

    def set_phase(self, phase: int) -> None:
        """Stamp the moment. The first window after a read lets perf begin to count.

        That takes 0.1 to 10 ms, before the window; all others cost a microsecond.
        """
        if phase:
            self._process.enable()
        self._windows.switch(phase, time.monotonic_ns())

    def read(self, module_files: Mapping[str, str] | None = None) -> Recording:
        """Return what was sampled in the windows since the last read; perf stays, disabled."""
        del module_files  # of Python code only
        windows, self._windows = self._windows, Windows()
        if not any(windows.phases):
            return Recording({}, self._settings.period_ns, {})
        self._process.flush()
        cpu_ns, self._cpu_ns = self._process.cpu_ns - self._cpu_ns, self._process.cpu_ns
        start = time.process_time()
        gathered = self._gather(windows)
        lost, self._lost = gathered.lost - self._lost, gathered.lost
        return Recording(
            samples=gathered.samples,
            period_ns=self._settings.period_ns,
            places={},
            lost=lost,
            truncated=gathered.truncated,
            metrics=MappingProxyType(
                {
                    "collector.cpu_ns": float(cpu_ns),
                    "collector.window_cpu_ns": float(self._process.window_cpu_ns),
                    "collector.read_s": round(time.process_time() - start, 3),
                }
            ),
            notes=self._maps.refused,
        )

    def _gather(self, windows: Windows) -> "Gathered":
        # Heavy, and measured processes import this package.
        from ci_flame.collect.perf import read as perf_read  # noqa: PLC0415

        try:
            data = perf_read.read(self._process.open_data(), "perf.data")
            with TemporaryDirectory(prefix="ci-flame-maps-") as folder:
                maps = self._maps.keep(perf_read.processes(data), Path(folder))
                names = perf_read.resolver(data, maps)
                return perf_read.gather(data, windows, names, launched=self._target.pid)
        except OSError as error:
            raise CollectError(f"maps of JIT compilers cannot be copied: {error}") from error
        except (FormatError, UnrecognisedError) as error:
            raise CollectError(
                f"what perf record wrote cannot be read: {error.message}",
                "record again; `perf report` may tell more of what this perf writes",
            ) from error

    def close(self) -> None:
        """End perf, by force if need be, and remove its files; never raises."""
        self._maps.close()
        self._process.close()
