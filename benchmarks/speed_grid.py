"""Time of a grid search over ODIN's parameters, relative to training each fold's network once.

    python benchmarks/speed_grid.py              # writes benchmarks/results/speed_grid.json

GridSearchCV with ``memory=`` trains a ConvNet in each of 3 folds of scikit-learn's digits and
searches 8 temperatures x 3 step sizes over it. The lower bound trains three networks by hand and
scores the training part (for the threshold) and the test part with each of the 24 settings. Every
round runs both in turn; the ratio is the median over the rounds.
"""

from __future__ import annotations

import argparse
import json
import tempfile
from collections.abc import Callable
from datetime import date
from itertools import product
from pathlib import Path
from statistics import median
from time import perf_counter

import numpy as np
from _machine import machine
from sklearn.base import clone
from sklearn.datasets import load_digits
from sklearn.frozen import FrozenEstimator
from sklearn.model_selection import GridSearchCV

from skood import ODIN, ConvNet, OODSplit, get_ood_scorer
from skood.base import estimator, parameter

RESULTS = Path(__file__).parent / "results" / "speed_grid.json"
GRID = {
    "temperature": [1.0, 2.0, 5.0, 10.0, 50.0, 100.0, 500.0, 1000.0],
    "epsilon": [0.0, 0.01, 0.05],
}


@estimator
class CountingConvNet(ConvNet):
    """Records every training in a file, which also counts trainings in other processes."""

    n_filters: tuple[int, ...] = parameter(default=(16, 32))
    log: str | None = parameter(default=None, kw_only=True)

    def fit(self, X, y, X_val=None, y_val=None):
        with Path(self.log).open("a") as file:
            file.write("trained\n")
        return super().fit(X, y, X_val, y_val)


def measure(X: np.ndarray, y: np.ndarray, splits: list, scorer: Callable, epochs: int) -> dict:
    """Measure one round: by hand, and by a search with an empty cache."""
    with tempfile.TemporaryDirectory() as folder:
        log = Path(folder) / "log"
        network = CountingConvNet(
            max_epochs=epochs, value_range=(0, 16), random_state=0, log=str(log)
        )
        # Warm up torch.
        clone(network).set_params(max_steps=2).fit(X[:100], np.arange(100) % 2)

        training = scoring = 0.0
        areas: dict = {}
        for train, test in splits:
            start = perf_counter()
            frozen = FrozenEstimator(clone(network).fit(X[train], y[train]))
            training += perf_counter() - start
            start = perf_counter()
            for temperature, epsilon in product(*GRID.values()):
                detector = ODIN(frozen, temperature, epsilon, random_state=0).fit(X[train])
                area = scorer(detector, X[test], y[test])
                areas.setdefault((temperature, epsilon), []).append(area)
            scoring += perf_counter() - start

        log.write_text("")
        search = GridSearchCV(
            ODIN(network, memory=folder, random_state=0),
            GRID,
            scoring=scorer,
            cv=splits,
            refit=False,
        )
        start = perf_counter()
        search.fit(X, y)
        searching = perf_counter() - start
        n_trained = len(log.read_text().splitlines())
    results = search.cv_results_
    same = [
        bool(np.isclose(score, np.mean(areas[params["temperature"], params["epsilon"]])))
        for params, score in zip(results["params"], results["mean_test_score"], strict=True)
    ]
    return {
        "training": training,
        "scoring": scoring,
        "search": searching,
        "n_trained": n_trained,
        "same": same,
    }


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--epochs", type=int, default=20)
    parser.add_argument("--rounds", type=int, default=5)
    args = parser.parse_args()

    digits = load_digits()
    X = digits.images
    y = np.where(digits.target > 7, -1, digits.target)
    splits = list(OODSplit(3, random_state=0).split(X, y))
    scorer = get_ood_scorer("auroc")
    rounds = [measure(X, y, splits, scorer, args.epochs) for _ in range(args.rounds)]
    report = {
        "machine": machine(),
        "date": date.today().isoformat(),
        "settings": len(rounds[0]["same"]),
        "folds": len(splits),
        "networks trained by each search": [r["n_trained"] for r in rounds],
        "settings with the same AUROC as by hand": [sum(r["same"]) for r in rounds],
        "seconds": {name: [r[name] for r in rounds] for name in ("training", "scoring", "search")},
        "ratio": median(r["search"] / (r["training"] + r["scoring"]) for r in rounds),
    }
    RESULTS.write_text(json.dumps(report, indent=2) + "\n")
    print(json.dumps(report, indent=2))


if __name__ == "__main__":
    main()
