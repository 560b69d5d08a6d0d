"""Edge: figures of the policy, of flags and markers -> numbers within their bounds."""

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

from ci_flame.config.yaml_tree import quote
from ci_flame.errors import UsageError


@dataclass(frozen=True, slots=True)
class _Range:
    """The bounds of a figure, both inclusive."""

    low: float
    high: float
    whole: bool
    unit: str


_RANGES: Final[Mapping[str, _Range]] = {
    "frequency_hz": _Range(10, 20_000, whole=True, unit="Hz"),
    "processes": _Range(1, 100, whole=True, unit="processes"),
    "seconds": _Range(0.05, 600, whole=False, unit="s"),
    "round_ms": _Range(0.5, 10_000, whole=False, unit="ms"),
    "max_seconds": _Range(1, 36_000, whole=False, unit="s"),
    "keep": _Range(1, 100, whole=True, unit="builds"),
}
_NUMBER: Final = re.compile(r"\d{1,12}(?:\.\d{1,9})?", re.ASCII)


def figure(key: str, value: object, shown: str) -> int | float:
    """Return a figure within its bounds, from a number or the words of one."""
    bounds = _RANGES[key]
    word = str(value).strip()
    if isinstance(value, bool) or not _NUMBER.fullmatch(word):
        unit = "" if bounds.unit == key else f" ({bounds.unit})"
        raise UsageError(f"{shown} is a plain number{unit}, not {quote(word)}")
    number = float(word)
    if bounds.whole and not number.is_integer():
        raise UsageError(f"{shown} is a whole number, not {word}")
    if not (math.isfinite(number) and bounds.low <= number <= bounds.high):
        raise UsageError(
            f"{shown} {word} is outside {bounds.low:g} to {bounds.high:g}"
            + (f" {bounds.unit}" if bounds.unit != key else "")
        )
    return int(number) if bounds.whole else number
