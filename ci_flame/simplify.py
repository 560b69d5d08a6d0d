"""Stage 3, pure: Profile -> Profile with clean names, cut to what a rule may judge.

Nothing here loses weight: a frame that is left out gives its cost to its caller, and a
stack that is not the benchmark's goes to `[unknown]`.
"""

import re
from collections.abc import Callable
from dataclasses import replace
from functools import lru_cache
from typing import Final

from ci_flame.profile import GC, UNKNOWN, Frame, Kind, Profile, Stack, Weight

_INTERPRETER: Final = re.compile(r"(?:lib)?python\d?(?:\.\d+)?[dmtu]*(?:\.so[.\d]*)?")
"""`python3.11`, `python3.13t`, `libpython3.12`, `libpython3.12.so.1.0`."""
_C_LIBRARY: Final = re.compile(
    r"(?:libc|ld|libpthread|libmimalloc|libjemalloc|libtcmalloc)(?:[.-].*)?"
)
_CLONE: Final = re.compile(
    r"(?: \[clone [^\]]*\]"
    r"|\.(?:cold|part|constprop|isra|lto_priv|llvm|ipa_ra|localalias)(?:\.\d+)?"
    r"|::h[0-9a-f]{16})+$"
)


def trim(profile: Profile, root: Frame) -> tuple[Profile, int]:
    """Cut what is above the benchmark's function; return the profile and what had no such frame.

    With root `t:bench`, `pytest:main;t:bench;shop:f 3` becomes `t:bench;shop:f 3`. Where
    the root is there twice, the outermost counts. Stacks without it become `[unknown]`;
    the second value is the number of their samples.
    """
    stacks: dict[Stack, Weight] = {}
    unrooted = 0
    for stack, weight in profile.stacks.items():
        if root in stack:
            cut = stack[stack.index(root) :]
        else:
            cut = (UNKNOWN,)
            unrooted += weight.samples
        _add(stacks, cut, weight)
    return replace(profile, stacks=stacks), unrooted


def judged(stack: Stack) -> Stack:
    """Return the stack that rules see: the interpreter's own native frames go to their caller.

    `shop:f;native:libpython3.11.so.1.0:dict_lookup` becomes `shop:f`. Only what is right
    below a Python frame or `[gc]` goes: in a C program `malloc` is a function like others.
    """
    kept: list[Frame] = []
    for frame in stack:
        if kept and _runs_python(kept[-1]) and is_interpreter(frame):
            continue
        kept.append(frame)
    return stack if len(kept) == len(stack) else tuple(kept)


@lru_cache(maxsize=65_536)
def is_interpreter(frame: Frame) -> bool:
    """Say whether a native frame is how CPython runs Python code, and not what the code chose.

    These are: everything in libpython and in the python binary, and everything in the C
    library (`malloc`, `memcpy`, locks, system calls' wrappers; also where a stripped library
    only says `[unknown]`). They move with the interpreter's build and with memory layout, a
    reader can change them only in the Python function above, and their split between one
    another is noise. Extension modules (`_json`) and other libraries (libcrypto, libm) are
    the code's own choice and stay.
    """
    return frame.kind is Kind.NATIVE and bool(
        _INTERPRETER.fullmatch(frame.module) or _C_LIBRARY.fullmatch(frame.module)
    )


def merge_recursion(profile: Profile) -> Profile:
    """Fold direct recursion into one frame.

    `main;walk;walk;leaf 3` becomes `main;walk;leaf 3`; weights stay with their leaf.
    """
    return _rewrite(profile, _without_repeats)


def clean(profile: Profile) -> Profile:
    """Give native and kernel functions the name that their source has.

    `native:shop:parse(int).constprop.0` becomes `native:shop:parse`: compilers split and
    copy functions as they like, and a copy's name must not look like a new function.
    """
    return _rewrite(profile, lambda stack: tuple(map(clean_frame, stack)))


def clean_name(name: str) -> str:
    """Strip compilers' suffixes, Rust's hash and a C++ parameter list from a symbol.

    `operator()`, `(anonymous namespace)` and template arguments are kept.
    """
    bare = _CLONE.sub("", name)
    cut = _without_parameters(bare.removesuffix(" const"))
    return _CLONE.sub("", cut) or name


def clean_frame(frame: Frame) -> Frame:
    """Return a native or kernel frame with its name cleaned, any other one as it is."""
    if frame.kind not in {Kind.NATIVE, Kind.KERNEL}:
        return frame
    name = clean_name(frame.function)
    return frame if name == frame.function else replace(frame, function=name)


def _without_parameters(name: str) -> str:
    """Return the name without the balanced parentheses that end it: `f<int (*)()>(char*)`."""
    if not name.endswith(")") or name.endswith(("operator()", "(anonymous namespace)")):
        return name
    depth = 0
    for position in range(len(name) - 1, 0, -1):
        depth += (name[position] == ")") - (name[position] == "(")
        if depth == 0:
            return name[:position].rstrip()
    return name


def _runs_python(frame: Frame) -> bool:
    return frame.kind is Kind.PYTHON or frame == GC


def _without_repeats(stack: Stack) -> Stack:
    return tuple(
        frame for number, frame in enumerate(stack) if number == 0 or frame != stack[number - 1]
    )


def _rewrite(profile: Profile, change: Callable[[Stack], Stack]) -> Profile:
    stacks: dict[Stack, Weight] = {}
    for stack, weight in profile.stacks.items():
        _add(stacks, change(stack), weight)
    return replace(profile, stacks=stacks)


def _add(stacks: dict[Stack, Weight], stack: Stack, weight: Weight) -> None:
    have = stacks.get(stack)
    stacks[stack] = weight if have is None else have + weight
