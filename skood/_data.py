"""Input validation: the accepted forms of X and how they are checked."""

from __future__ import annotations

from collections import Counter
from typing import Any

import numpy as np
import numpy.typing as npt
import scipy.sparse
from sklearn.base import BaseEstimator
from sklearn.utils import _safe_indexing, check_array
from sklearn.utils.validation import validate_data
from torch import Tensor
from torch.utils.data import Dataset, IterableDataset

from skood._checked_data import NUMBERS, CheckedData, DatasetReader, channels_first, from_torch

__all__ = [
    "check_data",
    "check_in_range",
    "check_scores",
    "resolve_value_range",
    "share_forward_pass",
    "take_rows",
]


def _of_numbers(X: Any) -> Any:
    """Return X as an array, a data frame unchanged; unlike numpy's, the errors name X."""
    if scipy.sparse.issparse(X) or (isinstance(X, np.ndarray) and X.dtype.kind in NUMBERS):
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
    """Raise for a data frame with duplicate column names or non-numeric columns."""
    names = list(frame.columns)
    repeated = [name for name, count in Counter(names).items() if count > 1]
    if repeated:
        raise ValueError(
            f"X is a data frame with several columns of the name {repeated[0]!r}; give every "
            "column a name of its own"
        )
    for name in names:
        column = frame[name]
        if getattr(column.dtype, "kind", "O") in NUMBERS:
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


def check_data(
    estimator: BaseEstimator, X: Any, *, reset: bool, min_samples: int = 1
) -> CheckedData:
    """Check X and return it as a :class:`CheckedData`.

    Sets ``n_features_in_``, ``input_shape_`` and, for data frames, ``feature_names_in_`` on
    `estimator` if `reset`; otherwise checks that X matches them.

    Parameters
    ----------
    estimator : BaseEstimator
    X : array-like, Tensor, Dataset or CheckedData
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
    data = _open(estimator, X, reset=reset, min_samples=min_samples)
    if reset:
        estimator.input_shape_ = data.item_shape
        estimator.n_features_in_ = int(np.prod(data.item_shape))
    elif data.item_shape != estimator.input_shape_:
        raise ValueError(
            f"X has items of shape {data.item_shape}, but {type(estimator).__name__} was fitted "
            f"on items of shape {estimator.input_shape_} (images are counted as (C, H, W))"
        )
    return data


def share_forward_pass(X: Any) -> CheckedData:
    """Wrap data so that each network runs over them only once.

    The first detector that is fitted on the result, or scores it, computes the logits and
    features; later detectors with the same network reuse them.

    Parameters
    ----------
    X : array-like, Tensor or Dataset of shape (n_samples, ...)
        Not to be changed while it is shared.

    Returns
    -------
    CheckedData
        Accepted in place of X by every estimator of this package.

    Examples
    --------
    >>> from sklearn.datasets import load_iris
    >>> from sklearn.frozen import FrozenEstimator
    >>> from skood import MLP, MSP, Energy, share_forward_pass
    >>> X, y = load_iris(return_X_y=True)
    >>> network = FrozenEstimator(MLP(max_epochs=2, random_state=0).fit(X, y))
    >>> shared = share_forward_pass(X)
    >>> scores = [method(network).fit(shared).score_samples(shared) for method in (MSP, Energy)]
    """
    return _open(BaseEstimator(), X, reset=True, min_samples=1)


def take_rows(X: Any, rows: npt.NDArray[np.integer]) -> Any:
    """Return rows of X in the type of X; rows of a Dataset as checked data, which are streamed."""
    if isinstance(X, (CheckedData, Dataset)):
        return share_forward_pass(X).subset(rows)
    return _safe_indexing(X, rows)


def _open(estimator: BaseEstimator, X: Any, *, reset: bool, min_samples: int) -> CheckedData:
    if isinstance(X, CheckedData):
        return X
    if isinstance(X, Dataset):
        return _open_dataset(X, min_samples)
    X = from_torch(X) if isinstance(X, Tensor) else _of_numbers(X)
    if len(X.shape) <= 2:
        return CheckedData.of(
            validate_data(estimator, X, reset=reset, ensure_min_samples=min_samples)
        )
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
    return CheckedData.of(channels_first(images))


def _open_dataset(dataset: Dataset, min_samples: int) -> CheckedData:
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
    stream = DatasetReader(dataset)
    first = stream.first
    if not first.size:
        raise ValueError(f"the Dataset X has items of shape {first.shape}, without any values")
    if first.ndim not in (1, 3):
        raise ValueError(
            f"the Dataset X has items of shape {first.shape}; expected rows (d,) or images "
            "(H, W), (C, H, W) or (H, W, C)"
        )
    return CheckedData(stream, n_items, first.shape, first.dtype, in_memory=False)


def resolve_value_range(data: CheckedData, value_range: Any) -> tuple[float, float]:
    """Return the values of black and white.

    Parameters
    ----------
    data : CheckedData
    value_range : None, (low, high) or "minmax"
        None means 0..255 for uint8 and 0..1 for floats; "minmax" reads the range of `data`.

    Raises
    ------
    ValueError
        When the range cannot be inferred from the dtype, or is empty.
    """
    if isinstance(value_range, str):
        extremes = np.array([(float(b.min()), float(b.max())) for b in data.chunks()])
        low, high = float(extremes[:, 0].min()), float(extremes[:, 1].max())
        # The range of constant data would be empty; any non-empty range maps them to one level.
        return low, high if low < high else low + max(1.0, abs(low))
    if value_range is not None:
        if len(value_range) != 2 or not value_range[0] < value_range[1]:
            raise ValueError(f"value_range={value_range!r} must be (low, high) with low < high")
        return float(value_range[0]), float(value_range[1])
    if data.dtype == np.uint8:
        return 0.0, 255.0
    if data.dtype.kind == "f":
        return 0.0, 1.0
    raise ValueError(
        f"pixels of dtype {data.dtype} have no range of their own: give value_range=(low, high), "
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
