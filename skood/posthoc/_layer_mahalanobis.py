"""Mahalanobis distance in several layers."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from functools import partial

import numpy as np
import numpy.typing as npt
from scipy.spatial.distance import cdist
from torch import Tensor

from skood._data.checked_data import CheckedData
from skood._estimator.parameters import estimator, parameter
from skood._models import in_chunks
from skood._moments import ClassMoments
from skood.classifiers._layers import (
    as_maps,
    forward,
    in_row_chunks,
    layers_of,
    modules_named,
    one_per_layer,
)
from skood.posthoc._base import NetworkDetector, check_magnitude
from skood.posthoc._covariance import whitening

__all__ = ["LayerMahalanobis"]


@estimator
class LayerMahalanobis(NetworkDetector):
    r"""Distance to the nearest class mean, summed over layers.

    With :math:`z_l` the spatial mean of the output of layer l, :math:`\mu_{lk}` its mean in
    class k and :math:`S_l` the covariance that all classes share, divided by the number of rows,

    .. math::

        \sum_l \alpha_l \max_k \; -(z_l - \mu_{lk})^\top S_l^{-1} (z_l - \mu_{lk})

    Without labels, there is one class.

    Parameters
    ----------
    layers : tuple of str, default=None
        Names of the modules that are read, as in ``module.named_modules()``. None: the last module
        at each resolution of the maps, and every nonlinearity that outputs rows.
    weights : sequence of float, default=None
        The :math:`\alpha_l`. None: 1 for each.

    Attributes
    ----------
    layers_ : tuple of str
        Names of the modules that are read.
    weights_ : tuple of float
        The :math:`\alpha_l`.
    means_ : list of ndarray of shape (n_classes, n_channels)
        Mean of each class, in each layer.

    See Also
    --------
    Mahalanobis : The same distance in the penultimate features.

    Notes
    -----
    The authors perturb the input as in :class:`ODIN` and learn the weights with a logistic
    regression on out-of-distribution data; this class does neither. The inverse omits directions in
    which :math:`S_l` is zero up to rounding, so constant or linearly dependent channels do no harm.
    The authors' code halves the distance; this class does not.

    References
    ----------
    .. [1] K. Lee, K. Lee, H. Lee, J. Shin, "A Simple Unified Framework for Detecting
       Out-of-Distribution Samples and Adversarial Attacks", NeurIPS 2018, equation 2 and
       algorithm 1.

    Examples
    --------
    >>> from sklearn.datasets import load_iris
    >>> from skood import MLP, LayerMahalanobis
    >>> X, y = load_iris(return_X_y=True)
    >>> detector = LayerMahalanobis(MLP((16, 8), max_epochs=2)).fit(X, y)
    >>> detector.layers_, [mean.shape for mean in detector.means_]
    (('2', '5'), [(3, 16), (3, 8)])
    """

    layers: Sequence[str] | str | None = parameter(tuple, list, str, None, default=None)
    weights: Sequence[float] | None = parameter("array-like", None, default=None)

    _overfits = True

    def _learn_from_data(
        self, data: CheckedData, y: npt.NDArray | None, seed: int
    ) -> npt.NDArray[np.integer] | None:
        labels = np.zeros(len(data)) if y is None else y
        class_indices = np.unique(labels, return_inverse=True)[1]
        network = self._network
        self.layers_ = layers_of(network, data, self.layers)
        weights = 1.0 if self.weights is None else self.weights
        self.weights_ = one_per_layer(weights, self.layers_, "weights")
        moments = [ClassMoments(class_indices.max() + 1) for _ in self.layers_]
        for rows, features in self._features(data):
            for of_layer, z in zip(moments, features, strict=True):
                of_layer.add(z, class_indices[rows])
        self.means_ = [of_layer.means for of_layer in moments]
        self._whitening = [whitening(of_layer.scatter / len(data)) for of_layer in moments]
        self._white_means = [
            means @ white for means, white in zip(self.means_, self._whitening, strict=True)
        ]
        return None

    def _score_samples(self, data: CheckedData) -> npt.NDArray[np.float64]:
        scores = np.zeros(len(data))
        for rows, features in self._features(data):
            for weight, means, white, z in zip(
                self.weights_, self._white_means, self._whitening, features, strict=True
            ):
                scores[rows] -= weight * in_chunks(partial(_to_nearest, white, means), z)
        return scores

    def _features(self, data: CheckedData) -> Iterator[tuple[slice, tuple[npt.NDArray, ...]]]:
        """Yield means over space of all layers, for about a thousand items at a time."""
        network = self._network
        layers = modules_named(network, self.layers_)

        def means_over_space(x: Tensor) -> tuple[Tensor, ...]:
            return tuple(as_maps(maps).mean(2) for maps in forward(network, x, layers)[2])

        for rows, features in in_row_chunks(network, means_over_space, data, type(self).__name__):
            check_magnitude(*features)
            yield rows, features


def _to_nearest(
    white: npt.NDArray[np.float64], means: npt.NDArray[np.float64], z: npt.NDArray[np.float64]
) -> npt.NDArray[np.float64]:
    """Return the squared distance of whitened features to the nearest mean."""
    return cdist(z @ white, means, "sqeuclidean").min(1)
