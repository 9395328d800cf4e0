"""Map a function over a data source in batches of one fixed size."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import nn

from skood._data import Source
from skood._progress import tracked

__all__ = ["evaluating", "map_batches", "scoring_batch_size"]


def scoring_batch_size(device: torch.device) -> int:
    """Rows in a scoring batch.

    Fixed for a device: the sums inside a float32 convolution or matrix product are ordered by
    the shape of the batch, so a score could otherwise change in its last digits with the rows
    scored beside it. Small on the CPU, where one row costs as much as a whole batch.
    """
    return 256 if device.type == "cuda" else 32


def map_batches(
    function: Callable[[npt.NDArray], torch.Tensor | tuple[torch.Tensor, ...]],
    source: Source,
    batch_size: int,
    *,
    verbose: bool | int | str = "auto",
    description: str = "scoring",
) -> Any:
    """Apply `function` to every row of `source`, always on exactly `batch_size` rows.

    Parameters
    ----------
    function : callable
        Takes an array of shape (batch_size, ...), returns a tensor, or several, with a row for
        each row. It runs without gradients.
    source : Source
    batch_size : int
        The last batch is filled up by repeating its last row.
    verbose : {"auto"}, bool or int, default="auto"
        Whether progress is shown, see :mod:`skood._progress`.
    description : str
        What is done, for the progress bar.

    Returns
    -------
    ndarray of shape (len(source), ...), or a tuple of them
        In the dtype that `function` returned.
    """
    n = len(source)
    results: list[npt.NDArray] = []
    starts = range(0, n, batch_size)
    for start in tracked(starts, description=description, unit="batch", verbose=verbose):
        size = min(batch_size, n - start)
        indices = np.minimum(np.arange(start, start + batch_size), n - 1)
        with torch.inference_mode():
            values = function(source.take(indices))
            several = isinstance(values, tuple)
            parts = [part.cpu().numpy()[:size] for part in (values if several else (values,))]
        results = results or [np.empty((n, *part.shape[1:]), part.dtype) for part in parts]
        for result, part in zip(results, parts, strict=True):
            result[start : start + size] = part
    return tuple(results) if several else results[0]


@contextlib.contextmanager
def evaluating(module: nn.Module) -> Iterator[None]:
    """Put `module` into eval mode inside the block, and give it back in the mode it came in."""
    training = [part for part in module.modules() if part.training]
    module.eval()
    try:
        yield
    finally:
        for part in training:
            part.training = True
