"""Files of one environment, loaded in another: compares scores.

Run in the root of the repository with the interpreters of two environments, for example those of
the oldest and the newest pins:

    PYTHONPATH=tests python -m _files.across_versions PYTHON OTHER_PYTHON

Each writes a file of every family of this package and of every known class of scikit-learn, and
the other one loads them. Scores have to agree to a relative 1e-5 of the largest.
"""

import argparse
import os
import subprocess
import sys
import tempfile
import warnings
from pathlib import Path

import numpy as np
from _files import families, sklearn_examples

import skood

TOLERANCE = 1e-5


def examples():
    """Yield a name, a fitted estimator, its data, and a function of both, one by one."""
    for name, (estimator, X) in families.stored().items():
        yield name, families.fitted(estimator, X), X, _scores
    for name in sklearn_examples.names():
        yield name, *sklearn_examples.fitted(name), sklearn_examples.results


def _scores(estimator, X):
    return {"scores": families.scores(estimator, X)}


def write(folder):
    """Write a file, and what its estimator computes, for every example."""
    for name, estimator, X, function in examples():
        skood.save(estimator, folder / name)
        np.savez(folder / f"{name}.npz", **_without_objects(function(estimator, X)))


def _without_objects(results):
    return {k: v.astype(str) if v.dtype == object else v for k, v in results.items()}


def read(folder):
    """Load the files, and return the largest relative error and the failures, by name."""
    errors, failures = {}, {}
    for name, (X, function) in _data().items():
        expected = dict(np.load(folder / f"{name}.npz"))
        try:
            results = _without_objects(function(skood.load(folder / name), X))
        except Exception as error:
            failures[name] = f"{type(error).__name__}: {error}"
            continue
        errors[name] = max(difference(results[k], values) for k, values in expected.items())
    return errors, failures


def _data():
    made = {name: (X, _scores) for name, (_, X) in families.stored().items()}
    for name in sklearn_examples.names():
        made[name] = sklearn_examples.data(name), sklearn_examples.results
    return made


def difference(values, expected):
    """Return the largest difference relative to the largest expected value."""
    if values.shape != expected.shape:
        return np.inf
    if expected.dtype.kind not in "fiub":
        return 0.0 if (values == expected).all() else np.inf
    if not np.array_equal(np.isfinite(values), np.isfinite(expected)):
        return np.inf
    values, expected = (np.where(np.isfinite(v), v, 0).astype(float) for v in (values, expected))
    return float(np.abs(values - expected).max(initial=0) / max(np.abs(expected).max(), 1e-300))


def _main(pythons):
    settings = {**os.environ, "OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""}
    is_wrong = False
    with tempfile.TemporaryDirectory() as root:
        for k, python in enumerate(pythons):
            folder = Path(root, str(k))
            folder.mkdir()
            command = ["-m", "_files.across_versions", "--folder", str(folder)]
            subprocess.run([python, *command, "--write"], check=True, env=settings)
            other = pythons[1 - k]
            result = subprocess.run([other, *command], check=False, env=settings)
            is_wrong |= result.returncode != 0
    return int(is_wrong)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("pythons", nargs="*", metavar="PYTHON", help="two interpreters")
    parser.add_argument("--folder", type=Path)
    parser.add_argument("--write", action="store_true")
    given = parser.parse_args()
    warnings.simplefilter("ignore")
    if given.folder is None:
        if len(given.pythons) != 2:
            parser.error("give two interpreters")
        sys.exit(_main(given.pythons))
    if given.write:
        write(given.folder)
        sys.exit()
    found, failed = read(given.folder)
    largest = sorted(found, key=found.get, reverse=True)
    print(f"{sys.executable}: {len(found)} files loaded, {len(failed)} failed")
    print("largest differences:", {name: float(f"{found[name]:.1e}") for name in largest[:5]})
    for name, reason in failed.items():
        print(f"  {name}: {reason}")
    sys.exit(int(bool(failed) or found[largest[0]] > TOLERANCE))
