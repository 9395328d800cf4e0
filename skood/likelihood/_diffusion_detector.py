"""Base of the detectors on a diffusion model."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
from torch import Tensor

from skood._data.checked_data import CheckedData
from skood._estimator.methods import check_provides
from skood.density import Diffusion
from skood.density._denoiser import Denoiser
from skood.likelihood._base import DensityDetector

__all__ = ["DiffusionDetector"]


class DiffusionDetector(DensityDetector):
    """Base of the detectors that compute their score from the denoiser of a diffusion model.

    A subclass writes ``_of_items``.

    Parameters
    ----------
    density : estimator, default=None
        A :class:`~skood.density.Diffusion`; one in :class:`sklearn.frozen.FrozenEstimator` is not
        trained again. None takes a Diffusion with default parameters.
    """

    @abstractmethod
    def _of_items(self, denoiser: Denoiser, x: Tensor) -> Tensor:
        """Return scores, or terms of scores, of items as the network reads them, (b, ...)."""

    def _default_density(self, data: CheckedData) -> Diffusion:
        return Diffusion()

    def _check_density(self, density: Any) -> None:
        check_provides(
            density,
            "denoiser",
            message=f"density={density!r} is not a diffusion model; {type(self).__name__} needs a "
            "Diffusion",
        )
        for t in self._times() if hasattr(density, "check_time") else ():
            density.check_time(t)

    def _times(self) -> Sequence[float]:
        """Return the times at which the score is computed; the density has to model them."""
        return ()

    def _score_samples(self, data: CheckedData) -> npt.NDArray[np.float64]:
        return self.density_.map(
            data, lambda module, x: self._of_items(self.density_.denoiser(module), x)
        )
