"""The text of estimators, in which a trained module is one word.

The text of a large network takes many lines, and scikit-learn's printer writes it anew at every
level of nesting.
"""

from __future__ import annotations

from contextvars import ContextVar
from functools import partial
from typing import Any

from sklearn.base import BaseEstimator

__all__ = ["EstimatorText", "ShownModule", "is_printing"]

_printing: ContextVar[bool] = ContextVar("printing", default=False)


def is_printing() -> bool:
    """Whether an estimator of this package is being printed in this thread."""
    return _printing.get()


class ShownModule:
    """What a printed estimator shows instead of a module: the name of its class."""

    def __init__(self, module: Any) -> None:
        self._name = type(module).__name__

    def __repr__(self) -> str:
        return f"{self._name}(...)"


class EstimatorText:
    """The attribute ``__repr__`` of a class of estimators."""

    def __get__(self, estimator: Any, owner: type) -> Any:
        # Scikit-learn's printer recognises the classes whose text it may break into lines by this
        # function.
        return BaseEstimator.__repr__ if estimator is None else partial(_text, estimator)


def _text(estimator: BaseEstimator, *args: Any, **kwargs: Any) -> str:
    token = _printing.set(True)
    try:
        return BaseEstimator.__repr__(estimator, *args, **kwargs)
    finally:
        _printing.reset(token)
