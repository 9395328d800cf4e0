"""Losses of a diffusion model at little noise beside those at all noise."""

from __future__ import annotations

import numbers

import torch
from torch import Tensor

from skood._parameters import Interval, estimator, parameter
from skood.density._diffusion import Denoiser
from skood.density._evidence import normal_points
from skood.likelihood._diffusion_detector import DiffusionDetector

__all__ = ["CCLR"]


@estimator
class CCLR(DiffusionDetector):
    r"""Complexity-corrected likelihood ratio of a diffusion model (Goodier and Campbell 2023).

    How well noise is found in a noisy item depends, for little noise, on how complex the item is,
    and for much noise on what it shows. The score is the difference of the mean loss until a time
    and that of all times [1]_,

    .. math:: L(\tau) - L(1), \quad L(\tau) = \mathbb{E}_{t \sim U(0, \tau)} \left[
        (t + \tfrac{1}{2}) \tfrac{1}{D} \|\epsilon - \hat\epsilon(x_t, t)\|_1 \right]

    in the form that Kamkari et al. 2024 [2]_ give it for continuous times.

    Parameters
    ----------
    density : estimator, default=None
        A :class:`~skood.density.Diffusion`; one in :class:`sklearn.frozen.FrozenEstimator` is not
        trained again. None takes one with its defaults.
    time_fraction : float, default=0.5
        :math:`\tau`.
    n_draws : int, default=32
        Draws of time and noise for each of the two means, the same for every item; each costs a
        pass of the network.

    Attributes
    ----------
    offset_ : float
        Threshold on the score, which has no unit.

    Notes
    -----
    Published AUROCs differ in their direction: .781 for Fashion-MNIST against MNIST, where the OOD
    set is simpler, and .224 for MNIST against Fashion-MNIST [2]_.

    References
    ----------
    .. [1] J. S. Goodier and N. D. F. Campbell, "Likelihood-based Out-of-Distribution Detection with
       Denoising Diffusion Probabilistic Models", BMVC 2023.
    .. [2] H. Kamkari et al., "A Geometric Explanation of the Likelihood OOD Detection Paradox",
       ICML 2024.

    Examples
    --------
    >>> from sklearn.datasets import load_iris
    >>> from skood import CCLR, Diffusion
    >>> X = load_iris().data
    >>> CCLR(Diffusion(max_steps=20, random_state=0)).fit(X).score_samples(X[:3]).shape
    (3,)
    """

    time_fraction: float = parameter(
        Interval(numbers.Real, 0, 1, closed="neither"), default=0.5, kw_only=True
    )
    n_draws: int = parameter(
        Interval(numbers.Integral, 1, None, closed="left"), default=32, kw_only=True
    )

    def _of_items(self, denoiser: Denoiser, x: Tensor) -> Tensor:
        return self._loss(denoiser, x, self.time_fraction) - self._loss(denoiser, x, 1.0)

    def _loss(self, denoiser: Denoiser, x: Tensor, last: float) -> Tensor:
        """Mean loss of each item until the time `last`."""
        total = torch.zeros(len(x), dtype=torch.float64, device=x.device)
        for point in normal_points(self.n_draws, 1 + x[0].numel()).to(x.device):
            t = last * float(torch.special.ndtr(point[0]))
            noise = point[1:].view(x.shape[1:])
            # The model knows no smaller noise than that.
            log_ratio = denoiser.log_ratio(t).clamp(min=denoiser.log_ratios[0])
            found = denoiser.noise(denoiser.noisy(x, t, noise), log_ratio)
            error = (found - noise).flatten(1).double().abs().mean(1)
            total += (t + 0.5) * error
        return total / self.n_draws
