"""Counts the forward passes per score, for the table of methods."""

from __future__ import annotations

import importlib
import inspect
import warnings
from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
from sklearn.datasets import load_digits
from sklearn.frozen import FrozenEstimator
from torch import nn

import skood
from skood import Diffusion, ShallowConvNet

N_SCORED = 64


def small_images() -> tuple[np.ndarray, np.ndarray]:
    """Return images of 8 x 8 pixels, and their classes."""
    X, y = load_digits(n_class=2, return_X_y=True)
    return (X / 16).astype(np.float32).reshape(-1, 8, 8), y


def passes_of_a_diffusion_model() -> dict[str, str]:
    """Return the passes of a diffusion model per scored image, by the detector's name."""
    X, _ = small_images()
    model = FrozenEstimator(Diffusion(n_filters=(4,), max_steps=1, random_state=0).fit(X))
    found = {}
    for name in ("CCLR", "DiffusionReconstruction", "ScoreNorm"):
        detector = getattr(skood, name)(model).fit(X[:N_SCORED])
        with counted() as rows:
            detector.score_samples(X[:N_SCORED])
        number = round(rows[0] / N_SCORED)
        found[name] = f"{number} passes" if number > 1 else "1 pass"
    return found


def passes() -> dict[str, str]:
    """Return the passes of the network per scored item, by the detector's name.

    They are counted on a small network of 8 x 8 images, with all default parameters.
    """
    X, y = small_images()
    labelled = np.where(np.arange(len(y)) % 4, y, -1)
    network = ShallowConvNet((4, 4), hidden_features=8, learning_rate=0.3, max_epochs=15)
    trained = FrozenEstimator(network.set_params(random_state=0).fit(X, y))
    found = {}
    for part in ("posthoc", "training_time"):
        module = importlib.import_module(f"skood.{part}")
        for name in module.__all__:
            cls = getattr(module, name)
            if not hasattr(cls, "score_samples") or inspect.isabstract(cls):
                continue
            if part == "posthoc" and issubclass(cls, module.ConceptDetector):
                # A classifier cannot be its image tower; texts are encoded in fit.
                found[name] = "1"
                continue
            # DeepEnsemble trains its members.
            takes_trained = part == "posthoc" and name != "DeepEnsemble"
            detector = cls(trained) if takes_trained else cls()
            on_outliers = getattr(cls, "_trains_on_outliers", False)
            with warnings.catch_warnings():
                # Training is too short to converge.
                warnings.simplefilter("ignore")
                detector.fit(X, labelled if on_outliers else y)
            with counted() as rows:
                detector.score_samples(X[:N_SCORED])
            forward, backward = (round(count / N_SCORED) for count in rows)
            assert forward, f"{name} passes no image through a convolution of one channel"
            found[name] = f"{forward} and a gradient" if backward else str(forward)
    return found


@contextmanager
def counted() -> Iterator[list[int]]:
    """Count the items in forward and backward passes through the first convolution."""
    rows = [0, 0]

    def is_first(module: nn.Module) -> bool:
        return isinstance(module, nn.Conv2d) and module.in_channels == 1

    def forwards(module, inputs, output):
        rows[0] += len(inputs[0]) * is_first(module)

    def backwards(module, grad_input, grad_output):
        rows[1] += len(grad_output[0]) * is_first(module)

    hooks = [
        nn.modules.module.register_module_forward_hook(forwards),
        nn.modules.module.register_module_full_backward_hook(backwards),
    ]
    try:
        yield rows
    finally:
        for hook in hooks:
            hook.remove()
