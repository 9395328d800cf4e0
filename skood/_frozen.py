"""Models that come trained, in ``sklearn.frozen.FrozenEstimator``, at the start of a fit."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from sklearn.base import BaseEstimator
from sklearn.exceptions import NotFittedError
from sklearn.frozen import FrozenEstimator
from sklearn.utils.validation import check_is_fitted

from skood.classifiers._module import ModuleHandle

__all__ = ["check_parts_fitted"]


def check_parts_fitted(estimator: BaseEstimator) -> None:
    """Check every model in a ``FrozenEstimator`` among the parameters, before any is trained.

    Models that are neither ours nor scikit-learn's are not checked, since their attributes need
    not tell; nor are torch modules, which come trained.

    Parameters
    ----------
    estimator : estimator

    Raises
    ------
    NotFittedError
    """
    for path, model in _frozen(estimator):
        package = type(model).__module__.partition(".")[0]
        if package not in ("skood", "sklearn") or isinstance(model, ModuleHandle):
            continue
        try:
            check_is_fitted(model)
        except NotFittedError as error:
            name = type(model).__name__
            raise NotFittedError(
                f"{path}=FrozenEstimator({name}(...)) of {type(estimator).__name__} is not fitted. "
                f"Fit the {name} first; without FrozenEstimator, fit trains it"
            ) from error


def _frozen(value: Any, path: str = "") -> Iterator[tuple[str, Any]]:
    """Models in a ``FrozenEstimator``, and where they are among the parameters."""
    if isinstance(value, FrozenEstimator):
        yield path, value.estimator
    elif isinstance(value, (list, tuple)):
        for number, item in enumerate(value):
            is_named = isinstance(item, tuple) and len(item) > 1 and isinstance(item[0], str)
            name, part = item[:2] if is_named else (number, item)
            yield from _frozen(part, f"{path}[{name}]")
    elif isinstance(value, BaseEstimator):
        for name, parameter in value.get_params(deep=False).items():
            yield from _frozen(parameter, f"{path}__{name}" if path else name)
