"""A short run of `benchmarks/fuzz_files.py`, without its watch over the whole process."""

import importlib.util
import json
import random
from pathlib import Path

import numpy as np
import pytest

import skood
from skood._files import _container


@pytest.fixture(scope="module")
def fuzz():
    path = Path(__file__).parents[2] / "benchmarks" / "fuzz_files.py"
    spec = importlib.util.spec_from_file_location("fuzz_files", path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def valid_file(detector, X, path):
    skood.save(detector.fit(X, (X[:, 0] > 0).astype(int)), path)
    contents = _container.read(path)
    return path.read_bytes(), json.loads(contents.metadata["tree"]), contents, X[:5]


@pytest.mark.filterwarnings("ignore")
def test_changed_files_load_or_give_one_error(fuzz, tmp_path):
    X = np.random.default_rng(0).normal(size=(60, 4))
    mlp = skood.MLP((4,), max_steps=2, random_state=0)
    detectors = skood.KNN(mlp), skood.Mahalanobis(), skood.ConformalDetector(skood.MSP(mlp))
    path = tmp_path / "file.skood"
    valid = [valid_file(detector, X, path) for detector in detectors]
    draw = fuzz.Draw(random.Random(0).randrange)
    outcomes = set()
    for _ in range(150):
        _, was_damaged = fuzz.hostile_file(valid, draw, path)
        try:
            skood.load(path)
        except ValueError as error:
            assert str(error).startswith(f"{path} cannot be loaded: ")
            assert not isinstance(error.__cause__, MemoryError)
            outcomes.add("refused")
        else:
            assert not was_damaged
            outcomes.add("loaded")
    assert outcomes == {"refused", "loaded"}
