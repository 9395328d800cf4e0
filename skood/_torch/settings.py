"""Settings of a training run."""

from __future__ import annotations

import math
import numbers
from bisect import bisect_right
from collections.abc import Callable, Sequence
from dataclasses import dataclass, fields
from functools import partial
from itertools import pairwise
from typing import Any

import torch

__all__ = ["TrainingSettings", "multi_step"]

# (fraction of the training, factor of the learning rate).
_Points = Sequence[tuple[float, float]]


@dataclass(frozen=True)
class TrainingSettings:
    """Settings of training, named like the parameters of estimators."""

    max_epochs: int
    max_steps: int | None
    batch_size: int
    learning_rate: float
    lr_schedule: str | _Points
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
    lookahead: float | None = None

    def __post_init__(self) -> None:
        if not isinstance(self.lr_schedule, str):
            _check_points(self.lr_schedule)

    @classmethod
    def of(cls, estimator: Any) -> TrainingSettings:
        """Read the settings from the estimator's parameters of the same names."""
        names = {field.name for field in fields(cls)} & set(estimator.get_params(deep=False))
        return cls(**{name: getattr(estimator, name) for name in names})

    def make_optimizer(self, groups: list[dict[str, Any]]) -> torch.optim.Optimizer:
        """Make the optimizer of groups of parameters; SGD uses Nesterov momentum."""
        of_kind: dict[str, Callable[..., torch.optim.Optimizer]] = {
            "adam": partial(torch.optim.Adam, betas=self.betas, fused=True),
            "adamw": partial(torch.optim.AdamW, betas=self.betas, fused=True),
            "amsgrad": partial(torch.optim.Adam, betas=self.betas, amsgrad=True, fused=True),
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
        if not isinstance(self.lr_schedule, str):
            return _interpolated(self.lr_schedule, step / n_steps)
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


def multi_step(
    milestones: Sequence[float], max_epochs: int, gamma: float = 0.1
) -> tuple[tuple[float, float], ...]:
    """Make an `lr_schedule` that multiplies the learning rate by a factor at each milestone.

    Parameters
    ----------
    milestones : sequence of float
        Epochs, increasing, between 0 and `max_epochs`.
    max_epochs : int
        Number of epochs of the training.
    gamma : float, default=0.1
        Factor at each milestone.

    Returns
    -------
    tuple of (float, float)
        Points (fraction of the training, factor of the learning rate).

    Raises
    ------
    ValueError
        If the milestones do not increase, or do not lie inside the training.

    Examples
    --------
    >>> from skood import ConvNet
    >>> from skood.classifiers import multi_step
    >>> multi_step([75, 90], max_epochs=100)
    ((0.0, 1.0), (0.75, 1.0), (0.75, 0.1), (0.9, 0.1), (0.9, 0.01), (1.0, 0.01))
    >>> network = ConvNet(max_epochs=100, lr_schedule=multi_step([75, 90], max_epochs=100))
    """
    epochs = [0, *milestones, max_epochs]
    if any(late <= early for early, late in pairwise(epochs)):
        raise ValueError(
            f"milestones={list(milestones)}; expected increasing epochs between 0 and "
            f"max_epochs={max_epochs}"
        )
    points = [(0.0, 1.0)]
    for n_drops, epoch in enumerate(milestones):
        # Rounded, because 0.1 ** 2 is not the nearest number to 0.01.
        before, after = (float(f"{gamma**n:.12g}") for n in (n_drops, n_drops + 1))
        points += [(epoch / max_epochs, before), (epoch / max_epochs, after)]
    return (*points, (1.0, points[-1][1]))


def _check_points(points: _Points) -> None:
    """Raise a ValueError if an `lr_schedule` given as points is not one."""
    expected = (
        "expected points (fraction of the training, factor of the learning rate), for example "
        "((0, 0.2), (0.25, 1), (1, 0)): fractions from 0 to 1 that do not decrease, and factors "
        "of at least 0"
    )
    is_pairs = len(points) >= 2 and all(
        isinstance(point, (tuple, list))
        and len(point) == 2
        and all(isinstance(x, numbers.Real) and math.isfinite(x) for x in point)
        for point in points
    )
    if not is_pairs:
        raise ValueError(f"lr_schedule={points!r}; {expected}")
    fractions = [fraction for fraction, _ in points]
    if (fractions[0], fractions[-1]) != (0, 1) or fractions != sorted(fractions):
        raise ValueError(f"lr_schedule={points!r}; {expected}")
    if min(factor for _, factor in points) < 0:
        raise ValueError(f"lr_schedule={points!r}; {expected}")


def _interpolated(points: _Points, fraction: float) -> float:
    """Interpolate linearly between points; of two points at one fraction, the second counts."""
    right = min(bisect_right([x for x, _ in points], fraction), len(points) - 1)
    (x0, y0), (x1, y1) = points[right - 1], points[right]
    return y1 if x1 == x0 else y0 + (y1 - y0) * (fraction - x0) / (x1 - x0)
