"""The density itself as the score."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
from sklearn.utils.metaestimators import available_if

from skood._data.checked_data import CheckedData
from skood._estimator.parameters import estimator
from skood.likelihood._base import (
    ExplainedByParts,
    log_density,
    log_density_of_pixels,
    log_density_of_positions,
)

__all__ = ["LogLikelihood"]


@estimator
class LogLikelihood(ExplainedByParts):
    """Detector whose score is the log-density, log p(x).

    The baseline of the other detectors on a density. A density of images gives many
    out-of-distribution images, above all simple ones, higher values than its training data [1]_.

    See Also
    --------
    LikelihoodRatio : Divides by the density of the background.

    References
    ----------
    .. [1] E. Nalisnick, A. Matsukawa, Y. W. Teh, D. Gorur, B. Lakshminarayanan, "Do Deep
       Generative Models Know What They Don't Know?", ICLR 2019.

    Examples
    --------
    >>> from sklearn.datasets import load_iris
    >>> from sklearn.neighbors import KernelDensity
    >>> from skood import LogLikelihood
    >>> X = load_iris().data
    >>> detector = LogLikelihood(KernelDensity(bandwidth=0.5)).fit(X)
    >>> detector.predict([[5.0, 3.4, 1.5, 0.2], [9.0, 9.0, 9.0, 9.0]])
    array([ 1, -1])
    """

    _models_strings = True

    def _score_samples(self, data: CheckedData) -> npt.NDArray[np.float64]:
        return log_density(self.density_, data)

    @available_if(lambda self: hasattr(self.density_, "score_pixels"))
    def score_pixels(self, X: Any) -> npt.NDArray[np.float64]:
        """Log-probability of each pixel given those before it.

        Parameters
        ----------
        X : array-like, Tensor or Dataset of shape (n_samples, ...)

        Returns
        -------
        ndarray of shape (n_samples, H, W), float64
            In nats; their sum over an image is its score.
        """
        data = self._check(X)
        with self._shows_progress("scoring pixels"):
            return self._pixels(data)

    def _pixels(self, data: CheckedData) -> npt.NDArray[np.float64]:
        return log_density_of_pixels(self.density_, data)

    @available_if(lambda self: hasattr(self.density_, "score_positions"))
    def score_positions(self, X: Any) -> list[npt.NDArray[np.float64]]:
        """Log-probability of each position of a sequence, such as a text, given those before it.

        Parameters
        ----------
        X : list of str, array-like, Tensor or Dataset of shape (n_samples, ...)

        Returns
        -------
        list of ndarray of shape (n_positions,), float64
            In nats; their sum over a sequence is its score.
        """
        data = self._check(X)
        with self._shows_progress("scoring positions"):
            return self._positions(data)

    def _positions(self, data: CheckedData) -> list[npt.NDArray[np.float64]]:
        return log_density_of_positions(self.density_, data)
