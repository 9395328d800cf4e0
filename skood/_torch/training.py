"""The training loop: knows how to train a network, not what it learns."""

from __future__ import annotations

import math
import os
import shutil
import warnings
from collections.abc import Callable, Mapping
from dataclasses import dataclass, fields
from functools import cache, partial
from pathlib import Path
from time import monotonic
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn
from tqdm import tqdm

from skood._torch.device import trains_in_bf16
from skood._torch.seeding import isolated_rng, numpy_rng, seed_global, torch_rng

__all__ = ["TrainingSettings", "train"]

# Streams of randomness that one seed is split into.
_SPLIT, _ORDER, _STEP = range(3)
_SECONDS_BETWEEN_CHECKPOINTS = 60.0
_STEPS_THAT_PAY_FOR_COMPILING = 2000


@dataclass(frozen=True)
class TrainingSettings:
    """How to train; estimators expose these as parameters of the same names."""

    max_epochs: int
    max_steps: int | None
    batch_size: int
    learning_rate: float
    lr_schedule: str
    clip_norm: float | None
    validation_fraction: float
    patience: int | None
    precision: str
    compile: bool | str
    verbose: int
    optimizer: str = "adam"
    betas: tuple[float, float] = (0.9, 0.999)
    lr_decay: float = 1.0
    momentum: float = 0.0
    weight_decay: float = 0.0

    @classmethod
    def of(cls, estimator: Any) -> TrainingSettings:
        """Read the settings from those of an estimator's parameters that have their names."""
        names = {field.name for field in fields(cls)} & set(estimator.get_params(deep=False))
        return cls(**{name: getattr(estimator, name) for name in names})

    def make_optimizer(self, module: nn.Module) -> torch.optim.Optimizer:
        """Make the optimizer of the parameters of `module`; SGD has Nesterov's momentum."""
        of_kind: dict[str, Callable[..., torch.optim.Optimizer]] = {
            "adam": partial(torch.optim.Adam, betas=self.betas, fused=True),
            "rmsprop": partial(torch.optim.RMSprop, alpha=0.9, eps=1e-7),
            "adadelta": partial(torch.optim.Adadelta, rho=0.95, eps=1e-7),
            "sgd": partial(torch.optim.SGD, momentum=self.momentum, nesterov=self.momentum > 0),
        }
        make = of_kind[self.optimizer]
        return make(module.parameters(), lr=self.learning_rate, weight_decay=self.weight_decay)

    def lr_factor(self, step: int, n_steps: int) -> float:
        """Return the learning rate at `step` as a fraction of `learning_rate`."""
        if self.lr_schedule == "constant":
            return 1.0
        if self.lr_schedule == "exponential":
            return self.lr_decay**step
        if self.lr_schedule == "step":
            return 0.1 ** ((2 * step >= n_steps) + (4 * step >= 3 * n_steps))
        warmup = max(1, min(200, n_steps // 20))
        if step < warmup:
            return (step + 1) / warmup
        progress = (step - warmup) / max(1, n_steps - warmup)
        return 0.01 + 0.99 * 0.5 * (1 + math.cos(math.pi * progress))


def train(
    module: nn.Module,
    loss: Callable[..., Tensor],
    fetch: Callable[[npt.NDArray[np.integer], torch.Generator | None], tuple[Tensor, ...]],
    n_samples: int,
    settings: TrainingSettings,
    *,
    seed: int,
    device: torch.device,
    penalty: Callable[[], Tensor] | None = None,
    initialize: Callable[..., None] | None = None,
    start_epoch: Callable[[int], None] | None = None,
    measures: Mapping[str, Callable[..., Tensor]] | None = None,
    held_out: int = 0,
    checkpoint: str | os.PathLike | None = None,
    description: str = "training",
) -> dict[str, list[float]]:
    """Train `module` in place.

    All randomness of a step is a function of `seed` and the number of the step, so a run that
    was interrupted and resumed ends with the same weights as one that was not.

    Parameters
    ----------
    module : Module
        On `device`. Left in eval mode with the weights of the last epoch, or, where there is
        a validation part, of the epoch with the lowest validation loss.
    loss : callable
        Takes the tensors of a batch, returns the loss of each row, shape (b,).
    fetch : callable
        Takes row numbers and a generator on `device`, returns the tensors of that batch.
        The generator is None for validation rows, which are not to be augmented.
    n_samples : int
    settings : TrainingSettings
    seed : int
    device : torch.device
    penalty : callable or None
        Added once a step to the mean loss of the batch.
    initialize : callable or None
        Takes the tensors of the first batch, before the first step.
    start_epoch : callable or None
        Takes the number of an epoch, before its first step, and where training is resumed in it.
    measures : mapping of str to callable, or None
        What else to note of the validation part. Each takes the tensors of a batch and returns
        values, of as many rows as it concerns.
    held_out : int
        The last rows that are for validation, and no part of the random validation fraction.
    checkpoint : path or None
        File to resume from, with its seed, and to save to, once a minute and at the end.
    description : str
        What the progress bar says.

    Returns
    -------
    dict of str to list of float
        A value for each epoch: "loss", which includes the penalty, and, with a validation part,
        "validation_loss" and a mean for each of `measures`, its name after "validation_".

    Raises
    ------
    FloatingPointError
        When the loss is no longer finite.

    Warns
    -----
    UserWarning
        After Ctrl-C, which ends training and keeps what was learned.
    """
    optimizer = settings.make_optimizer(module)
    run = _Run(module, optimizer, seed, Path(checkpoint) if checkpoint else None)
    run.resume(device)
    seed = run.seed

    order = numpy_rng(seed, _SPLIT).permutation(n_samples - held_out)
    n_validation = int(settings.validation_fraction * len(order))
    validation, training = np.sort(order[:n_validation]), np.sort(order[n_validation:])
    validation = np.append(validation, np.arange(n_samples - held_out, n_samples))
    batch_size = min(settings.batch_size, len(training))
    epoch_steps = len(training) // batch_size
    n_steps = epoch_steps * settings.max_epochs
    if settings.max_steps is not None:
        n_steps = min(n_steps, settings.max_steps)

    bf16 = trains_in_bf16(device, settings.precision)

    def step_loss(*batch: Tensor) -> Tensor:
        with torch.autocast(device.type, torch.bfloat16, enabled=bf16):
            mean = loss(*batch).mean()
        return mean if penalty is None else mean + penalty()

    validated = {"validation_loss": loss}
    validated |= {f"validation_{name}": measure for name, measure in (measures or {}).items()}
    compiled = _maybe_compile(step_loss, settings, n_steps - run.step)
    bar = tqdm(
        total=n_steps,
        initial=run.step,
        desc=description,
        unit="step",
        disable=not settings.verbose,
    )
    with isolated_rng(device, seed), bar:
        try:
            epoch = -1
            while run.goes_on(n_steps, settings.patience):
                if run.epoch_is_over(epoch_steps, n_steps):
                    run.end_epoch(_evaluate(module, validated, fetch, validation, batch_size))
                    bar.set_postfix({name: f"{v[-1]:.4g}" for name, v in run.history.items()})
                    continue
                if epoch != run.step // epoch_steps:
                    epoch = run.step // epoch_steps
                    rows = numpy_rng(seed, _ORDER, epoch).permutation(training)
                    if start_epoch is not None:
                        start_epoch(epoch)
                    module.train()
                generator = torch_rng(device, seed, _STEP, run.step)
                seed_global(device, generator.initial_seed())
                start = run.step % epoch_steps * batch_size
                batch = fetch(rows[start : start + batch_size], generator)
                if run.step == 0 and initialize is not None:
                    initialize(*batch)
                optimizer.param_groups[0]["lr"] = settings.learning_rate * settings.lr_factor(
                    run.step, n_steps
                )
                optimizer.zero_grad(set_to_none=True)
                value = compiled(*batch)
                value.backward()
                if settings.clip_norm is not None:
                    nn.utils.clip_grad_norm_(module.parameters(), settings.clip_norm)
                optimizer.step()
                run.advance(value.detach())
                bar.update()
                if run.is_due():
                    bar.set_postfix(loss=f"{run.mean_loss():.4g}")
                    run.save()
        except KeyboardInterrupt:
            warnings.warn(
                f"{description} was interrupted after {run.step} of {n_steps} steps; "
                "the model keeps what it had learned",
                stacklevel=2,
            )
        # The loss of a step is that before its update, so the last update is still to be looked at.
        if not all(torch.isfinite(parameter).all() for parameter in module.parameters()):
            raise FloatingPointError(
                "training ended with weights that are not finite; lower learning_rate or clip_norm"
            )
        run.save()
    run.restore_best()
    module.eval()
    return run.history


class _Run:
    """State of one training run: what a checkpoint must hold."""

    def __init__(
        self, module: nn.Module, optimizer: torch.optim.Optimizer, seed: int, path: Path | None
    ) -> None:
        self.module = module
        self.optimizer = optimizer
        self.seed = seed
        self.path = path
        self.step = 0
        self.history: dict[str, list[float]] = {"loss": []}
        self.best: dict[str, Tensor] | None = None
        self._sum: Tensor | float = 0.0
        self._count = 0
        self._saved_at = monotonic()

    def goes_on(self, n_steps: int, patience: int | None) -> bool:
        losses = self.history.get("validation_loss")
        if patience is not None and losses and len(losses) - 1 - np.argmin(losses) >= patience:
            return False
        return self.step < n_steps or self._count > 0

    def epoch_is_over(self, epoch_steps: int, n_steps: int) -> bool:
        return self._count == epoch_steps or self.step == n_steps

    def advance(self, loss: Tensor) -> None:
        self.step += 1
        self._count += 1
        self._sum = self._sum + loss.double()

    def mean_loss(self) -> float:
        mean = float(self._sum) / self._count
        if not math.isfinite(mean):
            raise FloatingPointError(
                f"the training loss became {mean} before step {self.step}; lower learning_rate "
                "or clip_norm, or check X for extreme values"
            )
        return mean

    def end_epoch(self, validation: dict[str, float]) -> None:
        self.history["loss"].append(self.mean_loss())
        self._sum, self._count = 0.0, 0
        for name, value in validation.items():
            self.history.setdefault(name, []).append(value)
        losses = self.history.get("validation_loss")
        if losses and losses[-1] <= min(losses):
            self.best = {k: v.detach().clone() for k, v in self.module.state_dict().items()}

    def restore_best(self) -> None:
        if self.best is not None:
            self.module.load_state_dict(self.best)

    def is_due(self) -> bool:
        return monotonic() - self._saved_at > _SECONDS_BETWEEN_CHECKPOINTS

    def save(self) -> None:
        self._saved_at = monotonic()
        if self.path is None:
            return
        self.path.parent.mkdir(parents=True, exist_ok=True)
        state = {
            "module": self.module.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "seed": self.seed,
            "step": self.step,
            "history": self.history,
            "best": self.best,
            "sum": float(self._sum),
            "count": self._count,
        }
        partial = self.path.with_suffix(".partial")
        torch.save(state, partial)
        partial.replace(self.path)

    def resume(self, device: torch.device) -> None:
        if self.path is None or not self.path.exists():
            return
        state = torch.load(self.path, map_location=device, weights_only=True)
        self.module.load_state_dict(state["module"])
        self.optimizer.load_state_dict(state["optimizer"])
        # The seed, so that the validation part stays the same where random_state is None.
        self.seed, self.step = state["seed"], state["step"]
        self.history, self.best = state["history"], state["best"]
        self._sum, self._count = state["sum"], state["count"]


def _evaluate(
    module: nn.Module,
    measures: Mapping[str, Callable[..., Tensor]],
    fetch: Callable[[npt.NDArray[np.integer], None], tuple[Tensor, ...]],
    rows: npt.NDArray[np.integer],
    batch_size: int,
) -> dict[str, float]:
    """Mean of each measure over `rows` in float32, nothing where there are no rows."""
    if len(rows) == 0:
        return {}
    module.eval()
    values: dict[str, list[Tensor]] = {name: [] for name in measures}
    with torch.no_grad():
        for start in range(0, len(rows), batch_size):
            batch = fetch(rows[start : start + batch_size], None)
            for name, measure in measures.items():
                values[name].append(measure(*batch).double())
    return {name: float(torch.cat(parts).mean()) for name, parts in values.items()}


def _maybe_compile(
    function: Callable[..., Tensor], settings: TrainingSettings, n_steps: int
) -> Callable[..., Tensor]:
    wanted = settings.compile
    if wanted == "auto":
        has_compiler = torch.cuda.is_available() or any(
            map(shutil.which, ("c++", "g++", "clang++"))
        )
        wanted = has_compiler and n_steps >= _STEPS_THAT_PAY_FOR_COMPILING
    if not wanted:
        return function
    return _CompiledWithFallback(function)


class _CompiledWithFallback:
    """Compiled function that goes on uncompiled where the compiler fails."""

    def __init__(self, function: Callable[..., Tensor]) -> None:
        self.function = function
        # On first use, since torch.compile itself raises on a Python that it does not know.
        self.compile: Callable[[], Callable[..., Tensor]] | None = cache(
            partial(torch.compile, function)
        )

    def __call__(self, *batch: Tensor) -> Tensor:
        if self.compile is not None:
            try:
                return self.compile()(*batch)
            except _compiler_errors() as error:
                warnings.warn(
                    f"torch.compile failed ({type(error).__name__}); training goes on uncompiled. "
                    "Pass compile=False to silence this.",
                    stacklevel=2,
                )
                self.compile = None
        return self.function(*batch)


def _compiler_errors() -> tuple[type[Exception], ...]:
    from torch._dynamo.exc import TorchDynamoException

    return (TorchDynamoException, OSError, RuntimeError)
