"""Deviations of Gram matrices from their range over the training data."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from skood._data.checked_data import CheckedData
from skood._estimator.parameters import FRACTION, estimator, parameter
from skood._torch.seeding import Stream, numpy_rng
from skood.classifiers._layers import as_maps, forward, in_row_chunks, layers_of, modules_named
from skood.posthoc._base import NetworkDetector, check_magnitude

__all__ = ["Gram"]

# Added to denominators, as in the authors' code.
_BOUND_OFFSET = 1e-6
_EXPECTED_OFFSET = 1e-7


@estimator
class Gram(NetworkDetector):
    r"""Deviation of Gram matrices from their range over training rows of the predicted class.

    With the map F of layer l in the shape (channels, pixels), elementwise powers, and a root that
    preserves the sign,

    .. math::

        g_{lp} = \Big(\sum_j (F^p {F^p}^\top)_{\cdot j}\Big)^{1/p}, \qquad
        \delta_l = \frac{1}{\max_k p_k} \sum_{p, i} \begin{cases}
            (\underline g - g) / |\underline g| & g < \underline g \\
            (g - \overline g) / |\overline g| & g > \overline g \\
            0 & \text{otherwise}
        \end{cases}

    where :math:`\underline g` and :math:`\overline g` are the smallest and the largest value of
    each entry over the training rows with the same predicted class as x. The score is
    :math:`-\sum_l \delta_l / E[\delta_l]`, with the expectation over training rows held out from
    the bounds.

    Parameters
    ----------
    layers : tuple of str, default=None
        Names of the modules that are read, as in ``module.named_modules()``. None: the last module
        at each resolution of the maps, and every nonlinearity that outputs rows.
    powers : tuple of int, default=(1, 2, 3, 4, 5)
        The powers p.
    validation_fraction : float, default=0.1
        Fraction of the training rows that is held out from the bounds.

    Attributes
    ----------
    layers_ : tuple of str
        Names of the modules that are read.
    minima_, maxima_ : list of ndarray of shape (n_classes, n_powers, n_channels)
        Bounds in each layer.
    expected_ : ndarray of shape (n_layers,)
        The :math:`E[\delta_l]`.

    Notes
    -----
    As in the authors' code, the rows of the Gram matrix are summed before the root is taken, while
    the paper keeps the upper triangle, and deviations are divided by the confidence of the
    prediction, which other implementations omit. The authors use powers up to 10, read every
    convolution and normalisation, and compute the expectation on test data. A class that is never
    predicted for a training row gets the bounds of all rows.

    Rows that the bounds were learned from have a score of 0. If `threshold_fraction` holds out no
    rows, the threshold is set on the rows that `validation_fraction` holds out.

    References
    ----------
    .. [1] C. S. Sastry, S. Oore, "Detecting Out-of-Distribution Examples with Gram Matrices",
       ICML 2020.

    Examples
    --------
    >>> from sklearn.datasets import load_iris
    >>> from skood import MLP, Gram
    >>> X, y = load_iris(return_X_y=True)
    >>> detector = Gram(MLP((16, 8), max_epochs=2), powers=(1, 2)).fit(X, y)
    >>> detector.layers_, [bounds.shape for bounds in detector.minima_]
    (('2', '5'), [(3, 2, 16), (3, 2, 8)])
    """

    layers: Sequence[str] | str | None = parameter(tuple, list, str, None, default=None)
    powers: Sequence[int] = parameter(tuple, list, default=(1, 2, 3, 4, 5))
    validation_fraction: float = parameter(FRACTION, default=0.1)

    def _check_parameters(self) -> None:
        if not self.powers or any(p != int(p) or p < 1 for p in self.powers):
            raise ValueError(f"powers={self.powers!r}; expected whole numbers of at least 1")

    def _learn_from_data(
        self, data: CheckedData, y: npt.NDArray | None, seed: int
    ) -> npt.NDArray[np.integer] | None:
        self.layers_ = layers_of(self._network, data, self.layers)
        order = numpy_rng(seed, Stream.GRAM_VALIDATION_ROWS).permutation(len(data))
        n_held_out = max(1, int(self.validation_fraction * len(order)))
        learned, held_out = np.sort(order[n_held_out:]), np.sort(order[:n_held_out])
        self._learn_bounds(data.subset(learned))
        deviations = [part for _, part in self._deviations(data.subset(held_out))]
        self.expected_ = np.concatenate(deviations).mean(0) + _EXPECTED_OFFSET
        return held_out

    def _score_samples(self, data: CheckedData) -> npt.NDArray[np.float64]:
        return np.concatenate(
            [0 - (deviations / self.expected_).sum(1) for _, deviations in self._deviations(data)]
        )

    def _learn_bounds(self, data: CheckedData) -> None:
        n_classes = self._network.n_classes
        self.minima_: list[npt.NDArray[np.float64]] = []
        self.maxima_: list[npt.NDArray[np.float64]] = []
        for _, (predicted, _, *grams) in self._grams(data):
            if not self.minima_:
                self.minima_ = [np.full((n_classes, *g.shape[1:]), np.inf) for g in grams]
                self.maxima_ = [-bound for bound in self.minima_]
            for k in np.unique(predicted):
                for low, high, g in zip(self.minima_, self.maxima_, grams, strict=True):
                    low[k] = np.minimum(low[k], g[predicted == k].min(0))
                    high[k] = np.maximum(high[k], g[predicted == k].max(0))
        for low, high in zip(self.minima_, self.maxima_, strict=True):
            unseen = np.isinf(low).all((1, 2))
            low[unseen], high[unseen] = low.min(0), high.max(0)

    def _deviations(self, data: CheckedData) -> Iterator[tuple[slice, npt.NDArray[np.float64]]]:
        """Yield the delta of each layer, shape (b, n_layers), about a thousand items at a time."""
        # A row on a bound may exceed it by a rounding error in another batch.
        rounding = min(100 * torch.finfo(self._network.dtype).eps, 1e-5)
        for rows, (predicted, confidence, *grams) in self._grams(data):
            deviations = np.empty((len(predicted), len(grams)))
            for layer, g in enumerate(grams):
                low, high = self.minima_[layer][predicted], self.maxima_[layer][predicted]
                below = (low - g) / (np.abs(low) + _BOUND_OFFSET)
                above = (g - high) / (np.abs(high) + _BOUND_OFFSET)
                outside = np.maximum(below, above)
                deviations[:, layer] = np.where(outside > rounding, outside, 0).sum((1, 2))
            yield rows, deviations / confidence[:, None]

    def _grams(self, data: CheckedData) -> Iterator[tuple[slice, tuple[npt.NDArray, ...]]]:
        """Yield class, confidence and the g of each layer, shape (b, n_powers, n_channels)."""
        network = self._network
        layers = modules_named(network, self.layers_)

        def grams(x: Tensor) -> tuple[Tensor, ...]:
            _, logits, activations = forward(network, x, layers)
            confidence, predicted = torch.softmax(logits.double(), 1).max(1)
            return predicted, confidence, *(_row_sums(maps, self.powers) for maps in activations)

        for rows, values in in_row_chunks(network, grams, data, type(self).__name__):
            check_magnitude(*values)
            yield rows, values


def _row_sums(activation: Tensor, powers: Sequence[int]) -> Tensor:
    """Return the row sums of the Gram matrices, shape (b, n_powers, n_channels)."""
    maps = as_maps(activation)
    # High powers of values far from 1 would overflow or underflow.
    size = maps.abs().amax((1, 2), keepdim=True)
    maps = maps / torch.where(size > 0, size, 1.0)
    sums = []
    for p in powers:
        power = maps**p
        # Summing over j inside the product avoids a (channels, channels) matrix.
        total = (power * power.sum(1, keepdim=True)).sum(2)
        sums.append(total.sign() * total.abs() ** (1 / p))
    return torch.stack(sums, 1) * size**2
