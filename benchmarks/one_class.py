"""One class of MNIST or CIFAR-10 against the nine others: Deep SVDD beside its published table.

    python benchmarks/one_class.py --data DIR --set mnist --preset paper --classes 0 3 --seeds 0
    python benchmarks/one_class.py --table              # the stored results as text

A detector is trained on the training images of one class and tested on the whole test set, as in
table 1 of Ruff et al. (ICML 2018); a tenth of the training images sets the threshold and is not
trained on. "paper" has the settings of the authors' PyTorch code: LeNet-type networks, contrast
normalisation, pre-training by an autoencoder, and Adam at 1e-4 with a milestone. "random-init" is
the same without pre-training, and "quick" has a fifth of the epochs. Results of further classes
and seeds are added to those stored. Minutes on one core, for one class and seed: MNIST 6 (quick 2),
CIFAR-10 65 (quick 13).

DIR has a ``read_data.py`` with ``load(name, split)``, or torchvision's layout.
"""

from __future__ import annotations

import argparse
import json
import time
from datetime import date
from pathlib import Path
from typing import Any

import numpy as np
from _images import labelled_images
from _machine import machine
from sklearn.pipeline import make_pipeline

from skood import DeepSVDD, LeNet
from skood.classifiers import multi_step
from skood.metrics import auroc
from skood.preprocessing import GlobalContrastNormalization

# Filters, latents, epochs of the autoencoder and their milestone, and its weight decay. The authors
# sum squared errors over the values of an image, of which the detector takes the mean.
SETS = {
    "mnist": {"n_filters": (8, 4), "n_latent": 32, "autoencoder": (150, 50, 5e-4 / 784)},
    "cifar10": {
        "n_filters": (32, 64, 128),
        "n_latent": 128,
        "autoencoder": (350, 250, 5e-7 / 3072),
    },
}
# Epochs of both trainings, as fractions of the paper's.
PRESETS = {"paper": (1.0, 1.0), "random-init": (0.0, 1.0), "quick": (0.2, 0.2)}
N_EPOCHS, MILESTONE = 150, 50
# AUROC in per cent, mean and standard deviation over 10 seeds, of one-class Deep SVDD.
PUBLISHED = {
    "mnist": (
        *((98.0, 0.7), (99.7, 0.1), (91.7, 0.8), (91.9, 1.5), (94.9, 0.8)),
        *((88.5, 0.9), (98.3, 0.5), (94.6, 0.9), (93.9, 1.6), (96.5, 0.3)),
    ),
    "cifar10": (
        *((61.7, 4.1), (65.9, 2.1), (50.8, 0.8), (59.1, 1.4), (60.9, 1.1)),
        *((65.7, 2.5), (67.7, 2.6), (67.3, 0.9), (75.9, 1.2), (73.1, 1.2)),
    ),
}


def detector(name: str, preset: str, seed: int, verbose: int = 0) -> Any:
    """Return the pipeline of a set, with epochs and milestones shortened alike."""
    settings = SETS[name]
    pretraining, training = PRESETS[preset]
    n_pretraining_epochs, milestone, weight_decay = settings["autoencoder"]
    backbone = LeNet(
        settings["n_filters"],
        max_epochs=max(2, round(training * N_EPOCHS)),
        lr_schedule=multi_step([MILESTONE], N_EPOCHS),
        optimizer="adam",
        learning_rate=1e-4,
        weight_decay=5e-7,
        batch_size=200,
        augmentation=None,
        value_range="minmax",
        verbose=verbose,
    )
    return make_pipeline(
        GlobalContrastNormalization(norm="l1"),
        DeepSVDD(
            backbone,
            settings["n_latent"],
            n_pretraining_epochs=round(pretraining * n_pretraining_epochs),
            pretraining_weight_decay=weight_decay,
            pretraining_lr_schedule=multi_step([milestone], n_pretraining_epochs),
            random_state=seed,
            verbose=verbose,
        ),
    )


def measured(args: argparse.Namespace, normal: int, seed: int) -> dict[str, Any]:
    """Train on a class, and return the AUROC and what it took."""
    images, labels = labelled_images(args.data, args.set, "train")
    images = images[labels == normal][: args.n_training]
    test, test_labels = labelled_images(args.data, args.set)
    pipeline = detector(args.set, args.preset, seed, args.verbose)
    start = time.perf_counter()
    pipeline.fit(images)
    minutes = (time.perf_counter() - start) / 60
    truth = np.where(test_labels == normal, 1, -1)
    one_class = pipeline[-1]
    losses = {
        "loss": one_class.history_["loss"],
        "pretraining_loss": one_class.pretraining_history_.get("loss", []),
    }
    return {
        "auroc": auroc(truth, pipeline.score_samples(test)),
        "n_training": len(images),
        "n_test": len(test),
        **{name: [values[0], values[-1]] for name, values in losses.items() if values},
        "minutes": round(minutes, 2),
        "machine": machine(),
        "date": date.today().isoformat(),
    }


def table(out: Path) -> str:
    """Return the stored results as a table, with the mean and deviation over seeds."""
    lines = [
        "| set | class | preset | seeds | AUROC | published | minutes |",
        "|---|---|---|---|---|---|---|",
    ]
    for name in SETS:
        for preset in PRESETS:
            path = out / f"one_class-{name}-{preset}.json"
            stored = json.loads(path.read_text())["classes"] if path.exists() else {}
            for normal, seeds in sorted(stored.items(), key=lambda item: int(item[0])):
                values = [run["auroc"] for run in seeds.values()]
                deviation = f" ({np.std(values, ddof=1):.3f})" if len(values) > 1 else ""
                mean, spread = PUBLISHED[name][int(normal)]
                lines.append(
                    f"| {name} | {normal} | {preset} | {len(values)} | "
                    f"{np.mean(values):.3f}{deviation} | {mean / 100:.3f} ({spread / 100:.3f}) | "
                    f"{np.mean([run['minutes'] for run in seeds.values()]):.1f} |"
                )
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--data", type=Path)
    parser.add_argument("--set", choices=SETS, default="mnist")
    parser.add_argument("--preset", choices=PRESETS, default="quick")
    # Of both sets, the class of the example in the authors' README, and the first class.
    parser.add_argument("--classes", type=int, nargs="+", default=[0, 3])
    parser.add_argument("--seeds", type=int, nargs="+", default=[0])
    parser.add_argument("--n-training", type=int, default=None, help="training images; default all")
    parser.add_argument("--verbose", type=int, default=0)
    parser.add_argument("--out", type=Path, default=Path(__file__).parent / "results")
    parser.add_argument("--table", action="store_true", help="print the stored results")
    args = parser.parse_args()
    if args.table:
        print(table(args.out))
        return
    if args.data is None:
        parser.error("--data is needed to run")
    path = args.out / f"one_class-{args.set}-{args.preset}.json"
    result = json.loads(path.read_text()) if path.exists() else {"classes": {}}
    result["detector"] = repr(detector(args.set, args.preset, seed=0)[-1])
    for normal in args.classes:
        for seed in args.seeds:
            run = measured(args, normal, seed)
            result["classes"].setdefault(str(normal), {})[str(seed)] = run
            path.write_text(json.dumps(result, indent=2) + "\n")
            print(f"class {normal}, seed {seed}: AUROC {run['auroc']:.4f}", flush=True)
    print(table(args.out))


if __name__ == "__main__":
    main()
