"""Dtype and memory layout of the arrays that networks read."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

__all__ = ["check_not_nested", "from_torch", "in_c_order", "in_float32"]


def in_float32(values: npt.NDArray) -> npt.NDArray:
    """Convert float16, whose squares overflow, to float32; keep any other dtype."""
    return values.astype(np.float32) if values.dtype == np.float16 else values


def in_c_order(values: npt.NDArray, shape: tuple[int, ...]) -> npt.NDArray:
    """Return values of this shape in C order, native byte order and no half precision.

    Torch chooses an algorithm by the strides, even by strides of axes of length 1, which numpy
    leaves undefined in a contiguous array.
    """
    if not values.dtype.isnative:
        values = values.astype(values.dtype.newbyteorder("="))
    return np.ascontiguousarray(in_float32(values)).reshape(-1).reshape(shape)


def check_not_nested(X: object) -> None:
    """Raise an error for a nested tensor, which has no shape."""
    if isinstance(X, Tensor) and X.is_nested:
        raise ValueError(
            "X is a nested tensor, whose items have unequal lengths; give "
            "torch.nested.to_padded_tensor(X, value), together with a mask if the network reads one"
        )


def from_torch(tensor: Tensor) -> npt.NDArray:
    """Return a dense tensor as an array."""
    if tensor.layout != torch.strided:
        raise ValueError(f"X is a tensor of layout {tensor.layout}; give X.to_dense()")
    if tensor.is_quantized:
        raise ValueError(f"X is a tensor of dtype {tensor.dtype}; give X.dequantize()")
    tensor = tensor.detach().cpu()
    # numpy has no bfloat16.
    return (tensor.float() if tensor.dtype == torch.bfloat16 else tensor).numpy()
