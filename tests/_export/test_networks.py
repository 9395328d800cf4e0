"""Preprocessing, networks and the readings of their outputs in a graph."""

import numpy as np
import pytest
import torch
import torchvision
from sklearn.frozen import FrozenEstimator
from torch import nn

import skood
from skood import FeatureExtractor, PretrainedClassifier
from skood._export._example import as_given
from skood._export._graph import DetectorGraph

rng = np.random.default_rng(0)
BYTES = rng.integers(0, 256, (40, 8, 8, 3), dtype=np.uint8)
Y = np.arange(40) % 3


def tiny_resnet(n_outputs=3):
    torch.manual_seed(0)
    block, norm = torchvision.models.resnet.BasicBlock, nn.BatchNorm2d
    network = torchvision.models.ResNet(block, [1, 1, 1, 1], num_classes=n_outputs, norm_layer=norm)
    network.conv1 = nn.Conv2d(3, 64, 3, padding=1, bias=False)
    return network.eval()


def small(n_outputs=3, n_channels=3):
    torch.manual_seed(0)
    return nn.Sequential(
        *(nn.Conv2d(n_channels, 4, 3), nn.ReLU(), nn.AdaptiveAvgPool2d(2), nn.Flatten()),
        *(nn.Linear(16, 8), nn.ReLU(), nn.Linear(8, n_outputs)),
    )


class Tokens(nn.Module):
    """A transformer's head: the first of several tokens, as one of several outputs."""

    def __init__(self):
        super().__init__()
        self.embed, self.head = nn.Embedding(11, 6), nn.Linear(6, 3)

    def forward(self, tokens):
        z = self.embed(tokens) + self.embed(tokens).mean(1, keepdim=True)
        return {"logits": self.head(z)[:, 0], "hidden": z}


class InSoftmax(nn.Module):
    def __init__(self):
        super().__init__()
        self.network = small()

    def forward(self, x):
        return torch.softmax(self.network(x), 1)


class Maps(nn.Module):
    """A head that is a convolution, before the pooling."""

    def __init__(self):
        super().__init__()
        self.body, self.head = nn.Conv2d(3, 6, 3), nn.Conv2d(6, 3, 1)

    def forward(self, x):
        return self.head(self.body(x).relu()).mean((2, 3))


def same(detector, X):
    """Compare the graph with the detector in batches of 1, 2 and 33."""
    data = detector._check(X)
    graph, items = DetectorGraph(detector, data).eval(), torch.from_numpy(as_given(data))
    for n in (1, 2, 33):
        with torch.no_grad():
            outputs = {name: value.numpy() for name, value in graph(items[:n]).items()}
        scores = detector.score_samples(X[:n])
        np.testing.assert_allclose(
            outputs["score"], scores, rtol=1e-5, atol=1e-5 * np.abs(scores).max()
        )
        if hasattr(detector, "predict_proba"):
            proba = detector.predict_proba(X[:n])
            np.testing.assert_allclose(outputs["probabilities"], proba, rtol=1e-4, atol=1e-7)
    return outputs


FLOATS = np.moveaxis(BYTES, -1, 1).astype(np.float32) / 255
CASES = {
    "bytes, channels last": (skood.Energy(small()), BYTES),
    "floats": (skood.Mahalanobis(small()), FLOATS),
    "doubles": (skood.ViM(small(), 4), FLOATS.astype(np.float64)),
    "mean and std": (
        skood.MSP(PretrainedClassifier(small(), mean=[0.5, 0.4, 0.3], std=[0.2, 0.3, 0.4])),
        BYTES,
    ),
    "value_range": (
        skood.MaxLogit(PretrainedClassifier(small(), value_range=(-1, 1), mean=0.5)),
        2 * FLOATS - 1,
    ),
    "grey": (skood.KNN(small(n_channels=1), n_neighbors=3), FLOATS[:, 0]),
    "flat rows": (
        skood.Energy(PretrainedClassifier(small(), image_shape=(3, 8, 8))),
        FLOATS.reshape(40, -1),
    ),
    "resnet": (skood.SHE(tiny_resnet()), BYTES),
    "one logit": (skood.ReAct(small(1)), FLOATS),
    "multilabel": (skood.Energy(PretrainedClassifier(small(5), multilabel=True)), FLOATS),
    "softmax": (skood.GEN(InSoftmax()), FLOATS),
    "convolution as head": (skood.NCI(Maps()), FLOATS),
    "tokens": (skood.FDBD(Tokens()), rng.integers(0, 11, (40, 5))),
    "layer": (skood.GMM(PretrainedClassifier(small(), features_from="4")), FLOATS),
    "extractor": (skood.KNN(FeatureExtractor(small()[:5]), n_neighbors=3), FLOATS),
    "double network": (skood.Energy(small().double()), FLOATS),
    "half network": (skood.Energy(small().bfloat16()), FLOATS),
    "images as rows": (skood.Mahalanobis(), FLOATS[:, :, :2, :2]),
    "signals": (
        skood.Energy(nn.Sequential(nn.Conv1d(4, 3, 2), nn.AdaptiveAvgPool1d(1), nn.Flatten())),
        rng.normal(size=(40, 4, 9)).astype(np.float32),
    ),
}


@pytest.mark.parametrize("name", CASES)
def test_a_trained_module(name):
    detector, X = CASES[name]
    outputs = same(detector.fit(X, None if name == "multilabel" else Y), X)
    assert ("class_index" in outputs) == (
        hasattr(detector, "predict_proba") and name != "multilabel"
    )


@pytest.mark.parametrize(
    "settings",
    [{}, {"value_range": "minmax"}, {"channels": "last"}],
    ids=["bytes", "minmax", "channels"],
)
def test_a_classifier_of_this_package(settings):
    network = skood.ConvNet((4, 6), max_epochs=1, random_state=0, **settings)
    same(skood.ASH(network, random_state=0).fit(BYTES, Y), BYTES)


def test_standardised_rows():
    rows = 1e3 + 20 * rng.normal(size=(40, 5))
    network = FrozenEstimator(skood.MLP((6,), max_epochs=2, random_state=0).fit(rows, Y))
    same(skood.Mahalanobis(network).fit(rows, Y), rows)


def test_the_users_network_is_unchanged():
    network = small().train().requires_grad_(True)
    before = {name: value.clone() for name, value in network.state_dict().items()}
    detector = skood.Energy(network).fit(FLOATS)
    same(detector, FLOATS)
    assert network.training and all(p.requires_grad for p in network.parameters())
    for name, value in network.state_dict().items():
        assert torch.equal(value, before[name])


@pytest.mark.parametrize(
    ("network", "X", "wrong"),
    [
        (PretrainedClassifier(small()), FLOATS, [np.nan, np.inf, -np.inf]),
        (PretrainedClassifier(small(), mean=0.5, std=0.5), FLOATS, [np.nan, 1.01, -0.01]),
        (PretrainedClassifier(small(), value_range=(-1, 2)), FLOATS, [np.nan, 2.1, -1.1]),
    ],
    ids=["finite", "pixels", "value_range"],
)
def test_an_item_that_the_detector_refuses_has_no_score(network, X, wrong):
    detector = skood.Energy(network).fit(X)
    graph = DetectorGraph(detector, detector._check(X)).eval()
    for value in wrong:
        items = X[:4].copy()
        items[2, 1, 0, 0] = value
        with pytest.raises(ValueError, match=r"X |Input "):
            detector.score_samples(items)
        with torch.no_grad():
            outputs = graph(torch.tensor(items))
        assert torch.isnan(outputs["score"]).tolist() == [False, False, True, False]
        assert outputs["is_inlier"][2] == -1
