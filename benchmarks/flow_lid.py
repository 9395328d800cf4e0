"""Local intrinsic dimension of image flows (Kamkari et al. 2024), compared with published figures.

Trains a flow on one set and tests it against the other sets of grey or of colour images:

    python benchmarks/flow_lid.py --id fashion_mnist --preset quick --data DIR   # 2 CPU cores
    python benchmarks/flow_lid.py --id fashion_mnist --preset gpu --data DIR     # minutes
    python benchmarks/flow_lid.py --id fashion_mnist --preset paper --data DIR   # as published
    python benchmarks/flow_lid.py --table              # the stored results as text

DIR has a ``read_data.py`` with ``load(name, split)``, or torchvision's layout. A set without a test
split has 2 000 images held out for testing. Nothing is tuned on an OOD set: the scale is computed
from training images, and synthetic outliers of test images are measured for choices. Each estimator
is measured at the scale of local PCA, at the scale of half that dimension, and at r = -3. The score
is the default, "all"; the columns "min" and "joint" belong to these values of `combine`. An
interrupted run resumes when started again with the same --work folder; --again measures a trained
flow anew.
"""

from __future__ import annotations

import argparse
import json
from dataclasses import dataclass
from datetime import date
from pathlib import Path
from time import perf_counter
from typing import Any

import joblib
import numpy as np
from _images import labelled_images
from _machine import machine
from sklearn.frozen import FrozenEstimator

from skood import ImageFlow, LocalIntrinsicDimension
from skood.datasets import model_samples, synthetic_outliers
from skood.metrics import auroc, dual_threshold_auroc, fpr_at_tpr

GREY = ("fashion_mnist", "mnist", "omniglot", "notmnist")
COLOUR = ("cifar10", "cifar100", "svhn")
SPLIT = {"fashion_mnist", "mnist", "cifar10"}  # Sets with a test split of their own.
N_HELD_OUT = 2000

# AUROC of log p, and of the oracle with dual thresholds, for diffusion models. The paper reports
# similar behaviour for flows.
PUBLISHED = {
    ("fashion_mnist", "mnist"): (0.240, 0.846),
    ("fashion_mnist", "omniglot"): (0.952, 0.959),
    ("mnist", "fashion_mnist"): (0.996, 0.996),
    ("cifar10", "svhn"): (0.064, 0.943),
    ("cifar100", "svhn"): (0.045, 0.944),
    ("svhn", "cifar10"): (0.996, 0.996),
    ("cifar10", "cifar100"): (0.528, 0.560),
}


@dataclass(frozen=True)
class Preset:
    """Settings of the flow, its dimension estimators and the numbers of images."""

    flow: dict[str, Any]
    estimators: tuple[str, ...]
    n_calibration: int
    # Random images drawn from each set.
    n_test: int


# Of 54 000 training images, in batches of 128.
STEPS_OF_AN_EPOCH = 422
PRESETS = {
    "smoke": Preset(
        {"n_transforms": (2, 2), "n_filters": 8, "max_steps": 30}, ("lanczos",), 60, 40
    ),
    "quick": Preset(
        {"n_transforms": (4, 4, 2), "n_filters": 32, "n_blocks": 1, "max_steps": 3000},
        ("lanczos", "threshold"),
        256,
        500,
    ),
    "gpu": Preset(
        {
            "max_steps": 2400,
            "max_epochs": 1000,
            "batch_size": 512,
            "learning_rate": 2e-3,
            "patience": None,
            "compile": False,
        },
        ("lanczos", "threshold"),
        1000,
        1000,
    ),
    # meta_configurations/training/flows/grayscale_flows.yaml of layer6ai-labs/dgm_ood_detection.
    # There the rate falls after each epoch, here after each step, to the same value at each epoch.
    "paper": Preset(
        {
            "n_transforms": (6, 6, 4),
            "n_filters": (64, 64, 1024),
            "mask": "alternating",
            "last_convolution": True,
            "dropout": 0.2,
            "max_steps": None,
            "max_epochs": 400,
            "batch_size": 128,
            "optimizer": "adamw",
            "weight_decay": 0.01,
            "learning_rate": 1e-3,
            "lr_schedule": "exponential",
            "lr_decay": 0.99 ** (1 / STEPS_OF_AN_EPOCH),
            "patience": None,
        },
        ("threshold", "convolution", "lanczos"),
        1000,
        1000,
    ),
}


def read(directory: Path, name: str, split: str) -> np.ndarray:
    """Read the images of a split; sets without a test split are divided here."""
    if name in SPLIT:
        return np.asarray(labelled_images(directory, name, split)[0])
    images = np.asarray(labelled_images(directory, name, "test")[0])
    order = np.random.default_rng(0).permutation(len(images))
    return images[order[:N_HELD_OUT] if split == "test" else order[N_HELD_OUT:]]


def some(images: np.ndarray, n: int) -> np.ndarray:
    return images[np.random.default_rng(0).permutation(len(images))[:n]]


def figures(inside: np.ndarray, outside: np.ndarray, detector: Any) -> dict[str, float]:
    """Return the AUROC of each measure, of the scores and of the oracle, for two sets of pairs."""
    truth = np.append(np.ones(len(inside)), np.full(len(outside), -1))
    pairs = np.concatenate([inside, outside])
    scores = {}
    # The default is the last.
    for combine in ("min", "joint", "all"):
        scores[combine] = detector.set_params(combine=combine).combine_pairs(pairs)
    return {
        "log_p": auroc(truth, pairs[:, 0]),
        "lid": auroc(truth, pairs[:, 1]),
        **{name: auroc(truth, values) for name, values in scores.items()},
        **{f"{name}_fpr95": fpr_at_tpr(truth, values) for name, values in scores.items()},
        "accepted": float((scores["all"][len(inside) :] >= detector.offset_).mean()),
        "oracle": dual_threshold_auroc(truth, pairs),
    }


def measured(detector: Any, pairs: dict[str, np.ndarray]) -> dict[str, Any]:
    """Measure a detector; the first set is in-distribution, the second has the model's samples."""
    (id_name, inside), (_, made), *others = pairs.items()
    return {
        "scale": detector.scale_,
        "target_dimension": detector.target_dimension_,
        "id_accepted": float((detector.combine_pairs(inside) >= detector.offset_).mean()),
        "medians": {name: np.median(values, 0).tolist() for name, values in pairs.items()},
        "correlation": float(np.corrcoef(detector.train_pairs_.T)[0, 1]),
        "ood": {name: figures(inside, outside, detector) for name, outside in others},
        "own_samples_against": {
            name: figures(made, outside, detector) for name, outside in [(id_name, inside), *others]
        },
    }


def measured_at_scales(
    flow: ImageFlow, estimator: str, X: np.ndarray, sets: dict[str, np.ndarray], settings: Any
) -> dict[str, Any]:
    """Measure detectors with an estimator at several scales, by the name of the scale."""
    start = perf_counter()

    def fitted(**scale: Any) -> LocalIntrinsicDimension:
        model = FrozenEstimator(flow)
        return LocalIntrinsicDimension(model, estimator=estimator, **scale, **settings).fit(X)

    first = fitted()
    detectors = {
        "": first,
        ", half": fitted(target_dimension=first.target_dimension_ / 2),
        ", r = -3": fitted(scale=-3.0),
    }
    fit_seconds = perf_counter() - start
    scales = [detector.scale_ for detector in detectors.values()]
    start = perf_counter()
    log_p = {name: flow.score_samples(images) for name, images in sets.items()}
    curves = {name: first.dimension_curve(images, scales)[1] for name, images in sets.items()}
    rate = sum(map(len, sets.values())) / (perf_counter() - start)
    rows = {}
    for k, (name, detector) in enumerate(detectors.items()):
        pairs = {key: np.stack((log_p[key], curves[key][:, k]), 1) for key in sets}
        rows[estimator + name] = {
            "n_test": len(next(iter(pairs.values()))),
            "fit_seconds": fit_seconds,
            **measured(detector, pairs),
            "images_per_second": rate,
        }
    return rows


def trained(args: argparse.Namespace, X: np.ndarray) -> tuple[ImageFlow, dict[str, Any]]:
    """Train the flow, or load it from an earlier run; return it with facts about its training."""
    path = args.work / f"{stem(args)}.joblib"
    if path.exists():
        return joblib.load(path)
    preset = PRESETS[args.preset]
    steps = {"max_steps": args.steps} if args.steps else {}
    settings = {"verbose": args.verbose, "random_state": args.seed, "checkpoint_dir": args.work}
    start = perf_counter()
    flow = ImageFlow(**{**preset.flow, **steps}, **settings).fit(X)
    facts = {
        "settings": {**preset.flow, **steps},
        "n_training": len(X),
        "n_parameters": sum(p.numel() for p in flow.module_.parameters()),
        "seconds": perf_counter() - start,
        "machine": machine(),
        "history": flow.history_,
    }
    joblib.dump((flow, facts), path)
    return flow, facts


def run(args: argparse.Namespace) -> dict[str, Any]:
    preset = PRESETS[args.preset]
    n_test = args.n_test or preset.n_test
    others = [name for name in (GREY if args.id in GREY else COLOUR) if name != args.id]
    X = read(args.data, args.id, "train")
    X_test = read(args.data, args.id, "test")
    flow, training = trained(args, X)
    sets = {
        args.id: some(X_test, n_test),
        "own samples": model_samples(flow, n_test, random_state=args.seed),
        **{name: some(read(args.data, name, "test"), n_test) for name in others},
        "synthetic": synthetic_outliers(X_test, "all", n_test, args.seed),
        "synthetic, half": synthetic_outliers(X_test, "all", n_test, args.seed, strength=0.5),
    }
    path = args.out / f"{stem(args)}.json"
    result: dict[str, Any] = {"estimators": {}}
    if path.exists() and not args.again:
        result = json.loads(path.read_text())
    result |= {
        "id": args.id,
        "preset": args.preset,
        "seed": args.seed,
        "training": training,
        "bits_per_dim": float(flow.bits_per_dim(X_test).mean()),
        "machine": machine(),
        "date": date.today().isoformat(),
    }
    print(f"{args.id}: {result['bits_per_dim']:.3f} bits/dim", flush=True)
    for estimator in args.estimators or preset.estimators:
        if estimator in result["estimators"]:
            continue
        settings = {
            "n_calibration": preset.n_calibration,
            "checkpoint_dir": args.work,
            "verbose": args.verbose,
            "random_state": args.seed,
        }
        result["estimators"] |= measured_at_scales(flow, estimator, X, sets, settings)
        path.write_text(json.dumps(result, indent=1) + "\n")
    return result


def stem(args: argparse.Namespace) -> str:
    return f"flow_lid-{args.id}-{args.preset}" + (f"-{args.seed}" if args.seed else "")


COLUMNS = (
    *("log_p", "lid", "all", "all_fpr95", "min", "min_fpr95", "joint", "joint_fpr95"),
    *("accepted", "oracle"),
)


def text(result: dict[str, Any]) -> str:
    """Format a result as Markdown."""
    training = result["training"]
    seconds = training["seconds"]
    n_values = 784 if result["id"] in GREY else 3072
    noisy = training["history"]["loss"][-1] / (n_values * np.log(2))
    minutes = "not timed" if seconds is None else f"{seconds / 60:.0f} minutes"
    lines = [
        f"ID {result['id']}, preset {result['preset']}, seed {result['seed']}, "
        f"{result['bits_per_dim']:.3f} bits/dim ({noisy:.3f} in training, with noise), "
        f"{training['n_parameters']:,} parameters, "
        f"{training['n_training']} training images, trained on "
        f"{training['machine']['gpu'].replace('none', training['machine']['cpu'])} ({minutes}). "
        "AUROC, except for FPR95 and accepted",
        "",
        "| estimator | n | OOD | log p | LID | all | FPR95, % | min | FPR95, % | joint | FPR95, % "
        "| accepted, % | "
        "oracle | published: log p, oracle |",
        "|---" * 12 + "|",
    ]
    for estimator, row in result["estimators"].items():
        parts = [(name, row["ood"][name], name) for name in row["ood"]]
        parts += [
            (f"{name}, own samples as ID", values, None)
            for name, values in row["own_samples_against"].items()
        ]
        for name, values, published in parts:
            cells = [
                f"{100 * values[key]:.1f}"
                if key.endswith(("fpr95", "accepted"))
                else f"{values[key]:.3f}"
                for key in COLUMNS
            ]
            cells.append(
                ", ".join(map("{:.3f}".format, PUBLISHED.get((result["id"], published), ())))
            )
            lines.append(f"| {estimator} | {row['n_test']} | {name} | {' | '.join(cells)} |")
    lines.append("")
    for estimator, row in result["estimators"].items():
        target = row["target_dimension"]
        chosen = "" if target is None else f" for a dimension of {target:.0f}"
        lines.append(
            f"{estimator}: accepts {100 * row['id_accepted']:.1f} % of ID test images; "
            f"r = {row['scale']:.2f}{chosen}; {row['images_per_second']:.1f} images/s"
        )
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--id", choices=GREY + COLOUR, default="fashion_mnist")
    parser.add_argument("--preset", choices=PRESETS, default="quick")
    parser.add_argument("--data", type=Path)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--steps", type=int, help="training steps, instead of the preset's")
    parser.add_argument("--estimators", nargs="*", help="instead of the preset's")
    parser.add_argument("--n-test", type=int, help="images per set, instead of the preset's")
    parser.add_argument("--work", type=Path, default=Path("checkpoints"), help="for resuming")
    parser.add_argument("--out", type=Path, default=Path(__file__).parent / "results")
    parser.add_argument("--again", action="store_true", help="replace the stored result")
    parser.add_argument("--verbose", type=int, default=0)
    parser.add_argument("--table", action="store_true", help="print the stored results")
    args = parser.parse_args()
    if args.table:
        for path in sorted(args.out.glob("flow_lid-*.json")):
            print(text(json.loads(path.read_text())), end="\n\n")
        return
    if args.data is None:
        parser.error("--data is needed to run")
    for folder in (args.work, args.out):
        folder.mkdir(parents=True, exist_ok=True)
    print(text(run(args)))


if __name__ == "__main__":
    main()
