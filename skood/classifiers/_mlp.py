"""Multilayer perceptron, for rows."""

from __future__ import annotations

import math
import numbers
from itertools import pairwise

from torch import nn

from skood._estimator.parameters import Interval, estimator, parameter
from skood.classifiers._base import NeuralClassifier

__all__ = ["MLP"]


@estimator
class MLP(NeuralClassifier):
    """Multilayer perceptron: linear layers with ReLU between them.

    Parameters
    ----------
    hidden_features : tuple of int, default=(128, 128)
        Width of each hidden layer; the output of the last is the penultimate features.
    dropout : float, default=0.0
        Dropout rate after each hidden layer, in training.

    Examples
    --------
    >>> from sklearn.datasets import load_iris
    >>> from skood import MLP
    >>> X, y = load_iris(return_X_y=True)
    >>> classifier = MLP(hidden_features=(16,), max_epochs=30, random_state=0).fit(X, y)
    >>> classifier.transform(X).shape, classifier.predict_proba(X).shape
    ((150, 16), (150, 3))
    """

    hidden_features: tuple[int, ...] = parameter(tuple, list, default=(128, 128))
    dropout: float = parameter(
        Interval(numbers.Real, 0, 1, closed="left"), default=0.0, kw_only=True
    )
    learning_rate: float = parameter(default=0.05, kw_only=True)

    def _build(self, item_shape: tuple[int, ...], n_classes: int) -> nn.Module:
        widths = [math.prod(item_shape), *self.hidden_features]
        layers: list[nn.Module] = [nn.Flatten()]
        for n_in, n_out in pairwise(widths):
            layers += [nn.Linear(n_in, n_out), nn.ReLU(), nn.Dropout(self.dropout)]
        return nn.Sequential(*layers, nn.Linear(widths[-1], n_classes))
