"""Detectors of other libraries: direction, labels, and scores that depend on other rows."""

import pickle
import warnings

import joblib
import numpy as np
import pandas as pd
import pytest
from sklearn.base import BaseEstimator, OutlierMixin, clone
from sklearn.covariance import EllipticEnvelope
from sklearn.ensemble import IsolationForest
from sklearn.feature_selection import SelectKBest
from sklearn.frozen import FrozenEstimator
from sklearn.impute import SimpleImputer
from sklearn.linear_model import LogisticRegression
from sklearn.mixture import GaussianMixture
from sklearn.model_selection import GridSearchCV, KFold
from sklearn.neighbors import KernelDensity, LocalOutlierFactor
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import FunctionTransformer, StandardScaler
from sklearn.svm import OneClassSVM

import skood
from skood import ConformalDetector, EnsembleDetector, ExternalDetector, TunedThreshold, evaluate
from skood.metrics import auroc
from skood.model_selection import get_ood_scorer

OUTLIER = [[9.0, 9.0, 9.0, 9.0]]


@pytest.fixture
def X():
    return np.random.default_rng(0).normal(size=(90, 4))


class Distance(BaseEstimator):
    """Higher = more out-of-distribution."""

    def __init__(self, power=1, random_state=None):
        self.power = power
        self.random_state = random_state

    def fit(self, X, y=None):
        self.labels_ = y
        self.center_ = np.mean(X, axis=0)
        return self

    def decision_function(self, X):
        return np.linalg.norm(X - self.center_, axis=1) ** self.power


class Rank(Distance):
    """Counts training rows, and other rows of the call, that lie closer to the center."""

    def fit(self, X, y=None):
        super().fit(X)
        self.distances_ = super().decision_function(X)
        return self

    def decision_function(self, X):
        distances = super().decision_function(X)
        everyone = np.concatenate([self.distances_, distances])
        return (everyone[None] < distances[:, None]).mean(1)


class Standardised(Distance):
    """Cannot score a single row."""

    def decision_function(self, X):
        distances = super().decision_function(X)
        return (distances - distances.mean()) / max(distances.std(), 1e-12)


class Noisy(Distance):
    def decision_function(self, X):
        return super().decision_function(X) + np.random.default_rng().normal(size=len(X))


class Bare:
    """No scikit-learn estimator: no parameters, no labels, and `fit` returns None."""

    def fit(self, X):
        self.center = np.mean(X, axis=0)

    def score_samples(self, X):
        return -np.linalg.norm(X - self.center, axis=1)


def test_scores_of_outliers_are_turned(X):
    detector = ExternalDetector(Distance(power=2), higher="outlier").fit(X)
    expected = -np.square(X - X.mean(0)).sum(1)
    np.testing.assert_allclose(detector.score_samples(X), expected)
    assert (detector.method_, detector.higher_) == ("decision_function", "outlier")
    assert list(detector.predict(np.r_[X[:1], OUTLIER])) == [1, -1]


def test_scores_of_inliers_are_not(X):
    detector = ExternalDetector(Distance(), higher="inlier").fit(X)
    np.testing.assert_allclose(detector.score_samples(X), Distance().fit(X).decision_function(X))


@pytest.mark.parametrize(
    "detector",
    [
        IsolationForest(n_estimators=5, random_state=0),
        LocalOutlierFactor(5, novelty=True),
        OneClassSVM(),
        GaussianMixture(random_state=0),
        KernelDensity(),
        make_pipeline(StandardScaler(), OneClassSVM()),
        GridSearchCV(KernelDensity(), {"bandwidth": [0.5, 1.0]}, cv=2),
        skood.KNN(n_neighbors=3),
    ],
    ids=lambda detector: type(detector).__name__,
)
def test_the_direction_of_scikit_learn_is_known(detector, X):
    external = ExternalDetector(detector, threshold_fraction=0).fit(X)
    expected = clone(detector).fit(X).score_samples(X)
    np.testing.assert_allclose(external.score_samples(X), expected, rtol=1e-6)
    assert external.higher_ == "inlier"
    with pytest.raises(ValueError, match=r"score_samples of .* is higher for inliers"):
        ExternalDetector(detector, higher="outlier").fit(X)


def test_the_method_is_a_parameter(X):
    svm = OneClassSVM().fit(X)
    for method in ("score_samples", "decision_function"):
        detector = ExternalDetector(OneClassSVM(), method=method).fit(X)
        np.testing.assert_allclose(detector.score_samples(X), getattr(svm, method)(X))
    assert ExternalDetector(EllipticEnvelope()).fit(X).method_ == "score_samples"


class Guessed(OutlierMixin, Distance):
    """An outlier detector by its tags, with the opposite sign."""


@pytest.mark.parametrize("detector", [Distance(), Guessed(), LogisticRegression(), Bare()])
def test_an_unknown_direction_is_asked_for(detector, X):
    with pytest.raises(ValueError, match=r'give higher="inlier" if.*or higher="outlier" if'):
        ExternalDetector(detector).fit(X, np.where(X[:, 0] > 0, "a", "b"))


class Turned(OneClassSVM):
    def score_samples(self, X):
        return -super().score_samples(X)


def test_a_derived_class_may_turn_the_sign(X):
    turned = ExternalDetector(Turned(), higher="outlier").fit(X)
    np.testing.assert_allclose(turned.score_samples(X), OneClassSVM().fit(X).score_samples(X))


def test_errors_of_the_detector(X):
    with pytest.raises(ValueError, match="only with novelty=True"):
        ExternalDetector(LocalOutlierFactor()).fit(X)
    with pytest.raises(TypeError, match="got estimator class instead"):
        ExternalDetector(IsolationForest).fit(X)
    with pytest.raises(ValueError, match="has no score_samples or decision_function"):
        ExternalDetector(StandardScaler(), higher="inlier").fit(X)
    with pytest.raises(ValueError, match="has no decision_function"):
        ExternalDetector(KernelDensity(), method="decision_function").fit(X)
    with pytest.raises(ValueError, match=r"'detector' parameter .* implementing 'fit'"):
        ExternalDetector(object()).fit(X)
    three = LogisticRegression()
    with pytest.raises(ValueError, match=r"shape \(.*, 3\).*one value for each row"):
        ExternalDetector(three, higher="inlier").fit(X, np.arange(90) % 3)


def test_scores_that_are_no_numbers(X):
    class Broken(Distance):
        def decision_function(self, X):
            return np.where(X[:, 0] > 2, np.nan, super().decision_function(X))

    X[:, 0] = np.linspace(-1, 1, len(X))
    detector = ExternalDetector(Broken(), higher="outlier").fit(X)
    with pytest.raises(ValueError, match="NaN or inf as the score of 1"):
        detector.score_samples(OUTLIER)


def test_scores_that_depend_on_other_rows_are_of_rows_alone(X):
    detector = ExternalDetector(Rank(), higher="outlier").fit(X)
    assert detector.scores_alone_
    fitted = Rank().fit(X)
    alone = [-fitted.decision_function(row[None])[0] for row in X]
    np.testing.assert_array_equal(detector.score_samples(X), alone)
    # Fifty equal outliers in one call would look common.
    outliers = np.repeat(OUTLIER, 50, axis=0)
    assert auroc(np.repeat([1, -1], [90, 50]), detector.score_samples(np.r_[X, outliers])) == 1
    assert not ExternalDetector(Distance(), higher="outlier").fit(X).scores_alone_


def test_no_score_of_a_row_by_itself(X):
    with pytest.raises(ValueError, match="Standardised scores a row only relative to the other"):
        ExternalDetector(Standardised(), higher="outlier").fit(X)


def test_scores_that_are_drawn(X):
    with pytest.warns(UserWarning, match="Noisy gives other scores for the same rows"):
        ExternalDetector(Noisy(), higher="outlier").fit(X)


def test_a_class_that_knows_nothing_of_scikit_learn(X):
    bare = Bare()
    detector = clone(ExternalDetector(bare, higher="inlier")).fit(X, np.zeros(90))
    np.testing.assert_allclose(detector.score_samples(X), -np.linalg.norm(X - X.mean(0), axis=1))
    assert not hasattr(bare, "center")


def test_known_outliers_and_labels(X):
    y = np.where(np.arange(90) < 10, -1, np.arange(90) % 2)
    detector = ExternalDetector(Distance(), higher="outlier").fit(X, y)
    np.testing.assert_array_equal(detector.detector_.labels_, y[10:])
    np.testing.assert_allclose(detector.detector_.center_, X[10:].mean(0))
    selects = make_pipeline(SelectKBest(k=2), Distance())
    with pytest.raises(ValueError, match="requires y"):
        ExternalDetector(selects, higher="outlier").fit(X)
    assert ExternalDetector(selects, higher="outlier").fit(X, y).detector_[-1].center_.shape == (2,)


def test_the_threshold_is_read_from_rows_held_out():
    X = np.random.default_rng(0).normal(size=(1000, 2))
    detector = ExternalDetector(Distance(), higher="outlier").fit(X)
    assert not np.allclose(detector.detector_.center_, X.mean(0))
    trained = FrozenEstimator(Distance().fit(X))
    frozen = ExternalDetector(trained, higher="outlier").fit(X)
    np.testing.assert_allclose(frozen.detector_.center_, X.mean(0))
    assert np.mean(frozen.predict(X) == -1) == 0.05


def wrappers(detector):
    pair = [("one", detector), ("other", skood.Mahalanobis())]
    return [
        ConformalDetector(detector, 0.2, random_state=0),
        ConformalDetector(detector, 0.2, method="cross", n_splits=3, random_state=0),
        EnsembleDetector(pair, alpha=0.2, random_state=0),
        TunedThreshold(detector, random_state=0),
    ]


@pytest.mark.parametrize(
    "wrapper",
    wrappers(ExternalDetector(Distance(), higher="outlier")),
    ids=["conformal", "cross", "ensemble", "tuned"],
)
def test_inside_calibrated_detectors(wrapper, X):
    fitted = clone(wrapper).fit(X)
    assert list(fitted.predict(np.r_[X[:1] * 0, OUTLIER])) == [1, -1]
    copied = pickle.loads(pickle.dumps(fitted))
    np.testing.assert_array_equal(copied.decision_function(X), fitted.decision_function(X))
    assert "ExternalDetector" in fitted._repr_html_()


@pytest.mark.parametrize(
    "bare", [Distance(), make_pipeline(StandardScaler(), Distance())], ids=["bare", "pipeline"]
)
def test_without_it_the_error_names_it(bare, X):
    for wrapper in wrappers(bare):
        with pytest.raises(ValueError, match=r"skood\.ExternalDetector\(detector, higher="):
            wrapper.fit(X)
    for training in ({}, {"X_train": X}):
        with pytest.raises(ValueError, match=r"skood\.ExternalDetector\(detector, higher="):
            evaluate({"bare": bare}, X, {"far": X + 9}, **training)


def test_evaluate(X):
    named = {"external": ExternalDetector(Distance(), higher="outlier")}
    (row,) = evaluate(named, X[60:], {"far": X + 9}, X_train=X[:60])
    assert (row["detector"], row["auroc"]) == ("external", 1.0)


def test_search(X):
    """Over parameters of both."""
    search = GridSearchCV(
        ExternalDetector(Distance(), higher="outlier"),
        {"detector__power": [1, -1], "contamination": [0.05, 0.2]},
        scoring=get_ood_scorer("auroc"),
        cv=KFold(3, shuffle=True, random_state=0),
        error_score="raise",
    ).fit(np.r_[X, X[:30] + 4], np.repeat([0, -1], [90, 30]))
    assert search.best_params_["detector__power"] == 1
    assert search.best_score_ > 0.95


def test_seed_and_memory(X, tmp_path):
    memory = joblib.Memory(tmp_path, verbose=0)
    detector = ExternalDetector(
        make_pipeline(StandardScaler(), IsolationForest(n_estimators=5)),
        memory=memory,
        random_state=3,
    )
    first = detector.fit(X).score_samples(X)
    assert detector.detector_[-1].random_state is not None
    again = clone(detector).set_params(contamination=0.2).fit(X)
    np.testing.assert_array_equal(again.score_samples(X), first)
    assert len(list(tmp_path.rglob("output.pkl"))) == 1
    other = clone(detector).set_params(random_state=4).fit(X)
    assert np.any(other.score_samples(X) != first)


def test_columns_of_a_frame(X):
    frame = pd.DataFrame(X, columns=list("abcd"))
    for inner in (Distance(), make_pipeline(StandardScaler(), Distance())):
        detector = ExternalDetector(inner, higher="outlier").fit(frame)
        expected = ExternalDetector(inner, higher="outlier").fit(X).score_samples(X)
        np.testing.assert_allclose(detector.score_samples(frame), expected)
        with pytest.raises(ValueError, match="feature names"):
            detector.score_samples(frame[["d", "c", "b", "a"]])


def test_images_and_missing_values_reach_the_detector(X):
    seen = []

    def flat(images):
        seen.append(images.shape[1:])
        return images.reshape(len(images), -1)

    images = np.random.default_rng(0).normal(size=(40, 3, 4, 4))
    pipeline = make_pipeline(FunctionTransformer(flat), OneClassSVM())
    ExternalDetector(pipeline).fit(images).score_samples(images)
    assert set(seen) == {(3, 4, 4)}
    X[::7, 0] = np.nan
    imputed = make_pipeline(SimpleImputer(), Distance())
    detector = ExternalDetector(imputed, higher="outlier").fit(X)
    expected = (
        -Distance()
        .fit(SimpleImputer().fit_transform(X))
        .decision_function(SimpleImputer().fit_transform(X))
    )
    np.testing.assert_allclose(detector.score_samples(X), expected)


def test_no_warning(X):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        ExternalDetector(Distance(), higher="outlier").fit(X, np.zeros(90)).predict(X)
