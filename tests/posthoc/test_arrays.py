"""Scores of saved outputs equal the scores of the network that made them."""

import inspect
import subprocess
import sys

import numpy as np
import pytest
import torch
from scipy.spatial.distance import cdist
from scipy.special import log_softmax, softmax
from sklearn.base import clone
from sklearn.exceptions import NotFittedError
from sklearn.linear_model import LogisticRegression
from torch import nn

import skood
from skood import functional, posthoc
from skood.base import estimator, parameter
from skood.posthoc import ConceptDetector, FeatureDetector, Outputs, OutputsDetector

_TEXTS = np.random.default_rng(1).normal(size=(30, 8))
NEGATIVES = {"candidates": _TEXTS[3:20], "n_groups": 2}
PARAMETERS = {
    "OpenMax": {"rows": "all"},
    "NNGuide": {"bank_fraction": 0.5},
    "MCM": {"class_texts": _TEXTS[:3]},
    "NegLabel": {"class_texts": _TEXTS[:3], **NEGATIVES},
    "CSP": {"class_texts": _TEXTS[:3], **NEGATIVES, "adjectives": _TEXTS[20:]},
}


def subclasses(base):
    members = [getattr(posthoc, name) for name in posthoc.__all__]
    return [
        cls(random_state=0, **PARAMETERS.get(cls.__name__, {}))
        for cls in members
        if issubclass(cls, base) and not inspect.isabstract(cls)
    ]


ON_OUTPUTS = subclasses(OutputsDetector)
ON_FEATURES = [*subclasses(FeatureDetector), skood.NECO(max_logit=True)]
LEARN_NOTHING = [detector for detector in ON_OUTPUTS if detector._needs == "nothing"]


def name_of(detector):
    return type(detector).__name__


class Saved:
    """A network, data, and the outputs that a user saved."""

    def __init__(self):
        generator = torch.Generator().manual_seed(0)
        self.module = nn.Sequential(nn.Linear(5, 8), nn.ReLU(), nn.Linear(8, 3))
        for values in self.module.parameters():
            values.data.normal_(generator=generator)
        rng = np.random.default_rng(0)
        self.X = rng.normal(size=(600, 5)).astype(np.float32)
        self.new = 3 * rng.normal(size=(200, 5)).astype(np.float32)
        # One label in ten is wrong, so that a temperature has an optimum.
        self.y = self.classifier(self.X).predict(self.X)
        self.y[::10] = (self.y[::10] + 1) % 3
        self.head = self.module[2].weight, self.module[2].bias
        # Subsets of shared data read the pass over all rows.
        self.shared = skood.share_forward_pass(self.X)
        self.shared_new = skood.share_forward_pass(self.new)
        skood.MSP(self.module).fit(self.shared).score_samples(self.shared_new)

    def classifier(self, X):
        return skood.PretrainedClassifier(self.module).fit(X)

    def outputs(self, X):
        classifier = self.classifier(X)
        logits = classifier.decision_function(X).astype(np.float32)
        return {"logits": logits, "features": classifier.transform(X), "head": self.head}


@pytest.fixture(scope="module")
def saved():
    return Saved()


@pytest.mark.parametrize("detector", [*ON_OUTPUTS, *ON_FEATURES], ids=name_of)
def test_scores_and_threshold_equal_those_on_the_network(detector, saved):
    name = "classifier" if isinstance(detector, OutputsDetector) else "features"
    model = saved.module
    if isinstance(detector, ConceptDetector):
        # They refuse a bare module, which would be read before its last layer.
        model = skood.PretrainedClassifier(saved.module, features_from="1")
    on_network = clone(detector).set_params(**{name: model}).fit(saved.shared, saved.y)
    expected = on_network.score_samples(saved.shared_new)
    training, new = saved.outputs(saved.X), saved.outputs(saved.new)
    on_arrays = clone(detector).fit_outputs(**training, y=saved.y)
    assert on_arrays.offset_ == on_network.offset_
    np.testing.assert_array_equal(on_arrays.score_outputs(**new), expected)
    del new["head"]
    np.testing.assert_array_equal(on_arrays.score_outputs(**new), expected)
    np.testing.assert_array_equal(on_network.score_outputs(**new), expected)
    outputs = Outputs.from_arrays(**training)
    again = clone(detector).fit_outputs(outputs, y=saved.y)
    np.testing.assert_array_equal(again.score_outputs(**new), expected)


@pytest.mark.parametrize("detector", LEARN_NOTHING, ids=name_of)
def test_a_score_that_learns_nothing_needs_no_fit(detector, saved):
    on_network = clone(detector).set_params(classifier=saved.module).fit(saved.X)
    scores = clone(detector).score_outputs(**saved.outputs(saved.new))
    np.testing.assert_array_equal(scores, on_network.score_samples(saved.new))


def test_logits_of_anyone():
    logits = torch.tensor([[0.0, 1.0, 2.0], [5.0, 0.0, 0.0]], requires_grad=True)
    proba = softmax(logits.detach().numpy(), axis=1)
    np.testing.assert_allclose(skood.MSP().score_outputs(logits), proba.max(1), rtol=1e-6)
    half = skood.Energy(temperature=2.0).score_outputs(logits.bfloat16())
    energy = functional.energy(logits.detach().numpy(), temperature=2.0)
    np.testing.assert_allclose(half, energy, rtol=1e-6)
    np.testing.assert_array_equal(skood.MaxLogit().score_outputs([[1, 3], [2, 0]]), [3, 2])
    with pytest.raises(ValueError, match=r"The 'temperature' parameter of Energy"):
        skood.Energy(temperature=-1).score_outputs(logits)


def test_logits_are_computed_from_features_and_head(saved):
    given = saved.outputs(saved.X)
    scores = skood.Energy().score_outputs(features=given["features"], head=saved.head)
    np.testing.assert_allclose(scores, skood.Energy().score_outputs(given["logits"]), rtol=1e-5)
    vim = skood.ViM().fit_outputs(features=given["features"], head=saved.head)
    assert np.isfinite(vim.score_outputs(features=given["features"])).all()


def test_multilabel_outputs():
    logits = np.array([[0.0, 2.0], [-3.0, 1.0]])
    outputs = Outputs.from_arrays(logits, multilabel=True)
    np.testing.assert_allclose(np.exp(outputs.log_proba), 1 / (1 + np.exp(-logits)))
    expected = np.logaddexp(0, logits).sum(1)
    np.testing.assert_allclose(skood.Energy().score_outputs(outputs), expected)
    with pytest.raises(ValueError, match="Entropy is a score of classes that exclude each other"):
        skood.Entropy().score_outputs(outputs)


def test_probabilities_alone_are_no_logits():
    log_proba = np.log([[0.5, 0.5], [0.9, 0.1]])
    outputs = Outputs(log_proba, log_proba, np.empty((2, 0)), normalized=True)
    np.testing.assert_allclose(skood.MSP().score_outputs(outputs), [0.5, 0.9])
    with pytest.raises(ValueError, match="Energy reads logits, but the classifier gives only prob"):
        skood.Energy().score_outputs(outputs)


def test_known_outliers_are_left_out(saved):
    given = saved.outputs(saved.X)
    y = np.where(np.arange(600) < 100, -1, saved.y)
    detector = skood.SHE().fit_outputs(**given, y=y)
    given = {"head": saved.head} | {k: v[100:] for k, v in given.items() if k != "head"}
    assert detector.offset_ == skood.SHE().fit_outputs(**given, y=saved.y[100:]).offset_


def test_string_labels_serve_detectors_on_features(saved):
    features = saved.outputs(saved.X)["features"]
    names = np.array(["ant", "bee", "cow"])[saved.y]
    detector = skood.Mahalanobis().fit_outputs(features=features, y=names)
    expected = skood.Mahalanobis(normalize=True).fit(features, names)
    assert detector.normalizes_
    assert detector.offset_ == expected.offset_


class TestWithoutANetwork:
    @pytest.mark.parametrize("method", ["score_samples", "predict", "decision_function"])
    @pytest.mark.parametrize("detector", [skood.MSP(), skood.ReAct(), skood.KNN()], ids=name_of)
    def test_x_cannot_be_read(self, detector, method, saved):
        detector = clone(detector).fit_outputs(**saved.outputs(saved.X))
        with pytest.raises(NotFittedError, match=r"no network to read X with.*score_outputs"):
            getattr(detector, method)(saved.X)

    def test_a_fit_follows(self, saved):
        detector = skood.ReAct(saved.module).fit_outputs(**saved.outputs(saved.X))
        with pytest.raises(NotFittedError, match="no network to read X with"):
            detector.predict_class(saved.X)
        detector.fit(saved.X)
        assert set(detector.predict(saved.X)) == {-1, 1}
        detector.fit_outputs(**saved.outputs(saved.X))
        assert not hasattr(detector, "classifier_")
        with pytest.raises(NotFittedError, match="no network to read X with"):
            detector.predict(saved.X)

    def test_a_fit_comes_first(self, saved):
        with pytest.raises(NotFittedError, match="SHE learns from training data; call fit_outputs"):
            skood.SHE().score_outputs(**saved.outputs(saved.X))


Z, F = np.ones((4, 2)), np.ones((4, 3))
HEAD = np.ones((3, 2)), np.zeros(3)


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({}, "logits and features are both None"),
        ({"logits": F, "features": Z[:3]}, "logits of 4 rows, but features of 3 rows"),
        ({"logits": np.ones(4)}, r"logits has shape \(4,\) and dtype float64; expected numbers"),
        ({"logits": [["a", "b"]]}, r"logits has shape \(1, 2\) and dtype <U1"),
        ({"logits": np.where(F, np.nan, F)}, "logits has 12 values that are NaN or infinite"),
        ({"features": Z * np.inf}, "features has 8 values that are NaN or infinite"),
        ({"logits": F[:, :1]}, r"one column.*multilabel=True"),
        ({"features": Z, "head": HEAD[0]}, r"head is a ndarray; expected a tuple \(weight, bias\)"),
        ({"features": Z, "head": (HEAD[0].T, HEAD[1])}, r"weight has shape \(2, 3\) and its bias"),
        ({"features": F, "head": HEAD}, r"weight has shape \(3, 2\), but features have 3 columns"),
        ({"logits": Z, "head": HEAD}, "logits have 2 columns, but the head makes 3 logits"),
    ],
)
def test_arrays_that_do_not_fit(given, message):
    with pytest.raises(ValueError, match=message):
        Outputs.from_arrays(**given)


def test_precision_of_outputs():
    outputs = Outputs.from_arrays(F.astype(np.float16), features=torch.ones(4, 2), head=HEAD)
    assert outputs.logits.dtype == outputs.features.dtype == np.float32
    np.testing.assert_allclose(outputs.log_proba, log_softmax(F, axis=1))
    np.testing.assert_array_equal(outputs.logits_of(Z), 2 * F)
    assert outputs[:2].head is outputs.head
    with pytest.raises(ValueError, match="the weights of the last layer are unknown"):
        Outputs.from_arrays(F).logits_of(Z)


@pytest.mark.parametrize(
    ("detector", "given", "message"),
    [
        (skood.Energy(), {"features": Z}, r"Energy reads logits, but .*fit_outputs\(logits\)"),
        (skood.GradNorm(), {"logits": F}, r"but features are missing; .*features=features\)"),
        (skood.ViM(), {"logits": F, "features": Z}, r"but head are missing; .*head=\(weight, bias"),
        (skood.KNN(), {"logits": F}, r"KNN reads features, but features are missing"),
        (skood.NECO(max_logit=True), {"features": Z}, "NECO reads logits, features, but logits"),
        (skood.SHE(), {"logits": F, "features": Z}, r"SHE learns from class labels; give"),
        (skood.SHE(), {"logits": F, "features": Z, "y": [0, 1, 2, 3]}, "column of each row's"),
        (skood.SHE(), {"logits": F, "features": Z, "y": list("abca")}, "from 0 to 2"),
        (skood.MSP(), {"logits": F, "y": [0, 1]}, "2 labels"),
        (skood.MSP(), {"logits": F, "y": [-1, -1, -1, 0]}, "1 in-distribution rows; give at least"),
        (skood.MSP(), {"logits": Outputs.from_arrays(F), "features": Z}, "leave out features"),
    ],
    ids=lambda value: name_of(value) if hasattr(value, "fit_outputs") else None,
)
def test_errors_of_a_fit(detector, given, message):
    with pytest.raises(ValueError, match=message):
        clone(detector).fit_outputs(**given)


def test_other_columns_than_in_the_fit(saved):
    detector = skood.ReAct().fit_outputs(**saved.outputs(saved.X))
    with pytest.raises(ValueError, match="features have 2 columns, but ReAct was fitted on 8"):
        detector.score_outputs(F, features=Z, head=HEAD)


def test_no_class_may_be_missing(saved):
    given = saved.outputs(saved.X)
    with pytest.raises(ValueError, match="no training row is of class 2"):
        skood.SHE().fit_outputs(**given, y=np.minimum(saved.y, 1))


def test_mahalanobis_with_a_precision():
    rng = np.random.default_rng(0)
    z, means, factor = rng.normal(size=(9, 3)), rng.normal(size=(2, 3)), rng.normal(size=(3, 3))
    precision = factor @ factor.T
    expected = -(cdist(z, means, "mahalanobis", VI=precision).min(1) ** 2)
    scores = functional.mahalanobis(z, means, np.linalg.cholesky(precision))
    np.testing.assert_allclose(scores, expected)


def test_a_head_of_an_earlier_fit_is_forgotten(saved):
    given = saved.outputs(saved.X)
    detector = skood.LTS(saved.module).fit_outputs(**given).fit(saved.X)
    with pytest.raises(ValueError, match="but logits are missing"):
        detector.score_outputs(features=given["features"])


def test_functions_import_no_torch():
    code = "import sys, skood; skood.functional.energy; assert 'torch' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True)


@estimator
class PowerNorm(OutputsDetector):
    """Mean power of the scaled features, weighted by the classifier's confidence.

    Parameters
    ----------
    power : float, default=2.0
        The exponent.
    """

    power: float = parameter(float, default=2.0)

    _reads = "features"
    _needs = "data"

    def _learn(self, outputs, class_indices, seed):
        self.scale_ = np.abs(outputs.features).mean(0, dtype=np.float64) + 1e-6

    def _score(self, outputs):
        size = (np.abs(outputs.features / self.scale_) ** self.power).mean(1)
        return size * functional.msp(outputs.log_proba)


def test_a_detector_from_public_names_alone(saved):
    detector = PowerNorm(saved.module, power=1.5).fit(saved.X)
    scores = detector.score_samples(saved.new)
    np.testing.assert_array_equal(detector.score_outputs(**saved.outputs(saved.new)), scores)
    assert "power : float" in PowerNorm.__doc__
    assert "classifier : " in PowerNorm.__doc__
    with pytest.raises(TypeError, match="reads a network"):
        PowerNorm(LogisticRegression()).fit(saved.X, saved.y)


def test_saved_probabilities_are_not_logits():
    proba = np.array([[0.7, 0.3], [0.1, 0.9]])
    for given in proba, proba.astype(np.float32):
        with pytest.raises(ValueError, match="each row sums to 1, so they are probabilities"):
            skood.Energy().score_outputs(given)
    with pytest.raises(ValueError, match="the classifier gives only probabilities"):
        skood.Energy().score_outputs(np.log(proba))
    np.testing.assert_allclose(skood.MSP().score_outputs(np.log(proba)), [0.7, 0.9])
