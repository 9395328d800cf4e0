"""How well `skood.recommend` chooses, against fixed choices and the best detector.

    python benchmarks/recommend.py --preset fashion_mnist --data DIR
    python benchmarks/recommend.py --preset cifar10 --data DIR --work FOLDER   # Airbench
    python benchmarks/recommend.py --preset cifar10 --data DIR --network FILE  # of skood.save
    python benchmarks/recommend.py --preset mlp --data DIR
    python benchmarks/recommend.py --preset rows --data DIR
    python benchmarks/recommend.py --table                   # the stored results as text

DIR has torchvision's layout, or a ``read_data.py`` with ``load(name, split)``. Every preset has one
in-distribution set and several OOD sets, which nothing is tuned on:

- "fashion_mnist": a small ConvNet, trained by this script, and frozen;
- "cifar10": a trained network, frozen;
- "mlp": an MLP on the pixels of Fashion-MNIST, which `recommend` trains, also without classes;
- "rows": 50 principal components of the pixels of Fashion-MNIST, without a network.

The regret of a choice on an OOD set is the AUROC of the best candidate there, minus the AUROC of
the chosen one. The order of `recommend` has no real outliers; "other OOD set" is its order on
outliers from another of the sets.
"""

from __future__ import annotations

import argparse
import json
import warnings
from datetime import date
from pathlib import Path
from time import perf_counter

import numpy as np
from _colour import train_network
from _images import labelled_images
from _machine import machine
from scipy.stats import spearmanr
from sklearn.base import clone
from sklearn.decomposition import PCA
from sklearn.frozen import FrozenEstimator

import skood
from skood import MLP, Airbench, ConvNet, recommend, share_forward_pass
from skood._models import fit_model
from skood._recommendation._candidates import candidates_for, situation_of, with_model
from skood.calibration._base import fit_detector, scores_of
from skood.metrics import auroc

GREY = ("mnist", "notmnist", "omniglot", "svhn", "cifar10")
COLOUR = ("svhn", "cifar100", "tinyimagenet_crop", "tinyimagenet_resize")
FIXED = ("KNN", "MSP", "Mahalanobis")
PRESETS = ("fashion_mnist", "cifar10", "mlp", "rows")
CONVNET = ConvNet(n_filters=(16, 32, 64), max_epochs=4)
# Criteria whose order is measured, if the setting has them.
ORDERS = {"default": None, "synthetic": ["synthetic"], "classes": ["classes"]}


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--preset", choices=PRESETS)
    parser.add_argument("--data", type=Path)
    parser.add_argument("--network", type=Path, help="file of skood.save, for cifar10")
    parser.add_argument("--n-train", type=int, default=10_000, help="rows given as X")
    parser.add_argument(
        "--n-test", type=int, default=2500, help="at most so many rows per test set"
    )
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2], help="of recommend")
    parser.add_argument("--work", type=Path, default="checkpoints", help="for resuming")
    parser.add_argument("--out", type=Path, default=Path(__file__).parent / "results")
    parser.add_argument("--table", action="store_true", help="print the stored results")
    args = parser.parse_args()
    if not args.table:
        if args.data is None or args.preset is None:
            parser.error("--data and --preset are needed to run")
        args.out.mkdir(parents=True, exist_ok=True)
        args.work.mkdir(parents=True, exist_ok=True)
        path = args.out / f"recommend-{args.preset}.json"
        path.write_text(json.dumps(run(args), indent=2) + "\n")
    print(table({p.stem: json.loads(p.read_text()) for p in args.out.glob("recommend-*.json")}))


def run(args: argparse.Namespace) -> dict:
    start = perf_counter()
    about, model, X, y, held_out, test, sets = setting(args)
    print(f"{about}, {perf_counter() - start:.0f} s", flush=True)
    training = share_forward_pass(X)
    known = None if held_out is None else share_forward_pass(held_out)
    truth = true_areas(model, training, y, share_forward_pass(test), sets)
    print(f"true AUROCs, {perf_counter() - start:.0f} s", flush=True)
    result: dict = {"about": about, "truth": truth, "orders": {}, "seconds": []}
    warnings.simplefilter("ignore")
    for seed in args.seeds:
        began = perf_counter()
        common = {"X_held_out": known, "random_state": seed, "choice": "measured", "verbose": 0}
        found = recommend(model, training, y, **common)
        result["seconds"].append(perf_counter() - began)
        orders = {"default": found.rows}
        used = [name for name, state in found.criteria.items() if state == "used"]
        if len(used) > 1:
            # The same scores, ordered by one criterion.
            for name in used:
                rows = [row for row in found.rows if row["excluded"] is None]
                orders[name] = sorted(rows, key=lambda row, name=name: -row[name])
        for name, images in sets.items():
            outliers = share_forward_pass(images[args.n_test :][: args.n_test])
            rows = recommend(model, training, y, outliers=outliers, **common).rows
            orders[f"outliers of {name}"] = rows
        for name, rows in orders.items():
            result["orders"].setdefault(name, {})[str(seed)] = [
                row["detector"] for row in rows if row["excluded"] is None
            ]
        print(found, f"{perf_counter() - start:.0f} s", flush=True)
    return result | {"machine": machine(), "date": date.today().isoformat()}


def setting(args: argparse.Namespace) -> tuple:
    """Return a description, model, X, y, held-out rows, test rows and OOD sets."""
    rng = np.random.default_rng(0)
    grey = args.preset != "cifar10"
    name = "fashion_mnist" if grey else "cifar10"
    images, labels = labelled_images(args.data, name, "train")
    test_images, test_labels = labelled_images(args.data, name)
    about = {"preset": args.preset, "id": name, "n_train": args.n_train, "n_test": args.n_test}
    model = None
    if args.preset == "fashion_mnist":
        model, about["training seconds"] = train_network(
            "recommend", CONVNET, images, labels, 0, args.work
        )
    elif args.preset == "cifar10" and args.network is not None:
        model = skood.load(args.network)
    elif args.preset == "cifar10":
        model, about["training seconds"] = train_network(
            "airbench", Airbench(), images, labels, 0, args.work
        )
    elif args.preset == "mlp":
        model = MLP(max_epochs=10, random_state=0)
    about["network"] = repr(model)
    frozen = args.preset in ("fashion_mnist", "cifar10")
    if frozen:
        half = len(test_images) // 2
        about["accuracy"] = model.score(test_images[half:], test_labels[half:])
        model = FrozenEstimator(model)
        # As many as `recommend` ranks with, and as many for the calibration.
        held_out, test_images = test_images[: min(half, 2000)], test_images[half:]
    else:
        held_out = None
    chosen = np.sort(rng.permutation(len(images))[: args.n_train])
    X, y = images[chosen], labels[chosen]
    test = test_images[np.sort(rng.permutation(len(test_images))[: args.n_test])]
    sets = {}
    for key in GREY if grey else COLOUR:
        resized = {"size": 28, "grey": True} if key in ("svhn", "cifar10") and grey else {}
        others, _ = labelled_images(args.data, key, **resized)
        # One part is tested, the other is given as known outliers.
        sets[key] = others[rng.permutation(len(others))[: 2 * args.n_test]]
    if not frozen:
        flat = {"X": X, "test": test, **sets}
        flat = {key: value.reshape(len(value), -1) / np.float32(255) for key, value in flat.items()}
        if args.preset == "rows":
            components = PCA(50, random_state=0).fit(flat["X"])
            flat = {key: components.transform(value) for key, value in flat.items()}
        X, test = flat.pop("X"), flat.pop("test")
        sets = flat
    return about, model, X, y, held_out, test, sets


def true_areas(model, training, y, test, sets: dict) -> dict[str, dict[str, float]]:
    """Return the AUROC of every candidate on every OOD set, which `recommend` does not see."""
    situation = situation_of(model, training, y)
    if model is not None and not situation.is_trained:
        model = FrozenEstimator(fit_model(clone(model), training, y, seed=0))
    halves = {name: share_forward_pass(images[: len(images) // 2]) for name, images in sets.items()}
    result: dict[str, dict[str, float]] = {}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        for name, detector in candidates_for(situation, False).detectors.items():
            try:
                fitted = fit_detector(
                    with_model(detector, model, situation.kind),
                    training,
                    y,
                    None,
                    seed=0,
                    memory=None,
                )
                inside = scores_of(fitted, test)
                for key, data in halves.items():
                    outside = scores_of(fitted, data)
                    labels = np.repeat([1, -1], [len(inside), len(outside)])
                    area = float(auroc(labels, np.concatenate([inside, outside])))
                    result.setdefault(name, {})[key] = area
            except (TypeError, ValueError) as error:
                print(name, "is left out:", error)
    return result


def regrets(result: dict) -> tuple[dict[str, list[float]], list[float]]:
    """Return, for every OOD set, the regret of every choice and the rank correlation."""
    truth = result["truth"]
    sets = list(next(iter(truth.values())))
    found: dict[str, list[float]] = {}
    correlations = []
    for key in sets:
        best = max(areas[key] for areas in truth.values())
        for name, orders in result["orders"].items():
            if name == f"outliers of {key}":
                name = "outliers of the same set"
            elif name.startswith("outliers of"):
                name = "outliers of another set"
            chosen = [order[0] for order in orders.values()]
            values = [best - truth[detector][key] for detector in chosen]
            found.setdefault(name, []).append((key, float(np.mean(values))))
        for name in FIXED:
            if name in truth:
                found.setdefault(f"always {name}", []).append((key, best - truth[name][key]))
        everyone = [best - areas[key] for areas in truth.values()]
        found.setdefault("a random candidate", []).append((key, float(np.mean(everyone))))
        correlations.append(
            float(
                np.mean(
                    [
                        spearmanr(
                            range(len(order)), [-truth[detector][key] for detector in order]
                        ).statistic
                        for order in result["orders"]["default"].values()
                    ]
                )
            )
        )
    means = {
        name: [float(np.mean([value for key, value in values if key == one])) for one in sets]
        for name, values in found.items()
    }
    hindsight = max(truth, key=lambda name: np.mean(list(truth[name].values())))
    means[f"best fixed in hindsight ({hindsight})"] = [
        max(areas[key] for areas in truth.values()) - truth[hindsight][key] for key in sets
    ]
    return means, correlations


def table(results: dict[str, dict]) -> str:
    """Format the regrets as Markdown."""
    lines = []
    for result in results.values():
        about = result["about"]
        sets = list(next(iter(result["truth"].values())))
        accuracy = f", accuracy {100 * about['accuracy']:.2f} %" if "accuracy" in about else ""
        means, correlations = regrets(result)
        lines += [
            f"{about['preset']}: {about['network']}{accuracy}, {len(result['truth'])} candidates",
            "",
            f"| regret in AUROC | {' | '.join(sets)} | mean |",
            "|---" * (len(sets) + 2) + "|",
            *(
                f"| {name} | {' | '.join(f'{value:.3f}' for value in values)} "
                f"| {np.mean(values):.3f} |"
                for name, values in sorted(means.items(), key=lambda item: np.mean(item[1]))
            ),
            f"| rank correlation of the order | {' | '.join(f'{c:.2f}' for c in correlations)} "
            f"| {np.mean(correlations):.2f} |",
            "",
        ]
    return "\n".join(lines)


if __name__ == "__main__":
    main()
