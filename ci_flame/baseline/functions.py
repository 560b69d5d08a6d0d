"""Edge, pure: the text of a Python file -> its functions, each with what it does and its lines.

    functions(before)["Grammar.compile"] != functions(after)["Grammar.compile"]

says that a function changed: comments, blank lines, layout, docstrings and its place in the file
are not part of what it does. Nested functions and classes are functions of their own; their
decorators, defaults and bases belong to them.
"""

import ast
import warnings
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Final

MODULE: Final = "<module>"
MAX_BYTES: Final = 4 << 20
"""Larger files are not parsed; their lines are looked at instead."""

_SCOPES: Final = (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef)
_EXPRESSIONS: Final = {
    ast.Lambda: "<lambda>",
    ast.ListComp: "<listcomp>",
    ast.SetComp: "<setcomp>",
    ast.DictComp: "<dictcomp>",
    ast.GeneratorExp: "<genexpr>",
}
"""What CPython calls the code of expressions that have one (comprehensions: 3.11 only)."""


@dataclass(frozen=True, slots=True)
class Function:
    """One function, class body or the module's own statements."""

    name: str
    """As `co_qualname` has it: `Grammar.compile`, `outer.<locals>.<lambda>`, `<module>`."""
    does: str
    """Its code without places, comments and docstring: the same text, the same work."""
    lines: frozenset[int]
    """Lines that are its own, from 1; those of functions inside it are theirs."""
    line: int
    """The first one, decorators included."""
    reads: frozenset[str]
    """Names that it looks up."""


@dataclass(frozen=True, slots=True)
class Code:
    """A whole file."""

    functions: Mapping[str, tuple[Function, ...]]
    """By name; several where a name is defined more than once."""
    globals: Mapping[str, tuple[str, int]]
    """Name that the module's own statements bind -> what binds it, and the first such line."""

    def at(self, line: int) -> str:
        """Return the name of the innermost function that a line belongs to; empty: none."""
        holding = (f for each in self.functions.values() for f in each if line in f.lines)
        found = min(holding, key=lambda each: (len(each.lines), each.name), default=None)
        return found.name if found else ""


def read(data: bytes) -> Code | None:
    """Return the file's functions; None where it is not Python that this interpreter reads."""
    if len(data) > MAX_BYTES:
        return None
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # invalid escapes are the project's business
            tree = ast.parse(data)
        found: dict[str, list[Function]] = {}
        for function in _module(tree):
            found.setdefault(function.name, []).append(function)
        bound = _globals(tree)
    except (SyntaxError, ValueError, RecursionError, MemoryError):
        return None
    return Code({name: tuple(each) for name, each in found.items()}, bound)


def lines_by_indentation(data: bytes, line: int) -> frozenset[int]:
    """Return the lines of the function that begins at `line`, by its indentation alone.

    For files that `read` cannot read; functions inside it are not told apart.
    """
    rows = data.splitlines()
    if not 0 < line <= len(rows):
        return frozenset()
    indent = _indent(rows[line - 1])
    own = set()
    header, depth = True, 0
    for number, row in enumerate(rows[line - 1 :], line):
        text = row.strip()
        if not header and text and not text.startswith(b"#") and _indent(row) <= indent:
            break
        own.add(number)
        if header:
            # Decorators, then `def name(…)` with its arguments over any number of lines.
            depth += sum(row.count(each) for each in b"([{") - sum(map(row.count, b")]}"))
            header = depth > 0 or text.startswith(b"@") or not text
    return frozenset(own)


def _indent(row: bytes) -> int:
    expanded = row.expandtabs(8)
    return len(expanded) - len(expanded.lstrip())


# -- functions of a tree ------------------------------------------------------------------


def _module(tree: ast.Module) -> Iterator[Function]:
    own = [each for each in _without_docstring(tree.body) if not isinstance(each, _SCOPES)]
    yield _function(MODULE, own, own, 1)
    yield from _inside(tree.body, "")


def _inside(nodes: Iterable[ast.AST], prefix: str) -> Iterator[Function]:
    """Yield the functions below some nodes; `prefix` ends in a dot, or is empty."""
    for node in nodes:
        if isinstance(node, ast.ClassDef):
            name = prefix + node.name
            yield _scope(node, name)
            yield from _inside([*node.decorator_list, *node.bases, *node.keywords], prefix)
            yield from _inside(node.body, f"{name}.")
        elif isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            name = prefix + node.name
            yield _scope(node, name)
            yield from _inside([*node.decorator_list, node.args], prefix)
            yield from _inside(node.body, f"{name}.<locals>.")
        elif (word := _EXPRESSIONS.get(type(node))) is not None:
            name = prefix + word
            # Its lines are its holder's too: it is written there.
            yield _function(name, [node], [node], node.lineno)  # type: ignore[attr-defined]
            yield from _inside(ast.iter_child_nodes(node), f"{name}.<locals>.")
        else:
            yield from _inside(ast.iter_child_nodes(node), prefix)


def _scope(node: ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef, name: str) -> Function:
    body = _without_docstring(node.body)
    head: list[ast.AST] = [*node.decorator_list]
    if isinstance(node, ast.ClassDef):
        head += [*node.bases, *node.keywords]
    else:
        head += [node.args, *([node.returns] if node.returns else [])]
    line = min([node.lineno, *(each.lineno for each in node.decorator_list)])
    made = _function(name, [*head, *body], [*head, *body], line)
    kind = type(node).__name__
    first = body[0].lineno if body else node.lineno
    # The header's own lines, with what stands between them and the first statement.
    until = max(first, node.lineno + 1) if node.body[0].lineno > node.lineno else node.lineno + 1
    header = range(line, until)
    return Function(made.name, f"{kind} {made.does}", made.lines | set(header), line, made.reads)


def _function(
    name: str, nodes: Iterable[ast.AST], lines_of: Iterable[ast.AST], line: int
) -> Function:
    text = "\n".join(map(_dump, nodes))
    lines: set[int] = set()
    reads: set[str] = set()
    for node in lines_of:
        _survey(node, lines, reads)
    return Function(name, text, frozenset(lines), line, frozenset(reads))


def _survey(node: ast.AST, lines: set[int], reads: set[str]) -> None:
    """Collect the lines and names of a node, nested functions and classes left out."""
    if isinstance(node, _SCOPES):
        return
    nested = any(isinstance(each, _SCOPES) for each in ast.walk(node))
    first, last = getattr(node, "lineno", None), getattr(node, "end_lineno", None)
    if first is not None:
        # A statement that holds a function (`if …: def …`) has that function's lines between.
        lines.update(range(first, (first if nested else last or first) + 1))
    if isinstance(node, ast.Name) and isinstance(node.ctx, ast.Load):
        reads.add(node.id)
    for child in ast.iter_child_nodes(node):
        _survey_flat(child, lines, reads) if not nested else _survey(child, lines, reads)


def _survey_flat(node: ast.AST, lines: set[int], reads: set[str]) -> None:
    """Do the same where nothing is nested and the lines are known already."""
    del lines
    reads.update(
        each.id
        for each in ast.walk(node)
        if isinstance(each, ast.Name) and isinstance(each.ctx, ast.Load)
    )


def _dump(node: ast.AST) -> str:
    """Return the node as text, without places; what is nested is only named."""
    if isinstance(node, _SCOPES):
        return f"def {node.name}"
    parts = []
    for name, value in ast.iter_fields(node):
        if isinstance(value, ast.AST):
            parts.append(f"{name}={_dump(value)}")
        elif isinstance(value, list):
            inner = (_dump(each) if isinstance(each, ast.AST) else repr(each) for each in value)
            parts.append(f"{name}=[{', '.join(inner)}]")
        elif value is not None and name not in {"type_comment", "kind"}:
            parts.append(f"{name}={value!r}")
    return f"{type(node).__name__}({', '.join(parts)})"


def _without_docstring(body: list[ast.stmt]) -> list[ast.stmt]:
    match body:
        case [ast.Expr(value=ast.Constant(value=str())), *rest]:
            return rest
        case _:
            return body


def _globals(tree: ast.Module) -> dict[str, tuple[str, int]]:
    bound: dict[str, tuple[str, int]] = {}
    for statement in tree.body:
        if isinstance(statement, _SCOPES):
            continue
        text = _dump(statement)
        for name in _binds(statement):
            before, line = bound.get(name, ("", statement.lineno))
            bound[name] = (f"{before}\n{text}", line)
    return bound


def _binds(statement: ast.stmt) -> set[str]:
    names: set[str] = set()
    for node in ast.walk(statement):
        if isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store):
            names.add(node.id)
        elif isinstance(node, ast.alias):
            names.add(node.asname or node.name.partition(".")[0])
    return names
