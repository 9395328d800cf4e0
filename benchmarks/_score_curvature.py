"""The ratio of score norm and curvature of a diffusion model, with a kernel density on top."""

from __future__ import annotations

import numpy as np
import torch
from scipy.stats import gaussian_kde
from torch import Tensor

from skood.density._denoiser import Denoiser, rademacher
from skood.density._evidence import normal_points
from skood.density._noise_schedule import mean_and_std
from skood.density._probability_flow import noise_and_trace
from skood.likelihood._diffusion_detector import DiffusionDetector

__all__ = ["ScoreCurvature", "ratio"]

TIMES = 0.01, 0.3
N_DRAWS = 4
# Most features for which the trace is exact.
EXACT = 64


def ratio(denoiser: Denoiser, x: Tensor, t: float) -> Tensor:
    r"""Squared norm of the score over minus the trace of its Jacobian, at noisy items, (b,).

    Numerator and denominator are means over the same draws of noise for every item. Both have the
    same expectation under the density of noisy items, whose score is the model's.
    """
    log_ratio = denoiser.log_ratio(t)
    _, sigma = mean_and_std(log_ratio)
    n_values = x[0].numel()
    probes = None if n_values <= EXACT else rademacher((1, *x.shape[1:])).to(x.device)
    lengths, traces = 0.0, 0.0
    for draw in normal_points(N_DRAWS, n_values).to(x.device):
        noisy = denoiser.noisy(x, t, draw.view(x.shape[1:])).to(x.dtype)
        noise, trace = noise_and_trace(denoiser.noise, noisy, log_ratio, probes)
        lengths = lengths + noise.flatten(1).double().square().sum(1)
        traces = traces + sigma * trace
    return lengths / traces


class ScoreCurvature(DiffusionDetector):
    """Log-density of the ratio under a kernel density of training ratios, the least of two times.

    Reviews of Barkley et al. (SCOPED, arXiv:2510.01456) describe the statistic so. The paper also
    corrects a sign in a way that the reviews do not state, and its code is not published: this is
    not the published method.
    """

    def _fit(self, inliers, y, outliers, seed):
        rows = super()._fit(inliers, y, outliers, seed)
        self.kernels_ = [gaussian_kde(ratios) for ratios in self._ratios(inliers).T]
        return rows

    def _of_items(self, denoiser: Denoiser, x: Tensor) -> Tensor:
        return torch.stack([ratio(denoiser, x, t) for t in TIMES], dim=1)

    def _ratios(self, data) -> np.ndarray:
        return DiffusionDetector._score_samples(self, data)

    def _score_samples(self, data) -> np.ndarray:
        ratios = self._ratios(data)
        return np.min([k.logpdf(r) for k, r in zip(self.kernels_, ratios.T, strict=True)], axis=0)
