"""Stage 2, pure: what a process timed call by call <-> its part of `run.json`.

Rounds are columns; functions are rows of three, `[kind, module, function]`, with what belongs to
them after it.
"""

from typing import Final

from ci_flame.formats.counts_json import MAX_NAME, frame_row, read_frame
from ci_flame.formats.fields import Node
from ci_flame.profile import Frame, Process
from ci_flame.profile.timing import Timed, Timing

MAX_FUNCTIONS: Final = 1_000
MAX_ROUNDS: Final = 1_000_000


def written(process: Process) -> dict[str, object]:
    """Return the key that a process has where suspects were timed; else nothing."""
    timing = process.timing
    if timing is None:
        return {}
    return {
        "timing": {
            "event_ns": timing.event_ns,
            "busy": timing.busy,
            "iterations": list(timing.iterations),
            "references": {kind: list(ns) for kind, ns in sorted(timing.references.items())},
            "functions": [
                [*frame_row(frame), list(each.calls), list(each.ns)]
                for frame, each in sorted(timing.functions.items())
            ],
            "left_out": [
                [*frame_row(frame), why] for frame, why in sorted(timing.left_out.items())
            ],
        }
    }


def read_timing(node: Node) -> Timing | None:
    """Return what a process timed; None in runs that say nothing of it."""
    if "timing" not in dict(node.entries(None)):
        return None
    here = node.get("timing")
    here.only(["event_ns", "busy", "iterations", "references", "functions", "left_out"])
    iterations = here.get("iterations").integers(None)
    count = len(here.get("iterations").items(MAX_ROUNDS))
    functions: dict[Frame, Timed] = {}
    for each in here.get("functions").items(MAX_FUNCTIONS):
        frame = read_frame(each, 5)
        if frame in functions:
            raise each.error(f"{frame} is there twice")
        functions[frame] = Timed(each.at(3).integers(count), each.at(4).integers(count))
    if not all(iterations):
        raise here.error("a round without iterations")
    return Timing(
        iterations,
        {kind: each.integers(count) for kind, each in here.get("references").entries(None)},
        functions,
        {
            read_frame(each, 4): each.at(3).text(MAX_NAME)
            for each in here.get("left_out").items(MAX_FUNCTIONS)
        },
        here.get("event_ns").integer(),
        here.get("busy").integer(),
    )
