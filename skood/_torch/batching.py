"""Map a function over a data source in batches of one fixed size."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import numpy.typing as npt
import torch
from tqdm import tqdm

from skood._data import Source

__all__ = ["map_batches", "scoring_batch_size"]


def scoring_batch_size(device: torch.device) -> int:
    """Rows in a scoring batch.

    Fixed for a device: the sums inside a float32 convolution or matrix product are ordered by
    the shape of the batch, so a score could otherwise change in its last digits with the rows
    scored beside it. Small on the CPU, where one row costs as much as a whole batch.
    """
    return 256 if device.type == "cuda" else 32


def map_batches(
    function: Callable[[npt.NDArray], torch.Tensor],
    source: Source,
    batch_size: int,
    *,
    verbose: int = 0,
    description: str = "scoring",
) -> npt.NDArray:
    """Apply `function` to every row of `source`, always on exactly `batch_size` rows.

    Parameters
    ----------
    function : callable
        Takes an array of shape (batch_size, ...), returns a tensor with a row for each row.
        It runs without gradients.
    source : Source
    batch_size : int
        The last batch is filled up by repeating its last row.
    verbose : int
        1 shows a progress bar.
    description : str
        What the progress bar says.

    Returns
    -------
    ndarray of shape (len(source), ...)
        In the dtype that `function` returned.
    """
    n = len(source)
    result: npt.NDArray | None = None
    starts = range(0, n, batch_size)
    for start in tqdm(starts, desc=description, unit="batch", disable=not verbose):
        size = min(batch_size, n - start)
        indices = np.minimum(np.arange(start, start + batch_size), n - 1)
        with torch.inference_mode():
            values = function(source.take(indices)).cpu().numpy()[:size]
        if result is None:
            result = np.empty((n, *values.shape[1:]), values.dtype)
        result[start : start + size] = values
    assert result is not None, "a source is never empty"
    return result
