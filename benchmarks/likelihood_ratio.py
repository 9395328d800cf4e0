"""Likelihood ratios with PixelCNN++ (Ren et al. 2019): the published experiment.

Trains a density on the in-distribution (ID) set and a grid of background models. The background is
chosen by the AUROC of held-out ID images against the synthetic outliers that ``LikelihoodRatio``
makes from them by itself. Log p and every ratio are then measured on the OOD sets, none of which
takes part in the choice:

    python benchmarks/likelihood_ratio.py --data DIR
    python benchmarks/likelihood_ratio.py --data DIR --seeds 1 2        # adds two seeds
    python benchmarks/likelihood_ratio.py --data DIR --preset long      # further backgrounds
    python benchmarks/likelihood_ratio.py --data DIR --preset paper     # for a GPU
    python benchmarks/likelihood_ratio.py --data DIR --id cifar10
    python benchmarks/likelihood_ratio.py --table                       # the stored results as text

DIR has torchvision's layout (DIR/FashionMNIST/raw, DIR/MNIST/raw, ...; notMNIST in the same format
in DIR/notMNIST/raw), or a ``read_data.py`` with ``load(name, split)``. An interrupted run resumes
when started again with the same --work folder; `long` continues from the models of `quick`. Each
run adds its seeds to the stored results, as long as the settings are the same. --density trains and
scores a single model, so that several processes can share the work. Results, a histogram of the
scores and heat maps go to --out. The preset `smoke` tries the script in a minute.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from datetime import date
from itertools import product
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from _images import labelled_images
from _machine import machine
from sklearn.frozen import FrozenEstimator

from skood import LikelihoodRatio, PixelCNN
from skood._data.checked_data import CheckedData
from skood._torch.seeding import Stream, numpy_rng
from skood.likelihood._synthetic_outliers import synthetic_outliers as own_outliers
from skood.metrics import aupr_in, aupr_out, auroc, fpr_at_tpr


@dataclass(frozen=True)
class Preset:
    """Settings of one run; `paper` has the published settings.

    The backgrounds are a grid of mutation rates and penalty weights, trained for
    `background_steps` batches, and of mutation rates without penalty, trained for each of
    `unpenalised_steps`.
    """

    n_resnet: int
    learning_rate: float
    lr_schedule: str
    batch_size: int
    foreground_steps: int
    background_batch_size: int
    background_steps: int
    mutation_rates: tuple[float, ...]
    reg_weights: tuple[float, ...]
    unpenalised_steps: tuple[int, ...] = ()
    pixel_origin: str = "auto"
    n_filters: int = 32
    n_validation: int | None = None
    n_scored: int | None = None


QUICK = Preset(
    n_resnet=2,
    learning_rate=2e-3,
    lr_schedule="cosine",
    # In equal time, a foreground trains better on many small batches than on few large ones.
    batch_size=8,
    foreground_steps=36_000,
    background_batch_size=32,
    background_steps=600,
    mutation_rates=(0.1, 0.3),
    reg_weights=(0.0, 0.1, 1.0, 10.0),
    n_validation=1000,
    n_scored=2000,
)
PRESETS = {
    "quick": QUICK,
    "long": replace(QUICK, mutation_rates=(0.1, 0.2, 0.3), unpenalised_steps=(2000, 6500)),
    "deep": replace(QUICK, n_resnet=5, foreground_steps=44_000),
    "paper": Preset(
        n_resnet=5,
        learning_rate=1e-4,
        lr_schedule="exponential",
        batch_size=32,
        foreground_steps=50_000,
        background_batch_size=32,
        background_steps=50_000,
        mutation_rates=(0.1, 0.2, 0.3),
        reg_weights=(0.0, 10.0, 100.0),
    ),
    "smoke": replace(
        QUICK,
        n_resnet=1,
        n_filters=4,
        foreground_steps=30,
        background_steps=5,
        unpenalised_steps=(10,),
        n_validation=40,
        n_scored=50,
    ),
}
CIFAR_STEPS = 600_000
# The first OOD set names the results; notMNIST and grey CIFAR-10 are the paper's validation sets.
OOD_SETS = {
    "fashion_mnist": ("mnist", "notmnist"),
    "mnist": ("fashion_mnist", "notmnist"),
    "cifar10": ("svhn", "cifar10_grey"),
}
MEASURES: dict[str, Callable[[np.ndarray, np.ndarray], float]] = {
    "auroc": auroc,
    "aupr_in": aupr_in,
    "aupr_out": aupr_out,
    "fpr80": lambda labels, scores: fpr_at_tpr(labels, scores, tpr=0.8),
    "fpr95": lambda labels, scores: fpr_at_tpr(labels, scores, tpr=0.95),
}


class Model(NamedTuple):
    """What distinguishes the models of a run."""

    mutation_rate: float
    reg_weight: float
    n_steps: int

    @property
    def name(self) -> str:
        return f"{self.mutation_rate:g}, {self.reg_weight:g}, {self.n_steps} steps"


def models(preset: str) -> list[tuple[float, float]]:
    """Return the mutation rate and the penalty weight of each density, the foreground first."""
    return [(0.0, 0.0), *product(PRESETS[preset].mutation_rates, PRESETS[preset].reg_weights)]


def read_images(directory: Path, name: str, split: str) -> np.ndarray:
    """Read a set as uint8 images, (n, 28, 28) or (n, 32, 32, 3)."""
    if name == "cifar10_grey":
        grey = read_images(directory, "cifar10", split) @ np.array([0.299, 0.587, 0.114])
        return np.repeat(grey.round().astype(np.uint8)[..., None], 3, axis=3)
    return labelled_images(directory, name, split)[0]


class Experiment:
    """One seed of the experiment."""

    def __init__(self, args: argparse.Namespace, seed: int) -> None:
        self.args = args
        self.seed = seed
        self.preset = PRESETS[args.preset]
        # `long` only adds backgrounds to `quick`.
        shared = "quick" if args.preset == "long" else args.preset
        self.work = Path(args.work) / f"{args.id}-{shared}-{seed}"
        self.work.mkdir(parents=True, exist_ok=True)

        rng = np.random.default_rng(seed)
        everything = read_images(args.data, args.id, "train")
        order = rng.permutation(len(everything))
        n_training = int(0.8 * len(everything))
        self.training = everything[order[:n_training]]
        held_out = everything[order[n_training:]][: self.preset.n_validation]
        self.sets = {"held_out": held_out, "synthetic": synthetic(held_out, seed)}
        for name in (args.id, *args.ood):
            images = read_images(args.data, name, "test")
            kept = rng.permutation(len(images))[: self.preset.n_scored]
            self.sets[name] = images[np.sort(kept)]

        preset = self.preset
        long = CIFAR_STEPS if args.preset == "paper" and args.id == "cifar10" else None
        steps = long or preset.background_steps
        grid = product(preset.mutation_rates, preset.reg_weights)
        unpenalised = product(preset.mutation_rates, preset.unpenalised_steps)
        self.foreground = Model(0.0, 0.0, long or preset.foreground_steps)
        self.backgrounds = [
            *(Model(rate, weight, steps) for rate, weight in grid),
            *(Model(rate, 0.0, n_steps) for rate, n_steps in unpenalised),
        ]

    def density(self, model: Model) -> PixelCNN:
        """Return the untrained density."""
        preset = self.preset
        is_foreground = model == self.foreground
        return PixelCNN(
            n_filters=preset.n_filters,
            n_resnet=preset.n_resnet,
            pixel_origin=preset.pixel_origin,
            mutation_rate=model.mutation_rate,
            reg_weight=model.reg_weight,
            learning_rate=preset.learning_rate,
            lr_schedule=preset.lr_schedule,
            max_epochs=10**6,
            max_steps=model.n_steps,
            batch_size=preset.batch_size if is_foreground else preset.background_batch_size,
            validation_fraction=0.0,
            random_state=self.seed,
        )

    def trained(self, model: Model) -> PixelCNN:
        """Train a density, or load it from an earlier run."""
        density = self.density(model)
        density.set_params(checkpoint_dir=self.work, verbose=self.args.verbose)
        return density.fit(self.training)

    def scores(self, model: Model) -> dict[str, np.ndarray]:
        """Return the log-densities of all sets under one model, and the seconds they took."""
        path = self.work / f"scores-{model.name.replace(', ', '-').replace(' ', '_')}.npz"
        sizes = {name: len(images) for name, images in self.sets.items()}
        settings = json.dumps([self.density(model).get_params(), sizes], sort_keys=True)
        if path.exists():
            with np.load(path) as stored:
                if str(stored["settings"]) == settings:
                    return dict(stored)
        start = time.perf_counter()
        density = self.trained(model)
        trained = time.perf_counter()
        scores: dict[str, Any] = {
            name: density.score_samples(images) for name, images in self.sets.items()
        }
        scored = time.perf_counter()
        scores |= {"seconds": trained - start, "scoring_seconds": scored - trained}
        np.savez(path, settings=settings, **scores)
        return scores

    def run(self) -> dict[str, Any]:
        foreground = self.scores(self.foreground)
        bits = -foreground[self.args.id].mean() / np.log(2) / self.training[0].size
        seconds = {
            "foreground_training": float(foreground["seconds"]),
            "background_training": 0.0,
            "scoring": float(foreground["scoring_seconds"]),
        }
        log_p = self.measure(foreground)
        print(f"log p: {bits:.3f} bits/dim, {self.line(log_p)}", flush=True)
        grid: list[dict[str, Any]] = []
        for model in self.backgrounds:
            background = self.scores(model)
            ratio = {name: foreground[name] - background[name] for name in self.sets}
            row: dict[str, Any] = {
                "background": model.name,
                "bits_per_dim": float(
                    -background[self.args.id].mean() / np.log(2) / self.training[0].size
                ),
                "synthetic_auroc": measure(ratio["held_out"], ratio["synthetic"])["auroc"],
                **self.measure(ratio),
            }
            grid.append(row)
            seconds["background_training"] += float(background["seconds"])
            seconds["scoring"] += float(background["scoring_seconds"])
            print(f"LLR {model.name}: {self.line(row)}", flush=True)
        chosen = max(grid, key=lambda row: row["synthetic_auroc"])
        print(f"chosen by synthetic outliers: {chosen['background']}, {self.line(chosen)}")
        return {
            "seed": self.seed,
            "machine": machine(),
            "date": date.today().isoformat(),
            "bits_per_dim": bits,
            "seconds": seconds,
            "log_p": log_p,
            "grid": grid,
            "chosen": chosen,
        }

    def measure(self, scores: dict[str, np.ndarray]) -> dict[str, dict[str, float]]:
        return {name: measure(scores[self.args.id], scores[name]) for name in self.args.ood}

    def line(self, row: dict[str, Any]) -> str:
        found = [f"{name} AUROC {row[name]['auroc']:.3f}" for name in self.args.ood]
        first = row[self.args.ood[0]]
        if "synthetic_auroc" in row:
            found.insert(0, f"synthetic AUROC {row['synthetic_auroc']:.3f}")
        return ", ".join([*found, *(f"{key} {100 * first[key]:.1f} %" for key in RATES)])

    def plot(self, chosen: str, path: Path) -> None:
        """Draw histograms of log p and the ratio, and heat maps of the ratio."""
        import matplotlib

        matplotlib.use("Agg")
        import matplotlib.pyplot as plt

        best = next(model for model in self.backgrounds if model.name == chosen)
        foreground, background = self.scores(self.foreground), self.scores(best)
        detector = LikelihoodRatio(
            FrozenEstimator(self.trained(self.foreground)),
            FrozenEstimator(self.trained(best)),
            random_state=self.seed,
        ).fit(self.training[:1000])
        figure = plt.figure(figsize=(11, 6), layout="constrained")
        top, bottom = figure.subfigures(2, 1, height_ratios=(1.4, 1))
        panels = {
            "log p(x)": foreground,
            "log-likelihood ratio": {k: foreground[k] - background[k] for k in self.sets},
        }
        names = self.args.id, self.args.ood[0]
        for axis, (title, scores) in zip(top.subplots(1, 2), panels.items(), strict=True):
            for name in names:
                label = TITLES.get(name, name)
                axis.hist(scores[name], bins=80, alpha=0.6, density=True, label=label)
            y = np.repeat([1, -1], [len(scores[name]) for name in names])
            area = auroc(y, np.concatenate([scores[name] for name in names]))
            axis.set(title=f"{title}: AUROC {area:.3f}", xlabel="nats", ylabel="density")
            axis.legend()
        images = np.concatenate([self.sets[name][:5] for name in names])
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


RATES = ("fpr80", "fpr95")
TITLES = {
    "cifar10": "CIFAR-10",
    "fashion_mnist": "Fashion-MNIST",
    "mnist": "MNIST",
    "notmnist": "notMNIST",
    "svhn": "SVHN",
}


def synthetic(images: np.ndarray, seed: int) -> np.ndarray:
    """Make the outliers by which ``LikelihoodRatio`` chooses a background, one from each image."""
    data = CheckedData.of(images[:, None] if images.ndim == 3 else np.moveaxis(images, 3, 1))
    made = own_outliers(data, numpy_rng(seed, Stream.SYNTHETIC_OUTLIERS))
    outliers = made.take(np.arange(len(data)))
    return outliers[:, 0] if images.ndim == 3 else np.moveaxis(outliers, 1, 3)


def measure(inliers: np.ndarray, outliers: np.ndarray) -> dict[str, float]:
    labels = np.repeat([1, -1], [len(inliers), len(outliers)])
    scores = np.concatenate([inliers, outliers])
    return {name: float(of(labels, scores)) for name, of in MEASURES.items()}


def merged(path: Path, settings: dict[str, Any], run: dict[str, Any]) -> dict[str, Any]:
    """Add a run to the stored report, in the place of an earlier run with its seed."""
    runs = [run]
    if path.exists():
        stored = json.loads(path.read_text())
        if {key: stored.get(key) for key in settings} == json.loads(json.dumps(settings)):
            runs += [other for other in stored["runs"] if other["seed"] != run["seed"]]
        else:
            print(f"{path} has results of other settings, which this run replaces", flush=True)
    return {**settings, "runs": sorted(runs, key=lambda other: other["seed"])}


def text(report: dict[str, Any]) -> str:
    """Format the means over seeds, and their standard deviations, as Markdown."""
    runs, names = report["runs"], report["experiment"]["ood"]

    def cell(values: list[float], factor: float = 1.0, digits: int = 3) -> str:
        mean = f"{factor * np.mean(values):.{digits}f}"
        if len(values) == 1:
            return mean
        return f"{mean} ({factor * np.std(values, ddof=1):.{digits}f})"

    def line(title: str, rows: list[dict[str, Any]]) -> str:
        has = "synthetic_auroc" in rows[0]
        cells = [title, cell([row["synthetic_auroc"] for row in rows]) if has else ""]
        cells += [cell([row[name]["auroc"] for row in rows]) for name in names]
        cells += [cell([row[names[0]]["aupr_in"] for row in rows])]
        cells += [cell([row[names[0]][key] for row in rows], 100, 1) for key in RATES]
        return f"| {' | '.join(cells)} |"

    of_seeds = [{row["background"]: row for row in run["grid"]} for run in runs]
    chosen = ", ".join(f"{run['chosen']['background']} (seed {run['seed']})" for run in runs)
    minutes = [sum(run["seconds"].values()) / 60 for run in runs]
    return "\n".join(
        [
            f"Preset {report['preset']['name']}, seeds {[run['seed'] for run in runs]}, "
            f"{cell([run['bits_per_dim'] for run in runs])} bits per dimension, "
            f"{cell(minutes, digits=1)} minutes. AUPR, FPR80 and FPR95 (in %) against {names[0]}, "
            "with in-distribution images as the positive class; mean (standard deviation).",
            f"Chosen by synthetic outliers: {chosen}.",
            "",
            f"| score | synthetic | {' | '.join(names)} | AUPR | FPR80 | FPR95 |",
            "|---" * (len(names) + 5) + "|",
            line("log p", [run["log_p"] for run in runs]),
            *(
                line(f"LLR, {name}", [of_seed[name] for of_seed in of_seeds])
                for name in of_seeds[0]
            ),
            line("**LLR, chosen by synthetic outliers**", [run["chosen"] for run in runs]),
        ]
    )


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--id", choices=OOD_SETS, default="fashion_mnist")
    parser.add_argument("--ood", nargs="+", help="tested sets; the first one names the results")
    parser.add_argument("--preset", choices=PRESETS, default="quick")
    parser.add_argument("--data", type=Path)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0])
    parser.add_argument(
        "--density", type=float, nargs="+", metavar="RATE WEIGHT [STEPS]", help="train this alone"
    )
    parser.add_argument("--work", default="checkpoints", help="models and scores, for resuming")
    parser.add_argument("--out", type=Path, default=Path(__file__).parent / "results")
    parser.add_argument("--verbose", type=int, default=1)
    parser.add_argument("--table", action="store_true", help="print the stored results")
    args = parser.parse_args()
    args.ood = args.ood or OOD_SETS[args.id]
    stem = args.out / f"likelihood_ratio-{args.id}-{args.ood[0]}-{args.preset}"
    path = stem.with_suffix(".json")
    if args.table:
        print(text(json.loads(path.read_text())))
        return
    if args.data is None:
        parser.error("--data is needed to run")
    args.out.mkdir(parents=True, exist_ok=True)
    settings = {
        "experiment": {"id": args.id, "ood": list(args.ood)},
        "preset": {"name": args.preset, **asdict(PRESETS[args.preset])},
    }
    for seed in args.seeds:
        experiment = Experiment(args, seed)
        if args.density is not None:
            wanted = tuple(args.density)
            for model in [experiment.foreground, *experiment.backgrounds]:
                if model[: len(wanted)] == wanted:
                    experiment.scores(model)
                    break
            else:
                parser.error(f"--density {wanted} is not a model of the preset {args.preset}")
            continue
        run = experiment.run()
        report = merged(path, settings, run)
        path.write_text(json.dumps(report, indent=2) + "\n")
        experiment.plot(run["chosen"]["background"], stem.with_suffix(".png"))
        print(text(report), flush=True)


if __name__ == "__main__":
    main()
