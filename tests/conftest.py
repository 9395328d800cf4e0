"""Fixtures that several test modules share."""

import os

# Results must not depend on the machine. To try the tests on a GPU, set it to a device's number.
os.environ.setdefault("CUDA_VISIBLE_DEVICES", "")

import numpy as np
import pytest
import torch
from sklearn.datasets import load_digits

from skood._torch import run as run_module
from skood.density import ImageFlow


def pytest_addoption(parser):
    parser.addoption("--bm", action="store_true", help="run the mini-benchmark alone")


def pytest_collection_modifyitems(config, items):
    alone = config.getoption("--bm")
    left_out = [item for item in items if (item.get_closest_marker("bm") is not None) != alone]
    if left_out:
        config.hook.pytest_deselected(items=left_out)
        items[:] = [item for item in items if item not in set(left_out)]


@pytest.fixture(scope="session", autouse=True)
def one_thread():
    """Networks this small only lose by threads, most of all on a busy machine."""
    torch.set_num_threads(1)


@pytest.fixture(autouse=True)
def no_recent_ctrl_c(monkeypatch):
    """The interruption of one test must not be the first of two for the next test."""
    monkeypatch.setattr(run_module, "_ctrl_c", run_module._CtrlC())


@pytest.fixture(scope="session")
def digits():
    """Images of digits in random order, shape (1797, 8, 8), values 0 to 16; read-only."""
    images = load_digits().images
    images = images[np.random.default_rng(0).permutation(len(images))]
    images.flags.writeable = False
    return images


@pytest.fixture(scope="session")
def tiny_image_flow():
    """Make a small ImageFlow, trained for a moment; keywords override."""

    def make(**kwargs):
        settings = {
            "n_transforms": (2, 2),
            "n_filters": 8,
            "n_blocks": 1,
            "n_bins": 4,
            "max_steps": 2,
            "batch_size": 32,
            "learning_rate": 5e-3,
            "validation_fraction": 0.0,
            "precision": "fp32",
            "compile": False,
            "random_state": 0,
        }
        return ImageFlow(**{**settings, **kwargs})

    return make


@pytest.fixture(scope="session")
def of_digits(tiny_image_flow, digits):
    """ImageFlow of 500 digits."""
    return tiny_image_flow(n_levels=17, value_range=(0, 16), max_steps=60).fit(digits[:500])
