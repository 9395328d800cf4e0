"""Speed and memory of PixelCNN and LikelihoodRatio, beside plain PyTorch in the same run.

Training: the configuration of Ren et al. 2019 (28x28x1, 32 filters, 5 blocks, 1 hierarchy, 1
    logistic, batches of 32, Adam). The peer is the float32 code below, with masked and with
    shifted kernels; skood runs ``PixelCNN.fit`` itself. A step lasts from one request for a batch
    to the next, so all that the training loop does is in it. The first steps, and with them
    compilation, are not in the rate; "start" says how long they take.
Convolutions: their share of a step (torch.profiler, in runs of their own), and the rate if all
    else were free.
Scoring: ``LikelihoodRatio.score_samples`` against bare forward passes of its two networks.
Memory: peak of fresh processes, imports and images included.

Variants take turns within a round; median, minimum and maximum are those of the rounds. Images are
uniform noise, on which the arithmetic takes as long as on any other.
"""

from __future__ import annotations

import argparse
import json
import platform
import subprocess
import sys
from datetime import datetime, timezone
from pathlib import Path
from time import perf_counter

import numpy as np
import sklearn
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.profiler import ProfilerActivity, profile
from torch.utils.flop_counter import FlopCounterMode

import skood
from skood import LikelihoodRatio
from skood.density import PixelCNN

RESULTS = Path(__file__).parent / "results" / "speed_pixelcnn.json"
BATCH_SIZE = 32
WARM_UP = 3

# Rows and columns that a kernel sees, relative to its pixel.
ABOVE, ROW_ABOVE, UPPER = range(-2, 0), range(-1, 0), range(-1, 1)
AROUND, COLUMN_LEFT, LEFT = range(-1, 2), range(-1, 0), range(-1, 1)


class MaskedConv(nn.Conv2d):
    """Centred kernel of which all but `rows` x `columns` is zeroed, as TensorFlow Probability does."""

    def __init__(self, n_in: int, n_out: int, rows: range, columns: range) -> None:
        reach = -rows[0], -columns[0]
        super().__init__(n_in, n_out, (2 * reach[0] + 1, 2 * reach[1] + 1), padding=reach)
        mask = torch.zeros_like(self.weight)
        mask[:, :, : len(rows), : len(columns)] = 1
        self.register_buffer("mask", mask)

    def forward(self, x: Tensor) -> Tensor:
        return F.conv2d(x, self.weight * self.mask, self.bias, padding=self.padding)


class ShiftedConv(nn.Conv2d):
    """Kernel of `rows` x `columns` on a padded, or cropped, input."""

    def __init__(self, n_in: int, n_out: int, rows: range, columns: range) -> None:
        super().__init__(n_in, n_out, (len(rows), len(columns)))
        self.pad = (-columns[0], columns[-1], -rows[0], rows[-1])

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(F.pad(x, self.pad))


def concat_elu(x: Tensor) -> Tensor:
    return F.elu(torch.cat([x, -x], dim=1))


class Block(nn.Module):
    def __init__(self, conv: type[nn.Conv2d], columns: range, n_skip: int, n: int = 32) -> None:
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
    """The paper's network, as one would write it down."""

    def __init__(self, conv: type[nn.Conv2d], n: int = 32, n_resnet: int = 5) -> None:
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
    """Discretised logistic of pixels 0..255, summed over the image."""
    _, loc, scale = raw.chunk(3, dim=1)
    loc, scale = 127.5 * (loc + 1), 127.5 * F.softplus(scale) + 1e-5
    below, above = torch.sigmoid((x - 0.5 - loc) / scale), torch.sigmoid((x + 0.5 - loc) / scale)
    below, above = torch.where(x > 0, below, 0), torch.where(x < 255, above, 1)
    return torch.log((above - below).clamp(min=1e-12)).sum((1, 2, 3))


class Clock:
    """Told of the start of each training step; times, or profiles, those after warming up."""

    def __init__(self, n_steps: int, profiler: profile | None = None) -> None:
        self.n_steps = WARM_UP + n_steps + 1
        self.profiler = profiler
        self.ticks = [perf_counter()]

    def __call__(self) -> None:
        if self.profiler and len(self.ticks) == WARM_UP + 1:
            self.profiler.start()
        self.ticks.append(perf_counter())
        if self.profiler and len(self.ticks) == self.n_steps + 1:
            self.profiler.stop()

    def seconds(self) -> tuple[float, float]:
        """Until the first step that counts, and from there to the end of the last."""
        start, first, end = (self.ticks[i] for i in (0, WARM_UP + 1, -1))
        return first - start, end - first


class ClockedPixelCNN(PixelCNN):
    """skood's estimator, telling a clock whenever its training loop asks for a batch."""

    def _tensor(self, items: np.ndarray, device: torch.device) -> Tensor:
        self.clock()
        return super()._tensor(items, device)


def train_skood(X: np.ndarray, clock: Clock, seed: int, **params) -> None:
    torch._dynamo.reset()  # Every fit compiles anew, as it would in a process of its own.
    model = ClockedPixelCNN(max_steps=clock.n_steps, device="cpu", random_state=seed, **params)
    model.clock = clock
    model.fit(X)


def train_plain(X: np.ndarray, clock: Clock, seed: int, conv: type[nn.Conv2d]) -> None:
    torch.manual_seed(seed)
    module = PlainPixelCNN(conv)
    optimizer = torch.optim.Adam(module.parameters(), lr=2e-3, betas=(0.95, 0.9995))
    order = np.random.default_rng(seed).permutation(len(X))
    for step in range(clock.n_steps):
        clock()
        x = torch.from_numpy(X[order[step * BATCH_SIZE :][:BATCH_SIZE]])[:, None].float()
        optimizer.zero_grad()
        loss = -plain_log_prob(x, module(x / 127.5 - 1)).mean()
        loss.backward()
        optimizer.step()


VARIANTS = {
    "plain, masked": (train_plain, {"conv": MaskedConv}),
    "plain, shifted": (train_plain, {"conv": ShiftedConv}),
    "skood, eager": (train_skood, {"compile": False}),
    "skood, compiled": (train_skood, {"compile": True}),
    "skood, eager, fp32": (train_skood, {"compile": False, "precision": "fp32"}),
    "skood, compiled, fp32": (train_skood, {"compile": True, "precision": "fp32"}),
}


def check_same_function(X: np.ndarray, seed: int) -> dict[str, float]:
    """Assert that the plain networks given skood's weights compute what skood's does.

    Returns millions of multiplications in the convolutions of a forward pass of an image.
    """
    model = PixelCNN(max_steps=5, device="cpu", random_state=seed).fit(X[:512])
    X = X[:BATCH_SIZE]
    x = torch.from_numpy(X)[:, None].float()
    mega_macs = {}
    for name, conv in {"masked": MaskedConv, "shifted": ShiftedConv}.items():
        module = PlainPixelCNN(conv)
        parameters = dict(module.named_parameters())
        with torch.no_grad(), FlopCounterMode(display=False) as counter:
            for key, value in model.module_.state_dict().items():
                own = parameters.pop(key.replace("down.0.", "down.").replace("up.0.", "up."))
                own.zero_()[tuple(map(slice, value.shape))] = value
            assert not parameters, f"skood has no weights for {list(parameters)}"
            raw = module(x / 127.5 - 1)
        mega_macs[name] = counter.get_total_flops() / 2e6 / len(x)
        with torch.no_grad():
            expected = model.module_(x / 127.5 - 1)
        torch.testing.assert_close(raw, expected, rtol=1e-4, atol=1e-4)
        np.testing.assert_allclose(plain_log_prob(x, raw), model.score_samples(X), rtol=1e-4)
    return mega_macs


def summary(values: list[float]) -> dict[str, float]:
    return {"median": float(np.median(values)), "min": min(values), "max": max(values)}


def measure_training(X: np.ndarray, n_rounds: int, n_steps: int, seed: int) -> dict:
    seconds: dict[str, list[tuple[float, float]]] = {name: [] for name in VARIANTS}
    for _ in range(n_rounds):
        for name, (train, params) in VARIANTS.items():
            train(X, clock := Clock(n_steps), seed, **params)
            seconds[name].append(clock.seconds())
    results = {}
    n_images = BATCH_SIZE * n_steps
    for name, (train, params) in VARIANTS.items():
        profiler = profile(activities=[ProfilerActivity.CPU])
        train(X, clock := Clock(n_steps, profiler), seed, **params)
        names = {"aten::_convolution", "aten::convolution_backward"}
        events = [event for event in profiler.key_averages() if event.key in names]
        convolving = sum(event.cpu_time_total for event in events) / 1e6
        results[name] = {
            "images_per_second": summary([n_images / steps for _, steps in seconds[name]]),
            "start_seconds": summary([start for start, _ in seconds[name]]),
            "convolution_share": convolving / clock.seconds()[1],
            "images_per_second_of_convolutions_alone": n_images / convolving,
        }
    return results


def measure_scoring(X: np.ndarray, n_rounds: int, seed: int) -> dict:
    detector = LikelihoodRatio(PixelCNN(max_steps=1, device="cpu"), random_state=seed)
    detector.fit(X[:BATCH_SIZE])
    batches = (torch.from_numpy(X)[:, None].float() / 127.5 - 1).split(BATCH_SIZE)
    batches = [batch.contiguous(memory_format=torch.channels_last) for batch in batches]

    def forward() -> None:
        with torch.inference_mode():
            for model in (detector.density_, detector.background_):
                for batch in batches:
                    model.module_(batch)

    seconds = []
    for _ in range(n_rounds):
        ticks = [perf_counter()]
        for run in (lambda: detector.score_samples(X), forward):
            run()
            ticks.append(perf_counter())
        seconds.append(np.diff(ticks))
    ours, bare = zip(*seconds, strict=True)
    return {
        "images_per_second": summary([len(X) / s for s in ours]),
        "images_per_second_of_bare_passes": summary([len(X) / s for s in bare]),
        "time_ratio": summary([a / b for a, b in seconds]),
    }


def measure_memory(n_steps: int, n_few: int, n_many: int, full: bool) -> dict[str, float]:
    """Peak resident memory, in GiB, of what a user would run."""
    setup = (
        "import numpy as np; from skood import LikelihoodRatio; from skood.density import PixelCNN\n"
        "X = np.random.default_rng(0).integers(0, 256, ({}, 28, 28), np.uint8)\n"
    )
    fit = setup.format(48_000) + f"PixelCNN(max_steps={n_steps}, compile={{}}).fit(X)"
    model = "LikelihoodRatio(PixelCNN({}batch_size=1, max_steps=1))"
    score = f"{setup}{model}.fit(X[:8]).score_samples(X)"
    programs = {
        "import torch": "import torch",
        f"fit {n_steps} steps, eager": fit.format(False),
        f"fit {n_steps} steps, compiled": fit.format(True),
        f"score {n_few} images": score.format(n_few, ""),
        f"score {n_many} images, tiny network": score.format(n_many, "n_filters=2, n_resnet=1, "),
    }
    if full:
        programs[f"score {n_many} images"] = score.format(n_many, "")
    # Not ru_maxrss: on Linux it starts at the peak of the process that started this one.
    peak = "\nprint(next(line for line in open('/proc/self/status') if 'VmHWM' in line))"
    gib = {}
    for name, program in programs.items():
        output = subprocess.check_output([sys.executable, "-c", program + peak], text=True)
        gib[name] = int(output.split()[-2]) / 2**20
    return gib


def machine() -> dict:
    lines = Path("/proc/cpuinfo").read_text().splitlines()
    cpu = {key.strip(): value.strip() for key, _, value in (line.partition(":") for line in lines)}
    wanted = {"AMX": "amx_bf16", "AVX512-BF16": "avx512_bf16", "AVX512": "avx512f", "AVX2": "avx2"}
    return {
        "cpu": cpu.get("model name", platform.processor()),
        "threads": torch.get_num_threads(),
        "instructions": [name for name, flag in wanted.items() if flag in cpu["flags"].split()],
    }


def show(report: dict) -> None:
    def row(name: str, *values: dict | float | str) -> None:
        cells = [
            "{median:.2f} [{min:.2f}, {max:.2f}]".format(**v) if isinstance(v, dict) else v
            for v in values
        ]
        cells = [cell if isinstance(cell, str) else f"{cell:.2f}" for cell in cells]
        print(f"{name:36}" + "".join(f"{cell:>24}" for cell in cells))

    for key in ("machine", "versions", "settings", "mega_macs"):
        print(f"{key}: {report[key]}")
    print("\nmedian [min, max]")
    row("training", "images/s", "start, s", "convolutions, share", "these alone, images/s")
    for name, values in report["training"].items():
        row(name, *values.values())
    row("\nscoring", "images/s", "bare passes, images/s", "time / bare time")
    row("LikelihoodRatio", *report["scoring"].values())
    row("\nmemory", "peak, GiB")
    for name, value in report["memory_gib"].items():
        row(name, value)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--steps", type=int, default=20, help="training steps in a round")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--quick", action="store_true", help="try everything out; writes nothing")
    parser.add_argument("--full", action="store_true", help="score 60 000 images for memory too")
    args = parser.parse_args()
    rounds, steps = (1, 2) if args.quick else (args.rounds, args.steps)
    sizes = (3, 64, 2000) if args.quick else (60, 3000, 60_000)
    X = np.random.default_rng(args.seed).integers(0, 256, (48_000, 28, 28), np.uint8)
    modules = (skood, torch, np, sklearn)
    report = {
        "date": datetime.now(timezone.utc).isoformat(timespec="seconds"),
        "machine": machine(),
        "versions": {"python": platform.python_version()}
        | {module.__name__: str(module.__version__) for module in modules},
        "settings": {**vars(args), "rounds": rounds, "steps": steps},
        "mega_macs": check_same_function(X, args.seed),
        "training": measure_training(X, rounds, steps, args.seed),
        "scoring": measure_scoring(X[: 64 if args.quick else 2000], rounds, args.seed),
        "memory_gib": measure_memory(*sizes, full=args.full),
    }
    show(report)
    if not args.quick:
        RESULTS.parent.mkdir(exist_ok=True)
        RESULTS.write_text(json.dumps(report, indent=1) + "\n")


if __name__ == "__main__":
    main()
