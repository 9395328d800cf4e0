"""What the tests of the densities share."""

import numpy as np
import pytest
import torch

from skood._torch.seeding import isolated_rng
from skood.density import PixelCNN
from skood.density._image_flow_network import ImageFlowNetwork


@pytest.fixture(scope="session")
def tiny():
    """Make the smallest PixelCNN, trained for a moment; keywords override."""

    def make(**kwargs):
        settings = {
            "n_filters": 3,
            "n_resnet": 1,
            "max_steps": 2,
            "batch_size": 8,
            "validation_fraction": 0.0,
            "learning_rate": 1e-2,
            "precision": "fp32",
            "compile": False,
            "random_state": 0,
        }
        return PixelCNN(**{**settings, **kwargs})

    return make


@pytest.fixture
def images():
    """Noise as uint8 images, shape (24, 5, 4)."""
    return np.random.default_rng(0).integers(256, size=(24, 5, 4), dtype=np.uint8)


@pytest.fixture(scope="session")
def image_flow_network():
    """Make a flow between images and latents with random weights, float64; keywords override.

    Untrained couplings and ActNorm shifts would be the identity.
    """

    def make(item_shape, n_transforms=(2, 2), **kwargs):
        settings = {"mask": "half", "coupling": "spline", "n_bins": 4, "bound": 3.0}
        settings |= {"n_filters": (6,) * len(n_transforms), "n_blocks": 1, "dropout": 0.0}
        settings |= {"ends_mixed": False, **kwargs}
        with isolated_rng(torch.device("cpu"), 0), torch.no_grad():
            network = ImageFlowNetwork(item_shape, n_transforms, **settings)
            last = f"conditioner.{settings['n_blocks'] + 1}.weight"
            for name, weight in network.named_parameters():
                # More for what starts at 0.
                size = 0.1 if name.endswith(last) else 0.02
                weight += size * torch.randn_like(weight)
        return network.double().eval()

    return make
