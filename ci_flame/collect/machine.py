"""Stage 1, edge: what this machine can do, found by trying, not by reading version numbers.

`probe()` feeds `choose()` and `ci-flame doctor`; `environment()` is the part of it that a run
keeps, because it decides whether two runs may be compared.
"""

import ctypes
import ctypes.util
import errno
import os
import platform
import shutil
import struct
import subprocess
import sys
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Final

import ci_flame
from ci_flame.profile import Environment

if TYPE_CHECKING:
    from ci_flame.collect import Collector

SYS_BPF: Final = {"x86_64": 321, "aarch64": 280}
SYS_PERF_EVENT_OPEN: Final = {"x86_64": 298, "aarch64": 241}
"""System call numbers; neither call has a wrapper in libc."""

BPF_ARCHITECTURES: Final = ("x86_64",)
"""Processors that a BPF object is committed for."""

_PROBE_SECONDS: Final = 5.0
_CAP_BITS: Final = {"cap_sys_ptrace": 19, "cap_sys_admin": 21, "cap_perfmon": 38, "cap_bpf": 39}
NEEDED_CAPABILITIES: Final = ("cap_bpf", "cap_perfmon", "cap_sys_ptrace")
_BPF_PROG_TYPE_PERF_EVENT: Final = 7
_BPF_FUNC_LOOP: Final = 181


@dataclass(frozen=True, slots=True)
class Machine:
    """What was found; every `*_error` is empty when the thing works."""

    system: str
    """`Linux`; anything else cannot record."""
    architecture: str
    cores: int
    cpu_model: str
    kernel: str
    python: str
    virtualisation: str
    """`vm`, `container`, `vm, container` or empty."""
    root: bool
    capabilities: tuple[str, ...]
    """Effective ones, of those that matter here."""
    sudo: bool
    """`sudo -n true` works without a password."""
    bpf_error: str
    """What the kernel said to loading a two-instruction program as this user; empty: it loads."""
    perf_event_error: str
    """The same for opening a cpu-clock event on this very process."""
    perf_event_paranoid: int
    libbpf: str
    """File name of the library (`libbpf.so.1`), or empty."""
    btf: bool
    """The kernel tells its types (`/sys/kernel/btf/vmlinux`)."""
    bpf_loop: bool = True
    """False: the kernel said that it has no such helper (Linux 5.16 and older)."""
    perf: tuple[str, ...] = ()
    """Paths of perf programs that answer `--version`, the preferred one first."""
    py_spy: str = ""
    """Path of py-spy, or empty."""
    py_spy_error: str = ""
    """What py-spy said to reading this very process; tried only where no BPF program loads."""

    @property
    def privileged(self) -> bool:
        """True: BPF programs load as this user, or through `sudo -n`."""
        return not self.bpf_error or self.sudo


def probe() -> Machine:
    """Try everything once, within seconds; works (and refuses nothing) on any system."""
    from ci_flame.collect.py_spy import process as py_spy_process  # noqa: PLC0415 - the registry imports this module

    linux = platform.system() == "Linux"
    bpf_error = _try_bpf() if linux else "no BPF outside Linux"
    spy = py_spy_process.find_program()
    return Machine(
        system=platform.system(),
        architecture=platform.machine(),
        cores=os.cpu_count() or 1,
        cpu_model=cpu_model(),
        kernel=platform.release(),
        python=platform.python_version(),
        virtualisation=_virtualisation(),
        root=linux and os.geteuid() == 0,
        capabilities=_capabilities(_read("/proc/self/status")),
        sudo=linux and _sudo(),
        bpf_error=bpf_error,
        perf_event_error=_try_perf_event() if linux else "no perf events outside Linux",
        perf_event_paranoid=_integer(_read("/proc/sys/kernel/perf_event_paranoid"), 4),
        libbpf=_libbpf(),
        btf=Path("/sys/kernel/btf/vmlinux").exists(),
        bpf_loop=_has_bpf_loop(),
        perf=perf_paths() if linux else (),
        py_spy=spy,
        # 0.1 s, which a machine that has better need not spend.
        py_spy_error=py_spy_process.attempt(spy, os.getpid())
        if linux and spy and bpf_error
        else "",
    )


def environment(
    collector: "Collector", python: str, frequency_hz: int, layout: str = "random"
) -> Environment:
    """Return what a run keeps of this machine; `python` is the measured one's full version."""
    return Environment(
        architecture=platform.machine(),
        cpu_model=cpu_model(),
        cores=os.cpu_count() or 1,
        kernel=platform.release(),
        python=python,
        collector=collector.name,
        event=collector.event,
        frequency_hz=frequency_hz,
        ci_flame=ci_flame.__version__,
        layout=layout,
    )


def facts(machine: Machine) -> tuple[tuple[str, str, str], ...]:
    """Return rows on the machine for `ci-flame doctor`: what, what was found, and the cure."""
    return (
        ("system", f"{machine.system} {machine.kernel}, {machine.architecture}", ""),
        ("processor", f"{machine.cpu_model or 'unknown'}, {machine.cores} cores", ""),
        ("virtualisation", machine.virtualisation or "none seen", ""),
        ("python", f"{machine.python} ({sys.executable})", ""),
        ("privileges", _privileges(machine), ""),
        ("libbpf", machine.libbpf or "missing", "" if machine.libbpf else INSTALL_LIBBPF),
        ("perf", ", ".join(machine.perf) or "not on PATH", ""),
    )


def privilege_cure(machine: Machine) -> str:
    """Return what gives BPF programs the privileges that they need here, and no more."""
    if machine.root:
        # root whom the kernel refuses is root of a container.
        return (
            "start the container with --cap-add BPF --cap-add PERFMON --cap-add SYS_PTRACE"
            " --cap-add SYSLOG, where these do not exist with --privileged; or run as root outside"
        )
    return (
        "run as root, or allow `sudo -n`, or give the interpreter capabilities:"
        " sudo setcap cap_bpf,cap_perfmon,cap_sys_ptrace,cap_syslog+ep "
        + os.path.realpath(sys.executable)
    )


INSTALL_LIBBPF: Final = "sudo apt-get install --no-install-recommends libbpf1"


@cache
def cpu_model() -> str:
    """Return the processor's name as the kernel tells it; empty if it does not."""
    text = _read("/proc/cpuinfo")
    for key in ("model name", "Model", "CPU part"):
        for line in text.splitlines():
            name, colon, value = line.partition(":")
            if colon and name.strip() == key:
                return value.strip()
    return platform.processor()


def has_capabilities(machine: Machine, wanted: tuple[str, ...] = NEEDED_CAPABILITIES) -> bool:
    """Return whether the effective set holds all of `wanted` (or cap_sys_admin and ptrace)."""
    return set(wanted) <= set(machine.capabilities)


@cache
def machine_can_bpf() -> bool:
    """Return whether this very process may load BPF programs."""
    return not _try_bpf()


def _privileges(machine: Machine) -> str:
    if machine.root:
        return "root"
    words = ["sudo without password"] if machine.sudo else []
    words += machine.capabilities
    return ", ".join(words) or "ordinary user"


def _capabilities(status: str) -> tuple[str, ...]:
    """Return the interesting names in `CapEff` of a /proc/PID/status text."""
    for line in status.splitlines():
        if line.startswith("CapEff:"):
            bits = int(line.split()[1], 16)
            return tuple(name for name, bit in _CAP_BITS.items() if bits >> bit & 1)
    return ()


def _virtualisation() -> str:
    words = []
    if " hypervisor" in _read("/proc/cpuinfo"):
        words.append("vm")
    marks = ("/.dockerenv", "/run/.containerenv")
    cgroup = _read("/proc/1/cgroup")
    if any(Path(mark).exists() for mark in marks) or "docker" in cgroup or "kubepods" in cgroup:
        words.append("container")
    return ", ".join(words)


def _sudo() -> bool:
    if os.geteuid() == 0 or not shutil.which("sudo"):
        return False
    try:
        done = subprocess.run(
            ["sudo", "-n", "true"],
            stdin=subprocess.DEVNULL,
            capture_output=True,
            timeout=_PROBE_SECONDS,
            check=False,
        )
    except (OSError, subprocess.SubprocessError):
        return False
    return done.returncode == 0


def system_call(number: int | None, *arguments: object) -> int:
    """Return the result, or the negative errno; ENOSYS where the number is not known."""
    if number is None:
        return -errno.ENOSYS
    libc = ctypes.CDLL(None, use_errno=True)
    libc.syscall.restype = ctypes.c_long
    returned = int(libc.syscall(ctypes.c_long(number), *arguments))
    return returned if returned >= 0 else -ctypes.get_errno()


def _outcome(returned: int) -> str:
    if returned >= 0:
        os.close(returned)
        return ""
    return os.strerror(-returned)


def _try_bpf() -> str:
    """Load `r0 = 0; exit` as a perf_event program."""
    program = ctypes.create_string_buffer(struct.pack("<QQ", 0xB7, 0x95), 16)
    licence = ctypes.create_string_buffer(b"Dual BSD/GPL")
    attributes = struct.pack(
        "<IIQQ",
        _BPF_PROG_TYPE_PERF_EVENT,
        2,
        ctypes.addressof(program),
        ctypes.addressof(licence),
    ).ljust(128, b"\0")
    buffer = ctypes.create_string_buffer(attributes, 128)
    number = SYS_BPF.get(platform.machine())
    return _outcome(system_call(number, ctypes.c_long(5), ctypes.byref(buffer), ctypes.c_long(128)))


def perf_attributes(period_ns: int, *, user_only: bool = False) -> bytes:
    """Return `struct perf_event_attr` of a disabled cpu-clock event of this period."""
    flags = 1  # disabled
    if user_only:
        flags |= 1 << 5 | 1 << 6  # exclude_kernel, exclude_hv
    # type SOFTWARE, size (PERF_ATTR_SIZE_VER5), config CPU_CLOCK, period, sample and read format
    return struct.pack("<IIQQQQQ", 1, 112, 0, period_ns, 0, 0, flags).ljust(112, b"\0")


def perf_event_open(attributes: bytes, pid: int, cpu: int) -> int:
    """Return the event's file descriptor (close-on-exec), or the negative errno."""
    buffer = ctypes.create_string_buffer(attributes, len(attributes))
    number = SYS_PERF_EVENT_OPEN.get(platform.machine())
    words = [ctypes.c_long(word) for word in (pid, cpu, -1, 8)]
    return system_call(number, ctypes.byref(buffer), *words)


def _try_perf_event() -> str:
    return _outcome(perf_event_open(perf_attributes(1_000_000, user_only=True), 0, -1))


def _has_bpf_loop() -> bool:
    """Ask the kernel; what cannot be asked (no libbpf, no privileges) is not held against it."""
    try:
        probe = ctypes.CDLL("libbpf.so.1").libbpf_probe_bpf_helper
    except (OSError, AttributeError):
        return True
    return bool(probe(_BPF_PROG_TYPE_PERF_EVENT, _BPF_FUNC_LOOP, None) != 0)


def _libbpf() -> str:
    try:
        ctypes.CDLL("libbpf.so.1")
    except OSError:
        return ""
    return "libbpf.so.1"


def perf_paths() -> tuple[str, ...]:
    """Return working perf programs: the one on PATH, then those of any installed linux-tools.

    Ubuntu's `perf` is a wrapper that fails when linux-tools of exactly this kernel is missing;
    any other version records software events just as well.
    """
    found: dict[str, None] = {}
    on_path = shutil.which("perf")
    spare = Path("/usr/lib").glob("linux-tools*/perf")
    spare_versions = Path("/usr/lib").glob("linux-tools/*/perf")
    for path in [on_path, *sorted(map(str, {*spare, *spare_versions}), reverse=True)]:
        if path and path not in found and _answers(path):
            found[path] = None
    return tuple(found)


def _answers(path: str) -> bool:
    try:
        done = subprocess.run(
            [path, "--version"],
            stdin=subprocess.DEVNULL,
            capture_output=True,
            timeout=_PROBE_SECONDS,
            check=False,
        )
    except (OSError, subprocess.SubprocessError):
        return False
    return done.returncode == 0


def _read(path: str) -> str:
    try:
        return Path(path).read_text(errors="replace")
    except OSError:
        return ""


def _integer(text: str, otherwise: int) -> int:
    try:
        return int(text)
    except ValueError:
        return otherwise
