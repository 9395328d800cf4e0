"""Ratio of two bounds on the likelihood in a hierarchical VAE."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from skood._checked_data import CheckedData
from skood._methods import check_provides
from skood._models import as_input
from skood._parameters import at_least, estimator, parameter
from skood.density import HierarchicalVAE
from skood.likelihood._base import DensityDetector

__all__ = ["HierarchicalRatio"]


@estimator
class HierarchicalRatio(DensityDetector):
    r"""Detector on the gain in likelihood from the lower latents of a hierarchical VAE.

    The score is minus the absolute value of the log-ratio [1]_

    .. math:: LLR^{>k}(x) = \mathcal{L}(x) - \mathcal{L}^{>k}(x)

    of two lower bounds on log p(x): :math:`\mathcal{L}` infers all layers of latents from x,
    :math:`\mathcal{L}^{>k}` only those above the k-th, and draws the others from their prior.
    Lower latents hold low-level features, which out-of-distribution images share and which dominate
    the likelihood. Where the upper latents explain x, inferring the lower ones adds little.

    Parameters
    ----------
    density : estimator, default=None
        A :class:`~skood.density.HierarchicalVAE`; one in :class:`sklearn.frozen.FrozenEstimator`
        is not trained again. None takes one with its default parameters.
    k : int, default=2
        Number of layers, from the bottom, that are not inferred; smaller than the number of layers.
    n_importance_samples : int or None, default=None
        Draws for each bound. None takes the parameter of the density. The parameter `bound` of the
        density selects the kind of bound.

    See Also
    --------
    LogLikelihood : The score is one bound.
    LikelihoodRatio : Divides by the density of a background model.

    Notes
    -----
    Scores are in nats. With ``bound="elbo"``, the expected difference of the bounds is a difference
    of two divergences from the true posterior [1]_:
    :math:`LLR^{>k} = \mathrm{KL}(p(z_{\le k}|z_{>k}) q(z_{>k}|x) \| p(z|x)) -
    \mathrm{KL}(q(z|x) \| p(z|x))`.

    The log-ratio is negative where the prior of the lower latents is closer to their posterior than
    q is. Down to -1 nat this may be the error of few draws. Below, the encoder has failed at x,
    which does not happen for training items, and a log-ratio of -400 nats gives the same score as
    one of +400. The score of [1]_, :math:`-LLR^{>k}`, would rank such items as the most typical of
    all; both scores are equal where the log-ratio is positive, as for the published images. Rows
    far from the training data often have large log-ratios of either sign.

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

    k: int = parameter(at_least(1), default=2, kw_only=True)
    n_importance_samples: int | None = parameter(at_least(1), None, default=None, kw_only=True)

    def _default_density(self, data: CheckedData) -> HierarchicalVAE:
        return HierarchicalVAE()

    def _check_density(self, density: Any) -> None:
        layers = getattr(density, "n_latents", None)
        # The density itself refuses anything else.
        if isinstance(layers, (tuple, list)) and self.k >= len(layers):
            raise ValueError(
                f"k={self.k}, but the density has {len(layers)} layers of latents; "
                f"expected at most {len(layers) - 1}"
            )
        check_provides(
            density,
            "score_above",
            message=f"density={density!r} has no layers of latents; HierarchicalRatio needs a "
            "HierarchicalVAE",
        )

    def _score_samples(self, data: CheckedData) -> npt.NDArray[np.float64]:
        items = as_input(self.density_, data)
        upper, full = (
            self.density_.score_above(items, k, self.n_importance_samples) for k in (self.k, 0)
        )
        return -np.abs(full - upper)
