"""What the detectors on features take for features of a network, and bring to length 1."""

import numpy as np
import pytest
import torch
from sklearn.base import BaseEstimator, TransformerMixin, clone
from sklearn.datasets import load_breast_cancer
from sklearn.decomposition import PCA
from sklearn.frozen import FrozenEstimator
from sklearn.model_selection import GridSearchCV
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import FunctionTransformer, StandardScaler
from torch import nn

import skood
from skood.density import Autoencoder
from skood.metrics import auroc
from skood.posthoc._models import is_network

DETECTORS = [skood.KNN(n_neighbors=3), skood.Mahalanobis(), skood.RelativeMahalanobis()]


def name_of(detector):
    return type(detector).__name__


def module():
    """A network with 5 features."""
    generator = torch.Generator().manual_seed(0)
    network = nn.Sequential(nn.Linear(4, 5), nn.ReLU(), nn.Linear(5, 3))
    for parameter in network.parameters():
        parameter.data.normal_(0, 1, generator=generator)
    return network


@pytest.fixture(scope="module")
def rows():
    rng = np.random.default_rng(0)
    y = np.arange(60) % 3
    return rng.normal(size=(60, 4)) + 3 * np.eye(3, 4)[y], y


class Embedding(TransformerMixin, BaseEstimator):
    """A transformer of a user, of which nobody can say what it does."""

    def fit(self, X, y=None):
        return self

    def transform(self, X):
        return 2 * np.asarray(X)

    def __sklearn_is_fitted__(self):
        return True


class SkorchNet(Embedding):
    """What a skorch net with a ``transform`` looks like."""

    def __init__(self, module=nn.Linear):
        self.module = module

    def fit(self, X, y=None):
        self.module_ = self.module(4, 4)
        return self


def mlp():
    return skood.MLP((5,), max_epochs=1, random_state=0)


NETWORKS = {
    "our own": lambda X, y: mlp(),
    "our own, frozen": lambda X, y: FrozenEstimator(mlp().fit(X, y)),
    "a module": lambda X, y: module(),
    "a module, frozen": lambda X, y: FrozenEstimator(module()),
    "PretrainedClassifier": lambda X, y: skood.PretrainedClassifier(module()),
    "a module without a head": lambda X, y: nn.Sequential(nn.Flatten(), nn.BatchNorm1d(4)).eval(),
    "FeatureExtractor": lambda X, y: skood.FeatureExtractor(module()),
    "skorch": lambda X, y: SkorchNet(),
    "end of a Pipeline": lambda X, y: make_pipeline(StandardScaler(), mlp()),
    "frozen end of a Pipeline": lambda X, y: make_pipeline(
        FunctionTransformer(), FrozenEstimator(mlp().fit(X, y))
    ),
    "a frozen Pipeline": lambda X, y: FrozenEstimator(
        make_pipeline(StandardScaler(), mlp(), "passthrough").fit(X, y)
    ),
    "found by a search": lambda X, y: GridSearchCV(mlp(), {"max_epochs": [1]}, cv=2),
}
OTHERS = {
    "rows of X": lambda X, y: None,
    "a scaler": lambda X, y: StandardScaler(),
    "a frozen scaler": lambda X, y: FrozenEstimator(StandardScaler().fit(X)),
    "a Pipeline of none": lambda X, y: make_pipeline(StandardScaler(), PCA(2)),
    "PCA of a network": lambda X, y: make_pipeline(mlp(), PCA(2)),
    "somebody's transformer": lambda X, y: Embedding(),
    "latents of an autoencoder": lambda X, y: Autoencoder(2, max_steps=1, random_state=0),
    "an empty Pipeline": lambda X, y: make_pipeline("passthrough"),
}


@pytest.mark.parametrize("detector", DETECTORS, ids=name_of)
@pytest.mark.parametrize("kind", [*NETWORKS, *OTHERS])
def test_features_of_a_network_alone_are_normalised(detector, kind, rows):
    X, y = rows
    made = {**NETWORKS, **OTHERS}[kind](X, y)
    scores = {}
    for normalize in ("auto", True, False):
        fitted = clone(detector).set_params(features=made, normalize=normalize)
        fitted.set_params(threshold_fraction=0.0, random_state=0).fit(X, y)
        assert fitted.normalizes_ == ((kind in NETWORKS) if normalize == "auto" else normalize)
        scores[normalize] = fitted.score_samples(X)
    np.testing.assert_array_equal(scores["auto"], scores[kind in NETWORKS])
    assert np.abs(scores[True] - scores[False]).max() > 1e-3


@pytest.mark.parametrize("detector", DETECTORS, ids=name_of)
def test_normalised_means_that_lengths_do_not_count(detector, rows):
    X, y = rows
    lengths = np.random.default_rng(1).uniform(0.5, 2, (len(X), 1))
    detector = clone(detector)
    for normalize, same in ((True, True), (False, False), ("auto", False)):
        detector.set_params(normalize=normalize)
        scores = detector.fit(X, y).score_samples(X)
        scaled = detector.fit(lengths * X, y).score_samples(lengths * X)
        assert np.allclose(scores, scaled, rtol=1e-6, atol=1e-9) == same


def test_what_was_learned_is_of_length_1(rows):
    X, y = rows
    unit = X / np.linalg.norm(X, axis=1, keepdims=True)
    means = np.array([unit[y == k].mean(0) for k in range(3)])
    detector = skood.RelativeMahalanobis(normalize=True).fit(X, y)
    np.testing.assert_allclose(detector.means_, means, rtol=1e-12)
    np.testing.assert_allclose(detector.mean_, unit.mean(0), rtol=1e-12)
    bank = skood.KNN(n_neighbors=3, normalize=True).fit(X).bank_
    np.testing.assert_allclose(bank, unit - unit.mean(0), rtol=1e-9, atol=1e-12)


def test_a_training_row_is_its_own_nearest_neighbour(rows):
    X, _ = rows
    for features in (None, module()):
        detector = skood.KNN(features, n_neighbors=1).fit(X)
        np.testing.assert_allclose(detector.score_samples(X), 0, atol=1e-6)


def test_a_network_before_the_detector_gives_rows(rows):
    X, y = rows
    network = FrozenEstimator(mlp().fit(X, y))
    before = make_pipeline(network, skood.KNN(n_neighbors=3)).fit(X)
    assert not before[-1].normalizes_
    said = make_pipeline(network, skood.KNN(n_neighbors=3, normalize=True)).fit(X)
    inside = skood.KNN(network, n_neighbors=3).fit(X)
    np.testing.assert_allclose(said.score_samples(X), inside.score_samples(X), rtol=1e-5, atol=1e-6)


def test_a_standardised_table_with_default_settings():
    X, y = load_breast_cancer(return_X_y=True)
    X = StandardScaler().fit(X[y == 1]).transform(X)
    benign = np.flatnonzero(y == 1)
    rest = np.append(benign[250:], np.flatnonzero(y == 0))
    truth = np.where(y[rest] == 1, 1, -1)
    for detector in (skood.KNN(), skood.Mahalanobis()):
        scores = detector.fit(X[benign[:250]]).score_samples(X[rest])
        assert auroc(truth, scores) > 0.95
        detector.set_params(normalize=True).fit(X[benign[:250]])
        assert auroc(truth, detector.score_samples(X[rest])) < 0.85


@pytest.mark.parametrize("normalize", ["always", None, 2])
def test_another_value_is_refused(normalize, rows):
    with pytest.raises(ValueError, match=r"'normalize' parameter of KNN must be.*'auto'"):
        skood.KNN(normalize=normalize).fit(rows[0])


def test_densities_are_no_networks():
    """They hold a module too, but where a latent lies is what they say."""
    model = Autoencoder(2, max_steps=1, random_state=0).fit(np.eye(8))
    assert isinstance(model.module_, nn.Module)
    assert not is_network(model)
