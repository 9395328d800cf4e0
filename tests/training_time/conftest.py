import signal

import numpy as np
import pytest
import torch
from sklearn.base import clone
from sklearn.datasets import load_digits, load_iris

from skood.classifiers import _base as classifiers_base


@pytest.fixture(scope="session")
def iris():
    return load_iris(return_X_y=True)


@pytest.fixture(scope="session")
def kinds_of_digits():
    """Images (n, 8, 8) of digits with values in [0, 1]: digits 0 to 4, 5 to 7, 8 and 9.

    The even rows, with their labels, and the odd rows.
    """
    data = load_digits()
    images, label = (data.images / 16).astype(np.float32), data.target
    kinds = [label < 5, (label >= 5) & (label < 8), label >= 8]
    even = np.arange(len(label)) % 2 == 0
    return [tuple((images[k & part], label[k & part]) for k in kinds) for part in (even, ~even)]


@pytest.fixture
def objective_of(monkeypatch):
    """Function that returns the objective of a detector, and its rows, at the first step."""

    class Reached(Exception):
        pass

    def objective_of(detector, X, y):
        seen = []

        def stop(objective, training, validation, *args, **kwargs):
            seen.append((objective.train(), training, validation))
            raise Reached

        with monkeypatch.context() as patched, pytest.raises(Reached):
            patched.setattr(classifiers_base, "train", stop)
            clone(detector).fit(X, y)
        return seen[0]

    return objective_of


@pytest.fixture
def resumed(monkeypatch):
    """Function that fits a detector, interrupted after a step of its network, and resumes it."""

    def resumed(detector, X, y, step, folder):
        network = detector._architecture
        settings = {"checkpoint_dir": folder, "random_state": 0}
        detector = clone(detector).set_params(**{f"{network}__{k}": v for k, v in settings.items()})
        is_adam = getattr(detector, network).optimizer == "adam"
        optimizer = torch.optim.Adam if is_adam else torch.optim.SGD
        original, steps = optimizer.step, []

        def interrupted(self, *args, **kwargs):
            original(self, *args, **kwargs)
            steps.append(1)
            if len(steps) == step:
                # As Ctrl-C does, which waits for the end of the step.
                signal.raise_signal(signal.SIGINT)

        with monkeypatch.context() as patched, pytest.warns(UserWarning, match="interrupted"):
            patched.setattr(optimizer, "step", interrupted)
            clone(detector).fit(X, y)
        assert len(steps) == step
        return clone(detector).fit(X, y)

    return resumed
