"""Models with a latent space as transformers."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from sklearn.base import ClassNamePrefixFeaturesOutMixin, TransformerMixin
from sklearn.utils import Tags, check_array
from sklearn.utils.validation import check_is_fitted
from torch import Tensor

from skood._data.checked_data import CheckedData

__all__ = ["LatentSpace"]


class LatentSpace(ClassNamePrefixFeaturesOutMixin, TransformerMixin):
    """Mixin of the models that are transformers to `n_latent` latents, float64."""

    n_latent: int
    map: Callable[..., Any]

    def _map_latents(
        self,
        Z: npt.NDArray[np.float64],
        function: Callable[..., Tensor],
        class_indices: npt.NDArray[np.integer] | None = None,
    ) -> npt.NDArray[np.float64]:
        """Apply a function of the trained network and latents (b, n_latent) to checked rows."""
        return self.map(
            CheckedData.of(Z),
            function,
            class_indices=class_indices,
            tensor=_latents_tensor,
            doing="decodes",
        )

    def _check_latents(self, Z: Any) -> npt.NDArray[np.float64]:
        check_is_fitted(self)
        Z = check_array(Z, dtype=np.float64, input_name="Z")
        if Z.shape[1] != self.n_latent:
            raise ValueError(f"Z has {Z.shape[1]} columns; expected n_latent={self.n_latent}")
        return Z

    def _finite(self, values: npt.NDArray[np.float64], name: str) -> npt.NDArray[np.float64]:
        """Return values computed from items of `name`; raise if any is NaN or inf."""
        wrong = ~np.isfinite(values).reshape(len(values), -1).all(1)
        if wrong.any():
            raise ValueError(
                f"{type(self).__name__} gives NaN or inf for {wrong.sum()} of the {len(values)} "
                f"items of {name}, whose values are too large for float32; rescale {name}"
            )
        return values

    @property
    def _n_features_out(self) -> int:
        check_is_fitted(self)
        return self.n_latent

    def __sklearn_tags__(self) -> Tags:
        tags = super().__sklearn_tags__()
        # Latents are float64.
        tags.transformer_tags.preserves_dtype = []
        return tags


def _latents_tensor(latents: npt.NDArray, device: torch.device) -> Tensor:
    return torch.as_tensor(latents, dtype=torch.float32, device=device)
