"""Compiled training steps that fall back to uncompiled ones if the compiler fails."""

from __future__ import annotations

import shutil
import warnings
from collections.abc import Callable
from functools import cache, partial
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
    return _CompiledWithFallback(function) if wanted else function


class _CompiledWithFallback:
    """Compiled function that falls back to the uncompiled one if the compiler fails."""

    def __init__(self, function: Callable[..., Any]) -> None:
        self.function = function
        # On first use, since torch.compile itself raises on unsupported Python versions.
        self.compile: Callable[[], Callable[..., Any]] | None = cache(
            partial(torch.compile, function)
        )

    def __call__(self, *batch: Any) -> Any:
        if self.compile is not None:
            try:
                return self.compile()(*batch)
            except _compiler_errors() as error:
                lines = str(error).strip().splitlines() or [""]
                warnings.warn(
                    f"torch.compile failed ({type(error).__name__}: {lines[0]}); training goes on "
                    "uncompiled. Pass compile=False to silence this.",
                    stacklevel=2,
                )
                self.compile = None
        return self.function(*batch)


def _compiler_errors() -> tuple[type[Exception], ...]:
    from torch._dynamo.exc import TorchDynamoException

    return (TorchDynamoException, OSError, RuntimeError)
