"""Edge: what a pytest session is compared with: stored, or the base commit recorded beside."""

import os
import sys
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path
from typing import Final

from ci_flame import pipeline
from ci_flame.baseline import folder, git
from ci_flame.config import BaselineKind, Config
from ci_flame.errors import BaselineError
from ci_flame.pipeline.chosen import choose, to_confirm
from ci_flame.profile import Environment
from ci_flame.pytest_plugin.values import Before, recorded_beside
from ci_flame.record import interpreter
from ci_flame.record.processes import Tree
from ci_flame.record.recorder import Recorder

SELF_TEST_VARIABLE: Final = "CI_FLAME_SELF_TEST"
"""Folder of `ci-flame self-test`, which compares the suite with itself: no baseline is needed."""


def project(root: Path) -> Path:
    """Return the top of the project: its git work tree, or pytest's rootdir."""
    try:
        return git.top_level(root).resolve()
    except BaselineError:
        return root


def find(settings: Config, root: Path, recorder: Recorder | None, closing: ExitStack) -> Before:
    """Find the before side; whatever is named and not there is an error."""

    def present() -> Environment:
        if recorder is None:
            return folder.load(settings.record.replay or Path()).environment
        # Its processes lie where their interpreter is held, not as this one does.
        lies = interpreter.find((sys.executable,), root, os.environ).layout
        return replace(recorder.environment, layout=lies)

    chosen = choose(settings, Path.cwd(), present)
    notes = chosen.notes
    if chosen.spec.kind in (BaselineKind.RERUN, BaselineKind.TREE):
        base = pipeline.base_checkout(settings, chosen, root, closing)
        return recorded_beside(chosen.told, base, project(root))
    # Who says `none` records what others will be compared with.
    wanted = settings.baseline.kind is not BaselineKind.NONE
    required = settings.policy.baseline_required and SELF_TEST_VARIABLE not in os.environ
    if chosen.run is None and required and wanted:
        raise BaselineError(
            chosen.told,
            "the policy says baseline: {required: true}; record one:"
            " pytest --flame --flame-baseline none --flame-out .ci-flame/baseline",
        )
    again = to_confirm(settings, chosen)

    def beside() -> Tree:
        assert again is not None  # noqa: S101 - as below
        base = pipeline.checkout_to_confirm(settings, again, root, closing)
        return Tree(project(root), base.folder.resolve(), base.python)

    return Before(
        run=chosen.run,
        told=chosen.told,
        history=chosen.history,
        notes=notes,
        commit=chosen.commit,
        called=chosen.called,
        beside=beside if again and recorder is not None else None,
    )
