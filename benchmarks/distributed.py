"""Training in the processes of a torch process group, compared with training in one process.

    python benchmarks/distributed.py --processes 2 --out FILE.json    # a minute

Every family trains on scikit-learn's digits, in this process and in processes that torchrun starts
on this machine (Gloo on CPUs, NCCL on GPUs), with the same batches. `loss` is the largest relative
difference between the losses of an epoch, for training and held-out rows, and `weights` the largest
difference between weights. Losses with random numbers (dequantisation, draws of latents, times)
have other numbers in each process, so that they agree in the mean alone. `identical`: whether all
processes have the same bits. The script measures agreement; speed depends on network and machines.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
from collections.abc import Callable
from datetime import date
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import torch
import torch.distributed as dist
from _machine import machine
from sklearn.datasets import load_digits

from skood import MLP, DeepSVDD, LogitNorm
from skood.density import VAE, Autoencoder, Diffusion, NeuralSplineFlow, PixelCNN

X, Y = load_digits(return_X_y=True)
IMAGES = X.reshape(-1, 8, 8)
SEED: dict[str, Any] = {"random_state": 0, "precision": "fp32", "verbose": 0}
CLASSIFIER = MLP((64,), max_epochs=10, validation_fraction=0.1, **SEED)
FAMILIES: dict[str, Callable[[], Any]] = {
    "MLP": lambda: CLASSIFIER.fit(X, Y),
    "LogitNorm": lambda: LogitNorm(CLASSIFIER, random_state=0).fit(X, Y).classifier_,
    "DeepSVDD": lambda: DeepSVDD(CLASSIFIER, random_state=0).fit(X).backbone_,
    "Autoencoder": lambda: Autoencoder(8, value_range=(0, 16), max_epochs=5, **SEED).fit(IMAGES),
    "PixelCNN": lambda: PixelCNN(
        n_filters=16, n_resnet=1, batch_size=64, value_range=(0, 16), max_epochs=2, **SEED
    ).fit(IMAGES),
    "NeuralSplineFlow": lambda: NeuralSplineFlow(max_epochs=5, **SEED).fit(X[:, 18:22]),
    "VAE, random": lambda: VAE(8, max_epochs=10, **SEED).fit(X),
    "Diffusion, random": lambda: Diffusion(max_epochs=10, **SEED).fit(X),
}


def fits() -> dict[str, tuple[dict, dict]]:
    """Return histories and weights of all families."""
    torch.set_num_threads(1)
    results = {}
    for name, fit in FAMILIES.items():
        model = fit()
        weights = {k: w.cpu().double().numpy() for k, w in model.module_.state_dict().items()}
        results[name] = model.history_, weights
    return results


def largest_difference(one: dict, other: dict, *, relative: bool) -> float:
    return max(
        float(np.max(np.abs(np.subtract(one[k], other[k])) / (np.abs(one[k]) if relative else 1)))
        for k in one
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--processes", type=int, default=2)
    parser.add_argument("--out", type=Path)
    parser.add_argument("--folder", type=Path, help="where the processes write their results")
    args = parser.parse_args()
    if "TORCHELASTIC_RUN_ID" in os.environ:
        dist.init_process_group()
        torch.save(fits(), args.folder / f"{dist.get_rank()}.pt")
        dist.destroy_process_group()
        return
    alone = fits()
    with TemporaryDirectory() as folder:
        launcher = [sys.executable, "-m", "torch.distributed.run", "--standalone"]
        launcher.append(f"--nproc-per-node={args.processes}")
        subprocess.run([*launcher, __file__, "--folder", folder], check=True)
        ranks = [
            torch.load(Path(folder) / f"{rank}.pt", weights_only=False)
            for rank in range(args.processes)
        ]
    measured = {}
    for name, (history, weights) in alone.items():
        shared = [rank[name] for rank in ranks]
        measured[name] = {
            "loss": largest_difference(history, shared[0][0], relative=True),
            "weights": largest_difference(weights, shared[0][1], relative=False),
            "identical": all(
                rank[0] == shared[0][0]
                and largest_difference(rank[1], shared[0][1], relative=False) == 0
                for rank in shared
            ),
        }
        print(f"{name:18}" + "  ".join(f"{k} {v:.3g}" for k, v in measured[name].items()))
    if args.out:
        found = {"machine": machine(), "date": date.today().isoformat(), "measured": measured}
        args.out.write_text(json.dumps({"processes": args.processes, **found}, indent=2) + "\n")


if __name__ == "__main__":
    main()
