"""Coverage of neuron states by the training data."""

from __future__ import annotations

import numbers
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from scipy.special import expit
from torch import Tensor

from skood._checked_data import CheckedData
from skood._parameters import Interval, StrOptions, estimator, parameter
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

    With u the uniform distribution over the classes, p the softmax and z a neuron's output (for a
    map, output and gradient are summed over space), the state of the neuron is

    .. math::

        \hat z = \sigma\!\left(\alpha \, z \, \frac{\partial KL(u \,\|\, p)}{\partial z}\right).

    With n(.) the number of training rows whose state lies in the same one of M bins on [0, 1], the
    score is the mean over neurons, and then over layers, of :math:`\min(n(\hat z) / O, 1)`.

    Parameters
    ----------
    layers : tuple of str, default=None
        Names of the modules whose outputs are the neurons, as ``module.named_modules()`` has
        them. None reads the penultimate features.
    n_bins : int or tuple of int, default=50
        M, one for all layers or one for each.
    steepness : "auto", float or tuple of float, default="auto"
        Alpha, one for all layers or one for each. "auto" is the inverse of the mean absolute
        value that it multiplies, over the layer's neurons and the training rows that are counted.
    min_count : int or tuple of int, default=50
        O, the number of rows at which a bin is fully covered; one for all layers or one for each.
    n_samples : int, default=1000
        Training rows that are counted, drawn at random.
    random_state : int, RandomState instance or None, default=None
        Seed of the rows that are counted, and for a model whose own ``random_state`` is None.

    Attributes
    ----------
    layers_ : tuple of str
        Names of the modules whose outputs are the neurons; empty for the penultimate features.
    steepness_ : tuple of float
        Alpha of each layer.
    counts_ : list of ndarray of shape (n_neurons, n_bins)
        Training rows in each bin, in each layer.

    Notes
    -----
    Follows the authors' code: sums over space are taken of outputs and of gradients, before
    they are multiplied; the bins are not of equal width but ever narrower towards 1/2, where
    most states lie; and 1000 training rows are counted. Their M thresholds make M - 2 bins.

    The steepness they chose is 100 for the pooled features of a ResNet-18 on CIFAR-10, and .001
    to 1000 for its earlier stages, with 5 to 100 for O. It does not carry over: in a smaller
    network 100 drives most states to 0 or 1, and noise then scores above training data. "auto"
    spreads them in every layer. Earlier stages can also lower the score's quality, which is why
    they are read only when named.

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
    n_bins: int | Sequence[int] = parameter(
        Interval(numbers.Integral, 2, None, closed="left"), tuple, list, default=50
    )
    steepness: str | float | Sequence[float] = parameter(
        Interval(numbers.Real, 0, None, closed="neither"),
        StrOptions({"auto"}),
        tuple,
        list,
        default="auto",
    )
    min_count: int | Sequence[int] = parameter(
        Interval(numbers.Integral, 1, None, closed="left"), tuple, list, default=50
    )
    n_samples: int = parameter(
        Interval(numbers.Integral, 1, None, closed="left"), default=1000, kw_only=True
    )

    _overfits = True

    def _fit(
        self, inliers: CheckedData, y: npt.NDArray | None, outliers: CheckedData | None, seed: int
    ) -> None:
        super()._fit(inliers, y, outliers, seed)
        self.layers_: tuple[str, ...] = ()
        if self.layers is None:
            check_readable(self.classifier_, "features", type(self).__name__)
        else:
            self.layers_ = layers_of(self._network, inliers, self.layers)
        n_bins = self._for_each_layer("n_bins")
        self._for_each_layer("min_count")
        if len(inliers) > self.n_samples:
            rng = numpy_rng(seed, Stream.COVERAGE_ROWS)
            counted = rng.choice(len(inliers), self.n_samples, replace=False)
            inliers = inliers.subset(np.sort(counted))
        if isinstance(self.steepness, str):
            self.steepness_ = self._matching_steepness(inliers)
        else:
            self.steepness_ = self._for_each_layer("steepness")
        self.counts_: list[npt.NDArray[np.int64]] = []
        for _, bins in self._bins(inliers, n_bins):
            if not self.counts_:
                self.counts_ = [
                    np.zeros((b.shape[1], n), np.int64) for b, n in zip(bins, n_bins, strict=True)
                ]
            for counts, in_layer in zip(self.counts_, bins, strict=True):
                np.add.at(counts, (np.arange(len(counts)), in_layer), 1)

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
