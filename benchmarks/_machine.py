"""Description of the machine that runs a benchmark."""

from __future__ import annotations

import os
import platform
from pathlib import Path

import numpy as np
import sklearn
import torch

import skood

__all__ = ["machine"]


def machine() -> dict[str, str | int]:
    """Return the processor, its bfloat16 and AVX-512 instruction sets, the GPU and the versions."""
    cpu, flags = platform.processor(), set()
    cpuinfo = Path("/proc/cpuinfo")
    if cpuinfo.exists():
        rows = (line.split(":", 1) for line in cpuinfo.read_text().splitlines() if ":" in line)
        fields = {key.strip(): value.strip() for key, value in rows}
        cpu, flags = fields.get("model name", cpu), set(fields.get("flags", "").split())
    return {
        "cpu": cpu,
        "cores": os.cpu_count() or 0,
        "threads": torch.get_num_threads(),
        "instruction_sets": " ".join(sorted({"amx_bf16", "avx512_bf16", "avx512f"} & flags)),
        "gpu": torch.cuda.get_device_name() if torch.cuda.is_available() else "none",
        "python": platform.python_version(),
        "torch": torch.__version__,
        "scikit-learn": sklearn.__version__,
        "numpy": np.__version__,
        "skood": skood.__version__,
    }
