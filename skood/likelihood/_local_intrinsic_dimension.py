"""Local intrinsic dimension of a flow or diffusion model, with its log-density."""

from __future__ import annotations

import numbers
from collections.abc import Callable
from pathlib import Path
from typing import Any

import joblib
import numpy as np
import numpy.typing as npt
import torch
from sklearn.utils.validation import check_is_fitted
from torch import Tensor, nn

from skood._checked_data import CheckedData
from skood._data import check_scores
from skood._methods import check_provides, provides
from skood._parameters import Interval, StrOptions, at_least, estimator, parameter
from skood._torch.partial_results import PartialResults
from skood._torch.seeding import Stream, numpy_rng
from skood.density._denoiser import Denoiser
from skood.likelihood._base import DensityDetector, default_flow, evenly_spaced
from skood.likelihood._dimension import (
    ConvolutionDimension,
    Dimension,
    LanczosDimension,
    Spectrum,
    ThresholdDimension,
    find_scale,
)
from skood.likelihood._local_pca import local_pca_dimension

__all__ = ["LocalIntrinsicDimension"]

_OF_FLOWS = ("threshold", "convolution", "lanczos")
# Most calibration rows for the search of the scale.
_SCALE_ROWS = 256
# Most values of an item for which FLIPD computes traces.
_EXACT_VALUES = 64
# Steps of the bisection for FLIPD's scale.
_N_BISECTIONS = 12


@estimator
class LocalIntrinsicDimension(DensityDetector):
    r"""Detector that accepts an item if its log-density and its intrinsic dimension are both high.

    A density may be higher at out-of-distribution items than at its training data, but only in a
    region of small volume, where it is concentrated around a set of a lower dimension. An item is
    therefore in-distribution if its log-density *and* the local intrinsic dimension (LID) of the
    density around it are both high [1]_. The score is the smaller of two empirical distribution
    functions of in-distribution training rows,

    .. math:: s(x) = \min\big( F_1(\log p(x)), F_2(\mathrm{LID}(x)) \big)

    which needs no out-of-distribution data. A threshold on it is a threshold on each of the two.

    Parameters
    ----------
    density : estimator, default=None
        An :class:`~skood.density.ImageFlow`, :class:`~skood.density.NeuralSplineFlow` or
        :class:`~skood.density.Diffusion`; one in :class:`sklearn.frozen.FrozenEstimator` is not
        trained again. None takes ImageFlow for images and NeuralSplineFlow for rows.
    estimator : {"auto", "threshold", "convolution", "lanczos", "flipd"}, default="auto"
        How the dimension is estimated; "auto" takes "threshold" for a flow and "flipd" for a
        diffusion model. For a flow, from J, the derivative of its map from latents to data at the
        item, with :math:`\lambda_i` the eigenvalues of :math:`J^T J`:

        - "threshold": the number of :math:`\lambda_i > e^{2r}`;
        - "convolution": D + d/dr of the log-density convolved with a normal distribution of
          standard deviation :math:`e^r`;
        - "lanczos": the smooth number :math:`\sum_i \lambda_i / (\lambda_i + e^{2r})`,
          approximated from a few products of J with vectors, without J itself. It is by far the
          fastest for images; for fewer than a hundred values the others are equally fast.

        For a diffusion model, from its score s where noise has the standard deviation
        :math:`e^r` relative to the item [2]_:

        - "flipd": :math:`D + \sigma^2 (\operatorname{tr} \nabla s + \|s\|^2)`.
    scale : "lpca" or float, default="lpca"
        r, the logarithm of the scale below which directions do not count, in units of the network
        (pixels in [0, 1] for flows and in [-1, 1] for diffusion models, standardised rows). With
        the default noise of a diffusion model, the times 0.01, 0.1 and 0.2 of [1]_ correspond to
        r = -3.11, -1.08 and -0.33. "lpca" takes the r at which the mean LID of training rows equals
        the dimension by principal component analysis of up to 5 000 of them: for rows, the mean
        number of components of a neighbourhood whose variance exceeds 5 % of the largest; for
        images, as in [1]_, the number of components of all images whose variance exceeds 0.1 %.
    n_steps : int, default=8
        Steps of "lanczos", each with one product of J and one of its transpose.
    n_probes : int, default=1
        Number of starting vectors of "lanczos", or of random vectors for the estimate of the trace
        in "flipd", which is exact for items of up to 64 values.
    n_calibration : int or None, default=1000
        Training rows for the distribution functions, the scale and the threshold. None takes all.
    checkpoint_dir : str, Path or None, default=None
        Folder to save scores to, every minute and at the end; scoring the same data with the same
        density and settings resumes from there.

    Attributes
    ----------
    estimator_ : str
        The estimator that "auto" stands for.
    scale_ : float
        The scale r.
    target_dimension_ : float or None
        Dimension by principal component analysis; None for a given scale.
    train_pairs_ : ndarray of shape (n_calibration, 2)
        Log-density in nats and LID of the calibration rows.

    See Also
    --------
    LogLikelihood : The log-density alone.
    skood.metrics.dual_threshold_auroc : The published measure, which needs OOD data.
    skood.inspection.DualThresholdDisplay : Shows pairs and thresholds.

    Notes
    -----
    "threshold" and "convolution" need a Jacobian of D x D for each item, and time that grows with
    the cube of D.

    References
    ----------
    .. [1] H. Kamkari, B. L. Ross, J. C. Cresswell, A. L. Caterini, R. G. Krishnan,
       G. Loaiza-Ganem, "A Geometric Explanation of the Likelihood OOD Detection Paradox",
       ICML 2024.
    .. [2] H. Kamkari, B. L. Ross, R. Hosseinzadeh, J. C. Cresswell, G. Loaiza-Ganem, "A Geometric
       View of Data Complexity: Efficient Local Intrinsic Dimension Estimation with Diffusion
       Models", NeurIPS 2024, equation 11.

    Examples
    --------
    >>> from sklearn.datasets import load_iris
    >>> from skood import LocalIntrinsicDimension, NeuralSplineFlow
    >>> X = load_iris().data
    >>> flow = NeuralSplineFlow(max_epochs=5, random_state=0)
    >>> detector = LocalIntrinsicDimension(flow, random_state=0).fit(X)
    >>> detector.score_pairs(X[:3]).shape
    (3, 2)
    >>> detector.predict([[9.0, 9.0, 9.0, 9.0]])
    array([-1])
    """

    estimator: str = parameter(
        StrOptions({"auto", *_OF_FLOWS, "flipd"}), default="auto", kw_only=True
    )
    scale: str | float = parameter(
        StrOptions({"lpca"}),
        Interval(numbers.Real, None, None, closed="neither"),
        default="lpca",
        kw_only=True,
    )
    n_steps: int = parameter(at_least(1), default=8, kw_only=True)
    n_probes: int = parameter(at_least(1), default=1, kw_only=True)
    n_calibration: int | None = parameter(at_least(2), None, default=1000, kw_only=True)
    checkpoint_dir: Any = parameter(str, Path, None, default=None, kw_only=True)

    def _fit(
        self, inliers: CheckedData, y: npt.NDArray | None, outliers: CheckedData | None, seed: int
    ) -> None:
        self.density_ = self._fit_density(inliers, y, seed)
        self.estimator_ = self._choose_estimator(self.density_)
        n_values = int(np.prod(inliers.item_shape))
        signs = numpy_rng(seed, Stream.DIMENSION_PROBES).integers(2, size=(self.n_probes, n_values))
        self._probes = 2.0 * signs - 1
        rows = numpy_rng(seed, Stream.DIMENSION_ROWS).permutation(len(inliers))
        rows = rows[: self.n_calibration]
        if self.scale != "lpca":
            self.scale_ = float(self.scale)
            self.target_dimension_ = None
            self.train_pairs_ = self._pairs(inliers.subset(rows))
            return
        self.target_dimension_ = local_pca_dimension(
            inliers, rng=numpy_rng(seed, Stream.LOCAL_PCA_ROWS)
        )
        if self.estimator_ == "flipd":
            of_scale = inliers.subset(rows[:_SCALE_ROWS])
            self.scale_ = self._find_noise(of_scale, self.target_dimension_)
            self.train_pairs_ = self._pairs(inliers.subset(rows))
            return
        log_prob, spectrum = self._spectra(inliers.subset(rows[:_SCALE_ROWS]))
        self.scale_ = find_scale(self._dimension(), spectrum, self.target_dimension_)
        dimensions = self._dimension().dimension(spectrum, self.scale_)
        self.train_pairs_ = np.stack((log_prob, dimensions.numpy()), 1)
        if len(rows) > _SCALE_ROWS:
            others = self._pairs(inliers.subset(rows[_SCALE_ROWS:]))
            self.train_pairs_ = np.concatenate((self.train_pairs_, others))

    def _default_density(self, data: CheckedData) -> Any:
        return default_flow(data)

    def _check_density(self, density: Any) -> None:
        self._choose_estimator(density)

    def _choose_estimator(self, density: Any) -> str:
        """Return the estimator; raise if the density, fitted or not, does not suit it."""
        check_provides(
            density,
            "linearize",
            "denoiser",
            message=f"the local intrinsic dimension of density={density!r} cannot be computed; "
            "expected an ImageFlow, a NeuralSplineFlow or a Diffusion",
        )
        is_flow = provides(density, "linearize")
        known = _OF_FLOWS if is_flow else ("flipd",)
        estimator = known[0] if self.estimator == "auto" else self.estimator
        if estimator not in known:
            raise ValueError(
                f"estimator={self.estimator!r} does not suit a {'flow' if is_flow else 'diffusion'}"
                f" model, {density!r}; expected 'auto' or one of {known}"
            )
        if estimator == "flipd" and self.scale != "lpca" and hasattr(density, "log_ratios"):
            low, high = density.log_ratios()
            if not low <= self.scale <= high:
                raise ValueError(
                    f"scale={self.scale!r}, but {density!r} models noise from {low:.4g} to "
                    f"{high:.4g}; give a scale in this range, or 'lpca'"
                )
        return estimator

    def _scores_of_held_out(self, data: CheckedData) -> npt.NDArray[np.float64]:
        return self._score_samples(evenly_spaced(data, self.n_calibration))

    def _scores_for_threshold(
        self, inliers: CheckedData, rows: npt.NDArray[np.integer] | None, seed: int
    ) -> npt.NDArray[np.float64]:
        return self.combine_pairs(self.train_pairs_)

    def _score_samples(self, data: CheckedData) -> npt.NDArray[np.float64]:
        return self.combine_pairs(self._pairs(data))

    def combine_pairs(self, pairs: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
        """Compute the scores of items from their pairs.

        Parameters
        ----------
        pairs : ndarray of shape (n_samples, 2)
            From `score_pairs`.

        Returns
        -------
        ndarray of shape (n_samples,), float64
            The smaller of the two distribution functions, as from `score_samples`.
        """
        check_is_fitted(self)
        ranks = [
            np.searchsorted(np.sort(known), values, side="right")
            for known, values in zip(self.train_pairs_.T, pairs.T, strict=True)
        ]
        score = np.min(ranks, 0) / len(self.train_pairs_)
        return np.where(np.isnan(pairs).any(1), np.nan, score)

    def score_pairs(self, X: Any) -> npt.NDArray[np.float64]:
        """Log-density and local intrinsic dimension of each item.

        Parameters
        ----------
        X : array-like, Tensor or Dataset of shape (n_samples, ...)

        Returns
        -------
        ndarray of shape (n_samples, 2), float64
            log p(x) in nats, and the LID, from 0 to D ("convolution" may leave this range). Both
            are larger for items that are more in-distribution.

        Raises
        ------
        ValueError
            When X does not match the X of `fit`, or is so large that a value would be NaN.
        """
        check_is_fitted(self)
        data = self._check(X)
        with self._shows_progress("scoring"):
            pairs = self._pairs(data)
        check_scores(self, pairs.sum(1))
        return pairs

    def _dimension(self) -> Dimension:
        if self.estimator_ == "threshold":
            return ThresholdDimension()
        if self.estimator_ == "convolution":
            return ConvolutionDimension()
        return LanczosDimension(self._probes, self.n_steps)

    def _pairs(self, data: CheckedData) -> npt.NDArray[np.float64]:
        density = self.density_

        def of_flow(module: nn.Module, x: Tensor) -> tuple[Tensor, Tensor]:
            z, log_prob, derivative = density.linearize(module, x)
            return log_prob, self._dimension().at(derivative(), z, self.scale_)

        def of_diffusion(module: nn.Module, x: Tensor) -> tuple[Tensor, Tensor]:
            denoiser = density.denoiser(module)
            return denoiser.log_density(x), self._flipd(denoiser, x, self.scale_)

        function = of_diffusion if self.estimator_ == "flipd" else of_flow
        return np.stack(self._map(data, function, f"LID at {self.scale_!r}"), 1)

    def _spectra(self, data: CheckedData) -> tuple[npt.NDArray[np.float64], Spectrum]:
        """Log-densities in nats, and the spectra that dimensions are computed from."""
        dimension = self._dimension()

        def spectra(module: nn.Module, x: Tensor) -> tuple[Tensor, ...]:
            z, log_prob, derivative = self.density_.linearize(module, x)
            return log_prob, *dimension.spectrum(derivative(), z)

        log_prob, *spectrum = self._map(data, spectra, "spectra")
        return log_prob, Spectrum(*map(torch.from_numpy, spectrum))

    def _flipd(self, denoiser: Denoiser, x: Tensor, scale: float) -> Tensor:
        """Dimension by FLIPD at r = `scale`, (b,)."""
        probes = None
        if x[0].numel() > _EXACT_VALUES:
            probes = torch.as_tensor(self._probes, dtype=x.dtype, device=x.device)
            probes = probes.view(-1, *x.shape[1:])
        return denoiser.dimension(x, torch.tensor(scale, device=x.device), probes)

    def _find_noise(self, data: CheckedData, target: float) -> float:
        """Find by bisection the r at which the mean of FLIPD is `target`.

        If the mean never reaches `target`, the nearest end of the modelled noise is returned.
        """

        def mean_at(scale: float) -> float:
            def of_items(module: nn.Module, x: Tensor) -> Tensor:
                return self._flipd(self.density_.denoiser(module), x, scale)

            return self._map(data, of_items, f"FLIPD at {scale!r}").mean()

        low, high = self.density_.log_ratios()
        for _ in range(_N_BISECTIONS):
            middle = (low + high) / 2
            if mean_at(middle) > target:
                low = middle
            else:
                high = middle
        return high

    def _map(self, data: CheckedData, function: Callable[..., Any], key: str) -> Any:
        """Apply a function of the density's network to every item, and save the results."""
        # "lanczos" and "flipd" store no Jacobians.
        stores = self.estimator_ in ("threshold", "convolution")
        return self.density_.map(
            data,
            function,
            doing="dimensions",
            batch_size=self.density_.jacobian_batch_size() if stores else None,
            partial=self._partial_results(data, key),
        )

    def _partial_results(self, data: CheckedData, key: str) -> PartialResults | None:
        """Return the saved results of the same computation."""
        if self.checkpoint_dir is None:
            return None
        settings = (key, self.estimator_, self.n_steps, self._probes)
        name = joblib.hash((self.density_, settings, len(data), data.content()))
        return PartialResults(Path(self.checkpoint_dir) / f"{type(self).__name__}-{name}.npz")
