"""Bounds on false alarms that hold for a fitted detector with a given probability."""

import math

import numpy as np
import pytest
from sklearn.frozen import FrozenEstimator
from sklearn.linear_model import LogisticRegression

from skood.calibration import ConformalDetector, EnsembleDetector
from skood.calibration._p_values import n_needed, n_rejected_ranks, p_value_levels


@pytest.mark.parametrize(("n", "delta"), [(1, 0.1), (2, 0.3), (7, 0.1), (50, 0.05)])
def test_levels_by_the_definition(n, delta):
    """Products of fractions, as in Bates et al. (2023), section 3.2."""
    k = max(1, n // 2)
    expected = []
    for rank in range(1, n + 1):
        m = n + 1 - rank
        ratio = math.prod((m - j) / (n - j) for j in range(k)) if m >= k else 0.0
        expected.append(1 - delta ** (1 / k) * ratio ** (1 / k))
    levels = p_value_levels(n, delta)
    np.testing.assert_allclose(levels, [*expected, 1], rtol=1e-10)
    assert (np.diff(levels) >= 0).all()


@pytest.mark.parametrize("n", [20, 200])
def test_uniform_order_statistics_stay_below_the_levels(n):
    delta, n_sets = 0.1, 4000
    rng = np.random.default_rng(0)
    ordered = np.sort(rng.random((n_sets, n)), axis=1)
    rate = (ordered > p_value_levels(n, delta)[:n]).any(axis=1).mean()
    # Simes' inequality is an equality for independent values.
    assert rate == pytest.approx(delta, abs=4 * np.sqrt(delta * (1 - delta) / n_sets))


def test_large_sets_need_no_large_products():
    levels = p_value_levels(100_000, 0.1)
    assert np.isfinite(levels).all()
    assert (np.diff(levels) >= 0).all()
    assert n_rejected_ranks(1000, 0.05, 0.1) == 33


@pytest.mark.parametrize(("alpha", "delta"), [(0.05, 0.1), (0.1, 0.05), (0.3, 0.5)])
def test_fewest_rows(alpha, delta):
    needed = n_needed(alpha, delta)
    assert n_rejected_ranks(needed, alpha, delta) > 0
    assert n_rejected_ranks(needed - 2, alpha, delta) == 0


def frozen(column):
    return FrozenEstimator(column().fit(np.zeros((1, 1))))


def detectors(column):
    params = {"alpha": 0.1, "calibration": "training-conditional", "delta": 0.2}
    one, pair = frozen(column), [("a", frozen(column)), ("b", frozen(column))]
    return [ConformalDetector(one, **params), EnsembleDetector(pair, **params)]


@pytest.mark.parametrize("number", [0, 1], ids=["conformal", "ensemble"])
def test_rate_of_each_fitted_detector(number, column):
    """The rate on the uniform distribution is the threshold; it exceeds alpha in few fits."""
    rng = np.random.default_rng(0)
    detector = detectors(column)[number]
    grid = (np.arange(2000)[:, None] + 0.5) / 2000
    n_fits = 150
    exceeded = 0
    for _ in range(n_fits):
        detector.fit(rng.random((400, 1)))
        rate = np.mean(detector.predict(grid) == -1)
        p_values = detector.p_values(grid)
        np.testing.assert_array_equal(detector.predict(grid) == -1, p_values <= 0.1)
        exceeded += rate > 0.1
    assert exceeded / n_fits <= 0.2 + 4 * np.sqrt(0.2 * 0.8 / n_fits)


def test_all_levels_at_once(column):
    """The p-values of new rows are valid at every level, in most fits."""
    rng = np.random.default_rng(1)
    detector = detectors(column)[0]
    levels = np.linspace(0.01, 0.5, 50)
    n_fits, failed = 150, 0
    grid = (np.arange(2000)[:, None] + 0.5) / 2000
    for _ in range(n_fits):
        p_values = np.sort(detector.fit(rng.random((300, 1))).p_values(grid))
        rates = np.searchsorted(p_values, levels, side="right") / len(grid)
        failed += (rates > levels + 1 / len(grid)).any()
    assert failed / n_fits <= 0.2 + 4 * np.sqrt(0.2 * 0.8 / n_fits)


def test_probability_is_divided_among_classes(column):
    labels = FrozenEstimator(LogisticRegression().fit([[-1.0], [1.0]], [0, 1]))
    rng = np.random.default_rng(0)
    X = rng.normal(size=(600, 1))
    detector = ConformalDetector(
        frozen(column),
        alpha=0.1,
        calibration="training-conditional",
        delta=0.2,
        class_conditional=True,
        classifier=labels,
    ).fit(X)
    for label, scores in zip(detector.calibrated_classes_, detector.class_scores_, strict=True):
        rows = labels.predict(X) == label
        k = n_rejected_ranks(len(scores), 0.1, 0.1)
        assert np.sum(detector.p_values(X)[rows] <= 0.1) == k - 1
        assert np.sum(detector.predict(X)[rows] == -1) == k - 1


def test_cross_has_no_such_bound(column):
    detector = ConformalDetector(column(), method="cross", calibration="training-conditional")
    with pytest.raises(ValueError, match='"training-conditional" takes method="split"'):
        detector.fit(np.zeros((20, 1)))


def test_too_few_rows_name_the_number_that_is_needed(column):
    detector = ConformalDetector(frozen(column), calibration="training-conditional")
    with pytest.warns(UserWarning, match=r"no p-value is below 0\.2.*90 are needed"):
        detector.fit(np.arange(20.0)[:, None])
    assert (detector.predict([[-1e9]]) == 1).all()
