"""Drift: levels and power of the tests of batches and streams, and bounds of single detectors.

    python benchmarks/drift.py                # writes benchmarks/results/drift.json
    python benchmarks/drift.py --table        # the stored results as text
    python benchmarks/drift.py --repeats 50 --out /tmp/trial.json

Everything is computed from scores: calibration and in-distribution scores are standard normal, and
the OOD scores follow the named alternatives. Five parts:

- ``batches``: the rate at which ``drift_test`` has p <= 0.05, for the in-distribution (the level)
  and for alternatives (the power), and how often the true OOD fraction lies outside the interval;
- ``kolmogorov_smirnov``: the level of a Kolmogorov-Smirnov test of the batch's p-values against
  the uniform distribution, which takes the calibration rows as known;
- ``typicality``: the level of ``Typicality.predict_batch``, and of the bootstrap threshold of the
  published algorithm;
- ``streams``: false alarms of ``DriftMonitor`` in 2 000 rows, and rows until the alarm;
- ``conditional``: how often the false-alarm rate of one fitted detector exceeds alpha.

1 000 repeats take about 7 minutes on one core.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable
from datetime import date
from pathlib import Path

import numpy as np
from _machine import machine
from scipy.stats import kstest, norm
from sklearn.base import BaseEstimator
from sklearn.frozen import FrozenEstimator

from skood import ConformalDetector, DriftMonitor, Typicality
from skood.calibration._drift import drift_of

RESULTS = Path(__file__).parent / "results" / "drift.json"
Draw = Callable[[np.random.Generator, int], np.ndarray]


def mixed(fraction: float, shift: float) -> Draw:
    """Return a function that draws scores of which a fraction is lowered."""
    return lambda rng, n: rng.normal(size=n) - shift * (np.arange(n) < round(fraction * n))


ALTERNATIVES: dict[str, tuple[float, Draw]] = {
    "in-distribution": (0.0, mixed(0, 0)),
    "5 % of rows 4 lower": (0.05, mixed(0.05, 4)),
    "20 % of rows 2 lower": (0.2, mixed(0.2, 2)),
    "all rows 0.3 lower": (1.0, mixed(1, 0.3)),
}


class Value(BaseEstimator):
    """Detector whose scores are the rows."""

    def fit(self, X: np.ndarray, y: object = None) -> Value:
        self.fitted_ = True
        return self

    def score_samples(self, X: np.ndarray) -> np.ndarray:
        return np.asarray(X)[:, 0]


def column(values: np.ndarray) -> np.ndarray:
    return values.reshape(-1, 1)


VALUE = FrozenEstimator(Value().fit(np.zeros((1, 1))))


def batches(rng: np.random.Generator, repeats: int) -> list[dict]:
    rows = []
    for n in (100, 1000):
        for m in (1, 20, 100, 1000):
            for name, (fraction, draw) in ALTERNATIVES.items():
                results = [
                    drift_of(
                        np.sort(rng.normal(size=n)),
                        draw(rng, m),
                        n_resamples=999,
                        random_state=repeat,
                    )
                    for repeat in range(repeats)
                ]
                true = round(fraction * m) / m
                rows.append(
                    {
                        "n_calibration": n,
                        "n_rows": m,
                        "alternative": name,
                        "rejected": float(np.mean([r.p_value <= 0.05 for r in results])),
                        "ood_fraction": float(np.mean([r.ood_fraction for r in results])),
                        "low": float(np.mean([r.low for r in results])),
                        "high": float(np.mean([r.high for r in results])),
                        "above_true": float(np.mean([r.low > true for r in results])),
                        "below_true": float(np.mean([r.high < true for r in results])),
                    }
                )
                print(rows[-1], flush=True)
    return rows


def kolmogorov_smirnov(rng: np.random.Generator, repeats: int) -> list[dict]:
    rows = []
    for n in (100, 1000):
        for m in (20, 100, 1000):
            rejected = 0
            for _ in range(repeats):
                calibration = np.sort(rng.normal(size=n))
                p = (1 + np.searchsorted(calibration, rng.normal(size=m))) / (n + 1)
                rejected += kstest(p, "uniform").pvalue <= 0.05
            rows.append({"n_calibration": n, "n_rows": m, "rejected": rejected / repeats})
            print(rows[-1], flush=True)
    return rows


def typicality(rng: np.random.Generator, repeats: int) -> list[dict]:
    detector = Typicality(VALUE, held_out_fraction=0.5, n_bootstrap=199, random_state=0)
    detector.fit(np.zeros((4, 1)))
    rows = []
    for n in (50, 500):
        for m in (1, 20, 100, 1000):
            rejected = published = 0
            for _ in range(repeats):
                held_out, new = rng.normal(size=n), rng.normal(size=m)
                detector.held_out_scores_, detector.entropy_ = held_out, -held_out.mean()
                rejected += detector.predict_batch(column(new)) == -1
                means = rng.choice(held_out, (199, m)).mean(1)
                threshold = np.quantile(abs(means - held_out.mean()), 0.95)
                published += abs(new.mean() - held_out.mean()) > threshold
            rows.append(
                {
                    "n_held_out": n,
                    "n_rows": m,
                    "rejected": rejected / repeats,
                    "published": published / repeats,
                }
            )
            print(rows[-1], flush=True)
    return rows


def streams(rng: np.random.Generator, repeats: int) -> list[dict]:
    rows = []
    for n in (200, 1000):
        for start in (0, 200, 1000):
            for name, (_, draw) in ALTERNATIVES.items():
                delays = []
                for _ in range(repeats if name == "in-distribution" else repeats // 10):
                    safe = ConformalDetector(VALUE).fit(column(rng.normal(size=n)))
                    monitor = DriftMonitor(FrozenEstimator(safe), alpha=0.05)
                    monitor.partial_fit(column(rng.normal(size=start))) if start else None
                    # The lowered rows of a batch come first: they are shuffled.
                    monitor.partial_fit(column(rng.permutation(draw(rng, 2000 - start))))
                    found = monitor.alarm_ and monitor.alarm_row_ >= start
                    delays.append(monitor.alarm_row_ - start + 1 if found else np.inf)
                rows.append(
                    {
                        "n_calibration": n,
                        "change_after": start,
                        "alternative": name,
                        "alarms": float(np.mean(np.isfinite(delays))),
                        "median_delay": _finite(np.median(delays)),
                    }
                )
                print(rows[-1], flush=True)
    return rows


def _finite(value: float) -> float | None:
    """Return None for a delay that is longer than the stream."""
    return float(value) if np.isfinite(value) else None


def conditional(rng: np.random.Generator, repeats: int) -> list[dict]:
    rows = []
    for n in (200, 1000):
        for alpha in (0.05, 0.1):
            for calibration in ("marginal", "training-conditional"):
                detector = ConformalDetector(VALUE, alpha, calibration=calibration, delta=0.1)
                rates = [
                    norm.cdf(detector.fit(column(rng.normal(size=n))).offset_)
                    for _ in range(repeats)
                ]
                rows.append(
                    {
                        "n_calibration": n,
                        "alpha": alpha,
                        "calibration": calibration,
                        "exceeded": float(np.mean(np.array(rates) > alpha)),
                        "mean_rate": float(np.mean(rates)),
                    }
                )
                print(rows[-1], flush=True)
    return rows


PARTS = {
    "batches": batches,
    "kolmogorov_smirnov": kolmogorov_smirnov,
    "typicality": typicality,
    "streams": streams,
    "conditional": conditional,
}


def table(result: dict) -> str:
    """Format every part as Markdown."""
    parts = []
    for name in PARTS:
        rows = result[name]
        lines = [f"**{name}**", "", "| " + " | ".join(rows[0]) + " |", "|---" * len(rows[0]) + "|"]
        for row in rows:
            cells = [f"{v:.3g}" if isinstance(v, float) else str(v) for v in row.values()]
            lines.append("| " + " | ".join(cells) + " |")
        parts.append("\n".join(lines))
    return "\n\n".join(parts)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--repeats", type=int, default=1000)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--only", nargs="*", choices=PARTS, default=list(PARTS))
    parser.add_argument("--out", type=Path, default=RESULTS)
    parser.add_argument("--table", action="store_true", help="print the stored results")
    args = parser.parse_args()
    if not args.table:
        result = json.loads(args.out.read_text()) if args.out.exists() else {}
        result |= {"repeats": args.repeats, "seed": args.seed, "machine": machine()}
        for name in args.only:
            result[name] = PARTS[name](np.random.default_rng(args.seed), args.repeats)
            result["date"] = date.today().isoformat()
            args.out.write_text(json.dumps(result, indent=2) + "\n")
    print(table(json.loads(args.out.read_text())))


if __name__ == "__main__":
    main()
