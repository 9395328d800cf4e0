"""Compiled training steps that fall back to uncompiled ones if the compiler fails."""

from __future__ import annotations

import shutil
import warnings
from collections.abc import Callable
from typing import Any

import torch

__all__ = ["maybe_compile"]

_STEPS_THAT_PAY_FOR_COMPILING = 2000


def maybe_compile(
    function: Callable[..., Any], wanted: bool | str, n_steps: int
) -> Callable[..., Any]:
    """Compile `function` if requested, or, with "auto", if it saves time."""
    if wanted == "auto":
        has_compiler = torch.cuda.is_available() or any(
            map(shutil.which, ("c++", "g++", "clang++"))
        )
        wanted = has_compiler and n_steps >= _STEPS_THAT_PAY_FOR_COMPILING
    if not wanted:
        return function
    compiled: Callable[..., Any] | None = None
    has_failed = False

    def compiled_or_not(*batch: Any) -> Any:
        nonlocal compiled, has_failed
        if not has_failed:
            try:
                # On first use, since torch.compile raises on unsupported Python versions.
                compiled = compiled or torch.compile(function)
                return compiled(*batch)
            except _compiler_errors() as error:
                lines = str(error).strip().splitlines() or [""]
                warnings.warn(
                    f"torch.compile failed ({type(error).__name__}: {lines[0]}); training goes on "
                    "uncompiled. Pass compile=False to silence this warning.",
                    stacklevel=2,
                )
                has_failed = True
        return function(*batch)

    return compiled_or_not


def _compiler_errors() -> tuple[type[Exception], ...]:
    from torch._dynamo.exc import TorchDynamoException

    return (TorchDynamoException, OSError, RuntimeError)
