"""Rounds become columns: what counts, and where in the call tree."""

from dataclasses import replace

import numpy as np
import pytest
from synthetic import SHOP, stack_of, synthetic_measurement

from ci_flame.diff.evidence import collect
from ci_flame.profile import Frame, Mode, Profile, Round, Unit, Weight


def measurement(*rounds):
    base = synthetic_measurement(SHOP, processes=1)
    return replace(base, processes=(replace(base.processes[0], rounds=rounds),))


def recorded(stacks, **fields):
    profile = Profile(
        {stack_of(text): Weight(count, count * 500_000) for text, count in stacks.items()},
        Unit.NANOSECONDS,
        10,
    )
    return Round(
        **({"iterations": 10, "cpu_ns": 10**7, "wall_ns": 10**7} | fields),
        profiles={Mode.ON_CPU: profile},
    )


def names(evidence):
    return [str(frame) for frame in evidence.frames]


def test_samples_by_function_with_recursion_once():
    got = collect(
        [measurement(recorded({"m:a": 1, "m:a;m:b": 2, "m:a;m:b;m:a;m:b": 4}))], Mode.ON_CPU
    )
    side = got.sides[0]

    assert names(got) == ["m:a", "m:b"]
    assert side.frame_own[:, 0].tolist() == [1, 6]
    assert side.frame_total[:, 0].tolist() == [7, 6]
    assert side.total.tolist() == [7]


def test_frames_that_are_equal_but_not_the_same_object_are_one():
    rounds = [recorded({"m:a;m:b": 3}), recorded({"m:a;m:b": 4})]

    assert collect([measurement(*rounds)], Mode.ON_CPU).sides[0].frame_own[:, 0].tolist() == [0, 7]


def test_below_marks_what_is_called_from_a_node():
    got = collect([measurement(recorded({"m:a;m:b;m:c": 1, "m:a;m:d": 1}))], Mode.ON_CPU)
    here = got.node_frame == names(got).index("m:b")

    below = got.below(here)
    paths = {";".join(map(str, got.path(int(node)))) for node in np.flatnonzero(below)}
    assert paths == {"m:a;m:b", "m:a;m:b;m:c"}


def test_pictures_keep_what_the_judge_charges_to_python():
    leaf = "native:libpython3.11.so.1.0:lookdict"
    got = collect([measurement(recorded({f"m:a;{leaf}": 5, "m:a": 2}))], Mode.ON_CPU)
    side = got.sides[0]

    assert names(got) == ["m:a"]
    assert side.frame_own[:, 0].tolist() == [7]
    assert side.node_total[got.judged, 0].tolist() == [7]
    assert side.node_total[~got.judged, 0].tolist() == [5]
    assert got.path(int(np.flatnonzero(~got.judged)[0]))[-1] == Frame.parse(leaf)


@pytest.mark.parametrize(
    ("fields", "cost_ns"),
    [
        ({}, 10**7),
        ({"cpu_ns": 0}, 4 * 500_000),  # no clock: what was sampled
    ],
)
def test_the_cost_of_a_round(fields, cost_ns):
    got = collect([measurement(recorded({"m:a": 4}, **fields))], Mode.ON_CPU)

    assert got.sides[0].clocks[0].cpu_ns.tolist() == [cost_ns]


@pytest.mark.parametrize(
    "rounds",
    [
        (),
        (recorded({"m:a": 4}, dropped="run-queue delay"),),
        (recorded({}),),
        (Round(10, 10**7, 10**7),),
    ],
    ids=["none", "dropped", "no samples", "other mode"],
)
def test_processes_that_do_not_count(rounds):
    side = collect([measurement(*rounds)], Mode.ON_CPU).sides[0]

    assert side.clocks == ()
    assert side.left_out == 1


def test_references_are_the_median_of_their_repetitions_or_missing():
    rounds = (
        recorded({"m:a": 4}, references={"core": (100, 300, 200), "memory": (50,)}),
        recorded({"m:a": 4}, references={"core": (400,), "memory": ()}),
    )
    clocks = collect([measurement(*rounds)], Mode.ON_CPU).sides[0].clocks[0]

    assert clocks.references["core"].tolist() == [200, 400]
    assert clocks.references["memory"][0] == 50
    assert np.isnan(clocks.references["memory"][1])
