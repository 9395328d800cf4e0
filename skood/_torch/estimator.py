"""Base of the estimators that train a network."""

from __future__ import annotations

import numbers
from pathlib import Path
from typing import Any

import joblib
import numpy as np
import torch
from sklearn.base import BaseEstimator

from skood._checked_data import CheckedData
from skood._docs_link import DocumentationLinkMixin
from skood._parameters import Interval, StrOptions, estimator, parameter
from skood._torch.packing import pack, unpack

__all__ = ["NeuralEstimator"]

# Parameters that affect where a model is trained and what it prints, but not what it learns.
_IMMATERIAL = {"channels", "device", "n_workers", "verbose", "checkpoint_dir", "random_state"}


@estimator
class NeuralEstimator(DocumentationLinkMixin, BaseEstimator):
    """Base of the estimators that train a network, ``module_``.

    Parameters
    ----------
    max_epochs : int, default=100
        Passes over the training data, if `max_steps` does not end training before.
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
        Axis of the channels of images in X. None recognises 1 or 3 channels in the last axis, and
        raises where the shape leaves it open.
    precision : {"auto", "bf16", "fp32"}, default="auto"
        Precision of training; "auto" uses bfloat16 where the hardware supports it natively.
    compile : bool or "auto", default="auto"
        Whether the training step is compiled; "auto" compiles long runs.
    device : str, torch.device or None, default=None
        None takes CUDA where there is one.
    n_workers : int or None, default=None
        Processes that read the items of a torch ``Dataset``, or of any other data if you ask for
        some. None takes several for a Dataset and a GPU, and none for anything else.
    checkpoint_dir : str, Path or None, default=None
        Folder to save training to, every minute and at its end; a fit with the same parameters
        and data resumes from there.
    verbose : {"auto"}, bool or int, default="auto"
        Whether progress is shown. "auto" shows it on a terminal or in a notebook, for work of more
        than a few seconds.
    random_state : int, RandomState instance or None, default=None
        Seed of the initial weights, the batches and everything else that training draws.

    Attributes
    ----------
    history_ : dict of str to list of float
        Loss of each epoch and, where rows were held out, "validation_loss".
    input_shape_ : tuple of int
        Shape of an item, (C, H, W) or (d,).
    n_features_in_ : int
        Number of values in an item.
    """

    max_epochs: int = parameter(
        Interval(numbers.Integral, 1, None, closed="left"), default=100, kw_only=True
    )
    max_steps: int | None = parameter(
        Interval(numbers.Integral, 1, None, closed="left"), None, default=None, kw_only=True
    )
    batch_size: int = parameter(
        Interval(numbers.Integral, 1, None, closed="left"), default=128, kw_only=True
    )
    learning_rate: float = parameter(
        Interval(numbers.Real, 0, None, closed="neither"), default=1e-3, kw_only=True
    )
    clip_norm: float | None = parameter(
        Interval(numbers.Real, 0, None, closed="neither"), None, default=None, kw_only=True
    )
    validation_fraction: float = parameter(
        Interval(numbers.Real, 0, 1, closed="left"), default=0.0, kw_only=True
    )
    patience: int | None = parameter(
        Interval(numbers.Integral, 1, None, closed="left"), None, default=None, kw_only=True
    )
    channels: str | None = parameter(
        StrOptions({"first", "last"}), None, default=None, kw_only=True
    )
    precision: str = parameter(StrOptions({"auto", "bf16", "fp32"}), default="auto", kw_only=True)
    compile: bool | str = parameter("boolean", StrOptions({"auto"}), default="auto", kw_only=True)
    device: str | torch.device | None = parameter(
        str, torch.device, None, default=None, kw_only=True
    )
    n_workers: int | None = parameter(
        Interval(numbers.Integral, 0, None, closed="left"), None, default=None, kw_only=True
    )
    checkpoint_dir: str | Path | None = parameter(str, Path, None, default=None, kw_only=True)
    verbose: bool | int | str = parameter(
        "verbose", StrOptions({"auto"}), default="auto", kw_only=True
    )
    random_state: int | np.random.RandomState | None = parameter(
        "random_state", default=None, kw_only=True
    )

    # Detectors hand such a model their checked data instead of an array.
    _reads_checked_data = True

    def _checkpoint(self, data: CheckedData, others: Any, seed: int) -> Path | None:
        """Return the file that a training run resumes from, named by parameters and data.

        Parameters
        ----------
        data : CheckedData
            Training data; of streamed ones a few items, from the first to the last, are looked at.
        others : object
            Other values that training depends on, labels for instance.
        seed : int
        """
        if self.checkpoint_dir is None:
            return None
        params = self.get_params(deep=False)
        params = {k: v for k, v in params.items() if k not in _IMMATERIAL}
        looked_at = data
        if not data.in_memory:
            rows = np.linspace(0, len(data) - 1, min(len(data), 256)).astype(np.intp)
            looked_at = data.subset(rows)
        own_seed = None if self.random_state is None else seed
        key = joblib.hash((params, len(data), looked_at.content(), others, own_seed))
        return Path(self.checkpoint_dir) / f"{type(self).__name__}-{key}.pt"

    def __getstate__(self) -> dict[str, Any]:
        state = dict(super().__getstate__())
        if "module_" in state:
            state["module_"] = pack(state["module_"])
        return state

    def __setstate__(self, state: dict[str, Any]) -> None:
        if "module_" in state:
            state = {**state, "module_": unpack(state["module_"])}
        super().__setstate__(state)
