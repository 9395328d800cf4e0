"""What a network learns: the interface between a method and the training loop."""

from __future__ import annotations

from abc import ABCMeta, abstractmethod
from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn

__all__ = ["Objective"]


class Objective(nn.Module, metaclass=ABCMeta):
    """Training objective: the data and the loss of a method.

    A method implements ``read``, ``prepare`` and ``loss``, and overrides the others as needed.
    Everything learned or kept between steps is a parameter or a buffer of this module (the
    network, extra heads, averaged weights, queues, running means): the optimizer updates the
    parameters; checkpoints and the weights of the best epoch include both.

    The training loop calls the methods in this order::

        start                       once, with the first batch
        start_epoch                 before the first step of every epoch
            read, prepare, loss, penalty, after_step        for each batch
            read, prepare, loss, metrics                    for each validation batch
    """

    # Whether `read` is slow, because it reads from disk or decodes images.
    reads_slowly: bool = False

    # Whether `loss` may be compiled; not if it hooks into the network, or acts beside computing.
    compiles: bool = True

    # Whether validation losses of different epochs measure the same thing, so that the epoch with
    # the lowest is the best. If not, the weights of the last epoch are kept.
    epochs_compare: bool = True

    @abstractmethod
    def read(self, rows: npt.NDArray[np.integer]) -> Any:
        """Fetch the items of a batch.

        Parameters
        ----------
        rows : ndarray of shape (b,)

        Returns
        -------
        ndarray or tuple of ndarray
            Passed to `prepare`. May be prefetched in a thread or in a worker process with its
            own copy of this object.
        """

    @abstractmethod
    def prepare(self, items: Any, generator: torch.Generator | None) -> tuple[Tensor, ...]:
        """Turn items into the tensors of a batch on the device; augment, mutate, generate.

        Parameters
        ----------
        items : ndarray or tuple of ndarray
            What `read` returned.
        generator : torch.Generator or None
            On the device, and the only source of randomness allowed, since batches may be
            prepared ahead. None for validation items, which are not augmented.

        Returns
        -------
        tuple of Tensor
            The arguments of `loss` and of `metrics`.
        """

    @abstractmethod
    def loss(self, *batch: Tensor) -> Tensor | dict[str, Tensor]:
        """Compute the loss of a batch.

        Returns
        -------
        Tensor of shape (b,), or dict of str to Tensor
            The loss of each row; or named terms, of any shape, whose means add up to the loss
            and are kept in the history by name.
        """

    def metrics(self, *batch: Tensor) -> dict[str, Tensor]:
        """Compute further metrics of validation data.

        Returns
        -------
        dict of str to Tensor of shape (m,)
            Values of the rows that each metric covers; the history keeps their means.
        """
        return {}

    def penalty(self) -> Tensor | None:
        """Scalar that is added once a step to the mean loss of the batch; None for nothing."""
        return None

    def epoch_batches(
        self, rows: npt.NDArray[np.integer], batch_size: int, rng: np.random.Generator
    ) -> Sequence[npt.NDArray[np.integer]]:
        """Divide training rows into the batches of one epoch.

        Rows may be left out or repeated, and batches may have another size than that of the
        settings, as long as every epoch has the same number of batches.
        """
        order = rng.permutation(rows)
        size = min(batch_size, len(order))
        return [order[start : start + size] for start in range(0, len(order) - size + 1, size)]

    def parameter_groups(self) -> list[dict[str, Any]]:
        """Parameters by group, as torch's optimizers take them.

        "lr_scale" in a group multiplies the learning rate of the settings.
        """
        return [{"params": list(self.parameters())}]

    def start(self, *batch: Tensor) -> None:
        """Prepare the untrained network on the first batch."""

    def start_epoch(self, epoch: int, *, resumed: bool) -> None:
        """Begin an epoch, before any of its batches is read.

        Parameters
        ----------
        epoch : int
            From 0.
        resumed : bool
            Whether this epoch had begun before an interruption: buffers are restored to their
            state at the checkpoint, and only state outside buffers must be rebuilt.
        """

    def after_step(self) -> None:
        """Act after an update of the parameters: update averages of weights, for instance."""
