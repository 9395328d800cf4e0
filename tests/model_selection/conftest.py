import numpy as np
import pytest
from scipy.sparse import issparse
from sklearn.base import BaseEstimator, OutlierMixin


class Records(OutlierMixin, BaseEstimator):
    """Detector that records the training data of all its clones."""

    fits = []

    def __init__(self, scale=1.0):
        self.scale = scale

    def fit(self, X, y=None, sample_weight=None):
        Records.fits.append((X, y, sample_weight))
        dense = X.toarray() if issparse(X) else np.asarray(X)
        self.mean_ = dense.mean(axis=0)
        return self

    def score_samples(self, X):
        return -self.scale * np.sum((np.asarray(X) - self.mean_) ** 2, axis=1)

    def predict(self, X):
        return np.where(self.score_samples(X) > -9, 1, -1)


@pytest.fixture
def records():
    Records.fits.clear()
    return Records()


@pytest.fixture
def problem():
    """Three classes sorted by label, around 0, then outliers around 20."""
    rng = np.random.default_rng(0)
    y = np.repeat([0, 1, 2, -1], [40, 40, 40, 30])
    centres = np.array([[0.0, 2.0], [2.0, 0.0], [-2.0, -2.0], [20.0, 20.0]])
    return centres[y] + rng.normal(size=(150, 2)), y
