"""Stage 1, edge: suspects timed call by call, in further rounds that nobody samples -> `Timing`.

    rounds, sampled … │ counted iterations │ look │ round, timed │ reference │ round, timed │ …

The clock is read where a suspect is entered and left, by local events of `sys.monitoring` on its
code alone (3.12 and newer): everything else runs as it always does. Recursion counts once, a
generator's stretches add up, and each thread has its own CPU clock. What reading the clock costs
is measured in the same process and taken off.
"""

import statistics
import sys
import threading
import time
from collections.abc import Callable, Generator, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from types import CodeType, FrameType
from typing import TYPE_CHECKING, Final

from ci_flame.collect import PHASE_NONE
from ci_flame.errors import UsageError
from ci_flame.profile import Frame, Kind, Mode
from ci_flame.profile.timing import MOST_SUSPECTS, Timed, Timing
from ci_flame.record import exact
from ci_flame.symbols.modules import Layout

if TYPE_CHECKING:
    from ci_flame.config import RecordConfig
    from ci_flame.record.rounds import Driven

MOST_CALLS_PER_S: Final = 20_000
"""Entries of all timed functions per second of the benchmark: from here on the clocks would be
several percent of it, and what is taken off no longer small."""
MOST_SECONDS: Final = 1.0
"""CPU time of the timed rounds of one process: more processes help, longer ones hardly."""
LONGEST_ITERATION: Final = 2.0
"""Seconds of an iteration that is not run some ten times more just to be timed."""
_LOOKS: Final = 2
"""Iterations in which the suspects' code is looked for: one whose code is made anew each time
cannot be told from one that was not called."""
_REPEATS: Final = 15
_EMPTY_CALLS: Final = 200


def obstacle(driven: "Driven") -> str:
    """Return why nothing of this benchmark is timed here; empty: it is."""
    if sys.version_info < (3, 12):
        return "Python 3.11 cannot time single functions, 3.12 can"
    return exact.obstacle(driven, LONGEST_ITERATION, "timed")


class Look:
    """A window that notes which code is entered while it is open, and how often."""

    def __init__(self) -> None:
        self.openings = 0
        self.entered: dict[int, int] = {}
        self.codes: dict[int, CodeType] = {}
        self.above: set[int] = set()
        """Code that was running already when it opened."""
        self._tool = -1

    def open(self) -> None:
        """Begin to look."""
        for frame in sys._current_frames().values():  # noqa: SLF001 - documented, despite its name
            caller: FrameType | None = frame
            while caller is not None:
                self.codes[id(caller.f_code)] = caller.f_code
                self.above.add(id(caller.f_code))
                caller = caller.f_back
        self.openings += 1
        if sys.version_info >= (3, 12):
            events = sys.monitoring.events
            if self._tool < 0:
                self._tool = exact.free_tool()
                for event in (events.PY_START, events.PY_RESUME):
                    sys.monitoring.register_callback(self._tool, event, self._enter)
            sys.monitoring.set_events(self._tool, events.PY_START | events.PY_RESUME)

    def _enter(self, code: CodeType, _offset: int) -> None:
        key = id(code)
        self.codes[key] = code
        self.entered[key] = self.entered.get(key, 0) + 1

    def close(self) -> None:
        """Look no more."""
        if sys.version_info >= (3, 12) and self._tool >= 0:
            sys.monitoring.set_events(self._tool, 0)

    def shut(self) -> None:
        """Look no more, whatever happened inside; give the tool's id back."""
        self.close()
        if sys.version_info >= (3, 12) and self._tool >= 0:
            events = sys.monitoring.events
            for event in (events.PY_START, events.PY_RESUME):
                sys.monitoring.register_callback(self._tool, event, None)
            sys.monitoring.free_tool_id(self._tool)
            self._tool = -1


@dataclass(frozen=True, slots=True)
class Cost:
    """What the events of one call cost here, in ns of CPU time."""

    inside: float = 0.0
    """Of a call that was timed, between its two clock readings."""
    pair: float = 0.0
    """Of a call that was timed, in all: what it adds to a function around it."""
    again: float = 0.0
    """Of a recursive call, which is only noted."""


@dataclass(slots=True)
class _Thread:
    """What one thread is in, and what its calls took so far."""

    depth: list[int]
    began: list[int]
    outside: list[float]
    """Cost of events so far, when each function was entered."""
    calls: list[int]
    ns: list[float]
    spent: float = 0.0
    """Cost of all events of this thread so far."""


class Clock:
    """The events of the suspects; a `Window` switches it by the phase, as it does a collector."""

    def __init__(self, suspects: Sequence[Sequence[CodeType]], cost: Cost | None = None) -> None:
        """Time these functions; several code objects may share one (lambdas of a function)."""
        self.count = len(suspects)
        self.rounds: dict[int, tuple[list[int], list[float]]] = {}
        """Phase -> calls and ns of each suspect."""
        self._codes = [code for each in suspects for code in each]
        self._which = {id(c): number for number, each in enumerate(suspects) for c in each}
        self._cost = cost or Cost()
        self._threads: dict[int, _Thread] = {}
        self._phase = PHASE_NONE
        self._window = 0
        self._tool = -1

    def set_phase(self, phase: int) -> None:
        """Begin a round's window, or end it: what is open then is no whole call and not told."""
        if phase == PHASE_NONE and self._phase != PHASE_NONE:
            ended, self._phase = self._phase, PHASE_NONE
            self._take(ended)
        elif phase != PHASE_NONE:
            self._threads = {}
            self._phase = phase

    def _take(self, phase: int) -> None:
        """Add up what the threads did in the window that has ended."""
        calls, ns = self.rounds.setdefault(phase, ([0] * self.count, [0.0] * self.count))
        for each in list(self._threads.values()):
            for number in range(self.count):
                calls[number] += each.calls[number]
                ns[number] += each.ns[number]

    def start(self) -> None:
        """Listen to the suspects' code, until `stop`."""
        if sys.version_info < (3, 12):
            raise UsageError("sys.monitoring needs Python 3.12")
        monitoring, events = sys.monitoring, sys.monitoring.events
        self._tool = exact.free_tool()
        begin, go_on, leave = self._callbacks()
        callbacks = (begin, go_on, go_on, leave, leave, leave)
        for event, callback in zip(_events(), callbacks, strict=True):
            monitoring.register_callback(self._tool, event, callback)
        local = events.PY_START | events.PY_RESUME | events.PY_RETURN | events.PY_YIELD
        for code in self._codes:
            monitoring.set_local_events(self._tool, code, local)
        # Of exceptions Python tells for all code or none (local ones came with 3.15).
        monitoring.set_events(self._tool, events.PY_UNWIND | events.PY_THROW)

    def stop(self) -> None:
        """Listen no more, and give the tool's id back."""
        if sys.version_info >= (3, 12) and self._tool >= 0:
            monitoring = sys.monitoring
            monitoring.set_events(self._tool, 0)
            for code in self._codes:
                monitoring.set_local_events(self._tool, code, 0)
            for event in _events():
                monitoring.register_callback(self._tool, event, None)
            monitoring.free_tool_id(self._tool)
            self._tool = -1

    def _new_thread(self) -> _Thread:
        n = self.count
        made = _Thread([0] * n, [0] * n, [0.0] * n, [0] * n, [0.0] * n)
        self._threads[threading.get_ident()] = made
        return made

    def _callbacks(self) -> tuple[Callable[..., object], ...]:
        """Return what is called at: start, go on (resume, throw), leave (return, yield, unwind)."""
        which, cost = self._which, self._cost
        inside, pair, again = cost.inside, cost.pair, cost.again
        clock, ident = time.thread_time_ns, threading.get_ident
        outer = self

        def enter(code: CodeType, call: int) -> None:
            number = which.get(id(code))
            if number is None or not outer._phase:
                return
            here = outer._threads.get(ident()) or outer._new_thread()
            here.calls[number] += call
            depth = here.depth[number]
            here.depth[number] = depth + 1
            if depth:
                here.spent += again
                return
            here.outside[number] = here.spent
            here.began[number] = clock()

        def begin(code: CodeType, _offset: int) -> None:
            enter(code, 1)

        def go_on(code: CodeType, *_where: object) -> None:
            enter(code, 0)

        def leave(code: CodeType, *_where: object) -> None:
            now = clock()
            number = which.get(id(code))
            if number is None:
                return  # an exception leaves other code
            here = outer._threads.get(ident())
            if here is None or not here.depth[number]:
                return  # entered before the window
            here.depth[number] -= 1
            if here.depth[number]:
                return
            took = now - here.began[number] - inside - (here.spent - here.outside[number])
            here.ns[number] += took
            here.spent += pair

        return begin, go_on, leave


def _events() -> tuple[int, ...]:
    """Return the events that are listened to, in the order of `Clock.start`."""
    if sys.version_info < (3, 12):
        return ()
    events = sys.monitoring.events
    return (
        events.PY_START, events.PY_RESUME, events.PY_THROW,
        events.PY_RETURN, events.PY_YIELD, events.PY_UNWIND,
    )  # fmt: skip


def measure_cost() -> Cost:
    """Return what the events of one call cost in this process: medians of many empty calls."""

    def empty() -> None:
        return

    def recursive(times: int) -> None:
        for _ in range(times):
            recursive(0)

    def called() -> None:
        for _ in range(_EMPTY_CALLS):
            empty()

    def recursed() -> None:
        recursive(_EMPTY_CALLS)

    bare, bare_again = _per_call(called), _per_call(recursed)
    clock = Clock([[empty.__code__], [recursive.__code__]])
    clock.start()
    try:
        clock.set_phase(1)
        with_events = _per_call(called)
        clock.set_phase(PHASE_NONE)
        calls, ns = clock.rounds[1]
        clock.set_phase(2)
        with_again = _per_call(recursed)
        clock.set_phase(PHASE_NONE)
    finally:
        clock.stop()
    return Cost(
        inside=max(0.0, ns[0] / max(calls[0], 1)),
        pair=max(0.0, with_events - bare),
        again=max(0.0, with_again - bare_again),
    )


def _per_call(block: Callable[[], None]) -> float:
    """Return the thread CPU ns of one of the block's calls, the median of several blocks."""
    times = []
    for _ in range(_REPEATS):
        began = time.thread_time_ns()
        block()
        times.append((time.thread_time_ns() - began) / _EMPTY_CALLS)
    return statistics.median(times)


class Targeted:
    """The timed rounds of one process.

    for window in targeted.looks():
        with targeted.caught(): iterate(1, window)
    with targeted.caught(), targeted.timed() as clock:
        if clock: targeted.take(drive(iterate, Window(clock, clocks), plan(record), 1))
    """

    def __init__(self, suspects: Sequence[Frame], driven: "Driven", layout: Layout) -> None:
        self._driven = driven
        self._layout = layout
        self._left_out = dict.fromkeys(suspects[:MOST_SUSPECTS], "")
        """Suspect -> why it is not timed; empty: it is."""
        self._refuse(obstacle(driven))
        for each in self._wanted:
            if each.kind is not Kind.PYTHON:
                self._left_out[each] = "it is no Python function"
        self._looked: list[Look] = []
        self._codes: dict[Frame, list[CodeType]] = {}
        self._clock: Clock | None = None
        self._cost = Cost()
        self._timed: Driven | None = None

    @property
    def _wanted(self) -> list[Frame]:
        return [frame for frame, why in self._left_out.items() if not why]

    def _refuse(self, why: str) -> None:
        """Leave out whatever is not left out yet."""
        for each in self._wanted:
            self._left_out[each] = why

    def looks(self) -> Iterator[Look]:
        """Give a window for each iteration in which the suspects' code is looked for."""
        while self._wanted and len(self._looked) < _LOOKS:
            look = Look()
            self._looked.append(look)
            yield look
        if self._wanted:
            self._find()

    @contextmanager
    def caught(self) -> Generator[None, None, None]:
        """Take what is raised inside for a reason that nothing was timed."""
        try:
            yield
        except (KeyboardInterrupt, SystemExit, GeneratorExit):
            raise
        except UsageError as error:
            self._refuse(error.message)
        except BaseException as error:  # noqa: BLE001 - pytest's own outcomes are no Exceptions
            self._refuse(f"the benchmark raised {type(error).__name__} while it was timed")

    def _find(self) -> None:
        """Choose the code objects to time, first suspects first, as far as calls are few enough."""
        modules: dict[str, str] = {}
        first, last = self._looked[0], self._looked[-1]
        found: dict[Frame, list[CodeType]] = {}
        strange: dict[Frame, str] = {}
        for look in (first, last):
            for key in look.entered:
                code = look.codes[key]
                frame = exact.frame_of(code, self._layout, modules)
                if frame not in self._left_out:
                    continue
                if look is last and key not in first.entered and frame in found:
                    strange[frame] = "its code is made anew in every iteration"
                elif look is first:
                    found.setdefault(frame, []).append(code)
        iterations = sum(each.iterations for each in self._driven.rounds)
        seconds = sum(each.cpu_ns for each in self._driven.rounds) / 1e9 / max(iterations, 1)
        rate = 0.0
        for frame in self._wanted:
            codes = found.get(frame, [])
            entries = sum(each.entered.get(id(code), 0) for each in self._looked for code in codes)
            per_s = entries / len(self._looked) / max(seconds, 1e-9)
            if frame in strange:
                self._left_out[frame] = strange[frame]
            elif not entries:
                self._left_out[frame] = self._unseen(frame, modules)
            elif rate + per_s > MOST_CALLS_PER_S:
                also = " with those before it" if per_s <= MOST_CALLS_PER_S else ""
                self._left_out[frame] = (
                    f"it is called {rate + per_s if also else per_s:,.0f} times a second{also};"
                    f" above {MOST_CALLS_PER_S:,} the clock would disturb it"
                )
            else:
                rate += per_s
                self._codes[frame] = codes

    def _unseen(self, frame: Frame, modules: dict[str, str]) -> str:
        """Return why a suspect was not entered."""
        for look in self._looked:
            for key in look.above:
                if exact.frame_of(look.codes[key], self._layout, modules) == frame:
                    return "it is entered before the measured block"
        return "it was not called in the iterations that looked for it"

    @contextmanager
    def timed(self) -> Generator[Clock | None, None, None]:
        """Give the clock of the suspects, listening; None: there is nothing to time."""
        if not self._codes or not self._wanted:
            yield None
            return
        self._cost = measure_cost()
        self._clock = Clock(list(self._codes.values()), self._cost)
        self._clock.start()
        try:
            yield self._clock
        finally:
            self._clock.stop()

    def take(self, driven: "Driven") -> None:
        """Take the rounds that were driven with the clock."""
        self._timed = driven

    def told(self) -> Timing | None:
        """Return what was timed; None: nobody asked."""
        if not self._left_out:
            return None
        left_out = {frame: why for frame, why in self._left_out.items() if why}
        if self._timed is None or self._clock is None:
            return Timing(left_out=left_out)
        kept = [
            (each, self._clock.rounds[phase])
            for phase, each in enumerate(self._timed.rounds, self._timed.first_phase)
            if not each.dropped and phase in self._clock.rounds
        ]
        kinds = {kind for each, _ in kept for kind in each.references}
        references = {
            kind: tuple(round(statistics.median(each.references[kind])) for each, _ in kept)
            for kind in sorted(kinds)
            if all(each.references.get(kind) for each, _ in kept)
        }
        functions = {
            frame: Timed(
                tuple(calls[number] for _, (calls, _) in kept),
                tuple(max(0, round(ns[number])) for _, (_, ns) in kept),
            )
            for number, frame in enumerate(self._codes)
            if frame in self._wanted
        }
        return Timing(
            tuple(each.iterations for each, _ in kept),
            references,
            functions,
            left_out,
            round(self._cost.pair),
            len(self._timed.rounds) - len(kept),
        )


def plan(record: "RecordConfig") -> "RecordConfig":
    """Return how long and in what rounds the suspects are timed."""
    return replace(record, seconds=min(record.seconds, MOST_SECONDS), modes=(Mode.ON_CPU,))
