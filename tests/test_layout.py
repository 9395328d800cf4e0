"""Imports point one way, and importing the package is cheap."""

import ast
import importlib
import subprocess
import sys
from pathlib import Path

import pytest

import skood

ROOT = Path(skood.__file__).parent
# What the modules of each part may import from the package.
DOOR = {
    *("_data.checked_data", "_data.labels", "_data.lazy_rows", "_data.outliers"),
    *("_data.validation", "_estimator.internal", "_estimator.parameters", "_moments"),
}
ALLOWED = {
    "_data.__init__": set(),
    "_data.arrays": {"_data.checked_data", "_data.given"},
    "_data.channels": set(),
    "_data.checked_data": {
        *("_data.given", "_data.lazy_rows", "_data.readers", "_estimator.internal"),
    },
    "_data.chunks": set(),
    "_data.fields": {"_data.checked_data", "_data.readers", "_data.streams"},
    "_data.given": set(),
    "_data.labels": set(),
    "_data.lazy_rows": set(),
    "_data.masks": set(),
    "_data.memory_layout": set(),
    "_data.outliers": {"_data.checked_data", "_data.labels"},
    "_data.readers": set(),
    "_data.streams": {"_data.channels", "_data.checked_data", "_data.readers"},
    "_data.symbols": {"_data.checked_data", "_data.readers", "_data.unread_data"},
    "_data.unread_data": {"_data.checked_data", "_data.given", "_data.readers"},
    "_data.validation": {
        *("_data.arrays", "_data.channels", "_data.checked_data", "_data.fields", "_data.given"),
        *("_data.streams", "_data.unread_data"),
    },
    "_estimator.__init__": set(),
    "_estimator.deprecation": set(),
    "_estimator.docs_link": set(),
    "_estimator.internal": set(),
    "_estimator.methods": set(),
    "_estimator.parameters": set(),
    "_estimator.printing": set(),
    "_caching": set(),
    "_catalogue": set(),
    "_directions": set(),
    "_moments": set(),
    "_optional": set(),
    "_progress": set(),
    "_safe_files": set(),
    "_show_versions": {"_torch"},
    "_table": set(),
    "_torch": {"_torch", *DOOR},
    "_models": {"_caching", "_torch", "_data.unread_data", *DOOR},
    "density": {
        "density",
        "_data.given",
        "_estimator.methods",
        "_models",
        "_data.symbols",
        "_torch",
        *DOOR,
    },
    "classifiers": {"classifiers", "_data.arrays", "_caching", "_torch", *DOOR},
    "embeddings": {
        *(
            "embeddings",
            "_caching",
            "_data.fields",
            "_data.given",
            "_data.streams",
            "_torch",
            "classifiers",
        ),
        *DOOR,
    },
    "explanation": {"explanation", *DOOR},
    "_detector": {"_models", "_torch", "explanation", *DOOR},
    "_thresholds": {"_torch"},
    "base": {"_detector", "_frozen", "_thresholds", "classifiers", "_torch", *DOOR},
    "_frozen": {"_torch"},
    "_open_set": {"_detector", "_models", *DOOR},
    "likelihood": {
        "likelihood",
        "base",
        "density",
        "metrics",
        "_estimator.methods",
        "_models",
        "_data.symbols",
        "_thresholds",
        "_torch",
        "_data.unread_data",
        "explanation",
        *DOOR,
    },
    "functional": {"functional"},
    "posthoc": {
        "posthoc",
        "base",
        "classifiers",
        "functional",
        "_detector",
        "_models",
        "_open_set",
        "_thresholds",
        "_torch",
        "explanation",
        *DOOR,
    },
    "training_time": {
        "training_time",
        "functional",
        "_caching",
        "base",
        "classifiers",
        "density",
        "_models",
        "_open_set",
        "_torch",
        *DOOR,
    },
    "inspection": {
        *("inspection", "explanation", "likelihood", "metrics", "_detector", "_export", "_models"),
        *("_torch", *DOOR),
    },
    "metrics": {"metrics", "_data.labels"},
    "model_selection": {"model_selection", "_directions", "explanation", "metrics", *DOOR},
    "datasets": {"datasets", "_data.given", "_models", *DOOR},
    "preprocessing": {"preprocessing", *DOOR},
    "calibration": {
        "calibration",
        "explanation",
        "_detector",
        "_directions",
        "_frozen",
        "base",
        "classifiers",
        "metrics",
        "_models",
        "_open_set",
        "_torch",
        *DOOR,
    },
    "testing": {"_torch"},
    "_files": {
        *(
            "_files",
            "_data.lazy_rows",
            "_moments",
            "_safe_files",
            "_torch",
            "classifiers",
            "density",
        ),
        *("likelihood", "posthoc", "training_time"),
    },
    "evaluation": {"evaluation", "_models", "_open_set", "datasets", "metrics", *DOOR},
    "_recommendation": {
        *("_recommendation", "_models", "_torch", "_data.unread_data", "base", "calibration"),
        *("classifiers", "datasets", "metrics", "model_selection", "posthoc", *DOOR),
    },
    "_export": {
        *("_detector", "_export", "_open_set", "_safe_files", "_torch", "calibration"),
        *("classifiers", "functional", "posthoc", "training_time", *DOOR),
    },
}
PACKAGES = sorted(path.parent.name for path in ROOT.glob("[a-z]*/__init__.py"))
# What all of them may import; these import nothing else of the package but each other.
FOR_ALL = {
    *("_data.chunks", "_data.masks", "_data.memory_layout", "_estimator.deprecation"),
    *("_estimator.docs_link", "_estimator.printing", "_optional", "_progress", "_safe_files"),
    "_table",
}


def part_of(parts):
    """The folder or module of the package, and in folders of small modules the module."""
    return ".".join(parts[: 1 + (parts[0] in ("_data", "_estimator"))])


@pytest.mark.parametrize(
    "path",
    [path for path in sorted(ROOT.rglob("*.py")) if path != ROOT / "__init__.py"],
    ids=lambda path: str(path.relative_to(ROOT)),
)
def test_imports_point_one_way(path):
    imported = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.ImportFrom) and node.module:
            imported.add(node.module)
        elif isinstance(node, ast.Import):
            imported |= {alias.name for alias in node.names}
    own = {part_of(name.split(".")[1:]) for name in imported if name.startswith("skood.")}
    part = part_of(path.relative_to(ROOT).with_suffix("").parts)
    assert own <= ALLOWED[part] | FOR_ALL
    if part == "metrics":
        others = {name.split(".")[0] for name in imported} - sys.stdlib_module_names
        assert others <= {"numpy", "sklearn", "skood"}
    if part != "_estimator.parameters":
        assert not {name for name in imported if "_param_validation" in name}


@pytest.mark.parametrize("name", [name for name in skood.__all__ if name != "__version__"])
def test_a_public_name_is_public_in_its_module(name):
    home = skood._HOMES[name]
    if home == "skood":
        assert getattr(skood, name) is importlib.import_module(f"skood.{name}")
    else:
        module = importlib.import_module(home)
        assert getattr(skood, name) is getattr(module, name)
        assert name in module.__all__


@pytest.mark.parametrize("package", PACKAGES)
def test_a_package_is_reached_from_the_top(package):
    exported = importlib.import_module(f"skood.{package}").__all__
    assert len(exported) == len(set(exported))
    assert package.startswith("_") or package in skood.__all__


def test_importing_the_package_does_not_import_torch():
    code = "import sys, skood; assert 'torch' not in sys.modules; skood.PixelCNN; dir(skood)"
    subprocess.run([sys.executable, "-c", code], check=True)


def test_unknown_name():
    with pytest.raises(AttributeError, match="no attribute 'Pixelcnn'"):
        skood.Pixelcnn  # noqa: B018


def test_torchvision_imports_beside_this_torch():
    import torchvision

    assert torchvision.datasets.FashionMNIST.__name__ == "FashionMNIST"


def test_type_checkers_see_every_parameter(tmp_path):
    """Those that a class declares and those that it inherits."""
    api = pytest.importorskip("mypy.api")
    code = """
from skood import VMDLS, PixelCNN
PixelCNN(n_filters=3, max_epochs=2, random_state=0)
VMDLS(margin=2.0, memory=None, contamination=0.1)
reveal_type(PixelCNN.__init__)
reveal_type(VMDLS.__init__)
VMDLS(margin="wide")
"""
    path = tmp_path / "user.py"
    path.write_text(code)
    found, _, _ = api.run([str(path), f"--config-file={ROOT.parent / 'pyproject.toml'}"])
    assert 'Argument "margin" to "VMDLS" has incompatible type "str"' in found
    assert found.count("error:") == 1
    for cls in skood.PixelCNN, skood.VMDLS:
        (shown,) = (line for line in found.splitlines() if f".{cls.__name__}," in line)
        assert all(f" {name}: " in shown for name in cls._get_param_names())
