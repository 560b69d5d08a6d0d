"""record/exact.py: bytecodes and calls of untimed iterations, under every CPython that is here."""

import json
import os
import subprocess
from functools import cache
from pathlib import Path

import pytest
from interpreters import ROOT, every_interpreter

from ci_flame.profile import Frame
from ci_flame.profile.counts import Count
from ci_flame.record.exact import agreed

PROGRAM = Path(__file__).parent / "counted.py"


@cache
def told_by(python):
    environment = {**os.environ, "PYTHONHASHSEED": "0"}
    done = subprocess.run(
        [python, "-S", PROGRAM, ROOT],
        capture_output=True,
        text=True,
        check=False,
        env=environment,
        timeout=120,
    )
    assert (done.returncode, done.stderr) == (0, "")
    return json.loads(done.stdout)


@pytest.fixture(params=every_interpreter())
def told(request):
    if request.param is None:
        pytest.skip("no such CPython here")
    return told_by(request.param)


def monitors(told):
    return told["again"]["python"] != "3.11"


def calls(told, name):
    return {key.partition(":")[2]: c[0] for key, c in told[name]["counts"].items()}


def test_calls_are_those_that_were_made(told):
    made = calls(told, "again")

    expected = {
        "everything": 1,
        "tokenize": 1,
        "numbers": 1,  # a generator that is entered six times is called once
        "fib": 25,
        "raises": 1,
        "fails": 3,
        "Shop.sell": 1,
        "Shop.price": 3,
        "everything.<locals>.<lambda>": 3,
        "outer": 1,
        "inner": 2,
    }
    assert {name: made[name] for name in expected} == expected


def test_totals_hold_the_callees_and_count_recursion_once(told):
    counts = told["again"]["counts"]
    fib, sell = counts["counted:fib"], counts["counted:Shop.sell"]
    price = counts["counted:Shop.price"]

    assert fib[2] == fib[0] == 25
    # sell, three times price, which calls fails; on 3.11 the comprehension is a function, too.
    assert sell[2] == 1 + price[2] + (0 if monitors(told) else 1)
    if monitors(told):
        assert fib[3] == fib[1]
        assert sell[3] == sell[1] + price[3]
        assert price[3] == price[1] + counts["counted:fails"][1]


def test_bytecodes_are_proportional_to_what_was_executed(told):
    if not monitors(told):
        assert {c[1] for c in told["again"]["counts"].values()} == {None}
        return
    deep, shallow = told["threads"]["counts"], told["block"]["counts"]
    one, other = deep["counted:fib"], shallow["counted:fib"]

    assert (one[0], other[0]) == (2 * 67, 15)
    # fib(n) makes k calls, of which (k - 1) / 2 go on: two unknowns, both measured twice.
    leaves, inner = 34, 33
    small_leaves, small_inner = 8, 7
    per_leaf = (other[1] * inner - one[1] / 2 * small_inner) / (
        small_leaves * inner - leaves * small_inner
    )
    assert per_leaf == int(per_leaf)
    assert 3 <= per_leaf <= 12


def test_iterations_agree_and_say_how_they_were_made(told):
    again = told["again"]

    assert again["unsteady"] == []
    assert (again["iterations"], again["left_out"], again["hash_seed"]) == (2, "", "0")


def test_a_function_that_differs_between_iterations_is_named(told):
    found = told["unsteady"]

    assert found["unsteady"] == ["counted:fib"]
    assert found["counts"]["counted:constant"][0] == 1
    # What calls it is steady itself, and its totals are not.
    assert found["counts"]["counted:unsteady"][0] == 1
    assert found["counts"]["counted:unsteady"][2:] == [None, None]


def test_threads_that_the_benchmark_starts_are_counted(told):
    assert calls(told, "threads")["fib"] == 134


def test_what_runs_outside_the_window_is_not_counted(told):
    assert calls(told, "block")["fib"] == 15
    if monitors(told):  # the function around the block is counted as far as it lies inside
        assert told["block"]["counts"]["counted:in_block"][0] == 0
        assert told["block"]["counts"]["counted:in_block"][1] < 30


def test_counting_ends_and_says_why(told):
    if monitors(told):  # on 3.11 a loop without calls costs nothing to watch
        assert told["forever"]["left_out"] == "counting one iteration took more than 0.05 s"
        assert told["forever"]["counts"] == {}
    assert told["times_out"]["left_out"] == (
        "the benchmark raised TimeoutError while it was counted"
    )


def test_a_free_tool_is_taken_or_it_is_said_that_there_is_none(told):
    if not monitors(told):
        assert "taken" not in told
        return
    assert told["taken"]["left_out"] == (
        "all six tools of sys.monitoring are in use"
        " (tool 0, tool 1, tool 2, tool 3, tool 4, tool 5)"
    )
    assert told["free"]["counts"]["counted:constant"][0] == 1


def count(*figures):
    return Count(*figures)


F, G = Frame("f", "m"), Frame("g", "m")


@pytest.mark.parametrize(
    ("iterations", "expected"),
    [
        ([{F: count(1, 2, 3, 4)}], ({F: count(1, 2, 3, 4)}, frozenset())),
        ([{F: count(1, 2, 3, 4)}] * 2, ({F: count(1, 2, 3, 4)}, frozenset())),
        # Its callees differ: it keeps its own.
        ([{F: count(1, 2, 3, 4)}, {F: count(1, 2, 3, 5)}], ({F: count(1, 2)}, frozenset())),
        ([{F: count(1, 2, 3, 4)}, {F: count(1, 3, 3, 5)}], ({}, frozenset({F}))),
        ([{F: count(1, 2, 3, 4)}, {F: count(2, 2, 3, 4)}], ({}, frozenset({F}))),
        # Called in one of them only.
        ([{F: count(1), G: count(1)}, {F: count(1)}], ({F: count(1)}, frozenset({G}))),
        ([{F: count(1)}, {F: count(1), G: count(1)}], ({F: count(1)}, frozenset({G}))),
    ],
)
def test_only_what_all_iterations_share_is_kept(iterations, expected):
    assert agreed(iterations) == expected
