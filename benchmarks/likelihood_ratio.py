"""Likelihood ratios with PixelCNN++ (Ren et al. 2019): the published experiment.

Trains a density on the in-distribution (ID) set and a grid of background models, selects the
background by AUROC on the validation set, and measures log p and the ratio on the OOD set:

    python benchmarks/likelihood_ratio.py --preset quick --data DIR
    python benchmarks/likelihood_ratio.py --preset paper --data DIR        # for a GPU
    python benchmarks/likelihood_ratio.py --id cifar10 --ood svhn --validation cifar10_grey \
        --preset paper --data DIR

DIR has torchvision's layout (DIR/FashionMNIST/raw, DIR/MNIST/raw, ...; notMNIST in the same format
in DIR/notMNIST/raw), or a ``read_data.py`` with ``load(name, split)``. An interrupted run resumes
when started again with the same --work folder. --density trains and scores a single model, so that
several processes can share the work. Results, a histogram of the scores and heat maps go to --out.
"""

from __future__ import annotations

import argparse
import json
import time
from dataclasses import asdict, dataclass
from datetime import date
from itertools import product
from pathlib import Path

import numpy as np
from _images import labelled_images
from _machine import machine
from sklearn.frozen import FrozenEstimator

from skood import LikelihoodRatio, PixelCNN
from skood.metrics import aupr_in, aupr_out, auroc, fpr_at_tpr


@dataclass(frozen=True)
class Preset:
    """Settings of one run; `paper` has the published settings."""

    n_resnet: int
    learning_rate: float
    lr_schedule: str
    batch_size: int
    foreground_steps: int
    background_steps: int
    mutation_rates: tuple[float, ...]
    reg_weights: tuple[float, ...]
    n_scored: int | None


PRESETS = {
    "quick": Preset(
        n_resnet=2,
        learning_rate=2e-3,
        lr_schedule="cosine",
        # In equal time, many small batches train better than few large ones.
        batch_size=8,
        foreground_steps=44_000,
        background_steps=600,
        mutation_rates=(0.1, 0.2, 0.3),
        reg_weights=(10.0, 100.0),
        n_scored=2000,
    ),
    "paper": Preset(
        n_resnet=5,
        learning_rate=1e-4,
        lr_schedule="exponential",
        batch_size=32,
        foreground_steps=50_000,
        background_steps=50_000,
        mutation_rates=(0.1, 0.2, 0.3),
        reg_weights=(0.0, 10.0, 100.0),
        n_scored=None,
    ),
}
CIFAR_STEPS = 600_000


def read_images(directory: Path, name: str, split: str) -> np.ndarray:
    """Read a set as uint8 images, (n, 28, 28) or (n, 32, 32, 3)."""
    if name == "cifar10_grey":
        grey = read_images(directory, "cifar10", split) @ np.array([0.299, 0.587, 0.114])
        return np.repeat(grey.round().astype(np.uint8)[..., None], 3, axis=3)
    return labelled_images(directory, name, split)[0]


def models(preset: str) -> list[tuple[float, float]]:
    """Return the mutation rate and the penalty weight of each density, the foreground first."""
    return [(0.0, 0.0), *product(PRESETS[preset].mutation_rates, PRESETS[preset].reg_weights)]


class Experiment:
    """One seed of the experiment."""

    def __init__(self, args: argparse.Namespace, seed: int) -> None:
        self.args = args
        self.seed = seed
        self.preset = PRESETS[args.preset]
        self.work = Path(args.work) / f"{args.id}-{args.preset}-{seed}"
        self.work.mkdir(parents=True, exist_ok=True)

        rng = np.random.default_rng(seed)
        everything = read_images(args.data, args.id, "train")
        order = rng.permutation(len(everything))
        n_training = int(0.8 * len(everything))
        self.training = everything[order[:n_training]]
        self.sets = {
            "validation_id": everything[order[n_training:]],
            "validation_ood": read_images(args.data, args.validation, "test"),
            "test_id": read_images(args.data, args.id, "test"),
            "test_ood": read_images(args.data, args.ood, "test"),
        }
        if self.preset.n_scored is not None:
            for name, images in self.sets.items():
                kept = rng.permutation(len(images))[: self.preset.n_scored]
                self.sets[name] = images[np.sort(kept)]

    def density(self, mutation_rate: float, reg_weight: float) -> PixelCNN:
        """Train a density, or load it from an earlier run."""
        preset = self.preset
        steps = preset.background_steps if mutation_rate else preset.foreground_steps
        if self.args.preset == "paper" and self.args.id == "cifar10":
            steps = CIFAR_STEPS
        return PixelCNN(
            n_resnet=preset.n_resnet,
            mutation_rate=mutation_rate,
            reg_weight=reg_weight,
            learning_rate=preset.learning_rate,
            lr_schedule=preset.lr_schedule,
            max_epochs=10**6,
            max_steps=steps,
            batch_size=preset.batch_size,
            validation_fraction=0.0,
            checkpoint_dir=self.work,
            verbose=self.args.verbose,
            random_state=self.seed,
        ).fit(self.training)

    def scores(self, mutation_rate: float = 0.0, reg_weight: float = 0.0) -> dict[str, np.ndarray]:
        """Return the log-densities of all sets under one model, and the seconds they took."""
        path = self.work / f"scores-mu{mutation_rate:g}-lambda{reg_weight:g}.npz"
        if not path.exists():
            start = time.perf_counter()
            density = self.density(mutation_rate, reg_weight)
            trained = time.perf_counter()
            scores = {name: density.score_samples(images) for name, images in self.sets.items()}
            scored = time.perf_counter()
            np.savez(path, seconds=trained - start, scoring_seconds=scored - trained, **scores)
        with np.load(path) as stored:
            return dict(stored)

    def run(self) -> dict:
        foreground = self.scores()
        bits = -foreground["test_id"].mean() / np.log(2) / self.training[0].size
        result = {
            "seed": self.seed,
            "bits_per_dim_test_id": bits,
            "seconds": {
                "foreground_training": float(foreground["seconds"]),
                "background_training": 0.0,
                "scoring": float(foreground["scoring_seconds"]),
            },
            "log_p": measure(foreground["test_id"], foreground["test_ood"]),
            "grid": [],
        }
        print(f"log p: {bits:.3f} bits/dim, {line(result['log_p'])}", flush=True)
        for rate, weight in models(self.args.preset)[1:]:
            background = self.scores(rate, weight)
            ratio = {name: foreground[name] - background[name] for name in self.sets}
            row = {
                "mutation_rate": rate,
                "reg_weight": weight,
                "validation_auroc": measure(ratio["validation_id"], ratio["validation_ood"])[
                    "auroc"
                ],
                **measure(ratio["test_id"], ratio["test_ood"]),
            }
            result["grid"].append(row)
            result["seconds"]["background_training"] += float(background["seconds"])
            result["seconds"]["scoring"] += float(background["scoring_seconds"])
            print(
                f"LLR mutation {rate:g} weight {weight:g}: "
                f"validation AUROC {row['validation_auroc']:.3f}, {line(row)}",
                flush=True,
            )
        result["chosen"] = max(result["grid"], key=lambda row: row["validation_auroc"])
        unregularised = [row for row in result["grid"] if row["reg_weight"] == 0]
        if unregularised:
            result["chosen_mutation_only"] = max(
                unregularised, key=lambda row: row["validation_auroc"]
            )
        print(f"chosen on {self.args.validation}: {line(result['chosen'])}", flush=True)
        return result

    def plot(self, chosen: dict, path: Path) -> None:
        """Draw histograms of log p and the ratio, and heat maps of the ratio."""
        import matplotlib

        matplotlib.use("Agg")
        import matplotlib.pyplot as plt

        foreground = self.scores()
        background = self.scores(chosen["mutation_rate"], chosen["reg_weight"])
        detector = LikelihoodRatio(
            FrozenEstimator(self.density(0.0, 0.0)),
            FrozenEstimator(self.density(chosen["mutation_rate"], chosen["reg_weight"])),
            random_state=self.seed,
        ).fit(self.training[:1000])
        figure = plt.figure(figsize=(11, 6), layout="constrained")
        top, bottom = figure.subfigures(2, 1, height_ratios=(1.4, 1))
        panels = {
            "log p": foreground,
            "log-likelihood ratio": {k: foreground[k] - background[k] for k in self.sets},
        }
        for axis, (title, scores) in zip(top.subplots(1, 2), panels.items(), strict=True):
            for name, label in (("test_id", self.args.id), ("test_ood", self.args.ood)):
                axis.hist(scores[name], bins=80, alpha=0.6, density=True, label=label)
            axis.set(title=title, xlabel="nats", ylabel="density")
            axis.legend()
        images = np.concatenate([self.sets["test_id"][:5], self.sets["test_ood"][:5]])
        maps = detector.score_pixels(images)
        limit = np.percentile(np.abs(maps), 99)
        axes = bottom.subplots(2, len(images))
        for column, (image, heat) in enumerate(zip(images, maps, strict=True)):
            axes[0, column].imshow(image, cmap="gray")
            axes[1, column].imshow(heat, cmap="RdBu", vmin=-limit, vmax=limit)
        for axis in axes.flat:
            axis.set_axis_off()
        bottom.suptitle("images, and the ratio pixel by pixel (blue = in-distribution)", fontsize=9)
        figure.savefig(path, dpi=110)


def measure(inliers: np.ndarray, outliers: np.ndarray) -> dict[str, float]:
    labels = np.repeat([1, -1], [len(inliers), len(outliers)])
    scores = np.concatenate([inliers, outliers])
    return {
        "auroc": auroc(labels, scores),
        "aupr_in": aupr_in(labels, scores),
        "aupr_out": aupr_out(labels, scores),
        "fpr80": fpr_at_tpr(labels, scores, tpr=0.8),
        "fpr95": fpr_at_tpr(labels, scores, tpr=0.95),
    }


def line(row: dict) -> str:
    areas = {"AUROC": "auroc", "AUPR in": "aupr_in", "AUPR out": "aupr_out"}
    rates = {"FPR80": "fpr80", "FPR95": "fpr95"}
    return ", ".join(
        [f"{name} {row[key]:.3f}" for name, key in areas.items()]
        + [f"{name} {100 * row[key]:.1f} %" for name, key in rates.items()]
    )


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--id", default="fashion_mnist")
    parser.add_argument("--ood", default="mnist")
    parser.add_argument("--validation", default="notmnist")
    parser.add_argument("--preset", choices=PRESETS, default="quick")
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0])
    parser.add_argument(
        "--density", type=float, nargs=2, metavar=("RATE", "WEIGHT"), help="train this model alone"
    )
    parser.add_argument("--work", default="checkpoints", help="models and scores, for resuming")
    parser.add_argument("--out", type=Path, default=Path(__file__).parent / "results")
    parser.add_argument("--verbose", type=int, default=1)
    args = parser.parse_args()

    args.out.mkdir(parents=True, exist_ok=True)
    if args.density is not None:
        for seed in args.seeds:
            Experiment(args, seed).scores(*args.density)
        return
    stem = args.out / f"likelihood_ratio-{args.id}-{args.ood}-{args.preset}"
    runs = []
    for seed in args.seeds:
        experiment = Experiment(args, seed)
        runs.append(experiment.run())
        report = {
            "experiment": {"id": args.id, "ood": args.ood, "validation": args.validation},
            "preset": {"name": args.preset, **asdict(PRESETS[args.preset])},
            "machine": machine(),
            "date": date.today().isoformat(),
            "runs": runs,
        }
        stem.with_suffix(".json").write_text(json.dumps(report, indent=2) + "\n")
    experiment.plot(runs[-1]["chosen"], stem.with_suffix(".png"))
    if len(runs) > 1:
        for name in ("log_p", "chosen"):
            values = [run[name]["auroc"] for run in runs]
            print(f"{name}: AUROC {np.mean(values):.3f} ({np.std(values, ddof=1):.3f})")


if __name__ == "__main__":
    main()
