"""Checks that an estimator has a method, or will have it once it is fitted."""

from __future__ import annotations

from typing import Any

from sklearn.exceptions import NotFittedError
from sklearn.frozen import FrozenEstimator
from sklearn.pipeline import Pipeline

__all__ = ["check_provides", "provides"]


def check_provides(
    model: Any, *methods: str, message: str, error: type[Exception] = ValueError
) -> None:
    """Raise an error if a model has none of some methods, and will not have one once it is fitted.

    Call it before training, so that a model of the wrong kind costs no training time, and again
    after training, since the methods of some models depend on fitted attributes.

    Parameters
    ----------
    model : estimator
        Fitted or not.
    *methods : str
        The model needs one of them.
    message : str
        Error message; a hint is appended if an estimator inside `model` has such a method.
    error : type, default=ValueError
        Class of the exception.
    """
    if any(provides(model, method) for method in methods):
        return
    inner = _inner(model)
    if inner is not None and any(provides(inner, method) for method in methods):
        outer = type(model.estimator if isinstance(model, FrozenEstimator) else model).__name__
        message += (
            f". The {outer} does not pass on {methods[0]} of the {type(inner).__name__} inside: "
            + (
                "make a Pipeline of its other steps and the detector"
                if outer == "Pipeline"
                else f"give the {type(inner).__name__} itself"
            )
        )
    raise error(message)


def provides(model: Any, method: str) -> bool:
    """Whether a model has a method, or may have it once it is fitted.

    A missing method may appear in `fit` if its AttributeError has another cause, such as a missing
    fitted attribute in the condition of ``available_if``, in a property or in ``__getattr__``.
    """
    try:
        getattr(model, method)
    except AttributeError as missing:
        cause: BaseException = missing
        while cause.__cause__ is not None:
            cause = cause.__cause__
        if isinstance(cause, NotFittedError) or not isinstance(cause, AttributeError):
            return True
        return cause.name != method
    return True


def _inner(model: Any) -> Any:
    """Return the last step of a Pipeline, or the estimator inside a meta-estimator, or None."""
    if isinstance(model, FrozenEstimator):
        return _inner(model.estimator)
    if isinstance(model, Pipeline):
        return model.steps[-1][1] if model.steps else None
    return getattr(model, "estimator", None)
