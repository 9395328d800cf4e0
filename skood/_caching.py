"""Functions whose results are kept on disk."""

from __future__ import annotations

import types
from collections.abc import Callable, Sequence

import joblib
from sklearn.utils.validation import check_memory

__all__ = ["cached"]


def cached(
    memory: str | joblib.Memory | None,
    function: Callable,
    *,
    ignore: Sequence[str] | None = None,
) -> Callable:
    """Return `function`, with results kept in `memory`.

    In one process joblib writes the source of a function only into the first folder that it is
    cached in; what a second folder keeps is then computed again by the next process. A new function
    object is one whose source has not been written yet.

    Parameters
    ----------
    memory : str, joblib.Memory or None
        A folder; None keeps nothing.
    function : callable
        A function of a module.
    ignore : sequence of str or None, default=None
        Arguments that the result does not depend on.
    """
    assert isinstance(function, types.FunctionType)
    code, name = function.__code__, function.__name__
    again = types.FunctionType(code, function.__globals__, name, function.__defaults__)
    again.__kwdefaults__ = function.__kwdefaults__
    return check_memory(memory).cache(again, ignore=None if ignore is None else list(ignore))
