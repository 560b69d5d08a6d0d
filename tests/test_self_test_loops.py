"""What is planted: the function does what it did, dearer by a loop; lines stay where they are."""

import asyncio
import gc
import importlib
import inspect
import subprocess
import sys
import textwrap
import traceback
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from interpreters import every_interpreter

from ci_flame.self_test import live, loops

SOURCE = '''
"""Module."""
from __future__ import annotations
import functools


def plain(a, b=2, *rest, c=3, **more):
    """Doc of plain."""
    return a + b + sum(rest) + c + len(more)


def bare(a):
    return [a, a]


def only_a_docstring(a):
    """Nothing else."""


def scope():
    here = 1
    return locals()


def generate(n):
    """Doc."""
    for i in range(n):
        got = yield i
        if got:
            yield got


async def wait(n):
    return n * 2


async def stream(n):
    for i in range(n):
        yield i


def outer(n):
    held = n

    def inner(k):
        nonlocal held
        held += k
        return held

    return inner


def decorator(function):
    @functools.wraps(function)
    def wrapper(*args, **kwargs):
        return function(*args, **kwargs)

    return wrapper


@decorator
@functools.lru_cache
def decorated(n):
    return n * 3


class Thing:
    kind = "thing"

    def __init__(self, n):
        super().__init__()
        self.n = n

    def method(self):
        return self.n, __class__.kind

    @property
    def both(self):
        return self.n

    @both.setter
    def both(self, value):
        self.n = value

    @staticmethod
    def fixed(n):
        return n + 1

    @classmethod
    def made(cls, n):
        return cls(n).n

    def __private(self):
        return self.__secret()

    def __secret(self):
        return "secret"

    def opened(self):
        return self.__private()


def fails(n):
    """Doc."""
    m = n + 1
    raise ValueError(m)


def shadows(range, while_=0, _ci_flame=1):
    global later
    later = range
    return later
'''
EVERY = (
    "plain", "bare", "only_a_docstring", "scope", "generate", "wait", "stream", "outer",
    "outer.<locals>.inner", "decorator.<locals>.wrapper", "decorated", "Thing.__init__",
    "Thing.method", "Thing.both", "Thing.fixed", "Thing.made", "Thing.__private", "Thing.opened",
    "fails", "shadows",
)  # fmt: skip


@pytest.fixture
def module(tmp_path, monkeypatch):
    """The source as a module that was imported long ago."""
    (tmp_path / "planted_here.py").write_text(SOURCE, encoding="utf-8")
    monkeypatch.syspath_prepend(tmp_path)
    import planted_here

    yield planted_here
    del sys.modules["planted_here"], planted_here
    gc.collect()


def behave(module):
    """Call everything once and return what came of it."""

    async def both():
        return await module.wait(4), [each async for each in module.stream(3)]

    generator = module.generate(3)
    thing = module.Thing(5)
    thing.both = 6
    try:
        module.fails(1)
    except ValueError as error:
        line = traceback.extract_tb(error.__traceback__)[-1].lineno
        failed = (str(error), line, traceback.extract_tb(error.__traceback__)[-1].line)
    return (
        module.plain(1, 2, 3, c=4, d=5), module.bare(1), module.only_a_docstring(1),
        module.scope(), [next(generator), generator.send(7), next(generator)],
        asyncio.run(both()), module.outer(1)(2), module.decorated(3), thing.method(), thing.both,
        thing.fixed(1), module.Thing.made(9), thing.opened(), failed, module.shadows(3),
        module.plain.__doc__, inspect.signature(module.plain), module.generate.__doc__,
    )  # fmt: skip


def names(prefix="planted_here"):
    return [f"{prefix}:{each}" for each in EVERY]


def test_planted_functions_do_what_they_did(module):
    before = behave(module)

    assert live.plant(dict.fromkeys(names(), 3), {}) == {}
    assert behave(module) == before


@pytest.mark.parametrize("name", EVERY)
def test_each_call_is_counted_once(module, name):
    counter = live._Counter()
    refused = live.plant({f"planted_here:{name}": None}, {f"planted_here:{name}": counter.call})
    behave(module)

    calls = {"Thing.__init__": 2, "Thing.both": 2, "outer": 1, "plain": 1}
    assert refused == {}
    assert counter.value() == calls.get(name, 1)


@pytest.mark.parametrize("name", EVERY)
def test_the_loop_is_in_the_function_itself_and_on_its_lines(name):
    short = name.rpartition(".")[2]
    plain = loops.compiled(SOURCE, "file.py", {})
    planted = loops.compiled(SOURCE, "file.py", {name: 12345})
    changed = {spot for spot in plain if 12345 in planted[spot].co_consts}

    assert set(planted) == set(plain)
    assert {spot.qualname for spot in changed} == {name}
    for spot in changed:
        lines = {line for _, _, line in planted[spot].co_lines() if line}
        if name == "only_a_docstring":  # that has no other line
            continue
        assert lines == {line for _, _, line in plain[spot].co_lines() if line}
        assert planted[spot].co_name == short
        assert planted[spot].co_freevars == plain[spot].co_freevars
        assert planted[spot].co_names == plain[spot].co_names, "a name is looked up"


def test_no_turns_plant_nothing():
    assert loops.compiled(SOURCE, "f", {"plain": 0}) == loops.compiled(SOURCE, "f", {})


def test_functions_that_are_made_later_and_those_that_live_already_are_both_planted(module):
    kept = module.outer(0)
    counter = live._Counter()
    live.plant({"planted_here:outer.<locals>.inner": None}, {
        "planted_here:outer.<locals>.inner": counter.call,
    })  # fmt: skip
    kept(1)
    module.outer(0)(1)

    assert counter.value() == 2


NUMBERS = st.integers(-1000, 1000)


@settings(max_examples=60, deadline=None)
@given(NUMBERS, NUMBERS, st.lists(NUMBERS), st.dictionaries(st.from_regex("[d-z]{1,3}"), NUMBERS),
       st.integers(1, 50))  # fmt: skip
def test_any_arguments_give_what_the_original_gives(a, b, rest, more, turns):
    spaces = [{"__name__": "x"}, {"__name__": "x"}]
    for space, prologues in zip(spaces, ({}, {"plain": turns, "generate": turns}), strict=True):
        exec(compile(SOURCE, "file.py", "exec"), space)  # noqa: S102 - our own source
        planted = loops.compiled(SOURCE, "file.py", prologues)
        for function in (space["plain"], space["generate"]):
            spot = loops.Spot(function.__name__, function.__code__.co_firstlineno)
            function.__code__ = planted[spot]
    one, other = spaces

    assert one["plain"](a, b, *rest, **more) == other["plain"](a, b, *rest, **more)
    assert list(one["generate"](abs(a) % 9)) == list(other["generate"](abs(a) % 9))


def test_what_cannot_be_planted_is_refused_by_name():
    space = {"__name__": "nowhere"}
    exec("def made(): pass", space)  # noqa: S102 - our own source
    told = live.plant(dict.fromkeys(("nowhere:made", "nowhere:absent", "builtins:len"), 1), {})

    assert told == {
        "nowhere:made": "its source is not there",
        "nowhere:absent": "no such function is loaded",
        "builtins:len": "no such function is loaded",
    }


@pytest.mark.parametrize(
    ("name", "text", "why"),
    [
        ("longer", "def bare(a):\n    return (a, a, a)\n", "it was rewritten when it was imported"),
        ("moved", "\n\ndef bare(a):\n    return [a]\n", "its source has changed since it was"),
        ("broken", "def bare(a:\n", "its source cannot be compiled: "),
    ],
)
def test_a_function_whose_source_changed_is_refused(name, text, why, tmp_path, monkeypatch):
    (tmp_path / f"{name}_here.py").write_text("def bare(a):\n    return [a]\n", encoding="utf-8")
    monkeypatch.syspath_prepend(tmp_path)
    importlib.import_module(f"{name}_here")
    (tmp_path / f"{name}_here.py").write_text(text, encoding="utf-8")

    (told,) = live.plant({f"{name}_here:bare": 5}, {}).values()
    assert told.startswith(why)


def test_functions_with_rewritten_asserts_are_planted():
    """This very module was rewritten by pytest."""
    counter = live._Counter()
    name = f"{__name__}:_checked"
    assert live.plant({name: None}, {name: counter.call}) == {}
    assert _checked(3) == 3
    assert counter.value() == 1


def _checked(n):
    assert n < 10
    return n


def test_an_order_and_its_answer_are_read_back(tmp_path):
    order = live.Order({"a:b": None, "a:c": 7}, tmp_path / "answer.json")
    live.write_order(order, tmp_path / "order.json")

    assert live.read_order({live.PLANT_VARIABLE: str(tmp_path / "order.json")}) == order
    assert live.read_order({}) is None
    assert live.read_answer(tmp_path / "answer.json") is None
    answer = live.Answer({"a:c": "why"}, {"a:b": 2.5}, 1e-4, 1e-5)
    live._write_answer(answer, order.answer)
    assert live.read_answer(order.answer) == answer


def test_a_turn_has_a_cost_and_a_loop_of_more_turns_has_more():
    turn, entry = live.loop_cost()

    assert 0 < turn < 0.01, "a turn is some nanoseconds, a repetition of the reference 0.3 ms"
    assert 0 <= entry < 0.01


@pytest.mark.parametrize("python", every_interpreter())
def test_the_same_on_every_python(python, tmp_path):
    """The package's dependencies are not there: the pure module alone is run."""
    file = Path(loops.__file__)
    (tmp_path / "subject.py").write_text(SOURCE, encoding="utf-8")
    script = textwrap.dedent(
        f"""
        import importlib.util, itertools, asyncio, sys
        spec = importlib.util.spec_from_file_location("loops", {str(file)!r})
        loops = sys.modules["loops"] = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(loops)
        sys.path.insert(0, {str(tmp_path)!r})
        import subject
        source = open(subject.__file__).read()
        plain = loops.compiled(source, subject.__file__, {{}})
        every = {EVERY!r}
        planted = loops.compiled(source, subject.__file__, dict.fromkeys(every, 4))
        counted = loops.compiled(source, subject.__file__, {{"bare": None}})
        assert set(plain) == set(planted) == set(counted)
        def spot(code):
            return loops.Spot(code.co_qualname, code.co_firstlineno)
        for name in ("plain", "generate", "wait", "outer", "fails", "scope", "bare"):
            function = getattr(subject, name)
            code = function.__code__
            assert loops.unlike(code, plain[spot(code)], asserts=False) == "", name
            assert loops.unlike(code, planted[spot(code)], asserts=False), name
            function.__code__ = planted[spot(code)]
        assert subject.plain(1, 2, 3, c=4, d=5) == 11
        assert list(subject.generate(3)) == [0, 1, 2]
        assert asyncio.run(subject.wait(4)) == 8
        assert subject.outer(1)(2) == 3
        assert subject.scope() == {{"here": 1}}
        try:
            subject.fails(1)
        except ValueError as error:
            line = error.__traceback__.tb_next.tb_lineno
            assert source.splitlines()[line - 1].strip() == "raise ValueError(m)", line
        numbers = itertools.count()
        code = subject.bare.__code__
        subject.bare.__code__ = loops.with_counter(counted[spot(code)], numbers.__next__)
        subject.bare(1), subject.bare(2)
        assert next(numbers) == 2
        print("fine")
        """
    )
    done = subprocess.run(
        [str(python), "-I", "-c", script], capture_output=True, text=True, check=False, timeout=60
    )

    assert (done.stdout, done.stderr) == ("fine\n", "")
