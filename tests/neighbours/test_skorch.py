"""Networks of skorch: the classifier itself, frozen or trained by a detector, and its module."""

import numpy as np
import pytest
import torch
from sklearn.datasets import load_digits
from sklearn.frozen import FrozenEstimator
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from torch import nn

import skood

skorch = pytest.importorskip("skorch")


class Images(nn.Module):
    def __init__(self, n_classes=4, ends_in_softmax=False):
        super().__init__()
        self.body = nn.Sequential(nn.Conv2d(1, 8, 3), nn.ReLU(), nn.AdaptiveAvgPool2d(2))
        self.head = nn.Linear(32, n_classes)
        self.ends_in_softmax = ends_in_softmax

    def forward(self, X):
        z = self.head(self.body(X).flatten(1))
        return torch.softmax(z, 1) if self.ends_in_softmax else z


class Rows(nn.Module):
    def __init__(self, n_outputs=4):
        super().__init__()
        self.body, self.head = nn.Sequential(nn.Linear(64, 16), nn.ReLU()), nn.Linear(16, n_outputs)

    def forward(self, X):
        # What a scaler makes of a frame of polars is float64.
        return self.head(self.body(X.float()))


def net(module, criterion=nn.CrossEntropyLoss, cls="NeuralNetClassifier", **settings):
    return getattr(skorch, cls)(
        module,
        criterion=criterion,
        max_epochs=3,
        lr=0.2,
        batch_size=64,
        train_split=None,
        verbose=0,
        **settings,
    )


@pytest.fixture(scope="module")
def data():
    images, y = load_digits(n_class=4, return_X_y=True)
    images = (images[:300] / 16).astype(np.float32).reshape(-1, 1, 8, 8)
    return images, y[:300].astype(np.int64)


def fitted(model, X, y):
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return model.fit(X, y)


@pytest.fixture(scope="module")
def trained(data):
    return fitted(net(Images), *data)


def test_frozen(trained, data):
    X, y = data
    proba = trained.predict_proba(X)
    detector = skood.MSP(FrozenEstimator(trained)).fit(X)
    np.testing.assert_allclose(detector.score_samples(X), proba.max(1), atol=1e-6)
    np.testing.assert_allclose(detector.score_samples(X[3:4]), proba[3:4].max(1), atol=1e-6)
    for other in (skood.Entropy, skood.KLMatching, skood.GEN):
        assert np.isfinite(other(FrozenEstimator(trained)).fit(X, y).score_samples(X)).all()


def test_trained_by_the_detector(data):
    X, y = data
    detector = fitted(skood.MSP(net(Images)), X, y)
    proba = detector.classifier_.predict_proba(X)
    assert detector.classifier_.initialized_
    np.testing.assert_allclose(detector.score_samples(X), proba.max(1), atol=1e-6)
    with pytest.raises(ValueError, match=r"requires y.*FrozenEstimator"):
        skood.MSP(net(Images)).fit(X)


def test_module(trained, data, run, check_classifier):
    X, _ = data
    module = trained.module_
    logits = run(module, X, lambda net, x: net(x))
    check_classifier(module, X, logits, run(module, X, lambda net, x: net.body(x).flatten(1)))
    proba = skood.MSP(module).fit(X).classifier_.predict_proba(X)
    np.testing.assert_allclose(proba, trained.predict_proba(X), atol=1e-6)


def test_module_that_ends_in_softmax(data, run, check_classifier):
    """skorch's default criterion, NLLLoss, wants probabilities."""
    X, y = data
    model = fitted(net(Images, nn.NLLLoss, module__ends_in_softmax=True), X, y)
    module = model.module_
    features = run(module, X, lambda net, x: net.body(x).flatten(1))
    logits = run(module, X, lambda net, x: net.head(net.body(x).flatten(1)))
    check_classifier(module, X, logits, features)
    scores = skood.MSP(FrozenEstimator(model)).fit(X).score_samples(X)
    np.testing.assert_allclose(scores, skood.MSP(module).fit(X).score_samples(X), atol=1e-6)


def test_binary(data):
    X, y = data
    X, y = X.reshape(len(X), -1), (y > 1).astype(np.float32)
    model = fitted(
        net(Rows, nn.BCEWithLogitsLoss, "NeuralNetBinaryClassifier", module__n_outputs=1), X, y
    )
    proba = model.predict_proba(X)
    for classifier in (FrozenEstimator(model), model.module_):
        detector = skood.MSP(classifier).fit(X)
        np.testing.assert_allclose(detector.score_samples(X), proba.max(1), atol=1e-6)
        assert detector.classifier_.predict_proba(X).shape == (len(X), 2)


@pytest.mark.parametrize("method", ["ViM", "ReAct", "ODIN", "Gram"])
def test_what_reads_a_network_names_the_module(trained, data, method):
    with pytest.raises(TypeError, match=r"reads a network.*module_ of a skorch net"):
        getattr(skood, method)(FrozenEstimator(trained)).fit(*data)


@pytest.mark.parametrize("method", ["KNN", "Mahalanobis", "GMM"])
def test_what_reads_features_names_what_it_takes(trained, data, method):
    with pytest.raises((TypeError, ValueError), match=r"transform"):
        getattr(skood, method)(FrozenEstimator(trained)).fit(*data)


def test_pipeline_of_rows(data):
    X, y = data
    X = X.reshape(len(X), -1)
    pipe = fitted(make_pipeline(StandardScaler(), net(Rows)), X, y)
    scores = skood.MSP(FrozenEstimator(pipe)).fit(X).score_samples(X)
    np.testing.assert_allclose(scores, pipe.predict_proba(X).max(1), atol=1e-6)


def test_rows_of_float64(data):
    """What is scored is float32 as in training, whatever dtype the user has."""
    X, y = data
    X = X.reshape(len(X), -1)
    model = fitted(net(Rows), X, y)
    scores = skood.MSP(model.module_).fit(X).score_samples(X)
    again = skood.MSP(model.module_).fit(X.astype(np.float64)).score_samples(X.astype(np.float64))
    np.testing.assert_allclose(again, scores, atol=1e-6)


def test_dataset_with_labels(trained, data):
    X, y = data
    dataset = skorch.dataset.Dataset(X, y)
    scores = skood.MSP(trained.module_).fit(X).score_samples(X)
    detector = skood.MSP(trained.module_).fit(dataset)
    np.testing.assert_allclose(detector.score_samples(dataset), scores, atol=1e-6)
