"""Parameters of the noise of a diffusion model."""

from __future__ import annotations

import numbers

import numpy as np
import torch

from skood._estimator.internal import internal
from skood._estimator.parameters import (
    FRACTION,
    POSITIVE,
    Interval,
    StrOptions,
    estimator,
    parameter,
)
from skood.density._noise_schedule import NoiseSchedule, VarianceExploding, VariancePreserving

__all__ = ["NoiseParameters"]

# Rounding of log-ratios that are compared.
_ROUNDING = 1e-5


@estimator
class NoiseParameters:
    r"""Mixin of a diffusion model: the noise of each time, and the times.

    Parameters
    ----------
    sde : {"vp", "ve"}, default="vp"
        "vp" is variance-preserving, :math:`\psi^2 = \exp(-\beta_0 t - (\beta_1 - \beta_0) t^2 / 2)`
        and :math:`\sigma^2 = 1 - \psi^2`; "ve" is variance-exploding, :math:`\psi = 1` and
        :math:`\sigma = \sigma_0 (\sigma_1 / \sigma_0)^t`.
    beta_min : float, default=0.1
        For "vp": :math:`\beta_0`, the rate of noise at time 0.
    beta_max : float, default=20.0
        For "vp": :math:`\beta_1`, the rate of noise at time 1.
    sigma_min : float, default=0.001
        For "ve": :math:`\sigma_0`, the standard deviation of the noise at time 0, in units of the
        network. The default is the smallest noise of "vp"; Song et al. take 0.02 in these units.
    sigma_max : float, default=50.0
        For "ve": :math:`\sigma_1`, the standard deviation of the noise at time 1.
    t_min : float, default=1e-05
        Time of the smallest noise that is modelled, for "vp" by default of a standard deviation of
        0.001. A larger one costs bits per dimension for images with many equal pixels: a step of
        256 levels is 0.008.
    t_score : float or None, default=None
        Time at which an item is scored: its log-density is the log-density of noisy items at this
        time, as if x were :math:`x_t / \psi(t)`. None takes `t_min`; Kamkari et al. take 0.01.
        Training and samples do not depend on it.

    Attributes
    ----------
    noise_range_ : (float, float)
        Logarithms of :math:`\sigma / \psi` at the smallest and the largest noise of training.
    """

    sde: str = parameter(StrOptions({"vp", "ve"}), default="vp", kw_only=True)
    beta_min: float = parameter(POSITIVE, default=0.1, kw_only=True)
    beta_max: float = parameter(POSITIVE, default=20.0, kw_only=True)
    sigma_min: float = parameter(POSITIVE, default=0.001, kw_only=True)
    sigma_max: float = parameter(POSITIVE, default=50.0, kw_only=True)
    t_min: float = parameter(FRACTION, default=1e-5, kw_only=True)
    t_score: float | None = parameter(
        Interval(numbers.Real, 0, 1, closed="right"), None, default=None, kw_only=True
    )

    def _check_schedule(self) -> None:
        if self.sde == "ve" and self.sigma_min >= self.sigma_max:
            raise ValueError(
                f"sigma_min={self.sigma_min!r} is not below sigma_max={self.sigma_max!r}"
            )
        if self.t_score is not None and self.t_score < self.t_min:
            raise ValueError(
                f"t_score={self.t_score!r}; expected a time from t_min={self.t_min!r}, the "
                "smallest that is modelled, to 1"
            )

    @internal
    def log_ratios(self) -> tuple[float, float]:
        """Logarithms of the smallest and the largest noise, relative to the item."""
        low, high = self._schedule().log_ratio(torch.tensor([self.t_min, 1.0]))
        return float(low), float(high)

    @internal
    def check_time(self, t: float) -> None:
        """Raise for a time whose noise the model, fitted or not, does not model.

        Parameters
        ----------
        t : float
        """
        if not self.t_min <= t <= 1:
            raise ValueError(
                f"t={t!r}; expected a time from t_min={self.t_min!r}, the smallest that is "
                "modelled, to 1"
            )

    def _check_trained(self) -> None:
        """Raise if parameters were changed after `fit` to noise that training did not include."""
        # Files of earlier versions do not state the range.
        low, high = getattr(self, "noise_range_", (-np.inf, np.inf))
        lowest, highest = self.log_ratios()
        if lowest < low - _ROUNDING or highest > high + _ROUNDING:
            raise ValueError(
                f"the network was trained on log-ratios of noise from {low:.4g} to {high:.4g}, but "
                f"the parameters now span {lowest:.4g} to {highest:.4g}; fit again after a change "
                "of sde, t_min, beta_min, beta_max, sigma_min or sigma_max"
            )

    def _schedule(self) -> NoiseSchedule:
        if self.sde == "ve":
            return VarianceExploding(self.sigma_min, self.sigma_max)
        return VariancePreserving(self.beta_min, self.beta_max)

    def _scored_log_ratios(self) -> tuple[float, float]:
        """Log-ratios between which the ODE of a log-density runs."""
        self._check_schedule()
        self._check_trained()
        low, high = self.log_ratios()
        if self.t_score is not None:
            low = float(self._schedule().log_ratio(torch.tensor(self.t_score)))
        return low, high
