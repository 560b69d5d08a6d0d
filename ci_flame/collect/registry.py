"""Stage 1, edge: the collectors by name, and which of them to take here."""

from collections.abc import Mapping
from contextlib import suppress
from types import MappingProxyType
from typing import TYPE_CHECKING, Final

from ci_flame.collect import Collector, Obstacle
from ci_flame.collect.bpftrace.collector import BpftraceCollector
from ci_flame.collect.ebpf.bcc import BccCollector
from ci_flame.collect.ebpf.collector import EbpfCollector
from ci_flame.collect.perf.collector import PerfCollector
from ci_flame.collect.py_spy.collector import PySpyCollector
from ci_flame.collect.replay import ReplayCollector
from ci_flame.errors import CollectError, UsageError

if TYPE_CHECKING:
    from ci_flame.collect.machine import Machine

COLLECTORS: Final[Mapping[str, Collector]] = MappingProxyType(
    {
        "ebpf": EbpfCollector(),
        "bcc": BccCollector(),
        "perf": PerfCollector(),
        "py-spy": PySpyCollector(),
        "bpftrace": BpftraceCollector(),
        "replay": ReplayCollector(),
    }
)
"""In the order of preference; `bpftrace` and `replay` are only taken when asked for by name."""

_AUTOMATIC: Final = ("ebpf", "bcc", "perf", "py-spy")
"""What `auto` tries, in this order; perf refuses Python, py-spy everything else."""
WAITING: Final = frozenset({"ebpf", "replay"})
"""Collectors that tell how long a program waits; the others are refused for `off-cpu`."""


def choose(
    machine: "Machine",
    *,
    python: bool,
    wanted: str = "auto",
    waits: bool = False,
    event: str = "cpu-clock",
    call_graph: str = "fp",
) -> Collector:
    """Return the collector to use here; raise CollectError with each one's obstacle and cure.

    `waits`: an off-CPU profile is wanted. `event` and `call_graph` other than these are perf's.
    """
    asked = (event, call_graph) != ("cpu-clock", "fp")
    names: tuple[str, ...] = (wanted,)
    if wanted == "auto":
        names = ("perf",) if asked else _AUTOMATIC
    if wanted != "auto" and wanted not in COLLECTORS:
        known = ", ".join(("auto", *COLLECTORS))
        raise UsageError(f"no collector is called {wanted!r}", f"known are: {known}")
    obstacles: list[tuple[str, Obstacle]] = []
    for name in names:
        if name not in COLLECTORS:
            continue
        collector = COLLECTORS[name]
        if asked and isinstance(collector, PerfCollector):
            collector = PerfCollector(event, call_graph)
        obstacle = collector.obstacle(machine, python=python)
        if asked and not isinstance(collector, PerfCollector):
            reason = f"it samples the CPU clock, not {event} with call graph {call_graph}"
            obstacle = Obstacle(reason, "leave --event and --call-graph to --collector perf")
        if waits and name not in WAITING:
            able = " or ".join(sorted(WAITING - {"replay"}))
            # Where the able ones were tried as well, their own cures are told.
            cure = "" if WAITING.intersection(names) else f"use collector {able}"
            obstacle = Obstacle("does not see waiting (off-cpu)", cure)
        if obstacle is None:
            return collector
        obstacles.append((name, obstacle))
    # bcc cannot load either what the kernel refuses to ebpf: that is said once.
    first = {obstacle.reason: name for name, obstacle in reversed(obstacles)}
    reasons = "; ".join(f"{name}: {reason}" for reason, name in reversed(first.items()))
    cures = "; or ".join(dict.fromkeys(each.cure for _, each in obstacles if each.cure))
    what = "a Python benchmark" if python else "a command"
    raise CollectError(f"no collector can record {what} here: {reasons}", cures)


def choose_whole_stacks(
    machine: "Machine", *, python: bool, wanted: str = "auto", waits: bool = False, **asked: str
) -> Collector:
    """Choose as `choose` does, but of `auto` take perf first for what is not Python.

    For commands and for what runs already: perf sees whole native stacks, the others their leaf.
    """
    if wanted == "auto" and not python:
        with suppress(CollectError, UsageError):
            return choose(machine, python=False, wanted="perf", waits=waits, **asked)
    return choose(machine, python=python, wanted=wanted, waits=waits, **asked)
