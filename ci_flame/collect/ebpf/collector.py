"""Stage 1, edge: the eBPF collector, seen from the process that measures.

The work needs privileges and must not disturb the target, so it lives in a process of its own
(`process.py`), started as root, with capabilities, or through `sudo -n`. The two talk in
JSON lines over a socket that is the collector process's standard input.

Why the phase is a BPF array map that the target maps into its memory, and not a private word
of the target that the program would read by its address: the page belongs to the kernel and
never faults in a sample; it stays valid when the target forks, and children that exec have no
such address but fall into the same window; no address of the target has to be told or checked;
and an unprivileged target needs nothing but the file descriptor it is handed. Switching the
window is one store, without a system call.

For off-CPU recordings the page holds a clock too, that stands still while the window is closed
within a phase: other threads may wait through the set-ups between two openings, and what they wait
there is not the benchmark's. The target alone writes it, with each switch; the programs read it.
"""

import contextlib
import importlib.util
import json
import mmap
import os
import posixpath
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from ci_flame.collect import Obstacle, Recording, Session, Target
from ci_flame.collect.machine import (
    BPF_ARCHITECTURES,
    INSTALL_LIBBPF,
    Machine,
    has_capabilities,
    machine_can_bpf,
    privilege_cure,
)
from ci_flame.errors import CollectError
from ci_flame.profile import Frame, Histogram, Kind, Mode, Place, Stack, Weight
from ci_flame.simplify import clean_frame
from ci_flame.symbols.modules import Layout, name_module

if TYPE_CHECKING:
    from typing import IO

START_SECONDS: Final = 20.0
READ_SECONDS: Final = 60.0
CLOSE_SECONDS: Final = 10.0
FREQUENCY_HZ: Final = range(10, 20_001)
"""Slower says nothing, faster measures the collector."""
_REPLY_BYTES: Final = 512 << 20
_STDERR_LINES: Final = 4
_PHASE, _CLOSED, _STOPPED, _LAST = range(4)
"""`struct window` (tree.h): its words."""


class EbpfCollector:
    """CPU-clock samples of a process tree: Python stack, native leaf and kernel stack."""

    name = "ebpf"
    event = "cpu-clock"

    def obstacle(self, machine: Machine, *, python: bool) -> Obstacle | None:  # noqa: ARG002, PLR0911 - one return per obstacle; both kinds of target are served
        """Return the first of what stops it here, or None."""
        if machine.system != "Linux":
            return Obstacle(f"eBPF needs Linux, this is {machine.system}", "record on Linux")
        if machine.architecture not in BPF_ARCHITECTURES:
            built = ", ".join(BPF_ARCHITECTURES)
            return Obstacle(
                f"no BPF program is built for {machine.architecture}",
                f"record on {built}, or a command with `--collector perf`",
            )
        if not machine.libbpf:
            return Obstacle("libbpf.so.1 is missing", INSTALL_LIBBPF)
        if not machine.btf:
            return Obstacle(
                "the kernel has no type information (/sys/kernel/btf/vmlinux)",
                "use a kernel built with CONFIG_DEBUG_INFO_BTF=y, like those of Debian and Ubuntu",
            )
        if not machine.privileged:
            return Obstacle(f"BPF does not load: {machine.bpf_error}", privilege_cure(machine))
        if not machine.root and not machine.sudo and not has_capabilities(machine):
            return Obstacle(
                "cap_bpf, cap_perfmon and cap_sys_ptrace are needed", privilege_cure(machine)
            )
        if not machine.bpf_loop:
            return Obstacle(
                f"the kernel ({machine.kernel}) has no bpf_loop, which came with Linux 5.17",
                "record with `--collector bcc`, which needs Linux 5.8",
            )
        return None

    def start(self, target: Target) -> Session:
        """Attach to a running process; raises CollectError within 20 s if it cannot."""
        if target.frequency_hz not in FREQUENCY_HZ:
            raise CollectError(
                f"{target.frequency_hz} Hz is not between {FREQUENCY_HZ[0]} and {FREQUENCY_HZ[-1]}",
                "use 999 to 4999",
            )
        if not target.modes and not target.machine:
            raise CollectError("no mode is asked for", "on-cpu, off-cpu or both")
        return self._session(target)

    def _session(self, target: Target) -> Session:
        return EbpfSession(target)


class EbpfSession:
    """A running collector process and the phase word, with its clock, shared with it."""

    def __init__(
        self, target: Target, *, loader: str = "libbpf", start_seconds: float | None = None
    ) -> None:
        self._target = target
        self._loader = loader
        self._start_seconds = start_seconds or START_SECONDS
        self._stderr: IO[bytes] = tempfile.TemporaryFile("w+b")  # noqa: SIM115 - closed in close()
        ours, theirs = socket.socketpair()
        self._socket = ours
        self._received = b""
        self._window: memoryview | None = None
        self._closed = False
        self._owner = os.getpid()
        self._clipped = Mode.OFF_CPU in target.modes
        self._open = self._last = self._closed_ns = 0
        self._windows: dict[int, int] = {}
        """Phases that have ended since the last read, and where their clock stopped: a phase opens
        once per iteration where there are set-ups, and that may be a million times."""
        try:
            self._process = _spawn(theirs, self._stderr)
        except OSError as error:
            ours.close()
            self._stderr.close()
            raise CollectError(f"the collector process does not start: {error}") from None
        finally:
            theirs.close()
        try:
            self._attach()
        except BaseException:
            self.close()
            raise

    def _attach(self) -> None:
        request = {
            "do": "start",
            "loader": self._loader,
            "pid": self._target.pid,
            "pids": list(self._target.pids),
            "owner": os.getpid(),
            "python": self._target.python,
            "frequency_hz": self._target.frequency_hz,
            "modes": sorted(self._target.modes),
            "machine": self._target.machine,
        }
        deadline = time.monotonic() + self._start_seconds
        self._send(request, deadline)
        reply, descriptors = self._receive(deadline)
        try:
            if len(descriptors) != 1:
                raise CollectError("the collector process sent no phase word")
            # The word stays mapped in forked children too, on purpose: see the module's docstring.
            memory = mmap.mmap(descriptors[0], mmap.PAGESIZE)
        except OSError as error:
            raise CollectError(f"the phase word cannot be mapped: {error}") from None
        finally:
            for descriptor in descriptors:
                os.close(descriptor)
        self._window = memoryview(memory).cast("Q")
        self.started: Mapping[str, Any] = reply

    def set_phase(self, phase: int) -> None:
        """Switch the window: one store of 8 aligned bytes, no system call.

        For off-CPU recordings the phase's clock is stopped or goes on too: a look at the machine's
        clock and a store or two more.
        """
        window = self._window
        assert window is not None  # noqa: S101 - set before __init__ returns
        if not self._clipped:
            window[_PHASE] = phase
            return
        # The order of the stores is a promise to who reads them meanwhile: see tree.h.
        if self._open and phase != self._open:
            window[_PHASE] = 0
            stopped = time.monotonic_ns() - self._closed_ns
            window[_STOPPED] = self._windows[self._open] = stopped
            self._open = 0
        if phase and phase != self._open:
            self._open = phase  # first: whatever interrupts us, the window will be closed again
            if phase == self._last:
                self._closed_ns = time.monotonic_ns() - self._windows[phase]
                window[_CLOSED] = self._closed_ns
                window[_STOPPED] = 0
                window[_PHASE] = phase
            else:
                self._closed_ns = window[_LAST] = window[_CLOSED] = window[_STOPPED] = 0
                window[_PHASE] = window[_LAST] = self._last = phase

    def read(self, module_files: Mapping[str, str] | None = None) -> Recording:
        """Return what was sampled since the last read; call it with the phase at 0."""
        if self._closed:
            raise CollectError("the collector is closed")
        deadline = time.monotonic() + READ_SECONDS
        if self._clipped and self._window is not None:
            self._window[_LAST] = self._last = 0  # what begins from here on is of no phase
        windows, self._windows = self._windows, {}
        self._send({"do": "read", "windows": list(windows.items())}, deadline)
        reply, _ = self._receive(deadline)
        return self._recording(reply, module_files or {})

    def close(self) -> None:
        """End the collector process; never raises, never waits longer than 10 s."""
        if self._closed:
            return
        self._closed = True
        self._socket.close()
        if os.getpid() != self._owner:
            return  # a forked child: neither the window nor the process is its own
        if self._window is not None:
            self._window[_PHASE] = 0
        with contextlib.suppress(OSError, subprocess.SubprocessError):
            try:
                self._process.wait(CLOSE_SECONDS - 2)
            except subprocess.TimeoutExpired:
                self._process.send_signal(signal.SIGKILL)
                self._process.wait(2)
        self._stderr.close()

    def _send(self, request: Mapping[str, Any], deadline: float) -> None:
        self._socket.settimeout(max(deadline - time.monotonic(), 0.001))
        try:
            self._socket.sendall(json.dumps(request).encode() + b"\n")
        except OSError:
            raise self._ended() from None

    def _receive(self, deadline: float) -> tuple[dict[str, Any], list[int]]:
        """Return one reply and the descriptors that came with it; bounded in time and size."""
        descriptors: list[int] = []
        chunks = [self._received]
        size = len(self._received)
        while b"\n" not in chunks[-1]:
            self._socket.settimeout(max(deadline - time.monotonic(), 0.001))
            try:
                data, more, _, _ = socket.recv_fds(self._socket, 1 << 20, 1)
            except TimeoutError:
                raise self._ended("the collector process did not answer in time") from None
            except OSError:
                raise self._ended() from None
            descriptors += more
            size += len(data)
            if not data or size > _REPLY_BYTES:
                raise self._ended()
            chunks.append(data)
        line, _, self._received = b"".join(chunks).partition(b"\n")
        try:
            reply: dict[str, Any] = json.loads(line)
        except ValueError:
            raise self._ended("the collector process answered with something else") from None
        if "error" in reply:
            raise CollectError(str(reply["error"]), str(reply.get("hint", "")))
        return reply, descriptors

    def _ended(self, what: str = "the collector process ended") -> CollectError:
        """Return the error with the last lines that the process wrote."""
        with contextlib.suppress(OSError, subprocess.SubprocessError):
            self._process.wait(1)
        self._stderr.seek(0)
        lines = self._stderr.read()[-8192:].decode(errors="replace").strip().splitlines()
        told = " / ".join(line.strip() for line in lines[-_STDERR_LINES:])
        if "password" in told or "sudo:" in told:
            return CollectError(
                f"{what}: {told}", "allow `sudo -n`, or run as root; see `ci-flame doctor`"
            )
        return CollectError(f"{what}: {told}" if told else what, "see `ci-flame doctor`")

    def _recording(self, reply: Mapping[str, Any], module_files: Mapping[str, str]) -> Recording:
        files = {**self._target.module_files, **module_files}
        layout = Layout(files, self._target.roots, is_package)
        frames: list[Frame] = []
        places: dict[Frame, Place] = {}
        named: dict[str, tuple[str, str]] = {}
        for kind, module, function, file, line in reply["frames"]:
            if kind != Kind.PYTHON:
                frames.append(_frame(function, module, Kind(kind)))
                continue
            if file not in named:
                named[file] = name_module(file, layout)
            dotted, place = named[file]
            frame = Frame(function or "[unknown]", dotted)
            frames.append(frame)
            # Two functions of one name: the first in the file is the one that is pointed at.
            here = Place(place, max(line, 1))
            places[frame] = min(places.get(frame, here), here)
        stacks: list[Stack] = [tuple(frames[i] for i in stack) for stack in reply["stacks"]]
        samples: dict[int, dict[Stack, int]] = {}
        for phase, stack, count in reply["samples"]:
            of_phase = samples.setdefault(phase, {})
            of_phase[stacks[stack]] = of_phase.get(stacks[stack], 0) + count
        off_cpu: dict[int, dict[Stack, Weight]] = {}
        for phase, stack, waits, nanoseconds in reply["off_cpu"]:
            of_waits = off_cpu.setdefault(phase, {})
            weight = Weight(waits, nanoseconds)
            before = of_waits.get(stacks[stack])
            of_waits[stacks[stack]] = before + weight if before else weight
        return Recording(
            samples=samples,
            period_ns=reply["period_ns"],
            places=places,
            lost=reply["lost"],
            truncated={int(phase): count for phase, count in reply["truncated"].items()},
            no_python={int(phase): count for phase, count in reply["no_python"].items()},
            off_cpu=off_cpu,
            histograms={
                name: Histogram(dict(counts)) for name, counts in reply["histograms"].items()
            },
            metrics=reply["metrics"],
        )


def _frame(function: str, module: str, kind: Kind) -> Frame:
    """Return a frame that is not Python's, C++ and Rust functions by their source's name."""
    if kind is Kind.NATIVE and function.startswith(("_Z", "__Z", "_R")):
        # Here and not in the collector process, which has to stay small; and only where a
        # program has such names, as the measured process would have to load it.
        from ci_flame.symbols.demangle import demangle  # noqa: PLC0415

        return clean_frame(Frame(demangle(function), module, kind))
    return Frame(function, module, kind)


@lru_cache(maxsize=4096)
def is_package(folder: str) -> bool:
    """Tell whether a folder of the target is a Python package."""
    return os.path.exists(posixpath.join(folder, "__init__.py"))  # noqa: PTH110 - a str in, many calls


def _folders() -> list[str]:
    """Return the folders that this package, numpy and pyelftools are imported from here."""
    specs = (importlib.util.find_spec(name) for name in ("ci_flame", "numpy", "elftools"))
    origins = (Path(spec.origin) for spec in specs if spec and spec.origin)
    return list(dict.fromkeys(str(origin.resolve().parent.parent) for origin in origins))


def _spawn(theirs: socket.socket, stderr: "IO[bytes]") -> "subprocess.Popen[bytes]":
    """Start the collector process with the socket as its standard input.

    `-S` saves the time of site-packages' own start-up code;
    `-I` keeps the target's environment, user folder and working directory out of a root process;
    the folders of this package and of what it needs are added last, so that they hide nothing.
    """
    code = (
        f"import sys; sys.path += {_folders()!r};"
        " from ci_flame.collect.ebpf.process import main; sys.exit(main())"
    )
    command = [sys.executable, "-I", "-S", "-c", code]
    if os.geteuid() != 0 and not machine_can_bpf():
        # sudo passes 0, 1 and 2 on and closes the rest: hence the socket as standard input.
        command = ["sudo", "-n", *command]
    return subprocess.Popen(
        command,
        stdin=theirs.fileno(),
        stdout=subprocess.DEVNULL,
        stderr=stderr,
        cwd="/",
        start_new_session=True,  # Ctrl-C is the target's; the collector ends with its socket
    )
