"""The versions and the hardware that a report of a bug needs."""

from __future__ import annotations

import os
import platform
from importlib import metadata

import torch

import skood
from skood._torch.precision import has_fast_bf16

__all__ = ["show_versions"]

_REQUIRED = (
    *("joblib", "numpy", "pillow", "safetensors", "scikit-learn", "scipy", "torch"),
    *("torchvision", "tqdm", "zuko"),
)
_OPTIONAL = (
    *(
        "faiss-cpu",
        "hnswlib",
        "matplotlib",
        "onnx",
        "onnxruntime",
        "onnxscript",
        "pandas",
        "polars",
        "timm",
    ),
    "transformers",
)


def show_versions() -> None:
    """Print the versions of skood and of its dependencies, and the devices that torch finds.

    Copy the output into a report of a bug. It holds no names of users, hosts or folders.

    Examples
    --------
    >>> import skood
    >>> skood.show_versions()  # doctest: +ELLIPSIS
    skood         ...
    python        ...
    """
    entries = {
        "skood": skood.__version__,
        "python": f"{platform.python_version()} ({platform.python_implementation()})",
        "system": f"{platform.system()} {platform.release()} {platform.machine()}",
        **{name: _version(name) for name in (*_REQUIRED, *_OPTIONAL)},
        "cpu": _cpu(),
        "gpu": _gpu(),
    }
    for name, value in entries.items():
        print(f"{name:13} {value}")


def _version(name: str) -> str:
    try:
        return metadata.version(name)
    except metadata.PackageNotFoundError:
        return "not installed"


def _cpu() -> str:
    bf16 = "native" if has_fast_bf16(torch.device("cpu")) else "emulated"
    capability = torch.backends.cpu.get_cpu_capability()
    return (
        f"{os.cpu_count()} cores, {torch.get_num_threads()} threads of torch, {capability}, "
        f"bfloat16 {bf16}"
    )


def _gpu() -> str:
    names = [torch.cuda.get_device_name(i) for i in range(torch.cuda.device_count())]
    if torch.backends.mps.is_available():
        names.append("MPS")
    builds = {"CUDA": torch.version.cuda, "ROCm": torch.version.hip}
    build = next((f"{name} {number}" for name, number in builds.items() if number), "the CPU only")
    return f"{', '.join(names) or 'none found'} (torch is built for {build})"
