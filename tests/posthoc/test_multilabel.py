"""Networks whose labels do not exclude each other."""

import numpy as np
import pytest
import torch
from scipy.special import expit
from sklearn.utils import get_tags
from torch import nn

import skood
from skood.classifiers import PretrainedClassifier

X = np.random.default_rng(0).normal(size=(60, 5)).astype(np.float32)
Y = np.random.default_rng(1).integers(2, size=(60, 4))


def network():
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return nn.Sequential(nn.Linear(5, 8), nn.ReLU(), nn.Linear(8, 4))


@pytest.fixture
def logits():
    with torch.no_grad():
        return network()(torch.from_numpy(X)).double().numpy()


@pytest.fixture(params=["logits", "probabilities"])
def classifier(request):
    module = network()
    if request.param == "probabilities":
        module = nn.Sequential(module, nn.Sigmoid())
    return PretrainedClassifier(module, multilabel=True, classes=list("abcd"))


def test_scores(classifier, logits):
    """JointEnergy is the sum over labels of log(1 + exp(f))."""
    joint = np.log1p(np.exp(logits)).sum(1)
    for detector, expected in [
        (skood.Energy(classifier), joint),
        (skood.Energy(classifier, temperature=2), 2 * np.log1p(np.exp(logits / 2)).sum(1)),
        (skood.MSP(classifier), expit(logits).max(1)),
        (skood.MaxLogit(classifier), logits.max(1)),
    ]:
        for y in (None, Y, np.arange(60) % 2):
            scores = detector.fit(X, y).score_samples(X)
            np.testing.assert_allclose(scores, expected, rtol=1e-5, atol=1e-6)


def test_predictions(classifier, logits):
    np.testing.assert_allclose(classifier.predict_proba(X), expit(logits), rtol=1e-5)
    np.testing.assert_array_equal(classifier.predict(X), logits > 0)
    np.testing.assert_allclose(classifier.decision_function(X), logits, rtol=1e-4, atol=1e-5)
    assert classifier.fit(X).classes_.tolist() == list("abcd")
    assert get_tags(classifier).classifier_tags.multi_label
    assert classifier.score(X, (logits > 0).astype(int)) == 1


def test_one_label():
    """A sigmoid of one label is no choice between two classes."""
    module = nn.Sequential(nn.Linear(5, 1))
    classifier = PretrainedClassifier(module, multilabel=True)
    z = module(torch.from_numpy(X)).detach().double().numpy()
    assert classifier.predict_proba(X).shape == (60, 1)
    np.testing.assert_allclose(
        skood.Energy(classifier).fit(X).score_samples(X), np.logaddexp(0, z[:, 0]), rtol=1e-5
    )


def test_features(classifier):
    hidden = PretrainedClassifier(network()).transform(X)
    expected = skood.Mahalanobis(normalize=True).fit(hidden).score_samples(hidden)
    detector = skood.Mahalanobis(classifier).fit(X, Y)
    np.testing.assert_allclose(detector.score_samples(X), expected, rtol=1e-4)


@pytest.mark.parametrize(
    "name", ["Entropy", "GEN", "KLMatching", "ODIN", "ViM", "Gram", "MCDropout", "GradNorm"]
)
def test_scores_of_classes_that_exclude_each_other(classifier, name):
    message = f"{name} is a score of classes that exclude each other, but the network is multilabel"
    with pytest.raises(ValueError, match=message):
        getattr(skood, name)(classifier).fit(X, Y)


@pytest.mark.parametrize("y", [Y[:5], 3 * Y, Y - 1])
def test_labels_that_are_none(classifier, y):
    with pytest.raises(ValueError, match=r"y has shape .* expected 0 or 1 for each item and label"):
        skood.Energy(classifier).fit(X, y)


def test_labels_of_several_columns_elsewhere():
    with pytest.raises(ValueError, match="y should be a 1d array"):
        skood.Energy(network()).fit(X, Y)


def test_known_outliers(classifier):
    y = np.where(np.arange(60) < 10, -1, 0)
    detector = skood.Energy(classifier).fit(X, y)
    assert detector.offset_ == skood.Energy(classifier).fit(X[10:]).offset_


def test_calibrated(classifier):
    detector = skood.ConformalDetector(skood.Energy(classifier), random_state=0)
    assert set(detector.fit(X, X_calibration=X).predict(X)) <= {-1, 1}
