"""Fixtures that several test modules share."""

import os

# Results must not depend on the machine. To try the tests on a GPU, set it to a device's number.
os.environ.setdefault("CUDA_VISIBLE_DEVICES", "")

import numpy as np
import pytest
import torch
from sklearn.datasets import load_digits


@pytest.fixture(scope="session", autouse=True)
def one_thread():
    """Networks this small only lose by threads, most of all on a busy machine."""
    torch.set_num_threads(1)


@pytest.fixture(scope="session")
def digits():
    """Images of digits in random order, shape (1797, 8, 8), values 0 to 16; read-only."""
    images = load_digits().images
    images = images[np.random.default_rng(0).permutation(len(images))]
    images.flags.writeable = False
    return images
