"""Input validation: the accepted forms of X and how they are checked."""

from __future__ import annotations

import numbers
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import PurePath
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

from skood._channels import CHANNELS, channels_are_last, channels_first
from skood._checked_data import NUMBERS, CheckedData, CheckedFields, UnreadData, from_torch
from skood._given import Given, is_frame
from skood._streams import is_stream, open_stream, split_label

__all__ = [
    "check_data",
    "check_in_range",
    "check_scores",
    "resolve_value_range",
    "share_as_it_came",
    "share_forward_pass",
    "take_rows",
]


# Dtypes of arrays that need no conversion.
_PLAIN = np.dtype(np.float32), np.dtype(np.float64), np.dtype(np.uint8)


def _of_numbers(X: Any) -> Any:
    """Return X as an array, a data frame unchanged; unlike numpy's, the errors name X."""
    if scipy.sparse.issparse(X) or (isinstance(X, np.ndarray) and X.dtype.kind in NUMBERS):
        return X
    _refuse_known(X)
    if is_frame(X):
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


def _refuse_known(X: Any) -> None:
    """Raise for what people bring that holds data, but is no data yet, with what to give."""
    if hasattr(X, "collect") and not hasattr(X, "to_numpy"):
        raise ValueError(
            f"X is a {type(X).__name__}, which has not been computed; give X.collect()"
        )
    if isinstance(X, Iterator):
        raise ValueError(
            f"X is a {type(X).__name__}, whose items can be read only once; give an array, "
            "np.stack(list(X)), or a torch Dataset"
        )
    if hasattr(X, "getbands"):
        raise ValueError("X is one image of PIL; give a batch, np.asarray(X)[None]")
    if isinstance(X, (str, PurePath)):
        raise ValueError(f"X is {X!r}; give what can be read there, as an array or a torch Dataset")
    first = X[0] if isinstance(X, (list, tuple)) and X else None
    if isinstance(X, np.ndarray) and X.ndim == 1 and X.size:
        first = X[0]
    if isinstance(first, (str, bytes, PurePath)):
        raise ValueError(
            f"X holds strings or paths, such as {first!r}; expected numbers. Of images, give a "
            "torch Dataset that opens them, such as torchvision.datasets.ImageFolder; of texts, "
            "their token ids or embeddings"
        )
    if isinstance(first, Mapping):
        raise ValueError(
            f"X is a {type(X).__name__} of dicts; give one dict of arrays, whose first axis counts "
            "the items, or a torch Dataset whose items are dicts"
        )


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
    estimator: BaseEstimator,
    X: Any,
    *,
    reset: bool,
    min_samples: int = 1,
    any_shape: bool = False,
    as_it_came: bool = False,
    checks_columns: bool = True,
    channels: str | None = None,
) -> CheckedData:
    """Check X and return it as a :class:`CheckedData`.

    Sets ``n_features_in_``, ``input_shape_`` and, for data frames, ``feature_names_in_`` on
    `estimator` if `reset`; otherwise checks that X matches them.

    Parameters
    ----------
    estimator : BaseEstimator
    X : array-like, Tensor, Dataset, DataLoader, Mapping or CheckedData
        Rows (n, d), or images (n, H, W), (n, C, H, W) or (n, H, W, C); the last is recognised
        when its last axis is 1 or 3 and the second is not. Items of another shape, and dicts of
        arrays, where `any_shape` holds.
    reset : bool
        True in fit.
    min_samples : int
    any_shape : bool, default=False
        Whether items may have any shape, since a network of the user's own may read them.
    as_it_came : bool, default=False
        Whether a model that is not ours reads X, which may then be anything that has rows: frames
        of any columns, texts, sparse matrices, missing values. What is not read as numbers raises
        an error where numbers are needed.
    checks_columns : bool, default=True
        Whether the columns of a frame are compared with those of `fit`; False where a model inside
        does so, which may be content with some of them.
    channels : {"first", "last"} or None, default=None
        Axis of the channels of images; None: what the parameter ``channels`` of `estimator` or of a
        model inside it says, or else the shape.

    Raises
    ------
    ValueError
        When X is empty, has fewer than `min_samples` items, holds NaN or infinity, is of
        another shape than in fit, or of one that this estimator does not take.
    """
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
        hint = ""
        if isinstance(expected, tuple) and _shape_of(X) in (
            expected,
            (*expected[1:], expected[0]),
        ):
            hint = "; if X is one item, give X[None]"
        raise ValueError(
            f"X has items of shape {data.item_shape}, but {type(estimator).__name__} was fitted "
            f"on items of shape {expected} (images are counted as (C, H, W)){hint}"
        )
    if not data.has_fields:
        # A transformer of the user gets the axes in one order.
        data = data.given_as(*getattr(estimator, "_given_as", (data.came_as, data.channels_last)))
    return data


@dataclass(frozen=True)
class _Checks:
    """What X is checked against; the fields are parameters of :func:`check_data`."""

    estimator: BaseEstimator
    reset: bool
    min_samples: int
    channels: str | None
    as_it_came: bool
    checks_columns: bool = True

    @property
    def fitted(self) -> Any:
        """The estimator, where it was fitted to other data."""
        return None if self.reset else self.estimator

    def of_rows(self, X: Any) -> npt.NDArray:
        """Check rows of numbers, with their columns."""
        checked = self.estimator, self.reset
        if not (self.reset or self.checks_columns) and is_frame(X):
            checked = BaseEstimator(), True
        estimator, reset = checked
        return validate_data(estimator, X, reset=reset, ensure_min_samples=self.min_samples)

    def check_columns(self, given: Given | None) -> None:
        """Check the number and the names of columns, or note them."""
        if given is None or len(given.item_shape) != 1:
            if self.reset:
                vars(self.estimator).pop("feature_names_in_", None)
        elif self.reset or self.checks_columns or given.frame is None:
            validate_data(self.estimator, given.X, reset=self.reset, skip_check_array=True)


def _fits(item_shape: Any, expected: Any) -> bool:
    if isinstance(item_shape, dict) and isinstance(expected, dict):
        # A tokenizer pads every set to a length of its own.
        axes, fitted = (
            {name: len(shape) for name, shape in fields.items()}
            for fields in (item_shape, expected)
        )
        return axes == fitted
    return item_shape == expected


def _shape_of(X: Any) -> tuple[int, ...] | None:
    return tuple(X.shape) if hasattr(X, "shape") and not isinstance(X, CheckedData) else None


def _stated_channels(estimator: Any) -> str | None:
    """Return what the parameters ``channels`` of an estimator and of models inside it say."""
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
            f"channels={sorted(map(repr, stated))} of {type(estimator).__name__}; expected one of "
            "'first', 'last' and None, and the same for all models in it"
        )
    return stated.pop() if stated else None


def share_forward_pass(X: Any, *, channels: str | None = None) -> CheckedData:
    """Wrap data so that each network runs over them only once.

    The first detector that is fitted on the result, or scores it, computes the logits and
    features; later detectors with the same network reuse them.

    Parameters
    ----------
    X : array-like, Tensor, Dataset, DataLoader or dict of shape (n_samples, ...)
        Not to be changed while it is shared.
    channels : {"first", "last"} or None, default=None
        Axis of the channels of images, where their shape leaves it open.

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
    # An error about the axes of images says what to do with `channels`.
    are_images = len(getattr(X, "shape", ())) > 2
    return _open(X, _Checks(BaseEstimator(), True, 1, channels, as_it_came=not are_images))


def share_as_it_came(X: Any) -> CheckedData:
    """Share X among estimators of any kind; errors of reading are raised by those that read it."""
    return _open(X, _Checks(BaseEstimator(), True, 1, None, as_it_came=True))


def take_rows(X: Any, rows: npt.NDArray[np.integer]) -> Any:
    """Return rows of X in the type of X; rows of a Dataset as checked data, which are streamed."""
    if isinstance(X, (CheckedData, Dataset, DataLoader, Mapping)):
        return share_forward_pass(X).subset(rows)
    return _safe_indexing(X, rows)


def _open(X: Any, checks: _Checks) -> CheckedData:
    if isinstance(X, CheckedData):
        return X
    given = Given.of(X) if _is_container(X) else None
    try:
        # Scipy's sparse matrix of keys is a dict too.
        if isinstance(X, Mapping) and not scipy.sparse.issparse(X):
            return _open_fields(X, checks.min_samples)
        if is_stream(X):
            return open_stream(
                X,
                checks.min_samples,
                lambda shape: _are_last(shape, checks.channels, checks.fitted),
            )
        return _open_array(X, given, checks)
    except (TypeError, ValueError) as error:
        given = Given.of(X) if given is None else given
        if not checks.as_it_came or given is None or len(given) < checks.min_samples:
            raise
        checks.check_columns(given)
        return UnreadData(given, error)


def _is_container(X: Any) -> bool:
    """Whether X is more than an array of numbers, or lists of them."""
    if isinstance(X, (list, tuple)) and X:
        return not isinstance(X[0], (numbers.Number, np.ndarray, list, tuple))
    return not isinstance(X, np.ndarray)


def _open_array(X: Any, given: Given | None, checks: _Checks) -> CheckedData:
    X = from_torch(X) if isinstance(X, Tensor) else _of_numbers(X)
    is_plain = checks.fitted is not None and _is_plain(X, checks.fitted)
    if len(X.shape) <= 2:
        return CheckedData.of(X if is_plain else checks.of_rows(X), given=given)
    items = X
    if not is_plain:
        items = check_array(
            X,
            ensure_2d=False,
            allow_nd=True,
            ensure_min_samples=checks.min_samples,
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
    """Whether X is an array of finite numbers of the size seen in `fit`, and nothing needs checks.

    Scikit-learn's checks take a tenth of a millisecond, as long as a small network.
    """
    return (
        type(X) is np.ndarray
        and X.ndim > 1
        and X.dtype in _PLAIN
        and X.size == len(X) * fitted.n_features_in_ > 0
        and not hasattr(fitted, "feature_names_in_")
        # The sum of finite values may overflow; the checks then look at each of them.
        and (X.dtype.kind == "u" or bool(np.isfinite(X.sum(dtype=np.float64))))
    )


def _are_last(shape: tuple[int, ...], channels: str | None, fitted: Any) -> bool:
    """Tell (n, H, W, C) from (n, C, H, W), by the data of `fit` where there was one."""
    if fitted is not None and isinstance(fitted.input_shape_, tuple):
        first = shape[1:] == fitted.input_shape_
        last = (shape[3], *shape[1:3]) == fitted.input_shape_
        if first or last:
            return fitted._given_as[1] if first and last else last
    return channels_are_last(shape, channels)


def _open_fields(X: Mapping, min_samples: int) -> CheckedFields:
    """Check a dict of arrays, as tokenizers and processors return it."""
    fields: dict[str, npt.NDArray] = {}
    given, labels = split_label(X)
    for name, values in given.items():
        try:
            array = from_torch(values) if isinstance(values, Tensor) else np.asarray(values)
        except ValueError as error:
            raise ValueError(
                f"the field {name!r} of X cannot be read as an array: {error}; let the tokenizer "
                "pad to one length (padding=True, return_tensors='np')"
            ) from error
        if array.dtype.kind not in NUMBERS:
            raise ValueError(
                f"the field {name!r} of X has dtype {array.dtype}; expected numbers, padded to one "
                "length: leave the field out, or let the tokenizer pad (padding=True, "
                "return_tensors='np')"
            )
        if array.dtype.kind == "f" and not np.isfinite(array).all():
            raise ValueError(f"the field {name!r} of X contains NaN or infinity")
        fields[str(name)] = array
    n_items = {name: len(array) if array.ndim else None for name, array in fields.items()}
    if len(set(n_items.values())) != 1 or None in n_items.values():
        raise ValueError(
            f"X is a dict whose fields have {n_items} items; expected arrays whose first axes are "
            "equal, one entry for each item"
        )
    n = next(iter(n_items.values())) or 0
    if n < min_samples:
        raise ValueError(
            f"Found dict with {n} sample(s) while a minimum of {min_samples} is required of X"
        )
    shapes = {name: array.shape[1:] for name, array in fields.items()}
    read_labels = None
    if labels is not None:
        array = from_torch(labels) if isinstance(labels, Tensor) else np.asarray(labels)
        read_labels = _TakeRows(array)
    return CheckedFields(
        _TakeFields(fields), n, shapes, object, in_memory=True, read_labels=read_labels
    )


class _TakeRows:
    def __init__(self, array: npt.NDArray) -> None:
        self.array = array

    def __call__(self, indices: npt.NDArray[np.integer]) -> npt.NDArray:
        return self.array[indices]


class _TakeFields:
    def __init__(self, fields: dict[str, npt.NDArray]) -> None:
        self.fields = fields

    def __call__(self, indices: npt.NDArray[np.integer]) -> dict[str, npt.NDArray]:
        return {name: array[indices] for name, array in self.fields.items()}


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
