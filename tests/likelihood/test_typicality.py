"""Typicality of items and of batches, on a normal distribution whose entropy is known."""

import numpy as np
import pytest
from scipy.stats import norm
from sklearn.frozen import FrozenEstimator
from sklearn.mixture import GaussianMixture
from sklearn.neighbors import KernelDensity

from skood import Typicality

D = 20


def normal_rows(n, seed):
    return np.random.default_rng(seed).normal(size=(n, D))


@pytest.fixture(scope="module")
def density():
    return FrozenEstimator(GaussianMixture(1).fit(normal_rows(20_000, 0)))


@pytest.fixture
def detector(density):
    return Typicality(density, held_out_fraction=0.5, n_bootstrap=400, random_state=0)


def test_entropy_and_scores(detector, density):
    X = normal_rows(4000, 1)
    detector.fit(X)
    assert detector.held_out_scores_.shape == (2000,)
    assert detector.entropy_ == -detector.held_out_scores_.mean()
    assert detector.entropy_ == pytest.approx(D / 2 * np.log(2 * np.pi * np.e), abs=0.3)
    expected = -np.abs(-density.score_samples(X) - detector.entropy_)
    np.testing.assert_allclose(detector.score_samples(X), expected)
    # The mode is the likeliest of all items, and not typical.
    mode = np.zeros((1, D))
    assert density.score_samples(mode) > density.score_samples(X).max()
    assert detector.predict(mode) == -1
    assert (detector.predict(normal_rows(4000, 2)) == -1).mean() == pytest.approx(0.05, abs=0.015)


def test_held_out_rows_are_not_trained_on():
    X = normal_rows(100, 1)
    detector = Typicality(KernelDensity(), held_out_fraction=0.3, random_state=0).fit(X)
    trained_on = np.asarray(detector.density_.tree_.data)
    assert len(trained_on) == 70
    held_out = np.array([row for row in X if not (row == trained_on).all(1).any()])
    scores = KernelDensity().fit(trained_on).score_samples(held_out)
    np.testing.assert_allclose(np.sort(scores), np.sort(detector.held_out_scores_))


def test_batches(detector, density):
    detector.fit(normal_rows(4000, 1))
    X = normal_rows(25, 2)
    expected = -abs(-density.score_samples(X).mean() - detector.entropy_)
    assert detector.score_batch(X) == pytest.approx(expected)
    # Means of M scores deviate by their standard deviation over the root of M.
    deviation = detector.held_out_scores_.std()
    for n in (1, 25, 100):
        expected = norm.ppf(0.975) * deviation / n**0.5
        assert detector.batch_offset(n) == pytest.approx(-expected, rel=0.2)
    assert detector.batch_offset(25) == detector.batch_offset(25)
    rejected = [detector.predict_batch(normal_rows(25, seed)) == -1 for seed in range(100, 300)]
    assert np.mean(rejected) == pytest.approx(0.05, abs=0.045)


def test_power_grows_with_the_batch(detector):
    detector.fit(normal_rows(4000, 1))
    rates = [
        np.mean([detector.predict_batch(1.1 * normal_rows(n, seed)) == -1 for seed in range(60)])
        for n in (1, 5, 40)
    ]
    assert rates[0] < rates[1] < rates[2]
    assert rates[2] > 0.85


def test_errors(detector):
    detector.fit(normal_rows(100, 1))
    with pytest.raises(ValueError, match="n_samples=0; expected at least 1"):
        detector.batch_offset(0)
    with pytest.raises(ValueError, match="features"):
        detector.score_batch(np.zeros((3, 2)))
