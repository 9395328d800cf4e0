"""Base of all detectors: checking, scoring and deciding."""

from __future__ import annotations

import contextlib
import warnings
from abc import ABCMeta, abstractmethod
from collections.abc import Iterator, Mapping
from contextlib import AbstractContextManager
from typing import Any

import numpy as np
import numpy.typing as npt
from sklearn.base import BaseEstimator, OutlierMixin
from sklearn.exceptions import NotFittedError
from sklearn.utils import Tags
from sklearn.utils.metaestimators import available_if
from sklearn.utils.validation import check_is_fitted

from skood._data.checked_data import CheckedData
from skood._data.validation import check_data, check_scores
from skood._estimator.docs_link import DocumentationLinkMixin
from skood._estimator.internal import internal
from skood._estimator.parameters import StrOptions, estimator, fit_context, parameter
from skood._models import (
    checks_columns,
    input_tags,
    is_checked_by_sklearn,
    only_transforms,
    reads_as_it_came,
    takes_any_length,
)
from skood._progress import progress_scope
from skood._torch.run import followed_by
from skood.explanation._base import Explanation
from skood.explanation._explain import no_explanation

__all__ = ["Detector", "can_explain", "check_one_score_each"]


class _MissingThreshold:
    """Raises an error while ``offset_`` is unset, before `fit` or after an interrupted one."""

    def __get__(self, detector: Any, owner: type | None = None) -> Any:
        if detector is None:
            return self
        raise NotFittedError(
            f"this {type(detector).__name__} has no threshold: it is not fitted, or its fit was "
            "interrupted. To set the threshold of a trained detector without training, call "
            "ConformalDetector(FrozenEstimator(detector)).fit(X) with new rows X"
        )


def can_explain(detector: Detector) -> bool:
    """Whether a detector has an explanation of its own; raise an error that says why not."""
    if not detector._explains:
        raise AttributeError(no_explanation(detector))
    return True


@estimator
class Detector(DocumentationLinkMixin, OutlierMixin, BaseEstimator, metaclass=ABCMeta):
    """Base of all detectors, including those that calibrate other detectors.

    Parameters
    ----------
    verbose : {"auto"}, bool or int, default="auto"
        Whether progress is shown. "auto" shows it in a terminal or notebook, for work that takes
        more than a few seconds.
    random_state : int, RandomState instance or None, default=None
        Seed of all random numbers, and of a model whose own ``random_state`` is None.

    Attributes
    ----------
    offset_ : float
        Threshold on the score.
    input_shape_ : tuple of int
        Shape of an item, (C, H, W) or (d,).
    n_features_in_ : int
        Number of values in an item.
    """

    verbose: bool | int | str = parameter(
        "verbose", StrOptions({"auto"}), default="auto", kw_only=True
    )
    random_state: int | np.random.RandomState | None = parameter(
        "random_state", default=None, kw_only=True
    )

    # Detectors around detectors and `evaluate` pass on their checked data.
    _reads_checked_data = True

    offset_ = _MissingThreshold()

    @abstractmethod
    def _score_samples(self, data: CheckedData) -> npt.NDArray[np.float64]:
        """Score checked data; higher = more in-distribution."""

    @abstractmethod
    def _fit_split(
        self,
        earlier: Mapping[str, Any],
        inliers: CheckedData,
        y: npt.NDArray | None,
        outliers: CheckedData | None,
    ) -> Detector:
        """Fit to data whose known outliers are separated; `earlier` as for ``_keeps_models``."""

    @internal
    @fit_context(prefer_skip_nested_validation=False)
    def fit_split(
        self, inliers: CheckedData, y: npt.NDArray | None, outliers: CheckedData | None
    ) -> Detector:
        """Fit as `fit` does, to checked data whose known outliers are separated.

        Parameters
        ----------
        inliers : CheckedData
        y : ndarray or None
            Labels of the inliers.
        outliers : CheckedData or None

        Returns
        -------
        self
        """
        return self._fit_split({}, self._check(inliers, reset=True), y, outliers)

    @contextlib.contextmanager
    def _keeps_models(
        self, earlier: Mapping[str, Any], following: str = "threshold"
    ) -> Iterator[None]:
        """Keep the models that the block has trained when Ctrl-C ends it, and warn which ones.

        Parameters
        ----------
        earlier : dict of str to object
            Attributes before `fit`. Attributes of an earlier fit are deleted, because they do not
            match the models of this fit.
        following : str, default="threshold"
            Name of the next phase, for the message of Ctrl-C.
        """
        self.__dict__.pop("offset_", None)
        name = type(self).__name__
        try:
            with followed_by(f"{following} of {name}"):
                yield
        except KeyboardInterrupt:
            attributes = self.__dict__
            for attribute, value in earlier.items():
                if attribute.endswith("_") and attributes.get(attribute) is value:
                    attributes.pop(attribute, None)
            kept = [k for k, v in attributes.items() if k.endswith("_") and _holds_model(v)]
            models = f"; it keeps what was trained: {', '.join(kept)}" if kept else ""
            warnings.warn(
                f"{name}.fit was ended before the detector could score{models}", stacklevel=3
            )
            raise

    @property
    def _takes_any_shape(self) -> bool:
        """Whether items may have any shape, because the user's own network may read X."""
        return False

    @property
    def _reads_as_it_came(self) -> bool:
        """Whether a third-party model reads X, which may then be anything with rows."""
        return any(map(reads_as_it_came, self._models_given()))

    @property
    def _takes_any_length(self) -> bool:
        """Whether a model of sequences reads X, whose lengths may differ from those in `fit`."""
        return any(map(takes_any_length, self._models_given()))

    def _models_given(self) -> list[Any]:
        """Return the models among the parameters, also inside lists."""
        models: list[Any] = []
        for name, value in vars(self).items():
            if not name.endswith("_"):
                for item in value if isinstance(value, (list, tuple)) else [value]:
                    models += item if isinstance(item, tuple) else [item]
        return [model for model in models if hasattr(model, "fit")]

    def _check(self, X: Any, *, reset: bool = False) -> CheckedData:
        """Check X, in `fit` or after it."""
        foreign = []
        if self._reads_as_it_came:
            foreign = list(filter(reads_as_it_came, self._models_given()))
        return check_data(
            self,
            X,
            reset=reset,
            min_samples=2 if reset else 1,
            # scikit-learn's own estimators take images as flat rows, and no items of other shapes.
            any_shape=self._takes_any_shape or not all(map(is_checked_by_sklearn, foreign)),
            as_it_came=bool(foreign),
            checks_columns=not foreign or not all(map(checks_columns, foreign)),
            any_length=self._takes_any_length,
        )

    def score_samples(self, X: Any) -> npt.NDArray[np.float64]:
        """Score each row or image.

        Parameters
        ----------
        X : array-like, Tensor or Dataset of shape (n_samples, ...)

        Returns
        -------
        ndarray of shape (n_samples,), float64
            Higher = more in-distribution; finite, or -inf for an impossible row.

        Raises
        ------
        ValueError
            If X does not match the X in `fit`, or is so large that a score would be NaN.
        """
        check_is_fitted(self)
        data = self._check(X)
        with self._shows_progress("scoring"):
            scores = self._score_samples(data)
        check_one_score_each(self, scores, len(data))
        check_scores(self, scores)
        return scores

    @property
    def _explains(self) -> bool:
        """Whether ``_explain`` is implemented; after `fit`, whether the models inside allow it."""
        return False

    def _explain(self, data: CheckedData) -> Explanation:
        """Explain the scores of checked data."""
        raise NotImplementedError

    @available_if(can_explain)
    def explain(self, X: Any) -> Explanation:
        """Show what makes up the score of each row or image, in the terms of the method.

        Parameters
        ----------
        X : array-like, Tensor or Dataset of shape (n_samples, ...)
            For one item, ``X[:1]`` or ``x[None]``.

        Returns
        -------
        Explanation
            Arrays as attributes; printing it shows the first items. The contributions to a score
            sum to the score.

        See Also
        --------
        skood.inspection.attribute : Explains any detector by the values of its input.
        """
        check_is_fitted(self)
        data = self._check(X)
        with self._shows_progress("explaining"):
            explanation = self._explain(data)
        check_scores(self, explanation.scores)
        return explanation

    def decision_function(self, X: Any) -> npt.NDArray[np.float64]:
        """Score relative to the threshold.

        Parameters
        ----------
        X : array-like, Tensor or Dataset of shape (n_samples, ...)

        Returns
        -------
        ndarray of shape (n_samples,), float64
            ``score_samples(X) - offset_``; negative = out-of-distribution.
        """
        return self.score_samples(X) - self.offset_

    def predict(self, X: Any) -> npt.NDArray[np.int64]:
        """Predict whether each row or image is in-distribution.

        Parameters
        ----------
        X : array-like, Tensor or Dataset of shape (n_samples, ...)

        Returns
        -------
        ndarray of shape (n_samples,), int
            +1 in-distribution, -1 out-of-distribution.
        """
        return np.where(self.decision_function(X) >= 0, 1, -1)

    def fit_predict(self, X: Any, y: Any = None, **kwargs: Any) -> npt.NDArray[np.int64]:
        """Fit on X and y, and predict for the rows of X.

        Parameters
        ----------
        X : array-like, Tensor or Dataset of shape (n_samples, ...)
        y : array-like of shape (n_samples,), default=None
        **kwargs : dict
            Passed to `fit`.

        Returns
        -------
        ndarray of shape (n_samples,), int
            +1 in-distribution, -1 out-of-distribution.
        """
        return self.fit(X, y, **kwargs).predict(X)

    def _shows_progress(self, doing: str = "") -> AbstractContextManager[None]:
        """Label the progress bars of a block with the detector's name, and apply `verbose`."""
        label = f"{type(self).__name__} {doing}".rstrip()
        return progress_scope(self.verbose, label)

    def __sklearn_tags__(self) -> Tags:
        tags = super().__sklearn_tags__()
        tags.input_tags.three_d_array = True
        if self._reads_as_it_came:
            inner = [input_tags(model) for model in self._models_given()]
            for name in ("sparse", "allow_nan", "string"):
                setattr(tags.input_tags, name, all(getattr(tag, name) for tag in inner))
            # A scaler passes missing values on to scores that cannot handle them.
            if any(map(only_transforms, self._models_given())):
                tags.input_tags.allow_nan = False
        return tags


def check_one_score_each(detector: Detector, scores: Any, n_items: int) -> None:
    """Raise an error if a detector of the user's own returns an array of another shape."""
    if np.shape(scores) != (n_items,):
        raise ValueError(
            f"_score_samples of {type(detector).__name__} returned an array of shape "
            f"{np.shape(scores)} for {n_items} items; expected one score for each item"
        )


def _holds_model(value: Any) -> bool:
    if isinstance(value, list):
        return any(map(_holds_model, value))
    return hasattr(value, "fit")
