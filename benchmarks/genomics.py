"""Likelihood ratios on sequences of bases, as in the genomics experiment of Ren et al. (2019).

    python benchmarks/genomics.py                   # synthetic genomes, three seeds
    python benchmarks/genomics.py --data DIR        # the published bacteria, see load_genomics
    python benchmarks/genomics.py --table           # the stored results as text

Synthetic genomes stand in for the bacteria: 10 in-distribution and 20 OOD classes of
``make_genomes``, other ones for each seed. A density is trained on in-distribution sequences, and
one background for each mutation rate and weight of the penalty. The background is chosen by the
outliers that ``LikelihoodRatio`` makes from held-out in-distribution sequences; OOD classes choose
nothing. The test compares log p with the ratio: AUROC, the correlation with the GC-content, and
with its distance from the mean GC-content of the training sequences, and bits per base.
"""

from __future__ import annotations

import argparse
import json
from datetime import date
from pathlib import Path
from time import perf_counter, process_time
from typing import Any

import numpy as np
import numpy.typing as npt
from _machine import machine
from sklearn.frozen import FrozenEstimator

from skood import LikelihoodRatio, SequenceDensity
from skood.datasets import gc_content, load_genomics, make_genomes
from skood.metrics import auroc

RESULTS = Path(__file__).parent / "results" / "genomics.json"
N_CLASSES = 10, 20
N_HELD_OUT, N_TEST = 400, 400

Sets = dict[str, npt.NDArray[np.str_]]


def synthetic(n_training: int, seed: int) -> Sets:
    """Draw in-distribution sequences for training, choice and test, and OOD sequences."""
    n_needed = n_training + N_HELD_OUT + N_TEST
    n_id, n_ood = N_CLASSES
    X, y = make_genomes(round(3.3 * n_needed), n_id + n_ood, random_state=seed)
    inliers = X[y < n_id][:n_needed]
    assert len(inliers) == n_needed
    cuts = n_training, n_training + N_HELD_OUT
    training, held_out, test = np.split(inliers, cuts)
    return {"training": training, "held out": held_out, "ID": test, "OOD": X[y >= n_id][:N_TEST]}


def published(root: Path, n_training: int, seed: int) -> Sets:
    """Read random sequences of the published splits."""
    rng = np.random.default_rng(seed)
    splits = {
        "training": ("train", n_training),
        "held out": ("validation", N_HELD_OUT),
        "ID": ("test", N_TEST),
        "OOD": ("test_ood", N_TEST),
    }
    sets = {}
    for name, (split, n) in splits.items():
        codes, _ = load_genomics(root, split)
        rows = codes[np.sort(rng.permutation(len(codes))[:n])]
        sets[name] = np.array(["".join(row) for row in np.array(list("ACGT"))[rows]])
    return sets


def trial(sets: Sets, args: argparse.Namespace, seed: int) -> dict[str, Any]:
    started, cpu_started = perf_counter(), process_time()
    density = SequenceDensity(
        args.network,
        hidden_features=args.hidden_features,
        n_layers=args.n_layers,
        symbols="ACGT",
        max_steps=args.steps,
        max_epochs=10_000,
        learning_rate=args.learning_rate,
        random_state=seed,
    ).fit(sets["training"])
    settings, backgrounds = [], []
    for rate in args.mutation_rates:
        for weight in args.reg_weights:
            background = SequenceDensity(**density.get_params())
            background.set_params(
                mutation_rate=rate, reg_weight=weight, max_steps=args.background_steps
            )
            settings.append((rate, weight))
            backgrounds.append(FrozenEstimator(background.fit(sets["training"])))
    detector = LikelihoodRatio(
        FrozenEstimator(density), backgrounds, validation_fraction=0.9, random_state=seed
    ).fit(sets["held out"])
    names = "ID", "OOD"
    X = np.concatenate([sets[name] for name in names])
    is_id = np.repeat([1, -1], [len(sets[name]) for name in names])
    log_p = density.score_samples(X)
    ratios = [log_p - background.score_samples(X) for background in backgrounds]
    choice = int(np.argmax([entry.get("auroc", 0) for entry in detector.selection_]))
    gc = gc_content(X)
    distance = np.abs(gc - gc_content(sets["training"]).mean())

    def measures(scores: npt.NDArray[np.float64]) -> dict[str, float]:
        return {
            "auroc": auroc(is_id, scores),
            "correlation_gc": float(np.corrcoef(gc, scores)[0, 1]),
            "correlation_gc_distance": float(np.corrcoef(distance, scores)[0, 1]),
        }

    return {
        "seed": seed,
        "bits_per_base": {name: density.bits_per_dim(sets[name]).mean() for name in names},
        "gc_distance_auroc": auroc(is_id, -distance),
        "log_p": measures(log_p),
        "ratio": measures(ratios[choice]),
        "chosen": dict(zip(("mutation_rate", "reg_weight"), settings[choice], strict=True)),
        "backgrounds": [
            {
                "mutation_rate": rate,
                "reg_weight": weight,
                "own_outliers_auroc": entry.get("auroc"),
                "test_auroc": auroc(is_id, ratio),
                "bits_per_base": background.bits_per_dim(sets["ID"]).mean(),
            }
            for (rate, weight), entry, ratio, background in zip(
                settings, detector.selection_, ratios, backgrounds, strict=True
            )
        ],
        "seconds": perf_counter() - started,
        "cpu_seconds": process_time() - cpu_started,
    }


def table(stored: dict[str, Any]) -> str:
    lines = ["seed   log p   ratio   r(log p)  r(ratio)   bits ID, OOD   chosen (rate, weight)"]
    for trial in stored["trials"]:
        chosen, bits = trial["chosen"], trial["bits_per_base"]
        lines.append(
            f"{trial['seed']:4d}   {trial['log_p']['auroc']:.3f}   {trial['ratio']['auroc']:.3f}"
            f"   {trial['log_p']['correlation_gc_distance']:+8.2f}"
            f"  {trial['ratio']['correlation_gc_distance']:+8.2f}"
            f"   {bits['ID']:.3f}, {bits['OOD']:.3f}   {chosen['mutation_rate']:g},"
            f" {chosen['reg_weight']:g}"
        )
        lines += [
            f"         ({b['mutation_rate']:g}, {b['reg_weight']:g}): own outliers"
            f" {b['own_outliers_auroc'] or np.nan:.3f}, test {b['test_auroc']:.3f},"
            f" {b['bits_per_base']:.3f} bits"
            for b in trial["backgrounds"]
        ]
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", type=Path, help="folder of the published files")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--network", default="lstm")
    parser.add_argument("--hidden-features", type=int, default=48)
    parser.add_argument("--n-layers", type=int)
    parser.add_argument("--n-training", type=int, default=3000)
    parser.add_argument("--steps", type=int, default=700)
    parser.add_argument("--background-steps", type=int, default=175)
    parser.add_argument("--learning-rate", type=float, default=0.004)
    parser.add_argument("--mutation-rates", type=float, nargs="+", default=[0.1, 0.3])
    parser.add_argument("--reg-weights", type=float, nargs="+", default=[0.0, 0.0125, 0.125])
    parser.add_argument("--results", type=Path, default=RESULTS)
    parser.add_argument("--table", action="store_true", help="print the stored results")
    args = parser.parse_args()
    if args.table:
        print(table(json.loads(args.results.read_text())))
        return
    excluded = "data", "results", "table"
    stored: dict[str, Any] = {
        "date": date.today().isoformat(),
        "machine": machine(),
        "data": "synthetic genomes" if args.data is None else "bacteria of Ren et al. (2019)",
        "settings": {k: v for k, v in vars(args).items() if k not in excluded},
        "trials": [],
    }
    for seed in args.seeds:
        sets = (
            synthetic(args.n_training, seed)
            if args.data is None
            else published(args.data, args.n_training, seed)
        )
        stored["trials"].append(trial(sets, args, seed))
        args.results.write_text(json.dumps(stored, indent=2) + "\n")
        print(table(stored), flush=True)


if __name__ == "__main__":
    main()
