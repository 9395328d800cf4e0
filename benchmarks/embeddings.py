"""Detectors that see feature vectors alone, without labels: a table of detectors by OOD sets.

    python benchmarks/embeddings.py images --data DIR
    python benchmarks/embeddings.py text
    python benchmarks/embeddings.py images --table           # the stored results as text

"images": penultimate features of a small network that is trained on CIFAR-10; DIR has torchvision's
layout, or a ``read_data.py`` with ``load(name, split)``. "text": TF-IDF and truncated SVD of the
docstrings of PyTorch; the OOD sets are the docstrings of other installed packages. Detectors have
their default parameters; densities train for at most --epochs epochs, and one random vector
estimates the trace of a diffusion model. No OOD set chooses anything:
the column "synthetic" has the AUROC against outliers made from held-out training rows, by which a
user without OOD data would choose. Trained networks are kept in --work; a detector that has
results is not run again, so that an interrupted run resumes. Every run adds the results of its
--seed.
"""

from __future__ import annotations

import argparse
import json
import warnings
from collections.abc import Callable
from datetime import date
from functools import cache, cached_property
from pathlib import Path
from time import perf_counter
from typing import Any

import joblib
import numpy as np
from _colour import measure
from _embedding_sets import OOD_NAMES, FeatureSets, feature_sets
from _machine import machine
from _score_curvature import ScoreCurvature
from _seeds import added, check_same
from sklearn.base import BaseEstimator
from sklearn.decomposition import PCA
from sklearn.ensemble import IsolationForest
from sklearn.frozen import FrozenEstimator
from sklearn.mixture import GaussianMixture
from sklearn.neighbors import LocalOutlierFactor
from sklearn.pipeline import Pipeline, make_pipeline
from sklearn.preprocessing import FunctionTransformer, Normalizer, StandardScaler
from sklearn.svm import OneClassSVM

from skood import (
    GMM,
    KNN,
    ExternalDetector,
    KernelPCA,
    LogLikelihood,
    Mahalanobis,
    ScoreNorm,
    Typicality,
)
from skood.datasets import synthetic_outliers
from skood.density import Diffusion, NeuralSplineFlow
from skood.metrics import auroc

N_COMPONENTS = 32
# Fraction of the training rows that calibrates densities, and that synthetic outliers are made of.
HELD_OUT = 0.1
INPUTS: dict[str, Callable[[], Any]] = {
    "raw": FunctionTransformer,
    "length 1": Normalizer,
    "standardised": StandardScaler,
    "32 PCs": lambda: PCA(N_COMPONENTS, random_state=0),
    "32 PCs of length 1": lambda: make_pipeline(Normalizer(), PCA(N_COMPONENTS, random_state=0)),
}
ROW_DETECTORS: dict[str, Callable[[int], Any]] = {
    "length": lambda seed: ExternalDetector(Length(), higher="inlier"),
    "Mahalanobis": lambda seed: Mahalanobis(random_state=seed),
    "KNN": lambda seed: KNN(random_state=seed),
    "GMM": lambda seed: GMM(random_state=seed),
    "KernelPCA": lambda seed: KernelPCA(random_state=seed),
    "IsolationForest": lambda seed: ExternalDetector(IsolationForest(random_state=seed)),
    "OneClassSVM": lambda seed: ExternalDetector(OneClassSVM()),
    "LocalOutlierFactor": lambda seed: ExternalDetector(LocalOutlierFactor(novelty=True)),
}
# Mahalanobis does not depend on the scale of a column.
ROW_INPUTS = {
    "length": ("raw",),
    "Mahalanobis": ("raw", "length 1"),
    "KernelPCA": ("raw", "length 1"),
    "OneClassSVM": ("raw", "length 1"),
}
DENSITIES: dict[str, Callable[..., Any]] = {
    "GaussianMixture(10)": lambda seed, **training: GaussianMixture(
        10, reg_covar=1e-3, random_state=seed
    ),
    "NeuralSplineFlow": lambda seed, **training: NeuralSplineFlow(random_state=seed, **training),
    # By default, the trace is exact up to 64 features, which takes 32 passes where this takes one.
    "Diffusion": lambda seed, **training: Diffusion(n_probes=1, random_state=seed, **training),
}
OF_DENSITIES = {"log p": LogLikelihood, "Typicality": Typicality}
OF_DIFFUSIONS = {
    "ScoreNorm": ScoreNorm,
    "score norm / curvature": ScoreCurvature,
}


class Length(BaseEstimator):
    """Score that is the length of a vector: long ones count as in-distribution."""

    def fit(self, X: np.ndarray, y: None = None) -> Length:
        return self

    def __sklearn_is_fitted__(self) -> bool:
        return True

    def score_samples(self, X: np.ndarray) -> np.ndarray:
        return np.linalg.norm(X, axis=1)


class Remembered(BaseEstimator):
    """A fitted density that computes the log-densities of an array once."""

    def __init__(self, model: Any) -> None:
        self.model = model

    def fit(self, X: np.ndarray, y: None = None) -> Remembered:
        return self

    def __sklearn_is_fitted__(self) -> bool:
        return True

    @cached_property
    def _scores(self) -> dict[str, np.ndarray]:
        return {}

    def score_samples(self, X: np.ndarray) -> np.ndarray:
        key = joblib.hash(X)
        if key not in self._scores:
            self._scores[key] = self.model.score_samples(X)
        return self._scores[key]


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("modality", choices=OOD_NAMES)
    parser.add_argument("--data", type=Path)
    parser.add_argument("--n-training", type=int, default=5000)
    parser.add_argument("--n-test", type=int, default=500, help="at most so many rows per set")
    parser.add_argument("--epochs", type=int, default=30, help="of flows and diffusion models")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--only", nargs="*", help="beginnings of names of rows")
    parser.add_argument("--work", type=Path, default=Path("checkpoints"), help="for resuming")
    parser.add_argument("--out", type=Path, default=Path(__file__).parent / "results")
    parser.add_argument("--table", action="store_true", help="print the stored results")
    args = parser.parse_args()
    path = args.out / f"embeddings-{args.modality}.json"
    if not args.table:
        run(args, path)
    print(table(json.loads(path.read_text())))


def run(args: argparse.Namespace, path: Path) -> None:
    """Measure the rows without results, and store each as soon as it is measured."""
    about = {key: getattr(args, key) for key in ("modality", "n_training", "n_test", "epochs")}
    check_same(path, about)
    for folder in (args.work, args.out):
        folder.mkdir(parents=True, exist_ok=True)
    sets = feature_sets(
        args.modality, args.n_training, args.n_test, args.seed, args.work, args.data
    )
    stored = json.loads(path.read_text())["runs"] if path.exists() else {}
    done = stored.get(str(args.seed), {"methods": {}})["methods"]
    for name, make in rows_of_table(sets, args).items():
        if name in done or (args.only and not name.startswith(tuple(args.only))):
            continue
        result = measured(make, sets, args.seed)
        print(f"{name:50} {mean_auroc(result):.3f}, {result['seconds']:.1f} s", flush=True)
        new = {
            "methods": {name: result},
            **sets.about,
            "n_features": sets.training.shape[1],
            "constant features": int((np.ptp(sets.training, axis=0) == 0).sum()),
            "machine": machine(),
            "date": date.today().isoformat(),
        }
        text = json.dumps(added(path, about, args.seed, new), indent=2)
        path.write_text(text + "\n")


def split(training: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return the rows that densities learn from, and held-out rows, both in random order."""
    n_held_out = int(HELD_OUT * len(training))
    return training[n_held_out:], training[:n_held_out]


def rows_of_table(sets: FeatureSets, args: argparse.Namespace) -> dict[str, Callable[[], Any]]:
    """Return for each row of the table a function that fits its detector."""
    learned, held_out = split(sets.training)
    makers: dict[str, Callable[[], Any]] = {}
    for name, make in ROW_DETECTORS.items():
        for inputs in ROW_INPUTS.get(name, ("raw", "length 1", "standardised")):
            makers[f"{name}, {inputs}"] = lambda make=make, inputs=inputs: fitted(
                inputs, make(args.seed), learned
            )

    @cache
    def density(name: str, inputs: str) -> tuple[Any, Any, Any]:
        step = INPUTS[inputs]().fit(learned)
        training = {"max_epochs": args.epochs, "checkpoint_dir": args.work}
        model = DENSITIES[name](args.seed, **training).fit(step.transform(learned))
        return step, FrozenEstimator(model), FrozenEstimator(Remembered(model))

    def on_density(detector: Callable[..., Any], name: str, inputs: str) -> Pipeline:
        step, model, remembered = density(name, inputs)
        if detector in OF_DENSITIES.values():
            model = remembered
        scores = detector(model, random_state=args.seed).fit(step.transform(held_out))
        return Pipeline([("inputs", step), ("detector", scores)])

    for inputs in ("32 PCs of length 1", "32 PCs", "length 1", "raw"):
        for name in DENSITIES:
            detectors = OF_DENSITIES | (OF_DIFFUSIONS if name == "Diffusion" else {})
            for score, detector in detectors.items():
                makers[f"{score} of {name}, {inputs}"] = (
                    lambda detector=detector, name=name, inputs=inputs: on_density(
                        detector, name, inputs
                    )
                )
    return makers


def fitted(inputs: str, detector: Any, rows: np.ndarray) -> Pipeline:
    step = INPUTS[inputs]().fit(rows)
    return Pipeline([("inputs", step), ("detector", detector.fit(step.transform(rows)))])


def measured(make: Callable[[], Any], sets: FeatureSets, seed: int) -> dict[str, Any]:
    """Fit a detector and measure it on every OOD set, and on synthetic outliers."""
    start = perf_counter()
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        detector = make()
        seconds = perf_counter() - start
        inside = detector.score_samples(sets.test)
        outside = {name: detector.score_samples(X) for name, X in sets.ood.items()}
        held_out = split(sets.training)[1]
        made = synthetic_outliers(held_out, random_state=seed)
        synthetic = detector.score_samples(np.concatenate([held_out, made]))
    truth = np.repeat([1, -1], len(held_out))
    for message in {str(warning.message) for warning in caught}:
        print(f"    {message}", flush=True)
    return {
        "seconds": seconds,
        "accepted": float((inside >= detector[-1].offset_).mean()),
        "mean score": float(inside.mean()),
        "synthetic": auroc(truth, synthetic),
        "sets": {name: measure(inside, scores) for name, scores in outside.items()},
    }


def mean_auroc(row: dict[str, Any]) -> float:
    return float(np.mean([values["auroc"] for values in row["sets"].values()]))


def table(result: dict[str, Any]) -> str:
    """Format every row as Markdown."""
    names = OOD_NAMES[result["modality"]]
    facts = ("accuracy", "texts", "explained variance", "n_features", "constant features")
    lines = [
        f"seed {seed}: " + ", ".join(f"{key} {run[key]}" for key in facts if key in run)
        for seed, run in result["runs"].items()
    ]
    heads = [*names, "mean", "mean FPR95, %", "synthetic", "ID accepted, %"]
    lines += ["", f"| AUROC | {' | '.join(heads)} |", "|---" * (1 + len(heads)) + "|"]
    for name, row in result["methods"].items():
        cells = [f"{row['sets'][key]['auroc']:.3f}" for key in names]
        rate = np.mean([values["fpr95"] for values in row["sets"].values()])
        cells += [f"{mean_auroc(row):.3f}", f"{100 * rate:.1f}", f"{row['synthetic']:.3f}"]
        lines.append(f"| {name} | {' | '.join(cells)} | {100 * row['accepted']:.1f} |")
    return "\n".join(lines)


if __name__ == "__main__":
    main()
