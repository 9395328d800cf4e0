"""The length of a diffusion model's score as the score of a detector."""

from __future__ import annotations

import numbers
from collections.abc import Sequence
from typing import Any

import joblib
import numpy as np
from torch import Tensor

from skood._parameters import Interval
from skood.density._diffusion import Denoiser
from skood.density._noise_schedule import mean_and_std
from skood.likelihood._diffusion_detector import DiffusionDetector

__all__ = ["ScoreNorm"]


class ScoreNorm(DiffusionDetector):
    r"""Detector on a diffusion model: the length of its score at an item.

    .. math:: -\|\sigma(t) \nabla \log p_t(\psi(t) x)\|_2

    where the gradient is that of the log-density of noisy items at time t: near a mode, where much
    of the data lies, it is short (Kamkari et al. 2024 [1]_ compare it as a baseline).

    Parameters
    ----------
    density : estimator, default=None
        A :class:`~skood.density.Diffusion`; one in :class:`sklearn.frozen.FrozenEstimator` is not
        trained again. None takes one with its defaults.
    t : float, default=0.01
        Time, from 0 to 1; with the default noise, its standard deviation is 0.04 at 0.01.
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
        Seed for a density whose own ``random_state`` is None, and of the rows that the threshold
        is read from where there are more than 5000.

    Attributes
    ----------
    density_ : estimator
        The fitted density.
    offset_ : float
        Threshold on the score, which has no unit.
    input_shape_ : tuple of int
        Shape of an item, (C, H, W) or (d,).
    n_features_in_ : int
        Values in an item.

    See Also
    --------
    LocalIntrinsicDimension : Has the length of the score as one of two terms of FLIPD.

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

    _parameter_constraints: dict = {
        **DiffusionDetector._parameter_constraints,
        "t": [Interval(numbers.Real, 0, 1, closed="right")],
    }

    def __init__(
        self,
        density: Any = None,
        *,
        t: float = 0.01,
        contamination: float = 0.05,
        threshold_fraction: float = 0.1,
        memory: str | joblib.Memory | None = None,
        verbose: bool | int | str = "auto",
        random_state: int | np.random.RandomState | None = None,
    ) -> None:
        self.density = density
        self.t = t
        self.contamination = contamination
        self.threshold_fraction = threshold_fraction
        self.memory = memory
        self.verbose = verbose
        self.random_state = random_state

    def _times(self) -> Sequence[float]:
        return (self.t,)

    def _of_items(self, denoiser: Denoiser, x: Tensor) -> Tensor:
        log_ratio = denoiser.log_ratio(self.t)
        _, sigma = mean_and_std(log_ratio)
        return -sigma * denoiser.score(x, log_ratio).flatten(1).norm(dim=1)
