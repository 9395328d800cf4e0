"""VMDLS (Dinari and Freifeld 2022), compared with other training-time and post-hoc methods.

Every method trains the same backbone on the same rows for the same number of epochs:

    python benchmarks/vmdls.py --id mnist --preset quick --data DIR     # a small network
    python benchmarks/vmdls.py --id mnist --preset short --data DIR     # the authors' network
    python benchmarks/vmdls.py --id mnist --preset paper --data DIR     # for a GPU
    python benchmarks/vmdls.py --table              # the stored results as text

With --backbone, a classifier is trained first, and VMDLS fine-tunes it in two phases: the heads
alone, then all weights. It is a class of ``skood.classifiers`` with its default parameters, or a
trained classifier in a file of ``skood.save``, in whose name {seed} stands for --seed:

    python benchmarks/vmdls.py --id cifar10 --preset short --backbone DenseNet --data DIR

DIR has a ``read_data.py`` with ``load(name, split)``, or torchvision's layout. A tenth of the
training rows is held out; the 5th percentile of their scores is the threshold, which is too high if
the classifier in a file was trained on these rows. Nothing is tuned on an OOD set. Methods that
train on outliers get a separate set, which is not a test set. An interrupted run resumes when
started again with the same --work folder. A further --seed or --only adds to the stored results.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable
from copy import copy
from dataclasses import asdict
from datetime import date
from pathlib import Path
from time import perf_counter
from typing import Any

import numpy as np
from _images import labelled_images
from _machine import machine
from _seeds import added, check_same, spread
from _vmdls_presets import PRESETS, SETTINGS, Preset, Setting
from sklearn.base import clone
from sklearn.frozen import FrozenEstimator
from sklearn.model_selection import train_test_split

import skood
from skood import KNN, MSP, ODIN, VMDLS, Energy, LayerMahalanobis, Mahalanobis
from skood.density import Autoencoder
from skood.metrics import auroc, fpr_at_tpr, open_set_f1, oscr


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
    settings = {"memory": str(args.work), "verbose": args.verbose, "random_state": args.seed}
    autoencoder = Autoencoder(**preset.autoencoder, **common)
    given = trained_backbone(args)
    if args.backbone is None:
        backbone = clone(preset.backbone).set_params(**common)
    elif given is not None:
        backbone = clone(given)
    else:
        backbone = getattr(skood.classifiers, args.backbone)(**preset.trained_backbone, **common)

    def trained(X: np.ndarray, y: np.ndarray) -> FrozenEstimator:
        return FrozenEstimator(given or clone(backbone).fit(X, y))

    def plain(X: np.ndarray, y: np.ndarray) -> dict[str, Any]:
        network = trained(X, y)
        detectors = [MSP, Energy, ODIN, Mahalanobis, LayerMahalanobis, KNN]
        fitted = {cls.__name__: cls(network).fit(X, y) for cls in detectors}
        raw = Mahalanobis(network, normalize=False).fit(X, y)
        return {**fitted, "Mahalanobis, normalize=False": raw}

    def vmdls(X: np.ndarray, y: np.ndarray) -> VMDLS:
        if args.backbone is None:
            return VMDLS(backbone, **preset.vmdls, **settings)
        tuned = clone(backbone).set_params(**common, **preset.tuned_backbone)
        if "bias_lr_scale" in tuned.get_params():
            # All weights have the same rate.
            tuned.set_params(bias_lr_scale=1.0)
        return VMDLS(tuned.set_params(weights_init=trained(X, y)), **preset.tuned_vmdls, **settings)

    def variants(normalised: bool) -> Callable:
        def fit(X: np.ndarray, y: np.ndarray) -> dict[str, Any]:
            detector = vmdls(X, y).set_params(normalize_embeddings=normalised)
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

    found = {
        "softmax": plain,
        "VMDLS": variants(False),
        "VMDLS, normalised": variants(True),
    }
    if args.backbone is not None:
        return found
    one_class = clone(preset.one_class).set_params(**common)
    mixed = {"outlier_ratio": preset.outlier_ratio}
    found |= {
        "LogitNorm": single("LogitNorm", backbone),
        "VOS": single("VOS", backbone),
        "RegMixup": single("RegMixup", backbone),
        "OutlierExposure": single("OutlierExposure", backbone, uses_outliers=True, **mixed),
        "EnergyRegularized": single("EnergyRegularized", backbone, uses_outliers=True, **mixed),
        "DeepEnsemble": single("DeepEnsemble", backbone, n_members=preset.n_members),
        "DeepSVDD": single("DeepSVDD", one_class),
        "DeepSAD": single("DeepSAD", one_class, uses_outliers=True),
    }
    if "dropout" in backbone.get_params():
        found["MCDropout"] = single("MCDropout", clone(backbone).set_params(dropout=0.2))
    return found


def trained_backbone(args: argparse.Namespace) -> Any:
    """Return the trained classifier if --backbone is a file, else None."""
    path = Path((args.backbone or "").format(seed=args.seed))
    return skood.load(path) if path.is_file() else None


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


def run(args: argparse.Namespace, name: str) -> dict[str, Any]:
    """Fit and measure the methods that are not stored in --work yet; return one seed's results."""
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
    kept = np.flatnonzero(np.isin(y_test, setting.classes))[: preset.n_test]
    X_test, y_test = X_test[kept], y_test[kept]
    sets = ood_sets(args.data, setting, preset.n_ood)
    outliers = read(args.data, setting.outliers, "test")[0]
    if outliers.shape[1:] != X.shape[1:]:
        raise ValueError(f"{setting.outliers} has images of {outliers.shape[1:]}")

    path = args.work / f"{name}-{args.seed}.json"
    result: dict[str, Any] = json.loads(path.read_text()) if path.exists() else {}
    default = None
    for method, fit in methods(preset, args, outliers).items():
        stored = result.get(method, {})
        if args.only and method not in args.only:
            continue
        # A one-class method gets its classes from the softmax network.
        if "detectors" in stored and method != "softmax":
            continue
        start = perf_counter()
        detectors = fit(X, y)
        fitted = perf_counter()
        default = default or next(iter(detectors.values()))
        if "detectors" not in stored:
            result[method] = {
                "detectors": {
                    key: measured(detector, held_out, X_test, y_test, sets, default)
                    for key, detector in detectors.items()
                },
                "fit_seconds": fitted - start,
                "score_seconds": perf_counter() - fitted,
                "history": getattr(next(iter(detectors.values())), "history_", {}),
            }
            path.write_text(json.dumps(result))
            measures = json.dumps(result[method]["detectors"])
            print(method, f"{fitted - start:.0f} s", measures, flush=True)
    return {
        "n_training": len(X),
        "methods": result,
        "seconds": sum(m["fit_seconds"] + m["score_seconds"] for m in result.values()),
        "machine": machine(),
        "date": date.today().isoformat(),
    }


def text(result: dict[str, Any]) -> str:
    """Format a result as Markdown; the paper calls OSCR "CAUROC"."""
    runs = result["runs"]
    rows: dict[str, list[Any]] = {}
    for run_ in runs.values():
        for method in run_["methods"].values():
            for name, row in method["detectors"].items():
                rows.setdefault(name, []).append(row)
    sets = list(next(iter(rows.values()))[0]["ood"])
    n_training = " or ".join(sorted({str(run_["n_training"]) for run_ in runs.values()}))
    minutes = sum(run_["seconds"] for run_ in runs.values()) / 60
    backbone = f", fine-tuned {result['backbone']}" if result["backbone"] else ""
    lines = [
        f"ID {result['id']}, preset {result['preset']['name']}{backbone}, seeds "
        f"{', '.join(runs)}, {n_training} training rows, {minutes:.0f} minutes. "
        "AUROC / FPR95 in % / OSCR / macro F1; means, with standard deviations of several seeds",
        "",
        f"| | ID accuracy, % | ID accepted, % | {' | '.join(sets)} |",
        "|---" * (len(sets) + 3) + "|",
    ]
    for name, of_seeds in rows.items():
        shares = [
            spread([100 * row[key] for row in of_seeds], digits)
            for key, digits in (("accuracy", 2), ("id_accepted", 1))
        ]
        cells = []
        for ood in sets:
            of_set = [row["ood"][ood] for row in of_seeds]
            measures = [
                spread([scale * row[key] for row in of_set], digits)
                for key, scale, digits in (
                    ("auroc", 1, 3),
                    ("fpr95", 100, 1),
                    ("oscr", 1, 3),
                    ("macro_f1", 1, 3),
                )
            ]
            cells.append(" / ".join(measures))
        lines.append(f"| {name} | {' | '.join(shares + cells)} |")
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    presets = sorted({name for _, name in PRESETS})
    parser.add_argument("--id", choices=SETTINGS, default="mnist")
    parser.add_argument("--preset", choices=presets, default="quick")
    parser.add_argument("--data", type=Path)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--only", nargs="*", help="methods to run; all by default")
    parser.add_argument(
        "--backbone", help="class or file of a classifier that VMDLS fine-tunes; see above"
    )
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
    base = SETTINGS[args.id].base
    if (base, args.preset) not in PRESETS:
        known = ", ".join(name for of, name in PRESETS if of == base)
        parser.error(f"there is no preset {args.preset} for {args.id}; expected one of {known}")
    preset = PRESETS[base, args.preset]
    if preset.backbone is None and args.backbone is None:
        parser.error(f"--preset {args.preset} of {args.id} needs a --backbone")
    for folder in (args.work, args.out):
        folder.mkdir(parents=True, exist_ok=True)
    given = trained_backbone(args)
    backbone = args.backbone if given is None else type(given).__name__
    if given is None and backbone and not hasattr(skood.classifiers, backbone):
        parser.error(f"--backbone {backbone} is neither a class of skood.classifiers nor a file")
    name = f"vmdls-{args.id}-{args.preset}" + (f"-{backbone}" if backbone else "")
    unused = preset.unused(fine_tunes=backbone is not None)
    used = {k: str(v) for k, v in vars(preset).items() if k not in unused}
    about = {
        "id": args.id,
        "setting": json.loads(json.dumps(asdict(SETTINGS[args.id]))),
        "preset": {"name": args.preset, **used},
        "backbone": backbone,
    }
    path = args.out / f"{name}.json"
    check_same(path, about)
    result = added(path, about, args.seed, run(args, name))
    path.write_text(json.dumps(result, indent=1) + "\n")
    print(text(result))


if __name__ == "__main__":
    main()
