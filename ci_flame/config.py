"""Edge: `ci-flame.yml`, flags, markers and the environment -> frozen Config and Policy.

pytest, click and YAML objects stop here.
"""

from dataclasses import dataclass, field
from enum import StrEnum
from pathlib import Path

from ci_flame.policy import Policy
from ci_flame.profile import Mode


class BaselineKind(StrEnum):
    """Where the before side comes from."""

    AUTO = "auto"
    """The stored folder if there is one, else none."""
    FOLDER = "folder"
    GIT = "git"
    """A run folder committed in a git revision (`git:REV[:PATH]`)."""
    RERUN = "rerun"
    """The base commit, checked out in a worktree and recorded in this job (`rerun:REV`)."""
    TREE = "tree"
    """A folder with the base commit checked out; what `rerun:REV` becomes for pytest."""
    NONE = "none"


@dataclass(frozen=True, slots=True)
class BaselineSpec:
    """`folder:DIR`, `git:REV`, `rerun:REV`, `none` or `auto`, parsed."""

    kind: BaselineKind = BaselineKind.AUTO
    value: str = ""


@dataclass(frozen=True, slots=True)
class RecordConfig:
    """How benchmarks are recorded."""

    collector: str = "auto"
    frequency_hz: int = 1999
    processes: int = 5
    seconds: float = 2.0
    """Of benchmark windows, per process and benchmark."""
    round_ms: float = 10.0
    modes: tuple[Mode, ...] = (Mode.ON_CPU,)
    replay: Path | None = None
    """Run folder that `collector: replay` reads."""


@dataclass(frozen=True, slots=True)
class Config:
    """Everything one session was told."""

    record: RecordConfig = field(default_factory=RecordConfig)
    baseline: BaselineSpec = field(default_factory=BaselineSpec)
    policy: Policy = field(default_factory=Policy)
    out: Path = Path(".ci-flame/run")
    """Where the run is written (`-o` of record, `--flame-out`)."""
    report: Path = Path(".ci-flame/report")
    policy_file: Path | None = None
