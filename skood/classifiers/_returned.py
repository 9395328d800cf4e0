"""What a network returns: the tensor that is meant, as logits or as features."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

__all__ = [
    "NoLogitsError",
    "as_features",
    "as_logits",
    "layer_named",
    "link_of",
    "named_features",
    "pick",
    "tolerance",
    "unlinked",
]

# Names under which output objects hold one embedding for each item, the most specific first.
EMBEDDINGS = ["image_embeds", "text_embeds", "embeddings", "pooler_output"]


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
        found = _applied("output=", output, returned, name)
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
        example = f", such as {_example(returned, known[-1])}" if known else ""
        raise NoLogitsError(
            f"{name} returns {_described(returned)}; expected a tensor, or one named {wanted}. "
            "Name what is meant with output=, a key or a function of what the network returns"
            f"{example}"
        )
    return found


def _applied(parameter: str, function: Any, returned: Any, name: str) -> Any:
    """Apply a function of the user's to what a network returns."""
    try:
        return function(returned)
    except Exception as error:
        raise ValueError(
            f"the function {parameter} failed on what {name} returns, {_described(returned)}: "
            f"{type(error).__name__}: {error}"
        ) from error


def _example(returned: Any, key: str) -> str:
    """Show how one vector for each item is taken from a tensor of an output object."""
    if _entry(returned, key).ndim == 2:
        return f"output={key!r}"
    place = f"out[{key!r}]" if isinstance(returned, Mapping) else f"out.{key}"
    # Of tokens the first, of maps the mean.
    end = "[:, 0]" if _entry(returned, key).ndim == 3 else ".mean((2, 3))"
    return f"output=lambda out: {place}{end}"


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
    NoLogitsError
        When it is neither (n_items, n_outputs) nor one value for each item.
    """
    shape = tuple(output.shape)
    if not output.is_floating_point():
        raise NoLogitsError(
            f"{name} puts out {output.dtype} of shape {shape}; expected logits, which are floats. "
            "Give a network that returns them, or say where they are with output="
        )
    if output.ndim == 1 and len(output) == n_items:
        return output[:, None]
    if output.ndim > 2 and len(output) == n_items and set(shape[2:]) == {1}:
        return output.flatten(1)
    if output.ndim == 4 and len(output) == n_items:
        raise NoLogitsError(
            f"{name} puts out shape {shape}, logits (batch, n_classes) for each of "
            f"{shape[2]} x {shape[3]} pixels, as a segmentation network does; expected logits of "
            "shape (batch, n_classes). Reduce them to one vector for each image with output=, a "
            "function of what the network returns"
        )
    if output.ndim != 2 or len(output) != n_items or not shape[1]:
        raise NoLogitsError(
            f"{name} puts out shape {shape} for a batch of {n_items}; expected logits of shape "
            "(batch, n_classes). Say which part of them is meant with output=, a function of what "
            "the network returns"
        )
    return output


def as_features(output: Tensor, n_items: int, name: str) -> Tensor:
    """Check the shape of an encoder's output, and bring it to (n_items, n_features).

    Raises
    ------
    ValueError
        When it is not one vector for each item.
    """
    shape = tuple(output.shape)
    if output.ndim > 2 and set(shape[2:]) == {1}:
        output = output.flatten(1)
    if output.ndim != 2 or len(output) != n_items:
        raise ValueError(
            f"{name} puts out shape {shape} for a batch of {n_items}; expected one "
            "feature vector for each item, (batch, d). Choose or pool with output=, such as "
            "output=lambda out: out.mean((2, 3)) of maps, or "
            "output=lambda out: out.last_hidden_state[:, 0] of tokens"
        )
    return output


def layer_named(module: nn.Module, features_from: Any) -> nn.Module | None:
    """Return the layer that `features_from` names, if it is a name.

    Raises
    ------
    ValueError
        When the module has no layer of this name.
    """
    name = features_from[0] if isinstance(features_from, tuple) else features_from
    if not isinstance(name, str):
        return None
    try:
        return module.get_submodule(name)
    except AttributeError as error:
        names = [name for name, _ in module.named_modules() if name]
        raise ValueError(
            f"features_from={name!r} is no layer of {type(module).__name__}; its layers "
            f"are {', '.join(names[-20:])}"
        ) from error


def named_features(
    features_from: Any, returned: Any, seen: Sequence[Any], n_items: int
) -> Tensor | None:
    """Return what `features_from` means, shape (n_items, d); None where it is None.

    Parameters
    ----------
    features_from : str, callable, tuple of both or None
    returned : object
        What the network returned.
    seen : sequence
        Outputs of the layer that `features_from` names.
    n_items : int
    """
    if features_from is None:
        return None
    if callable(features_from):
        features = _applied("features_from=", features_from, returned, "the network")
    elif len(seen) != 1:
        raise ValueError(
            f"the layer features_from={features_from!r} runs {len(seen)} times in a pass; "
            "name one that runs once"
        )
    elif isinstance(features_from, tuple):
        features = _applied("features_from=", features_from[1], seen[0], "the layer")
    else:
        features = seen[0]
    if not isinstance(features, Tensor) or features.ndim < 2 or len(features) != n_items:
        shape = tuple(features.shape) if isinstance(features, Tensor) else type(features)
        raise ValueError(
            f"features_from= gives {shape} for a batch of {n_items}; expected a tensor of shape "
            "(batch, d)"
        )
    if features.ndim == 3:
        raise ValueError(
            f"features_from= gives shape {tuple(features.shape)}, a vector for each of "
            f"{features.shape[1]} tokens or positions; choose or pool them with a function of the "
            "layer's output, such as features_from=(layer, lambda tokens: tokens[:, 0])"
        )
    # The spatial mean of maps is what a network's own pooling would make of them.
    return features.flatten(2).mean(2) if features.ndim > 3 else features


def tolerance(dtype: torch.dtype) -> float:
    """Largest relative difference between equal values that are computed in another order."""
    return {torch.float64: 1e-9, torch.float16: 1e-2, torch.bfloat16: 5e-2}.get(dtype, 1e-5)


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


def unlinked(output: Tensor, link: str) -> Tensor:
    """Return logits of probabilities; logits as they are."""
    if link == "softmax":
        return output.clamp(min=torch.finfo(output.dtype).tiny).log()
    if link == "sigmoid":
        return torch.logit(output, torch.finfo(output.dtype).eps)
    return output
