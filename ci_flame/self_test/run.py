"""Edge: runs pytest with the self-test's plugin, and reads what it left."""

import os
import shlex
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path

from ci_flame.config import Config
from ci_flame.errors import CollectError, InterruptedRunError
from ci_flame.pipeline import pytest_command
from ci_flame.pytest_plugin.before_side import SELF_TEST_VARIABLE
from ci_flame.self_test import hooks
from ci_flame.self_test.figures import SelfTest, Tested, decode_one
from ci_flame.self_test.suite import Wishes


def command_of(words: Sequence[str]) -> list[str]:
    """Return the command that runs pytest: the words if they do, else pytest with the words."""
    if words and pytest_command.is_pytest(words):
        return list(words)
    return [sys.executable, "-m", "pytest", *words]


def run(config: Config, wishes: Wishes, words: Sequence[str], *, stdout: int | None) -> SelfTest:
    """Test the gate on a suite.

    Raises CollectError where no benchmark could be tested; where some tests failed beside
    those that could, the figures say so in a note.
    """
    command = command_of(words)
    began = time.monotonic()
    with tempfile.TemporaryDirectory(prefix="ci-flame-self-test-") as name:
        folder = Path(name)
        hooks.write_wishes(wishes, folder)
        plugin = shlex.join(["-p", hooks.MODULE])
        ours = f"{os.environ.get('PYTEST_ADDOPTS', '')} {plugin}".strip()
        with _environment({SELF_TEST_VARIABLE: name, "PYTEST_ADDOPTS": ours}):
            try:
                ended = pytest_command.run(command, config, stdout=stdout)
            except InterruptedRunError:
                done = len(list(folder.glob("*.tested")))
                raise InterruptedRunError(
                    f"interrupted after {done} benchmarks: a self-test has figures at its end only",
                    "--max-seconds S ends it in time, with figures",
                ) from None
        tested = tuple(_read(folder))
    if not tested:
        _complain(ended)
    notes: tuple[str, ...] = ()
    if ended != 0:
        notes = (f"pytest ended with exit code {ended}: not every benchmark was tested",)
    return SelfTest(tested, took_s=time.monotonic() - began, notes=notes, ended=ended)


def _read(folder: Path) -> Iterator[Tested]:
    for file in sorted(folder.glob("*.tested")):
        yield decode_one(file.read_text(encoding="utf-8"), str(file))


def _complain(ended: int) -> None:
    """Raise for a pytest that tested nothing: with a cure for each way that it can end."""
    if ended == pytest_command.NO_TESTS:
        raise CollectError("pytest found no test", "look at the selection: -k, -m and the paths")
    if ended == 0:
        raise CollectError(
            "pytest passed, but no test is a benchmark: there is no gate to test",
            "use the flame or benchmark fixture, or @pytest.mark.flame",
        )
    raise CollectError(
        f"pytest ended with exit code {ended} before any benchmark was tested",
        "what failed is in its output above",
    )


@contextmanager
def _environment(more: Mapping[str, str]) -> Iterator[None]:
    """Set variables for a while."""
    before = {name: os.environ.get(name) for name in more}
    os.environ.update(more)
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                os.environ.pop(name, None)
            else:
                os.environ[name] = value
