"""Jacobian of a function with few inputs and many outputs."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

__all__ = ["forward_jacobian"]


def forward_jacobian(function: Callable[[Tensor], Tensor], z: Tensor) -> Tensor:
    """Jacobian of `function` at each row of z, in forward mode.

    Costs about d + 1 forward passes, while backward mode needs a pass for each output.

    Parameters
    ----------
    function : callable
        Maps (b, d) to (b, ...), row by row.
    z : Tensor of shape (b, d)

    Returns
    -------
    Tensor of shape (b, D, d)
        D is the number of outputs per row.
    """

    def derivative(direction: Tensor) -> Tensor:
        tangent = direction.expand_as(z)
        return torch.func.jvp(lambda z: function(z).flatten(1), (z,), (tangent,))[1]

    basis = torch.eye(z.shape[1], dtype=z.dtype, device=z.device)
    with torch.no_grad():
        return torch.func.vmap(derivative, out_dims=-1)(basis)
