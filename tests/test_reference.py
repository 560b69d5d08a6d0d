"""The reference work: fixed, short, and of every kind that the judge may ask for."""

import subprocess
import sys

import pytest

from ci_flame.record import reference


@pytest.fixture(autouse=True)
def _prepared():
    reference.prepare()


def test_measures_every_kind_as_often_as_promised():
    times = reference.measure()

    assert tuple(times) == reference.KINDS
    assert {kind: len(each) for kind, each in times.items()} == reference.REPETITIONS
    assert all(isinstance(ns, int) and ns > 0 for each in times.values() for ns in each)


def test_the_work_is_fixed():
    # Whoever changes what a kind does gives it a new name, so that only the same work is compared.
    assert reference.KINDS == ("core", "memory", "kernel")
    assert reference._core() == 118_649_034
    assert reference._Memory().work() == 1_265_270_594


def test_memory_work_walks_on_and_comes_round():
    memory = reference._Memory()
    lap = [memory.work() for _ in range(64)]

    assert sum(lap) == sum(range(1_000, 401_000))  # every object once: all laps are alike
    assert memory.work() == lap[0]


def test_preparing_twice_allocates_once():
    before = reference._memory
    reference.prepare()

    assert reference._memory is before


def test_the_benchmark_s_random_numbers_are_left_alone():
    script = (
        "import random; random.seed(7); a = random.random();"
        "random.seed(7); from ci_flame.record import reference; reference.prepare();"
        "reference.measure(); assert random.random() == a"
    )
    done = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, check=False
    )

    assert done.stderr == ""


def test_measuring_unprepared_is_refused():
    script = (
        "from ci_flame.record import reference\n"
        "try: reference.measure()\n"
        "except ValueError as error: print(error)"
    )
    done = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, check=False
    )

    assert done.stdout == "reference.prepare() must run before reference.measure()\n"
