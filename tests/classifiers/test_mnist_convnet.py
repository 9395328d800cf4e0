"""The network that Dinari and Freifeld train on MNIST."""

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from sklearn.base import clone
from sklearn.decomposition import PCA
from torch import nn

from skood import VMDLS
from skood.classifiers import MNISTConvNet


def data(shape=(1, 9, 8), n=24):
    rng = np.random.default_rng(0)
    return rng.random((n, *shape)).astype(np.float32), np.arange(n) % 3


def tiny(**settings):
    settings = {"max_steps": 2, "precision": "fp32", "random_state": 0, **settings}
    return MNISTConvNet(4, hidden_features=5, **settings)


def test_layers_are_the_published_ones():
    with torch.device("meta"):
        module = MNISTConvNet()._build((1, 28, 28), 10)
    assert sum(p.numel() for p in module.parameters()) == 816_910
    convolutions = [layer for layer in module if isinstance(layer, nn.Conv2d)]
    shapes = [tuple(layer.weight.shape) for layer in convolutions]
    assert shapes == [(100, 1, 3, 3)] + 4 * [(100, 100, 3, 3)]
    assert all(layer.bias is not None and layer.padding == (1, 1) for layer in convolutions)
    kinds = [type(layer).__name__ for layer in module]
    two = ["Conv2d", "ReLU"] * 2 + ["MaxPool2d"]
    assert kinds == [*two, *two, "Conv2d", "ReLU", "MaxPool2d", "Flatten", "Linear", "Linear"]
    assert module.hidden.weight.shape == (500, 900)
    assert module.head.weight.shape == (10, 500)


def test_training_defaults_are_the_published_ones():
    network = MNISTConvNet()
    assert (network.max_epochs, network.optimizer) == (100, "adam")
    assert (network.learning_rate, network.lr_schedule) == (1e-4, "constant")
    assert network.weight_decay == 0


def test_it_computes_the_formula():
    """Written out with functions of its weights."""
    X, y = data()
    network = tiny().fit(X, y)
    weights = network.module_.state_dict()
    x = torch.from_numpy((X - network.mean_) / network.std_).float()
    for number in range(1, 6):
        x = F.conv2d(x, weights[f"conv{number}.weight"], weights[f"conv{number}.bias"], padding=1)
        x = x.relu()
        x = F.max_pool2d(x, 2) if number in (2, 4, 5) else x
    features = x.flatten(1) @ weights["hidden.weight"].T + weights["hidden.bias"]
    np.testing.assert_allclose(network.transform(X), features.numpy(), rtol=1e-4, atol=1e-6)
    assert (features < 0).any()
    logits = features @ weights["head.weight"].T + weights["head.bias"]
    found = network.decision_function(X)
    np.testing.assert_allclose(found, logits.numpy(), rtol=1e-4, atol=1e-6)


def test_every_weight_is_trained():
    X, y = data()
    before, after = (tiny(max_steps=n).fit(X, y).module_.state_dict() for n in (1, 2))
    assert all((before[name] != after[name]).any() for name in before)


def test_vmdls_reads_the_layers_of_the_authors():
    """Spatial means of three layers, the features and the latents, written out."""
    X, y = data()
    detector = VMDLS(tiny(), 3, n_classes_per_batch=3, n_samples_per_batch=4, random_state=0)
    detector.fit(X, y)
    assert detector.layers_ == MNISTConvNet.ensemble_layers == ("conv2", "pool1", "relu3")
    module, network = detector.backbone_.module_, detector.backbone_
    x = torch.from_numpy((X - network.mean_) / network.std_).float()
    with torch.no_grad():
        second = module.conv2(module.conv1(x).relu())
        pooled = F.max_pool2d(second.relu(), 2)
        third = module.conv3(pooled).relu()
        parts = [part.mean((2, 3)) for part in (second, pooled, third)]
    features = np.hstack([*map(np.asarray, parts), network.transform(X), detector.transform(X)])
    means = np.stack([features[y == k].mean(0) for k in range(3)])
    np.testing.assert_allclose(detector.gaussians_.means, means, rtol=1e-4, atol=1e-6)
    other = clone(detector).set_params(layers=("pool2",)).fit(X, y)
    assert other.layers_ == ("pool2",)


def test_first_ensemble_layer_is_that_of_the_reconstruction_weight():
    X, y = data()
    detector = VMDLS(tiny(), 3, n_classes_per_batch=3, n_samples_per_batch=4, random_state=0)
    detector.set_params(reconstruction=PCA(2)).fit(X, y)
    assert detector.first_layer_ == "conv2"


def test_small_images_and_rows_are_errors():
    X, y = data((1, 9, 7))
    with pytest.raises(ValueError, match=r"9 x 7 pixels are too small for MNISTConvNet"):
        tiny().fit(X, y)
    with pytest.raises(ValueError, match="MNISTConvNet takes images"):
        tiny().fit(X.reshape(len(X), -1), y)
