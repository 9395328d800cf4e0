"""skood: out-of-distribution detection for scikit-learn, over deep torch models."""

from __future__ import annotations

import ast
import importlib
from pathlib import Path
from typing import Any

__version__ = "0.1.0"

# The module of each public name, from the stub that type checkers and editors read.
_HOMES = {
    alias.name: node.module or ""
    for node in ast.parse(Path(__file__).with_suffix(".pyi").read_text(encoding="utf-8")).body
    if isinstance(node, ast.ImportFrom)
    for alias in node.names
}

__all__ = ["__version__", *sorted(_HOMES)]


def __getattr__(name: str) -> Any:
    # Imported on first use: `import skood` costs no import of torch.
    if name not in _HOMES:
        raise AttributeError(f"module 'skood' has no attribute {name!r}")
    home = _HOMES[name]
    if home == "skood":
        return importlib.import_module(f"skood.{name}")
    return getattr(importlib.import_module(home), name)


def __dir__() -> list[str]:
    return sorted(__all__)
