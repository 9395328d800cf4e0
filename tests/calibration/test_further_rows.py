"""Calibration rows that come in batches give what all of them at once give."""

import numpy as np
import pytest
from sklearn.frozen import FrozenEstimator
from sklearn.linear_model import LogisticRegression

import skood
from skood.calibration import ConformalDetector


@pytest.fixture
def data():
    rng = np.random.default_rng(0)
    y = rng.integers(3, size=400)
    return rng.normal(size=(400, 4)) + 4 * np.eye(3, 4)[y], y


SETTINGS = [
    {"alpha": 0.1},
    {"alpha": 0.1, "calibration": "training-conditional"},
    {"alpha": 0.1, "class_conditional": True},
]


@pytest.mark.parametrize("settings", SETTINGS, ids=["split", "conditional", "classes"])
def test_batches_give_what_one_fit_gives(settings, data):
    X, y = data
    trained = FrozenEstimator(skood.MSP(LogisticRegression()).fit(X[:100], y[:100]))
    whole = ConformalDetector(trained, **settings).fit(X[100:])
    streamed = ConformalDetector(trained, **settings)
    for start in range(100, 400, 75):
        assert streamed.partial_fit(X[start : start + 75]) is streamed
    assert streamed.n_calibration_ == 300
    np.testing.assert_array_equal(streamed.calibration_scores_[0], whole.calibration_scores_[0])
    assert streamed.offset_ == whole.offset_
    np.testing.assert_array_equal(streamed.p_values(X), whole.p_values(X))
    np.testing.assert_array_equal(streamed.score_samples(X), whole.score_samples(X))
    np.testing.assert_array_equal(streamed.predict(X), whole.predict(X))


def test_rows_after_a_fit_calibrate_and_are_not_learned(data):
    X, y = data
    detector = ConformalDetector(skood.Mahalanobis(), random_state=0).fit(X[:200], y[:200])
    before, n_before = detector.score_samples(X), detector.n_calibration_
    outlying = np.where(np.arange(200) % 4 == 0, -1, y[200:])
    detector.partial_fit(X[200:], outlying)
    np.testing.assert_array_equal(detector.score_samples(X), before)
    assert detector.n_calibration_ == n_before + 150


def test_rate_of_false_alarms():
    rng = np.random.default_rng(0)
    rates = []
    for seed in range(40):
        X, new = rng.normal(size=(600, 6)), rng.normal(size=(1000, 6))
        detector = ConformalDetector(skood.Mahalanobis(), random_state=seed).fit(X[:200])
        for start in range(200, 600, 100):
            detector.partial_fit(X[start : start + 100])
        rates.append(np.mean(detector.predict(new) == -1))
    error = np.std(rates) / np.sqrt(len(rates))
    # The bound, and what it loses to whole ranks.
    assert 0.05 - 1 / 461 - 3 * error < np.mean(rates) < 0.05 + 3 * error


def test_the_first_call_of_partial_fit_is_fit(data):
    X, _ = data
    first = ConformalDetector(skood.KNN(n_neighbors=5), random_state=0).partial_fit(X)
    fitted = ConformalDetector(skood.KNN(n_neighbors=5), random_state=0).fit(X)
    assert first.n_calibration_ == fitted.n_calibration_
    np.testing.assert_array_equal(first.score_samples(X), fitted.score_samples(X))
    assert first.partial_fit(X[:10]).n_calibration_ == fitted.n_calibration_ + 10


def test_what_cannot_take_rows_has_no_such_method(data):
    X, _ = data
    crossed = ConformalDetector(skood.KNN(n_neighbors=5), method="cross", n_splits=2).fit(X)
    assert not hasattr(crossed, "partial_fit")


def test_too_few_rows_warn(data):
    X, _ = data
    detector = ConformalDetector(FrozenEstimator(skood.Mahalanobis().fit(X[:50])))
    with pytest.warns(UserWarning, match="8 calibration rows are too few"):
        detector.partial_fit(X[50:58])
    with pytest.warns(UserWarning, match="16 calibration rows are too few"):
        detector.partial_fit(X[58:66])
    assert detector.partial_fit(X[66:80]).offset_ > -np.inf
    with pytest.raises(ValueError):
        detector.partial_fit(X[:, :3])
    assert detector.n_calibration_ == 30
