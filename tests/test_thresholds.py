"""Thresholds: which rows they are read from, and how many new rows they reject."""

import numpy as np
import pytest
from estimators import tiny_flow
from sklearn.base import BaseEstimator, clone
from sklearn.decomposition import PCA
from sklearn.ensemble import ExtraTreesClassifier
from sklearn.frozen import FrozenEstimator
from sklearn.linear_model import LogisticRegression
from sklearn.mixture import GaussianMixture
from sklearn.neighbors import KernelDensity
from sklearn.preprocessing import PolynomialFeatures
from torch import nn

from skood import (
    KNN,
    MLP,
    MSP,
    SHE,
    WAIC,
    DeepEnsemble,
    DeepSVDD,
    DensityOfStates,
    Gram,
    LatentNorm,
    LikelihoodRatio,
    LocalIntrinsicDimension,
    LogitNorm,
    LogLikelihood,
    Mahalanobis,
    Residual,
    TemperatureScaling,
    Typicality,
)

N_SEEDS = 12


class Seen(BaseEstimator):
    """Density that is high on the rows that it was fitted to, and remembers them."""

    def fit(self, X, y=None):
        self.rows_, self.labels_ = np.sort(X[:, 0]), y
        return self

    def score_samples(self, X):
        return np.where(np.isin(X[:, 0], self.rows_), 1e6, 0) + X[:, 0] / 1000


def numbered(n_rows):
    return np.arange(n_rows, dtype=float)[:, None]


def rows_held_out(n_rows, y=None, **parameters):
    """The rows that the model of a detector was not fitted to."""
    detector = LogLikelihood(Seen(), **parameters).fit(numbered(n_rows), y)
    return np.setdiff1d(np.arange(n_rows), detector.density_.rows_)


def false_alarms(make, seed):
    """Fraction of 1000 new rows that a detector fitted to 1000 rows rejects."""
    rng = np.random.default_rng(seed)
    centres = rng.normal(size=(3, 6))
    y = rng.integers(3, size=2000)
    X = centres[y] + rng.normal(size=(2000, 6))
    detector = make(seed).fit(X[:1000], y[:1000])
    return (detector.predict(X[1000:]) == -1).mean()


POLYNOMIALS = PolynomialFeatures(3).fit(np.ones((1, 6)))


@pytest.mark.parametrize(
    ("make", "without"),
    [
        (lambda seed: LogLikelihood(GaussianMixture(30, max_iter=10, random_state=seed)), 0.15),
        (lambda seed: LogLikelihood(KernelDensity(bandwidth=0.3)), 0.9),
        (lambda seed: MSP(ExtraTreesClassifier(30, random_state=seed)), 0.5),
        (lambda seed: Mahalanobis(clone(POLYNOMIALS)), 0.07),
        (lambda seed: Mahalanobis(FrozenEstimator(POLYNOMIALS)), 0.07),
    ],
    ids=["GaussianMixture", "KernelDensity", "trees", "features", "statistics"],
)
@pytest.mark.filterwarnings("ignore::sklearn.exceptions.ConvergenceWarning")
def test_new_rows_are_rejected_at_the_rate_of_contamination(make, without):
    rates = [false_alarms(make, seed) for seed in range(N_SEEDS)]
    # The rate of one threshold, from 100 rows, has a standard deviation of .022.
    assert 0.035 < np.mean(rates) < 0.065
    on_training_rows = [
        false_alarms(lambda s: make(s).set_params(threshold_fraction=0), seed) for seed in range(3)
    ]
    assert np.mean(on_training_rows) > without


def test_the_rows_of_the_threshold_are_not_learned_from():
    held_out = rows_held_out(1000, random_state=0)
    assert len(held_out) == 100
    detector = LogLikelihood(Seen(), random_state=0).fit(numbered(1000))
    # The rank of the threshold is .05 (100 + 1) = 5.05.
    expected = np.interp(5.05, np.arange(1, 101), held_out / 1000)
    assert detector.offset_ == pytest.approx(expected, rel=1e-6)


def test_how_many_rows_are_held_out():
    assert len(rows_held_out(499)) == 0
    assert len(rows_held_out(500)) == 50
    assert len(rows_held_out(499, threshold_fraction=0.2)) == 99
    assert len(rows_held_out(1000, threshold_fraction=0)) == 0
    assert len(rows_held_out(60_000)) == 5000


def test_few_rows_give_the_threshold_that_rejects_contamination_of_them():
    X = np.random.default_rng(0).normal(size=(400, 2))
    detector = LogLikelihood(KernelDensity(), contamination=0.1).fit(X)
    assert (detector.predict(X) == -1).sum() == 40


def test_the_split_does_not_depend_on_the_seed_of_a_fit():
    first = rows_held_out(700, random_state=0)
    for other in (1, None):
        np.testing.assert_array_equal(rows_held_out(700, random_state=other), first)


def test_a_part_of_every_class_is_held_out():
    y = np.repeat(["a", "b", "c"], [600, 300, 100])
    held_out = rows_held_out(1000, y)
    assert np.unique(y[held_out], return_counts=True)[1].tolist() == [60, 30, 10]
    # Of each of 150 classes, six or seven rows, one is held out in six or seven of ten.
    y = np.arange(1000) % 150
    held_out = rows_held_out(1000, y)
    counts = np.bincount(y[held_out], minlength=150)
    assert len(held_out) == 100
    assert counts.max() == 1
    # A class of a single row is learned from, however many there are of them.
    y = np.r_[np.arange(450), np.full(550, 450)]
    assert rows_held_out(1000, y).min() >= 450
    assert len(rows_held_out(1000, np.arange(1000))) == 0


def test_labels_go_with_their_rows_and_outliers_are_not_held_out():
    y = np.arange(1000) % 7
    y[::4] = -1
    density = LogLikelihood(Seen()).fit(numbered(1000), y).density_
    assert len(density.rows_) == 675
    np.testing.assert_array_equal(density.labels_, y[density.rows_.astype(int)])


def fitted(estimator, rng):
    return estimator.fit(rng.normal(size=(50, 3)), np.arange(50) % 2)


def holds_out(detector, X, y):
    """Whether the threshold is not the percentile of the rows given to fit."""
    detector.fit(X, y)
    below = (detector.predict(X) == -1).mean()
    return below != 0.05


def test_models_that_came_trained_leave_all_rows_to_the_threshold():
    rng = np.random.default_rng(0)
    X, y = rng.normal(size=(1000, 3)), rng.integers(2, size=1000)
    logistic = FrozenEstimator(fitted(LogisticRegression(), rng))
    density = FrozenEstimator(fitted(KernelDensity(), rng))
    for detector in (
        MSP(logistic),
        MSP(nn.Linear(3, 2)),
        SHE(nn.Linear(3, 2)),
        LogLikelihood(density),
        WAIC([density, FrozenEstimator(fitted(GaussianMixture(), rng))]),
        LatentNorm(FrozenEstimator(fitted(PCA(whiten=True), rng))),
        LikelihoodRatio(density, FrozenEstimator(fitted(KernelDensity(bandwidth=0.1), rng))),
        DeepEnsemble([logistic, logistic]),
    ):
        assert not holds_out(detector, X, y), detector
    for detector in (KNN(), KNN(nn.Linear(3, 2))):
        assert n_learned(detector, X, y) == 1000


def n_learned(detector, X, y):
    """Return the number of rows that a KNN has learned from; its threshold leaves each one out."""
    return len(detector.fit(X, y).bank_)


def test_one_model_to_train_is_enough_to_hold_rows_out():
    rng = np.random.default_rng(0)
    X, y = rng.normal(size=(1000, 3)), rng.integers(2, size=1000)
    density = FrozenEstimator(fitted(KernelDensity(), rng))
    for detector in (
        MSP(LogisticRegression()),
        LikelihoodRatio(density, KernelDensity(bandwidth=0.2)),
        WAIC([density, KernelDensity(bandwidth=0.2)]),
        Residual(nn.Linear(3, 2)),
    ):
        assert holds_out(detector, X, y), detector
        assert not holds_out(clone(detector).set_params(threshold_fraction=0), X, y), detector
    assert holds_out(KNN(PCA(2)), X, y)
    assert n_learned(KNN(PCA(2)), X, y) == 900
    assert n_learned(KNN(PCA(2), threshold_fraction=0), X, y) == 1000


def test_features_of_learning_are_not_kept():
    X = np.random.default_rng(0).normal(size=(600, 3))
    for features in (None, PCA(2)):
        assert not hasattr(KNN(features).fit(X), "_learned_on")


class Counted(KernelDensity):
    trained = 0

    def fit(self, X, y=None, sample_weight=None):
        Counted.trained += 1
        return super().fit(X, y, sample_weight)


def test_a_search_trains_one_model(tmp_path):
    X = np.random.default_rng(0).normal(size=(600, 3))
    before = Counted.trained
    for contamination in (0.05, 0.1):
        LogLikelihood(Counted(), contamination=contamination, memory=str(tmp_path)).fit(X)
    assert Counted.trained == before + 1


def test_detectors_with_other_rows_of_their_own():
    """Rows held out by another parameter are those of the threshold, too."""
    rng = np.random.default_rng(0)
    X, y = rng.normal(size=(800, 3)), np.arange(800) % 2
    fitted_to = []

    class Recorded(LogisticRegression):
        def fit(self, X, y):
            fitted_to.append(len(X))
            return super().fit(X, y)

    scaling = TemperatureScaling(Recorded(), random_state=0).fit(X, y)
    assert "threshold_fraction" not in scaling.get_params()
    assert fitted_to == [720]

    typicality = Typicality(Seen(), random_state=0).fit(numbered(800))
    assert len(typicality.density_.rows_) == 720
    assert len(typicality.held_out_scores_) == 80
    scores = -np.abs(typicality.held_out_scores_ + typicality.entropy_)
    assert (scores < typicality.offset_).sum() == 4
    # Of 40 rows there is no such percentile, so that the threshold is read from all.
    X = rng.normal(size=(400, 2))
    few = Typicality(KernelDensity(), random_state=0).fit(X)
    assert (few.predict(X) == -1).sum() == 20


def test_gram_reads_the_threshold_from_rows_that_its_classifier_has_not_seen():
    rng = np.random.default_rng(0)
    X, y = rng.normal(size=(800, 3)), np.arange(800) % 2
    network = MLP((4,), max_epochs=2, batch_size=200, random_state=0)
    detector = Gram(network, powers=(1,), random_state=0).fit(X, y)
    _, held_out = detector._split_for_threshold(len(X), y)
    assert len(held_out) == 80
    # The rank of the threshold is .05 (80 + 1) = 4.05; ties lie on it.
    assert (detector.score_samples(X[held_out]) < detector.offset_).sum() <= 4


@pytest.mark.filterwarnings("ignore:the training loss of LogitNorm:UserWarning")
def test_networks_that_are_trained_on_another_objective():
    rng = np.random.default_rng(0)
    X, y = rng.normal(size=(600, 3)), np.arange(600) % 2
    network = MLP((4,), max_epochs=2, batch_size=200, random_state=0)

    for make in (LogitNorm, DeepSVDD):
        splits = {}
        for fraction in (0.0, 0.2):
            model = clone(network).set_params(validation_fraction=fraction)
            detector = make(model, random_state=0).fit(X, y)
            splits[fraction] = len(detector._split_for_threshold(len(X), y)[1])
            assert ("validation_loss" in detector.history_) == (fraction > 0)
        # The architecture holds out a fifth, or the detector a tenth.
        assert splits == {0.0: 60, 0.2: 0}


@pytest.mark.parametrize(
    ("detector", "n_scored"),
    [
        (DensityOfStates(KernelDensity(), n_calibration=55), 55),
        (DensityOfStates(KernelDensity(), n_calibration=None), 60),
        (LocalIntrinsicDimension(tiny_flow(), n_calibration=20, scale=-1.0), 20),
    ],
)
def test_scores_that_cost_seconds_are_computed_for_n_calibration_rows(
    detector, n_scored, monkeypatch
):
    scored = []
    plain = type(detector)._score_samples
    monkeypatch.setattr(
        type(detector), "_score_samples", lambda self, X: scored.append(len(X)) or plain(self, X)
    )
    detector.set_params(random_state=0).fit(np.random.default_rng(0).normal(size=(600, 3)))
    assert scored == [n_scored]
