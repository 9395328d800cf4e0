"""Selection of OODGen's defaults without the OOD test sets.

Trains OODGen on an in-distribution (ID) set with combinations of directions, radius and training of
the VAE:

    python benchmarks/oodgen_trials.py --data DIR
    python benchmarks/oodgen_trials.py --data DIR --only "uniform, 1 to 1.5, sampled"
    python benchmarks/oodgen_trials.py --table     # the stored results as text

Measured for the selection: accuracy on held-out ID images, the fraction of held-out generated
samples that is rejected, and AUROC against the validation sets (Omniglot, noise, and
`synthetic_outliers` of held-out ID images). Measured for the report alone: AUROC against the test
sets. DIR is the same as for oodgen.py; finished trials are loaded from the --work folder.
"""

from __future__ import annotations

import argparse
import json
from dataclasses import dataclass, replace
from datetime import date
from pathlib import Path
from time import perf_counter
from typing import Any

import numpy as np
from _machine import machine
from _names import file_name
from oodgen import SETTINGS, read
from sklearn.frozen import FrozenEstimator

from skood import VAE, OODGen, ShallowConvNet
from skood.datasets import gaussian_noise, sphere_noise, synthetic_outliers, uniform_noise
from skood.metrics import auroc, fpr_at_tpr

RADII = {"1 to 1.5": (1.0, 1.5), "1 to 3": (1.0, 3.0), "1.6 to 4.2": (1.6, 4.2), "1 to 8": (1.0, 8)}
# Multiples of a class's radius at which the fraction of rejected decoded images is measured.
MULTIPLES = (0.0, 0.5, 1.0, 1.5, 2.0, 3.0, 5.0)


@dataclass(frozen=True)
class Trial:
    directions: str
    radius: tuple[float, float]
    sample_latents: bool
    reconstruction_weight: float = 0.0


TRIALS = {
    f"{directions}, {name}, {'sampled' if sampled else 'mean'}": Trial(directions, radius, sampled)
    for sampled in (True, False)
    for name, radius in RADII.items()
    for directions in ("uniform", "reduced", "mixed")
}
TRIALS |= {
    f"{name}, reconstructions": replace(TRIALS[name], reconstruction_weight=1.0)
    for name in ("uniform, 1 to 1.5, sampled", "mixed, 1.6 to 4.2, mean", "mixed, 1 to 8, mean")
}


def fit_vae(args: argparse.Namespace, X: np.ndarray, y: np.ndarray, sampled: bool) -> VAE:
    """Train the VAE, or load it from an earlier trial."""
    return VAE(
        SETTINGS[args.id].n_latent,
        likelihood="bernoulli",
        conditional=True,
        optimizer="rmsprop",
        sample_latents=sampled,
        max_epochs=args.vae_epochs,
        patience=5,
        validation_fraction=0.05,
        value_range="minmax",
        checkpoint_dir=args.work,
        verbose=args.verbose,
        random_state=args.seed,
    ).fit(X, y)


def training_images(args: argparse.Namespace) -> tuple[np.ndarray, ...]:
    """Return images and labels for training, and held-out ones."""
    X, y = read(args.data, SETTINGS[args.id].base, "train")
    order = np.random.default_rng(args.seed).permutation(len(X))
    held_out, kept = order[: args.n_test], order[5000 : 5000 + args.n_training]
    return X[kept], y[kept], X[held_out], y[held_out]


def some(X: np.ndarray, y: np.ndarray, args: argparse.Namespace) -> tuple[np.ndarray, np.ndarray]:
    """Draw test images."""
    kept = np.random.default_rng(args.seed).permutation(len(X))[: args.n_test]
    return X[kept], y[kept]


def run(args: argparse.Namespace, name: str) -> dict[str, Any]:
    trial, setting = TRIALS[name], SETTINGS[args.id]
    X, y, X_held_out, y_held_out = training_images(args)
    X_test, y_test = some(*read(args.data, setting.base, "test"), args)

    start = perf_counter()
    vae = fit_vae(args, X, y, trial.sample_latents)
    vae_seconds = perf_counter() - start
    network = ShallowConvNet(
        max_epochs=args.epochs,
        optimizer="adam",
        learning_rate=1e-3,
        lr_schedule="cosine",
        weight_decay=0.0,
        validation_fraction=0.05,
        value_range="minmax",
        verbose=args.verbose,
        random_state=args.seed,
    )
    start = perf_counter()
    oodgen = OODGen(
        network,
        FrozenEstimator(vae),
        reject_weight=setting.reject_weight,
        distance=setting.distance,
        directions=trial.directions,
        radius=trial.radius,
        reconstruction_weight=trial.reconstruction_weight,
        verbose=args.verbose,
        random_state=args.seed,
    ).fit(X, y)
    seconds = perf_counter() - start

    other = "mnist" if setting.base == "fashion_mnist" else "fashion_mnist"
    validation = {
        "omniglot": some(*read(args.data, "omniglot", "test"), args)[0],
        "gaussian": gaussian_noise(2000, (28, 28), random_state=0),
        "uniform": uniform_noise(2000, (28, 28), random_state=0),
        "synthetic": synthetic_outliers(X_held_out, n_samples=2000, random_state=0),
    }
    sphere = sphere_noise(X, 2000, random_state=0)
    tested = {
        other: some(*read(args.data, other, "test"), args)[0],
        "notmnist": some(*read(args.data, "notmnist", "test"), args)[0],
        "sphere": sphere,
        "sphere, clipped": sphere.clip(0, 1),
    }
    sampler = oodgen.sampler_
    moved = sampler.sample_off_manifold(X_held_out, y_held_out, random_state=1)
    on = sampler.sample_on_manifold(y=y_held_out, random_state=1)
    reconstructed = vae.reconstruct(X_held_out, y_held_out).astype(np.float32)

    def rejected(images: np.ndarray) -> float:
        return float((oodgen.classifier_.predict(images.astype(np.float32)) == -1).mean())

    def measured(inside: np.ndarray, sets: dict[str, np.ndarray]) -> dict[str, dict[str, float]]:
        own, figures = oodgen.score_samples(inside), {}
        for key, images in sets.items():
            scores = oodgen.score_samples(images)
            truth = np.repeat([1, -1], [len(own), len(scores)])
            both = np.append(own, scores)
            figures[key] = {"auroc": auroc(truth, both), "fpr95": fpr_at_tpr(truth, both)}
        return figures

    return {
        "seconds": seconds,
        "vae_seconds": vae_seconds,
        "vae_epochs": len(vae.history_["loss"]),
        "vae_loss": min(vae.history_["validation_loss"]),
        "held_out_accuracy": accuracy(oodgen, X_held_out, y_held_out),
        "test_accuracy": accuracy(oodgen, X_test, y_test),
        "held_out_rejected": rejected(X_held_out),
        "off_manifold_recall": rejected(moved),
        "on_manifold_recall": rejected(on),
        "reconstructions_accepted": 1 - rejected(reconstructed),
        "rejected_by_radius": [rejected(decoded(oodgen, y_held_out, m)) for m in MULTIPLES],
        "validation": measured(X_held_out, validation),
        "tested": measured(X_test, tested),
        "machine": machine(),
    }


def decoded(oodgen: OODGen, y: np.ndarray, multiple: float) -> np.ndarray:
    """Decode latents at a distance from the mean of each class, in random directions."""
    sampler = oodgen.sampler_
    rng = np.random.default_rng(0)
    k = np.searchsorted(sampler.classes_, y)
    direction = rng.normal(size=(len(y), sampler.mean_.shape[1]))
    direction /= np.linalg.norm(direction, axis=1, keepdims=True)
    steps = multiple * sampler.radius_[k, None] * direction
    z = sampler.mean_[k] + np.einsum("nij,nj->ni", sampler.cholesky_[k], steps)
    return sampler.vae_.inverse_transform(z, y)


def accuracy(oodgen: OODGen, X: np.ndarray, y: np.ndarray) -> float:
    return float((oodgen.classes_[oodgen.predict_proba(X).argmax(1)] == y).mean())


def text(result: dict[str, Any]) -> str:
    """Format the trials as Markdown, in descending order of the mean validation AUROC."""
    trials = result["trials"]
    first = next(iter(trials.values()))
    own, tested = list(first["validation"]), list(first["tested"])
    lines = [
        f"ID {result['id']}, {result['n_training']} training images, at most {result['n_test']} of "
        f"each set, VAE up to {result['vae_epochs']} epochs, "
        f"classifier {result['epochs']}, seed {result['seed']}, "
        f"{first['machine']['gpu'].replace('none', first['machine']['cpu'])}. AUROC",
        "",
        "| directions, radius, VAE | ID accuracy, held out / test, % | reconstructions accepted, % "
        f"| mean, validation | {' | '.join([*own, *(f'{name}, test' for name in tested)])} |",
        "|---" * (4 + len(own) + len(tested)) + "|",
    ]
    for name in sorted(trials, key=lambda name: -mean_validation(trials[name])):
        row = trials[name]
        areas = [row["validation"][key] for key in own] + [row["tested"][key] for key in tested]
        cells = " | ".join(f"{area['auroc']:.3f}" for area in areas)
        lines.append(
            f"| {name} | {100 * row['held_out_accuracy']:.1f} / {100 * row['test_accuracy']:.1f} | "
            f"{100 * row['reconstructions_accepted']:.1f} | {mean_validation(row):.3f} | "
            f"{cells} |"
        )
    return "\n".join(lines)


def mean_validation(row: dict[str, Any]) -> float:
    return float(np.mean([area["auroc"] for area in row["validation"].values()]))


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--id", choices=SETTINGS, default="fashion_mnist")
    parser.add_argument("--data", type=Path)
    parser.add_argument(
        "--only", nargs="*", help="trials to run; all by default, none to collect results"
    )
    parser.add_argument(
        "--vae", choices=("sampled", "mean"), help="train this VAE alone, for other processes"
    )
    parser.add_argument("--n-training", type=int, default=55_000)
    parser.add_argument("--n-test", type=int, default=5000, help="at most so many images per set")
    parser.add_argument("--vae-epochs", type=int, default=50)
    parser.add_argument("--epochs", type=int, default=15)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--work", type=Path, default=Path("checkpoints"), help="for resuming")
    parser.add_argument("--out", type=Path, default=Path(__file__).parent / "results")
    parser.add_argument("--verbose", type=int, default=0)
    parser.add_argument("--table", action="store_true", help="print the stored results")
    args = parser.parse_args()
    if not args.table:
        if args.data is None:
            parser.error("--data is needed to run")
        if unknown := set(args.only or ()) - set(TRIALS):
            parser.error(f"unknown trials {sorted(unknown)}; known: {list(TRIALS)}")
        for folder in (args.work, args.out):
            folder.mkdir(parents=True, exist_ok=True)
        if args.vae:
            fit_vae(args, *training_images(args)[:2], args.vae == "sampled")
            return
        paths = {
            name: args.work / f"oodgen_trial-{args.id}-{args.seed}-{file_name(name)}.json"
            for name in TRIALS
        }
        for name in TRIALS if args.only is None else args.only:
            if not paths[name].exists():
                paths[name].write_text(json.dumps(run(args, name), indent=1))
        if not args.only:
            settings = ("id", "n_training", "n_test", "vae_epochs", "epochs", "seed")
            result = {key: getattr(args, key) for key in settings}
            result["trials"] = {
                name: json.loads(path.read_text()) for name, path in paths.items() if path.exists()
            }
            result["date"] = date.today().isoformat()
            (args.out / f"oodgen_trials-{args.id}.json").write_text(
                json.dumps(result, indent=1) + "\n"
            )
    for path in sorted(args.out.glob("oodgen_trials-*.json")):
        print(text(json.loads(path.read_text())), end="\n\n")


if __name__ == "__main__":
    main()
