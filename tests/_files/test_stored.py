"""Files that earlier versions wrote."""

import gzip
import json

import numpy as np
import pytest
from _files import families, make_stored
from estimators import ESTIMATORS
from sklearn.base import BaseEstimator

import skood

EXPECTED = json.loads(make_stored.EXPECTED.read_text())
STORED = [name for name in EXPECTED if not name.startswith("large_")]
# Classes of the user's networks, classes whose smallest network is too large for a file, and a
# class without scores (tests/calibration/test_drift_monitor.py).
_ELSEWHERE = {
    "DriftMonitor",
    *("BoundarySampler", "CausalLanguageModel", "FeatureExtractor", "PretrainedClassifier"),
    *("Airbench", "ResNet", "VGG", "WideResNet"),
}


def assert_close(values, expected, message):
    """Compare with the largest finite value."""
    values, expected = np.asarray(values), np.asarray(expected)
    largest = np.abs(expected[np.isfinite(expected)]).max()
    np.testing.assert_allclose(values, expected, rtol=0, atol=1e-5 * largest, err_msg=message)


@pytest.fixture(scope="module")
def inputs():
    return dict(np.load(make_stored.DATA / "inputs.npz"))


@pytest.mark.parametrize("name", STORED)
def test_stored_file_loads_with_its_scores(name, inputs, tmp_path):
    expected = EXPECTED[name]
    (tmp_path / "file").write_bytes(gzip.decompress((make_stored.DATA / f"{name}.gz").read_bytes()))
    estimator = skood.load(tmp_path / "file")
    X = inputs[expected["inputs"]]
    values = getattr(estimator, expected["method"])(X)
    assert_close(values, expected["results"], name)
    again = saved_and_loaded(estimator, tmp_path / "again")
    np.testing.assert_array_equal(getattr(again, expected["method"])(X), values)


def saved_and_loaded(estimator, path):
    skood.save(estimator, path)
    return skood.load(path)


@pytest.mark.parametrize("name", families.large_classifiers())
def test_networks_that_are_too_large_for_a_stored_file(name):
    made = make_stored.fingerprint(*families.large_classifiers()[name])
    expected = EXPECTED[f"large_{name}"]
    assert made["sha256"] == expected["sha256"], "the names or shapes of tensors have changed"
    assert_close(made["results"], expected["results"], name)


def test_every_family_has_a_stored_file():
    assert set(families.stored()) <= set(STORED)
    assert {path.stem for path in make_stored.DATA.glob("*.gz")} == set(STORED)
    public = {
        name
        for name in skood.__all__
        if isinstance(cls := getattr(skood, name), type) and issubclass(cls, BaseEstimator)
    }
    classes = {type(estimator).__name__ for estimator, _ in families.stored().values()}
    assert public - classes == _ELSEWHERE


def others():
    """Return the names of detectors on images, and of classes that `ESTIMATORS` does not have."""
    tested = {type(estimator) for estimator in ESTIMATORS}
    return [
        name
        for name, (detector, X) in families.detectors().items()
        if type(detector) not in tested or X.ndim == 4
    ]


@pytest.mark.parametrize("name", others())
def test_results_after_loading_have_the_same_bits(name, tmp_path):
    detector, X = families.detectors()[name]
    detector = families.fitted(detector, X)
    before = families.scores(detector, X)
    again = saved_and_loaded(detector, tmp_path / "file")
    np.testing.assert_array_equal(families.scores(again, X), before)
    assert repr(again) == repr(detector)
    for method in ("predict", "predict_class", "predict_proba", "p_values"):
        if hasattr(detector, method):
            np.testing.assert_array_equal(
                getattr(again, method)(X[::6]), getattr(detector, method)(X[::6])
            )
