"""Raw items of X: images, texts, waveforms or rows of token ids, before any preprocessing."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from pathlib import PurePath
from typing import Any

import joblib
import numpy as np
import numpy.typing as npt
import scipy.sparse
from torch.utils.data import DataLoader, Dataset, IterableDataset, Subset

from skood._data.checked_data import CheckedData
from skood._data.chunks import row_slices
from skood._data.fields import open_fields
from skood._data.given import is_frame
from skood._data.streams import dataset_of, split_label, stream_behind

__all__ = ["Items", "open_items"]

# Items that are hashed at once.
_CHUNK = 256

_Rows = npt.NDArray[np.integer]


class Items:
    """Items of X in the form that the user gave, read when they are needed.

    Parameters
    ----------
    take : callable
        Takes an integer array and returns a list of items, or a dict of arrays for token fields.
    n_items : int
    has_fields : bool, default=False
        Whether `take` returns a dict of arrays.
    """

    def __init__(self, take: Callable[[_Rows], Any], n_items: int, has_fields: bool = False):
        self.take = take
        self.n_items = n_items
        self.has_fields = has_fields

    def __len__(self) -> int:
        return self.n_items

    def subset(self, rows: _Rows) -> Items:
        return Items(_Selected(self, rows), len(rows), self.has_fields)

    def content(self, identity: Callable[[Any], Any]) -> str:
        """Return a hash of all items.

        Parameters
        ----------
        identity : callable
            Takes an item, and returns what is hashed in its place.
        """
        parts = []
        for rows in row_slices(len(self), _CHUNK):
            items = self.take(np.arange(rows.start, rows.stop))
            parts.append(joblib.hash(items if self.has_fields else list(map(identity, items))))
        return joblib.hash(parts)


class _Sequence:
    """Reads items of a list, an array or a Dataset, without labels."""

    def __init__(self, items: Any) -> None:
        self.items = items

    def __call__(self, rows: _Rows) -> list[Any]:
        return [self.items[int(row)] for row in rows]


class _OfDataset(_Sequence):
    def __call__(self, rows: _Rows) -> list[Any]:
        return [_only_field(split_label(self._item(int(row)))[0]) for row in rows]

    def _item(self, row: int) -> Any:
        try:
            return self.items[row]
        except Exception as error:
            raise ValueError(
                f"item {row} of the Dataset X cannot be read, {type(error).__name__}: {error}; fix "
                "the Dataset, or leave the item out with torch.utils.data.Subset"
            ) from error


class _OfCheckedData:
    def __init__(self, data: CheckedData) -> None:
        self.data = data

    def __call__(self, rows: _Rows) -> Any:
        return list(self.data.take(rows))


class _OfFields(_OfCheckedData):
    def __call__(self, rows: _Rows) -> Any:
        return self.data.take(rows)


class _Selected:
    def __init__(self, items: Items, rows: _Rows) -> None:
        self.items, self.rows = items, rows

    def __call__(self, rows: _Rows) -> Any:
        return self.items.take(self.rows[rows])


def open_items(X: Any) -> Items:
    """Return the items of X.

    Parameters
    ----------
    X : list, array, Series, Dataset, DataLoader, dict or CheckedData
        A Dataset may return pairs of an item and a label; labels are left out.

    Raises
    ------
    ValueError
        If X is empty, is a single item, or has no items that can be read by their index.
    """
    items = _open(X)
    if not len(items):
        raise ValueError("X is empty: found 0 items, expected at least 1")
    return items


def _open(X: Any) -> Items:
    if isinstance(X, CheckedData):
        return _of_checked(X)
    if isinstance(X, Mapping) and not scipy.sparse.issparse(X):
        fields = open_fields(X, 1)
        return Items(_OfFields(fields), len(fields), has_fields=True)
    if isinstance(X, (Dataset, DataLoader)) or hasattr(X, "column_names"):
        return _of_dataset(dataset_of(X))
    if isinstance(X, (str, bytes, PurePath)) or hasattr(X, "getbands"):
        raise ValueError(
            f"X is one item of type {type(X).__name__}; give a list of items, for one item [X]. "
            "The images of a folder are torchvision.datasets.ImageFolder(path), or a list of paths "
            'such as sorted(pathlib.Path(path).rglob("*.png"))'
        )
    if is_frame(X):
        if len(X.columns) != 1:
            raise ValueError(
                f"X is a data frame with {len(X.columns)} columns, of which an extractor reads "
                "one; select it, such as X['text'], or use a ColumnTransformer"
            )
        X = X[X.columns[0]]
    if hasattr(X, "to_numpy"):
        # The index of a Series may have numbers in another order.
        X = X.to_numpy()
    if isinstance(X, Iterator) or not (hasattr(X, "__len__") and hasattr(X, "__getitem__")):
        raise ValueError(
            f"X is of type {type(X).__name__}, whose items have no index; give a list of items"
        )
    if not getattr(X, "shape", (0,)):
        raise ValueError("X is an array without axes; give a list of items")
    return Items(_Sequence(X), len(X))


def _of_checked(data: CheckedData) -> Items:
    if data.given is not None:
        items, rows = _open(data.given.X), data.given.rows
        return items if rows is None else items.subset(rows)
    stream = stream_behind(data)
    if stream is not None:
        dataset, rows = stream
        return _of_dataset(dataset).subset(rows)
    if data.has_fields:
        return Items(_OfFields(data), len(data), has_fields=True)
    return Items(_OfCheckedData(data), len(data))


def _of_dataset(dataset: Any) -> Items:
    if isinstance(dataset, IterableDataset) or not hasattr(dataset, "__len__"):
        raise ValueError(
            f"X is a {type(dataset).__name__}, whose items can be read in one order only; expected "
            "a Dataset with __getitem__ and __len__"
        )
    if isinstance(dataset, Subset):
        return _of_dataset(dataset.dataset).subset(np.asarray(dataset.indices, dtype=np.int64))
    paths = _image_paths(dataset)
    if paths is not None:
        return Items(_Sequence(paths), len(paths))
    return Items(_OfDataset(dataset), len(dataset))


def _image_paths(dataset: Any) -> list[str] | None:
    """Return the files of an ImageFolder that does not transform its images.

    Their content can be hashed without decoding them.
    """
    from torchvision.datasets import ImageFolder
    from torchvision.datasets.folder import default_loader

    plain = type(dataset) is ImageFolder and dataset.loader is default_loader
    if not plain or dataset.transform is not None or dataset.transforms is not None:
        return None
    return [path for path, _ in dataset.samples]


def _only_field(item: Any) -> Any:
    """Return the value of a dict with one field; waveforms and token ids have several."""
    if not isinstance(item, Mapping) or "input_ids" in item or "array" in item:
        return item
    if len(item) == 1:
        return next(iter(item.values()))
    raise ValueError(
        f"the items of X are dicts with the fields {sorted(map(str, item))}, of which an extractor "
        "reads one; give the field, such as X['image'] or X['text']"
    )
