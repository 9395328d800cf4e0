"""Search for the layer that computes the logits of a network, verified by its values."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn

from skood.classifiers._reading import Head, Reading
from skood.classifiers._returned import link_of, tolerance

__all__ = ["check_head", "find_head", "weights_of"]

# Number of values that determine the factor between two tensors reliably.
_ENOUGH = 4

# Largest number of layers in an error message.
_LISTED = 6

_CHANGED = "its input is changed in place afterwards"

_CONVOLUTIONS = nn.Conv1d, nn.Conv2d, nn.Conv3d


def find_head(
    module: nn.Module,
    n_outputs: int,
    run: Callable[[], Tensor],
    features: Callable[[], Tensor | None],
) -> Reading:
    """Find the layer whose output has the values of the network's output.

    Parameters
    ----------
    module : Module
    n_outputs : int
        Number of the network's outputs; outputs of layers with another number are not kept.
    run : callable
        Runs the network on some items, and returns its output, shape (b, n_outputs).
    features : callable
        Returns the features that the user has named, from the same run, or None.
    """
    seen: dict[str, list[tuple[Tensor, Tensor]]] = {}
    # The network as a whole computes its output, even if it has weights outside its layers.
    whole = module if next(module.children(), None) is not None else None
    layers = {
        name: layer
        for name, layer in module.named_modules()
        if layer is not whole and _may_be_head(layer)
    }

    def note_as(name: str) -> Callable[..., None]:
        def note(layer: nn.Module, args: tuple, kwargs: dict, output: Any) -> None:
            given = args[0] if args else next(iter(kwargs.values()), None)
            if not isinstance(given, Tensor) or not isinstance(output, Tensor):
                return
            if output.ndim < 2 or output.shape[_channels(layer)] != n_outputs:
                # The meta device keeps only the shape, for the error message.
                given, output = given.to("meta"), output.to("meta")
            # A later in-place operation must not change the output that is compared.
            seen.setdefault(name, []).append((given, output.detach().clone()))

        return note

    hooks = [
        layer.register_forward_hook(note_as(name), with_kwargs=True)
        for name, layer in layers.items()
    ]
    try:
        output = run().detach()
    finally:
        for hook in hooks:
            hook.remove()
    named = features()
    found: tuple[Head, int] | None = None
    failures: list[tuple[int, str]] = []
    for name in [*(name for name in layers if name not in seen), *seen]:
        layer = layers[name]
        result = _compare(name, layer, seen.get(name, []), output, named)
        if isinstance(result, str):
            failures.append((_distance_from(layer, output), f"{name!r} {_kind(layer)}: {result}"))
        else:
            found = result
    if found is not None:
        head, n_features = found
        return Reading(n_outputs=n_outputs, link=head.link, head=head, n_features=n_features)
    # Layers with the right number of outputs come first.
    failures.sort(key=lambda entry: entry[0])
    listed = tuple(text for _, text in failures[:_LISTED])
    if len(failures) > _LISTED:
        listed = (*listed, f"and {len(failures) - _LISTED} others")
    alike = [runs[-1] for runs in seen.values() if not runs[-1][1].is_meta]
    looks = ["none", *(_likeness(run, output) for run in alike)]
    if any(text.endswith(_CHANGED) for _, text in failures):
        looks.append("altered")
    scripted = any(isinstance(layer, torch.jit.ScriptModule) for layer in module.modules())
    return Reading(
        n_outputs=n_outputs,
        link=link_of(output.double(), output.dtype),
        n_features=0 if named is None else named.shape[1],
        failures=listed,
        is_hidden=scripted or (bool(layers) and not seen),
        likeness=max(looks, key=["none", "open", "altered"].index),
    )


def check_head(head: Head, z: Tensor, output: Tensor, name: str) -> None:
    """Raise an error if the head does not compute the output of these items."""
    if head.link == "none" and torch.equal(z, output):
        return
    expected = {
        "softmax": lambda: torch.softmax(z, 1),
        "log_softmax": lambda: torch.log_softmax(z, 1),
        "sigmoid": lambda: torch.sigmoid(z),
    }.get(head.link, lambda: z)()
    size = output.detach().abs().amax()
    off = (expected - output).detach().abs().amax()
    # NaN are reported elsewhere, with their number.
    if off > 10 * tolerance(output.dtype) * size:
        raise ValueError(
            f"the layer {head.name!r} of {name} makes the output of the first items of X, "
            f"but not of others: they differ by up to {float(off / size):.2g} of their size. "
            "The operations after the layer depend on the data; name the features with "
            "features_from=, and use detectors that need no last layer"
        )


def weights_of(layer: nn.Module) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.float64]]:
    """Return weight (n_outputs, d) and bias (n_outputs,) of a linear layer or a convolution."""
    weight = layer.weight.detach().double().cpu().flatten(1).numpy()
    bias = getattr(layer, "bias", None)
    if not isinstance(bias, Tensor):
        return weight, np.zeros(len(weight))
    return weight, bias.detach().double().cpu().numpy()


def _likeness(run: tuple[Tensor, Tensor], output: Tensor) -> str:
    """Judge how much a layer that is not the head resembles one.

    Returns
    -------
    {"none", "open", "altered"}
        "open": the layer has the number of outputs of the network, and a nonlinearity, a
        normalisation or an unknown operation follows, so that the network may be an encoder.
        "altered": it has fewer outputs than inputs, and another operation follows, or a mean of
        rectified maps.
    """
    given, made = run
    narrows = made.ndim > 1 and given.ndim > 1 and given.shape[1] > made.shape[1]
    if made.ndim > 2:
        pooled = made.relu().flatten(2).mean(2)
        return "altered" if narrows and _are_equal(pooled, output) else "none"
    if made.shape != output.shape:
        return "none"
    made, output = made.double(), output.double()
    order = made.flatten().argsort()
    grows = bool((output.flatten()[order].diff() >= -1e-6 * output.abs().amax()).all())
    simple = grows or _is_affine(made, output) or _is_affine(made.T, output.T)
    return "altered" if narrows and not simple else "open"


def _is_affine(z: Tensor, output: Tensor) -> bool:
    """Whether every row of `output` is the row of z, scaled and shifted."""
    z, output = _centred(z), _centred(output)
    scale = (z * output).sum(1) / z.square().sum(1).clamp(min=1e-300)
    off = (output - scale[:, None] * z).abs().amax()
    return bool(off <= 1e-4 * output.abs().amax())


def _may_be_head(layer: nn.Module) -> bool:
    """Whether a layer has a weight matrix: linear layers, and convolutions of kernel size 1."""
    if isinstance(layer, (nn.Embedding, nn.EmbeddingBag, torch.jit.ScriptModule)):
        return False
    shape = _shape_of(layer)
    return len(shape) >= 2 and set(shape[2:]) <= {1} and getattr(layer, "groups", 1) == 1


def _shape_of(layer: nn.Module) -> tuple[int, ...]:
    """Return the shape (n_outputs, n_inputs, ...) of a layer's weights; () if it has none."""
    weight = getattr(layer, "weight", None)
    if isinstance(weight, nn.UninitializedParameter):
        return ()
    if isinstance(weight, Tensor):
        return tuple(weight.shape)
    # Quantised layers have packed weights.
    sides = [getattr(layer, f"{side}_features", None) for side in ("out", "in")]
    return tuple(side for side in sides if isinstance(side, int))


def _channels(layer: nn.Module) -> int:
    """Return the axis of the channels in the output of a layer."""
    return 1 if isinstance(layer, _CONVOLUTIONS) else -1


def _kind(layer: nn.Module) -> str:
    n_outputs, n_inputs, *_ = _shape_of(layer)
    return f"{type(layer).__name__}({n_inputs} -> {n_outputs})"


def _distance_from(layer: nn.Module, output: Tensor) -> int:
    return abs(_shape_of(layer)[0] - output.shape[1])


def _compare(
    name: str,
    layer: nn.Module,
    runs: list[tuple[Tensor, Tensor]],
    output: Tensor,
    named: Tensor | None,
) -> tuple[Head, int] | str:
    """Return the head and its number of features, or the reason why `layer` is not the head."""
    if not runs:
        return "does not run in the forward pass"
    # A layer may run more than once; only its last output can be the output of the network.
    (given, made), n_outputs = runs[-1], output.shape[1]
    channels = _channels(layer)
    if made.ndim < 2 or len(made) != len(output) or made.shape[channels] != n_outputs:
        return f"puts out shape {tuple(made.shape)}, the network {tuple(output.shape)}"
    smallest = float("inf")
    for reduction in ["none"] if made.ndim == 2 else ["mean", "position"]:
        head = Head(name, reduction, channels)
        position = head.position(made, output)
        z = head.reduce(made, position)
        relation = _relation(z.double(), output.double(), output.dtype)
        if isinstance(relation, float):
            smallest = min(smallest, relation)
            continue
        features = head.reduce(given.detach(), position)
        if features.shape[1] != _shape_of(layer)[1]:
            return f"its input has {features.shape[1]} values per item"
        if named is not None and not _are_equal(features, named):
            return "its input is not what features_from= names"
        is_linear = _is_linear(layer, features, z)
        if not is_linear and isinstance(layer, (nn.Linear, *_CONVOLUTIONS)):
            return _CHANGED
        link, scale = relation
        return replace(head, link=link, scale=scale, is_linear=is_linear), features.shape[1]
    return f"its output differs from the output of the network by up to {smallest:.2g} of its size"


def _is_linear(layer: nn.Module, features: Tensor, z: Tensor) -> bool:
    weight, bias = getattr(layer, "weight", None), getattr(layer, "bias", None)
    if not isinstance(weight, Tensor):
        return False
    weight = weight.detach().flatten(1).double()
    features = features.double()
    again = features @ weight.T
    size = features.abs() @ weight.abs().T
    if isinstance(bias, Tensor):
        again, size = again + bias.detach().double(), size + bias.detach().double().abs()
    allowed = tolerance(z.dtype) * float(size.amax())
    return bool((again - z.double()).abs().amax() <= allowed)


def _are_equal(first: Tensor, second: Tensor) -> bool:
    if first.shape != second.shape:
        return False
    size = float(second.detach().abs().amax())
    difference = float((first.detach().double() - second.detach().double()).abs().amax())
    return difference <= tolerance(second.dtype) * size


def _relation(z: Tensor, output: Tensor, dtype: torch.dtype) -> tuple[str, float] | float:
    """Return the link and the factor between z and a network's output.

    Without them, return the distance of `output` from the multiples of z, relative to its size.
    """
    allowed = tolerance(dtype)
    scale, difference = _factor(z, output, allowed)
    if difference <= allowed:
        return "none", scale
    link = link_of(output, dtype)
    # Probabilities near 0 and 1 are too inaccurate to determine a factor.
    inside = ((output > 1e-6) & (output < 1 - 1e-6)).double()
    if link == "log_softmax":
        scale, off = _factor(_centred(z), _centred(output), allowed)
    elif link == "softmax":
        log_p = output.clamp(min=1e-300).log()
        scale, _ = _factor(_centred(z, inside), _centred(log_p, inside), allowed)
        off = float((torch.softmax(scale * z, 1) - output).abs().amax())
    elif link == "sigmoid":
        scale, _ = _factor(z[inside > 0], torch.logit(output[inside > 0]), allowed)
        off = float((torch.sigmoid(scale * z) - output).abs().amax())
    else:
        return difference
    return (link, scale) if off <= allowed else difference


def _centred(values: Tensor, weight: Tensor | None = None) -> Tensor:
    """Subtract the mean of each row over the entries of weight 1; other entries become 0."""
    if weight is None:
        return values - values.mean(1, keepdim=True)
    mean = (values * weight).sum(1, keepdim=True) / weight.sum(1, keepdim=True).clamp(min=1)
    return (values - mean) * weight


def _factor(z: Tensor, output: Tensor, allowed: float) -> tuple[float, float]:
    """Return the c for which c z is closest to `output`, and their relative distance."""
    if not z.numel():
        return 1.0, 0.0
    # Squares of large values would overflow.
    unit = float(z.abs().amax()) or 1.0
    squares = float((z / unit).square().sum())
    scale = float((z / unit * (output / unit)).sum()) / squares if squares > 0 else 1.0
    # Few values can be multiples of others by chance.
    if abs(scale - 1) <= allowed or z.numel() < _ENOUGH or scale == 0:
        scale = 1.0
    size, difference = (float(t.abs().amax()) for t in (output, output - scale * z))
    return scale, difference / size if size > 0 else difference
