"""Tensor interface through which other packages use a generative model."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from skood._data.checked_data import CheckedData
from skood._torch.preprocessing import Preprocessing

__all__ = ["Generator"]


@dataclass(frozen=True)
class Generator:
    r"""A trained generative model with a latent space, as its ``generator()`` returns it.

    An internal interface, stable within this package. The model's own input, x below, is a float32
    tensor of pixels in [0, 1] or of standardised rows, of shape (b, \*item_shape). A class index is
    the position of a label in the model's ``classes_``; a model that is not conditional takes None.

    Attributes
    ----------
    n_latent : int
    conditional : bool
    device : torch.device
        Device of all tensors.
    dtype : torch.dtype
        Dtype of values in the units of X: float64 if X was float64, else float32.
    preprocessing : Preprocessing
        Converts X to x, and back.
    tensor : callable
        ``tensor(items)`` converts an array of items of the data that `open` returns to x.
    encode : callable
        ``encode(x, class_indices=None)`` returns latents (b, n_latent), the means of q(z | x, y),
        and the class indices used, by default the most probable ones of a conditional model.
    decode : callable
        ``decode(z, class_indices)`` returns the location of p(x | z, y).
    class_indices : callable
        ``class_indices(y, n_items)`` returns the class indices of n_items labels; None if y is
        None or the model is not conditional.
    """

    n_latent: int
    conditional: bool
    device: torch.device
    dtype: torch.dtype
    preprocessing: Preprocessing
    tensor: Callable[[npt.NDArray], Tensor]
    encode: Callable[..., tuple[Tensor, Tensor | None]]
    decode: Callable[[Tensor, Tensor | None], Tensor]
    class_indices: Callable[..., npt.NDArray[np.int64] | None]

    @property
    def item_shape(self) -> tuple[int, ...]:
        """Shape of an item of x, (C, H, W) or (d,)."""
        return self.preprocessing.item_shape

    @property
    def has_range(self) -> bool:
        """Whether x are values in [0, 1]; standardised rows otherwise."""
        return self.preprocessing.value_range is not None

    def open(self, data: CheckedData) -> CheckedData:
        """Return the data with items of the shape `item_shape`."""
        return self.preprocessing.open(data)

    def to_units_of_x(self, x: Tensor) -> Tensor:
        r"""Undo `tensor`; shape (b, \*input_shape), dtype `dtype`, on the device of x."""
        return self.preprocessing.inverse(x).to(self.dtype)
