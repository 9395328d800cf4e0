"""The door through which data enters: what X may be, checked once, then read in batches."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from typing import Any
from weakref import WeakKeyDictionary

import joblib
import numpy as np
import numpy.typing as npt
import scipy.sparse
import torch
from sklearn.base import BaseEstimator
from sklearn.utils import check_array
from sklearn.utils.validation import validate_data
from torch import Tensor
from torch.utils.data import Dataset, IterableDataset

__all__ = [
    "Source",
    "check_data",
    "check_in_range",
    "check_scores",
    "resolve_value_range",
    "share_passes",
]

# Kinds of dtype that are numbers.
_NUMBERS = "biuf"


class Source:
    r"""Rows or images, in memory or streamed, behind one face.

    Parameters
    ----------
    read : callable
        Takes an integer array of length b, returns an array of shape (b, \*item_shape).
    n_items : int
    item_shape : tuple of int
        (d,) for rows, (C, H, W) for images.
    dtype : numpy dtype
    in_memory : bool
        Whether reading everything at once costs no more memory than is already spent.
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
        # What networks made of these items, so that no pass is made twice over them.
        self.passes: WeakKeyDictionary[Any, Any] = WeakKeyDictionary()
        self.parent: tuple[Source, npt.NDArray[np.integer]] | None = None

    @classmethod
    def of(cls, data: npt.NDArray) -> Source:
        """Source over an array of shape (n, d) or (n, C, H, W)."""
        in_memory = not isinstance(_owner(data), np.memmap)
        return cls(_Take(data), len(data), data.shape[1:], data.dtype, in_memory=in_memory)

    @classmethod
    def concatenate(cls, parts: Sequence[Source]) -> Source:
        """Source over the items of several, one after the other; all of one shape."""
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
        return {**vars(self), "passes": None, "parent": None}

    def __setstate__(self, state: dict[str, Any]) -> None:
        vars(self).update(state, passes=WeakKeyDictionary())

    @property
    def is_image(self) -> bool:
        return len(self.item_shape) == 3

    def take(self, indices: npt.NDArray[np.integer]) -> npt.NDArray:
        r"""Read the items at `indices`, shape (len(indices), \*item_shape)."""
        return self._read(indices).reshape(len(indices), *self.item_shape)

    def subset(self, indices: npt.NDArray[np.integer]) -> Source:
        """Source over the items at `indices`, read when they are asked for."""
        indices = np.asarray(indices)
        read = _Subset(self._read, indices)
        part = Source(read, len(indices), self.item_shape, self.dtype, in_memory=self.in_memory)
        part.parent = self, indices
        return part

    def reshape(self, item_shape: tuple[int, ...]) -> Source:
        """Source over the same items in another shape of the same size."""
        if np.prod(item_shape) != np.prod(self.item_shape):
            raise ValueError(
                f"X does not fit: items of shape {self.item_shape} hold "
                f"{np.prod(self.item_shape)} values, which do not fill the shape {item_shape}; "
                "give the shape (C, H, W) of your images"
            )
        return Source(
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
    def __init__(self, parts: Sequence[Source]) -> None:
        self.parts = parts
        self.starts = np.cumsum([0, *map(len, parts)])

    def __call__(self, indices: npt.NDArray[np.integer]) -> npt.NDArray:
        of_part = np.searchsorted(self.starts, indices, side="right") - 1
        if len(np.unique(of_part)) == 1:
            return self.parts[of_part[0]].take(indices - self.starts[of_part[0]])
        items = [self(indices[i : i + 1])[0] for i in range(len(indices))]
        return np.stack(items)


class _Stream:
    """Read from a torch Dataset, whose items are x or (x, label)."""

    def __init__(self, dataset: Dataset) -> None:
        self.dataset = dataset
        self.first = self.item(0)

    def item(self, index: int) -> npt.NDArray:
        try:
            item = self.dataset[index]
            item = item[0] if isinstance(item, (tuple, list)) else item
            value = _from_torch(item) if isinstance(item, Tensor) else np.asarray(item)
        except Exception as error:
            raise ValueError(
                f"item {index} of the Dataset X cannot be read, {type(error).__name__}: {error}; "
                "repair the Dataset, or leave the item out with torch.utils.data.Subset"
            ) from error
        if value.dtype.kind not in _NUMBERS:
            raise ValueError(
                f"item {index} of the Dataset X is of type {type(item).__name__} and dtype "
                f"{value.dtype}; expected an array or tensor of numbers, or a tuple that begins "
                "with one"
            )
        return value if value.ndim < 2 else _channels_first(value[None])[0]

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


def _from_torch(tensor: Tensor) -> npt.NDArray:
    if tensor.layout != torch.strided:
        raise ValueError(f"X is a tensor of layout {tensor.layout}; give X.to_dense()")
    tensor = tensor.detach().cpu()
    # numpy has no bfloat16.
    return (tensor.float() if tensor.dtype == torch.bfloat16 else tensor).numpy()


def _of_numbers(X: Any) -> Any:
    """Array of X, a data frame as it is; raises where numpy and pandas would not name X."""
    if scipy.sparse.issparse(X) or (isinstance(X, np.ndarray) and X.dtype.kind in _NUMBERS):
        return X
    if hasattr(X, "columns") and hasattr(X, "dtypes"):
        _check_columns(X)
        return X
    try:
        array = np.asarray(X)
        if array.dtype.kind == "O" and array.ndim:
            array = array.astype(np.float64)
    except (TypeError, ValueError, RuntimeError) as error:
        message = (
            f"X cannot be read as an array of numbers: {error}; expected rows or images of one "
            "shape, all of numbers"
        )
        raise (TypeError if isinstance(error, TypeError) else ValueError)(message) from error
    if array.dtype.kind in "mMV":
        raise ValueError(f"X has dtype {array.dtype}; expected numbers")
    return array


def _check_columns(frame: Any) -> None:
    """Raise for a data frame whose columns share a name or hold something else than numbers."""
    names = list(frame.columns)
    repeated = [name for name, count in Counter(names).items() if count > 1]
    if repeated:
        raise ValueError(
            f"X is a data frame with several columns of the name {repeated[0]!r}; give every "
            "column a name of its own"
        )
    for name in names:
        column = frame[name]
        if getattr(column.dtype, "kind", "O") in _NUMBERS:
            continue
        try:
            if np.asarray(column).dtype.kind in "mM":
                raise TypeError("a date or a duration is no number")
            np.asarray(column, dtype=np.float64)
        except (TypeError, ValueError) as error:
            raise ValueError(
                f"X is a data frame whose column {name!r} has dtype {column.dtype} and holds "
                f"something else than numbers ({error}); encode the column, with scikit-learn's "
                "OrdinalEncoder for instance, or leave it out"
            ) from error


def _owner(data: npt.NDArray) -> Any:
    """Array at the end of a chain of views."""
    while isinstance(data, np.ndarray) and isinstance(data.base, np.ndarray):
        data = data.base
    return data


def _channels_first(images: npt.NDArray) -> npt.NDArray:
    """View of (n, H, W), (n, C, H, W) or (n, H, W, C) images as (n, C, H, W)."""
    if images.ndim == 3:
        return images[:, None]
    if images.shape[3] in (1, 3) and images.shape[1] not in (1, 3):
        return images.transpose(0, 3, 1, 2)
    return images


def check_data(estimator: BaseEstimator, X: Any, *, reset: bool, min_samples: int = 1) -> Source:
    """Check X and return it as a :class:`Source`.

    Sets ``n_features_in_``, ``input_shape_`` and, for data frames, ``feature_names_in_`` on
    `estimator` when `reset`; compares with them otherwise.

    Parameters
    ----------
    estimator : BaseEstimator
    X : array-like, Tensor, Dataset or Source
        Rows (n, d), or images (n, H, W), (n, C, H, W) or (n, H, W, C); the last is recognised
        when its last axis is 1 or 3 and the second is not.
    reset : bool
        True in fit.
    min_samples : int

    Raises
    ------
    ValueError
        When X is empty, has fewer than `min_samples` items, holds NaN or infinity, is of
        another shape than in fit, or has a number of axes that is neither rows nor images.
    """
    source = _open(estimator, X, reset=reset, min_samples=min_samples)
    if reset:
        estimator.input_shape_ = source.item_shape
        estimator.n_features_in_ = int(np.prod(source.item_shape))
    elif source.item_shape != estimator.input_shape_:
        raise ValueError(
            f"X has items of shape {source.item_shape}, but {type(estimator).__name__} was fitted "
            f"on items of shape {estimator.input_shape_} (images are counted as (C, H, W))"
        )
    return source


def share_passes(X: Any) -> Source:
    """Wrap data so that what a network makes of them is computed once.

    Every detector that is fitted on the result, or scores it, reads the logits and features
    which the first of them computed, as long as they share a network.

    Parameters
    ----------
    X : array-like, Tensor or Dataset of shape (n_samples, ...)
        Not to be changed while it is shared.

    Returns
    -------
    Source
        Taken in place of X by every estimator of this package.

    Examples
    --------
    >>> from sklearn.datasets import load_iris
    >>> from sklearn.frozen import FrozenEstimator
    >>> from skood import MLP, MSP, Energy, share_passes
    >>> X, y = load_iris(return_X_y=True)
    >>> network = FrozenEstimator(MLP(max_epochs=2, random_state=0).fit(X, y))
    >>> shared = share_passes(X)
    >>> scores = [method(network).fit(shared).score_samples(shared) for method in (MSP, Energy)]
    """
    return _open(BaseEstimator(), X, reset=True, min_samples=1)


def _open(estimator: BaseEstimator, X: Any, *, reset: bool, min_samples: int) -> Source:
    if isinstance(X, Source):
        return X
    if isinstance(X, Dataset):
        return _open_dataset(X, min_samples)
    X = _from_torch(X) if isinstance(X, Tensor) else _of_numbers(X)
    if len(X.shape) <= 2:
        return Source.of(validate_data(estimator, X, reset=reset, ensure_min_samples=min_samples))
    if len(X.shape) > 4:
        raise ValueError(
            f"X has shape {np.shape(X)}; expected rows (n, d) or images (n, H, W), (n, C, H, W) "
            "or (n, H, W, C)"
        )
    images = check_array(
        X, ensure_2d=False, allow_nd=True, ensure_min_samples=min_samples, estimator=estimator
    )
    if 0 in images.shape:
        raise ValueError(f"X has shape {images.shape}: its images have no pixels")
    return Source.of(_channels_first(images))


def _open_dataset(dataset: Dataset, min_samples: int) -> Source:
    if isinstance(dataset, IterableDataset):
        raise ValueError(
            f"X is a {type(dataset).__name__}, an IterableDataset, whose items can be read in one "
            "order only; expected a Dataset with __getitem__ and __len__"
        )
    if not hasattr(dataset, "__len__"):
        raise ValueError(
            f"X is a {type(dataset).__name__}, a Dataset without __len__; say there how many items "
            "it has"
        )
    n_items = len(dataset)
    if n_items < min_samples:
        raise ValueError(
            f"Found Dataset with {n_items} sample(s) while a minimum of {min_samples} is required "
            "of X"
        )
    stream = _Stream(dataset)
    first = stream.first
    if not first.size:
        raise ValueError(f"the Dataset X has items of shape {first.shape}, without any values")
    if first.ndim not in (1, 3):
        raise ValueError(
            f"the Dataset X has items of shape {first.shape}; expected rows (d,) or images "
            "(H, W), (C, H, W) or (H, W, C)"
        )
    return Source(stream, n_items, first.shape, first.dtype, in_memory=False)


def resolve_value_range(source: Source, value_range: Any) -> tuple[float, float]:
    """Return the values of black and white.

    Parameters
    ----------
    source : Source
    value_range : None, (low, high) or "minmax"
        None means 0..255 for uint8 and 0..1 for floats; "minmax" reads the range of `source`.

    Raises
    ------
    ValueError
        When the range cannot be told from the dtype, or is empty.
    """
    if isinstance(value_range, str):
        extremes = np.array([(float(b.min()), float(b.max())) for b in source.chunks()])
        low, high = float(extremes[:, 0].min()), float(extremes[:, 1].max())
        # Constant data have no range of their own; any other keeps them one level.
        return low, high if low < high else low + max(1.0, abs(low))
    if value_range is not None:
        if len(value_range) != 2 or not value_range[0] < value_range[1]:
            raise ValueError(f"value_range={value_range!r} must be (low, high) with low < high")
        return float(value_range[0]), float(value_range[1])
    if source.dtype == np.uint8:
        return 0.0, 255.0
    if source.dtype.kind == "f":
        return 0.0, 1.0
    raise ValueError(
        f"pixels of dtype {source.dtype} have no range of their own: give value_range=(low, high), "
        "the values of black and white (uint8 is taken as 0..255, floats as 0..1)"
    )


def check_in_range(pixels: npt.NDArray | Tensor, value_range: tuple[float, float]) -> None:
    """Raise a ValueError when `pixels` lie outside `value_range`."""
    low, high = value_range
    if pixels.min() < low or pixels.max() > high:
        raise ValueError(
            f"X has values from {pixels.min():g} to {pixels.max():g}, but pixels from {low:g} to "
            f"{high:g} are expected for {pixels.dtype} images; rescale X, or state its range with "
            "value_range=(low, high)"
        )


def check_scores(estimator: BaseEstimator, scores: npt.NDArray[np.float64]) -> None:
    """Raise where scores of a checked X are NaN or inf; -inf says that a row is impossible."""
    wrong = np.isnan(scores) | np.isposinf(scores)
    if wrong.any():
        raise ValueError(
            f"{type(estimator).__name__} gives NaN or inf as the score of {wrong.sum()} of the "
            f"{len(scores)} items of X, whose values are beyond what it can compute with; rescale "
            "X, with scikit-learn's StandardScaler for instance"
        )
