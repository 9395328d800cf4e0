"""Functions shared by the detectors on a density."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from skood._checked_data import CheckedData
from skood._models import as_input, rows_through
from skood.density import ImageFlow, NeuralSplineFlow, PixelCNN

__all__ = ["default_density", "default_flow", "log_density", "log_density_of_pixels"]


def default_density(data: CheckedData) -> PixelCNN | NeuralSplineFlow:
    """Density for ``density=None``: PixelCNN for images, a spline flow for rows."""
    return PixelCNN() if data.is_image else NeuralSplineFlow()


def default_flow(data: CheckedData) -> ImageFlow | NeuralSplineFlow:
    """Flow for None: ImageFlow for images, a spline flow for rows."""
    return ImageFlow() if data.is_image else NeuralSplineFlow()


def log_density(model: Any, data: CheckedData) -> npt.NDArray[np.float64]:
    """Log-density of each item in nats, shape (n,)."""
    return rows_through(model, "score_samples", data).astype(np.float64)


def log_density_of_pixels(model: Any, data: CheckedData) -> npt.NDArray[np.float64]:
    """Log-probability of each pixel in nats, shape (n, H, W)."""
    return np.asarray(model.score_pixels(as_input(model, data)), dtype=np.float64)
