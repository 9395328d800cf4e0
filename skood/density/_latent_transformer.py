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

from skood._checked_data import CheckedData
from skood._torch.batching import batch_multiple, map_batches, scoring_batch_size
from skood.density._generator import Generator

__all__ = ["LatentSpace", "LatentTransformer"]


class LatentSpace(ClassNamePrefixFeaturesOutMixin, TransformerMixin):
    """A transformer to `n_latent` latents, float64."""

    n_latent: int

    def _check_latents(self, Z: Any) -> npt.NDArray[np.float64]:
        check_is_fitted(self)
        Z = check_array(Z, dtype=np.float64, input_name="Z")
        if Z.shape[1] != self.n_latent:
            raise ValueError(f"Z has {Z.shape[1]} columns; expected n_latent={self.n_latent}")
        return Z

    def _finite(self, values: npt.NDArray[np.float64], name: str) -> npt.NDArray[np.float64]:
        """Return what was made of checked items of `name`; raise where it is NaN or inf."""
        wrong = ~np.isfinite(values).reshape(len(values), -1).all(1)
        if wrong.any():
            raise ValueError(
                f"{type(self).__name__} gives NaN or inf for {wrong.sum()} of the {len(values)} "
                f"items of {name}, whose values are beyond what it can compute with; rescale {name}"
            )
        return values

    @property
    def _n_features_out(self) -> int:
        check_is_fitted(self)
        return self.n_latent

    def __sklearn_tags__(self) -> Tags:
        tags = super().__sklearn_tags__()
        tags.input_tags.three_d_array = True
        # Latents are float64.
        tags.transformer_tags.preserves_dtype = []
        return tags


class LatentTransformer(LatentSpace):
    """Encoding and decoding through the `Generator` of a density."""

    def _map_labelled(
        self,
        data: CheckedData,
        y: Any,
        function: Callable[[Generator, npt.NDArray, Tensor | None], Tensor],
        description: str,
    ) -> npt.NDArray:
        """Apply a function of the generator, items and class indices to all of `data`."""
        model = self.generator()
        class_indices = self._class_indices(y, len(data))

        def read(rows: npt.NDArray) -> Tensor:
            given = None
            if class_indices is not None:
                given = torch.as_tensor(class_indices[rows[:, 0]], device=model.device)
            return function(model, data.take(rows[:, 0]), given).double()

        return map_batches(
            read,
            CheckedData.of(np.arange(len(data))[:, None]),
            scoring_batch_size(model.device, data.item_shape),
            multiple_of=batch_multiple(data.item_shape),
            verbose=self.verbose,
            description=f"{type(self).__name__} {description}",
        )

    def transform(self, X: Any, y: Any = None) -> npt.NDArray[np.float64]:
        """Mean of q(z | x), the latents of X.

        Parameters
        ----------
        X : array-like, Tensor or Dataset of shape (n_samples, ...)
        y : array-like of shape (n_samples,), default=None
            Labels, for a conditional model. None takes the most probable class of each item.

        Returns
        -------
        ndarray of shape (n_samples, n_latent), float64
        """
        check_is_fitted(self)

        def mean(model: Generator, items: npt.NDArray, class_indices: Tensor | None) -> Tensor:
            return model.encode(model.tensor(items), class_indices)[0]

        return self._map_labelled(self._open(X, reset=False), y, mean, "encodes")

    def inverse_transform(self, Z: Any, y: Any = None) -> npt.NDArray:
        """Decode latents.

        Parameters
        ----------
        Z : array-like of shape (n_samples, n_latent)
        y : array-like of shape (n_samples,), default=None
            Labels, which a conditional model needs.

        Returns
        -------
        ndarray of shape (n_samples, C, H, W) or (n_samples, d), float64
            Location of p(x | z) in the units of X: the mean, unless the likelihood is discretised.

        Raises
        ------
        ValueError
            When a conditional model is not given labels, or Z has another number of columns.
        """
        Z = self._check_latents(Z)
        if self.conditional and y is None:
            raise ValueError(
                "a conditional VAE decodes latents given classes; give y, the labels to decode for"
            )

        def decode(model: Generator, z: npt.NDArray, class_indices: Tensor | None) -> Tensor:
            latents = torch.as_tensor(z, dtype=torch.float32, device=model.device)
            return model.preprocessing.inverse(model.decode(latents, class_indices))

        return self._map_labelled(CheckedData.of(Z), y, decode, "decodes")

    def reconstruct(self, X: Any, y: Any = None) -> npt.NDArray:
        """Decode the latents of X.

        Parameters
        ----------
        X : array-like, Tensor or Dataset of shape (n_samples, ...)
        y : array-like of shape (n_samples,), default=None
            Labels, for a conditional model. None takes the most probable class of each item.

        Returns
        -------
        ndarray of shape (n_samples, C, H, W) or (n_samples, d), float64
            In the units of X.
        """
        check_is_fitted(self)

        def decode(model: Generator, items: npt.NDArray, class_indices: Tensor | None) -> Tensor:
            latents = model.encode(model.tensor(items), class_indices)
            return model.preprocessing.inverse(model.decode(*latents))

        return self._map_labelled(self._open(X, reset=False), y, decode, "reconstructs")
