"""Ratio of two bounds on the likelihood in a hierarchical VAE."""

from __future__ import annotations

import warnings
from typing import Any

import numpy as np
import numpy.typing as npt

from skood._data.checked_data import CheckedData
from skood._estimator.methods import check_provides
from skood._estimator.parameters import StrOptions, at_least, estimator, parameter
from skood._models import as_input
from skood.density import HierarchicalVAE
from skood.likelihood._base import DensityDetector, evenly_spaced

__all__ = ["HierarchicalRatio"]

# Training items at which `fit` compares the bounds, and the largest fraction of them at which the
# full bound may be the lower one by more than a nat, the error of few draws.
_N_CHECKED = 128
_MOST_FAILURES = 0.1


@estimator
class HierarchicalRatio(DensityDetector):
    r"""Detector on the gain in likelihood from the lower latents of a hierarchical VAE.

    The score is minus the absolute value of the log-ratio [1]_

    .. math:: LLR^{>k}(x) = \mathcal{L}(x) - \mathcal{L}^{>k}(x)

    of two bounds on log p(x): :math:`\mathcal{L}` infers all layers of latents from x,
    :math:`\mathcal{L}^{>k}` only those above the k-th, and takes the others from their prior. Lower
    latents hold low-level features, which out-of-distribution images share and which dominate the
    likelihood. Where the upper latents explain x, inferring the lower ones adds little.

    Parameters
    ----------
    density : estimator, default=None
        A :class:`~skood.density.HierarchicalVAE`; one in :class:`sklearn.frozen.FrozenEstimator`
        is not trained again. None takes one with its default parameters.
    k : int, default=1
        Number of layers, from the bottom, that are not inferred; smaller than the number of layers.
    n_importance_samples : int or None, default=None
        Draws for each bound. None takes the parameter of the density. The parameter `bound` of the
        density selects the kind of bound.
    lower_latents : {"mode", "sample"}, default="mode"
        Whether :math:`\mathcal{L}^{>k}` decodes the mode of the prior of the k lowest layers, as
        the authors' code does, or draws from it, as in the equation of [1]_.

    Warns
    -----
    UserWarning
        In `fit`, if :math:`\mathcal{L}^{>k}`, with lower latents that are drawn, exceeds
        :math:`\mathcal{L}` by more than 1 nat at more than 10 % of 128 training items: the encoder
        has failed.

    See Also
    --------
    LogLikelihood : The score is one bound.
    LikelihoodRatio : Divides by the density of a background model.

    Notes
    -----
    Scores are in nats. With ``bound="elbo"`` and ``lower_latents="sample"``, the expected
    difference of the bounds is a difference of two divergences from the true posterior [1]_:
    :math:`LLR^{>k} = \mathrm{KL}(p(z_{\le k}|z_{>k}) q(z_{>k}|x) \| p(z|x)) -
    \mathrm{KL}(q(z|x) \| p(z|x))`.

    This log-ratio is negative where the prior of the lower latents is closer to their posterior
    than q is. Down to -1 nat this may be the error of few draws. Below, the encoder has failed at
    x, and a log-ratio of -400 nats gives the same score as one of +400. The score of [1]_,
    :math:`-LLR^{>k}`, would rank such items as the most typical of all; both scores are equal where
    the log-ratio is positive, as for the published images. Rows far from the training data often
    have large log-ratios of either sign. With ``lower_latents="mode"``, an item at the mode may
    have a log-ratio below 0, too.

    References
    ----------
    .. [1] J. D. Havtorn, J. Frellsen, S. Hauberg and L. Maaløe, "Hierarchical VAEs Know What They
       Don't Know", ICML 2021.

    Examples
    --------
    >>> from sklearn.datasets import load_digits
    >>> from skood import HierarchicalRatio, HierarchicalVAE
    >>> X = load_digits().images
    >>> vae = HierarchicalVAE(
    ...     (4, 3, 2), free_nats=0, n_levels=17, value_range=(0, 16), max_epochs=5, random_state=0
    ... )
    >>> HierarchicalRatio(vae, n_importance_samples=8).fit(X).score_samples(X[:3]).shape
    (3,)
    """

    k: int = parameter(at_least(1), default=1, kw_only=True)
    n_importance_samples: int | None = parameter(at_least(1), None, default=None, kw_only=True)
    lower_latents: str = parameter(StrOptions({"mode", "sample"}), default="mode", kw_only=True)

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

    def _fit(
        self, inliers: CheckedData, y: npt.NDArray | None, outliers: CheckedData | None, seed: int
    ) -> npt.NDArray[np.integer] | None:
        super()._fit(inliers, y, outliers, seed)
        self._check_encoder(evenly_spaced(inliers, _N_CHECKED))
        return None

    def _check_encoder(self, data: CheckedData) -> None:
        """Warn if the bound without the lower layers is the higher one at training items."""
        # With the mode, the upper bound may be the higher one at the mode itself.
        log_ratio = self._log_ratio(data, "sample")
        failed = (log_ratio < -1).mean()
        if failed > _MOST_FAILURES:
            warnings.warn(
                f"the encoder of the density has failed at {failed:.0%} of {len(data)} training "
                f"items: the bound that infers all layers is lower, by more than 1 nat, than the "
                f"bound without the k={self.k} lowest ones (median of the log-ratio "
                f"{np.median(log_ratio):.3g} nats), and the scores of such items have no meaning. "
                "Train the density longer, with a lower learning_rate or a longer n_warmup_steps, "
                "or let free_nats end before training does (n_free_nats_steps)",
                stacklevel=6,
            )

    def _log_ratio(self, data: CheckedData, lower_latents: str) -> npt.NDArray[np.float64]:
        items, n_samples = as_input(self.density_, data), self.n_importance_samples
        full = self.density_.score_above(items, 0, n_samples)
        upper = self.density_.score_above(items, self.k, n_samples, lower_latents=lower_latents)
        return full - upper

    def _score_samples(self, data: CheckedData) -> npt.NDArray[np.float64]:
        return -np.abs(self._log_ratio(data, self.lower_latents))
