"""The training loop, independent of what is learned."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Generator, Iterable, Sequence
from contextlib import closing
from time import monotonic
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn

from skood._progress import progress_bar
from skood._torch.checkpoint import Checkpoint
from skood._torch.compiling import maybe_compile
from skood._torch.distributed import Processes
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
from skood._torch.seeding import (
    Stream,
    isolated_rng,
    numpy_rng,
    released_rng,
    seed_global,
    torch_rng,
)
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
        Fraction to hold out.
    seed : int
    class_indices : ndarray of shape (n_items,), default=None
        If given, the same fraction of every class is held out.
    """
    if class_indices is None:
        class_indices = np.zeros(n_items, int)
    rng = numpy_rng(seed, Stream.VALIDATION_ROWS)
    is_held_out = np.zeros(n_items, bool)
    for k in np.unique(class_indices):
        rows = rng.permutation(np.flatnonzero(class_indices == k))
        is_held_out[rows[: int(fraction * len(rows))]] = True
    return np.flatnonzero(~is_held_out), np.flatnonzero(is_held_out)


def train(
    objective: Objective,
    training: npt.NDArray[np.integer],
    validation: npt.NDArray[np.integer],
    settings: TrainingSettings,
    *,
    seed: int,
    device: torch.device,
    checkpoint: Checkpoint | None = None,
    description: str = "training",
) -> dict[str, list[float]]:
    """Train `objective` in place.

    All randomness of a step is a function of `seed` and the number of the step, so a run that
    was interrupted and resumed ends with the same weights as an uninterrupted run.

    Parameters
    ----------
    objective : Objective
        On `device`. Left in eval mode, with the weights of the epoch with the lowest validation
        loss if there are validation rows and `epochs_compare`, else of the last epoch.
    training, validation : ndarray
        Rows that the objective reads; `validation` may be empty.
    settings : TrainingSettings
    seed : int
        Seed of the saved run, if `checkpoint` holds one.
    device : torch.device
    checkpoint : Checkpoint or None, default=None
        Resumed from, and saved to once a minute and at the end.
    description : str
        Label of the progress bar.

    Returns
    -------
    dict of str to list of float
        A value for each epoch: "loss", which includes the penalty, the mean of each named term of
        the loss, and, with validation rows, "validation_loss" and the mean of each term and
        metric, named "validation_...".

    Raises
    ------
    FloatingPointError
        When the loss or the weights are not finite.
    OSError
        When the checkpoint cannot be written, before the first step.
    RuntimeError
        With ``precision="bf16"`` where this machine computes wrong gradients in bfloat16.
    KeyboardInterrupt
        At a second Ctrl-C within three seconds, which ends the whole fit. The network and its
        checkpoint are as after a single Ctrl-C. Inside `followed_by`, it is raised after this
        function has returned, see :func:`~skood._torch.run.end_fit`.

    Warns
    -----
    UserWarning
        After Ctrl-C, which ends training and keeps the weights; where ``precision="auto"`` falls
        back to float32 because bfloat16 is wrong; where a save of the checkpoint fails.
    """
    raise_if_ended()
    processes = Processes(device)
    optimizer = settings.make_optimizer(objective.parameter_groups())
    run = TrainingRun(objective, optimizer, seed, checkpoint)

    def batches_of(epoch: int) -> Sequence[npt.NDArray[np.integer]]:
        rng = numpy_rng(seed, Stream.EPOCH_ORDER, epoch)
        return objective.epoch_batches(training, settings.batch_size, rng)

    def whole(rows: npt.NDArray[np.integer]) -> tuple[Tensor, ...]:
        """Read the first batch, of which each process has a part."""
        generator = torch_rng(device, seed, Stream.STEP, 0)
        with closing(_batches(objective, [rows], [generator], settings, device)) as batches:
            return next(batches)

    first_batches = batches_of(0)
    processes.check_divisible(objective, first_batches, description)
    state = processes.state_from_first(run.state() if run.step else None)
    if state is not None and processes.rank > 0:
        run.restore(state)
    epoch_steps = len(first_batches)
    n_steps = epoch_steps * settings.max_epochs
    if settings.max_steps is not None:
        n_steps = min(n_steps, settings.max_steps)
    if run.goes_on(n_steps, settings.patience):
        run.check_checkpoint()

    mean_losses = _mean_losses(objective, device)
    compiled = maybe_compile(
        _with_penalty(objective, mean_losses), objective.compiles and settings.compile, n_steps
    )
    step_losses: Callable[..., dict[str, Tensor]] | None = None
    shown_at = monotonic()
    bar = progress_bar(
        total=n_steps,
        initial=run.step,
        description=description,
        unit="step",
        verbose=settings.verbose,
    )
    ends_fit = False
    with (
        isolated_rng(device, seed, Stream.AROUND_STEPS),
        processes.synchronised(objective),
        bar,
        processes.noting_interrupts(),
    ):
        try:
            while run.goes_on(n_steps, settings.patience):
                if run.epoch_is_over(epoch_steps, n_steps):
                    validation_means = _validate(objective, validation, settings, processes)
                    with finishing_step():
                        run.end_epoch(validation_means)
                    bar.set_postfix(run.last_losses())
                    continue
                epoch, done = divmod(run.step, epoch_steps)
                objective.epoch = epoch
                objective.start_epoch(epoch, resumed=run.epoch == epoch)
                for group, now in zip(
                    optimizer.param_groups, objective.parameter_groups(), strict=True
                ):
                    group["lr_scale"] = now.get("lr_scale", 1.0)
                run.epoch = epoch
                objective.train()
                todo = batches_of(epoch)[done : done + n_steps - run.step]
                parts = [processes.part(rows) for rows in todo]
                generators = (
                    torch_rng(device, seed, Stream.STEP, step, *processes.own_stream)
                    for step in range(run.step, run.step + len(todo))
                )
                reading_rng = numpy_rng(seed, Stream.READING, run.step, *processes.own_stream)
                reading_seed = int(reading_rng.integers(2**31 - 1))
                batches = _batches(objective, parts, generators, settings, device, reading_seed)
                with closing(batches):
                    for rows, batch in zip(todo, batches, strict=True):
                        processes.raise_if_interrupted(run.step)
                        with finishing_step():
                            if run.step == 0:
                                objective.start(*(batch if processes.size == 1 else whole(rows)))
                                run.look_ahead(settings.lookahead, n_steps)
                            if run.bf16 is None:
                                run.bf16 = processes.all(
                                    trains_in_bf16(
                                        objective, mean_losses, batch, device, settings.precision
                                    )
                                )
                            step_losses = step_losses or processes.parallel(objective, compiled)
                            seed_global(
                                device, seed, Stream.STEP_LOSS, run.step, *processes.own_stream
                            )
                            settings.set_learning_rate(optimizer, run.step, n_steps)
                            optimizer.zero_grad(set_to_none=True)
                            losses = processes.weighted(step_losses(run.bf16, *batch), rows)
                            losses["loss"].backward()
                            if settings.clip_norm is not None:
                                nn.utils.clip_grad_norm_(objective.parameters(), settings.clip_norm)
                            optimizer.step()
                            objective.after_step()
                            run.advance(processes.means(losses))
                            run.look_ahead(settings.lookahead, n_steps)
                        if monotonic() - shown_at > _SECONDS_BETWEEN_LOSSES:
                            shown_at = monotonic()
                            bar.set_postfix(loss=f"{run.mean_losses()['loss']:.4g}")
                        bar.update()
                        if run.is_due():
                            run.mean_losses()  # Raises if not finite, before the run is saved.
                            run.save()
            bar.total = run.step
            processes.raise_if_interrupted()
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
    """Warn that Ctrl-C ended training, and return whether it ends the whole fit."""
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
    """Return a function of precision and batch that computes the mean loss and its terms."""

    def mean_losses(bf16: bool, *batch: Tensor) -> dict[str, Tensor]:
        with torch.autocast(device.type, torch.bfloat16, enabled=bf16):
            losses = objective.loss(*batch)
            if isinstance(losses, Tensor):
                return {"loss": losses.mean()}
            terms = {name: term.mean() for name, term in losses.items()}
            return {"loss": torch.stack(list(terms.values())).sum(), **terms}

    return mean_losses


def _with_penalty(
    objective: Objective, mean_losses: Callable[..., dict[str, Tensor]]
) -> Callable[..., dict[str, Tensor]]:
    """Return a function like `mean_losses` that adds the objective's penalty."""

    def losses(bf16: bool, *batch: Tensor) -> dict[str, Tensor]:
        means = mean_losses(bf16, *batch)
        penalty = objective.penalty()
        if penalty is not None:
            means["loss"] = means["loss"] + penalty
        return means

    return losses


def _batches(
    objective: Objective,
    rows: Sequence[npt.NDArray[np.integer]],
    generators: Iterable[torch.Generator | None],
    settings: TrainingSettings,
    device: torch.device,
    seed: int = 0,
) -> Generator[tuple[Tensor, ...], None, None]:
    """Read and prepare batches, prefetched if reading is slow or the device is a GPU."""
    slow = objective.reads_slowly

    def prepared(items: Any, generator: torch.Generator | None) -> tuple[Tensor, ...]:
        with torch.no_grad():
            return objective.prepare(items, generator)

    read = read_batches(
        objective.read, rows, device=device, slow=slow, n_workers=settings.n_workers, seed=seed
    )
    batches = map(prepared, read, generators)
    prefetched = read_ahead(batches) if slow or device.type != "cpu" else (b for b in batches)
    with closing(prefetched):
        while True:
            with released_rng(device):
                batch = next(prefetched, None)
            if batch is None:
                return
            yield batch


def _validate(
    objective: Objective,
    rows: npt.NDArray[np.integer],
    settings: TrainingSettings,
    processes: Processes,
) -> dict[str, float]:
    """Mean loss, terms and metrics over `rows` in float32; empty if there are no rows."""
    if len(rows) == 0:
        return {}
    objective.eval()
    size = settings.batch_size
    parts = [rows[start : start + size] for start in range(0, len(rows), size)]
    own = parts[processes.rank :: processes.size]
    batches = _batches(objective, own, [None] * len(own), settings, processes.device)
    results: list[tuple[dict[str, Tensor], dict[str, Tensor]]] = []
    with torch.no_grad(), closing(batches):
        for batch in batches:
            losses = objective.loss(*batch)
            terms = {"": losses} if isinstance(losses, Tensor) else losses
            results.append(
                (
                    {name: term.double().flatten() for name, term in terms.items()},
                    {name: metric.double() for name, metric in objective.metrics(*batch).items()},
                )
            )
    results = processes.interleave(results)
    term_means, metric_means = (
        {
            name: float(torch.cat([part[name] for part in of_batches if name in part]).mean())
            for name in dict.fromkeys(name for part in of_batches for name in part)
        }
        for of_batches in zip(*results, strict=True)
    )
    means = {"loss": sum(term_means.values()), **term_means, **metric_means}
    return {f"validation_{name}": mean for name, mean in means.items() if name}
