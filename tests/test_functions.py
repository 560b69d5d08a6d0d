"""Python files as functions: what is a change of one, and whose lines are whose."""

import ast

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ci_flame.baseline import functions

FILE = '''\
"""Module."""
import os
LIMIT = 3

@cached
def parse(text, size=LIMIT):
    """Parse."""
    def inner(word):
        return word * 2
    return [inner(each) for each in text]

class Grammar(Base):
    depth = 1

    @property
    def rule(self):
        # how
        return lambda: LIMIT

    async def run(self):
        await self.rule

if LIMIT:
    def late(): return 1
'''


def names(text):
    return functions.read(text.encode()).functions


def changed(before, after):
    """Names whose code differs."""
    one, other = names(before), names(after)
    return {
        name
        for name in one.keys() | other.keys()
        if [f.does for f in one.get(name, ())] != [f.does for f in other.get(name, ())]
    }


def test_functions_have_the_names_that_the_interpreter_gives_them():
    found = set(names(FILE))
    code = compile(FILE, "file.py", "exec")

    def walk(each):
        for const in each.co_consts:
            if hasattr(const, "co_qualname"):
                yield const.co_qualname
                yield from walk(const)

    assert set(walk(code)) <= found
    assert "Grammar.rule.<locals>.<lambda>" in found
    assert "parse.<locals>.inner" in found


def test_lines_belong_to_the_innermost_function():
    code = functions.read(FILE.encode())
    own = {line: code.at(line) for line in range(1, len(FILE.splitlines()) + 1)}

    assert own[3] == "<module>"
    assert [own[line] for line in (5, 6, 7, 8, 9)] == ["parse"] * 3 + ["parse.<locals>.inner"] * 2
    assert own[10].startswith("parse")
    assert own[13] == "Grammar"
    assert [own[line] for line in (15, 16, 17)] == ["Grammar.rule"] * 3
    assert own[20] == own[21] == "Grammar.run"
    assert own[24] == "late"


@pytest.mark.parametrize(
    ("before", "after", "expected"),
    [
        # Comments, blank lines, layout, quotes and docstrings do nothing.
        ("    def inner(word):", "    def inner(word):  # why\n\n", set()),
        ("word * 2", "(word\n        * 2)", set()),
        ('"""Parse."""', '"""Parse the\n    text."""', set()),
        ('"""Parse."""', "", set()),
        ("        # how\n", "", set()),
        # Own lines; what is nested is not its holder's.
        ("word * 2", "word * 3", {"parse.<locals>.inner"}),
        ("LIMIT = 3", "LIMIT = 4", {"<module>"}),
        ("depth = 1", "depth = 2", {"Grammar"}),
        ("Grammar(Base)", "Grammar(Other)", {"Grammar"}),
        ("await self.rule", "await self.other", {"Grammar.run"}),
        ("async def run", "def run", {"Grammar.run"}),
        # Decorators and defaults are the function's.
        ("@cached", "@cached(2)", {"parse"}),
        ("@cached\n", "", {"parse"}),
        ("size=LIMIT", "size=4", {"parse"}),
        # What is written inside an expression is its holder's line, too.
        ("lambda: LIMIT", "lambda: 1", {"Grammar.rule", "Grammar.rule.<locals>.<lambda>"}),
        ("inner(each) for", "each for", {"parse", "parse.<locals>.<listcomp>"}),
        ("def late(): return 1", "def late(): return 2", {"late"}),
        ("def late(): return 1", "def early(): return 1", {"late", "early", "<module>"}),
    ],
)
def test_what_changes_a_function(before, after, expected):
    if "await self.rule" in FILE and after == "def run":
        after, text = "def run", FILE.replace("await self.rule", "self.rule")
        assert changed(text, text.replace(before, after)) == expected
        return

    assert before in FILE
    assert changed(FILE, FILE.replace(before, after)) == expected


def test_functions_that_only_moved_within_the_file_did_not_change():
    lines = FILE.splitlines(keepends=True)
    moved = "".join([*lines[:4], *lines[11:22], *lines[4:11], *lines[22:]])
    assert moved != FILE

    assert changed(FILE, moved) <= {"<module>"}


def test_definitions_that_share_a_name_are_all_compared():
    text = "if x:\n    def f(): return 1\nelse:\n    def f(): return 2\n"

    assert changed(text, text.replace("return 2", "return 3")) == {"f"}
    assert [f.line for f in names(text)["f"]] == [2, 4]


def test_what_a_function_reads_and_a_module_binds():
    code = functions.read(
        b"import a.b as c, d.e\nX = Y = 1\nX += 2\n\ndef f():\n    return X + z.q\n"
    )

    assert code.functions["f"][0].reads == {"X", "z"}
    assert set(code.globals) == {"c", "d", "X", "Y"}
    assert [line for _, line in (code.globals["X"], code.globals["d"])] == [2, 1]


@pytest.mark.parametrize(
    "data",
    [
        b"def f(:\n",
        b"\xff\xfe\x00bad",
        b"# coding: nosuch\nx = 1\n",
        b"x = '\xe9'\n",
        b"\0",
        b"(" * 5000 + b")" * 5000,
        b"x = 1\n" * 700_000,
    ],
    ids=["syntax", "bytes", "codec", "latin-1", "nul", "nested", "large"],
)
def test_what_cannot_be_read_is_nothing(data):
    assert functions.read(data) is None


def test_another_encoding_is_read():
    text = "# coding: latin-1\ndef f():\n    return 'é'\n"

    assert "f" in functions.read(text.encode("latin-1")).functions


def test_warnings_of_the_compiler_are_not_ours():
    assert functions.read(b"def f(): return '\\d'\n") is not None


@pytest.mark.parametrize(
    ("line", "lines"),
    [
        (1, {1, 2, 3, 4, 5, 6}),  # decorated, arguments over several lines, a blank line inside
        (8, {8, 9, 10}),
        (9, {9}),
        (12, {12, 13}),
        (99, set()),
        (0, set()),
    ],
)
def test_lines_by_indentation_where_nothing_else_works(line, lines):
    text = (
        b"@decorated\ndef f(\n    a,\n):\n\n    print a\n"  # Python 2
        b"x = 1\nclass A:\n    def g(self): pass\n\ny = 2\nasync def h():\n  exec 'x'"
    )

    found = functions.lines_by_indentation(text, line)

    assert {each for each in found if text.splitlines()[each - 1].strip()} == {
        each for each in lines if text.splitlines()[each - 1].strip()
    }


@st.composite
def bodies(draw):
    lines = st.sampled_from(["a = 1", "b(2)", "return c", "pass", "x = [y for y in z]"])
    return draw(st.lists(lines, min_size=1, max_size=4))


@given(st.lists(bodies(), min_size=1, max_size=5), st.data())
def test_exactly_the_edited_function_changed_wherever_it_stands(all_bodies, data):
    def text(order, edited=None):
        out = []
        for number in order:
            body = [*all_bodies[number], *(["edited()"] if number == edited else [])]
            out += [f"def f{number}():", *(f"    {line}" for line in body), ""]
        return "\n".join(out)

    before = list(range(len(all_bodies)))
    edited = data.draw(st.sampled_from(before))
    after = data.draw(st.permutations(before))

    assert changed(text(before), text(after)) == set()
    assert changed(text(before), text(after, edited)) == {f"f{edited}"}


@given(st.binary(max_size=200))
def test_no_bytes_raise(data):
    functions.read(data)
    functions.lines_by_indentation(data, 1)


def test_this_package_reads_itself():
    text = functions.__loader__.get_data(functions.__file__)
    found = functions.read(text).functions

    assert {node.name for node in ast.parse(text).body if isinstance(node, ast.FunctionDef)} <= set(
        found
    )
