"""Profiles that share a list of stacks are what dicts of the same stacks are."""

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st
from synthetic import SHOP, grown, synthetic_measurement

from ci_flame.diff import diff_benchmark
from ci_flame.formats import pprof
from ci_flame.profile import Listed, Measurement, Mode, Profile, Stack, Unit, Weight
from ci_flame.profile.frame import Frame

STACKS: tuple[Stack, ...] = tuple(
    tuple(Frame(f"f{depth}_{number}", "m") for depth in range(number + 1)) for number in range(6)
)
WEIGHTS = st.builds(Weight, st.integers(0, 50), st.integers(0, 10**9))


def listed(stacks: dict[Stack, Weight]) -> Listed:
    """Return the same over the list of all stacks."""
    numbers = [STACKS.index(stack) for stack in stacks]
    return Listed(STACKS, numbers, list(stacks.values()))


@given(st.dictionaries(st.sampled_from(STACKS), WEIGHTS))
def test_a_listed_profile_is_the_dict_of_its_stacks(stacks: dict[Stack, Weight]) -> None:
    made = listed(stacks)

    assert made == stacks
    assert dict(made) == stacks
    assert list(made.items()) == list(stacks.items())
    assert list(made.values()) == list(stacks.values())
    assert len(made) == len(stacks)
    assert all((stack in made) == (stack in stacks) for stack in STACKS)
    assert Profile(made).samples == Profile(stacks).samples


def test_what_is_not_in_it_is_not_found() -> None:
    made = listed({STACKS[1]: Weight(1, 5)})

    assert made[STACKS[1]] == Weight(1, 5)
    with pytest.raises(KeyError):
        made[STACKS[2]]


def test_names_of_frames_make_their_hash() -> None:
    assert hash(Frame("f", "m")) == hash(Frame("f", "m"))
    assert len({Frame("f", "m"), Frame("f", "n"), Frame.parse("native:m:f")}) == 3


def read_back(measurement: Measurement) -> Measurement:
    """Return a measurement with the profiles that are read from its file."""
    read = pprof.read(pprof.write(measurement, Mode.ON_CPU), "a file").profiles
    processes = tuple(
        replace(
            process,
            rounds=tuple(
                replace(
                    each,
                    profiles={
                        Mode.ON_CPU: Profile(
                            read[number, position].stacks, Unit.NANOSECONDS, each.iterations
                        )
                    },
                )
                for position, each in enumerate(process.rounds)
            ),
        )
        for number, process in enumerate(measurement.processes)
    )
    return replace(measurement, processes=processes)


def test_what_was_read_differs_as_what_was_recorded_does() -> None:
    before = synthetic_measurement(SHOP, seed=1)
    after = synthetic_measurement(grown(SHOP, "json:dumps", 1.5), seed=2)
    recorded = diff_benchmark(before, after, Mode.ON_CPU)
    both = diff_benchmark(read_back(before), read_back(after), Mode.ON_CPU)
    one = diff_benchmark(before, read_back(after), Mode.ON_CPU)

    assert isinstance(read_back(before).processes[0].rounds[0].profiles[Mode.ON_CPU].stacks, Listed)
    assert tuple(both.frames) == tuple(recorded.frames)
    assert tuple(one.paths) == tuple(recorded.paths)


def test_what_only_a_dropped_round_holds_is_not_compared() -> None:
    before = synthetic_measurement(SHOP, seed=1)
    only = SHOP | {"bench_shop:test_checkout;shop.log:write": 50_000.0}
    after = synthetic_measurement(SHOP, seed=2)
    other = synthetic_measurement(only, seed=3).processes[0].rounds[0]
    first = after.processes[0]
    dropped = replace(first, rounds=(replace(other, dropped="the machine was busy"), *first.rounds))
    read = read_back(replace(after, processes=(dropped, *after.processes[1:])))

    names = {str(each.frame) for each in diff_benchmark(before, read, Mode.ON_CPU).frames}

    assert "shop.log:write" not in names
    assert "shop.render:page" in names
