"""Base classes of detectors, and what you need to write your own detector.

See :doc:`/user_guide/adding_a_method`.
"""

from __future__ import annotations

import numbers
import warnings
from abc import abstractmethod
from collections.abc import Mapping
from typing import Any, ClassVar

import joblib
import numpy as np
import numpy.typing as npt
from sklearn.frozen import FrozenEstimator

from skood._data.checked_data import CheckedData
from skood._data.outliers import labels_of, split_outliers
from skood._data.validation import check_scores
from skood._detector import Detector, check_one_score_each
from skood._estimator.parameters import (
    FRACTION,
    NONNEGATIVE,
    POSITIVE,
    Contamination,
    HasMethods,
    Interval,
    StrOptions,
    at_least,
    check_decorated,
    estimator,
    fit_context,
    parameter,
)
from skood._frozen import check_parts_fitted
from skood._thresholds import held_out_rows, threshold_rows
from skood._torch.checkpoint import check_checkpoint_dirs
from skood._torch.run import note_interruption
from skood._torch.seeding import draw_seed
from skood._torch.shared_module import SharedModule

__all__ = [
    "FRACTION",
    "NONNEGATIVE",
    "POSITIVE",
    "BaseDetector",
    "CheckedData",
    "HasMethods",
    "Interval",
    "ModelDetector",
    "StrOptions",
    "at_least",
    "estimator",
    "parameter",
]

# Relative difference between the scores of a row in batches of different sizes.
_ROUNDING = 5e-7


@estimator
class BaseDetector(Detector):
    """Base of the detectors that set their threshold in `fit`.

    A subclass implements ``_fit``, which learns from in-distribution data, and
    ``_score_samples``.

    Parameters
    ----------
    contamination : float, default=0.05
        Fraction of in-distribution data that falls below the threshold.
    """

    contamination: float = parameter(Contamination(), default=0.05, kw_only=True)

    # Whether `fit` keeps the indices of the rows that it learned from, in `_training_rows`: rows of
    # X in an explanation. None stands for all rows.
    _remembers_rows = False

    @abstractmethod
    def _fit(
        self, inliers: CheckedData, y: npt.NDArray | None, outliers: CheckedData | None, seed: int
    ) -> npt.NDArray[np.integer] | None:
        """Learn the model.

        Parameters
        ----------
        inliers : CheckedData
        y : ndarray or None
            Labels of the inliers.
        outliers : CheckedData or None
            Known outliers, the rows with y == -1.
        seed : int
            Seed of this fit.

        Returns
        -------
        ndarray or None
            Indices of the inliers to set the threshold on, if they were held out from learning.
        """

    @fit_context(prefer_skip_nested_validation=False)
    def fit(self, X: Any, y: Any = None) -> BaseDetector:
        """Fit the detector to in-distribution data and set the threshold.

        A model that was trained before scores its own training rows too high. In that case give
        other rows to `fit`, or to ``ConformalDetector.fit`` as `X_calibration`; otherwise more than
        `contamination` of new data is rejected.

        Parameters
        ----------
        X : array-like, Tensor, Dataset, DataLoader or dict of shape (n_samples, ...)
            Rows (n, d) or images (n, H, W), (n, C, H, W) or (n, H, W, C). A detector on your own
            network accepts the items of that network.
        y : array-like of shape (n_samples,), default=None
            Labels. Rows with y == -1 are known outliers; no model is trained on them unless the
            class documents otherwise. None: a detector that needs labels reads them from a Dataset
            of pairs (x, y).

        Returns
        -------
        self

        Raises
        ------
        ValueError
            If X or y is invalid, or the scores of X give no finite threshold.
        OSError
            If nothing can be written to the `checkpoint_dir` of the detector or of a model inside.
        KeyboardInterrupt
            At a second Ctrl-C within three seconds, or at the first one if no model is in training.

        Warns
        -----
        UserWarning
            After Ctrl-C, about the models that are kept and the next phase. Ctrl-C ends either the
            training of a model, and `fit` continues with that model, or the scoring for the
            threshold, and the detector can then score but not predict.
        """
        check_decorated(type(self))
        check_parts_fitted(self)
        check_checkpoint_dirs(self)
        earlier = dict(vars(self))
        data = self._check(X, reset=True)
        inliers, y, outliers = self._split_outliers(data, labels_of(self, data, y))
        self._fit_split(earlier, inliers, y, outliers)
        if self._remembers_rows and inliers is not data:
            learned = self._training_rows
            rows = inliers if learned is None else inliers.subset(learned)
            self._training_rows: Any = rows.rows_in(data)
        return self

    def _fit_split(
        self,
        earlier: Mapping[str, Any],
        inliers: CheckedData,
        y: npt.NDArray | None,
        outliers: CheckedData | None,
    ) -> BaseDetector:
        seed = draw_seed(self.random_state)
        learned, held_out = self._split_for_threshold(len(inliers), y)
        if self._remembers_rows:
            self._training_rows = learned if len(held_out) else None
        if len(held_out):
            held_out_data = inliers.subset(held_out)
            inliers, y = inliers.subset(learned), None if y is None else y[learned]
        # For 1e7 rows, the indices take as much memory as the rest of a fit.
        del learned
        with self._keeps_models(earlier), self._shows_progress():
            rows = self._fit(inliers, y, outliers, seed)
        try:
            if len(held_out):
                with self._shows_progress("scoring"):
                    scores = self._scores_of_held_out(held_out_data)
            else:
                scores = self._scores_for_threshold(inliers, rows, seed)
        except KeyboardInterrupt as interrupt:
            if self._stays_without_threshold(interrupt):
                return self
            raise
        self._set_threshold(scores, is_new=len(held_out) > 0 or rows is not None)
        return self

    def _set_threshold(self, scores: npt.NDArray[np.float64], *, is_new: bool) -> None:
        """Set ``offset_`` on scores of rows, which are new if nothing was learned from them."""
        check_one_score_each(self, scores, np.size(scores))
        check_scores(self, scores)
        # If the n rows were learned from, the percentile rejects this fraction of them. If not, the
        # quantile at rank contamination (n + 1) rejects this fraction of new rows on average.
        with np.errstate(invalid="ignore"):
            offset = float(
                np.quantile(scores, self.contamination, method="weibull" if is_new else "linear")
            )
        if not np.isfinite(offset):
            raise ValueError(
                f"{type(self).__name__} gives -inf as the score of {np.isneginf(scores).sum()} of "
                f"{len(scores)} in-distribution items, too many for a threshold that rejects "
                f"contamination={self.contamination} of them; rescale X, for instance with "
                "scikit-learn's StandardScaler"
            )
        # With this margin, rounding does not reject a training row on the threshold in any batch.
        self.offset_ = offset - _ROUNDING * abs(offset)

    def _stays_without_threshold(self, interrupt: KeyboardInterrupt) -> bool:
        """Warn that the threshold is missing, and return whether `fit` returns the detector."""
        ends_fit = note_interruption(interrupt)
        name = type(self).__name__
        message = (
            f"{name} was interrupted while it scored rows for its threshold. It keeps its trained "
            "models and can score, but not predict: ConformalDetector or TunedThreshold around "
            "FrozenEstimator(detector) set a threshold without training"
        )
        if not ends_fit:
            message += "; a second Ctrl-C within 3 seconds also ends the code that called fit"
        warnings.warn(message, stacklevel=4)
        return not ends_fit

    def _split_for_threshold(
        self, n_items: int, y: npt.NDArray | None
    ) -> tuple[npt.NDArray[np.intp], npt.NDArray[np.intp]]:
        """Return the sorted indices of the rows to learn from and of the held-out rows.

        If no rows are held out, the threshold is set on the rows to learn from.
        """
        return np.arange(n_items), np.arange(0)

    def _scores_of_held_out(self, data: CheckedData) -> npt.NDArray[np.float64]:
        """Score the rows that `fit` held out, or some of them."""
        return self._score_samples(data)

    def _scores_for_threshold(
        self, inliers: CheckedData, rows: npt.NDArray[np.integer] | None, seed: int
    ) -> npt.NDArray[np.float64]:
        """Score the rows that `_fit` returned, or some; override if `_fit` has scored them."""
        rows = threshold_rows(len(inliers) if rows is None else rows, seed)
        scored = inliers if len(rows) == len(inliers) else inliers.subset(rows)
        with self._shows_progress("scoring"):
            return self._score_samples(scored)

    @property
    def _needs_outliers_marked(self) -> bool:
        """Whether labels that mark anomalies, but not by -1, are an error instead of a warning.

        True if y marks known outliers, and the detector does not learn classes from it.
        """
        return False

    def _split_outliers(
        self, data: CheckedData, y: Any
    ) -> tuple[CheckedData, npt.NDArray | None, CheckedData | None]:
        """Separate known outliers; override if y may hold several labels per item."""
        return split_outliers(data, y, refuse=self._needs_outliers_marked)


@estimator
class ModelDetector(BaseDetector):
    """Base of the detectors with a model, which `fit` trains unless it is already trained.

    Parameters
    ----------
    threshold_fraction : float, default=0.1
        Fraction of the in-distribution rows that are held out from learning to set the threshold,
        at most 5000 rows. No rows are held out if the fraction is 0, if fewer than 50 would be, or
        if there is nothing to learn. A threshold that is set on rows that were learned from rejects
        more than `contamination` of new data; :class:`~skood.calibration.ConformalDetector` sets it
        on other rows.
    memory : str or joblib.Memory, default=None
        Where trained models and their outputs on the data are cached by content. The folder must be
        trusted, since its files are pickles, which can run code.

    Attributes
    ----------
    _model_parameters : tuple of str
        Parameters that hold a model, or a list of models, which `fit` trains unless they are
        already trained. None stands for a default model. If there is a model to train, `fit` holds
        rows out from ``_fit`` and sets the threshold on them.
    _overfits : bool
        Whether `fit` holds rows out in any case, because the rows that the score is learned from
        score higher than new rows.
    """

    threshold_fraction: float = parameter(
        Interval(numbers.Real, 0, 1, closed="left"), default=0.1, kw_only=True
    )
    memory: str | joblib.Memory | None = parameter(
        str, HasMethods(["cache"]), None, default=None, kw_only=True
    )

    _model_parameters: ClassVar[tuple[str, ...]] = ()
    _overfits = False

    @property
    def _trains_model(self) -> bool:
        """Whether `fit` trains a model."""
        for name in self._model_parameters:
            value = getattr(self, name)
            models = value if isinstance(value, (list, tuple)) else [value]
            if not all(isinstance(model, (FrozenEstimator, SharedModule)) for model in models):
                return True
        return False

    def _split_for_threshold(
        self, n_items: int, y: npt.NDArray | None
    ) -> tuple[npt.NDArray[np.intp], npt.NDArray[np.intp]]:
        """Return the sorted indices of the rows to learn from and of the held-out rows.

        The split does not depend on `random_state`, so that all candidates of a search train the
        same model. The same fraction of every class is held out, and never all rows of a class.
        """
        is_held_out = np.zeros(n_items, dtype=bool)
        if self._overfits or self._trains_model:
            is_held_out[held_out_rows(n_items, y, self.threshold_fraction)] = True
        return np.flatnonzero(~is_held_out), np.flatnonzero(is_held_out)
