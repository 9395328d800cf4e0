"""Distance of the log-density of an item, or of a batch, from its typical value."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
from sklearn.frozen import FrozenEstimator
from sklearn.utils.validation import check_is_fitted

from skood._data.checked_data import CheckedData
from skood._data.validation import check_scores
from skood._estimator.parameters import FRACTION, at_least, estimator, parameter
from skood._thresholds import FEWEST_HELD_OUT
from skood._torch.seeding import Stream, numpy_rng
from skood.likelihood._base import DensityDetector, log_density

__all__ = ["Typicality"]


@estimator
class Typicality(DensityDetector):
    r"""Detector whose score is minus the distance of the log-density from its typical value.

    In many dimensions, nearly all of the mass of a distribution is where :math:`-\log p(x)` is
    close to its mean, the entropy H, and hardly any of it near the mode. For one item, or for a
    batch of M items that are all in-distribution or all out-of-distribution, the score is [1]_

    .. math:: -\Big| -\tfrac{1}{M} \sum_m \log p(x_m) - H \Big|

    Parameters
    ----------
    held_out_fraction : float, default=0.1
        Fraction of the rows that the density is not trained on. H and the thresholds are computed
        from them, since a density gives its own training data too high values. With fewer than 50
        held-out rows, the threshold on items is read from all rows.
    n_bootstrap : int, default=1000
        Batches that are drawn for the p-value of a batch, and for the threshold on batches.
    contamination : float, default=0.05
        Fraction of in-distribution items, or of in-distribution batches, that is rejected.

    Attributes
    ----------
    entropy_ : float
        H, minus the mean log-density of held-out items, in nats.
    held_out_scores_ : ndarray of shape (n_held_out,)
        Log-densities of held-out items, in nats.
    offset_ : float
        Threshold on the score of an item, in nats.

    Notes
    -----
    In [1]_, H comes from training data and the threshold from a validation set. With a frozen
    density, give `fit` rows that the density was not trained on.

    The p-value of a batch is exact: in `n_bootstrap` random permutations, M of the held-out and the
    new items form the batch, and the others the held-out items. The bootstrap of [1]_ takes H as
    known, and rejects in-distribution batches too often unless M is much smaller than the number of
    held-out items.

    References
    ----------
    .. [1] E. Nalisnick, A. Matsukawa, Y. W. Teh, B. Lakshminarayanan, "Detecting
       Out-of-Distribution Inputs to Deep Generative Models Using Typicality", arXiv:1906.02994,
       algorithm 1.

    Examples
    --------
    >>> from sklearn.datasets import load_iris
    >>> from sklearn.mixture import GaussianMixture
    >>> from skood import Typicality
    >>> X = load_iris().data
    >>> detector = Typicality(GaussianMixture(3, random_state=0), random_state=0).fit(X)
    >>> detector.predict_batch([[9.0, 9.0, 9.0, 9.0], [9.0, 8.0, 9.0, 8.0]])
    -1
    >>> detector.batch_p_value([[9.0, 9.0, 9.0, 9.0], [9.0, 8.0, 9.0, 8.0]]) < 0.05
    True
    """

    held_out_fraction: float = parameter(FRACTION, default=0.1, kw_only=True)
    # Replaced by `held_out_fraction`.
    threshold_fraction: float = parameter(default=0.0, init=False)
    n_bootstrap: int = parameter(at_least(1), default=1000, kw_only=True)

    _models_strings = True

    def _fit(
        self, inliers: CheckedData, y: npt.NDArray | None, outliers: CheckedData | None, seed: int
    ) -> npt.NDArray[np.integer] | None:
        order = numpy_rng(seed, Stream.TYPICAL_ROWS).permutation(len(inliers))
        n_held_out = max(1, int(self.held_out_fraction * len(inliers)))
        held_out, rows = np.sort(order[:n_held_out]), np.sort(order[n_held_out:])
        self.density_ = self._fit_density(
            inliers.subset(rows), None if y is None else y[rows], seed
        )
        self._bootstrap_seed = seed
        self.held_out_scores_ = log_density(self.density_, inliers.subset(held_out))
        check_scores(self, self.held_out_scores_)
        self.entropy_ = -float(self.held_out_scores_.mean())
        is_trained = isinstance(self.density, FrozenEstimator)
        return None if is_trained or n_held_out < FEWEST_HELD_OUT else held_out

    def _score_samples(self, data: CheckedData) -> npt.NDArray[np.float64]:
        return -np.abs(log_density(self.density_, data) + self.entropy_)

    def score_batch(self, X: Any) -> float:
        """Score items together, as one batch.

        Parameters
        ----------
        X : array-like, Tensor or Dataset of shape (n_samples, ...)

        Returns
        -------
        float
            Minus the distance of minus their mean log-density from H, in nats per item.
        """
        return -abs(float(self._batch_scores(X).mean()) + self.entropy_)

    def batch_p_value(self, X: Any) -> float:
        r"""Test whether a batch is in-distribution, by its mean log-density.

        Parameters
        ----------
        X : array-like, Tensor or Dataset of shape (n_samples, ...)
            New items, different from the rows given to `fit`.

        Returns
        -------
        float
            If all items are exchangeable with the held-out items, :math:`P(p \le \alpha) \le
            \alpha` for every batch size. At least 1 / (`n_bootstrap` + 1).
        """
        scores = self._batch_scores(X)
        n_rows, n_held_out = len(scores), len(self.held_out_scores_)
        rng = numpy_rng(self._bootstrap_seed, Stream.TYPICAL_BATCHES, n_rows)
        # Log-densities of 0 probability stay finite, and larger than all others in a mean.
        lowest = -np.finfo(np.float64).max / (n_rows + n_held_out)
        pooled = np.maximum(np.concatenate([scores, self.held_out_scores_]), lowest)
        deviations = pooled - pooled.mean()
        observed = abs(deviations[:n_rows].sum())
        n_items = len(pooled)
        drawn = [
            deviations[rng.choice(n_items, n_rows, replace=False, shuffle=False)].sum()
            for _ in range(self.n_bootstrap)
        ]
        # The same items in another order give the same sum up to rounding.
        rounding = 1e-12 * np.abs(deviations).max() * n_rows
        n_extreme = int((np.abs(drawn) >= observed - rounding).sum())
        return (1 + n_extreme) / (self.n_bootstrap + 1)

    def _batch_scores(self, X: Any) -> npt.NDArray[np.float64]:
        check_is_fitted(self)
        data = self._check(X)
        with self._shows_progress("scoring"):
            scores = log_density(self.density_, data)
        check_scores(self, scores)
        return scores

    def batch_offset(self, n_samples: int) -> float:
        """Threshold on the score of a batch.

        Parameters
        ----------
        n_samples : int
            M, the number of items in the batch.

        Returns
        -------
        float
            The `contamination` percentile of the scores of `n_bootstrap` batches of that size,
            drawn with replacement from the held-out items, with H from a resample of the held-out
            items; in nats per item. It approximates the score from which on
            `predict_batch` accepts.
        """
        check_is_fitted(self)
        if n_samples < 1:
            raise ValueError(f"n_samples={n_samples!r}; expected at least 1")
        rng = numpy_rng(self._bootstrap_seed, Stream.TYPICAL_BATCHES, n_samples)
        held_out = self.held_out_scores_
        deviations = [
            rng.choice(held_out, n_samples).mean() - rng.choice(held_out, len(held_out)).mean()
            for _ in range(self.n_bootstrap)
        ]
        scores = -np.abs(deviations)
        return float(np.percentile(scores, 100 * self.contamination))

    def predict_batch(self, X: Any) -> int:
        """Decide for items together, as one batch.

        Parameters
        ----------
        X : array-like, Tensor or Dataset of shape (n_samples, ...)

        Returns
        -------
        int
            -1, out-of-distribution, if `batch_p_value` is at most `contamination`, otherwise +1.
        """
        return -1 if self.batch_p_value(X) <= self.contamination else 1
