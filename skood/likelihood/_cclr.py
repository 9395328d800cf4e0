"""A diffusion model's loss at low noise levels, relative to its loss at all levels."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from skood._estimator.parameters import FRACTION, at_least, estimator, parameter
from skood.density._denoiser import Denoiser
from skood.density._evidence import normal_points
from skood.likelihood._diffusion_detector import DiffusionDetector

__all__ = ["CCLR"]


@estimator
class CCLR(DiffusionDetector):
    r"""Complexity-corrected likelihood ratio of a diffusion model (Goodier and Campbell 2023).

    At low noise levels the denoising loss reflects an item's complexity, at high levels its
    content. The score is the mean loss until a time :math:`\tau` minus the mean loss of all times
    [1]_,

    .. math:: L(\tau) - L(1), \quad L(\tau) = \mathbb{E}_{t \sim U(0, \tau)} \left[
        \frac{t + 1/2}{D \, \sigma(t)} \|\epsilon - \hat\epsilon(x_t, t)\|_1 \right]

    in the form for continuous times of Kamkari et al. 2024 [2]_: the loss is the error of the score
    function, :math:`-\hat\epsilon / \sigma`, and times begin at the `t_min` of the diffusion model.

    Parameters
    ----------
    time_fraction : float, default=0.5
        :math:`\tau`. The default is the default of the code of [2]_.
    n_draws : int, default=32
        Draws of time and noise for each of the two means, the same for every item. Each draw costs
        a pass of the network.

    Attributes
    ----------
    offset_ : float
        Threshold on the score, which has no unit.

    Notes
    -----
    Published AUROCs are 0.781 for Fashion-MNIST against MNIST, where the OOD set is simpler, and
    0.224 for MNIST against Fashion-MNIST [2]_: the sign is not right for every pair of data sets.
    Each of these figures is the best of five :math:`\tau` on the OOD data (0.1, 0.25, 0.33, 0.5 and
    0.66), and therefore an upper bound for a :math:`\tau` that is chosen without OOD data.

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

    time_fraction: float = parameter(FRACTION, default=0.5, kw_only=True)
    n_draws: int = parameter(at_least(1), default=32, kw_only=True)

    def _times(self) -> Sequence[float]:
        return (self.time_fraction,)

    def _of_items(self, denoiser: Denoiser, x: Tensor) -> Tensor:
        return self._loss(denoiser, x, self.time_fraction) - self._loss(denoiser, x, 1.0)

    def _loss(self, denoiser: Denoiser, x: Tensor, last: float) -> Tensor:
        """Mean loss of each item until the time `last`."""
        total = torch.zeros(len(x), dtype=torch.float64, device=x.device)
        first = float(denoiser.schedule.time(torch.tensor(denoiser.log_ratios[0])))
        for point in normal_points(self.n_draws, 1 + x[0].numel()).to(x.device):
            # Near time 0 the weight grows as 1 / sigma, about the square root of 1 / t. Times that
            # are squares of uniform numbers, weighted by their density, bound the product.
            place = float(torch.special.ndtr(point[0]))
            t = first + (last - first) * place**2
            noise = point[1:].view(x.shape[1:])
            log_ratio = denoiser.log_ratio(t)
            found = denoiser.noise(denoiser.noisy(x, t, noise), log_ratio)
            error = (found - noise).flatten(1).double().abs().mean(1)
            total += 2 * place * (t + 0.5) / float(denoiser.std(log_ratio)) * error
        return total / self.n_draws
