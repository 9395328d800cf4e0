"""Base of the neural classifiers: training, and checks of the training data."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from sklearn.frozen import FrozenEstimator
from sklearn.utils.validation import check_is_fitted
from torch import nn

from skood._data.checked_data import CheckedData
from skood._data.labels import check_labels, encode_labels, is_outlier
from skood._data.validation import check_data
from skood._estimator.internal import internal
from skood._estimator.parameters import estimator, fit_context
from skood._torch.device import resolve_device
from skood._torch.seeding import isolated_rng
from skood._torch.settings import TrainingSettings
from skood._torch.training import hold_out, train
from skood.classifiers._architecture import Architecture
from skood.classifiers._network_classifier import NetworkClassifier, copy_weights
from skood.classifiers._objective import ClassifierObjective, Task

__all__ = ["NeuralClassifier"]


@estimator
class NeuralClassifier(Architecture):
    """Base of the architectures: a network trained by SGD on cross-entropy.

    A subclass declares the parameters of its architecture and writes ``_build``. Pixels are scaled
    to [0, 1]. Every channel of images and every feature of rows is then standardised with its mean
    and standard deviation over the training data, in training and in prediction.
    """

    # Training objective; a subclass may override it.
    _objective = ClassifierObjective

    @fit_context(prefer_skip_nested_validation=True)
    def fit(self, X: Any, y: Any = None, X_val: Any = None, y_val: Any = None) -> NeuralClassifier:
        """Train the network.

        Parameters
        ----------
        X : array-like, Tensor or Dataset of shape (n_samples, ...)
            Rows (n, d) or images (n, H, W), (n, C, H, W) or (n, H, W, C).
        y : array-like of shape (n_samples,), default=None
            Class labels, all strings or all whole numbers. None: the labels of a Dataset of pairs
            (x, y).
        X_val : array-like, Tensor or Dataset of shape (n_val, ...), default=None
            Validation data. `history_` records their loss after every epoch, and the weights of the
            epoch with the lowest loss are kept.
        y_val : array-like of shape (n_val,), default=None

        Returns
        -------
        self

        Raises
        ------
        ValueError
            If y is missing, has a single class, or contains -1, which marks out-of-distribution
            rows.
        """
        inliers = check_data(self, X, reset=True, min_samples=2)
        data = self._open(inliers, reset=True)
        y = inliers.labels if y is None else y
        self.classes_, class_indices = self._classes_and_indices(y, len(data))
        held_out = None
        validation = self._validation(X_val, y_val)
        if validation is not None:
            held_out = np.arange(len(data), len(data) + len(validation[0]))
            inliers = data = CheckedData.concatenate([data, validation[0]])
            class_indices = np.concatenate([class_indices, validation[1]])
        self._train(
            self._objective, data, class_indices, held_out, inliers=inliers, classes=self.classes_
        )
        return self

    @internal
    def split(
        self, data: CheckedData, y: Any, *, seed: int, n_outputs: Callable[[int], int | None]
    ) -> tuple[npt.NDArray[np.integer], npt.NDArray[np.integer]]:
        """Return the rows that `fit_objective` trains on and those that it holds out.

        The network is built and discarded, so that data that it cannot read raise an error early.
        For the parameters, see `fit_objective`.
        """
        data = self._open(data, reset=True)
        classes, class_indices = self._classes_and_indices(y, len(data))
        with isolated_rng(torch.device("cpu"), seed):
            self._build(data.item_shape, n_outputs(len(classes)) or len(classes))
        return hold_out(len(data), self.validation_fraction, seed, class_indices)

    @internal
    def fit_objective(
        self,
        data: CheckedData,
        y: Any,
        make_objective: Callable[[Task], ClassifierObjective],
        *,
        seed: int,
        n_outputs: Callable[[int], int | None],
        outliers: CheckedData | Callable[[CheckedData], CheckedData] | None = None,
        depends_on: Any = None,
    ) -> Task:
        """Train the network on another objective.

        Parameters
        ----------
        data : CheckedData
            As `check_data` returns them.
        y : array-like of shape (n,) or None
            Labels. None: all items have the class index 0.
        make_objective : callable
            Takes a `Task`.
        seed : int
            Seed of the objective, and of the choice of the rows held out, `validation_fraction` of
            every class.
        n_outputs : callable
            Takes the number of classes and returns the number of network outputs; None if the
            outputs are the logits of the classes. Only then is ``classes_`` set.
        outliers : CheckedData or callable, default=None
            Outliers to train on, or a function that makes them from the rows of `data` that are
            not held out.
        depends_on : object, default=None
            Further values that training depends on, for the name of the checkpoint.

        Returns
        -------
        Task
            What was trained.

        Raises
        ------
        ValueError
            If y has a single class, or the outliers do not fit the data.
        """
        inliers, data = data, self._open(data, reset=True)
        classes, class_indices = np.arange(0), np.zeros(len(data), np.int64)
        if y is not None:
            classes, class_indices = self._classes_and_indices(y, len(data))
        rows, held_out = hold_out(len(data), self.validation_fraction, seed, class_indices)
        if callable(outliers):
            outliers = outliers(inliers.subset(rows))
        if outliers is not None:
            try:
                outliers = self._open(outliers, reset=False)
                self._preprocessing.check_in_memory(outliers)
            except ValueError as error:
                raise ValueError(f"the outliers, here called X, do not fit: {error}") from error
        n_made = n_outputs(len(classes))
        if n_made is None:
            self.classes_ = classes
        return self._train(
            make_objective,
            data,
            class_indices,
            held_out,
            inliers=inliers,
            classes=classes,
            outliers=outliers,
            objective_seed=seed,
            n_outputs=n_made,
            depends_on=depends_on,
        )

    def _train(
        self,
        make_objective: Callable[[Task], ClassifierObjective],
        data: CheckedData,
        class_indices: npt.NDArray[np.int64],
        held_out: npt.NDArray[np.integer] | None,
        *,
        inliers: CheckedData,
        classes: npt.NDArray,
        outliers: CheckedData | None = None,
        objective_seed: int | None = None,
        n_outputs: int | None = None,
        depends_on: Any = None,
    ) -> Task:
        """Set ``module_``, ``history_`` and the normalisation constants.

        `held_out` are rows; None draws `validation_fraction` of all rows. Without `n_outputs`, the
        outputs are the logits of the classes, and the last layer of `weights_init` is copied too.
        """
        device = resolve_device(self.device)
        others = class_indices, held_out, depends_on
        seed, checkpoint = self._seed_and_checkpoint(data, others, device)
        if held_out is None:
            training, held_out = hold_out(len(data), self.validation_fraction, seed)
        else:
            training = np.setdiff1d(np.arange(len(data)), held_out)
        self._preprocessing.learn_moments(data.subset(training))
        with isolated_rng(device, seed):
            n_made = len(classes) if n_outputs is None else n_outputs
            network = self._make_network(data.item_shape, n_made).to(device)
            if self.weights_init is None:
                self._initialize(network, data.subset(training))
        if self.weights_init is not None:
            self._start_from(self.weights_init, network, keeps_head=n_outputs is None)
        task = Task(
            network,
            self,
            data,
            class_indices,
            classes,
            held_out,
            inliers,
            outliers,
            seed=seed if objective_seed is None else objective_seed,
        )
        try:
            self.history_ = train(
                make_objective(task),
                training,
                held_out,
                TrainingSettings.of(self),
                seed=seed,
                device=device,
                checkpoint=checkpoint,
                description=type(self).__name__,
            )
        except KeyboardInterrupt:
            # A second Ctrl-C ends the fit, but the network has been trained.
            self.module_ = network
            raise
        self.module_ = network
        return task

    def _start_from(self, source: Any, network: nn.Module, *, keeps_head: bool) -> None:
        """Copy weights and normalisation of a trained classifier, and its last layer if it fits."""
        source = source.estimator if isinstance(source, FrozenEstimator) else source
        if not isinstance(source, NetworkClassifier):
            raise TypeError(
                f"weights_init is a {type(source).__name__}; expected a classifier of "
                "skood.classifiers or a torch module"
            )
        check_is_fitted(source)
        copy_weights(source.network(), network, keeps_head=keeps_head)
        shape = self.mean_.shape
        self.mean_, self.std_ = (
            np.broadcast_to(np.reshape(moment, (-1,) + (1,) * (len(shape) - 1)), shape).copy()
            for moment in source.normalization()
        )

    def _classes_and_indices(
        self, y: Any, n_items: int
    ) -> tuple[npt.NDArray, npt.NDArray[np.int64]]:
        """Return the classes in y, and the class index of each label."""
        if y is None:
            raise ValueError(
                f"{type(self).__name__} requires y to be passed, but the target y is None; give "
                "the class labels of X"
            )
        y = check_labels(y, n_items)
        classes, class_indices = np.unique(y, return_inverse=True)
        if len(classes) < 2:
            raise ValueError(
                f"y has one class, {classes[0]}; a classifier needs at least 2 classes"
            )
        if len(classes) > 2 and is_outlier(classes).any():
            raise ValueError(
                "y has labels -1, which mark out-of-distribution rows; a classifier is trained on "
                "in-distribution rows alone: leave them out, or fit a detector, which does so"
            )
        return classes, class_indices

    def _validation(self, X: Any, y: Any) -> tuple[CheckedData, npt.NDArray[np.int64]] | None:
        """Check validation data, if there are any, and return them with their class indices."""
        if (X is None) != (y is None):
            raise ValueError("X_val and y_val go together, but one of them is None")
        if X is None:
            return None
        data = self._open(X, reset=False)
        self._preprocessing.check_in_memory(data)
        labels = check_labels(y, len(data), name="y_val", items="X_val")
        known = ", which y does not have; validation data are of the classes trained on"
        return data, encode_labels(labels, self.classes_, name="y_val", known=known)
