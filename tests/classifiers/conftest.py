"""What the tests of the classifiers share."""

import numpy as np
import pytest
from sklearn.datasets import load_digits

from skood.classifiers import ConvNet


@pytest.fixture(scope="session")
def tiny():
    """Make the smallest network, trained for a moment; keywords override."""

    def make(cls=ConvNet, **kwargs):
        settings = {
            "max_steps": 3,
            "batch_size": 8,
            "precision": "fp32",
            "compile": False,
            "random_state": 0,
        }
        if cls is ConvNet:
            settings["n_filters"] = (4,)
        return cls(**{**settings, **kwargs})

    return make


@pytest.fixture
def images():
    """Noise as colour images, uint8, shape (24, 3, 6, 5)."""
    return np.random.default_rng(0).integers(256, size=(24, 3, 6, 5), dtype=np.uint8)


@pytest.fixture
def labels():
    """Three classes, eight times each."""
    return np.arange(24) % 3


@pytest.fixture(scope="session")
def labelled_digits():
    """Images of digits in random order, shape (1797, 8, 8), values 0 to 16, and their labels."""
    bunch = load_digits()
    order = np.random.default_rng(0).permutation(len(bunch.target))
    return bunch.images[order], bunch.target[order]
