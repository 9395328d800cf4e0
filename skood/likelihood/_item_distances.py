"""Distances between items and their reconstructions."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from skood._torch.batching import evaluating

__all__ = ["FeatureDistance", "mean_squared_error", "structural_dissimilarity"]

# Window and constants of Wang et al. 2004, for pixels in [0, 1].
_WINDOW, _WINDOW_STD = 11, 1.5
_C1, _C2 = 0.01**2, 0.03**2


def mean_squared_error(x: Tensor, y: Tensor) -> Tensor:
    """Return the mean squared difference of items (b, ...), shape (b,), float64."""
    return (x - y).flatten(1).double().square().mean(1)


def structural_dissimilarity(x: Tensor, y: Tensor) -> Tensor:
    r"""Return one minus the structural similarity (SSIM) of images, shape (b,), float64.

    .. math:: \mathrm{SSIM} = \frac{(2 \mu_x \mu_y + C_1)(2 \sigma_{xy} + C_2)}
        {(\mu_x^2 + \mu_y^2 + C_1)(\sigma_x^2 + \sigma_y^2 + C_2)}

    with moments in windows of 11 x 11 pixels, weighted by a normal distribution of standard
    deviation 1.5 (Wang et al. 2004, "Image Quality Assessment: From Error Visibility to Structural
    Similarity", equation 13), averaged over the windows inside the image and over the channels. In
    images with a shorter side, the width of the window is the largest odd number that fits.

    Parameters
    ----------
    x, y : Tensor of shape (b, C, H, W)
        Pixels in [-1, 1].
    """
    x, y = (x.double() + 1) / 2, (y.double() + 1) / 2
    n_channels, *sides = x.shape[1:]
    width = min(_WINDOW, *(side - 1 + side % 2 for side in sides))
    places = torch.arange(width, dtype=torch.float64, device=x.device) - width // 2
    weights = (-places.square() / (2 * _WINDOW_STD**2)).exp()
    window = torch.outer(weights, weights) / weights.sum().square()
    kernel = window.expand(n_channels, 1, width, width).contiguous()

    def mean(values: Tensor) -> Tensor:
        return F.conv2d(values, kernel, groups=n_channels)

    mean_x, mean_y = mean(x), mean(y)
    variance_x, variance_y = mean(x * x) - mean_x**2, mean(y * y) - mean_y**2
    covariance = mean(x * y) - mean_x * mean_y
    luminance = (2 * mean_x * mean_y + _C1) / (mean_x**2 + mean_y**2 + _C1)
    structure = (2 * covariance + _C2) / (variance_x + variance_y + _C2)
    return 1 - (luminance * structure).flatten(1).mean(1)


class FeatureDistance:
    r"""Perceptual distance of images: the difference of their features in a trained network.

    The features of each layer are scaled to length 1 over the channels. Their squared difference is
    averaged over the places and summed over the layers,

    .. math:: d(x, y) = \sum_l \frac{1}{H_l W_l} \sum_{h,w} \left\|
        \frac{f_l(x)_{hw}}{\|f_l(x)_{hw}\|} - \frac{f_l(y)_{hw}}{\|f_l(y)_{hw}\|} \right\|^2

    This is LPIPS [1]_ without the learned weights of the channels. Any trained network serves, for
    instance a classifier of the in-distribution classes.

    Parameters
    ----------
    module : torch.nn.Module
        The trained network, which reads images (b, C, H, W). It is used in eval mode.
    layers : sequence of str, default=None
        Names of the layers, as in ``module.named_modules()``; their outputs are (b, channels, ...).
        None takes the output of the module.
    value_range : (float, float), default=(0.0, 1.0)
        Values of black and white in the input of the module.

    Raises
    ------
    ValueError
        If the module has no layer of a given name.

    See Also
    --------
    DiffusionReconstruction : Takes one or several distances.

    References
    ----------
    .. [1] R. Zhang, P. Isola, A. A. Efros, E. Shechtman, O. Wang, "The Unreasonable Effectiveness
       of Deep Features as a Perceptual Metric", CVPR 2018, equation 1.

    Examples
    --------
    >>> import torch
    >>> from skood.likelihood import FeatureDistance
    >>> network = torch.nn.Sequential(torch.nn.Conv2d(1, 8, 3), torch.nn.ReLU())
    >>> distance = FeatureDistance(network, layers=["0", "1"])
    >>> x = torch.linspace(-1, 1, 320).reshape(5, 1, 8, 8)
    >>> distance(x, x).sum()
    tensor(0., dtype=torch.float64)
    """

    def __init__(
        self,
        module: nn.Module,
        layers: Sequence[str] | None = None,
        *,
        value_range: tuple[float, float] = (0.0, 1.0),
    ) -> None:
        names = [name for name, _ in module.named_modules() if name]
        if layers is not None and (len(layers) == 0 or not {*layers} <= {*names}):
            raise ValueError(f"layers={layers!r}; expected at least one of {names}")
        self.module = module
        self.layers = layers
        self.value_range = value_range

    def __call__(self, x: Tensor, y: Tensor) -> Tensor:
        """Return the distances of images.

        Parameters
        ----------
        x, y : Tensor of shape (b, C, H, W)
            Pixels in [-1, 1].

        Returns
        -------
        Tensor of shape (b,), float64
        """
        total = torch.zeros(len(x), dtype=torch.float64, device=x.device)
        for of_x, of_y in zip(self._features(x), self._features(y), strict=True):
            difference = (_unit_length(of_x) - _unit_length(of_y)).square().sum(1)
            total += difference.reshape(len(x), -1).mean(1)
        return total

    def _features(self, x: Tensor) -> list[Tensor]:
        """Return the outputs of the layers."""
        low, high = self.value_range
        x = low + (high - low) * (x + 1) / 2
        module = self.module.to(x.device)
        found: dict[str, Tensor] = {}
        hooks = []
        try:
            for name in self.layers or ():

                def note(_: nn.Module, __: Any, output: Tensor, name: str = name) -> None:
                    # An in-place operation may follow the layer.
                    found[name] = output.clone()

                hooks.append(module.get_submodule(name).register_forward_hook(note))
            with evaluating(module), torch.no_grad():
                output = module(x)
        finally:
            for hook in hooks:
                hook.remove()
        return [output] if self.layers is None else [found[name] for name in self.layers]


def _unit_length(features: Tensor) -> Tensor:
    """Scale features (b, channels, ...) to length 1 over the channels; float64."""
    return F.normalize(features.double(), dim=1)
