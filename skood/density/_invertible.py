"""Densities that map data to latents and back without loss."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable
from functools import partial
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn

from skood._checked_data import CheckedData
from skood._internal import internal
from skood._torch.batching import batch_multiple, map_batches, scoring_batch_size
from skood._torch.device import resolve_device
from skood.density._base import NeuralDensity
from skood.density._latent_transformer import LatentSpace

__all__ = ["Derivative", "InvertibleDensity", "MatrixDerivative"]

# Most items whose Jacobians are computed at once, and most values of these Jacobians.
_MOST_JACOBIANS = 32
_JACOBIAN_VALUES = {"cpu": 2**22, "cuda": 2**25}


class InvertibleDensity(LatentSpace, NeuralDensity):
    """Base of the normalising flows: z = f(x) has a standard normal distribution.

    A subclass writes what a `NeuralDensity` does but ``_log_prob``, and the maps between the
    network's input and the latents. The network's output x of ``_inverse`` is of the same units as
    the Jacobian's: pixels in [0, 1] or standardised rows.
    """

    _is_differentiable = True

    # The log-density of the latents and the log-determinant add up to log p(x).
    statistics_names = "log_prob", "latent_log_prob", "log_det"

    @abstractmethod
    def _forward(self, module: nn.Module, x: Tensor) -> tuple[Tensor, Tensor]:
        """Latents (b, D), and log abs(det dz/dx) in nats per unit of X, shape (b,)."""

    def _tensor_to_encode(self, items: npt.NDArray, device: torch.device) -> Tensor:
        """Turn items into the network's input; all that `decode` returns are taken."""
        return self._tensor(items, device)

    @abstractmethod
    def _inverse(self, module: nn.Module, z: Tensor) -> Tensor:
        """Undo `_forward`."""

    @abstractmethod
    def _inverse_derivative(self, module: nn.Module, z: Tensor) -> Derivative:
        """Linearise `_inverse` at each row of z."""

    def _log_prob(
        self, module: nn.Module, x: Tensor, class_indices: Tensor | None = None
    ) -> Tensor:
        return _joint(*self._forward(module, x))

    def _statistics(self, module: nn.Module, x: Tensor) -> Tensor:
        z, log_det = self._forward(module, x)
        log_normal = _log_normal(z)
        return torch.stack((log_normal + log_det, log_normal, log_det), 1)

    def _to_units_of_x(self, x: Tensor) -> Tensor:
        """From the output of `_inverse` to the units of X, float64."""
        return self._preprocessing.inverse(x)

    @property
    def n_latent(self) -> int:  # type: ignore[override]
        """Number of latents, that of the values of an item."""
        return int(np.prod(self._preprocessing.item_shape))

    def encode(self, X: Any) -> npt.NDArray[np.float64]:
        """Latents of X.

        Parameters
        ----------
        X : array-like, Tensor or Dataset of shape (n_samples, ...)

        Returns
        -------
        ndarray of shape (n_samples, D), float64
            D is the number of values of an item.
        """
        module, device = self._ready()
        latents = self._map_items(
            self._open(X, reset=False),
            lambda items: self._forward(module, self._tensor_to_encode(items, device))[0],
            "encodes",
        )
        return self._finite(latents, "X")

    def decode(self, Z: Any) -> npt.NDArray[np.float64]:
        r"""Undo `encode`.

        Parameters
        ----------
        Z : array-like of shape (n_samples, D)

        Returns
        -------
        ndarray of shape (n_samples, \*input_shape), float64
            In the units of X; not rounded to its values.
        """
        Z = self._check_latents(Z)
        module, device = self._ready()

        def decoded(z: npt.NDArray) -> Tensor:
            latents = torch.as_tensor(z, dtype=torch.float32, device=device)
            return self._to_units_of_x(self._inverse(module, latents))

        return self._finite(self._map_items(CheckedData.of(Z), decoded, "decodes"), "Z")

    def transform(self, X: Any) -> npt.NDArray[np.float64]:
        """Latents of X; the same as `encode`.

        Parameters
        ----------
        X : array-like, Tensor or Dataset of shape (n_samples, ...)

        Returns
        -------
        ndarray of shape (n_samples, D), float64
        """
        return self.encode(X)

    def inverse_transform(self, Z: Any) -> npt.NDArray[np.float64]:
        r"""Undo `transform`; the same as `decode`.

        Parameters
        ----------
        Z : array-like of shape (n_samples, D)

        Returns
        -------
        ndarray of shape (n_samples, \*input_shape), float64
        """
        return self.decode(Z)

    def jacobian(self, X: Any) -> npt.NDArray[np.float64]:
        """Jacobian of the map from latents to data, at the latents of X.

        Parameters
        ----------
        X : array-like, Tensor or Dataset of shape (n_samples, ...)

        Returns
        -------
        ndarray of shape (n_samples, D, D), float64
            dx/dz, where x is in the units of the network, pixels in [0, 1] or standardised rows:
            neither the scaling of X nor its dequantisation is differentiated. 5 MB for each
            image of 28 x 28 pixels.
        """
        return self.map_latents(
            self._open(X, reset=False),
            lambda z, log_prob, derivative: derivative().jacobian().double(),
            batch_size=self.jacobian_batch_size(),
            doing="Jacobians",
        )

    @internal
    def jacobian_batch_size(self) -> int:
        """Return the number of items whose Jacobians are computed at once."""
        values = _JACOBIAN_VALUES[resolve_device(self.device).type]
        return min(_MOST_JACOBIANS, max(1, values // self.n_latent**2))

    def _derivative(self, module: nn.Module, z: Tensor) -> Derivative:
        # Gradients may be taken through it.
        with torch.inference_mode(False), torch.no_grad():
            return self._inverse_derivative(module, z.clone())

    @internal
    def map_latents(
        self,
        data: CheckedData,
        function: Callable[[Tensor, Tensor, Callable[[], Derivative]], Any],
        *,
        batch_size: int | None = None,
        doing: str,
        **options: Any,
    ) -> Any:
        """Apply a function of latents, log-densities and derivatives to every item.

        Parameters
        ----------
        data : CheckedData
            As given, or as `_open` returns them.
        function : callable
            Takes latents (b, D), log p(x) in nats, (b,), float64, and a function that returns the
            `Derivative` there; returns a tensor, or several, with a row for each item.
        batch_size : int, default=None
            None is that of scoring.
        doing : str
            What the progress bar says.
        **options : object
            Passed to `map_batches`.
        """
        module, device = self._ready()
        data = self._open(data, reset=False)

        def of_items(items: npt.NDArray) -> Any:
            z, log_det = self._forward(module, self._tensor(items, device))
            return function(z, _joint(z, log_det), partial(self._derivative, module, z))

        return map_batches(
            of_items,
            data,
            batch_size or scoring_batch_size(device, data.item_shape),
            **{
                "device": device,
                "multiple_of": batch_multiple(data.item_shape),
                "n_workers": self.n_workers,
                "verbose": self.verbose,
                "description": f"{type(self).__name__} {doing}",
                **options,
            },
        )


class Derivative(Protocol):
    """The linearised map from latents to items, J at each of b latents."""

    def jacobian(self) -> Tensor:
        """Return J, (b, D, D)."""

    def push(self, tangents: Tensor) -> Tensor:
        """Multiply vectors (b, D) by J; differentiable."""


class MatrixDerivative:
    """A `Derivative` of which the Jacobians are known.

    Parameters
    ----------
    matrices : Tensor of shape (b, D, D)
    """

    def __init__(self, matrices: Tensor) -> None:
        self._matrices = matrices

    def jacobian(self) -> Tensor:
        return self._matrices

    def push(self, tangents: Tensor) -> Tensor:
        return (self._matrices @ tangents[:, :, None])[:, :, 0]


def _joint(z: Tensor, log_det: Tensor) -> Tensor:
    """Log-density of the data from that of the latents, in nats, (b,), float64."""
    return _log_normal(z) + log_det


def _log_normal(z: Tensor) -> Tensor:
    """Log-density of latents in nats, (b,), float64."""
    return -0.5 * (z.double().square() + np.log(2 * np.pi)).sum(1)
