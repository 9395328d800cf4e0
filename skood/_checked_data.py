"""Checked data: one interface to items of any kind, in memory or streamed."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator, Sequence
from typing import Any
from weakref import WeakKeyDictionary

import joblib
import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from skood._chunks import row_slices
from skood._given import Given

__all__ = ["NUMBERS", "CheckedData", "CheckedFields", "UnreadData", "from_torch", "in_float32"]

# Kinds of dtype that are numbers.
NUMBERS = "biuf"

# Attributes that hold what was learned of networks; a pickle leaves them out.
_OF_NETWORKS = "network_outputs", "network_readings"

# Takes row numbers and returns a label for each.
ReadLabels = Callable[[npt.NDArray[np.integer]], "npt.NDArray | None"]


class CheckedData:
    r"""One interface to rows, images or items of another shape, in memory or streamed.

    Parameters
    ----------
    read : callable
        Takes an integer array of length b, returns an array of shape (b, \*item_shape).
    n_items : int
    item_shape : tuple of int
        (d,) for rows, (C, H, W) for images.
    dtype : numpy dtype
        float16 stands for float32, as which such data are read.
    in_memory : bool
        Whether the data are already in memory, so that reading all of them costs no more.
    came_as : tuple of int, default=None
        Shape in which an item was given; None: `item_shape`.
    channels_last : bool, default=False
        Whether items were given as (H, W, C), while `item_shape` is (C, H, W).
    read_labels : callable, default=None
        Reads the labels that come with the items, if any do.
    given : Given, default=None
        The rows in the container that they came in, where it is not an array of numbers.
    """

    def __init__(
        self,
        read: Callable[[npt.NDArray[np.integer]], Any],
        n_items: int,
        item_shape: Any,
        dtype: npt.DTypeLike,
        *,
        in_memory: bool,
        came_as: tuple[int, ...] | None = None,
        channels_last: bool = False,
        read_labels: ReadLabels | None = None,
        given: Given | None = None,
    ) -> None:
        self._read = read
        self._n_items = n_items
        self.item_shape = item_shape
        self.dtype = np.dtype(np.float32 if np.dtype(dtype) == np.float16 else dtype)
        self.in_memory = in_memory
        self.came_as = item_shape if came_as is None else came_as
        self.channels_last = channels_last
        self._read_labels = read_labels
        self.given = given
        # Cached network outputs for these items, so that no forward pass is repeated.
        self.network_outputs: WeakKeyDictionary[Any, Any] = WeakKeyDictionary()
        # How the outputs of networks are read, as these items have shown.
        self.network_readings: WeakKeyDictionary[Any, Any] = WeakKeyDictionary()
        self.parent: tuple[CheckedData, npt.NDArray[np.integer]] | None = None

    @classmethod
    def of(
        cls,
        data: npt.NDArray,
        came_as: tuple[int, ...] | None = None,
        *,
        channels_last: bool = False,
        given: Given | None = None,
    ) -> CheckedData:
        """Wrap an array of shape (n, d), (n, C, H, W) or another one."""
        in_memory = not isinstance(_owner(data), np.memmap)
        return cls(
            _Take(data),
            len(data),
            data.shape[1:],
            data.dtype,
            in_memory=in_memory,
            came_as=came_as,
            channels_last=channels_last,
            given=given,
        )

    @classmethod
    def concatenate(cls, parts: Sequence[CheckedData]) -> CheckedData:
        """Concatenate several data sets with items of one shape."""
        return cls(
            _Concatenation(parts),
            sum(map(len, parts)),
            parts[0].item_shape,
            np.result_type(*(part.dtype for part in parts)),
            in_memory=all(part.in_memory for part in parts),
            came_as=parts[0].came_as,
            channels_last=parts[0].channels_last,
        )

    def __len__(self) -> int:
        return self._n_items

    def __getstate__(self) -> dict[str, Any]:
        return {**vars(self), **dict.fromkeys(_OF_NETWORKS), "parent": None}

    def __setstate__(self, state: dict[str, Any]) -> None:
        vars(self).update(state, **{name: WeakKeyDictionary() for name in _OF_NETWORKS})

    @property
    def frame(self) -> Any:
        """The data frame that X came as, whose rows these are; None where it came as another."""
        return None if self.given is None else self.given.frame

    @property
    def is_image(self) -> bool:
        return len(self.item_shape) == 3

    @property
    def has_fields(self) -> bool:
        """Whether an item is a dict of arrays."""
        return False

    @property
    def is_rows_or_images(self) -> bool:
        return len(self.item_shape) in (1, 3)

    @property
    def n_values(self) -> int:
        """Number of values in an item."""
        return int(np.prod(self.item_shape))

    @property
    def description(self) -> str:
        """What X is, for error messages."""
        return f"shape {(len(self), *self.came_as)}"

    @property
    def has_labels(self) -> bool:
        """Whether labels may come with the items."""
        return self._read_labels is not None

    @property
    def labels(self) -> npt.NDArray | None:
        """The labels that come with the items, shape (n,); None where none do."""
        return None if self._read_labels is None else self._read_labels(np.arange(len(self)))

    def check_read(self) -> None:
        """Raise where X came in a form that is not read as numbers."""

    def check_rows_or_images(self, name: str) -> None:
        """Raise for items of another shape, which `name` does not take."""
        self.check_read()
        if not self.is_rows_or_images:
            raise ValueError(
                f"X has {self.description}; expected rows (n, d) or images (n, H, W), "
                f"(n, C, H, W) or (n, H, W, C), which is what {name} takes. Items of another shape "
                "are for a network of your own: give the trained torch module, or "
                "PretrainedClassifier(module)"
            )

    def take(self, indices: npt.NDArray[np.integer]) -> Any:
        r"""Read the items at `indices`, shape (len(indices), \*item_shape)."""
        return in_float32(self._read(indices).reshape(len(indices), *self.item_shape))

    def take_as_given(self, indices: npt.NDArray[np.integer]) -> Any:
        r"""Return the items at `indices` in the container and the shape in which X was given."""
        if self.given is not None:
            return self.given.take(indices)
        items = self.take(indices)
        if self.channels_last:
            return np.moveaxis(items, 1, -1)
        return items.reshape(len(indices), *self.came_as)

    def given_as(self, came_as: tuple[int, ...], channels_last: bool) -> CheckedData:
        """Return the same data as if they had come in another shape."""
        if (came_as, channels_last) == (self.came_as, self.channels_last):
            return self
        data = copy.copy(self)
        # Only a pickle leaves these out.
        vars(data).update({name: getattr(self, name) for name in (*_OF_NETWORKS, "parent")})
        data.came_as, data.channels_last = came_as, channels_last
        # Its container has the axes in another order.
        data.given = None
        return data

    def subset(self, indices: npt.NDArray[np.integer]) -> CheckedData:
        """Select the items at `indices` lazily; they are read on access."""
        indices = np.asarray(indices)
        part = type(self)(
            _Subset(self._read, indices),
            len(indices),
            self.item_shape,
            self.dtype,
            in_memory=self.in_memory,
            came_as=self.came_as,
            channels_last=self.channels_last,
            read_labels=self._read_labels and _Subset(self._read_labels, indices),
            given=None if self.given is None else self.given.subset(indices),
        )
        part.parent = self, indices
        return part

    def like(self, items: npt.NDArray) -> CheckedData:
        """Wrap other items, of the same shape, in the container in which these came."""
        given = None if self.given is None or self.frame is None else self.given.like(items)
        return CheckedData.of(items, self.came_as, channels_last=self.channels_last, given=given)

    def reshape(self, item_shape: tuple[int, ...]) -> CheckedData:
        """Reshape every item to another shape of the same size."""
        self.check_read()
        if np.prod(item_shape) != np.prod(self.item_shape):
            raise ValueError(
                f"X does not fit: items of shape {self.item_shape} hold "
                f"{np.prod(self.item_shape)} values, which do not fill the shape {item_shape}; "
                "give the shape (C, H, W) of your images"
            )
        return CheckedData(
            self._read, len(self), tuple(item_shape), self.dtype, in_memory=self.in_memory
        )

    def chunks(self, size: int = 4096) -> Iterator[Any]:
        """All items in order, `size` at a time."""
        for rows in row_slices(len(self), size):
            yield self.take(np.arange(rows.start, rows.stop))

    def content(self) -> str:
        """Hash of all the items, the same in every process."""
        return joblib.hash([joblib.hash(np.ascontiguousarray(items)) for items in self.chunks()])

    def rows(self) -> npt.NDArray:
        """Everything as one array of shape (n, number of values in an item).

        Raises
        ------
        ValueError
            When X is neither rows nor images.
        """
        self.check_read()
        if not self.is_rows_or_images:
            raise ValueError(
                f"X has {self.description}; expected rows (n, d) or images (n, H, W), "
                "(n, C, H, W) or (n, H, W, C), since a model that is no network of yours reads "
                "flat rows: give a trained torch module or a transformer that takes such items, "
                "or features that you have computed"
            )
        return self.take(np.arange(len(self))).reshape(len(self), -1)


class CheckedFields(CheckedData):
    """Items that are dicts of arrays, as tokenizers and processors return them.

    ``item_shape`` is a dict of shapes, and ``take`` returns a dict of arrays. They are for a user's
    own network, which takes the fields by their names; lengths may differ from batch to batch.
    """

    @property
    def is_image(self) -> bool:
        return False

    @property
    def has_fields(self) -> bool:
        return True

    @property
    def is_rows_or_images(self) -> bool:
        return False

    @property
    def n_values(self) -> int:
        return sum(int(np.prod(shape)) for shape in self.item_shape.values())

    @property
    def description(self) -> str:
        return f"fields {', '.join(map(repr, self.item_shape))}"

    def take(self, indices: npt.NDArray[np.integer]) -> dict[str, npt.NDArray]:
        return {name: in_float32(values) for name, values in self._read(indices).items()}

    def take_as_given(self, indices: npt.NDArray[np.integer]) -> dict[str, npt.NDArray]:
        return self.take(indices)

    def content(self) -> str:
        return joblib.hash(
            [
                joblib.hash({name: np.ascontiguousarray(a) for name, a in sorted(items.items())})
                for items in self.chunks()
            ]
        )


class UnreadData(CheckedData):
    """Items that are not numbers, or not all finite, for models that are not ours.

    Rows are chosen from X as it came. Whatever reads numbers raises what reading them raised.

    Parameters
    ----------
    given : Given
    error : ValueError or TypeError
    """

    def __init__(self, given: Given, error: Exception) -> None:
        self.error = error
        super().__init__(
            _NotRead(error), len(given), given.item_shape, object, in_memory=True, given=given
        )

    def check_read(self) -> None:
        raise self.error.with_traceback(None)

    def subset(self, indices: npt.NDArray[np.integer]) -> CheckedData:
        assert self.given is not None
        part = UnreadData(self.given.subset(np.asarray(indices)), self.error)
        part.parent = self, np.asarray(indices)
        return part

    def content(self) -> str:
        assert self.given is not None
        return joblib.hash(self.given.take())


class _NotRead:
    def __init__(self, error: Exception) -> None:
        self.error = error

    def __call__(self, indices: npt.NDArray[np.integer]) -> Any:
        raise self.error.with_traceback(None)


class _Take:
    """Read from an array; a class, so that a source can be pickled and hashed."""

    def __init__(self, data: npt.NDArray) -> None:
        self.data = data

    def __call__(self, indices: npt.NDArray[np.integer]) -> npt.NDArray:
        return np.asarray(self.data[indices])


class _Subset:
    def __init__(
        self, read: Callable[[npt.NDArray], Any], indices: npt.NDArray[np.integer]
    ) -> None:
        self.read = read
        self.indices = indices

    def __call__(self, indices: npt.NDArray[np.integer]) -> Any:
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


def in_float32(values: npt.NDArray) -> npt.NDArray:
    """Convert float16, whose squares overflow, to float32; leave anything else."""
    return values.astype(np.float32) if values.dtype == np.float16 else values


def _owner(data: npt.NDArray) -> Any:
    """Return the array that a chain of views is based on."""
    while isinstance(data, np.ndarray) and isinstance(data.base, np.ndarray):
        data = data.base
    return data


def from_torch(tensor: Tensor) -> npt.NDArray:
    if tensor.layout != torch.strided:
        raise ValueError(f"X is a tensor of layout {tensor.layout}; give X.to_dense()")
    tensor = tensor.detach().cpu()
    # numpy has no bfloat16.
    return (tensor.float() if tensor.dtype == torch.bfloat16 else tensor).numpy()
