"""Choice of the device that a network runs on, and what holds for all of a kind."""

from __future__ import annotations

from collections.abc import Generator
from contextlib import contextmanager

import torch

__all__ = ["full_float32", "resolve_device"]


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


@contextmanager
def full_float32() -> Generator[None, None, None]:
    """Keep convolutions on a GPU from rounding float32 to TensorFloat-32, which torch lets them."""
    allowed = torch.backends.cudnn.allow_tf32
    torch.backends.cudnn.allow_tf32 = False
    try:
        yield
    finally:
        torch.backends.cudnn.allow_tf32 = allowed
