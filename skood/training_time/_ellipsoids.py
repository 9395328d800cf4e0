"""Ellipsoids around the latents of a class, and draws outside of them."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from scipy.linalg import solve_triangular
from torch import Tensor

__all__ = ["draw_outside", "fit_ellipsoid"]


def fit_ellipsoid(
    latents: npt.NDArray[np.float64], quantile: float, name: str
) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.float64], float]:
    """Fit an ellipsoid that contains a given fraction of the latents.

    Parameters
    ----------
    latents : ndarray of shape (n, n_latent)
    quantile : float
        Fraction of the latents inside the ellipsoid.
    name : str
        Description of the latents, for the error message.

    Returns
    -------
    mean : ndarray of shape (n_latent,)
    cholesky : ndarray of shape (n_latent, n_latent)
        Lower triangular factor of the covariance.
    radius : float
        Mahalanobis distance from the mean to the ellipsoid.

    Raises
    ------
    ValueError
        If the covariance has no inverse.
    """
    n_latent = latents.shape[1]
    mean = latents.mean(0)
    covariance = np.cov(latents, rowvar=False).reshape(n_latent, n_latent)
    try:
        cholesky = np.linalg.cholesky(covariance).astype(np.float64)
    except np.linalg.LinAlgError as error:
        rank = np.linalg.matrix_rank(covariance, hermitian=True)
        raise ValueError(
            f"the latents of {name} vary in {rank} of {n_latent} directions only, so their "
            "covariance has no inverse; X may repeat the same values, or the VAE has more latents "
            "than it uses: lower its n_latent, or train it longer"
        ) from error
    distances = np.linalg.norm(solve_triangular(cholesky, (latents - mean).T, lower=True), axis=0)
    return mean, cholesky, float(np.quantile(distances, quantile))


def draw_outside(
    mean: Tensor,
    cholesky: Tensor,
    radius: Tensor,
    multiples: tuple[float, float],
    generator: torch.Generator,
) -> Tensor:
    """Draw one latent outside each ellipsoid, in a direction that is uniform on the sphere.

    Parameters
    ----------
    mean : Tensor of shape (b, n_latent), float64
    cholesky : Tensor of shape (b, n_latent, n_latent), float64
    radius : Tensor of shape (b,), float64
    multiples : (float, float)
        Smallest and largest distance, drawn uniformly, as multiples of `radius`.
    generator : torch.Generator
        On the device of the tensors.

    Returns
    -------
    Tensor of shape (b, n_latent), float64
    """
    options: dict[str, Any] = {
        "generator": generator, "device": mean.device, "dtype": torch.float64
    }  # fmt: skip
    direction = torch.randn(mean.shape, **options)
    direction = direction / torch.linalg.vector_norm(direction, dim=1, keepdim=True)
    low, high = multiples
    times = low + (high - low) * torch.rand((len(mean), 1), **options)
    steps = radius[:, None] * times * direction
    return mean + (cholesky @ steps[:, :, None])[:, :, 0]
