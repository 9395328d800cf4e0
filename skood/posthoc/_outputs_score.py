"""Base of the scores that are functions of a network's outputs, saved or computed."""

from __future__ import annotations

import math
import warnings
from abc import abstractmethod
from collections.abc import Callable
from dataclasses import replace
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
from sklearn.exceptions import NotFittedError
from sklearn.utils.metaestimators import available_if
from sklearn.utils.validation import check_is_fitted

from skood._data.checked_data import CheckedData
from skood._data.labels import check_labels, is_outlier
from skood._data.validation import check_scores
from skood._detector import can_explain
from skood._estimator.parameters import fit_context
from skood._thresholds import FEWEST_HELD_OUT, threshold_rows
from skood._torch.seeding import draw_seed
from skood.classifiers._outputs import Outputs, saved_outputs
from skood.explanation import Explanation
from skood.posthoc._base import PosthocDetector, check_magnitude, in_float64, refuse_multilabel
from skood.posthoc._models import require_logits

__all__ = ["OutputsScore", "Part", "reads_chunks"]

# What a score may read of the outputs.
Part = Literal["logits", "features", "head"]


def reads_chunks(learn: Callable) -> Callable:
    """Mark a method `_learn` that reads outputs in chunks, so that they need not fit in memory."""
    learn.reads_chunks = True  # type: ignore[attr-defined]
    return learn


class OutputsScore(PosthocDetector):
    """Base of the scores that are functions of :class:`Outputs`.

    Attributes
    ----------
    _learns_from_new : bool
        Whether the training rows score like new ones, although the score learns from them.
    """

    _takes_multilabel = False
    _needs = "nothing"
    _needs_logits = False
    _learns_from_new = False

    def _learn(self, outputs: Outputs, class_indices: npt.NDArray[np.int64], seed: int) -> None:
        """Learn the score's statistics from the training data, unless ``_needs`` is "nothing".

        Parameters
        ----------
        outputs : Outputs
            In the precision of the network. A method with the decorator `reads_chunks` gets
            rows that may be read on access, as slices or at integer indices.
        class_indices : ndarray of shape (n,)
            0, 1, ..., for each row; all 0 without labels.
        seed : int
            Seed of this fit.
        """

    @abstractmethod
    def _score(self, outputs: Outputs) -> npt.NDArray[np.float64]:
        """Score a few hundred rows in float64; larger is more in-distribution."""

    @abstractmethod
    def _outputs(self, data: CheckedData) -> Outputs:
        """Return what the score reads of checked data."""

    @property
    @abstractmethod
    def _parts_read(self) -> tuple[Part, ...]:
        """Which parts of the outputs the score reads."""

    @abstractmethod
    def _indices_of(self, y: npt.NDArray | None, outputs: Outputs) -> npt.NDArray[np.int64]:
        """Return the class index of each row of saved outputs, from its label."""

    def _learn_from(
        self, outputs: Outputs, class_indices: npt.NDArray[np.int64], seed: int
    ) -> None:
        if self._needs != "nothing":
            check_magnitude(outputs.features)
            if not _is_small(outputs):
                check_magnitude(outputs.logits)
            if not getattr(type(self)._learn, "reads_chunks", False):
                outputs = outputs.in_memory()
            self._learn(outputs, class_indices, seed)
            self._n_columns = {"logits": outputs.logits.shape[1]}
            self._n_columns["features"] = outputs.features.shape[1]

    def _warn_of_few_rows(self, n_rows: int, n_features: int, *, stacklevel: int) -> None:
        """Warn if the rows that set the threshold fit the statistics whatever they are."""
        if n_rows > n_features or not self.threshold_fraction:
            return
        n_needed = math.ceil(FEWEST_HELD_OUT / self.threshold_fraction)
        warnings.warn(
            f"{type(self).__name__} learns from {n_rows} rows of {n_features} features and sets "
            "its threshold on the same rows, which score higher than new rows: predict rejects "
            f"more than {self.contamination:.0%} of new in-distribution rows, possibly all of "
            f"them. Give at least {n_needed} rows, of which some are held out for the threshold, "
            "or reduce the features, for instance with PCA, or put the detector into a "
            "ConformalDetector",
            stacklevel=stacklevel,
        )

    def _training_scores(
        self, outputs: Outputs, rows: npt.NDArray[np.integer]
    ) -> npt.NDArray[np.float64]:
        """Score outputs of training rows, for the threshold; `rows` are their positions."""
        return in_float64(self._score, outputs)

    def _score_samples(self, data: CheckedData) -> npt.NDArray[np.float64]:
        return in_float64(self._score, self._outputs(data))

    @fit_context(prefer_skip_nested_validation=False)
    def fit_outputs(
        self, logits: Any = None, *, features: Any = None, head: Any = None, y: Any = None
    ) -> OutputsScore:
        """Learn from saved outputs of a network, and set the threshold on them.

        The detector then scores saved outputs with :meth:`score_outputs`, which can be compared
        with ``offset_``. It has no network, so that methods that take X raise an error.

        Parameters
        ----------
        logits : array-like or Tensor of shape (n, n_classes), or Outputs, default=None
            None: computed from `features` and `head` if the score reads logits.
        features : array-like or Tensor of shape (n, d), default=None
            Penultimate features.
        head : tuple of array-like or Tensor, default=None
            Weight (n_classes, d) and bias (n_classes,) of the last layer.
        y : array-like of shape (n,), default=None
            Labels. A detector on logits takes the column of each row's class, 0, 1, ...; rows
            with y == -1 are left out.

        Returns
        -------
        self

        Raises
        ------
        ValueError
            If an array is invalid or missing.
        """
        earlier = [name for name in vars(self) if name.endswith("_")]
        for name in [*earlier, "_saved_head", "_n_columns"]:
            self.__dict__.pop(name, None)
        self._check_parameters()
        outputs = self._saved(logits, features, head, "fit_outputs")
        inliers = None
        if y is not None:
            y = check_labels(y, len(outputs))
            inlying = ~is_outlier(y)
            if not inlying.all():
                inliers = np.flatnonzero(inlying)
                outputs, y = outputs.subset(inliers), y[inlying]
        if len(outputs) < 2:
            raise ValueError(f"there are {len(outputs)} in-distribution rows; give at least 2")
        seed = draw_seed(self.random_state)
        class_indices = self._indices_of(y, outputs)
        rows = threshold_rows(len(outputs), seed)
        training, is_new = outputs, self._learns_from_new
        if self._remembers_rows:
            self._training_rows = inliers
        if self._overfits:
            learned, held_out = self._split_for_threshold(len(outputs), y)
            if len(held_out):
                training = outputs.subset(learned)
                if self._remembers_rows:
                    self._training_rows = learned if inliers is None else inliers[learned]
                # Without labels all are 0: a view takes no memory.
                class_indices = class_indices[slice(len(learned)) if y is None else learned]
                rows, is_new = held_out, True
            else:
                self._warn_of_few_rows(*outputs.features.shape, stacklevel=4)
        self._learn_from(training, class_indices, seed)
        self._saved_head = outputs.head
        chosen = outputs[rows]
        if is_new:
            scores = in_float64(self._score, chosen)
        else:
            scores = self._training_scores(chosen, rows)
        self._set_threshold(scores, is_new=is_new)
        return self

    def score_outputs(
        self, logits: Any = None, *, features: Any = None, head: Any = None
    ) -> npt.NDArray[np.float64]:
        """Score saved outputs of a network.

        A score that learns nothing from training data needs no fit.

        Parameters
        ----------
        logits : array-like or Tensor of shape (n, n_classes), or Outputs, default=None
            None: computed from `features` and `head` if the score reads logits.
        features : array-like or Tensor of shape (n, d), default=None
            Penultimate features.
        head : tuple of array-like or Tensor, default=None
            Weight (n_classes, d) and bias (n_classes,) of the last layer. None: as in the fit.

        Returns
        -------
        ndarray of shape (n,), float64
            Larger is more in-distribution. The network that made the outputs gives the same scores.

        Raises
        ------
        ValueError
            If an array is invalid or missing.
        NotFittedError
            If the score learns from training data and was not fitted.
        """
        scores = in_float64(self._score, self._checked(logits, features, head, "score_outputs"))
        check_scores(self, scores)
        return scores

    @available_if(can_explain)
    def explain_outputs(
        self, logits: Any = None, *, features: Any = None, head: Any = None
    ) -> Explanation:
        """Explain the scores of saved outputs, as `explain` does for X.

        Parameters
        ----------
        logits : array-like or Tensor of shape (n, n_classes), or Outputs, default=None
            None: computed from `features` and `head` if the score reads logits.
        features : array-like or Tensor of shape (n, d), default=None
            Penultimate features.
        head : tuple of array-like or Tensor, default=None
            Weight (n_classes, d) and bias (n_classes,) of the last layer. None: as in the fit.

        Returns
        -------
        Explanation
            Indices of training rows are rows of the outputs that were given to `fit_outputs`.

        Raises
        ------
        ValueError
            If an array is invalid or missing.
        NotFittedError
            If the score learns from training data and was not fitted.
        """
        outputs = self._checked(logits, features, head, "explain_outputs")
        explanation = self._explanation(outputs)
        check_scores(self, explanation.scores)
        return explanation

    def _explain(self, data: CheckedData) -> Explanation:
        return self._explanation(self._outputs(data))

    def _explanation(self, outputs: Outputs) -> Explanation:
        """Explain the scores of outputs."""
        raise NotImplementedError

    def _checked(self, logits: Any, features: Any, head: Any, method: str) -> Outputs:
        """Check saved outputs that `method` scores or explains."""
        name = type(self).__name__
        if self._needs == "nothing":
            self._validate_params()
        else:
            check_is_fitted(
                self,
                msg=f"{name} learns from training data; call fit_outputs with saved training "
                f"outputs, or fit, before {method}",
            )
        outputs = self._saved(logits, features, head, method)
        for part, n_columns in getattr(self, "_n_columns", {}).items():
            given = getattr(outputs, part).shape[1]
            if part in self._parts_read and given != n_columns:
                raise ValueError(
                    f"{part} have {given} columns, but {name} was fitted on {n_columns} columns"
                )
        return outputs

    def _saved(self, logits: Any, features: Any, head: Any, method: str) -> Outputs:
        """Return saved outputs with all parts that the score reads.

        `method` is the method that was called, for error messages.
        """
        name = type(self).__name__
        if isinstance(logits, Outputs):
            if features is not None or head is not None:
                raise ValueError("logits is an Outputs; leave out features and head")
            outputs = logits
            if outputs.head is None:
                outputs = replace(outputs, head=self._known_head)
        else:
            head = self._known_head if head is None else head
            outputs = saved_outputs(logits, features, head, multilabel=False)
        known = {
            "logits": outputs.logits.shape[1] > 0,
            "features": outputs.features.shape[1] > 0,
            "head": outputs.head is not None,
        }
        missing = [part for part in self._parts_read if not known[part]]
        if missing:
            arguments = {
                "logits": "logits",
                "features": "features=features",
                "head": "head=(weight, bias)",
            }
            call = ", ".join(arguments[part] for part in self._parts_read)
            raise ValueError(
                f"{name} reads {', '.join(self._parts_read)}, but {', '.join(missing)} are "
                f"missing; give {method}({call})"
            )
        if outputs.multilabel and not self._takes_multilabel:
            refuse_multilabel(name)
        if self._needs_logits:
            require_logits(outputs, name)
        return self._only_read(outputs)

    def _only_read(self, outputs: Outputs) -> Outputs:
        return outputs

    @property
    def _known_head(self) -> Any:
        """The head that `fit_outputs` was given."""
        is_on_network = hasattr(self, f"{self._model_parameters[0]}_")
        return None if is_on_network else getattr(self, "_saved_head", None)

    def _check(self, X: Any, *, reset: bool = False) -> CheckedData:
        if not reset and "offset_" in vars(self) and not hasattr(self, "input_shape_"):
            name = type(self).__name__
            raise NotFittedError(
                f"this {name} was fitted by fit_outputs on saved outputs, so it has no network to "
                "read X with; score saved outputs with score_outputs and compare the scores with "
                f"offset_, or give {name} the network and call fit(X)"
            )
        return super()._check(X, reset=reset)


def _is_small(outputs: Outputs) -> bool:
    """Whether logits that are computed from checked features cannot be too large."""
    if outputs.head is None or not getattr(outputs.logits, "computed", False):
        return False
    largest = float(np.sqrt(np.finfo(outputs.features.dtype).max))
    with np.errstate(over="ignore"):
        bound = largest * np.abs(outputs.weight).sum(1).max() + np.abs(outputs.bias).max()
    return bool(bound < np.sqrt(np.finfo(np.float64).max) / 1e4)
