"""Old names and defaults that work, with a warning, until a version of the package.

Every call states `removed_in` or `changed_in`, the version as "0.4". A test fails from this
version on, so that no old name stays. CONTRIBUTING.md shows how to use them.
"""

from __future__ import annotations

import functools
import sys
import warnings
from collections.abc import Callable, Mapping
from typing import Any

__all__ = ["OldName", "changing_default", "keep_old_parameters", "keeps_old_names", "old_members"]


class OldName:
    """The old name of a parameter or an attribute.

    As a class attribute of an estimator, ``T = OldName("temperature", removed_in="0.4")``, it reads
    and writes the new attribute. If the new name is a parameter, ``__init__`` and ``set_params``
    accept the old one; ``get_params`` has the new one alone, so that clones do not warn.

    Parameters
    ----------
    new : str or None
        The new name. None for a parameter that is removed: its value is ignored.
    removed_in : str
        Version in which the old name is removed.
    advice : str, default=""
        What to write instead, as a sentence, if the new name does not say it.
    """

    def __init__(self, new: str | None, *, removed_in: str, advice: str = "") -> None:
        self.new, self._removed_in, self._advice = new, removed_in, advice

    def __set_name__(self, owner: type, name: str) -> None:
        self._name = name

    def __get__(self, estimator: Any, owner: type) -> Any:
        if estimator is None:
            return self
        if self.new is None:
            raise AttributeError(f"{owner.__name__} has no {self._name} any more. {self._advice}")
        # Without the new attribute, hasattr(estimator, old) is False and warns of nothing.
        value = getattr(estimator, self.new)
        self.warn(owner.__name__, self._name)
        return value

    def __set__(self, estimator: Any, value: Any) -> None:
        self.warn(type(estimator).__name__, self._name)
        if self.new is not None:
            setattr(estimator, self.new, value)

    def warn(self, of: str, name: str) -> None:
        """Warn the caller of the caller that `name` of `of` will be removed."""
        now = f"is now called {self.new}" if self.new else "has no effect any more"
        text = f"{name} of {of} {now}; {name} will be removed in skood {self._removed_in}."
        warnings.warn(f"{text} {self._advice}".rstrip(), FutureWarning, stacklevel=3)


def keeps_old_names(**old: OldName) -> Callable[[Any], Any]:
    """Decorate a function whose parameters have got other names: it accepts the old ones, too.

    A double underscore after an old name is the parameter of an estimator inside, as in
    ``set_params``.

    Parameters
    ----------
    **old : OldName
        By the old name. They must be given by name, and raise a TypeError together with the new.
    """
    return lambda function: _accepting(function, function.__name__, old)


def _accepting(function: Any, of: str, old: Mapping[str, OldName]) -> Any:
    @functools.wraps(function)
    def wrapper(*args: Any, **params: Any) -> Any:
        for key in list(params):
            name, separator, inside = key.partition("__")
            if name not in old:
                continue
            value, new = params.pop(key), old[name].new
            old[name].warn(of, name)
            if new is None:
                continue
            if new + separator + inside in params:
                raise TypeError(f"{of} got {key} and its new name {new + separator + inside}")
            params[new + separator + inside] = value
        return function(*args, **params)

    return wrapper


def keep_old_parameters(class_: Any) -> None:
    """Make ``__init__`` and ``set_params`` of a class accept the old names of its parameters."""
    found = {
        name: value
        for base in class_.__mro__[::-1]
        for name, value in vars(base).items()
        if isinstance(value, OldName)
    }
    known = class_._get_param_names() if found else ()
    old = {name: value for name, value in found.items() if value.new in {*known, None}}
    if old:
        class_.__init__ = _accepting(class_.__init__, class_.__name__, old)
        class_.set_params = _accepting(class_.set_params, class_.__name__, old)


def changing_default(value: Any, name: str, *, now: Any, later: Any, changed_in: str) -> Any:
    """Return the value of a parameter whose default will change, and warn if it was not given.

    Call it only where `now` and `later` have different results, so that nobody is warned in vain.

    Parameters
    ----------
    value : object
        The parameter. Its default is "warn" until the version `changed_in`.
    name : str
    now, later : object
        The default before and from `changed_in`.
    changed_in : str

    Returns
    -------
    object
        `value`, or `now` if it is "warn".
    """
    if not (isinstance(value, str) and value == "warn"):
        return value
    warnings.warn(
        f"the default of {name} will change from {now!r} to {later!r} in skood {changed_in}. Write "
        f"{name}={now!r} to keep it, or {name}={later!r} to change now",
        FutureWarning,
        stacklevel=3,
    )
    return now


def old_members(module: str, **old: OldName) -> Callable[[str], Any]:
    """Return a ``__getattr__`` of a module whose classes or functions have got other names.

    An old name is the new object, so that ``isinstance`` and pickles know one class.

    Parameters
    ----------
    module : str
        The ``__name__`` of the module.
    **old : OldName
        By the old name.
    """

    def module_getattr(name: str) -> Any:
        found = old.get(name)
        if found is None or found.new is None:
            raise AttributeError(f"module {module!r} has no attribute {name!r}")
        found.warn(module, name)
        return getattr(sys.modules[module], found.new)

    return module_getattr
