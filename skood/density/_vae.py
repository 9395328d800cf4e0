"""Variational autoencoder: a density with a latent space."""

from __future__ import annotations

import math
import numbers
from collections.abc import Callable
from functools import lru_cache
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
import torch.nn.functional as F
from sklearn.base import ClassNamePrefixFeaturesOutMixin, TransformerMixin
from sklearn.utils import Tags, check_array
from sklearn.utils.validation import check_is_fitted, column_or_1d
from torch import Tensor, nn

from skood._data import Source, check_data
from skood._parameters import Interval, StrOptions
from skood._torch.batching import map_batches, scoring_batch_size
from skood._torch.seeding import draw_seed, torch_rng
from skood.density._base import NeuralDensity, standardization, swap_columns
from skood.density._logistic_mixture import level_log_prob
from skood.density._vae_network import VAENetwork

__all__ = ["VAE"]

# Items that `sample` draws together.
_SAMPLES_AT_ONCE = 1024


class VAE(ClassNamePrefixFeaturesOutMixin, TransformerMixin, NeuralDensity):
    r"""Variational autoencoder, p(x) = integral of p(x | z) N(z; 0, I) over z.

    The encoder's q(z | x) is a normal law with a diagonal covariance. Training maximises

    .. math:: \mathbb{E}_{q(z|x)} \log p(x|z) - \mathrm{KL}(q(z|x) \,\|\, \mathcal{N}(0, I))

    with one draw of z for each item and step (Kingma and Welling 2014, equation 10).

    Parameters
    ----------
    n_latent : int, default=8
        Latent dimensions.
    n_filters : tuple of int, default=(32, 64)
        For images: channels after each of the encoder's convolutions, which halve height and
        width; the decoder has them in reverse order.
    hidden_features : tuple of int, default=None
        Widths of hidden layers, of the encoder and, for rows, in reverse order of the decoder.
        None: (16,) for images, (128, 128) for rows.
    likelihood : {"auto", "bernoulli", "gaussian", "logistic"}, default="auto"
        p(x | z), independent over values. "bernoulli": values in [0, 1]; grey ones are taken as
        probabilities, for which it is no normalised law. "gaussian": with a learned standard
        deviation for each channel or feature. "logistic": discretised to `n_levels`, with a
        learned scale for each channel or feature. "auto": "logistic" for images, "gaussian" for
        rows.
    conditional : bool, default=False
        Model p(x | y): `fit` then needs y. Scores are those of the mixture over the classes,
        weighted as they occur in training.
    bound : {"importance", "elbo"}, default="importance"
        Lower bound on log p(x) that `score_samples` returns: the importance-weighted one, or the
        one of training.
    n_importance_samples : int, default=64
        Draws of z that a score takes, best a power of 2; each one costs a pass of the decoder.
    sample_latents : bool, default=True
        Whether training draws z. False trains on the mean of q(z | x), as the released code of
        OODGen [3]_ does.
    n_levels : int, default=256
        Values that a pixel can take, of the likelihood "logistic". Pixels are rounded to the
        nearest of as many equally spaced values in `value_range`.
    value_range : (float, float), "minmax" or None, default=None
        Values of black and white. None: 0..255 for uint8, 0..1 for floats, and an error for
        anything else. "minmax": the range of the training data, to which later data are clipped
        unless the likelihood is "gaussian". Rows with that one have no range unless it is given,
        and are standardised instead.
    image_shape : (int, int, int) or None, default=None
        Shape (C, H, W) of images that come as flat rows.
    learning_rate : float, default=0.001
        At its highest.
    lr_schedule : {"cosine", "exponential", "constant"}, default="constant"
        "cosine" warms up and decays to 1 % of `learning_rate`; "exponential" multiplies it by
        `lr_decay` after every step.
    patience : int or None, default=5
        Epochs without a lower validation loss after which training stops.
    **training
        As in :class:`~skood.density.NeuralDensity`.

    Attributes
    ----------
    module_ : torch.nn.Module
        The trained network.
    history_ : dict of str to list of float
        Negative bound of each epoch, in nats per item: "loss" and, with a validation part,
        "validation_loss".
    likelihood_ : str
        The likelihood that "auto" stands for.
    value_range_ : tuple of float or None
        Values of black and white; None for standardised rows.
    mean_, scale_ : ndarray of shape (d,)
        What rows without a range of values are standardised by.
    classes_ : ndarray of shape (n_classes,)
        Labels, if `conditional`.
    class_log_prior_ : ndarray of shape (n_classes,)
        Logarithm of their frequencies, if `conditional`.
    dtype_ : numpy dtype
        Of the training data, which samples are given in.
    input_shape_ : tuple of int
        Shape of an item, (C, H, W) or (d,).
    n_features_in_ : int
        Values in an item.

    See Also
    --------
    PixelCNN : Exact density of images.
    skood.training_time.BoundarySampler : Out-of-distribution samples from a VAE.

    Notes
    -----
    A score is a lower bound: with z_k from q(z | x),

    .. math:: \log p(x) \ge \log \frac{1}{K} \sum_k \frac{p(x|z_k) \, p(z_k)}{q(z_k|x)}

    in expectation, the tighter the larger K is [2]_. The draws are K scrambled Sobol points,
    the same for every item, so that a score does not depend on what is scored beside it. Scores
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

    _parameter_constraints: dict = {
        **NeuralDensity._parameter_constraints,
        "n_latent": [Interval(numbers.Integral, 1, None, closed="left")],
        "n_filters": [tuple, list],
        "hidden_features": [tuple, list, None],
        "likelihood": [StrOptions({"auto", "bernoulli", "gaussian", "logistic"})],
        "conditional": ["boolean"],
        "bound": [StrOptions({"importance", "elbo"})],
        "n_importance_samples": [Interval(numbers.Integral, 1, None, closed="left")],
        "sample_latents": ["boolean"],
        "n_levels": [Interval(numbers.Integral, 2, None, closed="left")],
        "value_range": ["array-like", StrOptions({"minmax"}), None],
        "image_shape": ["array-like", None],
    }

    def __init__(
        self,
        n_latent: int = 8,
        *,
        n_filters: tuple[int, ...] = (32, 64),
        hidden_features: tuple[int, ...] | None = None,
        likelihood: str = "auto",
        conditional: bool = False,
        bound: str = "importance",
        n_importance_samples: int = 64,
        sample_latents: bool = True,
        n_levels: int = 256,
        value_range: tuple[float, float] | str | None = None,
        image_shape: tuple[int, int, int] | None = None,
        learning_rate: float = 1e-3,
        lr_schedule: str = "constant",
        patience: int | None = 5,
        **training: Any,
    ) -> None:
        super().__init__(
            learning_rate=learning_rate, lr_schedule=lr_schedule, patience=patience, **training
        )
        self.n_latent = n_latent
        self.n_filters = n_filters
        self.hidden_features = hidden_features
        self.likelihood = likelihood
        self.conditional = conditional
        self.bound = bound
        self.n_importance_samples = n_importance_samples
        self.sample_latents = sample_latents
        self.n_levels = n_levels
        self.value_range = value_range
        self.image_shape = image_shape

    def _open(self, X: Any, *, reset: bool) -> Source:
        source = check_data(self, X, reset=reset, min_samples=2 if reset else 1)
        if self.image_shape is not None and not source.is_image:
            source = source.reshape(tuple(self.image_shape))
        if reset:
            self.dtype_ = source.dtype
            self.likelihood_ = self.likelihood
            if self.likelihood == "auto":
                self.likelihood_ = "logistic" if source.is_image else "gaussian"
        if source.is_image or self.likelihood_ != "gaussian" or self.value_range is not None:
            self._set_value_range(source, reset=reset)
        elif reset:
            self.value_range_ = None
        # What is in memory is checked before training starts, what is streamed on the way.
        for items in source.chunks() if reset and source.in_memory else ():
            self._check_range(items)
        return source

    def _build(self, source: Source) -> nn.Module:
        if self.value_range_ is None:
            self.mean_, self.scale_ = standardization(source.rows())
        hidden_features = self.hidden_features
        if hidden_features is None:
            hidden_features = (16,) if source.is_image else (128, 128)
        initial_scale = None
        if self.likelihood_ != "bernoulli":
            initial_scale = 0.5 if self.value_range_ is None else 0.1
        network = VAENetwork(
            source.item_shape,
            self.n_latent,
            n_filters=self.n_filters,
            hidden_features=hidden_features,
            n_classes=len(self.classes_) if self.conditional else 0,
            initial_scale=initial_scale,
        )
        return network.to(memory_format=torch.channels_last) if source.is_image else network

    def _tensor(self, items: npt.NDArray, device: torch.device) -> Tensor:
        """Values in [0, 1], or standardised rows, float32."""
        if self.value_range_ is None:
            rows = (items.astype(np.float64) - self.mean_) / self.scale_
            return torch.as_tensor(rows, dtype=torch.float32, device=device)
        x = self._unit_pixels(items, device)
        if self.likelihood_ != "gaussian":
            # Beyond black and white, where "minmax" lets later data be, the others are no law.
            x = x.clamp(0, 1)
        return x.contiguous(memory_format=torch.channels_last) if x.ndim == 4 else x

    def _in_units_of_x(self, x: npt.NDArray) -> npt.NDArray:
        """Inverse of `_tensor`, in the shape of the items of X."""
        if self.value_range_ is None:
            return self.mean_ + self.scale_ * x
        low, high = self.value_range_
        # White is `high` to the last digit, so that what is drawn lies in the range.
        return (low * (1 - x) + high * x).reshape(len(x), *self.input_shape_)

    def _mutate(self, x: Tensor, source: Source, generator: torch.Generator) -> Tensor:
        if self.value_range_ is None:
            donors = torch.randint(len(source), (len(x),), generator=generator, device=x.device)
            values = self._tensor(source.take(donors.cpu().numpy()), x.device)
            return swap_columns(x, values, self.mutation_rate, generator)
        kept = torch.rand(x.shape, generator=generator, device=x.device) >= self.mutation_rate
        return torch.where(kept, x, torch.rand(x.shape, generator=generator, device=x.device))

    def _one_hot(self, condition: Tensor | None) -> Tensor | None:
        return None if condition is None else F.one_hot(condition, len(self.classes_)).float()

    def _location(self, raw: Tensor) -> Tensor:
        """Location of p(x | z) from what the decoder puts out."""
        return raw if self.value_range_ is None else raw.sigmoid()

    def _decoder(self, module: nn.Module, z: Tensor, condition: Tensor | None) -> Tensor:
        r"""Location of p(x | z, y), shape (b, \*item_shape)."""
        return self._location(module.decode(z, self._one_hot(condition)))

    def _log_likelihood(self, module: nn.Module, x: Tensor, raw: Tensor) -> Tensor:
        """Log p(x | z) in nats, shape (b,), float64, from what the decoder puts out."""
        with torch.autocast(x.device.type, enabled=False):
            raw = raw.float()
            if self.likelihood_ == "bernoulli":
                log_prob = -F.binary_cross_entropy_with_logits(raw, x, reduction="none")
            elif self.likelihood_ == "gaussian":
                scale = module.scale()
                residual = (x - self._location(raw)) / scale
                unit = self.scale_ if self.value_range_ is None else np.diff(self.value_range_)
                unit = torch.as_tensor(unit, dtype=x.dtype, device=x.device)
                log_prob = -0.5 * (residual.square() + math.log(2 * math.pi)) - (scale * unit).log()
            else:
                levels = self.n_levels - 1
                scale = levels * module.scale()
                log_prob = level_log_prob(
                    (levels * x).round(), levels * self._location(raw), scale, self.n_levels
                )
            return log_prob.flatten(1).double().sum(1)

    def _log_prob(self, module: nn.Module, x: Tensor, condition: Tensor | None) -> Tensor:
        """Evidence lower bound with one draw of z, shape (b,)."""
        one_hot = self._one_hot(condition)
        mean, log_variance = module.encode(x, one_hot)
        if module.training:
            noise = torch.randn_like(mean)
        else:
            points = _normal_points(self.n_importance_samples, self.n_latent).to(x.device)
            noise = points[torch.arange(len(x), device=x.device) % len(points)]
        z = mean + (log_variance / 2).exp() * noise if self.sample_latents else mean
        log_likelihood = self._log_likelihood(module, x, module.decode(z, one_hot))
        return log_likelihood - _divergence(mean, log_variance)

    def _bound(self, module: nn.Module, x: Tensor, condition: Tensor | None) -> Tensor:
        """Lower bound on log p(x | y) from `n_importance_samples` draws, shape (b,), float64."""
        one_hot = self._one_hot(condition)
        mean, log_variance = module.encode(x, one_hot)
        log_weights, log_likelihoods = [], []
        for noise in _normal_points(self.n_importance_samples, self.n_latent).to(x.device):
            z = mean + (log_variance / 2).exp() * noise
            log_likelihoods.append(self._log_likelihood(module, x, module.decode(z, one_hot)))
            # log p(z) - log q(z | x), whose constants cancel.
            ratio = 0.5 * (noise.square() + log_variance - z.square()).double().sum(1)
            log_weights.append(log_likelihoods[-1] + ratio)
        if self.bound == "elbo":
            return torch.stack(log_likelihoods).mean(0) - _divergence(mean, log_variance)
        return torch.stack(log_weights).logsumexp(0) - math.log(len(log_weights))

    def _joint(self, module: nn.Module, x: Tensor) -> Tensor:
        """Bounds on log p(x, y) for each class, shape (b, n_classes)."""
        classes = torch.arange(len(self.classes_), device=x.device)
        bounds = torch.stack([self._bound(module, x, k.expand(len(x))) for k in classes], 1)
        return bounds + torch.as_tensor(self.class_log_prior_, device=x.device)

    def _marginal(self, module: nn.Module, x: Tensor) -> Tensor:
        if self.conditional:
            return self._joint(module, x).logsumexp(1)
        return self._bound(module, x, None)

    def _numbers(self, y: Any, n_items: int) -> npt.NDArray[np.int64] | None:
        """Class numbers of labels, for a conditional model that is given some."""
        if not self.conditional or y is None:
            return None
        y = column_or_1d(y, warn=True)
        if len(y) != n_items:
            raise ValueError(f"y has {len(y)} labels for {n_items} items; expected one for each")
        unknown = np.setdiff1d(y, self.classes_)
        if len(unknown):
            raise ValueError(
                f"y has the labels {unknown[:5]}, which y had not in fit; expected some of "
                f"{self.classes_}"
            )
        return np.searchsorted(self.classes_, y)

    def _posterior_mean(
        self, module: nn.Module, x: Tensor, condition: Tensor | None
    ) -> tuple[Tensor, Tensor | None]:
        """Mean of q(z | x, y) and the class numbers, the most probable ones if none are given."""
        if self.conditional and condition is None:
            condition = self._joint(module, x).argmax(1)
        return module.encode(x, self._one_hot(condition))[0], condition

    def _map_labelled(
        self,
        source: Source,
        y: Any,
        function: Callable[[nn.Module, npt.NDArray, Tensor | None], Tensor],
        description: str,
    ) -> npt.NDArray:
        """Apply a function of the network, items and class numbers to everything in `source`."""
        module, device = self._ready()
        numbers_ = self._numbers(y, len(source))

        def read(rows: npt.NDArray) -> Tensor:
            condition = None
            if numbers_ is not None:
                condition = torch.as_tensor(numbers_[rows[:, 0]], device=device)
            return function(module, source.take(rows[:, 0]), condition)

        return map_batches(
            read,
            Source.of(np.arange(len(source))[:, None]),
            scoring_batch_size(device),
            verbose=self.verbose,
            description=f"{type(self).__name__} {description}",
        )

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
        check_is_fitted(self)

        def mean(module: nn.Module, items: npt.NDArray, condition: Tensor | None) -> Tensor:
            x = self._tensor(items, next(module.parameters()).device)
            return self._posterior_mean(module, x, condition)[0].double()

        return self._map_labelled(self._open(X, reset=False), y, mean, "encodes")

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
            Location of p(x | z) in the units of X: its mean, where the likelihood is not
            discretised.

        Raises
        ------
        ValueError
            When a conditional model is not given labels, or Z has another number of columns.
        """
        check_is_fitted(self)
        Z = check_array(Z, dtype=np.float64, input_name="Z")
        if Z.shape[1] != self.n_latent:
            raise ValueError(f"Z has {Z.shape[1]} columns; expected n_latent={self.n_latent}")
        if self.conditional and y is None:
            raise ValueError(
                "a conditional VAE decodes latents given classes; give y, the labels to decode for"
            )

        def decode(module: nn.Module, z: npt.NDArray, condition: Tensor | None) -> Tensor:
            device = next(module.parameters()).device
            latents = torch.as_tensor(z, dtype=torch.float32, device=device)
            return self._decoder(module, latents, condition)

        decoded = self._map_labelled(Source.of(Z), y, decode, "decodes")
        return self._in_units_of_x(decoded.astype(np.float64))

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
        check_is_fitted(self)

        def decode(module: nn.Module, items: npt.NDArray, condition: Tensor | None) -> Tensor:
            x = self._tensor(items, next(module.parameters()).device)
            return self._decoder(module, *self._posterior_mean(module, x, condition))

        decoded = self._map_labelled(self._open(X, reset=False), y, decode, "reconstructs")
        return self._in_units_of_x(decoded.astype(np.float64))

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
        generator = torch_rng(device, draw_seed(random_state))
        drawn = []
        with torch.inference_mode():
            for start in range(0, n_samples, _SAMPLES_AT_ONCE):
                n = min(_SAMPLES_AT_ONCE, n_samples - start)
                z = torch.randn((n, self.n_latent), generator=generator, device=device)
                condition = self._draw_classes(n, generator)
                drawn.append(self._draw(module, self._decoder(module, z, condition), generator))
        values = self._in_units_of_x(torch.cat(drawn).double().cpu().numpy())
        if self.dtype_.kind in "biu":
            # Draws of standardised rows may lie beyond what the dtype holds.
            info = None if self.dtype_.kind == "b" else np.iinfo(self.dtype_)
            values = values.round().clip(*((info.min, info.max) if info else (0, 1)))
        return values.astype(self.dtype_)

    def _draw(self, module: nn.Module, location: Tensor, generator: torch.Generator) -> Tensor:
        """Draw from p(x | z)."""
        if self.likelihood_ == "bernoulli":
            return torch.bernoulli(location, generator=generator)
        scale = module.scale()
        if self.likelihood_ == "gaussian":
            noise = torch.randn(location.shape, generator=generator, device=location.device)
            drawn = location + scale * noise
            # What is given as pixels stays in their range.
            return drawn if self.value_range_ is None else drawn.clamp(0, 1)
        uniform = torch.rand(location.shape, generator=generator, device=location.device)
        levels = self.n_levels - 1
        drawn = location + scale * torch.logit(uniform, eps=1e-7)
        return (drawn * levels).round().clamp(0, levels) / levels

    @property
    def _n_features_out(self) -> int:
        return self.n_latent

    def __sklearn_tags__(self) -> Tags:
        tags = super().__sklearn_tags__()
        tags.input_tags.three_d_array = True
        # Latents are float64.
        tags.transformer_tags.preserves_dtype = []
        return tags


def _divergence(mean: Tensor, log_variance: Tensor) -> Tensor:
    """KL divergence of N(mean, variance) from N(0, I) in nats, shape (b,)."""
    mean, log_variance = mean.double(), log_variance.double()
    return 0.5 * (mean.square() + log_variance.exp() - 1 - log_variance).sum(1)


@lru_cache(maxsize=8)
def _normal_points(n_points: int, n_dimensions: int) -> Tensor:
    """Scrambled Sobol points of a standard normal law, shape (n_points, n_dimensions)."""
    # What is made in inference mode could not be differentiated through when it is used again.
    with torch.inference_mode(False):
        engine = torch.quasirandom.SobolEngine(n_dimensions, scramble=True, seed=0)
        uniform = engine.draw(n_points, dtype=torch.float64).clamp(1e-9, 1 - 1e-9)
        return torch.special.ndtri(uniform).float()
