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


class Value(GaussianMixture):
    """Density whose log-densities are the values of the rows."""

    def score_samples(self, X):
        return np.asarray(X)[:, 0]


def typical_of(held_out, **params):
    """Return a detector whose held-out log-densities are the given ones."""
    density = FrozenEstimator(Value().fit(np.eye(3)))
    detector = Typicality(density, held_out_fraction=0.5, random_state=0, **params)
    return with_held_out(detector.fit(np.zeros((4, 3))), held_out)


def with_held_out(detector, held_out):
    detector.held_out_scores_ = np.asarray(held_out, dtype=float)
    detector.entropy_ = -detector.held_out_scores_.mean()
    return detector


def rows_of(values):
    return np.column_stack([values, np.zeros(len(values)), np.zeros(len(values))])


def test_p_value_of_a_batch_by_enumeration():
    """Of the 15 pairs among six items, those that deviate as far as the batch."""
    held_out, batch = np.array([0.0, 1, 2, 4]), np.array([7.0, 3])
    pooled = np.concatenate([batch, held_out])
    pairs = np.array([pooled[[i, j]].mean() for i in range(6) for j in range(i)])
    extreme = np.mean(abs(pairs - pooled.mean()) >= abs(batch.mean() - pooled.mean()))
    p = typical_of(held_out, n_bootstrap=20_000).batch_p_value(rows_of(batch))
    assert p == pytest.approx(extreme, abs=4 * np.sqrt(extreme * (1 - extreme) / 20_000))


@pytest.mark.parametrize("n_rows", [1, 10, 400])
def test_level_of_batches(n_rows):
    """Also for batches larger than the held-out rows, and values with heavy tails."""
    rng = np.random.default_rng(0)
    detector, p_values = typical_of([0], n_bootstrap=99), []
    for _ in range(400):
        with_held_out(detector, rng.standard_t(3, size=60))
        p_values.append(detector.batch_p_value(rows_of(rng.standard_t(3, size=n_rows))))
    for level in (0.05, 0.2):
        rate = np.mean(np.array(p_values) <= level)
        assert rate == pytest.approx(level, abs=4 * np.sqrt(level * (1 - level) / 400))


def test_items_of_density_zero_are_the_most_extreme():
    detector = typical_of(np.arange(30.0))
    assert detector.batch_p_value(rows_of([-np.inf, 14, 15])) == pytest.approx(3 / 33, abs=0.04)
    assert detector.batch_p_value(rows_of([14.0, 15, 14])) > 0.5
