"""The interface that every detector implements."""

from __future__ import annotations

import contextlib
import numbers
import warnings
from abc import ABCMeta, abstractmethod
from collections.abc import Iterator, Mapping
from contextlib import AbstractContextManager
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt
from sklearn.base import BaseEstimator, OutlierMixin
from sklearn.exceptions import NotFittedError
from sklearn.frozen import FrozenEstimator
from sklearn.utils import Tags, get_tags
from sklearn.utils.validation import check_is_fitted

from skood._checked_data import CheckedData
from skood._data import check_data, check_scores
from skood._docs_link import DocumentationLinkMixin
from skood._frozen import check_parts_fitted
from skood._labels import check_labels, is_outlier, other_convention
from skood._models import (
    checks_columns,
    input_tags,
    is_checked_by_sklearn,
    only_transforms,
    reads_as_it_came,
)
from skood._parameters import Contamination, Interval, StrOptions, fit_context
from skood._progress import progress_scope
from skood._torch.run import followed_by, note_interruption
from skood._torch.seeding import Stream, draw_seed, numpy_rng
from skood.classifiers._module import ModuleHandle

__all__ = [
    "FEWEST_HELD_OUT",
    "BaseDetector",
    "check_convention",
    "labels_of",
    "split_outliers",
    "threshold_rows",
]

# Most rows used to set the threshold: the standard error of a 5 % rate is then 0.3 %.
_THRESHOLD_ROWS = 5000

# Fewest rows that are held out for the threshold: the standard error of a 5 % rate is then 3 %.
FEWEST_HELD_OUT = 50

# Fraction of ones from which labels 0 and 1 are classes also where y serves to mark outliers.
_MOST_ANOMALIES = 0.35

# Relative size of the differences between scores of one row in batches of two sizes.
_ROUNDING = 5e-7


class _MissingThreshold:
    """What ``offset_`` is until it is set: an error, also after a fit that Ctrl-C cut short."""

    def __get__(self, detector: Any, owner: type | None = None) -> Any:
        if detector is None:
            return self
        raise NotFittedError(
            f"this {type(detector).__name__} has no threshold: it is not fitted, or its fit was "
            "interrupted. A trained detector gets one without training by "
            "ConformalDetector(FrozenEstimator(detector)).fit(X), X being rows that it has not seen"
        )


class BaseDetector(DocumentationLinkMixin, OutlierMixin, BaseEstimator, metaclass=ABCMeta):
    """Base of all detectors.

    A subclass writes ``_fit``, which learns from in-distribution data, and ``_score_samples``,
    which scores; it has the parameters `contamination`, `verbose` and `random_state`. A subclass
    that trains a model also has the parameter `threshold_fraction`.

    Attributes
    ----------
    _model_parameters : tuple of str
        Parameters that hold a model, or a list of models, which `fit` trains unless it is trained
        already. None stands for a default model. If there is a model to train, `fit` gives
        ``_fit`` only some of the rows, and reads the threshold from the others.
    _overfits : bool
        Whether `fit` does so in any case, since the rows that statistics of the score are learned
        from score higher than new ones.
    """

    # Input type accepted by detectors that wrap detectors, and by `evaluate`.
    _reads_checked_data = True

    _model_parameters: tuple[str, ...] = ()
    _overfits = False

    offset_: float
    if not TYPE_CHECKING:
        offset_ = _MissingThreshold()

    # Defaults for subclasses without these parameters.
    threshold_fraction: float = 0.0
    verbose: bool | int | str = "auto"

    _parameter_constraints: dict = {
        "contamination": [Contamination()],
        "threshold_fraction": [Interval(numbers.Real, 0, 1, closed="left")],
        "verbose": ["verbose", StrOptions({"auto"})],
        "random_state": ["random_state"],
    }

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
            Rows held out from learning, if the threshold is to be set on them.
        """

    @abstractmethod
    def _score_samples(self, data: CheckedData) -> npt.NDArray[np.float64]:
        """Score checked data, higher = more in-distribution."""

    @fit_context(prefer_skip_nested_validation=False)
    def fit(self, X: Any, y: Any = None) -> BaseDetector:
        """Learn what is in-distribution, and the threshold.

        A model that was trained before scores the rows of its own training too high. Give other
        rows to `fit` then, or to ``ConformalDetector.fit`` as `X_calibration`; otherwise more than
        `contamination` of new data is rejected.

        Parameters
        ----------
        X : array-like, Tensor, Dataset, DataLoader or dict of shape (n_samples, ...)
            Rows (n, d) or images (n, H, W), (n, C, H, W) or (n, H, W, C); whatever a network of
            yours takes, where the detector is given one.
        y : array-like of shape (n_samples,), default=None
            Labels. Rows with y == -1 are known outliers, which no model is trained on, unless the
            class says so. None: a Dataset of pairs (x, y) gives its labels to a detector that
            needs them.

        Returns
        -------
        self

        Raises
        ------
        ValueError
            When X or y is invalid, or the scores of X give no finite threshold.
        KeyboardInterrupt
            At a second Ctrl-C within three seconds, or the first one while no model is trained.

        Warns
        -----
        UserWarning
            After Ctrl-C, of what is kept and what comes next. It ends the training of a model, and
            `fit` goes on with what was learned; or it ends the scoring of rows for the threshold,
            and leaves a detector that can score but not predict.
        """
        check_parts_fitted(self)
        earlier = dict(vars(self))
        data = self._check(X, reset=True)
        inliers, y, outliers = self._split_outliers(data, labels_of(self, data, y))
        seed = draw_seed(self.random_state)
        learned, held_out = self._split_for_threshold(len(inliers), y)
        if len(held_out):
            held_out_data = inliers.subset(held_out)
            inliers, y = inliers.subset(learned), None if y is None else y[learned]
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
        check_scores(self, scores)
        # Of n rows that were learned from, this fraction is rejected. Of new rows it is so on
        # average, over sets of n rows that were not learned from, at rank contamination (n + 1).
        is_new = len(held_out) > 0 or rows is not None
        with np.errstate(invalid="ignore"):
            offset = float(
                np.quantile(scores, self.contamination, method="weibull" if is_new else "linear")
            )
        if not np.isfinite(offset):
            raise ValueError(
                f"{type(self).__name__} gives -inf as the score of {np.isneginf(scores).sum()} of "
                f"{len(scores)} in-distribution items, too many for a threshold that rejects "
                f"contamination={self.contamination} of them; rescale X, with scikit-learn's "
                "StandardScaler for instance"
            )
        # A training row on the threshold is accepted in every batch, whatever rounding does.
        self.offset_ = offset - _ROUNDING * abs(offset)
        return self

    @contextlib.contextmanager
    def _keeps_models(
        self, earlier: Mapping[str, Any], following: str = "threshold"
    ) -> Iterator[None]:
        """Say what Ctrl-C leaves of the models that are trained in the block.

        Parameters
        ----------
        earlier : dict of str to object
            Attributes before `fit`. What is left of an earlier fit does not go with the models of
            this one, so it is dropped.
        following : str, default="threshold"
            What comes after the models, for the message of Ctrl-C.
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

    def _stays_without_threshold(self, interrupt: KeyboardInterrupt) -> bool:
        """Say what a detector can do without its threshold; return whether `fit` returns it."""
        ends_fit = note_interruption(interrupt)
        name = type(self).__name__
        message = (
            f"{name} was interrupted while it scored rows for its threshold. It keeps its trained "
            "models and can score, but not predict: ConformalDetector or TunedThreshold around "
            "FrozenEstimator(detector) find a threshold without training"
        )
        if not ends_fit:
            message += "; a second Ctrl-C within 3 seconds also ends what called fit"
        warnings.warn(message, stacklevel=3)
        return not ends_fit

    @property
    def _trains_model(self) -> bool:
        """Whether `fit` trains a model."""
        for name in self._model_parameters:
            value = getattr(self, name)
            models = value if isinstance(value, (list, tuple)) else [value]
            if not all(isinstance(model, (FrozenEstimator, ModuleHandle)) for model in models):
                return True
        return False

    def _split_for_threshold(
        self, n_items: int, y: npt.NDArray | None
    ) -> tuple[npt.NDArray[np.intp], npt.NDArray[np.intp]]:
        """Split the rows into those to learn from and those that only the threshold is read from.

        The split does not depend on `random_state`, so that all candidates of a search train the
        same model. Each class is split in the same proportion, and keeps at least one row to learn
        from.

        Returns
        -------
        learned, held_out : ndarray of int
            Sorted; `held_out` is empty if no rows are to be held out.
        """
        n_held_out = min(int(self.threshold_fraction * n_items), _THRESHOLD_ROWS)
        is_held_out = np.zeros(n_items, dtype=bool)
        if n_held_out >= FEWEST_HELD_OUT and (self._overfits or self._trains_model):
            labels = np.zeros(n_items, dtype=int) if y is None else y
            rows = _stratified(labels, n_held_out, numpy_rng(0, Stream.HELD_OUT_ROWS))
            is_held_out[rows] = len(rows) >= FEWEST_HELD_OUT
        return np.flatnonzero(~is_held_out), np.flatnonzero(is_held_out)

    def _scores_of_held_out(self, data: CheckedData) -> npt.NDArray[np.float64]:
        """Score the rows that `fit` held out for the threshold, or some of them."""
        return self._score_samples(data)

    def _scores_for_threshold(
        self, inliers: CheckedData, rows: npt.NDArray[np.integer] | None, seed: int
    ) -> npt.NDArray[np.float64]:
        """Score the rows that `_fit` returned, or some of them; override where they are known."""
        rows = threshold_rows(np.arange(len(inliers)) if rows is None else rows, seed)
        scored = inliers if len(rows) == len(inliers) else inliers.subset(rows)
        with self._shows_progress("scoring"):
            return self._score_samples(scored)

    @property
    def _takes_any_shape(self) -> bool:
        """Whether a network of the user's own may read X, which then has items of any shape."""
        return False

    @property
    def _reads_as_it_came(self) -> bool:
        """Whether a model that is not ours reads X, which may then be anything that has rows."""
        return any(map(reads_as_it_came, self._models_given()))

    def _models_given(self) -> list[Any]:
        """Return the models among the parameters, and in lists among them."""
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
            # Of images, scikit-learn's own estimators read flat rows, and of other items nothing.
            any_shape=self._takes_any_shape or not all(map(is_checked_by_sklearn, foreign)),
            as_it_came=bool(foreign),
            checks_columns=not foreign or not all(map(checks_columns, foreign)),
        )

    @property
    def _needs_outliers_marked(self) -> bool:
        """Whether labels that mark anomalies otherwise than by -1 are an error, not a warning.

        So they are where y serves to mark known outliers, and not to learn classes.
        """
        return False

    def _split_outliers(
        self, data: CheckedData, y: Any
    ) -> tuple[CheckedData, npt.NDArray | None, CheckedData | None]:
        """Separate known outliers; override where y may be more than one label for each item."""
        return split_outliers(data, y, refuse=self._needs_outliers_marked)

    def score_samples(self, X: Any) -> npt.NDArray[np.float64]:
        """Score each row or image.

        Parameters
        ----------
        X : array-like, Tensor or Dataset of shape (n_samples, ...)

        Returns
        -------
        ndarray of shape (n_samples,), float64
            Higher = more in-distribution; finite, or -inf for a row that is impossible.

        Raises
        ------
        ValueError
            When X does not match that of `fit`, or is so large that a score would be NaN.
        """
        check_is_fitted(self)
        data = self._check(X)
        with self._shows_progress("scoring"):
            scores = self._score_samples(data)
        check_scores(self, scores)
        return scores

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
        """Decide for each row or image.

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
        """Fit on X, with y, and decide for its rows.

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
            # A scaler passes missing values on, to scores that have no meaning for them.
            if any(map(only_transforms, self._models_given())):
                tags.input_tags.allow_nan = False
        return tags


def _holds_model(value: Any) -> bool:
    if isinstance(value, list):
        return any(map(_holds_model, value))
    return hasattr(value, "fit")


def labels_of(estimator: Any, data: CheckedData, y: Any) -> Any:
    """Return y, or where it is None and the estimator needs labels, those that come with X."""
    if y is None and data.has_labels and get_tags(estimator).target_tags.required:
        return data.labels
    return y


def threshold_rows(rows: npt.NDArray[np.integer], seed: int) -> npt.NDArray[np.integer]:
    """Return the rows that a threshold is set on: all of them, or a few thousand, in order."""
    if len(rows) > _THRESHOLD_ROWS:
        rng = numpy_rng(seed, Stream.THRESHOLD_ROWS)
        rows = rng.choice(rows, _THRESHOLD_ROWS, replace=False)
    return np.sort(rows)


def _stratified(labels: npt.NDArray, n_rows: int, rng: np.random.Generator) -> npt.NDArray[np.intp]:
    """Draw `n_rows` rows, the same fraction of every class, and never all rows of a class."""
    _, class_indices, sizes = np.unique(labels, return_inverse=True, return_counts=True)
    order = rng.permutation(len(labels))
    order = order[np.argsort(class_indices[order], kind="stable")]
    # Position of each row in the random order of its class.
    position = np.arange(len(labels)) - np.repeat(np.cumsum(sizes) - sizes, sizes)
    of_rows = np.repeat(sizes, sizes)
    # The offset makes the rounding random, so that small classes are drawn from, too.
    quantile = (position + np.repeat(rng.random(len(sizes)), sizes)) / of_rows
    candidates = position < of_rows - 1
    return order[candidates][np.argsort(quantile[candidates])[:n_rows]]


def split_outliers(
    data: CheckedData, y: Any, *, refuse: bool = False
) -> tuple[CheckedData, npt.NDArray | None, CheckedData | None]:
    """Separate known outliers.

    Parameters
    ----------
    data : CheckedData
    y : array-like of shape (n_samples,) or None
        Labels; -1 marks an outlier.
    refuse : bool, default=False
        Whether labels that seem to mark outliers by another value than -1 are an error. If not,
        they may be two classes of in-distribution rows, and are a warning.

    Returns
    -------
    inliers : CheckedData
    labels : ndarray or None
        Labels of the inliers.
    outliers : CheckedData or None

    Raises
    ------
    ValueError
        When y does not have one label per item, or leaves fewer than two inliers.

    Warns
    -----
    UserWarning
        Where y seems to mark outliers by another value than -1.
    """
    if y is None:
        return data, None, None
    y = check_labels(y, len(data))
    outlying = is_outlier(y)
    if not outlying.any():
        check_convention(y, refuse=refuse)
        return data, y, None
    inliers = np.flatnonzero(~outlying)
    if len(inliers) < 2:
        raise ValueError(
            f"{len(inliers)} of {len(y)} labels in y are in-distribution (not -1), at least 2 are "
            "needed: a detector learns from in-distribution data, and -1 marks known outliers"
        )
    return data.subset(inliers), y[inliers], data.subset(np.flatnonzero(outlying))


def check_convention(y: npt.NDArray, *, refuse: bool) -> None:
    """Warn of labels that seem to mark outliers by another value than -1, or refuse them.

    Parameters
    ----------
    y : ndarray of shape (n,)
        As returned by :func:`~skood._labels.check_labels`.
    refuse : bool
        Whether y serves to mark outliers, so that 0 and 1 are refused unless they are about as
        frequent.
    """
    if refuse:
        found = other_convention(y, largest=_MOST_ANOMALIES)
        if found is not None:
            raise ValueError(f"{found}. If all rows are in-distribution, leave y out")
    elif (found := other_convention(y)) is not None:
        warnings.warn(
            f"{found}. If these are classes of in-distribution rows, other names than these, "
            "'a' and 'b' for instance, stop this warning",
            stacklevel=2,
        )
