"""Pooling of tokens and feature maps to one vector per item."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor, nn

from skood.classifiers._returned import EMBEDDINGS

__all__ = ["POOLINGS", "pooled", "token_mask"]

POOLINGS = {"cls", "last", "max", "mean"}


def pooled(
    returned: Any, pooling: str | Callable | None, mask: Tensor | None, n_items: int, name: str
) -> Tensor:
    """Return one vector per item.

    Parameters
    ----------
    returned : Tensor, tuple or output object
        What a network returns.
    pooling : {"cls", "last", "max", "mean"}, callable or None
        None: the vector that the network itself returns.
    mask : Tensor of shape (b, n_tokens), bool, or None
        Whether a token is no padding. None: all are.
    n_items : int
    name : str
        Class of the network, for error messages.

    Returns
    -------
    Tensor of shape (b, d)

    Raises
    ------
    ValueError
        If the network does not return what `pooling` needs.
    """
    if pooling is None:
        return _vectors(_own_vector(returned, name), n_items, name)
    tokens = _tokens(returned, name)
    if tokens.shape[0] != n_items:
        raise ValueError(
            f"{name} returns shape {tuple(tokens.shape)} for a batch of {n_items}; expected one "
            "row of tokens for each item"
        )
    if callable(pooling):
        if mask is None and tokens.ndim == 3:
            mask = tokens.new_ones(tokens.shape[:2], dtype=torch.bool)
        return _vectors(pooling(tokens, mask), n_items, "the function pooling=")
    if tokens.ndim == 2:
        raise ValueError(
            f"{name} returns one vector per item, of shape {tuple(tokens.shape)}, which needs no "
            f"pooling, but pooling={pooling!r}; give pooling=None"
        )
    # Sums of half precision lose digits.
    tokens = tokens if tokens.dtype == torch.float64 else tokens.float()
    if tokens.ndim > 3:
        if pooling in ("cls", "last"):
            raise ValueError(
                f"{name} returns maps of shape {tuple(tokens.shape)}, without tokens; "
                f"pooling={pooling!r} takes one token: give 'mean', 'max' or a function"
            )
        tokens = tokens.flatten(2).mT
        mask = None
    return _pool(tokens, pooling, mask)


def _pool(tokens: Tensor, pooling: str, mask: Tensor | None) -> Tensor:
    if mask is None:
        if pooling == "mean":
            return tokens.mean(1)
        return tokens.amax(1) if pooling == "max" else tokens[:, 0 if pooling == "cls" else -1]
    rows = torch.arange(len(tokens), device=tokens.device)
    if pooling == "cls":
        return tokens[rows, mask.int().argmax(1)]
    if pooling == "last":
        return tokens[rows, mask.shape[1] - 1 - mask.int().flip(1).argmax(1)]
    padding = ~mask[:, :, None]
    if pooling == "max":
        return tokens.masked_fill(padding, -torch.inf).amax(1)
    # What a network returns for padding may be NaN.
    return tokens.masked_fill(padding, 0).sum(1) / mask.sum(1, keepdim=True)


def token_mask(mask: Tensor, n_tokens: int, module: nn.Module) -> Tensor:
    """Return which of the tokens that a network returns are no padding.

    Parameters
    ----------
    mask : Tensor of shape (b, n_inputs)
        Which of its inputs are no padding: tokens, samples of sound, or frames of a spectrogram.
    n_tokens : int
    module : Module

    Returns
    -------
    Tensor of shape (b, n_tokens), bool

    Raises
    ------
    ValueError
        If the network shortens its input, and it is not known how.
    """
    n_inputs = mask.shape[1]
    if n_tokens == n_inputs:
        return mask.bool()
    shortened = getattr(module, "_get_feature_vector_attention_mask", None)
    if shortened is not None:
        return shortened(n_tokens, mask.long()).bool()
    if n_tokens and n_inputs % n_tokens == 0:
        return mask[:, :: n_inputs // n_tokens].bool()
    raise ValueError(
        f"{type(module).__name__} makes {n_tokens} tokens of {n_inputs} inputs, so that the tokens "
        "of padding are unknown; give pooling=, a function of tokens and mask, or batch_size=1, "
        "without padding"
    )


def _own_vector(returned: Any, name: str) -> Tensor:
    if isinstance(returned, Tensor):
        return returned
    for field in EMBEDDINGS:
        value = _field(returned, field)
        if isinstance(value, Tensor):
            return value
    raise ValueError(
        f"{name} returns no vector per item of its own ({' or '.join(EMBEDDINGS)}); pool its "
        "tokens with pooling='cls', 'mean', 'last' or 'max', or a function of tokens and mask"
    )


def _tokens(returned: Any, name: str) -> Tensor:
    found = returned
    if not isinstance(returned, Tensor):
        found = _field(returned, "last_hidden_state")
        if found is None and isinstance(returned, (tuple, list)) and returned:
            found = returned[0]
    if not isinstance(found, Tensor):
        raise ValueError(
            f"{name} returns a {type(returned).__name__} without last_hidden_state, so that there "
            "is nothing to pool; give pooling=None for its own vector, or a network without a head"
        )
    return found


def _field(returned: Any, name: str) -> Any:
    if isinstance(returned, Mapping):
        return returned.get(name)
    return getattr(returned, name, None)


def _vectors(output: Any, n_items: int, name: str) -> Tensor:
    shape = tuple(getattr(output, "shape", ()))
    if isinstance(output, Tensor) and output.ndim > 2 and set(shape[2:]) == {1}:
        output = output.flatten(1)
    if not isinstance(output, Tensor) or output.ndim != 2 or shape[0] != n_items:
        raise ValueError(
            f"{name} returns {f'shape {shape}' if shape else type(output).__name__} for a batch of "
            f"{n_items}; expected one vector for each item, (batch, d). Pool tokens or maps with "
            "pooling='cls', 'mean', 'last' or 'max', or a function of tokens and mask"
        )
    return output
