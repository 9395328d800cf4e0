"""Whether training runs in bfloat16, decided by the hardware and a test of the gradients."""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable, Generator, Sequence
from contextlib import ExitStack, contextmanager
from functools import partial
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn.modules.conv import _ConvNd
from torch.nn.modules.dropout import _DropoutNd

from skood._torch.seeding import seed_global

__all__ = ["compare_with_fp32", "trains_in_bf16"]

# Rounding to bfloat16 adds a random error to a layer's gradient, up to half its norm in deep
# networks, but keeps most of the gradient (benchmarks/precision.py). A wrong kernel keeps nothing
# of the gradient, or adds an error of many times its norm.
_KEPT = 0.6, 1.5
_LARGEST_ERROR = 1.0
# Errors of a layer below this fraction of the whole gradient's norm are ignored.
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

    Some processors and libraries compute wrong gradients in bfloat16 for some shapes. Loss and
    gradients of one batch are therefore compared with float32 first, once per process for each
    network, shape of batch and device.

    Parameters
    ----------
    objective : Module
        In training mode. Its buffers are restored.
    losses : callable
        Takes whether to use bfloat16 and the tensors of `batch`; returns the mean loss as "loss".
    batch : sequence of Tensor
    device : torch.device
    precision : {"auto", "bf16", "fp32"}
        "auto" uses bfloat16 where the hardware multiplies it natively and the results are right.

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
            f"precision='bf16' was requested, but in bfloat16 {fault} on this machine; use "
            "precision='auto', which falls back to float32, or 'fp32'"
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
    # Speed of training relative to float32 (benchmarks/README.md): 1.5 to 3.1 with AMX, 1.6 to 1.9
    # with AVX512-BF16, 0.1 without either, where bfloat16 is emulated.
    probes = ("_is_amx_tile_supported", "_is_avx512_bf16_supported")
    return any(getattr(torch.cpu, probe, lambda: False)() for probe in probes)


def _fault(
    objective: nn.Module,
    losses: Callable[..., dict[str, Tensor]],
    batch: Sequence[Tensor],
    device: torch.device,
) -> str | None:
    """Describe what is wrong in bfloat16; None if it agrees with float32."""
    try:
        with _narrow_convolutions(objective) as narrow:
            loss, exact_loss, layers = compare_with_fp32(objective, losses, batch, device)
    except torch.cuda.OutOfMemoryError:
        # float32 ran out of memory, so there is no reference to compare with.
        return None
    if narrow and device.type == "cpu":
        # Their gradients are wrong only sometimes, with AMX and with AVX512-BF16, so a comparison
        # may miss it.
        return (
            f"the gradient of the layer {narrow[0]!r} is unreliable (its input or output is one "
            "pixel high or wide)"
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
                f"the gradient of the layer {name!r} is wrong (its error has the norm "
                f"{layer.error:.2g}, the gradient {layer.norm:.2g})"
            )
    return None


@contextmanager
def _narrow_convolutions(objective: nn.Module) -> Generator[list[str], None, None]:
    """Collect the names of convolutions whose input or output is one pixel high or wide."""
    narrow: list[str] = []

    def note(name: str, _: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> None:
        if 1 in (*inputs[0].shape[2:], *output.shape[2:]):
            narrow.append(name)

    with ExitStack() as hooks:
        for name, module in objective.named_modules():
            if isinstance(module, _ConvNd) and any(side > 1 for side in module.kernel_size):
                hooks.enter_context(module.register_forward_hook(partial(note, name)))
        yield narrow


class LayerComparison(NamedTuple):
    """Comparison of a layer's gradients in bfloat16 and float32.

    Attributes
    ----------
    norm : float
        Norm of the gradient in float32.
    error : float
        Norm of the difference.
    kept : float
        Projection of the bfloat16 gradient on the float32 gradient, divided by the norm of the
        latter; 1 if they agree.
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

    Gradients of frozen weights count too: a later epoch may train them.

    Returns
    -------
    loss, exact_loss : float
        In bfloat16 and in float32.
    layers : dict of str to LayerComparison
    """
    # Keep each buffer's owner: a loss may rebind the buffer to a new tensor.
    buffers = [
        (module, name, buffer, buffer.clone())
        for module in objective.modules()
        for name, buffer in module.named_buffers(recurse=False)
    ]
    # On a GPU, dropout masks depend on the dtype even with the same seed.
    dropouts = [m for m in objective.modules() if isinstance(m, _DropoutNd) and m.training]
    frozen = [p for p in objective.parameters() if not p.requires_grad]

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
        for parameter in frozen:
            parameter.requires_grad_(True)
        exact_loss, exact = loss_and_gradients(False)
        loss, gradients = loss_and_gradients(True)
    finally:
        for dropout in dropouts:
            dropout.train()
        restore()
        for parameter in frozen:
            parameter.requires_grad_(False)
        objective.zero_grad(set_to_none=True)
    layers = {}
    for name, expected in exact.items():
        norm = float(expected.norm())
        kept = float(gradients[name] @ expected) / max(norm**2, 1e-300)
        layers[name] = LayerComparison(norm, float((gradients[name] - expected).norm()), kept)
    return loss, exact_loss, layers


def _gradients_by_layer(objective: nn.Module) -> dict[str, Tensor]:
    """Gradients of each layer, as one vector."""
    gradients = {}
    for name, layer in objective.named_modules():
        own = [p.grad.flatten() for p in layer.parameters(recurse=False) if p.grad is not None]
        if own:
            gradients[name] = torch.cat(own).cpu().double()
    return gradients
