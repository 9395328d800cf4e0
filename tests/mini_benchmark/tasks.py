"""Six tiny real tasks: data of scikit-learn, and the stored networks that score them."""

from __future__ import annotations

import inspect
import warnings
from collections.abc import Callable, Iterator
from functools import cache
from pathlib import Path
from time import process_time
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
from sklearn.base import BaseEstimator
from sklearn.datasets import load_breast_cancer, load_digits, load_sample_image, load_wine
from sklearn.frozen import FrozenEstimator
from sklearn.model_selection import train_test_split

import skood
from skood.metrics import auroc

NETWORKS = Path(__file__).parent / "networks"
# They train networks of their own, or read what these tasks do not have.
LEFT_OUT = {"DeepEnsemble", "LikelihoodRatio", "MCDropout", "TwoStep", "WAIC"}

# The parameters that take a model.
MODELS = {"classifier", "features", "density"}


class Data(NamedTuple):
    """Rows for fitting with their labels, and in- and out-of-distribution rows for the test."""

    X: npt.NDArray
    y: npt.NDArray | None
    inliers: npt.NDArray
    outliers: npt.NDArray


class Task(NamedTuple):
    """Data, and the estimator whose training on ``data().X`` is stored under `network`."""

    name: str
    network: str
    data: Callable[[], Data]
    estimator: BaseEstimator
    package: str


def without_classes(load: Callable, *classes: int) -> Callable[[], Data]:
    """Return data whose OOD rows have the given classes."""

    def data() -> Data:
        X, y = load(return_X_y=True)
        known = ~np.isin(y, classes)
        X_fit, inliers, y_fit, _ = train_test_split(
            X[known], y[known], test_size=0.3, random_state=0, stratify=y[known]
        )
        return Data(X_fit, y_fit, inliers, X[~known])

    return data


def one_class(load: Callable, inlier_class: int) -> Callable[[], Data]:
    """Return data without labels, whose OOD rows are all other classes."""

    def data() -> Data:
        X, y = load(return_X_y=True)
        X_fit, inliers = train_test_split(X[y == inlier_class], test_size=0.3, random_state=0)
        return Data(X_fit, None, inliers, X[y != inlier_class])

    return data


def patches(name: str, n: int) -> npt.NDArray:
    """Return `n` grey patches of a photograph, (n, 8, 8), from 0 to 16 as digits have."""
    image = (load_sample_image(name).mean(-1)[::4, ::4] / 255 * 16).round()
    windows = np.lib.stride_tricks.sliding_window_view(image, (8, 8)).reshape(-1, 8, 8)
    return windows[np.random.default_rng(0).permutation(len(windows))[:n]]


def digit_images() -> Data:
    images, y = load_digits().images, load_digits().target
    X, inliers, y, _ = train_test_split(images, y, test_size=0.3, random_state=0, stratify=y)
    return Data(X, y, inliers, patches("china.jpg", 500))


def photographs() -> Data:
    flower = patches("flower.jpg", 1100)
    return Data(flower[:1000], None, flower[1000:], patches("china.jpg", 100))


PIXELS = {"value_range": (0, 16)}
TASKS = (
    Task(
        "digits without 8 and 9",
        "digits",
        without_classes(load_digits, 8, 9),
        skood.MLP((64, 32), max_epochs=30, random_state=0),
        "posthoc",
    ),
    Task(
        "digits, photograph",
        "digit_images",
        digit_images,
        skood.ConvNet((8, 16, 32), max_epochs=20, random_state=0, **PIXELS),
        "posthoc",
    ),
    Task(
        "wine without 2",
        "wine",
        without_classes(load_wine, 2),
        skood.MLP((32, 16), max_epochs=50, random_state=0),
        "posthoc",
    ),
    Task(
        "breast cancer, benign",
        "cancer",
        one_class(load_breast_cancer, 1),
        skood.NeuralSplineFlow(
            n_transforms=2, n_bins=4, hidden_features=(32,), max_epochs=30, random_state=0
        ),
        "likelihood",
    ),
    Task(
        "flower, china",
        "photographs",
        photographs,
        skood.VAE(
            8,
            n_filters=(8, 16),
            max_epochs=20,
            n_importance_samples=4,
            n_levels=17,
            random_state=0,
            **PIXELS,
        ),
        "likelihood",
    ),
    Task(
        "wine, class 1",
        "one_wine",
        one_class(load_wine, 1),
        skood.Diffusion(n_blocks=1, hidden_features=16, n_steps=4, max_epochs=100, random_state=0),
        "likelihood",
    ),
)


class Row(NamedTuple):
    """A detector on a task: its AUROC, or the reason why there is none, and seconds."""

    task: str
    detector: str
    auroc: float | None
    reason: str
    seconds: float


@cache
def _data(task: Task) -> Data:
    return task.data()


def detectors(task: Task) -> dict[str, type]:
    """Return the detectors of a part of the package that take one model."""
    part = getattr(skood, task.package)
    found = {name: getattr(part, name) for name in part.__all__ if name not in LEFT_OUT}
    return {
        name: cls
        for name, cls in sorted(found.items())
        if hasattr(cls, "score_samples")
        and not inspect.isabstract(cls)
        and MODELS & set(inspect.signature(cls).parameters)
        and not required(cls) - MODELS
    }


def required(cls: type) -> set[str]:
    """Return the names of the parameters that have no default."""
    parameters = inspect.signature(cls).parameters.values()
    return {p.name for p in parameters if p.default is inspect.Parameter.empty}


def run(task: Task) -> Iterator[Row]:
    """Fit and measure every detector on a task."""
    model = FrozenEstimator(skood.load(NETWORKS / f"{task.network}.skood"))
    data = _data(task)
    truth = np.repeat([1, -1], [len(data.inliers), len(data.outliers)])
    for name, cls in detectors(task).items():
        place = MODELS & set(inspect.signature(cls).parameters)
        detector = cls(**{place.pop(): model})
        if "random_state" in detector.get_params(deep=False):
            detector.set_params(random_state=0)
        start = process_time()
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                detector.fit(data.X, data.y)
                scores = detector.score_samples(np.concatenate([data.inliers, data.outliers]))
        except (TypeError, ValueError) as error:
            yield Row(task.name, name, None, str(error), process_time() - start)
        else:
            yield Row(task.name, name, auroc(truth, scores), "", process_time() - start)
