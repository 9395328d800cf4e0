"""Selection of OODGen's defaults without the OOD test sets.

Trains OODGen on an in-distribution (ID) set with combinations of directions, radius and training of
the VAE:

    python benchmarks/oodgen_trials.py --data DIR
    python benchmarks/oodgen_trials.py --data DIR --only "uniform, 1 to 1.5, sampled"
    python benchmarks/oodgen_trials.py --table     # the stored results as text

Measured for the selection: accuracy on held-out ID images, the fraction of held-out generated
samples that is rejected, and AUROC against sets of four groups: photographs (grey CIFAR-10 and
TinyImageNet), characters (rendered from fonts), `synthetic_outliers` of held-out ID images, and
noise. The figure that selects is the mean over the groups. Measured for the report alone: AUROC
against the test sets (digits or clothes, notMNIST, Omniglot, the sphere, grey SVHN and CIFAR-100).
DIR is the same as for oodgen.py; finished trials are loaded from the --work folder. The stored
results of 6 000 images are the selection of the defaults, in which Omniglot took part.
"""

from __future__ import annotations

import argparse
import functools
import json
from dataclasses import dataclass, replace
from datetime import date
from pathlib import Path
from time import perf_counter
from typing import Any

import numpy as np
from _images import labelled_images, rendered_characters
from _machine import machine
from _names import file_name
from oodgen import SETTINGS, read
from sklearn.frozen import FrozenEstimator

from skood import VAE, Energy, OODGen, ShallowConvNet
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
    reject_weight: float | None = None


TRIALS = {
    f"{directions}, {name}, {'sampled' if sampled else 'mean'}": Trial(directions, radius, sampled)
    for sampled in (True, False)
    for name, radius in RADII.items()
    for directions in ("uniform", "reduced", "mixed")
}
TRIALS |= {
    f"{name}, reconstructions {weight:g}": replace(TRIALS[name], reconstruction_weight=weight)
    for name in ("uniform, 1 to 1.5, sampled", "mixed, 1.6 to 4.2, mean", "mixed, 1 to 8, mean")
    for weight in (0.1, 0.3, 1.0)
}
TRIALS |= {
    f"{name}, reject weight 0.1": replace(TRIALS[name], reject_weight=0.1)
    for name in (
        "uniform, 1 to 1.5, sampled",
        "mixed, 1 to 8, mean, reconstructions 1",
        "mixed, 1 to 8, mean, reconstructions 0.1",
    )
}
# The same network without generated samples, as a reference.
ENERGY = "no samples, Energy"


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
    X, y, X_held_out, y_held_out = training_images(args)
    X_test, y_test = some(*read(args.data, SETTINGS[args.id].base, "test"), args)
    network = ShallowConvNet(
        tuple(args.n_filters),
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
    if name == ENERGY:
        start = perf_counter()
        detector = Energy(FrozenEstimator(network.fit(X, y))).fit(X)
        figures = {"seconds": perf_counter() - start}
    else:
        detector, figures = fit_oodgen(args, TRIALS[name], network, X, y)
        figures |= figures_of_samples(detector, X_held_out, y_held_out)

    def measured(inside: np.ndarray, sets: dict[str, np.ndarray]) -> dict[str, dict[str, float]]:
        own, areas = detector.score_samples(inside), {}
        for key, images in sets.items():
            scores = detector.score_samples(images)
            truth = np.repeat([1, -1], [len(own), len(scores)])
            both = np.append(own, scores)
            areas[key] = {"auroc": auroc(truth, both), "fpr95": fpr_at_tpr(truth, both)}
        return areas

    return figures | {
        "held_out_accuracy": accuracy(detector, X_held_out, y_held_out),
        "test_accuracy": accuracy(detector, X_test, y_test),
        "selection": {
            group: measured(X_held_out, sets)
            for group, sets in selection_sets(args, X_held_out).items()
        },
        "tested": measured(X_test, tested_sets(args, X)),
        "machine": machine(),
    }


def fit_oodgen(
    args: argparse.Namespace, trial: Trial, network: ShallowConvNet, X: np.ndarray, y: np.ndarray
) -> tuple[OODGen, dict[str, Any]]:
    setting = SETTINGS[args.id]
    start = perf_counter()
    vae = fit_vae(args, X, y, trial.sample_latents)
    vae_seconds = perf_counter() - start
    start = perf_counter()
    oodgen = OODGen(
        network,
        FrozenEstimator(vae),
        reject_weight=trial.reject_weight or setting.reject_weight,
        distance=setting.distance,
        directions=trial.directions,
        radius=trial.radius,
        reconstruction_weight=trial.reconstruction_weight,
        verbose=args.verbose,
        random_state=args.seed,
    ).fit(X, y)
    return oodgen, {
        "seconds": perf_counter() - start,
        "vae_seconds": vae_seconds,
        "vae_epochs": len(vae.history_["loss"]),
        "vae_loss": min(vae.history_["validation_loss"]),
    }


def figures_of_samples(oodgen: OODGen, X: np.ndarray, y: np.ndarray) -> dict[str, Any]:
    """Return the fractions of generated images that are rejected, and of accepted reconstructions.

    The images are generated from held-out ones.
    """
    sampler = oodgen.sampler_
    moved = sampler.sample_off_manifold(X, y, random_state=1)
    on_manifold = sampler.sample_on_manifold(y=y, random_state=1)
    reconstructed = sampler.vae_.reconstruct(X, y)

    def rejected(images: np.ndarray) -> float:
        return float((oodgen.classifier_.predict(images.astype(np.float32)) == -1).mean())

    return {
        "held_out_rejected": rejected(X),
        "off_manifold_recall": rejected(moved),
        "on_manifold_recall": rejected(on_manifold),
        "reconstructions_accepted": 1 - rejected(reconstructed),
        "rejected_by_radius": [rejected(decoded(oodgen, y, multiple)) for multiple in MULTIPLES],
    }


def selection_sets(
    args: argparse.Namespace, held_out: np.ndarray
) -> dict[str, dict[str, np.ndarray]]:
    """Return the sets that select the settings, by group."""
    n = args.n_test
    photographs = ("cifar10", "tinyimagenet_crop", "tinyimagenet_resize")
    return {
        "photographs": {name: grey(args, name) for name in photographs},
        "characters": {"rendered": rendered_characters(n).astype(np.float32) / 255},
        "synthetic": {"synthetic": synthetic_outliers(held_out, n_samples=n, random_state=0)},
        "noise": {
            "gaussian": gaussian_noise(n, (28, 28), random_state=0),
            "uniform": uniform_noise(n, (28, 28), random_state=0),
        },
    }


def tested_sets(args: argparse.Namespace, training: np.ndarray) -> dict[str, np.ndarray]:
    """Return the sets that select nothing."""
    other = "mnist" if SETTINGS[args.id].base == "fashion_mnist" else "fashion_mnist"
    sphere = sphere_noise(training, args.n_test, random_state=0)
    return {
        **{name: grey(args, name) for name in (other, "notmnist", "omniglot", "svhn", "cifar100")},
        "sphere": sphere,
        "sphere, clipped": sphere.clip(0, 1),
    }


def grey(args: argparse.Namespace, name: str) -> np.ndarray:
    """Draw test images of a set, grey and of 28 x 28 pixels, in [0, 1]."""
    images, labels = grey_images(args.data, name)
    return some(images, labels, args)[0].astype(np.float32) / 255


grey_images = functools.cache(functools.partial(labelled_images, size=28, grey=True))


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


def accuracy(detector: OODGen | Energy, X: np.ndarray, y: np.ndarray) -> float:
    return float((detector.classes_[detector.predict_proba(X).argmax(1)] == y).mean())


def text(result: dict[str, Any]) -> str:
    """Format the trials as Markdown, in descending order of the figure that selects."""
    trials = result["trials"]
    first = next(iter(trials.values()))
    groups, tested = list(first["selection"]), list(first["tested"])
    lines = [
        f"ID {result['id']}, {result['n_training']} training images, at most {result['n_test']} of "
        f"each set, VAE up to {result['vae_epochs']} epochs, "
        f"classifier of {result['n_filters'][0]} and {result['n_filters'][1]} filters "
        f"{result['epochs']}, seed {result['seed']}, "
        f"{first['machine']['gpu'].replace('none', first['machine']['cpu'])}. AUROC",
        "",
        "| directions, radius, VAE | ID accuracy, held out / test, % | reconstructions accepted, % "
        f"| mean of groups | {' | '.join([*groups, *(f'{name}, test' for name in tested)])} |",
        "|---" * (4 + len(groups) + len(tested)) + "|",
    ]
    for name in sorted(trials, key=lambda name: -np.mean(list(group_means(trials[name]).values()))):
        row = trials[name]
        of_groups = group_means(row)
        areas = [*of_groups.values(), *(row["tested"][key]["auroc"] for key in tested)]
        cells = " | ".join(f"{area:.3f}" for area in areas)
        accepted = row.get("reconstructions_accepted")
        lines.append(
            f"| {name} | {100 * row['held_out_accuracy']:.1f} / {100 * row['test_accuracy']:.1f} | "
            f"{'' if accepted is None else f'{100 * accepted:.1f}'} | "
            f"{np.mean(list(of_groups.values())):.3f} | {cells} |"
        )
    return "\n".join(lines)


def group_means(row: dict[str, Any]) -> dict[str, float]:
    """Average AUROC over the sets of each group."""
    return {
        group: float(np.mean([area["auroc"] for area in sets.values()]))
        for group, sets in row["selection"].items()
    }


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
    parser.add_argument(
        "--n-filters", type=int, nargs=2, default=(32, 64), help="of the classifier; 8 16 is fast"
    )
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--work", type=Path, default=Path("checkpoints"), help="for resuming")
    parser.add_argument("--out", type=Path, default=Path(__file__).parent / "results")
    parser.add_argument("--verbose", type=int, default=0)
    parser.add_argument("--table", action="store_true", help="print the stored results")
    args = parser.parse_args()
    if not args.table:
        if args.data is None:
            parser.error("--data is needed to run")
        if unknown := set(args.only or ()) - {*TRIALS, ENERGY}:
            parser.error(f"unknown trials {sorted(unknown)}; known: {[*TRIALS, ENERGY]}")
        for folder in (args.work, args.out):
            folder.mkdir(parents=True, exist_ok=True)
        if args.vae:
            fit_vae(args, *training_images(args)[:2], args.vae == "sampled")
            return
        paths = {
            name: args.work / f"oodgen_trial-{args.id}-{args.seed}-{file_name(name)}.json"
            for name in (*TRIALS, ENERGY)
        }
        for name in paths if args.only is None else args.only:
            if not paths[name].exists():
                paths[name].write_text(json.dumps(run(args, name), indent=1))
        if not args.only:
            settings = ("id", "n_training", "n_test", "vae_epochs", "epochs", "n_filters", "seed")
            result = {key: getattr(args, key) for key in settings}
            result["trials"] = {
                name: json.loads(path.read_text()) for name, path in paths.items() if path.exists()
            }
            result["date"] = date.today().isoformat()
            (args.out / f"oodgen_trials-{args.id}-{args.n_training}.json").write_text(
                json.dumps(result, indent=1) + "\n"
            )
    for path in sorted(args.out.glob("oodgen_trials-*.json")):
        print(text(json.loads(path.read_text())), end="\n\n")


if __name__ == "__main__":
    main()
