"""The network and the training of Jordan (2024)."""

import math

import numpy as np
import pytest
import torch
from sklearn.base import clone
from sklearn.frozen import FrozenEstimator
from torch import nn

import skood
from skood.classifiers import Airbench


@pytest.fixture(scope="module")
def data():
    rng = np.random.default_rng(0)
    y = np.arange(48) % 3
    X = rng.integers(0, 200, (48, 16, 16, 3), dtype=np.uint8)
    # Neighbouring pixels are correlated.
    X = (X + np.roll(X, 1, 1).astype(int) + np.roll(X, 1, 2)) // 3 + 20 * y[:, None, None, None]
    return X.astype(np.uint8), y


def tiny(**settings):
    return Airbench(
        (6, 30, 12), **{"batch_size": 16, "max_epochs": 4, "random_state": 0, **settings}
    )


def test_published_network():
    """Jordan (2024), section 2 and listing 4: 1.97 million parameters."""
    network = Airbench(activation="gelu")._build((3, 32, 32), 10)
    sizes = {name: p.numel() for name, p in network.named_parameters()}
    assert sum(sizes.values()) == (
        (24 * 12 + 24)
        + 9 * (24 * 64 + 64 * 64 + 64 * 256 + 3 * 256 * 256)
        + 2 * 2 * (64 + 256 + 256)
        + 2560
    )
    assert round(sum(sizes.values()) / 1e6, 2) == 1.97
    shapes = []
    x = torch.zeros((1, 3, 32, 32))
    for layer in network.eval():
        x = layer(x)
        if isinstance(layer, (nn.Conv2d, nn.MaxPool2d, nn.AdaptiveMaxPool2d)):
            shapes.append(tuple(x.shape[1:]))
    assert shapes == [
        *[(24, 31, 31), (64, 31, 31), (64, 15, 15), (64, 15, 15)],
        *[(256, 15, 15), (256, 7, 7), (256, 7, 7), (256, 7, 7), (256, 3, 3), (256, 3, 3)],
        (256, 1, 1),
    ]


def test_ensemble_layers_end_the_stages():
    network = Airbench((6, 30, 12))._build((3, 32, 32), 10).eval()
    sizes = []
    for name in Airbench.ensemble_layers:
        assert isinstance(network.get_submodule(name), nn.ReLU)
        index = int(name)
        sizes.append(tuple(network[: index + 1](torch.zeros((1, 3, 32, 32))).shape[1:]))
        assert isinstance(network[index + 1], (nn.Conv2d, nn.AdaptiveMaxPool2d))
    assert sizes == [(6, 15, 15), (30, 7, 7), (12, 3, 3)]


def test_convolutions_start_as_the_identity():
    network = Airbench((6, 30, 12))._build((3, 16, 16), 3)
    for layer in list(network.modules())[2:]:
        if isinstance(layer, nn.Conv2d):
            n_out, n_in = layer.weight.shape[:2]
            n = min(n_in, n_out)
            expected = torch.zeros((n, n_in, 3, 3))
            expected[range(n), range(n), 1, 1] = 1
            assert torch.equal(layer.weight[:n], expected)
            assert (layer.weight[n:] != 0).all()


def test_first_layer_whitens_patches(data):
    X, y = data
    network = tiny(max_steps=1, learning_rate=1e-9).fit(X, y)
    layer = network.module_[0]
    images = (X / 255 - X.mean((0, 1, 2)) / 255) / (X / 255).std((0, 1, 2))
    patches = np.stack(
        [images[:, i : i + 15, j : j + 15] for i in range(2) for j in range(2)], axis=3
    ).reshape(-1, 4, 3)
    patches = patches.transpose(0, 2, 1).reshape(len(patches), 12)
    filters = layer.weight.detach().double().numpy().reshape(24, 12)
    np.testing.assert_allclose(filters[12:], -filters[:12], atol=1e-7)
    responses = patches @ filters[:12].T
    second_moments = responses.T @ responses / len(responses)
    eigenvalues = np.linalg.eigvalsh(patches.T @ patches / len(patches))
    # The responses are uncorrelated, with a variance of almost 1.
    np.testing.assert_allclose(
        second_moments, np.diag(eigenvalues / (eigenvalues + 5e-4)), atol=1e-4
    )


def test_rates_and_decay_of_the_groups():
    """In a loss summed over 1 024 images, the rate is 11.5 / k, and a step removes .0153 / 7.67."""
    network = Airbench()
    k = 1024 * (1 + 1 / (1 - 0.85))
    assert network.learning_rate == pytest.approx(512 * 11.5 / k)
    assert network.weight_decay == pytest.approx((0.0153 * 1024 / k) / (1024 * 11.5 / k), rel=1e-3)
    module = network._build((3, 32, 32), 10)
    others, normalization, whitening = network.parameter_groups(module, 2)
    assert others.get("lr_scale", 1) == 1
    assert normalization["lr_scale"] == 64
    assert normalization["weight_decay"] * 64 == pytest.approx(network.weight_decay)
    assert len(normalization["params"]) == 6
    assert whitening["lr_scale"] == 1
    assert network.parameter_groups(module, 3)[2]["lr_scale"] == 0


def test_what_moves(data):
    X, y = data

    def state(n_epochs):
        # A constant rate, and no averages: the first epochs of both are the same.
        network = tiny(max_epochs=n_epochs, lr_schedule="constant", lookahead=None)
        return dict(network.fit(X, y).module_.named_parameters())

    three, four = state(3), state(4)
    moved = {name for name in three if not torch.equal(three[name], four[name])}
    scales = {
        f"{i}.weight"
        for i, p in enumerate(Airbench()._build((3, 32, 32), 3))
        if isinstance(p, nn.BatchNorm2d)
    }
    assert moved == set(three) - scales - {"0.weight", "0.bias"}
    for name in scales:
        assert (four[name] == 1).all()
    assert not torch.equal(state(1)["0.bias"], three["0.bias"])


@pytest.mark.parametrize("activation", ["relu", "gelu"])
def test_features_and_logits(data, activation):
    X, y = data
    network = tiny(activation=activation).fit(X, y)
    features = network.transform(X)
    assert features.shape == (48, 12)
    assert (features.min() >= 0) == (activation == "relu")
    np.testing.assert_allclose(
        features @ network.module_[-1].weight.detach().numpy().T,
        network.decision_function(X),
        atol=1e-5,
    )
    # Scores do not depend on the batch.
    np.testing.assert_allclose(
        network.decision_function(X[:3]), network.decision_function(X)[:3], atol=1e-5
    )


def test_grey_images_are_not_mirrored():
    rng = np.random.default_rng(0)
    X, y = rng.random((20, 12, 9)), np.arange(20) % 2
    network = tiny(max_epochs=1).fit(X, y)
    assert network.module_[0].weight.shape == (8, 1, 2, 2)
    names = []
    for n_channels in (1, 3):
        x = torch.zeros((1, n_channels, 4, 4))
        names.append(network._auto_augmentations["colour" if x.shape[1] == 3 else "grey"])
    assert names == [("translate",), ("alternating_flip", "translate")]


def test_starts_from_a_trained_network(data):
    X, y = data
    trained = tiny().fit(X, y)
    before = trained.module_[0].weight.clone()
    fine_tuned = tiny(weights_init=FrozenEstimator(trained), max_steps=1).fit(X[:30], y[:30])
    assert torch.equal(fine_tuned.module_[0].weight, before)
    assert clone(fine_tuned).weights_init is not None


@pytest.mark.filterwarnings("ignore:VMDLS does not use")
@pytest.mark.filterwarnings("ignore:the training loss of LogitNorm")
@pytest.mark.filterwarnings("ignore:VOS made no virtual outliers")
@pytest.mark.parametrize(
    "make",
    [
        lambda network: skood.DeepSVDD(network, n_latent=3),
        lambda network: skood.DeepSVDD(network, n_latent=3, n_pretraining_epochs=1),
        skood.LogitNorm,
        skood.MCDropout,
        skood.ODIN,
        skood.RegMixup,
        lambda network: skood.VMDLS(network, 3, n_classes_per_batch=3, n_samples_per_batch=4),
        skood.VOS,
        skood.ViM,
    ],
    ids=["SVDD", "pretrained", "LogitNorm", "MCDropout", "ODIN", "RegMixup", "VMDLS", "VOS", "ViM"],
)
def test_in_a_detector(data, make):
    X, y = data
    detector = make(tiny(max_epochs=1, dropout=0.3, learning_rate=1e-3))
    scores = detector.set_params(random_state=0).fit(X, y).score_samples(X)
    assert np.isfinite(scores).all()
    assert len(np.unique(scores)) > 40


def test_small_images_raise():
    with pytest.raises(ValueError, match="8 x 8 pixels are too small for Airbench"):
        tiny().fit(np.zeros((4, 8, 8)), [0, 0, 1, 1])
    with pytest.raises(ValueError, match="expected the channels of three stages"):
        Airbench((4, 4)).fit(np.zeros((4, 16, 16)), [0, 0, 1, 1])


def test_learns(data):
    X, y = data
    network = tiny(max_epochs=20).fit(X, y)
    assert network.score(X, y) > 0.9
    assert math.isfinite(network.history_["loss"][-1])
