"""A Gaussian of the features of each class."""

from __future__ import annotations

import math
from functools import partial

import numpy as np
import numpy.typing as npt
from scipy.linalg import solve_triangular

from skood._models import in_chunks
from skood._moments import ClassMoments

__all__ = ["ClassGaussians"]

_JITTER = 1e-6


class ClassGaussians:
    r"""A Gaussian for each class, each with its own full covariance.

    With the biased covariance :math:`S_k` of the rows of class k, the number of features d and the
    shrinkage s, the covariance is

    .. math:: \Sigma_k = (1 - s) S_k + s \frac{\operatorname{tr} S_k}{d} I + \epsilon I

    where :math:`\epsilon` is the smallest of :math:`0, 10^{-6}, 2 \cdot 10^{-6},
    4 \cdot 10^{-6}, \dots` for which all :math:`\Sigma_k` are positive definite. One value for all
    classes keeps their likelihoods comparable.

    Parameters
    ----------
    moments : ClassMoments
        Accumulated with ``pooled=False``.
    shrinkage : float or "oas", default=0.0
        From 0 to 1. "oas" estimates it for each class as :class:`sklearn.covariance.OAS` does.

    Attributes
    ----------
    means : ndarray of shape (n_classes, n_features)
    covariances : ndarray of shape (n_classes, n_features, n_features)
        The :math:`\Sigma_k`.
    jitter : float
        The :math:`\epsilon`.

    Raises
    ------
    ValueError
        If a class has fewer than two rows, or no jitter makes the covariances positive definite.

    Examples
    --------
    >>> from sklearn.datasets import load_iris
    >>> from skood.training_time._class_gaussians import ClassGaussians
    >>> X, y = load_iris(return_X_y=True)
    >>> gaussians = ClassGaussians.of(X, y)
    >>> log_likelihood = gaussians.log_likelihood(X)
    >>> log_likelihood.shape, float((log_likelihood.argmax(1) == y).mean())
    ((150, 3), 0.98)
    """

    def __init__(self, moments: ClassMoments, shrinkage: float | str = 0.0) -> None:
        few = np.flatnonzero(moments.counts < 2)
        if len(few):
            raise ValueError(
                f"the class with index {few[0]} has {moments.counts[few[0]]:.0f} row(s), but a "
                "covariance needs at least 2; leave out classes with a single row"
            )
        self.means = moments.means
        self.covariances = np.stack(
            [
                _shrunk(scatter / n, n, shrinkage)
                for scatter, n in zip(moments.scatter, moments.counts, strict=True)
            ]
        )
        self.jitter, self._factors = _factorize(self.covariances)
        self.covariances += self.jitter * np.eye(self.means.shape[1])

    @classmethod
    def of(
        cls,
        features: npt.NDArray,
        class_indices: npt.NDArray[np.integer],
        shrinkage: float | str = 0.0,
    ) -> ClassGaussians:
        """Estimate the Gaussians from all rows at once.

        Parameters
        ----------
        features : ndarray of shape (n, n_features)
        class_indices : ndarray of shape (n,)
            0, 1, ...
        shrinkage : float or "oas", default=0.0
        """
        moments = ClassMoments(class_indices.max() + 1, pooled=False)
        moments.add(features, class_indices)
        return cls(moments, shrinkage)

    def log_likelihood(self, features: npt.NDArray) -> npt.NDArray[np.float64]:
        """Log-density of each row under each class, in nats.

        Parameters
        ----------
        features : ndarray of shape (n, n_features)

        Returns
        -------
        ndarray of shape (n, n_classes), float64
        """
        return np.stack(
            [
                in_chunks(partial(_log_density, mean, factor), features)
                for mean, factor in zip(self.means, self._factors, strict=True)
            ],
            1,
        )


def _shrunk(
    covariance: npt.NDArray[np.float64], n: float, shrinkage: float | str
) -> npt.NDArray[np.float64]:
    d = len(covariance)
    mean_variance = np.trace(covariance) / d
    if isinstance(shrinkage, str):
        # Chen et al. (2010), as in scikit-learn.
        mean_square = np.square(covariance).mean()
        denominator = (n + 1) * (mean_square - mean_variance**2 / d)
        numerator = mean_square + mean_variance**2
        shrinkage = 1.0 if denominator <= 0 else min(numerator / denominator, 1.0)
    return (1 - shrinkage) * covariance + shrinkage * mean_variance * np.eye(d)


def _factorize(
    covariances: npt.NDArray[np.float64],
) -> tuple[float, list[npt.NDArray[np.float64]]]:
    """Return the Cholesky factors, and the smallest jitter for which all of them exist."""
    identity = np.eye(covariances.shape[1])
    # Smaller pivots are rounding errors of features in float32.
    smallest = np.finfo(np.float32).eps ** 2 * max(float(covariances.max()), 0.0)
    for jitter in (0.0, *(_JITTER * 2.0 ** np.arange(60))):
        try:
            factors = [np.linalg.cholesky(c + jitter * identity) for c in covariances]
        except np.linalg.LinAlgError:
            continue
        if all(np.diagonal(factor).min() ** 2 > smallest for factor in factors):
            return float(jitter), factors
    raise ValueError("the covariances of the classes are not finite; rescale X")


def _log_density(
    mean: npt.NDArray[np.float64],
    factor: npt.NDArray[np.float64],
    features: npt.NDArray,
) -> npt.NDArray[np.float64]:
    white = solve_triangular(factor, (features.astype(np.float64) - mean).T, lower=True)
    constant = len(mean) * math.log(2 * math.pi) / 2 + np.log(np.diagonal(factor)).sum()
    return -np.square(white).sum(0) / 2 - constant
