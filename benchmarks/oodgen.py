"""OOD detection via generation (Vernekar et al. 2019): the published experiment.

Trains OODGen on an in-distribution (ID) set, and the same network as a plain softmax classifier,
and measures both on the OOD sets:

    python benchmarks/oodgen.py --id fashion_mnist --preset defaults --data DIR
    python benchmarks/oodgen.py --id mnist_0_4 --preset paper --data DIR       # for a GPU
    python benchmarks/oodgen.py --table              # the stored results as text

DIR has the layout of `skood.datasets.load_image_set`, or a ``read_data.py`` with
``load(name, split)``. Photographs (SVHN, CIFAR-100) are made grey and resized to 28 x 28. Nothing
is tuned on one of the OOD sets. An interrupted run resumes when started again with the same --work
folder. Results, a sheet of generated images and the training curves go to --out.
"""

from __future__ import annotations

import argparse
import json
from dataclasses import asdict, dataclass
from datetime import date
from pathlib import Path
from time import perf_counter

import numpy as np
from _images import labelled_images
from _machine import machine
from sklearn.base import clone
from sklearn.frozen import FrozenEstimator

from skood import MSP, VAE, OODGen, ShallowConvNet, evaluate
from skood.datasets import gaussian_noise, sphere_noise, uniform_noise

METRICS = ("auroc", "fpr95", "fpr80", "detection_error", "aupr_in", "aupr_out")


@dataclass(frozen=True)
class Setting:
    """The published settings for an ID set."""

    base: str
    classes: tuple[int, ...]
    n_latent: int
    reject_weight: float
    distance: tuple[float, float]


ALL, HALF = tuple(range(10)), tuple(range(5))
SETTINGS = {
    "mnist": Setting("mnist", ALL, 8, 0.1, (0.1, 28.0)),
    "mnist_0_4": Setting("mnist", HALF, 8, 0.1, (0.05, 1.0)),
    "fashion_mnist": Setting("fashion_mnist", ALL, 10, 0.3, (0.1, 28.0)),
    "fashion_0_4": Setting("fashion_mnist", HALF, 10, 1.0, (0.1, 28.0)),
}


@dataclass(frozen=True)
class Preset:
    """Settings of training, and of the generated samples."""

    vae_epochs: int
    classifier_epochs: int
    optimizer: str
    learning_rate: float
    lr_schedule: str
    directions: str = "uniform"
    radius: tuple[float, float] = (1.0, 1.5)
    sample_latents: bool = True
    reconstruction_weight: float = 0.0


PRESETS = {
    # The paper's samples, with shorter training.
    "quick": Preset(8, 8, "adam", 1e-3, "cosine"),
    "quick-reduced": Preset(8, 8, "adam", 1e-3, "cosine", "reduced"),
    # The library's default samples, selected by oodgen_trials.py.
    "defaults": Preset(20, 12, "adam", 1e-3, "cosine", "mixed", (1.0, 8.0), False, 1.0),
    # The released notebooks train in stages, for hundreds of epochs; this is the rate of the first.
    "paper": Preset(100, 50, "adadelta", 0.1, "constant"),
    # The released code, which differs from the paper.
    "release": Preset(100, 50, "adadelta", 0.1, "constant", "reduced", (1.6, 4.2), False),
}
# AUROC / FPR95 / FPR80: (score, held-out 5-9, Fashion-MNIST or MNIST, sphere, notMNIST).
PUBLISHED = {
    "mnist": ("reject", None, (0.9998, 0.0, 0.0), (0.9999, 0.0, 0.0), (0.9999, 0.0, 0.0)),
    "mnist_0_4": (
        "max",
        (0.9362, 0.234, 0.0835),
        (0.9986, 0.0034, 0.0002),
        (0.9989, 0.0055, 0.0005),
        (1.0, 0.0, 0.0),
    ),
    "fashion_0_4": (
        "reject",
        (0.9248, 0.197, 0.13),
        (0.9958, 0.0159, 0.0042),
        (1.0, 0.0, 0.0),
        (0.9985, 0.0033, 0.0012),
    ),
    "fashion_mnist": (
        "reject",
        None,
        (0.9874, 0.0409, 0.0155),
        (0.9979, 0.0055, 0.0025),
        (0.9964, 0.0095, 0.0048),
    ),
}
PUBLISHED_ACCURACY = {"mnist": 98.9, "mnist_0_4": 99.5, "fashion_0_4": 94.8, "fashion_mnist": 91.2}


def read(directory: Path, name: str, split: str) -> tuple[np.ndarray, np.ndarray]:
    """Read grey images of 28 x 28 as float32 in [0, 1]; sphere noise exceeds that range."""
    images, labels = labelled_images(directory, name, split, size=28, grey=True)
    return images.astype(np.float32) / 255, labels


def ood_sets(directory: Path, setting: Setting, training: np.ndarray) -> dict[str, np.ndarray]:
    other = "mnist" if setting.base == "fashion_mnist" else "fashion_mnist"
    sets = {}
    if setting.classes != ALL:
        images, labels = read(directory, setting.base, "test")
        sets["held-out 5-9"] = images[~np.isin(labels, setting.classes)]
    for name in (other, "notmnist", "omniglot", "svhn", "cifar100"):
        sets[name] = read(directory, name, "test")[0]
    sets["sphere"] = sphere_noise(training, 2000, random_state=0)
    sets["sphere, clipped"] = sets["sphere"].clip(0, 1)
    sets["gaussian"] = gaussian_noise(2000, (28, 28), random_state=0)
    sets["uniform"] = uniform_noise(2000, (28, 28), random_state=0)
    return sets


def run(args: argparse.Namespace) -> dict:
    setting, preset = SETTINGS[args.id], PRESETS[args.preset]
    X, y = read(args.data, setting.base, "train")
    X, y = X[np.isin(y, setting.classes)], y[np.isin(y, setting.classes)]
    X_test, y_test = read(args.data, setting.base, "test")
    kept = np.isin(y_test, setting.classes)
    X_test, y_test = X_test[kept], y_test[kept]

    common = {
        "value_range": "minmax",
        "checkpoint_dir": args.work,
        "verbose": args.verbose,
        "random_state": args.seed,
    }
    network = ShallowConvNet(
        max_epochs=preset.classifier_epochs,
        optimizer=preset.optimizer,
        learning_rate=preset.learning_rate,
        lr_schedule=preset.lr_schedule,
        weight_decay=0.0,
        validation_fraction=0.05,
        **common,
    )
    vae = VAE(
        setting.n_latent,
        likelihood="bernoulli",
        conditional=True,
        sample_latents=preset.sample_latents,
        optimizer="rmsprop",
        max_epochs=preset.vae_epochs,
        patience=5,
        validation_fraction=0.05,
        **common,
    )
    seconds = {}
    start = perf_counter()
    oodgen = OODGen(
        network,
        vae,
        reject_weight=setting.reject_weight,
        distance=setting.distance,
        directions=preset.directions,
        radius=preset.radius,
        reconstruction_weight=preset.reconstruction_weight,
        memory=str(args.work),
        verbose=args.verbose,
        random_state=args.seed,
    ).fit(X, y)
    seconds["OODGen"] = perf_counter() - start
    by_max = clone(oodgen).set_params(score_type="max").fit(X, y)
    start = perf_counter()
    softmax = MSP(FrozenEstimator(network.fit(X, y))).fit(X)
    seconds["softmax"] = perf_counter() - start

    start = perf_counter()
    detectors = {"OODGen, reject": oodgen, "OODGen, max": by_max, "softmax": softmax}
    table = evaluate(detectors, X_test, ood_sets(args.data, setting, X), y_test, metrics=METRICS)
    seconds["evaluation"] = perf_counter() - start
    print(table, flush=True)
    # A run that loads trained models reports the seconds of the run that trained them.
    timed = args.work / f"seconds-{args.id}-{args.preset}-{args.seed}.json"
    if timed.exists():
        seconds = json.loads(timed.read_text())
    timed.write_text(json.dumps(seconds))
    reconstructed = oodgen.sampler_.vae_.reconstruct(X_test[:2000], y_test[:2000])
    classes = oodgen.predict_proba(X_test).argmax(1)
    draw(oodgen, X, y, args.out / f"oodgen-{args.id}-{args.preset}.png")
    return {
        "id": args.id,
        "setting": asdict(setting),
        "preset": {"name": args.preset, **asdict(preset)},
        "seed": args.seed,
        "accuracy": {
            "OODGen": float((oodgen.classes_[classes] == y_test).mean()),
            "OODGen, rejections are errors": float(
                (oodgen.classifier_.predict(X_test) == y_test).mean()
            ),
            "softmax": float((network.predict(X_test) == y_test).mean()),
        },
        "reconstructions of test images that are rejected": float(
            (oodgen.classifier_.predict(reconstructed.astype(np.float32)) == -1).mean()
        ),
        "vae_epochs_trained": len(oodgen.sampler_.vae_.history_["loss"]),
        "history": {"vae": oodgen.sampler_.vae_.history_, "classifier": oodgen.history_},
        "seconds": seconds,
        "machine": machine(),
        "date": date.today().isoformat(),
        "table": list(table),
    }


def draw(oodgen: OODGen, X: np.ndarray, y: np.ndarray, path: Path) -> None:
    """Draw a sheet of generated images, and the training curves."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    from skood.inspection import BoundarySamplesDisplay

    figure, axes = plt.subplot_mosaic(
        [["sheet", "sheet"], ["loss", "parts"]], figsize=(9, 7), layout="constrained"
    )
    BoundarySamplesDisplay.from_estimator(oodgen, X, y, random_state=0, ax=axes["sheet"])
    loss, parts = axes["loss"], axes["parts"]
    for name, values in oodgen.history_.items():
        axis = loss if "loss" in name else parts
        axis.plot(range(1, len(values) + 1), values, label=name.replace("_", " "))
    for axis in (loss, parts):
        axis.set_xlabel("epoch")
        axis.legend(fontsize=7)
    figure.savefig(path, dpi=110, bbox_inches="tight")
    plt.close(figure)


def text(result: dict) -> str:
    """Format a result and the published figures as Markdown."""
    sets = list(dict.fromkeys(row["ood_set"] for row in result["table"]))
    accuracy = ", ".join(f"{k} {100 * v:.2f} %" for k, v in result["accuracy"].items())
    lines = [
        f"ID {result['id']}, preset {result['preset']['name']}, reconstruction_weight "
        f"{result['preset'].get('reconstruction_weight', 0):g}; accuracy: {accuracy}; "
        f"published {PUBLISHED_ACCURACY[result['id']]} %",
        "",
        f"| AUROC / FPR95 / FPR80 in % | {' | '.join(sets)} |",
        "|---" * (len(sets) + 1) + "|",
    ]
    for name in dict.fromkeys(row["detector"] for row in result["table"]):
        rows = {row["ood_set"]: row for row in result["table"] if row["detector"] == name}
        cells = [
            cell(*(rows[key][metric] for metric in ("auroc", "fpr95", "fpr80"))) for key in sets
        ]
        lines.append(f"| {name} | {' | '.join(cells)} |")
    score, held_out, other, sphere, notmnist = PUBLISHED[result["id"]]
    other_name = "mnist" if result["id"].startswith("fashion") else "fashion_mnist"
    published = {
        "held-out 5-9": held_out,
        other_name: other,
        "sphere": sphere,
        "notmnist": notmnist,
    }
    cells = [cell(*published[key]) if published.get(key) else "" for key in sets]
    lines.append(f"| published, {score} | {' | '.join(cells)} |")
    return "\n".join(lines)


def cell(area: float, fpr95: float, fpr80: float) -> str:
    return f"{area:.3f} / {100 * fpr95:.1f} / {100 * fpr80:.1f}"


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--id", choices=SETTINGS, default="fashion_mnist")
    parser.add_argument("--preset", choices=PRESETS, default="defaults")
    parser.add_argument("--data", type=Path)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--work", type=Path, default=Path("checkpoints"), help="for resuming")
    parser.add_argument("--out", type=Path, default=Path(__file__).parent / "results")
    parser.add_argument("--verbose", type=int, default=1)
    parser.add_argument("--table", action="store_true", help="print the stored results")
    args = parser.parse_args()
    if not args.table:
        if args.data is None:
            parser.error("--data is needed to run")
        args.out.mkdir(parents=True, exist_ok=True)
        result = run(args)
        path = args.out / f"oodgen-{args.id}-{args.preset}.json"
        path.write_text(json.dumps(result, indent=2) + "\n")
        print(text(result))
        return
    for path in sorted(args.out.glob("oodgen-*.json")):
        print(text(json.loads(path.read_text())), end="\n\n")


if __name__ == "__main__":
    main()
