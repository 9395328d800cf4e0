"""What the tests of the densities share."""

import numpy as np
import pytest

from skood.density import PixelCNN


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
