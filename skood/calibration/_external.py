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

from skood._data.checked_data import CheckedData
from skood._detector import Detector
from skood._directions import final_estimator, is_of_pyod, known_direction
from skood._estimator.parameters import HasMethods, StrOptions, estimator, parameter
from skood._models import as_input, rows_through
from skood._progress import tracked
from skood.base import ModelDetector
from skood.calibration._base import fit_detector, needs_labels

__all__ = ["ExternalDetector"]

_METHODS = "score_samples", "decision_function"

# To find out whether the score of a row depends on other rows, this number of rows are scored
# together, some of them also alone, and these also in a call with many copies of them.
_TOGETHER, _ALONE, _REPEATED = 96, 4, 24

# Largest rounding error of the score of a row, relative to the largest score.
_ROUNDING = 1e-5


@estimator
class ExternalDetector(ModelDetector):
    r"""Detector of another library, or of your own, as a detector of this package.

    Libraries disagree about the sign of a score: inliers have the higher scores in scikit-learn
    and in this package, outliers in PyOD. This class wraps any object with ``fit`` and
    ``decision_function`` or ``score_samples``, and returns scores where higher = more
    in-distribution. It can be used wherever a detector is expected: in :class:`ConformalDetector`,
    :class:`EnsembleDetector`, :class:`TunedThreshold`, :func:`~skood.evaluate`, a search or a
    display.

    Parameters
    ----------
    detector : estimator
        A detector of PyOD or of scikit-learn, your own, or a ``Pipeline`` that ends in one, with
        ``fit`` and ``decision_function`` or ``score_samples``. A clone is fitted; a detector in
        :class:`sklearn.frozen.FrozenEstimator` is not fitted again.
    higher : {"inlier", "outlier"}, default=None
        Rows that have the higher values. None: "outlier" for detectors of PyOD, "inlier" for
        detectors of scikit-learn and of this package, and an error for all others.
    method : {"score_samples", "decision_function"}, default=None
        Method that returns the values. None takes ``score_samples`` if the detector has it, else
        ``decision_function``.
    contamination : float, default=0.05
        Fraction of in-distribution data that falls below the threshold. The threshold of
        `detector` itself, and its own `contamination`, have no effect.

    Attributes
    ----------
    detector_ : estimator
        The fitted detector.
    method_ : str
        Method that returns the values.
    higher_ : {"inlier", "outlier"}
        Rows that have the higher values.
    scores_alone_ : bool
        Whether each row is scored in a separate call, because scores depend on the other rows of a
        call.

    Raises
    ------
    ValueError
        In `fit`, when `higher` is needed, when it contradicts the library, or when `detector`
        cannot score a single row.

    Warns
    -----
    UserWarning
        In `fit`, when the scores of the same rows differ between two calls.

    See Also
    --------
    ConformalDetector : Bounds the rate of false alarms of any detector.

    Notes
    -----
    **A score depends on its row alone.** `fit` scores up to 96 training rows, with and without
    other rows in the same call. If their scores differ, each row is scored in a separate call,
    which takes milliseconds per row: ECOD and COPOD of PyOD add the scored rows to the empirical
    distribution, so that many similar outliers in one call would look common. Detectors that score
    a row only relative to the other rows of the call (COF, SOD, SOS, LOCI, ROD, LMDD, CD and DIF
    of PyOD) are refused.

    **Labels.** Rows with ``y == -1`` are passed to `detector` only if it is a detector of this
    package. Detectors of PyOD ignore other labels; PyOD's detectors that learn from labelled
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
                # PyOD ignores labels with a warning; other steps of a Pipeline may need them.
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
        # The class is no scikit-learn estimator.
        detector = copy.deepcopy(self.detector)
        labels = (y,) if "y" in inspect.signature(detector.fit).parameters else ()
        detector.fit(as_input(detector, inliers), *labels)
        return detector

    def _chosen_method(self) -> str:
        """Return the name of the method that returns the values."""
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
                f"{name} scores new rows only with novelty=True; give {name}(novelty=True)"
            )
        expected = "score_samples or decision_function" if self.method is None else self.method
        raise ValueError(
            f"detector={detector!r} has no {expected}; expected a method that scores each row"
        )

    def _known_direction(self, method: str) -> str:
        """Return `higher`, or the rows with the higher values in the library of the detector."""
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
        """Score rows in one call; higher = more in-distribution."""
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
        """Score each row in a separate call."""
        name = type(final_estimator(self.detector_)).__name__
        rows = tracked(range(len(data)), description=name, unit="row", verbose=self.verbose)
        return np.concatenate([self._values(data.subset(np.array([row]))) for row in rows])

    def _score_samples(self, data: CheckedData) -> npt.NDArray[np.float64]:
        return self._values_alone(data) if self.scores_alone_ else self._values(data)

    def _depends_on_others(self, data: CheckedData) -> bool:
        """Whether the score of a row depends on the other rows of a call."""
        rows = np.unique(np.linspace(0, len(data) - 1, min(len(data), _TOGETHER)).astype(int))
        few = data.subset(rows)
        together = self._values(few)
        allowed = _ROUNDING * np.abs(together[np.isfinite(together)]).max(initial=0.0)
        if _differ(together, self._values(few), allowed):
            warnings.warn(
                f"{type(final_estimator(self.detector_)).__name__} gives other scores for the same "
                "rows in a second call, so decisions change, too; fix its seed if it has one",
                stacklevel=2,
            )
            return False
        # Copies of the least typical rows change an empirical distribution most.
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
            f"{name} scores a row only relative to the other rows of the same call, and cannot "
            "score a single row; give a detector that scores a row relative to the training data"
        )

    def __sklearn_tags__(self) -> Tags:
        tags = super().__sklearn_tags__()
        tags.target_tags.required = needs_labels(self.detector)
        return tags


def _differ(a: npt.NDArray[np.float64], b: npt.NDArray[np.float64], allowed: float) -> bool:
    return not np.allclose(a, b, rtol=0, atol=allowed, equal_nan=True)


def _check_unsupervised(detector: Any) -> None:
    """Raise for a detector of PyOD that learns from labels where 1 = outlier."""
    final = final_estimator(detector)
    if isinstance(detector, FrozenEstimator) or not is_of_pyod(final):
        return
    labels = inspect.signature(final.fit).parameters.get("y")
    if labels is not None and labels.default is labels.empty:
        raise ValueError(
            f"{type(final).__name__} of PyOD learns from labels where 1 = outlier, but here 1 is a "
            "class; expected a detector that learns from in-distribution rows alone, or a fitted "
            "one in sklearn.frozen.FrozenEstimator"
        )
