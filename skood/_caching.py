"""Functions whose results are cached on disk."""

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
    """Return a copy of `function` whose results are cached in `memory`.

    It is a copy because joblib writes the source of a function object only into the first folder
    that caches it in a process. A second folder would lack the source, and the next process would
    ignore the results there.

    Parameters
    ----------
    memory : str, joblib.Memory or None
        A folder; None caches nothing.
    function : callable
        A module-level function.
    ignore : sequence of str or None, default=None
        Arguments that the result does not depend on.
    """
    assert isinstance(function, types.FunctionType)
    code, name = function.__code__, function.__name__
    copied = types.FunctionType(code, function.__globals__, name, function.__defaults__)
    copied.__kwdefaults__ = function.__kwdefaults__
    return check_memory(memory).cache(copied, ignore=None if ignore is None else list(ignore))
