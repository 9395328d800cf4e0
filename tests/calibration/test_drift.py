"""Drift of a batch: the exact null distribution, the bounds of the OOD fraction, bad input."""

from math import comb

import numpy as np
import pytest
from scipy.special import beta as beta_function
from scipy.stats import betabinom
from sklearn.frozen import FrozenEstimator

from skood import ConformalDetector, EnsembleDetector
from skood.calibration._drift import _null_counts, _ranks, _upper_tail, drift_of


def test_tail_of_the_counts():
    """The probabilities of a beta-binomial distribution, from their definition."""
    n_rows, n, rank = 7, 12, 3
    probabilities = [
        comb(n_rows, c)
        * beta_function(c + rank, n_rows - c + n + 1 - rank)
        / beta_function(rank, n + 1 - rank)
        for c in range(n_rows + 1)
    ]
    expected = np.cumsum(probabilities[::-1])[::-1]
    np.testing.assert_allclose(_upper_tail(n_rows, n, rank), expected, rtol=1e-10)


def test_counts_are_drawn_as_for_exchangeable_rows():
    n, n_rows, size = 30, 8, 4000
    rng = np.random.default_rng(0)
    ranks = _ranks(n)
    below, above = _null_counts(rng, n_rows, n, ranks, True, size)
    calibration = np.sort(rng.random((size, n)), axis=1)
    new = rng.random((size, n_rows))
    of_rows = 1 + (new[:, :, None] > calibration[:, None]).sum(2)
    for column, rank in enumerate(ranks):
        direct = (of_rows <= rank).sum(1)
        error = 4 * direct.std() * np.sqrt(2 / size)
        assert below[:, column].mean() == pytest.approx(direct.mean(), abs=error)
        assert above[:, column].mean() == pytest.approx(direct.mean(), abs=error)
        assert below[:, column].mean() == pytest.approx(
            betabinom(n_rows, rank, n + 1 - rank).mean(), abs=error
        )
    # Counts from below and above exclude each other.
    assert (below[:, -1] + above[:, -1] <= n_rows).all()


def test_p_value_of_one_row_by_enumeration():
    """One row has the ranks 1 to n + 1 with equal probability."""
    calibration = np.arange(1.0, 20)
    below_all = drift_of(calibration, np.array([0.0]))
    assert below_all.p_value == pytest.approx(1 / 20, abs=0.01)
    assert drift_of(calibration, np.array([30.0])).p_value == 1
    both = drift_of(calibration, np.array([30.0]), alternative="any")
    assert both.p_value == pytest.approx(2 / 20, abs=0.013)


@pytest.mark.parametrize("alternative", ["ood", "any"])
@pytest.mark.parametrize("n_rows", [1, 25, 300])
def test_level(n_rows, alternative):
    """With and without ties, with fewer and more rows than calibration rows."""
    rng = np.random.default_rng(0)
    n_repeats, level = 200, 0.1
    for decimals in (8, 0):
        rejected = 0
        for _ in range(n_repeats):
            rows = np.round(rng.normal(size=120 + n_rows), decimals)
            result = drift_of(
                np.sort(rows[:120]), rows[120:], alternative=alternative, n_resamples=199
            )
            rejected += result.p_value <= level
        bound = 4 * np.sqrt(level * (1 - level) / n_repeats)
        assert rejected / n_repeats <= level + bound
        if decimals and n_rows > 1:
            assert rejected / n_repeats >= level - bound


@pytest.mark.parametrize("n_outliers", [0, 5, 30])
def test_interval_of_the_ood_fraction(n_outliers):
    rng = np.random.default_rng(1)
    n_repeats, n_rows = 300, 60
    missed_below = missed_above = 0
    for _ in range(n_repeats):
        calibration = np.sort(rng.normal(size=150))
        outliers = rng.normal(-4, 1, size=n_outliers)
        scores = np.concatenate([outliers, rng.normal(size=n_rows - n_outliers)])
        result = drift_of(calibration, scores, confidence=0.8, n_resamples=1)
        assert result.low <= result.ood_fraction <= result.high
        missed_below += result.low > n_outliers / n_rows
        missed_above += result.high < n_outliers / n_rows
    bound = 0.1 + 4 * np.sqrt(0.1 * 0.9 / n_repeats)
    assert missed_below / n_repeats <= bound
    assert missed_above / n_repeats <= bound


def test_lower_bound_by_exhaustion():
    """The smallest number of outliers for which no count is too large."""
    rng = np.random.default_rng(0)
    calibration = np.sort(rng.normal(size=80))
    scores = np.concatenate([rng.normal(-3, 1, size=12), rng.normal(size=18)])
    ranks_of_rows = 1 + (scores[:, None] >= calibration).sum(1)
    ranks = _ranks(80)
    level = 0.05 / 2 / len(ranks)
    fewest = 0
    for rank in ranks:
        count = (ranks_of_rows <= rank).sum()
        for k in range(count + 1):
            if betabinom(30 - k, rank, 81 - rank).sf(count - k - 1) > level:
                fewest = max(fewest, k)
                break
    assert drift_of(calibration, scores).low == fewest / 30
    assert fewest > 5


def test_power_for_few_far_and_many_near_rows():
    rng = np.random.default_rng(0)
    calibration = np.sort(rng.normal(size=500))
    few = np.concatenate([rng.normal(size=190), rng.normal(-6, 1, size=10)])
    assert drift_of(calibration, few).p_value < 0.01
    assert drift_of(calibration, rng.normal(-0.5, 1, size=200)).p_value < 0.01
    high = rng.normal(1, 1, size=200)
    assert drift_of(calibration, high).p_value > 0.5
    assert drift_of(calibration, high, alternative="any").p_value < 0.01


def test_detectors(column):
    rng = np.random.default_rng(0)
    frozen = FrozenEstimator(column().fit(np.zeros((1, 1))))
    X, new = rng.normal(size=(200, 1)), rng.normal(-1, 1, size=(30, 1))
    conformal = ConformalDetector(frozen).fit(X)
    result = conformal.drift_test(new, confidence=0.9)
    assert result == drift_of(np.sort(X[:, 0]), new[:, 0], confidence=0.9)
    assert (result.n_rows, result.n_calibration, result.confidence) == (30, 200, 0.9)
    assert str(result).startswith("30 rows compared with 200 calibration rows: p = 0.0")
    conditional = ConformalDetector(frozen, calibration="training-conditional").fit(X)
    assert conditional.drift_test(new, confidence=0.9) == result
    ensemble = EnsembleDetector([("a", frozen), ("b", frozen)], random_state=0).fit(X)
    assert ensemble.drift_test(new).n_calibration == 100
    assert ensemble.drift_test(new).p_value < 0.01


def test_bad_input(column):
    X = np.arange(40.0)[:, None]
    detector = ConformalDetector(column(), method="cross", random_state=0).fit(X)
    with pytest.raises(ValueError, match='method="cross" fitted 5; use method="split"'):
        detector.drift_test(X)
    detector = ConformalDetector(column(), alpha=0.2, random_state=0).fit(X)
    with pytest.raises(ValueError, match="alternative='less'; expected"):
        detector.drift_test(X, alternative="less")
    with pytest.raises(ValueError, match="confidence=95; expected a level between 0 and 1"):
        detector.drift_test(X, confidence=95)
    with pytest.raises(ValueError, match="n_resamples=0"):
        detector.drift_test(X, n_resamples=0)
