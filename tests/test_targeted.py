"""record/targeted.py: suspects timed call by call, under every CPython that is here."""

import json
import subprocess
from functools import cache
from pathlib import Path

import pytest
import yaml
from interpreters import ROOT, every_interpreter

PROGRAM = Path(__file__).parent / "timed.py"
BURNT = 100_000
"""ns of CPU time that the program's smallest piece of work uses at least."""


@cache
def told_by(python, folder):
    (folder / "yaml").symlink_to(Path(yaml.__file__).parent)
    done = subprocess.run(
        [python, "-S", PROGRAM, ROOT, folder],
        capture_output=True,
        text=True,
        check=False,
        timeout=120,
    )
    assert (done.returncode, done.stderr) == (0, "")
    return json.loads(done.stdout)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("libraries")


@pytest.fixture(params=every_interpreter())
def told(request, folder):
    if request.param is None:
        pytest.skip("no such CPython here")
    place = folder / str(request.param).replace("/", "_")
    place.mkdir(exist_ok=True)
    return told_by(request.param, place)


@pytest.fixture
def timed(told):
    """What was timed; on Python 3.11 nothing is, and it says so."""
    if not told["monitors"]:
        why = "Python 3.11 cannot time single functions, 3.12 can"
        assert set(told["first"]["left_out"].values()) == {why}
        assert not any(each["functions"] for each in told.values() if isinstance(each, dict))
        return None
    return told


def test_calls_and_time_are_those_of_the_outermost_calls(timed):
    if timed is None:
        return
    first = timed["first"]["functions"]
    calls = {name: each[0] for name, each in first.items()}

    assert calls == {"caller": 1, "leaf": 2, "recursive": 4, "numbers": 1}
    assert first["leaf"][1] >= 4 * BURNT
    assert first["caller"][1] >= first["leaf"][1] + BURNT
    # Each level once: with every level's callees added up again it would be ten pieces.
    assert 4 * BURNT <= first["recursive"][1] < 9 * BURNT
    assert first["numbers"][1] >= 3 * BURNT
    assert timed["first"]["event_ns"] > 0
    assert timed["first"]["rounds"] >= 3


def test_generators_coroutines_and_exceptions_are_stretches_that_add_up(timed):
    if timed is None:
        return
    second = timed["second"]["functions"]
    calls = {name: each[0] for name, each in second.items()}

    assert calls == {"nested": 1, "inner": 2, "raises": 1, "thrown": 1}
    assert second["nested"][1] >= 3 * BURNT
    # Two coroutines of two pieces each; what the other one did meanwhile is not theirs.
    assert 4 * BURNT <= second["inner"][1] < 8 * BURNT
    assert BURNT <= second["raises"][1] < 3 * BURNT
    assert BURNT <= second["thrown"][1] < 3 * BURNT


def test_every_thread_is_timed_by_its_own_clock(timed):
    if timed is None:
        return
    calls, ns = timed["threads"]["functions"]["leaf"]

    assert calls == 3
    assert ns >= 6 * BURNT


def test_only_what_is_inside_the_block_is_timed(timed):
    if timed is None:
        return
    assert timed["block"]["functions"]["leaf"][0] == 1
    assert timed["entered"]["functions"]["leaf"][0] == 1
    assert timed["entered"]["left_out"] == {
        "timed:opens": "it is entered before the measured block"
    }


def test_what_is_not_timed_is_said(timed):
    if timed is None:
        return
    assert timed["many"]["left_out"].keys() == {"timed:often"}
    assert "times a second; above 20,000" in timed["many"]["left_out"]["timed:often"]
    assert timed["many"]["functions"].keys() == {"leaf"}
    assert timed["anew"]["left_out"] == {"timed:made": "its code is made anew in every iteration"}
    assert timed["anew"]["functions"].keys() == {"spin"}
    assert timed["native"]["left_out"] == {
        "native:libc:memcpy": "it is no Python function",
        "timed:never": "it was not called in the iterations that looked for it",
    }
    raised = "the benchmark raised TimeoutError while it was timed"
    assert timed["fails"]["left_out"] == {"timed:leaf": raised}
    assert timed["taken"]["left_out"]["timed:leaf"].startswith("all six tools of sys.monitoring")
    assert timed["nobody"] is None
