"""Edge: `event` and `call_graph` of the record section, and `--event`, `--call-graph`."""

from typing import Final

from ci_flame.config.yaml_tree import nearest, quote
from ci_flame.errors import UsageError

DEFAULT_EVENT: Final = "cpu-clock"
USER_ONLY: Final = ":u"
EVENT_NAMES: Final = (
    *("cpu-clock", "task-clock", "page-faults", "context-switches", "minor-faults"),
    *("major-faults", "cycles", "instructions", "cache-references", "cache-misses", "branches"),
    *("branch-misses", "bus-cycles", "ref-cycles", "L1-dcache-loads", "L1-dcache-load-misses"),
    *("L1-icache-load-misses", "LLC-loads", "LLC-load-misses", "dTLB-load-misses"),
    *("iTLB-load-misses", "branch-load-misses"),
)
"""Names as perf has them; the keys of the table in `collect.perf.events`."""
CALL_GRAPHS: Final = ("fp", "dwarf", "dwarf,BYTES")
STACK_BYTES: Final = range(1024, 65_529)
"""Of one copy of a stack; the kernel's limit is that of one record, 64 KiB."""
USUAL_STACK_BYTES: Final = 8192


def event(text: str) -> str:
    """Return the event's name, with `:u` for user code only; UsageError where there is none."""
    name = text.removesuffix(USER_ONLY)
    if name not in EVENT_NAMES:
        raise UsageError(
            f"unknown event {quote(text)}{nearest(name, EVENT_NAMES)}",
            f"one of: {', '.join(EVENT_NAMES)}; with :u user code only",
        )
    return text


def stack_bytes(text: str) -> int:
    """Return what `fp`, `dwarf` or `dwarf,BYTES` asks for (0: frame pointers); or UsageError."""
    if text == "fp":
        return 0
    if text == "dwarf":
        return USUAL_STACK_BYTES
    method, _, number = text.partition(",")
    if method != "dwarf" or not number.isascii() or not number.isdecimal():
        raise UsageError(
            f"unknown call graph {quote(text)}{nearest(text, CALL_GRAPHS[:2])}",
            f"one of: {', '.join(CALL_GRAPHS)}",
        )
    size = int(number[:9])
    if size not in STACK_BYTES or size % 8:
        raise UsageError(
            f"call graph {quote(text)}: {STACK_BYTES[0]} to {STACK_BYTES[-1]} bytes of each stack"
            " can be copied, in words of 8",
            f"dwarf alone copies {USUAL_STACK_BYTES}",
        )
    return size


def call_graph(text: str) -> str:
    """Return the text where it is one; UsageError where not."""
    stack_bytes(text)
    return text
