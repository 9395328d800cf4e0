"""Files that `skood.export` writes, and the errors of what it cannot write."""

import json
import sys

import numpy as np
import pytest
import torch
from sklearn.decomposition import PCA
from sklearn.exceptions import NotFittedError
from sklearn.frozen import FrozenEstimator
from sklearn.linear_model import LogisticRegression
from sklearn.mixture import GaussianMixture
from sklearn.model_selection import GridSearchCV
from torch import nn

import skood
from skood import ConformalDetector, EnsembleDetector, FeatureExtractor, PretrainedClassifier
from skood._export import _formats, exportable
from skood._export._example import random_items
from skood._export._graph import DetectorGraph, models_of
from skood._export._scores import FORMULAS

rng = np.random.default_rng(0)
BYTES = rng.integers(0, 256, (40, 8, 8), dtype=np.uint8)
ROWS = rng.normal(size=(40, 4)).astype(np.float32)
Y = np.arange(40) % 3


def make_network():
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(4, 5), nn.ReLU(), nn.Linear(5, 3))


@pytest.fixture(scope="module")
def energy():
    return skood.Energy(make_network()).fit(ROWS)


def test_an_onnx_file_of_images(tmp_path):
    onnxruntime = pytest.importorskip("onnxruntime")
    network = skood.ConvNet((4, 6), max_epochs=1, random_state=0)
    detector = skood.ViM(network, random_state=0).fit(BYTES, np.array(["a", "b", "c"])[Y])
    path = tmp_path / "detector.onnx"
    skood.export(detector, path, BYTES[:3])
    session = onnxruntime.InferenceSession(path.read_bytes(), providers=["CPUExecutionProvider"])
    (given,) = session.get_inputs()
    assert (given.name, given.shape[1:], given.type) == ("X", [8, 8], "tensor(uint8)")
    names = [output.name for output in session.get_outputs()]
    for n in (1, 2, 33):
        outputs = dict(zip(names, session.run(None, {"X": BYTES[:n]}), strict=True))
        np.testing.assert_allclose(outputs["score"], detector.score_samples(BYTES[:n]), rtol=1e-4)
        assert (outputs["is_inlier"] == detector.predict(BYTES[:n])).all()
        proba = detector.predict_proba(BYTES[:n])
        np.testing.assert_allclose(outputs["probabilities"], proba, rtol=1e-4)
        assert (outputs["class_index"] == proba.argmax(1)).all()
    about = session.get_modelmeta().custom_metadata_map
    about = {name: json.loads(value) for name, value in about.items()}
    assert about["skood.detector"] == "ViM"
    assert about["skood.classes"] == ["a", "b", "c"]
    assert about["skood.offset"] == detector.offset_
    # No second file with weights.
    assert list(tmp_path.iterdir()) == [path]


def test_a_program_of_torch(tmp_path, energy):
    detector = ConformalDetector(FrozenEstimator(energy), alpha=0.1).fit(ROWS)
    path = tmp_path / "detector.pt2"
    path.write_text("former")
    skood.export(FrozenEstimator(detector), str(path), torch.tensor(ROWS[:1]), format="torch")
    extra = {"skood.json": ""}
    graph = torch.export.load(path, extra_files=extra).module()
    for n in (1, 2, 33):
        outputs = {name: value.numpy() for name, value in graph(torch.tensor(ROWS[:n])).items()}
        np.testing.assert_allclose(outputs["score"], detector.score_samples(ROWS[:n]), rtol=1e-4)
        np.testing.assert_allclose(outputs["decision"], outputs["score"] - detector.offset_)
        assert outputs["p_value"].shape == (n,)
    about = json.loads(extra["skood.json"])
    assert about["detector"] == "ConformalDetector"
    assert about["classes"] == [0, 1, 2]


def test_a_network_of_several_detectors_runs_once(energy):
    network = energy.classifier.module
    inner = [("a", FrozenEstimator(energy)), ("b", FrozenEstimator(skood.GMM(network).fit(ROWS)))]
    ensemble = EnsembleDetector(inner, random_state=0).fit(ROWS)
    assert len(DetectorGraph(ensemble, ensemble._check(ROWS)).sources) == 1


def items_for(detector, X, y=None):
    detector.fit(X, y)
    items = random_items(detector, models_of(detector))
    detector.score_samples(items)
    return items


def test_random_items_are_like_those_in_fit():
    network = skood.ConvNet((2,), max_epochs=1, random_state=0)
    items = items_for(skood.MSP(network), BYTES, Y)
    assert items.dtype == np.uint8 and items.shape[1:] == (8, 8) and items.max() > 1
    last = np.repeat(BYTES[..., None], 3, -1)
    assert items_for(skood.MSP(network), last / 255.0, Y).shape[1:] == (8, 8, 3)
    rows = items_for(skood.MSP(skood.MLP((4,), max_epochs=1, random_state=0)), 500 + ROWS, Y)
    assert rows.dtype == np.float32 and 400 < rows.mean() < 600
    convolution = nn.Sequential(nn.Conv2d(1, 3, 3), nn.AdaptiveAvgPool2d(1), nn.Flatten())
    ranged = PretrainedClassifier(convolution, value_range=(-1, 1))
    items = items_for(skood.MaxLogit(ranged), BYTES / 128.0 - 1)
    assert items.shape[1:] == (8, 8) and items.min() < 0
    assert items_for(skood.KNN(n_neighbors=5), ROWS).shape[1:] == (4,)
    tokens = skood.MSP(nn.Sequential(nn.Embedding(7, 3), nn.Flatten(), nn.Linear(6, 2)))
    with pytest.raises(ValueError, match=r"whole numbers.*a few items"):
        items_for(tokens, rng.integers(0, 7, (20, 2)))


class Branching(nn.Module):
    def __init__(self):
        super().__init__()
        self.network = make_network()

    def forward(self, x):
        z = self.network(x)
        return z if z.sum() > 0 else z + 0.0


class Shifted(skood.Energy):
    def _score(self, outputs):
        return super()._score(outputs) + 1


# Of torch, about scripted modules.
@pytest.mark.filterwarnings("ignore::FutureWarning", "ignore::DeprecationWarning")
def test_what_is_not_tensor_arithmetic_says_why(tmp_path, energy):
    def refused(detector, words, error=TypeError, X=ROWS, y=Y):
        with pytest.raises(error, match=words):
            skood.export(detector.fit(X, y), tmp_path / "no", format="torch")

    network = make_network()
    refused(Shifted(network), "Shifted cannot be exported: its formula may differ.*Energy")
    refused(skood.ODIN(network), "ODIN .*gradients or inner layers.*skood.save.*Energy")
    refused(skood.LayerMahalanobis(network), "gradients or inner layers")
    dropout = nn.Sequential(nn.Linear(4, 5), nn.Dropout(0.5), nn.Linear(5, 3))
    refused(skood.MCDropout(dropout, n_samples=2), "random passes")
    refused(skood.LogLikelihood(GaussianMixture()), "computed by a density")
    refused(skood.MSP(LogisticRegression()), "MSP on LogisticRegression.*torch network")
    refused(skood.KNN(PCA(2), n_neighbors=3), "KNN on PCA")
    refused(skood.ASH(network, variant="b"), "equal activations", ValueError)
    scripted = torch.jit.trace(network, torch.tensor(ROWS))
    refused(skood.MSP(scripted), "scripted network")
    refused(skood.Energy(Branching()), "cannot trace.*branch", ValueError)
    other = FrozenEstimator(LogisticRegression().fit(ROWS, Y))
    conformal = ConformalDetector(
        FrozenEstimator(energy), class_conditional=True, alpha=0.2, classifier=other
    )
    refused(conformal, "another classifier", ValueError)
    inside = ConformalDetector(FrozenEstimator(skood.ODIN(network).fit(ROWS)), alpha=0.1)
    refused(inside, "ODIN cannot be exported")
    forest = ConformalDetector(GaussianMixture(), alpha=0.2, random_state=0)
    refused(forest, "GaussianMixture cannot be exported: it is not a detector of skood")
    assert not list(tmp_path.iterdir())


def test_fields_are_refused(tmp_path):
    class Sum(nn.Module):
        def __init__(self):
            super().__init__()
            self.head = nn.Linear(4, 3)

        def forward(self, a, b):
            return self.head(a + b)

    fields = {"a": ROWS, "b": ROWS}
    detector = skood.MSP(Sum()).fit(fields)
    with pytest.raises(TypeError, match="dicts of fields"):
        skood.export(detector, tmp_path / "no", fields, format="torch")
    with pytest.raises(ValueError, match="not arrays of one shape"):
        skood.export(detector, tmp_path / "no", format="torch")


def test_what_is_no_fitted_detector_is_refused(tmp_path, energy):
    path = tmp_path / "no"
    with pytest.raises(ValueError, match="format='tflite'; expected one of"):
        skood.export(energy, path, format="tflite")
    with pytest.raises(NotFittedError):
        skood.export(skood.Energy(make_network()), path)
    with pytest.raises(TypeError, match="LogisticRegression; expected a fitted detector"):
        skood.export(LogisticRegression(), path)
    with pytest.raises(TypeError, match="best_estimator_"):
        skood.export(GridSearchCV(energy, {}), path)
    saved = skood.MaxLogit().fit_outputs(rng.normal(size=(9, 3)))
    with pytest.raises(ValueError, match="fit_outputs"):
        skood.export(saved, path)
    with pytest.raises(ValueError, match="X has 3 features"):
        skood.export(energy, path, ROWS[:, :3])


def test_a_graph_that_differs_is_not_written(tmp_path, energy, monkeypatch):
    path = tmp_path / "detector.pt2"
    path.write_text("former")
    _, names = FORMULAS[skood.Energy]
    monkeypatch.setitem(FORMULAS, skood.Energy, (lambda o, d: o.logits.amax(1), names))
    with pytest.raises(ValueError, match="graph of Energy gives other scores"):
        skood.export(energy, path, ROWS, format="torch")
    assert path.read_text() == "former"
    assert list(tmp_path.iterdir()) == [path]


def test_what_onnx_needs(tmp_path, energy, monkeypatch):
    with monkeypatch.context() as patch:
        patch.setitem(sys.modules, "onnxruntime", None)
        with pytest.raises(
            ImportError, match="onnxruntime: pip install onnx onnxruntime onnxscript"
        ):
            skood.export(energy, tmp_path / "no")
    pytest.importorskip("onnxruntime")
    monkeypatch.setattr(_formats, "_LARGEST_ONNX", 100)
    with pytest.raises(ValueError, match=r"less than 2 GiB.*torch"):
        skood.export(energy, tmp_path / "no")


def test_names_of_what_can_be_exported():
    names = exportable()
    assert names == sorted(set(names))
    assert {"Energy", "KNN", "ConformalDetector", "DeepEnsemble"} <= set(names)
    assert all(hasattr(skood, name) for name in names)


def test_an_extractor_has_no_classes():
    encoder = FeatureExtractor(make_network()[:2])
    detector = skood.KNN(encoder, n_neighbors=3).fit(ROWS)
    outputs = DetectorGraph(detector, detector._check(ROWS))(torch.tensor(ROWS))
    assert list(outputs) == ["score", "decision", "is_inlier"]
