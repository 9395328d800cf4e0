r"""Local intrinsic dimension of a flow at a point, as a function of a scale.

J is the derivative of the map from latents to data, :math:`\lambda_i` are the eigenvalues of
:math:`J^T J`, and :math:`v = e^{2r}`, where r is the logarithm of the scale. Each estimator
computes a `spectrum`, which gives the `dimension` at any scale, or, faster, the dimension `at` one.
"""

from __future__ import annotations

from abc import ABCMeta, abstractmethod
from collections.abc import Callable
from functools import partial
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from skood.density._invertible import Derivative

__all__ = [
    "ConvolutionDimension",
    "Dimension",
    "LanczosDimension",
    "Spectrum",
    "ThresholdDimension",
    "spectral_scales",
]

# Rows and columns eliminated at once.
_BLOCK = 64


class Spectrum(NamedTuple):
    """Eigenvalues and weights, from which the dimension at any scale is computed.

    Attributes
    ----------
    eigenvalues : Tensor of shape (b, k), float64
        Eigenvalues of J'J, or their approximations by Lanczos.
    weights : Tensor of shape (b, k), float64
        Squares of the latents in the basis of eigenvectors, or the number of dimensions that each
        approximation represents; unused where eigenvalues are counted.
    """

    eigenvalues: Tensor
    weights: Tensor


class Dimension(metaclass=ABCMeta):
    """An estimator of the local intrinsic dimension."""

    @abstractmethod
    def spectrum(self, derivative: Derivative, z: Tensor) -> Spectrum:
        """Compute the spectrum at latents (b, D)."""

    @abstractmethod
    def dimension(self, spectrum: Spectrum, scale: float) -> Tensor:
        """Return the dimension at r = `scale`, (b,), float64."""

    def at(self, derivative: Derivative, z: Tensor, scale: float) -> Tensor:
        """Return the dimension at latents (b, D) and r = `scale`, (b,), float64."""
        return self.dimension(self.spectrum(derivative, z), scale)


class ThresholdDimension(Dimension):
    """The number of eigenvalues above exp(2 r)."""

    def spectrum(self, derivative: Derivative, z: Tensor) -> Spectrum:
        eigenvalues = torch.linalg.eigvalsh(_gram(derivative))
        return Spectrum(eigenvalues, torch.ones_like(eigenvalues))

    def dimension(self, spectrum: Spectrum, scale: float) -> Tensor:
        return (spectrum.eigenvalues > np.exp(2 * scale)).sum(1).double()

    def at(self, derivative: Derivative, z: Tensor, scale: float) -> Tensor:
        return count_above(_gram(derivative), np.exp(2 * scale)).double()


class ConvolutionDimension(Dimension):
    r"""Slope of the log-density under noise whose standard deviation is exp(r).

    D + d/dr log rho_r at x, where rho_r is the density of x + J (Z - z) with noise [1]_:

    .. math::
        D + v \Big( \sum_i \frac{\lambda_i \tilde z_i^2}{(\lambda_i + v)^2}
            - \sum_i \frac{1}{\lambda_i + v} \Big)

    References
    ----------
    .. [1] H. Kamkari et al., "A Geometric Explanation of the Likelihood OOD Detection Paradox",
       ICML 2024, appendix on the estimation of the dimension with flows.
    """

    def spectrum(self, derivative: Derivative, z: Tensor) -> Spectrum:
        eigenvalues, vectors = torch.linalg.eigh(_gram(derivative))
        rotated = (vectors.mT @ z.double()[:, :, None])[:, :, 0]
        return Spectrum(eigenvalues.clamp(min=0), rotated.square())

    def dimension(self, spectrum: Spectrum, scale: float) -> Tensor:
        v = np.exp(2 * scale)
        share = spectrum.eigenvalues / (spectrum.eigenvalues + v)
        # v / (lambda + v) is 1 - share, so that D minus its sum is the sum of shares.
        return (share + share * (1 - share) * spectrum.weights).sum(1)

    def at(self, derivative: Derivative, z: Tensor, scale: float) -> Tensor:
        v = np.exp(2 * scale)
        gram = _gram(derivative)
        n_values = gram.shape[-1]
        eye = torch.eye(n_values, dtype=gram.dtype, device=gram.device)
        factor, failed = torch.linalg.cholesky_ex(gram + v * eye)
        inverse = torch.cholesky_inverse(torch.where(failed[:, None, None] > 0, eye, factor))
        pulled = inverse @ z.double()[:, :, None]
        quadratic = (pulled * (gram @ pulled)).sum((1, 2))
        trace = inverse.diagonal(dim1=1, dim2=2).sum(1)
        dimension = n_values + v * (quadratic - trace)
        if failed.any():  # v is below the rounding errors of J'J.
            dimension = torch.where(
                failed > 0, self.dimension(self.spectrum(derivative, z), scale), dimension
            )
        return dimension


class LanczosDimension(Dimension):
    r"""The smooth count :math:`\sum_i \lambda_i / (\lambda_i + v)` by Lanczos quadrature.

    It takes a few products of J and its transpose with vectors, and not J itself [1]_.

    Parameters
    ----------
    probes : ndarray of shape (n_probes, D)
        Starting vectors of the iterations, of signs; the same for every item.
    n_steps : int
        Steps of an iteration, each with one product of J and one of its transpose.

    References
    ----------
    .. [1] S. Ubaru, J. Chen, Y. Saad, "Fast Estimation of tr(f(A)) via Stochastic Lanczos
       Quadrature", SIAM J. Matrix Anal. Appl. 38(4), 2017, equation 3.
    """

    def __init__(self, probes: np.ndarray, n_steps: int) -> None:
        self.probes = probes
        self.n_steps = min(n_steps, probes.shape[1])

    def spectrum(self, derivative: Derivative, z: Tensor) -> Spectrum:
        multiply = partial(_gram_product, derivative)
        n_values = z.shape[1]
        nodes, weights = [], []
        for probe in self.probes:
            start = torch.as_tensor(probe, dtype=torch.float64, device=z.device) / n_values**0.5
            ritz, share = _lanczos(multiply, start.expand(z.shape), self.n_steps)
            nodes.append(ritz)
            weights.append(n_values / len(self.probes) * share)
        return Spectrum(torch.cat(nodes, 1).clamp(min=0), torch.cat(weights, 1))

    def dimension(self, spectrum: Spectrum, scale: float) -> Tensor:
        values = spectrum.eigenvalues
        return (spectrum.weights * values / (values + np.exp(2 * scale))).sum(1)


def _gram(derivative: Derivative) -> Tensor:
    """Return J'J, float64; zeros where it overflows."""
    # In float32 an error relative to the largest eigenvalue would hide the small ones.
    jacobian = derivative.jacobian().double()
    gram = jacobian.mT @ jacobian
    return torch.where(gram.isfinite().all((1, 2), keepdim=True), gram, 0.0)


def _gram_product(derivative: Derivative, vectors: Tensor) -> Tensor:
    """Multiply vectors (b, D), float64, by J'J: the gradient of half the squared norm of J v.

    Zeros where it overflows.
    """
    with torch.inference_mode(False), torch.enable_grad():
        leaves = vectors.float().clone().requires_grad_()
        pushed = derivative.push(leaves)
        (product,) = torch.autograd.grad(pushed, leaves, pushed.detach())
    return torch.where(product.isfinite().all(1, keepdim=True), product, 0.0).double()


def count_above(matrices: Tensor, value: float) -> Tensor:
    """Count the eigenvalues of symmetric matrices that are larger than `value`.

    Subtracts `value` from the diagonal and counts positive eigenvalues by blocks of a Gaussian
    elimination: the inertia of a matrix is the inertia of a block on its diagonal plus the inertia
    of the block's Schur complement (Haynsworth 1968).

    Parameters
    ----------
    matrices : Tensor of shape (b, n, n), float64
        Overwritten.
    value : float

    Returns
    -------
    Tensor of shape (b,), int64
    """
    n = matrices.shape[-1]
    matrices.diagonal(dim1=1, dim2=2).sub_(value)
    limits = torch.finfo(matrices.dtype)
    # Zero pivots are replaced by a tiny negative number; the effect is below rounding error.
    least = limits.eps * matrices.abs().amax((1, 2)).clamp(min=limits.tiny / limits.eps)[:, None]
    count = torch.zeros(len(matrices), dtype=torch.int64, device=matrices.device)
    for start in range(0, n, _BLOCK):
        stop = min(start + _BLOCK, n)
        eigenvalues, vectors = torch.linalg.eigh(matrices[:, start:stop, start:stop])
        eigenvalues = torch.where(eigenvalues.abs() < least, -least, eigenvalues)
        count += (eigenvalues > 0).sum(1)
        mixed = vectors.mT @ matrices[:, start:stop, stop:]
        matrices[:, stop:, stop:].baddbmm_(mixed.mT, mixed / eigenvalues[:, :, None], alpha=-1)
    return count


def _lanczos(
    multiply: Callable[[Tensor], Tensor], start: Tensor, n_steps: int
) -> tuple[Tensor, Tensor]:
    """Ritz values of a symmetric matrix, and the shares of the starting vector in them.

    Parameters
    ----------
    multiply : callable
        Returns the products of vectors (b, D) with the matrices.
    start : Tensor of shape (b, D), float64
        Unit vectors.
    n_steps : int

    Returns
    -------
    values, shares : Tensor of shape (b, n_steps), float64
        Shares sum to 1.
    """
    basis = [start]
    diagonal, norms = [], []
    for _ in range(n_steps):
        product = multiply(basis[-1])
        diagonal.append((product * basis[-1]).sum(1))
        vectors = torch.stack(basis, 1)
        # Twice, against rounding.
        for _ in range(2):
            product = product - (vectors.mT @ (vectors @ product[:, :, None]))[:, :, 0]
        norm = product.norm(dim=1)
        # If the vectors so far span an invariant space, the next vector is 0.
        exhausted = norm <= 1e-6 * diagonal[0]
        norms.append(torch.where(exhausted, 0.0, norm))
        basis.append(torch.where(exhausted[:, None], 0.0, product / norm[:, None]))
    off_diagonal = torch.stack(norms, 1)[:, :-1]
    tridiagonal = torch.diag_embed(torch.stack(diagonal, 1))
    tridiagonal = tridiagonal + torch.diag_embed(off_diagonal, 1)
    tridiagonal = tridiagonal + torch.diag_embed(off_diagonal, -1)
    values, vectors = torch.linalg.eigh(tridiagonal)
    return values, vectors[:, 0].square()


def spectral_scales(spectrum: Spectrum) -> tuple[float, float]:
    """Return scales r between which the dimension falls from about D to about 0."""
    positive = spectrum.eigenvalues[spectrum.eigenvalues > 0]
    if len(positive) == 0:
        return -1.0, 0.0
    low, high = (0.5 * float(end.log()) for end in (positive.min(), positive.max()))
    # A smooth count is within exp(-10) of its limits that far beyond the eigenvalues.
    return low - 5, high + 5
