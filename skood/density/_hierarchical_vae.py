"""Hierarchical variational autoencoder: a density with layers of latents."""

from __future__ import annotations

import numbers
from functools import partial
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn

from skood._data import check_scores
from skood._parameters import NONNEGATIVE, at_least, estimator, parameter
from skood.density._evidence import divergence, importance_bound, normal_points
from skood.density._hierarchical_vae_network import HierarchicalVAENetwork
from skood.density._latent_space import LatentSpace
from skood.density._latent_variables import LatentVariableDensity

__all__ = ["HierarchicalVAE"]


class Descent(NamedTuple):
    """One draw of all latents, from the top down.

    Attributes
    ----------
    latents : Tensor of shape (b, n_latent)
        Columns of all layers, the bottom first.
    divergences : Tensor of shape (b, n_inferred), float64
        KL(q || p) in nats of each layer drawn from q, the top first, given the latents above.
    log_ratio : Tensor of shape (b,), float64
        Log p - log q in nats of the latents drawn from q.
    """

    latents: Tensor
    divergences: Tensor
    log_ratio: Tensor


@estimator
class HierarchicalVAE(LatentSpace, LatentVariableDensity):
    r"""Hierarchical variational autoencoder, with layers of latents :math:`z_1, \dots, z_L`.

    The model and its inference both go from the top layer down,

    .. math::
        p(x, z) = p(x|z) \, p(z_L) \prod_{l<L} p(z_l | z_{>l}), \qquad
        q(z|x) = q(z_L | x) \prod_{l<L} q(z_l | z_{>l}, x),

    with normal distributions of diagonal covariance, :math:`p(z_L) = \mathcal{N}(0, I)`. Training
    maximises

    .. math:: \mathbb{E}_{q(z|x)} \Big[ \log p(x|z)
        - \sum_l \mathrm{KL}\big(q(z_l | z_{>l}, x) \,\|\, p(z_l | z_{>l})\big) \Big]

    with one draw of z for each item and step.

    Parameters
    ----------
    n_latents : tuple of int, default=(32, 16, 8)
        Number of latents of each layer, from the bottom to the top; two layers or more.
    n_warmup_steps : int, default=200
        Training steps over which the weight of the divergences rises linearly to 1.
    free_nats : float, default=2.0
        Training does not lower the divergence of a layer below this value, in nats per item, so
        that upper layers stay in use.
    hidden_features : tuple of int, default=None
        Widths of the hidden layers of every posterior and, in reverse order, of every prior and,
        for rows, of the decoder. None: (128,) for images, (128, 128) for rows.

    Attributes
    ----------
    history_ : dict of str to list of float
        Of each epoch, in nats per item: "loss", the training loss, with warm-up and free nats; and,
        where rows were held out, "validation_loss", the negative bound without them.

    See Also
    --------
    VAE : With one layer of latents.
    skood.likelihood.HierarchicalRatio : Compares the bounds of this model.

    Notes
    -----
    As in [1]_, skip connections lead from x to every layer of latents, from each layer to all
    layers below, and from all layers to the decoder. Unlike in [1]_, latents are vectors, and
    inference goes from the top down, so that :math:`q(z_{>k}|x)` needs no lower latents.

    The draws of a score are scrambled Sobol points, the same for every item, so that it does not
    depend on the other items scored with it.

    References
    ----------
    .. [1] J. D. Havtorn, J. Frellsen, S. Hauberg and L. Maaløe, "Hierarchical VAEs Know What They
       Don't Know", ICML 2021.
    .. [2] C. K. Sønderby, T. Raiko, L. Maaløe, S. K. Sønderby and O. Winther, "Ladder Variational
       Autoencoders", NeurIPS 2016 (warm-up).
    .. [3] D. P. Kingma et al., "Improved Variational Inference with Inverse Autoregressive Flow",
       NeurIPS 2016 (free bits).

    Examples
    --------
    >>> from sklearn.datasets import load_digits
    >>> from skood.density import HierarchicalVAE
    >>> X = load_digits().images
    >>> vae = HierarchicalVAE((4, 3, 2), n_levels=17, value_range=(0, 16), max_epochs=2)
    >>> vae.fit(X).score_samples(X[:3]).shape
    (3,)
    >>> vae.score_above(X[:3], k=2).shape, vae.transform(X[:3]).shape
    ((3,), (3, 9))
    """

    n_latents: tuple[int, ...] = parameter(tuple, list, default=(32, 16, 8))
    n_warmup_steps: int = parameter(at_least(0), default=200, kw_only=True)
    free_nats: float = parameter(NONNEGATIVE, default=2.0, kw_only=True)

    _features_of_images = (128,)

    def _network(self, item_shape: tuple[int, ...], hidden_features: tuple[int, ...]) -> nn.Module:
        counts = self.n_latents
        if len(counts) < 2 or not all(isinstance(n, numbers.Integral) and n > 0 for n in counts):
            raise ValueError(
                f"n_latents={counts!r}; expected the number of latents of each layer, from the "
                "bottom to the top, for two layers or more; VAE has one"
            )
        return HierarchicalVAENetwork(
            item_shape,
            counts,
            n_filters=self.n_filters,
            hidden_features=hidden_features,
            initial_scale=self._likelihood.initial_scale,
        )

    @property
    def n_latent(self) -> int:  # type: ignore[override]
        """Latents of all layers together."""
        return sum(self.n_latents)

    def _descend(self, module: nn.Module, features: Tensor, noise: Tensor, k: int = 0) -> Descent:
        """Draw the layers above the k-th from q, and the k lowest from the prior.

        Parameters
        ----------
        module : HierarchicalVAENetwork
        features : Tensor of shape (b, n_features)
        noise : Tensor of shape (n_latent,) or (b, n_latent)
            Standard normal.
        k : int, default=0
        """
        above = noise.new_zeros(len(features), 0)
        divergences = []
        log_ratio = torch.zeros(len(features), dtype=torch.float64, device=noise.device)
        layers = list(enumerate(noise.split(module.n_latents, -1)))
        for layer, point in reversed(layers):
            prior_mean, prior_log_variance = module.prior(layer, above)
            if layer < k:
                z = prior_mean + (prior_log_variance / 2).exp() * point
            else:
                mean, log_variance = module.posterior(layer, features, above)
                z = mean + (log_variance / 2).exp() * point
                # In units of the prior, which then is standard normal.
                inverse_scale = (-prior_log_variance / 2).exp()
                log_variance = log_variance - prior_log_variance
                divergences.append(divergence((mean - prior_mean) * inverse_scale, log_variance))
                standardised = (z - prior_mean) * inverse_scale
                terms = point.square() + log_variance - standardised.square()
                log_ratio = log_ratio + 0.5 * terms.double().sum(1)
            above = torch.cat([z, above], 1)
        stacked = torch.stack(divergences, 1) if divergences else log_ratio.new_zeros(len(above), 0)
        return Descent(above, stacked, log_ratio)

    def _log_prob(self, module: nn.Module, x: Tensor, class_indices: Tensor | None) -> Tensor:
        """Evidence lower bound with one draw of z, or the training objective, shape (b,)."""
        if module.training:
            noise = torch.randn(len(x), self.n_latent, device=x.device)
        else:
            points = normal_points(self.n_importance_samples, self.n_latent).to(x.device)
            noise = points[torch.arange(len(x), device=x.device) % len(points)]
        drawn = self._descend(module, module.features(x), noise)
        log_likelihood = self._log_likelihood(module, x, module.decode(drawn.latents))
        if not module.training:
            return log_likelihood - drawn.divergences.sum(1)
        weight = ((module.n_steps + 1) / max(1, self.n_warmup_steps)).clamp(max=1)
        return log_likelihood - weight * drawn.divergences.clamp(min=self.free_nats).sum(1)

    def _after_step(self, module: nn.Module) -> None:
        module.n_steps += 1

    def _bound(self, module: nn.Module, x: Tensor, *, k: int, n_importance_samples: int) -> Tensor:
        """Bound with the k lowest layers drawn from the prior, shape (b,), float64."""
        features = module.features(x)
        bounds = []
        for point in normal_points(n_importance_samples, self.n_latent).to(x.device):
            drawn = self._descend(module, features, point, k)
            log_likelihood = self._log_likelihood(module, x, module.decode(drawn.latents))
            if self.bound == "importance":
                bounds.append(log_likelihood + drawn.log_ratio)
            else:
                bounds.append(log_likelihood - drawn.divergences.sum(1))
        stacked = torch.stack(bounds)
        return importance_bound(stacked) if self.bound == "importance" else stacked.mean(0)

    def _marginal(self, module: nn.Module, x: Tensor) -> Tensor:
        return self._bound(module, x, k=0, n_importance_samples=self.n_importance_samples)

    def score_above(
        self, X: Any, k: int, n_importance_samples: int | None = None
    ) -> npt.NDArray[np.float64]:
        r"""Lower bound on log p(x) that infers only the layers of latents above the k-th.

        The lower ones are drawn from their prior given the upper ones:

        .. math:: \mathcal{L}^{>k} = \mathbb{E}_{p(z_{\le k}|z_{>k}) \, q(z_{>k}|x)}
            \Big[ \log \frac{p(x|z) \, p(z_{>k})}{q(z_{>k}|x)} \Big],

        or, with ``bound="importance"``, the importance-weighted bound from the same draws (Havtorn
        et al. 2021).

        Parameters
        ----------
        X : array-like, Tensor or Dataset of shape (n_samples, ...)
        k : int
            Number of layers that are not inferred, 0 to L - 1; 0 equals `score_samples`.
        n_importance_samples : int or None, default=None
            None takes the parameter of the model.

        Returns
        -------
        ndarray of shape (n_samples,), float64
            In nats.

        Raises
        ------
        ValueError
            When no layer lies above the k-th, or there are no draws.
        """
        if not isinstance(k, numbers.Integral) or not 0 <= k < len(self.n_latents):
            raise ValueError(
                f"k={k!r}; expected 0 to {len(self.n_latents) - 1}, so that at least one of the "
                f"{len(self.n_latents)} layers of latents lies above"
            )
        if n_importance_samples is None:
            n_importance_samples = self.n_importance_samples
        if n_importance_samples < 1:
            raise ValueError(f"n_importance_samples={n_importance_samples!r}; expected at least 1")
        bound = partial(self._bound, k=k, n_importance_samples=n_importance_samples)
        scores = self.map(X, bound)
        check_scores(self, scores)
        return scores

    def transform(self, X: Any) -> npt.NDArray[np.float64]:
        """Latents of X: the means of the posteriors, each given the means of the layers above.

        Parameters
        ----------
        X : array-like, Tensor or Dataset of shape (n_samples, ...)

        Returns
        -------
        ndarray of shape (n_samples, n_latent), float64
            Columns of all layers, the bottom first. Only the prior of the top layer is standard
            normal.
        """

        def means(module: nn.Module, x: Tensor) -> Tensor:
            no_noise = torch.zeros(self.n_latent, device=x.device)
            return self._descend(module, module.features(x), no_noise).latents

        return self._finite(self.map(X, means, doing="latents"), "X")

    def _draw(self, module: nn.Module, n_samples: int, generator: torch.Generator) -> Tensor:
        shape = n_samples, self.n_latent
        noise = torch.randn(shape, generator=generator, device=generator.device)
        z = self._descend(module, noise, noise, k=len(self.n_latents)).latents
        location = self._likelihood.location(module.decode(z))
        return self._likelihood.sample(location, module.scale(), generator)
