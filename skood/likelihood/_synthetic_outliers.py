"""Outliers made from in-distribution items, to choose a background model and to check it."""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from skood._data.checked_data import CheckedData
from skood._data.unread_data import UnreadData
from skood._models import reads_as_it_came
from skood._progress import progress_scope
from skood.likelihood._sequences import sequence_outliers
from skood.metrics import auroc

__all__ = ["check_numbers", "own_outliers", "synthetic_outliers", "warn_of_reversal"]

# Number of items that are checked, and of standard deviations by which their AUROC is below 1/2.
_MOST = 128
_SIGMAS = 3.5
_KINDS = {
    "sequences": ("symbols in random order", "a single symbol in one half"),
    "images": ("blocks in random order", "one half painted over"),
    "rows": ("entries of other rows", "entries of other rows"),
}


def own_outliers(data: CheckedData, are_symbols: bool, rng: np.random.Generator) -> CheckedData:
    """Make one outlier from each inlier, of two kinds in turn."""
    return sequence_outliers(data, rng) if are_symbols else synthetic_outliers(data, rng)


def _can_be_checked(data: CheckedData, models: Sequence[Any], are_symbols: bool) -> bool:
    """Whether outliers can be made of the data in a form that the models read."""
    if are_symbols:
        return True
    if isinstance(data, UnreadData) or not data.is_rows_or_images:
        return False
    # Models of other libraries get X in the container in which it came; outliers are arrays.
    is_array = data.given is None or data.frame is not None
    return is_array or not any(map(reads_as_it_came, models))


def warn_of_reversal(
    score: Callable[[CheckedData], npt.NDArray[np.float64]],
    models: Sequence[Any],
    data: CheckedData,
    are_symbols: bool,
    rng: np.random.Generator,
) -> None:
    """Warn if outliers made from the data score higher than the data.

    The threshold of the warning is so far below an AUROC of 1/2 that scores without any skill
    cause it with a probability of 0.0003 for each kind.
    """
    if not _can_be_checked(data, models, are_symbols):
        return
    items = data.subset(np.sort(rng.permutation(len(data))[:_MOST]))
    with progress_scope(label="checking the ratio"):
        inside = score(items)
        outside = score(own_outliers(items, are_symbols, rng))
    what = "sequences" if are_symbols else "images" if data.is_image else "rows"
    for first, kind in enumerate(_KINDS[what]):
        part = outside[first::2]
        n, m = len(inside), len(part)
        if not m:
            continue
        area = auroc(np.repeat([1, -1], [n, m]), np.concatenate([inside, part]))
        if area < 0.5 - _SIGMAS * math.sqrt((n + m + 1) / (12 * n * m)):
            warnings.warn(
                "LikelihoodRatio takes outliers for in-distribution that it made from "
                f"{n} {what} of X: {what} with {kind} score higher than X (AUROC {area:.2f}, 0.5 "
                "is guessing). It will accept other simple or strange items, too. Test it on "
                "outliers that you know, train the density and the background model for longer, "
                "or use another detector, such as InputComplexity for images",
                stacklevel=6,
            )
            return


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
