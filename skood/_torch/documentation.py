"""Docstrings of classes that take the parameters of their base as ``**training``."""

from __future__ import annotations

import inspect
import re
from collections.abc import Iterable

__all__ = ["spell_out_training"]

_PLACEHOLDER = re.compile(r"^\*\*training\n(?: +.*\n?)+", re.MULTILINE)
_PARAMETERS = re.compile(r"^Parameters\n-+\n((?:.*\n)*?)(?=\n\S|\Z)", re.MULTILINE)


def spell_out_training(cls: type, names: Iterable[str]) -> None:
    """Put the documentation of parameters in the place of ``**training`` in a class's docstring.

    Parameters
    ----------
    cls : type
        Its bases document what it does not; a class without a docstring, or without ``**training``
        in it, is left as it is.
    names : iterable of str
        Parameters of the class, in order.
    """
    own = inspect.cleandoc(cls.__dict__.get("__doc__") or "") + "\n"
    if not _PLACEHOLDER.search(own):
        return
    known = _entries(own)
    inherited: dict[str, str] = {}
    for base in cls.__mro__[1:]:
        inherited = _entries(inspect.cleandoc(base.__doc__ or "") + "\n") | inherited
    text = "".join(inherited[name] for name in names if name not in known and name in inherited)
    cls.__doc__ = _PLACEHOLDER.sub(lambda _: text, own)


def _entries(docstring: str) -> dict[str, str]:
    """Lines that document each parameter, by its name."""
    section = _PARAMETERS.search(docstring)
    if not section:
        return {}
    entries = re.findall(r"^\S.*\n(?: .*\n|\n(?= ))*", section[1], re.MULTILINE)
    return {
        name.strip(): entry
        for entry in entries
        for name in entry.split(":", 1)[0].strip().split(",")
    }
