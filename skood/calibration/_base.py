"""Base of the calibrated detectors, which fit detectors to some rows and calibrate on others."""

from __future__ import annotations

import math
import warnings
from abc import abstractmethod
from collections.abc import Mapping, Sequence
from typing import Any

import joblib
import numpy as np
import numpy.typing as npt
from sklearn.base import clone
from sklearn.frozen import FrozenEstimator
from sklearn.utils import get_tags
from torch import nn

from skood._data.checked_data import CheckedData
from skood._data.labels import encode_labels
from skood._data.outliers import labels_of, split_outliers
from skood._detector import Detector
from skood._estimator.parameters import HasMethods, estimator, fit_context, parameter
from skood._frozen import check_parts_fitted
from skood._models import as_input, check_same_columns, fit_model, rows_through
from skood._open_set import OpenSetDetector, class_proba_of, excludes_classes, knows_classes
from skood._torch.checkpoint import check_checkpoint_dirs
from skood._torch.seeding import Stream, draw_seed, numpy_rng
from skood._torch.shared_module import SharedModule
from skood.explanation import Explanation, explain
from skood.explanation._explain import explains

__all__ = [
    "LARGEST",
    "CalibratedDetector",
    "fit_detector",
    "needs_labels",
    "scores_of",
]

# The difference of two larger scores could overflow.
LARGEST = np.finfo(np.float64).max / 2


@estimator
class CalibratedDetector(OpenSetDetector):
    """Base of the detectors that wrap detectors and set the threshold on held-out rows.

    A subclass implements ``_fit``, which also sets ``offset_``, ``_score_samples`` and
    ``_class_models``.

    Parameters
    ----------
    memory : str or joblib.Memory, default=None
        Where fitted models are cached by their parameters and data. With an integer
        `random_state`, a search over parameters of the calibration alone fits them once.
    random_state : int, RandomState instance or None, default=None
        Seed of the split, and of models inside whose own ``random_state`` is None.
    """

    memory: str | joblib.Memory | None = parameter(
        str, HasMethods(["cache"]), None, default=None, kw_only=True
    )

    @property
    def _takes_any_shape(self) -> bool:
        return True

    @abstractmethod
    def _fit(
        self,
        inliers: CheckedData,
        y: npt.NDArray | None,
        outliers: CheckedData | None,
        seed: int,
        calibration: CheckedData | None = None,
    ) -> None:
        """Fit the detectors and set ``offset_``.

        Parameters
        ----------
        inliers : CheckedData
        y : ndarray or None
            Labels of the inliers.
        outliers : CheckedData or None
            Known outliers, the rows with y == -1.
        seed : int
            Seed of this fit.
        calibration : CheckedData or None
            Other inliers to calibrate with; None holds out some of `inliers`.
        """

    @abstractmethod
    def _class_models(self) -> list[Any]:
        """Return the models whose class probabilities are averaged, also before `fit`."""

    @property
    def classes_(self) -> npt.NDArray:
        """Labels, in the order of the class probabilities."""
        if not hasattr(self, "offset_"):
            raise AttributeError(f"{type(self).__name__} has no classes_ before it is fitted")
        models = self._class_models()
        if not models or not all(map(knows_classes, models)):
            names = ", ".join(type(model).__name__ for model in models) or "none of the detectors"
            raise AttributeError(
                f"{type(self).__name__} has no classes_: {names} has no predict_proba and "
                "classes_; detectors on a classifier have both"
            )
        known = [np.asarray(model.classes_) for model in models]
        if all(set(classes.tolist()) == set(known[0].tolist()) for classes in known):
            return known[0]
        return self._different_classes(known)

    def _different_classes(self, known: list[npt.NDArray]) -> npt.NDArray:
        """Return the classes of models whose classes differ."""
        raise AttributeError(
            f"{type(self).__name__} has no classes_: the classes of its detectors differ, "
            + " and ".join(str(classes.tolist()[:10]) for classes in known[:3])
        )

    @property
    def classifier_(self) -> Any:
        """Classifier of the wrapped detector, if there is a single one."""
        models = self._class_models()
        if len(models) != 1:
            raise AttributeError(
                f"{type(self).__name__} has no classifier_: {len(models)} models classify, and "
                "predict_proba is their mean"
            )
        return models[0].classifier_

    @property
    def _has_classes(self) -> bool:
        if hasattr(self, "offset_"):
            return self.classes_ is not None
        models = self._class_models()
        return bool(models) and all(hasattr(model, "predict_proba") for model in models)

    @property
    def _is_multilabel(self) -> bool:
        return not all(map(excludes_classes, self._class_models()))

    def _class_proba(self, data: CheckedData) -> npt.NDArray[np.float64]:
        models, classes = self._class_models(), self.classes_
        total = np.zeros((len(data), len(classes)))
        for model in models:
            columns = encode_labels(np.asarray(model.classes_), classes)
            total[:, columns] += class_proba_of(model, data)
        return total / len(models)

    @fit_context(prefer_skip_nested_validation=False)
    def fit(self, X: Any, y: Any = None, X_calibration: Any = None) -> CalibratedDetector:
        """Fit the detector to some of the rows, and set the threshold on others.

        Parameters
        ----------
        X : array-like, Tensor, Dataset, DataLoader or dict of shape (n_samples, ...)
            Rows (n, d) or images (n, H, W), (n, C, H, W) or (n, H, W, C). A detector on your own
            network accepts the items of that network.
        y : array-like of shape (n_samples,), default=None
            Labels, for detectors that need them. Rows with y == -1 are known outliers. None: a
            detector that needs labels reads them from a Dataset of pairs (x, y).
        X_calibration : array-like, Tensor or Dataset of shape (n_calibration, ...), default=None
            In-distribution rows that no model in the detector was trained on, to set the threshold
            on; the detector is then fitted to all rows of X. None holds out some rows of X.

        Returns
        -------
        self

        Raises
        ------
        OSError
            If nothing can be written to the `checkpoint_dir` of a model inside.

        Warns
        -----
        UserWarning
            If the detector holds a model that was trained before, perhaps on rows of X, and
            `X_calibration` is None; and if there are too few calibration rows.
        """
        check_parts_fitted(self)
        check_checkpoint_dirs(self)
        earlier = dict(vars(self))
        data = self._check(X, reset=True)
        inliers, y, outliers = split_outliers(data, labels_of(self, data, y))
        calibration = None if X_calibration is None else self._check(X_calibration)
        self._fit_split(earlier, inliers, y, outliers, calibration)
        if inliers is not data:
            # Rows of X that the detector inside was fitted to; None stands for all.
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
        calibration: CheckedData | None = None,
    ) -> CalibratedDetector:
        self._training_rows = None
        with self._keeps_models(earlier, "calibration"), self._shows_progress():
            self._fit(inliers, y, outliers, draw_seed(self.random_state), calibration)
        return self

    @property
    def _explained(self) -> Any:
        """The detector inside whose score is the score of this one; None if there is none."""
        return None

    @property
    def _explains(self) -> bool:
        return self._explained is not None and explains(self._explained)

    def _explain(self, data: CheckedData) -> Explanation:
        found = explain(self._explained, as_input(self._explained, data))
        is_frozen = isinstance(self.detector, FrozenEstimator)
        return found if is_frozen else found.in_rows(self._training_rows)

    def _hold_out(
        self,
        models: Sequence[Any],
        inliers: CheckedData,
        y: npt.NDArray | None,
        calibration: CheckedData | None,
        seed: int,
        fraction: str = "calibration_fraction",
    ) -> tuple[CheckedData, npt.NDArray | None, CheckedData]:
        """Return the rows to fit `models` to, with their labels, and those to calibrate with.

        The rows are held out at random and not class by class, so that they are exchangeable with
        new rows.

        Parameters
        ----------
        models : sequence of estimators
            If all are in ``FrozenEstimator``, all inliers are held out.
        inliers : CheckedData
        y : ndarray or None
        calibration : CheckedData or None
            Rows to calibrate with, so that none are held out.
        seed : int
        fraction : str
            Name of the parameter with the fraction that is held out.
        """
        if calibration is not None:
            return inliers, y, calibration
        warn_of_trained(models)
        n_items, part = len(inliers), getattr(self, fraction)
        order = numpy_rng(seed, Stream.CALIBRATION_ROWS).permutation(n_items)
        n_held_out = max(1, round(part * n_items))
        if all(isinstance(model, FrozenEstimator) for model in models):
            n_held_out = n_items
        elif n_items - n_held_out < 2:
            raise ValueError(
                f"{fraction}={part} of {n_items} in-distribution items leaves "
                f"{n_items - n_held_out} to fit on, at least 2 are needed; give more data, or a "
                "fitted detector in sklearn.frozen.FrozenEstimator, which needs none"
            )
        kept, held_out = np.sort(order[n_held_out:]), np.sort(order[:n_held_out])
        labels = None if y is None else y[kept]
        return inliers.subset(kept), labels, inliers.subset(held_out)

    def _hold_out_folds(
        self,
        models: Sequence[Any],
        inliers: CheckedData,
        y: npt.NDArray | None,
        n_splits: int,
        seed: int,
    ) -> list[tuple[CheckedData, npt.NDArray | None, CheckedData]]:
        """Return the rows to fit to, their labels, and the rows held out, for each random fold."""
        warn_of_trained(models)
        n_items = len(inliers)
        if n_items - math.ceil(n_items / n_splits) < 2 or n_items < n_splits:
            raise ValueError(
                f"{n_items} in-distribution items are too few for n_splits={n_splits} folds with "
                "at least 2 to fit on; give more data or fewer folds"
            )
        parts = []
        order = numpy_rng(seed, Stream.FOLDS).permutation(n_items)
        for fold in np.array_split(order, n_splits):
            kept = np.setdiff1d(np.arange(n_items), fold)
            labels = None if y is None else y[kept]
            parts.append((inliers.subset(kept), labels, inliers.subset(np.sort(fold))))
        return parts


def fit_detector(
    detector: Any,
    inliers: CheckedData,
    y: npt.NDArray | None,
    outliers: CheckedData | None,
    *,
    seed: int,
    memory: str | joblib.Memory | None,
) -> Any:
    """Fit a clone of `detector`; one in ``FrozenEstimator`` is unwrapped and not fitted.

    Only detectors of this package receive known outliers; others do not expect them.

    Parameters
    ----------
    detector : estimator
    inliers : CheckedData
    y : ndarray or None
        Labels of the inliers.
    outliers : CheckedData or None
    seed : int
        Replaces every ``random_state`` of None inside, which makes other estimators than ours draw
        from numpy's global generator.
    memory : str, joblib.Memory or None
    """
    if isinstance(detector, FrozenEstimator):
        check_same_columns(detector.estimator, inliers)
        return detector.estimator
    settings: dict[str, Any] = {}
    for name, value in detector.get_params().items():
        last = name.split("__")[-1]
        if value is None and last == "random_state":
            settings[name] = seed
        elif last == "threshold_fraction":
            # The threshold of an inner detector is not used, so the detector trains on all rows.
            settings[name] = 0.0
    seeded = clone(detector).set_params(**settings)
    given = outliers if isinstance(detector, Detector) else None
    return fit_model(seeded, inliers, y, outliers=given, memory=memory)


def scores_of(detector: Any, data: CheckedData) -> npt.NDArray[np.float64]:
    """Score checked data with any fitted detector; infinite scores become the largest floats.

    Raises
    ------
    ValueError
        When a score is NaN.
    """
    scores = rows_through(detector, "score_samples", data).astype(np.float64, copy=False)
    if np.isnan(scores).any():
        raise ValueError(
            f"{type(detector).__name__} gave NaN as the score of {np.isnan(scores).sum()} of "
            f"{len(scores)} items; a calibrated detector cannot compare NaN with a threshold"
        )
    return np.clip(scores, -LARGEST, LARGEST)


def needs_labels(model: Any) -> bool:
    """Whether fitting `model` takes labels."""
    if isinstance(model, FrozenEstimator) or not hasattr(model, "__sklearn_tags__"):
        return False
    return get_tags(model).target_tags.required


def warn_of_trained(models: Sequence[Any]) -> None:
    """Warn if detectors that are to be fitted hold trained models.

    Such a model may have been trained on the rows that are now held out, and then scores them too
    high. There is no warning if all of `models` are in ``FrozenEstimator``: all rows given to
    ``fit`` are then calibration rows, and its documentation states the condition.
    """
    if all(isinstance(model, FrozenEstimator) for model in models):
        return
    found = [part for model in models for part in _parts_of(model) if _is_trained(part)]
    if found:
        names = ", ".join(dict.fromkeys(map(_name_of, found)))
        warnings.warn(
            f"{names} was trained before, and is not trained again. If it was trained on rows of "
            "X, it scores the calibration rows among them too high, and there will be more false "
            "alarms than stated. Give rows that it was not trained on as fit(X, y, "
            "X_calibration=...)",
            stacklevel=2,
        )


def _parts_of(model: Any) -> list[Any]:
    """Return the model, its parameters, and the parameters of the estimators inside it."""
    parts = [model]
    values = model.get_params().values() if hasattr(model, "get_params") else ()
    for value in values:
        parts += value if isinstance(value, (list, tuple)) else [value]
    return parts


def _is_trained(part: Any) -> bool:
    if isinstance(part, nn.Module):
        # Preprocessing modules, such as transforms of torchvision, have no weights. Modules of this
        # package are inside an estimator that is found, too.
        is_ours = type(part).__module__.startswith("skood.")
        return not is_ours and any(True for _ in part.parameters())
    return isinstance(part, (FrozenEstimator, SharedModule))


def _name_of(part: Any) -> str:
    return type(part.estimator if isinstance(part, FrozenEstimator) else part).__name__
