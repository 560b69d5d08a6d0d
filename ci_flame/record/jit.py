"""Stage 1, edge: what makes Java and Node tell the names and callers of compiled functions.

    --jit java   JAVA_TOOL_OPTIONS  frame pointers; the map of compiled code, written at exit
    --jit node   NODE_OPTIONS       a map of compiled functions; interpreted ones as well

The flags travel in the environment, so that a JVM or a Node behind `mvn`, `npx` or a shell gets
them too. They are tried on the runtime that is found before anything is recorded; where Node
refuses one in NODE_OPTIONS, a folder in front of PATH holds a `node` that adds them.
"""

import os
import re
import shlex
import shutil
import subprocess
import tempfile
from collections.abc import Mapping, Sequence
from contextlib import ExitStack, suppress
from dataclasses import dataclass, replace
from enum import StrEnum
from functools import lru_cache
from pathlib import Path
from typing import Final

from ci_flame.baseline import git
from ci_flame.errors import BaselineError, CollectError
from ci_flame.profile import Kind, Stack

JAVA_VARIABLE: Final = "JAVA_TOOL_OPTIONS"
NODE_VARIABLE: Final = "NODE_OPTIONS"
MARK_VARIABLE: Final = "CI_FLAME_JIT"
"""In the command's environment: tells its processes from others that write maps into /tmp."""
JAVA_FLAGS: Final = (
    "-XX:+PreserveFramePointer",
    "-XX:+UnlockDiagnosticVMOptions",
    "-XX:+DumpPerfMapAtExit",
)
"""The map at exit is complete: with it HotSpot frees no compiled code before (JDK 17 and newer)."""
OLD_JAVA_FLAGS: Final = JAVA_FLAGS[:1]
"""What a JVM before 17 knows of them: stacks, but names only of one that `jcmd` can ask."""
NODE_FLAGS: Final = ("--perf-basic-prof-only-functions", "--interpreted-frames-native-stack")
_PROBE_S: Final = 30
_WORDS: Final = 160
_JAVA: Final = re.compile(r"(?:^|[\s;&|(/])(?:java|mvn|mvnw|gradle|gradlew|ant|sbt|kotlin|scala)\b")
_NODE: Final = re.compile(
    r"(?:^|[\s;&|(/])(?:node|nodejs|npm|npx|yarn|pnpm|pnpx|tsx|ts-node|jest|vitest|mocha)\b"
    r"|\.[cm]?js\b"
)


class Jit(StrEnum):
    """Which runtimes' compiled functions are wanted."""

    NONE = "none"
    JAVA = "java"
    NODE = "node"
    AUTO = "auto"
    """Both, where they are installed; kept of them what the command turns out to run."""


@dataclass(frozen=True, slots=True)
class Runtimes:
    """What is added to the environment of a command."""

    variables: Mapping[str, str]
    """Variable -> words that are appended to it."""
    shim: str = ""
    """Folder that goes in front of PATH; empty: none."""
    command_flags: Sequence[str] = ()
    """Flags to put behind a command's first word, where that is a path to Node itself."""
    notes: Sequence[str] = ()
    """What the user must know: older Java, a flag that was refused."""

    def environment(self, given: Mapping[str, str], mark: str) -> dict[str, str]:
        """Return the environment with the flags behind those that are there, and the mark."""
        added = {**given, MARK_VARIABLE: mark}
        for variable, words in self.variables.items():
            added[variable] = f"{given[variable]} {words}" if given.get(variable) else words
        if self.shim:
            added["PATH"] = os.pathsep.join([self.shim, given.get("PATH", os.defpath)])
        return added

    def command(self, words: Sequence[str]) -> tuple[str, ...]:
        """Return the command; one that names Node by its path gets the flags itself."""
        if self.command_flags and "/" in words[0] and _is_node(Path(words[0]).name):
            return (words[0], *self.command_flags, *words[1:])
        return tuple(words)


def mentioned(command: Sequence[str]) -> tuple[Jit, ...]:
    """Return the runtimes that the words of a command name."""
    text = " ".join(command)
    found = [(Jit.JAVA, _JAVA.search(text)), (Jit.NODE, _NODE.search(text))]
    return tuple(jit for jit, match in found if match)


def prepare(
    wanted: Jit,
    command: Sequence[str],
    environment: Mapping[str, str],
    folder: Path,
    stack: ExitStack,
    *,
    node_flags: Sequence[str] = NODE_FLAGS,
) -> Runtimes:
    """Return what makes the wanted runtimes tell their names, each tried for real.

    A shim folder lives as long as `stack`. Raises CollectError where a runtime that was asked
    for by name is not installed or refuses its flags; `auto` leaves it out and says so.
    """
    variables: dict[str, str] = {}
    notes: list[str] = []
    shim, flags = "", tuple[str, ...]()
    for jit in (Jit.JAVA, Jit.NODE):
        if wanted not in {jit, Jit.AUTO}:
            continue
        program = _program(jit, command, environment, folder)
        if program is None:
            if wanted is jit:
                raise _missing(jit)
            continue
        try:
            if jit is Jit.JAVA:
                variables[JAVA_VARIABLE] = shlex.join(_java_flags(program, environment, notes))
            elif not _refusal(program, environment, NODE_VARIABLE, node_flags):
                variables[NODE_VARIABLE] = " ".join(node_flags)
            else:
                shim, flags = _shim(program, environment, node_flags, stack), tuple(node_flags)
        except CollectError as error:
            if wanted is jit:
                raise
            notes.append(error.message)
    return Runtimes(variables, shim, flags, tuple(notes))


def _java_flags(program: str, environment: Mapping[str, str], notes: list[str]) -> Sequence[str]:
    refused = _refusal(program, environment, JAVA_VARIABLE, JAVA_FLAGS)
    if not refused:
        return JAVA_FLAGS
    again = _refusal(program, environment, JAVA_VARIABLE, OLD_JAVA_FLAGS)
    if again:
        raise CollectError(
            f"{program} does not run with {JAVA_VARIABLE}={' '.join(OLD_JAVA_FLAGS)}: {again}",
            "record with a HotSpot JVM of version 17 or newer",
        )
    notes.append(
        f"{program} writes no map at its exit ({refused}): functions are named only while the"
        " JVM still runs when the command has ended; Java 17 and newer name all"
    )
    return OLD_JAVA_FLAGS


def _shim(
    program: str, environment: Mapping[str, str], flags: Sequence[str], stack: ExitStack
) -> str:
    """Return a folder with a `node` that adds the flags; CollectError where they are unknown."""
    refused = _run([program, *flags, "--version"], dict(environment))
    if refused:
        raise CollectError(
            f"{program} does not run with {' '.join(flags)}: {refused}",
            f"mend {NODE_VARIABLE}, which holds: {given}"
            if (given := environment.get(NODE_VARIABLE))
            else "record with Node 12.5 or newer, or without --jit",
        )
    folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="ci-flame-node-")))
    folder.chmod(0o755)
    script = folder / "node"
    script.write_text(f'#!/bin/sh\nexec {shlex.join([program, *flags])} "$@"\n', encoding="utf-8")
    script.chmod(0o755)
    return str(folder)


def _refusal(
    program: str, environment: Mapping[str, str], variable: str, flags: Sequence[str]
) -> str:
    """Return in one line why a runtime does not start with the flags added; empty: it does."""
    given = environment.get(variable, "")
    added = {**environment, variable: f"{given} {' '.join(flags)}".strip()}
    question = "-version" if variable == JAVA_VARIABLE else "--version"
    return _run([program, question], added)


def _run(words: Sequence[str], environment: Mapping[str, str]) -> str:
    """Run a runtime's version question; return what it says if it fails, else nothing."""
    process: subprocess.Popen[bytes] | None = None
    try:
        process = subprocess.Popen(
            words,
            env=dict(environment),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
        )
        _, said = process.communicate(timeout=_PROBE_S)
    except subprocess.TimeoutExpired:
        return f"it did not end within {_PROBE_S} s"
    except OSError as error:
        return str(error.strerror)
    finally:
        if process is not None:
            if process.poll() is None:
                process.kill()
                process.communicate()
            # Asked with the flags on, it may have written a map of its own.
            with suppress(OSError):
                Path(f"/tmp/perf-{process.pid}.map").unlink()  # noqa: S108 - where perf looks
    if process.returncode == 0:
        return ""
    lines = [line.strip() for line in said.decode(errors="replace").splitlines()]
    told = [line for line in lines if line and not line.startswith("Picked up ")]
    return (told[0] if told else f"exit code {process.returncode}")[:_WORDS]


def _program(
    jit: Jit, command: Sequence[str], environment: Mapping[str, str], folder: Path
) -> str | None:
    """Return the runtime that a command most likely runs: its own word, JAVA_HOME, PATH."""
    search = environment.get("PATH", os.defpath)
    is_it = _is_java if jit is Jit.JAVA else _is_node
    for word in command:
        if is_it(Path(word).name):
            found = shutil.which(str(folder / word) if "/" in word else word, path=search)
            if found:
                return found
    home = environment.get("JAVA_HOME", "") if jit is Jit.JAVA else ""
    if home and (found := shutil.which(str(Path(home) / "bin" / "java"))):
        return found
    names = ("java",) if jit is Jit.JAVA else ("node", "nodejs")
    return next((found for name in names if (found := shutil.which(name, path=search))), None)


def _missing(jit: Jit) -> CollectError:
    if jit is Jit.JAVA:
        return CollectError(
            "--jit java: no java program in the command, in JAVA_HOME or on PATH",
            "sudo apt-get install openjdk-17-jdk-headless, or set JAVA_HOME",
        )
    return CollectError(
        "--jit node: no node program in the command or on PATH",
        "sudo apt-get install nodejs, or put its folder on PATH",
    )


def _is_java(name: str) -> bool:
    return name == "java"


def _is_node(name: str) -> bool:
    return name in {"node", "nodejs"}


# -- names ----------------------------------------------------------------------------


def roots(folder: Path) -> tuple[str, ...]:
    """Return the folders that JavaScript files are named from: the repository's top, the folder."""
    found = [os.path.realpath(folder)]
    with suppress(BaselineError):
        found.insert(0, os.path.realpath(git.top_level(folder)))
    return tuple(dict.fromkeys(found))


def relative(stack: Stack, folders: tuple[str, ...]) -> Stack:
    """Return the stack without absolute paths: `/home/me/shop/src/a.js:f` is `src/a.js:f`.

    Of packages the path below `node_modules` stays, of files elsewhere their last name: two
    checkouts, and two machines, name their functions alike.
    """
    return tuple(
        replace(frame, function=_relative(frame.function, folders))
        if frame.kind is Kind.JIT and frame.function.startswith("/")
        else frame
        for frame in stack
    )


@lru_cache(maxsize=65_536)
def _relative(name: str, folders: tuple[str, ...]) -> str:
    path, colon, function = name.partition(":")
    _, packages, inside = path.rpartition("/node_modules/")
    if packages:
        path = f"node_modules/{inside}"
    else:
        inside = next((each for each in folders if path.startswith(f"{each}/")), "")
        path = path[len(inside) + 1 :] if inside else path.rpartition("/")[2]
    return f"{path}{colon}{function}"
