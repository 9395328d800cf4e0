"""What the detectors on inner layers keep, on any network and any data."""

import copy
import pickle

import numpy as np
import pytest
import torch
from sklearn.base import clone
from sklearn.datasets import load_digits, load_iris
from sklearn.frozen import FrozenEstimator
from sklearn.metrics import roc_auc_score
from torch import nn

from skood import MLP, ConvNet, PretrainedClassifier
from skood.posthoc._gram import Gram
from skood.posthoc._layer_mahalanobis import LayerMahalanobis
from skood.posthoc._nac import NAC
from skood.posthoc._rankfeat import RankFeat

READ_LAYERS = [LayerMahalanobis(), Gram(), NAC()]
DETECTORS = [*READ_LAYERS, RankFeat()]


def name_of(detector):
    return type(detector).__name__


each_detector = pytest.mark.parametrize("detector", DETECTORS, ids=name_of)
reads_layers = pytest.mark.parametrize("detector", READ_LAYERS, ids=name_of)


def on(network, detector, **settings):
    """A clone of `detector` on this network."""
    return clone(detector).set_params(classifier=network, **settings)


def convolutional(inplace=False, n_channels=1):
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Conv2d(n_channels, 6, 3, padding=1),
        nn.ReLU(inplace),
        nn.MaxPool2d(2),
        nn.Conv2d(6, 8, 3, padding=1),
        nn.BatchNorm2d(8),
        nn.ReLU(inplace),
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
        nn.Dropout(0.5, inplace),
        nn.Linear(8, 4),
    )


@pytest.fixture(scope="module")
def X():
    return np.random.default_rng(0).normal(size=(90, 1, 8, 8))


@pytest.fixture(scope="module")
def y():
    return np.arange(90) % 4


@pytest.fixture(scope="module")
def trained():
    """Images of seven digits, their labels, noise like them, and a network for each kind of X."""
    images, labels = load_digits(return_X_y=True)
    images, labels = images[labels < 7][:900], labels[labels < 7][:900]
    noise = np.random.default_rng(0).permuted(images[:300], axis=1)
    networks = {
        "images": ConvNet(
            (8, 64), max_epochs=6, image_shape=(1, 8, 8), value_range=(0, 16), random_state=0
        ),
        "rows": MLP((64, 64), max_epochs=15, random_state=0),
    }
    for network in networks.values():
        network.fit(images, labels)
    return images, labels, noise, networks


@pytest.mark.parametrize("kind", ["images", "rows"])
@reads_layers
def test_noise_scores_below_training_data(detector, kind, trained):
    images, labels, noise, networks = trained
    network = networks[kind]
    assert network.score(images, labels) > 0.95
    detector = on(FrozenEstimator(network), detector, random_state=0).fit(images[::2], labels[::2])
    inside, outside = detector.score_samples(images[1::2]), detector.score_samples(noise)
    is_inside = np.repeat([1, 0], [len(inside), len(outside)])
    assert roc_auc_score(is_inside, np.concatenate([inside, outside])) > 0.9


@each_detector
def test_scores_belong_to_the_row(detector, X, y):
    detector = on(convolutional(), detector, random_state=0).fit(X, y)
    scores = detector.score_samples(X)
    assert scores.dtype == np.float64
    assert scores.shape == (90,)
    order = np.random.default_rng(1).permutation(90)
    close = {"rtol": 1e-6, "atol": 1e-6 * np.abs(scores).max()}
    np.testing.assert_allclose(detector.score_samples(X[order]), scores[order], **close)
    for size in (1, 7, 33):
        parts = [detector.score_samples(X[i : i + size]) for i in range(0, 90, size)]
        np.testing.assert_allclose(np.concatenate(parts), scores, **close)


@each_detector
def test_network_and_data_are_left_as_they_were(detector, X, y):
    network = convolutional(inplace=True).train()
    network[4].eval()
    modes = [module.training for module in network.modules()]
    weights = copy.deepcopy(network.state_dict())
    before = X.copy()
    on(network, detector).fit(X, y).score_samples(X)
    assert [module.training for module in network.modules()] == modes
    assert all(torch.equal(weights[name], value) for name, value in network.state_dict().items())
    assert all(parameter.grad is None for parameter in network.parameters())
    assert not any(module._forward_hooks for module in network.modules())
    np.testing.assert_array_equal(X, before)


@each_detector
def test_frozen_parameters(detector, X, y):
    scores = on(convolutional(), detector, random_state=0).fit(X, y).score_samples(X)
    network = convolutional().requires_grad_(False)
    frozen = on(network, detector, random_state=0).fit(X, y)
    np.testing.assert_array_equal(frozen.score_samples(X), scores)


@pytest.mark.parametrize("layers", [("0", "4"), ("1", "5"), None])
@each_detector
def test_operations_in_place_change_nothing(detector, layers, X, y):
    """Not even those right behind a layer that is read, which overwrite what it put out."""
    name = "layer" if isinstance(detector, RankFeat) else "layers"
    settings = {name: layers, "random_state": 0}
    expected = on(convolutional(), detector, **settings).fit(X, y).score_samples(X)
    detector = on(convolutional(inplace=True), detector, **settings).fit(X, y)
    np.testing.assert_array_equal(detector.score_samples(X), expected)


@each_detector
def test_network_that_changes_its_input_in_place(detector, X, y):
    network = nn.Sequential(nn.ReLU(inplace=True), *convolutional())
    expected = nn.Sequential(nn.ReLU(), *convolutional())
    np.testing.assert_array_equal(
        on(network, detector, random_state=0).fit(X, y).score_samples(X),
        on(expected, detector, random_state=0).fit(X, y).score_samples(X),
    )


@each_detector
def test_pickle_and_clone(detector, X, y):
    detector = on(convolutional(), detector).fit(X, y)
    restored = pickle.loads(pickle.dumps(detector))
    np.testing.assert_array_equal(restored.score_samples(X), detector.score_samples(X))
    fresh = clone(detector)
    assert repr(fresh) == repr(detector)
    assert not hasattr(fresh, "layers_")


@each_detector
def test_random_state_decides(detector, X, y):
    def scores(seed):
        return on(convolutional(), detector, random_state=seed).fit(X, y).score_samples(X)

    np.testing.assert_array_equal(scores(0), scores(0))
    assert np.array_equal(scores(0), scores(1)) != isinstance(detector, Gram)


@each_detector
def test_images_of_another_size(detector, X, y):
    detector = on(convolutional(), detector).fit(X, y)
    with pytest.raises(ValueError, match=r"shape \(1, 6, 6\), but .* was fitted .* \(1, 8, 8\)"):
        detector.score_samples(X[:, :, 1:7, 1:7])


@reads_layers
def test_images_in_flat_rows(detector, X, y):
    network = PretrainedClassifier(convolutional(), image_shape=(1, 8, 8))
    expected = on(convolutional(), detector, random_state=0).fit(X, y).score_samples(X)
    rows = X.reshape(90, 64)
    detector = on(network, detector, random_state=0).fit(rows, y)
    np.testing.assert_array_equal(detector.score_samples(rows), expected)


@reads_layers
def test_classifier_is_trained(detector):
    X, y = load_iris(return_X_y=True)
    detector = on(MLP((8,), max_epochs=2), detector, random_state=0).fit(X, y + 5)
    assert np.isfinite(detector.score_samples(X)).all()
    np.testing.assert_array_equal(detector.classifier_.classes_, [5, 6, 7])


@pytest.mark.parametrize(
    "y", [np.zeros(90), np.arange(90), np.r_[0, np.ones(89)]], ids=["one", "all", "single"]
)
@each_detector
def test_few_classes_and_classes_of_one_row(detector, y, X):
    detector = on(convolutional(), detector).fit(X, y)
    assert np.isfinite(detector.score_samples(X)).all()


@pytest.mark.parametrize("n_rows", [2, 3])
@each_detector
def test_few_rows(detector, n_rows, X):
    detector = on(convolutional(), detector).fit(X[:n_rows], np.arange(n_rows))
    assert np.isfinite(detector.score_samples(X)).all()


@pytest.mark.parametrize("weight", [0.0, 1e-30, 1e32])
@each_detector
def test_constant_tiny_and_huge_activations(detector, weight, X, y):
    network = convolutional()
    with torch.no_grad():
        network[0].weight.mul_(weight)
        network[0].bias.zero_()
    detector = on(network, detector).fit(X, y)
    assert np.isfinite(detector.score_samples(X)).all()
    assert np.isfinite(detector.score_samples(100 * X)).all()


def test_gram_bounds_of_a_class_that_nothing_is_assigned_to(X):
    network = convolutional()
    with torch.no_grad():
        network[-1].bias[2] = -100
    detector = Gram(network).fit(X)
    for low, high in zip(detector.minima_, detector.maxima_, strict=True):
        np.testing.assert_array_equal(low[2], low[[0, 1, 3]].min(0))
        np.testing.assert_array_equal(high[2], high[[0, 1, 3]].max(0))


def test_gram_overlooks_rounding_errors(X):
    """Those by which a training row that touches a bound may cross it in another batch."""
    detector = Gram(convolutional()).fit(X)
    inside = detector.score_samples(X) == 0
    assert inside.sum() >= 81
    np.testing.assert_array_equal(detector.score_samples(X * (1 + 3e-7)) == 0, inside)


class Doubled(nn.Module):
    """Puts out every channel twice, and a constant one."""

    def forward(self, x):
        return torch.cat([x, 2 * x, torch.ones_like(x[:, :1])], 1)


def test_dependent_channels_do_not_change_the_distance(X, y):
    network = nn.Sequential(nn.Conv2d(1, 3, 3), nn.Identity(), nn.Flatten(), nn.Linear(108, 2))
    doubled = nn.Sequential(network[0], Doubled(), nn.Flatten(), nn.Linear(252, 2))
    expected = LayerMahalanobis(network, "1").fit(X, y).score_samples(X)
    scores = LayerMahalanobis(doubled, "1").fit(X, y).score_samples(X)
    np.testing.assert_allclose(scores, expected, rtol=1e-6)


class Residual(nn.Module):
    """A network whose sums and last ReLU are no modules."""

    def __init__(self):
        super().__init__()
        self.stem = nn.Conv2d(1, 4, 3, padding=1)
        self.block = Block(4, 4)
        self.down = Block(4, 6, stride=2)
        self.head = nn.Linear(6, 3)

    def forward(self, x):
        x = torch.relu(self.stem(x))
        return self.head(self.down(self.block(x)).mean((2, 3)))


class Block(nn.Module):
    def __init__(self, n_in, n_out, stride=1):
        super().__init__()
        self.convolution = nn.Conv2d(n_in, n_out, 3, stride, padding=1)
        self.shortcut = nn.Conv2d(n_in, n_out, 1, stride)
        self.shared = nn.ReLU()

    def forward(self, x):
        return self.shared(self.shared(self.convolution(x)) + self.shortcut(x))


def mlp(activation):
    return nn.Sequential(nn.Linear(4, 5), activation, nn.Linear(5, 6), nn.Linear(6, 3))


@pytest.mark.parametrize(
    ("network", "shape", "layers"),
    [
        (convolutional(), (1, 8, 8), ("1", "5")),
        (Residual(), (1, 8, 8), ("block", "down")),
        (mlp(nn.Tanh()), (4,), ("1",)),
        (mlp(nn.Identity()), (4,), ("0", "2")),
    ],
    ids=["leaves", "blocks", "nonlinearities", "linear"],
)
def test_layers_that_are_found(network, shape, layers):
    X = np.random.default_rng(0).normal(size=(9, *shape))
    for detector in (Gram(network), LayerMahalanobis(network)):
        assert detector.fit(X).layers_ == layers
    if len(shape) == 3:
        assert RankFeat(network).fit(X).layers_ == layers[-1:]


def test_one_layer_goes_without_a_tuple(X, y):
    for detector in READ_LAYERS:
        assert on(convolutional(), detector, layers="4").fit(X, y).layers_ == ("4",)
    assert RankFeat(convolutional(), "4").fit(X).layers_ == ("4",)


@pytest.mark.parametrize(
    ("layers", "message"),
    [
        (("0", "layer9"), r"layers=\('0', 'layer9'\) names \['layer9'\].*0 \(6, 8, 8\), 1 \(6, 8"),
        (("9",), r"names \['9'\]"),
        (("",), r"names \[''\]"),
        ((), "names nothing"),
    ],
    ids=["unknown", "last", "root", "empty"],
)
@reads_layers
def test_errors_of_layers(detector, layers, message, X, y):
    with pytest.raises(ValueError, match=message):
        on(convolutional(), detector, layers=layers).fit(X, y)


@reads_layers
def test_error_for_a_layer_that_runs_twice(detector, X, y):
    with pytest.raises(
        ValueError, match=r"names \['block.shared'\]; expected modules that run once"
    ):
        on(Residual(), detector, layers="block.shared").fit(X, y)


@pytest.mark.parametrize("detector", [LayerMahalanobis(), Gram()], ids=name_of)
def test_error_for_a_network_without_inner_layers(detector):
    with pytest.raises(ValueError, match="Linear has no inner layer"):
        on(nn.Linear(4, 3), detector).fit(np.eye(4), np.arange(4) % 3)


def test_errors_of_rankfeat(X):
    with pytest.raises(ValueError, match="no module before the last layer outputs a map"):
        RankFeat(mlp(nn.ReLU())).fit(np.eye(4))
    with pytest.raises(ValueError, match=r"layer='7' names \['7'\]"):
        RankFeat(convolutional(), "7").fit(X)


@pytest.mark.parametrize(
    ("detector", "message"),
    [
        (LayerMahalanobis(weights=[1.0]), r"weights has 1 values, but there are 2 layers"),
        (Gram(powers=()), r"powers=\(\)"),
        (Gram(powers=(1, 0)), r"powers=\(1, 0\); expected whole numbers of at least 1"),
        (Gram(powers=(1.5,)), r"powers=\(1.5,\)"),
        (NAC(n_bins=(10, 20)), r"n_bins has 2 values, but there are 1 layers"),
        (NAC(steepness=(-1.0,)), r"steepness=\(-1.0,\); expected positive numbers"),
        (NAC(layers=("1", "5"), min_count=(5,)), "min_count has 1 values"),
    ],
    ids=["weights", "none", "zero", "fraction", "bins", "steepness", "count"],
)
def test_errors_of_parameters(detector, message, X, y):
    with pytest.raises(ValueError, match=message):
        on(convolutional(), detector).fit(X, y)
