"""Prefetching: the same batches in the same order, and errors in the consumer."""

import os
import threading

import numpy as np
import pytest
import torch
from torch.utils.data import Dataset

from skood import ConvNet
from skood._torch.reading import read_ahead, read_batches

CPU = torch.device("cpu")
ROWS = [np.arange(start, start + 3) for start in range(0, 12, 3)]
DATA = np.random.default_rng(0).normal(size=(12, 2))


def read(rows):
    return DATA[rows], rows


@pytest.mark.parametrize("n_workers", [0, 2])
def test_batches_come_in_order(n_workers):
    torch.manual_seed(0)
    before = torch.get_rng_state()
    batches = list(read_batches(read, ROWS, device=CPU, slow=True, n_workers=n_workers))
    assert torch.equal(torch.get_rng_state(), before)
    assert len(batches) == 4
    for (items, numbers), rows in zip(batches, ROWS, strict=True):
        assert isinstance(items, np.ndarray)
        np.testing.assert_array_equal(items, DATA[rows])
        np.testing.assert_array_equal(numbers, rows)


def test_workers_are_other_processes():
    def process(rows):
        return np.array([os.getpid()])

    found = {int(b[0]) for b in read_batches(process, ROWS, device=CPU, slow=True, n_workers=2)}
    assert len(found) == 2
    assert os.getpid() not in found


@pytest.mark.parametrize("n_workers", [0, 1])
def test_errors_of_reading_reach_the_caller(n_workers):
    def fails(rows):
        if rows[0] == 6:
            raise ValueError("item 6 cannot be read")
        return DATA[rows]

    batches = read_ahead(read_batches(fails, ROWS, device=CPU, slow=True, n_workers=n_workers))
    assert len([next(batches), next(batches)]) == 2
    with pytest.raises(ValueError, match="item 6 cannot be read"):
        next(batches)


def test_reading_ahead_stops_with_its_reader():
    taken = []

    def endless():
        while True:
            taken.append(len(taken))
            yield taken[-1]

    numbers = read_ahead(endless(), name="counting")
    assert [next(numbers) for _ in range(3)] == [0, 1, 2]
    assert "counting" in {thread.name for thread in threading.enumerate()}
    numbers.close()
    assert "counting" not in {thread.name for thread in threading.enumerate()}
    # Three were consumed, two wait in the queue, one waits for room in it.
    assert len(taken) <= 6


class Images(Dataset):
    def __init__(self):
        self.images = np.random.default_rng(0).integers(0, 256, (24, 3, 6, 6), np.uint8)

    def __len__(self):
        return 24

    def __getitem__(self, index):
        return self.images[index]


@pytest.mark.parametrize("n_workers", [None, 0, 2])
def test_a_dataset_is_learned_like_an_array(n_workers):
    """Even with augmentation, whose seed is the number of the step."""
    settings = {"max_epochs": 2, "batch_size": 8, "validation_fraction": 0.25, "random_state": 0}
    y = np.arange(24) % 2
    of_array = ConvNet((2,), **settings).fit(Images().images, y)
    streamed = ConvNet((2,), n_workers=n_workers, **settings).fit(Images(), y)
    assert streamed.history_ == of_array.history_
    np.testing.assert_array_equal(
        streamed.decision_function(Images()), of_array.decision_function(Images().images)
    )
