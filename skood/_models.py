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

from skood._caching import cached
from skood._checked_data import CheckedData
from skood._torch.run import InterruptedTraining, kept_unless_interrupted, n_interrupted

__all__ = ["as_input", "cached_call", "draw_samples", "fit_model", "in_chunks", "rows_through"]

# Rows per matrix product in scoring. The number is fixed because the shape of a product determines
# the order of its sums. It is a multiple of the 4 to 64 rows in a block of numpy's BLAS, so that no
# remainder is computed by other instructions.
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
    """Return the input for `model`: checked data for our models, an array of rows for others."""
    return data if _reads_checked_data(model) else data.rows()


def _reads_checked_data(model: Any) -> bool:
    return getattr(model, "_reads_checked_data", False)


def rows_through(model: Any, method: str, data: CheckedData) -> npt.NDArray:
    """Apply a method of a fitted model to every item, independently of the other items.

    Our models ensure this themselves; other models are called on chunks of a fixed size.

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
    return in_chunks(function, data.rows())


def in_chunks(function: Callable[[Any], Any], values: Any) -> npt.NDArray:
    """Apply a function of each row to exactly 192 rows at a time.

    Parameters
    ----------
    function : callable
        Takes 192 rows and returns 192.
    values : ndarray or Outputs
        At least one row; the last row is repeated to fill the last chunk.
    """
    n = len(values)
    results = []
    for start in range(0, n, _CHUNK):
        rows = np.minimum(np.arange(start, start + _CHUNK), n - 1)
        results.append(np.asarray(function(values[rows]))[: n - start])
    return np.concatenate(results)


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
