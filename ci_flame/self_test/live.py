"""Stage 1, edge: plants loops into the functions of this process, counts their calls.

A function object's code is exchanged where it lives (`__code__`), after everything has been
imported: it does not matter who imported the module, or through which loader. Functions that
are defined inside others are exchanged in their definers' constants, too.
"""

import gc
import itertools
import json
import linecache
import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import CodeType, FunctionType
from typing import Final

from ci_flame.collect import PHASE_NONE
from ci_flame.profile import Frame
from ci_flame.record import reference
from ci_flame.record.clocks import Clocks
from ci_flame.record.recorder import Recorded, Recorder, module_files
from ci_flame.record.rounds import Driven, Phased, Window
from ci_flame.self_test import loops

PLANT_VARIABLE: Final = "CI_FLAME_PLANT"
"""File that tells a further process what to plant, and where to answer."""
_PAIRS: Final = 25
"""A loop and the reference in turn: about 0.15 s."""
_LONG: Final = 8_000
"""Turns that take about as long as one repetition of the core reference."""
_CALLS: Final = 1_000


@dataclass(frozen=True, slots=True)
class Order:
    """What a further process plants; what `turns` has no number for is only counted."""

    turns: Mapping[str, int | None]
    """Name of the frame -> turns of its loop."""
    answer: Path


@dataclass(frozen=True, slots=True)
class Answer:
    """What came of it."""

    refused: Mapping[str, str] = field(default_factory=dict)
    """Frame -> why nothing could be planted."""
    calls: Mapping[str, float] = field(default_factory=dict)
    """Frame -> calls per iteration, where they were counted."""
    turn: float = 0.0
    """Cost of one turn of the loop, in repetitions of the core reference."""
    entry: float = 0.0
    """Cost of a loop of no turns, in the same unit."""


def write_order(order: Order, file: Path) -> None:
    """Write what a further process reads."""
    told = {"turns": dict(order.turns), "answer": str(order.answer)}
    file.write_text(json.dumps(told), encoding="utf-8")


def read_order(given: Mapping[str, str]) -> Order | None:
    """Return the order of this process, None where it has none; `given` is the environment."""
    name = given.get(PLANT_VARIABLE)
    if not name:
        return None
    told = json.loads(Path(name).read_text(encoding="utf-8"))
    return Order(told["turns"], Path(told["answer"]))


def read_answer(file: Path) -> Answer | None:
    """Return what a further process answered; None where it never came to a benchmark."""
    try:
        return Answer(**json.loads(file.read_text(encoding="utf-8")))
    except FileNotFoundError:
        return None


def _write_answer(answer: Answer, file: Path) -> None:
    told = {
        "refused": dict(answer.refused), "calls": dict(answer.calls),
        "turn": answer.turn, "entry": answer.entry,
    }  # fmt: skip
    scratch = file.with_suffix(".tmp")
    scratch.write_text(json.dumps(told), encoding="utf-8")
    scratch.replace(file)


# -- planting ---------------------------------------------------------------------------


def plant(
    turns: Mapping[str, int | None], counters: Mapping[str, Callable[[], object]]
) -> Mapping[str, str]:
    """Exchange the code of these frames' functions; return why some could not be, by name.

    What has turns gets its loop, what has None calls its counter.
    """
    functions = [each for each in gc.get_objects() if type(each) is FunctionType]
    files = module_files()
    refused: dict[str, str] = {}
    # The outer first: its new code is made from the source, where what is inside is as it was.
    for name in sorted(turns, key=lambda each: (each.count("."), each)):
        frame = Frame.parse(name)
        reached = [
            each
            for each in functions
            if _is_part(each.__code__.co_qualname, frame.function)
            and frame.module in {files.get(each.__code__.co_filename), each.__module__}
            and frame.function in loops.nested(each.__code__)
        ]
        why = _exchange(reached, frame, turns[name], counters.get(name))
        if why:
            refused[name] = why
    return refused


def _is_part(qualname: str, wanted: str) -> bool:
    """Tell whether a function is the wanted one, or one that it is defined in."""
    return qualname == wanted or wanted.startswith(f"{qualname}.<locals>.")


def _exchange(
    functions: Sequence[FunctionType],
    frame: Frame,
    turns: int | None,
    counter: Callable[[], object] | None,
) -> str:
    """Exchange one frame's code in all functions that are it or define it; return why not."""
    if not functions:
        return "no such function is loaded"
    why = ""
    done = 0
    made: dict[str, Mapping[loops.Spot, CodeType] | str] = {}
    for function in functions:
        file = function.__code__.co_filename
        if file not in made:
            made[file] = _planted(function, frame, turns, counter)
        found = made[file]
        if isinstance(found, str):
            why = found
            continue
        code = loops.exchanged(function.__code__, found)
        done += code is not function.__code__
        function.__code__ = code
    return "" if done else why or "its source has changed since it was imported"


def _planted(
    function: FunctionType,
    frame: Frame,
    turns: int | None,
    counter: Callable[[], object] | None,
) -> Mapping[loops.Spot, CodeType] | str:
    """Return the frame's planted code by place in its file, or why there is none."""
    file = function.__code__.co_filename
    linecache.checkcache(file)
    source = "".join(linecache.getlines(file, function.__globals__))
    if not source:
        return "its source is not there"
    try:
        plain = loops.compiled(source, file, {})
        all_planted = loops.compiled(source, file, {frame.function: turns})
    except (SyntaxError, ValueError, RecursionError) as error:
        return f"its source cannot be compiled: {error}"
    rewritten = "@pytest_ar" in function.__globals__
    for running in _running(function.__code__, frame.function):
        spot = loops.Spot(running.co_qualname, running.co_firstlineno)
        why = loops.unlike(running, plain.get(spot), asserts=rewritten)
        if why:
            return why
    return {
        spot: code if counter is None else loops.with_counter(code, counter)
        for spot, code in all_planted.items()
        if spot.qualname == frame.function
    }


def _running(code: CodeType, qualname: str) -> list[CodeType]:
    """Return the codes of that name, the code itself or in it."""
    if code.co_qualname == qualname:
        return [code]
    return [
        found
        for each in code.co_consts
        if isinstance(each, CodeType)
        for found in _running(each, qualname)
    ]


# -- the loop's cost --------------------------------------------------------------------


def _made(turns: int) -> Callable[[], None]:
    """Return a function that is nothing but the loop."""
    source = "def f():\n    pass\n"
    codes = loops.compiled(source, "<loop>", {"f": turns})
    return FunctionType(codes[loops.Spot("f", 1)], {})


def loop_cost() -> tuple[float, float]:
    """Return the cost of a turn and of a loop's entry, in repetitions of the core reference.

    Both run in turn, so that the machine's speed of the moment is the same for both.
    """
    reference.prepare()
    long, short, empty = _made(_LONG), _made(1), _made(0)
    clock = time.thread_time_ns

    def of(work: Callable[[], None], calls: int) -> float:
        # As in the reference, the first one is thrown away: it finds others' caches.
        work()
        start = clock()
        for _ in itertools.repeat(None, calls):
            work()
        return (clock() - start) / calls

    turn, entry = [], []
    for _ in range(_PAIRS):
        core = statistics.median(reference.measure()["core"])
        turn.append(of(long, 3) / core / _LONG)
        entry.append((of(short, _CALLS) - of(empty, _CALLS)) / core)
    a_turn = statistics.median(turn)
    return a_turn, max(0.0, statistics.median(entry) - a_turn)


# -- in a further process ---------------------------------------------------------------


class _Counter:
    """Counts calls; `itertools.count` is one step that no other thread can cut in two."""

    def __init__(self) -> None:
        self._numbers = itertools.count()
        self.call = self._numbers.__next__
        self._looks = 0

    def value(self) -> int:
        seen = next(self._numbers) - self._looks
        self._looks += 1
        return seen


class _CountingWindow(Window):
    """Adds up the counters while it is open, by phase."""

    def __init__(
        self,
        session: Phased,
        clocks: Clocks,
        counters: Mapping[str, _Counter],
    ) -> None:
        self._counters = counters
        self.calls: dict[tuple[int, str], int] = {}
        super().__init__(session, clocks)

    def open(self) -> None:
        super().open()
        if self.phase != PHASE_NONE:
            self._add(-1)

    def close(self) -> None:
        if self.phase != PHASE_NONE:
            self._add(1)
        super().close()

    def _add(self, sign: int) -> None:
        for name, counter in self._counters.items():
            at = (self.phase, name)
            self.calls[at] = self.calls.get(at, 0) + sign * counter.value()


class PlantingRecorder(Recorder):
    """A recorder that plants before the first round, and answers after the last."""

    def __init__(self, instead_of: Recorder, order: Order) -> None:
        super().__init__(instead_of.plan, instead_of._project)  # noqa: SLF001 - a recorder, too
        self._order = order
        self._window: _CountingWindow | None = None
        self._refused: Mapping[str, str] = {}
        self._counters: Mapping[str, _Counter] = {}

    def begin(self) -> Window:
        """Plant, then begin as ever: all that the benchmark's first call loads is there."""
        window = super().begin()
        turns = self._order.turns
        self._counters = {name: _Counter() for name, number in turns.items() if number is None}
        calls = {name: counter.call for name, counter in self._counters.items()}
        self._refused = plant(turns, calls)
        if not self._counters or self._session is None:
            return window
        self._window = _CountingWindow(self._session, self.clocks, self._counters)
        return self._window

    def finish(self, driven: Driven, code: CodeType, module: str) -> Recorded:
        """Answer what was refused and counted, and what the loop costs."""
        recorded = super().finish(driven, code, module)
        calls: dict[str, float] = {}
        turn = entry = 0.0
        if self._window is not None:
            phases = range(driven.first_phase, driven.next_phase)
            iterations = sum(each.iterations for each in driven.rounds)
            for name in self._counters:
                if name not in self._refused:
                    seen = sum(self._window.calls.get((phase, name), 0) for phase in phases)
                    calls[name] = seen / max(iterations, 1)
            turn, entry = loop_cost()
        _write_answer(Answer(self._refused, calls, turn, entry), self._order.answer)
        return recorded
