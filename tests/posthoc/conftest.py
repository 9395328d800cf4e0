"""A network that counts how often it runs."""

from weakref import WeakKeyDictionary

import numpy as np
import pytest
import torch
from torch import nn

import skood

BATCHES = WeakKeyDictionary()


class Counting(nn.Module):
    """Small network on images of 1 x 6 x 6 or rows of 36; counts images, not batches."""

    def __init__(self, n_classes=3):
        super().__init__()
        generator = torch.Generator().manual_seed(0)
        self.body = nn.Sequential(nn.Flatten(), nn.Linear(36, 10), nn.ReLU())
        self.head = nn.Linear(10, n_classes)
        for parameter in self.parameters():
            parameter.data.normal_(0, 0.5, generator=generator)

    @property
    def batches(self):
        """Sizes of the batches so far, which are no part of what the network computes."""
        return BATCHES.setdefault(self, [])

    def forward(self, x):
        self.batches.append(len(x))
        return self.head(self.body(x))


@pytest.fixture
def network():
    return Counting()


@pytest.fixture
def images():
    return np.random.default_rng(0).uniform(size=(90, 1, 6, 6)).astype(np.float32)


@pytest.fixture
def y():
    return np.arange(90) % 3


@pytest.fixture
def trained():
    """A classifier that tells three blobs apart, with its data."""
    rng = np.random.default_rng(0)
    y = np.repeat([0, 1, 2], 60)
    X = rng.normal(size=(180, 5)) + 4 * np.eye(3, 5)[y]
    return skood.MLP((16, 16), max_epochs=20, random_state=0).fit(X, y), X, y
