"""Hierarchical variational autoencoder: a density with layers of latents."""

from __future__ import annotations

import numbers
from functools import partial
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from sklearn.utils.validation import check_is_fitted
from torch import Tensor, nn

from skood._data.checked_data import CheckedData
from skood._data.validation import check_scores
from skood._estimator.parameters import NONNEGATIVE, StrOptions, at_least, estimator, parameter
from skood._torch.preprocessing import Preprocessing
from skood.density._binarization import BinarizingObjective, binary_versions
from skood.density._descent import Descent, descend, free_nats_at, sum_at_least
from skood.density._evidence import importance_bound, normal_points
from skood.density._hierarchical_vae_network import HierarchicalVAENetwork
from skood.density._latent_space import LatentSpace
from skood.density._latent_variables import LatentVariableDensity

__all__ = ["HierarchicalVAE"]


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
        Number of latents of each layer, from the bottom to the top; two layers or more. For a layer
        of maps, the number of channels.
    n_spatial_layers : int, default=0
        For images: number of layers of maps, counted from the bottom. Each one has half the height
        and width of the map below it, the first one half of the image's; ``(8, 16, 8)`` with 1 for
        images of 28 x 28 are 8 x 14 x 14, 16 and 8 latents, as in [1]_. Fewer than the layers, and
        at most the number of `n_filters`.
    n_blocks : int, default=0
        For images: residual blocks of two convolutions in every map of the encoder and the decoder
        that is smaller than the image, and again after every layer of maps.
    n_warmup_steps : int, default=200
        Training steps over which the weight of the divergences rises linearly to 1.
    free_nats : float, default=2.0
        Training does not lower the divergence of a layer below this value, in nats per item, so
        that upper layers stay in use.
    n_free_nats_steps : int or None, default=400
        Training steps with `free_nats`: constant in the first half of the steps, then falling
        linearly to 0, as in [1]_. Training has to continue after them, so that `patience` must not
        end it. None: constant to the end, which leaves layers in use that do not pay, and
        :class:`~skood.likelihood.HierarchicalRatio` with negative log-ratios.
    free_nats_per : {"layer", "latent"}, default="layer"
        "layer": `free_nats` bound the divergence of a layer. "latent": each of its n latents is
        bounded by `free_nats` / n; in a layer of maps with n channels, each latent at every
        position of the map, as in [1]_.
    binarize : {"dynamic"} or None, default=None
        "dynamic": images are binarised, with the grey value as the probability of white, and
        training draws them anew for every batch; for ``likelihood="bernoulli"``. None: a Bernoulli
        likelihood takes grey values as they are.
    n_binarizations : int, default=4
        With `binarize`, number of binarised versions of an item over which a score is the mean; the
        cost of a score grows with it. Latents are the latents of the first version.
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
    layers below, and from all layers to the decoder. Unlike in [1]_, inference goes from the top
    down, so that :math:`q(z_{>k}|x)` needs no lower latents, and divergences are exact given the
    latents above.

    The settings closest to [1]_ for binarised images of clothes, with 1000 epochs of 60 000 images,
    are::

        HierarchicalVAE(
            (8, 16, 8),
            n_spatial_layers=1,
            n_blocks=3,
            n_filters=(64, 64),
            likelihood="bernoulli",
            binarize="dynamic",
            free_nats=2.0,
            free_nats_per="latent",
            n_free_nats_steps=187_000,
            n_warmup_steps=94_000,
            max_epochs=1000,
            patience=None,
            learning_rate=3e-4,
            batch_size=128,
        )

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
    n_spatial_layers: int = parameter(at_least(0), default=0, kw_only=True)
    n_blocks: int = parameter(at_least(0), default=0, kw_only=True)
    n_warmup_steps: int = parameter(at_least(0), default=200, kw_only=True)
    free_nats: float = parameter(NONNEGATIVE, default=2.0, kw_only=True)
    n_free_nats_steps: int | None = parameter(at_least(1), None, default=400, kw_only=True)
    free_nats_per: str = parameter(StrOptions({"layer", "latent"}), default="layer", kw_only=True)
    binarize: str | None = parameter(StrOptions({"dynamic"}), None, default=None, kw_only=True)
    n_binarizations: int = parameter(at_least(1), default=4, kw_only=True)

    _features_of_images = (128,)
    _objective = BinarizingObjective

    def _make_preprocessing(self, data: CheckedData) -> Preprocessing:
        preprocessing = super()._make_preprocessing(data)
        if self.binarize is not None and self.likelihood_ != "bernoulli":
            raise ValueError(
                f"binarize={self.binarize!r} with likelihood={self.likelihood!r}; expected "
                "likelihood='bernoulli', the law of black and white pixels"
            )
        return preprocessing

    def _network(self, item_shape: tuple[int, ...], hidden_features: tuple[int, ...]) -> nn.Module:
        counts, n_maps = self.n_latents, self.n_spatial_layers
        if len(counts) < 2 or not all(isinstance(n, numbers.Integral) and n > 0 for n in counts):
            raise ValueError(
                f"n_latents={counts!r}; expected the number of latents of each layer, from the "
                "bottom to the top, for two layers or more; VAE has one"
            )
        if n_maps and len(item_shape) != 3:
            raise ValueError(
                f"n_spatial_layers={n_maps}, but X has rows; expected images, or image_shape="
                "(C, H, W) for rows that are flat images"
            )
        if n_maps > min(len(counts) - 1, len(self.n_filters)):
            raise ValueError(
                f"n_spatial_layers={n_maps} with n_latents={counts!r} and "
                f"n_filters={self.n_filters!r}; expected fewer layers of maps than layers, and a "
                "convolution for each of them"
            )
        return HierarchicalVAENetwork(
            item_shape,
            counts,
            n_spatial_layers=n_maps,
            n_blocks=self.n_blocks,
            n_filters=self.n_filters,
            hidden_features=hidden_features,
            initial_scale=self._likelihood.initial_scale,
        )

    @property
    def n_latent(self) -> int:  # type: ignore[override]
        """Latents of all layers together; with layers of maps, known after `fit`."""
        if not self.n_spatial_layers:
            return sum(self.n_latents)
        check_is_fitted(self)
        return sum(self.module_.n_latents)

    def _versions(self, x: Tensor) -> list[Tensor]:
        """Return the items that are scored for x: x itself, or binarised versions of it."""
        return [x] if self.binarize is None else binary_versions(x, self.n_binarizations)

    def _log_prob(self, module: nn.Module, x: Tensor, class_indices: Tensor | None) -> Tensor:
        """Evidence lower bound with one draw of z, or the training objective, shape (b,)."""
        n_latent = sum(module.n_latents)
        if module.training:
            noise = torch.randn(len(x), n_latent, device=x.device)
        else:
            points = normal_points(self.n_importance_samples, n_latent).to(x.device)
            noise = points[torch.arange(len(x), device=x.device) % len(points)]
        drawn = descend(module, module.features(x), noise)
        log_likelihood = self._log_likelihood(module, x, module.decode(drawn.state))
        if not module.training:
            return log_likelihood - drawn.divergence
        weight = ((module.n_steps + 1) / max(1, self.n_warmup_steps)).clamp(max=1)
        free = free_nats_at(module.n_steps, self.free_nats, self.n_free_nats_steps)
        counts = self.n_latents[::-1]
        least = [free / n if self.free_nats_per == "latent" else free for n in counts]
        charged = sum_at_least(drawn.divergences, least, per=self.free_nats_per)
        return log_likelihood - weight * charged

    def _after_step(self, module: nn.Module) -> None:
        module.n_steps += 1

    def _bound(
        self,
        module: nn.Module,
        x: Tensor,
        *,
        k: int,
        n_importance_samples: int,
        lower_latents: str = "sample",
    ) -> Tensor:
        """Bound with the k lowest layers from the prior, shape (b,), float64."""
        settings = k, n_importance_samples, lower_latents
        versions = [self._bound_of(module, version, *settings) for version in self._versions(x)]
        return torch.stack(versions).mean(0)

    def _bound_of(
        self, module: nn.Module, x: Tensor, k: int, n_importance_samples: int, lower_latents: str
    ) -> Tensor:
        """Compute `_bound` of items that are binarised already, if they have to be."""
        features = module.features(x)
        bounds = []
        for point in normal_points(n_importance_samples, sum(module.n_latents)).to(x.device):
            noise = point.expand(len(x), -1)
            drawn = descend(module, features, noise, k, lower_latents)
            log_likelihood = self._log_likelihood(module, x, module.decode(drawn.state))
            if self.bound == "importance":
                bounds.append(log_likelihood + drawn.log_ratio)
            else:
                bounds.append(log_likelihood - drawn.divergence)
        stacked = torch.stack(bounds)
        return importance_bound(stacked) if self.bound == "importance" else stacked.mean(0)

    def _marginal(self, module: nn.Module, x: Tensor) -> Tensor:
        return self._bound(module, x, k=0, n_importance_samples=self.n_importance_samples)

    def score_above(
        self,
        X: Any,
        k: int,
        n_importance_samples: int | None = None,
        *,
        lower_latents: str = "mode",
    ) -> npt.NDArray[np.float64]:
        r"""Bound on log p(x) that infers only the layers of latents above the k-th.

        The lower layers come from their prior given the upper ones (Havtorn et al. 2021). With
        ``lower_latents="sample"`` they are drawn,

        .. math:: \mathcal{L}^{>k} = \mathbb{E}_{p(z_{\le k}|z_{>k}) \, q(z_{>k}|x)}
            \Big[ \log \frac{p(x|z) \, p(z_{>k})}{q(z_{>k}|x)} \Big],

        which is a lower bound. With ``lower_latents="mode"``, as in the authors' code, each layer
        is the mode of its prior given the layers above it,

        .. math:: \mathcal{L}^{>k} = \mathbb{E}_{q(z_{>k}|x)} \Big[ \log
            \frac{p(x|\hat z_1, \dots, \hat z_k, z_{>k}) \, p(z_{>k})}{q(z_{>k}|x)} \Big],
            \qquad \hat z_l = \arg\max_{z_l} p(z_l | \hat z_{l+1}, \dots, \hat z_k, z_{>k}),

        which depends on fewer draws and need not be a bound. With ``bound="importance"``, both are
        importance-weighted over the draws.

        Parameters
        ----------
        X : array-like, Tensor or Dataset of shape (n_samples, ...)
        k : int
            Number of layers that are not inferred, 0 to L - 1; 0 equals `score_samples`.
        n_importance_samples : int or None, default=None
            None takes the parameter of the model.
        lower_latents : {"mode", "sample"}, default="mode"
            Whether the layers that are not inferred are the mode of their prior, or are drawn.

        Returns
        -------
        ndarray of shape (n_samples,), float64
            In nats.

        Raises
        ------
        ValueError
            When no layer lies above the k-th, there are no draws, or `lower_latents` is unknown.
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
        if lower_latents not in ("mode", "sample"):
            raise ValueError(f"lower_latents={lower_latents!r}; expected 'mode' or 'sample'")
        bound = partial(
            self._bound,
            k=k,
            n_importance_samples=n_importance_samples,
            lower_latents=lower_latents,
        )
        scores = self.map(X, bound)
        check_scores(self, scores)
        return scores

    def _at_means(self, module: nn.Module, x: Tensor) -> Descent:
        """Take the mean of every posterior, given the means of the layers above."""
        no_noise = torch.zeros(len(x), sum(module.n_latents), device=x.device)
        return descend(module, module.features(self._versions(x)[0]), no_noise)

    def latent_divergences(self, X: Any) -> npt.NDArray[np.float64]:
        """Divergence of the posterior of each latent from its prior, given the means above.

        A latent is in use if its mean over in-distribution items is well above 0, for example above
        0.01 nats. A layer without latents in use does not contribute to any bound.

        Parameters
        ----------
        X : array-like, Tensor or Dataset of shape (n_samples, ...)

        Returns
        -------
        ndarray of shape (n_samples, n_latent), float64
            KL(q || p) in nats, in the order of `transform`.
        """

        def of_latents(module: nn.Module, x: Tensor) -> Tensor:
            return torch.cat(self._at_means(module, x).divergences[::-1], 1)

        return self._finite(self.map(X, of_latents, doing="divergences"), "X")

    def transform(self, X: Any) -> npt.NDArray[np.float64]:
        """Latents of X: the means of the posteriors, each given the means of the layers above.

        Parameters
        ----------
        X : array-like, Tensor or Dataset of shape (n_samples, ...)

        Returns
        -------
        ndarray of shape (n_samples, n_latent), float64
            Columns of all layers, the bottom first; maps channel by channel, row by row. Only the
            prior of the top layer is standard normal.
        """
        means = self.map(X, lambda *batch: self._at_means(*batch).latents, doing="latents")
        return self._finite(means, "X")

    def _draw(self, module: nn.Module, n_samples: int, generator: torch.Generator) -> Tensor:
        shape = n_samples, sum(module.n_latents)
        noise = torch.randn(shape, generator=generator, device=generator.device)
        state = descend(module, None, noise, k=len(self.n_latents)).state
        location = self._likelihood.location(module.decode(state))
        return self._likelihood.sample(location, module.scale(), generator)
