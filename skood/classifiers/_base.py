"""Base of the neural classifiers: checks, normalisation, augmentation, training."""

from __future__ import annotations

import numbers
from abc import abstractmethod
from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
import torch.nn.functional as F
from sklearn.base import BaseEstimator
from sklearn.frozen import FrozenEstimator
from sklearn.utils.validation import check_is_fitted
from torch import Tensor, nn

from skood._checked_data import CheckedData
from skood._data import check_data
from skood._internal import internal
from skood._labels import check_labels, encode_labels, is_outlier
from skood._parameters import Interval, StrOptions, estimator, fit_context, parameter
from skood._torch.device import resolve_device
from skood._torch.estimator import NeuralEstimator
from skood._torch.preprocessing import Learned, Preprocessing
from skood._torch.seeding import isolated_rng
from skood._torch.settings import TrainingSettings
from skood._torch.training import hold_out, train
from skood.classifiers._network import Network
from skood.classifiers._network_classifier import NetworkClassifier, copy_weights, last_linear
from skood.classifiers._objective import ClassifierObjective
from skood.classifiers._pretrained import PretrainedClassifier
from skood.classifiers._reading import Head, Reading

__all__ = ["NeuralClassifier", "image_shape_of", "initialize_convolutions"]


def image_shape_of(item_shape: tuple[int, ...], estimator: BaseEstimator) -> tuple[int, int, int]:
    """Return (C, H, W); raise for rows, which a convolutional network cannot read."""
    if len(item_shape) != 3:
        raise ValueError(
            f"X has rows of {item_shape[0]} values, but {type(estimator).__name__} takes images; "
            "give image_shape=(C, H, W) if the rows are flat images, or use MLP"
        )
    n_channels, height, width = item_shape
    return n_channels, height, width


def initialize_convolutions(module: nn.Module) -> None:
    """Initialise the weights of all convolutions as in He et al. (2015), arXiv:1502.01852."""
    for layer in module.modules():
        if isinstance(layer, nn.Conv2d):
            nn.init.kaiming_normal_(layer.weight, mode="fan_out", nonlinearity="relu")


@estimator
class NeuralClassifier(NetworkClassifier, NeuralEstimator):
    """Base of the architectures: a network trained by SGD on cross-entropy.

    A subclass declares the parameters of its architecture and writes ``_build``. Pixels are
    scaled to [0, 1], and every channel (of rows: every feature) is then standardised with its mean
    and standard deviation over the training data, in training and in prediction.

    Parameters
    ----------
    learning_rate : float, default=0.1
        Initial learning rate.
    optimizer : {"sgd", "adam", "adadelta"}, default="sgd"
        Optimization algorithm.
    momentum : float, default=0.9
        Nesterov momentum of "sgd".
    weight_decay : float, default=0.0005
        Weight of the L2 penalty, half the squared norm of all parameters.
    lr_schedule : {"cosine", "step", "constant"}, default="cosine"
        "cosine" falls to 1 % after a short warm-up; "step" divides by 10 at half and at three
        quarters of the training.
    label_smoothing : float, default=0.0
        Part of the target probability that is spread evenly over all classes.
    weights_init : FrozenEstimator, PretrainedClassifier or Module, default=None
        Trained network of the same architecture whose weights and normalisation training starts
        from: one of ours in a :class:`sklearn.frozen.FrozenEstimator`, or a torch module. It is
        not changed itself. Its last layer is used where the classes are as many. None: random
        weights.
    augmentation : {"auto", "crop", "flip", "crop_flip"} or None, default="auto"
        Random shifts by up to an eighth of the image, filled with black, and horizontal flips.
        "auto" applies both to colour images and neither to grey ones, since a mirrored digit is
        not a digit.
    validation_fraction : float, default=0.0
        Part of the training data held out when `fit` is not given `X_val`.
    image_shape : tuple of int, default=None
        (C, H, W) of images given as flat rows, in a Pipeline for instance.
    value_range : (float, float) or "minmax", default=None
        Values of black and white, for images. None: 0..255 for uint8, 0..1 for floats.
    """

    learning_rate: float = parameter(default=0.1, kw_only=True)
    optimizer: str = parameter(StrOptions({"sgd", "adam", "adadelta"}), default="sgd", kw_only=True)
    momentum: float = parameter(
        Interval(numbers.Real, 0, 1, closed="left"), default=0.9, kw_only=True
    )
    weight_decay: float = parameter(
        Interval(numbers.Real, 0, None, closed="left"), default=5e-4, kw_only=True
    )
    lr_schedule: str = parameter(
        StrOptions({"cosine", "step", "constant"}), default="cosine", kw_only=True
    )
    label_smoothing: float = parameter(
        Interval(numbers.Real, 0, 1, closed="left"), default=0.0, kw_only=True
    )
    weights_init: Any = parameter(
        FrozenEstimator, PretrainedClassifier, None, default=None, kw_only=True
    )
    augmentation: str | None = parameter(
        StrOptions({"auto", "crop", "flip", "crop_flip"}), None, default="auto", kw_only=True
    )
    image_shape: tuple[int, int, int] | None = parameter(
        tuple, list, None, default=None, kw_only=True
    )
    value_range: Any = parameter(
        tuple, list, StrOptions({"minmax"}), None, default=None, kw_only=True
    )

    value_range_ = Learned("value_range")
    mean_ = Learned("mean")
    std_ = Learned("scale")

    # Training objective; a subclass may override it.
    _objective = ClassifierObjective

    def __setattr__(self, name: str, value: Any) -> None:
        # A bare module among the parameters would be copied by clone, and hashed by its storage.
        if name == "weights_init" and isinstance(value, nn.Module):
            value = PretrainedClassifier(value)
        super().__setattr__(name, value)

    @abstractmethod
    def _build(self, item_shape: tuple[int, ...], n_classes: int) -> nn.Module:
        """Make the untrained network, which ends in a linear layer.

        Parameters
        ----------
        item_shape : tuple of int
            (C, H, W) of images or (d,) of rows.
        n_classes : int
        """

    @fit_context(prefer_skip_nested_validation=True)
    def fit(self, X: Any, y: Any = None, X_val: Any = None, y_val: Any = None) -> NeuralClassifier:
        """Train the network.

        Parameters
        ----------
        X : array-like, Tensor or Dataset of shape (n_samples, ...)
            Rows (n, d) or images (n, H, W), (n, C, H, W) or (n, H, W, C).
        y : array-like of shape (n_samples,), default=None
            Class labels, all strings or all whole numbers. None takes the labels
            of a Dataset of pairs (x, y).
        X_val : array-like, Tensor or Dataset of shape (n_val, ...), default=None
            Validation data, whose loss is noted in `history_` after every epoch. The weights
            of the epoch with the lowest are kept.
        y_val : array-like of shape (n_val,), default=None

        Returns
        -------
        self

        Raises
        ------
        ValueError
            When y is missing, has a single class, or marks out-of-distribution rows by -1.
        """
        checked = check_data(self, X, reset=True, min_samples=2)
        data = self._open(checked, reset=True)
        class_indices = self._learn_classes(checked.labels if y is None else y, len(data))
        validation = None
        held_out = self._validation(X_val, y_val)
        if held_out is not None:
            validation = np.arange(len(data), len(data) + len(held_out[0]))
            data = CheckedData.concatenate([data, held_out[0]])
            class_indices = np.concatenate([class_indices, held_out[1]])
        self._train(data, class_indices, validation, self._objective, len(self.classes_))
        return self

    @internal
    def split(
        self,
        data: CheckedData,
        y: Any,
        *,
        seed: int,
        n_outputs: Callable[[int], int],
    ) -> tuple[npt.NDArray[np.integer], npt.NDArray[np.integer]]:
        """Return the rows that `fit_objective` trains on and those that it holds out.

        The network is built, but not kept, so that data that it cannot read are an error at once.

        Parameters
        ----------
        data : CheckedData
            As `check_data` returns them.
        y : array-like of shape (n,)
            Labels.
        seed : int
        n_outputs : callable
            As for `fit_objective`.
        """
        data = self._open(data, reset=True)
        class_indices = self._learn_classes(y, len(data))
        with isolated_rng(torch.device("cpu"), seed):
            self._build(data.item_shape, n_outputs(len(self.classes_)))
        return hold_out(len(data), self.validation_fraction, seed, class_indices)

    @internal
    def fit_objective(
        self,
        data: CheckedData,
        y: Any,
        make_objective: Callable[..., ClassifierObjective],
        *,
        seed: int,
        n_outputs: Callable[[int], int] | None = None,
        outliers: CheckedData | Callable[[CheckedData], CheckedData] | None = None,
        depends_on: Any = None,
    ) -> npt.NDArray[np.integer]:
        """Train the network on something else than this classifier's objective.

        For the methods of this package that train a classifier; `fit` is for users.

        Parameters
        ----------
        data : CheckedData
            As `check_data` returns them.
        y : array-like of shape (n,) or None
            Labels; without, all items have the class index 0.
        make_objective : callable
            Takes the untrained network, this classifier, the data as the network reads them, the
            class indices, and as `held_out` and `outliers` the rows held out and the outliers as
            the network reads them.
        seed : int
            Of the choice of the rows held out, `validation_fraction` of every class.
        n_outputs : callable, default=None
            Takes the number of classes and returns that of the network's outputs, if they are
            something else than the logits of the classes.
        outliers : CheckedData or callable, default=None
            Items that the objective trains on beside `data`, or a function that makes them of the
            rows of `data` that are not held out.
        depends_on : object, default=None
            Whatever else training depends on, for the name of the checkpoint.

        Returns
        -------
        ndarray
            Rows that were held out.

        Raises
        ------
        ValueError
            When y has a single class, or the outliers do not fit the data.
        """
        inliers, data = data, self._open(data, reset=True)
        class_indices = np.zeros(len(data), np.int64)
        if y is not None:
            class_indices = self._learn_classes(y, len(data))
        rows, held_out = hold_out(len(data), self.validation_fraction, seed, class_indices)
        if callable(outliers):
            outliers = outliers(inliers.subset(rows))
        if outliers is not None:
            try:
                outliers = self._open(outliers, reset=False)
                self._preprocessing.check_in_memory(outliers)
            except ValueError as error:
                raise ValueError(f"the outliers, here called X, do not fit: {error}") from error
        n_classes = 0 if y is None else len(self.classes_)
        self._train(
            data,
            class_indices,
            held_out,
            partial(make_objective, held_out=held_out, outliers=outliers),
            n_classes if n_outputs is None else n_outputs(n_classes),
            depends_on,
            keeps_head=n_outputs is None,
        )
        return held_out

    def _train(
        self,
        data: CheckedData,
        class_indices: npt.NDArray[np.int64],
        validation: npt.NDArray[np.integer] | None,
        make_objective: Callable[..., ClassifierObjective],
        n_outputs: int,
        depends_on: Any = None,
        *,
        keeps_head: bool = True,
    ) -> None:
        """Set ``module_``, ``history_`` and the normalisation constants.

        `validation` are rows; None draws `validation_fraction` of them. `keeps_head` says whether
        the last layer of `weights_init` has the same meaning.
        """
        device = resolve_device(self.device)
        others = class_indices, validation, depends_on
        seed, checkpoint = self._seed_and_checkpoint(data, others, device)
        if validation is None:
            training, validation = hold_out(len(data), self.validation_fraction, seed)
        else:
            training = np.setdiff1d(np.arange(len(data)), validation)
        self._preprocessing.learn_moments(data.subset(training))
        with isolated_rng(device, seed):
            network = self._build(data.item_shape, n_outputs).to(device)
        if self.weights_init is not None:
            self._start_from(self.weights_init, network, keeps_head=keeps_head)
        if data.is_image:
            network = network.to(memory_format=torch.channels_last)
        try:
            self.history_ = train(
                make_objective(network, self, data, class_indices),
                training,
                validation,
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

    def _start_from(self, source: Any, network: nn.Module, *, keeps_head: bool) -> None:
        """Copy weights and normalisation of a trained classifier, and its last layer if it fits."""
        source = source.estimator if isinstance(source, FrozenEstimator) else source
        if not isinstance(source, NetworkClassifier):
            raise TypeError(
                f"weights_init holds a {type(source).__name__}; expected a classifier of "
                "skood.classifiers or a torch module"
            )
        check_is_fitted(source)
        copy_weights(source.network(), network, keeps_head=keeps_head)
        shape = self.mean_.shape
        self.mean_, self.std_ = (
            np.broadcast_to(np.reshape(moment, (-1,) + (1,) * (len(shape) - 1)), shape).copy()
            for moment in source.normalization()
        )

    def _open(self, X: Any, *, reset: bool) -> CheckedData:
        data = check_data(self, X, reset=reset, min_samples=2 if reset else 1)
        if reset:
            self._preprocessing = Preprocessing(
                self, data, image_shape=self.image_shape, value_range=self.value_range
            )
        return self._preprocessing.open(data)

    def _learn_classes(self, y: Any, n_items: int) -> npt.NDArray[np.int64]:
        """Learn ``classes_``, and return the class indices of the labels."""
        if y is None:
            raise ValueError(
                f"{type(self).__name__} requires y to be passed, but the target y is None; give "
                "the class labels of X"
            )
        y = check_labels(y, n_items)
        self.classes_, class_indices = np.unique(y, return_inverse=True)
        if len(self.classes_) < 2:
            raise ValueError(
                f"y has one class, {self.classes_[0]}; a classifier needs at least 2 classes"
            )
        if len(self.classes_) > 2 and is_outlier(self.classes_).any():
            raise ValueError(
                "y has labels -1, which mark out-of-distribution rows; a classifier is trained on "
                "in-distribution rows alone: leave those out, or fit a detector, which does"
            )
        return class_indices

    def _validation(self, X: Any, y: Any) -> tuple[CheckedData, npt.NDArray[np.int64]] | None:
        """Check validation data, and find their class indices, where there are any."""
        if (X is None) != (y is None):
            raise ValueError("X_val and y_val go together, but one of them is None")
        if X is None:
            return None
        data = self._open(X, reset=False)
        self._preprocessing.check_in_memory(data)
        labels = check_labels(y, len(data), name="y_val", items="X_val")
        known = ", which y does not have; validation data are of the classes trained on"
        return data, encode_labels(labels, self.classes_, name="y_val", known=known)

    def _batch(
        self,
        items: npt.NDArray | Tensor,
        device: torch.device,
        generator: torch.Generator | None,
    ) -> Tensor:
        """Return the network's input, augmented if a generator is given."""
        x = self._preprocessing.tensor(items, device)
        if generator is not None and x.ndim == 4:
            x = _augment(x, self._augmentation(x.shape[1]), generator)
        return self._preprocessing.standardized(x)

    def _augmentation(self, n_channels: int) -> str:
        if self.augmentation == "auto":
            return "crop_flip" if n_channels == 3 else ""
        return self.augmentation or ""

    @internal
    def normalization(self) -> tuple[npt.NDArray, npt.NDArray]:
        return self.mean_, self.std_

    @property
    def _n_features_out(self) -> int:
        return last_linear(self.module_).in_features

    @internal
    def network(self) -> Network:
        device = resolve_device(self.device)
        self.module_.to(device)
        last_layer = last_linear(self.module_)
        name = next(name for name, part in self.module_.named_modules() if part is last_layer)
        reading = Reading(
            n_outputs=last_layer.out_features,
            head=Head(name),
            n_features=last_layer.in_features,
            certain=True,
        )
        return Network(
            self.module_,
            lambda module, reading: (
                lambda data: self._open(data, reset=False),
                lambda items: self._batch(items, device, None),
            ),
            reading=reading,
            step=1.0
            if self.value_range_ is None
            else torch.as_tensor(1 / self.std_, device=device),
            settings=(self.value_range_, tuple(self.mean_.flat), tuple(self.std_.flat)),
            n_workers=self.n_workers,
            verbose=self.verbose,
        )


def _augment(x: Tensor, kind: str, generator: torch.Generator) -> Tensor:
    """Shift and flip each image of a batch independently."""
    n, _, height, width = x.shape
    rows = torch.arange(height, device=x.device).expand(n, height)
    columns = torch.arange(width, device=x.device).expand(n, width)
    if "flip" in kind:
        flipped = torch.rand((n, 1), generator=generator, device=x.device) < 0.5
        columns = torch.where(flipped, columns.flip(1), columns)
    if "crop" in kind:
        margin = max(1, height // 8)
        x = F.pad(x, (margin, margin, margin, margin))
        offset = torch.randint(0, 2 * margin + 1, (2, n, 1), generator=generator, device=x.device)
        rows, columns = rows + offset[0], columns + offset[1]
    if not kind:
        return x
    image = torch.arange(n, device=x.device)[:, None, None]
    return x[image, :, rows[:, :, None], columns[:, None, :]].permute(0, 3, 1, 2)
