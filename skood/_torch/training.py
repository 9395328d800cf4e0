"""The training loop: knows how to train a network, not what it learns."""

from __future__ import annotations

import os
import warnings
from collections.abc import Callable, Generator, Iterable, Sequence
from contextlib import closing
from pathlib import Path
from time import monotonic
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn

from skood._progress import progress_bar
from skood._torch.compiling import maybe_compile
from skood._torch.objective import Objective
from skood._torch.precision import trains_in_bf16
from skood._torch.reading import read_ahead, read_batches
from skood._torch.run import (
    TrainingRun,
    end_fit,
    finishing_step,
    next_phase,
    note_interruption,
    raise_if_ended,
)
from skood._torch.seeding import Stream, isolated_rng, numpy_rng, seed_global, torch_rng
from skood._torch.settings import TrainingSettings

__all__ = ["hold_out", "train"]

_SECONDS_BETWEEN_LOSSES = 1.0


def hold_out(
    n_items: int,
    fraction: float,
    seed: int,
    class_indices: npt.NDArray[np.integer] | None = None,
) -> tuple[npt.NDArray[np.intp], npt.NDArray[np.intp]]:
    """Draw the rows to train on and the rows to hold out, both sorted.

    Parameters
    ----------
    n_items : int
    fraction : float
        Part to hold out.
    seed : int
    class_indices : ndarray of shape (n_items,), default=None
        Where given, the same part of every class is held out.
    """
    groups = [np.arange(n_items)]
    if class_indices is not None:
        groups = [np.flatnonzero(class_indices == k) for k in range(class_indices.max() + 1)]
    rng = numpy_rng(seed, Stream.VALIDATION_ROWS)
    training, held_out = [], []
    for rows in groups:
        rows = rng.permutation(rows)
        n_held_out = int(fraction * len(rows))
        held_out.append(rows[:n_held_out])
        training.append(rows[n_held_out:])
    return np.sort(np.concatenate(training)), np.sort(np.concatenate(held_out))


def train(
    objective: Objective,
    training: npt.NDArray[np.integer],
    validation: npt.NDArray[np.integer],
    settings: TrainingSettings,
    *,
    seed: int,
    device: torch.device,
    checkpoint: str | os.PathLike | None = None,
    description: str = "training",
) -> dict[str, list[float]]:
    """Train `objective` in place.

    All randomness of a step is a function of `seed` and the number of the step, so a run that
    was interrupted and resumed ends with the same weights as one that was not.

    Parameters
    ----------
    objective : Objective
        On `device`. Left in eval mode with the weights of the last epoch, or, where there are
        validation rows and its epochs compare, of the epoch with the lowest validation loss.
    training, validation : ndarray
        Rows that the objective reads; there may be none for validation.
    settings : TrainingSettings
    seed : int
    device : torch.device
    checkpoint : path or None
        File to resume from, with its seed, and to save to, once a minute and at the end.
    description : str
        What the progress bar says.

    Returns
    -------
    dict of str to list of float
        A value for each epoch: "loss", which includes the penalty, a mean for each named term
        of it, and, with validation rows, "validation_loss", the terms and a mean for each of
        the objective's metrics, their names after "validation_".

    Raises
    ------
    FloatingPointError
        When the loss is no longer finite.
    RuntimeError
        With ``precision="bf16"`` where this machine computes wrong gradients in bfloat16.
    KeyboardInterrupt
        At a second Ctrl-C within three seconds, which ends the whole fit. The network is then as
        after any other Ctrl-C, and its checkpoint is saved. Inside of `followed_by` it is raised
        after the return of this function, see :func:`~skood._torch.run.end_fit`.

    Warns
    -----
    UserWarning
        After Ctrl-C, which ends training and keeps what was learned, of what comes next; and where
        ``precision="auto"`` finds bfloat16 wrong and trains in float32.
    """
    raise_if_ended()
    optimizer = settings.make_optimizer(objective.parameter_groups())
    run = TrainingRun(objective, optimizer, seed, Path(checkpoint) if checkpoint else None)
    run.resume(device)
    seed = run.seed

    def batches_of(epoch: int) -> Sequence[npt.NDArray[np.integer]]:
        rng = numpy_rng(seed, Stream.EPOCH_ORDER, epoch)
        return objective.epoch_batches(training, settings.batch_size, rng)

    epoch_steps = len(batches_of(0))
    n_steps = epoch_steps * settings.max_epochs
    if settings.max_steps is not None:
        n_steps = min(n_steps, settings.max_steps)

    mean_losses = _mean_losses(objective, device)
    wanted = settings.compile if objective.compiles else False
    compiled = maybe_compile(_with_penalty(objective, mean_losses), wanted, n_steps)
    shown_at = monotonic()
    bar = progress_bar(
        total=n_steps,
        initial=run.step,
        description=description,
        unit="step",
        verbose=settings.verbose,
    )
    ends_fit = False
    with isolated_rng(device, seed, Stream.AROUND_STEPS), bar:
        try:
            while run.goes_on(n_steps, settings.patience):
                if run.epoch_is_over(epoch_steps, n_steps):
                    run.end_epoch(_validate(objective, validation, settings, device))
                    bar.set_postfix(run.last_losses())
                    continue
                epoch, done = divmod(run.step, epoch_steps)
                objective.start_epoch(epoch, resumed=run.epoch == epoch)
                run.epoch = epoch
                objective.train()
                todo = batches_of(epoch)[done : done + n_steps - run.step]
                generators = (
                    torch_rng(device, seed, Stream.STEP, step)
                    for step in range(run.step, run.step + len(todo))
                )
                rng = numpy_rng(seed, Stream.READING, run.step)
                reading_seed = int(rng.integers(2**31 - 1))
                with closing(
                    _batches(objective, todo, generators, settings, device, reading_seed)
                ) as batches:
                    for batch in batches:
                        with finishing_step():
                            if run.step == 0:
                                objective.start(*batch)
                            if run.bf16 is None:
                                run.bf16 = trains_in_bf16(
                                    objective, mean_losses, batch, device, settings.precision
                                )
                            seed_global(device, seed, Stream.STEP_LOSS, run.step)
                            settings.set_learning_rate(optimizer, run.step, n_steps)
                            optimizer.zero_grad(set_to_none=True)
                            losses = compiled(run.bf16, *batch)
                            losses["loss"].backward()
                            if settings.clip_norm is not None:
                                nn.utils.clip_grad_norm_(objective.parameters(), settings.clip_norm)
                            optimizer.step()
                            objective.after_step()
                            run.advance(losses)
                        if monotonic() - shown_at > _SECONDS_BETWEEN_LOSSES:
                            shown_at = monotonic()
                            bar.set_postfix(loss=f"{run.mean_losses()['loss']:.4g}")
                        bar.update()
                        if run.is_due():
                            run.mean_losses()  # Raises before a ruined model is saved.
                            run.save()
            bar.total = run.step
        except KeyboardInterrupt as interrupt:
            ends_fit = _stop(interrupt, description, run.step, n_steps)
        try:
            with finishing_step():
                run.finish()
        except KeyboardInterrupt as interrupt:
            ends_fit = _stop(interrupt, description, run.step, n_steps)
    if ends_fit:
        end_fit()
    return run.history


def _stop(interrupt: KeyboardInterrupt, description: str, step: int, n_steps: int) -> bool:
    """Say what Ctrl-C kept and what comes next; return whether it ends the whole fit."""
    ends_fit = note_interruption(interrupt)
    message = (
        f"{description} was interrupted after {step} of {n_steps} steps; the model keeps what it "
        "had learned"
    )
    following = next_phase()
    if ends_fit:
        message += ", and this second Ctrl-C ends the fit"
    elif following:
        message += f". Next: {following}; a second Ctrl-C within 3 seconds ends the fit"
    warnings.warn(message, stacklevel=3)
    return ends_fit


def _mean_losses(objective: Objective, device: torch.device) -> Callable[..., dict[str, Tensor]]:
    """Make a function of precision and batch that returns the mean loss and its terms."""

    def losses(bf16: bool, *batch: Tensor) -> dict[str, Tensor]:
        with torch.autocast(device.type, torch.bfloat16, enabled=bf16):
            return _means(objective.loss(*batch))

    return losses


def _with_penalty(
    objective: Objective, mean_losses: Callable[..., dict[str, Tensor]]
) -> Callable[..., dict[str, Tensor]]:
    """Make a function like `mean_losses` that adds the objective's penalty."""

    def losses(bf16: bool, *batch: Tensor) -> dict[str, Tensor]:
        means = mean_losses(bf16, *batch)
        penalty = objective.penalty()
        if penalty is not None:
            means["loss"] = means["loss"] + penalty
        return means

    return losses


def _means(losses: Tensor | dict[str, Tensor]) -> dict[str, Tensor]:
    """Mean loss of a batch under "loss", beside the terms that make it up."""
    if isinstance(losses, Tensor):
        return {"loss": losses.mean()}
    terms = {name: term.mean() for name, term in losses.items()}
    return {"loss": torch.stack(list(terms.values())).sum(), **terms}


def _batches(
    objective: Objective,
    rows: Sequence[npt.NDArray[np.integer]],
    generators: Iterable[torch.Generator | None],
    settings: TrainingSettings,
    device: torch.device,
    seed: int = 0,
) -> Generator[tuple[Tensor, ...], None, None]:
    """Read and prepare batches, ahead of their use where that pays."""
    slow = objective.reads_slowly

    def prepared(items: Any, generator: torch.Generator | None) -> tuple[Tensor, ...]:
        with torch.no_grad():
            return objective.prepare(items, generator)

    read = read_batches(
        objective.read, rows, device=device, slow=slow, n_workers=settings.n_workers, seed=seed
    )
    batches = map(prepared, read, generators)
    yield from read_ahead(batches) if slow or device.type != "cpu" else batches


def _validate(
    objective: Objective,
    rows: npt.NDArray[np.integer],
    settings: TrainingSettings,
    device: torch.device,
) -> dict[str, float]:
    """Mean loss, terms and metrics over `rows` in float32; nothing where there are no rows."""
    if len(rows) == 0:
        return {}
    objective.eval()
    terms: dict[str, list[Tensor]] = {}
    metrics: dict[str, list[Tensor]] = {}
    size = settings.batch_size
    parts = [rows[start : start + size] for start in range(0, len(rows), size)]
    batches = _batches(objective, parts, [None] * len(parts), settings, device)
    with torch.no_grad(), closing(batches):
        for batch in batches:
            losses = objective.loss(*batch)
            for name, term in ({"": losses} if isinstance(losses, Tensor) else losses).items():
                terms.setdefault(name, []).append(term.double().flatten())
            for name, metric in objective.metrics(*batch).items():
                metrics.setdefault(name, []).append(metric.double())
    term_means = {name: float(torch.cat(parts).mean()) for name, parts in terms.items()}
    means = {"loss": sum(term_means.values())}
    means |= {name: mean for name, mean in term_means.items() if name}
    means |= {name: float(torch.cat(parts).mean()) for name, parts in metrics.items()}
    return {f"validation_{name}": mean for name, mean in means.items()}
