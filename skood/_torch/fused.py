"""Pointwise functions whose gradients move less memory than autograd's."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

__all__ = ["add_gated", "concat_elu", "crop"]


class _ConcatELU(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        # elu(x) = max(x, e) and elu(-x) = max(-x, e) share e = exp(-|x|) - 1. This is cheaper than
        # expm1, and its rounding error is negligible in the sums of the next convolution.
        wide = torch.promote_types(x.dtype, torch.float32)
        e = x.abs().to(wide).neg_().exp_().sub_(1).to(x.dtype)
        out = _concat(torch.maximum(x, e), torch.maximum(-x, e))
        # The next convolution keeps the output in memory anyway.
        ctx.save_for_backward(out)
        return out

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> Tensor:
        (out,) = ctx.saved_tensors
        positive, negative = out.clamp(max=0).add_(1).mul_(gradient).chunk(2, 1)
        return positive - negative


class _AddGated(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, gated: Tensor) -> Tensor:
        ctx.save_for_backward(gated)
        height, width = x.shape[2:]
        a, b = gated[:, :, :height, :width].chunk(2, 1)
        return torch.addcmul(x, a, torch.sigmoid(b))

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, Tensor]:
        (gated,) = ctx.saved_tensors
        a, b = gated.chunk(2, 1)
        gate = torch.sigmoid(b)
        of_a = _uncrop(gradient, gated.shape) * gate
        return gradient, _concat(of_a, of_a * a * (1 - gate))


class _Crop(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, height: int, width: int) -> Tensor:
        ctx.shape = x.shape
        return x[:, :, :height, :width]

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None, None]:
        return _uncrop(gradient, ctx.shape), None, None


def _concat(x: Tensor, y: Tensor) -> Tensor:
    # Along the last axis, the compiler, too, gives channels_last without a transposition.
    return torch.cat([x.movedim(1, -1), y.movedim(1, -1)], -1).movedim(-1, 1)


def _uncrop(x: Tensor, shape: torch.Size) -> Tensor:
    # Unlike the gradient of a slice, this keeps the memory format.
    return F.pad(x, (0, shape[3] - x.shape[3], 0, shape[2] - x.shape[2]))


def concat_elu(x: Tensor) -> Tensor:
    """Concatenate elu(x) and elu(-x) along the channels."""
    return _ConcatELU.apply(x)


def add_gated(x: Tensor, gated: Tensor) -> Tensor:
    """Add to x the first half of the channels of `gated` times the sigmoid of the second.

    Extra rows (bottom) and columns (right) of `gated` are cropped to the size of x.
    """
    return _AddGated.apply(x, gated)


def crop(x: Tensor, height: int, width: int) -> Tensor:
    """Return the first rows and columns of images."""
    return _Crop.apply(x, height, width)
