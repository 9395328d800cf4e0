"""Runs the benchmarks that need a GPU in time slices; the next call resumes them.

    python benchmarks/gpu.py --data DIR --minutes 10 --out FOLDER
    python benchmarks/gpu.py --check            # one minute: do GPU and CPU give the same scores?
    python benchmarks/gpu.py --list             # the jobs that are left

Runs the scripts of this folder as parallel processes, in order of priority. The first jobs are
checks: they train small models and compare GPU scores with CPU scores. A stopped process loses at
most the minute since its last checkpoint in --work. Results are small files in --out; the output of
every process goes to --work.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from fnmatch import fnmatch
from pathlib import Path
from typing import Any

import likelihood_ratio
import likelihood_ratio_trials
import likelihood_table
import numpy as np
import oodgen_trials
import torch
from _machine import machine
from _names import file_name
from sklearn.frozen import FrozenEstimator

import skood

HERE = Path(__file__).parent
# Largest allowed difference between GPU and CPU scores, relative to the largest score.
TOLERANCE = 1e-4


@dataclass(frozen=True)
class Job:
    """A script with its arguments, and the jobs that must finish before it starts."""

    script: str
    arguments: tuple[str, ...]
    after: tuple[str, ...] = ()


def jobs() -> dict[str, Job]:
    """Return every job, in order of priority."""
    found = {f"check {name}": Job("gpu.py", ("--check-one", name)) for name in CHECKS}

    trials = {
        f"LR trial {name}": Job("likelihood_ratio_trials.py", ("--only", name))
        for name in likelihood_ratio_trials.TRIALS
    }
    found |= trials
    found["LR trials"] = Job("likelihood_ratio_trials.py", (), tuple(trials))

    for name in ("sampled", "mean"):
        found[f"OODGen VAE {name}"] = Job("oodgen_trials.py", ("--vae", name))
    trials = {
        f"OODGen trial {name}": Job(
            "oodgen_trials.py",
            ("--only", name),
            (f"OODGen VAE {'sampled' if trial.sample_latents else 'mean'}",),
        )
        for name, trial in oodgen_trials.TRIALS.items()
    }
    found |= trials
    found["OODGen trials"] = Job("oodgen_trials.py", (), tuple(trials))

    parts = {
        f"likelihood table {name}": Job("likelihood_table.py", ("--preset", "gpu", "--only", name))
        for name in likelihood_table.ON
    }
    found |= parts
    found["likelihood table"] = Job("likelihood_table.py", ("--preset", "gpu"), tuple(parts))
    found["OODGen fashion_mnist"] = Job("oodgen.py", ("--preset", "release"))
    densities = {
        f"LR paper {rate:g} {weight:g}": Job(
            "likelihood_ratio.py", ("--preset", "paper", "--density", f"{rate:g}", f"{weight:g}")
        )
        for rate, weight in likelihood_ratio.models("paper")
    }
    found |= densities
    found["LR paper"] = Job("likelihood_ratio.py", ("--preset", "paper"), tuple(densities))
    found["posthoc cifar10"] = Job("posthoc.py", ("--preset", "densenet"))
    found["flow_lid fashion_mnist"] = Job("flow_lid.py", ("--preset", "gpu"))
    for name in ("mnist", "mnist_0_4", "fashion_0_4"):
        found[f"OODGen {name}"] = Job("oodgen.py", ("--preset", "release", "--id", name))
    found["vmdls mnist"] = Job("vmdls.py", ("--preset", "paper", "--id", "mnist"))
    found["vmdls cifar10"] = Job("vmdls.py", ("--preset", "paper", "--id", "cifar10"))
    found["flow_lid cifar10"] = Job("flow_lid.py", ("--preset", "gpu", "--id", "cifar10"))
    return found


IMAGES, ROWS = "images", "rows"
SMALL = {"max_steps": 40, "random_state": 0}
Fit = Callable[[np.ndarray, np.ndarray], Any]
# Models to fit to a few images or rows and to score on both devices.
CHECKS: dict[str, tuple[str, Fit]] = {
    "PixelCNN": (
        IMAGES,
        lambda X, y: skood.PixelCNN(16, 1, compile=True, precision="bf16", **SMALL).fit(X),
    ),
    "LikelihoodRatio": (
        IMAGES,
        lambda X, y: skood.LikelihoodRatio(
            skood.PixelCNN(8, 1, **SMALL), skood.PixelCNN(8, 1, mutation_rate=0.2, **SMALL)
        ).fit(X),
    ),
    "VAE": (IMAGES, lambda X, y: skood.VAE(4, conditional=True, **SMALL).fit(X, y)),
    "LikelihoodRegret": (
        IMAGES,
        lambda X, y: skood.LikelihoodRegret(skood.VAE(4, **SMALL), n_steps=5).fit(X),
    ),
    "HierarchicalRatio": (
        IMAGES,
        lambda X, y: skood.HierarchicalRatio(skood.HierarchicalVAE((8, 4, 2), **SMALL)).fit(X),
    ),
    "ImageFlow": (
        IMAGES,
        lambda X, y: skood.ImageFlow((2, 2), n_filters=8, **SMALL).fit(X),
    ),
    "Diffusion": (
        IMAGES,
        lambda X, y: skood.Diffusion((8, 16), n_steps=3, **SMALL).fit(X),
    ),
    "CCLR": (IMAGES, lambda X, y: skood.CCLR(skood.Diffusion((8, 16), **SMALL)).fit(X)),
    "FLIPD": (
        IMAGES,
        lambda X, y: skood.LocalIntrinsicDimension(
            skood.Diffusion((8, 16), n_steps=2, **SMALL), n_calibration=20
        ).fit(X),
    ),
    "NeuralSplineFlow": (ROWS, lambda X, y: skood.NeuralSplineFlow(**SMALL).fit(X)),
    "TwoStep": (
        IMAGES,
        lambda X, y: skood.TwoStep(
            skood.Autoencoder(4, **SMALL), skood.NeuralSplineFlow(**SMALL)
        ).fit(X),
    ),
    "ODIN": (IMAGES, lambda X, y: skood.ODIN(skood.ConvNet((8, 16), **SMALL)).fit(X, y)),
    "ViM": (IMAGES, lambda X, y: skood.ViM(skood.WideResNet(10, 1, **SMALL)).fit(X, y)),
    "OODGen": (
        IMAGES,
        lambda X, y: skood.OODGen(
            skood.ShallowConvNet(**SMALL),
            skood.VAE(4, conditional=True, likelihood="bernoulli", **SMALL),
            random_state=0,
        ).fit(X, y),
    ),
    "VMDLS": (IMAGES, lambda X, y: skood.VMDLS(skood.ConvNet((8, 16), **SMALL)).fit(X, y)),
    "DeepSVDD": (IMAGES, lambda X, y: skood.DeepSVDD(skood.ConvNet((8, 16), **SMALL)).fit(X)),
}


def check(args: argparse.Namespace, name: str) -> None:
    """Fit on the default device, score there and on the CPU, and store the difference."""
    kind, fit = CHECKS[name]
    rng = np.random.default_rng(0)
    y = rng.integers(0, 3, 400)
    if kind == IMAGES:
        tones = np.linspace(0, 200, 28) * (1 + y[:, None, None]) / 3 + 30 * rng.random(
            (400, 28, 28)
        )
        X = tones.astype(np.uint8)
    else:
        X = rng.normal(size=(400, 8)) + y[:, None]
    start = time.perf_counter()
    model = fit(X, y)
    seconds = time.perf_counter() - start
    # A score of ranks is discontinuous; the pairs that are ranked are continuous.
    method = "score_pairs" if hasattr(model, "score_pairs") else "score_samples"
    scores = getattr(model, method)(X[:64])
    move(model, "cpu")
    exact = getattr(model, method)(X[:64])
    difference = float(np.abs(scores - exact).max() / np.abs(exact).max())
    row = {"seconds": seconds, "difference": difference, "machine": machine()}
    (args.work / f"check-{name}.json").write_text(json.dumps(row))
    print(f"{name}: {seconds:.1f} s, difference {difference:.1e}")
    if not difference <= TOLERANCE:
        sys.exit(f"{name}: scores differ by {difference:.1e} of their size")


def move(model: Any, device: str) -> None:
    """Set the device of a fitted estimator and of all estimators inside it."""
    if isinstance(model, (list, tuple)):
        for part in model:
            move(part, device)
    elif isinstance(model, FrozenEstimator):
        move(model.estimator, device)
    elif hasattr(model, "get_params"):
        if hasattr(model, "device"):
            model.device = device
        for part in vars(model).values():
            move(part, device)


class Queue:
    """Jobs that run in parallel until a deadline."""

    def __init__(self, args: argparse.Namespace) -> None:
        self.args = args
        self.jobs = jobs()
        self.path = args.work / "gpu-finished.json"
        self.seconds: dict[str, float] = {}
        if self.path.exists():
            self.seconds = json.loads(self.path.read_text())
        self.failed: list[str] = []
        self.running: dict[str, tuple[subprocess.Popen, float]] = {}

    def left(self) -> list[str]:
        return [
            name
            for name in self.jobs
            if name not in self.seconds and any(fnmatch(name, p) for p in self.args.only)
        ]

    def next(self) -> str | None:
        """Return the name of a job that can start."""
        for name in self.left():
            if name in self.running or name in self.failed:
                continue
            if all(other in self.seconds for other in self.jobs[name].after):
                return name
        return None

    def start(self, name: str) -> None:
        job = self.jobs[name]
        command = [sys.executable, str(HERE / job.script), *job.arguments]
        command += ["--work", str(self.args.work), "--out", str(self.args.out)]
        if self.args.data is not None:
            command += ["--data", str(self.args.data)]
        environment = {
            **os.environ,
            "OMP_NUM_THREADS": "2",
            "TORCHINDUCTOR_COMPILE_THREADS": "2",
            "TORCHINDUCTOR_CACHE_DIR": str(self.args.work.resolve() / "inductor"),
            "PYTHONUNBUFFERED": "1",
        }
        with log(self.args, name).open("a") as file:
            process = subprocess.Popen(command, stdout=file, stderr=file, env=environment)
        self.running[name] = process, time.monotonic()

    def collect(self) -> None:
        """Record the jobs that have ended."""
        for name, (process, since) in list(self.running.items()):
            if process.poll() is None:
                continue
            del self.running[name]
            seconds = time.monotonic() - since
            if process.returncode == 0:
                self.seconds[name] = seconds
                self.path.write_text(json.dumps(self.seconds, indent=1))
                print(f"{name}: {seconds:.0f} s", flush=True)
            else:
                self.failed.append(name)
                tail = log(self.args, name).read_text().splitlines()[-5:]
                print(f"{name}: FAILED after {seconds:.0f} s", *tail, sep="\n  ", flush=True)

    def run(self) -> None:
        deadline = time.monotonic() + 60 * self.args.minutes
        while time.monotonic() < deadline:
            self.collect()
            name = self.next()
            if name is not None and len(self.running) < self.args.jobs:
                self.start(name)
            elif not self.running:
                break
            else:
                time.sleep(0.2)
        for process, _ in self.running.values():
            process.terminate()
        for process, _ in self.running.values():
            process.wait()
        if self.running:
            print("stopped; the next call resumes:", ", ".join(self.running))
        self.write_checks()

    def write_checks(self) -> None:
        """Write the results of all finished checks to --out."""
        rows = {
            name: json.loads(path.read_text())
            for name in CHECKS
            if (path := self.args.work / f"check-{name}.json").exists()
        }
        if rows:
            result = {"machine": next(iter(rows.values()))["machine"], "checks": rows}
            for row in rows.values():
                del row["machine"]
            (self.args.out / "gpu_check.json").write_text(json.dumps(result, indent=1) + "\n")


def log(args: argparse.Namespace, name: str) -> Path:
    return args.work / f"{file_name(name)}.log"


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    on_gpu = torch.cuda.is_available()
    parser.add_argument("--data", type=Path)
    parser.add_argument("--minutes", type=float, default=10.0)
    parser.add_argument(
        "--jobs",
        type=int,
        default=max(1, (os.cpu_count() or 1) - 2) if on_gpu else 1,
        help="parallel processes",
    )
    parser.add_argument("--only", nargs="*", default=["*"], help="names or patterns of jobs")
    parser.add_argument("--check", action="store_true", help="only the checks")
    parser.add_argument("--check-one", choices=CHECKS, help=argparse.SUPPRESS)
    parser.add_argument("--list", action="store_true", help="print the jobs that are left")
    parser.add_argument("--work", type=Path, default=Path("checkpoints"), help="for resuming")
    parser.add_argument("--out", type=Path, default=HERE / "results")
    args = parser.parse_args()
    for folder in (args.work, args.out):
        folder.mkdir(parents=True, exist_ok=True)
    if args.check_one:
        check(args, args.check_one)
        return 0
    if args.check:
        args.only = ["check *"]
    queue = Queue(args)
    if not args.list:
        if args.data is None and not args.check:
            parser.error("--data is needed to run")
        queue.run()
    print("left:", ", ".join(queue.left()) or "nothing")
    return 1 if queue.failed else 0


if __name__ == "__main__":
    sys.exit(main())
