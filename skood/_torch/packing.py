"""Trained networks as plain data: pickles that depend on their content alone."""

from __future__ import annotations

import copy
import io
import pickle
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
    """A scripted module or an exported program, as torch writes it to a file."""

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
    """Separate a network into its structure and its values, for a pickle.

    The pickle of a torch storage differs between processes and names a device. That of the two
    parts is the same for the same content, so that :func:`joblib.hash` of an estimator finds in a
    cache or among checkpoints what another process, or another device, left there.

    Parameters
    ----------
    module : Module
        Left as it is.

    Returns
    -------
    skeleton : Module or _Saved
        A copy whose parameters and buffers have shapes, dtypes and strides, but no values and no
        gradients; all of a scripted or exported module.
    arrays : dict of str to ndarray
        Values by name, see :func:`arrays_of`. May share memory with `module`.
    """
    if isinstance(module, (torch.jit.ScriptModule, torch.export.ExportedProgram)):
        return _Saved.of(module), {}
    hollow = {
        id(tensor): _like(tensor, torch.empty_like(tensor, device="meta"))
        for tensor in tensors_of(module).values()
    }
    skeleton = copy.deepcopy(module, hollow)
    if isinstance(module, torch.fx.GraphModule):
        try:
            pickle.dumps(skeleton)
        except Exception as error:
            raise pickle.PicklingError(
                f"a module from torch.export does not pickle ({error}); give the ExportedProgram "
                "itself in place of its module()"
            ) from error
    return skeleton, arrays_of(module)


def content_of(module: nn.Module) -> str:
    """Hash of what a network computes: attributes and values, but neither hooks nor strides.

    The same in every process, for all but quantised and scripted networks.

    Raises
    ------
    Exception
        When the network does not pickle.
    """
    if isinstance(module, torch.jit.ScriptModule):
        return joblib.hash(pack(module))
    blank = {
        id(tensor): _like(tensor, torch.empty(0, dtype=tensor.dtype, device="meta"))
        for tensor in tensors_of(module).values()
    }
    structure = copy.deepcopy(module, blank)
    for part in structure.modules():
        for name in ("_forward_hooks", "_forward_pre_hooks", "_backward_hooks"):
            getattr(part, name).clear()
    return joblib.hash((structure, arrays_of(module)))


def unpack(packed: tuple[nn.Module | _Saved, dict[str, npt.NDArray]]) -> nn.Module:
    """Put together what :func:`pack` separated.

    Returns
    -------
    Module
        On the CPU, with memory of its own; in the modes and with the ties of the original.
    """
    skeleton, arrays = packed
    if isinstance(skeleton, _Saved):
        return skeleton.load()
    filled = {
        id(tensor): _like(
            tensor, torch.empty_like(tensor, device="cpu").copy_(torch.tensor(arrays[name]))
        )
        for name, tensor in tensors_of(skeleton).items()
    }
    return copy.deepcopy(skeleton, filled)


def tensors_of(module: nn.Module) -> dict[str, Tensor]:
    """Return parameters and buffers by name; shared ones appear under each of their names."""
    return {
        **dict(module.named_parameters(remove_duplicate=False)),
        **dict(module.named_buffers(remove_duplicate=False)),
    }


def arrays_of(module: nn.Module) -> dict[str, npt.NDArray]:
    """Return parameters and buffers as arrays; bfloat16, which numpy lacks, as float32."""
    return {name: from_torch(tensor.contiguous()) for name, tensor in tensors_of(module).items()}


def _like(tensor: Tensor, values: Tensor) -> Any:
    """Return `values`, as a parameter if `tensor` is one."""
    if isinstance(tensor, nn.Parameter):
        return nn.Parameter(values, requires_grad=tensor.requires_grad)
    return values
