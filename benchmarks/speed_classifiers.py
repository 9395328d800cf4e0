"""Training speed of the classifiers, compared with a bare PyTorch loop over the same network.

    python benchmarks/speed_classifiers.py            # writes results/speed_classifiers.json
    python benchmarks/speed_classifiers.py --quick    # a trial run, which writes nothing

Noise images of 32 x 32 x 3, batches of 128, SGD with Nesterov's momentum, float32. The bare loop
slices its batches from one normalised tensor on the device. skood runs ``fit`` itself, with
reading, checking and normalising; it is also timed with its default crops and flips. A step is
timed from the end of the previous step. `start_seconds` contains the first steps with compilation,
which the rate excludes. Every round runs all variants in turn; `ratio` is the rate relative to the
bare loop in the same round.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable
from datetime import date
from pathlib import Path
from time import perf_counter
from unittest import mock

import numpy as np
import torch
import torch.nn.functional as F
from _machine import machine
from _timing import summary

from skood import ConvNet, WideResNet
from skood.classifiers._objective import ClassifierObjective

RESULTS = Path(__file__).parent / "results" / "speed_classifiers.json"
BATCH_SIZE, N_WARM_UP = 128, 3
NETWORKS: dict[str, tuple[type, tuple]] = {
    "ConvNet()": (ConvNet, ()),
    "WideResNet(16, 2)": (WideResNet, (16, 2)),
}


class Clock:
    """Records the end of each training step."""

    def __init__(self, n_timed: int) -> None:
        self.n_steps = N_WARM_UP + n_timed + 1
        self.ticks: list[float] = []
        self.created = perf_counter()

    def __call__(self) -> None:
        if torch.cuda.is_available():
            torch.cuda.synchronize()
        self.ticks.append(perf_counter())

    def results(self) -> dict[str, float]:
        step = float(np.median(np.diff(self.ticks)[N_WARM_UP:]))
        return {
            "images_per_second": BATCH_SIZE / step,
            "start_seconds": self.ticks[N_WARM_UP] - self.created,
        }


def train_skood(
    network: str, X: np.ndarray, y: np.ndarray, clock: Clock, seed: int, **params
) -> None:
    torch.compiler.reset()  # Every fit compiles anew, as it would in a process of its own.
    architecture, arguments = NETWORKS[network]
    settings = {"max_steps": clock.n_steps, "batch_size": BATCH_SIZE, "precision": "fp32"}
    with mock.patch.object(ClassifierObjective, "after_step", lambda objective: clock()):
        architecture(*arguments, **settings, random_state=seed, **params).fit(X, y)


def train_bare(
    network: str, X: np.ndarray, y: np.ndarray, clock: Clock, seed: int, channels_last: bool
) -> None:
    torch.manual_seed(seed)
    device = "cuda" if torch.cuda.is_available() else "cpu"
    architecture, arguments = NETWORKS[network]
    module = architecture(*arguments)._build((3, 32, 32), int(y.max()) + 1).to(device)
    images = torch.from_numpy(X).permute(0, 3, 1, 2).float().div(127.5).sub(1).to(device)
    labels = torch.from_numpy(y).to(device)
    layout = torch.channels_last if channels_last else torch.contiguous_format
    module, images = module.to(memory_format=layout), images.contiguous(memory_format=layout)
    optimizer = torch.optim.SGD(
        module.parameters(), lr=0.1, momentum=0.9, nesterov=True, weight_decay=5e-4
    )
    order = torch.randperm(len(images), device=device)
    module.train()
    for step in range(clock.n_steps):
        rows = order[step * BATCH_SIZE % (len(X) - BATCH_SIZE) :][:BATCH_SIZE]
        optimizer.zero_grad()
        F.cross_entropy(module(images[rows]), labels[rows]).backward()
        optimizer.step()
        clock()


VARIANTS: dict[str, tuple[Callable, dict]] = {
    "bare": (train_bare, {"channels_last": False}),
    "bare, channels_last": (train_bare, {"channels_last": True}),
    "skood, eager": (train_skood, {"compile": False, "augmentation": None}),
    "skood, compiled": (train_skood, {"compile": True, "augmentation": None}),
    "skood, eager, crops and flips": (train_skood, {"compile": False}),
}


def measure(network: str, X: np.ndarray, y: np.ndarray, args: argparse.Namespace) -> dict:
    rounds: dict[str, list[dict[str, float]]] = {name: [] for name in VARIANTS}
    for _ in range(args.rounds):
        for name, (train, params) in VARIANTS.items():
            train(network, X, y, clock := Clock(args.steps), args.seed, **params)
            measured = clock.results()
            bare = rounds["bare"][-1] if rounds["bare"] and name != "bare" else measured
            measured["ratio"] = measured["images_per_second"] / bare["images_per_second"]
            rounds[name].append(measured)
    return {name: summary(measured) for name, measured in rounds.items()}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--steps", type=int, default=20, help="training steps timed in a round")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--quick", action="store_true", help="trial run, which writes nothing")
    args = parser.parse_args()
    if args.quick:
        args.rounds, args.steps = 1, 3
    rng = np.random.default_rng(args.seed)
    X = rng.integers(0, 256, (4096, 32, 32, 3), np.uint8)
    y = rng.integers(10, size=len(X))
    report = {"date": date.today().isoformat(), "machine": machine(), "settings": vars(args)}
    print(json.dumps(report, indent=1))
    report["networks"] = {}
    for network in NETWORKS:
        report["networks"][network] = table = measure(network, X, y, args)
        print(f"\n{network}: median [min, max]")
        for name, values in table.items():
            cells = (
                f"{k} {v['median']:.2f} [{v['min']:.2f}, {v['max']:.2f}]" for k, v in values.items()
            )
            print(f"{name:32}" + "  ".join(cells), flush=True)
    if not args.quick:
        RESULTS.parent.mkdir(exist_ok=True)
        RESULTS.write_text(json.dumps(report, indent=1) + "\n")


if __name__ == "__main__":
    main()
