"""Application of functions to data in batches, with reproducible results."""

from __future__ import annotations

import contextlib
import math
import threading
import warnings
from collections.abc import Callable, Iterator
from typing import Any
from weakref import WeakKeyDictionary

import numpy as np
import numpy.typing as npt
import torch
import torch.nn.functional as F
from torch import nn
from torch.overrides import TorchFunctionMode

from skood._data.checked_data import CheckedData
from skood._data.chunks import row_slices
from skood._progress import tracked
from skood._torch.device import full_float32, is_out_of_memory
from skood._torch.partial_results import PartialResults
from skood._torch.reading import read_ahead, read_batches
from skood._torch.run import raise_if_ended
from skood._torch.threads import computing

__all__ = [
    "Halving",
    "batch_multiple",
    "evaluating",
    "has_aligned_rows",
    "map_batches",
    "scoring_batch_size",
]

# Values of float32 that fill 64 bytes.
_ALIGNED = 16

# Scoring batches hold fewer items if an item has more values than this.
_MOST_VALUES = 3 * 96**2

_REMEDY = (
    "Free memory there, give device= another device, or score a module of your own in smaller "
    "batches (PretrainedClassifier's batch_size, at most"
)


def scoring_batch_size(device: torch.device, item_shape: tuple[int, ...]) -> int:
    """Return the number of items in a scoring batch.

    The number depends only on the device and the item size, because the shape of a batch
    determines the summation order of float32 convolutions and matrix products. On a CPU, large
    batches of large images take more memory but no less time.

    Parameters
    ----------
    device : torch.device
    item_shape : tuple of int
        Shape of an item in the network's input: (d,) for rows, (C, H, W) for images.

    Returns
    -------
    int
        On a CPU 128 rows or 4 to 32 other items, on CUDA 256 rows or 16 to 256 other items.
    """
    on_cuda = device.type == "cuda"
    if len(item_shape) == 1:
        return 256 if on_cuda else 128
    fewest, most = (16, 256) if on_cuda else (4, 32)
    n_items = most * _MOST_VALUES // max(1, math.prod(item_shape))
    # The power of two at or below.
    return 1 << (min(max(n_items, fewest), most).bit_length() - 1)


def batch_multiple(item_shape: tuple[int, ...]) -> int:
    """Return the number that the size of a batch must be a multiple of: 32 for rows, else 1.

    A small network computes 32 rows in almost the time of one, and batches of equal size give
    bitwise equal scores. Images of shape (1, 1, d) or (d, 1, 1) count as rows.

    Parameters
    ----------
    item_shape : tuple of int
        As in :func:`scoring_batch_size`.
    """
    is_row = len(item_shape) in (1, 3) and math.prod(item_shape) == max(item_shape)
    return 32 if is_row else 1


def has_aligned_rows(module: nn.Module) -> bool:
    """Whether the rows of all linear layers of a module fill 64 bytes, in float32.

    Parameters
    ----------
    module : Module
    """
    return all(p.shape[1] % _ALIGNED == 0 for p in module.parameters() if p.ndim == 2)


class _AlignedRows(TorchFunctionMode):
    """Pad the input rows of linear layers with zeros to a multiple of 64 bytes.

    In small products, MKL's summation order depends on the memory alignment of a row, and so on
    the row's position in the batch.
    """

    def __init__(self) -> None:
        super().__init__()
        # Parameters do not change while data are scored, so that they are padded once.
        self._padded: dict[tuple[Any, ...], torch.Tensor] = {}

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
        # Tensors made in inference mode cannot be differentiated.
        key = weight, padding, torch.is_inference_mode_enabled()
        if key not in self._padded:
            self._padded[key] = F.pad(weight, padding)
        return self._padded[key]


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
    multiple_of: int = 1,
    aligns_rows: bool = True,
) -> Any:
    """Apply `function` to `data` in batches; streamed data are prefetched.

    Parameters
    ----------
    function : callable
        Takes an array of up to `batch_size` items; returns one or several tensors with a row for
        each item. Runs without gradients.
    data : CheckedData
    batch_size : int
    device : torch.device, default=None
        Device that `function` computes on; None: the CPU.
    n_workers : int or None, default=None
        Number of reading processes, see :func:`~skood._torch.reading.read_batches`.
    verbose : {"auto"}, bool or int, default="auto"
        Whether progress is shown, see :mod:`skood._progress`.
    description : str
        Label of the progress bar.
    partial : PartialResults, default=None
        File that results are saved to; another call on the same data resumes from it.
    multiple_of : int, default=1
        The size of the last batch is rounded up to a multiple of this number, but not above
        `batch_size`, by repeating its last item; see :func:`batch_multiple`.
    aligns_rows : bool, default=True
        Whether the rows of linear layers are padded to 64 bytes, which costs some microseconds for
        every operation of the network. False: they fill 64 bytes anyway (`has_aligned_rows`).

    Returns
    -------
    ndarray of shape (len(data), ...), or a tuple of them
        In the dtype that `function` returned.

    Raises
    ------
    MemoryError or torch.OutOfMemoryError
        When memory runs out for half a batch too.
    OSError
        When `partial` cannot be written, before the first batch.

    Warns
    -----
    UserWarning
        When memory runs out for a batch; this batch and those after it are halved.
    """
    n = len(data)
    n_done, results = partial.load(n) if partial else (0, [])
    several = len(results) > 1
    slices = list(row_slices(n, batch_size, n_done))
    batches = [np.arange(rows.start, rows.stop) for rows in slices]
    if batches:
        n_last = len(batches[-1])
        n_filled = min(n_last + -n_last % multiple_of, batch_size)
        batches[-1] = np.minimum(slices[-1].start + np.arange(n_filled), n - 1)
    # A batch of one has a single position; _AlignedRows would cost half a millisecond per call.
    alone = len(batches) == 1 and len(batches[0]) == 1
    aligned = _AlignedRows() if aligns_rows and not alone else contextlib.nullcontext()
    slow = not data.in_memory
    device = device or torch.device("cpu")
    read = read_batches(data.take, batches, device=device, slow=slow, n_workers=n_workers)
    unit = multiple_of if multiple_of <= batch_size else 1
    results_of = Halving(function, device, unit, description)
    with contextlib.closing(read_ahead(read) if slow else read) as items_of_batches:
        bar = tracked(
            zip(slices, items_of_batches, strict=True),
            total=len(slices),
            description=description,
            unit="batch",
            verbose=verbose,
        )
        for rows, items in bar:
            raise_if_ended()
            size = rows.stop - rows.start
            with computing, torch.inference_mode(), aligned, full_float32():
                several, parts = results_of(items)
            if partial and rows.start == n_done > 0 and not partial.continues(results, parts):
                return map_batches(
                    function,
                    data,
                    batch_size,
                    device=device,
                    n_workers=n_workers,
                    verbose=verbose,
                    description=description,
                    partial=partial,
                    multiple_of=multiple_of,
                    aligns_rows=aligns_rows,
                )
            results = results or [np.empty((n, *part.shape[1:]), part.dtype) for part in parts]
            for result, part in zip(results, parts, strict=True):
                result[rows] = part[:size]
            if partial:
                partial.save_if_due(rows.stop, results)
    return tuple(results) if several else results[0]


class Halving:
    """Apply a function to batches, in halves from the first batch that memory runs out for.

    Parameters
    ----------
    function : callable
        As in :func:`map_batches`.
    device : torch.device
    unit : int
        The size of a part is a multiple of this number, except for the last part of a batch.
    description : str
    """

    def __init__(
        self, function: Callable[[Any], Any], device: torch.device, unit: int, description: str
    ) -> None:
        self.function = function
        self.device = device
        self.unit = unit
        self.description = description
        # Size of a part, once a batch has been halved.
        self.size: int | None = None

    def __call__(self, items: Any) -> tuple[bool, list[npt.NDArray]]:
        """Return whether the function returns a tuple, and its results as arrays."""
        n = len(next(iter(items.values())) if isinstance(items, dict) else items)
        size = self.size
        if size is None:
            try:
                return self._arrays(items)
            except (MemoryError, RuntimeError) as error:
                if not is_out_of_memory(error):
                    raise
                size = self.size = self._half(n, error)
            # After the block, in which the error refers to tensors of the failed batch.
            if self.device.type == "cuda":
                torch.cuda.empty_cache()
        try:
            parts = [self._arrays(_rows_of(items, rows)) for rows in row_slices(n, size)]
        except (MemoryError, RuntimeError) as error:
            if not is_out_of_memory(error):
                raise
            raise self._failure(min(size, n), error) from error
        several = parts[0][0]
        return several, [np.concatenate(one) for one in zip(*(p for _, p in parts), strict=True)]

    def _arrays(self, items: Any) -> tuple[bool, list[npt.NDArray]]:
        values = self.function(items)
        several = isinstance(values, tuple)
        return several, [part.cpu().numpy() for part in (values if several else (values,))]

    def _half(self, n: int, error: MemoryError | RuntimeError) -> int:
        """Return half the size of a batch of `n` items, with a warning."""
        half = -(-n // 2)
        half += -half % self.unit
        if half >= n:
            raise self._failure(n, error) from error
        warnings.warn(
            f"{self._ran_out(n)}, so this batch and the following ones are computed in parts of "
            f"{half}. {_REMEDY} {half})",
            stacklevel=5,
        )
        return half

    def _failure(self, n: int, error: MemoryError | RuntimeError) -> MemoryError | RuntimeError:
        """Return an error of the same kind with advice."""
        kinds = torch.cuda.OutOfMemoryError, MemoryError, RuntimeError
        kind = next(kind for kind in kinds if isinstance(error, kind))
        return kind(f"{self._ran_out(n)} ({error}). {_REMEDY} {max(1, n // 2)})")

    def _ran_out(self, n: int) -> str:
        return f"{self.description}: {self.device} has too little free memory for {n} item(s)"


def _rows_of(items: Any, rows: slice) -> Any:
    """Return some rows of the items of a batch: an array, or a dict of arrays."""
    if isinstance(items, dict):
        return {name: values[rows] for name, values in items.items()}
    return items[rows]


# Modules in training mode that are in eval mode for a time, with the number of blocks that run.
_evaluated: WeakKeyDictionary[nn.Module, int] = WeakKeyDictionary()
_counting = threading.Lock()


@contextlib.contextmanager
def evaluating(module: nn.Module) -> Iterator[None]:
    """Put `module` into eval mode inside the block, and restore its mode afterwards.

    Blocks of several threads may overlap: the last one restores the mode.
    """
    with _counting:
        # Frozen scripted modules have no attribute `training`.
        training = [
            part
            for part in module.modules()
            if getattr(part, "training", False) or part in _evaluated
        ]
        for part in training:
            _evaluated[part] = _evaluated.get(part, 0) + 1
        if training:
            # Networks from torch.export have a fixed mode and raise here.
            with contextlib.suppress(NotImplementedError):
                module.eval()
    try:
        yield
    finally:
        with _counting:
            for part in training:
                _evaluated[part] -= 1
                if not _evaluated[part]:
                    del _evaluated[part]
                    part.training = True
