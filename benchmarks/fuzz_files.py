"""Damaged and hostile files of `skood.save`: loading gives an estimator or one error.

Every run changes a valid file, in its bytes or in its JSON tree and arrays with a correct checksum,
and loads it. A finding is any error other than ValueError, an audit event that loading must not
cause (code that runs, an import, another file that is opened, a process, a socket), a lack of
memory, or a run of more than 20 seconds. What loads is scored, too, which must not crash the
process. The input of a finding is kept in the folder::

    python benchmarks/fuzz_files.py --minutes 30
    python benchmarks/fuzz_files.py --minutes 30 --engine atheris   # follows coverage
    python benchmarks/fuzz_files.py --repeat findings/1234.skood
"""

from __future__ import annotations

import argparse
import collections
import contextlib
import copy
import faulthandler
import importlib
import json
import random
import resource
import signal
import sys
import tempfile
import time
import traceback
import warnings
from pathlib import Path

import numpy as np

SECONDS = 20
MEMORY = 2 << 30
FORBIDDEN = (
    *("exec", "compile", "import", "open", "os.", "subprocess.", "socket.", "pickle.", "shutil."),
    *(
        "ctypes.",
        "marshal.",
        "code.",
        "function.",
        "tempfile.",
        "sys.set",
        "urllib.",
        "webbrowser.",
    ),
)
SCALARS = [
    *(None, True, False, 0, 1, -1, 2, 3, 100, 2**31, 2**63 - 1, -(2**63), 10**20, 0.5, -1.5, 1e308),
    *("", "x", "__class__", "__init__", "memory", "device", "cuda", "numpy.load", [], {}),
]


class Draw:
    """Random choices."""

    def __init__(self, integer):
        self.integer = integer

    def choice(self, values):
        return values[self.integer(len(values))]


def corpus(folder):
    """Write small valid files; return their contents and data to score."""
    import torch
    from sklearn.decomposition import PCA
    from sklearn.ensemble import IsolationForest, RandomForestClassifier
    from sklearn.frozen import FrozenEstimator
    from sklearn.mixture import GaussianMixture
    from sklearn.neighbors import KernelDensity
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler
    from sklearn.svm import OneClassSVM

    import skood
    from skood._files import _container

    rng = np.random.default_rng(0)
    X = rng.normal(size=(60, 4))
    y = (X[:, 0] > 0).astype(int)
    images = rng.integers(0, 4, size=(20, 1, 4, 4)).astype(float) / 3
    mlp = skood.MLP((8,), max_steps=2, random_state=0)
    flow = skood.NeuralSplineFlow(1, 4, (6,), max_steps=2, random_state=0)
    vae = skood.VAE(2, hidden_features=(6,), max_steps=2, n_importance_samples=4, random_state=0)
    cnn = skood.PixelCNN(n_filters=4, n_resnet=1, n_levels=4, max_steps=2, random_state=0)
    module = torch.nn.Sequential(torch.nn.Linear(4, 6), torch.nn.ReLU(), torch.nn.Linear(6, 2))
    pipeline = make_pipeline(StandardScaler(), PCA(2), GaussianMixture(2))
    rows = [
        skood.Mahalanobis(),
        skood.KNN(mlp, n_neighbors=3),
        skood.ConformalDetector(skood.ReAct(FrozenEstimator(mlp.fit(X, y)))),
        skood.LogLikelihood(flow),
        skood.LogLikelihood(pipeline),
        skood.LogLikelihood(KernelDensity()),
        skood.Typicality(vae),
        skood.ExternalDetector(IsolationForest(n_estimators=5, random_state=0)),
        skood.ExternalDetector(OneClassSVM()),
        skood.MSP(RandomForestClassifier(3, random_state=0)),
        skood.MSP(module),
        skood.VMDLS(mlp, 2),
        skood.EnsembleDetector([("a", skood.KNN(n_neighbors=2)), ("b", skood.GMM())]),
    ]
    made = []
    for estimator, data, labels in [*((e, X, y) for e in rows), (cnn, images, None)]:
        path = folder / "valid.skood"
        skood.save(estimator.fit(data, labels), path)
        contents = _container.read(path)
        # Twice, so that every lazy import and cache is in place.
        skood.load(path).score_samples(data[:5])
        skood.load(path).score_samples(data[:5])
        tree = json.loads(contents.metadata["tree"])
        made.append((path.read_bytes(), tree, contents, data[:5]))
    return made


def slots(tree):
    """Return every place of a JSON tree as (container, key)."""
    found, left = [], [tree]
    while left:
        node = left.pop()
        pairs = node.items() if isinstance(node, dict) else enumerate(node)
        for key, value in pairs:
            found.append((node, key))
            if isinstance(value, (dict, list)):
                left.append(value)
    return found


def change_tree(tree, trees, draw):
    places = slots(tree)
    if not places:
        return
    container, key = draw.choice(places)
    kind = draw.integer(9)
    if kind == 0:
        container[key] = copy.deepcopy(draw.choice(SCALARS))
    elif kind == 1:
        other, name = draw.choice(slots(draw.choice(trees)))
        container[key] = copy.deepcopy(other[name])
    elif kind == 2:
        del container[key]
    elif kind == 3:
        copies = [copy.deepcopy(container[key]) for _ in range(1 + draw.integer(5))]
        container[key] = {"is": draw.choice(["list", "tuple", "set"]), "items": copies}
    elif kind == 4 and isinstance(container[key], list):
        container[key] *= 1 + draw.integer(50)
    elif kind == 5:
        strings = [other[name] for other, name in places if isinstance(other[name], str)]
        container[key] = draw.choice(strings or ["x"])
    elif kind == 6 and isinstance(container, dict):
        _, name = draw.choice(slots(draw.choice(trees)))
        container[name if isinstance(name, str) else "x"] = container.pop(key)
    elif kind == 7 and type(container[key]) in (int, float):
        container[key] = draw.choice([container[key] + 1, container[key] - 1, -container[key], 1e9])
    else:
        node = {"is": "same", "as": draw.integer(4)}
        container[key] = draw.choice([node, {"is": "list", "items": [node], "id": 0}])


def change_arrays(arrays, draw):
    name = draw.choice(sorted(arrays))
    array = arrays[name]
    data, shape = array.data.copy(), list(array.shape)
    kind = draw.integer(6)
    if kind == 0 and data.size:
        for _ in range(1 + draw.integer(8)):
            data[draw.integer(data.size)] = draw.integer(256)
    elif kind == 1:
        data[:] = draw.choice([0, 127, 255])
    elif kind == 2:
        shape = [int(np.prod(shape)), *[1] * draw.integer(3)]
    elif kind == 3 and shape:
        size = data.size // max(shape[0], 1)
        shape[0] = draw.integer(2 * shape[0] + 2)
        data = np.resize(data, shape[0] * size)
    elif kind == 4:
        other = draw.choice(sorted(arrays))
        arrays[name], arrays[other] = arrays[other], arrays[name]
        return
    else:
        dtypes = ["F64", "I64", "U8", "BOOL", "BF16", "F32", "I32", "U64", "F16"]
        sizes = dict(zip(dtypes, [8, 8, 1, 1, 2, 4, 4, 8, 2], strict=True))
        dtype = draw.choice(dtypes)
        arrays[name] = array._replace(dtype=dtype, shape=(data.size // sizes[dtype],))
        if data.size % sizes[dtype]:
            del arrays[name]
        return
    arrays[name] = array._replace(shape=tuple(shape), data=data)


def change_bytes(content, draw):
    content = bytearray(content)
    for _ in range(1 + draw.integer(4)):
        place, kind = draw.integer(len(content) or 1), draw.integer(4)
        if kind == 0:
            content[place : place + 1] = bytes([draw.integer(256)])
        elif kind == 1:
            del content[place : place + 1 + draw.integer(64)]
        elif kind == 2:
            content[place:place] = bytes(draw.integer(64))
        else:
            content = content[:place]
    return bytes(content)


def hostile_file(valid, draw, path):
    """Write a changed file; return the data of the estimator, and whether bytes were changed."""
    from skood._files import _container

    content, tree, contents, data = draw.choice(valid)
    if draw.integer(10) == 0:
        changed = change_bytes(content, draw)
        path.write_bytes(changed)
        return data, changed != content
    tree, arrays = copy.deepcopy(tree), dict(contents.arrays)
    for _ in range(1 + draw.integer(3)):
        if draw.integer(3) == 0 and arrays:
            change_arrays(arrays, draw)
        else:
            change_tree(tree, [other for _, other, _, _ in valid], draw)
    metadata = {"card": contents.metadata["card"], "tree": json.dumps(tree)}
    with path.open("wb") as file:
        _container.write(file, metadata, arrays)
    return data, False


class Watch:
    """Audit events while a file is loaded."""

    def __init__(self):
        self.path, self.seen = None, []
        sys.addaudithook(self)

    def __call__(self, event, args):
        if self.path is None or not event.startswith(FORBIDDEN):
            return
        # A number is the descriptor of the file.
        if event == "open" and (isinstance(args[0], int) or str(args[0]) == self.path):
            return
        self.seen.append(f"{event} {args!r:.200}")

    @contextlib.contextmanager
    def loading(self, path):
        self.path, self.seen = str(path), []
        try:
            yield
        finally:
            self.path = None


def attempt(path, data, was_damaged, watch):
    """Load and score a file; return the outcome, and what is wrong with it."""
    import skood

    try:
        with watch.loading(path):
            estimator = skood.load(path)
    except ValueError as error:
        cause = error.__cause__
        wrong = isinstance(cause, (MemoryError, Slow)) or "allocate memory" in str(cause)
        return "refused", f"{cause!r}" if wrong else watch.seen and str(watch.seen)
    if was_damaged:
        return "loaded", "a damaged file was loaded"
    if watch.seen:
        return "loaded", str(watch.seen)
    try:
        estimator.score_samples(data)
    except Slow:
        return "slow to score", None
    except Exception:
        return "loaded, not scored", None
    return "scored", None


class Slow(Exception):
    """Raised after SECONDS."""


def on_alarm(*_):
    raise Slow


class Fuzzer:
    """Makes and tries files, counts outcomes and keeps findings."""

    def __init__(self, folder):
        self.folder = folder
        self.valid = corpus(folder)
        self.watch = Watch()
        self.outcomes, self.findings = collections.Counter(), collections.Counter()
        signal.signal(signal.SIGALRM, on_alarm)
        resource.setrlimit(resource.RLIMIT_DATA, (allocated() + MEMORY,) * 2)

    def run(self, draw):
        path = self.folder / "current.skood"
        data, was_damaged = hostile_file(self.valid, draw, path)
        self.try_file(path, data, was_damaged)

    def try_file(self, path, data, was_damaged):
        signal.alarm(SECONDS)
        faulthandler.dump_traceback_later(3 * SECONDS, exit=True)
        try:
            outcome, wrong = attempt(path, data, was_damaged, self.watch)
        except Exception as error:
            outcome, wrong = "raised", f"{type(error).__name__}: {error!s:.200}"
            traceback.print_exc()
        finally:
            signal.alarm(0)
            faulthandler.cancel_dump_traceback_later()
        self.outcomes[outcome] += 1
        if wrong:
            self.findings[wrong[:60]] += 1
            number = sum(self.findings.values())
            if self.findings[wrong[:60]] <= 3:
                kept = self.folder / f"finding-{number}.skood"
                kept.write_bytes(path.read_bytes())
                print(f"finding: {kept}: {wrong}", flush=True)

    def report(self):
        print(dict(self.outcomes), "findings:", dict(self.findings), flush=True)


def allocated():
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def run_randomly(fuzzer, minutes, seed):
    rng, start, shown = random.Random(seed), time.monotonic(), 0
    while time.monotonic() < start + 60 * minutes:
        fuzzer.run(Draw(rng.randrange))
        if time.monotonic() > start + 60 * shown:
            shown += 1
            fuzzer.report()
    fuzzer.report()


def run_atheris(fuzzer, minutes, seed):
    import atheris

    def one_input(content):
        provider = atheris.FuzzedDataProvider(content)
        fuzzer.run(Draw(lambda n: provider.ConsumeIntInRange(0, n - 1)))
        if sum(fuzzer.outcomes.values()) % 1000 == 0:
            fuzzer.report()

    # Short inputs make few changes: seeds of full length.
    seeds = fuzzer.folder / "seeds"
    seeds.mkdir(exist_ok=True)
    for k in range(50):
        (seeds / str(k)).write_bytes(random.Random(seed + k).randbytes(100))
    limits = [f"-max_total_time={int(60 * minutes)}", "-max_len=100", "-len_control=0"]
    arguments = [sys.argv[0], f"-seed={seed}", "-rss_limit_mb=0", *limits, str(seeds)]
    atheris.Setup(arguments, one_input)
    atheris.Fuzz()


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--minutes", type=float, default=30)
    parser.add_argument("--engine", choices=["random", "atheris"], default="random")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--folder", type=Path, help="for findings; a temporary one otherwise")
    parser.add_argument("--repeat", type=Path, help="a file to try once")
    options = parser.parse_args()
    folder = options.folder or Path(tempfile.mkdtemp())
    folder.mkdir(exist_ok=True)
    warnings.simplefilter("ignore")
    if options.engine == "atheris":
        import atheris

        import skood

        # Imported before, the other parts are not instrumented.
        for name in set(dir(skood)) - {"save", "load", "inspect_file"}:
            getattr(skood, name)
        with atheris.instrument_imports(include=["skood"]):
            importlib.import_module("skood._files")
    fuzzer = Fuzzer(folder)
    if options.repeat:
        for _, _, _, data in fuzzer.valid:
            fuzzer.try_file(options.repeat, data, False)
        fuzzer.report()
    elif options.engine == "random":
        run_randomly(fuzzer, options.minutes, options.seed)
    else:
        run_atheris(fuzzer, options.minutes, options.seed)


if __name__ == "__main__":
    main()
