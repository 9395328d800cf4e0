"""Time of a single item and of large sets, compared with the bare network, scikit-learn and scipy.

    python benchmarks/speed_latency.py            # writes benchmarks/results/speed_latency.json
    python benchmarks/speed_latency.py --quick    # a trial run, which writes nothing

One item: ``score_samples`` of one image through torchvision's ResNet-18 at 32, 96 and 224 pixels,
    and of one row through an MLP. The aim is at most 1.3 times the bare forward pass plus 1 ms.
Bank: KNN and Mahalanobis over 50 000 x 512 float32, for one row and for 1 000 rows, compared with
    the calls of scikit-learn and scipy that compute the same numbers. The aim is at most 1.5 times
    their time.
Large sets: milliseconds per image of MSP, in batches of the size that skood chooses and of 32.

Networks are untrained, which does not change the time. Every round runs all variants in turn; the
medians over the rounds are compared.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable
from datetime import date
from pathlib import Path
from time import perf_counter

import numpy as np
import torch
import torchvision
from _machine import machine
from _timing import summary
from scipy.spatial.distance import cdist
from sklearn.covariance import EmpiricalCovariance
from sklearn.neighbors import NearestNeighbors
from torch import nn

import skood
from skood import PretrainedClassifier
from skood._torch.batching import scoring_batch_size

RESULTS = Path(__file__).parent / "results" / "speed_latency.json"
N_BANK, N_FEATURES, N_CLASSES, N_NEIGHBORS = 50_000, 512, 10, 50
OLD_BATCH = 32
DETECTORS = {
    "MSP": skood.MSP,
    "Energy": skood.Energy,
    "KNN": skood.KNN,
    "Mahalanobis": skood.Mahalanobis,
    "ViM": skood.ViM,
}
Variants = dict[str, Callable[[], object]]


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--rounds", type=int, default=101, help="rounds of a single item")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--quick", action="store_true")
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    rounds = 3 if args.quick else args.rounds
    report = {
        "machine": machine(),
        "date": date.today().isoformat(),
        "rounds": rounds,
        "one item, ms": time_one_item(rounds),
        "bank, ms": time_bank(rounds),
        "large sets, ms for each image": time_large_sets(1 if args.quick else 15),
    }
    if not args.quick:
        RESULTS.write_text(json.dumps(report, indent=2) + "\n")


def time_in_turns(variants: Variants, rounds: int) -> dict[str, dict[str, float]]:
    """Return the milliseconds of each variant, after three warm-up rounds."""
    measured = []
    for _ in range(rounds + 3):
        milliseconds = {}
        for name, variant in variants.items():
            start = perf_counter()
            variant()
            milliseconds[name] = 1000 * (perf_counter() - start)
        measured.append(milliseconds)
    return summary(measured[3:])


def resnet() -> nn.Module:
    return torchvision.models.resnet18(weights=None, num_classes=N_CLASSES).eval()


def time_one_item(rounds: int) -> dict[str, dict]:
    torch.manual_seed(0)
    mlp = nn.Sequential(nn.Linear(64, 256), nn.ReLU(), nn.Linear(256, 256), nn.ReLU())
    networks = {
        "row of 64": (nn.Sequential(*mlp, nn.Linear(256, N_CLASSES)).eval(), (64,)),
        **{f"image of {px} px": (resnet(), (3, px, px)) for px in (32, 96, 224)},
    }
    results = {}
    for name, (module, shape) in networks.items():
        timed = time_in_turns(one_item(module, shape), rounds)
        limit = 1.3 * timed["bare network"]["median"] + 1
        results[name] = {"limit": limit, **timed}
        print(f"\n{name}, at most {limit:.2f} ms")
        show(timed)
    return results


def one_item(module: nn.Module, shape: tuple[int, ...]) -> Variants:
    X = np.random.default_rng(0).random((8 * N_CLASSES, *shape), dtype=np.float32)
    y = np.arange(len(X)) % N_CLASSES
    training, item = skood.share_forward_pass(X), X[:1]
    tensor = torch.from_numpy(item)

    def bare_network() -> None:
        with torch.inference_mode():
            module(tensor)

    variants: Variants = {"bare network": bare_network}
    for name, make in DETECTORS.items():
        options = {"n_neighbors": N_NEIGHBORS} if name == "KNN" else {}
        variants[name] = scorer(make(module, **options).fit(training, y), item)
    return variants


def scorer(detector: skood.base.BaseDetector, X: np.ndarray) -> Callable[[], object]:
    return lambda: detector.score_samples(X)


def time_bank(rounds: int) -> dict[str, dict]:
    rng = np.random.default_rng(0)
    bank = rng.normal(size=(N_BANK, N_FEATURES)).astype(np.float32)
    queries = rng.normal(size=(1000, N_FEATURES)).astype(np.float32)
    y = np.arange(N_BANK) % N_CLASSES
    # Shift the classes, so that their means differ.
    bank[:, 0] += y
    neighbors = NearestNeighbors(n_neighbors=N_NEIGHBORS, algorithm="brute").fit(bank)
    knn = skood.KNN(n_neighbors=N_NEIGHBORS, normalize=False).fit(bank)
    results = {}
    for n in (1, 1000):
        rows = queries[:n]
        variants: dict[str, Variants] = {
            f"KNN of {n}": {
                "skood": scorer(knn, rows),
                "scikit-learn": lambda rows=rows: neighbors.kneighbors(rows),
            }
        }
        for n_classes in (1, N_CLASSES):
            variants[f"Mahalanobis of {n}, {n_classes} classes"] = mahalanobis(
                bank, y if n_classes > 1 else None, rows
            )
        for name, turns in variants.items():
            timed = time_in_turns(turns, rounds if n == 1 else max(1, rounds // 20))
            ours = timed.pop("skood")
            ratios = {other: ours["median"] / row["median"] for other, row in timed.items()}
            results[name] = {"skood": ours, **timed, "ratio": ratios}
            print(f"\n{name}: {', '.join(f'{r:.2f} x {other}' for other, r in ratios.items())}")
            show({"skood": ours, **timed})
    return results


def mahalanobis(bank: np.ndarray, y: np.ndarray | None, rows: np.ndarray) -> Variants:
    detector = skood.Mahalanobis().fit(bank, y)
    means = detector.means_
    centred = bank - means[np.zeros(len(bank), int) if y is None else y]
    covariance = EmpiricalCovariance(assume_centered=True).fit(centred)
    precision, double = covariance.precision_, rows.astype(np.float64)
    np.testing.assert_allclose(
        np.square(cdist(double, means, "mahalanobis", VI=precision)).min(1),
        -detector.score_samples(rows),
        rtol=1e-4,
    )
    variants: Variants = {
        "skood": scorer(detector, rows),
        "scipy": lambda: cdist(double, means, "mahalanobis", VI=precision),
    }
    if y is None:
        # scikit-learn's estimator has one mean, computed from the data.
        one_class = EmpiricalCovariance().fit(bank)
        variants["scikit-learn"] = lambda: one_class.mahalanobis(rows)
    return variants


def time_large_sets(rounds: int) -> dict[str, dict]:
    torch.manual_seed(0)
    module, results = resnet(), {}
    for px, n in ((32, 256), (96, 128), (224, 64)):
        X = np.random.default_rng(0).random((n, 3, px, px), dtype=np.float32)
        chosen = scoring_batch_size(torch.device("cpu"), X.shape[1:])
        variants = {
            f"batches of {size}{note}": scorer(
                skood.MSP(PretrainedClassifier(module, batch_size=size)).fit(X[:N_CLASSES]), X
            )
            for size, note in ((chosen, ", chosen"), (OLD_BATCH, ", before"))
        }
        timed = time_in_turns(variants, rounds)
        each = {name: {key: value / n for key, value in row.items()} for name, row in timed.items()}
        results[f"{n} images of {px} px"] = each
        print(f"\n{n} images of {px} px, ms per image")
        show(each)
    return results


def show(timed: dict[str, dict[str, float]]) -> None:
    for name, row in timed.items():
        print(
            f"  {name:24} {row['median']:9.3f}   ({row['min']:.3f} to {row['max']:.3f})", flush=True
        )


if __name__ == "__main__":
    main()
