"""Errors and speed of training in bfloat16 on this machine, relative to float32.

    python benchmarks/precision.py --out FILE.json           # errors, on a GPU where there is one
    python benchmarks/precision.py --speed --out FILE.json   # speed, on the CPU

Errors: ``precision="auto"`` trains in bfloat16 only where the gradient of every layer agrees with
the one in float32. For untrained networks of this package on noise, the script prints the largest
error of a layer relative to the norm of its gradient, and the fraction of its gradient that a layer
keeps (1: all of it).

Speed: uncompiled training steps of `PixelCNN` (the network of Ren et al. 2019) and `ConvNet` in
both precisions, which take turns in every round. Seconds are processor time on one thread, which
other programs on the machine hardly change. The first step, before which the precisions are
compared, is not counted. `ratio` is the time in float32 divided by the time in bfloat16.
"""

from __future__ import annotations

import argparse
import json
from datetime import date
from pathlib import Path
from time import process_time
from unittest import mock

import numpy as np
import torch
from _machine import machine
from _timing import summary

from skood import (
    MLP,
    VAE,
    VGG,
    ConvNet,
    DenseNet,
    NeuralSplineFlow,
    PixelCNN,
    ResNet,
    ShallowConvNet,
    WideResNet,
)
from skood._torch import precision
from skood._torch.run import TrainingRun

GREY, COLOUR, ROWS = (28, 28), (32, 32, 3), (20,)
NETWORKS = {
    "PixelCNN, 5 blocks": (PixelCNN(n_resnet=5, dropout=0.1), GREY),
    "PixelCNN, 3 hierarchies": (PixelCNN(n_filters=16, n_resnet=1, n_hierarchies=3), COLOUR),
    "PixelCNN, weight norm": (PixelCNN(n_filters=16, n_resnet=2, weight_norm=True), COLOUR),
    "PixelCNN, 10 components": (PixelCNN(n_filters=16, n_resnet=2, n_components=10), COLOUR),
    "VAE, bernoulli": (VAE(likelihood="bernoulli"), GREY),
    "VAE, logistic": (VAE(), COLOUR),
    "VAE, rows": (VAE(4), ROWS),
    "NeuralSplineFlow": (NeuralSplineFlow(precision="auto"), ROWS),
    "MLP": (MLP(), ROWS),
    "ConvNet": (ConvNet(), COLOUR),
    "ShallowConvNet": (ShallowConvNet(), GREY),
    "ResNet-18": (ResNet(18), COLOUR),
    "DenseNet-40": (DenseNet(40, growth_rate=12), COLOUR),
    "WideResNet-16-2": (WideResNet(16, 2), COLOUR),
    "VGG": (VGG(), COLOUR),
}
NARROW = {
    f"VAE, {height} x {width}": (VAE(2, n_filters=(4, 8)), (height, width))
    for height, width in [(1, 7), (7, 1), (1, 1), (2, 9)]
}

TIMED = {
    "PixelCNN": (PixelCNN(n_resnet=5, validation_fraction=0.0), GREY),
    "ConvNet": (ConvNet(), COLOUR),
}


def errors_of(estimator, item_shape: tuple[int, ...], seed: int) -> dict[str, float | str]:
    """Train for one step, and record its comparison of bfloat16 with float32."""
    rng = np.random.default_rng(seed)
    X = (
        rng.normal(size=(64, *item_shape))
        if len(item_shape) == 1
        else rng.random((64, *item_shape))
    )
    found: dict = {}

    def noted(objective, losses, batch, device, compare=precision.compare_with_fp32):
        found["loss"], found["exact"], found["layers"] = compare(objective, losses, batch, device)
        return found["loss"], found["exact"], found["layers"]

    original, precision.compare_with_fp32 = precision.compare_with_fp32, noted
    precision._known_faults.clear()
    try:
        fit = estimator.set_params(precision="bf16", max_steps=1, batch_size=32, random_state=seed)
        fit.fit(X, np.arange(64) % 4)
        verdict = "right"
    except RuntimeError as error:
        verdict = str(error)
    finally:
        precision.compare_with_fp32 = original
    layers = found["layers"].values()
    return {
        "loss error": abs(found["loss"] - found["exact"]) / max(abs(found["exact"]), 1.0),
        "largest error": max(layer.error / max(layer.norm, 1e-30) for layer in layers),
        "kept, least": min(layer.kept for layer in layers),
        "kept, most": max(layer.kept for layer in layers),
        "verdict": verdict,
    }


def seconds_per_step(
    estimator, item_shape: tuple[int, ...], args: argparse.Namespace, kind: str
) -> float:
    """Median processor time of a training step."""
    rng = np.random.default_rng(args.seed)
    X = rng.integers(0, 256, (4 * args.batch_size, *item_shape), np.uint8)
    ticks: list[float] = []
    advance = TrainingRun.advance

    def noted(run, losses) -> None:
        advance(run, losses)
        ticks.append(process_time())

    settings = {"precision": kind, "compile": False, "device": "cpu", "random_state": args.seed}
    settings |= {"batch_size": args.batch_size, "max_steps": args.steps + 1}
    with mock.patch.object(TrainingRun, "advance", noted):
        estimator.set_params(**settings).fit(X, np.arange(len(X)) % 10)
    return float(np.median(np.diff(ticks)))


def measure_speed(args: argparse.Namespace) -> dict:
    torch.set_num_threads(1)
    measured: dict[str, list[dict[str, float]]] = {name: [] for name in TIMED}
    for _ in range(args.rounds):
        for name, (estimator, item_shape) in TIMED.items():
            fp32, bf16 = (
                seconds_per_step(estimator, item_shape, args, kind) for kind in ("fp32", "bf16")
            )
            measured[name].append({"fp32": fp32, "bf16": bf16, "ratio": fp32 / bf16})
            print(f"{name:12}" + "  ".join(f"{k} {v:.3g}" for k, v in measured[name][-1].items()))
    return {name: summary(rounds) for name, rounds in measured.items()}


def measure_errors(args: argparse.Namespace) -> dict:
    columns = ["loss error", "largest error", "kept, least", "kept, most"]
    print(f"{'network':26}" + "".join(f"{column:>15}" for column in columns) + "  verdict")
    networks = {}
    for name, (estimator, item_shape) in {**NETWORKS, **NARROW}.items():
        networks[name] = [errors_of(estimator, item_shape, seed) for seed in range(args.seeds)]
        for run in networks[name]:
            cells = "".join(f"{run[column]:15.2e}" for column in columns)
            print(f"{name:26}{cells}  {run['verdict'][:60]}", flush=True)
    return networks


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seeds", type=int, default=3, help="seeds of the errors")
    parser.add_argument("--speed", action="store_true", help="measure speed, not errors")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--steps", type=int, default=3, help="training steps timed in a round")
    parser.add_argument("--batch-size", type=int, default=32)
    parser.add_argument("--seed", type=int, default=0, help="seed of the timed trainings")
    parser.add_argument("--out", type=Path, help="JSON file to write")
    args = parser.parse_args()
    report = {"date": date.today().isoformat()}
    if args.speed:
        networks = measure_speed(args)
        settings = {k: getattr(args, k) for k in ("rounds", "steps", "batch_size", "seed")}
        report |= {"machine": machine(), "device": "cpu", "settings": settings}
    else:
        networks = measure_errors(args)
        device = "cuda" if torch.cuda.is_available() else "cpu"
        report |= {"machine": machine(), "device": device, "seeds": args.seeds}
    if args.out:
        args.out.write_text(json.dumps({**report, "networks": networks}, indent=1) + "\n")


if __name__ == "__main__":
    main()
