"""Conversion of X to the input of a network, and back."""

import numpy as np
import pytest
import torch

from skood._data.checked_data import CheckedData
from skood._torch.preprocessing import Preprocessing

CPU = torch.device("cpu")


class Model:
    """Stands for the estimator that errors name."""


def learned(X, **settings):
    preprocessing = Preprocessing(Model(), CheckedData.of(X), **settings)
    preprocessing.learn_moments(preprocessing.open(CheckedData.of(X)))
    return preprocessing


@pytest.mark.parametrize("n", [7, 4096, 4097, 10_000])
def test_moments_of_rows_that_are_read_in_chunks(n):
    X = np.random.default_rng(0).normal([0, 5, 1e7], [1, 1e-3, 2], size=(n, 3))
    # Sorted, so that the chunks have different means.
    X.sort(0)
    preprocessing = learned(X)
    np.testing.assert_allclose(preprocessing.mean, X.mean(0), rtol=1e-12, atol=1e-12)
    np.testing.assert_allclose(preprocessing.scale, X.std(0), rtol=1e-7)


@pytest.mark.parametrize("value", [0.1, 1 / 3, -1e6])
@pytest.mark.parametrize("n", [3, 1000, 9000])
def test_scale_of_a_constant_feature_is_1(n, value):
    """The sum of 1000 values 0.1 is wrong by more than a few rounding errors."""
    X = np.c_[np.arange(float(n)), np.full(n, value)]
    preprocessing = learned(X)
    assert preprocessing.scale[1] == 1
    assert preprocessing.mean[1] == value
    assert preprocessing.scale[0] == pytest.approx(X[:, 0].std())


def test_moments_of_images_are_those_of_channels_in_unit_range():
    X = np.random.default_rng(0).integers(256, size=(5000, 2, 3, 2), dtype=np.uint8)
    preprocessing = learned(X)
    np.testing.assert_allclose(preprocessing.mean[:, 0, 0], X.mean((0, 2, 3)) / 255)
    np.testing.assert_allclose(preprocessing.scale[:, 0, 0], X.std((0, 2, 3)) / 255)
    x = preprocessing.standardized(preprocessing.tensor(X, CPU))
    torch.testing.assert_close(x.mean((0, 2, 3)), torch.zeros(2), atol=1e-5, rtol=0)


FORMS = {
    "rows": (np.random.default_rng(0).normal(size=(20, 6)) * 10 + 3, {}),
    "rows of integers": (np.arange(120).reshape(20, 6), {}),
    "rows with a range": (
        np.linspace(-1, 3, 120).reshape(20, 6),
        {"value_range": (-1, 3), "has_range": True},
    ),
    "uint8": (np.arange(240, dtype=np.uint8).reshape(20, 1, 4, 3), {}),
    "float32": (np.random.default_rng(0).random((20, 3, 2, 2), dtype=np.float32), {}),
    "minmax": (np.random.default_rng(0).normal(size=(20, 1, 4, 3)), {"value_range": "minmax"}),
    "flat": (np.arange(240, dtype=np.uint8).reshape(20, 12), {"image_shape": (1, 4, 3)}),
}


@pytest.mark.parametrize("form", FORMS)
def test_there_and_back(form):
    X, settings = FORMS[form]
    preprocessing = learned(X, **settings)
    source = preprocessing.open(CheckedData.of(X))
    items = source.take(np.arange(20))
    x = preprocessing.tensor(items, CPU)
    assert x.dtype == torch.float32
    assert x.shape == (20, *preprocessing.item_shape)
    if preprocessing.value_range is None:
        torch.testing.assert_close(x.mean(0), torch.zeros(6), atol=1e-5, rtol=0)
    else:
        assert 0 <= x.min() < 0.01
        assert 0.9 < x.max() <= 1
    back = preprocessing.inverse(x)
    assert back.dtype == torch.float64
    np.testing.assert_allclose(back, X, rtol=1e-5, atol=1e-5)
    # A tensor in the units of X, as generators return it, gives the same result as an array.
    assert torch.equal(preprocessing.tensor(torch.from_numpy(items), CPU), x)
    # Opening twice is harmless.
    assert preprocessing.open(source) is source


def test_range_of_tensors_is_checked():
    preprocessing = learned(np.random.default_rng(0).random((5, 1, 2, 2)))
    message = "X has values from 0 to 2, but pixels from 0 to 1 are expected"
    for items in (np.array([[[[0.0, 2]]]]), torch.tensor([[[[0.0, 2]]]])):
        with pytest.raises(ValueError, match=message):
            preprocessing.tensor(items, CPU)


def test_shape_of_images_has_three_axes():
    with pytest.raises(ValueError, match=r"image_shape=\(3, 4\) must be \(C, H, W\)"):
        Preprocessing(Model(), CheckedData.of(np.zeros((5, 12))), image_shape=(3, 4))


def test_dtype_of_another_range_is_refused():
    preprocessing = learned(np.zeros((5, 1, 2, 2), dtype=np.uint8))
    with pytest.raises(ValueError, match="Model was fitted on pixels from 0 to 255"):
        preprocessing.open(CheckedData.of(np.zeros((5, 1, 2, 2))))
