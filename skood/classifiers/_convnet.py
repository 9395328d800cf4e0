"""Small convolutional network."""

from __future__ import annotations

import numbers
from itertools import pairwise

from torch import nn

from skood._estimator.parameters import Interval, at_least, estimator, parameter
from skood.classifiers._architecture import image_shape_of
from skood.classifiers._base import NeuralClassifier

__all__ = ["ConvNet"]


@estimator
class ConvNet(NeuralClassifier):
    """Small convolutional network, for images of about 28 x 28.

    Every stage consists of 3 x 3 convolutions, each with batch normalisation and ReLU. Max pooling
    between the stages halves height and width. The last stage is followed by global average
    pooling, or by max pooling and a hidden layer.

    Parameters
    ----------
    n_filters : tuple of int, default=(32, 64, 128)
        Number of channels of each stage; the last is the number of penultimate features.
    n_convolutions : int or tuple of int, default=2
        Number of convolutions of each stage.
    hidden_features : int, default=None
        Width of a hidden layer with ReLU after the last stage, whose output is the penultimate
        features. None: no hidden layer.
    dropout : float, default=0.0
        Dropout rate of the penultimate features, in training.

    See Also
    --------
    MNISTConvNet : Network without normalisation, which Dinari and Freifeld train on MNIST.

    Examples
    --------
    >>> from sklearn.datasets import load_digits
    >>> from skood import ConvNet
    >>> digits = load_digits()
    >>> network = ConvNet((8, 16), max_steps=10, value_range=(0, 16), random_state=0)
    >>> network.fit(digits.images, digits.target).predict_proba(digits.images[:2]).shape
    (2, 10)
    """

    n_filters: tuple[int, ...] = parameter(tuple, list, default=(32, 64, 128))
    n_convolutions: int | tuple[int, ...] = parameter(
        at_least(1), tuple, list, default=2, kw_only=True
    )
    hidden_features: int | None = parameter(at_least(1), None, default=None, kw_only=True)
    dropout: float = parameter(
        Interval(numbers.Real, 0, 1, closed="left"), default=0.0, kw_only=True
    )
    max_epochs: int = parameter(default=30, kw_only=True)

    def _build(self, item_shape: tuple[int, ...], n_classes: int) -> nn.Module:
        n_channels, height, width = image_shape_of(item_shape, self)
        halvings = len(self.n_filters) - (self.hidden_features is None)
        n_convolutions = (
            tuple(self.n_convolutions)
            if isinstance(self.n_convolutions, (tuple, list))
            else (self.n_convolutions,) * len(self.n_filters)
        )
        if len(n_convolutions) != len(self.n_filters):
            raise ValueError(
                f"n_convolutions={n_convolutions} has {len(n_convolutions)} values for "
                f"{len(self.n_filters)} stages, n_filters={tuple(self.n_filters)}; give one for "
                "each stage"
            )
        if min(height, width) < 2**halvings:
            raise ValueError(
                f"images of {height} x {width} pixels cannot be halved {halvings} times; give "
                f"fewer stages than n_filters={tuple(self.n_filters)}"
            )
        layers: list[nn.Module] = []
        widths = pairwise([n_channels, *self.n_filters])
        for (n_in, n_out), n_more in zip(widths, n_convolutions, strict=True):
            layers += [nn.MaxPool2d(2)] if layers else []
            layers += _convolution(n_in, n_out)
            for _ in range(n_more - 1):
                layers += _convolution(n_out, n_out)
        n_features = self.n_filters[-1]
        if self.hidden_features is None:
            layers += [nn.AdaptiveAvgPool2d(1), nn.Flatten()]
        else:
            n_pooled = n_features * (height >> halvings) * (width >> halvings)
            n_features = self.hidden_features
            layers += [nn.MaxPool2d(2), nn.Flatten(), nn.Linear(n_pooled, n_features), nn.ReLU()]
        return nn.Sequential(*layers, nn.Dropout(self.dropout), nn.Linear(n_features, n_classes))


def _convolution(n_in: int, n_out: int) -> list[nn.Module]:
    return [
        nn.Conv2d(n_in, n_out, 3, padding=1, bias=False),
        nn.BatchNorm2d(n_out),
        nn.ReLU(),
    ]
