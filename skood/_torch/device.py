"""Device selection, and numerical settings per device type."""

from __future__ import annotations

from collections.abc import Generator
from contextlib import contextmanager

import torch

__all__ = ["full_float32", "resolve_device"]


def resolve_device(device: str | torch.device | None) -> torch.device:
    """Return the device to use; None selects CUDA if available, else the CPU."""
    if device is None:
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        resolved = torch.device(device)
    except RuntimeError as error:
        raise ValueError(
            f"device={device!r} is not a torch device; expected None, 'cpu', 'cuda' or 'cuda:0'"
        ) from error
    if resolved.type == "cuda" and not torch.cuda.is_available():
        raise ValueError(
            f"device={device!r}, but torch finds no CUDA device; use device=None to select an "
            "available device, or device='cpu'"
        )
    return resolved


@contextmanager
def full_float32() -> Generator[None, None, None]:
    """Disable TensorFloat-32, which torch allows in float32 convolutions on a GPU."""
    allowed = torch.backends.cudnn.allow_tf32
    torch.backends.cudnn.allow_tf32 = False
    try:
        yield
    finally:
        torch.backends.cudnn.allow_tf32 = allowed
