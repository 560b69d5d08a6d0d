"""Stage 1, pure: mangled C++ and Rust symbols -> the names that their source has.

The names are those that perf, c++filt -p and gdb show: without parameters and return types,
lambdas numbered. LLVM's demanglers (pycxxfilt) do the reading.

    _ZNK4shop4CartIdE5totalEv                         shop::Cart<double>::total
    _ZN4core3fmt9Formatter3pad17h0123456789abcdefE    core::fmt::Formatter::pad
"""

import re
from functools import lru_cache
from typing import Final

import pycxxfilt

MAX_LENGTH: Final = 16 << 10
"""Longest symbol that is demangled; templates get to some thousands."""
_MANGLED: Final = re.compile(r"_+(?:Z|R(?=[A-Z]))")
_RUST_LEGACY: Final = re.compile(r"_+ZN.*17h[0-9a-f]{16}E")
_MANGLED_LETTERS: Final = re.compile(r"[^.@]*")
_RUST_HASH: Final = re.compile(r"::h[0-9a-f]{16}$")
_RUST_ESCAPE: Final = re.compile(r"\$(?:(SP|BP|RF|LT|GT|LP|RP|C)|u([0-9a-f]{1,6}))\$|\.\.")
_RUST_LETTERS: Final = {
    "SP": "@",
    "BP": "*",
    "RF": "&",
    "LT": "<",
    "GT": ">",
    "LP": "(",
    "RP": ")",
    "C": ",",
}
_OPERATOR: Final = re.compile(
    r"\boperator(?:\(\)|\[\]|<=>|<<=|>>=|->\*|<<|>>|<=|>=|->|<|>|(?=\s))\s?"
)
_OPERATOR_TEMPLATE: Final = re.compile(r"(\boperator(?:<<|<))<(?=[^=<(])")
_WHOLE: Final = re.compile(
    r"^(?:non-virtual thunk to |virtual thunk to |covariant return thunk to |guard variable for )|"
    r"\boperator\s?(?:\(\)|\[\]|<=>|<<=|>>=|->\*|<<|>>|<=|>=|->|<|>|new\[\]|delete\[\]|\"\" )"
    r"|\boperator (?:[\w:*& ]|<[^()]*>)+|\(anonymous namespace\)|\bunsigned |decltype \("
)
"""Parts of a name that look like a border and are none."""
_PRIVATE: Final = 0xE000
_PRIVATE_LETTERS: Final = 0x1900 - 1
_QUALIFIER: Final = re.compile(r"(?: const| volatile| noexcept| ?&&?)$")
_LLVM_LAMBDA: Final = re.compile(r"'(lambda|unnamed)(\d*)'")
_OPENING, _CLOSING = "<([{", ">)]}"


@lru_cache(maxsize=65_536)
def demangle(symbol: str) -> str:
    """Return the source's name of a symbol; one that is not mangled returns unchanged."""
    if not _MANGLED.match(symbol) or len(symbol) > MAX_LENGTH:
        return symbol
    # Compilers' copies (`.constprop.0`) and a dynamic symbol's version are not mangled.
    rust = _RUST_LEGACY.match(symbol)
    stem = rust[0] if rust else _MANGLED_LETTERS.match(symbol)[0]  # type: ignore[index]
    rest = symbol[len(stem) :]
    try:
        found_name = pycxxfilt.demangle(f"_{stem.lstrip('_')}")
    except (ValueError, RecursionError, MemoryError):
        return symbol
    if not found_name:
        return symbol
    if rust is not None:
        name = _rust(found_name)
    elif stem.lstrip("_").startswith("R"):
        name = found_name
    else:
        name = bare(_gnu(found_name))
    return (name or stem) + rest


def _rust(name: str) -> str:
    """Undo the escapes of Rust's older mangling, which are C++'s with signs written out."""

    def letter(found: re.Match[str]) -> str:
        if found[0] == "..":
            return "::"
        if found[1]:
            return _RUST_LETTERS[found[1]]
        number = int(found[2], 16)
        return chr(number) if number in range(0x20, 0xD800) else found[0]

    plain = _RUST_ESCAPE.sub(letter, _RUST_HASH.sub("", name))
    # A path element that begins with an escape has an underscore before it.
    return re.sub(r"(^|::)_(?=[<&*\[({@])", r"\1", plain)


def _gnu(name: str) -> str:
    """Write lambdas and the ends of templates as GNU's tools do."""
    while found := _LLVM_LAMBDA.search(name):
        number = int(found[2]) + 2 if found[2] else 1
        end = _closing(name, found.end()) if name[found.end() :].startswith("(") else found.end()
        parameters = name[found.end() : end]
        what = f"lambda{parameters or '()'}" if found[1] == "lambda" else "unnamed type"
        name = f"{name[: found.start()]}{{{what}#{number}}}{name[end:]}"
    name = _OPERATOR_TEMPLATE.sub(r"\1 <", name)
    pieces = _OPERATOR.split(name)
    signs = [*_OPERATOR.findall(name), ""]
    spaced = (re.sub(r">(?=>)", "> ", piece) for piece in pieces)
    return "".join(piece + sign for piece, sign in zip(spaced, signs, strict=True))


def _closing(name: str, start: int) -> int:
    """Return the place behind the bracket that closes the one at `start`."""
    depth = 0
    for place in range(start, len(name)):
        depth += (name[place] in "([{") - (name[place] in ")]}")
        if depth == 0:
            return place + 1
    return len(name)


def bare(name: str) -> str:
    """Return a C++ name without its parameters and its return type.

    `void std::sort<int*>(int*, int*)` becomes `std::sort<int*>`; template arguments and the
    parameters of the function that a lambda is in are kept.
    """
    # Signs that are no brackets and spaces that are no borders become letters of their own.
    hidden: list[str] = []

    def hide(found: re.Match[str]) -> str:
        hidden.append(found[0])
        return chr(_PRIVATE + len(hidden) - 1)

    text = _WHOLE.sub(hide, name)
    if len(hidden) > _PRIVATE_LETTERS:
        return name
    end = _parameters(text)
    start = 0
    depth = 0
    for place, letter in enumerate(text[:end]):
        depth += (letter in _OPENING) - (letter in _CLOSING)
        if letter == " " and depth <= 0:
            start = place + 1
    kept = text[start:end] or text
    return re.sub(
        f"[{chr(_PRIVATE)}-{chr(_PRIVATE + _PRIVATE_LETTERS)}]",
        lambda found: (
            hidden[ord(found[0]) - _PRIVATE] if ord(found[0]) - _PRIVATE < len(hidden) else found[0]
        ),
        kept,
    )


def _parameters(text: str) -> int:
    """Return where the parameters begin that end a name, or its length."""
    end = len(text.rstrip())
    while qualified := _QUALIFIER.search(text, 0, end):
        end = qualified.start()
    if not text[:end].endswith(")"):
        return end
    depth = 0
    for place in range(end - 1, 0, -1):
        depth += (text[place] == ")") - (text[place] == "(")
        if depth == 0:
            return place
    return end
