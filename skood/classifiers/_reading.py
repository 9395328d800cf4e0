"""Reading of a network: where its logits and features are."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

__all__ = ["Head", "Reading", "require"]


@dataclass(frozen=True)
class Head:
    """The layer that computes the logits of a network.

    Attributes
    ----------
    name : str
        In ``module.named_modules()``.
    reduction : {"none", "mean", "position"}
        Operation after the layer: none, the mean over pixels or tokens, or the choice of a token.
    channels : int
        Axis of the layer's outputs: 1 of maps, -1 of tokens and rows.
    link : {"none", "softmax", "log_softmax", "sigmoid"}
        Function that the network applies to the logits before it returns them.
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
        """Reduce maps or tokens to one vector per item."""
        if values.ndim == 2:
            return values
        tokens = _tokens(values, self.channels)
        if self.reduction == "position":
            return tokens[torch.arange(tokens.shape[0], device=tokens.device), position]
        return tokens.mean(1)

    def position(self, made: Tensor, output: Tensor) -> Tensor | None:
        """Return the token of each item that is closest to the output, if one is chosen."""
        if self.reduction != "position" or made.ndim == 2:
            return None
        return (_tokens(made, self.channels) - output[:, None]).abs().amax(2).argmin(1)


def _tokens(values: Tensor, channels: int) -> Tensor:
    """Reshape maps (b, C, ...) or tokens (b, ..., C) to (b, n_tokens, C)."""
    return values.flatten(2).mT if channels == 1 else values.flatten(1, -2)


@dataclass(frozen=True)
class Reading:
    """How a network is read, as determined on items of the user's data.

    Attributes
    ----------
    as_given : bool
        Whether the network takes items in the shape of X instead of (C, H, W).
    integers : bool
        Whether it takes whole numbers, such as token ids.
    n_outputs : int
        Number of logits, or of features.
    link : str
        As in :class:`Head`; for a network without a head, judged by its output.
    head : Head or None
        The layer that computes the logits, if there is one.
    n_features : int
        Number of features; 0 if they are unknown.
    failures : tuple of str
        Reason why each candidate is not the head.
    one_by_one : bool
        Whether the output depends on the other items of the batch.
    is_hidden : bool
        Whether the layers are hidden, as in scripted and exported networks.
    likeness : {"none", "open", "altered"}
        Similarity of a layer to a head whose output the network changes.
    certain : bool
        Whether the network is one of this package, whose head is known.
    inputs : tuple of tuple
        Name (None: the only argument), shape, dtype ("float" for the dtype of the network),
        smallest and largest value of each tensor that the network took, for an example of its
        input.
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
    likeness: str = "none"
    certain: bool = False
    inputs: tuple[tuple[str | None, tuple[int, ...], str, float, float], ...] = ()


def require(reading: Reading, reads: str, *, name: str, network: str, is_stated: bool) -> None:
    """Raise an error if a network lacks what an estimator reads.

    Parameters
    ----------
    reading : Reading
    reads : {"logits", "network", "features", "head"}
        Logits alone, the network that computes them, its penultimate features, or also the weights
        of its last layer.
    name : str
        Name of the estimator, for the error message.
    network : str
        Class of the network.
    is_stated : bool
        Whether the user has stated what the output is.
    """
    if reads != "features" and reading.link == "sigmoid" and not is_stated:
        _refuse_sigmoid(reading, network)
    linear = reading.head is not None and reading.head.is_linear
    known = {"features": reading.n_features > 0, "head": linear}.get(reads, True)
    if known:
        return
    if reads == "features":
        what = "penultimate features"
        advice = (
            "Name the features with PretrainedClassifier(module, features_from=...), a layer or "
            "a function of what the network returns; if its output is the feature, give "
            "FeatureExtractor(module)"
        )
    else:
        what = "the weights of the last layer"
        advice = (
            "Use a detector on logits, such as Energy, or with features_from= one on features, "
            "such as KNN; or give a network that ends in the linear layer that makes its logits"
        )
    candidates = "; ".join(reading.failures) or "no linear layer"
    if reading.is_hidden:
        candidates = "none, since the layers of a scripted or exported network are hidden"
    if reading.head is not None:
        candidates = f"{reading.head.name!r} is not a linear map of its input"
    raise ValueError(
        f"{name} reads {what}, but no layer of {network} was found to make its logits. The "
        f"candidates: {candidates}. {advice}"
    )


def _refuse_sigmoid(reading: Reading, network: str) -> None:
    """Raise an error if values from 0 to 1 may be probabilities of one label or of several."""
    if reading.n_outputs > 1:
        raise ValueError(
            f"{network} puts out {reading.n_outputs} values from 0 to 1 for each item that "
            "do not add up to 1, as a sigmoid for each of several labels does; give "
            "PretrainedClassifier(module, multilabel=True), or if they are logits of classes "
            "that exclude each other, say so with output=lambda out: out"
        )
    if reading.head is None:
        raise ValueError(
            f"{network} puts out one value from 0 to 1 for each item, which may be a "
            "probability or a logit; give the logit with output=, of a probability "
            "output=torch.logit, of a logit output=lambda out: out"
        )
