"""Stage 1, edge: whether a command is Python, and what its interpreter would import.

Asked before recording: it decides the collector, names the version that runs are compared
by, and tells which entries of `sys.path` must point into a worktree.
"""

import json
import os
import re
import shutil
import subprocess
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from ci_flame.record import layout

_NAME: Final = re.compile(r"(?:python|pypy)[\d.]*t?", re.ASCII)
_MENTION: Final = re.compile(r"(?:^|[\s;&|('\"/=])((?:python|pypy)[\d.]*t?|pytest|[^\s;&|]+\.py)\b")
_WRAPPERS: Final = frozenset(
    {
        "sh", "bash", "dash", "zsh", "env", "nice", "ionice", "taskset", "timeout", "time",
        "chrt", "numactl", "stdbuf", "setsid", "xvfb-run", "make", "uv", "poetry", "pdm",
        "hatch", "tox", "nox", "sudo",
    }
)  # fmt: skip
"""Programs whose arguments are a command; more are recorded as what they are: not Python."""
_QUESTION: Final = """
import json, os, platform, sys
path = [os.path.realpath(p) for p in sys.path[1:] if p]
for finder in sys.meta_path:
    mapping = getattr(sys.modules.get(getattr(finder, "__module__", "")), "MAPPING", None)
    if isinstance(mapping, dict):
        path += [os.path.dirname(os.path.realpath(str(p))) for p in mapping.values()]
try:
    lies = [int(open("/proc/self/personality").read(), 16), open("/proc/self/maps").read()]
except OSError:
    lies = [0, ""]
print(json.dumps([platform.python_version(), path, *lies]))
"""
"""Editable installs come as a finder with a MAPPING (setuptools) or as entries of sys.path."""
_TIMEOUT_S: Final = 20


@dataclass(frozen=True, slots=True)
class Interpreter:
    """The Python that a command runs, as far as can be told without running it."""

    python: bool
    """True: Python frames are wanted."""
    version: str = ""
    """Full version (`3.11.7`); empty where it could not be asked."""
    layout: str = layout.RANDOM
    """Where its code lies, as `layout.describe` tells it."""
    path: tuple[str, ...] = ()
    """Its `sys.path` and the folders of its editable installs, real paths."""


def find(command: Sequence[str], folder: Path, environment: Mapping[str, str]) -> Interpreter:
    """Return what is known of the command's interpreter; never raises."""
    python = program(command, folder, environment)
    if python is None:
        return Interpreter(python=False)
    try:
        with layout.held():  # as the command itself will be started
            answer = subprocess.run(
                [python, "-c", _QUESTION],
                cwd=folder,
                env=dict(environment),
                stdin=subprocess.DEVNULL,
                capture_output=True,
                timeout=_TIMEOUT_S,
                check=False,
            )
        version, path, personality, maps = json.loads(answer.stdout)
        lies = layout.described(int(personality), str(maps))
        return Interpreter(
            python=True, version=str(version), layout=lies, path=tuple(map(str, path))
        )
    except (OSError, ValueError, TypeError, subprocess.SubprocessError):
        return Interpreter(python=True)


def is_python(word: str) -> bool:
    """Tell whether a command's first word is an interpreter (`python3`, `.venv/bin/python`)."""
    return _NAME.fullmatch(Path(word).name) is not None


def program(command: Sequence[str], folder: Path, environment: Mapping[str, str]) -> str | None:
    """Return the path or name of the Python that the command runs, or None."""
    search = environment.get("PATH", os.defpath)
    first = Path(command[0]).name
    if _NAME.fullmatch(first):
        return _locate(command[0], folder, search)
    by_shebang = _shebang(_locate(command[0], folder, search))
    if by_shebang is not None:
        words = by_shebang[1:] if Path(by_shebang[0]).name == "env" else by_shebang[:1]
        for word in words:
            if _NAME.fullmatch(Path(word).name):
                return _locate(word, folder, search)
    if first not in _WRAPPERS:
        return None
    mention = _MENTION.search(" ".join(command[1:]))
    if mention is None:
        return None
    named = [word for word in command[1:] if _NAME.fullmatch(Path(word).name)]
    word = named[0] if named else mention[1] if _NAME.fullmatch(mention[1]) else "python3"
    return _locate(word, folder, search)


def _locate(word: str, folder: Path, search: str) -> str:
    """Return the path of a program as the command would find it, or the word itself."""
    if "/" in word:
        return str(folder / word)
    return shutil.which(word, path=search) or word


def _shebang(program: str) -> list[str] | None:
    try:
        with Path(program).open("rb") as stream:
            line = stream.read(256).partition(b"\n")[0]
    except OSError:
        return None
    if not line.startswith(b"#!"):
        return None
    return line[2:].decode(errors="replace").split() or None
