"""Base of the detectors that train their own classifier."""

from __future__ import annotations

from abc import abstractmethod
from functools import partial
from typing import Any

import joblib
import numpy as np
import numpy.typing as npt
from sklearn.base import clone
from sklearn.utils import Tags
from sklearn.utils.validation import check_is_fitted
from torch import nn

from skood._checked_data import CheckedData
from skood._data import check_data
from skood._torch.run import kept_unless_interrupted, n_interrupted
from skood.base import BaseDetector, cached_call
from skood.classifiers import MLP, NeuralClassifier, ShallowConvNet
from skood.classifiers._network import Outputs
from skood.classifiers._objective import ClassifierObjective

__all__ = ["TrainingDetector"]


class TrainingDetector(BaseDetector):
    """Base of the detectors that train a classifier on their own objective.

    The base class clones the classifier, holds out the part of every class that its
    `validation_fraction` asks for, trains, caches, and reads the threshold from the rows held out.
    A subclass has the parameters `classifier` and `memory`, and writes ``_make_objective`` and
    ``_score``; whatever it learns in addition to the network is set in ``_make_objective``, as
    attributes that end in ``_``.

    Attributes
    ----------
    _scoring_parameters : tuple of str
        Parameters that training does not depend on, so that a search over them trains once.
    _n_extra_outputs : int
        Outputs of the network in addition to those of the classes; labelled -1.
    """

    _scoring_parameters: tuple[str, ...] = ("contamination",)
    _n_extra_outputs = 0

    _parameter_constraints: dict = {
        **BaseDetector._parameter_constraints,
        "classifier": [NeuralClassifier, None],
        "memory": [str, joblib.Memory, None],
    }

    classifier: NeuralClassifier | None
    classifier_: NeuralClassifier
    memory: str | joblib.Memory | None

    @abstractmethod
    def _make_objective(
        self,
        network: nn.Module,
        classifier: NeuralClassifier,
        data: CheckedData,
        class_indices: npt.NDArray[np.int64],
        *,
        held_out: npt.NDArray[np.integer],
        inliers: CheckedData,
        seed: int,
    ) -> ClassifierObjective:
        """Return the classifier's training objective.

        Parameters
        ----------
        network : Module
            Not trained yet, with an output for each class and `_n_extra_outputs` more.
        classifier : NeuralClassifier
            With its normalisation and ``classes_``.
        data : CheckedData
            The inliers as the classifier reads them.
        class_indices : ndarray of shape (n,)
        held_out : ndarray
            Rows that are not trained on.
        inliers : CheckedData
            The inliers before preprocessing by the classifier.
        seed : int
            Seed of this fit.
        """

    @abstractmethod
    def _score(self, outputs: Outputs) -> npt.NDArray[np.float64]:
        """Score the network's outputs, higher = more in-distribution."""

    def _default_classifier(self, data: CheckedData) -> NeuralClassifier:
        """Classifier for ``classifier=None``."""
        if not data.is_image:
            return MLP(validation_fraction=0.1)
        return ShallowConvNet(
            optimizer="adam", learning_rate=1e-3, weight_decay=0.0, validation_fraction=0.1
        )

    def _fit(
        self, inliers: CheckedData, y: npt.NDArray | None, outliers: CheckedData | None, seed: int
    ) -> npt.NDArray[np.integer] | None:
        defaults = type(self)().get_params(deep=False)
        elsewhere = {*self._scoring_parameters, "memory", "verbose", "random_state"}
        trainee = clone(self).set_params(**{k: defaults[k] for k in elsewhere & set(defaults)})
        learned, held_out = cached_call(self.memory, _train, trainee, inliers, y, seed)
        for name, value in learned.items():
            setattr(self, name, value)
        return held_out if len(held_out) else None

    def _score_samples(self, data: CheckedData) -> npt.NDArray[np.float64]:
        return self._score(self.classifier_.network().outputs(data))

    def predict_proba(self, X: Any) -> npt.NDArray[np.float64]:
        """Return the probability of each class, and of rejection if the method has a reject class.

        Parameters
        ----------
        X : array-like, Tensor or Dataset of shape (n_samples, ...)

        Returns
        -------
        ndarray of shape (n_samples, n_outputs), float64
            In the order of `classes_`; the probability of rejection is last.
        """
        check_is_fitted(self)
        data = check_data(self, X, reset=False)
        with self._shows_progress("scoring"):
            return self.classifier_.predict_proba(data)

    def predict_class(self, X: Any) -> npt.NDArray:
        """Return the most probable class, or rejection if the method has a reject class.

        Parameters
        ----------
        X : array-like, Tensor or Dataset of shape (n_samples, ...)

        Returns
        -------
        ndarray of shape (n_samples,)
            Labels, and -1 ("-1" among strings) where rejection is more probable than any class.
        """
        check_is_fitted(self)
        data = check_data(self, X, reset=False)
        with self._shows_progress("scoring"):
            return self.classifier_.predict(data)

    def __sklearn_tags__(self) -> Tags:
        tags = super().__sklearn_tags__()
        tags.target_tags.required = True
        return tags


def _train(
    detector: TrainingDetector, inliers: CheckedData, y: npt.NDArray, seed: int
) -> tuple[dict[str, Any], npt.NDArray[np.integer]]:
    """Train the classifier of a detector.

    Returns
    -------
    learned : dict of str to object
        Fitted attributes of the detector.
    held_out : ndarray
        Rows of `inliers` that were not trained on.
    """
    before = n_interrupted()
    classifier = detector.classifier
    classifier = detector._default_classifier(inliers) if classifier is None else clone(classifier)
    if classifier.random_state is None:
        classifier.set_params(random_state=seed)
    held_out = classifier.fit_objective(
        inliers,
        y,
        partial(detector._make_objective, inliers=inliers, seed=seed),
        seed=seed,
        n_extra_outputs=detector._n_extra_outputs,
        depends_on=(detector, seed),
    )
    labels = classifier.classes_
    if detector._n_extra_outputs:
        classifier.classes_ = np.append(labels, np.full(detector._n_extra_outputs, -1))
    detector.classifier_, detector.classes_ = classifier, labels
    detector.history_ = classifier.history_
    learned = {k: v for k, v in vars(detector).items() if k.endswith("_")}
    return kept_unless_interrupted((learned, held_out), before)
