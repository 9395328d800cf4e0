"""Distances of images, compared with loops over windows and places."""

import numpy as np
import pytest
import torch
from sklearn.frozen import FrozenEstimator
from torch import nn

from skood import Diffusion, DiffusionReconstruction
from skood.likelihood import FeatureDistance
from skood.likelihood._item_distances import mean_squared_error, structural_dissimilarity


@pytest.fixture
def pairs():
    """Return images and noisy copies with pixels in [0, 1], (5, 2, 14, 13)."""
    rng = np.random.default_rng(0)
    x = rng.random((5, 2, 14, 13))
    return x, np.clip(x + rng.normal(0, 0.3, size=x.shape), 0, 1)


def in_network_units(*arrays):
    return [torch.from_numpy(2 * array - 1) for array in arrays]


def ssim(x, y, width):
    """SSIM of two arrays (H, W), window by window."""
    places = np.arange(width) - width // 2
    weights = np.exp(-(places[:, None] ** 2 + places**2) / (2 * 1.5**2))
    weights /= weights.sum()
    values = []
    for i in range(x.shape[0] - width + 1):
        for j in range(x.shape[1] - width + 1):
            a, b = x[i : i + width, j : j + width], y[i : i + width, j : j + width]
            mean_a, mean_b = (weights * a).sum(), (weights * b).sum()
            variance_a = (weights * (a - mean_a) ** 2).sum()
            variance_b = (weights * (b - mean_b) ** 2).sum()
            covariance = (weights * (a - mean_a) * (b - mean_b)).sum()
            values.append(
                (2 * mean_a * mean_b + 0.0001)
                * (2 * covariance + 0.0009)
                / ((mean_a**2 + mean_b**2 + 0.0001) * (variance_a + variance_b + 0.0009))
            )
    return np.mean(values)


@pytest.mark.parametrize(("sides", "width"), [((14, 13), 11), ((8, 13), 7), ((9, 5), 5)])
def test_structural_similarity(pairs, sides, width):
    x, y = (part[..., : sides[0], : sides[1]] for part in pairs)
    expected = [
        1 - np.mean([ssim(x[i, c], y[i, c], width) for c in range(2)]) for i in range(len(x))
    ]
    found = structural_dissimilarity(*in_network_units(x, y))
    np.testing.assert_allclose(found, expected, rtol=1e-10)
    assert found.dtype == torch.float64
    np.testing.assert_allclose(structural_dissimilarity(*in_network_units(x, x)), 0, atol=1e-12)


def test_mean_squared_error(pairs):
    x, y = pairs
    expected = 4 * ((x - y) ** 2).mean((1, 2, 3))
    np.testing.assert_allclose(mean_squared_error(*in_network_units(x, y)), expected)


@pytest.fixture
def network():
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Conv2d(2, 4, 3), nn.ReLU(inplace=True), nn.Dropout(0.5), nn.Flatten(), nn.Linear(528, 3)
    ).double()


def unit(features):
    # Features of length 0 remain 0.
    return features / np.linalg.norm(features, axis=1, keepdims=True).clip(1e-12)


@pytest.mark.parametrize("value_range", [(0, 1), (0, 255)])
def test_distance_of_features(pairs, network, value_range):
    scale = value_range[1]
    expected = 0.0
    with torch.no_grad():
        of_x, of_y = (network[0](torch.from_numpy(scale * array)).numpy() for array in pairs)
        for make in (lambda h: h, lambda h: np.maximum(h, 0)):
            difference = (unit(make(of_x)) - unit(make(of_y))) ** 2
            expected = expected + difference.sum(1).mean((1, 2))
        found = FeatureDistance(network, ["0", "1"], value_range=value_range)(
            *in_network_units(*pairs)
        )
        np.testing.assert_allclose(found, expected, rtol=1e-10)
        # The output is a vector, of a network without dropout.
        network.eval()
        of_x, of_y = (network(torch.from_numpy(scale * array)).numpy() for array in pairs)
        network.train()
        found = FeatureDistance(network, value_range=value_range)(*in_network_units(*pairs))
        np.testing.assert_allclose(found, ((unit(of_x) - unit(of_y)) ** 2).sum(1), rtol=1e-10)
    assert network.training
    assert not network[0]._forward_hooks


@pytest.mark.parametrize("layers", [(), ["0", "conv"]])
def test_layers_that_a_network_lacks(network, layers):
    with pytest.raises(ValueError, match=r"expected at least one of \['0', '1', '2', '3', '4'\]"):
        FeatureDistance(network, layers)


def test_distances_in_a_detector(pairs, network):
    images = pairs[0][:, :1].repeat(5, 0).astype(np.float32)
    model = FrozenEstimator(Diffusion((4,), 1, max_steps=2, random_state=0).fit(images))
    of_one_channel = nn.Conv2d(1, 3, 3)
    distances = ("mse", "ssim", FeatureDistance(of_one_channel))
    settings = {"n_steps": 0, "times": (0.1, 0.5), "random_state": 0}
    detectors = [
        DiffusionReconstruction(model, distance=d, **settings).fit(images)
        for d in (distances, *distances, "auto")
    ]
    together, *apart, default = [detector.score_samples(images) for detector in detectors]
    np.testing.assert_allclose(together, np.mean(apart, 0), atol=1e-6)
    np.testing.assert_allclose(default, np.mean(apart[:2], 0), atol=1e-6)
    assert detectors[-1].mean_distances_.shape == (2, 2)
    parts = [detectors[0].score_samples(images[i : i + 7]) for i in range(0, 25, 7)]
    np.testing.assert_allclose(np.concatenate(parts), together, atol=1e-5)


def test_images_as_flat_rows():
    images = np.random.default_rng(0).random((20, 6, 6)).astype(np.float32)
    scores = []
    for X, settings in ((images, {}), (images.reshape(20, 36), {"image_shape": (1, 6, 6)})):
        model = Diffusion((4,), 1, max_steps=2, random_state=0, **settings)
        settings = {"n_steps": 0, "times": (0.1,), "random_state": 0}
        detector = DiffusionReconstruction(model, distance="ssim", **settings).fit(X)
        scores.append(detector.score_samples(X))
    np.testing.assert_allclose(*scores, rtol=1e-6)
