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
DOOR = {"_data", "_checked_data", "_internal", "_labels", "_moments", "_parameters"}
ALLOWED = {
    "_caching": set(),
    "_chunks": set(),
    "_internal": set(),
    "_parameters": set(),
    "_progress": set(),
    "_labels": {"_checked_data"},
    "_methods": set(),
    "_moments": set(),
    "_channels": set(),
    "_directions": set(),
    "_docs_link": set(),
    "_given": set(),
    "_checked_data": {"_given"},
    "_streams": {"_channels", "_checked_data"},
    "_data": {"_channels", "_checked_data", "_given", "_streams"},
    "_torch": {"_torch", *DOOR},
    "_models": {"_caching", "_torch", *DOOR},
    "density": {"density", "_methods", "_models", "_torch", *DOOR},
    "classifiers": {"classifiers", "_caching", "_torch", *DOOR},
    "_detector": {"_models", "_torch", *DOOR},
    "base": {"_detector", "_frozen", "classifiers", "_torch", *DOOR},
    "_frozen": {"classifiers"},
    "_open_set": {"_detector", "_models", *DOOR},
    "likelihood": {
        "likelihood",
        "base",
        "density",
        "metrics",
        "_methods",
        "_models",
        "_torch",
        *DOOR,
    },
    "posthoc": {"posthoc", "base", "classifiers", "_models", "_open_set", "_torch", *DOOR},
    "training_time": {
        "training_time",
        "_caching",
        "base",
        "classifiers",
        "density",
        "_models",
        "_open_set",
        "_torch",
        *DOOR,
    },
    "inspection": {"inspection", "metrics", "_torch", *DOOR},
    "metrics": {"metrics"},
    "model_selection": {"model_selection", "_directions", "metrics", *DOOR},
    "datasets": {"datasets", "_models", *DOOR},
    "calibration": {
        "calibration",
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
    "_evaluate": {"_models", "_open_set", "base", "metrics", *DOOR},
}
# Public in their package, and not in skood itself.
ONLY_IN_PACKAGE = {
    "density": {"InvertibleDensity", "NeuralDensity"},
    "classifiers": {"NeuralClassifier"},
    "model_selection": {"get_ood_scorer_names"},
    "datasets": {
        "gaussian_noise",
        "make_linear_embedding",
        "make_sphere",
        "model_samples",
        "sphere_noise",
        "uniform_noise",
    },
    "inspection": {
        "BoundarySamplesDisplay",
        "DualThresholdDisplay",
        "EvaluationDisplay",
        "LatentSpaceDisplay",
        "PixelMapsDisplay",
        "PrecisionRecallCurvesDisplay",
        "RocCurvesDisplay",
        "ScoreDistributionDisplay",
        "TrainingCurvesDisplay",
    },
    "training_time": {
        "ClassGaussians",
        "class_balanced_batches",
        "class_divergence",
        "triplet_margin_loss",
    },
    "metrics": {
        "aupr_in",
        "aupr_out",
        "auroc",
        "bootstrap_interval",
        "ccr_at_fpr",
        "detection_error",
        "dual_threshold_auroc",
        "fpr_at_tpr",
        "ood_report",
        "open_set_f1",
        "oscr",
    },
}
PACKAGES = sorted(path.parent.name for path in ROOT.glob("[a-z]*/__init__.py"))
# What all of them may import; these import nothing of the package themselves.
FOR_ALL = {"_chunks", "_docs_link", "_progress"}


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


@pytest.mark.parametrize("package", PACKAGES)
def test_a_package_exports_its_public_names(package):
    exported = importlib.import_module(f"skood.{package}").__all__
    assert len(exported) == len(set(exported))
    assert set(exported) == {*skood._PUBLIC.get(package, ()), *ONLY_IN_PACKAGE.get(package, ())}


def test_every_public_name_is_listed_once_and_found():
    listed = [name for names in skood._PUBLIC.values() for name in names]
    assert sorted(listed) == sorted(set(skood.__all__) - {"__version__"})
    for part, names in skood._PUBLIC.items():
        assert part in PACKAGES or part.startswith("_")
        for name in names:
            assert getattr(skood, name).__module__.startswith(f"skood.{part}")


def test_importing_the_package_does_not_import_torch():
    code = "import sys, skood; assert 'torch' not in sys.modules; skood.PixelCNN; dir(skood)"
    subprocess.run([sys.executable, "-c", code], check=True)


def test_unknown_name():
    with pytest.raises(AttributeError, match="no attribute 'Pixelcnn'"):
        skood.Pixelcnn  # noqa: B018


def test_torchvision_imports_beside_this_torch():
    import torchvision

    assert torchvision.datasets.FashionMNIST.__name__ == "FashionMNIST"


def test_type_checkers_see_the_public_names():
    """The stub imports each name from its part, and lists what the package lists."""
    tree = ast.parse((ROOT / "__init__.pyi").read_text())
    homes = {
        alias.name: node.module
        for node in tree.body
        if isinstance(node, ast.ImportFrom)
        for alias in node.names
    }
    assert homes == {name: f"skood.{part}" for name, part in skood._HOMES.items()}
    (listed,) = (node.value for node in tree.body if isinstance(node, ast.Assign))
    assert sorted(ast.literal_eval(listed)) == sorted(skood.__all__)
