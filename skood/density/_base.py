"""Base of the networks that model the data: checks, training, batched scoring."""

from __future__ import annotations

import numbers
from abc import ABCMeta, abstractmethod
from collections.abc import Callable, Sequence
from typing import Any, ClassVar

import numpy as np
import numpy.typing as npt
import torch
from sklearn.base import clone
from sklearn.utils import Tags
from sklearn.utils.validation import check_is_fitted
from torch import Tensor, nn

from skood._data.checked_data import CheckedData
from skood._data.validation import check_data
from skood._estimator.internal import internal
from skood._estimator.parameters import NONNEGATIVE, Interval, StrOptions, estimator, parameter
from skood._torch.batching import batch_multiple, map_batches, scoring_batch_size
from skood._torch.device import resolve_device
from skood._torch.estimator import NeuralEstimator
from skood._torch.objective import Objective
from skood._torch.partial_results import PartialResults
from skood._torch.preprocessing import Preprocessing
from skood._torch.seeding import isolated_rng
from skood._torch.settings import TrainingSettings
from skood._torch.threads import computing
from skood._torch.training import hold_out, train

__all__ = ["ModelObjective", "NeuralModel"]


class ModelObjective(Objective):
    """Training objective of a model: the loss that its ``_loss`` computes.

    Parameters
    ----------
    network : Module
    model : NeuralModel
    data : CheckedData
        As the network reads them.
    class_indices : ndarray of shape (n,) or None
        Class of each item, for a model that is conditioned on it.
    device : torch.device
    """

    couples_rows = None

    def __init__(
        self,
        network: nn.Module,
        model: Any,
        data: CheckedData,
        class_indices: npt.NDArray[np.integer] | None,
        device: torch.device,
    ) -> None:
        super().__init__()
        self.network = network
        self.model = model
        self.data = data
        self.class_indices = class_indices
        self.device = device
        self.reads_slowly = not data.in_memory

    def read(self, rows: npt.NDArray[np.integer]) -> tuple[npt.NDArray, ...]:
        items = self.data.take(rows)
        return (items,) if self.class_indices is None else (items, self.class_indices[rows])

    def prepare(
        self, items: tuple[npt.NDArray, ...], generator: torch.Generator | None
    ) -> tuple[Tensor, ...]:
        x, *class_indices = items
        tensors = [torch.from_numpy(indices).to(self.device) for indices in class_indices]
        return self.model._tensor(x, self.device), *tensors

    def loss(self, *batch: Tensor) -> Tensor:
        return self.model._loss(self.network, *batch)


@estimator
class NeuralModel(NeuralEstimator, metaclass=ABCMeta):
    """Base of the networks that model the data: densities and autoencoders.

    A subclass writes ``_make_preprocessing``, ``_build`` (its network) and ``_loss``, and its `fit`
    calls ``_train``.

    Parameters
    ----------
    learning_rate : float, default=0.002
        Peak learning rate.
    optimizer : {"adam", "adamw", "amsgrad", "rmsprop"}, default="adam"
        Optimization algorithm.
    betas : tuple of float, default=(0.9, 0.999)
        Decay rates of Adam's moments.
    weight_decay : float, default=0.0
        Weight of the L2 penalty, half the squared norm of all parameters. "adamw" shrinks the
        parameters by this fraction of the learning rate instead.
    lr_schedule : {"cosine", "exponential", "constant"} or sequence of pairs, default="cosine"
        "cosine" warms up and decays to 1 % of `learning_rate`; "exponential" multiplies it by
        `lr_decay` after every step. A sequence of points (fraction of the training, factor of
        `learning_rate`) is interpolated linearly.
    lr_decay : float, default=0.999995
        See `lr_schedule`.
    validation_fraction : float, default=0.1
        Fraction of the data that is held out from training; the weights of the epoch with the
        lowest loss on it are kept.
    precision : {"auto", "bf16", "fp32"}, default="auto"
        Precision of training; "auto" is bfloat16 where the hardware has it. The likelihood is
        always computed, and items are always scored, in float32.
    compile : bool or "auto", default=False
        Compile the training step with ``torch.compile``; "auto" does for long runs.
    """

    learning_rate: float = parameter(default=2e-3, kw_only=True)
    optimizer: str = parameter(
        StrOptions({"adam", "adamw", "amsgrad", "rmsprop"}), default="adam", kw_only=True
    )
    betas: tuple[float, float] = parameter(tuple, default=(0.9, 0.999), kw_only=True)
    weight_decay: float = parameter(NONNEGATIVE, default=0.0, kw_only=True)
    lr_schedule: str | Sequence[tuple[float, float]] = parameter(
        StrOptions({"cosine", "exponential", "constant"}),
        tuple,
        list,
        default="cosine",
        kw_only=True,
    )
    lr_decay: float = parameter(
        Interval(numbers.Real, 0, 1, closed="right"), default=0.999995, kw_only=True
    )
    validation_fraction: float = parameter(default=0.1, kw_only=True)
    compile: bool | str = parameter(default=False, kw_only=True)

    _objective: ClassVar[type[ModelObjective]] = ModelObjective

    def _open(self, X: Any, *, reset: bool) -> CheckedData:
        """Check X and return it with items of the shape that the network reads."""
        if not reset:
            check_is_fitted(self)
        data = self._checked(X, reset=reset)
        if reset:
            self._preprocessing = self._make_preprocessing(data)
            self._preprocessing.check_in_memory(data)
        return self._preprocessing.open(data)

    def _checked(self, X: Any, *, reset: bool) -> CheckedData:
        """Check the form of X; override for items other than rows and images."""
        return check_data(self, X, reset=reset, min_samples=2 if reset else 1)

    @abstractmethod
    def _make_preprocessing(self, data: CheckedData) -> Preprocessing:
        """Choose how X is converted to the network's input; raise if X is of the wrong kind."""

    @internal
    def check_input(self, X: Any) -> None:
        """Raise the errors of `fit` about parameters and X, without training.

        Parameters
        ----------
        X : array-like, Tensor, Dataset or CheckedData of shape (n_samples, ...)
        """
        trial = clone(self)
        trial._validate_params()
        trial._open(X, reset=True)

    def _build(self, data: CheckedData) -> nn.Module:
        """Learn the attributes that the network's input needs, and make the untrained network."""
        self._learn(data)
        return self._make_network(data.item_shape)

    def _learn(self, data: CheckedData) -> None:
        """Learn fitted attributes from the data, before the network is made."""

    @abstractmethod
    def _make_network(self, item_shape: tuple[int, ...]) -> nn.Module:
        """Make the untrained network from parameters and fitted attributes alone.

        Parameters
        ----------
        item_shape : tuple of int
            (C, H, W) of images or (d,) of rows, as the network reads them.
        """

    def _tensor(self, items: npt.NDArray, device: torch.device) -> Tensor:
        """Convert items to the network's input: pixels in [0, 1] or standardised rows, float32."""
        return self._preprocessing.tensor(items, device)

    @abstractmethod
    def _loss(self, network: nn.Module, x: Tensor, class_indices: Tensor | None = None) -> Tensor:
        """Compute the loss of each item, (b,)."""

    def _train(
        self,
        data: CheckedData,
        class_indices: npt.NDArray[np.integer] | None = None,
        *,
        description: str,
    ) -> None:
        """Set ``module_`` and ``history_``.

        Parameters
        ----------
        data : CheckedData
            As the network reads them.
        class_indices : ndarray of shape (n,) or None, default=None
            Class of each item, for a model that is conditioned on it.
        description : str
            Description of the progress bar.
        """
        device = resolve_device(self.device)
        seed, checkpoint = self._seed_and_checkpoint(data, class_indices, device)
        with isolated_rng(device, seed):
            network = self._build(data).to(device)
        try:
            self.history_ = train(
                self._objective(network, self, data, class_indices, device),
                *hold_out(len(data), self.validation_fraction, seed),
                TrainingSettings.of(self),
                seed=seed,
                device=device,
                checkpoint=checkpoint,
                description=description,
            )
        except KeyboardInterrupt:
            # A second Ctrl-C ends the fit, but the network has been trained.
            self.module_ = self._trained(network)
            raise
        self.module_ = self._trained(network)

    def _trained(self, network: nn.Module) -> nn.Module:
        """Return the part of the trained network that is kept."""
        return network

    @internal
    def map(
        self,
        X: Any,
        function: Callable[..., Tensor | tuple[Tensor, ...]],
        *,
        doing: str = "scores",
        class_indices: npt.NDArray[np.integer] | None = None,
        tensor: Callable[[npt.NDArray, torch.device], Tensor] | None = None,
        batch_size: int | None = None,
        partial: PartialResults | None = None,
    ) -> Any:
        """Apply a function of the trained network to every item, in batches.

        Parameters
        ----------
        X : array-like, Tensor, Dataset or CheckedData of shape (n_samples, ...)
        function : callable
            Takes the network in eval mode, its input (b, ...) and, if `class_indices` is given,
            class indices (b,). Returns a tensor, or a tuple of them, with a row for each item.
            Gradients are off; the function may turn them on.
        doing : str, default="scores"
            Description of the progress bar, after the name of the class.
        class_indices : ndarray of shape (n_samples,) or None, default=None
        tensor : callable, default=None
            Converts an array of items, for a device, to the second argument of `function`. X then
            is CheckedData that only `tensor` reads. None: the network's input.
        batch_size : int, default=None
            None: the size of a scoring batch.
        partial : PartialResults, default=None
            Where results are saved, and taken from by another call on the same data.

        Returns
        -------
        ndarray of shape (n_samples, ...), float64, or a tuple of them
        """
        module, device = self._ready()
        if tensor is None:
            X, tensor = self._open(X, reset=False), self._tensor

        def of_batch(items: npt.NDArray) -> Tensor | tuple[Tensor, ...]:
            arguments: list[Any] = []
            if class_indices is not None:
                rows, items = items[:, 0], X.take(items[:, 0])
                arguments = [torch.as_tensor(class_indices[rows], device=device)]
            # Tensors of inference mode could not be differentiated.
            with torch.inference_mode(False), torch.no_grad():
                values = function(module, tensor(items, device), *arguments)
            if isinstance(values, tuple):
                return tuple(part.double() for part in values)
            return values.double()

        item_shape = self._preprocessing.item_shape
        return map_batches(
            of_batch,
            X if class_indices is None else CheckedData.of(np.arange(len(X))[:, None]),
            batch_size or scoring_batch_size(device, item_shape),
            multiple_of=batch_multiple(item_shape),
            device=device,
            n_workers=self.n_workers,
            verbose=self.verbose,
            description=f"{type(self).__name__} {doing}",
            partial=partial,
        )

    def _ready(self) -> tuple[nn.Module, torch.device]:
        """Return the trained network in eval mode, and its device."""
        check_is_fitted(self)
        device = resolve_device(self.device)
        with computing:
            return self.module_.to(device).eval(), device

    def __sklearn_tags__(self) -> Tags:
        tags = super().__sklearn_tags__()
        tags.non_deterministic = False
        tags.input_tags.three_d_array = True
        return tags
