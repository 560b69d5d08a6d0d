"""Stage 1, edge: every BPF program of the machine and what it costs, as the kernel counts it.

    snapshot ── period ── snapshot          run time and runs of each program, their differences
       └── the kernel counts as long as `Counting` is open

The kernel counts only while somebody asks for it. `BPF_ENABLE_STATS` does so for as long as a file
descriptor is open, which also ends with a process that is killed; `kernel.bpf_stats_enabled` is not
touched. Structures: include/uapi/linux/bpf.h, `union bpf_attr` and `struct bpf_prog_info`.
"""

import ctypes
import errno
import os
import platform
import struct
import time
from collections import deque
from collections.abc import Iterable, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from types import MappingProxyType
from typing import Final, Self

from ci_flame.collect.machine import SYS_BPF, system_call
from ci_flame.errors import CollectError

TYPES: Final = (
    "unspec", "socket_filter", "kprobe", "sched_cls", "sched_act", "tracepoint", "xdp",
    "perf_event", "cgroup_skb", "cgroup_sock", "lwt_in", "lwt_out", "lwt_xmit", "sock_ops",
    "sk_skb", "cgroup_device", "sk_msg", "raw_tracepoint", "cgroup_sock_addr", "lwt_seg6local",
    "lirc_mode2", "sk_reuseport", "flow_dissector", "cgroup_sysctl", "raw_tracepoint_writable",
    "cgroup_sockopt", "tracing", "struct_ops", "ext", "lsm", "sk_lookup", "syscall", "netfilter",
)  # fmt: skip
"""By number, as bpftool calls them."""
PERIODS: Final = 20
"""That the running averages are taken over."""
MAX_PROGRAMS: Final = 65_536
_GET_NEXT_ID: Final = 11
_FD_BY_ID: Final = 13
_INFO_BY_FD: Final = 15
_ENABLE_STATS: Final = 32
_INFO_BYTES: Final = 256
"""More than any kernel's structure; it fills what it knows."""
_OWN: Final = b"ci_flame.collect"


@dataclass(frozen=True, slots=True)
class Program:
    """One loaded program at one moment."""

    id: int
    type: str
    name: str
    """At most 15 characters; empty for programs that were given none."""
    tag: str
    """Hash of its instructions."""
    loaded_ns: int
    """When, by the clock since boot; tells a program from a later one that got its number."""
    run_time_ns: int
    """Since it was loaded, while the kernel counted."""
    runs: int
    seen_ns: int
    """`time.monotonic_ns` of this moment."""


@dataclass(frozen=True, slots=True)
class Cost:
    """What one program did in one period or several."""

    run_time_ns: int
    runs: int
    elapsed_ns: int

    @property
    def average_ns(self) -> float:
        """Run time of one event; 0 where there was none."""
        return self.run_time_ns / self.runs if self.runs else 0.0

    @property
    def events_per_second(self) -> float:
        """Runs per second of wall time."""
        return self.runs / self.elapsed_ns * 1e9 if self.elapsed_ns else 0.0

    @property
    def cpu_percent(self) -> float:
        """Share of one CPU's time."""
        return 100 * self.run_time_ns / self.elapsed_ns if self.elapsed_ns else 0.0

    def __add__(self, other: "Cost") -> "Cost":
        return Cost(
            self.run_time_ns + other.run_time_ns,
            self.runs + other.runs,
            self.elapsed_ns + other.elapsed_ns,
        )


@dataclass(frozen=True, slots=True)
class Usage:
    """One program over one period."""

    program: Program
    period: Cost
    recent: Cost
    """The last periods together, at most 20."""
    new: bool = False
    """It was loaded within the period."""
    processes: tuple[str, ...] = ()
    """Who holds it: `bpftrace 812`."""
    own: bool = False
    """A collector of ci_flame holds it."""

    @property
    def total_average_ns(self) -> float:
        """Run time of one event since the program was loaded."""
        return self.program.run_time_ns / self.program.runs if self.program.runs else 0.0


@dataclass(frozen=True, slots=True)
class Top:
    """All programs over one period, the dearest first."""

    usages: tuple[Usage, ...]
    elapsed_ns: int
    vanished: tuple[Program, ...] = ()
    """Those that were unloaded within the period; what they did in it is not known."""


class Counting:
    """Lets the kernel count while it is open; CollectError without the privilege."""

    def __enter__(self) -> Self:
        self._descriptor = _bpf(_ENABLE_STATS, struct.pack("<I", 0))
        if self._descriptor < 0:
            raise _refused("the kernel does not count BPF run time", -self._descriptor)
        return self

    def __exit__(self, *_error: object) -> None:
        os.close(self._descriptor)


def snapshot() -> dict[int, Program]:
    """Return the programs that are loaded now, by id; CollectError without the privilege."""
    programs: dict[int, Program] = {}
    number = 0
    for _ in range(MAX_PROGRAMS):
        attributes = ctypes.create_string_buffer(struct.pack("<III", number, 0, 0), 128)
        returned = _bpf_call(_GET_NEXT_ID, attributes)
        if returned == -errno.ENOENT:
            break
        if returned < 0:
            raise _refused("BPF programs cannot be listed", -returned)
        number = struct.unpack_from("<I", attributes, 4)[0]
        program = _program(number)
        if program is not None:
            programs[number] = program
    return programs


def _program(number: int) -> Program | None:
    """Return one program; None where it has been unloaded meanwhile."""
    descriptor = _bpf(_FD_BY_ID, struct.pack("<I", number))
    if descriptor < 0:
        if descriptor == -errno.ENOENT:
            return None
        raise _refused(f"BPF program {number} cannot be looked at", -descriptor)
    try:
        info = ctypes.create_string_buffer(_INFO_BYTES)
        attributes = struct.pack("<IIQ", descriptor, _INFO_BYTES, ctypes.addressof(info))
        before = time.monotonic_ns()
        returned = _bpf(_INFO_BY_FD, attributes)
        seen_ns = (before + time.monotonic_ns()) // 2
        if returned < 0:
            raise _refused(f"BPF program {number} cannot be looked at", -returned)
    finally:
        os.close(descriptor)
    return decode(info.raw, seen_ns)


def decode(info: bytes, seen_ns: int) -> Program:
    """Return the program of a `struct bpf_prog_info`."""
    kind, number = struct.unpack_from("<II", info, 0)
    run_time_ns, runs = struct.unpack_from("<QQ", info, 192)
    return Program(
        id=number,
        type=TYPES[kind] if kind < len(TYPES) else f"type {kind}",
        name=info[64:80].partition(b"\0")[0].decode("utf-8", "replace"),
        tag=info[8:16].hex(),
        loaded_ns=struct.unpack_from("<Q", info, 40)[0],
        run_time_ns=run_time_ns,
        runs=runs,
        seen_ns=seen_ns,
    )


@dataclass(slots=True)
class Watch:
    """Periods one after another, and what is kept of the last ones."""

    before: Mapping[int, Program]
    at_ns: int
    """`time.monotonic_ns` when `before` was taken."""
    _recent: dict[tuple[int, int], deque[Cost]] = field(default_factory=dict)

    def period(
        self,
        after: Mapping[int, Program],
        at_ns: int,
        holders: Mapping[int, tuple[tuple[str, ...], bool]] = MappingProxyType({}),
    ) -> Top:
        """Return what happened since the last snapshot; `holders` is of `held`."""
        usages = []
        kept: dict[tuple[int, int], deque[Cost]] = {}
        for number, program in after.items():
            earlier = self.before.get(number)
            new = earlier is None or earlier.loaded_ns != program.loaded_ns
            cost = _cost(None if new else earlier, program, self.at_ns)
            key = (number, program.loaded_ns)
            recent = kept[key] = self._recent.get(key, deque(maxlen=PERIODS))
            recent.append(cost)
            processes, own = holders.get(number, ((), False))
            usages.append(Usage(program, cost, _sum(recent), new=new, processes=processes, own=own))
        vanished = tuple(
            program
            for number, program in sorted(self.before.items())
            if number not in after or after[number].loaded_ns != program.loaded_ns
        )
        elapsed_ns = at_ns - self.at_ns
        self.before, self.at_ns, self._recent = after, at_ns, kept
        usages.sort(key=lambda each: (-each.period.run_time_ns, each.program.id))
        return Top(tuple(usages), elapsed_ns, vanished)


def _cost(earlier: Program | None, program: Program, started: int) -> Cost:
    if earlier is None:
        # All that it ever did was in this period.
        return Cost(program.run_time_ns, program.runs, max(program.seen_ns - started, 0))
    return Cost(
        max(program.run_time_ns - earlier.run_time_ns, 0),
        max(program.runs - earlier.runs, 0),
        max(program.seen_ns - earlier.seen_ns, 0),
    )


def _sum(costs: Iterable[Cost]) -> Cost:
    total = Cost(0, 0, 0)
    for cost in costs:
        total = total + cost
    return total


def held() -> dict[int, tuple[tuple[str, ...], bool]]:
    """Return program id -> the processes that hold it (`bpftrace 812`), and whether one is ours.

    Programs are held by a descriptor of themselves or of the link that attaches them. What may not
    be looked at, or has ended meanwhile, is left out.
    """
    found: dict[int, dict[str, bool]] = {}
    for process in Path("/proc").iterdir():
        if not process.name.isdigit():
            continue
        with suppress(OSError):
            for number in held_by(process):
                words = (process / "cmdline").read_bytes()
                comm = (process / "comm").read_text(encoding="utf-8", errors="replace").strip()
                found.setdefault(number, {})[f"{comm} {process.name}"] = _OWN in words
    return {
        number: (tuple(sorted(processes)), any(processes.values()))
        for number, processes in found.items()
    }


def held_by(process: Path) -> set[int]:
    """Return the ids of the programs that a process has descriptors of."""
    numbers: set[int] = set()
    for descriptor in (process / "fd").iterdir():
        with suppress(OSError):
            if not str(descriptor.readlink()).startswith("anon_inode:bpf"):
                continue
            text = (process / "fdinfo" / descriptor.name).read_text(encoding="ascii")
            for line in text.splitlines():
                name, _, value = line.partition(":")
                if name == "prog_id":
                    numbers.add(int(value))
    return numbers


def _bpf(command: int, attributes: bytes) -> int:
    return _bpf_call(command, ctypes.create_string_buffer(attributes, 128))


def _bpf_call(command: int, attributes: "ctypes.Array[ctypes.c_char]") -> int:
    """Return what bpf(2) returns, or the negative errno."""
    return system_call(
        SYS_BPF.get(platform.machine()),
        ctypes.c_long(command),
        ctypes.byref(attributes),
        ctypes.c_long(128),
    )


def _refused(what: str, number: int) -> CollectError:
    cure = "Linux 5.8 or newer is needed"
    if number in (errno.EPERM, errno.EACCES):
        cure = (
            "run it as root: sudo $(which ci-flame) bpf-top; in a container, with"
            " --cap-add SYS_ADMIN (the kernel shows programs to nobody else)"
        )
    elif number == errno.ENOSYS:
        cure = "record on Linux with BPF"
    return CollectError(f"{what}: {os.strerror(number)}", cure)
