"""Stage 1, pure: source -> code whose chosen functions begin with a counted loop of bytecodes.

    def parse(text):                  def parse(text):
        "Doc."                            "Doc."
        return text.split()     ->        _ci_flame_turns = 40.0
                                          while _ci_flame_turns:
                                              _ci_flame_turns -= 1.0
                                          del _ci_flame_turns
                                          return text.split()

The loop calls nothing, so that its time is own cost of the very function; it looks no name
up and leaves no local behind, so that the function does what it did. It stands on the line of
the function's first statement: all other lines stay where they are.
"""

import ast
import warnings
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass
from types import CodeType
from typing import Final

TURNS: Final = "_ci_flame_turns"
_MARKER: Final = "ci_flame counts a call here"
MAX_TURNS: Final = 10**9
"""Half a minute a call."""

Function = ast.FunctionDef | ast.AsyncFunctionDef


@dataclass(frozen=True, slots=True, order=True)
class Spot:
    """One function in a file; the line tells a getter from its setter."""

    qualname: str
    line: int
    """Of `def` or of its first decorator: `co_firstlineno`."""


def loop(turns: int) -> list[ast.stmt]:
    """Return the statements of the counted loop; none for no turns.

    It counts in floats, whose turns all cost alike: integers up to 256 are not allocated, so
    that the last turns of a loop over them are cheaper than the others.
    """
    if not turns:
        return []
    return ast.parse(f"{TURNS} = {turns}.0\nwhile {TURNS}:\n    {TURNS} -= 1.0\ndel {TURNS}\n").body


def counted() -> list[ast.stmt]:
    """Return the statement that `with_counter` turns into a call of a counter."""
    return [ast.Expr(ast.Call(ast.Constant(_MARKER), [], []))]


def with_counter(code: CodeType, counter: object) -> CodeType:
    """Return the code whose planted statement calls `counter`, nested code included."""
    consts = tuple(
        with_counter(each, counter)
        if isinstance(each, CodeType)
        else counter
        if isinstance(each, str) and each == _MARKER
        else each
        for each in code.co_consts
    )
    return code.replace(co_consts=consts)


def compiled(source: str, file: str, prologues: Mapping[str, int | None]) -> dict[Spot, CodeType]:
    """Return the code of all functions of a file, the named ones with their prologue.

    `prologues`: qualified name -> turns of its loop, None: its calls are counted. SyntaxError
    where the source is not Python (of this version).
    """
    with warnings.catch_warnings():
        # What is odd in the source was said when it was imported; our marker is odd, too.
        warnings.simplefilter("ignore")
        tree = ast.parse(source, file)
        for name, function in _functions(tree):
            if name in prologues:
                turns = prologues[name]
                _plant(function, counted() if turns is None else loop(turns))
        module = compile(tree, file, "exec", dont_inherit=True)
    return {Spot(code.co_qualname, code.co_firstlineno): code for code in _codes(module)}


def _functions(tree: ast.AST, prefix: str = "") -> Iterator[tuple[str, Function]]:
    """Return every function with its qualified name, as `def` would give it."""
    for node in ast.iter_child_nodes(tree):
        if isinstance(node, Function):
            yield prefix + node.name, node
            yield from _functions(node, f"{prefix}{node.name}.<locals>.")
        elif isinstance(node, ast.ClassDef):
            yield from _functions(node, f"{prefix}{node.name}.")
        else:
            yield from _functions(node, prefix)


def _plant(function: Function, statements: list[ast.stmt]) -> None:
    """Put the statements behind the docstring, on the line of what follows it."""
    body = function.body
    at = int(ast.get_docstring(function, clean=False) is not None)
    declared = ast.Global | ast.Nonlocal
    line = next((each for each in body[at:] if not isinstance(each, declared)), body[-1])
    for statement in statements:
        for node in ast.walk(statement):
            if isinstance(node, ast.stmt | ast.expr):
                node.lineno = node.end_lineno = line.lineno
                node.col_offset = node.end_col_offset = line.col_offset
    body[at:at] = statements


def _codes(code: CodeType) -> Iterator[CodeType]:
    for each in code.co_consts:
        if isinstance(each, CodeType):
            yield each
            yield from _codes(each)


def nested(code: CodeType) -> Collection[str]:
    """Return the qualified names of the code and of all that is defined in it."""
    return {code.co_qualname, *(each.co_qualname for each in _codes(code))}


def exchanged(code: CodeType, planted: Mapping[Spot, CodeType]) -> CodeType:
    """Return the code with every planted function in it exchanged, itself included.

    The code itself where nothing in it is planted.
    """
    found = planted.get(Spot(code.co_qualname, code.co_firstlineno))
    if found is not None:
        return found
    consts = tuple(
        exchanged(each, planted) if isinstance(each, CodeType) else each for each in code.co_consts
    )
    same = all(one is other for one, other in zip(consts, code.co_consts, strict=True))
    return code if same else code.replace(co_consts=consts)


def unlike(running: CodeType, source: CodeType | None, *, asserts: bool) -> str:
    """Return why the source is not that of the running code; empty: it is.

    `asserts`: pytest has rewritten the module's assert statements, so that bytecodes differ.
    """
    if source is None:
        return "its source has changed since it was imported"
    for name in ("co_freevars", "co_argcount", "co_kwonlyargcount", "co_flags"):
        if getattr(running, name) != getattr(source, name):
            return "it was rewritten when it was imported"
    if not asserts and running.co_code != source.co_code:
        return "it was rewritten when it was imported"
    return ""
