"""Stage 2, pure: a process's exact counts <-> their part of `run.json`.

Frames are rows of three, `[kind, module, function]`, with the figures after them.
"""

from typing import Final

from ci_flame.formats.fields import Node
from ci_flame.profile import Frame, Kind, Process
from ci_flame.profile.counts import Count, Counting

MAX_NAME: Final = 64 << 10
SHORT, LONG = 5, 7
"""Entries of a count without and with its totals."""


def frame_row(frame: Frame) -> list[str]:
    """Return a frame as the row that `read_frame` reads."""
    return [str(frame.kind), frame.module, frame.function]


def read_frame(node: Node, length: int) -> Frame:
    """Read kind, module and function; the list has `length` entries in all."""
    node.items(length, exactly=True)
    kind = node.at(0).choice(Kind, node.at(0).text(MAX_NAME))
    function = node.at(2).text(MAX_NAME)
    if not function:
        raise node.error("a frame without a function name")
    return Frame(function, node.at(1).text(MAX_NAME), kind)


def written(process: Process) -> dict[str, object]:
    """Return the keys that a process has for its counts; old readers know the first only."""
    keys: dict[str, object] = {
        "counts": [_count_row(frame, count) for frame, count in sorted(process.counts.items())]
    }
    if process.counting is not None:
        keys["counting"] = _counting(process.counting)
    return keys


def _count_row(frame: Frame, count: Count) -> list[object]:
    row: list[object] = [*frame_row(frame), count.calls, count.bytecodes]
    if count.total_calls is None and count.total_bytecodes is None:
        return row
    return [*row, count.total_calls, count.total_bytecodes]


def _counting(counting: Counting) -> dict[str, object]:
    return {
        "python": counting.python,
        "hash_seed": counting.hash_seed,
        "iterations": counting.iterations,
        "left_out": counting.left_out,
        "unsteady": [frame_row(frame) for frame in sorted(counting.unsteady)],
    }


def read_counts(node: Node) -> dict[Frame, Count]:
    """Return the counts of a process, by function."""
    counts = {}
    for each in node.get("counts").items(None):
        length = LONG if len(each.items(LONG)) > SHORT else SHORT
        frame = read_frame(each, length)
        figures = [None if each.at(i).absent else each.at(i).integer() for i in range(4, length)]
        counts[frame] = Count(each.at(3).integer(), *figures)
    return counts


def read_counting(node: Node) -> Counting | None:
    """Return how a process counted; None in runs that say nothing of it."""
    if "counting" not in dict(node.entries(None)):
        return None
    here = node.get("counting")
    here.only(["python", "hash_seed", "iterations", "left_out", "unsteady"])
    return Counting(
        python=here.get("python").text(MAX_NAME),
        hash_seed=here.get("hash_seed").text(MAX_NAME),
        iterations=here.get("iterations").integer(),
        left_out=here.get("left_out").text(MAX_NAME),
        unsteady=frozenset(read_frame(each, 3) for each in here.get("unsteady").items(None)),
    )
