"""Detectors on features with and without scaling to length 1: evidence for ``normalize="auto"``.

    python benchmarks/normalize.py --data DIR
    python benchmarks/normalize.py --table              # the stored results as text

"auto" normalises the features of a network and leaves rows of a table as they are. Networks are
small and trained for a few minutes; tables are scikit-learn's, standardised with the training rows.
DIR has a ``read_data.py`` with ``load(name, split)``, or torchvision's layout.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Iterator
from datetime import date
from pathlib import Path
from typing import Any

import numpy as np
from _images import labelled_images
from _machine import machine
from sklearn.base import clone
from sklearn.datasets import load_breast_cancer, load_digits, load_wine
from sklearn.frozen import FrozenEstimator
from sklearn.model_selection import train_test_split
from sklearn.preprocessing import StandardScaler

import skood
from skood import ConvNet
from skood.metrics import auroc, fpr_at_tpr

DETECTORS = {
    "KNN": skood.KNN(),
    "Mahalanobis": skood.Mahalanobis(),
    "RelativeMahalanobis": skood.RelativeMahalanobis(),
}
# The in-distribution classes; the others are OOD.
TABLES = {
    "breast_cancer": (load_breast_cancer, [1]),
    "wine": (load_wine, [0, 1]),
    "digits": (load_digits, list(range(8))),
}
NETWORKS = {
    "mnist": (ConvNet((16, 32, 64)), ("omniglot", "fashion_mnist", "notmnist")),
    "fashion_mnist": (ConvNet((16, 32, 64)), ("mnist", "omniglot", "notmnist")),
    "cifar10": (
        ConvNet((32, 64, 128)),
        ("svhn", "cifar100", "tinyimagenet_crop", "tinyimagenet_resize"),
    ),
}


def tables(seed: int) -> Iterator[tuple[str, dict[str, Any]]]:
    for name, (load, classes) in TABLES.items():
        X, y = load(return_X_y=True)
        inside = np.isin(y, classes)
        train, test, y_train, _ = train_test_split(
            X[inside], y[inside], random_state=seed, stratify=y[inside]
        )
        scaler = StandardScaler().fit(train)
        sets = {"other classes": scaler.transform(X[~inside])}
        yield name, measured(None, scaler.transform(train), y_train, scaler.transform(test), sets)


def networks(args: argparse.Namespace) -> Iterator[tuple[str, dict[str, Any]]]:
    for name, (network, ood) in NETWORKS.items():
        images, labels = labelled_images(args.data, name, "train")
        kept = np.random.default_rng(args.seed).permutation(len(images))[: args.n_training]
        images, labels = images[kept], labels[kept]
        network = clone(network).set_params(
            max_epochs=args.epochs, random_state=args.seed, verbose=args.verbose
        )
        network.fit(images, labels)
        test, y = labelled_images(args.data, name)
        accuracy = float((network.predict(test[: args.n_test]) == y[: args.n_test]).mean())
        sets = {key: labelled_images(args.data, key)[0][: args.n_test] for key in ood}
        result = measured(FrozenEstimator(network), images, labels, test[: args.n_test], sets)
        yield name, {"network": repr(network), "accuracy": accuracy, **result}


def measured(features: Any, X: Any, y: Any, test: Any, sets: dict[str, Any]) -> dict[str, Any]:
    X, test = skood.share_forward_pass(X), skood.share_forward_pass(test)
    sets = {key: skood.share_forward_pass(images) for key, images in sets.items()}
    rows: dict[str, Any] = {}
    for name, detector in DETECTORS.items():
        if name == "RelativeMahalanobis" and len(np.unique(y)) == 1:
            continue
        for normalize in (False, True):
            made = clone(detector).set_params(features=features, normalize=normalize).fit(X, y)
            inside = made.score_samples(test)
            row = rows.setdefault(name, {}).setdefault(str(normalize), {})
            for key, images in sets.items():
                scores = np.concatenate([inside, made.score_samples(images)])
                truth = np.where(np.arange(len(scores)) < len(inside), 1, -1)
                row[key] = {"auroc": auroc(truth, scores), "fpr95": fpr_at_tpr(truth, scores)}
    return {"n_training": len(y), "detectors": rows}


def table(result: dict[str, Any]) -> str:
    lines = ["| ID | OOD | detector | not scaled | length 1 |", "|---" * 5 + "|"]
    for group in ("tables", "networks"):
        for name, case in result[group].items():
            for detector, row in case["detectors"].items():
                for key in row["False"]:
                    cells = [
                        f"{row[kind][key]['auroc']:.3f} / {100 * row[kind][key]['fpr95']:.1f} %"
                        for kind in ("False", "True")
                    ]
                    lines.append(f"| {name} | {key} | {detector} | {' | '.join(cells)} |")
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--data", type=Path)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--epochs", type=int, default=5)
    parser.add_argument("--n-training", type=int, default=10_000)
    parser.add_argument("--n-test", type=int, default=2000)
    parser.add_argument("--verbose", type=int, default=0)
    parser.add_argument("--out", type=Path, default=Path(__file__).parent / "results")
    parser.add_argument("--table", action="store_true", help="print the stored results")
    args = parser.parse_args()
    path = args.out / "normalize.json"
    if not args.table:
        if args.data is None:
            parser.error("--data is needed to run")
        result: dict[str, Any] = {"tables": dict(tables(args.seed)), "networks": {}}
        for name, case in networks(args):
            result["networks"][name] = case
            print(name, f"accuracy {100 * case['accuracy']:.2f} %", flush=True)
        settings = {key: getattr(args, key) for key in ("seed", "epochs", "n_training", "n_test")}
        result |= {**settings, "machine": machine(), "date": date.today().isoformat()}
        path.write_text(json.dumps(result, indent=2) + "\n")
    print(table(json.loads(path.read_text())))


if __name__ == "__main__":
    main()
