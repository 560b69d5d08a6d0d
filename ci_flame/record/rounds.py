"""Stage 1, edge: calibration, warm-up and rounds of one benchmark in this process.

    calibrate │ warm up … │ round 1 │ reference │ round 2 │ reference │ …
    phase 0   │ phase 0   │ phase 7 │ phase 0   │ phase 8 │ phase 0   │

A round is about 10 ms of iterations (one iteration longer than that is a round). The
collector sees which round it is in by the phase, a word that `Window` stores.
"""

import gc
import math
import statistics
import sys
from collections.abc import Awaitable, Callable, Generator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import repeat as times
from itertools import takewhile
from typing import Final, Protocol, Self

from ci_flame.collect import PHASE_NONE
from ci_flame.config import BUSY, RecordConfig
from ci_flame.errors import UsageError
from ci_flame.profile import Mode, Round
from ci_flame.record import reference
from ci_flame.record.clocks import Clocks, Opening, cpus, leave_out_busy, lost_ns

MIN_ROUNDS: Final = 3
"""Even where few fill the time: the judge takes medians over rounds."""
WALL_FACTOR: Final = 3
"""Rounds also end when their wall time, without the time spent waiting for a CPU, is this many
times the CPU time that was asked for: a benchmark that sleeps must end."""
PATIENCE_FACTOR: Final = 10
"""As above, with the waiting for a CPU and the set-ups between windows: neither a machine that is
taken by others nor a long set-up may hang us."""
SETUP_FACTOR: Final = 20
"""A round with its set-ups takes at most this many times its own length, or is one iteration."""
WARM_UP_BLOCK: Final = 5
"""Rounds on each side of the warm-up's trend test."""
WARM_UP_TOLERANCE: Final = 0.02
"""A block this much faster than the one before it is still warming up: between the noise of
a median of five rounds against the reference (about 1 %) and what a cache or an adaptive
interpreter still gains (5 % and more)."""
LATE_FALL: Final = 0.05
"""Measured rounds that begin this much dearer than they end may still be warm-up: a cache that
fills with equally slow calls shows no trend. At least four standard errors of a block's median."""
LATE_COST: Final = 0.01
"""... and are, if that is so much of what the rounds cost: less does not change a verdict."""
SHRUNK: Final = 3
"""A round this many times shorter than it should be makes the next ones longer."""
BUSY_FACTOR: Final = 3
"""Rounds that were left out are made up for, until all windows took this many times the seconds
(the waiting for a CPU left out): a machine that is never quiet must not hang us."""
_EMPTY_WINDOWS: Final = 51
_LEAD_IN_FROM: Final = 10
"""Iterations in a round from which one more runs before the window, to refill the caches
after the reference work; with fewer it would cost more than it corrects."""


class Phased(Protocol):
    """The part of a collector's session that is needed here."""

    def set_phase(self, phase: int) -> None:
        """Switch the window: one store."""


class Window:
    """What is measured: open from the first measured instruction to the last.

    It may open several times in a round (once per iteration where a setup runs in
    between); the round's clocks add up.
    """

    def __init__(self, session: Phased, clocks: Clocks) -> None:
        self.phase = PHASE_NONE
        self._session = session
        self._clocks = clocks
        self._opened_cpu = self._opened_wall = self._opened_children = -1
        self.cpu_ns = 0
        self.wall_ns = 0
        self.openings = 0
        self._own_cpu = self._own_wall = 0
        self._measure_itself()

    def _measure_itself(self) -> None:
        """Take what an empty window costs off every later one: blocks may be microseconds."""
        cpu, wall = [], []
        for _ in range(_EMPTY_WINDOWS):
            self.reset(PHASE_NONE)
            self.open()
            self.close()
            cpu.append(self.cpu_ns)
            wall.append(self.wall_ns)
        self.reset(PHASE_NONE)
        self._own_cpu, self._own_wall = int(statistics.median(cpu)), int(statistics.median(wall))

    def open(self) -> None:
        """Start the clocks, then switch the phase: the clocks' own cost is not sampled.

        The CPU clock is read last here and first in `close`, because it decides.
        """
        if self._opened_wall >= 0:
            raise UsageError(
                "`with flame:` was entered while it was open",
                "a benchmark has one window; put what belongs together into one block",
            )
        clocks = self._clocks
        self._opened_wall = clocks.wall_ns()
        self._opened_children = clocks.children_ns()
        self._opened_cpu = clocks.cpu_ns()
        self._session.set_phase(self.phase)

    def close(self) -> None:
        """Switch the phase back, then stop the clocks."""
        self._session.set_phase(PHASE_NONE)
        clocks = self._clocks
        cpu = clocks.cpu_ns() - self._opened_cpu
        cpu += clocks.children_ns() - self._opened_children
        wall = clocks.wall_ns() - self._opened_wall
        self.cpu_ns += max(0, cpu - self._own_cpu)
        self.wall_ns += max(0, wall - self._own_wall)
        self._opened_cpu = self._opened_wall = -1
        self.openings += 1

    def reset(self, phase: int) -> None:
        """Forget the last round."""
        self.phase = phase
        self.cpu_ns = self.wall_ns = self.openings = 0

    def shut(self) -> None:
        """Switch the phase back, whatever happened inside: an exception must not go on sampling."""
        self._session.set_phase(PHASE_NONE)
        self._opened_cpu = self._opened_wall = -1

    def __enter__(self) -> Self:
        self.open()
        return self

    def __exit__(self, *_error: object) -> None:
        self.close()


Iterate = Callable[[int, Opening], object]
"""Run so many iterations of the benchmark inside the window."""
IterateAsync = Callable[[int, Opening], Awaitable[object]]


def repeat(call: Callable[[], object]) -> Iterate:
    """Return the benchmark that calls `call` again and again in one window."""

    def iterate(iterations: int, window: Opening) -> None:
        if iterations >= _LEAD_IN_FROM:
            call()
        window.open()
        for _ in times(None, iterations):
            call()
        window.close()

    return iterate


def repeat_async(call: Callable[[], Awaitable[object]]) -> IterateAsync:
    """Return the benchmark that awaits `call()` again and again in one window."""

    async def iterate(iterations: int, window: Opening) -> None:
        if iterations >= _LEAD_IN_FROM:
            await call()
        window.open()
        for _ in times(None, iterations):
            await call()
        window.close()

    return iterate


def with_setup(
    prepare: Callable[[], tuple[Sequence[object], Mapping[str, object]]],
    call: Callable[..., object],
    finish: Callable[..., object] | None,
    inner: int = 1,
) -> Iterate:
    """Return the benchmark that makes fresh arguments for each iteration, outside the window.

    `inner` calls share one set of arguments (pytest-benchmark's `iterations`).
    """

    def iterate(iterations: int, window: Opening) -> None:
        for _ in times(None, iterations):
            args, kwargs = prepare()
            window.open()
            for _ in times(None, inner):
                call(*args, **kwargs)
            window.close()
            if finish is not None:
                finish(*args, **kwargs)

    return iterate


def opens_itself(call: Callable[[], object]) -> Iterate:
    """Return the benchmark whose `call` opens and closes the window (`with flame:`)."""

    def iterate(iterations: int, window: Opening) -> None:
        for _ in times(None, iterations):
            call()
            _must_have_opened(window)

    return iterate


def opens_itself_async(call: Callable[[], Awaitable[object]]) -> IterateAsync:
    """Return the asynchronous benchmark whose `call` opens and closes the window."""

    async def iterate(iterations: int, window: Opening) -> None:
        for _ in times(None, iterations):
            await call()
            _must_have_opened(window)

    return iterate


def _must_have_opened(window: Opening) -> None:
    if not window.openings:
        raise UsageError(
            "the test ran again without entering `with flame:`",
            "the block must be reached in every run of the test: no state that a run uses up",
        )


@dataclass(frozen=True, slots=True)
class Driven:
    """One process's rounds of one benchmark, before the samples are joined to them."""

    rounds: tuple[Round, ...]
    """Without profiles; round i ran at phase `first_phase + i`."""
    first_phase: int
    warm_up_ns: int
    """CPU time of calibration and warm-up."""
    settled: bool

    @property
    def next_phase(self) -> int:
        """The first phase that the next benchmark of this process may use."""
        return self.first_phase + len(self.rounds)

    @property
    def cpu_ns(self) -> int:
        """CPU time of all windows."""
        return sum(each.cpu_ns for each in self.rounds)

    @property
    def wall_ns(self) -> int:
        """Wall time of all windows."""
        return sum(each.wall_ns for each in self.rounds)


def drive(
    iterate: Iterate,
    window: Window,
    plan: RecordConfig,
    first_phase: int,
    *,
    clocks: Clocks | None = None,
    gc_on: bool = False,
) -> Driven:
    """Run one benchmark in rounds; whatever the benchmark raises passes through.

    `plan` gives the seconds of window CPU time and the length of a round. The garbage
    collector is off inside rounds and catches up between them, unless `gc_on`.
    """
    steps = _steps(window, plan, first_phase, clocks or Clocks())
    iterations = next(steps)
    while True:
        with undisturbed(window, gc_on=gc_on):
            iterate(iterations, window)
        try:
            iterations = next(steps)
        except StopIteration as stop:
            return _finished(stop.value)


async def drive_async(
    iterate: IterateAsync,
    window: Window,
    plan: RecordConfig,
    first_phase: int,
    *,
    clocks: Clocks | None = None,
    gc_on: bool = False,
) -> Driven:
    """Run one asynchronous benchmark in rounds on the running loop; else as `drive`."""
    steps = _steps(window, plan, first_phase, clocks or Clocks())
    iterations = next(steps)
    while True:
        with undisturbed(window, gc_on=gc_on):
            await iterate(iterations, window)
        try:
            iterations = next(steps)
        except StopIteration as stop:
            return _finished(stop.value)


def _finished(value: object) -> Driven:
    assert isinstance(value, Driven)  # noqa: S101 - what `_steps` returns, for the type checker
    return value


@contextmanager
def undisturbed(window: Opening, *, gc_on: bool) -> Generator[None, None, None]:
    """Hold garbage collection, tracers and profilers off while a round runs."""
    collecting = gc.isenabled()
    tracer, profiler = sys.gettrace(), sys.getprofile()
    if tracer is not None:
        sys.settrace(None)
    if profiler is not None:
        sys.setprofile(None)
    if collecting and not gc_on:
        gc.disable()
    try:
        yield
    finally:
        window.shut()
        if collecting and not gc_on:
            gc.enable()
            _catch_up_on_garbage()
        if profiler is not None:
            sys.setprofile(profiler)
        if tracer is not None:
            sys.settrace(tracer)


def _catch_up_on_garbage() -> None:
    """Collect the generations that would have been collected inside the round."""
    for generation in (2, 1, 0):
        threshold = gc.get_threshold()[generation]
        if threshold and gc.get_count()[generation] > threshold:
            gc.collect(generation)
            return


def _steps(
    window: Window, plan: RecordConfig, first_phase: int, clocks: Clocks
) -> Generator[int, None, Driven]:
    """Yield how many iterations to run next, in the window's phase; return what was driven."""
    target_ns = plan.round_ms * 1e6
    warm_up_cap_ns = max(0.3, plan.seconds / 4) * 1e9
    warm_up_cpu_ns = warm_up_wall_ns = warm_up_elapsed_ns = 0

    iterations = 1
    while True:  # calibrate
        window.reset(PHASE_NONE)
        elapsed_ns = yield from _timed(iterations, clocks)
        warm_up_cpu_ns += window.cpu_ns
        warm_up_wall_ns += window.wall_ns
        warm_up_elapsed_ns += elapsed_ns
        if window.wall_ns >= target_ns / 2 or elapsed_ns >= SETUP_FACTOR * target_ns / 2:
            break
        wanted = _per_round(target_ns, window.wall_ns / iterations, elapsed_ns / iterations)
        iterations = max(iterations + 1, min(iterations * 10, wanted))
    iterations = _per_round(target_ns, window.wall_ns / iterations, elapsed_ns / iterations)

    costs: list[float] = []
    walls: list[tuple[float, float]] = []
    while (
        warm_up_wall_ns < warm_up_cap_ns
        and warm_up_elapsed_ns < WALL_FACTOR * warm_up_cap_ns
        and not has_settled(costs)
    ):
        window.reset(PHASE_NONE)
        elapsed_ns = yield from _timed(iterations, clocks)
        warm_up_cpu_ns += window.cpu_ns
        warm_up_wall_ns += window.wall_ns
        warm_up_elapsed_ns += elapsed_ns
        costs.append(_log_cost(window.cpu_ns, iterations, clocks.references()))
        walls.append((window.wall_ns / iterations, elapsed_ns / iterations))
    settled = has_settled(costs) or not _still_falling(costs)
    if walls:  # the first calls are slow: caches, imports, the adaptive interpreter
        inside, around = zip(*walls[-WARM_UP_BLOCK:], strict=True)
        iterations = _per_round(target_ns, statistics.median(inside), statistics.median(around))

    rounds: list[Round] = []
    elapsed_in_all_ns = 0
    cores = cpus()
    while not _enough(rounds, plan, elapsed_in_all_ns):
        window.reset(first_phase + len(rounds))
        stolen, delay = clocks.steal_ns(), clocks.run_delay_ns()
        elapsed_ns = yield from _timed(iterations, clocks)
        delay = max(0, clocks.run_delay_ns() - delay)
        stolen = max(0, clocks.steal_ns() - stolen)
        elapsed_in_all_ns += elapsed_ns
        if elapsed_ns > window.wall_ns:  # the waiting of set-ups is not the window's
            delay = round(delay * window.wall_ns / elapsed_ns)
            stolen = round(stolen * window.wall_ns / elapsed_ns)
        made = Round(
            iterations, window.cpu_ns, window.wall_ns, delay, clocks.references(), steal_ns=stolen
        )
        rounds.append(leave_out_busy(made, BUSY if plan.busy is None else plan.busy, cores))
        iterations = _refilled(iterations, target_ns, window.wall_ns, elapsed_ns)
    window.reset(PHASE_NONE)
    measured = [_log_cost(each.cpu_ns, each.iterations, each.references) for each in rounds]
    settled = settled and not fell_later(measured)
    return Driven(tuple(rounds), first_phase, warm_up_cpu_ns, settled)


def _log_cost(cpu_ns: int, iterations: int, references: Mapping[str, Sequence[int]]) -> float:
    """Return ln(CPU time per iteration / core reference), which hardly knows the machine."""
    core = statistics.median(references[reference.KINDS[0]])
    return math.log(max(cpu_ns, 1) / iterations / max(core, 1))


def _timed(iterations: int, clocks: Clocks) -> Generator[int, None, int]:
    """Yield the iterations; return how long they took in all, with their set-ups."""
    start = clocks.wall_ns()
    yield iterations
    return clocks.wall_ns() - start


def _per_round(target_ns: float, iteration_ns: float, elapsed_ns: float) -> int:
    """Return the iterations of a round: as many as fill it, or as its set-ups leave time for."""
    fill = target_ns / max(iteration_ns, 1e-3)
    return max(1, round(min(fill, SETUP_FACTOR * target_ns / max(elapsed_ns, 1e-3))))


def _refilled(iterations: int, target_ns: float, wall_ns: int, elapsed_ns: int) -> int:
    """Return the iterations of the next round: more where the last one was far too short.

    A cache that is full only now makes rounds that their references outlast many times.
    """
    if SHRUNK * max(wall_ns, elapsed_ns / SETUP_FACTOR) >= target_ns:
        return iterations
    wanted = _per_round(target_ns, wall_ns / iterations, elapsed_ns / iterations)
    return max(iterations, min(iterations * 10, wanted))


def _enough(rounds: Sequence[Round], plan: RecordConfig, elapsed_ns: int) -> bool:
    """Tell whether the rounds that count fill the seconds, or patience is at its end.

    The seconds are CPU time; where waiting is recorded, they are wall time.
    """
    asked = plan.seconds * 1e9
    if elapsed_ns >= PATIENCE_FACTOR * asked:
        return True
    if len(rounds) < MIN_ROUNDS:
        return False
    cores = cpus()
    longest = 1 if Mode.OFF_CPU in plan.modes else WALL_FACTOR
    counted = [each for each in rounds if not each.dropped]
    full = (
        sum(each.cpu_ns for each in counted) >= asked or _own_ns(counted, cores) >= longest * asked
    )
    return (full and len(counted) >= MIN_ROUNDS) or _own_ns(rounds, cores) >= BUSY_FACTOR * asked


def _own_ns(rounds: Sequence[Round], cores: int) -> int:
    """Return the wall time of the windows, without what others had of it."""
    return sum(max(0, each.wall_ns - lost_ns(each, cores)) for each in rounds)


def has_settled(costs: Sequence[float]) -> bool:
    """Tell whether the last block of rounds is no longer faster than the one before it.

    `costs` are ln(CPU time per iteration / reference time), in order. Fewer than two
    blocks have not settled.
    """
    if len(costs) < 2 * WARM_UP_BLOCK:
        return False
    last = statistics.median(costs[-WARM_UP_BLOCK:])
    previous = statistics.median(costs[-2 * WARM_UP_BLOCK : -WARM_UP_BLOCK])
    return last > previous - WARM_UP_TOLERANCE


def fell_later(costs: Sequence[float]) -> bool:
    """Tell whether the measured rounds begin clearly dearer than they end, and it matters.

    `costs` as in `has_settled`; under four blocks nothing is clear.
    """
    if len(costs) < 4 * WARM_UP_BLOCK:
        return False
    last = costs[-(len(costs) // 4) :]
    centre = statistics.median(last)
    spread = 1.4826 * statistics.median(abs(cost - centre) for cost in last)
    error = 1.2533 * spread / math.sqrt(WARM_UP_BLOCK)  # of a median of normal values
    blocks = [
        statistics.median(costs[start : start + WARM_UP_BLOCK]) - centre
        for start in range(0, len(costs), WARM_UP_BLOCK)
    ]
    if blocks[0] < max(LATE_FALL, 4 * error):
        return False
    early = takewhile(lambda above: above > WARM_UP_TOLERANCE, blocks)
    return sum(math.expm1(above) for above in early) >= LATE_COST * len(blocks)


def _still_falling(costs: Sequence[float]) -> bool:
    """Tell whether a warm-up that hit its limit shows a trend; under 4 rounds nothing does."""
    if len(costs) < 4:  # noqa: PLR2004 - two on each side
        return False
    half = len(costs) // 2
    fall = statistics.median(costs[:half]) - statistics.median(costs[half:])
    return fall >= WARM_UP_TOLERANCE
