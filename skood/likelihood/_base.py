"""Base of the detectors on a density, and functions of densities."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Sequence
from typing import Any, ClassVar

import numpy as np
import numpy.typing as npt
from sklearn.frozen import FrozenEstimator

from skood._data.checked_data import CheckedData
from skood._data.symbols import holds_text
from skood._data.unread_data import UnreadData
from skood._data.validation import check_data
from skood._estimator.methods import provides
from skood._estimator.parameters import HasMethods, estimator, parameter
from skood._models import as_input, fit_model, rows_through
from skood.base import ModelDetector
from skood.density import CausalLanguageModel, ImageFlow, NeuralSplineFlow, PixelCNN
from skood.density._base import NeuralModel
from skood.explanation import Explanation, PixelsExplanation, PositionsExplanation
from skood.likelihood._sequences import default_sequence_density

__all__ = [
    "DensityDetector",
    "ExplainedByParts",
    "check_comparable",
    "check_densities",
    "default_flow",
    "evenly_spaced",
    "log_density",
    "log_density_of_pixels",
    "log_density_of_positions",
]


@estimator
class DensityDetector(ModelDetector):
    """Base of the detectors on a density, which they fit.

    A subclass writes ``_score_samples``, which reads ``density_``. It overrides
    ``_default_density`` and ``_check_density`` if it does not take every density.

    Parameters
    ----------
    density : estimator, default=None
        Any estimator with ``fit`` and ``score_samples``; one in
        :class:`sklearn.frozen.FrozenEstimator` is not trained again. None takes
        :class:`~skood.density.PixelCNN` for images and :class:`~skood.density.NeuralSplineFlow` for
        rows; some detectors take :class:`~skood.density.SequenceDensity` for strings of letters.

    Attributes
    ----------
    density_ : estimator
        The fitted density.
    """

    density: Any = parameter(HasMethods(["fit", "score_samples"]), None, default=None)

    _model_parameters: ClassVar[tuple[str, ...]] = ("density",)

    # Whether None also stands for a density of strings.
    _models_strings: ClassVar[bool] = False

    def _check(self, X: Any, *, reset: bool = False) -> CheckedData:
        if self.density is None and self._models_strings and holds_text(X):
            return check_data(self, X, reset=reset, as_it_came=True)
        return super()._check(X, reset=reset)

    def _default_density(self, data: CheckedData) -> Any:
        """Return the density that None stands for."""
        if self._models_strings and isinstance(data, UnreadData):
            return default_sequence_density(data, type(self).__name__)
        return PixelCNN() if data.is_image else NeuralSplineFlow()

    def _check_density(self, density: Any) -> None:
        """Raise if the score cannot be computed from a density, fitted or not."""

    def _given_density(self, data: CheckedData) -> Any:
        """Return the density to fit."""
        return self._default_density(data) if self.density is None else self.density

    def _fit_density(self, data: CheckedData, y: npt.NDArray | None, seed: int) -> Any:
        """Fit the density, or take it from the cache; refuse a wrong one before it is trained."""
        density = self._given_density(data)
        self._check_density(density)
        model_seed = None if self.random_state is None else seed
        fitted = fit_model(density, data, y, seed=model_seed, memory=self.memory)
        self._check_density(fitted)
        return fitted

    def _fit(
        self, inliers: CheckedData, y: npt.NDArray | None, outliers: CheckedData | None, seed: int
    ) -> npt.NDArray[np.integer] | None:
        self.density_ = self._fit_density(inliers, y, seed)
        return None


class ExplainedByParts(DensityDetector):
    """Base of the scores that are sums over pixels or over positions, if the density's are.

    A subclass implements ``score_pixels`` and ``score_positions``, which are available if the
    densities allow it, and ``_pixels`` and ``_positions``.
    """

    @property
    def _explains(self) -> bool:
        parts = "score_pixels", "score_positions"
        return hasattr(self, "density_") and any(hasattr(self, name) for name in parts)

    @abstractmethod
    def _pixels(self, data: CheckedData) -> npt.NDArray[np.float64]:
        """Return the contribution of each pixel of checked data in nats, shape (n, H, W)."""

    @abstractmethod
    def _positions(self, data: CheckedData) -> list[npt.NDArray[np.float64]]:
        """Return the contribution of each position of each sequence in nats."""

    def _explain(self, data: CheckedData) -> Explanation:
        if hasattr(self, "score_pixels"):
            pixels = self._pixels(data)
            return PixelsExplanation(pixels.sum((1, 2)), pixels)
        positions = self._positions(data)
        names = getattr(self.density_, "tokens", None)
        tokens = None if names is None else names(as_input(self.density_, data))
        return PositionsExplanation(np.array([v.sum() for v in positions]), positions, tokens)


def default_flow(data: CheckedData) -> ImageFlow | NeuralSplineFlow:
    """Return an ImageFlow for images, and a spline flow for rows."""
    return ImageFlow() if data.is_image else NeuralSplineFlow()


def check_densities(densities: Sequence[Any], data: CheckedData, name: str) -> None:
    """Raise if one of several densities cannot be fitted to `data`, before any is trained.

    Parameters
    ----------
    densities : sequence of estimators
        A density of another library is checked only for ``fit`` and ``score_samples``.
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


def check_comparable(density: Any, background: Any, data: CheckedData) -> None:
    """Raise if two language models do not score the same tokens."""
    density, background = (
        model.estimator if isinstance(model, FrozenEstimator) else model
        for model in (density, background)
    )
    if isinstance(density, CausalLanguageModel):
        density.check_background(background, data)


def evenly_spaced(data: CheckedData, n_items: int | None) -> CheckedData:
    """Return at most that many items, evenly spaced; all of them for None."""
    n_rows = min(n_items or len(data), len(data))
    return data.subset(np.arange(n_rows) * len(data) // n_rows)


def log_density(model: Any, data: CheckedData) -> npt.NDArray[np.float64]:
    """Log-density of each item in nats, shape (n,)."""
    return rows_through(model, "score_samples", data).astype(np.float64)


def log_density_of_pixels(model: Any, data: CheckedData) -> npt.NDArray[np.float64]:
    """Log-probability of each pixel in nats, shape (n, H, W)."""
    return np.asarray(model.score_pixels(as_input(model, data)), dtype=np.float64)


def log_density_of_positions(model: Any, data: CheckedData) -> list[npt.NDArray[np.float64]]:
    """Log-probability of each position of each sequence in nats, n arrays of shape (L,)."""
    return [np.asarray(v, np.float64) for v in model.score_positions(as_input(model, data))]
