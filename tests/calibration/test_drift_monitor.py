"""The monitor of a stream: its capital by hand, Ville's bound, splits into batches, bad input."""

import pickle

import numpy as np
import pytest
from sklearn.exceptions import NotFittedError
from sklearn.frozen import FrozenEstimator
from sklearn.utils.estimator_checks import parametrize_with_checks

import skood
from skood import ConformalDetector, DriftMonitor, EnsembleDetector
from skood.calibration._drift_monitor import _EXPONENTS, _ranks_in_order

# The check calls `partial_fit` without `fit`.
NEVER_TAKEN_AS_INLIERS = {
    "check_n_features_in_after_fitting": "the first rows of a stream may be OOD, and are refused"
}


@parametrize_with_checks(
    [DriftMonitor(skood.KNN(n_neighbors=2))],
    expected_failed_checks=lambda _: NEVER_TAKEN_AS_INLIERS,
)
@pytest.mark.filterwarnings("ignore:.*calibration rows are too few:UserWarning")
def test_scikit_learn(estimator, check):
    check(estimator)


@pytest.fixture
def monitor_of(column):
    """Return a function that makes a monitor whose scores are the rows."""
    frozen = FrozenEstimator(column().fit(np.zeros((1, 1))))

    def make(calibration, alpha=0.05):
        safe = ConformalDetector(frozen, alpha=0.5).fit(np.reshape(calibration, (-1, 1)))
        return DriftMonitor(FrozenEstimator(safe), alpha)

    return make


def column_of(values):
    return np.reshape(values, (-1, 1))


def capital_by_hand(calibration, stream):
    """All bets with all starts, row by row."""
    seen, e_values = list(calibration), []
    bets = {}
    for t, score in enumerate(stream, 1):
        seen.append(score)
        rank, n = sum(s <= score for s in seen), len(seen)
        for exponent in (0.25, 0.5, 0.75):
            bets[t, exponent] = 1 / (t * (t + 1)) / 3
        for start, exponent in bets:
            mean = sum(k ** (exponent - 1) for k in range(1, n + 1)) / n
            bets[start, exponent] *= rank ** (exponent - 1) / mean
        e_values.append(sum(bets.values()) + 1 / (t + 1))
    return e_values


def test_capital_by_hand(monitor_of):
    rng = np.random.default_rng(0)
    calibration, stream = rng.normal(size=12).round(1), rng.normal(-1, 1, size=15).round(1)
    monitor = monitor_of(calibration).partial_fit(column_of(stream))
    expected = capital_by_hand(calibration, stream)
    np.testing.assert_allclose(np.exp(monitor.log_e_values_), expected, rtol=1e-10)
    assert monitor.log_e_value_ == monitor.log_e_values_[-1]
    assert monitor.p_value_ == pytest.approx(min(1, 1 / max(expected)))
    assert monitor.n_seen_ == 15


def test_ranks_with_ties():
    ranks = _ranks_in_order(np.array([1.0, 2, 2, 3]), np.array([2.0, 0, 2, 9, 0]))
    np.testing.assert_array_equal(ranks, [4, 1, 6, 8, 2])


@pytest.mark.parametrize("n", [1, 7, 500])
def test_bets_have_mean_one(n):
    ranks = np.arange(1.0, n + 1)
    for exponent in _EXPONENTS:
        bets = n * ranks ** (exponent - 1) / np.sum(ranks ** (exponent - 1))
        assert bets.mean() == pytest.approx(1)
        assert (np.diff(bets) < 0).all()


@pytest.mark.parametrize("decimals", [8, 0])
def test_false_alarms_in_whole_streams(monitor_of, decimals):
    rng = np.random.default_rng(0)
    n_streams, alpha = 250, 0.2
    monitors = [
        monitor_of(rng.normal(size=50).round(decimals), alpha).partial_fit(
            column_of(rng.normal(size=400).round(decimals))
        )
        for _ in range(n_streams)
    ]
    bound = 4 * np.sqrt(alpha * (1 - alpha) / n_streams)
    assert np.mean([monitor.alarm_ for monitor in monitors]) <= alpha + bound
    # The mean of an e-value is at most 1.
    assert np.mean([np.exp(monitor.log_e_value_) for monitor in monitors]) < 1.5


def test_change_is_found_where_it_is(monitor_of):
    rng = np.random.default_rng(0)
    monitor = monitor_of(rng.normal(size=500), 0.01).partial_fit(rng.normal(size=(300, 1)))
    assert not monitor.alarm_
    assert monitor.alarm_row_ is None
    monitor.partial_fit(rng.normal(-3, 1, size=(100, 1)))
    assert monitor.alarm_
    assert 300 <= monitor.alarm_row_ < 320
    assert 290 <= monitor.change_row_ <= monitor.alarm_row_
    assert monitor.p_value_ <= 0.01
    log_e = monitor.log_e_values_
    assert log_e[monitor.alarm_row_] >= -np.log(0.01) > log_e[: monitor.alarm_row_].max()
    row, change = monitor.alarm_row_, monitor.change_row_
    monitor.partial_fit(rng.normal(size=(500, 1)))
    assert (monitor.alarm_row_, monitor.change_row_, monitor.alarm_) == (row, change, True)
    monitor.reset()
    assert (monitor.n_seen_, monitor.alarm_, monitor.p_value_) == (0, False, 1.0)


def test_batches_do_not_matter(monitor_of):
    rng = np.random.default_rng(0)
    calibration = rng.normal(size=80)
    stream = np.concatenate([rng.normal(size=60), rng.normal(-2, 1, size=60)]).round(1)
    whole = monitor_of(calibration).partial_fit(column_of(stream))
    parts = monitor_of(calibration)
    for k, part in enumerate(np.array_split(stream, 23)):
        parts.partial_fit(column_of(part))
        if k == 11:
            parts = pickle.loads(pickle.dumps(parts))
    np.testing.assert_allclose(parts.log_e_values_, whole.log_e_values_, rtol=1e-10)
    assert (parts.alarm_row_, parts.change_row_) == (whole.alarm_row_, whole.change_row_)
    assert whole.alarm_


def test_fit_fits_and_calibrates(column):
    rng = np.random.default_rng(0)
    X, held_out = rng.normal(size=(300, 2)), rng.normal(size=(100, 2))
    monitor = DriftMonitor(skood.Mahalanobis(), random_state=0).fit(X)
    assert isinstance(monitor.detector_, ConformalDetector)
    assert monitor.detector_.n_calibration_ == 90
    assert monitor.n_features_in_ == 2
    monitor.partial_fit(X[:20] + 9)
    assert monitor.alarm_
    assert not monitor.fit(X, X_calibration=held_out).alarm_
    assert monitor.detector_.n_calibration_ == 100
    pair = [("a", skood.KNN()), ("b", skood.Mahalanobis())]
    monitor = DriftMonitor(EnsembleDetector(pair, random_state=0)).fit(X)
    assert isinstance(monitor.detector_, EnsembleDetector)
    assert monitor.partial_fit(X[:20] + 9).alarm_


def test_saved_in_the_middle_of_a_stream(monitor_of, tmp_path):
    rng = np.random.default_rng(0)
    X = rng.normal(size=(200, 2))
    monitor = DriftMonitor(skood.KNN(), random_state=0).fit(X).partial_fit(X[:30] + 1)
    skood.save(monitor, tmp_path / "monitor.skood")
    loaded = skood.load(tmp_path / "monitor.skood")
    for each in (monitor, loaded):
        each.partial_fit(X[:30] + 2)
    np.testing.assert_array_equal(loaded.log_e_values_, monitor.log_e_values_)
    assert loaded.alarm_row_ == monitor.alarm_row_


def test_bad_input(column):
    with pytest.raises(NotFittedError, match=r"call fit\(X\) with in-distribution rows first"):
        DriftMonitor(skood.KNN()).partial_fit(np.zeros((3, 2)))
    unfitted = DriftMonitor(FrozenEstimator(ConformalDetector(skood.KNN())))
    with pytest.raises(NotFittedError, match="ConformalDetector"):
        unfitted.partial_fit(np.zeros((3, 2)))
    cross = ConformalDetector(column(), method="cross", random_state=0)
    with pytest.raises(ValueError, match='use method="split"'):
        DriftMonitor(cross).fit(np.arange(60.0)[:, None])
    monitor = DriftMonitor(skood.KNN(), random_state=0).fit(
        np.random.default_rng(0).normal(size=(99, 2))
    )
    with pytest.raises(ValueError, match="features"):
        monitor.partial_fit(np.zeros((3, 5)))
    with pytest.raises(AttributeError):
        _ = DriftMonitor(skood.KNN()).alarm_
