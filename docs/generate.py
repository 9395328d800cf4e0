"""Pages of the documentation that are made from the package and from measured results."""

from __future__ import annotations

import importlib
import inspect
import json
import re
from pathlib import Path

RESULTS = Path(__file__).parents[1] / "benchmarks" / "results"
# The parts of the package, in the order in which they are shown, and what they are.
PARTS = {
    "density": "Densities and other models of the data",
    "classifiers": "Classifiers",
    "likelihood": "Detectors on a density",
    "posthoc": "Detectors on a trained classifier or on features",
    "training_time": "Detectors that train their own network",
    "calibration": "Thresholds and guarantees",
    "model_selection": "Choosing a model",
    "metrics": "Metrics",
    "datasets": "Data sets",
    "inspection": "Displays",
}
OF_THE_PACKAGE = ["evaluate", "share_forward_pass"]


def write(docs: Path) -> None:
    """Write all pages into ``docs/generated``."""
    folder = docs / "generated"
    folder.mkdir(exist_ok=True)
    pages = {"api.rst": api_page(), "methods.rst": methods_page()}
    for name, text in pages.items():
        path = folder / name
        # A page that has not changed is not built again.
        if not path.exists() or path.read_text() != text:
            path.write_text(text)


def public_names(part: str) -> list[str]:
    return sorted(importlib.import_module(f"skood.{part}").__all__, key=str.lower)


def api_page() -> str:
    lines = ["API reference", "=============", ""]
    for part, title in PARTS.items():
        module = importlib.import_module(f"skood.{part}")
        kinds = {
            "class.rst": [n for n in public_names(part) if inspect.isclass(getattr(module, n))],
            "function.rst": [
                n for n in public_names(part) if not inspect.isclass(getattr(module, n))
            ],
        }
        lines += [title, "-" * len(title), "", f".. currentmodule:: skood.{part}", ""]
        for template, names in kinds.items():
            lines += summary(template, names)
    title = "Of the whole package"
    lines += [title, "-" * len(title), "", ".. currentmodule:: skood", ""]
    lines += summary("function.rst", OF_THE_PACKAGE)
    return "\n".join(lines)


def summary(template: str, names: list[str]) -> list[str]:
    if not names:
        return []
    options = ["   :toctree: .", f"   :template: {template}", ""]
    return [".. autosummary::", *options, *(f"   {name}" for name in names), ""]


def methods_page() -> str:
    measured = measured_areas()
    lines = [
        "All methods",
        "===========",
        "",
        "Measured: AUROC in %, of CIFAR-10 against SVHN for detectors on a classifier of 88.8 %",
        "accuracy, of Fashion-MNIST against MNIST for detectors on a density (the best of the",
        "densities of the table), with default parameters; see ``benchmarks/README.md``.",
        "",
        ".. list-table::",
        "   :header-rows: 1",
        "   :widths: 18 44 28 10",
        "",
        "   * - method",
        "     - paper",
        "     - reads",
        "     - measured",
    ]
    for part in ("likelihood", "posthoc", "training_time"):
        module = importlib.import_module(f"skood.{part}")
        for name in public_names(part):
            if not hasattr(getattr(module, name), "score_samples"):
                continue
            lines += [
                f"   * - :class:`~skood.{part}.{name}`",
                # Escaped, since initials at the start of a line would begin a list.
                f"     - \\ {first_reference(getattr(module, name))}",
                f"     - {what_it_reads(part, getattr(module, name))}",
                f"     - {measured.get(name, '')}",
            ]
    return "\n".join(lines) + "\n"


def what_it_reads(part: str, cls: type) -> str:
    """What a detector needs beside in-distribution data, told by its class."""
    if part == "likelihood":
        # The first sentence of the parameter says which densities it takes.
        found = re.search(r"^density : .*\n((?: .*\n)+)", inspect.getdoc(cls) or "", re.M)
        words = " ".join(found.group(1).split()) if found else "a density"
        return re.split(r"[;.] ", words)[0].rstrip(".")
    if part == "training_time":
        labels = "labels" if cls._needs_labels else "no labels"
        return f"{labels}, outliers" if cls._trains_on_outliers else labels
    base = importlib.import_module("skood.posthoc._base")
    if issubclass(cls, base.FeatureDetector):
        return "features"
    if issubclass(cls, base.NetworkDetector):
        return "the network: gradients or inner layers"
    reads = "features, logits, last layer" if cls._reads_features else "logits"
    return f"{reads}; labels" if cls._needs == "labels" else reads


def first_reference(cls: type) -> str:
    """The first entry of the References section of a docstring, in one line."""
    text = inspect.getdoc(cls) or ""
    found = re.search(r"^\.\. \[1\] (.*?)(?=^\.\. \[|^Examples|\Z)", text, re.M | re.S)
    return " ".join(found.group(1).split()) if found else ""


def measured_areas() -> dict[str, str]:
    """AUROC of each method in percent, from the stored results."""
    areas: dict[str, float] = {}
    posthoc = json.loads((RESULTS / "posthoc-cifar10-quick.json").read_text())
    for name, row in posthoc["detectors"].items():
        areas[name] = row["sets"]["svhn"]["auroc"]
    table = json.loads((RESULTS / "likelihood_table-fashion_mnist-quick.json").read_text())
    for density, entry in table["densities"].items():
        if density == "TwoStep":
            # Its log-density is a repair of its own.
            continue
        for label, row in entry["detectors"].items():
            name = label.split(",")[0]
            areas[name] = max(areas.get(name, 0.0), row["ood"]["mnist"]["auroc"])
    return {name: f"{100 * area:.1f}" for name, area in areas.items()}
