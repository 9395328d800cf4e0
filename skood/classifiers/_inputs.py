"""Inputs of networks, tensors or dicts of them, and where and how networks compute."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import torch
from torch import Tensor, nn

__all__ = [
    "copies_of",
    "device_of",
    "dtype_of",
    "is_exported",
    "n_items_of",
    "requiring_gradient",
]


def n_items_of(x: Any) -> int:
    """Return the number of items in an input of a network."""
    return len(next(iter(x.values()))) if isinstance(x, dict) else len(x)


def copies_of(x: Any, rows: Sequence[int]) -> Any:
    """Return copies of some items of an input of a network."""
    rows = list(rows)
    return {name: part[rows] for name, part in x.items()} if isinstance(x, dict) else x[rows]


def requiring_gradient(x: Any) -> Any:
    """Return a copy of an input of a network through which gradients pass.

    They reach inner layers even if all parameters are frozen, unless X holds whole numbers.
    """
    if isinstance(x, dict):
        return {name: requiring_gradient(part) for name, part in x.items()}
    # The leaf requires a gradient; the network gets a copy, which it may change in place.
    return x.clone().requires_grad_().clone() if x.is_floating_point() else x.clone()


def device_of(module: nn.Module) -> torch.device:
    """Return where the first parameter or buffer is; of a module that has none, the CPU."""
    return next((t.device for t in _tensors(module)), torch.device("cpu"))


def dtype_of(module: nn.Module) -> torch.dtype:
    """Return the dtype of the first parameter or buffer of floats; float32 where there is none."""
    return next((t.dtype for t in _tensors(module) if t.is_floating_point()), torch.float32)


def _tensors(module: nn.Module) -> Iterator[Tensor]:
    yield from module.parameters()
    yield from module.buffers()


def is_exported(module: nn.Module) -> bool:
    """Whether a network is scripted or exported, perhaps for one batch size."""
    return isinstance(module, (torch.jit.ScriptModule, torch.fx.GraphModule))
