"""Fitting, caching and applying the models inside estimators."""

from __future__ import annotations

import contextlib
import copy
import inspect
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import joblib
import numpy as np
import numpy.typing as npt
import scipy.sparse
from sklearn.base import MetaEstimatorMixin, clone
from sklearn.frozen import FrozenEstimator
from sklearn.pipeline import Pipeline
from sklearn.utils import InputTags, get_tags
from sklearn.utils.parallel import Parallel, delayed
from sklearn.utils.validation import validate_data

from skood._caching import cached
from skood._data.checked_data import CheckedData
from skood._data.chunks import row_slices
from skood._data.unread_data import UnreadData
from skood._torch.run import (
    InterruptedTraining,
    followed_by,
    kept_unless_interrupted,
    n_interrupted,
)
from skood._torch.shared_module import SharedModule

__all__ = [
    "all_through",
    "as_input",
    "cached_call",
    "check_same_columns",
    "checks_columns",
    "draw_samples",
    "fit_members",
    "fit_model",
    "in_chunks",
    "input_tags",
    "is_checked_by_sklearn",
    "only_transforms",
    "reads_as_it_came",
    "reads_checked_data",
    "rows_through",
    "takes_any_length",
    "threshold_of",
]

# Rows per matrix product in scoring. It bounds the memory of float64 copies and distances. It is a
# multiple of the 4 to 64 rows in a block of numpy's BLAS, so that the same instructions compute all
# rows of a full chunk.
_CHUNK = 192

# Rows of a data frame or a sparse matrix, or texts, per call of a third-party model: a Pipeline of
# scikit-learn has an overhead of milliseconds per call.
_TABLE_CHUNK = 64 * _CHUNK


def fit_model(
    model: Any,
    data: CheckedData,
    y: npt.NDArray | None,
    *,
    outliers: CheckedData | None = None,
    seed: int | None = None,
    memory: str | joblib.Memory | None = None,
) -> Any:
    """Fit a clone of `model`, or take it from the cache.

    Parameters
    ----------
    model : estimator
        A ``FrozenEstimator`` is returned unchanged.
    data : CheckedData
    y : ndarray or None
    outliers : CheckedData or None, default=None
        Known outliers, for a detector of this package.
    seed : int or None
        Seed of a model whose ``random_state`` is None.
    memory : str, joblib.Memory or None
        Where fitted models are cached by their parameters and data.
    """
    if isinstance(model, FrozenEstimator):
        check_same_columns(model.estimator, data)
        return model
    model = clone(model)
    if isinstance(model, SharedModule):
        # There is no training to cache, and a hash would read all weights.
        memory = None
    if seed is not None and model.get_params(deep=False).get("random_state", 0) is None:
        model.set_params(random_state=seed)
    return cached_call(memory, _fit, model, data, y, outliers)


def fit_members(
    fit: Callable[[int], Any],
    are_trained: Sequence[bool],
    n_jobs: int | None,
    *,
    named: bool = True,
) -> Iterator[Any]:
    """Fit the members of an ensemble, one after another or by joblib's processes.

    Members that are already trained stay in this process, since other processes would return copies
    of their networks.

    Parameters
    ----------
    fit : callable
        Takes the number of a member and returns the fitted member.
    are_trained : sequence of bool
        Whether each member is already trained.
    n_jobs : int or None
        As in :class:`joblib.Parallel`.
    named : bool, default=True
        Whether the next member is named after Ctrl-C.

    Yields
    ------
    estimator
    """
    numbers = range(len(are_trained))
    if joblib.effective_n_jobs(n_jobs) == 1:
        for k in numbers:
            has_next = named and k + 1 < len(numbers)
            following = f"member {k + 2} of {len(numbers)}" if has_next else None
            # A second Ctrl-C is raised after the caller has stored the member.
            with followed_by(following) if named else contextlib.nullcontext():
                yield fit(k)
        return
    fitted = {k: fit(k) for k in numbers if are_trained[k]}
    others = [k for k in numbers if not are_trained[k]]
    fitted.update(zip(others, Parallel(n_jobs=n_jobs)(map(delayed(fit), others)), strict=True))
    yield from (fitted[k] for k in numbers)


def cached_call(memory: str | joblib.Memory | None, function: Callable, *args: Any) -> Any:
    """Call a function through a cache, which stores no result that Ctrl-C cut short.

    Parameters
    ----------
    memory : str, joblib.Memory or None
    function : callable
        A module-level function, which passes its result through
        :func:`~skood._torch.run.kept_unless_interrupted`.
    *args : object
    """
    try:
        return cached(memory, function)(*args)
    except InterruptedTraining as interrupted:
        return interrupted.result


def _fit(model: Any, data: CheckedData, y: npt.NDArray | None, outliers: CheckedData | None) -> Any:
    before = n_interrupted()
    if outliers is None:
        fitted = model.fit(as_input(model, data), y)
    else:
        fitted = model.fit_split(data, y, outliers)
    return kept_unless_interrupted(fitted, before)


def check_same_columns(model: Any, data: CheckedData) -> None:
    """Raise a ValueError if a fitted model was fitted to columns with other names or another order.

    Third-party models check the columns themselves when they are called.
    """
    is_ours = type(model).__module__.startswith("skood.")
    if is_ours and isinstance(data.item_shape, tuple) and len(data.item_shape) == 1:
        came = np.empty((0, *data.item_shape)) if data.frame is None else data.frame
        validate_data(model, came, reset=False, skip_check_array=True)


def as_input(model: Any, data: CheckedData, rows: slice | None = None) -> Any:
    """Return items of `data`, all by default, in the form that `model` accepts.

    Models of this package get checked data. Third-party models get rows of the user's data frame,
    list of texts or sparse matrix, and images in the user's shape. Scikit-learn's own estimators
    get images as flat rows, since they accept no other shape. The first step of a Pipeline
    determines the form.
    """
    if reads_checked_data(model):
        return data if rows is None else data.subset(_indices(data, rows))
    is_array = data.frame is None and not isinstance(data, UnreadData)
    if is_array and is_checked_by_sklearn(model):
        return (data if rows is None else data.subset(_indices(data, rows))).rows()
    if data.given is not None and rows is None:
        return data.given.take()
    return data.take_as_given(_indices(data, slice(None) if rows is None else rows))


def _indices(data: CheckedData, rows: slice) -> npt.NDArray[np.integer]:
    return np.arange(*rows.indices(len(data)))


def reads_checked_data(model: Any) -> bool:
    """Whether a model belongs to this package and accepts checked data in place of X."""
    return getattr(_reader(model), "_reads_checked_data", False)


def reads_as_it_came(model: Any) -> bool:
    """Whether `model` is a third-party estimator, or passes X on to one."""
    reader = _reader(model)
    if getattr(reader, "_reads_checked_data", False):
        return getattr(reader, "_reads_as_it_came", False)
    return hasattr(reader, "fit")


def takes_any_length(model: Any) -> bool:
    """Whether `model` reads sequences, whose lengths may differ from the lengths in `fit`."""
    return getattr(_reader(model), "_takes_any_length", False)


def input_tags(model: Any) -> InputTags:
    """Return scikit-learn's input tags of any model, with or without tags of its own."""
    has_tags = hasattr(model, "__sklearn_tags__")
    return get_tags(model).input_tags if has_tags else InputTags()


def checks_columns(model: Any) -> bool:
    """Whether a model raises an error if a data frame has other columns than in its `fit`."""
    return reads_checked_data(model) or is_checked_by_sklearn(model)


def only_transforms(model: Any) -> bool:
    """Whether a model is a transformer that neither predicts nor scores."""
    return hasattr(model, "transform") and not (
        hasattr(model, "predict") or hasattr(model, "score_samples")
    )


def is_checked_by_sklearn(model: Any) -> bool:
    """Whether scikit-learn's checks, which refuse images, are the first to read X."""
    reader = _reader(model)
    inner = getattr(reader, "estimator", None)
    if isinstance(reader, MetaEstimatorMixin) and hasattr(inner, "fit"):
        return is_checked_by_sklearn(inner)
    # A FunctionTransformer checks nothing and passes X on.
    return type(reader).__module__.startswith("sklearn.") and not get_tags(reader).no_validation


def _reader(model: Any) -> Any:
    """Return the estimator that reads X: in a Pipeline, the first step but "passthrough"."""
    if isinstance(model, FrozenEstimator) or getattr(model, "_hands_on_x", False):
        return _reader(model.estimator)
    if isinstance(model, Pipeline):
        steps = [step for _, step in model.steps if step is not None and step != "passthrough"]
        return _reader(steps[0]) if steps else model
    return model


def rows_through(model: Any, method: str, data: CheckedData) -> npt.NDArray:
    """Apply a method of a fitted model to every item, independently of the other items.

    The models of this package ensure this themselves. Third-party models are called on 192 items at
    a time, or on 12 288 rows of a table or texts, in the form that `as_input` returns.

    Parameters
    ----------
    model : estimator
    method : str
        Takes n items and returns an array, a data frame or a sparse matrix of n rows.
    data : CheckedData
    """
    (rows,) = all_through(model, [method], data)
    return rows


def all_through(model: Any, methods: Sequence[str], data: CheckedData) -> list[npt.NDArray]:
    """Apply several methods like `rows_through`; a Pipeline transforms each item only once."""
    if reads_checked_data(model):
        parts = [slice(0, len(data))]
    else:
        size = _TABLE_CHUNK if data.given is not None and data.given.is_table else _CHUNK
        parts = list(row_slices(len(data), size))
    last, transform = _last_step(model) if len(methods) > 1 else (model, None)
    functions = [getattr(last, method) for method in methods]
    results: list[list[npt.NDArray]] = [[] for _ in methods]
    for rows in parts:
        X = as_input(model, data, rows if len(parts) > 1 else None)
        Z = X if transform is None else transform(X)
        for function, result in zip(functions, results, strict=True):
            result.append(_as_array(function(Z)))
    return [result[0] if len(result) == 1 else np.concatenate(result) for result in results]


def _last_step(model: Any) -> tuple[Any, Callable[[Any], Any] | None]:
    """Return the last step of a fitted Pipeline and the transform of its other steps."""
    inner = model
    while isinstance(inner, FrozenEstimator):
        inner = inner.estimator
    if not isinstance(inner, Pipeline):
        return model, None
    *steps, last = [step for _, step in inner.steps if step is not None and step != "passthrough"]

    def transform(X: Any) -> Any:
        for step in steps:
            X = step.transform(X)
        return X

    return last, transform


def threshold_of(detector: Any) -> float | None:
    """Return ``offset_`` of a fitted detector, also inside a Pipeline or a search, or None."""
    if isinstance(detector, FrozenEstimator):
        return threshold_of(detector.estimator)
    if isinstance(detector, Pipeline):
        return threshold_of(_last_step(detector)[0])
    if hasattr(detector, "best_estimator_"):
        return threshold_of(detector.best_estimator_)
    offset = getattr(detector, "offset_", None)
    return None if offset is None else float(offset)


def _as_array(result: Any) -> npt.NDArray:
    return result.toarray() if scipy.sparse.issparse(result) else np.asarray(result)


def in_chunks(function: Callable[[Any], Any], values: Any) -> npt.NDArray:
    """Apply a row-wise function to 192 rows at a time.

    Parameters
    ----------
    function : callable
        Takes up to 192 rows and returns one result for each.
    values : ndarray, LazyRows or Outputs
        At least one row.
    """
    first, *others = row_slices(len(values), _CHUNK)
    part = np.asarray(function(values[first]))
    if not others:
        return part
    results = np.empty((len(values), *part.shape[1:]), part.dtype)
    results[first] = part
    for rows in others:
        results[rows] = function(values[rows])
    return results


def draw_samples(
    model: Any, n_samples: int, random_state: int | np.random.RandomState
) -> npt.NDArray:
    """Sample from a fitted density with a given seed, even if its `sample` has no `random_state`.

    Returns
    -------
    ndarray of shape (n_samples, ...)
    """
    if "random_state" in inspect.signature(model.sample).parameters:
        return model.sample(n_samples, random_state=random_state)
    # GaussianMixture uses its own parameter `random_state`, and also returns the components.
    model = copy.copy(model)
    model.random_state = random_state
    drawn = model.sample(n_samples)
    return drawn[0] if isinstance(drawn, tuple) else drawn
