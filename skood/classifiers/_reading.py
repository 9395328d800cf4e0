"""How the output of a network is read: its logits, its features, and the layer that makes them."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn

__all__ = ["Head", "NoLogitsError", "Reading", "as_logits", "find_head", "link_of", "pick", "tolerance"]

# Values that determine the factor between two tensors beyond doubt.
_ENOUGH = 4

# Layers that an error lists at most.
_LISTED = 6

_CHANGED = "its input is changed in place afterwards"

_CONVOLUTIONS = nn.Conv1d, nn.Conv2d, nn.Conv3d


@dataclass(frozen=True)
class Head:
    """The layer that makes the logits of a network.

    Attributes
    ----------
    name : str
        In ``module.named_modules()``.
    reduction : {"none", "mean", "position"}
        What follows the layer: nothing, the mean over pixels or tokens, or the choice of a token.
    channels : int
        Axis of the layer's outputs: 1 of maps, -1 of tokens and rows.
    link : {"none", "softmax", "log_softmax", "sigmoid"}
        What the network applies to the logits before it returns them.
    scale : float
        Factor between the output of the layer and the logits.
    is_linear : bool
        Whether the logits are W z + b, with the weight and the bias of the layer.
    """

    name: str
    reduction: str = "none"
    channels: int = -1
    link: str = "none"
    scale: float = 1.0
    is_linear: bool = True

    def reduce(self, values: Tensor, position: Tensor | None = None) -> Tensor:
        """Reduce maps or tokens to one vector for each item."""
        if values.ndim == 2:
            return values
        tokens = _tokens(values, self.channels)
        if self.reduction == "position":
            return tokens[torch.arange(len(tokens), device=tokens.device), position]
        return tokens.mean(1)

    def position(self, made: Tensor, output: Tensor) -> Tensor | None:
        """Return the token of each item that is closest to the output, where one is chosen."""
        if self.reduction != "position" or made.ndim == 2:
            return None
        return (_tokens(made, self.channels) - output[:, None]).abs().amax(2).argmin(1)


def _tokens(values: Tensor, channels: int) -> Tensor:
    """Bring maps (b, C, ...) or tokens (b, ..., C) to (b, n_tokens, C)."""
    return values.flatten(2).mT if channels == 1 else values.flatten(1, -2)


@dataclass(frozen=True)
class Reading:
    """What was found out about a network on items of the user's data.

    Attributes
    ----------
    as_given : bool
        Whether the network takes items in the shape in which X came, instead of (C, H, W).
    integers : bool
        Whether it takes whole numbers, token ids for instance.
    n_outputs : int
        Number of logits, or of features.
    link : str
        As in :class:`Head`; of a network without a head, what its output turned out to be.
    head : Head or None
        The layer that makes the logits, if one does.
    n_features : int
        Number of features; 0 where they are not known.
    failures : tuple of str
        Why each layer that might have been the head is none.
    one_by_one : bool
        Whether the output depends on which items share a batch.
    is_hidden : bool
        Whether the layers cannot be seen, as those of scripted and exported networks.
    is_altered : bool
        Whether a layer has the look of a head, and the network changes what it puts out.
    certain : bool
        Whether the network is one of this package, whose head is known.
    """

    as_given: bool = False
    integers: bool = False
    n_outputs: int = 0
    link: str = "none"
    head: Head | None = None
    n_features: int = 0
    failures: tuple[str, ...] = ()
    one_by_one: bool = False
    is_hidden: bool = False
    is_altered: bool = False
    certain: bool = False


class NoLogitsError(ValueError):
    """What a network returns holds no logits, so that it may be an encoder."""


def pick(returned: Any, output: Any, fields: Sequence[str], name: str) -> Tensor:
    """Return the tensor that is meant among what a network returns.

    Parameters
    ----------
    returned : Tensor, tuple or output object
    output : str, int, callable or None
        What to take: a key, a position, or a function of `returned`. None takes a tensor itself,
        the first of `fields` that an output object has, or the first element of a tuple.
    fields : sequence of str
    name : str
        Class of the network, for the error message.

    Raises
    ------
    ValueError
        When what is asked for, or by default expected, is missing or no tensor.
    """
    known = _names_in(returned)
    if callable(output):
        found = output(returned)
    elif output is not None:
        found = _entry(returned, output)
        if found is None:
            raise ValueError(
                f"output={output!r} is not among what {name} returns, {_described(returned)}; "
                f"expected one of {known}"
            )
    elif isinstance(returned, Tensor):
        found = returned
    else:
        found = next((v for v in (_entry(returned, f) for f in fields) if v is not None), None)
        if found is None and not known and isinstance(returned, (tuple, list)) and returned:
            found = pick(returned[0], None, fields, name)
    if not isinstance(found, Tensor):
        wanted = " or ".join(map(repr, fields[:3]))
        raise NoLogitsError(
            f"{name} returns {_described(returned)}; expected a tensor, or one named {wanted}. "
            "Name what is meant with output=, a key or a function of what the network returns, "
            f"such as output=lambda out: out.{next(iter(known), 'last_hidden_state')}[:, 0]"
        )
    return found


def _entry(returned: Any, key: Any) -> Any:
    if isinstance(key, int) and isinstance(returned, (tuple, list)):
        return returned[key] if -len(returned) <= key < len(returned) else None
    if isinstance(returned, Mapping):
        return returned.get(key)
    return getattr(returned, key, None) if isinstance(key, str) else None


def _names_in(returned: Any) -> list[str]:
    """Names of the tensors of an output object; none of a plain tuple or list."""
    if isinstance(returned, Tensor):
        return []
    names = returned if isinstance(returned, Mapping) else getattr(returned, "_fields", None)
    if names is None:
        names = vars(returned) if hasattr(returned, "__dict__") else ()
    return [name for name in names if isinstance(_entry(returned, name), Tensor)]


def _described(returned: Any) -> str:
    if isinstance(returned, Tensor):
        return f"a tensor of shape {tuple(returned.shape)}"
    names = _names_in(returned)
    kind = type(returned).__name__
    return f"a {kind} with {', '.join(map(repr, names))}" if names else f"a {kind}"


def as_logits(output: Tensor, n_items: int, name: str) -> Tensor:
    """Check the shape of a network's output, and bring it to (n_items, n_outputs).

    Raises
    ------
    ValueError
        When it is neither (n_items, n_outputs) nor one value for each item.
    """
    shape = tuple(output.shape)
    if not output.is_floating_point():
        raise ValueError(
            f"{name} puts out {output.dtype} of shape {shape}; expected logits, which are floats. "
            "Give a network that returns them, or say where they are with output="
        )
    if output.ndim == 1 and len(output) == n_items:
        return output[:, None]
    if output.ndim > 2 and len(output) == n_items and set(shape[2:]) == {1}:
        return output.flatten(1)
    if output.ndim == 4 and len(output) == n_items:
        raise ValueError(
            f"{name} puts out shape {shape}, logits (batch, n_classes) for each of "
            f"{shape[2]} x {shape[3]} pixels, as a segmentation network does; expected logits of "
            "shape (batch, n_classes). Reduce them to one score for each image with "
            "output=, such as output=lambda out: out.mean((2, 3))"
        )
    if output.ndim != 2 or len(output) != n_items or not shape[1]:
        raise ValueError(
            f"{name} puts out shape {shape} for a batch of {n_items}; expected logits of shape "
            "(batch, n_classes). Say which part of them is meant with output=, such as "
            "output=lambda out: out[:, 0], give X as rows, or begin the network with nn.Flatten"
        )
    return output


def tolerance(dtype: torch.dtype) -> float:
    """Largest relative difference between equal values that are computed in another order."""
    return {torch.float64: 1e-9, torch.float16: 1e-2, torch.bfloat16: 5e-2}.get(dtype, 1e-5)


def find_head(
    module: nn.Module,
    run: Callable[[], Tensor],
    features: Callable[[], Tensor | None],
) -> Reading:
    """Find the layer whose output is that of the network, in value.

    Parameters
    ----------
    module : Module
    run : callable
        Runs the network on some items, and returns its output, shape (b, n_outputs).
    features : callable
        Returns the features of that run that the user has named, or None.
    """
    seen: dict[str, list[tuple[Tensor, Tensor]]] = {}
    layers = {name: layer for name, layer in module.named_modules() if _may_be_head(layer)}

    def note_as(name: str) -> Callable[..., None]:
        def note(layer: nn.Module, args: tuple, kwargs: dict, output: Any) -> None:
            given = args[0] if args else next(iter(kwargs.values()), None)
            if isinstance(given, Tensor) and isinstance(output, Tensor):
                # A later operation in place must not change what is compared.
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
        return Reading(
            n_outputs=output.shape[1], link=head.link, head=head, n_features=n_features
        )
    # Those with the right number of outputs come first.
    failures.sort(key=lambda entry: entry[0])
    listed = tuple(text for _, text in failures[:_LISTED])
    if len(failures) > _LISTED:
        listed = (*listed, f"and {len(failures) - _LISTED} others")
    scripted = any(isinstance(layer, torch.jit.ScriptModule) for layer in module.modules())
    return Reading(
        n_outputs=output.shape[1],
        link=link_of(output.double(), output.dtype),
        n_features=0 if named is None else named.shape[1],
        failures=listed,
        is_hidden=scripted or (bool(layers) and not seen),
        is_altered=any(text.endswith(_CHANGED) for _, text in failures)
        or any(_is_altered(runs[-1], output) for runs in seen.values()),
    )


def _is_altered(run: tuple[Tensor, Tensor], output: Tensor) -> bool:
    """Whether a layer ends in fewer values, which are as many as the network's but others.

    An encoder may end in such a layer too, followed by a nonlinearity or a normalisation.
    """
    given, made = run[0].flatten(1), run[1].flatten(1).double()
    if made.shape != output.shape or given.shape[1] <= made.shape[1]:
        return False
    output = output.double()
    order = made.flatten().argsort()
    grows = bool((output.flatten()[order].diff() >= -1e-6 * output.abs().amax()).all())
    return not (grows or _is_affine(made, output) or _is_affine(made.T, output.T))


def _is_affine(z: Tensor, output: Tensor) -> bool:
    """Whether every row of `output` is the same row of z, scaled and shifted."""
    z, output = _centred(z), _centred(output)
    scale = (z * output).sum(1) / z.square().sum(1).clamp(min=1e-300)
    off = (output - scale[:, None] * z).abs().amax()
    return bool(off <= 1e-4 * output.abs().amax())


def _may_be_head(layer: nn.Module) -> bool:
    """Whether a layer has a matrix of weights: linear layers, and convolutions of one pixel."""
    if isinstance(layer, (nn.Embedding, nn.EmbeddingBag, torch.jit.ScriptModule)):
        return False
    shape = _shape_of(layer)
    return len(shape) >= 2 and set(shape[2:]) <= {1} and getattr(layer, "groups", 1) == 1


def _shape_of(layer: nn.Module) -> tuple[int, ...]:
    """Shape (n_outputs, n_inputs, ...) of the weights of a layer; () where it has none."""
    weight = getattr(layer, "weight", None)
    if isinstance(weight, nn.UninitializedParameter):
        return ()
    if isinstance(weight, Tensor):
        return tuple(weight.shape)
    # Quantised layers hold their weights packed.
    sides = getattr(layer, "out_features", None), getattr(layer, "in_features", None)
    return sides if all(isinstance(side, int) for side in sides) else ()


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
    """Return the head that `layer` is, with its number of features, or why it is none."""
    if not runs:
        return "does not run in the forward pass"
    # A layer may run more than once; only its last output can be that of the network.
    (given, made), n_outputs = runs[-1], output.shape[1]
    channels = 1 if isinstance(layer, _CONVOLUTIONS) else -1
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
        if named is not None and not _are_equal(features, named):
            return "its input is not what features_from= names"
        is_linear = _is_linear(layer, features, z)
        if not is_linear and isinstance(layer, (nn.Linear, *_CONVOLUTIONS)):
            return _CHANGED
        link, scale = relation
        return replace(head, link=link, scale=scale, is_linear=is_linear), features.shape[1]
    return f"its output differs from that of the network by up to {smallest:.2g} of its size"


def _is_linear(layer: nn.Module, features: Tensor, z: Tensor) -> bool:
    weight, bias = getattr(layer, "weight", None), getattr(layer, "bias", None)
    if not isinstance(weight, Tensor):
        return False
    weight = weight.detach().flatten(1).double()
    features = features.double()
    if features.shape[1] != weight.shape[1]:
        return False
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
    """Return what a network does to z to make `output`, as link and factor.

    A float says how far `output` is from every multiple of z, relative to its size.
    """
    allowed = tolerance(dtype)
    scale, difference = _factor(z, output, allowed)
    if difference <= allowed:
        return "none", scale
    link = link_of(output, dtype)
    # Probabilities near 0 and 1 have lost the digits that would determine a factor.
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
    """Subtract the mean of each row, over the entries of weight 1; others become 0."""
    if weight is None:
        return values - values.mean(1, keepdim=True)
    mean = (values * weight).sum(1, keepdim=True) / weight.sum(1, keepdim=True).clamp(min=1)
    return (values - mean) * weight


def _factor(z: Tensor, output: Tensor, allowed: float) -> tuple[float, float]:
    """Return the c for which c z is closest to `output`, and how far it is, relatively."""
    if not z.numel():
        return 1.0, 0.0
    # Squares of large values would overflow.
    unit = float(z.abs().amax()) or 1.0
    squares = float((z / unit).square().sum())
    scale = float((z / unit * (output / unit)).sum()) / squares if squares > 0 else 1.0
    # A few values are a multiple of others by chance.
    if abs(scale - 1) <= allowed or z.numel() < _ENOUGH or scale == 0:
        scale = 1.0
    size, difference = (float(t.abs().amax()) for t in (output, output - scale * z))
    return scale, difference / size if size > 0 else difference


def link_of(output: Tensor, dtype: torch.dtype) -> str:
    """Return the link whose values a network's output looks like; "none" for logits.

    Parameters
    ----------
    output : Tensor of shape (b, n_outputs), float64
    dtype : torch.dtype
        In which it was computed.
    """
    rounding = 10 * tolerance(dtype)
    several = output.shape[1] > 1
    if several and float(torch.logsumexp(output, 1).abs().amax()) <= rounding:
        return "log_softmax"
    if float(output.amin()) < 0 or float(output.amax()) > 1:
        return "none"
    if several and float((output.sum(1) - 1).abs().amax()) <= rounding:
        return "softmax"
    # A sigmoid in float32 never gets to 0; a rectifier does.
    rectified = dtype in (torch.float32, torch.float64) and bool((output == 0).any())
    return "none" if rectified else "sigmoid"
