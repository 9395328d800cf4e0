"""Checks of X that is read item by item: torch Datasets and DataLoaders."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, NoReturn

import numpy as np
import numpy.typing as npt
from torch import Tensor
from torch.utils.data import (
    DataLoader,
    Dataset,
    IterableDataset,
    RandomSampler,
    SequentialSampler,
    default_collate,
    default_convert,
)

from skood._data.channels import channels_first
from skood._data.checked_data import NUMBERS, CheckedData, CheckedFields
from skood._data.masks import without_mask
from skood._data.memory_layout import from_torch
from skood._data.readers import SubsetReader

__all__ = ["dataset_of", "is_stream", "open_stream", "split_label", "stream_behind"]

# Keys of a label in an item that is a dict.
_LABELS = ("label", "labels")


def is_stream(X: Any) -> bool:
    """Whether X is a Dataset or DataLoader of torch, or a Dataset of Hugging Face."""
    if isinstance(X, (Dataset, DataLoader)):
        return True
    # Hugging Face's Dataset has the interface of torch's without its base class.
    return hasattr(X, "column_names") and isinstance(_first(X), Mapping)


def _first(X: Any) -> Any:
    try:
        return X[0]
    except Exception:
        return None


def open_stream(
    X: Any, min_samples: int, are_last: Callable[[tuple[int, ...]], bool]
) -> CheckedData:
    """Check a Dataset or DataLoader, and return it as :class:`CheckedData`.

    Parameters
    ----------
    X : Dataset or DataLoader
        The dataset of a DataLoader is read in its own order. If the DataLoader has a custom
        ``collate_fn``, this function makes every batch.
    min_samples : int
    are_last : callable
        Takes the shape of images, and returns whether their channels are in the last axis.

    Raises
    ------
    ValueError
        If items cannot be read by index, are too few or are not numeric.
    """
    dataset, collate = (X, None) if not isinstance(X, DataLoader) else _parts(X)
    if isinstance(dataset, IterableDataset):
        raise ValueError(
            f"X is a {type(dataset).__name__}, an IterableDataset, whose items can be read in one "
            "order only; expected a Dataset with __getitem__ and __len__"
        )
    if not hasattr(dataset, "__len__"):
        raise ValueError(
            f"X is a {type(dataset).__name__}, a Dataset without __len__; add __len__, which "
            "returns the number of items"
        )
    n_items = len(dataset)
    if n_items < min_samples:
        raise ValueError(
            f"Found Dataset with {n_items} sample(s) while a minimum of {min_samples} is required "
            "of X"
        )
    reader = _Reader(dataset, are_last) if collate is None else _Collated(dataset, collate)
    first = reader.first
    if isinstance(first, dict):
        shapes = {name: values.shape for name, values in first.items()}
        return CheckedFields(
            reader, n_items, shapes, object, in_memory=False, read_labels=reader.labels
        )
    if not first.ndim or not first.size:
        raise ValueError(
            f"the Dataset X has items of shape {first.shape}; expected rows (d,), images (H, W), "
            "(C, H, W) or (H, W, C), or items of your own network"
        )
    return CheckedData(
        reader,
        n_items,
        first.shape,
        first.dtype,
        in_memory=False,
        came_as=reader.came_as,
        channels_last=reader.channels_last,
        read_labels=reader.labels,
    )


def _parts(loader: DataLoader) -> tuple[Dataset, Callable | None]:
    """Return the dataset of a DataLoader, and its ``collate_fn`` if it is a custom one."""
    sampler: Any = loader.sampler
    whole = isinstance(sampler, (SequentialSampler, RandomSampler))
    if not isinstance(loader.dataset, IterableDataset) and not (
        whole and len(sampler) == len(loader.dataset)
    ):
        raise ValueError(
            f"X is a DataLoader whose {type(sampler).__name__} may leave items out or repeat them, "
            "so that scores could not be matched to items; give X.dataset, or a "
            "torch.utils.data.Subset of it"
        )
    collate = loader.collate_fn
    return loader.dataset, None if collate in (default_collate, default_convert) else collate


def dataset_of(X: Any) -> Any:
    """Return the dataset of a DataLoader, or X itself, for a model that reads the items unchanged.

    Raises
    ------
    ValueError
        If a custom ``collate_fn`` changes the items, or the sampler may omit or repeat some.
    """
    if not isinstance(X, DataLoader):
        return X
    dataset, collate = _parts(X)
    if collate is not None:
        _refuse_collate()
    return dataset


def stream_behind(data: CheckedData) -> tuple[Any, npt.NDArray[np.integer]] | None:
    """Return the Dataset behind data that are streamed, and the index of each item in it."""
    read: Any = data._read
    rows = np.arange(len(data))
    while isinstance(read, SubsetReader):
        read, rows = read.read, read.indices[rows]
    if isinstance(read, _Collated):
        _refuse_collate()
    return (read.dataset, rows) if isinstance(read, _Reader) else None


def _refuse_collate() -> NoReturn:
    raise ValueError(
        "X is a DataLoader with a collate_fn of its own, but the model preprocesses the items "
        "itself; give X.dataset"
    )


class _Reader:
    """Reads items from a Dataset: x, (x, label) or a dict of fields."""

    def __init__(self, dataset: Dataset, are_last: Callable[[tuple[int, ...]], bool]) -> None:
        self.dataset = dataset
        self.channels_last = False
        first = self._given(0)
        self.came_as = None if isinstance(first, dict) else first.shape
        if not isinstance(first, dict) and first.ndim == 3:
            self.channels_last = are_last((1, *first.shape))
        self.first = self._laid_out(first)

    def _given(self, index: int) -> Any:
        """Read one item in the shape that the Dataset returns."""
        try:
            item, _ = split_label(self.dataset[index])
            values = _arrays(item)
        except Exception as error:
            raise ValueError(
                f"item {index} of the Dataset X cannot be read, {type(error).__name__}: {error}; "
                "fix the Dataset, or leave the item out with torch.utils.data.Subset"
            ) from error
        _check_numbers(values, f"item {index} of the Dataset X", type(item).__name__)
        return values

    def _laid_out(self, values: Any) -> Any:
        if isinstance(values, dict) or values.ndim not in (2, 3):
            return values
        return channels_first(values[None], "last" if self.channels_last else "first")[0]

    def labels(self, indices: npt.NDArray[np.integer]) -> npt.NDArray | None:
        dataset: Any = self.dataset
        if _is_plain_folder(dataset):
            # Without decoding the images.
            return _stacked([dataset.targets[int(i)] for i in indices])
        return _stacked([split_label(dataset[int(i)])[1] for i in indices])

    def __call__(self, indices: npt.NDArray[np.integer]) -> Any:
        items = [self._laid_out(self._given(int(i))) for i in indices]
        for index, item in zip(indices, items, strict=True):
            _check_alike(item, self.first, index)
        if not isinstance(self.first, dict):
            return _finite(np.stack(items))
        return {name: _finite(np.stack([item[name] for item in items])) for name in self.first}


def _is_plain_folder(dataset: Any) -> bool:
    """Whether labels are those that an ImageFolder has found."""
    from torchvision.datasets import ImageFolder

    return type(dataset) is ImageFolder and dataset.target_transform is None


class _Collated:
    """Reads batches that the ``collate_fn`` of a DataLoader makes of a Dataset's items."""

    channels_last = False

    def __init__(self, dataset: Dataset, collate: Callable) -> None:
        self.dataset = dataset
        self.collate = collate
        batch = self.batch(np.arange(1))[0]
        if isinstance(batch, dict):
            self.first: Any = {name: values[0] for name, values in batch.items()}
            self.came_as = None
        else:
            self.came_as = batch.shape[1:]
            self.first = self(np.arange(1))[0]

    def batch(self, indices: npt.NDArray[np.integer]) -> tuple[Any, Any]:
        try:
            x, y = split_label(self.collate([self.dataset[int(i)] for i in indices]))
            values = _arrays(x)
        except Exception as error:
            raise ValueError(
                f"the collate_fn of the DataLoader X failed for a batch of {len(indices)} items, "
                f"{type(error).__name__}: {error}; fix it, or give X.dataset"
            ) from error
        _check_numbers(values, "a batch of the DataLoader X", type(x).__name__)
        for part in values.values() if isinstance(values, dict) else [values]:
            if not part.ndim or len(part) != len(indices):
                raise ValueError(
                    f"the collate_fn of the DataLoader X returns shape {part.shape} for "
                    f"{len(indices)} items; expected one row for each item"
                )
        return values, y

    def labels(self, indices: npt.NDArray[np.integer]) -> npt.NDArray | None:
        # One by one, so that a label does not depend on the other items of its batch.
        labels = [self.batch(np.array([i]))[1] for i in indices]
        return _stacked([None if label is None else label[0] for label in labels])

    def __call__(self, indices: npt.NDArray[np.integer]) -> Any:
        values, _ = self.batch(indices)
        if isinstance(values, dict):
            return {name: _finite(part) for name, part in values.items()}
        if values.shape[1:] != self.came_as:
            raise ValueError(
                f"the collate_fn of the DataLoader X returns items of shape {values.shape[1:]} and "
                f"{self.came_as}; pad them to one length, or return a dict of fields, such as "
                "input_ids and attention_mask"
            )
        return _finite(channels_first(values) if values.ndim in (3, 4) else values)


def split_label(item: Any) -> tuple[Any, Any]:
    """Separate an item from its label, or None if it has no label."""
    if isinstance(item, Mapping):
        label = next((item[name] for name in _LABELS if name in item), None)
        return {name: value for name, value in item.items() if name not in _LABELS}, label
    if isinstance(item, (tuple, list)):
        return item[0], item[1] if len(item) == 2 else None
    return item, None


def _arrays(item: Any) -> Any:
    if isinstance(item, dict):
        return {name: _arrays(value) for name, value in item.items()}
    return (
        from_torch(item) if isinstance(item, Tensor) else np.asarray(without_mask(item, "the item"))
    )


def _check_numbers(values: Any, where: str, kind: str) -> None:
    for name, part in values.items() if isinstance(values, dict) else [(None, values)]:
        if part.dtype.kind in NUMBERS:
            continue
        if name is not None:
            raise ValueError(
                f"the field {name!r} of {where} has dtype {part.dtype}; expected numbers: leave "
                "the field out"
            )
        raise ValueError(
            f"{where} is of type {kind} and dtype {part.dtype}; expected a numeric array or "
            "tensor, a tuple that begins with one, or a dict of them"
        )


def _check_alike(item: Any, first: Any, index: int) -> None:
    if isinstance(first, dict):
        shapes = {name: values.shape for name, values in item.items()}
        expected = {name: values.shape for name, values in first.items()}
        advice = "bring all items to one shape, or give a DataLoader with a collate_fn that pads"
    else:
        shapes, expected = item.shape, first.shape
        advice = (
            "bring all items to one shape: resize and crop images in the Dataset's transform, or "
            "give them as they are to an extractor of skood.embeddings"
        )
    if shapes != expected:
        raise ValueError(
            f"item {index} of the Dataset X has shape {shapes}, but item 0 has {expected}; {advice}"
        )


def _finite(batch: npt.NDArray) -> npt.NDArray:
    if batch.dtype.kind == "f" and not np.isfinite(batch).all():
        raise ValueError("the Dataset X contains NaN or infinity; remove or impute those items")
    return batch


def _stacked(labels: list[Any]) -> npt.NDArray | None:
    """Return labels as an array, or None if an item has no label."""
    if any(label is None for label in labels):
        return None
    labels = [
        label.item() if isinstance(label, Tensor) and not label.ndim else label for label in labels
    ]
    for label in labels:
        if np.ndim(label) or not isinstance(label, (str, int, float, np.generic)):
            raise ValueError(
                "the Dataset X returns pairs whose second part is no label, but of type "
                f"{type(label).__name__}; give the labels as y"
            )
    return np.asarray(labels)
