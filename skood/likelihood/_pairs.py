"""Pairs (log-density, local intrinsic dimension) of items, from a flow or a diffusion model."""

from __future__ import annotations

from abc import ABCMeta, abstractmethod
from collections.abc import Callable
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn

from skood._data.checked_data import CheckedData
from skood.density._denoiser import Denoiser
from skood.likelihood._dimension import Dimension, Spectrum, spectral_scales
from skood.likelihood._dimension_scale import Dimensions

__all__ = ["DiffusionPairs", "FlowPairs", "PairModel", "curve_scales"]

Array = npt.NDArray[np.float64]
# Applies a function of a network and its input to all items; the name is the name of a file.
Apply = Callable[[CheckedData, Callable[..., Any], str], Any]

# Scales of a curve, and their largest distance from a flow's scale.
_N_SCALES, _REACH = 50, 5.0
# Most values of an item for which FLIPD computes traces.
_EXACT_VALUES = 64


class PairModel(metaclass=ABCMeta):
    """Computes pairs, and the dimension at any scale.

    Parameters
    ----------
    density : estimator
        Fitted.
    apply : callable
    """

    # Steps of a bisection for the scale.
    n_bisections: int

    def __init__(self, density: Any, apply: Apply) -> None:
        self.density = density
        self.apply = apply

    @abstractmethod
    def pairs(self, data: CheckedData, scale: float) -> Array:
        """Log-densities in nats and dimensions at r = `scale`, (n, 2)."""

    @abstractmethod
    def over_scales(
        self, data: CheckedData
    ) -> tuple[Array | None, Dimensions, tuple[float, float]]:
        """Return log-densities, if they are a by-product, the dimensions at any r, and its ends."""


class FlowPairs(PairModel):
    """The pairs of a flow.

    Parameters
    ----------
    density : InvertibleDensity
    apply : callable
    dimension : Dimension
    """

    n_bisections = 50

    def __init__(self, density: Any, apply: Apply, dimension: Dimension) -> None:
        super().__init__(density, apply)
        self.dimension = dimension

    def pairs(self, data: CheckedData, scale: float) -> Array:
        def of_items(module: nn.Module, x: Tensor) -> tuple[Tensor, Tensor]:
            z, log_prob, derivative = self.density.linearize(module, x)
            return log_prob, self.dimension.at(derivative(), z, scale)

        return np.stack(self.apply(data, of_items, f"LID at {scale!r}"), 1)

    def over_scales(self, data: CheckedData) -> tuple[Array, Dimensions, tuple[float, float]]:
        def of_items(module: nn.Module, x: Tensor) -> tuple[Tensor, ...]:
            z, log_prob, derivative = self.density.linearize(module, x)
            return log_prob, *self.dimension.spectrum(derivative(), z)

        log_prob, *arrays = self.apply(data, of_items, "spectra")
        spectrum = Spectrum(*map(torch.from_numpy, arrays))
        return (
            log_prob,
            lambda scale: self.dimension.dimension(spectrum, scale).numpy(),
            spectral_scales(spectrum),
        )


class DiffusionPairs(PairModel):
    """The pairs of a diffusion model, with the dimension by FLIPD.

    Parameters
    ----------
    density : Diffusion
    apply : callable
    probes : ndarray of shape (n_probes, D)
        Random signs for the estimate of traces of large items.
    """

    # Each step evaluates the network.
    n_bisections = 12

    def __init__(self, density: Any, apply: Apply, probes: Array) -> None:
        super().__init__(density, apply)
        self.probes = probes

    def pairs(self, data: CheckedData, scale: float) -> Array:
        def of_items(module: nn.Module, x: Tensor) -> tuple[Tensor, Tensor]:
            denoiser = self.density.denoiser(module)
            return denoiser.log_density(x), self._dimension(denoiser, x, scale)

        return np.stack(self.apply(data, of_items, f"LID at {scale!r}"), 1)

    def over_scales(self, data: CheckedData) -> tuple[None, Dimensions, tuple[float, float]]:
        def dimensions(scale: float) -> Array:
            def of_items(module: nn.Module, x: Tensor) -> Tensor:
                return self._dimension(self.density.denoiser(module), x, scale)

            return self.apply(data, of_items, f"FLIPD at {scale!r}")

        return None, dimensions, self.density.log_ratios()

    def _dimension(self, denoiser: Denoiser, x: Tensor, scale: float) -> Tensor:
        """Dimension by FLIPD at r = `scale`, (b,)."""
        probes = None
        if x[0].numel() > _EXACT_VALUES:
            probes = torch.as_tensor(self.probes, dtype=x.dtype, device=x.device)
            probes = probes.view(-1, *x.shape[1:])
        return denoiser.dimension(x, torch.tensor(scale, device=x.device), probes)

    def scales_of(self, times: Array) -> Array:
        """Scales r of times."""
        denoiser = self.density.denoiser(self.density.module_)
        for t in times:
            self.density.check_time(float(t))
        return np.array([float(denoiser.log_ratio(float(t))) for t in times])


def curve_scales(
    model: FlowPairs | DiffusionPairs, scale: float, scales: Any, times: Any
) -> npt.NDArray[np.float64]:
    """Return the scales r of a curve, by default around `scale`; raise if they do not suit."""
    is_flow = isinstance(model, FlowPairs)
    if times is not None and (is_flow or scales is not None):
        raise ValueError(
            f"times={times!r} and scales={scales!r}; expected one of them, and times only of a "
            "diffusion model"
        )
    name, given = ("scales", scales) if times is None else ("times", times)
    low, high = (scale - _REACH, scale + _REACH) if is_flow else model.density.log_ratios()
    if given is None:
        return np.linspace(low, high, _N_SCALES)
    values = np.asarray(given, dtype=np.float64)
    if values.ndim != 1 or not len(values) or not np.isfinite(values).all():
        raise ValueError(f"{name}={given!r}; expected finite numbers in one dimension")
    if isinstance(model, FlowPairs):
        return values
    if times is not None:
        return model.scales_of(values)
    if values.min() < low or values.max() > high:
        raise ValueError(
            f"scales from {values.min():.4g} to {values.max():.4g}, but the density models noise "
            f"from {low:.4g} to {high:.4g}; give scales in this range"
        )
    return values
