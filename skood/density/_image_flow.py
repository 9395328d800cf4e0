"""Image flow: a multiscale normalising flow."""

from __future__ import annotations

import numbers

import numpy as np
import numpy.typing as npt
import torch
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
from skood._torch.preprocessing import Preprocessing
from skood.density._flow_jacobian import InverseDerivative
from skood.density._image_flow_network import ImageFlowNetwork
from skood.density._invertible import Derivative, InvertibleDensity
from skood.density._pixels import ImageParameters

__all__ = ["ImageFlow"]

# Fraction of the unit interval that the logit leaves free at either end.
_MARGIN = 0.05

# Distance of the logit's argument from 0 and 1, for values that no latents decode to.
_EDGE = 1e-6


@estimator
class ImageFlow(ImageParameters, InvertibleDensity):
    r"""Density of images: a multiscale normalising flow, with a latent for each value.

    An invertible network f maps an image to latents with a standard normal distribution,

    .. math:: \log p(x) = \log \mathcal{N}(f(x); 0, I) + \log |\det \partial f / \partial x|

    The layers are the layers of Glow [1]_: each of several scales has transforms of an ActNorm, a
    1x1 convolution and a coupling, which changes half of the channels by maps that the other half
    determines. With splines in the couplings it is the image model of [2]_.

    Parameters
    ----------
    n_transforms : tuple of int, default=(6, 6, 4)
        Number of transforms of each scale. A scale halves height and width if they are even, and
        half of its values become latents; the last scale reads all pixels at once. Scales before
        the last are left out if no side can be halved.
    n_filters : int or tuple of int, default=64
        Channels of the conditioners, the residual networks in the couplings; a tuple has a number
        for each scale of `n_transforms`. They are (64, 64, 1024) in [3]_.
    n_blocks : int, default=2
        Residual blocks of a conditioner, of two 3 x 3 convolutions each, or of two linear layers in
        the last scale.
    coupling : {"spline", "affine"}, default="spline"
        Monotone rational-quadratic splines, or affine maps, which are faster and fit less well.
    n_bins : int, default=8
        Number of bins of a spline.
    bound : float, default=3.0
        Splines act within [-bound, bound]; outside they are the identity. It is 1 in the background
        models of [3]_.
    mask : {"half", "alternating"}, default="half"
        Which channels a coupling changes: the first or the last half, or, as in [3]_, every second
        channel. The choice matters in the last scale, where no 1x1 convolution mixes the channels.
    last_convolution : bool, default=False
        Whether the last scale ends with an ActNorm and a 1x1 convolution, as the other scales do.
        True in [3]_.
    dropout : float, default=0.0
        Fraction of a conditioner's hidden channels that is dropped in training; 0.2 in [3]_.
    n_levels : int or None, default=256
        Number of values of a pixel, equally spaced in `value_range`. Training adds uniform noise to
        spread each value over its bin; scores are taken at the middle of the bin. None models
        continuous values as they are.
    image_shape : (int, int, int), "row" or None, default=None
        Shape (C, H, W) of images given as flat rows. "row" models rows as images of one pixel,
        with a channel for each feature.

    Attributes
    ----------
    history_ : dict of str to list of float
        Loss of each epoch, in nats per image: "loss", of images with noise, and, where images were
        held out, "validation_loss", of images without noise.

    See Also
    --------
    PixelCNN : Density of images without latents, which has a higher likelihood.
    NeuralSplineFlow : Flow of rows.
    skood.likelihood.LocalIntrinsicDimension : Detector on a flow.

    Notes
    -----
    With levels, a score approximates the logarithm of a probability, the density in the middle of a
    bin times the volume of the bin; without, it is the log-density in the units of X. The network
    reads :math:`\operatorname{logit}(\alpha + (1 - 2 \alpha) x)`, with :math:`\alpha = 0.05` and x
    in [0, 1]. A score includes the log-determinants of all these maps.

    References
    ----------
    .. [1] D. P. Kingma and P. Dhariwal, "Glow: Generative Flow with Invertible 1x1
       Convolutions", NeurIPS 2018.
    .. [2] C. Durkan, A. Bekasov, I. Murray, G. Papamakarios, "Neural Spline Flows",
       NeurIPS 2019.
    .. [3] H. Kamkari et al., "A Geometric Explanation of the Likelihood OOD Detection Paradox",
       ICML 2024.

    Examples
    --------
    >>> from sklearn.datasets import load_digits
    >>> from skood.density import ImageFlow
    >>> images = load_digits().images
    >>> flow = ImageFlow((2, 2), 8, n_levels=17, value_range=(0, 16), max_steps=5, random_state=0)
    >>> Z = flow.fit(images).encode(images[:3])
    >>> Z.shape, bool(abs(flow.decode(Z)[:, 0] - images[:3]).max() < 1e-3)
    ((3, 64), True)
    """

    n_transforms: tuple[int, ...] = parameter(tuple, list, default=(6, 6, 4))
    n_filters: int | tuple[int, ...] = parameter(at_least(1), tuple, list, default=64)
    n_blocks: int = parameter(at_least(0), default=2)
    coupling: str = parameter(StrOptions({"spline", "affine"}), default="spline", kw_only=True)
    n_bins: int = parameter(
        Interval(numbers.Integral, 2, 500, closed="both"), default=8, kw_only=True
    )
    bound: float = parameter(POSITIVE, default=3.0, kw_only=True)
    mask: str = parameter(StrOptions({"half", "alternating"}), default="half", kw_only=True)
    last_convolution: bool = parameter("boolean", default=False, kw_only=True)
    dropout: float = parameter(
        Interval(numbers.Real, 0, 1, closed="left"), default=0.0, kw_only=True
    )
    n_levels: int | None = parameter(at_least(2), None, default=256, kw_only=True)
    max_steps: int | None = parameter(default=3000, kw_only=True)
    batch_size: int = parameter(default=64, kw_only=True)
    learning_rate: float = parameter(default=1e-3, kw_only=True)
    clip_norm: float | None = parameter(default=1.0, kw_only=True)
    patience: int | None = parameter(default=10, kw_only=True)
    compile: bool | str = parameter(default="auto", kw_only=True)

    def _make_preprocessing(self, data: CheckedData) -> Preprocessing:
        self.dtype_ = data.dtype
        image_shape = self._shape_of_rows(data, (data.item_shape[0], 1, 1))
        return Preprocessing(self, data, image_shape=image_shape, value_range=self.value_range)

    def _make_network(self, item_shape: tuple[int, ...]) -> nn.Module:
        if len(self.n_transforms) == 0 or any(n < 1 for n in self.n_transforms):
            raise ValueError(
                f"n_transforms={self.n_transforms!r}; expected at least one transform in each of "
                "at least one scale"
            )
        given, n_scales = self.n_filters, len(self.n_transforms)
        n_filters = tuple(given) if isinstance(given, (tuple, list)) else (given,) * n_scales
        if len(n_filters) != n_scales or any(n < 1 for n in n_filters):
            raise ValueError(
                f"n_filters={self.n_filters!r}; expected a number of at least 1, or one for each "
                f"of the {n_scales} scales of n_transforms={self.n_transforms!r}"
            )
        if np.prod(item_shape) < 2:
            raise ValueError(
                "X has 1 feature(s), and ImageFlow splits an image in two; expected at least two "
                "values an image (for one value, use scikit-learn's KernelDensity)"
            )
        return ImageFlowNetwork(
            item_shape,
            self.n_transforms,
            n_filters=n_filters,
            ends_mixed=self.last_convolution,
            mask=self.mask,
            coupling=self.coupling,
            n_bins=self.n_bins,
            bound=self.bound,
            n_blocks=self.n_blocks,
            dropout=self.dropout,
        )

    def _initialize(self, module: nn.Module, *batch: Tensor) -> None:
        with torch.no_grad():
            module(self._logits(self._spread(batch[0], noisy=True))[0], initializes=True)

    def _tensor(self, items: npt.NDArray, device: torch.device) -> Tensor:
        """Pixels in [0, 1], float32."""
        # With the range "minmax", later data may lie beyond black and white.
        return self._preprocessing.tensor(items, device).clamp(0, 1)

    def _tensor_to_encode(self, items: npt.NDArray, device: torch.device) -> Tensor:
        margin = _MARGIN / (1 - 2 * _MARGIN)
        if self.n_levels is not None:
            margin = (margin * self.n_levels + 0.5) / (self.n_levels - 1)
        return self._preprocessing.tensor(items, device, margin=margin)

    def _mutate(self, x: Tensor, data: CheckedData, generator: torch.Generator) -> Tensor:
        return self._redraw_pixels(x, generator, self.n_levels)

    def _spread(self, x: Tensor, *, noisy: bool) -> Tensor:
        """Move the levels of x to the middles of their bins, or to anywhere within."""
        if self.n_levels is None:
            return x
        place = torch.rand_like(x) if noisy else 0.5
        return (x * (self.n_levels - 1) + place) / self.n_levels

    @staticmethod
    def _logits(x: Tensor) -> tuple[Tensor, Tensor]:
        """Return logits of x, and the log of their derivatives summed over an item, float64."""
        p = (_MARGIN + (1 - 2 * _MARGIN) * x).clamp(_EDGE, 1 - _EDGE)
        log_p, log_rest = p.log(), torch.log1p(-p)
        log_derivative = np.log(1 - 2 * _MARGIN) - log_p - log_rest
        return log_p - log_rest, log_derivative.flatten(1).sum(1, dtype=torch.float64)

    def _forward(self, module: nn.Module, x: Tensor) -> tuple[Tensor, Tensor]:
        logits, log_det = self._logits(self._spread(x, noisy=module.training))
        z, log_det_of_network = module(logits)
        low, high = self.value_range_
        unit = high - low if self.n_levels is None else self.n_levels
        return z, log_det + log_det_of_network - self.n_latent * float(np.log(unit))

    def _inverse(self, module: nn.Module, z: Tensor) -> Tensor:
        return _from_logits(module.inverse(z))

    def _inverse_derivative(self, module: nn.Module, z: Tensor) -> Derivative:
        return _PixelDerivative(InverseDerivative(module, z))

    def _to_units_of_x(self, x: Tensor) -> Tensor:
        if self.n_levels is not None:
            x = (x * self.n_levels - 0.5) / (self.n_levels - 1)
        return self._preprocessing.inverse(x)

    def _draw(self, module: nn.Module, n_samples: int, generator: torch.Generator) -> Tensor:
        x = super()._draw(module, n_samples, generator)
        if self.n_levels is not None:
            x = (x * self.n_levels).floor().clamp(0, self.n_levels - 1) / (self.n_levels - 1)
        return x.clamp(0, 1)


def _from_logits(logits: Tensor) -> Tensor:
    """Undo the logit: pixels in [0, 1], or somewhat beyond."""
    return (torch.sigmoid(logits) - _MARGIN) / (1 - 2 * _MARGIN)


class _PixelDerivative:
    """The derivative of pixels, from the derivative of their logits."""

    def __init__(self, of_logits: InverseDerivative) -> None:
        self._of_logits = of_logits
        logits = of_logits.x.flatten(1)
        self._slope = torch.sigmoid(logits) * torch.sigmoid(-logits) / (1 - 2 * _MARGIN)

    def jacobian(self) -> Tensor:
        return self._slope[:, :, None] * self._of_logits.jacobian()

    def push(self, tangents: Tensor) -> Tensor:
        return self._slope * self._of_logits.push(tangents)
