"""State of a training run, and the file that it is resumed from."""

from __future__ import annotations

import contextlib
import math
import signal
import threading
from collections.abc import Iterator, Mapping
from pathlib import Path
from time import monotonic
from typing import Any

import numpy as np
import torch
from torch import Tensor

from skood._torch.objective import Objective

__all__ = [
    "InterruptedTraining",
    "TrainingRun",
    "finishing_step",
    "kept_unless_interrupted",
    "n_interrupted",
    "note_interruption",
    "resumed_seed",
]

_SECONDS_BETWEEN_CHECKPOINTS = 60.0


def resumed_seed(checkpoint: Path | None, seed: int) -> int:
    """Return the seed of the run saved in `checkpoint`, or `seed` if there is none.

    With random_state=None every fit draws a new seed, but rows that an interrupted run was trained
    on must not become its validation rows when it is resumed.
    """
    if checkpoint is None or not checkpoint.exists():
        return seed
    return torch.load(checkpoint, map_location="cpu", mmap=True, weights_only=True)["seed"]


class InterruptedTraining(Exception):
    """Carries the result of a call in which Ctrl-C ended a training run, past a cache."""

    def __init__(self, result: Any) -> None:
        super().__init__()
        self.result = result


_interruptions = 0


def note_interruption() -> None:
    """Remember that Ctrl-C ended a training run."""
    global _interruptions
    _interruptions += 1


def n_interrupted() -> int:
    """How many training runs of this process Ctrl-C has ended."""
    return _interruptions


def kept_unless_interrupted(result: Any, before: int) -> Any:
    """Return `result`, which a cache then keeps; raise where a run was interrupted meanwhile.

    Parameters
    ----------
    result : object
    before : int
        What :func:`n_interrupted` returned before the work on `result` began.
    """
    if n_interrupted() > before:
        raise InterruptedTraining(result)
    return result


@contextlib.contextmanager
def finishing_step() -> Iterator[None]:
    """Let Ctrl-C wait for the end of the block, so that a step is done or not done.

    A second Ctrl-C does not wait.
    """
    default = signal.default_int_handler
    in_main_thread = threading.current_thread() is threading.main_thread()
    if not in_main_thread or signal.getsignal(signal.SIGINT) is not default:
        yield
        return
    asked = False

    def wait(number: int, frame: Any) -> None:
        nonlocal asked
        if asked:
            raise KeyboardInterrupt
        asked = True

    signal.signal(signal.SIGINT, wait)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, default)
    if asked:
        raise KeyboardInterrupt


class TrainingRun:
    """State of one training run, as saved in a checkpoint.

    Parameters
    ----------
    objective : Objective
    optimizer : Optimizer
    seed : int
    path : Path or None
        File to resume from and to save to.
    """

    def __init__(
        self, objective: Objective, optimizer: torch.optim.Optimizer, seed: int, path: Path | None
    ) -> None:
        self.objective = objective
        self.optimizer = optimizer
        self.seed = seed
        self.path = path
        self.step = 0
        # Whether steps run in bfloat16, once that is decided.
        self.bf16: bool | None = None
        # The last epoch that was begun.
        self.epoch = -1
        self.history: dict[str, list[float]] = {"loss": []}
        self.best: dict[str, Tensor] | None = None
        self._sums: dict[str, Tensor] = {}
        self._count = 0
        self._saved_at = monotonic()

    def goes_on(self, n_steps: int, patience: int | None) -> bool:
        losses = self._comparable_losses()
        if patience is not None and losses and len(losses) - 1 - np.argmin(losses) >= patience:
            return False
        return self.step < n_steps or self._count > 0

    def epoch_is_over(self, epoch_steps: int, n_steps: int) -> bool:
        return self._count == epoch_steps or self.step == n_steps

    def advance(self, losses: Mapping[str, Tensor]) -> None:
        """Count a step, and add its loss and the terms of the loss."""
        self.step += 1
        self._count += 1
        for name, loss in losses.items():
            loss = loss.detach().double()
            self._sums[name] = self._sums[name] + loss if name in self._sums else loss

    def mean_losses(self) -> dict[str, float]:
        """Mean loss and terms over the steps of this epoch so far."""
        means = {name: float(total) / self._count for name, total in self._sums.items()}
        if not math.isfinite(means["loss"]):
            raise FloatingPointError(
                f"the training loss became {means['loss']} before step {self.step}; lower "
                "learning_rate or clip_norm, or check X for extreme values"
            )
        return means

    def end_epoch(self, validation: Mapping[str, float]) -> None:
        for name, value in {**self.mean_losses(), **validation}.items():
            self.history.setdefault(name, []).append(value)
        self._sums, self._count = {}, 0
        losses = self._comparable_losses()
        if losses and losses[-1] <= min(losses):
            self.best = {k: v.detach().clone() for k, v in self.objective.state_dict().items()}

    def _comparable_losses(self) -> list[float]:
        return self.history.get("validation_loss", []) if self.objective.epochs_compare else []

    def last_losses(self) -> dict[str, str]:
        """Loss and validation loss of the last epoch, as a progress bar shows them."""
        names = {"loss": "loss", "val": "validation_loss"}
        return {k: f"{self.history[v][-1]:.4g}" for k, v in names.items() if v in self.history}

    def restore_best(self) -> None:
        if self.best is not None:
            self.objective.load_state_dict(self.best)

    def is_due(self) -> bool:
        return monotonic() - self._saved_at > _SECONDS_BETWEEN_CHECKPOINTS

    def save(self) -> None:
        self._saved_at = monotonic()
        if self.path is None:
            return
        self.path.parent.mkdir(parents=True, exist_ok=True)
        state = {
            "objective": self.objective.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "seed": self.seed,
            "step": self.step,
            "epoch": self.epoch,
            "bf16": self.bf16,
            "history": self.history,
            "best": self.best,
            "sums": self._sums,
            "count": self._count,
        }
        partial = self.path.with_suffix(".partial")
        torch.save(state, partial)
        partial.replace(self.path)

    def resume(self, device: torch.device) -> None:
        if self.path is None or not self.path.exists():
            return
        state: dict[str, Any] = torch.load(self.path, map_location=device, weights_only=True)
        self.objective.load_state_dict(state["objective"])
        self.optimizer.load_state_dict(state["optimizer"])
        self.seed, self.step, self.epoch = state["seed"], state["step"], state["epoch"]
        self.history, self.best, self.bf16 = state["history"], state["best"], state["bf16"]
        self._sums, self._count = state["sums"], state["count"]
