"""Every formula in torch equals the detector's, in Python and in both file formats."""

import warnings

import numpy as np
import pytest
import torch
from sklearn.frozen import FrozenEstimator
from torch import nn

import skood
from skood import share_forward_pass
from skood._export import exportable
from skood._export._formats import FORMATS
from skood._export._graph import Builder, DetectorGraph
from skood.calibration import ConformalDetector, EnsembleDetector, TunedThreshold

rng = np.random.default_rng(0)
# Three classes, of which one is far from the others; new rows are partly of none.
MEANS = np.array([[0, 0, 0, 0], [3, 0, 1, 0], [-4, 5, 0, 2]])
Y = np.arange(90) % 3
X = (MEANS[Y] + rng.normal(size=(90, 4))).astype(np.float32)
NEW = np.concatenate([X[:9] + 0.1, 4 * rng.normal(size=(24, 4))]).astype(np.float32)


def make_network(n_outputs=3, n_in=4, seed=0):
    torch.manual_seed(seed)
    return nn.Sequential(
        *(nn.Linear(n_in, 12), nn.ReLU(), nn.Linear(12, 6), nn.ReLU(), nn.Linear(6, n_outputs))
    )


@pytest.fixture(scope="module")
def network():
    """Network that classifies the rows well."""
    network = make_network()
    optimizer = torch.optim.Adam(network.parameters(), 0.02)
    with torch.enable_grad():
        for _ in range(60):
            optimizer.zero_grad()
            nn.functional.cross_entropy(network(torch.tensor(X)), torch.tensor(Y)).backward()
            optimizer.step()
    return network


# Vectors of the texts of classes and of other words.
TEXTS, WORDS = MEANS + 0.5, rng.normal(size=(20, 4))
CONDITIONAL = {"calibration": "training-conditional", "delta": 0.3, "random_state": 0}


def variants(network):
    """Detectors of every class that can be exported, with all formulas that they have."""
    own = skood.MLP((6,), max_epochs=2, random_state=0)
    knn, energy = skood.KNN(network, n_neighbors=3), skood.Energy(network, 0.7)
    outliers = 5 * np.random.default_rng(1).normal(size=(20, 4))
    ours = {"max_epochs": 2, "random_state": 0}
    mlp = skood.MLP((6,), **ours)
    return {
        "ASH": [skood.ASH(network), skood.ASH(network, 50.0, "p")],
        "ConformalDetector": [
            ConformalDetector(FrozenEstimator(energy), alpha=0.1),
            ConformalDetector(knn, alpha=0.1, random_state=0),
            ConformalDetector(skood.KNN(), method="cross", n_splits=3, random_state=0),
            # One class has too few calibration rows.
            ConformalDetector(
                energy,
                alpha=0.095,
                class_conditional=True,
                calibration_fraction=0.32,
                random_state=0,
            ),
            ConformalDetector(knn, alpha=0.3, **CONDITIONAL),
            ConformalDetector(energy, alpha=0.6, class_conditional=True, **CONDITIONAL),
        ],
        "CSP": [skood.CSP(TEXTS, WORDS, adjectives=-WORDS, n_negatives=0.5, n_groups=2)],
        "DICE": [skood.DICE(network, 50.0)],
        "DeepEnsemble": [
            skood.DeepEnsemble([network, make_network(seed=1)], score_type=score_type)
            for score_type in ("entropy", "mutual_information")
        ],
        "DeepSAD": [skood.DeepSAD(mlp, n_latent=2, random_state=0)],
        "DeepSVDD": [
            skood.DeepSVDD(mlp, n_latent=2, n_warm_up_epochs=1, objective=objective, random_state=0)
            for objective in ("one-class", "soft-boundary")
        ],
        "Energy": [skood.Energy(network), skood.Energy(network, 2.5), skood.Energy(own)],
        "EnergyRegularized": [skood.EnergyRegularized(mlp, outliers, random_state=0)],
        "EnsembleDetector": [
            EnsembleDetector([("a", knn), ("b", energy)], combination=name, random_state=0)
            for name in ("fisher", "harmonic", "bonferroni", "mean_rank")
        ],
        "Entropy": [skood.Entropy(network)],
        "FDBD": [skood.FDBD(network)],
        "GEN": [skood.GEN(network), skood.GEN(network, 0.5, 2)],
        "GMM": [skood.GMM(), skood.GMM(network)],
        "GradNorm": [skood.GradNorm(network)],
        "KLMatching": [skood.KLMatching(network)],
        "KNN": [knn, skood.KNN(), skood.KNN(network, normalize=False, n_neighbors=90)],
        "KernelPCA": [
            skood.KernelPCA(network, "cosine", 0.6),
            skood.KernelPCA(n_fourier_features=16, random_state=0),
        ],
        "LTS": [skood.LTS(network)],
        "LogitNorm": [skood.LogitNorm(mlp, random_state=0)],
        "MCM": [skood.MCM(TEXTS, temperature=0.01), skood.MCM(TEXTS, classes=[2, 1, 0])],
        "MSP": [skood.MSP(network), skood.MSP(own)],
        "Mahalanobis": [skood.Mahalanobis(network), skood.Mahalanobis()],
        "MaxLogit": [skood.MaxLogit(network)],
        "NCI": [skood.NCI(network, 0.1)],
        "NECO": [
            skood.NECO(network, 2),
            skood.NECO(network, 2, standardize=False, max_logit=True),
            skood.NECO(),
        ],
        "NegLabel": [
            skood.NegLabel(TEXTS, WORDS, n_groups=1),
            skood.NegLabel(TEXTS, WORDS, n_groups=3),
        ],
        "NNGuide": [skood.NNGuide(network, 4, 0.5, random_state=0), skood.NNGuide(network)],
        "OODGen": [
            skood.OODGen(mlp, skood.VAE(2, conditional=True, **ours), random_state=0, score_type=s)
            for s in ("reject", "max", "margin")
        ],
        "OpenMax": [skood.OpenMax(network, rows="all"), skood.OpenMax(network, 5, 2, rows="all")],
        "OutlierExposure": [skood.OutlierExposure(mlp, outliers, random_state=0)],
        "PNML": [skood.PNML(network), skood.PNML(network, probabilities="raw")],
        "ReAct": [skood.ReAct(network)],
        "RegMixup": [skood.RegMixup(mlp, random_state=0)],
        "RelativeMahalanobis": [skood.RelativeMahalanobis(network), skood.RelativeMahalanobis()],
        "Residual": [skood.Residual(network, 2)],
        "SCALE": [skood.SCALE(network)],
        "SHE": [skood.SHE(network)],
        "TemperatureScaling": [skood.TemperatureScaling(network)],
        "TunedThreshold": [TunedThreshold(FrozenEstimator(energy), target=0.8)],
        "VOS": [skood.VOS(mlp, n_candidates=50, random_state=0)],
        "VRA": [
            skood.VRA(network),
            skood.VRA(network, suppress="clip"),
            skood.VRA(network, per_feature=True),
        ],
        "ViM": [skood.ViM(network, 2)],
    }


@pytest.fixture(scope="module")
def fitted(network):
    """Return the fitted detectors by name."""
    shared = share_forward_pass(X)
    detectors = {}
    with warnings.catch_warnings():
        # Networks that were trained before, for a moment, or on few rows.
        warnings.simplefilter("ignore")
        for name, made in variants(network).items():
            for number, detector in enumerate(made):
                inner = getattr(detector, "detector", None)
                if isinstance(inner, FrozenEstimator):
                    inner.estimator.fit(shared, Y)
                detectors[f"{name} {number}"] = detector.fit(shared, Y)
    return detectors


def test_every_class_has_a_variant(network):
    assert sorted(variants(network)) == exportable()


def check(detector, items, outputs):
    """Compare the outputs of a graph with the detector."""
    scores = detector.score_samples(items)
    np.testing.assert_allclose(
        outputs["score"], scores, rtol=1e-5, atol=1e-5 * np.abs(scores).max()
    )
    decision = detector.decision_function(items)
    near = np.abs(decision) <= 1e-5 * np.abs(scores)
    assert ((outputs["is_inlier"] == detector.predict(items)) | near).all()
    np.testing.assert_array_equal(outputs["decision"], outputs["score"] - detector.offset_)
    assert (outputs["is_inlier"] == np.where(outputs["decision"] >= 0, 1, -1)).all()
    assert ("p_value" in outputs) == hasattr(detector, "p_values")
    if "p_value" in outputs:
        np.testing.assert_allclose(outputs["p_value"], detector.p_values(items), rtol=1e-9)
    assert ("probabilities" in outputs) == hasattr(detector, "predict_proba")
    if "probabilities" in outputs:
        proba = detector.predict_proba(items)
        np.testing.assert_allclose(outputs["probabilities"], proba, rtol=1e-4, atol=1e-6)
        assert (outputs["class_index"] == proba.argmax(1)).all()


def test_formulas(fitted):
    assert 0 < len(fitted["ConformalDetector 3"].calibrated_classes_) < 3
    for name, detector in fitted.items():
        graph = DetectorGraph(detector, detector._check(NEW))
        for n in (1, 2, 33):
            with torch.no_grad():
                outputs = {
                    key: value.numpy() for key, value in graph(torch.tensor(NEW[:n])).items()
                }
            assert outputs["score"].dtype == np.float64, name
            try:
                check(detector, NEW[:n], outputs)
            except AssertionError as error:
                raise AssertionError(f"{name}, {n} rows") from error


# Their operators are among those of other detectors.
ALIKE = {
    *("ConformalDetector 0", "DeepSAD 0", "DeepSVDD 0", "DeepSVDD 1", "Energy 1", "Energy 2"),
    *("EnergyRegularized 0", "EnsembleDetector 0", "EnsembleDetector 2", "EnsembleDetector 3"),
    *("GEN 1", "GMM 1", "KNN 1", "Mahalanobis 1", "MSP 0", "MSP 1", "NECO 2", "NNGuide 1"),
    *("OODGen 0", "OODGen 1", "OODGen 2", "OpenMax 1", "OutlierExposure 0", "PNML 1"),
    *("RegMixup 0", "RelativeMahalanobis 1", "Residual 0", "TunedThreshold 0", "VOS 0"),
    *(
        "DeepEnsemble 0",
        "ConformalDetector 1",
        "ConformalDetector 3",
        "LogitNorm 0",
        "Mahalanobis 0",
        "ASH 1",
    ),
    *("KNN 2", "KernelPCA 0", "NECO 0", "VRA 1", "VRA 2", "ReAct 0", "SCALE 0", "DICE 0"),
}


class _Scores(nn.Module):
    """Scores of several detectors in one graph, which is traced once."""

    def __init__(self, detectors):
        super().__init__()
        builder = Builder(next(iter(detectors.values()))._check(NEW))
        self.names = list(detectors)
        self.nodes = nn.ModuleList(map(builder.node, detectors.values()))
        self.sources = nn.ModuleList(builder.sources)

    def forward(self, rows):
        outputs = [source(rows) for source in self.sources]
        scores = [node(outputs)["score"] for node in self.nodes]
        return dict(zip(self.names, scores, strict=True))


@pytest.mark.parametrize("format", ["torch", "onnx"])
def test_formulas_in_a_file(format, fitted):
    if format == "onnx":
        pytest.importorskip("onnxruntime")
    names = [name for name in fitted if name not in ALIKE]
    if format == "torch":
        # It has all operators of the formulas in Python.
        names = names[::6]
    detectors = {name: fitted[name] for name in names}
    graph = _Scores(detectors).eval()
    # KNN and GMM also read rows.
    assert len(graph.sources) < 6
    _, run = FORMATS[format](graph, NEW[:5], {})
    for n in (1, 2, 33):
        outputs = run(NEW[:n])
        for name, detector in detectors.items():
            scores = detector.score_samples(NEW[:n])
            size = np.abs(scores).max()
            np.testing.assert_allclose(
                outputs[name], scores, rtol=1e-5, atol=1e-5 * size, err_msg=name
            )


def test_an_image_vector_without_direction():
    """The detector raises an error; a graph raises none."""
    detector = skood.NegLabel(TEXTS, WORDS, n_groups=1).fit(X)
    graph = DetectorGraph(detector, detector._check(NEW))
    outputs = graph(torch.tensor(np.stack([np.zeros(4, np.float32), NEW[0]])))
    assert outputs["score"].isnan().tolist() == [True, False]
    assert outputs["is_inlier"][0] == -1
