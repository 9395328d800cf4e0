"""Ranks among calibration scores."""

import numpy as np
import pytest

from skood.calibration._p_values import (
    conformal_p_values,
    n_rejected_ranks,
    smooth_p_values,
    threshold_at,
)


def test_smooth_p_values_by_hand():
    """A score among equal ones has the rank in their middle."""
    calibration = np.array([0.0, 1, 1, 1, 2])
    scores = np.array([-3.0, 0, 0.5, 1, 1.5, 2, 5])
    # Half of the scores lie between 1 and 1: the unit of distance is then 1.
    expected = np.array([1 / 4, 1, 2, 3, 4, 5, 6 - 1 / 4]) / 6
    np.testing.assert_allclose(smooth_p_values(calibration, scores), expected)


def test_smooth_p_values_are_near_the_exact_ones():
    rng = np.random.default_rng(0)
    calibration, scores = np.sort(rng.normal(size=40)), np.sort(rng.normal(0, 2, size=500))
    smooth = smooth_p_values(calibration, scores)
    exact = conformal_p_values(calibration, scores)
    assert (smooth <= exact).all()
    assert (exact <= smooth + 1 / 41 + 1e-12).all()
    assert (np.diff(smooth) > 0).all()
    far = smooth_p_values(calibration, np.array([-1e300, -1e9, 1e9, 1e300]))
    assert 0 < far[0] < far[1] < 1e-9
    assert 1 - 1e-9 < far[2] <= far[3] <= 1


@pytest.mark.parametrize(("n", "alpha", "expected"), [(18, 0.05, 0), (19, 0.05, 1), (99, 0.29, 29)])
def test_rejected_ranks(n, alpha, expected):
    """29 / 100 is at most 0.29, though 0.29 * 100 is less than 29 in floats."""
    assert n_rejected_ranks(n, alpha) == expected
    calibration = np.arange(1.0, n + 1)
    assert threshold_at(calibration, alpha) == (expected or -np.inf)
