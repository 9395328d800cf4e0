"""Public functions that save and load estimators."""

from __future__ import annotations

import importlib
import json
import os
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import torch
from sklearn.base import BaseEstimator
from torch import nn

from skood._files import _arrays, _container, _estimators, _values
from skood._files._card import Card, make_card
from skood._files._codec import DamagedFile, Reader, Writer
from skood._safe_files import whole_file

__all__ = ["inspect_file", "load", "save"]

# The first codec that accepts an object encodes it.
_CODECS = [*_values.CODECS, *_arrays.CODECS, *_estimators.CODECS]
_BY_TAG = {codec.tag: codec for codec in _CODECS}


def save(
    estimator: BaseEstimator, path: str | os.PathLike[str], *, modules: str = "program"
) -> None:
    """Write an estimator to a file that holds no pickle."""
    if not isinstance(estimator, BaseEstimator) or isinstance(estimator, type):
        raise TypeError(f"save takes an estimator, but got {estimator!r:.80}")
    writer = Writer(_CODECS, type(estimator).__name__, modules)
    tree = writer.node(estimator)
    metadata = {
        "card": json.dumps(make_card(estimator, writer), allow_nan=False),
        "tree": json.dumps(tree, allow_nan=False, separators=(",", ":")),
    }
    with whole_file(path) as file:
        _container.write(file, metadata, writer.arrays)


def load(
    path: str | os.PathLike[str],
    *,
    device: str | torch.device | None = None,
    trusted: Iterable[Any] = (),
    modules: Mapping[str, nn.Module] | None = None,
) -> Any:
    """Load an estimator from a file of :func:`save`, without running code from the file."""
    allowed = dict(map(_named, trusted))
    wanted = None if device is None else torch.device(device)
    try:
        contents = _container.read(Path(path))
        tree = _container.parse_json(contents.metadata["tree"])
        _check_trusted(_needed(tree), allowed)
        reader = Reader(_BY_TAG, contents.arrays, allowed, wanted, modules or {})
        estimator = reader.value(tree, BaseEstimator)
        if reader.arrays:
            raise DamagedFile(f"it has arrays that nothing uses: {sorted(reader.arrays)[:5]}")
    except (OSError, UntrustedError):
        raise
    except Exception as error:
        raise ValueError(f"{os.fspath(path)} cannot be loaded: {error}") from error
    return estimator


def inspect_file(path: str | os.PathLike[str]) -> Card:
    """Return the description of an estimator in a file, without making the estimator."""
    try:
        contents = _container.read(Path(path))
        tree = _container.parse_json(contents.metadata["tree"])
        stated = _container.parse_json(contents.metadata["card"])
        return Card.of(stated, contents, sorted(_needed(tree)))
    except OSError:
        raise
    except Exception as error:
        raise ValueError(f"{os.fspath(path)} cannot be read: {error}") from error


class UntrustedError(ValueError):
    """The file needs classes or functions that the caller does not trust."""


def _needed(tree: Any) -> set[str]:
    """Return the names of the classes and functions outside this package."""
    needed = set()
    left = [tree]
    while left:
        node = left.pop()
        if isinstance(node, dict):
            if type(node.get("needs")) is str:
                needed.add(node["needs"])
            left += node.values()
        elif isinstance(node, list):
            left += node
    return needed


def _check_trusted(needed: set[str], allowed: Mapping[str, Any]) -> None:
    missing = sorted(needed - set(allowed))
    if missing:
        raise UntrustedError(
            f"the file needs {', '.join(missing)}, which skood does not know; if you trust the "
            f"file with them, give skood.load(path, trusted={missing!r})"
        )


def _named(trusted: Any) -> tuple[str, Any]:
    """Return name and object of an entry of `trusted`, an object or its "module.name"."""
    if not isinstance(trusted, str):
        name = getattr(trusted, "__qualname__", None) or trusted.__name__
        return f"{getattr(trusted, '__module__', None) or 'numpy'}.{name}", trusted
    parts = trusted.split(".")
    for k in range(len(parts) - 1, 0, -1):
        try:
            found: Any = importlib.import_module(".".join(parts[:k]))
        except ModuleNotFoundError:
            continue
        for part in parts[k:]:
            found = getattr(found, part)
        return trusted, found
    raise ValueError(f"trusted={trusted!r} names no class or function, as 'module.name' does")
