"""Decoder that mirrors the network of an architecture."""

from __future__ import annotations

import math
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import torch
from torch import Tensor, nn

from skood._torch.batching import evaluating

__all__ = ["MirroredDecoder"]

# Added to variances, as in the authors' code.
_EPS = 1e-4


@dataclass
class _Maps:
    """Consecutive feature maps of one height and width."""

    size: tuple[int, int]
    n_channels: int
    # Of the first convolution; kernel_size is 0 if the maps are only pooled.
    size_before: tuple[int, int] = (0, 0)
    n_channels_before: int = 0
    kernel_size: int = 0


class MirroredDecoder(nn.Module):
    """Decoder with the layers of a network in reverse order.

    Linear layers have the widths of the network in reverse order. For every height and width of the
    network's feature maps, nearest-neighbour upsampling and one convolution lead to the maps
    before. Between the layers are leaky ReLU and, if the network has batch normalisation, batch
    normalisation without parameters. There are no bias terms.

    Parameters
    ----------
    network : Module
        Linear layers, convolutions, batch normalisation and layers without parameters.
    item_shape : tuple of int
        (C, H, W) or (d,).
    name : str
        Name of the architecture, for error messages.

    Raises
    ------
    ValueError
        If the network has other layers with parameters.
    """

    def __init__(self, network: nn.Module, item_shape: tuple[int, ...], name: str) -> None:
        super().__init__()
        self.item_shape = item_shape
        maps, linear = _trace(network, item_shape, name)
        normalizes = any(isinstance(m, nn.modules.batchnorm._NormBase) for m in network.modules())
        # A map of 1 x 1 after global pooling has lost the positions.
        while len(maps) > 1 and maps[-1].size == (1, 1) and not maps[-1].kernel_size:
            maps.pop()
        self.map_shape = (maps[-1].n_channels, *maps[-1].size) if maps else item_shape
        widths = [linear[-1].out_features]
        widths += [layer.in_features for layer in reversed(linear[1:])]
        layers: list[nn.Module] = []
        for n_in, n_out in pairwise([*widths, math.prod(self.map_shape)]):
            layers += [nn.Linear(n_in, n_out, bias=False)]
            layers += [nn.BatchNorm1d(n_out, eps=_EPS, affine=False)] if normalizes else []
            layers += [nn.LeakyReLU()]
        convolved = [each for each in reversed(maps) if each.kernel_size]
        # The map itself is not normalised; a reconstruction has no activation.
        end = -1 - normalizes
        self.linear = nn.Sequential(*layers[:end], *([nn.LeakyReLU()] if convolved else []))
        layers, n_in = [], self.map_shape[0]
        for each in convolved:
            n_out = each.n_channels_before
            layers += [
                nn.Upsample(each.size_before),
                nn.Conv2d(n_in, n_out, each.kernel_size, padding="same", bias=False),
            ]
            layers += [nn.BatchNorm2d(n_out, eps=_EPS, affine=False)] if normalizes else []
            layers += [nn.LeakyReLU()]
            n_in = n_out
        self.convolutions = nn.Sequential(*layers[:end])
        # Without biases and normalisation, torch's own initial weights let all outputs vanish.
        for weight in self.parameters():
            nn.init.kaiming_normal_(weight, nonlinearity="leaky_relu")

    def forward(self, z: Tensor) -> Tensor:
        r"""Decode latents (b, n_latent) to items (b, \*item_shape)."""
        maps = self.linear(z).unflatten(1, self.map_shape)
        return self.convolutions(maps).reshape(len(z), *self.item_shape)


def _trace(
    network: nn.Module, item_shape: tuple[int, ...], name: str
) -> tuple[list[_Maps], list[nn.Linear]]:
    """Return the feature maps and the linear layers of a network, in the order of computation."""
    known = (nn.Conv2d, nn.Linear, nn.modules.batchnorm._NormBase)
    for layer in network.modules():
        if list(layer.parameters(recurse=False)) and not isinstance(layer, known):
            raise _no_decoder(name, f"a layer {type(layer).__name__}")
    maps: list[_Maps] = []
    linear: list[nn.Linear] = []

    def note(layer: nn.Module, args: tuple[Any, ...], output: Any) -> None:
        if isinstance(layer, nn.Linear):
            if output.ndim != 2:
                raise _no_decoder(name, f"a linear layer with outputs of shape {output.shape[1:]}")
            linear.append(layer)
        if not isinstance(output, Tensor) or output.ndim != 4:
            return
        _, n_channels, *size = output.shape
        if not maps or maps[-1].size != tuple(size):
            maps.append(_Maps((size[0], size[1]), n_channels))
        last = maps[-1]
        last.n_channels = n_channels
        if isinstance(layer, nn.Conv2d):
            if not last.kernel_size:
                height, width = args[0].shape[2:]
                last.size_before, last.n_channels_before = (height, width), layer.in_channels
            last.kernel_size = max(last.kernel_size, *layer.kernel_size)

    leaves = [layer for layer in network.modules() if not list(layer.children())]
    hooks = [layer.register_forward_hook(note) for layer in leaves]
    device = next(network.parameters()).device
    try:
        with evaluating(network), torch.no_grad():
            network(torch.zeros(1, *item_shape, device=device))
    finally:
        for hook in hooks:
            hook.remove()
    convolved = [each for each in maps if each.kernel_size]
    if not convolved:
        return [], linear
    shape = (convolved[0].n_channels_before, *convolved[0].size_before)
    if math.prod(shape) != math.prod(item_shape):
        raise _no_decoder(name, f"a first convolution of maps of shape {shape}")
    return maps, linear


def _no_decoder(name: str, problem: str) -> ValueError:
    return ValueError(
        f"{name} has {problem}, so that no decoder can mirror it (expected linear layers, "
        "convolutions and batch normalisation); give n_pretraining_epochs=0, or an architecture "
        "with a method _build_decoder(item_shape, n_latent)"
    )
