"""Fitted networks as pickles: equal hashes for equal content, in every process."""

import copy
import inspect
import pickle
import subprocess
import sys

import joblib
import numpy as np
import pytest
import torch
from sklearn.base import clone
from sklearn.frozen import FrozenEstimator
from torch import nn
from torch.nn import utils
from torch.nn.utils import parametrizations, parametrize, prune

import skood
from skood._torch.packing import content_of, pack, unpack


def models():
    """A tiny network of every kind, with data."""
    rng = np.random.default_rng(0)
    rows, images = rng.normal(size=(40, 4)), rng.random((24, 6, 6))
    quick = {"max_epochs": 1, "batch_size": 8, "precision": "fp32", "random_state": 0}
    return {
        "MLP": (skood.MLP((5,), **quick), rows),
        "WideResNet": (skood.WideResNet(10, 1, **quick), images),
        "NeuralSplineFlow": (skood.NeuralSplineFlow(1, hidden_features=(5,), **quick), rows),
        "PixelCNN": (skood.PixelCNN(3, 1, weight_norm=True, **quick), images),
        "VAE of rows": (skood.VAE(2, hidden_features=(5,), conditional=True, **quick), rows),
        "VAE of images": (skood.VAE(2, n_filters=(3, 4), **quick), images),
        "Autoencoder": (skood.Autoencoder(2, n_filters=(3, 4), **quick), images),
    }


def labels(X):
    return np.arange(len(X)) % 2


def results(model, X):
    methods = "score_samples", "decision_function", "transform"
    return getattr(model, next(name for name in methods if hasattr(model, name)))(X)


every_model = pytest.mark.parametrize("name", models())


@pytest.fixture(scope="module")
def fitted():
    return {name: model.fit(X, labels(X)) for name, (model, X) in models().items()}


@pytest.fixture
def model(fitted, name):
    """A fitted model that a test may change."""
    return copy.deepcopy(fitted[name])


def run(script, *args):
    """Run a script in another process; return what it prints, word by word."""
    command = [sys.executable, "-c", script, *map(str, args)]
    return subprocess.run(command, check=True, capture_output=True, text=True).stdout.split()


def test_hash_is_the_same_in_another_process(fitted, tmp_path):
    """For models that were loaded there, and for models that were trained there.

    Two processes may train with different last digits, so those made there get the weights.
    """
    script = f"""
import pickle, sys
import joblib, numpy as np
from sklearn.frozen import FrozenEstimator
import skood
{inspect.getsource(models)}
{inspect.getsource(labels)}
with open(sys.argv[1], "rb") as file:
    loaded = pickle.load(file)
for name, (model, X) in models().items():
    model.fit(X, labels(X))
    model.module_.load_state_dict(loaded[name].module_.state_dict())
    model.history_ = loaded[name].history_
    print(*map(joblib.hash, (loaded[name], model, FrozenEstimator(model))))
"""
    (tmp_path / "fitted.pkl").write_bytes(pickle.dumps(fitted))
    expected = []
    for model in fitted.values():
        expected += [*[joblib.hash(model)] * 2, joblib.hash(FrozenEstimator(model))]
    assert run(script, tmp_path / "fitted.pkl") == expected
    assert len(set(expected)) == 2 * len(fitted)


@every_model
def test_hash_depends_on_the_content_alone(model, name):
    (_, X) = models()[name]
    for wrap in (lambda model: model, FrozenEstimator):
        first = joblib.hash(wrap(model))
        assert joblib.hash(wrap(copy.deepcopy(model))) == first
        assert joblib.hash(pickle.loads(pickle.dumps(wrap(model)))) == first
        results(model, X)
        model.module_.requires_grad_(True)
        sum(p.square().sum() for p in model.module_.parameters()).backward()
        assert joblib.hash(wrap(model)) == first
        with torch.no_grad():
            list(model.module_.parameters())[-1].view(-1)[0] += 1e-3
        assert joblib.hash(wrap(model)) != first


def test_hash_depends_on_running_means(fitted):
    model = copy.deepcopy(fitted["WideResNet"])
    before = joblib.hash(model)
    next(buffer for buffer in model.module_.buffers() if buffer.ndim).add_(1e-3)
    assert joblib.hash(model) != before


@every_model
@pytest.mark.parametrize("copied", [lambda m: pickle.loads(pickle.dumps(m)), copy.deepcopy])
def test_copies_give_the_same_and_share_nothing(fitted, model, name, copied):
    (_, X) = models()[name]
    again = copied(model)
    np.testing.assert_array_equal(results(again, X), results(fitted[name], X))
    assert {k: v.stride() for k, v in again.module_.state_dict().items()} == {
        k: v.stride() for k, v in model.module_.state_dict().items()
    }
    assert [part.training for part in again.module_.modules()] == [
        part.training for part in model.module_.modules()
    ]
    with torch.no_grad():
        for parameter in again.module_.parameters():
            parameter += 1
    np.testing.assert_array_equal(results(model, X), results(fitted[name], X))


@every_model
def test_state_holds_no_tensor_with_values(model, name):
    """No part of the state belongs to a device."""
    skeleton, arrays = model.__getstate__()["module_"]
    assert all(parameter.is_meta for parameter in [*skeleton.parameters(), *skeleton.buffers()])
    assert {type(array) for array in arrays.values()} == {np.ndarray}
    assert not any(parameter.is_meta for parameter in model.module_.parameters())


def test_model_that_is_not_fitted():
    for model, _ in models().values():
        again = pickle.loads(pickle.dumps(model))
        assert not hasattr(again, "module_")
        assert repr(again) == repr(model)
        assert joblib.hash(again) == joblib.hash(model)


@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16, torch.int64])
def test_tensors_of_any_dtype_and_shape_come_back(dtype):
    module = torch.nn.Module()
    module.register_buffer("scalar", torch.tensor(3).to(dtype))
    module.register_buffer("empty", torch.empty(0, 2, dtype=dtype))
    module.register_buffer("transposed", torch.arange(6).view(2, 3).to(dtype).T)
    skeleton, arrays = pack(module)
    assert arrays["scalar"].shape == ()
    restored = unpack((skeleton, arrays))
    for name, tensor in module.named_buffers():
        again = getattr(restored, name)
        assert torch.equal(again, tensor)
        assert (again.dtype, again.stride()) == (dtype, tensor.stride())


def test_detector_around_a_frozen_vae_is_cached_for_another_process(fitted, tmp_path):
    """Its classifier also finds its checkpoint there."""
    X = models()["VAE of rows"][1]
    detector = skood.OODGen(
        skood.MLP((5,), max_epochs=1, checkpoint_dir=tmp_path / "checkpoints", random_state=0),
        FrozenEstimator(fitted["VAE of rows"]),
        memory=str(tmp_path / "cache"),
        random_state=0,
    )
    (tmp_path / "detector.pkl").write_bytes(pickle.dumps(detector))
    expected = clone(detector).fit(X, labels(X)).score_samples(X)
    script = f"""
import pickle, sys
import numpy as np
from sklearn.base import clone
from skood.classifiers import _base
{inspect.getsource(labels)}
train, resumed = _base.train, []
def noted(*args, checkpoint, **kwargs):
    resumed.append(checkpoint.path.exists())
    return train(*args, checkpoint=checkpoint, **kwargs)
_base.train = noted
with open(sys.argv[1], "rb") as file:
    detector = pickle.load(file)
X = np.random.default_rng(0).normal(size=(40, 4))
for memory in (detector.memory, None):
    fitted = clone(detector).set_params(memory=memory).fit(X, labels(X))
    print(float(fitted.score_samples(X).sum()), *resumed)
"""
    total = str(float(expected.sum()))
    assert run(script, tmp_path / "detector.pkl") == [total, total, "True"]


def dense_with_gaps():
    """Tensors with other strides than a new tensor of their shape."""
    return {
        "channels last": torch.rand(2, 3, 4, 5).to(memory_format=torch.channels_last),
        "axes of length 1": torch.rand(3, 1, 2, 1).to(memory_format=torch.channels_last),
        "transposed": torch.rand(2, 3).T,
        "every second value": torch.rand(6, 4)[::2, ::2],
        "repeated": torch.rand(1, 3).expand(4, 3),
        "nothing": torch.rand(0, 3),
    }


@pytest.mark.parametrize("name", dense_with_gaps())
def test_strides_of_dense_tensors_come_back(name):
    tensor = dense_with_gaps()[name]
    module = nn.Module()
    module.weight = nn.Parameter(tensor)
    packed = pack(module)
    for skeleton, arrays in (packed, copy.deepcopy(packed), pickle.loads(pickle.dumps(packed))):
        again = unpack((skeleton, arrays)).weight
        assert torch.equal(again, tensor)
        if name not in ("every second value", "repeated"):
            assert again.stride() == tensor.stride()


class Bounded(nn.Module):
    """A parametrization of a user: weights between -2 and 2."""

    def __init__(self):
        super().__init__()
        self.register_buffer("bound", torch.tensor(2.0))

    def forward(self, raw):
        return self.bound * raw.tanh()

    def right_inverse(self, weight):
        return (weight / self.bound).clamp(-0.99, 0.99).atanh()


def bounded(layer):
    parametrize.register_parametrization(layer, "weight", Bounded())
    return layer


WRAPS = {
    "spectral_norm": parametrizations.spectral_norm,
    "weight_norm": parametrizations.weight_norm,
    "orthogonal": parametrizations.orthogonal,
    "own": bounded,
    "own and spectral_norm": lambda layer: parametrizations.spectral_norm(bounded(layer)),
    "own of the bias": lambda layer: parametrize.register_parametrization(
        bounded(layer), "bias", Bounded()
    ),
    "weight_norm by hooks": utils.weight_norm,
    "spectral_norm by hooks": utils.spectral_norm,
    "pruned": lambda layer: prune.l1_unstructured(layer, "weight", amount=0.3),
}
# torch deprecates its weight_norm by hooks.
of_wraps = pytest.mark.filterwarnings("ignore:.*weight_norm.* is deprecated")


def parametrized(wrap):
    """Every layer is parametrized, the head among them."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        layers = nn.Linear(5, 6), nn.ReLU(), nn.Linear(6, 3)
        return nn.Sequential(wrap(layers[0]), layers[1], wrap(layers[2]))


def state_of(module):
    return {name: value.clone() for name, value in module.state_dict().items()}


def assert_state(module, expected):
    state = module.state_dict()
    assert list(state) == list(expected)
    assert all(torch.equal(state[name], value) for name, value in expected.items())


@of_wraps
@pytest.mark.parametrize("training", [False, True])
@pytest.mark.parametrize("name", WRAPS)
def test_parametrized_networks(name, training):
    rng = np.random.default_rng(0)
    X, y = rng.normal(size=(30, 5)), np.arange(30) % 3
    module = parametrized(WRAPS[name]).train(training)
    before, handle = state_of(module), skood.PretrainedClassifier(module)
    content, hashed = content_of(module), joblib.hash(handle)
    for detector in (skood.ReAct(handle), skood.FDBD(module), skood.Mahalanobis(module)):
        scores = detector.fit(X, y).score_samples(X)
        key = joblib.hash(detector)
        for again in (pickle.loads(pickle.dumps(detector)), copy.deepcopy(detector)):
            np.testing.assert_array_equal(again.score_samples(X), scores)
            assert joblib.hash(again) == key
        np.testing.assert_array_equal(clone(detector).fit(X, y).score_samples(X), scores)
    # Scoring changes no buffer of a network, not even the vectors of spectral_norm.
    assert_state(module, before)
    assert (content_of(module), joblib.hash(handle)) == (content, hashed)
    again = pickle.loads(pickle.dumps(handle)).module
    assert_state(again, before)
    assert again.training is training
    assert [type(part).__name__ for part in again] == [type(part).__name__ for part in module]


@of_wraps
@pytest.mark.parametrize("name", WRAPS)
def test_parametrized_networks_can_be_trained_after_a_pickle(name):
    module = parametrized(WRAPS[name]).train()
    again = unpack(pickle.loads(pickle.dumps(pack(module))))
    x = torch.rand(4, 5)
    for network in (module, again):
        optimizer = torch.optim.SGD(network.parameters(), lr=0.1)
        network(x).square().sum().backward()
        optimizer.step()
    assert_state(again, module.state_dict())
    assert torch.equal(again.eval()(x), module.eval()(x))
    assert {id(p) for p in again.parameters()}.isdisjoint({id(p) for p in module.parameters()})


def test_tied_parametrizations_stay_tied():
    first, second = nn.Linear(5, 5), nn.Linear(5, 5)
    shared = Bounded()
    for layer in (first, second):
        parametrize.register_parametrization(layer, "weight", shared)
    second.parametrizations.weight.original = first.parametrizations.weight.original
    again = unpack(pickle.loads(pickle.dumps(pack(nn.Sequential(first, second)))))
    one, other = (layer.parametrizations.weight for layer in again)
    assert one.original is other.original
    assert one[0] is other[0]
    assert torch.equal(again[0].weight, first.weight)


def test_removed_parametrization_after_a_pickle():
    module = parametrized(parametrizations.weight_norm)
    again = unpack(pickle.loads(pickle.dumps(pack(module))))
    parametrize.remove_parametrizations(again[0], "weight")
    assert type(again[0]) is nn.Linear
    assert torch.equal(again[0].weight, module[0].weight)
