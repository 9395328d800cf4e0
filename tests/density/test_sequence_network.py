"""The networks of SequenceDensity, against values computed symbol by symbol."""

import numpy as np
import pytest
import torch

from skood.density._sequence_network import SequenceNetwork

NETWORKS = [
    {"network": "convolution", "n_layers": 3},
    {"network": "convolution", "n_layers": 2, "kernel_size": 3, "embedding_size": 2},
    {"network": "lstm", "n_layers": 1},
    {"network": "lstm", "n_layers": 2, "embedding_size": 5},
]


def make(n_symbols=4, **settings):
    torch.manual_seed(0)
    defaults = {"hidden_features": 6, "kernel_size": 2, "embedding_size": None, "dropout": 0.0}
    return SequenceNetwork(n_symbols, **{**defaults, **settings}).eval()


@pytest.fixture
def codes():
    return torch.from_numpy(np.random.default_rng(0).integers(0, 4, (3, 11)))


@pytest.mark.parametrize("settings", NETWORKS)
def test_logits_depend_on_earlier_symbols_alone(codes, settings):
    network = make(**settings)
    with torch.no_grad():
        logits = network(codes)
        for t in range(codes.shape[1]):
            changed = codes.clone()
            changed[:, t] = (changed[:, t] + 1) % 4
            moved = (network(changed) != logits).any(-1).any(0)
            assert not moved[: t + 1].any()
            assert t == codes.shape[1] - 1 or moved[t + 1]


@pytest.mark.parametrize("settings", NETWORKS)
def test_steps_give_the_logits_of_the_whole(codes, settings):
    network = make(**settings)
    with torch.no_grad():
        logits, previous, state = network(codes), torch.full((3,), -1), None
        for t in range(codes.shape[1]):
            step, state = network.step(previous, state)
            torch.testing.assert_close(step, logits[:, t], rtol=1e-5, atol=1e-6)
            previous = codes[:, t]


def test_receptive_field():
    network = make(network="convolution", n_layers=2, kernel_size=3)
    codes = torch.zeros(1, 20, dtype=torch.long)
    with torch.no_grad():
        logits = network(codes)
        changed = codes.clone()
        changed[0, 5] = 1
        moved = (network(changed) != logits).any(-1)[0]
    # 3 ** 2 symbols before the predicted one.
    assert np.flatnonzero(moved.numpy()).tolist() == list(range(6, 15))


def test_a_convolution_by_hand():
    """One layer, written out for each position."""
    network = make(network="convolution", n_layers=1, hidden_features=2)
    codes = torch.tensor([[2, 0, 3]])
    body, layer = network.body, network.body.layers[0]
    weights = {k: v.detach().numpy().astype(float) for k, v in network.state_dict().items()}
    h = []
    for previous in (None, 2, 0):
        x = np.zeros(4)
        if previous is not None:
            x[previous] = 1
        h.append(weights["body.first.weight"] @ x + weights["body.first.bias"])
    expected = []
    for t in range(3):
        before = h[t - 1] if t else np.zeros(2)
        z = weights["body.layers.0.filter.weight"] @ np.r_[before, h[t]]
        z += weights["body.layers.0.filter.bias"]
        gated = np.tanh(z[:2]) / (1 + np.exp(-z[2:]))
        out = h[t] + weights["body.layers.0.out.weight"] @ gated
        out += weights["body.layers.0.out.bias"]
        active = np.where(out > 0, out, np.expm1(out))
        expected.append(weights["head.weight"] @ active + weights["head.bias"])
    assert layer.delays == [1, 0]
    assert body.first.in_features == 4
    np.testing.assert_allclose(network(codes)[0].detach().numpy(), expected, rtol=1e-5, atol=1e-6)


def test_an_lstm_is_torchs():
    network = make(network="lstm", n_layers=2, hidden_features=5)
    reference = torch.nn.LSTM(4, 5, 2, batch_first=True)
    with torch.no_grad():
        for k, layer in enumerate(network.body.layers):
            getattr(reference, f"weight_ih_l{k}").copy_(layer.input.weight)
            getattr(reference, f"weight_hh_l{k}").copy_(layer.recurrent.weight)
            getattr(reference, f"bias_ih_l{k}").copy_(layer.input.bias)
            getattr(reference, f"bias_hh_l{k}").zero_()
            assert layer.input.bias.tolist() == [0.0] * 5 + [1.0] * 5 + [0.0] * 10
        x = torch.randn(3, 7, 4)
        torch.testing.assert_close(network.body(x), reference(x)[0])


@pytest.mark.parametrize("settings", NETWORKS)
def test_padding_has_no_effect_on_the_symbols_before_it(codes, settings):
    network = make(**settings)
    padded = torch.nn.functional.pad(codes, (0, 5), value=-1)
    with torch.no_grad():
        torch.testing.assert_close(network(padded)[:, :11], network(codes), rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("settings", NETWORKS)
def test_every_parameter_has_a_gradient(codes, settings):
    network = make(**settings)
    network(codes).square().sum().backward()
    for name, parameter in network.named_parameters():
        assert parameter.grad is not None and parameter.grad.abs().max() > 0, name
