"""Measure how big the demo's change really is, without ci_flame and without sampling.

Three figures, so that the demo can be judged by something other than itself:

- bytecodes that `Token.match` executes in one parse, counted exactly;
- time of the recorded calls of `Token.match`, replayed alone, less that of an empty loop;
- time of the whole parse.

Times come from short turns of two processes, one per side, that alternate; the growth is the median
of the turns' ratios, so a machine that changes its speed does so for both.
"""

import importlib
import json
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from types import CodeType, FrameType
from typing import Any

TURNS = 150


@dataclass(frozen=True, slots=True)
class Sizes:
    """Growth of each figure; 0.30 is 30 %."""

    bytecodes_before: int
    bytecodes_after: int
    function: float
    total: float
    total_before_ms: float

    @property
    def bytecodes(self) -> float:
        """Growth of the exact count."""
        return self.bytecodes_after / self.bytecodes_before - 1


def measure(before: Path, after: Path, python: str = sys.executable) -> Sizes:
    """Compare the projects in two folders; each has `sqlparse/` and `benchmarks/`."""
    workers = [_start(python, before), _start(python, after)]
    try:
        counts = [_ask(worker)["bytecodes"] for worker in workers]
        turns: list[list[dict[str, float]]] = [[], []]
        for turn in range(TURNS):
            for side in (0, 1) if turn % 2 else (1, 0):
                turns[side].append(_ask(workers[side]))
    finally:
        for worker in workers:
            worker.kill()
            worker.communicate()
    return Sizes(
        bytecodes_before=int(counts[0]),
        bytecodes_after=int(counts[1]),
        function=_growth(turns, "calls"),
        total=_growth(turns, "parse"),
        total_before_ms=statistics.median(turn["parse"] for turn in turns[0]) / 1e6,
    )


def _growth(turns: list[list[dict[str, float]]], name: str) -> float:
    pairs = zip(turns[0], turns[1], strict=True)
    return statistics.median(after[name] / before[name] for before, after in pairs) - 1


def _start(python: str, project: Path) -> "subprocess.Popen[str]":
    return subprocess.Popen(
        [python, __file__, str(project)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )


def _ask(worker: "subprocess.Popen[str]") -> dict[str, float]:
    assert worker.stdin is not None  # noqa: S101 - opened as pipes above
    assert worker.stdout is not None  # noqa: S101
    worker.stdin.write("\n")
    worker.stdin.flush()
    answer: dict[str, float] = json.loads(worker.stdout.readline())
    return answer


def _count_bytecodes(run: Callable[[], object], code: CodeType) -> int:
    """Return the number of bytecodes executed in frames of `code` during one run."""
    return (_count_monitored if sys.version_info >= (3, 12) else _count_traced)(run, code)


def _count_monitored(run: Callable[[], object], code: CodeType) -> int:
    monitoring: Any = getattr(sys, "monitoring")  # noqa: B009 - the checker's Python has none
    tool, count = monitoring.PROFILER_ID, 0

    def instruction(_code: object, _offset: int) -> None:
        nonlocal count
        count += 1

    monitoring.use_tool_id(tool, "demo")
    monitoring.register_callback(tool, monitoring.events.INSTRUCTION, instruction)
    monitoring.set_local_events(tool, code, monitoring.events.INSTRUCTION)
    try:
        run()
    finally:
        monitoring.set_local_events(tool, code, 0)
        monitoring.free_tool_id(tool)
    return count


def _count_traced(run: Callable[[], object], code: CodeType) -> int:
    count = 0

    def enter(frame: FrameType, _event: str, _argument: object) -> Any:  # noqa: ANN401
        if frame.f_code is not code:
            return None
        frame.f_trace_lines = False
        frame.f_trace_opcodes = True
        return opcode

    def opcode(_frame: FrameType, event: str, _argument: object) -> Any:  # noqa: ANN401
        nonlocal count
        count += event == "opcode"
        return opcode

    sys.settrace(enter)
    try:
        run()
    finally:
        sys.settrace(None)
    return count


def _serve(project: Path) -> None:
    """Answer each line on standard input with one turn's figures."""
    sys.path[:0] = [str(project), str(project / "benchmarks")]
    # By name: what is imported is the side that this process measures.
    sqlparse = importlib.import_module("sqlparse")
    token_class = importlib.import_module("sqlparse.sql").Token
    query = importlib.import_module("test_report").REPORT_QUERY

    def parse() -> object:
        return sqlparse.parse(query)

    parse()
    calls: list[tuple[Any, ...]] = []
    match = token_class.match

    def recorded(*arguments: Any) -> object:  # noqa: ANN401
        calls.append(arguments)
        return match(*arguments)

    token_class.match = recorded
    parse()
    token_class.match = match
    bytecodes = _count_bytecodes(parse, match.__code__)

    def replay(function: Callable[..., object]) -> int:
        start = time.process_time_ns()
        for arguments in calls:
            function(*arguments)
        return time.process_time_ns() - start

    def nothing(_token: object, _ttype: object, _values: object) -> None:
        return None

    sys.stdin.readline()
    print(json.dumps({"bytecodes": bytecodes}), flush=True)
    for _line in sys.stdin:
        start = time.process_time_ns()
        parse()
        parsed = time.process_time_ns() - start
        print(json.dumps({"parse": parsed, "calls": replay(match) - replay(nothing)}), flush=True)


if __name__ == "__main__":
    _serve(Path(sys.argv[1]))
