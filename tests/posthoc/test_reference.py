"""Scores against values derived independently, and checked against other libraries."""

from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

import skood

DATA = Path(__file__).parent / "data"


@pytest.fixture(scope="module")
def reference():
    return np.load(DATA / "posthoc.npz")


def head(weight, bias):
    """A network whose features are its input."""
    layer = nn.Linear(*reversed(weight.shape), dtype=torch.float64)
    layer.load_state_dict({"weight": torch.tensor(weight), "bias": torch.tensor(bias)})
    return nn.Sequential(nn.Identity(), layer)


CLASSIFIER_CASES = {
    "msp": skood.MSP(),
    "maxlogit": skood.MaxLogit(),
    "energy_T1": skood.Energy(),
    "energy_T2": skood.Energy(temperature=2.0),
    "entropy": skood.Entropy(),
    "gen_all": skood.GEN(),
    "gen_top3": skood.GEN(n_top=3),
    "klmatching": skood.KLMatching(),
    "vim": skood.ViM(n_components=20),
    "residual": skood.Residual(n_components=20),
    "react_energy_p90": skood.ReAct(),
    "vra_paper": skood.VRA(),
    "vra_clip": skood.VRA(suppress="clip"),
    "vra_clip_elementwise": skood.VRA(suppress="clip", per_feature=True),
    "dice_p70": skood.DICE(percentile=70),
    "dice_p90": skood.DICE(),
    "ash_s_65": skood.ASH(),
    "ash_b_65": skood.ASH(variant="b"),
    "ash_p_65": skood.ASH(variant="p"),
    "ash_s_90": skood.ASH(percentile=90),
    "ash_b_90": skood.ASH(percentile=90, variant="b"),
    "ash_p_90": skood.ASH(percentile=90, variant="p"),
    "scale_65": skood.SCALE(percentile=65),
    "scale_85": skood.SCALE(),
    "lts_05": skood.LTS(),
    "lts_20": skood.LTS(top_fraction=0.2),
    "she": skood.SHE(),
    "nnguide_10": skood.NNGuide(),
    "fdbd": skood.FDBD(),
    "nci_a0": skood.NCI(alpha=0.0),
    "nci_a0p001": skood.NCI(),
    "nci_a0p05": skood.NCI(alpha=0.05),
    "gradnorm": skood.GradNorm(),
    "pnml": skood.PNML(),
    "pnml_rawprob": skood.PNML(probabilities="raw"),
    "openmax": skood.OpenMax(),
    "openmax_alltrain": skood.OpenMax(rows="all"),
}
FEATURE_CASES = {
    "mahalanobis": skood.Mahalanobis(normalize=False),
    "relative_mahalanobis": skood.RelativeMahalanobis(normalize=False),
    "knn_5": skood.KNN(n_neighbors=5, normalize=True),
    "knn_50": skood.KNN(normalize=True),
    "knn_raw_5": skood.KNN(n_neighbors=5, normalize=False),
    "gmm_reg1e-3": skood.GMM(),
    "neco_std": skood.NECO(n_components=12),
    "neco_raw": skood.NECO(n_components=12, standardize=False),
}
TOLERANCE = {name: 1e-8 for name in ("mahalanobis", "relative_mahalanobis", "vim", "residual")}
TOLERANCE |= {name: 1e-8 for name in ("gmm_reg1e-3", "neco_std", "neco_raw", "openmax")}
# A tenth root of 1 - p, near p = 1, enlarges the rounding of p.
TOLERANCE |= {"gen_all": 1e-8, "gen_top3": 1e-8}
TOLERANCE |= {"openmax_alltrain": 1e-8, "neco_std_maxlogit": 1e-8}
TOLERANCE |= {"pnml": 1e-7, "pnml_rawprob": 1e-7}


def assert_close(scores, reference, name):
    expected = reference[f"score__{name}"]
    np.testing.assert_allclose(scores, expected, rtol=TOLERANCE.get(name, 1e-9), atol=1e-10)


@pytest.mark.parametrize("name", CLASSIFIER_CASES)
def test_classifier_detector(reference, name):
    network = head(reference["W"], reference["b"])
    detector = CLASSIFIER_CASES[name].set_params(classifier=network, threshold_fraction=0.0)
    detector.fit(reference["z_train"], reference["y_train"])
    assert_close(detector.score_samples(reference["z_test"]), reference, name)


@pytest.mark.parametrize("name", FEATURE_CASES)
@pytest.mark.parametrize("network", [False, True], ids=["rows", "network"])
def test_feature_detector(reference, name, network):
    features = head(reference["W"], reference["b"]) if network else None
    detector = FEATURE_CASES[name].set_params(features=features, threshold_fraction=0.0)
    detector.fit(reference["z_train"], reference["y_train"])
    assert_close(detector.score_samples(reference["z_test"]), reference, name)


def test_neco_times_the_largest_logit(reference):
    network = head(reference["W"], reference["b"])
    detector = skood.NECO(network, n_components=12, max_logit=True).fit(reference["z_train"])
    assert_close(detector.score_samples(reference["z_test"]), reference, "neco_std_maxlogit")


def test_temperature_scaling(reference):
    network = head(reference["W"], reference["b"])
    detector = skood.TemperatureScaling(network).fit(reference["z_val"], reference["y_val"])
    np.testing.assert_allclose(detector.temperature_, reference["T_fitted"], rtol=1e-9)
    assert_close(detector.score_samples(reference["z_test"]), reference, "tempscale_msp")


def test_what_the_detectors_learned(reference):
    network = head(reference["W"], reference["b"])
    fit = reference["z_train"], reference["y_train"]
    vim = skood.ViM(network, n_components=20, threshold_fraction=0.0).fit(*fit)
    np.testing.assert_allclose(vim.alpha_, reference["vim_alpha"], rtol=1e-9)
    np.testing.assert_allclose(vim.origin_, reference["vim_origin"], rtol=1e-9)
    react = skood.ReAct(network, threshold_fraction=0.0).fit(*fit)
    np.testing.assert_allclose(react.threshold_, reference["react_threshold"], rtol=1e-12)
    vra = skood.VRA(network, threshold_fraction=0.0).fit(*fit)
    np.testing.assert_allclose(vra.thresholds_, reference["vra_alpha_beta"], rtol=1e-12)
    openmax = skood.OpenMax(network, threshold_fraction=0.0).fit(*fit)
    np.testing.assert_allclose(openmax.centres_, reference["openmax_centres"], rtol=1e-12)
    np.testing.assert_allclose(openmax.weibull_, reference["openmax_weibull"], rtol=1e-9)
    all_rows = skood.OpenMax(network, rows="all", threshold_fraction=0.0).fit(*fit)
    np.testing.assert_allclose(all_rows.weibull_, reference["openmax_alltrain_weibull"], rtol=1e-9)


def test_string_labels_change_nothing(reference):
    names = np.array([f"class {k}" for k in range(7)])
    network = skood.PretrainedClassifier(head(reference["W"], reference["b"]), classes=names)
    for name in ("she", "openmax"):
        detector = CLASSIFIER_CASES[name].set_params(classifier=network, threshold_fraction=0.0)
        detector.fit(reference["z_train"], names[reference["y_train"]])
        assert_close(detector.score_samples(reference["z_test"]), reference, name)


def test_gradnorm_is_the_gradient_of_the_last_layer(reference):
    network = head(reference["W"], reference["b"])
    scores = skood.GradNorm(network).fit(reference["z_train"]).score_samples(reference["z_test"])
    for row, score in zip(reference["z_test"][:5], scores, strict=False):
        loss = -torch.log_softmax(network(torch.tensor(row[None])), 1).mean()
        (gradient,) = torch.autograd.grad(loss, network[1].weight)
        np.testing.assert_allclose(score, gradient.abs().sum(), rtol=1e-9)


@pytest.fixture(scope="module")
def odin():
    return np.load(DATA / "odin.npz")


def odin_network(odin, kind):
    if kind == "mlp":
        layers = [nn.Flatten(), nn.Linear(192, 16), nn.ReLU(), nn.Linear(16, 4)]
        values = {"1": ("mlp_W1", "mlp_b1"), "3": ("mlp_W2", "mlp_b2")}
    else:
        layers = [nn.Conv2d(3, 5, 3), nn.ReLU(), nn.MaxPool2d(2), nn.Flatten(), nn.Linear(45, 4)]
        values = {"0": ("cnn_Wc", "cnn_bc"), "4": ("cnn_Wf", "cnn_bf")}
    module = nn.Sequential(*layers).double()
    module.load_state_dict(
        {
            f"{layer}.{part}": torch.tensor(odin[name])
            for layer, names in values.items()
            for part, name in zip(("weight", "bias"), names, strict=True)
        }
    )
    return skood.PretrainedClassifier(module, mean=odin["mean"], std=odin["std"])


@pytest.mark.parametrize("kind", ["mlp", "cnn"])
@pytest.mark.parametrize("temperature", [1, 10, 1000])
@pytest.mark.parametrize("epsilon", [0, 0.0014, 0.01])
def test_odin(odin, kind, temperature, epsilon):
    network = odin_network(odin, kind)
    detector = skood.ODIN(network, temperature, epsilon).fit(odin["images"])
    expected = odin[f"{kind}_odin_T{temperature}_eps{epsilon:g}"]
    np.testing.assert_allclose(detector.score_samples(odin["images"]), expected, atol=1e-10, rtol=0)


@pytest.mark.parametrize("kind", ["mlp", "cnn"])
def test_input_gradient(odin, kind):
    network = odin_network(odin, kind).fit(odin["images"]).network()
    x = network.tensor(odin["images"])

    def loss(logits):
        return nn.functional.cross_entropy(logits, logits.argmax(1), reduction="sum")

    gradient, _, logits = network.gradient(x, loss)
    np.testing.assert_allclose(gradient, odin[f"{kind}_grad_T1"], atol=1e-12)
    np.testing.assert_allclose(logits, odin[f"{kind}_logits"], atol=1e-12)
