"""Edge: recognises a command that runs pytest, and runs it with ci_flame's options.

The options go through `PYTEST_ADDOPTS`, so that scripts, tox and makefiles that call pytest
pass them on without knowing.
"""

import os
import re
import shlex
import signal
import subprocess
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Final

from ci_flame import report_folder
from ci_flame.config import BaselineKind, Config, RecordConfig
from ci_flame.errors import CollectError, InterruptedRunError
from ci_flame.verdict import Outcome

_PROGRAMS: Final = frozenset({"pytest", "py.test"})
_PYTHON: Final = re.compile(r"(?:python|pypy)[\d.]*t?", re.ASCII)
GRACE_S: Final = 30.0
"""How long pytest may take to clean up after Ctrl-C."""

TESTS_FAILED, INTERRUPTED, BAD_USAGE, NO_TESTS = 1, 2, 4, 5
"""pytest's own exit codes that are told apart; 3 is an internal error."""


def is_pytest(command: Sequence[str]) -> bool:
    """Return whether the command runs pytest itself: `pytest …` or `python [-X …] -m pytest …`.

    Wrappers (`tox`, `make test`) are not seen through; `check --pytest` says so.
    """
    name = Path(command[0]).name
    if name in _PROGRAMS:
        return True
    if not _PYTHON.fullmatch(name):
        return False
    words = iter(command[1:])
    for word in words:
        if word == "-m":
            return next(words, "") == "pytest"
        if word in ("-X", "-W"):
            next(words, None)
        elif not word.startswith("-") or word == "-c":
            return False
        elif word.startswith("-m"):
            return word == "-mpytest"
    return False


def options(config: Config) -> list[str]:
    """Return the options of the plugin that repeat `config`; paths are absolute."""
    record = config.record
    words = ["--flame", "--flame-out", str(config.out.absolute())]
    words += ["--flame-report", str(config.report.absolute())]
    baseline = config.baseline
    if baseline.kind in (BaselineKind.FOLDER, BaselineKind.STORE, BaselineKind.TREE):
        baseline = replace(baseline, value=str(Path(baseline.value).absolute()))
    words += ["--flame-baseline", str(baseline)]
    if baseline.kind is BaselineKind.STORE:
        words += ["--flame-keep", str(config.keep)]
        words += ["--flame-anchor", config.anchor] if config.anchor else []
    if config.policy_file is not None:
        words += ["--flame-policy", str(config.policy_file.absolute())]
    if config.base.changed_since:
        words += ["--flame-changed-since", config.base.changed_since]
    if config.base.setup.before:
        words += ["--flame-setup", config.base.setup.before]
    words += ["--flame-collector", record.collector]
    usual = RecordConfig()
    words += ["--flame-event", record.event] if record.event != usual.event else []
    if record.call_graph != usual.call_graph:
        words += ["--flame-call-graph", record.call_graph]
    words += ["--flame-frequency", str(record.frequency_hz)]
    words += ["--flame-processes", str(record.processes)]
    words += ["--flame-seconds", f"{record.seconds:g}"]
    words += [word for mode in record.modes for word in ("--flame-mode", mode.value)]
    words += ["--flame-max-seconds", f"{record.max_seconds:g}"]
    words += ["--flame-until-decided"] if record.until_decided else []
    if record.collector == "replay" and record.replay is not None:
        words += ["--flame-replay", str(record.replay.absolute())]
    if config.quick:
        words.append("--flame-quick")
    return words


def environment(config: Config, inherited: Mapping[str, str]) -> dict[str, str]:
    """Return the environment with our options behind those the user has."""
    ours = shlex.join(options(config))
    theirs = inherited.get("PYTEST_ADDOPTS", "")
    return {**inherited, "PYTEST_ADDOPTS": f"{theirs} {ours}".strip()}


def run(command: Sequence[str], config: Config, *, stdout: int | None = None) -> int:
    """Run pytest to its end and return its exit code; `stdout`: where it prints, if not here.

    After Ctrl-C or SIGTERM pytest gets the time to end its own recording; then
    InterruptedRunError is raised.
    """
    kept_before = _run_file(config)
    try:
        # In a group of its own it gets Ctrl-C once, from us: a second one, as from a terminal
        # and from us, would cut its cleaning up short. A read of the terminal would stop that
        # group for ever, so that it has none.
        process = subprocess.Popen(
            list(command),
            env=environment(config, os.environ),
            stdin=subprocess.DEVNULL,
            stdout=stdout,
            process_group=0,
        )
    except OSError as error:
        raise CollectError(f"{command[0]} cannot be run: {error.strerror}") from None
    try:
        return process.wait()
    except (KeyboardInterrupt, InterruptedRunError):
        _end(process)
        kept = _run_file(config)
        if kept != kept_before and kept is not None:
            told = f"the benchmarks that had ended are kept in {config.out}, marked incomplete"
        else:
            told = "no benchmark had ended, and nothing of this build was kept"
            told += f"; {config.out} holds an earlier run" if kept is not None else ""
        raise InterruptedRunError(f"interrupted; {told}") from None


def _run_file(config: Config) -> tuple[int, int] | None:
    """Return what tells one written run from another; None where there is none."""
    from ci_flame.baseline.folder import RUN_JSON  # noqa: PLC0415 - protobuf, only where it runs

    try:
        found = (config.out / RUN_JSON).stat()
    except OSError:
        return None
    return found.st_ino, found.st_mtime_ns


def _end(process: "subprocess.Popen[bytes]") -> None:
    """Let pytest finish as after its own Ctrl-C, then insist.

    The whole group is told, as by a terminal: `make` and shells wait and pass nothing on.
    """
    _tell(process, signal.SIGINT)
    try:
        process.wait(GRACE_S)
    except (subprocess.TimeoutExpired, KeyboardInterrupt, InterruptedRunError):
        _tell(process, signal.SIGKILL)
        process.wait()


def _tell(process: "subprocess.Popen[bytes]", number: signal.Signals) -> None:
    with suppress(ProcessLookupError):
        os.killpg(process.pid, number)


def outcome(ended: int, report: Path) -> Outcome:
    """Return the outcome that the plugin stored; CollectError where it stored none."""
    if report_folder.is_report(report):
        return report_folder.outcome(report)
    if ended == NO_TESTS:
        raise CollectError("pytest found no test", "look at the selection: -k, -m and the paths")
    if ended != 0:
        cure = "its message is above"
        if ended == BAD_USAGE:
            cure += '; "unrecognized arguments: --flame" is a Python that ci-flame is not'
            cure += " installed for, or -p no:ci_flame in pytest's settings"
        raise CollectError(f"pytest ended with exit code {ended} and left no report", cure)
    raise CollectError(
        "pytest passed, but recorded no benchmark",
        "use the flame or benchmark fixture, or @pytest.mark.flame; -p no:ci_flame must not be set",
    )


def combine(ended: int, verdict_code: int) -> int:
    """Return the exit code of the build: the verdict's, unless pytest failed for other reasons."""
    if verdict_code != 0 or ended == 0:
        return verdict_code
    raise CollectError(
        f"pytest ended with exit code {ended}, and not because of a hot path",
        "the failures are in its output above",
    )
