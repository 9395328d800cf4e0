"""Jacobians of functions of rows, in forward and in backward mode."""

from __future__ import annotations

import functools
import warnings
from collections.abc import Callable

import torch
from torch import Tensor

from skood._torch.threads import computing

__all__ = ["backward_jacobian", "forward_jacobian"]


def forward_jacobian(function: Callable[[Tensor], Tensor], z: Tensor) -> Tensor:
    """Jacobian of `function` at each row of z, in forward mode.

    Costs about d + 1 forward passes, while backward mode needs a pass for each output. Only one
    thread at a time computes in forward mode, whose levels belong to the process.

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
    with computing, torch.no_grad():
        _load_forward_mode()
        return torch.func.vmap(derivative, out_dims=-1)(basis)


@functools.cache
def _load_forward_mode() -> None:
    """Make torch load its forward mode, without the warnings of this first use.

    Torch itself compiles formulas of forward mode by its deprecated ``torch.jit.script``.
    """
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", r"`torch\.jit\.", FutureWarning)
        torch.func.jvp(torch.sin, (torch.zeros(()),), (torch.ones(()),))


def backward_jacobian(function: Callable[[Tensor], Tensor], x: Tensor) -> Tensor:
    """Jacobian of `function` at each row of x, in backward mode.

    Faster than forward mode if a row has no more outputs than inputs.

    Parameters
    ----------
    function : callable
        Maps (b, d) to (b, D), row by row.
    x : Tensor of shape (b, d)

    Returns
    -------
    Tensor of shape (b, D, d)
    """
    with torch.no_grad():
        outputs, pull = torch.func.vjp(function, x)
        basis = torch.eye(outputs.shape[1], dtype=x.dtype, device=x.device)
        rows = torch.func.vmap(lambda row: pull(row.expand_as(outputs))[0], out_dims=1)
        return rows(basis)
