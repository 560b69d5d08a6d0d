"""The machine's speed is taken out, and nothing of the code with it."""

import numpy as np
import pytest

from ci_flame.diff import speed
from ci_flame.diff.speed import Clocks
from ci_flame.noise import Prior


def clocks(cost, *, rounds=50, seed=0, machine=1.0, jitter=0.1, fit=None, missing=()):
    """Rounds on a machine that drifts; each kind follows it up to its own misfit."""
    rng = np.random.default_rng(seed)
    drift = machine * np.exp(rng.normal(0, jitter, rounds))
    fit = {"core": 0.005, "memory": 0.10} if fit is None else fit
    references = {
        kind: 700_000.0 * drift * np.exp(rng.normal(0, misfit, rounds))
        for kind, misfit in fit.items()
    }
    for kind in missing:
        references[kind][:] = np.nan
    return Clocks(np.full(rounds, 100.0), 100 * cost * drift, references)


def sides(cost_before=1000.0, cost_after=1000.0, machine_after=1.0, **more):
    rng = np.random.default_rng(3)
    before = [clocks(cost_before, seed=s, machine=float(np.exp(rng.normal(0, 0.2))), **more)
              for s in range(5)]  # fmt: skip
    after = [clocks(cost_after, seed=s + 50, **more,
                    machine=machine_after * float(np.exp(rng.normal(0, 0.2))))
             for s in range(5)]  # fmt: skip
    return before, after


@pytest.mark.parametrize(
    ("fit", "expected"),
    [
        ({"core": 0.005, "memory": 0.1}, ("core",)),
        ({"core": 0.1, "memory": 0.005}, ("memory",)),
        ({"core": 0.05, "memory": 0.05}, ("core", "memory")),  # clearly better together
        ({"core": 0.05}, ("core",)),
        ({}, ()),
    ],
)
def test_the_kind_that_follows_the_benchmark_is_chosen(fit, expected):
    assert speed.choose_kinds(sides(fit=fit)) == expected


def test_a_kind_that_one_process_lacks_is_not_used():
    before, after = sides()
    after[2] = clocks(1000.0, missing=("core",))

    assert speed.choose_kinds((before, after)) == ("memory",)


def test_two_kinds_that_a_process_never_has_in_one_round_are_no_pair():
    before, after = sides(fit={"core": 0.05, "memory": 0.05})  # clearly better together
    even = np.arange(50) % 2 == 0
    for kind, there in (("core", even), ("memory", ~even)):
        before[0].references[kind][~there] = np.nan

    assert len(speed.choose_kinds((before, after))) == 1
    assert np.isfinite(speed.machine(before, after, None).log_cost_before).all()


def test_the_choice_does_not_depend_on_the_side():
    before, after = sides(fit={"core": 0.05, "memory": 0.045})

    assert speed.choose_kinds((before, after)) == speed.choose_kinds((after, before))


def drifting(by, *, processes=5, rounds=50, unlike=0.0, **more):
    """Processes whose cost rises evenly by `by` (of ln) from the first third to the last."""
    slope = np.linspace(-0.75, 0.75, rounds)
    side = [clocks(1000.0, rounds=rounds, seed=s, **more) for s in range(processes)]
    for number, each in enumerate(side):
        each.cpu_ns[:] *= np.exp(slope * (by + unlike * (number - processes // 2)))
    return side


@pytest.mark.parametrize(
    ("side", "expected"),
    [
        (drifting(0.06), 0.06),
        (drifting(-0.06), -0.06),
        (drifting(0.04), 0.0),
        (drifting(0.3, rounds=11), 0.0),  # too few rounds
        (drifting(0.06, unlike=0.06), 0.0),  # some processes fall
        (drifting(0.06, processes=1), 0.06),
    ],
)
def test_a_cost_that_depends_on_the_calls_before_it_is_seen(side, expected):
    assert speed.drift(side, ("core",)) == pytest.approx(expected, abs=0.01)


def test_a_single_step_back_and_forth_is_no_drift():
    side = [clocks(1000.0, rounds=60, seed=s) for s in range(5)]
    for each in side:
        each.cpu_ns[:20] *= 1.1
        each.cpu_ns[20:40] *= 1.3

    assert speed.drift(side, ("core",)) == 0.0


def test_without_a_reference_a_drift_may_be_the_machine_s():
    assert speed.drift(drifting(0.5), ()) == 0.0


@pytest.mark.parametrize("machine_after", [0.5, 1.0, 1.3, 3.0])
def test_a_slower_machine_is_no_growth(machine_after):
    got = speed.machine(*sides(machine_after=machine_after), None)

    growth = got.log_cost_after.mean() - got.log_cost_before.mean()
    assert got.anchor == "references"
    assert growth == pytest.approx(0, abs=0.01)
    assert got.raw_shift == pytest.approx(np.log(machine_after), abs=0.3)


def test_growth_of_everything_is_seen_through_the_references():
    got = speed.machine(*sides(cost_after=1300.0, machine_after=0.7), None)

    assert got.log_cost_after.mean() - got.log_cost_before.mean() == pytest.approx(
        np.log(1.3), abs=0.01
    )


def test_growth_in_one_round_of_five_is_not_left_out():
    """A median over rounds would not see it: no round is left out for its cost."""
    before, after = sides()
    for each in after:
        each.cpu_ns[::5] *= 3

    got = speed.machine(before, after, None)

    assert got.log_cost_after.mean() - got.log_cost_before.mean() == pytest.approx(
        np.log(1.4), abs=0.03
    )


def test_no_reference_and_no_centre_leave_the_machine_unknown():
    got = speed.machine(*sides(machine_after=1.5, fit={}), None)

    assert got.anchor == "shares"
    assert np.ptp(np.concatenate([got.log_cost_before, got.log_cost_after])) == 0
    assert got.error == got.raw_error > 0.1


def counts(rates, processes=5, seed=0, samples=4000):
    rng = np.random.default_rng(seed)
    rates = np.array(rates, dtype=float)
    return np.array(
        [rng.multinomial(samples, rates / rates.sum()) for _ in range(processes)], dtype=float
    ).T


EVEN = [20.0, 15, 15, 12, 10, 10, 9, 9]


@pytest.mark.parametrize(
    ("rates", "usable"),
    [
        (EVEN, True),
        ([40, 15, 15, 10, 10, 10], False),  # one above 35 %
        ([34, 20, 16, 15, 15], True),
        ([30, 30, 20, 20], False),  # four functions
        ([33, 33, 33, 0.5, 0.5], False),  # two of the five are too small
    ],
)
def test_when_functions_have_a_centre(rates, usable):
    before, after = counts(rates), counts(rates, seed=1)

    assert (speed.centre_of_functions(before, after, Prior(1.0, 0.0)) is not None) is usable


def test_the_centre_ignores_what_changed():
    grown = [each * (2.0 if index == 0 else 1.0) for index, each in enumerate(EVEN)]
    centre = speed.centre_of_functions(counts(EVEN), counts(grown, seed=1), Prior(1.0, 0.0))

    # Doubling 20 % takes 1 - 1/1.2 of everybody's share.
    assert centre is not None
    assert centre.shift == pytest.approx(-np.log(1.2), abs=0.015)


def test_the_centre_is_negated_when_the_sides_are_swapped():
    before, after = counts(EVEN), counts(EVEN[::-1], seed=1)
    there = speed.centre_of_functions(before, after, Prior(1.0, 0.02))
    back = speed.centre_of_functions(after, before, Prior(1.0, 0.02))

    assert (there is None) == (back is None)
    if there is not None:
        assert there.shift == pytest.approx(-back.shift, abs=1e-9)


def test_the_centre_helps_a_poor_reference_and_yields_when_everything_grew():
    centre = speed.centre_of_functions(counts(EVEN), counts(EVEN, seed=1), Prior(1.0, 0.0))
    poor = {"core": 0.15}

    alone = speed.machine(*sides(fit=poor, rounds=4), None)
    helped = speed.machine(*sides(fit=poor, rounds=4), centre)
    uniform = speed.machine(*sides(cost_after=1500.0), centre)

    assert helped.anchor == "references+functions"
    assert helped.error < alone.error
    assert uniform.anchor == "references"
    assert uniform.log_cost_after.mean() - uniform.log_cost_before.mean() == pytest.approx(
        np.log(1.5), abs=0.02
    )


def test_one_process_a_side_assumes_its_spread():
    before, after = sides()
    got = speed.machine(before[:1], after[:1], None)

    assert got.error == pytest.approx(speed.UNSEEN_CLOCK_SPREAD * np.sqrt(2))


@pytest.mark.parametrize(
    ("times_assumed", "weight"),
    [(0.0, 1.0), (1.0, 1.0), (2.5, 1.0), (5.0, 0.5), (25.0, 0.1)],
)
def test_the_assumed_spread_yields_where_the_processes_spread_far_wider(times_assumed, weight):
    squares = times_assumed * speed.CLOCK_SPREAD**2 * 8

    assert speed._believed(squares, 8) == pytest.approx(weight * speed.CLOCK_DEGREES)
    assert speed._believed(squares, 0) == speed.CLOCK_DEGREES


def test_a_clock_that_no_reference_follows_is_told_as_wide_as_it_is():
    """Five processes a side of a walk over memory, as recorded: equal code, 0.31 apart."""
    spread = np.array([0.02, -0.03, 0.05, -0.05, 0.01])
    fast = [clocks(float(np.exp(14.46 + each))) for each in spread]
    slow = [clocks(float(np.exp(14.77 + 4 * each))) for each in spread]
    made = speed.machine(fast, slow, None)

    assert made.degrees < speed.CLOCK_DEGREES / 2
    assert made.error > 0.05


# -- CPU time per iteration that somebody told -----------------------------------------


def test_a_told_clock_is_the_anchor_where_there_is_no_centre():
    before, after = sides(cost_after=3000.0, machine_after=1.0, fit={})
    got = speed.machine(before, after, None, given=True)

    assert got.anchor == "given"
    assert got.log_cost_after.mean() - got.log_cost_before.mean() == pytest.approx(
        got.raw_shift, abs=1e-12
    )
    assert got.raw_shift == pytest.approx(np.log(3), abs=0.5)
    assert got.error == pytest.approx(got.raw_error)  # never surer than such clocks are


def test_a_told_clock_overrules_a_centre_that_it_contradicts_and_no_other():
    centre = speed.centre_of_functions(counts(EVEN), counts(EVEN, seed=1), Prior(1.0, 0.0))
    same = speed.machine(*sides(machine_after=1.0, fit={}), centre, given=True)
    grown = speed.machine(*sides(cost_after=3000.0, machine_after=1.0, fit={}), centre, given=True)

    assert same.anchor == "given+functions"
    assert same.error < 0.05 < same.raw_error
    assert grown.anchor == "given"
    assert grown.log_cost_after.mean() - grown.log_cost_before.mean() == pytest.approx(
        grown.raw_shift, abs=1e-12
    )


def test_a_clock_that_nobody_told_is_no_anchor():
    centre = speed.centre_of_functions(counts(EVEN), counts(EVEN, seed=1), Prior(1.0, 0.0))
    both = sides(cost_after=3000.0, fit={})

    assert speed.machine(*both, centre).anchor == "functions"
    assert speed.machine(*both, None).anchor == "shares"


def test_references_are_better_than_a_told_clock():
    assert speed.machine(*sides(), None, given=True).anchor == "references"
