"""Map a function over data in batches of one fixed size."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
import torch.nn.functional as F
from torch import nn
from torch.overrides import TorchFunctionMode

from skood._checked_data import CheckedData
from skood._progress import tracked
from skood._torch.device import full_float32
from skood._torch.partial_results import PartialResults
from skood._torch.reading import read_ahead, read_batches

__all__ = ["evaluating", "map_batches", "scoring_batch_size"]

# Values of float32 that fill 64 bytes.
_ALIGNED = 16


def scoring_batch_size(device: torch.device, *, is_image: bool = True) -> int:
    """Items in a scoring batch.

    Fixed for a device: the shape of the batch determines the order of the sums in a float32
    convolution or matrix product, so with varying sizes the last digits of a score could depend
    on the other rows. Small on the CPU, where one image costs as much as a whole batch.
    """
    return 256 if device.type == "cuda" else 32 if is_image else 128


class _AlignedRows(TorchFunctionMode):
    """Pad the input rows of linear layers with zeros, to a multiple of 64 bytes.

    In small products, MKL orders the sums by the memory alignment of a row, so that the result
    would depend on the row's position in the batch.
    """

    def __init__(self) -> None:
        super().__init__()
        # Padded parameters are cached, since they do not change while data are scored.
        self._filled: dict[tuple[Any, ...], torch.Tensor] = {}

    def __torch_function__(
        self, function: Any, types: Any, args: tuple = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        if function is F.linear and not types:
            return self._linear(*args, **(kwargs or {}))
        return function(*args, **(kwargs or {}))

    def _linear(
        self, input: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor | None = None
    ) -> torch.Tensor:
        if input.device.type != "cpu":
            return F.linear(input, weight, bias)
        n_out, n_in = weight.shape
        more_in = -n_in % _ALIGNED
        # The backward pass multiplies rows of the output.
        more_out = -n_out % _ALIGNED if torch.is_grad_enabled() else 0
        if more_in:
            input = F.pad(input, (0, more_in))
        if more_in or more_out:
            weight = self._pad(weight, (0, more_in, 0, more_out))
        if more_out and bias is not None:
            bias = F.pad(bias, (0, more_out))
        output = F.linear(input, weight, bias)
        return output[..., :n_out] if more_out else output

    def _pad(self, weight: torch.Tensor, padding: tuple[int, ...]) -> torch.Tensor:
        if not isinstance(weight, nn.Parameter):
            return F.pad(weight, padding)
        # Tensors created in inference mode cannot be differentiated.
        key = weight, padding, torch.is_inference_mode_enabled()
        if key not in self._filled:
            self._filled[key] = F.pad(weight, padding)
        return self._filled[key]


def map_batches(
    function: Callable[[npt.NDArray], torch.Tensor | tuple[torch.Tensor, ...]],
    data: CheckedData,
    batch_size: int,
    *,
    device: torch.device | None = None,
    n_workers: int | None = None,
    verbose: bool | int | str = "auto",
    description: str = "scoring",
    partial: PartialResults | None = None,
) -> Any:
    """Apply `function` to every row of `data`, always on exactly `batch_size` rows.

    Streamed data are prefetched.

    Parameters
    ----------
    function : callable
        Takes an array of shape (batch_size, ...), returns a tensor, or several, with a row for
        each row. It runs without gradients.
    data : CheckedData
    batch_size : int
        The last batch is filled up by repeating its last row.
    device : torch.device, default=None
        Where `function` puts what it reads; None: the CPU.
    n_workers : int or None, default=None
        Processes that read, see :func:`~skood._torch.reading.read_batches`.
    verbose : {"auto"}, bool or int, default="auto"
        Whether progress is shown, see :mod:`skood._progress`.
    description : str
        What is done, for the progress bar.
    partial : PartialResults, default=None
        Where results are saved, and taken from by another call on the same data.

    Returns
    -------
    ndarray of shape (len(data), ...), or a tuple of them
        In the dtype that `function` returned.
    """
    n = len(data)
    n_done, results = partial.load() if partial else (0, [])
    several = len(results) > 1
    aligned = _AlignedRows()
    starts = range(n_done, n, batch_size)
    rows = [np.minimum(np.arange(start, start + batch_size), n - 1) for start in starts]
    slow = not data.in_memory
    batches = read_batches(
        data.take, rows, device=device or torch.device("cpu"), slow=slow, n_workers=n_workers
    )
    with contextlib.closing(read_ahead(batches) if slow else batches) as batches:
        bar = tracked(
            zip(starts, batches, strict=True),
            total=len(starts),
            description=description,
            unit="batch",
            verbose=verbose,
        )
        for start, items in bar:
            size = min(batch_size, n - start)
            with torch.inference_mode(), aligned, full_float32():
                values = function(items)
                several = isinstance(values, tuple)
                parts = [part.cpu().numpy()[:size] for part in (values if several else (values,))]
            results = results or [np.empty((n, *part.shape[1:]), part.dtype) for part in parts]
            for result, part in zip(results, parts, strict=True):
                result[start : start + size] = part
            if partial:
                partial.save_if_due(start + size, results)
    return tuple(results) if several else results[0]


@contextlib.contextmanager
def evaluating(module: nn.Module) -> Iterator[None]:
    """Put `module` into eval mode inside the block, and restore its mode afterwards."""
    training = [part for part in module.modules() if part.training]
    module.eval()
    try:
        yield
    finally:
        for part in training:
            part.training = True
