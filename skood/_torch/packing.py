"""Trained networks as plain data, so that pickles depend only on the content."""

from __future__ import annotations

import copy
import io
import pickle
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import joblib
import numpy.typing as npt
import torch
from torch import Tensor, nn

from skood._checked_data import from_torch

__all__ = ["arrays_of", "content_of", "pack", "tensors_of", "unpack"]


@dataclass(frozen=True)
class _Saved:
    """Scripted module or exported program, in torch's file format."""

    is_script: bool
    content: bytes

    @classmethod
    def of(cls, module: Any) -> _Saved:
        file, is_script = io.BytesIO(), isinstance(module, torch.jit.ScriptModule)
        (torch.jit.save if is_script else torch.export.save)(module, file)
        return cls(is_script, file.getvalue())

    def load(self) -> Any:
        file = io.BytesIO(self.content)
        if self.is_script:
            return torch.jit.load(file, map_location="cpu")
        return torch.export.load(file)


def pack(module: nn.Module) -> tuple[nn.Module | _Saved, dict[str, npt.NDArray]]:
    """Separate a network into structure and values, for a pickle.

    The pickle of a torch storage names its device and differs between processes. These two parts
    depend only on the content, so that :func:`joblib.hash` of an estimator finds caches and
    checkpoints of other processes and devices.

    Parameters
    ----------
    module : Module
        Not modified.

    Returns
    -------
    skeleton : Module or _Saved
        A copy whose parameters and buffers have shapes, dtypes and strides, but no values and no
        gradients; for a scripted or exported module, the whole module.
    arrays : dict of str to ndarray
        Values by name, see :func:`arrays_of`. May share memory with `module`.
    """
    if isinstance(module, (torch.jit.ScriptModule, torch.export.ExportedProgram)):
        return _Saved.of(module), {}
    skeleton = _copy_with(module, lambda _, tensor: torch.empty_like(tensor, device="meta"))
    if isinstance(module, torch.fx.GraphModule):
        try:
            pickle.dumps(skeleton)
        except Exception as error:
            raise pickle.PicklingError(
                f"a module from torch.export cannot be pickled ({error}); use the ExportedProgram "
                "itself instead of its module()"
            ) from error
    return skeleton, arrays_of(module)


def content_of(module: nn.Module) -> str:
    """Hash the attributes and values of a network, without hooks and strides.

    Equal in every process, except for quantised and scripted networks.

    Raises
    ------
    Exception
        When the network cannot be pickled.
    """
    if isinstance(module, torch.jit.ScriptModule):
        return joblib.hash(pack(module))
    structure = _copy_with(
        module, lambda _, tensor: torch.empty(0, dtype=tensor.dtype, device="meta")
    )
    for part in structure.modules():
        for name in ("_forward_hooks", "_forward_pre_hooks", "_backward_hooks"):
            getattr(part, name).clear()
    return joblib.hash((structure, arrays_of(module)))


def unpack(packed: tuple[nn.Module | _Saved, dict[str, npt.NDArray]]) -> nn.Module:
    """Undo :func:`pack`.

    Returns
    -------
    Module
        On the CPU, with its own memory, and with the modes and tied parameters of the original.
    """
    skeleton, arrays = packed
    if isinstance(skeleton, _Saved):
        return skeleton.load()
    return _copy_with(
        skeleton,
        lambda name, tensor: torch.empty_like(tensor, device="cpu").copy_(
            torch.tensor(arrays[name])
        ),
    )


def tensors_of(module: nn.Module) -> dict[str, Tensor]:
    """Return parameters and buffers by name; shared tensors appear under each of their names."""
    return {
        **dict(module.named_parameters(remove_duplicate=False)),
        **dict(module.named_buffers(remove_duplicate=False)),
    }


def arrays_of(module: nn.Module) -> dict[str, npt.NDArray]:
    """Return parameters and buffers as arrays; bfloat16, which numpy lacks, as float32."""
    return {name: from_torch(tensor.contiguous()) for name, tensor in tensors_of(module).items()}


def _copy_with(module: nn.Module, values: Callable[[str, Tensor], Tensor]) -> nn.Module:
    """Copy a network, with `values` of the name and tensor as its parameters and buffers."""
    copied: dict[int, Any] = {}
    for name, tensor in tensors_of(module).items():
        value = values(name, tensor)
        if isinstance(tensor, nn.Parameter):
            value = nn.Parameter(value, requires_grad=tensor.requires_grad)
        copied[id(tensor)] = value
    return copy.deepcopy(module, copied)
