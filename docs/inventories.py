"""Inventories for references to other packages, written without a network.

Intersphinx reads an inventory, the list of a site's names and pages. The sites that these packages
publish cannot be read during a build without a network, so that the names which this site refers to
are listed here. A reference to another name fails the build until it is listed.
"""

from __future__ import annotations

import importlib
import inspect
import zlib
from pathlib import Path
from typing import Any

# For each package: the address of its site, the pattern of its pages, and names on other pages.
SITES: dict[str, tuple[str, str, dict[str, str]]] = {
    "joblib": ("https://joblib.readthedocs.io/en/stable/", "generated/{name}.html", {}),
    "sklearn": (
        "https://scikit-learn.org/stable/",
        "modules/generated/{name}.html",
        {"sklearn.semi_supervised": "api/sklearn.semi_supervised.html"},
    ),
    "torch": (
        "https://docs.pytorch.org/docs/stable/",
        "generated/{name}.html",
        {"torch.export.load": "export/api_reference.html"},
    ),
    "torchvision": ("https://docs.pytorch.org/vision/stable/", "generated/{name}.html", {}),
}
NAMES = """
joblib.Parallel joblib.hash
sklearn.covariance.OAS sklearn.decomposition.PCA sklearn.ensemble.IsolationForest
sklearn.exceptions.UndefinedMetricWarning sklearn.frozen.FrozenEstimator
sklearn.inspection.DecisionBoundaryDisplay sklearn.metrics.PrecisionRecallDisplay
sklearn.metrics.RocCurveDisplay sklearn.metrics.make_scorer
sklearn.model_selection.TunedThresholdClassifierCV sklearn.model_selection.cross_validate
sklearn.neighbors.KernelDensity sklearn.preprocessing.StandardScaler sklearn.semi_supervised
sklearn.svm.OneClassSVM sklearn.utils.check_random_state
torch.export.load torch.manual_seed
torchvision.datasets.ImageFolder torchvision.models.get_model torchvision.models.list_models
""".split()


def write(folder: Path) -> dict[str, tuple[str, str]]:
    """Write an inventory for each package, and return the value of ``intersphinx_mapping``."""
    folder.mkdir(parents=True, exist_ok=True)
    mapping = {}
    for package, (address, pattern, pages) in SITES.items():
        lines = [
            f"{name} py:{role(name)} 1 {pages.get(name, pattern.format(name=name))}#$ -"
            for name in NAMES
            if name.partition(".")[0] == package
        ]
        head = f"# Sphinx inventory version 2\n# Project: {package}\n# Version: stable\n"
        head += "# The remainder of this file is compressed using zlib.\n"
        path = folder / f"{package}.inv"
        path.write_bytes(head.encode() + zlib.compress("\n".join([*lines, ""]).encode()))
        mapping[package] = (address, str(path))
    return mapping


def role(name: str) -> str:
    """Return the role of a name in the Python domain; a name that does not exist is an error."""
    found = resolve(name)
    if inspect.ismodule(found):
        return "module"
    if inspect.isclass(found):
        return "exception" if issubclass(found, BaseException) else "class"
    return "function"


def resolve(name: str) -> Any:
    module, _, attribute = name.rpartition(".")
    found = getattr(importlib.import_module(module), attribute, None)
    return importlib.import_module(name) if found is None else found
