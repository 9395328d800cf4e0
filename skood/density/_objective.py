"""Training objective of a density."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn

from skood._checked_data import CheckedData
from skood._torch.objective import Objective

if TYPE_CHECKING:
    from skood.density._base import NeuralDensity

__all__ = ["DensityObjective", "sum_over_item"]


class DensityObjective(Objective):
    """Negative log-likelihood of a density, in nats, of mutated items and with a penalty.

    Parameters
    ----------
    network : Module
    density : NeuralDensity
    data : CheckedData
        As preprocessed by the density.
    class_indices : ndarray of shape (n,) or None
        What the density is conditioned on.
    device : torch.device
    """

    def __init__(
        self,
        network: nn.Module,
        density: NeuralDensity,
        data: CheckedData,
        class_indices: npt.NDArray[np.integer] | None,
        device: torch.device,
    ) -> None:
        super().__init__()
        self.network = network
        self.density = density
        self.data = data
        self.class_indices = class_indices
        self.device = device
        self.reads_slowly = not data.in_memory
        # A tensor, since a compiled step would be recompiled for every Python number.
        weight = torch.tensor(float(density.reg_weight), device=device)
        self.register_buffer("reg_weight", weight, persistent=False)

    def read(self, rows: npt.NDArray[np.integer]) -> tuple[npt.NDArray, ...]:
        items = self.data.take(rows)
        return (items,) if self.class_indices is None else (items, self.class_indices[rows])

    def prepare(
        self, items: tuple[npt.NDArray, ...], generator: torch.Generator | None
    ) -> tuple[Tensor, ...]:
        x = self.density._tensor(items[0], self.device)
        if generator is not None and self.density.mutation_rate > 0:
            x = self.density._mutate(x, self.data, generator)
        return x, *(torch.from_numpy(indices).to(self.device) for indices in items[1:])

    def start(self, *batch: Tensor) -> None:
        self.density._initialize(self.network, *batch)

    def after_step(self) -> None:
        self.density._after_step(self.network)

    def loss(self, *batch: Tensor) -> Tensor:
        x, class_indices = batch if len(batch) > 1 else (*batch, None)
        return -sum_over_item(self.density._log_prob(self.network, x, class_indices))

    def penalty(self) -> Tensor | None:
        if self.density.reg_weight == 0:
            return None
        return self.reg_weight * sum(kernel.square().sum() for kernel in _kernels(self.network))


def sum_over_item(log_prob: Tensor) -> Tensor:
    """Sum over all axes but the first."""
    return log_prob.reshape(len(log_prob), -1).sum(1)


def _kernels(module: nn.Module) -> list[Tensor]:
    """Kernels of layers that learn, convolutions and linear ones, as the forward pass uses them."""
    kernels = []
    for layer in module.modules():
        if not any(parameter.requires_grad for parameter in layer.parameters(recurse=False)):
            continue
        if hasattr(layer, "kernel"):
            kernels.append(layer.kernel())
        elif isinstance(layer, (nn.Conv2d, nn.ConvTranspose2d, nn.Linear)):
            mask = getattr(layer, "mask", None)
            kernels.append(layer.weight if mask is None else layer.weight * mask)
    return kernels
