"""Scorers of detectors for scikit-learn's searches and validations."""

from __future__ import annotations

import contextlib
import inspect
import multiprocessing
import threading
import warnings
import weakref
from collections.abc import Callable, Sequence
from types import SimpleNamespace
from typing import Any

import numpy as np
import numpy.typing as npt
from sklearn.base import is_classifier
from sklearn.exceptions import UndefinedMetricWarning

from skood._data.labels import check_ood_labels, is_outlier
from skood._directions import is_of_pyod
from skood._estimator.parameters import EXTERNAL
from skood.metrics import (
    aupr_in,
    aupr_out,
    auroc,
    ccr_at_fpr,
    detection_error,
    fpr_at_tpr,
    open_set_f1,
    oscr,
)
from skood.model_selection._classification import ScoredRows
from skood.model_selection._inlier_fit import InlierFit

__all__ = ["get_ood_scorer", "get_ood_scorer_names"]

# Metric, sign that makes greater better, and the parameters implied by the name.
_METRICS: dict[str, tuple[Callable[..., float], int, dict[str, Any]]] = {
    "auroc": (auroc, 1, {}),
    "aupr_in": (aupr_in, 1, {}),
    "aupr_out": (aupr_out, 1, {}),
    "ccr": (ccr_at_fpr, 1, {}),
    "detection_error": (detection_error, -1, {}),
    "f1": (open_set_f1, 1, {}),
    "fpr80": (fpr_at_tpr, -1, {"tpr": 0.8}),
    "fpr95": (fpr_at_tpr, -1, {"tpr": 0.95}),
    "fpr_at_tpr": (fpr_at_tpr, -1, {}),
    "oscr": (oscr, 1, {}),
}
_NO_SCORE_OF_TRAINING_PARTS = (
    "training parts have no OOD row, so their score is NaN. Give return_train_score=False, which "
    "is not the default of halving searches, or OODSplit(outliers_in_train=True)"
)
# Attributes in which fitted estimators store the estimator that they delegate to.
_INNER = "best_estimator_", "estimator_", "classifier_"


def get_ood_scorer_names() -> list[str]:
    """Return the names that :func:`get_ood_scorer` accepts.

    Returns
    -------
    list of str

    Examples
    --------
    >>> from skood.model_selection import get_ood_scorer_names
    >>> get_ood_scorer_names()
    ['aupr_in', 'aupr_out', 'auroc', 'ccr', 'detection_error', 'f1', 'fpr80', 'fpr95',
    'fpr_at_tpr', 'oscr']
    """
    return sorted(_METRICS)


def get_ood_scorer(name: str | Sequence[str], **params: Any) -> Callable[[Any, Any, Any], Any]:
    """Make a scorer of detectors for the parameter `scoring` of scikit-learn.

    A row counts as OOD if its label is -1, or a class that the estimator was not trained on. The
    training classes are the ``classes_`` of the estimator or of the classifier in it.

    Parameters
    ----------
    name : str or sequence of str
        One of "auroc", "aupr_in", "aupr_out", "detection_error", "fpr_at_tpr", "fpr80" and
        "fpr95" (:func:`~skood.metrics.fpr_at_tpr` with tpr=0.8 and 0.95). For detectors that
        predict classes also "oscr", "ccr" (:func:`~skood.metrics.ccr_at_fpr`) and "f1"
        (:func:`~skood.metrics.open_set_f1` at the detector's threshold). Several names make a
        scorer that returns a dictionary and scores the rows once for all metrics.
    **params : dict
        Parameters of the metric: ``tpr`` for "fpr_at_tpr", ``fpr`` for "ccr".

    Returns
    -------
    callable
        Called with a fitted estimator, X and y, it returns a float, greater = better: error rates
        are negated. It raises a ValueError for rows that are all in-distribution or all OOD, and a
        TypeError for an estimator that does not score single rows or, where the metric needs
        classes, has no ``predict_proba``. A training part without OOD
        rows, which a search scores after a test part, has the score NaN, with one
        :class:`~sklearn.exceptions.UndefinedMetricWarning` for all training parts.

    See Also
    --------
    OODSplit : Splits with ID and OOD rows in every test part.
    LeaveClassesOut : Splits in which some classes replace OOD rows.

    Notes
    -----
    Scores come from ``score_samples``, or ``decision_function`` if there is none, where higher must
    mean more in-distribution, as for scikit-learn's outlier detectors. Detectors of PyOD have the
    opposite sign and are refused; :class:`~skood.calibration.ExternalDetector` converts it.

    Unlike :func:`sklearn.metrics.make_scorer`, this uses ``score_samples`` of any estimator and the
    classes that it was trained on.

    Examples
    --------
    >>> import numpy as np
    >>> from sklearn.neighbors import KernelDensity
    >>> from skood.model_selection import get_ood_scorer
    >>> X = np.array([[0.0], [0.1], [0.2], [5.0], [0.1]])
    >>> density = KernelDensity().fit(X[:3])
    >>> get_ood_scorer("auroc")(density, X[:4], [2, 0, 1, -1])
    1.0
    >>> get_ood_scorer(["auroc", "fpr95"])(density, X, [2, 0, 1, -1, -1])
    {'auroc': 0.5833333333333334, 'fpr95': -0.5}
    """
    if isinstance(name, str):
        return _OODScorer(name, params)
    if params:
        raise TypeError(
            f"{', '.join(params)} given with several names, {list(name)}; a parameter belongs to "
            'one metric: make a scorer for each and give scoring={"a": scorer_a, "b": scorer_b}'
        )
    return _OODScorers(name)


class _OODScorer:
    """Scorer for one metric."""

    has_warned = False

    def __init__(self, name: str, params: dict[str, Any]) -> None:
        if name not in _METRICS:
            raise ValueError(
                f"{name!r} is no OOD scorer; expected one of {', '.join(get_ood_scorer_names())}"
            )
        metric, _, preset = _METRICS[name]
        signature = inspect.signature(metric).parameters.values()
        known = {p.name for p in signature if p.kind is p.KEYWORD_ONLY} - set(preset)
        if not set(params) <= known:
            raise TypeError(
                f"{name!r} has no parameter {', '.join(sorted(set(params) - known))}; "
                f"its parameters: {', '.join(sorted(known)) or 'none'}"
                + (f" ({metric.__name__!r} is the one to set tpr with)" if preset else "")
            )
        self._name = name
        self._params = params

    @property
    def _sign(self) -> int:
        return _METRICS[self._name][1]

    def _measure(self, rows: ScoredRows) -> float:
        metric, sign, preset = _METRICS[self._name]
        arrays: tuple[npt.NDArray, ...]
        if metric is open_set_f1:
            arrays = rows.labels, rows.decided
        elif metric in (ccr_at_fpr, oscr):
            arrays = rows.labels, rows.predicted, rows.scores
        else:
            arrays = rows.kinds, rows.scores
        return sign * metric(*arrays, **preset, **self._params)

    def __call__(self, estimator: Any, X: Any, y: Any) -> float:
        found = _scored(estimator, X, y)
        if found is None:
            _warn_once(self)
            return np.nan
        return self._measure(found)

    def _accept_sample_weight(self) -> bool:
        # A search with several scorers and sample weights calls this on every scorer.
        return False

    def __repr__(self) -> str:
        params = "".join(f", {name}={value!r}" for name, value in self._params.items())
        return f"get_ood_scorer({self._name!r}{params})"


class _OODScorers:
    """Scorer for several metrics, which scores rows once."""

    has_warned = False

    def __init__(self, names: Sequence[str]) -> None:
        self._scorers = {name: _OODScorer(name, {}) for name in names}
        if not self._scorers:
            raise ValueError(
                f"no name was given; expected one or several of {', '.join(get_ood_scorer_names())}"
            )

    def __call__(self, estimator: Any, X: Any, y: Any) -> dict[str, float]:
        found = _scored(estimator, X, y)
        if found is None:
            _warn_once(self)
            return dict.fromkeys(self._scorers, np.nan)
        return {name: scorer._measure(found) for name, scorer in self._scorers.items()}

    def __repr__(self) -> str:
        return f"get_ood_scorer({list(self._scorers)!r})"


def _scored(estimator: Any, X: Any, y: Any) -> ScoredRows | None:
    """Score the rows; return None for a training part."""
    labels = check_ood_labels(y, needed_by="the OOD scorer")
    outlier = is_outlier(labels)
    classes = _known_classes(estimator)
    unknown = np.zeros(len(labels), dtype=bool)
    if classes is not None:
        known = set(np.asarray(classes).tolist())
        unknown = np.array([label not in known for label in labels.tolist()], dtype=bool)
    is_ood = outlier | unknown
    if not is_ood.any() and _last_scored.is_(estimator):
        # A search scores a training part right after the test part.
        return None
    if is_ood.all() or not is_ood.any():
        raise ValueError(_one_sided(labels, outlier, unknown, classes))
    # The decision function of a classifier separates classes, though it looks like a score for two.
    method = getattr(estimator, "score_samples", None)
    if method is None and not is_classifier(estimator):
        method = getattr(estimator, "decision_function", None)
    if method is None:
        raise TypeError(
            f"{type(estimator).__name__} has no score for single rows; expected a detector, with "
            "score_samples or decision_function, higher = more in-distribution. Make one from a "
            "classifier, such as skood.MSP(classifier)"
        )
    if is_of_pyod(estimator):
        raise TypeError(
            f"{method.__name__} of {type(estimator).__name__} is higher for outliers, as in all "
            f"of PyOD, but a scorer expects higher = more in-distribution; {EXTERNAL}"
        )
    scores = np.asarray(method(X), dtype=np.float64)
    _last_scored.set(estimator)
    return ScoredRows(estimator, X, labels, is_ood, scores)


def _known_classes(estimator: Any) -> Any:
    """Return the classes that an estimator, or the one that it wraps, was trained on, or None."""
    classes = getattr(estimator, "classes_", None)
    if isinstance(estimator, InlierFit) and classes is not None and estimator._labels is not None:
        # A pretrained network may have more classes than its detector was fitted to, or the same
        # classes by other names.
        fitted_to = estimator._labels.tolist()
        return [c for c in np.asarray(classes).tolist() if c in fitted_to] or fitted_to
    if classes is not None:
        return classes
    inner = [getattr(estimator, name) for name in _INNER if hasattr(estimator, name)]
    if hasattr(estimator, "named_steps"):
        inner.append(estimator.steps[-1][1])
    for part in inner:
        classes = _known_classes(part)
        if classes is not None:
            return classes
    return None


def _one_sided(
    labels: npt.NDArray,
    outlier: npt.NDArray[np.bool_],
    unknown: npt.NDArray[np.bool_],
    classes: Any,
) -> str:
    trained_on = "" if classes is None else f", trained on {_named(np.asarray(classes))}"
    if unknown.any() or outlier.any():
        return (
            f"no in-distribution row among the {len(labels)} scored: {outlier.sum()} have the "
            f"label -1, and the labels of the others ({_named(labels[~outlier])}) are no classes "
            f"of the estimator{trained_on}. Score rows of its classes as well, with the labels it "
            "was trained with; OODSplit gives both to every test part"
        )
    return (
        f"no OOD row among the {len(labels)} scored: none has the label -1 or a class unknown to "
        f"the estimator{trained_on or ', which keeps no classes_'}. In cross-validation give "
        "cv=OODSplit() and OOD rows, or cv=LeaveClassesOut() and, where the estimator keeps no "
        "classes or holds a network that was trained on all of them, InlierFit(estimator). A "
        "halving search draws rows of the test parts: raise its min_resources, or give it another "
        "resource than n_samples"
    )


class _LastScored(threading.local):
    """The last estimator that this thread scored on both ID and OOD rows."""

    _reference: Callable[[], Any] = staticmethod(lambda: None)

    def set(self, estimator: Any) -> None:
        self._reference = lambda: None
        with contextlib.suppress(TypeError):
            self._reference = weakref.ref(estimator)

    def is_(self, estimator: Any) -> bool:
        return self._reference() is estimator


_last_scored = _LastScored()
# Whether this worker process of a search has warned; in other processes the scorer records it.
_worker = SimpleNamespace(has_warned=False)


def _warn_once(scorer: Any) -> None:
    """Warn for the first training part of a search alone; Python's filters reset between fits."""
    state = scorer if multiprocessing.parent_process() is None else _worker
    if not state.has_warned:
        state.has_warned = True
        warnings.warn(_NO_SCORE_OF_TRAINING_PARTS, UndefinedMetricWarning, stacklevel=3)


def _named(labels: npt.NDArray) -> str:
    unique = [str(label) for label in np.unique(labels).tolist()]
    return ", ".join(unique[:5]) + (", ..." if len(unique) > 5 else "") or "there are none"
