"""Detectors that record their data, and predictable scores."""

import numpy as np
import pytest
from sklearn.base import BaseEstimator

from skood.base import BaseDetector


class Column(BaseEstimator):
    """Scores a row by one of its entries."""

    def __init__(self, index=0):
        self.index = index

    def fit(self, X, y=None):
        self.rows_, self.labels_ = X, y
        return self

    def score_samples(self, X):
        return X[:, self.index]


class Recorder(BaseDetector):
    """Detector of this package that scores a row by its first entry."""

    def __init__(self, contamination=0.05, random_state=None):
        self.contamination = contamination
        self.random_state = random_state

    def _fit(self, inliers, y, outliers, seed):
        self.inliers_ = inliers.rows()
        self.labels_ = y
        self.outliers_ = None if outliers is None else outliers.rows()

    def _score_samples(self, source):
        return source.rows()[:, 0].astype(np.float64)


@pytest.fixture
def column():
    return Column


@pytest.fixture
def recorder():
    return Recorder
