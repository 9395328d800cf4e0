"""What the contract says of scores that are no numbers."""

import re

import numpy as np
import pytest

from skood import KNN
from skood.base import BaseDetector


class Echo(BaseDetector):
    """Scores a row by its value, and a large one by something else."""

    def __init__(self, instead, contamination=0.05, random_state=None):
        self.instead = instead
        self.contamination = contamination
        self.random_state = random_state

    def _fit(self, inliers, y, outliers, seed):
        pass

    def _score_samples(self, source):
        values = source.rows()[:, 0].astype(np.float64)
        return np.where(values > 99, self.instead, values)


def rows(n_large):
    return np.r_[np.zeros(100 - n_large), np.full(n_large, 1e30)][:, None]


@pytest.mark.parametrize("instead", [np.nan, np.inf])
def test_scores_that_are_no_numbers(instead):
    message = "Echo gives NaN or inf as the score of 2 of the {} items of X, .*; rescale X"
    with pytest.raises(ValueError, match=message.format(100)):
        Echo(instead).fit(rows(2))
    fitted = Echo(instead).fit(rows(0))
    for method in (fitted.score_samples, fitted.decision_function, fitted.predict):
        with pytest.raises(ValueError, match=message.format(3)):
            method(rows(2)[-3:])


@pytest.mark.parametrize("shape", [(100, 1), (100, 2), (), (1, 100)])
def test_scores_of_another_shape(shape):
    """A method of the user's own must return one score for each item."""

    class Shaped(Echo):
        def _score_samples(self, source):
            return np.ones(shape)

    message = f"_score_samples of Shaped returned an array of shape {re.escape(str(shape))} for"
    with pytest.raises(ValueError, match=message):
        Shaped(0).fit(rows(0)).score_samples(rows(0))


def test_scores_of_another_number():
    class Mean(Echo):
        def _score_samples(self, source):
            return source.rows().mean(axis=0)

    with pytest.raises(ValueError, match=r"\(1,\) for 100 items; expected one score"):
        Mean(0).fit(rows(0)).score_samples(rows(0))


def test_rows_that_are_impossible():
    """They may score -inf, as long as there is a threshold."""
    fitted = Echo(-np.inf).fit(rows(3))
    assert fitted.offset_ == 0
    assert fitted.score_samples(rows(1)[-2:]).tolist() == [0, -np.inf]
    assert fitted.predict(rows(1)[-2:]).tolist() == [1, -1]
    for n_large in (5, 6, 100):
        message = (
            f"Echo gives -inf as the score of {n_large} of 100 in-distribution items, too many for"
        )
        with pytest.raises(ValueError, match=message):
            Echo(-np.inf).fit(rows(n_large))


@pytest.mark.parametrize("contamination", [0, 0.0, -0.1, 0.6, 1])
def test_contamination_of_clean_data_points_to_conformal_detector(contamination):
    message = rf"contamination' parameter of KNN must.*ConformalDetector.*Got {contamination}"
    with pytest.raises(ValueError, match=message):
        KNN(contamination=contamination).fit(np.eye(5))
