"""Whether training may run in bfloat16, decided by a test of the computed gradients."""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable, Generator, Sequence
from contextlib import contextmanager
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn.modules.conv import _ConvNd
from torch.nn.modules.dropout import _DropoutNd

from skood._torch.seeding import seed_global

__all__ = ["compare_with_fp32", "trains_in_bf16"]

# Rounding to bfloat16 adds to the gradient of a layer a random error, of half its norm in deep
# networks, but preserves most of the gradient (benchmarks/precision.py). A wrong kernel preserves
# nothing of it, or adds an error of many times its norm.
_KEPT = 0.6, 1.5
_LARGEST_ERROR = 1.0
# Fraction of the whole gradient's norm below which the error of a layer is ignored.
_SMALL = 0.005
_LOSS_TOLERANCE = 0.1

_known_faults: dict[tuple, str | None] = {}


def trains_in_bf16(
    objective: nn.Module,
    losses: Callable[..., dict[str, Tensor]],
    batch: Sequence[Tensor],
    device: torch.device,
    precision: str,
) -> bool:
    """Whether training steps run under bfloat16 autocast.

    Some processors and libraries compute wrong gradients in bfloat16 for some shapes. Before it is
    used, loss and gradients of one batch are compared with those in float32, once in a process for
    each network, shape of batch and device.

    Parameters
    ----------
    objective : Module
        In training mode. Buffers and random state are restored before this returns.
    losses : callable
        Takes whether to use bfloat16 and the tensors of `batch`; returns the mean loss as "loss".
    batch : sequence of Tensor
    device : torch.device
    precision : {"auto", "bf16", "fp32"}
        "auto" takes bfloat16 where the hardware multiplies it natively and correctly.

    Raises
    ------
    RuntimeError
        When `precision` is "bf16" and the bfloat16 results are wrong.

    Warns
    -----
    UserWarning
        When `precision` is "auto" and the bfloat16 results are wrong.
    """
    if precision == "fp32" or (precision == "auto" and not has_fast_bf16(device)):
        return False
    shapes = tuple((tuple(x.shape), x.dtype) for x in batch)
    key = (repr(objective), tuple(p.shape for p in objective.parameters()), shapes, str(device))
    if key not in _known_faults:
        _known_faults[key] = _fault(objective, losses, batch, device)
    fault = _known_faults[key]
    if fault is None:
        return True
    if precision == "bf16":
        raise RuntimeError(
            f"precision='bf16' was asked for, but in bfloat16 {fault} on this machine; use "
            "precision='auto', which then trains in float32, or 'fp32'"
        )
    warnings.warn(
        f"in bfloat16 {fault} on this machine, so training runs in float32; precision='fp32' "
        "silences this warning",
        stacklevel=3,
    )
    return False


def has_fast_bf16(device: torch.device) -> bool:
    """Whether the hardware multiplies bfloat16 natively."""
    if device.type == "cuda":
        return torch.cuda.get_device_capability(device) >= (8, 0)
    # Without one of these instruction sets, bfloat16 is emulated and slower than float32.
    probes = ("_is_amx_tile_supported", "_is_avx512_bf16_supported")
    return any(getattr(torch.cpu, probe, lambda: False)() for probe in probes)


def _fault(
    objective: nn.Module,
    losses: Callable[..., dict[str, Tensor]],
    batch: Sequence[Tensor],
    device: torch.device,
) -> str | None:
    """Say what is wrong in bfloat16; None where it agrees with float32."""
    try:
        with _narrow_convolutions(objective) as narrow:
            loss, exact_loss, layers = compare_with_fp32(objective, losses, batch, device)
    except torch.cuda.OutOfMemoryError:
        # A batch that fits in bfloat16 alone can be compared with nothing.
        return None
    if narrow and device.type == "cpu":
        # Wrong now and then, not always, on processors with AMX and with AVX512-BF16 alike.
        return (
            f"the gradient of the layer {narrow[0]!r} cannot be trusted (it reads or makes images "
            "that are one pixel high or wide)"
        )
    if not math.isfinite(exact_loss):
        return None
    if not abs(loss - exact_loss) <= _LOSS_TOLERANCE * max(abs(exact_loss), 1.0):
        return f"the loss is {loss:.4g} instead of {exact_loss:.4g}"
    small = _SMALL * math.hypot(*(layer.norm for layer in layers.values()))
    for name, layer in layers.items():
        right = _KEPT[0] <= layer.kept <= _KEPT[1] and layer.error <= _LARGEST_ERROR * layer.norm
        if not (right or layer.error <= small):
            return (
                f"the gradient of the layer {name!r} is wrong (off by {layer.error:.2g}, of the "
                f"norm {layer.norm:.2g})"
            )
    return None


@contextmanager
def _narrow_convolutions(objective: nn.Module) -> Generator[list[str], None, None]:
    """List the convolutions that meanwhile read or make images one pixel high or wide."""
    narrow: list[str] = []

    def note(name: str) -> Callable[[nn.Module, tuple[Tensor, ...], Tensor], None]:
        def hook(module: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> None:
            if 1 in (*inputs[0].shape[2:], *output.shape[2:]):
                narrow.append(name)

        return hook

    handles = [
        module.register_forward_hook(note(name))
        for name, module in objective.named_modules()
        if isinstance(module, _ConvNd) and any(side > 1 for side in module.kernel_size)
    ]
    try:
        yield narrow
    finally:
        for handle in handles:
            handle.remove()


class LayerComparison(NamedTuple):
    """Comparison of a layer's gradients in bfloat16 and in float32.

    Attributes
    ----------
    norm : float
        Norm of the gradient in float32.
    error : float
        Norm of the difference.
    kept : float
        Projection of the bfloat16 gradient on the float32 one, over its norm; 1 if they agree.
    """

    norm: float
    error: float
    kept: float


def compare_with_fp32(
    objective: nn.Module,
    losses: Callable[..., dict[str, Tensor]],
    batch: Sequence[Tensor],
    device: torch.device,
) -> tuple[float, float, dict[str, LayerComparison]]:
    """Compute loss and gradients in both precisions, without dropout.

    Returns
    -------
    loss, exact_loss : float
        In bfloat16 and in float32.
    layers : dict of str to LayerComparison
    """
    # With the modules that hold them, since a loss may put another tensor in the place of one.
    buffers = [
        (module, name, buffer, buffer.clone())
        for module in objective.modules()
        for name, buffer in module.named_buffers(recurse=False)
    ]
    # A GPU draws other masks in another precision, whatever the seed.
    dropouts = [m for m in objective.modules() if isinstance(m, _DropoutNd) and m.training]

    def restore() -> None:
        for module, name, buffer, value in buffers:
            buffer.copy_(value)
            module._buffers[name] = buffer

    def loss_and_gradients(bf16: bool) -> tuple[float, dict[str, Tensor]]:
        seed_global(device, 0)
        objective.zero_grad(set_to_none=True)
        loss = losses(bf16, *batch)["loss"]
        loss.backward()
        restore()
        return float(loss.detach()), _gradients_by_layer(objective)

    try:
        for dropout in dropouts:
            dropout.eval()
        exact_loss, exact = loss_and_gradients(False)
        loss, gradients = loss_and_gradients(True)
    finally:
        for dropout in dropouts:
            dropout.train()
        restore()
        objective.zero_grad(set_to_none=True)
    layers = {}
    for name, expected in exact.items():
        norm = float(expected.norm())
        kept = float(gradients[name] @ expected) / max(norm**2, 1e-300)
        layers[name] = LayerComparison(norm, float((gradients[name] - expected).norm()), kept)
    return loss, exact_loss, layers


def _gradients_by_layer(objective: nn.Module) -> dict[str, Tensor]:
    """All gradients of each layer as one vector."""
    gradients = {}
    for name, layer in objective.named_modules():
        own = [p.grad.flatten() for p in layer.parameters(recurse=False) if p.grad is not None]
        if own:
            gradients[name] = torch.cat(own).cpu().double()
    return gradients
