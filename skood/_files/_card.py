"""Description of an estimator in a file."""

from __future__ import annotations

import platform
from dataclasses import dataclass
from importlib.metadata import version
from typing import Any

import numpy as np
import sklearn
import torch
from sklearn.base import BaseEstimator

import skood
from skood._files._codec import Writer
from skood._files._container import FORMAT, Contents

__all__ = ["Card", "make_card"]


@dataclass(frozen=True)
class Card:
    """Description of an estimator in a file.

    Attributes
    ----------
    class_name : str
    estimator : str
        The estimator with its parameters, as printed.
    versions : dict of str to str
        Versions of what wrote the file.
    notes : list of str
        What the file does not hold.
    needs : list of str
        Classes and functions for `trusted` of `skood.load`.
    sha256 : str
        Checksum of the file.
    size : int
        Bytes of the file.
    """

    class_name: str
    estimator: str
    versions: dict[str, str]
    notes: list[str]
    needs: list[str]
    sha256: str
    size: int

    @classmethod
    def of(cls, stated: dict[str, Any], contents: Contents, needs: list[str]) -> Card:
        """Join what the file states with what it is."""
        return cls(**stated, needs=needs, sha256=contents.sha256, size=contents.size)


def make_card(estimator: BaseEstimator, writer: Writer) -> dict[str, Any]:
    """Return what a file states about its estimator."""
    return {
        "class_name": type(estimator).__name__,
        "estimator": repr(estimator),
        "versions": {
            "format": str(FORMAT),
            "skood": skood.__version__,
            "torch": torch.__version__,
            "numpy": np.__version__,
            "scikit-learn": sklearn.__version__,
            "safetensors": version("safetensors"),
            "python": platform.python_version(),
        },
        "notes": writer.notes,
    }
