"""Training objectives: the interface between a method and the training loop."""

from __future__ import annotations

from abc import ABCMeta, abstractmethod
from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn

__all__ = ["Objective", "declared"]


class Objective(nn.Module, metaclass=ABCMeta):
    """Training objective: data and loss.

    A subclass implements ``read``, ``prepare`` and ``loss``, and overrides other methods as needed.
    All state that is learned or kept between steps (the network, extra heads, averaged weights,
    queues, running means) is a parameter or a buffer of this module: the optimizer updates the
    parameters; checkpoints and the weights of the best epoch include both.

    Order of the calls::

        start                       once, with the first batch
        start_epoch                 before the first step of every epoch
            read, prepare, loss, penalty, after_step        for each batch
            read, prepare, loss, metrics                    for each validation batch
    """

    # Number of the epoch, from 0; set by the training loop before `start_epoch`.
    epoch: int = 0

    # True if `read` is slow, because it reads from disk or decodes images.
    reads_slowly: bool = False

    # False if `loss` registers hooks or has side effects, so that it must not be compiled.
    compiles: bool = True

    # False if validation losses of different epochs are not comparable, because a margin grows for
    # example. The weights of the last epoch are then kept instead of the best.
    epochs_compare: bool = True

    # Why a batch cannot be divided among processes; None if each row has a loss that depends on
    # that row alone, and the loss of the batch is their mean. A class that overrides `read`,
    # `prepare`, `loss` or `after_step` declares it again.
    couples_rows: str | None = "the objective does not declare couples_rows = None"

    @abstractmethod
    def read(self, rows: npt.NDArray[np.integer]) -> Any:
        """Fetch the items of a batch.

        Parameters
        ----------
        rows : ndarray of shape (b,)

        Returns
        -------
        ndarray or tuple of ndarray
            Argument of `prepare`. May be prefetched in a thread, or in a worker process with a copy
            of this object.
        """

    @abstractmethod
    def prepare(self, items: Any, generator: torch.Generator | None) -> tuple[Tensor, ...]:
        """Convert items to the tensors of a batch on the device; augment and mutate them.

        Parameters
        ----------
        items : ndarray or tuple of ndarray
            Result of `read`.
        generator : torch.Generator or None
            On the device. The only source of randomness allowed, because batches may be
            prefetched. None for validation items, which are not augmented.

        Returns
        -------
        tuple of Tensor
            Arguments of `loss` and `metrics`.
        """

    @abstractmethod
    def loss(self, *batch: Tensor) -> Tensor | dict[str, Tensor]:
        """Compute the loss of a batch.

        Parameters
        ----------
        *batch : Tensor
            Result of `prepare`.

        Returns
        -------
        Tensor of shape (b,), or dict of str to Tensor
            Loss of each row; or named terms of any shape, whose means add up to the loss and are
            recorded in the history.
        """

    def metrics(self, *batch: Tensor) -> dict[str, Tensor]:
        """Compute further metrics of validation data.

        Parameters
        ----------
        *batch : Tensor
            Result of `prepare`.

        Returns
        -------
        dict of str to Tensor of shape (m,)
            Values of each metric, for all rows or some; the history records their mean.
        """
        return {}

    def penalty(self) -> Tensor | None:
        """Return a scalar to add to the mean loss of each training batch, or None.

        Returns
        -------
        Tensor of shape () or None
        """
        return None

    def epoch_batches(
        self, rows: npt.NDArray[np.integer], batch_size: int, rng: np.random.Generator
    ) -> Sequence[npt.NDArray[np.integer]]:
        """Divide training rows into the batches of one epoch.

        Rows may be omitted or repeated, and batches may differ in size, but every epoch must have
        the same number of batches.

        Parameters
        ----------
        rows : ndarray
        batch_size : int
        rng : numpy Generator

        Returns
        -------
        sequence of ndarray
            Rows of each batch.
        """
        order = rng.permutation(rows)
        size = min(batch_size, len(order))
        return [order[start : start + size] for start in range(0, len(order) - size + 1, size)]

    def parameter_groups(self) -> list[dict[str, Any]]:
        """Return groups for the optimizer; "lr_scale" multiplies the learning rate of a group.

        Called before training, and again after every `start_epoch`: "lr_scale" may change, and
        nothing else.

        Returns
        -------
        list of dict
        """
        return [{"params": list(self.parameters())}]

    def start(self, *batch: Tensor) -> None:
        """Initialise the network on the first batch, before the first step.

        Parameters
        ----------
        *batch : Tensor
            Result of `prepare`.
        """

    def start_epoch(self, epoch: int, *, resumed: bool) -> None:
        """Begin an epoch, before its first batch is read.

        Parameters
        ----------
        epoch : int
            From 0.
        resumed : bool
            True if this epoch had begun before an interruption. Buffers are then restored from the
            checkpoint; only state outside buffers must be rebuilt.
        """

    def after_step(self) -> None:
        """Act after an update of the parameters, for example on averaged weights."""


def declared(owner: object, attribute: str, methods: Sequence[str]) -> str | None:
    """Return an attribute of a class that describes some of its methods.

    A class that overrides one of the methods inherits a reason, but not its absence.

    Parameters
    ----------
    owner : object
    attribute : str
        Its value is a reason, or None.
    methods : sequence of str

    Returns
    -------
    str or None
    """
    for kind in type(owner).__mro__:
        if attribute in vars(kind):
            return getattr(owner, attribute)
        overridden = [name for name in methods if name in vars(kind)]
        if overridden:
            return f"{kind.__name__} overrides {overridden[0]} without declaring {attribute} = None"
    return None
