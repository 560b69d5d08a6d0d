"""Stage 1, edge: bytecodes and calls of each function in one untimed iteration -> `Count`.

    rounds … │ iteration, counted │ iteration, counted │

Counting makes Python 30 to 50 times slower, so it comes after all that is timed. From Python
3.12 on `sys.monitoring` tells of every bytecode, in all threads; 3.11 tells of calls only
(`sys.setprofile`), in the benchmark's thread and those that it starts.
"""

import functools
import os
import platform
import sys
import threading
import time
from collections import defaultdict
from collections.abc import Callable, Generator, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from types import CodeType, FrameType
from typing import TYPE_CHECKING, Any, Final

from ci_flame.errors import UsageError
from ci_flame.profile import Frame
from ci_flame.profile.counts import Count, Counting
from ci_flame.symbols.modules import Layout, name_module

if TYPE_CHECKING:
    from ci_flame.record.rounds import Driven

COUNTED: Final = 2
"""Processes of each side that count: as many as can disagree."""
MOST_SECONDS: Final = 3.0
"""CPU time that one counted iteration may take; the rest of it runs on uncounted."""
SECOND_UNTIL: Final = 1.0
"""A first counted iteration that took longer than this is the only one of its process."""
LONGEST_ITERATION: Final = 5.0
"""Seconds of an iteration that is not run again just to be counted."""
_CHECK_EVERY: Final = 0xFFFF
"""Bytecodes between two looks at the clock, less one; a power of two."""
_CHECK_CALLS: Final = 0xFFF
_RESUME_START: Final = 0
"""Argument of the bytecode RESUME where a function starts; else it goes on after a yield."""
TOOL: Final = "ci-flame"
FREE_FIRST: Final = (2, 3, 4, 5, 1, 0)
"""Ids of `sys.monitoring`: a profiler's, then those without a meaning, a debugger's last."""
# Names cross folded stacks and paths: as `collect/ebpf/names.py` has them.
_UNSAFE: Final = {ord(";"): ",", **dict.fromkeys((*range(32), 127, 133, 8232, 8233), " ")}


@dataclass(slots=True)
class Raw:
    """What one counted iteration said, by code object."""

    codes: dict[int, CodeType] = field(default_factory=dict)
    calls: defaultdict[int, int] = field(default_factory=lambda: defaultdict(int))
    bytecodes: defaultdict[int, int] | None = None
    total_calls: defaultdict[int, int] = field(default_factory=lambda: defaultdict(int))
    total_bytecodes: defaultdict[int, int] = field(default_factory=lambda: defaultdict(int))
    seconds: float = 0.0
    """CPU time that it took."""
    stopped: str = ""
    """Why it is not a whole iteration; empty: it is."""


class _Stacks:
    """Which functions each thread is in, and what had been counted when they were entered."""

    def __init__(self, raw: Raw) -> None:
        self._raw = raw
        self._of_thread: defaultdict[int, list[tuple[int, int, int]]] = defaultdict(list)
        self._depth: defaultdict[tuple[int, int], int] = defaultdict(int)
        self.calls = 0

    def enter(self, key: int, bytecodes: int, calls: int) -> None:
        thread = threading.get_ident()
        self._of_thread[thread].append((key, bytecodes, calls))
        self._depth[thread, key] += 1

    def leave(self, key: int, bytecodes: int) -> None:
        """Add up what was counted since; what was entered before the window is passed over."""
        thread = threading.get_ident()
        stack = self._of_thread[thread]
        if not self._depth.get((thread, key)):
            return
        while stack:  # frames that a greenlet took away are dropped with it
            top, before, calls = stack.pop()
            self._depth[thread, top] -= 1
            if top == key:
                if not self._depth[thread, key]:
                    self._raw.total_bytecodes[key] += bytecodes - before
                    self._raw.total_calls[key] += self.calls - calls
                return


class Counter:
    """A window that counts what runs while it is open, and takes no time of it."""

    def __init__(self) -> None:
        self.raw = Raw()
        self.openings = 0
        self._tool = -1
        self._began = 0.0
        self._stacks = _Stacks(self.raw)
        self._start = self._monitored if sys.version_info >= (3, 12) else self._profiled
        self._stop: Callable[[], None] = lambda: None

    def open(self) -> None:
        """Begin to count, as the last thing that is done here."""
        for frame in sys._current_frames().values():  # noqa: SLF001 - documented, despite its name
            above: FrameType | None = frame
            while above is not None:  # what has been entered already is never seen to start
                self.raw.codes[id(above.f_code)] = above.f_code
                above = above.f_back
        self._began = time.process_time()
        self.openings += 1
        self._start()

    def close(self) -> None:
        """Count no more, as the first thing that is done here."""
        self._stop()
        self.raw.seconds += time.process_time() - self._began

    def shut(self) -> None:
        """Count no more, whatever happened inside; give the tool's id back."""
        self._stop()
        if sys.version_info >= (3, 12) and self._tool >= 0:
            monitoring = sys.monitoring
            for event in _events():
                monitoring.register_callback(self._tool, event, None)
            monitoring.free_tool_id(self._tool)
            self._tool = -1

    def _too_long(self) -> None:
        if self.raw.seconds + time.process_time() - self._began > MOST_SECONDS:
            self._stop()
            self.raw.stopped = f"counting one iteration took more than {MOST_SECONDS:g} s"

    # -- 3.12 and newer ---------------------------------------------------------------

    def _monitored(self) -> None:
        if sys.version_info >= (3, 12):  # for the type checker, too
            monitoring = sys.monitoring
            if self._tool < 0:
                self._tool = free_tool()
                callbacks = self._callbacks()
                for event, callback in zip(_events(), callbacks, strict=True):
                    monitoring.register_callback(self._tool, event, callback)
                self._stop = functools.partial(monitoring.set_events, self._tool, 0)
            mask = 0
            for event in _events():
                mask |= event
            monitoring.set_events(self._tool, mask)

    def _callbacks(self) -> tuple[Callable[..., object], ...]:
        """Return the callbacks of `_events()`: bytecode, start, go on …, and leave …."""
        raw, stacks, too_long = self.raw, self._stacks, self._too_long
        own = raw.bytecodes = defaultdict(int)
        codes, calls = raw.codes, raw.calls
        bytecodes = 0

        def instruction(code: CodeType, _offset: int) -> None:
            # Nothing between reading and storing a number calls or jumps: no other thread runs.
            nonlocal bytecodes
            bytecodes += 1
            if not bytecodes & _CHECK_EVERY:
                too_long()
            own[id(code)] += 1

        def start(code: CodeType, _offset: int) -> None:
            key = id(code)
            codes[key] = code
            stacks.enter(key, bytecodes, stacks.calls)
            stacks.calls += 1
            calls[key] += 1

        def go_on(code: CodeType, *_where: object) -> None:
            codes[id(code)] = code
            stacks.enter(id(code), bytecodes, stacks.calls)

        def leave(code: CodeType, *_where: object) -> None:
            codes[id(code)] = code
            stacks.leave(id(code), bytecodes)

        return (instruction, start, go_on, go_on, leave, leave, leave)

    # -- 3.11 -------------------------------------------------------------------------

    def _profiled(self) -> None:
        raw, stacks, too_long = self.raw, self._stacks, self._too_long
        codes, calls = raw.codes, raw.calls
        events = 0

        def heard(frame: FrameType, event: str, _argument: object) -> None:
            nonlocal events
            events += 1
            if not events & _CHECK_CALLS:
                too_long()
            if event == "call":
                code = frame.f_code
                key = id(code)
                known = key in codes
                codes[key] = code
                starts = True
                if not known or key in resumable:
                    words = code.co_code
                    starts = words[frame.f_lasti + 1] == _RESUME_START
                    if code.co_flags & _SUSPENDS:
                        resumable.add(key)
                stacks.enter(key, 0, stacks.calls)
                if starts:
                    stacks.calls += 1
                    calls[key] += 1
            elif event == "return":
                stacks.leave(id(frame.f_code), 0)

        resumable: set[int] = set()
        heard_by_all = heard

        def stop() -> None:
            sys.setprofile(None)
            threading.setprofile(None)

        self._stop = stop
        threading.setprofile(heard_by_all)
        sys.setprofile(heard_by_all)


_SUSPENDS: Final = 0x20 | 0x80 | 0x200
"""CO_GENERATOR, CO_COROUTINE, CO_ASYNC_GENERATOR: code that is entered again."""


def _events() -> tuple[int, ...]:
    """Return the events that are listened to, in the order of `Counter._callbacks`."""
    if sys.version_info < (3, 12):
        return ()
    events = sys.monitoring.events
    return (
        events.INSTRUCTION, events.PY_START, events.PY_RESUME, events.PY_THROW,
        events.PY_RETURN, events.PY_YIELD, events.PY_UNWIND,
    )  # fmt: skip


def free_tool() -> int:
    """Take a tool's id of `sys.monitoring`; UsageError where others have all of them."""
    if sys.version_info >= (3, 12):
        for number in FREE_FIRST:
            if sys.monitoring.get_tool(number) is None:
                sys.monitoring.use_tool_id(number, TOOL)
                return number
        names = ", ".join(str(sys.monitoring.get_tool(each)) for each in sorted(FREE_FIRST))
        raise UsageError(f"all six tools of sys.monitoring are in use ({names})")
    raise UsageError("sys.monitoring needs Python 3.12")


def obstacle(driven: "Driven", longest_s: float = LONGEST_ITERATION, what: str = "counted") -> str:
    """Return why iterations of this benchmark are not run again to be counted; empty: they are.

    `what`: "timed", where that is what is wanted.
    """
    if sys.version_info >= (3, 13) and not sys._is_gil_enabled():  # noqa: SLF001 - its only name
        return f"threads without the GIL cannot be {what} exactly"
    iterations = sum(each.iterations for each in driven.rounds)
    seconds = driven.wall_ns / 1e9 / max(iterations, 1)
    if seconds > longest_s:
        return (
            f"one iteration takes {seconds:.1f} s; one longer than {longest_s:g} s is not"
            f" run again to be {what}"
        )
    return ""


class Counts:
    """The counted iterations of one process.

    for window in counts.windows():
        with counts.caught(): iterate(1, window)
    """

    def __init__(self, driven: "Driven") -> None:
        self._whole: list[Raw] = []
        self._left_out = obstacle(driven)

    def windows(self) -> Iterator[Counter]:
        """Give a window for each iteration to count: two, or one where that took long."""
        while not self._left_out and len(self._whole) < 2:  # noqa: PLR2004 - two can disagree
            if self._whole and self._whole[0].seconds > SECOND_UNTIL:
                return
            counter = Counter()
            yield counter
            self._left_out = self._left_out or counter.raw.stopped
            if not self._left_out:
                self._whole.append(counter.raw)

    @contextmanager
    def caught(self) -> Generator[None, None, None]:
        """Take what is raised inside for a reason to have no counts.

        The benchmark has passed by now; made 30 times slower, its time limits may not hold.
        """
        try:
            yield
        except (KeyboardInterrupt, SystemExit, GeneratorExit):
            raise
        except UsageError as error:
            self._left_out = error.message
        except BaseException as error:  # noqa: BLE001 - pytest's own outcomes are no Exceptions
            self._left_out = f"the benchmark raised {type(error).__name__} while it was counted"

    def told(
        self, layout: Layout, unwanted: Callable[[Frame], bool]
    ) -> tuple[Mapping[Frame, Count], Counting]:
        """Return the counts by function, and how they were made.

        Functions are named as in stacks; `unwanted` ones (the machinery) are left out.
        """
        made = Counting(
            python=".".join(platform.python_version_tuple()[:2]),
            hash_seed=os.environ.get("PYTHONHASHSEED") or "random",
            iterations=len(self._whole),
            left_out=self._left_out,
        )
        if self._left_out or not self._whole:
            return {}, made
        named = [_named(raw, layout, unwanted) for raw in self._whole]
        counts, unsteady = agreed(named)
        return counts, replace(made, unsteady=unsteady)


def agreed(
    iterations: list[dict[Frame, Count]],
) -> tuple[dict[Frame, Count], frozenset[Frame]]:
    """Return the counts that all iterations share, and the functions whose own counts differ.

    Where only what a function called differs, its totals are None.
    """
    counts: dict[Frame, Count] = {}
    unsteady: set[Frame] = set()
    for frame in sorted({frame for each in iterations for frame in each}):
        first, *others = (each.get(frame) for each in iterations)
        if first is None or any(
            each is None or (each.calls, each.bytecodes) != (first.calls, first.bytecodes)
            for each in others
        ):
            unsteady.add(frame)
        elif any(each != first for each in others):
            counts[frame] = Count(first.calls, first.bytecodes)
        else:
            counts[frame] = first
    return counts, frozenset(unsteady)


def frame_of(code: CodeType, layout: Layout, modules: dict[str, str]) -> Frame:
    """Return the frame that stacks have for this code; `modules` remembers files."""
    file = code.co_filename.translate(_UNSAFE)
    if file not in modules:
        modules[file] = name_module(file, layout)[0]
    return Frame(code.co_qualname.translate(_UNSAFE) or "[unknown]", modules[file])


def _named(raw: Raw, layout: Layout, unwanted: Callable[[Frame], bool]) -> dict[Frame, Count]:
    """Add up code objects of one name: lambdas of a function, its two definitions."""
    modules: dict[str, str] = {}
    counts: dict[Frame, Count] = {}
    for key, code in raw.codes.items():
        frame = frame_of(code, layout, modules)
        if unwanted(frame):
            continue
        calls, own = raw.calls.get(key, 0), None
        all_calls: int | None = raw.total_calls.get(key)
        below: int | None = None
        if raw.bytecodes is not None:
            own, below = raw.bytecodes.get(key, 0), raw.total_bytecodes.get(key)
        if not calls and not own and all_calls is None:
            continue  # on the stack above the window, and nothing of it ran
        made: Any = (calls, own, all_calls, below)
        have = counts.get(frame)
        if have is not None:
            before = (have.calls, have.bytecodes, have.total_calls, have.total_bytecodes)
            pairs = zip(before, made, strict=True)
            made = (None if a is None or b is None else a + b for a, b in pairs)
        counts[frame] = Count(*made)
    return counts
