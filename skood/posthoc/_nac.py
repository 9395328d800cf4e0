"""Coverage of neuron states by the training data."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from scipy.special import expit
from torch import Tensor

from skood._data.checked_data import CheckedData
from skood._estimator.parameters import POSITIVE, StrOptions, at_least, estimator, parameter
from skood._torch.seeding import Stream, numpy_rng
from skood.classifiers._inputs import requiring_gradient
from skood.classifiers._layers import (
    as_maps,
    forward,
    in_row_chunks,
    layers_of,
    modules_named,
    one_per_layer,
)
from skood.posthoc._base import NetworkDetector
from skood.posthoc._models import check_readable

__all__ = ["NAC"]

# Base of the logarithm that spaces the bins, as in the authors' code.
_BASE = 1000.0


@estimator
class NAC(NetworkDetector):
    r"""Neuron activation coverage: how often training rows put the neurons into the same state.

    With u the uniform distribution over the classes, p the softmax and z a neuron's output, the
    state of the neuron is

    .. math::

        \hat z = \sigma\!\left(\alpha \, z \, \frac{\partial KL(u \,\|\, p)}{\partial z}\right).

    For a map, output and gradient are summed over space. [0, 1] is divided into M bins, and
    :math:`n(\hat z)` is the number of training rows with a state in the bin of :math:`\hat z`. The
    score is the mean over neurons, and then over layers, of :math:`\min(n(\hat z) / O, 1)`.

    Parameters
    ----------
    layers : tuple of str, default=None
        Names of the modules whose outputs are the neurons, as in ``module.named_modules()``. None:
        the penultimate features.
    n_bins : int or tuple of int, default=50
        The M, one for all layers or one for each.
    steepness : "auto", float or tuple of float, default="auto"
        Alpha, one for all layers or one for each. "auto" is the inverse of the mean absolute
        value of the product that alpha multiplies, over the layer's neurons and the counted rows.
    min_count : int or tuple of int, default=50
        The O, the number of rows that cover a bin fully; one for all layers or one for each.
    n_samples : int, default=1000
        Number of training rows, drawn at random, that are counted.

    Attributes
    ----------
    layers_ : tuple of str
        Names of the modules whose outputs are the neurons; empty for the penultimate features.
    steepness_ : tuple of float
        Alpha of each layer.
    counts_ : list of ndarray of shape (n_neurons, n_bins)
        Number of training rows in each bin of each layer.

    Notes
    -----
    As in the authors' code, outputs and gradients are summed over space before they are multiplied,
    the bins become narrower towards 1/2, where most states lie, and 1000 training rows are counted.
    The authors' M thresholds form M - 2 bins.

    For a ResNet-18 on CIFAR-10, the authors chose a steepness of 100 for the pooled features and
    0.001 to 1000 for the earlier stages, and O from 5 to 100. These values do not transfer: in a
    smaller network, a steepness of 100 drives most states to 0 or 1, and noise then scores above
    training data. "auto" spreads the states in every layer. Earlier stages can also make the score
    worse, so they are read only if named.

    References
    ----------
    .. [1] Y. Liu, C. X. Tian, H. Li, L. Ma, S. Wang, "Neuron Activation Coverage: Rethinking
       Out-of-distribution Detection and Generalization", ICLR 2024.

    Examples
    --------
    >>> from sklearn.datasets import load_iris
    >>> from skood import MLP, NAC
    >>> X, y = load_iris(return_X_y=True)
    >>> detector = NAC(MLP((16, 8), max_epochs=2), layers=("2", "5"), min_count=5).fit(X, y)
    >>> [counts.shape for counts in detector.counts_]
    [(16, 50), (8, 50)]
    """

    layers: Sequence[str] | str | None = parameter(tuple, list, str, None, default=None)
    n_bins: int | Sequence[int] = parameter(at_least(2), tuple, list, default=50)
    steepness: str | float | Sequence[float] = parameter(
        POSITIVE,
        StrOptions({"auto"}),
        tuple,
        list,
        default="auto",
    )
    min_count: int | Sequence[int] = parameter(at_least(1), tuple, list, default=50)
    n_samples: int = parameter(at_least(1), default=1000, kw_only=True)

    _overfits = True

    def _learn_from_data(
        self, data: CheckedData, y: npt.NDArray | None, seed: int
    ) -> npt.NDArray[np.integer] | None:
        self.layers_: tuple[str, ...] = ()
        if self.layers is None:
            check_readable(self.classifier_, "features", type(self).__name__)
        else:
            self.layers_ = layers_of(self._network, data, self.layers)
        n_bins = self._for_each_layer("n_bins")
        self._for_each_layer("min_count")
        if len(data) > self.n_samples:
            rng = numpy_rng(seed, Stream.COVERAGE_ROWS)
            counted = rng.choice(len(data), self.n_samples, replace=False)
            data = data.subset(np.sort(counted))
        if isinstance(self.steepness, str):
            self.steepness_ = self._matching_steepness(data)
        else:
            self.steepness_ = self._for_each_layer("steepness")
        self.counts_: list[npt.NDArray[np.int64]] = []
        for _, bins in self._bins(data, n_bins):
            if not self.counts_:
                self.counts_ = [
                    np.zeros((b.shape[1], n), np.int64) for b, n in zip(bins, n_bins, strict=True)
                ]
            for counts, in_layer in zip(self.counts_, bins, strict=True):
                np.add.at(counts, (np.arange(len(counts)), in_layer), 1)
        return None

    def _score_samples(self, data: CheckedData) -> npt.NDArray[np.float64]:
        coverage = [
            np.minimum(counts / full, 1.0)
            for counts, full in zip(self.counts_, self._for_each_layer("min_count"), strict=True)
        ]
        scores = np.empty(len(data))
        for rows, bins in self._bins(data, [counts.shape[1] for counts in self.counts_]):
            covered = [
                of_layer[np.arange(len(of_layer)), in_layer].mean(1)
                for of_layer, in_layer in zip(coverage, bins, strict=True)
            ]
            scores[rows] = np.mean(covered, axis=0)
        return scores

    def _for_each_layer(self, parameter: str) -> tuple[Any, ...]:
        layers = self.layers_ or ("penultimate features",)
        values = one_per_layer(getattr(self, parameter), layers, parameter)
        if min(values) <= 0:
            raise ValueError(f"{parameter}={getattr(self, parameter)!r}; expected positive numbers")
        return values

    def _matching_steepness(self, data: CheckedData) -> tuple[float, ...]:
        """Return the inverse mean absolute influence of each layer; 1 where all are zero."""
        total: Any = 0.0
        for _, influences in self._influences(data):
            total = total + np.array([np.abs(values).mean(1).sum() for values in influences])
        return tuple(len(data) / float(size) if size > 0 else 1.0 for size in total)

    def _bins(
        self, data: CheckedData, n_bins: Sequence[int]
    ) -> Iterator[tuple[slice, list[npt.NDArray[np.intp]]]]:
        """Yield the bin of each neuron, shape (b, n_neurons) for each layer."""
        edges = [_edges(n) for n in n_bins]
        for rows, influences in self._influences(data):
            yield (
                rows,
                [
                    np.searchsorted(inner, expit(alpha * values), side="right")
                    for inner, alpha, values in zip(edges, self.steepness_, influences, strict=True)
                ],
            )

    def _influences(self, data: CheckedData) -> Iterator[tuple[slice, tuple[npt.NDArray, ...]]]:
        """Yield output times gradient of each neuron, shape (b, n_neurons) for each layer."""
        network = self._network.in_float32()
        layers = modules_named(network, self.layers_)

        def influences(x: Tensor) -> tuple[Tensor, ...]:
            with torch.inference_mode(False), torch.enable_grad():
                features, logits, activations = forward(network, requiring_gradient(x), layers)
                neurons = activations or [features]
                # KL(u || p) up to a constant.
                divergence = -torch.log_softmax(logits, 1).mean(1).sum()
                gradients = network.differentiate(divergence, neurons)
            return tuple(
                as_maps(z.detach()).sum(2) * as_maps(gradient).sum(2)
                for z, gradient in zip(neurons, gradients, strict=True)
            )

        return in_row_chunks(network, influences, data, type(self).__name__)


def _edges(n_bins: int) -> npt.NDArray[np.float64]:
    """Inner edges of the bins on [0, 1], whose width falls off towards 1/2 from both sides."""
    position = np.linspace(-1, 1, n_bins + 1)[1:-1]
    outwards = np.log(1 + (np.sqrt(_BASE) - 1) * (1 - np.abs(position))) / np.log(_BASE)
    return np.where(position > 0, 1 - outwards, outwards)
