"""Which training of Airbench serves detection: label smoothing and activation.

    python benchmarks/airbench_trials.py --data DIR --activations relu --smoothings 0 0.2
    python benchmarks/airbench_trials.py --table          # the stored results as text

Two classes of CIFAR-10 are left out of training and serve as OOD data, so that no tested OOD set
takes part in the choice. Each training takes 7 epochs over 40 000 images: 25 minutes on one core
with AVX-512, without bfloat16. Each combination is stored as soon as it is measured.
"""

from __future__ import annotations

import argparse
import json
from datetime import date
from itertools import product
from pathlib import Path
from time import perf_counter

import numpy as np
from _colour import measure
from _images import labelled_images
from _machine import machine
from sklearn.frozen import FrozenEstimator

import skood
from skood import Airbench, share_forward_pass

RESULTS = Path(__file__).parent / "results" / "airbench_trials.json"
N_EPOCHS = 7
DETECTORS = {
    "MSP": skood.MSP,
    "Energy": skood.Energy,
    "ReAct": skood.ReAct,
    "KNN": skood.KNN,
    "Mahalanobis": skood.Mahalanobis,
    "ViM": skood.ViM,
}


def run(network: Airbench, args: argparse.Namespace) -> dict:
    """Train on the known classes, and measure detectors on the classes left out."""
    images, labels = labelled_images(args.data, "cifar10", "train")
    known = ~np.isin(labels, args.left_out)
    start = perf_counter()
    network.fit(images[known], labels[known])
    seconds = perf_counter() - start
    test, y = labelled_images(args.data, "cifar10")
    is_known = ~np.isin(y, args.left_out)
    training = share_forward_pass(images[known])
    inside, outside = (share_forward_pass(test[mask]) for mask in (is_known, ~is_known))
    rows = {}
    for name, make in DETECTORS.items():
        model = "features" if "features" in make().get_params() else "classifier"
        detector = make(random_state=0).set_params(**{model: FrozenEstimator(network)})
        detector.fit(training, labels[known])
        rows[name] = measure(detector.score_samples(inside), detector.score_samples(outside))
    return {
        "accuracy": network.score(test[is_known], y[is_known]),
        "minutes": seconds / 60,
        "detectors": rows,
        "machine": machine(),
        "date": date.today().isoformat(),
    }


def table(result: dict) -> str:
    """Format the AUROCs of all trainings as Markdown."""
    lines = [
        f"| AUROC | accuracy, % | minutes | {' | '.join(DETECTORS)} |",
        "|---" * (len(DETECTORS) + 3) + "|",
    ]
    for name, row in result["trainings"].items():
        cells = [f"{100 * row['accuracy']:.2f}", f"{row['minutes']:.0f}"]
        cells += [f"{row['detectors'][key]['auroc']:.3f}" for key in DETECTORS]
        lines.append(f"| {name} | {' | '.join(cells)} |")
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--data", type=Path)
    parser.add_argument("--activations", nargs="+", default=["relu"])
    parser.add_argument("--smoothings", nargs="+", type=float, default=[0.0, 0.2])
    parser.add_argument("--left-out", nargs="+", type=int, default=[1, 5])
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--work", type=Path, default="checkpoints", help="for resuming")
    parser.add_argument("--out", type=Path, default=RESULTS)
    parser.add_argument("--table", action="store_true", help="print the stored results")
    args = parser.parse_args()
    if not args.table:
        if args.data is None:
            parser.error("--data is needed to run")
        result = json.loads(args.out.read_text()) if args.out.exists() else {"trainings": {}}
        for activation, smoothing in product(args.activations, args.smoothings):
            network = Airbench(
                activation=activation,
                label_smoothing=smoothing,
                max_epochs=N_EPOCHS,
                checkpoint_dir=args.work,
                random_state=args.seed,
                verbose=1,
            )
            name = f"{activation}, smoothing {smoothing:g}, without {args.left_out}, {args.seed}"
            result["trainings"][name] = run(network, args)
            args.out.write_text(json.dumps(result, indent=2) + "\n")
    print(table(json.loads(args.out.read_text())))


if __name__ == "__main__":
    main()
