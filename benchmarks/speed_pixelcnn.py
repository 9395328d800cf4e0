"""Speed and memory of PixelCNN and LikelihoodRatio, compared with plain PyTorch in the same run.

Training: the configuration of Ren et al. 2019 (28x28x1, 32 filters, 5 blocks, 1 hierarchy, 1
    logistic, batches of 32, Adam). Peers are the float32 code below with masked and with shifted
    kernels (900 and 514 million multiplications per image); skood runs ``PixelCNN.fit`` itself. A
    step is timed from the end of the previous step, with everything that the training loop does.
    `start_seconds` contains the first steps with compilation, which the rate excludes. The last
    steps are profiled; `convolutions_alone` is the rate if everything else took no time.
Scoring: ``LikelihoodRatio.score_samples``, compared with bare forward passes of its two networks.
Memory: peak memory of new processes, with imports and images.
On a GPU, only training is measured, without the profile of convolutions.
Every round runs all variants in turn. Images are noise, which does not change the time.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
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
from torch import Tensor, nn
from torch.profiler import ProfilerActivity, profile

from skood import LikelihoodRatio, PixelCNN
from skood.density._neural_density import DensityObjective

DEVICE = torch.device("cuda" if torch.cuda.is_available() else "cpu")
RESULTS = Path(__file__).parent / "results" / f"speed_pixelcnn-{DEVICE.type}.json"
BATCH_SIZE, N_WARM_UP, N_PROFILED = 32, 3, 3
PAPER = {"n_resnet": 5, "batch_size": BATCH_SIZE, "validation_fraction": 0.0}
CONVOLUTIONS = {"aten::_convolution", "aten::convolution_backward"}

# Rows and columns that a kernel covers, relative to its pixel.
ABOVE, ROW_ABOVE, UPPER = range(-2, 0), range(-1, 0), range(-1, 1)
AROUND, COLUMN_LEFT, LEFT = range(-1, 2), range(-1, 0), range(-1, 1)


def masked_conv(n_in: int, n_out: int, rows: range, columns: range) -> nn.Module:
    """Build a centred kernel that is zero outside `rows` x `columns` (TensorFlow Probability)."""
    reach = -rows[0], -columns[0]
    conv = nn.Conv2d(n_in, n_out, (2 * reach[0] + 1, 2 * reach[1] + 1), padding=reach)
    mask = torch.zeros_like(conv.weight)
    mask[:, :, : len(rows), : len(columns)] = 1
    conv.weight.data *= mask
    conv.weight.register_hook(lambda gradient: gradient * mask.to(gradient.device))
    return conv


def shifted_conv(n_in: int, n_out: int, rows: range, columns: range) -> nn.Module:
    """Build a kernel of `rows` x `columns` on an input that is padded or cropped to match."""
    pad = nn.ZeroPad2d((-columns[0], columns[-1], -rows[0], rows[-1]))
    return nn.Sequential(pad, nn.Conv2d(n_in, n_out, (len(rows), len(columns))))


def concat_elu(x: Tensor) -> Tensor:
    return F.elu(torch.cat([x, -x], dim=1))


class Block(nn.Module):
    def __init__(self, conv: Callable, columns: range, n_skip: int, n: int = 32) -> None:
        super().__init__()
        self.conv_in = conv(2 * n, n, UPPER, columns)
        self.conv_skip = nn.Conv2d(2 * n_skip * n, n, 1) if n_skip else None
        self.conv_out = conv(2 * n, 2 * n, UPPER, columns)

    def forward(self, x: Tensor, skip: Tensor | None = None) -> Tensor:
        h = self.conv_in(concat_elu(x))
        if skip is not None:
            h = h + self.conv_skip(concat_elu(skip))
        a, b = self.conv_out(concat_elu(h)).chunk(2, dim=1)
        return x + a * torch.sigmoid(b)


class PlainPixelCNN(nn.Module):
    """The paper's network in plain PyTorch."""

    def __init__(self, conv: Callable, n: int = 32, n_resnet: int = 5) -> None:
        super().__init__()
        self.first_vertical = conv(1, n, ABOVE, AROUND)
        self.first_above = conv(1, n, ROW_ABOVE, AROUND)
        self.first_left = conv(1, n, UPPER, COLUMN_LEFT)
        self.down, self.up = nn.ModuleList(), nn.ModuleList()
        for _ in range(n_resnet):
            self.down.append(nn.ModuleList([Block(conv, AROUND, 0), Block(conv, LEFT, 1)]))
            self.up.append(nn.ModuleList([Block(conv, AROUND, 1), Block(conv, LEFT, 2)]))
        self.head = nn.Conv2d(n, 3, 1)

    def forward(self, x: Tensor) -> Tensor:
        v, h = self.first_vertical(x), self.first_above(x) + self.first_left(x)
        passed = [(v, h)]
        for vertical, horizontal in self.down:
            v = vertical(v)
            h = horizontal(h, v)
            passed.append((v, h))
        passed.pop()
        for vertical, horizontal in self.up:
            v_down, h_down = passed.pop()
            v = vertical(v, v_down)
            h = horizontal(h, torch.cat([v, h_down], dim=1))
        return self.head(F.elu(h))


def plain_log_prob(x: Tensor, raw: Tensor) -> Tensor:
    """Return the discretised logistic log-density of pixels 0..255, summed over the image."""
    _, loc, scale = raw.chunk(3, dim=1)
    loc, scale = 127.5 * (loc + 1), 127.5 * F.softplus(scale) + 1e-5
    below, above = torch.sigmoid((x - 0.5 - loc) / scale), torch.sigmoid((x + 0.5 - loc) / scale)
    below, above = torch.where(x > 0, below, 0), torch.where(x < 255, above, 1)
    return torch.log((above - below).clamp(min=1e-12)).sum((1, 2, 3))


class Clock:
    """Records the end of each training step; times `n_timed` steps, then profiles a few."""

    def __init__(self, n_timed: int) -> None:
        self.n_steps = N_WARM_UP + n_timed + N_PROFILED + 1
        self.profiler = profile(activities=[ProfilerActivity.CPU])
        self.ticks: list[float] = []
        self.created = perf_counter()

    def __call__(self) -> None:
        if DEVICE.type == "cuda":
            torch.cuda.synchronize()
        self.ticks.append(perf_counter())
        if len(self.ticks) == self.n_steps - N_PROFILED:
            self.profiler.start()
        elif len(self.ticks) == self.n_steps:
            self.profiler.stop()

    def results(self) -> dict[str, float]:
        step = float(np.median(np.diff(self.ticks)[N_WARM_UP:-N_PROFILED]))
        measured = {
            "images_per_second": BATCH_SIZE / step,
            "start_seconds": self.ticks[N_WARM_UP] - self.created,
        }
        if DEVICE.type == "cpu":
            events = [e for e in self.profiler.key_averages() if e.key in CONVOLUTIONS]
            convolutions = sum(e.cpu_time_total for e in events) / 1e6 / N_PROFILED
            measured["convolution_share"] = convolutions / step
            measured["convolutions_alone"] = BATCH_SIZE / convolutions
        return measured


def train_skood(X: np.ndarray, clock: Clock, seed: int, **params) -> None:
    torch.compiler.reset()  # Every fit compiles anew, as it would in a process of its own.
    with mock.patch.object(DensityObjective, "after_step", lambda objective: clock()):
        PixelCNN(**PAPER, max_steps=clock.n_steps, random_state=seed, **params).fit(X)


def train_plain(X: np.ndarray, clock: Clock, seed: int, conv: Callable) -> None:
    torch.manual_seed(seed)
    module = PlainPixelCNN(conv).to(DEVICE)
    optimizer = torch.optim.Adam(module.parameters(), lr=2e-3, betas=(0.95, 0.9995))
    order = np.random.default_rng(seed).permutation(len(X))
    for step in range(clock.n_steps):
        x = torch.from_numpy(X[order[step * BATCH_SIZE :][:BATCH_SIZE]])[:, None]
        x = x.to(DEVICE).float()
        optimizer.zero_grad()
        loss = -plain_log_prob(x, module(x / 127.5 - 1)).mean()
        loss.backward()
        optimizer.step()
        clock()


VARIANTS = {
    "plain, masked": (train_plain, {"conv": masked_conv}),
    "plain, shifted": (train_plain, {"conv": shifted_conv}),
    "skood, eager": (train_skood, {"compile": False}),
    "skood, compiled": (train_skood, {"compile": True}),
    "skood, eager, fp32": (train_skood, {"compile": False, "precision": "fp32"}),
    "skood, compiled, fp32": (train_skood, {"compile": True, "precision": "fp32"}),
}


def check_same_function(X: np.ndarray) -> None:
    """Assert that the plain networks with skood's weights compute the same output as skood's."""
    model = PixelCNN(**PAPER, max_steps=5, device="cpu", random_state=0).fit(X)
    x = torch.from_numpy(X)[:, None].float()
    for conv in (masked_conv, shifted_conv):
        module = PlainPixelCNN(conv)
        with torch.no_grad():
            for own, learned in zip(module.parameters(), model.module_.parameters(), strict=True):
                own.zero_()[tuple(map(slice, learned.shape))] = learned
            raw, expected = module(x / 127.5 - 1), model.module_(x / 127.5 - 1)
        torch.testing.assert_close(raw, expected, rtol=1e-4, atol=1e-4)
        np.testing.assert_allclose(plain_log_prob(x, raw), model.score_samples(X), rtol=1e-4)


def measure_training(X: np.ndarray, n_rounds: int, n_steps: int, seed: int) -> dict:
    rounds: dict[str, list[dict[str, float]]] = {name: [] for name in VARIANTS}
    for _ in range(n_rounds):
        for name, (train, params) in VARIANTS.items():
            train(X, clock := Clock(n_steps), seed, **params)
            rounds[name].append(clock.results())
    return {name: summary(measured) for name, measured in rounds.items()}


def measure_scoring(X: np.ndarray, n_rounds: int, seed: int) -> dict:
    detector = LikelihoodRatio(PixelCNN(**PAPER, max_steps=1), random_state=seed)
    detector.fit(X[:BATCH_SIZE])
    x = torch.from_numpy(X)[:, None].float() / 127.5 - 1
    batches = x.contiguous(memory_format=torch.channels_last).split(BATCH_SIZE)
    rounds = []
    for _ in range(n_rounds):
        start = perf_counter()
        detector.score_samples(X)
        ours = perf_counter() - start
        with torch.inference_mode():
            for model in (detector.density_, detector.background_):
                for batch in batches:
                    model.module_(batch)
        bare = perf_counter() - start - ours
        rounds.append({"images_per_second": len(X) / ours, "ratio_of_times": ours / bare})
    return {"LikelihoodRatio": summary(rounds)}


def measure_memory(n_steps: int, n_images: int, n_for_tiny: int) -> dict[str, float]:
    """Return the peak resident memory, in GiB, of typical programs."""
    setup = "import numpy as np\nfrom skood import LikelihoodRatio, PixelCNN\n"
    setup += "noise = lambda n: np.random.randint(0, 256, (n, 28, 28), np.uint8)\n"
    paper = "n_resnet=5, validation_fraction=0.0, "
    fit = f"{setup}PixelCNN({paper}batch_size={BATCH_SIZE}, max_steps={n_steps}, compile={{}})"
    fit += ".fit(noise(48_000))"
    score = setup + "detector = LikelihoodRatio(PixelCNN({}max_steps=1, batch_size=1))\n"
    score += "detector.fit(noise(8)).score_samples(noise({}))"
    programs = {
        "import torch": "import torch",
        f"fit {n_steps} steps, eager": fit.format(False),
        f"fit {n_steps} steps, compiled": fit.format(True),
        f"score {n_images}": score.format(paper, n_images),
        f"score {n_for_tiny}, tiny network": score.format("n_filters=2, n_resnet=1, ", n_for_tiny),
    }
    # Not ru_maxrss: on Linux a process inherits it from its parent.
    peak = "\nprint(next(line for line in open('/proc/self/status') if 'VmHWM' in line).split()[1])"
    run = [sys.executable, "-c"]
    return {k: int(subprocess.check_output([*run, v + peak])) / 2**20 for k, v in programs.items()}


def show(title: str, table: dict[str, dict]) -> None:
    print(f"\n{title:32}" + "".join(f"{key:>26}" for key in next(iter(table.values()))))
    for name, values in table.items():
        cells = ("{median:.2f} [{min:.2f}, {max:.2f}]".format(**v) for v in values.values())
        print(f"{name:32}" + "".join(f"{cell:>26}" for cell in cells))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--steps", type=int, default=20, help="training steps timed in a round")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--quick", action="store_true", help="trial run, which writes nothing")
    parser.add_argument("--training", action="store_true", help="measure training alone")
    parser.add_argument("--out", type=Path, default=RESULTS, help="JSON file to write")
    parser.add_argument("--full", action="store_true", help="memory of scoring 60 000, not 3 000")
    args = parser.parse_args()
    n_scored, sizes = 2000, (60, 60_000 if args.full else 3000, 60_000)
    if args.quick:
        args.rounds, args.steps, n_scored, sizes = 1, 2, 64, (3, 64, 2000)
    X = np.random.default_rng(args.seed).integers(0, 256, (48_000, 28, 28), np.uint8)
    report = {
        "date": date.today().isoformat(),
        "machine": machine(),
        "device": DEVICE.type,
        "settings": {k: v for k, v in vars(args).items() if k != "out"},
    }
    print(json.dumps(report, indent=1))
    check_same_function(X[:64])
    report["training"] = measure_training(X, args.rounds, args.steps, args.seed)
    show("training: median [min, max]", report["training"])
    if DEVICE.type == "cpu" and not args.training:
        measure_on_cpu(report, X, n_scored, sizes, args)
    if not args.quick:
        args.out.parent.mkdir(exist_ok=True)
        args.out.write_text(json.dumps(report, indent=1) + "\n")


def measure_on_cpu(
    report: dict, X: np.ndarray, n_scored: int, sizes: tuple, args: argparse.Namespace
) -> None:
    report["scoring"] = measure_scoring(X[:n_scored], args.rounds, args.seed)
    show("scoring: median [min, max]", report["scoring"])
    report["peak_gib"] = measure_memory(*sizes)
    print("\npeak memory, GiB:", json.dumps(report["peak_gib"], indent=1))


if __name__ == "__main__":
    main()
