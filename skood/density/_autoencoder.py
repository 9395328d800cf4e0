"""Autoencoder: a transformer to latents and back."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn

from skood._data.checked_data import CheckedData
from skood._estimator.internal import internal
from skood._estimator.parameters import at_least, estimator, fit_context, parameter
from skood._torch.preprocessing import Preprocessing
from skood.density._base import NeuralModel
from skood.density._encoder_decoder import EncoderDecoder
from skood.density._latent_space import LatentSpace
from skood.density._pixels import ImageOrRowParameters

__all__ = ["Autoencoder"]


@estimator
class Autoencoder(ImageOrRowParameters, LatentSpace, NeuralModel):
    r"""Autoencoder: latents z = f(x), from which g(z) reconstructs x.

    An encoder f and a decoder g are trained to minimise

    .. math:: \frac{1}{n d} \sum_{i=1}^{n} \lVert g(f(x_i)) - x_i \rVert^2,

    the mean squared error [1]_ of the d values of n in-distribution items: pixels in [0, 1], or
    standardised features. Both are convolutional for images and dense for rows, and deterministic.
    Items unlike the training data mostly have a larger error, which detectors use [2]_.

    Parameters
    ----------
    n_latent : int, default=32
        Latent dimensions; fewer than values of an item, which could otherwise just be copied.
    n_filters : tuple of int, default=(32, 64)
        For images: channels after each of the encoder's convolutions, which halve height and
        width; the decoder has them in reverse order.
    hidden_features : tuple of int, default=None
        Widths of the hidden layers of the encoder and, in reverse order, of the decoder. None: no
        hidden layers for images, (128, 128) for rows.
    value_range : (float, float), "minmax" or None, default=None
        Values of black and white. None: 0..255 for uint8 images, 0..1 for images of floats, and an
        error for other images; rows are standardised unless a range is given. "minmax": the range
        of the training data; later data may lie outside, and their reconstructions do not.

    Attributes
    ----------
    history_ : dict of str to list of float
        Mean squared error of each epoch, "loss" and, where rows were held out, "validation_loss":
        per value, of pixels in [0, 1] or of standardised features.

    See Also
    --------
    VAE : Density with a latent space.
    sklearn.decomposition.PCA : Equivalent to an autoencoder without hidden layers.

    Notes
    -----
    If values have a range, the decoder ends in a sigmoid, so that reconstructions lie in the range.
    For standardised rows, the reconstruction without hidden layers is linear: the minimum of the
    loss is then the projection onto the `n_latent` leading principal components of the
    standardised rows [3]_.

    Dinari and Freifeld [2]_ also use 32 latents for MNIST, but a larger network: five convolutions
    of 100 channels and no sigmoid, trained with Adam at a constant rate of 0.0001 on batches of
    256. For CIFAR they use a ResNet-18.

    References
    ----------
    .. [1] G. E. Hinton and R. R. Salakhutdinov, "Reducing the Dimensionality of Data with Neural
       Networks", Science 313, 2006.
    .. [2] O. Dinari and O. Freifeld, "Variational- and Metric-based Deep Latent Space for
       Out-of-Distribution Detection", UAI 2022.
    .. [3] P. Baldi and K. Hornik, "Neural Networks and Principal Component Analysis: Learning from
       Examples Without Local Minima", Neural Networks 2, 1989.

    Examples
    --------
    >>> from sklearn.datasets import load_digits
    >>> from skood.density import Autoencoder
    >>> digits = load_digits().images
    >>> autoencoder = Autoencoder(8, value_range=(0, 16), max_epochs=2, random_state=0).fit(digits)
    >>> Z = autoencoder.transform(digits[:3])
    >>> Z.shape, autoencoder.inverse_transform(Z).shape
    ((3, 8), (3, 1, 8, 8))
    """

    n_latent: int = parameter(at_least(1), default=32)
    n_filters: tuple[int, ...] = parameter(tuple, list, default=(32, 64), kw_only=True)
    hidden_features: tuple[int, ...] | None = parameter(
        tuple, list, None, default=None, kw_only=True
    )
    max_steps: int | None = parameter(default=10_000, kw_only=True)

    def _make_preprocessing(self, data: CheckedData) -> Preprocessing:
        return Preprocessing(
            self,
            data,
            image_shape=self.image_shape,
            value_range=self.value_range,
            has_range=None if self.value_range is None else True,
        )

    def _learn(self, data: CheckedData) -> None:
        if self.value_range_ is None:
            self._preprocessing.learn_moments(data)

    def _make_network(self, item_shape: tuple[int, ...]) -> nn.Module:
        is_image = len(item_shape) == 3
        hidden_features = self.hidden_features
        if hidden_features is None:
            hidden_features = () if is_image else (128, 128)
        network = AutoencoderNetwork(
            item_shape,
            self.n_latent,
            n_filters=self.n_filters,
            hidden_features=hidden_features,
            has_range=self.value_range_ is not None,
        )
        return network.to(memory_format=torch.channels_last) if is_image else network

    def _tensor(self, items: npt.NDArray, device: torch.device) -> Tensor:
        """Pixels in [0, 1], or standardised rows, float32."""
        x = self._preprocessing.tensor(items, device)
        return x.contiguous(memory_format=torch.channels_last) if x.ndim == 4 else x

    def _loss(self, network: nn.Module, x: Tensor, class_indices: Tensor | None = None) -> Tensor:
        """Compute the mean squared error of the reconstruction of each item, (b,)."""
        return (network(x) - x).square().flatten(1).mean(1)

    @fit_context(prefer_skip_nested_validation=True)
    def fit(self, X: Any, y: Any = None) -> Autoencoder:
        """Train the autoencoder.

        Parameters
        ----------
        X : array-like, Tensor or Dataset of shape (n_samples, ...)
            In-distribution data: rows (n, d) or images (n, H, W), (n, C, H, W) or (n, H, W, C).
        y : ignored

        Returns
        -------
        self

        Raises
        ------
        ValueError
            When X is invalid, or pixels lie outside their range.
        """
        self._train(self._open(X, reset=True), description=type(self).__name__)
        return self

    def transform(self, X: Any) -> npt.NDArray[np.float64]:
        """Encode items.

        Parameters
        ----------
        X : array-like, Tensor or Dataset of shape (n_samples, ...)

        Returns
        -------
        ndarray of shape (n_samples, n_latent), float64
            Latents, the same for an item whatever batch it is encoded in.

        Raises
        ------
        ValueError
            When X does not match the X of `fit`, or is so large that a latent is not finite.
        """
        latents = self.map(X, lambda module, x: module.encode(x), doing="encodes")
        return self._finite(latents, "X")

    def inverse_transform(self, Z: Any) -> npt.NDArray[np.float64]:
        """Decode latents.

        Parameters
        ----------
        Z : array-like of shape (n_samples, n_latent)

        Returns
        -------
        ndarray of shape (n_samples, C, H, W) or (n_samples, d), float64
            In the units of X; within `value_range_`, where there is one.

        Raises
        ------
        ValueError
            When Z has another number of columns, or is so large that an item is not finite.
        """
        decoded = self._map_latents(self._check_latents(Z), self._decode)
        return self._finite(decoded, "Z")

    def _decode(self, module: nn.Module, z: Tensor) -> Tensor:
        """Decode latents to items in the units of X."""
        return self._preprocessing.inverse(module.decode(z))

    @internal
    def decoder(self) -> tuple[Callable[[Tensor], Tensor], torch.device]:
        """Return the differentiable map from latents to items in the units of X, and its device."""
        module, device = self._ready()
        return partial(self._decode, module), device

    def reconstruct(self, X: Any) -> npt.NDArray[np.float64]:
        """Encode and decode items.

        Parameters
        ----------
        X : array-like, Tensor or Dataset of shape (n_samples, ...)

        Returns
        -------
        ndarray of shape (n_samples, C, H, W) or (n_samples, d), float64
            ``inverse_transform(transform(X))``, in the units of X. Neither rounded nor cast where X
            holds integers.

        Raises
        ------
        ValueError
            When X does not match the X of `fit`, or is so large that a value is not finite.
        """
        items = self.map(
            X, lambda module, x: self._decode(module, module.encode(x)), doing="reconstructs"
        )
        return self._finite(items, "X")


class AutoencoderNetwork(EncoderDecoder):
    """Encoder and decoder without noise; for values in [0, 1] the decoder ends in a sigmoid.

    Parameters
    ----------
    item_shape : tuple of int
        (C, H, W) or (d,).
    n_latent : int
    hidden_features : sequence of int
        Widths of the hidden layers of the encoder and, in reverse order, of the decoder.
    has_range : bool
        Whether items are values in [0, 1]; standardised rows otherwise.
    **settings : object
        As in `EncoderDecoder`.
    """

    def __init__(
        self,
        item_shape: tuple[int, ...],
        n_latent: int,
        *,
        hidden_features: Sequence[int],
        has_range: bool,
        **settings: Any,
    ) -> None:
        super().__init__(
            item_shape,
            n_latent,
            n_latent,
            encoder_features=hidden_features,
            decoder_features=hidden_features[::-1],
            **settings,
        )
        self.has_range = has_range

    def encode(self, x: Tensor) -> Tensor:
        """Latents, shape (b, n_latent)."""
        return self.encoded(x)

    def decode(self, z: Tensor) -> Tensor:
        r"""Reconstruction, shape (b, \*item_shape), float32."""
        raw = self.decoded(z).float()
        return raw.sigmoid() if self.has_range else raw

    def forward(self, x: Tensor) -> Tensor:
        """Reconstruct x."""
        return self.decode(self.encode(x))
