"""Trials that chose the defaults of ``LikelihoodRatio``: the background model, without OOD sets.

    python benchmarks/likelihood_ratio_defaults.py --data DIR
    python benchmarks/likelihood_ratio_defaults.py --data DIR --sets wine mnist
    python benchmarks/likelihood_ratio_defaults.py --data DIR --n-filters 8 --share 0.375
    python benchmarks/likelihood_ratio_defaults.py --table      # the stored results as text

For images of Fashion-MNIST and MNIST at 14 x 14 pixels, and three tables of scikit-learn, every
background below is trained with as many items as the default. A background is judged by the AUROC
of held-out items against outliers that are made from them: the outliers that ``LikelihoodRatio``
itself makes ("own"), and all kinds of ``skood.datasets.synthetic_outliers`` ("all kinds"). The
networks of images have half of the default's filters, so that the trials take ten minutes on two
cores; a smaller --n-filters and --share of the steps take less. Models already trained are read
from the --work folder.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Iterator
from datetime import date
from pathlib import Path
from time import perf_counter
from typing import Any

import numpy as np
from _images import labelled_images
from _machine import machine
from _names import file_name
from sklearn import datasets

from skood import NeuralSplineFlow, PixelCNN
from skood._data.checked_data import CheckedData
from skood.datasets import synthetic_outliers
from skood.likelihood._synthetic_outliers import synthetic_outliers as own_outliers
from skood.metrics import auroc

RESULTS = Path(__file__).parent / "results" / "likelihood_ratio_defaults.json"
IMAGES = ("fashion_mnist", "mnist")
TABLES = ("digits", "breast_cancer", "wine")
RATES = (0.1, 0.3)
N_TRAINING, N_SCORED = 4000, 600


def trials(of_images: bool, share: float = 1.0) -> dict[str, dict[str, Any]]:
    """Return the parameters of the foregrounds and backgrounds."""
    if of_images:
        n_steps = round(1600 * share)
        grey = {"pixel_origin": "grey"}
        found: dict[str, dict[str, Any]] = {
            "fg": {**grey, "max_steps": n_steps},
            "fg black": {"pixel_origin": "black", "max_steps": n_steps},
        }
        # Each sees a fifth of the foreground's images.
        of_32 = {**grey, "max_steps": n_steps // 10, "batch_size": 32}
        of_16 = {**grey, "max_steps": n_steps // 5}
        batches = {
            "steps / 10, 32": (of_32, (0.0, 0.1, 1.0, 10.0)),
            "steps / 5, 16": (of_16, (1.0, 10.0)),
        }
    else:
        found = {"fg": {}}
        weights = (0.0, 0.01, 0.1, 1.0, 10.0)
        batches = {
            "batches of 128": ({}, weights),
            "batches of 256": ({"batch_size": 256}, weights),
        }
    return found | {
        f"bg {rate:g}, {weight:g}, {name}": {
            "mutation_rate": rate,
            "reg_weight": weight,
            **parameters,
        }
        for name, (parameters, weights) in batches.items()
        for rate in RATES
        for weight in weights
    }


def items(args: argparse.Namespace, name: str) -> tuple[np.ndarray, np.ndarray]:
    """Return training and held-out items."""
    rng = np.random.default_rng(args.seed)
    if name in TABLES:
        X = getattr(datasets, f"load_{name}")().data
        order = rng.permutation(len(X))
        return X[order[len(X) // 4 :]], X[order[: len(X) // 4]]
    X = labelled_images(args.data, name, "train")[0]
    X = X[rng.permutation(len(X))[: N_TRAINING + N_SCORED]]
    X = X.reshape(-1, 14, 2, 14, 2).mean((2, 4)).round().astype(np.uint8)
    return X[:N_TRAINING], X[N_TRAINING:]


def scored_sets(args: argparse.Namespace, held_out: np.ndarray) -> dict[str, np.ndarray]:
    rng = np.random.default_rng(args.seed)
    data = CheckedData.of(held_out if held_out.ndim == 2 else held_out[:, None])
    own = own_outliers(data, rng).take(np.arange(len(data)))
    return {
        "held_out": held_out,
        "own": own.reshape(held_out.shape),
        "all kinds": synthetic_outliers(held_out, random_state=args.seed),
    }


def scores(args: argparse.Namespace, name: str) -> Iterator[tuple[str, dict[str, np.ndarray]]]:
    """Yield the log-densities under each model; train the models that are not stored."""
    of_images = name in IMAGES
    training, held_out = items(args, name)
    size = f"{args.n_filters} {args.share}" if of_images else ""
    for trial, parameters in trials(of_images, args.share).items():
        path = args.work / f"{file_name(f'{name} {trial} {size} {args.seed}')}.npz"
        if not path.exists():
            base = PixelCNN(n_filters=args.n_filters) if of_images else NeuralSplineFlow()
            start = perf_counter()
            density = base.set_params(**parameters, random_state=args.seed, verbose=0)
            density.fit(training)
            seconds = perf_counter() - start
            found = {k: density.score_samples(v) for k, v in scored_sets(args, held_out).items()}
            np.savez(path, seconds=seconds, **found)
            print(f"{name}, {trial}: {seconds:.0f} s", flush=True)
        with np.load(path) as stored:
            yield trial, dict(stored)


def measure(args: argparse.Namespace, name: str) -> dict[str, Any]:
    found = dict(scores(args, name))
    n_values = items(args, name)[0][0].size
    result: dict[str, Any] = {"date": date.today().isoformat(), "machine": machine()}
    result |= {"seed": args.seed, "n_scored": len(found["fg"]["held_out"])}
    if name in IMAGES:
        result |= {"n_filters": args.n_filters, "share": args.share}
    result |= {"foregrounds": {}, "backgrounds": {}}
    for trial, values in found.items():
        if trial.startswith("fg"):
            result["foregrounds"][trial] = {
                "seconds": float(values["seconds"]),
                "bits_per_dim": float(-values["held_out"].mean() / np.log(2) / n_values),
            }
            continue
        ratio = {key: found["fg"][key] - values[key] for key in ("held_out", "own", "all kinds")}
        result["backgrounds"][trial.removeprefix("bg ")] = {
            "seconds": float(values["seconds"]),
            **{kind: area(ratio["held_out"], ratio[kind]) for kind in ("own", "all kinds")},
        }
    return result


def area(inliers: np.ndarray, outliers: np.ndarray) -> float:
    labels = np.repeat([1, -1], [len(inliers), len(outliers)])
    return auroc(labels, np.concatenate([inliers, outliers]))


def text(report: dict[str, Any]) -> str:
    """Format the AUROCs as Markdown, one column per set: own outliers / all kinds."""
    lines = []
    for names in (IMAGES, TABLES):
        found = {name: report["sets"][name] for name in names if name in report["sets"]}
        if not found:
            continue
        for name, result in found.items():
            for trial, row in result["foregrounds"].items():
                lines.append(f"{name}, {trial}: {row['bits_per_dim']:.4f} bits per dimension")
        lines += [
            "",
            f"| background | {' | '.join(found)} | mean of own |",
            "|---" * (len(found) + 2) + "|",
        ]
        for trial in next(iter(found.values()))["backgrounds"]:
            rows = [result["backgrounds"][trial] for result in found.values()]
            cells = [f"{row['own']:.3f} / {row['all kinds']:.3f}" for row in rows]
            mean = np.mean([row["own"] for row in rows])
            lines.append(f"| {trial} | {' | '.join(cells)} | {mean:.3f} |")
        lines.append("")
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--data", type=Path)
    parser.add_argument("--sets", nargs="+", choices=[*IMAGES, *TABLES], default=[*IMAGES, *TABLES])
    parser.add_argument("--n-filters", type=int, default=16)
    parser.add_argument("--share", type=float, default=1.0, help="fraction of the training steps")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--work", type=Path, default=Path("checkpoints"), help="for resuming")
    parser.add_argument("--out", type=Path, default=RESULTS)
    parser.add_argument("--table", action="store_true", help="print the stored results")
    args = parser.parse_args()
    if not args.table:
        if args.data is None:
            parser.error("--data is needed to run")
        args.work.mkdir(parents=True, exist_ok=True)
        report: dict[str, Any] = {"sets": {}}
        for name in args.sets:
            found = measure(args, name)
            if args.out.exists():
                report = json.loads(args.out.read_text())
            report["sets"][name] = found
            args.out.write_text(json.dumps(report, indent=1) + "\n")
    print(text(json.loads(args.out.read_text())))


if __name__ == "__main__":
    main()
