"""Density of the statistics of a density model."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
from sklearn.neighbors import KernelDensity
from sklearn.svm import OneClassSVM

from skood._data.checked_data import CheckedData
from skood._estimator.parameters import (
    POSITIVE,
    HasMethods,
    StrOptions,
    at_least,
    estimator,
    parameter,
)
from skood._models import fit_model, rows_through
from skood._torch.seeding import Stream, numpy_rng
from skood.likelihood._base import DensityDetector, evenly_spaced, log_density

__all__ = ["DensityOfStates"]


@estimator
class DensityOfStates(DensityDetector):
    r"""Detector whose score is the density of an item's statistics under a density model.

    A density may give out-of-distribution items a higher log p(x) than its training data, but
    hardly the same. The score is therefore not log p(x) itself: it is high if the value of
    log p(x), and the values of other statistics :math:`T_j` of the density, are frequent in
    in-distribution data [1]_. The score (DoSE) is

    .. math:: s(x) = \sum_j \log \hat{p}_j(T_j(x))

    where :math:`\hat{p}_j`, the density of states, is a kernel density estimate of
    :math:`T_j(x)` in training rows.

    Parameters
    ----------
    density : estimator, default=None
        Any estimator with ``fit`` and ``score_samples``; one in
        :class:`sklearn.frozen.FrozenEstimator` is not trained again. Its statistics are the columns
        of its ``score_statistics``, as in :mod:`skood.density`; without this method, log p(x)
        alone. None takes :class:`~skood.density.PixelCNN` for images and
        :class:`~skood.density.NeuralSplineFlow` for rows and
        :class:`~skood.density.SequenceDensity` for strings of letters.
    estimator : {"kde", "svm"} or estimator, default="kde"
        "kde" is the sum above. "svm" is the score of a :class:`~sklearn.svm.OneClassSVM` on all
        statistics, scaled to mean 0 and variance 1. Any estimator with ``fit`` and
        ``score_samples`` takes its place, ``OneClassSVM(nu=0.1)`` for instance.
    bandwidth : {"scott", "silverman"} or float, default="scott"
        Standard deviation of the kernels of "kde", in units of the standard deviation of the
        statistic; "scott" is :math:`n^{-1/5}` for n training rows.
    n_calibration : int or None, default=5000
        Training rows for the statistics and the threshold. None takes all.

    Attributes
    ----------
    statistics_names_ : tuple of str
        The statistics.
    train_statistics_ : ndarray of shape (n_calibration, n_statistics)
        Their values in training rows, in nats.
    mean_, scale_ : ndarray of shape (n_statistics,)
        Their means and standard deviations; 1 nat for a statistic that does not vary.
    estimators_ : list of estimator
        A :class:`~sklearn.neighbors.KernelDensity` for each statistic, or the one estimator of all.

    See Also
    --------
    LogLikelihood : Scores by log p(x) itself.

    Notes
    -----
    A score of "kde" is in nats, the logarithm of a density of statistics that are in nats
    themselves. Scores of a one-class SVM have no unit, and are 0 far from all training rows.

    The statistics come from training rows, as in [1]_. If the density overfits, its statistics
    differ between training rows and new rows: then train it on other rows, and fit the detector
    with ``FrozenEstimator(density)`` on rows that the density has not seen.

    References
    ----------
    .. [1] W. Morningstar, C. Ham, A. Gallagher, B. Lakshminarayanan, A. Alemi, J. Dillon,
       "Density of States Estimation for Out-of-Distribution Detection", AISTATS 2021.

    Examples
    --------
    >>> from sklearn.datasets import load_iris
    >>> from skood import DensityOfStates, NeuralSplineFlow
    >>> X = load_iris().data
    >>> flow = NeuralSplineFlow(max_epochs=5, random_state=0)
    >>> detector = DensityOfStates(flow).fit(X)
    >>> detector.statistics_names_
    ('log_prob', 'latent_log_prob', 'log_det')
    >>> detector.predict([[9.0, 9.0, 9.0, 9.0]])
    array([-1])
    """

    estimator: Any = parameter(
        StrOptions({"kde", "svm"}),
        HasMethods(["fit", "score_samples"]),
        default="kde",
        kw_only=True,
    )
    bandwidth: str | float = parameter(
        StrOptions({"scott", "silverman"}),
        POSITIVE,
        default="scott",
        kw_only=True,
    )
    n_calibration: int | None = parameter(at_least(2), None, default=5000, kw_only=True)

    _models_strings = True

    def _fit(
        self, inliers: CheckedData, y: npt.NDArray | None, outliers: CheckedData | None, seed: int
    ) -> None:
        model_seed = None if self.random_state is None else seed
        self.density_ = self._fit_density(inliers, y, seed)
        self.statistics_names_ = getattr(self.density_, "statistics_names", ("log_prob",))
        if self.n_calibration is not None and self.n_calibration < len(inliers):
            order = numpy_rng(seed, Stream.STATISTICS_ROWS).permutation(len(inliers))
            inliers = inliers.subset(np.sort(order[: self.n_calibration]))
        self.train_statistics_ = self._statistics(inliers)
        known = self.train_statistics_[np.isfinite(self.train_statistics_).all(1)]
        if len(known) < 2:
            raise ValueError(
                f"the density gives finite statistics for {len(known)} of "
                f"{len(self.train_statistics_)} training items; expected 2 at least: rescale X, "
                "with scikit-learn's StandardScaler for instance"
            )
        self.mean_ = known.mean(0)
        deviation = known.std(0, ddof=1)
        # A statistic that differs only by rounding errors of float32 does not vary.
        varies = deviation > 10 * np.finfo(np.float32).eps * np.abs(self.mean_)
        self.scale_ = np.where(varies, deviation, 1.0)
        estimator = self.estimator
        if self.estimator == "kde":
            estimator = KernelDensity(bandwidth=self.bandwidth, rtol=1e-8)
        elif self.estimator == "svm":
            estimator = _OneClassSVM()
        self.estimators_ = [
            fit_model(estimator, part, None, seed=model_seed) for part in self._parts(known)
        ]

    def _statistics(self, data: CheckedData) -> npt.NDArray[np.float64]:
        if hasattr(self.density_, "score_statistics"):
            return rows_through(self.density_, "score_statistics", data)
        return log_density(self.density_, data)[:, None]

    def _parts(self, statistics: npt.NDArray[np.float64]) -> list[CheckedData]:
        """Standardised statistics, one by one for "kde"."""
        standardised = (statistics - self.mean_) / self.scale_
        n_parts = statistics.shape[1] if self.estimator == "kde" else 1
        return [CheckedData.of(part) for part in np.split(standardised, n_parts, axis=1)]

    def _scores_of_held_out(self, data: CheckedData) -> npt.NDArray[np.float64]:
        return self._score_samples(evenly_spaced(data, self.n_calibration))

    def _scores_for_threshold(
        self, inliers: CheckedData, rows: npt.NDArray[np.integer] | None, seed: int
    ) -> npt.NDArray[np.float64]:
        return self._score(self.train_statistics_)

    def _score_samples(self, data: CheckedData) -> npt.NDArray[np.float64]:
        return self._score(self._statistics(data))

    def _score(self, statistics: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
        finite = np.isfinite(statistics)
        parts = self._parts(np.where(finite, statistics, self.mean_))
        scores = np.zeros(len(statistics))
        for fitted, part in zip(self.estimators_, parts, strict=True):
            scores += rows_through(fitted, "score_samples", part)
        if self.estimator == "kde":
            # From densities of standardised statistics to densities of the statistics.
            scores -= np.log(self.scale_).sum()
        # Where a statistic is inf, -inf; where it is NaN, NaN.
        return np.where(finite.all(1), scores, -np.abs(statistics).sum(1))


class _OneClassSVM(OneClassSVM):
    """Does not draw a seed, which it would not use, from numpy's global generator."""

    def fit(self, X: Any, y: Any = None) -> _OneClassSVM:
        self.random_state = 0
        return super().fit(X, y)
