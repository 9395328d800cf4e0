"""Writes the stored files of tests/_files/data, which every later version has to load.

In the root of the repository:

    PYTHONPATH=tests python -m _files.make_stored

A stored file is never written again. For a new family, add it to `families.py` and run the script,
which writes the files that are missing, and adds their scores to ``expected.json``.
"""

import gzip
import hashlib
import json
import warnings
from pathlib import Path

import numpy as np
import torch
from _files import families

import skood
from skood._files._networks import restored_network
from skood._torch.packing import tensors_of

DATA = Path(__file__).parent / "data"
EXPECTED = DATA / "expected.json"
INPUTS = {
    "rows": families.ROWS,
    "columns": families.COLUMNS,
    "floats": families.FLOATS,
    "images": families.IMAGES,
    "symbols": families.SYMBOLS,
}


def write_missing():
    """Write the files that are missing, and return the expected results of all."""
    DATA.mkdir(exist_ok=True)
    expected = json.loads(EXPECTED.read_text()) if EXPECTED.exists() else {}
    path = DATA / "inputs.npz"
    known = dict(np.load(path)) if path.exists() else {}
    if not known.keys() >= INPUTS.keys():
        np.savez_compressed(path, **{**{k: X[::6] for k, X in INPUTS.items()}, **known})
    for name, (estimator, X) in families.stored().items():
        if name in expected:
            continue
        estimator = families.fitted(estimator, X)
        path = DATA / name
        skood.save(estimator, path)
        again = skood.load(path)
        method, scores = families.method_and_scores(again, X[::6])
        np.testing.assert_array_equal(families.method_and_scores(estimator, X[::6])[1], scores)
        path.with_suffix(".gz").write_bytes(gzip.compress(path.read_bytes(), 9, mtime=0))
        path.unlink()
        inputs = next(key for key, array in INPUTS.items() if array is X)
        expected[name] = {"inputs": inputs, "method": method, "results": scores.tolist()}
    for name, (estimator, X) in families.large_classifiers().items():
        expected.setdefault(f"large_{name}", fingerprint(estimator, X))
    return expected


def fingerprint(estimator, X):
    """Return a hash of the names and shapes of a network's tensors, and what it computes of them.

    The values of the tensors follow a formula, since a file of them would be too large.
    """
    estimator._open(X, reset=True)
    estimator._preprocessing.learn_moments(estimator._open(X, reset=False))
    with torch.device("meta"):
        estimator.module_ = estimator._make_network(X.shape[1:], 3)
    forms = {k: (list(v.shape), str(v.dtype)) for k, v in tensors_of(estimator.module_).items()}
    record = {"n_outputs": 3, "tensors": {}}
    for number, (name, (shape, dtype)) in enumerate(forms.items()):
        kind = getattr(torch, dtype.removeprefix("torch."))
        waves = torch.arange(int(np.prod(shape)), dtype=torch.float64).add(number).sin()
        fan_in = max(1, int(np.prod(shape[1:])))
        values = waves * (2 / fan_in) ** 0.5 if len(shape) > 1 else 1 + waves / 4
        record["tensors"][name] = values.reshape(shape).to(kind)
    estimator.classes_ = np.arange(3)
    estimator.module_ = restored_network(estimator, record)
    return {
        "sha256": hashlib.sha256(json.dumps(forms).encode()).hexdigest(),
        "results": estimator.decision_function(X[:2]).tolist(),
    }


if __name__ == "__main__":
    warnings.simplefilter("ignore")
    torch.set_num_threads(1)
    made = write_missing()
    lines = [f"{json.dumps(name)}: {json.dumps(made[name])}" for name in made]
    EXPECTED.write_text("{\n" + ",\n".join(lines) + "\n}\n")
    sizes = [path.stat().st_size for path in DATA.iterdir()]
    print(f"{len(sizes)} files, {sum(sizes):,} bytes, the largest {max(sizes):,}")
