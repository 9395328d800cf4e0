"""A meta-estimator that removes known outliers before fitting."""

from __future__ import annotations

from collections.abc import Callable
from copy import deepcopy
from typing import Any

import numpy as np
import numpy.typing as npt
from sklearn.base import BaseEstimator, MetaEstimatorMixin, clone
from sklearn.pipeline import Pipeline
from sklearn.utils import Tags, _safe_indexing, get_tags
from sklearn.utils.metadata_routing import get_routing_for_object
from sklearn.utils.metaestimators import available_if
from sklearn.utils.validation import check_is_fitted

from skood._data.labels import check_labels, is_outlier
from skood._data.validation import take_rows
from skood._estimator.docs_link import DocumentationLinkMixin
from skood._estimator.parameters import HasMethods, fit_context
from skood.explanation import Explanation, explain
from skood.explanation._explain import explains

__all__ = ["InlierFit"]


def _has(name: str) -> Callable[[InlierFit], bool]:
    return lambda self: hasattr(getattr(self, "estimator_", self.estimator), name)


def _delegated(name: str) -> Any:
    """Make the method `name`, which delegates to the inner estimator and exists if it has one."""

    def method(self: InlierFit, X: Any, *args: Any, **params: Any) -> Any:
        check_is_fitted(self)
        return getattr(self.estimator_, name)(X, *args, **params)

    method.__name__ = name
    method.__qualname__ = f"InlierFit.{name}"
    method.__doc__ = f"""Call `{name}` of the fitted estimator, with all rows of X.

        Parameters
        ----------
        X : array-like, DataFrame, Tensor or Dataset of shape (n_samples, ...)
        *args, **params : object
            Passed on.

        Returns
        -------
        object
            What the estimator returns.
        """
    return available_if(_has(name))(method)


class InlierFit(DocumentationLinkMixin, MetaEstimatorMixin, BaseEstimator):
    """Meta-estimator that fits any estimator or Pipeline to the in-distribution rows only.

    Rows with ``y == -1`` are dropped before anything is fitted. Detectors of this package do so
    themselves, but preceding steps of a Pipeline and detectors of scikit-learn do not, and a search
    always refits on all rows, regardless of its splitter.

    Parameters
    ----------
    estimator : estimator
        Fitted to the remaining rows. Predictions, scores, transforms, tags, metadata routing and
        parameters (as ``estimator__name``) are delegated to it.

    Attributes
    ----------
    estimator_ : estimator
        The fitted estimator.
    classes_ : ndarray
        Classes of the estimator or, if it has no ``classes_``, the labels that it was fitted to.
        The scorers of :func:`get_ood_scorer` count a row as OOD if its class is not one of these
        classes, or not one of the labels that the estimator was fitted to.
    n_features_in_ : int
        Number of values in an item, if the estimator has it.
    feature_names_in_ : ndarray of str
        Names of columns, if X had names.
    offset_ : float
        Threshold of a detector, or of a Pipeline that ends in one.

    See Also
    --------
    OODSplit : Keeps OOD rows out of the training parts of a cross-validation.

    Notes
    -----
    Use it as the outermost estimator inside a search: around the search, it would leave no OOD rows
    to score. Do not wrap methods that learn from known outliers, such as
    :class:`~skood.likelihood.LikelihoodRatio` if it chooses its background model.

    Examples
    --------
    >>> import numpy as np
    >>> from sklearn.ensemble import IsolationForest
    >>> from sklearn.model_selection import GridSearchCV
    >>> from sklearn.pipeline import make_pipeline
    >>> from sklearn.preprocessing import StandardScaler
    >>> from skood.model_selection import InlierFit, OODSplit, get_ood_scorer
    >>> rng = np.random.default_rng(0)
    >>> X = np.concatenate([rng.normal(size=(80, 2)), rng.normal(9, 1, size=(20, 2))])
    >>> y = np.repeat([0, -1], [80, 20])
    >>> pipeline = make_pipeline(StandardScaler(), IsolationForest(random_state=0))
    >>> search = GridSearchCV(
    ...     InlierFit(pipeline),
    ...     {"estimator__isolationforest__n_estimators": [10, 20]},
    ...     scoring=get_ood_scorer("auroc"),
    ...     cv=OODSplit(3, random_state=0),
    ... ).fit(X, y)
    >>> bool(np.all(search.best_estimator_.estimator_[0].mean_ < 1))
    True
    """

    # The estimator inside it reads X.
    _hands_on_x = True

    _parameter_constraints: dict = {"estimator": [HasMethods(["fit"])]}

    def __init__(self, estimator: Any) -> None:
        self.estimator = estimator

    @fit_context(prefer_skip_nested_validation=False)
    def fit(self, X: Any, y: Any = None, **fit_params: Any) -> InlierFit:
        """Fit a clone of the estimator to the rows whose label is not -1.

        Parameters
        ----------
        X : array-like, DataFrame, Tensor or Dataset of shape (n_samples, ...)
        y : array-like of shape (n_samples,), default=None
            Labels, -1 for OOD rows. None: all rows are in-distribution.
        **fit_params : dict
            Passed to ``fit`` of the estimator, parameters with one value per row, such as
            ``sample_weight``, without the values of OOD rows.

        Returns
        -------
        self

        Raises
        ------
        ValueError
            When no row is in-distribution, or the lengths of X and y differ.
        """
        labels = None if y is None else check_labels(y, warn=False)
        self._inliers = None
        if labels is not None and (outlier := is_outlier(labels)).any():
            n_samples = X.shape[0] if hasattr(X, "shape") else len(X)
            check_labels(labels, n_samples)
            rows = np.flatnonzero(~outlier)
            if not len(rows):
                raise ValueError(
                    f"all {len(labels)} labels in y are -1, which marks OOD rows; no rows remain "
                    "to fit to. Give in-distribution rows, with labels >= 0"
                )
            fit_params = {
                name: take_rows(value, rows) if _has_rows(value, n_samples) else value
                for name, value in fit_params.items()
            }
            X, y, labels = take_rows(X, rows), _safe_indexing(y, rows), labels[rows]
            self._inliers = rows
        self.estimator_ = clone(self.estimator).fit(X, y, **fit_params)
        self._labels = None if labels is None else np.unique(labels)
        return self

    @available_if(_has("predict"))
    def fit_predict(self, X: Any, y: Any = None, **fit_params: Any) -> npt.NDArray:
        """Fit to the in-distribution rows, and predict for all rows.

        Parameters
        ----------
        X : array-like, DataFrame, Tensor or Dataset of shape (n_samples, ...)
        y : array-like of shape (n_samples,), default=None
        **fit_params : dict
            Passed to `fit`.

        Returns
        -------
        ndarray of shape (n_samples,)
        """
        return self.fit(X, y, **fit_params).predict(X)

    predict: Callable = _delegated("predict")
    predict_proba: Callable = _delegated("predict_proba")
    predict_class: Callable = _delegated("predict_class")
    predict_log_proba: Callable = _delegated("predict_log_proba")
    decision_function: Callable = _delegated("decision_function")
    score_samples: Callable = _delegated("score_samples")
    score_pixels: Callable = _delegated("score_pixels")
    score: Callable = _delegated("score")
    transform: Callable = _delegated("transform")

    @available_if(lambda self: explains(getattr(self, "estimator_", self.estimator)))
    def explain(self, X: Any) -> Explanation:
        """Explain the scores of all rows of X by :func:`skood.explanation.explain`.

        Parameters
        ----------
        X : array-like, DataFrame, Tensor or Dataset of shape (n_samples, ...)

        Returns
        -------
        Explanation
            Indices of training rows are rows of the X that was given to `fit`.
        """
        check_is_fitted(self)
        return explain(self.estimator_, X).in_rows(self._inliers)

    @property
    def classes_(self) -> npt.NDArray:
        """Classes of the estimator, or the labels that it was fitted to."""
        classes = getattr(self.estimator_, "classes_", self._labels)
        if classes is None:
            raise AttributeError(
                f"{type(self.estimator_).__name__} has no classes_, and was fitted without y"
            )
        return classes

    @property
    def n_features_in_(self) -> int:
        """Number of values in an item."""
        return self.estimator_.n_features_in_

    @property
    def feature_names_in_(self) -> npt.NDArray:
        """Names of the columns of X in `fit`."""
        return self.estimator_.feature_names_in_

    @property
    def offset_(self) -> float:
        """Threshold of a detector."""
        inner = self.estimator_
        return (inner[-1] if isinstance(inner, Pipeline) else inner).offset_

    def get_metadata_routing(self) -> Any:
        """Return the requests of the estimator, which gets all metadata.

        Returns
        -------
        MetadataRouter or MetadataRequest
        """
        return get_routing_for_object(self.estimator)

    def __sklearn_tags__(self) -> Tags:
        return deepcopy(get_tags(self.estimator))


def _has_rows(value: Any, n_samples: int) -> bool:
    if isinstance(value, (str, bytes, dict)) or not hasattr(value, "__len__"):
        return False
    # A sparse matrix raises when asked for its length, and an array without axes has no length.
    shape = getattr(value, "shape", None)
    return (len(value) if shape is None else (*shape, None)[0]) == n_samples
