"""Stage 6, pure: what is told of a benchmark that there is nothing to compare with."""

from collections import defaultdict
from dataclasses import replace
from typing import Final

from ci_flame.profile import (
    RUN_QUEUE,
    TOTAL,
    Frame,
    Kind,
    Measurement,
    Mode,
    Profile,
    Stack,
    Unit,
    Weight,
)
from ci_flame.report.words import duration, share, visible
from ci_flame.simplify import judged

MOST: Final = 3
"""Functions that a line names."""
WORTH: Final = 0.05
"""Of the cost; smaller functions are not named."""


def functions(profile: Profile) -> list[tuple[Frame, Weight, Weight]]:
    """Return frame, own and total weight, heaviest first; recursion is counted once."""
    own: dict[Frame, Weight] = defaultdict(lambda: Weight(0, 0))
    total: dict[Frame, Weight] = defaultdict(lambda: Weight(0, 0))
    for stack, weight in profile.stacks.items():
        own[stack[-1]] += weight
        for frame in dict.fromkeys(stack):
            total[frame] += weight
    ordered = sorted(total, key=lambda frame: (-total[frame].value, str(frame)))
    return [(frame, own[frame], total[frame]) for frame in ordered]


Node = tuple[Frame, int, Weight]
"""Frame, index of the parent, weight with callees."""


def tree(profile: Profile) -> list[Node]:
    """Return the call tree with the whole profile as its root, parents first, siblings by name."""
    # By caller, not by path: the paths of one deep stack would be as long as its depth squared.
    below: list[dict[Frame, int]] = [{}]
    samples, values = [0], [0]
    for stack, weight in profile.stacks.items():
        at = 0
        for frame in stack:
            number = below[at].setdefault(frame, len(below))
            if number == len(below):
                below.append({})
                samples.append(0)
                values.append(0)
            at = number
            samples[at] += weight.samples
            values[at] += weight.value
    names = {frame: str(frame) for stack in profile.stacks for frame in stack}
    nodes: list[Node] = [(TOTAL, -1, Weight(profile.samples, profile.value))]

    def by_name(number: int) -> list[tuple[Frame, int]]:
        return sorted(below[number].items(), key=lambda each: names[each[0]], reverse=True)

    waiting = [(frame, number, 0) for frame, number in by_name(0)]
    while waiting:
        frame, number, parent = waiting.pop()
        waiting += [(callee, other, len(nodes)) for callee, other in by_name(number)]
        nodes.append((frame, parent, Weight(samples[number], values[number])))
    return nodes


def without_run_queue(profile: Profile) -> tuple[Profile, int]:
    """Return the profile without waits for a CPU, the machine's doing, and how much they were."""
    left = {stack: weight for stack, weight in profile.stacks.items() if stack[-1] != RUN_QUEUE}
    if len(left) == len(profile.stacks):
        return profile, 0
    return replace(profile, stacks=left), profile.value - sum(w.value for w in left.values())


def line(measurement: Measurement, mode: Mode) -> str:
    """Return cost and where most of it is: `60.1 µs per iteration as timed; most own cost: f 34 %`.

    Own cost, that of the kernel and of the interpreter told of the function that called them.
    """
    profile, _ = without_run_queue(measurement.profile(mode))
    if not profile.samples:
        return ""
    waits = mode is Mode.OFF_CPU
    per = profile.value / profile.iterations
    cost = (
        f"{'waits ' if waits else ''}{duration(per)} per iteration, as timed"
        if profile.unit is Unit.NANOSECONDS
        else f"{profile.samples:,} samples"
    )
    own: dict[Frame, int] = defaultdict(int)
    for stack, weight in profile.stacks.items():
        own[_caller(stack)] += weight.value
    ordered = sorted(own, key=lambda frame: (-own[frame], str(frame)))
    parts = [(frame, own[frame] / max(profile.value, 1)) for frame in ordered[:MOST]]
    named = [f"{visible(str(frame))} {share(part)}" for frame, part in parts if part >= WORTH]
    most = f"; most own cost: {', '.join(named)}" if named else ""
    count = len(measurement.processes)
    processes = f"{count} process{'' if count == 1 else 'es'}"
    return f"{cost}, {processes}{most}"


def document(measurement: Measurement | None, mode: Mode) -> dict[str, object] | None:
    """Return the same for `verdict.json`; None where nothing was recorded."""
    if measurement is None:
        return None
    profile, _ = without_run_queue(measurement.profile(mode))
    timed = profile.unit is Unit.NANOSECONDS
    return {
        "per_iteration_ns": profile.value / profile.iterations if timed else None,
        "iterations": profile.iterations,
        "samples": profile.samples,
        "processes": len(measurement.processes),
    }


def _caller(stack: Stack) -> Frame:
    frames = judged(stack)
    outside = {Kind.KERNEL, Kind.MARK}
    return next((frame for frame in reversed(frames) if frame.kind not in outside), frames[-1])
