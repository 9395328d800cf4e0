"""LeNet: the layers of the authors' code, and what it cannot take."""

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from sklearn.datasets import load_digits

from skood import LeNet


@pytest.mark.parametrize(
    ("network", "item_shape", "n_outputs", "shapes"),
    [
        (LeNet((8, 4)), (1, 28, 28), 32, [(8, 1, 5, 5), (4, 8, 5, 5), (32, 196), (32,)]),
        (
            LeNet((16, 32), hidden_features=128),
            (1, 28, 28),
            64,
            [(16, 1, 5, 5), (32, 16, 5, 5), (128, 1568), (64, 128), (64,)],
        ),
        (
            LeNet((32, 64, 128)),
            (3, 32, 32),
            128,
            [(32, 3, 5, 5), (64, 32, 5, 5), (128, 64, 5, 5), (128, 2048), (128,)],
        ),
    ],
)
def test_weights_of_the_published_networks(network, item_shape, n_outputs, shapes):
    built = network._build(item_shape, n_outputs)
    assert [tuple(weight.shape) for weight in built.parameters()] == shapes


def test_outputs_by_hand():
    built = LeNet((3, 2), hidden_features=4)._build((1, 10, 9), 5).train()
    first, second, hidden, last, bias = built.parameters()
    x = torch.rand(6, 1, 10, 9)
    expected = x
    for weight in (first, second):
        maps = F.conv2d(expected, weight, padding=2)
        mean = maps.mean((0, 2, 3), keepdim=True)
        variance = maps.var((0, 2, 3), correction=0, keepdim=True)
        maps = (maps - mean) / (variance + 1e-4).sqrt()
        expected = F.max_pool2d(torch.where(maps > 0, maps, 0.01 * maps), 2)
    features = expected.flatten(1) @ hidden.T
    scale = (features.var(0, correction=0) + 1e-4).sqrt()
    features = (features - features.mean(0)) / scale
    features = torch.where(features > 0, features, 0.01 * features)
    torch.testing.assert_close(built(x), features @ last.T + bias, rtol=1e-4, atol=1e-5)


def test_digits():
    digits = load_digits()
    X, y = digits.images / 16, digits.target
    network = LeNet((16, 16), learning_rate=0.05, max_epochs=4, random_state=0).fit(X[::2], y[::2])
    assert (network.predict(X[1::2]) == y[1::2]).mean() > 0.9
    assert network.transform(X[:3]).shape == (3, 64)


def test_errors():
    X, y = np.zeros((4, 3, 8)), np.arange(4) % 2
    with pytest.raises(ValueError, match="3 x 8 pixels cannot be halved 2 times"):
        LeNet().fit(X, y)
    with pytest.raises(ValueError, match="LeNet takes images"):
        LeNet().fit(np.zeros((4, 8)), y)
