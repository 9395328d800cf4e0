"""Densely connected network."""

from __future__ import annotations

import numbers

from torch import nn

from skood._estimator.parameters import Interval, at_least, estimator, parameter
from skood.classifiers._architecture import image_shape_of, initialize_convolutions
from skood.classifiers._base import NeuralClassifier

__all__ = ["DenseNet"]


@estimator
class DenseNet(NeuralClassifier):
    """Densely connected network for images of 32 x 32, the DenseNet-BC of [1]_.

    A 3 x 3 convolution and three dense blocks. Each layer of a block takes the outputs of all
    earlier layers, through a bottleneck of four times the growth rate, and adds `growth_rate`
    channels. Between the blocks, the number of channels, height and width are halved.

    Parameters
    ----------
    depth : int, default=100
        Number of layers with weights: 4 plus a multiple of 6.
    growth_rate : int, default=12
        Number of channels that a layer adds. Depth 100 and growth rate 12 give 342 penultimate
        features.
    dropout : float, default=0.0
        Dropout rate of these channels, in training.
    lr_schedule : {"cosine", "step", "constant"}, default="step"
        "step" divides by 10 at half and at three quarters of the training, as in [1]_.

    References
    ----------
    .. [1] G. Huang, Z. Liu, L. van der Maaten, K. Q. Weinberger, "Densely connected
       convolutional networks", CVPR 2017. arXiv:1608.06993

    Examples
    --------
    >>> from sklearn.datasets import load_digits
    >>> from skood import DenseNet
    >>> digits = load_digits()
    >>> network = DenseNet(depth=10, max_steps=5, value_range=(0, 16), random_state=0)
    >>> network.fit(digits.images, digits.target).transform(digits.images[:2]).shape
    (2, 27)
    """

    depth: int = parameter(at_least(1), default=100)
    growth_rate: int = parameter(at_least(1), default=12)
    dropout: float = parameter(
        Interval(numbers.Real, 0, 1, closed="left"), default=0.0, kw_only=True
    )
    max_epochs: int = parameter(default=300, kw_only=True)
    batch_size: int = parameter(default=64, kw_only=True)
    weight_decay: float = parameter(default=1e-4, kw_only=True)
    lr_schedule: str = parameter(default="step", kw_only=True)

    def _build(self, item_shape: tuple[int, ...], n_classes: int) -> nn.Module:
        from torchvision.models import densenet

        n_channels, height, width = image_shape_of(item_shape, self)
        n_layers, rest = divmod(self.depth - 4, 6)
        if n_layers < 1 or rest:
            raise ValueError(
                f"depth={self.depth}; expected 4 and a multiple of 6 for DenseNet, such as 22, 40 "
                "or 100: three blocks of bottleneck layers with two convolutions each"
            )
        if min(height, width) < 4:
            raise ValueError(
                f"images in X of {height} x {width} pixels are too small for DenseNet, which "
                "halves them twice; expected at least 4 x 4"
            )
        n_stem = 2 * self.growth_rate
        network = densenet.DenseNet(
            self.growth_rate,
            (n_layers,) * 3,
            n_stem,
            drop_rate=self.dropout,
            num_classes=n_classes,
        )
        features = network.features
        features.conv0 = nn.Conv2d(n_channels, n_stem, 3, padding=1, bias=False)
        # Layers after the first convolution of torchvision's network, for photographs.
        del features.norm0, features.relu0, features.pool0
        initialize_convolutions(network)
        return network
