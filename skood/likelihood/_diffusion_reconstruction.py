"""Distance of an item from its reconstruction by a diffusion model."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from skood._checked_data import CheckedData
from skood._parameters import StrOptions, at_least, estimator, parameter
from skood._torch.seeding import Stream, numpy_rng, torch_rng
from skood.density._denoiser import Denoiser
from skood.likelihood._diffusion_detector import DiffusionDetector

__all__ = ["DiffusionReconstruction"]


@estimator
class DiffusionReconstruction(DiffusionDetector):
    r"""Detector on a diffusion model: the distance of an item from its reconstruction.

    Noise of several times t is added to an item, and the model removes it [1]_. The result is more
    like the training data, so that its distance :math:`d_t` from an out-of-distribution item is
    larger than from an in-distribution item. With the mean :math:`\mu_t` and the standard deviation
    :math:`\sigma_t` of :math:`d_t` over training rows, the score is minus the mean standardised
    distance,

    .. math:: -\frac{1}{T} \sum_t \frac{d_t(x) - \mu_t}{\sigma_t}

    Parameters
    ----------
    times : sequence of float, default=(0.1, 0.2, 0.3, 0.4, 0.5)
        Times, from 0 to 1.
    n_steps : int, default=4
        Runge-Kutta steps of the probability-flow ODE that removes the noise, each with four passes
        of the network. 0 takes the mean that one pass predicts.
    distance : {"mse", "lpips"} or callable, default="mse"
        Mean squared error in units of the network (pixels in [-1, 1], standardised rows); or LPIPS
        with AlexNet [2]_, for images, from the package ``lpips``, which downloads the weights; or
        a function of two tensors (b, ...) that returns (b,).
    n_calibration : int or None, default=1000
        Training rows for the means and standard deviations. None takes all.

    Attributes
    ----------
    mean_distances_, std_distances_ : ndarray of shape (n_times,)
        Means and standard deviations of the distances of the calibration rows.
    offset_ : float
        Threshold on the score, in standard deviations.

    References
    ----------
    .. [1] M. S. Graham, W. H. L. Pinaya, P.-D. Tudosiu, P. Nachev, S. Ourselin, M. J. Cardoso,
       "Denoising Diffusion Models for Out-of-Distribution Detection", CVPR Workshops 2023.
    .. [2] R. Zhang, P. Isola, A. A. Efros, E. Shechtman, O. Wang, "The Unreasonable Effectiveness
       of Deep Features as a Perceptual Metric", CVPR 2018.

    Examples
    --------
    >>> from sklearn.datasets import load_iris
    >>> from skood import Diffusion, DiffusionReconstruction
    >>> X = load_iris().data
    >>> diffusion = Diffusion(max_steps=20, random_state=0)
    >>> detector = DiffusionReconstruction(diffusion, random_state=0).fit(X)
    >>> detector.predict([[9.0, 9.0, 9.0, 9.0]])
    array([-1])
    """

    times: Sequence[float] = parameter(
        "array-like", default=(0.1, 0.2, 0.3, 0.4, 0.5), kw_only=True
    )
    n_steps: int = parameter(at_least(0), default=4, kw_only=True)
    distance: str | Callable[[Tensor, Tensor], Tensor] = parameter(
        StrOptions({"mse", "lpips"}), callable, default="mse", kw_only=True
    )
    n_calibration: int | None = parameter(at_least(2), None, default=1000, kw_only=True)

    def _fit(
        self, inliers: CheckedData, y: npt.NDArray | None, outliers: CheckedData | None, seed: int
    ) -> None:
        if len(self.times) == 0 or not all(0 < t <= 1 for t in self.times):
            raise ValueError(f"times={self.times!r}; expected at least one, above 0 and at most 1")
        self._noise_seed = seed
        self._measure = self._make_measure(inliers)
        super()._fit(inliers, y, outliers, seed)
        rows = numpy_rng(seed, Stream.RECONSTRUCTION_ROWS).permutation(len(inliers))
        distances = super()._score_samples(inliers.subset(rows[: self.n_calibration]))
        self.mean_distances_, std = distances.mean(0), distances.std(0)
        # If all distances are equal, they are divided by their mean instead.
        self.std_distances_ = np.where(std > 0, std, np.maximum(self.mean_distances_, 1e-12))

    def _times(self) -> Sequence[float]:
        return self.times

    def _make_measure(self, data: CheckedData) -> Callable[[Tensor, Tensor], Tensor]:
        if callable(self.distance):
            return self.distance
        if self.distance == "mse":
            return _mean_squared_error
        if not data.is_image:
            raise ValueError(
                f"distance='lpips' compares images, but X has rows of {data.item_shape[0]} values; "
                "take 'mse'"
            )
        try:
            from lpips import LPIPS
        except ImportError as error:
            raise ImportError(
                "distance='lpips' needs the package lpips: pip install lpips"
            ) from error
        network = LPIPS(net="alex", verbose=False).eval()
        return lambda x, y: network.to(x.device)(x, y).flatten()

    def _of_items(self, denoiser: Denoiser, x: Tensor) -> Tensor:
        distances = []
        for k, t in enumerate(self.times):
            generator = torch_rng(torch.device("cpu"), self._noise_seed, Stream.ADDED_NOISE, k)
            noise = torch.randn(x.shape[1:], generator=generator).to(x.device)
            restored = denoiser.denoise(denoiser.noisy(x, t, noise), t, self.n_steps)
            distances.append(self._measure(x, restored))
        return torch.stack(distances, 1)

    def _score_samples(self, data: CheckedData) -> npt.NDArray[np.float64]:
        distances = super()._score_samples(data)
        return -((distances - self.mean_distances_) / self.std_distances_).mean(1)


def _mean_squared_error(x: Tensor, y: Tensor) -> Tensor:
    return (x - y).flatten(1).double().square().mean(1)
