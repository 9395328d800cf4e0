"""Small convolutional network."""

from __future__ import annotations

import numbers
from itertools import pairwise
from typing import Any

from torch import nn

from skood._parameters import Interval
from skood.classifiers._base import NeuralClassifier, image_shape_of

__all__ = ["ConvNet"]


class ConvNet(NeuralClassifier):
    """Small convolutional network, for images of about 28 x 28.

    Every stage has two 3 x 3 convolutions, each with batch normalisation and ReLU. Max pooling
    between the stages halves height and width; global average pooling follows the last stage.

    Parameters
    ----------
    n_filters : tuple of int, default=(32, 64, 128)
        Channels of each stage; the last is the number of penultimate features.
    dropout : float, default=0.0
        Rate of dropout of the penultimate features, in training.
    max_epochs : int, default=30
        Passes over the data.
    **training
        As in :class:`~skood.classifiers.NeuralClassifier`.

    Attributes
    ----------
    module_ : Module
        The network.
    classes_ : ndarray of shape (n_classes,)
        Labels, sorted.
    history_ : dict of str to list of float
        Loss of each epoch and, with validation data, validation loss.
    mean_, std_ : ndarray of shape (C, 1, 1)
        Mean and standard deviation of the pixels, in [0, 1].
    n_features_in_ : int
        Values in an item.

    Examples
    --------
    >>> from sklearn.datasets import load_digits
    >>> from skood import ConvNet
    >>> digits = load_digits()
    >>> network = ConvNet((8, 16), max_steps=10, value_range=(0, 16), random_state=0)
    >>> network.fit(digits.images, digits.target).predict_proba(digits.images[:2]).shape
    (2, 10)
    """

    _parameter_constraints: dict = {
        **NeuralClassifier._parameter_constraints,
        "n_filters": [tuple, list],
        "dropout": [Interval(numbers.Real, 0, 1, closed="left")],
    }

    def __init__(
        self,
        n_filters: tuple[int, ...] = (32, 64, 128),
        *,
        dropout: float = 0.0,
        max_epochs: int = 30,
        **training: Any,
    ) -> None:
        super().__init__(max_epochs=max_epochs, **training)
        self.n_filters = n_filters
        self.dropout = dropout

    def _build(self, item_shape: tuple[int, ...], n_classes: int) -> nn.Module:
        n_channels, height, width = image_shape_of(item_shape, self)
        halvings = len(self.n_filters) - 1
        if min(height, width) < 2**halvings:
            raise ValueError(
                f"images of {height} x {width} pixels cannot be halved {halvings} times; give "
                f"fewer stages than n_filters={tuple(self.n_filters)}"
            )
        layers: list[nn.Module] = []
        for n_in, n_out in pairwise([n_channels, *self.n_filters]):
            layers += [nn.MaxPool2d(2)] if layers else []
            layers += [*_convolution(n_in, n_out), *_convolution(n_out, n_out)]
        layers += [nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Dropout(self.dropout)]
        return nn.Sequential(*layers, nn.Linear(self.n_filters[-1], n_classes))


def _convolution(n_in: int, n_out: int) -> list[nn.Module]:
    return [
        nn.Conv2d(n_in, n_out, 3, padding=1, bias=False),
        nn.BatchNorm2d(n_out),
        nn.ReLU(),
    ]
