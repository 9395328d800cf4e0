"""VMDLS (Dinari and Freifeld 2022), compared with other training-time and post-hoc methods.

Every method trains the same backbone on the same rows for the same number of epochs:

    python benchmarks/vmdls.py --id mnist --preset quick --data DIR
    python benchmarks/vmdls.py --id cifar10 --preset paper --data DIR       # for a GPU
    python benchmarks/vmdls.py --table              # the stored results as text

DIR has a ``read_data.py`` with ``load(name, split)``, or torchvision's layout. A tenth of the
training rows is held out; the 5th percentile of their scores is the threshold. Nothing is tuned on
an OOD set. Methods that train on outliers get a separate set, which is not a test set. An
interrupted run resumes when started again with the same --work folder.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable
from copy import copy
from dataclasses import asdict, dataclass, replace
from datetime import date
from pathlib import Path
from time import perf_counter
from typing import Any

import numpy as np
from _images import labelled_images
from _machine import machine
from sklearn.base import clone
from sklearn.frozen import FrozenEstimator
from sklearn.model_selection import train_test_split

import skood
from skood import KNN, MSP, ODIN, VMDLS, ConvNet, DenseNet, Energy, LayerMahalanobis, Mahalanobis
from skood.density import Autoencoder
from skood.metrics import auroc, fpr_at_tpr, open_set_f1, oscr


@dataclass(frozen=True)
class Setting:
    """An ID set, its OOD test sets and its training outliers."""

    base: str
    classes: tuple[int, ...]
    ood: tuple[str, ...]
    # The set for methods that train on outliers.
    outliers: str


ALL = tuple(range(10))
GREY = ("omniglot", "mnist + noise", "noise")
COLOUR = ("tinyimagenet_crop", "tinyimagenet_resize", "svhn")
SETTINGS = {
    "mnist": Setting("mnist", ALL, GREY, "notmnist"),
    "mnist_0_5": Setting("mnist", ALL[:6], ("held-out classes", *GREY), "notmnist"),
    "cifar10": Setting("cifar10", ALL, COLOUR, "cifar100"),
    "cifar10_0_5": Setting("cifar10", ALL[:6], ("held-out classes", *COLOUR), "cifar100"),
}


@dataclass(frozen=True)
class Preset:
    """Settings of the backbone and of its training."""

    backbone: Any
    one_class: Any
    margin_step: float
    n_samples_per_batch: int
    n_members: int
    autoencoder_epochs: int
    # Outliers per inlier, for methods that train on outliers.
    outlier_ratio: float
    # Random images drawn from each OOD set; None takes all.
    n_ood: int | None = None
    n_training: int | None = None


def adam(n_filters: tuple[int, ...], max_epochs: int, **settings: Any) -> ConvNet:
    settings = {"learning_rate": 1e-3, "weight_decay": 1e-4, "lr_schedule": "cosine", **settings}
    return ConvNet(n_filters, max_epochs=max_epochs, optimizer="adam", **settings)


DINARI = {"n_convolutions": (2, 2, 1), "hidden_features": 500}
PRESETS = {
    ("mnist", "quick"): Preset(
        adam((16, 32, 64), 4), adam((16, 32, 64), 4), 8.0, 8, 2, 3, 1.0, n_ood=4000
    ),
    ("mnist", "paper"): Preset(
        adam((100, 100, 100), 100, learning_rate=1e-4, weight_decay=0.0, **DINARI),
        adam((100, 100, 100), 100, learning_rate=1e-4, **DINARI),
        1.0,
        16,
        5,
        50,
        2.0,
    ),
    ("cifar10", "paper"): Preset(
        DenseNet(max_epochs=200), adam((32, 64, 128), 100, learning_rate=1e-4), 1.0, 8, 5, 100, 2.0
    ),
}
# To check that the script runs.
PRESETS |= {
    (base, "smoke"): replace(PRESETS["mnist", "quick"], backbone=adam((4, 8), 1), n_training=2000)
    for base in ("mnist", "cifar10")
}


def read(directory: Path, name: str, split: str) -> tuple[np.ndarray, np.ndarray]:
    images, labels = labelled_images(directory, name, split)
    return np.asarray(images), np.asarray(labels)


def ood_sets(directory: Path, setting: Setting, n_ood: int | None) -> dict[str, np.ndarray]:
    images, labels = read(directory, setting.base, "test")
    noise = np.random.default_rng(0).integers(256, size=images.shape, dtype=np.uint8)
    made = {
        "held-out classes": images[~np.isin(labels, setting.classes)],
        "mnist + noise": np.minimum(images.astype(int) + noise, 255).astype(np.uint8),
        "noise": noise,
    }
    sets = {}
    for name in setting.ood:
        images = made[name] if name in made else read(directory, name, "test")[0]
        sets[name] = images[np.random.default_rng(0).permutation(len(images))[:n_ood]]
    return sets


def methods(preset: Preset, args: argparse.Namespace, outliers: np.ndarray) -> dict[str, Callable]:
    """Return functions that take training rows and labels and return fitted detectors by name."""
    common = {"checkpoint_dir": args.work, "verbose": args.verbose, "random_state": args.seed}
    backbone = clone(preset.backbone).set_params(**common)
    one_class = clone(preset.one_class).set_params(**common)
    settings = {"memory": str(args.work), "verbose": args.verbose, "random_state": args.seed}
    vmdls = VMDLS(
        backbone,
        margin_step=preset.margin_step,
        n_samples_per_batch=preset.n_samples_per_batch,
        **settings,
    )
    mixed = {"outlier_ratio": preset.outlier_ratio}
    autoencoder = Autoencoder(max_epochs=preset.autoencoder_epochs, **common)

    def plain(X: np.ndarray, y: np.ndarray) -> dict[str, Any]:
        network = FrozenEstimator(clone(backbone).fit(X, y))
        detectors = [MSP, Energy, ODIN, Mahalanobis, LayerMahalanobis, KNN]
        fitted = {cls.__name__: cls(network).fit(X, y) for cls in detectors}
        raw = Mahalanobis(network, normalize=False).fit(X, y)
        return {**fitted, "Mahalanobis, normalize=False": raw}

    def variants(normalised: bool) -> Callable:
        def fit(X: np.ndarray, y: np.ndarray) -> dict[str, Any]:
            detector = clone(vmdls).set_params(normalize_embeddings=normalised)
            name = "VMDLS, normalised" if normalised else "VMDLS"
            weighted = clone(detector).set_params(reconstruction=autoencoder)
            return {
                name: detector.fit(X, y),
                f"{name}, reconstruction": weighted.fit(X, y),
                f"{name}, its weight alone": WeightAlone(weighted),
            }

        return fit

    def single(name: str, *args: Any, uses_outliers: bool = False, **more: Any) -> Callable:
        def fit(X: np.ndarray, y: np.ndarray) -> dict[str, Any]:
            if uses_outliers:
                X, y = np.concatenate([X, outliers]), np.append(y, np.full(len(outliers), -1))
            return {name: getattr(skood, name)(*args, **settings, **more).fit(X, y)}

        return fit

    return {
        "softmax": plain,
        "VMDLS": variants(False),
        "VMDLS, normalised": variants(True),
        "LogitNorm": single("LogitNorm", backbone),
        "VOS": single("VOS", backbone),
        "OutlierExposure": single("OutlierExposure", backbone, uses_outliers=True, **mixed),
        "EnergyRegularized": single("EnergyRegularized", backbone, uses_outliers=True, **mixed),
        "MCDropout": single("MCDropout", dropping(backbone)),
        "DeepEnsemble": single("DeepEnsemble", backbone, n_members=preset.n_members),
        "DeepSVDD": single("DeepSVDD", one_class),
        "DeepSAD": single("DeepSAD", one_class, uses_outliers=True),
    }


class WeightAlone:
    """The reconstruction weight of VMDLS as a score of its own."""

    def __init__(self, detector: VMDLS) -> None:
        self.detector = detector
        self.classes_, self.predict_proba = detector.classes_, detector.predict_proba

    def score_samples(self, X: np.ndarray) -> np.ndarray:
        plain = copy(self.detector)
        plain.reconstruction_ = None
        # The weight multiplies the score.
        return -self.detector.score_samples(X) / plain.score_samples(X)


def dropping(backbone: Any) -> Any:
    return clone(backbone).set_params(dropout=0.2)


def classes_of(detector: Any, X: np.ndarray) -> np.ndarray | None:
    """Return predicted classes, without rejections; None for a one-class method."""
    if hasattr(detector, "classifier_"):
        return detector.classifier_.predict(X)
    if hasattr(detector, "predict_proba"):
        return detector.classes_[detector.predict_proba(X).argmax(1)]
    return None


def measured(
    detector: Any,
    held_out: np.ndarray,
    X: np.ndarray,
    y: np.ndarray,
    sets: dict[str, np.ndarray],
    default: Any,
) -> dict[str, Any]:
    """Measure a detector on all OOD sets; `default` predicts classes for a one-class method."""
    threshold = float(np.percentile(detector.score_samples(held_out), 5))
    inside = detector.score_samples(X)
    predicted = classes_of(detector if classes_of(detector, X[:1]) is not None else default, X)
    result: dict[str, Any] = {
        "accuracy": float((predicted == y).mean()),
        "id_accepted": float((inside >= threshold).mean()),
        "id_quantiles": np.quantile(inside, (0.05, 0.5, 0.95)).tolist(),
        "ood": {},
    }
    for name, images in sets.items():
        outside = detector.score_samples(images)
        truth = np.append(y, np.full(len(images), -1))
        scores = np.append(inside, outside)
        classes = np.append(predicted, np.full(len(images), y[0]))
        rejecting = np.where(scores >= threshold, classes, -1)
        result["ood"][name] = {
            "auroc": auroc(truth, scores),
            "fpr95": fpr_at_tpr(truth, scores),
            "oscr": oscr(truth, classes, scores),
            "macro_f1": open_set_f1(truth, rejecting),
        }
    return result


def run(args: argparse.Namespace) -> dict[str, Any]:
    setting = SETTINGS[args.id]
    preset = PRESETS[setting.base, args.preset]
    X, y = read(args.data, setting.base, "train")
    kept = np.flatnonzero(np.isin(y, setting.classes))
    if preset.n_training is not None:
        kept = np.random.default_rng(args.seed).permutation(kept)[: preset.n_training]
    X, held_out, y, _ = train_test_split(
        X[kept], y[kept], test_size=0.1, stratify=y[kept], random_state=args.seed
    )
    X_test, y_test = read(args.data, setting.base, "test")
    kept = np.isin(y_test, setting.classes)
    X_test, y_test = X_test[kept], y_test[kept]
    sets = ood_sets(args.data, setting, preset.n_ood)
    outliers = read(args.data, setting.outliers, "test")[0]
    if outliers.shape[1:] != X.shape[1:]:
        raise ValueError(f"{setting.outliers} has images of {outliers.shape[1:]}")

    path = args.work / f"vmdls-{args.id}-{args.preset}-{args.seed}.json"
    result: dict[str, Any] = json.loads(path.read_text()) if path.exists() else {}
    default = None
    for name, fit in methods(preset, args, outliers).items():
        stored = result.get(name, {})
        if (args.only and name not in args.only) or ("detectors" in stored and name != "softmax"):
            continue
        start = perf_counter()
        detectors = fit(X, y)
        fitted = perf_counter()
        default = default or next(iter(detectors.values()))
        if "detectors" not in stored:
            result[name] = {
                "detectors": {
                    key: measured(detector, held_out, X_test, y_test, sets, default)
                    for key, detector in detectors.items()
                },
                # A fit that loads trained models reports the seconds of the run that trained them.
                "fit_seconds": stored.get("fit_seconds", fitted - start),
                "score_seconds": perf_counter() - fitted,
                "history": getattr(next(iter(detectors.values())), "history_", {}),
            }
            path.write_text(json.dumps(result))
            print(
                name, f"{fitted - start:.0f} s", json.dumps(result[name]["detectors"]), flush=True
            )
    return {
        "id": args.id,
        "setting": asdict(setting),
        "preset": {"name": args.preset, **{k: str(v) for k, v in vars(preset).items()}},
        "seed": args.seed,
        "n_training": len(X),
        "methods": result,
        "seconds": sum(m["fit_seconds"] + m["score_seconds"] for m in result.values()),
        "machine": machine(),
        "date": date.today().isoformat(),
    }


def text(result: dict[str, Any]) -> str:
    """Format a result as Markdown; the paper calls OSCR "CAUROC"."""
    rows = {k: v for method in result["methods"].values() for k, v in method["detectors"].items()}
    sets = list(next(iter(rows.values()))["ood"])
    lines = [
        f"ID {result['id']}, preset {result['preset']['name']}, seed {result['seed']}, "
        f"{result['n_training']} training rows, {result['seconds'] / 60:.0f} minutes. "
        "AUROC / FPR95 in % / OSCR / macro F1",
        "",
        f"| | ID accuracy, % | ID accepted, % | {' | '.join(sets)} |",
        "|---" * (len(sets) + 3) + "|",
    ]
    for name, row in rows.items():
        cells = [
            f"{of['auroc']:.3f} / {100 * of['fpr95']:.1f} / {of['oscr']:.3f} / {of['macro_f1']:.3f}"
            for of in map(row["ood"].get, sets)
        ]
        shares = f"{100 * row['accuracy']:.2f} | {100 * row['id_accepted']:.1f}"
        lines.append(f"| {name} | {shares} | {' | '.join(cells)} |")
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--id", choices=SETTINGS, default="mnist")
    parser.add_argument("--preset", choices=("quick", "paper", "smoke"), default="quick")
    parser.add_argument("--data", type=Path)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--only", nargs="*", help="methods to run; all by default")
    parser.add_argument("--work", type=Path, default=Path("checkpoints"), help="for resuming")
    parser.add_argument("--out", type=Path, default=Path(__file__).parent / "results")
    parser.add_argument("--verbose", type=int, default=0)
    parser.add_argument("--table", action="store_true", help="print the stored results")
    args = parser.parse_args()
    if args.table:
        for path in sorted(args.out.glob("vmdls-*.json")):
            print(text(json.loads(path.read_text())), end="\n\n")
        return
    if args.data is None:
        parser.error("--data is needed to run")
    if (SETTINGS[args.id].base, args.preset) not in PRESETS:
        parser.error(f"there is no preset {args.preset} for {args.id}; expected paper or smoke")
    for folder in (args.work, args.out):
        folder.mkdir(parents=True, exist_ok=True)
    result = run(args)
    name = f"vmdls-{args.id}-{args.preset}" + (f"-{args.seed}" if args.seed else "")
    (args.out / f"{name}.json").write_text(json.dumps(result, indent=1) + "\n")
    print(text(result))


if __name__ == "__main__":
    main()
