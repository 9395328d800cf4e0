"""Norm of the gradient of a log-density by its input."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from skood._checked_data import CheckedData
from skood._models import rows_through
from skood._parameters import HasMethods, estimator, parameter
from skood.likelihood._base import DensityDetector, default_flow, fit_density_with

__all__ = ["ApproximateMass"]


@estimator
class ApproximateMass(DensityDetector):
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
    memory : str or joblib.Memory, default=None
        Where fitted densities are cached by their parameters and data.

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

    density: Any = parameter(HasMethods(["fit"]), None, default=None)

    _model_parameters = ("density",)

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
