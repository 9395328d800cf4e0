"""How well `skood.recommend` chooses, against fixed choices and the best detector.

    python benchmarks/recommend.py --preset fashion_mnist --data DIR
    python benchmarks/recommend.py --preset cifar10 --data DIR --work FOLDER   # Airbench
    python benchmarks/recommend.py --preset cifar10 --data DIR --network FILE  # of skood.save
    python benchmarks/recommend.py --preset mlp --data DIR
    python benchmarks/recommend.py --preset rows --data DIR
    python benchmarks/recommend.py --preset tables
    python benchmarks/recommend.py --table                   # the stored results as text

DIR has torchvision's layout, or a ``read_data.py`` with ``load(name, split)``. Every preset has one
in-distribution set and several OOD sets, which nothing is tuned on:

- "fashion_mnist": a small ConvNet, trained by this script, and frozen;
- "cifar10": a trained network, frozen;
- "mlp": an MLP on the pixels of Fashion-MNIST, which `recommend` trains, also without classes;
- "rows": 50 principal components of the pixels of Fashion-MNIST, without a network;
- "tables": rows of scikit-learn's digits, wine and breast cancer, without a network. Two digits, a
  cultivar or a diagnosis are the OOD set, each in turn.

The regret of a choice on an OOD set is the AUROC of the best candidate there, minus the AUROC of
the chosen one. "measured" is the first detector in the order of `recommend` without real outliers,
"outliers of another set" the first in its order on real outliers from the other OOD sets.
"""

from __future__ import annotations

import argparse
import json
import warnings
from datetime import date
from pathlib import Path
from time import perf_counter
from typing import Any

import numpy as np
from _colour import train_network
from _images import labelled_images
from _machine import machine
from scipy.stats import spearmanr
from sklearn.base import clone
from sklearn.datasets import load_breast_cancer, load_digits, load_wine
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
PRESETS = ("fashion_mnist", "cifar10", "mlp", "rows", "tables")
TABLES = {"digits": load_digits, "wine": load_wine, "cancer": load_breast_cancer}
CONVNET = ConvNet(n_filters=(16, 32, 64), max_epochs=4)


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
        if args.preset is None or (args.data is None and args.preset != "tables"):
            parser.error("--preset, and for images --data, are needed to run")
        args.out.mkdir(parents=True, exist_ok=True)
        args.work.mkdir(parents=True, exist_ok=True)
        path = args.out / f"recommend-{args.preset}.json"
        path.write_text(json.dumps(run(args), indent=2) + "\n")
    print(table({p.stem: json.loads(p.read_text()) for p in args.out.glob("recommend-*.json")}))


def run(args: argparse.Namespace) -> dict:
    if args.preset == "tables":
        result = run_tables(args)
        return result | {"machine": machine(), "date": date.today().isoformat()}
    about, model, X, y, held_out, test, sets = setting(args)
    training = share_forward_pass(X)
    truth = true_areas(model, training, y, share_forward_pass(test), sets)
    result: dict = {"about": about, "truth": truth, "orders": {}, "seconds": []}
    known = None if held_out is None else share_forward_pass(held_out)
    for seed in args.seeds:
        common = {"X_held_out": known, "random_state": seed, "choice": "measured", "verbose": 0}
        start = perf_counter()
        found = quietly(recommend, model, training, y, **common)
        result["seconds"].append(perf_counter() - start)
        print(found, flush=True)
        for name, order in orders_of(found).items():
            for key in sets:
                add_order(result, name, key, order)
        for given, images in sets.items():
            outliers = share_forward_pass(images[len(images) // 2 :])
            by_outliers = quietly(recommend, model, training, y, outliers=outliers, **common)
            for key in sets:
                name = "outliers of " + ("the same set" if key == given else "another set")
                add_order(result, name, key, orders_of(by_outliers)["measured"])
    return result | {"machine": machine(), "date": date.today().isoformat()}


def run_tables(args: argparse.Namespace) -> dict:
    """Leave classes of scikit-learn's tables out, and recommend on the rows of the others."""
    result: dict = {
        "about": {"preset": "tables", "network": "None"},
        "truth": {},
        "orders": {},
        "seconds": [],
    }
    for name, load in TABLES.items():
        X, y = load(return_X_y=True)
        classes = np.unique(y)
        groups = [classes[k : k + 2] for k in range(0, 10, 2)] if len(classes) == 10 else classes
        for group in groups:
            is_id = ~np.isin(y, group)
            key = f"{name} {'+'.join(map(str, np.atleast_1d(group)))}"
            rng = np.random.default_rng(0)
            rows = rng.permutation(np.flatnonzero(is_id))
            training, test = np.split(rows, [max(100, int(0.7 * len(rows)))])
            areas = true_areas(
                None, X[training], y[training], X[test], {key: X[~is_id]}, half=False
            )
            for detector, found in areas.items():
                result["truth"].setdefault(detector, {}).update(found)
            for seed in args.seeds:
                start = perf_counter()
                found = quietly(
                    recommend, None, X[training], y[training], random_state=seed, verbose=0
                )
                result["seconds"].append(perf_counter() - start)
                for order_name, order in orders_of(found).items():
                    add_order(result, order_name, key, order)
    return result


def orders_of(found: skood.Recommendation) -> dict[str, list[str]]:
    """Return the names of the compared detectors, by the mean of the criteria and by each."""
    rows = [row for row in found.rows if row["excluded"] is None]
    used = [name for name, state in found.criteria.items() if state == "used"]
    orders = {"measured": [row["detector"] for row in rows]}
    for name in used if len(used) > 1 else []:
        by_one = sorted(rows, key=lambda row, name=name: -row[name])
        orders[f"measured, {name} alone"] = [row["detector"] for row in by_one]
    return orders


def add_order(result: dict, name: str, key: str, order: list[str]) -> None:
    result["orders"].setdefault(name, {}).setdefault(key, []).append(order)


def quietly(function, *args, **params):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return function(*args, **params)


def setting(args: argparse.Namespace) -> tuple:
    """Return a description, model, X, y, held-out rows, test rows and OOD sets."""
    rng = np.random.default_rng(0)
    grey = args.preset != "cifar10"
    name = "fashion_mnist" if grey else "cifar10"
    images, labels = labelled_images(args.data, name, "train")
    test_images, test_labels = labelled_images(args.data, name)
    about = {"preset": args.preset, "id": name, "n_train": args.n_train, "n_test": args.n_test}
    model = None
    network: Any = {"fashion_mnist": CONVNET, "cifar10": args.network or Airbench()}.get(
        args.preset
    )
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
    about["network"] = repr(network or model)
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
    if args.preset == "mlp":
        flat_X, flat_test = (
            part.reshape(len(part), -1) / np.float32(255) for part in (X, test_images)
        )
        about["accuracy"] = clone(model).fit(flat_X, y).score(flat_test, test_labels)
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


def true_areas(model, X, y, test, sets: dict, half: bool = True) -> dict[str, dict[str, float]]:
    """Return the AUROC of every candidate on every OOD set, or on the first half of it."""
    training, test = map(share_forward_pass, (X, test))
    situation = situation_of(model, training, y)
    if model is not None and not situation.is_trained:
        model = FrozenEstimator(fit_model(clone(model), training, y, seed=0))
    tested = {
        name: share_forward_pass(images[: len(images) // 2] if half else images)
        for name, images in sets.items()
    }
    result: dict[str, dict[str, float]] = {}
    for name, detector in candidates_for(situation, False).detectors.items():
        detector = with_model(detector, model, situation.kind)
        try:
            fitted = quietly(fit_detector, detector, training, y, None, seed=0, memory=None)
            inside = scores_of(fitted, test)
            for key, data in tested.items():
                outside = scores_of(fitted, data)
                labels = np.repeat([1, -1], [len(inside), len(outside)])
                area = float(auroc(labels, np.concatenate([inside, outside])))
                result.setdefault(name, {})[key] = area
        except (TypeError, ValueError) as error:
            print(f"{name} is left out: {error}")
    return result


def regrets(result: dict) -> tuple[dict[str, list[float]], list[float]]:
    """Return, for every OOD set, the regret of every choice and the rank correlation."""
    truth = result["truth"]
    # A detector that could not be fitted for every set is no fixed choice.
    sets = list(max(truth.values(), key=len))
    known = {
        key: {name: areas[key] for name, areas in truth.items() if key in areas} for key in sets
    }
    best = {key: max(areas.values()) for key, areas in known.items()}
    found = {
        name: [
            float(np.mean([best[key] - known[key][order[0]] for order in orders[key]]))
            for key in sets
        ]
        for name, orders in result["orders"].items()
        # A table with one class leaves none out.
        if set(sets) <= set(orders)
    }
    always = {name: areas for name, areas in truth.items() if len(areas) == len(sets)}
    for name in FIXED:
        if name in always:
            found[f"always {name}"] = [best[key] - always[name][key] for key in sets]
    name = max(always, key=lambda name: np.mean(list(always[name].values())))
    found[f"best fixed in hindsight ({name})"] = [best[key] - always[name][key] for key in sets]
    found["a random candidate"] = [
        float(best[key] - np.mean(list(known[key].values()))) for key in sets
    ]
    correlations = []
    for key in sets:
        values = []
        for order in result["orders"]["measured"][key]:
            order = [name for name in order if name in known[key]]
            values.append(
                spearmanr(range(len(order)), [-known[key][name] for name in order]).statistic
            )
        correlations.append(float(np.mean(values)))
    return found, correlations


def table(results: dict[str, dict]) -> str:
    """Format the regrets as Markdown."""
    lines = []
    for result in results.values():
        about = result["about"]
        sets = list(max(result["truth"].values(), key=len))
        accuracy = f", accuracy {100 * about['accuracy']:.2f} %" if "accuracy" in about else ""
        choices, correlations = regrets(result)
        lines += [
            f"{about['preset']}: {about['network']}{accuracy}, {len(result['truth'])} candidates",
            "",
            f"| regret in AUROC | {' | '.join(sets)} | mean |",
            "|---" * (len(sets) + 2) + "|",
            *(
                f"| {name} | {' | '.join(f'{value:.3f}' for value in values)} "
                f"| {np.mean(values):.3f} |"
                for name, values in sorted(choices.items(), key=lambda item: np.mean(item[1]))
            ),
            f"| rank correlation, measured | {' | '.join(f'{c:.2f}' for c in correlations)} "
            f"| {np.mean(correlations):.2f} |",
            "",
        ]
    return "\n".join(lines)


if __name__ == "__main__":
    main()
