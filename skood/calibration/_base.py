"""Base of the calibrated detectors: one part of the data to fit a detector, one to calibrate it."""

from __future__ import annotations

import warnings
from abc import abstractmethod
from collections.abc import Sequence
from typing import Any

import joblib
import numpy as np
import numpy.typing as npt
from sklearn.base import clone
from sklearn.frozen import FrozenEstimator
from sklearn.utils import get_tags
from torch import nn

from skood._checked_data import CheckedData
from skood._detector import Detector
from skood._frozen import check_parts_fitted
from skood._labels import encode_labels
from skood._models import check_same_columns, fit_model, rows_through
from skood._open_set import (
    OpenSetDetector,
    class_proba_of,
    excludes_classes,
    knows_classes,
)
from skood._outliers import labels_of, split_outliers
from skood._parameters import HasMethods, estimator, fit_context, parameter
from skood._torch.seeding import Stream, draw_seed, numpy_rng
from skood.classifiers._module import ModuleHandle

__all__ = [
    "CalibratedDetector",
    "fit_detector",
    "hold_out",
    "needs_labels",
    "scores_of",
    "warn_of_trained",
]

# Beyond these, the difference of two scores could overflow.
_LARGEST = np.finfo(np.float64).max / 2


@estimator
class CalibratedDetector(OpenSetDetector):
    """Base of the detectors that wrap detectors and set the threshold on held-out rows.

    A subclass writes ``_fit``, which sets ``offset_`` too, ``_score_samples`` and
    ``_class_models``.

    Parameters
    ----------
    memory : str or joblib.Memory, default=None
        Where fitted detectors are cached by their parameters and data.
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
            Inliers that are not among those to fit to; None: some of `inliers` are to be held out.
        """

    @abstractmethod
    def _class_models(self) -> list[Any]:
        """Return the models whose mean class probabilities are those of this detector.

        Fitted ones; before `fit` those that are given.
        """

    @property
    def classes_(self) -> npt.NDArray:
        """Labels, in the order of the class probabilities."""
        if not hasattr(self, "offset_"):
            raise AttributeError(f"{type(self).__name__} is not fitted, and has no classes_ yet")
        models = self._class_models()
        if not models or not all(map(knows_classes, models)):
            names = ", ".join(type(model).__name__ for model in models) or "none of the detectors"
            raise AttributeError(
                f"{type(self).__name__} has no classes_: {names} has no predict_proba and "
                "classes_, which detectors on a classifier have"
            )
        known = [np.asarray(model.classes_) for model in models]
        if all(set(classes.tolist()) == set(known[0].tolist()) for classes in known):
            return known[0]
        return self._different_classes(known)

    def _different_classes(self, known: list[npt.NDArray]) -> npt.NDArray:
        """Return the classes of models that know different ones."""
        raise AttributeError(
            f"{type(self).__name__} has no classes_: its detectors know different classes, "
            + " and ".join(str(classes.tolist()[:10]) for classes in known[:3])
        )

    @property
    def classifier_(self) -> Any:
        """Classifier of the wrapped detector, if there is one detector with one classifier."""
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
        """Fit the detector on one part of the data, and learn the threshold from another.

        Parameters
        ----------
        X : array-like, Tensor, Dataset, DataLoader or dict of shape (n_samples, ...)
            Rows (n, d) or images (n, H, W), (n, C, H, W) or (n, H, W, C); whatever a network of
            yours takes, where the detector is given one.
        y : array-like of shape (n_samples,), default=None
            Labels, for detectors that need them. Rows with y == -1 are known outliers. None takes
            the labels of a Dataset of pairs (x, y), where they are needed.
        X_calibration : array-like, Tensor or Dataset of shape (n_calibration, ...), default=None
            In-distribution rows to learn the threshold from, which no model in the detector has
            been trained on; all rows of X are then for fitting. None holds a part of X out.

        Returns
        -------
        self

        Warns
        -----
        UserWarning
            Where, without `X_calibration`, the detector holds a model that was trained before,
            perhaps on rows of X; and where rows are too few for what was asked for.
        """
        check_parts_fitted(self)
        earlier = dict(vars(self))
        data = self._check(X, reset=True)
        inliers, y, outliers = split_outliers(data, labels_of(self, data, y))
        calibration = None
        if X_calibration is not None:
            calibration = self._check(X_calibration)
        with self._keeps_models(earlier, "calibration"), self._shows_progress():
            self._fit(inliers, y, outliers, draw_seed(self.random_state), calibration)
        return self


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
        Subset of the same data as `inliers`.
    seed : int
        Replaces every ``random_state`` of None inside, with which estimators other than ours would
        draw from numpy's global generator.
    memory : str, joblib.Memory or None
    """
    if isinstance(detector, FrozenEstimator):
        check_same_columns(detector.estimator, inliers)
        return detector.estimator
    if outliers is not None and y is not None and isinstance(detector, Detector):
        y = np.concatenate([y, np.full(len(outliers), -1)])
        (data, rows), (_, outlying) = _rows_in_root(inliers), _rows_in_root(outliers)
        inliers = data.subset(np.concatenate([rows, outlying]))
    settings: dict[str, Any] = {}
    for name, value in detector.get_params().items():
        last = name.split("__")[-1]
        if value is None and last == "random_state":
            settings[name] = seed
        elif last == "threshold_fraction":
            # The threshold of a detector inside is not used, so it trains on all rows.
            settings[name] = 0.0
    seeded = clone(detector).set_params(**settings)
    return fit_model(seeded, inliers, y, memory=memory)


def _rows_in_root(data: CheckedData) -> tuple[CheckedData, npt.NDArray[np.integer]]:
    """Return the data set that `data` is a subset of, and the indices of its rows."""
    rows: npt.NDArray[np.integer] = np.arange(len(data))
    while data.parent is not None:
        data, indices = data.parent
        rows = indices[rows]
    return data, rows


def hold_out(
    models: Sequence[Any], n_items: int, fraction: float, seed: int, name: str
) -> tuple[npt.NDArray[np.integer], npt.NDArray[np.integer]]:
    """Split rows at random: those to fit `models` on, and those to calibrate with.

    Not stratified by class: the rows held out must be exchangeable with new rows.

    Parameters
    ----------
    models : sequence of estimators
        Where all are in ``FrozenEstimator``, every row is held out.
    n_items : int
    fraction : float
        Part that is held out.
    seed : int
    name : str
        Name of the parameter that holds `fraction`, for the error message.
    """
    if all(isinstance(model, FrozenEstimator) for model in models):
        return np.arange(0), np.arange(n_items)
    order = numpy_rng(seed, Stream.CALIBRATION_ROWS).permutation(n_items)
    n_held_out = max(1, round(fraction * n_items))
    if n_items - n_held_out < 2:
        raise ValueError(
            f"{name}={fraction} of {n_items} in-distribution items leaves "
            f"{n_items - n_held_out} to fit on, at least 2 are needed; give more data, or a "
            "fitted detector in sklearn.frozen.FrozenEstimator, which takes none"
        )
    return np.sort(order[n_held_out:]), np.sort(order[:n_held_out])


def scores_of(detector: Any, data: CheckedData) -> npt.NDArray[np.float64]:
    """Score checked data with any fitted detector; infinite scores become the largest floats.

    Raises
    ------
    ValueError
        When a score is NaN, which can be neither above nor below a threshold.
    """
    scores = rows_through(detector, "score_samples", data).astype(np.float64)
    if np.isnan(scores).any():
        raise ValueError(
            f"{type(detector).__name__} gave NaN as the score of {np.isnan(scores).sum()} of "
            f"{len(scores)} items; a calibrated detector needs numbers"
        )
    return np.clip(scores, -_LARGEST, _LARGEST)


def needs_labels(model: Any) -> bool:
    """Whether fitting `model` takes labels."""
    if isinstance(model, FrozenEstimator) or not hasattr(model, "__sklearn_tags__"):
        return False
    return get_tags(model).target_tags.required


def warn_of_trained(models: Sequence[Any]) -> None:
    """Warn where detectors that are to be fitted hold models that are not.

    Such a model may have been trained on rows that are now held out from the detector, which look
    too typical to it. Where all of `models` are in ``FrozenEstimator``, the rows given to ``fit``
    are for calibration alone, and it is said there what they have to be.
    """
    if all(isinstance(model, FrozenEstimator) for model in models):
        return
    found = [part for model in models for part in _parts_of(model) if _is_trained(part)]
    if found:
        names = ", ".join(dict.fromkeys(_name_of(part) for part in found))
        warnings.warn(
            f"{names} was trained before, and is not trained again. If it was trained on rows of "
            "X, those among them that calibrate look too typical, and there will be more false "
            "alarms than promised. Give rows that it has not seen as fit(X, y, X_calibration=...)",
            stacklevel=2,
        )


def _parts_of(model: Any) -> list[Any]:
    """Return the model and everything that is given to it and to the estimators inside it."""
    parts = [model]
    values = model.get_params().values() if hasattr(model, "get_params") else ()
    for value in values:
        parts += value if isinstance(value, (list, tuple)) else [value]
    return parts


def _is_trained(part: Any) -> bool:
    return isinstance(part, (FrozenEstimator, ModuleHandle, nn.Module))


def _name_of(part: Any) -> str:
    return type(part.estimator if isinstance(part, FrozenEstimator) else part).__name__
