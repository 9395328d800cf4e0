"""Detectors that train a network, on the network of posthoc.py: CIFAR-10 against its OOD sets.

    python benchmarks/training_time.py --data DIR --only LogitNorm --seed 0
    python benchmarks/training_time.py --table                        # the stored results as text

Every detector has the network and the training of posthoc.py's preset "airbench". Methods that are
published as trained from scratch are trained for as many epochs. The others start from the weights
of posthoc.py's network of the same seed (--work must be the same folder) and train for 3 more
epochs, at a tenth of the learning rate, which falls to 0. Outlier Exposure and the
energy-regularised classifier train on synthetic outliers, made from training images; no method sees
an OOD set. The first rows are scores of the network itself. One-class methods have no classes of
their own: the accuracy beside them is the accuracy of the network that they start from. Every run
adds the results of its --seed.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable
from datetime import date
from pathlib import Path
from time import perf_counter
from typing import Any

import numpy as np
from _colour import OOD_SETS, measure, test_sets, train_network
from _images import labelled_images
from _machine import machine
from _seeds import added, check_same, spread
from posthoc import PRESETS
from sklearn.base import clone
from sklearn.frozen import FrozenEstimator

import skood
from skood import share_forward_pass
from skood.classifiers import NeuralClassifier

N_SEEDS = 3
# Outliers for DeepSAD.
N_OUTLIERS = 5000
FINE_TUNING = {"max_epochs": 3, "learning_rate": 0.075, "lr_schedule": ((0, 1), (1, 0))}
# The published optimiser of one-class training.
ONE_CLASS = {"optimizer": "adam", "learning_rate": 1e-4, "weight_decay": 5e-7, "bias_lr_scale": 1}


def fine_tuned(network: NeuralClassifier, **settings: Any) -> NeuralClassifier:
    """Return an untrained classifier that starts from the weights of `network`."""
    start = clone(PRESETS["airbench"]).set_params(**{**FINE_TUNING, "lookahead": None, **settings})
    return start.set_params(weights_init=FrozenEstimator(network), checkpoint_dir=None)


def frozen(networks: list[NeuralClassifier]) -> FrozenEstimator:
    return FrozenEstimator(networks[0])


# Makes the detector from the trained networks of the seed and, for the ensemble, of other seeds.
DETECTORS: dict[str, Callable[[list[NeuralClassifier]], Any]] = {
    "MSP": lambda networks: skood.MSP(frozen(networks)),
    "Energy": lambda networks: skood.Energy(frozen(networks)),
    "DeepEnsemble": lambda networks: skood.DeepEnsemble([FrozenEstimator(n) for n in networks]),
    "LogitNorm": lambda _: skood.LogitNorm(clone(PRESETS["airbench"])),
    "RegMixup": lambda _: skood.RegMixup(clone(PRESETS["airbench"])),
    "VOS": lambda _: skood.VOS(clone(PRESETS["airbench"])),
    "OutlierExposure, synthetic outliers": lambda networks: skood.OutlierExposure(
        fine_tuned(networks[0]), outliers=skood.synthetic_outliers
    ),
    "EnergyRegularized, synthetic outliers": lambda networks: skood.EnergyRegularized(
        fine_tuned(networks[0]), outliers=skood.synthetic_outliers
    ),
    "MCDropout": lambda networks: skood.MCDropout(fine_tuned(networks[0], dropout=0.5)),
    "OODGen": lambda networks: skood.OODGen(fine_tuned(networks[0])),
    "VMDLS": lambda networks: skood.VMDLS(fine_tuned(networks[0]), n_head_epochs=1),
    "DeepSVDD": lambda networks: skood.DeepSVDD(fine_tuned(networks[0], **ONE_CLASS)),
    "DeepSAD, synthetic outliers": lambda networks: skood.DeepSAD(
        fine_tuned(networks[0], **ONE_CLASS)
    ),
}


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--data", type=Path)
    parser.add_argument(
        "--n-test", type=int, default=5000, help="at most so many images per test set"
    )
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--only", nargs="*", help="names of detectors")
    parser.add_argument("--work", type=Path, default="checkpoints", help="for resuming")
    parser.add_argument("--out", type=Path, default=Path(__file__).parent / "results")
    parser.add_argument("--table", action="store_true", help="print the stored results")
    args = parser.parse_args()
    path = args.out / "training_time-cifar10-airbench.json"
    if not args.table:
        if args.data is None:
            parser.error("--data is needed to run")
        args.out.mkdir(parents=True, exist_ok=True)
        about = {
            "id": "cifar10",
            "network": repr(PRESETS["airbench"]),
            "fine_tuning": {key: repr(value) for key, value in FINE_TUNING.items()},
            "n_test": args.n_test,
        }
        images, labels = labelled_images(args.data, "cifar10", "train")
        for name in args.only or DETECTORS:
            check_same(path, about)
            result = {
                "methods": {name: run(name, images, labels, args)},
                "machine": machine(),
                "date": date.today().isoformat(),
            }
            path.write_text(json.dumps(added(path, about, args.seed, result), indent=2) + "\n")
    print(table(json.loads(path.read_text())))


def run(name: str, images: np.ndarray, labels: np.ndarray, args: argparse.Namespace) -> dict:
    """Fit a detector, and measure it on every OOD set."""
    seeds = [(args.seed + k) % N_SEEDS for k in range(N_SEEDS if name == "DeepEnsemble" else 1)]
    networks = [
        train_network("airbench", PRESETS["airbench"], images, labels, seed, args.work)[0]
        for seed in seeds
    ]
    detector = DETECTORS[name](networks)
    if "random_state" in detector.get_params():
        detector.set_params(random_state=args.seed)
    for model in ("classifier", "backbone"):
        architecture = getattr(detector, model, None)
        if isinstance(architecture, NeuralClassifier):
            architecture.set_params(checkpoint_dir=args.work, verbose=1)
    if isinstance(detector, skood.DeepSAD):
        # It reads outliers as rows.
        outliers = skood.synthetic_outliers(images, n_samples=N_OUTLIERS, random_state=args.seed)
        images = np.concatenate([images, outliers])
        labels = np.concatenate([labels, np.full(N_OUTLIERS, -1)])
    start = perf_counter()
    detector.fit(images, labels)
    seconds = perf_counter() - start
    test, y = labelled_images(args.data, "cifar10")
    classifier = detector if hasattr(detector, "predict_proba") else networks[0]
    accuracy = float((classifier.predict_proba(test).argmax(1) == y).mean())
    sets = {
        k: share_forward_pass(v) for k, v in test_sets(args.data, args.n_test, args.seed).items()
    }
    scores = {key: detector.score_samples(data) for key, data in sets.items()}
    row = {
        "accuracy": accuracy,
        "fit_seconds": seconds,
        "accepted": float((scores["cifar10"] >= detector.offset_).mean()),
        "sets": {key: measure(scores["cifar10"], scores[key]) for key in OOD_SETS},
    }
    print(name, f"{100 * accuracy:.2f} %, {seconds / 60:.1f} minutes", row["sets"], flush=True)
    return row


def table(result: dict) -> str:
    """Format the results as Markdown."""
    lines = [
        f"seeds {', '.join(result['runs'])}",
        "",
        f"| AUROC / FPR95 in % | accuracy, % | minutes | {' | '.join(OOD_SETS.values())} |",
        "|---" * (len(OOD_SETS) + 3) + "|",
    ]
    runs = result["runs"].values()
    for name, row in result["methods"].items():
        own = [run["methods"][name] for run in runs if name in run["methods"]]
        cells = [
            f"{row['sets'][key]['auroc']:.3f} / {100 * row['sets'][key]['fpr95']:.1f}"
            for key in OOD_SETS
        ]
        accuracy = spread([100 * r["accuracy"] for r in own], 2)
        minutes = f"{row['fit_seconds'] / 60:.0f}"
        lines.append(f"| {name} | {accuracy} | {minutes} | {' | '.join(cells)} |")
    return "\n".join(lines)


if __name__ == "__main__":
    main()
