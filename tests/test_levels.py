"""The level of a benchmark is kept, whatever the costs have to do with one another."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ci_flame import noise
from ci_flame.judge import levels

P_VALUES = st.lists(st.floats(0.0, 1.0), min_size=1, max_size=12)


def alone(count):
    return [[index] for index in range(count)]


@given(P_VALUES)
def test_lines_of_one_cost_and_even_parts_are_holms_procedure(p_values):
    p_values = np.array(p_values)
    even = np.full(len(p_values), 1 / len(p_values))

    got = levels.adjust(p_values, alone(len(p_values)), even)

    assert got == pytest.approx(noise.holm(p_values), abs=1e-9)


@given(P_VALUES, st.data())
def test_adjusted_values_are_never_below_the_p_values(p_values, data):
    cut = data.draw(st.integers(1, len(p_values)))
    lines = [list(range(cut))] + [[index] for index in range(cut, len(p_values))]
    sizes = data.draw(st.lists(st.floats(0.01, 1), min_size=len(lines), max_size=len(lines)))
    weights = levels.parts(np.array(["own"] * len(lines)), np.array(sizes))

    got = levels.adjust(np.array(p_values), lines, weights)

    assert (got >= np.array(p_values) * (1 - 1e-9)).all()
    assert (got <= 1).all()
    assert (np.diff(got[:cut]) >= 0).all()  # nobody before the one that it calls


@pytest.mark.parametrize(
    ("p_values", "adjusted"),
    [
        # one line of half the level: its first is found, and passes its part on to the second
        ([0.004, 0.004, 0.9], [0.008, 0.008, 0.9]),
        # the first is not found: the second is not tested, however small
        ([0.9, 1e-9, 0.9], [1.0, 1.0, 1.0]),
        # the other line is found: its part goes to the line
        ([0.006, 0.5, 0.001], [0.006, 0.5, 0.002]),
    ],
)
def test_who_is_tested_and_when(p_values, adjusted):
    got = levels.adjust(np.array(p_values), [[0, 1], [2]], np.array([0.5, 0.5]))

    assert got == pytest.approx(adjusted)


def test_parts_by_group_and_size():
    groups = np.array(["own", "own", "total", "path", "path"])

    got = levels.parts(groups, np.array([0.3, 0.1, 0.9, 0.0, 0.0]))

    assert got == pytest.approx([0.5 * (0.75 + 0.5) / 2, 0.5 * (0.25 + 0.5) / 2, 0.3, 0.1, 0.1])
    assert got.sum() == pytest.approx(1)


@pytest.mark.parametrize(
    "groups", [["own"], ["total", "own"], ["path", "path"], ["own", "total", "path"]]
)
def test_parts_add_up_whatever_is_absent(groups):
    assert levels.parts(np.array(groups), np.full(len(groups), 0.2)).sum() == pytest.approx(1)


@pytest.mark.parametrize("together", [0.0, 0.6, 1.0], ids=["independent", "dependent", "the same"])
def test_the_family_wise_rate_is_kept_where_some_did_grow(together):
    """A fifth of 30 costs grew; how often is any other found? Three standard errors at most."""
    rng = np.random.default_rng(7)
    builds, count, level = 4000, 30, 0.05
    lines = [[0, 1, 2], [3, 4], *([index] for index in range(5, count))]
    weights = levels.parts(np.array(["own"] * len(lines)), np.arange(1, len(lines) + 1.0))
    grew = np.arange(count) % 5 == 0
    wrong = 0
    for _ in range(builds):
        z = np.sqrt(together) * rng.normal() + np.sqrt(1 - together) * rng.normal(size=count)
        p_values = noise.lower_tail(1e9, -(z + 4.0 * grew))
        wrong += bool((levels.adjust(p_values, lines, weights) <= level)[~grew].any())

    assert wrong / builds <= level + 3 * (level * (1 - level) / builds) ** 0.5
    assert wrong > 0  # it is not kept by finding nothing
