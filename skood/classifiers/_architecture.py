"""Base of the architectures: the network, its input, and the parameters of its training."""

from __future__ import annotations

import numbers
from abc import abstractmethod
from collections.abc import Sequence
from typing import Any, ClassVar

import numpy.typing as npt
import torch
from sklearn.base import BaseEstimator
from sklearn.frozen import FrozenEstimator
from torch import Tensor, nn

from skood._data.checked_data import CheckedData
from skood._data.validation import check_data
from skood._estimator.internal import internal
from skood._estimator.parameters import NONNEGATIVE, Interval, StrOptions, estimator, parameter
from skood._torch.device import resolve_device
from skood._torch.estimator import NeuralEstimator
from skood._torch.preprocessing import Learned, Preprocessing
from skood.classifiers._augmentation import AUGMENTATIONS, augment, augmentations_of
from skood.classifiers._network import Network
from skood.classifiers._network_classifier import NetworkClassifier, last_linear
from skood.classifiers._pretrained import PretrainedClassifier
from skood.classifiers._reading import Head, Reading

__all__ = ["Architecture", "image_shape_of", "initialize_convolutions"]


def image_shape_of(item_shape: tuple[int, ...], estimator: BaseEstimator) -> tuple[int, int, int]:
    """Return (C, H, W), or raise an error for rows, which a convolutional network cannot read."""
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
class Architecture(NetworkClassifier, NeuralEstimator):
    """Base of :class:`NeuralClassifier`: the network, its input, and parameters of the training.

    Pixels are scaled to [0, 1]. Every channel of images and every feature of rows is then
    standardised with its mean and standard deviation over the training data, in training and in
    prediction.

    Parameters
    ----------
    learning_rate : float, default=0.1
        Initial learning rate.
    optimizer : {"sgd", "adam", "adamw", "amsgrad", "adadelta"}, default="sgd"
        Optimization algorithm.
    momentum : float, default=0.9
        Nesterov momentum of "sgd".
    weight_decay : float, default=0.0005
        Weight of the L2 penalty, half the squared norm of all parameters. "adamw" shrinks the
        parameters by this fraction of the learning rate instead.
    lr_schedule : {"cosine", "step", "constant"} or sequence of (float, float), default="cosine"
        "cosine" falls to 1 % after a short warm-up; "step" divides by 10 at half and at three
        quarters of the training. Points (fraction of the training, factor of the learning rate) are
        interpolated linearly; see :func:`~skood.classifiers.multi_step` for milestones.
    lookahead : float or None, default=None
        Decay of averaged weights: every 5 steps the average keeps the fraction
        ``lookahead**5 * progress**3`` of itself, and training continues from the average. The
        trained weights are the average. None averages nothing.
    label_smoothing : float, default=0.0
        Fraction of the target probability that is spread evenly over all classes.
    weights_init : FrozenEstimator, PretrainedClassifier or Module, default=None
        Trained network of the same architecture: training starts from its weights and its
        normalisation, and leaves it unchanged. Give a classifier of this package in a
        :class:`sklearn.frozen.FrozenEstimator`, or a torch module. Its last layer is used only if
        the number of classes is the same. None: random weights.
    augmentation : str, tuple of str or None, default="auto"
        Random changes of training images: "crop" shifts them by up to an eighth, filled with black;
        "flip" mirrors half of them; "alternating_flip" mirrors one half in even epochs and the
        other half in odd epochs; "translate" shifts by up to a sixteenth, filled with the mirrored
        border; "rotate" turns by up to 10 degrees; "resized_crop" enlarges a part of at least 95 %
        of the area. "crop_flip" is ("crop", "flip"). "auto" is "crop_flip" for colour images and
        None for grey ones, since a mirrored digit is not a digit.
    validation_fraction : float, default=0.0
        Fraction of the training data held out when `fit` is not given `X_val`.
    image_shape : tuple of int, default=None
        (C, H, W) of images given as flat rows, in a Pipeline for instance.
    value_range : (float, float) or "minmax", default=None
        Values of black and white, for images. None: 0..255 for uint8, 0..1 for floats.

    Attributes
    ----------
    mean_, std_ : ndarray of shape (C, 1, 1) or (d,)
        Mean and standard deviation of each channel of pixels in [0, 1], or of each feature of rows.
    """

    learning_rate: float = parameter(default=0.1, kw_only=True)
    optimizer: str = parameter(
        StrOptions({"sgd", "adam", "adamw", "amsgrad", "adadelta"}), default="sgd", kw_only=True
    )
    momentum: float = parameter(
        Interval(numbers.Real, 0, 1, closed="left"), default=0.9, kw_only=True
    )
    weight_decay: float = parameter(NONNEGATIVE, default=5e-4, kw_only=True)
    lr_schedule: str | Sequence[tuple[float, float]] = parameter(
        StrOptions({"cosine", "step", "constant"}), tuple, list, default="cosine", kw_only=True
    )
    lookahead: float | None = parameter(
        Interval(numbers.Real, 0, 1, closed="both"), None, default=None, kw_only=True
    )
    label_smoothing: float = parameter(
        Interval(numbers.Real, 0, 1, closed="left"), default=0.0, kw_only=True
    )
    weights_init: Any = parameter(
        FrozenEstimator, PretrainedClassifier, None, default=None, kw_only=True
    )
    augmentation: str | tuple[str, ...] | None = parameter(
        StrOptions({"auto", "crop_flip", *AUGMENTATIONS}),
        tuple,
        list,
        None,
        default="auto",
        kw_only=True,
    )
    image_shape: tuple[int, int, int] | None = parameter(
        tuple, list, None, default=None, kw_only=True
    )
    value_range: Any = parameter(
        tuple, list, StrOptions({"minmax"}), None, default=None, kw_only=True
    )

    # What augmentation="auto" stands for.
    _auto_augmentations: ClassVar[dict[str, tuple[str, ...]]] = {
        "colour": ("crop", "flip"),
        "grey": (),
    }

    value_range_ = Learned("value_range")
    mean_ = Learned("mean")
    std_ = Learned("scale")

    def __setattr__(self, name: str, value: Any) -> None:
        # `clone` would copy a bare module, and joblib would hash its memory layout.
        if name == "weights_init" and isinstance(value, nn.Module):
            value = PretrainedClassifier(value)
        super().__setattr__(name, value)

    @abstractmethod
    def _build(self, item_shape: tuple[int, ...], n_classes: int) -> nn.Module:
        """Return the untrained network, which ends in a linear layer.

        Parameters
        ----------
        item_shape : tuple of int
            (C, H, W) of images or (d,) of rows.
        n_classes : int
        """

    def _make_network(self, item_shape: tuple[int, ...], n_outputs: int) -> nn.Module:
        """Return the untrained network in the memory format that it is trained in."""
        network = self._build(item_shape, n_outputs)
        if len(item_shape) == 3:
            return network.to(memory_format=torch.channels_last)
        return network

    def _initialize(self, network: nn.Module, data: CheckedData) -> None:
        """Set initial weights that depend on the training data; none by default.

        Parameters
        ----------
        network : Module
            Untrained, on its device.
        data : CheckedData
            Training rows, in the shape that the network reads.
        """

    @internal
    def parameter_groups(self, network: nn.Module, epoch: int) -> list[dict[str, Any]]:
        """Return groups of the network's parameters, each with the "lr_scale" of this epoch.

        Parameters
        ----------
        network : Module
        epoch : int
        """
        return [{"params": list(network.parameters())}]

    def _open(self, X: Any, *, reset: bool) -> CheckedData:
        data = check_data(self, X, reset=reset, min_samples=2 if reset else 1)
        if reset:
            self._preprocessing = Preprocessing(
                self, data, image_shape=self.image_shape, value_range=self.value_range
            )
        return self._preprocessing.open(data)

    @internal
    def network_input(
        self,
        items: npt.NDArray | Tensor,
        device: torch.device,
        generator: torch.Generator | None = None,
        epoch: int = 0,
    ) -> Tensor:
        """Return the network's input for items of X, augmented if a generator is given."""
        x = self._preprocessing.tensor(items, device)
        if generator is not None and x.ndim == 4:
            auto = self._auto_augmentations["colour" if x.shape[1] == 3 else "grey"]
            names = augmentations_of(self.augmentation, auto)
            x = augment(x, names, generator, epoch)
        return self._preprocessing.standardized(x)

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
                lambda items: self.network_input(items, device),
            ),
            reading=reading,
            step=1.0
            if self.value_range_ is None
            else torch.as_tensor(1 / self.std_, device=device),
            settings=(self.value_range_, tuple(self.mean_.flat), tuple(self.std_.flat)),
            n_workers=self.n_workers,
            verbose=self.verbose,
        )
