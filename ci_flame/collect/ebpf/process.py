"""Stage 1, edge: the collector process: loads the BPF program, samples and names one tree.

Standard input is a socket. Each line on it is a JSON request, each gets one JSON line back:

    {"do": "start", "loader": "libbpf", "pid": 1, "pids": [], "owner": 1, "python": true,
     "frequency_hz": 999, "modes": ["on-cpu"], "machine": false}
        -> {"python": "3.11.7", ...} and the descriptor of the phase word
    {"do": "read", "windows": [[phase, ns where its clock stopped], ...]}
        -> frames, stacks, samples, waits, histograms and counters since the last read
    anything that cannot be done -> {"error": "...", "hint": "..."}

It ends when the socket closes, or when its owner dies (forked children may hold the socket).
"""

import json
import os
import select
import signal
import socket
import sys
import time
from collections.abc import Collection, Mapping
from contextlib import suppress
from types import MappingProxyType
from typing import Any, Final

from ci_flame.collect.ebpf.libbpf import BpfObject
from ci_flame.collect.ebpf.sampler import Load, Sampler, load_object
from ci_flame.errors import CiFlameError, CollectError

_POLL_SECONDS: Final = 0.04
_REQUEST_BYTES: Final = 1 << 20
_REPLY_SECONDS: Final = 60.0


def main() -> int:
    """Serve the socket on standard input until it closes."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is for the benchmark
    with socket.socket(fileno=os.dup(0)) as connection:
        server = Server(connection)
        try:
            server.serve()
        except (BrokenPipeError, ConnectionResetError):
            return 0
        finally:
            server.close()
    return 0


def _compile(programs: Collection[str], without: Collection[str]) -> BpfObject:
    """Load by bcc, which is slow to import and not installed everywhere."""
    from ci_flame.collect.ebpf.bcc_object import BccObject  # noqa: PLC0415 - as told

    return BccObject(programs, without)


LOADERS: Final[Mapping[str, Load]] = MappingProxyType({"libbpf": load_object, "bcc": _compile})
"""How the BPF programs get into the kernel."""


class Server:
    """The requests of one owner, and the sampling between them."""

    def __init__(self, connection: socket.socket) -> None:
        self._connection = connection
        self._sampler: Sampler | None = None
        self._pending = b""
        self._poll = select.poll()
        self._poll.register(connection, select.POLLIN)
        self._owner = -1

    def serve(self) -> None:
        """Sample and answer until the owner is gone."""
        while True:
            wait = self._sampler.next_poll_seconds() if self._sampler else _POLL_SECONDS
            ready = {descriptor for descriptor, _ in self._poll.poll(wait * 1000)}
            if self._sampler:
                self._sampler.poll()
            if self._connection.fileno() in ready and not self._receive():
                return
            if self._owner in ready:
                return

    def close(self) -> None:
        """Take the programs off and free everything."""
        if self._sampler:
            self._sampler.close()
            self._sampler = None
        if self._owner >= 0:
            os.close(self._owner)
            self._owner = -1

    def _receive(self) -> bool:
        """Answer what came; False when the socket was closed."""
        data = self._connection.recv(_REQUEST_BYTES)
        if not data or len(self._pending) > _REQUEST_BYTES:
            return False
        *lines, self._pending = (self._pending + data).split(b"\n")
        for line in lines:
            self._answer(line)
        return True

    def _answer(self, line: bytes) -> None:
        descriptors: list[int] = []
        try:
            request = json.loads(line)
            if request["do"] == "start":
                reply = self._start(request, descriptors)
            elif request["do"] == "read" and self._sampler:
                windows = {int(phase): int(end_ns) for phase, end_ns in request["windows"]}
                reply = self._sampler.read(windows)
            else:
                reply = {"error": f"not possible now: {request['do']}"}
        except CiFlameError as error:
            reply = {"error": error.message, "hint": error.hint}
        except (ValueError, KeyError, TypeError) as error:
            reply = {"error": f"a request is not understood: {type(error).__name__}: {error}"}
        self._connection.settimeout(_REPLY_SECONDS)
        data = json.dumps(reply, separators=(",", ":")).encode() + b"\n"
        if descriptors:
            sent = socket.send_fds(self._connection, [data], descriptors)
            self._connection.sendall(data[sent:])
        else:
            self._connection.sendall(data)
        self._connection.settimeout(None)

    def _start(self, request: dict[str, Any], descriptors: list[int]) -> dict[str, Any]:
        if self._sampler:
            raise CollectError("the collector samples already")
        self._owner = _pidfd(request["owner"])
        self._poll.register(self._owner, select.POLLIN)
        self._sampler = Sampler(
            request["pid"],
            frequency_hz=request["frequency_hz"],
            python=request["python"],
            pids=request["pids"],
            modes=request["modes"],
            machine=request["machine"],
            load=LOADERS[request["loader"]],
        )
        self._poll.register(self._sampler.ring_descriptor, select.POLLIN)
        descriptors.append(self._sampler.phase_descriptor)
        return {"python": self._sampler.python_version, "ready": time.monotonic()}


def _pidfd(pid: int) -> int:
    try:
        return os.pidfd_open(pid)
    except OSError as error:
        raise CollectError(f"process {pid} cannot be watched: {error.strerror}") from None


if __name__ == "__main__":
    with suppress(KeyboardInterrupt):
        sys.exit(main())
