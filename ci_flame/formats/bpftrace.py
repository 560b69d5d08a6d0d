"""Stage 2, pure: what bpftrace prints (text or `-f json`) -> its maps, and a Profile of one.

Reference: https://github.com/bpftrace/bpftrace (src/output.cpp to 0.21, src/output/ from 0.23)

    @[kstack, ustack, comm]: 12          Map("@", (Entry((Trace, Trace, "comm"), 12),))
    @reads: (rows of a histogram)        Map("@reads", (Entry((), Buckets),))

Keys are kept in parts: a `Trace` for a stack, text for anything else. Two entries of one
print may have equal keys (other addresses, same names); both are kept.
"""

import re
from collections.abc import Mapping
from typing import Final

from ci_flame.errors import FormatError, UnrecognisedError
from ci_flame.formats import bpftrace_json, bpftrace_text
from ci_flame.formats.bpftrace_values import Buckets, Entry, Map, Output, Stats, Trace
from ci_flame.formats.foreign import is_kernel_entry, library_name
from ci_flame.profile import UNKNOWN, Frame, Kind, Profile, Stack, Unit, Weight

__all__ = ["Buckets", "Entry", "Map", "Output", "Stats", "Trace", "metrics", "profile", "read"]

MAX_TEXT: Final = 256 << 20
MAX_DEPTH: Final = 4096
_SHOWN_MAPS: Final = 10

_ADDRESS: Final = re.compile(r"(?:0x)?[0-9a-f]{5,16}", re.ASCII)
_LEADING: Final = re.compile(r"(?P<address>[0-9a-f]{5,16}) (?P<rest>.+)", re.ASCII)
_OFFSET: Final = re.compile(r"\+(?:\d+|0x[0-9a-f]+)$", re.ASCII)
_MODULE: Final = re.compile(r"(?P<symbol>.*\S)\s+\((?P<module>[^()]*/[^()]*|\[\w+\])\)")
_SOURCE: Final = re.compile(r"(?P<symbol>.+?)\s*(?:@ ?\S+:\d+|\(\S+:\d+\))(?: \[inlined\])?")
"""From 0.24 on, where debug information was found: `main+21@/src/main.c:10`."""
_KERNEL_HALF: Final = 0xFFFF_8000_0000_0000


def read(text: str, source: str) -> Output:
    """Return the maps of bpftrace's output; text and JSON are told apart by the first mark.

    Raises UnrecognisedError where no line is bpftrace's, FormatError (with the line) where
    one is cut off, contradicts itself, or passes a limit.
    """
    if len(text) > MAX_TEXT:
        raise FormatError(source, f"{len(text)} characters; the limit is {MAX_TEXT}")
    if text.lstrip()[:1] == "{":
        return bpftrace_json.read(text, source)
    return bpftrace_text.read(text, source)


# -- a profile ------------------------------------------------------------------------


def stack_maps(output: Output) -> tuple[str, ...]:
    """Return the names of the maps that have a stack in their keys."""
    return tuple(
        each.name
        for each in output.maps
        if any(isinstance(part, Trace) for entry in each.entries for part in entry.key)
    )


def profile(output: Output, source: str, name: str = "") -> Profile:
    """Return the profile of one stack map; its unit is samples, the program's name the root.

    `@[kstack, ustack, comm]: 3` becomes `[comm];native:…;kernel:… 3`. Counts and sums weigh
    what they say, `stats()` its total, a histogram its number of values. Text parts of a key
    are marks at the root; numbers (pids, CPUs) are no part of a stack's identity. Raises
    FormatError where there is no stack map, several and no `name`, or values below zero.
    """
    found = stack_maps(output)
    if name and name not in found:
        raise FormatError(source, f"no stack map {name}", _choices(found))
    if not found:
        names = ", ".join(each.name for each in output.maps[:_SHOWN_MAPS]) or "none at all"
        raise FormatError(
            source,
            f"no map has a stack in its key (maps: {names})",
            "let bpftrace count stacks: @[kstack, ustack, comm] = count()",
        )
    if not name and len(found) > 1:
        raise FormatError(source, f"{len(found)} stack maps", _choices(found))
    chosen = next(each for each in output.maps if each.name == (name or found[0]))
    kernel = _kernel_parts(chosen)
    stacks: dict[Stack, Weight] = {}
    for entry in chosen.entries:
        weight = _weight(entry, chosen.name, source)
        stack = _stack(entry, kernel)
        if len(stack) > MAX_DEPTH:
            raise FormatError(
                source, f"{chosen.name}: {len(stack)} frames; the limit is {MAX_DEPTH}"
            )
        have = stacks.get(stack)
        stacks[stack] = weight if have is None else have + weight
    return Profile(stacks, Unit.SAMPLES).check(source)


def _choices(found: tuple[str, ...]) -> str:
    return "--map takes one of: " + ", ".join(found[:_SHOWN_MAPS]) if found else ""


def _weight(entry: Entry, name: str, source: str) -> Weight:
    value = entry.value
    match value:
        case int():
            samples, amount = value, value
        case Stats():
            samples, amount = value.count, value.total
        case Buckets():
            samples, amount = value.count, value.count
        case _:
            raise FormatError(
                source, f"{name}: {str(value)[:40]!r} is not a number of samples", "use count()"
            )
    if min(samples, amount) < 0:
        raise FormatError(source, f"{name}: {amount} for a stack; a profile counts upwards")
    return Weight(samples, amount)


def _stack(entry: Entry, kernel: Mapping[int, bool]) -> Stack:
    marks = [
        Frame(f"[{part}]", "", Kind.MARK)
        for part in entry.key
        if isinstance(part, str) and part and not part.lstrip("-").isdigit()
    ]
    user: list[Frame] = []
    inner: list[Frame] = []
    for position, part in enumerate(entry.key):
        if isinstance(part, Trace):
            of_kernel = kernel.get(position, False)
            frames = [frame(line, kernel=of_kernel) for line in reversed(part.lines)]
            (inner if of_kernel else user).extend(frames)
    return (*marks, *user, *inner) or (UNKNOWN,)


def address_of(line: str) -> int | None:
    """Return the address that stands in front of a line (perf mode), or None."""
    leading = _LEADING.fullmatch(line.strip())
    return int(leading["address"], 16) if leading else None


def frame(line: str, *, kernel: bool) -> Frame:
    """Return the frame of one line: `sym+12`, an address, or `ffff…d8c sym+12 (/lib/x.so)`."""
    text = line.strip()
    library = ""
    if leading := _LEADING.fullmatch(text):
        kernel = kernel or int(leading["address"], 16) >= _KERNEL_HALF
        text = leading["rest"]
    if module := _MODULE.fullmatch(text):
        text, library = module["symbol"], module["module"]
    if place := _SOURCE.fullmatch(text):
        text = place["symbol"]
    symbol = _OFFSET.sub("", text)
    if not symbol or _ADDRESS.fullmatch(symbol) or symbol == "[unknown]":
        # An address is another one in every run: it names nothing.
        symbol = "[unknown]"
    if kernel:
        return Frame(symbol, "", Kind.KERNEL)
    if library in {"", "[unknown]"}:
        return UNKNOWN if symbol == "[unknown]" else Frame(symbol, "", Kind.NATIVE)
    return Frame(symbol, library_name(library), Kind.NATIVE)


def _kernel_parts(chosen: Map) -> dict[int, bool]:
    """Tell for each part of the map's keys whether its stacks are the kernel's.

    bpftrace prints no word about it. Roots and addresses that only one side has vote; where
    nothing votes, the first of two stacks is the kernel's (`@[kstack, ustack]`, as all of
    bpftrace's own examples write it), and a single one the user's.
    """
    votes: dict[int, int] = {}
    for entry in chosen.entries:
        for position, part in enumerate(entry.key):
            if isinstance(part, Trace):
                votes[position] = votes.get(position, 0) + _vote(part)
    if not any(votes.values()):
        positions = sorted(votes)
        return {each: len(positions) > 1 and each == positions[0] for each in positions}
    strongest = max(votes, key=lambda each: votes[each])
    return {
        each: vote > 0 or (vote == 0 and len(votes) > 1 and votes[strongest] <= 0)
        for each, vote in votes.items()
    }


def _vote(trace: Trace) -> int:
    """Return 1 for a kernel stack, -1 for one of user code, 0 where it does not show."""
    for line in trace.lines:
        text = line.strip()
        leading = _LEADING.fullmatch(text)
        address = leading["address"] if leading else text if _ADDRESS.fullmatch(text) else ""
        if address:
            return 1 if int(address, 16) >= _KERNEL_HALF else -1
    names = [_OFFSET.sub("", line.strip()) for line in trace.lines]
    if any(map(is_kernel_entry, names)):
        return 1
    return -1 if any("::" in name or name in _USER_ROOTS for name in names) else 0


_USER_ROOTS: Final = frozenset(
    {"main", "_start", "__libc_start_main", "__libc_start_call_main", "start_thread", "clone3"}
)


# -- metrics --------------------------------------------------------------------------


def metrics(output: Output, prefix: str, limit: int) -> tuple[dict[str, float], int]:
    """Return `PREFIX.@MAP[key]` -> number for every map, and how many keys were left out.

    Histograms give `.p50`, `.p99` and `.count`, statistics `.avg`, `.total` and `.count`. Of a
    map with more than `limit` keys the largest are kept; values that are text are left out too.
    Stacks in keys are folded.
    """
    found: dict[str, float] = {}
    left_out = 0
    for each in output.maps:
        figures: dict[str, dict[str, float]] = {}
        for entry in each.entries:
            values = _figures(entry)
            left_out += not values
            if values:
                _join(figures.setdefault(f"{prefix}.{each.name}{_key(entry)}", {}), values)
        ranked = sorted(figures, key=lambda name: (-_size(figures[name]), name))
        left_out += max(len(ranked) - limit, 0)
        for name in ranked[:limit]:
            found |= {name + suffix: value for suffix, value in figures[name].items()}
    return found, left_out


def _join(have: dict[str, float], values: Mapping[str, float]) -> None:
    """Add the figures of an equal key: counts add up; of the others the larger one is told."""
    for suffix, value in values.items():
        if suffix not in have:
            have[suffix] = value
        elif suffix in {"", ".count", ".total"}:
            have[suffix] += value
        else:
            have[suffix] = max(have[suffix], value)


def _figures(entry: Entry) -> dict[str, float]:
    match entry.value:
        case int():
            return {"": float(entry.value)}
        case Stats():
            return {
                ".avg": float(entry.value.average),
                ".count": float(entry.value.count),
                ".total": float(entry.value.total),
            }
        case Buckets():
            return {
                ".count": float(entry.value.count),
                ".p50": float(entry.value.percentile(0.5)),
                ".p99": float(entry.value.percentile(0.99)),
            }
        case _:
            return {}


def _size(figures: Mapping[str, float]) -> float:
    """Return what ranks a key: its number, its total, or how often it was seen."""
    return abs(next(figures[each] for each in ("", ".total", ".count") if each in figures))


def _key(entry: Entry) -> str:
    if not entry.key:
        return ""
    parts = [
        ";".join(_OFFSET.sub("", line.strip()) for line in reversed(part.lines))
        if isinstance(part, Trace)
        else part
        for part in entry.key
    ]
    text = ",".join(parts)
    return "[" + "".join(c if c.isprintable() else " " for c in text)[:MAX_KEY] + "]"


MAX_KEY: Final = 300
"""Characters of a key in a metric's name."""


def is_output(text: str) -> bool:
    """Say whether the beginning of a file looks like bpftrace's output."""
    try:
        if text.lstrip()[:1] == "{":
            return bpftrace_json.is_output(text)
        return bpftrace_text.is_output(text)
    except UnrecognisedError:
        return False
