"""Stage 1, edge: the cures that `ci-flame doctor --fix` may run itself, and how each is undone.

A cure is text for people. Of it, only what is listed here is ever run: a sysctl of this list set to
a number, or packages of this list installed. Capabilities, container flags and kernels stay with
whoever reads the text.
"""

import os
import re
import shlex
import shutil
import subprocess
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from ci_flame.errors import CollectError

SYSCTLS: Final = frozenset(
    {
        "kernel.kptr_restrict",
        "kernel.perf_event_max_sample_rate",
        "kernel.perf_event_max_stack",
        "kernel.perf_event_paranoid",
        "kernel.yama.ptrace_scope",
    }
)
PACKAGES: Final = re.compile(
    r"libbpf1|libelf1|linux-perf|linux-tools-(?:generic|common|azure|aws|gcp)|bpftrace|bpftool"
    r"|python3-bpfcc|bpfcc-tools|linux-headers-[a-z0-9.+-]+"
)
INSTALL_SECONDS: Final = 900.0
_SYSCTL: Final = re.compile(r"sudo sysctl (?:-w )?(?P<key>[a-z0-9_.]+)=(?P<value>-?\d{1,9})\b")
_APT: Final = re.compile(r"sudo apt-get install(?P<words>(?: +[A-Za-z0-9.+=-]+)+)")
_SUDO_SECONDS: Final = 30.0
_TAIL_LINES: Final = 3


@dataclass(frozen=True, slots=True)
class Fix:
    """One command, as it is run by root."""

    command: tuple[str, ...]
    """Without `sudo`."""
    undo: str
    """What puts it back, to be pasted."""
    told: str
    """What will change, with the value that was there."""

    def __str__(self) -> str:
        return "sudo " + shlex.join(self.command)


def fix_of(cure: str) -> Fix | None:
    """Return what of a cure may be run here, or None; a sysctl that does not exist is none."""
    sysctl = _SYSCTL.search(cure)
    if sysctl and sysctl["key"] in SYSCTLS:
        key, value = sysctl["key"], sysctl["value"]
        before = _sysctl(key)
        if not before or before == value:
            return None
        return Fix(
            ("sysctl", "-q", "-w", f"{key}={value}"),
            f"sudo sysctl {key}={before}",
            f"{key}: {before} -> {value}, until the next boot",
        )
    apt = _APT.search(cure)
    if apt:
        packages = [word for word in apt["words"].split() if not word.startswith("-")]
        # Prose may follow the command: only its leading words that are packages count.
        wanted = []
        for package in packages:
            if not PACKAGES.fullmatch(package):
                break
            wanted.append(package)
        if "linux-perf" in wanted and _is_ubuntu():
            wanted = ["linux-tools-generic" if word == "linux-perf" else word for word in wanted]
        if wanted and shutil.which("apt-get"):
            return Fix(
                # What is installed stays as it is: an upgrade could not be undone.
                (
                    "apt-get",
                    "install",
                    "-y",
                    "-q",
                    "--no-install-recommends",
                    "--no-upgrade",
                    "-o",
                    "DPkg::Lock::Timeout=120",
                    *wanted,
                ),
                _undo_of_install(wanted),
                f"packages, with what they need: {' '.join(wanted)}",
            )
    return None


def run(fix: Fix, *, root: bool, sudo: bool) -> None:
    """Run one fix as root or by `sudo -n`; CollectError where that is not allowed or fails.

    Asks nothing. What the command says goes to our own stderr.
    """
    if not root and not sudo:
        raise CollectError(
            f"`{fix}` needs root, and `sudo -n` is refused here",
            "run it yourself, then doctor again",
        )
    command = fix.command if root else ("sudo", "-n", *fix.command)
    seconds = INSTALL_SECONDS if fix.command[0] == "apt-get" else _SUDO_SECONDS
    # A plain user's PATH on Debian has no sbin, where sysctl lives.
    path = f"{os.environ.get('PATH', os.defpath)}:/usr/sbin:/sbin"
    environment = {**os.environ, "DEBIAN_FRONTEND": "noninteractive", "PATH": path}
    if not root and fix.command[0] == "apt-get":
        command = ("sudo", "-n", "env", "DEBIAN_FRONTEND=noninteractive", *fix.command)
    program = shutil.which(command[0], path=path)
    if program is None:
        raise CollectError(f"`{fix}`: there is no {command[0]} here")
    try:
        done = subprocess.run(
            [program, *command[1:]],
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            errors="replace",
            timeout=seconds,
            env=environment,
            check=False,
        )
    except (OSError, subprocess.SubprocessError) as error:
        raise CollectError(f"`{fix}` failed: {error}") from None
    if done.returncode != 0:
        lines = (done.stderr.strip() or done.stdout.strip()).splitlines()[-_TAIL_LINES:]
        raise CollectError(f"`{fix}` ended with {done.returncode}: {' / '.join(lines)}")


def _undo_of_install(packages: Sequence[str]) -> str:
    """Return what removes those packages that are not there yet: others' are not ours to remove."""
    try:
        told = subprocess.run(
            ["dpkg-query", "-W", "-f", "${db:Status-Status} ${Package}\n", *packages],
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            errors="replace",
            timeout=_SUDO_SECONDS,
            check=False,
        ).stdout
    except (OSError, subprocess.SubprocessError):
        told = ""
    there = {line.split()[1] for line in told.splitlines() if line.startswith("installed ")}
    new = [package for package in packages if package not in there]
    if not new:
        return "nothing: all of it is installed already"
    return f"sudo apt-get remove --autoremove {' '.join(new)}"


def _is_ubuntu() -> bool:
    try:
        told = Path("/etc/os-release").read_text(encoding="utf-8", errors="replace")
    except OSError:
        return False
    return re.search(r"^ID=\"?ubuntu\"?$", told, re.MULTILINE) is not None


def _sysctl(key: str) -> str:
    """Return the value that a kernel setting has, empty where it has none."""
    try:
        return Path("/proc/sys", *key.split(".")).read_text(encoding="ascii").strip()
    except (OSError, ValueError):
        return ""
