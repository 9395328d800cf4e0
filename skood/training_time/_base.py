"""Bases of the detectors that train their own network."""

from __future__ import annotations

import inspect
import warnings
from abc import abstractmethod
from collections.abc import Callable
from typing import Any, ClassVar

import numpy as np
import numpy.typing as npt
from sklearn.base import clone
from sklearn.utils import Tags
from torch import Tensor

from skood._caching import cached
from skood._data.checked_data import CheckedData
from skood._estimator.parameters import estimator, parameter
from skood._models import in_chunks
from skood._open_set import OpenSetDetector
from skood._torch.objective import declared
from skood._torch.run import (
    InterruptedTraining,
    followed_by,
    kept_unless_interrupted,
    n_interrupted,
)
from skood.base import ModelDetector
from skood.classifiers import MLP, NeuralClassifier, ShallowConvNet
from skood.classifiers._network import Network
from skood.classifiers._objective import ClassifierObjective, Task
from skood.classifiers._outputs import Outputs

__all__ = ["ClassifierTrainingDetector", "TrainingDetector"]


@estimator
class TrainingDetector(ModelDetector):
    """Base of the detectors that train a network on their own objective.

    The base class clones the architecture, holds out its `validation_fraction` of every class,
    trains, caches, and sets the threshold on the rows held out. If that fraction is 0, a tenth of
    500 rows or more is held out for the threshold alone.

    A subclass has a parameter that holds the architecture, and writes ``_loss`` and
    ``_score_samples``. A loss with state is an objective that ``_make_objective`` returns. Fitted
    attributes, whose names end in ``_``, are set in ``_make_objective`` before training, or in
    ``_learn_scores`` after it.

    Parameters
    ----------
    memory : str, joblib.Memory or None, default=None
        Where trained networks are cached. Needs an integer `random_state`.

    Attributes
    ----------
    history_ : dict of str to list of float
        Loss of each epoch and, if rows were held out, "validation_loss".
    _architecture : str
        Parameter that holds the architecture. The attribute of the trained network has the same
        name, followed by ``_``.
    _scoring_parameters : tuple of str
        Parameters that training does not depend on; a search over them trains once.
    _needs_labels : bool
        Whether y must contain class labels. If not, labels other than -1 are ignored.
    _trains_on_outliers : bool
        Whether the network is trained on known outliers, the rows with y == -1.
    _unused : tuple of str
        Training parameters of the architecture that the objective does not use; `fit` warns if
        they are set.
    _couples_rows : str or None
        Why a batch cannot be divided among processes; None if ``_loss`` returns a loss of each row
        that depends on that row alone. A class that overrides ``_loss`` declares it again.
    """

    # Replaced by the architecture's `validation_fraction`.
    threshold_fraction: float = parameter(default=0.1, init=False)

    _architecture = "backbone"
    _scoring_parameters: ClassVar[tuple[str, ...]] = ("contamination",)
    _needs_labels = True
    _trains_on_outliers = False
    _unused: ClassVar[tuple[str, ...]] = ()
    _couples_rows: ClassVar[str | None] = None

    def _make_objective(self, task: Task) -> ClassifierObjective:
        """Return the training objective; override it if the loss has state or needs other batches.

        Parameters
        ----------
        task : Task
            Untrained network, and its data.
        """
        return _LossObjective(task, self)

    def _loss(
        self, objective: ClassifierObjective, x: Tensor, class_index: Tensor
    ) -> Tensor | dict[str, Tensor]:
        """Compute the loss of a batch, by default the cross-entropy.

        Parameters
        ----------
        objective : ClassifierObjective
            Contains the network. Its ``training`` is False for validation batches.
        x : Tensor of shape (b, ...)
            Input of the network.
        class_index : Tensor of shape (b,)

        Returns
        -------
        Tensor of shape (b,), or dict of str to Tensor
            Loss of each row; or named terms, whose means add up to the loss and are recorded in
            ``history_``.
        """
        return objective.cross_entropy(objective.network(x).float(), class_index)

    def _n_outputs(self, n_classes: int) -> int | None:
        """Return the number of network outputs; None if they are the logits of the classes."""
        return None

    def _default_architecture(self, data: CheckedData) -> NeuralClassifier:
        """Return the architecture that None stands for."""
        if not data.is_image:
            return MLP(validation_fraction=0.1)
        return ShallowConvNet(
            optimizer="adam", learning_rate=1e-3, weight_decay=0.0, validation_fraction=0.1
        )

    def _training_outliers(
        self, known: CheckedData | None, seed: int
    ) -> CheckedData | Callable[[CheckedData], CheckedData] | None:
        """Return the outliers to train on, or a function that makes them from the training rows.

        Parameters
        ----------
        known : CheckedData or None
            Rows with y == -1.
        seed : int
            Seed of this fit.
        """
        return known if self._trains_on_outliers else None

    def _prepare(
        self, inliers: CheckedData, y: npt.NDArray | None, seed: int
    ) -> tuple[dict[str, Any], Any]:
        """Train another model that the objective needs, before the network.

        Parameters
        ----------
        inliers : CheckedData
        y : ndarray or None
        seed : int
            Seed of this fit.

        Returns
        -------
        prepared : dict of str to object
            Attributes that end in ``_``, which ``_make_objective`` may use.
        key : object
            Key of the network's cache and checkpoint, for example a hash of that model's weights.
        """
        return {}, None

    def _prepare_with_outliers(
        self,
        inliers: CheckedData,
        y: npt.NDArray | None,
        outliers: CheckedData | Callable[[CheckedData], CheckedData] | None,
        seed: int,
    ) -> tuple[dict[str, Any], Any]:
        """Do what ``_prepare`` does; override it if the outliers to train on matter.

        Parameters
        ----------
        inliers : CheckedData
        y : ndarray or None
        outliers : CheckedData, callable or None
            Result of ``_training_outliers``.
        seed : int
            Seed of this fit.

        Returns
        -------
        prepared : dict of str to object
        key : object
        """
        return self._prepare(inliers, y, seed)

    def _training_labels(self, y: npt.NDArray | None) -> npt.NDArray | None:
        """Return the labels of the inliers that training reads; by default only class labels."""
        return y if self._needs_labels else None

    def _next_phase(self) -> str | None:
        """Return the name of the phase between the network's training and the threshold, if any."""
        return None

    def _check_training(self) -> None:
        """Warn if training failed its purpose; not called after Ctrl-C."""

    def _warn_of_unused(self) -> None:
        """Warn of parameters of the architecture that training does not use."""
        given = getattr(self, self._architecture)
        if given is None:
            return
        parameters = inspect.signature(type(given).__init__).parameters
        values = {name: getattr(given, name) for name in self._unused}
        unused = [f"{k}={v!r}" for k, v in values.items() if v != parameters[k].default]
        if unused:
            defaults = ", ".join(f"{k}={parameters[k].default!r}" for k in values)
            warnings.warn(
                f"{type(self).__name__} does not use {' and '.join(unused)} of its "
                f"{self._architecture}; leave the default ({defaults})",
                # The caller of `fit`.
                stacklevel=6,
            )

    def _make_network(self, inliers: CheckedData, seed: int) -> NeuralClassifier:
        """Return the untrained classifier that trains the network."""
        given = getattr(self, self._architecture)
        model = self._default_architecture(inliers) if given is None else clone(given)
        if model.random_state is None:
            model.set_params(random_state=seed)
        return model

    def _learn_scores(
        self,
        inliers: CheckedData,
        y: npt.NDArray | None,
        held_out: npt.NDArray[np.integer],
        seed: int,
    ) -> None:
        """Learn what the score needs beyond the network, after training; this is not cached.

        Parameters
        ----------
        inliers : CheckedData
        y : ndarray or None
        held_out : ndarray
            Rows of `inliers` that were not trained on; may be empty.
        seed : int
        """

    def _fit(
        self, inliers: CheckedData, y: npt.NDArray | None, outliers: CheckedData | None, seed: int
    ) -> npt.NDArray[np.integer] | None:
        defaults = type(self)().get_params(deep=False)
        elsewhere = {*self._scoring_parameters, "memory", "verbose", "random_state"}
        trainee = clone(self).set_params(**{k: defaults[k] for k in elsewhere & set(defaults)})
        labels = self._training_labels(y)
        if self._needs_labels and y is None:
            raise ValueError(
                f"{type(self).__name__} requires y to be passed, but the target y is None; give "
                "the class labels of X"
            )
        self._warn_of_unused()
        used = self._training_outliers(outliers, seed)
        prepared, key = self._prepare_with_outliers(inliers, labels, used, seed)
        train = cached(self.memory, _train, ignore=["prepared"])
        is_whole = True
        with followed_by(self._next_phase()):
            try:
                learned, held_out = train(trainee, inliers, labels, used, seed, key, prepared)
            except InterruptedTraining as interrupted:
                is_whole = False
                learned, held_out = interrupted.result
            self.__dict__.update(learned)
        if is_whole:
            self._check_training()
        self._learn_scores(inliers, y, held_out, seed)
        return held_out if len(held_out) else None

    @property
    def _trains_model(self) -> bool:
        """Whether `fit` must hold out rows, since the architecture does not."""
        architecture = getattr(self, self._architecture)
        return architecture is not None and not architecture.validation_fraction

    @property
    def _network(self) -> Network:
        return getattr(self, f"{self._architecture}_").network()

    def __sklearn_tags__(self) -> Tags:
        tags = super().__sklearn_tags__()
        tags.target_tags.required = self._needs_labels
        return tags


@estimator
class ClassifierTrainingDetector(OpenSetDetector, TrainingDetector):
    """Base of the detectors that train a classifier.

    A subclass writes ``_loss``, or ``_make_objective`` if the loss has state, and ``_score``.

    Parameters
    ----------
    classifier : NeuralClassifier or None, default=None
        Architecture and training. The threshold is set on the rows that its `validation_fraction`
        holds out; if that is 0, on a tenth of 500 rows or more. None:
        ``ShallowConvNet(optimizer="adam", learning_rate=1e-3, weight_decay=0.0,
        validation_fraction=0.1)`` for images, ``MLP(validation_fraction=0.1)`` for rows.

    Attributes
    ----------
    classifier_ : NeuralClassifier
        The trained classifier.
    classes_ : ndarray of shape (n_classes,)
        Labels of the in-distribution classes.
    """

    classifier: NeuralClassifier | None = parameter(NeuralClassifier, None, default=None)

    _architecture = "classifier"

    @abstractmethod
    def _score(self, outputs: Outputs) -> npt.NDArray[np.float64]:
        """Score the network's outputs (float64); higher is more in-distribution.

        Parameters
        ----------
        outputs : Outputs
            Logits, log-probabilities and penultimate features.

        Returns
        -------
        ndarray of shape (n,)
        """

    def _score_samples(self, data: CheckedData) -> npt.NDArray[np.float64]:
        return in_chunks(self._score, self._network.outputs(data).astype(np.float64))

    def _class_proba(self, data: CheckedData) -> npt.NDArray[np.float64]:
        return np.exp(self._network.outputs(data).log_proba)


class _LossObjective(ClassifierObjective):
    """Objective without state, whose loss is the detector's ``_loss``."""

    def __init__(self, task: Task, detector: TrainingDetector) -> None:
        super().__init__(task)
        self.detector = detector

    @property
    def couples_rows(self) -> str | None:  # type: ignore[override]
        return declared(self.detector, "_couples_rows", ["_loss"])

    def loss(self, *batch: Tensor) -> Tensor | dict[str, Tensor]:
        x, class_index = batch
        return self.detector._loss(self, x, class_index)


def _train(
    detector: TrainingDetector,
    inliers: CheckedData,
    y: npt.NDArray | None,
    outliers: CheckedData | Callable[[CheckedData], CheckedData] | None,
    seed: int,
    key: Any,
    prepared: dict[str, Any],
) -> tuple[dict[str, Any], npt.NDArray[np.integer]]:
    """Train the network of a detector.

    Returns
    -------
    learned : dict of str to object
        Fitted attributes of the detector.
    held_out : ndarray
        Rows of `inliers` that were not trained on.
    """
    before = n_interrupted()
    depends_on = (clone(detector), outliers, seed, key)
    detector.__dict__.update(prepared)
    model = detector._make_network(inliers, seed)
    task = model.fit_objective(
        inliers,
        y,
        detector._make_objective,
        seed=seed,
        outliers=outliers,
        n_outputs=detector._n_outputs,
        depends_on=depends_on,
    )
    detector.history_ = model.history_
    if detector._needs_labels:
        detector.classes_ = task.classes
    setattr(detector, f"{detector._architecture}_", model)
    learned = {k: v for k, v in vars(detector).items() if k.endswith("_")}
    return kept_unless_interrupted((learned, task.held_out), before)
