"""Autoencoder: a transformer to latents and back."""

from __future__ import annotations

import numbers
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn

from skood._checked_data import CheckedData
from skood._data import check_data
from skood._internal import internal
from skood._parameters import Interval, StrOptions, estimator, fit_context, parameter
from skood._torch.objective import Objective
from skood._torch.preprocessing import Learned, Preprocessing
from skood.density._base import NeuralModel
from skood.density._encoder_decoder import EncoderDecoder
from skood.density._latent_transformer import LatentSpace

__all__ = ["Autoencoder"]


@estimator
class Autoencoder(LatentSpace, NeuralModel):
    r"""Autoencoder: latents z = f(x), from which g(z) reconstructs x.

    An encoder f and a decoder g are trained to minimise

    .. math:: \frac{1}{n d} \sum_{i=1}^{n} \lVert g(f(x_i)) - x_i \rVert^2,

    the mean squared error [1]_ of the d values of n in-distribution items: pixels in [0, 1], or
    standardised features. Both are convolutional for images and dense for rows, and neither draws
    anything: an item has one code and one reconstruction. What is unlike the training data is
    mostly reconstructed worse, which detectors make use of [2]_.

    Parameters
    ----------
    n_latent : int, default=32
        Latent dimensions. Where there are as many as an item has values, it may just be copied.
    n_filters : tuple of int, default=(32, 64)
        For images: channels after each of the encoder's convolutions, which halve height and
        width; the decoder has them in reverse order.
    hidden_features : tuple of int, default=None
        Widths of the encoder's hidden layers, and in reverse order of the decoder's. None: none
        for images, (128, 128) for rows.
    value_range : (float, float), "minmax" or None, default=None
        Values of black and white. None: 0..255 for uint8 images, 0..1 for images of floats, and an
        error for other images; rows are standardised unless a range is given. "minmax": the range
        of the training data; later data may lie outside, and their reconstructions do not.
    image_shape : (int, int, int) or None, default=None
        Shape (C, H, W) of images given as flat rows.
    max_steps : int or None, default=10000
        Largest number of training steps.

    Attributes
    ----------
    history_ : dict of str to list of float
        Mean squared error of each epoch, "loss" and, with a validation part, "validation_loss":
        per value, of pixels in [0, 1] or of standardised features.
    value_range_ : tuple of float or None
        Values of black and white; None for standardised rows.
    mean_, scale_ : ndarray of shape (d,)
        Mean and standard deviation of rows without a range of values.

    See Also
    --------
    VAE : Density with a latent space.
    sklearn.decomposition.PCA : What an autoencoder without hidden layers learns.

    Notes
    -----
    Where values have a range, a sigmoid ends the decoder, so that reconstructions lie in it.
    Standardised rows have none, and without hidden layers their reconstruction is linear: the
    minimum of the loss is then the projection onto the `n_latent` leading principal components of
    the standardised rows [3]_.

    Dinari and Freifeld [2]_ have 32 latents for MNIST as well, but a larger network: five
    convolutions of 100 channels and no sigmoid, trained with Adam at a constant rate of 0.0001 on
    batches of 256. For CIFAR they take a ResNet-18.

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

    n_latent: int = parameter(Interval(numbers.Integral, 1, None, closed="left"), default=32)
    n_filters: tuple[int, ...] = parameter(tuple, list, default=(32, 64), kw_only=True)
    hidden_features: tuple[int, ...] | None = parameter(
        tuple, list, None, default=None, kw_only=True
    )
    value_range: tuple[float, float] | str | None = parameter(
        "array-like", StrOptions({"minmax"}), None, default=None, kw_only=True
    )
    image_shape: tuple[int, int, int] | None = parameter(
        "array-like", None, default=None, kw_only=True
    )
    max_steps: int | None = parameter(default=10_000, kw_only=True)

    value_range_ = Learned("value_range")
    mean_ = Learned("mean")
    scale_ = Learned("scale")

    def _open(self, X: Any, *, reset: bool) -> CheckedData:
        data = check_data(self, X, reset=reset, min_samples=2 if reset else 1)
        if reset:
            self._preprocessing = Preprocessing(
                self,
                data,
                image_shape=self.image_shape,
                value_range=self.value_range,
                has_range=None if self.value_range is None else True,
            )
            self._preprocessing.check_in_memory(data)
        return self._preprocessing.open(data)

    def _build(self, data: CheckedData) -> nn.Module:
        if self.value_range_ is None:
            self._preprocessing.learn_moments(data)
        hidden_features = self.hidden_features
        if hidden_features is None:
            hidden_features = () if data.is_image else (128, 128)
        network = AutoencoderNetwork(
            data.item_shape,
            self.n_latent,
            n_filters=self.n_filters,
            hidden_features=hidden_features,
            has_range=self.value_range_ is not None,
        )
        return network.to(memory_format=torch.channels_last) if data.is_image else network

    def _tensor(self, items: npt.NDArray, device: torch.device) -> Tensor:
        """Pixels in [0, 1], or standardised rows, float32."""
        x = self._preprocessing.tensor(items, device)
        return x.contiguous(memory_format=torch.channels_last) if x.ndim == 4 else x

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
        data = self._open(X, reset=True)
        self._train(
            data,
            lambda network, device: _ReconstructionObjective(network, self, data, device),
            description=type(self).__name__,
        )
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
            When X does not match that of `fit`, or is so large that a latent is not finite.
        """
        return self._finite(self._map(X, lambda module, x: module.encode(x), "encodes"), "X")

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
        Z = self._check_latents(Z)
        module, device = self._ready()

        def decode(latents: npt.NDArray) -> Tensor:
            z = torch.as_tensor(latents, dtype=torch.float32, device=device)
            return self._preprocessing.inverse(module.decode(z))

        return self._finite(self._map_items(CheckedData.of(Z), decode, "decodes"), "Z")

    @internal
    def decoder(self) -> tuple[Callable[[Tensor], Tensor], torch.device]:
        """Return the differentiable map from latents to items in the units of X, and its device."""
        module, device = self._ready()
        return lambda z: self._preprocessing.inverse(module.decode(z)), device

    def reconstruct(self, X: Any) -> npt.NDArray[np.float64]:
        """Encode and decode items.

        Parameters
        ----------
        X : array-like, Tensor or Dataset of shape (n_samples, ...)

        Returns
        -------
        ndarray of shape (n_samples, C, H, W) or (n_samples, d), float64
            What `inverse_transform` makes of the latents of X, in the units of X. Neither rounded
            nor cast where X holds integers.

        Raises
        ------
        ValueError
            When X does not match that of `fit`, or is so large that a value is not finite.
        """
        made = self._map(
            X, lambda module, x: self._preprocessing.inverse(module(x)), "reconstructs"
        )
        return self._finite(made, "X")


class AutoencoderNetwork(EncoderDecoder):
    """Encoder and decoder without noise; for values in [0, 1] the decoder ends in a sigmoid.

    Parameters
    ----------
    item_shape : tuple of int
        (C, H, W) or (d,).
    n_latent : int
    n_filters : sequence of int
        Channels after each convolution of the encoder, and in reverse order of the decoder.
    hidden_features : sequence of int
        Widths of the encoder's hidden layers, and in reverse order of the decoder's.
    has_range : bool
        Whether items are values in [0, 1]; standardised rows otherwise.
    """

    def __init__(
        self,
        item_shape: tuple[int, ...],
        n_latent: int,
        *,
        n_filters: Sequence[int],
        hidden_features: Sequence[int],
        has_range: bool,
    ) -> None:
        super().__init__(
            item_shape,
            n_latent,
            n_latent,
            n_filters=n_filters,
            encoder_features=hidden_features,
            decoder_features=hidden_features[::-1],
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


class _ReconstructionObjective(Objective):
    """Mean squared error of the reconstruction of an item, per value."""

    def __init__(
        self,
        network: nn.Module,
        autoencoder: Autoencoder,
        data: CheckedData,
        device: torch.device,
    ) -> None:
        super().__init__()
        self.network = network
        self.autoencoder = autoencoder
        self.data = data
        self.device = device
        self.reads_slowly = not data.in_memory

    def read(self, rows: npt.NDArray[np.integer]) -> npt.NDArray:
        return self.data.take(rows)

    def prepare(self, items: npt.NDArray, generator: torch.Generator | None) -> tuple[Tensor, ...]:
        return (self.autoencoder._tensor(items, self.device),)

    def loss(self, *batch: Tensor) -> Tensor:
        (x,) = batch
        return (self.network(x) - x).square().flatten(1).mean(1)
