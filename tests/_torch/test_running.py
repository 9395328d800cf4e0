"""Device, batches and seeds."""

import random

import numpy as np
import pytest
import torch

from skood._data.checked_data import CheckedData
from skood._torch.batching import batch_multiple, map_batches, scoring_batch_size
from skood._torch.device import resolve_device
from skood._torch.seeding import draw_seed, isolated_rng, numpy_rng, seed_global, torch_rng
from skood.density import NeuralSplineFlow, PixelCNN

CPU = torch.device("cpu")


@pytest.mark.parametrize(("has_cuda", "expected"), [(True, "cuda"), (False, "cpu")])
def test_device_none_selects_an_available_device(monkeypatch, has_cuda, expected):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: has_cuda)
    assert resolve_device(None) == torch.device(expected)


def test_device_that_is_there(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    assert resolve_device("cpu") == CPU
    assert resolve_device(CPU) == CPU
    assert resolve_device("cuda:1") == torch.device("cuda", 1)


@pytest.mark.parametrize("device", ["cuda", "cuda:1", torch.device("cuda")])
def test_device_that_is_missing(monkeypatch, device):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    message = (
        r"device=.*cuda.*, but torch finds no CUDA device; use device=None to select an available "
        "device, or device='cpu'"
    )
    with pytest.raises(ValueError, match=message):
        resolve_device(device)
    with pytest.raises(ValueError, match=message):
        PixelCNN(device=device).fit(np.zeros((4, 3, 3)))
    flow = NeuralSplineFlow(max_steps=1).fit(np.eye(4))
    with pytest.raises(ValueError, match=message):
        flow.set_params(device=device).score_samples(np.eye(4))


def test_precision_reaches_the_network_and_spares_the_likelihood(monkeypatch):
    images = np.random.default_rng(0).integers(0, 256, (8, 5, 5), dtype=np.uint8)
    dtypes = []
    for precision in ("bf16", "fp32"):
        density = PixelCNN(n_filters=2, n_resnet=1, max_steps=1, precision=precision)
        density.fit(images)  # Compares bfloat16 with float32.
        log_prob = PixelCNN._log_prob

        def spy(self, module, x, condition=None, log_prob=log_prob):
            layer = module.down[0][0][0].conv_in
            layer.register_forward_hook(lambda _, __, output: dtypes.append(output.dtype))
            result = log_prob(self, module, x, condition)
            dtypes.append(result.dtype)
            return result

        monkeypatch.setattr(PixelCNN, "_log_prob", spy)
        density.fit(images)
        monkeypatch.setattr(PixelCNN, "_log_prob", log_prob)
    assert dtypes == [torch.bfloat16, torch.float32, torch.float32, torch.float32]


@pytest.mark.parametrize("multiple_of", [1, 2, 4, 32])
@pytest.mark.parametrize("n", [1, 4, 5, 8, 11])
def test_map_batches_fills_the_last_batch_to_a_multiple(n, multiple_of):
    data = np.random.default_rng(0).normal(size=(n, 3))
    seen = []

    def function(items):
        seen.append(items)
        assert torch.is_inference_mode_enabled()
        return torch.from_numpy(2 * items).float()[:, None]

    result = map_batches(function, CheckedData.of(data), 4, multiple_of=multiple_of)
    assert result.shape == (n, 1, 3)
    assert result.dtype == np.float32
    np.testing.assert_allclose(result[:, 0], 2 * data, rtol=1e-6)
    full, rest = divmod(n, 4)
    sizes = [4] * full + [min(rest + -rest % multiple_of, 4)] * (rest > 0)
    assert [items.shape for items in seen] == [(size, 3) for size in sizes]
    # The last batch is filled with its own last row.
    rows = np.concatenate(seen)
    np.testing.assert_array_equal(rows[:n], data)
    np.testing.assert_array_equal(rows[n:], np.repeat(data[-1:], len(rows) - n, axis=0))


@pytest.mark.parametrize("n_in", [3, 5, 7, 10, 31])
def test_a_linear_layer_treats_every_place_in_a_batch_alike(n_in):
    """Forward and backward; rows that end between multiples of 16 bytes are critical."""
    layers = torch.nn.Sequential(
        torch.nn.Linear(n_in, 7), torch.nn.Tanh(), torch.nn.Linear(7, 5, bias=False)
    )
    rows = np.random.default_rng(0).normal(size=(1, n_in)).astype(np.float32)

    def output_and_gradient(items):
        with torch.inference_mode(False), torch.enable_grad():
            x = torch.from_numpy(items).requires_grad_()
            (gradient,) = torch.autograd.grad(layers(x).square().sum(), x)
        return layers(x), gradient

    output, gradient = map_batches(output_and_gradient, CheckedData.of(rows.repeat(32, 0)), 32)
    np.testing.assert_array_equal(output, output[:1].repeat(32, 0))
    np.testing.assert_array_equal(gradient, gradient[:1].repeat(32, 0))
    x = torch.from_numpy(rows).requires_grad_()
    np.testing.assert_allclose(output[:1], layers(x).detach(), rtol=1e-5, atol=1e-6)
    (expected,) = torch.autograd.grad(layers(x).square().sum(), x)
    np.testing.assert_allclose(gradient[:1], expected, rtol=1e-5, atol=1e-6)


def test_map_batches_keeps_the_type_of_the_result():
    source = CheckedData.of(np.arange(6.0)[:, None])
    for dtype in (torch.float64, torch.int64):
        result = map_batches(lambda x, dtype=dtype: torch.tensor(x[:, 0], dtype=dtype), source, 4)
        assert result.tolist() == list(range(6))
        assert torch.from_numpy(result).dtype == dtype


def test_map_batches_shows_progress(capsys):
    source = CheckedData.of(np.zeros((9, 1)))
    map_batches(torch.from_numpy, source, 4)
    assert capsys.readouterr().err == ""
    map_batches(torch.from_numpy, source, 4, verbose=1, description="counting")
    shown = capsys.readouterr().err
    assert "counting" in shown
    assert "3/3" in shown


def test_scoring_runs_in_batches_of_the_device_size(tiny_flow_calls):
    sizes, flow = tiny_flow_calls
    flow.score_samples(np.zeros((300, 2)))
    assert sizes == [128, 128, 64]


@pytest.mark.parametrize("item_shape", [(2,), (512,), (1, 1, 4), (4, 1, 1)])
def test_few_rows_are_filled_to_32(item_shape):
    assert batch_multiple(item_shape) == 32


@pytest.mark.parametrize("item_shape", [(1, 28, 28), (3, 1, 9), (50, 64), (1, 64), ()])
def test_other_items_are_not_filled(item_shape):
    assert batch_multiple(item_shape) == 1


@pytest.mark.parametrize(
    ("item_shape", "on_cpu", "on_cuda"),
    [
        ((2,), 128, 256),
        ((10_000,), 128, 256),
        ((), 32, 256),
        ((1, 28, 28), 32, 256),
        ((3, 32, 32), 32, 256),
        ((3, 64, 64), 32, 256),
        ((3, 96, 96), 32, 256),
        ((3, 128, 128), 16, 128),
        ((3, 224, 224), 4, 32),
        ((3, 1024, 1024), 4, 16),
        ((50, 64), 32, 256),
    ],
)
def test_a_scoring_batch_holds_fewer_large_items(item_shape, on_cpu, on_cuda):
    assert scoring_batch_size(CPU, item_shape) == on_cpu
    assert scoring_batch_size(torch.device("cuda"), item_shape) == on_cuda


@pytest.fixture
def tiny_flow_calls(monkeypatch):
    """A fitted flow, and the sizes of the batches that it is called with."""
    flow = NeuralSplineFlow(max_steps=1, device="cpu").fit(np.eye(4, 2))
    sizes = []
    original = NeuralSplineFlow._log_prob

    def record(self, module, x, condition):
        sizes.append(len(x))
        return original(self, module, x, condition)

    monkeypatch.setattr(NeuralSplineFlow, "_log_prob", record)
    return sizes, flow


def test_draw_seed():
    assert draw_seed(3) == draw_seed(3) != draw_seed(4)
    state = np.random.RandomState(0)
    assert draw_seed(state) != draw_seed(state)
    np.random.seed(0)  # noqa: NPY002
    before = np.random.get_state()[1].copy()  # noqa: NPY002
    unseeded = {draw_seed(None) for _ in range(20)}
    np.testing.assert_array_equal(np.random.get_state()[1], before)  # noqa: NPY002
    assert len(unseeded) == 20
    assert all(0 <= seed < 2**31 for seed in unseeded)


def test_streams_of_randomness_are_independent():
    # numpy pads seeds with zeros, so a trailing 0 would change nothing.
    seeds = [(0,), (1,), (0, 1), (1, 1), (0, 2), (0, 1, 1), (0, 2, 1), (0, 1, 2), (2**31 - 1, 1)]
    assert len({numpy_rng(*seed).random() for seed in seeds}) == len(seeds)
    drawn = {torch.rand((), generator=torch_rng(CPU, *seed)).item() for seed in seeds}
    assert len(drawn) == len(seeds)
    assert numpy_rng(3, 4).random() == numpy_rng(3, 4).random()


def test_isolated_rng_is_decided_by_its_seed_and_leaves_no_trace():
    def drawn(global_seed, seed):
        torch.manual_seed(global_seed)
        before = torch.get_rng_state(), random.getstate()
        with isolated_rng(CPU, seed):
            value = torch.rand(()).item()
        assert torch.equal(torch.get_rng_state(), before[0])
        assert random.getstate() == before[1]
        return value

    assert drawn(1, 0) == drawn(2, 0) != drawn(1, 5)


def test_work_on_the_cpu_leaves_the_generators_of_cuda_alone(monkeypatch):
    """torch.manual_seed would seed them without restoring them."""
    seeded = []
    monkeypatch.setattr(torch.cuda, "manual_seed_all", seeded.append)
    monkeypatch.setattr(torch.cuda, "manual_seed", seeded.append)
    with torch.random.fork_rng(devices=[]):
        seed_global(CPU, 5)
        first = torch.rand(3)
        seed_global(CPU, 5)
        assert torch.equal(torch.rand(3), first)
    flow = NeuralSplineFlow(max_steps=2, device="cpu", random_state=0).fit(np.eye(4))
    flow.sample(2)
    assert seeded == []
