"""Settings of a training run."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, fields
from functools import partial
from typing import Any

import torch

__all__ = ["TrainingSettings"]


@dataclass(frozen=True)
class TrainingSettings:
    """Settings of training, named like the parameters of estimators."""

    max_epochs: int
    max_steps: int | None
    batch_size: int
    learning_rate: float
    lr_schedule: str
    clip_norm: float | None
    patience: int | None
    precision: str
    compile: bool | str
    verbose: bool | int | str = "auto"
    n_workers: int | None = None
    optimizer: str = "adam"
    betas: tuple[float, float] = (0.9, 0.999)
    lr_decay: float = 1.0
    momentum: float = 0.0
    weight_decay: float = 0.0

    @classmethod
    def of(cls, estimator: Any) -> TrainingSettings:
        """Read the settings from the estimator's parameters of the same names."""
        names = {field.name for field in fields(cls)} & set(estimator.get_params(deep=False))
        return cls(**{name: getattr(estimator, name) for name in names})

    def make_optimizer(self, groups: list[dict[str, Any]]) -> torch.optim.Optimizer:
        """Make the optimizer of groups of parameters; SGD uses Nesterov momentum."""
        of_kind: dict[str, Callable[..., torch.optim.Optimizer]] = {
            "adam": partial(torch.optim.Adam, betas=self.betas, fused=True),
            "rmsprop": partial(torch.optim.RMSprop, alpha=0.9, eps=1e-7),
            "adadelta": partial(torch.optim.Adadelta, rho=0.95, eps=1e-7),
            "sgd": partial(
                torch.optim.SGD, momentum=self.momentum, nesterov=self.momentum > 0, fused=True
            ),
        }
        make = of_kind[self.optimizer]
        groups = [dict(group) for group in groups]  # torch modifies them.
        return make(groups, lr=self.learning_rate, weight_decay=self.weight_decay)

    def set_learning_rate(self, optimizer: torch.optim.Optimizer, step: int, n_steps: int) -> None:
        """Set the learning rates of all groups of parameters at `step`."""
        rate = self.learning_rate * self.lr_factor(step, n_steps)
        for group in optimizer.param_groups:
            group["lr"] = rate * group.get("lr_scale", 1.0)

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
