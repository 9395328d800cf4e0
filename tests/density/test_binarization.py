"""Binarised images of HierarchicalVAE: draws of training, and versions that scores use."""

import numpy as np
import pytest
import torch

from skood.density import HierarchicalVAE
from skood.density._binarization import BinarizingObjective, binary_versions

IMAGES = np.random.default_rng(0).random((20, 8, 6))


def tiny_vae(**kwargs):
    settings = {
        "n_filters": (3, 4),
        "hidden_features": (5,),
        "max_steps": 4,
        "batch_size": 16,
        "learning_rate": 3e-2,
        "n_importance_samples": 4,
        "precision": "fp32",
        "random_state": 0,
    }
    binary = {"likelihood": "bernoulli", "binarize": "dynamic"}
    return HierarchicalVAE((2, 1), **{**settings, **binary, **kwargs})


def test_training_draws_anew():
    vae = tiny_vae(validation_fraction=0).fit(IMAGES)
    data = vae._open(IMAGES[:1], reset=False)
    objective = BinarizingObjective(vae.module_, vae, data, None, torch.device("cpu"))
    generator = torch.Generator().manual_seed(0)
    items = objective.read(np.zeros(4000, dtype=int))
    (drawn,) = objective.prepare(items, generator)
    assert set(drawn.unique().tolist()) == {0, 1}
    np.testing.assert_allclose(drawn.mean(0)[0], IMAGES[0], atol=0.04)
    (again,) = objective.prepare(items, generator)
    assert not torch.equal(again, drawn)


@pytest.mark.parametrize("n_binarizations", [1, 3])
def test_scores_are_means_over_black_and_white_versions(n_binarizations):
    vae = tiny_vae(n_binarizations=n_binarizations).fit(IMAGES)
    x = torch.tensor(IMAGES, dtype=torch.float32)[:, None]
    versions = [version[:, 0].numpy() for version in binary_versions(x, n_binarizations)]
    assert len(versions) == n_binarizations
    grey = vae.score_samples(IMAGES), vae.score_above(IMAGES, 1)
    # A version of a binary image is the image itself, with or without binarisation.
    for _ in range(2):
        scores = [(vae.score_samples(v), vae.score_above(v, 1)) for v in versions]
        np.testing.assert_allclose(np.mean(scores, 0), grey, rtol=1e-6)
        vae.set_params(binarize=None)
    assert (vae.score_samples(IMAGES) != grey[0]).all()


def test_versions_have_the_grey_value_on_average():
    x = torch.as_tensor(IMAGES)[:, None]
    versions = torch.stack(binary_versions(x, 5))
    assert set(versions.unique().tolist()) == {0, 1}
    # Thresholds are evenly spaced, so that the frequency is the grey value, rounded.
    assert (versions.mean(0) - x).abs().max() < 0.2 + 1e-6
    assert (versions[0] != versions[1]).any()
    # Each version has the law of a draw.
    flat = torch.full((1, 1, 100, 100), 0.3)
    for version in binary_versions(flat, 5):
        assert version.mean() == pytest.approx(0.3, abs=0.02)


def test_black_and_white_stay():
    x = torch.arange(2.0).repeat(100).reshape(1, 1, 10, 20)
    assert all(torch.equal(version, x) for version in binary_versions(x, 5))


def test_batches_of_training_are_binary(monkeypatch):
    seen = []
    original = HierarchicalVAE._loss

    def loss(self, network, x, *rest):
        seen.append((network.training, x.clone()))
        return original(self, network, x, *rest)

    monkeypatch.setattr(HierarchicalVAE, "_loss", loss)
    tiny_vae(validation_fraction=0.5).fit(IMAGES)
    training = [x for is_training, x in seen if is_training]
    held_out = [x for is_training, x in seen if not is_training]
    assert all(set(x.unique().tolist()) == {0, 1} for x in training + held_out)
    assert all(torch.equal(x, held_out[0]) for x in held_out)
