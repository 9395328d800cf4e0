"""Preprocessing as bytes that depend on its content alone."""

from __future__ import annotations

import io
import pickle
from dataclasses import dataclass
from typing import Any

import numpy.typing as npt
import torch
from torch import Tensor, nn

from skood._data.memory_layout import from_torch

__all__ = ["packed", "unpacked"]


@dataclass(frozen=True)
class _Packed:
    content: bytes


class _Pickler(pickle.Pickler):
    """Writes tensors as arrays: the pickle of a torch storage differs between processes."""

    def reducer_override(self, value: Any) -> Any:
        if isinstance(value, Tensor) and not isinstance(value, nn.Parameter):
            return _tensor, (from_torch(value),)
        return NotImplemented


def _tensor(array: npt.NDArray) -> Tensor:
    return torch.tensor(array)


def packed(processor: Any) -> Any:
    """Return an object for pickles and hashes; the processor itself if it cannot be pickled."""
    try:
        # Which of its parts are one object differs from an unpickled copy, and with it the bytes.
        return _Packed(_bytes(pickle.loads(_bytes(processor))))
    except Exception:
        # The pickler of joblib's processes may be able to.
        return processor


def _bytes(processor: Any) -> bytes:
    file = io.BytesIO()
    _Pickler(file).dump(processor)
    return file.getvalue()


def unpacked(processor: Any) -> Any:
    """Undo :func:`packed`."""
    return pickle.loads(processor.content) if isinstance(processor, _Packed) else processor
