"""Detectors of other libraries."""

from __future__ import annotations

import copy
import inspect
import warnings
from typing import Any

import numpy as np
import numpy.typing as npt
from sklearn.frozen import FrozenEstimator
from sklearn.utils import Tags

from skood._checked_data import CheckedData
from skood._detector import Detector
from skood._directions import final_estimator, is_of_pyod, known_direction
from skood._models import as_input, rows_through
from skood._parameters import HasMethods, StrOptions, estimator, parameter
from skood._progress import tracked
from skood.base import ModelDetector
from skood.calibration._base import fit_detector, needs_labels

__all__ = ["ExternalDetector"]

_METHODS = "score_samples", "decision_function"

# Rows that are scored together to see whether the score of a row depends on the others, how many
# of them are also scored alone, and how often these are repeated among the others.
_TOGETHER, _ALONE, _REPEATED = 96, 4, 24

# Largest difference between scores of a row that rounding explains, relative to the largest score.
_ROUNDING = 1e-5


@estimator
class ExternalDetector(ModelDetector):
    r"""Detector of another library, or of your own, as a detector of this package.

    Libraries disagree about the sign of a score: inliers have the higher scores in scikit-learn
    and here, outliers in PyOD. This class takes any object with ``fit`` and ``decision_function``
    or ``score_samples``, and turns its scores so that higher = more in-distribution. The result
    goes wherever a detector goes: into :class:`ConformalDetector`, :class:`EnsembleDetector`,
    :class:`TunedThreshold`, :func:`~skood.evaluate`, a search or a display.

    Parameters
    ----------
    detector : estimator
        With ``fit`` and ``decision_function`` or ``score_samples``: a detector of PyOD or of
        scikit-learn, one of your own, or a ``Pipeline`` that ends in one. A clone is fitted; one in
        :class:`sklearn.frozen.FrozenEstimator` is not fitted again.
    higher : {"inlier", "outlier"}, default=None
        Rows that have the higher values. None: "outlier" for detectors of PyOD, "inlier" for those
        of scikit-learn and of this package, and an error for all others.
    method : {"score_samples", "decision_function"}, default=None
        Method that gives the values. None takes ``score_samples``, or ``decision_function`` of a
        detector that has no ``score_samples``.
    contamination : float, default=0.05
        Fraction of in-distribution data that falls below the threshold. The threshold of
        `detector` itself, and its own `contamination`, have no effect.
    memory : str or joblib.Memory, default=None
        Where fitted detectors are cached by their parameters and data.
    random_state : int, RandomState instance or None, default=None
        Seed for a detector whose own ``random_state`` is None, and of the rows that the
        threshold is read from where there are more than 5000.

    Attributes
    ----------
    detector_ : estimator
        The fitted detector.
    method_ : str
        Method that gives the values.
    higher_ : {"inlier", "outlier"}
        Rows that have the higher values.
    scores_alone_ : bool
        Whether each row is scored in a call of its own, because the score of a row depends on the
        other rows of the call.

    Raises
    ------
    ValueError
        In `fit`, when it is not known which rows have the higher values, when `higher` contradicts
        the library, or when `detector` scores no row by itself.

    Warns
    -----
    UserWarning
        In `fit`, when `detector` gives other scores for the same rows in a second call.

    See Also
    --------
    ConformalDetector : Bounds the rate of false alarms of any detector.

    Notes
    -----
    **Scores belong to the row.** `fit` scores up to 96 training rows, with and without others in
    the same call. If their scores differ, each row is scored in a call of its own: ECOD and COPOD
    of PyOD add the rows to be scored to the empirical distribution, so that many similar outliers
    in one call would look common. Such a call takes milliseconds for each row. Detectors that score
    a row only by the other rows of the call (COF, SOD, SOS, LOCI, ROD, LMDD, CD and DIF of
    PyOD) are refused.

    **Labels.** Rows with ``y == -1`` are not passed to `detector`, unless it is one of this
    package. Detectors of PyOD ignore other labels, and those of them that learn from labelled
    outliers are refused.

    References
    ----------
    .. [1] Y. Zhao, Z. Nasrullah, Z. Li, "PyOD: A Python Toolbox for Scalable Outlier Detection",
       JMLR 20, 2019.

    Examples
    --------
    >>> import numpy as np
    >>> from sklearn.base import BaseEstimator
    >>> from skood import ConformalDetector, ExternalDetector
    >>> class Distance(BaseEstimator):
    ...     def fit(self, X, y=None):
    ...         self.center_ = X.mean(axis=0)
    ...         return self
    ...
    ...     def decision_function(self, X):
    ...         return np.linalg.norm(X - self.center_, axis=1)
    >>> X = np.random.default_rng(0).normal(size=(200, 2))
    >>> detector = ExternalDetector(Distance(), higher="outlier").fit(X)
    >>> detector.predict([[0.0, 0.0], [9.0, 9.0]])
    array([ 1, -1])
    >>> ConformalDetector(detector, random_state=0).fit(X).predict([[0.0, 0.0], [9.0, 9.0]])
    array([ 1, -1])
    """

    detector: Any = parameter(HasMethods("fit"))
    higher: str | None = parameter(StrOptions({"inlier", "outlier"}), None, default=None)
    method: str | None = parameter(StrOptions(set(_METHODS)), None, default=None, kw_only=True)

    _model_parameters = ("detector",)

    @property
    def _takes_any_shape(self) -> bool:
        return True

    def _fit(
        self, inliers: CheckedData, y: npt.NDArray | None, outliers: CheckedData | None, seed: int
    ) -> None:
        self.method_ = self._chosen_method()
        self.higher_ = self._known_direction(self.method_)
        _check_unsupervised(self.detector)
        with warnings.catch_warnings():
            if is_of_pyod(self.detector):
                # Labels are for the other steps of a Pipeline; PyOD ignores them, with a warning.
                warnings.filterwarnings("ignore", "y should not be presented")
            self.detector_ = self._fitted(inliers, y, outliers, seed)
        self.scores_alone_ = False
        if not isinstance(final_estimator(self.detector_), Detector):
            self.scores_alone_ = self._depends_on_others(inliers)

    def _fitted(
        self, inliers: CheckedData, y: npt.NDArray | None, outliers: CheckedData | None, seed: int
    ) -> Any:
        if isinstance(self.detector, FrozenEstimator) or hasattr(self.detector, "get_params"):
            return fit_detector(self.detector, inliers, y, outliers, seed=seed, memory=self.memory)
        # A class that knows nothing of scikit-learn.
        detector = copy.deepcopy(self.detector)
        labels = (y,) if "y" in inspect.signature(detector.fit).parameters else ()
        detector.fit(as_input(detector, inliers), *labels)
        return detector

    def _chosen_method(self) -> str:
        """Return the method that gives the values; raise where the detector has none."""
        detector = self.detector
        if self.method is None:
            method = next((name for name in _METHODS if hasattr(detector, name)), None)
        else:
            method = self.method if hasattr(detector, self.method) else None
        if method is not None:
            return method
        name = type(final_estimator(detector)).__name__
        if getattr(final_estimator(detector), "novelty", None) is False:
            raise ValueError(
                f"{name} scores new rows with novelty=True only; give {name}(novelty=True)"
            )
        expected = "score_samples or decision_function" if self.method is None else self.method
        raise ValueError(
            f"detector={detector!r} has no {expected}, the method that is to give a score for each "
            "row"
        )

    def _known_direction(self, method: str) -> str:
        """Return which rows have the higher values, as said or as known."""
        known, is_certain = known_direction(self.detector, method)
        name = type(final_estimator(self.detector)).__name__
        if self.higher is None:
            if known is None:
                raise ValueError(
                    f"it is not known which rows have the higher {method} of {name}; give "
                    'higher="inlier" if in-distribution rows do, as in scikit-learn, or '
                    'higher="outlier" if outliers do, as in PyOD'
                )
            return known
        if is_certain and self.higher != known:
            raise ValueError(
                f"higher={self.higher!r}, but {method} of {name} is higher for {known}s; leave "
                "`higher` out"
            )
        return self.higher

    def _values(self, data: CheckedData) -> npt.NDArray[np.float64]:
        """Turn the values of the rows of one call, so that higher = more in-distribution."""
        values = rows_through(self.detector_, self.method_, data)
        if values.shape != (len(data),):
            raise ValueError(
                f"{self.method_} of {type(final_estimator(self.detector_)).__name__} returned an "
                f"array of shape {values.shape} for {len(data)} rows; expected one value for each "
                "row"
            )
        values = values.astype(np.float64)
        return values if self.higher_ == "inlier" else -values

    def _values_alone(self, data: CheckedData) -> npt.NDArray[np.float64]:
        """Return the values of rows, each in a call of its own."""
        name = type(final_estimator(self.detector_)).__name__
        rows = tracked(range(len(data)), description=name, unit="row", verbose=self.verbose)
        return np.concatenate([self._values(data.subset(np.array([row]))) for row in rows])

    def _score_samples(self, data: CheckedData) -> npt.NDArray[np.float64]:
        return self._values_alone(data) if self.scores_alone_ else self._values(data)

    def _depends_on_others(self, data: CheckedData) -> bool:
        """Whether the score of a row depends on the other rows of a call.

        Raises
        ------
        ValueError
            When a row by itself has no score.
        """
        rows = np.unique(np.linspace(0, len(data) - 1, min(len(data), _TOGETHER)).astype(int))
        few = data.subset(rows)
        together = self._values(few)
        allowed = _ROUNDING * np.abs(together[np.isfinite(together)]).max(initial=0.0)
        if _differ(together, self._values(few), allowed):
            warnings.warn(
                f"{type(final_estimator(self.detector_)).__name__} gives other scores for the same "
                "rows in a second call, and so do decisions; fix its source of random numbers if "
                "it has one",
                stacklevel=2,
            )
            return False
        # Repetitions of the least typical rows change an empirical distribution most.
        least = np.argsort(together)[:_ALONE]
        crowd = np.concatenate([np.arange(len(rows)), np.repeat(least, _REPEATED)])
        crowded = self._values(few.subset(crowd))[least]
        try:
            alone = self._values_alone(few.subset(least))
        except Exception as error:
            raise ValueError(self._needs_others()) from error
        if not _differ(together[least], alone, allowed) and not _differ(crowded, alone, allowed):
            return False
        everyone = self._values_alone(few)
        if np.isnan(everyone).any() or (np.ptp(everyone) == 0 and np.ptp(together) > 0):
            raise ValueError(self._needs_others())
        return True

    def _needs_others(self) -> str:
        name = type(final_estimator(self.detector_)).__name__
        return (
            f"{name} scores a row only by the other rows of the same call, so that a row by itself "
            f"has no score of {name}; give a detector that scores a row by what it learned in fit"
        )

    def __sklearn_tags__(self) -> Tags:
        tags = super().__sklearn_tags__()
        tags.target_tags.required = needs_labels(self.detector)
        return tags


def _differ(a: npt.NDArray[np.float64], b: npt.NDArray[np.float64], allowed: float) -> bool:
    return not np.allclose(a, b, rtol=0, atol=allowed, equal_nan=True)


def _check_unsupervised(detector: Any) -> None:
    """Raise for a detector of PyOD that learns from labels, 1 = outlier."""
    final = final_estimator(detector)
    if isinstance(detector, FrozenEstimator) or not is_of_pyod(final):
        return
    labels = inspect.signature(final.fit).parameters.get("y")
    if labels is not None and labels.default is labels.empty:
        raise ValueError(
            f"{type(final).__name__} of PyOD learns from labels, 1 = outlier, which mean a class "
            "here; expected a detector that learns from in-distribution rows alone, or one that "
            "was fitted to such labels, in sklearn.frozen.FrozenEstimator"
        )
