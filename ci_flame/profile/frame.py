"""Model, pure: one function, by the name that globs, messages and files call it.

shop.parser:tokenize · native:libc:read · std::sort · kernel:vfs_read · jit:parse · [gc]
"""

from dataclasses import dataclass
from enum import StrEnum
from typing import Final


class Kind(StrEnum):
    """Where a frame's code comes from."""

    PYTHON = "python"
    NATIVE = "native"
    KERNEL = "kernel"
    JIT = "jit"
    MARK = "mark"
    """Not code: `[gc]`, `[total]`, `[truncated]`, `[unknown]`."""


@dataclass(frozen=True, slots=True, order=True)
class Frame:
    """One function; its identity has no line and no address, so that it survives edits."""

    function: str
    """Qualified name (`Grammar.compile`), symbol, or the mark with its brackets."""
    module: str = ""
    """Dotted module for Python, library name for native, else empty."""
    kind: Kind = Kind.PYTHON

    def __post_init__(self) -> None:
        if not self.function:
            raise ValueError("a frame needs a function name")

    def __hash__(self) -> int:
        # Reading a run hashes millions of frames; the kind's hash takes longer than both names'.
        return hash((self.function, self.module))

    def __str__(self) -> str:
        """Return the name used in globs, messages and files (`shop.parser:tokenize`).

        `parse` reads every one back. A native function whose library nobody told is its symbol
        alone (`mix`, `std::sort`); what could be taken for another frame's name is written
        longer: `native::a:b`, and `python:kernel:f` for `f` of a Python module `kernel`.
        """
        function, module = self.function, self.module
        match self.kind:
            case Kind.PYTHON:
                name = f"{module}:{function}"
                if ":" in module or self._misread(name):
                    name = f"python:{_escape(module)}:{function}"
            case Kind.NATIVE if module or self._misread(function):
                name = f"native:{_escape(module)}:{function}"
            case Kind.KERNEL | Kind.JIT:
                name = f"{self.kind}:{function}"
            case _:
                name = function
        return name

    def _misread(self, name: str) -> bool:
        """Tell whether `parse` would take `name` for another frame than this one."""
        if ":" not in name and name[0] != "[":  # most symbols
            return False
        if self.kind is Kind.PYTHON and self.module not in _PARSED and name[0] != "[":
            return self.function[0] == ":"  # most Python functions
        return Frame.parse(name) != self

    @classmethod
    def parse(cls, text: str) -> "Frame":
        """Return the frame whose `str` is `text`; the inverse of `str(frame)`."""
        if text[:1] == "[" and text[-1:] == "]":
            return cls(text, "", Kind.MARK)
        prefix, _, rest = text.partition(":")
        kind = _PARSED.get(prefix)
        if rest and kind in {Kind.KERNEL, Kind.JIT}:
            return cls(rest, "", kind)
        module, _, function = rest.partition(":")
        if kind and function:
            return cls(function, _unescape(module), kind)
        # No Python function begins with a colon: std::sort.
        if not rest or rest[0] == ":":
            return cls(text, "", Kind.NATIVE)
        return cls(rest, prefix, Kind.PYTHON)


_PARSED: Final = {str(kind): kind for kind in Kind if kind is not Kind.MARK}
"""What names of a kind begin with; a Python module may be called so too."""


def _escape(module: str) -> str:
    """Return a module or library without colons, so that the function's name can be told."""
    return module.replace("%", "%25").replace(":", "%3A")


def _unescape(module: str) -> str:
    return module.replace("%3A", ":").replace("%25", "%")


Stack = tuple[Frame, ...]
"""Frames, outermost first; never empty."""

GC: Final = Frame("[gc]", "", Kind.MARK)
TOTAL: Final = Frame("[total]", "", Kind.MARK)
TRUNCATED: Final = Frame("[truncated]", "", Kind.MARK)
"""Root of a stack whose outermost frames did not fit."""
UNKNOWN: Final = Frame("[unknown]", "", Kind.MARK)
RUN_QUEUE: Final = Frame("[run queue]", "", Kind.MARK)
"""Leaf of a wait for a CPU: the machine's doing, not the code's."""


@dataclass(frozen=True, slots=True, order=True)
class Place:
    """Where a function starts, for annotations; travels beside a frame, never in it."""

    file: str
    """Relative to the project, or `site-packages/…`, `lib/…`; never absolute."""
    line: int
    """First line, from 1."""


def fold(stack: Stack) -> str:
    """Return the folded form: frames joined by `;`, outermost first."""
    return ";".join(map(str, stack))
