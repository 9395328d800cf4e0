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
        "   :widths: 20 50 20 10",
        "",
        "   * - method",
        "     - paper",
        "     - family",
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
                f"     - {PARTS[part].lower()}",
                f"     - {measured.get(name, '')}",
            ]
    return "\n".join(lines) + "\n"


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
    for entry in table["densities"].values():
        for label, row in entry["detectors"].items():
            name = label.split(",")[0]
            areas[name] = max(areas.get(name, 0.0), row["ood"]["mnist"]["auroc"])
    return {name: f"{100 * area:.1f}" for name, area in areas.items()}
