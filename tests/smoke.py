"""What a stranger's first minute touches, run by the Python that has only the wheel installed.

    cd EMPTY_FOLDER && WHEEL_PYTHON .../tests/smoke.py DIST.whl

The environment must be bare, so that a dependency that is missing from the wheel is found, and the
folder must be another than the repository's, so that the wheel is what is imported.
"""

from __future__ import annotations

import importlib.metadata
import importlib.util
import sys
import tempfile
import zipfile
from pathlib import Path

import numpy as np
import torch

import skood

LARGEST = 2_000_000  # bytes
OPTIONAL = ("faiss", "hnswlib", "matplotlib", "onnx", "pandas", "timm", "transformers")


def main(wheel: Path) -> None:
    contents(wheel)
    bare()
    names()
    rows = np.random.default_rng(0).normal(size=(600, 4))
    far = rows[:50] + 9
    for check in (a_table, a_density):
        check(rows, far)
    a_network()
    files(rows, far)
    tables()
    missing_package()
    skood.show_versions()
    print(f"{wheel.name}: {wheel.stat().st_size / 1e6:.2f} MB, every check passed")


def contents(wheel: Path) -> None:
    """The wheel is small and holds the package and nothing else."""
    assert wheel.stat().st_size < LARGEST, f"{wheel.name} has {wheel.stat().st_size} bytes"
    files = zipfile.ZipFile(wheel).namelist()
    tops = {name.split("/")[0] for name in files}
    assert tops == {"skood", f"skood-{skood.__version__}.dist-info"}, tops
    assert {"skood/py.typed", "skood/__init__.pyi"} <= set(files)
    for name in ("LICENSE", "THIRD_PARTY_NOTICES.md"):
        assert f"skood-{skood.__version__}.dist-info/licenses/{name}" in files, name


def bare() -> None:
    """Only the wheel and what it requires are installed."""
    found = [name for name in OPTIONAL if importlib.util.find_spec(name)]
    assert not found, f"the environment is not bare, it has {found}"
    package = Path(skood.__file__).resolve()
    assert "site-packages" in package.parts, f"{package} is not the installed wheel"
    assert importlib.metadata.version("skood") == skood.__version__


def names() -> None:
    """Every public name is imported without an optional package."""
    for name in skood.__all__:
        getattr(skood, name)


def a_table(rows: np.ndarray, far: np.ndarray) -> None:
    detector = skood.ConformalDetector(skood.KNN(), random_state=0).fit(rows)
    assert (detector.predict(far) == -1).all()
    assert (detector.p_values(far) < 0.05).all()


def a_density(rows: np.ndarray, far: np.ndarray) -> None:
    density = skood.NeuralSplineFlow(max_epochs=3, random_state=0)
    detector = skood.LogLikelihood(density).fit(rows)
    assert detector.score_samples(rows).mean() > detector.score_samples(far).mean()


def a_network() -> None:
    torch.manual_seed(0)
    network = torch.nn.Sequential(
        torch.nn.Conv2d(3, 8, 3), torch.nn.ReLU(), torch.nn.Flatten(), torch.nn.Linear(288, 5)
    )
    images = np.random.default_rng(0).integers(0, 256, size=(40, 3, 8, 8), dtype=np.uint8)
    scores = skood.Energy(network).fit(images).score_samples(images)
    with torch.no_grad():
        logits = network(torch.from_numpy(images).float() / 255)
    np.testing.assert_allclose(scores, torch.logsumexp(logits, 1).numpy(), rtol=1e-5)


def files(rows: np.ndarray, far: np.ndarray) -> None:
    detector = skood.GMM().fit(rows)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "detector.skood"
        skood.save(detector, path)
        loaded = skood.load(path)
    np.testing.assert_array_equal(loaded.score_samples(far), detector.score_samples(far))


def tables() -> None:
    """The published figures are part of the package."""
    from skood.datasets import load_published

    assert len(load_published("openood_v1.5"))


def missing_package() -> None:
    """The error names the package and the command that installs it."""
    try:
        skood.inspection.RocCurvesDisplay.from_predictions({"id": [2.0, 3.0], "ood": [1.0]})
    except ImportError as error:
        assert str(error).endswith("pip install matplotlib"), error
    else:
        raise AssertionError("a display was drawn without matplotlib")


if __name__ == "__main__":
    main(Path(sys.argv[1]).resolve())
