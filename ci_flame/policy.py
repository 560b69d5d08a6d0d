"""Model, pure: rules, limits and waivers, the values of the judge, as `ci-flame.yml` says them.

Pure: what a rule matches is decided here, on names; no file is read.

A *frame glob* is matched against the whole of `str(frame)`, case and all: `*` is any text,
`?` any one character, `[ab]` one of these. `shop.parser:*` matches `shop.parser:Grammar.compile`.
A native function without a library is matched as `native::SYMBOL` too, so that `native:*` is all
native code, and a Python module called `kernel` by `python:kernel:*` and by `kernel:*`.
Kernel frames are matched only by globs that begin with `kernel:`, marks (`[gc]`, `[total]`) by
globs that begin with `[` or by a bare `*`; so `*` is every Python, native and jit frame and the
garbage collector, and `[total]` must be named. `[unknown]` and `[truncated]` never match `*`.

A *path glob* has frame globs joined by `;`, outermost first; `**` is any number of frames, none
included. It need not begin at the benchmark's function: `shop.api:*;**;shop.parser:*` matches
every path that ends in the parser with the API somewhere above it.

`!glob` excludes; a list of exclusions alone means "everything but these".
"""

import fnmatch
import re
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import date
from enum import StrEnum
from functools import lru_cache
from typing import Final

from ci_flame.profile import GC, TOTAL, Frame, Kind


class Severity(StrEnum):
    """What a broken rule does to the build."""

    FAIL = "fail"
    WARN = "warn"


EXACT_METRICS: Final = ("bytecodes", "calls")
"""What is counted, not measured, of one iteration."""
_UNITS: Final = (("s", 1e9), ("ms", 1e6), ("us", 1e3), ("ns", 1.0))
"""As the policy writes them; `config.py` reads `µs` too."""


def _number(value: float) -> str:
    """Write a number that was typed by a person: as short as it was, never in exponents."""
    return f"{value:.9f}".rstrip("0").rstrip(".") or "0"


@dataclass(frozen=True, slots=True)
class Limit:
    """A relative and/or an absolute limit; with both, passing either is enough to break it."""

    share: float | None = None
    """0.10 for `10%`: of the path itself (growth) or of the benchmark (impact, budget)."""
    ns: float | None = None
    """Nanoseconds per iteration for `2ms`."""

    def __str__(self) -> str:
        """Return the limit as the policy writes it: `10%`, `2ms`, `5% | 2ms`."""
        parts = []
        if self.share is not None:
            parts.append(f"{_number(self.share * 100)}%")
        if self.ns is not None:
            for unit, size in _UNITS:
                if abs(self.ns) >= size or unit == "ns":
                    parts.append(f"{_number(self.ns / size)}{unit}")
                    break
        return " | ".join(parts) or "none"


@dataclass(frozen=True, slots=True)
class Rule:
    """One rule of the policy; every rule that matches is applied, the worst result counts."""

    frames: tuple[str, ...] = ("*",)
    """Globs on frame names, or on paths joined by `;`; `!glob` excludes."""
    benchmarks: tuple[str, ...] = ("*",)
    mode: str = "on-cpu"
    metric: str = ""
    """A glob on names of metrics; then the rule is about figures, and no frame of any stack."""
    maximum: float | None = None
    """`max` of a metric, in the unit that its name ends with."""
    max_growth: Limit | None = None
    min_impact: float = 0.005
    budget: Limit | None = None
    certainty: float = 0.80
    severity: Severity = Severity.FAIL
    self_only: bool = False
    """Judge own cost instead of total cost (`self: true`)."""
    place: str = ""
    """`ci-flame.yml:7`, `marker of tests/bench.py::test_x` or `default`; for messages."""

    @property
    def is_exact(self) -> bool:
        """Tell whether the rule limits exact counts, function by function."""
        return self.metric in EXACT_METRICS

    @property
    def paths(self) -> tuple[str, ...]:
        """The globs that are about call paths, exclusions included."""
        return tuple(glob for glob in self.frames if ";" in glob)

    def applies_to(self, benchmark: str, mode: str) -> bool:
        """Tell whether the rule is about this benchmark and mode at all."""
        return self.mode == mode and not self.metric and matches_name(self.benchmarks, benchmark)

    def matches_frame(self, frame: Frame) -> bool:
        """Tell whether a frame glob of the rule names this frame and no `!glob` excludes it."""
        return matches_frame(self.frames, frame)

    def matches_path(self, names: Sequence[Frame]) -> bool:
        """Tell whether a path glob of the rule names this path and no `!glob` excludes it."""
        return matches_path(self.frames, names)


@dataclass(frozen=True, slots=True)
class Waiver:
    """Findings on these frames do not fail until the date has passed."""

    frames: tuple[str, ...]
    until: date
    reason: str
    benchmarks: tuple[str, ...] = ("*",)
    place: str = ""

    def covers(self, benchmark: str, path: Sequence[Frame]) -> bool:
        """Tell whether the waiver is about this benchmark and a path that ends in its frame.

        A metric goes by its name, with brackets or without; `*` is every finding.
        """
        return matches_name(self.benchmarks, benchmark) and (
            matches_frame(self.frames, path[-1])
            or matches_path(self.frames, path)
            or (path[-1].kind is Kind.MARK and _waives(self.frames, path[-1].function))
        )

    def expired(self, today: date | None) -> bool:
        """Tell whether the last day of the waiver lies before `today` (None: no)."""
        return today is not None and today > self.until


@dataclass(frozen=True, slots=True)
class Policy:
    """All that the judge is told; without a file: every frame and wait, 10 %, fail."""

    rules: tuple[Rule, ...] = (
        Rule(max_growth=Limit(share=0.10), place="default"),
        Rule(mode="off-cpu", max_growth=Limit(share=0.10), place="default"),
    )
    waivers: tuple[Waiver, ...] = ()
    baseline_required: bool = False
    inconclusive_fails: bool = False
    max_overhead: float = 0.06
    """Of one CPU; a recording whose collector took more is not judged."""
    false_failures_per_build: float = 0.005
    today: date | None = None
    """The date waivers are judged at; the edge sets it, so that the judge reads no clock."""


@lru_cache(maxsize=4096)
def _pattern(glob: str) -> re.Pattern[str]:
    """Compile one glob; unlike `fnmatch.fnmatch`, the case counts everywhere."""
    return re.compile(fnmatch.translate(f"[[]{glob[1:]}" if _is_mark(glob) else glob))


def _is_mark(glob: str) -> bool:
    return glob.startswith("[") and glob.endswith("]") and glob.count("[") == 1


def _one(glob: str, frame: Frame) -> bool:
    """Match one frame glob without `!` against one frame."""
    if frame.kind is Kind.KERNEL and not glob.startswith("kernel:"):
        return False
    if frame.kind is Kind.MARK and not (glob.startswith("[") or (glob == "*" and frame == GC)):
        return False
    return any(_pattern(glob).fullmatch(name) for name in _names(frame))


def _names(frame: Frame) -> tuple[str, ...]:
    """Return what globs may call a frame: as it is printed, and by its kind's usual pattern."""
    name = str(frame)
    if frame.kind is Kind.NATIVE and not frame.module:
        return name, f"native::{frame.function}"
    if frame.kind is Kind.PYTHON and name.startswith("python:"):
        return name, f"{frame.module}:{frame.function}"
    return (name,)


def _split(globs: Sequence[str]) -> tuple[list[str], list[str]]:
    """Return the globs that choose and those that exclude, `!` taken off."""
    chosen = [glob for glob in globs if not glob.startswith("!")]
    return chosen, [glob[1:] for glob in globs if glob.startswith("!")]


def matches_name(globs: Sequence[str], name: str) -> bool:
    """Tell whether the globs choose this benchmark id; `[` is plain text unless it is a class.

    Ids of parametrised tests end in brackets, so a glob that is the id itself always matches.
    """
    chosen, excluded = _split(globs)
    if any(name == glob or _pattern(glob).fullmatch(name) for glob in excluded):
        return False
    return not chosen or any(name == glob or _pattern(glob).fullmatch(name) for glob in chosen)


def matches_frame(globs: Sequence[str], frame: Frame) -> bool:
    """Tell whether the frame globs of a list choose this frame; path globs are left aside.

    `("shop.*", "!shop.legacy:*")` chooses `shop.api:get`, not `shop.legacy:get`.
    """
    chosen, excluded = _split(globs)
    if any(_one(glob, frame) for glob in excluded if ";" not in glob):
        return False
    if not chosen:
        return _one("*", frame)
    return any(_one(glob, frame) for glob in chosen if ";" not in glob)


def matches_frames(globs: Sequence[str], frames: Sequence[Frame]) -> list[bool]:
    """Tell for each frame what `matches_frame` says; what they share is done once."""
    chosen, excluded = ([each for each in some if ";" not in each] for some in _split(globs))
    if not any(not glob.startswith("!") for glob in globs):
        chosen = ["*"]
    if "*" in chosen:
        found = [_named(frame) or any(_one(glob, frame) for glob in chosen) for frame in frames]
    else:
        found = [any(_one(glob, frame) for glob in chosen) for frame in frames]
    if not excluded:
        return found
    return [
        one and not any(_one(glob, frame) for glob in excluded)
        for one, frame in zip(found, frames, strict=True)
    ]


def _named(frame: Frame) -> bool:
    """Tell whether a bare `*` is sure to match."""
    return frame.kind is not Kind.KERNEL and frame.kind is not Kind.MARK


def _waives(globs: Sequence[str], mark: str) -> bool:
    """Tell whether globs choose what is no code: `[total]`, or a metric (`[run_queue.p99_ms]`)."""
    names = (mark, mark[1:-1]) if "." in mark else (mark,)
    split = _split(globs)
    chosen, excluded = (
        any(glob == name or _pattern(glob).fullmatch(name) for glob in some for name in names)
        for some in split
    )
    return (chosen or not split[0]) and not excluded


def matches_path(globs: Sequence[str], path: Sequence[Frame]) -> bool:
    """Tell whether the path globs of a list choose the path that ends in its last frame.

    Exclusions may be path globs, or frame globs that then exclude by the last frame.
    """
    chosen, excluded = _split(globs)
    for glob in excluded:
        if _path(glob, path) if ";" in glob else _one(glob, path[-1]):
            return False
    return any(_path(glob, path) for glob in chosen if ";" in glob)


def _path(glob: str, path: Sequence[Frame]) -> bool:
    """Match one path glob: the set of positions reached after each part, outermost first.

    `a;**;b` against `x;a;y;b`: the start may lie anywhere, the end must be the last frame.
    """
    reached = set(range(len(path) + 1))
    for part in glob.split(";"):
        if part == "**":
            reached = set(range(min(reached), len(path) + 1))
        else:
            reached = {at + 1 for at in reached if at < len(path) and _one(part, path[at])}
        if not reached:
            return False
    return len(path) in reached


def gates_total(rule: Rule) -> bool:
    """Tell whether the rule judges the benchmark itself.

    `[total]` names it, and so does a bare `*`: growth that is spread evenly over all functions
    is growth of every one of them.
    """
    chosen, excluded = _split(rule.frames)
    if any(_one(glob, TOTAL) for glob in excluded if ";" not in glob):
        return False
    return not chosen or "*" in chosen or any(_one(g, TOTAL) for g in chosen if ";" not in g)
