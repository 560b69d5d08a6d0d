"""Edge: YAML text -> values that know their line, with caps; nothing is ever constructed.

Only what a policy needs is let through: mappings, lists and scalars. Aliases, tags,
duplicate keys and unreasonable sizes are refused by line, so that no text, hostile or
mistyped, does more than raise `PolicyError`.
"""

import difflib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Final, NoReturn

import yaml

from ci_flame.errors import PolicyError

MAX_BYTES: Final = 256 * 1024
MAX_DEPTH: Final = 12
MAX_NODES: Final = 20_000
MAX_SCALAR: Final = 2_000
"""Characters of one value; messages quote values, so they must stay readable."""

_SHORT: Final = 5
_LIKE, _LIKE_SHORT = 0.55, 0.6
"""Ratio of matching letters from which on a name is offered."""
_QUOTE_HINT: Final = 'values that begin with *, !, & or @ need quotes: frames: "*"'


@dataclass(frozen=True, slots=True)
class Scalar:
    """One plain or quoted value as it was written."""

    text: str
    kind: str
    """What YAML takes it for: `str`, `int`, `float`, `bool`, `null`, `timestamp`."""
    source: str
    line: int

    def fail(self, message: str, hint: str = "") -> NoReturn:
        """Raise the error of this place."""
        raise PolicyError(self.source, self.line, message, hint)


@dataclass(frozen=True, slots=True)
class Listing:
    """A list, in order."""

    items: "tuple[Node, ...]"
    source: str
    line: int

    def fail(self, message: str, hint: str = "") -> NoReturn:
        """Raise the error of this place."""
        raise PolicyError(self.source, self.line, message, hint)


@dataclass(frozen=True, slots=True)
class Section:
    """A mapping; keys are unique, and each knows its line."""

    entries: "Mapping[str, Node]"
    key_lines: Mapping[str, int]
    source: str
    line: int

    def fail(self, message: str, hint: str = "") -> NoReturn:
        """Raise the error of this place."""
        raise PolicyError(self.source, self.line, message, hint)

    def allow(self, where: str, names: Iterable[str]) -> None:
        """Refuse keys that are not in `names`, with the nearest one that is."""
        known = tuple(names)
        for key in self.entries:
            if key not in known:
                raise PolicyError(
                    self.source,
                    self.key_lines[key],
                    f"unknown key {quote(key)} in {where}{nearest(key, known)}",
                    f"{where} knows: {', '.join(known)}",
                )


Node = Scalar | Listing | Section


def quote(text: str) -> str:
    """Return the text in quotes, on one line and not longer than a message can bear."""
    shown = text if len(text) <= 60 else text[:57] + "…"  # noqa: PLR2004 - a line of a terminal
    return '"' + "".join(c if c.isprintable() else "\N{REPLACEMENT CHARACTER}" for c in shown) + '"'


def nearest(word: str, known: Iterable[str]) -> str:
    """Return `; did you mean "x"?` for the known name most like `word`, or nothing."""
    by_lower = {name.lower(): name for name in known}
    # In a short word two letters alike are no likeness: nope is not perf.
    cutoff = _LIKE_SHORT if len(word) <= _SHORT else _LIKE
    match = difflib.get_close_matches(word[:100].lower(), by_lower, n=1, cutoff=cutoff)
    return f'; did you mean "{by_lower[match[0]]}"?' if match else ""


def parse(data: bytes, source: str) -> Node | None:
    """Return the tree of one YAML document; None where it is empty."""
    if len(data) > MAX_BYTES:
        raise PolicyError(source, 1, f"{len(data)} bytes; a policy has at most {MAX_BYTES}")
    try:
        text = data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = data.count(b"\n", 0, error.start) + 1
        raise PolicyError(source, line, f"byte {error.start} is not UTF-8") from None
    try:
        _screen(text, source)
        root = yaml.compose(text, Loader=yaml.SafeLoader)
    except yaml.MarkedYAMLError as error:
        raise _syntax_error(error, source) from None
    except yaml.reader.ReaderError as error:
        line = text.count("\n", 0, error.position) + 1
        raise PolicyError(source, line, "a control character that YAML does not allow") from None
    return None if root is None else _convert(root, source)


def from_value(value: object, source: str) -> Node:
    """Return the tree of values that `json.loads` made; every line is 1."""
    match value:
        case dict():
            entries = {str(key): from_value(each, source) for key, each in value.items()}
            return Section(entries, dict.fromkeys(entries, 1), source, 1)
        case list():
            return Listing(tuple(from_value(each, source) for each in value), source, 1)
        case bool():
            return Scalar(str(value).lower(), "bool", source, 1)
        case None:
            return Scalar("", "null", source, 1)
        case _:
            return Scalar(str(value), "str", source, 1)


def _syntax_error(error: yaml.MarkedYAMLError, source: str) -> PolicyError:
    mark = error.problem_mark or error.context_mark
    problem = " ".join(str(error.problem or error.context or "it cannot be parsed").split())
    hint = ""
    words = f"{error.context} {problem}"
    if "'\\t'" in words:
        hint = "a tab cannot stand there: indent with spaces"
    elif any(word in words for word in ("alias", "anchor", "tag", "cannot start any token")):
        hint = _QUOTE_HINT
    return PolicyError(source, mark.line + 1 if mark else 1, f"not YAML: {problem}", hint)


def _screen(text: str, source: str) -> None:
    """Refuse by events, before a tree is built, what could make the tree large or strange."""
    depth = 0
    for number, event in enumerate(yaml.parse(text, Loader=yaml.SafeLoader)):
        line = event.start_mark.line + 1 if event.start_mark else 1
        if number > MAX_NODES:
            raise PolicyError(source, line, f"more than {MAX_NODES} values")
        if isinstance(event, yaml.AliasEvent):
            raise PolicyError(
                source, line, f"{quote(f'*{event.anchor}')} is a YAML alias", _QUOTE_HINT
            )
        if not isinstance(event, yaml.ScalarEvent | yaml.CollectionStartEvent):
            depth -= isinstance(event, yaml.CollectionEndEvent)
            continue
        if event.anchor is not None:
            raise PolicyError(
                source, line, f"{quote('&' + event.anchor)} is a YAML anchor", _QUOTE_HINT
            )
        if event.tag not in (None, "!"):
            raise PolicyError(source, line, f"{quote(event.tag)} is a YAML tag", _QUOTE_HINT)
        if isinstance(event, yaml.CollectionStartEvent):
            depth += 1
            if depth > MAX_DEPTH:
                raise PolicyError(source, line, f"nested deeper than {MAX_DEPTH} levels")
        if isinstance(event, yaml.ScalarEvent) and len(event.value) > MAX_SCALAR:
            raise PolicyError(
                source, line, f"a value of {len(event.value)} characters; at most {MAX_SCALAR}"
            )


def _convert(node: yaml.Node, source: str) -> Node:
    line = node.start_mark.line + 1
    if isinstance(node, yaml.ScalarNode):
        return Scalar(node.value, node.tag.rpartition(":")[2], source, line)
    if isinstance(node, yaml.SequenceNode):
        return Listing(tuple(_convert(item, source) for item in node.value), source, line)
    entries: dict[str, Node] = {}
    lines: dict[str, int] = {}
    for key_node, value_node in node.value:
        key_line = key_node.start_mark.line + 1
        if not isinstance(key_node, yaml.ScalarNode):
            raise PolicyError(source, key_line, "a key must be one word")
        key = key_node.value
        if key in entries:
            raise PolicyError(
                source, key_line, f"key {quote(key)} again; it was given on line {lines[key]}"
            )
        entries[key] = _convert(value_node, source)
        lines[key] = key_line
    return Section(entries, lines, source, line)
