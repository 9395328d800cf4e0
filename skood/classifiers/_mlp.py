"""Multilayer perceptron, for rows."""

from __future__ import annotations

import math
import numbers
from itertools import pairwise
from typing import Any

from torch import nn

from skood._parameters import Interval
from skood.classifiers._base import NeuralClassifier

__all__ = ["MLP"]


class MLP(NeuralClassifier):
    """Multilayer perceptron: linear layers with ReLU between them.

    Parameters
    ----------
    hidden_features : tuple of int, default=(128, 128)
        Width of each hidden layer; the last holds the penultimate features.
    dropout : float, default=0.0
        Rate of dropout after each hidden layer, in training.
    learning_rate : float, default=0.05
        Initial learning rate.
    max_epochs : int, default=100
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
    mean_, std_ : ndarray of shape (d,)
        Mean and standard deviation of the features.
    n_features_in_ : int
        Values in an item.

    Examples
    --------
    >>> from sklearn.datasets import load_iris
    >>> from skood import MLP
    >>> X, y = load_iris(return_X_y=True)
    >>> classifier = MLP(hidden_features=(16,), max_epochs=30, random_state=0).fit(X, y)
    >>> classifier.transform(X).shape, classifier.predict_proba(X).shape
    ((150, 16), (150, 3))
    """

    _parameter_constraints: dict = {
        **NeuralClassifier._parameter_constraints,
        "hidden_features": [tuple, list],
        "dropout": [Interval(numbers.Real, 0, 1, closed="left")],
    }

    def __init__(
        self,
        hidden_features: tuple[int, ...] = (128, 128),
        *,
        dropout: float = 0.0,
        learning_rate: float = 0.05,
        **training: Any,
    ) -> None:
        super().__init__(learning_rate=learning_rate, **training)
        self.hidden_features = hidden_features
        self.dropout = dropout

    def _build(self, item_shape: tuple[int, ...], n_classes: int) -> nn.Module:
        widths = [math.prod(item_shape), *self.hidden_features]
        layers: list[nn.Module] = [nn.Flatten()]
        for n_in, n_out in pairwise(widths):
            layers += [nn.Linear(n_in, n_out), nn.ReLU(), nn.Dropout(self.dropout)]
        return nn.Sequential(*layers, nn.Linear(widths[-1], n_classes))
