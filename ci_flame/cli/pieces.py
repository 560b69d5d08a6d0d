"""Edge: what several commands share: configuration, names, printing, files."""
# ruff: noqa: PLC0415 - stages are imported by the command that needs them: --help stays quick

import errno
import os
import re
import sys
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Final

import click

from ci_flame.errors import CiFlameError, UsageError, WriteError

if TYPE_CHECKING:
    from ci_flame.config import Config
    from ci_flame.profile import Measurement, Run
    from ci_flame.verdict import Outcome, Verdict

DEFAULT_REPORT: Final = ".ci-flame/report"
CHANGED_SINCE: Final = "Label findings by git diff REV; default: the baseline's commit; or none."
_MAX_NAME: Final = 200
_OF_THE_DISK: Final = frozenset({errno.ENOSPC, errno.EDQUOT, errno.EIO})
_DURATION: Final = re.compile(r"(?P<number>\d{1,6})(?P<unit>[smh])?", re.ASCII)
_SECONDS: Final = {"s": 1, "m": 60, "h": 3600}


def configure(policy: str | None, **flags: object) -> "Config":
    """Return the configuration of the policy file and the flags that were given."""
    from ci_flame.config import build

    names = {"processes": "repeat"}
    try:
        return build(policy_file=policy, start=Path.cwd(), flags=flags)
    except UsageError as error:
        for key, shown in names.items():
            error.message = error.message.replace(f"--{key}", f"--{shown}")
        raise


def benchmark_name(name: str | None, command: tuple[str, ...]) -> str:
    """Return the benchmark's id: `--name`, or the command as far as it is sure to be no secret."""
    from ci_flame.pipeline.command_name import command_name

    chosen = command_name(command)[:_MAX_NAME] if name is None else name
    if not chosen.strip() or not chosen.isprintable():
        raise UsageError(f"{chosen!r} is not a name", "give --name one line of text")
    return chosen


def account(measurement: "Measurement") -> str:
    """Return one line on what was recorded, and what the collector cost."""
    from ci_flame.diff.figures import figures
    from ci_flame.report import machine

    processes = measurement.processes
    cpu_s = sum(each.cpu_ns for process in processes for each in process.rounds) / 1e9
    kept = sum(process.kept for process in processes)
    lost = sum(process.lost for process in processes)
    told = machine.line(figures(None, measurement))
    return (
        f"{measurement.benchmark}: {len(processes)} repetition{'s' * (len(processes) != 1)},"
        f" {cpu_s:.2f} s of CPU time, {kept} samples, {lost} lost{_waits(measurement)}"
        + (f"; {told}" if told else "")
    )


def live_account(measurement: "Measurement") -> str:
    """Return one line on what was recorded of processes that ran already."""
    (process,) = measurement.processes
    cpu_s = sum(each.cpu_ns for each in process.rounds) / 1e9
    return (
        f"{len(process.rounds)} s in slices of 1 s, {cpu_s:.2f} s of CPU time,"
        f" {process.kept} samples, {process.lost} lost{_waits(measurement)}"
    )


def _waits(measurement: "Measurement") -> str:
    from ci_flame.profile import Mode

    if Mode.OFF_CPU not in measurement.modes:
        return ""
    waited = measurement.profile(Mode.OFF_CPU)
    return f", {waited.samples} waits of {waited.value / 1e9:.2f} s in all"


def must_have_command(command: object, cure: str) -> None:
    """Raise UsageError where no command was given."""
    if not command:
        raise UsageError("COMMAND is missing", cure)


def must_be_of_a_store(config: "Config", **given: str | None) -> None:
    """Raise UsageError where an option that only a store reads goes with another baseline."""
    from ci_flame.config import BaselineKind

    named = [shown for shown, value in given.items() if value is not None]
    if named and config.baseline.kind is not BaselineKind.STORE:
        raise UsageError(
            f"{named[0]} says nothing with the baseline {config.baseline}",
            "it is for --baseline store:DIR",
        )


def duration_s(text: str) -> int:
    """Return the whole seconds of `30`, `30s`, `2m` or `1h`; UsageError for anything else."""
    found = _DURATION.fullmatch(text)
    if found is None:
        raise UsageError(f"--duration {text[:20]!r} is not a time", "give 30s, 2m or 1h")
    return int(found["number"]) * _SECONDS[found["unit"] or "s"]


def one_of(shown: str, word: str | None, known: tuple[str, ...]) -> str | None:
    """Return the word of option `shown`, or None where it was not given; else UsageError."""
    from ci_flame.config.yaml_tree import nearest, quote

    if word is None or word in known:
        return word
    raise UsageError(
        f"{shown}: {quote(word)} is not known{nearest(word, known)}",
        f"one of: {', '.join(known)}",
    )


def pick_benchmark(run: "Run", wanted: str | None) -> "Measurement":
    """Return the benchmark of that id, or the only one; UsageError where that is not clear."""
    from ci_flame.config.yaml_tree import nearest

    names = [each.benchmark for each in run.measurements]
    if wanted is None and len(names) == 1:
        return run.measurements[0]
    measurement = run.measurement(wanted) if wanted is not None else None
    if measurement is None:
        asked = "several benchmarks" if wanted is None else f"no benchmark {wanted}"
        guess = nearest(wanted, names) if wanted is not None else ""
        raise UsageError(
            f"the run holds {asked if names else 'no benchmark'}{guess}",
            "--benchmark takes one of: " + ", ".join(names[:20]) if names else "record one",
        )
    return measurement


def show(verdict: "Verdict") -> None:
    """Print a verdict as wide as the terminal."""
    from shutil import get_terminal_size

    from ci_flame.report import terminal

    colour = sys.stdout.isatty() and "NO_COLOR" not in os.environ
    click.echo(terminal.render(verdict, get_terminal_size((100, 24)).columns, colour=colour))


def publish(
    folder: Path, outcome: "Outcome | None", code: int, summary: str | None, output: str | None
) -> None:
    """Append the summary and the outputs to the files that a CI job collects them in."""
    if summary is not None:
        _append(Path(summary), (folder / "summary.md").read_bytes())
    if output is not None:
        told = outcome.value if outcome is not None else "error"
        lines = f"outcome={told}\nexit-code={code}\nreport={folder if outcome else ''}\n"
        _append(Path(output), lines.encode("utf-8", "backslashreplace"))


def _append(path: Path, data: bytes) -> None:
    try:
        with path.open("ab") as stream:
            stream.write(data)
    except OSError as error:
        raise _not_written(path, error) from None


def write_file(path: Path, data: bytes) -> None:
    """Write a file under a temporary name and rename it; UsageError or WriteError if that fails.

    Where a link leads is replaced, not the link. A device or a pipe is written into: `-o
    /dev/null` must not put a file in its place.
    """
    try:
        if path.exists() and not path.is_file():
            path.write_bytes(data)
            return
        place = Path(os.path.realpath(path))
        scratch = place.with_name(f".{place.name}.tmp-{os.getpid()}")
        try:
            scratch.write_bytes(data)
            scratch.replace(place)
        finally:
            with suppress(OSError):
                scratch.unlink()
    except OSError as error:
        raise _not_written(path, error) from None


def _not_written(path: Path, error: OSError) -> CiFlameError:
    """Return the error of a disk that is full or failing, or of a name that does not fit."""
    told = f"{path} cannot be written: {error.strerror}"
    if error.errno in _OF_THE_DISK:
        return WriteError(told, "make room, or name another place")
    return UsageError(told)


def must_be_appendable(shown: str, name: str | None) -> None:
    """Raise UsageError where a file of `publish` cannot be written; before a long recording."""
    if name is None:
        return
    path = Path(name)
    if path.is_dir():
        raise UsageError(f"{shown} {name}: it is a folder", "name a file")
    place = path if path.exists() else path.absolute().parent
    if not place.exists():
        raise UsageError(f"{shown} {name}: there is no folder {place}", f"mkdir -p {place}")
    if not os.access(place, os.W_OK):
        raise UsageError(f"{shown} {name}: {place} may not be written", "name another file")
