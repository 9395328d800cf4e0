"""Checked data: one interface to items of any kind, in memory or streamed."""

from __future__ import annotations

import copy
from collections.abc import Iterator, Sequence
from typing import Any
from weakref import WeakKeyDictionary

import joblib
import numpy as np
import numpy.typing as npt

from skood._data.chunks import row_slices
from skood._data.given import Given
from skood._data.lazy_rows import LazyRows, is_on_disk, owner_of
from skood._data.memory_layout import in_c_order
from skood._data.readers import ArrayReader, ConcatenationReader, Read, SubsetReader, array_behind
from skood._estimator.internal import internal

__all__ = ["NUMBERS", "CheckedData", "CheckedFields"]

# Kinds of numeric dtypes.
NUMBERS = "biuf"

# Attributes that cache results of networks; pickles omit them.
_NETWORK_CACHES = "network_outputs", "network_readings"


class CheckedData:
    r"""One interface to rows, images or items of another shape, in memory or streamed.

    Parameters
    ----------
    read : callable
        Takes an integer array of length b and returns an array of shape (b, \*item_shape).
    n_items : int
        Number of items.
    item_shape : tuple of int
        (d,) for rows, (C, H, W) for images.
    dtype : numpy dtype
        float16 becomes float32, the dtype in which such data are read.
    in_memory : bool
        Whether the data are already in memory, so that reading them all needs no more of it.
    came_as : tuple of int, default=None
        Shape of an item as the user gave it; None: `item_shape`.
    channels_last : bool, default=False
        Whether the user gave items as (H, W, C); `item_shape` is always (C, H, W).
    read_labels : callable, default=None
        Reads the labels that come with the items, if there are any.
    given : Given, default=None
        The rows in the user's container, if it is not a numeric array.

    Examples
    --------
    >>> import numpy as np
    >>> from skood import share_forward_pass
    >>> data = share_forward_pass(np.arange(6.0).reshape(3, 2))
    >>> len(data), data.item_shape
    (3, (2,))
    >>> data.subset([2, 0]).rows()
    array([[4., 5.],
           [0., 1.]])
    """

    def __init__(
        self,
        read: Read,
        n_items: int,
        item_shape: Any,
        dtype: npt.DTypeLike,
        *,
        in_memory: bool,
        came_as: tuple[int, ...] | None = None,
        channels_last: bool = False,
        read_labels: Read | None = None,
        given: Given | None = None,
    ) -> None:
        self._read = read
        self._n_items = n_items
        self.item_shape = item_shape
        dtype = np.dtype(dtype).newbyteorder("=")
        self.dtype = np.dtype(np.float32) if dtype == np.float16 else dtype
        self.in_memory = in_memory
        self.came_as = item_shape if came_as is None else came_as
        self.channels_last = channels_last
        self._read_labels = read_labels
        self.given = given
        # Outputs of networks for these items, so that no forward pass is repeated.
        self.network_outputs: WeakKeyDictionary[Any, Any] = WeakKeyDictionary()
        # How to read the outputs of networks, found by trying them on these items.
        self.network_readings: WeakKeyDictionary[Any, Any] = WeakKeyDictionary()
        self.parent: tuple[CheckedData, npt.NDArray[np.integer]] | None = None

    @classmethod
    @internal
    def of(
        cls,
        data: npt.NDArray,
        came_as: tuple[int, ...] | None = None,
        *,
        channels_last: bool = False,
        given: Given | None = None,
    ) -> CheckedData:
        """Wrap an array of shape (n, d), (n, C, H, W) or (n, ...)."""
        in_memory = not isinstance(owner_of(data), np.memmap)
        return cls(
            ArrayReader(data),
            len(data),
            data.shape[1:],
            data.dtype,
            in_memory=in_memory,
            came_as=came_as,
            channels_last=channels_last,
            given=given,
        )

    @classmethod
    @internal
    def concatenate(cls, parts: Sequence[CheckedData]) -> CheckedData:
        """Concatenate several data sets whose items have the same shape."""
        return cls(
            ConcatenationReader([part.take for part in parts], [len(part) for part in parts]),
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
        return {**vars(self), **dict.fromkeys(_NETWORK_CACHES), "parent": None}

    def __setstate__(self, state: dict[str, Any]) -> None:
        vars(self).update(state, **{name: WeakKeyDictionary() for name in _NETWORK_CACHES})

    @property
    def frame(self) -> Any:
        """The data frame that contains the rows; None if X is not a data frame."""
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
        """Shape or fields of X, for error messages."""
        return f"shape {(len(self), *self.came_as)}"

    @property
    def has_labels(self) -> bool:
        """Whether labels may come with the items."""
        return self._read_labels is not None

    @property
    def labels(self) -> npt.NDArray | None:
        """The labels that come with the items, shape (n,), or None."""
        return None if self._read_labels is None else self._read_labels(np.arange(len(self)))

    @internal
    def check_read(self) -> None:
        """Raise an error if X could not be read as numbers."""

    @internal
    def check_rows_or_images(self, name: str) -> None:
        """Raise an error if the items have another shape, which `name` does not accept."""
        self.check_read()
        if not self.is_rows_or_images:
            raise ValueError(
                f"X has {self.description}; expected rows (n, d) or images (n, H, W), "
                f"(n, C, H, W) or (n, H, W, C), since {name} accepts nothing else. Items of "
                "another shape need a network of your own: give the trained torch module, or "
                "PretrainedClassifier(module)"
            )

    def take(self, indices: npt.NDArray[np.integer]) -> Any:
        r"""Read the items at given indices.

        Parameters
        ----------
        indices : ndarray of int

        Returns
        -------
        ndarray of shape (len(indices), \*item_shape), or dict of str to ndarray
            In C order and native byte order, whatever the layout of X.
        """
        return in_c_order(self._read(indices), (len(indices), *self.item_shape))

    @internal
    def take_as_given(self, indices: npt.NDArray[np.integer]) -> Any:
        r"""Return the items at `indices` in the container and the shape that the user gave."""
        if self.given is not None:
            return self.given.take(indices)
        items = self.take(indices)
        if self.channels_last:
            return np.moveaxis(items, 1, -1)
        return items.reshape(len(indices), *self.came_as)

    @internal
    def given_as(self, came_as: tuple[int, ...], channels_last: bool) -> CheckedData:
        """Return the same data as if the user had given them in another shape."""
        if (came_as, channels_last) == (self.came_as, self.channels_last):
            return self
        data = copy.copy(self)
        # copy.copy omits these, as pickles do.
        vars(data).update({name: getattr(self, name) for name in (*_NETWORK_CACHES, "parent")})
        data.came_as, data.channels_last = came_as, channels_last
        # The user's container has its axes in another order.
        data.given = None
        return data

    def subset(self, indices: npt.NDArray[np.integer]) -> CheckedData:
        """Select items lazily; they are read on access.

        Parameters
        ----------
        indices : array-like of int

        Returns
        -------
        CheckedData
        """
        indices = np.asarray(indices)
        part = type(self)(
            SubsetReader(self._read, indices),
            len(indices),
            self.item_shape,
            self.dtype,
            in_memory=self.in_memory,
            came_as=self.came_as,
            channels_last=self.channels_last,
            read_labels=self._read_labels and SubsetReader(self._read_labels, indices),
            given=None if self.given is None else self.given.subset(indices),
        )
        part.parent = self, indices
        return part

    @internal
    def rows_in(self, whole: CheckedData) -> npt.NDArray[np.integer] | None:
        """Return the rows of `whole` that these items are a subset of; None if they are all."""
        if self is whole:
            return None
        assert self.parent is not None, "not a subset"
        parent, rows = self.parent
        of_parent = parent.rows_in(whole)
        return rows if of_parent is None else of_parent[rows]

    @internal
    def like(self, items: npt.NDArray) -> CheckedData:
        """Wrap other items of the same shape in a container of the same type."""
        given = None if self.given is None or self.frame is None else self.given.like(items)
        return CheckedData.of(items, self.came_as, channels_last=self.channels_last, given=given)

    @internal
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
        """Iterate over all items in order.

        Parameters
        ----------
        size : int, default=4096
            Number of items per chunk; the last chunk may be smaller.

        Yields
        ------
        ndarray of shape (size, ...), or dict of str to ndarray
        """
        for rows in row_slices(len(self), size):
            yield self.take(np.arange(rows.start, rows.stop))

    @internal
    def content(self) -> str:
        """Return a hash of all items, which is the same in every process."""
        return joblib.hash([joblib.hash(np.ascontiguousarray(items)) for items in self.chunks()])

    def rows(self) -> npt.NDArray:
        """Return all items as one array of flat rows.

        Returns
        -------
        ndarray of shape (n_items, n_values)

        Raises
        ------
        ValueError
            If X is neither rows nor images.
        """
        self._check_flat()
        return self.take(np.arange(len(self))).reshape(len(self), -1)

    @internal
    def lazy_rows(self) -> Any:
        """Return all items as flat rows: a view of an array, or rows that are read on access."""
        self._check_flat()
        array = array_behind(self._read)
        if array is None:
            return self.rows()
        is_plain = array.flags.c_contiguous and array.dtype == self.dtype
        if is_plain and isinstance(self._read, ArrayReader):
            return np.asarray(array).reshape(len(self), -1)

        def read(rows: slice | npt.NDArray[np.integer]) -> npt.NDArray:
            if isinstance(rows, slice):
                rows = np.arange(rows.start, rows.stop)
            return self.take(rows).reshape(len(rows), -1)

        shape = len(self), self.n_values
        return LazyRows(read, shape, self.dtype, on_disk=is_on_disk(array))

    def _check_flat(self) -> None:
        """Raise an error if the items cannot be flat rows."""
        self.check_read()
        if not self.is_rows_or_images:
            raise ValueError(
                f"X has {self.description}; expected rows (n, d) or images (n, H, W), "
                "(n, C, H, W) or (n, H, W, C), since a model other than your own network reads "
                "flat rows: give a trained torch module or a transformer that accepts such items, "
                "or precomputed features"
            )


class CheckedFields(CheckedData):
    """Items that are dicts of arrays, as tokenizers and processors return them.

    ``item_shape`` is a dict of shapes, and ``take`` returns a dict of arrays. Only a user's own
    network accepts them, with the fields as keyword arguments. Lengths may differ between batches.
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
        return {
            name: in_c_order(values, values.shape) for name, values in self._read(indices).items()
        }

    def take_as_given(self, indices: npt.NDArray[np.integer]) -> dict[str, npt.NDArray]:
        return self.take(indices)

    def content(self) -> str:
        return joblib.hash(
            [
                joblib.hash({name: np.ascontiguousarray(a) for name, a in sorted(items.items())})
                for items in self.chunks()
            ]
        )
