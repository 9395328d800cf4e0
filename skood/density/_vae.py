"""Variational autoencoder: a density with a latent space."""

from __future__ import annotations

import math
import numbers
from collections.abc import Callable
from functools import partial

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn

from skood._checked_data import CheckedData
from skood._internal import internal
from skood._parameters import Interval, estimator, parameter
from skood._torch.seeding import Stream, draw_seed, torch_rng
from skood.density._evidence import (
    Elbo,
    divergence,
    importance_bound,
    lower_bound,
    normal_points,
    weigh,
)
from skood.density._generator import Generator
from skood.density._latent_transformer import LatentTransformer
from skood.density._latent_variables import LatentVariableDensity
from skood.density._vae_network import VAENetwork

__all__ = ["VAE"]

# Items that `sample` draws together.
_SAMPLES_AT_ONCE = 1024


@estimator
class VAE(LatentTransformer, LatentVariableDensity):
    r"""Variational autoencoder, p(x) = integral of p(x | z) N(z; 0, I) over z.

    The encoder's q(z | x) is a normal distribution with a diagonal covariance. Training maximises

    .. math:: \mathbb{E}_{q(z|x)} \log p(x|z) - \mathrm{KL}(q(z|x) \,\|\, \mathcal{N}(0, I))

    with one draw of z for each item and step (Kingma and Welling 2014, equation 10).

    Parameters
    ----------
    n_latent : int, default=8
        Latent dimensions.
    conditional : bool, default=False
        Model p(x | y): `fit` then needs y. Scores are those of the mixture over the classes,
        weighted by their training frequencies.
    sample_latents : bool, default=True
        Whether training draws z. False trains on the mean of q(z | x), as the released code of
        OODGen [3]_ does.
    n_filters : tuple of int, default=(32, 64)
        For images: channels after each of the encoder's convolutions, which halve height and
        width; the decoder has them in reverse order.
    hidden_features : tuple of int, default=None
        Widths of hidden layers, of the encoder and, for rows, in reverse order of the decoder.
        None: (16,) for images, (128, 128) for rows.
    likelihood : {"auto", "bernoulli", "gaussian", "logistic"}, default="auto"
        p(x | z), independent over values. "bernoulli": values in [0, 1]; grey ones count as
        probabilities of white, and scores are then not those of a normalised distribution.
        "gaussian": with a learned standard deviation for each channel or feature. "logistic":
        discretised to `n_levels`, with a learned scale for each channel or feature. "auto":
        "logistic" for images, "gaussian" for rows.
    bound : {"importance", "elbo"}, default="importance"
        Lower bound on log p(x) that `score_samples` returns: the importance-weighted bound, or
        the training objective.
    n_importance_samples : int, default=64
        Draws of z per score, preferably a power of 2; each one costs a pass of the decoder.
    n_levels : int, default=256
        Number of values of a pixel, for the likelihood "logistic". Pixels are rounded to the
        nearest of `n_levels` equally spaced values in `value_range`.
    value_range : (float, float), "minmax" or None, default=None
        Values of black and white. None: 0..255 for uint8, 0..1 for floats, and an error for
        anything else. "minmax": the range of the training data, to which later data are clipped
        unless the likelihood is "gaussian". With "gaussian", rows are standardised instead unless
        a range is given.
    image_shape : (int, int, int) or None, default=None
        Shape (C, H, W) of images given as flat rows.

    Attributes
    ----------
    history_ : dict of str to list of float
        Negative bound of each epoch, in nats per item: "loss" and, with a validation part,
        "validation_loss".
    likelihood_ : str
        The likelihood that "auto" stands for.
    value_range_ : tuple of float or None
        Values of black and white; None for standardised rows.
    mean_, scale_ : ndarray of shape (d,)
        Mean and standard deviation of rows without a range of values.
    classes_ : ndarray of shape (n_classes,)
        Labels, if `conditional`.
    class_log_prior_ : ndarray of shape (n_classes,)
        Logarithm of their frequencies, if `conditional`.
    statistics_names : tuple of str
        Columns of `score_statistics`: "log_prob", the importance-weighted bound; "log_likelihood",
        the mean of log p(x | z) over q(z | x); "divergence", KL(q(z | x) || p(z)); "entropy", that
        of q(z | x); "cross_entropy", the mean of -log p(z) over q(z | x). A conditional model has
        the means of the last four over p(y | x).
    dtype_ : numpy dtype
        Dtype of the training data and of samples.

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

    n_latent: int = parameter(Interval(numbers.Integral, 1, None, closed="left"), default=8)
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

    @internal
    def generator(self) -> Generator:
        """Return the tensor interface to the fitted model, on its device.

        Returns
        -------
        Generator
        """
        module, device = self._ready()

        def encode(x: Tensor, class_indices: Tensor | None = None) -> tuple[Tensor, Tensor | None]:
            if self.conditional and class_indices is None:
                class_indices = self._bound_by_class(module, x).argmax(1)
            return module.encode(x, self._one_hot(class_indices))[0], class_indices

        def decode(z: Tensor, class_indices: Tensor | None) -> Tensor:
            return self._likelihood.location(module.decode(z, self._one_hot(class_indices)))

        return Generator(
            n_latent=self.n_latent,
            conditional=self.conditional,
            device=device,
            dtype=torch.float64
            if np.result_type(self.dtype_, np.float32) == np.float64
            else torch.float32,
            preprocessing=self._preprocessing,
            tensor=partial(self._tensor, device=device),
            encode=encode,
            decode=decode,
            class_indices=self._class_indices,
        )

    @internal
    def map_elbo(
        self,
        data: CheckedData,
        function: Callable[[nn.Module, Elbo, Tensor], Tensor],
        *,
        doing: str,
    ) -> npt.NDArray[np.float64]:
        """Apply a function of the network and its evidence lower bound to every item.

        For a model that is not conditional.

        Parameters
        ----------
        data : CheckedData
        function : callable
            Takes the network, whose ``encode(x, None)`` gives mean and log-variance of the latents;
            a function of items, mean, log-variance and points that gives the bound; and items as
            the network reads them. Gradients may be taken in it.
        doing : str
            What the progress bar says.
        """
        module, device = self._ready()

        def elbo(x: Tensor, mean: Tensor, log_variance: Tensor, points: Tensor) -> Tensor:
            return lower_bound(
                lambda z: self._log_likelihood(module, x, module.decode(z, None)),
                mean,
                log_variance,
                points,
                importance_weighted=False,
            )

        def of_items(items: npt.NDArray) -> Tensor:
            with torch.inference_mode(False), torch.enable_grad():
                return function(module, elbo, self._tensor(items, device).clone())

        return self._map_items(self._open(data, reset=False), of_items, doing)

    @internal
    def decoder(self) -> tuple[Callable[[Tensor], Tensor], torch.device]:
        """Return the differentiable map from latents to items in the units of X, and its device.

        Raises
        ------
        ValueError
            When the model is conditional, whose items depend on a class, too.
        """
        if self.conditional:
            raise ValueError("a conditional VAE has a decoder for each class; expected one of p(x)")
        model = self.generator()
        return lambda z: model.preprocessing.inverse(model.decode(z, None)), model.device

    def sample(
        self, n_samples: int = 1, random_state: int | np.random.RandomState | None = None
    ) -> npt.NDArray:
        """Draw items: z from its prior, then x from p(x | z).

        Parameters
        ----------
        n_samples : int, default=1
        random_state : int, RandomState instance or None, default=None

        Returns
        -------
        ndarray of shape (n_samples, C, H, W) or (n_samples, d)
            In the range and dtype of the training data. A conditional model draws the classes as
            they occur in training. `inverse_transform` of normal draws gives the same without the
            noise of p(x | z).
        """
        module, device = self._ready(n_samples)
        model = self.generator()
        generator = torch_rng(device, draw_seed(random_state), Stream.SAMPLES)
        drawn = []
        with torch.inference_mode():
            for start in range(0, n_samples, _SAMPLES_AT_ONCE):
                n = min(_SAMPLES_AT_ONCE, n_samples - start)
                z = torch.randn((n, self.n_latent), generator=generator, device=device)
                location = model.decode(z, self._draw_classes(n, generator))
                drawn.append(self._draw_items(module, location, generator))
        return self._in_training_dtype(np.concatenate(drawn))
