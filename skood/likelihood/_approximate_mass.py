"""Norm of the gradient of a log-density by its input."""

from __future__ import annotations

from typing import Any

import joblib
import numpy as np
import numpy.typing as npt

from skood._checked_data import CheckedData
from skood._models import rows_through
from skood._parameters import HasMethods
from skood.base import BaseDetector
from skood.likelihood._base import default_flow, fit_density_with

__all__ = ["ApproximateMass"]


class ApproximateMass(BaseDetector):
    r"""Detector whose score is minus the norm of the gradient of log p(x), by x.

    .. math:: s(x) = -\Big\| \frac{\partial \log p(x)}{\partial x} \Big\|_2

    A point may have a high density and be surrounded by points of a much lower one, so that the
    region around it has little probability mass and the model would never draw it. There the
    density changes quickly; around typical points it does not. The score is called the approximate
    mass [1]_.

    Parameters
    ----------
    density : estimator, default=None
        A density with the method ``log_density_gradient``: a flow, or a
        :class:`~skood.density.VAE` with ``likelihood="gaussian"``. One in
        :class:`sklearn.frozen.FrozenEstimator` is not trained again. None takes
        :class:`~skood.density.ImageFlow` for images and
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
        Threshold on the score.
    input_shape_ : tuple of int
        Shape of an item, (C, H, W) or (d,).
    n_features_in_ : int
        Values in an item.

    See Also
    --------
    skood.posthoc.GradNorm : Norm of a gradient of a classifier, by its weights.

    Notes
    -----
    Scores are in nats per unit of the network's input: a standard deviation of a feature of rows,
    or the range from black to white of a pixel. Gradients of a VAE are those of its lower bound
    on log p(x).

    The norm is large where the data lie near a manifold of a lower dimension, in-distribution or
    not, since the density falls steeply beside it.

    References
    ----------
    .. [1] W. Grathwohl, K.-C. Wang, J.-H. Jacobsen, D. Duvenaud, M. Norouzi, K. Swersky, "Your
       Classifier is Secretly an Energy Based Model and You Should Treat it Like One", ICLR 2020,
       section 5.3.

    Examples
    --------
    >>> from sklearn.datasets import load_iris
    >>> from skood import ApproximateMass, NeuralSplineFlow
    >>> X = load_iris().data
    >>> detector = ApproximateMass(NeuralSplineFlow(max_epochs=5, random_state=0)).fit(X)
    >>> detector.predict([[9.0, 9.0, 9.0, 9.0]])
    array([-1])
    """

    _model_parameters = ("density",)

    _parameter_constraints: dict = {
        **BaseDetector._parameter_constraints,
        "density": [HasMethods(["fit"]), None],
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
        density = default_flow(inliers) if self.density is None else self.density
        self.density_ = fit_density_with(
            ("log_density_gradient",),
            density,
            inliers,
            y,
            message=f"ApproximateMass needs the gradient of log p(x), and density={density!r} has "
            'no log_density_gradient; expected a flow, VAE(likelihood="gaussian") or another '
            "density with this method. The probabilities of levels that PixelCNN and other "
            "likelihoods of VAE model have no gradient",
            error=TypeError,
            seed=None if self.random_state is None else seed,
            memory=self.memory,
        )

    def _score_samples(self, data: CheckedData) -> npt.NDArray[np.float64]:
        gradients = rows_through(self.density_, "log_density_gradient", data)
        return -np.linalg.norm(gradients.reshape(len(gradients), -1), axis=1)
