"""Deletion test: removing what an explanation names moves the score more than random removal.

    python benchmarks/deletion_test.py --data DIR

An item loses 10, 20 and 30 % of its parts (columns of rows, patches of 4 x 4 pixels of images).
Out-of-distribution items lose first what lowers their score most, and their score should rise;
in-distribution items lose first what raises it most, and their score should fall. Lost columns get
the mean of the training rows, lost patches the mean colour of their image. The explanations replace
parts otherwise: by draws from the training rows, and by a blur. Each movement is the mean over the
three fractions, in standard deviations of the score of new in-distribution items; "random" is the
mean over random orders. DIR has the same layout as for the other benchmarks; without --data, only
the tables of scikit-learn are measured. About 5 minutes on one slow core.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable
from datetime import date
from pathlib import Path
from typing import Any

import numpy as np
from _images import labelled_images
from _machine import machine
from sklearn.datasets import load_breast_cancer, load_digits, load_wine
from sklearn.ensemble import IsolationForest
from sklearn.frozen import FrozenEstimator
from sklearn.preprocessing import StandardScaler

from skood import GMM, KNN, MSP, ConvNet, Energy, Mahalanobis, ViM
from skood.explanation import explain
from skood.inspection import attribute

RESULTS = Path(__file__).parent / "results" / "deletion_test.json"
FRACTIONS = (0.1, 0.2, 0.3)
PATCH, N_ORDERS, N_BASELINES = 4, 10, 10

# Takes items, an item's replacement, and the parts to remove, (n, n_parts); returns other items.
Remove = Callable[[np.ndarray, np.ndarray, np.ndarray], np.ndarray]


def tables(seed: int) -> dict[str, tuple[np.ndarray, np.ndarray, np.ndarray]]:
    """Return training rows, new in-distribution rows and out-of-distribution rows, standardised."""
    found = {}
    for name, loaded, outlying in (
        ("breast cancer: benign, malignant", load_breast_cancer(), [0]),
        ("wine: 0 and 1, 2", load_wine(), [2]),
        ("digits: 0 to 7, 8 and 9", load_digits(), [8, 9]),
    ):
        is_ood = np.isin(loaded.target, outlying)
        order = np.random.default_rng(seed).permutation(np.flatnonzero(~is_ood))
        n_train = 2 * len(order) // 3
        train = loaded.data[order[:n_train]]
        # Columns that do not vary say nothing.
        varies = train.std(0) > 0
        scaler = StandardScaler().fit(train[:, varies])
        sets = train, loaded.data[order[n_train:]], loaded.data[is_ood]
        found[name] = tuple(scaler.transform(rows[:, varies]) for rows in sets)
    return found


def replaced_columns(rows: np.ndarray, fill: np.ndarray, lost: np.ndarray) -> np.ndarray:
    return np.where(lost, fill, rows)


def replaced_patches(images: np.ndarray, fill: np.ndarray, lost: np.ndarray) -> np.ndarray:
    side = images.shape[-1] // PATCH
    mask = np.kron(lost.reshape(-1, side, side), np.ones((PATCH, PATCH), bool)).astype(bool)
    return np.where(mask, fill, images).astype(images.dtype)


def by_patch(maps: np.ndarray) -> np.ndarray:
    """Sum maps of pixels over patches, shape (n, n_patches)."""
    n, side, _ = maps.shape
    blocks = maps.reshape(n, side // PATCH, PATCH, side // PATCH, PATCH)
    return blocks.sum((2, 4)).reshape(n, -1)


def movement(
    score: Callable[[np.ndarray], np.ndarray],
    items: np.ndarray,
    fill: np.ndarray,
    values: np.ndarray,
    remove: Remove,
) -> np.ndarray:
    """Return how far the score of each item rises when the parts with the least values are lost."""
    before, rank = score(items), values.argsort(1).argsort(1)
    n_lost = [max(1, round(part * values.shape[1])) for part in FRACTIONS]
    return np.mean([score(remove(items, fill, rank < n)) - before for n in n_lost], 0)


def compare(
    score: Callable[[np.ndarray], np.ndarray],
    sets: dict[str, tuple[np.ndarray, np.ndarray]],
    values_of: dict[str, Callable[[np.ndarray], np.ndarray]],
    remove: Remove,
    deviation: float,
    seed: int,
) -> dict[str, Any]:
    """Measure each explanation on OOD and ID items, given with their replacements."""
    found: dict[str, Any] = {}
    for which, (items, fill) in sets.items():
        sign = 1 if which == "ood" else -1
        rng, moved = np.random.default_rng(seed), None
        for name, of in values_of.items():
            values = sign * of(items)
            if moved is None:
                # Random orders of the same numbers of parts.
                draws = rng.random((N_ORDERS, *values.shape))
                moved = sign * np.array([movement(score, items, fill, v, remove) for v in draws])
                random = moved.mean(0) / deviation
            named = sign * movement(score, items, fill, values, remove) / deviation
            gain = named - random
            error = gain.std(ddof=1) / np.sqrt(len(gain))
            found.setdefault(name, {})[which] = {
                "named": named.mean(),
                "random": random.mean(),
                "difference": gain.mean(),
                "standard_error": error,
                "items_above_random": float((gain > 0).mean()),
            }
    return found


def of_tables(n_items: int, seed: int) -> dict[str, Any]:
    report = {}
    for table, (train, new, ood) in tables(seed).items():
        rng = np.random.default_rng(seed)
        baseline = train[rng.permutation(len(train))[:N_BASELINES]]
        chosen = {
            "ood": ood[rng.permutation(len(ood))[:n_items]],
            "id": new[rng.permutation(len(new))[:n_items]],
        }
        sets = {which: (rows, train.mean(0)) for which, rows in chosen.items()}
        for detector in (Mahalanobis(), GMM(), KNN(n_neighbors=5), IsolationForest(random_state=0)):
            detector.fit(train)
            values_of = {}
            if isinstance(detector, Mahalanobis):
                values_of["contributions"] = lambda X, d=detector: (
                    explain(d, X).feature_contributions
                )
                values_of["removals"] = lambda X, d=detector: -explain(d, X).feature_removals
            for method in ("occlusion", "integrated_gradients"):
                if method == "occlusion" or not isinstance(detector, IsolationForest):
                    values_of[method] = lambda X, d=detector, m=method, b=baseline: (
                        attribute(d, X, method=m, baseline=b).values
                    )
            deviation = float(np.std(detector.score_samples(new)))
            report[f"{table} | {type(detector).__name__}"] = compare(
                detector.score_samples, sets, values_of, replaced_columns, deviation, seed
            )
    return report


def of_images(data: Path, n_items: int, seed: int) -> dict[str, Any]:
    rng = np.random.default_rng(seed)

    def images(name: str, split: str, n: int) -> tuple[np.ndarray, np.ndarray]:
        found, labels = labelled_images(data, name, split)
        rows = np.sort(rng.permutation(len(found))[:n])
        return found[rows], labels[rows]

    X, y = images("fashion_mnist", "train", 6000)
    network = ConvNet((16, 32), max_epochs=8, random_state=seed).fit(X, y)
    test, labels = images("fashion_mnist", "test", 1000)
    accuracy = float((network.predict(test) == labels).mean())
    chosen = {"ood": images("mnist", "test", n_items)[0], "id": test[:n_items]}
    sets = {
        which: (found, np.rint(found.mean((1, 2), keepdims=True)).astype(found.dtype))
        for which, found in chosen.items()
    }
    report: dict[str, Any] = {"accuracy": accuracy}
    frozen = FrozenEstimator(network)
    for detector in (MSP(frozen), Energy(frozen), Mahalanobis(frozen), KNN(frozen), ViM(frozen)):
        detector.fit(X, y)
        values_of = {
            "occlusion": lambda X, d=detector: by_patch(attribute(d, X, patch_size=PATCH).values),
            "integrated_gradients": lambda X, d=detector: by_patch(
                attribute(d, X, method="integrated_gradients", n_steps=32).values
            ),
        }
        deviation = float(np.std(detector.score_samples(test)))
        name = f"Fashion-MNIST, MNIST | {type(detector).__name__}"
        report[name] = compare(
            detector.score_samples, sets, values_of, replaced_patches, deviation, seed
        )
    return report


def show(report: dict[str, Any]) -> None:
    print("| data, detector | explanation | ood: named | random | id: named | random |")
    print("|---|---|---|---|---|---|")
    for name, methods in report.items():
        for method, found in methods.items():
            cells = [
                f"{found[which]['named']:+.2f} | {found[which]['random']:+.2f}"
                for which in ("ood", "id")
            ]
            print(f"| {name.replace(' | ', '; ')} | {method} | {' | '.join(cells)} |")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", type=Path)
    parser.add_argument("--n-items", type=int, default=40)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path, default=RESULTS)
    args = parser.parse_args()
    report: dict[str, Any] = {
        "date": date.today().isoformat(),
        "machine": machine(),
        "seed": args.seed,
        "n_items": args.n_items,
        "fractions": FRACTIONS,
        "n_random_orders": N_ORDERS,
    }
    found = of_tables(args.n_items, args.seed)
    show(found)
    if args.data:
        of_network = of_images(args.data, args.n_items, args.seed)
        report["accuracy"] = of_network.pop("accuracy")
        print(f"accuracy on Fashion-MNIST {report['accuracy']:.3f}")
        show(of_network)
        found |= of_network
    report["results"] = found
    args.out.write_text(json.dumps(report, indent=1) + "\n")


if __name__ == "__main__":
    main()
