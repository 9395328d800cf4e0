"""Conformal p-values: a bound on the false-alarm rate of any detector."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
from sklearn.frozen import FrozenEstimator
from sklearn.utils import Tags

from skood._data.checked_data import CheckedData
from skood._estimator.parameters import (
    FRACTION,
    HasMethods,
    IsDetector,
    StrOptions,
    at_least,
    estimator,
    parameter,
)
from skood._models import rows_through
from skood._open_set import excludes_classes, knows_classes
from skood._progress import progress_scope
from skood.calibration._base import fit_detector, needs_labels, scores_of
from skood.calibration._class_conditional import (
    calibrated_classes,
    p_values_by_class,
    scores_by_class,
    warn_of_rare_classes,
)
from skood.calibration._further_rows import TakesFurtherRows
from skood.calibration._p_values import (
    conformal_p_values,
    count_up_to,
    n_rejected_ranks,
    smooth_p_values,
    threshold_at,
    warn_if_too_few,
)

__all__ = ["ConformalDetector"]


@estimator
class ConformalDetector(TakesFurtherRows):
    r"""Detector that rejects at most a fraction `alpha` of in-distribution data.

    It wraps any detector. Some in-distribution rows are held out from that detector. The scores
    :math:`s_1, \dots, s_n` of these calibration rows give the p-value of x,

    .. math:: p(x) = \frac{1 + \#\{i : s_i \le s(x)\}}{n + 1},

    and x is out-of-distribution if :math:`p(x) \le \alpha`. If x is exchangeable with the
    calibration rows, :math:`P(p(x) \le \alpha) \le \alpha` for every n, detector and
    distribution (Vovk et al. 2005; Laxhammar 2014 for anomalies).

    Parameters
    ----------
    detector : estimator
        Anything with ``fit`` and ``score_samples``, higher = more in-distribution: a detector of
        this package, ``IsolationForest``, ``GaussianMixture`` or a ``Pipeline`` that ends in one; a
        detector of PyOD, or one with another sign, in :class:`ExternalDetector`. A detector in
        :class:`sklearn.frozen.FrozenEstimator` is not fitted again: all rows given to `fit` are
        then calibration rows. Calibration rows must be new to the detector and to a trained model
        *inside* it; ``fit(X, y, X_calibration=...)`` takes such rows.
    alpha : float, default=0.05
        Level of `predict`: the largest accepted rate of false alarms, in (0, 1).
    method : {"split", "cross"}, default="split"
        "split" holds out `calibration_fraction` of the rows. "cross" holds out each of `n_splits`
        folds from a detector of its own: every row serves both purposes, at `n_splits` times the
        cost and with a weaker guarantee, see Notes.
    n_splits : int, default=5
        Number of folds, for ``method="cross"``.
    class_conditional : bool, default=False
        Whether a row is compared only with the calibration rows of its predicted class, so that the
        bound on false alarms holds within each predicted class; for ``method="split"``.
    classifier : classifier, default=None
        Predicts the classes, for ``class_conditional=True``. It is fitted to the same rows as the
        detector, unless it is in :class:`sklearn.frozen.FrozenEstimator`. None takes the most
        probable class that the fitted detector predicts.

    Attributes
    ----------
    detectors_ : list of estimators
        The fitted detector, or one for each fold.
    calibration_scores_ : list of ndarray
        Ascending scores of the rows held out from each detector.
    n_calibration_ : int
        Number of calibration rows, n.
    offset_ : float
        Threshold on the score; -inf if n is too small to reject anything.
    classifier_ : classifier
        The given classifier, or the ``classifier_`` of the detector, if there is one.
    classes_ : ndarray of shape (n_classes,)
        Labels in the order of `predict_proba`, if the detector has a classifier.
    calibrated_classes_ : ndarray of shape (n_calibrated,)
        Predicted classes with enough calibration rows for `alpha`, with ``class_conditional=True``.
    class_scores_ : list of ndarray
        Ascending scores of the calibration rows of each calibrated class.
    thresholds_ : ndarray of shape (n_calibrated,)
        Threshold on the detector's score in each calibrated class.

    See Also
    --------
    EnsembleDetector : The p-values of several detectors in one.
    TunedThreshold : A threshold for other objectives, without a guarantee.

    Notes
    -----
    **The guarantee** holds on average over calibration sets. Given one set, and scores without
    ties, the rate of false alarms follows a Beta distribution with parameters k and n + 1 - k,
    where :math:`k = \lfloor \alpha (n + 1) \rfloor`; its standard deviation is about
    :math:`\sqrt{\alpha (1 - \alpha) / n}`. No p-value is below 1 / (n + 1), so fewer than
    :math:`1 / \alpha - 1` calibration rows reject nothing; `fit` then warns.

    With ``calibration="training-conditional"``, the rate of false alarms of the fitted detector is
    at most `alpha` for every alpha at once, with probability ``1 - delta`` over calibration sets
    (Bates et al. 2023): the p-value of rank r becomes an upper bound of the r-th smallest of n
    uniform values. With n = 1000, alpha = 0.05 and delta = 0.1, it rejects 33 of the 1000
    calibration rows instead of 50. The probability is divided among the predicted classes of
    ``class_conditional=True``.

    **Several rows at once.** The p-values of the rows of one X share the calibration rows. Their
    positive dependence (PRDS) is one that the procedure of Benjamini and Hochberg allows, so
    `select` bounds the false discovery rate (Bates et al. 2023). This is proved for
    ``method="split"``, also for class-conditional p-values, which are independent between classes;
    it is not proved for "cross".

    **The score.** ``score_samples`` returns the scores of the wrapped detector, and ``offset_`` is
    the smallest score with a p-value above `alpha`, so that the ranking is preserved. With
    ``class_conditional=True`` the threshold of the predicted class is subtracted, and ``offset_``
    is 0. With ``method="cross"`` the score of x is the number of calibration rows with at most its
    score, each scored by the detector that was not fitted to the row, divided by n + 1; a term
    below 1 that grows with the scores is added to the number to break ties. Infinite scores become
    the largest floats.

    **Cross-conformal.** With the score :math:`s^{-k}` of the detector not fitted to fold k,

    .. math:: p(x) = \frac{1 + \sum_k \#\{i \in \text{fold } k :
        s^{-k}(x_i) \le s^{-k}(x)\}}{n + 1}

    (Vovk 2015), which is an average over folds except for the added ones. For K folds it is proved
    that :math:`P(p \le \alpha) \le 2 \alpha + 2 (1 - \alpha) (K - 1) / (n + K)`, because twice an
    average of p-values is a p-value (Gasparin and Ramdas 2025; Barber et al. 2021 for CV+ and, with
    K = n, the jackknife+). The rate is near `alpha` if the detectors of the folds rank rows alike.

    **Class-conditional.** Calibration rows are grouped by their *predicted* class, since new rows
    have no label (Mondrian conformal prediction, Vovk et al. 2005, chapter 4). Rows of a
    predicted class with fewer than :math:`1 / \alpha - 1` calibration rows are compared with
    all of them, with a warning: the bound does not hold within such classes, and the overall rate
    of false alarms is at most `alpha` plus the smaller of `alpha` and the fraction of such rows.
    `select` compares these rows with their own class alone, so that its bound holds; it can hardly
    declare them.

    **Pipelines.** Steps of preprocessing belong inside,
    ``ConformalDetector(make_pipeline(StandardScaler(), KNN()))``: they are then fitted to the rows
    that the detector is fitted to, and applied to `X_calibration` as well. A ``Pipeline`` that ends
    in a ConformalDetector fits them to the calibration rows, too, and does not transform an
    `X_calibration` that it is given.

    References
    ----------
    .. [1] V. Vovk, A. Gammerman, G. Shafer, "Algorithmic Learning in a Random World", Springer
       2005.
    .. [2] R. Laxhammar, "Conformal Anomaly Detection", PhD thesis, University of Skövde 2014.
    .. [3] S. Bates, E. Candès, L. Lei, Y. Romano, M. Sesia, "Testing for Outliers with Conformal
       p-values", Annals of Statistics 51, 2023.
    .. [4] Y. Benjamini, Y. Hochberg, "Controlling the False Discovery Rate", Journal of the Royal
       Statistical Society B 57, 1995.
    .. [5] V. Vovk, "Cross-Conformal Predictors", Annals of Mathematics and Artificial
       Intelligence 74, 2015.
    .. [6] R. F. Barber, E. J. Candès, A. Ramdas, R. J. Tibshirani, "Predictive Inference with
       the Jackknife+", Annals of Statistics 49, 2021, theorem 4.
    .. [7] M. Gasparin, A. Ramdas, "Improving the Statistical Efficiency of Cross-Conformal
       Prediction", arXiv:2503.01495, 2025.

    Examples
    --------
    >>> from sklearn.datasets import load_iris
    >>> from skood import KNN
    >>> from skood.calibration import ConformalDetector
    >>> X = load_iris().data
    >>> detector = ConformalDetector(KNN(n_neighbors=3), alpha=0.1, random_state=0).fit(X)
    >>> detector.predict([[5.0, 3.4, 1.5, 0.2], [9.0, 9.0, 9.0, 9.0]])
    array([ 1, -1])
    >>> detector.p_values([[9.0, 9.0, 9.0, 9.0]]) == 1 / (detector.n_calibration_ + 1)
    array([ True])
    >>> detector.select([[5.0, 3.4, 1.5, 0.2], [9.0, 9.0, 9.0, 9.0]], fdr=0.2)
    array([False,  True])
    """

    detector: Any = parameter(IsDetector())
    alpha: float = parameter(FRACTION, default=0.05)
    method: str = parameter(StrOptions({"split", "cross"}), default="split", kw_only=True)
    n_splits: int = parameter(at_least(2), default=5, kw_only=True)
    class_conditional: bool = parameter("boolean", default=False, kw_only=True)
    classifier: Any = parameter(HasMethods(["fit", "predict"]), None, default=None, kw_only=True)

    def _fit(
        self,
        inliers: CheckedData,
        y: npt.NDArray | None,
        outliers: CheckedData | None,
        seed: int,
        calibration: CheckedData | None = None,
    ) -> None:
        if self.class_conditional:
            self._check_class_conditional(y)
        self.detectors_: list[Any] = []
        self.calibration_scores_: list[npt.NDArray[np.float64]] = []
        settings: dict[str, Any] = {"seed": seed, "memory": self.memory}
        parts = self._parts(inliers, y, calibration, seed)
        for number, (training, labels, held_out) in enumerate(parts, 1):
            label = f"(fold {number} of {len(parts)})" if len(parts) > 1 else None
            with progress_scope(label=label):
                detector = fit_detector(self.detector, training, labels, outliers, **settings)
                scores = scores_of(detector, held_out)
            self.detectors_.append(detector)
            self.calibration_scores_.append(np.sort(scores))
        self._training_rows = training.rows_in(inliers)
        self.n_calibration_ = sum(map(len, self.calibration_scores_))
        if len(self.detectors_) > 1:
            n_rejected = n_rejected_ranks(self.n_calibration_, self.alpha)
            self.offset_ = n_rejected / (self.n_calibration_ + 1)
        else:
            self.offset_ = threshold_at(self.calibration_scores_[0], self.alpha, self._failure_rate)
        n_items = len(inliers) if calibration is None else None
        warn_if_too_few(self.n_calibration_, self.alpha, n_items, self.offset_, self._failure_rate)
        if self.class_conditional:
            self._fit_classifier(training, labels, **settings)
            self._group(scores, self._predicted(held_out))

    @property
    def _explained(self) -> Any:
        found: list[Any] = getattr(self, "detectors_", [])
        return found[0] if len(found) == 1 and not self.class_conditional else None

    def _check_class_conditional(self, y: npt.NDArray | None) -> None:
        if self.method == "cross":
            raise ValueError(
                'class_conditional=True takes method="split", got "cross": the classes would '
                "differ between folds"
            )
        if y is None and self.classifier is not None and needs_labels(self.classifier):
            raise ValueError(
                "ConformalDetector requires y to be passed, but the target y is None: its "
                f"classifier, {type(self.classifier).__name__}, is yet to be trained. Give class "
                "labels, or a trained classifier in sklearn.frozen.FrozenEstimator"
            )

    def _models(self) -> list[Any]:
        """Return the detector, and the classifier of a class-conditional one."""
        if self.class_conditional and self.classifier is not None:
            return [self.detector, self.classifier]
        return [self.detector]

    def _parts(
        self,
        inliers: CheckedData,
        y: npt.NDArray | None,
        calibration: CheckedData | None,
        seed: int,
    ) -> list[tuple[CheckedData, npt.NDArray | None, CheckedData]]:
        """Return for each detector the rows to fit to, their labels, and rows to calibrate with."""
        models = self._models()
        if self.method == "cross" and self._failure_rate is not None:
            raise ValueError('calibration="training-conditional" takes method="split", got "cross"')
        if self.method == "cross" and calibration is not None:
            raise ValueError(
                'X_calibration is for method="split", got "cross", which calibrates with the folds '
                "of X"
            )
        if self.method == "split" or isinstance(self.detector, FrozenEstimator):
            return [self._hold_out(models, inliers, y, calibration, seed)]
        return self._hold_out_folds(models, inliers, y, self.n_splits, seed)

    def _fit_classifier(
        self, training: CheckedData, labels: npt.NDArray | None, **settings: Any
    ) -> None:
        self._classifier = None
        if self.classifier is not None:
            self._classifier = fit_detector(self.classifier, training, labels, None, **settings)
            return
        detector = self.detectors_[0]
        if knows_classes(detector) and excludes_classes(detector):
            return
        self._classifier = getattr(detector, "classifier_", None)
        if self._classifier is None or not excludes_classes(detector):
            raise ValueError(
                "class_conditional=True needs the class of a row, but "
                f"{type(detector).__name__} has no classifier_; give one as classifier="
            )

    def _class_models(self) -> list[Any]:
        if self.class_conditional and self.classifier is not None:
            return [self._classifier if hasattr(self, "offset_") else self.classifier]
        return list(getattr(self, "detectors_", [self.detector]))

    def _different_classes(self, known: list[npt.NDArray]) -> npt.NDArray:
        # A rare class may have no rows outside a fold; the detector of the fold gives it 0.
        return np.unique(np.concatenate(known))

    @property
    def classifier_(self) -> Any:
        """Classifier of a class-conditional detector, or of the wrapped detector."""
        if self.class_conditional and getattr(self, "_classifier", None) is not None:
            return self._classifier
        return super().classifier_

    def _predicted(self, data: CheckedData) -> npt.NDArray:
        if self._classifier is not None:
            return rows_through(self._classifier, "predict", data)
        return self.classes_[self._class_proba(data).argmax(1)]

    def _group(self, scores: npt.NDArray[np.float64], predicted: npt.NDArray) -> None:
        """Set the calibration attributes of each class."""
        self._scores_by_class = scores_by_class(scores, predicted)
        calibrated = calibrated_classes(self._scores_by_class, self.alpha, self._class_delta)
        self.calibrated_classes_ = np.array(list(calibrated), dtype=predicted.dtype)
        self.class_scores_ = list(calibrated.values())
        self.thresholds_ = np.array(
            [threshold_at(scores, self.alpha, self._class_delta) for scores in self.class_scores_]
        )
        self._other_threshold = self.offset_
        if np.isneginf(self.offset_):
            # No row can be rejected: there is no threshold to subtract.
            self._other_threshold = 0.0
            return
        self.offset_ = 0.0
        warn_of_rare_classes(self._scores_by_class, calibrated, self.alpha, self.n_calibration_)

    @property
    def _class_delta(self) -> float | None:
        """Probability that the bound fails within one of the predicted classes."""
        delta = self._failure_rate
        return None if delta is None else delta / len(self._scores_by_class)

    def _p_values(self, data: CheckedData) -> npt.NDArray[np.float64]:
        if len(self.detectors_) > 1:
            return (1 + self._outscored(data)[0]) / (self.n_calibration_ + 1)
        scores = scores_of(self.detectors_[0], data)
        p_values = conformal_p_values(self.calibration_scores_[0], scores, self._failure_rate)
        if not self.class_conditional:
            return p_values
        of_class = dict(zip(self.calibrated_classes_.tolist(), self.class_scores_, strict=True))
        predicted = self._predicted(data)
        return p_values_by_class(of_class, scores, predicted, self._class_delta, p_values)

    def _p_values_to_select(self, data: CheckedData) -> npt.NDArray[np.float64]:
        if not self.class_conditional:
            return self._p_values(data)
        # Rows of a rare class are compared with its few calibration rows, and rows of a class
        # without any get 1: the p-values are large, but valid.
        scores, predicted = scores_of(self.detectors_[0], data), self._predicted(data)
        of_class, ones = self._scores_by_class, np.ones(len(scores))
        return p_values_by_class(of_class, scores, predicted, self._class_delta, ones)

    def _reference(self) -> npt.NDArray[np.float64]:
        if len(self.detectors_) > 1:
            raise ValueError(
                'a drift test needs one detector for all calibration rows, but method="cross" '
                f'fitted {len(self.detectors_)}; use method="split"'
            )
        return self.calibration_scores_[0]

    def _comparable(self, data: CheckedData) -> npt.NDArray[np.float64]:
        return scores_of(self.detectors_[0], data)

    def _score_samples(self, data: CheckedData) -> npt.NDArray[np.float64]:
        if len(self.detectors_) > 1:
            n_outscored, between = self._outscored(data)
            return (n_outscored + between) / (self.n_calibration_ + 1)
        scores = scores_of(self.detectors_[0], data)
        if self.class_conditional:
            predicted = self._predicted(data)
            thresholds = np.full(len(scores), self._other_threshold)
            for label, threshold in zip(self.calibrated_classes_, self.thresholds_, strict=True):
                thresholds[predicted == label] = threshold
            scores -= thresholds
        return scores

    def _outscored(
        self, data: CheckedData
    ) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.float64]]:
        """Count calibration rows up to each score, and return terms below 1 that break ties."""
        n_outscored = np.zeros(len(data), dtype=np.int64)
        between = np.zeros(len(data))
        for detector, calibration in zip(self.detectors_, self.calibration_scores_, strict=True):
            scores = scores_of(detector, data)
            n_outscored += count_up_to(calibration, scores)
            between += smooth_p_values(calibration, scores) / len(self.detectors_)
        return n_outscored, between

    def __sklearn_tags__(self) -> Tags:
        tags = super().__sklearn_tags__()
        models = [self.detector, self.classifier] if self.class_conditional else [self.detector]
        tags.target_tags.required = any(needs_labels(model) for model in models)
        return tags
