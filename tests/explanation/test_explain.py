"""Explanations through pipelines, searches and other estimators around a detector."""

import numpy as np
import pandas as pd
import pytest
import torch
from sklearn.base import BaseEstimator, TransformerMixin
from sklearn.datasets import load_digits, load_iris
from sklearn.decomposition import PCA
from sklearn.frozen import FrozenEstimator
from sklearn.model_selection import GridSearchCV
from sklearn.neighbors import KernelDensity
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

import skood
from skood import GMM, KNN, LikelihoodRatio, LogLikelihood, Mahalanobis, PixelCNN
from skood.explanation import explain
from skood.model_selection import InlierFit, OODSplit, get_ood_scorer


@pytest.fixture(scope="module")
def frame():
    return load_iris(as_frame=True).data


@pytest.fixture(scope="module")
def digits():
    return load_digits().images[:60]


def tiny_density():
    return PixelCNN(2, 1, n_levels=17, value_range=(0, 16), max_steps=3, random_state=0)


def test_names_of_columns(frame):
    detector = Mahalanobis().fit(frame)
    found = detector.explain(frame[:1])
    assert found.feature_names == tuple(frame.columns)
    assert "petal length (cm)" in repr(found)
    assert Mahalanobis().fit(frame.to_numpy()).explain(frame[:1].to_numpy()).feature_names == (
        *("x0", "x1", "x2", "x3"),
    )
    inside = Mahalanobis(StandardScaler()).fit(frame).explain(frame[:1])
    assert inside.feature_names == tuple(frame.columns)
    images = Mahalanobis().fit(load_digits().images[:90]).explain(load_digits().images[:1])
    assert images.feature_names[9] == "pixel (1, 1)"


def test_a_pipeline(frame):
    pipeline = make_pipeline(StandardScaler(), Mahalanobis()).fit(frame)
    found = explain(pipeline, frame[:3])
    np.testing.assert_array_equal(found.scores, pipeline.score_samples(frame[:3]))
    assert found.feature_names == tuple(frame.columns)
    alone = make_pipeline("passthrough", KNN(n_neighbors=1)).fit(frame)
    np.testing.assert_array_equal(explain(alone, frame[4:6]).indices, [[4], [5]])
    assert explain(make_pipeline(Mahalanobis()).fit(frame), frame[:3]).feature_names == tuple(
        frame.columns
    )


class Nameless(TransformerMixin, BaseEstimator):
    def fit(self, X, y=None):
        self.fitted_ = True
        return self

    def transform(self, X):
        return np.asarray(X)


def test_a_pipeline_without_names(frame):
    pipeline = make_pipeline(Nameless(), Mahalanobis()).fit(frame)
    assert explain(pipeline, frame[:1]).feature_names == ("x0", "x1", "x2", "x3")
    reduced = make_pipeline(PCA(2), Mahalanobis()).fit(frame)
    assert explain(reduced, frame[:1]).feature_names == ("pca0", "pca1")


def test_an_inlier_fit_counts_rows_of_all_of_x(frame):
    # Two flowers are equal.
    frame = frame.drop_duplicates()
    y = np.where(np.arange(149) % 4, 0, -1)
    detector = InlierFit(make_pipeline(StandardScaler(), KNN(n_neighbors=1))).fit(frame, y)
    kept = np.flatnonzero(y == 0)
    np.testing.assert_array_equal(detector.explain(frame.iloc[kept]).indices[:, 0], kept)
    without = InlierFit(KNN(n_neighbors=1)).fit(frame)
    np.testing.assert_array_equal(without.explain(frame[:3]).indices[:, 0], [0, 1, 2])
    assert not hasattr(InlierFit(GMM()).fit(frame), "explain")
    assert not hasattr(InlierFit(make_pipeline(StandardScaler(), GMM())), "explain")


def test_a_search_and_a_frozen_detector(frame):
    y = np.where(np.arange(150) < 100, 0, -1)
    search = GridSearchCV(
        InlierFit(KNN()),
        {"estimator__n_neighbors": [2, 3]},
        scoring=get_ood_scorer("auroc"),
        cv=OODSplit(3, random_state=0),
    ).fit(frame, y)
    assert explain(search, frame[:2]).indices[:, 0].tolist() == [0, 1]
    frozen = FrozenEstimator(KNN(n_neighbors=2).fit(frame))
    assert explain(frozen, frame[:2]).indices[:, 0].tolist() == [0, 1]


@pytest.mark.parametrize(
    "wrap", [lambda d: d, lambda d: make_pipeline(StandardScaler(), d)], ids=["alone", "pipeline"]
)
def test_the_error_names_the_detectors_that_explain(frame, wrap):
    with pytest.raises(TypeError, match=r"GMM has no explanation of its own.*KNN.*attribute"):
        explain(wrap(GMM()).fit(frame), frame)


def test_pixels(digits):
    for detector in (LogLikelihood(tiny_density()), LikelihoodRatio(tiny_density())):
        assert not hasattr(detector, "explain")
        detector.fit(digits)
        found = detector.explain(digits[:3])
        np.testing.assert_array_equal(found.contributions, detector.score_pixels(digits[:3]))
        np.testing.assert_allclose(found.scores, detector.score_samples(digits[:3]), rtol=1e-6)
        (name, value), *_ = found[1].largest()
        row, column = map(int, name.removeprefix("pixel (").removesuffix(")").split(", "))
        assert found.contributions[1, row, column] == value
    assert not hasattr(LogLikelihood(KernelDensity()).fit(digits.reshape(60, -1)), "explain")


def test_datasets_and_images(digits):
    class Digits(torch.utils.data.Dataset):
        def __len__(self):
            return len(digits)

        def __getitem__(self, i):
            return torch.as_tensor(digits[i])

    detector = KNN(n_neighbors=2).fit(Digits())
    for X in (Digits(), digits, torch.as_tensor(digits), digits[:, None]):
        np.testing.assert_array_equal(detector.explain(X).indices[:, 0], np.arange(60))


def test_selection_length_and_repr(frame):
    found = KNN(n_neighbors=9).fit(frame).explain(frame)
    assert len(found) == 150
    assert len(found[3]) == len(found[[4]]) == 1
    assert len(found[:7]) == 7
    np.testing.assert_array_equal(found[3].indices, found.indices[3:4])
    with pytest.raises(IndexError):
        found[150]
    text = repr(found)
    assert text.startswith("NeighborsExplanation of 150 items\nitem 0: score")
    assert text.endswith("and 147 more items")
    assert "... 4 more" in text
    assert found.largest(1, n=1) == [(int(found.indices[1, -1]), found.scores[1])]


def test_a_classifier_that_gives_probabilities_alone(frame):
    from sklearn.ensemble import RandomForestClassifier

    y = load_iris().target
    detector = skood.MSP(RandomForestClassifier(5, random_state=0)).fit(frame, y)
    found = detector.explain(frame)
    np.testing.assert_allclose(
        found.constants + found.contributions.sum(1), found.scores, rtol=1e-12
    )


def test_a_bare_module_is_explained_in_its_features():
    X = np.random.default_rng(0).normal(size=(80, 1, 6, 6)).astype(np.float32)
    module = torch.nn.Sequential(
        torch.nn.Flatten(), torch.nn.Linear(36, 5), torch.nn.ReLU(), torch.nn.Linear(5, 3)
    )
    found = Mahalanobis(module).fit(X).explain(X[:2])
    assert found.feature_contributions.shape == (2, 5)
    assert pd.Series(found.feature_names).nunique() == 5


@pytest.mark.parametrize("with_outliers", [False, True])
def test_rows_of_calibrated_detectors(with_outliers):
    """Indices are rows of the X that the calibrated detector was given."""
    rng = np.random.default_rng(0)
    X = rng.normal(size=(80, 3))
    y = np.where(np.arange(80) % 7 == 0, -1, 1) if with_outliers else None
    knn = skood.KNN(n_neighbors=3)
    new = rng.normal(size=(4, 3))
    for detector in (
        skood.ConformalDetector(knn, alpha=0.2, random_state=0),
        skood.TunedThreshold(knn, objective="tpr", random_state=0),
    ):
        found = detector.fit(X, y).explain(new)
        np.testing.assert_array_equal(found.scores, detector.score_samples(new))
        distances = np.linalg.norm(new[:, None] - X[found.indices], axis=2)
        np.testing.assert_allclose(distances, found.distances, rtol=1e-6)
        if with_outliers:
            assert (y[found.indices] != -1).all()
        detector.fit(X, y, X_calibration=rng.normal(size=(30, 3)))
        distances = np.linalg.norm(
            new[:, None] - X[(found := detector.explain(new)).indices], axis=2
        )
        np.testing.assert_allclose(distances, found.distances, rtol=1e-6)


def test_frozen_detectors_keep_their_rows():
    rng = np.random.default_rng(0)
    X, others = rng.normal(size=(50, 3)), rng.normal(size=(40, 3))
    knn = skood.KNN(n_neighbors=3).fit(X)
    detector = skood.ConformalDetector(FrozenEstimator(knn), alpha=0.2).fit(others)
    np.testing.assert_array_equal(detector.explain(X).indices, knn.explain(X).indices)


def test_calibrated_detectors_without_an_explanation():
    X = np.random.default_rng(0).normal(size=(90, 3))
    cross = skood.ConformalDetector(skood.KNN(), alpha=0.2, method="cross", random_state=0)
    pair = skood.EnsembleDetector([("a", skood.KNN()), ("b", skood.Mahalanobis())], alpha=0.2)
    forest = skood.ConformalDetector(skood.GMM(), alpha=0.2, random_state=0)
    for detector in (cross, pair, forest):
        assert not hasattr(detector.fit(X), "explain")
