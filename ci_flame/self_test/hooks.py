"""Edge: the pytest plugin of a self-test, loaded by `-p` beside ci_flame's own.

In pytest itself it puts another suite into the recording session, in the further processes
another recorder. `CI_FLAME_SELF_TEST` names the folder with the wishes, where the figures go.
"""

import json
import os
import tempfile
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from ci_flame.pytest_plugin import PROVIDER
from ci_flame.pytest_plugin.before_side import SELF_TEST_VARIABLE
from ci_flame.pytest_plugin.session import Session
from ci_flame.record.processes import CHILD_VARIABLE
from ci_flame.self_test import live
from ci_flame.self_test.figures import Tested, encode_one
from ci_flame.self_test.suite import SelfTestSuite, Wishes

if TYPE_CHECKING:
    from collections.abc import Mapping

_WISHES = "wishes.json"
MODULE = __name__


def write_wishes(wishes: Wishes, folder: Path) -> None:
    """Write what pytest is to test, for the plugin to read."""
    (folder / _WISHES).write_text(json.dumps(asdict(wishes)), encoding="utf-8")


def _read_wishes(folder: Path) -> Wishes:
    told: Mapping[str, Any] = json.loads((folder / _WISHES).read_text(encoding="utf-8"))
    return Wishes(**{**told, "globs": tuple(told["globs"])})


@pytest.hookimpl(tryfirst=True)
def pytest_cmdline_main(config: pytest.Config) -> None:
    """Keep pytest-xdist from spreading the benchmarks: they are measured one at a time."""
    if getattr(config.option, "numprocesses", None) is not None:
        config.option.numprocesses = 0
        config.option.tx = []
        config.option.dist = "no"


@pytest.hookimpl(trylast=True)
def pytest_configure(config: pytest.Config) -> None:
    """Put our suite, or in a further process our recorder, into the session."""
    session = config.stash.get(PROVIDER, None)
    if not isinstance(session, Session):
        return
    if CHILD_VARIABLE in os.environ:
        order = live.read_order(os.environ)
        if order is not None and session.suite.recorder is not None:
            recorder = live.PlantingRecorder(session.suite.recorder, order)
            session.suite.recorder = recorder
            config.add_cleanup(recorder.close)
        return
    folder = Path(os.environ.get(SELF_TEST_VARIABLE, ""))
    if not (folder / _WISHES).is_file():
        return

    def tell(line: str) -> None:
        reporter = config.pluginmanager.get_plugin("terminalreporter")
        if reporter is not None:
            reporter.ensure_newline()
            reporter.write_line(f"ci-flame: {line}")

    def keep(tested: Tested) -> None:
        with tempfile.NamedTemporaryFile("w", dir=folder, delete=False, encoding="utf-8") as file:
            file.write(encode_one(tested))
        count = len(list(folder.glob("*.tested")))
        Path(file.name).rename(folder / f"{count:06}.tested")

    session.suite = SelfTestSuite(session.suite, _read_wishes(folder), config.rootpath, tell, keep)
