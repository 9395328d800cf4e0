"""Norm of an item's latents, compared with a standard normal distribution."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
from scipy.special import gammainc, gammaincc, gammaln
from scipy.stats import chi

from skood._data.checked_data import CheckedData
from skood._estimator.parameters import HasMethods, StrOptions, estimator, parameter
from skood._models import fit_model, rows_through
from skood.base import ModelDetector
from skood.likelihood._base import default_flow, evenly_spaced

__all__ = ["LatentNorm"]

# Below this, a probability is computed as its logarithm.
_SMALL = 1e-290
# Number of training rows whose latents are checked.
_CHECKED_ROWS = 1000
# Largest root mean square of the means of latents, and largest factor between their standard
# deviations and 1. Whitened components have 0 and 1; latents of autoencoders of digits had means of
# 0.8 and 1.8 and deviations up to 4.7, unwhitened components deviations of 0.1 or 3.
_LARGEST_MEAN = 0.5
_LARGEST_FACTOR = 2.0
# Terms of the expansions of these logarithms; enough for a million latents.
_N_TERMS = 500


@estimator
class LatentNorm(ModelDetector):
    r"""Detector on the norm of latents z that are standard normal in-distribution.

    A flow or a VAE makes the latents of its training data standard normal. Their density is highest
    at the origin, but in D dimensions hardly any of them lies there: :math:`\|z\|^2` has a
    chi-squared distribution with D degrees of freedom, and :math:`\|z\|` is close to
    :math:`\sqrt{D}`, the Gaussian annulus, which is the typical set of the distribution [1]_ [2]_.
    Latents elsewhere are out-of-distribution.

    Parameters
    ----------
    latents : transformer, default=None
        Any estimator with ``fit`` and ``transform`` that returns standard normal latents (n, D): a
        flow, a :class:`~skood.density.VAE`, ``sklearn.decomposition.PCA(whiten=True)``; or a
        Pipeline of another model, such as an :class:`~skood.density.Autoencoder`, and
        ``PCA(whiten=True)``. One in
        :class:`sklearn.frozen.FrozenEstimator` is not trained again. None takes
        :class:`~skood.density.ImageFlow` for images and
        :class:`~skood.density.NeuralSplineFlow` for rows.
    statistic : {"pvalue", "shell", "annulus", "norm"}, default="pvalue"
        The score:

        - "pvalue": :math:`\log(2 \min(F(\|z\|^2), 1 - F(\|z\|^2)))` with F the distribution
          function of :math:`\chi^2_D`: the logarithm of the two-sided p-value of the norm;
        - "shell": :math:`\log \mathcal{N}(z; 0, I) + \log A(\|z\|)` with A(r) the area of the
          sphere of radius r: the log-density of the norm :math:`\|z\|`;
        - "annulus": :math:`-|\,\|z\| - \sqrt{D}\,|`;
        - "norm": :math:`-\|z\|`, a function of the density of the latents alone.

    Attributes
    ----------
    latents_ : transformer
        The fitted transformer.

    See Also
    --------
    LogLikelihood : For a flow, the log-density of the latents plus the log-determinant.
    DensityOfStates : Learns the distribution of the log-density of latents from training rows.

    Notes
    -----
    "pvalue" and "shell" are in nats, "annulus" and "norm" in standard deviations of the latents.
    ``exp`` of a threshold on "pvalue" is the fraction of standard normal latents below it. For
    images, a flow may map in-distribution and out-of-distribution images to similar norms [1]_.

    Latents with other means or variances, of ``PCA()``, of an autoencoder or of the lower layers of
    a :class:`~skood.density.HierarchicalVAE`, have no typical norm, or only out-of-distribution
    items have it. `fit` therefore checks up to 1000 training rows. It raises if the root mean
    square of the means of all latents exceeds 0.5, if the standard deviation of any latent exceeds
    2, or if the root mean square of the deviations is below 0.5. For n rows the first limit is
    extended by :math:`2 n^{-1/2}` and the others by a factor :math:`1 + 2.8 n^{-1/2}`, two and four
    standard errors. A flow or a VAE is not checked, since its training makes the latents standard
    normal. The latents of a VAE are the means of q(z | x), and lie the closer to the origin the
    less information about x they hold. Correlations of latents are not checked.

    References
    ----------
    .. [1] H. Choi, E. Jang, A. Alemi, "WAIC, but Why? Generative Ensembles for Robust Anomaly
       Detection", arXiv:1810.01392.
    .. [2] E. Nalisnick, A. Matsukawa, Y. W. Teh, B. Lakshminarayanan, "Detecting
       Out-of-Distribution Inputs to Deep Generative Models Using Typicality", arXiv:1906.02994.

    Examples
    --------
    >>> from sklearn.datasets import load_iris
    >>> from sklearn.decomposition import PCA
    >>> from skood import LatentNorm
    >>> X = load_iris().data
    >>> detector = LatentNorm(PCA(whiten=True)).fit(X)
    >>> detector.predict([[5.0, 3.4, 1.5, 0.2], [9.0, 9.0, 9.0, 9.0]])
    array([ 1, -1])
    """

    latents: Any = parameter(HasMethods(["fit", "transform"]), None, default=None)
    statistic: str = parameter(
        StrOptions({"pvalue", "shell", "annulus", "norm"}), default="pvalue", kw_only=True
    )

    _model_parameters = ("latents",)

    def _fit(
        self, inliers: CheckedData, y: npt.NDArray | None, outliers: CheckedData | None, seed: int
    ) -> None:
        self.latents_ = fit_model(
            default_flow(inliers) if self.latents is None else self.latents,
            inliers,
            y,
            seed=None if self.random_state is None else seed,
            memory=self.memory,
        )
        self._check_latents(evenly_spaced(inliers, _CHECKED_ROWS))

    def _check_latents(self, data: CheckedData) -> None:
        """Raise where latents of in-distribution rows are far from standard normal."""
        if hasattr(self.latents_, "linearize") or hasattr(self.latents_, "elbo"):
            # A flow or a VAE is trained to have such latents.
            return
        latents = self._latents(data)
        error = 1 / np.sqrt(len(latents))
        mean = np.sqrt(np.square(latents.mean(0)).mean())
        deviations = latents.std(0)
        overall = np.sqrt(np.square(deviations).mean())
        # Four standard errors of a deviation, since it is the largest of many.
        largest = _LARGEST_FACTOR * (1 + 4 * error / np.sqrt(2))
        if mean > _LARGEST_MEAN + 2 * error or deviations.max() > largest or overall < 1 / largest:
            raise ValueError(
                f"the latents of latents={self.latents!r} are not standard normal: in "
                f"{len(latents)} training rows their means are {mean:.3g} (root mean square; "
                f"expected 0) and their standard deviations from {deviations.min():.3g} to "
                f"{deviations.max():.3g} (expected 1). Give a flow, a VAE or PCA(n_components, "
                "whiten=True) of few components as latents, or a Pipeline of the transformer and "
                "PCA(whiten=True)"
            )

    def _latents(self, data: CheckedData) -> npt.NDArray[np.float64]:
        return rows_through(self.latents_, "transform", data).astype(np.float64)

    def _score_samples(self, data: CheckedData) -> npt.NDArray[np.float64]:
        latents = self._latents(data)
        norms, n_latent = np.linalg.norm(latents, axis=1), latents.shape[1]
        if self.statistic == "pvalue":
            return log_p_value(norms, n_latent)
        if self.statistic == "shell":
            return chi(n_latent).logpdf(norms)
        if self.statistic == "annulus":
            return -np.abs(norms - np.sqrt(n_latent))
        return -norms


def log_p_value(norms: npt.NDArray[np.float64], n_latent: int) -> npt.NDArray[np.float64]:
    r"""Logarithm of the two-sided p-value of norms of standard normal vectors.

    The distribution function of :math:`\|z\|^2` is the incomplete gamma function
    :math:`P(D / 2, \|z\|^2 / 2)`. Where either tail is too small for float64, its logarithm is
    taken from a power series or a continued fraction (NIST Digital Library of Mathematical
    Functions, 8.11.4 and 8.9.2).

    Parameters
    ----------
    norms : ndarray of shape (n,)
    n_latent : int
        Number of latents, D.

    Returns
    -------
    ndarray of shape (n,), float64
        In nats; -inf at 0.
    """
    a = n_latent / 2
    with np.errstate(divide="ignore", over="ignore"):
        # Finite where the square overflows.
        x = np.minimum(norms**2 / 2, 1e300)
        tail = np.minimum(gammainc(a, x), gammaincc(a, x))
        log_tail = np.log(tail)
        far = tail < _SMALL
        below, above = far & (x < a), far & (x >= a)
        common = a * np.log(x) - x - gammaln(a)
    series, fraction = np.ones_like(x[below]), x[above] + 2 * _N_TERMS + 1 - a
    for k in range(_N_TERMS, 0, -1):
        series = 1 + series * x[below] / (a + k)
        fraction = x[above] + 2 * k - 1 - a - k * (k - a) / fraction
    log_tail[below] = common[below] + np.log(series / a)
    log_tail[above] = common[above] - np.log(fraction)
    return log_tail + np.log(2)
