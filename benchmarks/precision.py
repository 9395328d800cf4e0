"""How far bfloat16 is from float32 on this machine, network by network.

``precision="auto"`` trains in bfloat16 only where the gradient of every layer agrees with that in
float32. This prints, for untrained networks of this package on noise, the largest error of a layer
relative to its gradient, and which part of their gradients the layers keep (1: all of it):

    python benchmarks/precision.py                  # on a GPU where there is one
    python benchmarks/precision.py --out FILE.json
"""

from __future__ import annotations

import argparse
import json
from datetime import date
from pathlib import Path

import numpy as np
import torch
from _machine import machine

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


def errors_of(estimator, item_shape: tuple[int, ...], seed: int) -> dict[str, float | str]:
    """Train for one step, and note what the comparison in it found."""
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


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--out", type=Path, help="JSON file to write")
    args = parser.parse_args()
    report = {
        "date": date.today().isoformat(),
        "machine": machine(),
        "device": "cuda" if torch.cuda.is_available() else "cpu",
        "seeds": args.seeds,
        "networks": {},
    }
    columns = ["loss error", "largest error", "kept, least", "kept, most"]
    print(f"{'network':26}" + "".join(f"{column:>15}" for column in columns) + "  verdict")
    for name, (estimator, item_shape) in {**NETWORKS, **NARROW}.items():
        runs = [errors_of(estimator, item_shape, seed) for seed in range(args.seeds)]
        report["networks"][name] = runs
        for run in runs:
            cells = "".join(f"{run[column]:15.2e}" for column in columns)
            print(f"{name:26}{cells}  {run['verdict'][:60]}", flush=True)
    if args.out:
        args.out.write_text(json.dumps(report, indent=1) + "\n")


if __name__ == "__main__":
    main()
