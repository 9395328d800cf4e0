"""Every post-hoc detector on one classifier: a table of detectors by OOD sets.

    python benchmarks/posthoc.py --preset airbench --data DIR
    python benchmarks/posthoc.py --preset gelu --data DIR            # the author's activation
    python benchmarks/posthoc.py --preset smoothing --data DIR       # the author's label smoothing
    python benchmarks/posthoc.py --preset convnet --data DIR         # a plainly trained network
    python benchmarks/posthoc.py --preset densenet --data DIR        # as published, for a GPU
    python benchmarks/posthoc.py --preset airbench --table            # the stored results as text

DIR has torchvision's layout, or a ``read_data.py`` with ``load(name, split)``. The classifier is
trained once; an interrupted training resumes when started again with the same --work folder.
Detectors have their default parameters, and nothing is tuned on an OOD set. The logits and features
of a set are computed once for all detectors. Every run adds the results of its --seed.
"""

from __future__ import annotations

import argparse
import json
import warnings
from datetime import date
from pathlib import Path
from time import perf_counter

import numpy as np
from _colour import OOD_SETS, accuracy_of_six_views, measure, test_sets, train_network
from _images import labelled_images
from _machine import machine
from _seeds import added, check_same, spread
from sklearn.base import clone
from sklearn.frozen import FrozenEstimator

import skood
from skood import Airbench, ConvNet, DenseNet, share_forward_pass

PRESETS = {
    "airbench": Airbench(),
    "gelu": Airbench(activation="gelu"),
    "smoothing": Airbench(label_smoothing=0.2),
    "convnet": ConvNet((64, 128, 256), max_epochs=10, augmentation="crop_flip"),
    "densenet": DenseNet(),
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
    "KernelPCA": skood.KernelPCA(),
    "CosinePrototypes": skood.CosinePrototypes(),
    "NECO": skood.NECO(),
    "RankFeat": skood.RankFeat(),
    "Gram": skood.Gram(),
    "NAC": skood.NAC(),
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
    parser.add_argument("--preset", choices=PRESETS, default="airbench")
    parser.add_argument("--data", type=Path)
    parser.add_argument(
        "--n-test", type=int, default=5000, help="at most so many images per test set"
    )
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--only", nargs="*", help="names of detectors")
    parser.add_argument("--work", type=Path, default="checkpoints", help="for resuming")
    parser.add_argument("--out", type=Path, default=Path(__file__).parent / "results")
    parser.add_argument("--table", action="store_true", help="print the stored results")
    args = parser.parse_args()
    path = args.out / f"posthoc-cifar10-{args.preset}.json"
    if not args.table:
        if args.data is None:
            parser.error("--data is needed to run")
        args.out.mkdir(parents=True, exist_ok=True)
        about = {"id": "cifar10", "network": repr(PRESETS[args.preset]), "n_test": args.n_test}
        check_same(path, about)
        result = added(path, about, args.seed, run(args))
        path.write_text(json.dumps(result, indent=2) + "\n")
    print(table(json.loads(path.read_text())))


def run(args: argparse.Namespace) -> dict:
    images, labels = labelled_images(args.data, "cifar10", "train")
    network, seconds = train_network(
        args.preset, PRESETS[args.preset], images, labels, args.seed, args.work
    )
    sets = test_sets(args.data, args.n_test, args.seed)
    frozen = FrozenEstimator(network)
    training = share_forward_pass(images)
    shared = {name: share_forward_pass(test) for name, test in sets.items()}
    start = perf_counter()
    test, y = labelled_images(args.data, "cifar10")
    accuracy, of_six_views = network.score(test, y), accuracy_of_six_views(network, test, y)
    for data in (training, *shared.values()):
        network.predict(data)
    passes = perf_counter() - start
    print(
        f"accuracy {100 * accuracy:.2f} %, of six views {100 * of_six_views:.2f} %, "
        f"{seconds / 60:.1f} minutes",
        flush=True,
    )

    rows, messages = {}, {}
    for name in args.only or DETECTORS:
        detector = clone(DETECTORS[name])
        model = "features" if hasattr(detector, "features") else "classifier"
        detector.set_params(**{model: frozen}, random_state=args.seed)
        start = perf_counter()
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            detector.fit(training, labels)
        fitted = perf_counter()
        scores = {key: detector.score_samples(data) for key, data in shared.items()}
        messages[name] = [str(warning.message) for warning in caught]
        rows[name] = {
            "fit_seconds": fitted - start,
            "score_seconds": perf_counter() - fitted,
            "accepted": float((scores["cifar10"] >= detector.offset_).mean()),
            "sets": {key: measure(scores["cifar10"], scores[key]) for key in OOD_SETS},
        }
        mean = np.mean([row["auroc"] for row in rows[name]["sets"].values()])
        print(f"{name:20} mean AUROC {mean:.3f} {perf_counter() - start:7.1f} s", flush=True)
    return {
        "methods": rows,
        "accuracy": accuracy,
        "accuracy of six views": of_six_views,
        "n_test": {name: len(test) for name, test in sets.items()},
        "seconds": {"training": seconds, "forward pass": passes},
        "warnings": messages,
        "machine": machine(),
        "date": date.today().isoformat(),
    }


def of_six_views(runs: list[dict]) -> str:
    """Give the accuracy of six views, if every run measured it."""
    values = [100 * run["accuracy of six views"] for run in runs if "accuracy of six views" in run]
    return f"of six views {spread(values, 2)} %, " if len(values) == len(runs) else ""


def table(result: dict) -> str:
    """Format the detectors, and ODIN with its published figures, as Markdown."""
    runs = list(result["runs"].values())
    lines = [
        f"{result['network']}, seeds {', '.join(result['runs'])}, accuracy on {result['id']} "
        f"{spread([100 * run['accuracy'] for run in runs], 2)} %, "
        f"{of_six_views(runs)}"
        f"{spread([run['seconds']['training'] / 60 for run in runs], 0)} minutes",
        "",
        f"| AUROC / FPR95 in % | {' | '.join(OOD_SETS.values())} | ID accepted, % |",
        "|---" * (len(OOD_SETS) + 2) + "|",
    ]
    for name, row in result["methods"].items():
        cells = [
            f"{row['sets'][key]['auroc']:.3f} / {100 * row['sets'][key]['fpr95']:.1f}"
            for key in OOD_SETS
        ]
        lines.append(f"| {name} | {' | '.join(cells)} | {100 * row['accepted']:.1f} |")
    if not {"MSP", "ODIN"} <= set(result["methods"]):
        return "\n".join(lines)
    lines += [
        "",
        "| OOD, MSP -> ODIN | FPR95, % | AUROC | published FPR95, % | published AUROC |",
        "|---" * 5 + "|",
    ]
    for key, (fpr, fpr_odin, area, area_odin) in PUBLISHED_ODIN.items():
        values = {
            (metric, name): [run["methods"][name]["sets"][key][metric] for run in runs]
            for metric in ("fpr95", "auroc")
            for name in ("MSP", "ODIN")
        }
        ours = [spread(list(100 * np.array(values["fpr95", n])), 1) for n in ("MSP", "ODIN")]
        ours += [spread(values["auroc", n], 3) for n in ("MSP", "ODIN")]
        lines.append(
            f"| {OOD_SETS[key]} | {ours[0]} -> {ours[1]} | {ours[2]} -> {ours[3]} "
            f"| {100 * fpr:.1f} -> {100 * fpr_odin:.1f} | {area:.3f} -> {area_odin:.3f} |"
        )
    return "\n".join(lines)


if __name__ == "__main__":
    main()
