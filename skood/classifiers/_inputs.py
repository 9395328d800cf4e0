"""Inputs of networks, tensors or dicts of tensors; device and dtype of networks."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import torch
from torch import Tensor, nn

__all__ = [
    "copies_of",
    "device_of",
    "dtype_of",
    "first_layer",
    "is_exported",
    "mismatch",
    "n_items_of",
    "ranges_of",
    "readable",
    "requiring_gradient",
]


def n_items_of(x: Any) -> int:
    """Return the number of items in an input of a network."""
    # `len` would fix the size of the batch in a graph that is traced.
    return (next(iter(x.values())) if isinstance(x, dict) else x).shape[0]


def copies_of(x: Any, rows: Sequence[int]) -> Any:
    """Return copies of some items of an input of a network."""
    rows = list(rows)
    return {name: part[rows] for name, part in x.items()} if isinstance(x, dict) else x[rows]


def ranges_of(x: Any) -> tuple[tuple[str | None, tuple[int, ...], str, float, float], ...]:
    """Describe the tensors of an input, as in :class:`~skood.classifiers._reading.Reading`."""
    named = sorted(x.items()) if isinstance(x, dict) else [(None, x)]
    return tuple(
        (
            name,
            tuple(part.shape[1:]),
            "float" if part.is_floating_point() else str(part.dtype).removeprefix("torch."),
            float(part.min()),
            float(part.max()),
        )
        for name, part in named
    )


def requiring_gradient(x: Any) -> Any:
    """Return a copy of a network's input that requires a gradient.

    Gradients then reach inner layers even if all parameters are frozen, unless X has whole numbers.
    """
    if isinstance(x, dict):
        return {name: requiring_gradient(part) for name, part in x.items()}
    # The leaf requires a gradient; the network gets a copy, which it may change in place.
    return x.clone().requires_grad_().clone() if x.is_floating_point() else x.clone()


def device_of(module: nn.Module) -> torch.device:
    """Return the device of the first parameter or buffer; the CPU for a module without any."""
    return next((t.device for t in _tensors(module)), torch.device("cpu"))


def dtype_of(module: nn.Module) -> torch.dtype:
    """Return the dtype of the first floating-point parameter or buffer; float32 without any."""
    return next((t.dtype for t in _tensors(module) if t.is_floating_point()), torch.float32)


def _tensors(module: nn.Module) -> Iterator[Tensor]:
    yield from module.parameters()
    yield from module.buffers()


def is_exported(module: nn.Module) -> bool:
    """Whether a network is scripted or exported, possibly for one batch size."""
    fixed = getattr(module, "has_fixed_batch", False) is True
    return fixed or isinstance(module, (torch.jit.ScriptModule, torch.fx.GraphModule))


def first_layer(module: nn.Module) -> nn.Module | None:
    """Return the first layer that has parameters itself, in the order of declaration."""
    layers = (
        layer for layer in module.modules() if next(layer.parameters(False), None) is not None
    )
    return next((layer for layer in layers if type(layer).__module__.startswith("torch.nn")), None)


def mismatch(module: nn.Module, x: Any) -> str:
    """Describe the data, and the input that the first layer with parameters expects."""
    name = type(module).__name__
    if isinstance(x, dict):
        shapes = {field: tuple(values.shape) for field, values in x.items()}
        return f"X has the fields {shapes}, which the network {name} does not take"
    shape = tuple(x.shape[1:])
    if x.ndim == 2:
        said = f"X has rows of {x.shape[1]} values"
    elif x.ndim == 4:
        said = f"X has images of {shape} (C, H, W)"
    else:
        said = f"X has items of shape {shape}"
    said += f", {x.dtype}, which the network {name} does not take"
    first = first_layer(module)
    if isinstance(first, nn.Linear):
        said += f"; its first layer takes rows of {first.in_features} values"
    elif isinstance(first, (nn.Conv1d, nn.Conv2d, nn.Conv3d)):
        kind = {nn.Conv1d: "signals", nn.Conv2d: "images", nn.Conv3d: "volumes"}[type(first)]
        said += f"; its first layer takes {kind} of {first.in_channels} channel(s)"
        if first.in_channels == len(x) > 1:
            said += " (if X is one item, give X[None])"
    elif isinstance(first, (nn.Embedding, nn.EmbeddingBag)):
        said += (
            f"; its first layer takes whole numbers from 0 to {first.num_embeddings - 1}: give "
            "them as integers"
        )
    return said


def readable(tensor: Tensor) -> Tensor:
    """Convert half precision, in which sums and squares lose digits or overflow, to float32."""
    return tensor.float() if tensor.dtype in (torch.float16, torch.bfloat16) else tensor
