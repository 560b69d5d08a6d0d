"""Edge: the runner of GitHub Actions around us: its variables, its files, its log."""

import os
import secrets
import stat
import sys
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Final

from ci_flame.errors import UsageError
from ci_flame.github import commands
from ci_flame.github.job import MAX_PAYLOAD, Job, parse
from ci_flame.pipeline import reasons

TOKENS: Final = ("CI_FLAME_GITHUB_TOKEN", "GITHUB_TOKEN")
"""Where a token is looked for, in this order; the first is the input `github-token`."""


def job(given: Mapping[str, str] = os.environ) -> Job:
    """Return the job that we run in; UsageError where its variables are not GitHub's."""
    return parse(given, _payload(given), has_token=bool(token(given)))


def token(given: Mapping[str, str] = os.environ) -> str:
    """Return the token of the job; empty where it has none."""
    return next((text for name in TOKENS if (text := given.get(name, "").strip())), "")


def _payload(given: Mapping[str, str]) -> str:
    """Return the text of the event's payload; empty where it cannot be read."""
    place = given.get("GITHUB_EVENT_PATH", "")
    if not place:
        return ""
    try:
        with Path(place).open("rb") as file:
            # One byte more than may be: `parse` then tells that it is too long.
            data = file.read(MAX_PAYLOAD + 1)
    except OSError:
        return ""
    return data.decode("utf-8", "replace")


def given_input(name: str, default: str = "", given: Mapping[str, str] = os.environ) -> str:
    """Return an input of the action: `baseline-branch` is CI_FLAME_BASELINE_BRANCH."""
    variable = f"CI_FLAME_{name.upper().replace('-', '_')}"
    return given.get(variable, "").strip() or default


def given_lines(name: str, given: Mapping[str, str] = os.environ) -> tuple[str, ...]:
    """Return an output of an earlier step that may have several lines; none are empty."""
    text = given_input(name, "", given)[: reasons.MAX_BYTES]
    lines = (reasons.shortened(line.strip()) for line in text.splitlines())
    return tuple(line for line in lines if line)[: reasons.MAX_LINES]


def output(**values: str) -> None:
    """Set outputs of this step: `exit_code` is `exit-code`. Without a runner they are printed."""
    named = {name.replace("_", "-"): value for name, value in values.items()}
    if not os.environ.get("GITHUB_OUTPUT"):
        for name, value in named.items():
            say(f"{name}={value}")
        return
    _append("GITHUB_OUTPUT", commands.outputs(named, f"end-{secrets.token_hex(16)}"))


def summary(text: str) -> bool:
    """Append to the job's summary page; False without a runner."""
    if not os.environ.get("GITHUB_STEP_SUMMARY"):
        return False
    _append("GITHUB_STEP_SUMMARY", text)
    return True


def _append(variable: str, text: str) -> None:
    try:
        with Path(os.environ[variable]).open("ab") as file:
            file.write(text.encode("utf-8", "backslashreplace"))
    except OSError as error:
        reason = (error.strerror or type(error).__name__).lower()
        raise UsageError(f"the file of {variable} cannot be written: {reason}") from None


def say(line: str) -> None:
    """Print one line that is no command of the runner, whatever it holds."""
    _write(commands.escape_line(line))


def annotate(
    level: str, message: str, *, title: str = commands.TITLE, file: str = "", line: int = 0
) -> None:
    """Print an annotation: `error`, `warning` or `notice`."""
    _write(commands.annotation(level, message, title=title, file=file, line=line))


def show_group(title: str, lines: tuple[str, ...]) -> None:
    """Print lines folded under a title, none of them a command."""
    _write(commands.group(title, lines))


@contextmanager
def fenced() -> Iterator[None]:
    """Let nothing that is printed inside be a command of the runner."""
    begin, end = commands.fence(secrets.token_hex(16))
    _write(begin)
    try:
        yield
    finally:
        # On a line of its own, though the program's last one may have had no end.
        _write(f"\n{end}")


def _write(text: str) -> None:
    sys.stdout.flush()
    sys.stdout.buffer.write(f"{text}\n".encode("utf-8", "backslashreplace"))
    sys.stdout.buffer.flush()


def scratch(job: Job) -> Path:
    """Return the folder for what this job alone needs: in the runner's own, or the system's.

    The system's is everybody's: there it is called by our user, and must be ours.
    """
    if job.temp:
        return Path(job.temp) / "ci-flame"
    place = Path(tempfile.gettempdir()) / f"ci-flame-{os.getuid()}"
    try:
        place.mkdir(mode=0o700, exist_ok=True)
        status = place.lstat()
    except OSError as error:
        reason = (error.strerror or type(error).__name__).lower()
        raise UsageError(f"{place} cannot be used: {reason}", "set RUNNER_TEMP") from None
    if not stat.S_ISDIR(status.st_mode) or status.st_uid != os.getuid():
        raise UsageError(f"{place} is not a folder of this user", "set RUNNER_TEMP to one")
    return place
