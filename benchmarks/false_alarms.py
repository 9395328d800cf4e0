"""False alarms: the fraction of new in-distribution rows that a detector rejects by default.

    python benchmarks/false_alarms.py                # writes benchmarks/results/false_alarms.json
    python benchmarks/false_alarms.py --group posthoc --seeds 2 --out /tmp/trial.json

For every seed, a mixture of ten Gaussians in 10 dimensions is drawn, two for each of five classes;
then 1 000 labelled rows to fit on, and 4 000 new rows. All detectors have their default parameters
(contamination 0.05). Detectors that hold rows out for the threshold are fitted twice: by default,
and with threshold_fraction=0, which reads the threshold from training rows.

Four groups are measured:

- ``posthoc``: post-hoc detectors that train an MLP;
- ``statistics``: post-hoc detectors that train no network, on rows or on a trained MLP. The
  detector is fitted to the training rows of the MLP ("seen") or to other rows ("unseen");
- ``training_time``: detectors that read the threshold from validation rows;
- ``densities``: detectors on a density of rows.

Slow detectors (DeepEnsemble and some detectors on densities) are measured for at most five seeds.

Not measured: RankFeat and InputComplexity, which need images, and LikelihoodRegret, which takes a
hundred steps per score. An interrupted run resumes. 20 seeds take about an hour on one core.
"""

from __future__ import annotations

import argparse
import inspect
import json
import tempfile
import warnings
from collections.abc import Callable, Iterator
from datetime import date
from pathlib import Path
from typing import Any

import numpy as np
from _machine import machine
from sklearn.frozen import FrozenEstimator
from sklearn.mixture import GaussianMixture
from sklearn.neighbors import KernelDensity

import skood.likelihood
import skood.posthoc
import skood.training_time
from skood import MLP

RESULTS = Path(__file__).parent / "results"
N_TRAINING, N_NEW = 1000, 4000
N_CLASSES, N_DIMENSIONS = 5, 10
N_SEEDS_OF_SLOW = 5
ON_FEATURES = "GMM", "KNN", "Mahalanobis", "NECO", "RelativeMahalanobis", "Residual"
METHODS = [
    name
    for name in skood.posthoc.__all__
    if hasattr(getattr(skood.posthoc, name), "score_samples")
    and not inspect.isabstract(getattr(skood.posthoc, name))
]
SLOW = "CCLR", "DiffusionReconstruction", "HierarchicalRatio", "LocalIntrinsicDimension", "WAIC"
NOT_MEASURED = "InputComplexity", "LikelihoodRegret", "RankFeat"

# The label of a detector, whether it holds rows out for the threshold, whether it is slow, and a
# function that creates it with the parameters common to all detectors.
Entry = tuple[str, bool, bool, Callable[..., Any]]


def mixture(seed: int) -> Callable[[int], tuple[np.ndarray, np.ndarray]]:
    """Return a function that draws labelled rows from one mixture."""
    rng = np.random.default_rng(seed)
    centres = 2 * rng.normal(size=(N_CLASSES, 2, N_DIMENSIONS))

    def draw(n_rows: int) -> tuple[np.ndarray, np.ndarray]:
        y = rng.integers(N_CLASSES, size=n_rows)
        component = rng.integers(2, size=n_rows)
        return centres[y, component] + rng.normal(size=(n_rows, N_DIMENSIONS)), y

    return draw


def uniform_outliers(X: np.ndarray, random_state: int) -> np.ndarray:
    """Draw training outliers from a box twice as wide as the data."""
    rng = np.random.default_rng(random_state)
    return rng.uniform(2 * X.min(0), 2 * X.max(0), size=X.shape)


def posthoc() -> Iterator[Entry]:
    for name in METHODS:
        cls = getattr(skood.posthoc, name)
        if name not in NOT_MEASURED:
            # By default, a detector on features trains no network.
            model = (MLP(),) if name in ON_FEATURES else ()
            slow = name == "DeepEnsemble"
            yield name, name != "TemperatureScaling", slow, _maker(cls, *model)


def statistics(seen: MLP, unseen: MLP) -> Iterator[Entry]:
    for name in METHODS:
        cls = getattr(skood.posthoc, name)
        if name in NOT_MEASURED or name == "DeepEnsemble":
            continue
        if name in ON_FEATURES:
            yield f"{name}, rows", cls._overfits, False, _maker(cls)
        if name == "MCDropout":
            continue
        yield f"{name}, seen", cls._overfits, False, _maker(cls, FrozenEstimator(seen))
        yield f"{name}, unseen", cls._overfits, False, _maker(cls, FrozenEstimator(unseen))


def training_time() -> Iterator[Entry]:
    for name in skood.training_time.__all__:
        cls = getattr(skood.training_time, name)
        if hasattr(cls, "score_samples") and not inspect.isabstract(cls):
            outliers = {"outliers": uniform_outliers} if "outliers" in cls().get_params() else {}
            yield name, False, False, _maker(cls, **outliers)


def densities() -> Iterator[Entry]:
    for name in skood.likelihood.__all__:
        cls = getattr(skood.likelihood, name)
        if name not in NOT_MEASURED:
            slow = name in SLOW or name == "ScoreNorm"
            yield name, name != "Typicality", slow, _maker(cls)
    for density in (GaussianMixture(20), KernelDensity(bandwidth=0.5)):
        name = type(density).__name__
        yield f"LogLikelihood, {name}", True, False, _maker(skood.LogLikelihood, density)


def _maker(cls: type, *args: Any, **kwargs: Any) -> Callable[..., Any]:
    return lambda **common: cls(*args, **kwargs, **common)


def measure(group: str, seed: int) -> Iterator[tuple[str, dict[str, float]]]:
    """Yield the label and the rejected fractions of each detector of a group."""
    draw = mixture(seed)
    (X, y), (X_new, _) = draw(N_TRAINING), draw(N_NEW)
    if group == "statistics":
        seen, unseen = (MLP(random_state=seed).fit(*rows) for rows in ((X, y), draw(N_TRAINING)))
        entries = statistics(seen, unseen)
    else:
        entries = globals()[group]()
    with tempfile.TemporaryDirectory() as memory:
        for label, holds_out, slow, make in entries:
            if slow and seed >= N_SEEDS_OF_SLOW:
                continue
            found = {}
            for name, settings in [("before", {"threshold_fraction": 0.0}), ("default", {})]:
                if name == "before" and not holds_out:
                    continue
                detector = make(random_state=seed, memory=memory, **settings).fit(X, y)
                found[name] = float((detector.predict(X_new) == -1).mean())
            yield label, found


def summary(runs: dict[str, dict[str, dict[str, float]]]) -> dict[str, dict[str, Any]]:
    """Mean over seeds, and the standard deviation between seeds."""
    table = {}
    for label, of_seeds in runs.items():
        table[label] = {"seeds": len(of_seeds)}
        for name in next(iter(of_seeds.values())):
            values = [run[name] for run in of_seeds.values()]
            table[label][name] = float(np.mean(values))
            table[label][f"{name}_std"] = float(np.std(values, ddof=1)) if len(values) > 1 else 0.0
    return table


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    groups = ["posthoc", "statistics", "training_time", "densities"]
    parser.add_argument("--group", choices=groups, action="append", help="default: all")
    parser.add_argument("--seeds", type=int, default=20)
    parser.add_argument("--out", type=Path, default=RESULTS / "false_alarms.json")
    args = parser.parse_args()
    report: dict[str, Any] = {"groups": {}}
    if args.out.exists():
        report = json.loads(args.out.read_text())
    report |= {
        "date": date.today().isoformat(),
        "machine": machine(),
        "contamination": 0.05,
        "n_training": N_TRAINING,
        "n_new": N_NEW,
        "first_seed": 0,
    }
    for seed in range(args.seeds):
        for group in args.group or groups:
            entry = report["groups"].setdefault(group, {"runs": {}})
            finished = entry.setdefault("finished_seeds", [])
            if seed in finished:
                continue
            with warnings.catch_warnings():
                # Some default trainings stop early, with a warning.
                warnings.simplefilter("ignore")
                for label, found in measure(group, seed):
                    entry["runs"].setdefault(label, {})[str(seed)] = found
                    print(seed, group, label, found, flush=True)
            finished.append(seed)
            entry["table"] = summary(entry["runs"])
            args.out.write_text(json.dumps(report, indent=1) + "\n")


if __name__ == "__main__":
    main()
