"""Scoring in batches: the precision of convolutions, and memory that runs out."""

import numpy as np
import pytest
import torch
from torch import nn

from skood import MSP, ODIN
from skood._data.checked_data import CheckedData, CheckedFields
from skood._torch import partial_results
from skood._torch.batching import map_batches
from skood._torch.partial_results import PartialResults


@pytest.mark.parametrize("allowed", [True, False])
def test_convolutions_are_not_rounded_to_tensor_float_32(monkeypatch, allowed):
    """The user's setting is restored afterwards, also after an error."""
    monkeypatch.setattr(torch.backends.cudnn, "allow_tf32", allowed)
    seen = []

    def score(items):
        seen.append(torch.backends.cudnn.allow_tf32)
        return torch.from_numpy(items[:, 0])

    data = CheckedData.of(np.arange(5.0)[:, None])
    np.testing.assert_array_equal(map_batches(score, data, 2), np.arange(5.0))
    assert seen == [False] * 3
    assert torch.backends.cudnn.allow_tf32 is allowed
    with pytest.raises(ZeroDivisionError):
        map_batches(lambda items: 1 / 0, data, 2)
    assert torch.backends.cudnn.allow_tf32 is allowed


class Limited:
    """Doubles and squares items; out of memory for more than `most` of them at a time."""

    def __init__(self, most, error):
        self.most = most
        self.error = error
        self.sizes = []

    def __call__(self, items):
        x = torch.from_numpy(items["a"] if isinstance(items, dict) else items)[:, 0]
        self.sizes.append(len(x))
        if len(x) > self.most:
            raise self.error
        return 2 * x, x.square()


CPU_ERROR = RuntimeError(
    "[enforce fail at alloc_cpu.cpp:121] err == 0. DefaultCPUAllocator: can't allocate memory: you "
    "tried to allocate 400 bytes."
)
GPU_ERROR = torch.cuda.OutOfMemoryError("CUDA out of memory. Tried to allocate 20.00 GiB.")
X = np.arange(22.0)[:, None]


def fields():
    return CheckedFields(
        lambda rows: {"a": X[rows]}, len(X), {"a": (1,)}, np.dtype(float), in_memory=True
    )


def streamed():
    return CheckedData(lambda rows: X[rows], len(X), (1,), X.dtype, in_memory=False)


@pytest.mark.parametrize("data", [CheckedData.of(X), fields(), streamed()])
@pytest.mark.parametrize("error", [CPU_ERROR, GPU_ERROR, MemoryError()])
def test_a_batch_without_memory_is_halved_with_one_warning(data, error):
    function = Limited(5, error)
    with pytest.warns(UserWarning, match=r"too little free memory for 8 item.* parts of 4") as seen:
        doubled, squared = map_batches(function, data, 8)
    assert len(seen) == 1
    # The later batches are halved without a trial.
    assert function.sizes == [8, 4, 4, 4, 4, 4, 2]
    np.testing.assert_array_equal(doubled, 2 * X[:, 0])
    np.testing.assert_array_equal(squared, X[:, 0] ** 2)


def test_parts_are_multiples_like_the_batches():
    function = Limited(8, CPU_ERROR)
    with pytest.warns(UserWarning, match="parts of 8"):
        doubled, _ = map_batches(function, CheckedData.of(X), 12, multiple_of=4)
    # The last batch of 10 items is filled to 12.
    assert function.sizes == [12, 8, 4, 8, 4]
    np.testing.assert_array_equal(doubled, 2 * X[:, 0])


@pytest.mark.filterwarnings("ignore:.*parts of 4")
@pytest.mark.parametrize("error", [CPU_ERROR, GPU_ERROR, MemoryError()])
def test_half_a_batch_without_memory_is_an_error_with_advice(error):
    function = Limited(3, error)
    with pytest.raises(type(error), match=r"for 4 item.*device=.*batch_size, at most 2"):
        map_batches(function, CheckedData.of(X), 8)
    assert function.sizes == [8, 4]


@pytest.mark.parametrize(("n", "multiple_of"), [(1, 1), (3, 8)])
def test_a_batch_that_cannot_be_divided_is_an_error_with_advice(n, multiple_of):
    """A single item, or a network that takes batches of one size only."""
    with pytest.raises(MemoryError, match="device="):
        map_batches(Limited(0, MemoryError()), CheckedData.of(X[:n]), 8, multiple_of=multiple_of)


def test_other_errors_are_not_taken_for_a_lack_of_memory():
    function = Limited(0, RuntimeError("mat1 and mat2 shapes cannot be multiplied"))
    with pytest.raises(RuntimeError, match=r"^mat1 and mat2"):
        map_batches(function, CheckedData.of(X), 8)
    assert function.sizes == [8]


def test_partial_results_of_halved_batches_are_complete(tmp_path, monkeypatch):
    monkeypatch.setattr(partial_results, "_SECONDS_BETWEEN_SAVES", 0.0)
    data = CheckedData.of(X)

    def interrupted(items):
        if items[0, 0] == 12:
            raise KeyboardInterrupt
        return limited(items)

    limited = Limited(5, CPU_ERROR)
    path = tmp_path / "scores.npz"
    with pytest.raises(KeyboardInterrupt), pytest.warns(UserWarning, match="parts of 4"):
        map_batches(interrupted, data, 8, partial=PartialResults(path))
    again = Limited(8, CPU_ERROR)
    doubled, squared = map_batches(again, data, 8, partial=PartialResults(path))
    assert again.sizes == [8, 6]
    np.testing.assert_array_equal(doubled, 2 * X[:, 0])
    np.testing.assert_array_equal(squared, X[:, 0] ** 2)


class Narrow(nn.Module):
    """Layers without memory for more than `most` rows."""

    def __init__(self):
        super().__init__()
        self.layers = nn.Sequential(nn.Linear(1, 8), nn.ReLU(), nn.Linear(8, 3))
        self.most = 1000

    def forward(self, x):
        if len(x) > self.most:
            raise CPU_ERROR
        return self.layers(x)


@pytest.mark.parametrize("detector", [MSP, ODIN])
def test_scores_of_a_network_agree_with_those_of_whole_batches(detector):
    with torch.random.fork_rng():
        torch.manual_seed(0)
        network = Narrow()
    rows = np.random.default_rng(0).normal(size=(300, 1)).astype(np.float32)
    fitted = detector(network).fit(rows)
    expected = fitted.score_samples(rows)
    network.most = 100
    with pytest.warns(UserWarning, match="128 item.* parts of 64"):
        scores = fitted.score_samples(rows.copy())
    np.testing.assert_allclose(scores, expected, rtol=1e-6)
