"""Time of VMDLS's triplet loss, compared with a loss over every triplet, and of a training step.

    python benchmarks/speed_vmdls.py

Forward and backward pass of ``triplet_margin_loss`` for batches of several sizes, compared with the
same loss over the cube of all triplets; and a training step of VMDLS, compared with a step of the
same network with cross-entropy. Both sides are timed in turn, in one process.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable
from datetime import date
from pathlib import Path
from time import perf_counter

import numpy as np
import torch
import torch.nn.functional as F
from _machine import machine
from _timing import summary
from torch import Tensor

from skood import VMDLS, ConvNet
from skood.training_time._metric_losses import triplet_margin_loss

# Numbers of classes and of rows per class in the published settings.
BATCHES = {"10 x 8": (10, 8), "10 x 16": (10, 16), "20 x 20": (20, 20)}
N_LATENT, MARGIN = 32, 8.0


def cube(z: Tensor, labels: Tensor, margin: float) -> Tensor:
    """Compute the published formula, over every triplet."""
    d = torch.cdist(z, z, compute_mode="donot_use_mm_for_euclid_dist")
    same = labels[:, None] == labels
    positive = same & ~torch.eye(len(z), dtype=torch.bool, device=z.device)
    valid = positive[:, :, None] & ~same[:, None, :]
    terms = F.relu(d[:, :, None] - d[:, None, :] + 0.1) + F.relu(margin - d)[:, None, :]
    terms = torch.where(valid, terms, 0.0)
    return terms.sum() / (terms > 0).sum().clamp(min=1)


def seconds(function: Callable[[], object], repeats: int) -> float:
    start = perf_counter()
    for _ in range(repeats):
        function()
    if torch.cuda.is_available():
        torch.cuda.synchronize()
    return (perf_counter() - start) / repeats


def of_loss(n_classes: int, n_samples: int, rounds: int) -> dict:
    device = "cuda" if torch.cuda.is_available() else "cpu"
    generator = torch.Generator().manual_seed(0)
    labels = torch.arange(n_classes).repeat_interleave(n_samples).to(device)
    z = 4 * torch.randn(len(labels), N_LATENT, generator=generator).to(device)
    z.requires_grad_()
    losses = {"sorted": triplet_margin_loss, "cube": cube}

    def gradient(loss: Callable) -> Tensor:
        return torch.autograd.grad(loss(z, labels, MARGIN), z)[0]

    # The timing is meaningful only if both losses are the same function.
    torch.testing.assert_close(gradient(triplet_margin_loss), gradient(cube), rtol=1e-3, atol=1e-5)
    measured = []
    for _ in range(rounds):
        taken = {k: 1e3 * seconds(lambda f=f: gradient(f), 10) for k, f in losses.items()}
        measured.append(taken | {"ratio": taken["cube"] / taken["sorted"]})
    n_triplets = len(labels) * (n_samples - 1) * (len(labels) - n_samples)
    return {"triplets": n_triplets, "milliseconds": summary(measured)}


def of_step(rounds: int, n_steps: int) -> dict:
    """Return the milliseconds of a step on 80 images of 28 x 28, for VMDLS and cross-entropy."""
    rng = np.random.default_rng(0)
    X, y = rng.integers(256, size=(4000, 28, 28), dtype=np.uint8), np.arange(4000) % 10
    settings = {"batch_size": 80, "compile": False, "verbose": 0, "random_state": 0}

    def backbone(steps: int) -> ConvNet:
        return ConvNet(max_steps=steps, **settings)

    def vmdls(steps: int) -> VMDLS:
        return TrainingOnly(backbone(steps), random_state=0, verbose=0)

    def step(make: Callable) -> float:
        # The difference of two runs excludes the time before the first step.
        few, many = (seconds(lambda n=n: make(n).fit(X, y), 1) for n in (2, 2 + n_steps))
        return 1e3 * (many - few) / n_steps

    measured = []
    for _ in range(rounds):
        taken = {"VMDLS": step(vmdls), "cross-entropy": step(backbone)}
        measured.append(taken | {"ratio": taken["VMDLS"] / taken["cross-entropy"]})
    return {"milliseconds": summary(measured)}


class TrainingOnly(VMDLS):
    """VMDLS without the passes that follow training."""

    def _learn_scores(self, *args: object) -> None:
        pass

    def _score_samples(self, data: object) -> np.ndarray:
        return np.zeros(len(data))


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--steps", type=int, default=30)
    parser.add_argument("--out", type=Path, default=Path(__file__).parent / "results")
    args = parser.parse_args()
    result = {
        "loss": {name: of_loss(*size, args.rounds) for name, size in BATCHES.items()},
        "step": of_step(args.rounds, args.steps),
        "machine": machine(),
        "date": date.today().isoformat(),
    }
    print(json.dumps(result, indent=1))
    device = "cuda" if torch.cuda.is_available() else "cpu"
    (args.out / f"speed_vmdls-{device}.json").write_text(json.dumps(result, indent=1) + "\n")


if __name__ == "__main__":
    main()
