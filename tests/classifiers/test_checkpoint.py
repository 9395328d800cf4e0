"""Published weights: the loaded networks compute the published functions."""

import pickle

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from scipy.special import softmax
from torch import nn
from torch.nn.functional import avg_pool2d, batch_norm, conv2d, linear, max_pool2d, relu

import skood
from skood import PretrainedClassifier
from skood.posthoc import ASH, KNN, MSP, ODIN, Energy, Mahalanobis, RankFeat, ReAct, ViM

CIFAR = {"mean": (0.4914, 0.4822, 0.4465), "std": (0.247, 0.2435, 0.2616)}
RAW = {"mean": None, "std": None}


class Published:
    """Layers by their published names; the first pass draws their weights."""

    def __init__(self):
        self.tensors = {}
        self.generator = torch.Generator().manual_seed(0)

    def drawn(self, name, *shape, scale=1.0, shift=0.0):
        if name not in self.tensors:
            noise = torch.randn(shape, generator=self.generator)
            self.tensors[name] = scale * noise + shift
        return self.tensors[name].double()

    def conv(self, name, x, n_out, size, stride=1):
        scale = (x.shape[1] * size**2) ** -0.5
        weight = self.drawn(f"{name}.weight", n_out, x.shape[1], size, size, scale=scale)
        return conv2d(x, weight, stride=stride, padding=size // 2)

    def norm(self, name, x):
        n = x.shape[1]
        mean = self.drawn(f"{name}.running_mean", n, scale=0.1)
        variance = self.drawn(f"{name}.running_var", n, scale=0.1, shift=1)
        weight = self.drawn(f"{name}.weight", n, scale=0.1, shift=1)
        bias = self.drawn(f"{name}.bias", n, scale=0.1)
        self.tensors[f"{name}.num_batches_tracked"] = torch.tensor(7)
        return batch_norm(x, mean, variance, weight, bias)

    def head(self, name, x, n_classes):
        weight = self.drawn(f"{name}.weight", n_classes, x.shape[1], scale=x.shape[1] ** -0.5)
        return linear(x, weight, self.drawn(f"{name}.bias", n_classes))


def wide_resnet(net, x, depth, width):
    n_blocks = (depth - 4) // 6
    x = net.conv("conv1", x, 16, 3)
    for stage in (1, 2, 3):
        n_out = 16 * width * 2 ** (stage - 1)
        for block in range(n_blocks):
            name = f"block{stage}.layer.{block}"
            stride = 2 if stage > 1 and block == 0 else 1
            active = relu(net.norm(f"{name}.bn1", x))
            out = net.conv(f"{name}.conv1", active, n_out, 3, stride)
            out = net.conv(f"{name}.conv2", relu(net.norm(f"{name}.bn2", out)), n_out, 3)
            if x.shape[1] != n_out:
                x = net.conv(f"{name}.convShortcut", active, n_out, 1, stride)
            x = x + out
    features = avg_pool2d(relu(net.norm("bn1", x)), 8).flatten(1)
    return features, net.head("fc", features, 10)


def densenet(net, x, depth, growth):
    x = net.conv("conv1", x, 2 * growth, 3)
    for block in (1, 2, 3):
        for i in range((depth - 4) // 6):
            name = f"block{block}.layer.{i}"
            out = net.conv(f"{name}.conv1", relu(net.norm(f"{name}.bn1", x)), 4 * growth, 1)
            out = net.conv(f"{name}.conv2", relu(net.norm(f"{name}.bn2", out)), growth, 3)
            x = torch.cat([x, out], 1)
        if block < 3:
            name = f"trans{block}"
            out = net.conv(f"{name}.conv1", relu(net.norm(f"{name}.bn1", x)), x.shape[1] // 2, 1)
            x = avg_pool2d(out, 2)
    features = avg_pool2d(relu(net.norm("bn1", x)), 8).flatten(1)
    return features, net.head("fc", features, 10)


def resnet(net, x, n_blocks, bottleneck=False, large=False, shortcut="shortcut"):
    x = relu(net.norm("bn1", net.conv("conv1", x, 64, 7 if large else 3, 2 if large else 1)))
    x = max_pool2d(x, 3, 2, 1) if large else x
    for stage, n in enumerate(n_blocks, 1):
        width = 64 * 2 ** (stage - 1)
        n_out = 4 * width if bottleneck else width
        for block in range(n):
            name, stride = f"layer{stage}.{block}", 2 if stage > 1 and block == 0 else 1
            sizes = [(width, 1, 1), (width, 3, stride), (n_out, 1, 1)]
            out = x
            for i, (n_filters, size, step) in enumerate(
                sizes if bottleneck else [(width, 3, stride), (width, 3, 1)], 1
            ):
                out = relu(out) if i > 1 else out
                out = net.norm(
                    f"{name}.bn{i}", net.conv(f"{name}.conv{i}", out, n_filters, size, step)
                )
            if stride > 1 or x.shape[1] != n_out:
                x = net.conv(f"{name}.{shortcut}.0", x, n_out, 1, stride)
                x = net.norm(f"{name}.{shortcut}.1", x)
            x = relu(x + out)
    features = x.mean((2, 3))
    return features, net.head("fc", features, 10)


EIGHTEEN, FIFTY = (2, 2, 2, 2), (3, 4, 6, 3)
ARCHITECTURES = {
    "wrn-40-2": lambda net, x: wide_resnet(net, x, 40, 2),
    "wrn-10-1": lambda net, x: wide_resnet(net, x, 10, 1),
    "densenet-22-6": lambda net, x: densenet(net, x, 22, 6),
    "resnet18_32x32": lambda net, x: resnet(net, x, EIGHTEEN),
    "resnet18_64x64": lambda net, x: resnet(net, x, EIGHTEEN),
    "resnet-18": lambda net, x: resnet(net, x, EIGHTEEN, False, True, "downsample"),
    "resnet50": lambda net, x: resnet(net, x, FIFTY, True, True, "downsample"),
    "resnet18_224x224": lambda net, x: resnet(net, x, EIGHTEEN, False, True, "downsample"),
}


def images(n=2, n_channels=3):
    return np.random.default_rng(0).random((n, n_channels, 32, 32), dtype=np.float32)


def normalized(X, mean, std):
    mean, std = (np.reshape(value, (-1, 1, 1)) for value in (mean, std))
    return torch.from_numpy((X - mean) / std)


def weights_of(architecture, X=None):
    """Return a state dict of the published layout."""
    net = Published()
    ARCHITECTURES[architecture](net, torch.from_numpy(images() if X is None else X).double())
    return net.tensors


@pytest.fixture(scope="module")
def small():
    return weights_of("wrn-10-1")


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_computes_the_published_function(architecture, tmp_path):
    X, net = images(), Published()
    features, logits = ARCHITECTURES[architecture](net, normalized(X, **CIFAR))
    torch.save(net.tensors, tmp_path / "weights.pt")
    classifier = PretrainedClassifier.from_checkpoint(
        tmp_path / "weights.pt", architecture, **CIFAR
    )
    assert not classifier.module.training
    assert {tensor.dtype for tensor in classifier.module.parameters()} == {torch.float32}
    proba = softmax(logits.numpy(), axis=1)
    np.testing.assert_allclose(classifier.predict_proba(X), proba, atol=1e-5)
    classifier.module.double()
    np.testing.assert_allclose(classifier.decision_function(X), logits, rtol=1e-10, atol=1e-10)
    np.testing.assert_allclose(classifier.transform(X), features, rtol=1e-10, atol=1e-10)


def test_grey_images():
    X, net = images(n_channels=1), Published()
    _, logits = wide_resnet(net, torch.from_numpy(X).double(), 10, 1)
    classifier = PretrainedClassifier.from_checkpoint(net.tensors, "wrn-10-1", **RAW)
    np.testing.assert_allclose(classifier.decision_function(X), logits, atol=1e-5)


def test_other_names_of_the_same_layers():
    tensors = weights_of("resnet18_32x32")
    expected = PretrainedClassifier.from_checkpoint(tensors, "resnet18_32x32", **RAW)
    for before, after in (("fc.", "linear."), (".shortcut.", ".downsample.")):
        tensors = {name.replace(before, after): value for name, value in tensors.items()}
    renamed = PretrainedClassifier.from_checkpoint(tensors, "resnet18_32x32", **RAW)
    np.testing.assert_array_equal(renamed.transform(images()), expected.transform(images()))
    # Two heads are not one head with two names.
    tensors |= {"fc.weight": torch.zeros(10, 512), "fc.bias": torch.zeros(10)}
    with pytest.raises(ValueError, match=r"unexpected: linear.weight, linear.bias"):
        PretrainedClassifier.from_checkpoint(tensors, "resnet18_32x32", **RAW)


def test_forms_of_a_file(small, tmp_path):
    expected = PretrainedClassifier.from_checkpoint(small, "wrn-10-1", **RAW)
    expected = expected.decision_function(images())
    prefixed = {f"module.{name}": value for name, value in small.items()}
    pixmix = {name.replace("convShortcut", "conv_shortcut"): v for name, v in small.items()}
    old = {name: v for name, v in small.items() if not name.endswith("num_batches_tracked")}
    forms = {
        "data_parallel": prefixed,
        "compiled": {f"_orig_mod.{name}": value for name, value in prefixed.items()},
        "training": {"epoch": 3, "optimizer": {"state": {}}, "state_dict": prefixed},
        "renamed": {"model": pixmix},
        "before_0.4.1": old,
    }
    for name, form in forms.items():
        torch.save(form, tmp_path / name)
    save_file(small, tmp_path / "weights.safetensors")
    for path in sorted(tmp_path.iterdir()):
        classifier = PretrainedClassifier.from_checkpoint(str(path), "wrn-10-1", **RAW)
        np.testing.assert_array_equal(classifier.decision_function(images()), expected)


def test_the_given_weights_are_copied(small):
    state = torch.get_rng_state()
    classifier = PretrainedClassifier.from_checkpoint(small, "wrn-10-1", **RAW)
    assert torch.equal(torch.get_rng_state(), state)
    theirs = {tensor.data_ptr() for tensor in small.values()}
    assert not theirs & {tensor.data_ptr() for tensor in classifier.module.state_dict().values()}


def test_labels(small):
    labels = [f"class {i}" for i in range(10)]
    classifier = PretrainedClassifier.from_checkpoint(small, "wrn-10-1", **RAW, classes=labels)
    assert set(classifier.predict(images())) <= set(labels)
    with pytest.raises(ValueError, match="classes has 9 labels, but the network has 10 outputs"):
        PretrainedClassifier.from_checkpoint(small, "wrn-10-1", **RAW, classes=labels[:9])


@pytest.mark.parametrize("make", [MSP, Energy, ODIN, KNN, Mahalanobis, ViM, ReAct, ASH, RankFeat])
def test_every_kind_of_detector(small, make, tmp_path):
    """Detectors on logits, features, the head, gradients and inner layers."""
    rng = np.random.default_rng(0)
    X, y = rng.random((30, 3, 32, 32), dtype=np.float32), np.arange(30) % 10
    classifier = PretrainedClassifier.from_checkpoint(small, "wrn-10-1", **CIFAR)
    settings = {KNN: {"n_neighbors": 5}, ViM: {"n_components": 4}}.get(make, {})
    detector = make(classifier, **settings).fit(X, y)
    scores = detector.score_samples(X[:5])
    assert np.isfinite(scores).all()
    assert len(np.unique(scores)) == 5
    skood.save(detector, tmp_path / "detector")
    np.testing.assert_allclose(
        skood.load(tmp_path / "detector").score_samples(X[:5]), scores, rtol=1e-6
    )
    copied = pickle.loads(pickle.dumps(detector))
    np.testing.assert_array_equal(copied.score_samples(X[:5]), scores)


class TestErrors:
    def test_names_and_shapes(self, small):
        weights = dict(small)
        del weights["bn1.bias"]
        weights["block2.layer.0.relu.weight"] = weights["extra"] = torch.zeros(3)
        weights["conv1.weight"] = torch.zeros(16, 3, 7, 7)
        with pytest.raises(ValueError) as raised:
            PretrainedClassifier.from_checkpoint(weights, "wrn-10-1", **RAW)
        message = str(raised.value)
        assert "missing: bn1.bias;" in message
        assert "unexpected: block2.layer.0.relu.weight, extra;" in message
        assert "conv1.weight has the shape (16, 3, 7, 7), expected (16, 3, 3, 3)" in message

    def test_another_architecture(self, small):
        for architecture in ("wrn-16-1", "wrn-10-2", "resnet18_32x32", "densenet-10-4"):
            with pytest.raises(ValueError, match="the weights are not those of") as raised:
                PretrainedClassifier.from_checkpoint(small, architecture, **RAW)
            assert len(str(raised.value)) < 1200

    def test_a_head_that_is_missing(self, small):
        body = {name: value for name, value in small.items() if not name.startswith("fc")}
        with pytest.raises(ValueError, match=r"missing: fc.weight, fc.bias\."):
            PretrainedClassifier.from_checkpoint(body, "wrn-10-1", **RAW)
        with pytest.raises(ValueError, match=r"missing: conv1.weight"):
            PretrainedClassifier.from_checkpoint(
                {"fc.weight": torch.zeros(10, 64), "fc.bias": torch.zeros(10)}, "wrn-10-1", **RAW
            )

    @pytest.mark.parametrize("name", ["resnet18_28x28", "wrn", "vgg16", "WRN-40-2"])
    def test_unknown_architecture(self, small, name):
        with pytest.raises(ValueError, match=f"architecture='{name}'; expected 'resnet18_32x32'"):
            PretrainedClassifier.from_checkpoint(small, name, **RAW)

    def test_impossible_depth(self, small):
        with pytest.raises(ValueError, match="depth=11; expected 4 and a multiple of 6"):
            PretrainedClassifier.from_checkpoint(small, "wrn-11-1", **RAW)

    def test_other_objects(self, small, tmp_path):
        module = nn.Sequential(nn.Linear(3, 2))
        with pytest.raises(TypeError, match=r"give PretrainedClassifier\(module\)"):
            PretrainedClassifier.from_checkpoint(module, "wrn-10-1", **RAW)
        torch.save(module, tmp_path / "module.pt")
        with pytest.raises(ValueError, match=r"loading them may run code.*weights_only=False"):
            PretrainedClassifier.from_checkpoint(tmp_path / "module.pt", "wrn-10-1", **RAW)
        torch.save([1, 2], tmp_path / "list.pt")
        with pytest.raises(ValueError, match=r"list.pt has a list; expected a state dict"):
            PretrainedClassifier.from_checkpoint(tmp_path / "list.pt", "wrn-10-1", **RAW)
        with pytest.raises(ValueError, match="entries that are no tensors: weights, epoch"):
            PretrainedClassifier.from_checkpoint({"weights": small, "epoch": 1}, "wrn-10-1", **RAW)
        with pytest.raises(FileNotFoundError):
            PretrainedClassifier.from_checkpoint(tmp_path / "nothing.pt", "wrn-10-1", **RAW)

    def test_normalisation_must_be_given(self, small):
        with pytest.raises(TypeError, match="mean"):
            PretrainedClassifier.from_checkpoint(small, "wrn-10-1")
