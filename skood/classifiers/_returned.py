"""Choice of the logits or the features among the values that a network returns."""

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

# Fields of output objects with one embedding per item, the most specific first.
EMBEDDINGS = ["image_embeds", "text_embeds", "embeddings", "pooler_output"]


class NoLogitsError(ValueError):
    """Raised if a network returns no logits, so that it may be an encoder."""


def pick(returned: Any, output: Any, fields: Sequence[str], name: str) -> Tensor:
    """Return the logits or the features among the values that a network returns.

    Parameters
    ----------
    returned : Tensor, tuple or output object
    output : str, int, callable or None
        A key, a position, or a function of `returned`. None: a tensor itself, the first of `fields`
        that an output object has, or the first element of a tuple.
    fields : sequence of str
    name : str
        Class of the network, for the error message.

    Raises
    ------
    ValueError
        If the requested or, by default, the expected value is missing or is not a tensor.
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
            "Choose one with output=, a key or a function of what the network returns"
            f"{example}"
        )
    return found


def _applied(parameter: str, function: Any, returned: Any, name: str) -> Any:
    """Apply a user's function to the values that a network returns."""
    try:
        return function(returned)
    except Exception as error:
        raise ValueError(
            f"the function {parameter} failed on what {name} returns, {_described(returned)}: "
            f"{type(error).__name__}: {error}"
        ) from error


def _example(returned: Any, key: str) -> str:
    """Return an example of `output` that takes one vector per item from an output object."""
    if _entry(returned, key).ndim == 2:
        return f"output={key!r}"
    place = f"out[{key!r}]" if isinstance(returned, Mapping) else f"out.{key}"
    # The first of several tokens, the mean of a map.
    end = "[:, 0]" if _entry(returned, key).ndim == 3 else ".mean((2, 3))"
    return f"output=lambda out: {place}{end}"


def _entry(returned: Any, key: Any) -> Any:
    if isinstance(key, int) and isinstance(returned, (tuple, list)):
        return returned[key] if -len(returned) <= key < len(returned) else None
    if isinstance(returned, Mapping):
        return returned.get(key)
    return getattr(returned, key, None) if isinstance(key, str) else None


def _names_in(returned: Any) -> list[str]:
    """Return the names of the tensors of an output object; none for a tuple or list."""
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
    """Check the shape of a network's output, and reshape it to (n_items, n_outputs).

    Raises
    ------
    NoLogitsError
        If the shape is neither (n_items, n_outputs) nor one value per item.
    """
    shape = tuple(output.shape)
    if not output.is_floating_point():
        raise NoLogitsError(
            f"{name} puts out {output.dtype} of shape {shape}; expected logits, which are floats. "
            "Give a network that returns logits, or choose them with output="
        )
    if output.ndim == 1 and output.shape[0] == n_items:
        return output[:, None]
    if output.ndim > 2 and output.shape[0] == n_items and set(shape[2:]) == {1}:
        return output.flatten(1)
    if output.ndim == 4 and output.shape[0] == n_items:
        raise NoLogitsError(
            f"{name} puts out shape {shape}, logits (batch, n_classes) for each of "
            f"{shape[2]} x {shape[3]} pixels, as a segmentation network does; expected logits of "
            "shape (batch, n_classes). Reduce them to one vector per image with output=, a "
            "function of what the network returns"
        )
    if output.ndim != 2 or output.shape[0] != n_items or not shape[1]:
        raise NoLogitsError(
            f"{name} puts out shape {shape} for a batch of {n_items}; expected logits of shape "
            "(batch, n_classes). Choose the logits with output=, a function of what the network "
            "returns"
        )
    return output


def as_features(output: Tensor, n_items: int, name: str) -> Tensor:
    """Check the shape of an encoder's output, and reshape it to (n_items, n_features).

    Raises
    ------
    ValueError
        If the shape is not one vector per item.
    """
    shape = tuple(output.shape)
    if output.ndim > 2 and set(shape[2:]) == {1}:
        output = output.flatten(1)
    if output.ndim != 2 or output.shape[0] != n_items:
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
        If the module has no layer of this name.
    """
    name = features_from[0] if isinstance(features_from, tuple) else features_from
    if not isinstance(name, str):
        return None
    try:
        return module.get_submodule(name)
    except AttributeError as error:
        names = [name for name, _ in module.named_modules() if name]
        raise ValueError(
            f"features_from={name!r} is not a layer of {type(module).__name__}; its layers "
            f"are {', '.join(names[-20:])}"
        ) from error


def named_features(
    features_from: Any, returned: Any, seen: Sequence[Any], n_items: int
) -> Tensor | None:
    """Return the features that `features_from` defines, shape (n_items, d); None if it is None.

    Parameters
    ----------
    features_from : str, callable, tuple of both or None
    returned : object
        Return value of the network.
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
    if not isinstance(features, Tensor) or features.ndim < 2 or features.shape[0] != n_items:
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
    # A network's own pooling would compute the spatial mean of maps.
    return features.flatten(2).mean(2) if features.ndim > 3 else features


def tolerance(dtype: torch.dtype) -> float:
    """Return the largest relative rounding error between values computed in different orders."""
    return {torch.float64: 1e-9, torch.float16: 1e-2, torch.bfloat16: 5e-2}.get(dtype, 1e-5)


def link_of(output: Tensor, dtype: torch.dtype) -> str:
    """Return the link whose range a network's output has; "none" for logits.

    Parameters
    ----------
    output : Tensor of shape (b, n_outputs), float64
    dtype : torch.dtype
        Precision of the computation.
    """
    rounding = 10 * tolerance(dtype)
    several = output.shape[1] > 1
    if several and float(torch.logsumexp(output, 1).abs().amax()) <= rounding:
        return "log_softmax"
    if float(output.amin()) < 0 or float(output.amax()) > 1:
        return "none"
    if several and float((output.sum(1) - 1).abs().amax()) <= rounding:
        return "softmax"
    # A sigmoid in float32 is never 0; a rectifier is.
    rectified = dtype in (torch.float32, torch.float64) and bool((output == 0).any())
    return "none" if rectified else "sigmoid"


def unlinked(output: Tensor, link: str) -> Tensor:
    """Convert probabilities to logits; logits stay unchanged."""
    if link == "softmax":
        return output.clamp(min=torch.finfo(output.dtype).tiny).log()
    if link == "sigmoid":
        return torch.logit(output, torch.finfo(output.dtype).eps)
    return output
