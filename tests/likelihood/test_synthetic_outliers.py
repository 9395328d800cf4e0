"""Outliers that choose a background model."""

import numpy as np
import pytest

from skood._data.checked_data import CheckedData
from skood.likelihood._synthetic_outliers import synthetic_outliers


@pytest.mark.parametrize("shape", [(3, 8, 8), (1, 9, 13), (1, 1, 6), (1, 2, 2)])
def test_synthetic_outliers_of_images(shape):
    rng = np.random.default_rng(0)
    images = rng.integers(0, 256, (40, *shape), dtype=np.uint8)
    outliers = synthetic_outliers(CheckedData.of(images), rng).take(np.arange(40))
    assert outliers.shape == images.shape
    assert outliers.dtype == np.uint8
    shuffled, painted = outliers[::2], outliers[1::2]
    assert np.mean((shuffled != images[::2]).any((1, 2, 3))) > 0.5
    np.testing.assert_array_equal(
        np.sort(shuffled.reshape(20, shape[0], -1)),
        np.sort(images[::2].reshape(20, shape[0], -1)),
    )
    is_corner = painted == images[1::2, :, :1, :1]
    assert np.all(is_corner | (painted == images[1::2]))
    assert np.all(is_corner.all(1).sum((1, 2)) >= shape[1] * shape[2] / 2)


def test_synthetic_outliers_of_rows_keep_the_columns():
    rng = np.random.default_rng(0)
    rows = rng.normal(size=(50, 3))
    outliers = synthetic_outliers(CheckedData.of(rows), rng).rows()
    np.testing.assert_array_equal(np.sort(outliers, 0), np.sort(rows, 0))
    assert not np.isclose(np.corrcoef(outliers[:, 0], rows[:, 0])[0, 1], 1)
