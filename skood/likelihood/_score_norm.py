"""Norm of a diffusion model's score function."""

from __future__ import annotations

import numbers
from collections.abc import Sequence

from torch import Tensor

from skood._parameters import Interval, estimator, parameter
from skood.density._denoiser import Denoiser
from skood.density._noise_schedule import mean_and_std
from skood.likelihood._diffusion_detector import DiffusionDetector

__all__ = ["ScoreNorm"]


@estimator
class ScoreNorm(DiffusionDetector):
    r"""Detector on a diffusion model: minus the norm of its score function at an item.

    .. math:: -\|\sigma(t) \nabla \log p_t(\psi(t) x)\|_2

    where :math:`\log p_t` is the log-density of noisy items at time t. The gradient is small near a
    mode, where many of the data lie. The score is a baseline in [1]_.

    Parameters
    ----------
    t : float, default=0.01
        Time, from 0 to 1. By default the standard deviation of the noise is 0.04 at time 0.01.

    Attributes
    ----------
    offset_ : float
        Threshold on the score, which has no unit.

    See Also
    --------
    LocalIntrinsicDimension : Uses the norm of the score function as a term of FLIPD.

    References
    ----------
    .. [1] H. Kamkari et al., "A Geometric Explanation of the Likelihood OOD Detection Paradox",
       ICML 2024.

    Examples
    --------
    >>> from sklearn.datasets import load_iris
    >>> from skood import Diffusion, ScoreNorm
    >>> X = load_iris().data
    >>> detector = ScoreNorm(Diffusion(max_steps=20, random_state=0), random_state=0).fit(X)
    >>> detector.predict([[9.0, 9.0, 9.0, 9.0]])
    array([-1])
    """

    t: float = parameter(Interval(numbers.Real, 0, 1, closed="right"), default=0.01, kw_only=True)

    def _times(self) -> Sequence[float]:
        return (self.t,)

    def _of_items(self, denoiser: Denoiser, x: Tensor) -> Tensor:
        log_ratio = denoiser.log_ratio(self.t)
        _, sigma = mean_and_std(log_ratio)
        return -sigma * denoiser.score(x, log_ratio).flatten(1).norm(dim=1)
