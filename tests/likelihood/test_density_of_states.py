"""DensityOfStates: its estimators by hand, and statistics that say nothing or are impossible."""

import numpy as np
import pytest
import torch
from scipy.stats import gaussian_kde, norm
from sklearn.base import BaseEstimator, DensityMixin
from sklearn.ensemble import IsolationForest
from sklearn.frozen import FrozenEstimator
from sklearn.mixture import GaussianMixture
from sklearn.neighbors import KernelDensity
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from sklearn.svm import OneClassSVM

from skood import VAE, DensityOfStates, NeuralSplineFlow, PixelCNN


class FirstValue(DensityMixin, BaseEstimator):
    """Says that log p(x) is the first value of x."""

    def fit(self, X, y=None):
        self.n_features_in_ = X.shape[1]
        return self

    def score_samples(self, X):
        return X[:, 0]


class AllValues(FirstValue):
    """Says that all values of x are its statistics."""

    def score_statistics(self, X):
        return X


@pytest.fixture(scope="module")
def rows():
    """Rows of correlated features on scales of their own, shape (300, 3)."""
    rng = np.random.default_rng(0)
    return rng.normal(size=(300, 3)) @ rng.normal(size=(3, 3)) * [1, 100, 0.01] + [-500, 0, 7]


@pytest.fixture
def X():
    return np.random.default_rng(1).normal(size=(50, 3)) * [2, 200, 0.02] + [-500, 0, 7]


@pytest.mark.parametrize("bandwidth", ["scott", "silverman", 0.4])
def test_kde_is_the_sum_of_the_densities_of_statistics(rows, X, bandwidth):
    detector = DensityOfStates(AllValues(), bandwidth=bandwidth).fit(rows)
    expected = sum(gaussian_kde(rows[:, j], bandwidth).logpdf(X[:, j]) for j in range(3))
    np.testing.assert_allclose(detector.score_samples(X), expected, rtol=1e-6)
    assert [type(estimator) for estimator in detector.estimators_] == [KernelDensity] * 3


def test_a_gaussian_statistic():
    T = np.random.default_rng(0).normal(5, 2, size=(4000, 1))
    # The density of a statistic is learned from all rows.
    detector = DensityOfStates(FirstValue(), bandwidth=0.1, threshold_fraction=0).fit(T)
    x = np.linspace(0, 10, 50)[:, None]
    # A kernel of 0.1 standard deviations widens the distribution of T by half a percent.
    expected = norm(5, 2 * np.sqrt(1.01)).logpdf(x[:, 0])
    np.testing.assert_allclose(detector.score_samples(x), expected, atol=0.3)
    # Too likely is as little in-distribution as too unlikely.
    np.testing.assert_array_equal(detector.predict([[-5.0], [5.0], [15.0]]), [-1, 1, -1])


def test_svm_reads_standardised_statistics(rows, X):
    detector = DensityOfStates(AllValues(), estimator="svm").fit(rows)
    scale = rows.std(0, ddof=1)
    svm = OneClassSVM().fit((rows - rows.mean(0)) / scale)
    expected = svm.score_samples((X - rows.mean(0)) / scale)
    np.testing.assert_allclose(detector.score_samples(X), expected, rtol=1e-6)
    far = rows.mean(0) + 100 * scale
    np.testing.assert_allclose(detector.score_samples([far]), 0, atol=1e-9)


def test_any_estimator_reads_standardised_statistics(rows, X):
    given = GaussianMixture(2, random_state=0)
    detector = DensityOfStates(AllValues(), estimator=given).fit(rows)
    standardised = StandardScaler().fit(rows)
    detector.scale_ = standardised.scale_
    assert not hasattr(given, "means_"), "fits a clone"
    expected = detector.estimators_[0].score_samples(standardised.transform(X))
    np.testing.assert_allclose(detector.score_samples(X), expected, rtol=1e-6)


def test_seed_of_the_estimator(rows, X):
    def scores(seed):
        forest = IsolationForest(n_estimators=10)
        return DensityOfStates(AllValues(), estimator=forest, random_state=seed).fit(rows)

    np.testing.assert_array_equal(scores(0).score_samples(X), scores(0).score_samples(X))
    assert not np.allclose(scores(0).score_samples(X), scores(1).score_samples(X))


@pytest.mark.parametrize("estimator", ["kde", "svm"])
@pytest.mark.parametrize(
    "density",
    [
        NeuralSplineFlow(1, 4, (8,), max_epochs=2, random_state=0),
        VAE(1, hidden_features=(4,), max_epochs=2, n_importance_samples=4, random_state=0),
        PixelCNN(4, 1, n_levels=8, value_range="minmax", image_shape="row", max_steps=5),
        KernelDensity(),
    ],
    ids=lambda density: type(density).__name__,
)
def test_statistics_of_our_densities(rows, density, estimator):
    X = StandardScaler().fit_transform(rows)
    detector = DensityOfStates(density, estimator=estimator, random_state=0).fit(X)
    fitted = detector.density_
    names = getattr(fitted, "statistics_names", ("log_prob",))
    assert detector.statistics_names_ == names
    assert detector.train_statistics_.shape == (300, len(names))
    np.testing.assert_allclose(
        detector.train_statistics_[:, 0], fitted.score_samples(X), rtol=1e-5, atol=1e-4
    )
    scores = detector.score_samples(X)
    assert detector.offset_ == pytest.approx(np.percentile(scores, 5))
    order = np.random.default_rng(0).permutation(300)
    np.testing.assert_array_equal(detector.score_samples(X[order]), scores[order])
    np.testing.assert_array_equal(detector.score_samples(X[:7]), scores[:7])


def test_pipeline_has_only_its_log_density(rows):
    density = make_pipeline(StandardScaler(), KernelDensity())
    detector = DensityOfStates(density).fit(rows)
    assert detector.statistics_names_ == ("log_prob",)
    log_p = detector.density_.score_samples(rows)
    expected = gaussian_kde(log_p).logpdf(log_p)
    np.testing.assert_allclose(detector.score_samples(rows), expected, rtol=1e-6)


def test_frozen_density_is_not_trained_again(rows):
    flow = NeuralSplineFlow(1, 4, (8,), max_epochs=2, random_state=0).fit(rows)
    weights = {k: v.clone() for k, v in flow.module_.state_dict().items()}
    detector = DensityOfStates(FrozenEstimator(flow)).fit(rows[:50])
    np.testing.assert_array_equal(detector.train_statistics_, flow.score_statistics(rows[:50]))
    assert all(torch.equal(weights[k], v) for k, v in flow.module_.state_dict().items())


def test_calibration_rows(rows):
    detector = DensityOfStates(AllValues(), n_calibration=40, random_state=0).fit(rows)
    known = detector.train_statistics_
    assert known.shape == (40, 3)
    assert len(np.unique(known[:, 0])) == 40
    assert np.isin(known[:, 0], rows[:, 0]).all()
    assert detector.offset_ == pytest.approx(np.percentile(detector.score_samples(known), 5))
    again = DensityOfStates(AllValues(), n_calibration=40, random_state=1).fit(rows)
    assert not np.array_equal(again.train_statistics_, known)


@pytest.mark.parametrize("estimator", ["kde", "svm"])
def test_a_constant_statistic(rows, X, estimator):
    """It changes nothing, as long as it is the same; rounding errors are no change."""
    rows, X = rows.copy(), X.copy()
    noise = 1e-7 * np.random.default_rng(0).normal(size=300)
    rows[:, 1], X[:, 1] = 1000 * (1 + noise), 1000
    detector = DensityOfStates(AllValues(), estimator=estimator).fit(rows)
    assert detector.scale_[1] == 1
    scores = detector.score_samples(X)
    if estimator == "kde":
        others = DensityOfStates(AllValues()).fit(rows[:, [0, 2]]).score_samples(X[:, [0, 2]])
        # The kernel has its maximum there.
        np.testing.assert_allclose(scores - others, norm.logpdf(0, scale=300**-0.2), atol=1e-5)
    X[:, 1] += 10
    assert (detector.score_samples(X) < scores).all()


def test_all_rows_equal():
    X = np.ones((20, 3))
    detector = DensityOfStates(AllValues()).fit(X)
    assert detector.predict(X).tolist() == [1] * 20
    assert detector.predict(X + 5).tolist() == [-1] * 20


class Bounded(FirstValue):
    """Gives -inf where the first value is negative."""

    def score_samples(self, X):
        return np.where(X[:, 0] < 0, -np.inf, X[:, 0])


def test_impossible_rows():
    X = np.random.default_rng(0).uniform(1, 2, size=(100, 1))
    X[0] = -1
    detector = DensityOfStates(Bounded()).fit(X)
    expected = gaussian_kde(X[1:, 0]).logpdf(X[1:, 0])
    scores = detector.score_samples(X)
    assert scores[0] == -np.inf
    np.testing.assert_allclose(scores[1:], expected, rtol=1e-6)
    with pytest.raises(ValueError, match="finite statistics for 1 of 100 training items"):
        DensityOfStates(Bounded()).fit(np.where(np.arange(100) > 0, -1.0, 1.0)[:, None])


def test_statistics_that_are_nan_are_an_error(rows):
    class Broken(FirstValue):
        def score_samples(self, X):
            return np.where(X[:, 1] > 1e3, np.nan, X[:, 0])

    detector = DensityOfStates(Broken()).fit(rows)
    with pytest.raises(ValueError, match="gives NaN or inf as the score of 1 of the 2 items"):
        detector.score_samples([[-500, 0, 7], [-500, 1e4, 7]])


@pytest.mark.parametrize(
    "wrong", [{"estimator": "forest"}, {"bandwidth": 0.0}, {"n_calibration": 1}], ids=str
)
def test_errors_of_parameters(rows, wrong):
    with pytest.raises(ValueError, match=f"'{next(iter(wrong))}' parameter"):
        DensityOfStates(AllValues(), **wrong).fit(rows)
