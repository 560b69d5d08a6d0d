"""Stage 6, pure: a differential folded profile, `path before after` per line.

The format of FlameGraph's difffolded.pl, read by flamegraph.pl and inferno. Numbers are
own nanoseconds per iteration at the baseline's machine speed, with up to three decimals.
"""

from collections import defaultdict
from typing import TYPE_CHECKING

from ci_flame.diff import BenchmarkDiff
from ci_flame.report.words import visible

if TYPE_CHECKING:
    from ci_flame.profile import Stack


def render(diff: BenchmarkDiff) -> str:
    """Return one line per stack that has own cost on either side, sorted by path.

    Own cost is what the children leave of a node's total, so that a column adds up to it.
    """
    children: dict[Stack, list[float]] = defaultdict(lambda: [0.0, 0.0])
    for node in diff.paths:
        children[node.path[:-1]][0] += node.total.before_ns
        children[node.path[:-1]][1] += node.total.after_ns
    lines = []
    for node in diff.paths:
        below = children.get(node.path, [0.0, 0.0])
        before = _number(node.total.before_ns - below[0])
        after = _number(node.total.after_ns - below[1])
        if before != "0" or after != "0":
            # `;` and spaces end a frame and a path in this format.
            path = ";".join(
                visible(str(frame)).replace(";", ":").replace(" ", "_") for frame in node.path
            )
            lines.append(f"{path} {before} {after}\n")
    return "".join(sorted(lines))


def _number(ns: float) -> str:
    return f"{max(ns, 0.0):.3f}".rstrip("0").rstrip(".")
