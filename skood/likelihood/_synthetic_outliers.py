"""Outliers made from held-out items, for the choice of a background model."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from skood._data.checked_data import CheckedData

__all__ = ["check_numbers", "synthetic_outliers"]


def synthetic_outliers(data: CheckedData, rng: np.random.Generator) -> CheckedData:
    """Make one outlier from each inlier.

    Rows get entries from different rows. Every second image gets its blocks in random order, which
    makes it harder to predict; the others get one half painted over in the colour of the first
    corner, which makes them easier to predict.
    """
    check_numbers(data, "outliers are made from", "mark known outliers by y == -1")
    items = data.take(np.arange(len(data)))
    if not data.is_image:
        return data.like(rng.permuted(items, axis=0))
    outliers = items.copy()
    outliers[::2] = _with_blocks_shuffled(items[::2], rng)
    height, width = items.shape[2:]
    halves = [
        np.s_[:, :, : (width + 1) // 2],
        np.s_[:, :, width // 2 :],
        np.s_[:, : (height + 1) // 2],
        np.s_[:, height // 2 :],
    ]
    for image, half in zip(outliers[1::2], rng.integers(4, size=len(items) // 2), strict=True):
        image[halves[half]] = image[:, :1, :1].copy()
    return data.like(outliers)


def _with_blocks_shuffled(images: npt.NDArray, rng: np.random.Generator) -> npt.NDArray:
    """Cut images into up to 4 x 4 blocks of one size and put them in random order."""
    n, n_channels, height, width = images.shape
    rows, columns = min(4, height), min(4, width)
    tall, wide = height // rows, width // columns
    covered = np.s_[:, :, : rows * tall, : columns * wide]
    blocks = images[covered].reshape(n, n_channels, rows, tall, columns, wide)
    blocks = blocks.transpose(0, 2, 4, 1, 3, 5).reshape(n, rows * columns, -1)
    order = rng.permuted(np.tile(np.arange(rows * columns), (n, 1)), axis=1)
    blocks = np.take_along_axis(blocks, order[:, :, None], axis=1)
    blocks = blocks.reshape(n, rows, columns, n_channels, tall, wide).transpose(0, 3, 1, 4, 2, 5)
    shuffled = images.copy()
    shuffled[covered] = blocks.reshape(n, n_channels, rows * tall, columns * wide)
    return shuffled


def check_numbers(data: CheckedData, use: str, remedy: str) -> None:
    """Raise if X is not numbers, whose values could be redrawn."""
    try:
        data.check_read()
    except (TypeError, ValueError) as error:
        raise type(error)(
            f"{use} X with some of its values replaced by others, but X is not all numbers "
            f"({error}); {remedy}"
        ) from error
