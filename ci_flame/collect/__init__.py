"""Stage 1, edge: a benchmark runs under a collector, a recording comes back.

A collector is started once per measured process tree. Its `Session` gives the measured
process a phase word (a store switches the window) and hands over what was sampled.
"""

import importlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, Final, Protocol

from ci_flame.profile import Frame, Histogram, Mode, Place, Stack, Weight

if TYPE_CHECKING:
    from ci_flame.collect.machine import Machine
    from ci_flame.collect.registry import COLLECTORS, WAITING, choose, choose_whole_stacks

__all__ = [
    "COLLECTORS",
    "PHASE_NONE",
    "WAITING",
    "Collector",
    "Obstacle",
    "Recording",
    "Session",
    "Target",
    "choose",
    "choose_whole_stacks",
]

PHASE_NONE: Final = 0
"""The phase word outside every window; samples there are not kept."""


@dataclass(frozen=True, slots=True)
class Obstacle:
    """Why a collector cannot run here, and the cure."""

    reason: str
    cure: str


@dataclass(frozen=True, slots=True)
class Target:
    """What is to be sampled."""

    pid: int
    """Process whose whole tree is sampled, in the caller's PID namespace."""
    python: bool
    """True: Python frames are wanted; a collector that cannot see them must refuse."""
    frequency_hz: int = 1999
    module_files: Mapping[str, str] = field(default_factory=lambda: MappingProxyType({}))
    """File of code -> dotted module, where the target knows better than its path tells."""
    roots: Sequence[str] = ()
    """Folders (project, sys.path) that file names are made relative to; the project's first."""
    modes: frozenset[Mode] = frozenset({Mode.ON_CPU})
    """Profiles that are wanted; a collector that cannot take one must refuse it by name."""
    machine: bool = False
    """True: run-queue and block I/O latency are wanted too, where the collector can tell them."""
    pids: Sequence[int] = ()
    """Further processes that run already and are sampled with their trees: the descendants of a
    live `pid`, or the members of a cgroup; those that have ended meanwhile are left out."""


@dataclass(frozen=True, slots=True)
class Recording:
    """What was sampled since the last read, by phase; names resolved, nothing trimmed yet."""

    samples: Mapping[int, Mapping[Stack, int]]
    """Phase -> stack -> number of samples; phase 0 is left out."""
    period_ns: int
    """What one sample stands for."""
    places: Mapping[Frame, Place]
    mode: Mode = Mode.ON_CPU
    lost: int = 0
    truncated: Mapping[int, int] = field(default_factory=lambda: MappingProxyType({}))
    """Phase -> samples whose outermost frames did not fit."""
    no_python: Mapping[int, int] = field(default_factory=lambda: MappingProxyType({}))
    """Phase -> samples of a Python process that carry no Python frame."""
    off_cpu: Mapping[int, Mapping[Stack, Weight]] = field(
        default_factory=lambda: MappingProxyType({})
    )
    """Phase -> stack -> number of waits and the ns they lasted; the leaf is the reason as a mark:
    `[sleep]`, `[lock]`, `[disk]`, `[run queue]`, `[wait]`."""
    histograms: Mapping[str, Histogram] = field(default_factory=lambda: MappingProxyType({}))
    """Latencies inside the windows, as in `profile.Process.histograms`."""
    metrics: Mapping[str, float] = field(default_factory=lambda: MappingProxyType({}))
    """The collector's own cost: `collector.bpf_ns`, `collector.cpu_ns`, `collector.events`."""
    notes: tuple[str, ...] = ()
    """What the user must know of this recording, one sentence each: names that are missing."""


class Session(Protocol):
    """A running collector."""

    def set_phase(self, phase: int) -> None:
        """Switch the window: one store, no system call. Phases count up from 1."""

    def read(self, module_files: Mapping[str, str] | None = None) -> Recording:
        """Return what was sampled since the last read; call it with the phase at 0."""

    def close(self) -> None:
        """End the collector; never raises, never waits longer than 10 s."""


class Collector(Protocol):
    """One way to sample a process tree."""

    @property
    def name(self) -> str:
        """What configuration and runs call it."""

    @property
    def event(self) -> str:
        """What one sample is an occurrence of; runs of different events are not compared."""

    def obstacle(self, machine: "Machine", *, python: bool) -> Obstacle | None:
        """Return what stops this collector here for such a target, or None."""

    def start(self, target: Target) -> Session:
        """Attach to a running process; raises CollectError within 20 s if it cannot."""


_REGISTRY: Final = ("COLLECTORS", "WAITING", "choose", "choose_whole_stacks")


def __getattr__(name: str) -> Any:  # noqa: ANN401 - as typed above
    """Load all the collectors when the registry is asked for.

    Not before: the collector process is one of them, has to be ready at once and to stay small.
    """
    if name not in _REGISTRY:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module("ci_flame.collect.registry"), name)
