"""Mahalanobis distance in several layers."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from functools import partial
from typing import Any

import joblib
import numpy as np
import numpy.typing as npt
from scipy.spatial.distance import cdist
from torch import Tensor

from skood._checked_data import CheckedData
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


class LayerMahalanobis(NetworkDetector):
    r"""Distance to the nearest class mean, summed over layers.

    With :math:`z_l` the spatial mean of the output of layer l, :math:`\mu_{lk}` its mean in
    class k and :math:`S_l` the covariance that all classes share, divided by the number of rows,

    .. math::

        \sum_l \alpha_l \max_k \; -(z_l - \mu_{lk})^\top S_l^{-1} (z_l - \mu_{lk})

    Without labels there is one class.

    Parameters
    ----------
    classifier : classifier or Module, default=None
        A classifier of :mod:`skood.classifiers` or a trained torch module. One in
        :class:`sklearn.frozen.FrozenEstimator` is not trained again. None takes a convolutional
        network for images and an MLP for rows.
    layers : tuple of str, default=None
        Names of the modules that are read, as in ``module.named_modules()``. None takes
        the last one at each resolution of the maps, and every nonlinearity that outputs rows.
    weights : sequence of float, default=None
        The :math:`\alpha_l`. None: 1 for each.
    contamination : float, default=0.05
        Fraction of in-distribution data that falls below the threshold.
    threshold_fraction : float, default=0.1
        Fraction of the in-distribution rows that the threshold is read from and nothing else is
        learned from, at most 5000 rows. All rows are used for both if the fraction is 0 or if
        fewer than 50 rows would be held out. More than `contamination` of new data is then
        rejected; :class:`~skood.calibration.ConformalDetector` reads the threshold from other rows.
    memory : str or joblib.Memory, default=None
        Where trained models are cached by content.
    verbose : {"auto"}, bool or int, default="auto"
        Whether progress is shown. "auto" shows it on a terminal or in a notebook, for work of more
        than a few seconds.
    random_state : int, RandomState instance or None, default=None
        Seed for a model whose own ``random_state`` is None.

    Attributes
    ----------
    layers_ : tuple of str
        Names of the modules that are read.
    weights_ : tuple of float
        The :math:`\alpha_l`.
    means_ : list of ndarray of shape (n_classes, n_channels)
        Of each class, in each layer.
    classifier_ : classifier
        The trained classifier.
    offset_ : float
        Threshold on the score.

    See Also
    --------
    Mahalanobis : The same in the penultimate features.

    Notes
    -----
    The authors perturb the input like :class:`ODIN` and learn the weights by a logistic
    regression on out-of-distribution data; neither is done here. Directions in which
    :math:`S_l` is zero up to rounding are left out, so channels that are constant or
    depend on each other do no harm. The distance is not halved, which their code does.

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

    _overfits = True

    _parameter_constraints: dict = {
        **NetworkDetector._parameter_constraints,
        "layers": [tuple, list, str, None],
        "weights": ["array-like", None],
    }

    def __init__(
        self,
        classifier: Any = None,
        layers: Sequence[str] | str | None = None,
        weights: Sequence[float] | None = None,
        *,
        contamination: float = 0.05,
        threshold_fraction: float = 0.1,
        memory: str | joblib.Memory | None = None,
        verbose: bool | int | str = "auto",
        random_state: int | np.random.RandomState | None = None,
    ) -> None:
        super().__init__(
            classifier,
            contamination=contamination,
            threshold_fraction=threshold_fraction,
            memory=memory,
            verbose=verbose,
            random_state=random_state,
        )
        self.layers = layers
        self.weights = weights

    def _fit(
        self, inliers: CheckedData, y: npt.NDArray | None, outliers: CheckedData | None, seed: int
    ) -> None:
        super()._fit(inliers, y, outliers, seed)
        labels = np.zeros(len(inliers)) if y is None else y
        class_indices = np.unique(labels, return_inverse=True)[1]
        network = self._network
        self.layers_ = layers_of(network, inliers, self.layers)
        weights = 1.0 if self.weights is None else self.weights
        self.weights_ = one_per_layer(weights, self.layers_, "weights")
        moments = [ClassMoments(class_indices.max() + 1) for _ in self.layers_]
        for rows, features in self._features(inliers):
            for of_layer, z in zip(moments, features, strict=True):
                of_layer.add(z, class_indices[rows])
        self.means_ = [of_layer.means for of_layer in moments]
        self._whitening = [whitening(of_layer.scatter / len(inliers)) for of_layer in moments]
        self._white_means = [
            means @ white for means, white in zip(self.means_, self._whitening, strict=True)
        ]

    def _score_samples(self, data: CheckedData) -> npt.NDArray[np.float64]:
        scores = np.zeros(len(data))
        for rows, features in self._features(data):
            for weight, means, white, z in zip(
                self.weights_, self._white_means, self._whitening, features, strict=True
            ):
                scores[rows] -= weight * in_chunks(partial(_to_nearest, white, means), z)
        return scores

    def _features(self, data: CheckedData) -> Iterator[tuple[slice, tuple[npt.NDArray, ...]]]:
        """Means over space of all layers, for a thousand items at a time."""
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
    """Squared distance of whitened features to the nearest of the means."""
    return cdist(z @ white, means, "sqeuclidean").min(1)
