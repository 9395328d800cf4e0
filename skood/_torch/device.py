"""Device selection, memory that runs out, and numerical settings per device type."""

from __future__ import annotations

import os
from collections.abc import Generator
from contextlib import contextmanager

import torch

__all__ = ["full_float32", "is_out_of_memory", "resolve_device"]

# Messages of torch's allocators and of CUDA's libraries when memory runs out.
_NO_MEMORY = (
    "out of memory", "can't allocate memory", "not enough memory", "ALLOC_FAILED"
)  # fmt: skip


def resolve_device(device: str | torch.device | None) -> torch.device:
    """Return the device to use; None selects CUDA if available, else the CPU.

    Under torchrun, None selects the GPU with the local rank of the process.
    """
    if device is None:
        if not torch.cuda.is_available():
            return torch.device("cpu")
        number = int(os.environ.get("LOCAL_RANK", 0))
        # A launcher may show each process its own GPU only.
        if "TORCHELASTIC_RUN_ID" in os.environ and number < torch.cuda.device_count():
            return torch.device("cuda", number)
        return torch.device("cuda")
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


def is_out_of_memory(error: Exception) -> bool:
    """Whether an error says that the memory of a CPU or a GPU is full."""
    return isinstance(error, (MemoryError, torch.cuda.OutOfMemoryError)) or any(
        message in str(error) for message in _NO_MEMORY
    )


@contextmanager
def full_float32() -> Generator[None, None, None]:
    """Disable TensorFloat-32, which torch allows in float32 convolutions on a GPU."""
    allowed = torch.backends.cudnn.allow_tf32
    torch.backends.cudnn.allow_tf32 = False
    try:
        yield
    finally:
        torch.backends.cudnn.allow_tf32 = allowed
