"""Stage 1, edge: a program of bpftrace that cannot outlive whoever wanted it.

    python -I guard.py SECONDS COMMAND…      (as root, or by sudo)

It runs until its standard input ends, because the owner closed it or died, also by `kill -9`.
Then the program is asked to print its maps (SIGINT) and, SECONDS later, killed; at once, if
anything was written to it, as nobody wants the maps. Nothing is imported from ci_flame: this
file may run as root.
"""

import os
import select
import signal
import subprocess
import sys
import time

POLL_SECONDS = 0.05
LISTEN_SECONDS = 3.0
KILLED = 137
TRACEFS = "/sys/kernel/tracing"
"""Where the kernel describes its tracepoints; containers and small systems do not mount it."""
MOUNT = (
    f'[ -d {TRACEFS}/events ] || mount -t tracefs tracefs {TRACEFS} 2>/dev/null; exec "$@"'
)  # fmt: skip


def has_tracefs() -> bool:
    """Tell whether tracepoints can be found as the system is."""
    return any(os.path.isdir(f"{each}/events") for each in (TRACEFS, "/sys/kernel/debug/tracing"))  # noqa: PTH112 - stdlib only, as light as may be


def main(words: list[str]) -> int:
    """Run the command and return its exit code, 137 if it had to be killed."""
    seconds, command = float(words[0]), words[1:]
    if not has_tracefs():
        # In a mount namespace of its own: the machine stays as it is.
        command = ["unshare", "--mount", "sh", "-c", MOUNT, "sh", *command]
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, signal.SIG_IGN)
    child = subprocess.Popen(
        command,
        stdin=subprocess.DEVNULL,
        process_group=0,
        preexec_fn=_as_usual,  # noqa: PLW1509 - there are no threads here
    )
    while child.poll() is None:
        ready, _, _ = select.select([sys.stdin], [], [], POLL_SECONDS)
        if ready:
            return _end(child, 0.0 if os.read(sys.stdin.fileno(), 64) else seconds)
    return _code(child.returncode)


def _as_usual() -> None:
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, signal.SIG_DFL)


def _end(child: "subprocess.Popen[bytes]", seconds: float) -> int:
    deadline = time.monotonic() + seconds
    # bpftrace says that it is attached before it listens: until then SIGINT would kill it.
    listening = time.monotonic() + min(LISTEN_SECONDS, seconds / 2)
    while child.poll() is None and not _listens(child.pid) and time.monotonic() < listening:
        time.sleep(POLL_SECONDS)
    heard = False
    while child.poll() is None and time.monotonic() < deadline:
        listens = _listens(child.pid)
        if listens or not heard:
            # Again where it still listens. Where it no longer does it has heard and prints its
            # maps, for seconds on a busy machine: now SIGINT would kill it.
            _signal(child.pid, signal.SIGINT)
            heard = heard or listens
        try:
            child.wait(max(0.1, min(2.0, deadline - time.monotonic())))
        except subprocess.TimeoutExpired:
            continue
    if child.poll() is None:
        _signal(child.pid, signal.SIGKILL)
        child.wait()
        return KILLED
    return _code(child.returncode)


def _listens(pid: int) -> bool:
    """Tell whether a process catches SIGINT."""
    try:
        with open(f"/proc/{pid}/status", encoding="ascii", errors="replace") as status:  # noqa: PTH123 - stdlib only, as light as may be
            caught = next(line for line in status if line.startswith("SigCgt:"))
    except (OSError, StopIteration):
        return True
    return bool(int(caught.split()[1], 16) >> (signal.SIGINT - 1) & 1)


def _signal(pid: int, number: int) -> None:
    try:
        os.killpg(pid, number)
    except OSError:
        return


def _code(code: int) -> int:
    return code if code >= 0 else 128 - code


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
