"""Edge: one test that is a benchmark: its fixture, its rounds, its function's name.

Three ways to say what is measured:

    def test_a(flame): flame(fn, 1)             fn(1), in rounds
    def test_b(flame): …; with flame: work()    the block; the test runs again for each iteration
    @pytest.mark.flame
    def test_c(): work()                        the whole test function
"""

import asyncio
import functools
import inspect
from collections.abc import Callable, Mapping, Sequence
from types import CodeType
from typing import TYPE_CHECKING, Any, Self, TypeVar

import pytest

from ci_flame.errors import UsageError
from ci_flame.pytest_plugin import fresh_arguments
from ci_flame.record import exact, rounds, targeted
from ci_flame.record.recorder import is_machinery

if TYPE_CHECKING:
    from ci_flame.config import RecordConfig
    from ci_flame.profile import Frame
    from ci_flame.record.clocks import Opening
    from ci_flame.record.recorder import Recorded, Recorder

T = TypeVar("T")
FIXTURES = ("flame", "benchmark")
MARKER = "flame"


def is_benchmark(item: pytest.Item) -> bool:
    """Tell whether a test is recorded: it uses a fixture of ours or carries the marker."""
    if not isinstance(item, pytest.Function):
        return False
    return item.get_closest_marker(MARKER) is not None or any(
        name in item.fixturenames for name in FIXTURES
    )


def marker_keywords(item: pytest.Item) -> Mapping[str, object]:
    """Return the fields of the test's markers, the nearest first; UsageError for positionals."""
    fields: dict[str, object] = {}
    for mark in item.iter_markers(MARKER):
        if mark.args:
            raise UsageError(
                f"marker of {item.nodeid}: {mark.args[0]!r} has no name",
                'write for example @pytest.mark.flame(max_growth="5%")',
            )
        fields = {**mark.kwargs, **fields}
    return fields


class ItemBenchmark:
    """The `flame` fixture of one test while it is recorded."""

    def __init__(
        self,
        item: pytest.Function,
        recorder: "Recorder | None",
        plan: "RecordConfig",
        *,
        gc_on: bool,
        suspects: "Sequence[Frame]" = (),
    ) -> None:
        self.item = item
        self.plan = plan
        self.gc_on = gc_on
        self.recorded: Recorded | None = None
        self.used = ""
        """`flame(...)`, `with flame:` …: what the test has used the fixture for."""
        self._suspects = suspects
        """Functions that are timed call by call after the rounds."""
        self._recorder = recorder
        """None: recorded in further processes, or replayed; everything is called once here."""
        self._window: Opening | None = None
        self._code, self._module = code_of(item)

    # -- the fixture ------------------------------------------------------------------

    def __call__(self, function: Callable[..., T], /, *args: object, **kwargs: object) -> T:
        """Measure the function in rounds; return what its first, unmeasured call returned.

        A coroutine function is awaited for each iteration: inside an asynchronous test
        write `await flame(fn)`, elsewhere a loop is run for it.
        """
        self._claim("flame(...)")
        call = functools.partial(function, *args, **kwargs) if args or kwargs else function
        if inspect.iscoroutinefunction(inspect.unwrap(function)):
            return self._await(call)  # type: ignore[return-value]
        returned = call()
        self.drive(rounds.repeat(call))
        return returned

    def _await(self, call: Callable[[], Any]) -> object:
        async def measure() -> object:
            returned = await call()
            await self.drive_async(rounds.repeat_async(call))
            return returned

        try:
            asyncio.get_running_loop()
        except RuntimeError:
            with asyncio.Runner() as runner:
                return runner.run(measure())
        return measure()

    def pedantic(  # noqa: PLR0917 - pytest-benchmark's signature
        self,
        target: Callable[..., T],
        args: Sequence[object] = (),
        kwargs: Mapping[str, object] | None = None,
        setup: Callable[[], Any] | None = None,
        teardown: Callable[..., object] | None = None,
        rounds: int = 1,  # noqa: ARG002 - pytest-benchmark's; ours are as many as the seconds hold
        warmup_rounds: int = 0,  # noqa: ARG002
        iterations: int = 1,
    ) -> T:
        """Measure as pytest-benchmark's pedantic mode calls: setup, target, teardown."""
        self._claim("pedantic(...)")
        if iterations > 1 and setup is not None:
            raise UsageError(
                f"{self.item.nodeid}: pedantic cannot have both iterations={iterations} and setup",
                "leave iterations at 1: setup makes the arguments of one call",
            )
        first_args, first_kwargs = fresh_arguments(args, kwargs or {}, setup)
        returned = target(*first_args, **first_kwargs)
        if teardown is not None:
            teardown(*first_args, **first_kwargs)
        self.drive_pedantic(target, args, kwargs or {}, setup, teardown)
        return returned

    def __enter__(self) -> Self:
        if self._window is not None:  # a repeated run of the test
            self._window.open()
        else:
            self._claim("with flame:")
        return self

    def __exit__(self, *_error: object) -> None:
        if self._window is not None:
            self._window.close()

    def _claim(self, how: str) -> None:
        if self.used:
            raise UsageError(
                f"{self.item.nodeid} used the fixture twice: {self.used}, then {how}",
                "one test is one benchmark; write two tests, or parametrise it",
            )
        self.used = how

    # -- recording --------------------------------------------------------------------

    def drive(self, iterate: rounds.Iterate) -> None:
        """Record the benchmark's rounds in this process."""
        if self._recorder is None:
            return
        self._window = window = self._recorder.begin()
        driven = rounds.drive(
            iterate, window, self.plan, self._recorder.next_phase, gc_on=self.gc_on
        )
        self._finish(driven)
        counts = exact.Counts(driven)
        for each in counts.windows() if self.plan.counts else ():
            self._window = each
            with counts.caught(), rounds.undisturbed(each, gc_on=self.gc_on):
                iterate(1, each)
        self._add(counts)
        timed = self._targeted(driven)
        for look in timed.looks():
            self._window = look
            with timed.caught(), rounds.undisturbed(look, gc_on=self.gc_on):
                iterate(1, look)
        with timed.caught(), timed.timed() as clock:
            if clock is not None:
                self._window = window = rounds.Window(clock, self._recorder.clocks)
                plan = targeted.plan(self.plan)
                timed.take(rounds.drive(iterate, window, plan, 1, gc_on=self.gc_on))
        self._add_timing(timed)

    async def drive_async(self, iterate: rounds.IterateAsync) -> None:
        """Record the benchmark's rounds on the running loop."""
        if self._recorder is None:
            return
        self._window = window = self._recorder.begin()
        driven = await rounds.drive_async(
            iterate, window, self.plan, self._recorder.next_phase, gc_on=self.gc_on
        )
        self._finish(driven)
        counts = exact.Counts(driven)
        for each in counts.windows() if self.plan.counts else ():
            self._window = each
            with counts.caught(), rounds.undisturbed(each, gc_on=self.gc_on):
                await iterate(1, each)
        self._add(counts)
        timed = self._targeted(driven)
        for look in timed.looks():
            self._window = look
            with timed.caught(), rounds.undisturbed(look, gc_on=self.gc_on):
                await iterate(1, look)
        with timed.caught(), timed.timed() as clock:
            if clock is not None:
                self._window = window = rounds.Window(clock, self._recorder.clocks)
                plan = targeted.plan(self.plan)
                timed.take(await rounds.drive_async(iterate, window, plan, 1, gc_on=self.gc_on))
        self._add_timing(timed)

    def drive_pedantic(
        self,
        target: Callable[..., object],
        args: Sequence[object],
        kwargs: Mapping[str, object],
        setup: Callable[[], Any] | None,
        teardown: Callable[..., object] | None,
    ) -> None:
        """Record calls that each have their own setup and teardown, outside the window."""
        if setup is None and teardown is None:
            self.drive(rounds.repeat(functools.partial(target, *args, **kwargs)))
            return
        prepare = functools.partial(fresh_arguments, args, kwargs, setup)
        self.drive(rounds.with_setup(prepare, target, teardown))

    def _finish(self, driven: rounds.Driven) -> None:
        recorder = self._recorder
        assert recorder is not None  # noqa: S101 - drive() has returned already
        self._window = None
        self.recorded = recorder.finish(driven, self._code, self._module)

    def _add(self, counts: exact.Counts) -> None:
        """Add what was counted to what was recorded."""
        self._window = None
        if self.plan.counts and self.recorded is not None and self._recorder is not None:
            told = counts.told(self._recorder.layout, is_machinery)
            self.recorded = self.recorded.with_counts(*told)

    def _targeted(self, driven: rounds.Driven) -> targeted.Targeted:
        """Return what times the suspects, if there are any, when nothing is sampled any more."""
        assert self._recorder is not None  # noqa: S101 - drive() has returned already
        if self._suspects:
            self._recorder.close()
        return targeted.Targeted(self._suspects, driven, self._recorder.layout)

    def _add_timing(self, timed: targeted.Targeted) -> None:
        """Add what was timed to what was recorded."""
        self._window = None
        if self.recorded is not None:
            self.recorded = self.recorded.with_timing(timed.told())

    # -- the test function --------------------------------------------------------------

    def wrap(self, function: Callable[..., Any]) -> Callable[..., Any]:
        """Return the test function that drives itself where no fixture call did."""
        if inspect.iscoroutinefunction(function):

            @functools.wraps(function)
            async def run_async(*args: object, **kwargs: object) -> None:
                await function(*args, **kwargs)
                call = functools.partial(function, *args, **kwargs)
                if self.used == "with flame:":
                    await self.drive_async(rounds.opens_itself_async(call))
                elif self._is_whole:
                    self._claim("marker")
                    await self.drive_async(rounds.repeat_async(call))

            return run_async

        @functools.wraps(function)
        def run(*args: object, **kwargs: object) -> object:
            returned = function(*args, **kwargs)
            call = functools.partial(function, *args, **kwargs)
            if self.used == "with flame:":
                self.drive(rounds.opens_itself(call))
            elif self._is_whole:
                self._claim("marker")
                self.drive(rounds.repeat(call))
            return returned

        return run

    @property
    def _is_whole(self) -> bool:
        return not any(name in self.item.fixturenames for name in FIXTURES)

    def adopt_pytest_benchmark(self) -> None:
        """Let pytest-benchmark's fixture time as always, then record the same callable."""
        fixture = self.item.funcargs.get("benchmark")
        kind = type(fixture)
        if fixture is None or isinstance(fixture, ItemBenchmark) or not callable(fixture):
            return
        outer = self

        class Both(kind):  # type: ignore[misc,valid-type]
            """pytest-benchmark's fixture, followed by ci-flame's rounds."""

            def __call__(
                self, function: Callable[..., Any], *args: object, **kwargs: object
            ) -> object:
                returned = super().__call__(function, *args, **kwargs)
                outer._claim("benchmark(...)")
                call = functools.partial(function, *args, **kwargs) if args or kwargs else function
                outer.drive(rounds.repeat(call))
                return returned

            def pedantic(
                self,
                target: Callable[..., Any],
                args: Sequence[object] = (),
                kwargs: Mapping[str, object] | None = None,
                setup: Callable[[], Any] | None = None,
                teardown: Callable[..., object] | None = None,
                **figures: int,
            ) -> object:
                returned = super().pedantic(target, args, kwargs, setup, teardown, **figures)
                outer._claim("benchmark.pedantic(...)")
                outer.drive_pedantic(target, args, kwargs or {}, setup, teardown)
                return returned

        fixture.__class__ = Both


def code_of(item: pytest.Function) -> tuple[CodeType, str]:
    """Return the code of the test function and its module: the frame that stacks are cut at."""
    function = inspect.unwrap(item.function)
    while isinstance(function, functools.partial):
        function = function.func
    code = getattr(function, "__code__", None)
    if not isinstance(code, CodeType):
        raise UsageError(
            f"{item.nodeid}: a benchmark must be a Python function, not {type(function).__name__}"
        )
    return code, str(getattr(function, "__module__", "") or "")
