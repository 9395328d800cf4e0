"""Where a network runs and in which precision it trains."""

from __future__ import annotations

import torch

__all__ = ["resolve_device", "trains_in_bf16"]


def resolve_device(device: str | torch.device | None) -> torch.device:
    """Return the device to use; None picks CUDA where there is one, else the CPU."""
    if device is None:
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        resolved = torch.device(device)
    except RuntimeError as error:
        raise ValueError(
            f"device={device!r} is no torch device; expected None, 'cpu', 'cuda' or 'cuda:0'"
        ) from error
    if resolved.type == "cuda" and not torch.cuda.is_available():
        raise ValueError(
            f"device={device!r} was asked for, but this torch sees no CUDA device; "
            "use device=None to take what is there, or device='cpu'"
        )
    return resolved


def _has_fast_bf16(device: torch.device) -> bool:
    if device.type == "cuda":
        return torch.cuda.get_device_capability(device) >= (8, 0)
    # bfloat16 without one of these instruction sets is emulated, and slower than float32.
    probes = ("_is_amx_tile_supported", "_is_avx512_bf16_supported")
    return any(getattr(torch.cpu, probe, lambda: False)() for probe in probes)


def trains_in_bf16(device: torch.device, precision: str) -> bool:
    """Whether a training step runs under bfloat16 autocast.

    Parameters
    ----------
    device : torch.device
    precision : {"auto", "bf16", "fp32"}
        "auto" takes bfloat16 where the hardware multiplies it natively.
    """
    return precision == "bf16" or (precision == "auto" and _has_fast_bf16(device))
