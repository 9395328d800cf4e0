"""State of a training run, the file that it is resumed from, and what Ctrl-C does to it."""

from __future__ import annotations

import contextlib
import math
import signal
import threading
from collections.abc import Iterator, Mapping
from contextvars import ContextVar
from dataclasses import dataclass
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
    "end_fit",
    "finishing_step",
    "followed_by",
    "kept_unless_interrupted",
    "n_interrupted",
    "next_phase",
    "note_interruption",
    "raise_if_ended",
    "resumed_seed",
]

_SECONDS_BETWEEN_CHECKPOINTS = 60.0

# Time in which a second Ctrl-C ends the fit and not the training of one more model.
_SECONDS_TO_END = 3.0


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


class _SecondInterrupt(KeyboardInterrupt):
    """Raised by the second Ctrl-C in one step."""


@dataclass
class _CtrlC:
    """What Ctrl-C has done to the fits of this process."""

    # Phases that it ended.
    n_interrupted: int = 0
    # Time of the last one, until a second Ctrl-C follows in time.
    told_at: float = -math.inf
    # Whether KeyboardInterrupt is yet to be raised.
    is_ending: bool = False


_ctrl_c = _CtrlC()
_phases: ContextVar[tuple[str, ...]] = ContextVar("phases", default=())


def note_interruption(interrupt: KeyboardInterrupt) -> bool:
    """Count a phase that Ctrl-C ended; three seconds for a second Ctrl-C begin.

    Returns
    -------
    bool
        Whether this is the second Ctrl-C within three seconds, which ends the whole fit.
    """
    _ctrl_c.n_interrupted += 1
    now = monotonic()
    is_second = isinstance(interrupt, _SecondInterrupt) or now - _ctrl_c.told_at < _SECONDS_TO_END
    _ctrl_c.told_at = -math.inf if is_second else now
    return is_second


def n_interrupted() -> int:
    """How many phases of fits (trainings, threshold scorings) of this process Ctrl-C has ended."""
    return _ctrl_c.n_interrupted


def kept_unless_interrupted(result: Any, before: int) -> Any:
    """Return `result`, or raise `InterruptedTraining` if Ctrl-C cut a phase short.

    A cache stores what is returned, and not what is raised.

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
def followed_by(phase: str | None) -> Iterator[None]:
    """Name the phase of a fit that comes after the block, for the message of Ctrl-C.

    Where the fit is to end (:func:`end_fit`), KeyboardInterrupt is raised at the end of the block,
    when what was trained in it has been stored.

    Parameters
    ----------
    phase : str or None
        "training of MLP", for instance. None: what the enclosing block names.
    """
    token = _phases.set(_phases.get() if phase is None else (*_phases.get(), phase))
    try:
        yield
        raise_if_ended()
    finally:
        _phases.reset(token)
        if not _phases.get():
            _ctrl_c.is_ending = False


def next_phase() -> str | None:
    """Name of the phase that follows, by the innermost `followed_by`; None outside of any."""
    phases = _phases.get()
    return phases[-1] if phases else None


def end_fit() -> None:
    """End the fit after its second Ctrl-C.

    Inside of `followed_by` KeyboardInterrupt is raised a little later, when the trained model has
    been returned: by the next training, by the next batch of a pass, or at the end of the block.
    """
    if not _phases.get():
        raise KeyboardInterrupt
    _ctrl_c.is_ending = True


def raise_if_ended() -> None:
    """Raise KeyboardInterrupt where `end_fit` was called and nothing has raised since."""
    if _ctrl_c.is_ending and threading.current_thread() is threading.main_thread():
        _ctrl_c.is_ending = False
        raise KeyboardInterrupt


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
    asked_at: float | None = None

    def wait(number: int, frame: Any) -> None:
        nonlocal asked_at
        if asked_at is None:
            asked_at = monotonic()
        elif monotonic() - asked_at < _SECONDS_TO_END:
            raise _SecondInterrupt
        else:
            raise KeyboardInterrupt

    signal.signal(signal.SIGINT, wait)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, default)
    if asked_at is not None:
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

    def finish(self) -> None:
        """Save, and leave the network in eval mode with the weights that are kept."""
        # The loss of a step is computed before its update, so nothing has seen the last one yet.
        if not all(torch.isfinite(parameter).all() for parameter in self.objective.parameters()):
            raise FloatingPointError(
                "training ended with weights that are not finite; lower learning_rate or clip_norm"
            )
        self.save()
        if self.best is not None:
            self.objective.load_state_dict(self.best)
        self.objective.eval()

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
