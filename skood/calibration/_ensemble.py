"""Conformal p-values of several detectors, combined into one."""

from __future__ import annotations

import numbers
from collections.abc import Callable
from typing import Any

import numpy as np
import numpy.typing as npt
from sklearn.frozen import FrozenEstimator
from sklearn.utils import Bunch, Tags
from sklearn.utils.metaestimators import _BaseComposition

from skood._data.checked_data import CheckedData
from skood._estimator.parameters import EXTERNAL, FRACTION, StrOptions, estimator, parameter
from skood._models import fit_members
from skood._open_set import knows_classes
from skood._progress import progress_scope
from skood._torch.seeding import Stream, numpy_rng
from skood.calibration._base import fit_detector, needs_labels, scores_of
from skood.calibration._p_values import (
    PValueDetector,
    conformal_p_values,
    smooth_p_values,
    threshold_at,
    warn_if_too_few,
)

__all__ = ["EnsembleDetector"]


def _fisher(p: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    return 2 * np.log(p).sum(1)


def _harmonic(p: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    return p.shape[1] / (1 / p).sum(1)


def _bonferroni(p: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    return p.shape[1] * p.min(1)


def _mean_rank(p: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    return p.mean(1)


# Higher = more in-distribution.
_COMBINATIONS: dict[str, Callable[[npt.NDArray[np.float64]], npt.NDArray[np.float64]]] = {
    "fisher": _fisher,
    "harmonic": _harmonic,
    "bonferroni": _bonferroni,
    "mean_rank": _mean_rank,
}


def _is_named_detector(item: Any) -> bool:
    return (
        isinstance(item, tuple)
        and len(item) == 2
        and isinstance(item[0], str)
        and all(hasattr(item[1], method) for method in ("fit", "score_samples"))
    )


@estimator
class EnsembleDetector(PValueDetector, _BaseComposition):
    r"""Detector that combines the p-values of several detectors into one.

    Unlike the scores of different detectors, their p-values :math:`p_1, \dots, p_m` have a
    common scale. The score is one of

    .. math::

        \text{fisher: } 2 \sum_j \log p_j, \quad
        \text{harmonic: } m \Big/ \sum_j \frac{1}{p_j}, \quad
        \text{bonferroni: } m \min_j p_j, \quad
        \text{mean rank: } \frac{1}{m} \sum_j p_j,

    and is itself calibrated, because the p-values of one row depend on each other. The p-value of
    the score, on which `predict` is based, has :math:`P(p \le \alpha) \le \alpha` for rows
    exchangeable with the calibration rows, however the detectors depend on each other.

    Parameters
    ----------
    detectors : list of (str, estimator) tuples
        Each with ``fit`` and ``score_samples``, higher = more in-distribution. A detector in
        :class:`sklearn.frozen.FrozenEstimator` is not fitted again; if all are, all
        in-distribution rows given to `fit` are calibration rows. The calibration rows must be new
        to trained models; ``fit(X, y, X_calibration=...)`` takes such rows.
    combination : {"fisher", "harmonic", "bonferroni", "mean_rank"}, default="fisher"
        "fisher" and "mean_rank" accumulate weak evidence from all detectors; in "mean_rank" a
        single extreme p-value has little weight. "bonferroni" uses the smallest p-value only, and
        "harmonic" lies in between.
    alpha : float, default=0.05
        Level of `predict`: the largest accepted rate of false alarms, in (0, 1).
    n_jobs : int or None, default=None
        Number of processes that fit detectors; -1 is one per processor. None is 1, or, in
        ``joblib.parallel_config``, the processes of its backend, such as a Dask cluster. Detectors
        fitted in other processes do not share a network: each has its copy.

    Attributes
    ----------
    detectors_ : list of estimators
        The fitted detectors.
    named_detectors_ : Bunch
        The fitted detectors by name.
    reference_scores_ : list of ndarray
        Ascending scores by each detector of the first half of the rows held out.
    calibration_scores_ : ndarray
        Ascending combined scores of the second half.
    n_calibration_ : int
        Number of rows in the second half.
    offset_ : float
        Threshold on the score; -inf if `n_calibration_` is too small to reject anything.

    See Also
    --------
    ConformalDetector : The p-values of one detector, and their guarantee.

    Notes
    -----
    The rows held out are halved at random. The :math:`p_j` are computed from ranks among the scores
    of the first half. The score is then a fixed function of the row, and its values on the second
    half and on new rows are exchangeable: the p-value is defined as in
    :class:`ConformalDetector`, also with ``calibration="training-conditional"``, and `select`
    bounds the false discovery rate. A distribution that
    assumes independent detectors, such as Fisher's chi-squared, is not used; with correlated
    detectors, its rate of false alarms would be several times the nominal rate.

    The :math:`p_j` are continuous conformal p-values: ranks are interpolated between the n scores
    of the first half, which changes the p-values by at most 1 / (n + 1), and below all these scores
    they decay with the inverse of the distance. Outliers that have the smallest p-value in every
    detector are therefore still ranked, and rounding errors of a score have no effect. Bonferroni's
    bound is not cut off at 1, also to preserve the ranking.

    Rows with ``y == -1`` are not used for calibration. They are passed to detectors of this
    package, which use or drop them, and not to other detectors.

    References
    ----------
    .. [1] R. A. Fisher, "Statistical Methods for Research Workers", Oliver and Boyd 1925.
    .. [2] D. J. Wilson, "The Harmonic Mean p-Value for Combining Dependent Tests", PNAS 116, 2019.
    .. [3] V. Vovk, R. Wang, "Combining p-Values via Averaging", Biometrika 107, 2020.
    .. [4] S. Bates, E. Candès, L. Lei, Y. Romano, M. Sesia, "Testing for Outliers with Conformal
       p-values", Annals of Statistics 51, 2023.

    Examples
    --------
    >>> from sklearn.datasets import load_iris
    >>> from sklearn.ensemble import IsolationForest
    >>> from skood import KNN, Mahalanobis
    >>> from skood.calibration import EnsembleDetector
    >>> X = load_iris().data
    >>> detectors = [
    ...     ("knn", KNN(n_neighbors=3)),
    ...     ("distance", Mahalanobis()),
    ...     ("forest", IsolationForest()),
    ... ]
    >>> ensemble = EnsembleDetector(detectors, alpha=0.1, random_state=0).fit(X)
    >>> ensemble.predict([[5.0, 3.4, 1.5, 0.2], [9.0, 9.0, 9.0, 9.0]])
    array([ 1, -1])
    >>> ensemble.set_params(knn__n_neighbors=5).get_params()["knn__n_neighbors"]
    5
    """

    detectors: list[tuple[str, Any]] = parameter(list)
    combination: str = parameter(StrOptions(set(_COMBINATIONS)), default="fisher")
    alpha: float = parameter(FRACTION, default=0.05)
    n_jobs: int | None = parameter(numbers.Integral, None, default=None, kw_only=True)

    def get_params(self, deep: bool = True) -> dict[str, Any]:
        """Return the parameters; a detector's parameter is called ``name__parameter``.

        Parameters
        ----------
        deep : bool, default=True
            Whether to include the detectors, by name, and their parameters.

        Returns
        -------
        dict
        """
        return self._get_params("detectors", deep=deep)

    def set_params(self, **params: Any) -> EnsembleDetector:
        """Set parameters, detectors by their names, or parameters as ``name__parameter``.

        Parameters
        ----------
        **params : dict

        Returns
        -------
        self
        """
        self._set_params("detectors", **params)
        return self

    def _fit(
        self,
        inliers: CheckedData,
        y: npt.NDArray | None,
        outliers: CheckedData | None,
        seed: int,
        calibration: CheckedData | None = None,
    ) -> None:
        self._check_detectors()
        names, detectors = zip(*self.detectors, strict=True)
        n_items = len(inliers) if calibration is None else None
        training, labels, held_out = self._hold_out(detectors, inliers, y, calibration, seed)
        if len(held_out) < 2:
            origin = "X_calibration has 1 row"
            if n_items is not None:
                origin = (
                    f"calibration_fraction={self.calibration_fraction} of {n_items} "
                    "in-distribution items holds out 1"
                )
            raise ValueError(
                f"{origin}, at least 2 are needed: one half for the p-values of the detectors, one "
                "for their combination. Give more data, or a larger fraction"
            )
        order = numpy_rng(seed, Stream.REFERENCE_HALF).permutation(len(held_out))
        half = len(held_out) // 2
        reference = held_out.subset(np.sort(order[:half]))
        calibration = held_out.subset(np.sort(order[half:]))
        memory = self.memory

        def fitted(number: int) -> Any:
            label = f"({number + 1} of {len(detectors)}, {names[number]})"
            with progress_scope(label=label):
                return fit_detector(
                    detectors[number], training, labels, outliers, seed=seed, memory=memory
                )

        are_trained = [isinstance(detector, FrozenEstimator) for detector in detectors]
        self.detectors_ = []
        for detector in fit_members(fitted, are_trained, self.n_jobs, named=False):
            self.detectors_.append(detector)
        self.named_detectors_ = Bunch(**dict(zip(names, self.detectors_, strict=True)))
        self.reference_scores_ = [np.sort(scores_of(d, reference)) for d in self.detectors_]
        self.calibration_scores_ = np.sort(self._score_samples(calibration))
        self.n_calibration_ = len(calibration)
        delta = self._failure_rate
        self.offset_ = threshold_at(self.calibration_scores_, self.alpha, delta)
        warn_if_too_few(self.n_calibration_, self.alpha, n_items, self.offset_, delta)

    def _check_detectors(self) -> None:
        if not self.detectors or not all(map(_is_named_detector, self.detectors)):
            raise ValueError(
                f"detectors={self.detectors!r}; expected a list of (name, detector) tuples, at "
                f"least one, with detectors that have fit and score_samples; {EXTERNAL}"
            )
        self._validate_names([name for name, _ in self.detectors])

    def _class_models(self) -> list[Any]:
        if hasattr(self, "detectors_"):
            return [detector for detector in self.detectors_ if knows_classes(detector)]
        given = [item[1] for item in self.detectors if _is_named_detector(item)]
        return [detector for detector in given if hasattr(detector, "predict_proba")]

    def _score_samples(self, data: CheckedData) -> npt.NDArray[np.float64]:
        p_values = np.empty((len(data), len(self.detectors_)))
        for j, (detector, reference) in enumerate(
            zip(self.detectors_, self.reference_scores_, strict=True)
        ):
            p_values[:, j] = smooth_p_values(reference, scores_of(detector, data))
        # The lowest float would give a p-value of 0, whose logarithm is -inf.
        return _COMBINATIONS[self.combination](np.maximum(p_values, np.finfo(np.float64).tiny))

    def _p_values(self, data: CheckedData) -> npt.NDArray[np.float64]:
        scores = self._score_samples(data)
        return conformal_p_values(self.calibration_scores_, scores, self._failure_rate)

    def _reference(self) -> npt.NDArray[np.float64]:
        return self.calibration_scores_

    def _comparable(self, data: CheckedData) -> npt.NDArray[np.float64]:
        return self._score_samples(data)

    def __sklearn_tags__(self) -> Tags:
        tags = super().__sklearn_tags__()
        named = filter(_is_named_detector, self.detectors)
        tags.target_tags.required = any(needs_labels(detector) for _, detector in named)
        return tags
