"""skood: out-of-distribution detection for scikit-learn, over deep torch models."""

from __future__ import annotations

import importlib
from typing import Any

__version__ = "0.1.0.dev0"

_HOMES = {
    "LikelihoodRatio": "skood.likelihood",
    "LogLikelihood": "skood.likelihood",
    "NeuralSplineFlow": "skood.density",
    "PixelCNN": "skood.density",
}

__all__ = ["__version__", *_HOMES]


def __getattr__(name: str) -> Any:
    # Imported on first use: `import skood` costs no import of torch.
    if name in _HOMES:
        return getattr(importlib.import_module(_HOMES[name]), name)
    raise AttributeError(f"module 'skood' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted(__all__)
