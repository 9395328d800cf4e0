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

from skood._estimator.internal import internal
from skood._torch.device import resolve_device
from skood.density._latent_space import LatentSpace
from skood.density._neural_density import NeuralDensity

__all__ = ["Derivative", "InvertibleDensity", "MatrixDerivative"]

# Most items whose Jacobians are computed at once, and most values of these Jacobians.
_MOST_JACOBIANS = 32
_JACOBIAN_VALUES = {"cpu": 2**22, "cuda": 2**25}


class InvertibleDensity(LatentSpace, NeuralDensity):
    """Base of the normalising flows: z = f(x) has a standard normal distribution.

    A subclass of `NeuralDensity` that writes ``_forward``, ``_inverse`` and ``_inverse_derivative``
    in place of ``_log_prob`` and ``_draw``.

    Attributes
    ----------
    statistics_names : tuple of str
        Columns of `score_statistics`: "log_prob", log p(x); "latent_log_prob", the log-density of
        the latents; "log_det", the log-determinant, which is added to it.
    """

    _is_differentiable = True

    statistics_names = "log_prob", "latent_log_prob", "log_det"

    @abstractmethod
    def _forward(self, module: nn.Module, x: Tensor) -> tuple[Tensor, Tensor]:
        """Latents (b, D), and log abs(det dz/dx) in nats per unit of X, shape (b,)."""

    def _tensor_to_encode(self, items: npt.NDArray, device: torch.device) -> Tensor:
        """Convert items to the network's input, whatever values `decode` gives them."""
        return self._tensor(items, device)

    @abstractmethod
    def _inverse(self, module: nn.Module, z: Tensor) -> Tensor:
        """Map latents to pixels in [0, 1] or standardised rows."""

    @abstractmethod
    def _inverse_derivative(self, module: nn.Module, z: Tensor) -> Derivative:
        """Linearise `_inverse` at each row of z."""

    def _log_prob(
        self, module: nn.Module, x: Tensor, class_indices: Tensor | None = None
    ) -> Tensor:
        z, log_det = self._forward(module, x)
        return _log_normal(z) + log_det

    def _statistics(self, module: nn.Module, x: Tensor) -> Tensor:
        z, log_det = self._forward(module, x)
        log_normal = _log_normal(z)
        return torch.stack((log_normal + log_det, log_normal, log_det), 1)

    def _to_units_of_x(self, x: Tensor) -> Tensor:
        """From the output of `_inverse` to the units of X, float64."""
        return self._preprocessing.inverse(x)

    @property
    def n_latent(self) -> int:  # type: ignore[override]
        """Number of latents, which is the number of values of an item."""
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
        latents = self.map(
            self._open(X, reset=False),
            lambda module, x: self._forward(module, x)[0],
            tensor=self._tensor_to_encode,
            doing="encodes",
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
        decoded = self._map_latents(
            self._check_latents(Z),
            lambda module, z: self._to_units_of_x(self._inverse(module, z)),
        )
        return self._finite(decoded, "Z")

    transform = encode
    inverse_transform = decode

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

        def jacobian(module: nn.Module, x: Tensor) -> Tensor:
            return self._inverse_derivative(module, self._forward(module, x)[0]).jacobian()

        return self.map(X, jacobian, batch_size=self.jacobian_batch_size(), doing="Jacobians")

    @internal
    def jacobian_batch_size(self) -> int:
        """Return the number of items whose Jacobians are computed at once."""
        values = _JACOBIAN_VALUES[resolve_device(self.device).type]
        return min(_MOST_JACOBIANS, max(1, values // self.n_latent**2))

    @internal
    def linearize(
        self, module: nn.Module, x: Tensor
    ) -> tuple[Tensor, Tensor, Callable[[], Derivative]]:
        """Return latents, log-densities and derivatives; called by a function that `map` applies.

        Parameters
        ----------
        module : Module
            The trained network.
        x : Tensor of shape (b, ...)
            Its input.

        Returns
        -------
        z : Tensor of shape (b, D)
        log_prob : Tensor of shape (b,), float64
            log p(x) in nats.
        derivative : callable
            Returns the `Derivative` at the latents.
        """
        z, log_det = self._forward(module, x)
        return z, _log_normal(z) + log_det, partial(self._inverse_derivative, module, z)

    def _draw(self, module: nn.Module, n_samples: int, generator: torch.Generator) -> Tensor:
        shape = n_samples, self.n_latent
        z = torch.randn(shape, generator=generator, device=generator.device)
        return self._inverse(module, z)


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


def _log_normal(z: Tensor) -> Tensor:
    """Log-density of latents in nats, (b,), float64."""
    return -0.5 * (z.double().square() + np.log(2 * np.pi)).sum(1)
