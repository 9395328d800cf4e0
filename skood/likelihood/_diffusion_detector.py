"""What the detectors on a diffusion model share."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
from torch import Tensor

from skood._checked_data import CheckedData
from skood.density import Diffusion
from skood.density._diffusion import Denoiser
from skood.likelihood._base import DensityDetector, fit_density_with

__all__ = ["DiffusionDetector"]


class DiffusionDetector(DensityDetector):
    """Base of the detectors that read more of a diffusion model than its density.

    A subclass writes ``_of_items``.
    """

    @abstractmethod
    def _of_items(self, denoiser: Denoiser, x: Tensor) -> Tensor:
        """Return what scores are made of, for items as the network reads them, (b, ...)."""

    def _fit(
        self, inliers: CheckedData, y: npt.NDArray | None, outliers: CheckedData | None, seed: int
    ) -> None:
        density = Diffusion() if self.density is None else self.density
        check_times(density, self._times())
        self.density_ = fit_density_with(
            ("map_noise",),
            density,
            inliers,
            y,
            message=f"density={density!r} is not a diffusion model; {type(self).__name__} needs a "
            "Diffusion",
            seed=None if self.random_state is None else seed,
            memory=self.memory,
        )
        check_times(self.density_, self._times())

    def _times(self) -> Sequence[float]:
        """Return the times that the density is asked at, which it has to model."""
        return ()

    def _map(self, data: CheckedData) -> npt.NDArray[np.float64]:
        return self.density_.map_noise(data, self._of_items, doing="scores").astype(np.float64)

    def _score_samples(self, data: CheckedData) -> npt.NDArray[np.float64]:
        return self._map(data)


def check_times(density: Any, times: Sequence[float]) -> None:
    """Raise for times that a diffusion model does not model; fitted or not."""
    if hasattr(density, "check_time"):
        for t in times:
            density.check_time(t)
