"""KernelPCA beside other scores of one network, and RegMixup beside the same network without it.

    python benchmarks/new_methods.py --data DIR
    python benchmarks/new_methods.py --table            # the stored results as text

ID: Fashion-MNIST, a small ConvNet that is trained for a minute, two seeds. All parameters are the
defaults; no OOD set chooses any. DIR has a ``read_data.py`` with ``load(name, split)``, or
torchvision's layout.
"""

from __future__ import annotations

import argparse
import json
from datetime import date
from pathlib import Path
from typing import Any

import numpy as np
from _images import labelled_images
from _machine import machine
from sklearn.frozen import FrozenEstimator

from skood import KNN, MSP, ConvNet, Energy, KernelPCA, RegMixup, share_forward_pass
from skood.metrics import auroc, fpr_at_tpr

OOD = "mnist", "omniglot", "notmnist"
POSTHOC = {
    "MSP": MSP,
    "Energy": Energy,
    "KNN": KNN,
    "KernelPCA, cosine": lambda network: KernelPCA(network, "cosine", 0.85, random_state=0),
    "KernelPCA, cosine-gaussian": lambda network: KernelPCA(network, random_state=0),
}


def measured(detector: Any, sets: dict[str, Any]) -> dict[str, dict[str, float]]:
    inside = detector.score_samples(sets["test"])
    row = {}
    for name in OOD:
        scores = np.concatenate([inside, detector.score_samples(sets[name])])
        truth = np.where(np.arange(len(scores)) < len(inside), 1, -1)
        row[name] = {"auroc": auroc(truth, scores), "fpr95": fpr_at_tpr(truth, scores)}
    return row


def run(args: argparse.Namespace, seed: int) -> dict[str, Any]:
    images, labels = labelled_images(args.data, "fashion_mnist", "train")
    kept = np.random.default_rng(seed).permutation(len(images))[: args.n_training]
    images, labels = images[kept], labels[kept]
    test, y = (values[: args.n_test] for values in labelled_images(args.data, "fashion_mnist"))
    sets = {name: labelled_images(args.data, name)[0][: args.n_test] for name in OOD}
    sets = {name: share_forward_pass(X) for name, X in {**sets, "test": test}.items()}
    network = ConvNet((16, 32, 64), max_epochs=args.epochs, random_state=seed)
    plain = network.fit(images, labels)
    result: dict[str, Any] = {"accuracy": {"plain": float((plain.predict(test) == y).mean())}}
    shared = share_forward_pass(images)
    for name, make in POSTHOC.items():
        result[name] = measured(make(FrozenEstimator(plain)).fit(shared, labels), sets)
    mixed = RegMixup(
        ConvNet((16, 32, 64), max_epochs=args.epochs, random_state=seed), random_state=seed
    ).fit(images, labels)
    result["accuracy"]["RegMixup"] = float((mixed.classifier_.predict(test) == y).mean())
    result["RegMixup"] = measured(mixed, sets)
    return result


def table(result: dict[str, Any]) -> str:
    runs = result["runs"]
    lines = [f"| method | accuracy | {' | '.join(OOD)} |", "|---" * (2 + len(OOD)) + "|"]
    for name in [*POSTHOC, "RegMixup"]:
        accuracy = [run["accuracy"]["RegMixup" if name == "RegMixup" else "plain"] for run in runs]
        cells = [f"{100 * np.mean(accuracy):.2f} %"]
        for key in OOD:
            areas = [run[name][key]["auroc"] for run in runs]
            rates = [run[name][key]["fpr95"] for run in runs]
            spread = f"(range {max(areas) - min(areas):.3f})"
            cells.append(f"{np.mean(areas):.3f} {spread} / {100 * np.mean(rates):.1f} %")
        lines.append(f"| {name} | {' | '.join(cells)} |")
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--data", type=Path)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1])
    parser.add_argument("--epochs", type=int, default=4)
    parser.add_argument("--n-training", type=int, default=6000)
    parser.add_argument("--n-test", type=int, default=2000)
    parser.add_argument("--out", type=Path, default=Path(__file__).parent / "results")
    parser.add_argument("--table", action="store_true", help="print the stored results")
    args = parser.parse_args()
    path = args.out / "new_methods.json"
    if not args.table:
        if args.data is None:
            parser.error("--data is needed to run")
        runs = [run(args, seed) for seed in args.seeds]
        settings = {key: getattr(args, key) for key in ("seeds", "epochs", "n_training", "n_test")}
        result = {**settings, "runs": runs, "machine": machine(), "date": date.today().isoformat()}
        path.write_text(json.dumps(result, indent=2) + "\n")
    print(table(json.loads(path.read_text())))


if __name__ == "__main__":
    main()
