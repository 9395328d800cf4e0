"""Detectors on inner layers of networks for signals and volumes, beside the same as images."""

import numpy as np
import pytest
import torch
from torch import nn

import skood

# The same numbers as signals, volumes and images.
SIGNALS = np.random.default_rng(0).normal(size=(60, 2, 12)).astype(np.float32)
Y = np.arange(60) % 3
DETECTORS = [
    skood.Gram(powers=(1, 2, 3), random_state=0),
    skood.LayerMahalanobis(),
    skood.NAC(layers=("1", "4"), min_count=3),
    skood.RankFeat(),
    skood.MCDropout(n_samples=3, random_state=0),
]


def network(n_axes):
    """Two convolutions over one axis, written over 1, 2 or 3."""
    kinds = {
        1: (nn.Conv1d, nn.BatchNorm1d, nn.AdaptiveAvgPool1d),
        2: (nn.Conv2d, nn.BatchNorm2d, nn.AdaptiveAvgPool2d),
        3: (nn.Conv3d, nn.BatchNorm3d, nn.AdaptiveAvgPool3d),
    }
    convolution, norm, pool = kinds[n_axes]
    kernel = (1,) * (n_axes - 1) + (3,)
    module = nn.Sequential(
        convolution(2, 5, kernel),
        nn.ReLU(),
        norm(5),
        convolution(5, 4, kernel),
        nn.ReLU(),
        nn.Dropout(0.3),
        pool(1),
        nn.Flatten(),
        nn.Linear(4, 3),
    ).eval()
    generator = torch.Generator().manual_seed(0)
    for parameter in module.parameters():
        parameter.data.copy_(torch.randn(parameter.numel(), generator=generator).view_as(parameter))
    return module


def items(n_axes):
    return SIGNALS.reshape(60, 2, *(1,) * (n_axes - 1), 12)


@pytest.mark.parametrize("n_axes", [1, 3])
@pytest.mark.parametrize("detector", DETECTORS, ids=lambda detector: type(detector).__name__)
def test_scores_are_those_of_images(detector, n_axes):
    scores = []
    for n in (2, n_axes):
        fitted = detector.set_params(classifier=network(n)).fit(items(n), Y)
        scores.append(fitted.score_samples(items(n)))
    assert np.ptp(scores[0]) > 0
    np.testing.assert_allclose(scores[1], scores[0], rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("n_axes", [1, 3])
def test_layers_that_are_found(n_axes):
    for detector in (skood.Gram(network(n_axes)), skood.LayerMahalanobis(network(n_axes))):
        assert detector.fit(items(n_axes), Y).layers_ == ("2", "5")


class Tokens(nn.Module):
    """Convolution, then tokens, whose second axis counts no channels."""

    def __init__(self):
        super().__init__()
        self.maps, self.mix = nn.Conv1d(2, 6, 3), nn.Linear(6, 6)
        self.norm, self.head = nn.LayerNorm(6), nn.Linear(6, 3)

    def forward(self, x):
        return self.head(self.norm(self.mix(self.maps(x).mT)).mean(1))


def test_tokens_are_no_maps():
    detector = skood.LayerMahalanobis(Tokens().eval()).fit(SIGNALS, Y)
    assert detector.layers_ == ("maps",)
    with pytest.raises(
        ValueError, match=r"layers='mix' names \['mix'\]; expected modules that run"
    ):
        skood.LayerMahalanobis(Tokens().eval(), layers="mix").fit(SIGNALS, Y)
