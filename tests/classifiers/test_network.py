"""One pass over the data: what it leaves alone, and when it is made again."""

import copy
import gc
import inspect
import pickle
import subprocess
import sys
import weakref
from collections import Counter

import joblib
import numpy as np
import pytest
import torch
from torch import nn

from skood import MSP
from skood._data.validation import share_forward_pass
from skood.classifiers import MLP, FeatureExtractor, PretrainedClassifier
from skood.classifiers._outputs import Outputs


def build(seed=0):
    """Network for images of (3, 6, 5), in eval mode."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return nn.Sequential(
            nn.Conv2d(3, 4, 3),
            nn.BatchNorm2d(4),
            nn.ReLU(),
            nn.Flatten(),
            nn.Dropout(0.5),
            nn.Linear(48, 3),
        ).eval()


def images_of(n):
    return np.random.default_rng(0).normal(size=(n, 3, 6, 5)).astype(np.float32)


@pytest.fixture
def X():
    """More images than two batches hold."""
    return images_of(70)


# Batches of each module, which are no part of what it computes.
COUNTS = Counter()


class Counting(nn.Module):
    """Counts the batches that a module is given."""

    def __init__(self, module):
        super().__init__()
        self.module = module

    def forward(self, x):
        COUNTS[self] += 1
        return self.module(x)

    def new(self):
        """Batches since the last call."""
        return COUNTS.pop(self, 0)


class Tupled(nn.Module):
    """Returns the logits in a tuple."""

    def __init__(self, module):
        super().__init__()
        self.module = module

    def forward(self, x):
        return self.module(x), x


@pytest.fixture
def module():
    return Counting(build())


# Batches on which a network that is met for the first time is tried.
N_TRIED = 2


def outputs(module, X, memory=None, **settings):
    return PretrainedClassifier(module, **settings).network().outputs(share_forward_pass(X), memory)


class TestWhatScoringLeavesAlone:
    def test_modes(self, module, X):
        """Every part runs in eval mode, and is given back in the mode it came in."""
        expected = PretrainedClassifier(module).decision_function(X)
        module.train()
        module.module[1].eval()
        module.module[4].eval()
        before = {name: part.training for name, part in module.named_modules()}
        assert set(before.values()) == {True, False}
        during = []
        module.module.register_forward_hook(
            lambda *_: during.extend(part.training for part in module.modules())
        )
        buffers = {name: buffer.clone() for name, buffer in module.named_buffers()}
        np.testing.assert_array_equal(PretrainedClassifier(module).decision_function(X), expected)
        assert during
        assert not any(during)
        assert {name: part.training for name, part in module.named_modules()} == before
        for name, buffer in module.named_buffers():
            assert torch.equal(buffer, buffers[name])

    def test_modes_after_an_error(self, module, X):
        module.train()
        with pytest.raises(ValueError, match="channels"):
            PretrainedClassifier(module).predict(X[:, :2])
        assert all(part.training for part in module.modules())

    def test_gradients(self, module, X):
        PretrainedClassifier(module).predict_proba(X)
        assert all(parameter.grad is None for parameter in module.parameters())
        assert all(parameter.requires_grad for parameter in module.parameters())
        module(torch.from_numpy(X)).sum().backward()
        before = [parameter.grad.clone() for parameter in module.parameters()]
        PretrainedClassifier(module).predict_proba(X)
        for parameter, grad in zip(module.parameters(), before, strict=True):
            assert torch.equal(parameter.grad, grad)

    def test_hooks(self, module, X):
        PretrainedClassifier(module).predict_proba(X)
        assert not any(part._forward_hooks for part in module.modules())

    @pytest.mark.parametrize("dtype", [np.float32, np.float64, np.uint8])
    def test_input(self, X, dtype):
        X = (50 * X).astype(dtype)
        before = X.copy()
        in_place = nn.Sequential(nn.ReLU(inplace=True), build())
        PretrainedClassifier(in_place).predict(X)
        np.testing.assert_array_equal(X, before)


def test_a_lazy_network_that_has_never_run():
    lazy = nn.Sequential(nn.LazyLinear(4), nn.ReLU(), nn.LazyLinear(3))
    rows = np.random.default_rng(0).normal(size=(20, 6)).astype(np.float32)
    for estimator in PretrainedClassifier(lazy), MSP(lazy), FeatureExtractor(lazy):
        with pytest.raises(ValueError, match=r"'0.weight' of Sequential .* lazy.* train it, or"):
            estimator.fit(rows)
    lazy(torch.from_numpy(rows))
    MSP(lazy).fit(rows)


class TestScoreBelongsToTheRow:
    @pytest.mark.parametrize("method", ["decision_function", "predict_proba", "transform"])
    def test_pretrained(self, module, X, method):
        """To the last bit in batches of one size, and nearly so in others."""
        score = getattr(PretrainedClassifier(module), method)
        scores = score(X)
        order = np.random.default_rng(1).permutation(64)
        np.testing.assert_array_equal(score(X[order]), scores[order])
        for size in (1, 9, 33):
            parts = [score(X[i : i + size]) for i in range(0, len(X), size)]
            np.testing.assert_allclose(np.concatenate(parts), scores, rtol=1e-6, atol=1e-6)

    def test_trained(self, tiny, images, labels):
        network = tiny().fit(images, labels)
        logits = network.decision_function(images)
        for i in (0, 11, 23):
            np.testing.assert_allclose(
                network.decision_function(images[i : i + 1])[0], logits[i], rtol=1e-6, atol=1e-6
            )
        np.testing.assert_array_equal(network.decision_function(images[::-1]), logits[::-1])


class TestOnePass:
    def test_serves_every_reader(self, module, X):
        shared = share_forward_pass(X)
        classifier = PretrainedClassifier(module)
        results = [
            getattr(classifier, method)(shared)
            for method in ("predict", "predict_proba", "decision_function", "transform")
        ]
        assert module.new() == N_TRIED + 3
        expected = [
            getattr(classifier, method)(X)
            for method in ("predict", "predict_proba", "decision_function", "transform")
        ]
        assert module.new() == 4 * (N_TRIED + 3)
        for result, array in zip(results, expected, strict=True):
            np.testing.assert_array_equal(result, array)

    def test_is_for_one_set_of_weights(self, X):
        shared = share_forward_pass(X)
        for seed in (0, 1):
            module = build(seed)
            np.testing.assert_array_equal(
                PretrainedClassifier(module).decision_function(shared),
                PretrainedClassifier(module).decision_function(X),
            )

    def test_is_for_one_normalisation_and_one_layer(self, module, X):
        shared = share_forward_pass(X)
        plain = PretrainedClassifier(module).decision_function(shared)
        ranged = PretrainedClassifier(module, value_range=(-9, 9)).decision_function(shared)
        assert not np.allclose(ranged, plain)
        deep = nn.Sequential(nn.Linear(5, 4), nn.Linear(4, 3))
        rows = share_forward_pass(np.random.default_rng(0).normal(size=(9, 5)))
        assert PretrainedClassifier(deep).transform(rows).shape == (9, 4)
        assert PretrainedClassifier(deep, features_from="1").transform(rows).shape == (9, 3)

    def test_of_a_trained_classifier(self, tiny, images, labels):
        shared = share_forward_pass(images)
        network = tiny().fit(shared, labels)
        network.module_ = module = Counting(network.module_)
        expected = network.decision_function(images)
        assert module.new() == 1
        for _ in range(2):
            np.testing.assert_array_equal(network.decision_function(shared), expected)
        assert module.new() == 1
        network.mean_ = network.mean_ + 1
        assert not np.allclose(network.decision_function(shared), expected)
        network.fit(shared, labels[::-1])
        assert not np.allclose(network.decision_function(shared), expected)

    @pytest.mark.parametrize("optimizer", [torch.optim.SGD, torch.optim.Adam])
    def test_is_repeated_after_a_step_of_an_optimiser(self, module, X, optimizer):
        shared = share_forward_pass(X)
        classifier = PretrainedClassifier(module)
        before = classifier.decision_function(shared)
        step = optimizer(module.parameters(), lr=0.1)
        module(torch.from_numpy(X)).square().sum().backward()
        step.step()
        module.new()
        after = classifier.decision_function(shared)
        assert module.new() == N_TRIED + 3
        assert not np.allclose(after, before)
        np.testing.assert_array_equal(after, classifier.decision_function(X))

    @pytest.mark.parametrize("how", ["in place", "replaced", "loaded", "running mean", "restored"])
    def test_is_repeated_after_any_change(self, module, X, how):
        shared = share_forward_pass(X)
        classifier = PretrainedClassifier(module)
        before = classifier.decision_function(shared)
        head, norm = module.module[5], module.module[1]
        with torch.no_grad():
            if how == "in place":
                head.bias += 1
            elif how == "replaced":
                head.bias = nn.Parameter(head.bias + 1)
            elif how == "loaded":
                module.module.load_state_dict(build(1).state_dict())
            elif how == "running mean":
                norm.train()
                norm(torch.full((2, 4, 3, 3), 9.0))
            else:
                module.module.load_state_dict(build(1).state_dict(), assign=True)
        after = classifier.decision_function(shared)
        assert not np.allclose(after, before)
        np.testing.assert_array_equal(after, classifier.decision_function(X))

    def test_serves_subsets(self, module, X):
        shared = share_forward_pass(X)
        classifier = PretrainedClassifier(module)
        expected = classifier.decision_function(shared)
        module.new()
        rows = np.array([69, 3, 3, 40])
        part = shared.subset(rows)
        np.testing.assert_array_equal(classifier.decision_function(part), expected[rows])
        small = part.subset(np.array([2, 0]))
        np.testing.assert_array_equal(classifier.decision_function(small), expected[rows[[2, 0]]])
        assert module.new() == 0
        with torch.no_grad():
            module.module[5].bias += 1
        np.testing.assert_allclose(
            classifier.decision_function(small), expected[rows[[2, 0]]] + 1, rtol=1e-5, atol=1e-5
        )
        assert module.new() == N_TRIED + 1
        # What a part made is no pass over the whole.
        np.testing.assert_allclose(
            classifier.decision_function(shared), expected + 1, rtol=1e-5, atol=1e-5
        )
        assert module.new() == N_TRIED + 3

    def test_is_forgotten_with_the_network(self, X):
        shared = share_forward_pass(X)
        module = build()
        alive = weakref.ref(module)
        PretrainedClassifier(module).predict(shared)
        assert len(shared.network_outputs) == 1
        assert len(pickle.loads(pickle.dumps(shared)).network_outputs) == 0
        del module
        gc.collect()
        assert alive() is None
        assert len(shared.network_outputs) == 0


class TestDiskCache:
    def test_is_read_by_another_process(self, module, X, tmp_path):
        """For the same weights and data, and for no others."""
        expected = outputs(module.module, X, str(tmp_path))
        script = f"""
import numpy as np, torch
from torch import nn
from skood import MSP
from skood._data.validation import share_forward_pass
from skood.classifiers import PretrainedClassifier
{inspect.getsource(build)}
{inspect.getsource(images_of)}
for seed, n in [(0, 70), (1, 70), (0, 69)]:
    n_batches, module = [], build(seed)
    module[0].register_forward_hook(lambda *_: n_batches.append(1))
    source = share_forward_pass(images_of(70)[:n])
    outputs = PretrainedClassifier(module).network().outputs(source, {str(tmp_path)!r})
    print(len(n_batches), float(outputs.logits.sum()))
"""
        run = subprocess.run(
            [sys.executable, "-c", script], check=True, capture_output=True, text=True
        )
        (hit, total), (others, _), (rows, _) = map(str.split, run.stdout.splitlines())
        assert (hit, others, rows) == (str(N_TRIED), str(N_TRIED + 3), str(N_TRIED + 3))
        assert float(total) == float(expected.logits.sum())

    @pytest.mark.parametrize("as_text", [True, False])
    def test_in_one_process(self, module, X, tmp_path, as_text):
        memory = str(tmp_path) if as_text else joblib.Memory(tmp_path, verbose=0)
        first = outputs(module, X, memory)
        assert module.new() == N_TRIED + 3
        again = copy.deepcopy(module).to(memory_format=torch.channels_last)
        second = outputs(again, X.copy(), memory)
        assert again.new() == N_TRIED
        np.testing.assert_array_equal(second.features, first.features)
        np.testing.assert_array_equal(second.log_proba, first.log_proba)
        for settings in ({"value_range": (-9, 9)}, {"output": 0}):
            outputs(Tupled(module), X, memory, **settings)
            assert module.new() == N_TRIED + 3
        outputs(module, X + 1, memory)
        assert module.new() == N_TRIED + 3
        with torch.no_grad():
            module.module[1].running_mean += 1
        outputs(module, X, memory)
        assert module.new() == N_TRIED + 3

    def test_tells_architectures_and_layers_apart(self, tmp_path):
        rows = np.random.default_rng(0).normal(size=(5, 4)).astype(np.float32)
        layers = [nn.Linear(4, 4), nn.ReLU(), nn.Linear(4, 4)]
        plain = nn.Sequential(*layers)
        other = nn.Sequential(layers[0], nn.Tanh(), layers[2])
        first = outputs(plain, rows, tmp_path.as_posix())
        assert not np.allclose(outputs(other, rows, tmp_path.as_posix()).logits, first.logits)
        inner = outputs(plain, rows, tmp_path.as_posix(), features_from="0")
        assert not np.allclose(inner.features, first.features)


def test_outputs():
    logits = np.arange(12, dtype=np.float32).reshape(4, 3)
    whole = Outputs(logits, -logits.astype(np.float64), logits[:, :2])
    assert len(whole) == 4
    part = whole[np.array([3, 1])]
    np.testing.assert_array_equal(part.logits, logits[[3, 1]])
    np.testing.assert_array_equal(part.log_proba, -logits[[3, 1]])
    np.testing.assert_array_equal(part.features, logits[[3, 1], :2])
    doubled = whole[1:].astype(np.float64)
    assert len(doubled) == 3
    assert doubled.logits.dtype == doubled.log_proba.dtype == doubled.features.dtype == np.float64


def test_head(X):
    module = build()
    weight, bias = PretrainedClassifier(module).fit(X).network().head
    assert weight.dtype == bias.dtype == np.float64
    result = outputs(module, X)
    np.testing.assert_allclose(
        result.features @ weight.T + bias, result.logits, rtol=1e-4, atol=1e-5
    )
    module[5] = nn.Linear(48, 3, bias=False)
    assert PretrainedClassifier(module).fit(X).network().head[1].tolist() == [0, 0, 0]


def test_activations(X):
    module = build()
    x = torch.from_numpy(X[:4])
    network = PretrainedClassifier(module).fit(X).network()
    with torch.no_grad():
        features, logits, (maps, again) = network.forward(x, [module[2], module[5]])
        torch.testing.assert_close(logits, module(x))
        torch.testing.assert_close(maps, module[2](module[1](module[0](x))))
    assert again is logits
    assert features.shape == (4, 48)
    idle = nn.Linear(3, 3)
    with pytest.raises(ValueError, match=r"Linear\(.*does not run in its forward pass"):
        network.forward(x, [idle])
    assert not any(layer._forward_hooks for layer in [*module.modules(), idle])


class TestPerturbation:
    """A step in units of the data, whatever the normalisation."""

    @staticmethod
    def check(network, X, direction, size, expected):
        x = network.perturbed(network.tensor(X), torch.from_numpy(direction).float(), size)
        torch.testing.assert_close(x, network.tensor(expected), rtol=1e-4, atol=1e-4)

    def test_of_pixels(self, tiny, labels):
        X = np.random.default_rng(0).uniform(0.2, 0.8, size=(24, 3, 6, 5))
        direction = np.sign(np.random.default_rng(1).normal(size=X.shape))
        trained = tiny().fit(X, labels).network()
        self.check(trained, X, direction, 0.1, X + 0.1 * direction)
        wide = tiny(value_range=(0, 10)).fit(X, labels).network()
        self.check(wide, X, direction, 0.01, X + 0.1 * direction)
        normalising = PretrainedClassifier(build(), mean=[0.1, 0.2, 0.3], std=[0.5, 0.2, 0.3])
        self.check(normalising.fit(X).network(), X, direction, 0.1, X + 0.1 * direction)
        ranged = PretrainedClassifier(build(), value_range=(-1, 3)).fit(X)
        self.check(ranged.network(), X, direction, 0.025, X + 0.1 * direction)
        plain = PretrainedClassifier(build()).fit(X)
        self.check(plain.network(), X, direction, 0.1, X + 0.1 * direction)

    def test_of_rows_in_standard_deviations(self, tiny):
        X = np.random.default_rng(0).normal(size=(24, 3)) * [1, 10, 100]
        direction = np.sign(np.random.default_rng(1).normal(size=X.shape))
        network = tiny(MLP).fit(X, np.arange(24) % 2).network()
        self.check(network, X, direction, 0.1, X + 0.1 * X.std(0) * direction)


def test_progress_bar(tiny, images, labels, capsys):
    network = tiny(verbose=1).fit(images, labels)
    assert "ConvNet" in capsys.readouterr().err
    network.predict(images)
    assert "forward pass" in capsys.readouterr().err
    network.set_params(verbose=0).predict(images)
    assert capsys.readouterr().err == ""
