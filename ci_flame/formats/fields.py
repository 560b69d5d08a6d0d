"""Stage 2, pure: JSON text -> nodes whose every access is checked and names its place."""

import json
import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Final, NoReturn, TypeVar

from ci_flame.errors import FormatError

INT64_MAX: Final = (1 << 63) - 1
_CURE: Final = "record it again, or fetch it again if it was downloaded"

_Choice = TypeVar("_Choice", bound=StrEnum)


def parse(text: str, source: str) -> "Node":
    """Return the root of a JSON document; FormatError for what is not JSON or has a key twice."""

    def pairs(entries: list[tuple[str, object]]) -> dict[str, object]:
        found = dict(entries)
        if len(found) < len(entries):
            keys = [key for key, _ in entries]
            twice = next(key for key in keys if keys.count(key) > 1)
            raise FormatError(source, f"the key {twice!r} is there twice in one object", _CURE)
        return found

    def constant(name: str) -> NoReturn:
        raise FormatError(source, f"{name} is not a number here", _CURE)

    try:
        value = json.loads(text, object_pairs_hook=pairs, parse_constant=constant)
    except json.JSONDecodeError as error:
        where = f"line {error.lineno}, column {error.colno}"
        raise FormatError(
            source, f"broken or truncated JSON at {where}: {error.msg}", _CURE
        ) from error
    except RecursionError as error:
        raise FormatError(source, "JSON nested too deeply", _CURE) from error
    except ValueError as error:
        # Python refuses integers of more than 4300 digits.
        raise FormatError(source, f"a number is too long: {error}", _CURE) from error
    return Node(value, "", source)


@dataclass(frozen=True, slots=True)
class Node:
    """A JSON value, and where it is: `benchmarks[2].processes[0].kept`."""

    value: object
    path: str
    source: str

    def error(self, message: str) -> FormatError:
        """Return the error to raise about this value."""
        return FormatError(self.source, f"{self.path or 'the document'}: {message}", _CURE)

    @property
    def absent(self) -> bool:
        """True for `null`."""
        return self.value is None

    def get(self, key: str) -> "Node":
        """Return an entry of an object; it must be there."""
        entries = self._object()
        if key not in entries:
            raise self.error(f"{key} is missing")
        return Node(entries[key], f"{self.path}.{key}" if self.path else key, self.source)

    def optional(self, key: str, most: int) -> list["Node"]:
        """Return the entries of a list that need not be there, `most` of them at most."""
        return self.get(key).items(most) if key in self._object() else []

    def only(self, keys: Iterable[str]) -> None:
        """Raise where the object has a key that is not among these."""
        unknown = sorted(set(self._object()) - set(keys))
        if unknown:
            raise self.error(f"unknown key {unknown[0]!r}")

    def entries(self, most: int | None) -> list[tuple[str, "Node"]]:
        """Return the entries of an object, `most` of them at most."""
        entries = self._object()
        if most is not None and len(entries) > most:
            raise self.error(f"{len(entries)} entries; the limit is {most}")
        return [
            (self._clean(key), Node(value, f"{self.path}[{key!r}]", self.source))
            for key, value in entries.items()
        ]

    def items(self, most: int | None, *, exactly: bool = False) -> list["Node"]:
        """Return the entries of a list: `most` of them at most, or exactly."""
        values = self._list()
        if exactly and len(values) != most:
            raise self.error(f"{len(values)} entries; {most} are needed")
        if most is not None and len(values) > most:
            raise self.error(f"{len(values)} entries; the limit is {most}")
        return [
            Node(value, f"{self.path}[{number}]", self.source)
            for number, value in enumerate(values)
        ]

    def at(self, number: int) -> "Node":
        """Return one entry of a list whose length was checked."""
        return Node(self._list()[number], f"{self.path}[{number}]", self.source)

    def text(self, most: int) -> str:
        """Return a string of at most `most` characters."""
        if not isinstance(self.value, str):
            raise self.error(f"{_kind(self.value)}; a string is needed")
        if len(self.value) > most:
            raise self.error(f"a string of {len(self.value)} characters; the limit is {most}")
        return self._clean(self.value)

    def integer(self) -> int:
        """Return an integer from 0 to 2^63-1."""
        # bool is an int to Python, not to the format.
        if not isinstance(self.value, int) or isinstance(self.value, bool):
            raise self.error(f"{_kind(self.value)}; an integer is needed")
        if not 0 <= self.value <= INT64_MAX:
            raise self.error(f"{self.value} is not within 0 to 2^63-1")
        return self.value

    def integers(self, length: int | None) -> tuple[int, ...]:
        """Return a list of integers, `length` of them where it is given."""
        return tuple(each.integer() for each in self.items(length, exactly=length is not None))

    def number(self) -> float:
        """Return a finite number."""
        if not isinstance(self.value, int | float) or isinstance(self.value, bool):
            raise self.error(f"{_kind(self.value)}; a number is needed")
        try:
            number = float(self.value)
        except OverflowError:
            number = math.inf
        if not math.isfinite(number):
            raise self.error("the number is too large")
        return number

    def boolean(self) -> bool:
        """Return true or false."""
        if not isinstance(self.value, bool):
            raise self.error(f"{_kind(self.value)}; true or false is needed")
        return self.value

    def choice(self, choices: type[_Choice], name: str) -> _Choice:
        """Return the member of an enumeration with this name."""
        try:
            return choices(name)
        except ValueError:
            names = ", ".join(choices)
            raise self.error(f"{name!r} is not one of {names}") from None

    def index(self, name: str, length: int) -> int:
        """Return a key that is a position in a list of this length."""
        # isascii: `isdigit` alone is true for digits that int() refuses.
        if name.isascii() and name.isdigit() and len(name) < 10 and int(name) < length:  # noqa: PLR2004 - digits
            return int(name)
        raise self.error(f"{name!r} is not a position in a list of {length}")

    def _object(self) -> dict[str, object]:
        if not isinstance(self.value, dict):
            raise self.error(f"{_kind(self.value)}; an object is needed")
        return self.value

    def _list(self) -> Sequence[object]:
        if not isinstance(self.value, list):
            raise self.error(f"{_kind(self.value)}; a list is needed")
        return self.value

    def _clean(self, text: str) -> str:
        # "\ud800" in JSON makes a string that nobody can print.
        if not text.isascii() and any("\ud800" <= each <= "\udfff" for each in text):
            raise self.error("a string with half a character (a lone surrogate)")
        return text


def _kind(value: object) -> str:
    names = {dict: "an object", list: "a list", str: "a string", bool: "true or false"}
    if value is None:
        return "null"
    return names.get(type(value), "a number")
