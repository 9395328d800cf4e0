"""Check that models in ``sklearn.frozen.FrozenEstimator`` are fitted."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from sklearn.base import BaseEstimator
from sklearn.exceptions import NotFittedError
from sklearn.frozen import FrozenEstimator
from sklearn.utils.validation import check_is_fitted

from skood._torch.shared_module import SharedModule

__all__ = ["check_parts_fitted"]


def check_parts_fitted(estimator: BaseEstimator) -> None:
    """Raise NotFittedError if a ``FrozenEstimator`` among the parameters holds an unfitted model.

    `fit` calls it before it trains any model. Only models of skood and scikit-learn are checked,
    because the attributes of others need not tell whether they are fitted; torch modules count as
    trained.
    """
    for path, model in _frozen(estimator):
        package = type(model).__module__.partition(".")[0]
        if package not in ("skood", "sklearn") or isinstance(model, SharedModule):
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
    """Yield the parameter path and the model of each ``FrozenEstimator`` in `value`."""
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
