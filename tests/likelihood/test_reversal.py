"""The warning of a likelihood ratio that takes outliers made from X for in-distribution."""

import re
import warnings

import numpy as np
import pytest
from sklearn.base import BaseEstimator, DensityMixin
from sklearn.frozen import FrozenEstimator

from skood import LikelihoodRatio, SequenceDensity

IMAGES = np.random.default_rng(0).integers(0, 256, size=(300, 8, 8)).astype(np.uint8)
MESSAGE = "takes outliers for in-distribution that it made from"


class Scores(DensityMixin, BaseEstimator):
    """A density whose log-density is a function of the item."""

    def __init__(self, function=None):
        self.function = function

    def fit(self, X, y=None):
        self.fitted_ = True
        return self

    def score_samples(self, X):
        X = np.asarray(X, dtype=np.float64).reshape(len(X), -1)
        return self.function(X)


def roughness(X):
    return np.abs(np.diff(X)).sum(1)


def nothing(X):
    return np.zeros(len(X))


def noise(X):
    """A score without skill, the same for the same item."""
    return np.array([np.random.default_rng(int(row.sum())).normal() for row in X])


def warnings_of(foreground, background, X):
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        LikelihoodRatio(
            FrozenEstimator(Scores(foreground).fit(X)),
            FrozenEstimator(Scores(background).fit(X)),
            random_state=0,
        ).fit(X)
    return [str(warning.message) for warning in caught if MESSAGE in str(warning.message)]


def test_simple_images_that_score_higher():
    """A half in one colour is smoother, and the ratio prefers smooth images."""
    (said,) = warnings_of(nothing, roughness, IMAGES)
    assert re.search(r"from 128 images of X: images with one half painted over score .* 0\.0", said)
    assert warnings_of(roughness, nothing, IMAGES) == []


def test_shuffled_images_that_score_higher():
    """Smooth images become rougher at the edges of blocks."""
    smooth = np.cumsum(np.random.default_rng(0).normal(size=(300, 64)), axis=1).reshape(-1, 8, 8)
    smooth = ((smooth - smooth.min()) / np.ptp(smooth)).astype(np.float32)
    (said,) = warnings_of(roughness, nothing, smooth)
    assert "images with blocks in random order" in said


def test_rows():
    rng = np.random.default_rng(0)
    rows = np.repeat(rng.normal(size=(300, 1)), 6, axis=1)
    (said,) = warnings_of(lambda X: X.var(1), nothing, rows)
    assert "rows of X: rows with entries of other rows score higher" in said
    assert warnings_of(lambda X: -X.var(1), nothing, rows) == []


@pytest.mark.parametrize("seed", range(20))
def test_scores_without_skill(seed):
    images = np.random.default_rng(seed).integers(0, 256, size=(300, 8, 8)).astype(np.uint8)
    assert warnings_of(noise, nothing, images) == []


@pytest.mark.parametrize("n", [2, 3, 8])
def test_few_rows(n):
    """A single pair of rows tells nothing."""
    rows = np.arange(n * 3.0).reshape(n, 3)
    assert warnings_of(lambda X: X.var(1), nothing, rows) == []


def test_sequences():
    """A density that has learned repeats prefers sequences of one letter."""
    rng = np.random.default_rng(0)
    X = ["".join(rng.choice(list("ACGT"), size=40)) for _ in range(64)]
    repeats = ["".join(letter * 4 for letter in rng.choice(list("ACGT"), size=10)) for _ in X]
    settings = {"hidden_features": 8, "max_steps": 150, "random_state": 0}
    models = [SequenceDensity(symbols="ACGT", **settings).fit(data) for data in (repeats, X)]
    detector = LikelihoodRatio(*map(FrozenEstimator, models), random_state=0)
    with pytest.warns(UserWarning, match=r"sequences with a single symbol in one half score"):
        detector.fit(X)
