"""Trained networks as plain data, so that pickles depend only on the content."""

from __future__ import annotations

import copy
import io
import pickle
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from typing import Any

import joblib
import numpy.typing as npt
import torch
from torch import Tensor, nn
from torch.nn.utils import parametrize, prune
from torch.nn.utils.spectral_norm import SpectralNorm
from torch.nn.utils.weight_norm import WeightNorm

from skood._data.memory_layout import from_torch

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
    skeleton = _without_parametrized_classes(
        _copy_with(module, lambda _, tensor: _empty_like(tensor, "meta"))
    )
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
    return joblib.hash((_without_parametrized_classes(structure), arrays_of(module)))


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
    module = _copy_with(
        skeleton,
        lambda name, tensor: _empty_like(tensor, "cpu").copy_(torch.tensor(arrays[name])),
    )
    for part in module.modules():
        if _is_parametrized(part):
            parametrize._inject_new_class(part)
            for name in part.parametrizations:
                parametrize._inject_property(part, name)
    with torch.no_grad():
        for part, name, compute in _computed_before_a_pass(module):
            setattr(part, name, compute())
    return module


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
    for part, name, _ in _computed_before_a_pass(module):
        copied[id(getattr(part, name))] = None
    for name, tensor in tensors_of(module).items():
        value = values(name, tensor)
        if isinstance(tensor, nn.Parameter):
            value = nn.Parameter(value, requires_grad=tensor.requires_grad)
        copied[id(tensor)] = value
    return copy.deepcopy(module, copied)


def _empty_like(tensor: Tensor, device: str) -> Tensor:
    """Return an empty tensor with the shape, the dtype and, if it has no gaps, the strides."""
    # torch.empty_like changes the strides of some dense tensors on "meta" before torch 2.6.
    size, strides = tensor.size(), tensor.stride()
    n_before = 1
    for stride, n in sorted((stride, n) for n, stride in zip(size, strides, strict=True) if n != 1):
        if stride != n_before:
            return torch.empty(size, dtype=tensor.dtype, device=device)
        n_before *= n
    return torch.empty_strided(size, strides, dtype=tensor.dtype, device=device)


def _is_parametrized(part: nn.Module) -> bool:
    parametrized = part._modules.get("parametrizations")
    return isinstance(parametrized, nn.ModuleDict) and all(
        isinstance(one, parametrize.ParametrizationList) for one in parametrized.values()
    )


def _without_parametrized_classes(module: nn.Module) -> nn.Module:
    """Give parametrized layers their original classes; torch's, made on the fly, do not pickle."""
    for part in module.modules():
        if _is_parametrized(part):
            part.__class__ = parametrize.type_before_parametrizations(part)
            # A function inside torch's weight_norm, which reads state dicts of its older form.
            for key, hook in list(part._load_state_dict_pre_hooks.items()):
                if "<locals>._weight_norm_compat_hook" in repr(getattr(hook, "hook", hook)):
                    del part._load_state_dict_pre_hooks[key]
    return module


def _computed_before_a_pass(
    module: nn.Module,
) -> Iterator[tuple[nn.Module, str, Callable[[], Tensor]]]:
    """Find tensors that hooks compute from parameters before each forward pass.

    Yields
    ------
    part : Module
    name : str
        Attribute of `part` that holds the tensor.
    compute : callable
        Returns its value.
    """
    for part in module.modules():
        for hook in part._forward_pre_hooks.values():
            if isinstance(hook, WeightNorm):
                yield part, hook.name, partial(hook.compute_weight, part)
            elif isinstance(hook, SpectralNorm):
                compute = partial(hook.compute_weight, part, do_power_iteration=False)
                yield part, hook.name, compute
            elif isinstance(hook, prune.BasePruningMethod):
                yield part, hook._tensor_name, partial(hook.apply_mask, part)
