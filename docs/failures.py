"""Tables of the page on failures, from stored results and published figures."""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from pathlib import Path
from statistics import mean

from skood.datasets import load_published

RESULTS = Path(__file__).parent.parent / "benchmarks" / "results"
NETWORKS = {"ConvNet": "posthoc-cifar10-convnet", "Airbench": "posthoc-cifar10-airbench"}
SETS = {"svhn": "SVHN", "cifar100": "CIFAR-100"}
ON_A_NETWORK = (
    *("MSP", "Energy", "ODIN", "ReAct", "VRA", "DICE", "ASH-S", "ASH-B", "SCALE", "LTS"),
    *("AdaSCALE-A", "Mahalanobis", "Mahalanobis, normalize=False", "RelativeMahalanobis", "KNN"),
    *("ViM", "Residual", "GMM"),
)
TRANSFORMERS = {"ResNet50": "ResNet-50", "Swin-T": "Swin-T", "ViT-B/16": "ViT-B/16"}
# An AUROC below this figure is printed in bold.
CHANCE = 0.5

Cell = str | float | None


def tables() -> dict[str, str]:
    """Return the included files by their names."""
    return {
        "failures_networks.inc": on_networks(),
        "failures_published.inc": published(),
        "failures_densities.inc": on_densities(),
        "failures_rows.inc": on_rows(),
    }


def read(name: str) -> dict:
    return json.loads((RESULTS / f"{name}.json").read_text())


def on_networks() -> str:
    """Tabulate detectors on two networks of CIFAR-10."""
    results = {name: read(file) for name, file in NETWORKS.items()}
    head = []
    for name, result in results.items():
        accuracy = 100 * mean(run["accuracy"] for run in result["runs"].values())
        head += [f"{name}, {accuracy:.1f} %: {title}" for title in SETS.values()]
    rows = []
    for method in ON_A_NETWORK:
        row: list[Cell] = [method]
        for result in results.values():
            sets = result["methods"].get(method, {}).get("sets", {})
            row += [sets[name]["auroc"] if name in sets else None for name in SETS]
        rows.append(row)
    return list_table(["detector", *head], rows)


def published() -> str:
    """Tabulate the leaderboard of OpenOOD on ImageNet-1K by network."""
    found: dict[str, dict[tuple[str, str], float]] = {}
    for row in load_published("openood_v1.5"):
        name = row["skood_class"]
        is_shown = row["id_set"] == "ImageNet-1K" and row["metric"] == "auroc" and name
        if is_shown and row["network"] in TRANSFORMERS and "," not in row["method"]:
            found.setdefault(name, {})[row["network"], row["ood_set"]] = row["value"]
    columns = [(network, group) for network in TRANSFORMERS for group in ("near", "far")]
    rows: list[list[Cell]] = [
        [name, *(areas.get(column) for column in columns)]
        for name, areas in sorted(found.items())
        if any(("ViT-B/16", group) in areas for group in ("near", "far"))
    ]
    head = [f"{TRANSFORMERS[network]}, {group}" for network, group in columns]
    return list_table(["detector", *head], rows)


def densities() -> dict:
    """Return the measured densities; the diffusion model is the one with the longer training."""
    diffusion = read("likelihood_table-fashion_mnist-diffusion")["densities"]["Diffusion"]
    # Detectors with default parameters.
    rows = {name: row for name, row in diffusion["detectors"].items() if "," not in name}
    found = read("likelihood_table-fashion_mnist-quick")["densities"]
    return found | {"Diffusion": {**diffusion, "detectors": rows}}


def on_densities() -> str:
    """Tabulate log p and its repairs by density."""
    names = {"mnist": "MNIST", "omniglot": "Omniglot", "notmnist": "notMNIST"}
    rows: list[list[Cell]] = [
        [density, detector, *(row["ood"][name]["auroc"] for name in names)]
        for density, entry in densities().items()
        for detector, row in entry["detectors"].items()
    ]
    return list_table(["density", "score", *names.values()], rows)


def on_rows() -> str:
    """Tabulate detectors on three tables of scikit-learn, one or two classes left out in turn."""
    truth = read("recommend-tables")["truth"]
    sets = ("digits", "wine", "cancer")
    rows: list[list[Cell]] = []
    for detector, areas in truth.items():
        by_set = [[v for k, v in areas.items() if k.startswith(name)] for name in sets]
        rows.append([detector, *(f"{cell(min(v))} to {max(v):.3f}" for v in by_set)])
    return list_table(["detector", "digits", "wine", "breast cancer"], rows)


def cell(value: Cell) -> str:
    if value is None:
        return ""
    if isinstance(value, str):
        return value
    return f"**{value:.3f}**" if value < CHANCE else f"{value:.3f}"


def list_table(head: Sequence[str], rows: Iterable[Sequence[Cell]]) -> str:
    lines = [".. list-table::", "   :header-rows: 1", ""]
    for row in (head, *rows):
        for number, value in enumerate(row):
            lines.append(f"   {'* -' if number == 0 else '  -'} {cell(value)}".rstrip())
    return "\n".join([*lines, ""])
