"""Edge: the names of metrics that a policy may limit; what no recording can have is refused.

run_queue.p99_ms · block_io.vda.write.p99_ms · collector.percent · bpftrace.SCRIPT.@MAP[KEY]
"""

import difflib
import fnmatch
from collections.abc import Mapping
from typing import Final

from ci_flame.config.yaml_tree import nearest, quote
from ci_flame.policy import EXACT_METRICS

FAMILIES: Final = ("run_queue", "steal", "block_io", "collector", "bpftrace")
"""First parts of metrics' names."""
_LATENCIES: Final = ("p50_ms", "p99_ms", "max_ms")
_IO_SUMS: Final = ("read_bytes", "write_bytes", "requests")
NAMES: Final[Mapping[str, tuple[str, ...]]] = {
    "run_queue": ("percent", *_LATENCIES),
    "steal": ("percent",),
    "block_io": (*_LATENCIES, *_IO_SUMS, *(f"{name}_per_iteration" for name in _IO_SUMS)),
    "collector": (
        "percent", "lasting_percent", "bpf_percent", "process_percent", "bpf_ns", "bpf_runs",
        "cpu_ns", "window_cpu_ns", "start_cpu_ns", "rss_bytes", "events",
    ),
}  # fmt: skip
"""Family -> the names that a recording has; of `collector` those that one would limit."""


def wrong(word: str) -> tuple[str, str] | None:
    """Return what is wrong with a glob on metrics, with the nearest name, and the cure."""
    family, _, rest = word.partition(".")
    if any(mark in family for mark in "*?["):
        return None
    if family not in FAMILIES:
        told = f"unknown metric {quote(word)}{nearest(family, (*FAMILIES, *EXACT_METRICS))}"
        exact = ", ".join(EXACT_METRICS)
        return told, f"metrics are {exact}, or begin with: {', '.join(FAMILIES)}"
    known = NAMES.get(family, ())
    if not rest:
        example = known[0] if known else "SCRIPT.@"
        return f"{quote(word)} is no metric", f"for example {family}.{example}"
    if not known or _may_be(family, rest):
        return None
    names = [f"{family}.{name}" for name in known]
    part, dot, _ = word.rpartition(".")
    if family == "block_io" and part != family and dot:
        names = [f"{part}.{name}" for name in _LATENCIES]
    told = f"unknown metric {quote(word)}{nearest(word, names)}"
    return told, f"{family} has: {', '.join(known)}"


def _may_be(family: str, rest: str) -> bool:
    """Tell whether a family has such names: `p99_ms`, `vda.write.p99_ms`, `*.max_ms`."""
    known = NAMES[family]
    of_part, dot, last = rest.rpartition(".")
    if family == "collector":
        # Its collectors tell more than one would limit; what is nearly one of these is not meant.
        close = difflib.get_close_matches(rest, known, n=1, cutoff=0.8)
        return bool(dot) or not close or any(fnmatch.fnmatchcase(name, rest) for name in known)
    if family == "block_io" and dot:
        return any(fnmatch.fnmatchcase(name, last) for name in _LATENCIES) and bool(of_part)
    return any(fnmatch.fnmatchcase(name, rest) for name in known)
