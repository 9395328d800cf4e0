"""State of a training run, and the effect of Ctrl-C."""

from __future__ import annotations

import contextlib
import math
import signal
import threading
from collections.abc import Iterator, Mapping
from contextvars import ContextVar
from dataclasses import dataclass
from time import monotonic
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from skood._torch.checkpoint import Checkpoint
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
]

_SECONDS_BETWEEN_CHECKPOINTS = 60.0

_STEPS_TO_AVERAGE = 5

# Attributes of a run that its checkpoint holds, besides the weights and the optimizer.
_SAVED = "seed", "step", "epoch", "bf16", "history", "best", "sums", "count", "averaged"

# A second Ctrl-C within this time ends the whole fit instead of one more phase.
_SECONDS_TO_END = 3.0


class InterruptedTraining(Exception):
    """Carries the result of an interrupted call past a cache, which stores only returned values."""

    def __init__(self, result: Any) -> None:
        super().__init__()
        self.result = result


class _SecondInterrupt(KeyboardInterrupt):
    """Second Ctrl-C within one step."""


@dataclass
class _CtrlC:
    """Effects of Ctrl-C on the fits of this process."""

    # Number of phases that Ctrl-C ended.
    n_interrupted: int = 0
    # Time of the last first Ctrl-C; reset by a second one.
    first_at: float = -math.inf
    # Whether the fit is to end, but KeyboardInterrupt has not been raised yet.
    is_ending: bool = False


_ctrl_c = _CtrlC()
_phases: ContextVar[tuple[str, ...]] = ContextVar("phases", default=())


def note_interruption(interrupt: KeyboardInterrupt) -> bool:
    """Count a phase that Ctrl-C ended, and start the three seconds for a second Ctrl-C.

    Returns
    -------
    bool
        Whether this is the second Ctrl-C within three seconds, which ends the whole fit.
    """
    _ctrl_c.n_interrupted += 1
    now = monotonic()
    is_second = isinstance(interrupt, _SecondInterrupt) or now - _ctrl_c.first_at < _SECONDS_TO_END
    _ctrl_c.first_at = -math.inf if is_second else now
    return is_second


def n_interrupted() -> int:
    """Return how many phases (trainings, threshold scorings) Ctrl-C has ended in this process."""
    return _ctrl_c.n_interrupted


def kept_unless_interrupted(result: Any, before: int) -> Any:
    """Return `result`, or raise `InterruptedTraining` if Ctrl-C cut a phase short.

    A cache stores only what is returned.

    Parameters
    ----------
    result : object
    before : int
        Value of :func:`n_interrupted` before the work on `result` began.
    """
    if n_interrupted() > before:
        raise InterruptedTraining(result)
    return result


@contextlib.contextmanager
def followed_by(phase: str | None) -> Iterator[None]:
    """Name the phase of a fit that follows the block, for the message after Ctrl-C.

    If the fit is to end (:func:`end_fit`), the block raises KeyboardInterrupt at its end, after the
    trained models have been stored.

    Parameters
    ----------
    phase : str or None
        For example "training of MLP". None: the phase named by the enclosing block.
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
    """Return the phase named by the innermost `followed_by`; None outside such a block."""
    phases = _phases.get()
    return phases[-1] if phases else None


def end_fit() -> None:
    """End the fit after a second Ctrl-C.

    Inside `followed_by`, KeyboardInterrupt is raised after the trained model has been returned: by
    the next training, by the next scoring batch, or at the end of the block.
    """
    if not _phases.get():
        raise KeyboardInterrupt
    _ctrl_c.is_ending = True


def raise_if_ended() -> None:
    """Raise the KeyboardInterrupt that `end_fit` postponed."""
    if _ctrl_c.is_ending and threading.current_thread() is threading.main_thread():
        _ctrl_c.is_ending = False
        raise KeyboardInterrupt


@contextlib.contextmanager
def finishing_step() -> Iterator[None]:
    """Delay Ctrl-C to the end of the block, so that no step is left half done.

    A second Ctrl-C is not delayed.
    """
    default = signal.default_int_handler
    in_main_thread = threading.current_thread() is threading.main_thread()
    if not in_main_thread or signal.getsignal(signal.SIGINT) is not default:
        yield
        return
    pressed_at: float | None = None

    def wait(number: int, frame: Any) -> None:
        nonlocal pressed_at
        if pressed_at is None:
            pressed_at = monotonic()
        elif monotonic() - pressed_at < _SECONDS_TO_END:
            raise _SecondInterrupt
        else:
            raise KeyboardInterrupt

    signal.signal(signal.SIGINT, wait)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, default)
    if pressed_at is not None:
        raise KeyboardInterrupt


class TrainingRun:
    """State of a training run, resumed from its checkpoint.

    Parameters
    ----------
    objective : Objective
    optimizer : Optimizer
    seed : int
    checkpoint : Checkpoint or None
        Where the run is saved; None saves nothing.
    """

    def __init__(
        self,
        objective: Objective,
        optimizer: torch.optim.Optimizer,
        seed: int,
        checkpoint: Checkpoint | None,
    ) -> None:
        self.objective = objective
        self.optimizer = optimizer
        self.seed = seed
        self.checkpoint = checkpoint
        self.step = 0
        # Whether steps run in bfloat16; None before this is decided.
        self.bf16: bool | None = None
        # The last epoch that has begun.
        self.epoch = -1
        self.history: dict[str, list[float]] = {"loss": []}
        self.best: dict[str, Tensor] | None = None
        self.sums: dict[str, Tensor] = {}
        self.count = 0
        # Averaged weights of `look_ahead`.
        self.averaged: dict[str, Tensor] | None = None
        self._saved_at = monotonic()
        # Whether the checkpoint holds this state.
        self._is_saved = False
        saved = checkpoint.take(objective, optimizer) if checkpoint else None
        if saved is not None:
            self.restore(saved)
            self._is_saved = True

    def state(self) -> dict[str, Any]:
        """Return what a checkpoint holds: weights, optimizer and history."""
        states = {
            "objective": self.objective.state_dict(),
            "optimizer": self.optimizer.state_dict(),
        }
        return {**states, **{name: getattr(self, name) for name in _SAVED}}

    def restore(self, state: Mapping[str, Any]) -> None:
        """Continue from the result of `state`."""
        self.objective.load_state_dict(state["objective"])
        self.optimizer.load_state_dict(state["optimizer"])
        for name in _SAVED:
            setattr(self, name, state[name])

    def check_checkpoint(self) -> None:
        """Raise an OSError before the first step if the run cannot be saved."""
        if self.checkpoint is not None:
            self.checkpoint.check_writable()

    def goes_on(self, n_steps: int, patience: int | None) -> bool:
        losses = self._comparable_losses()
        if patience is not None and losses and len(losses) - 1 - np.argmin(losses) >= patience:
            return False
        return self.step < n_steps or self.count > 0

    def epoch_is_over(self, epoch_steps: int, n_steps: int) -> bool:
        return self.count == epoch_steps or self.step == n_steps

    def advance(self, losses: Mapping[str, Tensor]) -> None:
        """Count a step, and accumulate its loss and the loss's terms."""
        self._is_saved = False
        self.step += 1
        self.count += 1
        for name, loss in losses.items():
            loss = loss.detach().double()
            self.sums[name] = self.sums[name] + loss if name in self.sums else loss

    def look_ahead(self, decay: float | None, n_steps: int) -> None:
        """Average the weights every 5 steps, and continue from the average.

        The first call, before the first step, takes the initial weights. The average keeps a
        fraction :math:`d^5 (s / S)^3` of itself after step s of S; the weights after the last step
        are the average (Jordan 2024, arXiv:2404.00498). Averages are taken of the parameters and of
        the statistics of normalisation layers.

        Parameters
        ----------
        decay : float or None
            d; None does nothing.
        n_steps : int
            S.
        """
        if decay is None:
            return
        weights = _averaged_weights(self.objective)
        if self.averaged is None:
            self.averaged = {name: weight.detach().clone() for name, weight in weights.items()}
            return
        is_due = self.step % _STEPS_TO_AVERAGE == 0
        kept = decay**_STEPS_TO_AVERAGE * (self.step / n_steps) ** 3
        with torch.no_grad():
            for name, average in self.averaged.items():
                if is_due:
                    average.lerp_(weights[name], 1 - kept)
                if is_due or self.step == n_steps:
                    weights[name].copy_(average)

    def mean_losses(self) -> dict[str, float]:
        """Return the mean loss and terms over the steps of this epoch so far."""
        means = {name: float(total) / self.count for name, total in self.sums.items()}
        if not math.isfinite(means["loss"]):
            raise FloatingPointError(
                f"the training loss became {means['loss']} before step {self.step}; lower "
                "learning_rate or clip_norm, or check X for extreme values"
            )
        return means

    def end_epoch(self, validation: Mapping[str, float]) -> None:
        self._is_saved = False
        for name, value in {**self.mean_losses(), **validation}.items():
            self.history.setdefault(name, []).append(value)
        self.sums, self.count = {}, 0
        losses = self._comparable_losses()
        if losses and losses[-1] <= min(losses):
            self.best = {k: v.detach().clone() for k, v in self.objective.state_dict().items()}

    def _comparable_losses(self) -> list[float]:
        return self.history.get("validation_loss", []) if self.objective.epochs_compare else []

    def last_losses(self) -> dict[str, str]:
        """Return loss and validation loss of the last epoch, for the progress bar."""
        names = {"loss": "loss", "val": "validation_loss"}
        return {k: f"{self.history[v][-1]:.4g}" for k, v in names.items() if v in self.history}

    def finish(self) -> None:
        """Save the run; put the best or last weights into the network, in eval mode."""
        # Each loss is computed before the step's update, so no loss checks the last update.
        if not all(torch.isfinite(parameter).all() for parameter in self.objective.parameters()):
            raise FloatingPointError(
                "training ended with weights that are not finite; lower learning_rate or clip_norm"
            )
        try:
            if not self._is_saved:
                self.save()
        finally:
            # A second Ctrl-C may end the saving, but the network is kept.
            if self.best is not None:
                self.objective.load_state_dict(self.best)
            self.objective.eval()

    def is_due(self) -> bool:
        return monotonic() - self._saved_at > _SECONDS_BETWEEN_CHECKPOINTS

    def save(self) -> None:
        self._saved_at = monotonic()
        if self.checkpoint is not None:
            self._is_saved = self.checkpoint.save(self.state())


def _averaged_weights(objective: Objective) -> dict[str, Tensor]:
    """Return the parameters and the statistics of normalisation layers, by name."""
    weights = dict(objective.named_parameters())
    for name, layer in objective.named_modules():
        if isinstance(layer, nn.modules.batchnorm._NormBase):
            weights |= {f"{name}.{key}": buffer for key, buffer in layer.named_buffers()}
    return {name: weight for name, weight in weights.items() if weight.is_floating_point()}
