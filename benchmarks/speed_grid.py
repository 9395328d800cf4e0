"""What a grid over ODIN's parameters costs beside its floor: training the folds' networks, once.

    python benchmarks/speed_grid.py              # writes benchmarks/results/speed_grid.json

A ConvNet is trained in each of 3 folds of scikit-learn's digits, and 8 temperatures x 3 step sizes
are searched over it with GridSearchCV and ``memory=``. The floor trains three networks by hand and
scores the training part (for the threshold) and the test part with each of the 24 settings.
"""

from __future__ import annotations

import argparse
import json
import tempfile
from datetime import date
from itertools import product
from pathlib import Path
from time import perf_counter

import numpy as np
from _machine import machine
from sklearn.base import clone
from sklearn.datasets import load_digits
from sklearn.frozen import FrozenEstimator
from sklearn.model_selection import GridSearchCV

from skood import ODIN, ConvNet, OODSplit, get_ood_scorer

RESULTS = Path(__file__).parent / "results" / "speed_grid.json"
GRID = {
    "temperature": [1.0, 2.0, 5.0, 10.0, 50.0, 100.0, 500.0, 1000.0],
    "epsilon": [0.0, 0.01, 0.05],
}


class CountingConvNet(ConvNet):
    """Notes every training in a file, so that trainings of other processes would count too."""

    def __init__(self, n_filters=(16, 32), *, log=None, **training) -> None:
        super().__init__(n_filters, **training)
        self.log = log

    def fit(self, X, y, X_val=None, y_val=None):
        with Path(self.log).open("a") as file:
            file.write("trained\n")
        return super().fit(X, y, X_val, y_val)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--epochs", type=int, default=20)
    args = parser.parse_args()

    digits = load_digits()
    X = digits.images
    y = np.where(digits.target > 7, -1, digits.target)
    splits = list(OODSplit(3, random_state=0).split(X, y))
    scorer = get_ood_scorer("auroc")
    with tempfile.TemporaryDirectory() as folder:
        log = Path(folder) / "log"
        network = CountingConvNet(
            max_epochs=args.epochs, value_range=(0, 16), random_state=0, log=str(log)
        )
        # Warms torch up.
        clone(network).set_params(max_steps=2).fit(X[:100], digits.target[:100])

        training = scoring = 0.0
        areas = {}
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
        np.isclose(score, np.mean(areas[params["temperature"], params["epsilon"]]))
        for params, score in zip(results["params"], results["mean_test_score"], strict=True)
    ]
    report = {
        "machine": machine(),
        "date": date.today().isoformat(),
        "settings": len(same),
        "folds": len(splits),
        "networks trained by the search": n_trained,
        "settings with the same AUROC as by hand": int(sum(same)),
        "seconds": {"training": training, "scoring": scoring, "search": searching},
        "ratio": searching / (training + scoring),
    }
    RESULTS.write_text(json.dumps(report, indent=2) + "\n")
    print(json.dumps(report, indent=2))


if __name__ == "__main__":
    main()
