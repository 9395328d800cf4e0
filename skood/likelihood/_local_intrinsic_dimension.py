"""Local intrinsic dimension of a flow or diffusion model, with its log-density."""

from __future__ import annotations

import numbers
from collections.abc import Callable
from pathlib import Path
from typing import Any

import joblib
import numpy as np
import numpy.typing as npt
from sklearn.utils.validation import check_is_fitted

from skood._data.checked_data import CheckedData
from skood._data.validation import check_scores
from skood._estimator.methods import check_provides, provides
from skood._estimator.parameters import (
    POSITIVE,
    Interval,
    StrOptions,
    at_least,
    estimator,
    parameter,
)
from skood._torch.partial_results import PartialResults
from skood._torch.seeding import Stream, numpy_rng
from skood.likelihood._base import DensityDetector, default_flow, evenly_spaced
from skood.likelihood._dimension import (
    ConvolutionDimension,
    Dimension,
    LanczosDimension,
    ThresholdDimension,
)
from skood.likelihood._dimension_scale import choose_scale
from skood.likelihood._local_pca import local_pca_dimension
from skood.likelihood._pair_scores import fit_mixture, joint_density, ranks
from skood.likelihood._pairs import DiffusionPairs, FlowPairs, curve_scales

__all__ = ["LocalIntrinsicDimension"]

_OF_FLOWS = ("threshold", "convolution", "lanczos")
# Most calibration rows for the search of the scale.
_SCALE_ROWS = 256


@estimator
class LocalIntrinsicDimension(DensityDetector):
    r"""Detector that accepts an item if its log-density and its intrinsic dimension are both high.

    A density may be higher at out-of-distribution items than at its training data, but only in a
    region of small volume, where it is concentrated around a set of a lower dimension. An item is
    therefore in-distribution if its log-density *and* the local intrinsic dimension (LID) around it
    are both high [1]_. The score combines the two by their distribution on training rows.

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
    scale : {"lpca", "plateau", "percentile"} or float, default="lpca"
        r, the logarithm of the scale below which directions do not count, in units of the network
        (pixels in [0, 1] for flows and in [-1, 1] for diffusion models, standardised rows). With
        the default noise of a diffusion model, the times 0.01, 0.1 and 0.2 of [1]_ correspond to
        r = -3.11, -1.08 and -0.33. A string chooses r by the LID of training rows:

        - "lpca": their mean LID is `target_dimension`, as in [1]_;
        - "plateau": the middle of the longest interval of r on which their mean LID changes by less
          than 5 % of D, away from 0 and D. Without one, `fit` raises an error;
        - "percentile": the 10th percentile of their LID is 93 % of D, so that only peaks of the
          density lack dimensions. It is the setting of that name of the authors' code.
    target_dimension : float or None, default=None
        Mean LID of training rows for "lpca". None takes the dimension by principal component
        analysis of up to 5 000 of them: for rows, the mean number of components of a neighbourhood
        whose variance exceeds 5 % of the largest; for images, as in [1]_, the number of components
        of all images whose variance exceeds 0.1 %.
    combine : {"all", "min", "joint"}, default="all"
        How a score is made of the pair of log-density and LID:

        - "joint", with the standardised pair z, u = (1, 1) and a mixture of three normal
          distributions of training pairs:
          :math:`\log \sum_k w_k \max_{t \ge 0} \mathcal{N}(z - t u; m_k, S_k)`;
        - "min": the smaller of the empirical distribution functions of training rows,
          :math:`\min(F_1(\log p(x)), F_2(\mathrm{LID}(x)))`, so that a threshold on the score is
          a threshold on each of the two, as in [1]_;
        - "all": the smallest of these two and of the empirical distribution function of "joint".
          Their mean, divided by the number of training pairs, is added to break ties.
    n_steps : int, default=8
        Steps of "lanczos", each with one product of J and one of its transpose.
    n_probes : int, default=1
        Number of starting vectors of "lanczos", or of random vectors for the estimate of the trace
        in "flipd", which is exact for items of up to 64 values.
    n_calibration : int or None, default=1000
        Training rows for the distribution functions, the scale and the threshold. None takes all.
    checkpoint_dir : str, Path or None, default=None
        Folder to save scores to, every minute and at the end, for resuming.

    Attributes
    ----------
    estimator_ : str
        The estimator that "auto" stands for.
    scale_ : float
        The scale r.
    target_dimension_ : float or None
        Mean LID that chose the scale; None unless `scale` is "lpca".
    train_pairs_ : ndarray of shape (n_calibration, 2)
        Log-density in nats and LID of the calibration rows.
    mixture_ : GaussianMixture
        Mixture of the standardised `train_pairs_`, with fewer components below 60 rows; for
        "all" and "joint".

    See Also
    --------
    LogLikelihood : The log-density alone.
    skood.metrics.dual_threshold_auroc : The published measure, which needs OOD data.
    skood.inspection.DualThresholdDisplay : Shows pairs and the accepted region.
    skood.inspection.DimensionCurveDisplay : Shows the LID over the scale.

    Notes
    -----
    On images, log-density and LID are strongly dependent: simple images are likely and of a low
    dimension. Two separate thresholds accept an image whose dimension is too low for its density;
    "joint" rejects it. The maximum over t accepts items that are more likely *and* of a higher
    dimension than training data, as [1]_ does. But "joint" alone accepts items far out in the
    direction in which log-density and LID depend on each other. "all" rejects for any of the three.

    On a flow of Fashion-MNIST, 28 x 28 pixels, with "threshold" and "lpca", AUROC and FPR95 against
    synthetic outliers are 0.905 and 25 % for "all", 0.884 and 37 % for "min", 0.917 and 25 % for
    "joint"; on sets that were only tested, 0.878 and 65 %, 0.888 and 63 %, 0.719 and 83 % (MNIST),
    and 0.795 and 53 %, 0.741 and 85 %, 0.857 and 46 % (notMNIST). On flows of 14 x 14 pixels,
    "joint" is far better than "min" (MNIST 0.996 and 0.900): no choice is better throughout.

    "threshold" and "convolution" need a D x D Jacobian per item, and time of order D cubed.

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
        StrOptions({"lpca", "plateau", "percentile"}),
        Interval(numbers.Real, None, None, closed="neither"),
        default="lpca",
        kw_only=True,
    )
    target_dimension: float | None = parameter(POSITIVE, None, default=None, kw_only=True)
    combine: str = parameter(StrOptions({"all", "min", "joint"}), default="all", kw_only=True)
    n_steps: int = parameter(at_least(1), default=8, kw_only=True)
    n_probes: int = parameter(at_least(1), default=1, kw_only=True)
    n_calibration: int | None = parameter(at_least(2), None, default=1000, kw_only=True)
    checkpoint_dir: Any = parameter(str, Path, None, default=None, kw_only=True)

    def _fit(
        self, inliers: CheckedData, y: npt.NDArray | None, outliers: CheckedData | None, seed: int
    ) -> None:
        self.target_dimension_ = self._find_target(inliers, seed)
        self.density_ = self._fit_density(inliers, y, seed)
        self.estimator_ = self._choose_estimator(self.density_)
        n_values = int(np.prod(inliers.item_shape))
        signs = numpy_rng(seed, Stream.DIMENSION_PROBES).integers(2, size=(self.n_probes, n_values))
        self._probes = (2 * signs - 1).astype(np.float64)
        rows = numpy_rng(seed, Stream.DIMENSION_ROWS).permutation(len(inliers))
        rows = rows[: self.n_calibration]
        known: list[npt.NDArray[np.float64]] = []
        if isinstance(self.scale, str):
            self.scale_, known = self._find_scale(self.scale, inliers.subset(rows[:_SCALE_ROWS]))
        else:
            self.scale_ = float(self.scale)
        rest = rows[sum(map(len, known)) :]
        if len(rest):
            known.append(self._pairs(inliers.subset(rest)))
        self.train_pairs_ = np.concatenate(known)
        if self.combine != "min":
            mixture_seed = numpy_rng(seed, Stream.PAIR_MIXTURE).integers(2**31 - 1)
            self.mixture_ = fit_mixture(self.train_pairs_, int(mixture_seed))

    def _find_target(self, inliers: CheckedData, seed: int) -> float | None:
        """Return the mean dimension of training rows at the scale; None if it is not chosen."""
        n_values = int(np.prod(inliers.item_shape))
        if self.target_dimension is None:
            if self.scale != "lpca":
                return None
            return local_pca_dimension(inliers, rng=numpy_rng(seed, Stream.LOCAL_PCA_ROWS))
        if self.scale != "lpca":
            raise ValueError(
                f"target_dimension={self.target_dimension!r} and scale={self.scale!r} both choose "
                "the scale; give one of them, with the other at its default"
            )
        if self.target_dimension >= n_values:
            raise ValueError(
                f"target_dimension={self.target_dimension!r}, but an item of X has {n_values} "
                f"values; expected a dimension between 0 and {n_values}"
            )
        return float(self.target_dimension)

    def _find_scale(
        self, rule: str, data: CheckedData
    ) -> tuple[float, list[npt.NDArray[np.float64]]]:
        """Choose the scale by a rule; return it with the pairs of `data`, if known by now."""
        model, n_values = self._pair_model(), int(np.prod(data.item_shape))
        log_prob, dimensions, ends = model.over_scales(data)
        scale = choose_scale(
            rule, dimensions, ends, n_values, self.target_dimension_, model.n_bisections
        )
        known = [] if log_prob is None else [np.stack((log_prob, dimensions(scale)), 1)]
        return scale, known

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
        is_given = not isinstance(self.scale, str)
        if estimator == "flipd" and is_given and hasattr(density, "log_ratios"):
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
            As from `score_samples`.
        """
        check_is_fitted(self)
        known = self.train_pairs_
        if self.combine == "joint":
            score = joint_density(self.mixture_, known, pairs)
        elif self.combine == "min":
            score = ranks(known, pairs).min(0)
        else:
            densities = (joint_density(self.mixture_, known, x)[:, None] for x in (known, pairs))
            three = np.concatenate([ranks(known, pairs), ranks(*densities)])
            # The second term is smaller than the difference of two ranks.
            score = three.min(0) + three.mean(0) / len(known)
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

    def dimension_curve(
        self, X: Any, scales: Any = None, *, times: Any = None
    ) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.float64]]:
        """Local intrinsic dimension of each item as a function of the scale.

        Parameters
        ----------
        X : array-like, Tensor or Dataset of shape (n_samples, ...)
        scales : array-like of float, shape (n_scales,), default=None
            Scales r. None takes 50: of a flow, from 5 below to 5 above `scale_`; of a diffusion
            model, from its least to its largest noise.
        times : array-like of float, shape (n_scales,), default=None
            Times of a diffusion model in place of scales.

        Returns
        -------
        scales : ndarray of shape (n_scales,), float64
            Scales r.
        dimensions : ndarray of shape (n_samples, n_scales), float64
            The LID of each item at each scale.

        Raises
        ------
        ValueError
            When `scales` are not finite numbers in one dimension, or are beyond the noise of the
            diffusion model; when `times` are given with `scales`, or for a flow.
        """
        check_is_fitted(self)
        data, model = self._check(X), self._pair_model()
        scales = curve_scales(model, self.scale_, scales, times)
        with self._shows_progress("scoring"):
            _, dimensions, _ = model.over_scales(data)
            curve = np.stack([dimensions(float(scale)) for scale in scales], 1)
        check_scores(self, curve.sum(1))
        return scales, curve

    def _pairs(self, data: CheckedData) -> npt.NDArray[np.float64]:
        return self._pair_model().pairs(data, self.scale_)

    def _pair_model(self) -> FlowPairs | DiffusionPairs:
        if self.estimator_ == "flipd":
            return DiffusionPairs(self.density_, self._map, self._probes)
        dimension: Dimension = ThresholdDimension()
        if self.estimator_ == "convolution":
            dimension = ConvolutionDimension()
        elif self.estimator_ == "lanczos":
            dimension = LanczosDimension(self._probes, self.n_steps)
        return FlowPairs(self.density_, self._map, dimension)

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
