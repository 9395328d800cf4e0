"""Weights of other libraries, loaded into the architectures of this package."""

from __future__ import annotations

import os
import pickle
import re
from collections.abc import Callable, Iterable, Mapping
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from skood.classifiers._architecture import Architecture
from skood.classifiers._densenet import DenseNet
from skood.classifiers._resnet import ResNet
from skood.classifiers._wide_resnet import WideResNet

__all__ = ["load_network"]

_EXPECTED = (
    "'resnet18_32x32', 'resnet18_64x64', 'resnet18_224x224' or 'resnet50' as in OpenOOD (also with "
    "34 layers), 'wrn-40-2' (wrn-DEPTH-WIDTH) or 'densenet-100-12' (densenet-DEPTH-GROWTH)"
)
_RESNET = re.compile(r"resnet-?(18|34|50)(?:_(32x32|64x64|224x224))?")
_WIDE_RESNET = re.compile(r"wrn-?(\d+)-(\d+)")
_DENSENET = re.compile(r"densenet-?(\d+)-(\d+)")
# Entries of the dict that training scripts save which hold the weights.
_WRAPPERS = ("state_dict", "model_state_dict", "model", "net")
# Missing from files of torch before 0.4.1, and not used in prediction.
_COUNTER = "num_batches_tracked"
_MAX_LISTED = 4


class _Layout(NamedTuple):
    """An architecture, the published names of its layers, and other names of the same layers."""

    architecture: Architecture
    head: str
    published: Callable[[str], str]
    aliases: dict[str, str]


def load_network(checkpoint: Any, architecture: str) -> nn.Module:
    """Return the network of a published architecture with the weights of a file or state dict.

    Parameters
    ----------
    checkpoint : path or mapping of str to Tensor
    architecture : str
        One of the names in `_EXPECTED`.

    Returns
    -------
    Module
        On the CPU, in float32 and in evaluation mode.

    Raises
    ------
    ValueError
        If the architecture is unknown, the file holds other objects than tensors, or names or
        shapes differ from the architecture's.
    """
    layout = _layout(architecture)
    given = _state_dict(checkpoint)
    for alias, name in layout.aliases.items():
        renamed = {key: re.sub(alias, name, key) for key in given}
        # A network with both has another layer.
        given = {
            key if renamed[key] in given else renamed[key]: tensor for key, tensor in given.items()
        }
    head, stem = given.get(f"{layout.head}.weight"), given.get("conv1.weight")
    n_classes = 1 if head is None else len(head)
    n_channels = stem.shape[1] if stem is not None and stem.ndim == 4 else 3
    # Without memory, initial weights and random numbers.
    with torch.device("meta"):
        network = layout.architecture._make_network((n_channels, 32, 32), n_classes)
    tensors = network.state_dict()
    names = {_published(name, layout): name for name in tensors}
    shapes = {name: tuple(tensors[ours].shape) for name, ours in names.items()}
    _check_same(given, shapes, architecture)
    network.to_empty(device="cpu")
    network.load_state_dict(
        {ours: given.get(name, torch.zeros(shapes[name])) for name, ours in names.items()}
    )
    return network.eval()


def _layout(name: str) -> _Layout:
    if found := _RESNET.fullmatch(name):
        depth, size = found.groups()
        if size in ("32x32", "64x64"):
            return _Layout(
                ResNet(int(depth), stem="small"),
                "fc",
                lambda layer: layer.replace("downsample", "shortcut"),
                {r"\.downsample\.": ".shortcut.", r"^linear\.": "fc."},
            )
        return _Layout(ResNet(int(depth), stem="large"), "fc", str, {})
    if found := _WIDE_RESNET.fullmatch(name):
        wide = WideResNet(*map(int, found.groups()))
        layers = _layers_of_wide_resnet((wide.depth - 4) // 6)
        aliases = {r"\.conv_shortcut\.": ".convShortcut."}
        return _Layout(wide, "fc", layers.__getitem__, aliases)
    if found := _DENSENET.fullmatch(name):
        return _Layout(DenseNet(*map(int, found.groups())), "fc", _layer_of_densenet, {})
    raise ValueError(f"architecture={name!r}; expected {_EXPECTED}")


def _layers_of_wide_resnet(n_blocks: int) -> dict[str, str]:
    """Return the published names of layers by the names of :class:`WideResNet`."""
    last = 3 * n_blocks
    layers = {"0": "conv1", f"{last + 1}": "bn1", f"{last + 5}": "fc"}
    for index in range(last):
        stage, block = divmod(index, n_blocks)
        ours, theirs = f"{index + 1}", f"block{stage + 1}.layer.{block}"
        layers |= {
            f"{ours}.activation.0": f"{theirs}.bn1",
            f"{ours}.residual.0": f"{theirs}.conv1",
            f"{ours}.residual.1": f"{theirs}.bn2",
            f"{ours}.residual.4": f"{theirs}.conv2",
            f"{ours}.shortcut": f"{theirs}.convShortcut",
        }
    return layers


def _layer_of_densenet(layer: str) -> str:
    """Return the published name of a layer of :class:`DenseNet`."""
    layer = layer.removeprefix("features.")
    if found := re.fullmatch(r"denseblock(\d+)\.denselayer(\d+)\.(norm|conv)(\d)", layer):
        block, index, kind, number = found.groups()
        kind = kind.replace("norm", "bn")
        return f"block{block}.layer.{int(index) - 1}.{kind}{number}"
    if found := re.fullmatch(r"transition(\d)\.(norm|conv)", layer):
        return f"trans{found[1]}.{found[2].replace('norm', 'bn')}1"
    return {"conv0": "conv1", "norm5": "bn1", "classifier": "fc"}[layer]


def _published(name: str, layout: _Layout) -> str:
    layer, _, tensor = name.rpartition(".")
    return f"{layout.published(layer)}.{tensor}"


def _state_dict(checkpoint: Any) -> dict[str, Tensor]:
    """Return the tensors by name, without prefixes that all names share, such as ``module.``."""
    if isinstance(checkpoint, nn.Module):
        raise TypeError("checkpoint is a module; give PretrainedClassifier(module)")
    tensors = checkpoint if isinstance(checkpoint, Mapping) else _read(checkpoint)
    source = "checkpoint" if isinstance(checkpoint, Mapping) else os.fspath(checkpoint)
    for wrapper in _WRAPPERS:
        if isinstance(tensors, Mapping) and isinstance(tensors.get(wrapper), Mapping):
            tensors = tensors[wrapper]
    if not isinstance(tensors, Mapping) or not tensors:
        raise ValueError(f"{source} has a {type(tensors).__name__}; expected a state dict")
    others = [str(name) for name, value in tensors.items() if not isinstance(value, Tensor)]
    if others:
        raise ValueError(
            f"{source} has entries that are no tensors: {_listed(others)}; give the entry that is "
            "the state dict of the network"
        )
    given = dict(tensors)
    while True:
        rests = {name: name.partition(".")[2] for name in given}
        shared = len({name.partition(".")[0] for name in given}) == 1
        if not shared or not all("." in rest for rest in rests.values()):
            return given
        given = {rests[name]: tensor for name, tensor in given.items()}


def _read(path: Any) -> Any:
    if os.fspath(path).endswith(".safetensors"):
        from safetensors.torch import load_file

        return load_file(path)
    try:
        return torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        raise ValueError(
            f"{os.fspath(path)} has other objects than tensors, and loading them may run code. If "
            "you trust the file, give the state dict in "
            "torch.load(path, map_location='cpu', weights_only=False)"
        ) from error


def _check_same(
    given: Mapping[str, Tensor], shapes: Mapping[str, tuple[int, ...]], architecture: str
) -> None:
    """Raise an error unless the names and shapes are the expected ones."""
    missing = [name for name in shapes if name not in given and not name.endswith(_COUNTER)]
    unexpected = [name for name in given if name not in shapes]
    differing = [
        f"{name} has the shape {tuple(given[name].shape)}, expected {shape}"
        for name, shape in shapes.items()
        if name in given and tuple(given[name].shape) != shape
    ]
    found = [
        f"{kind}: {_listed(names)}"
        for kind, names in (
            ("missing", missing),
            ("unexpected", unexpected),
            ("other shapes", differing),
        )
        if names
    ]
    if found:
        raise ValueError(
            f"the weights are not those of architecture={architecture!r}; {'; '.join(found)}. "
            f"The architectures are {_EXPECTED}; give another network as "
            "PretrainedClassifier(module)"
        )


def _listed(names: Iterable[str]) -> str:
    names = list(names)
    rest = len(names) - _MAX_LISTED
    return ", ".join(names[:_MAX_LISTED]) + (f" and {rest} more" if rest > 0 else "")
