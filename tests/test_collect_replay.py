"""Replay: a stored run stands in for a machine, without any privilege."""

import pytest
from synthetic import synthetic_measurement
from test_baseline_folder import ENVIRONMENT

from ci_flame.baseline import folder
from ci_flame.collect import COLLECTORS, Target, choose, machine, replay
from ci_flame.errors import BaselineError, CollectError
from ci_flame.profile import Run

BENCHMARK = "tests/bench_shop.py::test_checkout"


def stored(place, *benchmarks):
    made = tuple(
        synthetic_measurement({"t:bench;shop:f": 600.0, "t:bench;shop:g": 400.0}, benchmark=each)
        for each in benchmarks
    )
    folder.save(Run(ENVIRONMENT, made), place)
    return made


@pytest.fixture
def run(tmp_path):
    return stored(tmp_path / "run", BENCHMARK, "tests/bench_shop.py::test_login")


def test_measurement_is_what_was_stored(run, tmp_path):
    assert replay.measurement(tmp_path / "run", BENCHMARK) == run[0]
    assert replay.load(tmp_path / "run").measurements == run


def test_folder_is_read_again_when_it_was_written_again(run, tmp_path):
    assert replay.measurement(tmp_path / "run", BENCHMARK) == run[0]
    again = stored(tmp_path / "run", "other")

    assert replay.load(tmp_path / "run").measurements == again


def test_folder_is_read_once_for_all_benchmarks(run, tmp_path):
    assert replay.load(tmp_path / "run") is replay.load(tmp_path / "run")


@pytest.mark.parametrize(
    ("wanted", "hint"),
    [
        ("tests/bench_shop.py::test_checkuot", f"did you mean {BENCHMARK}?"),
        ("x", f"it holds: {BENCHMARK}, tests/bench_shop.py::test_login"),
    ],
)
def test_benchmark_that_is_not_there_is_named_with_the_nearest(run, tmp_path, wanted, hint):
    with pytest.raises(CollectError, match=f"holds no recording of {wanted}") as error:
        replay.measurement(tmp_path / "run", wanted)
    assert error.value.hint == hint
    assert error.value.exit_code == 3


def test_long_list_is_cut_and_an_empty_one_is_said(tmp_path):
    stored(tmp_path / "many", *(f"b{number}" for number in range(6)))
    stored(tmp_path / "none")
    hints = []
    for name in ("many", "none"):
        with pytest.raises(CollectError) as error:
            replay.measurement(tmp_path / name, "zzzz")
        hints.append(error.value.hint)

    assert hints == ["it holds: b0, b1, b2, b3, b4, …", "it holds: nothing"]


def test_missing_folder_is_a_baseline_error(tmp_path):
    with pytest.raises(BaselineError, match="there is no such folder"):
        replay.measurement(tmp_path / "nothing", BENCHMARK)


@pytest.mark.parametrize("python", [True, False])
def test_it_works_everywhere_but_only_when_asked_for(python):
    found = machine.probe()

    assert choose(found, python=python, wanted="replay").name == "replay"
    assert COLLECTORS["replay"].obstacle(found, python=python) is None


def test_it_samples_nothing():
    with pytest.raises(CollectError, match="replay samples no process"):
        COLLECTORS["replay"].start(Target(1, python=True))
