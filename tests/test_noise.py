"""Variances, tests and intervals against figures that are known."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from ci_flame import noise
from ci_flame.noise import Machine, Prior


def machine(before=(0.0,) * 5, after=(0.0,) * 5, variance=0.0, systematic=0.0):
    return Machine(
        "references", ("core",), np.array(before), np.array(after), variance, systematic, 0.0,
        0.0, 0.2,
    )  # fmt: skip


def counts(*rows):
    return np.array(rows, dtype=float)


def test_holm_against_the_textbook():
    adjusted = noise.holm(np.array([0.01, 0.04, 0.03, 0.005]))

    assert adjusted.tolist() == pytest.approx([0.03, 0.06, 0.06, 0.02])


def test_benjamini_hochberg_against_scipy():
    p_values = np.array([0.01, 0.04, 0.03, 0.005, 0.5])

    assert noise.benjamini_hochberg(p_values) == pytest.approx(
        stats.false_discovery_control(p_values)
    )


def test_adjusting_nothing_gives_nothing():
    assert noise.holm(np.array([])).size == 0
    assert noise.benjamini_hochberg(np.array([])).size == 0


def test_many_processes_agree_with_a_plain_t_test_on_logs():
    rng = np.random.default_rng(1)
    total = np.full((2, 60), 1e6)
    f = np.array([100_000.0, 110_000.0])[:, None] * np.exp(rng.normal(0, 0.05, (2, 60)))
    prior = Prior(1.0, 0.05, degrees=1e-6)

    got = noise.compare(
        np.vstack([total[0], f[0]]),
        np.vstack([total[1], f[1]]),
        machine((0.0,) * 60, (0.0,) * 60),
        prior,
    )

    plain = stats.ttest_ind(np.log(f[1]), np.log(f[0]))
    assert got.t[1] == pytest.approx(plain.statistic, rel=0.05)
    assert got.log_ratio[1] == pytest.approx(np.log(f[1].sum() / f[0].sum()))
    assert got.degrees[1] == pytest.approx(118)


def test_large_poisson_counts_agree_with_the_binomial():
    before, after = counts([10_000] * 5, [1000] * 5), counts([10_000] * 5, [1100] * 5)

    got = noise.compare(before, after, machine(), Prior(1.0, 0.0, degrees=1e9))

    # Dispersion 0.9: a share of 10 % leaves 90 % of the Poisson variance.
    assert got.dispersion[1] == pytest.approx(0.895, abs=0.01)
    expected = np.log(1.1) / np.sqrt(got.dispersion[1] * (1 / 5000 + 1 / 5500))
    assert got.t[1] == pytest.approx(expected, rel=0.01)


def test_new_and_gone_are_exact():
    before, after = counts([1000] * 5, [0] * 5, [30] * 5), counts([1000] * 5, [30] * 5, [0] * 5)

    got = noise.compare(before, after, machine(), Prior(1.0, 0.0))

    assert got.log_ratio.tolist()[1:] == [np.inf, -np.inf]
    assert got.high[1] == np.inf
    assert got.low[1] > 10  # at least tenfold: it was below half a sample
    assert got.low[2] == -1.0
    assert got.high[2] < -0.9
    assert got.t[1] == pytest.approx(-got.t[2])
    assert got.p_value[1] < 1e-6


def test_what_neither_side_saw_did_not_change():
    got = noise.compare(counts([100] * 3, [0] * 3), counts([100] * 3, [0] * 3),
                        machine((0.0,) * 3, (0.0,) * 3), Prior(1.0, 0.0))  # fmt: skip

    assert got.log_ratio[1] == 0
    assert got.p_value[1] == 1


def test_one_sample_is_no_evidence():
    got = noise.compare(counts([1000] * 5, [0] * 5), counts([1000] * 5, [1, 0, 0, 0, 0]),
                        machine(), Prior(1.0, 0.0))  # fmt: skip

    assert got.p_value[1] > 0.1


@given(
    st.lists(st.integers(0, 500), min_size=5, max_size=5),
    st.lists(st.integers(0, 500), min_size=5, max_size=5),
)
def test_swapping_the_sides_negates(one, other):
    before, after = counts([1000] * 5, one), counts([1000] * 5, other)
    prior = noise.fit_prior(before[1:], after[1:])

    there = noise.compare(before, after, machine(), prior)
    back = noise.compare(after, before, machine(), prior)

    assert there.log_ratio[1] == pytest.approx(-back.log_ratio[1])
    assert there.t[1] == pytest.approx(-back.t[1], abs=1e-9)
    assert there.standard_error[1] == pytest.approx(back.standard_error[1])


def test_noisier_processes_widen_the_interval():
    steady, noisy = [100, 101, 99, 100, 100], [60, 140, 99, 130, 71]
    total = [1000] * 5

    quiet = noise.compare(counts(total, steady), counts(total, steady), machine(), Prior(1.0, 0.0))
    loud = noise.compare(counts(total, noisy), counts(total, noisy), machine(), Prior(1.0, 0.0))

    assert loud.standard_error[1] > 2 * quiet.standard_error[1]


def test_systematic_error_is_not_averaged_away():
    total, f = [10**6] * 5, [10**5] * 5

    without = noise.compare(counts(total, f), counts(total, f), machine(), Prior(1.0, 0.0))
    with_it = noise.compare(
        counts(total, f), counts(total, f), machine(systematic=0.02), Prior(1.0, 0.0)
    )

    assert without.standard_error[1] < 0.01
    assert 0.02 < with_it.standard_error[1] < 0.021


@pytest.mark.parametrize(("dispersion", "spread"), [(0.3, 0.0), (1.0, 0.03), (2.5, 0.05)])
def test_the_trend_of_variances_is_found(dispersion, spread):
    rng = np.random.default_rng(7)
    mean = np.geomspace(20, 4000, 60)
    sides = []
    for _ in range(2):
        sd = np.sqrt(dispersion * mean + (spread * mean) ** 2)
        sides.append(np.maximum(mean[:, None] + rng.normal(0, 1, (60, 12)) * sd[:, None], 0))

    prior = noise.fit_prior(*sides)

    assert prior.poisson == pytest.approx(dispersion, rel=0.35)
    assert prior.spread == pytest.approx(spread, abs=0.012)


def test_one_process_a_side_assumes_and_two_measure():
    one = np.array([[100.0], [300.0]])

    assert noise.fit_prior(one, one) == Prior(1.0, noise.UNSEEN_SPREAD)
    assert noise.fit_prior(np.hstack([one, one]), one) != Prior(1.0, noise.UNSEEN_SPREAD)


def test_visible_growth_grows_with_the_error_and_with_the_family():
    small = noise.visible_growth(0.02, 16.0, 0.005)
    large = noise.visible_growth(0.04, 16.0, 0.005)
    many = noise.visible_growth(0.02, 16.0, 0.0001)

    assert small < large
    assert small < many


@pytest.mark.parametrize(("log_ratio", "expected"), [(0.1, 0.5), (10.0, 1.0), (-10.0, 0.0)])
def test_probability_above(log_ratio, expected):
    got = float(noise.probability_above(log_ratio, 0.05, 16.0, 0.1))

    assert got == pytest.approx(expected, abs=1e-6)


def test_probability_of_what_is_new_or_gone():
    assert float(noise.probability_above(np.inf, 0.1, 16.0, 0.1)) == pytest.approx(1)
    assert float(noise.probability_above(-np.inf, 0.1, 16.0, 0.1)) == pytest.approx(0)


def test_shares_of_one_side():
    got = noise.shares(counts([1000] * 4, [300] * 4, [1000] * 4), Prior(1.0, 0.0))

    assert got.share.tolist() == [1.0, 0.3, 1.0]
    assert got.standard_error[1] > 0
    assert got.standard_error[2] == 0  # all of it is all of it


@pytest.mark.parametrize(
    ("quiet_variance", "expected"),
    [(1.0, 8.0), (0.0, 4.0), (0.1, 4 * 1.1**2 / 1.01)],  # alike; one side says nothing; between
)
def test_a_quiet_side_does_not_vouch_for_a_wild_one(quiet_variance, expected):
    four = np.array([4.0])
    degrees = noise.satterthwaite(four, four, four * quiet_variance, four)

    assert degrees.tolist() == pytest.approx([expected])


def test_sides_of_unlike_spread_have_fewer_degrees_and_as_many_when_swapped():
    wild, quiet = [700, 1300, 900, 1500, 600], [1000, 1010, 990, 1005, 995]
    rest = np.full(5, 10_000.0)
    one, other = (counts(rest, np.array(row)) for row in (quiet, wild))
    prior = Prior(1.0, 0.02)

    forth = noise.compare(one, other, machine(), prior)
    back = noise.compare(other, one, machine(), prior)
    alike = noise.compare(other, other, machine(), prior)

    assert forth.degrees[1] < alike.degrees[1]
    assert forth.degrees[1] == pytest.approx(back.degrees[1])
