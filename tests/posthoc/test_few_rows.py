"""A threshold on the rows that the statistics are learned from, with fewer rows than features."""

import warnings

import numpy as np
import pytest

from skood import GMM, KNN, ConformalDetector, KernelPCA, Mahalanobis

ROWS = np.random.default_rng(0).normal(size=(60, 100)).astype(np.float32)
MESSAGE = "learns from 60 rows of 100 features"


@pytest.mark.parametrize("detector", [Mahalanobis(), GMM(), KernelPCA(random_state=0)])
def test_threshold_on_rows_that_any_statistics_fit_is_a_warning(detector):
    with pytest.warns(UserWarning, match=MESSAGE):
        detector.fit(ROWS)
    with pytest.warns(UserWarning, match=MESSAGE):
        detector.fit_outputs(features=ROWS)


def test_warning_is_true():
    with pytest.warns(UserWarning, match="possibly all of them"):
        detector = GMM().fit(ROWS)
    new = np.random.default_rng(1).normal(size=(200, 100))
    assert (detector.predict(ROWS) == 1).mean() >= 0.9
    assert (detector.predict(new) == -1).mean() > 0.9


@pytest.mark.parametrize(
    "detector",
    [
        KNN(),
        Mahalanobis(threshold_fraction=0.0),
        Mahalanobis(threshold_fraction=0.9),
        ConformalDetector(Mahalanobis(), alpha=0.2, random_state=0),
    ],
)
def test_other_thresholds_are_no_warning(detector):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        detector.fit(ROWS)


def test_more_rows_than_features_are_no_warning():
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        Mahalanobis().fit(ROWS[:, :40])
