"""The spread between builds: what is measured, what is clipped, what is set aside."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ci_flame.noise import Estimates, between

ALL = np.array([True])


def levels(*values, error=0.01):
    """One row of ln costs, each known to within `error`."""
    row = np.array([values], dtype=float)
    return row, np.full_like(row, error**2)


def estimates(log_ratio, error, degrees=16.0):
    one = np.array([1.0])
    reach = 1.746 * error
    return Estimates(
        one, one * np.exp(log_ratio), one * log_ratio, one * error, one * degrees,
        one * log_ratio / error, np.expm1(one * log_ratio - reach),
        np.expm1(one * log_ratio + reach), one * 1000, one * 1000, one,
    )  # fmt: skip


@pytest.mark.parametrize(
    ("builds", "degrees"),
    [(0, 0.0), (1, 0.0), (2, 1.0), (3, 8 / 5), (10, 162 / 26)],
)
def test_degrees_of_successive_differences(builds, degrees):
    assert between.degrees_of(builds) == pytest.approx(degrees)


@pytest.mark.parametrize("spread", [0.0, 0.03, 0.10])
def test_typical_spread_is_the_true_one(spread):
    rng = np.random.default_rng(5)
    error = 0.02
    found = []
    for _ in range(60):
        true = rng.normal(0, spread, (6, 10)) if spread else np.zeros((6, 10))
        seen = true + rng.normal(0, error, true.shape)
        found.append(between.typical_variance(seen, np.full_like(seen, error**2)))

    assert np.sqrt(np.median(found)) == pytest.approx(spread, abs=0.015)


def test_a_step_of_the_code_is_no_spread():
    """Ten builds that agree to 1 %, and a commit in the middle that made it dearer by half."""
    rng = np.random.default_rng(1)
    quiet = rng.normal(0, 0.01, 10)
    stepped = quiet + np.where(np.arange(10) >= 5, 0.4, 0.0)
    same, _, _ = between.variances(*levels(*quiet), ALL)
    after, typical, _ = between.variances(*levels(*stepped), ALL)

    assert np.sqrt(typical) < 0.02
    assert np.sqrt(after[0]) < 0.03
    assert np.sqrt(same[0]) <= np.sqrt(after[0])
    assert between.disagreements(*levels(*stepped), ALL) == ()


@pytest.mark.parametrize(
    ("values", "bad"),
    [
        # The newest is off all the others: a bad recording, or a change. It is named.
        ((0.01, -0.01, 0.0, 0.02, 0.01, -0.01, 0.0, 0.01, 0.0, 0.25), [9]),
        ((0.01, -0.01, 0.0, 0.02, 0.01, -0.01, 0.0, 0.01, 0.0, -0.25), [9]),
        # One in the middle is off those before it and those after it.
        ((0.01, -0.01, 0.0, 0.02, 0.25, -0.01, 0.0, 0.01, 0.0, 0.01), [4]),
        # The one after a change agrees with it: the change is the code's.
        ((0.01, -0.01, 0.0, 0.02, 0.01, -0.01, 0.0, 0.01, 0.25, 0.26), []),
        # As far off as builds of this benchmark are from one another anyway.
        ((0.1, -0.15, 0.2, -0.1, 0.15, -0.2, 0.1, -0.1, 0.2, -0.25), []),
        # Within the noise of a recording.
        ((0.01, -0.01, 0.0, 0.02, 0.01, -0.01, 0.0, 0.01, 0.0, 0.03), []),
        # Drift is no disagreement.
        (tuple(0.02 * n for n in range(10)), []),
        # Two others are not enough to be right against one.
        ((0.0, 0.01, 0.4), []),
        # With three they are.
        ((0.0, 0.01, -0.01, 0.4), [3]),
    ],
)
def test_recordings_that_disagree(values, bad):
    found = between.disagreements(*levels(*values), ALL)

    assert [each.build for each in found] == bad
    for each in found:
        assert np.sign(each.shift) == np.sign(values[each.build])


def test_good_recordings_are_rarely_set_aside():
    rng = np.random.default_rng(3)
    newest = 0
    for _ in range(300):
        seen = rng.normal(0, 0.03, (5, 8)) + rng.normal(0, 0.02, (5, 8))
        found = between.disagreements(seen, np.full((5, 8), 0.02**2), np.ones(5, dtype=bool))
        newest += any(each.build == 7 for each in found)

    assert newest <= 9  # 1 % is nominal; more than nine of 300 happen once in 2,000 runs


def test_what_is_missing_is_left_out():
    row, noise = levels(0.0, np.nan, 0.01, -0.01)
    rows, typical, degrees = between.variances(row, noise, ALL)
    nothing, _, _ = between.variances(*levels(np.nan, np.nan), ALL)

    assert np.isfinite([rows[0], typical, degrees, nothing[0]]).all()


@given(
    spread=st.floats(0, 0.5), degrees=st.floats(1, 30), growth=st.floats(-1, 1),
    error=st.floats(0.001, 0.5),
)  # fmt: skip
def test_an_interval_is_never_narrower(spread, degrees, growth, error):
    single = estimates(growth, error)
    wide = between.widen(single, np.array([spread**2]), degrees)

    assert wide.standard_error[0] >= single.standard_error[0]
    assert wide.low[0] <= single.low[0] + 1e-12
    assert wide.high[0] >= single.high[0] - 1e-12
    assert abs(wide.t[0]) <= abs(single.t[0]) + 1e-12
    assert wide.log_ratio[0] == single.log_ratio[0]


def test_no_spread_changes_nothing():
    single = estimates(0.2, 0.03)
    wide = between.widen(single, np.array([0.0]), 8.0)

    assert wide.standard_error[0] == pytest.approx(single.standard_error[0])
    assert wide.degrees[0] == pytest.approx(single.degrees[0])
    assert (wide.low[0], wide.high[0]) == pytest.approx((single.low[0], single.high[0]))


def test_what_is_new_or_gone_stays_without_bound():
    single = estimates(0.2, 0.03)
    new = between.widen(
        Estimates(
            single.before * 0, single.after, single.log_ratio + np.inf, single.standard_error,
            single.degrees, single.t, single.low, single.high + np.inf, single.samples_before,
            single.samples_after, single.dispersion,
        ),
        np.array([0.01]),
        8.0,
    )  # fmt: skip

    assert new.high[0] == np.inf
    assert np.isfinite(new.low[0])
    assert new.log_ratio[0] == np.inf
