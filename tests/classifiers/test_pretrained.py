"""Networks that come trained: what is read from them, and how they are stored."""

import inspect
import pickle
import subprocess
import sys

import joblib
import numpy as np
import pytest
import torch
from scipy.special import softmax
from sklearn.base import clone, is_classifier
from sklearn.frozen import FrozenEstimator
from torch import nn

import skood
from skood.classifiers import PretrainedClassifier


def networks(seed=0):
    """Networks for images of (3, 4, 4) that are not simple to store, in eval mode."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)

        def convolutional():
            layers = [nn.Conv2d(3, 4, 3, bias=False), nn.BatchNorm2d(4), nn.ReLU(), nn.Flatten()]
            layers[1].running_mean = torch.randn(4)
            layers[1].running_var = torch.rand(4) + 0.5
            return nn.Sequential(*layers, nn.Linear(16, 3)).eval()

        tied = nn.Sequential(nn.Flatten(), nn.Linear(48, 48), nn.ReLU(), nn.Linear(48, 48))
        tied[3].weight = tied[1].weight
        shared = nn.Linear(48, 48)
        not_persistent = convolutional()
        norm = not_persistent[1]
        norm.register_buffer("running_mean", norm.running_mean.clone(), persistent=False)
        frozen = convolutional()
        frozen[0].weight.requires_grad = False
        return {
            "plain": nn.Sequential(nn.Flatten(), nn.Linear(48, 5), nn.Tanh(), nn.Linear(5, 2)),
            "batch norm": convolutional(),
            "bfloat16": convolutional().to(torch.bfloat16),
            "float64": convolutional().double(),
            "tied": tied.eval(),
            "one layer twice": nn.Sequential(nn.Flatten(), shared, nn.ReLU(), shared),
            "not persistent": not_persistent,
            "channels last": convolutional().to(memory_format=torch.channels_last),
            "frozen": frozen,
            "in training mode": convolutional().train(),
        }


every_network = pytest.mark.parametrize("name", networks())


@pytest.fixture
def X():
    return np.random.default_rng(0).normal(size=(9, 3, 4, 4))


@pytest.fixture
def module():
    return networks()["batch norm"]


def seen_by(module, X, **settings):
    """Run a classifier; return what reaches the module."""
    seen = []
    hook = module.register_forward_pre_hook(lambda _, args: seen.append(args[0][: len(X)]))
    PretrainedClassifier(module, **settings).predict(X)
    hook.remove()
    return seen[-1]


@every_network
def test_predictions(X, name):
    module = networks()[name]
    classifier = PretrainedClassifier(module)
    dtype = next(module.parameters()).dtype
    with torch.no_grad():
        expected = module.eval()(torch.from_numpy(X).to(dtype)).double().numpy()
    tolerance = {torch.float64: 1e-12, torch.float32: 1e-5, torch.bfloat16: 0.05}[dtype]
    decision = classifier.decision_function(X)
    if expected.shape[1] == 2:
        expected = expected[:, 1] - expected[:, 0]
        assert classifier.fit(X).classes_.tolist() == [0, 1]
    else:
        proba = classifier.predict_proba(X)
        np.testing.assert_allclose(proba, softmax(decision, axis=1), rtol=1e-9)
        np.testing.assert_array_equal(classifier.predict(X), proba.argmax(1))
    np.testing.assert_allclose(decision, expected, rtol=tolerance, atol=tolerance)


@pytest.mark.parametrize(
    ("name", "dtype"),
    [("batch norm", np.float32), ("float64", np.float64), ("bfloat16", np.float32)],
)
def test_features_come_in_the_dtype_of_the_network(X, name, dtype):
    classifier = PretrainedClassifier(networks()[name])
    assert classifier.transform(X).dtype == dtype
    assert classifier.decision_function(X).dtype == classifier.predict_proba(X).dtype == np.float64


def test_float64_is_not_rounded():
    module = nn.Linear(2, 2).double()
    with torch.no_grad():
        module.weight.copy_(torch.eye(2))
        module.bias.zero_()
    X = np.array([[1.0, 1.0 + 1e-12], [3e300, 1.0]])
    np.testing.assert_array_equal(PretrainedClassifier(module).transform(X), X)
    assert PretrainedClassifier(module).decision_function(X)[0] == pytest.approx(1e-12, rel=1e-3)


class TestInput:
    def test_bytes_are_scaled_and_nothing_else(self, module, X):
        pixels = np.random.default_rng(0).integers(256, size=X.shape, dtype=np.uint8)
        torch.testing.assert_close(seen_by(module, pixels), torch.from_numpy(pixels) / 255)
        torch.testing.assert_close(seen_by(module, 300 * X), torch.from_numpy(300 * X).float())
        rows = np.arange(36).reshape(9, 4)
        seen = seen_by(nn.Linear(4, 3), rows)
        torch.testing.assert_close(seen, torch.from_numpy(rows).float())

    @pytest.mark.parametrize("dtype", [np.int64, np.uint16, np.int16, bool])
    def test_pixels_of_other_integers_have_no_range(self, module, X, dtype):
        pixels = (abs(100 * X)).astype(dtype)
        with pytest.raises(ValueError, match=r"no range of their own; give .*value_range"):
            PretrainedClassifier(module).predict(pixels)
        seen = seen_by(module, pixels, value_range=(0, 65_535))
        torch.testing.assert_close(seen, torch.from_numpy(pixels / 65_535).float())

    @pytest.mark.parametrize("low", [0.0, -0.5])
    def test_floats_beyond_the_range_of_mean_and_std(self, module, low):
        pixels = np.random.default_rng(0).uniform(low, 255, size=(9, 3, 4, 4))
        for settings in ({"mean": [0.5] * 3}, {"std": 0.25}, {"mean": 0.5, "std": 0.2}):
            with pytest.raises(ValueError, match=r"pixels from 0 to 1 are expected.*value_range="):
                PretrainedClassifier(module, **settings).predict(pixels)
        seen = seen_by(module, pixels, mean=0.5, std=0.25, value_range=(low, 255))
        expected = ((pixels - low) / (255 - low) - 0.5) / 0.25
        np.testing.assert_allclose(seen, expected, rtol=1e-5, atol=1e-5)

    def test_grey_images_without_a_channel(self):
        """A network that flattens them gets them as they came; their range is the same."""
        module = nn.Sequential(nn.Flatten(), nn.Linear(64, 3))
        grey = np.random.default_rng(0).integers(256, size=(9, 8, 8), dtype=np.uint8)
        classifier = PretrainedClassifier(module, mean=0.5, std=0.25)
        expected = classifier.decision_function(grey)
        np.testing.assert_allclose(
            classifier.decision_function(grey / 255), expected, rtol=1e-4, atol=1e-5
        )
        with pytest.raises(ValueError, match="pixels from 0 to 1 are expected"):
            classifier.decision_function(grey.astype(np.float32))

    def test_sixteen_bits_are_those_of_eight(self, module):
        eight = np.random.default_rng(0).integers(256, size=(9, 3, 4, 4), dtype=np.uint8)
        sixteen = eight.astype(np.uint16) * 257
        mean, std = [0.5] * 3, [0.25] * 3
        expected = PretrainedClassifier(module, mean=mean, std=std).transform(eight)
        with pytest.raises(ValueError, match="dtype uint16, which have no range"):
            PretrainedClassifier(module, mean=mean, std=std).transform(sixteen)
        ranged = PretrainedClassifier(module, mean=mean, std=std, value_range=(0, 65_535))
        np.testing.assert_allclose(ranged.transform(sixteen), expected, rtol=1e-5, atol=1e-5)

    def test_mean_of_pixels_up_to_255(self, module, X):
        with pytest.raises(ValueError, match=r"values up to 123.7.*divide them by 255"):
            PretrainedClassifier(module, mean=[123.7, 116.3, 103.5]).predict(abs(X) / 9)

    def test_normalisation_of_channels(self, module, X):
        X = (X - X.min()) / np.ptp(X)
        mean, std = np.array([0.1, 0.2, 0.3]), np.array([0.3, 0.2, 0.5])
        expected = (X - mean[:, None, None]) / std[:, None, None]
        seen = seen_by(module, X, mean=mean.tolist(), std=tuple(std))
        np.testing.assert_allclose(seen, expected, rtol=1e-5, atol=1e-6)
        seen = seen_by(module, X, mean=torch.from_numpy(mean))
        np.testing.assert_allclose(seen, X - mean[:, None, None], rtol=1e-5, atol=1e-6)
        pixels = np.full((2, 3, 4, 4), 51, dtype=np.uint8)
        seen = seen_by(module, pixels, mean=mean, std=std)
        np.testing.assert_allclose(seen[0, :, 0, 0], (0.2 - mean) / std, rtol=1e-5, atol=1e-6)

    def test_normalisation_of_rows(self):
        X = np.random.default_rng(0).normal(size=(5, 3))
        seen = seen_by(nn.Linear(3, 2), X, mean=[1, 2, 3], std=[1, 2, 4])
        np.testing.assert_allclose(seen, (X - [1, 2, 3]) / [1, 2, 4], rtol=1e-5)

    def test_flat_rows_and_channels_last(self, module, X):
        expected = PretrainedClassifier(module).decision_function(X)
        flat = PretrainedClassifier(module, image_shape=(3, 4, 4))
        np.testing.assert_array_equal(flat.decision_function(X.reshape(9, 48)), expected)
        np.testing.assert_array_equal(flat.decision_function(X), expected)
        other = X.transpose(0, 2, 3, 1)
        np.testing.assert_array_equal(
            PretrainedClassifier(module).decision_function(other), expected
        )


def test_classes(module, X):
    positions = PretrainedClassifier(module).predict(X)
    for names in (["z", "a", "m"], (3, 1, 2), np.array([5.0, 7.0, -1.0])):
        classifier = PretrainedClassifier(module, classes=names)
        np.testing.assert_array_equal(classifier.predict(X), np.asarray(names)[positions])
        np.testing.assert_array_equal(classifier.classes_, names)
        assert classifier.score(X, np.asarray(names)[positions]) == 1
    with pytest.raises(ValueError, match="classes has 2 labels, but the network has 3 outputs"):
        PretrainedClassifier(module, classes=["a", "b"]).predict(X)


def test_is_fitted_as_it_comes(module, X):
    classifier = PretrainedClassifier(module)
    assert is_classifier(classifier)
    expected = classifier.decision_function(X)
    before = {name: value.clone() for name, value in module.state_dict().items()}
    assert classifier.fit(X, np.zeros(9)) is classifier
    np.testing.assert_array_equal(classifier.decision_function(X), expected)
    assert all(torch.equal(value, before[name]) for name, value in module.state_dict().items())
    frozen = clone(FrozenEstimator(classifier))
    np.testing.assert_array_equal(frozen.decision_function(X), expected)


def test_clone_shares_the_module(module):
    classifier = PretrainedClassifier(module, mean=[1, 2, 3], classes=list("abc"))
    again = clone(classifier)
    assert again is not classifier
    assert again.module is module
    assert again.get_params() == classifier.get_params()


class TestStorage:
    @every_network
    def test_pickle(self, X, name):
        X = abs(X) / 9
        classifier = PretrainedClassifier(networks()[name], mean=[0.1, 0, 0])
        restored = pickle.loads(pickle.dumps(classifier))
        for method in ("decision_function", "transform"):
            np.testing.assert_array_equal(
                getattr(restored, method)(X), getattr(classifier, method)(X)
            )
        assert repr(restored.module) == repr(classifier.module)
        ours, theirs = (
            {
                name: (p.dtype, p.requires_grad, p.stride(), type(p))
                for name, p in [*c.module.named_parameters(), *c.module.named_buffers()]
            }
            for c in (restored, classifier)
        )
        assert ours == theirs
        assert restored.module.state_dict().keys() == classifier.module.state_dict().keys()
        modes = [[part.training for part in c.module.modules()] for c in (restored, classifier)]
        assert modes[0] == modes[1]

    def test_ties_are_kept(self):
        restored = pickle.loads(pickle.dumps(PretrainedClassifier(networks()["tied"]))).module
        assert restored[1].weight is restored[3].weight
        twice = pickle.loads(pickle.dumps(PretrainedClassifier(networks()["one layer twice"])))
        assert twice.module[1] is twice.module[3]

    def test_restored_network_can_be_trained(self, X):
        restored = pickle.loads(pickle.dumps(PretrainedClassifier(networks()["batch norm"])))
        restored.module(torch.from_numpy(X).float()).sum().backward()
        assert all(parameter.grad is not None for parameter in restored.module.parameters())

    def test_original_is_left_alone(self, X):
        module = networks()["tied"]
        parameters = list(map(id, module.parameters()))
        pickle.dumps(PretrainedClassifier(module))
        assert list(map(id, module.parameters())) == parameters
        assert not any(parameter.is_meta for parameter in module.parameters())

    def test_hash_is_the_same_in_another_process(self):
        script = f"""
import joblib, torch
from torch import nn
import skood
from skood.classifiers import PretrainedClassifier
{inspect.getsource(networks)}
for module in networks().values():
    print(joblib.hash(PretrainedClassifier(module, mean=[1, 2, 3])))
"""
        run = subprocess.run(
            [sys.executable, "-c", script], check=True, capture_output=True, text=True
        )
        ours = [joblib.hash(PretrainedClassifier(m, mean=[1, 2, 3])) for m in networks().values()]
        assert run.stdout.split() == ours

    @every_network
    def test_hash_is_that_of_the_content(self, X, name):
        first = joblib.hash(PretrainedClassifier(networks()[name]))
        module = networks()[name]
        classifier = PretrainedClassifier(module)
        assert joblib.hash(classifier) == first
        assert joblib.hash(clone(classifier)) == first
        assert joblib.hash(pickle.loads(pickle.dumps(classifier))) == first
        classifier.predict(X)
        assert joblib.hash(classifier) == first
        assert joblib.hash(PretrainedClassifier(module, std=[1, 1, 2])) != first
        assert joblib.hash(PretrainedClassifier(networks(1)[name])) != first
        with torch.no_grad():
            next(module.parameters())[0] += 1
        assert joblib.hash(classifier) != first

    def test_hash_knows_buffers(self):
        module = networks()["not persistent"]
        before = joblib.hash(PretrainedClassifier(module))
        module[1].running_mean += 1
        assert joblib.hash(PretrainedClassifier(module)) != before

    def test_hash_forgets_gradients(self, X):
        module = networks()["batch norm"]
        before = joblib.hash(PretrainedClassifier(module))
        module(torch.from_numpy(X).float()).sum().backward()
        assert joblib.hash(PretrainedClassifier(module)) == before


class TestFromTorchvision:
    def test_untrained(self):
        classifier = PretrainedClassifier.from_torchvision("resnet18", weights=None)
        assert not classifier.module.training
        assert classifier.classes is None
        assert list(classifier.mean) == [0.485, 0.456, 0.406]
        assert list(classifier.std) == [0.229, 0.224, 0.225]
        X = np.zeros((2, 3, 32, 32), dtype=np.float32)
        assert classifier.transform(X).shape == (2, 512)
        assert classifier.predict_proba(X).shape == (2, 1000)

    @pytest.mark.parametrize("weights", ["DEFAULT", "IMAGENET1K_V1", "enum"])
    def test_what_comes_with_the_weights(self, monkeypatch, weights):
        import torchvision

        asked = []

        def get_model(name, weights=None):
            asked.append((name, weights))
            pooled = nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten())
            return nn.Sequential(pooled, nn.Linear(3, 1000)).train()

        monkeypatch.setattr(torchvision.models, "get_model", get_model)
        enum = torchvision.models.ResNet18_Weights
        wanted = enum.IMAGENET1K_V1 if weights == "enum" else weights
        classifier = PretrainedClassifier.from_torchvision("resnet18", weights=wanted)
        assert asked == [("resnet18", enum.IMAGENET1K_V1)]
        assert not classifier.module.training
        assert list(classifier.mean) == [0.485, 0.456, 0.406]
        assert list(classifier.std) == [0.229, 0.224, 0.225]
        assert classifier.classes_[0] == "tench"
        assert len(classifier.classes_) == 1000
        X = np.zeros((2, 3, 8, 8), dtype=np.uint8)
        assert set(classifier.predict(X)) <= set(classifier.classes_)

    def test_unknown_weights(self):
        with pytest.raises(KeyError, match="BEST"):
            PretrainedClassifier.from_torchvision("resnet18", weights="BEST")


DENSE = nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 3))
CONVOLUTIONAL = nn.Sequential(
    nn.Conv2d(1, 4, 3), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, 3)
)


@pytest.mark.parametrize(
    ("module", "shape", "came", "takes"),
    [
        (DENSE, (9, 5), r"rows of 5 values", "takes rows of 4 values"),
        (DENSE, (9, 1, 6, 5), r"images of \(1, 6, 5\)", "takes rows of 4 values"),
        # A linear layer takes these too, row by row of an image.
        (DENSE, (9, 1, 6, 4), r"images of \(1, 6, 4\)", "takes rows of 4 values.*nn.Flatten"),
        (CONVOLUTIONAL, (9, 36), r"rows of 36 values", r"takes images of 1 channel\(s\)"),
        (CONVOLUTIONAL, (9, 3, 6, 6), r"images of \(3, 6, 6\)", r"takes images of 1 channel\(s\)"),
        (CONVOLUTIONAL, (9, 1, 2, 2), r"images of \(1, 2, 2\)", "Kernel size can't be greater"),
    ],
)
def test_data_that_the_module_does_not_take(module, shape, came, takes):
    X = np.random.default_rng(0).random(shape)
    message = f"X has {came}.*, which the network Sequential does not take.*{takes}"
    with pytest.raises(ValueError, match=message):
        PretrainedClassifier(module).predict(X)
    for detector in (skood.MSP(module), skood.ODIN(module)):
        with pytest.raises(ValueError, match=message):
            detector.fit(X)


def test_mean_of_another_number_of_channels():
    images = np.zeros((2, 1, 6, 6))
    with pytest.raises(ValueError, match=r"items of shape \(1, 6, 6\), but mean or std has 3 val"):
        PretrainedClassifier(CONVOLUTIONAL, mean=[0.1, 0.2, 0.3]).predict(images)
