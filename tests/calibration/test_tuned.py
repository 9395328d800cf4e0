"""Thresholds for an objective, against brute force over all thresholds."""

import numpy as np
import pytest
from sklearn.frozen import FrozenEstimator
from sklearn.metrics import f1_score
from sklearn.neighbors import KernelDensity

from skood import LogLikelihood
from skood.calibration import TunedThreshold
from skood.metrics import fpr_at_tpr


@pytest.fixture
def data():
    """Scores with ties that overlap: 60 inliers and 25 known outliers."""
    rng = np.random.default_rng(0)
    scores = np.concatenate([rng.normal(2, 1, size=60), rng.normal(0, 1, size=25)])
    order = rng.permutation(85)
    return np.round(scores, 1)[order][:, None], np.repeat([0, -1], [60, 25])[order]


def tuned(column, data, *args, **kwargs):
    return TunedThreshold(FrozenEstimator(column()), *args, **kwargs).fit(*data)


def rates(scores, y, threshold):
    return np.mean(scores[y >= 0] >= threshold), np.mean(scores[y == -1] >= threshold)


@pytest.mark.parametrize("target", [0.0, 0.5, 0.8, 0.95, 1.0])
def test_rates(target, column, data):
    X, y = data
    candidates = np.append(np.unique(X), np.inf)
    accepted = np.array([rates(X[:, 0], y, t) for t in candidates])
    detector = tuned(column, data, "tpr", target)
    assert detector.best_score_ == rates(X[:, 0], y, detector.offset_)[0] >= target
    assert (accepted[candidates > detector.offset_][:-1, 0] < target).all()
    detector = tuned(column, data, "fpr", target)
    assert detector.best_score_ == rates(X[:, 0], y, detector.offset_)[1] <= target
    assert (accepted[candidates < detector.offset_, 1] > target).all()


def test_default_targets(column, data):
    assert tuned(column, data).offset_ == tuned(column, data, "tpr", 0.95).offset_
    assert tuned(column, data, "fpr").offset_ == tuned(column, data, "fpr", 0.05).offset_
    X, y = data
    detector = tuned(column, data)
    assert np.mean(detector.predict(X[y == -1]) == 1) == fpr_at_tpr(y, X[:, 0])


def test_f1(column, data):
    X, y = data
    detector = tuned(column, data, "f1")
    candidates = np.append(np.unique(X), 99)
    expected = [f1_score(y == -1, X[:, 0] < t) for t in candidates]
    assert detector.best_score_ == pytest.approx(max(expected))
    assert detector.offset_ == candidates[np.argmax(expected)]
    assert f1_score(y, detector.predict(X), labels=[-1], average="macro") == detector.best_score_


@pytest.mark.parametrize("costs", [(1, 1), (1, 10), (10, 1), (0, 1), (1, 0)])
def test_cost(costs, column, data):
    X, y = data
    alarm, miss = costs
    detector = tuned(column, data, "cost", false_alarm_cost=alarm, miss_cost=miss)
    candidates = np.append(np.unique(X), np.nextafter(X.max(), 99))
    expected = [
        np.mean(np.where(y == -1, miss * (X[:, 0] >= t), alarm * (X[:, 0] < t))) for t in candidates
    ]
    assert -detector.best_score_ == pytest.approx(min(expected))
    assert detector.offset_ == candidates[np.argmin(expected)]


def test_table(column, data):
    X, y = data
    detector = tuned(column, data, "cost", miss_cost=3.0)
    table = detector.results_
    assert set(table) == {"threshold", "tpr", "fpr", "objective"}
    np.testing.assert_array_equal(table["threshold"][:-1], np.unique(X))
    for threshold, tpr, fpr in zip(table["threshold"], table["tpr"], table["fpr"], strict=True):
        assert (tpr, fpr) == rates(X[:, 0], y, threshold)
    assert table["objective"].max() == detector.best_score_
    assert "fpr" not in tuned(column, (X[y == 0], None)).results_


def test_a_fitted_detector_and_all_rows(column, data):
    X, y = data
    fitted = column()
    detector = TunedThreshold(FrozenEstimator(fitted)).fit(X, y)
    assert detector.detector_ is fitted
    # 57 of 60 accepted.
    assert detector.offset_ == np.sort(X[y == 0, 0])[3]


def test_rows_held_out(column):
    X = np.arange(100.0)[:, None]
    detector = TunedThreshold(column(), validation_fraction=0.2, random_state=0).fit(X)
    held_out = np.setdiff1d(X, detector.detector_.rows_)
    np.testing.assert_array_equal(detector.results_["threshold"][:-1], held_out)
    assert len(held_out) == 20
    # 19 of 20 accepted.
    assert detector.offset_ == held_out[1]


def test_known_outliers_are_divided(column, recorder):
    X = np.r_[np.arange(100.0), np.arange(200.0, 250.0)][:, None]
    y = np.repeat([0, -1], [100, 50])
    detector = TunedThreshold(recorder(), "f1", validation_fraction=0.2, random_state=0).fit(X, y)
    thresholds = detector.results_["threshold"][:-1]
    assert np.sum(thresholds >= 200) == 10
    assert np.sum(thresholds < 200) == 20
    given = detector.detector_.outliers_[:, 0]
    assert sorted([*given, *thresholds[thresholds >= 200]]) == list(range(200, 250))
    # What does not use them leaves all to the choice; "tpr" leaves all to the detector.
    other = TunedThreshold(column(), "f1", random_state=0).fit(X, y)
    assert np.sum(other.results_["threshold"][:-1] >= 200) == 50
    assert other.detector_.rows_.max() < 200
    by_tpr = TunedThreshold(recorder(), random_state=0).fit(X, y)
    assert len(by_tpr.detector_.outliers_) == 50
    assert "fpr" not in by_tpr.results_
    # The only one there is chooses.
    one = TunedThreshold(recorder(), "fpr", random_state=0).fit(X[:101], y[:101])
    assert one.detector_.outliers_ is None


def test_counts_are_those_of_the_data(column):
    """The fraction of held-out outliers is not larger than in the data."""
    rng = np.random.default_rng(0)
    scores = np.concatenate([rng.normal(2, 1, size=900), rng.normal(0, 1, size=300)])[:, None]
    y = np.repeat([0, -1], [900, 300])
    detector = TunedThreshold(column(), "f1", validation_fraction=0.3, random_state=0)
    offset = detector.fit(scores, y).offset_
    table = detector.results_
    hits, misses = 300 * (1 - table["fpr"]), 300 * table["fpr"]
    alarms = 900 * (1 - table["tpr"])
    f1 = 2 * hits / (2 * hits + alarms + misses)
    np.testing.assert_allclose(table["objective"], f1)
    assert offset == table["threshold"][np.argmax(f1)]


def test_errors(column, data):
    X, _ = data
    for objective in ("fpr", "f1", "cost"):
        for labels in (None, np.zeros(85)):
            with pytest.raises(ValueError, match=f"'{objective}' needs known outliers"):
                tuned(column, (X, labels), objective)
    with pytest.raises(ValueError, match="'objective' parameter"):
        tuned(column, data, "auroc")
    with pytest.raises(ValueError, match="'target' parameter"):
        tuned(column, data, "tpr", 95)
    with pytest.raises(ValueError, match=r"validation_fraction=0\.9 of 10 in-distribution items"):
        TunedThreshold(column(), validation_fraction=0.9).fit(X[:10])


def test_rows_to_calibrate_with_can_be_given(column):
    X, given = np.arange(40.0)[:, None], np.arange(100.0, 120.0)[:, None]
    detector = TunedThreshold(column(), "tpr", 0.9).fit(X, X_calibration=given)
    np.testing.assert_array_equal(detector.detector_.rows_, X)
    assert detector.offset_ == 102
    with pytest.warns(UserWarning, match="KernelDensity was trained before"):
        TunedThreshold(LogLikelihood(FrozenEstimator(KernelDensity().fit(X)))).fit(X)
