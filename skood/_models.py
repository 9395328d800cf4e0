"""Models inside estimators: how they are fitted, cached and applied to items."""

from __future__ import annotations

import copy
import inspect
from collections.abc import Callable
from typing import Any

import joblib
import numpy as np
import numpy.typing as npt
from sklearn.base import clone
from sklearn.frozen import FrozenEstimator
from sklearn.pipeline import Pipeline
from sklearn.utils import get_tags
from torch import nn

from skood._caching import cached
from skood._checked_data import CheckedData
from skood._chunks import row_slices
from skood._torch.run import InterruptedTraining, kept_unless_interrupted, n_interrupted

__all__ = ["as_input", "cached_call", "draw_samples", "fit_model", "in_chunks", "rows_through"]

# Rows per matrix product in scoring, which bounds the memory of float64 copies and distances. A
# multiple of the 4 to 64 rows in a block of numpy's BLAS, so that all rows of a full chunk are
# computed by the same instructions.
_CHUNK = 192


def fit_model(
    model: Any,
    data: CheckedData,
    y: npt.NDArray | None,
    *,
    seed: int | None = None,
    memory: str | joblib.Memory | None = None,
) -> Any:
    """Fit a clone of `model`, or take it from the cache.

    Parameters
    ----------
    model : estimator
        One in ``sklearn.frozen.FrozenEstimator`` is returned as it is.
    data : CheckedData
    y : ndarray or None
    seed : int or None
        For a model whose ``random_state`` is None.
    memory : str, joblib.Memory or None
        Where fitted models are cached by their parameters and data.
    """
    if isinstance(model, FrozenEstimator):
        return model
    model = clone(model)
    if seed is not None and model.get_params(deep=False).get("random_state", 0) is None:
        model.set_params(random_state=seed)
    return cached_call(memory, _fit, model, data, y)


def cached_call(memory: str | joblib.Memory | None, function: Callable, *args: Any) -> Any:
    """Call a function through a cache, which does not keep what Ctrl-C cut short.

    Parameters
    ----------
    memory : str, joblib.Memory or None
    function : callable
        A function of a module; passes its result through
        :func:`~skood._torch.run.kept_unless_interrupted`.
    *args : object
    """
    try:
        return cached(memory, function)(*args)
    except InterruptedTraining as interrupted:
        return interrupted.result


def _fit(model: Any, data: CheckedData, y: npt.NDArray | None) -> Any:
    before = n_interrupted()
    return kept_unless_interrupted(model.fit(as_input(model, data), y), before)


def as_input(model: Any, data: CheckedData) -> Any:
    """Return the input for `model`.

    Our models get checked data. Transformers and networks of users get the items in the shape in
    which they came; scikit-learn's own estimators, and densities and classifiers of others, get
    flat rows, which are all that they take. A Pipeline gets what its first step gets.
    """
    if _reads_checked_data(model):
        return data
    if _reads_rows(model):
        return data.rows()
    return data.take_as_given(np.arange(len(data)))


def _reads_checked_data(model: Any) -> bool:
    return getattr(_first_step(model), "_reads_checked_data", False)


def _reads_rows(model: Any) -> bool:
    model = _first_step(model)
    if type(model).__module__.startswith("sklearn."):
        # A FunctionTransformer checks nothing, and passes on what it gets.
        return not get_tags(model).no_validation
    return not (_holds_module(model) or hasattr(model, "transform"))


def _holds_module(model: Any) -> bool:
    """Whether a model is a skorch net, which holds a module, or its class before it is fitted."""
    module = getattr(model, "module", None)
    return isinstance(module, nn.Module) or (
        inspect.isclass(module) and issubclass(module, nn.Module)
    )


def _first_step(model: Any) -> Any:
    """Return the estimator that reads X: the first step of a Pipeline that changes anything."""
    if isinstance(model, FrozenEstimator):
        return _first_step(model.estimator)
    if isinstance(model, Pipeline):
        steps = [step for _, step in model.steps if step is not None and step != "passthrough"]
        return _first_step(steps[0]) if steps else model
    return model


def rows_through(model: Any, method: str, data: CheckedData) -> npt.NDArray:
    """Apply a method of a fitted model to every item, independently of the other items.

    Our models ensure this themselves; other models are called on 192 items at a time, in the shape
    that `as_input` gives.

    Parameters
    ----------
    model : estimator
    method : str
        Takes n items and returns an array of n rows.
    data : CheckedData
    """
    function = getattr(model, method)
    if _reads_checked_data(model):
        return np.asarray(function(data))
    if _reads_rows(model):
        return in_chunks(function, data.rows())
    results = [
        np.asarray(function(data.take_as_given(np.arange(rows.start, rows.stop))))
        for rows in row_slices(len(data), _CHUNK)
    ]
    return np.concatenate(results)


def in_chunks(function: Callable[[Any], Any], values: Any) -> npt.NDArray:
    """Apply a function of each row to 192 rows at a time.

    Parameters
    ----------
    function : callable
        Takes up to 192 rows and returns as many.
    values : ndarray or Outputs
        At least one row.
    """
    return np.concatenate(
        [np.asarray(function(values[rows])) for rows in row_slices(len(values), _CHUNK)]
    )


def draw_samples(
    model: Any, n_samples: int, random_state: int | np.random.RandomState
) -> npt.NDArray:
    """Draw from a fitted density by that seed, whether its ``sample`` takes one or not.

    Parameters
    ----------
    model : estimator
        With ``sample``.
    n_samples : int
    random_state : int or RandomState instance

    Returns
    -------
    ndarray of shape (n_samples, ...)
    """
    if "random_state" in inspect.signature(model.sample).parameters:
        return model.sample(n_samples, random_state=random_state)
    # GaussianMixture draws by its own parameter, and returns the components too.
    model = copy.copy(model)
    model.random_state = random_state
    drawn = model.sample(n_samples)
    return drawn[0] if isinstance(drawn, tuple) else drawn
