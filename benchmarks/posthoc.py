"""Every post-hoc detector on one classifier: a table of detectors by OOD sets.

    python benchmarks/posthoc.py --preset quick --data DIR
    python benchmarks/posthoc.py --preset densenet --data DIR        # as published, for a GPU
    python benchmarks/posthoc.py --preset quick --table               # the stored results as text

DIR has torchvision's layout, or a ``read_data.py`` with ``load(name, split)``. The classifier is
trained once; an interrupted training resumes when started again with the same --work folder.
Detectors have their default parameters, and nothing is tuned on an OOD set. The logits and features
of a set are computed once for all detectors.
"""

from __future__ import annotations

import argparse
import json
import warnings
from datetime import date
from pathlib import Path
from time import perf_counter

import numpy as np
from _images import labelled_images
from _machine import machine
from sklearn.base import clone
from sklearn.frozen import FrozenEstimator

import skood
from skood import ConvNet, DenseNet, share_forward_pass
from skood.metrics import aupr_in, aupr_out, auroc, detection_error, fpr_at_tpr

PRESETS = {
    "quick": ConvNet((64, 128, 256), max_epochs=10, augmentation="crop_flip"),
    "densenet": DenseNet(),
}
OOD_SETS = {
    "cifar10": (
        "svhn",
        "cifar100",
        "tinyimagenet_crop",
        "tinyimagenet_resize",
        "gaussian",
        "uniform",
    ),
}
DETECTORS = {
    "MSP": skood.MSP(),
    "MaxLogit": skood.MaxLogit(),
    "Energy": skood.Energy(),
    "Entropy": skood.Entropy(),
    "TemperatureScaling": skood.TemperatureScaling(),
    "GEN": skood.GEN(),
    "KLMatching": skood.KLMatching(),
    "OpenMax": skood.OpenMax(),
    "ODIN": skood.ODIN(),
    "ODIN, epsilon=0": skood.ODIN(epsilon=0.0),
    "IODIN": skood.IODIN(),
    "ReAct": skood.ReAct(),
    "VRA": skood.VRA(),
    "DICE": skood.DICE(),
    "ASH-S": skood.ASH(),
    "ASH-B": skood.ASH(variant="b"),
    "ASH-P": skood.ASH(variant="p"),
    "SCALE": skood.SCALE(),
    "LTS": skood.LTS(),
    "AdaSCALE-A": skood.AdaSCALE(),
    "AdaSCALE-L": skood.AdaSCALE(variant="logits"),
    "GradNorm": skood.GradNorm(),
    "SHE": skood.SHE(),
    "FDBD": skood.FDBD(),
    "NCI": skood.NCI(),
    "PNML": skood.PNML(),
    "NNGuide": skood.NNGuide(),
    "ViM": skood.ViM(),
    "Residual": skood.Residual(),
    "Mahalanobis": skood.Mahalanobis(),
    "Mahalanobis, normalize=False": skood.Mahalanobis(normalize=False),
    "RelativeMahalanobis": skood.RelativeMahalanobis(),
    "RelativeMahalanobis, normalize=False": skood.RelativeMahalanobis(normalize=False),
    "LayerMahalanobis": skood.LayerMahalanobis(),
    "KNN": skood.KNN(),
    "GMM": skood.GMM(),
    "NECO": skood.NECO(),
    "RankFeat": skood.RankFeat(),
    "Gram": skood.Gram(),
    "NAC": skood.NAC(),
}
METRICS = {
    "auroc": auroc,
    "fpr95": fpr_at_tpr,
    "aupr_in": aupr_in,
    "aupr_out": aupr_out,
    "detection_error": detection_error,
}
# Liang et al. 2018, DenseNet on CIFAR-10: FPR95 of MSP and of ODIN, AUROC of MSP and of ODIN.
PUBLISHED_ODIN = {
    "tinyimagenet_crop": (0.347, 0.043, 0.953, 0.991),
    "tinyimagenet_resize": (0.408, 0.075, 0.941, 0.985),
    "uniform": (0.235, 0.0, 0.965, 0.999),
    "gaussian": (0.123, 0.0, 0.975, 1.0),
}


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--id", choices=OOD_SETS, default="cifar10")
    parser.add_argument("--preset", choices=PRESETS, default="quick")
    parser.add_argument("--data", type=Path)
    parser.add_argument(
        "--n-test", type=int, default=5000, help="at most so many images per test set"
    )
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--work", default="checkpoints", help="the classifier, for resuming")
    parser.add_argument("--out", type=Path, default=Path(__file__).parent / "results")
    parser.add_argument("--table", action="store_true", help="print the stored results")
    args = parser.parse_args()
    path = args.out / f"posthoc-{args.id}-{args.preset}.json"
    if not args.table:
        if args.data is None:
            parser.error("--data is needed to run")
        args.out.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps(run(args), indent=2) + "\n")
    print(table(json.loads(path.read_text())))


def run(args: argparse.Namespace) -> dict:
    images, labels = labelled_images(args.data, args.id, "train")
    network = clone(PRESETS[args.preset]).set_params(
        random_state=args.seed, checkpoint_dir=args.work, verbose=1
    )
    start = perf_counter()
    network.fit(images, labels)
    seconds = {"training": perf_counter() - start}
    network.verbose = 0

    rng = np.random.default_rng(args.seed)
    sets = {}
    for name in (args.id, *OOD_SETS[args.id]):
        test, y = labelled_images(args.data, name)
        kept = np.sort(rng.permutation(len(test))[: args.n_test])
        sets[name] = test[kept]
        if name == args.id:
            accuracy = float((network.predict(test) == y).mean())
    print(f"accuracy on {args.id}: {100 * accuracy:.2f} %", flush=True)

    frozen = FrozenEstimator(network)
    training = share_forward_pass(images)
    shared = {name: share_forward_pass(test) for name, test in sets.items()}
    start = perf_counter()
    for data in (training, *shared.values()):
        network.predict(data)
    seconds["forward pass"] = perf_counter() - start

    rows = {}
    for name, detector in DETECTORS.items():
        model = "features" if hasattr(detector, "features") else "classifier"
        detector = clone(detector).set_params(**{model: frozen}, random_state=args.seed)
        start = perf_counter()
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            detector.fit(training, labels)
        fitted = perf_counter()
        scores = {key: detector.score_samples(data) for key, data in shared.items()}
        rows[name] = {
            "fit_seconds": fitted - start,
            "score_seconds": perf_counter() - fitted,
            "accepted": float((scores[args.id] >= detector.offset_).mean()),
            "warnings": [str(warning.message) for warning in caught],
            "sets": {key: measure(scores[args.id], scores[key]) for key in OOD_SETS[args.id]},
        }
        mean = np.mean([row["auroc"] for row in rows[name]["sets"].values()])
        print(f"{name:20} mean AUROC {mean:.3f} {perf_counter() - start:7.1f} s", flush=True)
    return {
        "id": args.id,
        "network": repr(PRESETS[args.preset]),
        "seed": args.seed,
        "accuracy": accuracy,
        "n_test": {name: len(test) for name, test in sets.items()},
        "seconds": seconds,
        "machine": machine(),
        "date": date.today().isoformat(),
        "detectors": rows,
    }


def measure(inliers: np.ndarray, outliers: np.ndarray) -> dict[str, float]:
    y = np.repeat([1, -1], [len(inliers), len(outliers)])
    scores = np.concatenate([inliers, outliers])
    return {name: metric(y, scores) for name, metric in METRICS.items()}


def table(result: dict) -> str:
    """Format the detectors, and ODIN with its published figures, as Markdown."""
    sets = [name for name in result["n_test"] if name != result["id"]]
    lines = [
        f"{result['network']}, accuracy on {result['id']} {100 * result['accuracy']:.2f} %",
        "",
        f"| AUROC / FPR95 in % | {' | '.join(sets)} | ID accepted, % |",
        "|---" * (len(sets) + 2) + "|",
    ]
    for name, row in result["detectors"].items():
        cells = [
            f"{row['sets'][key]['auroc']:.3f} / {100 * row['sets'][key]['fpr95']:.1f}"
            for key in sets
        ]
        lines.append(f"| {name} | {' | '.join(cells)} | {100 * row['accepted']:.1f} |")
    lines += [
        "",
        "| OOD, MSP -> ODIN | FPR95, % | AUROC | published FPR95, % | published AUROC |",
        "|---" * 5 + "|",
    ]
    base, odin = (result["detectors"][name]["sets"] for name in ("MSP", "ODIN"))
    for key, published in PUBLISHED_ODIN.items():
        ours = [row[key][metric] for metric in ("fpr95", "auroc") for row in (base, odin)]
        cells = [
            f"{100 * fpr:.1f} -> {100 * fpr_odin:.1f} | {area:.3f} -> {area_odin:.3f}"
            for fpr, fpr_odin, area, area_odin in (ours, published)
        ]
        lines.append(f"| {key} | {' | '.join(cells)} |")
    return "\n".join(lines)


if __name__ == "__main__":
    main()
