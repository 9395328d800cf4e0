"""Ratio of two bounds on the likelihood in a hierarchical VAE."""

from __future__ import annotations

import numbers

import numpy as np
import numpy.typing as npt

from skood._checked_data import CheckedData
from skood._models import as_input
from skood._parameters import Interval, estimator, parameter
from skood.density import HierarchicalVAE
from skood.likelihood._base import DensityDetector, fit_density_with

__all__ = ["HierarchicalRatio"]


@estimator
class HierarchicalRatio(DensityDetector):
    r"""Detector on what the lower latents of a hierarchical VAE add to the likelihood.

    The score is minus the absolute value of the log-ratio [1]_

    .. math:: LLR^{>k}(x) = \mathcal{L}(x) - \mathcal{L}^{>k}(x)

    of two lower bounds on log p(x): :math:`\mathcal{L}` infers all layers of latents from x,
    :math:`\mathcal{L}^{>k}` only those above the k-th, and draws the others from their prior.
    Lower latents hold low-level features that out-of-distribution images share and that dominate
    the likelihood. Where the upper latents explain x, knowing the lower ones adds little.

    Parameters
    ----------
    density : estimator, default=None
        A :class:`~skood.density.HierarchicalVAE`; one in :class:`sklearn.frozen.FrozenEstimator`
        is not trained again. None takes one with its default parameters.
    k : int, default=2
        Layers, from the bottom, that are not inferred; at least 1, and less than the number of
        layers.
    n_importance_samples : int or None, default=None
        Draws for each bound. None takes the parameter of the density, whose `bound` says which
        bounds are compared.
    memory : str or joblib.Memory, default=None
        Where fitted densities are cached by their parameters and data.

    See Also
    --------
    LogLikelihood : The score is one bound.
    LikelihoodRatio : Divides by the density of another model, of the background.

    Notes
    -----
    Scores are in nats. In expectation over the draws, the difference of the bounds of
    ``bound="elbo"`` is one of divergences of q from the true posterior [1]_:
    :math:`LLR^{>k} = \mathrm{KL}(p(z_{\le k}|z_{>k}) q(z_{>k}|x) \| p(z|x)) -
    \mathrm{KL}(q(z|x) \| p(z|x))`.

    The log-ratio is negative where the prior, which has not seen the lower details of x, comes
    closer to the posterior than q does, which has. Within a nat of 0 this may be the error of few
    draws. Beyond, the encoder has failed at x, which no training item makes it do: the score of
    -400 nats is then the same as for a log-ratio of +400. The score of [1]_, :math:`-LLR^{>k}`,
    takes such items for the most typical of all; it equals this one where the log-ratio is
    positive, as of the images that were published. Rows far from the training data often have
    large log-ratios of either sign.

    References
    ----------
    .. [1] J. D. Havtorn, J. Frellsen, S. Hauberg and L. Maaløe, "Hierarchical VAEs Know What They
       Don't Know", ICML 2021.

    Examples
    --------
    >>> from sklearn.datasets import load_digits
    >>> from skood import HierarchicalRatio, HierarchicalVAE
    >>> X = load_digits().images
    >>> vae = HierarchicalVAE((4, 3, 2), n_levels=17, value_range=(0, 16), max_epochs=2)
    >>> HierarchicalRatio(vae, n_importance_samples=8).fit(X).score_samples(X[:3]).shape
    (3,)
    """

    k: int = parameter(Interval(numbers.Integral, 1, None, closed="left"), default=2, kw_only=True)
    n_importance_samples: int | None = parameter(
        Interval(numbers.Integral, 1, None, closed="left"), None, default=None, kw_only=True
    )

    _model_parameters = ("density",)

    def _fit(
        self, inliers: CheckedData, y: npt.NDArray | None, outliers: CheckedData | None, seed: int
    ) -> None:
        density = HierarchicalVAE() if self.density is None else self.density
        layers = getattr(density, "n_latents", None)
        # Anything else is for the density to refuse.
        if isinstance(layers, (tuple, list)) and self.k >= len(layers):
            raise ValueError(
                f"k={self.k}, but the density has {len(layers)} layers of latents; "
                f"expected at most {len(layers) - 1}"
            )
        self.density_ = fit_density_with(
            ("score_above",),
            density,
            inliers,
            y,
            message=f"density={density!r} has no layers of latents; HierarchicalRatio needs a "
            "HierarchicalVAE",
            seed=None if self.random_state is None else seed,
            memory=self.memory,
        )

    def _score_samples(self, data: CheckedData) -> npt.NDArray[np.float64]:
        items = as_input(self.density_, data)
        upper, full = (
            self.density_.score_above(items, k, self.n_importance_samples) for k in (self.k, 0)
        )
        return -np.abs(full - upper)
