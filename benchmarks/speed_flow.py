"""Speed of ImageFlow and of its local intrinsic dimension, compared with peers in the same run.

    pip install nflows normflows
    python benchmarks/speed_flow.py dimension
    python benchmarks/speed_flow.py splines
    python benchmarks/speed_flow.py training --data DIR

dimension: images per second of ``LocalIntrinsicDimension.score_pairs`` with each estimator, and of
    the published computation, image by image: ``torch.func.jacfwd`` of the flow's inverse
    and the singular values, on the same flow of 28 x 28 pixels and the paper's size. The counts of
    the two exact estimators are asserted to agree.
splines: gradients of a rational-quadratic spline, and its inverse, compared with nflows on the same
    values.
training: ImageFlow, compared with a Glow of normflows (two scales of 8 transforms, conditioners of
    64 filters) of a similar fit, on Fashion-MNIST, batches of 64 with Adam in float32. A step is
    timed from the end of the previous step, without validation. `start_seconds` contains the first
    steps with compilation. `seconds_to_equal` is the time of the steps until the bits per dimension
    that all variants reach.
Every round runs all variants in turn.
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
from _images import labelled_images
from _machine import machine
from _timing import summary
from sklearn.frozen import FrozenEstimator
from torch import Tensor, nn

from skood import ImageFlow, LocalIntrinsicDimension
from skood.density._neural_density import DensityObjective
from skood.density._spline import inverse_spline, spline

RESULTS = Path(__file__).parent / "results" / "speed_flow-cpu.json"
BATCH_SIZE, N_WARM_UP = 64, 5
N_BINS, BOUND = 8, 3.0


def smooth_images(n: int) -> np.ndarray:
    """Draw random images of 28 x 28 pixels whose neighbouring pixels are similar."""
    noise = torch.rand((n, 1, 7, 7), generator=torch.Generator().manual_seed(0))
    images = nn.functional.interpolate(noise, size=28, mode="bilinear")
    return (255 * images[:, 0]).numpy().astype(np.uint8)


def measure_dimension(args: argparse.Namespace) -> dict:
    X = smooth_images(512)
    flow = ImageFlow(max_steps=args.steps or 50, random_state=0, verbose=0).fit(X)
    scale = -3.0
    settings = {"scale": scale, "n_calibration": 2, "random_state": 0, "verbose": 0}
    detectors = {
        name: LocalIntrinsicDimension(FrozenEstimator(flow), estimator=name, **settings).fit(X[:2])
        for name in ("threshold", "convolution", "lanczos")
    }
    module = flow.module_.eval()

    def published(images: np.ndarray) -> np.ndarray:
        """Count singular values of the Jacobian, image by image."""
        counts = []
        for z in torch.from_numpy(flow.encode(images)).float():
            jacobian = torch.func.jacfwd(lambda z: flow._inverse(module, z[None]).flatten())(z)
            counts.append(int((torch.linalg.svdvals(jacobian.detach()) > np.exp(scale)).sum()))
        return np.array(counts)

    n_images = {"published": 2, "threshold": 8, "convolution": 8, "lanczos": 64}
    rounds, counts = [], {}
    for _ in range(args.rounds):
        rates = {}
        for name, n in n_images.items():
            start = perf_counter()
            if name == "published":
                counts[name] = published(X[:n])
            else:
                counts[name] = detectors[name].score_pairs(X[:n])[:, 1]
            rates[name] = n / (perf_counter() - start)
        rates |= {f"{name} / published": rates[name] / rates["published"] for name in detectors}
        rounds.append(rates)
    n = n_images["published"]
    np.testing.assert_allclose(counts["threshold"][:n], counts["published"], atol=1)
    return {"images_per_second": summary(rounds), "counts": counts["threshold"].tolist()}


def measure_splines(args: argparse.Namespace) -> dict:
    from nflows.transforms.splines import unconstrained_rational_quadratic_spline

    generator = torch.Generator().manual_seed(0)
    x = 2 * torch.randn((64, 14, 14, 8), generator=generator)
    parameters = torch.randn((*x.shape, 3 * N_BINS - 1), generator=generator, requires_grad=True)

    def peer(x: Tensor, inverse: bool) -> tuple[Tensor, Tensor]:
        widths, heights, derivatives = parameters.split((N_BINS, N_BINS, N_BINS - 1), -1)
        return unconstrained_rational_quadratic_spline(
            x, widths, heights, derivatives, inverse=inverse, tail_bound=BOUND
        )

    def own(x: Tensor, inverse: bool) -> tuple[Tensor, Tensor]:
        return (inverse_spline if inverse else spline)(x, parameters, BOUND)

    def gradients(function: Callable) -> None:
        value, log_derivative = function(x, False)
        torch.autograd.grad(value.sum() + log_derivative.sum(), parameters)

    def inverse(function: Callable) -> None:
        with torch.no_grad():
            function(x, True)

    rounds = []
    for k in range(args.rounds + 1):
        seconds = {}
        for work in (gradients, inverse):
            for name, function in {"nflows": peer, "skood": own}.items():
                start = perf_counter()
                for _ in range(5):
                    work(function)
                seconds[f"{name}, {work.__name__}"] = (perf_counter() - start) / 5
            seconds[f"nflows / skood, {work.__name__}"] = (
                seconds[f"nflows, {work.__name__}"] / seconds[f"skood, {work.__name__}"]
            )
        if k > 0:
            rounds.append(seconds)
    return {"seconds": summary(rounds), "n_values": x.numel()}


class Clock:
    """Records the end of each training step."""

    def __init__(self) -> None:
        self.ticks = [perf_counter()]

    def __call__(self, *ignored: object) -> None:
        self.ticks.append(perf_counter())

    def results(self, bits_per_dim: list[float]) -> dict:
        step = float(np.median(np.diff(self.ticks)[N_WARM_UP:]))
        return {
            "images_per_second": BATCH_SIZE / step,
            "start_seconds": self.ticks[N_WARM_UP] - self.ticks[0],
            "bits_per_dim": bits_per_dim,
        }


def train_skood(X: np.ndarray, n_epochs: int, seed: int, **settings: object) -> dict:
    torch.compiler.reset()  # Every fit compiles anew, as it would in a process of its own.
    clock = Clock()
    with mock.patch.object(DensityObjective, "after_step", clock):
        flow = ImageFlow(
            (3, 3, 2),
            n_filters=32,
            n_blocks=1,
            max_epochs=n_epochs,
            max_steps=None,
            patience=None,
            precision="fp32",
            random_state=seed,
            verbose=0,
            **settings,
        ).fit(X)
    nats = np.array(flow.history_["validation_loss"])
    return clock.results((nats / (np.log(2) * X[0].size)).tolist())


def glow(n_transforms: int = 8, n_filters: int = 64) -> nn.Module:
    """Build a Glow of two scales, following the documentation of normflows."""
    import normflows as nf

    bases = [nf.distributions.DiagGaussian(shape) for shape in ((8, 7, 7), (2, 14, 14))]
    blocks = [
        [*(nf.flows.GlowBlock(c, n_filters) for _ in range(n_transforms)), nf.flows.Squeeze()]
        for c in (8, 4)
    ]
    return nf.MultiscaleFlow(bases, blocks, [nf.flows.Merge()], class_cond=False)


def train_normflows(X: np.ndarray, n_epochs: int, seed: int) -> dict:
    torch.manual_seed(seed)
    pixels = torch.from_numpy(X)[:, None].float()
    n_values = X[0].size
    order = torch.from_numpy(np.random.default_rng(seed).permutation(len(X)))
    held_out, rows = order[: len(X) // 10], order[len(X) // 10 :]
    module = glow()
    optimizer = torch.optim.Adam(module.parameters(), lr=1e-3)
    n_steps = n_epochs * (len(rows) // BATCH_SIZE)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, 1e-3, n_steps, pct_start=0.05)
    clock, history = Clock(), []

    def nats(x: Tensor, place: Tensor | float) -> Tensor:
        logits, log_derivative = ImageFlow._logits((x + place) / 256)
        return n_values * np.log(256) - log_derivative - module.log_prob(logits, None)

    for _ in range(n_epochs):
        for start in range(0, len(rows) - BATCH_SIZE + 1, BATCH_SIZE):
            x = pixels[rows[start : start + BATCH_SIZE]]
            optimizer.zero_grad()
            nats(x, torch.rand_like(x)).mean().backward()
            nn.utils.clip_grad_norm_(module.parameters(), 1.0)
            optimizer.step()
            schedule.step()
            clock()
        rows = rows[torch.randperm(len(rows))]
        with torch.no_grad():
            losses = [nats(pixels[part], 0.5) for part in held_out.split(BATCH_SIZE)]
        history.append(float(torch.cat(losses).mean()) / (np.log(2) * n_values))
    return clock.results(history)


VARIANTS: dict[str, Callable] = {
    "normflows": train_normflows,
    "skood, eager": lambda *args: train_skood(*args, compile=False),
    "skood, compiled": lambda *args: train_skood(*args, compile=True),
}


def measure_training(args: argparse.Namespace) -> dict:
    if args.data is None:
        raise SystemExit("training needs --data, the folder that contains Fashion-MNIST")
    X = np.asarray(labelled_images(args.data, "fashion_mnist", "train")[0])[:7200]
    n_epochs = args.steps or 10
    runs, rates = [], []
    for seed in range(args.rounds):
        run = {name: train(X, n_epochs, seed) for name, train in VARIANTS.items()}
        reached = max(row["bits_per_dim"][-1] for row in run.values())
        row = {name: variant["images_per_second"] for name, variant in run.items()}
        for name, variant in run.items():
            n_to_equal = 1 + int(np.argmax(np.array(variant["bits_per_dim"]) <= reached))
            variant["seconds_to_equal"] = n_to_equal * 0.9 * len(X) / row[name]
        row |= {f"{name} / normflows": row[name] / row["normflows"] for name in VARIANTS}
        runs.append(run)
        rates.append(row)
    return {"images_per_second": summary(rates), "runs": runs}


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parts = {
        "dimension": measure_dimension,
        "splines": measure_splines,
        "training": measure_training,
    }
    parser.add_argument("part", choices=parts)
    parser.add_argument("--data", type=Path)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--steps", type=int, help="training steps; epochs for `training`")
    parser.add_argument("--out", type=Path, default=RESULTS)
    args = parser.parse_args()
    measured = {**parts[args.part](args), "machine": machine(), "date": date.today().isoformat()}
    results = json.loads(args.out.read_text()) if args.out.exists() else {}
    args.out.write_text(json.dumps(results | {args.part: measured}, indent=1) + "\n")
    print(json.dumps(measured, indent=1))


if __name__ == "__main__":
    main()
