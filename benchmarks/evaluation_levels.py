"""Coverage of the intervals and level of the paired tests of `skood.evaluate`, by simulation.

    python benchmarks/evaluation_levels.py       # writes benchmarks/results/evaluation_levels.json
    python benchmarks/evaluation_levels.py --repeats 100 --out /tmp/trial.json

Scores of ID and OOD rows are normal, with a part that all detectors share, so that the AUROC and
the FPR95 in the population are known. For each sample size and AUROC:

- coverage: the fraction of repeats in which the 95 % bootstrap interval contains the true value;
- level: the fraction of repeats in which a paired test of two equal detectors has p <= 0.05, for
  DeLong's test of the AUROC and for the bootstrap test of the FPR95;
- power: the same for DeLong's test if the detectors differ;
- wrong: the fraction of repeats in which `best` supports a detector although five are equal.

1 000 repeats take about 25 minutes on one core; an interrupted run resumes.
"""

from __future__ import annotations

import argparse
import json
from datetime import date
from pathlib import Path
from typing import Any

import numpy as np
from _machine import machine
from scipy.stats import norm
from sklearn.base import BaseEstimator

from skood import evaluate

RESULTS = Path(__file__).parent / "results"
SIZES = 20, 50, 200, 1000
AUROCS = 0.7, 0.95
# Correlation between the scores of two detectors, in ID rows and in OOD rows.
CORRELATION = 0.5
N_RESAMPLES = 300


class Column(BaseEstimator):
    """A detector whose score is a column of X."""

    def __init__(self, column: int = 0) -> None:
        self.column = column

    def fit(self, X: Any, y: Any = None) -> Column:
        return self

    def score_samples(self, X: Any) -> np.ndarray:
        return X[:, self.column]


def draw(rng: np.random.Generator, n: int, shifts: list[float]) -> tuple[np.ndarray, np.ndarray]:
    """Draw ID and OOD scores; `shifts` are the differences of the means, in standard deviations."""
    common, own = np.sqrt(CORRELATION), np.sqrt(1 - CORRELATION)
    parts = [
        common * rng.normal(size=(n, 1)) + own * rng.normal(size=(n, len(shifts))) for _ in range(2)
    ]
    return parts[0] + np.array(shifts), parts[1]


def measure(seed: int, n: int, auroc: float) -> dict[str, float]:
    """Return whether each event happened in one repeat."""
    rng = np.random.default_rng([seed, n, round(1000 * auroc)])
    # AUROC = Phi(shift / sqrt(2)); a row is accepted at 95 % TPR if it lies above shift - 1.645.
    shift = np.sqrt(2) * norm.ppf(auroc)
    truth = {"auroc": auroc, "fpr95": norm.sf(shift + norm.ppf(0.05))}
    five = {str(k): Column(k) for k in range(5)}
    inside, outside = draw(rng, n, [shift] * 5)
    common = {"X_train": inside, "random_state": seed, "verbose": 0, "n_resamples": N_RESAMPLES}
    two = {name: five[name] for name in "01"}
    table = evaluate(
        two, inside, {"o": outside}, metrics=["auroc", "fpr95"], confidence=0.95, **common
    )
    found: dict[str, float] = {}
    for metric, value in truth.items():
        found[f"coverage_{metric}"] = (
            table[0][f"{metric}_low"] <= value <= table[0][f"{metric}_high"]
        )
        found[f"level_{metric}"] = table.compare(metric=metric)[0]["p_value"] <= 0.05
    equal = evaluate(five, inside, {"o": outside}, metrics=["auroc"], **common)
    found["wrong"] = equal.best()[0]["supported"]
    better = np.sqrt(2) * norm.ppf(auroc + (1 - auroc) / 3)
    inside, outside = draw(rng, n, [better, shift])
    differ = evaluate(two, inside, {"o": outside}, metrics=["auroc"], **common)
    found["power_auroc"] = differ.compare()[0]["p_value"] <= 0.05
    return {name: float(value) for name, value in found.items()}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--repeats", type=int, default=1000)
    parser.add_argument("--out", type=Path, default=RESULTS / "evaluation_levels.json")
    args = parser.parse_args()
    report: dict[str, Any] = {"table": {}}
    if args.out.exists():
        report = json.loads(args.out.read_text())
    report |= {
        "date": date.today().isoformat(),
        "machine": machine(),
        "first_seed": 0,
        "n_resamples": N_RESAMPLES,
        "correlation": CORRELATION,
    }
    for n in SIZES:
        for auroc in AUROCS:
            key = f"n={n}, AUROC {auroc}"
            entry = report["table"].get(key, {})
            if entry.get("repeats", 0) >= args.repeats:
                continue
            runs = [measure(seed, n, auroc) for seed in range(args.repeats)]
            entry = {name: float(np.mean([run[name] for run in runs])) for name in runs[0]}
            report["table"][key] = entry | {"repeats": args.repeats}
            print(key, report["table"][key], flush=True)
            args.out.write_text(json.dumps(report, indent=1) + "\n")


if __name__ == "__main__":
    main()
