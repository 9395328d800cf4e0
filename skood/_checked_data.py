"""Checked data: one interface to rows or images, in memory or streamed."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any
from weakref import WeakKeyDictionary

import joblib
import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor
from torch.utils.data import Dataset

__all__ = ["NUMBERS", "CheckedData", "DatasetReader", "channels_first", "from_torch"]

# Kinds of dtype that are numbers.
NUMBERS = "biuf"


class CheckedData:
    r"""One interface to rows or images, in memory or streamed.

    Parameters
    ----------
    read : callable
        Takes an integer array of length b, returns an array of shape (b, \*item_shape).
    n_items : int
    item_shape : tuple of int
        (d,) for rows, (C, H, W) for images.
    dtype : numpy dtype
    in_memory : bool
        Whether the data are already in memory, so that reading all of them costs no more.
    """

    def __init__(
        self,
        read: Callable[[npt.NDArray[np.integer]], npt.NDArray],
        n_items: int,
        item_shape: tuple[int, ...],
        dtype: npt.DTypeLike,
        *,
        in_memory: bool,
    ) -> None:
        self._read = read
        self._n_items = n_items
        self.item_shape = item_shape
        self.dtype = np.dtype(dtype)
        self.in_memory = in_memory
        # Cached network outputs for these items, so that no forward pass is repeated.
        self.network_outputs: WeakKeyDictionary[Any, Any] = WeakKeyDictionary()
        self.parent: tuple[CheckedData, npt.NDArray[np.integer]] | None = None

    @classmethod
    def of(cls, data: npt.NDArray) -> CheckedData:
        """Wrap an array of shape (n, d) or (n, C, H, W)."""
        in_memory = not isinstance(_owner(data), np.memmap)
        return cls(_Take(data), len(data), data.shape[1:], data.dtype, in_memory=in_memory)

    @classmethod
    def concatenate(cls, parts: Sequence[CheckedData]) -> CheckedData:
        """Concatenate several data sets with items of one shape."""
        return cls(
            _Concatenation(parts),
            sum(map(len, parts)),
            parts[0].item_shape,
            np.result_type(*(part.dtype for part in parts)),
            in_memory=all(part.in_memory for part in parts),
        )

    def __len__(self) -> int:
        return self._n_items

    def __getstate__(self) -> dict[str, Any]:
        return {**vars(self), "network_outputs": None, "parent": None}

    def __setstate__(self, state: dict[str, Any]) -> None:
        vars(self).update(state, network_outputs=WeakKeyDictionary())

    @property
    def is_image(self) -> bool:
        return len(self.item_shape) == 3

    def take(self, indices: npt.NDArray[np.integer]) -> npt.NDArray:
        r"""Read the items at `indices`, shape (len(indices), \*item_shape)."""
        return self._read(indices).reshape(len(indices), *self.item_shape)

    def subset(self, indices: npt.NDArray[np.integer]) -> CheckedData:
        """Select the items at `indices` lazily; they are read on access."""
        indices = np.asarray(indices)
        read = _Subset(self._read, indices)
        part = CheckedData(
            read, len(indices), self.item_shape, self.dtype, in_memory=self.in_memory
        )
        part.parent = self, indices
        return part

    def reshape(self, item_shape: tuple[int, ...]) -> CheckedData:
        """Reshape every item to another shape of the same size."""
        if np.prod(item_shape) != np.prod(self.item_shape):
            raise ValueError(
                f"X does not fit: items of shape {self.item_shape} hold "
                f"{np.prod(self.item_shape)} values, which do not fill the shape {item_shape}; "
                "give the shape (C, H, W) of your images"
            )
        return CheckedData(
            self._read, len(self), tuple(item_shape), self.dtype, in_memory=self.in_memory
        )

    def chunks(self, size: int = 4096) -> Iterator[npt.NDArray]:
        """All items in order, `size` at a time."""
        for start in range(0, len(self), size):
            yield self.take(np.arange(start, min(start + size, len(self))))

    def content(self) -> str:
        """Hash of all the items, the same in every process."""
        return joblib.hash([joblib.hash(np.ascontiguousarray(items)) for items in self.chunks()])

    def rows(self) -> npt.NDArray:
        """Everything as one array of shape (n, number of values in an item)."""
        return self.take(np.arange(len(self))).reshape(len(self), -1)


class _Take:
    """Read from an array; a class, so that a source can be pickled and hashed."""

    def __init__(self, data: npt.NDArray) -> None:
        self.data = data

    def __call__(self, indices: npt.NDArray[np.integer]) -> npt.NDArray:
        return np.asarray(self.data[indices])


class _Subset:
    def __init__(
        self, read: Callable[[npt.NDArray], npt.NDArray], indices: npt.NDArray[np.integer]
    ) -> None:
        self.read = read
        self.indices = indices

    def __call__(self, indices: npt.NDArray[np.integer]) -> npt.NDArray:
        return self.read(self.indices[indices])


class _Concatenation:
    def __init__(self, parts: Sequence[CheckedData]) -> None:
        self.parts = parts
        self.starts = np.cumsum([0, *map(len, parts)])

    def __call__(self, indices: npt.NDArray[np.integer]) -> npt.NDArray:
        of_part = np.searchsorted(self.starts, indices, side="right") - 1
        of_each = [np.flatnonzero(of_part == k) for k in range(len(self.parts))]
        taken = [
            part.take(indices[rows] - start)
            for part, start, rows in zip(self.parts, self.starts, of_each, strict=False)
            if len(rows)
        ]
        items = np.concatenate(taken) if taken else self.parts[0].take(indices)
        return items[np.argsort(np.concatenate(of_each))]


class DatasetReader:
    """Read from a torch Dataset, whose items are x or (x, label)."""

    def __init__(self, dataset: Dataset) -> None:
        self.dataset = dataset
        self.first = self.item(0)

    def item(self, index: int) -> npt.NDArray:
        try:
            item = self.dataset[index]
            item = item[0] if isinstance(item, (tuple, list)) else item
            value = from_torch(item) if isinstance(item, Tensor) else np.asarray(item)
        except Exception as error:
            raise ValueError(
                f"item {index} of the Dataset X cannot be read, {type(error).__name__}: {error}; "
                "repair the Dataset, or leave the item out with torch.utils.data.Subset"
            ) from error
        if value.dtype.kind not in NUMBERS:
            raise ValueError(
                f"item {index} of the Dataset X is of type {type(item).__name__} and dtype "
                f"{value.dtype}; expected an array or tensor of numbers, or a tuple that begins "
                "with one"
            )
        return value if value.ndim < 2 else channels_first(value[None])[0]

    def __call__(self, indices: npt.NDArray[np.integer]) -> npt.NDArray:
        items = [self.item(int(i)) for i in indices]
        for index, item in zip(indices, items, strict=True):
            if item.shape != self.first.shape:
                raise ValueError(
                    f"item {index} of the Dataset X has shape {item.shape}, but item 0 has "
                    f"{self.first.shape}; bring all items to one shape"
                )
        batch = np.stack(items)
        if batch.dtype.kind == "f" and not np.isfinite(batch).all():
            raise ValueError("the Dataset X contains NaN or infinity; remove or impute those items")
        return batch


def _owner(data: npt.NDArray) -> Any:
    """Return the array that a chain of views is based on."""
    while isinstance(data, np.ndarray) and isinstance(data.base, np.ndarray):
        data = data.base
    return data


def channels_first(images: npt.NDArray) -> npt.NDArray:
    """View of (n, H, W), (n, C, H, W) or (n, H, W, C) images as (n, C, H, W)."""
    if images.ndim == 3:
        return images[:, None]
    if images.shape[3] in (1, 3) and images.shape[1] not in (1, 3):
        return images.transpose(0, 3, 1, 2)
    return images


def from_torch(tensor: Tensor) -> npt.NDArray:
    if tensor.layout != torch.strided:
        raise ValueError(f"X is a tensor of layout {tensor.layout}; give X.to_dense()")
    tensor = tensor.detach().cpu()
    # numpy has no bfloat16.
    return (tensor.float() if tensor.dtype == torch.bfloat16 else tensor).numpy()
