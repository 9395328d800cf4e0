"""Description of an estimator in a file."""

from __future__ import annotations

import math
import platform
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from importlib.metadata import version
from typing import Any

import numpy as np
import sklearn
import torch
from sklearn.base import BaseEstimator
from sklearn.utils.validation import check_is_fitted

import skood
from skood._files._codec import Writer
from skood._files._container import FORMAT, Contents

__all__ = ["Card", "make_card"]

_MOST_COLUMNS = 20


@dataclass(frozen=True, repr=False)
class Card:
    """Description of an estimator in a file, as its writer stated it.

    Printed as text. What is not known is None, since not every estimator learns it.

    Attributes
    ----------
    class_name : str
    estimator : str
        The estimator with its parameters, as printed.
    is_fitted : bool
    n_features : int or None
        Number of values in an item of X.
    item_shape : list of int or None
        Shape of an item, (C, H, W) for images.
    columns : list of str or None
        Column names of a data frame.
    dtype : str or None
        The dtype of the training data, of densities.
    value_range : list of float or None
        Values of black and white of images.
    classes : list of str or None
        The labels, as printed.
    threshold : str or None
        ``offset_``: rows with a lower score are rejected.
    notes : list of str
        What differs after loading.
    format : int
        Version of the format of the file.
    versions : dict of str to str
        Versions of the packages that wrote the file.
    needs : list of str
        Classes and functions that :func:`skood.load` needs in `trusted`.
    sha256 : str
        Checksum of the file.
    size : int
        Size of the file in bytes.
    n_arrays : int
        Number of arrays in the file.
    """

    class_name: str
    estimator: str
    is_fitted: bool
    n_features: int | None
    item_shape: list[int] | None
    columns: list[str] | None
    dtype: str | None
    value_range: list[float] | None
    classes: list[str] | None
    threshold: str | None
    notes: list[str]
    versions: dict[str, str]
    format: int
    needs: list[str]
    sha256: str
    size: int
    n_arrays: int

    @classmethod
    def of(cls, stated: dict[str, Any], contents: Contents, needs: list[str]) -> Card:
        """Join what the writer stated with what the file is."""
        card = cls(
            **stated,
            format=FORMAT,
            needs=needs,
            sha256=contents.sha256,
            size=contents.size,
            n_arrays=len(contents.arrays),
        )
        # Raises if the values are of other types.
        repr(card)
        return card

    def __repr__(self) -> str:
        shape = self.item_shape and " x ".join(map(str, self.item_shape))
        lines = {
            "class": self.class_name + ("" if self.is_fitted else " (not fitted)"),
            "estimator": self.estimator,
            "values in an item": self.n_features,
            "shape of an item": shape,
            "dtype": self.dtype,
            "value range": self.value_range and " to ".join(map(str, self.value_range)),
            "columns": self.columns and _first(self.columns),
            "classes": self.classes and _first(self.classes),
            "threshold": self.threshold,
            "needs": ", ".join(self.needs) or "nothing beyond skood",
            "written by": ", ".join(f"{name} {value}" for name, value in self.versions.items()),
            "format": self.format,
            "arrays": self.n_arrays,
            "size": f"{self.size:,} bytes",
            "sha256": self.sha256,
        }
        shown = [f"{k}: {'not known' if value is None else value}" for k, value in lines.items()]
        return "\n".join(map(_printable, [*shown, *(f"note: {note}" for note in self.notes)]))


def _printable(text: str) -> str:
    """Indent further lines, and escape what a terminal would obey: the text may be hostile."""
    return "".join(
        char if char.isprintable() else "\n  " if char == "\n" else f"\\x{ord(char):02x}"
        for char in text
    )


def _first(values: list[str]) -> str:
    more = len(values) - _MOST_COLUMNS
    return ", ".join(values[:_MOST_COLUMNS]) + (f" and {more} more" if more > 0 else "")


def make_card(estimator: BaseEstimator, writer: Writer) -> dict[str, Any]:
    """Return what a file states about its estimator, as plain values."""
    known = _Known(estimator)
    n_features = known("n_features_in_")
    threshold = known("offset_")

    def of_item(name: str, size: Callable[[Any], int]) -> Any:
        # A model behind a transformer reads other items than the estimator.
        return known(name, lambda value: n_features is None or size(value) == n_features)

    return {
        "class_name": type(estimator).__name__,
        "estimator": repr(estimator),
        "is_fitted": _is_fitted(estimator),
        "n_features": _plain(n_features),
        "item_shape": _plain(of_item("input_shape_", _n_values)),
        "columns": _texts(of_item("feature_names_in_", len)),
        "dtype": _text(known("dtype_")),
        "value_range": _plain(known("value_range")),
        "classes": _texts(known("classes_")),
        "threshold": _text(threshold),
        "notes": writer.notes,
        "versions": {
            "skood": skood.__version__,
            "torch": torch.__version__,
            "numpy": np.__version__,
            "scikit-learn": sklearn.__version__,
            "safetensors": version("safetensors"),
            "python": platform.python_version(),
        },
    }


class _Known:
    """What an estimator or the models inside it know about X."""

    def __init__(self, estimator: BaseEstimator) -> None:
        self._states = list(_states(estimator, 0))

    def __call__(self, name: str, accepts: Callable[[Any], bool] = lambda value: True) -> Any:
        """Return the outermost value of an attribute, but no value that is None or a string."""
        values = (state.get(name) for state in self._states)
        found = (v for v in values if v is not None and not isinstance(v, str))
        return next((v for v in found if accepts(v)), None)


def _n_values(shape: Any) -> int:
    """Return the number of values in an item of this shape, or of fields of these shapes."""
    shapes = shape.values() if isinstance(shape, dict) else [shape]
    return sum(math.prod(one) for one in shapes)


def _states(value: Any, depth: int) -> Iterator[dict[str, Any]]:
    """Yield the attributes of an estimator, then of the models inside it, fitted ones first."""
    yield vars(value)
    fitted_first = sorted(vars(value), key=lambda name: not name.endswith("_"))
    for name in fitted_first:
        for inner in _parts(vars(value)[name], 3):
            if depth < 8 and (isinstance(inner, BaseEstimator) or name == "_preprocessing"):
                yield from _states(inner, depth + 1)


def _parts(value: Any, depth: int) -> Iterator[Any]:
    """Yield the items of nested lists and tuples, such as the steps of a Pipeline."""
    if isinstance(value, (list, tuple)) and depth:
        for item in value:
            yield from _parts(item, depth - 1)
    else:
        yield value


def _is_fitted(estimator: BaseEstimator) -> bool:
    try:
        check_is_fitted(estimator)
    except (ValueError, TypeError):
        return False
    return True


def _plain(value: Any) -> Any:
    """Return numbers as JSON has them, or None."""
    if value is None or isinstance(value, dict):
        return None
    return np.asarray(value).tolist()


def _text(value: Any) -> str | None:
    return None if value is None else str(value)


def _texts(value: Any) -> list[str] | None:
    return None if value is None else [str(item) for item in np.ravel(value).tolist()]
