"""Memory and time of the detectors on features, on memory-mapped rows.

    python benchmarks/scale.py                  # writes benchmarks/results/scale.json
    python benchmarks/scale.py --parts curve --detectors Mahalanobis ViM
    pip install faiss-cpu hnswlib               # for the part `index`, and rows of `search`

Every measurement runs in a new process with one thread; seconds are seconds of the processor, which
other work on the machine hardly changes. Rows are drawn from ten clusters into a file of numpy,
which is opened with ``mmap_mode="r"``. "Above" is the largest anonymous
memory (RssAnon of /proc/self/status, sampled every 5 ms) in MiB minus that before the call. It
counts the arrays that a process makes, results included, and no pages of the mapped file, which
the system takes back when memory is needed. Linux only.

curve: seconds of `fit`, and of `predict` on the first tenth of the rows, by the number of rows of
    64 values in float32 and by the number of values, with the exponents: slopes of a straight line
    through the logarithms. ViM reads the rows as saved features, with a last layer of ten classes.
large: 1e7 x 64 and 1e6 x 512 rows, in float32 and float16. Mahalanobis scores all rows, KNN with
    all in its bank 192 (as many set its threshold), and the others 20 000.
imagenet: 1.28e6 x 2048 rows in float16 with labels of 1000 classes, the size of ImageNet with the
    features of a ResNet-50 (5.2 GB), and a tenth of the rows; `--rows` gives other numbers. The
    exponent is the slope. `--detectors` names some of Mahalanobis, RelativeMahalanobis, ViM, KNN
    and NNGuide. 192 rows are scored, and as many set the threshold of KNN and NNGuide.
index: KNN with approximate indices beside the exact search, 50 neighbours: seconds of `fit` with
    its threshold, and of 1000 new rows; recall of their neighbours; change of their scores relative
    to the spread of exact scores; rate of false alarms. Rows are from the ten clusters, whose noise
    fills all dimensions, or lie near a curved surface of 16 dimensions.
search: seconds of KNN for 1, 8 and 192 queries against 1e6 x 512 rows in memory and on disk, beside
    one product of the bank with a query, scikit-learn, and faiss if it is installed, in turns; the
    median over the rounds.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import threading
import warnings
from collections.abc import Callable
from contextlib import suppress
from datetime import date
from pathlib import Path
from statistics import median
from time import process_time, sleep
from typing import Any

import numpy as np

RESULTS = Path(__file__).parent / "results" / "scale.json"
MIB = 2**20
N_CLASSES = 10
IMAGENET_ROWS = [128_000, 1_280_000]


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--parts", nargs="+", default=["curve", "large", "search"])
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--detectors", nargs="+", help="some of those in this file; default: all")
    parser.add_argument("--folder", default=".", help="for files of 11 GB, which stay there")
    parser.add_argument("--task", help=argparse.SUPPRESS)
    parser.add_argument("--rows", nargs="+", type=int, help="numbers of rows of `imagenet`")
    args = parser.parse_args()
    IMAGENET_ROWS[:] = args.rows or IMAGENET_ROWS
    if args.task:
        print(json.dumps(TASKS[args.task.split()[0]](*args.task.split()[1:])))
        return
    stored = json.loads(RESULTS.read_text()) if RESULTS.exists() else {}
    from _machine import machine

    stored |= {"machine": machine(), "date": date.today().isoformat()}
    for part in args.parts:
        names = args.detectors or list(DEFAULTS.get(part, detectors()))
        measured = PARTS[part](args.folder, names, args.rounds)
        stored[part] = stored.get(part, {}) | measured
        RESULTS.write_text(json.dumps(stored, indent=2) + "\n")
    print(json.dumps(stored, indent=2))


def in_process(*task: Any) -> Any:
    """Run a task in a new process with one thread."""
    threads = dict.fromkeys(["OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"], "1")
    command = [sys.executable, __file__, "--task", " ".join(map(str, task))]
    printed = subprocess.check_output(command, text=True, env={**os.environ, **threads})
    return json.loads(printed.splitlines()[-1])


def rows_in_file(folder: str, n: int, d: int, dtype: str = "float32") -> Path:
    """Draw rows from ten clusters into a file; values are multiplied, so that clusters differ."""
    path = Path(folder) / f"{n}-{d}-{dtype}.npy"
    if not path.exists():
        rng = np.random.default_rng(0)
        centres = rng.normal(size=(N_CLASSES, d)).astype(np.float32)
        rows = np.lib.format.open_memmap(path, "w+", dtype, (n, d))
        for start in range(0, n, 50_000):
            size = min(50_000, n - start)
            classes = np.arange(start, start + size) % N_CLASSES
            noise = rng.standard_normal((size, d), dtype=np.float32)
            rows[start : start + size] = centres[classes] + noise
        rows.flush()
    return path


class Peak:
    """Largest anonymous memory inside a block, in MiB above that before the block."""

    def __enter__(self) -> Peak:
        self._before, self._largest, self._ends = anonymous(), 0.0, False
        self._thread = threading.Thread(target=self._watch)
        self._thread.start()
        return self

    def _watch(self) -> None:
        while not self._ends:
            self._largest = max(self._largest, anonymous())
            sleep(0.005)

    def __exit__(self, *exception: object) -> None:
        self._ends = True
        self._thread.join()
        self.above = round(max(self._largest, anonymous()) - self._before)


def anonymous() -> float:
    """Return the anonymous memory of this process in MiB."""
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith("RssAnon"):
            return int(line.split()[1]) / 1024
    raise OSError("/proc/self/status has no RssAnon")


def detectors() -> dict[str, Callable[[], Any]]:
    import skood
    from skood.calibration import ConformalDetector

    return {
        "Mahalanobis": skood.Mahalanobis,
        "RelativeMahalanobis": skood.RelativeMahalanobis,
        "GMM": skood.GMM,
        "NECO": skood.NECO,
        "Residual": skood.Residual,
        "ViM": skood.ViM,
        "NNGuide-sampled": lambda: skood.NNGuide(bank_fraction=0.001),
        "KNN-sampled": lambda: skood.KNN(bank_fraction=0.001),
        "KNN-mapped": skood.KNN,
        "Conformal-Mahalanobis": lambda: ConformalDetector(skood.Mahalanobis()),
        "Conformal-KNN-sampled": lambda: ConformalDetector(skood.KNN(bank_fraction=0.001)),
    }


def fit(detector: Any, X: np.ndarray) -> Any:
    """Fit a detector to rows; one on outputs gets them as features, with a last layer."""
    import skood

    if isinstance(detector, skood.posthoc.OutputsDetector):
        head = np.random.default_rng(1).normal(size=(N_CLASSES, X.shape[1])), np.zeros(N_CLASSES)
        return detector.fit_outputs(features=X, head=head)
    return detector.fit(X)


def score(detector: Any, X: np.ndarray) -> None:
    import skood

    if isinstance(detector, skood.posthoc.OutputsDetector):
        detector.score_outputs(features=X)
    else:
        detector.predict(X)


def fit_and_score(path: str, name: str, n_scored: str) -> dict[str, float]:
    """Fit a detector to the rows in a file, and score the first of them."""
    from skood import _thresholds

    warnings.simplefilter("ignore")
    X = np.load(path, mmap_mode="r")
    # The first call imports modules.
    few = np.array(X[:500], dtype=np.float32)
    score(fit(detectors()[name](), few), few)
    if name == "KNN-mapped":
        _thresholds.THRESHOLD_ROWS = 192
    detector = detectors()[name]().set_params(random_state=0)
    start = process_time()
    with Peak() as fitting:
        fit(detector, X)
    fitted = process_time()
    with Peak() as scoring:
        score(detector, X[: int(n_scored)])
    return {
        "fit seconds": round(fitted - start, 2),
        "score seconds": round(process_time() - fitted, 2),
        "fit above": fitting.above,
        "score above": scoring.above,
    }


def curve(folder: str, names: list[str], rounds: int) -> dict[str, Any]:
    sizes, widths = (100_000, 300_000, 1_000_000, 3_000_000), (64, 128, 256, 512)
    files = {d: rows_in_file(folder, sizes[-1 if d == 64 else 0], d) for d in widths}
    result: dict[str, Any] = {}
    for name in names:
        by_n = in_process("fits", files[64], name, *sizes)
        by_d = {str(d): in_process("fits", files[d], name, sizes[0])[str(sizes[0])] for d in widths}
        measured = {"n": by_n, "d": by_d}
        result[name] = {
            f"{what} seconds by {axis}": {
                **{along: values[what] for along, values in table.items()},
                "exponent": exponent({int(k): values[what] for k, values in table.items()}),
            }
            for axis, table in measured.items()
            for what in ("fit", "predict")
        }
        print(name, result[name], flush=True)
    return result


def exponent(seconds: dict[int, float]) -> float:
    """Return the slope of a line through the logarithms."""
    slope = np.polyfit(np.log(list(seconds)), np.log(list(seconds.values())), 1)[0]
    return round(float(slope), 2)


def fits(path: str, name: str, *sizes: str) -> dict[str, dict[str, float]]:
    """Return the seconds of fits to the first rows of a file, and of predictions for some."""
    X = np.load(path, mmap_mode="r")
    result = {}
    for size in ("1000", *sizes):
        n = int(size)
        start = process_time()
        fitted = fit(detectors()[name](), X[:n])
        between = process_time()
        score(fitted, X[: n // 10])
        result[size] = {"fit": between - start, "predict": process_time() - between}
    del result["1000"]
    return result


def large(folder: str, names: list[str], rounds: int) -> dict[str, Any]:
    result: dict[str, Any] = {}
    for n, d in ((10_000_000, 64), (1_000_000, 512)):
        for dtype in ("float32", "float16"):
            path = rows_in_file(folder, n, d, dtype)
            for name in names:
                n_scored = {"Mahalanobis": n, "KNN-mapped": 192}.get(name, 20_000)
                key = f"{name}, {n} x {d} {dtype}, {n_scored} rows scored"
                result[key] = in_process("fit_and_score", path, name, n_scored)
                print(key, result[key], flush=True)
    return result


def imagenet(folder: str, names: list[str], rounds: int) -> dict[str, Any]:
    path = rows_in_file(folder, 1_280_000, 2048, "float16")
    result: dict[str, Any] = {}
    for name in names:
        measured = {n: in_process("imagenet_rows", path, name, n) for n in IMAGENET_ROWS}
        by_n = {str(n): values for n, values in measured.items()}
        result[name] = by_n
        if len(measured) > 1:
            slope = exponent({n: values["fit seconds"] for n, values in measured.items()})
            result[name] |= {"exponent of fit": slope}
        print(name, result[name], flush=True)
    return result


def imagenet_rows(path: str, name: str, n_rows: str) -> dict[str, float]:
    """Fit a detector to the first rows of a file with labels or a last layer of 1000 classes."""
    import skood
    from skood import _thresholds

    X, n = np.load(path, mmap_mode="r")[: int(n_rows)], int(n_rows)
    y = np.arange(n) % 1000
    rng = np.random.default_rng(1)
    head = rng.normal(size=(1000, X.shape[1])) / X.shape[1] ** 0.5, np.zeros(1000)
    few = np.array(X[:2000], dtype=np.float32)
    on_outputs = name in ("ViM", "NNGuide")

    def fitted(rows: np.ndarray) -> Any:
        detector = getattr(skood, name)(random_state=0)
        if on_outputs:
            return detector.fit_outputs(features=rows, head=head)
        return detector.fit(rows, y[: len(rows)])

    def scored(detector: Any, rows: np.ndarray) -> Any:
        return detector.score_outputs(features=rows) if on_outputs else detector.predict(rows)

    scored(fitted(few), few[:192])
    if name in ("KNN", "NNGuide"):
        _thresholds.THRESHOLD_ROWS = 192
    start = process_time()
    with Peak() as fitting:
        detector = fitted(X)
    between = process_time()
    with Peak() as scoring:
        scored(detector, X[:192])
    return {
        "fit seconds": round(between - start, 1),
        "score seconds": round(process_time() - between, 2),
        "fit above": fitting.above,
        "score above": scoring.above,
    }


def index(folder: str, names: list[str], rounds: int) -> dict[str, Any]:
    result: dict[str, Any] = {}
    for n, d in ((100_000, 128),):
        for structure in ("clusters", "surface"):
            key = f"{structure}, {n} x {d}"
            result[key] = in_process("indexed_search", n, d, structure)
            print(key, result[key], flush=True)
    return result


def indexed_search(n: str, d: str, structure: str) -> dict[str, Any]:
    import skood

    n_new = 1000
    rng, size = np.random.default_rng(0), (int(n) + n_new, int(d))
    if structure == "clusters":
        rows = rng.normal(size=(N_CLASSES, size[1])).astype(np.float32)[np.arange(size[0]) % 10]
        rows += rng.standard_normal(size, dtype=np.float32)
    else:
        rows = rng.standard_normal((size[0], 16), dtype=np.float32)
        rows = np.tanh(rows @ rng.standard_normal((16, size[1]), dtype=np.float32) / 4)
        rows += 0.05 * rng.standard_normal(size, dtype=np.float32)
    X, new = rows[:-n_new], rows[-n_new:]
    result: dict[str, Any] = {}
    exact: Any = None
    for kind in (None, "faiss", "hnsw"):
        start = process_time()
        detector = skood.KNN(index=kind, random_state=0).fit(X)
        fitted = process_time()
        scores = detector.score_samples(new)
        ended = process_time()
        found = detector.explain(new).indices
        exact = exact or (scores, found)
        spread = exact[0].std()
        same = [len(np.intersect1d(*pair)) for pair in zip(found, exact[1], strict=True)]
        result[kind or "exact"] = {
            "fit seconds": round(fitted - start, 2),
            "score milliseconds a row": round((ended - fitted) / n_new * 1e3, 3),
            "recall": round(float(np.mean(same)) / found.shape[1], 4),
            "change of the score": round(float(np.abs(scores - exact[0]).mean() / spread), 4),
            "false alarms": round(float(np.mean(scores < detector.offset_)), 3),
        }
    return result


def search(folder: str, names: list[str], rounds: int) -> dict[str, Any]:
    return in_process("exact_search", rows_in_file(folder, 1_000_000, 512), rounds)


def fitted_knn(X: np.ndarray, k: int = 50) -> Any:
    """Fit KNN; the threshold, which these measurements do not need, is set on 50 rows."""
    import skood
    from skood import _thresholds

    _thresholds.THRESHOLD_ROWS = 50
    return skood.KNN(n_neighbors=k, random_state=0).fit(X)


def exact_search(path: str, rounds: str) -> dict[str, Any]:
    import torch
    from sklearn.neighbors import NearestNeighbors

    mapped = np.load(path, mmap_mode="r")
    bank = np.array(mapped)
    knn, other = fitted_knn(bank), NearestNeighbors(n_neighbors=50, algorithm="brute").fit(bank)
    on_disk = fitted_knn(mapped)
    on_disk.predict(bank[:1])
    rng = np.random.default_rng(2)
    tensor = torch.from_numpy(bank)
    faiss_index = None
    with suppress(ImportError):
        import faiss

        faiss.omp_set_num_threads(1)
        faiss_index = faiss.IndexFlatL2(bank.shape[1])
        faiss_index.add(bank)
    result: dict[str, Any] = {}
    for n in (1, 8, 192):
        queries = rng.standard_normal((n, bank.shape[1]), dtype=np.float32)
        torch_queries = torch.from_numpy(queries)
        variants: dict[str, Callable[[], object]] = {
            "product with one query, numpy": lambda q=queries: bank @ q[0],
            "product with one query, torch": lambda q=torch_queries: torch.mv(tensor, q[0]),
            "KNN": lambda q=queries: knn.score_samples(q),
            "KNN, memory-mapped": lambda q=queries: on_disk.score_samples(q),
        }
        if n <= 8:
            variants["scikit-learn"] = lambda q=queries: other.kneighbors(q)
        if faiss_index is not None:
            variants["faiss"] = lambda q=queries: faiss_index.search(q, 50)
        result[f"{n} queries"] = in_turns(variants, int(rounds) if n <= 8 else 1)
        print(n, result[f"{n} queries"], flush=True)
    return result


def in_turns(variants: dict[str, Callable[[], object]], rounds: int) -> dict[str, float]:
    """Return the median seconds of each variant over the rounds, after one to warm up."""
    seconds: dict[str, list[float]] = {name: [] for name in variants}
    for turn in range(rounds + (rounds > 1)):
        for name, variant in variants.items():
            start = process_time()
            variant()
            if turn or rounds == 1:
                seconds[name].append(process_time() - start)
    return {name: round(median(values), 4) for name, values in seconds.items()}


PARTS = {"curve": curve, "large": large, "imagenet": imagenet, "index": index, "search": search}
DEFAULTS = {"imagenet": ("Mahalanobis", "RelativeMahalanobis", "ViM", "KNN", "NNGuide")}
TASKS = {
    "fit_and_score": fit_and_score,
    "fits": fits,
    "imagenet_rows": imagenet_rows,
    "indexed_search": indexed_search,
    "exact_search": exact_search,
}


if __name__ == "__main__":
    main()
