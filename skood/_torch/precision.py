"""Whether training may run in bfloat16: not by what a machine claims, but by what it computes."""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable, Sequence

import torch
from torch import Tensor, nn

from skood._torch.seeding import seed_global

__all__ = ["compare_with_fp32", "trains_in_bf16"]

# Rounding to bfloat16 changes the gradient of a layer by a few per cent of its norm, seldom by a
# fifth; what a broken kernel leaves has nothing to do with the gradient. See
# `benchmarks/precision.py` for the errors of real networks.
_GRADIENT_TOLERANCE = 0.5
# Part of the norm of the whole gradient by which a layer may be off whose own gradient is small:
# the bias before a batch normalisation has none but rounding errors.
_SMALL = 0.05
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
        In training mode. Its buffers and random numbers are as before when this returns.
    losses : callable
        Takes whether to use bfloat16 and the tensors of `batch`; returns the mean loss as "loss".
    batch : sequence of Tensor
    device : torch.device
    precision : {"auto", "bf16", "fp32"}
        "auto" takes bfloat16 where the hardware multiplies it natively and gets it right.

    Raises
    ------
    RuntimeError
        When `precision` is "bf16" and the machine gets it wrong.

    Warns
    -----
    UserWarning
        When `precision` is "auto" and the machine gets it wrong.
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
    # bfloat16 without one of these instruction sets is emulated, and slower than float32.
    probes = ("_is_amx_tile_supported", "_is_avx512_bf16_supported")
    return any(getattr(torch.cpu, probe, lambda: False)() for probe in probes)


def _fault(
    objective: nn.Module,
    losses: Callable[..., dict[str, Tensor]],
    batch: Sequence[Tensor],
    device: torch.device,
) -> str | None:
    """Say what is wrong in bfloat16; None where it agrees with float32."""
    loss, exact_loss, errors = compare_with_fp32(objective, losses, batch, device)
    if not math.isfinite(exact_loss):
        return None
    if not abs(loss - exact_loss) <= _LOSS_TOLERANCE * max(abs(exact_loss), 1.0):
        return f"the loss is {loss:.4g} instead of {exact_loss:.4g}"
    small = _SMALL * math.hypot(*(norm for _, norm in errors.values()))
    for name, (error, norm) in errors.items():
        if not error <= _GRADIENT_TOLERANCE * norm + small:
            return (
                f"the gradient of the layer {name!r} is wrong (off by {error:.2g}, of the norm "
                f"{norm:.2g})"
            )
    return None


def compare_with_fp32(
    objective: nn.Module,
    losses: Callable[..., dict[str, Tensor]],
    batch: Sequence[Tensor],
    device: torch.device,
) -> tuple[float, float, dict[str, tuple[float, float]]]:
    """Compute loss and gradients in both precisions.

    Returns
    -------
    loss, exact_loss : float
        In bfloat16 and in float32.
    errors : dict of str to (float, float)
        For each layer the norm of the error of its gradient and that of the gradient.
    """
    buffers = [(buffer, buffer.clone()) for buffer in objective.buffers()]

    def loss_and_gradients(bf16: bool) -> tuple[float, dict[str, Tensor]]:
        seed_global(device, 0)
        objective.zero_grad(set_to_none=True)
        loss = losses(bf16, *batch)["loss"]
        loss.backward()
        for buffer, value in buffers:
            buffer.copy_(value)
        return float(loss.detach()), _gradients_by_layer(objective)

    try:
        exact_loss, exact = loss_and_gradients(False)
        loss, gradients = loss_and_gradients(True)
    finally:
        objective.zero_grad(set_to_none=True)
    errors = {
        name: (float((gradients[name] - expected).norm()), float(expected.norm()))
        for name, expected in exact.items()
    }
    return loss, exact_loss, errors


def _gradients_by_layer(objective: nn.Module) -> dict[str, Tensor]:
    """All gradients of each layer as one vector."""
    gradients = {}
    for name, layer in objective.named_modules():
        own = [p.grad.flatten() for p in layer.parameters(recurse=False) if p.grad is not None]
        if own:
            gradients[name] = torch.cat(own).double()
    return gradients
