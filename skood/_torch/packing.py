"""Trained networks as plain data: pickles that depend on their content alone."""

from __future__ import annotations

import copy
from typing import Any

import numpy.typing as npt
import torch
from torch import Tensor, nn

from skood._checked_data import from_torch

__all__ = ["arrays_of", "pack", "tensors_of", "unpack"]


def pack(module: nn.Module) -> tuple[nn.Module, dict[str, npt.NDArray]]:
    """Separate a network into its structure and its values, for a pickle.

    The pickle of a torch storage differs between processes and names a device. That of the two
    parts is the same for the same content, so that :func:`joblib.hash` of an estimator finds in a
    cache or among checkpoints what another process, or another device, left there.

    Parameters
    ----------
    module : Module
        Left as it is.

    Returns
    -------
    skeleton : Module
        A copy whose parameters and buffers have shapes, dtypes and strides, but no values and no
        gradients.
    arrays : dict of str to ndarray
        Values by name, see :func:`arrays_of`. May share memory with `module`.
    """
    hollow = {
        id(tensor): _like(tensor, torch.empty_like(tensor, device="meta"))
        for tensor in tensors_of(module).values()
    }
    return copy.deepcopy(module, hollow), arrays_of(module)


def unpack(packed: tuple[nn.Module, dict[str, npt.NDArray]]) -> nn.Module:
    """Put together what :func:`pack` separated.

    Returns
    -------
    Module
        On the CPU, with memory of its own; in the modes and with the ties of the original.
    """
    skeleton, arrays = packed
    filled = {
        id(tensor): _like(
            tensor, torch.empty_like(tensor, device="cpu").copy_(torch.tensor(arrays[name]))
        )
        for name, tensor in tensors_of(skeleton).items()
    }
    return copy.deepcopy(skeleton, filled)


def tensors_of(module: nn.Module) -> dict[str, Tensor]:
    """Return parameters and buffers by name; shared ones appear under each of their names."""
    return {
        **dict(module.named_parameters(remove_duplicate=False)),
        **dict(module.named_buffers(remove_duplicate=False)),
    }


def arrays_of(module: nn.Module) -> dict[str, npt.NDArray]:
    """Return parameters and buffers as arrays; bfloat16, which numpy lacks, as float32."""
    return {name: from_torch(tensor.contiguous()) for name, tensor in tensors_of(module).items()}


def _like(tensor: Tensor, values: Tensor) -> Any:
    """Return `values`, as a parameter if `tensor` is one."""
    if isinstance(tensor, nn.Parameter):
        return nn.Parameter(values, requires_grad=tensor.requires_grad)
    return values
