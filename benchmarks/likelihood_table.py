"""Detectors on densities, on pairs of sets, compared with published figures.

Trains each density on one set and tests every detector on it against the other sets:

    python benchmarks/likelihood_table.py --id fashion_mnist --preset quick --data DIR  # 2 cores
    python benchmarks/likelihood_table.py --preset diffusion --data DIR  # 2 cores, 2 hours
    python benchmarks/likelihood_table.py --id fashion_mnist --preset gpu --data DIR    # minutes
    python benchmarks/likelihood_table.py --id fashion_mnist --preset paper --data DIR  # a GPU
    python benchmarks/likelihood_table.py --table     # the stored results as text

DIR is the same as for flow_lid.py. Detectors have their default parameters and are fitted to
training images that the densities are not trained on; nothing is tuned on an OOD set. An
interrupted run resumes when started again with the same --work folder; with --only, several
processes can share the densities. `diffusion` trains the diffusion model alone, for 30 epochs, and
also tests other settings of the detectors on it.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable
from dataclasses import dataclass, replace
from datetime import date
from pathlib import Path
from time import perf_counter
from typing import Any

import joblib
import numpy as np
from _machine import machine
from flow_lid import COLOUR, GREY, read, some
from sklearn.frozen import FrozenEstimator

import skood
from skood.metrics import auroc, fpr_at_tpr

# AUROC from the literature, of other densities than ours; for the detectors on diffusion models,
# from Kamkari et al. 2024.
PUBLISHED = {
    ("fashion_mnist", "mnist"): {
        "Typicality": 0.850,
        "WAIC": 0.221,
        "InputComplexity": 0.998,
        "LikelihoodRegret": 0.990,
        "DensityOfStates, kde": 1.000,
        "DiffusionReconstruction": 0.981,
        "CCLR": 0.781,
        "HierarchicalRatio": 0.980,
    },
    ("cifar10", "svhn"): {
        "Typicality": 0.900,
        "WAIC": 0.143,
        "InputComplexity": 0.950,
        "LikelihoodRegret": 0.880,
        "DensityOfStates, kde": 0.955,
        "DiffusionReconstruction": 0.876,
        "CCLR": 0.829,
        "HierarchicalRatio": 0.890,
    },
}


@dataclass(frozen=True)
class Preset:
    """Settings of each density; numbers of images that detectors are fitted to, and per set."""

    flow: dict[str, Any]
    vae: dict[str, Any]
    hierarchical: dict[str, Any]
    autoencoder: dict[str, Any]
    latent_flow: dict[str, Any]
    diffusion: dict[str, Any]
    # Whether to test detectors on the diffusion model's log-density, which takes a hundred passes.
    integrates: bool
    n_fit: int
    n_test: int
    # The densities that are trained; all of them if empty.
    only: tuple[str, ...] = ()
    # Further detectors on the diffusion model.
    further: bool = False


def hierarchical(n_steps: int, n_filters: int = 32, **settings: Any) -> dict[str, Any]:
    """Settings of the hierarchical VAE, with the published layers of latents and schedules."""
    return {
        "n_latents": (8, 16, 8),
        "n_spatial_layers": 1,
        "n_blocks": 1,
        "n_filters": (n_filters, n_filters),
        "free_nats_per": "latent",
        "n_free_nats_steps": max(1, 2 * n_steps // 5),
        "n_warmup_steps": n_steps // 5,
        "batch_size": 64,
        "max_steps": n_steps,
        "max_epochs": 1000,
        "patience": None,
        "learning_rate": 2e-3,
        "lr_schedule": "cosine",
        **settings,
    }


PRESETS = {
    "smoke": Preset(
        {"n_transforms": (2, 2), "n_filters": 8, "max_steps": 20},
        {"max_steps": 20},
        hierarchical(20, 8, n_importance_samples=2),
        {"max_steps": 20},
        {"max_steps": 20},
        {"n_filters": (8,), "max_steps": 20, "n_steps": 2},
        True,
        64,
        32,
    ),
    "quick": Preset(
        {"n_transforms": (4, 4, 2), "n_filters": 32, "n_blocks": 1, "max_steps": 1500},
        {"n_latent": 16, "max_steps": 1000},
        hierarchical(4000, 16, batch_size=32, learning_rate=3e-3, n_importance_samples=8),
        {"n_latent": 16, "max_steps": 1000},
        {"max_steps": 1000},
        {"batch_size": 64, "max_steps": 1000},
        False,
        500,
        256,
    ),
    "gpu": Preset(
        {
            "batch_size": 512,
            "learning_rate": 2e-3,
            "max_epochs": 1000,
            "max_steps": 2400,
            "patience": None,
            "compile": False,
        },
        {"n_latent": 16, "max_steps": 10_000},
        hierarchical(40_000, 64, n_importance_samples=64),
        {"n_latent": 16, "max_steps": 5000},
        {"max_steps": 5000},
        {"max_steps": 8000},
        True,
        500,
        500,
    ),
    "paper": Preset(
        {"max_steps": 20_000},
        {"n_latent": 100, "max_steps": 20_000},
        # 1 000 epochs.
        hierarchical(
            469_000,
            64,
            n_blocks=3,
            batch_size=128,
            learning_rate=3e-4,
            lr_schedule="constant",
            n_importance_samples=1000,
        ),
        {},
        {"max_steps": 20_000},
        {"n_filters": (128, 256, 256), "max_steps": 100_000},
        True,
        1000,
        1000,
    ),
}
PRESETS["diffusion"] = replace(
    PRESETS["quick"],
    diffusion={"batch_size": 64, "max_steps": 28_000},
    integrates=True,
    only=("Diffusion",),
    further=True,
)
PRESETS["diffusion smoke"] = replace(PRESETS["smoke"], only=("Diffusion",), further=True)

Detectors = dict[str, Callable[[Any], Any]]
FOR_ALL: Detectors = {
    "LogLikelihood": skood.LogLikelihood,
    "Typicality": skood.Typicality,
    "InputComplexity": skood.InputComplexity,
}
STATISTICS: Detectors = {
    "DensityOfStates, kde": skood.DensityOfStates,
    "DensityOfStates, svm": lambda density: skood.DensityOfStates(density, estimator="svm"),
}
ON: dict[str, Detectors] = {
    "ImageFlow": {
        **FOR_ALL,
        **STATISTICS,
        "ApproximateMass": skood.ApproximateMass,
        "LatentNorm": skood.LatentNorm,
        "LocalIntrinsicDimension": skood.LocalIntrinsicDimension,
    },
    "VAE": {**FOR_ALL, **STATISTICS, "LikelihoodRegret": skood.LikelihoodRegret},
    # InputComplexity would compare grey images with log-probabilities of binarised ones.
    "HierarchicalVAE": {
        "LogLikelihood": skood.LogLikelihood,
        "Typicality": skood.Typicality,
        "HierarchicalRatio": skood.HierarchicalRatio,
        "HierarchicalRatio, k=2": lambda density: skood.HierarchicalRatio(density, k=2),
    },
    "TwoStep": {"LogLikelihood": skood.LogLikelihood},
    "Diffusion": {
        "DiffusionReconstruction": skood.DiffusionReconstruction,
        "CCLR": skood.CCLR,
        "ScoreNorm": skood.ScoreNorm,
    },
    "five VAEs": {"WAIC": skood.WAIC},
}
INTEGRATING: Detectors = {**FOR_ALL, "LocalIntrinsicDimension": skood.LocalIntrinsicDimension}


def reconstruction(**settings: Any) -> Callable[[Any], Any]:
    return lambda density: skood.DiffusionReconstruction(density, **settings)


# The published settings are 100 times with up to 1 000 steps of the SDE, and the distances L2 and
# LPIPS; the published figure of CCLR is the best of five fractions of the time.
FURTHER: Detectors = {
    "DiffusionReconstruction, mse": reconstruction(distance="mse"),
    "DiffusionReconstruction, ssim": reconstruction(distance="ssim"),
    "DiffusionReconstruction, 20 times": reconstruction(times=20),
    "DiffusionReconstruction, until 0.25": reconstruction(times=(0.05, 0.1, 0.15, 0.2, 0.25)),
    "DiffusionReconstruction, ode": reconstruction(times=(0.1, 0.2, 0.3, 0.4, 0.5), n_steps=4),
    "DiffusionReconstruction, sde": reconstruction(times=10, n_steps=20, solver="sde"),
    **{
        f"CCLR, {tau}": lambda density, tau=tau: skood.CCLR(density, time_fraction=tau)
        for tau in (0.1, 0.25, 0.33, 0.66)
    },
    "ScoreNorm, 0.01": lambda density: skood.ScoreNorm(density, t=0.01),
    "ScoreNorm, 0.1": lambda density: skood.ScoreNorm(density, t=0.1),
}


def densities(args: argparse.Namespace) -> dict[str, Any]:
    preset = PRESETS[args.preset]
    settings = {"random_state": args.seed, "verbose": args.verbose, "checkpoint_dir": args.work}
    autoencoder = skood.Autoencoder(**preset.autoencoder, **settings)
    latent_flow = skood.NeuralSplineFlow(**preset.latent_flow, **settings)
    # Grey images are binarised, as published; bits per dimension are bits per binary pixel.
    binary: dict[str, Any] = {}
    if args.id in GREY:
        binary = {"likelihood": "bernoulli", "binarize": "dynamic"}
    return {
        "ImageFlow": skood.ImageFlow(**preset.flow, **settings),
        "VAE": skood.VAE(**preset.vae, **settings),
        "HierarchicalVAE": skood.HierarchicalVAE(**preset.hierarchical, **binary, **settings),
        "TwoStep": skood.TwoStep(autoencoder, latent_flow, verbose=args.verbose),
        "Diffusion": skood.Diffusion(**preset.diffusion, **settings),
        "five VAEs": [
            skood.VAE(**preset.vae, **{**settings, "random_state": args.seed + k}) for k in range(5)
        ],
    }


def trained(args: argparse.Namespace, name: str, density: Any, X: np.ndarray) -> tuple[Any, float]:
    """Train a density, or load it from an earlier run; return it with its training seconds."""
    path = args.work / f"{stem(args)}-{name.replace(' ', '_')}.joblib"
    if path.exists():
        return joblib.load(path)
    start = perf_counter()
    if isinstance(density, list):
        density = [member.fit(X) for member in density]
    else:
        density = density.fit(X)
    joblib.dump((density, perf_counter() - start), path)
    return density, perf_counter() - start


def bits_per_dim(density: Any, X: np.ndarray) -> float | None:
    """Return the bits per dimension of the first density; None for a density on a manifold."""
    first = density[0] if isinstance(density, list) else density
    if isinstance(first, skood.TwoStep):
        return None
    if isinstance(first, skood.Diffusion):
        # An image takes a hundred passes of the network.
        X = X[:64]
    return float(first.bits_per_dim(X).mean())


def run(args: argparse.Namespace) -> None:
    preset = PRESETS[args.preset]
    others = [name for name in (GREY if args.id in GREY else COLOUR) if name != args.id]
    X = read(args.data, args.id, "train")
    order = np.random.default_rng(0).permutation(len(X))
    X, X_fit = X[np.sort(order[preset.n_fit :])], X[order[: preset.n_fit]]
    sets = {name: some(read(args.data, name, "test"), preset.n_test) for name in [args.id, *others]}
    for name, density in densities(args).items():
        if name not in (args.only or preset.only or ON):
            continue
        path = entry_path(args, name)
        entry = json.loads(path.read_text()) if path.exists() else {"detectors": {}}
        detectors = ON[name]
        if name == "Diffusion" and preset.integrates:
            detectors = {**detectors, **INTEGRATING}
        if name == "Diffusion" and preset.further:
            detectors = {**detectors, **FURTHER}
        if set(entry["detectors"]) == set(detectors):
            continue
        density, entry["training_seconds"] = trained(args, name, density, X)
        entry["bits_per_dim"] = bits_per_dim(density, sets[args.id])
        members = density if isinstance(density, list) else [density]
        frozen = [FrozenEstimator(member.set_params(verbose=0)) for member in members]
        for label, make in detectors.items():
            if label in entry["detectors"]:
                continue
            detector = make(frozen if isinstance(density, list) else frozen[0])
            entry["detectors"][label] = measured(detector, X_fit, sets, preset, args)
            path.write_text(json.dumps(entry))
            print(name, label, entry["detectors"][label], flush=True)


def entry_path(args: argparse.Namespace, name: str) -> Path:
    return args.work / f"{stem(args)}-{name.replace(' ', '_')}.json"


def collect(args: argparse.Namespace) -> None:
    """Write the results of all trained densities to one file."""
    preset = PRESETS[args.preset]
    paths = {name: entry_path(args, name) for name in ON}
    result = {
        "id": args.id,
        "preset": args.preset,
        "seed": args.seed,
        "n_fit": preset.n_fit,
        "n_test": preset.n_test,
        "machine": machine(),
        "date": date.today().isoformat(),
        "densities": {
            name: json.loads(path.read_text()) for name, path in paths.items() if path.exists()
        },
    }
    (args.out / f"{stem(args)}.json").write_text(json.dumps(result, indent=1) + "\n")


def measured(
    detector: Any,
    X_fit: np.ndarray,
    sets: dict[str, np.ndarray],
    preset: Preset,
    args: argparse.Namespace,
) -> dict[str, Any]:
    """Measure a detector against each of the other sets."""
    own = {"n_calibration": preset.n_fit} if "n_calibration" in detector.get_params(False) else {}
    start = perf_counter()
    detector.set_params(random_state=args.seed, verbose=args.verbose, **own).fit(X_fit)
    inside, *outside = (detector.score_samples(images) for images in sets.values())
    row: dict[str, Any] = {"id_accepted": float((inside >= detector.offset_).mean()), "ood": {}}
    truth = np.repeat([1, -1], preset.n_test)
    for name, scores in zip(list(sets)[1:], outside, strict=True):
        both = np.append(inside, scores)
        row["ood"][name] = {
            "auroc": auroc(truth, both),
            "fpr95": fpr_at_tpr(truth, both),
            "accepted": float((scores >= detector.offset_).mean()),
        }
    return {**row, "seconds": perf_counter() - start}


def stem(args: argparse.Namespace) -> str:
    return f"likelihood_table-{args.id}-{args.preset.replace(' ', '_')}" + (
        f"-{args.seed}" if args.seed else ""
    )


def text(result: dict[str, Any]) -> str:
    """Format a result as Markdown."""
    names = next(iter(next(iter(result["densities"].values()))["detectors"].values()))["ood"]
    lines = [
        f"ID {result['id']}, preset {result['preset']}, seed {result['seed']}, "
        f"{result['n_test']} images per set. AUROC / FPR95 in %",
        "",
        f"| density | bits/dim | detector | ID accepted, % | {' | '.join(names)} "
        "| published AUROC |",
        "|---" * (len(names) + 5) + "|",
    ]
    for density, entry in result["densities"].items():
        bits = entry["bits_per_dim"]
        for label, row in entry["detectors"].items():
            cells = [
                f"{row['ood'][name]['auroc']:.3f} / {100 * row['ood'][name]['fpr95']:.1f}"
                for name in names
            ]
            published = [
                f"{name}: {PUBLISHED[pair][label]:.3f}"
                for name in names
                if label in PUBLISHED.get(pair := (result["id"], name), {})
            ]
            lines.append(
                f"| {density} | {'' if bits is None else f'{bits:.2f}'} | {label} | "
                f"{100 * row['id_accepted']:.1f} | {' | '.join(cells)} | {', '.join(published)} |"
            )
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--id", choices=GREY + COLOUR, default="fashion_mnist")
    parser.add_argument("--preset", choices=PRESETS, default="quick")
    parser.add_argument("--data", type=Path)
    parser.add_argument("--only", nargs="*", choices=ON, help="densities; all by default")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--work", type=Path, default=Path("checkpoints"), help="for resuming")
    parser.add_argument("--out", type=Path, default=Path(__file__).parent / "results")
    parser.add_argument("--verbose", type=int, default=0)
    parser.add_argument("--table", action="store_true", help="print the stored results")
    args = parser.parse_args()
    if not args.table:
        if args.data is None:
            parser.error("--data is needed to run")
        for folder in (args.work, args.out):
            folder.mkdir(parents=True, exist_ok=True)
        run(args)
        if not args.only:
            collect(args)
    for path in sorted(args.out.glob("likelihood_table-*.json")):
        print(text(json.loads(path.read_text())), end="\n\n")


if __name__ == "__main__":
    main()
