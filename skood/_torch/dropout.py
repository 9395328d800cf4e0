"""Dropout in eval mode, with masks that all rows share."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.overrides import TorchFunctionMode

from skood._torch.seeding import numpy_rng

__all__ = ["DROPOUTS", "Subnetwork"]

_OF_VALUES = {F.dropout, F.alpha_dropout}
_OF_CHANNELS = {F.dropout1d, F.dropout2d, F.dropout3d, F.feature_alpha_dropout}
# By name, since files hold names instead of functions.
DROPOUTS: dict[str, Callable[..., Tensor]] = {
    function.__name__: function
    for function in (
        *(F.alpha_dropout, F.dropout, F.dropout1d, F.dropout2d, F.dropout3d),
        F.feature_alpha_dropout,
    )
}
# Alpha dropout replaces dropped values by the lower limit of SELU.
_SELU_LIMIT = -1.7580993408473766


class Subnetwork(TorchFunctionMode):
    r"""A random but fixed subnetwork, as dropout draws them.

    Inside the block, every dropout with a rate :math:`p > 0`, as a module or as a function of
    ``torch.nn.functional``, applies a mask, even though the network is in eval mode. The k-th
    dropout of a forward pass has the same mask in every pass and for every row, so that no output
    depends on the other rows. Everything else stays in eval mode.

    Parameters
    ----------
    *seed : int
        Determines the masks.

    Attributes
    ----------
    dropouts : list of (str, float)
        Name, in ``torch.nn.functional``, and rate of each dropout in the last block.
    shapes : list of tuple of int
        Shape of the input of each dropout.
    output : Tensor or None
        Output of the last dropout.
    """

    def __init__(self, *seed: int) -> None:
        super().__init__()
        self._seed = seed
        self._masks: dict[tuple[int, tuple[int, ...]], Tensor] = {}

    def __enter__(self) -> Subnetwork:
        self.dropouts: list[tuple[str, float]] = []
        self.shapes: list[tuple[int, ...]] = []
        self.output: Tensor | None = None
        return super().__enter__()

    def __torch_function__(
        self, function: Any, types: Any, args: tuple = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        kwargs = kwargs or {}
        if (function in _OF_VALUES or function in _OF_CHANNELS) and kwargs["p"] > 0:
            return self._drop(function, args[0], kwargs["p"], inplace=kwargs["inplace"])
        return function(*args, **kwargs)

    def _drop(self, function: Any, input: Tensor, p: float, *, inplace: bool) -> Tensor:
        mask = self._mask(function, input, p)
        self.dropouts.append((function.__name__, p))
        self.shapes.append(tuple(input.shape))
        # For p = 1 everything is dropped; avoid the division by 0.
        kept = 1 - p or 1
        if function in (F.alpha_dropout, F.feature_alpha_dropout):
            scale = 1 / math.sqrt(kept * (1 + p * _SELU_LIMIT**2))
            output = torch.where(mask, input, _SELU_LIMIT) * scale - p * _SELU_LIMIT * scale
        else:
            output = input * (mask.to(input.dtype) / kept)
        self.output = input.copy_(output) if inplace else output
        return self.output

    def _mask(self, function: Any, input: Tensor, p: float) -> Tensor:
        """Return which values or channels of a row are kept."""
        item_shape = tuple(input.shape[1:])
        if function in _OF_CHANNELS:
            item_shape = (*item_shape[:1], *[1] * (input.ndim - 2))
        key = len(self.dropouts), item_shape
        if key not in self._masks:
            # numpy's generators draw the same numbers on every machine, for every device.
            kept = numpy_rng(*self._seed, key[0]).random(item_shape) >= p
            self._masks[key] = torch.as_tensor(kept, device=input.device)
        return self._masks[key]
