"""Calls with good and bad data on every public estimator, and what each of them ends in."""

import re
import tempfile
import traceback
import warnings
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas
import scipy.sparse
import torch
from estimators import (
    ESTIMATORS,
    tiny_autoencoder,
    tiny_flow,
    tiny_image_flow,
    tiny_mlp,
    tiny_pixelcnn,
    tiny_vae,
)
from sklearn.base import clone
from sklearn.neighbors import KernelDensity
from torch import nn
from torch.utils.data import Dataset

import skood
from skood.calibration._base import CalibratedDetector

N_FEATURES = 4
SIDE = 8


def dense():
    return nn.Sequential(nn.Linear(N_FEATURES, 6), nn.ReLU(), nn.Linear(6, 2))


def convolutional():
    layers = nn.Conv2d(1, 3, 3), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten()
    return nn.Sequential(*layers, nn.Linear(3, 2))


def tiny_convnet():
    return skood.ConvNet((4,), max_epochs=1)


def quick(estimator):
    """Copy that is trained for one epoch."""
    estimator = clone(estimator)
    epochs = [name for name in estimator.get_params() if name.split("__")[-1] == "max_epochs"]
    return estimator.set_params(**dict.fromkeys(epochs, 1))


OF_IMAGES = [
    tiny_convnet(),
    skood.Airbench((4, 6, 6), max_epochs=1),
    skood.DenseNet(10, 2, max_epochs=1),
    skood.ResNet(max_epochs=1),
    skood.ShallowConvNet(max_epochs=1),
    skood.VGG(max_epochs=1),
    skood.WideResNet(10, 1, max_epochs=1),
    tiny_pixelcnn(image_shape=None, value_range=None),
    tiny_vae(),
    tiny_autoencoder(),
    skood.LogLikelihood(tiny_pixelcnn(image_shape=None, value_range=None)),
    skood.LikelihoodRatio(tiny_pixelcnn(image_shape=None, value_range=None)),
    tiny_image_flow(image_shape=None, value_range=None),
    skood.LocalIntrinsicDimension(tiny_image_flow(image_shape=None, value_range=None)),
    skood.Diffusion((4, 8), 1, n_steps=1, max_epochs=1),
    skood.DiffusionReconstruction(skood.Diffusion((4,), 1, n_steps=1, max_epochs=1), times=(0.1,)),
    skood.ApproximateMass(tiny_image_flow(image_shape=None, value_range=None)),
    skood.DensityOfStates(tiny_vae()),
    skood.DensityOfStates(tiny_pixelcnn(image_shape=None, value_range=None), estimator="svm"),
    skood.LatentNorm(tiny_image_flow(image_shape=None, value_range=None), statistic="shell"),
    skood.BoundarySampler(tiny_vae()),
    skood.MSP(tiny_convnet()),
    skood.ODIN(tiny_convnet()),
    skood.Gram(tiny_convnet()),
    skood.RankFeat(tiny_convnet()),
    skood.OODGen(tiny_convnet(), tiny_vae(conditional=True)),
]
PRETRAINED = [
    lambda: skood.PretrainedClassifier(dense()),
    lambda: skood.PretrainedClassifier(convolutional(), image_shape=(1, SIDE, SIDE)),
    lambda: skood.PretrainedClassifier(convolutional(), mean=[0.1], std=[0.5], classes=["a", "b"]),
    lambda: skood.FeatureExtractor(dense()),
    lambda: skood.MSP(dense()),
    lambda: skood.MSP(convolutional()),
    lambda: skood.ViM(dense(), n_components=2),
    lambda: skood.Mahalanobis(convolutional()),
    lambda: skood.SHE(dense()),
]
OF_DETECTORS = [
    skood.ConformalDetector(skood.GMM()),
    skood.ConformalDetector(skood.LogLikelihood(KernelDensity()), method="cross", n_splits=2),
    skood.ConformalDetector(skood.MSP(tiny_mlp()), class_conditional=True),
    skood.EnsembleDetector([("a", skood.GMM()), ("b", skood.MSP(tiny_mlp()))]),
    skood.TunedThreshold(skood.LogLikelihood(tiny_flow())),
    skood.TunedThreshold(skood.GMM(), "f1"),
    skood.InlierFit(skood.GMM()),
]
# Functions, since a bare module in a detector is shared by its clones.
SUBJECTS = [
    *[lambda e=e: quick(e) for e in [*ESTIMATORS, *OF_IMAGES, *OF_DETECTORS]],
    *PRETRAINED,
]


class Items(Dataset):
    """Items of an array with their labels; one of them may not be read."""

    def __init__(self, data, unreadable=None):
        self.data, self.unreadable = data, unreadable

    def __len__(self):
        return len(self.data)

    def __getitem__(self, index):
        if index == self.unreadable:
            raise OSError("truncated file")
        return self.data[index], 0


def memmap(data):
    # The mapping outlives the file, which goes at once.
    with tempfile.TemporaryFile() as file:
        mapped = np.memmap(file, data.dtype, "w+", shape=data.shape)
    mapped[:] = data
    return mapped


def frame(data, names=None):
    rows = np.asarray(data).reshape(len(data), -1)
    names = [f"x{j}" for j in range(rows.shape[1])] if names is None else names(rows.shape[1])
    return pandas.DataFrame(rows, columns=names)


def frame_of_strings(data):
    columns = frame(data)
    return columns.assign(x0="a")


def tensor(data):
    return torch.from_numpy(np.ascontiguousarray(data))


SHAPES = {
    "rows": lambda n: (n, N_FEATURES),
    "images": lambda n: (n, 1, SIDE, SIDE),
    "grey images": lambda n: (n, SIDE, SIDE),
    "colour images": lambda n: (n, 3, SIDE, SIDE),
    "flat images": lambda n: (n, SIDE * SIDE),
    "1-D": lambda n: (n,),
    "5-D": lambda n: (n, 1, 2, 2, 2),
    "no features": lambda n: (n, 0),
    "one feature": lambda n: (n, 1),
}
SIZES = [0, 1, 2, 3, 7, 20, 20, 20, 20, 130]
VALUES = {
    "unit": lambda x: x,
    "uniform": lambda x: x,
    "constant": lambda x: np.full_like(x, 0.25),
    "zero": np.zeros_like,
    "one constant column": lambda x: np.where(np.arange(x.shape[-1]) if x.ndim else 0, x, 0.5),
    "duplicates": lambda x: np.repeat(x[: (len(x) + 1) // 2], 2, axis=0)[: len(x)],
    "1e30": lambda x: (x - 0.5) * 1e30,
    "1e300": lambda x: (x - 0.5) * 1e300,
    "one row of 1e30": lambda x: np.concatenate([x[:-1], x[-1:] * 1e30]),
    "subnormal": lambda x: x * 1e-310,
    "far": lambda x: x + 1e8,
    "NaN": lambda x: np.where(x > 0.9, np.nan, x),
    "infinity": lambda x: np.where(x > 0.9, np.inf, x),
}
DTYPES = {
    **{name: np.dtype(name).type for name in ("float64", "float32", "float16", "int64", "uint8")},
    "bool": np.bool_,
    "object": np.object_,
}
CONTAINERS = {
    "array": lambda x: x,
    "list": lambda x: x.tolist(),
    "tensor": tensor,
    "tensor with gradient": lambda x: tensor(x).clone().requires_grad_(x.dtype.kind == "f"),
    "bfloat16": lambda x: tensor(x).to(torch.bfloat16),
    "frame": frame,
    "frame of repeated names": lambda x: frame(x, lambda d: ["a"] * d),
    "frame of strings": frame_of_strings,
    "Dataset": Items,
    "Dataset with an unreadable item": lambda x: Items(x, len(x) - 1),
    "memmap": memmap,
    "Fortran order": np.asfortranarray,
    "strings": lambda x: x.astype(str),
    "objects with a string": lambda x: np.where(np.arange(x.size).reshape(x.shape), x, "a"),
    "sparse": lambda x: scipy.sparse.csr_matrix(x.reshape(len(x), -1)),
    "complex": lambda x: x.astype(complex),
    "None": lambda x: None,
    "ragged": lambda x: [*x.tolist(), [0.0]],
}


def two_classes(n):
    return np.arange(n) % 2


LABELS = {
    "None": lambda n: None,
    "ints": two_classes,
    "strings": lambda n: np.array(["a", "b"])[two_classes(n)],
    "list of strings": lambda n: np.array(["a", "b"])[two_classes(n)].tolist(),
    "objects": lambda n: np.array(["a", "b"], dtype=object)[two_classes(n)],
    "floats": lambda n: two_classes(n).astype(float),
    "booleans": lambda n: two_classes(n) == 1,
    "known outliers": lambda n: np.where(np.arange(n) % 5 == 4, -1, two_classes(n)),
    "single class": np.zeros,
    "all outliers": lambda n: -np.ones(n),
    "a class a row": np.arange,
    "mixed": lambda n: ["a", 1, 2.5][: n % 4] + [0] * max(0, n - 3),
    "with None": lambda n: [None, 1] * (n // 2) + [0] * (n % 2),
    "with NA": lambda n: pandas.Series([pandas.NA, 1] * (n // 2) + [0] * (n % 2), dtype=object),
    "nullable": lambda n: pandas.Series(two_classes(n), dtype="Int64"),
    "nullable with NA": lambda n: pandas.Series([pandas.NA] * n, dtype="Int64"),
    "dates": lambda n: pandas.date_range("2020", periods=n),
    "with NaT": lambda n: [pandas.NaT] * n,
    "fractions": lambda n: np.linspace(0, 1, n),
    "NaN": lambda n: np.full(n, np.nan),
    "tensor": lambda n: torch.arange(n) % 2,
    "tensor with gradient": lambda n: (torch.arange(n) % 2.0).requires_grad_(),
    "column": lambda n: two_classes(n)[:, None],
    "2-D": lambda n: np.zeros((n, 2)),
    "wrong length": lambda n: two_classes(n + 1),
    "bytes": lambda n: np.array([b"a", b"b"])[two_classes(n)],
    "scalar": lambda n: 1,
}
# What is scored is like what was fitted, but for what a name says.
CHANGES = {
    "nothing": {},
    "far": {"values": "1e30"},
    "beyond": {"values": "1e300"},
    "subnormal": {"values": "subnormal"},
    "NaN": {"values": "NaN"},
    "one row": {"n_items": 1},
    "no rows": {"n_items": 0},
    "one feature": {"shape": "one feature"},
    "rows": {"shape": "rows"},
    "images": {"shape": "images"},
    "unreadable": {"container": "Dataset with an unreadable item"},
    "frame": {"container": "frame"},
    "uint8": {"dtype": "uint8"},
}


@dataclass(frozen=True)
class Data:
    """Recipe of an X."""

    shape: str = "rows"
    n_items: int = 20
    values: str = "unit"
    dtype: str = "float64"
    container: str = "array"

    def make(self, rng):
        with np.errstate(all="ignore"):
            X = VALUES[self.values](rng.random(SHAPES[self.shape](self.n_items)))
            X = X * 255 if self.dtype == "uint8" else X
            return CONTAINERS[self.container](X.astype(DTYPES[self.dtype]))


@dataclass(frozen=True)
class Case:
    """A call of fit and what follows it; its repr makes it again."""

    subject: int
    data: Data
    labels: str
    change: str
    seed: int

    def run(self):
        """Return "result", "clear error" or "anything else", and what happened."""
        rng = np.random.default_rng(self.seed)
        try:
            X, new = self.data.make(rng), self.scored().make(rng)
            y = LABELS[self.labels](self.data.n_items)
        except Exception:
            return "not made", ""
        torch.manual_seed(self.seed)
        estimator = SUBJECTS[self.subject]()
        if "random_state" in estimator.get_params():
            estimator.set_params(random_state=self.seed)
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                fault = _fault(estimator.fit(X, y), new)
        except Exception as error:
            fault = unclear(estimator, error)
            verdict = "clear error" if fault is None else "anything else"
            return verdict, fault or f"{type(error).__name__}: {error}"
        return ("result", "") if fault is None else ("anything else", fault)

    def scored(self):
        return Data(**{**vars(self.data), **CHANGES[self.change]})

    def __str__(self):
        return f"{self!r} of {SUBJECTS[self.subject]()!r}"


# Methods whose results may be -inf.
SCORES = "score_samples", "decision_function"


def _fault(fitted, new):
    """Say what is wrong with the results of a fitted estimator, or None."""
    offset = getattr(fitted, "offset_", 0.0)
    if np.isnan(offset) or (np.isinf(offset) and not isinstance(fitted, CalibratedDetector)):
        return f"offset_ is {offset}"
    if hasattr(fitted, "sample_on_manifold"):
        results = {"sample_on_manifold": fitted.sample_on_manifold(2)}
        results["sample_off_manifold"] = fitted.sample_off_manifold(new)
    else:
        methods = "score_samples", "decision_function", "predict_proba", "transform", "predict"
        results = {name: getattr(fitted, name)(new) for name in methods if hasattr(fitted, name)}
    for name, values in results.items():
        values = np.asarray(values)
        if values.dtype.kind != "f" or np.isfinite(values).all():
            continue
        # A row that is impossible, which is so far from all others that no number tells how far.
        if name in SCORES and (np.isfinite(values) | np.isneginf(values)).all():
            continue
        if isinstance(fitted, CalibratedDetector) and np.isinf(offset) and name.startswith("dec"):
            continue
        kinds = sorted({str(value) for value in values[~np.isfinite(values)].ravel()})
        return f"{name} gives {', '.join(kinds)}"
    return None


# Where an error is raised on purpose, and about an argument.
_OURS = str(Path(skood.__file__).parent)
_CHECKS = re.compile(r"sklearn.utils.(validation|_param_validation|multiclass)|sklearn.base")


def unclear(estimator, error):
    """Say why an error is none that helps a user, or None if it does."""
    frame = traceback.extract_tb(error.__traceback__)[-1]
    where = f"{type(error).__name__} at {frame.filename}:{frame.lineno}: {error}"
    # The training loop stops where the loss is no number.
    if not isinstance(error, (ValueError, TypeError, FloatingPointError)):
        return where
    if _CHECKS.search(re.sub(r"[\\/]", ".", frame.filename)):
        return None
    if not frame.filename.startswith(_OURS):
        return where
    parameters = {name.split("__")[-1] for name in estimator.get_params()}
    named = set(re.findall(r"\w+", str(error)))
    return None if named & {"X", "y", "X_val", "y_val", *parameters} else f"names nothing: {where}"


# What each part of a case may be, and what most users would give.
PARTS = {
    "shape": (list(SHAPES), ["rows", "images"]),
    "n_items": (SIZES, [20]),
    "values": (list(VALUES), ["unit"]),
    "dtype": (list(DTYPES), ["float64"]),
    "container": (list(CONTAINERS), ["array"]),
    "labels": (list(LABELS), ["ints"]),
    "change": (list(CHANGES), ["nothing"]),
}


def case_of(subject, seed, labels, change, **data):
    return Case(subject, Data(**data), labels, change, seed)


def draw(rng):
    """Draw a case, three quarters of whose parts are usual ones."""
    parts = {}
    for name, (choices, usual) in PARTS.items():
        options = usual if rng.random() < 0.75 else choices
        parts[name] = options[rng.integers(len(options))]
    return case_of(int(rng.integers(len(SUBJECTS))), int(rng.integers(2**31)), **parts)
