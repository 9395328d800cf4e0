"""PixelCNN++: an autoregressive density of images."""

from __future__ import annotations

import numbers
from functools import partial
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
import torch.nn.functional as F
from sklearn.utils.metaestimators import available_if
from torch import Tensor, nn

from skood._data.checked_data import CheckedData
from skood._estimator.parameters import (
    POSITIVE,
    Interval,
    StrOptions,
    at_least,
    estimator,
    parameter,
)
from skood._progress import tracked
from skood._torch.preprocessing import Learned, Preprocessing
from skood.density import _logistic_mixture as mixture
from skood.density._neural_density import NeuralDensity, sum_over_item
from skood.density._pixelcnn_network import PixelCNNLayer, PixelCNNNetwork
from skood.density._pixels import ImageParameters

__all__ = ["PixelCNN"]


@estimator
class PixelCNN(ImageParameters, NeuralDensity):
    r"""PixelCNN++ density of images, log p(x) = sum over pixels of log p(x_i | x_<i).

    Each pixel is a mixture of discretised logistic distributions whose parameters a causal
    convolutional network reads from the pixels above it and to its left; the channels of a
    pixel depend on each other linearly.

    Parameters
    ----------
    n_filters : int, default=32
        Number of features of each of the two streams.
    n_resnet : int, default=2
        Gated residual blocks in a hierarchy, in each of the downward and the upward pass; 5 in
        [2]_. The receptive field and the time of a step grow in proportion.
    n_hierarchies : int, default=1
        Number of resolutions; each one after the first halves height and width.
    n_components : int, default=1
        Number of logistic distributions in the mixture of a pixel.
    dropout : float, default=0.0
        Rate of dropout inside the residual blocks, in training.
    weight_norm : bool, default=False
        Weight normalisation, initialised so that on the first batch every layer's output has
        mean 0 and variance 1 (Salimans and Kingma 2016).
    min_scale : float, default=0.116
        Smallest scale of a logistic distribution, in levels. A pixel k levels from its prediction
        costs up to k / `min_scale` nats; without a limit, a few pixels would decide the score of an
        image. The default is e^-7 in units of [-1, 1], as in the released code of [2]_ for colour
        images; for grey images the code has 0.25. On Fashion-MNIST, 0.00001, 0.116 and 0.25 give
        the same bits per dimension and the same AUROCs (page "Benchmarks").
    pixel_origin : {"auto", "black", "grey"}, default="auto"
        Pixel that the network reads as 0, which is also the value with which its convolutions pad
        an image. "black" rescales pixels to [0, 4), x / 64 for 256 levels x; apart from the factor,
        the Fashion-MNIST models of [2]_ read pixels in this way (``rescale_pixel_value=False``).
        "grey" rescales them to [-1, 1], as the CIFAR-10 models of [2]_ and TensorFlow Probability's
        ``PixelCNN`` do. "auto" is "black" for images with one channel, and "grey" for others. The
        means and the channel coefficients have the same origin and unit. In short trainings of
        small networks, "black" has 0.10 and 0.15 fewer bits per dimension than "grey" on
        Fashion-MNIST and MNIST at 14 x 14 pixels, but 0.08 more on grey photographs and 1.4 more on
        colour photographs (CIFAR-10 at 16 x 16): for photographs with one channel, choose "grey".
    n_levels : int, default=256
        Number of values of a sub-pixel. Pixels are rounded to the nearest of `n_levels` equally
        spaced values in `value_range`.
    image_shape : (int, int, int), "row" or None, default=None
        Shape (C, H, W) of images given as flat rows. "row" models a row of d values as an ordered
        sequence, an image of shape (1, 1, d).
    max_steps : int or None, default=1600
        Largest number of training steps. The default is for a first result; see Notes.

    Attributes
    ----------
    history_ : dict of str to list of float
        Loss of each epoch, in nats per image: "loss" and, where images were held out,
        "validation_loss".
    classes_ : ndarray of shape (n_classes,)
        Labels, if `conditional`.
    class_log_prior_ : ndarray of shape (n_classes,)
        Logarithm of their frequencies, if `conditional`.
    image_shape_ : tuple of int
        (C, H, W).
    pixel_origin_ : {"black", "grey"}
        Pixel that the network reads as 0.
    statistics_names : tuple of str
        Columns of `score_statistics`: "log_prob", log p(x); "entropy", the summed entropies of the
        predicted distributions of the sub-pixels, which is -log p(x) on average for samples of the
        model. A conditional model has the mean of "entropy" over p(y | x).

    See Also
    --------
    skood.likelihood.LikelihoodRatio : Divides by the density of a background model.

    Notes
    -----
    The defaults are for a first result: images of 28 x 28 pixels take 6 to 7 minutes on two cores
    without bfloat16. For a better density raise `max_steps` first, to 20 000 for instance, with
    enough `max_epochs`, then `n_resnet` to 5. Ren et al. [2]_ train ``n_resnet=5, batch_size=32``
    for 50 000 steps.

    The network is TensorFlow Probability's ``PixelCNN``, with padded and shifted input instead of
    masked kernels. The channel coefficients act on rescaled pixels, in the units of the means. A
    density of images gives simple images high values whether or not they are in-distribution [3]_;
    see :class:`~skood.likelihood.LikelihoodRatio`.

    References
    ----------
    .. [1] T. Salimans, A. Karpathy, X. Chen, D. Kingma, "PixelCNN++", ICLR 2017.
    .. [2] J. Ren et al., "Likelihood Ratios for Out-of-Distribution Detection", NeurIPS 2019.
    .. [3] E. Nalisnick et al., "Do Deep Generative Models Know What They Don't Know?",
       ICLR 2019.

    Examples
    --------
    >>> from sklearn.datasets import load_digits
    >>> from skood.density import PixelCNN
    >>> digits = load_digits().images
    >>> density = PixelCNN(
    ...     n_filters=4, n_resnet=1, n_levels=17, value_range=(0, 16), max_steps=20, random_state=0
    ... )
    >>> density.fit(digits).score_samples(digits[:3]).shape
    (3,)
    """

    n_filters: int = parameter(at_least(1), default=32)
    n_resnet: int = parameter(at_least(1), default=2)
    n_hierarchies: int = parameter(at_least(1), default=1)
    n_components: int = parameter(at_least(1), default=1)
    dropout: float = parameter(
        Interval(numbers.Real, 0, 1, closed="left"), default=0.0, kw_only=True
    )
    weight_norm: bool = parameter("boolean", default=False, kw_only=True)
    conditional: bool = parameter("boolean", default=False, kw_only=True)
    min_scale: float = parameter(POSITIVE, default=0.116, kw_only=True)
    pixel_origin: str = parameter(
        StrOptions({"auto", "black", "grey"}), default="auto", kw_only=True
    )
    n_levels: int = parameter(at_least(2), default=256, kw_only=True)
    max_epochs: int = parameter(default=50, kw_only=True)
    max_steps: int | None = parameter(default=1600, kw_only=True)
    batch_size: int = parameter(default=16, kw_only=True)
    betas: tuple[float, float] = parameter(default=(0.95, 0.9995), kw_only=True)
    patience: int | None = parameter(default=10, kw_only=True)
    compile: bool | str = parameter(default="auto", kw_only=True)

    image_shape_ = Learned("item_shape")

    statistics_names = "log_prob", "entropy"
    _samples_at_once = None

    def _make_preprocessing(self, data: CheckedData) -> Preprocessing:
        self.dtype_ = data.dtype
        image_shape = self._shape_of_rows(data, (1, 1, data.item_shape[0]))
        preprocessing = Preprocessing(
            self, data, image_shape=image_shape, value_range=self.value_range
        )
        self.pixel_origin_ = self.pixel_origin
        if self.pixel_origin == "auto":
            self.pixel_origin_ = "black" if preprocessing.item_shape[0] == 1 else "grey"
        return preprocessing

    def _make_network(self, item_shape: tuple[int, ...]) -> nn.Module:
        n_channels = item_shape[0]
        network = PixelCNNNetwork(
            n_channels,
            mixture.n_parameters(n_channels, self.n_components),
            n_filters=self.n_filters,
            n_resnet=self.n_resnet,
            n_hierarchies=self.n_hierarchies,
            n_classes=len(self.classes_) if self.conditional else 0,
            dropout=self.dropout,
            weight_norm=self.weight_norm,
        )
        return network.to(memory_format=torch.channels_last)

    def _initialize(self, module: nn.Module, *batch: Tensor) -> None:
        if not self.weight_norm:
            return

        def normalize(layer: PixelCNNLayer, _: Any, output: Tensor) -> Tensor:
            std, mean = torch.std_mean(output, (0, 2, 3))
            # A channel that is constant over the batch cannot be scaled to variance 1.
            std = torch.where(std > 1e-6, std, torch.ones_like(std))
            layer.gain /= std[:, None, None, None]
            layer.bias.copy_((layer.bias - mean) / std)
            return (output - mean[:, None, None]) / std[:, None, None]

        module.eval()
        layers = [layer for layer in module.modules() if isinstance(layer, PixelCNNLayer)]
        hooks = [layer.register_forward_hook(normalize) for layer in layers]
        with torch.no_grad():
            self._log_prob(module, *batch)
        for hook in hooks:
            hook.remove()
        module.train()

    def _tensor(self, items: npt.NDArray, device: torch.device) -> Tensor:
        """Levels 0 .. n_levels - 1, float32, shape (b, C, H, W)."""
        x = self._preprocessing.tensor(items, device) * (self.n_levels - 1)
        x = x.round().clamp(0, self.n_levels - 1)
        return x.contiguous(memory_format=torch.channels_last)

    def _mutate(self, x: Tensor, data: CheckedData, generator: torch.Generator) -> Tensor:
        kept = torch.rand(x.shape, generator=generator, device=x.device) >= self.mutation_rate
        move = torch.randint(self.n_levels, x.shape, generator=generator, device=x.device)
        return torch.where(kept, x, (x + move) % self.n_levels)

    @property
    def _origin(self) -> str:
        """Return "grey" or "black"; "grey" for models that were saved when it was the only one."""
        return getattr(self, "pixel_origin_", "grey")

    def _raw(self, module: nn.Module, x: Tensor, class_indices: Tensor | None) -> Tensor:
        """Return the network's output, the unconstrained mixture parameters."""
        one_hot = self._one_hot(class_indices)
        condition = None if one_hot is None else one_hot.to(x.dtype)[:, :, None, None]
        origin, unit = mixture.origin_and_unit(self.n_levels, self._origin)
        return module(x / unit - origin / unit, condition)

    def _parameters_of(self, raw: Tensor, n_channels: int) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Logits, locations, scales and coefficients of the mixtures."""
        return mixture.split_parameters(
            raw, n_channels, self.n_components, self.n_levels, self.min_scale, self._origin
        )

    def _log_prob(
        self, module: nn.Module, x: Tensor, class_indices: Tensor | None = None
    ) -> Tensor:
        """Log-probability of each pixel in nats, shape (b, H, W)."""
        raw = self._raw(module, x, class_indices)
        with torch.autocast(x.device.type, enabled=False):
            parameters = self._parameters_of(raw, x.shape[1])
            return mixture.log_prob(x, *parameters, self.n_levels, self._origin)

    def _statistics_given(
        self, module: nn.Module, x: Tensor, class_indices: Tensor | None
    ) -> Tensor:
        """Return the statistics of p(x | y), shape (b, n_statistics), float64."""
        parameters = self._parameters_of(self._raw(module, x, class_indices), x.shape[1])
        of_pixels = (
            mixture.log_prob(x, *parameters, self.n_levels, self._origin),
            mixture.entropy(x, *parameters, self.n_levels, self._origin),
        )
        return torch.stack([sum_over_item(values.double()) for values in of_pixels], 1)

    def _statistics(self, module: nn.Module, x: Tensor) -> Tensor:
        return self._marginal_statistics(partial(self._statistics_given, module, x), x)

    def _by_class(self, module: nn.Module, x: Tensor) -> Tensor:
        """Log-probabilities of pixels given each class, shape (b, n_classes, H, W), float64."""
        return self._given_each_class(partial(self._log_prob, module, x), x)

    def _marginal(self, module: nn.Module, x: Tensor) -> Tensor:
        if not self.conditional:
            return self._log_prob(module, x)
        # log p(x_<=i) = logsumexp_k [log prior_k + log p(x_<=i | k)]; a pixel is the difference
        # of two neighbours in raster order.
        joint = self._joint(self._by_class(module, x).flatten(2).cumsum(2))
        total = F.pad(joint.logsumexp(1), (1, 0))
        return total.diff(dim=1).view(len(x), *x.shape[2:])

    def score_pixels(self, X: Any) -> npt.NDArray[np.float64]:
        """Log-probability of each pixel given those before it in raster order.

        Parameters
        ----------
        X : array-like, Tensor or Dataset of shape (n_samples, ...)

        Returns
        -------
        ndarray of shape (n_samples, H, W), float64
            In nats, all channels of a pixel together. They sum to `score_samples`.
        """
        return self.map(X, self._marginal)

    @available_if(lambda self: self.conditional)
    def class_log_prob(self, X: Any) -> npt.NDArray[np.float64]:
        """Log-density of each image given each class, for a conditional model.

        Parameters
        ----------
        X : array-like, Tensor or Dataset of shape (n_samples, ...)

        Returns
        -------
        ndarray of shape (n_samples, n_classes), float64
            log p(x | y) in nats, in the order of `classes_`.
        """
        return self.map(X, lambda module, x: self._by_class(module, x).sum((2, 3)))

    def _draw(self, module: nn.Module, n_samples: int, generator: torch.Generator) -> Tensor:
        n_channels, height, width = self.image_shape_
        x = torch.zeros(n_samples, n_channels, height, width, device=generator.device)
        class_indices = self._draw_classes(n_samples, generator)
        positions = [(row, column) for row in range(height) for column in range(width)]
        for row, column in tracked(
            positions, description="drawing samples", unit="pixel", verbose=self.verbose
        ):
            raw = self._raw(module, x[:, :, : row + 1], class_indices)[..., row, column]
            parameters = self._parameters_of(raw[:, :, None, None], n_channels)
            pixel = mixture.sample(*parameters, self.n_levels, generator, self._origin)
            x[:, :, row, column] = pixel[:, :, 0, 0]
        return x.double() / (self.n_levels - 1)
