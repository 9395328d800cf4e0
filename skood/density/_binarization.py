"""Binarised images: one draw for every batch of training, fixed versions for scores."""

from __future__ import annotations

from functools import lru_cache

import numpy.typing as npt
import torch
from torch import Tensor

from skood.density._neural_density import DensityObjective

__all__ = ["BinarizingObjective", "binary_versions"]


class BinarizingObjective(DensityObjective):
    """Negative log-likelihood in nats of items that are drawn anew, if the model has `binarize`.

    Each pixel of a batch is 1 with its grey value as the probability. Validation items are the
    first version that scores use. The parameters are described in :class:`ModelObjective`.
    """

    couples_rows = None

    def prepare(
        self, items: tuple[npt.NDArray, ...], generator: torch.Generator | None
    ) -> tuple[Tensor, ...]:
        x, *class_indices = super().prepare(items, generator)
        if self.model.binarize is not None:
            x = (
                binary_versions(x, self.model.n_binarizations)[0]
                if generator is None
                else torch.bernoulli(x, generator=generator)
            )
        return x, *class_indices


def binary_versions(x: Tensor, n_versions: int) -> list[Tensor]:
    """Binarise grey values from 0 to 1 by fixed thresholds, each version of the shape of x.

    A pixel is 1 in a version if its grey value exceeds a threshold. The thresholds of a pixel are
    evenly spaced over the versions, from a uniform draw, the same for every item.
    """
    first = _first_thresholds(x.shape[1:]).to(x.device)
    thresholds = [(first + version / n_versions) % 1 for version in range(n_versions)]
    return [(x > threshold).to(x.dtype) for threshold in thresholds]


@lru_cache(maxsize=8)
def _first_thresholds(item_shape: tuple[int, ...]) -> Tensor:
    with torch.inference_mode(False):
        return torch.rand(item_shape, generator=torch.Generator().manual_seed(0))
