"""Base of the estimators that train a network."""

from __future__ import annotations

import numbers
from pathlib import Path
from typing import Any

import joblib
import numpy as np
import torch
from sklearn.base import BaseEstimator

from skood._data.checked_data import CheckedData
from skood._estimator.docs_link import DocumentationLinkMixin
from skood._estimator.parameters import (
    POSITIVE,
    Interval,
    StrOptions,
    at_least,
    estimator,
    parameter,
)
from skood._torch.checkpoint import Checkpoint
from skood._torch.distributed import Processes
from skood._torch.packing import pack, unpack
from skood._torch.seeding import draw_seed

__all__ = ["NeuralEstimator"]

# Parameters that do not change what a model learns; of `random_state`, the seed matters.
_IMMATERIAL = {"channels", "device", "n_workers", "verbose", "checkpoint_dir", "random_state"}

_AT_LEAST_1 = at_least(1)
_POSITIVE = POSITIVE


@estimator
class NeuralEstimator(DocumentationLinkMixin, BaseEstimator):
    """Base of the estimators that train a network, ``module_``.

    Parameters
    ----------
    max_epochs : int, default=100
        Largest number of passes over the training data.
    max_steps : int or None, default=None
        Largest number of training steps; None sets no limit.
    batch_size : int, default=128
        Number of items in a training step.
    learning_rate : float, default=1e-3
        Initial learning rate.
    clip_norm : float or None, default=None
        Largest norm of the gradient; longer gradients are scaled down.
    validation_fraction : float, default=0.0
        Fraction of the data that is held out from training.
    patience : int or None, default=None
        Number of epochs without a lower validation loss after which training ends.
    channels : {"first", "last"} or None, default=None
        Axis of the channels of images in X. None infers it from the shape, and raises an error if
        the shape is ambiguous.
    precision : {"auto", "bf16", "fp32"}, default="auto"
        Precision of training; "auto" uses bfloat16 where the hardware supports it natively and its
        gradients agree with float32.
    compile : bool or "auto", default="auto"
        Whether the training step is compiled; "auto" compiles runs of at least 2000 steps.
    device : str, torch.device or None, default=None
        None uses CUDA if available.
    n_workers : int or None, default=None
        Number of processes that read items; 0 reads in the main process. None uses several
        processes for a torch ``Dataset`` and a GPU, and 0 otherwise.
    checkpoint_dir : str, Path or None, default=None
        Folder of checkpoints, written every minute and at the end of training; a fit with the same
        parameters and data resumes from there. If nothing can be written to it, `fit` raises an
        OSError before training.
    verbose : {"auto"}, bool or int, default="auto"
        Whether progress is shown. "auto" shows it in a terminal or notebook, for work that takes
        more than a few seconds.
    random_state : int, RandomState instance or None, default=None
        Seed of the initial weights, the batches and all other random numbers of training.

    Attributes
    ----------
    history_ : dict of str to list of float
        Loss of each epoch and, where rows were held out, "validation_loss".
    input_shape_ : tuple of int
        Shape of an item, (C, H, W) or (d,).
    n_features_in_ : int
        Number of values in an item.
    """

    max_epochs: int = parameter(_AT_LEAST_1, default=100, kw_only=True)
    max_steps: int | None = parameter(_AT_LEAST_1, None, default=None, kw_only=True)
    batch_size: int = parameter(_AT_LEAST_1, default=128, kw_only=True)
    learning_rate: float = parameter(_POSITIVE, default=1e-3, kw_only=True)
    clip_norm: float | None = parameter(_POSITIVE, None, default=None, kw_only=True)
    validation_fraction: float = parameter(
        Interval(numbers.Real, 0, 1, closed="left"), default=0.0, kw_only=True
    )
    patience: int | None = parameter(_AT_LEAST_1, None, default=None, kw_only=True)
    channels: str | None = parameter(
        StrOptions({"first", "last"}), None, default=None, kw_only=True
    )
    precision: str = parameter(StrOptions({"auto", "bf16", "fp32"}), default="auto", kw_only=True)
    compile: bool | str = parameter("boolean", StrOptions({"auto"}), default="auto", kw_only=True)
    device: str | torch.device | None = parameter(
        str, torch.device, None, default=None, kw_only=True
    )
    n_workers: int | None = parameter(at_least(0), None, default=None, kw_only=True)
    checkpoint_dir: str | Path | None = parameter(str, Path, None, default=None, kw_only=True)
    verbose: bool | int | str = parameter(
        "verbose", StrOptions({"auto"}), default="auto", kw_only=True
    )
    random_state: int | np.random.RandomState | None = parameter(
        "random_state", default=None, kw_only=True
    )

    # Detectors pass their checked data to such a model instead of an array.
    _reads_checked_data = True

    def _seed_and_checkpoint(
        self, data: CheckedData, others: Any, device: torch.device
    ) -> tuple[int, Checkpoint | None]:
        """Return the seed of a training run, and the checkpoint that it may resume from.

        The name of the file is a hash of the parameters, the data and `others`. In several
        processes, the hash must be the same in all of them; the first has the seed and the file.

        Parameters
        ----------
        data : CheckedData
            Training data. For streamed data, the hash reads at most 256 evenly spaced items.
        others : object
            Other values that training depends on, for example labels.
        device : torch.device
        """
        seed = draw_seed(self.random_state)
        processes = Processes(device)
        if self.checkpoint_dir is None and processes.size == 1:
            return seed, None
        params = self.get_params(deep=False)
        params = {k: v for k, v in params.items() if k not in _IMMATERIAL}
        hashed = data
        if not data.in_memory:
            rows = np.linspace(0, len(data) - 1, min(len(data), 256)).astype(np.intp)
            hashed = data.subset(rows)
        own_seed = None if self.random_state is None else seed
        key = joblib.hash((params, len(data), hashed.content(), others, own_seed))
        processes.check_same(key, type(self).__name__)
        checkpoint = None
        if self.checkpoint_dir is not None and processes.rank == 0:
            path = Path(self.checkpoint_dir) / f"{type(self).__name__}-{key}.pt"
            checkpoint = Checkpoint(path, device)
            seed = checkpoint.seed(seed)
        return processes.from_first(seed), checkpoint

    def __getstate__(self) -> dict[str, Any]:
        state = dict(super().__getstate__())
        if "module_" in state:
            state["module_"] = pack(state["module_"])
        return state

    def __setstate__(self, state: dict[str, Any]) -> None:
        if "module_" in state:
            state = {**state, "module_": unpack(state["module_"])}
        super().__setstate__(state)
