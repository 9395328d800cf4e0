"""Base of the detectors on a density, and what they share."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, ClassVar

import numpy as np
import numpy.typing as npt

from skood._checked_data import CheckedData
from skood._methods import check_provides, provides
from skood._models import as_input, fit_model, rows_through
from skood._parameters import HasMethods, estimator, parameter
from skood.base import ModelDetector
from skood.density import ImageFlow, NeuralSplineFlow, PixelCNN
from skood.density._base import NeuralModel

__all__ = [
    "DensityDetector",
    "check_densities",
    "default_density",
    "default_flow",
    "fit_density_with",
    "log_density",
    "log_density_of_pixels",
]


@estimator
class DensityDetector(ModelDetector):
    """Base of the detectors on a density.

    Parameters
    ----------
    density : density, default=None
        An estimator with ``fit`` and ``score_samples``. One in
        :class:`sklearn.frozen.FrozenEstimator` is not trained again. None: :class:`PixelCNN` for
        images, :class:`NeuralSplineFlow` for rows.

    Attributes
    ----------
    density_ : density
        The trained density.
    """

    density: Any = parameter(HasMethods(["fit", "score_samples"]), None, default=None)

    _model_parameters: ClassVar[tuple[str, ...]] = ("density",)


def default_density(data: CheckedData) -> PixelCNN | NeuralSplineFlow:
    """Density for ``density=None``: PixelCNN for images, a spline flow for rows."""
    return PixelCNN() if data.is_image else NeuralSplineFlow()


def default_flow(data: CheckedData) -> ImageFlow | NeuralSplineFlow:
    """Flow for None: ImageFlow for images, a spline flow for rows."""
    return ImageFlow() if data.is_image else NeuralSplineFlow()


def fit_density_with(
    methods: tuple[str, ...],
    density: Any,
    data: CheckedData,
    y: npt.NDArray | None,
    *,
    message: str,
    error: type[Exception] = ValueError,
    **options: Any,
) -> Any:
    """Fit a density that has to have one of some methods.

    A density that lacks them is refused before it is trained, where that can be told.

    Parameters
    ----------
    methods : tuple of str
    density : estimator
    data : CheckedData
    y : ndarray or None
    message : str
        Error message for a density without these methods.
    error : type, default=ValueError
        Class of the exception.
    **options : object
        Passed to `fit_model`.
    """
    check_provides(density, *methods, message=message, error=error)
    fitted = fit_model(density, data, y, **options)
    check_provides(fitted, *methods, message=message, error=error)
    return fitted


def check_densities(densities: Sequence[Any], data: CheckedData, name: str) -> None:
    """Raise if one of several densities cannot be fitted to `data`, before any is trained.

    Parameters
    ----------
    densities : sequence of estimators
        Those of others are only asked for ``fit`` and ``score_samples``.
    data : CheckedData
    name : str
        Name of the parameter that holds them.
    """
    for density in densities:
        if not all(provides(density, method) for method in ("fit", "score_samples")):
            raise ValueError(
                f"{name} holds {density!r}; expected densities, each with fit and score_samples"
            )
        if isinstance(density, NeuralModel):
            density.check_input(data)


def log_density(model: Any, data: CheckedData) -> npt.NDArray[np.float64]:
    """Log-density of each item in nats, shape (n,)."""
    return rows_through(model, "score_samples", data).astype(np.float64)


def log_density_of_pixels(model: Any, data: CheckedData) -> npt.NDArray[np.float64]:
    """Log-probability of each pixel in nats, shape (n, H, W)."""
    return np.asarray(model.score_pixels(as_input(model, data)), dtype=np.float64)
