"""Base of the estimators that train a network."""

from __future__ import annotations

import inspect
import numbers
from pathlib import Path
from typing import Any

import joblib
import numpy as np
import torch
from sklearn.base import BaseEstimator

from skood._checked_data import CheckedData
from skood._docs_link import DocumentationLinkMixin
from skood._parameters import Interval, StrOptions
from skood._torch.documentation import spell_out_training
from skood._torch.packing import pack, unpack
from skood._torch.preprocessing import Preprocessing

__all__ = ["NeuralEstimator"]

# Parameters that affect where a model is trained and what it prints, but not what it learns.
_IMMATERIAL = {"channels", "device", "n_workers", "verbose", "checkpoint_dir", "random_state"}


class NeuralEstimator(DocumentationLinkMixin, BaseEstimator):
    """Base of the estimators that train a network, ``module_``.

    A subclass may take the parameters of its base as ``**training``.
    """

    # Detectors hand such a model their checked data instead of an array.
    _reads_checked_data = True

    _preprocessing: Preprocessing

    _parameter_constraints: dict = {
        "max_epochs": [Interval(numbers.Integral, 1, None, closed="left")],
        "max_steps": [Interval(numbers.Integral, 1, None, closed="left"), None],
        "batch_size": [Interval(numbers.Integral, 1, None, closed="left")],
        "learning_rate": [Interval(numbers.Real, 0, None, closed="neither")],
        "clip_norm": [Interval(numbers.Real, 0, None, closed="neither"), None],
        "validation_fraction": [Interval(numbers.Real, 0, 1, closed="left")],
        "patience": [Interval(numbers.Integral, 1, None, closed="left"), None],
        "channels": [StrOptions({"first", "last"}), None],
        "precision": [StrOptions({"auto", "bf16", "fp32"})],
        "compile": ["boolean", StrOptions({"auto"})],
        "device": [str, torch.device, None],
        "n_workers": [Interval(numbers.Integral, 0, None, closed="left"), None],
        "checkpoint_dir": [str, Path, None],
        "verbose": ["verbose", StrOptions({"auto"})],
        "random_state": ["random_state"],
    }

    def __init_subclass__(cls, **kwargs: Any) -> None:
        """Spell out ``**training`` in the docstring and in the signature.

        Scikit-learn looks for parameters in the latter.
        """
        super().__init_subclass__(**kwargs)
        own = inspect.signature(cls.__init__).parameters
        parameters = {k: p for k, p in own.items() if p.kind != p.VAR_KEYWORD}
        if len(parameters) < len(own):
            inherited = inspect.signature(super(cls, cls).__init__).parameters
            parameters |= {
                k: p.replace(kind=p.KEYWORD_ONLY)
                for k, p in inherited.items()
                if k not in parameters
            }
            signature = inspect.Signature(list(parameters.values()))
            setattr(cls.__init__, "__signature__", signature)  # noqa: B010 (mypy knows no such one)
        spell_out_training(cls, parameters)

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
