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
    *("_data", "_checked_data", "_internal", "_labels", "_lazy_rows", "_moments", "_outliers"),
    "_parameters",
}
ALLOWED = {
    "_caching": set(),
    "_catalogue": set(),
    "_chunks": set(),
    "_internal": set(),
    "_parameters": set(),
    "_progress": set(),
    "_labels": set(),
    "_methods": set(),
    "_moments": set(),
    "_channels": set(),
    "_deprecation": set(),
    "_directions": set(),
    "_docs_link": set(),
    "_printing": set(),
    "_given": set(),
    "_readers": set(),
    "_lazy_rows": set(),
    "_memory_layout": set(),
    "_checked_data": {"_given", "_internal", "_lazy_rows", "_readers"},
    "_arrays": {"_checked_data", "_given"},
    "_optional": set(),
    "_safe_files": set(),
    "_show_versions": {"_torch"},
    "_table": set(),
    "_streams": {"_channels", "_checked_data", "_readers"},
    "_fields": {"_checked_data", "_readers", "_streams"},
    "_outliers": {"_checked_data", "_labels"},
    "_unread_data": {"_checked_data", "_given", "_readers"},
    "_symbols": {"_checked_data", "_readers", "_unread_data"},
    "_data": {
        *("_arrays", "_channels", "_checked_data", "_fields", "_given", "_streams"),
        "_unread_data",
    },
    "_torch": {"_torch", *DOOR},
    "_models": {"_caching", "_torch", "_unread_data", *DOOR},
    "density": {"density", "_given", "_methods", "_models", "_symbols", "_torch", *DOOR},
    "classifiers": {"classifiers", "_arrays", "_caching", "_torch", *DOOR},
    "embeddings": {
        *("embeddings", "_caching", "_fields", "_given", "_streams", "_torch", "classifiers"),
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
        "_methods",
        "_models",
        "_symbols",
        "_thresholds",
        "_torch",
        "_unread_data",
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
    "metrics": {"metrics", "_labels"},
    "model_selection": {"model_selection", "_directions", "explanation", "metrics", *DOOR},
    "datasets": {"datasets", "_models", *DOOR},
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
        *("_files", "_lazy_rows", "_moments", "_safe_files", "_torch", "classifiers", "density"),
        *("likelihood", "posthoc", "training_time"),
    },
    "evaluation": {"evaluation", "_models", "_open_set", "datasets", "metrics", *DOOR},
    "_recommendation": {
        *("_recommendation", "_models", "_torch", "_unread_data", "base", "calibration"),
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
    *("_chunks", "_deprecation", "_docs_link", "_memory_layout", "_optional", "_printing"),
    *("_progress", "_safe_files", "_table"),
}


def part_of(path):
    return path.relative_to(ROOT).parts[0].removesuffix(".py")


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
    own = {name.split(".")[1] for name in imported if name.startswith("skood.")}
    assert own <= ALLOWED[part_of(path)] | FOR_ALL
    if part_of(path) == "metrics":
        others = {name.split(".")[0] for name in imported} - sys.stdlib_module_names
        assert others <= {"numpy", "sklearn", "skood"}
    if path.name != "_parameters.py":
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
