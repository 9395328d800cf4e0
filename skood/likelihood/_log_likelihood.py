"""The density itself as the score."""

from __future__ import annotations

from typing import Any

import joblib
import numpy as np
import numpy.typing as npt
from sklearn.utils.metaestimators import available_if

from skood._checked_data import CheckedData
from skood._models import fit_model
from skood._parameters import HasMethods
from skood.base import BaseDetector
from skood.likelihood._base import default_density, log_density, log_density_of_pixels

__all__ = ["LogLikelihood"]


class LogLikelihood(BaseDetector):
    """Detector whose score is the log-density, log p(x).

    The baseline that the likelihood ratio improves: a density of images assigns many
    out-of-distribution images, above all simple ones, a higher value than its training data
    (Nalisnick et al. 2019).

    Parameters
    ----------
    density : estimator, default=None
        Any estimator with ``fit`` and ``score_samples``; one in
        :class:`sklearn.frozen.FrozenEstimator` is not trained again. None takes
        :class:`~skood.density.PixelCNN` for images and
        :class:`~skood.density.NeuralSplineFlow` for rows.
    contamination : float, default=0.05
        Fraction of in-distribution data that falls below the threshold.
    threshold_fraction : float, default=0.1
        Fraction of the in-distribution rows that no model is trained on and the threshold is read
        from, at most 5000 rows. The threshold is read from all rows if the fraction is 0, if fewer
        than 50 rows would be held out, or if the model comes trained. If the model was trained on
        the rows of the threshold, more than `contamination` of new data is rejected;
        :class:`~skood.calibration.ConformalDetector` reads the threshold from other rows.
    memory : str or joblib.Memory, default=None
        Where fitted densities are cached by their parameters and data.
    verbose : {"auto"}, bool or int, default="auto"
        Whether progress is shown. "auto" shows it on a terminal or in a notebook, for work of more
        than a few seconds.
    random_state : int, RandomState instance or None, default=None
        Seed for a density whose own ``random_state`` is None, and of the rows that the
        threshold is read from where there are more than 5000.

    Attributes
    ----------
    density_ : estimator
        The fitted density.
    offset_ : float
        Threshold on the score, in nats.
    input_shape_ : tuple of int
        Shape of an item, (C, H, W) or (d,).
    n_features_in_ : int
        Values in an item.

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

    _model_parameters = ("density",)

    _parameter_constraints: dict = {
        **BaseDetector._parameter_constraints,
        "density": [HasMethods(["fit", "score_samples"]), None],
        "memory": [str, HasMethods(["cache"]), None],
    }

    def __init__(
        self,
        density: Any = None,
        *,
        contamination: float = 0.05,
        threshold_fraction: float = 0.1,
        memory: str | joblib.Memory | None = None,
        verbose: bool | int | str = "auto",
        random_state: int | np.random.RandomState | None = None,
    ) -> None:
        self.density = density
        self.contamination = contamination
        self.threshold_fraction = threshold_fraction
        self.memory = memory
        self.verbose = verbose
        self.random_state = random_state

    def _fit(
        self, inliers: CheckedData, y: npt.NDArray | None, outliers: CheckedData | None, seed: int
    ) -> None:
        self.density_ = fit_model(
            default_density(inliers) if self.density is None else self.density,
            inliers,
            y,
            seed=None if self.random_state is None else seed,
            memory=self.memory,
        )

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
            return log_density_of_pixels(self.density_, data)
