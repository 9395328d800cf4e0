"""Calibration rows that come after the fit."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
from sklearn.utils.metaestimators import available_if

from skood._data.outliers import split_outliers
from skood._estimator.parameters import fit_context
from skood.calibration._base import scores_of
from skood.calibration._p_values import PValueDetector, threshold_at, warn_if_too_few

__all__ = ["TakesFurtherRows"]


def _can_take_rows(detector: Any) -> bool:
    """Whether a detector has `partial_fit`; raise an error that says why not."""
    name = type(detector).__name__
    if detector.method != "split":
        raise AttributeError(f'{name} has no partial_fit with method="cross"')
    return True


class TakesFurtherRows(PValueDetector):
    """Base of the calibrated detectors that take further calibration rows.

    A subclass has one fitted detector in ``detectors_`` and ``calibration_scores_``, and implements
    ``_group`` and ``_predicted`` for ``class_conditional=True``.
    """

    detectors_: list[Any]
    calibration_scores_: list[npt.NDArray[np.float64]]

    @available_if(_can_take_rows)
    @fit_context(prefer_skip_nested_validation=False)
    def partial_fit(self, X: Any, y: Any = None) -> TakesFurtherRows:
        """Add in-distribution rows to the calibration rows, and set the threshold again.

        Before `fit`, the first call is `fit`, which trains the detector inside unless it is in a
        ``FrozenEstimator``. Later calls do not change it. Their rows must be new to it, as other
        calibration rows.
        The result is the same as if all calibration rows had come at once.

        Parameters
        ----------
        X : array-like, Tensor, Dataset or DataLoader of shape (n_samples, ...)
        y : array-like of shape (n_samples,), default=None
            Rows with y == -1 are left out.

        Returns
        -------
        self

        Warns
        -----
        UserWarning
            If there are still too few calibration rows to reject anything.
        """
        if not hasattr(self, "detectors_"):
            self.fit(X, y)
            return self
        data, _, _ = split_outliers(self._check(X), y)
        with self._shows_progress("scoring"):
            scores = scores_of(self.detectors_[0], data)
        merged = np.sort(np.concatenate([self.calibration_scores_[0], scores]))
        offset = threshold_at(merged, self.alpha, self._failure_rate)
        warn_if_too_few(len(merged), self.alpha, None, offset, self._failure_rate)
        if self.class_conditional:
            of_class = self._scores_by_class
            labels = [np.full(len(found), label) for label, found in of_class.items()]
            earlier = np.concatenate(list(of_class.values()))
            predicted = np.concatenate([*labels, self._predicted(data)])
        self.calibration_scores_ = [merged]
        self.n_calibration_ = len(merged)
        self.offset_ = offset
        if self.class_conditional:
            self._group(np.concatenate([earlier, scores]), predicted)
        return self
