"""VGG network."""

from __future__ import annotations

from torch import nn

from skood._estimator.parameters import at_least, estimator, parameter
from skood.classifiers._architecture import image_shape_of, initialize_convolutions
from skood.classifiers._base import NeuralClassifier

__all__ = ["VGG"]

# Convolutions of each stage.
_CONVOLUTIONS = {
    11: (1, 1, 2, 2, 2),
    13: (2, 2, 2, 2, 2),
    16: (2, 2, 3, 3, 3),
    19: (2, 2, 4, 4, 4),
}
_CHANNELS = (64, 128, 256, 512, 512)
_SMALLEST = 16


@estimator
class VGG(NeuralClassifier):
    """The convolutions of VGG [1]_ with batch normalisation, for images of 32 x 32.

    Five stages of 3 x 3 convolutions, each followed by max pooling. As is common for CIFAR, global
    average pooling and one linear layer replace the three linear layers. Sizes are rounded up in
    pooling, so that 28 x 28 pixels suffice for all five stages.

    Parameters
    ----------
    depth : {11, 13, 16, 19}, default=16
        Number of layers with weights in the published network. All depths give 512 penultimate
        features.

    References
    ----------
    .. [1] K. Simonyan, A. Zisserman, "Very deep convolutional networks for large-scale image
       recognition", ICLR 2015. arXiv:1409.1556

    Examples
    --------
    >>> import numpy as np
    >>> from skood import VGG
    >>> rng = np.random.default_rng(0)
    >>> X, y = rng.random((20, 16, 16)), rng.integers(3, size=20)
    >>> VGG(depth=11, max_steps=2, random_state=0).fit(X, y).transform(X).shape
    (20, 512)
    """

    depth: int = parameter(at_least(1), default=16)

    def _build(self, item_shape: tuple[int, ...], n_classes: int) -> nn.Module:
        n_in, height, width = image_shape_of(item_shape, self)
        if self.depth not in _CONVOLUTIONS:
            raise ValueError(f"depth={self.depth}; expected one of {list(_CONVOLUTIONS)} for VGG")
        if min(height, width) < _SMALLEST:
            raise ValueError(
                f"images in X of {height} x {width} pixels are too small for VGG, which halves "
                f"them five times; expected at least {_SMALLEST} x {_SMALLEST}, or use ConvNet"
            )
        layers: list[nn.Module] = []
        for n_convolutions, n_out in zip(_CONVOLUTIONS[self.depth], _CHANNELS, strict=True):
            for _ in range(n_convolutions):
                # No bias, since batch normalisation subtracts the mean.
                layers += [nn.Conv2d(n_in, n_out, 3, padding=1, bias=False)]
                layers += [nn.BatchNorm2d(n_out), nn.ReLU()]
                n_in = n_out
            layers += [nn.MaxPool2d(2, ceil_mode=True)]
        layers += [nn.AdaptiveAvgPool2d(1), nn.Flatten()]
        network = nn.Sequential(*layers, nn.Linear(n_in, n_classes))
        initialize_convolutions(network)
        return network
