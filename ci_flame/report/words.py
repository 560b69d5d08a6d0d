"""Stage 6, pure: numbers and names as every report prints them.

The sentence of a finding is `str(finding)` and is not touched here; these are the cells
of tables and the lines of tooltips. `templates/words.js` has the same functions, and a
test in a real browser holds the two equal.
"""

import math
import unicodedata
from decimal import ROUND_HALF_UP, Decimal
from typing import Final

from ci_flame.diff import Change
from ci_flame.profile import Mode

MINUS: Final = "\N{MINUS SIGN}"
ELLIPSIS: Final = "\N{HORIZONTAL ELLIPSIS}"

BOUNDLESS: Final = 100.0
"""An upper end of growth from 10,000 % on comes from too few samples to name one."""

_UNITS: Final = (("ns", 1.0), ("µs", 1e3), ("ms", 1e6), ("s", 1e9))
_BIDI: Final = frozenset("\u061c\u200e\u200f\u202a\u202b\u202c\u202d\u202e\u2066\u2067\u2068\u2069")


def _fixed(value: float, decimals: int) -> str:
    """Round half away from zero, as JavaScript's `toFixed` does."""
    if not abs(value) < 1e15:  # noqa: PLR2004 - past this there are no decimals to round to
        return f"{value:.3g}"
    return str(Decimal(value).quantize(Decimal(1).scaleb(-decimals), ROUND_HALF_UP))


def _three_digits(value: float) -> str:
    return _fixed(value, 2 if value < 9.995 else 1 if value < 99.95 else 0)  # noqa: PLR2004 - where 3 digits turn


def duration(ns: float) -> str:
    """Return a time per iteration with three digits: `60.1 µs`; `0` for nothing."""
    if ns <= 0:
        return "0"
    for unit, size in _UNITS:
        if ns / size < 999.5:  # noqa: PLR2004 - 999.5 would print as 1000
            return f"{_three_digits(ns / size)} {unit}"
    seconds = _fixed(ns / 1e9, 0)
    return f"{seconds} s"


def change_of_time(change: Change) -> str:
    """Return the signed difference per iteration: `+15.1 µs`."""
    difference = change.after_ns - change.before_ns
    if not difference:
        return "0"
    return f"{'+' if difference > 0 else MINUS}{duration(abs(difference))}"


def signed(share: float) -> str:
    """Return signed percent without the sign %: `+25.3` for 0.253, `+125` for 1.25."""
    percent = abs(share) * 100
    digits = _fixed(percent, 1 if percent < 99.95 else 0)  # noqa: PLR2004 - where 100.0 turns 100
    if not float(digits):
        return "0.0"
    return f"{'+' if share > 0 else MINUS}{digits}"


def growth(change: Change) -> str:
    """Return `+25.3 %`, `new`, `gone`, or `x 12.5` from ten times on."""
    return growth_of(change.before_ns, change.after_ns)


def growth_of(before_ns: float, after_ns: float) -> str:
    """Return the same of two costs."""
    if before_ns <= 0:
        return "new" if after_ns > 0 else "0.0 %"
    if after_ns <= 0:
        return "gone"
    ratio = after_ns / before_ns
    if ratio >= 10:  # noqa: PLR2004 - +900 % is harder to read than a factor
        return f"\N{MULTIPLICATION SIGN} {_three_digits(ratio)}"
    return f"{signed(ratio - 1)} %"


def interval(change: Change) -> str:
    """Return the 90 % interval of growth, `+18.0 to +33.0 %`; empty where there is none.

    What is new has none: it grew from nothing.
    """
    low, high = change.low, change.high
    if not change.before_ns and change.after_ns:
        return ""
    if math.isfinite(low) and math.isfinite(high) and high < BOUNDLESS:
        return f"{signed(low)} to {signed(high)} %"
    if math.isfinite(low):
        return f"over {_many(low)}"
    if math.isfinite(high):
        return f"under {signed(high)} %"
    return ""


def _many(growth: float) -> str:
    """Return growth as `growth_of` writes it: a factor from ten times on."""
    if growth >= 9:  # noqa: PLR2004 - ten times
        return f"\N{MULTIPLICATION SIGN} {_three_digits(1 + growth)}"
    return f"{signed(growth)} %"


def share(value: float) -> str:
    """Return a share of the benchmark: `12.0 %`; what is there but rounds to 0 is `<0.1 %`."""
    if value <= 0:
        return "0 %"
    return "<0.1 %" if value < 0.0005 else f"{_fixed(value * 100, 1)} %"  # noqa: PLR2004 - 0.05 % rounds to 0.1 %


def split_id(benchmark: str) -> tuple[str, str]:
    """Return `tests/test_a.py::Class` and `test_x[case]` of a node id; a case may hold `::`."""
    file, separator, rest = benchmark.partition("::")
    if not separator:
        return "", benchmark
    head, bracket, case = rest.partition("[")
    classes, _, name = head.rpartition("::")
    return "::".join(filter(None, (file, classes))), name + bracket + case


def visible(text: str) -> str:
    """Return `text` on one line and harmless: control and direction characters as escapes.

    A benchmark's names are anybody's text: an ESC would reach the terminal, a newline would
    forge a line, a right-to-left override would show another name than it is.
    """
    if text.isprintable():
        return text
    return "".join(
        ascii(letter)[1:-1]
        if unicodedata.category(letter) in {"Cc", "Cs", "Zl", "Zp"}
        or letter in _BIDI
        # no characters: XML, and so SVG, must not hold them
        or ord(letter) & 0xFFFE == 0xFFFE  # noqa: PLR2004 - U+FFFE, U+FFFF of each plane
        else letter
        for letter in text
    )


def columns(text: str) -> int:
    """Return how many terminal columns the text takes."""
    if text.isascii():
        return len(text)
    return sum(
        0
        if unicodedata.combining(letter)
        else 2
        if unicodedata.east_asian_width(letter) in {"W", "F"}
        else 1
        for letter in text
    )


def cut(text: str, width: int) -> str:
    """Return the text in at most `width` columns, its middle replaced by an ellipsis.

    The end of a name tells more than its middle: `shop.parser:Gram…tokenize`.
    """
    if len(text) > 4 * width:  # 10 kB names: the middle is never shown
        text = text[: 2 * width] + ELLIPSIS + text[-2 * width :]
    if columns(text) <= width:
        return text
    head, tail = "", ""
    front, back = 0, len(text) - 1
    room = width - 1
    while front <= back:
        use_tail = columns(tail) <= columns(head)
        letter = text[back] if use_tail else text[front]
        if columns(letter) > room:
            break
        room -= columns(letter)
        if use_tail:
            tail, back = letter + tail, back - 1
        else:
            head, front = head + letter, front + 1
    return (head + ELLIPSIS + tail) if width > 0 else ""


def whole_of(mode: str) -> str:
    """Return what shares are shares of: `benchmark`, or `waiting` of a profile of waits."""
    return "waiting" if mode == Mode.OFF_CPU else "benchmark"


def plural(number: int, noun: str) -> str:
    """Return `1 benchmark` or `3 benchmarks`."""
    return f"{number:,} {noun}{'' if number == 1 else 's'}"
