"""Distance of an item from its reconstruction by a diffusion model."""

from __future__ import annotations

import numbers
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from skood._data.checked_data import CheckedData
from skood._estimator.parameters import Interval, StrOptions, at_least, estimator, parameter
from skood._optional import import_optional
from skood._thresholds import held_out_rows
from skood._torch.seeding import Stream, numpy_rng, torch_rng
from skood.density._denoiser import Denoiser
from skood.likelihood._diffusion_detector import DiffusionDetector
from skood.likelihood._item_distances import mean_squared_error, structural_dissimilarity

__all__ = ["DiffusionReconstruction"]

Distance = Callable[[Tensor, Tensor], Tensor]
_DISTANCES = ("mse", "ssim", "lpips")


@estimator
class DiffusionReconstruction(DiffusionDetector):
    r"""Detector on a diffusion model: the distance of an item from its reconstruction.

    Noise of several times t is added to an item, and the model removes it [1]_. The result is more
    like the training data, so that its distance :math:`d_{tk}` from an out-of-distribution item is
    larger than from an in-distribution item, for each of K measures of distance. With the mean
    :math:`\mu_{tk}` and the standard deviation :math:`\sigma_{tk}` of :math:`d_{tk}` over held-out
    rows, the score is minus the mean standardised distance,

    .. math:: -\frac{1}{T K} \sum_{t, k} \frac{d_{tk}(x) - \mu_{tk}}{\sigma_{tk}}

    Parameters
    ----------
    times : int or sequence of float, default=10
        Times, from 0 to 1. An int takes this number of evenly spaced times, the last of which is 1.
    n_steps : int, default=0
        Steps that remove the noise of each time, before one pass of the network at the end: "ode"
        takes four passes in a step, "sde" one. 0 takes the mean of the items that may be the noisy
        item without its noise.
    solver : {"ode", "sde"}, default="ode"
        Steps of the probability-flow ODE by the Runge-Kutta method, or of the reverse-time SDE,
        which adds new noise (ancestral sampling). The noise is the same for every item.
    distance : str, callable, or sequence of these, default="auto"
        One or several distances; "auto" takes "mse" and "ssim" for images, and "mse" for rows:

        - "mse": mean squared error in units of the network (pixels in [-1, 1], standardised rows);
        - "ssim": one minus the structural similarity [3]_, for images;
        - "lpips": LPIPS with AlexNet [2]_, for images, from the package ``lpips``, which downloads
          the weights;
        - a function of two tensors (b, ...) that returns (b,), for instance a
          :class:`~skood.likelihood.FeatureDistance` in a network of yours.
    held_out_fraction : float, default=0.1
        Fraction of the rows that the density is not trained on, for the means and standard
        deviations; at most `n_calibration` rows. Training rows are taken if the fraction is 0 or if
        fewer than 50 rows would be held out, and any rows if the density is already trained.
    n_calibration : int or None, default=1000
        Most rows for the means and standard deviations. None sets no limit.

    Attributes
    ----------
    mean_distances_, std_distances_ : ndarray of shape (n_times,) or (n_times, n_distances)
        Means and standard deviations of the distances of the calibration rows, for each of several
        distances.
    offset_ : float
        Threshold on the score, in standard deviations.

    Notes
    -----
    Reconstructions of images are clipped to black and white, as in the code of [1]_.

    In [1]_ there are up to 100 times until 1, each with up to 100 steps, and the distances are L2
    and LPIPS. Short times find noise, mutations and blur; long times find other contents, which a
    short time leaves as they are. On MNIST, a model of Fashion-MNIST that was trained for 28 000
    steps gives an AUROC of 0.963 by default, and of 0.436 at the times 0.05 to 0.25, which were the
    default before (``benchmarks/README.md``).

    References
    ----------
    .. [1] M. S. Graham, W. H. L. Pinaya, P.-D. Tudosiu, P. Nachev, S. Ourselin, M. J. Cardoso,
       "Denoising Diffusion Models for Out-of-Distribution Detection", CVPR Workshops 2023.
    .. [2] R. Zhang, P. Isola, A. A. Efros, E. Shechtman, O. Wang, "The Unreasonable Effectiveness
       of Deep Features as a Perceptual Metric", CVPR 2018.
    .. [3] Z. Wang, A. C. Bovik, H. R. Sheikh, E. P. Simoncelli, "Image Quality Assessment: From
       Error Visibility to Structural Similarity", IEEE Transactions on Image Processing 13, 2004.

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

    times: int | Sequence[float] = parameter(at_least(1), "array-like", default=10, kw_only=True)
    n_steps: int = parameter(at_least(0), default=0, kw_only=True)
    solver: str = parameter(StrOptions({"ode", "sde"}), default="ode", kw_only=True)
    distance: str | Distance | Sequence[str | Distance] = parameter(
        StrOptions({"auto", *_DISTANCES}), callable, list, tuple, default="auto", kw_only=True
    )
    held_out_fraction: float = parameter(
        Interval(numbers.Real, 0, 1, closed="left"), default=0.1, kw_only=True
    )
    n_calibration: int | None = parameter(at_least(2), None, default=1000, kw_only=True)

    def _fit(
        self, inliers: CheckedData, y: npt.NDArray | None, outliers: CheckedData | None, seed: int
    ) -> None:
        times = self._times()
        if len(times) == 0 or not all(0 < t <= 1 for t in times):
            raise ValueError(f"times={self.times!r}; expected at least one, above 0 and at most 1")
        self._check_distances(inliers)
        self._noise_seed = seed
        rows = np.arange(len(inliers))
        held_out = self._calibration_rows(len(inliers), y)
        learned = np.setdiff1d(rows, held_out)
        super()._fit(inliers.subset(learned), None if y is None else y[learned], outliers, seed)
        if len(held_out) == 0:
            order = numpy_rng(seed, Stream.RECONSTRUCTION_ROWS).permutation(len(inliers))
            held_out = order[: self.n_calibration]
        distances = super()._score_samples(inliers.subset(held_out))
        self.mean_distances_, std = distances.mean(0), distances.std(0)
        # If all distances are equal, they are divided by their mean instead.
        self.std_distances_ = np.where(std > 0, std, np.maximum(self.mean_distances_, 1e-12))

    def _calibration_rows(self, n_rows: int, y: npt.NDArray | None) -> npt.NDArray[np.integer]:
        """Return the rows that the density is not trained on."""
        if not self._trains_model:
            return np.arange(0)
        fraction = self.held_out_fraction
        if self.n_calibration is not None:
            fraction = min(fraction, self.n_calibration / n_rows)
        return np.sort(held_out_rows(n_rows, y, fraction))

    def _times(self) -> Sequence[float]:
        if isinstance(self.times, (int, np.integer)):
            return [(k + 1) / self.times for k in range(self.times)]
        return self.times

    def _given_distances(self, is_image: bool) -> Sequence[Any]:
        if isinstance(self.distance, (list, tuple)):
            return self.distance
        if self.distance == "auto":
            return ("mse", "ssim") if is_image else ("mse",)
        return (self.distance,)

    def _check_distances(self, data: CheckedData) -> None:
        """Raise for a distance that is unknown or does not suit the data; load LPIPS."""
        is_image = data.is_image or getattr(self.density, "image_shape", None) is not None
        distances = self._given_distances(is_image)
        known = [d for d in distances if callable(d) or d in _DISTANCES]
        if len(distances) == 0 or len(known) < len(distances):
            raise ValueError(
                f"distance={self.distance!r}; expected at least one of {_DISTANCES}, or functions"
            )
        for name in ("ssim", "lpips"):
            if name in distances and not is_image:
                raise ValueError(
                    f"distance={name!r} compares images, but X has rows of {data.item_shape[0]} "
                    "values; take 'mse'"
                )
        if "lpips" in distances:
            lpips = import_optional("lpips", "distance='lpips'", "lpips")
            self._lpips = lpips.LPIPS(net="alex", verbose=False).eval()

    def _distances_by(self, distance: Any, x: Tensor, restored: Tensor) -> Tensor:
        """Return the distance of each item, (b,), float64."""
        if callable(distance):
            values = distance(x, restored)
        elif distance == "mse":
            values = mean_squared_error(x, restored)
        elif distance == "ssim":
            values = structural_dissimilarity(x, restored)
        else:
            values = self._lpips.to(x.device)(x, restored).flatten()
        if values.shape != (len(x),):
            raise ValueError(
                f"distance={distance!r} returned the shape {(*values.shape,)} for {len(x)} items; "
                f"expected ({len(x)},)"
            )
        return values.double()

    def _of_items(self, denoiser: Denoiser, x: Tensor) -> Tensor:
        measures = self._given_distances(is_image=x.ndim == 4)
        of_times = []
        for k, t in enumerate(self._times()):
            restored = self._restored(denoiser, x, t, k)
            of_times.append(torch.stack([self._distances_by(m, x, restored) for m in measures], 1))
        distances = torch.stack(of_times, 1)
        is_one = len(measures) == 1 and not isinstance(self.distance, (list, tuple))
        return distances[:, :, 0] if is_one else distances

    def _restored(self, denoiser: Denoiser, x: Tensor, t: float, k: int) -> Tensor:
        """Return the reconstruction of items from the k-th time."""
        generator = torch_rng(torch.device("cpu"), self._noise_seed, Stream.ADDED_NOISE, k)
        noise = torch.randn(x.shape[1:], generator=generator).to(x.device)
        draws = None
        if self.solver == "sde":
            draws = torch.randn((self.n_steps, *x.shape[1:]), generator=generator).to(x.device)
        restored = denoiser.denoise(denoiser.noisy(x, t, noise), t, self.n_steps, draws)
        # Pixels of the network lie in [-1, 1].
        return restored.clamp(-1, 1) if x.ndim == 4 else restored

    def _score_samples(self, data: CheckedData) -> npt.NDArray[np.float64]:
        distances = super()._score_samples(data)
        standardised = (distances - self.mean_distances_) / self.std_distances_
        return -standardised.reshape(len(standardised), -1).mean(1)
