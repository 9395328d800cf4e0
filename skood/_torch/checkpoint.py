"""File that a training run is saved to, and resumed from."""

from __future__ import annotations

import io
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from sklearn.base import BaseEstimator
from sklearn.frozen import FrozenEstimator
from torch import Tensor, nn

from skood._safe_files import (
    UnreadableFileError,
    check_writable,
    checked_file,
    make_folder,
    open_checked,
    remove_abandoned,
)

__all__ = ["Checkpoint", "check_checkpoint_dirs"]

# Changes with the content; files of other versions are not read.
_VERSION = 2

# Content of a checkpoint besides the state dicts "objective" and "optimizer".
_TYPES: dict[str, tuple[type, ...]] = {
    "seed": (int,),
    "step": (int,),
    "epoch": (int,),
    "bf16": (bool, type(None)),
    "history": (dict,),
    "best": (dict, type(None)),
    "sums": (dict,),
    "count": (int,),
    "averaged": (dict, type(None)),
}


class Checkpoint:
    """File that a training run is saved to, and resumed from if it exists.

    A file that is damaged, or that holds something else, is not read; a warning names it, and
    training starts anew.

    Parameters
    ----------
    path : Path
        Its name must identify the run.
    device : torch.device
        Device of the tensors that are read.
    """

    def __init__(self, path: Path, device: torch.device) -> None:
        # A relative path would change its meaning with the working directory.
        self.path = path.absolute()
        self._label = f"checkpoint {_VERSION} {path.name}"
        self._warned_of_writing = False
        remove_abandoned(self.path.parent)
        self._saved = self._load(device)

    def _load(self, device: torch.device) -> dict[str, Any] | None:
        try:
            with open_checked(self.path, self._label) as file:
                saved = torch.load(file, map_location=device, weights_only=True)
        except FileNotFoundError:
            return None
        except UnreadableFileError as error:
            self._warn_of_content(str(error))
            return None
        except (MemoryError, torch.cuda.OutOfMemoryError):
            raise
        except Exception as error:
            self._warn_of_content(f"{self.path} cannot be read: {type(error).__name__}: {error}")
            return None
        expected = {"objective": (Mapping,), "optimizer": (Mapping,), **_TYPES}
        is_whole = isinstance(saved, dict) and saved.keys() == expected.keys()
        if not is_whole or not all(isinstance(saved[name], expected[name]) for name in expected):
            self._warn_of_content(f"{self.path} does not hold the state of a training run")
            return None
        return saved

    def _warn_of_content(self, problem: str) -> None:
        warnings.warn(f"{problem}. Training starts anew and overwrites the file", stacklevel=3)

    def seed(self, drawn: int) -> int:
        """Return the seed of the saved run, or `drawn` if there is none.

        With random_state=None every fit draws a new seed, but the training rows of an interrupted
        run must not become validation rows of the resumed run.
        """
        return drawn if self._saved is None else self._saved["seed"]

    def take(self, objective: nn.Module, optimizer: torch.optim.Optimizer) -> dict[str, Any] | None:
        """Return the state of the saved run, if there is one that fits, and release it.

        Parameters
        ----------
        objective : Module
        optimizer : Optimizer
            What the state will be loaded into; neither is changed.
        """
        saved, self._saved = self._saved, None
        if saved is not None:
            try:
                problem = _misfit(saved, objective, optimizer)
            except (AttributeError, IndexError, KeyError, TypeError) as error:
                problem = f"{type(error).__name__}: {error}"
            if problem:
                self._warn_of_content(f"{self.path} does not fit this training run: {problem}")
                return None
        return saved

    def check_writable(self) -> None:
        """Raise an OSError before training if the file cannot be written."""
        check_writable(self.path.parent, "checkpoint_dir")
        if self.path.is_dir():
            raise IsADirectoryError(f"{self.path} is a folder, not a file; remove it")

    def save(self, state: dict[str, Any]) -> bool:
        """Write the state; if that fails, warn once and keep the former file.

        Returns
        -------
        bool
            Whether the state was written.
        """
        # Torch's writer ends the process where Ctrl-C or a full disk strikes within a Python file.
        content = io.BytesIO()
        torch.save(state, content)
        try:
            make_folder(self.path.parent)
            with checked_file(self.path, self._label) as file:
                file.write(content.getbuffer())
        except OSError as error:
            if not self._warned_of_writing:
                self._warned_of_writing = True
                warnings.warn(
                    f"the checkpoint {self.path} cannot be written: {error.strerror or error}. "
                    "Training goes on; the next save tries again",
                    stacklevel=3,
                )
            return False
        return True


def _misfit(
    saved: dict[str, Any], objective: nn.Module, optimizer: torch.optim.Optimizer
) -> str | None:
    """Return why the saved run cannot be continued with this objective, or None if it can.

    Raises the usual errors of a look-up where a state dict is of another kind.
    """
    expected = _form(objective.state_dict())
    for name in "objective", "best":
        if saved[name] is not None and _form(saved[name]) != expected:
            return f'the names, shapes or dtypes of the weights in "{name}" differ'
    averaged = saved["averaged"]
    if averaged is not None and not _form(averaged).items() <= expected.items():
        return 'the names, shapes or dtypes of the weights in "averaged" differ'
    groups, state = saved["optimizer"]["param_groups"], saved["optimizer"]["state"]
    own_groups = optimizer.state_dict()["param_groups"]
    if [group["params"] for group in groups] != [group["params"] for group in own_groups]:
        return "the optimizer has other groups of parameters"
    parameters = [parameter for group in optimizer.param_groups for parameter in group["params"]]
    for index, values in state.items():
        shapes = {tuple(value.shape) for value in values.values() if isinstance(value, Tensor)}
        if shapes - {(), tuple(parameters[index].shape)}:
            return "the shapes in the optimizer's state differ"
    if not all(isinstance(loss, float) for losses in saved["history"].values() for loss in losses):
        return "the history has other values than losses"
    if not all(isinstance(total, Tensor) and total.dim() == 0 for total in saved["sums"].values()):
        return "the sums of losses are no numbers"
    # Their values follow from the parameters of the estimator; older ones may lack a setting.
    saved["optimizer"]["param_groups"] = own_groups
    return None


def _form(state: Mapping[str, Tensor]) -> dict[str, tuple[torch.Size, torch.dtype]]:
    return {name: (tensor.shape, tensor.dtype) for name, tensor in state.items()}


def check_checkpoint_dirs(value: Any) -> None:
    """Raise an OSError if a folder of checkpoints among the parameters cannot be written.

    An estimator that trains several models calls it before it trains the first.

    Parameters
    ----------
    value : estimator, list of estimators or object
        Models in ``FrozenEstimator`` are not trained, and write nothing.
    """
    if isinstance(value, (list, tuple)):
        for item in value:
            check_checkpoint_dirs(item)
    elif isinstance(value, BaseEstimator) and not isinstance(value, FrozenEstimator):
        for name, parameter in value.get_params(deep=False).items():
            if name == "checkpoint_dir" and isinstance(parameter, (str, Path)):
                check_writable(parameter, name)
            else:
                check_checkpoint_dirs(parameter)
