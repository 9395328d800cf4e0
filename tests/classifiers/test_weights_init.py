"""Training that starts from the weights of a trained network."""

import numpy as np
import pytest
import torch
from sklearn.base import clone
from sklearn.datasets import load_iris
from sklearn.frozen import FrozenEstimator
from sklearn.linear_model import LogisticRegression
from torch import nn

from skood import MLP, ConvNet, PretrainedClassifier

# A step so small that weights stay as they are.
NO_TRAINING = {"max_steps": 1, "learning_rate": 1e-12, "weight_decay": 0.0, "precision": "fp32"}


@pytest.fixture(scope="module")
def iris():
    return load_iris(return_X_y=True)


@pytest.fixture(scope="module")
def trained(iris):
    X, y = iris
    return MLP((8,), max_epochs=20, random_state=0).fit(X[:100] + 1, y[:100] + 5)


def test_weights_and_normalisation_are_taken_over(trained, iris):
    """On other data, whose own mean and standard deviation would change every output."""
    X, y = iris
    start = FrozenEstimator(trained)
    network = MLP((8,), weights_init=start, **NO_TRAINING).fit(X[50:], y[50:])
    np.testing.assert_array_equal(network.mean_, trained.mean_)
    np.testing.assert_array_equal(network.std_, trained.std_)
    np.testing.assert_allclose(network.transform(X), trained.transform(X), atol=1e-6)
    # There are two classes in both, so the last layer is taken over too.
    np.testing.assert_allclose(
        network.decision_function(X), trained.decision_function(X), atol=1e-5
    )
    np.testing.assert_array_equal(network.classes_, [1, 2])
    np.testing.assert_array_equal(trained.classes_, [5, 6])


def test_another_number_of_classes_gets_a_new_last_layer(trained, iris):
    X, y = iris
    settings = {"weights_init": FrozenEstimator(trained), **NO_TRAINING}
    networks = [MLP((8,), random_state=seed, **settings).fit(X, y) for seed in (0, 1)]
    for network in networks:
        np.testing.assert_allclose(network.transform(X), trained.transform(X), atol=1e-6)
    logits = [network.decision_function(X) for network in networks]
    assert logits[0].shape == (150, 3)
    assert not np.allclose(*logits)


def test_the_trained_network_is_not_changed(trained, iris):
    X, y = iris
    before = trained.decision_function(X)
    network = MLP((8,), weights_init=FrozenEstimator(trained), max_epochs=3, random_state=0)
    copied = clone(network).fit(X[:100], y[:100])
    assert not np.allclose(copied.transform(X), trained.transform(X))
    np.testing.assert_array_equal(trained.decision_function(X), before)


@pytest.mark.parametrize("normalised", [True, False])
def test_a_module_of_images(normalised):
    """With the normalisation that a PretrainedClassifier states, or none."""
    X = np.random.default_rng(0).random((20, 3, 8, 8), dtype=np.float32)
    y = np.arange(20) % 2
    module = ConvNet((4, 4))._build((3, 8, 8), 2).eval()
    constants = {"mean": (0.4, 0.5, 0.6), "std": (0.2, 0.3, 0.1)} if normalised else {}
    model = PretrainedClassifier(module, **constants) if normalised else module
    network = ConvNet((4, 4), weights_init=model, augmentation=None, **NO_TRAINING)
    assert isinstance(network.weights_init, PretrainedClassifier)
    network.fit(X, y)
    assert network.mean_.shape == network.std_.shape == (3, 1, 1)
    # A step in training mode moves the running means of batch normalisation.
    for layer, source in zip(network.module_, module, strict=True):
        if isinstance(layer, nn.BatchNorm2d):
            layer.load_state_dict(source.state_dict())
    expected = PretrainedClassifier(module, **constants).decision_function(X)
    np.testing.assert_allclose(network.decision_function(X), expected, atol=1e-5)


def test_resumed_training_starts_from_them_too(trained, iris, tmp_path):
    X, y = iris
    settings = {"weights_init": FrozenEstimator(trained), "max_epochs": 2, "random_state": 0}
    whole = MLP((8,), **settings).fit(X, y)
    for _ in range(2):
        again = MLP((8,), checkpoint_dir=str(tmp_path), **settings).fit(X, y)
        np.testing.assert_array_equal(again.decision_function(X), whole.decision_function(X))
    assert len(list(tmp_path.glob("*.pt"))) == 1


def test_errors(trained, iris):
    X, y = iris
    start = FrozenEstimator(trained)
    with pytest.raises(ValueError, match=r"weights_init has the shape \(8, 4\) for '1.weight'"):
        MLP((9,), weights_init=start).fit(X, y)
    with pytest.raises(ValueError, match=r"has the last layer '4', but it is '7' in the network"):
        MLP((8, 2), weights_init=start).fit(X, y)
    with pytest.raises(ValueError, match="'weights_init' parameter"):
        MLP((8,), weights_init=trained).fit(X, y)
    with pytest.raises(TypeError, match="is a LogisticRegression"):
        MLP((8,), weights_init=FrozenEstimator(LogisticRegression())).fit(X, y)
    module = nn.Sequential(nn.Flatten(), nn.Linear(4, 8), nn.ReLU(), nn.ReLU(), nn.Linear(8, 2))
    network = MLP((8,), weights_init=module, **NO_TRAINING).fit(X, y)
    assert torch.equal(network.module_[1].weight, module[1].weight)
    images = np.random.default_rng(0).random((9, 8, 8))
    plain = ConvNet((4, 4), max_steps=1).fit(images, np.arange(9) % 3).module_
    del plain[1].running_mean
    with pytest.raises(ValueError, match=r"has nothing for '1.running_mean'"):
        ConvNet((4, 4), weights_init=plain).fit(images, np.arange(9) % 3)
