"""bfloat16 is used only where its results were found to be right."""

import warnings

import numpy as np
import pytest
import torch
from torch import nn

from skood import MLP, VAE, ConvNet, NeuralSplineFlow, PixelCNN
from skood._torch import precision as precision_module
from skood._torch.precision import trains_in_bf16

CPU = torch.device("cpu")


class Half(torch.autograd.Function):
    """Identity; `fault` spoils its gradient under autocast, as broken kernels do."""

    fault = None

    @staticmethod
    def forward(ctx, x):
        ctx.spoilt = torch.is_autocast_enabled("cpu")
        return x.clone()

    @staticmethod
    def backward(ctx, gradient):
        return Half.fault(gradient) if ctx.spoilt and Half.fault else gradient


class Spoilt(nn.Linear):
    def forward(self, x):
        return nn.functional.linear(x, Half.apply(self.weight), self.bias)


class SpoiltMLP(MLP):
    """Two layers, of which the first one's weight gradient can be spoilt."""

    def _build(self, item_shape, n_classes):
        return nn.Sequential(Spoilt(item_shape[0], 16), nn.ReLU(), nn.Linear(16, n_classes))


@pytest.fixture(autouse=True)
def fresh(monkeypatch):
    """No network has been compared, and bfloat16 counts as native."""
    monkeypatch.setattr(precision_module, "_known_faults", {})
    monkeypatch.setattr(precision_module, "has_fast_bf16", lambda device: True)
    monkeypatch.setattr(Half, "fault", None)


@pytest.fixture
def rows():
    X = np.random.default_rng(0).normal(size=(64, 5))
    return X, (X[:, 0] > 0).astype(int)


def small(precision="auto"):
    return SpoiltMLP(max_epochs=3, batch_size=32, precision=precision, random_state=0)


FAULTS = {
    "garbage": lambda gradient: 1e3 * torch.ones_like(gradient),
    "nan": lambda gradient: gradient * float("nan"),
    "sign": lambda gradient: -gradient,
    "zero": torch.zeros_like,
    "doubled": lambda gradient: 2 * gradient,
}


@pytest.mark.parametrize("fault", FAULTS)
def test_wrong_gradient_is_found(monkeypatch, rows, fault):
    expected = small("fp32").fit(*rows)
    monkeypatch.setattr(Half, "fault", staticmethod(FAULTS[fault]))
    message = "the gradient of the layer 'network.0' is wrong .* so training runs in float32"
    with pytest.warns(UserWarning, match=message) as caught:
        found = small().fit(*rows)
    assert len(caught) == 1
    np.testing.assert_array_equal(
        found.decision_function(rows[0]), expected.decision_function(rows[0])
    )
    with pytest.raises(RuntimeError, match="precision='bf16' was requested, but in bfloat16 the"):
        small("bf16").fit(*rows)


def test_wrong_loss_is_found(monkeypatch, rows):
    class Wrong(SpoiltMLP._objective):
        def loss(self, x, class_index):
            scale = 1.5 if torch.is_autocast_enabled("cpu") else 1.0
            return scale * super().loss(x, class_index)

    monkeypatch.setattr(SpoiltMLP, "_objective", Wrong)
    with pytest.warns(UserWarning, match=r"in bfloat16 the loss is .* instead of"):
        small().fit(*rows)


def test_right_gradients_train_in_bf16(rows):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        half = small().fit(*rows)
    single = small("fp32").fit(*rows)
    asked = small("bf16").fit(*rows)
    np.testing.assert_array_equal(half.decision_function(rows[0]), asked.decision_function(rows[0]))
    assert (half.decision_function(rows[0]) != single.decision_function(rows[0])).any()


def test_compares_once_per_network_and_shape(monkeypatch, rows):
    compared = []
    original = precision_module._fault

    def noted(objective, *args):
        compared.append(1)
        return original(objective, *args)

    monkeypatch.setattr(precision_module, "_fault", noted)
    X, y = rows
    for seed in range(3):
        small().set_params(random_state=seed).fit(X, y)
    assert len(compared) == 1
    small().set_params(batch_size=16).fit(X, y)
    small().fit(X[:, :4], y)
    assert len(compared) == 3
    small("fp32").fit(X[:, :3], y)
    assert len(compared) == 3


def test_a_resumed_run_keeps_its_precision(monkeypatch, rows, tmp_path):
    """Late gradients are small, so that comparing them might give another verdict."""
    expected = small().fit(*rows).decision_function(rows[0])
    network = small().set_params(checkpoint_dir=tmp_path)
    original, steps = torch.optim.SGD.step, iter(range(100))

    def interrupted(self, *args, **kwargs):
        if next(steps) == 3:
            raise KeyboardInterrupt
        return original(self, *args, **kwargs)

    with monkeypatch.context() as patch, pytest.warns(UserWarning, match="interrupted"):
        patch.setattr(torch.optim.SGD, "step", interrupted)
        network.fit(*rows)
    precision_module._known_faults.clear()
    monkeypatch.setattr(precision_module, "_fault", lambda *_: "everything is wrong")
    np.testing.assert_array_equal(network.fit(*rows).decision_function(rows[0]), expected)


def test_without_native_bf16_auto_is_fp32(monkeypatch, rows):
    monkeypatch.setattr(precision_module, "has_fast_bf16", lambda device: False)
    monkeypatch.setattr(precision_module, "_fault", None)
    np.testing.assert_array_equal(
        small().fit(*rows).decision_function(rows[0]),
        small("fp32").fit(*rows).decision_function(rows[0]),
    )


def test_the_comparison_changes_nothing():
    """Buffers, gradients and the mode are as before."""
    network = nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4), nn.Dropout(), nn.Linear(4, 1))
    before = {name: value.clone() for name, value in network.state_dict().items()}

    def losses(bf16, x):
        with torch.autocast("cpu", torch.bfloat16, enabled=bf16):
            return {"loss": network(x).float().square().mean()}

    with torch.random.fork_rng(devices=[]):
        assert trains_in_bf16(network, losses, [torch.randn(32, 3)], CPU, "auto")
    for name, value in network.state_dict().items():
        assert torch.equal(value, before[name]), name
    assert all(parameter.grad is None for parameter in network.parameters())
    assert network.training


def test_frozen_layers_are_compared_too():
    """Epochs that train them may follow."""
    network = nn.Sequential(nn.Linear(3, 4), nn.Linear(4, 1))
    network[0].requires_grad_(False)

    def losses(bf16, x):
        return {"loss": network(x).square().mean()}

    *_, layers = precision_module.compare_with_fp32(network, losses, [torch.ones(2, 3)], CPU)
    assert set(layers) == {"0", "1"}
    assert [p.requires_grad for p in network.parameters()] == [False, False, True, True]
    assert all(p.grad is None for p in network.parameters())


IMAGES = np.random.default_rng(0).integers(0, 256, (32, 3, 8, 8), np.uint8)
NETWORKS = {
    "ConvNet": ConvNet((4, 8), max_steps=1, batch_size=32, random_state=0),
    "PixelCNN": PixelCNN(n_filters=4, n_resnet=1, max_steps=1, random_state=0),
    "VAE": VAE(2, n_filters=(4,), max_steps=1, random_state=0),
    "VAE, bernoulli": VAE(2, likelihood="bernoulli", n_filters=(4,), max_steps=1, random_state=0),
}


@pytest.mark.parametrize("name", NETWORKS)
def test_real_networks_agree(name):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        NETWORKS[name].fit(IMAGES, np.arange(32) % 2)


@pytest.mark.parametrize(("shape", "narrow"), [((9, 1), True), ((1, 9), True), ((9, 3), False)])
def test_narrow_images_are_not_trained_in_bf16(shape, narrow):
    """Their gradients are wrong only sometimes, so one comparison may miss it."""
    X = np.random.default_rng(0).random((32, *shape))
    network = ConvNet((4,), max_steps=1, batch_size=32, random_state=0)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        network.fit(X, np.arange(32) % 2)
    assert any("one pixel high or wide" in str(w.message) for w in caught) == narrow


def test_flow_agrees():
    flow = NeuralSplineFlow(1, hidden_features=(8,), max_steps=1, precision="auto", random_state=0)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        flow.fit(np.random.default_rng(0).normal(size=(64, 3)))
