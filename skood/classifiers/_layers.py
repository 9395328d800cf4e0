"""Inner layers of a network: their names and outputs."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn

from skood._data.checked_data import CheckedData
from skood._data.chunks import row_slices
from skood.classifiers._inputs import n_items_of
from skood.classifiers._network import Network

__all__ = [
    "as_maps",
    "forward",
    "in_row_chunks",
    "last_map",
    "layers_of",
    "modules_named",
    "named_layers",
    "one_per_layer",
    "output_shapes",
]

# Number of rows whose activations are in memory at once.
_CHUNK = 1024

# Largest number of names in an error message.
_LISTED = 40


def output_shapes(network: Network, data: CheckedData) -> dict[str, tuple[int, ...]]:
    """Return the output shapes of the modules for one item, in the order in which they finish.

    Parameters
    ----------
    network : Network
    data : CheckedData
        The network runs on its first item.

    Returns
    -------
    dict of str to tuple of int
        (C, T), (C, H, W) or (C, D, H, W) for maps and (d,) for rows, by the module's name. Excluded
        are modules with other outputs, such as tokens; modules that run more than once in a pass,
        whose name would be ambiguous; and modules that finish after the last layer.
    """
    # Scripted modules take no hooks.
    names = {
        module: name
        for name, module in network.module.named_modules()
        if not isinstance(module, torch.jit.ScriptModule)
    }
    finished: list[tuple[str, tuple[int, ...]]] = []

    def run(x: Tensor) -> Tensor:
        def note(module: nn.Module, args: Any, output: Any) -> None:
            is_batch = isinstance(output, Tensor) and output.ndim > 1
            is_batch = is_batch and len(output) == n_items_of(x)
            finished.append((names[module], tuple(output.shape[1:]) if is_batch else ()))

        hooks = [module.register_forward_hook(note) for module in names]
        try:
            return network.forward(x)[1]
        finally:
            for hook in hooks:
                hook.remove()

    network.map(run, data.subset(np.arange(1)), "finding layers")
    runs = Counter(name for name, _ in finished)
    # Tokens and channels-last maps of transformers.
    modules = dict(network.module.named_modules())
    tokens = {
        shape
        for name, shape in finished
        if len(shape) > 1 and isinstance(modules[name], (nn.Linear, nn.LayerNorm))
    }
    last = None if network.last_layer is None else names[network.last_layer]
    shapes: dict[str, tuple[int, ...]] = {}
    for name, shape in finished:
        # The network itself has the name "" and finishes last.
        if name in (last, ""):
            break
        if runs[name] == 1 and 1 <= len(shape) <= 4 and shape not in tokens:
            shapes[name] = shape
    return shapes


def layers_of(
    network: Network, data: CheckedData, layers: Sequence[str] | str | None
) -> tuple[str, ...]:
    """Return the names of the layers that a detector reads.

    Parameters
    ----------
    network : Network
    data : CheckedData
    layers : str, sequence of str or None
        None: the last module at each resolution of the maps, and every nonlinearity that outputs
        rows; without either, every hidden linear layer. A module may be a block: in a residual
        network, no single layer outputs the sum at the end of a stage.

    Raises
    ------
    ValueError
        If a name is unknown, or the network has no such layer.
    """
    shapes = output_shapes(network, data)
    chosen = _stages(network, shapes) if layers is None else layers
    if not chosen and layers is None:
        raise ValueError(
            f"the network {type(network.module).__name__} has no inner layer that is a map, a "
            "nonlinearity or a linear layer before its last one; name modules in layers=, or give "
            "a deeper network"
        )
    return named_layers(chosen, shapes, "layers")


def _stages(network: Network, shapes: Mapping[str, tuple[int, ...]]) -> tuple[str, ...]:
    modules = dict(network.module.named_modules())
    last_at = {shapes[name][1:]: name for name in _maps(shapes)}
    rows = [name for name, shape in shapes.items() if len(shape) == 1]
    hidden = [name for name in rows if type(modules[name]).__module__ == nn.ReLU.__module__]
    if not last_at and not hidden:
        hidden = [name for name in rows if isinstance(modules[name], nn.Linear)]
    chosen = {*last_at.values(), *hidden}
    return tuple(name for name in shapes if name in chosen)


def last_map(shapes: Mapping[str, tuple[int, ...]]) -> tuple[str, ...]:
    """Return the name of the module that outputs the last map before pooling, if any."""
    return tuple(_maps(shapes)[-1:])


def _maps(shapes: Mapping[str, tuple[int, ...]]) -> list[str]:
    """Return the names of maps; maps of one pixel, from pooling, only if there are no others."""
    maps = [name for name, shape in shapes.items() if len(shape) > 1]
    return [name for name in maps if set(shapes[name][1:]) != {1}] or maps


def named_layers(
    layers: Sequence[str] | str, shapes: Mapping[str, tuple[int, ...]], parameter: str
) -> tuple[str, ...]:
    """Check names of layers.

    Parameters
    ----------
    layers : str or sequence of str
    shapes : dict of str to tuple of int
        Shapes of the layers to choose from.
    parameter : str
        Name of the parameter `layers`, for error messages.

    Raises
    ------
    ValueError
        If there are none, or a name is not in `shapes`.
    """
    names = (layers,) if isinstance(layers, str) else tuple(layers)
    unknown = [name for name in names if name not in shapes]
    if unknown or not names:
        known = [f"{name} {shape}" for name, shape in shapes.items()]
        listed = ", ".join(known[:_LISTED]) + (", ..." if len(known) > _LISTED else "")
        raise ValueError(
            f"{parameter}={layers!r} names {unknown or 'nothing'}; expected modules that run once, "
            f"before the last layer, and put out maps (C, ...) or rows (d,): {listed or 'none'}"
        )
    return names


def modules_named(network: Network, names: Sequence[str]) -> list[nn.Module]:
    """Return the modules with these names."""
    modules = dict(network.module.named_modules())
    return [modules[name] for name in names]


def one_per_layer(value: Any, layers: Sequence[str], parameter: str) -> tuple[Any, ...]:
    """Repeat a single value for all layers, or check that there is one value per layer."""
    values = (value,) * len(layers) if np.ndim(value) == 0 else tuple(value)
    if len(values) != len(layers):
        raise ValueError(
            f"{parameter} has {len(values)} values, but there are {len(layers)} layers, "
            f"{tuple(layers)}; give one value per layer"
        )
    return values


def forward(
    network: Network, x: Tensor, layers: Sequence[nn.Module]
) -> tuple[Tensor, Tensor, list[Tensor]]:
    """Return features, logits and the outputs of `layers`, before any in-place change."""
    seen: dict[nn.Module, Tensor] = {}

    def keep(layer: nn.Module, args: Any, output: Tensor) -> Tensor:
        seen[layer] = output
        # The rest of the network gets a copy, which an in-place operation may overwrite.
        return output.clone()

    hooks = [layer.register_forward_hook(keep) for layer in {*layers}]
    try:
        features, logits, _ = network.forward(x)
    finally:
        for hook in hooks:
            hook.remove()
    return features, logits, [seen[layer] for layer in layers]


def as_maps(activation: Tensor) -> Tensor:
    """Reshape maps (b, C, H, W), and rows (b, C) as maps of one pixel, to (b, C, n_pixels)."""
    return activation.reshape(*activation.shape[:2], -1).double()


def in_row_chunks(
    network: Network,
    function: Callable[[Tensor], tuple[Tensor, ...]],
    data: CheckedData,
    description: str,
) -> Iterator[tuple[slice, tuple[npt.NDArray, ...]]]:
    """Apply `function` to about a thousand items at a time, to bound the memory of activations.

    Yields
    ------
    rows : slice
    values : tuple of ndarray
        Results of `function` for these rows.
    """
    for rows in row_slices(len(data), _CHUNK):
        part = data.subset(np.arange(rows.start, rows.stop))
        values = network.map(function, part, description)
        assert isinstance(values, tuple), "several tensors in, several arrays out"
        yield rows, values
