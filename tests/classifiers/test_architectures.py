"""The architectures: that they are the published ones, and that all of them trains."""

import math
import pickle

import numpy as np
import pytest
import torch
from sklearn.base import clone
from torch import nn

from skood.classifiers import MLP, VGG, ConvNet, DenseNet, ResNet, ShallowConvNet, WideResNet
from skood.classifiers._network_classifier import last_linear

TINY = {
    "MLP": (MLP, {"hidden_features": (6, 5)}, (7,), 5),
    "MLP-images": (MLP, {"hidden_features": (6,)}, (2, 4, 3), 6),
    "MLP-linear": (MLP, {"hidden_features": ()}, (7,), 7),
    "ConvNet": (ConvNet, {"n_filters": (4, 6)}, (1, 5, 6), 6),
    "ConvNet-hidden": (
        ConvNet,
        {"n_filters": (4, 6), "n_convolutions": (2, 1), "hidden_features": 5},
        (1, 5, 6),
        5,
    ),
    "DenseNet": (DenseNet, {"depth": 10, "growth_rate": 4}, (3, 8, 9), 9),
    "WideResNet": (WideResNet, {"depth": 10, "widen_factor": 1}, (1, 7, 8), 64),
    "ResNet": (ResNet, {"depth": 18}, (2, 9, 8), 512),
    "ResNet-large": (ResNet, {"depth": 18, "stem": "large"}, (1, 24, 24), 512),
    "VGG": (VGG, {"depth": 11}, (1, 16, 17), 512),
    "ShallowConvNet": (ShallowConvNet, {"n_filters": (4, 6), "hidden_features": 5}, (2, 6, 7), 5),
}
every_network = pytest.mark.parametrize(
    ("cls", "settings", "shape", "n_features"), TINY.values(), ids=TINY.keys()
)
convolutional = pytest.mark.parametrize(
    "cls", [ConvNet, DenseNet, WideResNet, ResNet, VGG, ShallowConvNet]
)


def data(shape, n=16):
    rng = np.random.default_rng(0)
    return rng.random((n, *shape)), np.array(["cat", "dog", "eel"])[np.arange(n) % 3]


def built(estimator, shape, n_classes=10):
    """Network without memory for its weights."""
    with torch.device("meta"):
        return estimator._build(shape, n_classes)


def n_parameters(module):
    return sum(parameter.numel() for parameter in module.parameters())


# What other implementations count, among them those of osmr/imgclsmob and kuangliu/pytorch-cifar.
PUBLISHED = [
    (DenseNet(), 769_162, 342),
    (WideResNet(), 36_479_194, 640),
    (WideResNet(40, 2), 2_243_546, 128),
    (WideResNet(16, 10), 17_116_634, 640),
    (ResNet(), 11_173_962, 512),
    (ResNet(34), 21_282_122, 512),
    (ResNet(50), 23_520_842, 2048),
    # 14 728 266 with the 4 224 biases that batch normalisation takes away.
    (VGG(), 14_728_266 - 4_224, 512),
    # A convolution of k x k from n to m channels has k k n m weights, and 2 m in its norm.
    (ConvNet((2, 3)), 9 * (3 * 2 + 2 * 2 + 2 * 3 + 3 * 3) + 2 * (2 + 2 + 3 + 3) + 4 * 10, 3),
    # 32 x 32 pixels are 16 x 16 after one pooling.
    (
        ConvNet((2,), n_convolutions=3, hidden_features=5),
        9 * (3 * 2 + 2 * 2 + 2 * 2) + 3 * 4 + (16 * 16 * 2 + 1) * 5 + (5 + 1) * 10,
        5,
    ),
    # Convolutions with biases, then what pooling leaves of 32 x 32, 14 x 14, in linear layers.
    (ShallowConvNet((2, 3), hidden_features=4), 56 + 57 + (3 * 14 * 14 + 1) * 4 + 50, 4),
    (MLP((5, 4)), 3 * 32 * 32 * 5 + 5 + 5 * 4 + 4 + 4 * 10 + 10, 4),
]


@pytest.mark.parametrize(("estimator", "n_weights", "n_features"), PUBLISHED, ids=str)
def test_size_is_the_published_one(estimator, n_weights, n_features):
    module = built(estimator, (3, 32, 32))
    assert n_parameters(module) == n_weights
    assert last_linear(module).in_features == n_features
    assert last_linear(module).out_features == 10


def test_shallow_convnet_is_the_example_of_keras():
    """What Keras prints for examples/mnist_cnn.py, layer by layer."""
    module = built(ShallowConvNet(), (1, 28, 28))
    sizes = [n_parameters(layer) for layer in module if n_parameters(layer)]
    assert sizes == [320, 18_496, 1_179_776, 1_290]
    assert n_parameters(module) == 1_199_882
    shapes = []
    for layer in module:
        layer.register_forward_hook(lambda _, args, output: shapes.append(tuple(output.shape[1:])))
    module(torch.empty(2, 1, 28, 28, device="meta"))
    assert list(dict.fromkeys(shapes)) == [
        (32, 26, 26),
        (64, 24, 24),
        (64, 12, 12),
        (64 * 12 * 12,),
        (128,),
        (10,),
    ]
    assert [layer.p for layer in module if isinstance(layer, nn.Dropout)] == [0.25, 0.5]


def test_shallow_convnet_reads_images_one_by_one(tiny):
    """In training as well: no layer mixes the images of a batch."""
    X, y = data((1, 6, 6))
    settings = {"n_filters": (4, 6), "hidden_features": 5, "dropout": (0.0, 0.0)}
    module = tiny(ShallowConvNet, **settings).fit(X, y).module_.train()
    images = torch.from_numpy(X).float()
    with torch.no_grad():
        alone = torch.cat([module(image[None]) for image in images])
        torch.testing.assert_close(module(images), alone)


@pytest.mark.parametrize("depth", [11, 13, 16, 19])
def test_vgg_has_the_convolutions_of_torchvision(depth):
    from torchvision.models import get_model

    def shapes(module):
        return [tuple(m.weight.shape) for m in module.modules() if isinstance(m, nn.Conv2d)]

    with torch.device("meta"):
        reference = get_model(f"vgg{depth}_bn")
    ours = built(VGG(depth), (3, 32, 32))
    assert shapes(ours) == shapes(reference.features)
    kinds = [type(layer) for layer in reference.features]
    assert [type(layer) for layer in ours][: len(kinds)] == kinds
    assert depth == len(shapes(ours)) + 3


@pytest.mark.parametrize(
    ("estimator", "expected"),
    [
        (DenseNet(), (300, 64, 0.1, "step", 1e-4)),
        (WideResNet(), (200, 128, 0.1, "step", 5e-4)),
        (ResNet(), (100, 128, 0.1, "cosine", 5e-4)),
        (VGG(), (100, 128, 0.1, "cosine", 5e-4)),
        (ConvNet(), (30, 128, 0.1, "cosine", 5e-4)),
        (ShallowConvNet(), (30, 128, 0.05, "cosine", 5e-4)),
        (MLP(), (100, 128, 0.05, "cosine", 5e-4)),
    ],
    ids=str,
)
def test_default_training(estimator, expected):
    names = ("max_epochs", "batch_size", "learning_rate", "lr_schedule", "weight_decay")
    assert tuple(getattr(estimator, name) for name in names) == expected
    assert estimator.momentum == 0.9


@every_network
def test_training_moves_every_parameter(tiny, cls, settings, shape, n_features):
    X, y = data(shape)
    settings = {**settings, "weight_decay": 0.0}
    trained = tiny(cls, **settings).fit(X, y).module_
    untrained = tiny(cls, **settings, learning_rate=1e-12).fit(X, y).module_.state_dict()
    assert len(list(trained.parameters())) > 1
    for name, parameter in trained.named_parameters():
        assert (parameter - untrained[name]).abs().max() > 1e-5, name


@every_network
def test_logits_are_the_last_layer_of_the_features(tiny, cls, settings, shape, n_features):
    X, y = data(shape)
    classifier = tiny(cls, **settings).fit(X, y)
    features = classifier.transform(X)
    assert features.shape == (len(X), n_features)
    assert features.dtype == np.float32
    head = last_linear(classifier.module_)
    weight, bias = head.weight.detach().numpy(), head.bias.detach().numpy()
    logits = classifier.decision_function(X)
    assert logits.shape == (len(X), 3)
    np.testing.assert_allclose(logits, features @ weight.T + bias, rtol=1e-4, atol=1e-4)


@every_network
def test_pickle_and_clone(tiny, cls, settings, shape, n_features):
    X, y = data(shape, n=9)
    classifier = tiny(cls, **settings).fit(X, y)
    expected = classifier.decision_function(X)
    restored = pickle.loads(pickle.dumps(classifier))
    np.testing.assert_array_equal(restored.decision_function(X), expected)
    again = clone(classifier)
    assert not hasattr(again, "module_")
    assert again.get_params() == classifier.get_params()
    np.testing.assert_array_equal(again.fit(X, y).decision_function(X), expected)


@pytest.mark.parametrize("n_channels", [1, 2, 3, 4])
@pytest.mark.parametrize("size", [(28, 28), (32, 32), (20, 33)])
@convolutional
def test_any_number_of_channels_and_usual_sizes(cls, size, n_channels):
    small = {
        DenseNet: (10, 2),
        WideResNet: (10, 1),
        ResNet: (18,),
        VGG: (11,),
        ConvNet: ((2, 3),),
        ShallowConvNet: ((2, 3),),
    }
    module = built(cls(*small[cls]), (n_channels, *size), n_classes=4)
    assert module(torch.empty(2, n_channels, *size, device="meta")).shape == (2, 4)


def test_images_of_one_axis_are_one_channel(tiny):
    X, y = data((1, 6, 6))
    expected = tiny().fit(X, y).decision_function(X)
    np.testing.assert_array_equal(tiny().fit(X[:, 0], y).decision_function(X[:, 0]), expected)


@convolutional
def test_rows_are_refused(tiny, cls):
    X, y = data((32,))
    message = rf"rows of 32 values, but {cls.__name__} takes images; give image_shape="
    with pytest.raises(ValueError, match=message):
        tiny(cls).fit(X, y)


@pytest.mark.parametrize(
    ("estimator", "shape", "message"),
    [
        (DenseNet(101), (3, 32, 32), "depth=101; expected 4 and a multiple of 6 for DenseNet"),
        (DenseNet(4), (3, 32, 32), "depth=4; expected 4 and a multiple of 6"),
        (DenseNet(10), (3, 3, 9), "3 x 9 pixels are too small for DenseNet.* at least 4 x 4"),
        (WideResNet(27), (3, 32, 32), "depth=27; expected 4 and a multiple of 6 for WideResNet"),
        (WideResNet(1), (3, 32, 32), "depth=1; expected 4 and a multiple of 6"),
        (ResNet(19), (3, 32, 32), r"depth=19; expected one of \[18, 34, 50\] for ResNet"),
        (VGG(12), (3, 32, 32), r"depth=12; expected one of \[11, 13, 16, 19\] for VGG"),
        (VGG(11), (3, 40, 15), "40 x 15 pixels are too small for VGG.* at least 16 x 16"),
        (ConvNet((2, 2, 2)), (3, 9, 3), r"9 x 3 pixels cannot be halved 2 times.*\(2, 2, 2\)"),
        (ShallowConvNet(), (1, 9, 5), r"9 x 5 pixels are too small for Shallow.* at least 6 x 6"),
        (ShallowConvNet((2, 2, 2)), (1, 7, 9), r"\(2, 2, 2\), which removes 6 .* at least 8 x 8"),
        (ShallowConvNet(()), (1, 9, 9), r"n_filters=\(\); expected the channels of at least one"),
        (ShallowConvNet((4, 0)), (1, 9, 9), r"n_filters=\(4, 0\); expected .* all of them at leas"),
        (ShallowConvNet(dropout=(0.5,)), (1, 9, 9), r"dropout=\(0.5,\); expected two rates in"),
        (ShallowConvNet(dropout=(0, 1)), (1, 9, 9), r"dropout=\(0, 1\); expected two rates in"),
    ],
    ids=str,
)
def test_what_cannot_be_built_is_an_error(estimator, shape, message):
    with pytest.raises(ValueError, match=message):
        built(estimator, shape)


@pytest.mark.parametrize(
    ("size", "stem", "kernel", "last_map"),
    [
        (32, "auto", 3, 4),
        (63, "auto", 3, 8),
        (64, "auto", 7, 2),
        (32, "large", 7, 1),
        (64, "small", 3, 8),
    ],
)
def test_stem_of_resnet(size, stem, kernel, last_map):
    module = built(ResNet(stem=stem), (2, size, size))
    assert module.conv1.kernel_size == (kernel, kernel)
    maps = []
    module.layer4.register_forward_hook(lambda layer, args, output: maps.append(output))
    module(torch.empty(2, 2, size, size, device="meta"))
    assert maps[0].shape[2:] == (last_map, last_map)


def test_densenet_keeps_the_resolution_before_its_blocks():
    module = built(DenseNet(10, 3), (1, 32, 32))
    seen = {}
    for name, layer in module.features.named_children():
        layer.register_forward_hook(lambda _, args, output, name=name: seen.update({name: output}))
    module(torch.empty(2, 1, 32, 32, device="meta"))
    assert {name: tuple(output.shape[1:]) for name, output in seen.items()} == {
        "conv0": (6, 32, 32),
        "denseblock1": (9, 32, 32),
        "transition1": (4, 16, 16),
        "denseblock2": (7, 16, 16),
        "transition2": (3, 8, 8),
        "denseblock3": (6, 8, 8),
        "norm5": (6, 8, 8),
    }


def test_blocks_of_wide_resnet_are_preactivated():
    module = WideResNet(16, 2)._build((1, 8, 8), 3)
    first, second = module[1], module[2]
    x = torch.randn(2, 16, 8, 8, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        for block in (first, second):
            block.residual[-1].weight.zero_()
        widened = first(x)
        torch.testing.assert_close(widened, first.shortcut(torch.relu(first.activation[0](x))))
        torch.testing.assert_close(second(widened), widened)
    assert second.shortcut is None
    strides = [layer.residual[0].stride[0] for layer in module if hasattr(layer, "residual")]
    assert strides == [1, 1, 2, 1, 2, 1]


@pytest.mark.parametrize(
    "estimator", [WideResNet(10, 4), VGG(11), ResNet(18), DenseNet(16, 12)], ids=str
)
def test_convolutions_start_as_in_he_et_al(estimator):
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        module = estimator._build((3, 32, 32), 10)
    layers = [layer for layer in module.modules() if isinstance(layer, nn.Conv2d)]
    assert all(layer.bias is None for layer in layers)
    for layer in layers:
        fan_out = layer.out_channels * math.prod(layer.kernel_size)
        tolerance = 5 / math.sqrt(2 * layer.weight.numel())
        assert layer.weight.std().item() == pytest.approx(math.sqrt(2 / fan_out), rel=tolerance)


@pytest.mark.parametrize(
    ("cls", "settings", "shape", "off", "on"),
    [
        (MLP, {"hidden_features": (6,)}, (7,), 0.0, 0.5),
        (ConvNet, {"n_filters": (4,)}, (1, 5, 5), 0.0, 0.5),
        (DenseNet, {"depth": 10, "growth_rate": 4}, (1, 6, 6), 0.0, 0.5),
        (WideResNet, {"depth": 10, "widen_factor": 1}, (1, 6, 6), 0.0, 0.5),
        (ShallowConvNet, {"n_filters": (4,)}, (1, 6, 6), (0.0, 0.0), (0.5, 0.0)),
        (ShallowConvNet, {"n_filters": (4,)}, (1, 6, 6), (0.0, 0.0), (0.0, 0.5)),
    ],
    ids=lambda value: getattr(value, "__name__", ""),
)
def test_dropout_is_for_training_alone(tiny, cls, settings, shape, off, on):
    X, y = data(shape)
    plain = tiny(cls, **settings, dropout=off).fit(X, y)
    dropping = tiny(cls, **settings, dropout=on).fit(X, y)
    assert dropping.history_ != plain.history_
    scores = dropping.decision_function(X)
    np.testing.assert_array_equal(dropping.decision_function(X), scores)
    with pytest.raises(ValueError, match="'dropout' parameter"):
        tiny(cls, dropout=1.0).fit(X, y)


def test_convnet_of_dinari_and_freifeld():
    """C100-C100-P-C100-C100-P-C100-P-FC500: 28 x 28 pixels are 3 x 3 after three poolings."""
    network = ConvNet((100, 100, 100), n_convolutions=(2, 2, 1), hidden_features=500)
    module = built(network, (1, 28, 28), 64)
    kinds = [type(layer).__name__ for layer in module]
    assert [k for k in kinds if k in ("Conv2d", "MaxPool2d", "Linear")] == [
        *("Conv2d", "Conv2d", "MaxPool2d") * 2,
        *("Conv2d", "MaxPool2d", "Linear", "Linear"),
    ]
    assert module[kinds.index("Linear")].in_features == 900
    assert last_linear(module).in_features == 500


def test_convnet_needs_a_number_of_convolutions_for_each_stage():
    with pytest.raises(ValueError, match=r"n_convolutions=\(2, 2\) has 2 values for 3 stages"):
        built(ConvNet(n_convolutions=(2, 2)), (1, 28, 28))
