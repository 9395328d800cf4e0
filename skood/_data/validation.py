"""Input validation: the forms of X that are accepted, and their checks."""

from __future__ import annotations

import numbers
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import scipy.sparse
from sklearn.base import BaseEstimator
from sklearn.frozen import FrozenEstimator
from sklearn.utils import _safe_indexing, check_array
from sklearn.utils.validation import validate_data
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from skood._data.arrays import as_numbers, is_finite_half, naming_rows
from skood._data.channels import CHANNELS, channels_are_last, channels_first
from skood._data.checked_data import CheckedData
from skood._data.fields import open_fields
from skood._data.given import Given, is_frame
from skood._data.masks import without_mask
from skood._data.memory_layout import check_not_nested, from_torch
from skood._data.streams import is_stream, open_stream
from skood._data.unread_data import UnreadData

__all__ = [
    "check_data",
    "check_in_range",
    "check_scores",
    "resolve_value_range",
    "share_as_it_came",
    "share_forward_pass",
    "take_rows",
]

# Dtypes that need no conversion.
_PLAIN = np.dtype(np.float32), np.dtype(np.float64), np.dtype(np.uint8)


def check_data(
    estimator: BaseEstimator,
    X: Any,
    *,
    reset: bool,
    min_samples: int = 1,
    any_shape: bool = False,
    as_it_came: bool = False,
    checks_columns: bool = True,
    channels: str | None = None,
    any_length: bool = False,
) -> CheckedData:
    """Check X and return it as :class:`CheckedData`.

    If `reset`, sets ``n_features_in_``, ``input_shape_`` and, for data frames,
    ``feature_names_in_`` on `estimator`; otherwise checks that X matches them.

    Parameters
    ----------
    estimator : BaseEstimator
    X : array-like, Tensor, Dataset, DataLoader, Mapping or CheckedData
        Rows (n, d), or images (n, H, W), (n, C, H, W) or (n, H, W, C); channels are last if the
        last axis has length 1 or 3 and the second has not. If `any_shape`, items may also have
        another shape or be dicts of arrays.
    reset : bool
        True in `fit`.
    min_samples : int
    any_shape : bool, default=False
        Whether items may have any shape, because the user's own network may read them.
    as_it_came : bool, default=False
        Whether a third-party model reads X. X may then be anything with rows: data frames with any
        columns, texts, sparse matrices, missing values. The error of reading X as numbers is raised
        only where numbers are needed.
    checks_columns : bool, default=True
        Whether to compare the columns of a data frame with the columns in `fit`. False if a model
        inside `estimator` checks them, since it may need only some of them.
    channels : {"first", "last"} or None, default=None
        Axis of the channels of images. None: the parameter ``channels`` of `estimator` or of a
        model inside it, or else inferred from the shape.
    any_length : bool, default=False
        Whether a model of sequences reads and checks X: lengths may differ from those in `fit`.

    Raises
    ------
    ValueError
        If X is empty, has fewer than `min_samples` items, contains NaN or infinity, or has a shape
        that differs from the shape in `fit` or that `estimator` does not accept.
    """
    if any_length:
        return _check_sequences(estimator, X, reset, min_samples, as_it_came)
    expected = None if reset else estimator.input_shape_
    if reset and channels is None and not isinstance(X, CheckedData):
        channels = _stated_channels(estimator)
    checks = _Checks(estimator, reset, min_samples, channels, as_it_came, checks_columns)
    data = _open(X, checks)
    if not as_it_came:
        data.check_read()
    if isinstance(X, CheckedData):
        checks.check_columns(data.given)
    if not any_shape and not isinstance(data, UnreadData):
        data.check_rows_or_images(type(estimator).__name__)
    if reset:
        estimator.input_shape_ = data.item_shape
        estimator._given_as = data.came_as, data.channels_last
        if data.item_shape:
            estimator.n_features_in_ = data.n_values
        else:
            # Texts have no features.
            vars(estimator).pop("n_features_in_", None)
        return data
    if data.frame is not None and not checks_columns:
        return data
    if not _fits(data.item_shape, expected):
        data.check_read()
        shape = tuple(getattr(X, "shape", ()))
        is_item = isinstance(expected, tuple) and shape in (expected, expected[1:] + expected[:1])
        hint = "; if X is one item, give X[None]" if shape and is_item else ""
        raise ValueError(
            f"X has items of shape {data.item_shape}, but {type(estimator).__name__} was fitted "
            f"on items of shape {expected} (images are counted as (C, H, W)){hint}"
        )
    if not data.has_fields:
        # The user's transformers get the axes in the order of `fit`.
        data = data.given_as(*getattr(estimator, "_given_as", (data.came_as, data.channels_last)))
    return data


def _check_sequences(
    estimator: BaseEstimator, X: Any, reset: bool, min_samples: int, as_it_came: bool
) -> CheckedData:
    """Check X that a model of sequences reads, which checks the sequences itself."""
    data = _open(X, _Checks(BaseEstimator(), True, min_samples, None, as_it_came))
    if not as_it_came:
        data.check_read()
    if reset:
        estimator.input_shape_ = ()
        for name in ("n_features_in_", "feature_names_in_"):
            vars(estimator).pop(name, None)
    return data


@dataclass(frozen=True)
class _Checks:
    """Some of the parameters of :func:`check_data`."""

    estimator: BaseEstimator
    reset: bool
    min_samples: int
    channels: str | None
    as_it_came: bool
    checks_columns: bool = True

    @property
    def fitted(self) -> Any:
        """The estimator if it is already fitted, or None."""
        return None if self.reset else self.estimator

    def of_rows(self, X: Any) -> npt.NDArray:
        """Check rows of numbers and their columns."""
        estimator, reset = self.estimator, self.reset
        if not (reset or self.checks_columns) and is_frame(X):
            estimator, reset = BaseEstimator(), True
        with naming_rows(X):
            return validate_data(
                estimator,
                X,
                reset=reset,
                ensure_min_samples=self.min_samples,
                ensure_all_finite=not is_finite_half(X),
            )

    def check_columns(self, given: Given | None) -> None:
        """Check the number and names of the columns, or store them if `reset`."""
        if given is None or len(given.item_shape) != 1:
            if self.reset:
                vars(self.estimator).pop("feature_names_in_", None)
        elif self.reset or self.checks_columns or given.frame is None:
            validate_data(self.estimator, given.X, reset=self.reset, skip_check_array=True)


def _fits(item_shape: Any, expected: Any) -> bool:
    if isinstance(item_shape, dict) and isinstance(expected, dict):
        # A tokenizer pads each data set to its own length.
        axes, fitted = (
            {name: len(shape) for name, shape in fields.items()}
            for fields in (item_shape, expected)
        )
        return axes == fitted
    return item_shape == expected


def _stated_channels(estimator: Any) -> str | None:
    """Return the value of the parameters ``channels`` of an estimator and of models inside it."""
    params = estimator.get_params() if hasattr(estimator, "get_params") else {}
    stated = {
        value for name, value in params.items() if name.split("__")[-1] == "channels" and value
    }
    for value in params.values():
        if isinstance(value, FrozenEstimator):
            stated |= {_stated_channels(value.estimator)} - {None}
    unknown = stated - set(CHANNELS)
    if unknown or len(stated) > 1:
        raise ValueError(
            f"channels={sorted(map(repr, stated))} in {type(estimator).__name__}; expected one of "
            "'first', 'last' and None, and the same value for all models"
        )
    return stated.pop() if stated else None


def share_forward_pass(X: Any, *, channels: str | None = None) -> CheckedData:
    """Wrap data so that each network runs over them only once.

    The first detector that is fitted on the wrapped data, or scores them, computes the logits and
    features; later detectors with the same network reuse them.

    Parameters
    ----------
    X : array-like, Tensor, Dataset, DataLoader or dict of shape (n_samples, ...)
        Do not change X while it is shared.
    channels : {"first", "last"} or None, default=None
        Axis of the channels of images, if their shape is ambiguous.

    Returns
    -------
    CheckedData
        Every estimator of this package accepts it in place of X.

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
    check_not_nested(X)
    # For images, raise the error about ambiguous axes at once: it explains `channels`.
    are_images = len(getattr(X, "shape", ())) > 2
    return _open(X, _Checks(BaseEstimator(), True, 1, channels, as_it_came=not are_images))


def share_as_it_came(X: Any) -> CheckedData:
    """Wrap X for estimators of any kind; those that need numbers raise the errors of reading it."""
    return _open(X, _Checks(BaseEstimator(), True, 1, None, as_it_came=True))


def take_rows(X: Any, rows: npt.NDArray[np.integer]) -> Any:
    """Return rows in the type of X, or as :class:`CheckedData` if X is a Dataset or a dict."""
    if isinstance(X, (CheckedData, Dataset, DataLoader, Mapping)):
        return share_forward_pass(X).subset(rows)
    return _safe_indexing(X, rows)


def _open(X: Any, checks: _Checks) -> CheckedData:
    if isinstance(X, CheckedData):
        return X
    check_not_nested(X)
    X = without_mask(X, "X")  # Other libraries would read the values under the mask, too.
    given = Given.of(X) if _is_container(X) else None
    try:
        # scipy's dok_matrix is a dict, too.
        if isinstance(X, Mapping) and not scipy.sparse.issparse(X):
            return open_fields(X, checks.min_samples)
        if is_stream(X):
            return open_stream(
                X,
                checks.min_samples,
                lambda shape: _are_last(shape, checks.channels, checks.fitted),
            )
        return _open_array(X, given, checks)
    except (TypeError, ValueError) as error:
        given = Given.of(X) if given is None else given
        if not checks.as_it_came or given is None:
            raise
        if len(given) < checks.min_samples:
            raise ValueError(
                f"Found {type(X).__name__} with {len(given)} sample(s) while a minimum of "
                f"{checks.min_samples} is required of X"
            ) from error
        checks.check_columns(given)
        return UnreadData(given, error)


def _is_container(X: Any) -> bool:
    """Whether X is more than a numeric array or nested lists of numbers."""
    if isinstance(X, (list, tuple)) and X:
        return not isinstance(X[0], (numbers.Number, np.ndarray, list, tuple))
    return not isinstance(X, np.ndarray)


def _open_array(X: Any, given: Given | None, checks: _Checks) -> CheckedData:
    X = from_torch(X) if isinstance(X, Tensor) else as_numbers(X)
    is_plain = checks.fitted is not None and _is_plain(X, checks.fitted)
    if len(X.shape) <= 2:
        return CheckedData.of(X if is_plain else checks.of_rows(X), given=given)
    items = X
    if not is_plain:
        with naming_rows(X):
            items = check_array(
                X,
                ensure_2d=False,
                allow_nd=True,
                ensure_min_samples=checks.min_samples,
                ensure_all_finite=not is_finite_half(X),
                estimator=checks.estimator,
            )
    if 0 in items.shape:
        what = "images have no pixels" if items.ndim < 5 else "items have no values"
        raise ValueError(f"X has shape {items.shape}: its {what}")
    if items.ndim > 4:
        return CheckedData.of(items, given=given)
    moved = items.ndim == 4 and _are_last(items.shape, checks.channels, checks.fitted)
    images = channels_first(items, "last" if moved else "first")
    return CheckedData.of(images, items.shape[1:], channels_last=moved, given=given)


def _is_plain(X: Any, fitted: Any) -> bool:
    """Whether X is a finite array of the size in `fit`, so that it needs no further checks.

    Scikit-learn's checks take 0.1 ms, as long as a small network.
    """
    return (
        type(X) is np.ndarray
        and X.ndim > 1
        and X.dtype in _PLAIN
        and X.size == len(X) * getattr(fitted, "n_features_in_", 0) > 0
        and not hasattr(fitted, "feature_names_in_")
        # If the sum of finite values overflows, the checks look at each value.
        and (X.dtype.kind == "u" or bool(np.isfinite(X.sum(dtype=np.float64))))
    )


def _are_last(shape: tuple[int, ...], channels: str | None, fitted: Any) -> bool:
    """Whether images are (n, H, W, C), not (n, C, H, W), by the data in `fit` if there are any."""
    if fitted is not None and isinstance(fitted.input_shape_, tuple):
        first = shape[1:] == fitted.input_shape_
        last = (shape[3], *shape[1:3]) == fitted.input_shape_
        if first or last:
            return fitted._given_as[1] if first and last else last
    return channels_are_last(shape, channels)


def resolve_value_range(data: CheckedData, value_range: Any) -> tuple[float, float]:
    """Return the values of black and white.

    Parameters
    ----------
    data : CheckedData
    value_range : None, (low, high) or "minmax"
        None means 0..255 for uint8 and 0..1 for floats; "minmax" means the range of `data`.

    Raises
    ------
    ValueError
        If the range cannot be inferred from the dtype, or is empty.
    """
    if isinstance(value_range, str):
        extremes = np.array([(float(b.min()), float(b.max())) for b in data.chunks()])
        low, high = float(extremes[:, 0].min()), float(extremes[:, 1].max())
        # Constant data have an empty range; any non-empty range maps them to one level.
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
    """Raise a ValueError if `pixels` lie outside `value_range`."""
    low, high = value_range
    if pixels.min() < low or pixels.max() > high:
        raise ValueError(
            f"X has values from {pixels.min():g} to {pixels.max():g}, but pixels from {low:g} to "
            f"{high:g} are expected for {pixels.dtype} images; rescale X, or state its range with "
            "value_range=(low, high)"
        )


def check_scores(estimator: BaseEstimator, scores: npt.NDArray[np.float64]) -> None:
    """Raise an error if a score is NaN or inf; -inf is the score of an impossible row."""
    wrong = np.isnan(scores) | np.isposinf(scores)
    if wrong.any():
        raise ValueError(
            f"{type(estimator).__name__} gives NaN or inf as the score of {wrong.sum()} of the "
            f"{len(scores)} items of X, whose values are too extreme to compute with; rescale X, "
            "for instance with scikit-learn's StandardScaler"
        )
