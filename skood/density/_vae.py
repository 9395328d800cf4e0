"""Variational autoencoder: a density with a latent space."""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn

from skood._estimator.internal import internal
from skood._estimator.parameters import at_least, estimator, parameter
from skood.density._evidence import divergence, importance_bound, lower_bound, normal_points, weigh
from skood.density._generator import Generator
from skood.density._latent_space import LatentSpace
from skood.density._latent_variables import LatentVariableDensity
from skood.density._vae_network import VAENetwork

__all__ = ["VAE"]


@estimator
class VAE(LatentSpace, LatentVariableDensity):
    r"""Variational autoencoder, p(x) = integral of p(x | z) N(z; 0, I) over z.

    The encoder's q(z | x) is a normal distribution with a diagonal covariance. Training maximises

    .. math:: \mathbb{E}_{q(z|x)} \log p(x|z) - \mathrm{KL}(q(z|x) \,\|\, \mathcal{N}(0, I))

    with one draw of z for each item and step (Kingma and Welling 2014, equation 10).

    Parameters
    ----------
    n_latent : int, default=8
        Latent dimensions.
    sample_latents : bool, default=True
        Whether training draws z. False trains on the mean of q(z | x), as in the released code of
        OODGen [3]_.
    hidden_features : tuple of int, default=None
        Widths of the hidden layers of the encoder and, for rows, in reverse order of the decoder.
        None: (16,) for images, (128, 128) for rows.

    Attributes
    ----------
    history_ : dict of str to list of float
        Negative bound of each epoch, in nats per item: "loss" and, where rows were held out,
        "validation_loss".
    classes_ : ndarray of shape (n_classes,)
        Labels, if `conditional`.
    class_log_prior_ : ndarray of shape (n_classes,)
        Logarithm of their frequencies, if `conditional`.
    statistics_names : tuple of str
        Columns of `score_statistics`: "log_prob", the importance-weighted bound; "log_likelihood",
        the mean of log p(x | z) over q(z | x); "divergence", KL(q(z | x) || p(z)); "entropy", the
        entropy of q(z | x); "cross_entropy", the mean of -log p(z) over q(z | x). A conditional
        model has the means of the last four over p(y | x).

    See Also
    --------
    PixelCNN : Exact density of images.
    skood.training_time.BoundarySampler : Out-of-distribution samples from a VAE.

    Notes
    -----
    A score is a lower bound: with z_k from q(z | x),

    .. math:: \log p(x) \ge \log \frac{1}{K} \sum_k \frac{p(x|z_k) \, p(z_k)}{q(z_k|x)}

    in expectation, the tighter the larger K is [2]_. The draws are K scrambled Sobol points, the
    same for every item, so that a score does not depend on the other items scored with it. Scores
    are logarithms of probabilities ("bernoulli", "logistic") or of densities in the units of X.
    A density of images gives simple images high values whether or not they are in-distribution.

    References
    ----------
    .. [1] D. P. Kingma and M. Welling, "Auto-Encoding Variational Bayes", ICLR 2014.
    .. [2] Y. Burda, R. Grosse and R. Salakhutdinov, "Importance Weighted Autoencoders", ICLR
       2016, equation 8.
    .. [3] S. Vernekar et al., "Out-of-distribution Detection in Classifiers via Generation",
       arXiv:1910.04241.

    Examples
    --------
    >>> from sklearn.datasets import load_digits
    >>> from skood.density import VAE
    >>> digits = load_digits()
    >>> vae = VAE(n_latent=2, n_levels=17, value_range=(0, 16), max_epochs=2, random_state=0)
    >>> vae.fit(digits.images).score_samples(digits.images[:3]).shape
    (3,)
    >>> Z = vae.transform(digits.images[:3])
    >>> Z.shape, vae.inverse_transform(Z).shape
    ((3, 2), (3, 1, 8, 8))
    """

    n_latent: int = parameter(at_least(1), default=8)
    conditional: bool = parameter("boolean", default=False, kw_only=True)
    sample_latents: bool = parameter("boolean", default=True, kw_only=True)

    statistics_names = "log_prob", "log_likelihood", "divergence", "entropy", "cross_entropy"

    def _network(self, item_shape: tuple[int, ...], hidden_features: tuple[int, ...]) -> nn.Module:
        return VAENetwork(
            item_shape,
            self.n_latent,
            n_filters=self.n_filters,
            hidden_features=hidden_features,
            n_classes=len(self.classes_) if self.conditional else 0,
            initial_scale=self._likelihood.initial_scale,
        )

    def _log_prob(self, module: nn.Module, x: Tensor, class_indices: Tensor | None) -> Tensor:
        """Evidence lower bound with one draw of z, shape (b,)."""
        one_hot = self._one_hot(class_indices)
        mean, log_variance = module.encode(x, one_hot)
        if module.training:
            noise = torch.randn_like(mean)
        else:
            points = normal_points(self.n_importance_samples, self.n_latent).to(x.device)
            noise = points[torch.arange(len(x), device=x.device) % len(points)]
        z = mean + (log_variance / 2).exp() * noise if self.sample_latents else mean
        log_likelihood = self._log_likelihood(module, x, module.decode(z, one_hot))
        return log_likelihood - divergence(mean, log_variance)

    def _bound(self, module: nn.Module, x: Tensor, class_indices: Tensor | None) -> Tensor:
        """Lower bound on log p(x | y) from `n_importance_samples` draws, shape (b,), float64."""
        one_hot = self._one_hot(class_indices)
        mean, log_variance = module.encode(x, one_hot)
        return lower_bound(
            lambda z: self._log_likelihood(module, x, module.decode(z, one_hot)),
            mean,
            log_variance,
            normal_points(self.n_importance_samples, self.n_latent).to(x.device),
            importance_weighted=self.bound == "importance",
        )

    def _bound_by_class(self, module: nn.Module, x: Tensor) -> Tensor:
        """Bounds on log p(x, y) for each class, shape (b, n_classes)."""
        return self._joint(self._given_each_class(partial(self._bound, module, x), x))

    def _marginal(self, module: nn.Module, x: Tensor) -> Tensor:
        if self.conditional:
            return self._bound_by_class(module, x).logsumexp(1)
        return self._bound(module, x, None)

    def _statistics_given(
        self, module: nn.Module, x: Tensor, class_indices: Tensor | None
    ) -> Tensor:
        """Return the statistics of p(x | y), shape (b, n_statistics), float64."""
        one_hot = self._one_hot(class_indices)
        mean, log_variance = module.encode(x, one_hot)
        log_likelihoods, log_weights = weigh(
            lambda z: self._log_likelihood(module, x, module.decode(z, one_hot)),
            mean,
            log_variance,
            normal_points(self.n_importance_samples, self.n_latent).to(x.device),
        )
        entropy = 0.5 * (log_variance.double() + math.log(2 * math.pi) + 1).sum(1)
        kl = divergence(mean, log_variance)
        statistics = importance_bound(log_weights), log_likelihoods.mean(0), kl, entropy
        return torch.stack((*statistics, kl + entropy), 1)

    def _statistics(self, module: nn.Module, x: Tensor) -> Tensor:
        return self._marginal_statistics(partial(self._statistics_given, module, x), x)

    def _encode(
        self, module: nn.Module, x: Tensor, class_indices: Tensor | None = None
    ) -> tuple[Tensor, Tensor | None]:
        """Return the means of q(z | x, y), and the class indices, by default the most probable."""
        if self.conditional and class_indices is None:
            class_indices = self._bound_by_class(module, x).argmax(1)
        return module.encode(x, self._one_hot(class_indices))[0], class_indices

    def _location(
        self, module: nn.Module, z: Tensor, class_indices: Tensor | None = None
    ) -> Tensor:
        """Return the location of p(x | z, y)."""
        return self._likelihood.location(module.decode(z, self._one_hot(class_indices)))

    def _decode(self, module: nn.Module, z: Tensor, class_indices: Tensor | None = None) -> Tensor:
        """Return the location of p(x | z, y) in the units of X."""
        return self._preprocessing.inverse(self._location(module, z, class_indices))

    def transform(self, X: Any, y: Any = None) -> npt.NDArray[np.float64]:
        """Mean of q(z | x), the latents of X.

        Parameters
        ----------
        X : array-like, Tensor or Dataset of shape (n_samples, ...)
        y : array-like of shape (n_samples,), default=None
            Labels, for a conditional model. None takes the most probable class of each item.

        Returns
        -------
        ndarray of shape (n_samples, n_latent), float64
        """
        return self._map_labelled(X, y, lambda *batch: self._encode(*batch)[0], "encodes")

    def inverse_transform(self, Z: Any, y: Any = None) -> npt.NDArray:
        """Decode latents.

        Parameters
        ----------
        Z : array-like of shape (n_samples, n_latent)
        y : array-like of shape (n_samples,), default=None
            Labels, which a conditional model needs.

        Returns
        -------
        ndarray of shape (n_samples, C, H, W) or (n_samples, d), float64
            Location of p(x | z) in the units of X: the mean, unless the likelihood is discretised.

        Raises
        ------
        ValueError
            When a conditional model is not given labels, or Z has another number of columns.
        """
        Z = self._check_latents(Z)
        if self.conditional and y is None:
            raise ValueError(
                "a conditional VAE decodes latents given classes; give y, the labels to decode for"
            )
        return self._map_latents(Z, self._decode, self._class_indices(y, len(Z)))

    def reconstruct(self, X: Any, y: Any = None) -> npt.NDArray:
        """Decode the latents of X.

        Parameters
        ----------
        X : array-like, Tensor or Dataset of shape (n_samples, ...)
        y : array-like of shape (n_samples,), default=None
            Labels, for a conditional model. None takes the most probable class of each item.

        Returns
        -------
        ndarray of shape (n_samples, C, H, W) or (n_samples, d), float64
            In the units of X.
        """
        return self._map_labelled(
            X, y, lambda module, *x: self._decode(module, *self._encode(module, *x)), "reconstructs"
        )

    def _map_labelled(
        self, X: Any, y: Any, function: Callable[..., Tensor], doing: str
    ) -> npt.NDArray[np.float64]:
        """Apply a function of the network, its input and class indices where y is given."""
        data = self._open(X, reset=False)
        class_indices = self._class_indices(y, len(data))
        return self.map(
            data, function, class_indices=class_indices, tensor=self._tensor, doing=doing
        )

    @internal
    def generator(self) -> Generator:
        """Return the tensor interface to the fitted model, on its device.

        Returns
        -------
        Generator
        """
        module, device = self._ready()
        return Generator(
            n_latent=self.n_latent,
            conditional=self.conditional,
            device=device,
            dtype=torch.float64
            if np.result_type(self.dtype_, np.float32) == np.float64
            else torch.float32,
            preprocessing=self._preprocessing,
            tensor=partial(self._tensor, device=device),
            encode=partial(self._encode, module),
            decode=partial(self._location, module),
            class_indices=self._class_indices,
        )

    @internal
    def elbo(
        self, module: nn.Module, x: Tensor, mean: Tensor, log_variance: Tensor, points: Tensor
    ) -> Tensor:
        """Evidence lower bound of a model that is not conditional, (b,), float64.

        Called by a function that `map` applies, which may differentiate it.

        Parameters
        ----------
        module : Module
            The trained network.
        x : Tensor of shape (b, ...)
            Its input.
        mean, log_variance : Tensor of shape (b, n_latent)
            Of the distribution of the latents; ``module.encode(x, None)`` gives q(z | x).
        points : Tensor of shape (K, n_latent)
            Standard normal draws, or quasi-random points, the same for every item.
        """
        return lower_bound(
            lambda z: self._log_likelihood(module, x, module.decode(z, None)),
            mean,
            log_variance,
            points,
            importance_weighted=False,
        )

    @internal
    def decoder(self) -> tuple[Callable[[Tensor], Tensor], torch.device]:
        """Return the differentiable map from latents to items in the units of X, and its device.

        Raises
        ------
        ValueError
            When the model is conditional: its items depend on the class, too.
        """
        if self.conditional:
            raise ValueError("a conditional VAE has a decoder for each class; expected one of p(x)")
        module, device = self._ready()
        return partial(self._decode, module), device

    def _draw(self, module: nn.Module, n_samples: int, generator: torch.Generator) -> Tensor:
        shape = n_samples, self.n_latent
        z = torch.randn(shape, generator=generator, device=generator.device)
        location = self._location(module, z, self._draw_classes(n_samples, generator))
        return self._likelihood.sample(location, module.scale(), generator)
