"""Edge: what pytest loads in every run: the options, the marker and the fixtures.

Without `--flame` nothing else of ci_flame is imported, `flame(fn)` just calls `fn`, and no
hook runs per test. With it, `session.Session` is registered and does the work.
"""

import os
from collections.abc import Callable, Mapping, Sequence
from itertools import pairwise, takewhile
from typing import TYPE_CHECKING, Any, Protocol, TypeVar

import pytest

if TYPE_CHECKING:
    from pathlib import Path
    from typing import Self

T = TypeVar("T")


class Flame(Protocol):
    """What the `flame` fixture gives: call it with a function, or enter it around a block."""

    def __call__(self, function: Callable[..., T], /, *args: object, **kwargs: object) -> T:
        """Measure the function in rounds; return what its first call returned."""

    def __enter__(self) -> "Self":
        """Begin the block that is measured."""

    def __exit__(self, *error: object) -> None:
        """End the block."""


class Plain:
    """The `flame` and `benchmark` fixtures when nothing is recorded: one ordinary call."""

    def __call__(self, function: Callable[..., T], /, *args: object, **kwargs: object) -> T:
        """Call the function once."""
        return function(*args, **kwargs)

    def __enter__(self) -> "Self":
        return self

    def __exit__(self, *error: object) -> None:
        return None

    def pedantic(  # noqa: PLR0917 - pytest-benchmark's signature
        self,
        target: Callable[..., T],
        args: Sequence[object] = (),
        kwargs: Mapping[str, object] | None = None,
        setup: Callable[[], Any] | None = None,
        teardown: Callable[..., object] | None = None,
        rounds: int = 1,
        warmup_rounds: int = 0,
        iterations: int = 1,
    ) -> T:
        """Call the target once, with its setup and teardown, as pytest-benchmark would."""
        del rounds, warmup_rounds, iterations
        args, kwargs = fresh_arguments(args, kwargs or {}, setup)
        returned = target(*args, **kwargs)
        if teardown is not None:
            teardown(*args, **kwargs)
        return returned


def fresh_arguments(
    args: Sequence[object], kwargs: Mapping[str, object], setup: Callable[[], Any] | None
) -> tuple[Sequence[object], Mapping[str, object]]:
    """Return the arguments of one pedantic call: those given, or those that `setup` returns."""
    made = setup() if setup is not None else None
    if not made:
        return args, kwargs
    if args or kwargs:
        raise TypeError("Can't use `args` or `kwargs` if `setup` returns the arguments.")
    fresh_args, fresh_kwargs = made
    return fresh_args, fresh_kwargs


class FixtureProvider(Protocol):
    """The part of a recording session that the fixtures need."""

    def flame_of(self, item: pytest.Item) -> Flame:
        """Return the fixture of one test."""


PROVIDER: "pytest.StashKey[FixtureProvider]" = pytest.StashKey()
"""Set when this pytest records."""


_SETTINGS = ("pytest.ini", ".pytest.ini", "pyproject.toml", "tox.ini", "setup.cfg")
_PLACES = tuple(f"--flame-{name}" for name in ("baseline", "out", "report", "replay", "policy"))


def pytest_addoption(parser: pytest.Parser) -> None:
    """Add the `--flame` options."""
    group = parser.getgroup("ci-flame", "ci-flame: a regression gate on hot paths")

    def add(name: str, words: str, metavar: str) -> None:
        group.addoption(f"--flame-{name}", default=None, metavar=metavar, help=words)

    group.addoption("--flame", action="store_true", help="record benchmarks and judge them")
    add("out", "folder that the run is written to (.ci-flame/run)", "DIR")
    add("baseline", "folder:DIR, store:DIR, git:REV, rerun:REV, tree:DIR, none or auto", "SPEC")
    add("keep", "builds of a store that a verdict reads beside the baseline (10)", "K")
    add("anchor", "growth since this build of a store warns, too (what is pinned)", "REV")
    add("policy", "policy file (ci-flame.yml here or above)", "FILE")
    add("report", "folder that the report is written to (.ci-flame/report)", "DIR")
    add("setup", "command that prepares the base commit's checkout (rerun:REV)", "CMD")
    add("changed-since", "revision that findings are told from (the baseline's commit)", "REV")
    add("processes", "processes per benchmark (5)", "N")
    add("seconds", "CPU seconds of each process and benchmark (2)", "S")
    add("max-seconds", "until decided: wall seconds per benchmark (120)", "S")
    add("frequency", "samples per second (1999)", "HZ")
    add("collector", "auto, ebpf, bcc, bpftrace, perf, py-spy or replay", "NAME")
    add("event", "perf: cpu-clock (default), cycles, …", "NAME")
    add("call-graph", "perf: fp (default), dwarf[,BYTES]", "HOW")
    group.addoption(
        "--flame-mode", action="append", metavar="MODE",
        help="on-cpu or off-cpu, repeatable (on-cpu)",
    )  # fmt: skip
    add("replay", "take the recordings from this run folder", "DIR")
    group.addoption(
        "--flame-until-decided", action="store_true",
        help="record until a benchmark clearly passes or fails, in at most four looks",
    )  # fmt: skip
    group.addoption(
        "--flame-quick", action="store_true", help="1 process of 1 s: for laptops, not for gates"
    )


def pytest_configure(config: pytest.Config) -> None:
    """Register the marker, the missing fixture, and with `--flame` the recording session."""
    config.addinivalue_line(
        "markers",
        "flame(max_growth, min_impact, budget, certainty, severity, frames, self_only,"
        " processes, seconds, gc): a ci-flame benchmark; the fields replace those of the"
        " policy's rules for this test",
    )
    if not config.pluginmanager.hasplugin("benchmark"):
        config.pluginmanager.register(BenchmarkFixture(), "ci-flame-benchmark")
    if not config.getoption("flame"):
        return
    if not os.path.isdir("/proc/self"):  # noqa: PTH112 - pathlib is not needed without --flame
        import platform  # noqa: PLC0415 - only for the message

        raise pytest.UsageError(
            f"--flame records on Linux only, this is {platform.system()};"
            " without --flame the benchmarks run as ordinary tests"
        )
    if config.getoption("collectonly", default=False):
        return
    place = _asked_for_reasons(config)
    try:
        refuse_a_lost_rootdir(config)
        from ci_flame.pytest_plugin.session import Session  # noqa: PLC0415 - heavy, only now needed

        session = Session.from_config(config)
    except pytest.UsageError as error:
        _tell(place, str(error))
        raise
    config.stash[PROVIDER] = session
    config.pluginmanager.register(session, "ci-flame-session")


def _asked_for_reasons(config: pytest.Config) -> "Path | None":
    """Return where a step of a job wants to be told what failed, and have it told."""
    if "CI_FLAME_REASONS" not in os.environ:
        return None
    from ci_flame.pipeline import reasons  # noqa: PLC0415 - in jobs of GitHub only
    from ci_flame.pytest_plugin.failures import Failures  # noqa: PLC0415

    place = reasons.taken()
    # A worker of pytest-xdist sends its reports to the session that began it.
    if place is not None and not hasattr(config, "workerinput"):
        config.pluginmanager.register(Failures(place), "ci-flame-failures")
    return place


def _tell(place: "Path | None", why: str) -> None:
    """Tell why nothing is recorded."""
    if place is not None:
        from ci_flame.pipeline import reasons  # noqa: PLC0415

        reasons.tell(place, why.removeprefix("ci-flame: ").replace("\n  hint: ", "; "))


def refuse_a_lost_rootdir(config: pytest.Config) -> None:
    """Raise pytest.UsageError where a folder behind one of our options has hidden the settings.

    pytest looks for its settings before it knows our options, and takes the existing folder of
    `--flame-baseline DIR` for one of tests. It finds none there, if DIR is outside of the project.
    """
    if config.inipath is not None:
        return
    start = config.invocation_params.dir
    inside = takewhile(lambda folder: folder != config.rootpath, (start, *start.parents))
    files = (folder / name for folder in inside for name in _SETTINGS)
    hidden = next((file for file in files if file.is_file()), None)
    for option, value in pairwise(config.invocation_params.args):
        if hidden and option in _PLACES and (start / value).exists():
            raise pytest.UsageError(
                f"ci-flame: pytest took {value} for a folder of tests and did not read {hidden}\n"
                f"  hint: {option}={value}"
            )


@pytest.fixture
def flame(request: pytest.FixtureRequest) -> Flame:
    """Measure `flame(fn, *args)` or the block of `with flame:`; a plain call without --flame."""
    provider = request.config.stash.get(PROVIDER, None)
    return Plain() if provider is None else provider.flame_of(request.node)


class BenchmarkFixture:
    """Supplies `benchmark` where pytest-benchmark is not installed."""

    @pytest.fixture
    def benchmark(self, request: pytest.FixtureRequest) -> Flame:
        """Call like pytest-benchmark's fixture: `benchmark(fn, *args)` or `.pedantic(…)`."""
        provider = request.config.stash.get(PROVIDER, None)
        return Plain() if provider is None else provider.flame_of(request.node)
