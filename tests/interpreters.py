"""The CPythons that are here, and targets that run under them."""

import contextlib
import importlib.util
import subprocess
import sys
from functools import cache
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
STAGES = ROOT / "tests" / "stages.py"
NEWER = ("3.13", "3.14", "3.15")
"""What every machine that runs all tests has: found, or fetched by tools/pythons.py."""


@cache
def pythons_tool():
    spec = importlib.util.spec_from_file_location("pythons_tool", ROOT / "tools" / "pythons.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@cache
def interpreter(version):
    """Return the path of a CPython `3.N`, or None."""
    if version == "system":
        found = pythons_tool().answer("/usr/bin/python3")
        return Path("/usr/bin/python3") if found.startswith(("3.11.", "3.12.")) else None
    if version == f"3.{sys.version_info.minor}":
        return Path(sys.executable)
    found = pythons_tool().find(version)
    return found[1] if found else None


def every_interpreter():
    """Return one parameter for each version; a newer one that is missing is a skip."""
    parameters = []
    for version in ("system", "3.11", "3.12", *NEWER):
        path = interpreter(version)
        if path is not None:
            parameters.append(pytest.param(path, id=version))
        elif version in NEWER:
            reason = f"CPython {version} was neither found nor fetched: run tools/pythons.py"
            parameters.append(pytest.param(None, id=version, marks=pytest.mark.skip(reason=reason)))
    return parameters


class Target:
    """A running `stages.py`."""

    def __init__(self, process):
        self._process = process
        self.pid = process.pid

    def run(self, stage):
        """Let it do one stage; return what it says of it."""
        self.begin(stage)
        return self.end(stage)

    def begin(self, stage):
        self._process.stdin.write(f"{stage}\n")
        self._process.stdin.flush()

    def end(self, stage):
        told = self._process.stdout.readline()
        assert told.startswith("done"), f"{stage}: the target ended with {self._process.poll()}"
        return told.removeprefix("done").strip()


@contextlib.contextmanager
def stages(python, *prefix, inner=0):
    """Start the program of stages; `inner` says how many processes the prefix puts above it."""
    command = [*map(str, prefix), str(python), "-S", str(STAGES)]
    with subprocess.Popen(
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as process:
        try:
            target = Target(process)
            target.run("nothing")
            for _ in range(inner):
                children = Path(f"/proc/{target.pid}/task/{target.pid}/children")
                (target.pid,) = map(int, children.read_text().split())
            yield target
        finally:
            process.stdin.close()
            process.kill()
