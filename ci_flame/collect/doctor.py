"""Stage 1, edge: what each collector can do here, found by recording with it.

    ebpf    yes   Python, native leaf, kernel    812 samples of a small program
    perf    no    why, and the cure

A collector whose obstacle is None is started on a small program that computes in Python, in a C
library and in the kernel, and sleeps; what the recording shows is what it sees. Half a second
each, and no longer than a collector may take to start and to read.
"""

import contextlib
import os
import subprocess
import sys
import time
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Final

from ci_flame.collect import COLLECTORS, Collector, Recording, Target
from ci_flame.collect.machine import Machine
from ci_flame.errors import CiFlameError, CollectError
from ci_flame.profile import BIASES, Kind, Mode

ORDER: Final = ("ebpf", "bcc", "bpftrace", "perf", "py-spy", "replay")
"""Of the table; what is registered and not named here comes after them."""
WITHOUT_PYTHON: Final = frozenset({"perf", "bpftrace"})
"""Collectors whose obstacles are asked for commands: Python is nothing that they are for."""
SECONDS: Final = 0.5
_READY_SECONDS: Final = 20.0
_PROGRAM: Final = """
import hashlib, sys, threading, time
def ci_flame_doctor():
    block = bytes(1 << 18)
    zeros = open("/dev/zero", "rb", buffering=0)
    sum(number * number for number in range(5000))
    for _ in range(4):
        hashlib.sha256(block).digest()
        zeros.read(1 << 21)
    time.sleep(0.002)
def leave():
    sys.stdin.read()
    import os
    os._exit(0)
threading.Thread(target=leave, daemon=True).start()
print(flush=True)
end = time.monotonic() + 120
while time.monotonic() < end:
    ci_flame_doctor()
"""
"""It ends with whoever holds its standard input, or after two minutes."""


@dataclass(frozen=True, slots=True)
class Examined:
    """One collector on this machine."""

    name: str
    works: bool
    python: bool
    """Python benchmarks can be recorded with it."""
    commands: bool
    """Other commands can."""
    sees: tuple[str, ...] = ()
    """Of `Python`, `native leaf` or `native`, `kernel`, `off-CPU`: what the trial showed."""
    samples: int = 0
    """Of the trial."""
    reason: str = ""
    """Why it does not work, on one line."""
    cure: str = ""
    bias: str = ""

    @property
    def full(self) -> bool:
        """Tell whether it records Python with nothing to be said against it."""
        return self.python and not self.bias


def examine(
    machine: Machine, *, frequency_hz: int = 1999, names: Sequence[str] = ()
) -> Iterator[Examined]:
    """Try the collectors one after another, all of them or those that are named."""
    order = [name for name in ORDER if name in COLLECTORS]
    order += [name for name in COLLECTORS if name not in order]
    for name in order:
        if not names or name in names:
            yield _examined(COLLECTORS[name], machine, frequency_hz)


def quality(examined: Iterable[Examined]) -> str:
    """Return `full`, `reduced` (py-spy alone) or `none`: how Python benchmarks can be recorded."""
    found = tuple(examined)
    if any(each.full for each in found if each.name != "replay"):
        return "full"
    return "reduced" if any(each.python for each in found if each.name != "replay") else "none"


def _examined(collector: Collector, machine: Machine, frequency_hz: int) -> Examined:
    name = collector.name
    bias = BIASES.get(name, "")
    obstacles = {python: collector.obstacle(machine, python=python) for python in (True, False)}
    python, commands = obstacles[True] is None, obstacles[False] is None
    if name == "replay":
        return Examined(name, works=True, python=python, commands=commands)
    obstacle = obstacles[name not in WITHOUT_PYTHON]
    if obstacle is not None and not python and not commands:
        return Examined(
            name,
            works=False,
            python=False,
            commands=False,
            reason=_line(obstacle.reason),
            cure=_line(obstacle.cure),
            bias=bias,
        )
    try:
        recording = _attempt(collector, python=python, frequency_hz=frequency_hz)
        sees = _seen(recording, whole=not python)
        samples = sum(sum(stacks.values()) for stacks in recording.samples.values())
        if not samples:
            raise CollectError(
                f"it starts, and took no sample of {SECONDS:g} s of work", "report this, please"
            )
        if python and "Python" not in sees:
            raise CollectError(
                f"it took {samples} samples of a Python program and saw no Python function",
                "use an ordinary build of CPython 3.11 to 3.15",
            )
    except (CiFlameError, OSError) as error:
        if isinstance(error, CiFlameError):
            reason, cure = error.message, error.hint
        else:
            reason, cure = _refused(error)
        return Examined(
            name,
            works=False,
            python=False,
            commands=False,
            reason=_line(reason),
            cure=_line(cure) or "see docs/collectors.md",
            bias=bias,
        )
    return Examined(
        name,
        works=True,
        python=python,
        commands=commands,
        sees=sees,
        samples=samples,
        bias=bias,
    )


def _attempt(collector: Collector, *, python: bool, frequency_hz: int) -> Recording:
    """Record the small program, its sleeping too where the collector can; CollectError."""
    with _busy() as pid:
        for modes in (frozenset({Mode.ON_CPU, Mode.OFF_CPU}), frozenset({Mode.ON_CPU})):
            target = Target(pid, python=python, frequency_hz=frequency_hz, modes=modes)
            try:
                return _recorded(collector, target)
            except CollectError:
                if Mode.OFF_CPU not in modes:
                    raise
    raise AssertionError("the last modes return or raise")


def _recorded(collector: Collector, target: Target) -> Recording:
    session = collector.start(target)
    try:
        session.set_phase(1)
        time.sleep(SECONDS)
        session.set_phase(0)
        return session.read()
    finally:
        session.close()


@contextlib.contextmanager
def _busy() -> Iterator[int]:
    """Run the small program; give its number once it works."""
    with subprocess.Popen(
        [sys.executable, "-I", "-S", "-c", _PROGRAM],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
    ) as program:
        try:
            if program.stdout is None or not program.stdout.readline():
                raise CollectError(f"{sys.executable} does not run a small program")
            yield program.pid
        finally:
            program.kill()


def _refused(error: OSError) -> tuple[str, str]:
    """Return what the system refused, and the cure, in words."""
    if not error.strerror:
        return str(error) or type(error).__name__, ""
    told = error.strerror.lower()
    place = os.fsdecode(error.filename) if isinstance(error.filename, str | bytes) else ""
    reason = f"{place}: {told}" if place else f"the system refused: {told}"
    if isinstance(error, PermissionError) and place:
        user = f"user {os.geteuid()}"
        return reason, f"let {user} read and run it, or install it where {user} may"
    return reason, ""


def _seen(recording: Recording, *, whole: bool) -> tuple[str, ...]:
    """Return what kinds of frames a recording holds; `whole`: native stacks, not the leaf."""
    kinds = {
        frame.kind
        for stacks in recording.samples.values()
        for stack in stacks
        for frame in stack
        if frame.function != "[unknown]"
    }
    names = {
        Kind.PYTHON: "Python",
        Kind.NATIVE: "native" if whole else "native leaf",
        Kind.KERNEL: "kernel",
    }
    sees = [name for kind, name in names.items() if kind in kinds]
    if any(recording.off_cpu.values()):
        sees.append("off-CPU")
    return tuple(sees)


def _line(text: str) -> str:
    return " ".join(text.split())
