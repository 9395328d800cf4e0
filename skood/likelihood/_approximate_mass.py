"""Norm of the gradient of a log-density with respect to its input."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from skood._data.checked_data import CheckedData
from skood._estimator.methods import check_provides
from skood._estimator.parameters import HasMethods, estimator, parameter
from skood._models import rows_through
from skood.likelihood._base import DensityDetector, default_flow

__all__ = ["ApproximateMass"]


@estimator
class ApproximateMass(DensityDetector):
    r"""Detector whose score is minus the norm of the gradient of log p(x) with respect to x.

    .. math:: s(x) = -\Big\| \frac{\partial \log p(x)}{\partial x} \Big\|_2

    A point with a high density may be surrounded by points of much lower density: the region
    around it has little probability mass, and the model would never draw it. There the density
    changes quickly; around typical points it does not. The score is called the approximate mass
    [1]_.

    Parameters
    ----------
    density : estimator, default=None
        A density with the method ``log_density_gradient``: a flow, or a
        :class:`~skood.density.VAE` with ``likelihood="gaussian"``. None takes
        :class:`~skood.density.ImageFlow` for images and
        :class:`~skood.density.NeuralSplineFlow` for rows.

    See Also
    --------
    skood.posthoc.GradNorm : Norm of the gradient of a classifier with respect to its weights.

    Notes
    -----
    Scores are in nats per unit of the network's input: a standard deviation of a feature of rows,
    or the range from black to white of a pixel. A VAE gives the gradient of its lower bound on
    log p(x).

    Near a manifold of a lower dimension the norm is large for all items, in-distribution or not,
    since the density falls steeply away from the manifold.

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

    def _default_density(self, data: CheckedData) -> Any:
        return default_flow(data)

    def _check_density(self, density: Any) -> None:
        check_provides(
            density,
            "log_density_gradient",
            message=f"ApproximateMass needs the gradient of log p(x), and density={density!r} has "
            'no log_density_gradient; expected a flow, VAE(likelihood="gaussian") or another '
            "density with this method. Probabilities of levels, of PixelCNN and of a VAE with "
            "another likelihood, have no gradient",
            error=TypeError,
        )

    def _score_samples(self, data: CheckedData) -> npt.NDArray[np.float64]:
        gradients = rows_through(self.density_, "log_density_gradient", data)
        return -np.linalg.norm(gradients.reshape(len(gradients), -1), axis=1)
