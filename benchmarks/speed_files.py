"""Time and memory of `skood.save`, `load` and `inspect_file` for a detector of 500 MB.

The detector is KNN with a bank of float32 rows. For comparison: the time to write and sync, read
and hash as many bytes, and the same with joblib. Peak memory is the increase of the resident set,
each step in a process of its own::

    OMP_NUM_THREADS=1 python benchmarks/speed_files.py
"""

from __future__ import annotations

import argparse
import hashlib
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import joblib
import numpy as np

import skood


def peak():
    """Return the largest resident set so far, in MB."""
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith("VmHWM"):
            return int(line.split()[1]) / 1e3
    raise OSError("the system does not state the peak memory")


def detector(megabytes):
    """Return a KNN whose bank takes this memory, without the cost of fitting it."""
    rng = np.random.default_rng(0)
    fitted = skood.KNN(n_neighbors=3).fit(rng.normal(size=(100, 250)).astype(np.float32))
    (name,) = (k for k, v in vars(fitted).items() if getattr(v, "shape", None) == (100, 250))
    setattr(fitted, name, rng.random((megabytes * 1000, 250), dtype=np.float32))
    return fitted


def step(name, folder, megabytes):
    path = folder / "detector.skood"
    # Imports and caches.
    skood.save(skood.KNN(), folder / "small")
    skood.load(folder / "small")
    given = detector(megabytes) if name in ("save", "joblib.dump") else None
    content = np.ones(megabytes * 10**6, np.uint8) if name in ("write", "sha256") else None
    before, start = peak(), time.perf_counter()
    if name == "save":
        skood.save(given, path)
    elif name == "load":
        skood.load(path)
    elif name == "inspect_file":
        skood.inspect_file(path)
    elif name == "joblib.dump":
        joblib.dump(given, folder / "joblib")
    elif name == "joblib.load":
        joblib.load(folder / "joblib")
    elif name == "write":
        with (folder / "raw").open("wb") as file:
            file.write(content.data)
            file.flush()
            os.fsync(file.fileno())
    elif name == "read":
        (folder / "raw").read_bytes()
    elif name == "sha256":
        hashlib.sha256(content).hexdigest()
    print(f"{name:>14} {time.perf_counter() - start:6.2f} s {peak() - before:7.0f} MB", flush=True)


STEPS = "write", "read", "sha256", "save", "load", "inspect_file", "joblib.dump", "joblib.load"


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--megabytes", type=int, default=500)
    parser.add_argument("--step", choices=STEPS, help="for the processes that this one starts")
    parser.add_argument("--folder", type=Path)
    options = parser.parse_args()
    if options.step:
        step(options.step, options.folder, options.megabytes)
        return
    with tempfile.TemporaryDirectory() as folder:
        for name in STEPS:
            arguments = ["--step", name, "--folder", folder, "--megabytes", options.megabytes]
            subprocess.run([sys.executable, __file__, *map(str, arguments)], check=True)


if __name__ == "__main__":
    main()
